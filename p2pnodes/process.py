"""The process of a daemon: ``p2pnodes run`` turns into it.

The command line (typer, and a module for each command) costs a process some 3 MB that a daemon never uses again, and
rich, which structlog takes for tracebacks wherever it is installed, another 3 MB. So ``run`` executes a new
interpreter in its own place: process id, open files and supervisor stay the same, and the environment can be set before
the first allocation.
"""

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from p2pnodes.hardening import no_core_dumps, raise_file_limit

MALLOC_ARENAS: Final = "2"
"""Heaps that glibc keeps for all threads (``MALLOC_ARENA_MAX``, unless the operator sets it).

It takes up to 8 for each core, and what one thread frees is no other's. The daemon has five threads that take turns in
holding the interpreter: more heaps make it no faster, but larger.
"""

_INTERRUPTED: Final = 130
"""What shells say of a program that Ctrl-C ended."""


def become_daemon(config: Path, options: Mapping[str, Any]) -> NoReturn:
    """Turn this process into a daemon's.

    Args:
        config: Its configuration file.
        options: Settings from the command line, see ``load_settings``; no secrets, others can read the arguments.
    """
    environment = {"MALLOC_ARENA_MAX": MALLOC_ARENAS, **os.environ}
    # -P: a file in the current directory must not be imported instead of a module.
    arguments = [sys.executable, "-P", "-m", __spec__.name, str(config), json.dumps(dict(options))]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - our own program


def main(config: str, options: str) -> NoReturn:
    """Run a daemon until it is told to stop, and end as commands end: one line for what is wrong, and an exit code."""
    from p2pnodes.model.errors import P2PNodesError

    try:
        no_core_dumps()  # before any key is read
        raise_file_limit()
        # structlog then does without it; whoever does need it later must find it absent, not half there.
        sys.modules["rich"] = None  # type: ignore[assignment]
        from p2pnodes.config import load_settings

        read = partial(load_settings, Path(config), json.loads(options))
        try:
            settings = read()
        except P2PNodesError:
            from p2pnodes.handover import Handover

            Handover.refuse(os.environ, os.getpid())
            raise
        from p2pnodes import daemon  # late: a bad setting is told before half a second of imports

        sys.exit(daemon.run(settings, read))
    except P2PNodesError as error:
        from p2pnodes.cli.output import fail

        fail(error)
    except OSError as error:
        from p2pnodes.cli.output import fail_system

        fail_system(error)
    except MemoryError:
        from p2pnodes.cli.output import fail_memory

        fail_memory()
    except KeyboardInterrupt:  # before the daemon listens to signals
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main(*sys.argv[1:])
