"""The address book: where validators' daemons are, in the words of their own signed delegations.

A daemon tells each peer whom it has met: so a newcomer that reaches one daemon knows where the others are before it has
fetched their logs. Nobody's word counts but the owner's: an entry is a delegation that its hotkey signed, and of two
the one that begins later counts. What the logs say goes before it, once they are there.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from p2pnodes.gossip.frames import BOOK_PER_FRAME_MAX, Book
from p2pnodes.gossip.handshake import CLOCK_TOLERANCE_S, Peer
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import Delegation, LogId
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store.state import State

MET_MAX: Final = 256
"""Validators that peers are told of; beyond it the one that was not met for longest is forgotten."""

MET_MS_MAX: Final = 24 * 3_600_000
"""For how long after the last session with a validator peers are told of it."""

HEARD_MAX: Final = 1_024
"""Validators of which others told; beyond it the one that was told of first is forgotten."""


class _Met(NamedTuple):
    """A validator that was met.

    Attributes:
        log: The log that it wrote then.
        delegation: For that log.
        version: Of the book, when this was noted.
        until_ms: Until when peers are told, in steady time; it counts from the end of the last session.
    """

    log: LogId
    delegation: Delegation
    version: int
    until_ms: int


class AddressBook:
    """What is known of where daemons are, beside the logs. Bounded, and in memory alone."""

    def __init__(self, network_id: bytes, permitted: Callable[[bytes], bool], time: Timeline) -> None:
        """Begin empty.

        Args:
            network_id: Delegations of another network are none.
            permitted: Whether a hotkey holds a permit: of others nobody needs to know.
            time: The engine's.
        """
        self.version = 0
        """Rises whenever there is something to tell."""
        self._network_id = network_id
        self._permitted = permitted
        self._time = time
        self._met: dict[bytes, _Met] = {}
        self._heard: dict[bytes, tuple[LogId, Delegation]] = {}

    def met(self, peer: Peer) -> None:
        """Note a validator with whom there is a session, or was until now."""
        if peer.observer:
            return
        until_ms = self._time.ms + MET_MS_MAX
        before = self._met.pop(peer.hotkey, None)  # who was met last is last, so that the others are forgotten first
        if before is not None and _age(before.log, before.delegation) >= _age(peer.log, peer.delegation):
            self._met[peer.hotkey] = before._replace(until_ms=until_ms)
        else:
            self.version += 1
            self._met[peer.hotkey] = _Met(peer.log, peer.delegation, self.version, until_ms)
        if len(self._met) > MET_MAX:
            del self._met[next(iter(self._met))]

    def renew(self, state: State) -> None:
        """Follow the delegations in the logs of those who were met; they are renewed while sessions last."""
        for hotkey, met in self._met.items():
            held = state.logs.get(met.log)
            renewed = held and held.prefix.delegation
            if renewed and renewed.not_before > met.delegation.not_before:
                self.version += 1
                self._met[hotkey] = met._replace(delegation=renewed, version=self.version)

    def told(self, peer: Peer, since: int, state: State, *, same: bool = False) -> list[bytes]:
        """The frames that tell a peer who was met after a version of the book.

        Args:
            peer: Who is told; its own entry is left out.
            since: The version up to which it has been told.
            state: What is held here.
            same: Whether the peer's version vector is ours: what our logs say, it need not be told.
        """
        found = {  # by log, because two hotkeys may delegate to one
            met.log: met.delegation
            for hotkey, met in self._met.items()
            if met.version > since and met.until_ms > self._time.ms and hotkey != peer.hotkey
            if self._lives(met.log, met.delegation, state) and not (same and _in_logs(met, state))
        }
        entries = sorted(found.items())
        return [
            Book(entries[start : start + BOOK_PER_FRAME_MAX]).encode()
            for start in range(0, len(entries), BOOK_PER_FRAME_MAX)
        ]

    def take(self, book: Book, state: State) -> None:
        """Note whom a peer has met; who holds no permit here, or is known better, is passed over.

        Raises:
            RemoteProtocolError: A delegation that its hotkey did not sign.
        """
        for log, delegation in book.entries:
            hotkey = delegation.hotkey
            before = self._heard.get(hotkey)
            if not self._lives(log, delegation, state):
                continue
            if before is not None and self._lives(*before, state) and _age(*before) >= _age(log, delegation):
                continue
            if not delegation.signed_for(self._network_id, log):
                raise RemoteProtocolError(f"book: {ss58_encode(hotkey)} did not sign its delegation to log {log}")
            self._heard.pop(hotkey, None)
            self._heard[hotkey] = log, delegation
            if len(self._heard) > HEARD_MAX:
                del self._heard[next(iter(self._heard))]

    def urls(self, state: State) -> dict[bytes, str]:
        """Hotkey -> base URL, of those that have one."""
        return {hotkey: delegation.url for hotkey, (_, delegation) in self.latest(state).items() if delegation.url}

    def latest(self, state: State) -> dict[bytes, tuple[LogId, Delegation]]:
        """Hotkey -> its latest delegation, and the log that it is for."""
        latest: dict[bytes, tuple[LogId, Delegation]] = {}
        for log, delegation in (*self._heard.values(), *((met.log, met.delegation) for met in self._met.values())):
            before = latest.get(delegation.hotkey)
            if self._lives(log, delegation, state) and (before is None or _age(*before) <= _age(log, delegation)):
                latest[delegation.hotkey] = log, delegation
        return latest

    def _lives(self, log: LogId, delegation: Delegation, state: State) -> bool:
        """Whether a delegation says something now: a permit, its window, and no closing of its log."""
        now_s = self._time.wall_ms // 1000
        held = state.logs.get(log)
        return (
            self._permitted(delegation.hotkey)
            and delegation.not_before - CLOCK_TOLERANCE_S <= now_s <= delegation.not_after + CLOCK_TOLERANCE_S
            and (held is None or held.ends.close is None)
        )


def _in_logs(met: _Met, state: State) -> bool:
    """Whether a log that counts says what the book says of its validator, or later words."""
    held = state.logs.get(met.log) if met.log in state.heads else None
    delegation = held and held.prefix.delegation
    return delegation is not None and delegation.not_before >= met.delegation.not_before


def _age(log: LogId, delegation: Delegation) -> tuple[int, int]:
    """What of two delegations says which is the later one; daemons number their logs by the time."""
    return delegation.not_before, log.number
