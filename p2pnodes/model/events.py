"""Events: signed, immutable records in a log, their wire format and every kind of payload.

An event on the wire is the canonical array ``[header, signature, payload]``, three byte strings. The header is the
canonical array ``[version, network id, node key, log number, seq, previous id, HLC, kind, payload hash]`` and is what
the node key signs; the event's id is the header's BLAKE2b-256. Because the header holds the payload's hash, two
headers with their signatures prove a fork whatever the events weigh. The layout of envelope and header is the same in
every protocol version: version and kind say only how to read the payload.

``docs/protocol.md`` has every layout, field and bound for a second implementation ("Events", "Payloads", "Validity");
``tests/vectors`` pins the bytes. A change of either is a change of both, and of the protocol's version.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Self, cast

import msgpack

from p2pnodes.model import codec
from p2pnodes.model.clock import HLC_MAX, SECONDS_MAX
from p2pnodes.model.codec import DIGEST_BYTES, MalformedError
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.keys import KEY_BYTES, SIGNATURE_BYTES, Check, Hotkey, NodeKey, verify_hotkey, verify_node
from p2pnodes.model.protocol import NETWORK_ID_BYTES, PROTOCOL_VERSION
from p2pnodes.model.requests import (
    UUID_CHARS_MAX,
    Add,
    Delete,
    add_fields,
    add_from_fields,
    delete_fields,
    delete_from_fields,
    request_check,
)

PAYLOAD_BYTES_MAX: Final = 96 * 1024
"""Bound of a payload: an add of the largest body fits, and so does a carry of that add."""

EVENT_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 1024
"""Bound of an event on the wire; header and signature take less than 512 bytes."""

_OTHER_HASH: Final = "the payload does not have the hash that the header names"
_ARRAYS_MAX: Final = 16
"""How far what should be an event is looked at; it is one array of three byte strings."""

HEADER_BYTES_MAX: Final = 256
"""Bound of a header; the longest takes less than 200."""

LOG_NUMBER_MAX: Final = 2**32 - 1
DELEGATION_BACKDATE_S: Final = 3600
"""A delegation begins this long before now and before the electorate's time, which runs behind the clock."""

URL_CHARS_MAX: Final = 256
GPUS_PER_EVENT_MAX: Final = 64
CLAIMS_PER_DELETE_MAX: Final = 64
CARRIED_MAX: Final = 64
RENEWED_MAX: Final = 64
"""Claims in one ``renew``: each takes 47 bytes then, of which 44 are its own; a verdict takes 270."""

DETAIL_CHARS_MAX: Final = 512
LABEL_CHARS_MAX: Final = 256
LOGS_PER_CUT_MAX: Final = 450
"""Logs that a cut can name; with the largest electorate they fit a payload."""

PINS_BYTES_MAX: Final = 32 * 1024
"""Bound of an electorate in a proposal; a subnet of 256 neurons takes 26 KiB."""

LEAVES_MAX: Final = 2**40
"""Bound of the events in a live set, and so of its slices."""

VERIFIED: Final = "verified"
FAILED: Final = "failed"
ABSTAIN: Final = "abstain"
FINDINGS: Final = frozenset({VERIFIED, FAILED, ABSTAIN})

_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")

_DELEGATION_CONTEXT: Final = b"p2pnodes delegation\n"
_CLOSE_CONTEXT: Final = b"p2pnodes close\n"


class LogId(NamedTuple):
    """A log: the node key that writes it, and its number."""

    node_key: bytes
    number: int

    def __str__(self) -> str:
        return f"{self.node_key[:6].hex()}/{self.number}"


class Head(NamedTuple):
    """A position in a log: the last event's seq and id."""

    seq: int
    id: bytes


class Event(NamedTuple):
    """A decoded envelope. Which payload it holds, and whether that is valid, is ``validity``'s question."""

    wire: bytes
    header: bytes
    signature: bytes
    payload: bytes
    id: bytes
    version: int
    network_id: bytes
    log: LogId
    seq: int
    previous: bytes
    hlc: int
    kind: str

    @classmethod
    def decode(cls, wire: bytes) -> Self:
        """Decode an event without checking its signature.

        Raises:
            MalformedError: Too large, not canonical, a field out of range, or a payload with another hash.
        """
        if len(wire) > EVENT_BYTES_MAX:
            raise MalformedError(f"event of {len(wire)} bytes: at most {EVENT_BYTES_MAX} are allowed")
        header, signature, payload = codec.fields(codec.unpack(wire, arrays_max=_ARRAYS_MAX), 3, "event")
        header = codec.binary(header, "header", 1, HEADER_BYTES_MAX)
        payload = codec.binary(payload, "payload", 0, PAYLOAD_BYTES_MAX)
        parsed = Header.decode(header)
        if codec.digest(payload) != parsed.payload_hash:
            raise MalformedError(_OTHER_HASH)
        return cls(
            wire,
            header,
            codec.binary(signature, "signature", SIGNATURE_BYTES),
            payload,
            codec.digest(header),
            parsed.version,
            parsed.network_id,
            parsed.log,
            parsed.seq,
            parsed.previous,
            parsed.hlc,
            parsed.kind,
        )

    @classmethod
    def create(
        cls,
        node_key: NodeKey,
        network_id: bytes,
        *,
        log_number: int,
        seq: int,
        previous: bytes,
        hlc: int,
        payload: "Payload",
    ) -> Self:
        """Build and sign an event of this build's protocol version.

        Raises:
            LocalProtocolError: The payload is larger than peers accept.
        """
        body = codec.pack(payload.to_wire())
        if len(body) > PAYLOAD_BYTES_MAX:
            raise LocalProtocolError(
                f"a payload of {len(body)} bytes: peers accept at most {PAYLOAD_BYTES_MAX}", code=Code.SYSTEM_MISUSE
            )
        log = LogId(node_key.public_key, log_number)
        header = codec.pack(
            [PROTOCOL_VERSION, network_id, *log, seq, previous, hlc, kind_of(payload), codec.digest(body)],
        )
        signature = node_key.sign(header)
        wire = codec.pack([header, signature, body])
        return cls(
            wire, header, signature, body, codec.digest(header), PROTOCOL_VERSION, network_id, log, seq, previous, hlc,
            kind_of(payload),
        )  # fmt: skip

    @staticmethod
    def is_whole(wire: bytes, event_id: bytes) -> bool:
        """Whether bytes are the event with an id; a quarter of what decoding them costs, some 1.5 microseconds.

        The id vouches for the header, and that for the payload, whose hash is its last field. Nothing but the log's
        key vouches for the signature, so one that is damaged is not seen.
        """
        try:
            header, signature, payload = msgpack.unpackb(wire)
            return bool(
                codec.digest(header) == event_id
                and header[-DIGEST_BYTES:] == codec.digest(payload)
                and len(signature) == SIGNATURE_BYTES
                and msgpack.packb([header, signature, payload]) == wire
            )
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException):  # what is no event
            return False

    def signed(self) -> bool:
        """Whether the log's node key signed the header; about 60 microseconds."""
        return verify_node(self.log.node_key, self.header, self.signature)

    def checks(self) -> Iterator[Check]:
        """The signatures that are asked for when it is stored and judged: its log's, and those of its requests.

        They can be checked ahead; nothing else follows from this. Of what cannot be read there are none, and what is
        rare (delegations, closings, evidence), or signed in the wrapped form, is left to whoever judges.
        """
        yield Check(False, self.log.node_key, self.header, self.signature)
        if self.kind not in _REQUESTING or not known(self):
            return
        try:
            payload = PAYLOADS[self.kind].from_wire(codec.unpack(self.payload))
            if isinstance(payload, AddPayload | DeletePayload):
                yield request_check(payload.request)
            elif isinstance(payload, Carry):
                for wire in payload.events:
                    inner = Event.decode(wire)
                    if inner.kind != self.kind:  # a carry in a carry is void
                        yield from inner.checks()
        except MalformedError:
            return


class Header(NamedTuple):
    """The signed part of an event."""

    version: int
    network_id: bytes
    log: LogId
    seq: int
    previous: bytes
    hlc: int
    kind: str
    payload_hash: bytes

    @classmethod
    def decode(cls, header: bytes) -> Self:
        """Decode the signed bytes; raises MalformedError."""
        version, network_id, node_key, number, seq, previous, hlc, kind, payload_hash = codec.fields(
            codec.unpack(header), 9, "header"
        )
        seq = codec.integer(seq, "seq")
        return cls(
            codec.integer(version, "version", 1, 65535),
            codec.binary(network_id, "network id", NETWORK_ID_BYTES),
            LogId(
                codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number", 0, LOG_NUMBER_MAX)
            ),
            seq,
            codec.binary(previous, "previous id", DIGEST_BYTES if seq else 0),
            codec.integer(hlc, "HLC", 0, HLC_MAX),
            _kind(kind),
            codec.binary(payload_hash, "payload hash", DIGEST_BYTES),
        )


class Delegation(NamedTuple):
    """Payload of ``delegate``: makes a node key speak for a validator's hotkey in one log.

    Attributes:
        hotkey: The validator's public key, 32 bytes.
        url: Base URL where peers reach the daemon, or empty for a daemon that only dials out.
        not_before: Unix seconds.
        not_after: Unix seconds.
        predecessor: The log that this one continues, and the head of its last good event (None for an empty one).
        signature: The hotkey's, over ``delegation_message``.
    """

    hotkey: bytes
    url: str
    not_before: int
    not_after: int
    predecessor: tuple[LogId, Head | None] | None
    signature: bytes

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [*_delegation_fields(self), self.signature]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        hotkey, url, not_before, not_after, predecessor, signature = codec.fields(value, 6, "delegate")
        if predecessor is not None:
            node_key, number, head = codec.fields(predecessor, 3, "predecessor")
            predecessor = (_log_id(node_key, number), _head(head))
        return cls(
            codec.binary(hotkey, "hotkey", KEY_BYTES),
            codec.text(url, "URL", URL_CHARS_MAX),
            codec.integer(not_before, "not-before", 0, SECONDS_MAX),
            codec.integer(not_after, "not-after", 0, SECONDS_MAX),
            predecessor,
            codec.binary(signature, "signature", SIGNATURE_BYTES),
        )

    def signed_for(self, network_id: bytes, log: LogId) -> bool:
        """Whether the hotkey signed this delegation for ``log`` on this network."""
        return verify_hotkey(self.hotkey, delegation_message(network_id, log, self), self.signature)


def _delegation_fields(delegation: Delegation) -> list[codec.Value]:
    predecessor = delegation.predecessor
    return [
        delegation.hotkey,
        delegation.url,
        delegation.not_before,
        delegation.not_after,
        None if predecessor is None else [*predecessor[0], _head_fields(predecessor[1])],
    ]


def delegation_message(network_id: bytes, log: LogId, delegation: Delegation) -> bytes:
    """The bytes that a validator's hotkey signs to delegate to ``log``'s node key."""
    return _DELEGATION_CONTEXT + codec.pack([network_id, *log, *_delegation_fields(delegation)])


def delegate(
    hotkey: Hotkey,
    network_id: bytes,
    log: LogId,
    *,
    url: str,
    not_before: int,
    not_after: int,
    predecessor: tuple[LogId, Head | None] | None = None,
) -> Delegation:
    """Sign a delegation of ``hotkey`` to the node key of ``log``."""
    unsigned = Delegation(hotkey.public_key, url, not_before, not_after, predecessor, b"")
    return unsigned._replace(signature=hotkey.sign(delegation_message(network_id, log, unsigned)))


class Close(NamedTuple):
    """Payload of ``close``: events of ``log`` outside the branch that ends in ``head`` are void."""

    log: LogId
    head: Head | None
    hotkey: bytes
    signature: bytes

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [*self.log, _head_fields(self.head), self.hotkey, self.signature]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        node_key, number, head, hotkey, signature = codec.fields(value, 5, "close")
        return cls(
            _log_id(node_key, number),
            _head(head),
            codec.binary(hotkey, "hotkey", KEY_BYTES),
            codec.binary(signature, "signature", SIGNATURE_BYTES),
        )

    def message(self, network_id: bytes) -> bytes:
        """The bytes that the hotkey signs."""
        return _CLOSE_CONTEXT + codec.pack([network_id, *self.log, _head_fields(self.head)])


def closing(hotkey: Hotkey, network_id: bytes, log: LogId, head: Head | None) -> Close:
    """Sign that ``log`` ends with ``head``, its last good event; None: nothing in it is good."""
    unsigned = Close(log, head, hotkey.public_key, b"")
    return unsigned._replace(signature=hotkey.sign(unsigned.message(network_id)))


class AddPayload(NamedTuple):
    """Payload of ``add``: a miner's registration and the block of the author's electorate."""

    request: Add
    electorate_block: int

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [*add_fields(self.request), self.electorate_block]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        *request, block = codec.fields(value, 5, "add")
        return cls(add_from_fields(request), codec.integer(block, "electorate block"))


def body_of_add(wire: bytes) -> bytes:
    """The miner's body in an ``add`` that was judged valid before, in a fifth of the time that decoding it takes.

    Raises:
        MalformedError: What is stored is damaged: no event, or its payload has not the hash that the header names.
    """
    try:
        header, _, payload = msgpack.unpackb(wire)
        if codec.digest(payload) != msgpack.unpackb(header)[-1]:
            raise MalformedError(_OTHER_HASH)
        _, _, _, body, _ = msgpack.unpackb(payload)
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise MalformedError(f"not an add: {error}") from error
    return cast("bytes", body)


class DeletePayload(NamedTuple):
    """Payload of ``delete``: a miner's deletion, the GPU it is applied to, and the claims that it ends there."""

    request: Delete
    uuid: str
    claim_ids: tuple[bytes, ...]

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [*delete_fields(self.request), self.uuid, list(self.claim_ids)]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        *request, uuid, claim_ids = codec.fields(value, 6, "delete")
        return cls(
            delete_from_fields(request),
            codec.text(uuid, "uuid", UUID_CHARS_MAX, 1),
            tuple(
                codec.binary(claim_id, "claim id", DIGEST_BYTES)
                for claim_id in codec.array(claim_ids, 0, CLAIMS_PER_DELETE_MAX, "claim ids")
            ),
        )


class Carry(NamedTuple):
    """Payload of ``carry``: the wire bytes of foreign ``add`` and ``delete`` events that count like the originals."""

    events: tuple[bytes, ...]

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [list(self.events)]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        (events,) = codec.fields(value, 1, "carry")
        return cls(
            tuple(
                codec.binary(event, "carried event", 1, EVENT_BYTES_MAX)
                for event in codec.array(events, 1, CARRIED_MAX, "carried events")
            )
        )


class Verdict(NamedTuple):
    """Payload of ``verdict``: one validator's finding on a claim.

    Attributes:
        claim_id: 32 bytes.
        finding: ``verified``, ``failed`` or ``abstain``.
        method: The verifier that found it, such as ``graval``.
        detail: For people; empty when verified.
        since: For verified: HLC at which the author's unbroken run of verified began. Otherwise None.
    """

    claim_id: bytes
    finding: str
    method: str
    detail: str
    since: int | None

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [self.claim_id, self.finding, self.method, self.detail, self.since]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        claim_id, finding, method, detail, since = codec.fields(value, 5, "verdict")
        finding = codec.text(finding, "finding", 16, 1)
        if finding not in FINDINGS:
            raise MalformedError(f"finding: expected one of {sorted(FINDINGS)}, found {finding!r}")
        if (since is None) is (finding == VERIFIED):
            raise MalformedError("since: expected for verified and for nothing else")
        return cls(
            codec.binary(claim_id, "claim id", DIGEST_BYTES),
            finding,
            codec.text(method, "method", 32, 1),
            codec.text(detail, "detail", DETAIL_CHARS_MAX),
            None if since is None else codec.integer(since, "since", 0, HLC_MAX),
        )

    @property
    def verdicts(self) -> tuple["Verdict", ...]:
        """The verdict itself, as ``Renew.verdicts``."""
        return (self,)


class Renew(NamedTuple):
    """Payload of ``renew``: its author's verdicts that claims are verified, under one signature.

    It says what a ``verdict`` for each of them would say, and counts as that.

    Attributes:
        method: The verifier that found it.
        claims: Claim id and ``since`` of each, in ascending order of the ids, each once.
    """

    method: str
    claims: tuple[tuple[bytes, int], ...]

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [self.method, [list(each) for each in self.claims]]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        method, claims = codec.fields(value, 2, "renew")
        pairs = [codec.fields(each, 2, "claim") for each in codec.array(claims, 1, RENEWED_MAX, "claims")]
        renewed = tuple(
            (codec.binary(claim_id, "claim id", DIGEST_BYTES), codec.integer(since, "since", 0, HLC_MAX))
            for claim_id, since in pairs
        )
        if any(before[0] >= after[0] for before, after in pairwise(renewed)):
            raise MalformedError("claims: not in ascending order of their ids, each once")
        return cls(codec.text(method, "method", 32, 1), renewed)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts that it stands for, in its order."""
        return tuple(Verdict(claim_id, VERIFIED, self.method, "", since) for claim_id, since in self.claims)


class Place(NamedTuple):
    """Payload of ``place``: GPUs of a claim run a chute. A private chute carries neither name nor username."""

    claim_id: bytes
    uuids: tuple[str, ...]
    chute_id: str
    instance_id: str
    verified: bool
    public: bool
    name: str | None
    username: str | None

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [self.claim_id, list(self.uuids), *self[2:]]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        claim_id, uuids, chute_id, instance_id, verified, public, name, username = codec.fields(value, 8, "place")
        public = codec.boolean(public, "public")
        if (name is None) is public or (username is None) is public:
            raise MalformedError("name and username: expected for public chutes and for nothing else")
        return cls(
            codec.binary(claim_id, "claim id", DIGEST_BYTES),
            _uuids(uuids),
            codec.text(chute_id, "chute id", LABEL_CHARS_MAX, 1),
            codec.text(instance_id, "instance id", LABEL_CHARS_MAX, 1),
            codec.boolean(verified, "verified"),
            public,
            None if name is None else codec.text(name, "name", LABEL_CHARS_MAX),
            None if username is None else codec.text(username, "username", LABEL_CHARS_MAX),
        )


class Release(NamedTuple):
    """Payload of ``release``: ends its author's own place on these GPUs."""

    claim_id: bytes
    uuids: tuple[str, ...]

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return [self.claim_id, list(self.uuids)]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        claim_id, uuids = codec.fields(value, 2, "release")
        return cls(codec.binary(claim_id, "claim id", DIGEST_BYTES), _uuids(uuids))


class Evidence(NamedTuple):
    """Payload of ``evidence``: the signed headers of two events of one log with equal seq and equal previous id.

    The headers are in ascending order of their ids, so one fork has one encoding.
    """

    first: bytes
    first_signature: bytes
    second: bytes
    second_signature: bytes

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return list(self)

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        first, first_signature, second, second_signature = codec.fields(value, 4, "evidence")
        return cls(
            codec.binary(first, "first header", 1, HEADER_BYTES_MAX),
            codec.binary(first_signature, "first signature", SIGNATURE_BYTES),
            codec.binary(second, "second header", 1, HEADER_BYTES_MAX),
            codec.binary(second_signature, "second signature", SIGNATURE_BYTES),
        )


class CutLog(NamedTuple):
    """How far a cut goes in one log, and what the log's next event is judged by.

    Attributes:
        log: The log.
        hotkey: The validator that it speaks for.
        head: Its last event that lies below the cut.
        hlc: Highest HLC of its events up to there, also of void ones.
        not_before: Of its latest valid delegation up to there, Unix seconds.
        not_after: Of the same.
    """

    log: LogId
    hotkey: bytes
    head: Head
    hlc: int
    not_before: int
    not_after: int


class Propose(NamedTuple):
    """Payload of ``propose``: where validators should cut their logs (``model.checkpoint``).

    Attributes:
        number: Of the checkpoint.
        previous: Id of the proposal behind the last certificate; empty while there is none.
        pins: The electorate whose validators sign, E_c: ``Electorate.canonical``.
        logs: The cut, in ascending order of logs.
    """

    number: int
    previous: bytes
    pins: bytes
    logs: tuple[CutLog, ...]

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        logs: list[codec.Value] = [[*each.log, each.hotkey, *each.head, *each[3:]] for each in self.logs]
        return [self.number, self.previous, self.pins, logs]

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        number, previous, pins, logs = codec.fields(value, 4, "propose")
        cut = tuple(_cut_log(each) for each in codec.array(logs, 1, LOGS_PER_CUT_MAX, "logs of a cut"))
        if any(before.log >= after.log for before, after in pairwise(cut)):
            raise MalformedError("logs of a cut: not in ascending order, each once")
        if previous != b"":
            previous = codec.binary(previous, "previous proposal", DIGEST_BYTES)
        return cls(
            codec.integer(number, "checkpoint number", 1),
            previous,
            codec.binary(pins, "electorate", 1, PINS_BYTES_MAX),
            cut,
        )


class Checkpoint(NamedTuple):
    """Payload of ``checkpoint``: its author found this live set below a proposed cut.

    Attributes:
        number: Of the checkpoint; of an author's checkpoints with one number any counts, whatever others say.
        proposal: Id of the ``propose`` event.
        leaves: Events in the live set.
        slices: Parts that it is transferred in.
        root: Merkle root over them.
    """

    number: int
    proposal: bytes
    leaves: int
    slices: int
    root: bytes

    def to_wire(self) -> list[codec.Value]:
        """Wire fields."""
        return list(self)

    @classmethod
    def from_wire(cls, value: codec.Value) -> Self:
        """Read wire fields; raises MalformedError."""
        number, proposal, leaves, slices, root = codec.fields(value, 5, "checkpoint")
        leaves = codec.integer(leaves, "leaves", 0, LEAVES_MAX)
        return cls(
            codec.integer(number, "checkpoint number", 1),
            codec.binary(proposal, "proposal", DIGEST_BYTES),
            leaves,
            codec.integer(slices, "slices", 0, leaves),
            codec.binary(root, "root", DIGEST_BYTES),
        )


Payload = (
    Delegation
    | Close
    | AddPayload
    | DeletePayload
    | Carry
    | Verdict
    | Renew
    | Place
    | Release
    | Evidence
    | Propose
    | Checkpoint
)

PAYLOADS: Final[dict[str, type[Payload]]] = {
    "delegate": Delegation,
    "close": Close,
    "add": AddPayload,
    "delete": DeletePayload,
    "carry": Carry,
    "verdict": Verdict,
    "renew": Renew,
    "place": Place,
    "release": Release,
    "evidence": Evidence,
    "propose": Propose,
    "checkpoint": Checkpoint,
}
"""Every kind of event that this build can judge, by name."""

_REQUESTING: Final = frozenset({"add", "delete", "carry"})
"""Kinds whose events hold requests."""

_KINDS: Final = {payload: kind for kind, payload in PAYLOADS.items()}


def kind_of(payload: Payload) -> str:
    """Name of a payload's kind."""
    return _KINDS[type(payload)]


def known(event: Event) -> bool:
    """Whether this build can judge the event: it knows its version and its kind."""
    return event.version <= PROTOCOL_VERSION and event.kind in PAYLOADS


def _kind(value: codec.Value) -> str:
    """A kind, known or not. It is shown to people, so what a peer invents is held to plain letters."""
    if type(value) is not str or not _KIND.fullmatch(value):
        raise MalformedError(f"kind: expected 1 to 32 of a-z, 0-9 and '-', a letter first, found {value!r:.60}")
    return value


def _log_id(node_key: codec.Value, number: codec.Value) -> LogId:
    return LogId(
        codec.binary(node_key, "node key", KEY_BYTES),
        codec.integer(number, "log number", 0, LOG_NUMBER_MAX),
    )


def _cut_log(value: codec.Value) -> CutLog:
    node_key, number, hotkey, seq, event_id, hlc, not_before, not_after = codec.fields(value, 8, "log of a cut")
    return CutLog(
        _log_id(node_key, number),
        codec.binary(hotkey, "hotkey", KEY_BYTES),
        Head(codec.integer(seq, "seq"), codec.binary(event_id, "event id", DIGEST_BYTES)),
        codec.integer(hlc, "HLC", 0, HLC_MAX),
        codec.integer(not_before, "not-before", 0, SECONDS_MAX),
        codec.integer(not_after, "not-after", 0, SECONDS_MAX),
    )


def _head(value: codec.Value) -> Head | None:
    if value is None:
        return None
    seq, event_id = codec.fields(value, 2, "head")
    return Head(codec.integer(seq, "seq"), codec.binary(event_id, "event id", DIGEST_BYTES))


def _head_fields(head: Head | None) -> Sequence[codec.Value] | None:
    return None if head is None else list(head)


def _uuids(value: codec.Value) -> tuple[str, ...]:
    uuids = tuple(
        codec.text(uuid, "uuid", UUID_CHARS_MAX, 1) for uuid in codec.array(value, 1, GPUS_PER_EVENT_MAX, "uuids")
    )
    if len(set(uuids)) < len(uuids):
        raise MalformedError("uuids: expected each once")
    return uuids
