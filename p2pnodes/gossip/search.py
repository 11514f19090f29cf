"""The search for the point where two branches of a log part, by looking at single events of the other one.

Two peers that hold different branches cannot store each other's events, and neither has the proof: only two events
with equal seq and equal previous id are one. So one of them asks for events of the other's branch, one at a time, back
in steps that double and then halving what is left, until the store finds such a pair. Either end may search, also both.

A peer's word is never enough: what it says begins a search, its events end it. Who says that it holds another event,
and then shows ours, or none, or one that follows on neither, has lost the search and is not asked again for a while.
"""

from collections.abc import Collection, Mapping
from typing import Final

from p2pnodes.gossip.effects import Outbox
from p2pnodes.gossip.frames import Want
from p2pnodes.gossip.session import Session, SessionId, Wanted
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.state import LogState, Outcome, Result

SEARCHES_MAX: Final = 2
"""Searches at once in one session: they take places of wants, and fetching must go on. Others begin later, with the
peer's next word."""

PROBES_MAX: Final = 128
"""Events that one search looks at: seqs have 63 bits, once for the steps back and once for halving."""

PROBE_BYTES: Final = 1
"""Credit of a want that is to bring one event: the first one comes whatever it weighs."""

SEARCH_MS_MAX: Final = 60_000
"""Longest time of a search."""

PAUSE_MS: Final = 60_000
"""How long a log is not searched again in a session after a search of it, lost or not: two branches part once."""

PAUSES_MAX: Final = 64
"""Searches of a session whose pauses last; no further one begins before some end."""


class Search:
    """Where two branches part: at or below ``differs``, above ``agreed``. Pure; whoever looks tells what it saw.

    Attributes:
        looking: The seq to look at; None when there is nothing left to look at, though no proof was found.
        probes: How many were looked at.
        waiting: Whether the event at ``looking`` was asked for and has not been judged.
        began_ms: When the search began, in patient time.
    """

    def __init__(self, differs: int, began_ms: int, *, claimed: bool) -> None:
        """Begin.

        Args:
            differs: Seq at which the other branch has another event than ours, or another event before it.
            began_ms: Patient time.
            claimed: Whether that was only said, so that the event has to be looked at first.
        """
        self.began_ms = began_ms
        self.probes = 0
        self.waiting = False
        self._agreed = -1
        self._differs = differs
        self._claimed = claimed
        self._step = 1
        self.looking: int | None = differs if claimed else self._next()

    def agrees(self) -> bool:
        """Note that both branches have the event at ``looking``; False when that contradicts what was said."""
        if self._claimed:
            return False
        if self.looking is not None:
            self._agreed, self._step = self.looking, 0
            self._go_on()
        return True

    def disagrees(self) -> None:
        """Note that they differ there, which alone is no proof."""
        if self.looking is not None:
            self._differs, self._claimed = self.looking, False
            self._go_on()

    def _go_on(self) -> None:
        self.probes += 1
        self.looking = self._next() if self.probes < PROBES_MAX else None

    def _next(self) -> int | None:
        if self._differs - self._agreed <= 1:
            return None
        if not self._step:
            return (self._agreed + self._differs) // 2
        back = max(0, self._differs - self._step)
        self._step *= 2
        return back


class Searches:
    """The searches of all sessions; each session has its own ones."""

    def __init__(
        self, sessions: Mapping[SessionId, Session], *, wants_max: int, outbox: Outbox, time: Timeline
    ) -> None:
        """Work on the engine's sessions; ``wants_max`` is the bound of wants without an answer in one of them."""
        self._sessions = sessions
        self._wants_max = wants_max
        self._outbox = outbox
        self._time = time

    def begin(self, session: Session, log: LogId, differs: int, *, claimed: bool) -> None:
        """Begin a search, unless this session has one of the log, had one just now, or has enough.

        Args:
            session: Its peer holds the other branch.
            log: A log that we hold.
            differs: See ``Search``.
            claimed: See ``Search``.
        """
        session.searched = {each: until_ms for each, until_ms in session.searched.items() if until_ms > self._time.ms}
        if log in session.searches or log in session.searched:
            return
        if len(session.searches) >= SEARCHES_MAX or len(session.searched) >= PAUSES_MAX:
            return
        session.searches[log] = Search(differs, self._time.patient_ms, claimed=claimed)
        self.look(session)

    def look(self, session: Session) -> None:
        """Ask for the events that the session's searches have to look at, as far as its answers may come now."""
        if self._time.ms < session.stalled_until_ms:
            return
        for log, search in list(session.searches.items()):
            if search.looking is None:
                self.lose(session, log, "its events follow on neither branch")
            elif not search.waiting and len(session.wanted) < self._wants_max and not session.wants(log):
                search.waiting = True
                session.wanted[log, search.looking] = Wanted(1, PROBE_BYTES, self._time.patient_ms, probe=True)
                self._outbox.send(session, Want(log, search.looking, 1, PROBE_BYTES).encode())

    def judged(self, session: Session, event: Event, outcome: Outcome | None) -> None:
        """Take what the store found of an event that was looked at; None when it has to be looked at again."""
        search = session.searches.get(event.log)
        if search is None or event.seq != search.looking:
            return
        search.waiting = False
        if outcome is None:
            return
        if outcome.proved:
            self._end(session, event.log)
        elif outcome.result is Result.KNOWN:
            if not search.agrees():
                self.lose(session, event.log, f"it showed our own event at seq {event.seq}, where its own ones differ")
        elif outcome.result is Result.FORK:
            search.disagrees()
        else:
            self.lose(session, event.log, f"its event at seq {event.seq} could not be compared: {outcome.detail}")
        self.look(session)

    def lose(self, session: Session, log: LogId, reason: str) -> None:
        """End a search that did not find what the peer's words promised."""
        if log in session.searches:
            self._end(session, log)
            self._outbox.notice(
                session, "warning", "fork_not_found", log=str(log), reason=reason, code=Code.EVENT_FORK_NOT_FOUND
            )

    def _end(self, session: Session, log: LogId) -> None:
        del session.searches[log]
        session.searched[log] = self._time.ms + PAUSE_MS

    def ended(self, logs: Collection[LogId], held: Mapping[LogId, LogState]) -> None:
        """Drop searches above what is proved now: logs have ended there, or are not held any more."""
        for session in self._sessions.values():
            for log in session.searches.keys() & set(logs):
                if log not in held or held[log].cut is not None:
                    del session.searches[log]

    def tick(self) -> None:
        """Go on with searches that had to wait; end those that take too long."""
        for session in self._sessions.values():
            for log, search in list(session.searches.items()):
                if self._time.patient_ms - search.began_ms > SEARCH_MS_MAX:
                    self.lose(session, log, f"not found in {SEARCH_MS_MAX // 1000} s")
            if session.searches:
                self.look(session)
