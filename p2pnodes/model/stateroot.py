"""The state root: one hash over all current rows, kept up to date at the cost of what changed.

A tree of three levels. Rows fall into 65,536 buckets by the hash of their GPU's uuid; a bucket's hash covers its rows'
digests in order of uuid. A group's hash covers those of 256 buckets, the root those of all 256 groups. What is empty
has a hash of zeros. A change rehashes its bucket (15 rows of 1,000,000); when somebody asks, 8 KiB of hashes on each
level above.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from p2pnodes.model.codec import DIGEST_BYTES, digest
from p2pnodes.model.inventory import Row

GROUPS: Final = 256
BUCKETS_PER_GROUP: Final = 256
BUCKETS: Final = GROUPS * BUCKETS_PER_GROUP
UUIDS_KEPT: Final = 16_384
"""GPUs whose bucket is remembered: a row that changes asks for it several times."""

_EMPTY: Final = bytes(DIGEST_BYTES)
_GROUP_BYTES: Final = BUCKETS_PER_GROUP * DIGEST_BYTES
_EMPTY_MEMBERS: Final = bytes(_GROUP_BYTES)


@lru_cache(UUIDS_KEPT)
def bucket_of(uuid: str) -> int:
    """Bucket of a GPU, 0 to 65,535."""
    return int.from_bytes(digest(uuid.encode(), 16)[:2], "big")


class Group:
    """The hashes of a group's buckets as they are at one moment."""

    __slots__ = ("_hash", "_members")

    def __init__(self, members: bytes) -> None:
        """Take the buckets' hashes, one behind the other."""
        self._members = members
        self._hash: bytes | None = None

    @property
    def hash(self) -> bytes:
        """The group's hash, computed when it is first asked for."""
        if self._hash is None:  # two threads that ask at once find the same
            self._hash = _EMPTY if self._members == _EMPTY_MEMBERS else digest(self._members)
        return self._hash


class Root:
    """The state root of one moment, whatever changes afterwards; safe in any thread."""

    __slots__ = ("_groups", "_hash")

    def __init__(self, groups: Sequence[Group]) -> None:
        """Take all groups, in order."""
        self._groups = tuple(groups)
        self._hash: bytes | None = None

    @property
    def hash(self) -> bytes:
        """The state root, 32 bytes, computed when it is first asked for: of most commits nobody does."""
        if self._hash is None:
            self._hash = digest(b"".join(group.hash for group in self._groups))
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)


class StateRoot:
    """The hashes of one inventory; the buckets' take 2 MiB, and as much again as they were last."""

    def __init__(self) -> None:
        """Start with an empty inventory."""
        self._buckets = bytearray(BUCKETS * DIGEST_BYTES)
        self._groups = [_EMPTY_GROUP] * GROUPS
        self._changed: set[int] = set()
        """Groups that are to be taken anew."""
        self._root: Root | None = None

    def set_bucket(self, bucket: int, row_digests: Iterable[bytes]) -> None:
        """Replace a bucket's content by the digests of its rows, in order of their uuids."""
        content = b"".join(row_digests)
        self.load(bucket, digest(content) if content else _EMPTY)

    def load(self, bucket: int, hashed: bytes) -> None:
        """Take a bucket's hash (``hash_of``, 32 bytes) from where it was kept."""
        start = bucket * DIGEST_BYTES
        self._buckets[start : start + DIGEST_BYTES] = hashed
        self._changed.add(bucket // BUCKETS_PER_GROUP)

    def hash_of(self, bucket: int) -> bytes:
        """A bucket's hash."""
        return bytes(self._buckets[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES])

    def now(self) -> Root:
        """The state root as of now."""
        if self._root is None or self._changed:  # most commits change no row
            for group in self._changed:
                self._groups[group] = Group(bytes(self._buckets[group * _GROUP_BYTES : (group + 1) * _GROUP_BYTES]))
            self._changed.clear()
            self._root = Root(self._groups)
        return self._root

    def root(self) -> bytes:
        """The state root, 32 bytes."""
        return self.now().hash


_EMPTY_GROUP: Final = Group(_EMPTY_MEMBERS)


def state_root(rows: Iterable[Row]) -> bytes:
    """State root of a whole inventory: the definition that ``StateRoot`` keeps up to date."""
    buckets: dict[int, list[Row]] = {}
    for row in rows:
        buckets.setdefault(bucket_of(row.uuid), []).append(row)
    state = StateRoot()
    for bucket, members in buckets.items():
        state.set_bucket(bucket, (row.digest() for row in sorted(members, key=lambda row: row.uuid)))
    return state.root()
