"""All compute the same turns at a claim; no two validators have one at the same time, and nobody waits for ever."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.codec import digest
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.inventory import Mandate, Vote, Weights
from p2pnodes.verify.turns import (
    OVERDUE,
    RENEW_EARLIEST,
    RENEW_PERIOD,
    RETRY_FIRST_MS,
    Turns,
    first_ones,
    renew_ms,
    retry_ms,
    turns,
)
from tests.support import NETWORK, NOW_MS, electorate, hotkey

TTL_MS = NETWORK.verdict_ttl_s * 1000
SLOT_MS = 60_000
HALF = 500_000
NAMES = ("//validator0", "//validator1", "//validator2", "//validator3")
KEYS = {name: hotkey(name).public_key for name in NAMES}

stake_tables = st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1), min_size=1, max_size=12)
claim_ids = st.binary(min_size=32, max_size=32)


def weights(stakes: dict[str, int]) -> Weights:
    who = electorate(stakes=stakes)
    old = Mandate(((0, NOW_MS),), hlc_at(NOW_MS - 30 * TTL_MS))
    return Weights(NETWORK, who, {KEYS[name]: old for name in stakes})


def vote(name: str, finding: str = VERIFIED, *, age_ms: int = 0) -> Vote:
    hlc = hlc_at(NOW_MS - age_ms)
    return Vote(KEYS[name], hlc, finding, hlc if finding == VERIFIED else None, "test", "")


def at(found: Turns, now_ms: int) -> set[bytes]:
    """Who may begin a check now."""
    return {validator for validator in found.order if found.begins_ms(validator, now_ms) == now_ms}


class TestFirstOnes:
    """They decide a vote when they agree."""

    @pytest.mark.parametrize(
        ("stakes", "count"),
        [([1, 1, 1], 2), ([1, 1, 1, 1], 3), ([51, 49], 1), ([50, 50], 2), ([0, 0], 2), ([7], 1), ([40, 30, 20, 10], 2)],
    )
    def test_the_first_ones_are_those_whose_stake_exceeds_the_quorum(self, stakes: list[int], count: int) -> None:
        table = {bytes([index]): stake for index, stake in enumerate(stakes)}
        assert first_ones(list(table), table, HALF) == count


class TestSlots:
    """Time at a claim's host is cut into slots, each of one validator."""

    @given(
        claim_ids,
        st.sets(st.sampled_from(NAMES)),
        st.integers(0, 100 * SLOT_MS),
        st.sampled_from([VERIFIED, FAILED, ABSTAIN]),
    )
    def test_no_two_validators_may_begin_at_the_same_moment(
        self, claim_id: bytes, voted: set[str], after_ms: int, finding: str
    ) -> None:
        votes = [vote(name, finding) for name in voted]
        found = turns(claim_id, NOW_MS, votes, weights(dict.fromkeys(NAMES, 25)), SLOT_MS, NOW_MS)
        assert len(at(found, NOW_MS + after_ms)) <= 1

    @given(claim_ids, st.sets(st.sampled_from(NAMES), max_size=3), st.integers(0, 100 * SLOT_MS))
    def test_whoever_has_to_check_gets_a_turn_within_one_round(
        self, claim_id: bytes, voted: set[str], after_ms: int
    ) -> None:
        now_ms = NOW_MS + after_ms
        votes = [vote(name) for name in voted]
        found = turns(claim_id, NOW_MS, votes, weights(dict.fromkeys(NAMES, 25)), SLOT_MS, NOW_MS)
        for validator in found.waiting:
            begin_ms = found.begins_ms(validator, now_ms)
            assert begin_ms is not None
            assert now_ms <= begin_ms <= now_ms + (len(NAMES) + 1) * SLOT_MS
            assert at(found, begin_ms) == {validator}

    def test_a_turn_is_half_a_slot_long_at_least(self) -> None:
        found = turns(bytes(32), NOW_MS, [], weights({"//validator0": 1, "//validator1": 1}), SLOT_MS, NOW_MS)
        first, second = found.order
        assert found.begins_ms(first, NOW_MS + SLOT_MS // 2) == NOW_MS + SLOT_MS // 2
        assert found.begins_ms(first, NOW_MS + SLOT_MS // 2 + 1) == NOW_MS + 2 * SLOT_MS
        assert found.begins_ms(second, NOW_MS) == NOW_MS + SLOT_MS

    def test_who_comes_next_begins_as_soon_as_the_one_before_has_voted(self) -> None:
        who = weights({"//validator0": 1, "//validator1": 1})
        order = turns(bytes(32), NOW_MS, [], who, SLOT_MS, NOW_MS).order
        names = {key: name for name, key in KEYS.items()}
        found = turns(bytes(32), NOW_MS, [vote(names[order[0]])], who, SLOT_MS, NOW_MS)
        assert found.begins_ms(order[1], NOW_MS + 1_000) == NOW_MS + 1_000
        assert found.begins_ms(order[0], NOW_MS + 1_000) is None

    def test_without_a_slot_all_begin_at_once(self) -> None:
        found = turns(bytes(32), NOW_MS, [], weights(dict.fromkeys(NAMES, 1)), 0, NOW_MS)
        assert at(found, NOW_MS + 5) == set(KEYS.values())

    def test_the_clock_may_lie_before_the_claim(self) -> None:
        found = turns(bytes(32), NOW_MS, [], weights(dict.fromkeys(NAMES, 1)), SLOT_MS, NOW_MS)
        assert found.begins_ms(found.order[0], NOW_MS - 3_000) == NOW_MS


class TestWhoIsAsked:
    """The first ones always check; the others only while the vote is open."""

    def test_of_a_decided_claim_only_the_first_ones_are_asked(self) -> None:
        who = weights({"//validator0": 60, "//validator1": 20, "//validator2": 20})
        found = turns(bytes(32), NOW_MS, [vote("//validator0")], who, SLOT_MS, NOW_MS)
        assert not found.open
        assert found.waiting == set(found.order[: found.first]) - {KEYS["//validator0"]}

    def test_of_an_open_claim_everybody_is_asked_who_has_not_voted(self) -> None:
        who = weights({"//validator0": 40, "//validator1": 30, "//validator2": 20, "//validator3": 10})
        found = turns(bytes(32), NOW_MS, [vote("//validator0"), vote("//validator1", FAILED)], who, SLOT_MS, NOW_MS)
        assert found.open
        assert found.waiting == {KEYS["//validator2"], KEYS["//validator3"]}

    def test_a_verdict_that_its_author_should_have_renewed_is_taken_for_gone(self) -> None:
        """Others step in before it lapses."""
        who = weights({"//validator0": 60, "//validator1": 20, "//validator2": 20})
        late = vote("//validator0", age_ms=int(TTL_MS * OVERDUE) + 1_000)
        assert turns(bytes(32), NOW_MS, [late], who, SLOT_MS, NOW_MS).open
        assert not turns(bytes(32), NOW_MS, [late], who, SLOT_MS, NOW_MS - 2_000).open


class TestAgain:
    """Verdicts are renewed before they lapse, evenly spread; failed claims are looked at ever less often."""

    @given(claim_ids, st.integers(0, 100), st.sampled_from([0, 1_000, SLOT_MS]))
    def test_a_verified_claim_is_checked_again_at_a_quarter_to_three_quarters_of_its_life(
        self, claim_id: bytes, place: int, slot_ms: int
    ) -> None:
        age = renew_ms(claim_id, NOW_MS, place, slot_ms, TTL_MS) - NOW_MS
        assert TTL_MS * RENEW_EARLIEST <= age <= TTL_MS * OVERDUE
        assert slot_ms or age < TTL_MS * (RENEW_EARLIEST + RENEW_PERIOD)

    def test_renewals_are_spread_evenly_over_time(self) -> None:
        count, parts = 8_000, 8
        moments = [renew_ms(digest(n.to_bytes(4, "big")), NOW_MS, 0, 0, TTL_MS) for n in range(count)]
        period_ms = TTL_MS * RENEW_PERIOD
        begin_ms = NOW_MS + TTL_MS * RENEW_EARLIEST
        parted = Counter(int((moment - begin_ms) / period_ms * parts) for moment in moments)
        assert sorted(parted) == list(range(parts))
        assert max(parted.values()) < 1.15 * count / parts

    def test_a_claims_moment_is_the_same_each_time_and_validators_keep_their_distance(self) -> None:
        claim_id = digest(b"claim")
        first = renew_ms(claim_id, NOW_MS, 0, SLOT_MS, TTL_MS)
        assert renew_ms(claim_id, first, 0, SLOT_MS, TTL_MS) - first == TTL_MS * RENEW_PERIOD
        assert renew_ms(claim_id, NOW_MS, 2, SLOT_MS, TTL_MS) == first + 2 * SLOT_MS

    def test_failures_back_off_but_not_beyond_the_life_of_the_verdict(self) -> None:
        pauses = [retry_ms(NOW_MS, failures, 0, 0, TTL_MS) - NOW_MS for failures in range(1, 30)]
        assert pauses[:4] == [RETRY_FIRST_MS * factor for factor in (1, 2, 4, 8)]
        assert pauses[-1] == TTL_MS * RENEW_PERIOD
        assert retry_ms(NOW_MS, 30, 1_000, SLOT_MS, TTL_MS) - NOW_MS == TTL_MS * OVERDUE
