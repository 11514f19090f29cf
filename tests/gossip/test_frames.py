"""What may be said between peers, byte for byte, and that nothing else is understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.gossip import frames
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    BATCH_BYTES,
    BOOK_PER_FRAME_MAX,
    EVENTS_PER_FRAME_MAX,
    FRAME_BYTES_MAX,
    LOGS_MAX,
    LOGS_PER_FRAME,
    PROOFS_PER_FRAME_MAX,
    VECTOR_BYTES_MAX,
    WANT_BYTES_MAX,
    Book,
    CertificateAnswer,
    CertificateWant,
    Digest,
    Entry,
    Events,
    Leaves,
    LeavesWant,
    Mark,
    Proofs,
    Range,
    Slices,
    Vector,
    Want,
)
from p2pnodes.model import codec
from p2pnodes.model.branches import Ends
from p2pnodes.model.checkpoint import (
    CERTIFICATE_BYTES_MAX,
    DELEGATION_BYTES_MAX,
    MASK_MAX,
    PATH_MAX,
    SIGNERS_MAX,
    SLICE_BYTES_MAX,
    SLICE_LEAVES_MAX,
    STATEMENT_BYTES_MAX,
    Certificate,
    Signature,
)
from p2pnodes.model.codec import INT_MAX, MalformedError
from p2pnodes.model.events import (
    EVENT_BYTES_MAX,
    HEADER_BYTES_MAX,
    LEAVES_MAX,
    URL_CHARS_MAX,
    Checkpoint,
    Close,
    Evidence,
    Head,
    LogId,
)
from p2pnodes.store.vector import SLICES, slice_of
from tests.support import Author

HASH = bytes(range(32))
LOG = LogId(b"k" * 32, 7)
OTHER = LogId(b"l" * 32, 0)

AUTHOR = Author("//validator0")
DELEGATION = AUTHOR.delegation()
EVIDENCE = Evidence(AUTHOR.delegate().header, bytes(64), b"another header", bytes(64))

FRAMES = [
    Digest(True, 1_764_000_000_000, HASH, HASH[::-1], bytes(32), 7),
    Digest(False, 1_764_000_000_000, HASH, HASH[::-1], bytes(32), None),
    CertificateWant(1),
    CertificateAnswer(1, b"certificate"),
    CertificateAnswer(INT_MAX, b""),
    LeavesWant(1, LEAVES_MAX - 1),
    Leaves(1, 0, [(1, b"one"), (MASK_MAX, b"two")], [HASH] * PATH_MAX),
    Leaves(1, 3, [], []),
    Vector(0, True, ALL_SLICES, []),
    Vector(
        3,
        False,
        frames.scope_of([slice_of(LOG), slice_of(OTHER), slice_of(LogId(b"m" * 32, 0))]),
        [
            Entry(LOG, Head(5, HASH), None),
            Entry(OTHER, Head(0, HASH), Mark(1, None)),
            Entry(LogId(b"m" * 32, 0), None, Mark(0, (0, b""))),
            Entry(LogId(b"m" * 32, 1), Head(1, HASH), Mark(None, (2, HASH))),
        ],
    ),
    Want(LOG, 0, EVENTS_PER_FRAME_MAX, WANT_BYTES_MAX),
    Slices([bytes([number]) * 16 for number in range(SLICES)]),
    Range(LOG, 4, [b"one", b"two"]),
    Range(LOG, 4, []),
    Events([b"e"]),
    Proofs([EVIDENCE]),
    Proofs([Close(LOG, None, HASH, bytes(64)), Close(LOG, Head(2, HASH), HASH, bytes(64)), EVIDENCE]),
    Book([(LOG, DELEGATION), (OTHER, DELEGATION._replace(url="", predecessor=(LOG, None)))]),
]

MALFORMED: dict[str, codec.Value] = {
    "no array": 1,
    "an empty array": [],
    "kind 0": [0],
    "an unknown kind": [15, b""],
    "a kind that is a text": ["events", [b"e"]],
    "a kind that is a boolean": [True, True, 1, HASH, HASH, HASH, 0],
    "a digest without checkpoint": [1, True, 1, HASH, HASH, HASH],
    "a digest with one field more": [1, True, 1, HASH, HASH, HASH, 0, None],
    "a digest that asks with a number": [1, 1, 1, HASH, HASH, HASH, 0],
    "a negative clock": [1, True, -1, HASH, HASH, HASH, 0],
    "a clock beyond 48 bits": [1, True, 2**47, HASH, HASH, HASH, 0],
    "a short hash": [1, True, 1, HASH[1:], HASH, HASH, 0],
    "a negative checkpoint": [1, True, 1, HASH, HASH, HASH, -1],
    "a want of the certificate of no checkpoint": [11, 0],
    "a certificate over its bound": [12, 1, bytes(CERTIFICATE_BYTES_MAX + 1)],
    "a certificate that is no bytes": [12, 1, None],
    "a want of a slice of no checkpoint": [13, 0, 0],
    "a want of a slice beyond the last": [13, 1, LEAVES_MAX],
    "a slice of too many leaves": [14, 1, 0, [[1, b"e"]] * (SLICE_LEAVES_MAX + 1), []],
    "a slice over its bound": [14, 1, 0, [[1, bytes(EVENT_BYTES_MAX)]] * (SLICE_BYTES_MAX // EVENT_BYTES_MAX + 1), []],
    "a leaf of which nothing is kept": [14, 1, 0, [[0, b"e"]], []],
    "a leaf without an event": [14, 1, 0, [[1, b""]], []],
    "a path that is too long": [14, 1, 0, [[1, b"e"]], [HASH] * (PATH_MAX + 1)],
    "a path with a short hash": [14, 1, 0, [[1, b"e"]], [HASH[1:]]],
    "a vector part beyond the last": [2, LOGS_MAX // LOGS_PER_FRAME, True, ALL_SLICES, []],
    "a vector that is no array": [2, 0, True, ALL_SLICES, None],
    "a log without mark": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH]]]],
    "a head without id": [2, 0, True, ALL_SLICES, [[*LOG, [1], None]]],
    "a head with a negative seq": [2, 0, True, ALL_SLICES, [[*LOG, [-1, HASH], None]]],
    "a head at the end of all seqs": [2, 0, True, ALL_SLICES, [[*LOG, [INT_MAX, HASH], None]]],
    "a log twice": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH], None], [*LOG, [2, HASH], None]]],
    "logs in descending order": [2, 0, True, ALL_SLICES, [[*OTHER, [1, HASH], None], [*LOG, [2, HASH], None]]],
    "a mark of nothing": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH], [None, None]]]],
    "a mark of one value": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH], [3]]]],
    "a fork at a negative seq": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH], [-1, None]]]],
    "a closing of an empty log with an id": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH], [None, [0, HASH]]]]],
    "a closing without id": [2, 0, True, ALL_SLICES, [[*LOG, [1, HASH], [None, [2, b""]]]]],
    "no proofs": [6, []],
    "too many proofs": [6, [["close", *LOG, None, HASH, bytes(64)]] * (PROOFS_PER_FRAME_MAX + 1)],
    "a proof of another kind": [6, [["delegate", *LOG, None, HASH, bytes(64)]]],
    "a proof without kind": [6, [[]]],
    "a closing without signature": [6, [["close", *LOG, None, HASH]]],
    "evidence of no header": [6, [["evidence", b"x", bytes(64), b"y", bytes(64)]]],
    "an empty book": [7, []],
    "too large a book": [7, [[b"k" * 32, n, DELEGATION.to_wire()] for n in range(BOOK_PER_FRAME_MAX + 1)]],
    "a log twice in a book": [7, [[*LOG, DELEGATION.to_wire()]] * 2],
    "a book without a delegation": [7, [[*LOG, None]]],
    "a book whose URL is too long": [7, [[*LOG, DELEGATION._replace(url="x" * 257).to_wire()]]],
    "a log number beyond 32 bits": [3, LOG.node_key, 2**32, 0, 1, 1],
    "a short node key": [3, LOG.node_key[1:], 7, 0, 1, 1],
    "a want without credit": [3, *LOG, 0, 1, 0],
    "a want with too much credit": [3, *LOG, 0, 1, WANT_BYTES_MAX + 1],
    "a want from a negative seq": [3, *LOG, -1, 1, 1],
    "a want of no events": [3, *LOG, 0, 0, 1],
    "a want of too many events": [3, *LOG, 0, EVENTS_PER_FRAME_MAX + 1, 1],
    "a vector without a slice": [2, 0, True, bytes(8), []],
    "a vector with a short scope": [2, 0, True, ALL_SLICES[1:], []],
    "a log outside of the scope": [2, 0, True, frames.scope_of([slice_of(OTHER)]), [[*LOG, [1, HASH], None]]],
    "too few slices": [10, [bytes(16)] * (SLICES - 1)],
    "too many slices": [10, [bytes(16)] * (SLICES + 1)],
    "a short slice": [10, [bytes(15)] * SLICES],
    "a range with a text for an event": [4, *LOG, 0, ["event"]],
    "a range of too many events": [4, *LOG, 0, [b"e"] * (EVENTS_PER_FRAME_MAX + 1)],
    "no events": [5, []],
    "an empty event": [5, [b""]],
    "an event over its bound": [5, [bytes(EVENT_BYTES_MAX + 1)]],
    "too many events": [5, [b"e"] * (EVENTS_PER_FRAME_MAX + 1)],
}


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_every_frame_comes_back_as_it_was(frame: frames.Frame) -> None:
    assert frames.decode(frame.encode()) == frame


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_exactly_a_frame_is_malformed(value: codec.Value) -> None:
    with pytest.raises(MalformedError):
        frames.decode(codec.pack(value))


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_truncated_or_lengthened_frame_is_malformed(frame: frames.Frame) -> None:
    encoded = frame.encode()
    for cut in range(len(encoded)):
        with pytest.raises(MalformedError):
            frames.decode(encoded[:cut])
    with pytest.raises(MalformedError):
        frames.decode(encoded + b"\0")


def test_a_second_spelling_of_a_frame_is_malformed() -> None:
    longer = b"\xdc\x00\x02" + Events([b"e"]).encode()[1:]  # the same array with a 16-bit length
    with pytest.raises(MalformedError, match="canonical"):
        frames.decode(longer)


def test_a_frame_over_the_bound_is_refused_unread() -> None:
    with pytest.raises(MalformedError, match=f"at most {FRAME_BYTES_MAX}"):
        frames.decode(bytes(FRAME_BYTES_MAX + 1))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.just(HASH),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@given(
    st.binary(max_size=60)
    | st.builds(lambda kind, rest: codec.pack([kind, *rest]), st.integers(0, 15), st.lists(_VALUES, max_size=6))
)
def test_any_bytes_are_a_frame_or_malformed(data: bytes) -> None:
    try:
        frame = frames.decode(data)
    except MalformedError:
        return
    assert frame.encode() == data


def test_the_largest_frames_that_are_sent_stay_within_the_bound() -> None:
    mark = Mark(INT_MAX, (INT_MAX, HASH))
    logs = [Entry(LogId(b"k" * 32, 2**31 + number), Head(INT_MAX - 1, HASH), mark) for number in range(LOGS_PER_FRAME)]
    part_bytes = len(Vector(15, True, ALL_SLICES, logs).encode())
    assert part_bytes <= 600 * 1024 < FRAME_BYTES_MAX
    assert LOGS_MAX // LOGS_PER_FRAME * part_bytes <= VECTOR_BYTES_MAX
    assert len(Vector(0, True, ALL_SLICES, logs[:256]).encode()) <= 36 * 1024
    assert len(Range(LOG, INT_MAX - 1, [bytes(WANT_BYTES_MAX), bytes(EVENT_BYTES_MAX)]).encode()) <= FRAME_BYTES_MAX
    header = bytes(HEADER_BYTES_MAX)
    assert len(Proofs([Evidence(header, bytes(64), header, bytes(64))] * PROOFS_PER_FRAME_MAX).encode()) <= 45 * 1024
    longest = DELEGATION._replace(url="\U0001f600" * URL_CHARS_MAX, predecessor=(LOG, Head(INT_MAX, HASH)))
    assert len(Book([(LOG, longest)] * BOOK_PER_FRAME_MAX).encode()) <= 90 * 1024


def test_the_largest_certificate_and_the_largest_slice_fit_a_frame() -> None:
    author = Author("//validator0", number=2**32 - 1)
    predecessor = LogId(b"k" * 32, 2**32 - 1), Head(INT_MAX - 1, HASH)
    url = "\U0001f600" * URL_CHARS_MAX
    delegation = author.write(author.delegation()._replace(url=url, predecessor=predecessor))
    statement = author.write(Checkpoint(INT_MAX, HASH, LEAVES_MAX, LEAVES_MAX, HASH))
    assert len(delegation.wire) <= DELEGATION_BYTES_MAX
    assert len(statement.wire) <= STATEMENT_BYTES_MAX
    proposal = statement._replace(wire=bytes(EVENT_BYTES_MAX))
    signatures = (
        Signature(
            delegation._replace(wire=bytes(DELEGATION_BYTES_MAX)), statement._replace(wire=bytes(STATEMENT_BYTES_MAX))
        ),
    ) * SIGNERS_MAX
    certificate = Certificate(proposal, signatures).encode()
    assert CERTIFICATE_BYTES_MAX - 1024 < len(certificate) <= CERTIFICATE_BYTES_MAX
    assert len(CertificateAnswer(INT_MAX, bytes(CERTIFICATE_BYTES_MAX)).encode()) <= FRAME_BYTES_MAX
    leaves = [(MASK_MAX, bytes(SLICE_BYTES_MAX // SLICE_LEAVES_MAX))] * SLICE_LEAVES_MAX
    assert len(Leaves(INT_MAX, LEAVES_MAX - 1, leaves, [HASH] * PATH_MAX).encode()) <= FRAME_BYTES_MAX


def test_a_vector_is_cut_into_parts_that_say_which_is_the_last() -> None:
    logs = [Entry(LogId(b"k" * 32, number), Head(0, HASH), None) for number in range(LOGS_PER_FRAME + 1)]
    scope = frames.scope_of([slice_of(logs[0].log)])
    first, second = frames.vector_parts(scope, logs)
    assert first.scope == second.scope == scope
    assert (first.part, first.last, len(first.entries)) == (0, False, LOGS_PER_FRAME)
    assert (second.part, second.last, second.entries) == (1, True, logs[-1:])


def test_an_empty_vector_is_one_empty_part() -> None:
    assert list(frames.vector_parts(ALL_SLICES, [])) == [Vector(0, True, ALL_SLICES, [])]


def test_a_batch_of_small_events_is_cut_by_their_number() -> None:
    author = Author("//validator0")
    events = [author.verdict(bytes(32)) for _ in range(EVENTS_PER_FRAME_MAX + 1)]
    packed = [frames.decode(frame) for frame in frames.batches(events)]
    assert [len(frame.wires) for frame in packed if isinstance(frame, Events)] == [EVENTS_PER_FRAME_MAX, 1]


def test_a_batch_of_large_events_is_cut_by_their_size() -> None:
    author = Author("//validator0")
    events = [author.verdict(bytes(32))._replace(wire=bytes(BATCH_BYTES // 3)) for _ in range(7)]
    sizes = [len(frame) for frame in frames.batches(events)]
    assert len(sizes) == 3
    assert max(sizes) <= BATCH_BYTES + 100


_MARKS = st.none() | st.builds(
    lambda fork, good, last: Mark(fork, None if good is None else (good, last if good else b"")),
    st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.sampled_from([HASH, bytes(32)]),
)


class TestMark:
    """Of two marks each part may be the lower one; who was told both knows the lower of each."""

    @given(_MARKS, _MARKS)
    def test_after_being_told_nothing_is_lower(self, one: Mark | None, other: Mark | None) -> None:
        if one is None:
            return
        known = one.merged(other)
        for mark in (one, other):
            assert mark is None or not (mark.forks_below(known) or mark.closes_below(known))
        assert known == (one if other is None else other.merged(one))

    def test_a_mark_says_what_is_proved(self) -> None:
        close = Close(LOG, Head(4, HASH), HASH, bytes(64))
        evidence = Evidence(AUTHOR.events[0].header, bytes(64), b"", bytes(64))
        assert Mark.of(Ends()) is None
        assert Mark.of(Ends(evidence, close)) == Mark(0, (5, HASH))
        assert Mark.of(Ends(close=close._replace(head=None))) == Mark(None, (0, b""))
        assert codec.pack(Mark.of(Ends(evidence, close))) == codec.pack(Ends(evidence, close).mark)
