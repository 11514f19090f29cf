"""The state root: one hash over all current rows, kept up to date at the cost of what changed.

Rows fall into 4,096 buckets by the hash of their GPU's uuid. A bucket's hash covers its rows' digests in order of
uuid, an empty bucket's is zero; the root is the hash over all buckets' hashes. A change rehashes its own bucket (1/4096
of the inventory) and 128 KiB of bucket hashes.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from p2pnodes.model.codec import DIGEST_BYTES, digest
from p2pnodes.model.inventory import Row

BUCKETS: Final = 4096
UUIDS_KEPT: Final = 16_384
"""GPUs whose bucket is remembered: a row that changes asks for it several times."""

_EMPTY: Final = bytes(DIGEST_BYTES)


@lru_cache(UUIDS_KEPT)
def bucket_of(uuid: str) -> int:
    """Bucket of a GPU, 0 to 4095."""
    return int.from_bytes(digest(uuid.encode(), 16)[:2], "big") & (BUCKETS - 1)


class StateRoot:
    """The bucket hashes of one inventory."""

    def __init__(self) -> None:
        """Start with an empty inventory."""
        self._hashes = bytearray(BUCKETS * DIGEST_BYTES)
        self._root: bytes | None = None

    def set_bucket(self, bucket: int, row_digests: Iterable[bytes]) -> None:
        """Replace a bucket's content by the digests of its rows, in order of their uuids."""
        content = b"".join(row_digests)
        start = bucket * DIGEST_BYTES
        self._root = None
        self._hashes[start : start + DIGEST_BYTES] = digest(content) if content else _EMPTY

    def root(self) -> bytes:
        """The state root, 32 bytes."""
        if self._root is None:  # most commits change no row
            self._root = digest(bytes(self._hashes))
        return self._root


def state_root(rows: Iterable[Row]) -> bytes:
    """State root of a whole inventory: the definition that ``StateRoot`` keeps up to date."""
    buckets: dict[int, list[Row]] = {}
    for row in rows:
        buckets.setdefault(bucket_of(row.uuid), []).append(row)
    state = StateRoot()
    for bucket, members in buckets.items():
        state.set_bucket(bucket, (row.digest() for row in sorted(members, key=lambda row: row.uuid)))
    return state.root()
