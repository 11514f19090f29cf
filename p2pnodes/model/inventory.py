"""The inventory function f(events, E): how one GPU's row is decided (design.md, of the same heading).

Everything here is a pure function of sets: no order of arrival, no wall clock, integers only where stakes are
compared. Callers hand in what all counted and uncounted valid events say about one GPU or one claim; who counts is
decided here, by the weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.network import PPM, Network

PENDING: Final = "pending"


class Mandate(NamedTuple):
    """What the logs say about a validator hotkey's delegations.

    Attributes:
        windows: (not-before, not-after) in Unix seconds of the latest valid delegation in each of its logs.
        first_hlc: Lowest HLC of any valid delegation of this hotkey.
    """

    windows: tuple[tuple[int, int], ...]
    first_hlc: int


class Weights:
    """Who counts and with what: an electorate joined with the mandates that the logs hold."""

    def __init__(self, network: Network, electorate: Electorate, mandates: Mapping[bytes, Mandate]) -> None:
        """Weigh every permitted hotkey."""
        self.network = network
        self.electorate = electorate
        now_s = electorate.time_ms / 1000
        self.enrolled: dict[bytes, int] = {
            hotkey: stake
            for hotkey, stake in electorate.stakes.items()
            if (mandate := mandates.get(hotkey)) and any(low <= now_s <= high for low, high in mandate.windows)
        }
        """Stake of every enrolled validator: permitted, and with a delegation that lives at E's time."""
        self.total = sum(self.enrolled.values())
        self.young = frozenset(
            hotkey
            for hotkey in self.enrolled
            if electorate.time_ms - hlc_ms(mandates[hotkey].first_hlc) < network.verdict_ttl_s * 1000
        )
        """Enrolled validators whose first delegation is younger than a verdict lives."""

    def same_votes(self, other: "Weights") -> bool:
        """Whether both weigh every event alike, so that no row can differ."""
        return (
            self.electorate.digest == other.electorate.digest
            and self.enrolled == other.enrolled
            and self.young == other.young
        )


class Vote(NamedTuple):
    """A valid verdict on a claim, by any validator."""

    author: bytes
    hlc: int
    finding: str
    since: int | None
    method: str
    detail: str


class Tally(NamedTuple):
    """The vote on a claim: status ``pending``, ``verified`` or ``failed``; verified-since (HLC) or None; detail."""

    status: str
    since: int | None
    detail: str


class Carriage(NamedTuple):
    """A valid event that carries an add: its author, the electorate block it names, the original event's HLC."""

    author: bytes
    electorate_block: int
    hlc: int


class Claim(NamedTuple):
    """A claim: miner's public key, nonce (Unix seconds), claim id, its GPUs in request order, who carries it."""

    id: bytes
    miner: bytes
    nonce: int
    uuids: tuple[str, ...]
    carriages: tuple[Carriage, ...]

    @property
    def stamp(self) -> tuple[int, bytes]:
        """What orders claims: (nonce, claim id)."""
        return self.nonce, self.id


class DeleteCarriage(NamedTuple):
    """A valid event that carries a delete request: its author, the GPU that it names, the claims that it ends."""

    author: bytes
    uuid: str
    claim_ids: frozenset[bytes]


class Deletion(NamedTuple):
    """A delete request with every event that carries it, for whatever GPU."""

    request_id: bytes
    miner: bytes
    nonce: int
    bound: bool
    carriages: tuple[DeleteCarriage, ...]


class Placement(NamedTuple):
    """A valid ``place`` (with its chute) or ``release`` (chute is None) of one GPU under one claim."""

    author: bytes
    hlc: int
    claim_id: bytes
    chute: "Chute | None"


class Chute(NamedTuple):
    """What runs on a GPU; name and username are None for private chutes."""

    chute_id: str
    instance_id: str
    verified: bool
    public: bool
    name: str | None
    username: str | None


class Row(NamedTuple):
    """One GPU of the inventory.

    Attributes:
        uuid: GPU uuid.
        claim_id: The claim that owns it; what the GPU is lies in that claim's body.
        miner: Public key of the claim's miner.
        status: ``pending``, ``verified`` or ``failed``.
        created_hlc: Lowest HLC of the counted events that carry the claim.
        verified_since: HLC, or None.
        detail: Why the vote failed, else empty.
        chute: What runs on it, or None when idle.
    """

    uuid: str
    claim_id: bytes
    miner: bytes
    status: str
    created_hlc: int
    verified_since: int | None
    detail: str
    chute: Chute | None

    def digest(self) -> bytes:
        """BLAKE2b-256 of the row, for the state root."""
        fields: list[codec.Value] = [*self[:-1], None if self.chute is None else list(self.chute)]
        return codec.digest(codec.pack(fields))


class TaskStatus(NamedTuple):
    """Answer to a miner's poll: status ``pending``, ``verified`` or ``failed``, and why it failed."""

    status: str
    detail: str


def live_votes(votes: Iterable[Vote], weights: Weights) -> dict[bytes, Vote]:
    """The latest verdict of each enrolled validator, where it has not lapsed at E's time."""
    latest: dict[bytes, Vote] = {}
    for vote in votes:
        held = latest.get(vote.author)
        # Two logs of one hotkey can share an HLC: then the content decides, never the order.
        if vote.author in weights.enrolled and (held is None or _vote_order(vote) > _vote_order(held)):
            latest[vote.author] = vote
    deadline_ms = weights.electorate.time_ms - weights.network.verdict_ttl_s * 1000
    return {author: vote for author, vote in latest.items() if hlc_ms(vote.hlc) >= deadline_ms}


def _vote_order(vote: Vote) -> tuple[int, str, int, str, str]:
    return vote.hlc, vote.finding, vote.since or 0, vote.method, vote.detail


def tally(votes: Iterable[Vote], weights: Weights) -> Tally:
    """Count the vote on a claim (design.md, "Tally of a claim")."""
    live = live_votes(votes, weights)
    if not live:
        return Tally(PENDING, None, "")
    network, enrolled = weights.network, weights.enrolled
    weighed = weights.total
    verified: list[tuple[int, int]] = []
    failed = 0
    for author, vote in live.items():
        stake = enrolled[author]
        if vote.finding == ABSTAIN:
            weighed -= stake
        elif vote.finding == FAILED:
            failed += stake
        else:
            verified.append((vote.since or 0, stake))
    weighed -= sum(enrolled[hotkey] for hotkey in weights.young if hotkey not in live)
    needed = network.quorum_ppm * weighed
    reached = sum(stake for _, stake in verified)
    if reached * PPM > needed and reached * PPM >= network.min_share_ppm * weights.total:
        verified.sort()
        by_then = accumulate(stake for _, stake in verified)
        since = next(since for (since, _), stake in zip(verified, by_then, strict=True) if stake * PPM > needed)
        return Tally(VERIFIED, since, "")
    if failed and failed * PPM >= (PPM - network.quorum_ppm) * weighed:
        return Tally(FAILED, None, _failure(live, enrolled))
    return Tally(PENDING, None, "")


def _failure(live: Mapping[bytes, Vote], enrolled: Mapping[bytes, int]) -> str:
    """Detail of the failing verdict with the most stake (ties: the lowest hotkey)."""
    author = min((a for a, vote in live.items() if vote.finding == FAILED), key=lambda a: (-enrolled[a], a))
    return live[author].detail


def counted_carriages(claim: Claim, electorate: Electorate) -> list[Carriage]:
    """The carriages whose author is permitted in E and whose electorate E has reached."""
    return [
        carriage
        for carriage in claim.carriages
        if carriage.electorate_block <= electorate.block and electorate.permitted(carriage.author)
    ]


def counts(claim: Claim, electorate: Electorate) -> bool:
    """Whether a claim counts: it is carried, and its miner registered no later than the latest carriage knew."""
    registration = electorate.registration_block(claim.miner)
    return registration is not None and any(
        registration <= carriage.electorate_block for carriage in counted_carriages(claim, electorate)
    )


class Ending(NamedTuple):
    """What a counted deletion does on one GPU: it ends its miner's claims there below ``nonce``, and these at it."""

    miner: bytes
    nonce: int
    claim_ids: frozenset[bytes]


def ending(deletion: Deletion, uuid: str, electorate: Electorate) -> Ending | None:
    """What a delete request does on ``uuid``; None when it does nothing there."""
    counted = [carriage for carriage in deletion.carriages if electorate.permitted(carriage.author)]
    named = [carriage.claim_ids for carriage in counted if carriage.uuid == uuid]
    if not named or (not deletion.bound and len(named) < len(counted)):
        return None  # an unbound signature that is used for several GPUs ends none
    return Ending(deletion.miner, deletion.nonce, named[0].intersection(*named[1:]))


def standing(uuid: str, claims: Iterable[Claim], deletions: Iterable[Deletion], electorate: Electorate) -> list[Claim]:
    """The claims on a GPU that count and that no delete ends, in order of their stamps."""
    highest: dict[bytes, int] = {}
    ended: set[tuple[bytes, int, bytes]] = set()
    for deletion in deletions:
        if end := ending(deletion, uuid, electorate):
            highest[end.miner] = max(highest.get(end.miner, 0), end.nonce)
            ended.update((end.miner, end.nonce, claim_id) for claim_id in end.claim_ids)
    alive = (
        claim
        for claim in claims
        if claim.nonce >= highest.get(claim.miner, 0)
        and (claim.miner, claim.nonce, claim.id) not in ended
        and counts(claim, electorate)
    )
    return sorted(alive, key=lambda claim: claim.stamp)


def owner(claims: Sequence[Claim], tallies: Mapping[bytes, Tally]) -> Claim | None:
    """The owner among standing claims in order of their stamps: first verified, else first."""
    verified = [claim for claim in claims if tallies[claim.id].status == VERIFIED]
    if verified:
        return min(verified, key=lambda claim: (tallies[claim.id].since or 0, claim.stamp))
    return claims[0] if claims else None


def chute_of(claim: Claim, placements: Iterable[Placement], weights: Weights) -> Chute | None:
    """What runs on a GPU that ``claim`` owns: of the latest word of each enrolled author, the latest place."""
    latest: dict[bytes, Placement] = {}
    for placement in placements:
        held = latest.get(placement.author)
        if (
            placement.claim_id == claim.id
            and placement.author in weights.enrolled
            and (held is None or _placement_order(placement) > _placement_order(held))
        ):
            latest[placement.author] = placement
    places = [placement for placement in latest.values() if placement.chute is not None]
    return max(places, key=lambda p: (_placement_order(p), p.author)).chute if places else None


def _placement_order(placement: Placement) -> tuple[int, bytes]:
    chute = placement.chute
    return placement.hlc, b"" if chute is None else codec.pack(list(chute))


def decide(  # noqa: PLR0917 - the arguments of f for one GPU
    uuid: str,
    claims: Iterable[Claim],
    deletions: Sequence[Deletion],
    tallies: Mapping[bytes, Tally],
    placements: Iterable[Placement],
    weights: Weights,
) -> Row | None:
    """The row of one GPU, or None when no claim on it stands.

    Args:
        uuid: The GPU.
        claims: Every valid claim that names it.
        deletions: Every valid delete request that names it, with all its carriages (also for other GPUs).
        tallies: Claim id -> tally, for each of ``claims``.
        placements: Every valid place and release of this GPU.
        weights: Who counts.
    """
    winner = owner(standing(uuid, claims, deletions, weights.electorate), tallies)
    if winner is None:
        return None
    vote = tallies[winner.id]
    return Row(
        uuid,
        winner.id,
        winner.miner,
        vote.status,
        min(carriage.hlc for carriage in counted_carriages(winner, weights.electorate)),
        vote.since,
        vote.detail,
        chute_of(winner, placements, weights),
    )


def task_status(
    claim: Claim, own: Tally, standings: Mapping[str, Sequence[Claim]], tallies: Mapping[bytes, Tally]
) -> TaskStatus:
    """What a miner's poll for a claim's task answers.

    Args:
        claim: The claim.
        own: Its own tally.
        standings: GPU uuid -> standing claims on it in order of their stamps, for each GPU of the claim.
        tallies: Claim id -> tally, for every claim in ``standings``.

    Returns:
        For each GPU on which the claim stands: a verified owner of another hotkey fails the task; else that standing
        claim of its miner decides which would own the GPU were he alone (the verified or the earliest one); failed
        beats pending beats verified over the GPUs. A claim that stands nowhere any more keeps a vote that ended, and
        otherwise has failed because it is gone.
    """
    answers = []
    for uuid, claims in standings.items():
        if claim not in claims:
            continue
        holder = owner(claims, tallies) or claim
        leader = owner([other for other in claims if other.miner == claim.miner], tallies) or claim
        if holder.miner != claim.miner and tallies[holder.id].status == VERIFIED:
            answers.append(TaskStatus(FAILED, f"GPU {uuid} belongs to a verified claim of another hotkey"))
        else:
            answers.append(TaskStatus(tallies[leader.id].status, tallies[leader.id].detail))
    if not answers:
        if own.status != PENDING:
            return TaskStatus(own.status, own.detail)
        return TaskStatus(FAILED, "the nodes of this task are deleted, or their miner is no longer registered")
    for status in (FAILED, PENDING):
        if found := next((answer for answer in answers if answer.status == status), None):
            return found
    return answers[0]
