"""Worlds in which horizons pass: checkpoints leave most events out, delegations end and logs are over.

Validators are away, or without a permit, for longer than a horizon; their operators replace keys, close logs and place
chutes. All times are so short that a run of some minutes has many of each. What must hold is that of every world, but
that an event below a cut may be gone, and so may be a registration that its miner deleted, with the deletion.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from p2pnodes import clerk
from p2pnodes.model import checkpoint, inventory, validity
from p2pnodes.model.checkpoint import PER_HORIZON, due_number
from p2pnodes.model.claims import parse_body
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.events import Checkpoint, Event, Head, LogId, Place, Release
from p2pnodes.model.inventory import Chute, Objection
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import Add, Delete, bound_purpose, request_id, sign_add, sign_delete
from p2pnodes.store import facts
from p2pnodes.store.admission import admit_add, admit_delete
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import proposal
from tests.sim.bounds import patched
from tests.sim.check import honest_logs, rebuilt, same
from tests.sim.clock import START_MS
from tests.sim.faults import KINDS, Fault, Kind, Struck
from tests.sim.guard import as_on_disk
from tests.sim.liar import Liar
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.workload import GPUS, Acknowledged
from tests.support import MINERS, body, hotkey, proposals, signatures

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


class LyingValidator(Liar, Validator):
    """A liar that is otherwise as the others are."""


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


def _lose_disk(world: "World", fault: Fault, rng: random.Random) -> Struck:
    """As soon as whatever a peer holds is held by others, too, its disk is lost, with or without the node key."""
    peer, down_ms, with_key = rng.choice(world.peers), rng.uniform(200, 60_000), rng.random() < 0.5
    over = False

    def lose() -> None:
        if over:
            return
        others = [other for other in world.honest if other is not peer]
        if not peer.reachable or peer.disk_full or not _held_by(others, peer):
            world.clock.after(500, lose)
            return
        world.restored_ms = world.clock.now_ms  # older backups of others may lack it
        world.touched(fault.kind, frozenset({peer.index}), down_ms)
        world.stop(peer, silent=rng.random() < 0.5)
        peer.lose_disk(with_key=with_key)
        world.clock.after(down_ms, lambda: world.start(peer))

    def undo() -> None:
        nonlocal over
        over = True

    lose()
    return Struck(f"{peer.name} {'with' if with_key else 'without'} its key", frozenset(), undo)


def _held_by(others: Iterable[SimPeer], peer: SimPeer) -> bool:
    """Whether each log that a peer holds is held as far by one of some others."""
    logs = peer.ledger.state.logs.values()
    return all(any(other.holds(held.id, held.head) for other in others) for held in logs)


def _leave(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """A miner leaves the chain; when it is back it has another block of registration."""
    miner = rng.choice(MINERS)
    if miner in world.gone:
        return None
    world.gone.add(miner)
    world.left.add(hotkey(miner).public_key)
    return Struck(miner, frozenset(), lambda: world.gone.discard(miner))


def _brink(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """Something is said at the very millisecond of an electorate, or beside it: at some cuts its HLC is that of h."""
    epoch_ms = START_MS + EPOCH_MS * (1 + int(world.clock.now_ms - START_MS) // EPOCH_MS)

    fastest = max(world.peers, key=lambda peer: peer.skew_ms)  # others go by what they hear from it

    def say() -> None:
        peer = rng.choice((fastest, *world.peers))
        if not isinstance(peer, Validator) or not peer.may_write or hlc_ms(peer.ledger.clock.latest) >= epoch_ms - 1:
            return
        at_ms = epoch_ms + rng.choice((-1, 0, 1))
        miner, uuids = rng.choice(MINERS), rng.sample(GPUS, 2)
        rows = list(peer.ledger.rows())
        match rng.choice(("add", "delete", "place")):
            case "add":
                add = sign_add(hotkey(miner), epoch_ms // 1000, body(uuids))
                world.workload.posted.append((add, "", f"{miner} adds {' '.join(uuids)} at the brink"))
                peer.write(lambda ledger: admit_add(ledger, add, parse_body(add.body), None, at_ms), _nothing)
            case "delete":
                delete = sign_delete(hotkey(miner), epoch_ms // 1000, bound_purpose(uuids[0]))
                world.workload.posted.append((delete, uuids[0], f"{miner} deletes {uuids[0]} at the brink"))
                peer.write(lambda ledger: admit_delete(ledger, delete, uuids[0], at_ms), _nothing)
            case _ if rows:
                word = Place(rows[0].claim_id, (rows[0].uuid,), *Chute("brink", "i", True, False, None, None))
                peer.write(lambda ledger: ledger.append(lambda _: word, at_ms), _nothing)
            case _:
                pass

    for _ in range(3):
        moment_ms = epoch_ms - fastest.skew_ms - rng.uniform(0, 40)
        world.clock.after(max(0.0, moment_ms - world.clock.now_ms), say)
    return Struck(f"at {epoch_ms - START_MS} ms", frozenset())


def _perjure(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """A liar proposes cuts that leave out, or go beyond, what there is, and signs whatever is proposed, also twice."""
    liars = [peer for peer in world.peers if isinstance(peer, Liar)]
    liar = rng.choice(liars) if liars else None
    if liar is None or not liar.reachable:
        return None
    count = rng.randint(3, 12)

    def turn(left: int) -> None:
        if world.network.healed or not left:
            return
        if liar.reachable and not liar.disk_full:
            _lie(liar, rng)
        world.clock.after(rng.uniform(500, 5_000), lambda: turn(left - 1))

    turn(count)
    return Struck(f"{liar.name} in {count} steps", frozenset())


def _lie(liar: Liar, rng: random.Random) -> None:
    ledger = liar.ledger
    number = due_number(ledger.network, ledger.weights.electorate)
    honest = proposal(ledger)
    if honest is not None and rng.random() < 0.5:
        victim = rng.choice(honest.logs)
        seq = max(0, victim.head.seq + rng.choice((-3, -1, 0, 1, 1_000)))
        changed = () if rng.random() < 0.3 else (victim._replace(head=Head(seq, rng.randbytes(32))),)
        logs = tuple(sorted([*(entry for entry in honest.logs if entry != victim), *changed]))
        liar.say(lambda _: honest._replace(logs=logs))
    said = {statement for _, statement in signatures(ledger, number)}
    said |= {Checkpoint(number, key, 1, 1, rng.randbytes(32)) for key in proposals(ledger, number)}
    for statement in sorted(said):
        if rng.random() < 0.5:
            liar.say(lambda _, statement=statement: statement)  # type: ignore[misc]


def _nothing(result: Any) -> None:
    """Nobody waits."""


AS_ELSEWHERE: Final = "crash", "reset", "skew", "late-electorate", "fork", "split", "backdate"
"""Faults that happen as in other worlds."""

SELDOM: Final = "jump", "slow"
"""Those that would leave no time for checkpoints if they happened as often."""

LONG: Final[dict[str, Kind]] = {
    "permit": Kind((60_000, 200_000), (20_000, 300_000), _permit),
    "sleep": Kind((60_000, 200_000), (20_000, 250_000), KINDS["crash"].strike),
    "away": Kind((90_000, 300_000), (20_000, 250_000), _away),
    "rotate": Kind((40_000, 150_000), (0, 0), _rotate),
    "revoke": Kind((40_000, 150_000), (0, 0), _revoke),
    "place": Kind((2_000, 6_000), (0, 0), _place),
    "restore": Kind((60_000, 200_000), (5_000, 250_000), KINDS["restore"].strike),
    "lose-disk": Kind((60_000, 200_000), (5_000, 60_000), _lose_disk),
    "leave": Kind((60_000, 200_000), (20_000, 200_000), _leave),
    "brink": Kind((10_000, 30_000), (0, 0), _brink),
    "perjure": Kind((20_000, 60_000), (0, 0), _perjure, byzantine=True),
    **{name: KINDS[name] for name in AS_ELSEWHERE},
    **{name: KINDS[name]._replace(every_ms=(60_000, 200_000)) for name in SELDOM},
}
"""
permit, sleep, away: a validator has no permit, does not run, or is cut off from all others, for up to three horizons.
rotate, revoke: an operator replaces the node key; closes a log, of which some was good.
place: a validator places a chute on a GPU, or releases it.
restore, lose-disk: a peer starts from an old backup, or with an empty disk.
leave: a miner leaves the chain, and comes back.
brink: something is said at the very moment of an electorate, where h will lie.
perjure: a liar proposes what must not be signed, and signs what it likes.
"""


# -- what must hold ----------------------------------------------------------------------------------------------------


def check(world: "World") -> None:
    """Check a network at rest, see ``tests.sim.check``.

    Raises:
        CheckFailedError: A rule is broken.
    """
    liars = {peer.hotkey.public_key for peer in world.peers if not peer.honest}
    for peer in world.honest:
        same(peer, world.honest[0])
        as_on_disk(peer)
        rebuilt(peer)
        honest_logs(peer, liars)
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
    if acknowledged.miner in world.left:
        return  # what it registered before ends with its registration
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
