"""A miner's signed request: what is signed, how it is checked, and its request id.

The message of every request is ``hotkey:nonce:TAIL`` (compat.md, section 1). The tail of a POST is the SHA-256 of
the raw body, the tail of a DELETE its purpose.
"""

import re
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.keys import KEY_BYTES, SIGNATURE_BYTES, Check, Hotkey, ss58_encode, verify_hotkey

BODY_BYTES_MAX: Final = 64 * 1024
TAILS_KEPT: Final = 128
"""Hashes of bodies that are kept, 8 MiB of bodies at most: a request is checked where it comes in and as an event."""

NONCE_WINDOW_S: Final = 600
"""A nonce lies within this many seconds of now, and of the HLC of the event that carries it, in both directions."""

PURPOSE_STATUS: Final = "graval"
PURPOSE_DELETE: Final = "nodes"
PURPOSE_MINER: Final = "miner"
UUID_CHARS_MAX: Final = 64

_NONCE = re.compile(r"[0-9]{1,15}")


class Add(NamedTuple):
    """A signed ``POST /nodes/``: hotkey (32 bytes), nonce (Unix seconds as sent), signature, raw body."""

    hotkey: bytes
    nonce: str
    signature: bytes
    body: bytes


class Delete(NamedTuple):
    """A signed ``DELETE /nodes/{uuid}``: the purpose is ``nodes`` or ``nodes:<uuid>``."""

    hotkey: bytes
    nonce: str
    signature: bytes
    purpose: str

    @property
    def bound(self) -> bool:
        """Whether the signature names the GPU that it deletes."""
        return self.purpose != PURPOSE_DELETE


Request = Add | Delete


def parse_nonce(nonce: str) -> int | None:
    """Unix seconds of a nonce header, or None when it is not 1 to 15 ASCII digits."""
    return int(nonce) if _NONCE.fullmatch(nonce) else None


def bound_purpose(uuid: str) -> str:
    """Purpose of a delete signature that is good for one GPU only."""
    return f"{PURPOSE_DELETE}:{uuid}"


def tail_of(request: Request) -> str:
    """The part of the signed message behind hotkey and nonce."""
    return body_tail(request.body) if isinstance(request, Add) else request.purpose


@lru_cache(TAILS_KEPT)
def body_tail(body: bytes) -> str:
    """The tail of a registration: the SHA-256 of its body, hex."""
    return sha256(body).hexdigest()


def signing_message(address: str, nonce: str, tail: str) -> bytes:
    """The bytes that the hotkey signs."""
    return f"{address}:{nonce}:{tail}".encode()


def request_check(request: Request) -> Check:
    """What ``verify_request`` asks for first."""
    message = signing_message(ss58_encode(request.hotkey), request.nonce, tail_of(request))
    return Check(True, request.hotkey, message, request.signature)


def verify_request(request: Request) -> bool:
    """Whether the request carries its hotkey's signature; about 40 microseconds."""
    return verify_hotkey(*request_check(request)[1:])


def sign_add(hotkey: Hotkey, nonce_s: int, body: bytes) -> Add:
    """Sign a registration of the GPUs that ``body`` lists."""
    unsigned = Add(hotkey.public_key, str(nonce_s), b"", body)
    return unsigned._replace(signature=hotkey.sign(signing_message(hotkey.address, unsigned.nonce, tail_of(unsigned))))


def sign_delete(hotkey: Hotkey, nonce_s: int, purpose: str) -> Delete:
    """Sign a deletion; ``purpose`` from ``bound_purpose``, or ``PURPOSE_DELETE`` as today's clients do."""
    message = signing_message(hotkey.address, str(nonce_s), purpose)
    return Delete(hotkey.public_key, str(nonce_s), hotkey.sign(message), purpose)


def request_id(network_id: bytes, request: Request) -> bytes:
    """Request id (32 bytes): BLAKE2b-256 over network id, hotkey, nonce, body or purpose, and the signature's bytes.

    A body is a byte string and a purpose a text, so an add and a delete never share an id. The id of an add is its
    claim id.
    """
    content = request.body if isinstance(request, Add) else request.purpose
    return codec.digest(codec.pack([network_id, request.hotkey, request.nonce, content, request.signature]))


def task_id_of(address: str, claim_id: bytes) -> str:
    """Task id as the central API writes it: ``<hotkey>::<32 hex>``, from the claim id's first 16 bytes (rule 2)."""
    return f"{address}::{claim_id[:16].hex()}"


def seed_of(claim_id: bytes) -> int:
    """Seed, 1 to 2**63 - 1: the 8 bytes of the claim id behind the task id, big-endian, top bit cleared (rule 2)."""
    return (int.from_bytes(claim_id[16:24], "big") & codec.INT_MAX) or 1


def add_fields(add: Add) -> list[codec.Value]:
    """Wire fields of an add request, in order."""
    return [add.hotkey, add.nonce, add.signature, add.body]


def add_from_fields(values: "list[codec.Value] | tuple[codec.Value, ...]") -> Add:
    """Read the wire fields of an add request; raises MalformedError."""
    hotkey, nonce, signature, body = codec.fields(values, 4, "add request")
    return Add(
        codec.binary(hotkey, "hotkey", KEY_BYTES),
        _nonce(nonce),
        codec.binary(signature, "signature", SIGNATURE_BYTES),
        codec.binary(body, "body", 1, BODY_BYTES_MAX),
    )


def delete_fields(delete: Delete) -> list[codec.Value]:
    """Wire fields of a delete request, in order."""
    return [delete.hotkey, delete.nonce, delete.signature, delete.purpose]


def delete_from_fields(values: "list[codec.Value] | tuple[codec.Value, ...]") -> Delete:
    """Read the wire fields of a delete request; raises MalformedError."""
    hotkey, nonce, signature, purpose = codec.fields(values, 4, "delete request")
    return Delete(
        codec.binary(hotkey, "hotkey", KEY_BYTES),
        _nonce(nonce),
        codec.binary(signature, "signature", SIGNATURE_BYTES),
        codec.text(purpose, "purpose", len(PURPOSE_DELETE) + 1 + UUID_CHARS_MAX, 1),
    )


def _nonce(value: codec.Value) -> str:
    nonce = codec.text(value, "nonce", 15, 1)
    if parse_nonce(nonce) is None:
        raise codec.MalformedError(f"nonce: expected 1 to 15 digits, found {nonce!r}")
    return nonce
