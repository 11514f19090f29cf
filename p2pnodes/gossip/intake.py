"""Which of the events that peers send go to the store: each once, and only what can follow on what is there.

Pushed events that follow go there at once. Those with something missing before them, and all that was fetched, wait in
``gaps`` until it is their turn; ``fetch`` sees to that.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from p2pnodes.gossip.backoff import Backoffs
from p2pnodes.gossip.frames import EVENTS_PER_FRAME_MAX
from p2pnodes.gossip.gaps import Gaps, Run
from p2pnodes.gossip.rates import STALE, STRANGERS, AuthorRates
from p2pnodes.gossip.session import Pending, Session, SessionId
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codec import digest
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.state import Outcome, Result, State

SEEN_MAX: Final = 16_384
"""Events remembered as being stored or just stored; one that was forgotten is a duplicate that the store finds."""

KEY_BYTES: Final = 16

BLOCK: Final = EVENTS_PER_FRAME_MAX
"""Seqs of a log that are fetched from one peer at a time, 0 to 511, 512 to 1,023 and so on: what one range may hold."""

FETCH_AHEAD: Final = 8
"""Blocks of a log, from the first that is missing on, of which events may wait for their turn."""

GAP_BYTES_MAX: Final = 1 << 20
"""Pushed events that may wait for what is missing before them, in all."""

GAP_SHARE_BYTES_MAX: Final = GAP_BYTES_MAX // 4
"""The same of one session: a liar can fill no more of it than this."""


_LEFT_ALONE: Final = frozenset({Result.FORK, Result.REFUSED, Result.AHEAD})
"""After these a log is left alone for a while, so that nothing of it comes to its turn."""


class Sifted(NamedTuple):
    """What a frame of events comes to.

    Attributes:
        fresh: What is to be stored.
        gaps: Logs of which a pushed event is not stored now, because one before it is missing or is on its way, or its
            author writes more than may be pushed -> seq of the highest such.
        waiting: Logs of which events were put into ``gaps.Gaps``.
        foreseen: What will be stored, now or when its turn comes. What was pushed before its turn is left out: nobody
            has asked for it, and it may never have one.
    """

    fresh: Pending
    gaps: dict[LogId, int]
    waiting: Collection[LogId]
    foreseen: tuple[Event, ...]


class Intake:
    """Remembers what the store works on or has just stored, over all sessions.

    Events are told apart by a hash of all their bytes, not by their id: a copy with a broken signature, sent first by a
    liar, must not keep the true event out.
    """

    def __init__(self, network_id: bytes, backoffs: Backoffs, authors: AuthorRates, gaps: Gaps, time: Timeline) -> None:
        """Take events of one network, but none of logs that were refused just now."""
        self._network_id = network_id
        self._backoffs = backoffs
        self._authors = authors
        self._gaps = gaps
        self._time = time
        self._seen: dict[bytes, tuple[LogId, int]] = {}
        self._flying: dict[LogId, tuple[int, SessionId]] = {}
        """Highest seq of a log that the store works on, and the session whose batch it is in."""

    def next_seq(self, log: LogId, state: State) -> int:
        """The seq of a log that neither is stored nor on its way into the store."""
        held = state.logs.get(log)
        flying = self._flying.get(log)
        return max(held.head.seq if held else -1, flying[0] if flying else -1) + 1

    def is_flying(self, log: LogId) -> bool:
        """Whether the store works on events of a log."""
        return log in self._flying

    def may_follow(self, log: LogId, session: SessionId) -> bool:
        """Whether a session's events of a log come to the store behind all that it works on of this log.

        Only the batches of one session keep their order.
        """
        flying = self._flying.get(log)
        return flying is None or flying[1] == session

    def flies(self, run: Run, log: LogId, state: State) -> None:
        """Note that a run, whose turn it is, goes to the store."""
        if run.end_seq > self.next_seq(log, state):
            self._flying[log] = run.end_seq - 1, run.session

    def sift(
        self, session: Session, wires: Sequence[bytes], state: State, expected: tuple[LogId, int] | None = None
    ) -> Sifted:
        """Decode what is new; the caller must store it and then call ``settle``.

        Args:
            session: Where the events come from.
            wires: Events as received.
            state: What is stored.
            expected: Log and seq that the first event must have, the others following; None when any may come.

        Raises:
            RemoteProtocolError: An event is malformed, of another network, or not the expected one; nothing changed.
        """
        fresh: list[tuple[bytes, Event]] = []
        for index, wire in enumerate(wires):
            key = digest(wire, KEY_BYTES)
            seen = self._seen.get(key)
            if seen is None:
                event = Event.decode(wire)
                self._check_network(event)
                fresh.append((key, event))
            if expected is not None:
                log, seq = seen or (fresh[-1][1].log, fresh[-1][1].seq)
                if (log, seq) != (expected[0], expected[1] + index):
                    raise RemoteProtocolError(
                        f"range: expected seq {expected[1] + index} of log {expected[0]}, found {seq} of {log}"
                    )
            if seen is not None:
                session.duplicates += 1
                if seen[0] in state.logs:
                    session.holds(*seen)
        return self._arrange(session, fresh, state, pushed=expected is None)

    def single(self, wire: bytes, log: LogId, seq: int) -> Event:
        """Decode one event that is to be looked at, whether it is stored here or not; nothing is remembered of it.

        Raises:
            RemoteProtocolError: It is malformed, of another network, or not the one that was asked for.
        """
        event = Event.decode(wire)
        self._check_network(event)
        if (event.log, event.seq) != (log, seq):
            raise RemoteProtocolError(f"range: expected seq {seq} of log {log}, found {event.seq} of {event.log}")
        return event

    def _check_network(self, event: Event) -> None:
        if event.network_id != self._network_id:
            raise RemoteProtocolError(
                f"an event of network {event.network_id.hex()}: expected {self._network_id.hex()}"
            )

    def _arrange(self, session: Session, fresh: list[tuple[bytes, Event]], state: State, *, pushed: bool) -> Sifted:
        events: list[Event] = []
        keys: list[bytes] = []
        gaps: dict[LogId, int] = {}
        waiting: set[LogId] = set()
        over: set[LogId] = set()
        foreseen: list[Event] = []
        size = 0
        for key, event in fresh:
            log, seq = event.log, event.seq
            if self._backoffs.refuses(log, self._time.ms):
                continue
            following = self.next_seq(log, state)
            if seq < following:  # a rival, or a copy of what was forgotten: the store can tell
                if pushed and not session.rates.take(STALE, self._time.ms):
                    continue
            elif not pushed:
                if not self._gaps.has(log, seq):
                    self._wait(session, key, event, waiting, pushed=False)
                    foreseen.append(event)
                continue
            elif log in over or not self._is_live(session, event, state):
                over.add(log)  # what follows on it in this frame does not follow on what is here
                gaps[log] = seq
                continue
            elif seq > following or not self.may_follow(log, session.id) or self._gaps.has(log, seq):
                if self._has_room(session, event, state):
                    self._wait(session, key, event, waiting, pushed=True)
                gaps[log] = max(seq, gaps.get(log, 0))
                continue
            else:
                self._flying[log] = seq, session.id
            self._remember(key, event)
            foreseen.append(event)
            events.append(event)
            keys.append(key)
            size += len(event.wire)
        return Sifted(Pending(tuple(events), tuple(keys), size), gaps, waiting, tuple(foreseen))

    def _wait(self, session: Session, key: bytes, event: Event, waiting: set[LogId], *, pushed: bool) -> None:
        self._gaps.put(session.id, key, event, self._time.ms, fetched=not pushed)
        self._remember(key, event)
        waiting.add(event.log)

    def _has_room(self, session: Session, event: Event, state: State) -> bool:
        """Whether a pushed event may wait for those before it; of logs that are not held none does."""
        size = len(event.wire)
        return (
            event.log in state.logs
            and event.seq < (self.next_seq(event.log, state) // BLOCK + FETCH_AHEAD) * BLOCK
            and not self._gaps.has(event.log, event.seq)
            and self._gaps.room_ahead_bytes >= size
            and self._gaps.pushed_bytes + size <= GAP_BYTES_MAX
            and self._gaps.pushed_by(session.id) + size <= GAP_SHARE_BYTES_MAX
        )

    @property
    def kept_bytes(self) -> int:
        """What ranges leave for pushed events that have to wait, less what these have: the share of one session."""
        return max(0, GAP_SHARE_BYTES_MAX - self._gaps.pushed_bytes)

    def _is_live(self, session: Session, event: Event, state: State) -> bool:
        """Whether an event that could be next is taken in as it was pushed; else it is fetched, when there is time."""
        held = state.logs.get(event.log)
        if held is None:
            return session.rates.take(STRANGERS, self._time.ms)
        return self._authors.allow(held.hotkey, event, self._time.ms)

    def settle(self, batch: Pending, outcomes: Sequence[Outcome] | None) -> set[LogId]:
        """Take the store's answer to a batch; None when it stored nothing, or nobody will know.

        Returns:
            Logs of which an event is given up: it may come again.
        """
        given_up: set[LogId] = set()
        if batch.probe:
            return given_up
        for index, (key, event) in enumerate(zip(batch.keys, batch.events, strict=True)):
            if outcomes is not None and outcomes[index].result in {Result.STORED, Result.KNOWN}:
                flying = self._flying.get(event.log)
                if flying is not None and flying[0] == event.seq:
                    del self._flying[event.log]
            else:
                given_up.add(event.log)
                self._flying.pop(event.log, None)
                self._seen.pop(key, None)
                if outcomes is not None and outcomes[index].result in _LEFT_ALONE:
                    self.forget(self._gaps.drop(event.log))
        return given_up

    def forget(self, keys: Iterable[bytes]) -> None:
        """Forget events that wait no more, though they were not stored: they may come again."""
        for key in keys:
            self._seen.pop(key, None)

    def note(self, events: Sequence[Event]) -> None:
        """Remember own events, so that their echoes are duplicates."""
        for event in events:
            self._remember(digest(event.wire, KEY_BYTES), event)

    def _remember(self, key: bytes, event: Event) -> None:
        self._seen[key] = event.log, event.seq
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
