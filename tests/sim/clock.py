"""Virtual time: a heap of callbacks; time jumps from one to the next."""

import heapq
import itertools
from collections.abc import Callable
from typing import Final

from tests.support import NOW_MS

START_MS: Final = NOW_MS


class Clock:
    """Runs callbacks in order of their time, and in order of registration at equal times."""

    def __init__(self) -> None:
        self.now_ms: float = START_MS
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, ms: float, callback: Callable[[], None]) -> None:
        """Run ``callback`` in ``ms`` milliseconds."""
        heapq.heappush(self._heap, (self.now_ms + ms, next(self._order), callback))

    def run_for(self, ms: float) -> None:
        """Let time pass."""
        end_ms = self.now_ms + ms
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, callback = heapq.heappop(self._heap)
            callback()
        self.now_ms = end_ms
