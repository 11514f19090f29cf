"""What a large inventory costs whoever holds it: disk, another electorate, a rebuild; ``start`` has start and memory.

python -m tests.bench size --database million.db

A database of 1,000,000 GPUs takes some minutes to write; ``--database`` copies one that ``fill`` has written.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Event
from p2pnodes.model.keys import verify_sr25519
from p2pnodes.model.validity import EMPTY, judge
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_reader, open_writer
from tests.bench.measure import Ratio, costs, of_pairs, progress
from tests.bench.world import MINERS, fill
from tests.support import NETWORK, hotkey

GPUS: Final = 100_000
ROUNDS: Final = 3

ELECTORATE_S_MAX: Final = 5.0
"""For a change that turns one row in 64, at a million GPUs; less where there are fewer."""


def size(directory: Path, gpus: int = GPUS, database: Path | None = None) -> Iterator[Ratio]:
    """Disk, changes of the electorate and a rebuild with an inventory of so many GPUs."""
    path = directory / "size.db"
    if database is None:
        progress(f"writing an inventory of {gpus:,} GPUs")
        fill(path, gpus)
    else:
        shutil.copy(database, path)
    connection = open_writer(path)
    connection.execute("PRAGMA synchronous = OFF")
    ledger = Ledger(connection, NETWORK)
    gpus = ledger.state.nodes
    yield _disk(path, gpus)
    yield from _electorate(ledger, gpus)
    yield of_pairs(
        f"rebuilding everything with {gpus:,} GPUs",
        "judging each event again, and nothing else",
        0.19,
        [(gpus / _rebuild(ledger), gpus / _judge(ledger)) for _ in range(ROUNDS if gpus <= GPUS else 1)],
    )
    ledger.facts.close()


def _disk(path: Path, gpus: int) -> Ratio:
    connection = open_reader(path)
    (log,) = connection.execute("SELECT sum(length(wire)) FROM events").fetchone()
    connection.close()
    held = path.stat().st_size
    return costs(
        "bytes on disk, for each GPU", "the signed bytes of all events alone", 0.3, " B", [(held / gpus, log / gpus)]
    )


def _electorate(ledger: Ledger, gpus: int) -> Iterator[Ratio]:
    """A stake moves, and a miner leaves; each in one transaction, the way without pauses."""
    allowed_s = max(0.2, ELECTORATE_S_MAX * gpus / 1_000_000)
    for what, leaving in (("a stake moves and no row changes", ()), ("one miner of 64 leaves", MINERS[:1])):
        before, times = ledger.state.nodes, []
        for number in range(ROUNDS):
            held = ledger.weights.electorate.current
            gone = {hotkey(uri).public_key for uri in leaving[: 1 + number]}
            now = held._replace(
                block=held.block + NETWORK.epoch_blocks,
                time_ms=held.time_ms + 1,
                validators={validator: stake + 1 for validator, stake in held.validators.items()},
                registered={key: block for key, block in held.registered.items() if key not in gone},
            )
            begin = time.perf_counter()
            with ledger.transaction():
                ledger.set_electorate(Electorate(now, held))
            times.append(time.perf_counter() - begin)
            if leaving:
                break  # who has left does not leave again
        assert (ledger.state.nodes < before) is bool(leaving)
        yield costs(
            f"electorate change with {gpus:,} GPUs, {what}",
            "five seconds for a million GPUs, and their share for fewer",
            1.0,
            " s",
            [(seconds, allowed_s) for seconds in times],
        )


def _rebuild(ledger: Ledger) -> float:
    """Seconds until everything is derived from the log again, as ``db rebuild`` and ``db verify`` do."""
    root = ledger.state.state_root
    _forget()
    begin = time.perf_counter()
    with ledger.transaction():
        ledger.rebuild()
    seconds = time.perf_counter() - begin
    assert ledger.state.state_root == root
    return seconds


def _judge(ledger: Ledger) -> float:
    """Seconds for the judgements alone."""
    _forget()
    begin = time.perf_counter()
    for (log,) in ledger.facts.connection.execute("SELECT log FROM logs").fetchall():
        prefix = EMPTY
        for (wire,) in ledger.facts.connection.execute("SELECT wire FROM events WHERE log = ? ORDER BY seq", (log,)):
            prefix = judge(Event.decode(wire), prefix).prefix
    return time.perf_counter() - begin


def _forget() -> None:
    """Spare nobody a signature or a body that was looked at just now: of a large inventory they are long forgotten."""
    verify_sr25519.cache_clear()
    parse_body.cache_clear()
