"""Writes a log off any ledger: nothing but its signatures has to be right, and it may have any number of branches."""

from collections.abc import Sequence
from typing import Self

from p2pnodes.model.events import Event, LogId, Payload, delegate
from p2pnodes.model.keys import Hotkey, NodeKey


class Pen:
    """One branch of a log, up to where it is written.

    Attributes:
        log: The log.
        events: Every event of the branch, from seq 0.
        hlc: Timestamp of the last one; what is written next lies above it unless it is told otherwise.
    """

    def __init__(self, node_key: NodeKey, network_id: bytes, number: int, events: Sequence[Event] = ()) -> None:
        """Go on behind ``events``."""
        self._node_key = node_key
        self._network_id = network_id
        self.log = LogId(node_key.public_key, number)
        self.events = list(events)
        self.hlc = self.events[-1].hlc if self.events else 0

    @property
    def last_seq(self) -> int:
        """Of the last event; -1 without any."""
        return len(self.events) - 1

    def delegate(self, hotkey: Hotkey, not_before: int, not_after: int, hlc: int | None = None) -> Event:
        """Let a hotkey speak through the log from one Unix second to another; ``hlc`` as for ``write``."""
        delegation = delegate(hotkey, self._network_id, self.log, url="", not_before=not_before, not_after=not_after)
        return self.write(delegation, hlc)

    def write(self, payload: Payload, hlc: int | None = None) -> Event:
        """Append an event.

        Args:
            payload: Valid or not.
            hlc: Its timestamp; else the lowest that is above the one before it.
        """
        self.hlc = self.hlc + 1 if hlc is None else hlc
        last = self.events[-1] if self.events else None
        event = Event.create(
            self._node_key,
            self._network_id,
            log_number=self.log.number,
            seq=len(self.events),
            previous=last.id if last else b"",
            hlc=self.hlc,
            payload=payload,
        )
        self.events.append(event)
        return event

    def branch(self, events: int) -> Self:
        """A second branch that shares the first ``events`` events."""
        return type(self)(self._node_key, self._network_id, self.log.number, self.events[:events])
