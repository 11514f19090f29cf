"""Answers that are sent in parts: whoever does not read them costs one part and one connection."""

import asyncio
from typing import Final

from aiohttp import web

STALLED_S: Final = 30.0
"""Seconds within which a client must make room for the next part of an answer; then its connection is cut."""


async def send_part(request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
    """Write the next part of an answer that is sent in parts, when the client has made room for it.

    Raises:
        ConnectionError: The client is gone, or has made no room for STALLED_S; its connection is cut then.
    """
    try:
        async with asyncio.timeout(STALLED_S):
            await response.write(data)
    except TimeoutError as error:
        cut(request)
        raise ConnectionResetError(f"the client took nothing for {STALLED_S:g} s") from error


def cut(request: web.Request) -> None:
    """Drop a client's connection at once: so it can tell an answer that was cut short from one that is whole."""
    if request.transport is not None:
        request.transport.abort()


def is_gone(request: web.Request) -> bool:
    """Whether nobody hears an answer any more; aiohttp may have yet to take note of it."""
    return request.transport is None or request.transport.is_closing()
