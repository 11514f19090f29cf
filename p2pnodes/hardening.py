"""What a daemon asks of the system before it does anything: to keep its secrets in, and to let it open enough files.

Secrets in memory are kept out of core dumps, and out of the reach of other processes of the same user. A core dump
holds every key that its process has read, and lies where the administrator's tools put it: in a directory
that others may read, or in a bug report. Whoever reads keys calls ``no_core_dumps`` before the first one.
"""

import ctypes
import os
import resource
import sys
from typing import Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

PR_SET_DUMPABLE: Final = 4
"""Source: Linux, include/uapi/linux/prctl.h."""

FILES_MAX: Final = 16_384
"""Open files that the process allows itself (RLIMIT_NOFILE), as far as its hard limit goes. The usual soft limit of
1,024 is for programs that call select(2); a flood of connections uses it up, and then the database opens no file."""


def no_core_dumps() -> None:
    """Leave no core dump of this process, however it ends.

    The limit of 0 bytes holds for programs that this one starts, too, but the kernel does not ask it where dumps are
    piped to a program, as systemd-coredump has it. What is not dumpable is never dumped; besides, its environ, mem and
    fd in /proc are root's alone, and no debugger of the same user can attach. A program that is executed is dumpable
    again: each calls this for itself. Source: core(5), PR_SET_DUMPABLE(2const).

    Raises:
        ConfigError: The system refuses; nothing secret should be read then.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"core dumps, which would hold keys, cannot be turned off ({error}): allow setrlimit and prctl in the "
            "sandbox that this runs in",
            code=Code.CONFIG_HARDENING,
        ) from error


def raise_file_limit() -> None:
    """Allow this process as many open files as FILES_MAX and the hard limit say; never fewer than it was given."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
