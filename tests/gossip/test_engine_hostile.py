"""What a hostile peer sends costs its own session and nothing else."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnodes.gossip import fetch
from p2pnodes.gossip.engine import BAN_S
from p2pnodes.gossip.fetch import WANTS_MAX
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    FRAME_BYTES_MAX,
    Book,
    Digest,
    Entry,
    Events,
    Mark,
    Proofs,
    Range,
    Slices,
    Vector,
    Want,
)
from p2pnodes.gossip.rates import VECTORS
from p2pnodes.gossip.session import VECTOR_INTERVAL_MS
from p2pnodes.model.branches import rivalry
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.events import Event, Head, LogId, closing
from p2pnodes.model.network import Network
from p2pnodes.store.vector import SLICE_BYTES, SLICES
from tests.gossip.harness import Node, clone, entry, peer_of
from tests.support import NETWORK, NOW_MS, VALIDATORS, Author

A, B, C = VALIDATORS
HASH = bytes(32)
AUTHOR = Author(B)
DELEGATION = AUTHOR.delegate()
VERDICT = AUTHOR.verdict(HASH)
LOG = AUTHOR.log
TWIN = clone(AUTHOR)
TWIN.head = Head(0, DELEGATION.id)
FORK = rivalry(VERDICT, TWIN.verdict(HASH, "failed"))
assert FORK is not None
FORGED = closing(Author(C).hotkey, NETWORK.id, LOG, None)._replace(hotkey=AUTHOR.hotkey.public_key)
"""A closing in the name of the log's hotkey, signed by another."""


def victim() -> Node:
    """A node with a hostile peer in session 1 and an honest one in session 2."""
    node = Node(A)
    node.open(1, peer_of(Author(B)))
    node.open(2, peer_of(Author(C)))
    return node


def foreign() -> Event:
    network = Network(genesis_hash="1" * 64, netuid=64)
    return Event.create(
        AUTHOR.node_key, network.id, log_number=0, seq=0, previous=b"", hlc=1, payload=AUTHOR.delegation()
    )


def wanting() -> Node:
    """A victim that wants seq 0 of LOG from the hostile peer."""
    node = victim()
    node.hear(1, Vector(0, True, ALL_SLICES, [entry(LOG, 1, VERDICT.id)]).encode())
    assert isinstance(node.said[-1], Want)
    assert node.said[-1][:2] == (LOG, 0)
    return node


BAD_FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"\xff" * 100,
    "deep nesting": b"\x91" * 100_000,
    "a length that never comes": b"\xdd\xff\xff\xff\xff",
    "an oversized frame": bytes(FRAME_BYTES_MAX + 1),
    "an event that is garbage": Events([b"garbage"]).encode(),
    "a truncated event": Events([VERDICT.wire[:-1]]).encode(),
    "an event with another payload": Events([VERDICT.wire[:-1] + b"!"]).encode(),
    "an event of a foreign network": Events([foreign().wire]).encode(),
    "good events before a bad one": Events([DELEGATION.wire, b"garbage"]).encode(),
    "a range that nobody wanted": Range(LOG, 0, [DELEGATION.wire]).encode(),
    "an empty range that nobody wanted": Range(LOG, 0, []).encode(),
    "a vector that begins in its middle": Vector(1, True, ALL_SLICES, []).encode(),
    "evidence of nothing": Proofs([FORK._replace(first=b"\0")]).encode(),
    "a delegation that its hotkey did not sign": Book([(LogId(LOG.node_key, 1), AUTHOR.delegation())]).encode(),
}

BAD_ANSWERS: dict[str, bytes] = {
    "another first seq": Range(LOG, 1, [VERDICT.wire]).encode(),
    "another log": Range(LogId(LOG.node_key, 1), 0, [DELEGATION.wire]).encode(),
    "an event of another seq": Range(LOG, 0, [VERDICT.wire]).encode(),
    "an event of another log": Range(LOG, 0, [Author(C).delegate().wire]).encode(),
    "a hole": Range(LOG, 0, [DELEGATION.wire, AUTHOR.verdict(b"x" * 32).wire]).encode(),
    "one event twice": Range(LOG, 0, [DELEGATION.wire, DELEGATION.wire]).encode(),
}


def assert_only_the_hostile_session_ended(node: Node) -> None:
    (close,) = node.closes
    assert close.session == 1
    assert close.ban_s == BAN_S
    assert close.reason
    assert [row["hotkey"] for row in node.engine.status()] == [Author(C).hotkey.address]


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_closes_its_session_and_bans_its_peer(frame: bytes) -> None:
    node = victim()
    node.hear(1, frame)
    assert_only_the_hostile_session_ended(node)
    assert not node.stores


@pytest.mark.parametrize("frame", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_answer_that_does_not_fit_its_want_closes_the_session(frame: bytes) -> None:
    node = wanting()
    node.hear(1, frame)
    assert_only_the_hostile_session_ended(node)
    assert not node.stores


def test_an_answer_over_its_credit_closes_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WANT_BYTES_MAX", len(DELEGATION.wire) + len(VERDICT.wire) - 1)
    node = wanting()
    node.hear(1, Range(LOG, 0, [DELEGATION.wire, VERDICT.wire]).encode())
    assert_only_the_hostile_session_ended(node)


def test_a_second_answer_to_one_want_closes_the_session() -> None:
    node = wanting()
    node.hear(1, Range(LOG, 0, [DELEGATION.wire, VERDICT.wire]).encode())
    node.settle()
    assert node.head(LOG) == 1
    node.hear(1, Range(LOG, 0, [DELEGATION.wire, VERDICT.wire]).encode())
    assert_only_the_hostile_session_ended(node)


def test_more_wants_than_allowed_close_the_session() -> None:
    node = victim()
    for number in range(WANTS_MAX):
        node.hear(1, Want(LogId(LOG.node_key, number), 0, 1, 1).encode())
    assert not node.closes
    node.hear(1, Want(LogId(LOG.node_key, WANTS_MAX), 0, 1, 1).encode())
    assert_only_the_hostile_session_ended(node)


def test_two_wants_from_one_seq_on_close_the_session() -> None:
    node = victim()
    node.hear(1, Want(LOG, 0, 1, 1).encode())
    assert not node.closes
    node.hear(1, Want(LOG, 0, 1, 2).encode())
    assert_only_the_hostile_session_ended(node)


def test_a_flood_of_vectors_closes_the_session() -> None:
    node = victim()
    for _ in range(VECTORS.burst + 1):
        node.hear(1, Vector(0, True, ALL_SLICES, []).encode())
    assert_only_the_hostile_session_ended(node)


def test_vectors_at_the_rate_that_is_allowed_go_on_for_ever() -> None:
    node = victim()
    for _ in range(3 * VECTORS.burst):
        node.tick(VECTOR_INTERVAL_MS)
        node.hear(1, Vector(0, True, ALL_SLICES, []).encode())
    assert not node.closes


def test_vector_parts_out_of_order_close_the_session() -> None:
    node = victim()
    node.hear(1, Vector(0, False, ALL_SLICES, []).encode())
    node.hear(1, Vector(2, True, ALL_SLICES, []).encode())
    assert_only_the_hostile_session_ended(node)


def test_logs_out_of_order_over_the_parts_of_a_vector_close_the_session() -> None:
    node = victim()
    node.hear(1, Vector(0, False, ALL_SLICES, [entry(LogId(b"b" * 32, 0), 0, HASH)]).encode())
    node.hear(1, Vector(1, True, ALL_SLICES, [entry(LogId(b"a" * 32, 0), 0, HASH)]).encode())
    assert_only_the_hostile_session_ended(node)


def test_frames_behind_the_one_that_closed_the_session_are_not_read() -> None:
    node = victim()
    node.hear(1, b"garbage")
    node.hear(1, b"garbage")
    node.hear(1, Events([DELEGATION.wire]).encode())
    node.do(node.engine.closed(1, node.now_ms))
    assert_only_the_hostile_session_ended(node)
    assert not node.stores


def test_a_vector_that_claims_more_than_there_is_does_not_keep_the_log_from_others() -> None:
    node = victim()
    honest = Vector(0, True, ALL_SLICES, [entry(LOG, 1, VERDICT.id)]).encode()
    node.hear(1, Vector(0, True, ALL_SLICES, [entry(LOG, 2**62, HASH)]).encode())
    node.hear(2, honest)
    for _ in range(45):
        node.tick()
    node.hear(2, Range(LOG, 0, [DELEGATION.wire, VERDICT.wire]).encode())
    node.settle()
    assert node.head(LOG) == 1


def test_forged_events_of_logs_that_nobody_knows_leave_nothing_behind() -> None:
    node = victim()
    node.hear(1, Events([DELEGATION.wire.replace(DELEGATION.signature, bytes(64))]).encode())
    node.settle()
    assert_only_the_hostile_session_ended(node)
    assert node.engine._intake._seen == {}
    assert node.engine._intake._flying == {}
    node.hear(2, Events([DELEGATION.wire]).encode())
    node.settle()
    assert node.head(LOG) == 0


def test_refused_logs_of_made_up_node_keys_leave_only_bounded_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pnodes.gossip.backoff.BACKOFFS_MAX", 5)
    node = victim()
    for number in range(20):
        stranger = Author("//Mallory", number=number)
        node.hear(1, Events([stranger.delegate().wire]).encode())
        node.settle()
    session = node.engine._sessions[1]
    assert len(node.engine._backoffs) == 5
    assert len(session.known) == len(session.ahead) == len(node.engine._intake._seen) == 0
    assert not node.closes


def test_refused_logs_that_were_wanted_leave_nothing_in_the_session() -> None:
    node = victim()
    stranger = Author("//Mallory")
    event = stranger.delegate()
    node.hear(1, Vector(0, True, ALL_SLICES, [entry(stranger.log, 0, event.id)]).encode())
    node.hear(1, Range(stranger.log, 0, [event.wire]).encode())
    node.tick()
    node.settle()
    session = node.engine._sessions[1]
    assert (session.known, session.ahead, session.wanted) == ({}, {}, {})


def test_a_driver_that_mixes_up_sessions_is_told_so() -> None:
    node = victim()
    with pytest.raises(LocalProtocolError, match="open already"):
        node.engine.opened(1, peer_of(Author(B)), NOW_MS)
    with pytest.raises(LocalProtocolError, match="nothing in the store"):
        node.engine.stored(1, [], NOW_MS)
    with pytest.raises(LocalProtocolError, match="not for this session"):
        node.engine.read(1, LOG, 0, [], NOW_MS)


_WIRES = st.sampled_from([DELEGATION.wire, VERDICT.wire, foreign().wire, b"junk"])
_LOGS = st.sampled_from([LOG, LogId(HASH, 0)])
_SEQS = st.sampled_from([0, 1, 2, 2**62])
_MARKS = st.sampled_from([None, Mark(0, None), Mark(2, (1, HASH)), Mark(None, (0, b""))])
_FRAMES = st.one_of(
    st.builds(
        Digest, st.booleans(), st.sampled_from([0, NOW_MS, 2**47 - 1]), st.just(HASH), st.just(HASH), st.just(HASH)
    ),
    st.builds(
        Vector,
        st.integers(0, 2),
        st.booleans(),
        st.just(ALL_SLICES),
        st.lists(st.builds(Entry, _LOGS, st.none() | st.builds(Head, _SEQS, st.just(HASH)), _MARKS), max_size=2),
    ),
    st.builds(Want, _LOGS, _SEQS, st.sampled_from([1, 512]), st.sampled_from([1, 1000])),
    st.builds(Range, _LOGS, _SEQS, st.lists(_WIRES, max_size=3)),
    st.builds(Slices, st.just([b"\0" * SLICE_BYTES] * SLICES)),
    st.builds(Events, st.lists(_WIRES, min_size=1, max_size=3)),
    st.builds(Proofs, st.lists(st.sampled_from([FORGED, FORK]), min_size=1, max_size=3)),
    st.builds(Book, st.sampled_from([[(LOG, AUTHOR.delegation())], [(LOG, Author(C).delegation())]])),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_FRAMES, max_size=12), st.randoms(use_true_random=False))
def test_any_sequence_of_frames_ends_in_good_state_or_a_closed_session(sent: list[Digest], rng: random.Random) -> None:
    node = victim()
    for frame in sent:
        node.hear(1, frame.encode())
        if rng.random() < 0.5:
            node.settle()
        node.tick()
    node.settle()
    assert {close.session for close in node.closes} <= {1}
    assert len(node.closes) <= 1
    for wire in (DELEGATION.wire, VERDICT.wire):  # and the honest peer is heard all the same
        node.hear(2, Events([wire]).encode())
        node.settle()
    assert node.head(LOG) == 1
