"""All compute the same order of validators for a key, fair by stake, and steady."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model.codec import digest
from p2pnodes.model.rendezvous import place_of, ranking

stake_tables = st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1), min_size=1, max_size=12)
claim_ids = st.binary(min_size=32, max_size=32)


class TestOrder:
    """Stake-weighted rendezvous hashing: the same at every validator, fair by stake, and steady."""

    @given(claim_ids, stake_tables)
    def test_the_order_holds_everybody_once_whatever_the_order_of_the_table(
        self, claim_id: bytes, stakes: dict[bytes, int]
    ) -> None:
        order = ranking(claim_id, stakes)
        assert sorted(order) == sorted(stakes)
        assert ranking(claim_id, dict(reversed(stakes.items()))) == order

    @pytest.mark.parametrize("stakes", [[1] * 5, [40, 30, 20, 10], [1_000_000, 1, 1], [3, 0, 1]])
    def test_a_validator_comes_first_as_often_as_its_share_of_the_stake(self, stakes: list[int]) -> None:
        table = {bytes([index]) * 32: stake for index, stake in enumerate(stakes)}
        draws = 4_000
        first = Counter(ranking(digest(number.to_bytes(4, "big")), table)[0] for number in range(draws))
        for key, stake in table.items():
            share = stake / sum(stakes)
            # Five standard deviations of a binomial; the draws are fixed, so this never flickers.
            assert abs(first[key] / draws - share) <= 5 * (share * (1 - share) / draws) ** 0.5

    @given(claim_ids, stake_tables, st.data())
    def test_who_leaves_moves_nobody_else(self, claim_id: bytes, stakes: dict[bytes, int], data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(stakes)))
        left = {key: stake for key, stake in stakes.items() if key != gone}
        assert ranking(claim_id, left) == tuple(key for key in ranking(claim_id, stakes) if key != gone)

    @given(claim_ids, stake_tables, st.data())
    def test_more_stake_never_means_a_later_place(
        self, claim_id: bytes, stakes: dict[bytes, int], data: st.DataObject
    ) -> None:
        richer = data.draw(st.sampled_from(sorted(stakes)))
        more = {**stakes, richer: stakes[richer] * 2 + 1}
        assert place_of(ranking(claim_id, more), richer) <= place_of(ranking(claim_id, stakes), richer)
