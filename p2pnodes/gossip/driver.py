"""The one module of gossip that does I/O: WebSockets over aiohttp, the store, the clock, and the engine in between.

The engine is called in the event loop alone, one input at a time, and its effects are carried out in order. A session
is a task of its own with one that reads its socket and one that writes to it; they end with it. What a session has in
the store is finished behind it, because others may be waiting for those events.

Whom to dial, the engine says, and how long a silent peer is waited for is measured in its patient time (``timeline``):
what this daemon did not live, or lived late, is held against nobody.

Backpressure: a socket is not read while the store has STORING_BYTES_MAX of its session's events to work on, or
LEFT_BYTES_MAX of those that sessions left behind, so the peer's own queue fills. The other way round, the engine hears
what has been written and stops pushing to a slow peer.
"""

import asyncio
import random
import sqlite3
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from os import strerror
from socket import SHUT_RDWR
from typing import Any, Final

import aiohttp
import structlog
from aiohttp import hdrs, web
from nacl.utils import random as random_bytes
from yarl import URL

from p2pnodes.connections import DIALLED, Door, Meter, MeteredConnector
from p2pnodes.gossip.bans import Ban, Offence, OperatorBan, OperatorBans
from p2pnodes.gossip.channel import HEARTBEAT, OVERHEAD_BYTES, Channel
from p2pnodes.gossip.dials import DIALS, Dial, Dials
from p2pnodes.gossip.engine import (
    BAN_S,
    TICK_MS,
    Close,
    Consider,
    Effect,
    Engine,
    Foresee,
    Load,
    Member,
    Notice,
    Prove,
    Read,
    ReadCertificate,
    ReadLeaves,
    Send,
    SessionId,
    Store,
    Survey,
)
from p2pnodes.gossip.frames import FRAME_BYTES_MAX
from p2pnodes.gossip.handshake import (
    HandshakeError,
    Identity,
    Initiator,
    Keys,
    OwnKeyError,
    Peer,
    Policy,
    RefusedByPeerError,
    Responder,
    refusal,
)
from p2pnodes.gossip.lobby import Lobby
from p2pnodes.gossip.pairs import Pairs
from p2pnodes.gossip.rates import HEARTBEATS, PINGS, Allowance, flood, weight
from p2pnodes.gossip.refused import Refused
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.gossip.view import VIEW_SIZE
from p2pnodes.model.codes import Code, Reason, code_of
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import (
    LocalProtocolError,
    P2PNodesError,
    RemoteProtocolError,
    StoreError,
    WritesRefusedError,
    printable,
)
from p2pnodes.model.events import Delegation, Event, Head, LogId
from p2pnodes.model.keys import NodeKey, ss58_encode
from p2pnodes.model.network import Network
from p2pnodes.outbound import PrivateAddressError, PublicResolver, require_public_literal, tls_reason
from p2pnodes.store.damage import DamagedEventError
from p2pnodes.store.database import Database
from p2pnodes.store.loading import Answer, Found
from p2pnodes.store.state import Outcome
from p2pnodes.throttle import FewLines, store_failures

log = structlog.get_logger("p2pnodes.gossip")

PATH: Final = "/gossip"
"""Where a daemon's base URL serves its peers."""

MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX + OVERHEAD_BYTES
_TOO_LARGE: Final = MESSAGE_BYTES_MAX + 1
"""What aiohttp is given as the bound of a message: it refuses what reaches it."""

HANDSHAKE_S_MAX: Final = 10.0
"""Bound of a handshake, in patient time; for a dial, the connection included."""

HANDSHAKE_BYTES_MAX: Final = 16_384
"""What may come on a connection before its other end is proved: two messages of a handshake, HTTP, and some pings."""

UNREAD_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""What may come in a session between two messages, and what is read ahead: more are fragments without end."""

SESSIONS_MAX: Final = 256
"""Open sessions; a subnet has at most as many validators."""

BANNED: Final = Reason("this daemon's operator has banned this peer", Code.SESSION_BANNED)
"""What a peer hears that the operator refuses; why is for the operator."""

STOPS: Final = Reason("this daemon stops", Code.SESSION_STOPPED)
"""Reason for the end of everything that is open then."""

OBSERVERS_MAX: Final = 64
"""How many of them may be observers': anybody can be one, under as many hotkeys as he likes; validators need room."""

GAVE_WAY: Final = Reason("there was no room for another session: visits give way", Code.SESSION_NOT_NEEDED)
"""Reason for the end of a session; no fault of anybody's."""

DIALS_AT_ONCE_MAX: Final = 32
SESSIONS_FEW: Final = 4
"""With sessions with fewer validators, bootstrap addresses are dialled as well; with as many, the network is found."""

HEARTBEAT_S: Final = 10.0
"""After this long without a frame, a heartbeat is sent."""

SILENCE_S_MAX: Final = 30.0
"""A peer of which nothing was heard, or to which nothing could be written, for this long is gone; in patient time."""

STORING_BYTES_MAX: Final = 2 << 20
"""Events of one session that the store may have to work on before the session's socket is left unread."""

STORING_EVENTS_MAX: Final = 1_024
"""Events of one session that go to the store as one job, each by its ``weight``; one that is heavier goes alone. What
others write waits behind it. Stores that wait share a job, and so a commit."""

LEFT_BYTES_MAX: Final = 16 << 20
"""Events of sessions that have ended which the store still works on, before no socket is read any more. While a disk
hangs, whoever comes, sends and goes again would have any number of them wait; a session in good health leaves few."""

ONLINE_S_MAX: Final = 8.0
"""Silence of all peers from which on this daemon's own network is suspected. In good health somebody is heard sooner: a
peer that is asked because of QUIET_S answers at once. It must be below the time that a verifier gives a silent miner:
else an outage that begins with a check is laid on the miner."""

QUIET_S: Final = 4.0
"""Silence of all peers after which one of them is asked for a sign of life: with few sessions a digest comes as often
anyway, with more of them their heartbeats, unless all of these fall together."""

QUIET_AGAIN_S: Final = 1.0
"""Pause before another one is asked, so that several are before ONLINE_S_MAX."""

BEHIND_S: Final = 1.0
"""How long ``behind`` holds: whoever asks /readyz asks for it, and of each peer it looks at thousands of logs."""

CLOSE_S_MAX: Final = 1.0
"""How long a session may take to say good-bye."""

_CLOSE_FRAME_S: Final = CLOSE_S_MAX / 2
"""How long of that to wait for the other side's close frame."""

CLOSE_REASON_BYTES_MAX: Final = 123
"""Bound of the text in a close frame. Source: RFC 6455, 5.5."""

REFUSALS_LOGGED_BURST: Final = 10
REFUSALS_LOGGED_PER_S: Final = 1.0
"""Log lines about refused strangers: at once, and again each second."""

VISITORS_LOGGED_BURST: Final = 2 * OBSERVERS_MAX
VISITORS_LOGGED_PER_S: Final = 1.0
"""The same about observers' sessions, each of which begins and ends; whoever opens hundreds a second, each with another
hotkey, must not fill the disk. Those that this daemon ends have as many lines of their own: else who comes and goes
would hide why."""

_WENT: Final = frozenset({Code.SESSION_CLOSED, Code.SESSION_LOST})
"""Codes of sessions that this daemon did not end."""

_TOO_MUCH: Final = Reason(f"over {HANDSHAKE_BYTES_MAX} bytes in a handshake", Code.HANDSHAKE_MALFORMED)
"""Reason for the end of a connection."""

_Work = Callable[..., Coroutine[Any, Any, None]]
_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class _PeerClosedError(ConnectionError):
    """The other side ended the connection."""


class _OnePerPairError(HandshakeError):
    """Nothing is wrong with the other side, but another session with it goes on instead."""

    code = Code.HANDSHAKE_ONE_PER_PAIR


class _BannedError(HandshakeError):
    """The operator refuses the other side: no news, however often it comes."""

    code = Code.HANDSHAKE_BANNED


class _Link:
    """One open session: its socket, its channel, and what waits for it."""

    def __init__(
        self, number: SessionId, socket: _Socket, peer: Peer, keys: Keys, *, dialled: bool, since_ms: int
    ) -> None:
        self.id = number
        self.socket = socket
        self.peer = peer
        self.channel = Channel(keys)
        self.dialled = dialled
        self.address = ss58_encode(peer.hotkey)
        self.since_ms = since_ms
        """Unix milliseconds."""
        self.since_s = _now_s()
        self.heard_s = self.since_s
        """When the last message came."""
        self.listening_ms: int | None = None
        """Since when a message is waited for, in patient time; None while the socket is left unread."""
        self.writing_ms: int | None = None
        """Since when the peer has taken nothing of what is written, in patient time; None while nothing is."""
        self.over: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
        """Why the session ended, once it has."""
        # What waits in these is bounded by the engine, which hears when each is done.
        self.outgoing: deque[bytes] = deque()
        self.written = asyncio.Event()
        """Set when something waits in ``outgoing``."""
        self.stores: deque[Store] = deque()
        self.storing_bytes = 0
        self.at_store_bytes = 0
        """Of these what the store has taken up: it is done behind the session's end, too."""
        self.storing = False
        self.room = asyncio.Event()
        """Set while the socket may be read."""
        self.room.set()
        self.meter: Meter | None = None
        """Counts what comes on the connection, where that is known."""
        self.pings = Allowance(PINGS, _now_ms())
        self.heartbeats = Allowance(HEARTBEATS, _now_ms())

    def unread(self, over: Callable[[], None]) -> None:
        """Bound what comes until the next message."""
        if self.meter is not None:
            self.meter.allow(UNREAD_BYTES_MAX, None if self.over.done() else over)

    def count(self, size_bytes: int) -> None:
        """Note that the store has more or less of this session's events to work on."""
        self.storing_bytes += size_bytes
        if self.storing_bytes > STORING_BYTES_MAX:
            self.room.clear()
        else:
            self.room.set()


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
        on_applied: Callable[[float], None] = lambda _: None,
        on_tick: Callable[[float], None] = lambda _: None,
        address: Callable[[web.Request], str] = lambda request: request.remote or "unknown",
        allow_private_addresses: bool = False,
        observers: bool = False,
        closed: Callable[[LogId], bool] | None = None,
        view_size: int = VIEW_SIZE,
        operator_bans: OperatorBans | None = None,
    ) -> None:
        """Take what sessions need; ``start`` begins to dial.

        Args:
            node_key: Signs sessions.
            delegation: The own log and its latest delegation; while it is None nobody is talked to.
            network: Its parameters.
            store: Where events go and come from.
            electorate: Who may speak.
            rng: For jitter and for the engine; keys are drawn elsewhere.
            clock: Unix milliseconds.
            on_outcomes: Called with what became of received events.
            on_applied: Called with the seconds from handing a batch of them to the store until it was durable.
            on_tick: Called at each tick with how late it came, seconds: how long the event loop had no turn for it.
            address: Where a connection comes from, for the bound of strangers at one address.
            allow_private_addresses: Also dial private, loopback and link-local addresses, for devnets.
            observers: Whether peers without a permit are talked to, OBSERVERS_MAX of them.
            closed: Whether a log was closed by its hotkey, so that its daemon is not talked to; else the store's word.
            view_size: Links with validators that the active view has places for.
            operator_bans: Whom the operator refuses: with the next driver of this process still.
        """
        self._node_key = node_key
        self._delegation = delegation
        self._network = network
        self._store = store
        self._electorate = electorate
        self._rng = rng
        self._clock = clock
        self._on_outcomes = on_outcomes
        self._on_applied = on_applied
        self._on_tick = on_tick
        self._address = address
        self._allow_private = allow_private_addresses
        self._observers = observers
        self._closed = self._is_closed if closed is None else closed
        self._engine = Engine(
            network,
            store,
            rng,
            node_key=node_key.public_key,
            permitted=lambda hotkey: electorate().permitted(hotkey),
            view_size=view_size,
        )
        self._patience = _Patience(self._engine.time)
        self._asked_s = 0.0
        """When a peer was asked for a sign of life."""
        self._effects: deque[Effect] = deque()
        self._performing = False
        self._links: dict[SessionId, _Link] = {}
        self._sessions = 0
        self._traffic = _Traffic()
        self._pairs = Pairs(node_key.public_key)
        self._refused = Refused(lambda hotkey: electorate().permitted(hotkey), operator_bans)
        self._dials = Dials()
        self._members: list[tuple[bytes, ...]] = []
        """Keys of each other validator: its hotkey and, where it is known, its node key."""
        self._pace = Allowance(DIALS, 0)
        self._lobby: Lobby[asyncio.Task[None]] = Lobby()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: aiohttp.ClientSession | None = None
        self._behind: tuple[float, int] | None = None
        """What ``behind`` found, and when."""
        self._left_bytes = 0
        """See LEFT_BYTES_MAX."""
        self._room = asyncio.Event()
        """Set while sockets may be read."""
        self._room.set()
        self._refusals = FewLines(REFUSALS_LOGGED_BURST, REFUSALS_LOGGED_PER_S)
        self._visitors = FewLines(VISITORS_LOGGED_BURST, VISITORS_LOGGED_PER_S)
        self._ended_visitors = FewLines(VISITORS_LOGGED_BURST, VISITORS_LOGGED_PER_S)
        self._failures: defaultdict[str, FewLines] = defaultdict(store_failures)

    # -- life cycle --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to accept, to dial and to tick."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # a dial as a whole has its own
            connector=MeteredConnector(
                HANDSHAKE_BYTES_MAX,
                limit=0,
                force_close=True,
                resolver=None if self._allow_private else PublicResolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # else whoever is dialled has us keep thousands
            trace_configs=[tracing],
        )
        self._spawn(self._tick())

    async def stop(self) -> None:
        """End every session and stop dialling; takes little more than CLOSE_S_MAX."""
        client, self._client = self._client, None
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if client is not None:
            await client.close()

    def set_targets(
        self,
        targets: Mapping[bytes, Sequence[str]],
        bootstrap: Sequence[str],
        members: Mapping[bytes, bytes | None],
    ) -> None:
        """Say who the other validators are and where; with which of them there are sessions, the active view decides.

        Args:
            targets: Hotkey -> base URLs where its daemon may be, the likeliest first.
            bootstrap: Base URLs whose owners are not known yet; dialled while there are fewer than SESSIONS_FEW
                sessions with validators.
            members: Hotkey -> node key of the log that it writes now, None while that is not known. In the order in
                which they are visited when the own head must be heard.
        """
        self._dials.know(targets, bootstrap)
        self._members = [(hotkey,) if key is None else (hotkey, key) for hotkey, key in members.items()]
        known = {
            hotkey: Member(node_key, dialable=bool(self._dials.of(hotkey))) for hotkey, node_key in members.items()
        }
        self._engine.hide(self._is_hidden())
        self._perform(self._engine.set_members(known, self._clock()))
        self._dial_due()

    # -- the operator's bans -----------------------------------------------------------------------------------------

    def ban(self, key: bytes, reason: str, ban_s: int, *, is_node_key: bool = False) -> dict[str, Any]:
        """Refuse a peer for a while, by its hotkey or node key, and end its sessions at once.

        Args:
            key: See ``OperatorBans.add``, and so for the others.
            reason: For the operator; the peer hears only that it is banned.
            ban_s: Seconds.
            is_node_key: See there.

        Returns:
            ``ban`` as ``bans`` lists it, how many sessions ``ended``, and a ``warning`` or None: nobody may be left to
            talk to.

        Raises:
            LocalProtocolError: It is a key of this daemon's own.
            TooManyBansError: See ``OperatorBans.add``.
        """
        identity = self._delegation()
        if key == self._node_key.public_key or (identity is not None and key == identity[1].hotkey):
            raise LocalProtocolError(
                "this is a key of this daemon's own; expected a peer's: see `p2pnodes peers`", code=Code.ADMIN_NOT_NOW
            )
        now_s = _now_s()
        row = self._refused.add(key, reason, ban_s, now_s, is_node_key=is_node_key)
        ends = [link for link in self._links.values() if key in {link.peer.hotkey, link.peer.node_key}]
        for link in ends:
            self._end(link, BANNED)
        log.info(
            "peer_banned", peer=row["node_key"] or row["hotkey"], reason=printable(reason), ban_s=ban_s, ended=len(ends)
        )
        return {"ban": row, "ended": len(ends), "warning": self._nobody_left(now_s)}

    def lift(self, key: bytes) -> bool:
        """End the bans of a peer, the operator's and our own; whether there was one."""
        peer = self._refused.lift(key, _now_s())
        if peer is not None:
            log.info("ban_lifted", peer=peer)
        return peer is not None

    def bans(self) -> list[dict[str, Any]]:
        """Everybody who is refused for a while, JSON-able; see ``Refused.rows``."""
        return self._refused.rows(_now_s())

    def _nobody_left(self, now_s: float) -> str | None:
        """What the operator should know who bans everybody; None while somebody is left."""
        if not self._members or not all(self._refused.by_operator(keys, now_s) for keys in self._members):
            return None
        return (
            "every other validator is banned now: this daemon hears nothing new, and its writes reach nobody until a "
            "ban ends or is lifted"
        )

    def sweep(self, *, on: bool) -> None:
        """Visit all members while the own head must be heard (rule 4), or no longer."""
        self._engine.sweep(on)

    def node_keys(self) -> dict[bytes, bytes]:
        """Hotkey -> node key that it writes with now; see ``Engine.node_keys``."""
        return self._engine.node_keys()

    def appended(self, events: Sequence[Event]) -> None:
        """Push own events, which are durable now."""
        self._perform(self._engine.appended(events, self._clock()))

    def ended(self, logs: Collection[LogId]) -> None:
        """Tell peers of logs of whose ends more is known now; see ``Commit.ended``."""
        self._perform(self._engine.ended(logs, self._clock()))

    # -- what others ask ---------------------------------------------------------------------------------------------

    def loading(self) -> dict[str, Any] | None:
        """How far a live set is loaded; see ``Engine.loading``."""
        return self._engine.loading()

    def addresses(self) -> dict[bytes, str]:
        """Hotkey -> base URL, by what peers showed or told of; see ``Engine.addresses``."""
        return self._engine.addresses()

    def own_head_reports(self) -> dict[bytes, Head | None]:
        """What peers hold of our own log; see ``Engine.own_head_reports``."""
        own = self._store.ledger.own_log
        return {} if own is None else self._engine.own_head_reports(own)

    def own_end_reports(self) -> set[bytes]:
        """Who says that our own log has ended; see ``Engine.own_end_reports``."""
        own = self._store.ledger.own_log
        return set() if own is None else self._engine.own_end_reports(own)

    def behind(self) -> int:
        """See ``Engine.behind``; as it was up to BEHIND_S ago."""
        now_s = _now_s()
        if self._behind is None or now_s >= self._behind[0] + BEHIND_S:
            self._behind = now_s, self._engine.behind()
        return self._behind[1]

    def agreed(self) -> bool:
        """See ``Engine.agreed``."""
        return self._engine.agreed()

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._links)

    def clock_offset_ms(self) -> int | None:
        """See ``Engine.clock_offset_ms``."""
        return self._engine.clock_offset_ms()

    def online(self) -> bool:
        """Whether there is reason to believe that this daemon's network works: a peer was heard, or none is known.

        An observer may sit anywhere, and be anybody: it is no reason.
        """
        heard_s = self._heard_s()
        if heard_s is None:
            return next(iter(self._dials), None) is None
        return _now_s() - heard_s < ONLINE_S_MAX

    def _heard_s(self) -> float | None:
        """When a validator was heard last; None without a session with one."""
        return max((link.heard_s for link in self._links.values() if not link.peer.observer), default=None)

    def status(self) -> dict[str, Any]:
        """What operators see, JSON-able.

        ``peers`` has a row for each open session and for each address without one: ``hotkey`` (None until somebody has
        answered there), ``url``, ``connected``; of a session ``direction`` (dialled or accepted), ``since`` (Unix
        seconds), ``lag`` (events that either end is known to lack) and what ``Engine.status`` says of it, such as
        ``observer`` and ``link`` (eager, lazy or visit); of an address without a session ``last_error`` and its
        ``last_code``, ``next_dial_s`` (None while nobody needs a session there), ``banned_s``, ``ban_reason`` and
        ``ban_code``. ``bans`` is what ``bans()`` says, ``view`` what ``View.status`` says; ``loop`` how late this
        daemon's own ticks come, see ``Timeline.status``. Since the driver was made, which is since the start or the
        last new node key: ``traffic`` of sessions, ``counts`` of the engine (``Engine.counts``), and ``ban_counts``,
        bans by what they were for, the operator's since the start.
        """
        now_s = _now_s()
        found = {entry["node_key"]: entry for entry in self._engine.status()}
        peers: list[dict[str, Any]] = []
        for link in self._links.values():
            entry = found.get(link.peer.node_key.hex(), {})
            peers.append(
                {
                    "hotkey": link.address,
                    "url": link.peer.delegation.url,
                    "connected": True,
                    "direction": "dialled" if link.dialled else "accepted",
                    "since": link.since_ms // 1000,
                    **entry,
                    "lag": (entry.get("peer_lacks") or 0) + entry.get("we_lack", 0),
                }
            )
        hotkeys, wanted = self._hotkeys(), set(self._engine.wanted())
        for dial in self._dials:
            if self._is_connected(dial, hotkeys):
                continue
            needed = self._needs_bootstrap if dial.hotkey is None else dial.hotkey in wanted
            ban = self._ban_of(*filter(None, (dial.hotkey or dial.owner, dial.node_key)))
            peers.append(
                {
                    "hotkey": ss58_encode(dial.hotkey) if dial.hotkey else None,
                    "url": dial.url,
                    "connected": False,
                    "last_error": dial.error,
                    "last_code": dial.error and code_of(dial.error, Code.DIAL_FAILED),
                    "next_dial_s": self._next_dial_s(dial) if needed or dial.active else None,
                    "banned_s": ban and round(ban.until_s - now_s, 1),
                    "ban_reason": ban and ban.reason,
                    "ban_code": ban and code_of(ban.reason, Code.SESSION_PROTOCOL),
                }
            )
        return {
            "sessions": self.sessions,
            "observers": self._observing(),
            "handshakes": len(self._lobby),
            "dials": sum(dial.active for dial in self._dials),
            "view": self._engine.view_status(),
            "loop": self._engine.time.status(),
            "traffic": self._traffic.status(),
            "counts": self._engine.counts(),
            "ban_counts": self._refused.counts(),
            "peers": peers,
            "bans": self.bans(),
        }

    def _next_dial_s(self, dial: Dial) -> float:
        return 0.0 if dial.active else round(max(0.0, dial.next_s - _now_s()), 1)

    # -- inbound -----------------------------------------------------------------------------------------------------

    async def handler(self, request: web.Request) -> web.StreamResponse:
        """Serve one inbound connection at PATH; it lasts as long as the session."""
        identity = self._identity()
        if identity is None:
            return _answer(503, "not ready for peers yet: try again", {hdrs.RETRY_AFTER: "5"})
        socket = web.WebSocketResponse(max_msg_size=_TOO_LARGE, compress=False, timeout=_CLOSE_FRAME_S, autoping=False)
        if not socket.can_prepare(request):
            return _answer(426, "this is the peers' WebSocket; miners use /nodes", {hdrs.UPGRADE: "websocket"})
        await socket.prepare(request)
        if self._client is None:  # stopped meanwhile
            await _shut(socket, STOPS)
            return socket
        protocol = None if request.transport is None else request.transport.get_protocol()
        door = protocol if isinstance(protocol, Door) else None
        task = self._spawn(self._accept(socket, door, self._address(request), identity))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        return socket

    async def _accept(self, socket: web.WebSocketResponse, door: Door | None, remote: str, identity: Identity) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._admit(task, door, remote)
        try:
            async with self._patience.within(HANDSHAKE_S_MAX):
                peer, keys = await self._respond(socket, identity)
        except asyncio.CancelledError as error:
            self._log_refusal("info", remote, error.args[0] if error.args else STOPS)
            _abort(socket)
            raise
        except (HandshakeError, OSError, aiohttp.ClientError) as error:
            quiet = isinstance(error, RefusedByPeerError | _OnePerPairError | _BannedError)
            level = "info" if quiet else "warning"
            reason = _reason(error, Code.HANDSHAKE_TIMEOUT, f"no handshake within {HANDSHAKE_S_MAX:g} s")
            self._log_refusal(level, remote, reason)
            await _refuse(socket, error, reason)
            return
        finally:
            self._lobby.leave(task)
        self._refused.own(observer=peer.observer).opened(peer.hotkey, _now_s())
        link = self._open(socket, peer, keys, dialled=False)
        if door is not None:
            door.keep()
            link.meter = door
        await self._run(link, keys.welcome)

    def _admit(self, task: "asyncio.Task[None]", door: Door | None, remote: str) -> None:
        """Take a stranger's handshake into the lobby, and bound what comes before it has proved itself.

        Whoever leaves for it is not known outside of here: the frame of a handshake is held by the error that ends it,
        so each would hold the one before it, and all of them for as long as strangers come.
        """
        leaving = self._lobby.enter(task, remote)
        if leaving is not None:
            leaving.cancel(Reason("too many handshakes at once: this one took longest", Code.HANDSHAKE_FULL))
        if door is not None:
            door.allow(HANDSHAKE_BYTES_MAX, lambda: task.cancel(_TOO_MUCH))

    async def _respond(self, socket: web.WebSocketResponse, identity: Identity) -> tuple[Peer, Keys]:
        mark = self._pairs.arrived()
        pings = Allowance(PINGS, _now_ms())
        responder = Responder(identity, self._policy(None), random_bytes(32))
        await socket.send_bytes(responder.answer(await _receive(socket, pings)))
        peer, keys = responder.finish(await _receive(socket, pings))
        self._check_ban(peer)
        if self._pairs.yields(peer.node_key, mark):
            raise _OnePerPairError("both dialled at once: the dial of the lower node key goes on")
        if peer.observer and self._observing() >= OBSERVERS_MAX and peer.node_key not in self._pairs:
            raise HandshakeError(
                f"there are {OBSERVERS_MAX} observers already: try again later", code=Code.HANDSHAKE_FULL
            )
        self._require_room(peer)
        return peer, keys

    def _require_room(self, peer: Peer) -> None:
        """Refuse a session that is one too many, those counted that our own dials may open yet.

        A visit gives way to a validator: else who fills all places with visits would keep our neighbours out.
        """
        if len(self._links) + self._pairs.proving < SESSIONS_MAX or peer.node_key in self._pairs:
            return
        visit = None if peer.observer else self._engine.gives_way(peer.hotkey)
        if visit is None:
            raise HandshakeError(
                f"there are {SESSIONS_MAX} sessions already: try again later", code=Code.HANDSHAKE_FULL
            )
        self._end(self._links[visit], GAVE_WAY)

    # -- outbound ----------------------------------------------------------------------------------------------------

    def _dial_due(self) -> None:
        identity = self._identity()
        if identity is None:
            return
        active = sum(dial.active for dial in self._dials)
        for dial in self._due():
            full = active + len(self._links) >= SESSIONS_MAX
            if active >= DIALS_AT_ONCE_MAX or (full and self._engine.gives_way(dial.hotkey or b"") is None):
                return
            if not self._pace.take(_now_ms()):
                return
            dial.active = True
            active += 1
            self._spawn(self._dial(dial, identity))

    def _due(self) -> Iterator[Dial]:
        """Whom to dial now, most urgent first."""
        now_s = _now_s()
        for hotkey in self._engine.wanted():
            if self._ban_of(hotkey) is not None:
                self._engine.failed(hotkey, self._clock())  # the view has to do without it
            elif (dial := self._dials.next_of(hotkey, now_s)) is None:
                continue
            elif dial.node_key is not None and (ban := self._ban_of(dial.node_key)) is not None:
                dial.failed(ban.reason, now_s, self._rng)  # its other addresses have their turn
                self._engine.failed(hotkey, self._clock())
            else:
                yield dial
        if not self._needs_bootstrap:
            return
        for dial in self._dials.of(None):
            if dial.active or dial.next_s > now_s or self._is_connected(dial, ()):
                continue
            if self._ban_of(*filter(None, (dial.owner, dial.node_key))) is None:
                yield dial

    @property
    def _needs_bootstrap(self) -> bool:  # by hotkeys: one validator alone can have SESSIONS_FEW sessions
        return len({link.peer.hotkey for link in self._links.values() if not link.peer.observer}) < SESSIONS_FEW

    def _hotkeys(self) -> set[bytes]:
        return {link.peer.hotkey for link in self._links.values()}

    def _is_connected(self, dial: Dial, hotkeys: Collection[bytes]) -> bool:
        """Whether there is a session with whom a dial is for."""
        if dial.hotkey is None:
            return dial.node_key is not None and dial.node_key in self._pairs
        return dial.hotkey in hotkeys

    def _dials_of(self, peer: Peer) -> list[Dial]:
        """The addresses where a peer is expected, or was met."""
        return [dial for dial in self._dials if dial.hotkey == peer.hotkey or dial.node_key == peer.node_key]

    async def _dial(self, dial: Dial, identity: Identity) -> None:
        assert self._client is not None
        socket: aiohttp.ClientWebSocketResponse | None = None
        link: _Link | None = None
        try:
            if not self._allow_private:
                require_public_literal(URL(dial.url))
            async with self._patience.within(HANDSHAKE_S_MAX):
                socket = await self._client.ws_connect(
                    dial.url + PATH,
                    max_msg_size=_TOO_LARGE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_FRAME_S),
                    autoping=False,
                )
                peer, keys = await self._initiate(socket, dial, identity)
            link = self._open(socket, peer, keys, dialled=True)
            link.meter = DIALLED.get()
            dial.active = False
            await self._run(link)
        except (HandshakeError, OSError, aiohttp.ClientError, ValueError) as error:
            reason = _reason(error, Code.DIAL_FAILED, f"no handshake within {HANDSHAKE_S_MAX:g} s")
            if (meter := DIALLED.get()) is not None and meter.exceeded:
                reason = _TOO_MUCH
            dial.active = False
            if isinstance(error, OwnKeyError):
                dial.found_itself(reason, _now_s())
            elif dial.failed(reason, _now_s(), self._rng) and not isinstance(error, _OnePerPairError):
                log.info("dial_failed", url=dial.url, reason=reason, code=reason.code)
            if dial.hotkey is not None and not isinstance(error, _OnePerPairError):
                self._engine.failed(dial.hotkey, self._clock())
            if socket is not None:
                await _refuse(socket, error, reason)
        except asyncio.CancelledError:
            if socket is not None and link is None:
                _abort(socket)
            raise
        finally:
            dial.active = False

    async def _initiate(
        self, socket: aiohttp.ClientWebSocketResponse, dial: Dial, identity: Identity
    ) -> tuple[Peer, Keys]:
        initiator = Initiator(identity, self._policy(dial.hotkey), random_bytes(32))
        pings = Allowance(PINGS, _now_ms())
        await socket.send_bytes(initiator.hello)
        proof = initiator.prove(await _receive(socket, pings))
        if (meter := DIALLED.get()) is not None:  # who has proved itself may send frames right behind its welcome
            meter.allow(UNREAD_BYTES_MAX)
        node_key = dial.node_key = initiator.peer.node_key
        dial.owner = initiator.peer.hotkey
        self._check_ban(initiator.peer)
        self._require_room(initiator.peer)  # others may have dialled in since ours began
        if not self._pairs.prove(node_key):
            raise _OnePerPairError("there is a session with this node key already")
        try:
            await socket.send_bytes(proof)
            return initiator.finish(await _receive(socket, pings))
        finally:
            self._pairs.proved(node_key)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _open(self, socket: _Socket, peer: Peer, keys: Keys, *, dialled: bool) -> _Link:
        """Take up a session; nothing is awaited between the decision for it and this."""
        self._sessions += 1
        link = _Link(self._sessions, socket, peer, keys, dialled=dialled, since_ms=self._clock())
        for number in self._pairs.open(peer.node_key, peer.hotkey, link.id, dialled=dialled):
            self._end(self._links[number], Reason("another session took its place", Code.SESSION_NOT_NEEDED))
        self._links[link.id] = link
        for dial in self._dials_of(peer):
            dial.error = None
        self._log_session("session_opened", link, dialled=dialled, version=peer.version)
        self._perform(self._engine.opened(link.id, peer, link.since_ms))
        return link

    async def _run(self, link: _Link, welcome: bytes = b"") -> None:
        """Carry a session until it is over."""
        reading = self._spawn_for(link, self._receive_frames)
        writing = self._spawn_for(link, self._send_frames, welcome)
        reason = STOPS
        try:
            reason = await link.over
        finally:
            self._end(link, reason)
            for task in (reading, writing):
                task.cancel()
            await asyncio.wait([reading, writing])
            self._log_session("session_closed", link, reason=reason, code=reason.code)
            await _shut(link.socket, reason)

    def _end(self, link: _Link, reason: Reason) -> None:
        """Take a session out of the books at once; its tasks end behind it."""
        if self._links.pop(link.id, None) is None:
            return
        self._pairs.closed(link.peer.node_key, link.id)
        self._leave(link.at_store_bytes)
        link.stores.clear()
        link.outgoing.clear()
        if not link.over.done():
            link.over.set_result(reason)
        if link.meter is not None:  # what it calls knows the session, which knows it: nobody would clear up soon
            link.meter.allow(UNREAD_BYTES_MAX)
        now_s = _now_s()
        for dial in self._dials_of(link.peer):
            dial.ended(now_s - link.since_s, now_s, self._rng)
        self._perform(self._engine.closed(link.id, self._clock()))

    def _leave(self, size_bytes: int) -> None:
        """Note that the store has more or less to work on of sessions that have ended."""
        self._left_bytes += size_bytes
        if self._left_bytes > LEFT_BYTES_MAX:
            self._room.clear()
        else:
            self._room.set()

    async def _receive_frames(self, link: _Link) -> None:
        def over() -> None:
            self._end(link, Reason(f"over {UNREAD_BYTES_MAX} bytes without a whole message", Code.SESSION_FLOOD))

        while True:
            link.unread(over)
            await link.room.wait()
            await self._room.wait()
            link.listening_ms = self._engine.time.patient_ms
            message = await _receive(link.socket, link.pings)
            self._traffic.received(message)
            link.listening_ms = None
            link.heard_s = _now_s()
            frame = link.channel.decrypt(message)
            if frame != HEARTBEAT:
                self._perform(self._engine.received(link.id, frame, self._clock()))
            elif not link.heartbeats.take(_now_ms()):
                reason = Reason(flood(HEARTBEATS), Code.SESSION_FLOOD)
                self._perform([Close(link.id, reason, BAN_S, Offence.FLOOD)])
            await asyncio.sleep(0)  # messages that are here already come without a pause: others want a turn

    async def _send_frames(self, link: _Link, welcome: bytes) -> None:
        if welcome:
            await self._write(link, welcome)
        while True:
            if not link.outgoing:
                link.written.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await link.written.wait()
            frame = link.outgoing.popleft() if link.outgoing else HEARTBEAT
            message = link.channel.encrypt(frame)
            await self._write(link, message)
            self._traffic.sent(message)
            if frame != HEARTBEAT:
                self._perform(self._engine.sent(link.id, len(frame), self._clock()))
            await asyncio.sleep(0)  # the same as above

    async def _write(self, link: _Link, message: bytes) -> None:
        """Write a message and wait until the connection takes more."""
        link.writing_ms = self._engine.time.patient_ms
        await link.socket.send_bytes(message)
        link.writing_ms = None

    async def _store_events(self, link: _Link) -> None:
        """Store what waits, in order; goes on behind the session's end with what it has taken up."""
        try:
            while link.stores:
                batch = [link.stores.popleft()]
                left = STORING_EVENTS_MAX - _weight(batch[0].events)
                while link.stores and (left := left - _weight(link.stores[0].events)) >= 0:
                    batch.append(link.stores.popleft())
                size_bytes = link.at_store_bytes = sum(map(_size, batch))
                try:
                    outcomes = await self._receive_events([event for store in batch for event in store.events])
                finally:
                    link.at_store_bytes = 0
                    if link.id not in self._links:
                        self._leave(-size_bytes)
                done = 0
                for store in batch:
                    part = None if outcomes is None else outcomes[done : done + len(store.events)]
                    done += len(store.events)
                    self._perform(self._engine.stored(link.id, part, self._clock()))
                    link.count(-_size(store))
        finally:
            link.storing = False

    async def _receive_events(self, events: list[Event]) -> list[Outcome] | None:
        """What became of events; None when the store did not take all of them."""
        outcomes: list[Outcome] = []
        for job in _jobs(events):
            stored = await self._receive_job(job)
            if stored is None:
                return None
            outcomes += stored
        return outcomes

    async def _receive_job(self, events: list[Event]) -> list[Outcome] | None:
        """The same of what is one job."""
        begun_s = _now_s()
        try:
            outcomes = await self._store.receive(events, self._clock())
        except (StoreError, WritesRefusedError) as error:
            self._log_failure("events_not_stored", error, error.code, count=len(events))
            return None
        except Exception:  # a bug: the engine must hear of it all the same, and tries again later
            log.exception("events_not_stored", count=len(events), code=Code.SYSTEM_BUG)
            return None
        self._on_applied(_now_s() - begun_s)
        self._on_outcomes(outcomes)
        return outcomes

    async def _prove(self, link: _Link, wanted: Prove) -> None:
        """Have proofs checked and kept."""
        checked = False
        try:
            await self._store.receive_proofs(wanted.proofs, self._clock())
            checked = True
        except (StoreError, WritesRefusedError) as error:
            self._log_failure("proofs_not_stored", error, error.code, count=len(wanted.proofs))
        self._perform(self._engine.proved(link.id, wanted.proofs, self._clock(), checked=checked))

    async def _read_log(self, link: _Link, wanted: Read) -> None:
        wires: list[bytes] = []
        try:
            wires = await self._store.read_log(wanted.log, wanted.first_seq, wanted.size_bytes_max, wanted.count_max)
        except DamagedEventError as error:  # the peer hears "none" and asks somebody else; the store has told of it
            self._perform(self._engine.damaged(error.log, error.seq, self._clock()))
        except (StoreError, sqlite3.Error) as error:  # the peer hears the same
            self._log_failure("log_not_read", error, Code.DATA_UNREADABLE, log=str(wanted.log))
        self._perform(self._engine.read(link.id, wanted.log, wanted.first_seq, wires, self._clock()))

    async def _consider(self, wanted: Consider) -> None:
        """Have a certificate looked at."""
        answer = await self._taken(self._store.consider(wanted.number, wanted.wire), wanted.number)
        self._perform(self._engine.considered(wanted.session, wanted.number, answer, self._clock()))

    async def _survey(self) -> None:
        """Have it looked up what is missing of a live set."""
        lack = None
        try:
            lack = await self._store.lacking()
        except (StoreError, WritesRefusedError) as error:  # the next tick asks again
            self._log_failure("checkpoint_not_stored", error, error.code)
        self._perform(self._engine.lacking(lack, self._clock()))

    async def _load(self, wanted: Load) -> None:
        """Have a slice of a live set stored."""
        answer = await self._taken(self._store.load(*wanted[1:]), wanted.number)
        self._perform(self._engine.loaded(wanted.session, wanted.number, wanted.place, answer, self._clock()))

    async def _taken(self, work: Coroutine[Any, Any, Answer], number: int) -> Answer:
        """What became of a part of a checkpoint; the engine must hear of it whatever fails, and tries again later."""
        try:
            return await work
        except (StoreError, WritesRefusedError) as error:
            self._log_failure("checkpoint_not_stored", error, error.code, number=number)
            return Answer(Found.FAILED, str(error))
        except Exception as error:  # a bug
            log.exception("checkpoint_not_stored", number=number, code=Code.SYSTEM_BUG)
            return Answer(Found.FAILED, str(error))

    async def _read_certificate(self, link: _Link, wanted: ReadCertificate) -> None:
        wire: bytes | None = None
        try:
            wire = await self._store.certificate(wanted.number)
        except (StoreError, sqlite3.Error) as error:  # the peer hears "none" and asks somebody else
            self._log_failure("checkpoint_not_read", error, Code.DATA_UNREADABLE, number=wanted.number)
        self._perform(self._engine.read_certificate(link.id, wanted.number, wire or b"", self._clock()))

    async def _read_leaves(self, link: _Link, wanted: ReadLeaves) -> None:
        leaves: Sequence[tuple[int, bytes]] = ()
        path: Sequence[bytes] = ()
        try:
            leaves, path = await self._store.live_slice(wanted.number, wanted.place)
        except DamagedEventError as error:  # the same
            self._perform(self._engine.damaged(error.log, error.seq, self._clock()))
        except (StoreError, sqlite3.Error) as error:  # the same
            self._log_failure("checkpoint_not_read", error, Code.DATA_UNREADABLE, number=wanted.number)
        self._perform(self._engine.read_leaves(link.id, wanted.number, wanted.place, leaves, path, self._clock()))

    # -- effects -----------------------------------------------------------------------------------------------------

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in order; those that they bring about come behind them."""
        self._effects.extend(effects)
        if self._performing:
            return
        self._performing = True
        try:
            while self._effects:
                self._carry_out(self._effects.popleft())
        finally:
            self._performing = False

    def _carry_out(self, effect: Effect) -> None:
        match effect:  # also where no session is at its root, or it has ended meanwhile
            case Notice():
                getattr(log, effect.level)(effect.event, **effect.fields)
                return
            case Consider():
                self._spawn(self._consider(effect))
                return
            case Survey():
                self._spawn(self._survey())
                return
            case Load():
                self._spawn(self._load(effect))
                return
            case Foresee(events=events):
                self._store.foresee(events)
                return
        link = self._links.get(effect.session)
        if link is None:  # it has ended meanwhile
            return
        match effect:
            case Send(frame=frame):
                link.outgoing.append(frame)
                link.written.set()
            case Store():
                link.stores.append(effect)
                link.count(_size(effect))
                if not link.storing:
                    link.storing = True
                    self._spawn_for(link, self._store_events)
            case Prove():
                self._spawn_for(link, self._prove, effect)
            case Read():
                self._spawn_for(link, self._read_log, effect)
            case ReadCertificate():
                self._spawn_for(link, self._read_certificate, effect)
            case ReadLeaves():
                self._spawn_for(link, self._read_leaves, effect)
            case Close(reason=reason, ban_s=ban_s, offence=offence):
                if ban_s:
                    bans = self._refused.own(observer=link.peer.observer)
                    bans.add(link.peer.hotkey, reason, ban_s, _now_s(), offence=offence)
                self._end(link, reason)

    async def _tick(self) -> None:
        while True:
            due_s = _now_s() + TICK_MS / 1000
            await asyncio.sleep(TICK_MS / 1000)
            try:
                self._on_tick(max(0.0, _now_s() - due_s))
                self._perform(self._engine.tick(self._clock()))
                self._patience.expire()
                self._end_unfit()
                self._end_silent()
                self._ask_if_quiet()
                self._dial_due()
            except Exception:  # a tick that fails must not be the last one
                log.exception("tick_failed", code=Code.SYSTEM_BUG)

    def _end_unfit(self) -> None:
        """End the sessions whose peers would be refused now, or be something else than they were taken for."""
        permitted = self._electorate().permitted
        for link in list(self._links.values()):
            if permitted(link.peer.hotkey) is link.peer.observer:
                what = "holds a validator permit now" if link.peer.observer else "holds no validator permit any more"
                self._end(link, Reason(f"hotkey {link.address} {what}", Code.SESSION_UNFIT))
            elif self._closed(link.peer.log):
                reason = Reason(f"the log {link.peer.log} is closed: {link.address} ended it", Code.SESSION_UNFIT)
                self._end(link, reason)

    def _end_silent(self) -> None:
        """End the sessions whose peers have said nothing, or taken nothing, for too long."""
        limit_ms = self._engine.time.patient_ms - 1000 * SILENCE_S_MAX
        for link in list(self._links.values()):
            if link.listening_ms is not None and link.listening_ms <= limit_ms:
                self._end(link, Reason(f"nothing heard for {SILENCE_S_MAX:g} s", Code.SESSION_SILENT))
            elif link.writing_ms is not None and link.writing_ms <= limit_ms:
                self._end(link, Reason(f"the peer read nothing for {SILENCE_S_MAX:g} s", Code.SESSION_SILENT))

    def _ask_if_quiet(self) -> None:
        """Ask a peer for a sign of life when none has given any for a while, before ``online`` doubts our network."""
        now_s, heard_s = _now_s(), self._heard_s()
        if heard_s is not None and now_s >= max(heard_s + QUIET_S, self._asked_s + QUIET_AGAIN_S):
            self._asked_s = now_s
            self._perform(self._engine.ask(self._clock()))

    # -- shared ------------------------------------------------------------------------------------------------------

    def _identity(self) -> Identity | None:
        """Who this daemon is now; None while it does not talk to anybody."""
        found = self._delegation()
        return None if found is None or self._client is None else Identity(self._node_key, *found)

    def _is_hidden(self) -> bool:
        """Whether this daemon is a validator's that nobody can dial; an observer need not be heard."""
        found = self._delegation()
        return found is not None and not found[1].url and self._electorate().permitted(found[1].hotkey)

    def _policy(self, hotkey: bytes | None) -> Policy:
        return Policy(
            self._network,
            self._clock() // 1000,
            self._electorate().permitted,
            hotkey,
            observers=self._observers,
            closed=self._closed,
        )

    def _is_closed(self, log_id: LogId) -> bool:
        held = self._store.state.logs.get(log_id)
        return held is not None and held.ends.close is not None

    def _observing(self) -> int:
        """Open sessions with observers."""
        return sum(link.peer.observer for link in self._links.values())

    def _ban_of(self, *keys: bytes) -> OperatorBan | Ban | None:
        """The ban of a peer by its keys; see ``Refused.find``."""
        return self._refused.find(keys, _now_s())

    def _check_ban(self, peer: Peer) -> None:
        ban = self._ban_of(peer.hotkey, peer.node_key)
        if isinstance(ban, OperatorBan):
            raise _BannedError(
                f"the operator has banned {ss58_encode(peer.hotkey)}: {printable(ban.reason)}", told=BANNED
            )
        if ban is not None:
            raise HandshakeError(
                f"this hotkey is refused for {ban.until_s - _now_s():.0f} s more: {ban.reason}",
                code=Code.HANDSHAKE_BANNED,
            )

    def _log_refusal(self, level: str, remote: str, reason: str) -> None:
        left_out = self._refusals.take()
        if left_out is not None:
            code = code_of(reason, Code.HANDSHAKE_MALFORMED)
            getattr(log, level)("handshake_refused", remote=remote, reason=reason, code=code, left_out=left_out)

    def _log_failure(self, event: str, error: Exception, code: Code, **fields: Any) -> None:
        """Tell the operator what the store could not do, unless many lines of this kind tell it already."""
        left_out = self._failures[event].take()
        if left_out is not None:
            log.warning(event, error=str(error), code=code, left_out=left_out, **fields)

    def _log_session(self, event: str, link: _Link, **fields: Any) -> None:
        lines = self._visitors if fields.get("code", Code.SESSION_CLOSED) in _WENT else self._ended_visitors
        left_out = lines.take() if link.peer.observer else 0
        if left_out:
            fields["left_out"] = left_out
        if left_out is not None:
            log.info(event, peer=link.address, session=link.id, **fields)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a task of the driver's; one that fails is a bug, and logged as one."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("gossip_task_failed", exc_info=error, code=Code.SYSTEM_BUG)

    def _spawn_for(self, link: _Link, work: _Work, *args: Any) -> "asyncio.Task[None]":
        """Run a task of a session's; one that fails ends the session."""
        return self._spawn(self._supervise(link, work, *args))

    async def _supervise(self, link: _Link, work: _Work, *args: Any) -> None:
        try:
            await work(link, *args)
        except _PeerClosedError as error:
            self._end(link, _reason(error, Code.SESSION_CLOSED))
        except (RemoteProtocolError, OSError, aiohttp.ClientError) as error:
            self._end(link, _reason(error, Code.SESSION_LOST))
        except Exception:  # a bug: it costs one session, and is logged as what it is
            log.exception("session_failed", peer=link.address, session=link.id, code=Code.SYSTEM_BUG)
            self._end(link, Reason("an error of this daemon's; its log has it", Code.SYSTEM_BUG))


class _Traffic:
    """What went over sessions each way, as it is on the wire: encrypted frames, heartbeats among them."""

    def __init__(self) -> None:
        self._sent_frames = self._sent_bytes = 0
        self._received_frames = self._received_bytes = 0

    def sent(self, message: bytes) -> None:
        self._sent_frames += 1
        self._sent_bytes += len(message)

    def received(self, message: bytes) -> None:
        self._received_frames += 1
        self._received_bytes += len(message)

    def status(self) -> dict[str, dict[str, int]]:
        """For operators, JSON-able."""
        return {
            "sent": {"frames": self._sent_frames, "bytes": self._sent_bytes},
            "received": {"frames": self._received_frames, "bytes": self._received_bytes},
        }


class _Patience:
    """Bounds of waits in patient time: whoever ticks ends those that are over."""

    def __init__(self, time: Timeline) -> None:
        self._time = time
        self._over_ms: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def within(self, limit_s: float) -> AsyncIterator[None]:
        """Bound what is done in this context; raises TimeoutError as ``asyncio.timeout`` does."""
        async with asyncio.timeout(None) as timeout:
            self._over_ms[timeout] = self._time.patient_ms + 1000 * limit_s
            try:
                yield
            finally:
                self._over_ms.pop(timeout, None)

    def expire(self) -> None:
        """End the waits that took too long."""
        for timeout, over_ms in list(self._over_ms.items()):
            if over_ms <= self._time.patient_ms:
                del self._over_ms[timeout]
                timeout.reschedule(_now_s())


async def _receive(socket: _Socket, pings: Allowance) -> bytes:
    """The next binary message; the pings before it are answered, as many as are allowed.

    Raises:
        ConnectionError: The connection has ended.
        HandshakeError: A text message.
    """
    while (message := await socket.receive()).type in {aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG}:
        if not pings.take(_now_ms()):
            _abort(socket)  # a polite end would read on
            raise ConnectionError(Reason(flood(PINGS), Code.SESSION_FLOOD))
        if message.type is aiohttp.WSMsgType.PING:
            await socket.pong(message.data)
    match message.type:
        case aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        case aiohttp.WSMsgType.TEXT:
            raise HandshakeError("a text message; expected binary ones", code=Code.HANDSHAKE_MALFORMED)
        case aiohttp.WSMsgType.ERROR:
            broken = _reason(message.data or socket.exception(), Code.SESSION_LOST)
            raise ConnectionError(f"the connection broke: {broken}")
        case aiohttp.WSMsgType.CLOSE if message.extra:
            raise _PeerClosedError(f"the peer closed: {printable(str(message.extra))}")
        case _:
            raise _PeerClosedError("the peer closed the connection")


async def _refuse(socket: _Socket, error: Exception, reason: str) -> None:
    """End a connection whose handshake failed; the other side is told why, unless it was its own refusal."""
    if isinstance(error, HandshakeError) and not isinstance(error, RefusedByPeerError):
        with suppress(OSError, aiohttp.ClientError):
            async with asyncio.timeout(_CLOSE_FRAME_S):
                await socket.send_bytes(refusal(error.told or reason))
    await _shut(socket, reason)


async def _shut(socket: _Socket, reason: str) -> None:
    """Close a connection: politely, or, when that takes longer than CLOSE_S_MAX, by force."""
    message = reason.encode("ascii", "replace")[:CLOSE_REASON_BYTES_MAX]
    raw = socket.get_extra_info("socket")
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await socket.close(message=message)
    except (OSError, aiohttp.ClientError):
        _abort(socket, raw)
    except asyncio.CancelledError:
        _abort(socket, raw)
        raise


def _abort(socket: _Socket, raw: Any = None) -> None:
    """Cut a connection at once: what a slow reader has not taken would keep it open for ever."""
    raw = raw or socket.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):  # it is cut already
            raw.shutdown(SHUT_RDWR)


async def _refuse_redirect(_client: object, _context: object, params: aiohttp.TraceRequestRedirectParams) -> None:
    """A redirect would lead past the check of whom to dial."""
    raise aiohttp.ClientError(f"{params.url} redirects; expected a daemon's base URL")


def _answer(status: int, detail: str, headers: Mapping[str, str]) -> web.Response:
    return web.json_response({"detail": detail}, status=status, headers=headers)


def _reason(error: BaseException | None, code: Code, timeout: str = "timed out") -> Reason:
    """An error in one line for the log, with its code, or this one where it has none."""
    match error:
        case P2PNodesError():
            return Reason(printable(str(error)), error.code)
        case TimeoutError():
            return Reason(timeout, code)
        case aiohttp.WSServerHandshakeError(status=status):
            return Reason(f"answered with HTTP status {status}; expected a WebSocket", Code.DIAL_NOT_A_PEER)
        case (PrivateAddressError() as private) | aiohttp.ClientConnectorError(
            os_error=PrivateAddressError() as private
        ):
            return Reason(f"{private}; [gossip] allow_private_addresses allows that, for devnets", Code.DIAL_PRIVATE)
        case aiohttp.ClientSSLError():
            return Reason(printable(tls_reason(error)), Code.DIAL_TLS)
        case aiohttp.ClientConnectorError(os_error=cause) if cause.errno:
            return Reason(strerror(cause.errno) if cause.errno > 0 else printable(cause.strerror or str(cause)), code)
        case ConnectionError(args=(Reason() as known,)):
            return known
        case _:
            return Reason(printable(str(error) or type(error).__name__), code)


def _weight(events: Iterable[Event]) -> int:
    return sum(map(weight, events))


def _jobs(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Events as jobs of STORING_EVENTS_MAX, in order."""
    job: list[Event] = []
    left = STORING_EVENTS_MAX
    for event in events:
        left -= weight(event)
        if left < 0 and job:
            yield job
            job, left = [], STORING_EVENTS_MAX - weight(event)
        job.append(event)
    if job:
        yield job


def _size(store: Store) -> int:
    return sum(len(event.wire) for event in store.events)


def _now_s() -> float:
    """A clock that never goes back, seconds."""
    return asyncio.get_running_loop().time()


def _now_ms() -> int:
    """The same in milliseconds."""
    return int(1000 * _now_s())
