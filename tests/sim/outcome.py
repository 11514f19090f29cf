"""What must hold on a stage at rest, whatever was played on it: one inventory, and task statuses that agree with it."""

from typing import TYPE_CHECKING

from p2pnodes.model import inventory
from p2pnodes.model.events import FAILED, VERIFIED, Event
from p2pnodes.model.inventory import Objection, Row, TaskStatus
from p2pnodes.model.stateroot import bucket_of, state_root
from tests.model.reference import Reference
from tests.sim.check import same
from tests.sim.peer import CheckFailedError, SimPeer
from tests.support import forks, hotkey

if TYPE_CHECKING:
    from tests.sim.stage import Posted, Stage


def row_of(peer: SimPeer, uuid: str) -> Row | None:
    """The row of a GPU, as f gives it on this peer now."""
    return next((row for row in peer.ledger.rows() if row.uuid == uuid), None)


def listed(peer: SimPeer, uuid: str) -> tuple[bytes, str] | None:
    """Id of the claim that owns a GPU, and the GPU's status, as the peer's database says."""
    query = "SELECT claim_id, node.status FROM node JOIN claim USING (claim) WHERE bucket = ? AND uuid = ?"
    row: tuple[bytes, str] | None = peer.disk.execute(query, (bucket_of(uuid), uuid)).fetchone()
    return row


def task_of(peer: SimPeer, posted: "Posted") -> TaskStatus | None:
    """What the peer answers to the poll for a claim's task."""
    return peer.ledger.facts.task_status(posted.request.hotkey, posted.claim_id[:16], peer.ledger.weights)


def check(stage: "Stage") -> None:
    """Check a stage at rest.

    Raises:
        CheckFailedError: A rule is broken; the message says which, and where.
    """
    first = stage.up[0]
    for peer in stage.up:
        same(peer, first)
        if state_root(peer.ledger.rows()) != peer.ledger.state.state_root:
            raise CheckFailedError(f"{peer.name} keeps rows that f does not give (rule 1)")
        _trusted(peer, stage)
        _cut_is_real(peer, stage)
        _nothing_back(peer, stage)
    for posted in stage.claims:
        statuses = {peer.name: task_of(peer, posted) for peer in stage.up}
        if len(set(statuses.values())) > 1:
            raise CheckFailedError(f"task {posted.claim_id.hex()[:8]} has several statuses: {statuses}")
        if (status := task_of(first, posted)) is not None:
            agrees_with_rows(first, posted, status)
        elif posted.accepted and not (first.ledger.state.checkpoint and _deleted(posted, stage)):
            raise CheckFailedError(f"{first.name} lost {posted.miner}'s claim, which was answered 202 (rule 7)")
        if posted.accepted:
            _carried(first, posted, stage)
    check_by_reference(stage)


def check_by_reference(stage: "Stage") -> None:
    """Compare rows and task statuses with the plain reading of the design (``tests.model.reference``).

    Raises:
        CheckFailedError: They differ.
    """
    peer = stage.up[0]
    wires = {wire for each in stage.up for (wire,) in each.disk.execute("SELECT wire FROM events")} | {*stage.history}
    ends = [end for found in peer.ledger.state.ends.values() for end in found if end is not None]
    events = [Event.decode(wire) for wire in sorted(wires)]
    closed = {log: entry.head.seq for log, entry in peer.ledger.checkpoints.line.logs.items()}
    reference = Reference(events, peer.ledger.weights.electorate, stage.parameters, ends, stage.late, closed)
    expected = reference.rows()
    if (found := {row.uuid: row for row in peer.ledger.rows()}) != expected:
        raise CheckFailedError(f"{peer.name} has rows {found}: a plain reading of the design gives {expected}")
    for posted in stage.claims:
        status, plain = task_of(peer, posted), reference.task(posted.claim_id)
        if status is not None and (status.status, status.detail) != plain:
            raise CheckFailedError(
                f"{peer.name} answers {status} to task {posted.claim_id.hex()[:8]}: a plain reading gives {plain}"
            )


def _trusted(peer: SimPeer, stage: "Stage") -> None:
    """Logs of honest daemons hold nothing void and no fork, unless somebody else writes them, too."""
    found = [log for log in forks(peer.ledger) if peer.ledger.state.logs[log].hotkey not in stage.forking]
    if found:
        raise CheckFailedError(f"{peer.name} saw a fork (rule 4): {found}")
    untrusted = stage.untrusted
    void = peer.disk.execute("SELECT hotkey, kind, void FROM events JOIN logs USING (log) WHERE void IS NOT NULL")
    if honest := [row for row in void if row[0] not in untrusted]:
        raise CheckFailedError(f"{peer.name} holds void events of honest authors (rule 3): {honest}")


def _cut_is_real(peer: SimPeer, stage: "Stage") -> None:
    """The checkpoint in force ends each log in an event that somebody wrote."""
    written = {Event.decode(wire).id for wire in stage.history}
    if made_up := [log for log, entry in peer.ledger.checkpoints.line.logs.items() if entry.head.id not in written]:
        raise CheckFailedError(f"{peer.name} has a cut in force through events that nobody wrote: {made_up}")


def _carried(peer: SimPeer, posted: "Posted", stage: "Stage") -> None:
    """What was acknowledged is carried by a log that counts, for as long as it means something."""
    key = peer.ledger.facts.claim_key(posted.claim_id)
    claim = None if key is None else peer.ledger.facts.claim(key)
    if key is None or claim is None or _deleted(posted, stage):
        return
    (block,) = peer.disk.execute("SELECT max(electorate_block) FROM carriage WHERE claim = ?", (key,)).fetchone()
    registration = peer.ledger.weights.electorate.registration_block(claim.miner)
    if registration is None or registration > block:
        return  # its miner has left the chain since, and may be back
    if inventory.objection(claim, peer.ledger.weights.electorate) is Objection.NOT_CARRIED:
        raise CheckFailedError(f"{peer.name} lost {posted.miner}'s claim on {posted.uuids}: nobody carries it (rule 7)")


def _deleted(posted: "Posted", stage: "Stage") -> bool:
    """Whether a miner deleted all GPUs of a claim: nobody need know of it for ever."""
    stamp = int(posted.request.nonce)
    gone = {uuid for miner, uuid, nonce in stage.deleted if miner == posted.miner and nonce >= stamp}
    return gone.issuperset(posted.uuids)


def _nothing_back(peer: SimPeer, stage: "Stage") -> None:
    """What was deleted with a 200 is not listed for an earlier registration of its miner."""
    for miner, uuid, nonce in stage.deleted:
        for claim in peer.ledger.facts.standing([uuid], peer.ledger.weights)[uuid].values():
            if claim.miner == hotkey(miner).public_key and claim.nonce < nonce:
                raise CheckFailedError(f"{peer.name} lists {uuid} again for {miner}, who deleted it (rule 7)")


def agrees_with_rows(peer: SimPeer, posted: "Posted", status: TaskStatus) -> None:
    """Compare a task's status with the rows of the GPUs on which its claim stands.

    Raises:
        CheckFailedError: They contradict each other.
    """
    standing = peer.ledger.facts.standing(posted.uuids, peer.ledger.weights)
    rows = {
        uuid: row_of(peer, uuid)
        for uuid, claims in standing.items()
        if any(claim.id == posted.claim_id for claim in claims.values())
    }
    if not rows:
        return  # deleted, or not counted: a vote that ended is kept
    own = [row for row in rows.values() if row and row.miner == posted.request.hotkey and row.status == VERIFIED]
    if (status.status == VERIFIED) is not (len(own) == len(rows)):
        raise CheckFailedError(f"task {posted.claim_id.hex()[:8]} is {status}, but the rows say {rows}")
    lost = [uuid for uuid, row in rows.items() if row and row not in own and row.status == VERIFIED]
    if lost and status.status != FAILED:
        raise CheckFailedError(f"task {posted.claim_id.hex()[:8]} is {status}, but {lost} are verified for others")
    if lost and len(rows) == 1 and lost[0] not in status.detail:
        raise CheckFailedError(f"task {posted.claim_id.hex()[:8]} failed without naming {lost[0]}: {status.detail!r}")
