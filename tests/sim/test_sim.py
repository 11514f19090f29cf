"""Whatever fails on the way, a network that heals agrees on everything and has lost nothing."""

import os
import random
import re
import subprocess
import sys
from collections import deque
from typing import Any

import pytest

from tests.sim import bounds, faults
from tests.sim.check import check
from tests.sim.faults import KINDS, Fault, Kind, Struck, plan
from tests.sim.horizons import LONG
from tests.sim.hunt import commit, explain, run, run_all
from tests.sim.network import Network
from tests.sim.peer import COMMIT_MS, CheckFailedError, SimPeer
from tests.sim.shrink import shrink
from tests.sim.simulation import SimulationError
from tests.sim.world import FAULTS, Spec, World


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_network_that_heals_agrees_and_has_lost_nothing(seed: int) -> None:
    world = World(seed, peers=4 + seed, minutes=0.8)
    world.run()
    assert world.workload.acknowledged
    assert world.honest[0].ledger.state.nodes > 0


def test_more_peers_than_a_view_holds_agree_too() -> None:
    world = World(21, peers=14, minutes=0.6)
    world.run()
    assert sum(len(peer.open) for peer in world.peers) < 14 * 12, "not everybody talks with everybody"


@pytest.mark.parametrize("seed", range(11, 14))
def test_it_agrees_under_limits_so_tight_that_they_are_met(seed: int) -> None:
    World(seed, peers=3 + seed % 3, minutes=0.8, tight=True).run()


@pytest.mark.parametrize("seed", [2, 6])
def test_it_agrees_where_horizons_pass_and_what_was_deleted_does_not_come_back(seed: int) -> None:
    world = World(seed, peers=3, minutes=6, faults=LONG, horizons=True)
    world.run()
    assert world.peers[0].ledger.state.checkpoint > 0


def test_a_peer_that_was_slow_twice_at_once_is_as_fast_as_before_in_the_end() -> None:
    """In whatever order the two end; it was slow until the end of the run, and no network came to rest."""
    for last in (0, 1):
        world = World(1, peers=2, minutes=0.5)
        struck = [KINDS["slow"].strike(world, Fault("slow", at_ms, 1, ""), random.Random(7)) for at_ms in (1, 2)]
        undo = [each.undo for each in struck if each is not None and each.undo is not None]
        undo[1 - last]()
        assert len(world.network._slow) == 1
        undo[last]()
        assert not world.network._slow
        assert not any(peer._slowed for peer in world.peers)
        assert {peer.commit_ms for peer in world.peers} == {COMMIT_MS}
        world.close()


def test_tight_limits_are_met() -> None:
    world = World(1, peers=6, minutes=1.5, tight=True)
    world.trace.lines = deque()  # all of them
    world.run()
    assert any("peer_behind" in line for line in world.trace.lines)


@pytest.mark.parametrize("kind", FAULTS)
def test_it_agrees_after_each_kind_of_fault_alone(kind: str) -> None:
    world = World(99, peers=6, minutes=0.5, faults=[kind])
    world.plan = [Fault(kind, at_ms, 8_000, f"{kind} {at_ms}") for at_ms in (5_000, 9_000, 19_000)]
    world.run()
    assert {incident.kind for incident in world.incidents} == {kind, "heal"}


def test_it_agrees_without_faults() -> None:
    world = World(99, peers=6, minutes=0.5, faults=[])
    world.run()
    assert not world.deliveries.late


class TestSeeds:
    """One seed is one run, byte for byte, and every fault of it draws for itself."""

    def test_one_seed_is_one_run(self) -> None:
        first, second = World(5, peers=5, minutes=0.7), World(5, peers=5, minutes=0.7)
        assert first.run() == second.run()
        assert first.trace.count == second.trace.count > 100
        assert World(6, peers=5, minutes=0.7).run() != first.trace.digest

    def test_one_seed_is_one_run_in_another_process_too(self) -> None:
        world = World(5, peers=4, minutes=0.5)
        command = [sys.executable, "-m", *world.replay.split()[2:]]
        environment = {**os.environ, "PYTHONHASHSEED": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=True)
        assert f"trace {world.run()}" in result.stdout

    def test_leaving_one_out_changes_nothing_of_the_other_faults(self) -> None:
        whole = World(7, peers=6, minutes=1.0, faults=["crash", "slow", "loss"])
        some = World(7, peers=6, minutes=1.0, faults=["crash", "slow", "loss"], only=[2])
        assert some.plan == whole.plan
        told = []
        for world in (whole, some):
            world.trace.lines = deque()
            world.run()
            told.append([line.split("fault", 1)[1] for line in world.trace.lines if re.search(r"fault +2 ", line)])
        assert told[0] == told[1] != []

    def test_a_kind_draws_its_faults_whatever_else_may_happen(self) -> None:
        alone = {fault.at_ms for seed in range(40) for fault in plan(["crash"], f"{seed}", 5.0)}
        assert len(alone) > 100
        for seed in range(40):
            mixed = [fault for fault in plan(["crash", "slow"], f"{seed}", 5.0) if fault.kind == "crash"]
            other = [fault for fault in plan(["crash", "loss"], f"{seed}", 5.0) if fault.kind == "crash"]
            assert [fault[:3] for fault in mixed] == [fault[:3] for fault in other]

    def test_a_run_meets_the_faults_that_it_asks_for(self) -> None:
        kinds = ["crash", "partition", "restore", "permit", "duplicate"]
        world = World(3, peers=6, minutes=1.5, faults=kinds)
        world.plan = [Fault(kind, 6_000 + 9_000 * n, 20_000, f"met {kind}") for n, kind in enumerate(kinds)]
        world.trace.lines = deque()  # all of them
        world.run()
        log = "\n".join(world.trace.lines)
        for happened in ("crash", "partition", "not decrypted", "restore", "no permit: p", "new log"):
            assert happened in log, f"{happened!r} never happened"


class TestCheckers:
    """A checker that cannot fail checks nothing."""

    def test_a_lost_write_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forget_and_check(world: World) -> None:
            world.honest[1].disk.execute("DELETE FROM events WHERE kind = 'add' AND seq > 1")
            check(world)

        monkeypatch.setattr("tests.sim.world.check", forget_and_check)
        world = World(1, peers=3, minutes=0.5, faults=[])
        with pytest.raises(SimulationError, match=re.escape(world.replay)):
            world.run()

    def test_without_rule_4_a_restored_backup_forks_and_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon that writes at once instead of hearing its own head; not every seed makes it fork."""

        def write_at_once(peer: SimPeer) -> None:
            peer._heard = True
            peer.ledger.writes_refused = peer._why_no_writes()
            peer._scan()

        def run_some() -> None:
            for seed in range(1, 10):
                World(seed, peers=4, minutes=2.0, faults=["restore"]).run()

        monkeypatch.setattr(SimPeer, "_hear", write_at_once)
        with pytest.raises(SimulationError, match="fork"):
            run_some()

    def test_a_delivery_that_no_fault_explains_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Here frames to one peer are swallowed, and no fault says so."""
        send = Network.send

        def swallow(network: Network[SimPeer], sender: SimPeer, number: int, frame: bytes) -> None:
            ends = network.peers(number) or ()
            if world.clock.now_ms < world.start_s * 1000 + 20_000 or all(end.index != 2 for end in ends):
                send(network, sender, number, frame)

        monkeypatch.setattr(Network, "send", swallow)
        world = World(4, peers=5, minutes=1.0, faults=[])
        with pytest.raises(SimulationError, match=r"lacks seq \d+ of a log of p\d's for over 10 s, and no fault"):
            world.run()

    def test_the_same_is_no_failure_where_a_fault_explains_it(self) -> None:
        world = World(4, peers=5, minutes=1.0, faults=["partition"])
        world.plan = [Fault("partition", 12_000, 25_000, "explained")]
        world.run()
        assert world.deliveries.late

    def test_a_queue_above_its_bound_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = bounds.sizes

        def shorter(peer: SimPeer) -> Any:
            return ((name, size, bound if name != "wants" else -1) for name, size, bound in sizes(peer))

        monkeypatch.setattr("tests.sim.check.sizes", shorter)
        with pytest.raises(SimulationError, match=r"has \d+ in wants: at most -1 may be there \(rule 6\)"):
            World(1, peers=3, minutes=0.3, faults=[]).run()

    def test_an_honest_peer_that_is_banned_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.gossip.frames.MS_MAX", 0)  # no clock is right
        with pytest.raises(SimulationError, match="which is honest"):
            World(1, peers=3, minutes=0.5, faults=[]).run()


def test_one_that_is_banned_is_down_for_the_view_and_not_dialled() -> None:
    world = World(1, peers=4, minutes=0.3, faults=[])
    world.run()
    peer, *_, banned = world.peers
    assert peer.engine.view_status()["down"] == 0
    peer.bans.add(banned.hotkey.public_key, "a lie", 60.0, peer._steady_s())
    (session,) = (number for number, held in peer.open.items() if held.other is banned)
    world.network.close(peer, session, "a lie")
    world.clock.run_for(20_000)
    assert banned not in {held.other for held in peer.open.values()}
    assert peer.engine.view_status()["down"] == 1


class TestShrinking:
    """A failure is told with the faults that it needs, and a command that repeats it."""

    @pytest.mark.parametrize("culprits", [{3}, {0, 19}, {5, 6, 7}, set()])
    def test_it_finds_the_culprits(self, culprits: set[int]) -> None:
        assert set(shrink(range(20), lambda only: culprits <= set(only), 200)) == culprits

    def test_it_stops_at_its_bound_with_what_fails(self) -> None:
        runs = 0

        def fails(only: tuple[int, ...]) -> bool:
            nonlocal runs
            runs += 1
            return {1, 18} <= set(only)

        found = shrink(range(20), fails, 5)
        assert runs == 5
        assert {1, 18} <= set(found)

    def test_a_planted_culprit_is_found_among_others_and_replays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def sabotage(world: World, fault: Fault, rng: random.Random) -> Struck:
            raise CheckFailedError(f"sabotage of p{rng.randrange(4)}")

        monkeypatch.setitem(faults.KINDS, "slow", Kind((9_000, 9_000), (1_000, 1_000), sabotage))
        spec = Spec(5, peers=4, minutes=0.5, faults=("crash", "reset", "slow"))
        drawn = World.of(spec).plan
        failed = run(spec)
        assert failed.error is not None
        told = explain(failed, 20)
        (needed,) = re.findall(r"^ +(\d+) slow at .* s for 1.0 s$", told, re.MULTILINE)
        number = int(needed)
        assert drawn[number].kind == "slow"
        assert f"seed 5, commit {commit()}, 1 of {len(drawn)} faults are needed" in told
        assert told.endswith(f"--only {number}")
        again = [run(spec._replace(only=(number,))) for _ in range(2)]
        assert again[0].trace == again[1].trace
        assert again[0].error is not None
        assert re.search(r"CheckFailedError\('sabotage of p\d'\)", again[0].error)

    def test_many_runs_in_many_processes_end_as_each_alone(self) -> None:
        specs = [Spec(seed, peers=3, minutes=0.2, faults=("crash", "loss")) for seed in range(1, 4)]
        together = {result.spec: result.trace for result in run_all(specs, 2)}
        assert together == {spec: run(spec).trace for spec in specs}


def test_every_kind_of_fault_can_strike_within_minutes() -> None:
    for name, kind in KINDS.items():
        assert any(plan([name], f"{seed}", 1.5) for seed in range(3)), name
        assert kind.every_ms[0] > 0  # else a plan would not end
