"""Hotkeys and node keys are Substrate's and RFC 8032's, and no odd bytes make a signature hold."""

from collections.abc import Iterator

import pytest

from p2pnodes.model.errors import ConfigError
from p2pnodes.model.keys import (
    DEV_PHRASE,
    IDENTITY,
    URI_CHARS_MAX,
    Check,
    Hotkey,
    NodeKey,
    forget,
    ss58_decode,
    ss58_encode,
    verify_hotkey,
    verify_node,
    verify_sr25519,
    vouch,
    which_signed,
)
from tests.support import hotkey

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
ZERO_ACCOUNT = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"

RISTRETTO_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Order of the group of both curves (RFC 9496, RFC 8032)."""


class TestAddresses:
    """SS58, format 42."""

    @pytest.mark.parametrize(("uri", "address"), [("//Alice", ALICE), ("//Bob", BOB)])
    def test_development_keys_have_the_addresses_that_all_of_substrate_knows(self, uri: str, address: str) -> None:
        assert Hotkey.from_uri(uri).address == address

    def test_an_address_and_its_key_turn_into_each_other(self) -> None:
        assert ss58_encode(ss58_decode(ALICE)) == ALICE
        assert ss58_encode(bytes(32)) == ZERO_ACCOUNT

    @pytest.mark.parametrize(
        "address",
        [
            "",
            ALICE[:-1],
            ALICE + "1",
            ALICE[:-1] + ("Z" if ALICE[-1] != "Z" else "Y"),
            ALICE.replace("5", "0", 1),
            "1" + ALICE,
            ALICE + " ",
            ALICE + "\n",
            " " + ALICE,
            "é" + ALICE[1:],
            ALICE * 2,
            "F7NZ",
            "HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F",  # //Alice in Kusama's format 2
        ],
    )
    def test_anything_else_is_refused(self, address: str) -> None:
        with pytest.raises(ValueError, match=r".+"):
            ss58_decode(address)


class TestHotkeys:
    """sr25519."""

    def test_a_signature_holds_for_its_message_and_key_alone(self) -> None:
        alice, bob = hotkey("//Alice"), hotkey("//Bob")
        signature = alice.sign(b"message")
        assert verify_hotkey(alice.public_key, b"message", signature)
        assert not verify_hotkey(alice.public_key, b"another", signature)
        assert not verify_hotkey(bob.public_key, b"message", signature)

    def test_a_signature_over_the_wrapped_message_holds(self) -> None:
        """Wallets of the polkadot-js family sign ``<Bytes>message</Bytes>``."""
        alice = hotkey("//Alice")
        assert verify_hotkey(alice.public_key, b"message", alice.sign(b"<Bytes>message</Bytes>"))

    def test_of_several_messages_the_signed_one_is_told(self) -> None:
        alice, messages = hotkey("//Alice"), [b"nodes", b"nodes:gpu"]
        for index, message in enumerate(messages):
            assert which_signed(alice.public_key, messages, alice.sign(message)) == index
            assert which_signed(alice.public_key, messages, alice.sign(b"<Bytes>" + message + b"</Bytes>")) == index
        assert which_signed(alice.public_key, messages, alice.sign(b"nodes:another")) is None

    def test_wrapped_messages_are_checked_behind_all_others(self) -> None:
        alice, before = hotkey("//Alice"), verify_sr25519.cache_info().misses
        assert which_signed(alice.public_key, [b"nodes", b"nodes:gpu"], alice.sign(b"nodes:gpu")) == 1
        assert verify_sr25519.cache_info().misses == before + 2

    def test_signatures_are_randomised(self) -> None:
        alice = hotkey("//Alice")
        assert alice.sign(b"message") != alice.sign(b"message")

    def test_nobody_can_turn_a_signature_into_another_that_holds(self) -> None:
        """Else whoever sees a request could make a second one of it, with another id."""
        alice = hotkey("//Alice")
        signature = alice.sign(b"message")
        scalar = int.from_bytes(signature[32:], "little") & (2**255 - 1)
        for factor in range(1, 8):
            moved = ((scalar + factor * RISTRETTO_ORDER) % 2**255) | 2**255
            assert not verify_hotkey(alice.public_key, b"message", signature[:32] + moved.to_bytes(32, "little"))
        for position in (31, 63):
            flipped = bytearray(signature)
            flipped[position] ^= 0x80
            assert not verify_hotkey(alice.public_key, b"message", bytes(flipped))

    def test_the_zero_account_signs_nothing(self) -> None:
        """An all-zero signature satisfies the equation for the identity; the chain lists it for empty slots."""
        assert not verify_hotkey(IDENTITY, b"message", bytes(63) + b"\x80")

    @pytest.mark.parametrize(
        ("key", "signature"),
        [
            (b"", bytes(64)),
            (bytes(31), bytes(64)),
            (b"\xff" * 32, bytes(64)),
            (b"\x01" * 32, b""),
            (b"\x01" * 32, b"x"),
        ],
    )
    def test_odd_bytes_are_false_and_no_error(self, key: bytes, signature: bytes) -> None:
        assert verify_hotkey(key, b"message", signature) is False

    def test_every_way_to_a_key_leads_to_the_same_key(self) -> None:
        root = Hotkey.from_phrase(DEV_PHRASE)
        assert Hotkey.from_uri(DEV_PHRASE) == root
        assert Hotkey.from_secret_key(root.secret_key) == root
        assert Hotkey.from_uri("//Alice") == Hotkey.from_uri(f" {DEV_PHRASE}//Alice ")

    def test_derivations_differ_by_kind_name_and_number(self) -> None:
        uris = ["//a", "/a", "//b", "//1", "//a//b", "//b//a", "//" + "long" * 20, f"//{2**64}"]
        keys = {Hotkey.from_uri(uri).public_key for uri in uris}
        assert len(keys) == len(uris)
        assert Hotkey.from_uri("//01") == Hotkey.from_uri("//1")  # Substrate parses a number where it can

    def test_a_soft_derivation_still_signs(self) -> None:
        soft = Hotkey.from_uri("//Alice/soft")
        assert verify_hotkey(soft.public_key, b"message", soft.sign(b"message"))

    @pytest.mark.parametrize("uri", ["one two three", "Alice", "//", "///", "//a///b", "//" + "x" * URI_CHARS_MAX])
    def test_what_is_no_key_uri_is_a_settings_error(self, uri: str) -> None:
        with pytest.raises(ConfigError):
            Hotkey.from_uri(uri)

    def test_no_text_form_shows_the_secret(self) -> None:
        alice, node = hotkey("//Alice"), NodeKey.from_seed(bytes(32))
        for shown in (repr(alice), str(alice), f"{alice}"):
            assert shown == f"Hotkey({ALICE})"
        assert node.secret_key[:32].hex() not in repr(node) + str(node)


class TestNodeKeys:
    """ed25519."""

    SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")

    def test_they_are_those_of_rfc_8032(self) -> None:
        """Section 7.1, test 1."""
        key = NodeKey.from_seed(self.SEED)
        assert key.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        assert key.seed == self.SEED
        assert key.sign(b"").hex() == (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595b"
            "be24655141438e7a100b"
        )

    def test_a_signature_holds_for_its_message_and_key_alone(self) -> None:
        key, other = NodeKey.from_seed(self.SEED), NodeKey.from_seed(bytes(32))
        assert verify_node(key.public_key, b"message", key.sign(b"message"))
        assert not verify_node(key.public_key, b"another", key.sign(b"message"))
        assert not verify_node(other.public_key, b"message", key.sign(b"message"))

    def test_a_scalar_above_the_order_is_refused(self) -> None:
        key = NodeKey.from_seed(self.SEED)
        signature = key.sign(b"message")
        moved = int.from_bytes(signature[32:], "little") + RISTRETTO_ORDER
        assert not verify_node(key.public_key, b"message", signature[:32] + moved.to_bytes(32, "little"))

    @pytest.mark.parametrize("point", [(1).to_bytes(32, "little"), bytes(32), b"\xff" * 32])
    def test_points_of_small_order_sign_nothing(self, point: bytes) -> None:
        assert not verify_node(point, b"message", point + bytes(32))

    @pytest.mark.parametrize(("key", "signature"), [(b"short", bytes(64)), (bytes(32), b""), (bytes(33), bytes(64))])
    def test_odd_bytes_are_false_and_no_error(self, key: bytes, signature: bytes) -> None:
        assert verify_node(key, b"message", signature) is False


class TestVouching:
    """What was checked elsewhere is found by whoever asks for just that, and not for ever."""

    UNSIGNED = Check(False, NodeKey.from_seed(bytes(32)).public_key, b"message", bytes(64))
    """A signature that does not hold, so that it shows who was believed."""

    @pytest.fixture(autouse=True)
    def nothing_known(self) -> Iterator[None]:
        """No answer is remembered, before and after."""
        for known in (verify_node, verify_sr25519):
            known.cache_clear()
        yield
        forget([self.UNSIGNED.id])
        for known in (verify_node, verify_sr25519):
            known.cache_clear()

    def test_who_asks_finds_it_and_so_does_who_asks_again(self) -> None:
        vouch([self.UNSIGNED.id])
        assert verify_node(*self.UNSIGNED[1:])
        assert verify_node(*self.UNSIGNED[1:])

    def test_what_is_forgotten_is_checked(self) -> None:
        vouch([self.UNSIGNED.id])
        forget([self.UNSIGNED.id])
        assert not verify_node(*self.UNSIGNED[1:])

    def test_nobody_else_is_believed(self) -> None:
        _, key, message, signature = self.UNSIGNED
        vouch([self.UNSIGNED.id])
        assert not verify_sr25519(key, message, signature)
        assert not verify_node(key[1:] + key[:1], message, signature)
        assert not verify_node(key, message + b".", signature)
        assert not verify_node(key, message, signature[1:] + b"1")
        assert not verify_node(key, signature[63:] + message, signature[:63])
        assert verify_node(key, message, signature)

    @pytest.mark.parametrize("by_hotkey", [True, False])
    def test_odd_bytes_are_false_whoever_vouches(self, by_hotkey: bool) -> None:
        verify = verify_sr25519 if by_hotkey else verify_node
        for key, signature in ((IDENTITY[1:], bytes(64)), (IDENTITY, bytes(63)), (IDENTITY + b"1", bytes(63))):
            check = Check(by_hotkey, key, b"message", signature)
            vouch([check.id])
            assert not verify(*check[1:])
            forget([check.id])

    @pytest.mark.parametrize("by_hotkey", [True, False])
    def test_a_check_is_made_anew_each_time(self, by_hotkey: bool) -> None:
        key = hotkey("//Alice") if by_hotkey else NodeKey.from_seed(bytes(32))
        good = Check(by_hotkey, key.public_key, b"message", key.sign(b"message"))
        assert good.make()
        assert not good._replace(message=b"another").make()
        assert not verify_node.cache_info().currsize + verify_sr25519.cache_info().currsize
