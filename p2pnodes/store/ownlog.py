"""The own log, as the database of a daemon that does not run tells it.

A running daemon knows it better (``Ledger``); this is for commands that work on its machine meanwhile.
"""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Delegation, Head, LogId
from p2pnodes.model.keys import KEY_BYTES
from p2pnodes.store.checkpoints import cut_logs
from p2pnodes.store.copying import is_there
from p2pnodes.store.damage import stored_event
from p2pnodes.store.ledger import OWN_LOG
from p2pnodes.store.schema import open_reader, what_to_do


class OwnLog(NamedTuple):
    """The log of a node key that was opened last.

    Attributes:
        id: Node key and number.
        delegation: Its latest valid delegation; None without one.
        counted: Its last event that counts; None when none does.
        goes_on: Whether its daemon would write on in it: it is the one that was written last, and nothing ended it.
    """

    id: LogId
    delegation: Delegation | None
    counted: Head | None
    goes_on: bool


def read_own_log(path: Path, node_key: bytes) -> OwnLog | None:
    """The own log of a database; None when there is no database, or no log of this node key in it.

    Raises:
        StoreError: It cannot be read.
    """
    if not is_there(path):
        return None
    connection = open_reader(path)
    try:
        return _read(connection, node_key)
    except sqlite3.Error as error:
        raise StoreError(
            f"cannot read the database {path}: {error}{what_to_do(error)}", code=Code.DATA_UNREADABLE
        ) from error
    finally:
        connection.close()


def written_by(path: Path) -> bytes | None:
    """Node key of the log that a database wrote last; None where it wrote none, or there is no database.

    Raises:
        StoreError: It cannot be read.
    """
    if not is_there(path):
        return None
    try:
        connection = open_reader(path)
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                return None
            written = _written(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(
            f"cannot read the database {path}: {error}{what_to_do(error)}", code=Code.DATA_UNREADABLE
        ) from error
    return None if written is None else written.node_key


def _written(connection: sqlite3.Connection) -> LogId | None:
    """The log that the database wrote last."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (OWN_LOG,)).fetchone()
    if row is None:
        return None
    node_key, number = codec.fields(codec.unpack(row[0]), 2, "own log")
    return LogId(codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number"))


def _read(connection: sqlite3.Connection, node_key: bytes) -> OwnLog | None:
    found = connection.execute(
        "SELECT log, number, cut FROM logs WHERE node_key = ? ORDER BY number DESC LIMIT 1", (node_key,)
    ).fetchone()
    if found is None:
        return None
    log, number, cut = found
    counted = connection.execute(
        "SELECT seq, id FROM events WHERE log = ? AND seq < ifnull(?, seq + 1) ORDER BY seq DESC LIMIT 1", (log, cut)
    ).fetchone()
    delegated = connection.execute(
        "SELECT wire FROM events WHERE log = ? AND kind = 'delegate' AND judged AND void IS NULL "
        "ORDER BY seq DESC LIMIT 1",
        (log,),
    ).fetchone()
    own = LogId(node_key, number)
    entry = cut_logs(connection).get(own)
    if entry is not None and (counted is None or counted[0] < entry.head.seq):
        counted = entry.head
    return OwnLog(
        own,
        None if delegated is None else Delegation.from_wire(codec.unpack(stored_event(delegated[0]).payload)),
        None if counted is None else Head(*counted),
        cut is None and _written(connection) == own,
    )
