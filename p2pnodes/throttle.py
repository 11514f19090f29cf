"""How often something may happen: who asks too often, and how many lines a log gets of one kind.

``aiolimiter`` delays instead of refusing and keeps no table of keys, ``limits`` keeps tables without a bound; so the
token bucket is our own. It is pure: the clock comes in as an argument.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BUCKETS_MAX: Final = 65_536
"""Keys that one table remembers; beyond it the key that was quiet the longest is forgotten, and so starts full."""

STORE_FAILURES_LOGGED_BURST: Final = 10
STORE_FAILURES_LOGGED_PER_S: Final = 0.2
"""Log lines of one kind about what the store could not take or read: at once, and again each second. Anybody may bring
about any number of them, who asks, posts or sends events, and the log may be on that disk."""


class TokenBuckets:
    """One token bucket per key: ``burst`` tokens at most, refilled at ``rate`` per second."""

    def __init__(self, rate: float, burst: int, *, size: int = BUCKETS_MAX) -> None:
        """Start with every bucket full."""
        self._rate = rate
        self._burst = float(burst)
        self._size = size
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until ``key`` has a token, 0 when it has one; takes none."""
        tokens = self._tokens(key, now)
        return 0.0 if tokens >= 1 else (1 - tokens) / self._rate

    def take(self, key: str, now: float) -> float:
        """Take a token of ``key`` and return 0; without one, take nothing and return the seconds until there is one."""
        tokens = self._tokens(key, now)
        granted = tokens >= 1
        self._buckets[key] = (tokens - 1 if granted else tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._size:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - tokens) / self._rate

    def _tokens(self, key: str, now: float) -> float:
        held = self._buckets.get(key)
        if held is None:
            return self._burst
        tokens, then = held
        # A clock that was set back adds nothing; the bucket then counts from the new time on.
        return min(self._burst, tokens + max(0.0, now - then) * self._rate)


class FewLines:
    """How many lines of one kind a log gets, whoever causes them: a burst, and then so many a second."""

    def __init__(self, burst: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow the whole burst at once.

        Args:
            burst: Lines at once, 1 or more.
            per_s: Lines each second after them.
            clock: Seconds, never less than before.
        """
        self._bucket = TokenBuckets(per_s, burst, size=1)
        self._clock = clock
        self._left_out = 0

    def take(self) -> int | None:
        """How many were left out before this line; None when this one is left out, too."""
        if self._bucket.take("", self._clock()):
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out


def store_failures() -> FewLines:
    """The lines that a log gets of one kind about what the store could not do."""
    return FewLines(STORE_FAILURES_LOGGED_BURST, STORE_FAILURES_LOGGED_PER_S)
