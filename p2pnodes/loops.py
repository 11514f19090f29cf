"""Loops that a daemon runs for as long as it lives."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from p2pnodes.model.codes import Code
from p2pnodes.throttle import FewLines

log = structlog.get_logger(__name__)

PAUSE_S: Final = 1.0
"""Before a loop that failed begins anew."""

FAILURES_LOGGED_BURST: Final = 5
FAILURES_LOGGED_PER_S: Final = 1 / 60
"""Tracebacks of one loop in the log: at once, and again each second."""


async def kept_up(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a loop until it returns; each time that it fails is logged as the bug that it is, and it begins anew.

    A task that fails and that nobody awaits would end without a word, and what it did with it.

    Args:
        loop: What is run, a coroutine function without arguments.
    """
    lines = FewLines(FAILURES_LOGGED_BURST, FAILURES_LOGGED_PER_S)
    while True:
        running = loop()
        try:
            await running
        except Exception:
            if (left_out := lines.take()) is not None:
                name = getattr(running, "__qualname__", "")
                log.exception("loop_failed", loop=name, left_out=left_out, code=Code.SYSTEM_BUG)
        else:
            return
        await asyncio.sleep(PAUSE_S)
