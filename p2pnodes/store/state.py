"""What the ledger says: what became of an event, what it holds of each log, and what a commit left."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from p2pnodes.model.branches import NO_ENDS, Ends
from p2pnodes.model.events import Event, Head, LogId
from p2pnodes.model.stateroot import Root
from p2pnodes.model.validity import Prefix
from p2pnodes.store.vector import NO_LOGS


class Result(StrEnum):
    """What became of an event that a peer sent."""

    STORED = "stored"
    KNOWN = "known"
    GAP = "gap"
    FORK = "fork"
    AHEAD = "ahead"
    REFUSED = "refused"
    FORGED = "forged"


class Outcome(NamedTuple):
    """Answer to one received event.

    Attributes:
        event: The event.
        result: STORED; KNOWN already; GAP: an event before it is missing; FORK: a rival of a stored event; AHEAD: its
            clock runs over 60 s ahead of ours, deferred; REFUSED: nobody must store it; FORGED: not signed by its log.
        detail: For STORED the reason why it is void, or empty. Otherwise what was found.
        proved: Of a FORK: the rival names the same previous id, so both together are evidence, which is recorded now.
    """

    event: Event
    result: Result
    detail: str
    proved: bool = False


class LogState(NamedTuple):
    """What the ledger keeps in memory of a log.

    Attributes:
        key: Its row key.
        id: Its node key and number.
        hotkey: The validator that it speaks for.
        head: The last stored event.
        prefix: What the next event is judged by.
        ends: What is proved about its end.
        cut: First seq that counts for nothing; None while all of it counts. Rows may follow later: ``Ledger.moving``.
        counted: The last stored event below the cut; None when there is none.
        hlc: Highest HLC below the cut; -1 for none.
        displaced: Whether it counts for nothing because its hotkey has too many logs, or because it is over and the cut
            in force does not name it: its cut is 0 then.
    """

    key: int
    id: LogId
    hotkey: bytes
    head: Head
    prefix: Prefix
    ends: Ends = NO_ENDS
    cut: int | None = None
    counted: Head | None = None
    hlc: int = -1
    displaced: bool = False


class State(NamedTuple):
    """What the last committed transaction left: comparable between peers at equal digests. Safe in any thread.

    Attributes:
        logs: Every log that is held.
        heads: The version vector as it is compared: of the logs whose hotkeys are permitted, the last event that
            counts; a log of which nothing counts is left out. What others say cannot matter, and some peers hold it
            while others never asked for it.
        root: The state root of all rows, hashed when it is first asked for.
        electorate_digest: Of the electorate that they were computed with.
        vector_digest: Of ``heads`` and the ends of these logs: over ``slices``.
        events: Stored events.
        nodes: Rows.
        ends: What is proved about the ends of the logs whose hotkeys are permitted, of those that have any; also of
            those that are not in ``heads``.
        own: The log that own events go to; None while there is none.
        slices: The hashes of the parts of the version vector; see ``store.vector``.
        checkpoint: Number of the checkpoint in force, 0 for none; state roots compare only where it is equal.
        checkpoint_id: Its id, which is that of its proposal; empty for none.
        certificate: Number of the latest that is final, 0 for none.
        loading: Whether the live set of the one in force comes from peers just now: nothing else can be said.
        leaving: Whether something that is here has to go before any of that can be taken.
        loaded: Whether all of that is here, and only rows have to follow from it.
        cutting: Whether what it leaves out, or what lies above the cut of a log, is still being taken away, by which
            rows may change.
    """

    logs: dict[LogId, LogState]
    heads: Mapping[LogId, Head]
    root: Root
    electorate_digest: bytes
    vector_digest: bytes
    events: int
    nodes: int
    ends: Mapping[LogId, Ends] = MappingProxyType({})
    own: LogId | None = None
    slices: tuple[bytes, ...] = NO_LOGS
    checkpoint: int = 0
    certificate: int = 0
    loading: bool = False
    leaving: bool = False
    loaded: bool = False
    cutting: bool = False
    checkpoint_id: bytes = b""

    @property
    def settled(self) -> int | None:
        """Number of the checkpoint in force, 0 for none; None while its live set is not here, or rows change by it."""
        return None if self.loading or self.cutting else self.checkpoint

    @property
    def state_root(self) -> bytes:
        """Over all rows, 32 bytes."""
        return self.root.hash
