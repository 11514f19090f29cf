"""Refusals: every status code and error body of the public interface, in FastAPI's shapes.

An error is ``{"detail": text}``; a value that is not as it must be is ``{"detail": [{type, loc, msg, input, ctx}]}``.
These bodies are upstream's to the letter, so the code of an error (``model.codes``) is in the header HEADER; the
operator's interface, which is ours alone, has it in the body, too. What a client sent is echoed in bounded length, and
never in a form that could break the answer.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog
from aiohttp import hdrs, web
from pydantic import ValidationError

from p2pnodes.api.server import is_gone
from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.throttle import FewLines

log = structlog.get_logger(__name__)

FIELD_ERRORS_MAX: Final = 64
"""Errors listed in one 422; a client mends the first ones first anyway."""

ECHO_CHARS_MAX: Final = 256
"""Characters of a header that an error text repeats: a good signature has 128."""

INPUT_BYTES_MAX: Final = 4096
"""Size up to which a 422 repeats an offending value; beyond it, it names the size."""

STORE_RETRY_S: Final = 5
"""When a client shall come back after the disk failed."""

_READING: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})

JSON_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "application/json",
    "Server": "p2pnodes",  # without it aiohttp tells its own and Python's version
    "X-Content-Type-Options": "nosniff",
}

CODED_KEY: Final = web.AppKey("coded", bool)
"""Whether an application's errors have their code under ``code`` in the body as well; no unless it is set."""

STORE_FAILURES_KEY: Final = web.AppKey("store_failures", FewLines)
"""How often an application logs that the store failed; each time where it has none."""

ELSEWHERE_KEY: Final = web.AppKey[Callable[[], Sequence[str]]]("elsewhere")
"""Base URLs of other validators, at most REFERRALS_MAX; where an application has none, its answers name none."""

Loc = tuple[str | int, ...]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(P2PNodesError):
    """A request is refused.

    Attributes:
        status: HTTP status.
        detail: Text, or the list of a 422.
        headers: Further headers of the answer.
    """

    code = Code.API_FORM

    def __init__(
        self,
        status: int,
        detail: str | Sequence[Mapping[str, Any]],
        headers: Mapping[str, str] | None = None,
        *,
        code: str | None = None,
    ) -> None:
        super().__init__(
            detail if isinstance(detail, str) else f"{len(detail)} values are not as they must be", code=code
        )
        self.status = status
        self.detail = detail
        self.headers = headers


def json_response(status: int, payload: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return bytes_response(status, orjson.dumps(payload), headers)


def bytes_response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer whose JSON is rendered already."""
    return web.Response(status=status, body=body, headers={**JSON_HEADERS, **headers} if headers else JSON_HEADERS)


def echo(text: str) -> str:
    """What a client sent, fit for an error text: bounded, and valid Unicode whatever bytes it came from."""
    cut = text if len(text) <= ECHO_CHARS_MAX else f"{text[:ECHO_CHARS_MAX]}..."
    return cut.encode("utf-8", "backslashreplace").decode()


def field_error(kind: str, loc: Loc, message: str, found: Any, ctx: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One entry of a 422's list."""
    entry = {"type": kind, "loc": loc, "msg": message, "input": _bounded(found)}
    return entry if ctx is None else {**entry, "ctx": ctx}


def missing(loc: Loc, found: Any = None) -> ApiError:
    """422: a required value is absent."""
    return ApiError(422, [field_error("missing", loc, "Field required", found)], code=Code.API_FORM)


def invalid_json(position: int, reason: str) -> ApiError:
    """422: the body is not JSON; ``position`` counts characters as Python's decoder does."""
    return ApiError(
        422,
        [field_error("json_invalid", ("body", position), "JSON decode error", {}, {"error": echo(reason)})],
        code=Code.API_FORM,
    )


def invalid_values(source: str, error: ValidationError) -> ApiError:
    """422: what pydantic found, each place prefixed by ``source`` ("body" or "query")."""
    return ApiError(
        422,
        [
            field_error(
                found["type"], (source, *found["loc"]), echo(found["msg"]), found["input"], _context(found.get("ctx"))
            )
            for found in error.errors(include_url=False)[:FIELD_ERRORS_MAX]
        ],
        code=Code.API_FORM,
    )


def _context(ctx: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if ctx is None else {key: _bounded(value) for key, value in ctx.items()}


def _bounded(value: Any) -> Any:
    """``value`` if it is small and can be sent as JSON, else a note about it.

    JSON that was read can hold what JSON that is written cannot: lone surrogates, infinities (1e999), and integers of
    more than 64 bits.
    """
    try:
        size = len(orjson.dumps(value))
    except (TypeError, ValueError):
        return echo(repr(value))
    return value if size <= INPUT_BYTES_MAX else f"(a value of {size} bytes)"


def render(error: ApiError) -> web.Response:
    """Answer to a refused request, as the public interface gives it."""
    return _refusal(None, error.status, {"detail": error.detail}, error.code, error.headers)


def _refusal(
    request: web.Request | None,
    status: int,
    answer: Mapping[str, Any],
    code: str,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An answer with its code: in the header, and in the body of an application that wants it there."""
    if request is not None and request.app.get(CODED_KEY):
        answer = {**answer, "code": code}
    return json_response(status, answer, {**(headers or {}), HEADER: code})


async def _http_exception(request: web.Request, error: web.HTTPException) -> web.Response:
    """What the router and aiohttp itself refuse, in our shape: 404, 405, 413, 417; and where a redirect leads."""
    headers = {str(name): error.headers[name] for name in (hdrs.ALLOW, hdrs.LOCATION) if name in error.headers}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers[str(hdrs.ALLOW)] = ",".join(sorted(await _own_methods(request)))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return _refusal(request, 413, {"detail": "Request body is too large."}, Code.API_TOO_LARGE)
    if error.status < 400:
        return json_response(error.status, {"detail": error.reason}, headers)
    code = Code.API_NO_ROUTE if error.status in {404, 405} else Code.API_FORM
    return _refusal(request, error.status, {"detail": error.reason}, code, headers)


async def _own_methods(request: web.Request) -> set[str]:
    """Methods of the first route at the request's path, as the document has them under that path.

    aiohttp adds those of every pattern that fits as well: of ``DELETE /nodes/{id}`` at ``/nodes/supported``, say.
    """
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        if methods:
            return methods
    return set()


def _not_now(request: web.Request, detail: str, retry_after_s: int, code: str) -> web.Response:
    """503; a write is told where else it can go."""
    answer: dict[str, Any] = {"detail": detail}
    elsewhere = request.app.get(ELSEWHERE_KEY)
    if elsewhere is not None and request.method not in _READING:
        answer["validators"] = elsewhere()
    return _refusal(request, 503, answer, code, {hdrs.RETRY_AFTER: str(max(1, retry_after_s))})


def log_store_failure(request: web.Request, error: StoreError) -> None:
    """Tell the operator of a request that the store failed, unless many are told already."""
    lines = request.config_dict.get(STORE_FAILURES_KEY)
    left_out = 0 if lines is None else lines.take()
    if left_out is not None:
        log.error("store_failed", error=str(error), left_out=left_out, code=error.code)


@web.middleware
async def answer_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Turn every error into an answer; the only place where one becomes a 500."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except ApiError as error:
        return _refusal(request, error.status, {"detail": error.detail}, error.code, error.headers)
    except WritesRefusedError as error:
        return _not_now(request, str(error), error.retry_after_s, error.code)
    except StoreError as error:  # the disk, not the client: the message says which
        log_store_failure(request, error)
        return _not_now(request, "This peer cannot record or read at the moment.", STORE_RETRY_S, Code.API_UNAVAILABLE)
    except web.HTTPException as error:
        return await _http_exception(request, error)
    except ConnectionError:
        if request.writer.output_size and not is_gone(request):
            raise  # part of an answer is out, and nothing sensible can follow it
        return web.Response(status=400)  # for nobody, the client went away; raised, it would be a traceback
    except Exception:
        log.exception("request_failed", method=echo(request.method), path=echo(request.path), code=Code.SYSTEM_BUG)
        if request.writer.output_size:
            raise  # part of an answer is out (a WebSocket, say); nothing sensible can follow it
        return _refusal(request, 500, {"detail": "Internal Server Error"}, Code.SYSTEM_BUG)


def join(values: Iterable[str]) -> str:
    """A list of texts as upstream prints it: Python's own form."""
    return repr(list(values))
