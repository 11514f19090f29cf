"""``python -m tests.faults SUITE``: survival on real processes and real files; exit 1 when anything was lost.

``python -m tests.faults all`` runs each suite in its short form, ``--strikes`` or ``--long`` say how many faults.
Everything happens in network and mount namespaces of its own, which need root. What a suite that failed has left stays
where it says.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

from p2pnodes.devnet import DevnetError
from tests.faults.arena import Outcome, play
from tests.faults.book import Book
from tests.faults.suites import SUITES
from tests.faults.upgrades import Upgrade

APART: Final = "P2P_FAULTS_APART"
"""Set in the process that has its namespaces already."""


def main() -> int:
    """Run what the command line says; 0 when nothing was lost."""
    listed = "\n".join(f"  {name:11}{suite.what}" for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Real daemons under faults: nothing acknowledged may be lost, no log may fork.",
        epilog=f"suites:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", choices=[*SUITES, "all"], metavar="SUITE", help="one of those below, or all")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--strikes", type=int, help="how many faults")
    many.add_argument("--long", action="store_true", help="as many faults as the suite is meant to take")
    parser.add_argument("--seed", type=int, default=1, help="draws the faults")
    parser.add_argument(
        "--from", dest="source", metavar="REF|DIR", help="what the suite upgrade upgrades from (the last release)"
    )
    parser.add_argument("--keep", type=Path, help="keep databases, logs and the book in this directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each suite")
    arguments = parser.parse_args()
    if arguments.source is not None and arguments.suite not in {Upgrade.name, "all"}:
        parser.error(f"--from is for the suite {Upgrade.name}: {arguments.suite} starts this build alone")
    if APART not in os.environ:
        return _apart()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=30)
    Upgrade.source = arguments.source
    failed = False
    for name in SUITES if arguments.suite == "all" else [arguments.suite]:
        suite = SUITES[name]
        strikes = arguments.strikes or (suite.strikes if arguments.long else suite.short)
        directory = (arguments.keep or Path(tempfile.mkdtemp(prefix="p2pnodes-faults-"))) / name
        again = f"again: python -m tests.faults {name} --seed {arguments.seed} --strikes {strikes}"
        kept = f"  databases, logs and the book: {directory}\n  {again}"
        try:
            outcome = asyncio.run(_run(name, directory, arguments.seed, strikes, quiet=arguments.json))
        except DevnetError as error:  # it has not begun
            sys.exit(f"{name}: {error}\n{kept}")
        except Exception:  # noqa: BLE001 - the suite itself is broken; the others have their turn
            failed = True
            print(f"{traceback.format_exc()}{name}: FAILED: it ended by the error above\n{kept}", file=sys.stderr)
            continue
        print(json.dumps(outcome._asdict()) if arguments.json else told(outcome))
        if outcome.complaints:
            failed = True
            print(kept, file=sys.stderr)
        elif arguments.keep is None:
            shutil.rmtree(directory.parent)
    return int(failed)


def told(outcome: Outcome) -> str:
    """An outcome for people."""
    struck = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.strikes.items())) or "none"
    faults, gpus = outcome.strikes.total(), outcome.totals
    lines = [
        f"{outcome.suite}: {faults} faults ({struck}), seed {outcome.seed}, {outcome.seconds:.0f} s",
        f"  {outcome.acknowledged} writes acknowledged, {outcome.events} events on each peer",
        f"  GPUs: {gpus.listed} listed, {gpus.gone} deleted, {gpus.open} of unknown fate",
    ]
    lines += [f"  {name}: {json.dumps(figures)}" for name, figures in outcome.figures.items()]
    lines += [f"  FAILED: {complaint}" for complaint in outcome.complaints]
    return "\n".join([*lines, *([] if outcome.complaints else ["  nothing lost, no fork, all roots equal"])])


async def _run(name: str, directory: Path, seed: int, strikes: int, *, quiet: bool) -> Outcome:
    directory.mkdir(parents=True, exist_ok=True)
    book = Book(directory / "book.jsonl")

    def say(line: str) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"\r\033[K{name}: {line}", end="", file=sys.stderr, flush=True)

    try:
        scene = SUITES[name](directory / "net", random.Random(seed))
        try:
            return await play(scene, book, seed=seed, strikes=strikes, say=say)
        finally:
            scene.leave()
    finally:
        book.close()
        if not quiet and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _apart() -> int:
    """Run the same command in namespaces of its own, where nothing it does outlives it."""
    command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "tests.faults"]
    return subprocess.run([*command, *sys.argv[1:]], env=os.environ | {APART: "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
