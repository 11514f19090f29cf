"""A client of the ``/nodes`` interface for miners: signs a request once and takes it to the first daemon that answers.

Every peer knows a request by its signature, so the same signed request may be sent to several peers and is one claim
(design.md, rule 2): when a daemon is down, hangs or may not write, the next one gets the very same bytes. A request is
signed anew only when its nonce grows too old to be accepted.

Example:
    >>> async with MinerClient(["https://a.example", "https://b.example"], hotkey) as client:
    ...     registration = await client.add({"server_id": "s1", "server_name": "rack 1", "nodes": nodes})
    ...     await client.wait_verified(registration.task_id)
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from yarl import URL

from p2pnodes.model.errors import LocalProtocolError, P2PNodesError
from p2pnodes.model.keys import Hotkey, ss58_encode
from p2pnodes.model.requests import (
    NONCE_WINDOW_S,
    PURPOSE_DELETE,
    PURPOSE_STATUS,
    Add,
    bound_purpose,
    sign_add,
    sign_delete,
    signing_message,
)

RETRIES: Final = 5
RETRY_DELAY_S: Final = 3.0
"""What upstream's miner client does (compat.md, section 4)."""

RETRY_AFTER_S_MAX: Final = 30.0
"""Longest pause that an API can ask for; the API that is ready first decides when the next round begins."""

TIMEOUT_S: Final = 30.0
SIGNATURE_AGE_S_MAX: Final = NONCE_WINDOW_S // 2
"""Age at which a request is signed anew: half the window stays for a clock that differs and an answer that is slow."""

POLL_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bound of an answer; a detailed inventory of 100,000 GPUs has about half of that."""

APIS_MAX: Final = 64
DETAIL_CHARS_MAX: Final = 2_000
GO_AWAY: Final = "go away"
"""All that the interface says of a task that is another's or none at all (compat.md, section 3)."""

_Model = TypeVar("_Model", bound=BaseModel)
_TOTALS: Final = TypeAdapter(dict[str, dict[str, int]])


class MinerError(P2PNodesError):
    """Root of what the client raises."""


class ApiUnreachableError(MinerError):
    """No daemon took the request, after all retries; it may have been recorded all the same, and can be repeated.

    Attributes:
        failures: API -> why it did not serve the request, the last time it was tried.
    """

    def __init__(self, failures: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{api}: {reason}" for api, reason in failures.items())
        super().__init__(f"no API served the request ({reasons}); it can be repeated, here or with other APIs")
        self.failures = dict(failures)


class RefusedError(MinerError):
    """A daemon refused the request (3xx or 4xx); nothing has changed.

    Attributes:
        status: HTTP status.
        detail: The daemon's text; for field errors one ``path: message`` each.
        api: Base URL of the daemon.
    """

    def __init__(self, status: int, detail: str, api: str) -> None:
        super().__init__(f"{api} answered {status}: {detail}")
        self.status = status
        self.detail = detail
        self.api = api


class InvalidRequestError(RefusedError):
    """400, 413 or 422: the body or a parameter is not as it must be."""


class AuthRefusedError(RefusedError):
    """401 or 403: nonce, signature, registration or blacklist."""


class NotFoundError(RefusedError):
    """404: no such GPU, or another's."""


class ConflictError(RefusedError):
    """409: a GPU is in the inventory already, or the nonce lies below one that was used."""


class TooOftenError(RefusedError):
    """429 that waiting does not mend: a GPU changed hands too often. A rate limit is waited out instead."""


class MalformedAnswerError(MinerError):
    """The API answered something else than the interface promises; is it a p2pnodes daemon at all?"""


class TaskFailedError(MinerError):
    """The validators' vote went against a claim, or the task cannot be judged.

    Attributes:
        detail: Why.
    """

    def __init__(self, task_id: str, detail: str) -> None:
        super().__init__(f"task {task_id} failed: {detail}")
        self.detail = detail


class TaskTimeoutError(MinerError):
    """A claim was still pending when the time was up; it stays in the inventory and may be verified later."""


class RegisteredNode(BaseModel):
    """One GPU of an accepted registration; fields beyond these are kept as they came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    uuid: str
    name: str
    gpu_identifier: str
    miner_hotkey: str
    seed: Annotated[int, Field(ge=1, le=2**63 - 1)]
    server_id: str | None = None
    created_at: str | None = None
    verified_at: str | None = None
    verification_error: str | None = None


class Registration(BaseModel):
    """An accepted claim: its task, its GPUs in request order."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task_id: Annotated[str, Field(min_length=1)]
    nodes: Annotated[tuple[RegisteredNode, ...], Field(min_length=1)]

    @property
    def seed(self) -> int:
        """The seed that all GPUs of one claim share, 1 to 2**63 - 1."""
        return self.nodes[0].seed


class TaskStatus(BaseModel):
    """State of a claim: ``pending``, ``verified``, ``failed`` (with detail) or ``error`` (with error)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: str
    detail: str | None = None
    error: str | None = None

    @property
    def reason(self) -> str:
        """Why it failed, empty when it did not."""
        return self.detail or self.error or ""


class _Signed(NamedTuple):
    """A request that any of the APIs may get."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None


class MinerClient:
    """Client of one miner at one or several daemons; use it as ``async with``.

    Args:
        apis: Base URLs, in order of preference, 1 to 64.
        hotkey: Signs; None for what needs no signature (``inventory``, ``supported``).
        retries: Rounds over all APIs after the first one.
        retry_delay_s: Pause between rounds.
        timeout_s: Bound of one request at one API.
        clock: Unix seconds, for nonces.
        sleep: Waits some seconds between rounds and polls.
        on_failure: Called with an API and the reason each time one did not serve a request.
        on_retry: Called before each pause with its seconds and the number of the round behind it, from 1.

    Raises:
        LocalProtocolError: A base URL is not http or https, or there are none or too many.
    """

    def __init__(
        self,
        apis: Sequence[str],
        hotkey: Hotkey | None = None,
        *,
        retries: int = RETRIES,
        retry_delay_s: float = RETRY_DELAY_S,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_failure: Callable[[str, str], None] | None = None,
        on_retry: Callable[[float, int], None] | None = None,
    ) -> None:
        if not 1 <= len(apis) <= APIS_MAX:
            raise LocalProtocolError(f"{len(apis)} APIs; expected 1 to {APIS_MAX}")
        self.apis: Final = tuple(dict.fromkeys(_checked(api) for api in apis))
        self.hotkey: Final = hotkey
        self._retries = retries
        self._retry_delay_s = retry_delay_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock
        self._sleep = sleep
        self._on_failure = on_failure
        self._on_retry = on_retry
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers={"User-Agent": "p2pnodes-miner"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def add(self, body: bytes | Mapping[str, Any]) -> Registration:
        """Register the GPUs of one server.

        Args:
            body: ``{"server_id", "server_name", "nodes": [...]}`` (compat.md, section 3); bytes are sent as they are.

        Raises:
            RefusedError: Or one of its children; the daemon's text tells why.
            ApiUnreachableError: No API served the request.
            MalformedAnswerError: The answer is no registration.
        """
        raw = body if isinstance(body, bytes) else orjson.dumps(without_nulls(body))
        signer = self._signer()
        answer = await self._send(lambda nonce: _add_request(sign_add(signer, nonce, raw)), 202)
        return _parse(Registration, *answer)

    def sign_add(self, body: bytes | Mapping[str, Any]) -> Add:
        """Sign a registration without sending it; ``send`` takes it to the APIs, as often as one likes.

        Args:
            body: As for ``add``.
        """
        raw = body if isinstance(body, bytes) else orjson.dumps(without_nulls(body))
        return sign_add(self._signer(), int(self._clock()), raw)

    async def send(self, request: Add) -> Registration:
        """Send a registration that is signed already; the same one again is the same claim, at any API.

        Raises:
            RefusedError: See ``add``, also for the others that it raises.
        """
        return _parse(Registration, *await self._send(lambda _: _add_request(request), 202))

    async def delete(self, uuid: str, *, bound: bool = True) -> None:
        """Delete one GPU; deleting it again with the same signature is no error.

        Args:
            uuid: The GPU.
            bound: Bind the signature to this GPU. False signs as upstream's client does, for the central API, which
                knows no other form.

        Raises:
            NotFoundError: Not in the inventory, or another miner's.
            RefusedError: Or another of its children.
            ApiUnreachableError: No API served the request.
        """
        signer = self._signer()
        purpose = bound_purpose(uuid) if bound else PURPOSE_DELETE

        def sign(nonce_s: int) -> _Signed:
            delete = sign_delete(signer, nonce_s, purpose)
            auth = _auth(signer.address, delete.nonce, delete.signature)
            return _Signed("DELETE", f"/nodes/{quote(uuid, safe='')}", auth)

        await self._send(sign, 200)

    async def task_status(self, task_id: str) -> TaskStatus:
        """State of a claim.

        Raises:
            AuthRefusedError: Another miner's task, or no task's id at all.
            RefusedError: Or another of its children.
            ApiUnreachableError: No API served the request.
            MalformedAnswerError: The answer is no task status.
        """
        path = f"/nodes/verification_status?{urlencode({'task_id': task_id})}"
        signer = self._signer()

        def sign(nonce_s: int) -> _Signed:
            signature = signer.sign(signing_message(signer.address, str(nonce_s), PURPOSE_STATUS))
            return _Signed("GET", path, _auth(signer.address, str(nonce_s), signature))

        try:
            return _parse(TaskStatus, *await self._send(sign, 200))
        except AuthRefusedError as error:
            if error.detail != GO_AWAY:
                raise
            meaning = f"{GO_AWAY} (no task of {signer.address}; expected <hotkey>::<32 hex digits>, as add printed it)"
            raise AuthRefusedError(error.status, meaning, error.api) from error

    async def wait_verified(
        self, task_id: str, *, timeout_s: float | None = None, poll_s: float = POLL_S
    ) -> TaskStatus:
        """Poll a claim until it is no longer pending.

        Args:
            task_id: As ``add`` returned it.
            timeout_s: Bound of the whole wait; None waits for as long as the APIs answer.
            poll_s: Pause between polls.

        Raises:
            TaskFailedError: The vote went against the claim.
            TaskTimeoutError: Still pending after ``timeout_s``.
            RefusedError: See ``task_status``, also for the others that it raises.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (task := await self.task_status(task_id)).status == "pending":
                    await self._sleep(poll_s)
        except TimeoutError as error:
            raise TaskTimeoutError(
                f"task {task_id} is still pending after {timeout_s:g} s; it may be verified later, ask again"
            ) from error
        if task.status in {"failed", "error"}:
            raise TaskFailedError(task_id, task.reason or "the API gives no reason")
        return task

    async def inventory(self, *, hotkey: str | None = None, model: str | None = None) -> dict[str, dict[str, int]]:
        """The compact inventory: GPU identifier -> ``provisioned`` and ``idle`` counts; needs no hotkey.

        Args:
            hotkey: Only this miner's, by SS58 address.
            model: Only this GPU identifier.
        """
        filters = {name: value for name, value in (("hotkey", hotkey), ("model", model)) if value is not None}
        path = f"/nodes/?{urlencode(filters)}" if filters else "/nodes/"
        api, answer = await self._send(lambda _: _Signed("GET", path), 200)
        try:
            return _TOTALS.validate_python(answer)
        except ValidationError as error:
            raise MalformedAnswerError(f"{api} answered no inventory; is it a p2pnodes daemon?") from error

    async def detailed_inventory(self, *, hotkey: str | None = None, model: str | None = None) -> dict[str, Any]:
        """The detailed inventory: hotkey -> its provisioned and idle GPUs; needs no hotkey."""
        filters = {"detailed": "true", "hotkey": hotkey, "model": model}
        query = urlencode({name: value for name, value in filters.items() if value is not None})
        _, answer = await self._send(lambda _: _Signed("GET", f"/nodes/?{query}"), 200)
        return _mapping(answer)

    async def supported(self) -> dict[str, Any]:
        """The GPU table; needs no hotkey."""
        _, answer = await self._send(lambda _: _Signed("GET", "/nodes/supported"), 200)
        return _mapping(answer)

    def _signer(self) -> Hotkey:
        if self.hotkey is None:
            raise LocalProtocolError("this request needs a signature; expected a MinerClient with a hotkey")
        return self.hotkey

    async def _send(self, sign: Callable[[int], _Signed], expected: int) -> tuple[str, Any]:
        """Take one signed request to the APIs, in order and in rounds, until one of them decides.

        Returns:
            The API that answered, and its JSON.
        """
        signed_at_s = int(self._clock())
        request = sign(signed_at_s)
        failures: dict[str, str] = {}
        waits_s: list[float] = []
        for round_number in range(self._retries + 1):
            if round_number:
                if self._on_retry is not None:
                    self._on_retry(min(waits_s), round_number)
                await self._sleep(min(waits_s))
            waits_s = []
            for api in self.apis:
                if abs(self._clock() - signed_at_s) > SIGNATURE_AGE_S_MAX:
                    signed_at_s = int(self._clock())
                    request = sign(signed_at_s)
                wait_s = self._retry_delay_s
                try:
                    status, content, headers = await self._exchange(api, request)
                except TimeoutError:
                    failures[api] = f"no answer within {self._timeout.total:g} s"
                except aiohttp.ClientError as error:
                    failures[api] = _reason(error)
                else:
                    retry_after_s = _retry_after_s(headers)
                    if not _to_be_asked_elsewhere(status, retry_after_s):
                        return api, _decide(api, status, content, expected)
                    failures[api] = f"{status}: {_detail(content)}"
                    wait_s = max(wait_s, min(retry_after_s or 0, RETRY_AFTER_S_MAX))
                waits_s.append(wait_s)
                if self._on_failure is not None:
                    self._on_failure(api, failures[api])
        raise ApiUnreachableError(failures)

    async def _exchange(self, api: str, request: _Signed) -> tuple[int, bytes, Mapping[str, str]]:
        if self._session is None:
            raise LocalProtocolError("the client is not open; expected `async with MinerClient(...)`")
        url = URL(api + request.path, encoded=True)
        async with self._session.request(
            request.method,
            url,
            headers=request.headers,
            data=request.body,
            allow_redirects=False,  # a signature is for the API that was named, not for one that it points to
        ) as response:
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > ANSWER_BYTES_MAX:
                    raise MalformedAnswerError(f"{api} answered more than {ANSWER_BYTES_MAX} bytes")
            return response.status, bytes(content), response.headers


def without_nulls(value: Any) -> Any:
    """A JSON value without the keys whose value is null, as upstream's client sends it."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def _checked(api: str) -> str:
    try:
        parts = urlsplit(api)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or parts.query or parts.fragment:
        raise LocalProtocolError(f"API {api!r}; expected a base URL such as https://node.example.org")
    return api.rstrip("/")


def _add_request(add: Add) -> _Signed:
    headers = {**_auth(ss58_encode(add.hotkey), add.nonce, add.signature), "Content-Type": "application/json"}
    return _Signed("POST", "/nodes/", headers, add.body)


def _auth(address: str, nonce: str, signature: bytes) -> dict[str, str]:
    return {"X-Chutes-Hotkey": address, "X-Chutes-Nonce": nonce, "X-Chutes-Signature": signature.hex()}


_REFUSALS: Final[Mapping[int, type[RefusedError]]] = {
    400: InvalidRequestError,
    401: AuthRefusedError,
    403: AuthRefusedError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: TooOftenError,
}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds after which an API wants to be asked again, None where it names none."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _to_be_asked_elsewhere(status: int, retry_after_s: float | None) -> bool:
    """Whether an answer decides nothing: the API's own fault, a time-out, or a rate limit that names when to return."""
    return status >= 500 or status == 408 or (status == 429 and retry_after_s is not None)


def _decide(api: str, status: int, content: bytes, expected: int) -> Any:
    """JSON of the expected answer, or the error that a refusal is."""
    if status == expected:
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise MalformedAnswerError(f"{api} answered {status} without JSON; is it a p2pnodes daemon?") from error
    if 300 <= status < 400:
        raise RefusedError(status, "a redirect; give the daemon's base URL, such as http://host:port", api)
    raise _REFUSALS.get(status, RefusedError)(status, _detail(content), api)


def _detail(content: bytes) -> str:
    """The daemon's reason as one bounded line."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = content.decode(errors="replace")
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    if isinstance(detail, list):
        detail = "; ".join(_field_error(item) for item in detail)
    text = detail if isinstance(detail, str) else orjson.dumps(detail).decode()
    text = " ".join(text.split()) or "no reason given"
    return text if len(text) <= DETAIL_CHARS_MAX else text[: DETAIL_CHARS_MAX - 3] + "..."


def _field_error(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    loc = item.get("loc")
    return f"{'.'.join(str(part) for part in loc) if isinstance(loc, list) else loc}: {item.get('msg')}"


def _reason(error: aiohttp.ClientError) -> str:
    """One line for what the connection did."""
    if isinstance(error, aiohttp.ClientConnectorError):
        failed = error.os_error
        # A refused connection's own text repeats the address; a name that is not found has a negative number.
        return os.strerror(failed.errno) if failed.errno and failed.errno > 0 else failed.strerror or str(failed)
    return str(error) or type(error).__name__


def _parse(model: type[_Model], api: str, answer: Any) -> _Model:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        loc = ".".join(str(part) for part in first["loc"])
        raise MalformedAnswerError(
            f"{api} answered no {model.__name__}: {loc or 'answer'}: {first['msg']}; is it a p2pnodes daemon?"
        ) from error


def _mapping(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise MalformedAnswerError("the API answered no JSON object; is it a p2pnodes daemon?")
    return answer
