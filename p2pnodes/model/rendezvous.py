"""Rendezvous: an order of validators for each piece of work, the same on every daemon, without anybody asking.

Stake-weighted rendezvous hashing over a 32-byte key (Thaler and Ravishankar 1998; with weights as in Schindelhauer and
Schomaker 2005, -ln(u)/stake ascending): each validator comes first with the probability of its share of the stake, and
a change of one stake moves nobody else's place among the others.
"""

import math
from collections.abc import Collection, Mapping
from typing import Final

from p2pnodes.model import codec

_DRAWS: Final = 1 << 64


def ranking(key: bytes, stakes: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The order of validators for a key, such as a claim id; those without stake come last."""
    return tuple(sorted(stakes, key=lambda hotkey: _place(key, hotkey, stakes[hotkey])))


def _place(key: bytes, hotkey: bytes, stake: int) -> tuple[float, bytes]:
    draw = (int.from_bytes(codec.digest(key + hotkey)[:8], "big") + 0.5) / _DRAWS
    return (-math.log(draw) / stake if stake else math.inf), hotkey


def place_of(order: Collection[bytes], validator: bytes) -> int:
    """A validator's place in an order, behind everybody where it is not in it."""
    return next((place for place, each in enumerate(order) if each == validator), len(order))
