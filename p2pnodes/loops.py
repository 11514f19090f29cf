"""Loops that a daemon runs for as long as it lives."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from p2pnodes.model.codes import Code

log = structlog.get_logger(__name__)

PAUSE_S: Final = 1.0
"""Before a loop that failed begins anew."""


async def kept_up(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a loop until it returns; each time that it fails is logged as the bug that it is, and it begins anew.

    A task that fails and that nobody awaits would end without a word, and what it did with it.

    Args:
        loop: What is run, a coroutine function without arguments.
    """
    while True:
        running = loop()
        try:
            await running
        except Exception:
            log.exception("loop_failed", loop=getattr(running, "__qualname__", ""), code=Code.SYSTEM_BUG)
        else:
            return
        await asyncio.sleep(PAUSE_S)
