"""The log of a run: readable lines, and a digest over them and all frames that two runs of one seed must share."""

from collections import deque
from hashlib import blake2b
from typing import Final

from tests.sim.clock import START_MS, Clock

LINES_KEPT: Final = 400
"""Lines that a failure shows; the digest covers all."""


class Trace:
    """Collects lines. They name peers by index, logs by number, GPUs by uuid and claims by the head of their id."""

    def __init__(self, clock: Clock, *, echo: bool = False) -> None:
        self._clock = clock
        self._echo = echo
        self._digest = blake2b(digest_size=16)
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.count = 0

    def __call__(self, who: str, what: str, text: str = "") -> None:
        """Add a line."""
        line = f"{(self._clock.now_ms - START_MS) / 1000:10.3f}  {who:<4} {what:<16} {text}".rstrip()
        self._digest.update(line.encode() + b"\n")
        self.lines.append(line)
        self.count += 1
        if self._echo:
            print(line)

    def frame(self, frame: bytes) -> None:
        """Take a frame that leaves into the digest; there is no line of it."""
        self._digest.update(frame)

    @property
    def digest(self) -> str:
        """Digest of every line and frame so far, hex."""
        return self._digest.hexdigest()
