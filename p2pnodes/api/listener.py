"""One client of a stream of server-sent events, and how those who wait are told that there is news."""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import hdrs, web

from p2pnodes.api.errors import JSON_HEADERS
from p2pnodes.api.server import cut, is_gone, send_part

GATHER_S: Final = 0.1
"""Least time between two moments at which listeners are told: what changes in between shares its reads and writes."""

KEEP_ALIVE_S: Final = 15.0
"""Silence after which a comment is sent: proxies and clients give up on silent connections, mostly after 60 s."""

RETRY_MS: Final = 3_000
"""What clients are told to wait before they connect again."""

LAST_EVENT_ID: Final = "Last-Event-ID"
"""The header by which a client resumes."""

EVENT_STREAM_HEADERS: Final = {
    **JSON_HEADERS,
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # reverse proxies pass each event on at once
}


class Listener:
    """One open stream."""

    def __init__(self, request: web.Request) -> None:
        """Answer ``request`` with a stream."""
        self.response = web.StreamResponse(headers=EVENT_STREAM_HEADERS)
        self._request = request
        self._sent_at = 0.0

    async def open(self) -> None:
        """Send the answer's headers."""
        await self.response.prepare(self._request)
        await self.send(f"retry: {RETRY_MS}\n\n".encode())

    async def send(self, data: bytes) -> None:
        """Send a part; raises ConnectionError when the client is gone or does not read."""
        if data:
            await send_part(self._request, self.response, data)
            self._sent_at = asyncio.get_running_loop().time()

    async def keep_alive(self, event_id: str | None = None) -> None:
        """Break a silence. An id without data makes no event, but clients resume from it: so one stays resumable."""
        if asyncio.get_running_loop().time() >= self.silent_at:
            await self.send(b": keep-alive\n" + (b"" if event_id is None else f"id: {event_id}\n".encode()) + b"\n")

    def cut(self) -> None:
        """Drop the connection."""
        cut(self._request)

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return is_gone(self._request)

    @property
    def silent_at(self) -> float:
        """When the client must hear something again, in the loop's time."""
        return self._sent_at + KEEP_ALIVE_S


class News:
    """Wakes all who wait, at most once in GATHER_S."""

    def __init__(self) -> None:
        """Without any news."""
        self.stopping = False
        """Whether streams shall end."""
        self._news = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._woke_at = -GATHER_S

    def tell(self) -> None:
        """There is something new; called in the event loop."""
        if self._waking is None:
            loop = asyncio.get_running_loop()
            self._waking = loop.call_at(max(loop.time(), self._woke_at + GATHER_S), self._wake)

    def stop(self) -> None:
        """Wake all for the last time: ``stopping`` is true from now on."""
        self.stopping = True
        if self._waking is not None:
            self._waking.cancel()
        self._wake()

    @property
    def next(self) -> asyncio.Event:
        """What is set when there is something new from now on: take it before you look."""
        return self._news

    async def wait(self, news: asyncio.Event, listener: Listener, look_s: float = KEEP_ALIVE_S) -> None:
        """Wait for news that ``next`` gave, until the listener must hear something again, or is found gone.

        Args:
            news: What ``next`` gave.
            listener: Who waits.
            look_s: Seconds between two looks at whether it is gone.
        """
        loop = asyncio.get_running_loop()
        while not (news.is_set() or listener.gone or loop.time() >= listener.silent_at):
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(listener.silent_at, loop.time() + look_s)):
                    await news.wait()

    def _wake(self) -> None:
        self._waking = None
        self._woke_at = asyncio.get_running_loop().time()
        self._news.set()
        self._news = asyncio.Event()


def frame(kind: str, data: bytes, event_id: str) -> bytes:
    """One event as it is sent; ``data`` is JSON and so has no line feeds."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), kind.encode(), data)
