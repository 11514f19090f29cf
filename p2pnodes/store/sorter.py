"""Sorting more rows than memory should hold, part by part: an external merge sort.

What is added at once is sorted and waits as a run: in blocks, in a temporary table, which SQLite keeps in a file of
its own (``prune.TEMPORARY``). Then all runs are read side by side, a block of each at a time. So no step's cost follows
the number of rows, and it matters nothing what somebody chose them to be. A sort in SQLite is one statement, which
takes seconds for a million.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import count
from typing import Any, Final

import msgpack

Row = tuple[Any, ...]

BLOCK_ROWS: Final = 32
"""Rows that are written and read at once; of each run so many are in memory while runs are merged."""

BLOCKS_CLEARED: Final = 256
"""Blocks that are forgotten at once."""

_PLACES: Final = 1 << 40
"""Places of a run in the temporary table, more than it has blocks."""


class Sorter:
    """Sorts rows of what msgpack knows; a connection has one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Begin; ``clear`` until nothing is left, if there may have been another one before."""
        self._connection = connection
        self._connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS waiting (place INTEGER PRIMARY KEY, rows BLOB NOT NULL)"
        )
        self._runs = 0

    def clear(self) -> bool:
        """Forget some of what another one left; whether there was anything."""
        cursor = self._connection.execute(
            "DELETE FROM waiting WHERE place IN (SELECT place FROM waiting LIMIT ?)", (BLOCKS_CLEARED,)
        )
        return cursor.rowcount > 0

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows, some thousand at once; their first columns tell them apart, and none of these is None."""
        run = sorted(rows)
        blocks = (msgpack.packb(run[begin : begin + BLOCK_ROWS]) for begin in range(0, len(run), BLOCK_ROWS))
        self._connection.executemany("INSERT INTO waiting VALUES (?, ?)", enumerate(blocks, self._runs * _PLACES))
        self._runs += 1

    def merged(self) -> Iterator[Row]:
        """All rows in order; each block is forgotten as it is read. Others may be added when all have come."""
        runs, self._runs = self._runs, 0
        return merge(*map(self._run, range(runs)))

    def _run(self, number: int) -> Iterator[Row]:
        for place in count(number * _PLACES):
            query = "DELETE FROM waiting WHERE place = ? RETURNING rows"
            blocks = self._connection.execute(query, (place,)).fetchall()
            if not blocks:
                return
            yield from msgpack.unpackb(blocks[0][0], use_list=False)
