"""Textbook ways to spread news, on the same map and with the same events: what the daemons' gossip is measured against.

All of them are given more than they would have: everybody knows everybody and reaches them without a handshake, nothing
is lost, ids are as short as ours, and who checks whether others are alive costs nothing. Each peer stores an event
before it passes it on, in the same time as a daemon.
"""

import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import ceil, log10
from typing import Final

from p2pnodes.gossip import frames
from p2pnodes.gossip.frames import BATCH_BYTES, EVENTS_PER_FRAME_MAX, Events
from p2pnodes.model import codec
from p2pnodes.model.events import Event, LogId
from tests.sim.clock import Clock
from tests.sim.light import COMMIT_MS, KINDS, Tally, Watcher
from tests.sim.network import FRAME_OVERHEAD_BYTES

ID_BYTES: Final = 16
IDS_MAX: Final = 65_536

EVENTS_KIND: Final = KINDS.index("events")

GOSSIP_NODES: Final = 4
GOSSIP_MS: Final = 500
SYNC_MS: Final = 60_000
RETRANSMIT_MULT: Final = 4
"""The WAN profile of HashiCorp's memberlist: how many a peer tells in each round, how long a round is, how often it
compares all with somebody, and the factor of the transmissions, RETRANSMIT_MULT * ceil(log10(peers + 1)) of each
message by each peer. Source: github.com/hashicorp/memberlist, config.go (DefaultWANConfig, DefaultLANConfig), util.go
(retransmitLimit). Its packets of 1,400 bytes are not kept to: most registrations would not fit, and all would wait. Nor
is its scaling of SYNC_MS with the number of peers."""

DEGREE: Final = 6
DEGREE_LOW: Final = 4
DEGREE_HIGH: Final = 12
DEGREE_LAZY: Final = 6
HEARTBEAT_MS: Final = 1_000
HISTORY: Final = 5
GOSSIPED: Final = 3
"""Parameters of gossipsub: links of a peer's mesh, wanted, at least and at most, peers outside of it that are told ids
at each heartbeat, and heartbeats for which messages are kept and told of. Source: github.com/libp2p/specs,
pubsub/gossipsub/gossipsub-v1.0.md, "Parameters"."""


class Courier:
    """Carries frames between any two peers, in the time that the map says."""

    def __init__(self, clock: Clock, delay_ms: Callable[[int, int, int], float]) -> None:
        """Begin with nobody there.

        Args:
            clock: Virtual time.
            delay_ms: From a peer to another one, for a frame of so many bytes.
        """
        self.clock = clock
        self.tally = Tally()
        self.peers: Sequence[Textbook] = ()
        self._delay_ms = delay_ms
        self._outgoing: list[tuple[int, int, bytes]] = []

    def send(self, sender: int, receiver: int, kind: str, frame: bytes, events: int = 0) -> None:
        """Carry a frame that holds so many events."""
        self.tally.count(kind, len(frame) + FRAME_OVERHEAD_BYTES, events)
        self._outgoing.append((sender, receiver, frame))

    def run(self, callback: Callable[[], None]) -> None:
        """Let a peer do something, and count the time that it takes; then carry what it sent."""
        self.tally.timed(callback)
        outgoing, self._outgoing = self._outgoing, []
        for sender, receiver, frame in outgoing:
            arrive = partial(self.peers[receiver].received, sender, frame)
            self.clock.after(self._delay_ms(sender, receiver, len(frame)), partial(self.run, arrive))


class Textbook:
    """One peer: it stores what is new, then does with it what its kind does (``_stored``)."""

    def __init__(self, index: int, courier: Courier, watcher: Watcher, rng: random.Random) -> None:
        """Make a peer with nothing."""
        self.index = index
        self.courier = courier
        self.rng = rng
        self._watcher = watcher
        self._ids: set[bytes] = set()
        self._waiting: list[tuple[bytes, Event, int]] = []

    def publish(self, event: Event) -> None:
        """Write an own event."""
        self._ids.add(_id(event.wire))
        self._later(self.rng.uniform(*COMMIT_MS), lambda: self._published(event))

    def _published(self, event: Event) -> None:
        self._watcher.wrote(self.index, event)
        self._stored(_id(event.wire), event, self.index)

    def received(self, sender: int, frame: bytes) -> None:
        """Take a frame."""
        decoded = frames.decode(frame)
        assert isinstance(decoded, Events)
        self._take(sender, decoded.wires)

    def _take(self, sender: int, wires: Sequence[bytes]) -> None:
        for wire in wires:
            key = _id(wire)
            if key in self._ids:
                continue
            self._ids.add(key)
            if not self._waiting:
                self._later(self.rng.uniform(*COMMIT_MS), self._commit)
            self._waiting.append((key, Event.decode(wire), sender))

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        for key, event, sender in waiting:
            self._watcher.stored(self.index, event)
            self._stored(key, event, sender)

    def _stored(self, key: bytes, event: Event, sender: int) -> None:
        """Do something with a new event that ``sender`` brought."""
        raise NotImplementedError

    def _send(self, receiver: int, events: Sequence[Event]) -> None:
        for packed in _packed(events):
            frame = Events([event.wire for event in packed]).encode()
            self.courier.send(self.index, receiver, "events", frame, len(packed))

    def _later(self, ms: float, callback: Callable[[], None]) -> None:
        self.courier.clock.after(ms, partial(self.courier.run, callback))

    def _every(self, ms: float, callback: Callable[[], None]) -> None:
        def turn() -> None:
            callback()
            self._later(ms, turn)

        self._later(ms * self.rng.random(), turn)

    def _some(self, count: int, without: Collection[int] = ()) -> list[int]:
        """Peers drawn among all others but some."""
        others = len(self.courier.peers) - 1 - len(without)
        found: set[int] = set()
        while len(found) < min(count, others):
            drawn = self.rng.randrange(len(self.courier.peers))
            if drawn != self.index and drawn not in without:
                found.add(drawn)
        return sorted(found)


class Flood(Textbook):
    """Sends every new event to all its neighbours but the one that brought it."""

    neighbours: Sequence[int] = ()

    def _stored(self, key: bytes, event: Event, sender: int) -> None:
        for neighbour in self.neighbours:
            if neighbour != sender:
                self._send(neighbour, [event])


class Memberlist(Textbook):
    """Tells a few drawn peers in each round what it has not told often enough, and now and then compares all."""

    def __init__(self, index: int, courier: Courier, watcher: Watcher, rng: random.Random) -> None:
        """Make a peer with nothing."""
        super().__init__(index, courier, watcher, rng)
        self._queue: dict[bytes, tuple[Event, int]] = {}
        self._held: dict[LogId, dict[int, Event]] = {}
        self._every(GOSSIP_MS, self._round)
        self._every(SYNC_MS, self._sync)

    def _stored(self, key: bytes, event: Event, sender: int) -> None:
        self._queue[key] = event, 0
        self._held.setdefault(event.log, {})[event.seq] = event

    def _round(self) -> None:
        limit = RETRANSMIT_MULT * ceil(log10(len(self.courier.peers) + 1))
        for receiver in self._some(GOSSIP_NODES):
            if not self._queue:
                return
            self._send(receiver, [event for event, _ in self._queue.values()])
            told = {key: (event, times + 1) for key, (event, times) in self._queue.items()}
            self._queue = {key: (event, times) for key, (event, times) in told.items() if times < limit}

    def _sync(self) -> None:
        """Both ends tell what they hold, and each sends what the other one lacks."""
        for receiver in self._some(1):
            other = self.courier.peers[receiver]
            assert isinstance(other, Memberlist)
            for one, two in ((self, other), (other, self)):
                self.courier.send(one.index, two.index, "vector", one.vector())
                one.bring(two)

    def bring(self, other: "Memberlist") -> None:
        """Send another one what it lacks, as its vector would say."""
        lacking = (
            event
            for log, held in self._held.items()
            for seq, event in held.items()
            if seq not in other._held.get(log, ())
        )
        self._send(other.index, list(lacking))

    def received(self, sender: int, frame: bytes) -> None:
        """Take a frame; what follows from a vector has been seen to (``_sync``)."""
        if frame[1] == EVENTS_KIND:
            super().received(sender, frame)

    def vector(self) -> bytes:
        """What it holds: the last event of each log."""
        last = {log: held[max(held)] for log, held in sorted(self._held.items())}
        return codec.pack(["vector", [[*log, event.seq, event.id] for log, event in last.items()]])


class Gossipsub(Textbook):
    """Sends new events over the links of a mesh of bounded degree, and tells others their ids at each heartbeat."""

    def __init__(self, index: int, courier: Courier, watcher: Watcher, rng: random.Random) -> None:
        """Make a peer without links."""
        super().__init__(index, courier, watcher, rng)
        self.mesh: set[int] = set()
        self._windows: list[dict[bytes, Event]] = [{}]
        self._every(HEARTBEAT_MS, self._heartbeat)

    def received(self, sender: int, frame: bytes) -> None:
        """Take a frame."""
        if frame[1] == EVENTS_KIND:
            super().received(sender, frame)
            return
        kind, keys = codec.array(codec.unpack(frame), 2, 2, "frame")
        content = [codec.binary(key, "id", ID_BYTES) for key in codec.array(keys, 0, IDS_MAX, "ids")]
        match kind:
            case "graft":
                self.mesh.add(sender)
            case "prune":
                self.mesh.discard(sender)
            case "ihave":
                if lacking := [key for key in content if key not in self._ids]:
                    self.courier.send(self.index, sender, "iwant", codec.pack(["iwant", lacking]))
            case "iwant":
                kept = {key: event for window in self._windows for key, event in window.items()}
                self._send(sender, [kept[key] for key in content if key in kept])
            case _:
                raise AssertionError(kind)

    def _stored(self, key: bytes, event: Event, sender: int) -> None:
        self._windows[0][key] = event
        for neighbour in sorted(self.mesh):
            if neighbour != sender:
                self._send(neighbour, [event])

    def _heartbeat(self) -> None:
        if len(self.mesh) < DEGREE_LOW:
            for drawn in self._some(DEGREE - len(self.mesh), self.mesh):
                self.mesh.add(drawn)
                self.courier.send(self.index, drawn, "graft", codec.pack(["graft", []]))
        elif len(self.mesh) > DEGREE_HIGH:
            for dropped in self.rng.sample(sorted(self.mesh), len(self.mesh) - DEGREE):
                self.mesh.discard(dropped)
                self.courier.send(self.index, dropped, "prune", codec.pack(["prune", []]))
        if told := [key for window in self._windows[:GOSSIPED] for key in window]:
            for drawn in self._some(DEGREE_LAZY, self.mesh):
                self.courier.send(self.index, drawn, "ihave", codec.pack(["ihave", told]))
        self._windows = [{}, *self._windows[: HISTORY - 1]]


def _id(wire: bytes) -> bytes:
    return codec.digest(wire, ID_BYTES)


def _packed(events: Sequence[Event]) -> list[list[Event]]:
    """Events in as few frames as their bounds allow."""
    packed: list[list[Event]] = []
    size = 0
    for event in events:
        if not packed or size + len(event.wire) > BATCH_BYTES or len(packed[-1]) == EVENTS_PER_FRAME_MAX:
            packed.append([])
            size = 0
        packed[-1].append(event)
        size += len(event.wire)
    return packed
