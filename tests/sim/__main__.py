"""Run one simulation: ``python -m tests.sim --peers 8 --seed 7 --minutes 5 --faults all``."""

import argparse
import sys
import time

from tests.sim.faults import FAULTS
from tests.sim.simulation import SimulationError
from tests.sim.world import PEERS_MAX, World


def main() -> int:
    """Run what the command line says; 0 when every check holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulate a network from one seed.")
    parser.add_argument("--peers", type=int, default=8, choices=range(2, PEERS_MAX + 1), metavar=f"2..{PEERS_MAX}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0, help="virtual minutes before the network heals")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {','.join(FAULTS)}")
    parser.add_argument("--tight", action="store_true", help="make the engine's limits so small that all are met")
    parser.add_argument("--log", action="store_true", help="print every line of the run's log")
    arguments = parser.parse_args()
    named = {"all": FAULTS, "none": ()}.get(arguments.faults, tuple(arguments.faults.split(",")))
    if unknown := set(named) - set(FAULTS):
        parser.error(f"no fault {min(unknown)!r}: there are {', '.join(FAULTS)}, all and none")
    world = World(
        arguments.seed,
        peers=arguments.peers,
        minutes=arguments.minutes,
        faults=named,
        tight=arguments.tight,
        echo=arguments.log,
    )
    print(f"seed {world.seed}: {len(world.peers)} peers, {world.minutes:g} min, faults {','.join(named) or 'none'}")
    began = time.monotonic()
    try:
        digest = world.run()
    except SimulationError as error:
        print(error)
        return 1
    state = world.peers[0].ledger.state
    print(
        f"all agree: {state.events} events, {state.nodes} nodes, {len(world.workload.acknowledged)} acknowledged "
        f"requests, {world.network.frames} frames, trace {digest}, {time.monotonic() - began:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
