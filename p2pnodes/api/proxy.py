"""The optional reverse proxy: paths that are not this daemon's go to an upstream API.

So a miner's whole ``api`` setting can point at a daemon. Method, path and query as sent, headers, body and answer pass
through in both directions as they come; what belongs to one connection (RFC 9110, 7.6.1) does not. Redirects are the
client's to follow. A connection to the upstream API serves one request: a kept one that it closes meanwhile would cost
a request that must not be sent twice.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import aiohttp
import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from p2pnodes.api.bodies import late, misframed
from p2pnodes.api.errors import JSON_HEADERS, ApiError, Handler
from p2pnodes.api.limits import Places, is_trusted
from p2pnodes.api.server import cut, send_part
from p2pnodes.api.settings import Network
from p2pnodes.model.codes import Code

log = structlog.get_logger(__name__)

REQUESTS_MAX: Final = 256
REQUESTS_PER_ADDRESS_MAX: Final = 64
"""Requests that are passed on at the same time, over all and of one client address (IPv6: one /64): one that asks for
what takes long, or hangs, leaves places for others. A miner's controller has a few open."""

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bound of a request's body, which is never kept whole; that of an answer is the upstream API's business."""

CONNECT_S_MAX: Final = 10.0
IDLE_S_MAX: Final = 300.0
"""Seconds without a byte after which a request or its answer is given up: streams that are silent send comments."""

WATCH_S: Final = 1.0
"""How often a request that waits for its answer is looked at: whether its client is there, and its body moves."""

BUSY_RETRY_S: Final = 5
PSEUDONYM_BYTES: Final = 6

OURS: Final = frozenset({"/miner/nodes", "/miner/nodes/", "/gossip", "/healthz", "/readyz", "/openapi.json", "/docs"})
OURS_BELOW: Final = "/nodes"

FORWARDED_FOR: Final = "X-Forwarded-For"
FORWARDED_PROTO: Final = "X-Forwarded-Proto"
FORWARDED_HOST: Final = "X-Forwarded-Host"

_HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_AUTOMATIC: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that aiohttp's client would add of its own."""


class Upstream:
    """Passes requests on; its session lives as long as the application."""

    def __init__(self, url: str, *, trusted_proxies: Sequence[Network], limit: Callable[[web.Request], str]) -> None:
        """Pass on to an API.

        Args:
            url: Its base URL, without a slash at its end.
            trusted_proxies: Networks of the operator's own proxies before this daemon.
            limit: Takes one request off its client's limit; refuses one that asks too much with an ApiError.
        """
        self._base = url
        self._trusted = trusted_proxies
        self._limit = limit
        self._pseudonym = f"p2pnodes-{secrets.token_hex(PSEUDONYM_BYTES)}"
        self._session: aiohttp.ClientSession
        self._running = Places()
        self._down = False

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        """Hold the session while an application runs (an entry of ``Application.cleanup_ctx``)."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=REQUESTS_MAX, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX, sock_read=IDLE_S_MAX),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
            requote_redirect_url=False,
        )
        async with self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the upstream API does."""
        client = self._limit(request)
        if not request.rel_url.raw_path.startswith("/"):
            raise ApiError(
                400,
                "Only paths are passed on: expected a request target that begins with /.",
                code=Code.API_UPSTREAM_REFUSED,
            )
        if "websocket" in request.headers.get(hdrs.UPGRADE, "").lower():
            raise ApiError(
                400,
                "WebSockets are not passed on to the upstream API: connect to it without this daemon.",
                code=Code.API_UPSTREAM_REFUSED,
            )
        if self._pseudonym in ",".join(request.headers.getall(hdrs.VIA, ())):
            raise ApiError(
                508,
                "The upstream API passes requests back to this daemon: check its setting api.upstream.",
                code=Code.API_UPSTREAM_REFUSED,
            )
        if (request.content_length or 0) > BODY_BYTES_MAX:
            raise _too_large()
        with self._running.take(
            client, "requests", most=REQUESTS_MAX, most_each=REQUESTS_PER_ADDRESS_MAX, retry_s=BUSY_RETRY_S
        ):
            return await self._pass_on(request)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        body = _Body(request) if request.body_exists else None
        try:
            async with await self._ask(request, body) as answer:
                if answer.status < 200:
                    raise aiohttp.ClientError(f"status {answer.status} is no answer")
                self._tell(None)
                return await self._answer(request, answer)
        except _ClientGoneError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if body is not None and body.refusal is not None:
                raise body.refusal from error
            self._tell(error)
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
                raise ApiError(
                    504, f"The upstream API was silent for {IDLE_S_MAX:g} s.", code=Code.API_UPSTREAM
                ) from error
            raise ApiError(502, "The upstream API cannot be reached.", code=Code.API_UPSTREAM) from error

    async def _ask(self, request: web.Request, body: "_Body | None") -> aiohttp.ClientResponse:
        """Send a request, and wait for the head of its answer.

        Raises:
            _ClientGoneError: Nobody waits for the answer any more.
            TimeoutError: The upstream API takes nothing of the body, or does not answer.
            aiohttp.ClientError: It cannot be asked, or its answer is none.
        """

        async def ask() -> aiohttp.ClientResponse:
            return await self._session.request(
                request.method,
                URL(self._base + request.rel_url.raw_path_qs, encoded=True),
                headers=self._request_headers(request),
                data=body and body.parts(),
                allow_redirects=False,
            )

        asking = asyncio.create_task(ask())
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=WATCH_S)
                if request.transport is None:
                    raise _ClientGoneError("the client went away before there was an answer")
                if body is not None and body.waiting_s > IDLE_S_MAX:
                    raise TimeoutError("the upstream API took nothing of the request's body")
            return asking.result()
        except BaseException:
            asking.cancel()
            (asked,) = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(asked, aiohttp.ClientResponse):
                asked.close()
            raise

    async def _answer(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = _end_to_end(answer.headers)
        headers.add(hdrs.VIA, f"1.1 {self._pseudonym}")
        headers.setdefault(hdrs.SERVER, JSON_HEADERS["Server"])
        response = web.StreamResponse(status=answer.status, reason=_sendable(answer.reason or ""), headers=headers)
        try:
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await send_part(request, response, part)
            await response.write_eof()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            if not isinstance(error, ConnectionError):  # which the client's side is
                self._tell(error)
            cut(request)  # what is out cannot be taken back, and must not be taken for the whole
        return response

    def _request_headers(self, request: web.Request) -> CIMultiDict[str]:
        headers = _end_to_end(request.headers)
        for name in (hdrs.HOST, hdrs.EXPECT):  # the other host has another name; 100 Continue is answered here
            headers.popall(name, None)
        trusted = is_trusted(request.remote, self._trusted)
        if not trusted:  # whoever is not the operator's proxy may not say what it was asked for
            for claimed in (FORWARDED_PROTO, FORWARDED_HOST, "Forwarded"):
                headers.popall(claimed, None)
        headers.setdefault(FORWARDED_PROTO, request.scheme)
        headers.setdefault(FORWARDED_HOST, request.host)
        hops = [*headers.popall(FORWARDED_FOR, ()), *([request.remote] if request.remote else [])]
        if hops:
            headers[FORWARDED_FOR] = ", ".join(hops)
        headers.add(hdrs.VIA, f"{request.version.major}.{request.version.minor} {self._pseudonym}")
        return headers

    def _tell(self, error: Exception | None) -> None:
        """Log when the upstream API fails, and when it answers again; not each request in between."""
        if error is not None and not self._down:
            log.warning("upstream_failed", error=str(error) or type(error).__name__, code=Code.API_UPSTREAM)
        elif error is None and self._down:
            log.info("upstream_answers")
        self._down = error is not None


class _ClientGoneError(ConnectionError):
    """The client of a request closed its connection."""


class _Body:
    """A request's body on its way."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._handed_at: float | None = None
        self.refusal: ApiError | None = None
        """Why the body was not passed on to its end."""

    @property
    def waiting_s(self) -> float:
        """Seconds for which the other end has taken nothing of the part that it was handed."""
        return 0.0 if self._handed_at is None else asyncio.get_running_loop().time() - self._handed_at

    async def parts(self) -> AsyncIterator[bytes]:
        size = 0
        parts = self._request.content.iter_any()
        while True:
            try:
                async with asyncio.timeout(IDLE_S_MAX):
                    part = await anext(parts, b"")
            except TimeoutError as error:
                self.refusal = late()
                raise self.refusal from error
            except (web.RequestPayloadError, HttpProcessingError, aiohttp.ClientError, OSError) as error:
                # A lost connection is an OSError, and nobody hears the answer then; it is not the upstream API's fault.
                self.refusal = misframed()
                raise self.refusal from error
            if not part:
                return
            size += len(part)
            if size > BODY_BYTES_MAX:
                self.refusal = _too_large()
                raise self.refusal
            self._handed_at = asyncio.get_running_loop().time()
            yield part
            self._handed_at = None


def passing_on(upstream: Upstream) -> Any:
    """Middleware that hands what no route serves, and is not ours, to ``upstream``."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await (upstream.handle if passed_on(request) else handler)(request)

    return middleware


def passed_on(request: web.Request) -> bool:
    """Whether a request is for the upstream API, where there is one: no route serves it, and it is not ours."""
    return isinstance(request.match_info.http_exception, web.HTTPNotFound) and not is_ours(request.path)


def is_ours(path: str) -> bool:
    """Whether a decoded path is this daemon's own, be there a route or not."""
    return path in OURS or path == OURS_BELOW or path.startswith(f"{OURS_BELOW}/")


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers that are for the other end: all but hop-by-hop ones and those that ``Connection`` names."""
    sent = CIMultiDict(headers)
    named = {name.strip().lower() for value in sent.getall(hdrs.CONNECTION, ()) for name in value.split(",")}
    dropped = _HOP_BY_HOP | named
    return CIMultiDict((name, _sendable(value)) for name, value in sent.items() if name.lower() not in dropped)


def _sendable(text: str) -> str:
    """A header's value or a reason as aiohttp can write it; it reads more.

    Bytes that are not UTF-8 are replaced, and control characters become spaces (RFC 9110, 5.5).
    """
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(" ", text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _too_large() -> ApiError:
    return ApiError(
        413, f"Request body is too large: at most {BODY_BYTES_MAX} bytes are passed on.", code=Code.API_TOO_LARGE
    )
