"""Telling where logs end: the proofs of forks and closings, to whoever has not heard of them, and from them.

A proof carries its own signatures, so it counts whoever brings it; only the store can tell whether it holds. It is sent
to every session when it becomes known here, and again when a peer's vector says that it knows no end as low as that.
"""

from collections.abc import Iterable, Sequence

from p2pnodes.gossip.effects import Outbox, Prove
from p2pnodes.gossip.frames import PROOFS_PER_FRAME_MAX, Mark, Proofs
from p2pnodes.gossip.rates import AuthorRates
from p2pnodes.gossip.session import PROVING_MAX, Session
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.branches import ended_log, ends_by
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import Close, Evidence, LogId
from p2pnodes.store.state import State


class Proving:
    """The half of the engine that speaks of ends."""

    def __init__(self, outbox: Outbox, authors: AuthorRates, time: Timeline) -> None:
        """Collect effects there, and count what each author's logs have checked."""
        self._outbox = outbox
        self._authors = authors
        self._time = time

    def tell(self, session: Session, logs: Iterable[LogId], state: State) -> None:
        """Send a peer the proofs of ends that it does not know, no more than it may have the store work on at once.

        Args:
            session: What it was told, and what it said, is what it knows.
            logs: Of whose ends to speak: logs that it listed with another mark than ours, or of whose ends more became
                known here just now. It takes no proofs of logs that it does not hold.
            state: What is known here.
        """
        if session.behind:  # the digest that is sent when the queue has drained leads here again
            return
        proofs: list[Evidence | Close] = []
        for log in logs:
            held = state.logs.get(log)
            mark = None if held is None else Mark.of(held.ends)
            if held is None or mark is None:
                continue
            if len(proofs) + 2 > PROVING_MAX * PROOFS_PER_FRAME_MAX:
                session.digest_due = True
                break
            known = session.told.get(log)
            if held.ends.evidence is not None and mark.forks_below(known):
                proofs.append(held.ends.evidence)
            if held.ends.close is not None and mark.closes_below(known):
                proofs.append(held.ends.close)
            session.tell(log, mark)
        for start in range(0, len(proofs), PROOFS_PER_FRAME_MAX):
            self._outbox.send(session, Proofs(proofs[start : start + PROOFS_PER_FRAME_MAX]).encode())

    def take(self, session: Session, frame: Proofs, state: State) -> bool:
        """Hand the store what would tell it something new, if it is good.

        Returns:
            False when the store has as much to do for this session as it may have: nothing was handed over.
        """
        news: list[Evidence | Close] = []
        for proof in frame.proofs:
            log, mark = ended_log(proof), Mark.of(ends_by(proof))
            held = state.logs.get(log)
            if held is None or mark is None or (isinstance(proof, Close) and proof.hotkey != held.hotkey):
                continue
            session.tell(log, mark)
            if _is_lower(mark, Mark.of(held.ends)) and self._authors.provable(held.hotkey, self._time.ms):
                news.append(proof)
        if not news:
            return True
        if len(session.proving) >= PROVING_MAX:
            return False
        session.proving.append(tuple(news))
        self._outbox.add(Prove(session.id, tuple(news)))
        return True

    def taken(self, proofs: Sequence[Evidence | Close], state: State) -> None:
        """Look at what the store made of proofs.

        Raises:
            RemoteProtocolError: One of them proved nothing: no honest peer has such.
        """
        for proof in proofs:
            log, mark = ended_log(proof), Mark.of(ends_by(proof))
            held = state.logs.get(log)
            if held is not None and mark is not None and _is_lower(mark, Mark.of(held.ends)):
                raise RemoteProtocolError(f"a proof of the end of log {log} that does not hold")
            if held is not None:
                self._authors.proved(held.hotkey, self._time.ms)


def _is_lower(mark: Mark, known: Mark | None) -> bool:
    return mark.forks_below(known) or mark.closes_below(known)
