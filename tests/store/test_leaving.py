"""What cannot stay beside a live set goes in parts before that is loaded: nobody waits long, no slice comes early."""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from p2pnodes.model.branches import rivalry
from p2pnodes.model.checkpoint import line_of
from p2pnodes.model.events import Event, Head
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store.audit import audit
from p2pnodes.store.checkpoints import Donor, Stage
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import NOTHING, Answer, Found, consider
from p2pnodes.store.rebuild import rebuild
from p2pnodes.store.state import Result
from tests.gossip.past import Past
from tests.model.world import signed_closing
from tests.store.references import dangling
from tests.store.restarts import assert_a_start_finds_it
from tests.store.test_checkpoints import cut, found, proposed
from tests.store.test_loading import brought, considered, missing, stored
from tests.store.test_moving import copy_of
from tests.support import MINERS, NETWORK, NOW_MS, VALIDATORS, Author, add, memory_ledger

EVENTS = 9
"""That have to go, of each of two logs."""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two events go in a transaction."""
    monkeypatch.setattr(ledger_module, "EVENTS_PER_PART", 2)


def rivals(past: Past) -> list[Author]:
    """Logs that the checkpoint names, as nobody else has them: from the second event on, and of another hotkey."""
    branch = Author(VALIDATORS[1])
    first = next(event for event in past.events if event.log == branch.log)
    branch.events.append(first)
    branch.head, branch.clock.latest = Head(0, first.id), first.hlc
    other, named = Author(VALIDATORS[0]), Author(VALIDATORS[2])
    other.node_key, other.log = named.node_key, named.log
    other.delegate()
    cut = max(event.seq for event in past.events if event.log == branch.log)
    for author, events in ((branch, cut - 1 + EVENTS), (other, EVENTS - 1)):
        for number in range(events):
            author.add(add(MINERS[number % 4], [f"gpu-{author.log}-{number}"]))
    return [branch, other]


def strange(past: Past) -> Ledger:
    """A daemon that holds these."""
    ledger = memory_ledger(None, past.electorate)
    events = [event for author in rivals(past) for event in author.events]
    with ledger.transaction():
        assert {outcome.result for outcome in ledger.receive(events, past.now_ms)} == {Result.STORED}
    return ledger


def branched(past: Past) -> tuple[Ledger, Author]:
    """Who has heard the first one of the rivals alone, and that."""
    ledger, (branch, _) = memory_ledger(None, past.electorate), rivals(past)
    with ledger.transaction():
        ledger.receive(branch.events, past.now_ms)
    return ledger, branch


def part(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.cut()


def loads(ledger: Ledger, past: Past) -> None:
    """Let all go that has to, take the live set, and require what everybody else holds then."""
    while ledger.leaving:
        part(ledger)
    for place in range(past.slices):
        assert brought(ledger, past, place) == Answer(Found.TAKEN)
    cut(ledger)
    donor = Ledger(past.copy(), NETWORK)
    with ledger.transaction():
        ledger.receive(past.above, past.now_ms)
    assert ledger.state.state_root == donor.state.state_root
    assert ledger.state.vector_digest == donor.state.vector_digest
    assert ledger.state.events == donor.state.events == stored(ledger.facts.connection)
    assert {log: state.hotkey for log, state in ledger.logs.items()} == {
        log: state.hotkey for log, state in donor.logs.items()
    }
    assert dangling(ledger.facts.connection) == []


class TestParts:
    """Rules 6 and 7: one transaction takes little away, and wherever it ends the next start goes on."""

    @pytest.mark.usefixtures("few")
    def test_a_transaction_takes_away_so_many_events(self, pasts: list[Past]) -> None:
        ledger = strange(pasts[0])
        left = [stored(ledger.facts.connection)]
        assert considered(ledger, pasts[0]).found is Found.LOADS
        left.append(stored(ledger.facts.connection))
        while ledger.state.leaving:
            part(ledger)
            left.append(stored(ledger.facts.connection))
        assert {before - after for before, after in pairwise(left)} <= {1, 2}
        assert left[0] - left[-1] == 2 * EVENTS
        loads(ledger, pasts[0])

    @pytest.mark.parametrize(("size_bytes", "gone"), [(1, 1), (2_400, 3), (1_000_000, 9)])
    def test_a_transaction_takes_away_so_many_bytes(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch, size_bytes: int, gone: int
    ) -> None:
        """An event may carry 64 requests; one goes in any case."""
        monkeypatch.setattr(ledger_module, "BYTES_PER_PART", size_bytes)
        ledger, branch = branched(pasts[0])
        assert 3 * len(branch.events[-1].wire) <= 2_400 < 4 * len(branch.events[-1].wire)
        considered(ledger, pasts[0])
        assert stored(ledger.facts.connection) == len(branch.events) - gone
        loads(ledger, pasts[0])

    def test_many_small_logs_go_in_one(self, pasts: list[Past]) -> None:
        ledger = strange(pasts[0])
        considered(ledger, pasts[0])
        assert not ledger.leaving
        loads(ledger, pasts[0])

    def test_a_log_that_lost_its_branch_ends_in_an_event_that_is_here_for_who_comes_in_the_same_transaction(
        self, pasts: list[Past]
    ) -> None:
        """Of the own one the next log names it as the one before, and may close it there."""
        ledger, branch = branched(pasts[0])
        with ledger.transaction():
            assert consider(ledger, pasts[0].number, pasts[0].certificate).found is Found.LOADS
            assert not ledger.leaving
            counted = ledger.counted(branch.log)
        assert counted is not None
        assert counted.id == branch.events[counted.seq].id
        loads(ledger, pasts[0])

    def test_what_was_found_under_its_number_goes_in_parts(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who lacks events may have found another live set; of a million leaves that took a third of a second."""
        monkeypatch.setattr(ledger_module, "LEAVES_PER_PART", 3)
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive(pasts[0].events[:12], pasts[0].now_ms)
        made = proposed(ledger)
        assert made is not None
        leaves = found(ledger, line_of(NETWORK, *made)).leaves
        assert leaves > 3
        considered(ledger, pasts[0])
        parts = 1
        while ledger.leaving:
            assert not ledger.state.loaded
            part(ledger)
            parts += 1
        assert parts == leaves // 3 + 1
        loads(ledger, pasts[0])

    @pytest.mark.usefixtures("few")
    def test_a_daemon_that_derives_all_anew_between_two_parts_knows_what_the_next_start_knows(
        self, pasts: list[Past]
    ) -> None:
        """What is left of a log need not reach its cut: the end of that is not what stands behind it."""
        ledger = strange(pasts[0])
        considered(ledger, pasts[0])
        assert ledger.leaving
        while ledger.leaving:
            with ledger.transaction():
                ledger.rebuild()
            assert_a_start_finds_it(ledger)
            part(ledger)
            assert_a_start_finds_it(ledger)
        loads(ledger, pasts[0])

    @pytest.mark.usefixtures("few")
    def test_of_a_log_that_forked_below_its_cut_what_counts_is_that_cut_while_its_branch_goes(
        self, pasts: list[Past]
    ) -> None:
        """Once no more was left than reached the cut, the event of the other branch counted that is in its place."""
        ledger, branch = branched(pasts[0])
        considered(ledger, pasts[0])
        rival = next(event for event in pasts[0].events if event.log == branch.log and event.seq == 1)
        evidence = rivalry(branch.events[1], rival)
        assert evidence is not None
        with ledger.transaction():
            ledger.receive_proofs([evidence], pasts[0].now_ms)
        head = ledger.checkpoints.line.logs[branch.log].head
        assert ledger.leaving
        while ledger.leaving:
            assert ledger.counted(branch.log) == head
            assert_a_start_finds_it(ledger)
            part(ledger)
        assert ledger.counted(branch.log) == head
        assert_a_start_finds_it(ledger)

    @pytest.mark.usefixtures("few")
    def test_a_closing_is_asked_again_whether_it_names_another_event_where_that_goes(self, pasts: list[Past]) -> None:
        """Its log is cut above the event that it names, then: so the next start has it."""
        ledger, branch = branched(pasts[0])
        considered(ledger, pasts[0])
        close = signed_closing(VALIDATORS[1], branch.log, Head(ledger.logs[branch.log].head.seq - 1, bytes(32)))
        with ledger.transaction():
            ledger.receive_proofs([close], NOW_MS)
        assert ledger.moving
        while ledger.leaving:
            assert_a_start_finds_it(ledger)
            part(ledger)
        assert_a_start_finds_it(ledger)

    @pytest.mark.usefixtures("few")
    def test_a_daemon_killed_between_two_parts_goes_on(self, pasts: list[Past], tmp_path: Path) -> None:
        ledger = strange(pasts[0])
        considered(ledger, pasts[0])
        parts = 0
        while ledger.leaving:
            again = Ledger(copy_of(ledger), NETWORK)
            assert again.state == ledger.state
            path = tmp_path / f"{parts}.db"
            with sqlite3.connect(path) as file:
                ledger.facts.connection.backup(file)
            file.close()
            assert audit(path, NETWORK).problems == []
            assert rebuild(path, NETWORK).differences == []
            loads(again, pasts[0])
            part(ledger)
            parts += 1
        assert parts > EVENTS // 2

    @pytest.mark.usefixtures("few")
    def test_it_ends_though_every_second_transaction_fails(self, pasts: list[Past]) -> None:
        ledger = strange(pasts[0])
        considered(ledger, pasts[0])
        while ledger.leaving:
            before = ledger.state
            with suppress(ZeroDivisionError), ledger.transaction():
                ledger.cut()
                raise ZeroDivisionError
            assert ledger.state == before
            part(ledger)
        loads(ledger, pasts[0])


@pytest.mark.usefixtures("few")
class TestMeanwhile:
    """It is as while a live set is loaded, but for that no slice is asked for or taken."""

    def test_nothing_is_wanted_and_nothing_is_taken(self, pasts: list[Past]) -> None:
        ledger = strange(pasts[0])
        considered(ledger, pasts[0])
        events, slices = stored(ledger.facts.connection), Donor()
        assert (ledger.state.loading, ledger.state.leaving, ledger.state.loaded) == (True, True, False)
        assert missing(ledger) == NOTHING
        assert brought(ledger, pasts[0], 0).found is Found.FAILED
        with ledger.transaction():
            assert not ledger.load(0, *slices.slice(pasts[0].disk, pasts[0].number, 0))
            assert {found.result for found in ledger.receive(pasts[0].events, NOW_MS)} == {Result.GAP}
        assert stored(ledger.facts.connection) == events
        loads(ledger, pasts[0])

    def test_a_higher_checkpoint_takes_its_place(self, pasts: list[Past]) -> None:
        """What had to go still has."""
        for parts in range(EVENTS):
            ledger = strange(pasts[0])
            considered(ledger, pasts[0])
            for _ in range(parts):
                part(ledger)
            assert considered(ledger, pasts[1]).found is Found.LOADS
            assert Ledger(copy_of(ledger), NETWORK).state == ledger.state
            while ledger.leaving:
                part(ledger)
            for place in range(pasts[1].slices):
                assert brought(ledger, pasts[1], place) == Answer(Found.TAKEN)
            cut(ledger)
            donor = Ledger(pasts[1].copy(), NETWORK)
            above: Sequence[Event] = [*pasts[0].above, *pasts[1].above]
            with ledger.transaction():
                ledger.receive(above, pasts[1].now_ms)
            assert ledger.state.state_root == donor.state.state_root
            assert ledger.state.vector_digest == donor.state.vector_digest
            assert ledger.state.events == donor.state.events == stored(ledger.facts.connection)

    def test_a_part_more_than_there_are_takes_nothing_away(self, pasts: list[Past]) -> None:
        """Two may have been waiting for the writer."""
        ledger = strange(pasts[0])
        considered(ledger, pasts[0])
        while ledger.leaving:
            part(ledger)
        before = ledger.state
        part(ledger)
        assert ledger.state == before
        assert ledger.checkpoints.stage is Stage.LOADING
        loads(ledger, pasts[0])


@pytest.mark.usefixtures("few")
async def test_whoever_asks_what_is_missing_waits_until_it_is_gone(pasts: list[Past], tmp_path: Path) -> None:
    """Each part is a job of its own, between which others are written."""
    ledger = strange(pasts[0])
    path = tmp_path / "p2pnodes.db"
    with sqlite3.connect(path) as file:
        ledger.facts.connection.backup(file)
    file.close()
    database = await Database.open(path, NETWORK, None, now_ms=lambda: pasts[0].now_ms)
    try:
        assert (await database.consider(pasts[0].number, pasts[0].certificate)).found is Found.LOADS
        assert database.state.leaving
        lack = await database.lacking()
        assert not database.state.leaving
        assert lack.missing == list(range(pasts[0].slices))
    finally:
        await database.close()
