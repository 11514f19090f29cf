"""Peers are compared quickly while something seems to be wrong, and seldom else."""

import random
from itertools import pairwise

import pytest

from p2pnodes.gossip.pace import CALM_INTERVAL_MS, DIGEST_INTERVAL_MS, SESSIONS_MIN, TROUBLE_MS, Pace
from p2pnodes.gossip.timeline import Timeline

STEP_MS = 250


class Run:
    """A pace and its time."""

    def __init__(self) -> None:
        self.time = Timeline()
        self.time.advance(1_000_000)
        self.pace = Pace(self.time, random.Random(1))

    def due(self, ms: int, sessions: int) -> list[int]:
        """When something was due, within so many milliseconds."""
        found = []
        for _ in range(ms // STEP_MS):
            self.time.advance(self.time.wall_ms + STEP_MS)
            if self.pace.due(sessions):
                found.append(self.time.ms)
        return found


def mean_pause(times: list[int]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1)


@pytest.mark.parametrize(("sessions", "mean_ms"), [(SESSIONS_MIN - 1, DIGEST_INTERVAL_MS), (8, CALM_INTERVAL_MS)])
def test_without_trouble_it_depends_on_the_number_of_sessions(sessions: int, mean_ms: int) -> None:
    run = Run()
    run.due(TROUBLE_MS + CALM_INTERVAL_MS * 2, sessions)
    times = run.due(200 * mean_ms, sessions)
    assert 0.9 < mean_pause(times) / mean_ms < 1.15
    pauses = [second - first for first, second in pairwise(times)]
    assert len(set(pauses)) > 5
    assert 2 / 3 * mean_ms <= min(pauses)
    assert max(pauses) <= 4 / 3 * mean_ms + STEP_MS


def test_after_a_trouble_it_is_quick_for_a_while() -> None:
    run = Run()
    run.due(TROUBLE_MS + CALM_INTERVAL_MS * 2, 8)
    run.pace.trouble()
    quick = run.due(TROUBLE_MS, 8)
    assert TROUBLE_MS / DIGEST_INTERVAL_MS - 2 <= len(quick) <= TROUBLE_MS / DIGEST_INTERVAL_MS * 3 / 2
    assert len(run.due(CALM_INTERVAL_MS * 10, 8)) <= 16


def test_troubles_do_not_put_off_what_is_due() -> None:
    run = Run()
    found = []
    for _ in range(100):
        run.pace.trouble()
        found += run.due(STEP_MS, 8)
    assert len(found) >= 100 * STEP_MS / DIGEST_INTERVAL_MS / 2


def test_when_sessions_have_ended_it_is_quick_at_once() -> None:
    run = Run()
    run.due(TROUBLE_MS + CALM_INTERVAL_MS * 3, 8)
    assert run.due(DIGEST_INTERVAL_MS * 4 // 3 + STEP_MS, SESSIONS_MIN - 1)
