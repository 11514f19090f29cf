"""Validators abstain, and enrol."""

from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.model.inventory import PENDING
from tests.sim.peer import CheckFailedError
from tests.sim.scenarios.cast import ALICE, BOB, DECIDED_MS, GPU, OTHER, anywhere, stakes, verified_everywhere
from tests.sim.stage import FAILED_CHECK, TTL_S, Stage
from tests.sim.verifiers import abstains, honest


def validators_abstain(stage: Stage) -> None:
    """Who abstains is not counted: the others decide, if they have the minimum share; later all of them look."""
    table = (40, 30, 20, 10)
    stage.open(table)
    silent = set(stage.rng.sample(range(4), stage.rng.randint(1, 4)))
    for index in silent:
        stage.peer(index).behaviour = abstains
    stage.truth.give(GPU, ALICE)
    true = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    false = stage.post_accepted(BOB, [OTHER], anywhere(stage))
    stage.settle()
    voting = sum(stake for index, stake in enumerate(table) if index not in silent)
    stage.owns(GPU, true, VERIFIED if voting >= 20 else PENDING)
    stage.owns(OTHER, false, FAILED if voting else PENDING)
    stage.task(true, VERIFIED if voting >= 20 else PENDING)
    stage.task(false, FAILED if voting else PENDING, FAILED_CHECK if voting else "")
    for index in silent:
        stage.peer(index).behaviour = honest
    stage.resume()
    verified_everywhere(stage, true)
    stage.until(lambda: stage.everywhere(OTHER, false, FAILED), DECIDED_MS, "the false claim fails")
    stage.settle()


def validator_enrols(stage: Stage) -> None:
    """A validator comes late: its silence does not count while it is young, and nothing that was verified is lost.

    It may bring more stake than all others together.
    """
    table = stakes(stage)
    newcomer = len(table)
    stage.open((*table, stage.rng.choice((10, 50, 100, 200))), absent={newcomer})
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    before = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    verified_everywhere(stage, before)
    stage.watch(GPU)
    stage.hold(GPU, before, VERIFIED)
    stage.enter(newcomer)
    stage.run(stage.rng.uniform(0, 60))
    after = stage.post_accepted(BOB, [OTHER], anywhere(stage))
    rival = stage.post(BOB, [GPU], stage.rng.randrange(newcomer))
    verified_everywhere(stage, after, OTHER)
    for _ in range(TTL_S + 40):  # until the newcomer is not young any more
        stage.run(1)
        if not stage.everywhere(GPU, before, VERIFIED):
            raise CheckFailedError(f"what was verified is lost when a validator grows up: {stage.rows(GPU)}")
    stage.settle()
    stage.kept(GPU, before)
    stage.task(before, VERIFIED)
    stage.task(after, VERIFIED)
    stage.refused(rival, [GPU])
