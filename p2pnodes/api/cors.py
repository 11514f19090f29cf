"""Cross-origin requests (CORS): off unless the operator names origins."""

from collections.abc import Collection
from typing import Final

from aiohttp import hdrs, web

from p2pnodes.api.auth import HOTKEY, NONCE, SIGNATURE
from p2pnodes.api.errors import Handler

METHODS: Final = "GET, POST, DELETE"
HEADERS: Final = f"Content-Type, If-None-Match, Last-Event-ID, {HOTKEY}, {NONCE}, {SIGNATURE}"
PREFLIGHT_MAX_AGE_S: Final = 600


def allow_origins(app: web.Application, origins: Collection[str]) -> None:
    """Let pages of ``origins`` read the answers of an application; no credentials, since requests carry signatures.

    Headers are added as each answer begins, so that those that are sent in parts have them, too.
    """
    every = "*" in origins

    def allowed(request: web.BaseRequest) -> bool:
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is not None and (every or origin in origins)

    @web.middleware
    async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not (asked and allowed(request)):
            return await handler(request)
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_MAX_AGE_S),
                hdrs.SERVER: "p2pnodes",
            },
        )

    async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if allowed(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*" if every else request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = f"{hdrs.ETAG}, {hdrs.RETRY_AFTER}"

    app.middlewares.insert(0, answer_preflights)
    app.on_response_prepare.append(add_headers)
