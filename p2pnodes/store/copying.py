"""A copy of a database while its daemon writes: one consistent state, made inside SQLite.

The copy is made in small steps inside one read transaction. That is what a write-ahead log allows: the writer goes on,
and what it commits meanwhile is not in the copy. Without the transaction SQLite's backup would begin anew with every
commit, and never end beside a busy writer. The price is that the write-ahead log cannot be emptied meanwhile.
"""

import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.store.directory import status_of
from p2pnodes.store.schema import CHECK, REFILL, TEMPORARY, open_reader, what_to_do

PAGES_PER_STEP: Final = 1_024
"""Pages of 4 KiB that are copied between two reports of progress: some milliseconds."""

_CHECK_PATH: Final = "expected a daemon's p2pnodes.db: check the path"


def is_there(path: Path) -> bool:
    """Whether there is a file at a path.

    Raises:
        StoreError: This user may not look there, or something else stands there.
    """
    try:
        status = status_of(path)
    except OSError as error:
        advice = "run this as the daemon's user" if isinstance(error, PermissionError) else "check the path"
        raise StoreError(
            f"{path}: cannot be looked for ({error.strerror}); {advice}", code=Code.DATA_UNREADABLE
        ) from error
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: no p2pnodes database (it is no file); {_CHECK_PATH}", code=Code.DATA_MISSING)
    return status is not None


def open_ours(path: Path) -> sqlite3.Connection:
    """Open a p2pnodes database to read, for one thread; the daemon may run meanwhile.

    Raises:
        StoreError: No such file, not a p2pnodes database, or unreadable.
    """
    if not is_there(path):
        raise StoreError(f"{path}: no such database; give the daemon's data directory", code=Code.DATA_MISSING)
    source = open_reader(path)
    try:
        if not source.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            raise StoreError(f"{path}: no p2pnodes database (it has no events); {_CHECK_PATH}", code=Code.DATA_MISSING)
    except BaseException as error:
        source.close()
        if isinstance(error, sqlite3.Error):
            raise _unreadable(path, error) from error
        raise
    return source


def copy_database(
    path: Path, target: sqlite3.Connection, progress: Callable[[int, int], None] | None = None, *, into: str = TEMPORARY
) -> None:
    """Copy a p2pnodes database; the daemon may run meanwhile.

    Args:
        path: The SQLite file.
        target: A database, which becomes the copy. Memory stays bounded by its cache.
        progress: If given, called now and then with pages copied and pages in all.
        into: Where ``target`` is, for whoever has to make room there.

    Raises:
        StoreError: No such file, not a p2pnodes database, unreadable, or no room for the copy.
    """
    source = open_ours(path)
    try:
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM sqlite_master").fetchone()  # the transaction sees one state from here on
        report = None if progress is None else _report(progress)
        source.backup(target, pages=PAGES_PER_STEP, progress=report)
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StoreError(
                f"{path}: there is no room for a copy in {into} ({error}); make room there", code=Code.DATA_DISK_LOW
            ) from error
        raise _unreadable(path, error) from error
    finally:
        source.close()


def _unreadable(path: Path, error: sqlite3.Error) -> StoreError:
    """What is told of a database that SQLite cannot read."""
    if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return StoreError(f"{path}: no p2pnodes database ({error}); {_CHECK_PATH}, or {REFILL}", code=Code.DATA_MISSING)
    if error.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN:
        return StoreError(
            f"{path}: cannot be opened ({error}); run this as the daemon's user", code=Code.DATA_UNREADABLE
        )
    return StoreError(f"{path}: cannot be read: {error}{what_to_do(error, CHECK)}", code=Code.DATA_UNREADABLE)


def _report(progress: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    return lambda _, remaining, total: progress(total - remaining, total)
