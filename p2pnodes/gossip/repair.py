"""Repairs: single events that are stored, and damaged there, are asked for again from peers that hold them.

A log is the same everywhere, so any peer's copy will do: its id vouches for it, and the store looks at the signature.
Who is asked has proved its hotkey and may lie; then the next one is asked.
"""

import random
from collections.abc import Mapping
from typing import Final

from p2pnodes.gossip.effects import Outbox
from p2pnodes.gossip.fetch import WANT_MS_MAX
from p2pnodes.gossip.frames import Want
from p2pnodes.gossip.search import PROBE_BYTES
from p2pnodes.gossip.session import Session, SessionId, Wanted
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.state import Outcome, Result

REPAIRS_MAX: Final = 64
"""Events that are asked for at once; more are noted again when a peer wants them again."""

ROUND_MS: Final = 60_000
"""Pause before those are asked again who were all asked in vain: others may have come."""


class _Repair:
    """One event that is asked for.

    Attributes:
        asked: Sessions that were asked in this round.
        next_ms: When the next one is.
    """

    def __init__(self) -> None:
        self.asked: set[SessionId] = set()
        self.next_ms = 0


class Repairs:
    """All events that are asked for again; one session at a time is asked for each."""

    def __init__(
        self,
        sessions: Mapping[SessionId, Session],
        *,
        wants_max: int,
        outbox: Outbox,
        time: Timeline,
        rng: random.Random,
    ) -> None:
        """Work on the engine's sessions; ``wants_max`` is the bound of wants without an answer in one of them."""
        self._sessions = sessions
        self._wants_max = wants_max
        self._outbox = outbox
        self._time = time
        self._rng = rng
        self._repairs: dict[tuple[LogId, int], _Repair] = {}

    def need(self, log: LogId, seq: int) -> None:
        """Ask for an event from the next tick on, if there is room."""
        if len(self._repairs) < REPAIRS_MAX:
            self._repairs.setdefault((log, seq), _Repair())

    def wants(self, event: Event) -> bool:
        """Whether an event is asked for."""
        return (event.log, event.seq) in self._repairs

    def failed(self, log: LogId, seq: int) -> None:
        """Ask the next one: whoever was asked does not have it, or showed another one."""
        if (repair := self._repairs.get((log, seq))) is not None:
            repair.next_ms = 0

    def judged(self, event: Event, outcome: Outcome | None) -> None:
        """Take what the store made of an event; None when it failed, and the event is asked for again."""
        if outcome is not None and outcome.result is Result.KNOWN:
            self._repairs.pop((event.log, event.seq), None)
        else:
            self.failed(event.log, event.seq)

    def tick(self) -> None:
        """Ask for what is due."""
        for (log, seq), repair in self._repairs.items():
            if self._time.patient_ms >= repair.next_ms:
                self._ask(log, seq, repair)

    def _ask(self, log: LogId, seq: int, repair: _Repair) -> None:
        left = [session for session in self._sessions.values() if session.id not in repair.asked]
        if not left:
            repair.asked.clear()
            repair.next_ms = self._time.patient_ms + ROUND_MS
            return
        free = [
            session
            for session in left
            if len(session.wanted) < self._wants_max
            and not session.wants(log)  # answers are told apart by log and seq alone
            and not session.behind
            and self._time.ms >= session.stalled_until_ms
        ]
        if not free:
            return
        session = self._rng.choice([each for each in free if not each.peer.observer] or free)
        repair.asked.add(session.id)
        repair.next_ms = self._time.patient_ms + WANT_MS_MAX
        session.wanted[log, seq] = Wanted(1, PROBE_BYTES, self._time.patient_ms, probe=True)
        self._outbox.send(session, Want(log, seq, 1, PROBE_BYTES).encode())
