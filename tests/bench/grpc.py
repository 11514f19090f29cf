"""etcd's own protocol, as far as the benchmark needs it: gRPC over HTTP/2, frames made by hand.

A client library costs several times what etcd takes for a put; this costs as little as ``load.py`` takes for HTTP/1.1,
and so measures etcd and not its client. One call at a time on each connection: etcd, which gives back what it has read
before it answers, then never keeps one waiting for room. Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC's
"gRPC over HTTP2", etcd's rpc.proto and kv.proto.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from tests.bench.load import ANSWER_S_MAX

OK: Final = 200
"""Status of a call that was answered with a message; gRPC answers one that failed without."""

FAILED: Final = 500

PUT: Final = "/etcdserverpb.KV/Put"
RANGE: Final = "/etcdserverpb.KV/Range"
WATCH: Final = "/etcdserverpb.Watch/Watch"

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW: Final = 0x4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME: Final = struct.Struct(">HBBBI")
"""Length (16 and 8 bits), type, flags, stream."""

_WINDOW_BYTES: Final = 1 << 30
"""What etcd may send in all before it waits: what it sends in a run is far below."""

_READ_BYTES: Final = 1 << 16


class Calls:
    """Calls of one method on one connection, one after the other: bytes in, bytes out.

    Attributes:
        opening: What is sent first.
        messages: What the call under way was answered with so far.
        due: What must be sent to keep the connection; to be emptied by who sends it.
    """

    def __init__(self, port: int, method: str) -> None:
        # HPACK without its table: an indexed field (0x80 and its number), or a literal one that is not to be kept.
        self._headers = b"".join(
            (
                b"\x83\x86",  # :method POST, :scheme http
                b"\x04" + _string(method),  # :path
                b"\x01" + _string(f"127.0.0.1:{port}"),  # :authority
                b"\x0f\x10" + _string("application/grpc"),  # content-type
                b"\x00" + _string("te") + _string("trailers"),
            )
        )
        settings = struct.pack(">HI", _INITIAL_WINDOW, _WINDOW_BYTES)
        window = struct.pack(">I", _WINDOW_BYTES)
        self.opening: Final = _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, window)
        self.messages: list[bytes] = []
        self.due = b""
        self._stream = -1
        self._received = b""
        self._body = b""

    def begin(self, message: bytes, *, last: bool = True) -> bytes:
        """What begins a call; with ``last`` its client has no more to say."""
        self._stream += 2
        self.messages, self._body = [], b""
        body = b"\x00" + len(message).to_bytes(4, "big") + message
        head = _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        return head + _frame(_DATA, _END_STREAM if last else 0, self._stream, body)

    def receive(self, data: bytes) -> bool:
        """Take what has arrived; whether the call is over.

        Raises:
            ConnectionError: etcd ended the connection or the call.
        """
        if not data:
            raise ConnectionError("etcd closed the connection")
        self._received += data
        over = False
        while len(self._received) >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(self._received)
            end = _FRAME.size + (high << 8 | low)
            if len(self._received) < end:
                break
            body, self._received = self._received[_FRAME.size : end], self._received[end:]
            if kind in {_RESET, _GOAWAY}:
                raise ConnectionError(f"etcd ended the call: {body!r}")
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                self.due += _frame(kind, _ACK, 0, body if kind == _PING else b"")
            elif kind == _DATA:
                self._take(body)
            over |= stream == self._stream and kind in {_DATA, _HEADERS} and bool(flags & _END_STREAM)
        return over

    def _take(self, body: bytes) -> None:
        self._body += body
        while len(self._body) >= 5 and len(self._body) >= (end := 5 + int.from_bytes(self._body[1:5], "big")):
            self.messages.append(self._body[5:end])
            self._body = self._body[end:]


class GrpcConnection:
    """Puts for ``load.drive``; a request is a ``put``."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._calls = Calls(port, PUT)
        self.status = 0
        self.socket.sendall(self._calls.opening)

    def send(self, request: bytes) -> None:
        """Send a call."""
        self.socket.sendall(self._calls.begin(request))

    def receive(self) -> bool:
        """Take what has arrived; whether the answer is whole."""
        over = self._calls.receive(self.socket.recv(_READ_BYTES))
        if self._calls.due:
            self.socket.sendall(self._calls.due)
            self._calls.due = b""
        if over:
            self.status = OK if self._calls.messages else FAILED
        return over


class Client:
    """Calls of one method from an event loop, on one connection."""

    def __init__(self, port: int, method: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use ``connected`` instead."""
        self._calls = Calls(port, method)
        self._reader = reader
        self._writer = writer
        writer.write(self._calls.opening)

    async def call(self, message: bytes) -> bytes:
        """The answer to a call.

        Raises:
            ConnectionError: It failed.
        """
        found = [answer async for answers in self.answers(message) for answer in answers]
        if not found:
            raise ConnectionError("etcd refused a call")
        return found[0]

    async def answers(self, message: bytes, *, last: bool = True) -> AsyncIterator[list[bytes]]:
        """All that answers a call, what has arrived at once; see ``Calls.begin``."""
        self._writer.write(self._calls.begin(message, last=last))
        over = False
        while not over:
            over = self._calls.receive(await self._reader.read(_READ_BYTES))
            if self._calls.due:
                self._writer.write(self._calls.due)
                self._calls.due = b""
            found, self._calls.messages = self._calls.messages, []
            if found:
                yield found


@asynccontextmanager
async def connected(port: int, method: str) -> AsyncIterator[Client]:
    """A client of a member on this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(port, method, reader, writer)
    finally:
        writer.close()


# -- messages (protobuf) ---------------------------------------------------------------------------------------------

_EVERYTHING: Final = b"\x00"
"""As key and as the end of a range: all keys."""


def put(key: bytes, value: bytes) -> bytes:
    """A PutRequest."""
    return _field(1, key) + _field(2, value)


def count_all() -> bytes:
    """A RangeRequest: how many keys the asked member itself holds."""
    return _field(1, _EVERYTHING) + _field(2, _EVERYTHING) + b"\x38\x01" + b"\x48\x01"  # serializable, count_only


def counted(answer: bytes) -> int:
    """The answer to ``count_all``."""
    return next((int(value) for number, value in _fields(answer) if number == 4 and isinstance(value, int)), 0)


def watch_all() -> bytes:
    """A WatchRequest: tell what is put from now on."""
    return _field(1, _field(1, _EVERYTHING) + _field(2, _EVERYTHING))


def watched(answer: bytes) -> Iterator[bytes]:
    """The values that a WatchResponse tells."""
    for number, event in _fields(answer):
        if number == 11 and isinstance(event, bytes):
            key_value = next(value for name, value in _fields(event) if name == 2 and isinstance(value, bytes))
            yield next(value for name, value in _fields(key_value) if name == 5 and isinstance(value, bytes))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: varints and what has a length, as all that is read here."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        value, at = _number(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value
        else:
            assert tag & 7 == 0, f"a field of wire type {tag & 7}"
            yield tag >> 3, value


def _number(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _string(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()  # below 127 bytes, not compressed


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _FRAME.pack(len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body
