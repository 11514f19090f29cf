"""Links between simulated peers: ordered, of finite speed, and as unreliable as TCP is.

TCP does not lose a frame and go on: what is lost takes its connection with it. So loss resets the session at both ends,
and a partition leaves it standing, silent, until each end gives up by itself.
"""

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.sim.clock import Clock
from tests.sim.trace import Trace

if TYPE_CHECKING:
    from tests.sim.peer import SimPeer

BYTES_PER_MS: Final = 2_000
"""Speed of a link, 16 Mbit/s: large frames delay what comes behind them."""

LATENCY_MS: Final = (2.0, 60.0)
SPIKE_MS: Final = (500.0, 3_000.0)
SPIKE_SHARE: Final = 0.01
LOSS_SHARE: Final = 0.01
"""Share of frames that take their connection with them."""

SILENCE_MS: Final = (2_000.0, 10_000.0)
"""How long an end waits before it gives up a session from which nothing comes."""

REDIAL_MS: Final = (500.0, 3_000.0)


class Connection:
    """One session: the two ends that still hold it open, and when each direction is free again."""

    def __init__(self, number: int, ends: "tuple[SimPeer, SimPeer]", latency_ms: float) -> None:
        self.number = number
        self.ends = ends
        self.latency_ms = latency_ms
        self.open = {end.index: True for end in ends}
        self.silent = False
        """Nothing gets through any more; the ends just don't know yet."""
        self.sent_ms = {end.index: 0.0 for end in ends}
        self.arrived_ms = {end.index: 0.0 for end in ends}

    def other(self, end: "SimPeer") -> "SimPeer":
        """The peer at the other end."""
        return self.ends[1] if end is self.ends[0] else self.ends[0]


class Network:
    """Every pair of peers keeps one session, redialled for ever."""

    def __init__(self, clock: Clock, rng: random.Random, trace: Trace, faults: frozenset[str]) -> None:
        self._clock = clock
        self._rng = rng
        self._trace = trace
        self._faults = faults
        self._numbers = itertools.count(1)
        self._connections: dict[int, Connection] = {}
        self._sides: dict[int, int] = {}
        self.healed = False
        self.frames = 0

    def part(self, sides: dict[int, int]) -> None:
        """Let only peers of one side (peer index -> side) talk to each other; an empty mapping heals."""
        self._sides = sides
        for connection in self._connections.values():
            if self._parted(*connection.ends):
                self._fall_silent(connection)

    def heal(self) -> None:
        """No faults from now on."""
        self.healed = True
        self.part({})

    def keep(self, one: "SimPeer", other: "SimPeer") -> None:
        """Dial until there is a session between two peers."""
        self._clock.after(self._rng.uniform(*REDIAL_MS), lambda: self._dial(one, other))

    def _dial(self, one: "SimPeer", other: "SimPeer") -> None:
        if not one.reachable or not other.reachable or self._parted(one, other):
            self.keep(one, other)
            return
        connection = Connection(next(self._numbers), (one, other), self._rng.uniform(*LATENCY_MS))
        self._connections[connection.number] = connection
        self._trace(one.name, "session", f"{connection.number} with {other.name}")
        other.opened(connection.number, one)
        self._deliver(connection, one, lambda: one.opened(connection.number, other))

    def send(self, sender: "SimPeer", number: int, frame: bytes) -> None:
        """Carry a frame to the other end."""
        connection = self._connections[number]
        leaves_ms = max(self._clock.now_ms, connection.sent_ms[sender.index]) + len(frame) / BYTES_PER_MS
        connection.sent_ms[sender.index] = leaves_ms
        self._clock.after(leaves_ms - self._clock.now_ms, lambda: self._left(connection, sender, frame))

    def _left(self, connection: Connection, sender: "SimPeer", frame: bytes) -> None:
        if not connection.open[sender.index] or connection.silent:
            return  # what waits in front of a silent link does not get out
        self.frames += 1
        sender.sent(connection.number, len(frame))
        if self._strikes("loss", LOSS_SHARE):
            self._reset(connection, "a frame was lost")
            return
        receiver = connection.other(sender)
        self._deliver(connection, receiver, lambda: receiver.received(connection.number, frame))

    def _deliver(self, connection: Connection, receiver: "SimPeer", callback: Callable[[], None]) -> None:
        delay_ms = connection.latency_ms * self._rng.uniform(0.8, 1.5)
        if self._strikes("delay", SPIKE_SHARE):
            delay_ms += self._rng.uniform(*SPIKE_MS)
        arrives_ms = max(self._clock.now_ms + delay_ms, connection.arrived_ms[receiver.index])
        connection.arrived_ms[receiver.index] = arrives_ms

        def arrive() -> None:
            if connection.open[receiver.index] and not connection.silent:
                callback()

        self._clock.after(arrives_ms - self._clock.now_ms, arrive)

    def _strikes(self, fault: str, share: float) -> bool:
        return fault in self._faults and not self.healed and self._rng.random() < share

    def _parted(self, one: "SimPeer", other: "SimPeer") -> bool:
        return self._sides.get(one.index) != self._sides.get(other.index)

    # -- ends --------------------------------------------------------------------------------------------------------

    def close(self, end: "SimPeer", number: int, reason: str) -> None:
        """One end ends the session; the other hears of it."""
        connection = self._connections.get(number)
        if connection is not None:
            self._trace(end.name, "closes", f"{number}: {reason}")
            self._reset(connection, reason)

    def crashed(self, peer: "SimPeer") -> None:
        """A peer is gone: the others find out when a reset arrives, or by its silence."""
        for connection in list(self._connections.values()):
            if peer in connection.ends:
                connection.open[peer.index] = False
                if self._rng.random() < 0.5:
                    self._fall_silent(connection)
                else:
                    self._reset(connection, "reset by peer")

    def _reset(self, connection: Connection, reason: str) -> None:
        connection.silent = True
        self._trace("net", "reset", f"{connection.number}: {reason}")
        for end in connection.ends:
            self._clock.after(connection.latency_ms, partial(self._end, connection, end))

    def _fall_silent(self, connection: Connection) -> None:
        if not connection.silent:
            connection.silent = True
            for end in connection.ends:
                wait_ms = self._rng.uniform(*SILENCE_MS)
                self._clock.after(wait_ms, partial(self._end, connection, end))

    def _end(self, connection: Connection, end: "SimPeer") -> None:
        if connection.open[end.index]:
            connection.open[end.index] = False
            end.closed(connection.number)
        if connection.number in self._connections and not any(connection.open.values()):
            del self._connections[connection.number]
            self.keep(*connection.ends)
