"""What must hold when the network has healed and come to rest."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from p2pnodes.model.stateroot import state_root
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.workload import Acknowledged

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
    if peer.ledger.forks_seen:
        raise CheckFailedError(f"{peer.name} saw an honest author fork (rule 4): {peer.ledger.forks_seen}")
    if void := peer.disk.execute("SELECT kind, void FROM events WHERE void IS NOT NULL").fetchall():
        raise CheckFailedError(f"{peer.name} holds void events of honest authors (rule 3): {void}")


def _kept(peer: SimPeer, acknowledged: Acknowledged) -> None:
    found, uuid, label = acknowledged
    if uuid:
        kept = uuid in peer.ledger.uuids_deleted_by(found)
    else:
        key = peer.ledger.facts.claim_key(found)
        kept = key is not None and peer.ledger.facts.claim(key) is not None
    if not kept:
        raise CheckFailedError(f"{peer.name} lost what was acknowledged (rule 7): {label}")


def _events_kept(peer: SimPeer, author: SimPeer) -> None:
    for event in author.acknowledged:
        held = peer.disk.execute(
            "SELECT 1 FROM events JOIN logs USING (log) WHERE node_key = ? AND number = ? AND seq = ? AND id = ?",
            (*event.log, event.seq, event.id),
        ).fetchone()
        if held is None:
            raise CheckFailedError(f"{peer.name} lacks a durable event of {author.name}: seq {event.seq} {event.kind}")
