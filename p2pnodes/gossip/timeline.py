"""The two times of the engine: the wall clock, which peers are told, and one that never jumps, for deadlines."""

from typing import Final

STEP_MS_MAX: Final = 5_000
"""Most that the steady time moves at once: a wall clock set forward must not let every deadline pass in that moment."""


class Timeline:
    """Follows a wall clock that may be set back or forward while the engine runs."""

    def __init__(self) -> None:
        """Begin at zero; the first ``advance`` sets the wall clock."""
        self.wall_ms = 0
        """Unix milliseconds, as the caller said last."""
        self.ms = 0
        """Milliseconds since the first call, never less than before."""

    def advance(self, now_ms: int) -> None:
        """Take the caller's wall clock."""
        if self.wall_ms:
            self.ms += min(max(0, now_ms - self.wall_ms), STEP_MS_MAX)
        self.wall_ms = now_ms
