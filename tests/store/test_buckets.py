"""The hashes of the state root's buckets: which of them are written, and that none is lost."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from p2pnodes.model.stateroot import BUCKETS
from p2pnodes.store import buckets
from p2pnodes.store.buckets import UNWRITTEN_MAX, Held
from p2pnodes.store.schema import open_writer


@pytest.fixture
def connection(tmp_path: Path) -> sqlite3.Connection:
    return open_writer(tmp_path / "p2pnodes.db")


def put(connection: sqlite3.Connection, held: Held, rows: dict[int, bytes]) -> None:
    """One more row, with this digest, in each of some buckets."""
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO node (bucket, uuid, claim, miner, status, created_hlc, detail, gpu_identifier, name, digest)"
        " VALUES (?1, hex(?2), 1, x'00', 'verified', 0, '', 'h100_sxm', 'H100', ?2)",
        rows.items(),
    )
    buckets.change(connection, held, list(rows))
    connection.execute("COMMIT")


def noted(connection: sqlite3.Connection) -> list[int]:
    return [bucket for (bucket,) in connection.execute("SELECT bucket FROM bucket_changed")]


def written(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM bucket").fetchone()
    return int(count)


def test_a_start_finds_what_was_written_and_what_was_not(connection: sqlite3.Connection) -> None:
    rng = random.Random(1)
    held = buckets.load(connection)
    rows, some_unwritten, some_written = 0, False, False
    for _ in range(30):
        changed = {bucket: rng.randbytes(32) for bucket in rng.sample(range(BUCKETS), 300)}
        put(connection, held, changed)
        rows += len(changed)
        found = buckets.load(connection)
        assert found.root.root() == held.root.root() == buckets.of_rows(connection).root.root()
        assert found.rows == rows
        assert found.unwritten == held.unwritten
        some_unwritten |= bool(held.unwritten)
        some_written |= written(connection) > 0
    assert some_unwritten, "else nothing was computed anew"
    assert some_written, "else nothing was read"


def test_one_that_changes_again_and_again_is_noted_once(connection: sqlite3.Connection) -> None:
    held = buckets.load(connection)
    for number in range(3):
        put(connection, held, {7: bytes([number]) * 32})
    assert noted(connection) == [7]
    assert held.unwritten == {7: 3}


def test_none_is_noted_any_more_once_so_many_changed(connection: sqlite3.Connection) -> None:
    held = buckets.load(connection)
    digest = bytes(32)
    put(connection, held, dict.fromkeys(range(UNWRITTEN_MAX - 1), digest))
    assert (len(noted(connection)), written(connection)) == (UNWRITTEN_MAX - 1, 0)
    put(connection, held, {UNWRITTEN_MAX - 1: digest})
    assert (noted(connection), held.unwritten, written(connection)) == ([], {}, UNWRITTEN_MAX)


def test_a_bucket_that_lost_its_last_row_has_no_hash(connection: sqlite3.Connection) -> None:
    held = buckets.load(connection)
    put(connection, held, {7: bytes(32), 8: bytes(32)})
    buckets.write(connection, held)
    buckets.written(connection)
    held = buckets.load(connection)
    connection.execute("DELETE FROM node WHERE bucket = 7")
    buckets.change(connection, held, [7])
    assert buckets.load(connection).rows == 1
    buckets.write(connection, held)
    assert written(connection) == 1
    assert held.root.root() == buckets.of_rows(connection).root.root()


def test_a_start_that_finds_nothing_has_an_empty_root(tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "empty.db")) as connection:
        held = buckets.load(connection)
        assert (held.rows, held.unwritten) == (0, {})
        assert held.root.root() == buckets.of_rows(connection).root.root()
