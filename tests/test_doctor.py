"""What a daemon says of itself is judged: each fault is named once, with what to do; one that is well has none."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.doctor import (
    DELEGATION_S_MIN,
    DISK_BYTES_MIN,
    OTHER_LOGS_NAMED_MAX,
    PRIVATE_ADDRESS,
    Finding,
    of_disk,
    of_status,
    size,
)
from p2pnodes.gossip import driver
from tests.fake_daemon import STATUS

NOW_S = STATUS["delegation"]["not_before"] + 60
PEER, GONE = range(2)
Plant = Callable[[dict[str, Any]], Any]


def judged(plant: Plant) -> list[Finding]:
    status = copy.deepcopy(STATUS)
    plant(status)
    return of_status(status, NOW_S)


def bad(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level != "ok"]


def test_a_daemon_that_is_well_has_no_finding_but_good_ones() -> None:
    found = judged(lambda _: None)
    assert bad(found) == []
    assert {finding.check for finding in found} == {
        "clock", "chain", "delegation", "writes", "peers", "agreement", "verifier", "forks"
    }  # fmt: skip
    assert not any(finding.advice for finding in found)


def test_events_that_came_again_leave_a_warning_of_the_disk() -> None:
    (finding,) = bad(judged(lambda status: status["database"].update(damaged_events=2)))
    assert (finding.level, finding.check) == ("warning", "database")


def unconnect(status: dict[str, Any]) -> None:
    status["gossip"]["peers"][PEER] = {"hotkey": "5Peer", "connected": False, "last_error": "Connection refused"}


def nobody_known(status: dict[str, Any]) -> None:
    status["gossip"]["peers"] = []


FAULTS: dict[str, tuple[str, str, Plant]] = {
    "clock off": ("clock", "+31.0 s off", lambda status: status.update(clock_offset_ms=-31_000)),
    "chain silent": ("chain", "no endpoint answers", lambda s: s["electorate"].update(error="no endpoint answers")),
    "delegation ends": (
        "delegation",
        "2.9 days",
        lambda status: status["delegation"].update(not_after=NOW_S + DELEGATION_S_MIN * 0.97),
    ),
    "delegation over": ("delegation", "0.0 days", lambda status: status["delegation"].update(not_after=NOW_S - 1)),
    "delegation refused": (
        "delegation", "another node key", lambda status: status["delegation"].update(error="it is for another node key")
    ),
    "disk full": ("database", "no space left", lambda status: status["database"].update(failure="no space left")),
    "events damaged": (
        "database", "2 stored events were found damaged since the start, 1 of them did not come again",
        lambda status: status["database"].update(damaged_events=2, damaged_left=1),
    ),
    "writes refused": (
        "writes", "starting", lambda status: status["writes"].update(allowed=False, reason="starting")
    ),
    "no peer connected": ("peers", "Connection refused (2)", unconnect),
    "no peer known": ("peers", "none of 2 validators has a known address", nobody_known),
    "another state root": (
        "agreement", "than 5Peer", lambda status: status["gossip"]["peers"][PEER].update(same_state_root=False)
    ),
    "verifier broken": (
        "verifier", "graval: no answer", lambda status: status["verification"].update(problem="no answer")
    ),
    "hotkey used elsewhere": (
        "hotkey", "log ab/1, last at 2025-11-24 16:00:00 UTC",
        lambda status: status.update(other_logs=[{"log": "ab/1", "written_at": 1_764_000_000}]),
    ),
    "no room in checkpoints": (
        "checkpoint", "20000 does not name the own log",
        lambda status: status["checkpoint"].update(leaves_own_log_out=True),
    ),
    "another live set": (
        "checkpoint", "another live set than this daemon finds; 20000 is in force",
        lambda status: status["checkpoint"].update(differs=True),
    ),
    "another live set at the first checkpoint": (
        "checkpoint", "none is in force", lambda status: status["checkpoint"].update(differs=True, number=0)
    ),
    "own log forked": (
        "forks", "the own log", lambda status: status.update(forks=[{"log": f"{status['node_key']}/7", "seq": 3}])
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_what_to_do(fault: str) -> None:
    check, words, plant = FAULTS[fault]
    problems = [finding for finding in judged(plant) if finding.level == "problem"]
    assert [finding.check for finding in problems] == [check]
    assert words in problems[0].found
    assert problems[0].advice


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        ("clock", lambda status: status.update(clock_offset_ms=None)),
        ("agreement", lambda status: status["gossip"]["peers"][PEER].update(same_vector=False)),
        ("verifier", lambda status: status["verification"].update(method="none")),
        ("checkpoint", lambda status: status["checkpoint"].update(lacks=20_001)),
    ],
)
def test_what_is_not_known_or_not_meant_is_no_problem(check: str, plant: Plant) -> None:
    (finding,) = bad(judged(plant))
    assert finding.check == check
    assert finding.level in {"warning", "not checked"}


def test_of_refused_writes_it_is_said_where_the_advice_is() -> None:
    refusal = {"allowed": False, "reason": "starting", "code": "writes-starting"}
    (finding,) = bad(judged(lambda status: status["writes"].update(refusal)))
    assert finding.advice == "`p2pnodes logs explain writes-starting` says what to do"


def test_an_observer_is_not_asked_for_writes_and_verdicts() -> None:
    def observe(status: dict[str, Any]) -> None:
        status.update(role="observer", delegation=None, verification=None)
        status["writes"].update(allowed=False, reason="an observer")

    found = judged(observe)
    assert bad(found) == []
    assert not {"writes", "delegation", "verifier"} & {finding.check for finding in found}


def test_who_is_alone_in_the_electorate_needs_no_peers() -> None:
    def alone(status: dict[str, Any]) -> None:
        status["gossip"].update(peers=[])
        status["gossip"]["view"]["members"] = 0

    assert [finding.check for finding in bad(judged(alone))] == ["agreement"]


def test_many_peers_that_differ_are_counted_and_a_few_are_named() -> None:
    def differ(status: dict[str, Any]) -> None:
        peer = {**status["gossip"]["peers"][PEER], "same_state_root": False}
        status["gossip"]["peers"] = [{**peer, "hotkey": f"5Peer{number}"} for number in range(5)]

    (finding,) = bad(judged(differ))
    assert "5Peer0, 5Peer1, 5Peer2 and 2 more" in finding.found


@pytest.mark.parametrize(
    ("free", "size", "level"),
    [
        (DISK_BYTES_MIN - 1, 0, "problem"),
        (DISK_BYTES_MIN, 0, "ok"),
        (2 * DISK_BYTES_MIN, 2 * DISK_BYTES_MIN + 1, "warning"),
        (2 * DISK_BYTES_MIN, 2 * DISK_BYTES_MIN, "ok"),
    ],
)
def test_a_disk_needs_room_for_the_next_hour_and_for_a_copy(free: int, size: int, level: str) -> None:
    assert of_disk(free, size).level == level


def test_peers_at_private_addresses_are_told_of_the_setting() -> None:
    def plant(status: dict[str, Any]) -> None:
        error = f"10.0.0.1 is no public address; {PRIVATE_ADDRESS}, for devnets"
        status["gossip"]["peers"] = [{"hotkey": "5Peer", "connected": False, "last_error": error}]

    (found,) = [finding for finding in judged(plant) if finding.check == "peers"]
    assert "set [gossip] allow_private_addresses" in found.advice


def test_the_reason_of_such_a_dial_is_the_drivers() -> None:
    assert PRIVATE_ADDRESS in Path(driver.__file__).read_text()


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_000_000, "1.0 MB"), (2_540_000_000, "2.5 GB"), (10**13, "10.0 TB")],
)
def test_sizes_are_said_in_a_unit_that_shows_them(size_bytes: int, said: str) -> None:
    assert size(size_bytes) == said


def test_of_many_logs_elsewhere_a_few_are_named() -> None:
    others = [{"log": f"ab/{number}", "written_at": 0} for number in range(9)]
    assert len(bad(judged(lambda status: status.update(other_logs=others)))) == OTHER_LOGS_NAMED_MAX
