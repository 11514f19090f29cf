"""The electorate: two pinned blocks, one epoch of grace, one digest over what is weighed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.electorate import Electorate, Pin

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
PIN = Pin(200, 2_000, {A: 10, B: 20}, {C: 150}, {A: "http://192.0.2.1"})
EARLIER = Pin(100, 1_000, {B: 5, C: 7}, {C: 50}, {})


class TestGrace:
    """A permit at the pinned block, or at the one before it."""

    def test_a_permit_lives_one_epoch_longer(self) -> None:
        electorate = Electorate(PIN, EARLIER)
        assert [electorate.permitted(hotkey) for hotkey in (A, B, C, b"d" * 32)] == [True, True, True, False]
        assert not Electorate(PIN).permitted(C)

    def test_the_stake_is_the_latest_that_is_known(self) -> None:
        assert Electorate(PIN, EARLIER).stakes == {A: 10, B: 20, C: 7}

    def test_a_registration_has_no_grace(self) -> None:
        without = PIN._replace(registered={})
        assert Electorate(PIN, EARLIER).registration_block(C) == 150
        assert Electorate(without, EARLIER).registration_block(C) is None

    def test_block_and_time_are_those_of_the_pin(self) -> None:
        electorate = Electorate(PIN, EARLIER)
        assert (electorate.block, electorate.time_ms) == (200, 2_000)

    @pytest.mark.parametrize("block", [200, 201])
    def test_the_earlier_block_lies_below(self, block: int) -> None:
        with pytest.raises(ValueError, match="does not lie below"):
            Electorate(PIN, EARLIER._replace(block=block))


class TestCanonical:
    """One electorate, one encoding; without addresses."""

    @given(data=st.data())
    def test_it_is_read_back_as_it_was(self, data: st.DataObject) -> None:
        numbers = st.integers(0, codec.INT_MAX)
        weights = st.dictionaries(st.binary(min_size=32, max_size=32), numbers, max_size=4)
        pins = st.builds(Pin, st.integers(1, codec.INT_MAX), numbers, weights, weights, st.just({}))
        pin = data.draw(pins)
        before = data.draw(st.none() | pins.map(lambda one: one._replace(block=one.block % pin.block)))
        found = Electorate.from_canonical(Electorate(pin, before).canonical)
        assert (found.current, found.previous) == (pin, before)

    @pytest.mark.parametrize(
        "value",
        [
            None, [], [None, None], [[200, 2_000, [], []]], [[200, 2_000, []], None], [[-1, 2_000, [], []], None],
            [[200, 2_000, [[B, 1], [A, 1]], []], None], [[200, 2_000, [], [[A, 1], [A, 1]]], None],
            [[200, 2_000, [[A[:-1], 1]], []], None], [[200, 2_000, [[A, -1]], []], None],
            [[200, 2_000, [[A]], []], None], [[200, 2_000, [], []], [200, 1_000, [], []]],
            [[200, 2_000, [], []], [201, 1_000, [], []]], [[0, 2_000, [], []], [0, 1_000, [], []]],
        ],
        ids=repr,
    )  # fmt: skip
    def test_what_is_none_or_in_another_order_is_malformed(self, value: codec.Value) -> None:
        with pytest.raises(codec.MalformedError):
            Electorate.from_canonical(codec.pack(value))


class TestDigest:
    """Equal digests mean equal weights."""

    def test_it_does_not_depend_on_the_order_in_which_the_chain_was_read(self) -> None:
        turned = PIN._replace(validators=dict(reversed(list(PIN.validators.items()))))
        assert Electorate(turned, EARLIER).digest == Electorate(PIN, EARLIER).digest

    @pytest.mark.parametrize(
        "changes",
        [
            {"block": 199},
            {"time_ms": 2_001},
            {"validators": {A: 10, B: 21}},
            {"validators": {A: 10}},
            {"registered": {C: 151}},
            {"registered": {}},
        ],
        ids=str,
    )
    def test_it_covers_all_that_is_weighed(self, changes: dict[str, Any]) -> None:
        changed = PIN._replace(**changes)
        assert Electorate(changed, EARLIER).digest != Electorate(PIN, EARLIER).digest
        assert Electorate(PIN, EARLIER._replace(**{**changes, "block": 99})).digest != Electorate(PIN, EARLIER).digest

    def test_the_grace_is_part_of_it(self) -> None:
        assert Electorate(PIN).digest != Electorate(PIN, EARLIER).digest

    def test_addresses_are_hints_and_no_part_of_it(self) -> None:
        assert Electorate(PIN._replace(addresses={})).digest == Electorate(PIN).digest
