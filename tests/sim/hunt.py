"""Runs many seeds, in several processes, and makes of a failure what a person can work with."""

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.sim.shrink import shrink
from tests.sim.simulation import SimulationError
from tests.sim.world import Spec, World

RUNS_PER_PROCESS: Final = 200
"""A process is replaced after so many runs."""


class Result(NamedTuple):
    """How a run ended.

    Attributes:
        spec: Of the run.
        error: What went wrong, with the log; None when every check held.
        trace: Digest of the log.
        cpu_s: What it took.
        faults: How many struck.
        events: In the end.
        acknowledged: Requests that miners got an answer for.
        frames: That were sent.
        late: Looks at deliveries that were late, and explained by a fault.
    """

    spec: Spec
    error: str | None
    trace: str
    cpu_s: float
    faults: int
    events: int
    acknowledged: int
    frames: int
    late: int

    def fields(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"command": self.spec.command, "seed": self.spec.seed, **self._asdict(), "spec": None} | {
            "ok": self.error is None
        }


def run(spec: Spec, *, echo: bool = False) -> Result:
    """Run one world to its end."""
    began_s = time.process_time()
    world = World.of(spec, echo=echo)
    error = None
    try:
        world.run()
    except SimulationError as failure:
        error = str(failure)
    result = Result(
        spec,
        error,
        world.trace.digest,
        time.process_time() - began_s,
        len(world.plan) if spec.only is None else len(spec.only),
        max((peer.ledger.state.events for peer in world.peers if peer.starts), default=0),
        len(world.workload.acknowledged),
        world.network.frames,
        world.deliveries.late,
    )
    world.close()
    return result


def run_all(specs: Iterable[Spec], jobs: int) -> Iterator[Result]:
    """Run worlds in several processes; results come as they are ready. The specs may be endless."""
    left = iter(specs)
    if jobs == 1:
        yield from map(run, left)
        return
    with ProcessPoolExecutor(jobs, max_tasks_per_child=RUNS_PER_PROCESS) as pool:
        waiting: set[Future[Result]] = {pool.submit(run, spec) for spec in islice(left, 2 * jobs)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(run, spec) for spec in islice(left, len(done))}
            for future in done:
                yield future.result()


def explain(failed: Result, runs_max: int, runner: Callable[[Spec], Result] = run) -> str:
    """Shrink a failed run, and say what a person needs to know of it.

    Args:
        failed: The run.
        runs_max: Runs that shrinking may take; 0: none.
        runner: Runs a spec.
    """
    spec = failed.spec
    plan = World.of(spec).plan
    faults = tuple(range(len(plan))) if spec.only is None else spec.only
    shortest = failed

    def fails(only: tuple[int, ...]) -> bool:
        nonlocal shortest
        result = runner(spec._replace(only=only))
        if result.error is not None:
            shortest = result
        return result.error is not None

    needed = shrink(faults, fails, runs_max) if runs_max else faults
    lines = [
        shortest.error or "",
        "",
        f"seed {spec.seed}, commit {commit()}, {len(needed)} of {len(plan)} faults are needed:",
        *(f"  {number:3} {plan[number]}" for number in needed),
        f"replay: {shortest.spec.command}",
    ]
    return "\n".join(lines)


def commit() -> str:
    """The commit that runs, with a mark if files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
