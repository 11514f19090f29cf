"""The handshake: a signed Diffie-Hellman (SIGMA-I) that ends with two proved identities and a key each way.

Sans-IO: ephemeral secrets and time come in as arguments, messages go in and out as bytes. What is wrong with the other
side is a ``HandshakeError``, whose text the driver tells the peer (``refusal``) before it closes. docs/protocol.md has
the layout of the messages. Source of the construction: H. Krawczyk, SIGMA, CRYPTO 2003, the variant that hides
identities.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, NamedTuple

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

from p2pnodes.model import codec
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import REASON_CHARS_MAX, LocalProtocolError, RemoteProtocolError, printable
from p2pnodes.model.events import LOG_NUMBER_MAX, Delegation, LogId
from p2pnodes.model.keys import KEY_BYTES, SIGNATURE_BYTES, NodeKey, ss58_encode, verify_node
from p2pnodes.model.network import Difference, Network
from p2pnodes.model.protocol import PROTOCOL_VERSION

LOWEST_VERSION: Final = 1
"""Lowest protocol version that this build speaks: N speaks N-1, and 1 is the first."""

MESSAGE_BYTES_MAX: Final = 4096
"""Bound of a handshake message."""

CLOCK_TOLERANCE_S: Final = 60
"""How far a delegation's window may be missed: clocks differ."""

_TAG: Final = "p2pnodes"
_REFUSED: Final = "refused"
_WELCOME: Final = "welcome"
_NONCE: Final = bytes(24)
"""Each identity key encrypts one message only."""


class HandshakeError(RemoteProtocolError):
    """The other side cannot be talked to; the text says what was found and what was expected.

    Attributes:
        told: The same in the other side's words, for its ears; None when the text does for both.
    """

    code = Code.HANDSHAKE_MALFORMED

    def __init__(self, message: str, *, told: str | None = None, code: Code | None = None) -> None:
        super().__init__(message, code=code)
        self.told = told


class RefusedByPeerError(HandshakeError):
    """The other side refused; the text is its reason."""

    code = Code.HANDSHAKE_REFUSED_BY_PEER


class OwnKeyError(HandshakeError):
    """The other side is this daemon itself, or a copy of it."""

    code = Code.HANDSHAKE_OWN_KEY


class Identity(NamedTuple):
    """Who this daemon is: its node key, the log that it writes, and the delegation for that log."""

    node_key: NodeKey
    log: LogId
    delegation: Delegation


class Peer(NamedTuple):
    """Who is at the other end, proved by the handshake.

    Attributes:
        log: The log that it writes.
        delegation: Makes its node key speak for its hotkey in that log.
        version: Of the protocol, for this session.
        observer: Whether its hotkey holds no permit: it may hear and forward everything, and has no voice.
    """

    log: LogId
    delegation: Delegation
    version: int
    observer: bool = False

    @property
    def node_key(self) -> bytes:
        """The key that signs the peer's sessions and events."""
        return self.log.node_key

    @property
    def hotkey(self) -> bytes:
        """The validator that the node key speaks for."""
        return self.delegation.hotkey


class Policy(NamedTuple):
    """What a peer must be.

    Attributes:
        network: The network that both must be of.
        now_s: Wall clock, Unix seconds.
        permitted: Whether a hotkey holds a permit in the current electorate.
        hotkey: Whose daemon was dialled; None when anybody may answer.
        observers: Whether a hotkey without a permit may be talked to, as an observer.
        closed: Whether a log was closed by its hotkey. A log that forked may be talked to: it has to hear of it.
    """

    network: Network
    now_s: int
    permitted: Callable[[bytes], bool]
    hotkey: bytes | None = None
    observers: bool = False
    closed: Callable[[LogId], bool] = lambda _: False


class Keys(NamedTuple):
    """What one session is encrypted with.

    Attributes:
        sending: Key of what this side sends, 32 bytes.
        receiving: Key of what it receives, 32 bytes.
        welcome: The message by which the responder consents; only who holds the keys can make it.
    """

    sending: bytes
    receiving: bytes
    welcome: bytes


def refusal(reason: str) -> bytes:
    """The message that tells the other side why it is refused."""
    return codec.pack([_REFUSED, printable(reason)])


class Initiator:
    """The side that dials: ``hello``, then ``prove`` on the answer, then ``finish`` on the welcome."""

    def __init__(self, identity: Identity, policy: Policy, ephemeral_secret: bytes) -> None:
        """Take 32 fresh random bytes; they must serve one handshake only."""
        self._identity = identity
        self._policy = policy
        self._secret = ephemeral_secret
        self.hello = codec.pack(
            [
                _TAG, LOWEST_VERSION, PROTOCOL_VERSION, policy.network.parameters,
                crypto_scalarmult_base(ephemeral_secret),
            ]
        )  # fmt: skip
        self._peer: Peer | None = None
        self._keys: Keys | None = None

    @property
    def peer(self) -> Peer:
        """Who answered; known when ``prove`` has returned."""
        if self._peer is None:
            raise LocalProtocolError("BUG! nobody has answered this handshake yet", code=Code.SYSTEM_BUG)
        return self._peer

    def prove(self, answer: bytes) -> bytes:
        """Check who answered and prove who dials.

        Raises:
            RefusedByPeerError: The other side refused.
            HandshakeError: It is not who or what it must be.
        """
        tag, version, parameters, ephemeral, sealed = _fields(answer, 5, "answer")
        _check_tag(tag)
        _check_network(parameters, self._policy.network)
        version = _integer(version, "version")
        if not LOWEST_VERSION <= version <= PROTOCOL_VERSION:
            raise HandshakeError(
                f"protocol version {version} was chosen; expected {LOWEST_VERSION} to {PROTOCOL_VERSION}",
                code=Code.HANDSHAKE_VERSION,
            )
        shared = _diffie_hellman(self._secret, ephemeral)
        transcript = codec.digest(self.hello + codec.pack([_TAG, version, parameters, ephemeral]))
        peer = _open(sealed, shared, transcript, "responder", own=self._identity, policy=self._policy, version=version)
        proof = codec.pack([_TAG, _seal(shared, transcript, "initiator", self._identity)])
        whole = codec.digest(self.hello + answer + proof)
        self._peer = peer
        self._keys = _keys(shared, whole, self._identity.log, peer.log, "initiator")
        return proof

    def finish(self, welcome: bytes) -> tuple[Peer, Keys]:
        """Take the other side's consent.

        Raises:
            RefusedByPeerError: It refused us.
            HandshakeError: It said something else.
        """
        _fields(welcome, 2, "welcome")
        if self._keys is None or not compare_digest(welcome, self._keys.welcome):
            raise HandshakeError(
                "expected the welcome that ends this handshake, made with its keys", code=Code.HANDSHAKE_MALFORMED
            )
        return self.peer, self._keys


class Responder:
    """The side that was dialled: ``answer`` the hello, then ``finish`` on the proof, then send ``Keys.welcome``."""

    def __init__(self, identity: Identity, policy: Policy, ephemeral_secret: bytes) -> None:
        """Take 32 fresh random bytes; they must serve one handshake only."""
        self._identity = identity
        self._policy = policy
        self._secret = ephemeral_secret
        self._said = b""
        self._transcript = b""
        self._shared = b""
        self._version = 0

    def answer(self, hello: bytes) -> bytes:
        """Answer the first message: prove who was dialled.

        Raises:
            HandshakeError: Another network, no common version, or a bad key.
        """
        tag, low, high, parameters, ephemeral = _fields(hello, 5, "hello")
        _check_tag(tag)
        _check_network(parameters, self._policy.network)
        low, high = _integer(low, "lowest version"), _integer(high, "highest version")
        self._version = min(high, PROTOCOL_VERSION)
        if self._version < max(low, LOWEST_VERSION):
            raise HandshakeError(
                f"protocol versions {low} to {high} were offered; expected one of {LOWEST_VERSION} to "
                f"{PROTOCOL_VERSION}: upgrade the older daemon",
                code=Code.HANDSHAKE_VERSION,
            )
        self._shared = _diffie_hellman(self._secret, ephemeral)
        start: list[codec.Value] = [_TAG, self._version, parameters, crypto_scalarmult_base(self._secret)]
        self._transcript = codec.digest(hello + codec.pack(start))
        answer = codec.pack([*start, _seal(self._shared, self._transcript, "responder", self._identity)])
        self._said = hello + answer
        return answer

    def finish(self, proof: bytes) -> tuple[Peer, Keys]:
        """Check who dialled.

        Raises:
            RefusedByPeerError: The other side refused.
            HandshakeError: It is not who or what it must be.
        """
        if not self._said:
            raise HandshakeError("expected a hello first", code=Code.HANDSHAKE_MALFORMED)
        tag, sealed = _fields(proof, 2, "proof")
        _check_tag(tag)
        peer = _open(
            sealed, self._shared, self._transcript, "initiator",
            own=self._identity, policy=self._policy, version=self._version,
        )  # fmt: skip
        whole = codec.digest(self._said + proof)
        return peer, _keys(self._shared, whole, peer.log, self._identity.log, "responder")


def _fields(message: bytes, count: int, what: str) -> "list[codec.Value]":
    if len(message) > MESSAGE_BYTES_MAX:
        raise HandshakeError(
            f"{what} of {len(message)} bytes; expected at most {MESSAGE_BYTES_MAX}", code=Code.HANDSHAKE_MALFORMED
        )
    try:
        value = codec.unpack(message)
        if isinstance(value, list) and len(value) == 2 and value[0] == _REFUSED:
            raise RefusedByPeerError(printable(codec.text(value[1], "reason", REASON_CHARS_MAX)))
        return list(codec.fields(value, count, what))
    except MalformedError as error:
        raise HandshakeError(f"{what}: {error}", code=Code.HANDSHAKE_MALFORMED) from error


def _integer(value: codec.Value, what: str) -> int:
    try:
        return codec.integer(value, what, 1, 65_535)
    except MalformedError as error:
        raise HandshakeError(str(error), code=Code.HANDSHAKE_MALFORMED) from error


def _check_tag(tag: codec.Value) -> None:
    if tag != _TAG:
        raise HandshakeError(
            f"the message does not begin with {_TAG!r}: this is the gossip of p2pnodes", code=Code.HANDSHAKE_MALFORMED
        )


def _check_network(found: codec.Value, ours: Network) -> None:
    try:
        differences = ours.differences(found)
    except MalformedError as error:
        raise HandshakeError(f"no network: {error}", code=Code.HANDSHAKE_NETWORK) from error
    if differences:
        raise HandshakeError(
            _another_network(differences),
            told=_another_network([each.seen_from_there() for each in differences]),
            code=Code.HANDSHAKE_NETWORK,
        )


def _another_network(differences: Sequence[Difference]) -> str:
    return f"another network: {'; '.join(map(str, differences))}"


def _diffie_hellman(secret: bytes, public: codec.Value) -> bytes:
    if not isinstance(public, bytes) or len(public) != KEY_BYTES:
        raise HandshakeError("expected an ephemeral key of 32 bytes", code=Code.HANDSHAKE_MALFORMED)
    try:
        shared = crypto_scalarmult(secret, public)
    except CryptoError as error:  # libsodium refuses points that give all zeros
        raise HandshakeError("the ephemeral key is a point of small order", code=Code.HANDSHAKE_MALFORMED) from error
    if not any(shared):
        raise HandshakeError("the ephemeral key is a point of small order", code=Code.HANDSHAKE_MALFORMED)
    return shared


def _derive(shared: bytes, label: str, *context: bytes) -> bytes:
    """A 32-byte key: keyed BLAKE2b over a label and what it is bound to."""
    return blake2b(codec.pack([label, *context]), key=shared, digest_size=KEY_BYTES).digest()


def _keys(shared: bytes, transcript: bytes, initiator: LogId, responder: LogId, own_role: str) -> Keys:
    """Keys bound to all that was said and to both identities."""
    identities = codec.pack([[*initiator], [*responder]])
    of_initiator, of_responder, consent = (
        _derive(shared, f"p2pnodes {purpose}", transcript, identities)
        for purpose in ("traffic of the initiator", "traffic of the responder", "welcome")
    )
    own, other = (of_initiator, of_responder) if own_role == "initiator" else (of_responder, of_initiator)
    return Keys(own, other, codec.pack([_WELCOME, consent]))


def _statement(role: str, transcript: bytes, log: LogId, delegation: Delegation) -> bytes:
    """What a side signs: its role, version, network and both ephemeral keys (by the transcript), and who it is."""
    return codec.pack([f"p2pnodes handshake {role}", transcript, [*log], delegation.to_wire()])


def _seal(shared: bytes, transcript: bytes, role: str, identity: Identity) -> bytes:
    signature = identity.node_key.sign(_statement(role, transcript, identity.log, identity.delegation))
    content = codec.pack([*identity.log, identity.delegation.to_wire(), signature])
    key = _derive(shared, f"p2pnodes identity of the {role}", transcript)
    return crypto_aead_xchacha20poly1305_ietf_encrypt(content, transcript, _NONCE, key)


def _open(
    sealed: codec.Value, shared: bytes, transcript: bytes, role: str, *, own: Identity, policy: Policy, version: int
) -> Peer:
    """Decrypt and check the other side's identity; cheap checks first."""
    key = _derive(shared, f"p2pnodes identity of the {role}", transcript)
    try:
        content = crypto_aead_xchacha20poly1305_ietf_decrypt(
            codec.binary(sealed, "identity", 1, MESSAGE_BYTES_MAX), transcript, _NONCE, key
        )
        node_key, number, delegation, signature = codec.fields(codec.unpack(content), 4, "identity")
        log = LogId(
            codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number", 0, LOG_NUMBER_MAX)
        )
        shown = Delegation.from_wire(delegation)
        signature = codec.binary(signature, "signature", SIGNATURE_BYTES)
    except (CryptoError, ValueError) as error:
        raise HandshakeError(
            "the identity does not decrypt: the messages were changed on their way", code=Code.HANDSHAKE_IMPOSTOR
        ) from error
    except MalformedError as error:
        raise HandshakeError(str(error), code=Code.HANDSHAKE_MALFORMED) from error
    if log.node_key == own.log.node_key:
        raise OwnKeyError("this is one's own node key: a daemon must not dial itself, nor share its key")
    address = ss58_encode(shown.hotkey)
    if policy.hotkey is not None and shown.hotkey != policy.hotkey:
        raise HandshakeError(
            f"hotkey {address} answers; expected {ss58_encode(policy.hotkey)}", code=Code.HANDSHAKE_IMPOSTOR
        )
    if not shown.not_before - CLOCK_TOLERANCE_S <= policy.now_s <= shown.not_after + CLOCK_TOLERANCE_S:
        raise HandshakeError(
            f"the delegation of {address} is for {shown.not_before} to {shown.not_after} (Unix seconds); it is "
            f"{policy.now_s} here: renew it, or set the clock",
            code=Code.HANDSHAKE_DELEGATION,
        )
    observer = not policy.permitted(shown.hotkey)
    if observer and not policy.observers:
        raise HandshakeError(
            f"hotkey {address} holds no validator permit in the current electorate", code=Code.HANDSHAKE_NO_PERMIT
        )
    if policy.closed(log):
        raise HandshakeError(
            f"the log {log} is closed: {address} ended it, and its daemon must open another one",
            code=Code.HANDSHAKE_LOG_CLOSED,
        )
    if not verify_node(log.node_key, _statement(role, transcript, log, shown), signature):
        raise HandshakeError(f"the node key of {address} did not sign this handshake", code=Code.HANDSHAKE_IMPOSTOR)
    if not shown.signed_for(policy.network.id, log):
        raise HandshakeError(
            f"the delegation does not carry the signature of hotkey {address} for this log",
            code=Code.HANDSHAKE_DELEGATION,
        )
    return Peer(log, shown, version, observer)
