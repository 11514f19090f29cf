"""Damage: what a database holds that was not written into it, and what is said of it.

Whoever reads what this build wrote and finds that it cannot mean anything raises a StoreError that says so: it is the
disk's fault, neither a peer's nor a bug. What is derived from the log is not checked each time that it is read
(``p2pnodes db verify`` does that); an event is before it is sent to peers, who would take the sender for a liar.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgpack

from p2pnodes.model import codec
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.schema import REFILL

UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    msgpack.UnpackException,
    codec.MalformedError,
)
"""What Python, msgpack and our codec say of bytes that they did not write, and of other values than were written."""

REBUILD: Final = "run `p2pnodes db rebuild`, with the daemon stopped"
"""What to do where the log is whole, from which the rest can be derived again."""


class DamagedEventError(StoreError):
    """A stored event is not what it was when it was stored; peers that hold it can bring it again.

    Attributes:
        log: Its log.
        seq: Its seq there.
    """

    code = Code.DATA_DAMAGED

    def __init__(self, log: LogId, seq: int) -> None:
        super().__init__(f"the database is damaged: seq {seq} of log {log} is not the event that was stored")
        self.log = log
        self.seq = seq


def damaged(what: str, advice: str = REFILL) -> StoreError:
    """The error of a database in which something lacks, or cannot be read; ``what`` says that."""
    return StoreError(f"the database is damaged: {what}; {advice}", code=Code.DATA_DAMAGED)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Read what this build wrote; where that cannot be read, the database is damaged.

    Args:
        what: What is read, the beginning of a sentence.

    Raises:
        StoreError: It is.
    """
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(what, error) from error


def unreadable(what: str, error: Exception) -> StoreError:
    """What ``reading`` raises, for who reads a million of them, and takes no microsecond more for each."""
    return damaged(f"{what} cannot be read ({type(error).__name__}: {error})")


def stored_event(wire: bytes) -> Event:
    """An event from the database.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return Event.decode(wire)
    except UNREADABLE as error:
        raise unreadable("an event", error) from error


def stored_value(data: bytes, what: str) -> codec.Value:
    """A value in the canonical encoding from the database; ``what`` as ``reading`` has it.

    Raises:
        StoreError: It is damaged.
    """
    with reading(what):
        return codec.unpack(data)
