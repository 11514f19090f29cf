"""Where daemons are, how dialling them went, and when to try again: for ever, since a partition must heal by itself.

Whom to dial, the active view says (``view``); that knows members, and not where they are.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from p2pnodes.gossip.rates import Rate

PAUSE_S_MIN: Final = 1.0
"""Shortest pause before a peer is dialled again."""

PAUSE_S_MAX: Final = 30.0
"""Longest one. A pause is drawn between PAUSE_S_MIN and a ceiling that doubles with each failure up to this."""

SETTLED_S: Final = 10.0
"""A session that lasted this long was a success; one that ended sooner counts as a failed dial."""

OWN_PAUSE_S: Final = 600.0
"""Pause of an address where this daemon found itself: bootstrap lists are often the same everywhere."""

DIALS_MAX: Final = 1_024
"""Addresses that are remembered; the electorate and the settings name fewer."""

DIALS: Final = Rate("dials", 128, 16)
"""Dials over all addresses, at once and a second: a handshake costs some 3 kB, so no more than 50 kB a second. All of a
subnet's validators are dialled within 10 s, which leaves 20 s of a hearing of the own head to hear them."""


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
    """The addresses that are known now; what is known of an address outlives a change of the others."""

    def __init__(self) -> None:
        """Begin with none."""
        self._dials: dict[tuple[bytes | None, str], Dial] = {}
        self._by_hotkey: dict[bytes | None, list[Dial]] = {}

    def __iter__(self) -> Iterator[Dial]:
        return iter(self._dials.values())

    def know(self, targets: Mapping[bytes, Sequence[str]], bootstrap: Sequence[str]) -> None:
        """Take the addresses that there are from now on.

        Args:
            targets: Hotkey -> base URLs where its daemon may be, the likeliest first.
            bootstrap: Base URLs of daemons whose hotkeys are not known; one that is a target's is left to that.
        """
        urls = {hotkey: [url.rstrip("/") for url in found] for hotkey, found in targets.items()}
        known = {url for found in urls.values() for url in found}
        wanted: dict[tuple[bytes | None, str], None] = {(hotkey, url): None for hotkey in urls for url in urls[hotkey]}
        wanted |= {(None, url): None for url in (url.rstrip("/") for url in bootstrap) if url not in known}
        self._dials = {key: self._dials.get(key) or Dial(key[1], key[0]) for key in islice(wanted, DIALS_MAX)}
        self._by_hotkey = {}
        for dial in self._dials.values():
            self._by_hotkey.setdefault(dial.hotkey, []).append(dial)

    def of(self, hotkey: bytes | None) -> Sequence[Dial]:
        """The addresses of a hotkey's daemon; of None those whose owners are not known."""
        return self._by_hotkey.get(hotkey, ())

    def next_of(self, hotkey: bytes, now_s: float) -> Dial | None:
        """The address of a hotkey's daemon that is to be tried now; None while one is tried, or all have a pause."""
        known = self.of(hotkey)
        if not known or any(dial.active for dial in known):
            return None
        first = min(known, key=lambda dial: dial.next_s)  # of equal ones the likeliest
        return first if first.next_s <= now_s else None
