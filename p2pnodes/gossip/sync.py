"""Anti-entropy: how two peers find out that they differ, and bring over what is missing.

1. A digest says what a peer holds, in hashes. It is sent when a session opens, every few seconds to one random session,
   and whenever something was left out on purpose. While the hashes are equal, nothing follows.
2. Where they differ, both send their version vectors.
3. Who finds a log that is longer at the other end wants its next range. A want is the credit for one range frame, so a
   slow reader is sent no more than it asked for; one log is wanted from one peer at a time.
4. Who knows an end of a log that the other one does not tells it the proof (``proving``); where ends are equal and
   heads contradict each other, the point where the branches part is searched (``search``).
"""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from p2pnodes.gossip.backoff import Backoffs
from p2pnodes.gossip.effects import Close, Outbox, Read
from p2pnodes.gossip.frames import (
    EVENTS_PER_FRAME_MAX,
    WANT_BYTES_MAX,
    Digest,
    Entry,
    Mark,
    Range,
    Vector,
    Want,
    vector_parts,
)
from p2pnodes.gossip.intake import Intake
from p2pnodes.gossip.proving import Proving
from p2pnodes.gossip.search import Searches
from p2pnodes.gossip.session import VECTOR_INTERVAL_MS, VECTORS_BURST, Session, SessionId, Wanted
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.errors import LocalProtocolError, RemoteProtocolError
from p2pnodes.model.events import EVENT_BYTES_MAX, LogId
from p2pnodes.store.ledger import LogState, State

DIGEST_INTERVAL_MS: Final = 3_000
"""Mean time between two digests to random sessions; each pause is drawn from two to four thirds of it."""

WANTS_MAX: Final = 4
"""Wants without an answer in one session, each way; WANT_BYTES_MAX for each may lie before a pushed event."""

WANT_MS_MAX: Final = 10_000
"""After this long without an answer a log is wanted from another peer as well."""

STALL_MS: Final = 30_000
"""How long a peer that left a want without an answer, or answered it with nothing, is asked for nothing; and for how
long a log is not wanted from one that answered with less than it could."""

RIVALS_NOTED_MAX: Final = 64
"""Logs of which a session's heads that differ from ours are told to the operator."""

SILENT_MS_MAX: Final = 60_000
"""After this long without an answer to a want, the session is closed."""

STORING_BYTES_MAX: Final = 1 << 20
"""No want while the store has more of a session's events than this to work on."""

SERVE_QUEUE_BYTES_MAX: Final = 1 << 20
"""No range is read while more than this waits to be sent in a session, so that pushed events find room."""


class Sync:
    """The anti-entropy half of the engine; it shares the engine's sessions and effects."""

    def __init__(
        self,
        sessions: Mapping[SessionId, Session],
        *,
        intake: Intake,
        proving: Proving,
        searches: Searches,
        backoffs: Backoffs,
        outbox: Outbox,
        time: Timeline,
        rng: random.Random,
    ) -> None:
        """Work on what the engine hands over; see there."""
        self._sessions = sessions
        self._intake = intake
        self._proving = proving
        self._searches = searches
        self._backoffs = backoffs
        self._outbox = outbox
        self._time = time
        self._rng = rng
        self._fetching: dict[LogId, SessionId] = {}
        self._digest_next_ms = self._later()

    # -- digests and vectors -----------------------------------------------------------------------------------------

    def greet(self, session: Session, state: State, *, asks: bool) -> None:
        """Send a digest."""
        session.digest_due = False
        if asks:
            session.asked_ms = self._time.ms
        digest = Digest(asks, self._time.wall_ms, state.vector_digest, state.state_root, state.electorate_digest)
        self._outbox.send(session, digest.encode())

    def digest(self, session: Session, digest: Digest, state: State) -> None:
        """Take a peer's digest: answer it if it asks, compare it with our own."""
        session.offset_ms = digest.clock_ms - self._time.wall_ms
        if not digest.asks and session.asked_ms is not None:
            session.rtt_ms = self._time.ms - session.asked_ms
            session.offset_ms += session.rtt_ms // 2
            session.asked_ms = None
        session.digest = digest
        if digest.asks and not session.behind:
            self.greet(session, state, asks=False)
        if digest.vector == state.vector_digest:
            if session.equal_at != digest.vector:  # said again, it costs nothing
                session.hear([Entry(log, head, _mark(state, log)) for log, head in state.heads.items()], state)
                session.equal_at = digest.vector
            session.vector_due = False
        else:
            session.vector_due = True
            self.show(session, state)

    def show(self, session: Session, state: State) -> None:
        """Send our vector, if one is due."""
        if not session.vector_due or session.behind or self._time.ms < session.vector_next_ms:
            return
        session.vector_due = False
        session.vector_next_ms = self._time.ms
        for part in vector_parts(_entry(log, state.logs[log]) for log in sorted(state.logs)):
            self._outbox.send(session, part.encode())
            session.vector_next_ms += VECTOR_INTERVAL_MS  # the other end counts parts

    def vector(self, session: Session, vector: Vector, state: State) -> None:
        """Take a part of a peer's vector; the last part starts what it gives rise to.

        Raises:
            RemoteProtocolError: Parts or logs out of order, or too many vectors.
        """
        if not session.vectors.take(self._time.ms):
            raise RemoteProtocolError(
                f"vector: over {VECTORS_BURST} parts at once, one each {VECTOR_INTERVAL_MS} ms is allowed"
            )
        if vector.part == 0:
            session.partial, session.parts = [], 0
        if vector.part != session.parts:
            raise RemoteProtocolError(f"vector: expected part {session.parts}, found part {vector.part}")
        if vector.entries and session.partial and vector.entries[0].log <= session.partial[-1].log:
            raise RemoteProtocolError("vector: its logs are not in ascending order over its parts")
        session.partial.extend(vector.entries)
        session.parts += 1
        if not vector.last:
            return
        entries, session.partial, session.parts = session.partial, [], 0
        session.hear(entries, state)
        self._compare_ends(session, entries, state)
        self.pull(session, state)

    def _compare_ends(self, session: Session, entries: Sequence[Entry], state: State) -> None:
        """Tell a peer of the ends that it does not know; begin searches where only its branch can differ."""
        session.marks_due = False
        for entry in entries:
            held = state.logs.get(entry.log)
            if held is None:
                session.marks_due = session.marks_due or (entry.mark is not None and entry.head is not None)
            # Where marks differ, the lower end is told first; heads are compared when both know the same ends.
            elif Mark.of(held.ends) == entry.mark and (seq := _contradicted(held, entry)) is not None:
                self._rival(session, entry.log, seq)
                self._searches.begin(session, entry.log, seq, claimed=True)
        self._proving.tell(session, state.ends, state)

    def _rival(self, session: Session, log: LogId, seq: int) -> None:
        """A fork, if the peer tells the truth. Nobody signs a vector, so only a search can tell."""
        if log not in session.rivals and len(session.rivals) < RIVALS_NOTED_MAX:
            session.rivals.add(log)
            self._outbox.notice(session, "warning", "heads_differ", log=str(log), seq=seq)

    # -- what we want ------------------------------------------------------------------------------------------------

    def pull(self, session: Session, state: State) -> None:
        """Want what a session's peer holds and we don't, as far as its answers may come now.

        What an observer holds is wanted at ticks, behind what validators do.
        """
        if not session.peer.observer:
            self._pull(session, state, frozenset())

    def _pull(self, session: Session, state: State, spare: Collection[LogId]) -> None:
        """Want what a peer holds, but for the logs in ``spare``."""
        if self._time.ms < session.stalled_until_ms or session.storing_bytes > STORING_BYTES_MAX:
            return
        # The own log first: what others hold of it decides whether it is written on (rule 4).
        for log, seq in sorted(session.ahead.items(), key=lambda ahead: ahead[0] != state.own):
            if len(session.wanted) >= WANTS_MAX:
                return
            first_seq = self._intake.next_seq(log, state)
            held = state.logs.get(log)
            if first_seq > seq:
                if held is not None:  # else it is on its way into the store, and may be refused there
                    del session.ahead[log]
                    session.holds(log, seq)
            elif held is not None and held.cut is not None and first_seq >= held.cut:
                del session.ahead[log]  # nothing that counts is there
            elif self._backoffs.holds(log, self._time.ms):
                del session.ahead[log]  # it comes back with the peer's next vector
            elif log in spare or session.spared.get(log, 0) > self._time.ms:
                continue
            elif self._is_free(log, session) and log not in session.wanted and log not in session.searches:
                session.spared.pop(log, None)
                self._fetching[log] = session.id
                session.wanted[log] = Wanted(first_seq, WANT_BYTES_MAX, self._time.ms, probe=False)
                self._outbox.send(session, Want(log, first_seq, WANT_BYTES_MAX).encode())
        if session.marks_due and not session.ahead and not session.wanted:
            session.marks_due = False
            session.digest_due = True

    def _is_free(self, log: LogId, session: Session) -> bool:
        """Whether nobody fetches a log, or only an observer does and a validator could."""
        fetching = self._fetching.get(log)
        return fetching is None or (self._sessions[fetching].peer.observer and not session.peer.observer)

    def answered(self, session: Session, answer: Range) -> Wanted:
        """Take note of a range; its events are the caller's.

        Returns:
            The want that it answers.

        Raises:
            RemoteProtocolError: Nobody wanted it, or it is larger than its credit.
        """
        wanted = session.wanted.get(answer.log)
        if wanted is None or wanted.first_seq != answer.first_seq:
            raise RemoteProtocolError(f"range: seq {answer.first_seq} of log {answer.log} was not wanted")
        if len(answer.wires) > 1 and sum(map(len, answer.wires)) > wanted.size_bytes:
            raise RemoteProtocolError(f"range: more than the {wanted.size_bytes} bytes that it had credit for")
        del session.wanted[answer.log]
        if wanted.probe:
            return wanted
        self._release(session, answer.log)
        if answer.wires:
            session.stalled_until_ms = 0
            if self._trickles(session, answer):
                session.spared[answer.log] = self._time.ms + STALL_MS
        else:
            session.ahead.pop(answer.log, None)
            session.stalled_until_ms = self._time.ms + STALL_MS
        return wanted

    @staticmethod
    def _trickles(session: Session, answer: Range) -> bool:
        """Whether a range is shorter than it had credit for, and than the peer said that it could be.

        Honest peers fill a range. One that does not could hold a log's only fetch for ever, an event at a time.
        """
        room = WANT_BYTES_MAX - EVENT_BYTES_MAX
        return (
            answer.first_seq + len(answer.wires) <= session.ahead.get(answer.log, -1)
            and len(answer.wires) < EVENTS_PER_FRAME_MAX
            and sum(map(len, answer.wires)) < room
        )

    def _release(self, session: Session, log: LogId) -> None:
        if self._fetching.get(log) == session.id:
            del self._fetching[log]

    def closed(self, session: Session) -> None:
        """Forget a session; what it was asked for is wanted from others at the next tick."""
        for log in session.wanted:
            self._release(session, log)

    # -- what the peer wants -----------------------------------------------------------------------------------------

    def want(self, session: Session, want: Want) -> None:
        """Take a peer's want.

        Raises:
            RemoteProtocolError: It has as many wants without an answer as are allowed, or one for this log.
        """
        if want.log in session.serving or len(session.serving) >= WANTS_MAX:
            raise RemoteProtocolError(f"want: over {WANTS_MAX} without an answer, or a second one for {want.log}")
        session.serving[want.log] = want
        self.serve(session)

    def serve(self, session: Session) -> None:
        """Have the ranges read that a peer waits for, unless too much waits to be sent already."""
        for log, want in session.serving.items():
            if session.queue_bytes > SERVE_QUEUE_BYTES_MAX:
                return
            if log not in session.reading:
                session.reading.add(log)
                self._outbox.add(Read(session.id, log, want.first_seq, want.size_bytes))

    def read(self, session: Session, log: LogId, first_seq: int, wires: list[bytes]) -> None:
        """Send the range that was read.

        Raises:
            LocalProtocolError: The engine did not ask for it.
        """
        want = session.serving.get(log)
        if want is None or log not in session.reading or want.first_seq != first_seq:
            raise LocalProtocolError(f"BUG! seq {first_seq} of log {log} was read, but not for this session")
        del session.serving[log]
        session.reading.remove(log)
        if wires:
            wires = wires[:EVENTS_PER_FRAME_MAX]
            session.holds(log, first_seq + len(wires) - 1)
        session.events_sent += len(wires)
        self._outbox.send(session, Range(log, first_seq, wires).encode())

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, state: State, *, paused: bool) -> list[Close]:
        """Send what is due, give up on answers that are late; the sessions to be closed for being silent."""
        silent: list[Close] = []
        for session in self._sessions.values():
            for log, wanted in session.wanted.items():
                waited_ms = self._time.ms - wanted.asked_ms
                if waited_ms > WANT_MS_MAX:
                    self._release(session, log)
                    session.stalled_until_ms = self._time.ms + STALL_MS
                if waited_ms > SILENT_MS_MAX:
                    silent.append(Close(session.id, f"no answer to a want for {SILENT_MS_MAX // 1000} s", 0.0))
                    break
        if not paused:
            self._compare(state)
            self._searches.tick()
            for session in self._sessions.values():
                self.show(session, state)
                self.pull(session, state)
            self._pull_from_observers(state)
        return silent

    def _pull_from_observers(self, state: State) -> None:
        """Want from observers what no validator that answers says it holds."""
        validators, observers = [], []
        for session in self._sessions.values():
            if not session.peer.observer:
                validators.append(session)
            elif session.ahead or session.marks_due:
                observers.append(session)
        if not observers:
            return
        now_ms = self._time.ms
        theirs = {
            log
            for session in validators
            if session.stalled_until_ms <= now_ms
            for log in session.ahead
            if session.spared.get(log, 0) <= now_ms
        }
        for session in observers:
            self._pull(session, state, theirs)

    def _compare(self, state: State) -> None:
        open_ones = [session for session in self._sessions.values() if not session.behind]
        if open_ones and self._time.ms >= self._digest_next_ms:
            self._digest_next_ms = self._later()
            self._rng.choice(open_ones).digest_due = True
        for session in open_ones:
            if session.digest_due:
                self.greet(session, state, asks=True)

    def _later(self) -> int:
        """When the next random session has its turn; jittered, so that peers don't fall into step."""
        return self._time.ms + round(DIGEST_INTERVAL_MS * self._rng.uniform(2 / 3, 4 / 3))


def _mark(state: State, log: LogId) -> Mark | None:
    ends = state.ends.get(log)
    return None if ends is None else Mark.of(ends)


def _entry(log: LogId, held: LogState) -> Entry:
    return Entry(log, held.counted, Mark.of(held.ends))


def _contradicted(held: LogState, entry: Entry) -> int | None:
    """The seq at which a peer says that it counts another event than we hold; None where it says no such thing.

    Events of ours are known here by their ids at our head and below our cut. What a peer counts elsewhere above our cut
    is looked at: where both know the same ends, it can only lie on another branch.
    """
    head, counted = entry.head, held.counted
    if head is None or head.seq > held.head.seq:
        return None
    if head.seq == held.head.seq:
        differs = head.id != held.head.id
    elif counted is not None and head.seq == counted.seq:
        differs = head.id != counted.id
    else:
        differs = counted is None or counted.seq < head.seq
    return head.seq if differs else None
