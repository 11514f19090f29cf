"""Signatures of much that peers send, checked ahead of the writer by somebody else: a process on a core of its own.

What comes in is offered when it comes (``offer``); it is checked while the writer stores what came before. Whoever
hands events to the writer waits for their answers (``settled``), and the writer finds these remembered
(``keys.remember``). Only that a signature holds is remembered. What was not offered, or not answered for whatever
reason, the writer checks itself, as if this were not there.

Two cores are needed, and much to check: a process costs a tenth of a second to start, and 20 MB while it is there.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from p2pnodes.model.codes import Code
from p2pnodes.model.events import Event
from p2pnodes.model.keys import forget, vouch
from p2pnodes.store.checker import Answer
from p2pnodes.store.checking import CheckerError

log = structlog.get_logger("p2pnodes.store")

EVENTS_MIN: Final = 16
"""Events that come at once and are worth a batch: live events come one by one."""

BULK_EVENTS: Final = 1_024
BULK_PER_S: Final = 100.0
"""Events that came in batches are much from so many on, less so many for each second since."""

BULK_EVENTS_MAX: Final = 2_048
"""No more are counted: ten seconds after the last of many, few are few again."""

BATCH_EVENTS: Final = 64
"""Events of one batch: as many as catching up stores at once, whose answers it then has."""

BATCH_BYTES: Final = 128 * 1024
"""The same in bytes; one larger event goes alone."""

EVENTS_MAX: Final = 4_096
"""Events that are being checked, or were and are not settled."""

BYTES_MAX: Final = 4 << 20
"""Bytes of the events that these are of, which the memory holds so long: twice what catching up has under way."""

KEPT_S: Final = 60.0
"""How long an answer waits to be settled: events that waited so long for their turn are dropped."""

IDLE_S: Final = 10.0
"""Seconds without anything to check after which the process ends, and its memory with it."""

REST_S: Final = 300.0
"""Seconds without another try after the process failed."""

CORES_MIN: Final = 2


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Checker(Protocol):
    """Checks signatures somewhere else."""

    async def check(self, wires: Sequence[bytes]) -> Answer:
        """Check all signatures of some events.

        Raises:
            CheckerError: They were not checked.
        """

    async def end(self) -> None:
        """Let go of everything; a later batch begins anew."""


def _batched(wires: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Events in batches; only one that consists of a single event is larger than BATCH_BYTES."""
    batch: list[bytes] = []
    size_bytes = 0
    for wire in wires:
        if batch and (len(batch) == BATCH_EVENTS or size_bytes + len(wire) > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(wire)
        size_bytes += len(wire)
    if batch:
        yield batch


class _Batch:
    """Some events whose signatures are being checked, or were."""

    def __init__(self, wires: Sequence[bytes], since_s: float) -> None:
        self.wires = dict.fromkeys(wires)
        """Those that nobody has asked about."""
        self.count = len(self.wires)
        self.size_bytes = sum(map(len, self.wires))
        self.since_s = since_s
        self.asking: asyncio.Task[bool]
        """Whether all of them hold."""
        self.ids: Sequence[bytes] = ()
        """What was vouched for."""
        self.users = 0
        """Who waits for the answer, or has the writer use it."""


class Ahead:
    """Has signatures checked ahead, where that is worth it; bounded in all that it holds."""

    def __init__(self, checker: Checker) -> None:
        """Ask nothing of the checker before there is much to check."""
        self._checker = checker
        self._loop = asyncio.get_running_loop()
        self._came = 0.0
        """Events that came lately, see BULK_PER_S."""
        self._came_s = 0.0
        self._rest_until_s = 0.0
        self._batches: dict[_Batch, None] = {}
        """The oldest first."""
        self._of: dict[bytes, _Batch] = {}
        """By event that nobody has asked about."""
        self._events = 0
        self._size_bytes = 0
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closing = False
        self._checked = 0
        """Signatures that held, since the checker was needed."""

    def wants(self, count: int) -> bool:
        """Whether so many events that came at once are to be offered."""
        if count < EVENTS_MIN or self._closing:
            return False
        now_s = self._loop.time()
        left = max(0.0, self._came - BULK_PER_S * (now_s - self._came_s))
        self._came, self._came_s = min(BULK_EVENTS_MAX, left + count), now_s
        return self._came >= BULK_EVENTS and now_s >= self._rest_until_s and cores() >= CORES_MIN

    def offer(self, events: Sequence[Event]) -> None:
        """Begin to check the signatures of events that will go to the writer; as far as the bounds allow."""
        new = dict.fromkeys(event.wire for event in events if event.wire not in self._of)
        for wires in _batched(new):
            batch = _Batch(wires, self._loop.time())
            if not self._has_room(batch):
                break
            self._batches[batch] = None
            self._events += batch.count
            self._size_bytes += batch.size_bytes
            self._of.update(dict.fromkeys(batch.wires, batch))
            batch.asking = self._loop.create_task(self._ask(batch, tuple(batch.wires)))
        self._stay()

    @asynccontextmanager
    async def settled(self, events: Sequence[Event]) -> AsyncIterator[bool]:
        """Wait for what was offered of some events; within this context the writer finds the answers.

        Yields:
            Whether all that ``Event.checks`` names of all of them was found to hold.
        """
        found = [self._of.pop(event.wire, None) for event in events]
        batches = dict.fromkeys(batch for batch in found if batch is not None)
        for event, batch in zip(events, found, strict=True):
            if batch is not None:
                del batch.wires[event.wire]
        for batch in batches:
            batch.users += 1
        try:
            if asking := [batch.asking for batch in batches if not batch.asking.done()]:
                await asyncio.wait(asking)  # whoever is cancelled here cancels nobody's check
            yield None not in found and all(batch.asking.result() for batch in batches)
        finally:
            for batch in batches:
                batch.users -= 1
                if not batch.wires and not batch.users and batch in self._batches:  # else it was closed meanwhile
                    self._drop(batch)

    async def close(self) -> None:
        """End the checker."""
        if self._idle is not None:
            self._idle.cancel()
        self._closing = True
        await self._checker.end()
        while (batch := next(iter(self._batches), None)) is not None:
            await asyncio.wait([batch.asking])
            if batch in self._batches:
                self._drop(batch)
        if self._ending is not None:
            await self._ending

    def _has_room(self, batch: _Batch) -> bool:
        """Whether there is room for a batch; answers that nobody has used for KEPT_S make some."""
        limit_s = self._loop.time() - KEPT_S
        for old in list(self._batches):
            if old.since_s > limit_s or old.users or not old.asking.done():
                break
            self._drop(old)
        return self._events + batch.count <= EVENTS_MAX and self._size_bytes + batch.size_bytes <= BYTES_MAX

    def _drop(self, batch: _Batch) -> None:
        del self._batches[batch]
        self._events -= batch.count
        self._size_bytes -= batch.size_bytes
        for wire in batch.wires:
            del self._of[wire]
        forget(batch.ids)

    async def _ask(self, batch: _Batch, wires: Sequence[bytes]) -> bool:
        """Have a batch checked and what holds vouched for; whether all of it does."""
        if self._closing or self._loop.time() < self._rest_until_s:  # ended, or failed, since this was offered
            return False
        try:
            found = await self._checker.check(wires)
        except CheckerError as error:
            if not self._closing:
                self._rest(error)
            return False
        except Exception:  # a bug: the writer checks itself
            log.exception("signature_checker_failed", code=Code.SYSTEM_BUG)
            self._rest(None)
            return False
        if batch in self._batches:  # else whoever waited for it has gone
            batch.ids = found.ids
            vouch(found.ids)
        self._checked += len(found.ids)
        return found.whole

    def _rest(self, error: CheckerError | None) -> None:
        """Ask for nothing for a while; what is under way fails as well, and is told once."""
        now_s = self._loop.time()
        if error is not None and now_s >= self._rest_until_s:
            log.warning("signature_checker_failed", error=str(error), again_in_s=REST_S, code=error.code)
        self._rest_until_s = now_s + REST_S

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(IDLE_S, self._retire)

    def _retire(self) -> None:
        if any(batch.users or not batch.asking.done() for batch in self._batches):
            self._stay()
            return
        for batch in list(self._batches):
            self._drop(batch)
        if self._checked:
            log.info("signatures_checked_ahead", signatures=self._checked)
            self._checked = 0
        self._ending = self._loop.create_task(self._checker.end())
