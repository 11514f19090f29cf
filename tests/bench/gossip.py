"""How gossip scales: ``python -m tests.bench gossip``, in simulated time on a map of the world.

The daemons' own engines (``tests.sim.light``) spread events among 8 to 1,024 peers; beside them textbook protocols
spread the same events on the same map (``tests.bench.baselines``). Two bounds cannot be beaten: the shortest path in
the map from an author to each peer, which bounds latency, and one copy of each event for each peer, which bounds bytes.

``--load`` spreads many events a second where all that a peer sends shares a line that is not wide. ``--faults`` lets
segments be lost and peers crash, ``--heal`` parts the network for half an hour. Exit 1 when a bound that is wanted is
not kept.
"""

import argparse
import gc
import json
import math
import random
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, NamedTuple

from p2pnodes.gossip.engine import Member
from p2pnodes.gossip.frames import BATCH_BYTES
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import AddPayload, Event, LogId, Payload, Verdict
from p2pnodes.model.requests import request_id, sign_add
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result, State
from tests.bench.baselines import Courier, Flood, Gossipsub, Memberlist, Textbook
from tests.bench.measure import progress, share
from tests.bench.world import uuids
from tests.sim import atlas
from tests.sim.check import check
from tests.sim.clock import START_MS, Clock
from tests.sim.light import Archive, Identity, LightPeer, Surroundings, Tally
from tests.sim.network import BYTES_PER_MS, FRAME_OVERHEAD_BYTES, JITTER_SHARE, Network, Rule
from tests.sim.trace import Trace
from tests.sim.world import EPOCH_MS, START_WITHIN_MS, World
from tests.support import BLOCK, MINERS, NETWORK, body, hotkey

SIZES: Final = (8, 64, 256, 1_024)

GPUS_PER_ADD: Final = 8
VERDICTS_PER_ADD: Final = 4
"""Mean number of verdicts to each registration."""

POOL: Final = 32
"""Registrations that are signed beforehand; the events that carry them are new each time."""

EVENTS_PER_S: Final = 2.0
"""Mean rate of events in the whole network; their times are drawn, as those of independent authors."""

JOIN_S: Final = 30
"""For all to find each other, before the first event."""

WARM_EVENTS: Final = 60
"""Events that shape the trees before the measured ones; reported apart."""

EVENTS: Final = 100
"""Measured events."""

DRAIN_S: Final = 30
"""After the last event: what has not come then counts as lost."""

QUIET_S: Final = 60
IDLE_S: Final = 240
"""Pause before, and length of the time in which idle traffic is counted."""

LATENCY_TIMES: Final = 3.0
BYTES_TIMES: Final = 1.3
IDLE_BYTES: Final = 2_000
"""What is wanted: p99 of latency in multiples of the longest shortest path, bytes in multiples of the least, and bytes
that a peer sends in a minute in which nothing happens."""


class Load(NamedTuple):
    """How much there is to spread, over which lines.

    Attributes:
        rate: Events a second in the whole network, on the mean.
        warm: Number and rate of events before the measured ones, besides those that all trees begin with.
        uplink_bytes_per_ms: Speed of the line that all shares that a peer sends.
    """

    rate: float = EVENTS_PER_S
    warm: tuple[int, float] = (0, EVENTS_PER_S)
    uplink_bytes_per_ms: float = math.inf


CALM: Final = Load()

LOADED: Final = Load(250.0, (1_500, 25.0), 1_250.0)
"""``--load``: lines of 10 Mbit/s. Trees take time, not events: more of them before would be no better."""

LOADED_PEERS: Final = 64
LOADED_EVENTS: Final = 3_000


class Written(NamedTuple):
    """An event that is to be written: when, by whom, and what it says."""

    at_ms: float
    author: int
    payload: Payload


@cache
def _pool() -> tuple[tuple[AddPayload, bytes], ...]:
    """Registrations with their claim ids."""
    now_s = START_MS // 1000
    adds = [sign_add(hotkey("//Alice"), now_s + number, body(uuids(number, GPUS_PER_ADD))) for number in range(POOL)]
    return tuple((AddPayload(add, 100), request_id(NETWORK.id, add)) for add in adds)


def schedule(rng: random.Random, peers: int, count: int, rate: float) -> list[Written]:
    """Events of drawn authors at drawn times: registrations, and verdicts on some of them."""
    found = []
    at_ms = 0.0
    for _ in range(count):
        at_ms += rng.expovariate(rate) * 1000
        add, claim_id = rng.choice(_pool())
        payload: Payload = add
        if rng.randrange(VERDICTS_PER_ADD + 1):
            payload = Verdict(claim_id, "verified", "graval", "", (START_MS + int(at_ms)) << 16)
        found.append(Written(at_ms, rng.randrange(peers), payload))
    return found


class Flight:
    """One event on its way: when it was durable at its author, and how long it took to each peer, ms."""

    def __init__(self, author: int, at_ms: float, size: int, peers: int) -> None:
        """Begin when the author acknowledges it."""
        self.author = author
        self.at_ms = at_ms
        self.size = size
        self.took_ms = array("d", [math.nan]) * peers


class Board:
    """Notes when events were written and stored."""

    def __init__(self, clock: Clock, peers: int) -> None:
        """Begin empty."""
        self.flights: dict[tuple[LogId, int], Flight] = {}
        self._clock = clock
        self._peers = peers

    def wrote(self, author: int, event: Event) -> None:
        """An author's event is durable."""
        self.flights[event.log, event.seq] = Flight(author, self._clock.now_ms, len(event.wire), self._peers)

    def stored(self, peer: int, event: Event) -> None:
        """A peer has stored it; what was written before this board began is passed over."""
        flight = self.flights.get((event.log, event.seq))
        if flight is not None and math.isnan(flight.took_ms[peer]):
            flight.took_ms[peer] = self._clock.now_ms - flight.at_ms

    def clear(self) -> None:
        """Forget what was written so far."""
        self.flights.clear()


class Outcome(NamedTuple):
    """How one protocol did.

    Attributes:
        name: The protocol.
        peers: How many took part.
        seed: From which the run follows.
        events: Measured ones.
        p50_ms: Of the time from an event's acknowledgement until another peer has stored it. So the next two.
        p99_ms: See above.
        max_ms: See above.
        bound_p50_ms: Of the shortest paths from the authors to each other peer. So the next one.
        bound_max_ms: See above.
        lost: Deliveries that did not happen.
        bytes: On the wire, of all peers, while the events spread.
        least_bytes: One copy of each event for each other peer.
        duplicates: Copies of events beyond one for each other peer, as a share of these.
        kinds: Of ``bytes``, by kind of frame.
        cpu_us: Processor time in the protocol's code for each event at each peer, microseconds.
    """

    name: str
    peers: int
    seed: int
    events: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    bound_p50_ms: float
    bound_max_ms: float
    lost: int
    bytes: int
    least_bytes: int
    duplicates: float
    kinds: Mapping[str, int]
    cpu_us: float

    @property
    def latency_times(self) -> float:
        """p99 in multiples of the longest shortest path."""
        return self.p99_ms / self.bound_max_ms

    @property
    def bytes_times(self) -> float:
        """Bytes in multiples of the least."""
        return self.bytes / self.least_bytes


def outcome(name: str, regions: Sequence[int], seed: int, board: Board, tally: Tally) -> Outcome:
    """Sum up a run."""
    took: list[float] = []
    bounds: list[float] = []
    lost = 0
    for flight in board.flights.values():
        for peer, took_ms in enumerate(flight.took_ms):
            if peer == flight.author:
                continue
            bounds.append(atlas.shortest(regions[flight.author], regions[peer]))
            if math.isnan(took_ms):
                lost += 1
            else:
                took.append(took_ms)
    others = len(regions) - 1
    copies = len(board.flights) * others
    return Outcome(
        name,
        len(regions),
        seed,
        len(board.flights),
        share(took, 0.5),
        share(took, 0.99),
        max(took),
        share(bounds, 0.5),
        max(bounds),
        lost,
        tally.bytes.total(),
        sum(flight.size for flight in board.flights.values()) * others,
        tally.events / copies - 1,
        {kind: size for kind, size in tally.bytes.most_common() if size},
        tally.cpu_s * 1e6 / (len(board.flights) * len(regions)),
    )


# -- the daemons' gossip -----------------------------------------------------------------------------------------------


@cache
def _identities(peers: int) -> tuple[Identity, ...]:
    return tuple(Identity.of(index) for index in range(peers))


class Swarm:
    """A network of light peers in one region each."""

    def __init__(self, peers: int, seed: int, uplink_bytes_per_ms: float = math.inf) -> None:
        """Start all of them at once; what a peer sends shares a line of the given speed."""
        self.seed = seed
        self.rng = random.Random(f"swarm {peers} {seed}")
        self.clock = Clock()
        self.regions = atlas.draw(peers, self.rng)
        self.network: Network[LightPeer] = Network(self.clock, f"swarm {seed}", Trace(self.clock), self._latency_ms)
        self.board = Board(self.clock, peers)
        self.tally = Tally()
        self.network.watch = self.tally.watch
        self.network.limit_uplinks(uplink_bytes_per_ms)
        identities = _identities(peers)
        around = Surroundings(self.clock, self.network, Archive(identities), self.tally, self.board)
        self.peers = [
            LightPeer(around, index, identity, random.Random(self.rng.getrandbits(64)))
            for index, identity in enumerate(identities)
        ]
        self.members = {
            identity.hotkey.public_key: Member(identity.node_key.public_key, dialable=True) for identity in identities
        }
        others = {peer.identity.hotkey.public_key: peer for peer in self.peers}
        for peer in self.peers:
            peer.others = others
            peer.start(self.members)

    def _latency_ms(self, one: int, other: int) -> float:
        return atlas.one_way_ms(self.regions[one], self.regions[other])

    def write(self, events: Sequence[Written]) -> None:
        """Let events be written from now on; time passes until the last of them."""
        self.plan(events)
        self.clock.run_for(events[-1].at_ms)

    def plan(self, events: Sequence[Written]) -> None:
        """Have events written from now on, by authors that are up then."""
        for event in events:
            self.clock.after(event.at_ms, partial(self._write, event))

    def _write(self, event: Written) -> None:
        if self.peers[event.author].up:
            self.peers[event.author].write(event.payload)

    def draw(self, count: int, rate: float = EVENTS_PER_S) -> list[Written]:
        """So many events, from now on."""
        return schedule(self.rng, len(self.peers), count, rate)

    def counted(self) -> Tally:
        """What was sent so far, with heartbeats."""
        self.network.count_heartbeats()
        counted = self.tally.copy()
        beats = sum(self.network.traffic(peer.index).heartbeats for peer in self.peers)
        counted.frames["heartbeat"], counted.bytes["heartbeat"] = beats, beats * FRAME_OVERHEAD_BYTES
        return counted

    def grafts(self) -> int:
        """Links that peers have made eager so far because something was missing."""
        return sum(peer.engine._push.grafts for peer in self.peers)

    def links(self) -> list[tuple[int, int, bool]]:
        """The links, each once: two peers, and whether events are pushed on it."""
        found = set()
        for peer in self.peers:
            for session in peer.engine._sessions.values():
                if session.linked and peer.index < (other := peer.sessions[session.id].index):
                    found.add((peer.index, other, session.eager))
        return sorted(found)


class Measured(NamedTuple):
    """What a run of the daemons' gossip came to.

    Attributes:
        spread: While events spread, once trees have formed.
        warm: While they formed.
        idle: Bytes that a peer sends in a minute without events, by kind of frame.
        idle_cpu_us: Processor time of a peer in a second without events, microseconds.
        eager: Links on which events are pushed.
        links: All links.
        overlay: The links' ends.
    """

    spread: Outcome
    warm: Outcome
    idle: Mapping[str, float]
    idle_cpu_us: float
    eager: int
    links: int
    overlay: Sequence[tuple[int, int]]

    @property
    def idle_bytes(self) -> float:
        """Bytes that a peer sends in a minute without events."""
        return sum(self.idle.values())


def measure(peers: int, seed: int, written: Sequence[Written], load: Load = CALM) -> Measured:
    """Let peers find each other, form trees, spread the given events, and be idle."""
    swarm = Swarm(peers, seed, load.uplink_bytes_per_ms)
    regions, board, clock = swarm.regions, swarm.board, swarm.clock
    clock.run_for(JOIN_S * 1000)
    before = swarm.counted()
    _run(f"{peers} peers: trees form", swarm.write, swarm.draw(WARM_EVENTS))
    clock.run_for(DRAIN_S * 1000)
    warm = outcome("p2pnodes, trees forming", regions, seed, board, swarm.counted().since(before))
    if load.warm[0]:
        _run(f"{peers} peers: trees become short", swarm.write, swarm.draw(*load.warm))
    board.clear()
    before = swarm.counted()
    _run(f"{peers} peers: events spread", swarm.write, written)
    clock.run_for(DRAIN_S * 1000)
    spread = outcome("p2pnodes", regions, seed, board, swarm.counted().since(before))
    links = swarm.links()
    clock.run_for(QUIET_S * 1000)
    before = swarm.counted()
    clock.run_for(IDLE_S * 1000)
    idle = swarm.counted().since(before)
    return Measured(
        spread,
        warm,
        {kind: size / peers / (IDLE_S / 60) for kind, size in idle.bytes.most_common() if size},
        idle.cpu_s * 1e6 / peers / IDLE_S,
        sum(eager for *_, eager in links),
        len(links),
        [(one, other) for one, other, _ in links],
    )


def _run(what: str, call: Callable[[Sequence[Written]], None], written: Sequence[Written]) -> None:
    progress(what)
    call(written)


# -- textbook protocols ------------------------------------------------------------------------------------------------

LEAD_S: Final = 20
"""For meshes to form before the first event."""


def baseline(
    kind: type[Textbook],
    regions: Sequence[int],
    seed: int,
    written: Sequence[Written],
    overlay: Sequence[tuple[int, int]],
    *,
    uplink_bytes_per_ms: float = math.inf,
) -> Outcome:
    """Spread the same events with a textbook protocol.

    Args:
        kind: The protocol.
        regions: Of each peer.
        seed: From which the run follows.
        written: The events.
        overlay: The links that a flood uses.
        uplink_bytes_per_ms: Speed of the line that all share that a peer sends.
    """
    peers = len(regions)
    rng = random.Random(f"baseline {kind.__name__} {seed}")
    clock = Clock()
    free_ms = [0.0] * peers
    """When each peer's line is free again."""

    def delay_ms(one: int, other: int, size: int) -> float:
        way_ms = atlas.one_way_ms(regions[one], regions[other]) * (1 + JITTER_SHARE * rng.random())
        begins_ms = max(free_ms[one], clock.now_ms)
        free_ms[one] = begins_ms + size / uplink_bytes_per_ms
        return begins_ms - clock.now_ms + way_ms + size / min(BYTES_PER_MS, uplink_bytes_per_ms)

    courier = Courier(clock, delay_ms)
    board = Board(clock, peers)
    courier.peers = [kind(index, courier, board, random.Random(rng.getrandbits(64))) for index in range(peers)]
    for one, other in overlay if kind is Flood else ():
        for here, there in ((one, other), (other, one)):
            end = courier.peers[here]
            assert isinstance(end, Flood)
            end.neighbours = [*end.neighbours, there]
    archive = Archive(_identities(peers))
    logs = list(archive.identities)
    clock.run_for(LEAD_S * 1000)
    before = courier.tally.copy()

    def publish(event: Written) -> None:
        courier.peers[event.author].publish(archive.write(logs[event.author], event.payload, int(clock.now_ms)))

    for event in written:
        clock.after(event.at_ms, partial(publish, event))
    progress(f"{peers} peers: {kind.__name__.lower()}")
    clock.run_for(written[-1].at_ms + DRAIN_S * 1000)
    return outcome(kind.__name__.lower(), regions, seed, board, courier.tally.since(before))


def compare(peers: int, seed: int, events: int, load: Load = CALM) -> tuple[Measured, list[Outcome]]:
    """The daemons' gossip and the textbooks', with the same events on the same map."""
    written = schedule(random.Random(f"events {peers} {seed}"), peers, events, load.rate)
    ours = measure(peers, seed, written, load)
    regions = atlas.draw(peers, random.Random(f"swarm {peers} {seed}"))
    gc.collect()
    return ours, [
        baseline(kind, regions, seed, written, ours.overlay, uplink_bytes_per_ms=load.uplink_bytes_per_ms)
        for kind in (Flood, Gossipsub, Memberlist)
    ]


# -- faults ------------------------------------------------------------------------------------------------------------

LOSS_SHARE: Final = 0.02
"""Of segments that are lost on their way; TCP sends them again after a pause."""

CRASHES_PER_MIN: Final = 0.01
"""Of the peers."""

DOWN_S: Final = (5.0, 60.0)
"""How long a crashed peer stays down."""

FAULTS_MIN: Final = 3
"""For how long things go wrong."""

ARRIVES_S_MAX: Final = 10.0
"""Within this time an event reaches every peer that is up, and a peer that starts again has what it missed."""


class Down(NamedTuple):
    """When a peer crashed, and when it was there again, virtual ms."""

    from_ms: float
    until_ms: float


class Hardship:
    """Loses segments and crashes peers, and remembers who was down when."""

    def __init__(self, swarm: Swarm) -> None:
        """Begin now."""
        self.downs: dict[int, list[Down]] = {peer.index: [] for peer in swarm.peers}
        self._swarm = swarm
        self._rng = random.Random(f"hardship {swarm.seed}")
        swarm.network.impose(Rule("loss", LOSS_SHARE, random.Random(f"loss {swarm.seed}")))
        self._next()

    def _next(self) -> None:
        rate_ms = CRASHES_PER_MIN * len(self._swarm.peers) / 60_000
        self._swarm.clock.after(self._rng.expovariate(rate_ms), self._crash)

    def _crash(self) -> None:
        swarm, now_ms = self._swarm, self._swarm.clock.now_ms
        peer = self._rng.choice([peer for peer in swarm.peers if peer.up])
        down_ms = self._rng.uniform(*DOWN_S) * 1000
        self.downs[peer.index].append(Down(now_ms, now_ms + down_ms))
        peer.crash()
        swarm.clock.after(down_ms, lambda: peer.start(swarm.members))
        self._next()

    def why(self, flight: Flight, peer: int) -> str:
        """What explains that a delivery took its time; empty when nothing does.

        A peer has what it missed ARRIVES_S_MAX after its start, and what an author had no time to send leaves it then.
        """
        arrived_ms = flight.at_ms + _took_ms(flight, peer)
        for whose, index in (("the peer", peer), ("the author", flight.author)):
            for down in self.downs[index]:
                meets = down.from_ms <= arrived_ms and flight.at_ms <= down.until_ms
                if meets and arrived_ms <= max(flight.at_ms, down.until_ms) + ARRIVES_S_MAX * 1000:
                    return f"{whose} was down"
        return ""


def _took_ms(flight: Flight, peer: int) -> float:
    took_ms = flight.took_ms[peer]
    return math.inf if math.isnan(took_ms) else took_ms


class Endured(NamedTuple):
    """What a run with faults came to.

    Attributes:
        spread: All deliveries.
        crashes: Peers that crashed.
        stragglers: Deliveries that took too long, by what explains them.
        slowest_ms: The slowest delivery of an author that was up to a peer that was up.
        closings: Why engines ended sessions.
    """

    spread: Outcome
    crashes: int
    stragglers: Mapping[str, int]
    slowest_ms: float
    closings: Mapping[str, int]


def endure(peers: int, seed: int) -> Endured:
    """Spread events while segments are lost and peers crash."""
    swarm = Swarm(peers, seed)
    swarm.clock.run_for(JOIN_S * 1000)
    progress(f"{peers} peers: trees form")
    swarm.write(swarm.draw(WARM_EVENTS))
    swarm.board.clear()
    before = swarm.counted()
    hardship = Hardship(swarm)
    progress(f"{peers} peers: segments are lost and peers crash for {FAULTS_MIN} minutes")
    swarm.write(swarm.draw(round(FAULTS_MIN * 60 * EVENTS_PER_S)))
    swarm.clock.run_for((DOWN_S[1] + ARRIVES_S_MAX) * 1000)
    tally = swarm.counted().since(before)
    stragglers: Counter[str] = Counter()
    slowest_ms = 0.0
    for flight in swarm.board.flights.values():
        for peer in range(peers):
            if peer == flight.author:
                continue
            took_ms, why = _took_ms(flight, peer), hardship.why(flight, peer)
            if took_ms > ARRIVES_S_MAX * 1000:
                stragglers[why] += 1
            if not why:
                slowest_ms = max(slowest_ms, took_ms)
    closings: Counter[str] = Counter()
    for end in swarm.peers:
        closings.update(end.closings)
    return Endured(
        outcome("p2pnodes", swarm.regions, seed, swarm.board, tally),
        sum(map(len, hardship.downs.values())),
        stragglers,
        slowest_ms,
        closings,
    )


# -- a network that was parted -----------------------------------------------------------------------------------------

HEALED_PEERS: Final = 64
PARTED_S: Final = 1_800
PARTED_EVENTS: Final = 10_000
"""In each half."""

HEALS_S_MAX: Final = 60.0
LOOK_MS: Final = 100


class Healed(NamedTuple):
    """What a run with a parted network came to.

    Attributes:
        peers: Of both halves.
        parted_s: How long nothing passed between them.
        events: What both halves wrote in that time.
        healed_s: From the end of the partition until everybody held all of that.
        equal: Whether all version vectors are equal after the last event.
        rows: Of the inventory that follows from these logs.
        rooted: Whether two ledgers that took them, each one another half's first, have the same root.
        live: Events that were written while the halves grew together.
        bytes: On the wire, of all peers, in that time, without the live events' minimum.
        missed_bytes: What each half had to learn, once for each of its peers.
        closings: Why engines ended sessions.
    """

    peers: int
    parted_s: float
    events: int
    healed_s: float
    equal: bool
    rows: int
    rooted: bool
    live: Outcome
    bytes: int
    missed_bytes: int
    closings: Mapping[str, int]


def heal(peers: int, seed: int, events: int, parted_s: float) -> Healed:
    """Part a network in two halves that both go on, and join them again while events go on."""
    swarm = Swarm(peers, seed)
    clock, board = swarm.clock, swarm.board
    clock.run_for(JOIN_S * 1000)
    swarm.write(swarm.draw(WARM_EVENTS))
    clock.run_for(DRAIN_S * 1000)
    board.clear()
    order = list(range(peers))
    swarm.rng.shuffle(order)
    halves = order[: peers // 2], order[peers // 2 :]
    swarm.network.part({index: side for side, half in enumerate(halves) for index in half})
    written: list[Written] = []
    for half in halves:
        drawn = schedule(swarm.rng, len(half), events, events / parted_s)
        squeezed = parted_s * 1000 / max(drawn[-1].at_ms, parted_s * 1000)
        written += [event._replace(at_ms=event.at_ms * squeezed, author=half[event.author]) for event in drawn]
    progress(f"{peers} peers: parted for {parted_s:g} s")
    swarm.write(sorted(written, key=lambda event: event.at_ms))
    clock.run_for(max(0.0, parted_s * 1000 - max(event.at_ms for event in written)))
    missing = dict(board.flights)
    missed_bytes = sum(flight.size * len(halves[flight.author in halves[0]]) for flight in missing.values())
    swarm.network.part({})
    healed_ms = clock.now_ms
    before = swarm.counted()
    live = Board(clock, peers)
    planned = swarm.draw(round(HEALS_S_MAX * EVENTS_PER_S))
    swarm.plan(planned)
    progress(f"{peers} peers: growing together")
    while missing and clock.now_ms < healed_ms + 10 * HEALS_S_MAX * 1000:
        clock.run_for(LOOK_MS)
        missing = {key: flight for key, flight in missing.items() if not _everywhere(flight)}
    healed_s = (clock.now_ms - healed_ms) / 1000 if not missing else math.inf
    spent = swarm.counted().since(before)
    clock.run_for(max(0.0, healed_ms + planned[-1].at_ms - clock.now_ms) + DRAIN_S * 1000)
    live.flights = {key: flight for key, flight in board.flights.items() if flight.at_ms >= healed_ms}
    closings: Counter[str] = Counter()
    for end in swarm.peers:
        closings.update(end.closings)
    progress(f"{peers} peers: two ledgers take all logs")
    one, other = (_inventory(swarm, [*order[0], *order[1]]) for order in (halves, halves[::-1]))
    return Healed(
        peers,
        parted_s,
        2 * events,
        healed_s,
        len({end.store.state.vector_digest for end in swarm.peers}) == 1,
        one.nodes,
        (one.vector_digest, one.state_root) == (other.vector_digest, other.state_root),
        outcome("live events while the halves grow together", swarm.regions, seed, live, swarm.counted().since(before)),
        spent.bytes.total(),
        missed_bytes,
        closings,
    )


def _inventory(swarm: Swarm, order: Sequence[int]) -> State:
    """What a real ledger makes of the logs that everybody holds: a light store knows no rows."""
    registered = dict.fromkeys((hotkey(uri).public_key for uri in MINERS), 0)
    validators = dict.fromkeys(swarm.members, 100)
    ledger = Ledger(open_writer(":memory:"), NETWORK)
    with ledger.transaction():
        ledger.set_electorate(Electorate(Pin(BLOCK, START_MS, validators, registered, {})))
    held = swarm.peers[0].store
    for index in order:
        log, seq = swarm.peers[index].identity.log, 0
        while wires := held.read(log, seq, BATCH_BYTES):
            with ledger.transaction():
                outcomes = ledger.receive([Event.decode(wire) for wire in wires], int(swarm.clock.now_ms))
            assert {outcome.result for outcome in outcomes} == {Result.STORED}
            seq += len(wires)
    return ledger.state


def _everywhere(flight: Flight) -> bool:
    return sum(map(math.isnan, flight.took_ms)) <= 1  # the author's own place stays empty


LEDGER_PEERS: Final = 16
LEDGER_PARTED_S: Final = 300.0


class Parted(World):
    """Whole simulated daemons with real ledgers, parted in two halves that both go on with their miners."""

    def __init__(self, seed: int, peers: int, parted_s: float) -> None:
        """Prepare a run without any other fault."""
        super().__init__(seed, peers=peers, minutes=parted_s / 60, faults=())
        self.parted_s = parted_s
        self.healed_s = math.inf
        self.missed = 0
        """Events that some peer lacked when the halves met again."""

    def _run(self) -> None:
        for peer in self.peers:
            self.clock.after(peer.rng.uniform(0, START_WITHIN_MS), peer.start)
        self.workload.start()
        self.clock.after(EPOCH_MS, self._epoch)
        self.clock.run_for(JOIN_S * 1000)
        self.network.part({peer.index: peer.index % 2 for peer in self.peers})
        self.touched("partition", None, self.parted_s * 1000 + HEALS_S_MAX * 1000)
        self.clock.run_for(self.parted_s * 1000)
        behind = self._behind(self._heads())
        self.missed = max(behind)
        heads, healed_ms = self._heads(), self.clock.now_ms
        self.network.part({})
        while any(self._behind(heads)) and self.clock.now_ms < healed_ms + 10 * HEALS_S_MAX * 1000:
            self.clock.run_for(LOOK_MS)
        if not any(self._behind(heads)):
            self.healed_s = (self.clock.now_ms - healed_ms) / 1000
        self._heal()
        self._rest()
        check(self)

    def _heads(self) -> dict[LogId, int]:
        """The highest seq of each log that anybody holds."""
        heads: dict[LogId, int] = {}
        for peer in self.peers:
            for log, held in peer.ledger.state.logs.items():
                heads[log] = max(held.head.seq, heads.get(log, -1))
        return heads

    def _behind(self, heads: Mapping[LogId, int]) -> list[int]:
        """How many events each peer lacks of these."""
        return [
            sum(
                max(0, seq - (held.head.seq if (held := peer.ledger.state.logs.get(log)) else -1))
                for log, seq in heads.items()
            )
            for peer in self.peers
        ]


# -- what is printed ---------------------------------------------------------------------------------------------------

HEADING: Final = (
    f"{'':<26}{'p50':>7}{'p99':>7}{'max':>8}{'p99 of':>9}{'MB':>9}{'of':>7}{'dupli-':>8}{'lost':>6}{'CPU us':>8}\n"
    f"{'':<26}{'ms':>7}{'ms':>7}{'ms':>8}{'bound':>9}{'':>9}{'least':>7}{'cates':>8}{'':>6}{'/event':>8}"
)


def _row(found: Outcome) -> str:
    return (
        f"{found.name:<26}{found.p50_ms:>7.0f}{found.p99_ms:>7.0f}{found.max_ms:>8.0f}{found.latency_times:>8.2f}x"
        f"{found.bytes / 1e6:>9.2f}{found.bytes_times:>6.2f}x{found.duplicates:>8.3f}{found.lost:>6}"
        f"{found.cpu_us:>8.0f}"
    )


def _shares(kinds: Mapping[str, float]) -> str:
    total = sum(kinds.values())
    return ", ".join(f"{kind} {size / total:.1%}" for kind, size in kinds.items())


def _show_comparison(ours: Measured, others: Sequence[Outcome], load: Load) -> None:
    spread = ours.spread
    lines = "" if math.isinf(load.uplink_bytes_per_ms) else f", lines of {load.uplink_bytes_per_ms * 0.008:g} Mbit/s"
    print(
        f"{spread.peers:,} peers in {len(atlas.REGIONS)} regions, seed {spread.seed}: {spread.events:,} events, "
        f"{load.rate:g}/s, one registration of {GPUS_PER_ADD} GPUs for {VERDICTS_PER_ADD} verdicts{lines}"
    )
    print(HEADING)
    bound = f"{'bound: shortest paths':<26}{spread.bound_p50_ms:>7.0f}{'':>7}{spread.bound_max_ms:>8.0f}{'':>9}"
    print(f"{bound}{spread.least_bytes / 1e6:>9.2f}")
    for found in (spread, ours.warm, *others):
        print(_row(found))
    print(f"  links: {ours.links}, {ours.eager} of them eager; bytes: {_shares(spread.kinds)}")
    print(f"  idle: {ours.idle_bytes:,.0f} bytes per peer and minute ({_shares(ours.idle)}), ", end="")
    print(f"{ours.idle_cpu_us:.0f} us of CPU per peer and second")


def _missed(ours: Measured) -> list[str]:
    """What is wanted and was not reached."""
    spread = ours.spread
    found = []
    if spread.lost:
        found.append(f"{spread.lost} deliveries did not happen")
    if spread.latency_times > LATENCY_TIMES:
        found.append(f"p99 is {spread.latency_times:.2f} times the longest shortest path: wanted {LATENCY_TIMES}")
    if spread.bytes_times > BYTES_TIMES:
        found.append(f"bytes are {spread.bytes_times:.2f} times the least: wanted {BYTES_TIMES}")
    if ours.idle_bytes > IDLE_BYTES:
        found.append(f"{ours.idle_bytes:,.0f} bytes per idle peer and minute: wanted {IDLE_BYTES:,}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 when everything that is wanted is reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gossip", description=__doc__)
    sizes = ", ".join(map(str, SIZES))
    parser.add_argument("--peers", type=int, nargs="+", metavar="N", help=f"how many peers ({sizes})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="SEED", help="one run for each (1)")
    parser.add_argument("--events", type=int, help=f"measured events ({EVENTS}, with --load {LOADED_EVENTS:,})")
    parser.add_argument(
        "--load", action="store_true", help=f"{LOADED.rate:g} events/s over narrow lines; {LOADED_PEERS} peers"
    )
    parser.add_argument("--faults", action="store_true", help=f"lose segments and crash peers; of {SIZES[-1]:,} peers")
    parser.add_argument("--heal", action="store_true", help=f"part the network; of {HEALED_PEERS} peers")
    parser.add_argument("--parted-s", type=float, help=f"for how long ({PARTED_S:g}, {LEDGER_PARTED_S:g})")
    parser.add_argument("--parted-events", type=int, default=PARTED_EVENTS, help="in each half (%(default)s)")
    parser.add_argument(
        "--ledgers", action="store_true", help=f"part whole daemons with real ledgers; {LEDGER_PEERS} of them"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each run")
    chosen = parser.parse_args(arguments)
    missed: list[str] = []
    for seed in chosen.seeds:
        if chosen.faults:
            for peers in chosen.peers or SIZES[-1:]:
                missed += _tell_endured(endure(peers, seed), as_json=chosen.json)
        if chosen.heal:
            for peers in chosen.peers or (HEALED_PEERS,):
                healed = heal(peers, seed, chosen.parted_events, chosen.parted_s or PARTED_S)
                missed += _tell_healed(healed, as_json=chosen.json)
        if chosen.ledgers:
            for peers in chosen.peers or (LEDGER_PEERS,):
                parted = Parted(seed, peers, chosen.parted_s or LEDGER_PARTED_S)
                parted.run()
                missed += _tell_parted(parted, as_json=chosen.json)
        if chosen.load:
            for peers in chosen.peers or (LOADED_PEERS,):
                found = compare(peers, seed, chosen.events or LOADED_EVENTS, LOADED)
                missed += _tell_compared(*found, LOADED, as_json=chosen.json)
        if not (chosen.load or chosen.faults or chosen.heal or chosen.ledgers):
            for peers in chosen.peers or SIZES:
                found = compare(peers, seed, chosen.events or EVENTS)
                missed += _tell_compared(*found, CALM, as_json=chosen.json)
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    return int(bool(missed))


def _tell_compared(ours: Measured, others: Sequence[Outcome], load: Load, *, as_json: bool) -> list[str]:
    progress("")
    if as_json:
        print(json.dumps(_plain(ours)), flush=True)
        for other in others:
            print(json.dumps(_plain(other)), flush=True)
    else:
        _show_comparison(ours, others, load)
        print(flush=True)
    return _missed(ours) if load is CALM else _outdone(ours.spread, others)


def _outdone(ours: Outcome, others: Sequence[Outcome]) -> list[str]:
    """Where a textbook did better though lines are narrow."""
    found = [f"{ours.lost} deliveries did not happen"] if ours.lost else []
    for other in others:
        for what, mine, theirs in (("p99", ours.p99_ms, other.p99_ms), ("bytes", ours.bytes, other.bytes)):
            if mine >= theirs:
                found.append(f"{other.name}: {what} is {theirs:,.0f}, ours {mine:,.0f}")
    return found


def _tell_endured(found: Endured, *, as_json: bool) -> list[str]:
    progress("")
    if as_json:
        print(json.dumps(_plain(found)), flush=True)
    else:
        spread = found.spread
        print(
            f"{spread.peers:,} peers, seed {spread.seed}: {LOSS_SHARE:.0%} of segments lost, "
            f"{found.crashes} crashes in {FAULTS_MIN} minutes, {spread.events} events"
        )
        print(HEADING)
        print(_row(spread))
        for why, count in found.stragglers.items():
            print(f"  {count} deliveries took over {ARRIVES_S_MAX:g} s: {why or 'nothing explains it'}")
        print(f"  the slowest between two that were up took {found.slowest_ms / 1000:.1f} s")
        print(f"  bytes: {_shares(spread.kinds)}; sessions ended by engines: {dict(found.closings)}", flush=True)
    unexplained = found.stragglers.get("", 0)
    return [f"{unexplained} deliveries took over {ARRIVES_S_MAX:g} s without a reason"] if unexplained else []


def _tell_healed(found: Healed, *, as_json: bool) -> list[str]:
    progress("")
    if as_json:
        print(json.dumps(_plain(found)), flush=True)
    else:
        print(
            f"{found.peers} peers, parted for {found.parted_s / 60:g} minutes, {found.events:,} events meanwhile: "
            f"everybody has everything after {found.healed_s:.1f} s, vectors equal: {found.equal}"
        )
        print(
            f"  roots of two ledgers that took these logs, each another half's first, equal: {found.rooted} "
            f"({found.rows} rows)"
        )
        print(f"  {found.bytes / 1e6:.1f} MB until then, {found.missed_bytes / 1e6:.1f} MB were missing in all")
        live = found.live
        print(
            f"  {live.events} live events until some time later: p50 {live.p50_ms:.0f} ms, p99 {live.p99_ms:.0f} ms, "
            f"max {live.max_ms:.0f} ms"
        )
        print(f"  sessions ended by engines: {dict(found.closings)}", flush=True)
    missed = []
    if found.healed_s > HEALS_S_MAX:
        missed.append(f"healed after {found.healed_s:.1f} s: wanted {HEALS_S_MAX:g} s")
    if not found.equal:
        missed.append("vectors differ after healing")
    if not found.rooted:
        missed.append("equal logs gave two inventories")
    if found.live.lost:
        missed.append(f"{found.live.lost} deliveries of live events did not happen")
    return missed


def _tell_parted(found: Parted, *, as_json: bool) -> list[str]:
    progress("")
    facts = {
        "peers": len(found.peers),
        "seed": found.seed,
        "parted_s": found.parted_s,
        "missed": found.missed,
        "healed_s": found.healed_s,
        "events": found.peers[0].ledger.state.events,
    }
    if as_json:
        print(json.dumps(facts), flush=True)
    else:
        print(
            f"{len(found.peers)} daemons with real ledgers, seed {found.seed}, parted for {found.parted_s:g} s: up to "
            f"{found.missed:,} events were missing, everybody had them after {found.healed_s:.1f} s while miners went "
            f"on; in the end logs, rows and roots of {facts['events']:,} events are equal",
            flush=True,
        )
    return [f"ledgers healed after {found.healed_s:.1f} s"] if found.healed_s > HEALS_S_MAX else []


def _plain(found: Any) -> Any:
    """Named tuples as JSON objects."""
    if hasattr(found, "_asdict"):
        return {name: _plain(value) for name, value in found._asdict().items()}
    return dict(found) if isinstance(found, Mapping) else found
