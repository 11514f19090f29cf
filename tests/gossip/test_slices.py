"""Comparing costs what differs, not what there is: a frame each way when nothing does, else the slices that do."""

import random
from functools import cache

from p2pnodes.gossip import frames
from p2pnodes.gossip.engine import Engine, Send
from p2pnodes.gossip.frames import ALL_SLICES, Digest, Entry, Events, Have, Link, Mark, Slices, Vector, Want, scope_of
from p2pnodes.gossip.session import KNOWN_MAX, Session
from p2pnodes.model.codec import digest
from p2pnodes.model.events import Head, LogId
from p2pnodes.model.stateroot import StateRoot
from p2pnodes.model.validity import EMPTY
from p2pnodes.store.state import LogState, State
from p2pnodes.store.vector import SLICES, digest_over, slice_digests, slice_of
from tests.gossip.harness import Net, Node, entry, peer_of
from tests.support import NETWORK, NOW_MS, VALIDATORS, Author

A, B, C = VALIDATORS
HASH = bytes(32)
MANY = 10_000


class Shelf:
    """A store of which only the vector exists: so many logs, each with its head."""

    def __init__(self, heads: dict[LogId, Head]) -> None:
        logs = {log: LogState(0, log, HASH, head, EMPTY, counted=head) for log, head in heads.items()}
        slices = slice_digests(heads, {})
        own = next(iter(heads))
        self.state = State(
            logs, heads, StateRoot().now(), HASH, digest_over(slices), len(logs), 0, own=own, slices=slices
        )


@cache
def many_heads() -> dict[LogId, Head]:
    return {LogId(digest(number.to_bytes(4, "big")), 0): Head(number % 7, HASH) for number in range(MANY)}


class Pair:
    """Two engines over two shelves, with one session."""

    def __init__(self, one: dict[LogId, Head], other: dict[LogId, Head]) -> None:
        self.engines = [Engine(NETWORK, Shelf(heads), random.Random(1)) for heads in (one, other)]
        self.said: tuple[list[bytes], list[bytes]] = [], []
        """What each of them sent, but for wants and what concerns the link."""
        waiting: list[tuple[int, bytes]] = []

        def do(index: int, effects: list[object]) -> None:
            for effect in effects:
                if isinstance(effect, Send) and not isinstance(frames.decode(effect.frame), Link | Want):
                    waiting.append((1 - index, effect.frame))
                    self.said[index].append(effect.frame)

        for index, uri in enumerate((B, A)):
            do(index, list(self.engines[index].opened(1, peer_of(Author(uri)), NOW_MS)))
        while waiting:
            index, frame = waiting.pop(0)
            do(index, list(self.engines[index].received(1, frame, NOW_MS)))

    def session(self, index: int) -> Session:
        return self.engines[index]._sessions[1]

    def kinds(self, index: int) -> list[type]:
        return [type(frames.decode(frame)) for frame in self.said[index]]


class TestEqual:
    """Whatever the number of logs."""

    def test_equal_vectors_of_ten_thousand_logs_cost_one_frame_each_way(self) -> None:
        pair = Pair(many_heads(), dict(many_heads()))
        for index in (0, 1):
            assert pair.kinds(index) == [Digest]
            assert sum(map(len, pair.said[index])) < 120

    def test_nothing_is_kept_about_the_logs_that_are_equal(self) -> None:
        session = Pair(many_heads(), dict(many_heads())).session(0)
        assert not any((session.known, session.ahead, session.lacks, session.told, session.partial))
        assert session.compared

    def test_all_that_is_kept_of_a_vector_is_what_differs(self) -> None:
        node, authors = Node(A), [Author(C, number=number) for number in range(30)]
        for author in authors:
            node.holds(author.delegate())
        node.open(1, peer_of(Author(B)))
        said = [entry(author.log, 0, author.events[0].id) for author in authors]
        said[3] = Entry(authors[3].log, Head(0, authors[3].events[0].id), Mark(7, None))
        said[4] = entry(authors[4].log, 5, HASH)
        del said[5]
        node.hear(1, Vector(0, True, ALL_SLICES, sorted(said)).encode())
        session = node.engine._sessions[1]
        assert session.lacks == {authors[5].log: -1}
        assert session.told == {authors[3].log: Mark(7, None)}
        assert session.ahead == {authors[4].log: 5}
        assert session.known == {}


class TestDifferent:
    """The hashes of the slices, and those slices that differ."""

    def test_one_log_that_differs_costs_its_slice(self) -> None:
        ahead = dict(many_heads())
        log = next(iter(ahead))
        ahead[log] = Head(9, HASH)
        pair = Pair(many_heads(), ahead)
        for index in (0, 1):
            assert pair.kinds(index) == [Digest, Slices, Vector]
            vector = frames.decode(pair.said[index][-1])
            assert isinstance(vector, Vector)
            assert vector.scope == scope_of([slice_of(log)])
            assert len(vector.entries) == sum(slice_of(each) == slice_of(log) for each in ahead)
            assert len(vector.entries) < 2 * MANY / SLICES
            assert len(pair.said[index][1]) < 1_200
        assert pair.session(0).ahead == {log: 9}
        assert pair.session(1).lacks == {log: many_heads()[log].seq}

    def test_equal_slices_and_the_listed_ones_are_together_a_complete_word(self) -> None:
        ahead = dict(many_heads())
        ahead[next(iter(ahead))] = Head(9, HASH)
        pair = Pair(many_heads(), ahead)
        assert pair.session(0).compared
        assert [row["peer_lacks"] for row in pair.engines[0].status()] == [0]
        assert [row["peer_lacks"] for row in pair.engines[1].status()] == [9 - many_heads()[next(iter(ahead))].seq]

    def test_slices_that_are_equal_meanwhile_are_answered_with_nothing(self) -> None:
        node = Node(A)
        node.open(1, peer_of(Author(B)))
        node.said.clear()
        node.hear(1, Slices(node.ledger.state.slices).encode())
        assert node.said == []
        assert node.engine._sessions[1].compared

    def test_logs_without_a_permit_are_listed_where_their_slice_differs(self) -> None:
        """The hashes do not cover them, but some peers want them."""
        node, author = Node(A), Author(C)
        node.holds(author.delegate())
        node.open(1, peer_of(Author(B)))
        slices = list(node.ledger.state.slices)
        slices[slice_of(author.log)] = HASH[:16]
        node.hear(1, Slices(slices).encode())
        assert node.said[-1] == Vector(
            0, True, scope_of([slice_of(author.log)]), [entry(author.log, 0, author.events[0].id)]
        )

    def test_parts_of_one_vector_with_different_scopes_close_the_session(self) -> None:
        node = Node(A)
        node.open(1, peer_of(Author(B)))
        node.hear(1, Vector(0, False, scope_of([1]), []).encode())
        node.hear(1, Vector(1, True, scope_of([2]), []).encode())
        (close,) = node.closes
        assert "different scopes" in close.reason


class TestWord:
    """What a peer said is forgotten slice by slice, when it says something else."""

    def test_a_vector_replaces_what_was_said_of_its_slices_alone(self) -> None:
        node, authors = Node(A), [Author(uri) for uri in (B, C)]
        first, second = (slice_of(author.log) for author in authors)
        assert first != second
        for author in authors:
            node.holds(author.delegate())
        node.open(1, peer_of(Author(B)))
        node.hear(1, Vector(0, True, ALL_SLICES, []).encode())
        session = node.engine._sessions[1]
        assert session.lacks == {author.log: -1 for author in authors}
        node.hear(1, Vector(0, True, scope_of([first]), [entry(authors[0].log, 0, authors[0].events[0].id)]).encode())
        assert session.lacks == {authors[1].log: -1}
        node.hear(1, Slices([own if n == second else HASH[:16] for n, own in enumerate(node.state.slices)]).encode())
        assert session.lacks == {}

    def test_it_ends_with_the_electorate(self) -> None:
        node = Node(A)
        node.open(1, peer_of(Author(B)))
        node.hear(1, Slices(node.ledger.state.slices).encode())
        session = node.engine._sessions[1]
        assert session.own is not None
        session.forget_word()
        assert not session.compared
        assert node.engine.own_head_reports(node.author.log) == {}


class TestKnown:
    """What a peer holds is remembered while something of it could still be pushed."""

    def test_an_equal_digest_makes_it_be_forgotten(self) -> None:
        a, b = Node(A), Node(B)
        known = [a.author.delegate(), b.author.delegate()]
        for node in (a, b):
            node.holds(*known)
        net = Net(a, b)
        net.join(a, b)
        net.run()
        a.writes(a.author.verdict(HASH))
        net.run()
        session = a.engine._sessions[1]
        assert session.known == {a.author.log: 1}
        state = a.ledger.state
        a.hear(1, Digest(False, a.now_ms, state.vector_digest, state.state_root, state.electorate_digest).encode())
        assert session.known == {}

    def test_of_many_logs_what_is_stored_here_is_forgotten(self) -> None:
        node = Node(A)
        authors = [Author(C, number=number) for number in range(3)]
        node.holds(*(author.delegate() for author in authors))
        node.open(1, peer_of(Author(B)))
        session = node.engine._sessions[1]
        for author in authors:
            session.holds(author.log, 0)
        session.holds(authors[0].log, 4)
        for number in range(KNOWN_MAX):
            session.holds(LogId(number.to_bytes(32, "big"), 0), 1)
        node.tick()
        assert authors[1].log not in session.known
        assert session.known[authors[0].log] == 4

    def test_what_the_store_works_on_is_not_forgotten(self) -> None:
        """It will be pushed once it is stored, and not back to whoever holds it."""
        node, author = Node(A), Author(C)
        node.holds(author.delegate())
        for session, uri in enumerate((B, C), 1):
            node.open(session, peer_of(Author(uri)))
        event = author.verdict(HASH)
        for session in (1, 2):
            node.hear(session, Events([event.wire]).encode())
        with node.ledger.transaction():  # the commit is done, and the engine has not heard of it
            node.ledger.receive([event], node.now_ms)
        state = node.ledger.state
        node.hear(2, Digest(False, node.now_ms, state.vector_digest, HASH, HASH).encode())
        node.said.clear()
        node.settle()
        assert not any(isinstance(frame, Events | Have) for frame in node.said)
