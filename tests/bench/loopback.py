"""Real processes on loopback: daemons against py-libp2p's gossipsub, ``python -m tests.bench loopback``.

Both sides are eight processes on this machine, full mesh, and one of them gets all events. With us a miner posts them:
signed registrations of one GPU each over HTTP. That daemon checks the miner's signature, commits (synchronous=FULL) and
signs an event; each of the others checks both signatures and commits, too, before the event counts as delivered. With
gossipsub a message of the size of the signed registration is published in the process itself; each of the others checks
the publisher's signature and hands it to its application, which keeps nothing. So an event is more work with us.

Time is taken in the same way: CLOCK_MONOTONIC, which all processes of a machine share, from when an event was handed
over (with a pace: from when it was due) until each of the seven other processes notes that it has it. Rounds are turn
about, each with new processes; what is shown are medians of the rounds.

gossipsub comes from PyPI, into an environment of its own: the extra ``bench`` of pyproject.toml, which is installed
beside nothing of ours. ``--rival-python`` names an interpreter that has it already; with ``--alone`` there is no rival
and one pace, full speed. Exit 1 when we are not better, or when an event does not reach all seven others.
"""

import argparse
import asyncio
import importlib.util
import json
import math
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import MINERS, Devnet
from p2pnodes.model import codec
from p2pnodes.model.events import AddPayload, Event
from p2pnodes.model.requests import Add, sign_add
from p2pnodes.process import MALLOC_ARENAS
from tests.bench.load import answered, drive, post
from tests.bench.measure import progress, share
from tests.bench.recorded import RECORD, RECORD_BYTES
from tests.bench.world import uuids
from tests.support import body, hotkey

PEERS: Final = 8
EVENTS: Final = 1_000
ROUNDS: Final = 3
COUNT_MAX: Final = 4_000
"""Events in a run, or rounds: no more find room in the rival's queues (``rival.QUEUE_MAX``), and all claims of a round
are open at its end, of which a daemon takes so many from a miner (``store.admission.OPEN_CLAIMS_PER_MINER_MAX``)."""

WARM_EVENTS: Final = 20
"""Before the first run of a round, at the slowest pace; not counted."""

PACES: Final[tuple[float | None, ...]] = (10.0, 100.0, None)
"""Events per second; None: as fast as the peer takes them. On two cores gossipsub keeps up with the first alone."""

PACED_S_MAX: Final = 20.0
"""Length of a run with a pace: it has fewer events where all would take longer."""

CLIENTS: Final = 16
"""Miners at once."""

STALLED_S: Final = 10.0
"""With nothing delivered for so long, the rest counts as lost."""

QUIET_CORES: Final = 0.25
QUIET_S: Final = 0.5
QUIET_S_MAX: Final = 60.0
"""Before a run, its side must be done with the one before: its peers take less than so many cores for so long. A side
that is not done in the longest time begins all the same."""

POLL_S: Final = 0.02
START_S_MAX: Final = 90.0
PUBLISH_S_MAX: Final = 600.0
INSTALL_S_MAX: Final = 600.0
STOP_S_MAX: Final = 10.0
LINE_BYTES_MAX: Final = 1 << 20
"""Of an answer of gossipsub's processes: the times of EVENTS messages take some 20 kB."""

_ROOT: Final = Path(__file__).parents[2]
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class Run(NamedTuple):
    """What came of one run.

    Attributes:
        delivered: Events that arrived, summed over the receiving peers.
        lost: Those that did not.
        per_s: Delivered events per second, from the first that was handed over to the last that arrived.
        p50_ms, p99_ms: From when an event was handed over until a peer had it, over all that arrived.
        cpu_ms: Processor time of all peers for each delivered event.
        others: Share of the machine's cores that programs had which take no part, and the hypervisor: 0 to 1.
    """

    delivered: int
    lost: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    others: float


def run_of(moments: Mapping[bytes, int], records: Sequence[bytes], *, cpu_s: float, others: float) -> Run:
    """Put the notes of a run together.

    Args:
        moments: Key of each event -> when it was handed over (ns).
        records: Of each receiving peer, all notes since then (``RECORD``); what comes again or is foreign is left out.
        cpu_s: Processor time that all peers took together.
        others: See ``Run``.

    Raises:
        SystemExit: Nothing arrived.
    """
    latencies_ns: list[int] = []
    end_ns = 0
    for record in records:
        arrived: dict[bytes, int] = {}
        for key, at_ns in RECORD.iter_unpack(record):
            if key in moments:
                arrived.setdefault(key, at_ns)
        latencies_ns += (at_ns - moments[key] for key, at_ns in arrived.items())
        end_ns = max(end_ns, *arrived.values(), 0)
    if not latencies_ns:
        raise SystemExit("not one event arrived at another peer")
    return Run(
        len(latencies_ns),
        len(moments) * len(records) - len(latencies_ns),
        len(latencies_ns) / ((end_ns - min(moments.values())) / 1e9),
        statistics.median(latencies_ns) / 1e6,
        share(latencies_ns, 0.99) / 1e6,
        cpu_s * 1000 / len(latencies_ns),
        others,
    )


class Side(ABC):
    """Some running peers, the first of which gets the events."""

    def __init__(self, directory: Path, peers: int = PEERS) -> None:
        """Keep everything in a directory that is there."""
        self.directory: Final = directory
        self.records: Final = [directory / f"{index}.record" for index in range(peers)]
        for record in self.records:
            record.touch()

    @property
    @abstractmethod
    def pids(self) -> list[int]:
        """Of the peers' processes."""

    @abstractmethod
    async def publish(self, events: int, per_s: float | None) -> Mapping[bytes, int]:
        """Hand events to the first peer; the begin of each one's key in the records -> when (ns)."""

    async def run(self, events: int, per_s: float | None) -> Run:
        """Hand events over, and wait until all others have them, or get no more."""
        if per_s is not None:
            events = min(events, int(per_s * PACED_S_MAX))
        await self.quiet()
        before = [record.stat().st_size for record in self.records]
        begin_s, cpu_before_s, taken_before_s = time.monotonic(), self.cpu_s(), taken_s() - time.process_time()
        moments = await self.publish(events, per_s)
        seen, seen_s = -1, time.monotonic()
        while True:
            sizes = [record.stat().st_size - old for record, old in zip(self.records, before, strict=True)]
            if min(sizes[1:]) >= events * RECORD_BYTES:
                break
            if sum(sizes) > seen:
                seen, seen_s = sum(sizes), time.monotonic()
            elif time.monotonic() - seen_s > STALLED_S:
                break
            await asyncio.sleep(POLL_S)
        cpu_s = self.cpu_s() - cpu_before_s
        others_s = taken_s() - time.process_time() - taken_before_s - cpu_s
        cores_s = (time.monotonic() - begin_s) * (os.cpu_count() or 1)
        notes = [record.read_bytes()[old:] for record, old in zip(self.records, before, strict=True)]
        return run_of(moments, notes[1:], cpu_s=cpu_s, others=max(0.0, others_s / cores_s))

    def cpu_s(self) -> float:
        """Seconds that the peers have had a core so far."""
        return sum(map(cpu_of, self.pids))

    async def quiet(self) -> None:
        """Wait until nothing is under way among the peers any more."""
        deadline = time.monotonic() + QUIET_S_MAX
        while time.monotonic() < deadline:
            before_s = self.cpu_s()
            await asyncio.sleep(QUIET_S)
            if self.cpu_s() - before_s < QUIET_CORES * QUIET_S:
                return


class Daemons(Side):
    """Ours: a devnet of daemons, each of which is ``tests.bench.recorded``."""

    def __init__(self, directory: Path, peers: int = PEERS) -> None:
        """Prepare a devnet in a directory that is there."""
        super().__init__(directory, peers)
        self.net: Final = Devnet(directory / "net", free_ports(peers), epoch_s=3_600.0, report=lambda _: None)
        for peer, record in zip(self.net.peers, self.records, strict=True):
            peer.program = (sys.executable, "-m", "tests.bench.recorded", str(record))
            peer.environment = {
                "MALLOC_ARENA_MAX": MALLOC_ARENAS,
                # A daemon's limits for one address are below what this one posts for many miners.
                "P2PNODES_API__ADDRESS_RATE": "1e6",
                "P2PNODES_API__ADDRESS_BURST": "1000000",
                "P2PNODES_API__HOTKEY_RATE": "1e6",
                "P2PNODES_API__HOTKEY_BURST": "1000000",
            }
        self._posted = 0

    @property
    def pids(self) -> list[int]:
        """Of the daemons."""
        return [peer.pid for peer in self.net.peers if peer.pid is not None]

    async def publish(self, events: int, per_s: float | None) -> Mapping[bytes, int]:
        """Post registrations to the first daemon."""
        requests = [registration(self._posted + index) for index in range(events)]
        self._posted += events
        ports = [int(self.net.urls[0].rpartition(":")[2])]
        posts = list(map(post, requests))
        load = await asyncio.to_thread(drive, ports, posts, CLIENTS, requests_per_s=per_s or math.inf)
        answered(load, 202)
        ids = self._ids()
        return {ids[request.signature][:8]: at_ns for request, at_ns in zip(requests, load.moments, strict=True)}

    def _ids(self) -> dict[bytes, bytes]:
        """Signature of each registration that the first daemon holds -> id of the event that carries it."""
        ids: dict[bytes, bytes] = {}
        uri = f"{self.net.peers[0].database.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            for (wire,) in connection.execute("SELECT wire FROM events WHERE kind = 'add'"):
                event = Event.decode(wire)
                ids[AddPayload.from_wire(codec.unpack(event.payload)).request.signature] = event.id
        return ids


class Rivals(Side):
    """py-libp2p: processes of ``tests/bench/rival.py``."""

    def __init__(self, directory: Path, python: str) -> None:
        """Prepare peers that an interpreter with libp2p runs."""
        super().__init__(directory)
        self._python: Final = python
        self._processes: Final[list[asyncio.subprocess.Process]] = []
        self._published = 0

    @property
    def pids(self) -> list[int]:
        """Of the peers."""
        return [process.pid for process in self._processes]

    async def start(self) -> None:
        """Start all and wait until their mesh is formed."""
        for record in self.records:
            with record.with_suffix(".log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    self._python, str(Path(__file__).with_name("rival.py")), str(record),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    limit=LINE_BYTES_MAX,
                )  # fmt: skip
            self._processes.append(process)
        addresses = [(await self._hear(process))["address"] for process in self._processes]
        for process in self._processes:
            self._say(process, {"addresses": addresses})
        for process in self._processes:
            await self._hear(process)

    async def stop(self) -> None:
        """End all."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def publish(self, events: int, per_s: float | None) -> Mapping[bytes, int]:
        """Let the first peer publish."""
        first, self._published = self._published, self._published + events
        order = {"first": first, "count": events, "size": size_bytes(), "per_second": per_s}
        self._say(self._processes[0], order)
        moments = (await self._hear(self._processes[0], within_s=PUBLISH_S_MAX))["moments"]
        return {(first + index).to_bytes(8, "little"): at_ns for index, at_ns in enumerate(moments)}

    def _say(self, process: asyncio.subprocess.Process, order: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _hear(self, process: asyncio.subprocess.Process, *, within_s: float = START_S_MAX) -> dict[str, Any]:
        assert process.stdout is not None
        line = b""
        try:
            async with asyncio.timeout(within_s):
                line = await process.stdout.readline()
        except TimeoutError:
            pass  # told below
        if not line:
            log = self.records[self._processes.index(process)].with_suffix(".log").read_text("utf-8", "replace")
            raise SystemExit(f"gossipsub's peer says nothing: {(log.strip().splitlines() or ['no word'])[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def registration(number: int) -> Add:
    """What a miner posts: one GPU."""
    return sign_add(hotkey(MINERS[number % len(MINERS)]), int(time.time()), body(uuids(number, 1)))


def size_bytes() -> int:
    """Of a signed registration as an event carries it: body, signature, hotkey, nonce."""
    request = registration(0)
    return len(request.body) + len(request.signature) + len(request.hotkey) + len(request.nonce)


@asynccontextmanager
async def daemons(directory: Path) -> AsyncIterator[Side]:
    """Running daemons."""
    side = Daemons(directory)
    await side.net.start()
    try:
        yield side
    finally:
        await side.net.stop()


@asynccontextmanager
async def rivals(directory: Path, python: str) -> AsyncIterator[Side]:
    """Running peers of gossipsub."""
    side = Rivals(directory, python)
    try:
        await side.start()
        yield side
    finally:
        await side.stop()


def cpu_of(pid: int) -> float:
    """Seconds that a process and its children have had a core so far (Linux, proc_pid_stat(5)).

    A daemon that much comes to has a process beside it that checks signatures. Children that have ended are told by
    cutime and cstime, once their parent has waited for them.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found_s = sum(map(int, fields[11:15])) * _TICK_S
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread or the child has just ended
            found_s += sum(cpu_of(int(child)) for child in children.read_text().split())
    return found_s


def taken_s() -> float:
    """Seconds that this machine's cores were not idle so far, over all of them (Linux, proc_stat(5))."""
    user, nice, system, _, _, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(others)) * _TICK_S


async def measure(directory: Path, python: str, *, events: int, rounds: int) -> dict[float | None, list[list[Run]]]:
    """Pace -> the runs of both sides, ours first, one for each round."""
    found: dict[float | None, list[list[Run]]] = {pace: [[], []] for pace in PACES}
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            place = directory / f"{number}-{index}"
            place.mkdir()
            async with daemons(place) if index == 0 else rivals(place, python) as side:
                await side.run(WARM_EVENTS, PACES[0])
                for pace in PACES:
                    name = ("ours", "gossipsub")[index]
                    progress(f"round {number + 1} of {rounds}: {name}, {_pace(pace)}")
                    found[pace][index].append(await side.run(events, pace))
    progress("")
    return found


async def burst(directory: Path, *, events: int, rounds: int) -> list[Run]:
    """Our side alone at full speed, one run for each round."""
    found = []
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        place = directory / str(number)
        place.mkdir()
        async with daemons(place) as side:
            found.append(await side.run(events, None))
    progress("")
    return found


class Column(NamedTuple):
    """A figure of a run as it is shown, and whether more of it is better; None for what is not compared."""

    field: str
    title: str
    digits: int
    more: bool | None


COLUMNS: Final = (
    Column("per_s", "delivered/s", 0, more=True),
    Column("p50_ms", "p50 ms", 1, more=False),
    Column("p99_ms", "p99 ms", 1, more=False),
    Column("cpu_ms", "CPU ms each", 2, more=False),
    Column("lost", "lost", 0, more=None),
    Column("others", "others' cores", 2, more=None),
)


class Comparison(NamedTuple):
    """Medians of all rounds at one pace, and how many times better we are in each, the median of each round's."""

    pace: float | None
    ours: dict[str, float]
    rival: dict[str, float]
    ratios: dict[str, float]

    @property
    def better(self) -> bool:
        """Whether we are, in p99, and at full speed also in delivered events per second; with a pace that is given."""
        return self.ratios["p99_ms"] > 1 and (self.pace is not None or self.ratios["per_s"] > 1)


def compared(pace: float | None, ours: Sequence[Run], rival: Sequence[Run]) -> Comparison:
    """Put the rounds at one pace together."""
    ratios: dict[str, float] = {}
    for column in COLUMNS:
        if column.more is not None:
            pairs = [(getattr(a, column.field), getattr(b, column.field)) for a, b in zip(ours, rival, strict=True)]
            ratios[column.field] = statistics.median(one / two if column.more else two / one for one, two in pairs)
    return Comparison(pace, _medians(ours), _medians(rival), ratios)


def _medians(runs: Sequence[Run]) -> dict[str, float]:
    return {column.field: statistics.median(getattr(run, column.field) for run in runs) for column in COLUMNS}


def _pace(pace: float | None) -> str:
    return "full speed" if pace is None else f"{pace:g} events/s"


def table(comparisons: Sequence[Comparison]) -> str:
    """For people: three lines for each pace."""
    lines = [_HEADER]
    for comparison in comparisons:
        for name, figures in (("ours", comparison.ours), ("gossipsub", comparison.rival)):
            lines.append(f"{_pace(comparison.pace) if name == 'ours' else '':14}{name:10}{_cells(figures)}")
        cells = "".join(
            f"{f'{comparison.ratios[column.field]:.1f}x' if column.field in comparison.ratios else '':>14}"
            for column in COLUMNS
        )
        lines.append(f"{'':14}{'better':10}{cells}")
    return "\n".join(lines)


_HEADER: Final = f"{'':24}" + "".join(f"{column.title:>14}" for column in COLUMNS)


def _cells(figures: Mapping[str, float]) -> str:
    return "".join(f"{figures[column.field]:>14,.{column.digits}f}" for column in COLUMNS)


def prepare(given: str | None, directory: Path) -> str:
    """An interpreter with libp2p: the given one, this one if it has it, or a new one that gets it from PyPI.

    Raises:
        SystemExit: It cannot be had; one line says why.
    """
    if given is None and importlib.util.find_spec("libp2p") is not None:
        return sys.executable
    if given is None:
        wanted = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
        given = str(directory / "rival" / "bin" / "python")
        progress(f"installing {', '.join(wanted)}")
        _must("a virtual environment cannot be made", [sys.executable, "-m", "venv", str(directory / "rival")])
        _must("gossipsub cannot be installed", [given, "-m", "pip", "install", "--quiet", *wanted])
    _must(f"{given} cannot import libp2p", [given, "-c", "import libp2p"])
    return given


def _must(failure: str, command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S_MAX)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{failure}: {(error.stderr.strip().splitlines() or ['it said nothing'])[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"{failure}: {error}") from error


def number_up_to(most: int) -> Callable[[str], int]:
    """Parses a number from 1 on, for ``argparse``."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 1 to {most:,}")
        return int(text)

    return parse


def main(arguments: Sequence[str]) -> int:
    """Compare both sides; 0 when we are better."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench loopback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--events", type=number_up_to(COUNT_MAX), default=EVENTS, help=f"in each run, up to {COUNT_MAX:,} (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=number_up_to(COUNT_MAX), default=ROUNDS, help="of which medians are shown (%(default)s)"
    )
    rival = parser.add_mutually_exclusive_group()
    rival.add_argument("--rival-python", metavar="PATH", help="an interpreter that has libp2p")
    rival.add_argument("--alone", action="store_true", help="our side alone, at full speed")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each pace")
    options = parser.parse_args(arguments)
    what = f"{options.events:,} events of {size_bytes()} bytes from one"
    header = f"{PEERS} peers on {os.cpu_count()} cores, {what}, medians of {options.rounds} rounds"
    if options.alone:
        with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
            runs = asyncio.run(burst(Path(directory), events=options.events, rounds=options.rounds))
        figures, lost = _medians(runs), sum(run.lost for run in runs)
        if options.json:
            print(json.dumps({"peers": PEERS, "events": options.events, "ours": figures, "lost": lost}), flush=True)
        else:
            print(f"{header}\n{_HEADER}\n{_pace(None):24}{_cells(figures)}", flush=True)
        return int(lost > 0)
    with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
        python = prepare(options.rival_python, Path(directory))
        found = asyncio.run(measure(Path(directory), python, events=options.events, rounds=options.rounds))
    comparisons = [compared(pace, *sides) for pace, sides in found.items()]
    if options.json:
        for comparison in comparisons:
            print(json.dumps({"peers": PEERS, "events": options.events, **comparison._asdict()}), flush=True)
    else:
        print(f"{header}\n{table(comparisons)}", flush=True)
    lost = sum(run.lost for ours, _ in found.values() for run in ours)
    return int(lost > 0 or not all(comparison.better for comparison in comparisons))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
