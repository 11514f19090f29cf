"""What this validator may say about chutes: ``place`` under the claim that owns a GPU, ``release`` of what it placed.

Runs inside the writer's transaction, so that no owner changes between the look and the word. Saying the same again
writes nothing: a command that is repeated costs no event.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError, WritesRefusedError
from p2pnodes.model.events import GPUS_PER_EVENT_MAX, Event, Place, Release
from p2pnodes.model.inventory import Chute, Placement, last_words
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.parts import batched

GPUS_PER_REQUEST_MAX: Final = 512
"""GPUs that one command may place or release; at most as many events share its transaction."""

_NAMED_MAX: Final = 16
"""GPUs that an error names; the rest are counted."""


class Written(NamedTuple):
    """One event that was written: its claim, the GPUs it names, its id."""

    claim_id: bytes
    uuids: tuple[str, ...]
    event_id: bytes


class Placed(NamedTuple):
    """What became of a request.

    Attributes:
        written: The new events, claim by claim.
        unchanged: GPUs of which this validator had said the same already.
        hotkey: Public key of this validator.
        enrolled: Whether its places count at present.
    """

    written: tuple[Written, ...]
    unchanged: tuple[str, ...]
    hotkey: bytes
    enrolled: bool


class UnknownGpusError(P2PNodesError):
    """GPUs that nobody owns, so that nothing can be placed there; nothing was written."""

    code = Code.ADMIN_UNKNOWN

    def __init__(self, uuids: Sequence[str]) -> None:
        """Name the GPUs."""
        super().__init__(f"not in the inventory: {_some(uuids)}; nothing was placed")
        self.uuids = list(uuids)


class NotPlacedError(P2PNodesError):
    """GPUs on which this validator never placed anything; nothing was written."""

    code = Code.ADMIN_UNKNOWN

    def __init__(self, uuids: Sequence[str]) -> None:
        """Name the GPUs."""
        super().__init__(f"nothing was ever placed there by this validator: {_some(uuids)}; nothing was released")
        self.uuids = list(uuids)


def place(ledger: Ledger, uuids: Sequence[str], chute: Chute, now_ms: int) -> Placed:
    """Say that a chute runs on GPUs: one event for each claim that owns some of them.

    Args:
        ledger: Inside its transaction.
        uuids: 1 to GPUS_PER_REQUEST_MAX GPUs; one that is named twice is placed once.
        chute: Within the bounds of ``events.Place``; a private one has neither name nor username.
        now_ms: Wall clock.

    Raises:
        UnknownGpusError: See its own text.
        WritesRefusedError: This daemon may not write now.
    """
    hotkey = _own_hotkey(ledger)
    uuids = list(dict.fromkeys(uuids))
    owners = ledger.facts.owners(uuids, ledger.weights)
    if unknown := [uuid for uuid in uuids if uuid not in owners]:
        raise UnknownGpusError(unknown)
    groups: dict[bytes, list[str]] = {}
    unchanged: list[str] = []
    for uuid, words in _own_words(ledger, hotkey, uuids).items():
        claim_id = owners[uuid].id
        said = words.get(claim_id)
        if said is not None and said.chute == chute:
            unchanged.append(uuid)
        else:
            groups.setdefault(claim_id, []).append(uuid)
    places = [Place(claim_id, tuple(part), *chute) for claim_id, part in groups.items()]
    return _write(ledger, hotkey, places, unchanged, now_ms)


def release(ledger: Ledger, uuids: Sequence[str], now_ms: int) -> Placed:
    """Take back whatever this validator placed on GPUs, also under claims that do not own them any more.

    Also under claims that are not known here: they may come back.

    Args:
        ledger: As for ``place``.
        uuids: As for ``place``.
        now_ms: As for ``place``.

    Raises:
        NotPlacedError: See its own text.
        WritesRefusedError: This daemon may not write now.
    """
    hotkey = _own_hotkey(ledger)
    uuids = list(dict.fromkeys(uuids))
    words = _own_words(ledger, hotkey, uuids, ledger.facts.worded(uuids, hotkey))
    if never := [uuid for uuid, said in words.items() if not said]:
        raise NotPlacedError(never)
    groups: dict[bytes, list[str]] = {}
    unchanged: list[str] = []
    for uuid, said in words.items():
        placed = sorted(claim_id for claim_id, placement in said.items() if placement.chute is not None)
        for claim_id in placed:
            groups.setdefault(claim_id, []).append(uuid)
        if not placed:
            unchanged.append(uuid)
    return _write(ledger, hotkey, [Release(*part) for part in _parts(groups)], unchanged, now_ms)


def _own_hotkey(ledger: Ledger) -> bytes:
    """The validator that the own log speaks for."""
    own = ledger.state.logs.get(ledger.own_log) if ledger.own_log else None
    if own is None:
        raise WritesRefusedError(ledger.writes_refused or "this daemon has no open log")
    return own.hotkey


def _own_words(
    ledger: Ledger, hotkey: bytes, uuids: Sequence[str], more: Collection[tuple[bytes, str]] = ()
) -> dict[str, dict[bytes, Placement]]:
    """This validator's last word on each of some GPUs, in order: GPU -> claim id -> placement."""
    placements = ledger.facts.placements(ledger.facts.claims_on(uuids), more)
    return {
        uuid: {
            claim_id: placement
            for (author, claim_id), placement in last_words(placements[uuid]).items()
            if author == hotkey
        }
        for uuid in uuids
    }


def _write(
    ledger: Ledger, hotkey: bytes, words: Iterable[Place | Release], unchanged: Iterable[str], now_ms: int
) -> Placed:
    written = [Written(word.claim_id, word.uuids, _append(ledger, word, now_ms).id) for word in words]
    return Placed(tuple(written), tuple(unchanged), hotkey, hotkey in ledger.weights.enrolled)


def _append(ledger: Ledger, word: Place | Release, now_ms: int) -> Event:
    return ledger.append(lambda _: word, now_ms)


def _parts(groups: Mapping[bytes, Sequence[str]]) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Claim id and GPUs of each event: a claim names few, but what was placed under one that is not known is any."""
    for claim_id, uuids in groups.items():
        for part in batched(uuids, GPUS_PER_EVENT_MAX):
            yield claim_id, tuple(part)


def _some(uuids: Sequence[str]) -> str:
    named = ", ".join(uuids[:_NAMED_MAX])
    return named if len(uuids) <= _NAMED_MAX else f"{named} and {len(uuids) - _NAMED_MAX} more"
