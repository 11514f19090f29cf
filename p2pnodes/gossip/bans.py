"""Peers that are refused for a while, by node key: its owner has proved it, so nobody can have somebody else banned."""

from typing import Final, NamedTuple

BANS_MAX: Final = 1_024
"""Node keys that are remembered, banned or counted; beyond it the oldest is forgotten."""

OPENINGS_MAX: Final = 20
"""Sessions that one node key may open in a row; more, faster than one each OPENING_S, and it is banned."""

OPENING_S: Final = 3.0
OPENINGS_BAN_S: Final = 60.0


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

    def add(self, node_key: bytes, reason: str, ban_s: float, now_s: float) -> None:
        """Refuse a peer for ``ban_s`` seconds."""
        self._bans.pop(node_key, None)
        self._bans[node_key] = Ban(now_s + ban_s, reason)
        if len(self._bans) > BANS_MAX:
            del self._bans[next(iter(self._bans))]

    def find(self, node_key: bytes, now_s: float) -> Ban | None:
        """The ban of a peer, if it still holds."""
        ban = self._bans.get(node_key)
        if ban is not None and ban.until_s <= now_s:
            del self._bans[node_key]
            return None
        return ban

    def active(self, now_s: float) -> dict[bytes, Ban]:
        """All bans that still hold."""
        self._bans = {node_key: ban for node_key, ban in self._bans.items() if ban.until_s > now_s}
        return dict(self._bans)

    def opened(self, node_key: bytes, now_s: float) -> None:
        """Count a session that a peer opened; one that opens them without end is banned."""
        count, since_s = self._openings.pop(node_key, (0.0, now_s))
        count = max(0.0, count - (now_s - since_s) / OPENING_S) + 1
        self._openings[node_key] = count, now_s
        if len(self._openings) > BANS_MAX:
            del self._openings[next(iter(self._openings))]
        if count > OPENINGS_MAX:
            del self._openings[node_key]
            self.add(node_key, f"it opened over {OPENINGS_MAX} sessions in a row", OPENINGS_BAN_S, now_s)
