"""Whatever fails on the way, a network that heals agrees on everything and has lost nothing."""

import os
import re
import subprocess
import sys
from collections import deque

import pytest

from tests.sim.check import check
from tests.sim.faults import FAULTS
from tests.sim.peer import SimPeer
from tests.sim.simulation import SimulationError
from tests.sim.world import World


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_network_that_heals_agrees_and_has_lost_nothing(seed: int) -> None:
    world = World(seed, peers=3 + seed % 5, minutes=1.2)
    world.run()
    assert world.workload.acknowledged
    assert world.peers[0].ledger.state.nodes > 0


@pytest.mark.parametrize("seed", range(11, 15))
def test_it_agrees_under_limits_so_tight_that_they_are_met(seed: int) -> None:
    World(seed, peers=3 + seed % 3, minutes=1.2, tight=True).run()


def test_tight_limits_are_met() -> None:
    world = World(1, peers=6, minutes=2.0, tight=True)
    world.trace.lines = deque()  # all of them
    world.run()
    assert any("peer_behind" in line for line in world.trace.lines)


@pytest.mark.parametrize("fault", [*FAULTS, None])
def test_it_agrees_after_each_fault_alone(fault: str | None) -> None:
    World(99, peers=5, minutes=1.0, faults=[fault] if fault else []).run()


def test_one_seed_is_one_run() -> None:
    first, second = World(5, peers=5, minutes=1.0), World(5, peers=5, minutes=1.0)
    assert first.run() == second.run()
    assert first.trace.count == second.trace.count > 100
    assert World(6, peers=5, minutes=1.0).run() != first.trace.digest


def test_one_seed_is_one_run_in_another_process_too() -> None:
    world = World(5, peers=3, minutes=0.5)
    command = [sys.executable, "-m", *world.replay.split()[2:]]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert f"trace {world.run()}" in result.stdout


def test_a_run_meets_the_faults_that_it_asks_for() -> None:
    world = World(3, peers=5, minutes=2.0)
    world.trace.lines = deque()  # all of them
    world.run()
    log = "\n".join(world.trace.lines)
    for happened in ("crash", "partition", "a frame was lost", "restore", "no permit: //", "new log"):
        assert happened in log, f"{happened!r} never happened"


def test_a_lost_write_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkers can fail: here because a peer forgets what it acknowledged."""

    def forget_and_check(world: World) -> None:
        world.peers[1].disk.execute("DELETE FROM events WHERE kind = 'add' AND seq > 1")
        check(world)

    monkeypatch.setattr("tests.sim.world.check", forget_and_check)
    world = World(1, peers=3, minutes=0.5)
    with pytest.raises(SimulationError, match=re.escape(world.replay)):
        world.run()


def test_without_rule_4_a_restored_backup_forks_and_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that writes at once instead of hearing its own head; not every seed makes it fork."""

    def write_at_once(peer: SimPeer) -> None:
        peer._heard = True
        peer.ledger.writes_refused = peer._why_no_writes()
        peer._scan()

    def run_some() -> None:
        for seed in range(1, 10):
            World(seed, peers=3, minutes=2.0, faults=["restore"]).run()

    monkeypatch.setattr(SimPeer, "_hear", write_at_once)
    with pytest.raises(SimulationError, match="  fork  "):
        run_some()
