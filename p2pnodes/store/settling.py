"""Deciding every tally and row anew, part by part: where a live set was loaded, and where everything is derived anew.

First it is recorded which GPUs several claims name, in the order of the GPUs. Then each claim is counted and its GPUs
are decided, in the order of the claims: each claim and each body is read once. The rows are sorted (``store.sorter``)
and take the place of those that are held, some buckets at a time, and so do the buckets' hashes. Last they are counted
(``store.supply``), what they are counted by sorted as well. So a page is written once, and not once for each of its
rows. Rows that are right already stay. After a transaction that was undone it goes on (``store.parts``).
"""

import sqlite3
from collections import Counter
from collections.abc import Collection
from itertools import chain, islice, pairwise
from operator import itemgetter
from typing import Any, Final

from p2pnodes.model.inventory import Tally, Weights
from p2pnodes.model.stateroot import BUCKETS, StateRoot
from p2pnodes.store import buckets, supply
from p2pnodes.store.facts import Facts, unpack_uuids
from p2pnodes.store.parts import Parts
from p2pnodes.store.rows import COLUMNS, COUNTED, INSERT, compare, decide, values
from p2pnodes.store.sorter import Merged, Sorter

NAMED_PER_PART: Final = 8_192
"""GPUs that are noted or recorded at once with the claims that name them: some 20 ms."""

CLAIMS_PER_PART: Final = 128
"""Claims that are counted, and whose GPUs are decided, at once: some 15 ms where each names ten."""

ROWS_SORTED: Final = 4_096
"""Rows that wait in memory, 4 MB, before they are sorted and wait elsewhere."""

ROWS_PER_PART: Final = 2_048
"""Rows that are put in their place at once, and rows that are looked at there: some 50 ms. The last bucket of these is
done with them; of 1,000,000 rows it has 15."""

_FILLED: Final = {
    "supply": "miner, gpu_identifier",
    "tenancy": "miner, gpu_identifier, chute",
    "claim_gpu": "uuid, claim",
}
"""Tables that are filled as GPUs are decided, those of a server at once -> their keys."""

_NONE: Final = ("", 0)
"""Before all GPUs and the claims that name them."""

_KEY: Final = itemgetter(COLUMNS.index("bucket"), COLUMNS.index("uuid"))
_SAME: Final = itemgetter(COLUMNS.index("claim"), COLUMNS.index("digest"))


class Settling(Parts):
    """Decides everything anew; call ``advance`` until ``done``."""

    # ``root`` is written over
    MOVING = ("done", "rows", "_at", "_claim", "_sorter", "_sorted", "_named", "_rows", "_bucket", "_counts")

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
        self._sorter = Sorter(self._connection)
        self._steps = (self._clear, self._collect, self._name, self._decide, self._replace, self._count, self._tidy)
        self._at = 0
        """The step that it is at."""
        self._claim = 0
        """The last claim that was looked at in this step."""
        self._sorted = Merged(self._connection)
        """What was sorted in the step before."""
        self._named = _NONE
        """The last GPU that was looked at, and the claim that names it."""
        self._rows: list[tuple[Any, ...]] = []
        """Decided, and neither sorted nor in their place."""
        self._bucket = 0
        """The first one whose rows are not in their place."""
        self._counts: Counter[tuple[bytes, str, bytes]] = Counter()
        """Rows in their place whose counts are not sorted, by miner, model and chute; the latter is empty for none."""

    def advance(self) -> None:
        """Do the next part; call inside a transaction."""
        if self._steps[self._at]():
            return
        self._at += 1
        self.done = self._at == len(self._steps)

    def back(self, facts: Facts) -> None:
        """Be again as far as was noted, see ``Parts``."""
        super().back(facts)
        self._facts = facts

    # -- steps: each does a part, and says whether there is more -----------------------------------------------------

    def _clear(self) -> bool:
        """Forget some of what was filled, and of what one that was given up left."""
        cleared = self._sorter.clear()
        for table, key in _FILLED.items():
            cursor = self._connection.execute(
                f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} LIMIT ?)",  # noqa: S608 - our own names
                (ROWS_PER_PART,),
            )
            cleared |= cursor.rowcount > 0
        return cleared

    def _collect(self) -> bool:
        """Note what some claims name."""
        after = self._claim
        named: list[tuple[str, int]] = []
        query = "SELECT claim, uuids FROM claim WHERE claim > ? ORDER BY claim LIMIT ?"
        for key, uuids in self._connection.execute(query, (after, NAMED_PER_PART)):
            self._claim = key
            if uuids is not None:
                named += [(uuid, key) for uuid in unpack_uuids(uuids)]
            if len(named) >= NAMED_PER_PART:
                break
        if self._claim > after:
            self._sorter.add(named)
            return True
        self._sorted = self._sorter.merged()
        self._claim = 0
        return False

    def _name(self) -> bool:
        """Record of some GPUs which claims name them, where these are several."""
        named = list(islice(self._sorted, NAMED_PER_PART))
        for before, each in pairwise([self._named, *named]):
            if before[0] == each[0]:
                self._connection.executemany("INSERT OR IGNORE INTO claim_gpu VALUES (?, ?)", (before, each))
        self._named = named[-1] if named else _NONE
        return bool(named)

    def _decide(self) -> bool:
        """Count some claims and decide their GPUs."""
        after = self._claim
        query = "SELECT claim FROM claim WHERE claim > ? ORDER BY claim LIMIT ?"
        keys: list[int] = [key for (key,) in self._connection.execute(query, (after, CLAIMS_PER_PART))]
        if not keys or len(self._rows) >= ROWS_SORTED:
            self._sorter.add(self._rows)
            self._rows = []
        if not keys:
            self._sorted = self._sorter.merged()
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

        named = {uuid: (key, b"") for key, _, uuids in held for uuid in uuids}
        decided = decide(self._facts, named, tallies_of, self.weights, named)
        # One that several claims name is decided with the first of these.
        first = {uuid: found for uuid, found in decided.items() if min(found.claims) > after}
        alone = [(uuid, key) for uuid, found in first.items() if found.owner is None for key in found.claims]
        self._connection.executemany("INSERT OR IGNORE INTO claim_gpu VALUES (?, ?)", alone)
        self._rows += values(self._facts, compare(first, {}).new)
        self._claim = keys[-1]
        return True

    def _replace(self) -> bool:
        """Put the rows of some buckets in the place of those that are held, and rehash these buckets."""
        last, rows = self._next_rows()
        self._counts.update((miner, model, chute or b"") for miner, model, chute in map(COUNTED, rows))
        span = range(self._bucket, last + 1)
        query = f"SELECT {', '.join(COLUMNS)} FROM node WHERE bucket BETWEEN ? AND ?"  # noqa: S608 - no values
        held = {_KEY(row): row for row in self._connection.execute(query, (span[0], span[-1]))}
        if held:
            right = {_KEY(row) for row in rows if _KEY(row) in held and _SAME(held[_KEY(row)]) == _SAME(row)}
            gone = sorted(held.keys() - right)
            self._connection.executemany("DELETE FROM node WHERE bucket = ? AND uuid = ?", gone)
            rows = [row for row in rows if _KEY(row) not in right]
        self._connection.executemany(INSERT, rows)
        self.rows += buckets.renew(self._connection, self.root, span)
        self._bucket = last + 1
        done = self._bucket == BUCKETS
        if done or len(self._counts) >= ROWS_SORTED:
            self._sorter.add((*key, count) for key, count in self._counts.items())
            self._counts = Counter()
        if done:
            buckets.written(self._connection)
            self._sorted = self._sorter.merged()
        return not done

    def _count(self) -> bool:
        """Count some rows; before that nothing is counted, so that no row that goes is taken off."""
        counted = list(islice(self._sorted, ROWS_PER_PART))
        counts: Counter[supply.Key] = Counter()
        for miner, model, chute, count in counted:
            counts[miner, model, chute or None] += count
        supply.add(self._connection, counts)
        return bool(counted)

    def _tidy(self) -> bool:
        """Forget of some GPUs that several claims name which of these has the row."""
        query = "SELECT uuid, claim FROM claim_gpu WHERE (uuid, claim) > (?, ?) ORDER BY uuid, claim LIMIT ?"
        named = self._connection.execute(query, (*self._named, NAMED_PER_PART)).fetchall()
        rows = self._facts.held_rows({uuid for uuid, _ in named})
        told = [(uuid, key) for uuid, key in named if uuid in rows and rows[uuid][0] == key]
        self._connection.executemany("DELETE FROM claim_gpu WHERE uuid = ? AND claim = ?", told)
        self._named = named[-1] if named else _NONE
        return bool(named)

    def _next_rows(self) -> tuple[int, list[tuple[Any, ...]]]:
        """The last bucket of the next part, and all rows that its buckets are to have, in order."""
        enough = self._connection.execute(
            "SELECT bucket FROM node WHERE bucket >= ? ORDER BY bucket, uuid LIMIT 1 OFFSET ?",
            (self._bucket, ROWS_PER_PART - 1),
        ).fetchone()
        last = BUCKETS - 1 if enough is None else enough[0]
        rows: list[tuple[Any, ...]] = []
        for row in chain(self._rows, self._sorted):
            bucket, _ = _KEY(row)
            if bucket > last:
                self._rows = [row]  # of the next part
                break
            rows.append(row)
            if len(rows) == ROWS_PER_PART:
                last = bucket
        else:
            self._rows = []
        return last, rows
