"""Links become a tree on which each event comes once, and what the tree loses is announced, missed and fetched."""

from collections.abc import Callable

import pytest

from p2pnodes.gossip import push
from p2pnodes.gossip.engine import TICK_MS
from p2pnodes.gossip.frames import HAVES_PER_FRAME_MAX, Events, Have, Link, Mode, News, Want, log_tag
from p2pnodes.gossip.push import (
    ANNOUNCE_MS,
    ANNOUNCERS_MAX,
    GAIN_AGAIN_MS,
    GAIN_INTERVAL_MS,
    GAIN_MS,
    GAINS_MIN,
    GRAFT_AGAIN_MS,
    GRAFT_MS,
    KEPT_MS,
    LOOK_MS,
    MISSING_MAX,
    NEWS_MAX,
    PRUNE_AFTER,
    PRUNE_INTERVAL_MS,
)
from p2pnodes.gossip.rates import STRANGERS
from p2pnodes.model.events import Event, LogId
from tests.gossip.harness import Net, Node, peer_of
from tests.support import VALIDATORS, Author

A, B, C = VALIDATORS


def said(node: Node, kind: type) -> list[object]:
    return [frame for frame in node.said if isinstance(frame, kind)]


def told(node: Node) -> list[Mode]:
    """What a node wants to be pushed by its peers, in order of its words."""
    return [frame.mode for frame in node.said if isinstance(frame, Link)]


def triangle() -> tuple[Net, Node, Node, Node]:
    """Three nodes that know each other's logs, all linked (sessions 1: a and b, 2: a and c, 3: b and c)."""
    nodes = a, b, c = Node(A), Node(B), Node(C)
    known = [node.author.delegate() for node in nodes]
    for node in nodes:
        node.holds(*known)
    net = Net(*nodes)
    net.join_all()
    net.run()
    for node in nodes:
        node.said.clear()
    return net, a, b, c


def all_lazy(node: Node) -> None:
    """Have both peers of a node of a triangle prune their links with it, and insist."""
    for session in [number for number, held in node.engine._sessions.items() for _ in range(2)]:
        node.hear(session, Link(Mode.NEWS).encode())
    assert {row["link"] for row in node.engine.status()} == {"lazy"}
    node.said.clear()
    for frames in node.outgoing.values():
        frames.clear()


def have(*logs: LogId, seq: int = 1, age_ms: int = 0) -> Have:
    """Announces an event of some logs."""
    return Have([News(log_tag(log), seq, age_ms) for log in logs])


def verdicts(author: Author) -> Callable[[], Event]:
    """Makes one event of an author after the other."""
    numbers = iter(range(1 << 16))
    return lambda: author.verdict(next(numbers).to_bytes(32, "big"))


class Duplicated:
    """A node that gets everything over session 1 and once more over session 3."""

    def __init__(self) -> None:
        self.net, self.a, self.b, self.c = triangle()
        self.write = verdicts(self.a.author)

    def twice(self, times: int) -> None:
        for _ in range(times):
            frame = Events([self.write().wire]).encode()
            self.b.hear(1, frame)
            self.b.settle()
            self.b.hear(3, frame)
            self.b.now_ms += LOOK_MS[1]

    def late(self, session: int) -> None:
        """Push an event that has come already, over the lazy link of session 3."""
        frame = Events([self.write().wire]).encode()
        self.b.hear(3, frame)
        self.b.settle()
        self.b.hear(session, frame)
        self.b.now_ms += LOOK_MS[1]


class TestTree:
    """Circles of eager links are opened, slowly; the others stay."""

    def test_a_link_on_which_events_come_late_is_pruned(self) -> None:
        it = Duplicated()
        it.twice(PRUNE_AFTER[0] - 1)
        assert told(it.b) == []
        it.twice(PRUNE_AFTER[1] - PRUNE_AFTER[0] + 1)
        assert told(it.b) == [Mode.NEWS]
        assert [row["link"] for row in it.b.engine.status()] == ["eager", "lazy"]

    def test_many_late_frames_of_one_moment_count_as_one(self) -> None:
        it = Duplicated()
        frame = Events([it.write().wire]).encode()
        it.b.hear(1, frame)
        it.b.settle()
        for _ in range(PRUNE_AFTER[1]):
            it.b.hear(3, frame)
        assert it.b.engine._sessions[3].late == 1
        assert told(it.b) == []

    def test_who_sends_what_is_new_first_in_every_burst_is_found_late_all_the_same(self) -> None:
        it = Duplicated()
        for _ in range(10 * PRUNE_AFTER[1]):
            fresh, late = it.write(), verdicts(it.b.author)()
            it.b.hear(1, Events([late.wire]).encode())
            it.b.settle()
            for event in (fresh, late):
                it.b.hear(3, Events([event.wire]).encode())
                it.b.settle()
            it.b.now_ms += LOOK_MS[1]
        assert Mode.NEWS in told(it.b)

    def test_a_frame_that_is_late_in_part_counts_in_part(self) -> None:
        it = Duplicated()
        late, fresh = it.write(), it.write()
        it.b.hear(1, Events([late.wire]).encode())
        it.b.settle()
        it.b.hear(3, Events([late.wire, fresh.wire]).encode())
        assert it.b.engine._sessions[3].late == 0.5

    def test_the_other_end_takes_a_pruned_link_for_a_lazy_one_too(self) -> None:
        it = Duplicated()
        it.twice(PRUNE_AFTER[1])
        it.net.run()
        assert [row["link"] for row in it.c.engine.status()] == ["eager", "lazy"]

    def test_one_link_is_pruned_at_a_time(self) -> None:
        net, a, b, c = triangle()
        d = Node("//Dave")
        b.open(4, peer_of(d.author))
        b.hear(4, Link(Mode.EVENTS).encode())
        write = verdicts(a.author)

        def thrice() -> None:
            """Push an event over all three links; the late ones count."""
            frame = Events([write().wire]).encode()
            for session in (1, 3, 4):
                b.engine._sessions[session].look_ms = 0
                b.hear(session, frame)
                b.settle()

        for _ in range(3 * PRUNE_AFTER[1]):
            thrice()
        assert [row["link"] for row in b.engine.status()].count("lazy") == 1
        b.tick(PRUNE_INTERVAL_MS)
        for _ in range(PRUNE_AFTER[1]):
            thrice()
        assert [row["link"] for row in b.engine.status()].count("lazy") == 2
        del net, c

    def test_the_last_eager_link_is_never_pruned(self) -> None:
        it = Duplicated()
        it.b.hear(3, Link(Mode.NEWS).encode())
        for _ in range(2 * PRUNE_AFTER[1]):
            it.late(1)
            it.b.tick(PRUNE_INTERVAL_MS)
        assert it.b.row()["duplicates"] == 2 * PRUNE_AFTER[1]
        assert told(it.b) == []

    def test_observers_are_no_reason_to_prune_the_last_validator(self) -> None:
        it = Duplicated()
        it.b.hear(3, Link(Mode.NEWS).encode())
        it.b.open(4, peer_of(Author("//Observer"))._replace(observer=True))
        it.b.hear(4, Link(Mode.EVENTS).encode())
        it.b.said.clear()
        for session, modes in ((1, set()), (4, {Mode.NEWS})):
            for _ in range(2 * PRUNE_AFTER[1]):
                it.late(session)
            assert set(told(it.b)) == modes

    def test_one_that_asks_for_all_and_sends_what_is_here_does_not_keep_the_others_eager(self) -> None:
        net, a, b, _ = triangle()
        write = verdicts(a.author)
        pruned_ms: list[int] = []
        for _ in range(5):
            frame = Events([write().wire]).encode()
            b.hear(1, frame)
            b.settle()
            while b.engine._sessions[3].eager:
                b.hear(3, frame)
                b.now_ms += LOOK_MS[1]
            pruned_ms.append(b.engine._push._pruned_ms)
            b.hear(3, Link(Mode.EVENTS).encode())
        assert told(b) == [Mode.NEWS] * 5
        assert len(set(pruned_ms)) == 1, "others need not wait"
        del net

    def test_three_peers_that_all_write_end_with_two_eager_links(self) -> None:
        net, *nodes = triangle()
        writes = [verdicts(node.author) for node in nodes]
        for _ in range(60):
            for node, write in zip(nodes, writes, strict=True):
                node.writes(write())
            net.run(750)
        eager = [row["link"] for node in nodes for row in node.engine.status()].count("eager")
        assert eager == 4  # two links, seen from both ends
        before = sum(len(said(node, Events)) for node in nodes)
        for node, write in zip(nodes, writes, strict=True):
            node.writes(write())
            net.run(250)
        assert sum(len(said(node, Events)) for node in nodes) - before == 6  # each event comes once to each other peer
        assert net.agree()


class TestLastLink:
    """Who is pruned by all neighbours at once keeps one of them, and does not argue with them."""

    def test_the_last_eager_link_that_is_pruned_is_made_eager_again_at_both_ends(self) -> None:
        net, a, b, c = triangle()
        for node, session in ((a, 1), (c, 3)):
            node.engine._push._say(node.engine._sessions[session], eager=False)
            node.do(node.engine._outbox.take())
        net.run()
        assert [row["link"] for row in b.engine.status()] == ["lazy", "eager"]
        assert [row["link"] for row in c.engine.status()] == ["eager", "eager"]
        event = verdicts(a.author)()
        a.writes(event)
        net.run()
        assert b.head(event.log) == event.seq, "it comes by the tree, though its author has pruned the link"

    def test_a_neighbour_that_insists_is_believed_for_a_while(self) -> None:
        _, _, b, _ = triangle()
        for _ in range(2):
            for session in (1, 3, 3, 3):
                b.hear(session, Link(Mode.NEWS).encode())
            assert told(b) == [Mode.EVENTS]
        b.said.clear()
        for _ in range(KEPT_MS // TICK_MS):
            b.tick()
        b.hear(3, Link(Mode.EVENTS).encode())
        b.hear(3, Link(Mode.NEWS).encode())
        assert told(b) == [Mode.EVENTS]

    def test_an_observer_s_link_is_no_replacement_for_a_validator_s(self) -> None:
        _, _, b, _ = triangle()
        b.open(4, peer_of(Author("//Observer"))._replace(observer=True))
        b.hear(4, Link(Mode.EVENTS).encode())
        b.said.clear()
        for session in (1, 4):
            b.hear(session, Link(Mode.NEWS).encode())
        assert told(b) == []
        b.hear(3, Link(Mode.NEWS).encode())
        assert told(b) == [Mode.EVENTS]

    def test_an_observer_is_not_contradicted(self) -> None:
        _, _, b, _ = triangle()
        all_lazy(b)
        for _ in range(KEPT_MS // TICK_MS):
            b.tick()
        b.open(4, peer_of(Author("//Observer"))._replace(observer=True))
        b.hear(4, Link(Mode.EVENTS).encode())
        b.said.clear()
        b.hear(4, Link(Mode.NEWS).encode())
        assert told(b) == []


class TestAnnouncements:
    """On a lazy link a peer is told what there is, once, unless it said so itself before."""

    def lazy(self) -> tuple[Net, Node, Node, Node]:
        net, a, b, c = triangle()
        a.hear(1, Link(Mode.NEWS).encode())
        b.hear(1, Link(Mode.NEWS).encode())
        return net, a, b, c

    def test_many_events_are_announced_in_one_frame_of_a_number_for_each_log(self) -> None:
        _, a, _, _ = self.lazy()
        write = verdicts(a.author)
        a.writes(*[write() for _ in range(10)])
        a.writes(*[write() for _ in range(10)])
        assert said(a, Have) == []
        a.tick(ANNOUNCE_MS[1])
        assert said(a, Have) == [Have([News(log_tag(a.author.log), 20, ANNOUNCE_MS[1])])]
        a.tick(ANNOUNCE_MS[1])
        assert len(said(a, Have)) == 1

    def test_what_the_peer_announced_first_is_not_announced_back(self) -> None:
        _, a, _, _ = self.lazy()
        a.writes(verdicts(a.author)())
        a.hear(1, have(a.author.log).encode())
        a.tick(ANNOUNCE_MS[1])
        assert said(a, Have) == []

    def test_an_announced_event_is_not_pushed_to_who_announced_it(self) -> None:
        _, a, b, _ = triangle()
        b.hear(1, have(a.author.log).encode())
        b.hear(3, Events([verdicts(a.author)().wire]).encode())
        b.settle()
        assert said(b, Events) == []
        assert b.head(a.author.log) == 1

    def test_news_of_very_many_logs_come_in_several_frames(self) -> None:
        _, a, _, _ = self.lazy()
        session = a.engine._sessions[1]
        session.news = {Author(f"//Log{number}").log: 0 for number in range(HAVES_PER_FRAME_MAX + 1)}
        a.tick()
        assert [len(frame.news) for frame in a.said if isinstance(frame, Have)] == [HAVES_PER_FRAME_MAX, 1]

    def test_news_are_bounded_and_what_is_too_much_is_left_to_anti_entropy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.gossip.push.NEWS_MAX", 1)
        _, a, _, c = self.lazy()
        session = a.engine._sessions[1]
        session.digest_due = False
        a.writes(verdicts(a.author)())
        a.hear(2, Events([verdicts(c.author)().wire]).encode())
        a.settle()
        assert len(session.news) == 1 < NEWS_MAX
        assert session.digest_due


class TestGraft:
    """What was announced and does not come is fetched from who announced it, over a link that is eager from then on."""

    def announced(self, *sessions: int) -> tuple[Net, Node, Event]:
        """A node that was told of an event over lazy links."""
        net, a, b, _ = triangle()
        all_lazy(b)
        event = verdicts(a.author)()
        for session in sessions:
            b.hear(session, have(a.author.log).encode())
        return net, b, event

    def test_an_event_that_comes_in_time_causes_nothing(self) -> None:
        _, b, event = self.announced(1)
        b.tick(GRAFT_MS - 1)
        b.hear(3, Events([event.wire]).encode())
        b.settle()
        b.tick(GRAFT_AGAIN_MS)
        assert told(b) == []
        assert said(b, Want) == []

    def test_a_missing_event_is_fetched_and_the_link_is_eager_at_both_ends(self) -> None:
        net, b, event = self.announced(1)
        a = net.nodes[0]
        a.holds(event)
        b.tick(GRAFT_MS)
        assert told(b) == [Mode.EVENTS]
        assert len(said(b, Want)) == 1
        net.run()
        assert b.head(event.log) == event.seq
        assert a.row()["link"] == b.row()["link"] == "eager"

    def test_whoever_does_not_deliver_is_followed_by_the_next_that_announced_it(self) -> None:
        _, b, _ = self.announced(1, 3)
        b.tick(GRAFT_MS)
        assert [row["link"] for row in b.engine.status()] == ["eager", "lazy"]
        b.tick(GRAFT_AGAIN_MS)
        assert [row["link"] for row in b.engine.status()] == ["eager", "eager"]
        b.tick(GRAFT_AGAIN_MS)
        assert not b.engine._push._missing

    def test_one_lost_link_is_replaced_by_one_whatever_the_number_of_logs(self) -> None:
        net, a, b, c = triangle()
        all_lazy(b)
        b.hear(1, have(a.author.log).encode())
        b.hear(3, have(c.author.log, a.author.log).encode())
        b.hear(1, have(c.author.log).encode())
        b.tick(GRAFT_MS)
        assert told(b) == [Mode.EVENTS]
        del net

    def test_what_else_is_missing_soon_after_is_fetched_over_a_lazy_link(self) -> None:
        net, a, b, c = triangle()
        all_lazy(b)
        b.hear(1, have(a.author.log).encode())
        b.tick(TICK_MS)
        b.hear(3, have(c.author.log).encode())
        b.tick(GRAFT_MS - TICK_MS)
        b.tick(TICK_MS)
        assert told(b) == [Mode.EVENTS]
        assert len(said(b, Want)) == 2
        assert [row["link"] for row in b.engine.status()] == ["eager", "lazy"]
        del net

    def test_what_is_announced_later_has_its_own_time(self) -> None:
        _, b, event = self.announced(1)
        b.tick(GRAFT_MS - 1)
        b.hear(3, Events([event.wire]).encode())
        b.settle()
        b.hear(1, have(event.log, seq=2).encode())
        b.tick(1)
        assert told(b) == []
        b.tick(GRAFT_MS)
        assert told(b) == [Mode.EVENTS]

    def test_a_log_that_is_not_known_is_asked_for_by_a_digest(self) -> None:
        net, b, _ = self.announced()
        stranger = Author(A, number=1)
        net.nodes[0].holds(event := stranger.delegate())
        b.hear(1, have(stranger.log, seq=0).encode())
        b.tick(GRAFT_MS)
        net.run(5_000)
        assert b.head(event.log) == 0

    def test_what_is_remembered_as_missing_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(push, "STRANGERS", STRANGERS._replace(burst=2 * MISSING_MAX))
        _, b, _ = self.announced()
        for start in range(0, MISSING_MAX + 512, 256):
            news = [News(number.to_bytes(8, "big"), 1, 0) for number in range(start, start + 256)]
            b.hear(1, Have(news).encode())
        assert len(b.engine._push._missing) <= MISSING_MAX
        assert b.engine._sessions[1].digest_due

    def test_made_up_logs_of_one_peer_leave_room_for_what_others_announce(self) -> None:
        _, b, event = self.announced()
        b.engine._push._missing.clear()
        for start in range(0, MISSING_MAX, 256):
            news = [News(number.to_bytes(8, "big"), 1, 0) for number in range(start, start + 256)]
            b.hear(1, Have(news).encode())
        assert len(b.engine._push._missing) == STRANGERS.burst
        b.hear(3, have(event.log).encode())
        assert log_tag(event.log) in b.engine._push._missing

    def test_who_announced_it_is_remembered_up_to_a_bound(self) -> None:
        _, b, event = self.announced(*[1] * 3)
        (missing,) = b.engine._push._missing.values()
        assert missing.announcers == {1: event.seq}
        self.observed(b, event)
        assert len(missing.announcers) == ANNOUNCERS_MAX

    def observed(self, node: Node, event: Event) -> None:
        """Many observers announce an event."""
        for number in range(100, 100 + 2 * ANNOUNCERS_MAX):
            node.open(number, peer_of(Author(f"//Many{number}"))._replace(observer=True))
            node.hear(number, Link(Mode.EVENTS).encode())
            node.hear(number, have(event.log).encode())

    def test_a_validator_is_asked_before_observers_that_announced_it_sooner(self) -> None:
        _, b, event = self.announced()
        self.observed(b, event)
        b.hear(3, have(event.log).encode())
        (missing,) = b.engine._push._missing.values()
        assert 3 in missing.announcers
        assert len(missing.announcers) == ANNOUNCERS_MAX
        b.said.clear()
        b.tick(GRAFT_MS)
        assert len(said(b, Want)) == 1
        assert b.row(1)["link"] == "eager"

    def test_what_is_announced_on_a_visit_is_passed_over(self) -> None:
        _, b, event = self.announced()
        b.hear(1, Link(Mode.NOTHING).encode())
        b.hear(1, have(event.log).encode())
        assert not b.engine._push._missing


class TestGain:
    """A lazy link that would bring events sooner becomes eager; what is a little sooner, or once, is not enough."""

    def told_of(self, gain_ms: int, times: int) -> Node:
        """A node that gets events over session 1, and hears over the lazy 3 that its peer had them sooner."""
        _, a, b, _ = triangle()
        b.hear(3, Link(Mode.NEWS).encode())
        for _ in range(GAIN_INTERVAL_MS // 1_000):
            b.tick(1_000)
        write = verdicts(a.author)
        for seq in range(1, times + 1):
            b.hear(1, Events([write().wire]).encode())
            b.settle()
            b.tick(100)
            b.hear(3, have(a.author.log, seq=seq, age_ms=100 + gain_ms).encode())
        return b

    def test_a_link_that_would_be_faster_becomes_eager(self) -> None:
        assert told(self.told_of(int(GAIN_MS) + 1, GAINS_MIN)) == [Mode.EVENTS]

    def test_one_that_was_faster_a_few_times_does_not(self) -> None:
        assert told(self.told_of(int(GAIN_MS) + 1, GAINS_MIN - 1)) == []

    def test_one_that_is_hardly_faster_does_not(self) -> None:
        assert told(self.told_of(int(GAIN_MS), 3 * GAINS_MIN)) == []

    def test_a_gap_in_the_tree_says_nothing_of_other_links(self) -> None:
        assert told(self.told_of(GRAFT_MS, 3 * GAINS_MIN)) == []

    def test_one_link_becomes_eager_at_a_time(self) -> None:
        b = self.told_of(int(GAIN_MS) + 1, GAINS_MIN)
        b.hear(3, Link(Mode.NEWS).encode())
        write = verdicts(b.author)
        for seq in range(1, 2 * GAINS_MIN):
            b.writes(write())
            b.tick(100)
            b.hear(3, have(b.author.log, seq=seq, age_ms=200).encode())
        assert told(b) == [Mode.EVENTS]

    def test_a_peer_that_lies_about_ages_does_not_take_every_turn(self) -> None:
        b = self.told_of(int(GAIN_MS) + 1, GAINS_MIN)
        write = verdicts(b.author)
        for turn, words in enumerate(([Mode.EVENTS], [Mode.EVENTS] * 2)):
            b.hear(3, Link(Mode.NEWS).encode())
            for _ in range((GAIN_AGAIN_MS if turn else GAIN_INTERVAL_MS) // 1_000):
                b.tick(1_000)
            for seq in range(turn * 2 * GAINS_MIN + 1, (turn + 1) * 2 * GAINS_MIN + 1):
                b.writes(write())
                b.tick(100)
                b.hear(3, have(b.author.log, seq=seq, age_ms=GRAFT_MS).encode())
            assert told(b) == words
