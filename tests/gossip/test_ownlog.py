"""Rule 4: when a daemon goes on with its log after a start, waits, or opens a new one."""

from collections.abc import Collection, Mapping

import pytest

from p2pnodes.gossip import ownlog
from p2pnodes.gossip.ownlog import (
    HEARING_MS_MAX,
    LOGS_MANY,
    LOGS_PER_DOUBLING,
    Hearing,
    Step,
    patience_ms,
    ran_ahead,
    stays_ahead,
)
from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, hlc_at
from p2pnodes.model.events import Head, LogId
from p2pnodes.model.validity import Prefix
from p2pnodes.store.logs import LOGS_PER_HOTKEY_MAX
from p2pnodes.store.state import LogState
from tests.support import NOW_MS

OWN = Head(5, b"a" * 32)
A, B, C = b"A" * 32, b"B" * 32, b"C" * 32
AHEAD = Head(6, b"c" * 32)
OTHERS = {A: 100, B: 100, C: 100}
IDS = {2: b"b" * 32, 5: OWN.id}


def hear(
    own: Head | None,
    reports: Mapping[bytes, Head | None],
    others: Mapping[bytes, int],
    waited_ms: int,
    *,
    alone: bool = False,
    named: bool = False,
    ended: Collection[bytes] = (),
    logs: int = 1,
) -> Hearing:
    return ownlog.hear(own, reports, others, waited_ms, ids=IDS, alone=alone, named=named, ended=ended, logs=logs)


def test_without_a_log_one_is_opened_at_once() -> None:
    assert hear(None, {}, OTHERS, 0).step is Step.OPEN_NEW


def test_a_log_that_a_delegation_names_is_heard_about_before_it_is_opened() -> None:
    assert hear(None, {}, {}, 0, alone=True, named=True).step is Step.GO_ON
    assert hear(None, {}, OTHERS, 0, named=True).step is Step.WAIT
    assert hear(None, dict.fromkeys(OTHERS), OTHERS, 0, named=True).step is Step.GO_ON


def test_a_log_that_peers_hold_and_this_disk_does_not_is_not_begun_again() -> None:
    said = dict.fromkeys(OTHERS, Head(0, b"a" * 32))
    assert hear(None, said, OTHERS, 0, named=True).step is Step.WAIT
    refused = hear(None, said, OTHERS, HEARING_MS_MAX, named=True)
    assert refused.step is Step.OPEN_NEW
    assert "nothing of it is here" in refused.reason


def test_without_other_stake_the_rule_is_met_at_once() -> None:
    assert hear(OWN, {}, {}, 0, alone=True).step is Step.GO_ON


def test_while_nobody_is_known_to_be_enrolled_others_of_the_electorate_get_their_time_to_say_so() -> None:
    """A backup from before they enrolled knows of nobody."""
    assert hear(OWN, {}, {}, HEARING_MS_MAX - 1).step is Step.WAIT
    assert hear(OWN, {}, {}, HEARING_MS_MAX).step is Step.GO_ON


def test_more_than_half_of_the_other_stake_is_enough() -> None:
    assert hear(OWN, {A: OWN, B: OWN}, OTHERS, 0).step is Step.GO_ON


def test_half_of_the_other_stake_is_not_enough() -> None:
    assert hear(OWN, {A: OWN}, {A: 100, B: 100}, 0).step is Step.WAIT


def test_stake_counts_and_not_the_number_of_peers() -> None:
    assert hear(OWN, {A: OWN, B: OWN}, {A: 10, B: 10, C: 100}, 0).step is Step.WAIT
    assert hear(OWN, {C: OWN}, {A: 10, B: 10, C: 100}, 0).step is Step.GO_ON


def test_reports_of_peers_that_are_not_enrolled_do_not_count() -> None:
    assert hear(OWN, {b"X" * 32: OWN, b"Y" * 32: OWN}, OTHERS, 0).step is Step.WAIT


@pytest.mark.parametrize("head", [None, Head(2, b"b" * 32)], ids=["nothing", "an older head"])
def test_a_peer_that_holds_less_of_the_log_counts_as_heard(head: Head | None) -> None:
    assert hear(OWN, {A: head, B: head}, OTHERS, 0).step is Step.GO_ON


CONTRADICTIONS = [
    pytest.param({C: Head(6, b"c" * 32)}, (), id="more of the log"),
    pytest.param({C: Head(5, b"x" * 32)}, (), id="another event at our head"),
    pytest.param({C: Head(2, b"x" * 32)}, (), id="another event below our head"),
    pytest.param({b"X" * 32: Head(9, b"x" * 32)}, (), id="more, by a peer without stake"),
    pytest.param({C: OWN}, {C}, id="an end of the log"),
]


@pytest.mark.parametrize(("said", "ended"), CONTRADICTIONS)
def test_a_peer_that_contradicts_is_waited_for_whatever_the_others_say(
    said: Mapping[bytes, Head | None], ended: Collection[bytes]
) -> None:
    """What it sends proves it, and ends the log by that."""
    hearing = hear(OWN, {A: OWN, B: OWN, **said}, OTHERS, HEARING_MS_MAX - 1, ended=ended)
    assert hearing.step is Step.WAIT
    assert "waiting for the proof" in hearing.reason


@pytest.mark.parametrize(("said", "ended"), CONTRADICTIONS)
def test_one_that_proves_nothing_in_time_ends_no_log_that_most_stake_knows_as_we_do(
    said: Mapping[bytes, Head | None], ended: Collection[bytes]
) -> None:
    """Nobody signs a vector: else anybody could make us open logs up to the bound."""
    assert hear(OWN, {A: OWN, B: OWN, **said}, OTHERS, HEARING_MS_MAX, ended=ended).step is Step.GO_ON


@pytest.mark.parametrize(("said", "ended"), CONTRADICTIONS)
def test_without_that_stake_it_ends_the_log_and_the_key(
    said: Mapping[bytes, Head | None], ended: Collection[bytes]
) -> None:
    hearing = hear(OWN, {A: OWN, **said}, OTHERS, HEARING_MS_MAX, ended=ended)
    assert hearing.step is Step.OPEN_NEW
    assert hearing.doubled


def test_too_little_stake_in_time_opens_a_new_log() -> None:
    assert hear(OWN, {A: OWN}, OTHERS, HEARING_MS_MAX - 1).step is Step.WAIT
    hearing = hear(OWN, {A: OWN}, OTHERS, HEARING_MS_MAX)
    assert hearing.step is Step.OPEN_NEW
    assert "heard only 100 of 300" in hearing.reason


def test_enough_stake_is_enough_however_late() -> None:
    assert hear(OWN, {A: OWN, B: OWN}, OTHERS, 10 * HEARING_MS_MAX).step is Step.GO_ON


def test_whoever_has_many_logs_goes_on_with_one_as_soon_as_others_do() -> None:
    """A peer that lies costs no more than it costs others, and so does an electorate of which nobody enrols."""
    assert hear(OWN, dict.fromkeys((A, B), OWN), OTHERS, HEARING_MS_MAX, ended=[C], logs=200).step is Step.GO_ON
    assert hear(OWN, {}, {}, HEARING_MS_MAX, logs=200).step is Step.GO_ON


def test_a_hotkey_with_many_logs_is_not_left_without_any_by_restarts_that_reach_nobody() -> None:
    """Peers hold LOGS_PER_HOTKEY_MAX of a hotkey until they have ended."""
    assert [patience_ms(logs) for logs in (0, 1, LOGS_MANY - 1)] == [HEARING_MS_MAX] * 3
    assert patience_ms(LOGS_MANY) == patience_ms(LOGS_MANY + LOGS_PER_DOUBLING - 1) == 2 * HEARING_MS_MAX
    assert hear(OWN, {}, OTHERS, HEARING_MS_MAX, logs=LOGS_MANY).step is Step.WAIT
    assert hear(OWN, {}, OTHERS, 2 * HEARING_MS_MAX, logs=LOGS_MANY).step is Step.OPEN_NEW
    assert hear(OWN, {}, OTHERS, HEARING_MS_MAX, logs=LOGS_MANY).reason.endswith("a new log is opened after 60 s")
    assert hear(OWN, dict.fromkeys(OTHERS, AHEAD), OTHERS, HEARING_MS_MAX, logs=LOGS_MANY).step is Step.WAIT
    assert hear(OWN, dict.fromkeys(OTHERS, AHEAD), OTHERS, 2 * HEARING_MS_MAX, logs=LOGS_MANY).step is Step.OPEN_NEW
    days = sum(map(patience_ms, range(LOGS_PER_HOTKEY_MAX))) / 86_400_000
    assert 30 < days < 60


class TestAClockThatRanAhead:
    """Rule 8: which logs are left once the clock is right again."""

    FAR = hlc_at(NOW_MS + SKEW_AHEAD_MS_MAX + 1)
    MINE = LogId(b"m" * 32, 2)
    BEFORE = LogId(b"m" * 32, 1)
    THEIRS = LogId(b"t" * 32, 1)

    @staticmethod
    def logs(**hlcs: int) -> dict[LogId, LogState]:
        """Logs whose events count up to an HLC: ``mine``, one ``before`` that, and ``theirs``."""
        names = {"mine": TestAClockThatRanAhead.MINE, "before": TestAClockThatRanAhead.BEFORE}
        found = [(names.get(name, TestAClockThatRanAhead.THEIRS), hlc) for name, hlc in hlcs.items()]
        return {
            log: LogState(key, log, A if log.node_key == b"m" * 32 else B, OWN, Prefix(None, hlc), hlc=hlc)
            for key, (log, hlc) in enumerate(found)
        }

    @pytest.mark.parametrize("hlc", [0, FAR - 1])
    def test_one_that_peers_would_take_stays(self, hlc: int) -> None:
        assert ran_ahead(A, self.MINE, self.logs(mine=hlc), {}, NOW_MS, offset_ms=None) == []

    def test_one_that_lies_further_ahead_is_left_with_those_before_that_do(self) -> None:
        assert ran_ahead(A, self.MINE, self.logs(mine=self.FAR, before=self.FAR), {}, NOW_MS, offset_ms=None) == [
            self.BEFORE,
            self.MINE,
        ]
        assert ran_ahead(A, self.MINE, self.logs(mine=self.FAR, before=0), {}, NOW_MS, offset_ms=None) == [self.MINE]

    def test_nothing_is_left_while_nobody_says_what_the_time_is(self) -> None:
        """A clock that was set back looks the same."""
        logs = self.logs(mine=self.FAR)
        assert ran_ahead(A, self.MINE, logs, {B: 100}, NOW_MS, offset_ms=None) == []
        assert ran_ahead(A, self.MINE, logs, {B: 100}, NOW_MS, offset_ms=0) == [self.MINE]
        assert ran_ahead(A, self.MINE, logs, {B: 0}, NOW_MS, offset_ms=None) == [self.MINE], (
            "nobody with stake can say so"
        )

    def test_a_log_of_another_validator_that_is_as_far_ahead_keeps_the_next_one_there(self) -> None:
        assert stays_ahead(A, self.logs(mine=self.FAR, theirs=self.FAR), NOW_MS)
        assert not stays_ahead(A, self.logs(mine=self.FAR, before=self.FAR, theirs=self.FAR - 1), NOW_MS)

    def test_without_a_current_one_those_before_are_left(self) -> None:
        """As where the node key was lost: beside them no log can be opened."""
        assert ran_ahead(A, None, self.logs(before=self.FAR, theirs=self.FAR), {}, NOW_MS, offset_ms=0) == [self.BEFORE]
        assert ran_ahead(A, None, self.logs(theirs=self.FAR), {}, NOW_MS, offset_ms=0) == []
        assert ran_ahead(A, self.MINE, {}, {}, NOW_MS, offset_ms=0) == []
