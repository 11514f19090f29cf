"""Renewals wait for each other for a bounded time, are bounded in number, and never wait into the others' turn."""

import pytest

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import ABSTAIN, FAILED, RENEWED_MAX, VERIFIED
from p2pnodes.model.inventory import Vote
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.renewals import GATHER, TOLD_BY, Renewals
from p2pnodes.verify.turns import OVERDUE, RENEW_EARLIEST
from tests.support import NETWORK, NOW_MS

TTL_MS = NETWORK.verdict_ttl_s * 1000
WAIT_MS = int(TTL_MS * GATHER)
CLAIM = bytes(32)
AGAIN = Finding(VERIFIED)


def vote(age: float, finding: str = VERIFIED) -> Vote:
    """The own verdict so far, that share of its life ago."""
    hlc = hlc_at(NOW_MS - int(TTL_MS * age))
    return Vote(bytes(32), hlc, finding, hlc if finding == VERIFIED else None, "test", "")


@pytest.fixture
def renewals() -> Renewals:
    return Renewals(TTL_MS)


def test_they_are_told_before_others_step_in() -> None:
    assert TOLD_BY < OVERDUE
    assert GATHER < RENEW_EARLIEST, "a claim that waits would miss its next moment"


class TestWaiting:
    """A claim waits for the others at most so long."""

    def test_none_is_never_due(self, renewals: Renewals) -> None:
        assert not renewals.due(NOW_MS)
        assert renewals.slots_ms() == {}

    def test_the_first_one_decides_when_all_are_due(self, renewals: Renewals) -> None:
        assert renewals.take(CLAIM, AGAIN, vote(0.5), 7, NOW_MS)
        assert renewals.take(b"1" * 32, AGAIN, vote(0.5), 8, NOW_MS + 5_000)
        assert not renewals.due(NOW_MS + WAIT_MS - 1)
        assert renewals.due(NOW_MS + WAIT_MS)
        assert renewals.slots_ms() == {CLAIM: 7, b"1" * 32: 8}
        renewals.forget(CLAIM)
        assert CLAIM not in renewals
        assert not renewals.due(NOW_MS + WAIT_MS)
        assert renewals.due(NOW_MS + WAIT_MS + 5_000)

    def test_it_does_not_wait_beyond_the_life_of_the_verdict_before(self, renewals: Renewals) -> None:
        verdict_ms = NOW_MS - int(TTL_MS * 0.75)
        assert renewals.take(CLAIM, AGAIN, vote(0.75), 0, NOW_MS)
        assert not renewals.due(verdict_ms + int(TTL_MS * TOLD_BY) - 1)
        assert renewals.due(verdict_ms + int(TTL_MS * TOLD_BY))

    def test_what_could_not_be_told_in_twice_its_time_is_let_go(self, renewals: Renewals) -> None:
        assert renewals.take(CLAIM, AGAIN, vote(0.5), 0, NOW_MS)
        assert renewals.take(b"1" * 32, AGAIN, vote(0.5), 0, NOW_MS + 1)
        renewals.drop_late(NOW_MS + 2 * WAIT_MS)
        assert len(renewals) == 2
        renewals.drop_late(NOW_MS + 2 * WAIT_MS + 1)
        assert CLAIM not in renewals
        assert len(renewals) == 1

    def test_one_that_is_late_does_not_wait(self, renewals: Renewals) -> None:
        assert not renewals.take(CLAIM, AGAIN, vote(TOLD_BY), 0, NOW_MS)
        assert len(renewals) == 0

    def test_a_clock_that_ran_ahead_holds_nothing_up(self, renewals: Renewals) -> None:
        assert renewals.take(CLAIM, AGAIN, vote(0.5), 0, NOW_MS)
        assert not renewals.due(NOW_MS)
        assert renewals.due(NOW_MS - 1)


class TestNews:
    """What says anything new, or is no news yet, does not wait."""

    @pytest.mark.parametrize(
        ("finding", "own"),
        [
            (AGAIN, None),
            (AGAIN, vote(0.5, FAILED)),
            (AGAIN, vote(0.5, ABSTAIN)),
            (AGAIN, vote(1.1)),
            (AGAIN, vote(RENEW_EARLIEST / 2)),
            (Finding(VERIFIED, "and more"), vote(0.5)),
            (Finding(FAILED, "no"), vote(0.5)),
            (Finding(ABSTAIN, "no"), vote(0.5)),
        ],
        ids=["first", "after failed", "after abstain", "lapsed", "just said", "with a detail", "failed", "abstain"],
    )
    def test_it_is_told_at_once(self, renewals: Renewals, finding: Finding, own: Vote | None) -> None:
        assert not renewals.take(CLAIM, finding, own, 0, NOW_MS)
        assert len(renewals) == 0


class TestBound:
    """There are at most as many as one event holds."""

    def test_as_many_as_one_event_holds_are_due(self, renewals: Renewals) -> None:
        for number in range(RENEWED_MAX):
            assert not renewals.due(NOW_MS)
            assert renewals.take(bytes([number]) * 32, AGAIN, vote(0.5), 0, NOW_MS)
        assert renewals.due(NOW_MS)
        assert not renewals.take(bytes([255]) * 32, AGAIN, vote(0.5), 0, NOW_MS)
        assert len(renewals) == RENEWED_MAX
