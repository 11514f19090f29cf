"""Three daemons against a cluster of three etcd, real processes on this machine: ``python -m tests.bench etcd``.

What is counted is acknowledged writes per second that all three have: from when the first was sent until the last was
durable everywhere. All clients of a run write at all three members at once, over kept connections, each the next write
when the one before is answered; requests are signed before the clock runs. Writes are

- POST of 1 and of 8 GPUs: a signed registration, one acknowledged write. Each daemon that holds it has checked two
  signatures (the miner's and the author's), recounted its GPUs' rows and their state root, and committed
  (synchronous=FULL). Nobody casts votes, which come minutes later in life;
- DELETE of a GPU: the smallest write that a miner makes.

Against them, in the same rounds, turn about:

- *through etcd*: the same requests to three daemons that keep their registry in etcd (``through.py``): the same HTTP,
  the same check of the miner's signature, a put, and rows from a watch, but no votes, no state root, no signed log;
- *puts*: bare puts into etcd of as many bytes as the signed request has, over its own protocol by a client that costs
  next to nothing (``grpc.py``). Nobody looks at what they say, and nothing can be asked but keys: what a registry costs
  beyond storage is not in it. And puts of 400 bytes, one for each GPU, as if each row were a key of its own.

Where others use the machine, too, the side with fewer processes gets less of it: then the processor time of a write,
which is shown beside the rates, tells more than these do.

etcd is Debian's package ``etcd-server``, or what ``--etcd`` names. It runs as it comes, but with patience for a busy
machine (a heartbeat of 500 ms), so that no election is among the figures. Where there is none this is NOT RUN, exit 2.
Exit 1 when ours take fewer writes than the same would come to through etcd.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import MINERS
from p2pnodes.model.requests import Add, Request, bound_purpose, sign_add, sign_delete
from tests.bench import grpc
from tests.bench.load import Connection, HttpConnection, Load, answered, delete, drive, post
from tests.bench.loopback import STALLED_S, START_S_MAX, STOP_S_MAX, Daemons, cpu_of, number_up_to, taken_s
from tests.bench.measure import progress
from tests.bench.recorded import RECORD_BYTES
from tests.bench.world import uuids
from tests.e2e.waiting import eventually
from tests.support import body, hotkey

MEMBERS: Final = 3
WRITES: Final = 1_500
WRITES_MAX: Final = 4_000
"""Of a kind in a round: all of its claims are open at its end (``store.admission.OPEN_CLAIMS_PER_MINER_MAX``)."""

ROUNDS: Final = 3
ROUNDS_MAX: Final = 100
CLIENTS: Final = 128
CLIENTS_MAX: Final = 1_024
PUT_BYTES: Final = 400
WARM_WRITES: Final = 60
"""Before each side's first run; not counted."""

HEARTBEAT_MS: Final = 500
ELECTION_MS: Final = 5_000
"""Five times what etcd has by default."""

NOT_RUN: Final = 2
"""Exit code when there is no etcd."""

POLL_S: Final = 0.02

OURS: Final = "three daemons"
THROUGH: Final = "three daemons' interfaces over etcd"
PUTS: Final = "puts"
"""What runs in a round."""


class Kind(NamedTuple):
    """What is written: its name, the GPUs that one write names (0: it deletes one), and the status of its answer."""

    name: str
    gpus: int
    status: int


KINDS: Final = (Kind("POST of 1 GPU", 1, 202), Kind("POST of 8 GPUs", 8, 202), Kind("DELETE of 1 GPU", 0, 200))
"""In the order in which they run: the last deletes what the first registered."""


class Run(NamedTuple):
    """What came of one run.

    Attributes:
        acknowledged: Writes per second, until the last was answered.
        everywhere: Writes per second, until the last was durable at all members.
        cpu_ms: Processor time of all processes of this side for each write.
        driver: Share of one core that the load generator took, 0 to 1.
        others: Share of the machine's cores that programs had which take no part, and the hypervisor: 0 to 1.
    """

    acknowledged: float
    everywhere: float
    cpu_ms: float
    driver: float
    others: float


class Side(ABC):
    """Three running members.

    Attributes:
        name: For people.
        ports: Where they take writes.
        pids: Of all processes.
        connect: How they are talked to.
    """

    connect: Callable[[int], Connection] = HttpConnection

    def __init__(self, name: str, ports: Sequence[int], pids: Sequence[int]) -> None:
        self.name: Final = name
        self.ports: Final = ports
        self.pids: Final = pids

    @abstractmethod
    async def held(self) -> list[int]:
        """How many writes each member has."""

    async def run(self, requests: Sequence[bytes], status: int, clients: int) -> Run:
        """Write, and wait until all members have it.

        Raises:
            SystemExit: A write was refused, or did not arrive everywhere.
        """
        wanted = [held + len(requests) for held in await self.held()]
        cpu_before_s, taken_before_s = sum(map(cpu_of, self.pids)), taken_s() - time.process_time()

        def load() -> tuple[Load, float]:
            begin_s = time.thread_time()
            return drive(self.ports, requests, clients, connect=self.connect), time.thread_time() - begin_s

        done, driver_s = await asyncio.to_thread(load)
        acknowledged = answered(done, status)
        seen, seen_s = await self.held(), time.monotonic()
        while any(held < count for held, count in zip(seen, wanted, strict=True)):
            await asyncio.sleep(POLL_S)
            if (held := await self.held()) != seen:
                seen, seen_s = held, time.monotonic()
            elif time.monotonic() - seen_s > STALLED_S:
                raise SystemExit(
                    f"{self.name}: expected {wanted} writes at the members, found {seen}, and no more came"
                )
        seconds = (time.monotonic_ns() - done.moments[0]) / 1e9
        cpu_s = sum(map(cpu_of, self.pids)) - cpu_before_s
        others_s = taken_s() - time.process_time() - taken_before_s - cpu_s
        count, cores_s = len(requests), seconds * (os.cpu_count() or 1)
        return Run(
            acknowledged,
            count / seconds,
            cpu_s * 1000 / count,
            driver_s * acknowledged / count,
            max(0.0, others_s / cores_s),
        )


class Recorded(Side):
    """Members that note each write that is durable with them."""

    def __init__(self, name: str, ports: Sequence[int], pids: Sequence[int], records: Sequence[Path]) -> None:
        super().__init__(name, ports, pids)
        self._records = records

    async def held(self) -> list[int]:
        """By the size of their records."""
        return [record.stat().st_size // RECORD_BYTES for record in self._records]


class Bare(Side):
    """etcd itself."""

    connect = grpc.GrpcConnection

    async def held(self) -> list[int]:
        """What each member answers by itself."""
        found = []
        for port in self.ports:
            async with grpc.connected(port, grpc.RANGE) as client:
                found.append(grpc.counted(await client.call(grpc.count_all())))
        return found


@asynccontextmanager
async def daemons(directory: Path) -> AsyncIterator[Side]:
    """Running daemons."""
    side = Daemons(directory, MEMBERS)
    await side.net.start()
    try:
        await side.quiet()
        yield Recorded(OURS, [int(url.rpartition(":")[2]) for url in side.net.urls], side.pids, side.records)
    finally:
        await side.net.stop()


@asynccontextmanager
async def cluster(directory: Path, etcd: str) -> AsyncIterator[Bare]:
    """Running members of etcd."""
    ports = free_ports(2 * MEMBERS)
    clients, peers = ([f"http://127.0.0.1:{port}" for port in some] for some in (ports[:MEMBERS], ports[MEMBERS:]))
    initial = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
    async with AsyncExitStack() as stack:
        pids = []
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            command = [
                etcd, "--name", f"m{number}", "--data-dir", str(directory / f"m{number}"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", initial,
                "--heartbeat-interval", str(HEARTBEAT_MS), "--election-timeout", str(ELECTION_MS),
                "--logger", "zap", "--log-level", "error",
            ]  # fmt: skip
            pids.append((await stack.enter_async_context(_process(command, directory / f"m{number}.log"))).pid)
        side = Bare("etcd", ports[:MEMBERS], pids)

        async def takes_writes() -> bool:
            try:
                for port in side.ports:
                    async with grpc.connected(port, grpc.PUT) as client:
                        await client.call(grpc.put(b"ready", b""))
            except ConnectionError:
                return False
            return True

        await eventually(takes_writes)
        yield side


@asynccontextmanager
async def through(directory: Path, etcd: str) -> AsyncIterator[Side]:
    """Running daemons' interfaces over etcd."""
    async with cluster(directory, etcd) as members, AsyncExitStack() as stack:
        ports, pids, records = [], list(members.pids), []
        for number, port in enumerate(members.ports):
            database, record = directory / f"{number}.db", directory / f"{number}.record"
            command = [sys.executable, "-m", "tests.bench.through", str(port), str(database), str(record)]
            process = await stack.enter_async_context(_process(command, record.with_suffix(".log")))
            assert process.stdout is not None
            ports.append(int(await asyncio.wait_for(process.stdout.readline(), START_S_MAX)))
            pids.append(process.pid)
            records.append(record)
        yield Recorded(THROUGH, ports, pids, records)


@asynccontextmanager
async def _process(command: Sequence[str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()


def signed(kind: Kind, first: int, count: int) -> list[Request]:
    """Requests that the devnet's miners signed; deletions are of what registrations of one GPU have registered."""
    requests: list[Request] = []
    for number in range(first, first + count):
        miner, now_s = hotkey(MINERS[number % len(MINERS)]), int(time.time())
        if kind.gpus:
            requests.append(sign_add(miner, now_s, body(uuids(number, kind.gpus))))
        else:
            requests.append(sign_delete(miner, now_s + 1, bound_purpose(*uuids(number, 1))))
    return requests


def raw(request: Request) -> bytes:
    """A signed request over HTTP."""
    return post(request) if isinstance(request, Add) else delete(request, request.purpose.rpartition(":")[2])


def size_bytes(request: Request) -> int:
    """What a registry must keep of a signed request: what was signed, by whom, when, and the signature."""
    content = request.body if isinstance(request, Add) else request.purpose.encode()
    return len(content) + len(request.signature) + len(request.hotkey) + len(request.nonce)


def puts(prefix: str, count: int, size: int) -> list[bytes]:
    """Puts of new keys, each with another value."""
    return [grpc.put(f"{prefix}/{number}".encode(), os.urandom(size)) for number in range(count)]


async def measure(
    directory: Path, etcd: str, *, writes: int, clients: int, rounds: int
) -> dict[Kind, dict[str, list[Run]]]:
    """Kind -> what writes it -> a run for each round."""
    found: dict[Kind, dict[str, list[Run]]] = {kind: {} for kind in KINDS}
    for number in range(rounds):
        order = (OURS, THROUGH, PUTS) if number % 2 == 0 else (PUTS, THROUGH, OURS)
        for index, name in enumerate(order):
            place = directory / f"{number}-{index}"
            place.mkdir()
            progress(f"round {number + 1} of {rounds}: {name}")
            if name == PUTS:
                async with cluster(place, etcd) as members:
                    await members.run(puts("warm", WARM_WRITES, PUT_BYTES), grpc.OK, clients)
                    for kind in KINDS:
                        size = size_bytes(signed(kind, 0, 1)[0])
                        run = await members.run(puts(kind.name, writes, size), grpc.OK, clients)
                        found[kind].setdefault(f"etcd, a put of {size:,} bytes each", []).append(run)
                    run = await members.run(puts("rows", writes, PUT_BYTES), grpc.OK, clients)
                    for kind in KINDS:
                        found[kind].setdefault(f"etcd, a put of {PUT_BYTES} bytes for each GPU", []).append(
                            each(run, max(1, kind.gpus))
                        )
                continue
            async with daemons(place) if name == OURS else through(place, etcd) as side:
                await side.run(list(map(raw, signed(KINDS[0], 3 * WRITES_MAX, WARM_WRITES))), 202, clients)
                for kind in KINDS:
                    first = writes if kind.gpus > 1 else 0
                    requests = list(map(raw, signed(kind, first, writes)))
                    found[kind].setdefault(name, []).append(await side.run(requests, kind.status, clients))
    progress("")
    return found


def each(run: Run, parts: int) -> Run:
    """The figures of writes that are so many puts each."""
    return run._replace(
        acknowledged=run.acknowledged / parts, everywhere=run.everywhere / parts, cpu_ms=run.cpu_ms * parts
    )


def median(runs: Sequence[Run]) -> Run:
    """Of each figure."""
    return Run(*(statistics.median(values) for values in zip(*runs, strict=True)))


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """How many times as many writes a second ours take, everywhere: the median of each round's."""
    return statistics.median(one.everywhere / two.everywhere for one, two in zip(ours, theirs, strict=True))


def told(found: Mapping[Kind, Mapping[str, Sequence[Run]]]) -> str:
    """For people."""
    lines = []
    for kind, sides in found.items():
        lines.append(
            f"{kind.name:44}{'answered/s':>11}{'everywhere/s':>13}{'CPU ms':>8}{'driver':>8}{'others':>8}{'ours':>8}"
        )
        for name, runs in sides.items():
            run = median(runs)
            times = "" if name == OURS else f"{ratio(sides[OURS], runs):.2f}x"
            lines.append(
                f"  {name:42}{run.acknowledged:>11,.0f}{run.everywhere:>13,.0f}{run.cpu_ms:>8.2f}{run.driver:>8.2f}"
                f"{run.others:>8.2f}{times:>8}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Compare; 0 when ours take more than through etcd."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench etcd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--writes",
        type=number_up_to(WRITES_MAX),
        default=WRITES,
        help=f"of each kind in a round, up to {WRITES_MAX:,} (%(default)s)",
    )
    parser.add_argument("--clients", type=number_up_to(CLIENTS_MAX), default=CLIENTS, help="at once (%(default)s)")
    parser.add_argument("--rounds", type=number_up_to(ROUNDS_MAX), default=ROUNDS, help="medians of (%(default)s)")
    parser.add_argument("--etcd", metavar="FILE", help="the program (etcd, if it is on the PATH)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each kind")
    options = parser.parse_args(arguments)
    etcd = shutil.which(options.etcd or "etcd")
    if etcd is None:
        print(
            f"NOT RUN: there is no {options.etcd or 'etcd on the PATH'}; install Debian's etcd-server, or say where it "
            "is with --etcd FILE",
            file=sys.stderr,
        )
        return NOT_RUN
    with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
        found = asyncio.run(
            measure(Path(directory), etcd, writes=options.writes, clients=options.clients, rounds=options.rounds)
        )
    if options.json:
        for kind, sides in found.items():
            figures = {name: median(runs)._asdict() for name, runs in sides.items()}
            ratios = {name: ratio(sides[OURS], runs) for name, runs in sides.items() if name != OURS}
            print(json.dumps({"kind": kind.name, "clients": options.clients, "sides": figures, "ratios": ratios}))
    else:
        what = f"{options.clients} clients, {options.writes:,} writes of each kind, medians of {options.rounds} rounds"
        print(f"{MEMBERS} members on {os.cpu_count()} cores, {what}")
        print(told(found), flush=True)
    return int(any(ratio(sides[OURS], sides[THROUGH]) < 1 for sides in found.values()))
