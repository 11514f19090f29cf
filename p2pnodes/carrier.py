"""When this validator carries what others cannot carry any more (design.md, rules 5 and 7; ``store.carrying``).

A *walk* looks through everything that is stored, part by part, and finds the claims for which something must be
carried. Validators share the work by rendezvous: for each claim the first of its order carries at once, and each
further one waits a step longer. Before it writes, each looks again, and mostly finds that it has been done. So a
holder that is offline costs one step, and one that lies as much. The author of what lies above a cut of its own log
does not wait at all: nobody else surely holds it.

A walk is begun by a start, another electorate, a log that ended, and events of a log that is about to go. Without any
of these nothing runs. Where its own validator has many logs, another walk begins with each checkpoint and each log of
its own, slowly: what the older ones say is said again (``store.gathering``). ``Rounds`` decides, by the clock that it
is given; ``Carrier`` does it on the daemon's database, and the simulator on its own.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog

from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import P2PNodesError, WritesRefusedError
from p2pnodes.model.events import Head, LogId
from p2pnodes.store import carrying, gathering
from p2pnodes.store.carrying import DECIDED_PER_PART, Carried, Cursor, Part
from p2pnodes.store.database import Commit, Database
from p2pnodes.store.gathering import Gathered, Mark, concerns
from p2pnodes.store.state import State

log = structlog.get_logger("p2pnodes.carrier")

WAITING_MAX: Final = 8_192
"""Claims that wait for this validator's turn; what does not fit is found again by the next walk."""

WRITE_PAUSE_MS: Final = 50
"""Pause after a ``carry``: 2 MB a second at most leave the disk and the links to miners and votes."""

REFUSED_PAUSE_MS: Final = 5_000
"""Pause after a write was refused or failed, or a part could not be read."""

WALK_SHARE: Final = 10
WALK_PAUSE_MS_MIN: Final = 1_000
WALK_PAUSE_MS_MAX: Final = 60_000
"""Pause between two walks, in durations of the last one, and its bounds: whoever makes them begin (a validator that
forks, or writes on in its epoch of grace) takes at most a tenth of the reader's time."""


GATHER_PAUSE_MS: Final = 10_000
"""Pause after something of an older own log was said again. For 200,000 claims with bodies of 2.6 KB, as of servers of
8 GPUs, 33 of which fit a ``carry``, that takes 17 hours and 6,100 events, at 10 KB a second, and for as many places
35 hours more and 200,000 events of 0.6 KB: two days, of the seven of a horizon."""

GATHER_LOOK_PAUSE_MS: Final = 100
"""Pause where everything had been said again: 200,000 claims of which nothing has to be said take 5 minutes."""


class Look(NamedTuple):
    """Look through the next part of what is stored, and call ``Rounds.looked``."""

    cursor: Cursor


class Write(NamedTuple):
    """Carry what these claims still need, and call ``Rounds.wrote``."""

    keys: tuple[int, ...]


class Gather(NamedTuple):
    """Say again what comes next in older own logs, and call ``Rounds.gathered``."""

    mark: Mark


class Rest(NamedTuple):
    """Nothing is to be done before a moment, or before the next call of ``wake`` (None)."""

    until_ms: int | None


class Rounds:
    """What is to be done next. Pure: every method is told the time by one clock that never goes back, milliseconds."""

    def __init__(self) -> None:
        """Begin with a walk."""
        self._asked = True
        self._cursor: Cursor | None = None
        self._began_ms = 0
        self._walk_from_ms = 0
        self._write_from_ms = 0
        self._due: deque[int] = deque()
        self._later: list[tuple[int, int]] = []
        self._waiting: set[int] = set()
        """What is in ``_due`` or ``_later``."""
        self._overflowed_ms: int | None = None
        self._logs = 0
        self._going: Mapping[LogId, Head] = {}
        self._electorate: bytes | None = None
        self._mark: Mark | None = None
        self._gather_from_ms = 0
        self._seen: tuple[int | None, LogId | None, int] = None, None, 0
        self._gathered: tuple[int | None, LogId | None] | None = None
        """For what the last walk through older own logs was asked for."""
        self._gather_again = False

    @property
    def waiting(self) -> int:
        """Claims that wait for their turn."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits."""
        return self._cursor is None and not self._waiting and not self._asked and self._mark is None

    def wake(self) -> None:
        """Begin a walk as soon as may be."""
        self._asked = True

    def committed(self, state: State, electorate: Electorate, *, ended: bool) -> bool:
        """Take note of a commit, or of another electorate; whether a walk is to begin for it.

        Args:
            state: What the last commit left.
            electorate: Who counts.
            ended: Whether it brought proofs of the ends of logs.
        """
        grown = any(state.logs[log_id].head != head for log_id, head in self._going.items() if log_id in state.logs)
        if ended or grown or len(state.logs) != self._logs or electorate.digest != self._electorate:
            self._logs = len(state.logs)
            self._electorate = electorate.digest
            self._going = {
                log_id: held.head
                for log_id, held in state.logs.items()
                if held.cut is not None or _leaves(held.hotkey, electorate)
            }
            self.wake()
            self._has_to_gather(state)
            return True
        return self._has_to_gather(state)

    def _has_to_gather(self, state: State) -> bool:
        """Begin to say again what older own logs say, where there are many, for a checkpoint or a log that is new.

        A walk that is under way goes on first: it may take longer than from one to the next.
        """
        seen = state.settled, state.own, len(state.logs)
        if seen == self._seen or state.settled is None:
            return False
        self._seen = seen
        own = None if state.own is None else state.logs.get(state.own)
        if own is None or not concerns(state.logs.values(), own.hotkey):
            self._mark, self._gathered, self._gather_again = None, None, False
            return False
        if seen[:2] == self._gathered:
            return False
        self._gathered = seen[:2]
        if self._mark is not None:
            self._gather_again = True
            return False
        self._mark = Mark()
        return True

    def next(self, now_ms: int) -> Look | Write | Gather | Rest:
        """The next thing to do; the same again until its answer has come."""
        while self._later and self._later[0][0] <= now_ms:
            self._due.append(heapq.heappop(self._later)[1])
        if self._due:
            if now_ms < self._write_from_ms:
                return Rest(self._write_from_ms)
            return Write(tuple(self._due)[:DECIDED_PER_PART])
        if self._cursor is None and self._asked and now_ms >= self._walk_from_ms:
            self._asked = False
            self._cursor, self._began_ms = Cursor(), now_ms
        if self._cursor is not None:
            if now_ms < self._walk_from_ms:  # a part could not be read
                return Rest(self._walk_from_ms)
            return Look(self._cursor)
        if self._mark is not None and now_ms >= self._gather_from_ms:
            return Gather(self._mark)
        moments = [self._walk_from_ms] if self._asked else []
        moments += [self._gather_from_ms] if self._mark is not None else []
        moments += [self._later[0][0]] if self._later else []
        return Rest(min(moments, default=None))

    def looked(self, part: Part, now_ms: int) -> None:
        """Take what a part of the walk found."""
        for key, wait_ms in part.needs:
            if key in self._waiting:
                continue
            if wait_ms == 0:
                self._due.append(key)
            elif len(self._later) < WAITING_MAX:
                heapq.heappush(self._later, (now_ms + wait_ms, key))
            else:
                self._overflowed_ms = min(self._overflowed_ms or now_ms + wait_ms, now_ms + wait_ms)
                continue
            self._waiting.add(key)
        self._cursor = part.cursor
        if self._cursor is None:
            took_ms = now_ms - self._began_ms
            self._walk_from_ms = now_ms + min(max(took_ms * WALK_SHARE, WALK_PAUSE_MS_MIN), WALK_PAUSE_MS_MAX)
            if self._overflowed_ms is not None:
                self._asked = True
                self._walk_from_ms = max(self._walk_from_ms, self._overflowed_ms)
                self._overflowed_ms = None

    def wrote(self, carried: Carried, now_ms: int) -> None:
        """Take what became of the claims of a ``Write``."""
        for _ in range(carried.done):
            self._waiting.discard(self._due.popleft())
        if carried.requests:
            self._write_from_ms = now_ms + WRITE_PAUSE_MS

    def gathered(self, gather: Gather, gathered: Gathered, now_ms: int) -> None:
        """Take what became of a ``Gather``; of one that is not asked for any more nothing but the pause."""
        if self._mark is gather.mark:
            self._mark = gathered.mark
            if self._mark is None and self._gather_again:
                self._mark, self._gather_again = Mark(), False
        self._gather_from_ms = now_ms + (
            GATHER_PAUSE_MS if gathered.requests or gathered.places else GATHER_LOOK_PAUSE_MS
        )

    def failed(self, now_ms: int) -> None:
        """Take note that what was to be done could not be done; it is tried again later."""
        self._write_from_ms = self._walk_from_ms = self._gather_from_ms = now_ms + REFUSED_PAUSE_MS


def _leaves(hotkey: bytes, electorate: Electorate) -> bool:
    """Whether a validator counts by the grace of the block before alone."""
    return electorate.permitted(hotkey) and hotkey not in electorate.current.validators


class Carrier:
    """Carries on a daemon's database."""

    def __init__(self, database: Database, hotkey: Callable[[], bytes | None], now_ms: Callable[[], int]) -> None:
        """Take what carrying needs; call ``start`` then.

        Args:
            database: Its ledger writes the own log.
            hotkey: The validator that this daemon speaks for; None while that is not known.
            now_ms: Wall clock, Unix milliseconds.
        """
        self._database = database
        self._hotkey = hotkey
        self._now_ms = now_ms
        self._rounds = Rounds()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._requests = self._events = self._walks = 0
        self._problem: str | None = None

    def start(self) -> None:
        """Look for what must be carried, now and whenever that may have changed."""
        self.weighed()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop; what waits is found again at the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def weighed(self) -> None:
        """Take note of another electorate, which no commit tells of where no row differs."""
        self._note(ended=False)

    def committed(self, commit: Commit) -> None:
        """Take note of a commit."""
        self._note(ended=bool(commit.ended))

    def _note(self, *, ended: bool) -> None:
        if self._rounds.committed(self._database.state, self._database.electorate, ended=ended):
            self._woken.set()

    def status(self) -> dict[str, Any]:
        """For ``p2pnodes status``: what waits to be carried, what was since the start, and what is in the way."""
        return {
            "waiting": self._rounds.waiting,
            "requests": self._requests,
            "events": self._events,
            "walks": self._walks,
            "problem": self._problem,
        }

    async def _run(self) -> None:
        while True:
            step = self._rounds.next(_monotonic_ms())
            if isinstance(step, Rest):
                await self._rest(step)
                continue
            try:
                await self._do(step)
            except P2PNodesError as error:
                if str(error) != self._problem:
                    log.warning("not_carried", error=str(error), code=Code.EVENT_NOT_CARRIED)
                self._problem = str(error)
                self._rounds.failed(_monotonic_ms())
            except Exception:  # a turn that fails must not be the last one: rows would be lost
                log.exception("carrier_failed", code=Code.SYSTEM_BUG)
                self._rounds.failed(_monotonic_ms())
            else:
                self._problem = None

    async def _rest(self, rest: Rest) -> None:
        self._woken.clear()
        wait_s = None if rest.until_ms is None else max(0, rest.until_ms - _monotonic_ms()) / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()

    async def _do(self, step: Look | Write | Gather) -> None:
        hotkey = self._hotkey()
        if hotkey is None:
            raise WritesRefusedError("this daemon does not speak for a validator yet", code=Code.WRITES_NO_LOG)
        if isinstance(step, Look):
            cursor = step.cursor
            part = await self._database.read_weighed(
                lambda facts, weights: carrying.part(facts, cursor, weights, hotkey)
            )
            self._rounds.looked(part, _monotonic_ms())
            self._walks += part.cursor is None
            return
        if isinstance(step, Gather):
            mark = step.mark
            gathered = await self._database.write(lambda ledger: gathering.gather(ledger, mark, self._now_ms()))
            self._rounds.gathered(step, gathered, _monotonic_ms())
            if gathered.requests or gathered.places:
                self._requests += gathered.requests
                self._events += (gathered.requests > 0) + gathered.places
                log.info(
                    "said_again",
                    requests=gathered.requests,
                    places=gathered.places,
                    withdrawn=gathered.withdrawn,
                )
            return
        keys = step.keys
        carried = await self._database.write(lambda ledger: carrying.carry(ledger, keys, hotkey, self._now_ms()))
        self._rounds.wrote(carried, _monotonic_ms())
        if carried.requests:
            self._requests += carried.requests
            self._events += 1
            log.info("carried", requests=carried.requests)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
