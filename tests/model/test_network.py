"""The network id names the parameters of the inventory function, and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p2pnodes.model import codec
from p2pnodes.model.network import Network

GENESIS = "ab" * 32
BASE: dict[str, Any] = {"genesis_hash": GENESIS, "netuid": 64}


class TestNetworkId:
    """What peers compare first."""

    def test_each_parameter_changes_it(self) -> None:
        changes: list[dict[str, Any]] = [
            {}, {"genesis_hash": "cd" * 32}, {"netuid": 65}, {"quorum": 0.6}, {"min_share": 0.1},
            {"verdict_ttl_s": 3_600}, {"epoch_blocks": 50}, {"horizon_s": 86_400},
        ]  # fmt: skip
        ids = {Network(**{**BASE, **change}).id for change in changes}
        assert len(ids) == len(changes)
        assert {len(network_id) for network_id in ids} == {16}

    def test_defaults_that_are_written_out_are_the_same_network(self) -> None:
        written = Network(**BASE, quorum=0.5, min_share=0.2, verdict_ttl_s=86_400, epoch_blocks=100, horizon_s=604_800)
        assert written.id == Network(**BASE).id

    def test_a_copy_with_another_parameter_is_another_network_also_when_the_id_was_asked_for_before(self) -> None:
        network = Network(**BASE)
        ids = {network.id, network.model_copy(update={"quorum": 0.6}).id}
        assert ids == {Network(**BASE).id, Network(**BASE, quorum=0.6).id}
        assert network.model_copy().id == network.id

    def test_shares_are_millionths(self) -> None:
        network = Network(**BASE, quorum=2 / 3, min_share=0.1)
        assert (network.quorum_ppm, network.min_share_ppm) == (666_667, 100_000)


class TestDifferences:
    """Operators are told in which parameters two networks differ, as settings write them."""

    def test_a_network_does_not_differ_from_itself(self) -> None:
        assert Network(**BASE).differences(Network(**BASE).parameters) == []

    def test_each_one_that_differs_is_named_with_both_values(self) -> None:
        other = Network(**{**BASE, "netuid": 1, "quorum": 2 / 3})
        found = Network(**BASE).differences(other.parameters)
        assert [str(each) for each in found] == ["netuid is 1 there, 64 here", "quorum is 0.666667 there, 0.5 here"]
        assert [each.seen_from_there() for each in found] == other.differences(Network(**BASE).parameters)

    def test_the_network_id_hashes_exactly_these(self) -> None:
        network = Network(**BASE)
        assert network.id == codec.digest(codec.pack(["p2pnodes network", *network.parameters]), 16)

    @pytest.mark.parametrize("theirs", [None, [], b"id", [1] * 7, [*Network(**BASE).parameters, 0]], ids=repr)
    def test_what_is_no_list_of_parameters_is_malformed(self, theirs: codec.Value) -> None:
        with pytest.raises(codec.MalformedError):
            Network(**BASE).differences(theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"genesis_hash": "ab"}, {"genesis_hash": "AB" * 32}, {"genesis_hash": "ab" * 32 + "\n"}, {"netuid": -1},
        {"netuid": 65536}, {"quorum": 0}, {"quorum": 1}, {"quorum": float("nan")}, {"min_share": -0.1},
        {"min_share": 1.1}, {"verdict_ttl_s": 59}, {"epoch_blocks": 0}, {"unknown": 1}, {"horizon_s": 59},
        {"horizon_s": 31_536_001}, {"horizon_s": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_parameter_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Network(**{**BASE, **change})
    with pytest.raises(ValidationError):
        Network(**BASE).model_copy(update=change)


class TestHorizon:
    """No verdict that lives lies behind the horizon."""

    @given(ttl_s=st.integers(60, 31_536_000), horizon_s=st.integers(60, 31_536_000))
    def test_it_is_refused_where_it_lies_before_the_end_of_verdicts(self, ttl_s: int, horizon_s: int) -> None:
        if horizon_s >= ttl_s:
            assert Network(**BASE, verdict_ttl_s=ttl_s, horizon_s=horizon_s).horizon_s == horizon_s
            return
        with pytest.raises(ValidationError) as found:
            Network(**BASE, verdict_ttl_s=ttl_s, horizon_s=horizon_s)
        (problem,) = found.value.errors()
        assert problem["loc"] == ("horizon_s",)
        assert f"expected at least verdict_ttl_s, {ttl_s:,}" in problem["msg"]

    def test_verdicts_that_outlive_the_default_need_one_of_their_own(self) -> None:
        assert Network(**BASE, verdict_ttl_s=604_800).horizon_s == 604_800
        with pytest.raises(ValidationError, match="expected at least verdict_ttl_s, 604,801"):
            Network(**BASE, verdict_ttl_s=604_801)

    def test_a_lifetime_that_is_refused_itself_is_the_one_problem(self) -> None:
        with pytest.raises(ValidationError) as found:
            Network(**BASE, verdict_ttl_s=31_536_001)
        assert [problem["loc"] for problem in found.value.errors()] == [("verdict_ttl_s",)]
