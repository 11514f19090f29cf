"""The one module of gossip that does I/O: WebSockets over aiohttp, the store, the clock, and the engine in between.

The engine is called in the event loop alone, one input at a time; what it returns is carried out in order. The tasks of
a session read its socket, write to it, store its events and read the log for it; all of them end with the session.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import aiohttp
import structlog
from aiohttp import web
from nacl.utils import random as random_bytes

from p2pnodes.gossip import handshake
from p2pnodes.gossip.channel import OVERHEAD_BYTES, Channel
from p2pnodes.gossip.engine import (
    TICK_MS,
    Close,
    Effect,
    Engine,
    Notice,
    Read,
    Send,
    SessionId,
    Store,
)
from p2pnodes.gossip.frames import FRAME_BYTES_MAX
from p2pnodes.gossip.handshake import HandshakeError, Identity, Initiator, Peer, Policy, RefusedByPeerError, Responder
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import P2PNodesError, RemoteProtocolError
from p2pnodes.model.events import Delegation, Event, Head, LogId
from p2pnodes.model.keys import NodeKey, ss58_encode
from p2pnodes.model.network import Network
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Outcome

log = structlog.get_logger("p2pnodes.gossip")

PATH: Final = "/gossip"
HANDSHAKE_S_MAX: Final = 10.0
"""Bound of a handshake, from the first byte of the connection on."""

HANDSHAKES_MAX: Final = 64
"""Inbound handshakes at once, over all addresses."""

HANDSHAKES_PER_ADDRESS_MAX: Final = 16
"""The same for one address: many daemons may stand behind one, but none may take every place."""

SESSIONS_MAX: Final = 256
HEARTBEAT_S: Final = 10.0
"""Ping interval; a peer that does not answer for half of it is gone."""

CLOSE_S_MAX: Final = 1.0
REDIAL_S_MIN: Final = 1.0
REDIAL_S_MAX: Final = 30.0
"""Pauses between dials of one peer double up to this, each jittered to between a half and all of it; for ever."""

BANS_MAX: Final = 1_024
REFUSALS_LOGGED_PER_S: Final = 2.0
MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX + OVERHEAD_BYTES


class _Ban(NamedTuple):
    until: float
    reason: str


class _Target:
    """A peer to be dialled, and how that went."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures = 0
        self.next_at = 0.0
        self.error: str | None = None
        self.task: asyncio.Task[None] | None = None


class _Link:
    """One session: its socket, channel and queues."""

    def __init__(self, number: SessionId, peer: Peer, channel: Channel, *, dialled: bool, since_ms: int) -> None:
        self.id = number
        self.peer = peer
        self.channel = channel
        self.dialled = dialled
        self.since_ms = since_ms
        # What may wait in these is bounded by the engine, which hears when each is done.
        self.outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self.stores: asyncio.Queue[Store] = asyncio.Queue()
        self.reads: asyncio.Queue[Read] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.reason = "the peer closed the connection"


def keeps_dialled_one(own: bytes, peer: bytes) -> bool:
    """Whether, of two sessions of a pair, the one that we dialled stays: both sides keep that of the lower node key."""
    return own < peer


class Driver:
    """Keeps sessions with the peers that it is told of, and with those that dial in."""

    def __init__(
        self,
        *,
        node_key: NodeKey,
        delegation: Callable[[], tuple[LogId, Delegation] | None],
        network: Network,
        store: Database,
        electorate: Callable[[], Electorate],
        rng: random.Random,
        clock: Callable[[], int],
        on_outcomes: Callable[[list[Outcome]], None],
    ) -> None:
        """Take what sessions need; ``start`` begins to dial.

        Args:
            node_key: Signs sessions.
            delegation: The own log and its latest delegation; None while there is none, then nobody is talked to.
            network: Its parameters.
            store: Where events go and come from.
            electorate: Who may speak.
            rng: For jitter and for the engine.
            clock: Unix milliseconds.
            on_outcomes: Called with what became of each received event.
        """
        self._node_key = node_key
        self._delegation = delegation
        self._network = network
        self._store = store
        self._electorate = electorate
        self._rng = rng
        self._clock = clock
        self._on_outcomes = on_outcomes
        self._engine = Engine(network, store, rng)
        self._links: dict[SessionId, _Link] = {}
        self._by_key: dict[bytes, _Link] = {}
        self._next_id = 0
        self._targets: dict[str | bytes, _Target] = {}
        self._bans: dict[bytes, _Ban] = {}
        self._shaking: dict[str, int] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._client: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._log_allowance = REFUSALS_LOGGED_PER_S
        self._log_at = 0.0

    # -- life cycle --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to dial and to tick."""
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=HANDSHAKE_S_MAX),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        self._spawn(self._tick())

    async def stop(self) -> None:
        """End every session and stop dialling."""
        self._stopping = True
        for link in list(self._links.values()):
            self._end(link, "this daemon stops")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for socket in list(self._sockets):
            with suppress(TimeoutError):
                await asyncio.wait_for(socket.close(), CLOSE_S_MAX)
        if self._client is not None:
            await self._client.close()

    def set_targets(self, targets: Mapping[bytes, str], bootstrap: Sequence[str]) -> None:
        """Say whom to keep sessions with: hotkey -> base URL, and URLs whose owner is not known yet."""
        wanted: dict[str | bytes, str] = {url: url for url in bootstrap}
        wanted.update(targets.items())
        for key in self._targets.keys() - wanted.keys():
            target = self._targets.pop(key)
            if target.task is not None:
                target.task.cancel()
        for key, url in wanted.items():
            target = self._targets.setdefault(key, _Target(url))
            if target.url != url:
                target.url, target.next_at, target.failures = url, 0.0, 0

    def appended(self, events: Sequence[Event]) -> None:
        """Push own events that are durable."""
        self._carry_out(self._engine.appended(events, self._clock()))

    # -- what others ask ---------------------------------------------------------------------------------------------

    def own_head_reports(self) -> dict[bytes, Head | None]:
        """What peers hold of our own log; see ``Engine.own_head_reports``."""
        own = self._store.ledger.own_log
        return {} if own is None else self._engine.own_head_reports(own)

    def clock_offset_ms(self) -> int | None:
        """See ``Engine.clock_offset_ms``."""
        return self._engine.clock_offset_ms()

    def status(self) -> dict[str, Any]:
        """What operators see: ``peers`` lists every target and every session."""
        now = asyncio.get_running_loop().time()
        sessions = {entry["node_key"]: entry for entry in self._engine.status()}
        hotkeys = {link.peer.hotkey: link for link in self._links.values()}
        peers: list[dict[str, Any]] = []
        for key, target in self._targets.items():
            link = hotkeys.get(key) if isinstance(key, bytes) else None
            if isinstance(key, str) and any(each.peer.delegation.url == key for each in self._links.values()):
                continue
            peers.append(
                {
                    "hotkey": ss58_encode(key) if isinstance(key, bytes) else None,
                    "url": target.url,
                    "connected": link is not None,
                    "last_error": None if link is not None else target.error,
                    "next_dial_s": None if link is not None else round(max(0.0, target.next_at - now), 1),
                }
            )
        listed = {entry["hotkey"]: entry for entry in peers if entry["hotkey"]}
        for link in self._links.values():
            address = ss58_encode(link.peer.hotkey)
            if address not in listed:
                listed[address] = {"hotkey": address, "url": link.peer.delegation.url, "connected": True}
                peers.append(listed[address])
            listed[address] |= {
                "direction": "dialled" if link.dialled else "accepted",
                **sessions.get(link.peer.node_key.hex(), {}),
            }
        return {
            "sessions": len(self._links),
            "handshakes": sum(self._shaking.values()),
            "peers": peers,
            "bans": [
                {"node_key": key.hex(), "reason": ban.reason, "for_s": round(ban.until - now, 1)}
                for key, ban in self._bans.items()
                if ban.until > now
            ],
        }

    # -- inbound -----------------------------------------------------------------------------------------------------

    async def handler(self, request: web.Request) -> web.StreamResponse:
        """Serve one inbound connection at PATH."""
        remote = request.remote or "?"
        delegation = self._delegation()
        if self._stopping or delegation is None:
            raise web.HTTPServiceUnavailable(text="not ready for peers yet", headers={"Retry-After": "5"})
        shaking = self._shaking.get(remote, 0)
        if shaking >= HANDSHAKES_PER_ADDRESS_MAX or sum(self._shaking.values()) >= HANDSHAKES_MAX:
            raise web.HTTPServiceUnavailable(text="too many handshakes at once", headers={"Retry-After": "5"})
        if len(self._links) >= SESSIONS_MAX:
            raise web.HTTPServiceUnavailable(text="too many sessions", headers={"Retry-After": "60"})
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES_MAX, compress=False, timeout=CLOSE_S_MAX
        )
        if not socket.can_prepare(request).ok:
            raise web.HTTPUpgradeRequired(text="this is the peers' WebSocket; miners use /nodes")
        self._shaking[remote] = shaking + 1
        self._sockets.add(socket)
        try:
            try:
                async with asyncio.timeout(HANDSHAKE_S_MAX):
                    await socket.prepare(request)
                    found = await self._respond(socket, Identity(self._node_key, *delegation))
            except (HandshakeError, TimeoutError, ConnectionError, aiohttp.ClientError) as error:
                await self._refuse(socket, remote, error)
                return socket
            finally:
                self._shaking[remote] -= 1
                if not self._shaking[remote]:
                    del self._shaking[remote]
            await self._talk(socket, *found, dialled=False)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _respond(self, socket: web.WebSocketResponse, identity: Identity) -> tuple[Peer, Channel]:
        responder = Responder(identity, self._policy(None), random_bytes(32))
        await socket.send_bytes(responder.answer(await _receive(socket)))
        peer, keys = responder.finish(await _receive(socket))
        self._check_ban(peer)
        await socket.send_bytes(handshake.WELCOME)
        return peer, Channel(keys)

    # -- outbound ----------------------------------------------------------------------------------------------------

    def _dial_due(self, now: float) -> None:
        delegation = self._delegation()
        if self._stopping or delegation is None or len(self._links) >= SESSIONS_MAX:
            return
        connected: set[str | bytes] = {link.peer.hotkey for link in self._links.values()}
        connected |= {link.peer.delegation.url for link in self._links.values()}
        for key, target in self._targets.items():
            if target.task is None and target.next_at <= now and key not in connected:
                hotkey = key if isinstance(key, bytes) else None
                target.task = self._spawn(self._dial(target, hotkey, Identity(self._node_key, *delegation)))

    async def _dial(self, target: _Target, hotkey: bytes | None, identity: Identity) -> None:
        assert self._client is not None
        try:
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                socket = await self._client.ws_connect(
                    target.url.rstrip("/") + PATH, heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES_MAX, compress=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S_MAX),
                )  # fmt: skip
                try:
                    found = await self._initiate(socket, hotkey, identity)
                except BaseException:
                    await socket.close()
                    raise
            target.failures, target.error = 0, None
            await self._talk(socket, *found, dialled=True)
        except TimeoutError:
            self._dial_failed(target, f"no handshake within {HANDSHAKE_S_MAX:g} s")
        except (HandshakeError, aiohttp.ClientError, OSError, ValueError) as error:
            self._dial_failed(target, _reason(error))
        finally:
            target.task = None
            if not target.error:
                target.next_at = asyncio.get_running_loop().time() + self._rng.uniform(0.1, REDIAL_S_MIN)

    async def _initiate(
        self, socket: aiohttp.ClientWebSocketResponse, hotkey: bytes | None, identity: Identity
    ) -> tuple[Peer, Channel]:
        initiator = Initiator(identity, self._policy(hotkey), random_bytes(32))
        await socket.send_bytes(initiator.hello)
        try:
            await socket.send_bytes(initiator.prove(await _receive(socket)))
            peer, keys = initiator.finish(await _receive(socket))
            self._check_ban(peer)
        except HandshakeError as error:
            if not isinstance(error, RefusedByPeerError):
                await socket.send_bytes(handshake.refusal(str(error)))
            raise
        return peer, Channel(keys)

    def _dial_failed(self, target: _Target, reason: str) -> None:
        target.failures += 1
        pause_s = min(REDIAL_S_MAX, REDIAL_S_MIN * 2 ** min(target.failures - 1, 16))
        target.next_at = asyncio.get_running_loop().time() + self._rng.uniform(pause_s / 2, pause_s)
        if reason != target.error:
            target.error = reason
            log.info("dial_failed", url=target.url, reason=reason)

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def _talk(
        self,
        socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        peer: Peer,
        channel: Channel,
        *,
        dialled: bool,
    ) -> None:
        """Run a session until it ends."""
        if (held := self._by_key.get(peer.node_key)) is not None:
            # Of two that were dialled at once both sides keep the same one. One that was dialled anew in the same
            # direction comes from a peer that has lost the other: it may have started again.
            if held.dialled != dialled and held.dialled == keeps_dialled_one(self._node_key.public_key, peer.node_key):
                await socket.close(message=b"there is a session already")
                return
            self._end(held, "the peer opened a new session")
        self._next_id += 1
        link = _Link(self._next_id, peer, channel, dialled=dialled, since_ms=self._clock())
        self._links[link.id] = self._by_key[peer.node_key] = link
        address = ss58_encode(peer.hotkey)
        log.info("session_opened", peer=address, session=link.id, dialled=dialled, protocol=peer.version)
        self._carry_out(self._engine.opened(link.id, peer, self._clock()))
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(work)
            for work in (
                self._read_socket(link, socket),
                self._write_socket(link, socket),
                self._store_events(link),
                self._read_logs(link),
            )
        ]
        tasks.append(asyncio.create_task(link.ended.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    log.error("session_failed", peer=address, session=link.id, exc_info=error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._end(link, link.reason)
            log.info("session_closed", peer=address, session=link.id, reason=link.reason)
            with suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
                await asyncio.wait_for(socket.close(), CLOSE_S_MAX)

    def _end(self, link: _Link, reason: str) -> None:
        """Take a session out of the books; its tasks end behind it."""
        if self._links.pop(link.id, None) is None:
            return
        if self._by_key.get(link.peer.node_key) is link:
            del self._by_key[link.peer.node_key]
        link.reason = reason
        link.ended.set()
        self._carry_out(self._engine.closed(link.id, self._clock()))

    async def _read_socket(self, link: _Link, socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse) -> None:
        while True:
            try:
                frame = link.channel.decrypt(await _receive(socket))
            except ConnectionError as error:
                link.reason = str(error)
                return
            except RemoteProtocolError as error:
                self._punish(link, str(error))
                return
            self._carry_out(self._engine.received(link.id, frame, self._clock()))

    async def _write_socket(self, link: _Link, socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse) -> None:
        while True:
            frame = await link.outgoing.get()
            try:
                await socket.send_bytes(link.channel.encrypt(frame))
            except (ConnectionError, aiohttp.ClientError) as error:
                link.reason = _reason(error)
                return
            self._carry_out(self._engine.sent(link.id, len(frame), self._clock()))

    async def _read_logs(self, link: _Link) -> None:
        while True:
            wanted = await link.reads.get()
            try:
                wires = await self._store.read_log(wanted.log, wanted.first_seq, wanted.size_bytes_max)
            except P2PNodesError as error:
                log.warning("log_not_read", error=str(error))
                wires = []
            self._carry_out(self._engine.read(link.id, wanted.log, wanted.first_seq, wires, self._clock()))

    async def _store_events(self, link: _Link) -> None:
        while True:
            batch = await link.stores.get()
            outcomes: list[Outcome] | None
            try:
                outcomes = await self._store.receive(batch.events, self._clock())
            except P2PNodesError as error:
                log.warning("events_not_stored", count=len(batch.events), error=str(error))
                outcomes = None
            else:
                self._on_outcomes(outcomes)
            self._carry_out(self._engine.stored(link.id, outcomes, self._clock()))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Notice):
                getattr(log, effect.level)(effect.event, **effect.fields)
                continue
            link = self._links.get(effect.session)
            if link is None:
                continue
            match effect:
                case Send(frame=frame):
                    link.outgoing.put_nowait(frame)
                case Store():
                    link.stores.put_nowait(effect)
                case Read():
                    link.reads.put_nowait(effect)
                case Close(reason=reason, ban_s=ban_s):
                    self._punish(link, reason, ban_s)

    def _punish(self, link: _Link, reason: str, ban_s: float = 60.0) -> None:
        log.warning("session_ended_by_us", peer=ss58_encode(link.peer.hotkey), reason=reason, ban_s=ban_s)
        if ban_s:
            self._bans.pop(link.peer.node_key, None)
            self._bans[link.peer.node_key] = _Ban(asyncio.get_running_loop().time() + ban_s, reason)
            if len(self._bans) > BANS_MAX:
                del self._bans[next(iter(self._bans))]
        self._end(link, reason)

    # -- shared ------------------------------------------------------------------------------------------------------

    def _policy(self, hotkey: bytes | None) -> Policy:
        electorate = self._electorate()
        return Policy(self._network.id, self._clock() // 1000, electorate.permitted, hotkey)

    def _check_ban(self, peer: Peer) -> None:
        ban = self._bans.get(peer.node_key)
        now = asyncio.get_running_loop().time()
        if ban is not None and ban.until > now:
            raise HandshakeError(f"this node key is banned for {ban.until - now:.0f} s more: {ban.reason}")

    async def _refuse(self, socket: web.WebSocketResponse, remote: str, error: Exception) -> None:
        reason = f"no handshake within {HANDSHAKE_S_MAX:g} s" if isinstance(error, TimeoutError) else _reason(error)
        now = asyncio.get_running_loop().time()
        earned = (now - self._log_at) * REFUSALS_LOGGED_PER_S
        self._log_allowance, self._log_at = min(10.0, self._log_allowance + earned), now
        if self._log_allowance >= 1:
            self._log_allowance -= 1
            log.warning("handshake_refused", remote=remote, reason=reason)
        with suppress(TimeoutError, ConnectionError, aiohttp.ClientError, RuntimeError):
            async with asyncio.timeout(CLOSE_S_MAX):
                if isinstance(error, HandshakeError) and not isinstance(error, RefusedByPeerError):
                    await socket.send_bytes(handshake.refusal(str(error)))
                await socket.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_MS / 1000)
            self._carry_out(self._engine.tick(self._clock()))
            self._dial_due(loop.time())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _receive(socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse) -> bytes:
    """The next binary message.

    Raises:
        ConnectionError: The connection has ended.
        HandshakeError: A text message, or one that is too large.
    """
    message = await socket.receive()
    if message.type is aiohttp.WSMsgType.BINARY:
        data: bytes = message.data
        return data
    if message.type is aiohttp.WSMsgType.TEXT:
        raise HandshakeError("a text message; expected binary ones")
    if message.type is aiohttp.WSMsgType.ERROR:
        raise ConnectionError(f"the connection broke: {_reason(socket.exception())}")
    raise ConnectionError(str(message.extra or "the peer closed the connection"))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"answered {error.status} instead of a WebSocket"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error)
    return str(error) or type(error).__name__
