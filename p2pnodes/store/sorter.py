"""Sorting more rows than memory should hold, part by part: an external merge sort.

What is added at once is sorted and waits as a run: in blocks, in a temporary table, which SQLite keeps in a file of
its own (``prune.TEMPORARY``). Then all runs are read side by side, a block of each at a time. So no step's cost follows
the number of rows, and it matters nothing what somebody chose them to be. A sort in SQLite is one statement, which
takes seconds for a million.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Any, Final, Self

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
        self._merged = 0
        """Those of its runs that were merged, or are being merged: the first ones."""

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

    def merged(self) -> "Merged":
        """All rows so far in order; each block is forgotten as it is read. Others may be added meanwhile."""
        runs, self._merged = range(self._merged, self._runs), self._runs
        return Merged(self._connection, runs)


class Merged(Iterator[Row]):
    """The rows of all runs in order. A copy goes on from the same row, as often as what it reads is there again."""

    def __init__(self, connection: sqlite3.Connection, runs: range = range(0)) -> None:
        """Begin; the first blocks are read with the first row.

        Args:
            connection: With the temporary table that they wait in.
            runs: Their numbers.
        """
        self._connection = connection
        self._begun = False
        self._blocks: list[tuple[Row, ...]] = [()] * len(runs)
        """Of each run the block that is being read."""
        self._places = [run * _PLACES for run in runs]
        """Of each run the place of the block behind that."""
        self._heads: list[tuple[Row, int, int]] = []
        """Of each run that has more its next row, the run, and the place behind that row in its block: a heap."""

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__ = self.__dict__ | {
            "_blocks": [*self._blocks], "_places": [*self._places], "_heads": [*self._heads]
        }  # fmt: skip
        return copied

    def __next__(self) -> Row:
        """The next row."""
        if not self._begun:
            self._begun = True
            heads = (self._head(run, 0) for run in range(len(self._blocks)))
            self._heads = [head for head in heads if head is not None]
            heapify(self._heads)
        elif self._heads:  # its first one was handed out
            _, run, after = self._heads[0]
            if (head := self._head(run, after)) is not None:
                heapreplace(self._heads, head)
            else:
                heappop(self._heads)
        if not self._heads:
            raise StopIteration
        return self._heads[0][0]

    def _head(self, run: int, at: int) -> tuple[Row, int, int] | None:
        """The row at a place of a run's block, or the first one of its next block; None where it has no more."""
        if at == len(self._blocks[run]):
            query = "DELETE FROM waiting WHERE place = ? RETURNING rows"
            blocks = self._connection.execute(query, (self._places[run],)).fetchall()
            if not blocks:
                return None
            self._blocks[run] = msgpack.unpackb(blocks[0][0], use_list=False)
            self._places[run] += 1
            at = 0
        return self._blocks[run][at], run, at + 1
