"""How two inventories differ."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.miner.compare import (
    DIFFERS,
    MISSING_HERE,
    MISSING_THERE,
    Counts,
    compare_counts,
    compare_nodes,
    count_by_model,
)

CHUTE = {"username": None, "name": "[private chute]", "chute_id": "c", "verified": True, "instance_id": "i"}
COUNTS = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), st.builds(Counts, st.integers(0, 3), st.integers(0, 3))
)


class TestCounts:
    """Anybody sees who has how many GPUs of a model."""

    def test_a_detailed_inventory_is_counted_by_miner_and_model(self) -> None:
        busy = [{"gpu": "a100", "chute": CHUTE}] * 2
        found = count_by_model(
            {"m1": {"provisioned": busy, "idle": {"a100": 1, "h100": 3}}, "m2": {"provisioned": [], "idle": {}}}
        )
        assert found == {("m1", "a100"): (1, 2), ("m1", "h100"): (3, 0)}

    @pytest.mark.parametrize(
        "answer",
        [{"m": 7}, {"m": {}}, {"m": {"provisioned": 7, "idle": {}}}, {"m": {"provisioned": [7], "idle": {}}},
         {"m": {"provisioned": [], "idle": []}}, {"m": {"provisioned": [], "idle": {"h": "many"}}}],
    )  # fmt: skip
    def test_another_shape_is_an_error(self, answer: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"no detailed inventory|invalid literal"):
            count_by_model(answer)

    def test_only_what_differs_is_found(self) -> None:
        here = {("m1", "a"): Counts(1, 0), ("m1", "b"): Counts(1, 1), ("m2", "a"): Counts(2, 0)}
        there = {("m1", "a"): Counts(1, 0), ("m1", "b"): Counts(2, 0), ("m3", "a"): Counts(0, 4)}
        found = compare_counts(here, there)
        assert [(miner, gpu) for miner, gpu, *_ in found] == [("m1", "b"), ("m2", "a"), ("m3", "a")]
        assert found[1] == ("m2", "a", (2, 0), (0, 0))

    def test_what_is_in_use_can_be_left_out(self) -> None:
        here, there = {("m", "a"): Counts(1, 1)}, {("m", "a"): Counts(2, 0)}
        assert compare_counts(here, there, chutes=False) == []
        assert len(compare_counts(here, there)) == 1

    @given(COUNTS, COUNTS)
    def test_it_finds_nothing_only_where_counts_are_equal_and_does_not_care_who_is_here(
        self, here: dict[tuple[str, str], Counts], there: dict[tuple[str, str], Counts]
    ) -> None:
        forth, back = compare_counts(here, there), compare_counts(there, here)
        assert [(one.miner, one.gpu, one.there, one.here) for one in forth] == [tuple(one) for one in back]
        without_zeros = [{key: value for key, value in counts.items() if value.gpus} for counts in (here, there)]
        assert (forth == []) is (without_zeros[0] == without_zeros[1])


class TestNodes:
    """A miner sees each of its GPUs."""

    def test_a_gpu_is_missing_or_its_columns_differ(self) -> None:
        here: list[dict[str, Any]] = [
            {"uuid": "a", "memory": 1},
            {"uuid": "b", "memory": 1, "server_id": "s"},
            {"uuid": "d", "ecc": None},
        ]
        there: list[dict[str, Any]] = [{"uuid": "b", "memory": 2, "server_id": None}, {"uuid": "c"}, {"uuid": "d"}]
        assert compare_nodes(here, there) == [
            ("a", MISSING_THERE, {}),
            ("b", DIFFERS, {"memory": (1, 2), "server_id": ("s", None)}),
            ("c", MISSING_HERE, {}),
        ]

    def test_what_each_api_gives_itself_does_not_matter(self) -> None:
        here = {"uuid": "a", "seed": 1, "created_at": "x", "verified_at": "2026", "instance": None, "clock_rate": 1.0}
        there = {"uuid": "a", "seed": 2, "created_at": "y", "verified_at": "2025", "instance": "i", "clock_rate": 1}
        assert compare_nodes([here], [there]) == []

    def test_whether_it_is_verified_does(self) -> None:
        (found,) = compare_nodes([{"uuid": "a", "verified_at": None}], [{"uuid": "a", "verified_at": "2026"}])
        assert found == ("a", DIFFERS, {"verified": (False, True)})
