"""Hotkeys (sr25519, SS58) and node keys (ed25519): every signature of the system is made and checked here.

sr25519 comes from py-sr25519-bindings, ed25519 from libsodium through PyNaCl. Wallets of the polkadot-js family sign a
message wrapped in ``<Bytes>``; like substrate-interface, ``verify_hotkey`` accepts a signature over either form.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, Self

import base58
import sr25519
from nacl.bindings import crypto_sign as _crypto_sign
from nacl.bindings import (
    crypto_sign_ed25519_sk_to_seed,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from p2pnodes.model.codec import digest
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SS58_FORMAT: Final = 42
"""Bittensor's address format."""

ADDRESSES_KEPT: Final = 4_096
"""SS58 addresses that are kept: base58 is slow, and the same few hotkeys sign everything."""

VERIFICATIONS_KEPT: Final = 4_096
"""Answers kept of each kind of signature, 2 MB: a daemon meets a miner's at its HTTP interface and again in its own
event, and has those of a peer's events checked before its writer asks (``store.ahead``, ``store.signatures``)."""

URI_CHARS_MAX: Final = 1_024
"""Length of a key URI: a phrase of 24 words with its derivations takes a few hundred."""

IDENTITY: Final = bytes(KEY_BYTES)
"""The zero account. As a ristretto point it is the identity, under which an all-zero signature signs everything; the
chain shows it where a slot of the subnet is empty."""

DEV_PHRASE: Final = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
"""Substrate's well-known development phrase: the root of ``//Alice`` and her kind. Worthless outside devnets."""

_JUNCTION = re.compile(r"(//?)([^/]+)")
_NUMBER = re.compile(r"[0-9]{1,20}")
_URI = re.compile(r"(?P<phrase>[^/]*)(?P<path>(//?[^/]+)*)")


@lru_cache(ADDRESSES_KEPT)
def ss58_encode(public_key: bytes) -> str:
    """SS58 address (format 42) of a 32-byte public key.

    Source: Substrate's SS58 registry; checksum = first two bytes of BLAKE2b-512 over ``SS58PRE``, prefix and key.
    """
    data = bytes([SS58_FORMAT]) + public_key
    return base58.b58encode(data + digest(b"SS58PRE" + data, 64)[:2]).decode()


@lru_cache(ADDRESSES_KEPT)
def ss58_decode(address: str) -> bytes:
    """Public key of an SS58 address.

    Raises:
        ValueError: Not base58, another length or address format than 42, a wrong checksum, or a second spelling of
            an address (base58 decoders overlook white space behind it).
    """
    if len(address) > 64:
        raise ValueError("not an SS58 address: longer than 64 characters")
    data = base58.b58decode(address)
    if len(data) != 1 + KEY_BYTES + 2 or data[0] != SS58_FORMAT:
        raise ValueError(f"not an SS58 address of format {SS58_FORMAT}")
    if digest(b"SS58PRE" + data[:-2], 64)[:2] != data[-2:]:
        raise ValueError("SS58 checksum does not match")
    if address[-1].isspace():
        raise ValueError("not an SS58 address: white space behind it")
    return data[1:-2]


def verify_hotkey(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is ``public_key``'s sr25519 signature over ``message`` (or its ``<Bytes>`` wrapping)."""
    return which_signed(public_key, [message], signature) is not None


def which_signed(public_key: bytes, messages: Sequence[bytes], signature: bytes) -> int | None:
    """Index of the message over which ``verify_hotkey`` holds; None when it holds over none of them.

    Each form that was not signed costs a check: the wrapped ones, which few wallets make, come behind all others.
    """
    wrapped = [b"<Bytes>" + message + b"</Bytes>" for message in messages]
    for index, form in enumerate((*messages, *wrapped)):
        if verify_sr25519(public_key, form, signature):
            return index % len(messages)
    return None


@lru_cache(VERIFICATIONS_KEPT)
def verify_sr25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is ``public_key``'s sr25519 signature over just these bytes."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != KEY_BYTES or public_key == IDENTITY:
        return False
    if _vouched and _vouched.pop(Check(True, public_key, message, signature).id, False):
        return True
    try:
        return bool(sr25519.verify(signature, message, public_key))
    except (ValueError, TypeError):  # the binding raises on bytes that are no point or no signature
        return False


@lru_cache(VERIFICATIONS_KEPT)
def verify_node(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is ``public_key``'s ed25519 signature over ``message``."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != KEY_BYTES:
        return False
    if _vouched and _vouched.pop(Check(False, public_key, message, signature).id, False):
        return True
    try:
        crypto_sign_open(signature + message, public_key)
    except (BadSignatureError, ValueError):
        return False
    return True


class Check(NamedTuple):
    """A signature that somebody will ask for.

    Attributes:
        by_hotkey: Whether it is a hotkey's (``verify_sr25519``); else a node key's (``verify_node``).
        public_key: Whose.
        message: Over just these bytes.
        signature: The signature.
    """

    by_hotkey: bool
    public_key: bytes
    message: bytes
    signature: bytes

    @property
    def id(self) -> bytes:
        """32 bytes that stand for it; of key and signature of the only lengths with which one can hold."""
        return digest(b"%c%b%b%b" % (self.by_hotkey, self.public_key, self.signature, self.message))

    def make(self) -> bool:
        """Whether it holds, checked here and now; no answer is kept."""
        verify = verify_sr25519 if self.by_hotkey else verify_node
        return verify.__wrapped__(self.public_key, self.message, self.signature)


_vouched: Final[dict[bytes, bool]] = {}
"""Ids of checks that hold and that nobody has asked for since."""


def vouch(ids: Iterable[bytes]) -> None:
    """Have whoever asks for these checks next find that they hold: a process of our own has made them.

    Whoever says so must bound how many there are, and take back (``forget``) what nobody has asked for.
    """
    _vouched.update(dict.fromkeys(ids, True))


def forget(ids: Iterable[bytes]) -> None:
    """Have these checks made again when somebody asks for them, if nobody has yet."""
    for each in ids:
        _vouched.pop(each, None)


class Hotkey(NamedTuple):
    """An sr25519 key pair. ``repr`` and ``str`` never show the secret."""

    public_key: bytes
    secret_key: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Key pair of a 32-byte mini secret."""
        public_key, secret_key = sr25519.pair_from_seed(seed)
        return cls(public_key, secret_key)

    @classmethod
    def from_phrase(cls, phrase: str) -> Self:
        """Key pair of a BIP-39 phrase (English, no password).

        Raises:
            ConfigError: The phrase is no BIP-39 phrase.
        """
        import bip39  # a daemon's wallets hold seeds, mostly, and it is large

        try:
            seed = bytes(bip39.bip39_to_mini_secret(phrase, "", "en"))
        except ValueError as error:
            raise ConfigError(
                "the secret phrase is not a BIP-39 phrase: check its words and their order", code=Code.KEY_MALFORMED
            ) from error
        return cls.from_seed(seed)

    @classmethod
    def from_secret_key(cls, secret_key: bytes) -> Self:
        """Key pair of a 64-byte sr25519 secret key (``privateKey`` of a wallet file)."""
        return cls(sr25519.public_from_secret_key(secret_key), secret_key)

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """Key pair of a Substrate URI such as ``//Alice`` or ``phrase//hard/soft``.

        Raises:
            ConfigError: Not a Substrate URI, or longer than URI_CHARS_MAX.
        """
        match = _URI.fullmatch(uri.strip()) if len(uri) <= URI_CHARS_MAX else None
        if not match:
            raise ConfigError(
                "not a key URI: expected //Name, or a phrase with //hard and /soft derivations", code=Code.KEY_MALFORMED
            )
        pair = cls.from_phrase(match["phrase"] or DEV_PHRASE)
        for kind, junction in _JUNCTION.findall(match["path"]):
            chain_code = _chain_code(junction)
            derived = (
                sr25519.hard_derive_keypair((chain_code, pair.public_key, pair.secret_key), b"")
                if kind == "//"
                else sr25519.derive_keypair((chain_code, pair.public_key, pair.secret_key), b"")
            )
            pair = cls(derived[1], derived[2])
        return pair

    @property
    def address(self) -> str:
        """SS58 address."""
        return ss58_encode(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """sr25519 signature (64 bytes, randomised: two calls differ)."""
        return bytes(sr25519.sign((self.public_key, self.secret_key), message))

    def __repr__(self) -> str:
        return f"Hotkey({self.address})"


class NodeKey(NamedTuple):
    """A daemon's ed25519 key pair. ``repr`` and ``str`` never show the secret."""

    public_key: bytes
    secret_key: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Key pair of a 32-byte seed, which the caller drew at random."""
        return cls(*crypto_sign_seed_keypair(seed))

    @property
    def seed(self) -> bytes:
        """The 32-byte seed, for the key file."""
        return crypto_sign_ed25519_sk_to_seed(self.secret_key)

    def sign(self, message: bytes) -> bytes:
        """ed25519 signature (64 bytes, deterministic)."""
        return _crypto_sign(message, self.secret_key)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"NodeKey({self.public_key.hex()})"


def _chain_code(junction: str) -> bytes:
    """Chain code of one URI junction: numbers as u64, texts SCALE-encoded, hashed when over 32 bytes.

    Source: Substrate's ``DeriveJunction``.
    """
    if _NUMBER.fullmatch(junction) and int(junction) < 2**64:
        encoded = int(junction).to_bytes(8, "little")
    else:
        raw = junction.encode()
        # SCALE compact length: one byte below 64, two bytes below 16,384.
        prefix = (len(raw) << 2).to_bytes(1, "little") if len(raw) < 64 else ((len(raw) << 2) | 1).to_bytes(2, "little")
        encoded = prefix + raw
    return digest(encoded) if len(encoded) > KEY_BYTES else encoded.ljust(KEY_BYTES, b"\0")
