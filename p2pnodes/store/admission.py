"""What a miner's request means for the inventory as it stands: accepted, a retry, in conflict, or too late.

Runs inside the writer's transaction, so that nothing can come between the check and the append. Signatures,
registration and the shape of the body were checked before; here only the order of compat.md, section 2, from
"the same request" on is decided.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from p2pnodes.model import inventory
from p2pnodes.model.claims import Body, duplicate_uuids
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.model.events import CLAIMS_PER_DELETE_MAX, VERIFIED, AddPayload, DeletePayload
from p2pnodes.model.requests import Add, Delete, parse_nonce, request_id
from p2pnodes.store.facts import StoredClaim
from p2pnodes.store.ledger import Ledger

RETRY_WINDOW_MS: Final = 600_000
"""A re-signed retry finds its claim while that is younger than this (compat.md, "Ours, better")."""

HOPPING_WINDOW_MS: Final = 86_400_000
HOPPING_CLAIMS_MAX: Final = 2
HOPPING_HOTKEYS_MIN: Final = 2
"""More claims on one GPU than this within the window, by at least so many hotkeys, are hopping. The latest one does not
count if it is the caller's own: who has a GPU may register it again (the central API's rule)."""

HISTORY_CLAIMS_MAX: Final = 256
"""Claims of one GPU that are looked at for it, those that came here last. As many in the window one hotkey may have on
a GPU: whatever is decided about that costs all daemons more with each of them."""

OPEN_CLAIMS_PER_MINER_MAX: Final = 2_048
"""Pending claims that one miner may have here (rule 6): 20,480 GPUs waiting for their vote."""

OPEN_CLAIMS_RETRY_S: Final = 60
"""When a miner with so many shall come back."""


Standings = Mapping[str, Mapping[int, inventory.Claim]]
"""GPU -> its standing claims by row key, see ``Facts.standing``."""


class ConflictError(P2PNodesError):
    """GPUs are in the inventory already: the miner's own standing claim, or another's verified one."""

    code = Code.API_TAKEN

    def __init__(self, uuids: Sequence[str]) -> None:
        """Name the GPUs, in request order."""
        super().__init__(f"nodes exist already: {list(uuids)}")
        self.uuids = list(uuids)


class HoppingError(P2PNodesError):
    """GPUs were claimed too often of late, by more than one hotkey."""

    code = Code.API_HOPPING

    def __init__(self, uses: Sequence[tuple[str, int]], retry_after_s: int) -> None:
        """Name the GPUs with how many claims named each, most first, and when none is over its bound any more."""
        super().__init__(f"nodes were claimed too often by several hotkeys: {list(uses)}")
        self.uses = list(uses)
        self.retry_after_s = retry_after_s


class ClockError(P2PNodesError):
    """The request's nonce loses against one that is recorded: the miner's clock went back."""

    code = Code.API_CLOCK_BACK


class NotOwnedError(P2PNodesError):
    """The miner has no standing claim on this GPU."""

    code = Code.API_NOT_OWNED


class ReusedSignatureError(P2PNodesError):
    """An unbound delete signature was used for another GPU before."""

    code = Code.API_REUSED_SIGNATURE


class TooManyClaimsError(P2PNodesError):
    """The miner has as many pending claims as are allowed at once, or registered a GPU too often."""

    code = Code.API_TOO_MANY_CLAIMS

    def __init__(self, reason: str, retry_after_s: int = OPEN_CLAIMS_RETRY_S) -> None:
        """Say which, and when it may be otherwise."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def admit_add(
    ledger: Ledger,
    request: Add,
    body: Body,
    refusal: Exception | None,
    now_ms: int,
    *,
    denial: Exception | None = None,
) -> StoredClaim:
    """Record a registration, or find the claim that it repeats.

    Args:
        ledger: Inside its transaction.
        request: Signed by a registered miner.
        body: Its body, 1 to 10 GPUs.
        refusal: What else is wrong with it (hosts, specs, duplicate uuids); raised when no earlier check answers.
        now_ms: Wall clock.
        denial: Why this miner may register nothing new here; raised when the request is no repetition.

    Raises:
        ConflictError: See its own text.
        HoppingError: See its own text.
        ClockError: The miner deleted one of these GPUs with a higher nonce.
        TooManyClaimsError: See its own text.
        WritesRefusedError: This daemon may not write now.
    """
    facts, weights = ledger.facts, ledger.weights
    claim_id = request_id(ledger.network.id, request)
    key = facts.claim_key(claim_id)
    known = None if key is None else facts.claim(key)
    # What is stored may count for nothing here (its author lost the permit, or lied about the electorate): then this
    # daemon must carry the request itself before it says yes.
    if key is not None and known is not None and inventory.counts(known, weights.electorate):
        return _found(ledger, key)
    uuids = [node.uuid for node in body.nodes]
    standings = facts.standing(uuids, weights) if facts.named(uuids) else {}
    if retried := _retried(ledger, request, uuids, standings, now_ms):
        return retried
    if denial is not None:
        raise denial
    if standings:
        _require_no_conflict(ledger, request, standings)
        _require_short_histories(ledger, request.hotkey, uuids, now_ms)
    if refusal is not None:
        raise refusal
    if duplicates := duplicate_uuids(body):
        raise ValueError(f"BUG! the caller let duplicate uuids pass: {duplicates}")
    if standings:
        _require_newest(ledger, request, uuids)
    if ledger.open_claims(request.hotkey, now_ms) >= OPEN_CLAIMS_PER_MINER_MAX:
        raise TooManyClaimsError(f"{OPEN_CLAIMS_PER_MINER_MAX} claims of this hotkey wait for their vote already")
    event = ledger.append(lambda _: AddPayload(request, weights.electorate.block), now_ms)
    if key is not None and known is not None:
        return _found(ledger, key)
    # A verdict may have come before its claim; a claim that nothing had named has none.
    tally = inventory.tally((), weights) if key is None else facts.tallies([key], weights)[key]
    return StoredClaim(claim_id, request.hotkey, parse_nonce(request.nonce) or 0, body, event.hlc, tally)


def _retried(
    ledger: Ledger, request: Add, uuids: Sequence[str], standings: Standings, now_ms: int
) -> StoredClaim | None:
    """The miner's claim, if the request is the same body signed anew soon after and it stands on all of its GPUs."""
    for key, claim in standings.get(uuids[0], {}).items():
        if claim.miner != request.hotkey or any(key not in standings.get(uuid, {}) for uuid in uuids):
            continue
        created_ms = hlc_ms(min(carriage.hlc for carriage in claim.carriages))
        if now_ms - created_ms < RETRY_WINDOW_MS and ledger.facts.raw_body(claim.id) == request.body:
            return _found(ledger, key)
    return None


def _require_no_conflict(ledger: Ledger, request: Add, standings: Standings) -> None:
    tallies = ledger.facts.tallies({key for claims in standings.values() for key in claims}, ledger.weights)
    conflicts = [
        uuid
        for uuid, claims in standings.items()
        if any(claim.miner == request.hotkey or tallies[key].status == VERIFIED for key, claim in claims.items())
    ]
    if conflicts:
        raise ConflictError(conflicts)


def _require_short_histories(ledger: Ledger, miner: bytes, uuids: Sequence[str], now_ms: int) -> None:
    """Refuse GPUs that go from hotkey to hotkey (compat.md, section 3, 429), and those that one registers too often.

    The log is their history.
    """
    since_hlc = hlc_at(max(0, now_ms - HOPPING_WINDOW_MS))
    uses: list[tuple[str, int]] = []
    until_ms = 0
    often: list[tuple[str, int]] = []
    for uuid in dict.fromkeys(uuids):
        history = ledger.facts.history(uuid, since_hlc, HISTORY_CLAIMS_MAX)
        if sum(claimant == miner for _, claimant in history) >= HISTORY_CLAIMS_MAX:
            often.append((uuid, hlc_ms(history[0][0]) + HOPPING_WINDOW_MS))
        if history and history[-1][1] == miner:
            del history[-1]
        hops = _hops(history)
        if hops:
            uses.append((uuid, len(history)))
            until_ms = max(until_ms, hlc_ms(history[hops - 1][0]) + HOPPING_WINDOW_MS)
    if uses:
        uses.sort(key=lambda use: -use[1])
        raise HoppingError(uses, _seconds_until(until_ms, now_ms))
    for uuid, until_ms in often:
        raise TooManyClaimsError(
            f"GPU {uuid} was registered {HISTORY_CLAIMS_MAX} times by this hotkey within "
            f"{HOPPING_WINDOW_MS // 3_600_000} hours",
            _seconds_until(until_ms, now_ms),
        )


def _seconds_until(until_ms: int, now_ms: int) -> int:
    return max(1, (until_ms - now_ms) // 1000 + 1)


def _hops(history: Sequence[tuple[int, bytes]]) -> int:
    """How many claims, from the earliest, must grow old before a GPU's history is within the rule; 0 when it is."""
    miners: set[bytes] = set()
    for recent, (_, miner) in enumerate(reversed(history), 1):
        miners.add(miner)
        if recent > HOPPING_CLAIMS_MAX and len(miners) >= HOPPING_HOTKEYS_MIN:
            return len(history) - recent + 1
    return 0


def _found(ledger: Ledger, key: int) -> StoredClaim:
    stored = ledger.facts.stored(key, ledger.weights)
    if stored is None:
        raise LookupError("BUG! a claim that was just read is gone")
    return stored


def _require_newest(ledger: Ledger, request: Add, uuids: Sequence[str]) -> None:
    nonce = parse_nonce(request.nonce) or 0
    for uuid, deleted in ledger.facts.deleted_above(uuids, request.hotkey, nonce).items():
        raise ClockError(
            f"the nonce {nonce} lies below {deleted}, with which GPU {uuid} was deleted: "
            "check the clock of the signing machine and sign again"
        )


def admit_delete(ledger: Ledger, request: Delete, uuid: str, now_ms: int) -> None:
    """Record a deletion of one GPU; the same signed request for the same GPU again changes nothing.

    Raises:
        ReusedSignatureError: See its own text.
        NotOwnedError: See its own text.
        ClockError: The miner's claim has a higher nonce.
        WritesRefusedError: This daemon may not write now.
    """
    facts, weights = ledger.facts, ledger.weights
    named = ledger.uuids_deleted_by(request_id(ledger.network.id, request))
    if uuid in named:
        return
    if named:
        raise ReusedSignatureError(f"this signature was used to delete GPU {min(named)}: sign each deletion by itself")
    nonce = parse_nonce(request.nonce) or 0
    own = [claim for claim in facts.standing([uuid], weights)[uuid].values() if claim.miner == request.hotkey]
    if not own:
        raise NotOwnedError(f"no standing claim of this hotkey on GPU {uuid}")
    if (latest := max(claim.nonce for claim in own)) > nonce:
        raise ClockError(
            f"the nonce {nonce} lies below {latest}, with which GPU {uuid} was registered: "
            "check the clock of the signing machine and sign again"
        )
    # Those of the request's own nonce come first: lower ones end without being named.
    own.sort(key=lambda claim: (-claim.nonce, claim.id))
    claim_ids = tuple(sorted(claim.id for claim in own[:CLAIMS_PER_DELETE_MAX]))
    ledger.append(lambda _: DeletePayload(request, uuid, claim_ids), now_ms)
