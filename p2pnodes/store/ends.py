"""The proofs of where logs end, in the database: each log's lowest fork, and each hotkey's lowest close of it.

They are primary data like events: no table is derived from anything else that is known of them, for a proof may come
without an event, before its log, or in an event that counts for nothing.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from p2pnodes.model.branches import Ends, closing_order
from p2pnodes.model.events import Close, Evidence, Head, Header, LogId

_KEEP_FORK: Final = """
INSERT INTO fork VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    seq = excluded.seq, seen_ms = excluded.seen_ms, first = excluded.first, first_signature = excluded.first_signature,
    second = excluded.second, second_signature = excluded.second_signature
WHERE excluded.seq < fork.seq RETURNING seq
"""
_FORK: Final = "SELECT first, first_signature, second, second_signature FROM fork WHERE node_key = ? AND number = ?"
_CLOSING: Final = (
    "SELECT node_key, number, hotkey, seq, id, signature FROM closing WHERE node_key = ? AND number = ? AND hotkey = ?"
)
# By the logs, which are bounded: proofs of other logs can be as many as events.
_FORKS: Final = (
    "SELECT node_key, number, first, first_signature, second, second_signature"
    " FROM logs CROSS JOIN fork USING (node_key, number)"
)
_CLOSINGS: Final = (
    "SELECT node_key, number, hotkey, seq, id, signature FROM logs CROSS JOIN closing USING (node_key, number, hotkey)"
)


def keep(connection: sqlite3.Connection, proof: Evidence | Close, seen_ms: int) -> bool:
    """Record a proof that was checked; in the writer's transaction.

    Args:
        connection: The writer's.
        proof: Evidence, or a close by whatever hotkey.
        seen_ms: When it was first told, Unix milliseconds.

    Returns:
        Whether it is lower than what was known.
    """
    if isinstance(proof, Evidence):
        header = Header.decode(proof.first)
        values = (*header.log, header.seq, *proof, seen_ms)
        return connection.execute(_KEEP_FORK, values).fetchone() is not None
    held = connection.execute(_CLOSING, (*proof.log, proof.hotkey)).fetchone()
    if held is not None and closing_order(_close(held)) <= closing_order(proof):
        return False
    connection.execute(
        "INSERT OR REPLACE INTO closing VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*proof.log, proof.hotkey, *(proof.head or (None, None)), proof.signature, seen_ms),
    )
    return True


def of_log(connection: sqlite3.Connection, log: LogId, hotkey: bytes) -> Ends:
    """What is known of the end of a log that speaks for ``hotkey``."""
    fork = connection.execute(_FORK, log).fetchone()
    closing = connection.execute(_CLOSING, (*log, hotkey)).fetchone()
    return Ends(None if fork is None else Evidence(*fork), None if closing is None else _close(closing))


def of_all(connection: sqlite3.Connection) -> dict[LogId, Ends]:
    """What is known of the ends of the logs that are held, of those that have any."""
    found = {LogId(node_key, number): Ends(Evidence(*proof)) for node_key, number, *proof in connection.execute(_FORKS)}
    for row in connection.execute(_CLOSINGS):
        close = _close(row)
        found[close.log] = found.get(close.log, Ends())._replace(close=close)
    return found


def _close(row: Sequence[Any]) -> Close:
    node_key, number, hotkey, seq, event_id, signature = row
    return Close(LogId(node_key, number), None if seq is None else Head(seq, event_id), hotkey, signature)
