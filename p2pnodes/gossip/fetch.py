"""Fetching: what peers hold and we lack comes over in ranges, from several of them at once, and each event once.

1. A log is cut into blocks of 512 seqs; each block is wanted from one session at a time, several blocks of a long log
   from different ones. What waits here already is not wanted.
2. A want is the credit for one range. All credit, all that came before its turn and all that the store works on of it
   stay within ``gaps.CATCHUP_BYTES_MAX``, over all sessions: millions of events need no more memory than a thousand.
3. Ranges go to the store in order, a little at a time: a live event, which goes there at once, waits behind no more
   than LANE_BYTES_MAX.
4. A session that promises and does not serve, serves late, or bit by bit, is spared, and another one asked.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from p2pnodes.gossip.backoff import Backoffs
from p2pnodes.gossip.effects import Close, Foresee, Outbox, Store
from p2pnodes.gossip.frames import WANT_BYTES_MAX, Range, Want
from p2pnodes.gossip.gaps import WAITING_MS_MAX, Gaps
from p2pnodes.gossip.intake import BLOCK, FETCH_AHEAD, Intake, Sifted
from p2pnodes.gossip.session import Pending, Session, SessionId, Wanted
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import EVENT_BYTES_MAX, LogId
from p2pnodes.store.state import Outcome, State

WANTS_MAX: Final = 4
"""Wants without an answer in one session, each way; WANT_BYTES_MAX for each may lie before a pushed event."""

WANT_BYTES_MIN: Final = 2 * EVENT_BYTES_MAX
"""Least credit of a want for several events: with less, one that is not filled could not be told from one that is."""

SHARES: Final = 4
"""A session has a want with its minimum of credit if there is room, and more only up to this part of what is left: so
seven sessions that take all they get, and never answer, leave an eighth one its want."""

NO_CREDIT_MAX: Final = 16
"""Logs for which there is too little credit, before a session's others are not looked at: what is live comes first, and
the rest has its turn when credit comes back. Peers name thousands of logs, and each frame of theirs, and each tick,
would go through all."""

WANT_MS_MAX: Final = 10_000
"""After this long without an answer a range is wanted from another peer as well."""

LIVE_WANT_MS_MAX: Final = 900
"""The same for what is announced just now, where another peer announces it, too: below ``push.GRAFT_AGAIN_MS``, after
which that one is asked. A peer that only announces then delays a live event by about a second."""

STALL_MS: Final = 30_000
"""How long a peer that left a want without an answer, or answered it with nothing, is asked for nothing; and for how
long a log is not wanted from one that answered with less than it could."""

SILENT_MS_MAX: Final = 60_000
"""After this long without an answer to a want, the session is closed."""

STORING_BYTES_MAX: Final = 1 << 20
"""No want while the store has more of a session's events than this to work on."""

LANE_BYTES_MAX: Final = 128 * 1024
"""Fetched events that the store works on at once, over all sessions; one larger event goes alone."""

LANE_EVENTS_MAX: Final = 64
"""The same in number: a live event waits for as many, some 25 ms on a slow core. Four times as many come over no
faster, and let live events wait four times as long (tests.bench catchup)."""


class Fetch:
    """The half of the engine that brings over what is missing; it shares the engine's sessions and effects."""

    def __init__(
        self,
        sessions: Mapping[SessionId, Session],
        *,
        intake: Intake,
        gaps: Gaps,
        backoffs: Backoffs,
        trouble: Callable[[], None],
        held_back: Callable[[State], bool],
        outbox: Outbox,
        time: Timeline,
    ) -> None:
        """Work on what the engine hands over.

        Args:
            sessions: The engine's, and so for the rest.
            intake: See there.
            gaps: See there.
            backoffs: See there.
            trouble: Told that something was missing.
            held_back: Whether nothing is to be wanted now.
            outbox: Collects effects.
            time: The engine's.
        """
        self._sessions = sessions
        self._intake = intake
        self._gaps = gaps
        self._backoffs = backoffs
        self._trouble = trouble
        self._held_back = held_back
        self._outbox = outbox
        self._time = time
        self._wanted_from: dict[tuple[LogId, int], SessionId] = {}
        """Blocks, by log and number, that are under way."""
        self._turns: dict[LogId, None] = {}
        """Logs whose first waiting event may be next, the one that waits longest first."""
        self._lane_bytes = 0
        self._lane_events = 0

    @property
    def under_way_bytes(self) -> int:
        """Credit, what waits, and what the store works on: never above ``gaps.CATCHUP_BYTES_MAX``."""
        return self._gaps.size_bytes + self._gaps.lent_bytes

    # -- what we want ------------------------------------------------------------------------------------------------

    def announced(self, session: Session, log: LogId, seq: int, state: State) -> None:
        """Want what a peer announced, and what did not come from anybody else (``push``)."""
        self._trouble()
        self._lacks(session, log, seq, state)
        self._leave_to_others(log, seq, state)
        self.pull(session, state)

    def _lacks(self, session: Session, log: LogId, seq: int, state: State) -> None:
        """Note that a peer holds something live that we lack: it is wanted before logs that lack a long history."""
        session.is_ahead(log, seq, state)
        if session.ahead.get(log, -1) - self._intake.next_seq(log, state) in range(BLOCK):
            session.ahead.move_to_end(log, last=False)

    def _leave_to_others(self, log: LogId, seq: int, state: State) -> None:
        """Take what is next of a log from a peer that has had time for it: a live event waits for nobody that long.

        One that lies behind a range that is wanted is not live yet: a slow link must not have the range come twice.
        """
        block = self._intake.next_seq(log, state) // BLOCK
        number = self._wanted_from.get((log, block))
        if number is None:
            return
        asked = self._sessions[number]
        for (each, first_seq), wanted in list(asked.wanted.items()):  # part of it may have come by the tree meanwhile
            if each != log or first_seq // BLOCK != block or wanted.late or wanted.probe:
                continue
            if seq < first_seq + wanted.count_max and self._time.patient_ms - wanted.asked_ms >= LIVE_WANT_MS_MAX:
                self._give_up(asked, log, first_seq, wanted)
                asked.wanted[log, first_seq] = wanted._replace(late=True)

    def pull(self, session: Session, state: State) -> None:
        """Want what a session's peer holds and we don't, as far as its answers may come now.

        What an observer holds is wanted at ticks, behind what validators do.
        """
        if not session.peer.observer:
            self._pull(session, state, frozenset())

    def _pull(self, session: Session, state: State, spare: Collection[LogId]) -> None:
        """Want what a peer holds, but for the logs in ``spare``."""
        if not session.ahead and not session.marks_due:
            return  # almost always
        if self._held_back(state):
            return
        if self._time.ms < session.stalled_until_ms or session.storing_bytes > STORING_BYTES_MAX:
            return
        if not self._may_want(session):
            return
        long: list[LogId] = []
        no_credit = 0
        for log in self._lacking(session, state, spare):
            if not self._may_want(session):
                return
            following = self._intake.next_seq(log, state)
            if not self._want(session, log, following // BLOCK, state):
                no_credit += 1
                if no_credit >= NO_CREDIT_MAX:
                    return
            if session.ahead[log] // BLOCK > following // BLOCK:
                long.append(log)
        for log in long:
            first = self._intake.next_seq(log, state) // BLOCK
            for block in range(first + 1, first + FETCH_AHEAD):
                if not self._may_want(session) or not self._want(session, log, block, state):
                    return
        if session.marks_due and not session.ahead and not session.wanted:
            session.marks_due = False
            session.digest_due = True

    def _may_want(self, session: Session) -> bool:
        return len(session.wanted) < WANTS_MAX and self._credit(session, 1, is_next=True) > 0

    def _lacking(self, session: Session, state: State, spare: Collection[LogId]) -> Iterator[LogId]:
        """Logs of which a peer may be asked now for what it holds and we don't; tidies up what is no such thing."""
        # The own log first: what others hold of it decides whether it is written on (rule 4).
        own = [state.own] if state.own is not None and state.own in session.ahead else []
        for log in chain(own, (log for log in list(session.ahead) if log != state.own)):
            following = self._intake.next_seq(log, state)
            held = state.logs.get(log)
            if following > session.ahead[log]:
                if held is not None:  # else it is on its way into the store, and may be refused there
                    session.holds(log, session.ahead.pop(log))
            elif held is not None and held.cut is not None and following >= held.cut:
                del session.ahead[log]  # nothing that counts is there
            elif self._backoffs.holds(log, self._time.ms):
                del session.ahead[log]  # it comes back with the peer's next word
            elif log in spare or session.spared.get(log, 0) > self._time.ms or log in session.searches:
                continue
            else:
                session.spared.pop(log, None)
                yield log

    def _want(self, session: Session, log: LogId, block: int, state: State) -> bool:
        """Want the first range of a block that is missing and that nobody is asked for; False where credit lacks."""
        if not self._is_free(session, log, block):
            return True
        following = self._intake.next_seq(log, state)
        held = state.logs.get(log)
        end_seq = min(session.ahead[log] + 1, (block + 1) * BLOCK)
        if held is not None and held.cut is not None:
            end_seq = min(end_seq, held.cut)  # above it nothing counts
        missing = next(self._gaps.missing(log, max(following, block * BLOCK), end_seq), None)
        if missing is None:
            return True
        first_seq, end_seq = missing
        count = end_seq - first_seq
        is_next = first_seq == following
        size_bytes = self._credit(session, count, is_next=is_next)
        if not size_bytes:
            return False
        if (log, first_seq) in session.wanted:
            return True
        session.ahead.move_to_end(log)  # others have their turn
        self._wanted_from[log, block] = session.id
        self._gaps.lent_bytes += size_bytes
        self._gaps.ahead_bytes += 0 if is_next else size_bytes
        session.wanted[log, first_seq] = Wanted(count, size_bytes, self._time.patient_ms, ahead=not is_next)
        self._outbox.send(session, Want(log, first_seq, count, size_bytes).encode())
        return True

    def _is_free(self, session: Session, log: LogId, block: int) -> bool:
        """Whether nobody is asked for a block, or only an observer is and a validator could be."""
        number = self._wanted_from.get((log, block))
        return number is None or (self._sessions[number].peer.observer and not session.peer.observer)

    def _credit(self, session: Session, count: int, *, is_next: bool) -> int:
        """Credit that a want may give now; 0 when there is too little left."""
        lent = sum(wanted.size_bytes for wanted in session.wanted.values() if not (wanted.late or wanted.probe))
        # What waits for the range that is wanted must not keep its session from bringing it.
        has = lent if is_next else lent + self._gaps.bytes_of(session.id)
        share = max(WANT_BYTES_MIN, (self._gaps.room_bytes + has) // SHARES) - has
        room = self._gaps.room_bytes if is_next else self._gaps.room_ahead_bytes - self._intake.kept_bytes
        most = min(WANT_BYTES_MAX, count * EVENT_BYTES_MAX)
        size_bytes = min(most, room, share)
        return size_bytes if size_bytes >= min(most, WANT_BYTES_MIN) else 0

    def answered(self, session: Session, answer: Range) -> Wanted:
        """Take note of a range; its events are the caller's.

        Returns:
            The want that it answers.

        Raises:
            RemoteProtocolError: Nobody wanted it, or it is larger than its credit.
        """
        wanted = session.wanted.get((answer.log, answer.first_seq))
        if wanted is None:
            raise RemoteProtocolError(f"range: seq {answer.first_seq} of log {answer.log} was not wanted")
        size_bytes = sum(map(len, answer.wires))
        if len(answer.wires) > 1 and size_bytes > wanted.size_bytes:
            raise RemoteProtocolError(f"range: more than the {wanted.size_bytes} bytes that it had credit for")
        if len(answer.wires) > wanted.count_max:
            raise RemoteProtocolError(f"range: more than the {wanted.count_max} events that were wanted")
        del session.wanted[answer.log, answer.first_seq]
        if wanted.probe:
            return wanted
        if not wanted.late:
            self._give_up(session, answer.log, answer.first_seq, wanted)
        if answer.wires:
            session.stalled_until_ms = 0
            if self._trickles(session, answer, wanted, size_bytes):
                session.spare(answer.log, self._time.ms + STALL_MS)
        else:
            session.ahead.pop(answer.log, None)
            session.stalled_until_ms = self._time.ms + STALL_MS
        return wanted

    @staticmethod
    def _trickles(session: Session, answer: Range, wanted: Wanted, size_bytes: int) -> bool:
        """Whether a range is shorter than it had credit for, and than the peer said that it could be.

        Honest peers fill a range. One that does not could hold a block for ever, an event at a time.
        """
        return (
            answer.first_seq + len(answer.wires) <= session.ahead.get(answer.log, -1)
            and len(answer.wires) < wanted.count_max
            and size_bytes < wanted.size_bytes - EVENT_BYTES_MAX
        )

    def _give_up(self, session: Session, log: LogId, first_seq: int, wanted: Wanted) -> None:
        """Take back the credit of a want, and leave its block to others."""
        self._gaps.lent_bytes -= wanted.size_bytes
        self._gaps.ahead_bytes -= wanted.size_bytes if wanted.ahead else 0
        block = log, first_seq // BLOCK
        if self._wanted_from.get(block) == session.id:
            del self._wanted_from[block]

    def closed(self, session: Session, state: State) -> None:
        """Forget a session: what it was asked for, and what it sent that waits, is wanted from others."""
        for (log, first_seq), wanted in session.wanted.items():
            if not (wanted.late or wanted.probe):
                self._give_up(session, log, first_seq, wanted)
        for batch in session.storing:
            self.settle(batch, None, state)
        if self._gaps.bytes_of(session.id):
            waited = self._gaps.logs()
            self._intake.forget(self._gaps.drop_session(session.id))
            self._seek(waited, state)
        if session.storing:
            self._trouble()

    # -- what came ---------------------------------------------------------------------------------------------------

    def has_room(self, wanted: Wanted, answer: Range, state: State) -> bool:
        """Whether the answer to a want can be taken in: always, unless it is late."""
        if not wanted.late:
            return True
        is_next = answer.first_seq <= self._intake.next_seq(answer.log, state)
        room = self._gaps.room_bytes if is_next else self._gaps.room_ahead_bytes
        return sum(map(len, answer.wires)) <= room

    def taken(self, session: Session, sifted: Sifted, state: State) -> None:
        """Hand on to the store what a session sent and ``Intake`` has sifted, and want what turns out to be missing."""
        for log, seq in sifted.gaps.items():
            self._lacks(session, log, seq, state)
            if next(self._gaps.missing(log, self._intake.next_seq(log, state), seq), None) is not None:
                self._trouble()
        if len(sifted.foreseen) > 1:  # a live event comes alone
            self._outbox.add(Foresee(sifted.foreseen))
        self.submit(session, sifted.fresh)
        self._turns.update(dict.fromkeys(sifted.waiting))
        self.go_on(state)
        if session.ahead:
            self.pull(session, state)

    def submit(self, session: Session, batch: Pending) -> None:
        """Have a batch stored, behind the session's others."""
        if batch.events:
            session.storing.append(batch)
            session.storing_bytes += batch.size_bytes
            self._outbox.add(Store(session.id, batch.events))

    def settle(self, batch: Pending, outcomes: Sequence[Outcome] | None, state: State) -> None:
        """Take the store's answer to a batch; None when it stored nothing, or nobody will know."""
        if batch.fetched:
            self._lane_bytes -= batch.size_bytes
            self._lane_events -= len(batch.events)
            self._gaps.lent_bytes -= batch.size_bytes
        if len(self._gaps):
            self._turns.update(dict.fromkeys(event.log for event in batch.events))
        self._seek(self._intake.settle(batch, outcomes), state)

    def _seek(self, logs: Collection[LogId], state: State) -> None:
        """Note who else holds what was given up: while it was on its way here, their copies were duplicates."""
        for log in logs:
            held = state.logs.get(log)
            for session in self._sessions.values():
                if held is not None and (seq := session.known.get(log, -1)) > held.head.seq:
                    self._lacks(session, log, seq, state)

    def go_on(self, state: State) -> None:
        """Hand on to the store whatever it is the turn of."""
        if state.own in self._turns:
            self._go_on_with(state.own, state)
        for log in list(self._turns):
            self._go_on_with(log, state)

    def _go_on_with(self, log: LogId, state: State) -> None:
        while (run := self._gaps.first(log)) is not None and run.first_seq <= self._intake.next_seq(log, state):
            if not self._intake.may_follow(log, run.session):
                break  # it has its turn when the store has answered
            left, count = LANE_BYTES_MAX, LANE_EVENTS_MAX
            if run.fetched:
                left, count = left - self._lane_bytes, count - self._lane_events
            if left <= 0 or count <= 0:
                return  # it keeps its turn
            run = self._gaps.take(log, count, left)
            self._intake.flies(run, log, state)
            if run.fetched:
                self._lane_bytes += run.size_bytes
                self._lane_events += len(run.events)
                self._gaps.lent_bytes += run.size_bytes
            batch = Pending(tuple(run.events), tuple(run.keys), run.size_bytes, fetched=run.fetched)
            self.submit(self._sessions[run.session], batch)
        self._turns.pop(log, None)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, state: State, *, paused: bool) -> list[Close]:
        """Give up on answers that are late, want what is due; the sessions to be closed for being silent."""
        silent = [close for session in self._sessions.values() if (close := self._late(session)) is not None]
        self._expire(state)
        if not paused:
            self.go_on(state)
            for session in self._sessions.values():
                self.pull(session, state)
            self._pull_from_observers(state)
        return silent

    def _late(self, session: Session) -> Close | None:
        for (log, first_seq), wanted in list(session.wanted.items()):
            waited_ms = self._time.patient_ms - wanted.asked_ms
            if waited_ms > WANT_MS_MAX:
                session.stalled_until_ms = self._time.ms + STALL_MS
                if not (wanted.late or wanted.probe):
                    self._give_up(session, log, first_seq, wanted)
                    session.wanted[log, first_seq] = wanted._replace(late=True)
            if waited_ms > SILENT_MS_MAX:
                reason = Reason(f"no answer to a want for {SILENT_MS_MAX // 1000} s", Code.SESSION_SILENT)
                return Close(session.id, reason, 0.0)
        return None

    def _expire(self, state: State) -> None:
        """Drop what has waited too long for something that does not come.

        What stood before it may have come in a live set, and not as an event: then it is the turn of what waits.
        """
        for log in self._gaps.logs():
            run = self._gaps.first(log)
            if run is None:
                continue
            if run.first_seq > self._intake.next_seq(log, state):
                self._intake.forget(self._gaps.drop_older(log, self._time.ms - WAITING_MS_MAX))
                self._seek((log,), state)
            else:
                self._turns[log] = None

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
