"""The gossip engine: takes what happens, returns what must follow. No sockets, no clock, no tasks.

Whoever drives it (the daemon over aiohttp, the simulator over a virtual network) calls one method at a time and carries
out the effects in order. ``view`` decides with whom there are sessions, ``push`` which of them are sent new events,
and ``sync`` finds and repairs whatever pushing missed.

Rules of this module:
- A peer's bytes can cost that peer its session, never more: what is malformed or unexpected ends in ``Close``.
- Everything kept about a peer is bounded by what we hold ourselves or by a named constant.
- Work per event is a few dictionary look-ups per session; nothing here looks at all logs for one event.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import median
from typing import Any, Final, Protocol

from p2pnodes.gossip import frames
from p2pnodes.gossip.backoff import Backoffs
from p2pnodes.gossip.bans import Offence
from p2pnodes.gossip.book import AddressBook
from p2pnodes.gossip.effects import (
    QUEUE_BYTES_MAX,
    Close,
    Consider,
    Effect,
    Foresee,
    Load,
    Notice,
    Outbox,
    Prove,
    Read,
    ReadCertificate,
    ReadLeaves,
    Send,
    Store,
    Survey,
)
from p2pnodes.gossip.fetch import WANTS_MAX, Fetch
from p2pnodes.gossip.frames import (
    Book,
    CertificateAnswer,
    CertificateWant,
    Digest,
    Entry,
    Events,
    Have,
    Leaves,
    LeavesWant,
    Link,
    Proofs,
    Range,
    Slices,
    Vector,
    Want,
)
from p2pnodes.gossip.gaps import Gaps
from p2pnodes.gossip.handshake import Peer
from p2pnodes.gossip.intake import SEEN_MAX, Intake
from p2pnodes.gossip.lending import Lending
from p2pnodes.gossip.loading import ForgedError, Loading
from p2pnodes.gossip.pace import Pace
from p2pnodes.gossip.proving import Proving
from p2pnodes.gossip.push import Push
from p2pnodes.gossip.rates import (
    BOOKS,
    CERTIFICATES,
    DIGESTS,
    DUPLICATES,
    HAVES,
    LINKS,
    PROOFS,
    SLICES,
    VECTORS,
    AuthorRates,
    FloodError,
    Rate,
)
from p2pnodes.gossip.repair import Repairs
from p2pnodes.gossip.search import Searches
from p2pnodes.gossip.session import Pending, Session, SessionId
from p2pnodes.gossip.sync import Sync
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.gossip.view import VIEW_SIZE, Member, View
from p2pnodes.model.branches import ended_log
from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, hlc_ms
from p2pnodes.model.codes import Code, Reason, code_of
from p2pnodes.model.errors import LocalProtocolError, RemoteProtocolError
from p2pnodes.model.events import Close as Closing
from p2pnodes.model.events import Event, Evidence, Head, LogId
from p2pnodes.model.network import Network
from p2pnodes.store.loading import Answer, Lack
from p2pnodes.store.state import Outcome, Result, State

__all__ = [
    "TICK_MS",
    "Close",
    "Consider",
    "Effect",
    "Engine",
    "Foresee",
    "Load",
    "Member",
    "Notice",
    "Peer",
    "Prove",
    "Read",
    "ReadCertificate",
    "ReadLeaves",
    "Send",
    "SessionId",
    "StateView",
    "Store",
    "Survey",
]

TICK_MS: Final = 250
"""How often ``tick`` is to be called."""

BAN_S: Final = 60.0
"""How long a peer that broke the protocol is refused."""

QUEUE_BYTES_DRAINED: Final = QUEUE_BYTES_MAX // 4
"""A session that was behind is pushed to again when no more than this is unsent."""

BEHIND_MS_MAX: Final = 60_000
"""How long a session may be behind, in patient time: who takes less than three quarters of a queue in it, some 50 kB a
second, holds memory and hears of nothing; it loses the session without a ban, and catches up in another."""

BEHIND_OVER: Final = Reason(
    f"the peer reads too slowly: it has been behind for {BEHIND_MS_MAX // 1000} s", Code.SESSION_SLOW
)
"""Reason for the end of such a session."""

FRESH_MS: Final = 3_000
"""A link that settles within this time of its session's opening goes on from the opening digests; what a daemon stored
while an older session was a visit was not pushed on it, and is found by one more digest."""

PENDING_BYTES_MAX: Final = 4 << 20
"""Events of one session that the store may have to work on; more are dropped, and brought again by anti-entropy."""

STORE_RETRY_MS: Final = 2_000
"""Pause after the store refused a batch: it is full or the disk fails, and more of the same would not help."""


BOOK_RENEW_MS: Final = 10_000
"""How often the address book is brought up to date with sessions and logs."""

BOOK_INTERVAL_MS: Final = 60_000
"""Shortest time between two changes of the address book that are told to one session."""

_RATES: Final[dict[type[frames.Frame], Rate]] = {
    Digest: DIGESTS,
    Slices: SLICES,
    Vector: VECTORS,
    Proofs: PROOFS,
    Book: BOOKS,
    Link: LINKS,
    Have: HAVES,
    CertificateWant: CERTIFICATES,
}
"""What a session's peer may say of each kind; wants and ranges answer each other, and events have their own bounds."""

_REPORTS: Final = {
    "void_event": Code.VOID_FORM,
    "fork": Code.EVENT_FORK,
    "event_ahead": Code.EVENT_AHEAD,
    "event_refused": Code.EVENT_REFUSED,
}
"""What is reported of an event -> its code, where the reason has none of its own."""


class StateView(Protocol):
    """What the engine reads of the store."""

    @property
    def state(self) -> State:
        """What the last committed transaction left."""
        ...


class Engine:
    """All sessions of one daemon."""

    def __init__(
        self,
        network: Network,
        store: StateView,
        rng: random.Random,
        *,
        node_key: bytes = b"",
        permitted: Callable[[bytes], bool] = lambda _: True,
        view_size: int = VIEW_SIZE,
    ) -> None:
        """Begin without sessions.

        Args:
            network: Events of another one end the session that brings them.
            store: Asked for its state at every call.
            rng: Chooses peers and jitter.
            node_key: This daemon's, which gives its place on the ring of the view.
            permitted: Whether a hotkey holds a permit, so that its address is worth knowing.
            view_size: Sessions that the active view has.
        """
        self._store = store
        self._rng = rng
        self._time = Timeline()
        self._sessions: dict[SessionId, Session] = {}
        self._outbox = Outbox(self._time)
        self._backoffs = Backoffs()
        self._authors = AuthorRates()
        gaps = Gaps()
        self._intake = Intake(network.id, self._backoffs, self._authors, gaps, self._time)
        self._proving = Proving(self._outbox, self._authors, self._time)
        self._searches = Searches(self._sessions, wants_max=WANTS_MAX, outbox=self._outbox, time=self._time)
        self._repairs = Repairs(self._sessions, wants_max=WANTS_MAX, outbox=self._outbox, time=self._time, rng=rng)
        self._book = AddressBook(network.id, permitted, self._time)
        self._book_renew_ms = 0
        self._pace = Pace(self._time, rng)
        self._loading = Loading(self._sessions, outbox=self._outbox, time=self._time, rng=rng)
        self._lending = Lending(self._outbox, self._time)
        self._fetch = Fetch(
            self._sessions,
            intake=self._intake,
            gaps=gaps,
            backoffs=self._backoffs,
            trouble=self._pace.trouble,
            held_back=self._loading.holds_back,
            outbox=self._outbox,
            time=self._time,
        )
        self._sync = Sync(
            self._sessions,
            intake=self._intake,
            fetch=self._fetch,
            proving=self._proving,
            searches=self._searches,
            pace=self._pace,
            outbox=self._outbox,
            time=self._time,
            rng=rng,
        )
        self._push = Push(
            self._sessions,
            next_seq=self._intake.next_seq,
            fetch=self._fetch.announced,
            outbox=self._outbox,
            time=self._time,
            rng=rng,
        )
        self._view = View(
            self._sessions,
            node_key=node_key,
            linked=self._linked,
            unlinked=self._push.unlinked,
            outbox=self._outbox,
            time=self._time,
            rng=rng,
            size=view_size,
        )
        self._electorate = store.state.electorate_digest
        self._paused_until_ms = 0
        self._dropped = 0
        self._stored = 0
        """Events that were new here, since the start."""

    # -- sessions ----------------------------------------------------------------------------------------------------

    def opened(self, session: SessionId, peer: Peer, now_ms: int) -> list[Effect]:
        """Take a new session, whose peer the handshake has proved.

        Args:
            session: A number that was never used before.
            peer: Who is at the other end.
            now_ms: Wall clock, Unix milliseconds; it may be set back or forward between calls. So in every method.
        """
        if session in self._sessions:
            raise LocalProtocolError(f"BUG! session {session} is open already", code=Code.SYSTEM_BUG)
        self._time.advance(now_ms)
        opened = Session(session, peer, self._time.ms)
        opened.excused = self._stored
        self._sessions[session] = opened
        self._pace.trouble()
        self._sync.greet(opened, self._store.state, asks=False)
        self._view.opened(opened)
        self._book.met(peer)
        return self._outbox.take()

    def closed(self, session: SessionId, now_ms: int) -> list[Effect]:
        """Forget a session that has ended, for whatever reason; one that the engine closed is forgotten already."""
        self._time.advance(now_ms)
        self._forget(session)
        return self._outbox.take()

    def _forget(self, number: SessionId) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self._fetch.closed(session, self._store.state)
            self._loading.closed(session, self._store.state)
            self._view.closed(session)
            self._book.met(session.peer)

    def _close(self, session: Session, reason: Reason, ban_s: float, offence: Offence = Offence.PROTOCOL) -> None:
        self._forget(session.id)
        self._outbox.add(Close(session.id, reason, ban_s, offence))

    def _linked(self, session: Session) -> None:
        """Take a new link; one that was a visit for a while is compared at once, not when its turn comes."""
        self._push.linked(session)
        if self._time.ms >= session.opened_ms + FRESH_MS and not session.behind:
            self._sync.greet(session, self._store.state, asks=True)

    # -- frames ------------------------------------------------------------------------------------------------------

    def received(self, session: SessionId, frame: bytes, now_ms: int) -> list[Effect]:
        """Take one decrypted frame; a bad one closes the session and bans its peer for a while.

        Source: docs/protocol.md, "Frames".
        """
        self._time.advance(now_ms)
        found = self._sessions.get(session)
        if found is None:  # closed by the engine while this frame was under way
            return []
        found.frames_received += 1
        try:
            self._frame(found, frames.decode(frame))
        except RemoteProtocolError as error:
            offence = Offence.FLOOD if isinstance(error, FloodError) else Offence.PROTOCOL
            self._close(found, error.reason(), BAN_S, offence)
        return self._outbox.take()

    def _frame(self, session: Session, frame: frames.Frame) -> None:
        if (rate := _RATES.get(type(frame))) is not None:
            session.rates.spend(rate, self._time.ms, len(frame.news) if isinstance(frame, Have) else 1)
        state = self._store.state
        match frame:
            case Digest():
                first = session.digest is None
                self._sync.digest(session, frame, state)
                self._loading.heard(session, frame, state)
                if first:  # only now it shows whether its logs tell it what the book would
                    self._tell_book(session)
            case Slices():
                self._sync.slices(session, frame, state)
            case Vector():
                self._sync.vector(session, frame, state)
            case Want():
                self._sync.want(session, frame)
            case Range():
                wanted = self._fetch.answered(session, frame)
                if wanted.probe:
                    self._look(session, frame)
                elif self._fetch.has_room(wanted, frame, state):
                    self._accept(session, frame.wires, state, (frame.log, frame.first_seq))
            case Events():
                before = session.duplicates
                self._accept(session, frame.wires, state, None)
                late = session.duplicates - before
                session.rates.spend(DUPLICATES, self._time.ms, self._repeated(session, late))
                self._push.came(session, late / len(frame.wires))
            case Have():
                if not state.loading:
                    self._push.heard(session, frame, state)
            case Link():
                self._view.told(session, frame.mode)
                self._push.told(session, frame.mode)
            case Proofs():
                self._search_disowned(session, frame, state)
                if self._paused or not self._proving.take(session, frame, state):
                    session.digest_due = True
            case Book():
                self._book.take(frame, state)
            case CertificateWant():
                self._lending.certificate_wanted(session, frame)
            case CertificateAnswer():
                self._loading.certificate(session, frame, state)
            case LeavesWant():
                self._lending.leaves_wanted(session, frame)
            case Leaves():
                self._loading.leaves(session, frame, state)

    def _search_disowned(self, session: Session, frame: Proofs, state: State) -> None:
        """Survey for the fork of logs that a peer holds as another hotkey's, by whose closing it says so."""
        for proof in frame.proofs:
            held = state.logs.get(ended_log(proof))
            if held is not None and held.cut != 0 and isinstance(proof, Closing) and proof.hotkey != held.hotkey:
                self._searches.begin(session, held.id, 0, claimed=True)

    def sent(self, session: SessionId, size: int, now_ms: int) -> list[Effect]:
        """Take note that frames of ``size`` bytes in all have left the driver's queue."""
        self._time.advance(now_ms)
        found = self._sessions.get(session)
        if found is None:
            return []
        found.queue_bytes = max(0, found.queue_bytes - size)
        if found.behind and found.queue_bytes <= QUEUE_BYTES_DRAINED:
            found.behind = False
            self._sync.greet(found, self._store.state, asks=True)
        self._sync.serve(found)
        self._lending.serve(found)
        return self._outbox.take()

    # -- events ------------------------------------------------------------------------------------------------------

    def _accept(
        self, session: Session, wires: Sequence[bytes], state: State, expected: tuple[LogId, int] | None
    ) -> None:
        """Pass on to the store what a peer sent, and want what turns out to be missing."""
        session.events_received += len(wires)
        if state.loading:  # nothing can follow on what is not here; all is compared once it is
            self._dropped += len(wires)
            return
        if self._paused or session.storing_bytes > PENDING_BYTES_MAX:
            self._dropped += len(wires)
            session.digest_due = True
            return
        self._fetch.taken(session, self._intake.sift(session, wires, state, expected), state)

    def _repeated(self, session: Session, late: int) -> int:
        """How many of the late events in a pushed frame are not the one copy that each peer may bring of what is new.

        Others may be faster each time, and several authors may write as fast as each of them may: that is no fault.
        """
        session.excused = max(session.excused, self._stored - SEEN_MAX)  # older ones are not found to be late
        excused = min(late, self._stored - session.excused)
        session.excused += excused
        return late - excused

    def _look(self, session: Session, answer: Range) -> None:
        """Have the store compare an event with what it holds: one of a branch that is searched, or for a repair."""
        if not answer.wires:
            self._searches.lose(session, answer.log, f"it has no event at seq {answer.first_seq}")
            self._repairs.failed(answer.log, answer.first_seq)
            return
        event = self._intake.single(answer.wires[0], answer.log, answer.first_seq)
        if self._paused or session.storing_bytes > PENDING_BYTES_MAX:
            self._searches.judged(session, event, None)
        elif answer.log in session.searches or self._repairs.wants(event):
            self._fetch.submit(session, Pending((event,), (), len(event.wire), probe=True))

    @property
    def _paused(self) -> bool:
        return self._time.ms < self._paused_until_ms

    def stored(self, session: SessionId, outcomes: Sequence[Outcome] | None, now_ms: int) -> list[Effect]:
        """Take the answer to the session's oldest ``Store``.

        Args:
            session: It may have ended meanwhile; what was stored is pushed all the same.
            outcomes: In order of the events. None when the store is full or failed: nothing was stored, and for
                STORE_RETRY_MS nothing more is offered to it.
        """
        self._time.advance(now_ms)
        found = self._sessions.get(session)
        if found is not None:
            if not found.storing:
                raise LocalProtocolError(f"BUG! session {session} has nothing in the store", code=Code.SYSTEM_BUG)
            batch = found.storing.popleft()
            found.storing_bytes -= batch.size_bytes
            self._fetch.settle(batch, outcomes, self._store.state)
            if batch.probe:
                self._compared(found, batch.events[0], None if outcomes is None else outcomes[0])
                return self._outbox.take()
        if outcomes is None:
            self._pause(found)
            return self._outbox.take()
        state = self._store.state
        stored = [outcome.event for outcome in outcomes if self._outcome(found, outcome, state)]
        self._stored += len(stored)
        self._push.push(self._live(stored, state))
        forged = next((outcome.event for outcome in outcomes if outcome.result is Result.FORGED), None)
        if found is not None and forged is not None:
            self._close_for_forging(found, forged)
        elif found is not None and found.ahead:
            self._fetch.pull(found, state)
        if not self._paused:
            self._fetch.go_on(state)
        return self._outbox.take()

    def _compared(self, session: Session, event: Event, outcome: Outcome | None) -> None:
        """Take what the store found of an event that was asked for alone; None when it failed."""
        self._searches.judged(session, event, outcome)
        self._repairs.judged(event, outcome)
        if outcome is None:
            self._pause(session)
        elif outcome.result is Result.FORGED:
            self._close_for_forging(session, event)
        elif outcome.proved:
            self._report(session, "fork", event, outcome.detail)

    def _close_for_forging(self, session: Session, event: Event) -> None:
        reason = Reason(f"forged event, seq {event.seq} of log {event.log}", Code.SESSION_FORGERY)
        self._close(session, reason, BAN_S, Offence.FORGERY)

    def _pause(self, session: Session | None) -> None:
        """Offer nothing to a store that has failed, for a while."""
        self._paused_until_ms = self._time.ms + STORE_RETRY_MS
        if session is not None:
            session.digest_due = True

    def _outcome(self, session: Session | None, outcome: Outcome, state: State) -> bool:
        """Draw the conclusions from one outcome; whether the event is new here."""
        event, result, detail, proved = outcome
        match result:
            case Result.STORED | Result.KNOWN:
                if self._backoffs:
                    self._backoffs.clear(event.log)
                if session is not None:
                    session.holds(event.log, event.seq)
                if result is Result.KNOWN:
                    return False
                if session is not None:
                    session.events_stored += 1
                    session.excused += 1  # this was its copy
                if detail:
                    self._report(session, "void_event", event, detail)
                return True
            case Result.GAP if session is not None:
                session.is_ahead(event.log, event.seq, state)
            case Result.FORK:
                if self._backoffs.fail(event.log, self._time.ms, refused=False):
                    self._report(session, "fork", event, detail)
                held = state.logs.get(event.log)
                if not proved and session is not None and held and (held.cut is None or event.seq <= held.cut):
                    self._searches.begin(session, event.log, event.seq, claimed=False)
            case Result.AHEAD:
                pause_ms = hlc_ms(event.hlc) - SKEW_AHEAD_MS_MAX - self._time.wall_ms
                self._backoffs.defer(event.log, self._time.ms, max(TICK_MS, pause_ms))
                self._report(session, "event_ahead", event, detail)
            case Result.REFUSED:
                if self._backoffs.fail(event.log, self._time.ms, refused=True):
                    self._report(session, "event_refused", event, detail)
            case _:  # FORGED closes the session, and a gap of a session that is gone is nobody's
                pass
        return False

    def _report(self, session: Session | None, what: str, event: Event, reason: str) -> None:
        code = code_of(reason, _REPORTS[what])
        self._outbox.notice(
            session, "warning", what, log=str(event.log), seq=event.seq, kind=event.kind, reason=reason, code=code
        )

    def appended(self, events: Sequence[Event], now_ms: int) -> list[Effect]:
        """Push own events, which are durable now."""
        self._time.advance(now_ms)
        self._intake.note(events)
        self._stored += len(events)
        self._push.push(self._live(events, self._store.state))
        return self._outbox.take()

    def _live(self, events: Sequence[Event], state: State) -> Sequence[Event]:
        """Those of newly stored events that go on at once; what is over an author's rate, others find and fetch.

        A log may be gone with the same commit, or the next one: where a live set is to be loaded that does not name it.
        """
        stored = [(state.logs[event.log].hotkey, event) for event in events if event.log in state.logs]
        live = [event for hotkey, event in stored if self._authors.live(hotkey, event, self._time.ms)]
        if len(live) < len(stored):
            self._pace.trouble()
        return live

    def ended(self, logs: Collection[LogId], now_ms: int) -> list[Effect]:
        """Tell all peers of logs of whose ends more is known now, whoever found it."""
        self._time.advance(now_ms)
        state = self._store.state
        self._searches.ended(logs, state.logs)
        for session in self._sessions.values():
            self._proving.tell(session, logs, state)
        return self._outbox.take()

    def proved(
        self, session: SessionId, proofs: tuple[Evidence | Closing, ...], now_ms: int, *, checked: bool = True
    ) -> list[Effect]:
        """Take the answer to a ``Prove``; a proof that proves nothing closes the session and bans its peer for a while.

        Args:
            session: It may have ended meanwhile.
            proofs: Those of the effect.
            now_ms: See ``opened``.
            checked: False when the store is full or failed.
        """
        self._time.advance(now_ms)
        found = self._sessions.get(session)
        if found is not None:
            if proofs not in found.proving:
                raise LocalProtocolError(
                    f"BUG! session {session} has no such proofs in the store", code=Code.SYSTEM_BUG
                )
            found.proving.remove(proofs)
            if checked:
                self._look_at_proofs(found, proofs)
            else:
                self._pause(found)
        return self._outbox.take()

    def _look_at_proofs(self, session: Session, proofs: Sequence[Evidence | Closing]) -> None:
        try:
            self._proving.taken(proofs, self._store.state)
        except RemoteProtocolError as error:
            self._close(session, error.reason(), BAN_S)

    def read(self, session: SessionId, log: LogId, first_seq: int, wires: Sequence[bytes], now_ms: int) -> list[Effect]:
        """Take the answer to a ``Read``: at least one event where there is one, more up to the size asked for."""
        self._time.advance(now_ms)
        found = self._sessions.get(session)
        if found is not None:
            self._sync.read(found, log, first_seq, list(wires))
        return self._outbox.take()

    def damaged(self, log: LogId, seq: int, now_ms: int) -> list[Effect]:
        """Take note that a stored event is damaged: peers are asked for it, and ``Ledger.receive`` puts it in place."""
        self._time.advance(now_ms)
        self._repairs.need(log, seq)
        return self._outbox.take()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def considered(self, session: SessionId, number: int, answer: Answer, now_ms: int) -> list[Effect]:
        """Take the answer to a ``Consider``; the session may have ended meanwhile."""
        self._time.advance(now_ms)
        self._follow(self._store.state)
        found = self._sessions.get(session)
        try:
            self._loading.considered(found, number, answer, self._store.state)
        except ForgedError as error:
            self._close_forger(found, error)
        return self._outbox.take()

    def lacking(self, lack: Lack | None, now_ms: int) -> list[Effect]:
        """Take the answer to a ``Survey``; None when the store is full or failed."""
        self._time.advance(now_ms)
        self._follow(self._store.state)
        self._loading.lacking(lack, self._store.state)
        return self._outbox.take()

    def loaded(self, session: SessionId, number: int, place: int, answer: Answer, now_ms: int) -> list[Effect]:
        """Take the answer to a ``Load``; the session may have ended meanwhile."""
        self._time.advance(now_ms)
        found = self._sessions.get(session)
        try:
            self._loading.loaded(found, number, place, answer, self._store.state)
        except ForgedError as error:
            self._close_forger(found, error)
        self._follow(self._store.state)
        return self._outbox.take()

    def _close_forger(self, session: Session | None, error: ForgedError) -> None:
        assert session is not None  # nobody is blamed for what came from a session that has ended
        self._close(session, error.reason(), BAN_S, Offence.FORGERY)

    def _follow(self, state: State) -> None:
        """Follow the store as it begins or ends to load a live set; behind the end all is compared anew."""
        if self._loading.follow(state):
            self._pace.trouble()
            for session in self._sessions.values():
                session.forget_word()
                session.stalled_until_ms = 0  # it was asked for what is gone
                if not session.behind:
                    self._sync.greet(session, state, asks=True)

    def read_certificate(self, session: SessionId, number: int, wire: bytes, now_ms: int) -> list[Effect]:
        """Take the answer to a ``ReadCertificate``: empty where there is none."""
        self._time.advance(now_ms)
        if (found := self._sessions.get(session)) is not None:
            self._lending.certificate_read(found, number, wire)
        return self._outbox.take()

    def read_leaves(  # noqa: PLR0917 - what a slice is made of
        self,
        session: SessionId,
        number: int,
        place: int,
        leaves: Sequence[tuple[int, bytes]],
        path: Sequence[bytes],
        now_ms: int,
    ) -> list[Effect]:
        """Take the answer to a ``ReadLeaves``: no leaves where the live set is not in force, or not whole here."""
        self._time.advance(now_ms)
        if (found := self._sessions.get(session)) is not None:
            self._lending.leaves_read(found, number, place, leaves, path)
        return self._outbox.take()

    def loading(self) -> dict[str, Any] | None:
        """How far a live set is loaded; see ``Loading.status``."""
        return self._loading.status()

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> list[Effect]:
        """Do what is due; call it every TICK_MS."""
        self._time.tick(now_ms, TICK_MS)
        state = self._store.state
        if self._time.stepped:  # nobody's clock is known well any more
            self._time.stepped = False
            self._backoffs.clock_stepped()
            for session in self._sessions.values():
                session.digest_due = True
        if state.electorate_digest != self._electorate:
            self._electorate = state.electorate_digest
            self._backoffs.electorate_changed()
            self._loading.electorate_changed()
            for session in self._sessions.values():
                session.digest_due = True
                session.forget_word()
                session.book_version = 0  # who had no permit before may be worth telling of
        self._follow(state)
        if not self._paused:
            self._sync.tick(state)
        for session in self._sessions.values():
            self._lending.serve(session)
        silent = [*self._fetch.tick(state, paused=self._paused), *self._loading.tick(state)]
        for over in [*silent, *self._view.tick(), *self._too_slow()]:
            if over.session in self._sessions:
                self._close(self._sessions[over.session], over.reason, over.ban_s)
        if not (self._paused or state.loading):
            self._repairs.tick()
        self._push.tick(state)
        if self._time.ms >= self._book_renew_ms:
            self._renew_book(state)
        return self._outbox.take()

    def _too_slow(self) -> list[Close]:
        """Sessions whose peers read, but not fast enough, to be closed."""
        limit_ms = self._time.patient_ms - BEHIND_MS_MAX
        return [
            Close(session.id, BEHIND_OVER, 0)
            for session in self._sessions.values()
            if session.behind and session.behind_ms <= limit_ms
        ]

    # -- the view ----------------------------------------------------------------------------------------------------

    def set_members(self, members: Mapping[bytes, Member], now_ms: int) -> list[Effect]:
        """Say who the other validators are.

        Args:
            members: By hotkey, without our own.
            now_ms: See ``opened``.
        """
        self._time.advance(now_ms)
        self._view.set_members(members)
        return self._outbox.take()

    def wanted(self) -> list[bytes]:
        """Hotkeys of those with whom there is no session and should be one, most urgent first."""
        return self._view.wanted()

    def failed(self, hotkey: bytes, now_ms: int) -> None:
        """Take note that a dial of a wanted one has failed."""
        self._time.advance(now_ms)
        self._view.failed(hotkey)

    def ask(self, now_ms: int) -> list[Effect]:
        """Ask a random validator's session for a sign of life: a digest, which is answered at once."""
        self._time.advance(now_ms)
        validators = [session for session in self._sessions.values() if not session.peer.observer]
        if validators:
            self._sync.greet(self._rng.choice(validators), self._store.state, asks=True)
        return self._outbox.take()

    def sweep(self, on: bool) -> None:  # noqa: FBT001 - the name says it
        """Want a session with every member while the own head must be heard (rule 4), or no longer."""
        self._view.sweep(on)

    def hide(self, on: bool) -> None:  # noqa: FBT001 - the name says it
        """Say whether this daemon has no address; then it stays with every member that has one."""
        self._view.hide(on)

    def gives_way(self, hotkey: bytes) -> SessionId | None:
        """The session that is to end for one with a validator where there is no room; see ``View.gives_way``."""
        return self._view.gives_way(hotkey)

    # -- the address book --------------------------------------------------------------------------------------------

    def _renew_book(self, state: State) -> None:
        self._book_renew_ms = self._time.ms + BOOK_RENEW_MS
        for session in self._sessions.values():
            self._book.met(session.peer)
        self._book.renew(state)
        for session in self._sessions.values():
            if session.book_version < self._book.version and self._time.ms >= session.book_next_ms:
                self._tell_book(session)

    def _tell_book(self, session: Session) -> None:
        """Tell a peer what is new in the address book since it was told last; none who has not said what it holds."""
        if session.behind or session.digest is None:
            return
        state = self._store.state
        same = session.digest.vector == state.vector_digest
        for frame in self._book.told(session.peer, session.book_version, state, same=same):
            self._outbox.send(session, frame)
            session.book_next_ms = self._time.ms + BOOK_INTERVAL_MS
        session.book_version = self._book.version

    def addresses(self) -> dict[bytes, str]:
        """Where daemons are by the delegations that peers showed or told of: hotkey -> base URL, for those permitted.

        What the logs say themselves, once they are here, is later or the same.
        """
        return self._book.urls(self._store.state)

    # -- what others ask ---------------------------------------------------------------------------------------------

    def own_head_reports(self, log: LogId) -> dict[bytes, Head | None]:
        """What validators hold of our log (rule 4), by their own complete word since their session opened.

        Returns:
            Hotkey of an open session -> the last event of ``log`` that counts for its peer, None when none does. A
            hotkey is absent until its peer has sent a complete vector, or a digest that equals ours.
        """
        reports: dict[bytes, Head | None] = {}
        for hotkey, entry in self._own_reports(log):
            head = None if entry is None else entry.head
            before = reports.get(hotkey)
            if before is None or (head is not None and head.seq > before.seq):  # a hotkey may have two daemons
                reports[hotkey] = head
        return reports

    def own_end_reports(self, log: LogId) -> set[bytes]:
        """Hotkeys of the validators that know of an end of our log (rule 4), by their own complete word."""
        return {hotkey for hotkey, entry in self._own_reports(log) if entry is not None and entry.mark is not None}

    def _own_reports(self, log: LogId) -> list[tuple[bytes, Entry | None]]:
        if self._store.state.electorate_digest != self._electorate:  # the next tick takes note of it
            return []
        return [
            (session.peer.hotkey, session.own[1])
            for session in self._sessions.values()
            if session.own is not None and session.own[0] == log and not session.peer.observer
        ]

    def node_keys(self) -> dict[bytes, bytes]:
        """Hotkey -> node key that its daemon writes with now.

        The logs say so and, of hotkeys of which these say nothing, what peers showed or told of. Hotkeys without a
        permit may be among them.
        """
        state = self._store.state
        latest = {hotkey: log for hotkey, (log, _) in self._book.latest(state).items()}
        best: dict[bytes, tuple[bool, int, int]] = {}
        for log, held in state.logs.items():
            delegation = held.prefix.delegation
            if delegation is None:
                continue
            rank = held.cut is None, delegation.not_before, log.number  # daemons number their logs by the time
            if held.hotkey not in best or best[held.hotkey] < rank:
                best[held.hotkey], latest[held.hotkey] = rank, log
        return {hotkey: log.node_key for hotkey, log in latest.items()}

    @property
    def time(self) -> Timeline:
        """The engine's times, for the deadlines of whoever drives it; only the engine moves them."""
        return self._time

    def view_status(self) -> dict[str, Any]:
        """Snapshot of the active view; see ``View.status``."""
        return self._view.status()

    def behind(self) -> int:
        """Events that a peer is known to hold, and we not yet: of the peer with the most of them."""
        state = self._store.state
        return max((session.we_lack(state) for session in self._sessions.values()), default=0)

    def agreed(self) -> bool:
        """Whether some peer's latest digest says that it held what we hold now."""
        vector = self._store.state.vector_digest
        return any(
            session.digest is not None and session.digest.vector == vector for session in self._sessions.values()
        )

    def counts(self) -> dict[str, int]:
        """What was counted since the start.

        ``grafts``, ``prunes`` and ``gains``: see ``Push``; ``dropped``: events that peers sent and that were not taken
        up, because the store had enough to do or had failed. Anti-entropy brings these again.
        """
        push = self._push
        return {"grafts": push.grafts, "prunes": push.prunes, "gains": push.gains, "dropped": self._dropped}

    def clock_offset_ms(self) -> int | None:
        """Median over the validators' hotkeys of their wall clock less ours (rule 8); None while there is none.

        A hotkey may have several sessions and as many node keys as it signs, but one voice about the time.
        """
        offsets = {
            session.peer.hotkey: offset_ms
            for session in self._sessions.values()
            if (offset_ms := self._offset_ms(session)) is not None and not session.peer.observer
        }
        return round(median(offsets.values())) if offsets else None

    def _offset_ms(self, session: Session) -> int | None:
        """A peer's wall clock less ours as it is now: one that was set since the peer's last digest is seen at once."""
        return None if session.clock_ms is None else session.clock_ms + self._time.ms - self._time.wall_ms

    def status(self) -> list[dict[str, Any]]:
        """Snapshot of every session, with JSON-able values.

        ``peer_lacks`` counts events of ours that are not on their way to the peer yet (None: not compared yet),
        ``we_lack`` those that it said it holds and we don't; ``same_*`` compare its latest digest with our state.
        """
        state = self._store.state
        return [
            {
                **session.status(state),
                "offset_ms": self._offset_ms(session),
                "open_s": (self._time.ms - session.opened_ms) // 1000,
            }
            for session in self._sessions.values()
        ]
