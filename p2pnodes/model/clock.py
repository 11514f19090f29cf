"""Hybrid logical clock: wall-clock milliseconds that never go back and order causally (Kulkarni et al. 2014).

A timestamp is one integer, ``milliseconds << 16 | counter``: 48 bits of Unix milliseconds, 16 bits of counter.
"""

from typing import Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import LocalProtocolError

COUNTER_BITS: Final = 16
MS_MAX: Final = 2**47 - 1
"""Largest millisecond value, so that a timestamp stays a signed 64-bit integer (the year 6429)."""

SECONDS_MAX: Final = MS_MAX // 1000
"""Largest Unix second on the wire: its milliseconds fit a timestamp."""

HLC_MAX: Final = (MS_MAX << COUNTER_BITS) | (2**COUNTER_BITS - 1)

SKEW_AHEAD_MS_MAX: Final = 60_000
"""How far a foreign timestamp may lie ahead of our wall clock; beyond it the event is deferred (rule 6)."""

CLOCK_OFF_MS_MAX: Final = 30_000
"""How far our wall clock may differ from the median of our peers' before writes are refused (rule 8)."""


def hlc_ms(hlc: int) -> int:
    """Unix milliseconds of a timestamp."""
    return hlc >> COUNTER_BITS


def hlc_at(ms: int, counter: int = 0) -> int:
    """Timestamp at Unix milliseconds ``ms``."""
    return (ms << COUNTER_BITS) | counter


class HybridClock:
    """Issues timestamps that are strictly increasing and never behind what was observed."""

    def __init__(self, latest: int = 0) -> None:
        """Start at ``latest``, the highest timestamp issued or observed before."""
        self.latest = latest

    def tick(self, now_ms: int) -> int:
        """Issue the next timestamp at wall-clock ``now_ms``.

        Raises:
            LocalProtocolError: The clock ran past the last representable millisecond.
        """
        following = max(self.latest + 1, hlc_at(now_ms))
        if following > HLC_MAX:
            raise LocalProtocolError(
                "the hybrid clock overflowed: set the system clock right", code=Code.WRITES_CLOCK_AHEAD
            )
        self.latest = following
        return following

    def observe(self, hlc: int) -> None:
        """Take note of a foreign timestamp that was accepted."""
        self.latest = max(self.latest, hlc)

    def ahead_ms(self, now_ms: int) -> int:
        """Milliseconds by which the clock runs ahead of ``now_ms`` (0 when it does not)."""
        return max(0, hlc_ms(self.latest) - now_ms)
