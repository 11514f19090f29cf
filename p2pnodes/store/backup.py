"""``p2pnodes backup`` and ``p2pnodes restore``: a copy of the database elsewhere, and back.

A backup holds the log and all that follows from it, and no key. It is made while the daemon runs (``copying``), checked
as ``db verify`` checks, and appears under its name whole or not at all.

**A restored database is behind its own log**: peers may hold own events that were written after the backup. To write on
in that log would fork it (design.md, rule 4), and a daemon that merely finds an older file asks its peers how far its
log goes. ``restore`` knows, so it does not depend on what peers say, or on there being any: two things make the next
start open a new log.

- The name of the own log is taken out of the restored database, in the draft, before that is put in its place. A ledger
  without it goes on with none of its logs (``Ledger.own_log``), and the author opens one at once.
- The command replaces the node key before it changes anything else. A log is (node key, number), so the new one cannot
  meet any that was opened after the backup and is not in it. The number alone is no proof of that: it is the time, but
  a clock can have run ahead, and a delegation that was signed elsewhere names its number (``delegation_file``). With
  another node key that file does not fit any more, and writes answer 503 until the new key is delegated to.

The old log stays as it is. Peers send what the backup lacks of it, and its requests and verdicts count on.
"""

import fcntl
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.model.network import Network
from p2pnodes.store import buckets
from p2pnodes.store.audit import audit
from p2pnodes.store.copying import copy_database
from p2pnodes.store.directory import hand_over, sync
from p2pnodes.store.ledger import OWN_LOG, Ledger, stored_network
from p2pnodes.store.schema import SCHEMA, is_of_the_disk, open_reader, open_writer

Progress = Callable[[str, int, int], None]
"""Called now and then with what is being done, how much of it is done, and of how much."""

BACKUP_MODE: Final = 0o600
"""A backup is as private as the data directory, whose mode does not go with it: it holds the miners' signed requests
with the hosts of their servers, and the names of this operator's checks."""

DATABASE_MODE: Final = 0o640
"""Of a restored database where there was none: the directory's group may look into it."""

_DRAFT_PREFIX: Final = ".p2pnodes-backup-"
"""Begins the name of a draft, beside the backup that it is to become."""

_BESIDE: Final = ("-journal", "-wal", "-shm")
"""What SQLite may keep beside a database. One of another database would be played into it."""


class Copied(NamedTuple):
    """What a copy holds.

    Attributes:
        size_bytes: Of the file.
        logs: Logs in it.
        events: Events in it.
        rows: Inventory rows.
        state_root: Theirs, hex; empty where the copy is of an older schema and was not verified.
        verified: Whether chains, signatures and rows were checked, beside what SQLite can tell of its file.
    """

    size_bytes: int
    logs: int
    events: int
    rows: int
    state_root: str
    verified: bool


def back_up(
    database: Path,
    file: Path,
    network: Network,
    *,
    verify: bool = True,
    replace: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Write a checked copy of a database to a file; the daemon may run meanwhile.

    The copy is made under another name in the directory of ``file``, and needs room there; the check needs as much in
    SQLite's temporary directory. A process that is killed leaves its draft, ``.p2pnodes-backup-*``; the next backup
    into that directory removes it.

    Args:
        database: The SQLite file.
        file: Where the copy is to be; outside of the database's directory. Mode 0600.
        network: Its parameters.
        verify: Check chains, signatures and rows, too: 1 to 2 s for every 1,000 claims of ten GPUs.
        replace: Take the place of a file that exists, but only once the copy is good.
        progress: See ``Progress``.

    Raises:
        StoreError: It cannot be read or written, ``file`` exists or is in a place that makes no sense, or the copy has
            a problem. Nothing is left behind then, and a file that existed stays as it was.
    """
    file = file.resolve()
    _require_place(database, file, replace=replace)
    try:
        _remove_left(file.parent)
        with _held_draft(file.parent) as draft:
            _copy(database, draft, progress)
            if verify:
                _require_network(draft, database, network)
            copied = _examine(draft, network, f"no backup of {database} was made", verify=verify, progress=progress)
            _publish(draft, file, replace=replace)
    except OSError as error:
        raise StoreError(
            f"{file}: the backup cannot be written ({error.strerror}); choose another place",
            code=Code.DATA_BACKUP_PLACE,
        ) from error
    return copied


@contextmanager
def _held_draft(directory: Path) -> Iterator[Path]:
    """An empty file, mode 0600, that is gone when the block ends; locked, so that nobody takes it for one left behind.

    Where the file system knows no locks nobody removes anything either: see ``_remove_left``.
    """
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_DRAFT_PREFIX, dir=directory)
        draft = Path(name)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not draft.exists():  # somebody found it in the moment before it was locked
                continue
            try:
                yield draft
            finally:
                _remove(draft)
            return
        finally:
            os.close(descriptor)


def _remove_left(directory: Path) -> None:
    """Remove the drafts of processes that were killed: each is as large as a backup, and has a name that nobody sees.

    Whose process lives holds the lock of its draft. Who may not open a draft did not write it.
    """
    for path in directory.glob(f"{_DRAFT_PREFIX}*"):
        if path.name.endswith(_BESIDE):  # goes with the draft that it is beside
            continue
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except OSError:  # it is being written, or this user may not remove it: the next backup looks again
            continue
        finally:
            os.close(descriptor)


def _require_place(database: Path, file: Path, *, replace: bool) -> None:
    """Refuse a place where no backup can be, or should.

    Raises:
        StoreError: See ``back_up``.
    """
    home = database.parent.resolve()
    if home in file.parents:
        raise StoreError(
            f"{file}: lies in the data directory, and is lost with it; choose a place on another disk",
            code=Code.DATA_BACKUP_PLACE,
        )
    if file.is_dir():
        raise StoreError(
            f"{file}: is a directory; give the name of the file that the backup is to have", code=Code.DATA_BACKUP_PLACE
        )
    if not file.parent.is_dir():
        raise StoreError(
            f"{file}: there is no directory {file.parent}; make it, or choose another place",
            code=Code.DATA_BACKUP_PLACE,
        )
    if not file.exists():
        return
    if not stat.S_ISREG(file.stat().st_mode):
        raise StoreError(f"{file}: is no regular file; give the name of one", code=Code.DATA_BACKUP_PLACE)
    if not replace:
        raise StoreError(
            f"{file}: exists already; choose another name, or replace it with --force", code=Code.DATA_BACKUP_PLACE
        )


def _copy(source: Path, draft: Path, progress: Progress | None) -> None:
    """Copy a database into one file with none beside it, which can be read where nothing can be written."""
    report = None if progress is None else lambda done, total: progress("copying", done, total)
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = OFF")  # a draft that is cut short is thrown away
            target.execute("PRAGMA synchronous = OFF")  # it is made durable as a whole
            copy_database(source, target, report, into=str(draft.parent))
        with closing(sqlite3.connect(draft, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StoreError(
            f"{draft}: the copy cannot be written: {error}; make room, or choose another place",
            code=Code.DATA_BACKUP_PLACE,
        ) from error


def _examine(draft: Path, network: Network, failed: str, *, verify: bool, progress: Progress | None) -> Copied:
    """Check a copy and say what it holds.

    Args:
        draft: The copy.
        network: Of its parameters.
        failed: What a problem means.
        verify: See ``back_up``.
        progress: See ``Progress``.

    Raises:
        StoreError: It has a problem.
    """
    try:
        return _examined(draft, network, failed, verify=verify, progress=progress)
    except sqlite3.Error as error:
        found = "the copy cannot be checked" if is_of_the_disk(error) else "SQLite finds the file damaged"
        raise StoreError(f"{failed}: {found}: {error}", code=Code.DATA_BACKUP_BAD) from error


def _examined(draft: Path, network: Network, failed: str, *, verify: bool, progress: Progress | None) -> Copied:
    size_bytes = draft.stat().st_size
    if verify:
        report = audit(draft, network, progress)
        if report.problems:
            more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
            raise StoreError(
                f"{failed}: {report.problems[0]}{more}; `p2pnodes db verify` tells all of it", code=Code.DATA_BACKUP_BAD
            )
        return Copied(size_bytes, report.logs, report.events, report.rows, report.state_root, verified=True)
    with closing(open_reader(draft)) as connection:
        (integrity,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if integrity != "ok":
            raise StoreError(f"{failed}: SQLite finds the file damaged: {integrity}", code=Code.DATA_BACKUP_BAD)
        logs, events = connection.execute(
            "SELECT (SELECT count(*) FROM logs), (SELECT count(*) FROM events)"
        ).fetchone()
        root, rows, _ = buckets.of_rows(connection)
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        shown = root.root().hex() if schema >= SCHEMA else ""  # an older one's rows lie in other buckets
        return Copied(size_bytes, logs, events, rows, shown, verified=False)


def _publish(draft: Path, file: Path, *, replace: bool) -> None:
    """Make a draft durable and give it its name."""
    _sync_file(draft)
    if replace:
        draft.replace(file)
    else:
        _give_name(draft, file)
    sync(file.parent)


def _give_name(draft: Path, file: Path) -> None:
    """Give a draft a name that nothing has, too; a rename would replace what came meanwhile.

    Whoever is killed leaves a whole backup there or none, but for disks on which a file has one name.
    """
    try:
        try:
            os.link(draft, file)
        except FileExistsError:
            raise
        except OSError:  # as on FAT and some network disks, which know no second name
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, BACKUP_MODE))
            try:
                draft.replace(file)
            except BaseException:
                file.unlink()
                raise
    except FileExistsError as error:
        raise StoreError(
            f"{file}: exists now; choose another name, or replace it with --force", code=Code.DATA_BACKUP_PLACE
        ) from error


class Draft(NamedTuple):
    """A checked copy of a backup beside the database whose place it is to take.

    Attributes:
        path: The copy.
        database: The place.
        copied: What it holds.
    """

    path: Path
    database: Path
    copied: Copied

    def put_in_place(self, mark: str) -> Path | None:
        """Put it in the database's place, and that one aside: durable, and nothing is deleted.

        At whatever instruction this ends, a start finds the database that was there, the restored one, or none and
        refills an empty one from peers; what was there is whole in its old place or under its new name. The caller
        holds the data directory, and has replaced the node key.

        Args:
            mark: Goes into the name of what is put aside; of the time, say.

        Returns:
            Where the database before is now; None when there was none.

        Raises:
            StoreError: There is such a file already, or the disk refuses.
        """
        database = self.database
        aside = database.with_name(f"{database.name}.before-restore-{mark}")
        there = database.exists()
        if aside.exists():
            raise StoreError(f"{aside}: exists already; repeat the command", code=Code.DATA_RESTORE_FAILED)
        try:
            # The write-ahead log gets its second name first: a start that found the database gone would empty it.
            beside = [suffix for suffix in _BESIDE if _beside(database, suffix).exists()]
            for suffix in beside:
                _beside(aside, suffix).hardlink_to(_beside(database, suffix))
            sync(database.parent)
            if there:
                database.rename(aside)
                sync(database.parent)
            for suffix in beside:
                _beside(database, suffix).unlink()
            sync(database.parent)
            self.path.rename(database)
            sync(database.parent)
        except OSError as error:
            raise StoreError(
                f"{database}: cannot be replaced ({error.strerror}); what was there is in its place, or at {aside}: "
                "set right what the disk says, and repeat the command",
                code=Code.DATA_RESTORE_FAILED,
            ) from error
        return aside if there else None


@contextmanager
def drafted(file: Path, database: Path, network: Network, progress: Progress | None = None) -> Iterator[Draft]:
    """Copy a backup into a database's directory, check it, and make it one that opens a new log; see the module.

    An older schema is brought up to date. What is checked is the copy itself. The caller holds the data directory.

    Args:
        file: A backup, or any other database of this network that was put aside; with what SQLite keeps beside it.
        database: The place that it is to have.
        network: Its parameters.
        progress: See ``Progress``.

    Yields:
        The draft; it is gone when the block ends, unless it was put in its place.

    Raises:
        StoreError: It cannot be read, is of another network or a newer schema, has a problem, or there is no room.
    """
    path = database.with_name(f"{database.name}.restoring")
    try:
        yield Draft(path, database, _draft(file, path, database, network, progress))
    finally:
        _remove(path)


def _draft(file: Path, path: Path, database: Path, network: Network, progress: Progress | None) -> Copied:
    if not file.is_file():
        found = "no such file" if not file.exists() else "is no regular file"
        raise StoreError(f"{file}: {found}; give a backup", code=Code.DATA_BACKUP_BAD)
    if database.exists() and file.samefile(database):
        raise StoreError(f"{file}: is the database itself; give a backup", code=Code.DATA_BACKUP_BAD)
    try:
        _remove(path)  # left by a restore that was killed
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, DATABASE_MODE))
        hand_over(path, database.parent)
        if database.exists():
            path.chmod(stat.S_IMODE(database.stat().st_mode))
        _copy(file, path, progress)
        _forget_own_log(file, path, network)
        copied = _examine(path, network, f"{file} was not restored", verify=True, progress=progress)
        _sync_file(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); set that right, and repeat", code=Code.DATA_RESTORE_FAILED
        ) from error
    return copied


def _forget_own_log(file: Path, path: Path, network: Network) -> None:
    """Bring a copy to this build's schema and judgement, and take the name of its own log out of it.

    Raises:
        StoreError: It is of another network, of a newer schema, or cannot be read or written.
    """
    _require_network(path, file, network, "give a backup of this network")
    try:
        with closing(open_writer(path)) as connection:
            connection.execute("DELETE FROM meta WHERE key = ?", (OWN_LOG,))
            Ledger(connection, network)  # judges what the build that wrote it could not
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        if is_of_the_disk(error):
            raise StoreError(
                f"{path}: cannot be written: {error}; make room, and repeat", code=Code.DATA_RESTORE_FAILED
            ) from error
        raise StoreError(f"{file}: cannot be read: {error}; give another backup", code=Code.DATA_BACKUP_BAD) from error


def _require_network(
    path: Path, file: Path, network: Network, advice: str = "use that network's configuration"
) -> None:
    """Refuse a copy of another network's database, by the name of what it is a copy of.

    Raises:
        StoreError: It is of another network, or cannot be read.
    """
    try:
        with closing(open_reader(path)) as connection:
            held = stored_network(connection)
    except sqlite3.Error as error:
        raise StoreError(f"{file}: cannot be read: {error}; give another backup", code=Code.DATA_BACKUP_BAD) from error
    if held != network.id:
        found = "none" if held is None else held.hex()
        raise StoreError(
            f"{file}: is of network {found}, the settings say {network.id.hex()}; {advice}",
            code=Code.DATA_OTHER_NETWORK,
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _remove(draft: Path) -> None:
    for path in (draft, *(_beside(draft, suffix) for suffix in _BESIDE)):
        with suppress(FileNotFoundError):
            path.unlink()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
