"""All whom this daemon refuses for a while: by its own bans, of validators and of observers, and by its operator's."""

from collections.abc import Callable
from typing import Any

from p2pnodes.gossip.bans import Ban, Bans, Offence, OperatorBan, OperatorBans
from p2pnodes.model.codes import Code, code_of
from p2pnodes.model.keys import ss58_encode


class Refused:
    """Finds and lists bans of every kind. Time comes in as an argument, see ``Bans``."""

    def __init__(self, permitted: Callable[[bytes], bool], operators: OperatorBans | None = None) -> None:
        """Begin with the operator's bans alone.

        Args:
            permitted: Whether a hotkey holds a validator permit now.
            operators: The operator's; None for nobody.
        """
        self._permitted = permitted
        self._validators = Bans()
        self._observers = Bans()
        """Apart from the others: who has hotkeys for nothing must not make validators' bans be forgotten."""
        self._operators = OperatorBans() if operators is None else operators

    def own(self, *, observer: bool) -> Bans:
        """Where this daemon's bans of validators are, or of observers."""
        return self._observers if observer else self._validators

    def find(self, keys: tuple[bytes, ...], now_s: float) -> OperatorBan | Ban | None:
        """The ban of a peer by its hotkey and node key, as far as they are known: the operator's before our own."""
        if (ban := self._operators.find(keys, now_s)) is not None:
            return ban
        own = (bans.find(key, now_s) for bans in (self._validators, self._observers) for key in keys)
        return next((found for found in own if found is not None), None)

    def by_operator(self, keys: tuple[bytes, ...], now_s: float) -> bool:
        """Whether the operator refuses a peer by one of its keys."""
        return self._operators.find(keys, now_s) is not None

    def add(self, key: bytes, reason: str, ban_s: int, now_s: float, *, is_node_key: bool = False) -> dict[str, Any]:
        """Add a ban of the operator's, see ``OperatorBans.add``; returns it as ``rows`` lists it."""
        return self._row(key, self._operators.add(key, reason, ban_s, now_s, is_node_key=is_node_key), now_s)

    def lift(self, key: bytes, now_s: float) -> str | None:
        """End the bans of a peer, the operator's and our own; the key as logs show it, None where there was none."""
        ban = self._operators.find([key], now_s)
        lifted = [bans.lift(key, now_s) for bans in (self._operators, self._validators, self._observers)]
        if not any(lifted):
            return None
        return key.hex() if ban is not None and ban.is_node_key else ss58_encode(key)

    def rows(self, now_s: float) -> list[dict[str, Any]]:
        """Everybody who is refused for a while, JSON-able.

        ``hotkey`` (SS58) or, where the operator banned one, ``node_key`` (hex), the other is None; ``observer``;
        whether it was the ``operator``; ``banned_s`` for how long still; ``ban_reason`` and its ``code``.
        """
        own = [
            {
                "hotkey": ss58_encode(hotkey),
                "node_key": None,
                "observer": bans is self._observers,
                "operator": False,
                "banned_s": round(ban.until_s - now_s, 1),
                "ban_reason": ban.reason,
                "code": code_of(ban.reason, Code.SESSION_PROTOCOL),
            }
            for bans in (self._validators, self._observers)
            for hotkey, ban in bans.active(now_s).items()
        ]
        return own + [self._row(key, ban, now_s) for key, ban in self._operators.active(now_s).items()]

    def counts(self) -> dict[str, int]:
        """Bans by what they were for: our own since this was made, the operator's since the start."""
        own = {each.value: self._validators.counts[each] + self._observers.counts[each] for each in Offence}
        return {**own, Offence.OPERATOR.value: self._operators.count}

    def _row(self, key: bytes, ban: OperatorBan, now_s: float) -> dict[str, Any]:
        """One of the operator's as ``rows`` lists it."""
        return {
            "hotkey": None if ban.is_node_key else ss58_encode(key),
            "node_key": key.hex() if ban.is_node_key else None,
            "observer": not ban.is_node_key and not self._permitted(key),
            "operator": True,
            "banned_s": round(ban.until_s - now_s, 1),
            "ban_reason": ban.reason,
            "code": ban.reason.code,
        }
