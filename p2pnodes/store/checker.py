"""The process that checks signatures: ``python -m p2pnodes.store.checker``, started by ``store/checking.py``.

Batches of checks come in on standard input and answers go out on standard output, one after the other. It knows no
secret, and believes nobody: it answers for what it has checked itself. When its standard input ends, it ends, at the
latest when the batch that it is at is done: so it never outlives its daemon, however that died.

It imports what it needs and no more: it is there beside a daemon whose memory is bounded.
"""

import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final, NamedTuple, Self

from p2pnodes.model import codec
from p2pnodes.model.codec import DIGEST_BYTES, MalformedError
from p2pnodes.model.events import Event

LENGTH_BYTES: Final = 4
"""Length of what follows, big-endian, before each batch and each answer."""

BATCH_BYTES_MAX: Final = 1 << 20
"""Bound of a batch; none that ``ahead`` makes comes near it."""

ANSWER_BYTES_MAX: Final = 1 << 20
"""Bound of an answer."""

MEMORY_BYTES_MAX: Final = 64 << 20
"""Bound of the process's data (RLIMIT_DATA)."""


def pack_batch(wires: Sequence[bytes]) -> bytes:
    """Events whose signatures are to be checked, with their length before them."""
    return _framed(codec.pack(list(wires)))


def unpack_batch(data: bytes) -> list[bytes]:
    """Read a batch without its length.

    Raises:
        MalformedError: It is none.
    """
    return [
        codec.binary(wire, "event", 0, len(data)) for wire in codec.array(codec.unpack(data), 0, len(data), "batch")
    ]


class Answer(NamedTuple):
    """What was found.

    Attributes:
        whole: Whether everything that ``Event.checks`` names of the batch holds.
        ids: Of what holds (``Check.id``).
    """

    whole: bool
    ids: Sequence[bytes]

    def pack(self) -> bytes:
        """The answer, with its length before it."""
        return _framed(bytes([self.whole]) + b"".join(self.ids))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read an answer without its length.

        Raises:
            MalformedError: It is none.
        """
        if len(data) % DIGEST_BYTES != 1 or data[0] > 1:
            raise MalformedError(f"answer: expected a byte 0 or 1 and ids, found {len(data)} bytes")
        return cls(bool(data[0]), [data[at : at + DIGEST_BYTES] for at in range(1, len(data), DIGEST_BYTES)])


def answer(wires: Sequence[bytes]) -> Answer:
    """Check the signatures of events.

    After an event that its log did not sign nothing is checked any more: what follows on it is not stored either.
    """
    ids: list[bytes] = []
    whole = True
    for wire in wires:
        for check in Event.decode(wire).checks():
            if check.make():
                ids.append(check.id)
                continue
            whole = False
            if not check.by_hotkey:
                return Answer(whole, ids)
    return Answer(whole, ids)


def serve(batches: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more batches."""
    while len(length := batches.read(LENGTH_BYTES)) == LENGTH_BYTES:
        size = int.from_bytes(length, "big")
        if size > BATCH_BYTES_MAX or len(data := batches.read(size)) < size:
            break
        answers.write(answer(unpack_batch(data)).pack())
        answers.flush()


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def main() -> None:
    """Serve on standard input and output."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager tells all; it ends with its daemon's pipe
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    given = [
        MEMORY_BYTES_MAX if each == resource.RLIM_INFINITY else min(each, MEMORY_BYTES_MAX) for each in (soft, hard)
    ]
    resource.setrlimit(resource.RLIMIT_DATA, (given[0], given[1]))
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
