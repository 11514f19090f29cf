"""Why a claim or a GPU is where it is (``model/explain``), as JSON for operators.

Times are UTC texts, ids lower-case hex, hotkeys SS58 addresses, stakes integers in the electorate's unit. What grows
with time is cut to LISTED_MAX entries, and ``left_out`` says how many those are that are not shown.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from p2pnodes.model import explain
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.explain import Appeal, Candidacy, ClaimCase, ClaimedGpu, NodeCase, Voice
from p2pnodes.model.inventory import (
    Carriage,
    Chute,
    Claim,
    Ending,
    Objection,
    Scales,
    Tally,
    Weights,
    counted_carriages,
)
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.requests import task_id_of
from p2pnodes.store.checks import Check
from p2pnodes.store.placing import Placed
from p2pnodes.verify.turns import Turns

LISTED_MAX: Final = 256
"""Entries of a list that is shown; the owner of a GPU is always among them."""

YEAR_9999_S: Final = 253_402_300_799
"""The last second that a date can name; a delegation may name later ones."""

T = TypeVar("T")


def claim(case: ClaimCase) -> dict[str, Any]:
    """Answer to ``GET /claims/{id}``, but for the turns."""
    electorate, poll = case.weights.electorate, case.poll
    voices, more_voices = poll.voices[:LISTED_MAX], poll.voices[LISTED_MAX:]
    carriages, more_carriages = case.carriages[:LISTED_MAX], case.carriages[LISTED_MAX:]
    return {
        **_identity(case.claim),
        "created_at": _instant(min(carriage.hlc for carriage in case.claim.carriages)),
        "electorate": {"block": electorate.block, "time": instant_ms(electorate.time_ms)},
        "counts": case.objection is None,
        "why": _why_not(case.claim, case.objection, electorate) or "",
        "task": case.task._asdict(),
        "vote": {**_tally(poll.tally), **_scales(poll.scales, case.weights)},
        "votes": [_voice(voice) for voice in voices],
        "carriages": [_carriage(*carriage) for carriage in carriages],
        "gpus": [_gpu(gpu, electorate) for gpu in case.gpus],
        "left_out": {"votes": len(more_voices), "carriages": len(more_carriages)},
    }


def node(case: NodeCase) -> dict[str, Any]:
    """Answer to ``GET /nodes/{uuid}``."""
    row, electorate = case.row, case.electorate
    owner_id = None if row is None else row.claim_id
    candidacies = _most_telling(case.candidacies, owner_id)
    deletions, placements = case.deletions[-LISTED_MAX:], case.placements[:LISTED_MAX]
    happenings = explain.history(case)
    owner = next((candidacy for candidacy in case.candidacies if candidacy.claim.id == owner_id), None)
    return {
        "uuid": case.uuid,
        "electorate": {"block": electorate.block, "time": instant_ms(electorate.time_ms)},
        "owner": owner
        and row
        and {
            **_identity(owner.claim),
            "created_at": _instant(row.created_hlc),
            **_tally(Tally(row.status, row.verified_since, row.detail)),
            "chute": _chute(row.chute),
        },
        "rule": case.rule.value,
        "claims": [_candidate(candidacy, owner_id, electorate) for candidacy in candidacies],
        "deletions": [_appeal(appeal) for appeal in deletions],
        "placements": [
            {
                "validator": ss58_encode(placement.author),
                "claim_id": placement.claim_id.hex(),
                "at": _instant(placement.hlc),
                "chute": _chute(placement.chute),
                "state": state.value,
            }
            for placement, state in placements
        ],
        "history": [
            {
                "at": instant_ms(happening.at_ms),
                "what": happening.what,
                "who": None if happening.who is None else ss58_encode(happening.who),
                "id": happening.reference.hex(),
            }
            for happening in happenings[-LISTED_MAX:]
        ],
        "left_out": {
            "claims": len(case.candidacies) - len(candidacies),
            "deletions": len(case.deletions) - len(deletions),
            "placements": len(case.placements) - len(placements),
            "history": max(0, len(happenings) - LISTED_MAX),
        },
    }


def placed(result: Placed) -> dict[str, Any]:
    """Answer to ``POST /place`` and ``POST /release``."""
    validator = ss58_encode(result.hotkey)
    return {
        "written": [
            {"claim_id": each.claim_id.hex(), "uuids": list(each.uuids), "event_id": each.event_id.hex()}
            for each in result.written
        ],
        "unchanged": list(result.unchanged),
        "validator": validator,
        "enrolled": result.enrolled,
        "warning": None
        if result.enrolled
        else f"{validator} is not enrolled (no permit, or no live delegation): what it places does not count",
    }


def turns(found: Turns, now_ms: int) -> list[dict[str, Any]]:
    """Who checks a claim, and when: an entry for each enrolled validator, in order.

    Args:
        found: The turns.
        now_ms: Wall clock, Unix milliseconds.
    """
    entries: list[dict[str, Any]] = []
    for rank, validator in enumerate(found.order, 1):
        begins_ms = found.begins_ms(validator, now_ms)
        if begins_ms is not None:
            state = "may check now" if begins_ms <= now_ms else "waits for its turn"
        else:
            state = "has voted" if validator in found.voted else "not needed"
        entries.append(
            {
                "validator": ss58_encode(validator),
                "rank": rank,
                "begins_at": None if begins_ms is None else instant_ms(begins_ms),
                "state": state,
            }
        )
    return entries


def check(entry: Check | None) -> dict[str, Any] | None:
    """What this validator's own book says of a claim; None when nothing.

    ``due_at``; ``failures``, findings other than verified in a row; ``faults``, times in a row that this validator
    could not check; ``note``, why it could not.
    """
    return None if entry is None else {**entry._asdict(), "due_at": instant_ms(entry.due_ms)}


def _identity(claim: Claim) -> dict[str, Any]:
    address = ss58_encode(claim.miner)
    return {
        "claim_id": claim.id.hex(),
        "task_id": task_id_of(address, claim.id),
        "hotkey": address,
        "nonce": claim.nonce,
    }


def _tally(tally: Tally) -> dict[str, Any]:
    since = None if tally.since is None else _instant(tally.since)
    return {"status": tally.status, "verified_since": since, "detail": tally.detail}


def _scales(scales: Scales, weights: Weights) -> dict[str, Any]:
    """Stakes of a vote; ``missing`` is how much more each side would need, all else unchanged."""
    return {
        "enrolled_stake": weights.total,
        "weighed_stake": scales.weighed,
        "verified_stake": scales.verified,
        "failed_stake": scales.failed,
        "needed": {"quorum": scales.quorum, "share": scales.share, "failed": scales.failing},
        "missing": {
            "quorum": max(0, scales.quorum - scales.verified),
            "share": max(0, scales.share - scales.verified),
            "failed": max(0, scales.failing - scales.failed),
        },
    }


def _voice(voice: Voice) -> dict[str, Any]:
    vote = voice.vote
    return {
        "validator": ss58_encode(voice.validator),
        "stake": voice.stake,
        "state": voice.state.value,
        "weighed": voice.weighed,
        "finding": vote and vote.finding,
        "method": vote and vote.method,
        "detail": vote and vote.detail,
        "at": vote and _instant(vote.hlc),
        "since": None if vote is None or vote.since is None else _instant(vote.since),
    }


def _carriage(carriage: Carriage, objection: Objection | None) -> dict[str, Any]:
    return {
        "author": ss58_encode(carriage.author),
        "electorate_block": carriage.electorate_block,
        "at": _instant(carriage.hlc),
        "state": "counts" if objection is None else objection.value,
    }


def _gpu(gpu: ClaimedGpu, electorate: Electorate) -> dict[str, Any]:
    own, owner = gpu.candidacy, gpu.owner
    owns = owner is not None and owner.id == own.claim.id
    return {
        "uuid": gpu.uuid,
        "state": _state(own, owns=owns),
        "why": _why(own, electorate),
        "ended_by": _ended_by(own),
        "owner": owner
        and {
            "claim_id": owner.id.hex(),
            "hotkey": ss58_encode(owner.miner),
            "status": gpu.owner_tally and gpu.owner_tally.status,
        },
        "rule": gpu.rule.value,
        "task": None if gpu.answer is None else gpu.answer._asdict(),
    }


def _candidate(candidacy: Candidacy, owner_id: bytes | None, electorate: Electorate) -> dict[str, Any]:
    return {
        **_identity(candidacy.claim),
        **_tally(candidacy.tally),
        "state": _state(candidacy, owns=candidacy.claim.id == owner_id),
        "why": _why(candidacy, electorate),
        "ended_by": _ended_by(candidacy),
    }


def _state(candidacy: Candidacy, *, owns: bool) -> str:
    if owns:
        return "owner"
    if candidacy.stands:
        return "stands"
    return "deleted" if candidacy.ended_by else str(candidacy.objection)


def _ended_by(candidacy: Candidacy) -> dict[str, Any] | None:
    deletion = candidacy.ended_by
    return None if deletion is None else {"request_id": deletion.request_id.hex(), "nonce": deletion.nonce}


def _why(candidacy: Candidacy, electorate: Electorate) -> str:
    """Why a claim does not stand on a GPU, in words; empty when it does."""
    reasons = []
    if (deletion := candidacy.ended_by) is not None:
        how = "with a higher nonce" if deletion.nonce > candidacy.claim.nonce else "which names it"
        reasons.append(f"deleted by request {deletion.request_id.hex()[:8]} of nonce {deletion.nonce}, {how}")
    if reason := _why_not(candidacy.claim, candidacy.objection, electorate):
        reasons.append(reason)
    return "; ".join(reasons)


def _why_not(claim: Claim, objection: Objection | None, electorate: Electorate) -> str | None:
    registration = electorate.registration_block(claim.miner)
    match objection:
        case None:
            return None
        case Objection.NOT_REGISTERED:
            return f"its miner is not registered at block {electorate.block}"
        case Objection.REGISTERED_LATER:
            highest = max(carriage.electorate_block for carriage in counted_carriages(claim, electorate))
            return (
                f"its miner registered at block {registration}, above {highest}, the highest electorate block that "
                "carries the claim: it left the chain, came back, and must register the GPU again"
            )
        case _:
            cut = [each for each in claim.carriages if each.cut]
            ahead = [each for each in claim.carriages if not each.cut and each.electorate_block > electorate.block]
            void = f"{len(cut)} lie where a fork or closing cuts their log off, " if cut else ""
            return (
                f"no event that carries it counts: of {len(claim.carriages)}, {void}{len(ahead)} name an electorate "
                f"above block {electorate.block}, the others' authors hold no permit"
            )


def _appeal(appeal: Appeal) -> dict[str, Any]:
    deletion, ending = appeal
    if isinstance(ending, Ending):
        state = "counts"
        effect = f"ends claims of its miner below nonce {ending.nonce}"
        if ending.claim_ids:
            effect += f", and {len(ending.claim_ids)} at it"
    else:
        state, effect = ending.value, "ends nothing"
    return {
        "request_id": deletion.request_id.hex(),
        "hotkey": ss58_encode(deletion.miner),
        "nonce": deletion.nonce,
        "bound": deletion.bound,
        "authors": [ss58_encode(author) for author in sorted({each.author for each in deletion.carriages})],
        "state": state,
        "effect": effect,
    }


def _chute(chute: Chute | None) -> dict[str, Any] | None:
    return None if chute is None else chute._asdict()


def _most_telling(candidacies: Sequence[Candidacy], owner_id: bytes | None) -> list[Candidacy]:
    """At most LISTED_MAX claims in order of their stamps: the owner, then those that stand, then the newest."""
    if len(candidacies) <= LISTED_MAX:
        return list(candidacies)
    newest = sorted(candidacies, key=lambda each: (each.claim.id == owner_id, each.stands, each.claim.stamp))
    return sorted(newest[-LISTED_MAX:], key=lambda each: each.claim.stamp)


def _instant(hlc: int) -> str:
    return instant_ms(hlc_ms(hlc))


def instant_ms(ms: int) -> str:
    """A moment as the operators' views write it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
