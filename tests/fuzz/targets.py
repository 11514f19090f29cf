"""The decoders and what each promises."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from p2pnodes.chain.delegation import parse_closing, parse_delegation, parse_request
from p2pnodes.chain.file import read_electorate
from p2pnodes.chain.wallet import read_key
from p2pnodes.config import load_settings
from p2pnodes.gossip import frames
from p2pnodes.gossip.handshake import HandshakeError, Identity, Initiator, Policy, Responder
from p2pnodes.miner.example import example_server
from p2pnodes.miner.sse import SseParser
from p2pnodes.model import checkpoint, codec
from p2pnodes.model.checkpoint import Certificate, Signature
from p2pnodes.model.claims import check_claim, parse_body
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import ConfigError, InvalidBodyError, RemoteProtocolError
from p2pnodes.model.events import PAYLOADS, Checkpoint, CutLog, Event, Head, Propose
from p2pnodes.model.keys import ss58_decode, ss58_encode
from p2pnodes.model.proof import Proof, ProofError, check
from p2pnodes.model.validity import EMPTY, contents, judge
from tests.support import NETWORK, NOW_S, VALIDATORS, Author, electorate, hotkey
from tests.vectors.build import FOLDER

INPUT_BYTES_MAX: Final = 128 * 1024
"""Longest input that is tried; the largest event has 97 KiB."""


class Target(NamedTuple):
    """One decoder.

    Attributes:
        what: What it reads.
        run: Reads some bytes; raises when the decoder breaks its promise.
        seeds: Good input to begin with.
    """

    what: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def _vectors(name: str, field: str = "wire") -> Iterator[bytes]:
    for case in json.loads((FOLDER / f"{name}.json").read_text()):
        yield bytes.fromhex(case[field])


def _codec(data: bytes) -> None:
    try:
        value = codec.unpack(data)
    except MalformedError:
        return
    assert codec.pack(value) == data, "one value, one encoding"


def _event(data: bytes) -> None:
    try:
        event = Event.decode(data)
    except MalformedError:
        return
    event.signed()
    judgement = judge(event, EMPTY)
    assert judgement.prefix.hlc == event.hlc
    if judgement.payload is not None:
        assert contents(event).payload == judgement.payload


def _payload(data: bytes) -> None:
    """The first byte says of which kind, the rest is the payload."""
    kind = sorted(PAYLOADS)[data[0] % len(PAYLOADS)] if data else ""
    if not kind:
        return
    try:
        payload = PAYLOADS[kind].from_wire(codec.unpack(data[1:]))
    except MalformedError:
        return
    assert PAYLOADS[kind].from_wire(codec.unpack(codec.pack(payload.to_wire()))) == payload


def _payload_seeds() -> Iterator[bytes]:
    kinds = sorted(PAYLOADS)
    for wire in _vectors("events"):
        event = Event.decode(wire)
        yield bytes([kinds.index(event.kind)]) + event.payload


def _pins(data: bytes) -> None:
    try:
        found = Electorate.from_canonical(data)
    except MalformedError:
        return
    assert found.canonical == data
    assert found.previous is None or found.previous.block < found.block


def _certificate(data: bytes) -> None:
    try:
        certificate = Certificate.decode(data)
    except MalformedError:
        return
    assert certificate.encode() == data
    with suppress(MalformedError):
        assert checkpoint.check(NETWORK, certificate).line.proposal == certificate.proposal.id


@cache
def certificate() -> Certificate:
    """A good one, under the default electorate: all three validators have signed."""
    authors = [Author(uri) for uri in VALIDATORS]
    old_s, until_s = NOW_S - NETWORK.horizon_s - 86_400, NOW_S + 86_400
    logs = []
    for author in authors:
        first = author.write(author.delegation(not_before=old_s, not_after=until_s), at_ms=old_s * 1000)
        logs.append(CutLog(author.log, author.hotkey.public_key, Head(0, first.id), first.hlc, old_s, until_s))
    number = checkpoint.due_number(NETWORK, electorate())
    proposal = authors[0].write(Propose(number, b"", electorate().canonical, tuple(sorted(logs))))
    statement = Checkpoint(number, proposal.id, 3, 1, bytes(32))
    signatures = [Signature(author.events[0], author.write(statement)) for author in authors]
    return Certificate(proposal, tuple(sorted(signatures, key=lambda signature: signature.checkpoint.log)))


def _certificate_seeds() -> Iterator[bytes]:
    good = certificate()
    yield good.encode()
    yield good._replace(signatures=good.signatures[:2]).encode()
    yield good._replace(signatures=()).encode()


def _frame(data: bytes) -> None:
    try:
        frame = frames.decode(data)
    except RemoteProtocolError:
        return
    encode = getattr(frame, "encode", None)
    if encode is not None:
        assert frames.decode(encode()) == frame


def _identity(uri: str, seed: int) -> Identity:
    author = Author(uri, seed=seed)
    return Identity(author.node_key, author.log, author.delegation())


_POLICY: Final = Policy(NETWORK, NOW_S, electorate().permitted)
_DIALLER: Final = _identity("//validator1", 1)
_DIALLED: Final = _identity("//validator2", 2)


def _handshake(data: bytes) -> None:
    """The first byte says in which of the three places the rest is heard."""
    place, message = (data[0] % 3, data[1:]) if data else (0, b"")
    dialler = Initiator(_DIALLER, _POLICY, b"\1" * 32)
    dialled = Responder(_DIALLED, _POLICY, b"\2" * 32)
    with suppress(HandshakeError):
        if place == 0:
            dialled.answer(message)
        elif place == 1:
            dialler.prove(message)
        else:
            dialled.answer(dialler.hello)
            dialled.finish(message)


def _handshake_seeds() -> Iterator[bytes]:
    dialler = Initiator(_DIALLER, _POLICY, b"\1" * 32)
    dialled = Responder(_DIALLED, _POLICY, b"\2" * 32)
    answer = dialled.answer(dialler.hello)
    yield b"\0" + dialler.hello
    yield b"\1" + answer
    yield b"\2" + dialler.prove(answer)


def _body(data: bytes) -> None:
    try:
        check_claim(parse_body(data))
    except InvalidBodyError:
        return


def _proof(data: bytes) -> None:
    try:
        check(Proof.decode(data))
    except (MalformedError, ProofError):
        return


def _sse(data: bytes) -> None:
    """The first byte says in how large parts the rest comes; that must not matter."""
    size = data[0] % 16 + 1 if data else 1
    assert _events([data[1:]]) == _events([data[at : at + size] for at in range(1, len(data), size)])


def _events(parts: list[bytes]) -> list[Any] | None:
    parser, found = SseParser(), []
    try:
        for part in parts:
            found += parser.feed(part)
    except RemoteProtocolError:
        return None
    return found


def _address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        key = ss58_decode(text)
    except ValueError:
        return
    assert ss58_decode(ss58_encode(key)) == key


def _in_file(read: Callable[[Path], object]) -> Callable[[bytes], None]:
    directory = Path(tempfile.mkdtemp(prefix="p2pnodes-fuzz-"))
    path = directory / "input"
    path.touch(mode=0o600)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(ConfigError):
            read(path)

    return run


def _keys() -> Iterator[bytes]:
    key = hotkey("//Alice")
    yield json.dumps({"secretSeed": "0x" + key.secret_key[:32].hex(), "ss58Address": key.address}).encode()
    yield json.dumps({"secretPhrase": "bottom drive obey lake curtain smoke basket hold race lonely fit walk"}).encode()
    yield json.dumps({"publicKey": "0x" + key.public_key.hex(), "cryptoType": 1, "ss58Address": key.address}).encode()
    yield b'{"cryptoType": [], "secretSeed": {}}'
    yield bytes(range(32)).hex().encode()


def _signed(data: bytes) -> None:
    for parse in (parse_request, parse_delegation, parse_closing):
        with suppress(ConfigError):
            parse(data, "input")


TARGETS: Final[dict[str, Target]] = {
    "codec": Target("canonical msgpack", _codec, lambda: _vectors("events")),
    "event": Target("an event, judged as the first of its log", _event, lambda: _vectors("events")),
    "payload": Target("an event's payload, of each kind", _payload, _payload_seeds),
    "pins": Target(
        "the electorate in a proposal",
        _pins,
        lambda: iter([electorate().canonical, electorate(200, previous=electorate()).canonical]),
    ),
    "certificate": Target("a checkpoint's certificate", _certificate, _certificate_seeds),
    "frame": Target("a frame of the gossip protocol", _frame, lambda: _vectors("frames")),
    "handshake": Target("each message of the handshake", _handshake, _handshake_seeds),
    "body": Target(
        "the body of POST /nodes/", _body, lambda: iter([json.dumps(example_server(["gpu-1", "gpu-2"])).encode()])
    ),
    "proof": Target("a proof's file", _proof, lambda: iter([b'{"format": "p2pnodes proof", "version": 1}'])),
    "sse": Target(
        "a stream of server-sent events",
        _sse,
        lambda: iter([b"\3: hi\nid: 1-2\nevent: node\ndata: {}\n\nretry: 3\n\n"]),
    ),
    "address": Target("an SS58 address", _address, lambda: iter([hotkey("//Alice").address.encode()])),
    "key": Target("a hotkey's or node key's file", _in_file(read_key), _keys),
    "signed": Target(
        "what keys request and delegate exchange", _signed, lambda: iter([b'{"network_id": "' + b"00" * 16 + b'"}'])
    ),
    "electorate": Target(
        "an electorate's file",
        _in_file(read_electorate),
        lambda: iter([b'block = 100\ntime = 1764000000\n[[validators]]\nhotkey = "5x"\nstake = 1\n']),
    ),
    "settings": Target(
        "a configuration",
        _in_file(load_settings),
        lambda: iter([b'data_dir = "data"\n[http]\nport = 8000\n[gossip]\nbootstrap = ["https://a.example"]\n']),
    ),
}
