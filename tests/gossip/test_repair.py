"""A damaged event is not served, and comes again from another peer; nobody is banned for it."""

from collections.abc import Sequence

import pytest

from p2pnodes.gossip import repair
from p2pnodes.gossip.frames import Want
from p2pnodes.gossip.repair import REPAIRS_MAX, ROUND_MS
from p2pnodes.model.events import Event, LogId
from tests.gossip.harness import Net, Node
from tests.support import Author, add


@pytest.fixture
def author() -> Author:
    """Of a log with a few claims."""
    author = Author("//validator2")
    author.delegate()
    for index in range(6):
        author.add(add("//Alice", [f"gpu-{index}"]))
    return author


def holder(uri: str, events: Sequence[Event]) -> Node:
    node = Node(uri)
    node.holds(*events)
    return node


def damage(node: Node, seq: int) -> None:
    wire = node.ledger.facts.connection.execute("SELECT wire FROM events WHERE seq = ?", (seq,)).fetchone()[0]
    node.ledger.facts.connection.execute(
        "UPDATE events SET wire = ? WHERE seq = ?", (wire[:-1] + bytes([wire[-1] ^ 1]), seq)
    )


def wires(node: Node) -> list[bytes]:
    return [wire for (wire,) in node.ledger.facts.connection.execute("SELECT wire FROM events ORDER BY seq")]


def wants_of(node: Node, log: LogId, seq: int) -> int:
    return sum(isinstance(frame, Want) and (frame.log, frame.first_seq) == (log, seq) for frame in node.said)


class TestRepair:
    """Who finds its copy damaged asks others for theirs."""

    def test_a_newcomer_and_the_damaged_peer_both_get_all(self, author: Author) -> None:
        newcomer, hurt = Node("//validator0"), holder("//validator1", author.events)
        damage(hurt, 3)
        net = Net(newcomer, hurt, holder("//validator2", author.events))
        net.join(newcomer, hurt)
        net.run(5_000)
        assert newcomer.head(author.log) == 2, "what stands before the damaged one is served"
        assert not newcomer.closes
        net.join(hurt, net.nodes[2])
        net.run(60_000)
        assert wires(hurt) == [event.wire for event in author.events]
        net.run(60_000)
        assert newcomer.head(author.log) == author.events[-1].seq
        assert not any(node.closes for node in net.nodes)

    def test_each_is_asked_once_in_a_round_until_one_has_it(self, author: Author) -> None:
        hurt = holder("//validator0", author.events)
        short, full = holder("//validator1", author.events[:2]), holder("//validator2", author.events)
        damage(hurt, 3)
        net = Net(hurt, short, full)
        hurt.do(hurt.engine.damaged(author.log, 3, hurt.now_ms))
        net.run(5_000)
        assert wants_of(hurt, author.log, 3) == 0, "nobody is there"
        net.join(hurt, short)
        net.run(ROUND_MS)
        asked = wants_of(hurt, author.log, 3)
        assert 1 <= asked <= 2
        net.join(hurt, full)
        net.run(ROUND_MS + 1_000)
        assert wires(hurt) == [event.wire for event in author.events]
        before = wants_of(hurt, author.log, 3)
        net.run(2 * ROUND_MS)
        assert wants_of(hurt, author.log, 3) == before, "nobody is asked for what is whole"

    def test_so_many_at_once(self, author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
        assert REPAIRS_MAX > 2
        monkeypatch.setattr(repair, "REPAIRS_MAX", 2)
        hurt, full = holder("//validator0", author.events), holder("//validator1", author.events)
        for seq in (2, 3, 4):
            damage(hurt, seq)
            hurt.do(hurt.engine.damaged(author.log, seq, hurt.now_ms))
        net = Net(hurt, full)
        net.join(hurt, full)
        net.run(5_000)
        whole = [Event.is_whole(wire, event.id) for wire, event in zip(wires(hurt), author.events, strict=True)]
        assert whole == [True, True, True, True, False, True, True]
