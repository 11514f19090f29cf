"""When this validator checks a claim, and how what it found becomes its verdict. No I/O but the ledger's own."""

from collections.abc import Mapping
from typing import Final

from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.events import DETAIL_CHARS_MAX, VERIFIED, Renew, Verdict
from p2pnodes.model.inventory import Vote, Weights
from p2pnodes.model.rendezvous import place_of, ranking
from p2pnodes.store.checks import Check, Prospect, read_check, write_check
from p2pnodes.store.ledger import Ledger
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.turns import OVERDUE, RENEW_EARLIEST, renew_ms, retry_ms, turns

FAULT_FIRST_MS: Final = 5_000
"""Pause after this validator could not check for the first time; doubled with each time in a row."""

FAULT_MAX_MS: Final = 600_000


def begins_ms(prospect: Prospect, validator: bytes, weights: Weights, slot_ms: int, now_ms: int) -> int | None:
    """When a validator may begin to check a claim; None when it need not, as things stand.

    Args:
        prospect: The claim.
        validator: The one that asks, an enrolled one: the verdicts of others count for nothing.
        weights: Who counts.
        slot_ms: Length of a turn at this claim.
        now_ms: Wall clock, Unix milliseconds.
    """
    if validator not in weights.enrolled:
        return None
    check, own = prospect.check, prospect.own
    created_ms = hlc_ms(prospect.claim.created_hlc)
    others = [vote for vote in prospect.votes if vote.author != validator]
    found = turns(prospect.claim.claim_id, created_ms, others, weights, slot_ms, now_ms)
    if own is not None and not _overdue(own, weights, now_ms):
        if validator not in found.waiting:
            return None  # it stepped in once; without it the vote is decided, too
        # Verdicts that were written without this book (a restored backup's, say) are renewed soon: better than late.
        return max(now_ms, check.due_ms) if check else now_ms
    earliest_ms = max(now_ms, check.due_ms) if check and check.faults else now_ms
    if check and not check.faults:  # a check that was begun, and cut off
        found = found._replace(waiting=found.waiting | {validator})
    return found.begins_ms(validator, earliest_ms)


def _overdue(vote: Vote, weights: Weights, now_ms: int) -> bool:
    return hlc_ms(vote.hlc) < now_ms - int(weights.network.verdict_ttl_s * 1000 * OVERDUE)


def record_verdict(  # noqa: PLR0917 - what was found by whom, when
    ledger: Ledger,
    claim_id: bytes,
    finding: Finding,
    method: str,
    validator: bytes,
    slot_ms: int,
    now_ms: int,
    *,
    anew: bool = False,
) -> bool:
    """Write what was found into the own log, and into the book when to look again; call inside a transaction.

    Args:
        ledger: The own one.
        claim_id: 32 bytes.
        finding: What was found.
        method: The verifier's name.
        validator: The own hotkey.
        slot_ms: Length of a turn at this claim.
        now_ms: Wall clock, Unix milliseconds.
        anew: Write also what was said a short while ago: somebody asked for it.

    Returns:
        Whether a verdict was written: none is when the very same was said a short while ago.

    Raises:
        WritesRefusedError: This daemon may not write now; the book is not touched.
    """
    ttl_ms = ledger.network.verdict_ttl_s * 1000
    previous = ledger.facts.own_verdict(claim_id, validator)
    repeated = previous is not None and previous.finding == finding.finding and _fresh(previous, ttl_ms, now_ms)
    if not repeated or anew:
        since_before = _unbroken_since(previous, ttl_ms, now_ms)

        def build(hlc: int) -> Verdict:
            since = None
            if finding.finding == VERIFIED:
                since = hlc if since_before is None else since_before
            return Verdict(claim_id, finding.finding, method, finding.detail[:DETAIL_CHARS_MAX], since)

        ledger.append(build, now_ms)
    said_ms = hlc_ms(previous.hlc) if repeated and previous and not anew else now_ms
    if finding.finding == VERIFIED:
        _book_renewal(ledger, claim_id, validator, slot_ms, said_ms)
    else:
        place = place_of(ranking(claim_id, ledger.weights.enrolled), validator)
        held = read_check(ledger.facts, claim_id)
        failures = (held.failures if held else 0) + 1
        due_ms = retry_ms(now_ms, failures, place, slot_ms, ttl_ms)
        # What is said by silence alone lapses with the verdict that said it last.
        write_check(ledger.facts, claim_id, Check(min(due_ms, said_ms + int(ttl_ms * OVERDUE)), failures))
    return not repeated or anew


def renewed_since(vote: Vote | None, ttl_ms: int, now_ms: int) -> int | None:
    """The ``since`` with which a verdict that the claim is verified is renewed; None where there is none to renew yet.

    Args:
        vote: The validator's latest verdict on the claim, if any.
        ttl_ms: A verdict's life.
        now_ms: Wall clock, Unix milliseconds.
    """
    return None if vote is None or _fresh(vote, ttl_ms, now_ms) else _unbroken_since(vote, ttl_ms, now_ms)


def _unbroken_since(vote: Vote | None, ttl_ms: int, now_ms: int) -> int | None:
    """Since when a run of verified goes on that is not broken before now."""
    return vote.since if vote is not None and hlc_ms(vote.hlc) >= now_ms - ttl_ms else None


def _fresh(vote: Vote, ttl_ms: int, now_ms: int) -> bool:
    """Whether a verdict is so young that saying it again says nothing."""
    return hlc_ms(vote.hlc) >= now_ms - int(ttl_ms * RENEW_EARLIEST)


def record_renewals(ledger: Ledger, slots_ms: Mapping[bytes, int], method: str, validator: bytes, now_ms: int) -> int:
    """Write into the own log that claims were found verified again, and into the book when to look again.

    Call it inside a transaction. A claim of which the own log says something else by now, or the same a short while
    ago, is left out; the book then says what to do with it.

    Args:
        ledger: The own one.
        slots_ms: The claims, at most RENEWED_MAX, each with the length of a turn at it.
        method: The verifier's name.
        validator: The own hotkey.
        now_ms: Wall clock, Unix milliseconds.

    Returns:
        How many verdicts were written, all in one event.

    Raises:
        WritesRefusedError: This daemon may not write now; the book is not touched.
    """
    ttl_ms = ledger.network.verdict_ttl_s * 1000
    renewed: list[tuple[bytes, int]] = []
    for claim_id in sorted(slots_ms):
        since = renewed_since(ledger.facts.own_verdict(claim_id, validator), ttl_ms, now_ms)
        if since is not None:
            renewed.append((claim_id, since))
    if renewed:
        ledger.append(lambda _: Renew(method, tuple(renewed)), now_ms)
    for claim_id, _ in renewed:
        _book_renewal(ledger, claim_id, validator, slots_ms[claim_id], now_ms)
    return len(renewed)


def _book_renewal(ledger: Ledger, claim_id: bytes, validator: bytes, slot_ms: int, said_ms: int) -> None:
    """Enter when a claim that was said to be verified is checked again."""
    place = place_of(ranking(claim_id, ledger.weights.enrolled), validator)
    ttl_ms = ledger.network.verdict_ttl_s * 1000
    write_check(ledger.facts, claim_id, Check(renew_ms(claim_id, said_ms, place, slot_ms, ttl_ms)))


def record_fault(ledger: Ledger, claim_id: bytes, reason: str, now_ms: int) -> Check:
    """Enter into the book that this validator could not check; call inside a transaction. Nobody else learns of it."""
    held = read_check(ledger.facts, claim_id) or Check(0)
    pause_ms = min(FAULT_FIRST_MS << min(held.faults, 20), FAULT_MAX_MS)
    check = Check(now_ms + pause_ms, held.failures, held.faults + 1, reason)
    write_check(ledger.facts, claim_id, check)
    return check
