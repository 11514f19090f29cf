"""Simulate networks: ``python -m tests.sim --peers 200 --seed 7 --faults all --minutes 30``.

One seed is one run. ``--seeds 2000`` runs many, ``--forever`` goes on until it is stopped. A run that fails is shrunk
to the faults that it needs, and is told with its log and the command that repeats it.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from tests.sim.horizons import LONG
from tests.sim.hunt import Result, explain, run, run_all
from tests.sim.world import FAULTS, PEERS_MAX, Spec

MINUTES: Final = 5.0
MINUTES_OF_MANY: Final = 1.0
"""Length of a run before the network heals: of one, and of each where many are run."""

SHRINK_RUNS: Final = 60
"""Runs that shrinking a failure may take."""

PROGRESS_S: Final = 10.0


def main() -> int:
    """Run what the command line says; 0 when every check holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulate networks, each from one seed.")
    parser.add_argument("--peers", type=int, default=8, choices=range(2, PEERS_MAX + 1), metavar=f"2..{PEERS_MAX}")
    parser.add_argument("--seed", type=int, default=1, help="the seed, or the first of many")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--forever", action="store_true", help="run seed after seed, also after failures")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, where many seeds are run")
    parser.add_argument("--minutes", type=float, help="virtual minutes before the network heals (5, of many seeds 1)")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {','.join(FAULTS)}")
    parser.add_argument("--only", help="numbers of the faults that strike, of all that the seed draws; or none")
    parser.add_argument("--shrink", type=int, default=SHRINK_RUNS, help="runs that shrinking a failure may take")
    parser.add_argument("--tight", action="store_true", help="make the engine's limits so small that all are met")
    parser.add_argument("--horizons", action="store_true", help="let horizons pass, with faults of their own")
    parser.add_argument("--log", action="store_true", help="print every line of the run's log")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each run")
    arguments = parser.parse_args()
    every = tuple(LONG) if arguments.horizons else FAULTS
    named = {"all": every, "none": ()}.get(arguments.faults, tuple(arguments.faults.split(",")))
    if unknown := set(named) - set(every):
        parser.error(f"no fault {min(unknown)!r}: there are {', '.join(every)}, all and none")
    only = None
    if arguments.only is not None:
        only = () if arguments.only == "none" else tuple(sorted(map(int, arguments.only.split(","))))
    many = arguments.forever or arguments.seeds > 1
    minutes = arguments.minutes or (MINUTES_OF_MANY if many else MINUTES)
    spec = Spec(
        arguments.seed, arguments.peers, minutes, tuple(sorted(named)), arguments.tight, only, arguments.horizons
    )
    if many:
        last = None if arguments.forever else arguments.seeds
        seeds = itertools.islice(itertools.count(spec.seed), last)
        return _run_many(arguments, (spec._replace(seed=seed) for seed in seeds))
    if not arguments.json:
        print(f"seed {spec.seed}: {spec.peers} peers, {minutes:g} min, faults {','.join(spec.faults) or 'none'}")
    result = run(spec, echo=arguments.log)
    _tell(result, arguments)
    return 0 if result.error is None else 1


def _tell(result: Result, arguments: Any) -> None:
    if result.error is not None:
        told = explain(result, arguments.shrink)
        print(json.dumps(result.fields() | {"error": told}) if arguments.json else told, flush=True)
    elif arguments.json:
        print(json.dumps(result.fields()), flush=True)
    elif not (arguments.forever or arguments.seeds > 1):
        print(
            f"all agree: {result.events} events, {result.acknowledged} acknowledged requests, {result.faults} faults, "
            f"{result.frames} frames, trace {result.trace}, {result.cpu_s:.1f} s"
        )


def _run_many(arguments: Any, specs: Iterable[Spec]) -> int:
    began_s = told_s = time.monotonic()
    runs, failed, cpu_s, acknowledged, faults = 0, [], 0.0, 0, 0
    for result in run_all(specs, arguments.jobs):
        runs += 1
        cpu_s += result.cpu_s
        acknowledged += result.acknowledged
        faults += result.faults
        if result.error is not None:
            failed.append(result.spec.seed)
        _tell(result, arguments)
        if time.monotonic() - told_s > PROGRESS_S:
            told_s = time.monotonic()
            print(f"{runs} seeds, {len(failed)} failed, {cpu_s / runs:.1f} s of CPU each", file=sys.stderr, flush=True)
    summary = {
        "seeds": runs,
        "failed": sorted(failed),
        "faults": faults,
        "acknowledged": acknowledged,
        "cpu_s": round(cpu_s, 1),
        "wall_s": round(time.monotonic() - began_s, 1),
    }
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(
            f"{runs - len(failed)} of {runs} seeds passed: {faults} faults, {acknowledged} acknowledged requests, "
            f"{cpu_s:.0f} s of CPU, {summary['wall_s']:.0f} s; failed: {' '.join(map(str, sorted(failed))) or 'none'}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
