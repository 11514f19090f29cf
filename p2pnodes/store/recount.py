"""An electorate changes beside the rows that are held, a slice at a time, so that writes go on meanwhile.

A recount walks over all claims, and then over the GPUs of those that the new weights can change (``store.reweighed``),
and asks what they are under them. What differs from what is held it keeps in a private database (SQLite's
``ATTACH ''``: a temporary file that no other process sees, gone with the connection). Until the switch nobody is told
any of it, and everything is the old electorate's. What writes touch meanwhile is remembered and looked at once more.
The switch is one transaction of the ledger: a few statements over whole sets put in force what was kept, and the
little that was touched last is settled as ever.

A tally or row that is kept here is right for as long as no write touches its claim or GPU: it follows from their facts
and from weights that stay. Where these change once more (a delegation can enrol somebody) the recount begins anew.
"""

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import chain, islice
from typing import Final, NamedTuple, TypeVar

import orjson

from p2pnodes.model.inventory import Tally, Weights
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store import rows, supply
from p2pnodes.store.changes import CHANGES_MAX, ChangeCollector, Gone
from p2pnodes.store.facts import Facts
from p2pnodes.store.reweighed import Reweighed
from p2pnodes.store.schema import FAILURES

T = TypeVar("T")

PART: Final = 64
"""Claims or GPUs that are looked at between two looks at the clock: some milliseconds with twenty voters."""

LEFT_MAX: Final = 128
"""Touched claims and GPUs that are left to the switch: up to 100 ms, as a claim names ten GPUs at most."""

CATCH_UPS_MAX: Final = 1_024
"""Parts of touched claims and GPUs after which the switch comes, whatever is left: writes touch more all the time."""

BACKLOG_MAX: Final = 65_536
"""Touched claims and GPUs that are remembered, some 10 MB: more make the recount hopeless."""

RESTARTS_MAX: Final = 3
"""How often a recount begins anew; weights that change more often make it hopeless."""

_STAYS, _GONE, _CHANGED, _NEW = range(4)
"""What becomes of a row (see ``rows.Difference``); where it stays, only tasks are told to be others."""

_TABLES: Final = {
    "tally": "(claim INTEGER PRIMARY KEY, status TEXT NOT NULL, since INTEGER, detail TEXT NOT NULL)",
    "stirred": "(claim INTEGER PRIMARY KEY)",  # see ``reweighed.Claims``
    "gpu": (
        "(bucket INTEGER NOT NULL, uuid TEXT NOT NULL,"  # of the types that they have in ``node``: else no index serves
        f" {', '.join(column for column in rows.COLUMNS if column not in {'bucket', 'uuid'})},"
        " change INTEGER NOT NULL,"
        " grown INTEGER NOT NULL DEFAULT 0,"  # rows more than before
        " turned INTEGER NOT NULL,"  # see ``rows.turned``
        " loser BLOB,"  # the miner who loses the row
        " PRIMARY KEY (bucket, uuid)) WITHOUT ROWID"
    ),
}
_VARYING: Final = ", ".join(rows.VARYING)
_COLUMNS: Final = ", ".join(rows.COLUMNS)


class Applied(NamedTuple):
    """What a recount put in force, and what it leaves to be settled.

    Attributes:
        grown: Rows that there are more.
        buckets: Those of the state root in which rows changed.
        claims: Claims that were touched last: their tallies are left.
        uuids: GPUs that were touched last, or are named by these claims: their rows are left.
        recounted: Claims on these GPUs whose tallies were put in force.
    """

    grown: int
    buckets: list[int]
    claims: set[int]
    uuids: set[str]
    recounted: set[int]


class Recount:
    """What everything is under other weights, as far as it is known. Belongs to the writer's thread.

    Call ``advance`` until it is ``ready``, and ``touch`` with what is written meanwhile; then ``apply``. In the end,
    whatever happened, ``close``. ``weights``, ``done`` and ``of`` may be read in any thread.
    """

    def __init__(self, connection: sqlite3.Connection, weights: Weights) -> None:
        """Make room beside a database; call outside of transactions.

        Args:
            connection: The writer's.
            weights: Those that are to be in force.
        """
        self.weights = weights
        self.done = 0
        """Claims that were looked at, and once more those whose GPUs were."""
        self.of = 0
        """What ``done`` comes to, as far as it is known: at first all claims."""
        self._connection = connection
        self._reweighed: Reweighed | None = None
        """What the weights can change; None while the tables are not clear."""
        self._restarts = 0
        if "recount" not in {name for _, name, _ in connection.execute("PRAGMA database_list")}:
            connection.execute("ATTACH '' AS recount")
            connection.execute("PRAGMA recount.journal_mode = MEMORY")
        self._begin()

    def close(self) -> None:
        """Forget everything; call outside of transactions."""
        with suppress(*FAILURES):  # a statement that failed may hold it still: the next one takes over
            self._connection.execute("DETACH recount")

    @property
    def ready(self) -> bool:
        """Whether everything was looked at, and little enough was touched since."""
        return self._decided and (self._backlog <= LEFT_MAX or self._catch_ups >= CATCH_UPS_MAX)

    @property
    def hopeless(self) -> bool:
        """Whether it cannot keep up with what is written, so that the change must be one transaction."""
        return self._restarts > RESTARTS_MAX or self._backlog > BACKLOG_MAX

    def weigh(self, weights: Weights) -> None:
        """Go on with other weights of the same electorate; begin anew if they weigh otherwise."""
        if not weights.same_votes(self.weights):
            self.restart()
        self.weights = weights

    def restart(self) -> None:
        """Begin anew."""
        self._restarts += self._reweighed is not None
        self._begin()

    def touch(self, claims: Iterable[int], uuids: Iterable[str], placed: Iterable[str] = ()) -> None:
        """Remember what a write touched, as far as it was looked at already.

        Args:
            claims: Claims about which something else is stored than before.
            uuids: GPUs of which the same is true, and those whose claims have other tallies.
            placed: Those of them on which something was placed or released: that touches no claim, and its claim may
                have been looked at.
        """
        self._claims.update(key for key in claims if self._counted or key <= self._claim)
        self._uuids.update(placed)
        if self._counted:
            self._uuids.update(uuids)

    def advance(self, facts: Facts, before: Weights) -> None:
        """Do one more part; call inside a transaction that writes nothing else.

        Args:
            facts: What is stored.
            before: The weights that what is held was computed with.
        """
        if self._reweighed is None:
            self._clear()
            self._reweighed = Reweighed(facts, before, self.weights)
        elif not self._counted:
            self._count_next(facts, self._reweighed)
        elif not self._decided and self._backlog <= BACKLOG_MAX // 2:
            self._decide_next(facts, self._reweighed, before)
        else:
            self._catch_ups += self._decided
            if self._claims:
                self._count_again(facts, _some(self._claims))
            else:
                self._keep_rows(facts, _some(self._uuids), before)

    def apply(self, facts: Facts, changes: ChangeCollector) -> Applied:
        """Put all but what was touched last in force; call inside the transaction of the switch.

        Args:
            facts: What is stored.
            changes: Notes what the inventory's readers see otherwise.
        """
        uuids = self._uuids.union(*(named for *_, named in facts.held_tallies(self._claims)))
        self._discard_tallies(self._claims)
        self._discard_rows(uuids)
        self._note(changes)
        execute = self._connection.execute
        execute(
            "UPDATE claim SET (status, since, detail) ="
            " (SELECT status, since, detail FROM recount.tally kept WHERE kept.claim = claim.claim)"
            " WHERE claim IN (SELECT claim FROM recount.tally)"
        )
        execute(
            "INSERT INTO claim_gpu SELECT uuid, node.claim FROM recount.gpu"
            " CROSS JOIN node USING (bucket, uuid) WHERE change IN (?, ?)",
            (_GONE, _NEW),
        )
        execute(
            "DELETE FROM claim_gpu WHERE (uuid, claim) IN (SELECT uuid, claim FROM recount.gpu WHERE change = ?)",
            (_NEW,),
        )
        execute(
            "DELETE FROM node WHERE (bucket, uuid) IN (SELECT bucket, uuid FROM recount.gpu WHERE change IN (?, ?))",
            (_GONE, _NEW),
        )
        execute(
            f"UPDATE node SET {', '.join(f'{column} = kept.{column}' for column in rows.VARYING)}"  # noqa: S608 - our own names
            " FROM recount.gpu kept WHERE kept.change = ? AND kept.bucket = node.bucket AND kept.uuid = node.uuid",
            (_CHANGED,),
        )
        execute(
            f"INSERT INTO node ({_COLUMNS}) SELECT {_COLUMNS} FROM recount.gpu WHERE change = ?",  # noqa: S608
            (_NEW,),
        )
        supply.add_from(self._connection, f"recount.gpu WHERE change = {_NEW}")
        (grown,) = execute("SELECT coalesce(sum(grown), 0) FROM recount.gpu").fetchone()
        buckets = [key for (key,) in execute("SELECT DISTINCT bucket FROM recount.gpu WHERE change <> ?", (_STAYS,))]
        recounted = execute(
            "SELECT claim FROM recount.tally WHERE claim IN (SELECT value FROM json_each(?))",
            (_json({key for _, key in facts.naming(uuids)}),),
        )
        return Applied(grown, buckets, self._claims, uuids, {key for (key,) in recounted})

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def _backlog(self) -> int:
        return len(self._claims) + len(self._uuids)

    def _begin(self) -> None:
        self._reweighed = None
        self._counted = self._decided = False  # all claims are; all GPUs are
        self._claim = self._decided_claim = 0  # the last ones that were looked at: row keys and uuids lie above
        self._uuid = ""
        self._claims: set[int] = set()
        self._uuids: set[str] = set()
        self._catch_ups = 0
        self.done = 0

    def _clear(self) -> None:
        for table, content in _TABLES.items():
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS recount.{table} {content}")
            self._connection.execute(f"DELETE FROM recount.{table}")  # noqa: S608 - a name of our own
        (self.of,) = self._connection.execute("SELECT count(*) FROM claim").fetchone()

    def _count_next(self, facts: Facts, reweighed: Reweighed) -> None:
        window = reweighed.claims(self._claim)
        self._keep_tallies(facts, window.tallies)
        self._connection.executemany("INSERT INTO recount.stirred VALUES (?)", [(key,) for key in window.stirred])
        self._claim = window.last
        self.done += window.size
        if not window.size:
            self._counted = True
            query = "SELECT count(*) FROM (SELECT claim FROM recount.tally UNION SELECT claim FROM recount.stirred)"
            self.of = self.done + self._connection.execute(query).fetchone()[0]

    def _decide_next(self, facts: Facts, reweighed: Reweighed, before: Weights) -> None:
        """Look at the GPUs of some claims; behind the last one, at GPUs on which other words count than before."""
        part = self._connection.execute(
            "SELECT claim FROM recount.tally WHERE claim > ?1 UNION SELECT claim FROM recount.stirred WHERE claim > ?1"
            " ORDER BY claim LIMIT ?2",
            (self._decided_claim, PART),
        ).fetchall()
        if part:
            keys = [key for (key,) in part]
            self._keep_rows(facts, dict.fromkeys(chain(*(named for *_, named in facts.held_tallies(keys)))), before)
            self._decided_claim = keys[-1]
            self.done += len(keys)
            return
        last = reweighed.window(self._uuid)
        if last is None:
            self._decided = True
            return
        self._keep_rows(facts, reweighed.gpus(self._uuid, last), before)
        self._uuid = last

    def _count_again(self, facts: Facts, keys: list[int]) -> None:
        """Count claims that were touched, and have all their GPUs looked at again."""
        self._discard_tallies(keys)
        self.touch((), self._keep_tallies(facts, keys))

    # -- keeping -----------------------------------------------------------------------------------------------------

    def _keep_tallies(self, facts: Facts, keys: Collection[int]) -> list[str]:
        """Keep the tallies of claims of which nothing is kept; the GPUs that they name."""
        if not keys:
            return []
        found = facts.tallies(keys, self.weights)
        named: list[str] = []
        for key, held, uuids in facts.held_tallies(keys):
            named += uuids
            if held != found[key]:
                self._connection.execute("INSERT INTO recount.tally VALUES (?, ?, ?, ?)", (key, *found[key]))
        return named

    def _keep_rows(self, facts: Facts, uuids: Collection[str], before: Weights) -> None:
        """Keep what becomes of GPUs' rows, instead of what was kept of them."""
        if not uuids:
            return
        self._discard_rows(uuids)
        kept: dict[int, Tally] = {}

        def tallies_of(keys: Collection[int]) -> dict[int, Tally]:
            kept.update(self._kept_tallies(keys))
            return facts.recorded(keys) | kept

        held = facts.held_rows(uuids)
        decided = rows.decide(facts, uuids, tallies_of, self.weights, held)
        found = rows.compare(decided, held)
        turned = set(rows.turned(decided, found, kept.keys(), (before.electorate, self.weights.electorate)))
        losers = {gone.uuid: gone.miner for gone in rows.lost(facts, decided, found.left)}
        insert = self._connection.executemany
        insert(
            "INSERT INTO recount.gpu (bucket, uuid, change, grown, turned, loser) VALUES (?, ?, ?, -1, ?, ?)",
            [(bucket_of(uuid), uuid, _GONE, uuid in turned, losers[uuid]) for uuid in found.gone],
        )
        insert(
            f"INSERT INTO recount.gpu ({_VARYING}, bucket, uuid, change, turned)"  # noqa: S608 - names of our own schema
            f" VALUES ({_marks(rows.VARYING)}, ?, ?, ?, ?)",
            [
                (*rows.varying(each), bucket_of(each.row.uuid), each.row.uuid, _CHANGED, each.row.uuid in turned)
                for each in found.changed
            ],
        )
        insert(
            f"INSERT INTO recount.gpu ({_COLUMNS}, change, grown, turned, loser)"  # noqa: S608 - names of our own schema
            f" VALUES ({_marks(rows.COLUMNS)}, ?, ?, ?, ?)",
            [
                (*values, _NEW, each.row.uuid not in found.left, each.row.uuid in turned, losers.get(each.row.uuid))
                for each, values in zip(found.new, rows.values(facts, found.new), strict=True)
            ],
        )
        insert(
            "INSERT OR IGNORE INTO recount.gpu (bucket, uuid, change, turned) VALUES (?, ?, ?, 1)",
            [(bucket_of(uuid), uuid, _STAYS) for uuid in turned],
        )

    def _kept_tallies(self, keys: Collection[int]) -> dict[int, Tally]:
        query = "SELECT claim, status, since, detail FROM recount.tally WHERE claim IN (SELECT value FROM json_each(?))"
        return {key: Tally(*tally) for key, *tally in self._connection.execute(query, (_json(keys),))}

    def _discard_tallies(self, keys: Collection[int]) -> None:
        self._connection.executemany("DELETE FROM recount.tally WHERE claim = ?", [(key,) for key in keys])

    def _discard_rows(self, uuids: Collection[str]) -> None:
        self._connection.executemany(
            "DELETE FROM recount.gpu WHERE bucket = ? AND uuid = ?", [(bucket_of(uuid), uuid) for uuid in uuids]
        )

    def _note(self, changes: ChangeCollector) -> None:
        (told,) = self._connection.execute(
            "SELECT coalesce(sum((loser NOTNULL) + (change >= ?)), 0) FROM recount.gpu", (_CHANGED,)
        ).fetchone()
        if told > CHANGES_MAX:  # not one by one, then
            changes.give_up()
            return
        gone, nodes, claims = (
            islice(self._connection.execute(query), CHANGES_MAX + 1)  # that are too many already
            for query in (
                "SELECT uuid, loser FROM recount.gpu WHERE loser NOTNULL",
                f"SELECT uuid FROM recount.gpu WHERE change >= {_CHANGED}",  # noqa: S608 - our own number
                "SELECT on_it.claim FROM recount.gpu CROSS JOIN claim_gpu on_it USING (uuid) WHERE turned"  # noqa: ISC004
                " UNION SELECT node.claim FROM recount.gpu CROSS JOIN node USING (bucket, uuid) WHERE turned",
            )
        )
        changes.add([Gone(*each) for each in gone], [uuid for (uuid,) in nodes], [key for (key,) in claims])


def _some(items: set[T]) -> list[T]:
    """Take up to PART items out of a set."""
    return [items.pop() for _ in range(min(PART, len(items)))]


def _marks(columns: Collection[str]) -> str:
    return ", ".join("?" * len(columns))


def _json(keys: Collection[int] | Collection[str]) -> str:
    return orjson.dumps(list(keys)).decode()
