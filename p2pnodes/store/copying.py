"""A copy of a database while its daemon writes: one consistent state, made inside SQLite.

The copy is made in small steps inside one read transaction. That is what a write-ahead log allows: the writer goes on,
and what it commits meanwhile is not in the copy. Without the transaction SQLite's backup would begin anew with every
commit, and never end beside a busy writer. The price is that the write-ahead log cannot be emptied meanwhile.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.store.schema import REFILL, open_reader

PAGES_PER_STEP: Final = 1_024
"""Pages of 4 KiB that are copied between two reports of progress: some milliseconds."""

_CHECK_PATH: Final = "expected a daemon's p2pnodes.db: check the path"


def is_there(path: Path) -> bool:
    """Whether there is a database at a path.

    Raises:
        StoreError: This user may not look there.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise StoreError(
            f"{path}: cannot be looked for ({error.strerror}); run this as the daemon's user", code=Code.DATA_UNREADABLE
        ) from error
    return True


def copy_database(path: Path, target: sqlite3.Connection, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy a p2pnodes database; the daemon may run meanwhile.

    Args:
        path: The SQLite file.
        target: A database, which becomes the copy. Memory stays bounded by its cache.
        progress: If given, called now and then with pages copied and pages in all.

    Raises:
        StoreError: No such file, not a p2pnodes database, unreadable, or no room for the copy.
    """
    if not is_there(path):
        raise StoreError(f"{path}: no such database; give the daemon's data directory", code=Code.DATA_MISSING)
    source = open_reader(path)
    try:
        source.execute("BEGIN")
        (ours,) = source.execute("SELECT count(*) FROM sqlite_master WHERE name = 'events'").fetchone()
        if not ours:
            raise StoreError(f"{path}: no p2pnodes database (it has no events); {_CHECK_PATH}", code=Code.DATA_MISSING)
        report = None if progress is None else _report(progress)
        source.backup(target, pages=PAGES_PER_STEP, progress=report)
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreError(
                f"{path}: no p2pnodes database ({error}); {_CHECK_PATH}, or {REFILL}", code=Code.DATA_MISSING
            ) from error
        if error.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN:
            raise StoreError(
                f"{path}: cannot be opened ({error}); run this as the daemon's user", code=Code.DATA_UNREADABLE
            ) from error
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StoreError(
                f"{path}: there is no room for a copy ({error}); make room on the disk", code=Code.DATA_DISK_LOW
            ) from error
        raise StoreError(f"{path}: cannot be read: {error}; {REFILL}", code=Code.DATA_UNREADABLE) from error
    finally:
        source.close()


def _report(progress: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    return lambda _, remaining, total: progress(total - remaining, total)
