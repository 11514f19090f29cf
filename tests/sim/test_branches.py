"""A log of which everybody was given another branch is the same for all, seconds after they can talk to each other."""

import random

import pytest

from p2pnodes.model.events import ABSTAIN, FAILED, Verdict
from p2pnodes.store.schema import open_writer
from tests.sim.bounds import open_door
from tests.sim.check import agree
from tests.sim.rogue import Rogue
from tests.sim.signatures import seeded_signatures
from tests.sim.stage import NEWS_MS, Stage

JOINED_MS_MAX = 15_000
"""Until two sides agree: new sessions take up to some seconds, the search itself little more than its round trips."""


def say(rogue: Rogue, finding: str, *, through: int) -> None:
    """Let a rogue write about a claim that nobody ever made."""
    rogue.write(Verdict(bytes(32), finding, "bribe", "", None), through=through)


def two_branches(stage: Stage, shared: int, ours: int, theirs: int) -> Rogue:
    """Give two sides of a partition two branches of one log, which they share up to so many events."""
    stage.open((100, 100, 100, 100, 100), rogue=[4])
    rogue = Rogue(stage, 4)
    for _ in range(shared):
        say(rogue, ABSTAIN, through=0)
    stage.until(lambda: agree(stage.up) and stage.enrolled(rogue.hotkey), JOINED_MS_MAX, "all hold the log")
    stage.part([0, 1], [2, 3])
    fork = rogue.last_seq
    for _ in range(ours):
        say(rogue, ABSTAIN, through=0)
    rogue.rewind(fork)
    for _ in range(theirs):
        say(rogue, FAILED, through=2)
    stage.run(12)  # until every session over the gap is given up
    assert not agree(stage.up)
    return rogue


@pytest.mark.parametrize("seed", range(1, 13))
def test_sides_that_were_given_different_branches_agree_in_seconds(seed: int) -> None:
    stage = Stage(seed)
    lengths = random.Random(seed)
    shared, ours, theirs = (lengths.choice((1, 2, 7, 40)) for _ in range(3))
    try:
        with seeded_signatures(seed), open_door():
            rogue = two_branches(stage, shared, ours, theirs)
            stage.join()
            stage.until(lambda: agree(stage.up), JOINED_MS_MAX, f"{shared} shared, {ours} and {theirs} on the branches")
            for peer in stage.up:
                assert peer.ledger.state.ends[rogue.log].fork == shared + 1
                assert peer.ledger.state.heads[rogue.log].seq == shared
            stage.run(20)
            stage.until(lambda: agree(stage.up), NEWS_MS, "they agree still, once all know of the latest electorate")
    finally:
        stage.close()


def test_a_newcomer_that_comes_after_the_fork_sees_the_same() -> None:
    stage = Stage(3)
    try:
        with seeded_signatures(3), open_door():
            rogue = two_branches(stage, 5, 9, 30)
            stage.join()
            stage.until(lambda: agree(stage.up), JOINED_MS_MAX, "both sides agree")
            stage.leave(1)
            stage.peer(1).disk.close()
            stage.peer(1).disk = open_writer(":memory:")
            stage.enter(1)
            stage.until(lambda: agree(stage.up), 60_000, "the newcomer has caught up")
            assert stage.peer(1).ledger.state.ends[rogue.log].fork == 6
    finally:
        stage.close()
