"""Processes that the daemon starts for work of its own, and talks to over two pipes.

They get no open file but these, of the environment what Python, TLS and a proxy need, and nothing of the daemon's own.
Each ends when its standard input ends, so that none outlives the daemon, however that died.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

_ENVIRONMENT: Final = frozenset(
    {
        "PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    }
)  # fmt: skip
"""Variables that a process is given."""


async def start(command: Sequence[str], *, limit: int) -> asyncio.subprocess.Process:
    """Start a process whose standard input and output are pipes.

    Args:
        command: Program and arguments.
        limit: Bytes of its output that are read ahead.

    Raises:
        OSError: It cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # each failure is an answer; what libraries print is nobody's
        env={name: value for name, value in os.environ.items() if name in _ENVIRONMENT},
        start_new_session=True,  # a Ctrl-C in the terminal is for the daemon to act upon
        limit=limit,
    )


async def ended(process: asyncio.subprocess.Process, seconds: float) -> int:
    """Wait so long for a process to end by itself, then kill it; returns its status."""
    if seconds:  # a process that is dying anyhow is not killed: asyncio would lose its status
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await process.wait()
    kill(process)
    return await process.wait()


def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process, if it has not ended."""
    with suppress(ProcessLookupError):
        process.kill()


def told(status: int) -> str:
    """What a process ended with, in words."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"
