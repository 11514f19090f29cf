"""Peers that are refused for a while, by hotkey: its owner has proved it, so nobody can have somebody else banned.

Who is banned again, soon after its last ban, is refused for twice as long; who behaves for a while begins anew. The
operator's bans, of hotkeys or node keys, stand apart: peers cannot make them be forgotten. None of them outlives the
process: a ban is a measure against what a peer does now, and what it writes arrives through others anyway.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import P2PNodesError

BANS_MAX: Final = 1_024
"""Hotkeys that are remembered as banned, and as many that are counted; beyond it the oldest is forgotten."""

BAN_S_MAX: Final = 3_600.0
"""Longest ban, seconds: each one in a row is twice as long as the last, up to this."""

GOOD_S: Final = 3_600.0
"""Seconds after the end of a ban from which on the next one counts as a first one."""

OPENINGS_MAX: Final = 20
"""Sessions that one hotkey may open in a row; more, faster than one each OPENING_S, and it is banned."""

OPENING_S: Final = 3.0
"""Seconds after which one more session may be opened."""

OPENINGS_BAN_S: Final = 60.0
"""How long a peer that opened too many is refused, seconds. No longer each time: a daemon that crashes again and again
does that, too."""


OPERATOR_BANS_MAX: Final = 1_024
"""Operator's bans at once; a subnet has a quarter as many validators."""

OPERATOR_BAN_S_MAX: Final = 7 * 86_400
"""Longest ban by the operator, seconds: long enough to reach the peer's owner."""

REASON_CHARS_MAX: Final = 200
"""Longest reason of an operator's ban."""


class Offence(StrEnum):
    """Why peers are banned, in a few classes that can be counted."""

    PROTOCOL = "protocol"
    """It sent what the format or the order of frames does not allow."""

    FLOOD = "flood"
    """It said more than a rate allows."""

    FORGERY = "forgery"
    """It sent an event that its log did not sign."""

    OPENINGS = "openings"
    """It opened too many sessions."""

    OPERATOR = "operator"
    """This daemon's operator wants nothing of it."""


class TooManyBansError(P2PNodesError):
    """The operator has banned as many as are kept; nothing has changed."""

    code = Code.ADMIN_BANS_FULL


class Ban(NamedTuple):
    """A peer that is refused.

    Attributes:
        until_s: Until when, on the caller's steady clock.
        reason: Why.
        length_s: Of how many seconds the next one in a row is the double.
    """

    until_s: float
    reason: str
    length_s: float


class Bans:
    """Who is banned; bounded in number. Time comes in as an argument, in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._bans: dict[bytes, Ban] = {}
        """Also those that ended within GOOD_S."""
        self._openings: dict[bytes, tuple[float, float]] = {}
        self.counts: dict[Offence, int] = dict.fromkeys(Offence, 0)
        """Bans since the start, by what they were for."""

    def add(
        self,
        hotkey: bytes,
        reason: str,
        ban_s: float,
        now_s: float,
        *,
        doubles: bool = True,
        offence: Offence = Offence.PROTOCOL,
    ) -> None:
        """Refuse a peer for a while.

        Args:
            hotkey: The peer's.
            reason: For people.
            ban_s: How long a first ban is, seconds.
            now_s: The caller's clock.
            doubles: Whether bans in a row double, up to BAN_S_MAX; else this one is as long as the first.
            offence: What it is counted as.
        """
        self.counts[offence] += 1
        before = self._bans.pop(hotkey, None)
        length_s, until_s = ban_s, now_s
        if before is not None and now_s < before.until_s + GOOD_S:
            if doubles:
                length_s = max(ban_s, min(2 * before.length_s, BAN_S_MAX))
            until_s = before.until_s
        self._bans[hotkey] = Ban(max(until_s, now_s + length_s), reason, length_s)
        if len(self._bans) > BANS_MAX:
            del self._bans[next(iter(self._bans))]

    def find(self, hotkey: bytes, now_s: float) -> Ban | None:
        """The ban of a peer, if it still holds."""
        ban = self._bans.get(hotkey)
        return ban if ban is not None and ban.until_s > now_s else None

    def active(self, now_s: float) -> dict[bytes, Ban]:
        """All bans that still hold."""
        self._bans = {hotkey: ban for hotkey, ban in self._bans.items() if ban.until_s + GOOD_S > now_s}
        return {hotkey: ban for hotkey, ban in self._bans.items() if ban.until_s > now_s}

    def lift(self, hotkey: bytes, now_s: float) -> bool:
        """End the ban of a peer, whose next one counts as a first one; whether there was one."""
        held = self.find(hotkey, now_s) is not None
        self._bans.pop(hotkey, None)
        return held

    def opened(self, hotkey: bytes, now_s: float) -> None:
        """Count a session that a peer opened; one that opens them without end is banned."""
        count, since_s = self._openings.pop(hotkey, (0.0, now_s))
        count = max(0.0, count - (now_s - since_s) / OPENING_S) + 1
        self._openings[hotkey] = count, now_s
        if len(self._openings) > BANS_MAX:
            del self._openings[next(iter(self._openings))]
        if count > OPENINGS_MAX:
            del self._openings[hotkey]
            reason = Reason(f"it opened over {OPENINGS_MAX} sessions in a row", Code.SESSION_OPENINGS)
            self.add(hotkey, reason, OPENINGS_BAN_S, now_s, doubles=False, offence=Offence.OPENINGS)


class OperatorBan(NamedTuple):
    """A peer that the operator refuses.

    Attributes:
        until_s: Until when, on the caller's steady clock.
        reason: Why, in the operator's words.
        is_node_key: Whether it is refused by its node key; else by its hotkey.
    """

    until_s: float
    reason: Reason
    is_node_key: bool


class OperatorBans:
    """Whom the operator refuses, by hotkey or node key: both are 32 bytes, and nobody's is also another's."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._bans: dict[bytes, OperatorBan] = {}
        self.count = 0
        """Bans since the start."""

    def add(self, key: bytes, reason: str, ban_s: int, now_s: float, *, is_node_key: bool = False) -> OperatorBan:
        """Refuse a peer for a while; one that is refused already is so with the new time and reason.

        Args:
            key: Its hotkey, or its node key; 32 bytes.
            reason: Why, 1 to REASON_CHARS_MAX characters.
            ban_s: How long, 1 to OPERATOR_BAN_S_MAX seconds.
            now_s: The caller's clock.
            is_node_key: Which of the two the key is.

        Raises:
            TooManyBansError: There are OPERATOR_BANS_MAX others.
        """
        assert 1 <= len(reason) <= REASON_CHARS_MAX
        assert 1 <= ban_s <= OPERATOR_BAN_S_MAX
        held = self.active(now_s)
        if key not in held and len(held) >= OPERATOR_BANS_MAX:
            raise TooManyBansError(f"{OPERATOR_BANS_MAX} peers are banned already, the most that are kept: lift some")
        ban = self._bans[key] = OperatorBan(now_s + ban_s, Reason(reason, Code.SESSION_BANNED), is_node_key)
        self.count += 1
        return ban

    def find(self, keys: Iterable[bytes], now_s: float) -> OperatorBan | None:
        """The ban of a peer by one of its keys, if one holds: of several that which holds longest."""
        found = (self._bans[key] for key in keys if key in self._bans)
        return max((ban for ban in found if ban.until_s > now_s), key=lambda ban: ban.until_s, default=None)

    def lift(self, key: bytes, now_s: float) -> bool:
        """End a ban; whether there was one."""
        ban = self._bans.pop(key, None)
        return ban is not None and ban.until_s > now_s

    def active(self, now_s: float) -> Mapping[bytes, OperatorBan]:
        """All bans that still hold."""
        self._bans = {key: ban for key, ban in self._bans.items() if ban.until_s > now_s}
        return self._bans
