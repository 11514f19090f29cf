"""Two miners claim one GPU."""

from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.events import FAILED, VERIFIED, AddPayload
from p2pnodes.model.inventory import PENDING
from tests.sim.outcome import row_of
from tests.sim.peer import SKEW_MS_MAX, CheckFailedError
from tests.sim.rogue import Rogue
from tests.sim.scenarios.cast import (
    ALICE,
    BOB,
    CHARLIE,
    GPU,
    OTHER,
    accepted,
    anywhere,
    contested,
    stakes,
    two,
    verified_everywhere,
    won,
)
from tests.sim.stage import OLD_MS, TTL_S, Posted, Stage

HOLDERS = ((ALICE,), (BOB,), (ALICE, BOB), ())


def _rivals(stage: Stage, nonces_s: tuple[int, int], at: tuple[int, int]) -> tuple[Posted, Posted]:
    """Both post at this very moment."""
    rivals = stage.post(ALICE, [GPU], at[0], nonces_s[0]), stage.post(BOB, [GPU], at[1], nonces_s[1])
    accepted(stage, *rivals)
    return rivals


def two_miners_at_once(stage: Stage) -> None:
    """Two miners claim one GPU on two peers at the same moment; one of them has it, or both, or none."""
    stage.open(stakes(stage), old=stage.rng.random() < 0.7)
    has = stage.rng.choice(HOLDERS)
    stage.truth.give(GPU, *has)
    now_s = stage.now_s
    one, other = _rivals(stage, (now_s + stage.rng.randint(-3, 3), now_s + stage.rng.randint(-3, 3)), two(stage))
    stage.run(stage.rng.uniform(0, 60))
    stage.settle()
    contested(stage, one, other, has)


def equal_nonces(stage: Stage) -> None:
    """The same with one nonce: the request id is what is left to order the two."""
    stage.open(stakes(stage), old=stage.rng.random() < 0.7)
    has = stage.rng.choice(HOLDERS)
    stage.truth.give(GPU, *has)
    one, other = _rivals(stage, (stage.now_s, stage.now_s), two(stage))
    first = min(one, other, key=lambda posted: posted.claim_id)
    stage.settle()
    contested(stage, one, other, has)
    if not has:
        stage.owns(GPU, first, FAILED)


def two_sides_of_a_partition(stage: Stage) -> None:
    """Each side of a partition hears of one claim only, votes on it for a while, and learns of the other later."""
    stage.open(stakes(stage), old=stage.rng.random() < 0.7)
    has = stage.rng.choice(HOLDERS)
    stage.truth.give(GPU, *has)
    left, right = stage.split()
    stage.part(left, right)
    stage.run(stage.rng.uniform(0, 3))
    nonces_s = (stage.now_s, stage.now_s + stage.rng.choice((0, 0, -20, 20)))
    one, other = _rivals(stage, nonces_s, (stage.rng.choice(left), stage.rng.choice(right)))
    stage.run(stage.rng.uniform(1, 60))
    stage.join()
    stage.run(stage.rng.uniform(0, 30))
    stage.settle()
    contested(stage, one, other, has)


def servers_that_overlap(stage: Stage) -> None:
    """Two servers of two GPUs each have one in common: who lacks it has claimed what it does not have."""
    stage.open(stakes(stage), old=stage.rng.random() < 0.7)
    stage.truth.give(GPU, ALICE)
    stage.truth.give("gpu-a", ALICE)
    stage.truth.give("gpu-b", BOB)
    at = two(stage)
    true = stage.post(ALICE, ["gpu-a", GPU], at[0])
    false = stage.post(BOB, ["gpu-b", GPU], at[1])
    accepted(stage, true, false)
    stage.run(stage.rng.uniform(0, 60))
    stage.settle()
    stage.owns("gpu-a", true, VERIFIED)
    stage.owns(GPU, true, VERIFIED)
    stage.task(true, VERIFIED)
    stage.owns("gpu-b", false)
    stage.task(false, FAILED)


def backdating_validator(stage: Stage) -> None:
    """A validator with less than half of the stake writes as far back as validity lets it, for a miner that bought it.

    Its log's HLCs and its request's nonce lie hours before those of the true owner, its verdicts say verified since
    the beginning of time. The lowest stamp owns a GPU only while nobody is verified for it; and verified-since cannot
    lie before an honest validator has verified.
    """
    honest = list(stage.rng.choice(((100, 100, 100), (40, 30, 20))))
    stage.open([*honest, stage.rng.choice((10, 40, sum(honest) - 1))], rogue={len(honest)})
    stage.truth.give(GPU, *stage.rng.choice(((ALICE,), (ALICE, BOB))))
    age_s = stage.rng.choice((60, TTL_S - 40, TTL_S + 60, 3_600, 86_400))
    rogue = Rogue(stage, len(honest), age_ms=age_s * 1000 + OLD_MS)
    stage.until(lambda: stage.enrolled(rogue.hotkey), 20_000, "all know the rogue")
    began_hlc = hlc_at(int(stage.clock.now_ms) - SKEW_MS_MAX)
    owner = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    verified_everywhere(stage, owner)
    stage.watch(GPU)
    squat = stage.sign(BOB, [GPU], stage.now_s - age_s - stage.rng.randint(0, 590))
    stage.claims.append(squat)
    rogue.write(AddPayload(squat.request, stage.rng.choice((0, stage.block))), hlc_at((stage.now_s - age_s) * 1000))
    rogue.vote(squat.claim_id)
    stage.run(stage.rng.uniform(0, 20))
    rogue.vote(squat.claim_id, hlc=rogue.now_hlc)
    rogue.vote(owner.claim_id, stage.rng.choice((VERIFIED, FAILED)))
    stage.run(stage.rng.uniform(0, 2 * TTL_S))
    stage.settle()
    won(stage, owner, squat)
    stage.kept(GPU, owner)
    if (since := stage.since(GPU)) < began_hlc:
        raise CheckFailedError(f"verified since {hlc_ms(since)}, before anybody could verify: {hlc_ms(began_hlc)}")


def _status(stage: Stage, uuid: str) -> str | None:
    """Status of a GPU on one of the peers."""
    row = row_of(stage.up[0], uuid)
    return None if row is None else row.status


def squatter_before_the_owner(stage: Stage) -> None:
    """A squatter claims a GPU before its owner does, and is never verified; the owner gets it, and keeps it."""
    stage.open(stakes(stage), old=stage.rng.random() < 0.7)
    stage.truth.give(GPU, ALICE)
    if (shut := stage.rng.choice((None, "abstain", "unreachable"))) is not None:
        stage.truth.shut(BOB, abstain=shut == "abstain")
    squat = stage.post_accepted(BOB, [GPU, OTHER], anywhere(stage))
    stage.run(stage.rng.uniform(0, 40))
    if stage.rng.random() < 0.3:
        stage.run(TTL_S * 1.5)  # long enough to be forgotten by everybody
    in_time = _status(stage, OTHER) == FAILED
    owner = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    verified_everywhere(stage, owner)
    late = stage.post(CHARLIE, [GPU], anywhere(stage))
    stage.run(stage.rng.uniform(1, 30))
    stage.settle()
    won(stage, owner, squat)
    # An owner may be verified before anybody's turn comes to check the squatter's claim: then nobody does.
    unchecked = shut or (not in_time and _status(stage, OTHER) == PENDING)
    stage.owns(OTHER, squat, PENDING if unchecked else FAILED)
    stage.refused(late, [GPU])
