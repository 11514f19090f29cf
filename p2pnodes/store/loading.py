"""Taking what peers send of a checkpoint: its certificate, and its live set, slice by slice.

Each function is one job of the writer's, and says what became of what it was given.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from p2pnodes.model.codec import MalformedError
from p2pnodes.model.events import Event
from p2pnodes.store.checkpoints import certified
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import hindrance, objection


class Found(StrEnum):
    """What became of a certificate or a slice.

    Attributes:
        TAKEN: It is here, or it was here already: nothing more follows.
        LOADS: A certificate whose live set is to be loaded from now on.
        DISTRUSTED: A certificate whose signers have no quorum of the stake of today. The electorate here may be an old
            one, or none yet, so whoever sent it need not lie.
        FORGED: It proves nothing.
        FAILED: The store did not take it: it is full, or the disk fails; or something has to go first.
    """

    TAKEN = "taken"
    LOADS = "loads"
    DISTRUSTED = "distrusted"
    FORGED = "forged"
    FAILED = "failed"


class Answer(NamedTuple):
    """What became of it, and why."""

    found: Found
    detail: str = ""


class Lack(NamedTuple):
    """What is missing of the live set that is being loaded.

    Attributes:
        number: Of the checkpoint; 0 while none is loaded.
        of: Slices that the live set has.
        missing: Those that are not here, in order.
    """

    number: int
    of: int
    missing: Sequence[int]


NOTHING: Final = Lack(0, 0, ())
"""While nothing is loaded."""


def consider(ledger: Ledger, number: int, wire: bytes) -> Answer:
    """Take a certificate; call inside a transaction.

    Where all that lies below its cut is here, the live set is found here; otherwise it is to be loaded from peers from
    now on. One that is higher than what is being loaded takes its place.

    Args:
        ledger: What is here.
        number: Of the checkpoint that was asked for.
        wire: ``Certificate.encode``, checked here.
    """
    try:
        said = certified(ledger.network, wire)
    except MalformedError as error:
        return Answer(Found.FORGED, str(error))
    found, held = said.line.number, ledger.checkpoints
    if found != number:
        return Answer(Found.FORGED, f"certificate: expected that of checkpoint {number}, found that of {found}")
    if number <= held.line.number or number < held.highest:
        return Answer(Found.TAKEN)
    if not held.trusts(said):
        reason = "its signers have no quorum of the stake in the electorate that is known here; its id is "
        return Answer(Found.DISTRUSTED, f"{reason}{said.line.proposal.hex()}")
    # While a live set is loaded, what lies below its cut only seems to be here.
    if held.loading is None:
        why = hindrance(ledger, said)
        # One that follows that in force comes before others, or it is the operator's turn: it differs. What is not here
        # of it may be nowhere any more: logs that later ones do not name are forgotten.
        pending = None if held.follows(said) else held.pending
        if pending is not None and held.follows(pending):
            why = objection(ledger, said.line) or objection(ledger, pending.line)
        if why is None:
            held.take(wire)
            return Answer(Found.TAKEN)
    else:
        why = f"the live set of checkpoint {held.line.number} was not here yet"
    ledger.begin_loading(wire)
    return Answer(Found.LOADS, why)


def lacking(ledger: Ledger) -> Lack:
    """What is still to be loaded: nothing before all is gone that has to go first (``Ledger.leaving``)."""
    loading = ledger.checkpoints.loading
    if loading is None or ledger.leaving:
        return NOTHING
    return Lack(loading.number, loading.slices, ledger.missing_slices())


def load(  # noqa: PLR0917 - what a slice is made of
    ledger: Ledger,
    number: int,
    index: int,
    leaves: Sequence[tuple[int, bytes | Event]],
    path: Sequence[bytes],
    check: Callable[[Sequence[Event]], None] | None = None,
) -> Answer:
    """Take a slice; call inside a transaction.

    Args:
        ledger: What is here.
        number: Of the checkpoint that it was asked for; where another one is loaded by now, nothing changes.
        index: See ``Ledger.load``, and so for the rest.
        leaves: See there.
        path: See there.
        check: See there.
    """
    loading = ledger.checkpoints.loading
    if loading is None or loading.number != number:
        return Answer(Found.TAKEN)
    if ledger.leaving:
        return Answer(Found.FAILED, "what cannot stay beside it is not gone yet")
    try:
        ledger.load(index, leaves, path, check)
    except MalformedError as error:
        return Answer(Found.FORGED, str(error))
    return Answer(Found.TAKEN)
