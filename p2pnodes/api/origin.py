"""How a request of the operator's interface came: through the Unix socket, or over TCP, where any login can connect."""

import socket

from aiohttp import web


def over_unix(request: web.Request) -> bool:
    """Whether it came through the Unix socket, from whom its mode lets in."""
    transport = request.transport
    return transport is not None and transport.get_extra_info("socket").family == socket.AF_UNIX
