"""What it costs a daemon with an empty disk to come by a live set: from the first slice to the last row.

python -m tests.bench newcomer --gpus 1000000 --gpus-per-claim 8

The database of whoever lends it is written first, in four minutes for a million GPUs. What comes is what peers send:
slices, each with the path that proves it, as many at once as a daemon has under way; they go the way that a daemon has
them go, through ``Database.load``, with a process that checks signatures beside it where there are two cores. They are
read from a file by a process of its own: reading them at the lender is not counted, nor is the way between the two.

Wall time is measured as well as the CPU of both processes: with a second core that nobody uses the former is the
smaller one, on a machine that is busy it says nothing.
"""

import asyncio
import gc
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from p2pnodes.gossip.loading import PENDING_MAX
from p2pnodes.model import codec
from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import AddPayload, Event
from p2pnodes.model.keys import NodeKey, verify_node, verify_sr25519
from p2pnodes.store.checking import CheckerProcess
from p2pnodes.store.checkpoints import Donor
from p2pnodes.store.database import Database, Written
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found
from p2pnodes.store.proposing import proposal
from p2pnodes.store.schema import open_writer
from tests.bench.catchup import rss_bytes
from tests.bench.measure import Ratio, costs, progress
from tests.bench.world import DAY_S, GPUS_PER_SERVER, NODE_SEED, fill, now_ms
from tests.bench.writes import verify_once
from tests.support import NETWORK

GPUS: Final = 20_000
ROUNDS: Final = 3

DAYS: Final = 8
"""Age of what is loaded: older than the horizon."""

WANTED: Final = {1: 0.4, GPUS_PER_SERVER: 0.15}
"""GPUs of a claim -> what is wanted of the speed of the daemon's own CPU, which is what it takes where a second core is
free, less a fifth for a noisy machine; the aim is 0.5."""

STEP_S_MAX: Final = 0.1
"""What others may have to wait for beside a load. Behind its rows each index is laid at once (``store.indexes``), which
takes longer from some 100,000 GPUs on; nothing is served yet then."""

MEMORY_MB: Final = 250.0
"""What a daemon may take."""


class Cost(NamedTuple):
    """Of one newcomer.

    Attributes:
        wall_s: Seconds from the first slice to the last row.
        cpu_s: Seconds of CPU of the daemon in these.
        checker_cpu_s: Of the process that checks signatures, its start included; 0 where there is none.
        step_s: Seconds of the longest transaction.
        peak_mb: Resident memory at most of the daemon.
        checker_mb: Of the process beside it.
    """

    wall_s: float
    cpu_s: float
    checker_cpu_s: float
    step_s: float
    peak_mb: float
    checker_mb: float


class Checks(NamedTuple):
    """What the signature checks of the same events cost alone, on one core: seconds, and seconds of CPU."""

    wall_s: float
    cpu_s: float


class Lender:
    """A validator that has put a checkpoint in force, and what it sends."""

    def __init__(self, path: Path, gpus: int, per_claim: int) -> None:
        fill(path, gpus, per_claim)
        self.ledger = Ledger(open_writer(path), NETWORK, NodeKey.from_seed(NODE_SEED))
        self.ledger.writes_refused = None
        now, held = now_ms(), self.ledger.weights.electorate.current
        later = held._replace(block=held.block + NETWORK.epoch_blocks, time_ms=now + DAYS * DAY_S * 1000)
        progress("finding the live set")
        with self.ledger.transaction():
            self.ledger.set_electorate(Electorate(later, held))
            payload = proposal(self.ledger)
            assert payload is not None
            proposed = self.ledger.append(lambda _: payload, now)
        line = self.ledger.checkpoints.line_of(proposed.id)
        assert line is not None
        statement = None
        while statement is None:
            with self.ledger.transaction():
                statement = self.ledger.find_live_set(line)
        with self.ledger.transaction():
            self.ledger.append(lambda _: statement, now)
            self.ledger.enforce()
        self.number, self.slices = statement.number, range(statement.slices)
        self._donor = Donor()

    def slice(self, index: int) -> tuple[list[tuple[int, bytes]], list[bytes]]:
        """Mask and event of each leaf of a slice, and its path."""
        return self._donor.slice(self.ledger.facts.connection, self.number, index)

    def spool(self, path: Path) -> None:
        """Write all slices to a file, each with its index and with its length before it."""
        with path.open("wb") as file:
            for index in self.slices:
                leaves, proof = self.slice(index)
                data = codec.pack([index, [list(leaf) for leaf in leaves], proof])
                file.write(len(data).to_bytes(4) + data)


def newcomer(directory: Path, gpus: int = GPUS, per_claim: int | None = None) -> Iterator[Ratio]:
    """Loading a live set of so many GPUs, in claims of so many or of each number in WANTED."""
    for each in WANTED if per_claim is None else (per_claim,):
        progress(f"writing an inventory of {gpus:,} GPUs in claims of {each}")
        lender = Lender(directory / f"lender{each}.db", gpus, each)
        lender.spool(directory / f"slices{each}")
        found = [
            (lend(lender, directory / f"slices{each}", directory / f"newcomer{each}-{number}.db"), check(lender))
            for number in range(ROUNDS)
        ]
        name = f"loading {gpus:,} GPUs in claims of {each}"
        alone = "the signature checks of the same events alone, PyNaCl's and py-sr25519-bindings'"
        yield costs(
            f"{name}: CPU of the daemon", alone, WANTED.get(each, 0.0), " s",
            [(cost.cpu_s, checks.cpu_s) for cost, checks in found],
        )  # fmt: skip
        yield costs(
            f"{name}: CPU of the daemon and of the process that checks beside it", alone, 0.0, " s",
            [(cost.cpu_s + cost.checker_cpu_s, checks.cpu_s) for cost, checks in found],
        )  # fmt: skip
        yield costs(
            f"{name}: wall time", f"{alone}, on one core", 0.0, " s",
            [(cost.wall_s, checks.wall_s) for cost, checks in found],
        )  # fmt: skip
        yield costs(
            f"{name}: the longest transaction", "a tenth of a second", 0.0, " s",
            [(cost.step_s, STEP_S_MAX) for cost, _ in found],
        )  # fmt: skip
        yield costs(
            f"{name}: resident memory at most, of both processes", "what a daemon may take", 0.0, " MB",
            [(cost.peak_mb + cost.checker_mb, MEMORY_MB) for cost, _ in found],
        )  # fmt: skip
        lender.ledger.facts.close()


def lend(lender: Lender, slices: Path, path: Path, *, ahead: bool = True) -> Cost:
    """Have a process of its own load the live set into an empty database."""
    certificate = lender.ledger.checkpoints.certificate(lender.number)
    assert certificate is not None
    context = multiprocessing.get_context("spawn")  # a fork would begin with what the lender has in memory
    here, there = context.Pipe()
    arguments = (path, lender.ledger.weights.electorate, certificate, lender.number, slices, ahead, there)
    process = context.Process(target=_load, args=arguments)
    process.start()
    there.close()  # so that the end of the process shows here
    cost: Cost
    cost, root = here.recv()
    process.join()
    assert root == lender.ledger.state.state_root
    return cost


def _load(  # noqa: PLR0917 - what a newcomer is made of
    path: Path, who: Electorate, certificate: bytes, number: int, slices: Path, ahead: bool, answer: Connection
) -> None:
    """Load slices into an empty database; tell what that cost, and the state root."""
    answer.send(asyncio.run(_loaded(path, who, certificate, number, slices, CheckerProcess() if ahead else None)))


async def _loaded(  # noqa: PLR0917 - the same
    path: Path, who: Electorate, certificate: bytes, number: int, slices: Path, checker: CheckerProcess | None
) -> tuple[Cost, bytes]:
    database = await Database.open(path, NETWORK, NodeKey.from_seed(bytes(32)), now_ms=now_ms, checker=checker)
    await database.set_electorate(who)
    await database.write(lambda ledger: ledger.begin_loading(certificate))
    peak = checker_peak = 0
    step_s = 0.0

    def written(what: Written) -> None:
        nonlocal peak, checker_peak, step_s
        step_s = max(step_s, what.work_s + what.commit_s)
        peak = max(peak, rss_bytes())
        if checker is not None and checker.pid is not None:
            checker_peak = max(checker_peak, rss_bytes(checker.pid))

    database.on_written = written
    gc.freeze()  # as a daemon does when it is there
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    under_way: set[asyncio.Task[Answer]] = set()
    with slices.open("rb") as file:
        while length := file.read(4):
            under_way.add(asyncio.create_task(database.load(number, *_unpacked(file.read(int.from_bytes(length))))))
            while len(under_way) >= PENDING_MAX:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                assert all(task.result().found is Found.TAKEN for task in done)
    assert all(answer.found is Found.TAKEN for answer in await asyncio.gather(*under_way))
    while database.state.settled is None:
        await database.write(Ledger.cut)
    wall_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    root = database.state.state_root
    await database.close()
    beside = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall_s, cpu_s, beside.ru_utime + beside.ru_stime, step_s, peak / 1e6, checker_peak / 1e6), root


def _unpacked(data: bytes) -> tuple[int, list[tuple[int, bytes]], list[bytes]]:
    index, leaves, path = codec.fields(codec.unpack(data), 3, "slice")
    return cast("int", index), [(mask, wire) for mask, wire in cast("Any", leaves)], cast("list[bytes]", path)


def check(lender: Lender) -> Checks:
    """The checks alone: the log's signature on each event, and the miner's on each registration."""
    _forget()
    gc.collect()
    found = [_checked(lender.slice(index)[0]) for index in lender.slices]
    return Checks(sum(each.wall_s for each in found), sum(each.cpu_s for each in found))


def _checked(leaves: Sequence[tuple[int, bytes]]) -> Checks:
    events = [Event.decode(wire) for _, wire in leaves]
    requests = [AddPayload.from_wire(codec.unpack(event.payload)).request for event in events if event.kind == "add"]
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    assert all(event.signed() for event in events)
    assert all(verify_once(request) for request in requests)
    return Checks(time.perf_counter() - begun_s, time.process_time() - begun_cpu_s)


def _forget() -> None:
    """Let no signature or body be known that was looked at just now."""
    verify_sr25519.cache_clear()
    verify_node.cache_clear()
    parse_body.cache_clear()
