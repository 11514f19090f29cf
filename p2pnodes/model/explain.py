"""Why the inventory is as it is: the decisions of ``model/inventory`` laid open, one by one.

Nothing is decided here. Every answer comes from the function that decides, so an explanation cannot say anything else
than the inventory shows; what is added is the name of the case.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from p2pnodes.model import inventory
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import ABSTAIN, VERIFIED
from p2pnodes.model.inventory import (
    Carriage,
    Claim,
    Deletion,
    Ending,
    Objection,
    Placement,
    Row,
    Scales,
    Tally,
    TaskStatus,
    Vote,
    Weights,
)


class VoiceState(StrEnum):
    """What a verdict, or its absence, does in the vote on a claim."""

    COUNTS = "counts"
    ABSTAINS = "abstains"
    """Counts as an abstention: its stake is not weighed."""
    LAPSED = "lapsed"
    """Older than a verdict lives, at E's time."""
    SUPERSEDED = "superseded"
    """The same validator said something later in another of its logs."""
    NO_PERMIT = "no permit"
    NO_DELEGATION = "no live delegation"
    """Permitted, but no delegation of its lives at E's time."""
    AWAITED = "awaited"
    """Enrolled, and has said nothing yet."""
    YOUNG = "new"
    """Has said nothing, and its first delegation is younger than a verdict lives: not waited for."""


class Voice(NamedTuple):
    """One validator in the vote on a claim.

    Attributes:
        validator: Public key.
        stake: As E has it; 0 without a permit.
        vote: Its verdict, or None.
        state: What that does.
        weighed: Whether its stake is part of W.
    """

    validator: bytes
    stake: int
    vote: Vote | None
    state: VoiceState
    weighed: bool


class Poll(NamedTuple):
    """The vote on a claim: what it comes to, what is on the scales, and who put it there.

    Attributes:
        tally: The outcome.
        scales: Stakes for and against, and what decides.
        voices: Enrolled validators and all others with a verdict, the most stake first, superseded verdicts last.
    """

    tally: Tally
    scales: Scales
    voices: tuple[Voice, ...]


class Candidacy(NamedTuple):
    """A claim on one GPU.

    Attributes:
        claim: The claim.
        tally: Its vote.
        objection: Why it does not count anywhere; None when it does.
        ended_by: The delete with the lowest (nonce, request id) that ends it on this GPU, or None.
    """

    claim: Claim
    tally: Tally
    objection: Objection | None
    ended_by: Deletion | None

    @property
    def stands(self) -> bool:
        """Whether it may own the GPU."""
        return self.objection is None and self.ended_by is None


class OwnerRule(StrEnum):
    """By which rule a GPU has the owner that it has."""

    NOBODY = "no claim stands"
    ONLY = "the only standing claim"
    ONLY_VERIFIED = "the only verified claim"
    VERIFIED_FIRST = "verified first"
    SAME_MOMENT = "verified at the same moment as another, with the earlier request"
    EARLIEST = "earliest request, as none is verified"


class PlacementState(StrEnum):
    """What a place or release does to a GPU."""

    COUNTS = "counts"
    RELEASED = "released"
    """A release, and its author's last word."""
    SUPERSEDED = "superseded"
    """The same validator said something later under the same claim, in another of its logs."""
    NOT_OWNER = "claim does not own the GPU"
    NOT_ENROLLED = "author not enrolled"
    OUTRANKED = "another validator placed later"


class Appeal(NamedTuple):
    """A delete request on one GPU, with what it does there or why it does nothing."""

    deletion: Deletion
    ending: Ending | Objection


class NodeCase(NamedTuple):
    """Why a GPU has the row that it has.

    Attributes:
        uuid: The GPU.
        row: Its row, or None.
        rule: How its owner was found.
        candidacies: Every claim on it, in order of their stamps.
        deletions: Every delete request that names it, by (nonce, request id).
        placements: Places and releases of it, the latest first, with what each does.
        electorate: Under which this holds.
    """

    uuid: str
    row: Row | None
    rule: OwnerRule
    candidacies: tuple[Candidacy, ...]
    deletions: tuple[Appeal, ...]
    placements: tuple[tuple[Placement, PlacementState], ...]
    electorate: Electorate


class ClaimedGpu(NamedTuple):
    """One GPU of a claim.

    Attributes:
        uuid: The GPU.
        candidacy: The claim on it.
        owner: The claim that owns it, or None.
        owner_tally: The vote on that, or None.
        rule: How its owner was found.
        answer: What this GPU says to the claim's task; None where the claim does not stand.
    """

    uuid: str
    candidacy: Candidacy
    owner: Claim | None
    owner_tally: Tally | None
    rule: OwnerRule
    answer: TaskStatus | None


class ClaimCase(NamedTuple):
    """Why a claim is where it is.

    Attributes:
        claim: The claim.
        poll: The vote on it.
        task: What its miner is told.
        carriages: The events that carry it, the earliest first, each with why it does not count (None: it does).
        objection: Why the claim does not count; None when it does.
        gpus: Its GPUs, in request order.
        weights: Under which this holds.
    """

    claim: Claim
    poll: Poll
    task: TaskStatus
    carriages: tuple[tuple[Carriage, Objection | None], ...]
    objection: Objection | None
    gpus: tuple[ClaimedGpu, ...]
    weights: Weights


class Happening(NamedTuple):
    """Something that was said about a GPU.

    Attributes:
        at_ms: When, Unix milliseconds: the nonce of a miner's request, the HLC of a validator's word.
        what: ``add``, ``delete``, ``verified`` (the moment since which a quorum says so), ``place`` or ``release``.
        who: Public key of the miner or validator; None for what a quorum says.
        reference: Claim id; of a ``delete`` its request id.
    """

    at_ms: int
    what: str
    who: bytes | None
    reference: bytes


def poll(votes: Sequence[Vote], weights: Weights) -> Poll:
    """Lay the vote on a claim open."""
    latest = inventory.latest_votes(votes)
    live = inventory.live_votes(votes, weights)
    out = set(inventory.left_out(live, weights))
    voices: list[Voice] = []
    for validator in latest.keys() | weights.enrolled.keys():
        vote = latest.get(validator)
        voices.append(
            Voice(
                validator,
                weights.electorate.stakes.get(validator, 0),
                vote,
                _voice_state(validator, vote, live, out, weights),
                validator in weights.enrolled and validator not in out,
            )
        )
    superseded = [
        Voice(vote.author, weights.electorate.stakes.get(vote.author, 0), vote, VoiceState.SUPERSEDED, weighed=False)
        for vote in votes
        if vote != latest[vote.author]
    ]
    voices.sort(key=lambda voice: (-voice.stake, voice.validator))
    superseded.sort(key=lambda voice: (-voice.stake, voice.validator, -voice.vote.hlc if voice.vote else 0))
    return Poll(inventory.tally(votes, weights), inventory.weigh(live, weights), (*voices, *superseded))


def _voice_state(
    validator: bytes, vote: Vote | None, live: Mapping[bytes, Vote], out: set[bytes], weights: Weights
) -> VoiceState:
    if not weights.electorate.permitted(validator):
        return VoiceState.NO_PERMIT
    if validator not in weights.enrolled:
        return VoiceState.NO_DELEGATION
    if vote is None:
        return VoiceState.YOUNG if validator in out else VoiceState.AWAITED
    if validator not in live:
        return VoiceState.LAPSED
    return VoiceState.ABSTAINS if vote.finding == ABSTAIN else VoiceState.COUNTS


def candidacies(
    uuid: str,
    claims: Iterable[Claim],
    deletions: Iterable[Deletion],
    tallies: Mapping[bytes, Tally],
    electorate: Electorate,
) -> list[Candidacy]:
    """Every claim on a GPU in order of their stamps; arguments as for ``inventory.decide``."""
    return _candidacies(claims, _appeals(uuid, deletions, electorate), tallies, electorate)


def _candidacies(
    claims: Iterable[Claim], appeals: Iterable[Appeal], tallies: Mapping[bytes, Tally], electorate: Electorate
) -> list[Candidacy]:
    by_miner: dict[bytes, list[tuple[Deletion, Ending]]] = {}
    for deletion, ending in appeals:
        if isinstance(ending, Ending):
            by_miner.setdefault(deletion.miner, []).append((deletion, ending))

    def ended_by(claim: Claim) -> Deletion | None:
        candidates = by_miner.get(claim.miner, [])
        # In order of nonces, of which the lower ones end nothing: a miner with many of both must cost little.
        first = bisect_left(candidates, claim.nonce, key=lambda candidate: candidate[1].nonce)
        return next((deletion for deletion, ending in islice(candidates, first, None) if ending.ends(claim)), None)

    return [
        Candidacy(claim, tallies[claim.id], inventory.objection(claim, electorate), ended_by(claim))
        for claim in sorted(claims, key=lambda claim: claim.stamp)
    ]


def _appeals(uuid: str, deletions: Iterable[Deletion], electorate: Electorate) -> list[Appeal]:
    ordered = sorted(deletions, key=lambda deletion: (deletion.nonce, deletion.request_id))
    return [Appeal(deletion, inventory.ending(deletion, uuid, electorate)) for deletion in ordered]


def owner_rule(standing: Sequence[Claim], tallies: Mapping[bytes, Tally]) -> tuple[Claim | None, OwnerRule]:
    """The owner among standing claims, and the rule that found it."""
    owner = inventory.owner(standing, tallies)
    if owner is None:
        return None, OwnerRule.NOBODY
    if tallies[owner.id].status != VERIFIED:
        return owner, OwnerRule.ONLY if len(standing) == 1 else OwnerRule.EARLIEST
    verified = [claim for claim in standing if tallies[claim.id].status == VERIFIED]
    if len(verified) == 1:
        return owner, OwnerRule.ONLY if len(standing) == 1 else OwnerRule.ONLY_VERIFIED
    at_once = [claim for claim in verified if tallies[claim.id].since == tallies[owner.id].since]
    return owner, OwnerRule.SAME_MOMENT if len(at_once) > 1 else OwnerRule.VERIFIED_FIRST


def node(  # noqa: PLR0917 - the arguments of f for one GPU
    uuid: str,
    claims: Sequence[Claim],
    deletions: Sequence[Deletion],
    tallies: Mapping[bytes, Tally],
    placements: Sequence[Placement],
    weights: Weights,
) -> NodeCase:
    """Explain the row of one GPU; arguments as for ``inventory.decide``."""
    appeals = _appeals(uuid, deletions, weights.electorate)
    found = _candidacies(claims, appeals, tallies, weights.electorate)
    owner, rule = owner_rule([candidacy.claim for candidacy in found if candidacy.stands], tallies)
    return NodeCase(
        uuid,
        inventory.decide(uuid, claims, deletions, tallies, placements, weights),
        rule,
        tuple(found),
        tuple(appeals),
        tuple(_placements(owner, placements, weights)),
        weights.electorate,
    )


def _placements(
    owner: Claim | None, placements: Sequence[Placement], weights: Weights
) -> list[tuple[Placement, PlacementState]]:
    last = inventory.last_words(placements)
    current = None if owner is None else inventory.current_place(owner, placements, weights)

    def state(placement: Placement) -> PlacementState:
        if placement is not last[placement.author, placement.claim_id]:
            return PlacementState.SUPERSEDED
        if placement.chute is None:
            return PlacementState.RELEASED
        if owner is None or placement.claim_id != owner.id:
            return PlacementState.NOT_OWNER
        if placement.author not in weights.enrolled:
            return PlacementState.NOT_ENROLLED
        return PlacementState.COUNTS if placement is current else PlacementState.OUTRANKED

    ordered = sorted(placements, key=lambda placement: (-placement.hlc, placement.author, placement.claim_id))
    return [(placement, state(placement)) for placement in ordered]


def claim(  # noqa: PLR0917 - all that is stored about a claim and its GPUs
    subject: Claim,
    votes: Sequence[Vote],
    claims: Mapping[str, Sequence[Claim]],
    deletions: Mapping[str, Sequence[Deletion]],
    tallies: Mapping[bytes, Tally],
    weights: Weights,
) -> ClaimCase:
    """Explain a claim.

    Args:
        subject: The claim.
        votes: Every valid verdict on it.
        claims: GPU uuid -> every valid claim that names it, for each GPU of ``subject``.
        deletions: GPU uuid -> every valid delete request that names it, for each GPU of ``subject``.
        tallies: Claim id -> tally, for each of ``claims``.
        weights: Who counts.
    """
    electorate = weights.electorate
    standings: dict[str, list[Claim]] = {}
    gpus: list[ClaimedGpu] = []
    for uuid in subject.uuids:
        found = candidacies(uuid, claims[uuid], deletions[uuid], tallies, electorate)
        standings[uuid] = [candidacy.claim for candidacy in found if candidacy.stands]
        own = next(candidacy for candidacy in found if candidacy.claim == subject)
        answer = inventory.gpu_status(subject, uuid, standings[uuid], tallies)
        owner, rule = owner_rule(standings[uuid], tallies)
        gpus.append(ClaimedGpu(uuid, own, owner, None if owner is None else tallies[owner.id], rule, answer))
    carriages = sorted(subject.carriages, key=lambda carriage: (carriage.hlc, carriage.author))
    return ClaimCase(
        subject,
        poll(votes, weights),
        inventory.task_status(subject, tallies[subject.id], standings, tallies),
        tuple((carriage, inventory.carriage_objection(carriage, electorate)) for carriage in carriages),
        inventory.objection(subject, electorate),
        tuple(gpus),
        weights,
    )


def history(case: NodeCase) -> list[Happening]:
    """What was said about a GPU, the oldest first; of places and releases the last of each validator's logs."""
    found = [
        *(Happening(c.claim.nonce * 1000, "add", c.claim.miner, c.claim.id) for c in case.candidacies),
        *(
            Happening(hlc_ms(c.tally.since), VERIFIED, None, c.claim.id)
            for c in case.candidacies
            if c.tally.since is not None
        ),
        *(Happening(d.nonce * 1000, "delete", d.miner, d.request_id) for d, _ in case.deletions),
        *(
            Happening(hlc_ms(p.hlc), "release" if p.chute is None else "place", p.author, p.claim_id)
            for p, _ in case.placements
        ),
    ]
    return sorted(found, key=lambda happening: happening[:2])
