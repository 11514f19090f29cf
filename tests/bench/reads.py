"""GET of the inventory against handlers that have the answer in their hand, while changes arrive.

Ours has a database behind it that goes on changing, CHANGES_PER_S durable commits a second; what it is compared with
answers the same bytes each time and has nothing else to do.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

from p2pnodes.api.app import GPUS_HELD_MAX, LISTS_PER_ADDRESS_MAX
from p2pnodes.store import buckets
from p2pnodes.store.schema import open_reader
from tests.bench.load import answered, drive, get
from tests.bench.measure import Ratio, compare, costs, progress, share
from tests.bench.server import Served, served
from tests.bench.world import MINERS, fill
from tests.support import hotkey

NODES: Final = 10_000
CHANGES_PER_S: Final = 10.0
READERS: Final = 16
READS_MAX: Final = 10_000
READS_MIN: Final = 4
BYTES_PER_SLICE: Final = 256 * 1024 * 1024
"""Of a slice's answers: of large ones there are fewer."""

LATENCY_MS_MAX: Final = 25.0
LATENCIES: Final = 1_000
CHANGES_PER_ROUND: Final = 50

COMPACT: Final = "/nodes/"
DETAILED: Final = "/nodes/?detailed=true"


class View(NamedTuple):
    """What is read: a name, the path, the ratio that is wanted, and the status of its answers."""

    name: str
    path: str
    wanted: float
    status: int = 200


_BUSY: Final = hotkey(MINERS[1]).address
"""A miner all of whose GPUs have chutes: the longest list of one miner."""

VIEWS: Final = (
    View("compact", COMPACT, 0.8),
    View("compact, If-None-Match", COMPACT, 0.6, 304),
    View("compact, by model", f"{COMPACT}?model=h100_sxm", 0.6),
    View("detailed, by hotkey", f"{DETAILED}&hotkey={_BUSY}", 0.5),
    View("detailed, by model", f"{DETAILED}&model=h100_sxm", 0.4),
    View("detailed", DETAILED, 0.4),
)


def prepared(directory: Path, nodes: int, database: Path | None = None) -> tuple[Path, int]:
    """A database to change, and how many GPUs are in it: a copy of a file, or one that is filled now."""
    path = directory / f"nodes{nodes if database is None else ''}.db"
    if database is None:
        if not path.exists():
            progress(f"writing an inventory of {nodes:,} GPUs")
            fill(path, nodes)
        return path, nodes
    wal = database.with_name(f"{database.name}-wal")
    if not database.exists() or (wal.exists() and wal.stat().st_size):
        raise SystemExit(f"{database}: not there, or in use; make one: python -m tests.bench fill NODES FILE")
    progress(f"copying {database}")
    shutil.copyfile(database, path)
    with closing(open_reader(path)) as connection:
        return path, buckets.of_rows(connection).rows


def reads(directory: Path, *, nodes: int = NODES, database: Path | None = None) -> Iterator[Ratio]:
    """Every view, the slowest of those by hotkey, and, where there is more than NODES, what a change costs the views.

    Args:
        directory: For what is written.
        nodes: GPUs of the inventory.
        database: One to copy instead, which ``world.fill`` has written.
    """
    path, nodes = prepared(directory, nodes, database)
    with served("inventory", path, CHANGES_PER_S) as ours:
        for view in VIEWS:
            yield _against_bare(directory, ours, view, nodes)
        yield _latency(directory, ours, nodes)
    if nodes > NODES:
        small, _ = prepared(directory, NODES)
        with ExitStack() as stack:
            large_one, small_one = (stack.enter_context(served("inventory", each)) for each in (path, small))
            yield compare(
                f"GET of the compact view after a change, {nodes:,} GPUs",
                f"the same at {NODES:,}",
                0.8,
                partial(_after_changes, large_one),
                partial(_after_changes, small_one),
            )


def _against_bare(directory: Path, ours: Served, view: View, nodes: int) -> Ratio:
    body = directory / "answer"
    body.write_bytes(b"" if view.status == 304 else _fetch(ours.port, view.path))
    size = body.stat().st_size
    count = max(READS_MIN, min(READS_MAX, BYTES_PER_SLICE // max(1, size)))
    whole = view.path.startswith(DETAILED) and "hotkey" not in view.path and nodes > GPUS_HELD_MAX
    readers = LISTS_PER_ADDRESS_MAX if whole else READERS
    # Changes make new ETags all the time: this one stands for whichever is in force.
    request = get(view.path, If_None_Match="*") if view.status == 304 else get(view.path)

    def read(port: int, _: int) -> float:
        return answered(drive([port], [request] * count, readers), view.status)

    with served("bare", body, view.status) as bare:
        return compare(
            f"GET /nodes/ {view.name}, {nodes:,} GPUs, {size:,} bytes, {CHANGES_PER_S:g} changes a second",
            "a bare aiohttp handler with the same bytes and no changes",
            view.wanted,
            partial(read, ours.port),
            partial(read, bare.port),
        )


def _latency(directory: Path, ours: Served, nodes: int) -> Ratio:
    """Of the detailed view of one miner after the other; beside it, of the same bytes from a bare handler."""
    requests = [get(f"{DETAILED}&hotkey={hotkey(uri).address}") for uri in islice(cycle(MINERS), LATENCIES)]
    body = directory / "answer"
    body.write_bytes(_fetch(ours.port, f"{DETAILED}&hotkey={_BUSY}"))
    with served("bare", body) as bare:
        bare_s = share(drive([bare.port], requests, 1).latencies_s, 0.99)
    latencies_s = drive([ours.port], requests, 1).latencies_s
    p50_s, p99_s = share(latencies_s, 0.5), share(latencies_s, 0.99)
    return costs(
        f"p99 of {LATENCIES:,} GET /nodes/ detailed, by hotkey, {nodes:,} GPUs, {CHANGES_PER_S:g} changes a second, one"
        f" after the other (p50 {p50_s * 1000:.1f} ms; p99 of a bare handler {bare_s * 1000:.1f} ms)",
        "what is allowed",
        1.0,
        " ms",
        [(p99_s * 1000, LATENCY_MS_MAX)],
    )


def _after_changes(ours: Served, _: int) -> float:
    """Reads a second, each the first one after a change; the change itself is not timed."""
    latencies_s = []
    for _ in range(CHANGES_PER_ROUND):
        ours.change()
        latencies_s += drive([ours.port], [get(COMPACT)], 1).latencies_s
    return 1 / share(latencies_s, 0.5)


def _fetch(port: int, path: str) -> bytes:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        content: bytes = answer.read()
        return content
