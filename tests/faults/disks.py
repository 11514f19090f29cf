"""Disks that are full, turn read-only, flip a bit, or forget the end of what was written."""

import asyncio
import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.e2e.waiting import eventually
from tests.faults.arena import HEALED_S_MAX, PROGRESS_S_MAX, Scene, in_time

DISK_BYTES: Final = 256 * 1024 * 1024
"""Room for what half an hour of load writes, 66 MB, and as much again in the write-ahead log."""

BALLAST_BYTES: Final = 64 * 1024
"""What the disk is filled with, until not even one page fits."""

HEARD_S_MAX: Final = 60.0
"""Within this the others hold all that a daemon wrote, once nobody writes there any more."""


def mount(*arguments: object) -> None:
    """``mount``; the suite has a mount namespace of its own.

    Raises:
        OSError: It failed; with what it says.
    """
    done = subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"mount {' '.join(map(str, arguments))}: exit code {done.returncode}: {done.stderr.strip()}")


class SmallDisk(Scene):
    """The data of ``peer0`` lies on a small disk of its own, which needs a mount namespace to put it in."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self.peer = self.net.peers[0]
        self.disk = self.peer.database.parent

    async def begin(self) -> None:
        """Mount the disk, then start."""
        self.disk.mkdir(parents=True)
        mount("-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", self.disk)
        await super().begin()

    def leave(self) -> None:
        """Unmount the disk, unless it never was."""
        if self.disk.is_mount():
            subprocess.run(["umount", self.disk], check=True, capture_output=True, timeout=30)

    def died(self, name: str, how: str) -> None:
        """A daemon without a disk may end, but with a line that says why."""
        if name != self.peer.name or "exit code 1: " not in how:
            super().died(name, how)


class Full(SmallDisk):
    """No space left on the device."""

    name = "full"
    what = (
        "the disk of one daemon is full for up to 5 s; now and then it is killed there, or restarted while it is full"
    )
    strikes = 100
    short = 2

    async def strike(self) -> str:
        """Fill the disk, and make room again."""
        ballast = self.disk / "ballast"
        kind = self.rng.choice(("filled", "filled", "filled, killed", "filled, restarted"))
        await asyncio.to_thread(_fill, ballast)
        await asyncio.sleep(self.rng.uniform(0.5, 5))
        if kind == "filled, killed":
            await self.kill(self.peer)
        elif kind == "filled, restarted":
            await self.kill(self.peer)
            self.revive(self.peer)
            await asyncio.sleep(3)
        ballast.unlink()
        self.revive(self.peer)
        return kind


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (BALLAST_BYTES, 4096, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


class ReadOnly(SmallDisk):
    """A file system that a kernel turned read-only after an error."""

    name = "read-only"
    what = "the disk of one daemon is read-only when it starts again, and writable later"
    strikes = 50
    short = 1

    async def strike(self) -> str:
        """A file system with files open for writing cannot be made read-only: the daemon starts on one that is."""
        await self.kill(self.peer)
        mount("-o", "remount,ro", self.disk)
        self.revive(self.peer)
        await asyncio.sleep(self.rng.uniform(1, 4))
        await self.kill(self.peer)
        mount("-o", "remount,rw", self.disk)
        self.revive(self.peer)
        return "read-only"


class Damage(Scene):
    """Something happens to the file of ``peer0`` while it is down."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self.peer = self.net.peers[0]
        self.figures["named"] = 0

    def apis(self) -> dict[str, str]:
        """Nobody writes at the daemon whose file is damaged: what only it had would be lost with its disk."""
        return {name: api for name, api in super().apis().items() if name != self.peer.name}

    async def strike(self) -> str:
        """Stop it once its peers have all that it wrote, damage its file, and start it again."""
        await self._heard_of()
        await self.down()
        kind = await self.damage()
        self.revive(self.peer)
        await self._is_back()
        return kind

    async def down(self) -> None:
        """End the daemon."""
        await self.kill(self.peer)

    async def damage(self) -> str:
        """Do it; the kind."""
        raise NotImplementedError

    async def verify(self) -> tuple[int, str]:
        """What ``p2pnodes db verify`` says of the file: exit code and text."""
        return await self.command("db", "verify")

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command on the daemon's configuration."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "p2pnodes", *arguments, "--config", str(self.peer.directory / "p2pnodes.toml"),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            with in_time(f"`p2pnodes {' '.join(arguments)}` ends", PROGRESS_S_MAX):
                out, _ = await asyncio.wait_for(process.communicate(), PROGRESS_S_MAX)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = out.decode()
        if "Traceback (most recent call last)" in text:
            self.complaints.append(f"{' '.join(arguments)} ends in a traceback: {text[-300:]}")
        return process.returncode or 0, text

    async def _heard_of(self) -> None:
        async def heard() -> bool:
            own = (await self.peer.status())["log"]["id"]
            return all([await other.ask(f"/events?id={own}") for other in self.net.peers[1:]])

        with in_time(f"all others hold what {self.peer.name} wrote", HEARD_S_MAX):
            await eventually(heard, HEARD_S_MAX)

    async def _is_back(self) -> None:
        async def back() -> bool:
            return not (await self.peer.status())["ready"]

        with in_time(f"{self.peer.name} takes writes again", HEALED_S_MAX):
            await eventually(back, HEALED_S_MAX)


class Page(Damage):
    """A byte of the database flips."""

    name = "page"
    what = "a byte of one daemon's database flips; `db verify` must name what it hit, and the peers make it good"
    strikes = 60
    short = 2

    async def down(self) -> None:
        """Stop it in order: what lies in the write-ahead log would hide the pages below."""
        await self.shut(self.peer)

    async def damage(self) -> str:
        """Flip a byte; where that is found, do what the documentation says: the file goes aside, the peers give all."""
        database = self.peer.database
        size = database.stat().st_size
        offset = self.rng.randrange(size)
        with database.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ (1 << self.rng.randrange(8))]))
        code, text = await self.verify()
        if code == 0:
            return "flipped in what is not in use"
        if not text.strip():
            self.complaints.append(f"a byte flipped at {offset} and db verify fails without a word")
        self.figures["named"] += 1
        for suffix in ("", "-wal", "-shm"):
            file_path = database.with_name(database.name + suffix)
            if file_path.exists():
                file_path.rename(file_path.with_name(f"damaged{suffix}"))
        return "flipped and named"


class Wal(Damage):
    """The end of what was written is gone, as where a disk lied about its cache."""

    name = "wal"
    what = "the write-ahead log of a killed daemon is cut at a random byte, or is gone"
    strikes = 100
    short = 2

    async def damage(self) -> str:
        """Cut the file."""
        wal = self.peer.database.with_name(self.peer.database.name + "-wal")
        if not wal.exists():
            return "no write-ahead log"
        if self.rng.random() < 0.2:
            wal.unlink()
            return "gone"
        os.truncate(wal, self.rng.randrange(wal.stat().st_size + 1))
        return "cut"
