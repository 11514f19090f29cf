"""What is missing comes over from several peers at once, each event once, within bounds that nobody can pass."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnodes.gossip import fetch, frames, gaps, intake
from p2pnodes.gossip.effects import Close
from p2pnodes.gossip.fetch import STALL_MS, WANT_MS_MAX, WANTS_MAX
from p2pnodes.gossip.frames import ALL_SLICES, Events, Have, Link, Mode, News, Range, Vector, Want, log_tag
from p2pnodes.gossip.gaps import CATCHUP_BYTES_MAX, WAITING_MS_MAX, Gaps
from p2pnodes.gossip.intake import BLOCK, FETCH_AHEAD, GAP_BYTES_MAX, GAP_SHARE_BYTES_MAX
from p2pnodes.gossip.push import GRAFT_AGAIN_MS, GRAFT_MS
from p2pnodes.gossip.rates import AuthorRates
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.events import EVENT_BYTES_MAX, Event, LogId
from tests.gossip.harness import Net, Node, clone, entry, peer_of
from tests.support import VALIDATORS, Author

A, B, C = VALIDATORS
OTHERS = tuple(f"//validator{index}" for index in range(1, 9))
"""Who is at the other end of the sessions of a node of A's."""

SMALL: dict[tuple[Any, str], int] = {
    (fetch, "BLOCK"): 8,
    (intake, "BLOCK"): 8,
    (fetch, "EVENT_BYTES_MAX"): 1_000,
    (fetch, "WANT_BYTES_MAX"): 4_000,
    (fetch, "WANT_BYTES_MIN"): 2_000,
    (gaps, "CATCHUP_BYTES_MAX"): 20_000,
    (gaps, "AHEAD_BYTES_MAX"): 10_000,
    (fetch, "LANE_BYTES_MAX"): 3_000,
    (fetch, "LANE_EVENTS_MAX"): 6,
    (intake, "GAP_BYTES_MAX"): 6_000,
    (intake, "GAP_SHARE_BYTES_MAX"): 2_000,
}
"""All bounds in their proportions, so that logs of a few dozen events meet each. Events here have some 400 bytes."""


@contextmanager
def small_bounds() -> Iterator[None]:
    with ExitStack() as stack:
        for (module, name), value in SMALL.items():
            stack.enter_context(patch.object(module, name, value))
        yield


@cache
def long_log(number: int, count: int) -> Author:
    """A log of C's with so many events in all."""
    author = Author(C, number=number)
    author.delegate()
    for index in range(1, count):
        author.verdict(index.to_bytes(32, "big"))
    return author


class Crowd:
    """A node and the other ends of its sessions, which the test speaks for."""

    def __init__(self, *authors: Author, sessions: int = 3) -> None:
        self.node = Node(A)
        self.authors = {author.log: author for author in authors}
        self.wanted = Counter[tuple[LogId, int]]()
        """How often each event was wanted."""
        self.served = Counter[tuple[LogId, int]]()
        for session in range(1, sessions + 1):
            self.node.open(session, peer_of(Author(OTHERS[session - 1])))

    @property
    def fetch(self) -> fetch.Fetch:
        return self.node.engine._fetch

    @property
    def gaps(self) -> Gaps:
        return self.fetch._gaps

    def show(self, session: int) -> None:
        """Let a peer say that it holds all of the logs."""
        said = [entry(log, author.events[-1].seq, author.events[-1].id) for log, author in self.authors.items()]
        self.node.hear(session, Vector(0, True, ALL_SLICES, sorted(said)).encode())

    def wants(self, session: int) -> list[Want]:
        """Take the wants that were sent in a session since the last call."""
        if session not in self.node.outgoing:
            return []
        sent = [frames.decode(frame) for frame in self.node.outgoing[session]]
        self.node.outgoing[session].clear()
        found = [frame for frame in sent if isinstance(frame, Want)]
        for want in found:
            self.wanted.update((want.log, want.first_seq + index) for index in range(want.count_max))
        return found

    def events(self, want: Want, count_max: int = BLOCK) -> list[Event]:
        """What an honest peer has for a want; of no more than ``count_max`` events."""
        found: list[Event] = []
        for event in self.authors[want.log].events[want.first_seq :][: min(count_max, want.count_max)]:
            if found and sum(len(each.wire) for each in [*found, event]) > want.size_bytes:
                break
            found.append(event)
        return found

    def serve(self, session: int, want: Want, events: Sequence[Event] | None = None) -> None:
        """Let a peer answer: honestly, unless it is told with what."""
        events = self.events(want) if events is None else events
        self.served.update((event.log, event.seq) for event in events)
        self.node.hear(session, Range(want.log, want.first_seq, [event.wire for event in events]).encode())

    def halves(self) -> tuple[Want, Want]:
        """The wants for the two blocks of a log of 16 events, from the sessions 1 and 2."""
        for session in (1, 2):
            self.show(session)
        (first,), (second,) = self.wants(1), self.wants(2)
        assert (first.first_seq, second.first_seq) == (0, 8)
        return first, second

    def holds_all(self) -> bool:
        return all(self.node.head(log) == author.events[-1].seq for log, author in self.authors.items())


class TestForeseen:
    """The signatures of what will be stored may be checked before its turn; live events come one by one."""

    def foreseen(self, crowd: Crowd) -> list[Event]:
        """What was foreseen since the last call."""
        found = [event for effect in crowd.node.foreseen for event in effect.events]
        crowd.node.foreseen.clear()
        return found

    def test_a_range_is_foreseen_when_it_comes_once(self) -> None:
        author = long_log(0, 16)
        crowd = Crowd(author, sessions=2)
        with small_bounds():
            first, second = crowd.halves()
            crowd.serve(2, second)
            assert self.foreseen(crowd) == author.events[8:]
            crowd.serve(1, first)
            assert self.foreseen(crowd) == author.events[:8]
            while crowd.node.stores:
                crowd.node.settle()
        assert not self.foreseen(crowd)

    def test_pushed_events_whose_turn_it_is_are_foreseen_together(self) -> None:
        author = long_log(0, 12)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([event.wire for event in author.events[2:7]]).encode())
        assert self.foreseen(crowd) == author.events[2:7]

    def test_a_single_one_is_not(self) -> None:
        author = long_log(0, 12)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([author.events[2].wire]).encode())
        assert not self.foreseen(crowd)

    def test_pushed_events_behind_a_gap_are_not_for_nobody_has_asked_for_them(self) -> None:
        author = long_log(0, 12)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([event.wire for event in author.events[5:]]).encode())
        assert not self.foreseen(crowd)


class TestOnce:
    """A block is wanted from one peer at a time, and what is here, under way or waiting is not wanted."""

    def test_blocks_of_one_long_log_are_wanted_from_several_peers_at_once(self) -> None:
        crowd = Crowd(long_log(0, 40))
        with small_bounds():
            for session in (1, 2, 3):
                crowd.show(session)
            crowd.serve(1, crowd.wants(1)[0])  # it was first, and had all of the credit for what comes later
            crowd.node.tick()
            blocks = {session: {want.first_seq // 8 for want in crowd.wants(session)} for session in (2, 3)}
        assert blocks[2]
        assert not blocks[2] & blocks[3]

    def test_a_block_that_comes_before_its_predecessor_waits_for_it(self) -> None:
        author = long_log(0, 16)
        crowd = Crowd(author, sessions=2)
        with small_bounds():
            first, second = crowd.halves()
            crowd.serve(2, second)
            assert not crowd.node.stores
            assert crowd.gaps.size_bytes == sum(len(event.wire) for event in author.events[8:])
            crowd.serve(1, first)
            while crowd.node.stores:
                crowd.node.settle()
        assert crowd.holds_all()
        assert crowd.gaps.size_bytes == crowd.fetch.under_way_bytes == 0

    def test_events_go_to_the_store_in_order_though_their_sessions_store_for_themselves(self) -> None:
        """Batches of two sessions may come to the writer in any order."""
        crowd = Crowd(long_log(0, 16), sessions=2)
        with small_bounds():
            first, second = crowd.halves()
            crowd.serve(1, first)
            crowd.serve(2, second)
            while crowd.node.stores:
                assert len({effect.session for effect in crowd.node.stores}) == 1
                crowd.node.store_one()
        assert crowd.holds_all()

    def test_what_was_pushed_meanwhile_is_not_wanted(self) -> None:
        author = long_log(0, 12)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([event.wire for event in author.events[5:7]]).encode())
        (want,) = crowd.wants(1)
        assert (want.first_seq, want.count_max) == (2, 3)
        crowd.show(1)
        crowd.serve(1, want)
        (want,) = crowd.wants(1)
        assert (want.first_seq, want.count_max) == (7, 5)

    def test_pushed_events_behind_a_gap_are_kept_and_stored_with_it(self) -> None:
        author = long_log(0, 12)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([event.wire for event in author.events[5:]]).encode())
        (want,) = crowd.wants(1)
        crowd.serve(1, want)
        crowd.node.settle()
        assert crowd.holds_all()
        assert not crowd.wants(1)

    def test_a_pushed_event_whose_predecessor_another_session_stores_waits_for_it(self) -> None:
        author = long_log(0, 4)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(author.events[0])
        crowd.node.hear(1, Events([author.events[1].wire]).encode())
        crowd.node.hear(2, Events([author.events[2].wire]).encode())
        assert [effect.events for effect in crowd.node.stores] == [(author.events[1],)]
        crowd.node.settle()
        assert crowd.node.head(author.log) == 2
        assert not crowd.wants(1) + crowd.wants(2)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 5), st.randoms(use_true_random=False))
    def test_while_peers_answer_every_event_is_wanted_once(self, counts: list[int], sessions: int, rng: Any) -> None:
        crowd = Crowd(*(long_log(number, count) for number, count in enumerate(counts)), sessions=sessions)
        with small_bounds():
            asked: list[tuple[int, Want]] = []
            for session in range(1, sessions + 1):
                crowd.show(session)
            for _ in range(2_000):
                for session in range(1, sessions + 1):
                    asked += [(session, want) for want in crowd.wants(session)]
                    assert len(crowd.node.engine._sessions[session].wanted) <= WANTS_MAX
                assert crowd.fetch.under_way_bytes <= 20_000
                if crowd.node.stores and (not asked or rng.random() < 0.5):
                    crowd.node.store_one()
                elif asked:
                    crowd.serve(*asked.pop(rng.randrange(len(asked))))
                else:
                    crowd.node.tick()
                if crowd.holds_all():
                    break
            assert crowd.holds_all()
        assert set(crowd.served.values()) == {1}
        assert set(crowd.served) == {(event.log, event.seq) for a in crowd.authors.values() for event in a.events}
        assert crowd.fetch.under_way_bytes == 0


class TestBroken:
    """Who promises and does not serve delays the others by a stated time, and is left alone for a while."""

    def test_an_empty_answer_costs_a_round_trip(self) -> None:
        crowd = Crowd(long_log(0, 4), sessions=2)
        for session in (1, 2):
            crowd.show(session)
        (want,) = crowd.wants(1)
        assert not crowd.wants(2)
        crowd.serve(1, want, [])
        crowd.node.tick()
        assert len(crowd.wants(2)) == 1

    def test_no_answer_costs_ten_seconds(self) -> None:
        crowd = Crowd(long_log(0, 4), sessions=2)
        for session in (1, 2):
            crowd.show(session)
        crowd.wants(1)
        for _ in range(WANT_MS_MAX // 250):
            crowd.node.tick()
            assert not crowd.wants(2)
        crowd.node.tick()
        (want,) = crowd.wants(2)
        crowd.serve(2, want)
        crowd.node.settle()
        assert crowd.holds_all()

    def test_a_peer_that_only_announces_a_live_event_delays_it_by_a_second(self) -> None:
        author = long_log(0, 4)
        crowd = Crowd(author, sessions=2)
        crowd.node.hear(1, Events([event.wire for event in author.events[:3]]).encode())
        crowd.node.settle()
        for session in (1, 2):
            crowd.node.hear(session, Link(Mode.EVENTS).encode())
            crowd.node.hear(session, Have([News(log_tag(author.log), 3, 0)]).encode())
        asked: list[Want] = []
        for _ in range((GRAFT_MS + GRAFT_AGAIN_MS) // 250 + 2):
            crowd.node.tick()
            asked += crowd.wants(2)
        assert crowd.wants(1)  # it was asked first, and says nothing
        (want,) = asked
        crowd.serve(2, want)
        crowd.node.settle()
        assert crowd.holds_all()

    def test_a_late_answer_is_taken_if_there_is_room(self) -> None:
        crowd = Crowd(long_log(0, 4), sessions=1)
        crowd.show(1)
        (want,) = crowd.wants(1)
        for _ in range(WANT_MS_MAX // 250 + 1):
            crowd.node.tick()
        assert crowd.fetch.under_way_bytes == 0
        crowd.serve(1, want)
        crowd.node.settle()
        assert crowd.holds_all()

    def test_a_late_answer_without_room_is_dropped_and_fetched_later(self) -> None:
        author = long_log(0, 4)
        crowd = Crowd(author, sessions=1)
        with small_bounds():
            crowd.show(1)
            (want,) = crowd.wants(1)
            for _ in range(WANT_MS_MAX // 250 + 1):
                crowd.node.tick()
            crowd.gaps.lent_bytes = 19_500  # others have it
            crowd.serve(1, want)
            assert not crowd.node.stores
            crowd.gaps.lent_bytes = 0
            for _ in range(STALL_MS // 250):
                crowd.node.tick()
            (again,) = crowd.wants(1)
            crowd.serve(1, again)
            crowd.node.settle()
        assert crowd.holds_all()

    def test_a_range_with_more_events_than_were_wanted_closes_the_session(self) -> None:
        author = long_log(0, 8)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([author.events[4].wire]).encode())
        (want,) = crowd.wants(1)
        assert want.count_max == 2
        crowd.serve(1, want, author.events[2:5])
        (close,) = crowd.node.closes
        assert "more than the 2 events" in close.reason

    def test_what_a_session_sent_that_waits_goes_with_it(self) -> None:
        crowd = Crowd(long_log(0, 16), sessions=2)
        with small_bounds():
            first, second = crowd.halves()
            crowd.serve(2, second)
            assert crowd.gaps.size_bytes > 0
            crowd.node.do(crowd.node.engine.closed(2, crowd.node.now_ms))
            assert crowd.gaps.size_bytes == 0
            assert crowd.fetch.under_way_bytes == first.size_bytes
            crowd.serve(1, first)
            (again,) = crowd.wants(1)
            assert again[:3] == second[:3]

    def test_forged_events_that_waited_cost_the_liar_its_session_and_the_true_ones_come_from_another(self) -> None:
        author = long_log(0, 12)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(*author.events[:2])
        true = author.events[4]
        forged = true.wire.replace(true.signature, bytes(64))
        crowd.node.hear(1, Events([forged]).encode())
        (want,) = crowd.wants(1)
        crowd.node.hear(2, Events([true.wire]).encode())  # its place is taken
        crowd.serve(1, want)
        crowd.node.settle()
        assert [close.session for close in crowd.node.closes] == [1]
        assert crowd.node.head(author.log) == 3
        crowd.node.tick()
        (want,) = crowd.wants(2)
        crowd.serve(2, want)
        crowd.node.settle()
        assert crowd.node.head(author.log) == 4

    def test_what_a_session_takes_with_it_is_fetched_from_one_whose_copy_was_a_duplicate(self) -> None:
        author = long_log(0, 8)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(*author.events[:5])
        for session in (1, 2):
            crowd.node.hear(session, Events([author.events[5].wire]).encode())
        crowd.node.stores.clear()  # what a session has not handed over yet is dropped with it
        crowd.node.do(crowd.node.engine.closed(1, crowd.node.now_ms))
        crowd.node.tick()
        (want,) = crowd.wants(2)
        assert want[:3] == (author.log, 5, 1)

    def test_a_true_event_behind_a_forged_one_is_fetched_from_one_whose_copy_was_a_duplicate(self) -> None:
        author = long_log(0, 8)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(*author.events[:5])
        true = author.events[5]
        forged = true.wire.replace(true.signature, bytes(64))
        crowd.node.hear(1, Events([forged, author.events[6].wire]).encode())
        crowd.node.hear(2, Events([true.wire, author.events[6].wire]).encode())
        crowd.node.settle()
        assert [close.session for close in crowd.node.closes] == [1]
        assert crowd.node.head(author.log) == 5
        crowd.node.tick()
        (want,) = crowd.wants(2)
        assert want[:3] == (author.log, 6, 1)

    def test_what_waited_and_goes_with_its_session_is_fetched_from_one_whose_copy_was_a_duplicate(self) -> None:
        author = long_log(0, 8)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(*author.events[:4])
        for session in (1, 2):
            crowd.node.hear(session, Events([author.events[5].wire]).encode())
        crowd.wants(1)
        crowd.node.do(crowd.node.engine.closed(1, crowd.node.now_ms))
        crowd.node.tick()
        (want,) = crowd.wants(2)
        assert want[:3] == (author.log, 4, 2)

    def test_what_waits_for_something_that_nobody_has_is_dropped_in_time(self) -> None:
        author = long_log(0, 8)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([author.events[4].wire]).encode())
        (want,) = crowd.wants(1)
        crowd.serve(1, want, [])
        for _ in range(WAITING_MS_MAX // 250):
            crowd.node.tick()
            assert crowd.gaps.size_bytes == len(author.events[4].wire)
        crowd.node.tick()
        crowd.node.tick()
        assert crowd.gaps.size_bytes == len(crowd.gaps) == 0
        crowd.node.hear(1, Events([event.wire for event in author.events[2:5]]).encode())  # it may come again
        crowd.node.settle()
        assert crowd.node.head(author.log) == 4

    def test_what_waits_has_its_turn_when_what_stood_before_it_comes_in_a_live_set(self) -> None:
        """Else it would be taken for here, and be wanted from nobody, as long as its session lasts."""
        author = long_log(0, 8)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(*author.events[:2])
        crowd.node.hear(1, Events([event.wire for event in author.events[4:]]).encode())
        (want,) = crowd.wants(1)
        crowd.serve(1, want, [])
        crowd.node.holds(*author.events[2:4])  # the engine is told of no event
        crowd.node.tick()
        crowd.node.settle()
        assert crowd.holds_all()
        assert crowd.gaps.size_bytes == crowd.fetch.under_way_bytes == 0

    def test_a_log_that_forked_leaves_nothing_that_waits(self) -> None:
        author = Author(C)
        author.delegate()
        twin = clone(author)
        for index in range(6):
            author.verdict(index.to_bytes(32, "big"))
        twin.verdict(b"x" * 32, "failed")
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(author.events[0])
        crowd.node.hear(1, Events([event.wire for event in author.events[2:]]).encode())
        assert len(crowd.gaps) == 1
        crowd.node.hear(2, Events([twin.events[1].wire]).encode())
        crowd.node.settle()
        crowd.serve(1, crowd.wants(1)[0])
        crowd.node.settle()
        assert crowd.gaps.size_bytes == crowd.fetch.under_way_bytes == 0


class TestBounds:
    """Everything that is under way has one bound, and each session and each log a share of it."""

    def test_pushed_events_far_ahead_are_not_kept(self) -> None:
        author = long_log(0, 100)
        crowd = Crowd(author, sessions=1)
        with small_bounds():
            crowd.node.holds(author.events[0])
            crowd.node.hear(1, Events([author.events[8 * FETCH_AHEAD].wire]).encode())
            assert crowd.gaps.size_bytes == 0
            crowd.node.hear(1, Events([author.events[8 * FETCH_AHEAD - 1].wire]).encode())
            assert crowd.gaps.size_bytes > 0

    def test_a_session_fills_no_more_than_its_share(self) -> None:
        authors = [long_log(number, 12) for number in range(10)]
        crowd = Crowd(*authors, sessions=2)
        with small_bounds():
            for author in authors:
                crowd.node.holds(*author.events[:2])
                crowd.node.hear(1, Events([event.wire for event in author.events[4:]]).encode())
            assert 1_000 < crowd.gaps.pushed_by(1) <= 2_000
            for author in authors:
                crowd.node.hear(2, Events([event.wire for event in author.events[4:]]).encode())
            assert 1_000 < crowd.gaps.pushed_by(2) <= 2_000

    def test_pushed_events_of_a_log_that_is_not_held_are_not_kept(self) -> None:
        author = long_log(0, 4)
        crowd = Crowd(author, sessions=1)
        crowd.node.hear(1, Events([author.events[2].wire]).encode())
        assert crowd.gaps.size_bytes == 0
        (want,) = crowd.wants(1)
        assert (want.first_seq, want.count_max) == (0, 3)

    def test_liars_that_hold_credit_leave_the_others_their_share(self) -> None:
        last = 5
        crowd = Crowd(*(long_log(number, 4) for number in range(24)), sessions=last)
        with small_bounds():
            for session in range(1, last + 1):
                crowd.show(session)
            for session in range(1, last):
                crowd.wants(session)  # and never answer
            asked = crowd.wants(last)
            assert asked
            for _ in range(200):
                for want in asked:
                    crowd.serve(last, want)
                crowd.node.settle()
                asked = crowd.wants(last)
                crowd.node.tick()
        assert crowd.holds_all()

    def test_what_waits_leaves_room_for_what_it_waits_for(self) -> None:
        author = long_log(0, 100)
        gapped = [long_log(number, 12) for number in range(1, 16)]
        crowd = Crowd(author, sessions=8)
        crowd.node.holds(author.events[0])
        for other in gapped:
            crowd.node.holds(*other.events[:2])
        began = crowd.node.now_ms
        with small_bounds(), patch.object(intake, "GAP_BYTES_MAX", 10_000):
            for session in (1, 2, 3):
                crowd.show(session)
            while not crowd.holds_all() and crowd.node.now_ms - began < 3 * WANT_MS_MAX:
                crowd.wants(1)  # and never answers: what follows on its block waits, and others fill what room is left
                flood(crowd, gapped)
                for session in (2, 3):
                    for want in crowd.wants(session):
                        crowd.serve(session, want)
                flood(crowd, gapped)
                crowd.node.settle()
                flood(crowd, gapped)
                assert crowd.fetch.under_way_bytes <= 20_000
                crowd.node.tick()
        assert crowd.holds_all()
        assert crowd.node.now_ms - began <= WANT_MS_MAX + 10_000

    def test_pushed_events_and_ranges_that_wait_share_one_part_of_the_room(self) -> None:
        author = long_log(0, 100)
        gapped = [long_log(number, 12) for number in range(1, 16)]
        crowd = Crowd(author, sessions=8)
        for other in gapped:
            crowd.node.holds(*other.events[:2])
        with small_bounds(), patch.object(intake, "GAP_BYTES_MAX", 10_000):
            crowd.show(1)
            first = crowd.wants(1)[0]
            for session in (2, 3):
                crowd.show(session)
            waits = [(session, want) for session in (2, 3) for want in crowd.wants(session)]
            assert crowd.gaps.ahead_bytes > 5_000
            flood(crowd, gapped)
            for session, want in waits:
                crowd.serve(session, want)
            flood(crowd, gapped)
            assert 8_000 < crowd.gaps.size_bytes + crowd.gaps.ahead_bytes <= 10_000
            crowd.serve(1, first, [])
            crowd.node.tick()
            assert 0 in {want.first_seq for session in (2, 3) for want in crowd.wants(session)}

    def test_what_waits_of_a_session_does_not_keep_it_from_bringing_what_comes_before(self) -> None:
        author = long_log(0, 24)
        crowd = Crowd(author, sessions=2)
        with small_bounds():
            crowd.show(1)
            first = crowd.wants(1)[0]
            crowd.show(2)
            for _ in range(3):
                for want in crowd.wants(2):
                    crowd.serve(2, want)
            assert crowd.gaps.bytes_of(2) > 2_000
            crowd.gaps.lent_bytes += 11_000  # others have it: a quarter of what is left is less than what waits
            crowd.serve(1, first, [])
            crowd.node.tick()
            (want,) = crowd.wants(2)
            assert want.first_seq == 0

    @pytest.mark.parametrize("kind", ["silent", "empty", "trickling", "forging"])
    def test_each_kind_of_liar_delays_a_log_by_no_more_than_the_wait_for_an_answer(self, kind: str) -> None:
        author = long_log(0, 30)
        crowd = Crowd(author, sessions=2)
        began = crowd.node.now_ms
        for session in (1, 2):
            crowd.show(session)
        for _ in range(4 * WANT_MS_MAX // 250):
            for want in crowd.wants(1):
                lie(crowd, 1, want, kind)
            for want in crowd.wants(2):
                crowd.serve(2, want)
            crowd.node.settle()
            if crowd.holds_all():
                break
            crowd.node.tick()
        assert crowd.holds_all()
        assert crowd.node.now_ms - began <= WANT_MS_MAX + 1_000

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.integers(1, 50), min_size=1, max_size=4),
        st.lists(st.sampled_from(["honest", "silent", "empty", "trickling", "forging", "closing"]), max_size=4),
        st.randoms(use_true_random=False),
    )
    def test_with_any_peers_in_any_order_all_arrives_and_no_bound_is_passed(
        self, counts: list[int], kinds: list[str], rng: Any
    ) -> None:
        peers = dict(enumerate(["honest", *kinds], 1))
        crowd = Crowd(*(long_log(number, count) for number, count in enumerate(counts)), sessions=len(peers))
        with small_bounds():
            for session in peers:
                crowd.show(session)
            asked: list[tuple[int, Want]] = []
            for step in range(6_000):
                for session in list(peers):
                    asked += [(session, want) for want in crowd.wants(session)]
                self.happens(crowd, peers, asked, rng)
                for close in crowd.node.closes:
                    peers.pop(close.session, None)
                    crowd.node.outgoing.pop(close.session, None)
                asked = [(session, want) for session, want in asked if session in peers]
                assert crowd.fetch.under_way_bytes <= 20_000
                assert crowd.gaps.pushed_bytes <= 6_000
                assert all(crowd.gaps.pushed_by(session) <= 2_000 for session in peers)
                assert 0 <= crowd.gaps.ahead_bytes <= crowd.gaps.lent_bytes
                if crowd.holds_all():
                    break
                if step % 400 == 399:  # as its next digest would bring about
                    crowd.show(1)
            assert crowd.holds_all()
            while crowd.node.stores:
                crowd.node.settle()
        assert 1 in peers
        assert {close.session for close in crowd.node.closes if close.ban_s} <= {
            session for session, kind in enumerate(["honest", *kinds], 1) if kind == "forging"
        }

    @staticmethod
    def happens(crowd: Crowd, peers: dict[int, str], asked: list[tuple[int, Want]], rng: Any) -> None:
        """One thing of those that may happen now."""
        choice = rng.random()
        if crowd.node.stores and choice < 0.4:
            crowd.node.store_one()
        elif asked and choice < 0.7:
            session, want = asked.pop(rng.randrange(len(asked)))
            lie(crowd, session, want, peers[session])
        elif choice < 0.8:
            author = rng.choice(list(crowd.authors.values()))
            first = rng.randrange(len(author.events))
            pushed = [event.wire for event in author.events[first : first + rng.randint(1, 6)]]
            crowd.node.hear(rng.choice(list(peers)), Events(pushed).encode())
        else:
            crowd.node.tick()


def flood(crowd: Crowd, authors: Sequence[Author]) -> None:
    """Let the sessions 4 to 8 push forged events of held logs with a gap before them, as many as are kept."""
    for session in range(4, 9):
        for author in authors[session - 4 :: 5]:
            forged = [event.wire.replace(event.signature, bytes([session]) * 64) for event in author.events[4:]]
            crowd.node.hear(session, Events(forged).encode())


def lie(crowd: Crowd, session: int, want: Want, kind: str) -> None:
    """Answer a want as a peer of some kind does."""
    events = crowd.events(want)
    match kind:
        case "honest":
            crowd.serve(session, want)
        case "silent":
            pass
        case "empty":
            crowd.serve(session, want, [])
        case "trickling":
            crowd.serve(session, want, events[:1])
        case "forging":
            wires = [event.wire.replace(event.signature, bytes(64)) for event in events]
            crowd.node.hear(session, Range(want.log, want.first_seq, wires).encode())
        case _:
            crowd.node.do(crowd.node.engine.closed(session, crowd.node.now_ms))
            crowd.node.closes.append(Close(session, Reason("the connection broke", Code.SESSION_LOST), 0.0))


class TestLive:
    """Catching up waits for live events, not the other way round."""

    def test_no_more_than_the_lane_is_in_the_store(self) -> None:
        crowd = Crowd(long_log(0, 40), *(long_log(number, 5) for number in range(1, 5)), sessions=3)
        with small_bounds():
            for session in (1, 2, 3):
                crowd.show(session)
            while not crowd.holds_all():
                for session in (1, 2, 3):
                    for want in crowd.wants(session):
                        crowd.serve(session, want)
                stored = [event for effect in crowd.node.stores for event in effect.events]
                assert 0 < sum(len(event.wire) for event in stored) <= 3_000
                assert len(stored) <= 6
                crowd.node.store_one()

    def test_a_live_event_waits_for_no_more_than_the_lane(self) -> None:
        old, live = long_log(0, 60), long_log(1, 3)
        crowd = Crowd(old, sessions=2)
        with small_bounds():
            crowd.node.holds(*live.events[:2])
            crowd.show(1)
            for want in crowd.wants(1):
                crowd.serve(1, want)
            before = sum(len(effect.events) for effect in crowd.node.stores)
            crowd.node.hear(2, Events([live.events[2].wire]).encode())
            assert crowd.node.stores[-1].events == (live.events[2],)
            assert before <= 6

    def test_one_that_is_asked_just_now_has_its_time_though_this_daemon_stood_still_once(self) -> None:
        author = long_log(0, 5)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(author.events[0])
        crowd.node.tick(60_000)
        crowd.show(1)
        assert len(crowd.wants(1)) == 1
        other = crowd.node.engine._sessions[2]
        crowd.fetch.announced(other, author.log, 4, crowd.node.state)
        assert other.wanted == {}
        crowd.node.tick(fetch.LIVE_WANT_MS_MAX)
        crowd.fetch.announced(other, author.log, 4, crowd.node.state)
        assert len(other.wanted) == 1

    def test_a_pushed_event_finds_room_to_wait_while_long_histories_come_over(self) -> None:
        history, live = long_log(0, 100), long_log(9, 6)
        crowd = Crowd(history, sessions=4)
        crowd.node.holds(*live.events[:3])
        with small_bounds():
            crowd.gaps.lent_bytes = crowd.gaps.ahead_bytes = 7_500  # others have it
            for session in (1, 2):
                crowd.show(session)
            assert [want.first_seq for session in (1, 2) for want in crowd.wants(session)] == [0]
            crowd.node.hear(3, Events([live.events[3].wire]).encode())
            crowd.node.hear(4, Events([live.events[4].wire]).encode())  # it waits for the one before
            crowd.node.settle()
        assert crowd.node.head(live.log) == 4

    def test_a_live_event_is_fetched_before_long_histories(self) -> None:
        histories, live = [long_log(number, 60) for number in range(5)], long_log(9, 6)
        crowd = Crowd(*histories, sessions=1)
        crowd.node.holds(*live.events[:3])
        with small_bounds():
            crowd.show(1)
            asked = crowd.wants(1)
            crowd.node.hear(1, Events([live.events[4].wire]).encode())
            assert crowd.wants(1) == []
            crowd.serve(1, asked[0])
            assert crowd.wants(1)[0][:3] == (live.log, 3, 1)

    def test_long_histories_take_turns(self) -> None:
        histories = [long_log(number, 60) for number in range(5)]
        crowd = Crowd(*histories, sessions=1)
        with small_bounds():
            crowd.show(1)
            asked: list[Want] = []
            for _ in range(10):
                asked += crowd.wants(1)
                crowd.serve(1, asked.pop(0))
                crowd.node.settle()
        assert all(crowd.node.head(author.log) >= 7 for author in histories)

    def test_who_was_asked_for_more_than_came_by_the_tree_holds_up_the_rest_no_longer(self) -> None:
        author = long_log(0, 40)
        crowd = Crowd(author, sessions=2)
        crowd.node.holds(author.events[0])
        crowd.show(1)
        (silent,) = crowd.wants(1)
        assert silent.first_seq == 1
        crowd.node.hear(2, Events([author.events[1].wire]).encode())
        crowd.node.settle()
        for _ in range(4):
            crowd.node.tick()
        other = crowd.node.engine._sessions[2]
        crowd.fetch.announced(other, author.log, 2, crowd.node.state)
        assert list(other.wanted) == [(author.log, 2)]

    def test_what_is_announced_far_ahead_does_not_have_a_slow_range_fetched_twice(self) -> None:
        author = long_log(0, 40)
        crowd = Crowd(author, sessions=2)
        with small_bounds():
            crowd.show(1)
            (first, *_) = crowd.wants(1)
            assert first.count_max == 8
            for _ in range(2):
                crowd.node.tick(fetch.LIVE_WANT_MS_MAX // 2)
            asked, other = (crowd.node.engine._sessions[session] for session in (1, 2))
            crowd.fetch.announced(other, author.log, 39, crowd.node.state)
            assert not asked.wanted[author.log, 0].late
            assert (author.log, 0) not in other.wanted
            crowd.fetch.announced(other, author.log, 7, crowd.node.state)
            assert asked.wanted[author.log, 0].late

    def test_what_an_author_writes_over_its_rate_is_fetched_and_not_lost(self) -> None:
        author = long_log(0, 40)
        crowd = Crowd(author, sessions=1)
        crowd.node.holds(author.events[0])
        with small_bounds(), patch.object(AuthorRates, "allow", lambda *_: False):
            crowd.node.hear(1, Events([event.wire for event in author.events[1:]]).encode())
            assert not crowd.node.stores
            assert crowd.gaps.size_bytes == 0
            while not crowd.holds_all():
                for want in crowd.wants(1):
                    crowd.serve(1, want)
                crowd.node.store_one()
        assert set(crowd.served.values()) == {1}

    def test_the_bounds_fit_each_other(self) -> None:
        assert GAP_SHARE_BYTES_MAX < GAP_BYTES_MAX <= CATCHUP_BYTES_MAX - gaps.AHEAD_BYTES_MAX
        assert fetch.WANT_BYTES_MIN <= frames.WANT_BYTES_MAX
        assert gaps.AHEAD_BYTES_MAX >= 2 * fetch.WANT_BYTES_MIN
        assert fetch.LANE_BYTES_MAX >= EVENT_BYTES_MAX

    def test_live_events_flow_while_a_long_log_comes_over(self) -> None:
        a, b = Node(A), Node(B)
        known = [a.author.delegate(), b.author.delegate()]
        a.holds(*known)
        b.holds(*known)
        history = long_log(0, 300)
        a.holds(*history.events)
        net = Net(a, b)
        with small_bounds():
            net.join(a, b)
            for _ in range(6):
                net.step()
            for index in range(5):
                a.writes(a.author.verdict(index.to_bytes(32, "big")))
                for _ in range(WANTS_MAX + 2):
                    net.step()
                assert b.head(a.author.log) == a.head(a.author.log)
            assert 0 < b.head(history.log) < 299
            net.run(30_000)
        assert net.agree()
