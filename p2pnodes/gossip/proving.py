"""Telling where logs end: the proofs of forks and closings, to whoever has not heard of them, and from them.

A proof carries its own signatures, so it counts whoever brings it; only the store can tell whether it holds. It is sent
to every session when it becomes known here, and again when a peer's vector says that it knows no end as low as that.
"""

from collections.abc import Iterable, Sequence

from p2pnodes.gossip.effects import Outbox, Prove
from p2pnodes.gossip.frames import PROOFS_PER_FRAME_MAX, Mark, Proofs
from p2pnodes.gossip.session import PROVING_MAX, Session
from p2pnodes.model.branches import ended_log, ends_by
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import Close, Evidence, LogId
from p2pnodes.store.ledger import State


class Proving:
    """The half of the engine that speaks of ends."""

    def __init__(self, outbox: Outbox) -> None:
        """Collect effects there."""
        self._outbox = outbox

    def tell(self, session: Session, logs: Iterable[LogId], state: State, *, unasked: bool = False) -> None:
        """Send a peer the proofs of ends that it does not know, no more than it may have the store work on at once.

        Args:
            session: Its peer's word says what it knows.
            logs: Of whose ends to speak.
            state: What is known here.
            unasked: Also of logs that its last vector did not list: it takes no proofs of logs that it does not hold.
        """
        if session.behind:  # the digest that is sent when the queue has drained leads here again
            return
        proofs: list[Evidence | Close] = []
        for log in logs:
            held = state.logs.get(log)
            mark = None if held is None else Mark.of(held.ends)
            if held is None or mark is None or not (unasked or log in (session.reported or {})):
                continue
            if len(proofs) + 2 > PROVING_MAX * PROOFS_PER_FRAME_MAX:
                session.digest_due = True
                break
            known = session.mark(log)
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
            if _is_lower(mark, Mark.of(held.ends)):
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


def _is_lower(mark: Mark, known: Mark | None) -> bool:
    return mark.forks_below(known) or mark.closes_below(known)
