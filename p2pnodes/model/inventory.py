"""The inventory function f(events, E): how one GPU's row is decided (design.md, of the same heading).

Everything here is a pure function of sets: no order of arrival, no wall clock, integers only where stakes are
compared. Callers hand in what all counted and uncounted valid events say about one GPU or one claim; who counts is
decided here, by the weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from enum import StrEnum
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
        self.share = -(-network.min_share_ppm * self.total // PPM)
        """Least stake that is the minimum share of all enrolled stake."""
        self.young = frozenset(
            hotkey
            for hotkey in self.enrolled
            if electorate.time_ms - hlc_ms(mandates[hotkey].first_hlc) < network.verdict_ttl_s * 1000
        )
        """Enrolled validators whose first delegation is younger than a verdict lives."""

    def aged(self) -> "Weights":
        """The same with nobody young: a vote that these decide stays as it is when those who are silent grow old."""
        aged = copy(self)
        aged.young = frozenset()
        return aged

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
    """A valid event that carries an add: its author, the electorate block it names, the original event's HLC.

    Those that lie at or above the cut of their log (``cut``) count for nothing; callers need not tell of them.
    """

    author: bytes
    electorate_block: int
    hlc: int
    cut: bool = False


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
    """A valid event that carries a delete request: its author, the GPU that it names, the claims that it ends.

    ``cut`` as in ``Carriage``.
    """

    author: bytes
    uuid: str
    claim_ids: frozenset[bytes]
    cut: bool = False


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


_EIGHT_FIELDS: Final = b"\x98"
"""How msgpack begins an array of so many, as those of a row are."""


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

    def tail(self) -> bytes:
        """All but the uuid, encoded as in ``digest``: of one server's GPUs mostly the same."""
        fields: list[codec.Value] = [*self[1:-1], None if self.chute is None else list(self.chute)]
        return codec.pack(fields)[1:]

    def digest(self, tail: bytes | None = None) -> bytes:
        """BLAKE2b-256 of the row, for the state root: of its fields in canonical msgpack.

        Args:
            tail: Its ``tail``, where that is known already.
        """
        return codec.digest(_EIGHT_FIELDS + codec.pack(self.uuid) + (self.tail() if tail is None else tail))


class Sums(NamedTuple):
    """What the live votes on a claim come to, beside the tally that is held of it; stakes in the electorate's unit.

    Attributes:
        verified: Stake of those who say verified.
        failed: Stake of those who say failed.
        left_out: Stake that W leaves out.
        earlier: Verified stake whose ``since`` lies below the held tally's; 0 where that has none.
        by_then: Verified stake whose ``since`` does not lie above it; 0 where that has none.
        otherwise: Whether somebody who says failed gives another detail than the held tally's.
    """

    verified: int
    failed: int
    left_out: int
    earlier: int
    by_then: int
    otherwise: bool


class TaskStatus(NamedTuple):
    """Answer to a miner's poll: status ``pending``, ``verified`` or ``failed``, and why it failed."""

    status: str
    detail: str


class Scales(NamedTuple):
    """What the live votes on a claim weigh, and what decides; all in the electorate's unit of stake.

    Attributes:
        weighed: W: enrolled stake less that which is ``left_out``.
        verified: Stake of those who say verified.
        failed: Stake of those who say failed.
        quorum: Least verified stake that is more than the quorum of W.
        share: Least verified stake that is the minimum share of all enrolled stake.
        failing: Least failed stake that fails the claim.
    """

    weighed: int
    verified: int
    failed: int
    quorum: int
    share: int
    failing: int


def latest_votes(votes: Iterable[Vote]) -> dict[bytes, Vote]:
    """The latest verdict of each validator, enrolled or not."""
    latest: dict[bytes, Vote] = {}
    for vote in votes:
        held = latest.get(vote.author)
        # Two logs of one hotkey can share an HLC: then the content decides, never the order.
        if held is None or _vote_order(vote) > _vote_order(held):
            latest[vote.author] = vote
    return latest


def live_votes(votes: Iterable[Vote], weights: Weights) -> dict[bytes, Vote]:
    """The latest verdict of each enrolled validator, where it has not lapsed at E's time."""
    deadline_ms = weights.electorate.time_ms - weights.network.verdict_ttl_s * 1000
    return {
        author: vote
        for author, vote in latest_votes(votes).items()
        if author in weights.enrolled and hlc_ms(vote.hlc) >= deadline_ms
    }


def left_out(live: Mapping[bytes, Vote], weights: Weights) -> list[bytes]:
    """The enrolled validators whose stake W leaves out: those who abstain, and the young without a live verdict."""
    young = [hotkey for hotkey in weights.young if hotkey not in live]
    return young + [author for author, vote in live.items() if vote.finding == ABSTAIN]


def weigh(live: Mapping[bytes, Vote], weights: Weights) -> Scales:
    """Put live votes on the scales (design.md, "Tally of a claim")."""
    enrolled = weights.enrolled
    verified = failed = 0
    for author, vote in live.items():
        if vote.finding == VERIFIED:
            verified += enrolled[author]
        elif vote.finding == FAILED:
            failed += enrolled[author]
    return scales(verified, failed, sum(enrolled[hotkey] for hotkey in left_out(live, weights)), weights)


def scales(verified: int, failed: int, out: int, weights: Weights) -> Scales:
    """Scales with so much stake on either side, and so much (``out``) that W leaves out."""
    network, weighed = weights.network, weights.total - out
    return Scales(
        weighed,
        verified,
        failed,
        network.quorum_ppm * weighed // PPM + 1,
        weights.share,
        max(1, -((network.quorum_ppm - PPM) * weighed // PPM)),
    )


def _vote_order(vote: Vote) -> tuple[int, str, int, str, str]:
    return vote.hlc, vote.finding, vote.since or 0, vote.method, vote.detail


def tally(votes: Iterable[Vote], weights: Weights) -> Tally:
    """Count the vote on a claim (design.md, "Tally of a claim")."""
    live = live_votes(votes, weights)
    if not live:
        return Tally(PENDING, None, "")
    weight, enrolled = weigh(live, weights), weights.enrolled
    if weight.verified >= max(weight.quorum, weight.share):
        sayers = sorted((vote.since or 0, enrolled[a]) for a, vote in live.items() if vote.finding == VERIFIED)
        by_then = accumulate(stake for _, stake in sayers)
        since = next(since for (since, _), stake in zip(sayers, by_then, strict=True) if stake >= weight.quorum)
        return Tally(VERIFIED, since, "")
    if weight.failed >= weight.failing:
        return Tally(FAILED, None, _failure(live, enrolled))
    return Tally(PENDING, None, "")


def stays(held: Tally, sums: Sums, weights: Weights) -> bool:
    """Whether ``tally`` surely gives the held tally for votes with these sums; else they have to be counted."""
    weight = scales(sums.verified, sums.failed, sums.left_out, weights)
    if weight.verified >= max(weight.quorum, weight.share):
        return held.status == VERIFIED and sums.earlier < weight.quorum <= sums.by_then
    if weight.failed >= weight.failing:
        return held.status == FAILED and not sums.otherwise
    return held.status == PENDING


def _failure(live: Mapping[bytes, Vote], enrolled: Mapping[bytes, int]) -> str:
    """Detail of the failing verdict with the most stake (ties: the lowest hotkey)."""
    author = min((a for a, vote in live.items() if vote.finding == FAILED), key=lambda a: (-enrolled[a], a))
    return live[author].detail


class Objection(StrEnum):
    """Why something that is valid does not count under an electorate."""

    CUT = "log cut"
    """It lies at or above the seq from which its log counts for nothing (fork, closing)."""
    AHEAD = "electorate ahead"
    """The carriage names an electorate that E has not reached."""
    NOT_PERMITTED = "author not permitted"
    """The author's hotkey holds no permit in E."""
    NOT_REGISTERED = "miner not registered"
    NOT_CARRIED = "not carried"
    """No carriage counts."""
    REGISTERED_LATER = "miner registered later"
    """Above the highest electorate block that a counted carriage names: the miner left the chain and came back."""
    SEVERAL_GPUS = "signature used for several GPUs"
    """A delete signature that is bound to no GPU, under which counted events name different ones."""


def carriage_objection(carriage: Carriage, electorate: Electorate) -> Objection | None:
    """Why a carriage does not count; None when it does."""
    if carriage.cut:
        return Objection.CUT
    if carriage.electorate_block > electorate.block:
        return Objection.AHEAD
    return None if electorate.permitted(carriage.author) else Objection.NOT_PERMITTED


def counted_carriages(claim: Claim, electorate: Electorate) -> list[Carriage]:
    """The carriages whose author is permitted in E and whose electorate E has reached."""
    return [carriage for carriage in claim.carriages if carriage_objection(carriage, electorate) is None]


def objection(claim: Claim, electorate: Electorate) -> Objection | None:
    """Why a claim does not count; None when it does."""
    registration = electorate.registration_block(claim.miner)
    if registration is None:
        return Objection.NOT_REGISTERED
    counted = counted_carriages(claim, electorate)
    if not counted:
        return Objection.NOT_CARRIED
    if all(registration > carriage.electorate_block for carriage in counted):
        return Objection.REGISTERED_LATER
    return None


def counts(claim: Claim, electorate: Electorate) -> bool:
    """Whether a claim counts: it is carried, and its miner registered no later than the latest carriage knew."""
    return objection(claim, electorate) is None


class Ending(NamedTuple):
    """What a counted deletion does on one GPU: it ends its miner's claims there below ``nonce``, and these at it."""

    miner: bytes
    nonce: int
    claim_ids: frozenset[bytes]

    def ends(self, claim: Claim) -> bool:
        """Whether the claim ends by this."""
        return claim.miner == self.miner and (
            claim.nonce < self.nonce or (claim.nonce == self.nonce and claim.id in self.claim_ids)
        )


def ending(deletion: Deletion, uuid: str, electorate: Electorate) -> Ending | Objection:
    """What a delete request does on ``uuid``, or why it does nothing there."""
    permitted = [carriage for carriage in deletion.carriages if electorate.permitted(carriage.author)]
    counted = [carriage for carriage in permitted if not carriage.cut]
    named = [carriage.claim_ids for carriage in counted if carriage.uuid == uuid]
    if not named:
        return Objection.CUT if any(carriage.uuid == uuid for carriage in permitted) else Objection.NOT_PERMITTED
    if not deletion.bound and len(named) < len(counted):
        return Objection.SEVERAL_GPUS
    return Ending(deletion.miner, deletion.nonce, named[0].intersection(*named[1:]))


def standing(uuid: str, claims: Iterable[Claim], deletions: Iterable[Deletion], electorate: Electorate) -> list[Claim]:
    """The claims on a GPU that count and that no delete ends, in order of their stamps."""
    endings = (ending(deletion, uuid, electorate) for deletion in deletions)
    last = _last_endings(end for end in endings if isinstance(end, Ending))
    alive = [
        claim
        for claim in claims
        if not ((end := last.get(claim.miner)) and end.ends(claim)) and counts(claim, electorate)
    ]
    return sorted(alive, key=lambda claim: claim.stamp) if len(alive) > 1 else alive  # mostly there is one alone


def _last_endings(endings: Iterable[Ending]) -> dict[bytes, Ending]:
    """What each miner's endings do together: those of the highest nonce end all that the others do."""
    highest: dict[bytes, list[Ending]] = {}
    for end in endings:
        held = highest.setdefault(end.miner, [])
        if held and end.nonce > held[0].nonce:
            held.clear()
        if not held or end.nonce == held[0].nonce:
            held.append(end)
    return {
        miner: Ending(miner, ends[0].nonce, frozenset().union(*(end.claim_ids for end in ends)))
        for miner, ends in highest.items()
    }


def owner(claims: Sequence[Claim], tallies: Mapping[bytes, Tally]) -> Claim | None:
    """The owner among standing claims in order of their stamps: first verified, else first."""
    verified = [claim for claim in claims if tallies[claim.id].status == VERIFIED]
    if verified:
        return min(verified, key=lambda claim: (tallies[claim.id].since or 0, claim.stamp))
    return claims[0] if claims else None


def last_words(placements: Iterable[Placement]) -> dict[tuple[bytes, bytes], Placement]:
    """The latest place or release of each author under each claim: (author, claim id) -> placement."""
    latest: dict[tuple[bytes, bytes], Placement] = {}
    for placement in placements:
        key = placement.author, placement.claim_id
        held = latest.get(key)
        if held is None or _placement_order(placement) > _placement_order(held):
            latest[key] = placement
    return latest


def current_place(claim: Claim, placements: Iterable[Placement], weights: Weights) -> Placement | None:
    """The place that counts on a GPU that ``claim`` owns: of the last word of each enrolled author, the latest."""
    words = last_words(placements).items()
    return latest_place(
        word for (author, claim_id), word in words if claim_id == claim.id and author in weights.enrolled
    )


def latest_place(words: Iterable[Placement]) -> Placement | None:
    """Of last words on a GPU under one claim the place that is above the others; None where all are releases."""
    places = [placement for placement in words if placement.chute is not None]
    if len(places) > 1:  # mostly there is one alone
        return max(places, key=lambda p: (_placement_order(p), p.author))
    return places[0] if places else None


def chute_of(claim: Claim, placements: Iterable[Placement], weights: Weights) -> Chute | None:
    """What runs on a GPU that ``claim`` owns."""
    place = current_place(claim, placements, weights)
    return None if place is None else place.chute


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


def gpu_status(claim: Claim, uuid: str, claims: Sequence[Claim], tallies: Mapping[bytes, Tally]) -> TaskStatus | None:
    """What one GPU of a claim says to its task, None where the claim does not stand; see ``task_status``."""
    if claim not in claims:
        return None
    holder = owner(claims, tallies) or claim
    leader = owner([other for other in claims if other.miner == claim.miner], tallies) or claim
    if holder.miner != claim.miner and tallies[holder.id].status == VERIFIED:
        return TaskStatus(FAILED, f"GPU {uuid} belongs to a verified claim of another hotkey")
    return TaskStatus(tallies[leader.id].status, tallies[leader.id].detail)


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
    answers = [
        answer for uuid, claims in standings.items() if (answer := gpu_status(claim, uuid, claims, tallies)) is not None
    ]
    if not answers:
        if own.status != PENDING:
            return TaskStatus(own.status, own.detail)
        return TaskStatus(FAILED, "the nodes of this task are deleted, or their miner is no longer registered")
    for status in (FAILED, PENDING):
        if found := next((answer for answer in answers if answer.status == status), None):
            return found
    return answers[0]
