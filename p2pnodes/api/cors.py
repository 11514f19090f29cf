"""Cross-origin requests (CORS): off unless the operator names origins."""

from collections.abc import Collection
from typing import Any, Final

from aiohttp import hdrs, web

from p2pnodes.api.auth import HOTKEY, NONCE, SIGNATURE

METHODS: Final = "GET, POST, DELETE"
HEADERS: Final = f"Content-Type, If-None-Match, {HOTKEY}, {NONCE}, {SIGNATURE}"
PREFLIGHT_MAX_AGE_S: Final = 600


def cors(origins: Collection[str]) -> Any:
    """Middleware that lets pages of ``origins`` read answers; no credentials, since requests carry their signature."""
    every = "*" in origins

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        allowed = origin is not None and (every or origin in origins)
        if allowed and request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            response: web.StreamResponse = web.Response(
                status=204,
                headers={
                    hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
                    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: HEADERS,
                    hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_MAX_AGE_S),
                    hdrs.SERVER: "p2pnodes",
                },
            )
        else:
            response = await handler(request)
        if response.prepared:
            return response  # a WebSocket: its handshake is out, and browsers don't apply CORS to it
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if allowed:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*" if every else str(origin)
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = f"{hdrs.ETAG}, {hdrs.RETRY_AFTER}"
        return response

    return middleware
