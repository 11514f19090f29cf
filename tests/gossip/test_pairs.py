"""Two daemons end up with one session, the same one at both ends, in whatever order their messages arrive."""

import random
from collections import deque
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.gossip.pairs import HELD_PER_HOTKEY_MAX, Pairs

LOW, HIGH = b"\1" * 32, b"\2" * 32
HOTKEY = b"h" * 32


def other(end: bytes) -> bytes:
    return HIGH if end == LOW else LOW


class Wire:
    """Two ends and the connections between them; every connection delivers in order, none waits for another."""

    STEPS: Final = ("hello", "answer", "proof", "welcome")

    def __init__(self) -> None:
        self.pairs = {LOW: Pairs(LOW), HIGH: Pairs(HIGH)}
        self.open: dict[bytes, set[int]] = {LOW: set(), HIGH: set()}
        self.dialler: dict[int, bytes] = {}
        self.marks: dict[int, int] = {}
        self.messages: dict[int, deque[tuple[bytes, str]]] = {}

    def dial(self, end: bytes) -> None:
        connection = len(self.dialler) + 1
        self.dialler[connection] = end
        self.messages[connection] = deque([(other(end), "hello")])

    def restart(self, end: bytes) -> None:
        """Lose everything at one end; the other hears nothing of it, as when a machine loses its power."""
        self.pairs[end], self.open[end] = Pairs(end), set()

    def _take(self, end: bytes, connection: int, *, dialled: bool) -> None:
        self.open[end].add(connection)
        for replaced in self.pairs[end].open(other(end), HOTKEY, connection, dialled=dialled):
            self.open[end].discard(replaced)
            self.messages.setdefault(replaced, deque()).append((other(end), "closed"))

    def deliver(self, connection: int) -> None:
        end, what = self.messages[connection].popleft()
        pairs, send = self.pairs[end], self.messages[connection].append
        match what:
            case "hello":
                self.marks[connection] = pairs.arrived()
                send((other(end), "answer"))
            case "answer":
                if pairs.prove(other(end)):
                    send((other(end), "proof"))
            case "proof" if pairs.yields(other(end), self.marks[connection]):
                send((other(end), "refused"))
            case "proof":
                self._take(end, connection, dialled=False)
                send((other(end), "welcome"))
            case "welcome":
                pairs.proved(other(end))
                self._take(end, connection, dialled=True)
            case "refused":
                pairs.proved(other(end))
            case "closed":
                if connection in self.open[end]:
                    self.open[end].discard(connection)
                    pairs.closed(other(end), connection)

    def settle(self, rng: random.Random) -> None:
        while under_way := [connection for connection, queue in self.messages.items() if queue]:
            self.deliver(rng.choice(under_way))

    def session(self) -> int:
        """The one session that both ends have."""
        assert self.open[LOW] == self.open[HIGH]
        (session,) = self.open[LOW]
        for end, pairs in self.pairs.items():
            assert other(end) in pairs
            assert not pairs.yields(other(end), 10**9)  # no dial is left waiting
        return session


class TestOneSession:
    """However the messages of two dials interleave."""

    @given(st.randoms(use_true_random=False), st.booleans())
    @settings(max_examples=300)
    def test_two_dials_at_once_leave_one_session(self, rng: random.Random, low_first: bool) -> None:
        wire = Wire()
        for end in (LOW, HIGH) if low_first else (HIGH, LOW):
            wire.dial(end)
        wire.settle(rng)
        wire.session()

    def test_of_two_dials_in_lockstep_that_of_the_lower_node_key_goes_on(self) -> None:
        wire = Wire()
        wire.dial(HIGH)
        wire.dial(LOW)
        while any(wire.messages.values()):
            for connection in (1, 2):
                if wire.messages[connection]:
                    wire.deliver(connection)
        assert wire.dialler[wire.session()] == LOW

    @pytest.mark.parametrize("end", [LOW, HIGH])
    def test_a_dial_gives_way_to_a_session_that_opened_meanwhile(self, end: bytes) -> None:
        wire = Wire()
        wire.dial(end)
        wire.deliver(1)
        wire.dial(other(end))
        for _ in range(4):
            wire.deliver(2)
        wire.settle(random.Random(0))
        assert wire.session() == 2

    @given(st.randoms(use_true_random=False), st.sampled_from([LOW, HIGH]), st.sampled_from([LOW, HIGH]))
    def test_a_daemon_that_started_again_replaces_its_dead_session(
        self, rng: random.Random, first: bytes, restarted: bytes
    ) -> None:
        wire = Wire()
        wire.dial(first)
        wire.settle(rng)
        wire.restart(restarted)
        wire.dial(restarted)
        wire.settle(rng)
        assert wire.session() == 2

    @given(st.randoms(use_true_random=False))
    def test_two_dials_of_one_end_leave_one_session(self, rng: random.Random) -> None:
        wire = Wire()
        wire.dial(LOW)  # by its hotkey
        wire.dial(LOW)  # by a bootstrap address
        wire.settle(rng)
        wire.session()


class TestBounds:
    """One hotkey cannot take every place."""

    def test_a_hotkey_with_many_node_keys_loses_its_oldest_session(self) -> None:
        pairs = Pairs(LOW)
        pairs.open(b"other", b"another hotkey", 99, dialled=False)
        keys = [bytes([n]) * 32 for n in range(10, 11 + HELD_PER_HOTKEY_MAX)]
        replaced = [pairs.open(key, HOTKEY, n, dialled=False) for n, key in enumerate(keys)]
        assert replaced == [[]] * HELD_PER_HOTKEY_MAX + [[0]]
        assert keys[0] not in pairs
        assert b"other" in pairs

    def test_a_replaced_session_that_ends_late_does_not_end_the_new_one(self) -> None:
        pairs = Pairs(LOW)
        pairs.open(HIGH, HOTKEY, 1, dialled=True)
        assert pairs.open(HIGH, HOTKEY, 2, dialled=False) == [1]
        pairs.closed(HIGH, 1)
        assert HIGH in pairs
        pairs.closed(HIGH, 2)
        assert HIGH not in pairs
