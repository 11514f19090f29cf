"""Long work comes to its end on a disk that fails now and then, and finds what it would have found on another one."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from p2pnodes.model import checkpoint
from p2pnodes.model.checkpoint import Line
from p2pnodes.model.events import Checkpoint
from p2pnodes.store import checkpoints, cutting, liveset, settling, sorter
from p2pnodes.store.checkpoints import Donor, Stage, certified
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.gossip.past import Past, lived
from tests.store.references import dangling
from tests.store.test_checkpoints import DAY_MS
from tests.store.test_undone import memory
from tests.support import NETWORK, memory_ledger

PARTS_MAX = 1_000
WRITTEN_MAX = 8
"""Rows that a part of a search writes where it looks at two."""

EVERY = 3
"""Of so many transactions the last one fails, after it has done its part."""


class Forgetful(sqlite3.Connection):
    """A connection whose next COMMIT fails behind the database's own: what lies in temporary tables is lost."""

    forgets = False

    def execute(self, *args: object) -> sqlite3.Cursor:
        cursor = super().execute(*args)  # type: ignore[arg-type]
        if self.forgets and args[0] == "COMMIT":
            self.forgets = False
            for (table,) in super().execute("SELECT name FROM temp.sqlite_master").fetchall():
                super().execute(f"DROP TABLE temp.{table}")
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


@pytest.fixture(autouse=True)
def small_parts() -> Iterator[None]:
    """Of little work, many parts."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (checkpoint, checkpoints):
            patch.setattr(module, "SLICE_LEAVES_MAX", 3)
        for module in (liveset, cutting, settling):
            for name in ("CLAIMS_PER_PART", "ROWS_PER_PART"):
                patch.setattr(module, name, 2)
        patch.setattr(liveset, "WORDS_PER_PART", 2)
        for name in ("NAMED_PER_PART", "ROWS_SORTED"):
            patch.setattr(settling, name, 4)
        patch.setattr(sorter, "BLOCK_ROWS", 2)
        yield


@pytest.fixture(name="past")
def a_past() -> Past:
    """Its checkpoint is a day older than the horizon."""
    (past,) = lived(8 * DAY_MS)
    return past


def holder(past: Past) -> Ledger:
    """Who has heard all of it, and its certificate."""
    ledger = memory_ledger(None, past.electorate)
    with ledger.transaction():
        ledger.receive(past.events, past.now_ms)
        ledger.checkpoints.take(past.certificate)
    return ledger


def cutter(past: Past) -> Ledger:
    """Who has its checkpoint in force; nothing that it leaves out is gone yet."""
    ledger = holder(past)
    parts(ledger, partial(ledger.find_live_set, certified(NETWORK, past.certificate).line), None)
    with ledger.transaction():
        ledger.enforce()
    return ledger


def newcomer(past: Past) -> Ledger:
    """Who has loaded its live set; no row follows from that yet."""
    ledger = memory_ledger(None, past.electorate)
    with ledger.transaction():
        ledger.begin_loading(past.certificate)
    for index in range(past.slices):
        with ledger.transaction():
            ledger.load(index, *Donor().slice(past.disk, past.number, index))
    assert ledger.checkpoints.loaded
    return ledger


def parts(ledger: Ledger, part: Callable[[], object], every: int | None = EVERY) -> int:
    """Do all parts of a work; how many transactions that took."""
    for number in range(1, PARTS_MAX):
        with suppress(sqlite3.OperationalError):
            with ledger.transaction():
                done = part()
                if every is not None and number % every == 0:
                    raise sqlite3.OperationalError("disk I/O error")
            if done:
                return number
    raise AssertionError("it never ends")


def require_memory(ledger: Ledger) -> None:
    """Require that what is known is what a restart reads."""
    known, read = memory(ledger), memory(Ledger(ledger.facts.connection, NETWORK))
    assert [(name, known[name], read[name]) for name in known if known[name] != read[name]] == []


def counted(ledger: Ledger) -> int:
    """How many GPUs are counted by miner and model."""
    (gpus,) = ledger.facts.connection.execute("SELECT sum(provisioned + idle) FROM supply").fetchone()
    return int(gpus)


def leaves(ledger: Ledger, line: Line) -> list[tuple[object, ...]]:
    """What is recorded of a live set."""
    execute = ledger.facts.connection.execute
    return [
        *execute("SELECT log, seq, mask FROM live WHERE number = ? ORDER BY log, seq", (line.number,)),
        *execute("SELECT slice, log, seq, hash FROM live_slice WHERE number = ? ORDER BY slice", (line.number,)),
    ]


class TestALiveSet:
    """The search for one."""

    def test_it_is_found_though_every_third_transaction_fails(self, past: Past) -> None:
        line = certified(NETWORK, past.certificate).line
        steady, shaky = holder(past), holder(past)
        least = parts(steady, partial(steady.find_live_set, line), None)
        assert least > 5 * EVERY
        assert parts(shaky, partial(shaky.find_live_set, line)) <= least * EVERY / (EVERY - 1) + 1
        assert shaky.found(line.proposal) == steady.found(line.proposal) == self._said(past)
        assert leaves(shaky, line) == leaves(steady, line)
        require_memory(shaky)

    def test_one_that_was_begun_in_a_transaction_that_failed_was_not(self, past: Past) -> None:
        ledger = holder(past)
        with suppress(ZeroDivisionError), ledger.transaction():
            ledger.find_live_set(certified(NETWORK, past.certificate).line)
            raise ZeroDivisionError
        assert ledger.finding is None

    def test_one_that_was_forgotten_in_a_transaction_that_failed_goes_on(self, past: Past) -> None:
        ledger, line = holder(past), certified(NETWORK, past.certificate).line
        with ledger.transaction():
            ledger.find_live_set(line)
        with suppress(ZeroDivisionError), ledger.transaction():
            ledger.forget_finding()
            raise ZeroDivisionError
        assert ledger.finding == line

    def test_it_begins_anew_where_its_temporary_tables_are_lost_behind_a_commit(self, past: Past) -> None:
        """The database has the part then, and the search would do it twice, or miss what the tables had."""
        connection = sqlite3.connect(":memory:", isolation_level=None, factory=Forgetful)
        holder(past).facts.connection.backup(connection)
        ledger, line = Ledger(connection, NETWORK), certified(NETWORK, past.certificate).line
        steady = holder(past)
        least = parts(steady, partial(steady.find_live_set, line), None)
        for after in range(1, least + 1):  # whatever part it was
            with ledger.transaction():
                ledger.forget_finding()
            for _ in range(after - 1):
                with ledger.transaction():
                    ledger.find_live_set(line)
            connection.forgets = True
            with suppress(sqlite3.OperationalError), ledger.transaction():
                ledger.find_live_set(line)
            assert not connection.forgets
            assert ledger.finding is None
            parts(ledger, partial(ledger.find_live_set, line), None)
            assert ledger.found(line.proposal) == self._said(past)
            assert leaves(ledger, line) == leaves(steady, line)

    def test_no_part_of_it_writes_more_the_more_there_is(self, past: Past) -> None:
        """What the search before has left is forgotten in parts, and each slice's hash is written as it is full."""
        ledger, line = holder(past), certified(NETWORK, past.certificate).line
        connection = ledger.facts.connection
        with ledger.transaction():
            ledger.find_live_set(line)
            ledger.forget_finding()
            words = [(f"gpu-{number}", bytes(32), 1, number) for number in range(100)]
            connection.executemany("INSERT INTO last_word VALUES (?, ?, ?, ?)", words)
        assert past.slices > WRITTEN_MAX
        statement = None
        while statement is None:
            with ledger.transaction():
                before = connection.total_changes
                statement = ledger.find_live_set(line)
                assert connection.total_changes - before <= WRITTEN_MAX
        assert statement == self._said(past)

    @staticmethod
    def _said(past: Past) -> Checkpoint:
        return certified(NETWORK, past.certificate).statement


class TestACut:
    """What a checkpoint leaves out goes."""

    def test_it_ends_though_every_third_transaction_fails(self, past: Past) -> None:
        steady, shaky = cutter(past), cutter(past)
        least = parts(steady, steady.cut, None)
        assert least > 5 * EVERY
        assert parts(shaky, shaky.cut) <= least * EVERY / (EVERY - 1) + 1
        assert shaky.state == steady.state
        assert shaky.checkpoints.stage is Stage.DONE
        require_memory(shaky)

    def test_it_does_one_part_of_a_transaction_however_many_ask(self, past: Past) -> None:
        """The next part begins with the rows that follow from it; claims would go that rows still name."""
        steady, asked = cutter(past), cutter(past)

        def thrice() -> bool:
            ended = [asked.cut() for _ in range(3)]
            return any(ended)

        assert parts(asked, thrice, None) == parts(steady, steady.cut, None)
        assert asked.state == steady.state
        assert dangling(asked.facts.connection) == []


class TestALiveSetThatWasLoaded:
    """Its rows follow, part by part."""

    def test_they_follow_though_every_third_transaction_fails(self, past: Past) -> None:
        steady, shaky = newcomer(past), newcomer(past)
        least = parts(steady, steady.cut, None)
        assert least > 5 * EVERY
        assert parts(shaky, shaky.cut) <= least * EVERY / (EVERY - 1) + 1
        assert shaky.state == steady.state
        assert shaky.state.nodes > 0
        require_memory(shaky)
        assert counted(shaky) == counted(steady) == shaky.state.nodes

    def test_they_follow_where_another_connection_takes_up_the_work(self, past: Past) -> None:
        """A restart begins anew, whatever the one before has left."""
        first = newcomer(past)
        for _ in range(9):
            with first.transaction():
                first.cut()
        disk = open_writer(":memory:")
        first.facts.connection.backup(disk)
        second, steady = Ledger(disk, NETWORK), newcomer(past)
        for ledger in (second, steady):
            parts(ledger, ledger.cut)
        assert second.state == steady.state
