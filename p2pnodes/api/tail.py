"""``GET /events/stream``: stored events as they come, as server-sent events; on the operator's interface.

An event is what ``GET /events`` tells of it, and its id is its position in the order of arrival here. The database is
the queue: a listener is a position in it, whatever it has not been told costs no memory, and after a restart of the
daemon it goes on by ``Last-Event-ID`` where it was. A listener that asks for no position begins at the end. Filters
are those of ``GET /events``. While nothing happens, a comment and the position so far come every 15 s.

A position beyond the end is one of another database, such as the one before ``restore``: its listener is told
``reset`` and begins at the end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from p2pnodes.api.errors import ApiError, echo
from p2pnodes.api.limits import Places
from p2pnodes.api.listener import LAST_EVENT_ID, Listener, News, frame
from p2pnodes.api.origin import over_unix
from p2pnodes.connections import Door
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

log = structlog.get_logger(__name__)

TAILS_MAX: Final = 64
"""Streams at once over the Unix socket; beyond it a listener is refused with 503."""

TCP_TAILS_MAX: Final = 32
"""The same over TCP, where any login can listen: they take no place from those at the socket."""

GONE_LOOK_S: Final = 1.0
"""How soon it is seen that a quiet listener is gone, seconds: its place is free then."""

EVENTS_PER_PART: Final = 256
"""Events that are read and written at once, some 150 KB."""

POSITIONS_PER_READ: Final = 10_000
"""Positions that a read with filters looks at, here and in a list: some 20 ms, which other reads of views wait."""

BUSY_RETRY_S: Final = 30
"""When a listener that is refused shall come back."""

POSITION_DIGITS_MAX: Final = 18
"""Longest position that is looked at, in digits; SQLite's own have no more than 19."""

STATES: Final = ("valid", "void", "unknown", "cut")
"""What ``state`` may be in the view ``event_log``."""

Rows = Callable[..., Awaitable[list[dict[str, Any]]]]
"""``DaemonView.query``."""


class EventTail:
    """The listeners of one daemon's log."""

    def __init__(self, rows: Rows) -> None:
        """Serve listeners; ``rows`` reads the view ``event_log``, as ``GET /events`` does."""
        self._rows = rows
        self._news = News()
        self._streams, self._tcp_streams = Places(), Places()
        self._reading = asyncio.Lock()  # other reads wait behind one part at most

    @property
    def open(self) -> int:
        """Listeners that are being served."""
        return self._streams.taken + self._tcp_streams.taken

    def committed(self) -> None:
        """Events may have been stored; called in the event loop."""
        if self.open:
            self._news.tell()

    async def stop(self, _: web.Application) -> None:
        """End every stream as a whole answer; for ``Application.on_shutdown``."""
        self._news.stop()

    async def serve(self, request: web.Request, where: Mapping[str, str], after: int | None) -> web.StreamResponse:
        """Answer with a stream.

        Args:
            request: Its ``Last-Event-ID``, if it has one, goes before ``after``: a client that reconnects cannot
                change its URL, but sends the header.
            where: Column -> exact value, as for ``GET /events``.
            after: Position behind which to begin; None for the end.

        Raises:
            ApiError: 400 for an id that is no position, 503 when TAILS_MAX, over TCP TCP_TAILS_MAX, listen already.
        """
        position = _resumed(request, after)
        listener = Listener(request)
        streams, most = (self._streams, TAILS_MAX) if over_unix(request) else (self._tcp_streams, TCP_TAILS_MAX)
        with streams.take("", "streams", most=most, most_each=most, retry_s=BUSY_RETRY_S):
            protocol = None if request.transport is None else request.transport.get_protocol()
            if isinstance(protocol, Door):
                protocol.keep()  # its place among the streams bounds it
            await self._serve(listener, where, position)
        return listener.response

    async def latest(
        self, where: Mapping[str, str], limit: int, after: int | None = None, until: int | None = None
    ) -> list[dict[str, Any]]:
        """Answer to ``GET /events`` from the newest back, or from a position back; arguments as there."""
        if not where:
            return await self._read(where, limit, after, until, newest_first=True)
        first, until = after or 0, await self.end() if until is None else until
        found: list[dict[str, Any]] = []
        while until > first and len(found) < limit:
            begin = max(first, until - POSITIONS_PER_READ)
            found += await self._read(where, limit - len(found), begin, until, newest_first=True)
            until = begin
        return found

    async def earliest(self, where: Mapping[str, str], limit: int, after: int | None = None) -> list[dict[str, Any]]:
        """Answer to ``GET /events`` from the oldest, or from behind a position, on; arguments as there."""
        if not where:
            return await self._read(where, limit, after, None)
        begin, end = after or 0, await self.end()
        found: list[dict[str, Any]] = []
        while begin < end and len(found) < limit:
            until = begin + POSITIONS_PER_READ
            found += await self._read(where, limit - len(found), begin, until)
            begin = until
        return found

    async def _serve(self, listener: Listener, where: Mapping[str, str], after: int | None) -> None:
        end = await self.end()
        position = end if after is None else after
        try:
            await listener.open()
            if position > end:
                position = end
                await listener.send(frame("reset", orjson.dumps({"position": end}), str(end)))
            while not (self._news.stopping or listener.gone):
                position = await self._send_next(listener, where, position)
        except ConnectionError:
            return  # the client went away, or stopped reading
        except P2PNodesError as error:  # a read failed in the middle of an answer: the client comes back
            log.warning("event_stream_cut", error=str(error), code=Code.API_CUT)
            listener.cut()

    async def _send_next(self, listener: Listener, where: Mapping[str, str], position: int) -> int:
        """Send the next events, or wait for some; the position behind them."""
        news = self._news.next
        until, end = None, position
        if where:  # what no filter lets pass need not be looked at again
            end = await self.end()
            until = position + POSITIONS_PER_READ
        rows = await self._read(where, EVENTS_PER_PART, position, until)
        await listener.send(b"".join(frame("event", orjson.dumps(row), str(row["position"])) for row in rows))
        if rows:
            position = int(rows[-1]["position"])
        if len(rows) == EVENTS_PER_PART:
            return position
        if until is not None:
            position = max(position, min(until, end))
        await listener.keep_alive(str(position))
        if position >= end:
            await self._news.wait(news, listener, GONE_LOOK_S)
        return position

    async def _read(
        self, where: Mapping[str, str], limit: int, after: int | None, until: int | None, *, newest_first: bool = False
    ) -> list[dict[str, Any]]:
        async with self._reading:
            return await self._rows("event_log", where, limit, after=after, until=until, newest_first=newest_first)

    async def end(self) -> int:
        """Position of the latest event; 0 without any."""
        async with self._reading:
            rows = await self._rows("event_log", {}, 1, newest_first=True)
        return int(rows[0]["position"]) if rows else 0


TAIL_KEY: Final = web.AppKey("tail", EventTail)
"""Where an application keeps its stream: ``app[TAIL_KEY].committed`` is called after each commit."""


def _resumed(request: web.Request, after: int | None) -> int | None:
    last = request.headers.get(LAST_EVENT_ID)
    if not last:
        return after
    if not (last.isascii() and last.isdigit() and len(last) <= POSITION_DIGITS_MAX):
        raise ApiError(
            400,
            f"{LAST_EVENT_ID} is {echo(last)!r}; expected the id of an event, which is its position",
            code=Code.API_FORM,
        )
    return int(last)
