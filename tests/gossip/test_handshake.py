"""The handshake proves both ends and their keys to each other, and refuses everything else in words."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgpack
import pytest
import sr25519
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
)
from nacl.signing import SigningKey, VerifyKey

from p2pnodes.gossip import handshake
from p2pnodes.gossip.channel import Channel
from p2pnodes.gossip.handshake import (
    CLOCK_TOLERANCE_S,
    MESSAGE_BYTES_MAX,
    HandshakeError,
    Identity,
    Initiator,
    Keys,
    OwnKeyError,
    Peer,
    Policy,
    RefusedByPeerError,
    Responder,
    refusal,
)
from p2pnodes.model import codec
from p2pnodes.model.errors import REASON_CHARS_MAX, LocalProtocolError
from p2pnodes.model.events import LogId, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from tests.support import NETWORK, NOW_S, VALIDATORS, Author, electorate, hotkey

DIALLER, DIALLED = Author(VALIDATORS[0]), Author(VALIDATORS[1])
FOREIGN = Network(genesis_hash=NETWORK.genesis_hash, netuid=65)

SMALL_ORDER_POINTS = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
"""Points with which every Diffie-Hellman gives zero. Source: RFC 7748, 6.1, and libsodium's own list."""

Change = Callable[[int, bytes], bytes]


def identity(author: Author) -> Identity:
    return Identity(author.node_key, author.log, author.delegation())


def policy(**changes: object) -> Policy:
    return Policy(NETWORK, NOW_S, electorate().permitted)._replace(**changes)  # type: ignore[arg-type]


def dial(who: Identity | None = None, rules: Policy | None = None, secret: bytes = b"\1" * 32) -> Initiator:
    return Initiator(who or identity(DIALLER), rules or policy(), secret)


def pick_up(who: Identity | None = None, rules: Policy | None = None, secret: bytes = b"\2" * 32) -> Responder:
    return Responder(who or identity(DIALLED), rules or policy(), secret)


def shake(
    initiator: Initiator, responder: Responder, change: Change = lambda _, message: message
) -> tuple[tuple[Peer, Keys], tuple[Peer, Keys]]:
    """Carry the four messages over a wire that may change them; what the dialler and what the dialled one found."""
    answer = responder.answer(change(0, initiator.hello))
    proof = initiator.prove(change(1, answer))
    dialler = responder.finish(change(2, proof))
    return initiator.finish(change(3, dialler[1].welcome)), dialler


def recorded() -> list[bytes]:
    """The messages of a handshake, as somebody on the wire sees them."""
    messages: list[bytes] = []

    def record(_: int, message: bytes) -> bytes:
        messages.append(message)
        return message

    shake(dial(), pick_up(), record)
    return messages


def refused(initiator: Initiator, responder: Responder) -> str:
    with pytest.raises(HandshakeError) as caught:
        shake(initiator, responder)
    return str(caught.value)


class TestSuccess:
    """Both ends know who the other is, and hold the same keys."""

    def test_both_ends_learn_the_others_identity(self) -> None:
        (dialled, _), (dialler, _) = shake(dial(), pick_up())
        assert (dialled.log, dialled.hotkey) == (DIALLED.log, DIALLED.hotkey.public_key)
        assert (dialler.log, dialler.hotkey) == (DIALLER.log, DIALLER.hotkey.public_key)
        assert dialler.node_key == DIALLER.node_key.public_key
        assert dialler.version == dialled.version == 1

    def test_what_one_end_sends_with_the_other_receives_with(self) -> None:
        (_, ours), (_, theirs) = shake(dial(), pick_up())
        assert (ours.sending, ours.receiving) == (theirs.receiving, theirs.sending)
        assert ours.sending != ours.receiving

    def test_other_ephemeral_keys_give_other_traffic_keys(self) -> None:
        (_, first), _ = shake(dial(), pick_up())
        (_, second), _ = shake(dial(secret=b"\3" * 32), pick_up())
        assert not set(first) & set(second)

    def test_nobody_on_the_wire_sees_who_talks(self) -> None:
        seen = recorded()
        for author in (DIALLER, DIALLED):
            assert not any(author.node_key.public_key in message for message in seen)
            assert not any(author.hotkey.public_key in message for message in seen)

    def test_the_expected_hotkey_may_answer(self) -> None:
        (dialled, _), _ = shake(dial(rules=policy(hotkey=DIALLED.hotkey.public_key)), pick_up())
        assert dialled.hotkey == DIALLED.hotkey.public_key

    @pytest.mark.parametrize("newer", ["dialler", "dialled"])
    def test_a_newer_daemon_speaks_the_older_version(self, newer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if newer == "dialler":
            with monkeypatch.context() as upgraded:
                upgraded.setattr(handshake, "PROTOCOL_VERSION", 2)
                initiator = dial()
            found = shake(initiator, pick_up())
        else:
            initiator, responder = dial(), pick_up()
            with monkeypatch.context() as upgraded:
                upgraded.setattr(handshake, "PROTOCOL_VERSION", 2)
                answer = responder.answer(initiator.hello)
            proof = initiator.prove(answer)
            dialler = responder.finish(proof)
            found = initiator.finish(dialler[1].welcome), dialler
        assert [peer.version for peer, _ in found] == [1, 1]


class TestSecondImplementation:
    """docs/protocol.md, "Handshake" and "Channel", line by line, with nothing of ours: it must come out the same."""

    def test_a_dialler_written_from_the_text_gets_a_session(self) -> None:
        log = [DIALLER.node_key.public_key, DIALLER.log.number]
        said = [DIALLER.hotkey.public_key, "https://a.example", NOW_S - 60, NOW_S + 60, [bytes(32), 7, [41, b"i" * 32]]]
        context = b"p2pnodes delegation\n"
        delegation = [*said, DIALLER.hotkey.sign(context + msgpack.packb([NETWORK.id, *log, *said]))]
        secret = b"\7" * 32

        network = [bytes(32), 64, 500_000, 200_000, 86_400, 100, 604_800]
        hello = msgpack.packb(["p2pnodes", 1, 1, network, crypto_scalarmult_base(secret)])
        responder = pick_up()
        answer = responder.answer(hello)
        tag, version, their_network, their_public, their_sealed = msgpack.unpackb(answer)
        assert (tag, version, their_network) == ("p2pnodes", 1, network)
        shared = crypto_scalarmult(secret, their_public)

        def digest(data: bytes) -> bytes:
            return blake2b(data, digest_size=32).digest()

        def key(label: str, *values: bytes) -> bytes:
            return blake2b(msgpack.packb([label, *values]), key=shared, digest_size=32).digest()

        transcript = digest(hello + msgpack.packb(["p2pnodes", version, network, their_public]))
        statement = msgpack.packb(["p2pnodes handshake initiator", transcript, log, delegation])
        signature = SigningKey(DIALLER.node_key.seed).sign(statement).signature
        identity = msgpack.packb([*log, delegation, signature])
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
            identity, transcript, bytes(24), key("p2pnodes identity of the initiator", transcript)
        )
        proof = msgpack.packb(["p2pnodes", sealed])
        peer, keys = responder.finish(proof)

        *their_log, their_delegation, their_signature = msgpack.unpackb(
            crypto_aead_xchacha20poly1305_ietf_decrypt(
                their_sealed, transcript, bytes(24), key("p2pnodes identity of the responder", transcript)
            )
        )
        their_statement = msgpack.packb(["p2pnodes handshake responder", transcript, their_log, their_delegation])
        VerifyKey(their_log[0]).verify(their_statement, their_signature)
        *their_said, their_hotkey_s = their_delegation
        delegated = context + msgpack.packb([NETWORK.id, *their_log, *their_said])
        assert sr25519.verify(their_hotkey_s, delegated, DIALLED.hotkey.public_key)

        whole, both = digest(hello + answer + proof), msgpack.packb([log, their_log])
        assert peer.log == DIALLER.log
        assert keys.receiving == key("p2pnodes traffic of the initiator", whole, both)
        assert keys.sending == key("p2pnodes traffic of the responder", whole, both)
        assert keys.welcome == msgpack.packb(["welcome", key("p2pnodes welcome", whole, both)])

        channel = Channel(keys)
        push, pull = crypto_secretstream_xchacha20poly1305_state(), crypto_secretstream_xchacha20poly1305_state()
        header = crypto_secretstream_xchacha20poly1305_init_push(
            push, key("p2pnodes traffic of the initiator", whole, both)
        )
        for message in (header, b""):
            sealed = crypto_secretstream_xchacha20poly1305_push(push, b"to them")
            assert channel.decrypt(message + sealed) == b"to them"
        first, heartbeat = channel.encrypt(b"to us"), channel.encrypt(b"")
        header, sealed = first[:24], first[24:]
        crypto_secretstream_xchacha20poly1305_init_pull(
            pull, header, key("p2pnodes traffic of the responder", whole, both)
        )
        assert crypto_secretstream_xchacha20poly1305_pull(pull, sealed) == (b"to us", 0)
        assert crypto_secretstream_xchacha20poly1305_pull(pull, heartbeat) == (b"", 0)


class TestTampering:
    """Whatever is changed on the way, one end notices before it takes the other for somebody."""

    @given(st.integers(0, 3), st.integers(0), st.integers(1, 255))
    def test_no_byte_of_any_message_can_be_changed(self, which: int, where: int, mask: int) -> None:
        def change(index: int, message: bytes) -> bytes:
            if index != which:
                return message
            at = where % len(message)
            return message[:at] + bytes([message[at] ^ mask]) + message[at + 1 :]

        with pytest.raises(HandshakeError):
            shake(dial(), pick_up(), change)

    @given(st.integers(0, 3), st.integers(0))
    def test_no_message_can_be_cut_short(self, which: int, length: int) -> None:
        with pytest.raises(HandshakeError):
            shake(dial(), pick_up(), lambda index, m: m[: length % len(m)] if index == which else m)

    @given(st.integers(0, 3), st.binary(min_size=1, max_size=8))
    def test_nothing_can_be_added_to_a_message(self, which: int, tail: bytes) -> None:
        with pytest.raises(HandshakeError):
            shake(dial(), pick_up(), lambda index, m: m + tail if index == which else m)

    @given(st.binary(max_size=200))
    def test_garbage_is_refused_at_every_step(self, garbage: bytes) -> None:
        initiator, responder = dial(), pick_up()
        with pytest.raises(HandshakeError):
            responder.answer(garbage)
        answer = responder.answer(initiator.hello)
        with pytest.raises(HandshakeError):
            initiator.prove(garbage)
        initiator.prove(answer)
        with pytest.raises(HandshakeError):
            responder.finish(garbage)
        with pytest.raises(HandshakeError):
            initiator.finish(garbage)

    @pytest.mark.parametrize("which", range(4))
    def test_a_message_over_its_bound_is_refused_unread(self, which: int) -> None:
        with pytest.raises(HandshakeError, match=f"expected at most {MESSAGE_BYTES_MAX}"):
            shake(dial(), pick_up(), lambda index, m: m.ljust(MESSAGE_BYTES_MAX + 1) if index == which else m)


class TestReplayAndReflection:
    """Old messages, and a peer's own messages, prove nothing."""

    @pytest.mark.parametrize("which", [1, 2, 3])
    def test_a_message_of_an_earlier_handshake_is_worth_nothing_in_a_later_one(self, which: int) -> None:
        old = recorded()
        initiator, responder = dial(secret=b"\3" * 32), pick_up(secret=b"\4" * 32)
        with pytest.raises(HandshakeError):
            shake(initiator, responder, lambda index, message: old[index] if index == which else message)

    def test_a_replayed_hello_and_proof_meet_a_fresh_key(self) -> None:
        old = recorded()
        responder = pick_up(secret=b"\4" * 32)
        responder.answer(old[0])
        with pytest.raises(HandshakeError, match="does not decrypt"):
            responder.finish(old[2])

    def test_a_daemon_whose_own_answer_comes_back_knows_itself(self) -> None:
        initiator = dial()
        mirror = Responder(identity(DIALLER), policy(), b"\2" * 32)
        with pytest.raises(OwnKeyError):
            initiator.prove(mirror.answer(initiator.hello))

    def test_the_responders_identity_cannot_be_sent_back_as_the_dialler_s(self) -> None:
        initiator, responder = dial(), pick_up()
        answer = responder.answer(initiator.hello)
        sealed = codec.fields(codec.unpack(answer), 5, "answer")[4]
        with pytest.raises(HandshakeError, match="does not decrypt"):
            responder.finish(codec.pack(["p2pnodes", sealed]))

    def test_who_did_not_see_the_keys_cannot_welcome(self) -> None:
        initiator, responder = dial(), pick_up()
        initiator.prove(responder.answer(initiator.hello))
        with pytest.raises(HandshakeError, match="made with its keys"):
            initiator.finish(codec.pack(["welcome", bytes(32)]))


class TestRefusals:
    """Who is not who or what it must be hears why, with what was found and what was expected."""

    def test_one_s_own_node_key(self) -> None:
        assert "own node key" in refused(dial(), pick_up(identity(DIALLER)))

    def test_another_hotkey_than_the_one_dialled(self) -> None:
        text = refused(dial(rules=policy(hotkey=hotkey(VALIDATORS[2]).public_key)), pick_up())
        assert DIALLED.hotkey.address in text
        assert hotkey(VALIDATORS[2]).address in text

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"genesis_hash": "2f" * 32}, "genesis_hash is 0x2f2f2f2f2f2f2f2f... there, 0x0000000000000000... here"),
            ({"netuid": 65}, "netuid is 65 there, 64 here"),
            ({"quorum": 0.6}, "quorum is 0.6 there, 0.5 here"),
            ({"min_share": 1 / 3}, "min_share is 0.333333 there, 0.2 here"),
            ({"verdict_ttl_s": 60}, "verdict_ttl_s is 60 there, 86400 here"),
            ({"epoch_blocks": 360}, "epoch_blocks is 360 there, 100 here"),
            ({"horizon_s": 86_400}, "horizon_s is 86400 there, 604800 here"),
            (
                {"netuid": 1, "quorum": 0.51, "epoch_blocks": 99},
                "netuid is 1 there, 64 here; quorum is 0.51 there, 0.5 here; epoch_blocks is 99 there, 100 here",
            ),
        ],
        ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
    )
    def test_a_foreign_network_by_what_differs(self, change: dict[str, Any], text: str) -> None:
        foreign = Network(**{**NETWORK.model_dump(), **change})
        assert refused(dial(rules=policy(network=foreign)), pick_up()) == f"another network: {text}"

    def test_a_foreign_network_whose_dialler_is_told_from_where_it_stands(self) -> None:
        with pytest.raises(HandshakeError) as caught:
            pick_up().answer(dial(rules=policy(network=FOREIGN)).hello)
        assert str(caught.value) == "another network: netuid is 65 there, 64 here"
        assert caught.value.told == "another network: netuid is 64 there, 65 here"

    def test_an_answer_from_a_foreign_network(self) -> None:
        initiator = dial()
        other = policy(network=FOREIGN)
        answer = pick_up(rules=other).answer(dial(rules=other).hello)
        with pytest.raises(HandshakeError, match="netuid is 65 there, 64 here"):
            initiator.prove(answer)

    def test_networks_that_differ_in_all_fit_into_a_refusal(self) -> None:
        other = Network(
            genesis_hash="2f" * 32, netuid=65_535, quorum=1 / 3, min_share=2 / 3,
            verdict_ttl_s=31_536_000, epoch_blocks=1_000_000, horizon_s=31_536_000,
        )  # fmt: skip
        text = refused(dial(rules=policy(network=other)), pick_up())
        assert text.endswith("horizon_s is 31536000 there, 604800 here")
        assert len(text) <= REASON_CHARS_MAX

    @pytest.mark.parametrize(
        "shown",
        [
            None,
            NETWORK.id,
            [],
            [*NETWORK.parameters, 1],
            NETWORK.parameters[:6],
            [b"short", *NETWORK.parameters[1:]],
            [*NETWORK.parameters[:6], "604800"],
            [*NETWORK.parameters[:6], True],
            [*NETWORK.parameters[:6], 2**63],
            [[[]]] * 7,
        ],
        ids=repr,
    )
    def test_what_is_no_network(self, shown: codec.Value) -> None:
        ephemeral = crypto_scalarmult_base(b"\1" * 32)
        with pytest.raises(HandshakeError, match=r"^no network: "):
            pick_up().answer(codec.pack(["p2pnodes", 1, 1, shown, ephemeral]))
        with pytest.raises(HandshakeError, match=r"^no network: "):
            dial().prove(codec.pack(["p2pnodes", 1, shown, ephemeral, b"sealed"]))

    @pytest.mark.parametrize("end", ["dialler", "dialled"])
    def test_a_closed_log(self, end: str) -> None:
        closed = {DIALLER.log if end == "dialler" else DIALLED.log}
        rules = policy(closed=closed.__contains__)
        text = refused(dial(rules=rules), pick_up(rules=rules))
        (log,) = closed
        assert text.startswith(f"the log {log} is closed: ")

    @pytest.mark.parametrize(("low", "high"), [(2, 3), (9, 9), (2, 1)])
    def test_no_common_version(self, low: int, high: int) -> None:
        hello = codec.pack(["p2pnodes", low, high, NETWORK.parameters, crypto_scalarmult_base(b"\1" * 32)])
        with pytest.raises(HandshakeError, match=f"versions {low} to {high} were offered; expected one of 1 to 1"):
            pick_up().answer(hello)

    def test_a_version_that_nobody_offered(self) -> None:
        initiator = dial()
        fields = list(codec.fields(codec.unpack(pick_up().answer(initiator.hello)), 5, "answer"))
        with pytest.raises(HandshakeError, match="version 2 was chosen; expected 1 to 1"):
            initiator.prove(codec.pack([fields[0], 2, *fields[2:]]))

    @pytest.mark.parametrize("point", SMALL_ORDER_POINTS)
    def test_a_key_that_makes_the_shared_secret_zero(self, point: str) -> None:
        hello = codec.pack(["p2pnodes", 1, 1, NETWORK.parameters, bytes.fromhex(point)])
        with pytest.raises(HandshakeError, match="small order"):
            pick_up().answer(hello)
        answer = codec.pack(["p2pnodes", 1, NETWORK.parameters, bytes.fromhex(point), b"sealed"])
        with pytest.raises(HandshakeError, match="small order"):
            dial().prove(answer)

    @pytest.mark.parametrize("end", ["dialler", "dialled"])
    def test_a_hotkey_without_a_permit(self, end: str) -> None:
        stranger = identity(Author("//Mallory"))
        text = refused(dial(stranger), pick_up()) if end == "dialler" else refused(dial(), pick_up(stranger))
        assert text == f"hotkey {hotkey('//Mallory').address} holds no validator permit in the current electorate"

    @pytest.mark.parametrize("end", ["dialler", "dialled"])
    def test_a_hotkey_without_a_permit_is_an_observer_where_these_may_come(self, end: str) -> None:
        mallory, open_door = identity(Author("//Mallory")), policy(observers=True)
        (dialled, _), (dialler, _) = (
            shake(dial(mallory), pick_up(rules=open_door))
            if end == "dialler"
            else shake(dial(rules=open_door), pick_up(mallory))
        )
        assert (dialler.observer, dialled.observer) == (end == "dialler", end == "dialled")

    def test_an_observer_proves_itself_like_everybody(self) -> None:
        mallory, open_door = identity(Author("//Mallory")), policy(observers=True)
        thief = mallory._replace(node_key=NodeKey.from_seed(b"thief".ljust(32)))
        assert "did not sign this handshake" in refused(dial(thief), pick_up(rules=open_door))

    @pytest.mark.parametrize(
        ("not_before", "not_after", "accepted"),
        [
            (NOW_S + CLOCK_TOLERANCE_S, NOW_S + 9_999, True),
            (NOW_S + CLOCK_TOLERANCE_S + 1, NOW_S + 9_999, False),
            (NOW_S - 9_999, NOW_S - CLOCK_TOLERANCE_S, True),
            (NOW_S - 9_999, NOW_S - CLOCK_TOLERANCE_S - 1, False),
        ],
    )
    def test_a_delegation_outside_its_window(self, not_before: int, not_after: int, accepted: bool) -> None:
        delegation = DIALLER.delegation(not_before=not_before, not_after=not_after)
        initiator = dial(Identity(DIALLER.node_key, DIALLER.log, delegation))
        if accepted:
            _, (dialler, _) = shake(initiator, pick_up())
            assert dialler.delegation == delegation
        else:
            assert f"is for {not_before} to {not_after}" in refused(initiator, pick_up())

    def test_a_delegation_with_another_hotkey_s_signature(self) -> None:
        forged = DIALLER.delegation()._replace(signature=Author(VALIDATORS[2]).delegation().signature)
        assert "does not carry the signature" in refused(dial(identity(DIALLER)._replace(delegation=forged)), pick_up())

    def test_a_delegation_for_another_log(self) -> None:
        other = LogId(DIALLER.node_key.public_key, DIALLER.log.number + 1)
        assert "does not carry the signature" in refused(dial(identity(DIALLER)._replace(log=other)), pick_up())

    def test_a_delegation_for_another_network(self) -> None:
        delegation = delegate(
            DIALLER.hotkey, FOREIGN.id, DIALLER.log, url="", not_before=NOW_S - 9_999, not_after=NOW_S + 9_999
        )
        copied = identity(DIALLER)._replace(delegation=delegation)
        assert "does not carry the signature" in refused(dial(copied), pick_up())

    def test_a_stolen_delegation_shown_with_another_node_key(self) -> None:
        thief = NodeKey.from_seed(b"thief".ljust(32))
        assert "did not sign this handshake" in refused(dial(identity(DIALLER)._replace(node_key=thief)), pick_up())

    def test_no_signature_is_checked_of_who_has_no_permit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checked: list[bytes] = []
        initiator, responder = dial(identity(Author("//Mallory"))), pick_up()
        proof = initiator.prove(responder.answer(initiator.hello))
        monkeypatch.setattr(handshake, "verify_node", lambda *args: checked.append(args[0]))
        with pytest.raises(HandshakeError, match="no validator permit"):
            responder.finish(proof)
        assert checked == []


class TestWords:
    """A refusal reaches the other side as one bounded, printable line."""

    def test_a_refused_dialler_hears_the_reason(self) -> None:
        with pytest.raises(RefusedByPeerError, match=r"^no$"):
            dial().prove(refusal("no"))
        with pytest.raises(RefusedByPeerError, match=r"^no$"):
            dial().finish(refusal("no"))

    def test_a_refused_responder_hears_the_reason(self) -> None:
        responder = pick_up()
        responder.answer(dial().hello)
        with pytest.raises(RefusedByPeerError, match=r"^wrong hotkey$"):
            responder.finish(refusal("wrong hotkey"))

    def test_a_long_reason_is_cut(self) -> None:
        with pytest.raises(RefusedByPeerError) as caught:
            dial().prove(refusal("x" * 10_000))
        assert str(caught.value) == "x" * REASON_CHARS_MAX

    def test_a_reason_cannot_write_to_the_operator_s_terminal(self) -> None:
        with pytest.raises(RefusedByPeerError) as caught:
            dial().prove(codec.pack(["refused", "\x1b[2Jno\nfake log line"]))
        assert str(caught.value) == "?[2Jno?fake log line"

    def test_a_reason_that_is_no_text_is_refused(self) -> None:
        with pytest.raises(HandshakeError, match="reason: expected a string") as caught:
            dial().prove(codec.pack(["refused", b"\xff"]))
        assert not isinstance(caught.value, RefusedByPeerError)


class TestOrder:
    """Steps out of order are an error, not a session."""

    def test_no_proof_before_a_hello(self) -> None:
        initiator, responder = dial(), pick_up()
        proof = initiator.prove(responder.answer(initiator.hello))
        with pytest.raises(HandshakeError, match="hello first"):
            pick_up().finish(proof)

    def test_no_welcome_before_a_proof(self) -> None:
        with pytest.raises(HandshakeError, match="welcome"):
            dial().finish(codec.pack(["welcome", bytes(32)]))

    def test_no_peer_before_an_answer(self) -> None:
        with pytest.raises(LocalProtocolError, match="BUG!"):
            _ = dial().peer
