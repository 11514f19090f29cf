"""Which of the events that peers send go to the store: each once, and only what can follow on what is there."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from p2pnodes.gossip.backoff import Backoffs
from p2pnodes.gossip.session import Pending, Session
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codec import digest
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.ledger import Outcome, Result, State

SEEN_MAX: Final = 16_384
"""Events remembered as being stored or just stored; one that was forgotten is a duplicate that the store finds."""

KEY_BYTES: Final = 16


class Sifted(NamedTuple):
    """What a frame of events comes to.

    Attributes:
        fresh: What is to be stored.
        gaps: Logs of which an event before the one received is missing -> seq of the latter.
    """

    fresh: Pending
    gaps: dict[LogId, int]


class Intake:
    """Remembers what the store works on or has just stored, over all sessions.

    Events are told apart by a hash of all their bytes, not by their id: a copy with a broken signature, sent first by a
    liar, must not keep the true event out.
    """

    def __init__(self, network_id: bytes, backoffs: Backoffs, time: Timeline) -> None:
        """Take events of one network, but none of logs that were refused just now."""
        self._network_id = network_id
        self._backoffs = backoffs
        self._time = time
        self._seen: dict[bytes, tuple[LogId, int]] = {}
        self._flying: dict[LogId, int] = {}
        """Highest seq of a log that the store works on."""

    def next_seq(self, log: LogId, state: State) -> int:
        """The seq of a log that neither is stored nor on its way into the store."""
        held = state.logs.get(log)
        return max(held.head.seq if held else -1, self._flying.get(log, -1)) + 1

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
        return self._arrange(fresh, state)

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

    def _arrange(self, fresh: list[tuple[bytes, Event]], state: State) -> Sifted:
        events: list[Event] = []
        keys: list[bytes] = []
        gaps: dict[LogId, int] = {}
        size = 0
        for key, event in fresh:
            if self._backoffs.refuses(event.log, self._time.ms):
                continue
            following = self.next_seq(event.log, state)
            if event.seq > following:
                gaps[event.log] = max(event.seq, gaps.get(event.log, 0))
                continue
            if event.seq == following:
                self._flying[event.log] = event.seq
            self._remember(key, event)
            events.append(event)
            keys.append(key)
            size += len(event.wire)
        return Sifted(Pending(tuple(events), tuple(keys), size), gaps)

    def settle(self, batch: Pending, outcomes: Sequence[Outcome] | None) -> None:
        """Take the store's answer to a batch; None when it stored nothing, or nobody will know."""
        if batch.probe:
            return
        for index, (key, event) in enumerate(zip(batch.keys, batch.events, strict=True)):
            if outcomes is not None and outcomes[index].result in {Result.STORED, Result.KNOWN}:
                if self._flying.get(event.log) == event.seq:
                    del self._flying[event.log]
            else:
                self._flying.pop(event.log, None)
                self._seen.pop(key, None)

    def note(self, events: Sequence[Event]) -> None:
        """Remember own events, so that their echoes are duplicates."""
        for event in events:
            self._remember(digest(event.wire, KEY_BYTES), event)

    def _remember(self, key: bytes, event: Event) -> None:
        self._seen[key] = event.log, event.seq
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
