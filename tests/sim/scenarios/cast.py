"""Who plays: names of miners and GPUs, and draws that several scenarios share."""

from typing import Final

from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.verify.verdicts import FAULT_MAX_MS
from tests.sim.peer import CheckFailedError
from tests.sim.stage import FAILED_CHECK, Posted, Stage, taken

ALICE: Final = "//Alice"
BOB: Final = "//Bob"
CHARLIE: Final = "//Charlie"
DAVE: Final = "//Dave"

GPU: Final = "gpu-0"
OTHER: Final = "gpu-1"

TABLES: Final = ((100, 100, 100), (40, 30, 20, 10), (70, 20, 10), (30, 30, 20, 20), (25, 25, 25, 15, 10))
"""Stakes: flat, skewed, with one validator that decides alone."""

DECIDED_MS: Final = FAULT_MAX_MS + 300_000
"""Within this time after the last change of truth every claim is decided: one that could not be checked for long waits
for FAULT_MAX_MS, failed ones for half of a verdict's life, and validators take turns."""


def stakes(stage: Stage) -> tuple[int, ...]:
    """Draw stakes, in any order."""
    table = list(stage.rng.choice(TABLES))
    stage.rng.shuffle(table)
    return tuple(table)


def anywhere(stage: Stage) -> int:
    """Draw a validator whose daemon takes writes."""
    return stage.rng.choice([peer for peer in stage.up if peer.ledger.writes_refused is None]).index


def two(stage: Stage) -> tuple[int, int]:
    """Draw two validators whose daemons run, at the beginning: both take writes."""
    first, second = stage.rng.sample(stage.up, 2)
    return first.index, second.index


def verified_everywhere(stage: Stage, posted: Posted, uuid: str = GPU) -> None:
    """Let time pass until every peer says that a claim owns a GPU, verified."""
    what = f"{uuid} is verified for {posted.miner}"
    stage.until(lambda: stage.everywhere(uuid, posted, VERIFIED), DECIDED_MS, what)


def accepted(stage: Stage, *claims: Posted) -> None:
    """Wait until registrations are answered, and require that all of them were taken: else there is no conflict."""
    stage.until(lambda: all(posted.answers for posted in claims), 5_000, "answers")
    for posted in claims:
        if not posted.accepted:
            raise CheckFailedError(f"{posted.miner}'s registration is refused: {posted.answers}")


def rivals(stage: Stage) -> tuple[Posted, Posted]:
    """Let Alice and Bob claim one GPU on two peers at this very moment, with nonces that are equal or nearly so."""
    at, now_s = two(stage), stage.now_s
    one = stage.post(ALICE, [GPU], at[0], now_s)
    other = stage.post(BOB, [GPU], at[1], now_s + stage.rng.choice((-1, 0, 1)))
    accepted(stage, one, other)
    return one, other


def won(stage: Stage, winner: Posted, loser: Posted, uuid: str = GPU) -> None:
    """Require that everybody says who has the GPU, to both miners."""
    stage.owns(uuid, winner, VERIFIED)
    stage.task(winner, VERIFIED)
    stage.task(loser, FAILED, taken(uuid))


def contested(stage: Stage, one: Posted, other: Posted, has: tuple[str, ...], uuid: str = GPU) -> None:
    """Require the end of two claims on one GPU, each of it alone.

    Args:
        stage: At rest.
        one: A claim.
        other: A claim of another miner.
        has: Whose checks succeed.
        uuid: The GPU.
    """
    if not has:  # nobody: the lowest stamp is listed, and failed
        stage.owns(uuid, min(one, other, key=lambda posted: posted.stamp), FAILED)
        stage.task(one, FAILED, FAILED_CHECK)
        stage.task(other, FAILED, FAILED_CHECK)
    elif len(has) == 1:
        won(stage, *((one, other) if one.miner in has else (other, one)), uuid)
    else:  # both: whoever was verified first, which the votes say
        won(stage, *((one, other) if stage.everywhere(uuid, one) else (other, one)), uuid)
