"""What the checks under way load, and who waits for it.

A key is a host, a claim or a miner; it has room for so many checks. A claim that finds no room waits in line at one
full key, and is called when there is some. Only one is called for each room that becomes free, because a look costs a
read: one that then does not begin passes the call on.
"""

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any, Final

WAITING_MAX: Final = 4_096
"""Claims that wait in line, over all keys; who calls must find the others again in another way."""

Needs = Mapping[Any, int]
"""What a check loads: key, of any hashable sort -> how many checks it has room for."""


class Loads:
    """Counts what checks load."""

    def __init__(self) -> None:
        """Begin with nothing loaded."""
        self._held: dict[Hashable, int] = {}
        self._lines: dict[tuple[Hashable, int], deque[bytes]] = {}
        """Who waits for a key, which has that room."""
        self._waiting: set[bytes] = set()
        self._called: dict[bytes, tuple[Hashable, int]] = {}

    def __len__(self) -> int:
        """How many claims wait in line."""
        return len(self._waiting)

    def __contains__(self, claim_id: bytes) -> bool:
        """Whether a claim waits in line."""
        return claim_id in self._waiting

    def take(self, claim_id: bytes, needs: Needs) -> bool:
        """Load all keys, or, where one of them has no room, none."""
        if any(self._held.get(key, 0) >= room for key, room in needs.items()):
            return False
        for key in needs:
            self._held[key] = self._held.get(key, 0) + 1
        self._called.pop(claim_id, None)  # it used its call
        return True

    def line_up(self, claim_id: bytes, needs: Needs) -> None:
        """Put a claim for which ``take`` found no room in line, unless too many wait already."""
        if claim_id in self._waiting or len(self._waiting) >= WAITING_MAX:
            return
        full = next((key, room) for key, room in needs.items() if self._held.get(key, 0) >= room)
        self._lines.setdefault(full, deque()).append(claim_id)
        self._waiting.add(claim_id)

    def free(self, needs: Needs) -> list[bytes]:
        """Unload what was taken; the claims that are called, each to be looked at, and then told to ``looked_at``."""
        for key in needs:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
        return [claim_id for key in needs.items() for claim_id in self._call(key)]

    def looked_at(self, claim_id: bytes) -> list[bytes]:
        """Note that a claim was looked at, or could not be; whom it calls instead if it did not begin."""
        key = self._called.pop(claim_id, None)
        return [] if key is None else self._call(key)

    def _call(self, key: tuple[Hashable, int]) -> list[bytes]:
        """The next one in line, if there is room; where there is none, whoever has it calls later."""
        line = self._lines.get(key)
        if line is None or self._held.get(key[0], 0) >= key[1]:
            return []
        claim_id = line.popleft()
        if not line:
            del self._lines[key]
        self._waiting.discard(claim_id)
        self._called[claim_id] = key
        return [claim_id]
