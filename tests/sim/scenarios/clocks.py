"""A clock that is wrong while others are there to tell it so: its daemon says so, and writes nothing (rule 8)."""

from typing import Final

from p2pnodes.model.clock import CLOCK_OFF_MS_MAX
from p2pnodes.model.errors import WritesRefusedError
from tests.sim.peer import SKEW_MS_MAX, CheckFailedError
from tests.sim.scenarios.cast import ALICE, BOB, GPU, OTHER, verified_everywhere
from tests.sim.stage import Stage

NOTICED_MS_MAX: Final = 60_000
"""Within this time a daemon notices that its clock went wrong, or is right again: every peer tells it now and then."""


def clock_is_off(stage: Stage) -> None:
    """A clock goes wrong by less than makes peers defer events: its daemon refuses to write until it is right again."""
    stage.open((100, 100, 100, 100))
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    victim = stage.rng.randrange(4)
    peer = stage.peer(victim)
    before = stage.post_accepted(ALICE, [GPU], victim)
    verified_everywhere(stage, before)
    off_ms = stage.rng.choice((-1, 1)) * stage.rng.randint(CLOCK_OFF_MS_MAX + 2 * SKEW_MS_MAX, 50_000)
    peer.skew_ms += off_ms
    stage.until(lambda: peer.ledger.writes_refused is not None, NOTICED_MS_MAX, f"{peer.name} stops writing")
    refused = stage.post(BOB, [OTHER], victim)
    stage.until(lambda: bool(refused.answers), 5_000, "an answer")
    if not isinstance(refused.answers[0], WritesRefusedError):
        raise CheckFailedError(f"{peer.name} answers {refused.answers} though its clock is {off_ms} ms off")
    peer.skew_ms -= off_ms
    stage.until(lambda: peer.ledger.writes_refused is None, NOTICED_MS_MAX, f"{peer.name} writes again")
    after = stage.sign(BOB, [OTHER])
    stage.repost(after, victim)
    verified_everywhere(stage, after, OTHER)
    stage.settle()
