"""How operators name a claim or a GPU, and what they are told when there is none of that name."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from p2pnodes.api.errors import ApiError, echo
from p2pnodes.model.codes import Code
from p2pnodes.model.keys import ss58_decode
from p2pnodes.model.requests import UUID_CHARS_MAX
from p2pnodes.store.facts import AmbiguousError

FindClaim = Callable[[bytes, bytes | None], Awaitable[bytes | None]]
"""``DaemonView.find_claim``."""

FindNode = Callable[[str], Awaitable[dict[str, Any] | None]]
"""``DaemonView.node``."""

UUID_SEGMENT: Final = "{uuid:[^/]+}"
"""A uuid in the path of a route: aiohttp's own pattern leaves out braces, which a uuid may hold."""

_CLAIM_NAME: Final = re.compile(
    r"(?:(?P<hotkey>[0-9A-Za-z]{40,60})::)?(?P<task>[0-9A-Fa-f]{32})|(?P<id>[0-9A-Fa-f]{64})"
    r"|(?P<begin>[0-9A-Fa-f]{8,63})"
)
"""How people name a claim: by its task, with or without the hotkey, by its id, or by how that begins."""


async def claim_id(find: FindClaim, name: str) -> bytes:
    """The id of the claim that somebody names.

    Raises:
        ApiError: 400: this names no claim; 404: it is not known here.
    """
    found = _CLAIM_NAME.fullmatch(name)
    if found is None:
        raise ApiError(
            400,
            f"{echo(name)!r} names no claim; expected a claim id (64 hex digits), how it begins (8 or more), or a task "
            "id",
            code=Code.API_FORM,
        )
    try:
        miner = None if found["hotkey"] is None else ss58_decode(found["hotkey"])
    except ValueError as error:
        raise ApiError(400, f"{echo(name)!r} names no claim: {error}", code=Code.API_FORM) from error
    digits = (found["id"] or found["task"] or found["begin"]).lower()
    try:
        known = await find(bytes.fromhex(digits[: len(digits) // 2 * 2]), miner)
    except AmbiguousError as error:
        raise ApiError(400, str(error), code=error.code) from error
    if known is None or not known.hex().startswith(digits):
        raise unknown_claim(name)
    return known


async def node(find: FindNode, uuid: str) -> dict[str, Any]:
    """Why a GPU has the row that it has.

    Raises:
        ApiError: 404: no claim ever named it.
    """
    found = await find(uuid) if len(uuid) <= UUID_CHARS_MAX else None
    if found is None:
        raise ApiError(
            404,
            f"no claim ever named a GPU {echo(uuid)!r}; expected a whole uuid as its miner registered it",
            code=Code.ADMIN_UNKNOWN,
        )
    return found


def unknown_claim(name: str) -> ApiError:
    """404: no such claim."""
    return ApiError(404, f"no claim {echo(name)!r} is known here; it may arrive yet", code=Code.ADMIN_UNKNOWN)
