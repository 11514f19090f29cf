"""The gossip benchmark measures what it says: bounds hold, textbooks do what textbooks say, misses are told."""

import json
import math
import random
from math import ceil, log10

import pytest

from tests.bench import gossip
from tests.bench.baselines import (
    DEGREE_HIGH,
    DEGREE_LOW,
    GOSSIP_MS,
    RETRANSMIT_MULT,
    SYNC_MS,
    Courier,
    Flood,
    Gossipsub,
    Memberlist,
    Textbook,
)
from tests.bench.gossip import (
    ARRIVES_S_MAX,
    Board,
    Down,
    Flight,
    Hardship,
    Swarm,
    baseline,
    endure,
    heal,
    main,
    measure,
    schedule,
)
from tests.sim import atlas
from tests.sim.clock import Clock
from tests.sim.light import COMMIT_MS, Archive, Identity

PEERS = 12
RING = [(index, (index + 1) % PEERS) for index in range(PEERS)]
REGIONS = atlas.draw(PEERS, random.Random(1))
WRITTEN = schedule(random.Random(1), PEERS, 20, 2.0)


def _delay_ms(_one: int, _other: int, _size: int) -> float:
    return 20.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases as short as they can be."""
    for name, value in {"WARM_EVENTS": 20, "DRAIN_S": 5, "QUIET_S": 5, "IDLE_S": 60, "FAULTS_MIN": 1}.items():
        monkeypatch.setattr(gossip, name, value)


def test_everybody_gets_every_event_and_neither_bound_is_beaten() -> None:
    swarm = Swarm(PEERS, 1)
    swarm.clock.run_for(20_000)
    swarm.write(swarm.draw(20))
    swarm.clock.run_for(5_000)
    assert len(swarm.board.flights) == 20
    for flight in swarm.board.flights.values():
        for peer, took_ms in enumerate(flight.took_ms):
            if peer != flight.author:
                assert took_ms >= atlas.shortest(swarm.regions[flight.author], swarm.regions[peer]) + COMMIT_MS[0]
    found = gossip.outcome("p2pnodes", swarm.regions, 1, swarm.board, swarm.counted())
    assert found.lost == 0
    assert found.bytes_times > 1
    assert found.duplicates >= 0
    assert found.max_ms >= found.p99_ms >= found.p50_ms


def test_one_seed_is_one_run() -> None:
    first, second = measure(PEERS, 3, WRITTEN), measure(PEERS, 3, WRITTEN)
    assert first.spread._replace(cpu_us=0) == second.spread._replace(cpu_us=0)
    assert first.idle == second.idle
    assert first.overlay == second.overlay


def test_the_tree_holds_however_many_events_there_are() -> None:
    swarm = Swarm(32, 3)
    swarm.clock.run_for(20_000)
    swarm.write(swarm.draw(40))
    swarm.write(swarm.draw(600, 20.0))
    before = swarm.grafts()
    swarm.write(swarm.draw(400, 100.0))
    assert swarm.grafts() == before


def test_a_flood_waits_for_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.gossip.JITTER_SHARE", 0.0)
    at_once = [event._replace(at_ms=1_000.0) for event in WRITTEN]
    found = [
        baseline(Flood, REGIONS, 1, at_once, RING, uplink_bytes_per_ms=speed) for speed in (math.inf, 1_000.0, 20.0)
    ]
    assert found[0].p99_ms < found[1].p99_ms < found[2].p99_ms
    assert found[2].max_ms > found[2].bytes / PEERS / 20.0, "no peer sends faster than its line"


def test_a_textbook_that_does_better_is_told() -> None:
    ours = baseline(Flood, REGIONS, 1, WRITTEN, RING)
    better = ours._replace(name="better", p99_ms=ours.p99_ms - 1, bytes=ours.bytes - 1)
    worse = ours._replace(name="worse", p99_ms=ours.p99_ms + 1, bytes=ours.bytes + 1)
    assert [line.split(":")[0] for line in gossip._outdone(ours, [better, worse])] == ["better", "better"]
    assert gossip._outdone(ours._replace(lost=2), [worse]) == ["2 deliveries did not happen"]


def test_a_flood_sends_each_event_on_every_link_but_back() -> None:
    found = baseline(Flood, REGIONS, 1, WRITTEN, RING)
    assert found.lost == 0
    copies = 2 * len(RING) - (PEERS - 1)  # every link in both directions, but back to who brought it
    assert found.duplicates == pytest.approx(copies / (PEERS - 1) - 1)


def test_memberlist_transmits_each_event_as_often_as_its_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.baselines.SYNC_MS", 1_000 * SYNC_MS)
    found = baseline(Memberlist, REGIONS, 1, WRITTEN, ())
    limit = RETRANSMIT_MULT * ceil(log10(PEERS + 1))
    assert limit == 8
    assert found.lost == 0
    assert found.duplicates == pytest.approx(PEERS * limit / (PEERS - 1) - 1)
    assert found.p50_ms > GOSSIP_MS / 2


def test_what_rounds_missed_a_sync_of_memberlist_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.baselines.GOSSIP_MS", 1_000 * GOSSIP_MS)
    monkeypatch.setattr("tests.bench.baselines.SYNC_MS", 500)
    assert baseline(Memberlist, REGIONS, 1, WRITTEN, ()).lost == 0


def test_a_mesh_of_gossipsub_keeps_its_degrees() -> None:
    clock = Clock()
    courier = Courier(clock, _delay_ms)
    peers = [Gossipsub(index, courier, Board(clock, 40), random.Random(index)) for index in range(40)]
    courier.peers = peers
    clock.run_for(10_000)
    degrees = [len(peer.mesh) for peer in peers]
    assert min(degrees) >= DEGREE_LOW
    assert max(degrees) <= DEGREE_HIGH
    assert all(peer.index in peers[other].mesh for peer in peers for other in peer.mesh)


def test_who_is_in_no_mesh_fetches_what_gossipsub_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.baselines.DEGREE_LOW", 0)
    clock = Clock()
    courier = Courier(clock, _delay_ms)
    board = Board(clock, 3)
    peers: list[Textbook] = [Gossipsub(index, courier, board, random.Random(index)) for index in range(3)]
    courier.peers = peers
    archive = Archive([Identity.of(index) for index in range(3)])
    log = next(iter(archive.identities))
    peers[0].publish(archive.write(log, WRITTEN[0].payload, int(clock.now_ms)))
    clock.run_for(3_000)
    (flight,) = board.flights.values()
    assert not any(map(math.isnan, flight.took_ms[1:]))
    assert courier.tally.frames["iwant"] > 0


@pytest.mark.parametrize(
    ("at_ms", "took_ms", "peer", "expected"),
    [
        (0.0, math.nan, 2, ""),  # never came, and nobody was down
        (60_000.0, 4_000.0, 1, "the peer was down"),  # written while the peer was down
        (49_000.0, math.nan, 1, ""),  # the peer came back, and still does not have it
        (49_500.0, 31_000.0, 1, ""),  # it has it too late after its start
        (49_500.0, 12_000.0, 2, "the author was down"),
        (80_000.0, 11_000.0, 1, ""),  # it was up again long before
    ],
)
def test_only_a_crash_that_touched_a_delivery_explains_it(
    at_ms: float, took_ms: float, peer: int, expected: str
) -> None:
    hardship = Hardship(Swarm(3, 1))
    hardship.downs = {0: [Down(50_000, 58_000)] if peer == 2 else [], 1: [Down(50_000, 65_000)], 2: []}
    flight = Flight(0, at_ms, 400, 3)
    flight.took_ms[peer] = took_ms
    assert ARRIVES_S_MAX == 10
    assert hardship.why(flight, peer) == expected


def test_loss_and_crashes_delay_nothing_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "CRASHES_PER_MIN", 0.3)
    monkeypatch.setattr(gossip, "DOWN_S", (5.0, 20.0))
    found = endure(PEERS, 1)
    assert found.crashes >= 2
    assert found.stragglers.get("", 0) == 0
    assert found.slowest_ms <= ARRIVES_S_MAX * 1000
    assert found.spread.lost == 0


def test_halves_that_were_parted_grow_together_while_events_go_on() -> None:
    found = heal(PEERS, 1, 60, 90.0)
    assert found.events == 120
    assert found.missed_bytes > 0
    assert found.healed_s <= gossip.HEALS_S_MAX
    assert found.equal
    assert found.rooted
    assert found.rows > 0
    assert found.live.events > 0
    assert found.live.lost == 0


def test_what_is_wanted_and_missed_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gossip, "LATENCY_TIMES", 0.5)
    assert main(["--peers", "8", "--events", "10", "--json"]) == 1
    out, err = capsys.readouterr()
    ours, *others = [json.loads(line) for line in out.splitlines()]
    assert ours["spread"]["peers"] == 8
    assert [other["name"] for other in others] == ["flood", "gossipsub", "memberlist"]
    assert "times the longest shortest path: wanted 0.5" in err
