"""Regular files that an operator names: read without waiting, and written whole or not at all."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. A pipe or device in its place is refused; reading one could wait for ever.

    Raises:
        OSError: It cannot be opened, or is no regular file; ``strerror`` says which.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to waits otherwise.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: Path, size_max: int) -> bytes:
    """Content of a file, of one that is too large a byte more than is allowed; errors as ``open_regular``.

    Args:
        path: The file.
        size_max: Most bytes that its kind may have.
    """
    with open_regular(path) as file:
        return file.read(size_max + 1)


def write_new(path: Path, content: str) -> None:
    """Write a new file, durably; what is left of one that cannot be written whole is removed.

    It is made in its place: a link from a draft would do without the removal, but the memory sticks that carry such
    files know no links.

    Raises:
        FileExistsError: It exists already, and is left as it is.
        OSError: It cannot be written; it does not exist then.
    """
    file = path.open("x")
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
