"""What proves that a log ends reaches everybody who holds the log, once, and nothing else is believed."""

import pytest

from p2pnodes.gossip import frames, proving
from p2pnodes.gossip.engine import BAN_S, STORE_RETRY_MS
from p2pnodes.gossip.frames import (
    ALL_SLICES,
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
    log_tag,
)
from p2pnodes.gossip.pace import DIGEST_INTERVAL_MS
from p2pnodes.gossip.push import GRAFT_MS
from p2pnodes.gossip.session import PROVING_MAX
from p2pnodes.model.branches import displaced, rivalry
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.events import Close, Evidence, Head, closing
from p2pnodes.store.vector import NO_LOGS, SLICES
from tests.gossip.harness import Net, Node, clone, entry, peer_of
from tests.support import NETWORK, NOW_MS, VALIDATORS, Author, hotkey

A, B, C = VALIDATORS
HASH = bytes(32)


def log_of(uri: str, count: int, *, number: int = 0) -> Author:
    """A log with a delegation and so many verdicts."""
    author = Author(uri, number=number)
    author.delegate()
    for index in range(count):
        author.verdict(index.to_bytes(32, "big"))
    return author


def close(author: Author, good: int) -> Close:
    """The hotkey's word that the log's first ``good`` events are good."""
    head = Head(good - 1, author.events[good - 1].id) if good else None
    return closing(author.hotkey, NETWORK.id, author.log, head)


def fork(author: Author, seq: int) -> Evidence:
    """Proof that a log has two events at a seq."""
    twin = clone(author)
    twin.head = Head(seq - 1, author.events[seq - 1].id)
    evidence = rivalry(author.events[seq], twin.verdict(HASH, "failed"))
    assert evidence is not None
    return evidence


def mesh(*uris: str) -> tuple[Net, list[Node], Author]:
    """Nodes with sessions between all of them, that all hold a log of C's with six events."""
    author = log_of(C, 5)
    nodes = [Node(uri) for uri in uris]
    known = [node.author.delegate() for node in nodes if node.author.hotkey != author.hotkey]
    for node in nodes:
        node.holds(*known, *author.events)
    net = Net(*nodes)
    net.join_all()
    net.run(1_000)
    for node in nodes:
        node.said.clear()
    return net, nodes, author


def proofs(node: Node) -> list[Proofs]:
    return [frame for frame in node.said if isinstance(frame, Proofs)]


def cuts(nodes: list[Node], author: Author) -> list[int | None]:
    return [node.ledger.state.logs[author.log].cut for node in nodes]


class TestNews:
    """An end that becomes known goes to every session at once, and back to nobody who told it."""

    @pytest.mark.parametrize("kind", ["fork", "close"])
    def test_an_end_reaches_all(self, kind: str) -> None:
        net, nodes, author = mesh(A, B)
        nodes[0].hears_proofs(fork(author, 3) if kind == "fork" else close(author, 3))
        net.run()
        assert cuts(nodes, author) == [3, 3]
        assert net.agree()

    def test_it_is_passed_on(self) -> None:
        net, nodes, author = mesh(A, B, C)
        net.cut(2)  # a and c
        nodes[0].hears_proofs(fork(author, 3))
        net.run()
        assert cuts(nodes, author) == [3, 3, 3]

    def test_it_is_said_once_in_each_session(self) -> None:
        net, nodes, author = mesh(A, B)
        nodes[0].hears_proofs(fork(author, 3))
        net.run(5_000)
        assert [len(proofs(node)) for node in nodes] == [1, 0]

    def test_two_ends_of_one_log_come_both(self) -> None:
        net, nodes, author = mesh(A, B)
        nodes[0].hears_proofs(close(author, 4))
        nodes[1].hears_proofs(fork(author, 2))
        net.run()
        assert [Mark.of(node.ledger.state.ends[author.log]) for node in nodes] == [
            Mark(2, (4, author.events[3].id))
        ] * 2
        assert net.agree()

    def test_a_lower_end_replaces_a_higher_one(self) -> None:
        net, nodes, author = mesh(A, B)
        nodes[0].hears_proofs(fork(author, 4))
        net.run()
        nodes[1].hears_proofs(fork(author, 2))
        net.run()
        assert cuts(nodes, author) == [2, 2]
        assert [len(proofs(node)) for node in nodes] == [1, 1]

    def test_a_fork_that_the_store_finds_itself_is_told(self) -> None:
        net, nodes, author = mesh(A, B)
        twin = clone(author)
        twin.head = Head(2, author.events[2].id)
        nodes[0].hear(1, Events([twin.verdict(HASH, "failed").wire]).encode())
        net.run()
        assert cuts(nodes, author) == [3, 3]

    def test_a_session_whose_queue_is_full_is_told_when_it_has_drained(self) -> None:
        net, nodes, author = mesh(A, B)
        session = nodes[0].engine._sessions[1]
        session.behind = True
        nodes[0].hears_proofs(fork(author, 3))
        assert not proofs(nodes[0])
        session.behind = False
        net.run(2 * DIGEST_INTERVAL_MS)
        assert cuts(nodes, author) == [3, 3]


class TestVectors:
    """Whoever says in its vector that it knows no end as low as ours is told the proof, once for each vector."""

    def node(self) -> tuple[Node, Author]:
        """A node that knows an end, with a session."""
        node, author = Node(A), log_of(C, 5)
        node.holds(*author.events)
        node.hears_proofs(fork(author, 3), close(author, 5))
        node.open(1, peer_of(Author(B)))
        node.said.clear()
        return node, author

    def test_a_vector_names_the_counted_head_and_the_ends(self) -> None:
        node, author = self.node()
        node.hear(1, Slices(NO_LOGS).encode())
        vector = node.said[-1]
        assert isinstance(vector, Vector)
        mark = Mark(3, (5, author.events[4].id))
        assert vector.entries == [Entry(author.log, Head(2, author.events[2].id), mark)]
        assert frames.decode(vector.encode()) == vector

    def test_a_log_of_which_nothing_counts_has_no_head(self) -> None:
        node, author = self.node()
        node.hears_proofs(close(author, 0))
        node.hear(1, Slices([HASH[:16]] * SLICES).encode())
        vector = node.said[-1]
        assert isinstance(vector, Vector)
        assert vector.entries == [Entry(author.log, None, Mark(3, (0, b"")))]

    @pytest.mark.parametrize(
        ("mark", "count"),
        [
            (None, 2),
            (Mark(4, None), 2),
            (Mark(3, None), 1),
            (Mark(2, None), 1),
            (Mark(None, (5, b"\xff" * 32)), 2),
            (Mark(3, (5, bytes(32))), 0),
            (Mark(0, (0, b"")), 0),
        ],
        ids=str,
    )
    def test_what_the_peer_lacks_is_sent(self, mark: Mark | None, count: int) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [Entry(author.log, Head(2, author.events[2].id), mark)]).encode())
        assert sum(len(frame.proofs) for frame in proofs(node)) == count
        node.tick()
        assert sum(len(frame.proofs) for frame in proofs(node)) == count

    def test_it_is_sent_again_when_the_next_vector_still_lacks_it(self) -> None:
        node, author = self.node()
        for count in (1, 2, 3):
            node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 5, author.events[5].id)]).encode())
            assert len(proofs(node)) == count

    def test_a_peer_that_lacks_the_log_is_not_told(self) -> None:
        node, _ = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, []).encode())
        assert not proofs(node)

    def test_a_newcomer_fetches_what_counts_and_then_hears_where_it_ends(self) -> None:
        old, new, author = Node(A), Node(B), log_of(C, 5)
        old.holds(*author.events)
        old.hears_proofs(fork(author, 3))
        net = Net(old, new)
        net.join(old, new)
        net.run(2_000)
        held = new.ledger.state.logs[author.log]
        assert (held.counted, held.cut) == (Head(2, author.events[2].id), 3)
        assert net.agree()

    def test_what_lies_above_a_cut_is_not_fetched(self) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 9, HASH)]).encode())
        node.tick()
        assert not any(isinstance(frame, Want) for frame in node.said)
        assert node.row()["we_lack"] == 0

    def test_what_lies_above_a_cut_is_not_counted_as_lacking(self) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 2, author.events[2].id)]).encode())
        assert node.row()["peer_lacks"] == 0

    def test_many_ends_come_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(proving, "PROOFS_PER_FRAME_MAX", 2)
        authors = [log_of(C, 1, number=number) for number in range(20)]
        a, b = Node(A), Node(B)
        for author in authors:
            a.holds(*author.events)
            b.holds(*author.events)
            a.hears_proofs(close(author, 1))
        net = Net(a, b)
        net.join(a, b)
        net.run()
        assert 0 < len(b.ledger.state.ends) < 20
        net.run(20_000)
        assert len(b.ledger.state.ends) == 20
        assert max(len(frame.proofs) for frame in proofs(a)) == 2
        assert net.agree()


class TestTaking:
    """Only what proves an end of a log that is held, and a lower one than is known, reaches the store."""

    def node(self) -> tuple[Node, Author]:
        node, author = Node(A), log_of(C, 5)
        node.holds(*author.events)
        node.open(1, peer_of(Author(B)))
        return node, author

    def test_what_is_known_does_not_reach_the_store(self) -> None:
        node, author = self.node()
        node.hears_proofs(fork(author, 3), close(author, 3))
        node.hear(1, Proofs([fork(author, 3), fork(author, 4), close(author, 3), close(author, 4)]).encode())
        assert not node.proves

    def test_nor_does_what_is_of_another_log_or_hotkey(self) -> None:
        node, author = self.node()
        strange = log_of(C, 5, number=9)
        foreign = closing(hotkey(B), NETWORK.id, author.log, None)
        node.hear(1, Proofs([fork(strange, 3), close(strange, 3), foreign]).encode())
        assert not node.proves
        assert not node.closes

    @pytest.mark.parametrize("kind", ["fork", "close"])
    def test_what_proves_nothing_costs_the_session_and_a_ban(self, kind: str) -> None:
        node, author = self.node()
        good = fork(author, 3)
        bad = (
            good._replace(second_signature=bytes(64))
            if kind == "fork"
            else close(author, 3)._replace(signature=bytes(64))
        )
        node.hear(1, Proofs([bad]).encode())
        node.settle()
        (ended,) = node.closes
        assert ended.ban_s == BAN_S
        assert "does not hold" in ended.reason
        assert cuts([node], author) == [None]

    def test_a_proof_that_a_lower_one_overtook_costs_nothing(self) -> None:
        node, author = self.node()
        node.hear(1, Proofs([fork(author, 3)]).encode())
        node.hears_proofs(fork(author, 2))
        node.settle()
        assert not node.closes
        assert cuts([node], author) == [2]

    def test_proofs_that_the_store_may_have_to_check_are_bounded(self) -> None:
        node, author = self.node()
        frame = Proofs([close(author, 3)._replace(signature=bytes(64))]).encode()
        for _ in range(PROVING_MAX + 3):
            node.hear(1, frame)
        assert len(node.proves) == PROVING_MAX
        node.said.clear()
        node.tick()
        assert [frame.asks for frame in node.said if isinstance(frame, Digest)] == [True]

    def test_after_a_failed_store_they_are_asked_for_again(self) -> None:
        net, nodes, author = mesh(A, B)
        nodes[1].disk_fails = True
        nodes[0].hears_proofs(fork(author, 3))
        net.run()
        assert cuts(nodes, author) == [3, None]
        nodes[1].disk_fails = False
        net.run(STORE_RETRY_MS + 1_000)
        assert cuts(nodes, author) == [3, 3]

    def test_an_answer_that_comes_after_the_session_has_ended_changes_nothing(self) -> None:
        node, author = self.node()
        node.hear(1, Proofs([fork(author, 3)]).encode())
        node.do(node.engine.closed(1, node.now_ms))
        node.settle()
        assert cuts([node], author) == [3]

    def test_a_driver_that_mixes_up_proofs_is_told_so(self) -> None:
        node, author = self.node()
        with pytest.raises(LocalProtocolError, match="no such proofs"):
            node.engine.proved(1, (fork(author, 3),), node.now_ms)


class TestClosings:
    """A closing may name a branch that not everybody has stored; all come to the same all the same."""

    def test_peers_on_both_branches_of_a_fork_that_nobody_has_proved(self) -> None:
        author = log_of(C, 3)
        twin = clone(author)
        a, b = Node(A), Node(B)
        a.holds(*author.events, *[author.verdict(bytes([9 + n] * 32)) for n in range(5)])
        b.holds(*twin.events, *[twin.verdict(bytes([9 + n] * 32), "failed") for n in range(5)])
        named = close(twin, 7)  # on b's branch, above the fork at seq 4
        a.hears_proofs(named)
        b.hears_proofs(named)
        assert cuts([a, b], author) == [6, 7]
        net = Net(a, b)
        net.join(a, b)
        net.run(2_000)
        assert cuts([a, b], author) == [4, 4]
        assert net.agree()

    def test_a_closing_that_names_what_nobody_holds(self) -> None:
        net, nodes, author = mesh(A, B)
        nodes[0].hears_proofs(closing(author.hotkey, NETWORK.id, author.log, Head(3, HASH)))
        net.run(2_000)
        assert cuts(nodes, author) == [3, 3]
        assert net.agree()


class TestOwnLog:
    """Rule 4: who knows that our log has ended says so."""

    def test_a_mark_on_the_own_log_is_reported(self) -> None:
        node, own = Node(A), log_of(A, 5)
        node.holds(*own.events)
        node.open(1, peer_of(Author(B)))
        assert node.engine.own_end_reports(own.log) == set()
        node.hear(1, Vector(0, True, ALL_SLICES, [Entry(own.log, Head(2, own.events[2].id), Mark(3, None))]).encode())
        assert node.engine.own_end_reports(own.log) == {hotkey(B).public_key}
        assert node.engine.own_head_reports(own.log) == {hotkey(B).public_key: Head(2, own.events[2].id)}
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(own.log, 5, own.events[5].id)]).encode())
        assert node.engine.own_end_reports(own.log) == set()

    def test_a_log_of_which_nothing_counts_is_reported_so(self) -> None:
        node, own = Node(A), log_of(A, 5)
        node.holds(*own.events)
        node.open(1, peer_of(Author(B)))
        node.hear(1, Vector(0, True, ALL_SLICES, [Entry(own.log, None, Mark(None, (0, b"")))]).encode())
        assert node.engine.own_head_reports(own.log) == {hotkey(B).public_key: None}
        assert node.engine.own_end_reports(own.log) == {hotkey(B).public_key}


class TestObservers:
    """An observer hears and forwards; it has no voice, and validators are asked before it."""

    def node(self) -> tuple[Node, Author]:
        """A node with a session with an observer (1) and one with B (2), and a log that it lacks."""
        node = Node(A)
        node.open(1, peer_of(Author("//Mallory"))._replace(observer=True))
        node.open(2, peer_of(Author(B)))
        return node, log_of(C, 3)

    def wants(self, node: Node, session: int) -> list[Want]:
        sent = [frames.decode(frame) for frame in node.outgoing[session]]
        return [frame for frame in sent if isinstance(frame, Want)]

    def test_it_has_no_voice_about_the_own_log_and_the_time(self) -> None:
        node, own = Node(A), log_of(A, 5)
        node.holds(*own.events)
        node.open(1, peer_of(Author("//Mallory"))._replace(observer=True))
        node.hear(1, Digest(False, node.now_ms + 40_000, HASH, HASH, HASH).encode())
        node.hear(1, Vector(0, True, ALL_SLICES, [Entry(own.log, Head(9, HASH), Mark(3, None))]).encode())
        assert node.engine.clock_offset_ms() is None
        assert node.engine.own_head_reports(own.log) == {}
        assert node.engine.own_end_reports(own.log) == set()
        assert node.row()["observer"]

    def test_what_only_an_observer_holds_is_fetched_from_it(self) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 3, author.events[3].id)]).encode())
        assert self.wants(node, 1) == []
        node.tick()
        assert len(self.wants(node, 1)) == 1
        node.hear(1, Range(author.log, 0, [event.wire for event in author.events]).encode())
        node.settle()
        assert node.head(author.log) == 3

    def test_what_a_validator_holds_too_is_fetched_from_the_validator(self) -> None:
        node, author = self.node()
        for session in (1, 2):
            node.hear(session, Vector(0, True, ALL_SLICES, [entry(author.log, 3, author.events[3].id)]).encode())
        node.tick()
        assert (len(self.wants(node, 1)), len(self.wants(node, 2))) == (0, 1)

    def test_a_validator_takes_over_what_an_observer_is_asked_for(self) -> None:
        node, author = self.node()
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 9, HASH)]).encode())
        node.tick()
        node.hear(2, Vector(0, True, ALL_SLICES, [entry(author.log, 3, author.events[3].id)]).encode())
        assert (len(self.wants(node, 1)), len(self.wants(node, 2))) == (1, 1)

    def test_where_the_validator_does_not_answer_the_observer_is_asked(self) -> None:
        node, author = self.node()
        for session in (1, 2):
            node.hear(session, Vector(0, True, ALL_SLICES, [entry(author.log, 3, author.events[3].id)]).encode())
        node.hear(2, Range(author.log, 0, []).encode())
        node.tick()
        assert len(self.wants(node, 1)) == 1

    def test_it_is_sent_what_is_new(self) -> None:
        node, _ = self.node()
        node.hear(1, Link(Mode.EVENTS).encode())
        node.writes(node.author.delegate())
        assert any(isinstance(frames.decode(frame), Events) for frame in node.outgoing[1])


def test_events_above_a_cut_are_stored_and_passed_on() -> None:
    net, nodes, author = mesh(A, B, C)
    nodes[0].hears_proofs(close(author, 4))
    net.run()
    nodes[0].hear(1, Events([author.verdict(b"z" * 32).wire]).encode())  # as if from b
    net.run()
    assert [node.head(author.log) for node in nodes] == [6, 6, 6]
    assert net.agree()


class TestTwoHotkeys:
    """A log that begins twice, under the delegations of two hotkeys, ends for all at seq 0."""

    @pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by one of them"])
    def test_peers_that_hold_it_as_anothers_find_the_fork(self, closed: bool) -> None:
        a, b = Node("//validator0"), Node("//validator1")
        one, other = Author("//validator2"), Author("//validator1", seed=9)
        one.delegate()
        other.node_key, other.log = one.node_key, one.log
        other.write(other.delegation(), at_ms=NOW_MS - 500)
        delegations = [a.author.delegate(), b.author.delegate()]
        a.holds(*delegations, *one.events)
        b.holds(*delegations, *other.events)
        if closed:  # the two ends can never be the same: only the holder of one branch may believe this
            a.hears_proofs(closing(one.hotkey, NETWORK.id, one.log, Head(0, one.events[0].id)))
        net = Net(a, b)
        net.join_all()
        for _ in range(24):
            net.run(5_000)
        assert net.agree()
        assert [node.ledger.state.logs[one.log].cut for node in (a, b)] == [0, 0]


class TestTooManyLogs:
    """Of a hotkey with more logs than may count the same ones count everywhere, and nobody asks for others."""

    BOUND = 3

    def halves(self) -> tuple[Net, list[Node], list[Author]]:
        """Two nodes that were shown other logs of C's, and all of these, the last to be displaced first."""
        authors = [log_of(C, 3, number=number) for number in range(6)]
        order = displaced([author.log for author in authors], (), 0)
        authors.sort(key=lambda author: order.index(author.log))
        nodes = [Node(A), Node(B)]
        known = [node.author.delegate() for node in nodes]
        for place, node in enumerate(nodes):
            node.holds(*known, *(event for author in authors[place::2] for event in author.events))
        net = Net(*nodes)
        net.join_all()
        return net, nodes, authors

    @pytest.mark.parametrize("forgets", [0, 1, 2])
    def test_peers_that_were_shown_others_agree_and_keep_quiet(
        self, monkeypatch: pytest.MonkeyPatch, forgets: int
    ) -> None:
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", self.BOUND)
        net, nodes, authors = self.halves()
        net.run(30_000)
        assert net.agree()
        for node in nodes:
            assert {log for log in node.ledger.state.heads if log.node_key == authors[0].log.node_key} == {
                author.log for author in authors[: self.BOUND]
            }
        for node in nodes[:forgets]:
            for log in [log for log, held in node.ledger.state.logs.items() if held.displaced]:
                with node.ledger.transaction():
                    assert node.ledger.forget(log)
        for node in nodes:
            node.said.clear()
        net.run(2 * DIGEST_INTERVAL_MS)
        assert net.agree()
        assert not any(isinstance(frame, Want) for node in nodes for frame in node.said)
        assert not any(node.noticed("heads_differ") for node in nodes)

    def test_a_log_that_comes_when_another_is_forgotten_is_known_by_its_tag(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There are as many as before."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", self.BOUND)
        net, (a, _), _ = self.halves()
        net.run(30_000)
        a.hear(1, Have([News(log_tag(a.author.log), 0, 0)]).encode())
        gone = next(log for log, held in a.ledger.state.logs.items() if held.displaced)
        fresh = Author(B, number=77).delegate()
        with a.ledger.transaction():
            a.ledger.forget(gone)
            a.ledger.receive([fresh], a.now_ms)
        a.said.clear()
        a.hear(1, Have([News(log_tag(fresh.log), 0, 0)]).encode())
        a.tick(GRAFT_MS)
        assert Link(Mode.EVENTS) not in a.said
