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
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Annotated, Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from yarl import URL

from p2pnodes.miner.sse import SseEvent, SseParser
from p2pnodes.model import codes
from p2pnodes.model.addresses import base_url
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import LocalProtocolError, P2PNodesError, RemoteProtocolError
from p2pnodes.model.events import URL_CHARS_MAX
from p2pnodes.model.keys import Hotkey, ss58_encode
from p2pnodes.model.requests import (
    NONCE_WINDOW_S,
    PURPOSE_DELETE,
    PURPOSE_MINER,
    PURPOSE_STATUS,
    Add,
    bound_purpose,
    sign_add,
    sign_delete,
    signing_message,
)
from p2pnodes.outbound import tls_reason

RETRIES: Final = 5
RETRY_DELAY_S: Final = 3.0
"""What upstream's miner client does (compat.md, section 4)."""

RETRY_AFTER_S_MAX: Final = 30.0
"""Longest pause that an API can ask for; the API that is ready first decides when the next round begins."""

LIMITED_S_MAX: Final = 120.0
"""Longest pause of a 429 that is waited out. One that asks for more is a refusal: rate limits of daemons and too many
open claims ask for a minute at most, a GPU that changed hands too often for up to a day."""

TIMEOUT_S: Final = 30.0
SIGNATURE_AGE_S_MAX: Final = NONCE_WINDOW_S // 2
"""Age at which a request is signed anew: half the window stays for a clock that differs and an answer that is slow."""

POLL_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bound of an answer; a detailed inventory of 100,000 GPUs has about half of that."""

POLL_GAP_S: Final = 0.025
"""Shortest pause between two polls, however many tasks are waited for: 40 a second, where a daemon lets one hotkey keep
up 50 by default."""

NODE_LIST_NODES_MAX: Final = 100_000
NODE_LIST_BYTES_MAX: Final = 128 * 1024 * 1024
NODE_LIST_S_MAX: Final = 300.0
"""Bounds of one miner's list of nodes; a row has about 700 bytes, and upstream's largest miners have a few thousand."""

STREAM_SILENT_S_MAX: Final = 45.0
"""Silence after which a stream of events counts as broken: three of the comments that daemons send every 15 s."""

STREAM_CONNECT_S_MAX: Final = 10.0
RECONNECT_S: Final = 1.0
"""Pause after a stream that broke, where the daemon asks for no other; RECONNECT_S_MIN to RETRY_AFTER_S_MAX."""

RECONNECT_S_MIN: Final = 0.5
EVENT_ID_CHARS_MAX: Final = 256
"""Longest id of an event that is given back as Last-Event-ID."""

REFERRALS_READ: Final = 16
REFERRALS_SHOWN: Final = 3
"""URLs of other validators in a 503 that are looked at, which is all that a daemon names, and that are shown."""

EVENT_STREAM: Final = "text/event-stream"
APIS_MAX: Final = 64
DETAIL_CHARS_MAX: Final = 2_000
GO_AWAY: Final = "go away"
"""All that the interface says of a task that is another's or none at all (compat.md, section 3)."""

_Model = TypeVar("_Model", bound=BaseModel)
_TOTALS: Final = TypeAdapter(dict[str, dict[str, int]])


class MinerError(P2PNodesError):
    """Root of what the client raises."""

    code = Code.MINER_ANSWER


class ApiUnreachableError(MinerError):
    """No daemon took the request, after all retries; it may have been recorded all the same, and can be repeated.

    An API without TLS that can be trusted is not tried again.

    Attributes:
        failures: API -> why it did not serve the request, the last time it was tried.
    """

    code = Code.MINER_UNREACHABLE

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
        code: The daemon's code of its refusal, where it names one.
    """

    code = Code.MINER_REFUSED

    def __init__(self, status: int, detail: str, api: str, *, code: str | None = None) -> None:
        super().__init__(f"{api} answered {status}: {detail}", code=code)
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

    code = Code.MINER_ANSWER


class TaskFailedError(MinerError):
    """The validators' vote went against a claim, or the task cannot be judged.

    Attributes:
        detail: Why.
    """

    code = Code.MINER_TASK_FAILED

    def __init__(self, task_id: str, detail: str) -> None:
        super().__init__(f"task {task_id} failed: {detail}")
        self.detail = detail


class TaskTimeoutError(MinerError):
    """A claim was still pending when the time was up; it stays in the inventory and may be verified later."""

    code = Code.MINER_TASK_PENDING


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


class NodeList(NamedTuple):
    """A miner's own nodes, as one API lists them.

    Attributes:
        api: Base URL of the API.
        nodes: One JSON object per GPU, with all columns that the API has, in its order.
        malformed: What else was in the list: ``row 3: not JSON`` and the like; rows count from 1.
    """

    api: str
    nodes: list[dict[str, Any]]
    malformed: list[str]


class NodesEvent(NamedTuple):
    """One event of a daemon's stream ``GET /nodes/events``.

    Attributes:
        type: ``reset`` (what was told so far no longer counts), then a snapshot of ``node`` and ``claim`` until
            ``snapshot_end``; from then on ``node``, ``node_deleted`` and ``claim`` as they change. Others may come.
        data: What it is about.
        api: Base URL of the daemon.
    """

    type: str
    data: dict[str, Any]
    api: str


class WaitProgress(NamedTuple):
    """How a wait stands: tasks still pending and decided, polls that were answered, events that were streamed."""

    pending: int
    decided: int
    polls: int
    events: int


class _BusyError(MinerError):
    """An API serves no stream at the moment; it may in some seconds."""

    code = Code.MINER_UNREACHABLE

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Hints:
    """Tasks that a stream says are decided. Each is asked for out of turn once, and then again only behind its turn.

    So a stream makes a wait shorter, never longer, and one that lies costs one poll per turn.
    """

    def __init__(self, waiting: Mapping[str, None]) -> None:
        self.events = 0
        self.wake: Final = asyncio.Event()
        self._waiting = waiting
        self._heard: dict[str, None] = {}
        self._taken: set[str] = set()

    def hear(self, task_id: str) -> None:
        """Note a task that is to be asked for at once."""
        if task_id in self._waiting and task_id not in self._taken:
            self._heard[task_id] = None
            self.wake.set()

    def take(self) -> str | None:
        """The task to ask for next, out of turn."""
        task_id = next(iter(self._heard), None)
        if task_id is not None:
            self._forget(task_id)
            self._taken.add(task_id)
        return task_id

    def turn(self, task_id: str) -> None:
        """Its turn has come, or its wait is over: what was heard is answered, and the next hint counts again."""
        self._taken.discard(task_id)
        self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        self._heard.pop(task_id, None)
        if not self._heard:
            self.wake.clear()


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
            raise LocalProtocolError(f"{len(apis)} APIs; expected 1 to {APIS_MAX}", code=Code.SYSTEM_MISUSE)
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
            raise AuthRefusedError(error.status, meaning, error.api, code=error.code) from error

    async def wait_verified(
        self,
        task_id: str,
        *,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
        on_progress: Callable[[WaitProgress], None] | None = None,
    ) -> TaskStatus:
        """Wait until a claim is no longer pending; see ``wait_decided``.

        Args:
            task_id: As ``add`` returned it.
            timeout_s: Bound of the whole wait; None waits for as long as the APIs answer.
            poll_s: Pause between polls.
            on_progress: Called after each poll and each event.

        Raises:
            TaskFailedError: The vote went against the claim.
            TaskTimeoutError: Still pending after ``timeout_s``.
            RefusedError: See ``task_status``, also for the others that it raises.
        """
        decided = await self.wait_decided([task_id], timeout_s=timeout_s, poll_s=poll_s, on_progress=on_progress)
        task = decided.get(task_id)
        if task is None:
            raise TaskTimeoutError(
                f"task {task_id} is still pending after {timeout_s:g} s; it may be verified later, ask again"
            )
        if task.status in {"failed", "error"}:
            raise TaskFailedError(task_id, task.reason or "the API gives no reason")
        return task

    async def wait_decided(
        self,
        task_ids: Sequence[str],
        *,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
        on_progress: Callable[[WaitProgress], None] | None = None,
    ) -> dict[str, TaskStatus]:
        """Wait until claims are no longer pending.

        They are polled in turn; where an API streams events, one that tells of a decision makes the next poll come at
        once. What counts is always the answer to a signed poll.

        Args:
            task_ids: As ``add`` returned them.
            timeout_s: Bound of the whole wait; None waits for as long as the APIs answer.
            poll_s: Pause between two polls of one task; longer where more than ``poll_s / POLL_GAP_S`` are pending.
            on_progress: Called after each poll and each event.

        Returns:
            The tasks that were decided in time; those that are absent are still pending.

        Raises:
            RefusedError: See ``task_status``, also for the others that it raises.
        """
        waiting = dict.fromkeys(task_ids)  # whose turn comes next is first
        decided: dict[str, TaskStatus] = {}
        hints = _Hints(waiting)
        polls = 0
        watcher: asyncio.Task[None] | None = None

        def tell() -> None:
            if on_progress is not None:
                on_progress(WaitProgress(len(waiting), len(decided), polls, hints.events))

        try:
            async with asyncio.timeout(timeout_s):
                while waiting:
                    task_id = hints.take()
                    if task_id is None:
                        task_id = next(iter(waiting))
                        waiting[task_id] = waiting.pop(task_id)
                        hints.turn(task_id)
                    task = await self.task_status(task_id)
                    polls += 1
                    if task.status != "pending":
                        del waiting[task_id]
                        hints.turn(task_id)
                        decided[task_id] = task
                    elif watcher is None:
                        watcher = asyncio.create_task(self._watch(hints, tell))
                    tell()
                    if waiting and (task.status != "pending" or hints.wake.is_set()):
                        await self._sleep(POLL_GAP_S)
                    elif waiting:
                        await self._sleep_or_wake(max(poll_s / len(waiting), POLL_GAP_S), hints.wake)
        except TimeoutError:
            pass  # what is absent from the answer tells
        finally:
            if watcher is not None:
                watcher.cancel()
                await asyncio.wait([watcher])
                if not watcher.cancelled():
                    watcher.result()
        return decided

    async def _watch(self, hints: _Hints, tell: Callable[[], None]) -> None:
        """Hear of decisions from a stream, for as long as there is one; without one, polls go on alone."""
        try:
            async with aclosing(self._follow(self._signer().address, None, None)) as events:
                async for event in events:
                    hints.events += 1
                    tell()
                    task_id = event.data.get("task_id")
                    if event.type == "claim" and event.data.get("status") != "pending" and isinstance(task_id, str):
                        hints.hear(task_id)
        except MinerError:
            pass  # polls tell what is wrong with the APIs, if it is more than the stream

    async def _sleep_or_wake(self, seconds: float, wake: asyncio.Event) -> None:
        tasks = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(wake.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def follow(self, hotkey: str | None = None) -> AsyncGenerator[NodesEvent]:
        """Changes of nodes and claims, as daemons stream them; needs no signature, and ends only with an error.

        A stream that breaks is taken up where it was, at the same daemon; where that one does not serve it any more,
        at the next one, which begins with ``reset`` and a snapshot. Close the generator when you stop early
        (``contextlib.aclosing``).

        Args:
            hotkey: Only this miner's, by SS58 address.

        Raises:
            RefusedError: No API streams events; the last one's answer.
            ApiUnreachableError: In ``retries`` rounds over all APIs no event came, or none has TLS that can be trusted.
        """
        return self._follow(hotkey, self._on_failure, self._on_retry)

    async def _follow(
        self,
        hotkey: str | None,
        on_failure: Callable[[str, str], None] | None,
        on_retry: Callable[[float, int], None] | None,
    ) -> AsyncGenerator[NodesEvent]:
        path = "/nodes/events" + ("" if hotkey is None else f"?{urlencode({'hotkey': hotkey})}")
        apis = list(self.apis)
        failures: dict[str, str] = {}
        last_api, last_id = "", ""
        whole = False  # half a snapshot must not be resumed: what is missing of it would never come
        barren_rounds = 0
        while True:
            waits_s: list[float] = []
            for api in list(apis):
                heard = False
                wait_s = self._retry_delay_s
                parser = SseParser()
                try:
                    async with aclosing(self._stream(api, path, last_id if api == last_api else "", parser)) as stream:
                        async for kind, data, _ in stream:
                            event = NodesEvent(kind, _event_data(data), api)
                            heard, barren_rounds = True, 0
                            whole = kind == "snapshot_end" or (whole and kind != "reset")
                            yield event
                    failures[api] = "the stream of events ended"
                except RefusedError as error:
                    failures[api] = f"{error.status}: {error.detail}"
                    apis.remove(api)  # another answer would surprise: an API that is not ours, or an older one
                    if not apis:
                        raise
                except _BusyError as error:
                    failures[api], wait_s = str(error), error.wait_s
                except TimeoutError:
                    failures[api] = f"silent for {STREAM_SILENT_S_MAX:g} s"
                except aiohttp.ClientSSLError as error:
                    failures[api] = tls_reason(error)
                    apis.remove(api)  # to ask again changes nothing
                except aiohttp.ClientError as error:
                    failures[api] = _reason(error)
                except (MalformedAnswerError, RemoteProtocolError) as error:
                    failures[api] = f"no stream of events: {error}"
                if on_failure is not None:
                    on_failure(api, failures[api])
                if not apis:
                    raise ApiUnreachableError(failures)
                if heard:
                    apis.remove(api)
                    apis.insert(0, api)  # whoever has our last event is asked first
                    last_api, last_id = api, parser.last_id if whole and _fits_a_header(parser.last_id) else ""
                    waits_s = [_reconnect_s(parser)]
                    break
                if api in apis:
                    waits_s.append(wait_s)
            else:
                barren_rounds += 1
            if barren_rounds > self._retries:
                raise ApiUnreachableError(failures)
            if on_retry is not None and barren_rounds:
                on_retry(min(waits_s), barren_rounds)
            await self._sleep(min(waits_s))

    async def _stream(self, api: str, path: str, last_event_id: str, parser: SseParser) -> AsyncGenerator[SseEvent]:
        """Events of one connection; ends when the daemon ends it."""
        headers = {"Accept": EVENT_STREAM, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STREAM_CONNECT_S_MAX, sock_read=STREAM_SILENT_S_MAX)
        async with self._opened().get(
            URL(api + path, encoded=True), headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                content = await _read(response, api, ANSWER_BYTES_MAX)
                retry_after_s = _retry_after_s(response.headers)
                if _to_be_asked_elsewhere(response.status, retry_after_s):
                    wait_s = max(self._retry_delay_s, min(retry_after_s or 0, RETRY_AFTER_S_MAX))
                    raise _BusyError(f"{response.status}: {_detail(content)}", wait_s)
                _require(api, response.status, content, 200, response.headers)
            if response.content_type != EVENT_STREAM:
                raise RefusedError(200, f"{response.content_type}; expected {EVENT_STREAM}", api)
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    yield event

    async def own_nodes(self) -> NodeList:
        """The miner's own nodes: ``GET /miner/nodes/`` of a daemon or of the central API.

        Rows are as they came; ``p2pnodes.miner.adopt`` reads them.

        Raises:
            RefusedError: Or one of its children.
            ApiUnreachableError: No API served the request.
            MalformedAnswerError: No such list, or one over its bounds.
        """
        signer = self._signer()

        def sign(nonce_s: int) -> _Signed:
            signature = signer.sign(signing_message(signer.address, str(nonce_s), PURPOSE_MINER))
            return _Signed("GET", "/miner/nodes/", _auth(signer.address, str(nonce_s), signature))

        _, found = await self._send(
            sign, 200, decode=_node_list, bytes_max=NODE_LIST_BYTES_MAX, timeout_s=NODE_LIST_S_MAX
        )
        assert isinstance(found, NodeList)
        return found

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
            raise LocalProtocolError(
                "this request needs a signature; expected a MinerClient with a hotkey", code=Code.SYSTEM_MISUSE
            )
        return self.hotkey

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise LocalProtocolError(
                "the client is not open; expected `async with MinerClient(...)`", code=Code.SYSTEM_MISUSE
            )
        return self._session

    async def _send(
        self,
        sign: Callable[[int], _Signed],
        expected: int,
        *,
        decode: Callable[[str, bytes], Any] | None = None,
        bytes_max: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[str, Any]:
        """Take one signed request to the APIs, in order and in rounds, until one of them decides.

        Args:
            sign: Makes the request, with a nonce in Unix seconds.
            expected: The status that is no refusal.
            decode: What the answer of an API means, from the API and the bytes; JSON unless given.
            bytes_max: Bound of an answer, ANSWER_BYTES_MAX unless given.
            timeout_s: Bound of one request at one API, the client's own unless given.

        Returns:
            The API that answered, and what its answer means.
        """
        decode = decode or _json
        bytes_max = ANSWER_BYTES_MAX if bytes_max is None else bytes_max
        timeout = self._timeout if timeout_s is None else aiohttp.ClientTimeout(total=timeout_s)
        signed_at_s = int(self._clock())
        request = sign(signed_at_s)
        failures: dict[str, str] = {}
        apis = list(self.apis)
        waits_s: list[float] = []
        for round_number in range(self._retries + 1):
            if round_number:
                if self._on_retry is not None:
                    self._on_retry(min(waits_s), round_number)
                await self._sleep(min(waits_s))
            waits_s = []
            for api in tuple(apis):
                if abs(self._clock() - signed_at_s) > SIGNATURE_AGE_S_MAX:
                    signed_at_s = int(self._clock())
                    request = sign(signed_at_s)
                wait_s = self._retry_delay_s
                try:
                    status, content, headers = await self._exchange(api, request, timeout, bytes_max)
                except TimeoutError:
                    failures[api] = f"no answer within {timeout.total:g} s"
                except aiohttp.ClientSSLError as error:
                    failures[api] = tls_reason(error)
                    apis.remove(api)  # to ask again changes nothing
                except aiohttp.ClientError as error:
                    failures[api] = _reason(error)
                else:
                    retry_after_s = _retry_after_s(headers)
                    if not _to_be_asked_elsewhere(status, retry_after_s):
                        _require(api, status, content, expected, headers)
                        return api, decode(api, content)
                    failures[api] = f"{status}: {_detail(content)}{self._elsewhere(content)}"
                    wait_s = max(wait_s, min(retry_after_s or 0, RETRY_AFTER_S_MAX))
                if api in apis:
                    waits_s.append(wait_s)
                if self._on_failure is not None:
                    self._on_failure(api, failures[api])
            if not apis:
                break
        raise ApiUnreachableError(failures)

    def _elsewhere(self, content: bytes) -> str:
        """Which other validators a daemon names that takes no writes; whether to ask them is the miner's choice."""
        try:
            named = orjson.loads(content)["validators"]
            others = [url for url in named[:REFERRALS_READ] if base_url(url) not in self.apis]
        except (ValueError, TypeError, KeyError, AttributeError):  # most errors name none; a stranger may name anything
            return ""
        shown = [url for url in others if len(url) <= URL_CHARS_MAX][:REFERRALS_SHOWN]
        return f"; validators that may take it: {', '.join(shown)}" if shown else ""

    async def _exchange(
        self, api: str, request: _Signed, limits: aiohttp.ClientTimeout, bytes_max: int
    ) -> tuple[int, bytes, Mapping[str, str]]:
        url = URL(api + request.path, encoded=True)
        async with self._opened().request(
            request.method,
            url,
            headers=request.headers,
            data=request.body,
            timeout=limits,
            allow_redirects=False,  # a signature is for the API that was named, not for one that it points to
        ) as response:
            return response.status, await _read(response, api, bytes_max), response.headers


async def _read(response: aiohttp.ClientResponse, api: str, bytes_max: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > bytes_max:
            raise MalformedAnswerError(f"{api} answered more than {bytes_max} bytes")
    return bytes(content)


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
        raise LocalProtocolError(
            f"API {api!r}; expected a base URL such as https://node.example.org", code=Code.SYSTEM_MISUSE
        )
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
    return (
        status >= 500
        or status == 408
        or (status == 429 and retry_after_s is not None and retry_after_s <= LIMITED_S_MAX)
    )


def _require(api: str, status: int, content: bytes, expected: int, headers: Mapping[str, str]) -> None:
    """Raise the error that another status than the expected one is."""
    if status == expected:
        return
    if 300 <= status < 400:
        raise RefusedError(status, "a redirect; give the daemon's base URL, such as http://host:port", api)
    raise _REFUSALS.get(status, RefusedError)(status, _detail(content), api, code=codes.from_header(headers))


def _json(api: str, content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise MalformedAnswerError(f"{api} answered without JSON; is it a p2pnodes daemon?") from error


def _node_list(api: str, content: bytes) -> NodeList:
    """Rows of ``GET /miner/nodes/``; upstream names no content type, so that only the content tells what it is."""
    parser = SseParser()
    try:
        events = parser.feed(content)
    except RemoteProtocolError as error:
        raise MalformedAnswerError(f"{api} answered no list of nodes: {error}") from error
    if len(events) > NODE_LIST_NODES_MAX:
        raise MalformedAnswerError(f"{api} answered more than {NODE_LIST_NODES_MAX} nodes")
    if parser.pending or (content.strip() and not events):
        raise MalformedAnswerError(
            f"{api} answered no list of nodes, or one that is cut off; expected `data: {{...}}` for each node"
        )
    found = NodeList(api, [], [])
    for number, event in enumerate(events, 1):
        try:
            node = orjson.loads(event.data)
        except orjson.JSONDecodeError as error:
            found.malformed.append(f"row {number}: not JSON: {error}")
            continue
        if isinstance(node, dict):
            found.nodes.append(node)
        else:
            found.malformed.append(f"row {number}: expected a JSON object")
    return found


def _reconnect_s(parser: SseParser) -> float:
    """Pause after a stream that broke."""
    asked_s = RECONNECT_S if parser.retry_ms is None else parser.retry_ms / 1000
    return min(max(asked_s, RECONNECT_S_MIN), RETRY_AFTER_S_MAX)


def _fits_a_header(event_id: str) -> bool:
    return len(event_id) <= EVENT_ID_CHARS_MAX and event_id.isascii() and event_id.isprintable()


def _event_data(text: str) -> dict[str, Any]:
    """Data of one event of ``GET /nodes/events``; without any it is empty."""
    try:
        data = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError(f"an event that is not JSON: {error}", code=Code.MINER_ANSWER) from error
    if not isinstance(data, dict):
        raise RemoteProtocolError("an event that is no JSON object", code=Code.MINER_ANSWER)
    return data


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
