"""Databases in files, as daemons that are stopped leave them, and what a disk or another program does to them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from p2pnodes.model.events import Event
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.support import NETWORK, NOW_MS, electorate


def keep(path: Path, events: Sequence[Event]) -> Path:
    """Write a database that holds some events; its path."""
    with closing(open_writer(path)) as connection:
        ledger = Ledger(connection, NETWORK)
        with ledger.transaction():
            ledger.set_electorate(electorate())
            ledger.receive(events, NOW_MS)
    return path


def change(path: Path, statement: str, *values: object, several: bool = False) -> None:
    """Change one row of a database, or ``several``; AssertionError where none is changed, or another number."""
    with closing(sqlite3.connect(path)) as connection, connection:
        changed = connection.execute(statement, values).rowcount
        assert changed > 0 if several else changed == 1, changed


def full(*_: object, **__: object) -> NoReturn:
    """What becomes of whatever SQLite is asked for on a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error
