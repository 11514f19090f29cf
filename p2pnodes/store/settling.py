"""Deciding every tally and row anew, part by part: where a live set was loaded, and where everything is derived anew.

First it is recorded which claims name which GPUs, in the order of the GPUs. Then each claim is counted and its GPUs are
decided, in the order of the claims: each claim and each body is read once. The rows wait in a temporary table, which
SQLite keeps beside the database. Then they take the place of those that are held, a range of buckets at a time and in
the order of their keys, and so do the buckets' hashes. So a page is written once, and not once for each of its rows.
Rows that are right already stay.
"""

import sqlite3
from collections.abc import Collection
from itertools import count
from operator import itemgetter
from typing import Any, Final

import msgpack

from p2pnodes.model.inventory import Tally, Weights
from p2pnodes.model.stateroot import BUCKETS, StateRoot
from p2pnodes.store import buckets, supply
from p2pnodes.store.facts import Facts
from p2pnodes.store.rows import COLUMNS, COUNTED, INSERT, compare, decide, values

CLAIMS_COLLECTED: Final = 1_024
"""Claims whose GPUs are noted at once."""

NAMED_PER_PART: Final = 8_192
"""GPUs that are recorded at once with the claims that name them: some 10 ms. The sorting before that is one step, of a
second for a million, in which SQLite holds the interpreter no more than the disk."""

CLAIMS_PER_PART: Final = 128
"""Claims that are counted, and whose GPUs are decided, at once: some 15 ms where each names ten."""

RANGES: Final = 256
"""Ranges of buckets; of 1,000,000 rows each has 4,000, which take some 50 ms."""

ROWS_PER_PART: Final = 2_048
"""Rows in their place after which no further range is begun at once."""

ROWS_WAITING: Final = 32
"""Rows of a range that wait in memory, 6 MB in all; so many go to the temporary table as one."""

_BUCKETS_PER_RANGE: Final = BUCKETS // RANGES
_PLACES: Final = 1 << 40
"""Places of a range in the temporary table, more than there are rows."""

_KEY: Final = itemgetter(COLUMNS.index("bucket"), COLUMNS.index("uuid"))
_SAME: Final = itemgetter(COLUMNS.index("claim"), COLUMNS.index("digest"))


class Settling:
    """Decides everything anew; call ``advance`` until ``done``. Begin anew where a transaction was undone."""

    def __init__(self, facts: Facts, weights: Weights) -> None:
        """Begin; call inside a transaction.

        Args:
            facts: What is stored, on the writer's connection.
            weights: Who counts; with others it has to be begun anew.
        """
        self.weights = weights
        self.root = StateRoot()
        """Of the rows that are in their place."""
        self.rows = 0
        """How many these are."""
        self.done = False
        self._facts = facts
        self._connection: sqlite3.Connection = facts.connection
        self._steps = iter((self._collect, self._name, self._decide, self._replace))
        self._step = next(self._steps)
        self._claim = 0
        """The last claim that was looked at in this step."""
        self._named: tuple[str, int] = "", 0
        """The last GPU and claim that were recorded together."""
        self._range = 0
        """The first one whose rows are not in their place."""
        self._waiting: dict[int, list[tuple[Any, ...]]] = {}
        """By range: what was decided and is not in the temporary table."""
        self._numbers = count()
        for table in ("supply", "tenancy"):  # GPUs are counted as they are decided: those of a server at once
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - from the line above
        self._connection.execute("DROP TABLE IF EXISTS temp.decided")
        self._connection.execute("CREATE TEMP TABLE decided (place INTEGER PRIMARY KEY, rows BLOB NOT NULL)")
        self._connection.execute("DROP TABLE IF EXISTS temp.named")
        self._connection.execute("CREATE TEMP TABLE named (uuid TEXT NOT NULL, claim INTEGER NOT NULL)")

    def advance(self) -> None:
        """Do the next part; call inside a transaction."""
        if self._step():
            return
        following = next(self._steps, None)
        self.done = following is None
        self._step = following or self._step

    # -- steps: each does a part, and says whether there is more -----------------------------------------------------

    def _collect(self) -> bool:
        """Note what some claims name."""
        rows = self._connection.execute(
            "SELECT claim, uuids FROM claim WHERE claim > ? AND uuids NOTNULL ORDER BY claim LIMIT ?",
            (self._claim, CLAIMS_COLLECTED),
        ).fetchall()
        self._connection.executemany(
            "INSERT INTO named VALUES (?, ?)", [(uuid, key) for key, uuids in rows for uuid in msgpack.unpackb(uuids)]
        )
        if rows:
            self._claim = rows[-1][0]
            return True
        self._connection.execute("CREATE INDEX temp.named_order ON named (uuid, claim)")
        self._claim = 0
        return False

    def _name(self) -> bool:
        """Record which claims name some GPUs."""
        behind = "FROM named WHERE (uuid, claim) > (?, ?) ORDER BY uuid, claim LIMIT"
        self._connection.execute(
            f"INSERT OR IGNORE INTO claim_gpu SELECT uuid, claim {behind} ?",
            (*self._named, NAMED_PER_PART),
        )
        last = self._connection.execute(
            f"SELECT uuid, claim {behind} 1 OFFSET ?",
            (*self._named, NAMED_PER_PART - 1),
        ).fetchone()
        if last is not None:
            self._named = last
            return True
        self._connection.execute("DROP TABLE temp.named")
        return False

    def _decide(self) -> bool:
        """Count some claims and decide their GPUs."""
        after = self._claim
        query = "SELECT claim FROM claim WHERE claim > ? ORDER BY claim LIMIT ?"
        keys: list[int] = [key for (key,) in self._connection.execute(query, (after, CLAIMS_PER_PART))]
        if not keys:
            return False
        counted = self._facts.tallies(keys, self.weights)
        held = list(self._facts.held_tallies(keys))
        self._connection.executemany(
            "UPDATE claim SET status = ?, since = ?, detail = ? WHERE claim = ?",
            [(*counted[key], key) for key, tally, _ in held if tally != counted[key]],
        )

        def tallies_of(claims: Collection[int]) -> dict[int, Tally]:
            others = [key for key in claims if key not in counted]
            return counted | self._facts.tallies(others, self.weights)

        named = dict.fromkeys(uuid for *_, uuids in held for uuid in uuids)
        decided = decide(self._facts, named, tallies_of, self.weights)
        # One that several claims name is decided with the first of these.
        first = {uuid: found for uuid, found in decided.items() if min(found.claims) > after}
        rows = list(values(self._facts, compare(first, {}).new))
        supply.add(self._connection, map(COUNTED, rows))
        for row in rows:
            self._wait(row)
        self._claim = keys[-1]
        return True

    def _replace(self) -> bool:
        """Put the rows of some ranges in their place."""
        enough = self.rows + ROWS_PER_PART
        while self.rows < enough:
            number = self._next_range()
            if number is None:
                self._connection.execute("DROP TABLE temp.decided")
                return False
            self._replace_range(number)
            self._range = number + 1
        return True

    # -- rows --------------------------------------------------------------------------------------------------------

    def _wait(self, row: tuple[Any, ...]) -> None:
        """Let a row wait for its turn."""
        bucket, _ = _KEY(row)
        number = bucket // _BUCKETS_PER_RANGE
        waiting = self._waiting.setdefault(number, [])
        waiting.append(row)
        if len(waiting) == ROWS_WAITING:
            place = number * _PLACES + next(self._numbers)
            self._connection.execute("INSERT INTO decided VALUES (?, ?)", (place, msgpack.packb(waiting)))
            waiting.clear()

    def _next_range(self) -> int | None:
        """The next range that has rows, or is to have; None when there is none any more."""
        (held,) = self._connection.execute(
            "SELECT min(bucket) FROM (SELECT min(bucket) AS bucket FROM node WHERE bucket >= ?1"
            " UNION ALL SELECT min(bucket) FROM bucket WHERE bucket >= ?1)",
            (self._range * _BUCKETS_PER_RANGE,),
        ).fetchone()
        numbers = [number for number in self._waiting if number >= self._range]
        if held is not None:
            numbers.append(held // _BUCKETS_PER_RANGE)
        return min(numbers, default=None)

    def _replace_range(self, number: int) -> None:
        """Put the rows of a range in the place of those that are held, and rehash its buckets."""
        span = range(number * _BUCKETS_PER_RANGE, (number + 1) * _BUCKETS_PER_RANGE)
        places = number * _PLACES, (number + 1) * _PLACES - 1
        blobs = self._connection.execute("SELECT rows FROM decided WHERE place BETWEEN ? AND ?", places)
        rows = [row for (blob,) in blobs for row in msgpack.unpackb(blob, use_list=False)]
        rows += self._waiting.pop(number, ())
        self._connection.execute("DELETE FROM decided WHERE place BETWEEN ? AND ?", places)
        query = f"SELECT {', '.join(COLUMNS)} FROM node WHERE bucket BETWEEN ? AND ?"  # noqa: S608 - no values
        held = {_KEY(row): row for row in self._connection.execute(query, (span[0], span[-1]))}
        if held:
            right = {_KEY(row) for row in rows if _KEY(row) in held and _SAME(held[_KEY(row)]) == _SAME(row)}
            gone = sorted(held.keys() - right)
            supply.add(self._connection, [COUNTED(held[key]) for key in gone])  # they are taken off as they go
            self._connection.executemany("DELETE FROM node WHERE bucket = ? AND uuid = ?", gone)
            rows = [row for row in rows if _KEY(row) not in right]
        self._connection.executemany(INSERT, sorted(rows, key=_KEY))
        self.rows += buckets.renew(self._connection, self.root, span)
