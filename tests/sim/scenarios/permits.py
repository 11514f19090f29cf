"""Validators lose their permits, miners their registrations: nothing flickers, and nothing comes back by itself."""

from p2pnodes.model.events import VERIFIED
from tests.sim.check import agree
from tests.sim.peer import CheckFailedError
from tests.sim.scenarios.cast import ALICE, BOB, CHARLIE, DAVE, GPU, OTHER, anywhere, verified_everywhere
from tests.sim.stage import EPOCH_MS, Posted, Stage

HEARD_MS_MAX = 20_000
"""Within this time a healed network has the same events everywhere."""


def validator_loses_its_permit(stage: Stage) -> None:
    """A validator loses its permit: what it alone recorded is carried by the others, within its epoch of grace.

    No row flickers, on any peer, after any commit; nothing that was deleted is back, whoever recorded add and delete.
    Also what it takes in its last epoch stays. Its daemon may be gone by then, and one more may be offline.
    """
    stage.open((40, 30, 20, 20))
    leaver = stage.rng.randrange(4)
    stays = [index for index in range(4) if index != leaver]
    stage.rng.shuffle(stays)
    stage.truth.give(OTHER, BOB)
    for uuid in (GPU, "gpu-4", "gpu-5", "gpu-6"):
        stage.truth.give(uuid, ALICE)
    kept = stage.post_accepted(ALICE, [GPU], stays[0])
    lost = stage.post_accepted(BOB, [OTHER], leaver)
    stage.post_accepted(CHARLIE, ["gpu-2"], leaver)
    stage.post_accepted(DAVE, ["gpu-3"], stays[0])
    half = stage.post_accepted(ALICE, ["gpu-4", "gpu-5"], leaver)
    verified_everywhere(stage, kept)
    verified_everywhere(stage, lost, OTHER)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    for miner, uuid in ((CHARLIE, "gpu-2"), (DAVE, "gpu-3"), (ALICE, "gpu-4")):
        stage.delete(miner, uuid, leaver)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    for uuid, posted in ((GPU, kept), (OTHER, lost), ("gpu-5", half)):
        stage.hold(uuid, posted)
    stage.stop_chain()
    stake = stage.stakes.pop(f"//validator{leaver}")
    stage.epoch()
    stage.run(stage.rng.uniform(0, 5))
    late: Posted | None = None
    if stage.rng.random() < 0.5:
        late = stage.post_accepted(ALICE, ["gpu-6"], leaver)
        stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
        stage.hold("gpu-6", late)
    if stage.rng.random() < 0.5:
        stage.leave(leaver)
    if stage.rng.random() < 0.3:
        stage.leave(stays[1])
    stage.run(EPOCH_MS / 1000)
    stage.epochs(1)
    for uuid in ("gpu-2", "gpu-3", "gpu-4"):
        stage.owns(uuid, None)
    if stage.rng.random() < 0.3:
        stage.stakes[f"//validator{leaver}"] = stake
        stage.epochs(1)
    for index in (leaver, stays[1]):
        if not stage.peer(index).up:
            stage.enter(index)
    stage.resume()
    claims = [(GPU, kept), (OTHER, lost), ("gpu-5", half), *([("gpu-6", late)] if late else [])]
    for uuid, posted in claims:
        verified_everywhere(stage, posted, uuid)
    stage.settle()
    for uuid in ("gpu-2", "gpu-3", "gpu-4"):
        stage.owns(uuid, None)
    stage.task(kept, VERIFIED)
    stage.task(lost, VERIFIED)
    stage.task(half, VERIFIED)


def miner_leaves_and_returns(stage: Stage) -> None:
    """A miner that left the chain and came back must register again, also for peers that slept meanwhile.

    Nor does its old claim come back by being carried, when the validator that recorded it loses its permit.
    """
    stage.open((40, 30, 20, 20, 10), absent={4})
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    first = stage.rng.randrange(4)
    owner = stage.post_accepted(ALICE, [GPU], first)
    other = stage.post_accepted(BOB, [OTHER], anywhere(stage))
    verified_everywhere(stage, owner)
    verified_everywhere(stage, other, OTHER)
    sleeper = stage.rng.choice((1, 2, 3))
    stage.leave(sleeper)
    stage.stop_chain()
    del stage.registered[ALICE]
    if leaves := (first != sleeper and stage.rng.random() < 0.5):
        del stage.stakes[f"//validator{first}"]
    for _ in range(stage.rng.randint(1, 3)):
        stage.epoch()
        stage.run(stage.rng.choice((5, 20)))
        stage.owns(GPU, None)
    stage.registered[ALICE] = stage.block + stage.rng.choice((1, 50, 100))
    stage.epochs(1)
    stage.owns(GPU, None)
    stage.enter(sleeper)
    if not leaves:  # of a claim that counted before its time a newcomer would know nothing
        stage.enter(4)
    stage.run(30)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "those who slept have caught up")
    stage.owns(GPU, None)
    if leaves:
        stage.epochs(2)
        stage.owns(GPU, None)
    takes = [peer.index for peer in stage.up if peer.ledger.writes_refused is None]
    again = stage.post_accepted(ALICE, [GPU], stage.rng.choice(takes))
    if again.claim_id == owner.claim_id:
        raise CheckFailedError("BUG! the new registration is the old one")
    stage.resume()
    verified_everywhere(stage, again)
    stage.settle()
    stage.owns(GPU, again, VERIFIED)
    stage.owns(OTHER, other, VERIFIED)
