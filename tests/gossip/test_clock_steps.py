"""A wall clock that is set is known to be off at once, by what peers said before (rule 8).

Else a daemon whose clock went back would take its own events for ones that were written while it ran ahead, and close
its log below all of them.
"""

import pytest

from p2pnodes.gossip.frames import Digest, Events, Want, decode
from p2pnodes.gossip.timeline import SET_BACK_MS, STEP_MS_MAX
from tests.gossip.harness import Node, peer_of
from tests.support import VALIDATORS, Author

A, B, C = VALIDATORS
ZEROS = bytes(32)


def heard() -> Node:
    """A node that two peers with the same clock have told the time."""
    node = Node(A)
    for session, uri in enumerate((B, C), 1):
        node.open(session, peer_of(Author(uri)))
        node.hear(session, Digest(False, node.now_ms, ZEROS, ZEROS, ZEROS).encode())
    assert node.engine.clock_offset_ms() == 0
    return node


def test_a_clock_that_is_set_back_is_behind_its_peers_at_once() -> None:
    node = heard()
    node.tick(-139_000)
    assert node.engine.clock_offset_ms() == 139_000
    assert [row["offset_ms"] for row in node.engine.status()] == [139_000, 139_000]


def test_a_clock_that_is_set_ahead_is_ahead_of_its_peers_at_once() -> None:
    node = heard()
    node.tick(139_000)
    assert node.engine.clock_offset_ms() == STEP_MS_MAX - 139_000


def test_time_that_passes_changes_nothing() -> None:
    node = heard()
    for _ in range(200):
        node.tick()
    assert node.engine.clock_offset_ms() == 0


def test_what_was_ahead_of_a_wrong_clock_is_taken_as_soon_as_that_is_set() -> None:
    """Else a daemon whose clock was minutes behind for a moment would lack new events for minutes after it."""
    author = Author(B)
    first = author.delegate()
    node = heard()
    node.holds(first)
    node.tick(-400_000)
    late = [author.verdict(bytes([number] * 32)) for number in range(2)]
    node.hear(1, Events([late[0].wire]).encode())
    node.settle()
    assert node.head(author.log) == 0
    node.tick(400_000)
    node.hear(1, Events([late[1].wire]).encode())
    assert any(isinstance(frame, Want) and frame.first_seq == 1 for frame in node.said)


def asked(node: Node) -> set[int]:
    """Sessions whose peers are asked for a digest since this was called last."""
    found = {
        session
        for session, outgoing in node.outgoing.items()
        if any(isinstance(frame, Digest) and frame.asks for frame in map(decode, outgoing))
    }
    for outgoing in node.outgoing.values():
        outgoing.clear()
    return found


@pytest.mark.parametrize("step_ms", [-SET_BACK_MS - 1, -139_000, STEP_MS_MAX + 1])
def test_all_peers_are_asked_for_the_time_after_a_step_and_once(step_ms: int) -> None:
    node = heard()
    node.tick()
    asked(node)
    node.tick(step_ms)
    assert asked(node) == {1, 2}
    node.tick()
    assert not asked(node)


@pytest.mark.parametrize("step_ms", [0, -1, -SET_BACK_MS])
def test_nobody_is_asked_because_the_clock_is_kept_right(step_ms: int) -> None:
    node = heard()
    node.tick()
    asked(node)
    node.tick(step_ms)
    assert not asked(node)
