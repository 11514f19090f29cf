"""What a change costs where the inventory is large, against the same change where it is small.

Without the disk's part: a commit waits for the disk as long in both. What is left must not follow the inventory.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from p2pnodes.model.events import AddPayload, Payload, Verdict
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import request_id, sign_add
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.bench.measure import Ratio, compare, progress
from tests.bench.world import MINERS, NODE_SEED, fill, given, uuids
from tests.support import NETWORK, body, hotkey

SMALL: Final = 10_000
LARGE: Final = 200_000
GPUS_PER_CHANGE: Final = 8
CHANGES: Final = 200
WANTED: Final = 0.5
"""Least speed at LARGE, of that at SMALL. The trees there are a level deeper, GPUs of one claim share no page, and not
all pages fit into SQLite's cache; what a change does beyond that must not grow."""

_SERVERS = itertools.count(10**9)
"""Servers that no inventory has."""


def growth(directory: Path, gpus: int | None = None) -> Iterator[Ratio]:
    """Registrations and verdicts, each committed alone, in an inventory of LARGE GPUs, or so many, and of SMALL."""
    large_gpus = gpus or LARGE
    ledgers = []
    for held in (large_gpus, SMALL):
        progress(f"writing an inventory of {held:,} GPUs")
        path = directory / f"growth{held}.db"
        fill(path, held)
        connection = open_writer(path)
        connection.execute("PRAGMA synchronous = OFF")
        ledgers.append(Ledger(connection, NETWORK, NodeKey.from_seed(NODE_SEED)))
    large, small = ledgers
    for ledger in ledgers:
        ledger.writes_refused = None
    against = f"the same in one of {SMALL:,}"
    for what, speed in (("a registration of 8 GPUs", _registrations), ("a verdict on 8 GPUs", _verdicts)):
        name = f"{what}, but for the disk, in an inventory of {large_gpus:,} GPUs"
        yield compare(name, against, WANTED, partial(speed, large), partial(speed, small))


def _registrations(ledger: Ledger, _: int) -> float:
    return _commit(ledger, [payload for payload, _ in _changes()])


def _verdicts(ledger: Ledger, _: int) -> float:
    changes = _changes()
    _commit(ledger, [payload for payload, _ in changes])
    return _commit(ledger, [verdict for _, verdict in changes])


def _changes() -> list[tuple[Payload, Payload]]:
    """Registrations of new servers, each with a verdict on it."""
    now_ms = time.time_ns() // 1_000_000
    found: list[tuple[Payload, Payload]] = []
    for server in itertools.islice(_SERVERS, CHANGES):
        miner = hotkey(MINERS[server % len(MINERS)])
        request = sign_add(miner, now_ms // 1000, body(uuids(server, GPUS_PER_CHANGE)))
        verdict = Verdict(request_id(NETWORK.id, request), "verified", "none", "", now_ms << 16)
        found.append((AddPayload(request, 100), verdict))
    return found


def _commit(ledger: Ledger, payloads: Sequence[Payload]) -> float:
    """Commit each alone; how many a second."""
    begin = time.perf_counter()
    for payload in payloads:
        with ledger.transaction():
            ledger.append(partial(given, payload), time.time_ns() // 1_000_000)
    return len(payloads) / (time.perf_counter() - begin)
