"""Where two branches of a log part is found by looking at few single events, whoever holds which and however long."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnodes.gossip import fetch, search
from p2pnodes.gossip.fetch import WANTS_MAX
from p2pnodes.gossip.frames import ALL_SLICES, Digest, Events, Mark, Range, Vector, Want
from p2pnodes.gossip.pace import DIGEST_INTERVAL_MS
from p2pnodes.gossip.search import PAUSE_MS, PROBE_BYTES, PROBES_MAX, SEARCH_MS_MAX, SEARCHES_MAX, Search
from p2pnodes.model.branches import displaced
from p2pnodes.model.events import Close, Event, Evidence, Head, closing
from tests.gossip.harness import Net, Node, clone, entry, peer_of
from tests.support import NETWORK, VALIDATORS, Author, electorate

A, B, C = VALIDATORS
HASH = bytes(32)
WIDE = electorate(stakes=dict.fromkeys([f"//validator{number}" for number in range(4)], 100))


def verdicts(author: Author, count: int) -> list[Event]:
    return [author.verdict(number.to_bytes(32, "big")) for number in range(count)]


def failures(author: Author, count: int) -> list[Event]:
    return [author.verdict(number.to_bytes(32, "big"), "failed") for number in range(count)]


def branches(fork: int, ours: int, theirs: int) -> tuple[Net, Node, Node, Author]:
    """Two nodes that hold different branches of C's log: equal events below ``fork``, then so many each."""
    a, b = Node(A), Node(B)
    known = [a.author.delegate(), b.author.delegate()]
    author = Author(C)
    known += [author.delegate(), *verdicts(author, fork - 1)]
    a.holds(*known)
    b.holds(*known)
    twin = clone(author)
    a.holds(*verdicts(author, ours))
    b.holds(*failures(twin, theirs))
    return Net(a, b), a, b, author


def probes(node: Node) -> list[Want]:
    return [frame for frame in node.said if isinstance(frame, Want) and frame.size_bytes == PROBE_BYTES]


class TestSearch:
    """The point where branches part is found in few looks."""

    @given(st.integers(1, 2**62), st.integers(1, 2**62), st.booleans())
    def test_it_is_found_in_logarithmic_time(self, fork: int, behind: int, claimed: bool) -> None:
        found = Search(fork + behind, 0, claimed=claimed)
        looks = 0
        while found.looking != fork:
            assert found.looking is not None
            looks += 1
            if found.looking < fork:
                assert found.agrees()
            else:
                found.disagrees()
        assert looks <= 2 * behind.bit_length() + 1 < PROBES_MAX

    def test_events_of_late_are_looked_at_first(self) -> None:
        found = Search(1_000, 0, claimed=False)
        seen = []
        for _ in range(4):
            seen.append(found.looking)
            found.disagrees()
        assert seen == [999, 997, 993, 985]

    def test_what_was_only_said_is_looked_at_first(self) -> None:
        assert Search(1_000, 0, claimed=True).looking == 1_000

    def test_a_claim_that_its_own_event_contradicts_is_seen(self) -> None:
        assert not Search(1_000, 0, claimed=True).agrees()

    def test_events_that_follow_on_neither_branch_end_it(self) -> None:
        found = Search(5, 0, claimed=False)
        assert found.looking == 4
        assert found.agrees()
        assert found.looking is None

    def test_its_looks_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search, "PROBES_MAX", 3)
        found = Search(2**60, 0, claimed=False)
        for _ in range(3):
            found.disagrees()
        assert found.looking is None


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (1, 5), (5, 1), (40, 40), (40, 41), (300, 3)], ids=str)
class TestBranches:
    """Peers with different branches find the fork, whichever is the longer one, and are equal then."""

    def test_they_agree_on_the_fork_and_on_what_counts(self, ours: int, theirs: int) -> None:
        net, a, b, author = branches(7, ours, theirs)
        net.join(a, b)
        net.run(2_000)
        for node in (a, b):
            held = node.ledger.state.logs[author.log]
            assert held.ends.fork == held.cut == 7
            assert held.counted == Head(6, author.events[6].id)
        assert net.agree()
        assert not a.closes
        assert not b.closes

    def test_few_events_are_looked_at(self, ours: int, theirs: int) -> None:
        net, a, b, _ = branches(7, ours, theirs)
        net.join(a, b)
        net.run(2_000)
        assert 1 <= len(probes(a)) + len(probes(b)) <= 4 * max(ours, theirs).bit_length() + 2

    def test_the_network_is_quiet_afterwards(self, ours: int, theirs: int) -> None:
        net, a, b, _ = branches(7, ours, theirs)
        net.join(a, b)
        net.run(5_000)
        a.said.clear()
        b.said.clear()
        net.run(10 * DIGEST_INTERVAL_MS)
        assert {type(frame) for frame in a.said + b.said} == {Digest}


class TestBegin:
    """A search begins where a peer's word contradicts what is held, and only there."""

    def node(self) -> tuple[Node, Author]:
        """A node with C's log of six events and a session with B."""
        node, author = Node(A), Author(C)
        node.holds(author.delegate(), *verdicts(author, 5))
        node.open(1, peer_of(Author(B)))
        node.said.clear()
        return node, author

    def test_a_pushed_rival_begins_one_below_it(self) -> None:
        node, author = self.node()
        twin = clone(author)
        twin.head = Head(1, author.events[1].id)
        rival = failures(twin, 3)[2]
        assert rival.seq == 4
        node.hear(1, Events([rival.wire]).encode())
        node.settle()
        assert probes(node) == [Want(author.log, 3, 1, PROBE_BYTES)]

    def test_a_pushed_rival_with_the_same_event_before_is_the_proof_itself(self) -> None:
        node, author = self.node()
        twin = clone(author)
        twin.head = Head(3, author.events[3].id)
        node.hear(1, Events([failures(twin, 1)[0].wire]).encode())
        node.settle()
        assert node.ledger.state.logs[author.log].cut == 4
        assert probes(node) == []
        (noticed,) = node.noticed("fork")
        assert noticed["seq"] == 4

    def test_another_head_at_the_same_seq_is_looked_at(self) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 5, HASH)]).encode())
        assert probes(node) == [Want(author.log, 5, 1, PROBE_BYTES)]

    def test_a_lower_head_is_no_contradiction(self) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 3, author.events[3].id)]).encode())
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 3, HASH)]).encode())
        assert node.said == []

    def test_rivals_above_a_fork_that_is_known_begin_none(self) -> None:
        node, author = self.node()
        twin = clone(author)
        twin.head = Head(1, author.events[1].id)
        rivals = failures(twin, 9)
        node.hear(1, Events([rivals[0].wire]).encode())
        node.settle()
        assert node.ledger.state.logs[author.log].cut == 2
        node.hear(1, Events([rivals[3].wire, rivals[4].wire]).encode())
        node.hear(1, Events([rivals[8].wire]).encode())
        node.settle()
        node.tick()
        assert not any(isinstance(frame, Want) for frame in node.said)

    def test_searches_of_a_session_are_few_and_leave_room_for_wants(self) -> None:
        node = Node(A)
        authors = [Author(C, number=number) for number in range(WANTS_MAX + 2)]
        for author in authors:
            node.holds(author.delegate())
        longer = [Author(C, number=100 + number) for number in range(WANTS_MAX)]
        node.open(1, peer_of(Author(B)))
        said = [entry(author.log, 0, HASH) for author in authors + longer]
        node.hear(1, Vector(0, True, ALL_SLICES, sorted(said)).encode())
        assert len(probes(node)) == SEARCHES_MAX
        assert sum(isinstance(frame, Want) for frame in node.said) == WANTS_MAX


class TestLost:
    """A peer whose events are not what it said loses the search, is noted, and is not searched with for a while."""

    def searching(self) -> tuple[Node, Author]:
        """A node that looks at the head which B claims to have at its own head's seq."""
        node, author = Node(A), Author(C)
        node.holds(author.delegate(), *verdicts(author, 5))
        node.open(1, peer_of(Author(B)))
        self.claim(node, author)
        return node, author

    def claim(self, node: Node, author: Author) -> None:
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 5, HASH)]).encode())

    def lost(self, node: Node) -> str:
        (noticed,) = node.noticed("fork_not_found")
        assert node.row()["searches"] == 0
        assert not node.closes
        return str(noticed["reason"])

    def test_one_that_shows_our_own_event(self) -> None:
        node, author = self.searching()
        node.hear(1, Range(author.log, 5, [author.events[5].wire]).encode())
        node.settle()
        assert "our own event at seq 5" in self.lost(node)

    def test_one_that_shows_nothing(self) -> None:
        node, author = self.searching()
        node.hear(1, Range(author.log, 5, []).encode())
        assert self.lost(node) == "it has no event at seq 5"

    def test_one_whose_events_follow_on_neither_branch(self) -> None:
        node, author = self.searching()
        twin = clone(author)
        twin.head = Head(4, b"x" * 32)
        node.hear(1, Range(author.log, 5, [failures(twin, 1)[0].wire]).encode())
        node.settle()
        node.hear(1, Range(author.log, 4, [author.events[4].wire]).encode())
        node.settle()
        assert self.lost(node) == "its events follow on neither branch"

    def test_one_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "SILENT_MS_MAX", 10 * SEARCH_MS_MAX)
        node, _ = self.searching()
        for _ in range(SEARCH_MS_MAX // 250 + 1):
            node.tick()
        assert "not found in 60 s" in self.lost(node)

    def test_an_answer_that_comes_after_the_search_has_ended_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "SILENT_MS_MAX", 10 * SEARCH_MS_MAX)
        node, author = self.searching()
        for _ in range(SEARCH_MS_MAX // 250 + 1):
            node.tick()
        node.hear(1, Range(author.log, 5, [author.events[5].wire]).encode())
        assert not node.stores
        assert not node.closes

    def test_it_is_not_searched_with_again_until_the_pause_has_ended(self) -> None:
        node, author = self.searching()
        node.hear(1, Range(author.log, 5, []).encode())
        for _ in range(PAUSE_MS // 1_000 - 1):
            node.tick(1_000)
            self.claim(node, author)
        assert len(probes(node)) == 1
        node.tick(1_000)
        self.claim(node, author)
        assert len(probes(node)) == 2

    def test_one_that_lost_many_is_searched_with_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search, "PAUSES_MAX", 3)
        node = Node(A)
        authors = [Author(C, number=number) for number in range(5)]
        node.holds(*[author.delegate() for author in authors])
        node.open(1, peer_of(Author(B)))
        for author in authors[:3]:
            node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 0, HASH)]).encode())
            node.hear(1, Range(author.log, 0, []).encode())
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 0, HASH) for author in authors]).encode())
        assert len(probes(node)) == 3

    def test_an_answer_to_a_probe_may_be_one_event_only(self) -> None:
        node, author = self.searching()
        wires = [event.wire for event in author.events[4:]]
        node.hear(1, Range(author.log, 5, wires).encode())
        (close,) = node.closes
        assert "more than the 1 bytes" in close.reason

    @pytest.mark.parametrize("seq", [4, 0])
    def test_another_event_than_the_one_asked_for_costs_the_session(self, seq: int) -> None:
        node, author = self.searching()
        node.hear(1, Range(author.log, 5, [author.events[seq].wire]).encode())
        (close,) = node.closes
        assert f"expected seq 5 of log {author.log}, found {seq}" in close.reason

    def test_a_forged_event_costs_the_session(self) -> None:
        node, author = self.searching()
        twin = clone(author)
        twin.head = Head(4, b"x" * 32)
        event = failures(twin, 1)[0]
        node.hear(1, Range(author.log, 5, [event.wire.replace(event.signature, bytes(64))]).encode())
        node.settle()
        (close,) = node.closes
        assert "forged event" in close.reason


class TestMany:
    """However many branches there are, and whatever some know of ends already, all come to the same."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.randoms(use_true_random=False), st.integers(2, 4))
    def test_all_nodes_agree(self, rng: random.Random, count: int) -> None:
        root = Author(C)
        root.delegate()
        verdicts(root, 3)
        writers = [root]
        for _ in range(rng.randint(1, 4)):  # a tree of branches
            twin = clone(rng.choice(writers))
            back = rng.randrange(len(twin.events))
            twin.events = twin.events[: back + 1]
            twin.head = Head(back, twin.events[-1].id)
            for _ in range(rng.randint(1, 6)):
                twin.verdict(rng.randbytes(32), rng.choice(["failed", "abstain"]))
            writers.append(twin)
        ends: list[Evidence | Close] = []
        for _ in range(rng.randint(0, 2)):
            event = rng.choice(rng.choice(writers).events)
            ends.append(closing(root.hotkey, NETWORK.id, root.log, Head(event.seq, event.id)))
        nodes = [Node(f"//validator{number}", WIDE) for number in range(count)]
        for node in nodes:
            branch = rng.choice(writers).events
            node.holds(*branch[: rng.randint(1, len(branch))])
            node.hears_proofs(*[end for end in ends if rng.random() < 0.5])
        net = Net(*nodes)
        for index, one in enumerate(nodes[1:], 1):  # a tree of sessions at least
            net.join(one, nodes[rng.randrange(index)])
        if rng.random() < 0.5:
            net.join_all()
        net.run(60_000)
        assert net.agree()
        assert len({repr(Mark.of(node.ledger.state.logs[root.log].ends)) for node in nodes}) == 1
        assert not any(node.closes for node in nodes)
        assert not any(node.noticed("fork_not_found") for node in nodes)


class TestStore:
    """A store that fails or is busy delays a search, and loses nothing."""

    def test_an_event_that_could_not_be_compared_is_looked_at_again(self) -> None:
        net, a, b, author = branches(7, 3, 3)
        a.disk_fails = b.disk_fails = True
        net.join(a, b)
        net.run(1_000)
        assert probes(a)
        a.disk_fails = b.disk_fails = False
        net.run(10_000)
        assert a.ledger.state.logs[author.log].cut == 7
        assert net.agree()

    def test_events_that_were_looked_at_do_not_make_the_log_be_fetched_sooner(self) -> None:
        node, author = Node(A), Author(C)
        node.holds(author.delegate(), *verdicts(author, 5))
        for session, uri in enumerate((B, C), 1):
            node.open(session, peer_of(Author(uri)))
        twin = clone(author)
        twin.head = Head(4, b"x" * 32)
        node.hear(1, Events([failures(twin, 1)[0].wire]).encode())
        node.settle()
        node.hear(1, Range(author.log, 4, [author.events[4].wire]).encode())
        node.settle()
        assert node.noticed("fork_not_found")
        node.hear(2, Vector(0, True, ALL_SLICES, [entry(author.log, 9, HASH)]).encode())
        assert probes(node) == [frame for frame in node.said if isinstance(frame, Want)]

    def test_a_search_ends_when_the_fork_is_proved_otherwise(self) -> None:
        net, a, b, author = branches(7, 40, 40)
        net.join(a, b)
        for _ in range(4):
            net.step()
        assert a.row()["searches"] == 1
        twin = clone(author)
        twin.head = Head(5, author.events[5].id)
        with a.ledger.transaction():
            (outcome,) = a.ledger.receive(failures(twin, 1), a.now_ms)
        assert outcome.proved
        a.tell_ends()
        assert a.row()["searches"] == 0

    def test_a_search_ends_when_its_log_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is told of as one that ended, by a commit before."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
        net, a, b, author = branches(7, 40, 40)
        net.join(a, b)
        for _ in range(4):
            net.step()
        assert a.row()["searches"] == 1
        others = (Author(C, number=number) for number in range(1, 99))
        other = next(each for each in others if author.log in displaced([author.log, each.log], (), 1))
        with a.ledger.transaction():
            a.ledger.receive([other.delegate()], a.now_ms)
        gone = False
        while not gone:
            with a.ledger.transaction():
                gone = a.ledger.forget(author.log)
        a.tell_ends()
        assert a.row()["searches"] == 0
