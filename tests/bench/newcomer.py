"""What it costs a daemon with an empty disk to come by a live set: from the first slice to the last row.

python -m tests.bench newcomer --gpus 1000000 --gpus-per-claim 8

The database of whoever lends it is written first, in four minutes for a million GPUs. What comes is what peers send:
slices, each with the path that proves it, SLICES_PER_COMMIT to a transaction (synchronous=FULL). It has a process of
its own: reading them at the lender is not counted, nor is the way between the two.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import AddPayload, Event
from p2pnodes.model.keys import NodeKey, verify_node, verify_sr25519
from p2pnodes.store.checkpoints import Donor
from p2pnodes.store.ledger import Ledger, batched
from p2pnodes.store.proposing import proposal
from p2pnodes.store.schema import open_writer
from p2pnodes.store.signatures import SharedCheck
from tests.bench.catchup import rss_bytes
from tests.bench.measure import Ratio, costs, progress
from tests.bench.world import DAY_S, GPUS_PER_SERVER, NODE_SEED, fill, now_ms
from tests.bench.writes import verify_once
from tests.support import NETWORK

GPUS: Final = 20_000
ROUNDS: Final = 3

SLICES_PER_COMMIT: Final = 4
"""Half of those that may be under way (``gossip.loading.PENDING_MAX``): what waits for the writer shares a commit."""

DAYS: Final = 8
"""Age of what is loaded: older than the horizon."""

WANTED: Final = {1: 0.3, GPUS_PER_SERVER: 0.13}
"""GPUs of a claim -> what is wanted of its speed, less a fifth for a noisy machine; the aim is 0.5."""

STEP_S_MAX: Final = 0.1
MEMORY_MB: Final = 250.0
"""What a daemon may take."""


class Cost(NamedTuple):
    """Of one newcomer: CPU seconds in all, seconds of its longest transaction, MB of its process at most."""

    cpu_s: float
    step_s: float
    peak_mb: float


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


def newcomer(directory: Path, gpus: int = GPUS, per_claim: int | None = None) -> Iterator[Ratio]:
    """Loading a live set of so many GPUs, in claims of so many or of each number in WANTED."""
    for each in WANTED if per_claim is None else (per_claim,):
        progress(f"writing an inventory of {gpus:,} GPUs in claims of {each}")
        lender = Lender(directory / f"lender{each}.db", gpus, each)
        found = [(_lend(lender, directory / f"newcomer{each}-{number}.db"), _check(lender)) for number in range(ROUNDS)]
        name = f"loading {gpus:,} GPUs in claims of {each}"
        yield costs(
            f"{name}: CPU",
            "the signature checks of the same events alone, PyNaCl's and py-sr25519-bindings'",
            WANTED.get(each, 0.0),
            " s",
            [(cost.cpu_s, checks_s) for cost, checks_s in found],
        )
        yield costs(
            f"{name}: the longest transaction", "a tenth of a second", 0.0, " s",
            [(cost.step_s, STEP_S_MAX) for cost, _ in found],
        )  # fmt: skip
        yield costs(
            f"{name}: resident memory at most", "what a daemon may take", 0.0, " MB",
            [(cost.peak_mb, MEMORY_MB) for cost, _ in found],
        )  # fmt: skip
        lender.ledger.facts.close()


def _lend(lender: Lender, path: Path) -> Cost:
    """Have a process of its own load the live set into an empty database."""
    certificate = lender.ledger.checkpoints.certificate(lender.number)
    assert certificate is not None
    context = multiprocessing.get_context("spawn")  # a fork would begin with what the lender has in memory
    here, there = context.Pipe()
    process = context.Process(target=_load, args=(path, lender.ledger.weights.electorate, certificate, there))
    process.start()
    there.close()  # so that the end of the process shows here
    for indices in batched(lender.slices, SLICES_PER_COMMIT):
        here.send([(index, *lender.slice(index)) for index in indices])
        here.recv()  # it was taken: reading what comes next makes nobody wait meanwhile
    here.send(None)
    cost: Cost
    cost, root = here.recv()
    process.join()
    assert root == lender.ledger.state.state_root
    return cost


def _load(path: Path, who: Electorate, certificate: bytes, lender: Connection) -> None:
    """Load what a lender sends into an empty database; tell what that cost, and the state root."""
    ledger = Ledger(open_writer(path), NETWORK, NodeKey.from_seed(bytes(32)))
    check = SharedCheck()
    with ledger.transaction():
        ledger.set_electorate(who)
        ledger.begin_loading(certificate)
    peak = 0
    cpu_s = step_s = 0.0

    def step(work: Callable[[], object]) -> None:
        nonlocal cpu_s, step_s, peak
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        with ledger.transaction():
            work()
        cpu_s += time.process_time() - begun_cpu_s
        step_s = max(step_s, time.perf_counter() - begun_s)
        peak = max(peak, rss_bytes())

    while (brought := lender.recv()) is not None:
        step(lambda brought=brought: [ledger.load(*each, check=check) for each in brought])  # type: ignore[misc]
        lender.send(None)
    while ledger.state.settled is None:
        step(ledger.cut)
    lender.send((Cost(cpu_s, step_s, peak / 1e6), ledger.state.state_root))
    check.close()
    ledger.facts.close()


def _check(lender: Lender) -> float:
    """CPU seconds of the checks alone: the log's signature on each event, and the miner's on each registration."""
    _forget()
    return sum(_checked(lender.slice(index)[0]) for index in lender.slices)


def _checked(leaves: Sequence[tuple[int, bytes]]) -> float:
    events = [Event.decode(wire) for _, wire in leaves]
    requests = [AddPayload.from_wire(codec.unpack(event.payload)).request for event in events if event.kind == "add"]
    begun_s = time.process_time()
    assert all(event.signed() for event in events)
    assert all(verify_once(request) for request in requests)
    return time.process_time() - begun_s


def _forget() -> None:
    """Let no signature or body be known that was looked at just now."""
    verify_sr25519.cache_clear()
    verify_node.cache_clear()
    parse_body.cache_clear()
