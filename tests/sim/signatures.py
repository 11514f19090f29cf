"""Hotkey signatures that follow from the seed, in place of sr25519's.

sr25519 signs with fresh randomness. Ids of claims would differ between two runs of one seed, and with them the order
of equal stamps and the turns of validators. The stand-in keeps what the system builds on: two signatures under one
message differ, and no signature is good for another message or key. It keeps nobody out, and nobody here forges.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import sr25519

from p2pnodes.model.codec import digest

SALT_BYTES = 32


@contextmanager
def seeded_signatures(seed: int) -> Iterator[None]:
    """Sign and verify with the stand-in while the body runs; it takes a tenth of sr25519's time, too."""
    rng = random.Random(f"signatures {seed}")

    def sign(pair: tuple[bytes, bytes], message: bytes) -> bytes:
        return _signature(rng.randbytes(SALT_BYTES), pair[0], message)

    def verify(signature: bytes, message: bytes, public_key: bytes) -> bool:
        return signature == _signature(signature[:SALT_BYTES], public_key, message)

    with patch.object(sr25519, "sign", sign), patch.object(sr25519, "verify", verify):
        yield


def _signature(salt: bytes, public_key: bytes, message: bytes) -> bytes:
    return salt + digest(salt + public_key + message)
