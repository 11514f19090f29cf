"""The electorate: what the chain says at a pinned block, and at the pinned block before it."""

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from p2pnodes.model import codec


class Pin(NamedTuple):
    """One pinned block.

    Attributes:
        block: Block number.
        time_ms: The block's own time, Unix milliseconds.
        validators: Hotkey with a permit -> stake (rao, or any other unit that all of one electorate shares).
        registered: Registered hotkey -> block of its registration.
        addresses: Hotkey -> base URL, where the chain or file names one; a hint for dialling, never weighed.
    """

    block: int
    time_ms: int
    validators: Mapping[bytes, int]
    registered: Mapping[bytes, int]
    addresses: Mapping[bytes, str]


class Electorate:
    """A pinned block and the one before it (one epoch of grace for permits). Immutable."""

    def __init__(self, current: Pin, previous: Pin | None = None) -> None:
        """Join two pins; ``previous`` is absent only when the chain has none."""
        if previous is not None and previous.block >= current.block:
            raise ValueError(f"previous block {previous.block} does not lie below the current one {current.block}")
        self.current = current
        self.previous = previous

    @property
    def block(self) -> int:
        """Number of the pinned block."""
        return self.current.block

    @property
    def time_ms(self) -> int:
        """Time of the pinned block: the only clock that the inventory function knows."""
        return self.current.time_ms

    @cached_property
    def stakes(self) -> Mapping[bytes, int]:
        """Stake of every permitted hotkey: as of the pinned block, else (in its grace) of the one before."""
        return {**(self.previous.validators if self.previous else {}), **self.current.validators}

    def permitted(self, hotkey: bytes) -> bool:
        """Whether events of this validator count: a permit at the pinned block or at the one before it."""
        return hotkey in self.stakes

    def registration_block(self, hotkey: bytes) -> int | None:
        """Block at which a hotkey registered, None when it is not registered at the pinned block."""
        return self.current.registered.get(hotkey)

    @cached_property
    def digest(self) -> bytes:
        """BLAKE2b-256 over everything that is weighed: blocks, times, stakes and registrations, sorted."""
        return codec.digest(codec.pack([_canonical(self.current), self.previous and _canonical(self.previous)]))


def _canonical(pin: Pin) -> list[codec.Value]:
    return [
        pin.block,
        pin.time_ms,
        [[hotkey, stake] for hotkey, stake in sorted(pin.validators.items())],
        [[hotkey, block] for hotkey, block in sorted(pin.registered.items())],
    ]
