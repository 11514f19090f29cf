"""A validator carries in its turn, at once where it is the first; nothing runs while there is nothing to carry."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from p2pnodes import carrier as carrier_module
from p2pnodes.carrier import (
    GATHER_LOOK_PAUSE_MS,
    GATHER_PAUSE_MS,
    REFUSED_PAUSE_MS,
    WAITING_MAX,
    WALK_PAUSE_MS_MAX,
    WALK_PAUSE_MS_MIN,
    WALK_SHARE,
    WRITE_PAUSE_MS,
    Carrier,
    Gather,
    Look,
    Rest,
    Rounds,
    Write,
)
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Event, Head, closing
from p2pnodes.model.inventory import Weights
from p2pnodes.model.keys import NodeKey
from p2pnodes.store import carrying
from p2pnodes.store.carrying import DECIDED_PER_PART, Carried, Cursor, Need, Part
from p2pnodes.store.database import Database
from p2pnodes.store.facts import Facts
from p2pnodes.store.gathering import Gathered, Mark
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.state import State
from tests.support import BLOCK, NETWORK, NOW_MS, Author, add, electorate, hotkey, memory_ledger

OWN: Final = hotkey("//validator0").public_key
THOSE_WHO_STAY: Final = {"//validator0": 100, "//validator2": 100}
GRACE: Final = electorate(BLOCK + 100, NOW_MS + 60_000, stakes=THOSE_WHO_STAY, previous=electorate())
AFTER: Final = electorate(BLOCK + 200, NOW_MS + 120_000, stakes=THOSE_WHO_STAY, previous=GRACE)


def found(*needs: tuple[int, int], cursor: Cursor | None = None) -> Part:
    """A part with these needs, the last one of its walk unless it says where the next begins."""
    return Part(tuple(Need(*need) for need in needs), cursor)


class TestRounds:
    """What is due is written first, then walks go on; times are those of one clock."""

    def test_it_begins_with_a_walk_and_rests_when_nothing_was_found(self) -> None:
        rounds = Rounds()
        assert rounds.next(0) == Look(Cursor())
        rounds.looked(found(cursor=Cursor(7)), 0)
        assert rounds.next(0) == Look(Cursor(7))
        rounds.looked(found(), 0)
        assert rounds.next(0) == Rest(None)
        assert rounds.idle

    def test_what_is_its_own_turn_is_written_at_once(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found((3, 0), (4, 0), cursor=Cursor(7)), 0)
        assert rounds.next(0) == Write((3, 4))
        rounds.wrote(Carried(2, 2), 0)
        assert rounds.next(0) == Look(Cursor(7))

    def test_what_is_the_turn_of_others_waits_that_long(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found((3, 30_000), (4, 15_000)), 1_000)
        assert rounds.next(1_000) == Rest(16_000)
        assert rounds.waiting == 2
        assert rounds.next(16_000) == Write((4,))
        rounds.wrote(Carried(1, 0), 16_000)
        assert rounds.next(16_000) == Rest(31_000)
        assert rounds.next(31_000) == Write((3,))
        rounds.wrote(Carried(1, 0), 31_000)
        assert rounds.next(31_000) == Rest(None)

    def test_what_waits_already_is_not_put_off_by_another_walk(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found((3, 15_000)), 0)
        rounds.wake()
        assert rounds.next(10_000) == Look(Cursor())
        rounds.looked(found((3, 15_000)), 10_000)
        assert rounds.next(15_000) == Write((3,))

    def test_what_did_not_fit_into_one_event_comes_in_the_next_after_a_pause(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found((1, 0), (2, 0), (3, 0)), 0)
        rounds.wrote(Carried(2, 64), 0)
        assert rounds.next(0) == Rest(WRITE_PAUSE_MS)
        assert rounds.next(WRITE_PAUSE_MS) == Write((3,))

    def test_one_write_holds_no_more_claims_than_are_decided_at_once(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found(*((key, 5) for key in range(200))), 0)
        write = rounds.next(5)
        assert isinstance(write, Write)
        assert len(write.keys) == DECIDED_PER_PART

    def test_after_a_failure_everything_waits_for_a_while_and_is_tried_again(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found((1, 0), cursor=Cursor(7)), 0)
        rounds.failed(0)
        assert rounds.next(0) == Rest(REFUSED_PAUSE_MS)
        assert rounds.next(REFUSED_PAUSE_MS) == Write((1,))
        rounds.wrote(Carried(1, 1), REFUSED_PAUSE_MS)
        rounds.failed(REFUSED_PAUSE_MS)
        assert rounds.next(REFUSED_PAUSE_MS) == Rest(2 * REFUSED_PAUSE_MS)
        assert rounds.next(2 * REFUSED_PAUSE_MS) == Look(Cursor(7))

    @pytest.mark.parametrize(
        ("took_ms", "pause_ms"),
        [(0, WALK_PAUSE_MS_MIN), (500, 500 * WALK_SHARE), (3_600_000, WALK_PAUSE_MS_MAX)],
    )
    def test_walks_take_a_share_of_the_time_however_often_they_are_asked_for(self, took_ms: int, pause_ms: int) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.wake()
        rounds.looked(found(), took_ms)
        assert rounds.next(took_ms) == Rest(took_ms + pause_ms)
        assert rounds.next(took_ms + pause_ms) == Look(Cursor())

    def test_what_waits_is_bounded_and_the_rest_is_found_by_another_walk(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found(*((key, 15_000) for key in range(WAITING_MAX + 3))), 0)
        assert rounds.waiting == WAITING_MAX
        while isinstance(write := rounds.next(15_000), Write):
            rounds.wrote(Carried(len(write.keys), 0), 15_000)
        assert write == Look(Cursor())

    def test_a_claim_that_two_parts_find_is_written_once(self) -> None:
        rounds = Rounds()
        rounds.next(0)
        rounds.looked(found((3, 0), cursor=Cursor(7)), 0)
        rounds.looked(found((3, 0)), 0)
        assert rounds.next(0) == Write((3,))


def hear(ledger: Ledger, *events: Event) -> None:
    with ledger.transaction():
        ledger.receive(events, NOW_MS + 3_600_000)


def rested(rounds: Rounds) -> Rounds:
    rounds.next(0)
    rounds.looked(found(), 0)
    return rounds


class TestWhatBeginsAWalk:
    """Only what can put a request at risk."""

    def told(self, rounds: Rounds, ledger: Ledger, *, ended: bool = False) -> bool:
        return rounds.committed(ledger.state, ledger.weights.electorate, ended=ended)

    def scene(self) -> tuple[Rounds, Ledger, Author]:
        ledger, author = memory_ledger(), Author("//validator1")
        hear(ledger, author.delegate())
        rounds = rested(Rounds())
        assert self.told(rounds, ledger)
        rounds.next(10_000)
        rounds.looked(found(), 10_000)
        return rounds, ledger, author

    def test_events_of_validators_with_permits_do_not(self) -> None:
        rounds, ledger, author = self.scene()
        hear(ledger, author.add(add("//Alice", ["gpu-1"])))
        assert not self.told(rounds, ledger)
        assert rounds.idle

    def test_another_electorate_does(self) -> None:
        rounds, ledger, _ = self.scene()
        with ledger.transaction():
            ledger.set_electorate(GRACE)
        assert self.told(rounds, ledger)
        assert not rounds.idle

    def test_events_in_the_epoch_of_grace_do(self) -> None:
        rounds, ledger, author = self.scene()
        with ledger.transaction():
            ledger.set_electorate(GRACE)
        self.told(rounds, ledger)
        assert not self.told(rounds, ledger)
        hear(ledger, author.add(add("//Alice", ["gpu-1"])))
        assert self.told(rounds, ledger)
        assert not self.told(rounds, ledger)

    def test_the_end_of_a_log_does_and_so_do_events_above_it(self) -> None:
        rounds, ledger, author = self.scene()
        first = author.events[0]
        proof = closing(author.hotkey, NETWORK.id, author.log, Head(first.seq, first.id))
        with ledger.transaction():
            ledger.receive_proofs([proof], NOW_MS)
        assert self.told(rounds, ledger, ended=bool(ledger.news.take_ended()))
        hear(ledger, author.add(add("//Alice", ["gpu-1"])))
        assert self.told(rounds, ledger)

    def test_a_new_log_does(self) -> None:
        rounds, ledger, _ = self.scene()
        hear(ledger, Author("//validator2").delegate())
        assert self.told(rounds, ledger)


# -- on a database -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A database of //validator0 that may write, with two claims of //validator1, which keeps its permit yet."""
    own, leaver = Author("//validator0"), Author("//validator1")
    database = await Database.open(
        tmp_path / "p2pnodes.db", NETWORK, NodeKey.from_seed(own.node_key.seed), now_ms=lambda: NOW_MS
    )
    await database.set_electorate(electorate())
    await database.write(lambda ledger: ledger.open_log(0, own.delegation(), NOW_MS))
    database.ledger.writes_refused = None
    leaver.delegate()
    leaver.add(add("//Alice", ["gpu-1"]))
    leaver.add(add("//Alice", ["gpu-2"]))
    await database.receive(leaver.events, NOW_MS)
    yield database
    await database.close()


@pytest.fixture
async def carrier(database: Database) -> AsyncIterator[Carrier]:
    """Its carrier, not started."""
    carrier = Carrier(database, lambda: OWN, lambda: NOW_MS)
    database.on_commit = carrier.committed
    yield carrier
    await carrier.stop()


class TestGathering:
    """What older own logs say is said again, slowly, for each checkpoint and own log, where a validator has many."""

    def state(self, logs: int, *, checkpoint: int = 1) -> State:
        """What a daemon holds with so many own logs, and many of another validator."""
        authors = [
            *(Author("//validator0", number=number) for number in range(logs)),
            *(Author("//validator1", number=number) for number in range(9)),
        ]
        ledger = memory_ledger()
        with ledger.transaction():
            ledger.receive([author.delegate() for author in authors], NOW_MS)
        return ledger.state._replace(own=authors[logs - 1].log, checkpoint=checkpoint)

    @staticmethod
    def rounds(state: State) -> Rounds:
        """The rounds of such a daemon, behind the walk for which a start asks."""
        rounds = Rounds()
        rounds.committed(state, electorate(), ended=False)
        rounds.next(0)
        rounds.looked(found(), 0)
        return rounds

    def test_with_four_logs_nothing_is_done(self) -> None:
        rounds = self.rounds(self.state(4))
        assert rounds.next(WALK_PAUSE_MS_MAX) == Rest(None)
        assert rounds.idle

    def test_with_five_a_walk_ends_and_begins_anew_with_another_checkpoint(self) -> None:
        rounds = self.rounds(self.state(5))
        gather = rounds.next(0)
        assert gather == Gather(Mark())
        assert not rounds.idle
        rounds.gathered(gather, Gathered(None), 0)
        assert not rounds.committed(self.state(5), electorate(), ended=False)
        assert rounds.next(10_000_000) == Rest(None)
        assert rounds.committed(self.state(5, checkpoint=2), electorate(), ended=False)
        assert rounds.next(10_000_000) == Gather(Mark())

    def test_one_that_takes_longer_than_to_the_next_checkpoint_goes_on_before_the_next_begins(self) -> None:
        """Begun anew with each, it would never come to what lies behind, and that would be too old one day."""
        rounds = self.rounds(self.state(5))
        gather, mark = rounds.next(0), Mark((7, 7, 7))
        assert isinstance(gather, Gather)
        rounds.gathered(gather, Gathered(mark), 0)
        assert not rounds.committed(self.state(5, checkpoint=2), electorate(), ended=False)
        gather = rounds.next(10_000_000)
        assert gather == Gather(mark)
        rounds.gathered(gather, Gathered(None), 10_000_000)
        assert rounds.next(20_000_000) == Gather(Mark())

    def test_it_pauses_for_longer_where_something_was_written(self) -> None:
        rounds = self.rounds(self.state(5))
        for gathered, pause_ms in (
            (Gathered(Mark()), GATHER_LOOK_PAUSE_MS),
            (Gathered(Mark(), requests=1), GATHER_PAUSE_MS),
            (Gathered(Mark(), places=1), GATHER_PAUSE_MS),
        ):
            gather = rounds.next(1_000_000)
            assert isinstance(gather, Gather)
            rounds.gathered(gather, gathered, 1_000_000)
            assert rounds.next(1_000_000) == Rest(1_000_000 + pause_ms)
            rounds.gathered(gather, gathered, 0)

    def test_what_is_at_risk_goes_first(self) -> None:
        rounds = self.rounds(self.state(5))
        rounds.looked(found((1, 0)), 0)
        assert rounds.next(0) == Write((1,))

    def test_after_a_failure_it_goes_on_later(self) -> None:
        rounds = self.rounds(self.state(5))
        rounds.failed(0)
        assert rounds.next(0) == Rest(REFUSED_PAUSE_MS)
        assert rounds.next(REFUSED_PAUSE_MS) == Gather(Mark())

    def test_none_is_asked_for_any_more_once_the_older_logs_are_gone(self) -> None:
        rounds = self.rounds(self.state(5))
        gather = rounds.next(0)
        assert isinstance(gather, Gather)
        rounds.committed(self.state(4, checkpoint=2), electorate(), ended=False)
        rounds.gathered(gather, Gathered(Mark(None)), 0)
        rounds.next(10_000_000)
        rounds.looked(found(), 10_000_000)
        assert rounds.idle


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class TestCarrier:
    """The same decisions on a daemon's database."""

    async def test_what_is_about_to_go_is_carried_and_stays_listed(self, database: Database, carrier: Carrier) -> None:
        carrier.start()
        await until(lambda: carrier.status()["walks"] == 1)
        await database.set_electorate(GRACE)
        carrier.weighed()
        await until(lambda: carrier.status()["requests"] == 2)
        await until(lambda: carrier._rounds.idle)
        assert carrier.status() == {"waiting": 0, "requests": 2, "events": 1, "walks": 2, "problem": None}
        await database.set_electorate(AFTER)
        assert database.state.nodes == 2

    async def test_what_older_own_logs_say_is_said_again_in_the_own_one(
        self, database: Database, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carrier_module, "GATHER_PAUSE_MS", 1)
        older = [Author("//validator0", seed=50 + number) for number in range(5)]
        for number, author in enumerate(older):
            await database.receive([author.delegate(), author.add(add("//Bob", [f"gpu-{number + 50}"]))], NOW_MS)
        carrier.start()
        await until(lambda: carrier.status()["requests"] == 5)
        await until(lambda: carrier._rounds.idle)
        assert carrier.status()["problem"] is None

    async def test_a_start_finds_what_was_left_over(self, database: Database, carrier: Carrier) -> None:
        await database.set_electorate(GRACE)
        carrier.start()
        await until(lambda: carrier.status()["requests"] == 2)

    async def test_nothing_runs_while_nothing_is_at_risk(
        self, database: Database, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        carrier.start()
        await database.receive([Author("//validator2").delegate()], NOW_MS)
        await until(lambda: carrier.status()["walks"] >= 1 and carrier._rounds.idle)
        looks = 0

        def count(now_ms: int) -> Look | Write | Rest:
            nonlocal looks
            looks += 1
            return Rest(None)

        monkeypatch.setattr(carrier._rounds, "next", count)
        author = Author("//validator2", seed=1)
        for number in range(20):
            event = author.write(author.delegation()) if number == 0 else author.add(add("//Bob", [f"gpu-{number}"]))
            await database.receive([event], NOW_MS)
        assert looks <= 1  # for the log that is new

    async def test_a_refused_write_is_told_and_tried_again(
        self, database: Database, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carrier_module, "REFUSED_PAUSE_MS", 20)
        database.ledger.writes_refused = "the clock is off"
        await database.set_electorate(GRACE)
        carrier.start()
        await until(lambda: carrier.status()["problem"] == "the clock is off")
        database.ledger.writes_refused = None
        await until(lambda: carrier.status()["requests"] == 2)
        assert carrier.status()["problem"] is None

    async def test_nothing_is_carried_before_the_hotkey_is_known(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carrier_module, "REFUSED_PAUSE_MS", 20)
        hotkeys: list[bytes] = []
        carrier = Carrier(database, lambda: hotkeys[0] if hotkeys else None, lambda: NOW_MS)
        await database.set_electorate(GRACE)
        carrier.start()
        await until(lambda: carrier.status()["problem"] is not None)
        hotkeys.append(OWN)
        await until(lambda: carrier.status()["requests"] == 2)
        await carrier.stop()

    async def test_a_read_that_fails_is_not_the_last_one(
        self, database: Database, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carrier_module, "REFUSED_PAUSE_MS", 20)
        failures: Iterator[Exception] = iter([StoreError("the disk is gone"), ZeroDivisionError("a bug")])
        part = carrying.part

        def failing(facts: Facts, cursor: Cursor, weights: Weights, own: bytes) -> Part:
            for error in failures:
                raise error
            return part(facts, cursor, weights, own)

        monkeypatch.setattr(carrying, "part", failing)
        await database.set_electorate(GRACE)
        carrier.start()
        await until(lambda: carrier.status()["requests"] == 2)

    async def test_stopping_ends_it_at_any_moment(self, database: Database, carrier: Carrier) -> None:
        await carrier.stop()
        carrier.start()
        await carrier.stop()
        assert carrier.status()["requests"] == 0
