"""A clock that never goes back, and goes on while the machine sleeps: for what the rest of the world does meanwhile.

``time.monotonic`` and the event loop's time stand still in a machine that is suspended. Whoever measures with them what
others did, a GPU's work say, or how long ago something was heard of, takes hours for moments when it wakes up.
"""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Source: clock_gettime(2). Elsewhere than on Linux there is none; on macOS CLOCK_MONOTONIC goes on by itself."""


def steady_ms() -> int:
    """Milliseconds since some moment."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def steady_s() -> float:
    """Seconds since the same moment."""
    return time.clock_gettime_ns(_CLOCK) / 1e9
