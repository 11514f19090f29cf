"""Rendered reads, by (state root, query): computed once per root even when many ask at once.

Equal roots mean equal rows, so bytes of one root never go stale; what is bounded is how many are kept. A body that was
read while a commit came in belongs to no root for sure: it is right as an answer, but carries no ETag and is not kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from aiohttp import hdrs

from p2pnodes.api.errors import JSON_HEADERS
from p2pnodes.api.inventory import Inventory
from p2pnodes.model.codec import digest
from p2pnodes.store.database import Detail
from p2pnodes.store.state import State

ENTRIES_MAX: Final = 256
BYTES_MAX: Final = 32 * 1024 * 1024
COMPUTED_AT_ONCE_MAX: Final = 4
"""Reads of the database that run at the same time for this cache; others wait their turn."""

_ETAG_BYTES: Final = 16


Content = bytes | Sequence[Detail]
"""A body, or, of one that is too large to be held, what it is rendered from while it is sent."""


class Rendered(NamedTuple):
    """An answer: its body, its headers (with ETag where it has one), and the ETag or None."""

    body: Content
    headers: Mapping[str, str]
    etag: str | None


def rendered(body: Content, root: bytes | None, query: str) -> Rendered:
    """Give a body its headers; ``root`` None means that it has no validator."""
    headers = {**JSON_HEADERS, hdrs.CACHE_CONTROL: "no-cache"}
    if root is None:
        return Rendered(body, headers, None)
    etag = f"{root[:_ETAG_BYTES].hex()}-{digest(query.encode(), _ETAG_BYTES).hex()}"
    return Rendered(body, {**headers, hdrs.ETAG: f'"{etag}"'}, etag)


class _Pending:
    """An answer that is being rendered, or waits for its turn."""

    def __init__(self, since: State) -> None:
        self.since = since
        """What the store was when the first caller came."""
        self.task: asyncio.Task[Rendered]
        self.callers = 0
        self.begun = False
        """Whether it is its turn: what it asked the database for is read to the end then."""


class RootedCache:
    """Least-recently-used cache of rendered answers."""

    def __init__(self, db: Inventory) -> None:
        self._db = db
        self._entries: OrderedDict[tuple[bytes, str], Rendered] = OrderedDict()
        self._bytes = 0
        self._pending: dict[str, _Pending] = {}
        self._computing = asyncio.Semaphore(COMPUTED_AT_ONCE_MAX)

    @property
    def waiting(self) -> int:
        """Answers that are being rendered, or wait for their turn."""
        return len(self._pending)

    def held(self, query: str) -> Rendered | None:
        """The answer to ``query`` at the current root, if it is kept."""
        key = (self._db.state.state_root, query)
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    async def compute(self, query: str, render: Callable[[], Awaitable[Content]]) -> Rendered:
        """The answer to ``query``; callers that come while it is being rendered share it until a commit comes in."""
        state = self._db.state
        pending = self._pending.get(query)
        if pending is None or pending.since is not state:  # else it may lack what the caller just wrote
            pending = self._pending[query] = _Pending(state)
            pending.task = asyncio.create_task(self._render(query, render, pending))
            pending.task.add_done_callback(partial(self._forget, query, pending))
        pending.callers += 1
        try:
            return await asyncio.shield(pending.task)  # one caller that leaves does not take it from the others
        finally:
            pending.callers -= 1
            if not (pending.callers or pending.begun):  # who asks and leaves has nothing wait: that has no bound
                self._forget(query, pending, pending.task)
                pending.task.cancel()

    def _forget(self, query: str, pending: _Pending, task: "asyncio.Task[Rendered]") -> None:
        if self._pending.get(query) is pending:
            del self._pending[query]
        if task.done() and not task.cancelled():
            task.exception()  # seen: asyncio need not complain when nobody waited for it to the end

    async def _render(self, query: str, render: Callable[[], Awaitable[Content]], pending: _Pending) -> Rendered:
        async with self._computing:
            pending.begun = True
            before = self._db.settled_state
            body = await render()
        if before is None or self._db.settled_state is not before:
            return rendered(body, None, query)
        answer = rendered(body, before.state_root, query)
        self._keep((before.state_root, query), answer)
        return answer

    def _keep(self, key: tuple[bytes, str], answer: Rendered) -> None:
        if not isinstance(answer.body, bytes) or len(answer.body) > BYTES_MAX:
            return  # it would drive out all others and then itself
        replaced = self._entries.pop(key, None)
        self._bytes += len(answer.body) - (len(replaced.body) if replaced else 0)
        self._entries[key] = answer
        while len(self._entries) > ENTRIES_MAX or self._bytes > BYTES_MAX:
            self._bytes -= len(self._entries.popitem(last=False)[1].body)
