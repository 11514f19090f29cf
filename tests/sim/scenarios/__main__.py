"""Play scenarios: ``python -m tests.sim.scenarios --scenario equal-nonces --seeds 200``."""

import argparse
import sys
import time

from tests.sim.scenarios.catalogue import SCENARIOS, play
from tests.sim.simulation import SimulationError


def main() -> int:
    """Play what the command line says; 0 when every seed ends as it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.scenarios", description="Play conflicts by seed.")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="all unless told otherwise; repeatable")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 1 to this one")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--log", action="store_true", help="print every line of the runs' logs")
    arguments = parser.parse_args()
    seeds = range(1, arguments.seeds + 1) if arguments.seed is None else [arguments.seed]
    failed = 0
    for name in arguments.scenario or SCENARIOS:
        began_s, bad = time.monotonic(), []
        for seed in seeds:
            try:
                stage = play(name, seed, echo=arguments.log)
                if arguments.log:
                    print(f"trace {stage.trace.digest}")
            except SimulationError as error:
                print("\n".join(str(error).splitlines()[0 if len(seeds) == 1 else -2 :]))
                bad.append(seed)
        failed += len(bad)
        took_s = time.monotonic() - began_s
        ended = f"{len(bad)} of {len(seeds)} seeds fail" if bad else f"{len(seeds)} seeds agree"
        print(f"{name:<32} {ended}, {took_s / len(seeds):.2f} s each", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
