"""A newcomer has no index that loading does not need, and whoever has loaded has them all, whatever came between."""

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from p2pnodes.store import indexes, schema
from p2pnodes.store.indexes import LIFTED
from p2pnodes.store.ledger import NEWCOMER_PARTS, Ledger
from p2pnodes.store.loading import Answer, Found
from p2pnodes.store.schema import open_writer
from tests.gossip.past import Past
from tests.store.test_leaving import part
from tests.store.test_loading import brought, considered
from tests.support import NETWORK, memory_ledger


def laid(connection: sqlite3.Connection) -> dict[str, str]:
    """SQL of all indexes that migrations make."""
    return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOTNULL"))


ALL = laid(open_writer(":memory:"))
LEAN = {name: sql for name, sql in ALL.items() if name not in LIFTED}


def begun(past: Past, ledger: Ledger | None = None) -> Ledger:
    """Who is about to load."""
    ledger = ledger or memory_ledger(None, past.electorate)
    considered(ledger, past)
    while ledger.leaving:
        part(ledger)
    return ledger


def take(ledger: Ledger, past: Past, *slices: int) -> None:
    for place in slices:
        assert brought(ledger, past, place) == Answer(Found.TAKEN)


def test_a_newcomer_loads_without_them_and_has_them_when_it_is_there(pasts: list[Past]) -> None:
    past = pasts[0]
    ledger = begun(past)
    connection = ledger.facts.connection
    assert laid(connection) == ALL
    take(ledger, past, 0)
    assert laid(connection) == LEAN
    take(ledger, past, *range(1, past.slices))
    counts = [len(laid(connection))]
    while ledger.state.loading:
        part(ledger)
        counts.append(len(laid(connection)))
    assert laid(connection) == ALL
    assert max(after - before for before, after in pairwise(counts)) == 1  # each in its own part
    assert not indexes.away(connection)
    assert ledger.state.state_root == Ledger(past.disk, NETWORK).state.state_root


def test_whoever_is_killed_meanwhile_goes_on_without_them(pasts: list[Past]) -> None:
    past = pasts[0]
    ledger = begun(past)
    take(ledger, past, *range(past.slices))
    for killed_at in range(len(LEAN) + 1, len(ALL) + 1):
        ledger = Ledger(ledger.facts.connection, NETWORK)
        assert len(laid(ledger.facts.connection)) == killed_at - 1
        while len(laid(ledger.facts.connection)) < killed_at:
            assert ledger.state.loading
            part(ledger)
    part(ledger)
    assert not ledger.state.loading
    assert laid(ledger.facts.connection) == ALL
    assert ledger.state.state_root == Ledger(past.disk, NETWORK).state.state_root


def test_they_come_back_though_another_checkpoint_is_loaded_instead(pasts: list[Past]) -> None:
    first, second = pasts
    ledger = begun(first)
    take(ledger, first, 0)
    take(begun(second, ledger), second, *range(second.slices))
    assert laid(ledger.facts.connection) == LEAN
    while ledger.state.loading:
        part(ledger)
    assert laid(ledger.facts.connection) == ALL


def test_whoever_holds_much_of_it_keeps_them(pasts: list[Past]) -> None:
    past = pasts[0]
    (leaves,) = past.disk.execute("SELECT count(*) FROM live WHERE number = ?", (past.number,)).fetchone()
    many = -(-leaves // NEWCOMER_PARTS)
    for held, kept in ((many - 1, LEAN), (many, ALL)):
        ledger = memory_ledger(None, past.electorate)
        with ledger.transaction():
            ledger.receive(past.events[:held], past.now_ms)
        take(begun(past, ledger), past, 0)
        assert laid(ledger.facts.connection) == kept


def test_a_start_lays_them_where_a_build_that_knows_of_none_away_has_loaded(pasts: list[Past]) -> None:
    disk = pasts[0].copy()
    with disk:
        disk.execute("BEGIN")
        indexes.lift(disk)
    assert laid(disk) == LEAN
    Ledger(disk, NETWORK)
    assert laid(disk) == ALL


def test_migrations_find_them_laid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA", 6)
    with closing(open_writer(tmp_path / "old.db")) as old:
        before = laid(old)
        with old:
            old.execute("BEGIN")
            indexes.lift(old)
        assert laid(old) == LEAN
    monkeypatch.undo()
    with closing(open_writer(tmp_path / "old.db")) as new:
        assert before.items() < laid(new).items()
        assert laid(new) == ALL


def test_laying_one_takes_little_memory(pasts: list[Past]) -> None:
    """SQLite sorts as much at once as the cache may hold, in memory of its own."""
    disk, done = pasts[0].copy(), list[str]()
    with disk:
        disk.execute("BEGIN")
        indexes.lift(disk)
    (size,) = disk.execute("PRAGMA cache_size").fetchone()
    disk.set_trace_callback(done.append)
    indexes.lay_all(disk)
    disk.set_trace_callback(None)
    made = [number for number, statement in enumerate(done) if statement.startswith("CREATE INDEX")]
    assert len(made) == len(LIFTED)
    for number in made:
        assert done[number - 1] == f"PRAGMA cache_size = -{indexes.SORTED_KIB}"
        assert done[number + 1] == f"PRAGMA cache_size = {size}"
    assert indexes.SORTED_KIB <= 8_192
    assert size == -65_536


def test_one_that_cannot_be_laid_stays_to_be_laid() -> None:
    with closing(open_writer(":memory:")) as connection:
        with connection:
            connection.execute("BEGIN")
            indexes.lift(connection)
        connection.execute("CREATE INDEX claim_miner ON claim (claim_id)")  # in its way
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            indexes.lay_all(connection)
        assert not connection.in_transaction
        assert connection.execute("PRAGMA cache_size").fetchone() == (-65_536,)
        connection.execute("DROP INDEX claim_miner")
        indexes.lay_all(connection)
        assert laid(connection) == ALL
