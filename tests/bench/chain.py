"""A daemon that reads 1,024 neurons from a replayed chain: what that costs its event loop and its memory."""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import tomli_w

from p2pnodes.chain.reader import MEMORY_BYTES_MAX
from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import GENESIS_HASH, NETUID, DevnetError, Peer, replayed_validator
from p2pnodes.model.requests import sign_add
from tests.bench.load import answered, drive, post
from tests.bench.measure import Ratio, costs, progress, share
from tests.bench.world import MINERS, uuids
from tests.support import body, hotkey

NEURONS: Final = 1_024
EPOCH_BLOCKS: Final = 10
BLOCK_S: Final = 0.25
"""So that a new electorate is due every 2.5 s."""

ROUNDS: Final = 6
ELECTORATES: Final = 3
"""That are read in one slice; the first by a process that was just started."""

QUIET_S: Final = 6.0
DELAY_MS_MAX: Final = 50.0
RESIDENT_MB_MAX: Final = 70.0
GPUS: Final = 10
POSTS_PER_MINER: Final = 4
CLIENTS: Final = 16
PROBE_HZ: Final = 1_000
WAIT_S_MAX: Final = 90.0

_REQUEST: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Slice(NamedTuple):
    """Round trips (seconds) while electorates were read or not, and megabytes at their end."""

    trips: list[float]
    daemon_mb: float
    reader_mb: float


def chain(directory: Path) -> Iterator[Ratio]:
    """Delay of the event loop while the chain is read again and again, and memory with no read under way."""
    idle, reading, quiet = asyncio.run(_measure(directory / "chain"))
    worst, still = (max(trip for each in slices for trip in each.trips) for slices in (reading, quiet))
    p999, still_p999 = (share([trip for each in slices for trip in each.trips], 0.999) for slices in (reading, quiet))
    reads = len(reading) * ELECTORATES
    name = f"slowest of {sum(len(each.trips) for each in reading):,} round trips while {NEURONS:,} neurons are read"
    shown = f"{name} {reads} times (p99.9 {p999 * 1000:.1f} ms)"
    yield costs(shown, "what is allowed", 1.0, " ms", [(worst * 1000, DELAY_MS_MAX)])
    against = f"the same without reads (p99.9 {still_p999 * 1000:.1f} ms)"
    yield costs(shown, against, 0.0, " ms", [(worst * 1000, still * 1000)])
    gpus = len(MINERS) * POSTS_PER_MINER * GPUS
    for what, resident, limit in (
        ("that has read the chain", idle.daemon_mb, 1.0),
        (f"with {gpus:,} GPUs, whose pages SQLite keeps", max(each.daemon_mb for each in quiet), 0.0),
    ):
        yield costs(
            f"resident memory of a daemon {what}, without a read",
            "what is allowed",
            limit,
            " MB",
            [(resident, RESIDENT_MB_MAX)],
        )
    reader_max = MEMORY_BYTES_MAX / 2**20
    reader = max(each.reader_mb for each in reading)
    yield costs(
        "resident memory of the process that reads, at its peak",
        "of data, the limit that it sets itself",
        0.0,
        " MB",
        [(reader, reader_max)],
    )


async def _measure(directory: Path) -> tuple[Slice, list[Slice], list[Slice]]:
    directory.mkdir()
    (port,) = free_ports(1)
    network = {"genesis_hash": GENESIS_HASH, "netuid": NETUID, "epoch_blocks": EPOCH_BLOCKS}
    (directory / "network.toml").write_text(tomli_w.dumps(network))
    peer = Peer(0, directory / "peer", port, {"verifier": "none"}, replayed_validator(0))
    reading: list[Slice] = []
    quiet: list[Slice] = []
    async with _replayed() as where, aiohttp.ClientSession() as session:

        async def order(**fields: Any) -> None:
            async with session.post(where["control"], json=fields, raise_for_status=True):
                pass

        peer.prepare({"urls": [where["url"]]})
        await peer.start()
        try:
            await _ready(peer)
            await order(do="stand")
            idle = await _slice(peer, port, asyncio.sleep(QUIET_S))
            progress("chain: registering GPUs")
            posts = [
                post(sign_add(hotkey(miner), int(time.time()), body(uuids(64 * number + index, GPUS))))
                for number, miner in enumerate(MINERS)
                for index in range(POSTS_PER_MINER)
            ]
            answered(await asyncio.to_thread(drive, [port], posts, CLIENTS), 202)
            for number in range(ROUNDS + 1):
                progress(f"chain: round {number} of {ROUNDS}")
                await order(do="stand")
                quiet.append(await _slice(peer, port, asyncio.sleep(QUIET_S)))
                _kill_reader(peer)
                await order(do="go_on")
                reading.append(await _slice(peer, port, _electorates(peer, number, order)))
        finally:
            await peer.stop()
    return idle, reading[1:], quiet[1:]  # the first round warms up


async def _slice(peer: Peer, port: int, meanwhile: Awaitable[None]) -> Slice:
    """Probe the daemon for as long as something else goes on."""
    over = threading.Event()
    probe = asyncio.create_task(asyncio.to_thread(_probe, port, over))
    try:
        await meanwhile
    finally:
        over.set()
        trips = await probe
    assert peer.pid is not None
    reader = _reader(peer)
    return Slice(trips, megabytes(peer.pid, "VmRSS"), megabytes(reader, "VmHWM") if reader else 0.0)


async def _electorates(peer: Peer, number: int, order: Callable[..., Awaitable[None]]) -> None:
    """Let stakes change with each epoch until the daemon has weighed with so many new electorates."""
    whale = replayed_validator(3).hotkey.address
    for index in range(ELECTORATES):
        block = (await peer.status())["electorate"]["block"]
        await order(do="change", kind="stake", hotkey=whale, value=10**12 + number * ELECTORATES + index)
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                electorate = (await peer.status())["electorate"]
                if electorate["block"] > block and not electorate["recounting"]:
                    break
                await asyncio.sleep(0.2)


def _probe(port: int, over: threading.Event) -> list[float]:
    """Round trips over one kept connection, each begun on time unless the one before is late."""
    trips: list[float] = []
    with socket.create_connection(("127.0.0.1", port), WAIT_S_MAX) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        while not over.is_set():
            due = max(due + 1 / PROBE_HZ, begin := time.perf_counter())
            time.sleep(max(0.0, due - begin))
            begin = time.perf_counter()
            connection.sendall(_REQUEST)
            if not connection.recv(65_536).startswith(b"HTTP/1.1 200"):
                raise SystemExit("the daemon does not answer /healthz with 200")
            trips.append(time.perf_counter() - begin)
    return trips


@asynccontextmanager
async def _replayed() -> AsyncIterator[Mapping[str, str]]:
    arguments = ["--neurons", str(NEURONS), "--block-s", str(BLOCK_S)]
    for miner in MINERS:
        arguments += ["--register", hotkey(miner).address]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.replay", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()


async def _ready(peer: Peer) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            with suppress(DevnetError):
                if not (await peer.status())["ready"]:
                    return
            if peer.pid is None:
                raise SystemExit(f"the daemon does not start: {peer.last_words()}")
            await asyncio.sleep(0.1)


def _reader(peer: Peer) -> int | None:
    """Process id of the daemon's only child."""
    children = Path(f"/proc/{peer.pid}/task/{peer.pid}/children").read_text("ascii").split()
    return int(children[0]) if children else None


def _kill_reader(peer: Peer) -> None:
    if (pid := _reader(peer)) is not None:
        os.kill(pid, signal.SIGKILL)


def megabytes(pid: int, field: str) -> float:
    """A field of a process's /proc status that is in kB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/{pid}/status has no {field}")
