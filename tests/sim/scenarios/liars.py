"""Validators that lie, with less than half of the stake; and validators that are not there.

Liars with half of the stake or more decide: with the 40 and the 20 of 40/30/20/10 lying either way, false claims end
verified and true ones failed. No peer can tell such votes from honest ones; that is what the quorum says.
"""

from typing import Final

from p2pnodes import clerk
from p2pnodes.model.branches import displaced
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED, AddPayload, Verdict
from p2pnodes.model.inventory import PENDING
from p2pnodes.store import ledger, logs, unsettled
from tests.sim.bounds import patched
from tests.sim.peer import CheckFailedError
from tests.sim.rogue import Rogue
from tests.sim.scenarios.cast import (
    ALICE,
    BOB,
    CHARLIE,
    DECIDED_MS,
    GPU,
    OTHER,
    accepted,
    anywhere,
    rivals,
    verified_everywhere,
)
from tests.sim.stage import FAILED_CHECK, TTL_S, Posted, Stage, taken
from tests.sim.verifiers import contrary, favours, flipping

FOUR: Final = (40, 30, 20, 10)

LOGS_MAX: Final = 3
FORGOTTEN_MS: Final = 90_000
FEW: Final = (
    (logs, "LOGS_PER_HOTKEY_MAX", LOGS_MAX),
    (ledger, "EVENTS_PER_PART", 1),
    (unsettled, "EVENTS_PER_MOVE", 2),
    (clerk, "DISPLACED_MS", FORGOTTEN_MS),
    (clerk, "MARGINS_PER_HORIZON", 604_800),  # a few seconds: a displaced log stays for one margin at least
)
"""Bounds of the logs of one validator that a short play reaches."""


def _claims(stage: Stage) -> tuple[list[Posted], list[Posted]]:
    """Some true and some false claims, posted here and there."""
    true: list[Posted] = []
    false: list[Posted] = []
    for number, (miner, real) in enumerate(((ALICE, True), (BOB, True), (BOB, False), (CHARLIE, False))):
        uuids = [f"gpu-{number}{letter}" for letter in "ab"[: stage.rng.randint(1, 2)]]
        for uuid in uuids:
            stage.truth.give(uuid, *((miner,) if real else ()))
        posted = stage.post_accepted(miner, uuids, anywhere(stage))
        (true if real else false).append(posted)
        stage.run(stage.rng.choice((0, 0, 3)))
    return true, false


def _end(stage: Stage, claims: list[Posted], status: str) -> None:
    for posted in claims:
        for uuid in posted.uuids:
            stage.owns(uuid, posted, status)
        stage.task(posted, status, FAILED_CHECK if status == FAILED else "")


def one_of_four_lies(stage: Stage) -> None:
    """Stakes of 40, 30, 20 and 10, one of them lying either way: every claim ends as the honest majority says."""
    stage.open(FOUR)
    liar = stage.rng.randrange(4)
    stage.peer(liar).behaviour = stage.rng.choice((contrary, favours([CHARLIE])))
    stage.trace("net", "liar", f"p{liar}")
    true, false = _claims(stage)
    stage.settle()
    _end(stage, true, VERIFIED)
    _end(stage, false, FAILED)
    stage.resume()
    stage.run(stage.rng.uniform(1, 1.5) * TTL_S)  # and it stays so when all is checked again
    stage.settle()
    _end(stage, true, VERIFIED)
    _end(stage, false, FAILED)


def young_network_with_a_liar(stage: Stage) -> None:
    """The same where everybody is young, and the silence of those who have not voted does not count yet."""
    stage.open(FOUR, old=False)
    liar = stage.rng.randrange(4)
    stage.peer(liar).behaviour = contrary
    stage.trace("net", "liar", f"p{liar}")
    true, false = _claims(stage)
    stage.settle()
    _end(stage, true, VERIFIED)
    _end(stage, false, FAILED)


def forty_and_twenty_offline(stage: Stage) -> None:
    """With the 40 and the 20 offline every claim stays pending, and ends when one returns.

    One of the four may lie, if more than half of the stake is honest and there: the honest of those who are there then
    decide. Otherwise a claim waits for the last one.
    """
    stage.open(FOUR)
    liar = stage.rng.choice((None, 0, 1, 2, 3))
    if liar is not None:
        stage.peer(liar).behaviour = contrary
    stage.trace("net", "liar", f"p{liar}")
    stage.leave(0, 2)
    true, false = _claims(stage)
    stage.run(stage.rng.uniform(10, 60))
    stage.settle()
    _end(stage, true, PENDING)
    _end(stage, false, PENDING)
    first = stage.rng.choice((0, 2))
    stage.resume()
    stage.enter(first)
    there = {1, 3, first}
    honest = sum(FOUR[index] for index in there if index != liar)
    if honest > 50:
        _decided(stage, true, false)
        stage.settle()
        _end(stage, true, VERIFIED)
        _end(stage, false, FAILED)
        stage.resume()
    else:
        stage.run(60)
        stage.settle()
        _end(stage, true, PENDING)
        _end(stage, false, FAILED if honest == 50 else PENDING)
        stage.resume()
    stage.enter(2 - first)
    _decided(stage, true, false)
    stage.settle()
    _end(stage, true, VERIFIED)
    _end(stage, false, FAILED)


def _decided(stage: Stage, true: list[Posted], false: list[Posted]) -> None:
    def all_are() -> bool:
        return all(
            stage.everywhere(uuid, posted, status)
            for claims, status in ((true, VERIFIED), (false, FAILED))
            for posted in claims
            for uuid in posted.uuids
        )

    stage.until(all_are, DECIDED_MS, "every claim ends")


def liar_that_flips(stage: Stage) -> None:
    """A validator changes its verdict again and again, in and out of turn: no owner changes with it."""
    stage.open(FOUR)
    liar = stage.rng.randrange(4)
    peer = stage.peer(liar)
    peer.behaviour = flipping()
    stage.truth.give(GPU, ALICE)
    claim, rival = rivals(stage)
    false = stage.post_accepted(BOB, [OTHER], anywhere(stage))
    verified_everywhere(stage, claim)
    stage.watch(GPU)
    for _ in range(stage.rng.randint(5, 20)):
        posted = stage.rng.choice((claim, false, rival))
        finding = stage.rng.choice((VERIFIED, FAILED, ABSTAIN))
        old = stage.rng.choice((True, False))

        def verdict(hlc: int, posted: Posted = posted, finding: str = finding, old: bool = old) -> Verdict:
            since = (0 if old else hlc) if finding == VERIFIED else None
            return Verdict(posted.claim_id, finding, "coin", "" if finding == VERIFIED else FAILED_CHECK, since)

        peer.say(verdict)
        stage.run(stage.rng.uniform(0, 6))
    stage.settle()
    stage.owns(GPU, claim, VERIFIED)
    stage.task(claim, VERIFIED)
    stage.kept(GPU, claim)
    stage.owns(OTHER, false, FAILED)
    stage.task(false, FAILED)
    stage.task(rival, FAILED, taken(GPU))


def verdicts_on_nothing(stage: Stage) -> None:
    """A validator votes on claims that nobody knows (yet), says since tomorrow or since ever, runs ahead of all clocks.

    What is void counts for nothing; the rest is one vote of a minority.
    """
    stage.open((40, 30, 20, 20), rogue={3})
    stage.truth.give(GPU, ALICE)
    rogue = Rogue(stage, 3)
    claim, false = stage.sign(ALICE, [GPU]), stage.sign(BOB, [OTHER])
    ids = [claim.claim_id, false.claim_id, stage.rng.randbytes(32)]

    def babble() -> None:
        ahead_ms = stage.rng.choice((0, 0, 30_000))
        hlc = max(rogue.last_hlc + 1, rogue.now_hlc + hlc_at(ahead_ms))
        since = stage.rng.choice((0, hlc, hlc + 1, hlc_at(int(stage.clock.now_ms) + 86_400_000)))
        rogue.vote(stage.rng.choice(ids), stage.rng.choice((VERIFIED, FAILED, ABSTAIN)), since=since, hlc=hlc)

    for _ in range(stage.rng.randint(1, 6)):
        babble()
        stage.run(stage.rng.uniform(0, 2))
    for posted in (claim, false):
        stage.repost(posted, anywhere(stage))
    verified_everywhere(stage, claim)
    stage.watch(GPU)
    for _ in range(stage.rng.randint(1, 6)):
        babble()
        stage.run(stage.rng.uniform(0, 10))
    stage.settle()
    stage.kept(GPU, claim)
    stage.owns(GPU, claim, VERIFIED)
    stage.task(claim, VERIFIED)
    stage.owns(OTHER, false, FAILED)
    stage.task(false, FAILED)
    if stage.since(GPU) > rogue.now_hlc + hlc_at(60_000):
        raise CheckFailedError("verified since a time that has not come yet")


def logs_without_end(stage: Stage) -> None:
    """A validator opens more logs than may count, and shows other ones to each half, each with a registration.

    An honest daemon answers for each of these, without writing anything itself. The same logs count everywhere then;
    what only others carried is carried by somebody else, before these are forgotten.
    """
    with patched(FEW):
        stage.open((100, 100, 100, 100, 100), rogue={4})
        sides = stage.split()
        if stage.rng.random() < 0.7:
            stage.part(*sides)
        claims: list[Posted] = []
        logs: list[Rogue] = []
        for number in range(stage.rng.randint(LOGS_MAX + 1, 3 * LOGS_MAX)):
            miner = stage.rng.choice((ALICE, BOB, CHARLIE))
            stage.truth.give(f"gpu-{number}", miner)
            posted = stage.sign(miner, [f"gpu-{number}"])
            at = stage.rng.choice(stage.rng.choice(sides))
            rogue = Rogue(stage, 4, through=at)
            rogue.write(AddPayload(posted.request, stage.block), rogue.next_hlc, through=at)
            rogue.vote(posted.claim_id, stage.rng.choice((VERIFIED, FAILED)))
            stage.run(stage.rng.choice((0, 1, 20)))
            stage.repost(posted, at)
            claims.append(posted)
            logs.append(rogue)
        stage.run(stage.rng.uniform(0, 30))
        stage.join()
        accepted(stage, *claims)
        for posted in claims:
            verified_everywhere(stage, posted, posted.uuids[0])
        order = displaced([rogue.log for rogue in logs], (), 0)

        def forgotten() -> bool:
            return all(each not in peer.ledger.state.logs for peer in stage.up for each in order[LOGS_MAX:])

        stage.until(forgotten, FORGOTTEN_MS + DECIDED_MS, "all others are forgotten")
        stage.settle()
        for peer in stage.up:
            if held := [log for log in order[LOGS_MAX:] if log in peer.ledger.state.logs]:
                raise CheckFailedError(f"{peer.name} took up again what it forgot: {held}")
        for posted in claims:
            stage.owns(posted.uuids[0], posted, VERIFIED)
