"""``p2pnodes db prune``: what a data directory holds that nothing needs any more, and removing it.

What can go is what no rule keeps and no peer would send again:

- databases that ``restore`` put aside, once their operator had time to see that all is well (``COPY_DAYS_DEFAULT``);
- drafts of a ``restore`` that was killed (while there is no database, both may be all that is left of one, and stay);
- the write-ahead log of a database that nobody has open, and the pages in the database that hold nothing.

Everything else stays, and why:

- **Events**, void ones too: peers link up and compare logs whole, so a log with a hole is one that cannot be forwarded,
  and what is deleted here comes back with the next comparison.
- **Logs of hotkeys without a permit.** Nobody must store them, and nobody sends them again. But what they say counts
  again as soon as their hotkey has a permit again: a daemon without them would show other rows than its peers until it
  finds somebody who kept them. A request that only they carry may still wait to be carried. And whether a second branch
  of one is a fork can be told only by who holds the first.
- **Proofs of forks and closings**: they are kept for ever (design.md, rule 5).
- **Electorates**: there is one row, the last good one with the one before it for the grace.
- **Addresses of peers** are in delegations, and in memory.
- **The own book of checks**: an entry goes when its claim is checked or cannot be checked any more.
"""

import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.store.directory import sync
from p2pnodes.store.schema import open_reader, open_writer

FREE_BYTES_MIN: Final = 1 << 20
"""Free space within the database below which it is left: writing it anew costs more, and it is used again anyway."""

TEMPORARY: Final = ("/var/tmp", "/usr/tmp", "/tmp", ".")  # noqa: S108 - read, not written
"""Where SQLite makes temporary files, the first that is a directory and can be written, unless SQLITE_TMPDIR or TMPDIR
names one. Source: sqlite.org/tempfiles.html, section 5."""

FILES_MAX: Final = 10_000
"""Files of the data directory that are looked at."""

STEPS_BETWEEN_LOOKS: Final = 100_000
"""SQLite's instructions between two moments at which Ctrl-C is heard."""

MARK_FORMAT: Final = "%Y%m%dT%H%M%SZ"
"""How ``restore`` writes its time into the name of what it puts aside."""

_ASIDE: Final = re.compile(r"\.before-restore-(?P<mark>\d{8}T\d{6}Z)(?P<beside>-journal|-wal|-shm)?")
_BESIDE: Final = ("", "-journal", "-wal", "-shm")

What = Literal["copy", "draft", "write-ahead log", "free pages"]


class Item(NamedTuple):
    """One thing that can go.

    Attributes:
        what: Which kind of thing it is.
        path: The file, or the one that it is in.
        size_bytes: What goes with it; of free pages at least.
        stopped: Whether the daemon must be stopped for that.
    """

    what: What
    path: Path
    size_bytes: int
    stopped: bool


def copies(database: Path) -> list[tuple[Path, int, float]]:
    """What ``restore`` put aside beside a database: path, size in bytes, and when (Unix seconds), oldest first.

    A file that has another name, or is none, is somebody's own and not looked at.

    Raises:
        StoreError: The directory cannot be read.
    """
    found = []
    for path, size_bytes in _files(database.parent):
        name = _ASIDE.fullmatch(path.name.removeprefix(database.name))
        if name is None or not path.name.startswith(database.name):
            continue
        try:
            at = datetime.strptime(name["mark"], MARK_FORMAT).replace(tzinfo=UTC)
        except ValueError:  # digits that are no time
            continue
        # The database before what lies beside it: without its log it would still open, and lack what that holds.
        found.append((at.timestamp(), name["beside"] or "", path, size_bytes))
    return [(path, size_bytes, at_s) for at_s, _, path, size_bytes in sorted(found)]


def removable(
    database: Path, *, older_than_s: float, now_s: float, drafts: Sequence[Path] = (), stopped: bool = True
) -> Iterator[Item]:
    """What can go; nothing while there is no database: a restore that was killed may have left the only ones.

    Args:
        database: The SQLite file.
        older_than_s: Age in seconds from which a copy that was put aside may go.
        now_s: Wall clock, Unix seconds.
        drafts: Further files that a killed command may have left.
        stopped: Whether nobody holds the data directory: the drafts of whoever does are none of a killed command.

    Raises:
        StoreError: The directory or the database cannot be read.
    """
    sizes = dict(_files(database.parent)) | {path: size for draft in drafts for path, size in _files(draft.parent)}
    if database not in sizes:
        return
    for path, size_bytes, at_s in copies(database):
        if now_s - at_s >= older_than_s:
            yield Item("copy", path, size_bytes, stopped=False)
    restoring = [database.with_name(f"{database.name}.restoring{beside}") for beside in _BESIDE]
    for path in (*restoring, *drafts) if stopped else ():
        if path in sizes:
            yield Item("draft", path, sizes[path], stopped=True)
    log = database.with_name(f"{database.name}-wal")
    if stopped and sizes.get(log):  # a running daemon keeps it within bounds
        yield Item("write-ahead log", log, sizes[log], stopped=True)
    free_bytes = _free_bytes(database)
    if free_bytes >= FREE_BYTES_MIN:
        yield Item("free pages", database, free_bytes, stopped=True)


def left_aside(database: Path) -> bool:
    """Whether a restore left something where there is no database.

    Raises:
        StoreError: The directory cannot be read.
    """
    names = {path for path, _ in _files(database.parent)}
    return database not in names and bool(copies(database) or database.with_name(f"{database.name}.restoring") in names)


def remove(database: Path, items: Sequence[Item]) -> int:
    """Remove things; the caller holds the data directory if any of them needs a stopped daemon.

    Files go one by one, each for good; the database is written anew whole or not at all.

    Args:
        database: The SQLite file.
        items: From ``removable``; one that is gone meanwhile is no error.

    Returns:
        Bytes that there are more now.

    Raises:
        StoreError: Something cannot be removed, or there is no room to write the database anew; what was removed
            before it is gone.
    """
    freed = 0
    for item in items:
        if item.what in {"copy", "draft"}:
            freed += _remove(item)
    if any(item.what in {"write-ahead log", "free pages"} for item in items):
        freed += _shrink(database, anew=any(item.what == "free pages" for item in items))
    return freed


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    """Regular files of a directory with their sizes; links are none, so that nothing elsewhere is touched."""
    try:
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number == FILES_MAX:
                    return
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield Path(entry.path), found.st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be looked through ({error.strerror}); run this as the daemon's user",
            code=Code.DATA_DIR,
        ) from error


def _free_bytes(database: Path) -> int:
    try:
        with closing(open_reader(database)) as connection:
            (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            (size_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    except sqlite3.Error as error:
        raise StoreError(
            f"{database}: cannot be read: {error}; see `p2pnodes db verify`", code=Code.DATA_UNREADABLE
        ) from error
    return int(pages) * int(size_bytes)


def _remove(item: Item) -> int:
    try:
        item.path.unlink()
        sync(item.path.parent)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(
            f"{item.path}: cannot be removed ({error.strerror}); run this as the daemon's user", code=Code.DATA_PRUNE
        ) from error
    return item.size_bytes


def _shrink(database: Path, *, anew: bool) -> int:
    """Play the write-ahead log into the database, and write that anew without its free pages if asked."""
    before = _size(database)
    if anew:
        _require_room(database)
    try:
        # A migration is left to the daemon's start, which derives the rows that it takes away.
        with closing(open_writer(database, as_it_is=True)) as connection:
            connection.set_progress_handler(lambda: False, STEPS_BETWEEN_LOOKS)
            _checkpoint(connection, database)
            if anew:
                connection.execute("VACUUM")
                _checkpoint(connection, database)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise StoreError(
            f"{database}: cannot be made smaller, nothing is lost: {error}; check the disk, and repeat",
            code=Code.DATA_PRUNE,
        ) from error
    return before - _size(database)


def _checkpoint(connection: sqlite3.Connection, database: Path) -> None:
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreError(
            f"{database}: another program reads it (sqlite3, datasette?), nothing is lost; expected none: end it, and "
            "repeat",
            code=Code.DATA_PRUNE,
        )


def _require_room(database: Path) -> None:
    """Refuse to write a database anew without room for it twice: in a temporary file, and in the write-ahead log.

    Raises:
        StoreError: One disk has too little.
    """
    temporary, size_bytes = temporary_directory(os.environ), _size(database)
    shared = temporary.stat().st_dev == database.stat().st_dev
    places = {database: 2 * size_bytes} if shared else {database: size_bytes, temporary: size_bytes}
    for place, needed in places.items():
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            advice = "make room first" if place == database else "make room there, or set SQLITE_TMPDIR"
            raise StoreError(
                f"{place}: {free} bytes are free; expected {needed} to write {database.name} anew: {advice}",
                code=Code.DATA_DISK_LOW,
            )


def temporary_directory(environ: Mapping[str, str]) -> Path:
    """Where SQLite makes the temporary file of a ``VACUUM``."""
    for place in (environ.get("SQLITE_TMPDIR"), environ.get("TMPDIR"), *TEMPORARY):
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    return Path()


def _size(database: Path) -> int:
    """Bytes of a database with what lies beside it."""
    paths = (database.with_name(f"{database.name}{beside}") for beside in _BESIDE)
    return sum(path.stat().st_size for path in paths if path.exists())
