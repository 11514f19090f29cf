"""Signed requests: one id, one task and one seed for one signature, wherever it is posted."""

import hashlib

import pytest

from p2pnodes.model import codec
from p2pnodes.model.requests import (
    PURPOSE_DELETE,
    Add,
    Delete,
    bound_purpose,
    parse_nonce,
    request_id,
    seed_of,
    signing_message,
    tail_of,
    task_id_of,
    verify_request,
)
from tests.support import NETWORK, NOW_S, add, body, delete, hotkey


class TestSigning:
    """compat.md, section 1."""

    def test_a_post_signs_the_sha256_of_its_raw_body(self) -> None:
        request = add("//Alice", ["gpu-1"])
        assert tail_of(request) == hashlib.sha256(body(["gpu-1"])).hexdigest()

    def test_a_delete_signs_its_purpose(self) -> None:
        assert tail_of(delete("//Alice", "nodes")) == "nodes"
        assert tail_of(delete("//Alice", bound_purpose("gpu-1"))) == "nodes:gpu-1"

    def test_the_message_is_hotkey_nonce_tail(self) -> None:
        assert signing_message("5Grw", "17", "nodes") == b"5Grw:17:nodes"

    def test_a_signature_is_good_for_its_request_alone(self) -> None:
        request, other = add("//Alice", ["gpu-1"]), hotkey("//Bob").public_key
        assert verify_request(request)
        assert not verify_request(request._replace(body=request.body + b" "))
        assert not verify_request(request._replace(nonce=str(NOW_S + 1)))
        assert not verify_request(request._replace(nonce="0" + request.nonce))
        assert not verify_request(request._replace(hotkey=other))
        assert not verify_request(Delete(request.hotkey, request.nonce, request.signature, "nodes"))

    def test_a_bound_signature_names_one_gpu(self) -> None:
        request = delete("//Alice", bound_purpose("gpu-1"))
        assert request.bound
        assert not delete("//Alice", PURPOSE_DELETE).bound
        assert not verify_request(request._replace(purpose=bound_purpose("gpu-2")))
        assert not verify_request(request._replace(purpose=PURPOSE_DELETE))

    def test_a_wallet_that_wraps_messages_can_sign(self) -> None:
        alice = hotkey("//Alice")
        message = signing_message(alice.address, str(NOW_S), "nodes")
        signature = alice.sign(b"<Bytes>" + message + b"</Bytes>")
        assert verify_request(Delete(alice.public_key, str(NOW_S), signature, "nodes"))


class TestNonce:
    """Unix seconds in ASCII digits."""

    @pytest.mark.parametrize(
        ("nonce", "value"), [("1764000000", 1_764_000_000), ("0", 0), ("007", 7), ("9" * 15, 10**15 - 1)]
    )
    def test_digits_are_a_nonce(self, nonce: str, value: int) -> None:
        assert parse_nonce(nonce) == value

    @pytest.mark.parametrize(
        "nonce",
        ["", " 1", "1 ", "1\n", "-1", "+1", "1.0", "1e9", "0x1", "1_0", "١٢", "²", "9" * 16, "9" * 5_000, "nan"],
    )
    def test_nothing_else_is(self, nonce: str) -> None:
        assert parse_nonce(nonce) is None


class TestRequestId:
    """Rule 2."""

    def test_the_same_signed_request_has_the_same_id(self) -> None:
        request = add("//Alice", ["gpu-1"])
        assert request_id(NETWORK.id, request) == request_id(NETWORK.id, Add(*request))

    def test_it_is_the_hash_of_network_and_all_parts(self) -> None:
        request = add("//Alice", ["gpu-1"])
        parts: list[codec.Value] = [NETWORK.id, request.hotkey, request.nonce, request.body, request.signature]
        assert request_id(NETWORK.id, request) == codec.digest(codec.pack(parts))

    def test_each_part_changes_it(self) -> None:
        request = Add(b"k" * 32, "1", b"s" * 64, b"nodes")
        ids = {
            request_id(NETWORK.id, request),
            request_id(bytes(16), request),
            request_id(NETWORK.id, request._replace(hotkey=b"l" * 32)),
            request_id(NETWORK.id, request._replace(nonce="01")),
            request_id(NETWORK.id, request._replace(signature=b"t" * 64)),
            request_id(NETWORK.id, request._replace(body=b"other")),
            request_id(NETWORK.id, Delete(b"k" * 32, "1", b"s" * 64, "nodes")),
        }
        assert len(ids) == 7


class TestTaskAndSeed:
    """Rule 2: both follow from the claim id."""

    def test_the_task_is_the_first_16_bytes_of_the_claim_id(self) -> None:
        assert task_id_of("5Grw", bytes(range(32))) == "5Grw::000102030405060708090a0b0c0d0e0f"

    def test_the_seed_is_the_next_8_bytes_big_endian(self) -> None:
        assert seed_of(bytes(range(32))) == 0x1011121314151617

    def test_the_seeds_top_bit_is_cleared(self) -> None:
        assert seed_of(bytes(16) + b"\xff" * 8 + bytes(8)) == 2**63 - 1
        assert seed_of(bytes(16) + b"\x80" + bytes(6) + b"\x05" + bytes(8)) == 5

    @pytest.mark.parametrize("top", [b"\x00", b"\x80"])
    def test_a_seed_of_zero_becomes_one(self, top: bytes) -> None:
        assert seed_of(b"\xff" * 16 + top + bytes(7) + b"\xff" * 8) == 1
