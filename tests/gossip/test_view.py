"""The active view holds the network together with a handful of links each, whoever comes, dies, lies or is cut off."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.gossip import view
from p2pnodes.gossip.frames import Mode
from p2pnodes.gossip.view import (
    CLAIM_MS_MAX,
    DOWN_WANTED_MAX,
    LONELY_MS,
    LONELY_VISITS,
    MEMBERS_MAX,
    PATIENCE_MS,
    PICK_MS_MAX,
    REFRESH_MS,
    REFUSED_MS,
    REFUSED_MS_MAX,
    REVIEW_CALM_MS,
    REVIEW_MS,
    STRANGER_MS_MAX,
    VIEW_SIZE,
    VISIT_MS_MAX,
    VISIT_MS_MIN,
    WALK_MAX,
    Member,
)
from tests.gossip.views import TICK_MS, Daemon, Net, key, name, peer

SETTLED_MS = 30_000
"""Long enough for every view of a small network to be full."""

SESSIONS = iter(range(1, 1 << 30))


def ring_of(numbers: range, own: int) -> list[int]:
    """Numbers but our own, from our place upward."""
    order = sorted(numbers, key=key)
    place = order.index(own)
    return order[place + 1 :] + order[:place]


def with_members(count: int, size: int = VIEW_SIZE) -> Daemon:
    """Daemon 0 in a network of ``count`` others, all of them known and dialable."""
    daemon = Daemon(0, size=size)
    daemon.knows(range(count + 1))
    return daemon


def meet(daemon: Daemon, number: int, *, links: bool = True, node_key: bytes | None = None) -> int:
    """Open a session with a member; ``links``: which takes us into its view if we ask."""
    session = next(SESSIONS)
    daemon.opened(session, peer(number, node_key=node_key))
    if links and (session, Mode.EVENTS) in daemon.said():
        daemon.view.told(daemon.sessions[session], Mode.EVENTS)
    return session


def link_all_wanted(daemon: Daemon, numbers: range, rounds: int = 40) -> None:
    """Let every member that is wanted be reached, and everyone who is asked agree."""
    by_name = {name(number): number for number in numbers}
    for _ in range(rounds):
        for hotkey in daemon.view.wanted():
            meet(daemon, by_name[hotkey])
        daemon.pass_time(REVIEW_MS)
        for session, mode in daemon.said():
            if mode is Mode.EVENTS and session in daemon.sessions:
                daemon.view.told(daemon.sessions[session], Mode.EVENTS)


def drop_link(daemon: Daemon, number: int) -> None:
    """End the sessions with a member."""
    for session in [n for n, found in daemon.sessions.items() if found.peer.hotkey == name(number)]:
        daemon.closed(session)


class TestSmallNetworks:
    """With no more members than places, everybody is linked with everybody."""

    def test_all_are_wanted_at_once(self) -> None:
        assert set(with_members(VIEW_SIZE).view.wanted()) == {name(n) for n in range(1, VIEW_SIZE + 1)}

    def test_nine_daemons_are_a_clique(self) -> None:
        net = Net(9)
        net.start_all()
        net.run(2_000)
        assert net.degrees() == [8] * 9

    def test_those_without_an_address_are_waited_for(self) -> None:
        daemon = Daemon(0)
        daemon.knows(range(5), dialable=False)
        assert daemon.view.wanted() == []
        session = meet(daemon, 3)
        assert daemon.sessions[session].linked

    def test_until_members_are_told_whoever_has_a_session_is_one(self) -> None:
        daemon = Daemon(0)
        sessions = [meet(daemon, number) for number in range(1, 4)]
        assert all(daemon.sessions[session].linked for session in sessions)
        daemon.closed(sessions[0])
        assert daemon.view.status()["members"] == 2

    def test_growing_beyond_the_places_leaves_most_links(self) -> None:
        daemon = with_members(VIEW_SIZE)
        link_all_wanted(daemon, range(VIEW_SIZE + 1), rounds=1)
        assert len(daemon.links) == VIEW_SIZE
        daemon.knows(range(20))
        daemon.pass_time(REVIEW_MS)
        assert len(daemon.links) >= VIEW_SIZE - 2 - (VIEW_SIZE - 2) // 3


class TestRing:
    """The nearest that live, on either side by node key, are always linked."""

    def test_the_two_neighbours_are_wanted_first(self) -> None:
        daemon = with_members(30)
        order = ring_of(range(31), 0)
        assert daemon.view.wanted()[:2] == [name(order[0]), name(order[-1])]

    def test_one_that_is_down_is_passed_over_and_stays_wanted(self) -> None:
        daemon = with_members(30)
        first, second, *_ = ring_of(range(31), 0)
        daemon.view.failed(name(first))
        daemon.pass_time(REVIEW_MS)
        assert name(second) in daemon.view.wanted()
        assert name(first) in daemon.view.wanted()
        meet(daemon, second)
        daemon.pass_time(REVIEW_MS)
        assert name(second) in daemon.neighbours
        assert name(first) in daemon.view.wanted()

    def test_one_that_is_back_takes_its_place_again(self) -> None:
        daemon = with_members(30)
        link_all_wanted(daemon, range(31))
        first, second, *_ = ring_of(range(31), 0)
        drop_link(daemon, first)
        daemon.view.failed(name(first))
        for _ in range(3):
            daemon.pass_time(REVIEW_MS)
            if name(second) in daemon.view.wanted():
                meet(daemon, second)
        assert name(second) in daemon.neighbours
        meet(daemon, first)
        daemon.pass_time(REVIEW_MS)
        assert name(first) in daemon.neighbours
        assert len(daemon.neighbours) <= VIEW_SIZE

    def test_one_that_does_not_answer_delays_the_next_by_little(self) -> None:
        daemon = with_members(30)
        order = ring_of(range(31), 0)
        assert len(daemon.view.wanted()) == 3, "a neighbour on each side and one that was drawn"
        daemon.pass_time(PATIENCE_MS + REVIEW_MS)
        assert {name(order[n]) for n in (0, 1, -1, -2)} <= set(daemon.view.wanted())
        daemon.pass_time(20 * PATIENCE_MS)
        tried = [number for number in order[:15] if name(number) in daemon.view.wanted()]
        assert len(tried) <= WALK_MAX + 1, "one of them may have been drawn"

    def test_those_that_are_down_are_named_in_turn(self) -> None:
        daemon = with_members(100)
        for number in range(1, 101):
            daemon.view.failed(name(number))
            daemon.pass_time(TICK_MS)
        daemon.pass_time(REVIEW_MS)
        wanted = daemon.view.wanted()
        assert len(wanted) <= DOWN_WANTED_MAX + 1
        assert name(1) in wanted
        assert name(100) not in wanted[:DOWN_WANTED_MAX] or daemon.view._pick is not None
        seen: set[bytes] = set()
        for _ in range(100):
            hotkey = daemon.view.wanted()[0]
            seen.add(hotkey)
            daemon.view.failed(hotkey)
            daemon.pass_time(REVIEW_MS)
        assert len(seen) > 90

    def test_those_that_take_dials_and_end_the_sessions_do_not_hold_it_up(self) -> None:
        daemon = with_members(30)
        order = ring_of(range(31), 0)
        numbers = {name(number): number for number in order}
        for _ in range(60):
            for hotkey in daemon.view.wanted():
                if numbers[hotkey] in (*order[:WALK_MAX], *order[-WALK_MAX:]):
                    daemon.closed(meet(daemon, numbers[hotkey], links=False))
                elif hotkey in (name(order[WALK_MAX]), name(order[-WALK_MAX - 1])):
                    meet(daemon, numbers[hotkey])
            daemon.pass_time(REVIEW_MS)
        assert {name(order[WALK_MAX]), name(order[-WALK_MAX - 1])} <= daemon.neighbours

    def test_one_that_had_no_room_for_a_draw_is_asked_at_once_as_a_neighbour(self) -> None:
        daemon = with_members(30)
        drawn = daemon.sessions[meet(daemon, ring_of(range(31), 0)[15], links=False)]
        daemon.view._claim(drawn, view._Kind.OWN)
        daemon.view.told(drawn, Mode.NOTHING)
        daemon.pass_time(REVIEW_CALM_MS)
        assert not drawn.ours
        daemon.view.set_members({name(n): Member(key(n), name(n) == drawn.peer.hotkey) for n in range(1, 31)})
        daemon.pass_time(REVIEW_CALM_MS)
        assert drawn.ours
        daemon.view.told(drawn, Mode.NOTHING)
        daemon.pass_time(REVIEW_CALM_MS)
        assert not drawn.ours, "it has no room for a neighbour either"

    def test_who_has_a_session_is_up_though_another_dial_of_it_failed(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        meet(daemon, first)
        daemon.view.failed(name(first))
        assert daemon.view.status()["down"] == 0

    def test_a_neighbour_by_our_reckoning_gets_in_though_all_places_are_taken(self) -> None:
        daemon = with_members(60, size=3)
        order = ring_of(range(61), 0)
        far = order[20:40]
        for number in far:
            session = meet(daemon, number, links=False)
            daemon.view.told(daemon.sessions[session], Mode.EVENTS)
        session = meet(daemon, order[0], links=False)
        daemon.view.told(daemon.sessions[session], Mode.EVENTS)
        assert daemon.sessions[session].linked

    def test_a_member_is_where_its_session_says_if_its_log_does_not(self) -> None:
        daemon = Daemon(0)
        order = ring_of(range(31), 0)
        daemon.view.set_members({name(n): Member(None if n == order[0] else key(n), True) for n in range(1, 31)})
        assert daemon.view.wanted()[0] == name(order[1])
        session = meet(daemon, order[0])
        assert daemon.sessions[session].linked


class TestPlaces:
    """Who gets a place, and who does not."""

    def knocks(self, daemon: Daemon, number: int, *, observer: bool = False) -> Mode:
        """A peer asks for a place; the answer."""
        session = next(SESSIONS)
        daemon.opened(session, peer(number, observer=observer))
        if (session, Mode.EVENTS) in daemon.said():
            return Mode.EVENTS
        daemon.view.told(daemon.sessions[session], Mode.EVENTS)
        ((_, mode),) = [said for said in daemon.said() if said[0] == session]
        return mode

    @pytest.mark.parametrize("size", [3, 4, 5, 8, 16, 64])
    def test_those_who_draw_us_never_fill_the_places_of_our_own_draws(self, size: int) -> None:
        daemon = with_members(300, size=size)
        order = ring_of(range(301), 0)
        for number in (order[0], order[-1]):
            meet(daemon, number)
        answers = [self.knocks(daemon, number) for number in order[50:250]]
        assert answers.count(Mode.NOTHING) > 0
        kinds = [place.kind for place in daemon.view._places.values()]
        assert kinds.count(view._Kind.TAKEN) <= size - 2 - (size - 2) // 3
        assert kinds.count(view._Kind.RING) <= 2 * WALK_MAX
        link_all_wanted(daemon, range(301))
        assert len(daemon.neighbours) <= size
        kinds = [place.kind for place in daemon.view._places.values()]
        assert kinds.count(view._Kind.OWN) >= (size - 2) // 3
        assert kinds.count(view._Kind.TAKEN) <= size - 2 - (size - 2) // 3

    def test_who_finds_no_place_is_told_so_and_stays_a_visit(self) -> None:
        daemon = with_members(300)
        order = ring_of(range(301), 0)
        for number in (order[0], order[-1]):
            meet(daemon, number)
        for number in order[50:250]:
            if self.knocks(daemon, number) is Mode.NOTHING:
                break
        else:
            pytest.fail("everybody got a place")
        session = max(daemon.sessions)
        assert not daemon.sessions[session].ours
        assert not daemon.sessions[session].theirs

    def test_observers_always_get_in_and_take_no_validator_s_place(self) -> None:
        daemon = with_members(30)
        assert all(self.knocks(daemon, 1_000 + n, observer=True) is Mode.EVENTS for n in range(30))
        link_all_wanted(daemon, range(31))
        validators = [s for s in daemon.sessions.values() if s.linked and not s.peer.observer]
        assert 4 <= len(validators) <= VIEW_SIZE

    def test_an_observer_is_never_asked(self) -> None:
        daemon = with_members(5)
        daemon.opened(1, peer(1_000, observer=True))
        assert daemon.said() == []

    def test_a_hotkey_with_two_node_keys_has_one_place(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        old, new = meet(daemon, first, node_key=key(500)), meet(daemon, first)
        daemon.view.told(daemon.sessions[new], Mode.EVENTS)
        assert daemon.sessions[new].linked
        assert not daemon.sessions[old].ours
        assert (old, Mode.NOTHING) in daemon.said()

    def test_its_place_goes_to_the_daemon_whose_log_goes_on(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        now, stale = meet(daemon, first), meet(daemon, first, node_key=key(500))
        daemon.view.told(daemon.sessions[stale], Mode.EVENTS)
        assert daemon.sessions[now].linked
        assert daemon.said() == [(stale, Mode.NOTHING)]

    def test_of_its_sessions_that_with_the_daemon_whose_log_goes_on_is_asked(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        daemon.knows([number for number in range(31) if number != first])
        now, stale = meet(daemon, first), meet(daemon, first, node_key=key(500))
        daemon.knows(range(31))
        daemon.pass_time(REVIEW_MS)
        assert daemon.sessions[now].ours
        assert not daemon.sessions[stale].ours

    def test_a_validator_that_is_no_member_yet_gets_in_for_a_while(self) -> None:
        daemon = with_members(30)
        session = meet(daemon, 700, links=False)
        daemon.view.told(daemon.sessions[session], Mode.EVENTS)
        assert daemon.sessions[session].linked
        daemon.pass_time(STRANGER_MS_MAX + REVIEW_MS)
        assert not daemon.sessions[session].ours

    def test_one_that_never_answers_keeps_no_place(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        session = meet(daemon, first, links=False)
        assert daemon.sessions[session].ours
        daemon.pass_time(CLAIM_MS_MAX + REVIEW_MS)
        assert not daemon.sessions[session].ours

    def test_a_refusal_is_respected_for_longer_each_time_up_to_a_bound(self) -> None:
        daemon = with_members(VIEW_SIZE)
        session = meet(daemon, 1, links=False)
        pauses = []
        for _ in range(6):
            daemon.view.told(daemon.sessions[session], Mode.NOTHING)
            daemon.said()
            begin = daemon.time.ms
            while not daemon.sessions[session].ours:
                daemon.pass_time(TICK_MS)
                assert daemon.time.ms < begin + 2 * REFUSED_MS_MAX
            pauses.append(daemon.time.ms - begin)
        assert REFUSED_MS <= pauses[0] <= REFUSED_MS + REVIEW_MS
        assert pauses == sorted(pauses)
        assert REFUSED_MS_MAX <= pauses[-1] <= REFUSED_MS_MAX + REVIEW_MS

    def test_a_prune_that_crosses_our_last_word_is_no_claim(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        session = meet(daemon, first)
        daemon.knows([n for n in range(31) if n != first])
        daemon.said()
        daemon.view.told(daemon.sessions[session], Mode.NEWS)
        assert not daemon.sessions[session].theirs
        assert daemon.said() == []


class TestMembers:
    """Changes are compared with what was before."""

    def test_one_that_loses_its_permit_is_out_at_once(self) -> None:
        daemon = with_members(30)
        link_all_wanted(daemon, range(31))
        daemon.said()
        gone = next(n for n in range(1, 31) if name(n) in daemon.neighbours)
        daemon.knows([n for n in range(31) if n != gone])
        assert name(gone) not in daemon.neighbours
        assert [mode for _, mode in daemon.said() if mode is Mode.NOTHING] == [Mode.NOTHING]
        assert name(gone) not in daemon.view.wanted()

    def test_the_others_are_not_touched(self) -> None:
        daemon = with_members(30)
        link_all_wanted(daemon, range(31))
        before = set(daemon.links)
        daemon.knows(range(40))
        daemon.knows(range(31))
        daemon.pass_time(TICK_MS)
        assert len(daemon.links & before) >= len(before) - 2, "but for neighbours that are further away now"

    def test_the_same_again_changes_nothing(self) -> None:
        daemon = with_members(30)
        wanted = daemon.view.wanted()
        daemon.knows(range(31))
        assert daemon.view.wanted() == wanted

    def test_there_is_a_bound_of_members(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert MEMBERS_MAX >= 1_024
        monkeypatch.setattr(view, "MEMBERS_MAX", 20)
        assert with_members(50).view.status()["members"] == 20

    def test_nothing_is_remembered_of_those_who_are_gone(self) -> None:
        daemon = with_members(200)
        for number in range(1, 201):
            daemon.view.failed(name(number))
            session = meet(daemon, number, links=False)
            daemon.view.told(daemon.sessions[session], Mode.EVENTS)
            daemon.view.told(daemon.sessions[session], Mode.NOTHING)
            daemon.closed(session)
        daemon.knows([0])
        daemon.pass_time(REVIEW_MS)
        found = daemon.view
        kept = (found._met, found._down, found._refused, found._tried, found._swept, found._places, found._idle)
        assert not any(kept)

    def test_nor_of_those_who_were_met_before_anybody_said_who_is_one(self) -> None:
        daemon = Daemon(0)
        session = meet(daemon, 7)
        daemon.view.told(daemon.sessions[session], Mode.NOTHING)
        daemon.knows([0, 1])
        assert not any((daemon.view._met, daemon.view._refused))

    def test_of_strangers_and_observers_nothing_is_remembered(self) -> None:
        daemon = with_members(5)
        for number in range(1_000, 1_200):
            daemon.view.failed(name(number))
            daemon.opened(number, peer(number, observer=number % 2 == 0))
            for mode in (Mode.EVENTS, Mode.NOTHING):
                daemon.view.told(daemon.sessions[number], mode)
            daemon.closed(number)
        found = daemon.view
        assert not any((found._met, found._down, found._refused, found._swept, found._places, found._idle))


class TestVisits:
    """Sessions in nobody's view end after a while."""

    def visited(self) -> tuple[Daemon, int]:
        """A daemon with a visit that has no prospect of a place."""
        daemon = with_members(30)
        daemon.opened(1, peer(1_000, observer=True))
        return daemon, 1

    def test_a_visit_ends_when_its_time_is_over(self) -> None:
        daemon, session = self.visited()
        assert daemon.pass_time(VISIT_MS_MAX - REVIEW_MS) == []
        assert session in daemon.pass_time(2 * REVIEW_MS)

    def test_a_link_never_does(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        session = meet(daemon, first)
        assert session not in daemon.pass_time(3 * VISIT_MS_MAX)

    def test_the_time_begins_when_the_link_ends(self) -> None:
        daemon, session = self.visited()
        daemon.view.told(daemon.sessions[session], Mode.EVENTS)
        daemon.pass_time(2 * VISIT_MS_MAX)
        daemon.view.told(daemon.sessions[session], Mode.NOTHING)
        assert daemon.pass_time(VISIT_MS_MAX - 2 * REVIEW_MS) == []
        assert session in daemon.pass_time(3 * REVIEW_MS)


class TestNoRoom:
    """Visits give way to validators that come; links never do."""

    NEWCOMER = name(999)

    def guest(self, daemon: Daemon, number: int, copy: int = 0, *, observer: bool = False) -> int:
        """Open a visit: of a hotkey that is no member, so that nobody claims it."""
        session = next(SESSIONS)
        daemon.opened(session, peer(number, node_key=key(10_000 * copy + number), observer=observer))
        return session

    def test_of_validators_visits_the_oldest_goes_once_it_has_lasted(self) -> None:
        daemon = with_members(30)
        first, *_ = ring_of(range(31), 0)
        link = meet(daemon, first)
        older = self.guest(daemon, 101)
        daemon.pass_time(REVIEW_MS)
        self.guest(daemon, 102)
        daemon.pass_time(VISIT_MS_MIN - REVIEW_MS - TICK_MS)
        assert daemon.view.gives_way(self.NEWCOMER) is None
        daemon.pass_time(TICK_MS)
        assert daemon.view.gives_way(self.NEWCOMER) == older
        for session in [number for number in daemon.sessions if number != link]:
            daemon.closed(session)
        assert daemon.view.gives_way(self.NEWCOMER) is None

    def test_a_hotkey_with_several_sessions_gives_one_up_at_once(self) -> None:
        daemon = with_members(30)
        self.guest(daemon, 101)
        several = [self.guest(daemon, 102, copy) for copy in range(3)]
        self.guest(daemon, 103, 0)
        self.guest(daemon, 103, 1)
        assert daemon.view.gives_way(self.NEWCOMER) == several[0]

    def test_nobody_with_many_sessions_drives_out_who_has_fewer(self) -> None:
        daemon = with_members(30)
        self.guest(daemon, 101)
        for number in (102, 103):
            for copy in range(2):
                self.guest(daemon, number, copy)
        daemon.pass_time(VISIT_MS_MIN)
        assert daemon.view.gives_way(name(102)) is None
        assert daemon.view.gives_way(name(101)) is not None

    def test_an_observer_goes_first(self) -> None:
        daemon = with_members(30)
        for copy in range(3):
            self.guest(daemon, 101, copy)
        observer = self.guest(daemon, 102, observer=True)
        assert daemon.view.gives_way(self.NEWCOMER) == observer
        daemon.view.told(daemon.sessions[observer], Mode.EVENTS)
        assert daemon.view.gives_way(self.NEWCOMER) not in (None, observer)


class TestHidden:
    """A validator that nobody can dial stays with all whom it can dial, so that they hear it after a start (rule 4)."""

    def hiding(self, count: int, hidden: int) -> Net:
        """Many daemons, of which the last ones have no address."""
        net = Net(count, seed=2)
        net.undialable = set(range(count - hidden, count))
        net.start_all()
        for number in net.undialable:
            net.daemons[number].view.hide(True)
        return net

    def test_who_starts_again_is_visited_by_those_whom_it_cannot_dial(self) -> None:
        net = self.hiding(40, 30)
        net.run(3 * VISIT_MS_MAX)
        net.stop(0)
        net.run(10_000)
        daemon = net.start(0)
        daemon.view.sweep(True)
        net.run(VISIT_MS_MIN)
        assert {session.peer.hotkey for session in daemon.sessions.values()} == {name(n) for n in range(1, 40)}

    def test_visits_last_and_are_not_dialled_again(self) -> None:
        net = self.hiding(40, 20)
        net.run(SETTLED_MS + VISIT_MS_MAX)
        before = net.dials
        net.run(5 * VISIT_MS_MAX)
        assert net.dials - before < 40
        assert net.agree()
        met = {frozenset(ends) for ends in net.ends.values()}
        assert {frozenset((hidden, other)) for hidden in range(20, 40) for other in range(20)} <= met

    def test_those_that_are_down_are_named_in_turn(self) -> None:
        daemon = with_members(100)
        daemon.view.hide(True)
        seen: set[bytes] = set()
        for _ in range(20):
            daemon.pass_time(REVIEW_MS)
            for hotkey in daemon.view.wanted()[:DOWN_WANTED_MAX]:
                seen.add(hotkey)
                daemon.view.failed(hotkey)
        assert len(seen) == 100
        daemon.pass_time(REVIEW_MS)
        assert len(daemon.view.wanted()) <= DOWN_WANTED_MAX + LONELY_VISITS

    def test_one_that_ends_the_visit_is_visited_again_at_once_also_while_the_own_head_is_heard(self) -> None:
        daemon = with_members(60)
        daemon.view.hide(True)
        daemon.view.sweep(True)
        daemon.pass_time(TICK_MS)
        session = meet(daemon, 30, links=False)
        daemon.view.told(daemon.sessions[session], Mode.NOTHING)
        daemon.pass_time(VISIT_MS_MAX)
        daemon.closed(session)
        daemon.pass_time(TICK_MS)
        assert name(30) in daemon.view.wanted()

    def test_of_a_hotkey_with_two_visits_the_latest_stays(self) -> None:
        daemon = Daemon(0, size=3)
        daemon.knows(range(20), dialable=False)
        for number in (3, 4, 5, 6, 7):
            meet(daemon, number)
        first = meet(daemon, 8, links=False)
        second = meet(daemon, 8, links=False, node_key=key(1_000))
        for session in (first, second):
            daemon.view.told(daemon.sessions[session], Mode.NOTHING)
        daemon.view._refused[name(8)] = view._Refused(1 << 40, 1 << 40, ring=True)
        over = daemon.pass_time(2 * VISIT_MS_MAX)
        assert first in over
        assert second not in over

    def test_one_that_has_an_address_again_lets_its_visits_end(self) -> None:
        net = self.hiding(30, 1)
        net.run(SETTLED_MS)
        assert len(net.daemons[29].sessions) == 29
        net.undialable.clear()
        for number, daemon in net.daemons.items():
            daemon.knows(range(30))
            daemon.view.hide(False)
            net.collect(number)
        net.run(2 * VISIT_MS_MAX)
        assert len(net.daemons[29].sessions) < 2 * VIEW_SIZE


class TestLonely:
    """Who finds room nowhere is told everything all the same, by visits."""

    def turned_down(self, count: int) -> Daemon:
        """A daemon that has no link, and that all members have turned down just now."""
        daemon = with_members(count)
        for number in range(1, count + 1):
            session = meet(daemon, number, links=False)
            if session not in daemon.view._places:
                daemon.view._claim(daemon.sessions[session], view._Kind.RING)
            daemon.view._places[session].kind = view._Kind.RING
            daemon.view.told(daemon.sessions[session], Mode.NOTHING)
        for session in list(daemon.sessions):
            daemon.closed(session)
        daemon.said()
        return daemon

    def test_some_are_visited_though_all_had_no_room(self) -> None:
        daemon = self.turned_down(20)
        daemon.pass_time(REVIEW_MS)
        assert daemon.view.wanted() == []
        daemon.pass_time(LONELY_MS + 2 * REVIEW_CALM_MS)
        wanted = daemon.view.wanted()
        assert len(wanted) == LONELY_VISITS
        sessions = [meet(daemon, number, links=False) for number in range(1, 21) if name(number) in wanted]
        daemon.pass_time(REVIEW_CALM_MS)
        assert daemon.view.wanted() == []
        daemon.closed(sessions[0])
        daemon.pass_time(REVIEW_CALM_MS)
        assert len(daemon.view.wanted()) == 1

    def test_one_that_does_not_answer_makes_way_for_another(self) -> None:
        daemon = self.turned_down(20)
        seen: set[bytes] = set()
        for _ in range(20):
            daemon.pass_time(REVIEW_CALM_MS)
            for hotkey in daemon.view.wanted():
                seen.add(hotkey)
                daemon.view.failed(hotkey)
        assert len(seen) > 10

    def test_with_a_link_it_is_over(self) -> None:
        daemon = self.turned_down(20)
        daemon.pass_time(LONELY_MS + REVIEW_CALM_MS)
        session = next(SESSIONS)
        daemon.opened(session, peer(7))
        daemon.view.told(daemon.sessions[session], Mode.EVENTS)
        assert daemon.sessions[session].linked
        daemon.pass_time(REVIEW_CALM_MS)
        assert daemon.view.wanted() == []

    def test_most_behind_nat_leave_nobody_alone(self) -> None:
        net = Net(30)
        net.undialable = set(range(2, 30))
        net.start_all()
        net.run(SETTLED_MS)
        assert any(not daemon.links for daemon in net.daemons.values())
        alone = dict.fromkeys(net.daemons, 0)
        for _ in range(60):
            net.run(10_000)
            for number, daemon in net.daemons.items():
                alone[number] = 0 if daemon.sessions else alone[number] + 10
                assert alone[number] <= 30


class TestSweep:
    """To hear the own head, everybody is visited (rule 4)."""

    def test_all_members_are_wanted_in_their_order(self) -> None:
        daemon = with_members(100)
        daemon.view.sweep(True)
        daemon.pass_time(TICK_MS)
        wanted = daemon.view.wanted()
        assert set(wanted) == {name(n) for n in range(1, 101)}
        assert wanted[3:] == [hotkey for hotkey in map(name, range(1, 101)) if hotkey not in wanted[:3]]

    def test_those_that_do_not_answer_leave_the_turn_to_all_others(self) -> None:
        daemon = with_members(100)
        daemon.view.sweep(True)
        daemon.pass_time(TICK_MS)
        for number in range(1, 61):
            daemon.view.failed(name(number))
        daemon.pass_time(TICK_MS)
        wanted = daemon.view.wanted()
        assert set(wanted) == {name(number) for number in range(1, 101)}
        assert set(wanted[:40]) == {name(number) for number in range(61, 101)}

    def test_members_of_another_order_are_visited_in_that(self) -> None:
        daemon = with_members(100)
        daemon.view.sweep(True)
        daemon.knows(reversed(range(101)))
        wanted = daemon.view.wanted()
        assert wanted[3:] == [hotkey for hotkey in map(name, range(100, 0, -1)) if hotkey not in wanted[:3]]

    def test_those_without_an_address_are_not(self) -> None:
        daemon = Daemon(0)
        daemon.knows(range(100), dialable=False)
        daemon.view.sweep(True)
        daemon.pass_time(TICK_MS)
        assert daemon.view.wanted() == []

    def test_the_surplus_become_visits_and_end(self) -> None:
        daemon = with_members(60)
        daemon.view.sweep(True)
        daemon.pass_time(TICK_MS)
        for number in range(1, 61):
            meet(daemon, number)
        assert daemon.view.wanted() == []
        assert daemon.pass_time(2 * VISIT_MS_MAX) == []
        daemon.view.sweep(False)
        over = daemon.pass_time(TICK_MS)
        assert len(over) >= 60 - VIEW_SIZE - 1
        assert not daemon.links & set(over)

    def test_who_was_visited_is_left_alone_for_a_while(self) -> None:
        daemon = with_members(60)
        order = ring_of(range(61), 0)
        daemon.view.sweep(True)
        daemon.pass_time(TICK_MS)
        session = meet(daemon, order[30], links=False)
        daemon.view.told(daemon.sessions[session], Mode.NOTHING)
        daemon.pass_time(VISIT_MS_MAX)
        daemon.closed(session)
        daemon.pass_time(TICK_MS)
        assert name(order[30]) not in daemon.view.wanted()
        daemon.pass_time(view.SWEEP_AGAIN_MS + REVIEW_MS)
        assert name(order[30]) in daemon.view.wanted()


class TestDraws:
    """Links at random, slowly replaced."""

    def kind(self, daemon: Daemon, kind: view._Kind) -> set[bytes]:
        return {place.session.peer.hotkey for place in daemon.view._places.values() if place.kind is kind}

    def test_about_half_of_the_free_places_are_filled_by_our_own_draws(self) -> None:
        daemon = with_members(100)
        link_all_wanted(daemon, range(101))
        assert len(self.kind(daemon, view._Kind.OWN)) == 3
        assert len(daemon.neighbours) == 5

    def test_different_daemons_draw_differently(self) -> None:
        drawn = set()
        for seed in range(10):
            daemon = Daemon(0, seed=seed)
            daemon.knows(range(101))
            link_all_wanted(daemon, range(101))
            drawn.add(frozenset(self.kind(daemon, view._Kind.OWN)))
        assert len(drawn) == 10

    def test_an_own_link_is_replaced_now_and_then_and_only_by_a_link(self) -> None:
        daemon = with_members(100)
        link_all_wanted(daemon, range(101))
        before, ring = self.kind(daemon, view._Kind.OWN), self.kind(daemon, view._Kind.RING)
        waited = 0
        while not daemon.view.wanted():
            assert self.kind(daemon, view._Kind.OWN) == before
            daemon.pass_time(REVIEW_MS)
            waited += REVIEW_MS
            assert waited < 2 * REFRESH_MS
        assert waited >= REFRESH_MS // 2 - 60_000
        (drawn,) = daemon.view.wanted()
        assert self.kind(daemon, view._Kind.OWN) == before
        meet(daemon, next(n for n in range(101) if name(n) == drawn))
        after = self.kind(daemon, view._Kind.OWN)
        assert drawn in after
        assert len(after & before) == len(before) - 1
        assert self.kind(daemon, view._Kind.RING) == ring

    def test_draws_that_come_to_nothing_are_repeated_ever_more_slowly_and_for_ever(self) -> None:
        daemon = with_members(100)
        order = ring_of(range(101), 0)
        for near in (order[0], order[-1]):
            meet(daemon, near)
        draws = 0
        for _ in range(3_600):
            for hotkey in daemon.view.wanted():
                daemon.view.failed(hotkey)
                draws += 1
            daemon.pass_time(REVIEW_MS)
        assert 60 <= draws <= 160

    def test_one_that_was_drawn_and_is_not_dialled_makes_way(self) -> None:
        daemon = with_members(100)
        order = ring_of(range(101), 0)
        for near in (order[0], order[-1]):
            meet(daemon, near)
        drawn = set()
        for _ in range(10):
            drawn |= set(daemon.view.wanted())
            daemon.pass_time(PICK_MS_MAX)
        assert len(drawn) > 3

    def test_one_that_is_down_is_tried_now_and_then_though_others_live(self) -> None:
        daemon = with_members(100)
        order = ring_of(range(101), 0)
        for near in (order[0], order[-1]):
            meet(daemon, near)
        dead = {name(number) for number in order[1:50]}
        for hotkey in dead:
            daemon.view.failed(hotkey)
        tries = []
        for _ in range(2_000):
            for hotkey in daemon.view.wanted():
                tries.append(hotkey in dead)
                if hotkey in dead:
                    daemon.view.failed(hotkey)
                else:
                    meet(daemon, next(n for n in range(101) if name(n) == hotkey))
                    drop_link(daemon, next(n for n in range(101) if name(n) == hotkey))
            daemon.pass_time(REVIEW_MS)
        assert 0.03 < sum(tries) / len(tries) < 0.4


class TestNetwork:
    """Many views together: one connected graph of few links, whatever happened."""

    def settle(self, net: Net, ms: int = SETTLED_MS) -> None:
        net.run(ms)
        assert net.agree()
        assert len(net.parts()) == 1
        assert max(net.degrees()) <= net.size

    @pytest.mark.parametrize("count", [2, 9, 10, 11, 33, 100])
    def test_it_is_connected_soon_and_then_rests(self, count: int) -> None:
        net = Net(count)
        net.start_all()
        self.settle(net)
        dials = net.dials
        net.run(SETTLED_MS)
        assert net.dials - dials <= count // 10
        assert sum(net.degrees()) >= min(count - 1, 5) * count

    def test_a_newcomer_that_knows_one_member_only_gets_in_once_it_knows_the_others(self) -> None:
        net = Net(40)
        for number in range(39):
            net.start(number)
        net.run(SETTLED_MS)
        net.start(39, members=[5])
        net.run(10_000)
        net.daemons[39].knows(range(40))
        self.settle(net)

    def test_halves_that_were_apart_for_long_are_one_soon(self) -> None:
        net = Net(64)
        net.start_all()
        net.run(SETTLED_MS)
        net.part({number: number % 2 for number in range(64)})
        net.run(10 * 60_000)
        assert len(net.parts()) == 2
        net.part({})
        net.run(10_000)
        assert len(net.parts()) == 1
        self.settle(net, 60_000)

    def test_ninety_of_a_hundred_die_and_the_rest_hold_together(self) -> None:
        net = Net(100)
        net.start_all()
        net.run(SETTLED_MS)
        for number in range(10, 100):
            net.stop(number)
        self.settle(net, 60_000)

    def test_daemons_behind_nat_are_linked_with_those_that_can_be_dialled(self) -> None:
        net = Net(40)
        net.undialable = set(range(0, 40, 2))
        net.start_all()
        net.run(2 * SETTLED_MS)
        assert len(net.parts()) == 1

    def test_pairs_that_never_reach_each_other_tear_nothing(self) -> None:
        net = Net(40)
        rng = random.Random(3)
        net.cut = {(one, other) for one in range(40) for other in range(one) if rng.random() < 0.2}
        net.cut = {(min(pair), max(pair)) for pair in net.cut}
        net.start_all()
        net.run(2 * SETTLED_MS)
        assert len(net.parts()) == 1

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_after_churn_deaths_stale_members_and_a_partition_it_is_connected_again(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(5, 40), "count")
        net = Net(count, size=data.draw(st.sampled_from([3, 5, 8]), "size"), seed=data.draw(st.integers(0, 99), "seed"))
        for number in range(count):
            known = [n for n in range(count) if net.rng.random() < 0.8]  # all are told of everybody below
            net.start(number, known)
        for what in data.draw(st.lists(st.sampled_from(["die", "come", "part", "heal", "rest"]), max_size=8), "story"):
            some = [n for n in range(count) if net.rng.random() < 0.3]
            match what:
                case "die":
                    for number in some:
                        if number in net.daemons and len(net.daemons) > 2:
                            net.stop(number)
                case "come":
                    for number in some:
                        if number not in net.daemons:
                            net.start(number)
                case "part":
                    net.part(dict.fromkeys(some, 1))
                case "heal":
                    net.part({})
            net.run(data.draw(st.sampled_from([0, 1_000, 20_000]), "ms"))
            assert max(net.degrees()) <= net.size + 2 * WALK_MAX, "with those that the ring tries"
        net.part({})
        for daemon in net.daemons.values():
            daemon.knows(range(count))
        net.run(2 * 60_000)
        assert len(net.parts()) == 1
        assert net.agree()
        assert max(net.degrees()) <= max(net.size, 2 + 1)

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1 << 20), known=st.sampled_from([0.6, 0.8, 0.95]))
    def test_with_members_that_some_do_not_know_yet_it_is_connected_all_the_same(self, seed: int, known: float) -> None:
        net = Net(30, seed=seed)
        for number in range(30):
            net.start(number, [n for n in range(30) if net.rng.random() < known])
        net.run(60_000)
        assert len(net.parts()) == 1
        assert net.agree()


class TestHostileWords:
    """No order of words about places leaves two ends with different pictures, or goes on for ever."""

    @settings(max_examples=100, deadline=None)
    @given(seed=st.integers(0, 1 << 20), crowded=st.booleans())
    def test_ends_agree_once_all_has_arrived(self, seed: int, crowded: bool) -> None:
        net = Net(12, size=3 if crowded else 8, seed=seed)
        net.start_all()
        for _ in range(20):
            number = net.rng.choice(list(net.daemons))
            daemon = net.daemons[number]
            if daemon.sessions and net.rng.random() < 0.5:
                session = net.rng.choice(list(daemon.sessions.values()))
                daemon.view._drop(session)
                net.collect(number)
            net.run(net.rng.choice([250, 1_000]))
        net.deliver()
        assert net.agree()

    def words(self, seed: int) -> Iterator[Mode]:
        rng = random.Random(seed)
        for _ in range(2_000):
            yield rng.choice(list(Mode))

    @pytest.mark.parametrize("seed", range(5))
    def test_a_peer_that_says_anything_gains_one_place_at_most(self, seed: int) -> None:
        daemon = with_members(30)
        session = meet(daemon, 7, links=False)
        for mode in self.words(seed):
            daemon.view.told(daemon.sessions[session], mode)
            assert len(daemon.said()) <= 1
            assert len(daemon.view._places) <= 1
            assert daemon.sessions[session].linked is (session in daemon.links)
