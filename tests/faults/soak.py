"""Hours of ordinary life: memory, open files and the write-ahead log must not grow.

The inventory stays as large as it is (``miners.KEPT_MAX``), the log of events does not. What a daemon has bounds for is
full within the first quarter of an hour, which is not looked at: SQLite's pages of the writer (64 MB, as soon as the
database is larger than that) and the ring of changes (20 MB, after some 13,000 writes). What grows then is a leak.
"""

import asyncio
import random
import statistics
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.devnet import Peer
from p2pnodes.store.schema import WAL_PAGES_MAX
from tests.faults.arena import Scene

SAMPLE_S: Final = 10.0
MEMORY_GROWTH_MAX: Final = 1.10
"""The last quarter's median against the second quarter's; the first is a start."""

MEMORY_MB: Final = 4
"""Growth that is nothing, whatever the ratio: one arena of the allocator."""

FILES_MAX: Final = 8
"""Open files more than in the second quarter: a connection or two that come and go."""

WAL_MB_MAX: Final = 1.2 * WAL_PAGES_MAX * 4096 / 1e6
"""The pages after which it is written back, and what a commit adds before that is done."""


class Sample(NamedTuple):
    """One look at a daemon: resident memory and write-ahead log in MB, open files."""

    memory_mb: float
    files: int
    wal_mb: float


def look(peer: Peer) -> Sample | None:
    """Look at a daemon; None while it does not run."""
    pid = peer.pid
    if pid is None:
        return None
    status = Path(f"/proc/{pid}/status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])
    wal = peer.database.with_name(peer.database.name + "-wal")
    wal_bytes = wal.stat().st_size if wal.exists() else 0
    return Sample(resident_kb / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), wal_bytes / 1e6)


class Soak(Scene):
    """Nothing strikes; each strike is a look."""

    name = "soak"
    what = "an hour of ordinary life; memory, open files and the write-ahead log are flat (a strike is 10 s)"
    strikes = 360
    short = 0
    pause_s = 0.0
    rest_s = 0.06
    """Some fifty writes a second: the database has outgrown the writer's pages after twelve minutes."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self._samples: dict[str, list[Sample]] = {peer.name: [] for peer in self.net.peers}

    async def strike(self) -> str:
        """Look at each daemon."""
        await asyncio.sleep(SAMPLE_S)
        for peer in self.net.peers:
            if (sample := look(peer)) is not None:
                self._samples[peer.name].append(sample)
        return "looked"

    async def heal(self) -> None:
        """Compare the quarters."""
        for name, samples in self._samples.items():
            quarter = len(samples) // 4
            if quarter == 0:
                continue
            early, late = _median(samples[quarter : 2 * quarter]), _median(samples[-quarter:])
            self.figures[name] = {"second quarter": early._asdict(), "last quarter": late._asdict()}
            if late.memory_mb > max(early.memory_mb * MEMORY_GROWTH_MAX, early.memory_mb + MEMORY_MB):
                self.complaints.append(f"{name}: memory grew from {early.memory_mb:.0f} to {late.memory_mb:.0f} MB")
            if late.files > early.files + FILES_MAX:
                self.complaints.append(f"{name}: open files grew from {early.files} to {late.files}")
            if late.wal_mb > WAL_MB_MAX:
                self.complaints.append(f"{name}: the write-ahead log has {late.wal_mb:.0f} MB")


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        statistics.median(sample.memory_mb for sample in samples),
        int(statistics.median(sample.files for sample in samples)),
        statistics.median(sample.wal_mb for sample in samples),
    )
