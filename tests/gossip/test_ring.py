"""The ring of node keys, from our own place."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.gossip.ring import SIDES, Ring

UP, DOWN = SIDES


def ring_of(own: int, *others: int) -> Ring:
    """A ring of hotkeys of one byte, whose node keys are the same byte twice."""
    ring = Ring(bytes([own, own]), lambda hotkey: hotkey * 2 if hotkey != b"?" else b"")
    ring.sort([bytes([other]) for other in others])
    return ring


def walked(ring: Ring, side: int) -> list[int]:
    return [hotkey[0] for hotkey in ring.walk(side)]


class TestWalk:
    """From our place all the way round."""

    @pytest.mark.parametrize(
        ("own", "up", "down"),
        [(5, [7, 9, 1, 3], [3, 1, 9, 7]), (0, [1, 3, 7, 9], [9, 7, 3, 1]), (10, [1, 3, 7, 9], [9, 7, 3, 1])],
    )
    def test_it_goes_on_behind_the_highest_with_the_lowest(self, own: int, up: list[int], down: list[int]) -> None:
        ring = ring_of(own, 9, 3, 7, 1)
        assert walked(ring, UP) == up
        assert walked(ring, DOWN) == down

    def test_alone_there_is_nowhere_to_go(self) -> None:
        assert walked(ring_of(5), UP) == walked(ring_of(5), DOWN) == []

    def test_who_has_no_place_is_passed_over(self) -> None:
        assert walked(ring_of(5, 9, ord("?"), 7), UP) == [7, 9]

    @given(own=st.integers(0, 255), others=st.sets(st.integers(0, 255).filter(lambda n: n != ord("?"))))
    def test_neighbours_are_neighbours_of_each_other(self, own: int, others: set[int]) -> None:
        everybody = {*others, own} - {ord("?")}
        for one in everybody:
            for other in walked(ring_of(one, *(everybody - {one})), UP)[:1]:
                assert walked(ring_of(other, *(everybody - {other})), DOWN)[0] == one


class TestDraws:
    """Everybody can be drawn."""

    def test_all_come_with_a_place_or_without(self) -> None:
        ring, rng = ring_of(5, 9, ord("?"), 7), random.Random(1)
        drawn = {hotkey for _ in range(50) for hotkey in ring.drawn(rng, 3)}
        assert drawn == {bytes([9]), b"?", bytes([7])}

    def test_there_are_no_more_draws_than_members(self) -> None:
        assert len(list(ring_of(5, 9, 7).drawn(random.Random(1), 16))) == 2
        assert list(ring_of(5).drawn(random.Random(1), 16)) == []
