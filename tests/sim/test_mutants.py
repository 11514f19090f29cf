"""A rule that is broken is noticed: a few mutants here, all of them in MUTANTS.md."""

import itertools
import re

import pytest

from p2pnodes.gossip import ownlog
from p2pnodes.gossip.ownlog import Step, hear
from p2pnodes.model.clock import HybridClock
from p2pnodes.model.events import Head
from tests.sim import mutation
from tests.sim.mutants import CALM, MUTANTS, RULES, TABLE, Table, hunted
from tests.sim.mutation import Drawn, Edit, EndlessError, Found, Swap, UnitTests, failure, hunt
from tests.sim.simulation import SimulationError

FAST = (
    "verdict-moves-nothing",
    "delete-retry-refused",
    "own-events-unchecked",
    "forked-log-goes-on",
    "no-search",
    "skew-accepted",
    "send-queue-unbounded",
    "store-flooded",
    "slow-is-banned",
    "forgotten-delete",
    "bad-events-kept",
    "unpermitted-counts",
    "vote-counted-twice",
    "nothing-pushed",
    "vector-stale",
    "fetched-twice",
)
"""Mutants that are found within a second or two, of most rules."""

SECONDS_MAX = 3
"""Of CPU time, as the table says, for each of them."""


@pytest.mark.parametrize("name", FAST)
def test_a_broken_rule_is_noticed(name: str) -> None:
    assert hunted(name).seed is not None


def test_nothing_is_noticed_where_nothing_is_broken() -> None:
    assert hunt(CALM, 1).seed is None


class TestTheList:
    """Every rule has its mutants, every mutant fits the code, and the table has them all."""

    @pytest.mark.parametrize("rule", RULES)
    def test_each_rule_has_at_least_two_mutants(self, rule: str) -> None:
        assert sum(mutant.rule == rule for mutant in MUTANTS.values()) >= 2

    def test_there_are_no_mutants_of_other_rules(self) -> None:
        assert {mutant.rule for mutant in MUTANTS.values()} == set(RULES)

    @pytest.mark.parametrize("name", MUTANTS)
    def test_a_mutant_fits_the_code(self, name: str) -> None:
        with MUTANTS[name].applied():
            pass

    def test_the_table_has_every_mutant_and_what_found_it(self) -> None:
        table = Table.read(TABLE.read_text())
        assert list(table.found) == list(MUTANTS)
        for name, mutant in MUTANTS.items():
            assert re.search(rf"\| [1-9]\d* of {mutant.seeds} \|", table.found[name]), table.found[name]
            assert f"| {mutant.rule} | {mutant.breaks} | {mutant.hunt} |" in table.found[name]

    def test_nothing_was_found_by_the_same_runs_where_nothing_was_broken(self) -> None:
        controls = Table.read(TABLE.read_text()).controls
        assert set(controls) == {str(mutant.hunt) for mutant in MUTANTS.values()}
        assert all(row.endswith("| nothing |") for row in controls.values())

    def test_what_is_checked_here_is_fast(self) -> None:
        found = Table.read(TABLE.read_text()).found
        for name in FAST:
            assert float(found[name].split(" | ")[5]) <= SECONDS_MAX, found[name]

    def test_a_table_is_read_as_it_was_written(self) -> None:
        table = Table({}, {})
        table.add("no-search", Found(3, "p1 | lacks it", 1.25))
        table.add("never-pruned", Found(None, "", 9.0))
        table.add_control(str(CALM), 3, Found(None, "", 9.0))
        assert Table.read(str(table)) == table
        assert table.found["no-search"].endswith("| 3 of 5 | 1.2 | p1 / lacks it |")
        assert "| none of 5 |" in table.found["never-pruned"]
        assert table.controls[str(CALM)] == f"| {CALM} | 3 | 9.0 | nothing |"


class TestJudgedByTests:
    """Unit tests that find a mutant: whichever fails is told, and none that runs is an error of the tool."""

    def test_the_one_that_fails_is_named(self) -> None:
        test = "test_one_that_changes_again_and_again_is_noted_once"
        tested = UnitTests(f"store/test_buckets.py::{test}")
        assert failure(tested, 1) is None
        with MUTANTS["bucket-is-not-noted"].applied():
            assert failure(tested, 1) == f"{test} fails"

    def test_where_none_runs_nothing_is_found(self) -> None:
        with pytest.raises(LookupError, match="no_such_test"):
            failure(UnitTests("store/test_buckets.py::no_such_test"), 1)


class TestEdits:
    """An edit breaks the function itself, for as long as it is applied, or says that it does not fit."""

    def test_whoever_imported_the_function_has_the_broken_one(self) -> None:
        with Edit(ownlog, "hear", "total = sum(others.values())", "return Hearing(Step.GO_ON, 'unheard')").applied():
            broken = hear(_HEAD, {}, {b"other": 1}, 0, ids={}, alone=False)
        assert broken.step is Step.GO_ON
        assert hear(_HEAD, {}, {b"other": 1}, 0, ids={}, alone=False).step is Step.WAIT

    def test_two_edits_of_one_function_both_hold_and_both_end(self) -> None:
        clock = HybridClock()
        one = Edit(HybridClock, "tick", "self.latest + 1, ", "self.latest + 7, ")
        two = Edit(HybridClock, "tick", "hlc_at(now_ms)", "0")
        with one.applied():
            with two.applied():
                assert [clock.tick(5), clock.tick(5)] == [7, 14]
            assert clock.tick(0) == 21
        assert clock.tick(0) == 22

    @pytest.mark.parametrize(("old", "times"), [("no such line", 0), ("self.latest", 2)])
    def test_text_that_is_not_there_once_is_refused_and_named(self, old: str, times: int) -> None:
        expected = re.escape(f"p2pnodes.model.clock.HybridClock.tick holds {old!r} {times} times")
        with pytest.raises(LookupError, match=expected), Edit(HybridClock, "tick", old, "pass").applied():
            pass

    def test_a_name_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(LookupError, match="has no nothing"), Swap(ownlog, "nothing", 1).applied():
            pass


class TestHunts:
    """A hunt names the first seed that fails, what was said, and never runs for ever."""

    def test_the_first_seed_that_fails_is_found(self) -> None:
        assert hunt(_Fails(after=3), 9)[:2] == (3, "the sky fell")
        assert hunt(_Fails(after=3), 2)[:2] == (None, "")

    def test_a_run_that_does_not_end_is_broken_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mutation, "CPU_S_MAX", 0.05)
        assert failure(_Endless(), 1) == f"{EndlessError.__name__}: a run takes over 0.05 s of CPU time"

    def test_a_run_says_what_it_is(self) -> None:
        assert str(CALM) == "6 peers, 1 min, faults none"
        strict = Drawn(("loss", "crash"), peers=9, minutes=0.5, tight=True, view=4, late_ms=3_000, copies_max=1.5)
        assert str(strict) == (
            "9 peers, 0.5 min, faults loss,crash, tight bounds, views of 4, late after 3 s, 1.5 copies at most"
        )

    def test_too_many_copies_are_found(self) -> None:
        said = failure(Drawn((), peers=3, minutes=0.3, copies_max=0.5), 1)
        assert said is not None
        assert "copies" in said or "times to each peer" in said


_HEAD = Head(3, bytes(32))


class _Fails:
    """A run that fails from a seed on."""

    def __init__(self, after: int) -> None:
        self._after = after

    def run(self, seed: int) -> None:
        if seed >= self._after:
            raise SimulationError("the sky fell")


class _Endless:
    """A run that goes on until it is broken off."""

    def run(self, seed: int) -> None:
        for _ in itertools.count():
            pass
