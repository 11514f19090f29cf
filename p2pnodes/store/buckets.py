"""The state root's buckets as the database keeps them, so that a start reads 65,536 hashes and not every row.

They are written with the rows that they cover, in the same transaction. ``of_rows`` computes them anew, for whoever
checks.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from p2pnodes.model.stateroot import StateRoot


class Held(NamedTuple):
    """What the rows of a database come to: their state root and how many they are."""

    root: StateRoot
    rows: int


def load(connection: sqlite3.Connection) -> Held:
    """What is kept."""
    root, total = StateRoot(), 0
    for bucket, rows, hashed in connection.execute("SELECT bucket, rows, hash FROM bucket"):
        root.load(bucket, hashed)
        total += rows
    return Held(root, total)


def of_rows(connection: sqlite3.Connection) -> Held:
    """The same by the digests that the rows bear, whatever is kept."""
    root, total = StateRoot(), 0
    for bucket, digests in _digests(connection.execute("SELECT bucket, digest FROM node ORDER BY bucket, uuid")):
        root.set_bucket(bucket, digests)
        total += len(digests)
    return Held(root, total)


def _digests(rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    for bucket, members in groupby(rows, itemgetter(0)):
        yield bucket, [digest for _, digest in members]


def renew(connection: sqlite3.Connection, root: StateRoot, span: range) -> int:
    """Take consecutive buckets into a state root and keep them, by the digests that their rows bear.

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
    found = dict(_digests(connection.execute(query, bounds)))
    save(connection, root, found)
    return sum(map(len, found.values()))


def save(connection: sqlite3.Connection, root: StateRoot, changed: Mapping[int, Sequence[bytes]]) -> None:
    """Take buckets into a state root and keep them.

    Args:
        connection: The writer's, inside the transaction that changes the rows.
        root: It follows.
        changed: Bucket -> the digests of its rows, in order of their uuids.
    """
    for bucket, digests in changed.items():
        root.set_bucket(bucket, digests)
    connection.executemany(
        "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)",
        [(bucket, len(digests), root.hash_of(bucket)) for bucket, digests in changed.items() if digests],
    )
    connection.executemany(
        "DELETE FROM bucket WHERE bucket = ?", [(bucket,) for bucket, digests in changed.items() if not digests]
    )
