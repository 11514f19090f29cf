"""Whom to dial, and when to try again: for ever, since a partition must heal by itself."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

PAUSE_S_MIN: Final = 1.0
"""Shortest pause before a peer is dialled again."""

PAUSE_S_MAX: Final = 30.0
"""Longest one. A pause is drawn between PAUSE_S_MIN and a ceiling that doubles with each failure up to this."""

SETTLED_S: Final = 10.0
"""A session that lasted this long was a success; one that ended sooner counts as a failed dial."""

OWN_PAUSE_S: Final = 600.0
"""Pause of an address where this daemon found itself: bootstrap lists are often the same everywhere."""

DIALS_MAX: Final = 1_024
"""Peers that are dialled; the electorate and the settings name fewer."""


class Dial:
    """One address to be dialled, and how that went.

    Attributes:
        url: Base URL.
        hotkey: Whose daemon must answer; None for a bootstrap address, where any validator may.
        node_key: Who answered last, as far as it proved itself.
        owner: Whose daemon that was, or must be.
        next_s: When it is due again, on the caller's steady clock.
        error: Why the last try failed; None when it did not.
        active: Whether a try is under way.
    """

    def __init__(self, url: str, hotkey: bytes | None) -> None:
        """Take a new address, due at once."""
        self.url = url
        self.hotkey = hotkey
        self.node_key: bytes | None = None
        self.owner = hotkey
        self.next_s = 0.0
        self.error: str | None = None
        self.active = False
        self._ceiling_s = 2 * PAUSE_S_MIN

    def failed(self, reason: str, now_s: float, rng: random.Random) -> bool:
        """Put off the next try after a failed one; whether the reason is news."""
        news, self.error = reason != self.error, reason
        self._put_off(now_s, rng)
        return news

    def found_itself(self, reason: str, now_s: float) -> None:
        """Put off the next try of an address that is our own."""
        self.error = reason
        self.next_s = now_s + OWN_PAUSE_S

    def ended(self, lasted_s: float, now_s: float, rng: random.Random) -> None:
        """Put off the next try after a session has ended."""
        if lasted_s >= SETTLED_S:
            self._ceiling_s = 2 * PAUSE_S_MIN
        self._put_off(now_s, rng)

    def _put_off(self, now_s: float, rng: random.Random) -> None:
        self.next_s = now_s + rng.uniform(PAUSE_S_MIN, self._ceiling_s)
        self._ceiling_s = min(2 * self._ceiling_s, PAUSE_S_MAX)


class Dials:
    """The addresses that are wanted now; what is known of an address outlives a change of the others."""

    def __init__(self) -> None:
        """Begin with none."""
        self._dials: dict[tuple[bytes | None, str], Dial] = {}

    def __iter__(self) -> Iterator[Dial]:
        return iter(self._dials.values())

    def want(self, targets: Mapping[bytes, str], bootstrap: Sequence[str]) -> None:
        """Dial these from now on.

        Args:
            targets: Hotkey -> base URL of its daemon.
            bootstrap: Base URLs of daemons whose hotkeys are not known; one that is a target's is left to that.
        """
        urls = {hotkey: url.rstrip("/") for hotkey, url in targets.items()}
        known = set(urls.values())
        wanted: list[tuple[bytes | None, str]] = [*urls.items()]
        wanted += [(None, url) for url in dict.fromkeys(url.rstrip("/") for url in bootstrap) if url not in known]
        self._dials = {key: self._dials.get(key) or Dial(key[1], key[0]) for key in wanted[:DIALS_MAX]}
