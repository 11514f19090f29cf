"""One session per pair of daemons: also when both dial at once, and when one of them has started again.

A daemon dials nobody with whom it has a session. So whoever proves itself as a dialler has lost the session that we
still hold, if we hold one: the new session takes its place. The one exception are two dials that cross; then that of
the lower node key goes on, and the other gives way. Whether they crossed is decided by the order in which things
happened here, never by a clock:

- Our own dial has shown its proof and waits for the welcome while theirs arrives; or
- it got its welcome after their handshake had begun.

A dial that has not shown its proof yet gives way by itself, to whatever session there is by then.
"""

from typing import Final, NamedTuple

from p2pnodes.gossip.session import SessionId

HELD_PER_HOTKEY_MAX: Final = 4
"""Sessions with daemons of one hotkey; one more ends the oldest, so that a validator cannot fill every place with node
keys of its own making."""


class _Held(NamedTuple):
    session: SessionId
    hotkey: bytes
    dialled: bool
    turn: int


class Pairs:
    """Which sessions are open, by the peer's node key, and which of our own dials wait for their welcome."""

    def __init__(self, own: bytes) -> None:
        """Begin without sessions.

        Args:
            own: Our own node key.
        """
        self._own = own
        self._turn = 0
        self._held: dict[bytes, _Held] = {}
        self._proving: set[bytes] = set()

    def __contains__(self, node_key: bytes) -> bool:
        return node_key in self._held

    @property
    def proving(self) -> int:
        """Our own dials that wait for their welcome."""
        return len(self._proving)

    def arrived(self) -> int:
        """Note that an inbound handshake begins; the mark is for ``yields``."""
        self._turn += 1
        return self._turn

    def prove(self, node_key: bytes) -> bool:
        """Whether our own dial may show its proof to who answered; if so, call ``proved`` when it is over."""
        if node_key in self._held or node_key in self._proving:
            return False
        self._proving.add(node_key)
        return True

    def proved(self, node_key: bytes) -> None:
        """Note that our own dial was welcomed, or failed."""
        self._proving.discard(node_key)

    def yields(self, node_key: bytes, mark: int) -> bool:
        """Whether a peer's dial, whose handshake began at ``mark``, must give way to our own that it crossed."""
        if self._own > node_key:
            return False
        held = self._held.get(node_key)
        return node_key in self._proving or (held is not None and held.dialled and held.turn > mark)

    def open(self, node_key: bytes, hotkey: bytes, session: SessionId, *, dialled: bool) -> list[SessionId]:
        """Take a new session; those whose place it takes must be closed."""
        self._turn += 1
        replaced = self._held.pop(node_key, None)
        siblings = [key for key, held in self._held.items() if held.hotkey == hotkey]
        surplus = [self._held.pop(key) for key in siblings[: max(0, len(siblings) - HELD_PER_HOTKEY_MAX + 1)]]
        self._held[node_key] = _Held(session, hotkey, dialled, self._turn)
        return [held.session for held in (replaced, *surplus) if held is not None]

    def closed(self, node_key: bytes, session: SessionId) -> None:
        """Forget a session, unless another has taken its place."""
        held = self._held.get(node_key)
        if held is not None and held.session == session:
            del self._held[node_key]
