"""Logs that are left alone for a while, because asking for them again at once could change nothing."""

from typing import Final, NamedTuple

from p2pnodes.model.events import LogId

BACKOFF_MS: Final = 5_000
"""First pause of a log; each further one is twice as long."""

BACKOFF_MS_MAX: Final = 300_000

BACKOFFS_MAX: Final = 4_096
"""Logs that are remembered; beyond it the oldest is forgotten, and costs one range more."""


class _Pause(NamedTuple):
    until_ms: int
    step_ms: int
    refused: bool
    ahead: bool = False


class Backoffs:
    """Pauses by log, bounded in number and length."""

    def __init__(self) -> None:
        """Begin with none."""
        self._pauses: dict[LogId, _Pause] = {}

    def holds(self, log: LogId, time_ms: int) -> bool:
        """Whether a log is not to be asked for now."""
        pause = self._pauses.get(log)
        return pause is not None and time_ms < pause.until_ms

    def refuses(self, log: LogId, time_ms: int) -> bool:
        """Whether also what peers send of a log without being asked is not worth the store's time now."""
        pause = self._pauses.get(log)
        return pause is not None and pause.refused and time_ms < pause.until_ms

    def fail(self, log: LogId, time_ms: int, *, refused: bool) -> bool:
        """Pause a log that was refused, or that forked: from BACKOFF_MS, doubling, to BACKOFF_MS_MAX.

        Returns:
            Whether a new pause begins; one that lasts is not made longer by more of the same.
        """
        before = self._pauses.get(log)
        if before is not None and time_ms < before.until_ms:
            return False
        step_ms = BACKOFF_MS if before is None else min(2 * before.step_ms, BACKOFF_MS_MAX)
        self._set(log, _Pause(time_ms + step_ms, step_ms, refused))
        return True

    def defer(self, log: LogId, time_ms: int, pause_ms: int) -> None:
        """Pause a log whose clock runs ahead, until it has been caught up with; at most BACKOFF_MS_MAX."""
        self._set(log, _Pause(time_ms + min(pause_ms, BACKOFF_MS_MAX), BACKOFF_MS // 2, refused=False, ahead=True))

    def clear(self, log: LogId) -> None:
        """Forget the pause of a log that goes on."""
        self._pauses.pop(log, None)

    def electorate_changed(self) -> None:
        """Forget what was refused: who holds a permit may be another question now."""
        self._pauses = {log: pause for log, pause in self._pauses.items() if not pause.refused}

    def clock_stepped(self) -> None:
        """Forget whose clocks ran ahead: ours was set, and may have been what was wrong."""
        self._pauses = {log: pause for log, pause in self._pauses.items() if not pause.ahead}

    def __len__(self) -> int:
        return len(self._pauses)

    def _set(self, log: LogId, pause: _Pause) -> None:
        self._pauses.pop(log, None)  # the newest is last, so that the oldest is forgotten first
        self._pauses[log] = pause
        if len(self._pauses) > BACKOFFS_MAX:
            del self._pauses[next(iter(self._pauses))]
