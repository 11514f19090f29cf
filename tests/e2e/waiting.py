"""Waiting for what real daemons do: never a fixed time, always with a bound."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from p2pnodes.devnet import DevnetError

DEADLINE_S: Final = 60.0
"""Bound of every wait; a machine that is busy with other tests is slow."""

POLL_S: Final = 0.02


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = DEADLINE_S) -> None:
    """Wait for a condition; a peer that does not answer does not meet it."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                if await condition():
                    return
            except DevnetError:
                pass  # asked again until the deadline
            await asyncio.sleep(POLL_S)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def until_dead(pid: int) -> None:
    """Wait for a process to end."""
    async with asyncio.timeout(DEADLINE_S):
        while alive(pid):
            await asyncio.sleep(POLL_S)
