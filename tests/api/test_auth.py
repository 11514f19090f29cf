"""Authentication: the three headers in upstream's order; nothing else can stand in for a hotkey's signature."""

from typing import Final

import pytest

from p2pnodes.api.auth import Signed, authenticate
from p2pnodes.api.errors import ApiError
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.keys import ss58_encode
from tests.api.support import ALICE, MALLORY, NOW_S, signed_headers

WHO: Final = Electorate(Pin(100, NOW_S * 1000, {}, {ALICE.public_key: 50}, {}))
ZERO: Final = ss58_encode(bytes(32))
GOOD: Final = signed_headers(ALICE, str(NOW_S), "graval")


def check(headers: dict[str, str], *tails: str, now_s: float = NOW_S) -> Signed:
    return authenticate(headers, tails or ("graval",), now_s=now_s, electorate=WHO, netuid=64)


def refusal(headers: dict[str, str], *tails: str, now_s: float = NOW_S) -> str:
    with pytest.raises(ApiError) as raised:
        check(headers, *tails, now_s=now_s)
    assert raised.value.status == 401
    assert isinstance(raised.value.detail, str)
    return raised.value.detail


def test_a_good_signature_names_its_hotkey_and_what_was_signed() -> None:
    signature = bytes.fromhex(GOOD["X-Chutes-Signature"])
    assert check(GOOD) == Signed(ALICE.public_key, ALICE.address, str(NOW_S), signature, "graval")
    assert check(GOOD, "nodes", "graval").tail == "graval"


@pytest.mark.parametrize("offset_s", [-599, -1, 0, 1, 599])
def test_a_nonce_within_the_window_is_good_in_both_directions(offset_s: int) -> None:
    check(signed_headers(ALICE, str(NOW_S + offset_s), "graval"), now_s=NOW_S + 0.9)


@pytest.mark.parametrize(
    "nonce",
    [
        "", " ", "now", str(NOW_S - 600), str(NOW_S + 600), f"-{NOW_S}", f"+{NOW_S}", f"{NOW_S}.0", f"{NOW_S}e0", "0",
        "9" * 16, "9" * 5000, "١٨٠٠٠٠٠٠٠٠", f"{NOW_S}\x00", f"1_{str(NOW_S)[1:]}", hex(NOW_S), "\udcff",
    ],
)  # fmt: skip
def test_any_other_nonce_is_refused_first(nonce: str) -> None:
    assert refusal({**GOOD, "X-Chutes-Nonce": nonce, "X-Chutes-Signature": "zz"}) == "Invalid nonce!"


@pytest.mark.parametrize("signature", ["zz", f"0x{'00' * 64}", "0", "é" * 128, "\udcff", "ab" * 63 + "a"])
def test_a_signature_that_is_no_hex_is_named(signature: str) -> None:
    detail = refusal({**GOOD, "X-Chutes-Signature": signature})
    assert detail.startswith("Invalid signature: ")
    assert ", with error: " in detail
    detail.encode()


def test_a_long_header_is_not_echoed_whole() -> None:
    assert len(refusal({**GOOD, "X-Chutes-Signature": "z" * 8000})) < 400
    assert len(refusal({**GOOD, "X-Chutes-Hotkey": "z" * 8000})) < 800


@pytest.mark.parametrize("signature", ["00", "00" * 63, "00" * 64, "00" * 65, "ff" * 64, "ab" * 1000])
def test_bytes_that_are_no_signature_are_refused(signature: str) -> None:
    detail = refusal({**GOOD, "X-Chutes-Signature": signature})
    message = f"{ALICE.address}:{NOW_S}:graval"
    assert detail == f"Invalid request signature for hotkey {ALICE.address}. Message: {message}"


@pytest.mark.parametrize(
    "hotkey",
    [
        "nobody", "1" * 64, "5" * 8000, ALICE.address[:-1], f"{ALICE.address}1", ALICE.address.lower(),
        f"{ALICE.address} ", "\udcff", "é", "0x" + ALICE.public_key.hex(), MALLORY.address, ZERO,
    ],
)  # fmt: skip
def test_an_address_that_did_not_sign_is_refused(hotkey: str) -> None:
    assert refusal({**GOOD, "X-Chutes-Hotkey": hotkey}).startswith("Invalid request signature for hotkey ")


def test_the_zero_account_with_a_zero_signature_is_refused() -> None:
    headers = {"X-Chutes-Hotkey": ZERO, "X-Chutes-Nonce": str(NOW_S), "X-Chutes-Signature": "00" * 64}
    assert refusal(headers).startswith("Invalid request signature")


def test_who_signs_well_but_is_not_registered_is_told_so() -> None:
    assert refusal(signed_headers(MALLORY, str(NOW_S), "graval")) == "Hotkey is not registered on netuid 64"


@pytest.mark.parametrize("absent", [["Hotkey"], ["Signature"], ["Hotkey", "Signature"]])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_header_is_refused(absent: list[str], empty: bool) -> None:
    headers = dict(GOOD)
    for name in absent:
        del headers[f"X-Chutes-{name}"]
        if empty:
            headers[f"X-Chutes-{name}"] = ""
    assert refusal(headers).startswith("A hotkey signature is needed")


def test_no_header_at_all_is_an_invalid_nonce_as_upstream_says() -> None:
    assert refusal({}) == "Invalid nonce!"


@pytest.mark.parametrize("others", [{}, {"X-Chutes-Hotkey": ALICE.address}, {"X-Chutes-Nonce": str(NOW_S)}])
def test_authorization_alone_is_refused_with_the_reason(others: dict[str, str]) -> None:
    detail = refusal({"Authorization": "Bearer cpk_secret", **others})
    assert "every peer checks" in detail
    assert "secret" not in detail


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    assert refusal(GOOD, "nodes", "nodes:x").endswith(f"{ALICE.address}:{NOW_S}:nodes")
