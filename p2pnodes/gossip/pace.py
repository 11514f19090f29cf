"""How often a daemon compares itself with its peers: quickly while something seems to be wrong, else seldom."""

import random
from typing import Final

from p2pnodes.gossip.timeline import Timeline

DIGEST_INTERVAL_MS: Final = 3_000
"""Mean time between two digests to random sessions in trouble; each pause is drawn from two to four thirds of it."""

CALM_INTERVAL_MS: Final = 36_000
"""The same without trouble: what pushes and announcements have missed without anybody's noticing is found by this. As
others ask as often, a daemon is compared every 18 s; with 24 s instead digests took two fifths of the bytes of an idle
daemon (tests.bench gossip)."""

TROUBLE_MS: Final = 15_000
"""How long after a trouble the quick pace is kept: some five digests."""

SESSIONS_MIN: Final = 4
"""With fewer sessions the pace is always quick: little is heard from so few, and it costs as little."""


class Pace:
    """Says when the next digest is due."""

    def __init__(self, time: Timeline, rng: random.Random) -> None:
        """Begin in trouble: what peers hold is not known after a start."""
        self._time = time
        self._rng = rng
        self._troubled_until_ms = time.ms + TROUBLE_MS
        self._next_ms = self._drawn(DIGEST_INTERVAL_MS)

    def trouble(self) -> None:
        """Compare quickly for a while: a session opened, something was missing or was left out, or peers differ."""
        self._troubled_until_ms = self._time.ms + TROUBLE_MS
        if self._next_ms > self._time.ms + DIGEST_INTERVAL_MS * 4 // 3:
            self._next_ms = self._drawn(DIGEST_INTERVAL_MS)

    def due(self, sessions: int) -> bool:
        """Whether one of so many sessions has its turn now; if so, the next pause begins."""
        quick = sessions < SESSIONS_MIN or self._time.ms < self._troubled_until_ms
        if quick and self._next_ms > self._time.ms + DIGEST_INTERVAL_MS * 4 // 3:  # sessions have ended
            self._next_ms = self._drawn(DIGEST_INTERVAL_MS)
        if self._time.ms < self._next_ms:
            return False
        self._next_ms = self._drawn(DIGEST_INTERVAL_MS if quick else CALM_INTERVAL_MS)
        return True

    def _drawn(self, mean_ms: int) -> int:
        """The end of a pause; jittered, so that peers don't fall into step."""
        return self._time.ms + round(mean_ms * self._rng.uniform(2 / 3, 4 / 3))
