"""Logs that fork, node keys that are stolen or replaced, clocks that jump: what was acknowledged stays, and no more."""

from typing import Final

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import FAILED, VERIFIED, AddPayload, Place, Verdict
from p2pnodes.store.schema import open_writer
from tests.sim import outcome
from tests.sim.check import agree
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.rogue import Rogue
from tests.sim.scenarios.cast import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    GPU,
    OTHER,
    accepted,
    anywhere,
    verified_everywhere,
)
from tests.sim.stage import TRIES_MAX, Posted, Stage
from tests.sim.thief import Thief

THIRD: Final = "gpu-2"
FOURTH: Final = "gpu-3"

APART_S: Final = 13
"""After this time every session over a partition is given up."""

ALONE_S: Final = 31
"""After this time a session over a partition is given up at both ends."""

WRITES_MS_MAX: Final = 60_000
"""Within this time a daemon that was started, or whose log ended, writes again: 30 s are for hearing its own head."""

CARRIED_MS_MAX: Final = 60_000
"""Within this time what lies above a cut is listed again by everybody: every holder has had its turn."""


def _writes(stage: Stage, peer: SimPeer) -> None:
    stage.until(lambda: peer.ledger.writes_refused is None, WRITES_MS_MAX, f"{peer.name} writes")


def _insist(stage: Stage, posted: Posted, at: int) -> None:
    """Post to a peer, again and again while it takes no writes for now."""
    for _ in range(TRIES_MAX):
        tries = len(posted.answers)
        stage.repost(posted, at)
        stage.until(lambda tries=tries: len(posted.answers) > tries, 5_000, "an answer")  # type: ignore[misc]
        if posted.accepted:
            return
        stage.run(1)
    raise CheckFailedError(f"p{at} does not take {posted.miner}'s registration: {posted.answers[-1]!r}")


def _listed_everywhere(stage: Stage, *claims: Posted) -> None:
    """Wait until all peers list all GPUs of some claims for them."""
    for posted in claims:
        for uuid in posted.uuids:
            stage.until(lambda: stage.everywhere(uuid, posted), CARRIED_MS_MAX, f"{uuid} is listed")  # noqa: B023


def _gone_everywhere(stage: Stage, uuid: str) -> None:
    what = f"{uuid} is not listed"
    stage.until(lambda: all(outcome.listed(peer, uuid) is None for peer in stage.up), CARRIED_MS_MAX, what)


def cloned_disk(stage: Stage) -> None:
    """Two machines run from one disk, and both take requests: the log forks, and none of these is lost.

    Both notice, and go on with a log and key of their own, until the operator stops one.
    """
    stage.open((100, 100, 100, 100))
    victim = stage.rng.randrange(4)
    for uuid, miner in ((GPU, ALICE), (OTHER, BOB), (THIRD, CHARLIE)):
        stage.truth.give(uuid, miner)
    before = stage.post_accepted(ALICE, [GPU], victim)
    deleted = stage.post_accepted(DAVE, [FOURTH], victim)
    verified_everywhere(stage, before)
    _listed_everywhere(stage, deleted)
    twin = stage.clone(victim, 4)
    _writes(stage, twin)
    one, other = stage.sign(BOB, [OTHER]), stage.sign(CHARLIE, [THIRD])
    if stage.rng.random() < 0.5:  # in one moment
        stage.repost(one, victim)
        stage.repost(other, 4)
        stage.run(stage.rng.uniform(0, 1))
    _insist(stage, one, victim)
    _insist(stage, other, 4)
    _writes(stage, stage.peer(victim))
    stage.delete(DAVE, FOURTH, stage.rng.choice((victim, 4)))
    _listed_everywhere(stage, before, one, other)
    _gone_everywhere(stage, FOURTH)
    stage.leave(4)
    for uuid, posted in ((GPU, before), (OTHER, one), (THIRD, other)):
        verified_everywhere(stage, posted, uuid)
    stage.settle()
    stage.owns(FOURTH, None)


def restored_backup(stage: Stage) -> None:
    """A backup is restored while only those are there who never heard what came behind it: rule 4 cannot tell.

    The log forks. What was acknowledged before the restore is carried by who holds it, what came after by its author.
    """
    stage.open((100, 100, 100, 100))
    victim, witness, *rest = stage.rng.sample(range(4), 4)
    for uuid, miner in ((GPU, ALICE), (OTHER, BOB), (THIRD, CHARLIE)):
        stage.truth.give(uuid, miner)
    before = stage.post_accepted(ALICE, [GPU], victim)
    deleted = stage.post_accepted(DAVE, [FOURTH], victim)
    verified_everywhere(stage, before)
    _listed_everywhere(stage, deleted)
    peer = stage.peer(victim)
    stage.forking.add(peer.hotkey.public_key)
    peer.save_backup()
    stage.part([victim, witness], rest)
    stage.run(APART_S)
    lost = stage.post_accepted(BOB, [OTHER], victim)
    stage.delete(DAVE, FOURTH, victim)
    stage.until(lambda: agree([peer, stage.peer(witness)]), CARRIED_MS_MAX, "the witness has heard")
    stage.leave(victim, witness)
    peer.restore_backup()
    stage.join()
    stage.enter(victim)
    _writes(stage, peer)
    after = stage.post_accepted(CHARLIE, [THIRD], victim)
    stage.run(stage.rng.uniform(0, 20))
    stage.enter(witness)
    _listed_everywhere(stage, before, lost, after)
    _gone_everywhere(stage, FOURTH)
    for uuid, posted in ((GPU, before), (OTHER, lost), (THIRD, after)):
        verified_everywhere(stage, posted, uuid)
    stage.settle()
    stage.owns(FOURTH, None)


def lost_disk(stage: Stage) -> None:
    """A daemon comes back without its disk, with a new node key: what it recorded is with the others, and stays."""
    stage.open((100, 100, 100, 100))
    victim = stage.rng.randrange(4)
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    before = stage.post_accepted(ALICE, [GPU], victim)
    verified_everywhere(stage, before)
    stage.until(lambda: agree(stage.up), CARRIED_MS_MAX, "everybody has heard")
    peer = stage.peer(victim)
    stage.leave(victim)
    peer.disk.close()
    peer.disk = open_writer(":memory:")
    peer.forget_key()
    stage.run(stage.rng.choice((0, 30)))
    stage.enter(victim)
    _writes(stage, peer)
    after = stage.post_accepted(BOB, [OTHER], victim)
    stage.until(lambda: agree(stage.up), CARRIED_MS_MAX, "it has caught up")
    verified_everywhere(stage, before)
    verified_everywhere(stage, after, OTHER)
    stage.settle()


def branches_for_two_sides(stage: Stage) -> None:
    """A validator writes different branches to each half, each with a registration that an honest daemon then answers.

    The honest daemon found the claim recorded, and so wrote nothing itself; it is carried all the same.
    """
    stage.open((100, 100, 100, 100, 100), rogue={4})
    rogue = Rogue(stage, 4)
    stage.forking.add(rogue.hotkey.public_key)
    stage.until(lambda: stage.enrolled(rogue.hotkey), 20_000, "all know the rogue")
    sides = stage.split()
    if parted := stage.rng.random() < 0.7:
        stage.part(*sides)
        stage.run(APART_S)
    hlc = rogue.now_hlc
    seq = rogue.last_seq
    claims: list[Posted] = []
    for side, (miner, uuid, lie) in zip(sides, ((BOB, OTHER, FAILED), (CHARLIE, THIRD, VERIFIED)), strict=True):
        stage.truth.give(uuid, miner)
        posted = stage.sign(miner, [uuid])
        claims.append(posted)
        at = stage.rng.choice(side)
        rogue.write(AddPayload(posted.request, stage.block), hlc, through=at)
        rogue.vote(posted.claim_id, lie)
        if parted:
            stage.run(1)
        stage.repost(posted, at)
        rogue.rewind(seq)
        hlc += hlc_at(1_000)
    stage.run(stage.rng.uniform(0, 10))
    stage.join()
    accepted(stage, *claims)
    _listed_everywhere(stage, *claims)
    if stage.rng.random() < 0.5:  # a third branch, of what everybody could see by now
        rogue.vote(claims[0].claim_id, FAILED)
    for posted in claims:
        verified_everywhere(stage, posted, posted.uuids[0])
    stage.settle()
    for peer in stage.up:
        if peer.ledger.state.ends[rogue.log].fork != seq + 1:
            raise CheckFailedError(f"{peer.name} does not know the fork: {peer.ledger.state.ends}")


def key_is_rotated(stage: Stage) -> None:
    """An operator replaces the node key: nothing changes, and what the old key still writes counts for nothing."""
    stage.open((40, 30, 20, 20))
    owner = stage.rng.randrange(4)
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    before = stage.post_accepted(ALICE, [GPU], owner)
    verified_everywhere(stage, before)
    thief = Thief(stage, owner)
    stage.until(lambda: agree(stage.up), CARRIED_MS_MAX, "everybody has heard")
    stage.hold(GPU, before)
    peer = stage.peer(owner)
    log = peer.ledger.own_log
    if log is None:
        raise CheckFailedError("BUG! the owner has no log")
    good = peer.ledger.state.logs[log].head
    peer.rotate()
    _writes(stage, peer)
    stage.run(stage.rng.choice((0, 5)))
    after = stage.post_accepted(BOB, [OTHER], owner)
    if thief.last_seq == good.seq:  # else what the owner wrote since is what the thief's events contradict
        thief.write(Verdict(before.claim_id, FAILED, "theft", "because I say so", None), thief.next_hlc)
    verified_everywhere(stage, after, OTHER)
    stage.settle()
    stage.owns(GPU, before, VERIFIED)
    stage.owns(OTHER, after, VERIFIED)
    for each in stage.up:
        counted = each.ledger.state.heads[log]
        if counted != good:
            raise CheckFailedError(f"{each.name} counts the closed log up to {counted}, expected {good}")


def key_is_stolen(stage: Stage) -> None:
    """A thief votes and places with a validator's node key, behind its last event or on a branch, until it is revoked.

    What it says counts nowhere then, whoever hears of it when, and what it could make of the owner's log takes no
    honest request with it. It goes on afterwards, and newcomers hear everything at once.
    """
    stage.open((40, 30, 20, 20, 10), absent={4})
    owner = stage.rng.randrange(2)
    for uuid, miner in ((GPU, ALICE), (THIRD, CHARLIE)):
        stage.truth.give(uuid, miner)
    true = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    false = stage.post_accepted(BOB, [OTHER], anywhere(stage))
    verified_everywhere(stage, true)
    stage.until(lambda: agree(stage.up), CARRIED_MS_MAX, "everybody has heard")
    peer = stage.peer(owner)
    log = peer.ledger.own_log
    if log is None:
        raise CheckFailedError("BUG! the owner has no log")
    good = peer.ledger.state.logs[log].head.seq
    above = stage.post_accepted(CHARLIE, [THIRD], owner)  # above the event that is named later on
    _listed_everywhere(stage, above)
    thief = Thief(stage, owner, after=stage.rng.choice((None, good, stage.rng.randint(0, good))))
    good = min(good, thief.last_seq)

    def strike(steps: int) -> None:
        for _ in range(steps):
            at = stage.rng.choice(stage.up).index
            match stage.rng.choice(("true", "false", "place")):
                case "true":
                    thief.write(Verdict(true.claim_id, FAILED, "theft", "no", None), thief.next_hlc, through=at)
                case "false":
                    thief.write(Verdict(false.claim_id, VERIFIED, "theft", "", 0), thief.next_hlc, through=at)
                case "place":
                    place = Place(true.claim_id, (GPU,), "chute", "instance", True, True, "miner", "thief")
                    thief.write(place, thief.next_hlc, through=at)
            stage.run(stage.rng.choice((0, 0, 2)))

    strike(stage.rng.randint(1, 6))
    stage.run(stage.rng.uniform(0, 10))
    _writes(stage, peer)
    peer.revoke(log, good)
    stage.run(stage.rng.choice((0, 5)))
    strike(stage.rng.randint(0, 4))
    stage.enter(4)
    _listed_everywhere(stage, true, above)
    for uuid, posted in ((GPU, true), (THIRD, above)):
        verified_everywhere(stage, posted, uuid)
    stage.settle()
    stage.owns(OTHER, false, FAILED)
    stage.chute(GPU, None)


def clock_jumped_ahead(stage: Stage) -> None:
    """A daemon's clock jumps ahead while nobody is there to tell it so, and it takes requests.

    With its clock right again it closes its log below them and writes on at once; it alone holds them then, for nobody
    stores events from the future, and carries them itself.
    """
    stage.open((100, 100, 100, 100))
    victim = stage.rng.randrange(4)
    for uuid, miner in ((GPU, ALICE), (OTHER, BOB), (THIRD, CHARLIE)):
        stage.truth.give(uuid, miner)
    before = stage.post_accepted(ALICE, [GPU], victim)
    verified_everywhere(stage, before)
    stage.until(lambda: agree(stage.up), CARRIED_MS_MAX, "everybody has heard")
    stage.part([victim], [index for index in range(4) if index != victim])
    stage.run(APART_S)
    peer = stage.peer(victim)
    ahead_ms = stage.rng.choice((90_000, 300_000, 590_000))
    peer.skew_ms += ahead_ms
    lost = stage.post_accepted(BOB, [OTHER], victim)
    stage.run(stage.rng.uniform(0, 5))
    peer.skew_ms -= ahead_ms
    log = peer.ledger.own_log
    stage.join()
    stage.until(lambda: peer.ledger.own_log != log, WRITES_MS_MAX, "it opens a new log")
    _writes(stage, peer)
    _listed_everywhere(stage, before, lost)
    after = stage.post_accepted(CHARLIE, [THIRD], victim)
    _listed_everywhere(stage, after)
    for uuid, posted in ((GPU, before), (OTHER, lost), (THIRD, after)):
        verified_everywhere(stage, posted, uuid)
    stage.settle()


def clock_is_set_back(stage: Stage) -> None:
    """A daemon's clock is set back when no peer is there to tell it so: its log goes on then, and no other begins.

    By what it holds alone that looks as if the clock had been ahead until then.
    """
    stage.open((100, 100, 100, 100))
    victim = stage.rng.randrange(4)
    stage.truth.give(GPU, ALICE)
    posted = stage.post_accepted(ALICE, [GPU], victim)
    verified_everywhere(stage, posted)
    stage.until(lambda: agree(stage.up), CARRIED_MS_MAX, "everybody has heard")
    stage.hold(GPU, posted)
    stage.part([victim], [index for index in range(4) if index != victim])
    alone_s = stage.rng.uniform(ALONE_S, 200)
    stage.run(alone_s)
    peer, log = stage.peer(victim), stage.peer(victim).ledger.own_log
    stage.truth.give(OTHER, BOB)
    other = stage.post_accepted(BOB, [OTHER], victim)
    back_ms = int(1000 * alone_s) + stage.rng.randint(30_000, 200_000)
    peer.skew_ms -= back_ms
    stage.run(stage.rng.uniform(1, 30))
    peer.skew_ms += back_ms
    stage.join()
    _writes(stage, peer)
    stage.settle()
    _has_logs(peer, 1)
    if peer.ledger.own_log != log:
        raise CheckFailedError(f"{peer.name} has left its log")
    stage.owns(GPU, posted)
    stage.owns(OTHER, other)


def two_clocks_jumped_ahead(stage: Stage) -> None:
    """Two daemons are ahead by the same, apart from all others, and one goes down before its clock is right again.

    The other one can open no log that peers would take as long as it holds that of the first: it closes its own, waits,
    and does not open one after the other.
    """
    stage.open((100, 100, 100, 100))
    one, other, *rest = stage.rng.sample(range(4), 4)
    for uuid, miner in ((GPU, ALICE), (OTHER, BOB)):
        stage.truth.give(uuid, miner)
    stage.part([one, other], rest)
    stage.run(ALONE_S)
    peers = [stage.peer(one), stage.peer(other)]
    ahead_ms = stage.rng.randint(200_000, 590_000)
    for peer in peers:
        peer.skew_ms += ahead_ms
    stage.run(APART_S)  # each hears that the other one has the same time
    lost = [stage.post_accepted(ALICE, [GPU], one), stage.post_accepted(BOB, [OTHER], other)]
    stage.until(lambda: agree(peers), CARRIED_MS_MAX, "both have heard")
    stage.leave(other)
    for peer in peers:
        peer.skew_ms -= ahead_ms
    stage.join()
    stage.run(stage.rng.uniform(20, 60))
    _has_logs(stage.peer(one), 1)
    stage.enter(other)
    for peer in peers:
        _writes(stage, peer)
    _listed_everywhere(stage, *lost)
    stage.run(ahead_ms / 1000)  # validators' turns at a claim begin when it was made
    stage.settle()
    for peer in peers:
        _has_logs(peer, 2)


def _has_logs(peer: SimPeer, most: int) -> None:
    """Require that a validator has no more logs than so many."""
    own = [held for held in peer.ledger.state.logs.values() if held.hotkey == peer.hotkey.public_key]
    if len(own) > most:
        raise CheckFailedError(f"{peer.name} has {len(own)} logs: expected {most} at most")
