"""A cut that moves far does so in parts: between two of them rows are those of what counts so far, and nobody waits."""

import sqlite3
import sys
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import Carry, Place
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import request_id
from p2pnodes.model.validity import contents
from p2pnodes.store.audit import audit
from p2pnodes.store.checkpoints import Stage
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found
from p2pnodes.store.rebuild import differences, finish_cut, hold
from p2pnodes.store.rebuild import rebuild as rebuild_file
from p2pnodes.store.state import Result
from tests.gossip.past import Past
from tests.model.world import MINERS, VALIDATORS, World, worlds
from tests.store.steps import steps
from tests.store.test_branches import (
    AT_CUT,
    CHUTE,
    CLAIM,
    author,
    close_of,
    evidence_of,
    head_at,
    ledger,
    prove,
    receive,
    shown,
    state_of,
)
from tests.store.test_equivalence import histories, live
from tests.store.test_loading import brought, considered
from tests.support import NETWORK, NOW_MS, Author, add, electorate, finish_moves, memory_ledger

__all__ = ["author", "ledger"]  # fixtures

pytestmark = pytest.mark.timeout(400)


def bound(monkeypatch: pytest.MonkeyPatch, events: int, touched: int = 10_000) -> None:
    monkeypatch.setattr("p2pnodes.store.unsettled.EVENTS_PER_MOVE", events)
    monkeypatch.setattr("p2pnodes.store.unsettled.TOUCHED_PER_MOVE", touched)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one event count otherwise in a transaction."""
    bound(monkeypatch, 1)


def move_on(ledger: Ledger) -> bool:
    with ledger.transaction():
        return ledger.move_on()


def copy_of(ledger: Ledger) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:", isolation_level=None)
    ledger.facts.connection.backup(copy)
    return copy


def rebuilt_otherwise(ledger: Ledger) -> list[str]:
    """What a rebuild of the events that count so far, on a copy, holds otherwise."""
    again = Ledger(copy_of(ledger), NETWORK)
    for log, state in list(again.logs.items()):
        again.logs[log] = again._counted_to(state._replace(cut=again.facts.cuts.get(state.key)))
    again._moving.clear()
    hold(again.facts.connection)
    return differences(again)


def renewed(logs: int = 1, claims: int = 4, renewals: int = 30) -> list[Author]:
    """Logs in each of which a claim on one GPU each was added, and all are renewed again and again."""
    authors = [Author("//validator0", number=number) for number in range(logs)]
    for each in authors:
        each.delegate()
        requests = [add("//Alice", [f"gpu-{each.log.number}-{number}"]) for number in range(claims)]
        for request in requests:
            each.add(request)
        ids = [request_id(NETWORK.id, request) for request in requests]
        for _ in range(renewals):
            each.renew(*ids, since=each.events[-1].hlc)
    return authors


class TestParts:
    """Rule 7: nothing half-applied is seen, however many parts it takes and wherever they are interrupted."""

    @pytest.mark.usefixtures("one_by_one")
    def test_a_log_counts_for_less_and_less_from_its_end_down(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, close_of(author, None))
        for counted in (6, 5, 4, 3, 2, 1):
            assert shown(ledger) == AT_CUT[counted]
            assert ledger.facts.cuts == {1: counted}
            assert rebuilt_otherwise(ledger) == []
            assert move_on(ledger) is (counted == 1)
        assert (shown(ledger), ledger.facts.cuts, ledger.moving) == ({}, {1: 0}, False)
        assert rebuilt_otherwise(ledger) == []

    @pytest.mark.usefixtures("one_by_one")
    def test_all_else_goes_by_the_cut_itself_at_once_and_roots_are_not_compared(
        self, ledger: Ledger, author: Author
    ) -> None:
        receive(ledger, *author.events)
        whole = memory_ledger(who=electorate(stakes={"//validator0": 100, "//validator1": 10, "//validator2": 10}))
        receive(whole, *author.events)
        for each in (ledger, whole):
            prove(each, evidence_of(author, 3))
        finish_moves(whole)
        held = state_of(ledger, author)
        assert (held.cut, held.counted, held.hlc) == (3, head_at(author, 2), author.events[2].hlc)
        assert ledger.state.vector_digest == whole.state.vector_digest
        assert ledger.state.state_root != whole.state.state_root
        assert (ledger.state.settled, whole.state.settled) == (None, 0)
        finish_moves(ledger)
        assert ledger.state == whole.state

    @pytest.mark.usefixtures("one_by_one")
    def test_whatever_happens_between_two_parts_they_come_to_the_same_end(self) -> None:
        @settings(max_examples=60)
        @given(world=worlds(ends=True), data=st.data())
        def moves(world: World, data: st.DataObject) -> None:
            replica = live(data.draw(histories(world)), world.end_ms)
            logs = data.draw(st.permutations(list(replica.ledger.logs)))[:2]
            whole = replica.ledger.state

            def displace(beyond: bool) -> None:  # nothing but this test tells a ledger of it
                with replica.ledger.transaction():
                    for log in logs:
                        replica.ledger._set_displaced(log, beyond=beyond)

            for beyond in (True, False):
                displace(beyond)
                for turn in data.draw(st.lists(st.sampled_from(("part", "part", "restart", "undone")), max_size=9)):
                    match turn:
                        case "part":
                            move_on(replica.ledger)
                        case "restart":
                            replica.ledger = Ledger(replica.ledger.facts.connection, NETWORK)
                            displace(beyond)
                        case _:
                            with suppress(ZeroDivisionError), replica.ledger.transaction():
                                replica.ledger.move_on()
                                raise ZeroDivisionError
                            displace(beyond)
                    assert rebuilt_otherwise(replica.ledger) == []
            finish_moves(replica.ledger)
            assert replica.ledger.state == whole
            replica.check(replica.shown())
            assert rebuilt_otherwise(replica.ledger) == []

        moves()

    @pytest.mark.usefixtures("one_by_one")
    @pytest.mark.parametrize("parts", range(5))
    def test_a_daemon_killed_between_two_parts_goes_on(
        self, ledger: Ledger, author: Author, tmp_path: Path, parts: int
    ) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 1))
        for _ in range(parts):
            move_on(ledger)
        path = tmp_path / "p2pnodes.db"
        with sqlite3.connect(path) as file:
            ledger.facts.connection.backup(file)
        file.close()
        assert audit(path, NETWORK).problems == []
        again = Ledger(copy_of(ledger), NETWORK)
        assert again.state == ledger.state
        assert again.moving is (parts < 5)
        finish_moves(again)
        assert shown(again) == AT_CUT[1]
        assert rebuild_file(path, NETWORK).differences == []

    @pytest.mark.usefixtures("one_by_one")
    def test_a_rebuild_puts_all_cuts_in_force(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 1))
        with ledger.transaction():
            ledger.rebuild()
        assert (shown(ledger), ledger.moving) == (AT_CUT[1], False)
        assert Ledger(ledger.facts.connection, NETWORK).state == ledger.state

    def test_one_is_told_of_again_when_all_of_it_is_in_force(
        self, ledger: Ledger, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever carries what only it carries looks then."""
        bound(monkeypatch, 5)
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 0))
        assert ledger.news.take_ended() == [author.log]
        assert move_on(ledger)
        assert ledger.news.take_ended() == [author.log]


class TestBounds:
    """Rule 6: one transaction looks at so many events, and touches so many GPUs, whatever ends."""

    @pytest.mark.parametrize("logs", [1, 3])
    def test_a_transaction_takes_back_so_many_events(self, monkeypatch: pytest.MonkeyPatch, logs: int) -> None:
        authors, ledger = renewed(logs), memory_ledger()
        for each in authors:
            receive(ledger, *each.events)
        bound(monkeypatch, 7)
        prove(ledger, *(evidence_of(each, 1) for each in authors))
        parts = [self.void(ledger)]
        while ledger.moving:
            move_on(ledger)
            parts.append(self.void(ledger))
        assert [after - before for before, after in zip([0, *parts], parts, strict=False)] == [
            *[7] * (34 * logs // 7),
            34 * logs % 7,
        ]
        assert shown(ledger) == {}

    @staticmethod
    def void(ledger: Ledger) -> int:
        """Events above the cuts that are in force."""
        logs = {state.key: state.head.seq for state in ledger.logs.values()}
        return sum(logs[key] + 1 - cut for key, cut in ledger.facts.cuts.items())

    def test_a_transaction_touches_so_many_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A claim counts as ten; what was touched before costs nothing more."""
        (author,), ledger = renewed(claims=12, renewals=20), memory_ledger()
        receive(ledger, *author.events)
        bound(monkeypatch, 10_000, 130)
        prove(ledger, evidence_of(author, 1))
        cuts = [ledger.facts.cuts[1]]
        while ledger.moving:
            move_on(ledger)
            cuts.append(ledger.facts.cuts[1])
        assert cuts == [3, 1]  # the renewals touch 120 GPUs of claims, ten adds one GPU each

    def test_it_writes_no_more_rows_than_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (author,), ledger = renewed(claims=40, renewals=0), memory_ledger()
        receive(ledger, *author.events)
        bound(monkeypatch, 10_000, 44)
        prove(ledger, evidence_of(author, 1))
        while ledger.moving:
            before = ledger.facts.connection.execute("SELECT count(*) FROM node").fetchone()[0]
            move_on(ledger)
            (after,) = ledger.facts.connection.execute("SELECT count(*) FROM node").fetchone()
            assert before - after <= 4
        assert shown(ledger) == {}

    def test_writes_of_others_in_the_same_transaction_take_none_of_its_room(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else it would wait for ever where much is written."""
        (author,), ledger = renewed(), memory_ledger()
        receive(ledger, *author.events)
        bound(monkeypatch, 10_000, 20)
        prove(ledger, evidence_of(author, 1))
        busy = Author("//validator1")
        busy.delegate()
        for number in range(9):
            busy.add(add("//Bob", [f"gpu-of-bob-{number}"]))
        before = ledger.facts.cuts[1]
        with ledger.transaction():
            assert {found.result for found in ledger.receive(busy.events, NOW_MS)} == {Result.STORED}
            ledger.move_on()
        assert ledger.facts.cuts[1] < before


class TestCost:
    """Many logs that are displaced at once cost as much as they are many."""

    @pytest.mark.parametrize("events", [2, 10_000])
    def test_each_log_costs_as_much_as_where_they_are_few(self, monkeypatch: pytest.MonkeyPatch, events: int) -> None:
        """Whether they count for nothing at once, or in parts: the cuts of all were read, and all clocks, for each."""
        monkeypatch.setattr("p2pnodes.store.unsettled.EVENTS_PER_MOVE", events)
        few, many = (self.cost(monkeypatch, logs) for logs in (32, 128))
        assert all(more <= 1.25 * 4 * less for less, more in zip(few, many, strict=True)), (few, many)

    @staticmethod
    def cost(monkeypatch: pytest.MonkeyPatch, logs: int) -> tuple[int, int]:
        """What the first transaction takes: calls of functions, and instructions of SQLite."""
        ledger, calls = memory_ledger(), count()
        for number in range(logs):
            each = Author(VALIDATORS[0], number=number)
            each.delegate()
            each.verdict(CLAIM)
            receive(ledger, *each.events)

        def displaced() -> None:
            with ledger.transaction():
                sys.setprofile(lambda *_: next(calls) and None)
                ledger._displace_all()
                sys.setprofile(None)

        with monkeypatch.context() as patch:
            patch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
            found = steps(ledger.facts.connection, displaced)
        assert sum(state.displaced for state in ledger.logs.values()) == logs - 1
        return next(calls), found


@pytest.mark.usefixtures("one_by_one")
class TestMeanwhile:
    """What comes while a cut moves is taken as if it were in force."""

    def test_an_event_of_a_log_that_ended_counts_for_nothing(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 1))
        author.add(add("//Bob", ["gpu-9"]))
        receive(ledger, *author.events)
        assert shown(ledger) == AT_CUT[6]
        assert state_of(ledger, author).counted == head_at(author, 0)
        finish_moves(ledger)
        assert shown(ledger) == AT_CUT[1]
        assert rebuilt_otherwise(ledger) == []

    def test_a_lower_end_lets_it_move_farther(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 3))
        prove(ledger, close_of(author, head_at(author, 0)))
        assert (state_of(ledger, author).cut, ledger.facts.cuts) == (1, {1: 5})
        finish_moves(ledger)
        assert shown(ledger) == AT_CUT[1]

    def test_what_counts_again_does_from_below_and_later_events_in_their_turn(
        self, ledger: Ledger, author: Author
    ) -> None:
        receive(ledger, *author.events)
        with ledger.transaction():
            ledger._set_displaced(author.log, beyond=True)
        finish_moves(ledger)
        assert shown(ledger) == {}
        with ledger.transaction():
            ledger._set_displaced(author.log, beyond=False)
        author.verdict(contents(author.events[6]).adds[0])
        receive(ledger, *author.events)
        for counted in range(1, 8):
            assert shown(ledger) == AT_CUT[counted]
            assert ledger.facts.cuts == {1: counted}
            assert rebuilt_otherwise(ledger) == []
            move_on(ledger)
        assert (ledger.moving, ledger.facts.cuts) == (False, {})
        assert shown(ledger)["gpu-3"] == ("verified", None)

    def test_verifiers_hear_of_a_claim_in_the_part_in_which_it_counts_again(
        self, ledger: Ledger, author: Author
    ) -> None:
        """Of one that somebody else carries they heard before."""
        carrier, second = Author("//validator1"), contents(author.events[6]).adds[0]
        carrier.delegate()
        author.add(third := add("//Charlie", ["gpu-4"]))
        carrier.write(Carry((author.events[6].wire,)))
        receive(ledger, *author.events, *carrier.events)
        with ledger.transaction():
            ledger._set_displaced(author.log, beyond=True)
        finish_moves(ledger)
        assert sorted(ledger.news.take_new_claims()) == sorted((CLAIM, second, request_id(NETWORK.id, third)))
        with ledger.transaction():
            ledger._set_displaced(author.log, beyond=False)
        told = []
        while ledger.moving:
            told.append((ledger.facts.cuts[1], ledger.news.take_new_claims()))
            move_on(ledger)
        told.append((8, ledger.news.take_new_claims()))
        assert [each for each in told if each[1]] == [(2, [CLAIM]), (8, [request_id(NETWORK.id, third)])]

    def test_the_clock_is_set_back_at_once(self, author: Author) -> None:
        """Rule 8: a log that is closed below what was written ahead is followed by a new one in that transaction."""
        ledger = memory_ledger(NodeKey.from_seed(author.node_key.seed))
        ahead_ms = NOW_MS + 50_000
        for _ in range(5):
            author.verdict(CLAIM, at_ms=ahead_ms)
        receive(ledger, *author.events)
        prove(ledger, close_of(author, head_at(author, 2)))
        assert ledger.moving
        assert ledger.clock.ahead_ms(NOW_MS) < 50_000
        assert Ledger(ledger.facts.connection, NETWORK).clock.ahead_ms(NOW_MS) < 50_000

    def test_the_own_log_is_written_no_more(self, author: Author) -> None:
        ledger = memory_ledger(NodeKey.from_seed(author.node_key.seed))
        with ledger.transaction():
            ledger.open_log(0, author.delegation(), NOW_MS)
        ledger.writes_refused = None

        def place(number: int, _: int) -> Place:
            return Place(CLAIM, (f"gpu-{number}",), *CHUTE)

        for number in range(3):
            with ledger.transaction():
                ledger.append(partial(place, number), NOW_MS)
        with ledger.transaction():
            ledger.receive_proofs([close_of(author, ledger.logs[author.log].head._replace(seq=0))], NOW_MS)
        assert ledger.moving
        with pytest.raises(WritesRefusedError), ledger.transaction():
            ledger.append(partial(place, 9), NOW_MS)

    def test_a_log_is_not_forgotten_before_it_counts_for_nothing(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        with ledger.transaction():
            ledger._set_displaced(author.log, beyond=True)
        for counted in range(6, -1, -1):
            assert shown(ledger) == AT_CUT[counted]
            with ledger.transaction():
                assert ledger.forget(author.log) is (counted == 0)
        assert (ledger.moving, ledger.logs, shown(ledger)) == (False, {}, {})
        assert not Ledger(ledger.facts.connection, NETWORK).moving


class TestLoading:
    """While a live set is loaded no cut moves: rows are decided from what is here, part by part."""

    @pytest.mark.parametrize("together", [False, True])
    @pytest.mark.parametrize("parts", range(7))
    def test_an_end_that_is_proved_meanwhile_is_in_force_behind_it(
        self, pasts: list[Past], parts: int, *, together: bool
    ) -> None:
        """Also one that comes in the transaction of the last part, whose rows are read anew behind it."""
        past, gpu = pasts[0], "gpu-of-a-log-that-ends"
        author = Author(VALIDATORS[0], number=77)
        author.write(author.delegation(not_after=past.now_ms // 1000 + 99 * 86_400), at_ms=past.now_ms)
        author.add(add(MINERS[0], [gpu], past.now_ms // 1000), at_ms=past.now_ms)
        ledger = memory_ledger(None, past.electorate)
        with ledger.transaction():
            assert {found.result for found in ledger.receive(author.events, past.now_ms)} == {Result.STORED}
        assert considered(ledger, past).found is Found.LOADS

        for place in range(past.slices):
            assert brought(ledger, past, place) == Answer(Found.TAKEN)
        proof = close_of(author, head_at(author, 0))
        for part in count():
            done = ledger.checkpoints.stage is not Stage.LOADING
            if done and part > parts:
                break
            with ledger.transaction():
                if not done and (together or part != parts):
                    ledger.cut()
                if part == parts:
                    ledger.receive_proofs([proof], past.now_ms)
        assert ledger.logs[author.log].cut == 1
        finish_cut(ledger)
        found = ledger.facts.connection.execute("SELECT count(*) FROM node WHERE uuid = ?", (gpu,)).fetchone()
        assert found == (0,)
        assert Ledger(ledger.facts.connection, NETWORK).state == ledger.state
        hold(ledger.facts.connection)
        assert differences(ledger) == []
