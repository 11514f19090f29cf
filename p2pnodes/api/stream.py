"""``GET /nodes/events``: changes of GPUs and claims as server-sent events, to be resumed by ``Last-Event-ID``.

What changed is kept as keys in a ring; what stands under a key is read when it is sent, once for all listeners. So an
event tells a state and not a step, a key that changed again is told at its last place only, and a listener that takes
its time costs no memory: the ring is its queue, and one that falls out of it is disconnected.

A stream that cannot be resumed begins with ``reset``: the client forgets what it has. Then come ``node`` and ``claim``
for the whole inventory (of one hotkey, if asked), ``snapshot_end``, and from then on ``node``, ``node_deleted`` and
``claim`` as they change. Claims that own no GPU are in the snapshot for as long as a verdict lives; what is older is
history. An event may repeat what the client knows. Ids are ``<epoch>-<seq>``, the epoch drawn by each process; those
within a snapshot are no place to resume from. While nothing happens, a comment and the id so far come every 15 s.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from p2pnodes.api import views
from p2pnodes.api.errors import ApiError, field_error
from p2pnodes.api.inventory import Inventory
from p2pnodes.api.limits import Places
from p2pnodes.api.listener import LAST_EVENT_ID, Listener, News, frame
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.model.keys import ss58_decode
from p2pnodes.store.changes import CHANGES_MAX, Changes, Gone
from p2pnodes.store.database import Commit

log = structlog.get_logger(__name__)

RING_SIZE: Final = CHANGES_MAX
"""Changes that are kept to be resumed from, some 20 MB when full."""

EVENTS_PER_PART: Final = 256
"""Changes that are read and written at once."""

RENDERED_MAX: Final = 4_096
"""Rendered events that are kept for other listeners, some 2 MB."""

STREAMS_MAX: Final = 512
STREAMS_PER_ADDRESS_MAX: Final = 16
"""Streams at once, over all and of one client address (IPv6: one /64)."""

READS_AT_ONCE: Final = 2
"""Reads of the database by all streams together; polls wait behind no more of them."""

BUSY_RETRY_S: Final = 30
EPOCH_BYTES: Final = 8
SEQ_DIGITS_MAX: Final = 18

Change = str | int | Gone
"""GPU uuid of a row, row key of a claim, or a row that its miner lost."""


class Slice(NamedTuple):
    """Some changes with their seqs, and the position behind them."""

    changes: list[tuple[int, Change]]
    position: int


class Ring:
    """The latest changes, each with a seq. A position is the seq of the last change that a listener was told of."""

    def __init__(self, epoch: str, size: int) -> None:
        """Start empty; ``epoch`` tells the ids of this ring from those of any other."""
        self.epoch = epoch
        self._size = size
        self._slots: list[Change | None] = [None] * size
        self._last: dict[str | int, int] = {}
        self.head = 1
        """Seq of the latest change; 0 stays free for the ids within a snapshot."""
        self.begin = 1
        """Lowest position of which it is known what came behind: where the ring began, or began anew."""

    def extend(self, changes: Changes) -> None:
        """Take what a commit changed: rows that miners lost, then rows as they are, then claims."""
        if changes.too_many or len(changes.gone) + len(changes.nodes) + len(changes.claims) > self._size:
            self.head += 1
            self.begin = self.head
            self._slots = [None] * self._size
            self._last.clear()
            return
        for gone in changes.gone:
            self._append(gone)
        for uuid in changes.nodes:
            self._append(uuid)
            self._last[uuid] = self.head
        for key in changes.claims:
            self._append(key)
            self._last[key] = self.head

    def _append(self, change: Change) -> None:
        self.head += 1
        slot = self.head % self._size
        old = self._slots[slot]
        if not isinstance(old, Gone) and old is not None and self._last.get(old) == self.head - self._size:
            del self._last[old]
        self._slots[slot] = change

    def holds(self, position: int) -> bool:
        """Whether every change behind a position is here."""
        return max(self.begin, self.head - self._size) <= position <= self.head

    def after(self, position: int, limit: int) -> Slice:
        """The changes among the next ``limit`` that did not happen again later; only where ``holds`` is true."""
        end = min(self.head, position + limit)
        found: list[tuple[int, Change]] = []
        for seq in range(position + 1, end + 1):
            change = self._slots[seq % self._size]
            assert change is not None
            if isinstance(change, Gone) or self._last.get(change) == seq:
                found.append((seq, change))
        return Slice(found, end)

    def event_id(self, position: int) -> str:
        """Id by which a client resumes from a position; that of 0 is never resumed from."""
        return f"{self.epoch}-{position}"

    def resume(self, event_id: str) -> int | None:
        """Position that a client's last event id means; None when it must begin anew."""
        epoch, _, seq = event_id.rpartition("-")
        if epoch != self.epoch or not (seq.isascii() and seq.isdigit() and len(seq) <= SEQ_DIGITS_MAX):
            return None
        return int(seq) if self.holds(int(seq)) else None


class _Event(NamedTuple):
    """A rendered event and the miner whom it is about."""

    miner: bytes
    frame: bytes


class _Listener(Listener):
    """One open stream, about one miner or all."""

    def __init__(self, request: web.Request, miner: bytes | None) -> None:
        """Answer ``request`` with what concerns a miner (public key), or with everything."""
        super().__init__(request)
        self.miner = miner


class NodeEvents:
    """The listeners of one process and what they share."""

    def __init__(self, db: Inventory, *, limit: Callable[[web.Request], str]) -> None:
        """Serve listeners from a database.

        Args:
            db: The local inventory.
            limit: Takes one request off its client's limit and returns the client's key; refuses one that asks too
                much with an ApiError.
        """
        self._db = db
        self._limit = limit
        self._ring = Ring(secrets.token_hex(EPOCH_BYTES), RING_SIZE)
        self._rendered: dict[int, _Event | None] = {}
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._rendering = asyncio.Lock()
        self._streams = Places()
        self._news = News()

    def committed(self, commit: Commit) -> None:
        """Take note of a commit; called in the event loop."""
        if commit.changes is None:
            return
        self._ring.extend(commit.changes)
        if self._streams.taken:
            self._news.tell()

    async def stop(self, _: web.Application) -> None:
        """End every stream as a whole answer; for ``Application.on_shutdown``."""
        self._news.stop()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """``GET /nodes/events``."""
        client = self._limit(request)
        listener = _Listener(request, _hotkey(request))
        with self._streams.take(
            client, "streams", most=STREAMS_MAX, most_each=STREAMS_PER_ADDRESS_MAX, retry_s=BUSY_RETRY_S
        ):
            await self._serve(listener, self._ring.resume(_last_event_id(request)))
        return listener.response

    async def _serve(self, listener: _Listener, position: int | None) -> None:
        try:
            await listener.open()
            while not (self._news.stopping or listener.gone):  # for who is gone nothing waits, so it would not end
                if position is None:
                    position = await self._send_snapshot(listener)
                else:
                    position = await self._send_changes(listener, position)
        except ConnectionError:
            return  # the client went away, or stopped reading
        except P2PNodesError as error:  # a read failed in the middle of an answer: the client comes back
            log.warning("stream_cut", error=str(error), code=Code.API_CUT)
            listener.cut()

    async def _send_snapshot(self, listener: _Listener) -> int | None:
        """Send the inventory as it is; the position behind which changes are to follow, None when it was broken off.

        Rows that change while it is sent are told again behind it.
        """
        position, unfinished = self._ring.head, self._ring.event_id(0)
        await listener.send(frame("reset", b"{}", unfinished))
        after: int | None = 0
        while after is not None:
            after = await self._send_part(listener, after, unfinished)
            await listener.keep_alive()  # parts that are all history, or another miner's, are empty
            if self._news.stopping:
                return None
        await listener.send(frame("snapshot_end", b"{}", self._ring.event_id(position)))
        return position

    async def _send_part(self, listener: _Listener, after: int, unfinished: str) -> int | None:
        """Send the next part of the inventory; where the one behind it begins, None when it was the last one."""
        content, following = await self._part(listener.miner, after, unfinished)
        await listener.send(content)
        return following

    async def _part(self, miner: bytes | None, after: int, unfinished: str) -> tuple[bytes, int | None]:
        """The next part as it is sent, and where the one behind it begins.

        The rows end here: they are larger than the content, and hundreds of listeners may wait for their next part, or
        for a client that does not read.
        """
        async with self._reading:
            part = await self._db.snapshot_part(after, miner)
        frames = [frame("node", views.node_event(row), unfinished) for row in part.rows]
        frames += [frame("claim", views.claim_event(task), unfinished) for task in part.tasks]
        return b"".join(frames), part.after

    async def _send_changes(self, listener: _Listener, position: int) -> int | None:
        """Send the next changes, or wait for some; the position behind them, None when there must be a snapshot."""
        news = self._news.next
        if position < self._ring.begin:
            return None  # more changed at once than can be told
        if not self._ring.holds(position):
            listener.cut()
            raise ConnectionResetError("the client fell behind all changes that are kept")
        changes, end = self._ring.after(position, EVENTS_PER_PART)
        if changes:
            events = await self._render(changes)
            await listener.send(b"".join(e.frame for e in events if listener.miner in {None, e.miner}))
        await listener.keep_alive(self._ring.event_id(end))
        if end == position:
            await self._news.wait(news, listener)
        return end

    async def _render(self, changes: Sequence[tuple[int, Change]]) -> list[_Event]:
        """Events of some changes, without those of rows that are gone by now; their own events come later."""
        async with self._rendering:  # whoever waits here finds it done
            lacking = [change for change in changes if change[0] not in self._rendered]
            if lacking:
                self._rendered |= await self._read(lacking)
            events = [self._rendered[seq] for seq, _ in changes]
            for seq in list(islice(self._rendered, max(0, len(self._rendered) - RENDERED_MAX))):
                del self._rendered[seq]
        return [event for event in events if event is not None]

    async def _read(self, changes: Sequence[tuple[int, Change]]) -> dict[int, _Event | None]:
        """What stands under some changes now, by seq; None where nothing does."""
        uuids = [change for _, change in changes if isinstance(change, str)]
        keys = [change for _, change in changes if isinstance(change, int)]
        async with self._reading:
            rows, tasks = await self._db.changed(uuids, keys)
        found: dict[int, _Event | None] = {}
        for seq, change in changes:
            event_id = self._ring.event_id(seq)
            if isinstance(change, Gone):
                found[seq] = _Event(change.miner, frame("node_deleted", views.node_deleted_event(change), event_id))
            elif isinstance(change, str):
                row = rows.get(change)
                found[seq] = row and _Event(row.miner, frame("node", views.node_event(row), event_id))
            else:
                task = tasks.get(change)
                found[seq] = task and _Event(task.claim.miner, frame("claim", views.claim_event(task), event_id))
        return found


EVENTS_KEY: Final = web.AppKey("events", NodeEvents)
"""Where an application keeps its stream: ``app[EVENTS_KEY].committed`` takes each commit."""


def _hotkey(request: web.Request) -> bytes | None:
    """The miner (public key) whom a listener asks for, None for all; as of all parameters, the last one counts."""
    given = request.query.getall("hotkey", [""])[-1]
    if not given:
        return None
    try:
        return ss58_decode(given)
    except ValueError as error:
        message = f"Value error, {error}"
        raise ApiError(
            422,
            [field_error("value_error", ("query", "hotkey"), message, given, {"error": str(error)})],
            code=Code.API_FORM,
        ) from error


def _last_event_id(request: web.Request) -> str:
    """The header before the parameter: a client that reconnects cannot change its URL, but sends the header."""
    return request.headers.get(LAST_EVENT_ID) or request.query.getall("last_event_id", [""])[-1]
