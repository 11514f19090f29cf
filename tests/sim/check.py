"""What must hold when the network has healed and come to rest."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from p2pnodes.model import inventory
from p2pnodes.model.inventory import Claim, Objection
from p2pnodes.model.stateroot import state_root
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.workload import Acknowledged
from tests.support import forks

if TYPE_CHECKING:
    from tests.sim.world import World


def agree(peers: Iterable[SimPeer]) -> bool:
    """Whether all peers hold the same events and rows under the same electorate."""
    states = [peer.ledger.state for peer in peers]
    return len({(s.vector_digest, s.state_root, s.electorate_digest) for s in states}) == 1


def check(world: "World") -> None:
    """Check a network at rest.

    Raises:
        CheckFailedError: A rule is broken; the message says which, where and by what.
    """
    first = world.peers[0]
    for peer in world.peers:
        same(peer, first)
        _rows(peer)
        _honest(peer)
        for acknowledged in world.workload.acknowledged:
            _kept(peer, acknowledged)
        for author in world.peers:
            _events_kept(peer, author)


def same(peer: SimPeer, first: SimPeer) -> None:
    """Require that two peers hold the same events and give the same rows.

    Raises:
        CheckFailedError: They do not.
    """
    if peer.ledger.state.heads != first.ledger.state.heads:
        raise CheckFailedError(f"{peer.name} and {first.name} hold different heads")
    if list(peer.ledger.rows()) != list(first.ledger.rows()):
        raise CheckFailedError(f"{peer.name} and {first.name} hold different rows (rule 1)")
    if peer.ledger.state.state_root != first.ledger.state.state_root:
        raise CheckFailedError(f"{peer.name} and {first.name} have different state roots (rule 1)")


def _rows(peer: SimPeer) -> None:
    root = peer.ledger.state.state_root
    if state_root(peer.ledger.rows()) != root:
        raise CheckFailedError(f"{peer.name} keeps rows that f does not give (rule 1)")
    with peer.ledger.transaction():
        peer.ledger.rebuild()
    if peer.ledger.state.state_root != root:
        raise CheckFailedError(f"{peer.name} keeps rows that differ from a rebuild (rule 7)")
    if (found := peer.disk.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
        raise CheckFailedError(f"{peer.name} has a damaged database (rule 7): {found}")


def _honest(peer: SimPeer) -> None:
    if found := forks(peer.ledger):
        raise CheckFailedError(f"{peer.name} saw an honest author fork (rule 4): {found}")
    if void := peer.disk.execute("SELECT kind, void FROM events WHERE void IS NOT NULL").fetchall():
        raise CheckFailedError(f"{peer.name} holds void events of honest authors (rule 3): {void}")


def _kept(peer: SimPeer, acknowledged: Acknowledged) -> None:
    found, uuid, label = acknowledged
    if uuid:
        kept = uuid in peer.ledger.uuids_deleted_by(found)
    else:
        key = peer.ledger.facts.claim_key(found)
        claim = None if key is None else peer.ledger.facts.claim(key)
        kept = claim is not None and (
            inventory.objection(claim, peer.ledger.weights.electorate) is not Objection.NOT_CARRIED
            or all(_deleted(peer, claim, uuid) for uuid in claim.uuids)
        )
    if not kept:
        raise CheckFailedError(f"{peer.name} lost what was acknowledged (rule 7): {label}")


def _deleted(peer: SimPeer, claim: Claim, uuid: str) -> bool:
    """Whether any event says that a claim's miner deleted a GPU of it."""
    query = "SELECT EXISTS (SELECT 1 FROM deletion WHERE uuid = ? AND miner = ? AND nonce >= ?)"
    (found,) = peer.disk.execute(query, (uuid, claim.miner, claim.nonce)).fetchone()
    return bool(found)


def _events_kept(peer: SimPeer, author: SimPeer) -> None:
    for event in author.acknowledged:
        held = peer.disk.execute(
            "SELECT 1 FROM events JOIN logs USING (log) WHERE node_key = ? AND number = ? AND seq = ? AND id = ?",
            (*event.log, event.seq, event.id),
        ).fetchone()
        if held is None:
            raise CheckFailedError(f"{peer.name} lacks a durable event of {author.name}: seq {event.seq} {event.kind}")
