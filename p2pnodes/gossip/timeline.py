"""The times of the engine: the wall clock, which peers are told, one that never jumps, and one for suspicions.

Whether a peer is silent, only this daemon's own ears tell; so it must know when it had none. A process that was
stopped, a machine that was paused or a loop that lags hears everybody late, and would find them all dead. What a peer
may be blamed for is therefore measured in *patient* time: it stands still while this daemon does, and runs slower for
a while by as much as the daemon's ticks came late. Pauses, rates and paces go by the steady time.

Source: Dadgar, Phillips, Currey: Lifeguard: Local Health Awareness for More Accurate Failure Detection, DSN-W 2018; the
bound of the multiplier is that of HashiCorp's memberlist.
"""

from typing import Any, Final

STEP_MS_MAX: Final = 5_000
"""Most that the steady time moves at once: a wall clock set forward must not let every deadline pass in that moment."""

SET_BACK_MS: Final = 1_000
"""A wall clock that goes back by more than this was set; one that is kept right by NTP may go back by a little."""

STILL_MS: Final = 1_000
"""Most that the patient time moves at once. Ticks come every 250 ms: what lies beyond, this daemon did not live."""

LATE_MS: Final = 1_000
"""A tick this much behind its time is late. A disk or a garbage collection may cost less than that at any time."""

CALM_MS: Final = 2_000
"""How long no tick may be late for the patient time to run a step faster again."""

SLOWNESS_MAX: Final = 8
"""By how much the patient time runs slower at most: a timeout of 10 s then takes 80 s."""


class Timeline:
    """Follows a wall clock that may be set back or forward while the engine runs."""

    def __init__(self) -> None:
        """Begin at zero; the first ``advance`` sets the wall clock."""
        self.wall_ms = 0
        """Unix milliseconds, as the caller said last."""
        self.ms = 0
        """Milliseconds since the first call, never less than before."""
        self.patient_ms = 0
        """The same, without what this daemon missed, and less of what it lived late: for what peers are blamed."""
        self.slowness = 1
        """How much slower the patient time runs than the steady one now, 1 to SLOWNESS_MAX."""
        self.stepped = False
        """Whether the wall clock was set, or this daemon stood still, since somebody took note of it and said False."""
        self.lag_ms = 0
        """How late the last tick was."""
        self._patient_us = 0
        self._tick_due_ms: int | None = None
        self._calm_ms = 0

    def advance(self, now_ms: int) -> None:
        """Take the caller's wall clock."""
        if self.wall_ms:
            step = max(0, now_ms - self.wall_ms)
            self.stepped |= self.wall_ms - now_ms > SET_BACK_MS or step > STEP_MS_MAX
            self.ms += min(step, STEP_MS_MAX)
            self._patient_us += 1_000 * min(step, STILL_MS) // self.slowness
            self.patient_ms = self._patient_us // 1_000
        self.wall_ms = now_ms

    def tick(self, now_ms: int, interval_ms: int) -> None:
        """Take the caller's wall clock at a tick, which was to come ``interval_ms`` after the one before."""
        self.advance(now_ms)
        self.lag_ms = 0 if self._tick_due_ms is None else max(0, now_ms - self._tick_due_ms)
        self._tick_due_ms = now_ms + interval_ms
        if self.lag_ms >= LATE_MS:
            self.slowness = min(SLOWNESS_MAX, self.slowness + self.lag_ms // LATE_MS)
            self._calm_ms = self.ms
        elif self.slowness > 1 and self.ms >= self._calm_ms + CALM_MS:
            self.slowness -= 1
            self._calm_ms = self.ms

    def status(self) -> dict[str, Any]:
        """What operators see, JSON-able: ``lag_ms`` and ``slowness``."""
        return {"lag_ms": self.lag_ms, "slowness": self.slowness}
