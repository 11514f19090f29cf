"""Whatever a hostile peer says, and however often: it is stopped, little is kept of it, and honest events go on."""

import random
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from p2pnodes.gossip import engine, frames, rates
from p2pnodes.gossip.engine import BAN_S, PENDING_BYTES_MAX
from p2pnodes.gossip.fetch import NO_CREDIT_MAX, WANTS_MAX
from p2pnodes.gossip.frames import (
    AGE_MS_MAX,
    ARRAYS_PER_FRAME_MAX,
    WANT_BYTES_MAX,
    Book,
    Digest,
    Entry,
    Events,
    Have,
    Link,
    Mark,
    Mode,
    News,
    Proofs,
    Range,
    Slices,
    Vector,
    Want,
    scope_of,
)
from p2pnodes.gossip.gaps import CATCHUP_BYTES_MAX
from p2pnodes.gossip.intake import SEEN_MAX, Intake
from p2pnodes.gossip.rates import AUTHOR_EVENTS, AUTHOR_PROOFS, DUPLICATES, STALE, STRANGERS, WANTS, Rate, flood
from p2pnodes.gossip.session import SPARED_MAX, UNKNOWN_LOGS_MAX
from p2pnodes.model import codec
from p2pnodes.model.codec import DIGEST_BYTES
from p2pnodes.model.events import Head, LogId, Place, closing
from p2pnodes.store.state import State
from p2pnodes.store.vector import SLICES
from tests.gossip.harness import Node, clone, peer_of
from tests.gossip.weigh import weigh
from tests.support import NETWORK, NOW_MS, VALIDATORS, Author

A, B, C = VALIDATORS
HASH: Final = bytes(DIGEST_BYTES)
AUTHOR: Final = Author(B)
EVENTS: Final = [AUTHOR.delegate(), *(AUTHOR.verdict(number.to_bytes(32, "big")) for number in range(1_500))]
LOG: Final = AUTHOR.log
ALL: Final = scope_of(range(SLICES))

STORM_FRAMES: Final = 100_000
ITEMS_MAX: Final = SEEN_MAX
"""No container of an engine has more items than this, whatever peers do."""

ENGINE_BYTES_MAX: Final = 16 << 20
"""Nor has an engine with one hostile session at a time more memory than this; PENDING_BYTES_MAX of it are events."""


def victim() -> Node:
    """A node with a hostile peer in session 1 and an honest one in session 2."""
    node = Node(A)
    node.open(1, peer_of(Author(B, seed=1)))
    node.open(2, peer_of(Author(C)))
    for session in (1, 2):
        node.hear(session, Link(Mode.EVENTS).encode())
    return node


def made_up(rng: random.Random) -> LogId:
    return LogId(rng.randbytes(32), 0)


def assert_banned(node: Node, reason: str) -> None:
    (close,) = node.closes
    assert (close.session, close.ban_s) == (1, BAN_S)
    assert reason in close.reason
    assert len(node.engine.status()) == 1


def assert_honest_goes_on(node: Node, session: int = 2) -> None:
    """An honest peer's events are stored."""
    begin = node.head(LOG) + 1
    node.hear(session, Events([event.wire for event in EVENTS[begin : begin + 2]]).encode())
    node.settle()
    assert node.head(LOG) == begin + 1


# -- floods ----------------------------------------------------------------------------------------------------------

FLOODS: Final[dict[str, tuple[Rate, Callable[[random.Random], frames.Frame]]]] = {
    "digests that ask": (rates.DIGESTS, lambda rng: Digest(True, 0, rng.randbytes(32), HASH, HASH)),
    "digests that do not": (rates.DIGESTS, lambda rng: Digest(False, 0, rng.randbytes(32), HASH, HASH)),
    "slices": (rates.SLICES, lambda rng: Slices([rng.randbytes(16) for _ in range(SLICES)])),
    "vectors": (rates.VECTORS, lambda rng: Vector(0, True, ALL, [Entry(made_up(rng), Head(7, HASH), None)])),
    "parts of vectors": (rates.VECTORS, lambda rng: Vector(0, False, ALL, [Entry(made_up(rng), None, Mark(3, None))])),
    "proofs": (
        rates.PROOFS,
        lambda rng: Proofs([closing(AUTHOR.hotkey, NETWORK.id, made_up(rng), None) for _ in range(2)]),
    ),
    "books": (rates.BOOKS, lambda _: Book([(LOG, AUTHOR.delegation())])),
    "links made eager for nothing": (rates.LINKS, lambda _: Link(Mode.EVENTS)),
    "links that come and go": (rates.LINKS, lambda rng: Link(rng.choice(list(Mode)))),
    "announcements": (
        rates.HAVES,
        lambda rng: Have([News(rng.randbytes(8), 2**62, rng.randint(0, AGE_MS_MAX)) for _ in range(512)]),
    ),
}


class TestFloods:
    """Each kind of frame has an allowance; what is over it costs the session, and nothing else."""

    @pytest.mark.parametrize("what", FLOODS)
    def test_a_flood_ends_in_a_ban_that_says_which(self, what: str) -> None:
        rate, make = FLOODS[what]
        node, rng = victim(), random.Random(what)
        sent = 0
        while not node.closes:
            node.hear(1, make(rng).encode())
            node.settle()
            sent += 1
            assert sent <= rate.burst + 1
        assert_banned(node, flood(rate))
        assert_honest_goes_on(node)

    def test_events_that_are_here_already(self) -> None:
        node = victim()
        node.hear(2, Events([event.wire for event in EVENTS[:500]]).encode())
        node.settle()
        again = Events([event.wire for event in EVENTS[:500]]).encode()
        for _ in range(DUPLICATES.burst // 500 + 1):  # one for the copy that it may have of each
            node.hear(1, again)
        assert not node.closes
        node.hear(1, again)
        assert_banned(node, flood(DUPLICATES))
        assert not node.stores
        assert_honest_goes_on(node)

    def test_who_brings_each_new_event_once_is_not_banned_though_others_were_faster(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Five validators that write as fast as each may, and tell everybody themselves, had the honest banned."""
        monkeypatch.setattr(engine, "DUPLICATES", DUPLICATES._replace(burst=64, per_s=4))
        node = victim()
        node.hear(1, Link(Mode.NOTHING).encode())  # so that the honest link is the last eager one, and never pruned
        for start in range(0, len(EVENTS) - 4, 4):
            news = Events([event.wire for event in EVENTS[start : start + 4]]).encode()
            node.hear(1, news)
            node.settle()
            node.hear(2, news)
            node.tick(100)
        assert not node.closes
        again = Events([event.wire for event in EVENTS[start : start + 4]]).encode()
        for _ in range(64 // 4 + 2):
            node.hear(1, again)  # what it brought itself is no excuse
        assert_banned(node, "events that are here already: over 64")

    def test_wants_at_the_rate_of_their_answers_are_answered_at_a_rate(self) -> None:
        """Who catches up wants as fast as it is answered: that is no fault, but it has to wait."""
        node = victim()
        served = 0
        for number in range(2 * WANTS.burst):
            node.hear(1, Want(LogId(HASH, number), 0, 1, 1).encode())
            served += len(node.reads)
            node.settle()
            if served == WANTS.burst:
                break
        for number in range(WANTS_MAX):
            node.hear(1, Want(LogId(b"n" * 32, number), 0, 1, 1).encode())
        assert not node.reads
        node.tick()
        assert len(node.reads) == WANTS_MAX
        assert not node.closes


class TestLeftOut:
    """What honest peers may forward, because somebody else made it, is left out beyond a rate; nobody is banned."""

    def test_pushed_events_of_logs_that_nobody_knows(self) -> None:
        node, rng = victim(), random.Random(1)
        wire = Author("//Mallory").delegate().wire
        header_at = wire.index(Author("//Mallory").node_key.public_key)
        stored = 0
        for _ in range(STRANGERS.burst + 100):
            made = wire[:header_at] + rng.randbytes(32) + wire[header_at + 32 :]
            node.hear(1, Events([made]).encode())
            stored += sum(len(store.events) for store in node.stores)
            node.stores.clear()
        assert stored == STRANGERS.burst
        assert not node.closes

    def test_pushed_rivals_of_what_is_stored(self) -> None:
        node, rng = victim(), random.Random(1)
        node.hear(2, Events([event.wire for event in EVENTS[:2]]).encode())
        node.settle()
        looked_at = 0
        for _ in range(STALE.burst // 500 + 2):
            copies = [
                EVENTS[1].wire.replace(EVENTS[1].signature, rng.randbytes(64)) for _ in range(500)
            ]  # nobody can tell them from rivals without a look at their signatures
            node.hear(1, Events(copies).encode())
            looked_at += sum(len(store.events) for store in node.stores)
            node.stores.clear()
        assert looked_at == STALE.burst
        assert not node.closes

    def test_more_of_one_author_than_may_be_live_is_fetched_and_not_pushed_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rates, "AUTHOR_EVENTS", AUTHOR_EVENTS._replace(burst=100, per_s=1))
        node = victim()
        node.hear(1, Events([event.wire for event in EVENTS[:60]]).encode())
        node.settle()
        node.hear(1, Events([event.wire for event in EVENTS[60:200]]).encode())
        node.settle()
        node.hear(1, Events([event.wire for event in EVENTS[200:300]]).encode())
        assert not node.stores  # the author is over its rate by now
        wants = [frame for frame in node.said if isinstance(frame, Want)]
        assert [want[:2] for want in wants] == [(LOG, 200)]
        node.hear(1, Range(LOG, 200, [event.wire for event in EVENTS[200 : 200 + wants[0].count_max]]).encode())
        while node.stores:
            node.settle()
            node.tick()
        assert node.head(LOG) == 199 + wants[0].count_max
        pushed = {wire for frame in node.said if isinstance(frame, Events) for wire in frame.wires}
        assert pushed == {event.wire for event in EVENTS[:100]}
        assert not node.closes

    def test_one_authors_flood_leaves_the_events_of_others_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rates, "AUTHOR_EVENTS", AUTHOR_EVENTS._replace(burst=50, per_s=1))
        node, other = victim(), Author(C)
        for begin in range(0, 1_000, 100):
            node.hear(1, Events([event.wire for event in EVENTS[begin : begin + 100]]).encode())
            node.settle()
        honest = [other.delegate(), *(other.verdict(HASH) for _ in range(10))]
        node.hear(2, Events([event.wire for event in honest]).encode())
        node.settle()
        assert node.head(other.log) == 10

    def test_one_authors_lists_leave_time_for_the_events_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each GPU of 64 has the rows of its claims decided again, which takes ten times as long as a registration."""
        monkeypatch.setattr(rates, "AUTHOR_EVENTS", AUTHOR_EVENTS._replace(burst=500, per_s=1))
        node, author = victim(), Author(C, seed=3)
        uuids = tuple(f"GPU-{number:032x}" for number in range(64))
        places = [Place(HASH, uuids, "chute", f"{number}", False, False, None, None) for number in range(200)]
        events = [author.delegate(), *map(author.write, places)]
        for begin in range(0, len(events), 10):
            node.hear(1, Events([event.wire for event in events[begin : begin + 10]]).encode())
            node.settle()
        assert 40 < node.head(author.log) < 60

    def test_forged_closings_put_off_none_that_its_hotkey_signed(self) -> None:
        """Or anybody could keep a stolen key from being revoked."""
        node = victim()
        node.holds(*EVENTS[:400])
        forged = [
            closing(AUTHOR.hotkey, NETWORK.id, LOG, Head(EVENTS[good].seq, EVENTS[good].id))._replace(
                signature=good.to_bytes(64, "big")
            )
            for good in range(399, 399 - 2 * AUTHOR_PROOFS.burst, -1)
        ]
        for begin in range(0, len(forged), 32):
            node.hear(1, Proofs(forged[begin : begin + 32]).encode())
        node.settle()
        assert_banned(node, "does not hold")
        node.hear(2, Proofs([closing(AUTHOR.hotkey, NETWORK.id, LOG, Head(5, EVENTS[5].id))]).encode())
        node.settle()
        assert node.ledger.state.logs[LOG].cut == 6

    def test_ever_lower_closings_of_one_hotkey_are_looked_at_at_a_rate(self) -> None:
        node = victim()
        node.holds(*EVENTS[:400])
        looked_at = 0
        for good in range(399, 399 - 2 * AUTHOR_PROOFS.burst, -1):
            head = Head(EVENTS[good].seq, EVENTS[good].id)
            node.hear(1, Proofs([closing(AUTHOR.hotkey, NETWORK.id, LOG, head)]).encode())
            looked_at += len(node.proves)
            node.settle()
        assert looked_at == AUTHOR_PROOFS.burst
        lowest = closing(AUTHOR.hotkey, NETWORK.id, LOG, Head(EVENTS[5].seq, EVENTS[5].id))
        node.tick(round(1000 / AUTHOR_PROOFS.per_s))
        node.hear(1, Proofs([lowest]).encode())
        node.settle()
        assert node.ledger.state.logs[LOG].cut == 6  # the lowest counts, when there is time for it
        assert not node.closes


class TestCost:
    """What no honest peer sends is refused before it has cost much."""

    @pytest.mark.parametrize("kind", [2, 5])
    def test_a_mebibyte_of_arrays_is_not_looked_at(self, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
        node = victim()
        monkeypatch.setattr(codec, "fields", lambda *_: pytest.fail("looked at"))
        node.hear(1, codec.pack([kind, [[[]] * 4_000] * 250]))
        assert_banned(node, f"expected {ARRAYS_PER_FRAME_MAX} arrays")

    def test_nor_are_arrays_in_what_should_be_an_event(self) -> None:
        node = victim()
        node.hear(1, Events([codec.pack([[[]] * 4_000] * 10)]).encode())
        assert_banned(node, "exceeds max_array_len")

    def test_the_largest_honest_frame_is_within_the_bound(self) -> None:
        rng = random.Random(1)
        logs = sorted(made_up(rng) for _ in range(frames.LOGS_PER_FRAME))
        most = [Entry(log, Head(2**62, HASH), Mark(2**62, (2**62, HASH))) for log in logs]
        assert frames.decode(Vector(15, False, ALL, most).encode()) == Vector(15, False, ALL, most)

    def test_where_liars_hold_all_credit_few_of_the_logs_are_looked_at_that_they_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thousands of each of their sessions at each tick left no time for anything else."""
        node, rng, sessions = Node(A), random.Random(1), range(1, 25)
        logs = sorted(made_up(rng) for _ in range(UNKNOWN_LOGS_MAX))
        vector = Vector(0, True, ALL, [Entry(log, Head(1_000, HASH), None) for log in logs]).encode()
        for number in sessions:
            node.open(number, peer_of(Author(f"//validator{number}")))
            node.hear(number, vector)
        assert node.engine._fetch.under_way_bytes > CATCHUP_BYTES_MAX - 2 * WANT_BYTES_MAX
        looked, next_seq = 0, Intake.next_seq

        def counting(intake: Intake, log: LogId, state: State) -> int:
            nonlocal looked
            looked += 1
            return next_seq(intake, log, state)

        monkeypatch.setattr(Intake, "next_seq", counting)
        node.tick()
        assert looked <= len(sessions) * 4 * NO_CREDIT_MAX


class TestLies:
    """What nobody signed moves nothing but the liar's own session."""

    def test_a_log_announced_up_to_the_sky_blames_no_honest_peer(self) -> None:
        """Only who announced an event is asked for it."""
        node = victim()
        node.holds(*EVENTS[:1])
        tag = frames.log_tag(LOG)
        node.hear(1, Have([News(tag, 2**62, 0)]).encode())
        node.hear(2, Have([News(tag, 1, 0)]).encode())
        asked: list[frames.Frame] = []
        while not any(isinstance(frame, Want) for frame in asked):
            assert node.now_ms < NOW_MS + 5_000
            node.tick()
            asked += map(frames.decode, node.outgoing[2])
            node.outgoing[2].clear()
        node.hear(2, Range(LOG, 1, [EVENTS[1].wire]).encode())
        node.settle()
        assert node.head(LOG) == 1
        for _ in range(40):
            node.tick()
        assert node.engine._sessions[2].ahead == {}
        assert node.engine._sessions[2].stalled_until_ms == 0

    def test_endless_parts_of_a_vector_of_made_up_logs_are_not_kept(self) -> None:
        node, rng = victim(), random.Random(1)
        logs = sorted(made_up(rng) for _ in range(3 * UNKNOWN_LOGS_MAX))
        for part in range(12):
            listed = logs[part * 1_024 : part * 1_024 + 1_024]
            node.hear(1, Vector(part, False, ALL, [Entry(log, Head(7, HASH), None) for log in listed]).encode())
        assert not node.closes
        assert len(node.engine._sessions[1].partial) == UNKNOWN_LOGS_MAX

    def test_logs_that_were_trickled_are_not_remembered_without_bound(self) -> None:
        session = victim().engine._sessions[1]
        for number in range(2 * SPARED_MAX):
            session.spare(LogId(HASH, number), 1)
        assert len(session.spared) == SPARED_MAX
        assert LogId(HASH, 2 * SPARED_MAX - 1) in session.spared


# -- a storm ---------------------------------------------------------------------------------------------------------


def storm(rng: random.Random) -> Iterator[bytes]:
    """Frames of all kinds, no two alike; most are no fault by themselves."""
    forged = clone(AUTHOR)
    makers: list[Callable[[], frames.Frame]] = [
        *(lambda make=make: make(rng) for _, make in map(FLOODS.__getitem__, QUICK)),
        lambda: Have([News(rng.randbytes(8), 2**62, 0) for _ in range(64)]),
        lambda: Want(made_up(rng), rng.randint(0, 2**62), rng.randint(1, 512), 1),
        lambda: Range(made_up(rng), 0, []),
        lambda: Vector(rng.randint(0, 1), bool(rng.randint(0, 1)), ALL, [Entry(made_up(rng), Head(2**62, HASH), None)]),
        lambda: Vector(0, True, ALL, [Entry(LOG, Head(rng.randint(0, 2**62), rng.randbytes(32)), None)]),
        lambda: Have([News(frames.log_tag(LOG), rng.randint(0, 2**62), 0)]),
        lambda: Events([EVENTS[3].wire.replace(EVENTS[3].signature, rng.randbytes(64)) for _ in range(8)]),
        lambda: Events([event.wire for event in rng.sample(EVENTS, 4)]),
        lambda: Proofs([closing(forged.hotkey, NETWORK.id, LOG, None)._replace(signature=rng.randbytes(64))]),
        lambda: Book([(made_up(rng), DELEGATION)]),
    ]
    weights = [10] * len(QUICK) + [2] * (len(makers) - len(QUICK))
    while True:
        yield rng.choices(makers, weights)[0]().encode()


DELEGATION: Final = AUTHOR.delegation()
QUICK: Final = [
    "digests that ask",
    "digests that do not",
    "slices",
    "vectors",
    "parts of vectors",
    "links that come and go",
]
"""Floods whose frames are made quickly."""


def test_a_container_that_nobody_bounds_is_found_without_being_named() -> None:
    engine = victim().engine
    before = weigh(engine)
    assert max(before.longest.values()) <= SLICES
    engine._sessions[1].status_cache = {number: bytes(100) for number in range(ITEMS_MAX + 1)}  # type: ignore[attr-defined]
    found = weigh(engine)
    assert next(path for path, items in found.longest.items() if items > ITEMS_MAX).endswith(".status_cache")
    assert found.size_bytes > before.size_bytes + 100 * ITEMS_MAX


def test_a_hundred_thousand_hostile_frames_leave_nothing_but_bounded_traces() -> None:
    node, rng = victim(), random.Random(64)
    node.holds(*EVENTS[:2])
    frames_of = storm(rng)
    hostile, opened, largest = 1, 1, 0
    for count in range(STORM_FRAMES):
        node.hear(hostile, next(frames_of))
        if node.closes:
            assert {close.session for close in node.closes} == {hostile}
            node.closes.clear()
            opened += 1
            hostile = opened + 1
            node.open(hostile, peer_of(Author(B, seed=hostile % 250)))
            node.hear(hostile, Link(Mode.EVENTS).encode())
        if count % 7 == 0:
            node.settle()
            node.said.clear()
            node.notices.clear()
            for queue in node.outgoing.values():
                queue.clear()
        if count % 50 == 0:
            node.tick(rng.choice([0, 50, 250, 1_000]))
        if count % 5_000 == 0:
            found = weigh(node.engine)
            over = {path: items for path, items in found.longest.items() if items > ITEMS_MAX}
            assert not over
            largest = max(largest, found.size_bytes)
    node.settle()
    assert opened > 100
    assert PENDING_BYTES_MAX < ENGINE_BYTES_MAX
    assert largest < ENGINE_BYTES_MAX
    assert_honest_goes_on(node)
