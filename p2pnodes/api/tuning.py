"""What an operator changes of a running daemon without touching what it holds: how much it logs, whom it refuses.

``GET /log`` says from which level on the daemon logs, ``POST /log`` changes it for a while. ``GET /bans`` lists who is
refused and why, ``POST /bans`` refuses a peer, ``POST /bans/lift`` has one back. ``admin_schemas`` has the bodies. As
everything that changes something, the POSTs are taken on the Unix socket alone; none of it outlives the process.
"""

from typing import Any, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel

from p2pnodes.api.admin_schemas import BanBody, LiftBody, LogBody
from p2pnodes.api.errors import ApiError, json_response
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

Body = TypeVar("Body", bound=BaseModel)


class ReadBody(Protocol):
    """Reads a request's body, of bounded size and time, as a model."""

    async def __call__(self, request: web.Request, model: type[Body], /) -> Body:
        """The body; raises ApiError where it is none."""


class Tunable(Protocol):
    """What these routes may ask of a running daemon."""

    def log_level(self) -> dict[str, Any]:
        """``LogLevel.status``."""

    def set_log_level(self, level: str | None, logger: str | None, for_s: int | None) -> None:
        """Log from another level on, or for None as configured; see ``LogLevel.set``.

        Raises:
            P2PNodesError: There is no such logger, or too much is changed already.
        """

    def bans(self) -> list[dict[str, Any]]:
        """Who is refused for a while; see ``Driver.bans``."""

    def ban(self, key: bytes, reason: str, ban_s: int, *, is_node_key: bool) -> dict[str, Any]:
        """Refuse a peer; see ``Driver.ban``.

        Raises:
            P2PNodesError: It is this daemon itself, or too many are refused.
        """

    def lift_ban(self, key: bytes) -> bool:
        """End a peer's bans; whether there were any."""


class Tuning:
    """The routes."""

    def __init__(self, view: Tunable, read: ReadBody) -> None:
        """Serve a daemon."""
        self._view = view
        self._read = read

    def add_to(self, app: web.Application) -> None:
        """Add the routes to the operator's interface."""
        app.router.add_get("/log", self._log)
        app.router.add_post("/log", self._set_log)
        app.router.add_get("/bans", self._bans)
        app.router.add_post("/bans", self._ban)
        app.router.add_post("/bans/lift", self._lift)

    async def _log(self, _: web.Request) -> web.Response:
        return json_response(200, self._view.log_level())

    async def _set_log(self, request: web.Request) -> web.Response:
        body = await self._read(request, LogBody)
        try:
            self._view.set_log_level(body.level, body.logger, body.for_s)
        except P2PNodesError as error:
            raise _refused(error) from error
        return json_response(200, self._view.log_level())

    async def _bans(self, _: web.Request) -> web.Response:
        return json_response(200, self._view.bans())

    async def _ban(self, request: web.Request) -> web.Response:
        body = await self._read(request, BanBody)
        try:
            ban = self._view.ban(body.key.value, body.reason, body.for_s, is_node_key=body.key.is_node_key)
            return json_response(200, ban)
        except P2PNodesError as error:
            raise _refused(error) from error

    async def _lift(self, request: web.Request) -> web.Response:
        body = await self._read(request, LiftBody)
        if not self._view.lift_ban(body.key.value):
            raise ApiError(404, "this peer is not banned here; see `p2pnodes bans`", code=Code.ADMIN_UNKNOWN)
        return json_response(200, {"lifted": True})


def _refused(error: P2PNodesError) -> ApiError:
    """What cannot be done: 404 for what is not known, 409 for what cannot be now."""
    return ApiError(404 if error.code == Code.ADMIN_UNKNOWN else 409, str(error), code=error.code)
