"""Peers that are refused for a while, by hotkey: its owner has proved it, so nobody can have somebody else banned."""

from typing import Final, NamedTuple

BANS_MAX: Final = 1_024
"""Hotkeys that are remembered as banned, and as many that are counted; beyond it the oldest is forgotten."""

OPENINGS_MAX: Final = 20
"""Sessions that one hotkey may open in a row; more, faster than one each OPENING_S, and it is banned."""

OPENING_S: Final = 3.0
"""Seconds after which one more session may be opened."""

OPENINGS_BAN_S: Final = 60.0
"""How long a peer that opened too many is refused, seconds."""


class Ban(NamedTuple):
    """Until when a peer is refused, on the caller's steady clock, and why."""

    until_s: float
    reason: str


class Bans:
    """Who is banned; bounded in number. Time comes in as an argument, in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._bans: dict[bytes, Ban] = {}
        self._openings: dict[bytes, tuple[float, float]] = {}

    def add(self, hotkey: bytes, reason: str, ban_s: float, now_s: float) -> None:
        """Refuse a peer for ``ban_s`` seconds."""
        self._bans.pop(hotkey, None)
        self._bans[hotkey] = Ban(now_s + ban_s, reason)
        if len(self._bans) > BANS_MAX:
            del self._bans[next(iter(self._bans))]

    def find(self, hotkey: bytes, now_s: float) -> Ban | None:
        """The ban of a peer, if it still holds."""
        ban = self._bans.get(hotkey)
        if ban is not None and ban.until_s <= now_s:
            del self._bans[hotkey]
            return None
        return ban

    def active(self, now_s: float) -> dict[bytes, Ban]:
        """All bans that still hold."""
        self._bans = {hotkey: ban for hotkey, ban in self._bans.items() if ban.until_s > now_s}
        return dict(self._bans)

    def opened(self, hotkey: bytes, now_s: float) -> None:
        """Count a session that a peer opened; one that opens them without end is banned."""
        count, since_s = self._openings.pop(hotkey, (0.0, now_s))
        count = max(0.0, count - (now_s - since_s) / OPENING_S) + 1
        self._openings[hotkey] = count, now_s
        if len(self._openings) > BANS_MAX:
            del self._openings[next(iter(self._openings))]
        if count > OPENINGS_MAX:
            del self._openings[hotkey]
            self.add(hotkey, f"it opened over {OPENINGS_MAX} sessions in a row", OPENINGS_BAN_S, now_s)
