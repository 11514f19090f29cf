"""A proof that a miner registered GPUs and that a quorum verified them: a file that anyone can check, offline.

It holds the events that say so as their authors signed them, the electorate that they are weighed with, and the
network's parameters; everything else follows from these. ``docs/proof.md`` has the format and the rules for a second
implementation. ``check`` judges events and counts votes with the functions that the inventory itself is made with.

What a dishonest prover can do, and what comes of it:

- *Invent or alter an event*: every event is signed by its log's node key, each log begins with a delegation that its
  validator's hotkey signed, and the registration carries its miner's signature. Nothing is taken from elsewhere.
- *Leave out validators*, so that few votes seem many: the votes are weighed against the stake of all that hold a
  permit, enrolled or not, old or young. Only a signed abstention in the proof lowers that. So a proof can fail for a
  claim that the inventory counts as verified, and never the other way round with the same votes.
- *Count a vote twice, an expired one, one of another claim, one of a validator without permit or delegation*: refused.
- *Use a registration that counts for nothing* (its miner is not registered, or registered anew since): refused.
- *Make up an electorate*, or a network with an easy quorum: nobody signs either, so the statement names digest and
  network id, and who checks must compare them with their own. With both equal, stakes and quorum are the true ones.
- *Leave out what followed*: a later verdict of the same validator, also the one that an abstention gave way to, a
  deletion, another claim on the GPU, a fork or a closing of a log, a later delegation with a narrower window. No set of
  events proves that there are no others. A proof says what was signed, as of the electorate's time, and not that
  nothing followed. No abstention raises the verified share of all permitted stake, which the statement has, too.
- *Be a validator*: who holds a key can sign anything with any HLC in its delegation's window, in a proof as in a log.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pnodes.model import codec, inventory
from p2pnodes.model.clock import MS_MAX, hlc_at
from p2pnodes.model.codec import INT_MAX, MalformedError
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.model.events import FAILED, VERIFIED, AddPayload, Carry, Delegation, Event, LogId, Renew, Verdict
from p2pnodes.model.inventory import Carriage, Claim, Mandate, Scales, Vote, Weights
from p2pnodes.model.keys import KEY_BYTES, ss58_encode
from p2pnodes.model.network import PPM, HorizonS, Network
from p2pnodes.model.problems import found_and_expected, shown
from p2pnodes.model.requests import parse_nonce
from p2pnodes.model.validity import EMPTY, CarriedAdd, Judgement, judge

FORMAT: Final = "p2pnodes-proof"
VERSION: Final = 1

PROOF_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bound of the file. An electorate of 256 hotkeys takes 30 KB of it, a vote 1 to 4 KB."""

EVENTS_MAX: Final = 1_024
"""Bound of the events: a vote takes two, or up to five where delegations were renewed or moved to another log."""

HOTKEYS_MAX: Final = 65_536
"""Bound of each list of a pin: a subnet numbers its neurons with 16 bits."""


class ProofError(P2PNodesError):
    """The proof does not hold, or cannot be made; the message says what was found and what is needed."""

    code = Code.PROOF_FAILS


class MalformedProofError(MalformedError):
    """The bytes are no proof file of a version that this build reads."""

    code = Code.PROOF_MALFORMED


class Gpu(NamedTuple):
    """A GPU as its miner registered it, without the host and port that it is verified at."""

    uuid: str
    gpu_identifier: str
    name: str


class ProvenVote(NamedTuple):
    """A vote that counts: ``finding`` is ``verified`` or ``abstain``, ``stake`` its validator's in the electorate."""

    validator: bytes
    finding: str
    method: str
    stake: int
    hlc: int
    event_id: bytes


class Statement(NamedTuple):
    """What a proof proves.

    Attributes:
        network: Parameters; their id is in every event.
        electorate_block: Number of the pinned block.
        electorate_time_ms: Its time, Unix milliseconds: whether a vote has lapsed is asked as of then.
        electorate_digest: Tells which stakes, permits and registrations the proof uses.
        claim_id: The registration.
        miner: Public key that signed it.
        nonce: Unix seconds, as the miner signed them.
        gpus: What it registers, in its order.
        carrier: The validator whose log carries it.
        created_hlc: HLC of the event that its first author wrote, the lowest if the carrier brings several.
        votes: Every vote of the proof, by stake, descending, then by hotkey.
        verified: Stake that verified the claim.
        weighed: Stake that it is a share of: all permitted stake less the abstentions of this proof.
        needed: Least verified stake with which the proof holds.
        permitted: Stake of all validators with a permit.
    """

    network: Network
    electorate_block: int
    electorate_time_ms: int
    electorate_digest: bytes
    claim_id: bytes
    miner: bytes
    nonce: int
    gpus: tuple[Gpu, ...]
    carrier: bytes
    created_hlc: int
    votes: tuple[ProvenVote, ...]
    verified: int
    weighed: int
    needed: int
    permitted: int


class Proof(NamedTuple):
    """A proof as its file holds it; what is in it is not checked yet.

    Attributes:
        network: Parameters.
        electorate: What the electorate's digest is the hash of.
        claim_id: The claim that it proves something about; an event may say something about others, too.
        events: Signed events as received, in ascending order of log and seq.
    """

    network: Network
    electorate: bytes
    claim_id: bytes
    events: tuple[bytes, ...]

    def document(self) -> dict[str, Any]:
        """The file as a JSON object."""
        network = self.network
        return {
            "format": FORMAT,
            "version": VERSION,
            "network": {
                "genesis_hash": network.genesis_hash,
                "netuid": network.netuid,
                "quorum_ppm": network.quorum_ppm,
                "min_share_ppm": network.min_share_ppm,
                "verdict_ttl_s": network.verdict_ttl_s,
                "epoch_blocks": network.epoch_blocks,
                "horizon_s": network.horizon_s,
            },
            "electorate": base64.b64encode(self.electorate).decode(),
            "claim": self.claim_id.hex(),
            "events": [base64.b64encode(event).decode() for event in self.events],
        }

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Read a proof file, without a look at what its bytes say.

        Raises:
            MalformedProofError: Too large, not JSON, another format or version, a key too many or missing, a value out
                of range, or no base64.
        """
        if len(text) > PROOF_BYTES_MAX:
            raise MalformedProofError(f"over {PROOF_BYTES_MAX} bytes: no proof is that large")
        try:
            value = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise MalformedProofError(f"not JSON: {error}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise MalformedProofError(f'no proof: expected a JSON object with "format": "{FORMAT}"')
        if type(value.get("version")) is int and value["version"] > VERSION:
            raise MalformedProofError(
                f"a proof of version {shown(value['version'])}: this build reads version {VERSION}, install a newer one"
            )
        try:
            file = _File.model_validate(value)
        except ValidationError as error:
            raise MalformedProofError(_problem(error)) from error
        said = file.network
        network = Network(
            genesis_hash=said.genesis_hash,
            netuid=said.netuid,
            quorum=said.quorum_ppm / PPM,
            min_share=said.min_share_ppm / PPM,
            verdict_ttl_s=said.verdict_ttl_s,
            epoch_blocks=said.epoch_blocks,
            horizon_s=said.horizon_s,
        )
        events = tuple(_bytes(event, f"events.{index}") for index, event in enumerate(file.events))
        return cls(network, _bytes(file.electorate, "electorate"), bytes.fromhex(file.claim), events)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Network(_Strict):
    """The parameters of ``Network`` with the same ranges, shares in millionths: one spelling for each network."""

    genesis_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
    netuid: Annotated[int, Field(ge=0, le=65_535)]
    quorum_ppm: Annotated[int, Field(ge=1, le=PPM - 1)]
    min_share_ppm: Annotated[int, Field(ge=0, le=PPM)]
    verdict_ttl_s: Annotated[int, Field(ge=60, le=31_536_000)]
    epoch_blocks: Annotated[int, Field(ge=1, le=1_000_000)]
    horizon_s: HorizonS


class _File(_Strict):
    format: Literal["p2pnodes-proof"]
    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    network: _Network
    electorate: str
    claim: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
    events: Annotated[list[str], Field(max_length=EVENTS_MAX)]


def build(network: Network, electorate: Electorate, claim_id: bytes, events: Iterable[Event]) -> Proof:
    """Make a proof about a claim of events in any order, and check it.

    Raises:
        ProofError: They prove nothing; the message says what is missing.
    """
    ordered = sorted(events, key=lambda event: (event.log, event.seq))
    proof = Proof(network, _electorate_bytes(electorate), claim_id, tuple(event.wire for event in ordered))
    check(proof)
    size = len(json.dumps(proof.document(), indent=2))
    if size > PROOF_BYTES_MAX:
        raise ProofError(f"the proof has {size} bytes: at most {PROOF_BYTES_MAX} are read")
    return proof


def check(proof: Proof) -> Statement:
    """Find out what a proof proves.

    It holds for the electorate that it brings: who relies on it compares ``electorate_digest`` and ``network.id`` of
    the statement with their own.

    Raises:
        ProofError: The proof does not hold; the message says why.
    """
    if len(proof.events) > EVENTS_MAX:
        raise ProofError(f"{len(proof.events)} events: at most {EVENTS_MAX} are allowed")
    electorate = _electorate(proof.electorate)
    said = list(_said(proof))
    votes = _votes(said, proof, electorate)
    carrier, claim, add = _registration(said, proof.claim_id, electorate)
    _no_more(said, votes.keys() | {carrier})
    # Who else is enrolled, and since when, cannot be shown: all that are permitted weigh, as if they had been for long.
    old_hlc = hlc_at(electorate.time_ms - proof.network.verdict_ttl_s * 1000)
    always = Mandate(((0, INT_MAX),), old_hlc)
    everyone = Weights(proof.network, electorate, dict.fromkeys(electorate.stakes, always))
    cast = [vote for vote, _ in votes.values()]
    scales = inventory.weigh(inventory.live_votes(cast, everyone), everyone)
    if inventory.tally(cast, everyone).status != VERIFIED:
        raise ProofError(_too_few(proof.network, scales, everyone.total))
    return Statement(
        proof.network,
        electorate.block,
        electorate.time_ms,
        electorate.digest,
        claim.id,
        claim.miner,
        claim.nonce,
        tuple(Gpu(node.uuid, node.gpu_identifier, node.name) for node in add.body.nodes),
        carrier,
        min(carriage.hlc for carriage in inventory.counted_carriages(claim, electorate)),
        tuple(
            sorted(
                (
                    ProvenVote(author, vote.finding, vote.method, everyone.enrolled[author], vote.hlc, event_id)
                    for author, (vote, event_id) in votes.items()
                ),
                key=lambda vote: (-vote.stake, vote.validator),
            )
        ),
        scales.verified,
        scales.weighed,
        max(scales.quorum, scales.share),
        everyone.total,
    )


class _Said(NamedTuple):
    """A valid event of the proof, and the validator that its log speaks for."""

    author: bytes
    event: Event
    judgement: Judgement


def _said(proof: Proof) -> Iterator[_Said]:
    """Judge every event by those of its log that the proof brings before it."""
    before: Event | None = None
    prefix = EMPTY
    for number, wire in enumerate(proof.events):
        try:
            event = Event.decode(wire)
        except MalformedError as error:
            raise ProofError(f"events.{number}: {error}") from error
        name = f"events.{number} ({event.kind}, seq {event.seq} of log {event.log})"
        if event.network_id != proof.network.id:
            raise ProofError(
                f"{name}: of network {event.network_id.hex()}, the parameters are those of {proof.network.id.hex()}"
            )
        if before is not None and (event.log, event.seq) <= (before.log, before.seq):
            raise ProofError(f"{name}: expected each event once, in ascending order of log and seq")
        if before is None or event.log != before.log:
            if event.seq:
                raise ProofError(f"{name}: the log's first event is missing; it says for whom the log speaks")
            prefix = EMPTY
        elif event.seq == before.seq + 1 and event.previous != before.id:
            raise ProofError(f"{name}: continues another event than the one before it")
        if not event.signed():
            raise ProofError(f"{name}: not signed by its log's node key")
        judgement = judge(event, prefix)
        if judgement.payload is None or judgement.prefix.delegation is None:
            reason = judgement.void or "of a version or kind that this build does not know; install a newer one"
            raise ProofError(f"{name}: {reason}")
        if not isinstance(judgement.payload, Delegation | AddPayload | Carry | Verdict | Renew):
            raise ProofError(f"{name}: proves nothing; expected only delegate, add, carry, verdict and renew")
        before, prefix = event, judgement.prefix
        yield _Said(judgement.prefix.delegation.hotkey, event, judgement)


def _registration(said: list[_Said], claim_id: bytes, electorate: Electorate) -> tuple[bytes, Claim, CarriedAdd]:
    """The claim: who carries it, the claim itself, and the add that brings it."""
    carriers = [one for one in said if isinstance(one.judgement.payload, AddPayload | Carry)]
    if len(carriers) != 1:
        raise ProofError(f"there are {len(carriers)} registrations (add or carry); expected one")
    carrier, _, judgement = carriers[0]
    adds = [add for add in judgement.adds if add.claim_id == claim_id]
    if not adds:
        raise ProofError(f"the proof is about claim {claim_id.hex()}, which the registration does not bring")
    request = adds[0].payload.request
    carriages = tuple(Carriage(carrier, add.payload.electorate_block, add.hlc) for add in adds)
    uuids = tuple(node.uuid for node in adds[0].body.nodes)
    claim = Claim(claim_id, request.hotkey, parse_nonce(request.nonce) or 0, uuids, carriages)
    if objection := inventory.objection(claim, electorate):
        block = electorate.registration_block(claim.miner)
        raise ProofError(
            f"the claim does not count at block {electorate.block} ({objection}): its miner {ss58_encode(claim.miner)} "
            f"is {'not registered' if block is None else f'registered since block {block}'}, the registration names "
            f"block {', '.join(str(carriage.electorate_block) for carriage in carriages)}, its carrier "
            f"{ss58_encode(carrier)} has {'a' if electorate.permitted(carrier) else 'no'} permit"
        )
    return carrier, claim, adds[0]


def _votes(said: list[_Said], proof: Proof, electorate: Electorate) -> dict[bytes, tuple[Vote, bytes]]:
    """The verdicts on the claim by their validators, each with the id of its event: all of them must count."""
    votes: dict[bytes, tuple[Vote, bytes]] = {}
    for author, event, judgement in said:
        if not isinstance(judgement.payload, Verdict | Renew):
            continue
        verdict = next((each for each in judgement.payload.verdicts if each.claim_id == proof.claim_id), None)
        if verdict is None:
            raise ProofError(
                f"the {event.kind} of validator {ss58_encode(author)} is about other claims than {proof.claim_id.hex()}"
            )
        if author in votes:
            raise ProofError(f"there are two verdicts of validator {ss58_encode(author)}; expected one of each")
        if verdict.finding == FAILED:
            raise ProofError(f"a verdict of validator {ss58_encode(author)} is failed; expected verified or abstain")
        vote = Vote(author, event.hlc, verdict.finding, verdict.since, verdict.method, verdict.detail)
        votes[author] = vote, event.id
    if not votes:
        raise ProofError("there is no verdict that verifies the claim")
    weights = Weights(proof.network, electorate, _mandates(said))
    live = inventory.live_votes((vote for vote, _ in votes.values()), weights)
    if idle := sorted(votes.keys() - live.keys()):
        why = (
            "has lapsed"
            if idle[0] in weights.enrolled
            else "has no delegation in the proof that lives then"
            if electorate.permitted(idle[0])
            else "has no permit"
        )
        raise ProofError(
            f"the vote of validator {ss58_encode(idle[0])} does not count at block {electorate.block}, whose time is "
            f"{electorate.time_ms / 1000:.3f}: it {why}"
        )
    return votes


def _mandates(said: Iterable[_Said]) -> dict[bytes, Mandate]:
    """What the proof shows of its validators' delegations: of each log the last one counts."""
    windows: dict[bytes, dict[LogId, tuple[int, int]]] = {}
    first: dict[bytes, int] = {}
    for author, event, judgement in said:
        if isinstance(judgement.payload, Delegation):
            windows.setdefault(author, {})[event.log] = judgement.payload.not_before, judgement.payload.not_after
            first[author] = min(first.get(author, event.hlc), event.hlc)
    return {author: Mandate(tuple(spans.values()), first[author]) for author, spans in windows.items()}


def _no_more(said: Iterable[_Said], needed: set[bytes]) -> None:
    """Refuse logs of validators that neither vote nor carry the registration."""
    for author, event, _ in said:
        if author not in needed:
            raise ProofError(f"log {event.log} of validator {ss58_encode(author)} says nothing about the claim")


def _too_few(network: Network, scales: Scales, permitted: int) -> str:
    needed = max(scales.quorum, scales.share)
    return (
        f"validators with a stake of {scales.verified} verified the claim; needed is {needed}, more than "
        f"{network.quorum_ppm / 10_000:g} % of {scales.weighed} and at least {network.min_share_ppm / 10_000:g} % of "
        f"{permitted}: a proof weighs all permitted validators, enrolled or "
        "not, less those who abstain in it"
    )


# -- the electorate, as its digest hashes it -------------------------------------------------------------------------


def _electorate_bytes(electorate: Electorate) -> bytes:
    previous = electorate.previous
    data = codec.pack([_pin_fields(electorate.current), None if previous is None else _pin_fields(previous)])
    assert codec.digest(data) == electorate.digest, "BUG! the electorate's digest is of another form"
    return data


def _electorate(data: bytes) -> Electorate:
    try:
        current, previous = codec.fields(codec.unpack(data), 2, "pins")
        electorate = Electorate(_pin(current), None if previous is None else _pin(previous))
    except (ValueError, MalformedError) as error:
        raise ProofError(f"electorate: {error}") from error
    if codec.digest(data) != electorate.digest:
        raise ProofError("electorate: expected every hotkey once, in ascending order")
    return electorate


def _pin_fields(pin: Pin) -> list[codec.Value]:
    return [
        pin.block,
        pin.time_ms,
        [[hotkey, stake] for hotkey, stake in sorted(pin.validators.items())],
        [[hotkey, block] for hotkey, block in sorted(pin.registered.items())],
    ]


def _pin(value: codec.Value) -> Pin:
    block, time_ms, validators, registered = codec.fields(value, 4, "pin")
    return Pin(
        codec.integer(block, "block"),
        codec.integer(time_ms, "time", 0, MS_MAX),
        _numbers(validators, "stake"),
        _numbers(registered, "registration block"),
        {},
    )


def _numbers(value: codec.Value, what: str) -> Mapping[bytes, int]:
    pairs = (codec.fields(entry, 2, what) for entry in codec.array(value, 0, HOTKEYS_MAX, what))
    return {codec.binary(hotkey, "hotkey", KEY_BYTES): codec.integer(number, what) for hotkey, number in pairs}


# -- the file ----------------------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are unique: which of two counts would differ between readers."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} occurs twice in one object")
    return found


def _bytes(text: str, what: str) -> bytes:
    """Decode base64 in its one canonical form: decoders overlook unused bits."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise MalformedProofError(f"{what}: not base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise MalformedProofError(f"{what}: not base64 in its canonical form")
    return data


def _problem(error: ValidationError) -> str:
    """One line for the first error of pydantic's."""
    details = error.errors()[0]
    key = ".".join(str(part) for part in details["loc"]) or "a key"  # it has no place where it is no text
    match details["type"]:
        case "extra_forbidden":
            return f"{shown(key)}: unknown key, a proof of version {VERSION} has none beside its own"
        case "missing":
            return f"{key}: missing"
        case _:
            return f"{key}: {found_and_expected(details, key)}"
