"""Indexes that are taken away while a live set comes to a newcomer, and laid over its rows when these are here.

A row that comes writes a page of each index, at random; laid over all rows an index is sorted and written once. Nothing
that loads looks for anything in these. Whoever does meanwhile, for operators, reads the tables instead.

What an index is, is said by the migrations alone: of those that are away the database keeps what it said of them, so
that any start can lay them.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final, cast

from p2pnodes.model import codec

LIFTED: Final = ("claim_miner", "claim_open", "claim_pending", "node_open", "placement_of")
"""By what claims, rows and places are found beside their keys."""

SORTED_KIB: Final = 8_192
"""What SQLite sorts of an index at once, in memory of its own, and what it keeps of the database meanwhile: as much as
the cache may hold, which is 64 MiB at other times."""

_AWAY: Final = "indexes_away"
"""Key in ``meta``: SQL of each that is to be laid, msgpack; it is there while any is away."""


def lift(connection: sqlite3.Connection) -> None:
    """Take away those that are there; call inside a transaction, while there are few rows."""
    query = f"SELECT name, sql FROM sqlite_master WHERE name IN ({', '.join('?' * len(LIFTED))}) ORDER BY name"  # noqa: S608 - no values
    there = connection.execute(query, LIFTED).fetchall()
    _note(connection, [*away(connection), *(sql for _, sql in there)])
    for name, _ in there:
        connection.execute(f"DROP INDEX {name}")


def away(connection: sqlite3.Connection) -> Sequence[str]:
    """SQL of those that are to be laid."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_AWAY,)).fetchone()
    return () if row is None else cast("list[str]", codec.unpack(row[0]))


def lay(connection: sqlite3.Connection) -> bool:
    """Lay one of them; call inside a transaction. Over a million rows it takes 0.2 to 0.8 s, with its commit up to 2 s.

    Returns:
        Whether there was one.
    """
    named = away(connection)
    if not named:
        return False
    (before,) = connection.execute("PRAGMA cache_size").fetchone()
    connection.execute(f"PRAGMA cache_size = -{SORTED_KIB}")
    try:
        connection.execute(named[0])
    finally:
        connection.execute(f"PRAGMA cache_size = {before}")
    _note(connection, named[1:])
    return True


def lay_all(connection: sqlite3.Connection) -> None:
    """Lay all of them; call outside a transaction."""
    while away(connection):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            lay(connection)


def _note(connection: sqlite3.Connection, sqls: Sequence[str]) -> None:
    if sqls:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_AWAY, codec.pack(sqls)))
    else:
        connection.execute("DELETE FROM meta WHERE key = ?", (_AWAY,))
