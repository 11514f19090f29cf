"""The version vector in hashes: what two peers compare before they list a single log.

A vector is cut into slices by node keys, so that one hash says whether two vectors differ, 64 say where, and only the
slices that differ are listed. A commit touches few logs, so only their slices are hashed anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from p2pnodes.model import codec
from p2pnodes.model.branches import Ends
from p2pnodes.model.events import Head, LogId

SLICES: Final = 64
"""Slices of a vector. Of 1,024 logs one lists 16, which takes as many bytes as all hashes: some 1.5 KiB."""

SLICE_BYTES: Final = 16
"""Length of a slice's hash."""


def slice_of(log: LogId) -> int:
    """The slice that a log is in, 0 to SLICES - 1; all logs of a node key are in one."""
    return log.node_key[0] % SLICES


def slice_digest(heads: Mapping[LogId, Head], ends: Mapping[LogId, Ends], logs: Iterable[LogId]) -> bytes:
    """BLAKE2b-128 over the entries of one slice.

    Args:
        heads: The last event that counts, of each log that is compared.
        ends: What is proved of their ends, of those that have any.
        logs: Those of ``heads`` that are in the slice, in any order.
    """
    said = [[*log, *heads[log], ends[log].mark if log in ends else None] for log in sorted(logs)]
    return codec.digest(codec.pack(said), SLICE_BYTES)


NO_LOGS: Final[tuple[bytes, ...]] = (slice_digest({}, {}, ()),) * SLICES
"""The slices of a vector without logs."""


def slice_digests(heads: Mapping[LogId, Head], ends: Mapping[LogId, Ends]) -> tuple[bytes, ...]:
    """The hashes of all slices, from the beginning."""
    slices = Slices()
    slices.renew(heads, ends)
    return slices.digests


def digest_over(slices: Sequence[bytes]) -> bytes:
    """The vector digest: BLAKE2b-256 over the hashes of all slices."""
    return codec.digest(b"".join(slices))


def vector_digest(heads: Mapping[LogId, Head], ends: Mapping[LogId, Ends]) -> bytes:
    """The vector digest from the beginning; arguments as ``slice_digest`` has them."""
    return digest_over(slice_digests(heads, ends))


class Slices:
    """The hashes of a vector that changes a few logs at a time.

    Attributes:
        digests: Of all slices, as of the last call.
    """

    def __init__(self) -> None:
        """Begin without logs."""
        self.digests: tuple[bytes, ...] = NO_LOGS
        self._logs: list[set[LogId]] = [set() for _ in range(SLICES)]

    def renew(self, heads: Mapping[LogId, Head], ends: Mapping[LogId, Ends]) -> None:
        """Hash everything anew; arguments as ``slice_digest`` has them."""
        for logs in self._logs:
            logs.clear()
        self.digests = NO_LOGS
        self.update(heads, ends, heads)

    def update(self, heads: Mapping[LogId, Head], ends: Mapping[LogId, Ends], changed: Iterable[LogId]) -> None:
        """Hash the slices of some logs anew.

        Args:
            heads: As it is now; see ``slice_digest``.
            ends: As it is now.
            changed: Logs whose entries may have changed, come or gone.
        """
        touched: set[int] = set()
        for log in changed:
            part = slice_of(log)
            touched.add(part)
            if log in heads:
                self._logs[part].add(log)
            else:
                self._logs[part].discard(log)
        if touched:
            digests = list(self.digests)
            for part in touched:
                digests[part] = slice_digest(heads, ends, self._logs[part])
            self.digests = tuple(digests)
