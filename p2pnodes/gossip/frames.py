"""Frames: what two peers say to each other once the handshake is over.

A frame is one canonical array whose first value is its kind. The set is closed: what is not one of the 14 kinds
below, in exactly its form and within its bounds, is malformed and costs the session. docs/protocol.md, "Frames", says
the same for implementers.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.branches import Ends, closing_order
from p2pnodes.model.checkpoint import (
    CERTIFICATE_BYTES_MAX,
    MASK_MAX,
    PATH_MAX,
    SLICE_BYTES_MAX,
    SLICE_LEAVES_MAX,
)
from p2pnodes.model.clock import MS_MAX
from p2pnodes.model.codec import DIGEST_BYTES, MalformedError
from p2pnodes.model.events import (
    EVENT_BYTES_MAX,
    LEAVES_MAX,
    LOG_NUMBER_MAX,
    Close,
    Delegation,
    Event,
    Evidence,
    Head,
    Header,
    LogId,
    kind_of,
)
from p2pnodes.model.keys import KEY_BYTES
from p2pnodes.store.vector import SLICE_BYTES, SLICES, slice_of

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
"""Logs in one part of a vector, 600 KiB at most."""

VECTOR_BYTES_MAX: Final = 9 << 20
"""All parts of the largest vector together. That of 256 validators with a log each has 36 KiB at most."""

SCOPE_BYTES: Final = SLICES // 8
"""Length of the bitmap that says which slices a vector lists."""

ALL_SLICES: Final = b"\xff" * SCOPE_BYTES
"""The scope of a whole vector."""

PROOFS_PER_FRAME_MAX: Final = 64
"""Proofs in one frame, 45 KiB at most. The writer checks them in one job, some 100 microseconds each."""

BOOK_PER_FRAME_MAX: Final = 64
"""Delegations in one frame, 90 KiB at most. Their signatures are checked at once, some 100 microseconds each."""

ARRAYS_PER_FRAME_MAX: Final = 8 * LOGS_PER_FRAME
"""Arrays in one frame, and values in one array: a full part of a vector has half as many."""

HAVES_PER_FRAME_MAX: Final = 512
"""Logs in one announcement, 11 KiB at most."""

AGE_MS_MAX: Final = 65_535
"""Highest age in an announcement; what is older says so."""

TAG_BYTES: Final = 8
"""Length of the short name of a log in announcements. Two logs of one tag cost an announcement, which anti-entropy
makes up for; to make one's own log collide with a certain other one takes 2^64 key pairs."""

SEQ_MAX: Final = codec.INT_MAX - 1
"""Highest seq: the one after it must still be a number on the wire."""

_ENCODING_BYTES: Final = 16
"""What the encoding adds at most to a byte string and the array that it stands in, its kind and numbers included."""

_FIELDS_MAX: Final = 6
"""Fields of a frame behind its kind; a digest has as many."""

assert CERTIFICATE_BYTES_MAX + 2 * _ENCODING_BYTES <= FRAME_BYTES_MAX
assert SLICE_BYTES_MAX + (SLICE_LEAVES_MAX + 3) * _ENCODING_BYTES + PATH_MAX * 2 * DIGEST_BYTES <= FRAME_BYTES_MAX

_DIGEST, _VECTOR, _WANT, _RANGE, _EVENTS, _PROOFS, _BOOK, _LINK, _HAVE, _SLICES = range(1, 11)
_CERTIFICATE_WANT, _CERTIFICATE, _LEAVES_WANT, _LEAVES = range(11, 15)


class Mode(IntEnum):
    """What one end of a session wants to be pushed by the other.

    Attributes:
        NOTHING: The sender has no place for the receiver in its active view.
        NEWS: Announcements of new events; after EVENTS, the sender got them sooner elsewhere (Plumtree's PRUNE).
        EVENTS: The events themselves; after NEWS, the sender missed one (Plumtree's GRAFT).
    """

    NOTHING = 0
    NEWS = 1
    EVENTS = 2


class Mark(NamedTuple):
    """What a vector says of a log's end; ``model.branches.Ends`` are the proofs behind it.

    Attributes:
        fork: Lowest seq at which the log is proved to have two events; None without a fork.
        close: How many of its events its lowest closing leaves good, and the id of the last (empty for none); None
            without a closing.
    """

    fork: int | None
    close: tuple[int, bytes] | None

    @classmethod
    def of(cls, ends: Ends) -> "Mark | None":
        """The mark of some proofs; None where there are none."""
        if ends.evidence is None and ends.close is None:
            return None
        return cls(ends.fork, None if ends.close is None else closing_order(ends.close))

    def forks_below(self, other: "Mark | None") -> bool:
        """Whether this one knows a fork of which the other's holder has to hear."""
        return self.fork is not None and (other is None or other.fork is None or self.fork < other.fork)

    def closes_below(self, other: "Mark | None") -> bool:
        """The same of a closing."""
        return self.close is not None and (other is None or other.close is None or self.close < other.close)

    def merged(self, other: "Mark | None") -> "Mark":
        """What somebody knows who has been told both."""
        if other is None:
            return self
        return Mark(
            self.fork if self.forks_below(other) else other.fork,
            self.close if self.closes_below(other) else other.close,
        )


class Entry(NamedTuple):
    """What a vector says of one log.

    Attributes:
        log: The log.
        head: Its last event that counts; None where none does.
        mark: Where it ends; None where no end of it is proved.
    """

    log: LogId
    head: Head | None
    mark: Mark | None


class Digest(NamedTuple):
    """What a peer holds, in three hashes; sent at the beginning of a session and now and then.

    Attributes:
        asks: Whether the receiver answers with its own digest at once; an answer never asks.
        clock_ms: The sender's wall clock, Unix milliseconds.
        vector: Digest of its version vector, as far as its logs are permitted: ``store.state.State.vector_digest``.
        state_root: Its state root.
        electorate: Digest of its electorate; state roots compare only where this, the vector and the checkpoint are
            equal.
        checkpoint: Number of the checkpoint in force, 0 for none: its certificate and live set can be asked for. None
            while that live set is being loaded, or what it leaves out is still being taken away.
    """

    asks: bool
    clock_ms: int
    vector: bytes
    state_root: bytes
    electorate: bytes
    checkpoint: int | None = 0

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_DIGEST, *self])


class Slices(NamedTuple):
    """The hashes of all parts of the sender's version vector; the receiver lists what it has in those that differ.

    Attributes:
        digests: SLICES hashes of SLICE_BYTES; see ``store.vector``.
    """

    digests: Sequence[bytes]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_SLICES, list(self.digests)])


class Vector(NamedTuple):
    """A part of the sender's version vector, which has every log that it holds in some slices, permitted or not.

    Attributes:
        part: 0, 1, 2 …; part 0 begins a new vector.
        last: Whether the vector ends here.
        scope: The slices that it lists, the same ones in all parts: bit i % 8, the lowest first, of byte i // 8.
        entries: Logs, in ascending order over all parts.
    """

    part: int
    last: bool
    scope: bytes
    entries: Sequence[Entry]

    def encode(self) -> bytes:
        """The frame."""
        entries = [[*log, head, mark] for log, head, mark in self.entries]
        return codec.pack([_VECTOR, self.part, self.last, self.scope, entries])


class Want(NamedTuple):
    """Asks for a range of a log, and is the credit for it: one range frame comes back, then the sender waits.

    Attributes:
        log: The log.
        first_seq: First event that is wanted.
        count_max: Events that are wanted, 1 to EVENTS_PER_FRAME_MAX.
        size_bytes: Events of at most this size together, 1 to WANT_BYTES_MAX.
    """

    log: LogId
    first_seq: int
    count_max: int
    size_bytes: int

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_WANT, *self.log, self.first_seq, self.count_max, self.size_bytes])


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


class Proofs(NamedTuple):
    """What proves that logs end, for a receiver that has not heard of it; of any logs, in any order."""

    proofs: Sequence[Evidence | Close]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_PROOFS, [[kind_of(proof), *proof.to_wire()] for proof in self.proofs]])


class Book(NamedTuple):
    """Where daemons are that the sender has met, in the words of their own validators.

    Attributes:
        entries: Logs with their delegations, in ascending order of logs.
    """

    entries: Sequence[tuple[LogId, Delegation]]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_BOOK, [[*log, delegation.to_wire()] for log, delegation in self.entries]])


class Link(NamedTuple):
    """What the sender wants to be pushed from now on; both ends of a link go by what was said last."""

    mode: Mode

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_LINK, int(self.mode)])


class News(NamedTuple):
    """What is announced of a log: all of it up to an event is at the sender.

    Attributes:
        tag: Of the log, see ``log_tag``.
        seq: Of the event.
        age_ms: How long ago the sender stored it, 0 to AGE_MS_MAX.
    """

    tag: bytes
    seq: int
    age_ms: int


class Have(NamedTuple):
    """Announces events that the sender holds (Plumtree's IHAVE); no log twice."""

    news: Sequence[News]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_HAVE, [[*news] for news in self.news]])


class CertificateWant(NamedTuple):
    """Asks for what made a checkpoint final.

    Attributes:
        number: Of the checkpoint.
    """

    number: int

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_CERTIFICATE_WANT, *self])


class CertificateAnswer(NamedTuple):
    """The answer to that.

    Attributes:
        number: As wanted.
        wire: ``model.checkpoint.Certificate.encode``; empty where the sender has none of that number.
    """

    number: int
    wire: bytes

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_CERTIFICATE, *self])


class LeavesWant(NamedTuple):
    """Asks for one slice of the live set of a checkpoint.

    Attributes:
        number: Of the checkpoint.
        place: Of the slice, from 0 on.
    """

    number: int
    place: int

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_LEAVES_WANT, *self])


class Leaves(NamedTuple):
    """The answer to that.

    Attributes:
        number: As wanted.
        place: As wanted.
        leaves: Mask and event of each leaf of the slice; none where the sender does not have it.
        path: What proves it, see ``model.checkpoint.Tree``.
    """

    number: int
    place: int
    leaves: Sequence[tuple[int, bytes]]
    path: Sequence[bytes]

    def encode(self) -> bytes:
        """The frame."""
        return codec.pack([_LEAVES, self.number, self.place, [[*leaf] for leaf in self.leaves], list(self.path)])


Frame = (
    Digest
    | Vector
    | Want
    | Range
    | Events
    | Proofs
    | Book
    | Link
    | Have
    | Slices
    | CertificateWant
    | CertificateAnswer
    | LeavesWant
    | Leaves
)


def decode(frame: bytes) -> Frame:
    """Read a frame; the events in it stay bytes.

    Raises:
        MalformedError: Too large, not canonical, of an unknown kind, or out of one of its bounds.
    """
    if len(frame) > FRAME_BYTES_MAX:
        raise MalformedError(f"frame of {len(frame)} bytes: at most {FRAME_BYTES_MAX} are allowed")
    kind, *fields = codec.array(codec.unpack(frame, arrays_max=ARRAYS_PER_FRAME_MAX), 1, 1 + _FIELDS_MAX, "frame")
    match codec.integer(kind, "kind of frame", _DIGEST, _LEAVES):
        case 1:
            return _digest(fields)
        case 2:
            return _vector(fields)
        case 3:
            return _want(fields)
        case 4:
            return _range(fields)
        case 5:
            (wires,) = codec.fields(fields, 1, "events")
            return Events(_wires(wires, 1))
        case 6:
            return _proofs(fields)
        case 7:
            return _book(fields)
        case 8:
            (mode,) = codec.fields(fields, 1, "link")
            return Link(Mode(codec.integer(mode, "mode", 0, max(Mode))))
        case 9:
            return _have(fields)
        case 10:
            return _slices(fields)
        case 11:
            (number,) = codec.fields(fields, 1, "want of a certificate")
            return CertificateWant(_number(number))
        case 12:
            number, wire = codec.fields(fields, 2, "certificate")
            return CertificateAnswer(_number(number), codec.binary(wire, "certificate", 0, CERTIFICATE_BYTES_MAX))
        case 13:
            number, place = codec.fields(fields, 2, "want of a slice")
            return LeavesWant(_number(number), _place(place))
        case _:
            return _leaves(fields)


@lru_cache(maxsize=8_192)
def log_tag(log: LogId) -> bytes:
    """The short name of a log in announcements."""
    return codec.digest(codec.pack([*log]), 2 * TAG_BYTES)[:TAG_BYTES]


def scope_of(slices: Iterable[int]) -> bytes:
    """The bitmap of some slices."""
    return sum(1 << number for number in set(slices)).to_bytes(SCOPE_BYTES, "little")


def covers(scope: bytes, number: int) -> bool:
    """Whether a slice is in a bitmap."""
    return bool(scope[number // 8] >> number % 8 & 1)


def vector_parts(scope: bytes, entries: Iterable[Entry]) -> Iterator[Vector]:
    """Cut a version vector, already in ascending order of logs, into frames; an empty one is one empty part.

    Args:
        scope: The slices that it lists.
        entries: All logs of these slices.
    """
    held = list(entries)[:LOGS_MAX]
    starts = range(0, max(1, len(held)), LOGS_PER_FRAME)
    for part, start in enumerate(starts):
        yield Vector(part, start == starts[-1], scope, held[start : start + LOGS_PER_FRAME])


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
    asks, clock_ms, vector, root, electorate, checkpoint = codec.fields(fields, 6, "digest")
    return Digest(
        codec.boolean(asks, "asks"),
        codec.integer(clock_ms, "clock", 0, MS_MAX),
        codec.binary(vector, "vector digest", DIGEST_BYTES),
        codec.binary(root, "state root", DIGEST_BYTES),
        codec.binary(electorate, "electorate digest", DIGEST_BYTES),
        None if checkpoint is None else codec.integer(checkpoint, "checkpoint"),
    )


def _vector(fields: Sequence[codec.Value]) -> Vector:
    part, last, scope, listed = codec.fields(fields, 4, "vector")
    scope = codec.binary(scope, "scope", SCOPE_BYTES)
    if not any(scope):
        raise MalformedError("vector: its scope has no slice")
    entries: list[Entry] = []
    for item in codec.array(listed, 0, LOGS_PER_FRAME, "vector"):
        node_key, number, head, mark = codec.fields(item, 4, "log in a vector")
        log = _log(node_key, number)
        if entries and log <= entries[-1].log:
            raise MalformedError("vector: its logs are not in ascending order")
        if not covers(scope, slice_of(log)):
            raise MalformedError("vector: a log lies outside of its scope")
        entries.append(Entry(log, _head(head), _mark(mark)))
    part = codec.integer(part, "part", 0, LOGS_MAX // LOGS_PER_FRAME - 1)
    return Vector(part, codec.boolean(last, "last"), scope, entries)


def _slices(fields: Sequence[codec.Value]) -> Slices:
    (listed,) = codec.fields(fields, 1, "slices")
    return Slices([codec.binary(each, "slice", SLICE_BYTES) for each in codec.fields(listed, SLICES, "slices")])


def _head(value: codec.Value) -> Head | None:
    if value is None:
        return None
    seq, event_id = codec.fields(value, 2, "head")
    return Head(codec.integer(seq, "seq", 0, SEQ_MAX), codec.binary(event_id, "event id", DIGEST_BYTES))


def _mark(value: codec.Value) -> Mark | None:
    if value is None:
        return None
    fork, close = codec.fields(value, 2, "mark")
    if fork is None and close is None:
        raise MalformedError("mark: expected a fork or a closing, found neither")
    if close is not None:
        good, last = codec.fields(close, 2, "closing in a mark")
        good = codec.integer(good, "good events")
        close = (good, codec.binary(last, "event id", DIGEST_BYTES if good else 0))
    return Mark(None if fork is None else codec.integer(fork, "fork"), close)


def _want(fields: Sequence[codec.Value]) -> Want:
    node_key, number, first_seq, count, size_bytes = codec.fields(fields, 5, "want")
    return Want(
        _log(node_key, number),
        codec.integer(first_seq, "first seq", 0, SEQ_MAX),
        codec.integer(count, "count", 1, EVENTS_PER_FRAME_MAX),
        codec.integer(size_bytes, "size", 1, WANT_BYTES_MAX),
    )


def _range(fields: Sequence[codec.Value]) -> Range:
    node_key, number, first_seq, wires = codec.fields(fields, 4, "range")
    return Range(_log(node_key, number), codec.integer(first_seq, "first seq", 0, SEQ_MAX), _wires(wires, 0))


def _proofs(fields: Sequence[codec.Value]) -> Proofs:
    (listed,) = codec.fields(fields, 1, "proofs")
    proofs: list[Evidence | Close] = []
    for item in codec.array(listed, 1, PROOFS_PER_FRAME_MAX, "proofs"):
        kind, *payload = codec.array(item, 1, 6, "proof")
        match kind:
            case "evidence":
                evidence = Evidence.from_wire(payload)
                Header.decode(evidence.first)  # it names the log; the rest is for the store to check
                proofs.append(evidence)
            case "close":
                proofs.append(Close.from_wire(payload))
            case _:
                raise MalformedError("proof: expected evidence or a close")
    return Proofs(proofs)


def _book(fields: Sequence[codec.Value]) -> Book:
    (listed,) = codec.fields(fields, 1, "book")
    entries: list[tuple[LogId, Delegation]] = []
    for item in codec.array(listed, 1, BOOK_PER_FRAME_MAX, "book"):
        node_key, number, delegation = codec.fields(item, 3, "log in a book")
        log = _log(node_key, number)
        if entries and log <= entries[-1][0]:
            raise MalformedError("book: its logs are not in ascending order")
        entries.append((log, Delegation.from_wire(delegation)))
    return Book(entries)


def _have(fields: Sequence[codec.Value]) -> Have:
    (listed,) = codec.fields(fields, 1, "announcement")
    news: dict[bytes, News] = {}
    for item in codec.array(listed, 1, HAVES_PER_FRAME_MAX, "announcement"):
        tag, seq, age_ms = codec.fields(item, 3, "log in an announcement")
        tag = codec.binary(tag, "tag", TAG_BYTES)
        if tag in news:
            raise MalformedError("announcement: a log is named twice")
        news[tag] = News(tag, codec.integer(seq, "seq", 0, SEQ_MAX), codec.integer(age_ms, "age", 0, AGE_MS_MAX))
    return Have(list(news.values()))


def _leaves(fields: Sequence[codec.Value]) -> Leaves:
    number, place, listed, path = codec.fields(fields, 4, "slice of a live set")
    leaves: list[tuple[int, bytes]] = []
    for item in codec.array(listed, 0, SLICE_LEAVES_MAX, "leaves"):
        mask, wire = codec.fields(item, 2, "leaf")
        leaf = codec.integer(mask, "mask", 1, MASK_MAX), codec.binary(wire, "event", 1, EVENT_BYTES_MAX)
        leaves.append(leaf)
    if (size_bytes := sum(len(wire) for _, wire in leaves)) > SLICE_BYTES_MAX:
        raise MalformedError(
            f"slice of a live set: {size_bytes} bytes of events, at most {SLICE_BYTES_MAX} are allowed"
        )
    hashes = [codec.binary(each, "path", DIGEST_BYTES) for each in codec.array(path, 0, PATH_MAX, "path")]
    return Leaves(_number(number), _place(place), leaves, hashes)


def _number(value: codec.Value) -> int:
    return codec.integer(value, "number of a checkpoint", 1)


def _place(value: codec.Value) -> int:
    return codec.integer(value, "slice", 0, LEAVES_MAX - 1)


def _log(node_key: codec.Value, number: codec.Value) -> LogId:
    return LogId(codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number", 0, LOG_NUMBER_MAX))


def _wires(value: codec.Value, low: int) -> list[bytes]:
    wires = codec.array(value, low, EVENTS_PER_FRAME_MAX, "events")
    return [codec.binary(wire, "event", 1, EVENT_BYTES_MAX) for wire in wires]
