"""Engines with an active view: links carry events, visits answer, and who is a member decides it all."""

from p2pnodes.gossip import engine, fetch, frames, view
from p2pnodes.gossip.engine import Member
from p2pnodes.gossip.frames import ALL_SLICES, Book, Digest, Events, Link, Mode, Vector
from p2pnodes.gossip.timeline import SLOWNESS_MAX
from p2pnodes.model.events import closing
from tests.gossip.harness import Net, Node, entry, peer_of
from tests.support import NETWORK, VALIDATORS, Author, electorate

A, B, C = VALIDATORS


def member(node: Node) -> dict[bytes, Member]:
    return {node.author.hotkey.public_key: Member(node.author.node_key.public_key, dialable=True)}


def knows(node: Node, *others: Node) -> None:
    """Tell a node who the members are."""
    members = {hotkey: found for other in others for hotkey, found in member(other).items()}
    node.do(node.engine.set_members(members, node.now_ms))


class TestLinks:
    """Events go over links, and over nothing else."""

    def test_members_are_linked_as_soon_as_they_have_a_session(self) -> None:
        a, b = Node(A), Node(B)
        knows(a, b)
        knows(b, a)
        net = Net(a, b)
        net.join(a, b)
        net.run()
        assert a.row()["link"] == b.row()["link"] == "eager"
        assert a.engine.wanted() == []

    def test_on_a_visit_nothing_is_pushed_and_questions_are_answered(self) -> None:
        a, b = Node(A), Node(B)
        knows(a)
        knows(b)
        net = Net(a, b)
        net.join(a, b)
        net.run()
        assert a.row()["link"] == "visit"
        a.writes(a.author.delegate())
        assert not any(isinstance(frames.decode(frame), Events) for frame in a.outgoing[1])
        net.run(30_000)
        assert b.head(a.author.log) == 0, "anti-entropy has brought it"

    def test_a_visit_is_closed_without_a_ban(self) -> None:
        a = Node(A)
        knows(a)
        a.open(1, peer_of(Author(B)))
        for _ in range(view.VISIT_MS_MAX // 250 + 30):
            a.tick()
        (close,) = a.closes
        assert (close.session, close.reason, close.ban_s) == (1, view.VISIT_OVER, 0)

    def test_one_that_loses_its_permit_is_pushed_nothing_any_more(self) -> None:
        a, b, c = Node(A), Node(B), Node(C)
        knows(a, b, c)
        net = Net(a, b, c)
        net.join(a, b)
        net.join(a, c)
        net.run()
        knows(a, b)
        a.writes(a.author.delegate())
        assert any(isinstance(frames.decode(frame), Events) for frame in a.outgoing[1])
        assert [frames.decode(frame) for frame in a.outgoing[2]] == [Link(Mode.NOTHING)]

    def test_a_dial_that_failed_is_noted(self) -> None:
        a, b = Node(A), Node(B)
        knows(a, b)
        a.engine.failed(b.author.hotkey.public_key, a.now_ms)
        assert a.engine.view_status()["down"] == 1
        assert a.engine.wanted() == [b.author.hotkey.public_key]


class TestLateLinks:
    """A visit that becomes a link goes on from what both ends hold."""

    def linked_after(self, ms: int) -> Node:
        """A node that has linked with a peer which was a visit for so long before."""
        node, other = Node(A), Author(B)
        knows(node)
        node.open(1, peer_of(other))
        for _ in range(ms // engine.TICK_MS):
            node.tick()
        node.said.clear()
        node.hear(1, Link(Mode.EVENTS).encode())
        assert node.row()["link"] == "eager"
        return node

    def test_one_that_was_a_visit_for_a_while_is_compared_at_once(self) -> None:
        link, digest = self.linked_after(engine.FRESH_MS).said
        assert link == Link(Mode.EVENTS)
        assert isinstance(digest, Digest)
        assert digest.asks

    def test_a_new_one_goes_on_from_the_opening_digests(self) -> None:
        assert self.linked_after(engine.FRESH_MS - engine.TICK_MS).said == [Link(Mode.EVENTS)]

    def test_what_was_stored_meanwhile_comes_with_the_link(self) -> None:
        a, b = Node(A), Node(B)
        knows(a)
        knows(b)
        net = Net(a, b)
        net.join(a, b)
        net.run(engine.FRESH_MS)
        a.writes(a.author.delegate())
        net.run()
        assert b.head(a.author.log) == -1
        knows(a, b)
        net.run()
        assert a.row()["link"] == "eager"
        assert b.head(a.author.log) == 0, "without a tick of anti-entropy"


class TestNodeKeys:
    """What the daemon of a hotkey is called now."""

    def test_the_log_with_the_latest_delegation_says_it(self) -> None:
        node, old, new = Node(A), Author(B), Author(B, number=1, seed=1)
        node.holds(old.delegate())
        assert node.engine.node_keys()[old.hotkey.public_key] == old.node_key.public_key
        node.holds(new.delegate())
        assert node.engine.node_keys()[old.hotkey.public_key] == new.node_key.public_key

    def test_a_log_that_has_ended_says_nothing_while_another_goes_on(self) -> None:
        node, goes_on, ended = Node(A), Author(B), Author(B, number=1, seed=1)
        node.holds(goes_on.delegate(), ended.delegate())
        node.hears_proofs(closing(ended.hotkey, NETWORK.id, ended.log, None))
        assert node.engine.node_keys()[goes_on.hotkey.public_key] == goes_on.node_key.public_key

    def test_of_whom_no_log_is_held_the_address_book_says_it(self) -> None:
        node, other = Node(A), Author(B)
        node.open(1, peer_of(Author(C)))
        node.hear(1, Book([(other.log, other.delegation())]).encode())
        assert node.engine.node_keys()[other.hotkey.public_key] == other.node_key.public_key


class TestAsking:
    """A sign of life can be had at any time."""

    def test_a_validator_is_asked_with_a_digest(self) -> None:
        node = Node(A)
        node.open(1, peer_of(Author(B)))
        node.said.clear()
        node.do(node.engine.ask(node.now_ms))
        (digest,) = node.said
        assert isinstance(digest, Digest)
        assert digest.asks

    def test_an_observer_is_not(self) -> None:
        node = Node(A, electorate(stakes={A: 100}))
        node.open(1, peer_of(Author(B))._replace(observer=True))
        assert node.engine.ask(node.now_ms) == []


class TestPatience:
    """Lifeguard: what this daemon missed itself is held against nobody."""

    def wanting(self) -> Node:
        """A node with a want that has no answer."""
        node, author = Node(A), Author(B)
        node.open(1, peer_of(author))
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 3, bytes(32))]).encode())
        node.tick()
        assert node.row()["wants"] == 1
        return node

    def test_a_want_is_not_late_because_this_daemon_stood_still(self) -> None:
        node = self.wanting()
        node.tick(3_600_000)
        for _ in range(20):
            node.tick()
        assert node.row()["wants"] == 1
        assert node.closes == []

    def test_in_the_end_it_is_late_all_the_same(self) -> None:
        node = self.wanting()
        node.tick(3_600_000)
        for _ in range(4 * (fetch.SILENT_MS_MAX // 1000 + 20 * SLOWNESS_MAX)):
            node.tick()
        assert [close.session for close in node.closes] == [1]

    def test_lateness_is_measured_by_the_ticks(self) -> None:
        node = Node(A)
        node.tick()
        node.tick(engine.TICK_MS + 5_000)
        assert node.engine.time.status() == {"lag_ms": 5_000, "slowness": 6}
