"""Makes the vectors from fixed seeds.

sr25519 signatures are randomised, so they are inputs: ``signatures.json`` keeps one for each message, and only a
message that is new is signed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from p2pnodes.gossip import frames
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    Book,
    CertificateAnswer,
    CertificateWant,
    Digest,
    Entry,
    Events,
    Have,
    Leaves,
    LeavesWant,
    Link,
    Mark,
    Mode,
    News,
    Proofs,
    Range,
    Slices,
    Vector,
    Want,
    log_tag,
)
from p2pnodes.model import codec
from p2pnodes.model.branches import NO_ENDS, Ends, ended_log, ends_by
from p2pnodes.model.checkpoint import (
    MASK_MAX,
    SLICE_BYTES,
    Certificate,
    Leaf,
    Signature,
    Slicer,
    check,
    due_number,
    floor_of,
    horizon_of,
    line_of,
)
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.codec import MalformedError, digest
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import (
    PAYLOADS,
    Carry,
    Checkpoint,
    Close,
    CutLog,
    Delegation,
    Event,
    Evidence,
    Head,
    LogId,
    Place,
    Propose,
    Release,
    Renew,
    Verdict,
    closing,
    delegation_message,
    kind_of,
)
from p2pnodes.model.keys import Hotkey, NodeKey, ss58_encode
from p2pnodes.model.network import Network
from p2pnodes.model.requests import Add, Delete, request_id, seed_of, signing_message, tail_of, task_id_of
from p2pnodes.model.stateroot import bucket_of, state_root
from p2pnodes.model.validity import EMPTY, judge
from p2pnodes.store.checkpoints import kept_leaves
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import proposal
from p2pnodes.store.rebuild import finish_cut
from p2pnodes.store.schema import open_writer
from p2pnodes.store.vector import slice_of, vector_digest
from tests.model.reference import Reference
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, hotkey

FOLDER: Final = Path(__file__).parent
SIGNATURES: Final = FOLDER / "signatures.json"
URIS: Final = ("//Alice", "//Bob", "//validator0", "//validator1", "//validator2", "//Alice/soft//7")

Case = dict[str, Any]


class Signatures:
    """The signatures that the vectors hold, by signer and message."""

    def __init__(self, *, may_sign: bool) -> None:
        """Read those that were kept; ``may_sign``: make those that are missing."""
        kept: list[dict[str, str]] = json.loads(SIGNATURES.read_text()) if SIGNATURES.exists() else []
        self._kept = {(each["address"], each["message"]): each["signature"] for each in kept}
        self._used: dict[tuple[str, str], str] = {}
        self._may_sign = may_sign
        self._sign: Callable[[Hotkey, bytes], bytes] = Hotkey.sign

    def sign(self, signer: Hotkey, message: bytes) -> bytes:
        """The one signature of this message that the vectors know."""
        key = signer.address, message.hex()
        if key not in self._kept:
            assert self._may_sign, f"no signature is kept for {message!r}: see tests/vectors/__init__.py"
            self._kept[key] = self._sign(signer, message).hex()
        self._used[key] = self._kept[key]
        return bytes.fromhex(self._kept[key])

    @contextmanager
    def instead_of_new_ones(self) -> Iterator[None]:
        """Let every hotkey sign with what is kept."""

        def sign(signer: Hotkey, message: bytes) -> bytes:
            return self.sign(signer, message)

        with mock.patch.object(Hotkey, "sign", sign):
            yield

    def content(self) -> list[Case]:
        """The file: what was used, in order of first use."""
        return [{"address": a, "message": m, "signature": signature} for (a, m), signature in self._used.items()]


def build(*, may_sign: bool = False) -> dict[str, list[Case]]:
    """Every file's content, by name."""
    signatures = Signatures(may_sign=may_sign)
    with signatures.instead_of_new_ones():
        files = {
            "keys": _keys(),
            "networks": _networks(),
            "requests": _requests(),
            "delegations": _delegations(),
            "events": _events(),
            "frames": _frames(),
            "inventories": _inventories(),
            "livesets": _live_sets(),
            "cuts": _cuts(),
            "certificates": _certificates(),
        }
    return {**files, "signatures": signatures.content()}


def text_of(cases: list[Case]) -> str:
    """A file's text."""
    return json.dumps(cases, indent=1, ensure_ascii=False) + "\n"


def _keys() -> list[Case]:
    seeds = (bytes(32), bytes(range(32)), b"\xff" * 32)
    node_keys = [
        {
            "kind": "ed25519",
            "seed": seed.hex(),
            "public_key": NodeKey.from_seed(seed).public_key.hex(),
            "signature_of_p2pnodes": NodeKey.from_seed(seed).sign(b"p2pnodes").hex(),
        }
        for seed in seeds
    ]
    hotkeys = [
        {"kind": "sr25519", "uri": uri, "public_key": hotkey(uri).public_key.hex(), "address": hotkey(uri).address}
        for uri in URIS
    ]
    return [*node_keys, *hotkeys]


def _networks() -> list[Case]:
    networks = (
        NETWORK,
        Network(genesis_hash="2f" * 32, netuid=64),
        Network(genesis_hash="2f" * 32, netuid=1, quorum=2 / 3, min_share=0.125, verdict_ttl_s=3_600, epoch_blocks=360),
        Network(genesis_hash="2f" * 32, netuid=64, horizon_s=86_400),
    )
    return [{**network.model_dump(), "network_id": network.id.hex()} for network in networks]


def _requests() -> list[Case]:
    requests: list[Add | Delete] = [
        add("//Alice", ["gpu-1"]),
        add("//Alice", ["gpu-1"], NOW_S + 1),
        add("//Bob", [f"{index:032x}" for index in range(10)]),
        delete("//Alice", "nodes"),
        delete("//Alice", "nodes:gpu-1"),
    ]
    alice = hotkey("//Alice")
    wrapped = signing_message(alice.address, str(NOW_S), "nodes:gpu-2")
    requests.append(Delete(alice.public_key, str(NOW_S), alice.sign(b"<Bytes>" + wrapped + b"</Bytes>"), "nodes:gpu-2"))
    return [_request(request) for request in requests]


def _request(request: Add | Delete) -> Case:
    address = ss58_encode(request.hotkey)
    found = request_id(NETWORK.id, request)
    content = {"body": request.body.decode()} if isinstance(request, Add) else {"purpose": request.purpose}
    claim = {"task_id": task_id_of(address, found), "seed": seed_of(found)} if isinstance(request, Add) else {}
    return {
        "network_id": NETWORK.id.hex(),
        "hotkey": address,
        "nonce": request.nonce,
        **content,
        "message": signing_message(address, request.nonce, tail_of(request)).decode(),
        "signature": request.signature.hex(),
        "request_id": found.hex(),
        **claim,
    }


def _delegations() -> list[Case]:
    first, second = Author("//validator0"), Author("//validator0", number=1)
    head = Head(41, digest(b"head"))
    said = first.delegation()
    messages: list[tuple[str, Author, bytes]] = [("first", first, delegation_message(NETWORK.id, first.log, said))]
    for name, predecessor in (("after an empty log", (first.log, None)), ("after a log", (first.log, head))):
        messages.append(
            (name, second, delegation_message(NETWORK.id, second.log, said._replace(predecessor=predecessor)))
        )
    for name, until in (("close of an empty log", None), ("close", head)):
        messages.append((name, first, Close(first.log, until, first.hotkey.public_key, b"").message(NETWORK.id)))
    return [
        {"case": name, "node_key": author.log.node_key.hex(), "number": author.log.number, "message": message.hex()}
        for name, author, message in messages
    ]


def _log() -> list[Event]:
    """A log of //validator0's with an event of every kind."""
    author = Author("//validator0")
    author.delegate()
    request = add("//Alice", ["gpu-1", "gpu-2"])
    claim_id = request_id(NETWORK.id, request)
    added = author.add(request)
    author.delete(delete("//Alice", "nodes:gpu-2"), "gpu-2", [claim_id])
    author.delete(delete("//Bob", "nodes", NOW_S - 1), "gpu-3")
    author.verdict(claim_id, since=hlc_at(NOW_MS - 5_000))
    author.verdict(claim_id, "failed")
    author.verdict(claim_id, "abstain")
    author.write(Place(claim_id, ("gpu-1", "gpu-2"), "chute-1", "instance-1", True, True, "llama", "ann"))
    author.write(Place(claim_id, ("gpu-2",), "chute-2", "instance-2", False, False, None, None))
    author.write(Release(claim_id, ("gpu-1",)))
    author.write(Carry((added.wire,)))
    assert author.head is not None
    closed = Close(author.log, author.head, author.hotkey.public_key, b"")
    author.write(closed._replace(signature=author.hotkey.sign(closed.message(NETWORK.id))))
    one, other = sorted(_rivals(), key=lambda event: event.id)
    author.write(Evidence(one.header, one.signature, other.header, other.signature))
    first = author.write(Propose(20_416, b"", _electorate(NOW_MS).canonical, _older()))
    author.write(Checkpoint(20_416, first.id, 130, 3, digest(b"root")))
    following = author.write(Propose(20_417, first.id, _electorate(NOW_MS).canonical, _older()[:1]))
    author.write(Checkpoint(20_417, following.id, 0, 0, digest(b"")))
    author.write(Renew("test", ((bytes(32), 0), (claim_id, hlc_at(NOW_MS - 5_000)))))
    successor = Author("//validator0", number=1)
    said = successor.delegation()._replace(predecessor=(author.log, author.head))
    signed = said._replace(signature=author.hotkey.sign(delegation_message(NETWORK.id, successor.log, said)))
    successor.write(signed, at_ms=NOW_MS)
    return [*author.events, *successor.events]


def _rivals() -> tuple[Event, Event]:
    author = Author("//validator1", seed=1)
    author.delegate()
    fork = author.head
    first = author.verdict(bytes(32), "failed")
    author.head = fork
    return first, author.verdict(bytes(32), "abstain")


def _older() -> tuple[CutLog, ...]:
    """What proposals name of two logs."""
    found = []
    for number, author in enumerate((Author("//validator0"), Author("//validator1", number=1))):
        last = Head(41 + number, digest(b"older"))
        at_s = NOW_S - 691_200
        found.append(
            CutLog(author.log, author.hotkey.public_key, last, hlc_at(at_s * 1000, number), at_s - 3_600, NOW_S)
        )
    return tuple(sorted(found))


def _events() -> list[Case]:
    cases: list[Case] = []
    prefix = EMPTY
    for event in _log():
        judgement = judge(event, EMPTY if event.seq == 0 else prefix)
        prefix = judgement.prefix
        assert judgement.payload is not None, judgement.void
        cases.append(
            {
                "kind": event.kind,
                "version": event.version,
                "network_id": event.network_id.hex(),
                "node_seed": Author("//validator0").node_key.seed.hex(),
                "node_key": event.log.node_key.hex(),
                "number": event.log.number,
                "seq": event.seq,
                "previous": event.previous.hex(),
                "hlc": event.hlc,
                "payload": _show(judgement.payload.to_wire()),
                "id": event.id.hex(),
                "wire": event.wire.hex(),
            }
        )
    return cases


def _frames() -> list[Case]:
    """A frame of each kind; their fields by name."""
    author, other = Author("//validator0"), Author("//validator1")
    log, event = author.log, author.delegate()
    close = closing(author.hotkey, NETWORK.id, log, Head(41, digest(b"head")))
    one, rival = sorted(_rivals(), key=lambda event: event.id)
    evidence = Evidence(one.header, one.signature, rival.header, rival.signature)
    entries = sorted(
        [
            Entry(log, Head(41, digest(b"head")), Mark(None, (42, digest(b"head")))),
            Entry(LogId(log.node_key, 1), Head(7, digest(b"seven")), None),
            Entry(other.log, Head(2, digest(b"two")), Mark(3, (5, digest(b"four")))),
            Entry(LogId(other.log.node_key, 1), None, Mark(0, (0, b""))),
        ]
    )
    book = sorted([(log, author.delegation()), (other.log, other.delegation())])
    found: list[tuple[frames.Frame, list[Any]]] = [
        (frame, _show(list(frame)))
        for frame in (
            Digest(True, NOW_MS, digest(b"vector"), digest(b"root"), digest(b"electorate"), 0),
            Digest(False, NOW_MS, digest(b"vector"), digest(b"root"), digest(b"electorate"), None),
            CertificateWant(20_416),
            CertificateAnswer(20_416, _certificate()),
            LeavesWant(20_416, 3),
            Leaves(20_416, 3, [(1, event.wire), (2**64 - 1, author.delegate().wire)], [digest(b"beside")]),
            Leaves(20_416, 4, [], []),
            Vector(0, True, ALL_SLICES, entries),
            Vector(0, True, ALL_SLICES, []),
            Vector(1, True, frames.scope_of([slice_of(log)]), []),
            Slices([digest(bytes([number]), 16) for number in range(64)]),
            Want(log, 3, 512, 1),
            Link(Mode.NEWS),
            Have([News(log_tag(log), 41, 65_535), News(log_tag(other.log), 0, 0)]),
            Range(log, 0, [event.wire]),
            Range(log, 9, []),
            Events([event.wire]),
        )
    ]
    proofs = Proofs([evidence, close, closing(author.hotkey, NETWORK.id, LogId(log.node_key, 1), None)])
    found.append((proofs, [[[kind_of(proof), *_show(proof.to_wire())] for proof in proofs.proofs]]))
    found.append((Book(book), [[[_show(log), _show(delegation.to_wire())] for log, delegation in book]]))
    return [
        {"frame": type(frame).__name__.lower(), "fields": fields, "wire": frame.encode().hex()}
        for frame, fields in found
    ]


def _certificate() -> bytes:
    """One that a single validator signed."""
    author = Author("//validator0")
    delegation = author.delegate()
    proposal = author.write(Propose(20_416, b"", _electorate(NOW_MS).canonical, _older()))
    statement = author.write(Checkpoint(20_416, proposal.id, 130, 3, digest(b"root")))
    return Certificate(proposal, (Signature(delegation, statement),)).encode()


def _show(value: Any) -> Any:
    """A value with its byte strings in hex."""
    if isinstance(value, bytes):
        return value.hex()
    return [_show(item) for item in value] if isinstance(value, list | tuple) else value


def _inventories() -> list[Case]:
    registered = [event for author in _registered() for event in author.events]
    return [
        _inventory(registered, _electorate(NOW_MS)),
        _inventory(registered, _electorate(NOW_MS + 90_000_000)),
        _inventory(_ended(), _electorate(NOW_MS)),
    ]


def _ended() -> list[Event]:
    """The same, where one log is closed below a deletion and another one has forked at a verdict."""
    authors = _registered()
    closed, forked = authors[1], authors[2]
    rivals = [forked.events[2]]
    forked.head, forked.clock.latest = Head(1, forked.events[1].id), forked.events[1].hlc
    rivals.append(forked.write(Verdict(bytes(32), "failed", "test", "", None), at_ms=NOW_MS + 1_000))
    forked.events.pop()
    one, other = sorted(rivals, key=lambda event: event.id)
    authors[0].write(Evidence(one.header, one.signature, other.header, other.signature), at_ms=NOW_MS + 5_000)
    successor = Author("//validator1", number=1)
    successor.write(successor.delegation(not_before=NOW_S - 200_000), at_ms=NOW_MS + 5_000)
    last = Head(closed.events[-2].seq, closed.events[-2].id)
    successor.write(closing(closed.hotkey, NETWORK.id, closed.log, last), at_ms=NOW_MS + 5_000)
    return [event for author in (*authors, successor) for event in author.events]


def _registered() -> list[Author]:
    """Two miners, three validators: a contest, a deletion, a chute."""
    authors = [Author(f"//validator{index}") for index in range(3)]
    for author in authors:
        author.write(author.delegation(not_before=NOW_S - 200_000), at_ms=NOW_MS - 172_800_000)
    requests = [add("//Alice", ["gpu-1", "gpu-2"]), add("//Bob", ["gpu-1"], NOW_S - 1), add("//Bob", ["gpu-3"])]
    first, second, third = (request_id(NETWORK.id, request) for request in requests)
    for author, request in zip(authors, requests, strict=True):
        author.add(request)
    for author in authors[:2]:
        author.verdict(first, at_ms=NOW_MS + 1_000)
    authors[2].verdict(first, "abstain", at_ms=NOW_MS + 1_000)
    for author in authors[1:]:
        author.verdict(third, "failed", at_ms=NOW_MS + 2_000)
    authors[0].write(
        Place(first, ("gpu-1",), "chute-1", "instance-1", True, True, "llama", "ann"), at_ms=NOW_MS + 3_000
    )
    authors[0].renew(first, third, at_ms=NOW_MS + 3_500)
    authors[1].delete(delete("//Alice", "nodes:gpu-2", NOW_S + 4), "gpu-2", [first], at_ms=NOW_MS + 4_000)
    assert second != third
    return authors


def _electorate(time_ms: int) -> Electorate:
    stakes = {hotkey(f"//validator{index}").public_key: 100 + index for index in range(3)}
    registered = {hotkey(uri).public_key: 7 for uri in ("//Alice", "//Bob")}
    earlier = Pin(0, time_ms - 1_200_000, stakes, registered, {})
    return Electorate(Pin(100, time_ms, stakes, registered, {}), earlier)


def _ends(events: list[Event]) -> dict[LogId, Ends]:
    """What the events prove of the ends of their logs."""
    hotkeys = {
        event.log: PAYLOADS["delegate"].from_wire(codec.unpack(event.payload)) for event in events if not event.seq
    }
    found: dict[LogId, Ends] = {}
    for event in events:
        if event.kind in {"close", "evidence"}:
            proof = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
            assert isinstance(proof, Close | Evidence)
            delegation = hotkeys[ended_log(proof)]
            assert isinstance(delegation, Delegation)
            if isinstance(proof, Evidence) or proof.hotkey == delegation.hotkey:
                found[ended_log(proof)] = found.get(ended_log(proof), NO_ENDS).merged(ends_by(proof))
    return found


def _cut(events: list[Event], log: LogId, ends: Ends) -> int:
    """First seq of a log that counts for nothing; beyond all where there is none."""
    ids = {event.seq: event.id for event in events if event.log == log}
    cut = ends.cut(ids.get)
    return 1 << 63 if cut is None else cut


def _pins(electorate: Electorate) -> list[Case]:
    return [
        {
            "block": pin.block,
            "time_ms": pin.time_ms,
            "validators": {hotkey.hex(): stake for hotkey, stake in pin.validators.items()},
            "registered": {hotkey.hex(): block for hotkey, block in pin.registered.items()},
        }
        for pin in (electorate.current, electorate.previous)
        if pin is not None
    ]


def _inventory(events: list[Event], electorate: Electorate) -> Case:
    rows = Reference(events, electorate, NETWORK).rows().values()
    ends = _ends(events)
    counted = [event for event in events if event.seq < _cut(events, event.log, ends.get(event.log, NO_ENDS))]
    heads = {event.log: Head(event.seq, event.id) for event in sorted(counted, key=lambda event: event.seq)}
    return {
        "electorate": _pins(electorate),
        "electorate_digest": electorate.digest.hex(),
        "events": [event.wire.hex() for event in events],
        "vector_digest": vector_digest(heads, ends).hex(),
        "rows": [
            {
                "uuid": row.uuid,
                "claim_id": row.claim_id.hex(),
                "miner": row.miner.hex(),
                "status": row.status,
                "created_hlc": row.created_hlc,
                "verified_since": row.verified_since,
                "detail": row.detail,
                "chute": row.chute and list(row.chute),
                "bucket": bucket_of(row.uuid),
                "digest": row.digest().hex(),
            }
            for row in rows
        ],
        "state_root": state_root(rows).hex(),
    }


def _live_sets() -> list[Case]:
    """Leaves with the sizes of their events, in slices of each way to end, and trees of several shapes."""
    shapes: tuple[list[int], ...] = ([], [100], [100] * 65, [SLICE_BYTES, 100], [99_328] * 14, [SLICE_BYTES] * 8)
    return [_live_set(sizes) for sizes in shapes]


def _live_set(sizes: list[int]) -> Case:
    slicer = Slicer()
    logs = sorted(Author(uri).log for uri in ("//validator0", "//validator1"))
    leaves = [
        Leaf(logs[2 * at // len(sizes)], at, digest(b"%d" % at), (1, 2, MASK_MAX)[at % 3]) for at in range(len(sizes))
    ]
    for leaf, size in zip(leaves, sizes, strict=True):
        slicer.add(leaf, size)
    tree = slicer.tree()
    return {
        "leaves": [
            {
                "node_key": leaf.log.node_key.hex(),
                "number": leaf.log.number,
                "seq": leaf.seq,
                "id": leaf.id.hex(),
                "mask": leaf.mask,
                "event_bytes": size,
                "digest": leaf.digest().hex(),
            }
            for leaf, size in zip(leaves, sizes, strict=True)
        ],
        "slices": [each.hex() for each in slicer.digests],
        "root": tree.root.hex(),
        "paths": [[each.hex() for each in tree.path(index)] for index in range(len(tree))],
    }


DAY_S: Final = 86_400
LONG_AGO_S: Final = NOW_S - 30 * DAY_S
LATELY_S: Final = NOW_S - 9 * DAY_S


def _cuts() -> list[Case]:
    """Events, a cut through them, and what is kept of those below it; then a later cut, with the first one in force."""
    authors, kept, rival = _older_logs()
    events = [event for author in authors for event in author.events]
    ledger = Ledger(open_writer(":memory:"), NETWORK)
    first, proposal_, statement = _cut_at(NOW_MS, events, ledger, b"")
    signatures = []
    for uri in ("//validator0", "//validator1", "//validator2"):
        author = Author(uri, number=2)
        signatures.append(Signature(author.delegate(), author.write(statement)))
    wire = Certificate(proposal_, tuple(sorted(signatures, key=lambda each: each.checkpoint.log))).encode()
    with ledger.transaction():
        ledger.checkpoints.take(wire)
        ledger.enforce()
    finish_cut(ledger)
    events += _late_log(kept, rival).events
    second, _, _ = _cut_at(NOW_MS + 8 * DAY_S * 1000, events, ledger, proposal_.id)
    return [{"before": None, **first}, {"before": wire.hex(), **second}]


def _cut_at(time_ms: int, events: list[Event], ledger: Ledger, previous: bytes) -> tuple[Case, Event, Checkpoint]:
    """Let a ledger that hears these events find what is kept; the case, its proposal and what is signed."""
    who = _electorate(time_ms)
    pin = who.current._replace(validators={**who.stakes, hotkey("//validator3").public_key: 1})
    with ledger.transaction():
        ledger.set_electorate(Electorate(pin))
        outcomes = ledger.receive(events, NOW_MS)
    assert not [outcome for outcome in outcomes if outcome.detail], "all are stored, and valid"
    proposed = proposal(ledger)
    assert proposed is not None
    assert proposed.previous == previous
    payload = proposed._replace(pins=who.canonical)  # //validator3 has lost its permit
    proposer = Author("//validator0", number=1)
    proposer.delegate()
    event = proposer.write(payload)
    line, statement = line_of(NETWORK, event, payload), None
    while statement is None:
        with ledger.transaction():
            statement = ledger.find_live_set(line)
    case = {
        "electorate": _pins(who),
        "horizon_s": NETWORK.horizon_s,
        "events": [each.wire.hex() for each in events],
        "proposal": event.wire.hex(),
        "horizon_ms": horizon_of(NETWORK, who),
        "floor_s": floor_of(NETWORK, horizon_of(NETWORK, who)),
        "leaves": [
            {
                "node_key": leaf.log.node_key.hex(),
                "number": leaf.log.number,
                "seq": leaf.seq,
                "kind": leaf.kind,
                "mask": sum(1 << item for item in leaf.items),
            }
            for leaf in kept_leaves(ledger.facts.connection, line.number)
        ],
        "statement": _show(list(statement)),
    }
    return case, event, statement


def _older_author(index: int, number: int = 0, after_ms: int = 0) -> Author:
    author = Author(f"//validator{index}", number=number)
    said = author.delegation(not_before=LONG_AGO_S - DAY_S, not_after=NOW_S + 30 * DAY_S)
    author.write(said, at_ms=LONG_AGO_S * 1000 - 9_000 + after_ms)
    return author


def _place(author: Author, claim_id: bytes, uuids: tuple[str, ...], instance: str, at_ms: int) -> None:
    author.write(Place(claim_id, uuids, "chute", instance, True, False, None, None), at_ms=at_ms)


def _older_logs() -> tuple[list[Author], Add, Add]:
    """Four validators' logs, most of which are older than the horizon: of each rule something is kept, and not kept.

    Returns:
        The authors, and two registrations.
    """
    authors = [_older_author(index) for index in range(4)]
    first, second, third, fourth = authors
    kept = add("//Alice", ["gpu-1", "gpu-2"], LONG_AGO_S)  # on gpu-2 it is deleted, below the floor
    gone = add("//Bob", ["gpu-3"], LONG_AGO_S)
    rival = add("//Bob", ["gpu-1"], LONG_AGO_S - 60)
    unregistered = add("//validator0", ["gpu-5"], LONG_AGO_S)
    unpermitted = add("//Alice", ["gpu-4"], LATELY_S)  # carried only by who has lost its permit
    claim_id, gone_id = request_id(NETWORK.id, kept), request_id(NETWORK.id, gone)
    at_ms, lately_ms = LONG_AGO_S * 1000, LATELY_S * 1000
    first.add(kept, at_ms=at_ms + 1_000)
    first.verdict(claim_id, at_ms=at_ms + 2_000)
    _place(first, claim_id, ("gpu-2", "gpu-1"), "a", at_ms + 3_000)
    second.write(second.delegation(not_before=LONG_AGO_S - DAY_S, not_after=NOW_S + 60 * DAY_S), at_ms=at_ms + 4_000)
    carried = [second.add(gone, at_ms=at_ms + 5_000), first.events[1]]
    second.delete(delete("//Bob", "nodes:gpu-3", LONG_AGO_S + 9), "gpu-3", [gone_id], at_ms=at_ms + 9_000)
    second.delete(delete("//Alice", "nodes:gpu-2", LONG_AGO_S + 10), "gpu-2", [claim_id], at_ms=at_ms + 10_000)
    highest = delete("//Alice", "nodes:gpu-2", LONG_AGO_S + 11)
    carried.append(second.delete(highest, "gpu-2", [claim_id], at_ms=at_ms + 11_000))
    second.delete(delete("//Bob", "nodes", LATELY_S), "gpu-9", at_ms=lately_ms)
    third.write(Carry(tuple(event.wire for event in carried)), at_ms=at_ms + 12_000)
    third.add(rival, at_ms=at_ms + 13_000)
    third.add(unregistered, at_ms=at_ms + 14_000)
    _place(third, claim_id, ("gpu-1",), "b", at_ms + 15_000)
    _place(third, claim_id, ("gpu-1",), "c", at_ms + 16_000)
    awaited_id = request_id(NETWORK.id, add("//Charlie", ["gpu-6", "gpu-7"], LATELY_S))  # nobody carries it
    _place(third, awaited_id, ("gpu-6",), "g", at_ms + 17_000)  # too old for that
    _place(third, awaited_id, ("gpu-7",), "h", lately_ms)
    _place(third, claim_id, ("gpu-2",), "i", lately_ms + 1)
    _place(second, claim_id, ("gpu-1",), "d", lately_ms + 1_000)
    second.write(Release(claim_id, ("gpu-1",)), at_ms=lately_ms + 2_000)
    fourth.add(unpermitted, at_ms=lately_ms)
    said_again = _older_author(1, number=1, after_ms=1_000)  # the younger one: of what both logs say its items are kept
    delegation = said_again.delegation(not_before=LONG_AGO_S - DAY_S, not_after=NOW_S + 60 * DAY_S)
    for _ in range(3):  # kept: the last
        said_again.write(delegation, at_ms=at_ms + 19_000)
    for block, after_s in ((50, 20), (100, 21), (60, 22), (100, 23), (101, 24)):  # the second is kept
        said_again.add(kept, block=block, at_ms=at_ms + after_s * 1000)
    said_again.write(Carry((first.events[1].wire,)), at_ms=at_ms + 25_000)  # kept, too: for its HLC
    said_again.write(Carry((first.events[1].wire,)), at_ms=at_ms + 26_000)
    for author in authors:  # above the cut
        author.verdict(claim_id, at_ms=NOW_MS - DAY_S * 1000)
    first.delete(delete("//Alice", "nodes", NOW_S - DAY_S), "gpu-2", [claim_id], at_ms=NOW_MS - DAY_S * 1000)
    _place(first, claim_id, ("gpu-1",), "e", NOW_MS - DAY_S * 1000 + 1_000)
    for claim_ids in ([claim_id], [claim_id, gone_id], [gone_id], []):  # kept: the first and the third
        said_again.delete(highest, "gpu-2", claim_ids, at_ms=at_ms + 27_000)
    unbound = delete("//Bob", "nodes", LATELY_S + 1)
    for uuid in ("gpu-8", "gpu-8", "gpu-9", "gpu-8", "gpu-7"):  # kept: the first and the third
        said_again.delete(unbound, uuid, at_ms=lately_ms + 1_000)
    for _ in range(3):  # kept: the last
        said_again.write(delegation, at_ms=lately_ms + 2_000)
    return [*authors, said_again], kept, rival


def _late_log(kept: Add, rival: Add) -> Author:
    """A log that is heard of when the first cut is in force, with what that makes void and what it does not."""
    author = _older_author(2, number=1)
    at_ms = LONG_AGO_S * 1000
    author.add(rival, at_ms=at_ms + 1_000)  # below the floor, but the live set has it
    author.add(add("//Bob", ["gpu-7"], LONG_AGO_S), at_ms=at_ms + 2_000)
    _place(author, request_id(NETWORK.id, kept), ("gpu-1",), "f", LATELY_S * 1000)
    author.add(add("//Bob", ["gpu-8"], LATELY_S), at_ms=LATELY_S * 1000 + 1_000)
    return author


def _certificates() -> list[Case]:
    """One that holds, and some that do not, each for one reason."""
    who = _electorate(NOW_MS)
    authors = [Author(f"//validator{index}") for index in range(3)]
    hlc = hlc_at(horizon_of(NETWORK, who) - 1)
    logs = tuple(
        sorted(
            CutLog(each.log, each.hotkey.public_key, Head(5, digest(b"five")), hlc, NOW_S - 86_400, NOW_S + 86_400)
            for each in authors
        )
    )
    proposer = Author("//validator0")
    proposer.delegate()
    number = due_number(NETWORK, who)
    proposal = proposer.write(Propose(number, b"", who.canonical, logs))
    late = proposer.write(Propose(number + 1, b"", who.canonical, logs))
    lapsed = proposer.write(
        Propose(number, b"", who.canonical, (*(each._replace(not_after=NOW_S - 1) for each in logs[:2]), logs[2]))
    )
    said = Checkpoint(number, proposal.id, 7, 1, digest(b"root"))

    def signatures(said: Checkpoint, count: int = 3) -> list[Signature]:
        found = []
        for uri in ("//validator0", "//validator1", "//validator2")[:count]:
            author = Author(uri)
            found.append(Signature(author.delegate(), author.write(said)))
        return found

    good = signatures(said)
    other = signatures(said._replace(root=digest(b"other")))
    first = good[0].checkpoint
    forged = Event.decode(codec.pack([first.header, bytes(64), first.payload]))
    made = {
        "holds": (proposal, good),
        "two of three sign": (proposal, good[:2]),
        "one signs twice": (proposal, [*good[:2], good[0]]),
        "they found different sets": (proposal, [*good[:2], other[2]]),
        "a signature is forged": (proposal, [good[0]._replace(checkpoint=forged), *good[1:]]),
        "a delegation is of another log": (proposal, [good[0]._replace(delegation=good[1].delegation), *good[1:]]),
        "it is of another proposal": (lapsed, good),
        "its number is not due": (late, signatures(said._replace(number=number + 1, proposal=late.id))),
        "two have no delegation that lives": (lapsed, signatures(said._replace(proposal=lapsed.id))),
    }
    return [_judged(name, Certificate(event, tuple(signed))) for name, (event, signed) in made.items()]


def _judged(name: str, certificate: Certificate) -> Case:
    try:
        holds = check(NETWORK, certificate).statement
    except MalformedError:
        holds = None
    return {
        "case": name,
        "network_id": NETWORK.id.hex(),
        "horizon_s": NETWORK.horizon_s,
        "wire": certificate.encode().hex(),
        "statement": holds and _show(list(holds)),
    }
