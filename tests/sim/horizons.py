"""Worlds in which horizons pass: checkpoints leave most events out, delegations end and logs are over.

Validators are away, or without a permit, for longer than a horizon; their operators replace keys, close logs and place
chutes. All times are so short that a run of some minutes has many of each. What must hold is that of every world, but
that an event below a cut may be gone, and so may be a registration that its miner deleted, with the deletion.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from p2pnodes import clerk
from p2pnodes.model import checkpoint, inventory, validity
from p2pnodes.model.checkpoint import PER_HORIZON
from p2pnodes.model.claims import parse_body
from p2pnodes.model.events import Event, LogId, Place, Release
from p2pnodes.model.inventory import Chute, Objection
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import Add, Delete, request_id
from p2pnodes.store import facts
from p2pnodes.store.ledger import Ledger
from tests.sim.bounds import patched
from tests.sim.check import honest_logs, rebuilt, same
from tests.sim.faults import KINDS, Fault, Kind, Struck
from tests.sim.guard import as_on_disk
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.workload import Acknowledged

if TYPE_CHECKING:
    from tests.sim.world import World

HORIZON_S: Final = 90
TTL_S: Final = 60
EPOCH_MS: Final = 15_000

DELEGATION_S: Final = 240
"""More than two horizons, renewed when half is over: whose delegation of a horizon ago has ended weighs in no
checkpoint."""

SHORTER: Final = (
    (validity, "NONCE_WINDOW_S", 60),
    (checkpoint, "NONCE_WINDOW_S", 60),
    (facts, "NONCE_WINDOW_S", 60),
    (clerk, "DISPLACED_MS", 60_000),
    (clerk, "TURN_MS_MIN", 3_000),
)
"""What else is measured in minutes; nonces fall behind the floor 330 s after their time."""

CHECKPOINTS_LEFT_OUT_MAX: Final = PER_HORIZON
"""Where more numbers come to nothing one after the other, as in long partitions, what only those said who lost their
permits meanwhile may be too old to be carried."""


@contextmanager
def shorter() -> Iterator[None]:
    """Run the body with times as short as its horizons."""
    with patched(SHORTER):
        yield


class Validator(SimPeer):
    """A peer that renews its delegations, as the daemon does, and checks no claims once the network has healed."""

    delegation_s = DELEGATION_S
    _renewing = False

    def start(self) -> None:
        """Start on the disk as it is."""
        self._renewing = False
        super().start()

    def _next_log(self, ledger: Ledger, node_key: NodeKey, now_ms: int) -> LogId:  # type: ignore[override]
        """The daemon waits for a number that no clock ahead can have given before (``Author._number_min``)."""
        own = super()._next_log(ledger, node_key, now_ms)
        used = [event.log.number for event in self.acknowledged if event.log.node_key == own.node_key]
        return own._replace(number=max([own.number, *(number + 1 for number in used)]))

    def _turn(self) -> None:
        super()._turn()
        own, now_ms = self.ledger.own_log, self.now_ms()
        if own is None or not self.may_write or self._renewing:
            return
        held = self.ledger.delegation_of(own)
        if held is None or now_ms // 1000 <= held.not_after - DELEGATION_S // 2:
            return
        renewed, self._renewing = self._delegation(own, held.predecessor, now_ms), True

        def done(result: Any) -> None:
            self._renewing = False
            if isinstance(result, Event) and self.ledger.own_log == own:
                self.delegation = own, renewed

        self.write(lambda ledger: ledger.renew(renewed, self.now_ms()), done)

    @property
    def may_write(self) -> bool:
        """Whether it writes now."""
        return self.reachable and self._heard and not self._opening and self.ledger.writes_refused is None

    def _look(self, claim_id: bytes) -> None:
        if not self.world.network.healed:
            super()._look(claim_id)
        else:
            self._waiting.pop(claim_id, None)

    def _scan(self) -> None:
        if not self.world.network.healed:
            super()._scan()

    @property
    def checking(self) -> bool:
        """Whether a check is waited for: verdicts do not outlive the rest that follows."""
        return False


# -- what happens ------------------------------------------------------------------------------------------------------


def _writer(world: "World", rng: random.Random) -> Validator | None:
    peer = rng.choice(world.peers)
    return peer if isinstance(peer, Validator) and peer.may_write and not peer.disk_full else None


def _permit(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """One validator of an odd number, all with one stake: who signs without it has a quorum with it, too.

    Else those who were away might never trust what the others have in force (docs/protocol.md, "Certificate"), and
    neither could make a checkpoint without the other.
    """
    index = rng.randrange(len(world.stakes))
    if world.without_permit or len(world.stakes) % 2 == 0:
        return None
    world.without_permit.add(index)
    return Struck(f"p{index}", None, lambda: world.without_permit.discard(index))


def _away(world: "World", fault: Fault, rng: random.Random) -> Struck:
    index = rng.choice(world.peers).index
    world.network.cut(fault, lambda one, other: (one == index) != (other == index))
    return Struck(f"p{index}", frozenset({index}), lambda: world.network.mend(fault))


def _rotate(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    peer = _writer(world, rng)
    if peer is None:
        return None
    peer.rotate()
    return Struck(peer.name, frozenset({peer.index}))


def _revoke(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """An operator closes one of its logs, at its last event or at any before."""
    peer = _writer(world, rng)
    logs = [] if peer is None else peer.ledger.state.logs.values()
    own = sorted(held.id for held in logs if peer and held.hotkey == peer.hotkey.public_key and held.counted)
    if peer is None or not own:
        return None
    log = rng.choice(own)
    held = peer.ledger.state.logs[log]
    assert held.counted is not None
    query = "SELECT seq FROM events WHERE log = ? AND seq <= ? ORDER BY seq"
    seqs = [seq for (seq,) in peer.disk.execute(query, (held.key, held.counted.seq))]
    last = rng.choice(seqs) if seqs and rng.random() < 0.5 else None
    peer.revoke(log, last)
    return Struck(f"{peer.name}: {log.number} at {last}", frozenset({peer.index}))


def _place(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    peer = _writer(world, rng)
    rows = [] if peer is None else list(peer.ledger.rows())
    if peer is None or not rows:
        return None
    row, chute = rng.choice(rows), Chute(f"c{rng.randrange(3)}", "i", True, False, None, None)
    word = Release(row.claim_id, (row.uuid,)) if rng.random() < 0.25 else Place(row.claim_id, (row.uuid,), *chute)
    peer.say(lambda _: word)
    return Struck(f"{peer.name}: {row.uuid}", frozenset())


LONG: Final[dict[str, Kind]] = {
    "permit": Kind((60_000, 200_000), (20_000, 300_000), _permit),
    "sleep": Kind((60_000, 200_000), (20_000, 250_000), KINDS["crash"].strike),
    "away": Kind((90_000, 300_000), (20_000, 250_000), _away),
    "rotate": Kind((40_000, 150_000), (0, 0), _rotate),
    "revoke": Kind((40_000, 150_000), (0, 0), _revoke),
    "place": Kind((2_000, 6_000), (0, 0), _place),
    **{name: KINDS[name] for name in ("crash", "reset", "skew", "late-electorate")},
}
"""
permit, sleep, away: a validator has no permit, does not run, or is cut off from all others, for up to three horizons.
rotate, revoke: an operator replaces the node key; closes a log, of which some was good.
place: a validator places a chute on a GPU, or releases it.
"""


# -- what must hold ----------------------------------------------------------------------------------------------------


def check(world: "World") -> None:
    """Check a network at rest, see ``tests.sim.check``.

    Raises:
        CheckFailedError: A rule is broken.
    """
    for peer in world.honest:
        same(peer, world.honest[0])
        as_on_disk(peer)
        rebuilt(peer)
        honest_logs(peer, ())
        for acknowledged in world.workload.acknowledged if world.gaps <= CHECKPOINTS_LEFT_OUT_MAX else ():
            _kept(world, peer, acknowledged)
        for event in (event for author in world.honest for event in author.acknowledged):
            if _lacks(peer, event):
                raise CheckFailedError(f"{peer.name} lacks a durable event: seq {event.seq} {event.kind} {event.log}")


def _lacks(peer: SimPeer, event: Event) -> bool:
    """Whether a peer that holds a log lacks an event of it that counts, above the cut of the checkpoint in force."""
    held, line = peer.ledger.state.logs.get(event.log), peer.ledger.checkpoints.line
    if held is None or held.displaced or (held.cut is not None and held.cut <= event.seq):
        return False
    entry = line.logs.get(event.log)
    if entry is not None and event.seq <= entry.head.seq:
        return False
    return peer.ledger.facts.stored_id(held.key, event.seq) != event.id


def _kept(world: "World", peer: SimPeer, acknowledged: Acknowledged) -> None:
    ledger, posted = peer.ledger, world.workload.posted
    if acknowledged.uuid:
        ids = partial(request_id, world.parameters.id)
        if len({uuid for request, uuid, _ in posted if uuid and ids(request) == acknowledged.id}) > 1:
            return  # cancelled by rule
        standing = ledger.facts.standing([acknowledged.uuid], ledger.weights)[acknowledged.uuid].values()
        if any(claim.miner == acknowledged.miner and claim.nonce < acknowledged.nonce for claim in standing):
            raise CheckFailedError(f"{peer.name} lost a deletion (rule 7): {acknowledged.label}")
        return
    key = ledger.facts.claim_key(acknowledged.id)
    claim = None if key is None else ledger.facts.claim(key)
    if claim is not None and inventory.objection(claim, ledger.weights.electorate) is not Objection.NOT_CARRIED:
        return
    for request, _, _ in posted:
        if isinstance(request, Add) and request_id(world.parameters.id, request) == acknowledged.id:
            named = {node.uuid for node in parse_body(request.body).nodes}
            # A retry may have been answered with this older claim, by a peer that had not heard of what ends it.
            ended = {uuid for other, uuid, _ in posted if uuid and _may_end(other, request)}
            if not named <= ended:
                raise CheckFailedError(f"{peer.name} lost what was acknowledged (rule 7): {acknowledged.label}")


def _may_end(other: Add | Delete, request: Add) -> bool:
    return other.hotkey == request.hotkey and int(other.nonce) >= int(request.nonce)
