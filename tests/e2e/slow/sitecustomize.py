"""A disk that is slow where rows follow from a live set, for a daemon that has this directory on PYTHONPATH."""

import time

from p2pnodes.store.settling import Settling

PART_S = 0.5
"""For each part; there are a dozen of the smallest live set."""

_advance = Settling.advance


def _slow(self: Settling) -> None:
    time.sleep(PART_S)
    _advance(self)


Settling.advance = _slow  # type: ignore[method-assign]
