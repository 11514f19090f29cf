"""The operator's interface: what this daemon holds and does, on a Unix socket and (if asked, to read) on loopback.

Routes to read: ``/status``, ``/peers``, ``/nodes``, ``/claims``, ``/verdicts``, ``/placements``, ``/events``,
``/forks``, ``/keys/request``, ``/metrics`` and ``/healthz``; ``/claims/{id}`` and ``/nodes/{uuid}`` explain one claim
and one GPU, ``/proof/{uuid}`` proves one to others. Answers are JSON, that of ``/metrics`` is Prometheus text. The
lists take ``limit`` (1 to 10,000; 100 unless told) and the columns of their view as filters:
``/claims?status=pending&limit=10``. For people who look there are ``/overview``, ``/electorate``, ``/inventory`` (pages
of the inventory, searched and sorted) and ``/pending`` (claims whose vote is open, with whose turn it is); the console
at ``/console`` shows what all of these answer. ``/events/stream`` goes on telling what ``/events`` lists, see ``tail``.

``/log`` and ``/bans`` show what ``tuning`` changes.

Routes that change something: ``POST /place``, ``/release``, ``/verify``, ``/keys/rotate``, ``/keys/revoke``,
``/keys/close``, ``/log``, ``/bans`` and ``/bans/lift`` (``admin_schemas`` has their bodies). They are taken on the Unix
socket alone, from whom its mode 0660 lets in; nothing here is a secret from those.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError

from p2pnodes.api import explanations
from p2pnodes.api.admin_schemas import PlaceBody, ReleaseBody, RevokeBody, VerifyBody
from p2pnodes.api.bodies import read_body
from p2pnodes.api.browser import (
    BUSY_RETRY_S,
    FILTER_CHARS_MAX,
    LOOKS_KEY,
    PENDING_DEFAULT,
    STATUSES,
    Look,
    Looks,
    look,
    pending_after,
)
from p2pnodes.api.errors import (
    CODED_KEY,
    STORE_FAILURES_KEY,
    ApiError,
    answer_errors,
    echo,
    invalid_values,
    json_response,
)
from p2pnodes.api.limits import Places
from p2pnodes.api.naming import UUID_SEGMENT, claim_id, node, unknown_claim
from p2pnodes.api.origin import over_unix
from p2pnodes.api.parameters import boolean, choice, integer, once
from p2pnodes.api.tail import STATES, TAIL_KEY, EventTail
from p2pnodes.api.tuning import Tunable, Tuning
from p2pnodes.chain.delegation import DAYS_MAX, parse_closing
from p2pnodes.connections import DoorSite, Listening
from p2pnodes.inbound import make_runner, why_not
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.model.events import FINDINGS, Close, LogId
from p2pnodes.model.inventory import Chute
from p2pnodes.model.proof import ProofError
from p2pnodes.store.browse import PENDING_MAX
from p2pnodes.store.placing import NotPlacedError, Placed, UnknownGpusError
from p2pnodes.throttle import store_failures

ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 10_000
DAYS_DEFAULT: Final = 30
"""Days for which a delegation is requested unless told, those of the setting ``delegation_days``."""

SOCKET_MODE: Final = 0o660
BODY_BYTES_MAX: Final = 64 * 1024
"""Bound of a body: 512 GPUs of 64 characters and four labels take about 40 KiB."""

BODY_S_MAX: Final = 10.0
"""Seconds within which a body must have arrived."""

SHUTDOWN_S: Final = 1.0
"""Seconds that answers in progress get when the daemon stops."""

TCP_CONNECTIONS_MAX: Final = 64
"""Connections over TCP at once, event streams aside: any login can make them, so the one that was quiet the longest
makes room. On the Unix socket they are not bounded: its mode says who may."""

TCP_REQUESTS_MAX: Final = 64
"""Requests over TCP that are served at once, event streams aside. Those whose clients have left are served to their end
and count: else there would be as many as somebody likes."""

TCP_BACKLOG: Final = 32
"""Connections over TCP that wait to be accepted: as many files are taken at most before anybody makes room."""

_SOCKET_PATH_BYTES_MAX: Final = 107
"""Linux keeps 108 bytes for the path of a Unix socket, the last of them a NUL."""

_TAIL_PATH: Final = "/events/stream"
_READING: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")


class DaemonView(Tunable, Protocol):
    """What the operator's interface may ask of a running daemon."""

    def status(self) -> dict[str, Any]:
        """The daemon at a glance, JSON-able; new keys may come at any time."""

    def peers(self) -> list[dict[str, Any]]:
        """Known peers, JSON-able: at least ``hotkey``, ``url`` and ``connected`` (whether a session is up)."""

    async def query(
        self,
        view: str,
        where: Mapping[str, str],
        limit: int,
        *,
        after: int | None = None,
        until: int | None = None,
        newest_first: bool = False,
    ) -> list[dict[str, Any]]:
        """Rows of one of the operators' views (``store/views.sql``), see ``Database.query``.

        Args:
            view: ``inventory``, ``claims``, ``verdicts``, ``placements`` or ``event_log``.
            where: Column -> exact value.
            limit: Rows at most.
            after: For ``event_log``: only events behind this position.
            until: For ``event_log``: only events up to this position.
            newest_first: For ``event_log``: from the newest back.
        """

    async def find_claim(self, prefix: bytes, miner: bytes | None) -> bytes | None:
        """Id of the claim that begins with ``prefix`` (16 or 32 bytes) and is this miner's, or anybody's for None."""

    async def claim(self, claim_id: bytes) -> dict[str, Any] | None:
        """Why a claim is where it is, ``explanations.claim``, and its ``turns`` and ``own_check``; None when unknown.

        ``turns`` is a list of ``{validator, rank, begins_at, state}``, see ``explanations.turns``; ``own_check`` is
        what this validator's book says of the claim, see ``explanations.check``.
        """

    async def node(self, uuid: str) -> dict[str, Any] | None:
        """Why a GPU has the row that it has, ``explanations.node``; None when nothing is known of it."""

    async def overview(self) -> dict[str, Any]:
        """The daemon on one page, ``overview.overview``."""

    async def models(self) -> list[str]:
        """Names of the models of GPUs, ``Browser.models``."""

    async def electorate(self) -> dict[str, Any]:
        """Who votes, and with what, ``voters.electorate``."""

    async def inventory(self, look: Look) -> dict[str, Any]:
        """A page of the inventory, ``Browser.page``.

        Raises:
            ApiError: 503: it takes too long, or too many others look.
        """

    async def pending(self, limit: int, after: tuple[int, bytes] | None) -> dict[str, Any]:
        """Claims whose vote is open with their turns, ``browser.pending_json``; raises as ``inventory``."""

    async def place(self, uuids: Sequence[str], chute: Chute) -> Placed:
        """Say that a chute runs on GPUs; see ``store.placing.place``."""

    async def release(self, uuids: Sequence[str]) -> Placed:
        """Say that nothing runs on GPUs any more; see ``store.placing.release``."""

    async def verify(self, claim_id: bytes) -> dict[str, Any]:
        """Check a claim that ``find_claim`` found now, out of turn.

        Returns:
            ``finding`` (``verified``, ``failed``, ``abstain``, or ``unavailable`` when this validator could not
            check), ``method``, ``detail``, ``seconds``, and whether a verdict was ``published``.

        Raises:
            P2PNodesError: It cannot be checked now, and why.
        """

    async def forks(self) -> list[dict[str, Any]]:
        """Every log that is known to end.

        Returns:
            ``log`` (node key/number), ``hotkey``, whether it is an ``own`` one, the ``fork``'s seq or None, how many
            ``good_events`` are left, whether it was ``closed``, ``seen_at`` (Unix seconds), and the signed ``proof``.
        """

    def key_request(self, days: int) -> dict[str, Any]:
        """What the hotkey is to sign next where it is, for so many days: a request as ``chain.delegation`` has it."""

    async def rotate_key(self) -> dict[str, Any]:
        """Replace the node key: the new ``node_key`` (hex), its ``log``, and the log that it ``closed``, or None.

        Raises:
            P2PNodesError: It cannot be done now, and why; nothing has changed.
        """

    async def revoke(self, log_id: LogId | None, last: int | None) -> dict[str, Any]:
        """Close a log at its last good event: the ``log``, its ``good_events``, and the log it is ``closed_by``.

        Args:
            log_id: The log; None for the own one, whose node key is then replaced.
            last: Seq of its last good event, -1 for none, None for the last that counts.

        Raises:
            P2PNodesError: It cannot be done now, and why.
        """

    async def publish_closing(self, close: Close) -> dict[str, Any]:
        """Write a closing that was signed elsewhere: the ``log`` and its ``good_events``.

        Raises:
            P2PNodesError: It is not signed by the log's hotkey, or nothing can be written now.
        """

    async def proof(self, uuid: str) -> dict[str, Any] | None:
        """A proof that a GPU was registered and verified (``docs/proof.md``), JSON-able; None for an unknown GPU.

        Raises:
            ProofError: The events that are held do not prove it.
        """


class _List(NamedTuple):
    view: str
    filters: frozenset[str]
    ordered: bool = False


_CHOICES: Final = {"status": STATUSES, "finding": sorted(FINDINGS), "state": STATES}
"""What some filters can find, in whichever list; anything else is a slip, and no empty list."""


_LISTS: Final = {
    "/nodes": _List(
        "inventory", frozenset({"uuid", "hotkey", "claim_id", "status", "gpu_identifier", "server_id", "chute_id"})
    ),
    "/claims": _List("claims", frozenset({"claim_id", "task_id", "hotkey", "status"})),
    "/verdicts": _List("verdicts", frozenset({"claim_id", "validator", "finding", "method"})),
    "/placements": _List("placements", frozenset({"uuid", "claim_id", "validator"})),
    "/events": _List("event_log", frozenset({"node_key", "number", "id", "kind", "author", "state"}), ordered=True),
}

VIEW_KEY: Final = web.AppKey("view", DaemonView)
REGISTRY_KEY: Final = web.AppKey("registry", CollectorRegistry)


def create_admin_app(view: DaemonView, registry: CollectorRegistry, *, console: bool = True) -> web.Application:
    """The interface as an application.

    Args:
        view: The running daemon.
        registry: Its metrics.
        console: Whether the pages are among it; with their templates they take some 6 MB.

    Returns:
        The application; whoever stores events tells it so by ``app[TAIL_KEY].committed``.
    """
    app = web.Application(middlewares=[answer_errors, _local_only, _bounded(Places())], client_max_size=BODY_BYTES_MAX)
    app[VIEW_KEY] = view
    app[CODED_KEY] = True
    app[STORE_FAILURES_KEY] = store_failures()
    app[REGISTRY_KEY] = registry
    app[LOOKS_KEY] = Looks()
    app[TAIL_KEY] = EventTail(view.query)
    app.on_shutdown.append(app[TAIL_KEY].stop)
    app.router.add_get("/status", _status)
    app.router.add_get("/peers", _peers)
    app.router.add_get("/forks", _forks)
    app.router.add_get("/keys/request", _key_request)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/metrics", _metrics)
    for path in _LISTS:
        app.router.add_get(path, _list)
    app.router.add_get("/overview", _overview)
    app.router.add_get("/electorate", _electorate)
    app.router.add_get("/inventory", _inventory)
    app.router.add_get("/pending", _pending)
    app.router.add_get(_TAIL_PATH, _tail, allow_head=False)  # it would never end
    app.router.add_get(f"/proof/{UUID_SEGMENT}", _proof)
    app.router.add_get("/claims/{claim}", _claim)
    app.router.add_get(f"/nodes/{UUID_SEGMENT}", _node)
    if console:
        from p2pnodes.api.console import Console

        Console(view).add_to(app)
    Tuning(view, _body).add_to(app)
    app.router.add_post("/place", _place)
    app.router.add_post("/release", _release)
    app.router.add_post("/verify", _verify)
    app.router.add_post("/keys/rotate", _rotate)
    app.router.add_post("/keys/revoke", _revoke)
    app.router.add_post("/keys/close", _close)
    return app


async def start_admin(app: web.Application, path: Path, port: int | None = None) -> web.AppRunner:
    """Serve the interface on a Unix socket, mode 0660, and on 127.0.0.1 when there is a port.

    A socket file that a killed daemon left behind is replaced.

    Returns:
        The running server; its ``cleanup()`` stops it and removes the socket.

    Raises:
        ConfigError: Another daemon serves this socket, the path is too long or not writable, or the port is taken.
    """

    async def remove_socket(_: web.Application) -> None:
        path.unlink(missing_ok=True)

    runner = make_runner(app, shutdown_timeout_s=SHUTDOWN_S)
    listener = Listening.of(await asyncio.to_thread(_bind, path))
    app.on_cleanup.append(remove_socket)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        if port is not None:
            try:
                opened = Listening.of(socket.create_server(("127.0.0.1", port), backlog=TCP_BACKLOG))
                await DoorSite(runner, opened, backlog=TCP_BACKLOG, most=TCP_CONNECTIONS_MAX).start()
            except OSError as error:
                why = why_not(error, "127.0.0.1")
                raise ConfigError(
                    f"admin.port: 127.0.0.1:{port} cannot be listened on ({why}); expected a free port: "
                    "stop what uses it, or set another",
                    code=Code.CONFIG_ADDRESS_TAKEN,
                ) from error
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"admin.socket: {path} has {len(os.fsencode(path))} bytes; expected at most {_SOCKET_PATH_BYTES_MAX}: "
            "set a shorter path",
            code=Code.CONFIG_ADMIN_SOCKET,
        )
    try:
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX)
        previous = os.umask(0o777 & ~SOCKET_MODE)  # so that the socket is never open to others, not even for a moment
        try:
            listener.bind(str(path))
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(previous)
    except OSError as error:
        raise ConfigError(
            f"admin.socket: {path} cannot be made ({error.strerror}); expected a path in a writable directory",
            code=Code.CONFIG_ADMIN_SOCKET,
        ) from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a daemon that is gone; refuse to touch a live one's, or another kind of file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"admin.socket: {path} exists and is no socket; expected a free path: move it away",
            code=Code.CONFIG_ADMIN_SOCKET,
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise ConfigError(
        f"admin.socket: another daemon answers at {path}; expected one daemon for one data_dir: stop the other first",
        code=Code.CONFIG_ADMIN_SOCKET,
    )


def _bounded(places: Places) -> Any:
    """Middleware that bounds the requests over TCP that are being served; streams have places of their own."""

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        tcp = not over_unix(request) and request.path != _TAIL_PATH
        most = TCP_REQUESTS_MAX
        with places.take("", "requests", most=most, most_each=most, retry_s=BUSY_RETRY_S) if tcp else nullcontext():
            response: web.StreamResponse = await handler(request)
            return response

    return middleware


@web.middleware
async def _local_only(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refuse on TCP what changes anything, and foreign names.

    Whoever has a login can connect to a port, while the socket's mode says who may. And a web page whose name resolves
    to 127.0.0.1 must not read this interface.
    """
    unix = over_unix(request)
    host = request.headers.get(hdrs.HOST, "")
    if not unix and (host if host.endswith("]") else host.rpartition(":")[0] or host) not in _LOOPBACK_HOSTS:
        raise ApiError(403, f"Host is {echo(host)!r}; expected localhost or 127.0.0.1", code=Code.ADMIN_HOST)
    if not unix and request.method not in _READING:
        raise ApiError(
            403,
            "Over TCP this interface can only be read; expected the Unix socket (admin.sock)",
            code=Code.ADMIN_READ_ONLY,
        )
    if not unix and _is_of_another_site(request):
        raise ApiError(403, "A page of another site asks; expected this console, or no browser", code=Code.ADMIN_HOST)
    response: web.StreamResponse = await handler(request)
    return response


def _is_of_another_site(request: web.Request) -> bool:
    """Whether a page of another site, or of another port, makes a browser ask; a link that leads here is fine."""
    if request.headers.get("Sec-Fetch-Site") not in {"cross-site", "same-site"}:
        return False
    return (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")) != ("navigate", "document")


async def _status(request: web.Request) -> web.Response:
    return json_response(200, request.app[VIEW_KEY].status())


async def _peers(request: web.Request) -> web.Response:
    return json_response(200, request.app[VIEW_KEY].peers())


async def _healthz(_: web.Request) -> web.Response:
    return json_response(200, {"status": "ok"})


async def _metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[REGISTRY_KEY])
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})


async def _list(request: web.Request) -> web.Response:
    served = _LISTS[request.path]
    query = once(request)
    limit = integer(query.pop("limit", str(ROWS_DEFAULT)), "limit", 1, ROWS_MAX)
    after: int | None = None
    newest_first = False
    if served.ordered:
        after = _after(query)
        newest_first = boolean(query.pop("newest_first", "false"), "newest_first")
    _check_filters(query, served, ("limit", "after", "newest_first") if served.ordered else ("limit",))
    if served.ordered:
        listed = request.app[TAIL_KEY].latest if newest_first else request.app[TAIL_KEY].earliest
        return json_response(200, await listed(query, limit, after))
    return json_response(200, await request.app[VIEW_KEY].query(served.view, query, limit))


async def _tail(request: web.Request) -> web.StreamResponse:
    query = once(request)
    after = _after(query)
    _check_filters(query, _LISTS["/events"], ("after",))
    return await request.app[TAIL_KEY].serve(request, query, after)


def _after(query: dict[str, str]) -> int | None:
    return integer(query.pop("after"), "after", 0, 2**63 - 1) if "after" in query else None


def _check_filters(query: Mapping[str, str], served: _List, others: Sequence[str]) -> None:
    """Refuse what is no filter of a list, or can find nothing; ``others`` are the parameters that have been taken."""
    if unknown := sorted(query.keys() - served.filters):
        known = [*others, *sorted(served.filters)]
        raise ApiError(
            400, f"unknown parameter {echo(unknown[0])!r}; expected one of {', '.join(known)}", code=Code.API_FORM
        )
    if any(len(value) > FILTER_CHARS_MAX for value in query.values()):
        raise ApiError(400, f"a filter is longer than {FILTER_CHARS_MAX} characters", code=Code.API_FORM)
    for name in query.keys() & _CHOICES.keys():
        choice(query[name], name, _CHOICES[name])


async def _claim(request: web.Request) -> web.Response:
    name = request.match_info["claim"]
    found = await request.app[VIEW_KEY].claim(await claim_id(request.app[VIEW_KEY].find_claim, name))
    if found is None:
        raise unknown_claim(name)
    return json_response(200, found)


async def _node(request: web.Request) -> web.Response:
    return json_response(200, await node(request.app[VIEW_KEY].node, request.match_info["uuid"]))


async def _overview(request: web.Request) -> web.Response:
    return json_response(200, await request.app[VIEW_KEY].overview())


async def _electorate(request: web.Request) -> web.Response:
    return json_response(200, await request.app[VIEW_KEY].electorate())


async def _inventory(request: web.Request) -> web.Response:
    seen = look(once(request))
    with request.app[LOOKS_KEY].take(request):
        return json_response(200, await request.app[VIEW_KEY].inventory(seen))


async def _pending(request: web.Request) -> web.Response:
    query = once(request)
    limit = integer(query.get("limit", str(PENDING_DEFAULT)), "limit", 1, PENDING_MAX)
    after = pending_after(query.get("after"))
    with request.app[LOOKS_KEY].take(request):
        return json_response(200, await request.app[VIEW_KEY].pending(limit, after))


async def _place(request: web.Request) -> web.Response:
    body = await _body(request, PlaceBody)
    try:
        result = await request.app[VIEW_KEY].place(body.uuids, body.chute())
    except UnknownGpusError as error:
        raise ApiError(404, str(error), code=error.code) from error
    return json_response(200, explanations.placed(result))


async def _release(request: web.Request) -> web.Response:
    body = await _body(request, ReleaseBody)
    try:
        result = await request.app[VIEW_KEY].release(body.uuids)
    except NotPlacedError as error:
        raise ApiError(404, str(error), code=error.code) from error
    return json_response(200, explanations.placed(result))


async def _verify(request: web.Request) -> web.Response:
    body = await _body(request, VerifyBody)
    found = await claim_id(request.app[VIEW_KEY].find_claim, body.claim_id)
    return json_response(200, await _done(request.app[VIEW_KEY].verify(found)))


async def _forks(request: web.Request) -> web.Response:
    return json_response(200, await request.app[VIEW_KEY].forks())


async def _key_request(request: web.Request) -> web.Response:
    days = integer(request.query.get("days", str(DAYS_DEFAULT)), "days", 1, DAYS_MAX)
    return json_response(200, request.app[VIEW_KEY].key_request(days))


async def _rotate(request: web.Request) -> web.Response:
    return json_response(200, await _done(request.app[VIEW_KEY].rotate_key()))


async def _revoke(request: web.Request) -> web.Response:
    body = await _body(request, RevokeBody)
    return json_response(200, await _done(request.app[VIEW_KEY].revoke(body.log, body.last)))


async def _close(request: web.Request) -> web.Response:
    raw = await read_body(request, bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)
    try:
        signed = parse_closing(raw, "body")
    except ConfigError as error:
        raise ApiError(400, str(error), code=error.code) from error
    return json_response(200, await _done(request.app[VIEW_KEY].publish_closing(signed.close)))


async def _done(work: Awaitable[T]) -> T:
    """The result of what the operator asked for; what cannot be done now is a conflict, and why."""
    try:
        return await work
    except (StoreError, WritesRefusedError):
        raise
    except P2PNodesError as error:
        raise ApiError(409, str(error), code=error.code) from error


async def _body(request: web.Request, model: type[Body]) -> Body:
    raw = await read_body(request, bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid_values("body", error) from error


async def _proof(request: web.Request) -> web.Response:
    uuid = request.match_info["uuid"]
    try:
        found = await request.app[VIEW_KEY].proof(uuid)
    except ProofError as error:
        raise ApiError(409, str(error), code=error.code) from error
    if found is None:
        raise ApiError(
            404,
            f"GPU {echo(uuid)!r} is not in the inventory; expected the uuid of one that is",
            code=Code.ADMIN_UNKNOWN,
        )
    return json_response(200, found)
