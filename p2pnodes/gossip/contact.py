"""Whether what is written here reaches the network before it falls behind the horizon of checkpoints.

An event that its author alone holds when a cut goes past its time counts for nothing from then on. A daemon that has
compared its events with less than a quorum of the stake for half the horizon therefore writes nothing more; the other
half is the time that its operator has to bring it back. A restart does not begin that time anew: whoever hears nobody
at a start opens a new log and goes on (rule 4), and would go on for ever.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from p2pnodes.model.network import PPM, Network

LIMIT_PARTS: Final = 2
"""What part of the horizon a quorum may not be heard of: 3.5 days by default."""

NOTED_PARTS: Final = 64
"""How exactly it is kept over restarts when a quorum was heard of: in so many parts of that time, 1.3 hours."""


class Contact:
    """When each validator was compared with last; the clock is one that never goes back, milliseconds."""

    def __init__(self, network: Network, heard_ms: int) -> None:
        """Begin, as if everybody had been compared with last at some time."""
        self._quorum_ppm = network.quorum_ppm
        self._limit_ms = network.horizon_s * 1000 // LIMIT_PARTS
        self._began_ms = heard_ms
        self._heard: dict[bytes, int] = {}
        self._noted_ms = heard_ms

    def note(self, hotkeys: Iterable[bytes], now_ms: int) -> None:
        """Note who has just said what it holds."""
        self._heard.update(dict.fromkeys(hotkeys, now_ms))

    def lost(self, own: bytes | None, enrolled: Mapping[bytes, int], now_ms: int) -> bool:
        """Whether too little of the enrolled stake was heard of; never where there is nobody else."""
        self._heard = {hotkey: at_ms for hotkey, at_ms in self._heard.items() if hotkey in enrolled}
        total = sum(enrolled.values())
        heard = self._stake_since(now_ms - self._limit_ms, own, enrolled)
        return heard < total and heard <= self._quorum_ppm * total // PPM

    def news(self, own: bytes | None, enrolled: Mapping[bytes, int], now_ms: int) -> int | None:
        """Since when a quorum has been heard of, to be kept for the next start; None where that is kept already.

        The time is one up to which that of the last quorum may be late: by one of NOTED_PARTS of the limit.
        """
        part_ms = self._limit_ms // NOTED_PARTS
        since_ms = now_ms - part_ms
        quorum = self._quorum_ppm * sum(enrolled.values()) // PPM
        if since_ms < self._noted_ms + part_ms or self._stake_since(since_ms, own, enrolled) <= quorum:
            return None
        self._noted_ms = since_ms
        return since_ms

    def _stake_since(self, since_ms: int, own: bytes | None, enrolled: Mapping[bytes, int]) -> int:
        return sum(
            stake
            for hotkey, stake in enrolled.items()
            if hotkey == own or self._heard.get(hotkey, self._began_ms) >= since_ms
        )
