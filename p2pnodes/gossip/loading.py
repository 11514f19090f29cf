"""Loading: how a daemon comes by the live set of a checkpoint whose events it does not hold.

What lies below a cut and is not in its live set is gone, so nobody can fetch it: not whoever begins with an empty disk,
nor who was away for longer than the horizon, nor who took another branch below the cut.

1. Digests name the checkpoint in force. When peers name a higher one than is in force here, its certificate is asked
   for: at once where nothing of anybody else is here yet, else when a peer has named it for CERTIFICATE_WAIT_MS, for
   normally its signatures come as events. One peer is asked at a time. The store decides whether the live set must be
   loaded.
2. While it is, nothing else is fetched. Slices are wanted from every peer that names the same checkpoint, WANTS_MAX of
   each; PENDING_MAX in all are under way or wait for the store. Each proves itself by its path. Who brought one is
   asked first, the quickest before others: whoever only names the checkpoint must not hold the places of those who
   have it.
3. Where peers name a higher checkpoint, and nobody has slices of this one any more, that one is loaded instead: who has
   gone on to it has thrown away what lies below. So it is where less than one of PACE_PARTS has come for
   CERTIFICATE_WAIT_MS: whoever brings a slice now and then must not hold a newcomer at a checkpoint of long ago.

What peers are blamed for goes by the patient time; see ``timeline``.
"""

import random
from collections.abc import Mapping
from typing import Any, Final

from p2pnodes.gossip.effects import Close, Consider, Load, Outbox, Survey
from p2pnodes.gossip.frames import CertificateAnswer, CertificateWant, Digest, Leaves, LeavesWant
from p2pnodes.gossip.session import Session, SessionId
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import LocalProtocolError, RemoteProtocolError
from p2pnodes.store.loading import Answer, Found, Lack
from p2pnodes.store.state import State

CERTIFICATE_WAIT_MS: Final = 60_000
"""How long a peer names a higher checkpoint, in patient time, until its certificate is asked for; how long too few
slices may come until a higher one is loaded instead; how long who holds nothing fetches nothing for a certificate."""

CERTIFICATE_MS_MAX: Final = 10_000
"""After this long without an answer another peer is asked for a certificate."""

AGAIN_MS: Final = 10_000
"""How long a peer is not asked again that had no certificate, or one that cannot be trusted under the electorate that
is known here; and how long nobody is asked after the store has failed."""

WANTS_MAX: Final = 2
"""Wants of slices in one session without an answer, each way: up to 700 KB may lie before a pushed event."""

PENDING_MAX: Final = 8
"""Slices that are wanted, or that the store works on, over all sessions: 3 MB at most."""

SLICE_MS_MAX: Final = 10_000
"""After this long without an answer a slice is wanted from another peer as well."""

STALL_MS: Final = 30_000
"""How long a peer that left a slice without an answer, or does not have it, is asked for none."""

SILENT_MS_MAX: Final = 60_000
"""After this long without an answer to a want, the session is closed."""

PACE_PARTS: Final = 60
"""Of so many equal parts of a live set one must come in CERTIFICATE_WAIT_MS, all in an hour: else a higher one is
loaded, where peers name one that is to be trusted."""

PROGRESS_STEPS: Final = 10
"""How often operators hear how far it is."""


class ForgedError(RemoteProtocolError):
    """A peer sent a certificate or a slice that proves nothing."""

    code = Code.CHECKPOINT_FORGED


class Loading:
    """The half of the engine that loads live sets; it shares the engine's sessions and effects."""

    def __init__(
        self, sessions: Mapping[SessionId, Session], *, outbox: Outbox, time: Timeline, rng: random.Random
    ) -> None:
        """Work on what the engine hands over."""
        self._sessions = sessions
        self._outbox = outbox
        self._time = time
        self._rng = rng
        self._asked: SessionId | None = None
        """Who is asked for a certificate."""
        self._considering = False
        """Whether the store looks at one."""
        self._next_ms = 0
        """When somebody may be asked for one."""
        self._lack: Lack | None = None
        """What was missing when the store was looked through; None before that."""
        self._surveying = False
        self._missing: dict[int, None] = {}
        """Slices that are not here, not wanted from anybody, and not being stored; the next one first."""
        self._wanted: dict[int, SessionId] = {}
        """Slices that are wanted, but for those given up."""
        self._storing: dict[int, None] = {}
        """Slices that the store works on."""
        self._number = 0
        """Of the checkpoint whose live set is loaded; 0 for none."""
        self._moved_ms = 0
        """When one of PACE_PARTS was whole last, or the loading began; in patient time."""
        self._moved = 0
        """Slices that were stored since."""
        self._first_asked_ms: int | None = None
        """When somebody was asked for a certificate for the first time, in patient time."""
        self._told = 0
        """How many of PROGRESS_STEPS the operator has heard of."""

    # -- what others ask ---------------------------------------------------------------------------------------------

    def holds_back(self, state: State) -> bool:
        """Whether nothing is to be fetched now: what stands before it is, or may be, a live set that is not here."""
        if state.loading:
            return True
        # For once: who is silent, and there may be many, must not keep a newcomer from all others for ever.
        asked_ms = self._first_asked_ms
        waits = asked_ms is not None and self._time.patient_ms - asked_ms <= CERTIFICATE_WAIT_MS
        return waits and _is_fresh(state) and (self._asked is not None or self._considering)

    def status(self) -> dict[str, Any] | None:
        """How far a live set is loaded, JSON-able; None while none is.

        ``number`` of the checkpoint; slices ``held`` ``of`` all, both None before they are known.
        """
        if not self._number:
            return None
        lack = self._lack
        return {"number": self._number, "held": lack and self._held(lack), "of": lack and lack.of}

    def _held(self, lack: Lack) -> int:
        return lack.of - len(self._missing) - len(self._wanted) - len(self._storing)

    # -- certificates ------------------------------------------------------------------------------------------------

    def heard(self, session: Session, digest: Digest, state: State) -> None:
        """Take what a peer's digest says of its checkpoint."""
        named = digest.checkpoint
        if named is not None:  # while a peer takes away what one leaves out, it names none
            if named <= state.checkpoint:
                session.higher = None
            elif session.higher is None or session.higher[0] <= state.checkpoint:  # that one came as events
                session.higher = named, self._time.patient_ms
        self._ask(state)
        self._want(state)

    def _ask(self, state: State) -> None:
        """Ask somebody for a certificate, if it is time to."""
        if self._asked is not None or self._considering or self._time.ms < self._next_ms:
            return
        if state.leaving or state.loaded:  # that is for this daemon alone to do, however long it takes
            return
        limit_ms = self._time.patient_ms - CERTIFICATE_WAIT_MS
        if state.loading and self._moved_ms > limit_ms and any(map(self._may_lend, self._sessions.values())):
            return
        at_once = state.loading or _is_fresh(state)
        found = [
            session
            for session in self._sessions.values()
            if session.digest is not None
            and _is_higher(session.digest, state)
            and session.higher is not None
            and (at_once or session.higher[1] <= limit_ms)
            and session.certificate_wanted is None
            and self._time.ms >= session.certificate_next_ms
            and not session.behind
        ]
        if not found:
            return
        # Anybody can be an observer, and name what does not exist.
        session = self._rng.choice([each for each in found if not each.peer.observer] or found)
        assert session.digest is not None
        assert session.digest.checkpoint is not None
        self._asked = session.id
        if self._first_asked_ms is None:
            self._first_asked_ms = self._time.patient_ms
        session.certificate_wanted = session.digest.checkpoint, self._time.patient_ms
        self._outbox.send(session, CertificateWant(session.digest.checkpoint).encode())

    def _may_lend(self, session: Session) -> bool:
        """Whether a peer may have slices of what is loaded: it says so and brings them, or has said nothing yet."""
        return session.digest is None or (
            session.digest.checkpoint == self._number and self._time.ms >= session.leaves_next_ms
        )

    def certificate(self, session: Session, answer: CertificateAnswer, state: State) -> None:
        """Take a certificate.

        Raises:
            RemoteProtocolError: Nobody asked for it.
        """
        if session.certificate_wanted is None or session.certificate_wanted[0] != answer.number:
            raise RemoteProtocolError(f"certificate: that of checkpoint {answer.number} was not wanted")
        session.certificate_wanted = None
        if self._asked != session.id:  # it came too late, and somebody else was asked
            return
        self._asked = None
        if answer.wire:
            self._considering = True
            self._outbox.add(Consider(session.id, answer.number, answer.wire))
        else:
            session.certificate_next_ms = self._time.ms + AGAIN_MS
            self._ask(state)

    def considered(self, session: Session | None, number: int, answer: Answer, state: State) -> None:
        """Take what the store found of a certificate.

        Args:
            session: Of the peer that sent it; None when it has ended meanwhile.
            number: Of the checkpoint.
            answer: What was found.
            state: What is stored now.

        Raises:
            ForgedError: It proves nothing.
        """
        if not self._considering:
            raise LocalProtocolError("BUG! no certificate is being looked at", code=Code.SYSTEM_BUG)
        self._considering = False
        match answer.found:
            case Found.FORGED:
                if session is not None:
                    raise ForgedError(answer.detail)
            case Found.DISTRUSTED:
                self._outbox.notice(
                    session, "warning", "checkpoint_distrusted", number=number, reason=answer.detail,
                    code=Code.CHECKPOINT_DISTRUSTED,
                )  # fmt: skip
                if session is not None:
                    session.certificate_next_ms = self._time.ms + AGAIN_MS
            case Found.TAKEN:
                self._next_ms = self._time.ms + CERTIFICATE_WAIT_MS
            case Found.FAILED:
                self._next_ms = self._time.ms + AGAIN_MS
            case Found.LOADS:
                self._outbox.notice(
                    session, "warning", "checkpoint_loading", number=number, reason=answer.detail,
                    code=Code.CHECKPOINT_LACKS,
                )  # fmt: skip
        self._ask(state)
        self._want(state)

    # -- slices ------------------------------------------------------------------------------------------------------

    def follow(self, state: State) -> bool:
        """Begin, end or change over as the store does; whether what was loaded is whole now."""
        number = state.checkpoint if state.loading else 0
        if number == self._number:
            return False
        ended = self._number != 0 and number == 0
        if ended:
            self._outbox.notice(None, "info", "checkpoint_loaded", number=self._number, code=Code.CHECKPOINT_LACKS)
        self._number, self._lack, self._told = number, None, 0
        self._moved_ms, self._moved = self._time.patient_ms, 0
        self._missing, self._wanted, self._storing = {}, {}, {}
        for session in self._sessions.values():
            session.leaves_next_ms = 0  # it did not have what was loaded before
        self._survey()
        return ended

    def _survey(self) -> None:
        if self._number and not self._surveying:
            self._surveying = True
            self._outbox.add(Survey())

    def lacking(self, lack: Lack | None, state: State) -> None:
        """Take what is missing; None when the store could not be asked."""
        self._surveying = False
        if lack is None or lack.number != self._number:
            return  # the next tick asks again
        if self._lack is None:  # before that none could come
            self._moved_ms = self._time.patient_ms
        self._lack = lack
        self._missing = dict.fromkeys(lack.missing)
        self._told = self._step(lack)
        self._want(state)

    def _want(self, state: State) -> None:
        """Want slices from all who hold them, as many as may be under way."""
        if not state.loading or state.checkpoint != self._number:
            return
        holders = [session for session in self._sessions.values() if self._may_want(session)]
        self._rng.shuffle(holders)
        holders.sort(key=_promise)
        while holders and self._missing and len(self._wanted) + len(self._storing) < PENDING_MAX:
            for session in list(holders):  # one of each before a second one
                place = next(
                    (each for each in self._missing if (self._number, each) not in session.leaves_wanted), None
                )
                if place is None or len(self._wanted) + len(self._storing) >= PENDING_MAX:
                    return
                del self._missing[place]
                self._wanted[place] = session.id
                session.leaves_wanted[self._number, place] = self._time.patient_ms
                self._outbox.send(session, LeavesWant(self._number, place).encode())
                if not self._may_want(session):
                    holders.remove(session)

    def _may_want(self, session: Session) -> bool:
        return (
            session.digest is not None
            and self._may_lend(session)
            and len(session.leaves_wanted) < WANTS_MAX
            and not session.behind
        )

    def leaves(self, session: Session, answer: Leaves, state: State) -> None:
        """Take a slice; one that comes too late is taken if it is still missing and there is room for it.

        Raises:
            RemoteProtocolError: Nobody wanted it.
        """
        asked_ms = session.leaves_wanted.pop((answer.number, answer.place), None)
        if asked_ms is None:
            raise RemoteProtocolError(f"slice {answer.place} of checkpoint {answer.number}: it was not wanted")
        if answer.number != self._number:
            return
        late = self._wanted.get(answer.place) != session.id
        session.leaves_ms = self._time.patient_ms - asked_ms if answer.leaves else None
        if not answer.leaves:
            session.leaves_next_ms = self._time.ms + STALL_MS
            if not late:
                self._give_up(answer.place)
        elif not late or (answer.place in self._missing and len(self._storing) < PENDING_MAX):
            self._wanted.pop(answer.place, None)
            self._missing.pop(answer.place, None)
            self._storing[answer.place] = None
            session.leaves_next_ms = 0
            self._outbox.add(Load(session.id, answer.number, answer.place, answer.leaves, answer.path))
        self._want(state)

    def _give_up(self, place: int) -> None:
        """Leave a slice that was wanted to others."""
        del self._wanted[place]
        self._missing[place] = None

    def loaded(self, session: Session | None, number: int, place: int, answer: Answer, state: State) -> None:
        """Take what the store made of a slice.

        Args:
            session: Of the peer that sent it; None when it has ended meanwhile.
            number: Of the checkpoint.
            place: Of the slice.
            answer: What was found.
            state: What is stored now.

        Raises:
            ForgedError: It proves nothing.
        """
        if number == self._number and self._storing.pop(place, place) is None:
            if answer.found is Found.TAKEN:
                self._move()
                self._tell()
            else:
                self._missing[place] = None
        if answer.found is Found.FORGED and session is not None:
            raise ForgedError(answer.detail)
        if answer.found is not Found.FAILED:  # else the next tick goes on
            self._want(state)

    def _move(self) -> None:
        self._moved += 1
        if self._moved * PACE_PARTS >= (0 if self._lack is None else self._lack.of):
            self._moved_ms, self._moved = self._time.patient_ms, 0

    def _step(self, lack: Lack) -> int:
        return PROGRESS_STEPS * self._held(lack) // max(1, lack.of)

    def _tell(self) -> None:
        """Tell the operator of every tenth."""
        if self._lack is not None and (step := self._step(self._lack)) > self._told:
            self._told = step
            self._outbox.notice(None, "info", "checkpoint_slices", **(self.status() or {}), code=Code.CHECKPOINT_LACKS)

    # -- time --------------------------------------------------------------------------------------------------------

    def closed(self, session: Session, state: State) -> None:
        """Forget a session: what it was asked for is wanted from others."""
        if self._asked == session.id:
            self._asked = None
        for place in [place for place, asked in self._wanted.items() if asked == session.id]:
            self._give_up(place)
        self._ask(state)
        self._want(state)

    def tick(self, state: State) -> list[Close]:
        """Give up on answers that are late, ask for what is due; the sessions to be closed for being silent."""
        silent = [close for session in self._sessions.values() if (close := self._late(session)) is not None]
        if self._number and self._lack is None:
            self._survey()
        self._ask(state)
        self._want(state)
        return silent

    def electorate_changed(self) -> None:
        """Ask again whose certificates could not be trusted."""
        for session in self._sessions.values():
            session.certificate_next_ms = 0

    def _late(self, session: Session) -> Close | None:
        waited_ms = 0
        if session.certificate_wanted is not None:
            waited_ms = self._time.patient_ms - session.certificate_wanted[1]
            if waited_ms > CERTIFICATE_MS_MAX and self._asked == session.id:
                self._asked = None
        for (number, place), asked_ms in session.leaves_wanted.items():
            waited_ms = max(waited_ms, late_ms := self._time.patient_ms - asked_ms)
            if late_ms > SLICE_MS_MAX:
                session.leaves_ms = None
                session.leaves_next_ms = self._time.ms + STALL_MS
                if number == self._number and self._wanted.get(place) == session.id:
                    self._give_up(place)
        if waited_ms > SILENT_MS_MAX:
            reason = f"no answer to a want of a checkpoint for {SILENT_MS_MAX // 1000} s"
            return Close(session.id, Reason(reason, Code.SESSION_SILENT), 0.0)
        return None


def _promise(session: Session) -> tuple[bool, bool, int]:
    """Sorts whom to ask for a slice: who brought its last one, the quickest first; anybody can be an observer."""
    return session.leaves_ms is None, session.peer.observer, session.leaves_ms or 0


def _is_fresh(state: State) -> bool:
    """Whether nothing of anybody else is here."""
    return not state.checkpoint and (not state.logs or (len(state.logs) == 1 and state.own in state.logs))


def _is_higher(digest: Digest, state: State) -> bool:
    """Whether a peer names a higher checkpoint than is in force here."""
    return digest.checkpoint is not None and digest.checkpoint > state.checkpoint
