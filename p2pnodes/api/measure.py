"""What the public listener answers, told to whoever counts it: by route, method and status code, never by path.

Clients choose paths and methods; what they choose must not become a label each. So a route is named by its template,
and what no route serves is one word, whatever it was.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs, web

from p2pnodes.api.errors import Handler
from p2pnodes.api.proxy import passed_on
from p2pnodes.api.server import is_gone

OTHER: Final = "other"
"""Instead of the route of a request that none serves, a method that HTTP does not know, or a code that it does not."""

PASSED_ON: Final = "upstream"
"""Instead of the route of a request that was passed on to another API."""

CUT: Final = "cut"
"""Instead of the code of an answer whose connection ended before it was complete."""

LASTING: Final = frozenset({"/gossip", "/nodes/events"})
"""Routes whose requests last as long as somebody listens: counted when they end, and their time says nothing."""

Answered = Callable[[str, str, str, float | None], None]
"""Hears of one answer: route, method, status code, and the seconds that it took; None of those that last."""


def measuring(answered: Answered, *, upstream: bool) -> Any:
    """Middleware that tells what becomes of each request; it goes around all others.

    Args:
        answered: Called once for each request that reached the application. What aiohttp's parser refuses does not.
        upstream: Whether what no route serves is passed on (``proxy``).
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        begun_s, code = loop.time(), CUT
        try:
            response = await handler(request)
            if response.prepared or not is_gone(request):  # else nobody hears it
                code = str(response.status) if 100 <= response.status <= 599 else OTHER
            return response
        finally:
            route = _route(request, upstream=upstream)
            method = request.method if request.method in hdrs.METH_ALL else OTHER
            answered(route, method, code, None if route in LASTING else loop.time() - begun_s)

    return middleware


def _route(request: web.Request, *, upstream: bool) -> str:
    if upstream and passed_on(request):
        return PASSED_ON
    resource = request.match_info.route.resource
    return OTHER if resource is None else resource.canonical
