"""How soon a daemon is ready that holds a large inventory already, and how much memory it takes to serve that.

A real daemon, the only validator of its network, starts on a database whose pages the system does not hold, until its
``/readyz`` says 200. Then all views are read while GPUs are registered.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import tomli_w

from p2pnodes.api.app import LISTS_PER_ADDRESS_MAX
from p2pnodes.cli.demo import free_ports
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.bench.chain import megabytes
from tests.bench.floor import GPUS_PER_POST
from tests.bench.load import answered, drive, get
from tests.bench.measure import Ratio, costs, progress
from tests.bench.reads import DETAILED, NODES, VIEWS, prepared
from tests.bench.world import MINERS, NODE_SEED, OWN
from tests.bench.writes import signed_posts
from tests.e2e.single import Single, settings_of
from tests.support import NETWORK, hotkey

STARTS: Final = 5
READY_S_MAX: Final = 3.0
MEMORY_MB_MAX: Final = 250.0
POLL_S: Final = 0.01
WAIT_S_MAX: Final = 300.0
POSTS: Final = 200
ROUNDS: Final = 5
"""Of so many registrations, and of all views and each miner's list."""


def start(directory: Path, *, nodes: int = NODES, database: Path | None = None) -> Iterator[Ratio]:
    """See the module; arguments as of ``reads``."""
    path, nodes = prepared(directory, nodes, database)
    home = directory / "start"
    (home / "data").mkdir(parents=True)
    path.rename(home / "data" / "p2pnodes.db")
    (port,) = free_ports(1)
    daemon = _daemon(home, port)
    seconds, at_rest_mb, at_work_mb = asyncio.run(_measure(daemon, port))
    yield costs(
        f"start with {nodes:,} GPUs until /readyz, median of {STARTS}",
        "what is allowed",
        1.0,
        " s",
        [(each, READY_S_MAX) for each in seconds],
    )
    yield costs(
        f"resident memory of a daemon with {nodes:,} GPUs: {at_rest_mb:,.0f} MB once it is ready, and its peak while"
        " all views are read and GPUs are registered",
        "what is allowed",
        1.0,
        " MB",
        [(at_work_mb, MEMORY_MB_MAX)],
    )


def _daemon(home: Path, port: int) -> Single:
    """Settings, keys and electorate with which the database goes on as it is."""
    file = home / "data" / "p2pnodes.db"
    with closing(open_writer(file)) as connection:
        ledger = Ledger(connection, NETWORK)
        electorate = ledger.weights.electorate
    (home / "electorate.toml").write_text(tomli_w.dumps(_electorate_file(electorate)))
    key = home / "data" / "node.key"
    key.touch(0o600)
    key.write_text(f"p2pnodes-node-key-1 {NODE_SEED.hex()}\n")
    settings = settings_of(home, OWN)
    settings["http"]["port"] = port
    settings["api"] = {
        "allow_private_hosts": True,
        "hotkey_rate": 1e4, "hotkey_burst": 10**5, "address_rate": 1e4, "address_burst": 10**5,
    }  # fmt: skip
    return Single(home, settings)


def _electorate_file(electorate: Electorate) -> dict[str, Any]:
    """The electorate that the database was weighed with: a start changes none of its rows."""
    pin = electorate.current
    return {
        "block": pin.block,
        "time": pin.time_ms // 1000,
        "validators": [{"hotkey": ss58_encode(key), "stake": stake} for key, stake in pin.validators.items()],
        "registered": [{"hotkey": ss58_encode(key), "block": block} for key, block in pin.registered.items()],
    }


async def _measure(daemon: Single, port: int) -> tuple[list[float], float, float]:
    """Seconds of each start; megabytes of the last one when it is ready, and at most while it works."""
    seconds: list[float] = []
    try:
        await _ready(daemon, port)  # it takes the database over: its own delegation, its key files
        for number in range(STARTS):
            await daemon.stop()
            _forget(daemon.directory / "data" / "p2pnodes.db")
            seconds.append(await _ready(daemon, port))
            progress(f"start: {number + 1} of {STARTS}")
        at_rest_mb = megabytes(daemon.pid, "VmRSS")
        await asyncio.to_thread(_use, port)
        return seconds, at_rest_mb, megabytes(daemon.pid, "VmHWM")
    finally:
        await daemon.stop()


async def _ready(daemon: Single, port: int) -> float:
    """Start it; seconds until it says that it is ready."""
    begin = time.perf_counter()
    await daemon.start()
    async with asyncio.timeout(WAIT_S_MAX), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return time.perf_counter() - begin
            if not daemon.running:
                raise SystemExit(f"the daemon does not start: {daemon.log[-2000:]}")
            await asyncio.sleep(POLL_S)


def _forget(file: Path) -> None:
    """Let the system forget a file's pages, as after a start of the machine."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _use(port: int) -> None:
    """Register GPUs and read everything in between."""
    reads = [get(view.path) for view in VIEWS if view.status == 200]
    reads += [get(f"{DETAILED}&hotkey={hotkey(uri).address}") for uri in MINERS]
    servers = itertools.count(time.time_ns())
    for _ in range(ROUNDS):
        answered(drive([port], [each.sent() for each in signed_posts(servers, POSTS, GPUS_PER_POST)], 16), 202)
        answered(drive([port], reads, LISTS_PER_ADDRESS_MAX), 200)
