"""Networks that split, links that carry one way only, and lines that are slow, cut frames or repeat them."""

import asyncio
import random
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import tomli_w

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Peer
from tests.faults.arena import Scene

PORT: Final = 8000
BRIDGE: Final = "faults0"
NOWHERE: Final = "02:00:00:00:00:01"
"""A hardware address that no interface has: what is sent there is lost without a word."""

SPLIT_S: Final = (1.0, 5.0, 20.0)
"""For how long a network stays split; sessions end after some seconds of silence."""

CHUNK_BYTES: Final = 65_536
BACKLOG_S_MAX: Final = 5.0
"""Wait of a line until its end takes what it carries."""


def ip(*arguments: str, pid: int | None = None) -> None:
    """``ip``, in the network namespace of a process or in our own."""
    within = () if pid is None else ("nsenter", "-t", str(pid), "-n")
    subprocess.run([*within, "ip", *arguments], check=True, capture_output=True, timeout=30)


class Outpost(Peer):
    """A daemon in a network namespace of its own, which ``pid`` holds open, at ``10.77.0.<number>``."""

    def __init__(self, index: int, directory: Path) -> None:
        super().__init__(index, directory, PORT, {"verifier": "none"})
        self.host = f"10.77.0.{index + 1}"
        self.url = f"http://{self.host}:{PORT}"
        self.link = f"f{index}"
        self._holder: subprocess.Popen[bytes] | None = None

    def prepare(self, electorate: dict[str, object]) -> None:  # type: ignore[override]  # a mapping that is written
        """Write the settings, with the address of this namespace."""
        super().prepare(electorate)
        path = self.directory / "p2pnodes.toml"
        settings = tomllib.loads(path.read_text())
        settings["http"]["host"] = self.host
        path.write_text(tomli_w.dumps(settings))

    def settle(self) -> None:
        """Make the namespace, and a link from there to the bridge."""
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"], start_new_session=True)
        inner = self._holder.pid
        _until_apart(inner)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(inner))
        ip("link", "set", self.link, "master", BRIDGE, "up")
        ip("address", "add", f"{self.host}/24", "dev", "eth0", pid=inner)
        for name in ("lo", "eth0"):
            ip("link", "set", name, "up", pid=inner)
        self.program = ("nsenter", "-t", str(inner), "-n", *self.program)

    def deafen(self, other: "Outpost", *, cut: bool) -> None:
        """Let nothing of ours reach another daemon any more, or let it again."""
        assert self._holder is not None
        pid = self._holder.pid
        if cut:
            ip("neigh", "replace", other.host, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent", pid=pid)
        else:
            ip("neigh", "del", other.host, "dev", "eth0", pid=pid)

    def leave(self) -> None:
        """Give the namespace up."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()


def _until_apart(pid: int) -> None:
    """Wait until a process has its own network namespace."""
    ours = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        pass


class Partition(Scene):
    """Five daemons, each in a network namespace of its own."""

    name = "partition"
    what = "five daemons in network namespaces: the network splits in two, or some links carry nothing one way"
    strikes = 60
    short = 2
    peers = 5

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self.outposts = [Outpost(index, peer.directory) for index, peer in enumerate(self.net.peers)]
        self.net.peers[:] = self.outposts

    async def begin(self) -> None:
        """Make the network, then start."""
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("address", "add", "10.77.0.254/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for outpost in self.outposts:
            outpost.settle()
        await super().begin()

    async def end(self) -> None:
        """Stop the daemons, then take the network down."""
        await super().end()
        for outpost in self.outposts:
            outpost.leave()
        ip("link", "del", BRIDGE)

    async def strike(self) -> str:
        """Cut links for a while."""
        order = self.rng.sample(self.outposts, len(self.outposts))
        size = self.rng.randint(1, len(order) // 2)
        kind = self.rng.choice(("split", "split", "one way", "some links"))
        across = [(one, other) for one in order[:size] for other in order[size:]]
        if kind == "split":
            cuts = across + [(other, one) for one, other in across]
        elif kind == "one way":
            cuts = across
        else:
            pairs = [(one, other) for one in order for other in order if one is not other]
            cuts = self.rng.sample(pairs, len(pairs) // 3)
        for one, other in cuts:
            one.deafen(other, cut=True)
        await asyncio.sleep(self.rng.choice(SPLIT_S))
        for one, other in cuts:
            one.deafen(other, cut=False)
        return kind


class Line:
    """What stands before one daemon's port and does to the bytes what lines do, seen by its peers only."""

    def __init__(self, port: int, target: int, rng: random.Random) -> None:
        self._port = port
        self._target = target
        self._rng = rng
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.repeats = False

    async def begin(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def end(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    def cut(self) -> None:
        """End every connection where it is, in the middle of a frame or not."""
        for task in self._open:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(reader, back))
                    group.create_task(self._carry(there, writer))
            finally:
                back.transport.abort()
        except* (OSError, asyncio.CancelledError, TimeoutError):
            pass  # either end may go at any time: that is what lines do
        finally:
            writer.transport.abort()
            self._open.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self._rng.uniform(0, 2 * self.delay_s))
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
            if self.repeats and self._rng.random() < 0.1:
                chunk += chunk[-self._rng.randint(1, len(chunk)) :]
            writer.write(chunk)
            async with asyncio.timeout(BACKLOG_S_MAX):
                await writer.drain()
        raise ConnectionAbortedError  # ends the other direction too


class Lines(Scene):
    """A line before each daemon's port; peers use it, miners do not."""

    name = "lines"
    what = "what daemons tell each other is late, slow, cut in the middle of a frame, or comes twice"
    strikes = 200
    short = 3

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self._apis = {peer.name: peer.url for peer in self.net.peers}
        self._lines = []
        for peer, port in zip(self.net.peers, free_ports(self.peers), strict=True):
            target = int(peer.url.rpartition(":")[2])
            peer.url = f"http://127.0.0.1:{port}"  # what it announces; it listens where it did
            self._lines.append(Line(port, target, rng))

    def apis(self) -> dict[str, str]:
        """Where the daemons listen: an answer that comes twice would be taken for that to the next request."""
        return self._apis

    async def begin(self) -> None:
        """Lay the lines, then start."""
        for line in self._lines:
            await line.begin()
        await super().begin()

    async def end(self) -> None:
        """Stop the daemons, then the lines."""
        await super().end()
        for line in self._lines:
            await line.end()

    async def strike(self) -> str:
        """Let some lines be bad for a while."""
        kind = self.rng.choice(("late", "slow", "cut", "repeated"))
        bad = self.rng.sample(self._lines, self.rng.randint(1, len(self._lines)))
        for line in bad:
            if kind == "late":
                line.delay_s = self.rng.choice((0.05, 0.5, 3.0))
            elif kind == "slow":
                line.bytes_per_s = self.rng.choice((2_000, 20_000, 200_000))
            elif kind == "repeated":
                line.repeats = True
        for _ in range(self.rng.randint(1, 5)):
            await asyncio.sleep(self.rng.uniform(0, 2))
            if kind == "cut":
                for line in bad:
                    line.cut()
        for line in bad:
            line.delay_s, line.bytes_per_s, line.repeats = 0.0, None, False
        return kind
