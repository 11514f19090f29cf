"""Frames: what two peers say to each other once the handshake is over.

A frame is one canonical array whose first value is its kind. The set is closed: what is not one of the five kinds
below, in exactly its form and within its bounds, is malformed and costs the session. PROTOCOL.md, "Frames", says the
same for implementers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.clock import MS_MAX
from p2pnodes.model.codec import DIGEST_BYTES, MalformedError
from p2pnodes.model.events import EVENT_BYTES_MAX, LOG_NUMBER_MAX, Event, Head, LogId
from p2pnodes.model.keys import KEY_BYTES

FRAME_BYTES_MAX: Final = 1 << 20
"""Bound of a frame. The largest that this build sends is a full part of a vector; see LOGS_PER_FRAME."""

EVENTS_PER_FRAME_MAX: Final = 512
"""Events in one frame; they are stored in one job of the writer, so this also bounds how long others wait for it."""

BATCH_BYTES: Final = 256 * 1024
"""Size at which a batch of events is cut into another frame."""

WANT_BYTES_MAX: Final = 256 * 1024
"""Most credit that one want can give; a single event larger than its credit still comes, alone."""

LOGS_MAX: Final = 65_536
"""Logs in a version vector: 256 validators with as many logs each as one hotkey may open."""

LOGS_PER_FRAME: Final = 4_096
"""Logs in one part of a vector, 333 KiB at most."""

SEQ_MAX: Final = codec.INT_MAX - 1
"""Highest seq: the one after it must still be a number on the wire."""

_DIGEST, _VECTOR, _WANT, _RANGE, _EVENTS = range(1, 6)


class Digest(NamedTuple):
    """What a peer holds, in three hashes; sent at the beginning of a session and now and then.

    Attributes:
        asks: Whether the receiver answers with its own digest at once; an answer never asks.
        clock_ms: The sender's wall clock, Unix milliseconds.
        vector: Digest of its version vector, as far as its logs are permitted: ``store.ledger.State.vector_digest``.
        state_root: Its state root.
        electorate: Digest of its electorate; state roots compare only where this and the vector are equal.
    """

    asks: bool
    clock_ms: int
    vector: bytes
    state_root: bytes
    electorate: bytes

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_DIGEST, *self])


class Vector(NamedTuple):
    """A part of the sender's version vector, which has every log that it holds, permitted or not.

    Attributes:
        part: 0, 1, 2 …; part 0 begins a new vector.
        last: Whether the vector ends here.
        heads: Logs and their heads, in ascending order of logs over all parts.
    """

    part: int
    last: bool
    heads: Sequence[tuple[LogId, Head]]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_VECTOR, self.part, self.last, [[*log, *head] for log, head in self.heads]])


class Want(NamedTuple):
    """Asks for a range of a log, and is the credit for it: one range frame comes back, then the sender waits.

    Attributes:
        log: The log.
        first_seq: First event that is wanted.
        size_bytes: Events of at most this size together, 1 to WANT_BYTES_MAX.
    """

    log: LogId
    first_seq: int
    size_bytes: int

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_WANT, *self.log, self.first_seq, self.size_bytes])


class Range(NamedTuple):
    """The answer to a want: consecutive events, as many as the credit allowed, none when there is none.

    Attributes:
        log: The log.
        first_seq: As wanted.
        wires: The events as their author signed them.
    """

    log: LogId
    first_seq: int
    wires: Sequence[bytes]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_RANGE, *self.log, self.first_seq, list(self.wires)])


class Events(NamedTuple):
    """Events of any logs, new to the sender and perhaps to the receiver; each log's are in order."""

    wires: Sequence[bytes]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_EVENTS, list(self.wires)])


Frame = Digest | Vector | Want | Range | Events


def decode(frame: bytes) -> Frame:
    """Read a frame; the events in it stay bytes.

    Raises:
        MalformedError: Too large, not canonical, of an unknown kind, or out of one of its bounds.
    """
    if len(frame) > FRAME_BYTES_MAX:
        raise MalformedError(f"frame of {len(frame)} bytes: at most {FRAME_BYTES_MAX} are allowed")
    kind, *fields = codec.array(codec.unpack(frame), 1, 6, "frame")
    match codec.integer(kind, "kind of frame", _DIGEST, _EVENTS):
        case 1:
            return _digest(fields)
        case 2:
            return _vector(fields)
        case 3:
            return _want(fields)
        case 4:
            return _range(fields)
        case _:
            (wires,) = codec.fields(fields, 1, "events")
            return Events(_wires(wires, 1))


def vector_parts(heads: Iterable[tuple[LogId, Head]]) -> Iterator[Vector]:
    """Cut a version vector, already in ascending order of logs, into frames; an empty one is one empty part."""
    held = list(heads)[:LOGS_MAX]
    starts = range(0, max(1, len(held)), LOGS_PER_FRAME)
    for part, start in enumerate(starts):
        yield Vector(part, start == starts[-1], held[start : start + LOGS_PER_FRAME])


def batches(events: Iterable[Event]) -> Iterator[bytes]:
    """Pack events into as few frames as their bounds allow, in order."""
    wires: list[bytes] = []
    size = 0
    for event in events:
        if wires and (size + len(event.wire) > BATCH_BYTES or len(wires) == EVENTS_PER_FRAME_MAX):
            yield Events(wires).encode()
            wires, size = [], 0
        wires.append(event.wire)
        size += len(event.wire)
    if wires:
        yield Events(wires).encode()


def _digest(fields: Sequence[codec.Value]) -> Digest:
    asks, clock_ms, vector, root, electorate = codec.fields(fields, 5, "digest")
    return Digest(
        codec.boolean(asks, "asks"),
        codec.integer(clock_ms, "clock", 0, MS_MAX),
        codec.binary(vector, "vector digest", DIGEST_BYTES),
        codec.binary(root, "state root", DIGEST_BYTES),
        codec.binary(electorate, "electorate digest", DIGEST_BYTES),
    )


def _vector(fields: Sequence[codec.Value]) -> Vector:
    part, last, entries = codec.fields(fields, 3, "vector")
    heads: list[tuple[LogId, Head]] = []
    for entry in codec.array(entries, 0, LOGS_PER_FRAME, "vector"):
        node_key, number, seq, event_id = codec.fields(entry, 4, "log in a vector")
        head = Head(codec.integer(seq, "seq", 0, SEQ_MAX), codec.binary(event_id, "event id", DIGEST_BYTES))
        log = _log(node_key, number)
        if heads and log <= heads[-1][0]:
            raise MalformedError("vector: its logs are not in ascending order")
        heads.append((log, head))
    return Vector(codec.integer(part, "part", 0, LOGS_MAX // LOGS_PER_FRAME - 1), codec.boolean(last, "last"), heads)


def _want(fields: Sequence[codec.Value]) -> Want:
    node_key, number, first_seq, size_bytes = codec.fields(fields, 4, "want")
    return Want(
        _log(node_key, number),
        codec.integer(first_seq, "first seq", 0, SEQ_MAX),
        codec.integer(size_bytes, "size", 1, WANT_BYTES_MAX),
    )


def _range(fields: Sequence[codec.Value]) -> Range:
    node_key, number, first_seq, wires = codec.fields(fields, 4, "range")
    return Range(_log(node_key, number), codec.integer(first_seq, "first seq", 0, SEQ_MAX), _wires(wires, 0))


def _log(node_key: codec.Value, number: codec.Value) -> LogId:
    return LogId(codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number", 0, LOG_NUMBER_MAX))


def _wires(value: codec.Value, low: int) -> list[bytes]:
    wires = codec.array(value, low, EVENTS_PER_FRAME_MAX, "events")
    return [codec.binary(wire, "event", 1, EVENT_BYTES_MAX) for wire in wires]
