"""Which stored events make a proof of a GPU's claim (``model/proof.py``).

Besides the registration and the votes these are, of each of their logs, the first event, which says for whom the log
speaks, and the delegations that were the latest at a chosen event and now. Nothing at or above a log's cut is chosen.
"""

from collections.abc import Iterable

from p2pnodes.model import inventory, proof
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import FAILED, Event
from p2pnodes.model.inventory import Carriage, Claim, Mandate, Vote, Weights
from p2pnodes.model.proof import Proof, ProofError
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store.damage import damaged, stored_event
from p2pnodes.store.facts import Facts


def gather(facts: Facts, uuid: str, weights: Weights) -> Proof | None:
    """Prove the claim that owns a GPU, in one snapshot.

    Args:
        facts: What is stored.
        uuid: The GPU.
        weights: The electorate of the proof, and who is enrolled.

    Returns:
        The proof, checked; None when the inventory has no such GPU.

    Raises:
        ProofError: What is stored proves nothing; the message says what is missing.
    """
    row = facts.connection.execute(
        "SELECT claim, status FROM node WHERE bucket = ? AND uuid = ?", (bucket_of(uuid), uuid)
    ).fetchone()
    if row is None:
        return None
    key, status = row
    claim = facts.claim(key)
    assert claim is not None, "BUG! a row names a claim that is not known"
    logs = _Logs(facts, weights)
    logs.choose(*_carriage(facts, key, claim, weights.electorate))
    for vote, log, seq in _votes(facts, key, weights):
        logs.choose(log, seq)
        logs.enroll(vote.author, log)
    try:
        return proof.build(weights.network, weights.electorate, claim.id, logs.events())
    except ProofError as error:
        raise ProofError(
            f"no proof for GPU {uuid}: {error}; it is {status} in the inventory, which weighs enrolled stake alone"
        ) from error


class _Logs:
    """The events that a proof needs, by log."""

    def __init__(self, facts: Facts, weights: Weights) -> None:
        self._facts = facts
        self._execute = facts.connection.execute
        self._weights = weights
        self._seqs: dict[int, set[int]] = {}

    def choose(self, log: int, seq: int) -> None:
        """Take an event with what it needs of its log."""
        (before,) = self._execute("SELECT max(seq) FROM delegations WHERE log = ? AND seq < ?", (log, seq)).fetchone()
        (latest,) = self._execute(
            "SELECT max(seq) FROM delegations WHERE log = ? AND seq < ?",
            (log, self._facts.cuts.get(log, INT_MAX)),
        ).fetchone()
        self._seqs.setdefault(log, set()).update({0, before, seq, latest})

    def enroll(self, hotkey: bytes, log: int) -> None:
        """Take a delegation that lives at the electorate's time, from ``log`` if it has one, else from another."""
        delegations = self._execute(
            "SELECT log, max(seq), not_before, not_after FROM delegations JOIN logs USING (log) WHERE hotkey = ?"
            " AND (cut IS NULL OR seq < cut) GROUP BY log ORDER BY log <> ?",
            (hotkey, log),
        )
        for other, seq, *window in delegations.fetchall():
            mandate = Mandate(((window[0], window[1]),), 0)
            if hotkey in Weights(self._weights.network, self._weights.electorate, {hotkey: mandate}).enrolled:
                self._seqs.setdefault(other, set()).update({0, seq})
                return

    def events(self) -> Iterable[Event]:
        """Everything that was taken."""
        for log, seqs in self._seqs.items():
            for seq in seqs:
                row = self._execute("SELECT wire FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
                if row is None:
                    raise damaged(f"seq {seq} of log {log} is not in it, by which it holds a statement")
                yield stored_event(row[0])


def _carriage(facts: Facts, key: int, claim: Claim, electorate: Electorate) -> tuple[int, int]:
    """Log and seq of an event that makes the claim count: an ``add`` if there is one, for a carry can be large."""
    rows = facts.connection.execute(
        "SELECT log, seq, electorate_block, c.hlc FROM carriage c JOIN events USING (log, seq) WHERE claim = ?"
        " ORDER BY kind, electorate_block DESC",
        (key,),
    )
    for log, seq, block, hlc in rows:
        carriage = Carriage(facts.author(log), block, hlc, facts.is_void(log, seq))
        if inventory.counts(claim._replace(carriages=(carriage,)), electorate):
            return log, seq
    raise ProofError(f"no proof: nothing that is stored makes claim {claim.id.hex()} count at block {electorate.block}")


def _votes(facts: Facts, key: int, weights: Weights) -> list[tuple[Vote, int, int]]:
    """The votes that help to prove a claim, each with its log and seq."""
    rows = facts.connection.execute(
        "SELECT log, seq, hlc, finding, since, method, detail FROM verdict WHERE claim = ?", (key,)
    )
    places = {Vote(facts.author(log), *vote): (log, seq) for log, seq, *vote in rows.fetchall()}
    live = inventory.live_votes(places, weights)
    return [(vote, *places[vote]) for vote in live.values() if vote.finding != FAILED]
