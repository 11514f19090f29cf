"""A network of real daemons on one machine: for a first look, for development and for end-to-end tests.

Each peer is a process of its own (``p2pnodes run``) on 127.0.0.1 with its own directory, keys and database; an
electorate file stands in for the chain and moves on by one epoch every so often. Nothing here is a shortcut: peers talk
over sockets, as validators on different continents do. The keys are development keys that everybody knows.

    DIR/electorate.toml      who validates (//validator0 ...) and who mines (//Alice ...)
    DIR/network.toml         the network's parameters
    DIR/peer0/p2pnodes.toml  settings, hotkey and data of the first peer; its log is peer0/log.jsonl
"""

import asyncio
import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import aiohttp
import orjson
import tomli_w

from p2pnodes.chain.file import read_electorate
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.model.errors import ConfigError, P2PNodesError
from p2pnodes.model.keys import Hotkey
from p2pnodes.model.network import Network

HOST: Final = "127.0.0.1"
PEERS_MAX: Final = 16
STAKE: Final = 100
MINERS: Final = ("//Alice", "//Bob", "//Charlie", "//Dave")
READY_S_MAX: Final = 60.0
STOP_S_MAX: Final = 5.0
"""What a daemon gets to stop by itself, as under systemd."""

RESTART_S_MIN: Final = 0.5
RESTART_S_MAX: Final = 30.0
"""Pauses between restarts of a peer that keeps dying double up to this."""

ANSWER_S_MAX: Final = 10.0
POLL_S: Final = 0.05
LOG_BYTES_MAX: Final = 64 * 1024 * 1024
"""A peer's log file that has grown past this is begun anew at the peer's next start."""

NETUID: Final = 64
GENESIS_HASH: Final = "0" * 64
"""No real chain has this one, so that a devnet's events mean nothing elsewhere."""

_PR_SET_PDEATHSIG: Final = 1


T = TypeVar("T")


class DevnetError(P2PNodesError):
    """The devnet cannot start or go on; the message is one line for the person who started it."""


class Peer:
    """One daemon of the devnet, running or not.

    Attributes:
        name: ``peer0``, ``peer1``, ...
        url: Where it serves miners and peers.
        directory: Its settings, keys, database and log.
        wanted: While it is cleared, the devnet does not start the peer again when it ends.
    """

    def __init__(self, index: int, directory: Path, port: int, verify: Mapping[str, Any]) -> None:
        self.name = f"peer{index}"
        self.url = f"http://{HOST}:{port}"
        self.directory = directory
        self.hotkey_uri = f"//validator{index}"
        self.wanted = asyncio.Event()
        self.wanted.set()
        self._port = port
        self._verify = verify
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def database(self) -> Path:
        """Its SQLite file."""
        return self.directory / "data" / "p2pnodes.db"

    @property
    def log_file(self) -> Path:
        """What it wrote to stderr: one JSON object a line."""
        return self.directory / "log.jsonl"

    def prepare(self) -> None:
        """Write settings and hotkey; data that is there stays."""
        self.directory.mkdir(parents=True, exist_ok=True)
        hotkey_file = self.directory / "hotkey.json"
        if not hotkey_file.exists():
            write_hotkey_file(hotkey_file, Hotkey.from_uri(self.hotkey_uri))
        settings = {
            "data_dir": "data",
            "hotkey_file": "hotkey.json",
            "network_file": "../network.toml",
            "http": {"host": HOST, "port": self._port, "url": self.url},
            "api": {"allow_private_hosts": True},
            "gossip": {"allow_private_addresses": True},
            "electorate": {"file": "../electorate.toml"},
            "verify": dict(self._verify),
            "log": {"format": "json"},
        }
        _replace(self.directory / "p2pnodes.toml", tomli_w.dumps(settings))

    async def start(self) -> None:
        """Start the process; it is ready when ``status`` says so."""
        with suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_BYTES_MAX:
                self.log_file.unlink()
        with self.log_file.open("ab") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "p2pnodes", "run", "--config", str(self.directory / "p2pnodes.toml"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")},
                start_new_session=True,  # Ctrl-C is the devnet's to handle: it stops its peers in order
                preexec_fn=_die_with_parent,
            )  # fmt: skip

    async def wait(self) -> int:
        """Wait until the process ends; its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    def kill(self) -> None:
        """Kill -9."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Stop gracefully; kill what does not stop in time."""
        if self._process is None or self.pid is None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S_MAX)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def status(self) -> dict[str, Any]:
        """What ``p2pnodes status --json`` shows; raises as ``ask``."""
        status: dict[str, Any] = await self.ask("/status")
        return status

    async def ask(self, path: str) -> Any:
        """JSON of one route of the operator's interface, such as ``/nodes?status=verified``.

        Raises:
            DevnetError: The peer does not answer, or not as expected.
        """
        connector = aiohttp.UnixConnector(str(self.directory / "data" / "admin.sock"))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(ANSWER_S_MAX)) as session,
                session.get(f"http://localhost{path}", raise_for_status=True) as answer,
            ):
                return orjson.loads(await answer.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DevnetError(f"{self.name} does not answer: {error}") from error

    def last_words(self) -> str:
        """Last line that the process wrote, for a person."""
        try:
            lines = self.log_file.read_bytes()[-65_536:].decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("p2pnodes: error: ") if lines else ""


class Devnet:
    """Validators ``//validator0`` ..., each with one daemon, and four miners.

    Args:
        directory: Keeps everything; a devnet that ran there before goes on.
        ports: One for each peer, 1 to 16.
        quorum: Share of the stake that must say verified.
        epoch_s: Seconds between blocks of the electorate.
        stakes: Of each validator; equal ones unless given.
        verify: Settings ``[verify]`` of each daemon, or one for all; verifier ``none`` unless given.
        report: Called with one line when something happened that a person wants to know.
    """

    def __init__(
        self,
        directory: Path,
        ports: Sequence[int],
        *,
        quorum: float = 0.5,
        epoch_s: float = 60.0,
        stakes: Sequence[int] = (),
        verify: Sequence[Mapping[str, Any]] = (),
        report: Callable[[str], None] = print,
    ) -> None:
        if not 1 <= len(ports) <= PEERS_MAX:
            raise ConfigError(f"{len(ports)} peers; expected 1 to {PEERS_MAX}")
        self.directory = directory
        self.peers = [
            Peer(index, directory / f"peer{index}", port, settings)
            for index, (port, settings) in enumerate(
                zip(ports, _each(verify, len(ports), {"verifier": "none"}, "verifiers"), strict=True)
            )
        ]
        self._stakes = _each(stakes, len(ports), STAKE, "stakes")
        self.network = Network(genesis_hash=GENESIS_HASH, netuid=NETUID, quorum=quorum)
        self._epoch_s = epoch_s
        self._report = report
        self._electorate = directory / "electorate.toml"
        self._lock: IO[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def urls(self) -> list[str]:
        """Base URL of each peer."""
        return [peer.url for peer in self.peers]

    async def start(self) -> None:
        """Start every peer and wait until each one takes writes and has a session with every other.

        Raises:
            DevnetError: A peer died or was not ready in time; all are stopped again.
            ConfigError: The directory cannot be written, or another devnet runs in it.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / "lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"a devnet runs in {self.directory} already: stop it, or choose another --dir"
                ) from error
            self._prepare()
        except OSError as error:
            raise ConfigError(
                f"{self.directory}: cannot be written ({error.strerror}); expected a directory for the devnet's state"
            ) from error
        try:
            for peer in self.peers:
                await peer.start()
            await asyncio.gather(*(self.ready(peer) for peer in self.peers))
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._supervise(peer)) for peer in self.peers]
        self._tasks.append(asyncio.create_task(self._advance()))

    async def stop(self) -> None:
        """Stop every peer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(peer.stop() for peer in self.peers))
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def ready(self, peer: Peer) -> None:
        """Wait until a peer takes writes and has a session with every other one.

        Raises:
            DevnetError: It died, or the time is over.
        """
        deadline = time.monotonic() + READY_S_MAX
        while True:
            try:
                status = await peer.status()
            except DevnetError:
                status = {}
            missing = _why_not_ready(status, len(self.peers) - 1)
            if missing is None:
                return
            if peer.pid is None and not self._tasks:
                raise DevnetError(f"{peer.name} does not start: {peer.last_words() or 'it wrote nothing'}")
            if time.monotonic() > deadline:
                raise DevnetError(f"{peer.name} is not ready after {READY_S_MAX:g} s: {missing}; see {peer.log_file}")
            await asyncio.sleep(POLL_S)

    def _prepare(self) -> None:
        _replace(self.directory / "network.toml", tomli_w.dumps(self.network.model_dump()))
        self._write_electorate(self.network.epoch_blocks)
        for peer in self.peers:
            peer.prepare()

    def _write_electorate(self, blocks: int) -> None:
        """Write the next electorate: the held one becomes the block before."""
        who = {
            "validators": [
                {"hotkey": Hotkey.from_uri(peer.hotkey_uri).address, "stake": stake, "address": peer.url}
                for peer, stake in zip(self.peers, self._stakes, strict=True)
            ],
            "registered": [{"hotkey": Hotkey.from_uri(uri).address, "block": 0} for uri in MINERS],
        }
        block, now_s = self.network.epoch_blocks, int(time.time())
        electorate: dict[str, Any] = {"block": block, "time": now_s, **who}
        if self._electorate.exists():
            held = read_electorate(self._electorate).current
            held_s = held.time_ms // 1000
            electorate |= {"block": held.block + blocks, "time": max(now_s, held_s + 1)}
            if electorate["block"] > held.block:
                electorate["previous"] = {"block": held.block, "time": held_s, **who}
        _replace(self._electorate, tomli_w.dumps(electorate))

    async def _advance(self) -> None:
        while True:
            await asyncio.sleep(self._epoch_s)
            try:
                await asyncio.to_thread(self._write_electorate, self.network.epoch_blocks)
            except (OSError, P2PNodesError) as error:
                self._report(f"the electorate does not move on: {error}")

    async def _supervise(self, peer: Peer) -> None:
        pause_s = RESTART_S_MIN
        while True:
            started = time.monotonic()
            code = await peer.wait()
            if not peer.wanted.is_set():
                self._report(f"{peer.name} is down")
                await peer.wanted.wait()
            else:
                lasted = time.monotonic() - started > RESTART_S_MAX
                pause_s = RESTART_S_MIN if lasted else min(pause_s * 2, RESTART_S_MAX)
                reason = signal.Signals(-code).name if code < 0 else f"exit code {code}: {peer.last_words()}"
                self._report(f"{peer.name} died ({reason}); starting it again in {pause_s:g} s")
                await asyncio.sleep(pause_s)
            try:
                await peer.start()
            except OSError as error:  # no memory, no file handles: the next turn tries again
                self._report(f"{peer.name} cannot be started: {error.strerror}")
                continue
            self._report(f"{peer.name} started again (pid {peer.pid})")


def _each(given: Sequence[T], count: int, default: T, what: str) -> Sequence[T]:
    """One value for each peer, of as many as were given: none, one for all, or one for each."""
    if len(given) not in {0, 1, count}:
        raise ConfigError(f"{len(given)} {what} for {count} peers; expected one for all, or one for each")
    return given if len(given) == count else [*(given or [default])] * count


def _why_not_ready(status: dict[str, Any], others: int) -> str | None:
    if not status:
        return "it does not answer"
    if status["ready"]:
        return "; ".join(status["ready"])
    sessions = sum(peer["connected"] for peer in status["gossip"]["peers"])
    return None if sessions >= others else f"it has {sessions} of {others} sessions"


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: daemons read it while it changes."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _die_with_parent() -> None:
    """In the child: get SIGTERM when the devnet dies, however it dies, so that no daemon is left behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
