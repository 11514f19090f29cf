"""``python -m tests.bench``: each suite against its limit; exit 1 when a wanted ratio is not reached."""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from nacl.signing import VerifyKey

from p2pnodes.model import codec
from p2pnodes.model.claims import parse_body
from p2pnodes.model.events import AddPayload, Event
from p2pnodes.model.keys import verify_node, verify_sr25519
from p2pnodes.store.checking import CheckerProcess
from p2pnodes.store.database import Database
from tests.bench import catchup, etcd, gossip, loopback, world, year
from tests.bench.chain import chain
from tests.bench.floor import GPUS_PER_POST
from tests.bench.growth import LARGE, growth
from tests.bench.measure import Ratio, compare, progress
from tests.bench.network import decide, travel
from tests.bench.newcomer import GPUS as GPUS_LOADED
from tests.bench.newcomer import newcomer
from tests.bench.reads import NODES, reads
from tests.bench.size import GPUS as GPUS_HELD
from tests.bench.size import size
from tests.bench.start import start
from tests.bench.tally import CLAIMS as CLAIMS_TALLIED
from tests.bench.tally import tally
from tests.bench.world import EVENTS_PER_COMMIT, MINERS, bring, now_ms, stream
from tests.bench.writes import verify_once, writes
from tests.support import NETWORK, electorate

CLAIMS: Final = 240
VALIDATORS: Final = 16
ADDS_PER_ROUND: Final = 2_048
EVENTS_BEFORE: Final = 1_536
"""Of the same kind, that come before those whose time is taken: from so many on a daemon has their signatures checked
by a process beside it (``store.ahead``)."""

ADDS: Final = {1: 0.4, 8: 0.15}
VERDICTS: Final = 0.45
"""GPUs of a registration -> wanted, and what is wanted of verdicts. The aim is 0.5 of registrations and 0.6 of
verdicts. Two cores that nobody else uses reach 0.66 of verdicts; a machine that lends one core, and whose disk takes
10 ms for a commit, a third less. What is left of a large registration is SQLite's work on four trees for each of its
GPUs and the check of each GPU's fields; of a verdict, two statements that write, two that look up, and its share of
what follows for rows."""


def apply(directory: Path) -> Iterator[Ratio]:
    """Storing and counting what peers send, against nothing but the checks of each event's signatures."""
    for gpus, wanted in ADDS.items():
        progress(f"signing claims of {gpus} GPUs")
        events = list(stream(EVENTS_BEFORE + ADDS_PER_ROUND, gpus, 1, apart=True))
        adds = [event for event in events if event.kind == "add"]
        first = [event for event in events if event.kind == "delegate"] + adds[:EVENTS_BEFORE]
        adds = adds[EVENTS_BEFORE:]
        yield compare(
            f"apply of remote adds of {gpus} GPUs, {EVENTS_PER_COMMIT} a commit",
            "their two signature checks: PyNaCl's of the event, py-sr25519-bindings' of the request",
            wanted,
            partial(_apply, directory, f"adds{gpus}", 1, first, adds),
            partial(_check, adds),
        )
    progress(f"signing {CLAIMS} claims of {GPUS_PER_POST} GPUs and {VALIDATORS} verdicts on each")
    events = list(stream(CLAIMS, GPUS_PER_POST, VALIDATORS, apart=True))
    verdicts = [event for event in events if event.kind == "verdict"]
    first = [event for event in events if event.kind != "verdict"] + verdicts[:EVENTS_BEFORE]
    verdicts = verdicts[EVENTS_BEFORE:]
    yield compare(
        f"apply of remote verdicts: {VALIDATORS} a claim of {GPUS_PER_POST} GPUs, {EVENTS_PER_COMMIT} a commit",
        "PyNaCl's ed25519 verification of each",
        VERDICTS,
        partial(_apply, directory, "verdicts", VALIDATORS, first, verdicts),
        partial(_check, verdicts),
    )


def _apply(  # noqa: PLR0917 - what a round is made of
    directory: Path, name: str, validators: int, before: Sequence[Event], events: Sequence[Event], number: int
) -> float:
    """Events that a database takes in per second, one that has those before."""
    return asyncio.run(_brought(directory / f"{name}-{number}.db", validators, before, events))


async def _brought(path: Path, validators: int, before: Sequence[Event], events: Sequence[Event]) -> float:
    database = await Database.open(path, NETWORK, None, now_ms=now_ms, checker=CheckerProcess())
    stakes = {f"//validator{index}": 100 for index in range(validators)}
    await database.set_electorate(electorate(time_ms=now_ms(), stakes=stakes, miners=MINERS))
    await bring(database, [event.wire for event in before])
    verify_sr25519.cache_clear()
    verify_node.cache_clear()
    parse_body.cache_clear()
    begin = time.perf_counter()
    await bring(database, [event.wire for event in events])
    seconds = time.perf_counter() - begin
    await database.close()
    return len(events) / seconds


def _check(events: Sequence[Event], _: int) -> float:
    """Events per second whose signatures are checked: their logs' and, of an add, its miner's."""
    requests = [AddPayload.from_wire(codec.unpack(event.payload)).request for event in events if event.kind == "add"]
    begin = time.perf_counter()
    for event in events:
        VerifyKey(event.log.node_key).verify(event.header, event.signature)
    for request in requests:
        assert verify_once(request)
    return len(events) / (time.perf_counter() - begin)


def _shown(figure: float, unit: str) -> str:
    return f"{figure:,.0f}{unit}" if figure >= 10 else f"{figure:.3g}{unit}"


SUITES: Final[dict[str, Callable[[Path], Iterator[Ratio]]]] = {
    "reads": reads,
    "writes": writes,
    "start": start,
    "apply": apply,
    "travel": travel,
    "decide": decide,
    "growth": growth,
    "tally": tally,
    "newcomer": newcomer,
    "size": size,
    "chain": chain,
}
"""By name, in the order in which they run."""

PROGRAMS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "catchup": catchup.main,
    "etcd": etcd.main,
    "fill": world.main,
    "gossip": gossip.main,
    "loopback": loopback.main,
    "year": year.main,
}
"""Benchmarks with options and tables of their own; each is run alone and takes the rest of the command line."""


def main() -> int:
    """Run the benchmarks; 0 when every ratio is reached."""
    if len(sys.argv) > 1 and sys.argv[1] in PROGRAMS:
        return PROGRAMS[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = f"{', '.join(SUITES)} (all); alone, with options of its own: {', '.join(PROGRAMS)}"
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=known)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each result")
    parser.add_argument("--claims", type=int, default=CLAIMS_TALLIED, help="claims that tally counts (%(default)s)")
    parser.add_argument(
        "--gpus-per-claim",
        type=int,
        choices=range(1, 11),
        metavar="GPUS",
        help="of each of them (1), or of those that newcomer loads (1, then 10): 1 to 10",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        help=f"of the inventory of reads and start ({NODES}), of what newcomer loads ({GPUS_LOADED}), and of the large"
        f" inventory of growth ({LARGE}) and size ({GPUS_HELD})",
    )
    parser.add_argument(
        "--database", type=Path, metavar="FILE", help="for reads, start and size: copy this one, which fill has written"
    )
    arguments = parser.parse_args()
    suites: dict[str, Callable[[Path], Iterator[Ratio]]]
    suites = {
        **SUITES,
        "tally": partial(tally, claims=arguments.claims, gpus=arguments.gpus_per_claim or 1),
        "newcomer": partial(newcomer, gpus=arguments.gpus or GPUS_LOADED, per_claim=arguments.gpus_per_claim),
        "growth": partial(growth, gpus=arguments.gpus),
        "size": partial(size, gpus=arguments.gpus or GPUS_HELD, database=arguments.database),
        "reads": partial(reads, nodes=arguments.gpus or NODES, database=arguments.database),
        "start": partial(start, nodes=arguments.gpus or NODES, database=arguments.database),
    }
    if unknown := [name for name in arguments.suites if name not in suites]:
        parser.error(f"no suite {unknown[0]!r}: there are {', '.join(suites)}")
    random.seed(0)
    failed = False
    with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
        for name in arguments.suites or suites:
            for result in suites[name](Path(directory)):
                failed |= result.ratio < result.wanted
                if arguments.json:
                    print(json.dumps(result._asdict()), flush=True)
                    continue
                verdict = "TOO SLOW" if result.ratio < result.wanted else "ok"
                progress("")
                print(result.name, flush=True)
                ours, limit = (_shown(figure, result.unit) for figure in (result.ours, result.limit))
                print(f"    {ours} against {limit}: {result.against}")
                wanted = f"wanted {result.wanted:.2f}: {verdict}" if result.wanted else "for comparison"
                print(f"    ratio {result.ratio:.2f}, {wanted}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
