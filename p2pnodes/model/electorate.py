"""The electorate: what the chain says at a pinned block, and at the pinned block before it."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final, NamedTuple, Self

from p2pnodes.model import codec
from p2pnodes.model.keys import KEY_BYTES

HOTKEYS_MAX: Final = 1_000_000
"""Bound of an electorate; a subnet has at most a few thousand neurons."""


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
    def canonical(self) -> bytes:
        """Everything that is weighed, as the one encoding that has: blocks, times, stakes and registrations, sorted."""
        return codec.pack([_canonical(self.current), self.previous and _canonical(self.previous)])

    @classmethod
    def from_canonical(cls, data: bytes) -> Self:
        """The electorate that ``canonical`` encodes, without addresses.

        Raises:
            MalformedError: It encodes none, or another order.
        """
        current, previous = codec.fields(codec.unpack(data), 2, "electorate")
        found = cls(_pin(current), None if previous is None else _pin(previous, current))
        if found.canonical != data:
            raise codec.MalformedError("electorate: its hotkeys are not in ascending order, each once")
        return found

    @cached_property
    def digest(self) -> bytes:
        """BLAKE2b-256 over ``canonical``."""
        return codec.digest(self.canonical)


def _canonical(pin: Pin) -> list[codec.Value]:
    return [
        pin.block,
        pin.time_ms,
        [[hotkey, stake] for hotkey, stake in sorted(pin.validators.items())],
        [[hotkey, block] for hotkey, block in sorted(pin.registered.items())],
    ]


def _pin(value: codec.Value, later: codec.Value = None) -> Pin:
    """Read a pin; one that lies before another must have a lower block."""
    block, time_ms, validators, registered = codec.fields(value, 4, "pin")
    below = None if later is None else codec.integer(codec.fields(later, 4, "pin")[0], "block", 1)
    return Pin(
        codec.integer(block, "block", 0, codec.INT_MAX if below is None else below - 1),
        codec.integer(time_ms, "time"),
        dict(pairs(validators, "stake")),
        dict(pairs(registered, "registration block")),
        {},
    )


def pairs(entries: codec.Value, what: str) -> Iterator[tuple[bytes, int]]:
    """Hotkeys with a number each; raises MalformedError."""
    for entry in codec.array(entries, 0, HOTKEYS_MAX, "pairs"):
        key, value = codec.fields(entry, 2, "pair")
        yield codec.binary(key, "hotkey", KEY_BYTES), codec.integer(value, what)
