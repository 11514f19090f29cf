"""Old state: a daemon's disk is cloned, set back, swapped or lost, and so is its node key.

Each time the log of ``peer0`` is behind what its peers hold of it, or two daemons write it. In a long run its backups
lie behind the cuts of checkpoints, with a horizon of a minute, and what it has lost comes as a live set.
"""

import asyncio
import itertools
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import MINERS, Peer
from p2pnodes.miner.client import MinerClient, MinerError
from p2pnodes.miner.example import example_server
from tests.e2e.waiting import eventually
from tests.faults.arena import HEALED_S_MAX, PROGRESS_S_MAX, in_time, inventory
from tests.faults.book import Fate
from tests.faults.disks import Damage
from tests.faults.miners import ANSWER_S, PAUSE_S
from tests.support import hotkey

WRITES: Final = 3
"""So many are acknowledged by a daemon, at least, before its state is taken away, and by what comes in its place."""

WRITE_PAUSE_S: Final = 0.02
"""Between two writes at the daemon, or its clone."""

BACKUPS_MAX: Final = 6
"""Kept at once, among them the first one."""

ENDS_MAX: Final = 2
"""How often a daemon is ended while it starts, or loads."""

START_S: Final = 1.5
"""Longest pause before it is: a start takes about a second."""

DATABASE: Final = ("p2pnodes.db", "p2pnodes.db-wal", "p2pnodes.db-shm")


class Old(Damage):
    """Nothing is lost by an older state but what no peer had heard; no log forks but one that two daemons write."""

    name = "old"
    what = (
        "a daemon's disk is cloned, set back to a backup, swapped while it runs or lost, its node key is lost or an "
        "old one; it is ended while it starts or loads, also beside a backup"
    )
    strikes = 40
    short = 3
    epoch_s = 3.0
    rest_s = 3 * PAUSE_S
    parameters: Mapping[str, Any] = MappingProxyType({"horizon_s": 60, "verdict_ttl_s": 60})

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self.figures = {"ends": 0}
        self.data = self.peer.database.parent
        self._numbers = itertools.count()
        self._backups: list[Path] = []
        self._unheard: set[str] = set()
        (self._port,) = free_ports(1)
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "cloned, both run": self.both_run,
            "cloned, in turn": self.in_turn,
            "swapped while it runs": self.swapped,
            "backup copied": self.copied,
            "backup restored": self.restored,
            "database lost": self.database_lost,
            "key lost": self.key_lost,
            "an old key": self.old_key,
            "all lost": self.all_lost,
        }
        self._left = list(self._kinds)[::-1]
        """The kinds that are still to come, the next one last, before all come anew; at first as they are listed."""

    async def strike(self) -> str:
        """Let it write, and take a backup meanwhile; then have it be an older one, which takes writes again."""
        self._left = self._left or self.rng.sample(list(self._kinds), len(self._kinds))
        kind = self._left.pop()
        async with self._writing(self.peer) as acknowledged:
            await self._more(self.peer, acknowledged)
            await self._back_up()
        await self._reached()
        await self._kinds[kind]()
        await self._starts()
        await self._is_back()
        return kind

    # -- what happens to it ------------------------------------------------------------------------------------------

    async def both_run(self) -> None:
        """As where a snapshot of a virtual machine is started beside it: their log may fork, once."""
        before = await self.peer.status()
        self.may_fork.add(f"{before['node_key']}/{before['log']['number']}")
        await self.down()
        clone = self._clone()
        self.revive(self.peer)
        await clone.start()
        try:
            async with self._writing(self.peer) as here, self._writing(clone) as there:
                for _ in range(self.rng.randint(0, ENDS_MAX)):
                    await asyncio.sleep(self.rng.uniform(0, START_S))
                    if self.rng.random() < 0.5:
                        await self.kill(self.peer)
                        self.revive(self.peer)
                    else:
                        clone.kill()
                        await clone.wait()
                        await clone.start()

                async def told_apart() -> bool:
                    both = await self.peer.status(), await clone.status()
                    return both[0]["node_key"] != both[1]["node_key"] and not any(each["ready"] for each in both)

                with in_time("a daemon and its clone write logs of their own", HEALED_S_MAX):
                    await eventually(told_apart, HEALED_S_MAX)
                await self._more(self.peer, here)
                await self._more(clone, there)
            await self._reached()
        finally:
            await clone.stop()
        shutil.rmtree(clone.directory)

    async def in_turn(self) -> None:
        """A copy of its data runs in its place, and then it itself again."""
        await self.down()
        copy, original = self.net.directory / "copy", self.net.directory / "original"
        self._copy(self.data, copy)
        await self._lives()
        await self.down()
        self.data.rename(original)
        copy.rename(self.data)
        await self._lives()
        await self.down()
        shutil.rmtree(self.data)
        original.rename(self.data)

    async def copied(self) -> None:
        """A backup is copied to where the database was, by hand."""
        await self.down()
        self._lose(*DATABASE)
        shutil.copy(self.rng.choice(self._backups), self.peer.database)

    async def restored(self) -> None:
        """A backup is restored as the documentation says."""
        await self.down()
        await self._done("restore", str(self.rng.choice(self._backups)))

    async def swapped(self) -> None:
        """A backup takes the place of files that the daemon has open: it says so, and acknowledges nothing."""
        async with self._writing(self.peer) as acknowledged:
            for name in DATABASE:
                (self.data / name).rename(self.net.directory / f"away-{name}")
            shutil.copy(self.rng.choice(self._backups), self.peer.database)

            async def told() -> bool:
                return any("replaced while this daemon runs" in why for why in (await self.peer.status())["ready"])

            with in_time(f"{self.peer.name} says that its files were replaced", PROGRESS_S_MAX):
                await eventually(told, PROGRESS_S_MAX)
            told_at = len(acknowledged)
            await asyncio.sleep(self.rng.uniform(0, START_S))
            if len(acknowledged) > told_at:
                self.complaints.append(f"{self.peer.name} acknowledges writes in files that were replaced")
        await self._reached()
        await self.down()

    async def database_lost(self) -> None:
        """The key stays."""
        await self.down()
        self._lose(*DATABASE)

    async def key_lost(self) -> None:
        """The database stays."""
        await self.down()
        self._lose("node.key")

    async def old_key(self) -> None:
        """The node key is one that it had before; the first time that there is none yet it is lost, and kept."""
        await self.down()
        key, kept, now = self.data / "node.key", self.net.directory / "kept.key", self.net.directory / "now.key"
        key.rename(now)
        if kept.exists():
            kept.rename(key)
        now.rename(kept)

    async def all_lost(self) -> None:
        """Its disk is a new one."""
        await self.down()
        shutil.rmtree(self.data)

    async def down(self) -> None:
        """End it, in order or not."""
        await (self.shut if self.rng.random() < 0.3 else self.kill)(self.peer)

    # -- what that takes ---------------------------------------------------------------------------------------------

    async def _starts(self) -> None:
        """Start it, and end it again and again while it starts or loads, now and then beside a command that reads."""
        for _ in range(self.rng.randint(0, ENDS_MAX)):
            self.revive(self.peer)
            async with self._writing(self.peer):
                await asyncio.sleep(self.rng.uniform(0, START_S))
                if self.rng.random() < 0.3:
                    await asyncio.gather(self._verified(), self.down())
                else:
                    await self.down()
            self.figures["ends"] += 1
        self.revive(self.peer)

    async def _lives(self) -> None:
        """Start it as it is, and let it write until the others have that."""
        await self._starts()
        async with self._writing(self.peer) as acknowledged:
            await self._more(self.peer, acknowledged)
        await self._reached()

    def _clone(self) -> Peer:
        """A copy of it at another port; it announces the original's URL, as a copied configuration does."""
        directory = self.net.directory / "clone"
        self._copy(self.peer.directory, directory)
        settings, port = directory / "p2pnodes.toml", self.peer.url.rpartition(":")[2]
        settings.write_text(settings.read_text().replace(f"port = {port}", f"port = {self._port}"))
        return Peer(0, directory, self._port, {})

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock"))

    def _lose(self, *names: str) -> None:
        for name in names:
            (self.data / name).unlink(missing_ok=True)

    async def _back_up(self) -> None:
        path = self.net.directory / f"backup-{next(self._numbers)}.db"
        await self._done("backup", str(path))
        self._backups.append(path)
        if len(self._backups) > BACKUPS_MAX:
            self._backups.pop(self.rng.randrange(1, BACKUPS_MAX)).unlink()

    async def _verified(self) -> None:
        """Check its database while it starts or ends; at the first moment of a new one there is none yet."""
        code, text = await self.verify()
        if code and "[data-missing]" not in text:
            self.complaints.append(f"db verify beside {self.peer.name}: exit code {code}: {text[-300:]}")

    async def _done(self, *arguments: str) -> None:
        code, text = await self.command(*arguments)
        if code:
            self.complaints.append(f"{' '.join(arguments)}: exit code {code}: {text[-300:]}")

    async def _more(self, peer: Peer, acknowledged: Sequence[str]) -> None:
        """Wait for some writes that come now."""
        enough = len(acknowledged) + WRITES

        async def more() -> bool:
            return len(acknowledged) >= enough

        with in_time(f"{peer.directory.name} takes writes", HEALED_S_MAX):
            await eventually(more, HEALED_S_MAX)

    async def _reached(self) -> None:
        """Wait until the others list all that it acknowledged, which is lost with a disk otherwise."""

        async def listed() -> bool:
            return all(self._unheard <= inventory(other) for other in self.net.peers[1:])

        with in_time("the others list what was acknowledged", HEALED_S_MAX):
            await eventually(listed, HEALED_S_MAX)
        self._unheard.clear()

    @asynccontextmanager
    async def _writing(self, peer: Peer) -> AsyncIterator[list[str]]:
        """Register GPUs at a daemon that may be one of two with its name; those that are acknowledged."""
        acknowledged: list[str] = []

        async def write() -> None:
            async with MinerClient([peer.url], hotkey(MINERS[0]), retries=0, timeout_s=ANSWER_S) as client:
                while True:
                    uuid = f"old-{next(self._numbers)}"
                    self.book.note([uuid], Fate.OPEN, peer.name)
                    with suppress(MinerError):
                        await client.add(example_server([uuid], server_id=uuid))
                        self.book.note([uuid], Fate.LISTED, peer.name)
                        acknowledged.append(uuid)
                        self._unheard.add(uuid)
                    await asyncio.sleep(WRITE_PAUSE_S)

        task = asyncio.create_task(write())
        try:
            yield acknowledged
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
