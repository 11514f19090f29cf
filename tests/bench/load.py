"""A load generator that costs less than what it measures: raw requests over a few kept connections, one thread."""

import math
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice
from typing import Final, NamedTuple, Protocol

from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.requests import Add, Delete

ANSWER_S_MAX: Final = 60.0
_READ_BYTES: Final = 1 << 20
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
"""What ends a chunked answer, and is in no JSON text."""


class Load(NamedTuple):
    """What came of a run.

    Attributes:
        per_second: Requests answered.
        statuses: How often each status was answered.
        moments: When each request was sent, or with a pace, when it was due: CLOCK_MONOTONIC, nanoseconds.
        latencies_s: Seconds from sending to the whole answer, in order of the answers.
    """

    per_second: float
    statuses: Counter[int]
    moments: list[int]
    latencies_s: list[float]


class Connection(Protocol):
    """One kept connection and the answer that it waits for."""

    socket: socket.socket
    status: int

    def send(self, request: bytes) -> None:
        """Send a request; there is no other one without its answer."""

    def receive(self) -> bool:
        """Take what has arrived; whether the answer is whole."""


class HttpConnection:
    """Raw HTTP/1.1 requests."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = b""
        self._missing = -1
        self._chunked = False
        self.status = 0

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._head, self._missing, self._chunked = b"", -1, False
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what has arrived; whether the answer is whole."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        if self._chunked:
            self._head = (self._head + data)[-len(_LAST_CHUNK) :]
            return self._head == _LAST_CHUNK
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = self._head[: end + 2].lower()
            self.status = int(head.split(b" ", 2)[1])
            if b"\r\ntransfer-encoding: chunked\r\n" in head:
                self._chunked = True
                self._head = self._head[-len(_LAST_CHUNK) :]
                return self._head == _LAST_CHUNK
            _, _, length = head.partition(b"\r\ncontent-length:")
            self._missing = int(length[: length.find(b"\r\n")] or 0) - (len(self._head) - end - 4)
        else:
            self._missing -= len(data)
        return self._missing == 0


def post(request: Add) -> bytes:
    """A registration as a raw HTTP/1.1 request."""
    headers = (
        f"POST /nodes/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(request.body)}\r\nX-Chutes-Hotkey: {ss58_encode(request.hotkey)}\r\n"
        f"X-Chutes-Nonce: {request.nonce}\r\nX-Chutes-Signature: {request.signature.hex()}\r\n\r\n"
    )
    return headers.encode() + request.body


def get(path: str, **headers: str) -> bytes:
    """A read as a raw HTTP/1.1 request; underscores in the names of headers stand for hyphens."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def delete(request: Delete, uuid: str) -> bytes:
    """A deletion as a raw HTTP/1.1 request."""
    return (
        f"DELETE /nodes/{uuid} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Chutes-Hotkey: {ss58_encode(request.hotkey)}\r\n"
        f"X-Chutes-Nonce: {request.nonce}\r\nX-Chutes-Signature: {request.signature.hex()}\r\n\r\n"
    ).encode()


def answered(load: Load, status: int) -> float:
    """Requests per second, all of which must have been answered with ``status``."""
    if set(load.statuses) != {status}:
        raise SystemExit(f"expected {status} for every request, found {dict(load.statuses)}")
    return load.per_second


def drive(
    ports: Sequence[int],
    requests: Iterable[bytes],
    connections: int,
    *,
    requests_per_s: float = math.inf,
    connect: Callable[[int], Connection] = HttpConnection,
) -> Load:
    """Send requests to 127.0.0.1 over some connections, each the next one when its answer is whole.

    Connections are spread over ``ports``; a fast one of them is sent more. With a pace, request ``n`` is due ``n``
    paces after the begin, and sent then or when a connection is next free.
    """
    waiting = deque(requests)
    total = len(waiting)
    statuses: Counter[int] = Counter()
    selector = selectors.DefaultSelector()
    opened = [connect(port) for port in islice(cycle(ports), min(connections, total))]
    for connection in opened:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    free = deque(opened)
    moments: list[int] = []
    latencies_s: list[float] = []
    sent_ns: dict[Connection, int] = {}
    begin_ns = time.monotonic_ns()
    while sum(statuses.values()) < total:
        pause_s = ANSWER_S_MAX
        while waiting and free:
            due_ns = begin_ns + int(len(moments) / requests_per_s * 1e9)
            now_ns = time.monotonic_ns()
            if due_ns > now_ns:
                pause_s = min(pause_s, (due_ns - now_ns) / 1e9)
                break
            moments.append(now_ns if requests_per_s == math.inf else due_ns)
            connection = free.popleft()
            sent_ns[connection] = now_ns
            connection.send(waiting.popleft())
        ready = selector.select(pause_s)
        if not ready and pause_s == ANSWER_S_MAX:
            raise TimeoutError(f"no answer within {ANSWER_S_MAX:g} s")
        for key, _ in ready:
            connection = key.data
            if connection.receive():
                latencies_s.append((time.monotonic_ns() - sent_ns[connection]) / 1e9)
                statuses[connection.status] += 1
                free.append(connection)
    seconds = (time.monotonic_ns() - begin_ns) / 1e9
    selector.close()
    for connection in opened:
        connection.socket.close()
    return Load(total / seconds, statuses, moments, latencies_s)
