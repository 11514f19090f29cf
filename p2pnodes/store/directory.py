"""The data directory: made, held by one process at a time, and its files left to its owner."""

import fcntl
import os
from pathlib import Path
from typing import IO, Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

LOCK: Final = "lock"
"""Name of the file that is locked. It stays: one that is removed could be locked by two."""

MODE: Final = 0o750
"""Of a directory that is made here: the daemon's group may look into the database, others may not."""


def status_of(path: Path) -> os.stat_result | None:
    """What a path leads to, None when there is nothing.

    Raises:
        OSError: It cannot be told, as in another user's directory; ``Path.exists`` hides that in newer Pythons.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def make(path: Path) -> None:
    """Make the data directory, unless it is there.

    Raises:
        ConfigError: It cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=MODE)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"data_dir {path} cannot be written: {error.strerror}; choose another or fix its owner", code=Code.DATA_DIR
        ) from error


def hold(path: Path) -> IO[str]:
    """Hold the data directory until the file that is returned is closed: two daemons on one would fork its log.

    Whatever replaces or rewrites the database of a daemon that does not run holds it, too.

    Args:
        path: The data directory.

    Raises:
        ConfigError: Another process holds it, there is no such directory, or the lock cannot be opened.
    """
    lock = path / LOCK
    try:
        file = lock.open("w")
    except FileNotFoundError as error:
        raise ConfigError(
            f"data_dir {path}: there is no such directory; check the setting", code=Code.DATA_DIR
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{lock}: cannot be opened: {error.strerror}; fix its owner, or move it away", code=Code.DATA_DIR
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hand_over(lock, path)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(
            f"another daemon runs on {path}, or `restore` or `db rebuild` works there: stop it, or use another "
            "data_dir",
            code=Code.DATA_IN_USE,
        ) from error
    except BaseException:
        file.close()
        raise
    return file


def hand_over(path: Path, directory: Path) -> None:
    """Give a file that root made in or for a directory to that one's owner: a daemon could not open root's.

    Raises:
        OSError: Its owner cannot be changed.
    """
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def sync(directory: Path) -> None:
    """Make durable what was renamed, linked or removed in a directory.

    Raises:
        OSError: The disk refuses.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
