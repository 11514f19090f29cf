"""Anti-entropy: how two peers find out where they differ, and who serves what the other one lacks.

1. A digest says what a peer holds, in hashes. It is sent when a session opens, now and then to one random session
   (``pace``), and whenever something was left out on purpose. While the hashes are equal, nothing follows.
2. Where they differ, both send the hashes of their vectors' slices, and answer those with what they have in the slices
   that differ. So what it costs follows from what differs, not from what there is.
3. Who finds a log that is longer at the other end fetches what is missing (``fetch``). A want is the credit for one
   range frame, so a slow reader is sent no more than it asked for.
4. Who knows an end of a log that the other one does not tells it the proof (``proving``); where ends are equal and
   heads contradict each other, the point where the branches part is searched (``search``).
"""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from p2pnodes.gossip.effects import Outbox, Read
from p2pnodes.gossip.fetch import WANTS_MAX, Fetch
from p2pnodes.gossip.frames import Digest, Entry, Mark, Range, Slices, Vector, Want, covers, scope_of, vector_parts
from p2pnodes.gossip.intake import Intake
from p2pnodes.gossip.pace import Pace
from p2pnodes.gossip.proving import Proving
from p2pnodes.gossip.rates import WANTS
from p2pnodes.gossip.search import Searches
from p2pnodes.gossip.session import KNOWN_MAX, UNKNOWN_LOGS_MAX, VECTOR_INTERVAL_MS, Session, SessionId
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import LocalProtocolError, RemoteProtocolError
from p2pnodes.model.events import LogId
from p2pnodes.store.state import LogState, State
from p2pnodes.store.vector import SLICES, slice_of

RIVALS_NOTED_MAX: Final = 64
"""Logs of which a session's heads that differ from ours are told to the operator."""

SERVE_QUEUE_BYTES_MAX: Final = 256 * 1024
"""No range is read while more than this waits to be sent in a session, so that little lies before a pushed event."""


class Sync:
    """The anti-entropy half of the engine; it shares the engine's sessions and effects."""

    def __init__(
        self,
        sessions: Mapping[SessionId, Session],
        *,
        intake: Intake,
        fetch: Fetch,
        proving: Proving,
        searches: Searches,
        pace: Pace,
        outbox: Outbox,
        time: Timeline,
        rng: random.Random,
    ) -> None:
        """Work on what the engine hands over; see there."""
        self._sessions = sessions
        self._intake = intake
        self._fetch = fetch
        self._proving = proving
        self._searches = searches
        self._pace = pace
        self._outbox = outbox
        self._time = time
        self._rng = rng

    # -- digests and vectors -----------------------------------------------------------------------------------------

    def greet(self, session: Session, state: State, *, asks: bool) -> None:
        """Send a digest."""
        session.digest_due = False
        if asks:
            session.asked_ms = self._time.ms
        hashes = state.vector_digest, state.state_root, state.electorate_digest
        self._outbox.send(session, Digest(asks, self._time.wall_ms, *hashes, state.settled).encode())

    def digest(self, session: Session, digest: Digest, state: State) -> None:
        """Take a peer's digest: answer it if it asks, compare it with our own."""
        session.clock_ms = digest.clock_ms - self._time.ms
        if not digest.asks and session.asked_ms is not None:
            session.rtt_ms = self._time.ms - session.asked_ms
            session.clock_ms += session.rtt_ms // 2
            session.asked_ms = None
        session.digest = digest
        if digest.asks and not session.behind:
            self.greet(session, state, asks=False)
        if digest.vector == state.vector_digest:
            session.slices_due = False
            session.vector_due.clear()
            self._agree(session, range(SLICES), state)
        else:
            self._pace.trouble()
            session.slices_due = True
            self.show(session, state)

    def slices(self, session: Session, frame: Slices, state: State) -> None:
        """Take the hashes of a peer's slices: those that differ are listed to it."""
        differing = {number for number, theirs in enumerate(frame.digests) if theirs != state.slices[number]}
        self._agree(session, set(range(SLICES)) - differing, state)
        if not state.loading:  # what is here then, others would take for what is held and can be fetched
            session.vector_due = differing
        self.show(session, state)

    def _agree(self, session: Session, slices: Collection[int], state: State) -> None:
        session.agrees(slices, state)
        if session.known:
            session.forget_known(state, self._intake.is_flying)

    def show(self, session: Session, state: State) -> None:
        """Send the hashes of our slices, and our vector, as far as they are due."""
        if session.behind:
            return
        if session.slices_due and self._time.ms >= session.slices_next_ms:
            session.slices_due = False
            session.slices_next_ms = self._time.ms + VECTOR_INTERVAL_MS
            self._outbox.send(session, Slices(state.slices).encode())
        if session.vector_due and self._time.ms >= session.vector_next_ms:
            due, session.vector_due = session.vector_due, set()
            listed = sorted(log for log, held in state.logs.items() if slice_of(log) in due and not held.displaced)
            session.vector_next_ms = self._time.ms
            for part in vector_parts(scope_of(due), (_entry(log, state.logs[log]) for log in listed)):
                self._outbox.send(session, part.encode())
                session.vector_next_ms += VECTOR_INTERVAL_MS  # the other end counts parts

    def vector(self, session: Session, vector: Vector, state: State) -> None:
        """Take a part of a peer's vector; the last part starts what it gives rise to.

        Raises:
            RemoteProtocolError: Parts or logs out of order, or parts of different scopes.
        """
        if vector.part == 0:
            session.partial, session.parts, session.scope, session.last_log = [], 0, vector.scope, None
        if vector.part != session.parts:
            raise RemoteProtocolError(f"vector: expected part {session.parts}, found part {vector.part}")
        if vector.scope != session.scope:
            raise RemoteProtocolError("vector: its parts have different scopes")
        if vector.entries:
            if session.last_log is not None and vector.entries[0].log <= session.last_log:
                raise RemoteProtocolError("vector: its logs are not in ascending order over its parts")
            session.last_log = vector.entries[-1].log
        room = UNKNOWN_LOGS_MAX - sum(entry.log not in state.logs for entry in session.partial)
        for entry in vector.entries:  # logs that nobody has heard of cost their inventor nothing, and us little
            if entry.log in state.logs or room > 0:
                room -= entry.log not in state.logs
                session.partial.append(entry)
        session.parts += 1
        if not vector.last:
            return
        entries, session.partial, session.parts = session.partial, [], 0
        session.hear(entries, {number for number in range(SLICES) if covers(vector.scope, number)}, state)
        self._compare_ends(session, entries, state)
        self._fetch.pull(session, state)

    def _compare_ends(self, session: Session, entries: Sequence[Entry], state: State) -> None:
        """Tell a peer of the ends that it does not know; begin searches where only its branch can differ."""
        session.marks_due = False
        differing: list[LogId] = []
        for entry in entries:
            held = state.logs.get(entry.log)
            if held is None:
                session.marks_due = session.marks_due or (entry.mark is not None and entry.head is not None)
            elif Mark.of(held.ends) != entry.mark:
                differing.append(entry.log)
            # Where marks differ, the lower end is told first; heads are compared when both know the same ends.
            elif (seq := _contradicted(held, entry)) is not None:
                self._rival(session, entry.log, seq)
                self._searches.begin(session, entry.log, seq, claimed=True)
        self._proving.tell(session, [log for log in differing if log in state.ends], state)

    def _rival(self, session: Session, log: LogId, seq: int) -> None:
        """A fork, if the peer tells the truth. Nobody signs a vector, so only a search can tell."""
        if log not in session.rivals and len(session.rivals) < RIVALS_NOTED_MAX:
            session.rivals.add(log)
            self._outbox.notice(session, "warning", "heads_differ", log=str(log), seq=seq, code=Code.EVENT_HEADS_DIFFER)

    # -- what the peer wants -----------------------------------------------------------------------------------------

    def want(self, session: Session, want: Want) -> None:
        """Take a peer's want.

        Raises:
            RemoteProtocolError: It has as many wants without an answer as are allowed, or one from this seq on.
        """
        key = want.log, want.first_seq
        if key in session.serving or len(session.serving) >= WANTS_MAX:
            raise RemoteProtocolError(
                f"want: over {WANTS_MAX} without an answer, or a second one of seq {want.first_seq} of {want.log}"
            )
        session.serving[key] = want
        self.serve(session)

    def serve(self, session: Session) -> None:
        """Have the ranges read that a peer waits for, unless too much waits to be sent or it asks too often."""
        for key, want in session.serving.items():
            if session.queue_bytes > SERVE_QUEUE_BYTES_MAX:
                return
            if key not in session.reading:
                if not session.rates.take(WANTS, self._time.ms):
                    return
                session.reading.add(key)
                self._outbox.add(Read(session.id, want.log, want.first_seq, want.size_bytes, want.count_max))

    def read(self, session: Session, log: LogId, first_seq: int, wires: list[bytes]) -> None:
        """Send the range that was read.

        Raises:
            LocalProtocolError: The engine did not ask for it.
        """
        key = log, first_seq
        want = session.serving.get(key)
        if want is None or key not in session.reading:
            raise LocalProtocolError(
                f"BUG! seq {first_seq} of log {log} was read, but not for this session", code=Code.SYSTEM_BUG
            )
        del session.serving[key]
        session.reading.remove(key)
        wires = wires[: want.count_max]
        if wires:
            session.holds(log, first_seq + len(wires) - 1)
        session.events_sent += len(wires)
        self._outbox.send(session, Range(log, first_seq, wires).encode())

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, state: State) -> None:
        """Send what is due."""
        open_ones = [session for session in self._sessions.values() if not session.behind]
        for session in open_ones:
            if session.digest_due:
                self._pace.trouble()
                self.greet(session, state, asks=True)
        # Anybody can be an observer: silent ones must not take the turns of validators. They ask at their own pace.
        asked = [session for session in open_ones if not session.peer.observer] or open_ones
        if asked and self._pace.due(len(asked)):
            self.greet(self._rng.choice(asked), state, asks=True)
        self._searches.tick()
        for session in self._sessions.values():
            self.show(session, state)
            self.serve(session)
            if len(session.known) > KNOWN_MAX:
                session.forget_known(state, self._intake.is_flying)


def _entry(log: LogId, held: LogState) -> Entry:
    return Entry(log, held.counted, Mark.of(held.ends))


def _contradicted(held: LogState, entry: Entry) -> int | None:
    """The seq at which a peer says that it counts another event than we hold; None where it says no such thing.

    Events of ours are known here by their ids at our head and below our cut. What a peer counts elsewhere above our cut
    is looked at: where both know the same ends, it can only lie on another branch.
    """
    head, counted = entry.head, held.counted
    if head is None or head.seq > held.head.seq or held.displaced:
        return None
    if head.seq == held.head.seq:
        differs = head.id != held.head.id
    elif counted is not None and head.seq == counted.seq:
        differs = head.id != counted.id
    else:
        differs = counted is None or counted.seq < head.seq
    return head.seq if differs else None
