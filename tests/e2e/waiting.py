"""Waiting for what real daemons do: never a fixed time, always with a bound."""

import asyncio
from collections.abc import Awaitable, Callable
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
