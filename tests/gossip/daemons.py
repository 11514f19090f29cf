"""Drivers on real loopback sockets and real databases, and a stranger that says of the protocol what it likes."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from nacl.utils import random as random_bytes

from p2pnodes.gossip.bans import OperatorBans
from p2pnodes.gossip.channel import Channel
from p2pnodes.gossip.driver import PATH, Driver
from p2pnodes.gossip.handshake import Identity, Initiator, Peer, Policy
from p2pnodes.gossip.view import VIEW_SIZE
from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Delegation, LogId
from p2pnodes.model.network import Network
from p2pnodes.store.ahead import Checker
from p2pnodes.store.database import Commit, Database
from p2pnodes.store.state import Outcome
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, electorate

DEADLINE_S: Final = 10.0


class _Clock:
    """The wall clock of all daemons of a test."""

    begin_s = time.monotonic()


def restart_clock() -> None:
    """Let a test begin when the keys, delegations and requests of the tests are valid, however late it runs."""
    _Clock.begin_s = time.monotonic()


def now_ms() -> int:
    """Unix milliseconds since ``restart_clock``."""
    return NOW_MS + round((time.monotonic() - _Clock.begin_s) * 1000)


async def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; fail when it does not hold in time."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


class Node:
    """What a daemon is to its peers: a driver, its database and its server."""

    def __init__(
        self,
        directory: Path,
        uri: str,
        *,
        network: Network = NETWORK,
        number: int = 0,
        observers: bool = False,
        view_size: int = VIEW_SIZE,
        who: Electorate | None = None,
        checker: Checker | None = None,
    ) -> None:
        self.checker = checker
        self.author = Author(uri, number=number)
        self.observers = observers
        self.view_size = view_size
        self.who = who or electorate()
        self.path = directory / f"{uri.strip('/')}.db"
        self.network = network
        self.delegation: tuple[LogId, Delegation] | None = (self.author.log, self.author.delegation())
        self.operator_bans = OperatorBans()
        self.outcomes: list[Outcome] = []
        self.port = 0
        self.database: Database
        self.driver: Driver
        self._runner: web.AppRunner | None = None

    @property
    def hotkey(self) -> bytes:
        return self.author.hotkey.public_key

    @property
    def node_key(self) -> bytes:
        return self.author.node_key.public_key

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Open the database, listen (on the port of before, if there was one) and dial."""
        self.database = await Database.open(
            self.path, self.network, self.author.node_key, now_ms=now_ms, checker=self.checker
        )
        if self.database.ledger.own_log is None:
            await self.database.set_electorate(self.who)
            await self.database.write(
                lambda ledger: ledger.open_log(self.author.log.number, self.author.delegation(), now_ms())
            )
        self.database.ledger.writes_refused = None
        self.driver = self.new_driver()
        self.database.on_commit = self._committed
        app = web.Application()
        app.router.add_get(PATH, self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        await self.driver.start()

    def new_driver(self) -> Driver:
        """A driver for the author's node key."""
        return Driver(
            node_key=self.author.node_key,
            delegation=lambda: self.delegation,
            network=self.network,
            store=self.database,
            electorate=lambda: self.database.electorate,
            rng=random.Random(self.author.hotkey.address),
            clock=now_ms,
            on_outcomes=self.outcomes.extend,
            allow_private_addresses=True,
            observers=self.observers,
            view_size=self.view_size,
            operator_bans=self.operator_bans,
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await self.driver.handler(request)

    def _committed(self, commit: Commit) -> None:
        self.driver.appended(commit.appended)
        self.driver.ended(commit.ended)

    async def stop(self) -> None:
        if self._runner is not None:
            await self.driver.stop()
            await self._runner.cleanup()
            await self.database.close()
            self._runner = None

    def dial(self, *others: "Node") -> None:
        """Want links with these and nobody else."""
        self.know({other.hotkey: other.url for other in others})

    def know(self, urls: Mapping[bytes, str], bootstrap: Sequence[str] = ()) -> None:
        """Take these for all members that there are, of which the node keys are not known."""
        self.driver.set_targets({hotkey: [url] for hotkey, url in urls.items()}, bootstrap, dict.fromkeys(urls))

    async def post(self, *uuids: str) -> None:
        """Write a miner's registration into the own log."""
        request = add("//Alice", uuids, NOW_S)
        await self.database.submit_add(request, parse_body(request.body), None)

    @property
    def events(self) -> int:
        return self.database.state.events

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Status of the open sessions."""
        return [peer for peer in self.driver.status()["peers"] if peer["connected"]]

    def session_with(self, other: "Node") -> dict[str, Any] | None:
        found = [entry for entry in self.sessions if entry["node_key"] == other.node_key.hex()]
        return found[0] if found else None

    def sees_all_of(self, *others: "Node") -> bool:
        """Whether the databases hold the same events."""
        return all(self.database.state.vector_digest == other.database.state.vector_digest for other in others)


class Stranger:
    """A client of a node's gossip socket, made of the protocol's own parts so that it can break each rule alone."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, author: Author, network: Network) -> None:
        self.socket = socket
        self.author = author
        self.network = network
        self.channel: Channel
        self.peer: Peer

    def initiator(self) -> Initiator:
        identity = Identity(self.author.node_key, self.author.log, self.author.delegation())
        return Initiator(identity, Policy(self.network, NOW_S, lambda _: True), random_bytes(32))

    async def shake(self) -> None:
        """Go through the handshake; raises HandshakeError."""
        initiator = self.initiator()
        await self.socket.send_bytes(initiator.hello)
        await self.socket.send_bytes(initiator.prove(await self.socket.receive_bytes()))
        self.peer, keys = initiator.finish(await self.socket.receive_bytes())
        self.channel = Channel(keys)

    async def send(self, frame: bytes) -> None:
        await self.socket.send_bytes(self.channel.encrypt(frame))

    async def receive(self) -> bytes:
        return self.channel.decrypt(await self.socket.receive_bytes())

    async def closed(self) -> str:
        """Read on until the node ends the connection; the reason that it gave."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.CLOSE:
                    return str(message.extra)
                if message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}:
                    return ""


@asynccontextmanager
async def stranger(node: Node, author: Author, *, network: Network = NETWORK) -> AsyncIterator[Stranger]:
    """Connect to a node's gossip socket as ``author``; no word is said yet."""
    timeout = aiohttp.ClientWSTimeout(ws_close=0.1)
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(node.url + PATH, max_msg_size=0, timeout=timeout) as socket,
    ):
        yield Stranger(socket, author, network)
