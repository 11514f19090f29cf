"""Rule 4: when a daemon goes on with its log after a start, waits, or opens a new one."""

from collections.abc import Mapping

import pytest

from p2pnodes.gossip import ownlog
from p2pnodes.gossip.ownlog import HEARING_MS_MAX, Hearing, Step
from p2pnodes.model.events import Head

OWN = Head(5, b"a" * 32)
A, B, C = b"A" * 32, b"B" * 32, b"C" * 32
OTHERS = {A: 100, B: 100, C: 100}
IDS = {2: b"b" * 32, 5: OWN.id}


def hear(
    own: Head | None,
    reports: Mapping[bytes, Head | None],
    others: Mapping[bytes, int],
    waited_ms: int,
    *,
    alone: bool = False,
) -> Hearing:
    return ownlog.hear(own, reports, others, waited_ms, ids=IDS, alone=alone)


def test_without_a_log_one_is_opened_at_once() -> None:
    assert hear(None, {}, OTHERS, 0).step is Step.OPEN_NEW


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


def test_a_peer_that_holds_more_of_the_log_ends_it() -> None:
    hearing = hear(OWN, {A: OWN, B: OWN, C: Head(6, b"c" * 32)}, OTHERS, 0)
    assert hearing.step is Step.OPEN_NEW
    assert "backup or a clone" in hearing.reason


def test_a_peer_that_holds_another_event_at_our_head_ends_it() -> None:
    assert hear(OWN, {A: Head(5, b"x" * 32)}, OTHERS, 0).step is Step.OPEN_NEW


def test_a_peer_that_holds_another_event_below_our_head_ends_it() -> None:
    assert hear(OWN, {A: OWN, B: OWN, C: Head(2, b"x" * 32)}, OTHERS, 0).step is Step.OPEN_NEW


def test_one_report_of_more_is_believed_whoever_makes_it() -> None:
    """A new log costs little, a fork much; so also a peer without stake can end a log."""
    assert hear(OWN, {b"X" * 32: Head(9, b"x" * 32)}, OTHERS, 0).step is Step.OPEN_NEW


def test_too_little_stake_in_time_opens_a_new_log() -> None:
    assert hear(OWN, {A: OWN}, OTHERS, HEARING_MS_MAX - 1).step is Step.WAIT
    hearing = hear(OWN, {A: OWN}, OTHERS, HEARING_MS_MAX)
    assert hearing.step is Step.OPEN_NEW
    assert "heard only 100 of 300" in hearing.reason


def test_enough_stake_is_enough_however_late() -> None:
    assert hear(OWN, {A: OWN, B: OWN}, OTHERS, 10 * HEARING_MS_MAX).step is Step.GO_ON
