"""Every conflict ends, on all peers alike, as the rules say; and a rule that is bent is noticed.

Hundreds of seeds: ``python -m tests.sim.scenarios --seeds 300``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import pytest

from p2pnodes.model import inventory
from p2pnodes.model.branches import Ends
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import VERIFIED
from p2pnodes.model.inventory import Claim, Deletion, Objection, Placement, Tally, TaskStatus, Vote, Weights
from p2pnodes.store import carrying
from p2pnodes.store.carrying import Cursor, Part, _Reading
from p2pnodes.store.facts import Facts
from tests.sim import outcome
from tests.sim.peer import CheckFailedError
from tests.sim.scenarios import catalogue, checkpoints
from tests.sim.scenarios.catalogue import SCENARIOS, play
from tests.sim.simulation import SimulationError
from tests.sim.stage import Stage

SEEDS: Final = 20
"""Seeds that each scenario is played with here."""

SEEDS_LONG: Final = 5
"""The same of those that let horizons pass: minutes of votes."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_ends_alike_on_all_peers_as_the_rules_say(name: str) -> None:
    _play_seeds(name)


def _play_seeds(name: str) -> None:
    is_long = SCENARIOS[name].__module__ == checkpoints.__name__
    for seed in range(1, (SEEDS_LONG if is_long else SEEDS) + 1):
        play(name, seed)


class TestPlaying:
    """One seed is one run, and a run that fails says how to play it again."""

    def test_one_seed_is_one_run(self) -> None:
        first, second = play("two-miners-at-once", 3), play("two-miners-at-once", 3)
        assert first.trace.digest == second.trace.digest
        assert first.trace.count == second.trace.count > 20
        assert play("two-miners-at-once", 4).trace.digest != first.trace.digest

    @pytest.mark.parametrize("name", ["equal-nonces", "fork-below-a-cut", "newcomer-behind-a-cut"])
    def test_one_seed_is_one_run_in_another_process_too(self, name: str) -> None:
        """Also where other runs went before, here, and left whatever is remembered from run to run."""
        command = [sys.executable, "-m", "tests.sim.scenarios", "--scenario", name, "--seed", "3", "--log"]
        environment = {**os.environ, "PYTHONHASHSEED": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
        play("two-miners-at-once", 3)
        trace = play(name, 3).trace
        lines = result.stdout.splitlines()
        assert lines[: trace.count][-len(trace.lines) :] == list(trace.lines)
        assert lines[trace.count] == f"trace {trace.digest}"

    def test_a_failure_names_scenario_and_seed_and_the_command_that_repeats_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(stage: Stage) -> None:
            stage.open((100, 100, 100))
            raise CheckFailedError("the sky fell")

        monkeypatch.setitem(catalogue.SCENARIOS, "broken", broken)
        replay = re.escape("replay: python -m tests.sim.scenarios --scenario broken --seed 7 --log")
        with pytest.raises(SimulationError, match=rf"p0 +start(.|\n)*broken, seed 7: .*the sky fell.*\n{replay}"):
            play("broken", 7)


# -- bent rules ------------------------------------------------------------------------------------------------------

_weigh, _tally, _live_votes, _standing = inventory.weigh, inventory.tally, inventory.live_votes, inventory.standing
_left_out, _objection, _cut = inventory.left_out, inventory.objection, Ends.cut


def _first_come(claims: Sequence[Claim], tallies: Mapping[bytes, Tally]) -> Claim | None:
    """Verified or not, the lowest stamp owns a GPU."""
    return claims[0] if claims else None


def _any_since(votes: Iterable[Vote], weights: Weights) -> Tally:
    """Verified since the first validator says so, not since a quorum does."""
    votes = list(votes)
    found = _tally(votes, weights)
    sinces = [vote.since or 0 for vote in _live_votes(votes, weights).values() if vote.finding == VERIFIED]
    return found._replace(since=min(sinces)) if found.status == VERIFIED else found


def _plurality(votes: Iterable[Vote], weights: Weights) -> Tally:
    """Whoever votes decides, be it a quorum or not."""
    votes = list(votes)
    scales = _weigh(_live_votes(votes, weights), weights)
    since = max((vote.since or 0 for vote in votes), default=0)
    return Tally(VERIFIED, since, "") if scales.verified > scales.failed else _tally(votes, weights)


def _for_ever(votes: Iterable[Vote], weights: Weights) -> dict[bytes, Vote]:
    """A verdict never lapses."""
    return {author: vote for author, vote in inventory.latest_votes(votes).items() if author in weights.enrolled}


def _silence_is_no(live: Mapping[bytes, Vote], weights: Weights) -> list[bytes]:
    """Abstainers are not counted, but the young are before they have voted."""
    return [hotkey for hotkey in _left_out(live, weights) if hotkey in live]


def _abstention_is_no(live: Mapping[bytes, Vote], weights: Weights) -> list[bytes]:
    """Abstainers count like those who say no."""
    return [hotkey for hotkey in _left_out(live, weights) if hotkey not in live]


def _undeletable(
    uuid: str, claims: Iterable[Claim], deletions: Iterable[Deletion], electorate: Electorate
) -> list[Claim]:
    """A delete ends nothing."""
    return _standing(uuid, claims, (), electorate)


def _unsorted(uuid: str, claims: Iterable[Claim], deletions: Iterable[Deletion], electorate: Electorate) -> list[Claim]:
    """Claims stand in the order in which a peer heard of them."""
    claims = list(claims)
    alive = _standing(uuid, claims, deletions, electorate)
    return [claim for claim in claims if claim in alive]


def _once_registered(claim: Claim, electorate: Electorate) -> Objection | None:
    """Who comes back to the chain finds its old claims again."""
    found = _objection(claim, electorate)
    return None if found is Objection.REGISTERED_LATER else found


def _of_any_claim(claim: Claim, placements: Iterable[Placement], weights: Weights) -> Placement | None:
    """A chute stays on its GPU when another claim owns it."""
    places = [place for place in placements if place.chute is not None]
    return max(places, key=lambda place: place.hlc, default=None)


def _own_vote(claim: Claim, uuid: str, claims: Sequence[Claim], tallies: Mapping[bytes, Tally]) -> TaskStatus | None:
    """A task says what its own claim's vote says, whoever owns the GPU."""
    return TaskStatus(tallies[claim.id].status, tallies[claim.id].detail) if claim in claims else None


def _nobody_carries(facts: Facts, cursor: Cursor, weights: Weights, own: bytes) -> Part:
    """What an author recorded goes with it."""
    return Part((), None)


def _grace_is_for_ever(reading: _Reading, log: int, seq: int) -> bool:
    """Whoever still counts by the grace of the block before will go on counting."""
    return not reading.cut(log, seq) and reading.now.permitted(reading.authors[log])


def _what_is_deleted_returns(*_: Any, **__: Any) -> list[Any]:
    """A claim is carried whatever its miner said since."""
    return []


def _no_delete_is_carried(*_: Any) -> list[Any]:
    """Only registrations are carried."""
    return []


def _only_permits_end(reading: _Reading, log: int, seq: int) -> bool:
    """What lies above a cut is not missed."""
    return False


def _first_come_first_served(ends: Ends, stored_id: Callable[[int], bytes | None]) -> int | None:
    """Of two branches the one that a peer heard of first goes on counting."""
    return _cut(ends._replace(evidence=None), stored_id)


def _one_too_many(ends: Ends, stored_id: Callable[[int], bytes | None]) -> int | None:
    """The events that prove a fork still count."""
    cut = _cut(ends, stored_id)
    return None if cut is None else cut + 1


def _a_close_is_a_word(ends: Ends, stored_id: Callable[[int], bytes | None]) -> int | None:
    """A closing ends nothing."""
    return _cut(ends._replace(close=None), stored_id)


MUTANTS: Final[tuple[tuple[Any, str, Callable[..., Any], str], ...]] = (
    (inventory, "owner", _first_come, "squatter-before-the-owner"),
    (inventory, "tally", _any_since, "backdating-validator"),
    (inventory, "tally", _plurality, "forty-and-twenty-offline"),
    (inventory, "live_votes", _for_ever, "owners-verdict-lapses"),
    (inventory, "left_out", _silence_is_no, "validator-enrols"),
    (inventory, "left_out", _abstention_is_no, "validators-abstain"),
    (inventory, "standing", _undeletable, "owner-deletes"),
    (inventory, "standing", _unsorted, "equal-nonces"),
    (inventory, "objection", _once_registered, "owner-leaves-the-chain"),
    (inventory, "current_place", _of_any_claim, "places-while-the-owner-changes"),
    (inventory, "gpu_status", _own_vote, "two-miners-at-once"),
    (carrying, "part", _nobody_carries, "validator-loses-its-permit"),
    (_Reading, "lasts", _grace_is_for_ever, "validator-loses-its-permit"),
    (carrying, "_ending", _what_is_deleted_returns, "validator-loses-its-permit"),
    (carrying, "_wanted_deletes", _no_delete_is_carried, "validator-loses-its-permit"),
    (_Reading, "cut", _only_permits_end, "cloned-disk"),
    (_Reading, "cut", _only_permits_end, "restored-backup"),
    (_Reading, "cut", _only_permits_end, "clock-jumped-ahead"),
    (Ends, "cut", _first_come_first_served, "branches-for-two-sides"),
    (Ends, "cut", _one_too_many, "branches-for-two-sides"),
    (Ends, "cut", _a_close_is_a_word, "key-is-stolen"),
    (Ends, "cut", _a_close_is_a_word, "key-is-rotated"),
    (inventory, "objection", _once_registered, "miner-leaves-and-returns"),
)
"""Where a rule is, its name, how it is bent, and the scenario that must notice."""


@pytest.mark.parametrize(
    ("where", "rule", "bent", "name"), MUTANTS, ids=[f"{bent.__name__[1:]}-{name}" for *_, bent, name in MUTANTS]
)
def test_a_bent_rule_is_noticed_by_its_scenario(
    where: Any, rule: str, bent: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the scenario itself expects: the plain reading of the design looks away here."""
    monkeypatch.setattr(where, rule, bent)
    monkeypatch.setattr(outcome, "check_by_reference", lambda _: None)
    with pytest.raises(SimulationError, match="CheckFailedError"):
        _play_seeds(name)


def test_the_plain_reading_of_the_design_notices_a_bent_rule_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "gpu_status", _own_vote)
    monkeypatch.setattr(outcome, "agrees_with_rows", lambda *_: None)
    with pytest.raises(SimulationError, match="a plain reading"):
        _play_seeds("two-miners-at-once")
