"""The ring: all members in the order of their node keys, the lowest behind the highest, seen from our own place."""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

SIDES: Final = (1, -1)
"""Up and down the ring."""


class Ring:
    """Hotkeys by node key; those whose node key is not known have no place on it, and can be drawn all the same."""

    def __init__(self, node_key: bytes, key_of: Callable[[bytes], bytes]) -> None:
        """Begin empty.

        Args:
            node_key: Our own.
            key_of: Node key of a hotkey; empty while it is not known.
        """
        self._node_key = node_key
        self._key_of = key_of
        self._order: list[bytes] = []
        self._placeless: list[bytes] = []

    def sort(self, hotkeys: Iterable[bytes]) -> None:
        """Take other members, or the same with other node keys."""
        self._order, self._placeless = [], []
        for hotkey in hotkeys:
            (self._order if self._key_of(hotkey) else self._placeless).append(hotkey)
        self._order.sort(key=self._key_of)

    def walk(self, side: int) -> Iterator[bytes]:
        """All that have a place, from ours on; ``side`` is one of SIDES."""
        count = len(self._order)
        above = bisect_left(self._order, self._node_key, key=self._key_of)
        first = above if side > 0 else above - 1
        for step in range(count):
            yield self._order[(first + side * step) % count]

    def drawn(self, rng: random.Random, draws: int) -> Iterator[bytes]:
        """So many members at random, with a place or without; the same one may come twice."""
        count = len(self._order) + len(self._placeless)
        for _ in range(min(draws, count)):
            number = rng.randrange(count)
            yield self._order[number] if number < len(self._order) else self._placeless[number - len(self._order)]
