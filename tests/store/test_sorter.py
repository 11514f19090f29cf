"""Rows come out in order, however they came in; nothing of them stays, and no step takes more than its share."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.store import sorter as sorter_module
from p2pnodes.store.schema import open_writer
from p2pnodes.store.sorter import BLOCK_ROWS, BLOCKS_CLEARED, Row, Sorter


def disk() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def waiting(connection: sqlite3.Connection) -> int:
    """Blocks that are held."""
    (count,) = connection.execute("SELECT count(*) FROM waiting").fetchone()
    return int(count)


ROWS = st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=70)


@given(st.lists(ROWS, max_size=5), st.integers(1, 9))
def test_all_rows_come_out_in_order_and_none_is_left(added: list[list[Row]], block_rows: int) -> None:
    connection = disk()
    sorter = Sorter(connection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorter_module, "BLOCK_ROWS", block_rows)
        for _ in range(2):  # one sort after the other
            for rows in added:
                sorter.add(rows)
            assert list(sorter.merged()) == sorted(row for rows in added for row in rows)
            assert waiting(connection) == 0
    connection.close()


@given(ROWS, ROWS)
def test_rows_that_are_added_while_others_are_read_wait_for_the_next_merge(first: list[Row], then: list[Row]) -> None:
    connection = disk()
    sorter, read = Sorter(connection), list[Row]()
    sorter.add(first)
    for number, row in enumerate(sorter.merged()):
        read.append(row)
        sorter.add(then[number : number + 1])
    sorter.add(then[len(first) :])
    assert (read, list(sorter.merged())) == (sorted(first), sorted(then))
    connection.close()


def test_rows_come_out_as_they_were() -> None:
    connection = disk()
    sorter = Sorter(connection)
    rows: list[Row] = [(7, "gpu-1", None, b"\xff", -(1 << 63), ""), (7, "gpu-2", "name", None, (1 << 64) - 1, "x")]
    sorter.add(reversed(rows))
    assert list(sorter.merged()) == rows
    connection.close()


@pytest.mark.parametrize("key", [lambda number: number, lambda number: -number, lambda number: number * 7919 % 10_007])
def test_of_each_run_no_more_than_a_block_is_in_memory(key: Callable[[int], int]) -> None:
    connection = disk()
    sorter = Sorter(connection)
    runs, blocks = 12, 5
    for run in range(runs):
        sorter.add((key(run * blocks * BLOCK_ROWS + number),) for number in range(blocks * BLOCK_ROWS))
    assert waiting(connection) == runs * blocks
    for number, _ in enumerate(sorter.merged()):
        read = (runs * blocks - waiting(connection)) * BLOCK_ROWS
        assert number < read <= number + runs * BLOCK_ROWS
    connection.close()


def test_what_another_one_left_goes_part_by_part() -> None:
    connection = disk()
    given_up = Sorter(connection)
    given_up.add((number,) for number in range((2 * BLOCKS_CLEARED + 1) * BLOCK_ROWS))
    sorter, left = Sorter(connection), [waiting(connection)]
    while sorter.clear():
        left.append(waiting(connection))
    assert left == [2 * BLOCKS_CLEARED + 1, BLOCKS_CLEARED + 1, 1, 0]
    sorter.add([(1,)])
    assert list(sorter.merged()) == [(1,)]
    connection.close()


def test_what_waits_is_kept_in_a_file(tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "p2pnodes.db")) as connection:
        assert connection.execute("PRAGMA temp_store").fetchone() == (1,)
