"""Strangers who have not proved themselves yet: bounded in number, and whoever dawdles makes room for the next.

An address is no identity (many daemons may stand behind one), so none is banned or refused for what came from it. An
honest handshake takes milliseconds; when there is no room, the one that takes longest leaves, and it is not honest.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

GUESTS_MAX: Final = 64
"""Inbound handshakes at once, over all addresses."""

GUESTS_PER_ADDRESS_MAX: Final = 32
"""The same for one address."""

GuestT = TypeVar("GuestT", bound=Hashable)


class Lobby(Generic[GuestT]):
    """Who is in a handshake, in order of arrival."""

    def __init__(self) -> None:
        """Begin empty."""
        self._guests: dict[GuestT, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, guest: GuestT, address: str) -> GuestT | None:
        """Let a stranger in; the one that must leave for it, if any, has left already."""
        leaving: GuestT | None = None
        if self._counts[address] >= GUESTS_PER_ADDRESS_MAX:
            leaving = self._oldest(address)
        elif len(self._guests) >= GUESTS_MAX:
            ((crowded, _),) = self._counts.most_common(1)
            leaving = self._oldest(crowded)
        if leaving is not None:
            self.leave(leaving)
        self._guests[guest] = address
        self._counts[address] += 1
        return leaving

    def leave(self, guest: GuestT) -> None:
        """Forget a stranger: it has proved itself, or has gone."""
        address = self._guests.pop(guest, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def _oldest(self, address: str) -> GuestT:
        return next(guest for guest, where in self._guests.items() if where == address)
