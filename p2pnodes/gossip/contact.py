"""Whether what is written here reaches the network before it falls behind the horizon of checkpoints.

An event that its author alone holds when a cut goes past its time counts for nothing from then on. A daemon that has
compared its events with less than a quorum of the stake for half the horizon therefore writes nothing more; the other
half is the time that its operator has to bring it back.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from p2pnodes.model.network import PPM, Network

LIMIT_PARTS: Final = 2
"""What part of the horizon a quorum may not be heard of: 3.5 days by default."""


class Contact:
    """When each validator was compared with last; the clock is one that never goes back, milliseconds."""

    def __init__(self, network: Network, now_ms: int) -> None:
        """Begin, as if everybody had been compared with now: at its start a daemon hears its own head (rule 4)."""
        self._quorum_ppm = network.quorum_ppm
        self._limit_ms = network.horizon_s * 1000 // LIMIT_PARTS
        self._began_ms = now_ms
        self._heard: dict[bytes, int] = {}

    def note(self, hotkeys: Iterable[bytes], now_ms: int) -> None:
        """Note who has just said what it holds."""
        self._heard.update(dict.fromkeys(hotkeys, now_ms))

    def lost(self, own: bytes | None, enrolled: Mapping[bytes, int], now_ms: int) -> bool:
        """Whether too little of the enrolled stake was heard of; never where there is nobody else."""
        self._heard = {hotkey: at_ms for hotkey, at_ms in self._heard.items() if hotkey in enrolled}
        total = sum(enrolled.values())
        heard = sum(
            stake
            for hotkey, stake in enrolled.items()
            if hotkey == own or now_ms - self._heard.get(hotkey, self._began_ms) <= self._limit_ms
        )
        return heard < total and heard <= self._quorum_ppm * total // PPM
