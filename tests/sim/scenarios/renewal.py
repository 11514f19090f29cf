"""The owner's verdicts are renewed, or lapse; the owner goes."""

from typing import Final

from p2pnodes.model.events import FAILED, VERIFIED
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.scenarios.cast import (
    ALICE,
    BOB,
    DECIDED_MS,
    GPU,
    anywhere,
    rivals,
    stakes,
    verified_everywhere,
    won,
)
from tests.sim.stage import EPOCH_MS, TTL_S, Posted, Stage
from tests.sim.verifiers import honest, unavailable

LAPSED_MS: Final = 2 * TTL_S * 1000 + EPOCH_MS
DARK_S: Final = 10.0
"""How long a verifier fails: a verdict that is due to be renewed then does not lapse over it."""


def _rival_waits(stage: Stage) -> tuple[Posted, Posted]:
    """Alice's claim, verified everywhere, and Bob's, which came at the same moment and lost."""
    stage.truth.give(GPU, ALICE)
    owner, rival = rivals(stage)
    verified_everywhere(stage, owner)
    return owner, rival


def _more_than_half(stage: Stage) -> list[SimPeer]:
    """Validators without whom there is no quorum, drawn."""
    total = sum(stage.stakes.values())
    peers = list(stage.up)
    stage.rng.shuffle(peers)
    drawn: list[SimPeer] = []
    while 2 * sum(stage.stakes[f"//validator{peer.index}"] for peer in drawn) < total:
        drawn.append(peers.pop())
    return drawn


def owner_is_renewed(stage: Stage) -> None:
    """Verdicts are renewed for as long as a GPU is there: the owner stays, whoever else could be verified for it.

    Some of the time a verifier fails, for less than it takes a verdict to lapse.
    """
    stage.open(stakes(stage))
    if stage.rng.random() < 0.5:
        owner, rival = _rival_waits(stage)
        stage.truth.give(GPU, ALICE, BOB)
    else:  # both are checked at once, and one of them is verified first
        stage.truth.give(GPU, ALICE, BOB)
        claims = rivals(stage)
        stage.run(20)
        owner, rival = claims if stage.everywhere(GPU, claims[0]) else claims[::-1]
        verified_everywhere(stage, owner)
    since = stage.since(GPU)
    stage.watch(GPU)
    for _ in range(3):
        stage.run(stage.rng.uniform(0.3, 0.7) * TTL_S)
        dark = stage.rng.choice(stage.up)
        dark.behaviour = unavailable
        stage.run(DARK_S)
        dark.behaviour = honest
    stage.settle()
    won(stage, owner, rival)
    stage.kept(GPU, owner)
    if stage.since(GPU) < since:  # it may rise: who stepped in once, and is not needed, lets its verdict lapse
        raise CheckFailedError(f"verified since {stage.since(GPU)}, and before its renewals since {since}")


def owners_verdict_lapses(stage: Stage) -> None:
    """Nobody renews the owner's verdict for longer than it lives: then the next claim is challenged, and may win."""
    stage.open(stakes(stage))
    owner, rival = _rival_waits(stage)
    stage.run(stage.rng.choice((0.1, 0.6, 1.5)) * TTL_S)
    dark = _more_than_half(stage)
    for peer in dark:
        peer.behaviour = unavailable
    has = stage.rng.choice((ALICE, BOB))
    stage.truth.give(GPU, has)
    stage.until(lambda: not stage.verified_anywhere(GPU), LAPSED_MS, "the verdict lapses")
    stage.run(stage.rng.uniform(0, 20))
    for peer in dark:
        peer.behaviour = honest
    winner, loser = (owner, rival) if has == ALICE else (rival, owner)
    verified_everywhere(stage, winner)
    stage.settle()
    won(stage, winner, loser)


def owner_loses_the_gpu(stage: Stage) -> None:
    """The owner fails its next check: the next claim is challenged, and wins, though its stamp is the higher one."""
    stage.open(stakes(stage))
    owner, rival = _rival_waits(stage)
    stage.run(stage.rng.choice((0.1, 0.6, 1.5)) * TTL_S)
    stage.truth.give(GPU, BOB)
    verified_everywhere(stage, rival)
    stage.settle()
    won(stage, rival, owner)


def owner_deletes(stage: Stage) -> None:
    """The owner deletes its GPU: the next claim takes over, and is verified if its miner has the GPU now."""
    stage.open(stakes(stage))
    _, rival = _rival_waits(stage)
    stage.run(stage.rng.choice((0.1, 0.6, 1.5)) * TTL_S)
    moved = stage.rng.random() < 0.7
    if moved:
        stage.truth.give(GPU, BOB)
        stage.run(stage.rng.choice((0, 0, 5)))
    stage.delete(ALICE, GPU, anywhere(stage))
    stage.until(lambda: stage.everywhere(GPU, rival), 60_000, "the next claim takes over")
    if moved:
        verified_everywhere(stage, rival)
    else:
        stage.until(lambda: stage.everywhere(GPU, rival, FAILED), DECIDED_MS, "the next claim fails")
    stage.settle()
    stage.owns(GPU, rival, VERIFIED if moved else FAILED)
    stage.task(rival, VERIFIED if moved else FAILED)


def owner_leaves_the_chain(stage: Stage) -> None:
    """The owner is deregistered: its claim does not count. When it is back, it must register its GPU again."""
    stage.open(stakes(stage))
    contested = stage.rng.random() < 0.5
    if contested:
        owner, rival = _rival_waits(stage)
    else:
        stage.truth.give(GPU, ALICE)
        owner, rival = stage.post_accepted(ALICE, [GPU], anywhere(stage)), None
        verified_everywhere(stage, owner)
    stage.run(stage.rng.uniform(0, 0.5) * TTL_S)
    del stage.registered[ALICE]
    stage.epochs(1)
    stage.owns(GPU, rival)
    moved = contested and stage.rng.random() < 0.5
    if moved and rival is not None:
        stage.truth.give(GPU, BOB)
        verified_everywhere(stage, rival)
    stage.run(stage.rng.choice((0, 30)))
    stage.registered[ALICE] = stage.block + stage.rng.choice((1, 50, 100))
    stage.epochs(1)
    stage.owns(GPU, rival)
    if stage.rng.random() < 0.5:  # the very same request; its nonce is not too old yet
        again = owner
        stage.repost(owner, anywhere(stage))
    else:
        again = stage.post(ALICE, [GPU], anywhere(stage))
    stage.run(2)
    if moved and rival is not None:
        stage.settle()
        stage.refused(again if again is not owner else again._replace(answers=again.answers[1:]), [GPU])
        stage.owns(GPU, rival, VERIFIED)
    else:
        verified_everywhere(stage, again)
        stage.settle()
        stage.owns(GPU, again, VERIFIED)
        stage.task(again, VERIFIED)
