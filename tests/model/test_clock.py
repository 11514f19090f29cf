"""The hybrid clock never goes back, never repeats, and fits a signed 64-bit integer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model.clock import HLC_MAX, MS_MAX, SECONDS_MAX, HybridClock, hlc_at, hlc_ms
from p2pnodes.model.errors import LocalProtocolError

moments = st.integers(0, MS_MAX - 1)


@given(steps=st.lists(st.tuples(st.booleans(), moments), max_size=30))
def test_each_timestamp_lies_above_all_issued_and_observed_before(steps: list[tuple[bool, int]]) -> None:
    clock, highest = HybridClock(), 0
    for observes, ms in steps:
        if observes:
            clock.observe(hlc_at(ms))
            highest = max(highest, hlc_at(ms))
        else:
            issued = clock.tick(ms)
            assert issued > highest
            assert hlc_ms(issued) >= ms
            highest = issued


@given(ms=moments, counter=st.integers(0, 2**16 - 1))
def test_a_timestamp_holds_its_milliseconds(ms: int, counter: int) -> None:
    assert hlc_ms(hlc_at(ms, counter)) == ms


def test_a_clock_that_is_right_shows_the_wall_clock() -> None:
    clock = HybridClock()
    assert clock.tick(1_000) == hlc_at(1_000)
    assert clock.tick(1_000) == hlc_at(1_000, 1)
    assert clock.tick(1_001) == hlc_at(1_001)


def test_a_clock_that_goes_back_counts_on() -> None:
    clock = HybridClock(hlc_at(5_000))
    assert clock.tick(1_000) == hlc_at(5_000, 1)
    assert clock.ahead_ms(1_000) == 4_000
    assert clock.ahead_ms(6_000) == 0


def test_a_full_counter_runs_into_the_next_millisecond() -> None:
    assert HybridClock(hlc_at(5_000, 2**16 - 1)).tick(5_000) == hlc_at(5_001)


def test_the_last_timestamp_is_a_signed_64_bit_integer_and_none_follows() -> None:
    clock = HybridClock(HLC_MAX - 1)
    assert clock.tick(0) == HLC_MAX == 2**63 - 1
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="overflowed"):
            clock.tick(0)
    assert clock.latest == HLC_MAX


def test_a_wall_clock_out_of_range_leaves_the_clock_as_it_was() -> None:
    clock = HybridClock(hlc_at(5_000))
    with pytest.raises(LocalProtocolError):
        clock.tick(2**60)
    assert clock.tick(5_001) == hlc_at(5_001)


def test_every_second_on_the_wire_has_a_timestamp() -> None:
    assert hlc_at(SECONDS_MAX * 1000) <= HLC_MAX < hlc_at((SECONDS_MAX + 1) * 1000)
