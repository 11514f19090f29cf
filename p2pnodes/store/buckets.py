"""The state root's buckets as the database keeps them, so that a start reads 65,536 hashes and not every row.

Rows change at random, and so would these hashes: a page of the database would be written for each bucket. A transaction
therefore only notes which buckets changed, in one place, and their hashes are written when thousands of them did, some
to each page. A start computes those anew that are not written. ``of_rows`` computes all, for whoever checks.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter
from typing import Final, NamedTuple

from p2pnodes.model.stateroot import BUCKETS, StateRoot
from p2pnodes.store.damage import REBUILD, damaged

BUCKETS_PER_READ: Final = 64
"""Buckets that are rehashed at once."""

UNWRITTEN_MAX: Final = 4_096
"""Buckets that changed since their hashes were written: five to a page of the database then. At 1,000,000 rows a start
computes so many anew in some 0.1 s."""


_TABLES: Final = ("bucket", "bucket_changed")
_STRAY: Final = f"bucket NOT BETWEEN 0 AND {BUCKETS - 1}"


class Held(NamedTuple):
    """What the rows of a database come to.

    Attributes:
        root: Their state root.
        rows: How many they are.
        unwritten: How many of them each bucket has whose hash is not written.
    """

    root: StateRoot
    rows: int
    unwritten: dict[int, int]


def load(connection: sqlite3.Connection) -> Held:
    """What is kept, and what it lacks by the digests that the rows bear.

    Raises:
        StoreError: It is damaged.
    """
    root, total = StateRoot(), 0
    changed = {bucket for (bucket,) in connection.execute("SELECT bucket FROM bucket_changed")}
    if any(connection.execute(f"SELECT 1 FROM {table} WHERE {_STRAY} LIMIT 1").fetchone() for table in _TABLES):  # noqa: S608 - ours
        raise damaged("a hash is kept of a bucket that there is not", REBUILD)
    for bucket, rows, hashed in connection.execute("SELECT bucket, rows, hash FROM bucket"):
        if bucket not in changed:
            root.load(bucket, hashed)
            total += rows
    unwritten = dict(_take(connection, root, changed))
    return Held(root, total + sum(unwritten.values()), unwritten)


def of_rows(connection: sqlite3.Connection) -> Held:
    """The same by the digests that the rows bear, whatever is kept."""
    root, total = StateRoot(), 0
    for bucket, digests in _digests(connection.execute("SELECT bucket, digest FROM node ORDER BY bucket, uuid")):
        root.set_bucket(bucket, digests)
        total += len(digests)
    return Held(root, total, {})


def renew(connection: sqlite3.Connection, root: StateRoot, span: range) -> int:
    """Take consecutive buckets into a state root and write their hashes, by the digests that their rows bear.

    Args:
        connection: The writer's, inside the transaction that changes the rows.
        root: It follows; of these buckets it knows nothing yet.
        span: The buckets.

    Returns:
        How many rows they have.
    """
    bounds = span[0], span[-1]
    connection.execute("DELETE FROM bucket WHERE bucket BETWEEN ? AND ?", bounds)
    query = "SELECT bucket, digest FROM node WHERE bucket BETWEEN ? AND ? ORDER BY bucket, uuid"
    rows: dict[int, int] = {}
    for bucket, digests in _digests(connection.execute(query, bounds)):
        root.set_bucket(bucket, digests)
        rows[bucket] = len(digests)
    _insert(connection, root, rows)
    return sum(rows.values())


def change(connection: sqlite3.Connection, held: Held, changed: Collection[int]) -> None:
    """Take buckets into the state root whose rows changed, and note that they did.

    Args:
        connection: The writer's, inside the transaction that changes the rows.
        held: It follows, but for ``rows``, which whoever changes them counts.
        changed: The buckets.
    """
    unwritten = held.unwritten
    noted = [(bucket,) for bucket in changed if bucket not in unwritten]
    connection.executemany("INSERT INTO bucket_changed VALUES (?)", noted)
    unwritten.update(_take(connection, held.root, changed))
    if len(unwritten) >= UNWRITTEN_MAX:
        write(connection, held)
        written(connection)
        unwritten.clear()


def write(connection: sqlite3.Connection, held: Held, table: str = "bucket") -> None:
    """Write the hashes that are not written into their table or a copy of it; an empty bucket has no row."""
    connection.execute(f"DELETE FROM {table} WHERE bucket IN (SELECT bucket FROM bucket_changed)")  # noqa: S608 - ours
    _insert(connection, held.root, held.unwritten, table)


def written(connection: sqlite3.Connection) -> None:
    """Note that all hashes are."""
    connection.execute("DELETE FROM bucket_changed")


def drop_strays(connection: sqlite3.Connection) -> Iterator[str]:
    """Forget what is kept of buckets that there are not, for who derives everything anew; what was wrong, in lines."""
    for table in _TABLES:
        gone = connection.execute(f"DELETE FROM {table} WHERE {_STRAY}").rowcount  # noqa: S608 - ours
        if gone:
            yield f"table {table}: {gone} rows are of buckets that there are not"


def _insert(connection: sqlite3.Connection, root: StateRoot, rows: Mapping[int, int], table: str = "bucket") -> None:
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?, ?)",  # noqa: S608 - ours
        [(bucket, rows[bucket], root.hash_of(bucket)) for bucket in sorted(rows) if rows[bucket]],
    )


def _take(connection: sqlite3.Connection, root: StateRoot, changed: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Take buckets into a state root by the digests that their rows bear; how many rows each of them has."""
    query = "SELECT bucket, digest FROM node WHERE bucket IN (SELECT value FROM json_each(?)) ORDER BY bucket, uuid"
    buckets = iter(sorted(changed))
    while part := list(islice(buckets, BUCKETS_PER_READ)):
        found = dict(_digests(connection.execute(query, (f"{part}",))))
        for bucket in part:
            digests = found.get(bucket, ())
            root.set_bucket(bucket, digests)
            yield bucket, len(digests)


def _digests(rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    for bucket, members in groupby(rows, itemgetter(0)):
        yield bucket, [digest for _, digest in members]
