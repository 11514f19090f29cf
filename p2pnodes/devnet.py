"""A network of real daemons on one machine: for a first look, for development and for end-to-end tests.

Each peer is a process of its own (``p2pnodes run``) on 127.0.0.1 with its own directory, keys and database. For the
chain stands an electorate file that moves on by one epoch every so often, or a node on loopback that replays a subnet
(``tests.replay``), which the daemons read as they read the real chain. Nothing here is a shortcut: peers talk over
sockets, as validators on different continents do. The keys are development keys that everybody knows.

    DIR/electorate.toml      who validates (//validator0 ...) and who mines (//Alice ...)
    DIR/chain.jsonl          instead of it: what happened on the replayed chain
    DIR/network.toml         the network's parameters
    DIR/peer0/p2pnodes.toml  settings, hotkey and data of the first peer; its log is peer0/log.jsonl
"""

import asyncio
import ctypes
import fcntl
import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, Literal, NamedTuple, Protocol, TypeVar

import aiohttp
import orjson
import tomli_w

from p2pnodes.chain.file import read_electorate
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, P2PNodesError
from p2pnodes.model.keys import Hotkey
from p2pnodes.model.network import Network

HOST: Final = "127.0.0.1"
PEERS_MAX: Final = 16
STAKE: Final = 100
MINERS: Final = ("//Alice", "//Bob", "//Charlie", "//Dave")
READY_S_MAX: Final = 60.0
STOP_S_MAX: Final = 5.0
"""What a daemon gets to stop by itself; one that hangs is killed sooner than it would end (``daemon.STOP_S_MAX``)."""

RESTART_S_MIN: Final = 0.5
RESTART_S_MAX: Final = 30.0
"""Pauses between restarts of a peer that keeps dying double up to this."""

ANSWER_S_MAX: Final = 10.0
POLL_S: Final = 0.05
REPLAY_START_S_MAX: Final = 30.0
REPLAY_LINE_BYTES_MAX: Final = 4_096
"""Of what the replayed chain prints."""

REPLAY_EPOCH_BLOCKS: Final = 5
"""So that an epoch of a minute has blocks of 12 s, as finney has them."""

LINKS_MIN: Final = 2
"""Links of a peer that counts as ready in a devnet with more peers than its view has places for."""

LOG_BYTES_MAX: Final = 64 * 1024 * 1024
"""A peer's log file that has grown past this is begun anew at the peer's next start."""

NETUID: Final = 64
GENESIS_HASH: Final = "0" * 64
"""No real chain has this one, so that a devnet's events mean nothing elsewhere."""

_CODED: Final = re.compile(r"(?P<words>.*) \[(?P<code>[a-z-]+)\]")
"""An error's line, with its code."""

_PR_SET_PDEATHSIG: Final = 1

_SOURCES: Final = Path(__file__).parents[1]
"""Of a checkout, what holds the package and the tests."""


T = TypeVar("T")


class DevnetError(P2PNodesError):
    """The devnet cannot start or go on; the message is one line for the person who started it."""

    code = Code.SYSTEM_DEVNET


class Validator(NamedTuple):
    """Who a daemon speaks for.

    Attributes:
        name: What people know its key by: ``//validator0``, or on the replayed chain ``hk0``.
        hotkey: The key.
    """

    name: str
    hotkey: Hotkey


def development_validator(index: int) -> Validator:
    """The ``index``-th development key (from 0)."""
    uri = f"//validator{index}"
    return Validator(uri, Hotkey.from_uri(uri))


def replayed_validator(index: int) -> Validator:
    """The ``index``-th permit holder (from 0, below PEERS_MAX) on the replayed chain; everybody knows these keys.

    Source: tests/replay/data/README.md, "Made up".
    """
    name = f"hk{7 * (index // 2) + index % 2}"  # of each seven neurons there, the first two hold permits
    return Validator(name, Hotkey.from_seed(hashlib.sha256(name.encode()).digest()))


class Peer:
    """One daemon of the devnet, running or not.

    Attributes:
        name: ``peer0``, ``peer1``, ...
        url: Where it serves miners and peers.
        console_port: Where it serves its console, on 127.0.0.1; None for nowhere.
        directory: Its settings, keys, database and log.
        hotkey: Its validator's.
        hotkey_uri: What that is known by: ``//validator0``, or on the replayed chain ``hk0``.
        wanted: While it is cleared, the devnet does not start the peer again when it ends.
        program: What runs it, before ``--config FILE``.
        environment: Variables that its process gets beside those of this one.
    """

    def __init__(
        self,
        index: int,
        directory: Path,
        port: int,
        verify: Mapping[str, Any],
        validator: "Validator | None" = None,
        *,
        console_port: int | None = None,
    ) -> None:
        self.name = f"peer{index}"
        self.url = f"http://{HOST}:{port}"
        self.console_port = console_port
        self.directory = directory
        self.hotkey_uri, self.hotkey = validator or development_validator(index)
        self.wanted = asyncio.Event()
        self.wanted.set()
        self.program: Sequence[str] = (sys.executable, "-m", "p2pnodes", "run")
        self.environment: dict[str, str] = {}
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

    def prepare(self, electorate: Mapping[str, Any]) -> None:
        """Write settings, with this table ``[electorate]``, and hotkey; data that is there stays."""
        self.directory.mkdir(parents=True, exist_ok=True)
        hotkey_file = self.directory / "hotkey.json"
        if not hotkey_file.exists():
            write_hotkey_file(hotkey_file, self.hotkey)
        settings = {
            "data_dir": "data",
            "hotkey_file": "hotkey.json",
            "network_file": "../network.toml",
            "http": {"host": HOST, "port": self._port, "url": self.url},
            "api": {"allow_private_hosts": True},
            "gossip": {"allow_private_addresses": True, "allow_observers": True},
            "electorate": dict(electorate),
            "verify": dict(self._verify),
            "log": {"format": "json"},
        }
        if self.console_port is not None:
            settings["admin"] = {"port": self.console_port}
        _replace(self.directory / "p2pnodes.toml", tomli_w.dumps(settings))

    async def start(self) -> None:
        """Start the process; it is ready when ``status`` says so."""
        with suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_BYTES_MAX:
                self.log_file.unlink()
        with self.log_file.open("ab") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                *self.program, "--config", str(self.directory / "p2pnodes.toml"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")}
                | self.environment,
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


class StandIn(Protocol):
    """What stands in for the chain."""

    async def start(self) -> Mapping[str, Any]:
        """Have an electorate ready; returns the daemons' table ``[electorate]``.

        Raises:
            DevnetError, ConfigError: It cannot be had.
        """

    async def run(self) -> None:
        """Keep it going until cancelled."""

    async def stop(self) -> None:
        """Let go of it; what happened is kept for the next start."""


class MovingFile:
    """An electorate file with all peers' validators and the four miners, which moves on by one epoch every so often."""

    def __init__(
        self,
        path: Path,
        peers: Sequence[Peer],
        stakes: Sequence[int],
        *,
        epoch_blocks: int,
        epoch_s: float,
        report: Callable[[str], None],
    ) -> None:
        self._path = path
        self._peers = peers
        self._stakes = stakes
        self._epoch_blocks = epoch_blocks
        self._epoch_s = epoch_s
        self._report = report

    async def start(self) -> Mapping[str, Any]:
        """Write the first electorate, or the one after that of the last run."""
        self._write()
        return {"file": f"../{self._path.name}"}

    async def run(self) -> None:
        """Write the next one, again and again."""
        while True:
            await asyncio.sleep(self._epoch_s)
            try:
                await asyncio.to_thread(self._write)
            except (OSError, P2PNodesError) as error:
                self._report(f"the electorate does not move on: {error}")

    async def stop(self) -> None:
        """Leave the file as it is."""

    def _write(self) -> None:
        """Write the next electorate: the held one becomes the block before."""
        who = {
            "validators": [
                {"hotkey": peer.hotkey.address, "stake": stake, "address": peer.url}
                for peer, stake in zip(self._peers, self._stakes, strict=True)
            ],
            "registered": [{"hotkey": Hotkey.from_uri(uri).address, "block": 0} for uri in MINERS],
        }
        block, now_s = self._epoch_blocks, int(time.time())
        electorate: dict[str, Any] = {"block": block, "time": now_s, **who}
        if self._path.exists():
            held = read_electorate(self._path).current
            held_s = held.time_ms // 1000
            electorate |= {"block": held.block + self._epoch_blocks, "time": max(now_s, held_s + 1)}
            electorate["previous"] = {"block": held.block, "time": held_s, **who}
        _replace(self._path, tomli_w.dumps(electorate))


class ReplayedChain:
    """A node of its own that replays netuid 64: 256 made-up neurons, 64 of them with a permit (``tests/replay``).

    The devnet's validators are the first of those 64, at the addresses that their axons announce; the four miners hold
    slots too. Everybody else is only on the chain.

    Attributes:
        url: Where daemons read it.
        control_url: Where ``change`` and others send what shall happen.
    """

    def __init__(
        self, directory: Path, peers: Sequence[Peer], *, port: int, epoch_s: float, report: Callable[[str], None]
    ) -> None:
        self.url = ""
        self.control_url = ""
        self._directory = directory
        self._peers = peers
        self._port = port
        self._block_s = epoch_s / REPLAY_EPOCH_BLOCKS
        self._report = report
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> Mapping[str, Any]:
        """Start the node; it goes on with the blocks of the last run.

        Raises:
            DevnetError: There is no source checkout, or the node does not start.
        """
        if not (_SOURCES / "tests" / "replay" / "__main__.py").is_file():
            raise DevnetError(
                "no tests/replay beside the package p2pnodes: the replayed chain needs a checkout of the sources, "
                "installed with pip install -e; or use --chain file"
            )
        await self._spawn()
        return {"urls": [self.url]}

    async def run(self) -> None:
        """Start the node again, at the same address, whenever it dies."""
        self._port = int(self.url.rpartition(":")[2])
        pause_s = RESTART_S_MIN
        while True:
            assert self._process is not None
            code = await self._process.wait()
            self._report(f"the replayed chain died (exit code {code}); starting it again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S_MAX)
            try:
                await self._spawn()
            except DevnetError as error:
                self._report(str(error))

    async def stop(self) -> None:
        """Stop the node."""
        if self._process is not None and self.pid is not None:
            self._process.terminate()
            await self._process.wait()

    async def change(self, kind: str, hotkey: str, value: Any = None) -> int:
        """Let something happen to a neuron in the next block; returns that block's number.

        Args:
            kind: ``permit``, ``stake``, ``axon``, ``register`` or ``deregister``: see ``tests.replay.subnets.Change``.
            hotkey: SS58 address.
            value: As the kind wants it.

        Raises:
            DevnetError: The chain refuses it.
        """
        answer = await self.order({"do": "change", "kind": kind, "hotkey": hotkey, "value": value})
        return int(answer["block"])

    async def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send the node any order, such as a fault: see ``tests.replay.server``; returns how the chain stands then.

        Raises:
            DevnetError: It refuses, or does not answer.
        """
        timeout = aiohttp.ClientTimeout(ANSWER_S_MAX)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self.control_url, json=dict(order)) as answer,
            ):
                found: dict[str, Any] = orjson.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DevnetError(f"the replayed chain does not answer: {error}") from error
        if answer.status != HTTPStatus.OK:
            raise DevnetError(f"the replayed chain refuses: {found['detail']}")
        return found

    async def _spawn(self) -> None:
        arguments = ["--port", str(self._port), "--netuid", str(NETUID), "--genesis", GENESIS_HASH]
        arguments += ["--block-s", str(self._block_s), "--journal", str(self._directory / "chain.jsonl")]
        for uri in MINERS:
            arguments += ["--register", Hotkey.from_uri(uri).address]
        for peer in self._peers:
            arguments += ["--axon", f"{peer.hotkey.address}={peer.url.removeprefix('http://')}"]
        log_path = self._directory / "chain.log"
        with log_path.open("wb") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.replay", *arguments,
                cwd=_SOURCES,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,  # as the peers: the devnet stops it, last
                preexec_fn=_die_with_parent,
                limit=REPLAY_LINE_BYTES_MAX,
            )  # fmt: skip
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(REPLAY_START_S_MAX):
                where = orjson.loads(await self._process.stdout.readline())
            self.url, self.control_url = where["url"], where["control"]
        except (TimeoutError, ValueError, KeyError) as error:
            await self.stop()
            lines = log_path.read_text("utf-8", "replace").splitlines()
            reason = lines[-1] if lines else f"it said nothing within {REPLAY_START_S_MAX:g} s"
            raise DevnetError(f"the replayed chain does not start: {reason}") from error


class Devnet:
    """Validators, each with one daemon, and four miners.

    Args:
        directory: Keeps everything; a devnet that ran there before goes on.
        ports: One for each peer, 1 to 16.
        quorum: Share of the stake that must say verified.
        parameters: Further ones of ``model.network.Network``.
        epoch_s: Seconds between blocks of the electorate.
        chain: What stands in for it: a file, or a node that replays a subnet.
        chain_port: Of that node; 0 takes a free one.
        stakes: Of each validator; equal ones unless given. The replayed chain has its own.
        verify: Settings ``[verify]`` of each daemon, or one for all; verifier ``none`` unless given.
        console_ports: Where each daemon serves its console; nowhere unless given.
        report: Called with one line when something happened that a person wants to know.
    """

    def __init__(
        self,
        directory: Path,
        ports: Sequence[int],
        *,
        quorum: float = 0.5,
        parameters: Mapping[str, Any] = MappingProxyType({}),
        epoch_s: float = 60.0,
        chain: Literal["file", "replay"] = "file",
        chain_port: int = 0,
        stakes: Sequence[int] = (),
        verify: Sequence[Mapping[str, Any]] = (),
        console_ports: Sequence[int] = (),
        report: Callable[[str], None] = print,
    ) -> None:
        if not 1 <= len(ports) <= PEERS_MAX:
            raise ConfigError(f"{len(ports)} peers; expected 1 to {PEERS_MAX}", code=Code.SYSTEM_DEVNET)
        if chain == "replay" and stakes:
            raise ConfigError(
                "stakes are given, but the replayed chain has its own; leave them out, or use a file",
                code=Code.SYSTEM_DEVNET,
            )
        self.directory = directory
        verifiers = _each(verify, len(ports), {"verifier": "none"}, "verifiers")
        consoles: Sequence[int | None] = console_ports or [None] * len(ports)
        validator = replayed_validator if chain == "replay" else development_validator
        self.peers = [
            Peer(index, directory / f"peer{index}", port, settings, validator(index), console_port=console_port)
            for index, (port, settings, console_port) in enumerate(zip(ports, verifiers, consoles, strict=True))
        ]
        blocks: dict[str, Any] = {"epoch_blocks": REPLAY_EPOCH_BLOCKS} if chain == "replay" else {}
        self.network = Network(genesis_hash=GENESIS_HASH, netuid=NETUID, quorum=quorum, **blocks, **parameters)
        self._report = report
        self.replay: ReplayedChain | None = None
        if chain == "replay":
            self.replay = ReplayedChain(directory, self.peers, port=chain_port, epoch_s=epoch_s, report=report)
        self._chain: StandIn = self.replay or MovingFile(
            directory / "electorate.toml",
            self.peers,
            _each(stakes, len(ports), STAKE, "stakes"),
            epoch_blocks=self.network.epoch_blocks,
            epoch_s=epoch_s,
            report=report,
        )
        self._lock: IO[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def urls(self) -> list[str]:
        """Base URL of each peer."""
        return [peer.url for peer in self.peers]

    async def start(self) -> None:
        """Start every peer and wait until each one takes writes and has links with the others; see ``ready``.

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
                    f"a devnet runs in {self.directory} already: stop it, or choose another --dir",
                    code=Code.SYSTEM_DEVNET,
                ) from error
            await self._prepare()
        except DevnetError:
            await self.stop()
            raise
        except OSError as error:
            raise ConfigError(
                f"{self.directory}: cannot be written ({error.strerror}); expected a directory for the devnet's state",
                code=Code.SYSTEM_DEVNET,
            ) from error
        try:
            for peer in self.peers:
                await peer.start()
            await asyncio.gather(*(self.ready(peer) for peer in self.peers))
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._supervise(peer)) for peer in self.peers]
        self._tasks.append(asyncio.create_task(self._chain.run()))

    async def stop(self) -> None:
        """Stop every peer, and what stands in for the chain."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(peer.stop() for peer in self.peers))
        await self._chain.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def ready(self, peer: Peer) -> None:
        """Wait until a peer takes writes and has a link with every other one, or a few where its view is smaller.

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
                words, code = peer.last_words() or "it wrote nothing", None
                if (coded := _CODED.fullmatch(words)) is not None:  # the error's own code says more than this one's
                    words, code = coded["words"], coded["code"]
                raise DevnetError(f"{peer.name} does not start: {words}", code=code)
            if time.monotonic() > deadline:
                raise DevnetError(f"{peer.name} is not ready after {READY_S_MAX:g} s: {missing}; see {peer.log_file}")
            await asyncio.sleep(POLL_S)

    async def _prepare(self) -> None:
        _replace(self.directory / "network.toml", tomli_w.dumps(self.network.model_dump()))
        electorate = await self._chain.start()
        for peer in self.peers:
            peer.prepare(electorate)

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
        raise ConfigError(
            f"{len(given)} {what} for {count} peers; expected one for all, or one for each", code=Code.SYSTEM_DEVNET
        )
    return given if len(given) == count else [*(given or [default])] * count


def _why_not_ready(status: dict[str, Any], others: int) -> str | None:
    if not status:
        return "it does not answer"
    if status["ready"]:
        return "; ".join(status["ready"])
    view = status["gossip"]["view"]
    needed = others if others <= view["size"] else LINKS_MIN
    return None if view["links"] >= needed else f"it has {view['links']} of {needed} links"


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: daemons read it while it changes."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _die_with_parent() -> None:
    """In the child: get SIGTERM when the devnet dies, however it dies, so that no daemon is left behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
