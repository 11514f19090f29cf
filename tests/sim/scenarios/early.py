"""A registration that names an electorate which has not come yet counts from when it comes, and not before."""

from p2pnodes.model.events import AddPayload
from tests.sim.rogue import Rogue
from tests.sim.scenarios.cast import ALICE, BOB, DECIDED_MS, GPU, OTHER, anywhere, verified_everywhere
from tests.sim.stage import Stage


def registration_ahead_of_the_chain(stage: Stage) -> None:
    """A validator records a registration with an electorate block of some epochs ahead, before or after an honest one.

    Nobody lists it before the chain is there; then it is one like any other, on both GPUs that it names.
    """
    stage.open((40, 30, 20, 20), rogue={3})
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    rogue = Rogue(stage, 3)
    early, true = stage.sign(BOB, [OTHER, GPU]), stage.sign(ALICE, [GPU])
    stage.claims.append(early)
    epochs = stage.rng.randint(10, 20)

    def record() -> None:
        rogue.write(AddPayload(early.request, stage.block + epochs * stage.parameters.epoch_blocks))

    def register() -> None:
        stage.repost(true, anywhere(stage))

    moments = [record, register]
    stage.rng.shuffle(moments)
    for act in moments:
        act()
        stage.run(stage.rng.choice((0, 2)))
    verified_everywhere(stage, true)
    stage.settle()
    stage.owns(OTHER, None)
    stage.owns(GPU, true)
    stage.epochs(epochs)
    stage.until(lambda: stage.everywhere(OTHER, early), DECIDED_MS, f"{OTHER} is listed")
    stage.settle()
    stage.owns(OTHER, early)
