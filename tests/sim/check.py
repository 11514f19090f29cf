"""What must hold while a network runs, and what when it has healed and come to rest."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from p2pnodes.model import inventory
from p2pnodes.model.events import Event, LogId
from p2pnodes.model.inventory import Claim, Objection
from p2pnodes.model.stateroot import state_root
from tests.sim.bounds import sizes
from tests.sim.guard import as_on_disk
from tests.sim.judged import judged_well
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.workload import Acknowledged
from tests.support import forks

if TYPE_CHECKING:
    from tests.sim.world import World

LATE_MS: Final = 10_000
"""A delivery that takes longer must be explained."""

RECOVERY_MS: Final = 60_000
"""How long after its end a fault explains what is late: what is dialled again waits up to 30 s, a handshake that leads
nowhere takes 10 s, and an end notices the silence of the other after 30 s."""


def agree(peers: Iterable[SimPeer]) -> bool:
    """Whether all peers hold the same events and rows under the same electorate."""
    states = [peer.ledger.state for peer in peers]
    return len({(s.vector_digest, s.state_root, s.electorate_digest, s.settled) for s in states}) == 1


def check(world: "World") -> None:
    """Check a network at rest.

    Raises:
        CheckFailedError: A rule is broken; the message says which, where and by what.
    """
    honest = world.honest
    liars = {peer.hotkey.public_key for peer in world.peers if not peer.honest}
    for peer in honest:
        same(peer, honest[0])
        as_on_disk(peer)
        rebuilt(peer)
        honest_logs(peer, liars)
        for acknowledged in world.workload.acknowledged:
            _kept(peer, acknowledged)
        for author in honest:
            _events_kept(peer, author)
    judged_well(honest[0])
    world.crimes.check(world)


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


def rebuilt(peer: SimPeer) -> None:
    """Require that a peer's rows are what f gives and a rebuild finds, in a database without damage.

    Raises:
        CheckFailedError: They are not.
    """
    root = peer.ledger.state.state_root
    if state_root(peer.ledger.rows()) != root:
        raise CheckFailedError(f"{peer.name} keeps rows that f does not give (rule 1)")
    with peer.ledger.transaction():
        peer.ledger.rebuild()
    if peer.ledger.state.state_root != root:
        raise CheckFailedError(f"{peer.name} keeps rows that differ from a rebuild (rule 7)")
    if (found := peer.disk.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
        raise CheckFailedError(f"{peer.name} has a damaged database (rule 7): {found}")


def honest_logs(peer: SimPeer, liars: Iterable[bytes]) -> None:
    """Require that no log of others than these hotkeys forks or holds void events.

    Raises:
        CheckFailedError: One does.
    """
    unknown = set(liars)
    if found := {log: fork for log, fork in forks(peer.ledger).items() if _author(peer, log) not in unknown}:
        raise CheckFailedError(f"{peer.name} saw an honest author fork (rule 4): {found}")
    void = peer.disk.execute("SELECT hotkey, kind, void FROM events JOIN logs USING (log) WHERE void IS NOT NULL")
    if found_void := [(kind, why) for key, kind, why in void if key not in unknown]:
        raise CheckFailedError(f"{peer.name} holds void events of honest authors (rule 3): {found_void}")


def _author(peer: SimPeer, log: LogId) -> bytes:
    return peer.ledger.state.logs[log].hotkey


def _kept(peer: SimPeer, acknowledged: Acknowledged) -> None:
    found, uuid, label, *_ = acknowledged
    if uuid:
        kept = uuid in peer.ledger.uuids_deleted_by(found) or _needless(peer, acknowledged)
    else:
        key = peer.ledger.facts.claim_key(found)
        claim = None if key is None else peer.ledger.facts.claim(key)
        kept = claim is not None and (
            inventory.objection(claim, peer.ledger.weights.electorate) is not Objection.NOT_CARRIED
            or all(_deleted(peer, claim, uuid) for uuid in claim.uuids)
        )
    if not kept:
        raise CheckFailedError(f"{peer.name} lost what was acknowledged (rule 7): {label}")


def _needless(peer: SimPeer, deleted: Acknowledged) -> bool:
    """Whether a deletion that nobody carries any more is not missed, or is cancelled by rule.

    What lies above a cut is carried again only for what it still ends. And where somebody who has seen an unbound
    signature uses it for another GPU, none of both deletions counts.
    """
    query = "SELECT count(DISTINCT uuid) FROM deletion WHERE request_id = ?"
    (named,) = peer.disk.execute(query, (deleted.id,)).fetchone()
    standing = peer.ledger.facts.standing([deleted.uuid], peer.ledger.weights)[deleted.uuid].values()
    back = any(claim.miner == deleted.miner and claim.nonce < deleted.nonce for claim in standing)
    return named > 1 or not back


def _deleted(peer: SimPeer, claim: Claim, uuid: str) -> bool:
    """Whether any event says that a claim's miner deleted a GPU of it."""
    query = "SELECT EXISTS (SELECT 1 FROM deletion WHERE uuid = ? AND miner = ? AND nonce >= ?)"
    (found,) = peer.disk.execute(query, (uuid, claim.miner, claim.nonce)).fetchone()
    return bool(found)


def _events_kept(peer: SimPeer, author: SimPeer) -> None:
    for event in author.acknowledged:
        if _given_up(author, event.log, event.seq):
            continue
        held = peer.disk.execute(
            "SELECT 1 FROM events JOIN logs USING (log) WHERE node_key = ? AND number = ? AND seq = ? AND id = ?",
            (*event.log, event.seq, event.id),
        ).fetchone()
        if held is None:
            raise CheckFailedError(f"{peer.name} lacks a durable event of {author.name}: seq {event.seq} {event.kind}")


def _given_up(author: SimPeer, log: LogId, seq: int) -> bool:
    """Whether an author has closed its log below an event, by which the event counts for nothing (rule 8)."""
    held = author.ledger.state.logs.get(log)
    return held is not None and held.cut is not None and held.cut <= seq


class _Pending(NamedTuple):
    """An event that some have not stored yet.

    Attributes:
        since_ms: When it was acknowledged, in the clock's time.
        author: By whom.
        lacking: Who has not, by index.
    """

    since_ms: float
    author: int
    lacking: set[int]


class Deliveries:
    """What an honest peer acknowledges reaches all others in time, or a fault explains why not."""

    def __init__(self, world: "World") -> None:
        """Begin with nothing that is expected."""
        self._world = world
        self._pending: dict[tuple[LogId, int], _Pending] = {}
        self.late = 0
        """Deliveries that were late, and explained."""

    def acknowledged(self, author: SimPeer, events: Sequence[Event]) -> None:
        """Expect events of an honest author everywhere."""
        if author.honest:
            lacking = {peer.index for peer in self._world.honest if peer is not author}
            for event in events:
                pending = _Pending(self._world.clock.now_ms, author.index, set(lacking))
                self._pending[event.log, event.seq] = pending

    def delivered(self, peer: SimPeer, event: Event) -> None:
        """Take note that a peer has stored an event."""
        pending = self._pending.get((event.log, event.seq))
        if pending is not None:
            pending.lacking.discard(peer.index)
            if not pending.lacking:
                del self._pending[event.log, event.seq]

    def look(self) -> None:
        """Look for what is late.

        Raises:
            CheckFailedError: No fault explains it.
        """
        world = self._world
        now_ms = world.clock.now_ms
        for (log, seq), pending in list(self._pending.items()):
            if now_ms - pending.since_ms < LATE_MS:
                return  # and so are all that follow
            if _given_up(world.peers[pending.author], log, seq):
                del self._pending[log, seq]
                continue
            for index in sorted(pending.lacking):
                peer = world.peers[index]
                if peer.up and not self._explained(pending, index, now_ms):
                    raise CheckFailedError(
                        f"{peer.name} lacks seq {seq} of a log of p{pending.author}'s for over {LATE_MS // 1000} s, "
                        f"and no fault explains it; connected to {_connected(peer)}; log {log}"
                    )
                self.late += 1

    def _explained(self, pending: _Pending, index: int, now_ms: float) -> bool:
        return any(
            incident.from_ms <= now_ms
            and incident.until_ms + RECOVERY_MS >= pending.since_ms
            and (incident.ends is None or index in incident.ends or pending.author in incident.ends)
            for incident in self._world.incidents
        )


def _connected(peer: SimPeer) -> str:
    return " ".join(sorted(held.other.name for held in peer.open.values())) or "nobody"


def within_bounds(peer: SimPeer) -> None:
    """Require that every queue of a peer is as short as its bound says.

    Raises:
        CheckFailedError: One is not.
    """
    for name, size, bound in sizes(peer):
        if size > bound:
            raise CheckFailedError(f"{peer.name} has {size} in {name}: at most {bound} may be there (rule 6)")
