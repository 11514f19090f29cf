"""Connections below HTTP: how many inbound ones there are at once, and how much may come on one before it makes sense.

aiohttp takes every connection that the system lets it, keeps an idle one for ``inbound.IDLE_TIMEOUT_S``, and reads a
WebSocket's control frames and empty fragments without end. So each connection comes through a ``Door``, which counts
its bytes, and all doors of a listener make up a ``Crowd``, which is bounded. An address is no identity (a proxy has one
for all its clients), so nobody is refused: whoever has been quiet the longest makes room, at the address that has most
if that is a crowd by itself. Whoever has thousands of addresses gains nothing by it: then the quiet are his own.
"""

import asyncio
import errno
import os
import resource
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from socket import socket
from typing import Any, Final, Self, TypeVar

import aiohttp
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")

CONNECTIONS_MAX: Final = 2_048
"""Inbound connections at once, if the system allows as many files; one costs some 5 kB, and 40 kB with a request."""

CONNECTIONS_MIN: Final = 64
"""As many there may be at once whatever the system says."""

CROWDED_PART: Final = 64
"""An address with more than this part of all connections there may be is a crowd by itself: more than 32 of 2,048."""

ACCEPTS_AT_ONCE: Final = 16
"""Connections that are accepted before others are served again. asyncio would accept as many as may wait, a thousand,
and be over the bound on them and on files for as long as their predecessors take to end."""

FILES_RESERVED: Final = 768
"""Files for all else: dialled sessions, miners' hosts, the database, the chain."""

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What ``accept`` says where the process or the system has no room for a connection. Source: accept(2)."""


def connections_max() -> int:
    """How many inbound connections this process has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, soft - FILES_RESERVED))


class Listening(socket):
    """A socket that listens, and whose ``accept`` fails once where there is no file for another connection.

    asyncio then looks away for a second. But before, it goes on to accept as many as it may at once, fails as often,
    and each failure brings a look of its own a second later, which fails as often again: a line of the log for each, as
    many as a core can write, and little else has a turn.
    """

    _failed = False

    @classmethod
    def of(cls, sock: socket) -> Self:
        """Take over a socket; the object that had it is closed, unless it is one of these already."""
        if isinstance(sock, cls):
            return sock
        timeout_s = sock.gettimeout()
        taken = cls(fileno=sock.detach())
        taken.settimeout(timeout_s)
        return taken

    def accept(self) -> tuple[socket, Any]:
        """Take a connection; see ``socket.accept``. Behind a failure nobody waits, at the first call."""
        if self._failed:
            self._failed = False
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        try:
            return super().accept()
        except OSError as error:
            self._failed = error.errno in _NO_ROOM
            raise


class Meter(asyncio.Protocol):
    """One connection, on its way to the protocol that has it: counts what comes, and cuts it when that is too much."""

    def __init__(self, server: asyncio.Protocol) -> None:
        """Pass everything on to ``server``."""
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._left: int | None = None
        self._over: Callable[[], object] | None = None

    @classmethod
    def between(cls, transport: asyncio.Transport) -> Self:
        """Step between a connection that has begun and its protocol."""
        server = transport.get_protocol()
        assert isinstance(server, asyncio.Protocol)
        meter = cls(server)
        meter._transport = transport
        transport.set_protocol(meter)
        return meter

    def allow(self, size_bytes: int | None, over: Callable[[], object] | None = None) -> None:
        """Bound what may come from now on; it replaces the bound of before.

        Args:
            size_bytes: Bytes, as they are on the wire; what has come is not counted. None for no bound.
            over: Called once, when more comes; the connection is cut then.
        """
        self._left = size_bytes
        self._over = over

    @property
    def exceeded(self) -> bool:
        """Whether more came than was allowed, so that the connection was cut."""
        return self._left is not None and self._left < 0

    def cut(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; see ``asyncio.Protocol``, and so for the following methods."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Count what came, and pass it on."""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                over, self._over = self._over, None
                self.cut()
                if over is not None:
                    over()
                return
        self._server.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._server.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._server.resume_writing()


DIALLED: Final[ContextVar[Meter | None]] = ContextVar("dialled", default=None)
"""The meter of the connection that a task has had made last by a ``MeteredConnector``."""


class MeteredConnector(aiohttp.TCPConnector):
    """Makes connections that are metered: aiohttp's client, too, reads interim answers and empty fragments for ever."""

    def __init__(self, size_bytes: int, **options: Any) -> None:
        """Allow so many bytes on each connection, until its meter in DIALLED allows more."""
        super().__init__(**options)
        self._size_bytes = size_bytes

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """Make one; see ``aiohttp.BaseConnector``."""
        connection = await super().connect(*args, **kwargs)
        if connection.transport is not None:
            meter = Meter.between(connection.transport)
            meter.allow(self._size_bytes)
            DIALLED.set(meter)
        return connection


class Door(Meter):
    """One inbound connection."""

    def __init__(self, server: asyncio.Protocol, crowd: "Crowd") -> None:
        """Pass everything on to ``server``."""
        super().__init__(server)
        self._crowd = crowd
        self._served = False
        self._reading: asyncio.Task[Any] | None = None
        self._lost = False
        self.address = ""

    async def turn(self) -> None:
        """Come back when a request of this connection may be served: one in each turn of the loop.

        From Python 3.12 on aiohttp begins a request within the end of the one before, so whoever sends thousands at
        once would have them all served before anybody else has one.
        """
        if self._served:
            await asyncio.sleep(0)
        if not self._served:
            self._served = True
            asyncio.get_running_loop().call_soon(self._turned)

    def _turned(self) -> None:
        self._served = False

    async def while_open(self, work: Awaitable[T]) -> T:
        """Do what only this connection's client wants; the task that waits for it is cancelled with the connection.

        Raises:
            ConnectionResetError: The connection has ended.
        """
        task = self._reading = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if task is None or not self._lost or task.uncancel():  # somebody else has cancelled it, too
                raise
            raise ConnectionResetError("the client has gone") from None
        finally:
            self._reading = None

    def keep(self) -> None:
        """Take this connection out of the crowd: something else bounds how many of its kind there are."""
        self._crowd.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the crowd, and pass it on."""
        peer: Any = transport.get_extra_info("peername")
        self.address = self._crowd.whose(str(peer[0])) if isinstance(peer, tuple) else ""
        self._crowd.enter(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Count what came, and pass it on."""
        self._crowd.heard(self)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the crowd, end what only its client wanted, and pass it on."""
        self._crowd.leave(self)
        self._lost = True
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)


class Crowd:
    """The connections of one listener that nothing else bounds, the one that was quiet the longest first."""

    def __init__(self, size: int, whose: Callable[[str], str] = str) -> None:
        """Hold ``size`` connections at most.

        Args:
            size: How many.
            whose: To whom a peer's address counts: who has one may have many that are as good.
        """
        self.whose = whose
        self._size = size
        self._few = max(1, size // CROWDED_PART)
        self._doors: dict[Door, None] = {}
        self._of: defaultdict[str, dict[Door, None]] = defaultdict(dict)
        self.cut = 0
        """Connections that had to make room, since the start."""

    def __len__(self) -> int:
        return len(self._doors)

    def enter(self, door: Door) -> None:
        """Take a new connection; when there are too many, one makes room for it."""
        if len(self._doors) >= self._size:
            most = max(self._of.values(), key=len)
            quiet = next(iter(most if len(most) > self._few else self._doors))
            self.leave(quiet)
            self.cut += 1
            quiet.cut()
        self._doors[door] = None
        self._of[door.address][door] = None

    def heard(self, door: Door) -> None:
        """Note that something came on a connection."""
        if door in self._doors:
            for order in (self._doors, self._of[door.address]):
                del order[door]
                order[door] = None

    def leave(self, door: Door) -> None:
        """Forget a connection."""
        if door in self._doors:
            del self._doors[door]
            del self._of[door.address][door]
            if not self._of[door.address]:
                del self._of[door.address]


@web.middleware
async def in_turn(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve a connection's requests in turn with those of all others; see ``Door.turn``."""
    door = None if request.transport is None else request.transport.get_protocol()
    if isinstance(door, Door):
        await door.turn()
    return await handler(request)


def while_open(handler: Handler) -> Handler:
    """A handler of reads that ends with its connection.

    aiohttp goes on with a request whose client has gone. Connections are bounded, but whoever asks and leaves at once
    would have any number of requests wait for the database. A connection may have ended while its request waited for
    its turn; nothing is begun for it then.
    """

    async def reading(request: web.Request) -> web.StreamResponse:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        door = request.transport.get_protocol()
        return await (door.while_open(handler(request)) if isinstance(door, Door) else handler(request))

    return reading


class DoorSite(web.BaseSite):
    """A listening socket whose connections come through doors."""

    def __init__(
        self,
        runner: web.BaseRunner,
        sock: socket,
        *,
        backlog: int,
        whose: Callable[[str], str] = str,
        most: int | None = None,
    ) -> None:
        """Serve the runner's application on ``sock``; ``start`` begins.

        Args:
            runner: Of the application.
            sock: Listens, or is about to.
            backlog: Connections that wait to be accepted, at most.
            whose: See ``Crowd``.
            most: Connections at once; what this process has room for unless given.
        """
        super().__init__(runner, backlog=backlog)
        self._sock = sock
        self._crowd = Crowd(connections_max() if most is None else most, whose)

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._sock.getsockname())

    async def start(self) -> None:
        """Begin to accept."""
        await super().start()
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Door(server(), self._crowd), sock=self._sock, backlog=ACCEPTS_AT_ONCE
        )
        self._sock.listen(self._backlog)  # asyncio let as many wait as it accepts at once
