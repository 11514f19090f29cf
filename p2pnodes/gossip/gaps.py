"""Events that came before their turn: they wait here, without a look at their signatures, for those before them.

Kept as runs: consecutive events of one log from one session. Whoever sent a run answers for it, so a run is never
mixed from several sessions, and goes with its session. Pure; who puts events here bounds what there is of them.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from p2pnodes.gossip.session import SessionId
from p2pnodes.model.events import Event, LogId

CATCHUP_BYTES_MAX: Final = 2 << 20
"""All that is under way of ranges, over all sessions: credit that was given, events that wait here, pushed ones as
well, and fetched ones that the store works on. It is what catching up takes of memory, however long the logs are."""

AHEAD_BYTES_MAX: Final = CATCHUP_BYTES_MAX // 2
"""What may wait for its turn, pushed or fetched, or be under way as a range that cannot be stored at once. The rest is
kept for what comes before it, so that what waits never keeps out what it waits for."""

WAITING_MS_MAX: Final = 30_000
"""How long events wait for what is missing before them; then they are dropped, and fetched again when it is there."""


class Run:
    """Consecutive events of one log.

    Attributes:
        session: Where they came from.
        fetched: Whether they were wanted; else they were pushed.
        since_ms: When the first of them came, in steady time.
        first_seq: Of the first event.
        events: The events.
        keys: Under which ``Intake`` remembers them.
        size_bytes: Of the events.
    """

    __slots__ = ("events", "fetched", "first_seq", "keys", "session", "since_ms", "size_bytes")

    def __init__(self, session: SessionId, first_seq: int, since_ms: int, *, fetched: bool) -> None:
        """Begin without events."""
        self.session = session
        self.fetched = fetched
        self.since_ms = since_ms
        self.first_seq = first_seq
        self.events: list[Event] = []
        self.keys: list[bytes] = []
        self.size_bytes = 0

    @property
    def end_seq(self) -> int:
        """The seq behind the last event."""
        return self.first_seq + len(self.events)


class Gaps:
    """The runs of all logs and sessions.

    Attributes:
        size_bytes: Of all events that wait.
        pushed_bytes: Of those that nobody wanted.
        lent_bytes: Room that is kept for what was wanted and is under way, and for what the store works on of it.
        ahead_bytes: The part of it that is kept for ranges that cannot be stored at once.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.size_bytes = 0
        self.pushed_bytes = 0
        self.lent_bytes = 0
        self.ahead_bytes = 0
        self._runs: dict[LogId, list[Run]] = {}
        self._by_session: dict[SessionId, int] = {}
        self._pushed_by: dict[SessionId, int] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def logs(self) -> list[LogId]:
        """Logs of which events wait."""
        return list(self._runs)

    def bytes_of(self, session: SessionId) -> int:
        """Size of what came from a session."""
        return self._by_session.get(session, 0)

    def pushed_by(self, session: SessionId) -> int:
        """Size of what came from it and nobody wanted."""
        return self._pushed_by.get(session, 0)

    @property
    def room_bytes(self) -> int:
        """What is left of CATCHUP_BYTES_MAX."""
        return CATCHUP_BYTES_MAX - self.size_bytes - self.lent_bytes

    @property
    def room_ahead_bytes(self) -> int:
        """What is left of AHEAD_BYTES_MAX, as far as there is room at all."""
        return min(self.room_bytes, AHEAD_BYTES_MAX - self.size_bytes - self.ahead_bytes)

    def has(self, log: LogId, seq: int) -> bool:
        """Whether an event with this seq waits, whichever it is."""
        runs = self._runs.get(log)
        if not runs:
            return False
        index = bisect_right(runs, seq, key=_first_seq) - 1
        return index >= 0 and seq < runs[index].end_seq

    def put(self, session: SessionId, key: bytes, event: Event, time_ms: int, *, fetched: bool) -> None:
        """Let an event wait; there must be none with its seq."""
        runs = self._runs.setdefault(event.log, [])
        index = bisect_right(runs, event.seq, key=_first_seq) - 1
        run = runs[index] if index >= 0 else None
        if run is None or run.end_seq != event.seq or (run.session, run.fetched) != (session, fetched):
            run = Run(session, event.seq, time_ms, fetched=fetched)
            runs.insert(index + 1, run)
        run.events.append(event)
        run.keys.append(key)
        self._count(run, len(event.wire))

    def first(self, log: LogId) -> Run | None:
        """The lowest run of a log."""
        runs = self._runs.get(log)
        return runs[0] if runs else None

    def take(self, log: LogId, count_max: int, size_bytes_max: int) -> Run:
        """Take the beginning of the lowest run of a log: at least one event, else no more than the bounds."""
        runs = self._runs[log]
        run = runs[0]
        taken = Run(run.session, run.first_seq, run.since_ms, fetched=run.fetched)
        for event in run.events[:count_max]:
            if taken.events and taken.size_bytes + len(event.wire) > size_bytes_max:
                break
            taken.events.append(event)
            taken.size_bytes += len(event.wire)
        count = len(taken.events)
        taken.keys = run.keys[:count]
        del run.events[:count], run.keys[:count]
        run.first_seq += count
        self._count(run, -taken.size_bytes)
        if not run.events:
            del runs[0]
        if not runs:
            del self._runs[log]
        return taken

    def missing(self, log: LogId, first_seq: int, end_seq: int) -> Iterator[tuple[int, int]]:
        """The ranges between two seqs, as (first, end), of which nothing waits, in order."""
        for run in self._runs.get(log, ()):
            if run.first_seq >= end_seq:
                break
            if run.first_seq > first_seq:
                yield first_seq, run.first_seq
            first_seq = max(first_seq, run.end_seq)
        if first_seq < end_seq:
            yield first_seq, end_seq

    def drop(self, log: LogId) -> list[bytes]:
        """Let no event of a log wait any more; their keys."""
        return self._drop(log, lambda _: True)

    def drop_session(self, session: SessionId) -> list[bytes]:
        """The same of a session that has ended."""
        if session not in self._by_session:
            return []
        return [key for log in self.logs() for key in self._drop(log, lambda run: run.session == session)]

    def drop_older(self, log: LogId, time_ms: int) -> list[bytes]:
        """The same of a log's runs that wait since before ``time_ms``."""
        return self._drop(log, lambda run: run.since_ms < time_ms)

    def _drop(self, log: LogId, which: Callable[[Run], bool]) -> list[bytes]:
        keys: list[bytes] = []
        kept: list[Run] = []
        for run in self._runs.get(log, ()):
            if which(run):
                keys += run.keys
                self._count(run, -run.size_bytes)
            else:
                kept.append(run)
        if kept:
            self._runs[log] = kept
        else:
            self._runs.pop(log, None)
        return keys

    def _count(self, run: Run, size_bytes: int) -> None:
        run.size_bytes += size_bytes
        self.size_bytes += size_bytes
        _add(self._by_session, run.session, size_bytes)
        if not run.fetched:
            self.pushed_bytes += size_bytes
            _add(self._pushed_by, run.session, size_bytes)


def _add(sizes: dict[SessionId, int], session: SessionId, size_bytes: int) -> None:
    left = sizes.get(session, 0) + size_bytes
    if left:
        sizes[session] = left
    else:
        sizes.pop(session, None)


def _first_seq(run: Run) -> int:
    return run.first_seq
