"""The upkeep of tallies, rows and state root: what the ledger's open transaction touched follows before it commits."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Final

from p2pnodes.model.inventory import Row, Weights
from p2pnodes.model.stateroot import Root, StateRoot, bucket_of
from p2pnodes.store import buckets, supply
from p2pnodes.store.changes import ChangeCollector
from p2pnodes.store.facts import Facts
from p2pnodes.store.parts import batched
from p2pnodes.store.recount import Applied
from p2pnodes.store.reweighed import UUID_LAST, Reweighed, windows
from p2pnodes.store.rows import (
    COUNTED,
    INSERT,
    VARYING,
    Decision,
    Difference,
    compare,
    decide,
    lost,
    turned,
    values,
    varying,
)
from p2pnodes.store.unsettled import Unsettled

GPUS_PER_READ: Final = 512
"""GPUs whose facts are read at once when rows are settled: few statements, bounded memory."""

_UPDATE: Final = f"UPDATE node SET {', '.join(f'{column} = ?' for column in VARYING)} WHERE bucket = ? AND uuid = ?"  # noqa: S608


class Upkeep:
    """Keeps the inventory in step with facts and weights, a difference at a time.

    Attributes:
        rows: How many rows there are.
        weights: Those that tallies and rows were settled by last.
    """

    def __init__(self, facts: Facts, unsettled: Unsettled, changes: ChangeCollector, weights: Weights) -> None:
        """Take up what is stored.

        Args:
            facts: What rows follow from, on the writer's connection.
            unsettled: What is to be settled.
            changes: Where it is noted for the followers.
            weights: By which all that is stored was settled.
        """
        self._connection: sqlite3.Connection = facts.connection
        self._facts = facts
        self._unsettled = unsettled
        self._changes = changes
        self._held = buckets.load(self._connection)
        self.rows = self._held.rows
        self.weights = weights

    @property
    def root(self) -> Root:
        """The state root of the rows."""
        return self._held.root.now()

    def settle(self, weights: Weights) -> dict[str, None]:
        """Settle what is marked; the GPUs that were decided anew."""
        marks = self._unsettled
        recounted = self._settle_tallies(batched(marks.claims, GPUS_PER_READ), weights)
        touched = marks.uuids | marks.placed | dict.fromkeys(self._named(recounted))
        self._settle_rows(touched, recounted | marks.recounted, weights)
        return touched

    def settle_reweighed(self, weights: Weights) -> None:
        """Settle what is marked, and what other weights than those of before can change."""
        marks = self._unsettled
        reweighed = Reweighed(self._facts, self.weights, weights)
        recounted = self._settle_tallies(batched(marks.claims, GPUS_PER_READ), weights)
        stirred: set[int] = set()
        for window in windows(reweighed):
            recounted |= self._settle_tallies([window.tallies], weights)
            stirred.update(window.stirred)
        touched = marks.uuids | marks.placed | dict.fromkeys(reweighed.gpus("", UUID_LAST))
        self._settle_rows(chain(touched, self._named(sorted(recounted | stirred))), recounted, weights)

    def replace(self, root: StateRoot, rows: int) -> None:
        """Go on from rows that were all decided anew (``store.settling``): followers read them anew."""
        self._held, self.rows = buckets.Held(root, rows, {}), rows
        self._changes.give_up()

    def take_over(self, applied: Applied) -> None:
        """Go on from what a recount put in force; what it leaves unsettled is marked."""
        self.rows += applied.grown
        buckets.change(self._connection, self._held, applied.buckets)
        self._unsettled.claims |= applied.claims
        self._unsettled.placed |= dict.fromkeys(applied.uuids)
        self._unsettled.recounted = applied.recounted

    def decided(self, weights: Weights) -> Iterator[Row]:
        """Every row as f decides it, in order of uuids, computed anew and not read."""
        for part in batched(self._facts.gpus(), GPUS_PER_READ):
            for decision in decide(
                self._facts, part, lambda keys: self._facts.tallies(keys, weights), weights
            ).values():
                if decision.row is not None:
                    yield decision.row

    def _named(self, keys: Iterable[int]) -> Iterator[str]:
        """The GPUs that claims name."""
        for part in batched(keys, GPUS_PER_READ):
            for _, _, uuids in self._facts.held_tallies(part):
                yield from uuids

    def _settle_tallies(self, parts: Iterable[Collection[int]], weights: Weights) -> set[int]:
        """Recount claims and record the tallies that differ; the claims whose tallies did."""
        changed: set[int] = set()
        for part in parts:
            found = self._facts.tallies(part, weights)
            for key, held, _ in self._facts.held_tallies(part):
                if held != found[key]:
                    self._connection.execute(
                        "UPDATE claim SET status = ?, since = ?, detail = ? WHERE claim = ?", (*found[key], key)
                    )
                    changed.add(key)
        return changed

    def _settle_rows(self, uuids: Iterable[str], recounted: AbstractSet[int], weights: Weights) -> None:
        """Decide GPUs anew, write the rows that differ, and rehash their buckets.

        Args:
            uuids: The GPUs, best those of one claim one after the other: then each claim and body is read once.
            recounted: Claims whose tallies changed.
            weights: Who counts.
        """
        changed: set[int] = set()
        for part in batched(uuids, GPUS_PER_READ):
            held = self._facts.held_rows(part)
            decided = decide(self._facts, dict.fromkeys(part), self._facts.recorded, weights, held)
            found = compare(decided, held)
            self._write_naming(decided, found)
            self._write_rows(found)
            self.rows += found.grown
            changed.update(map(bucket_of, found.gone), map(bucket_of, found.written))
            self._note_changes(decided, found, recounted, weights)
        buckets.change(self._connection, self._held, sorted(changed))

    def _write_naming(self, decided: Mapping[str, Decision], found: Difference) -> None:
        """Record which claims name some GPUs beside those that have the rows."""
        facts = self._facts
        fresh = {uuid: facts.fresh.pop(uuid) for uuid in decided if uuid in facts.fresh}
        self._connection.executemany(
            "DELETE FROM claim_gpu WHERE uuid = ? AND claim = ?",
            [(each.row.uuid, each.claim) for each in found.new if each.claim not in fresh.get(each.row.uuid, ())],
        )
        others = [(uuid, key) for uuid, keys in fresh.items() for key in keys if key != decided[uuid].owner]
        self._connection.executemany("INSERT INTO claim_gpu VALUES (?, ?)", [*found.left.items(), *others])

    def _write_rows(self, found: Difference) -> None:
        self._connection.executemany(
            "DELETE FROM node WHERE bucket = ? AND uuid = ?", [(bucket_of(uuid), uuid) for uuid in found.left]
        )
        self._connection.executemany(
            _UPDATE, [(*varying(each), bucket_of(each.row.uuid), each.row.uuid) for each in found.changed]
        )
        new = list(values(self._facts, found.new))
        self._connection.executemany(INSERT, new)
        supply.add(self._connection, Counter(map(COUNTED, new)))

    def _note_changes(
        self, decided: Mapping[str, Decision], found: Difference, recounted: AbstractSet[int], weights: Weights
    ) -> None:
        """Note for the followers what became of some GPUs.

        Args:
            decided: Each GPU that was looked at, as it is now.
            found: How their rows changed.
            recounted: Claims whose tallies changed.
            weights: Who counts now.
        """
        electorates = self.weights.electorate, weights.electorate
        others = turned(decided, found, recounted, None if electorates[0] is electorates[1] else electorates)
        touched = (self._unsettled.uuids.keys() & decided).union(others)
        claims = [key for uuid in touched for key in decided[uuid].claims]
        self._changes.add(lost(self._facts, decided, found.left), found.written, claims)
