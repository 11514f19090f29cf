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
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

log = structlog.get_logger(__name__)

TAILS_MAX: Final = 64
"""Streams at once; beyond it a listener is refused with 503."""

EVENTS_PER_PART: Final = 256
"""Events that are read and written at once, some 150 KB."""

POSITIONS_PER_READ: Final = 10_000
"""Positions that a read with filters looks at: some 20 ms, for which other reads of views wait at most."""

BUSY_RETRY_S: Final = 30
"""When a listener that is refused shall come back."""

POSITION_DIGITS_MAX: Final = 18
"""Longest position that is looked at, in digits; SQLite's own have no more than 19."""

Rows = Callable[..., Awaitable[list[dict[str, Any]]]]
"""``DaemonView.query``."""


class EventTail:
    """The listeners of one daemon's log."""

    def __init__(self, rows: Rows) -> None:
        """Serve listeners; ``rows`` reads the view ``event_log``, as ``GET /events`` does."""
        self._rows = rows
        self._news = News()
        self._streams = Places()
        self._reading = asyncio.Lock()  # other reads wait behind one part at most

    @property
    def open(self) -> int:
        """Listeners that are being served."""
        return self._streams.taken

    def committed(self) -> None:
        """Events may have been stored; called in the event loop."""
        if self._streams.taken:
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
            ApiError: 400 for an id that is no position, 503 when TAILS_MAX listen already.
        """
        position = _resumed(request, after)
        listener = Listener(request)
        with self._streams.take("", "streams", most=TAILS_MAX, most_each=TAILS_MAX, retry_s=BUSY_RETRY_S):
            await self._serve(listener, where, position)
        return listener.response

    async def _serve(self, listener: Listener, where: Mapping[str, str], after: int | None) -> None:
        end = await self._end()
        position = end if after is None else after
        try:
            await listener.open()
            if position > end:
                position = end
                await listener.send(frame("reset", orjson.dumps({"position": end}), str(end)))
            while not self._news.stopping:
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
            end = await self._end()
            until = position + POSITIONS_PER_READ
        async with self._reading:
            rows = await self._rows("event_log", where, EVENTS_PER_PART, after=position, until=until)
        await listener.send(b"".join(frame("event", orjson.dumps(row), str(row["position"])) for row in rows))
        if rows:
            position = int(rows[-1]["position"])
        if len(rows) == EVENTS_PER_PART:
            return position
        if until is not None:
            position = max(position, min(until, end))
        await listener.keep_alive(str(position))
        if position >= end:
            await self._news.wait(news, listener)
        return position

    async def _end(self) -> int:
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
