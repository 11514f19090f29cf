"""How one GPU's row is decided (design.md, of the same heading), one case after another."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from p2pnodes.model import inventory
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.inventory import (
    PENDING,
    Carriage,
    Chute,
    Claim,
    DeleteCarriage,
    Deletion,
    Mandate,
    Placement,
    Row,
    Tally,
    TaskStatus,
    Vote,
    Weights,
    chute_of,
    decide,
    standing,
    tally,
    task_status,
)
from p2pnodes.model.network import Network

NETWORK = Network(genesis_hash="0" * 64, netuid=64)
NOW_S = 1_764_000_000
TTL_S = NETWORK.verdict_ttl_s
BLOCK = 1_000
ALICE, BOB = b"alice", b"bob"
GPU = "gpu-1"
CHUTE = Chute("chute", "instance", True, True, "llama", "ann")
OTHER_CHUTE = CHUTE._replace(chute_id="other")


def at(seconds: float) -> int:
    """HLC of a moment, in seconds from now."""
    return hlc_at(NOW_S * 1000 + round(seconds * 1000))


def electorate(
    stakes: Mapping[bytes, int],
    *,
    registered: Mapping[bytes, int] | None = None,
    before: Mapping[bytes, int] | None = None,
) -> Electorate:
    known = {ALICE: 0, BOB: 0} if registered is None else registered
    previous = None if before is None else Pin(BLOCK - 100, (NOW_S - 1_200) * 1000, before, known, {})
    return Electorate(Pin(BLOCK, NOW_S * 1000, stakes, known, {}), previous)


def weights(
    stakes: Mapping[bytes, int] | None = None,
    *,
    young: Iterable[bytes] = (),
    windows: Mapping[bytes, tuple[tuple[int, int], ...]] | None = None,
    network: Network = NETWORK,
    **others: Any,
) -> Weights:
    """Weights of validators who have long been delegated, but for the young."""
    who = electorate({b"v1": 100, b"v2": 100, b"v3": 100} if stakes is None else stakes, **others)
    mandates = {
        hotkey: Mandate(
            (windows or {}).get(hotkey, ((NOW_S - 10, NOW_S + 10),)), at(-10) if hotkey in set(young) else at(-TTL_S)
        )
        for hotkey in who.stakes
    }
    return Weights(network, who, mandates)


def vote(author: bytes, finding: str = VERIFIED, *, seconds: float = -60, since: int | None = None) -> Vote:
    hlc = at(seconds)
    begin = (hlc if since is None else since) if finding == VERIFIED else None
    return Vote(author, hlc, finding, begin, "test", "" if finding == VERIFIED else f"{finding} by {author.decode()}")


def claim(
    name: bytes = b"c1", miner: bytes = ALICE, nonce: int = NOW_S, *, blocks: Mapping[bytes, int] | None = None
) -> Claim:
    """A claim on GPU, carried by v1 at BLOCK, or as ``blocks`` (author -> electorate block) says."""
    carriages = tuple(Carriage(author, block, at(-100)) for author, block in (blocks or {b"v1": BLOCK}).items())
    return Claim(name, miner, nonce, (GPU,), carriages)


def deletion(
    *carriages: tuple[bytes, str, tuple[bytes, ...]], miner: bytes = ALICE, nonce: int = NOW_S, bound: bool = True
) -> Deletion:
    """A delete request as (author, GPU, claim ids) carry it."""
    return Deletion(b"d1", miner, nonce, bound, tuple(DeleteCarriage(a, u, frozenset(ids)) for a, u, ids in carriages))


def names(claims: Iterable[Claim]) -> list[bytes]:
    return [each.id for each in claims]


class TestWhoCounts:
    """Permits, grace, delegations."""

    def test_a_validator_is_enrolled_with_a_permit_and_a_live_delegation(self) -> None:
        windows = {b"v2": ((NOW_S - 10, NOW_S - 1),), b"v3": ((NOW_S + 1, NOW_S + 10),)}
        assert weights(windows=windows).enrolled == {b"v1": 100}

    def test_a_delegation_lives_at_both_ends_of_its_window(self) -> None:
        windows = {b"v1": ((NOW_S, NOW_S + 10),), b"v2": ((NOW_S - 10, NOW_S),)}
        assert weights(windows=windows).enrolled.keys() == {b"v1", b"v2", b"v3"}

    def test_one_live_delegation_among_many_logs_is_enough(self) -> None:
        windows = {b"v1": ((0, 1), (NOW_S - 10, NOW_S + 10), (NOW_S + 1, NOW_S + 2))}
        assert b"v1" in weights(windows=windows).enrolled

    def test_a_permit_without_a_delegation_is_no_enrolment(self) -> None:
        assert Weights(NETWORK, electorate({b"v1": 100}), {}).enrolled == {}

    def test_a_delegation_without_a_permit_is_no_enrolment(self) -> None:
        mandates = {b"v9": Mandate(((NOW_S - 10, NOW_S + 10),), at(-TTL_S))}
        assert Weights(NETWORK, electorate({b"v1": 100}), mandates).enrolled == {}

    def test_a_lost_permit_counts_for_one_epoch_with_its_last_stake(self) -> None:
        held = weights({b"v1": 100}, before={b"v1": 50, b"v2": 70})
        assert held.enrolled == {b"v1": 100, b"v2": 70}
        assert held.total == 170

    def test_weights_that_differ_in_nothing_that_votes_give_the_same_rows(self) -> None:
        assert weights().same_votes(weights())
        assert not weights().same_votes(weights(young=[b"v1"]))
        assert not weights().same_votes(weights(windows={b"v1": ((0, 1),)}))
        assert not weights().same_votes(weights({b"v1": 100, b"v2": 100, b"v3": 101}))


class TestTally:
    """The vote on one claim."""

    def test_without_a_verdict_it_is_pending(self) -> None:
        assert tally([], weights()) == Tally(PENDING, None, "")

    def test_more_than_the_quorum_verifies(self) -> None:
        votes = [vote(b"v1"), vote(b"v2")]
        assert tally(votes, weights()).status == VERIFIED
        assert tally(votes[:1], weights()).status == PENDING

    def test_exactly_the_quorum_does_not(self) -> None:
        stakes = {b"v1": 100, b"v2": 100}
        assert tally([vote(b"v1")], weights(stakes)).status == PENDING
        assert tally([vote(b"v1")], weights(stakes | {b"v1": 101})).status == VERIFIED

    def test_exactly_one_minus_the_quorum_fails(self) -> None:
        stakes = {b"v1": 100, b"v2": 100}
        assert tally([vote(b"v1", FAILED)], weights(stakes)) == Tally(FAILED, None, "failed by v1")
        assert tally([vote(b"v1", FAILED)], weights(stakes | {b"v1": 99})).status == PENDING

    def test_a_high_quorum_is_failed_by_few(self) -> None:
        network = Network(genesis_hash="0" * 64, netuid=64, quorum=0.75)
        stakes = {b"v1": 25, b"v2": 75}
        assert tally([vote(b"v1", FAILED)], weights(stakes, network=network)).status == FAILED
        assert tally([vote(b"v2")], weights(stakes, network=network)).status == PENDING

    def test_abstainers_weigh_nothing(self) -> None:
        votes = [vote(b"v1"), vote(b"v2", ABSTAIN)]
        assert tally(votes, weights()).status == PENDING
        assert tally([*votes, vote(b"v3", ABSTAIN)], weights()).status == VERIFIED

    def test_abstentions_alone_never_fail_the_miner(self) -> None:
        assert tally([vote(hotkey, ABSTAIN) for hotkey in (b"v1", b"v2", b"v3")], weights()).status == PENDING

    def test_a_fifth_of_all_enrolled_stake_is_the_least_that_verifies(self) -> None:
        votes = [vote(b"v1"), vote(b"v2", ABSTAIN)]
        assert tally(votes, weights({b"v1": 20, b"v2": 80})).status == VERIFIED
        assert tally(votes, weights({b"v1": 19, b"v2": 80})).status == PENDING

    def test_a_young_validator_weighs_nothing_until_it_votes(self) -> None:
        held = weights({b"v1": 100, b"v2": 100}, young=[b"v2"])
        assert tally([vote(b"v1")], held).status == VERIFIED
        assert tally([vote(b"v1"), vote(b"v2", FAILED)], held).status == FAILED
        assert tally([vote(b"v2", FAILED)], held).status == FAILED  # half of 200

    def test_a_validator_is_young_while_a_verdict_lives(self) -> None:
        who = electorate({b"v1": 100, b"v2": 100})
        for first, is_young in ((at(-TTL_S), False), (at(-TTL_S + 0.001), True)):
            mandates = dict.fromkeys(who.stakes, Mandate(((NOW_S - 10, NOW_S + 10),), first))
            assert (b"v2" in Weights(NETWORK, who, mandates).young) is is_young

    def test_a_verdict_lapses_after_its_time_to_live(self) -> None:
        for seconds, status in ((-TTL_S, VERIFIED), (-TTL_S - 0.001, PENDING)):
            votes = [vote(b"v1", seconds=seconds), vote(b"v2", seconds=seconds)]
            assert tally(votes, weights()).status == status

    def test_a_verdict_that_lapsed_does_not_wake_an_earlier_one(self) -> None:
        lapsed = [vote(hotkey, FAILED, seconds=-TTL_S - 2) for hotkey in (b"v1", b"v2")]
        later = [vote(hotkey, seconds=-TTL_S - 1) for hotkey in (b"v1", b"v2")]
        assert tally([*lapsed, *later], weights()) == Tally(PENDING, None, "")

    def test_the_latest_verdict_of_each_validator_counts(self) -> None:
        flips = [vote(b"v1", FAILED, seconds=-30), vote(b"v1", seconds=-20), vote(b"v1", FAILED, seconds=-10)]
        assert tally([*flips, vote(b"v2", FAILED)], weights()).status == FAILED
        assert tally([*reversed(flips), vote(b"v2", FAILED)], weights()).status == FAILED
        assert tally([*flips[:2], vote(b"v2")], weights()).status == VERIFIED

    def test_two_verdicts_of_one_instant_are_ordered_by_what_they_say(self) -> None:
        """Two logs of one hotkey can share an HLC."""
        both = [vote(b"v1", FAILED), vote(b"v1")]
        others = [vote(b"v2")]
        assert tally([*both, *others], weights()) == tally([*reversed(both), *others], weights())

    def test_a_verdict_of_a_validator_who_is_not_enrolled_counts_for_nothing(self) -> None:
        votes = [vote(b"v1"), vote(b"v2"), vote(b"v9", FAILED)]
        assert tally(votes, weights(windows={b"v2": ((0, 1),)})).status == PENDING  # 100 of 200: not more than half

    def test_stakes_are_compared_as_integers(self) -> None:
        """A lead of one rao among 10**17 decides, where a float would see a draw."""
        half = 10**17
        assert tally([vote(b"v1")], weights({b"v1": half + 1, b"v2": half})).status == VERIFIED
        assert tally([vote(b"v1")], weights({b"v1": half, b"v2": half})).status == PENDING

    def test_without_any_stake_nothing_is_decided(self) -> None:
        stakes = {b"v1": 0, b"v2": 0}
        assert tally([vote(b"v1"), vote(b"v2")], weights(stakes)).status == PENDING
        assert tally([vote(b"v1", FAILED)], weights(stakes)).status == PENDING

    def test_the_detail_is_that_of_the_failing_validator_with_the_most_stake(self) -> None:
        votes = [vote(b"v1", FAILED), vote(b"v2", FAILED), vote(b"v3", FAILED)]
        assert tally(votes, weights({b"v1": 1, b"v2": 5, b"v3": 5})).detail == "failed by v2"


class TestVerifiedSince:
    """The moment since which a quorum says so."""

    def test_it_is_the_lowest_at_which_the_quorum_is_exceeded(self) -> None:
        votes = [vote(b"v1", since=10), vote(b"v2", since=30), vote(b"v3", since=20)]
        assert tally(votes, weights()).since == 20
        assert tally(votes, weights({b"v1": 100, b"v2": 100, b"v3": 0})).since == 30

    def test_validators_of_one_moment_count_together(self) -> None:
        assert tally([vote(b"v1", since=10), vote(b"v2", since=10)], weights()).since == 10

    def test_one_validator_alone_cannot_backdate_it(self) -> None:
        assert tally([vote(b"v1", since=0), vote(b"v2", since=30)], weights()).since == 30

    def test_the_minimum_share_does_not_move_it(self) -> None:
        votes = [vote(b"v1", since=10), vote(b"v2", since=20), vote(b"v3", ABSTAIN)]
        assert tally(votes, weights({b"v1": 11, b"v2": 10, b"v3": 79})).since == 10


class TestClaimsThatCount:
    """Registration and electorate blocks."""

    def test_a_claim_of_a_miner_who_is_not_registered_does_not_count(self) -> None:
        assert standing(GPU, [claim()], [], electorate({b"v1": 1}, registered={BOB: 0})) == []

    @pytest.mark.parametrize(("registered", "counts"), [(BLOCK - 1, True), (BLOCK, True), (BLOCK + 1, False)])
    def test_who_came_back_registers_his_gpus_again(self, registered: int, counts: bool) -> None:
        """A registration above the block that the claim's events name is of another stay."""
        who = electorate({b"v1": 1}, registered={ALICE: registered})
        assert bool(standing(GPU, [claim()], [], who)) is counts

    def test_the_highest_block_that_counts_decides(self) -> None:
        who = electorate({b"v1": 1, b"v2": 1}, registered={ALICE: 500})
        assert standing(GPU, [claim(blocks={b"v1": 400, b"v2": 500})], [], who)
        assert not standing(GPU, [claim(blocks={b"v1": 400, b"gone": 500})], [], who)

    def test_a_block_above_the_electorate_counts_for_nothing_until_it_is_reached(self) -> None:
        who = electorate({b"v1": 1, b"v2": 1})
        assert not standing(GPU, [claim(blocks={b"v1": BLOCK + 1})], [], who)
        assert standing(GPU, [claim(blocks={b"v1": BLOCK + 1, b"v2": BLOCK})], [], who)

    def test_a_claim_that_only_lost_permits_carry_does_not_count(self) -> None:
        assert not standing(GPU, [claim()], [], electorate({b"v2": 1}))
        assert standing(GPU, [claim()], [], electorate({b"v2": 1}, before={b"v1": 1}))


class TestDeletes:
    """What ends a claim."""

    WHO = electorate({b"v1": 1, b"v2": 1})

    def alive(self, on: Claim, *deletions: Deletion) -> bool:
        return bool(standing(GPU, [on], deletions, self.WHO))

    def test_a_delete_ends_claims_with_a_lower_nonce(self) -> None:
        assert not self.alive(claim(), deletion((b"v1", GPU, ()), nonce=NOW_S + 1))
        assert self.alive(claim(), deletion((b"v1", GPU, (b"c1",)), nonce=NOW_S - 1))

    def test_at_an_equal_nonce_it_ends_the_claims_that_it_names(self) -> None:
        """Delete and add again within one second: the later claim is not named."""
        first, second = claim(b"c1"), claim(b"c2")
        assert names(standing(GPU, [first, second], [deletion((b"v1", GPU, (b"c1",)))], self.WHO)) == [b"c2"]

    def test_at_an_equal_nonce_every_event_must_name_it(self) -> None:
        assert self.alive(claim(), deletion((b"v1", GPU, (b"c1",)), (b"v2", GPU, ())))
        assert not self.alive(claim(), deletion((b"v1", GPU, (b"c1",)), (b"v2", GPU, (b"c1", b"c2"))))

    def test_an_event_that_does_not_count_is_not_asked(self) -> None:
        assert not self.alive(claim(), deletion((b"v1", GPU, (b"c1",)), (b"gone", GPU, ())))
        assert self.alive(claim(), deletion((b"gone", GPU, (b"c1",)), nonce=NOW_S + 1))

    def test_only_the_claims_own_miner_ends_it(self) -> None:
        assert self.alive(claim(), deletion((b"v1", GPU, (b"c1",)), miner=BOB, nonce=NOW_S + 1))
        assert self.alive(claim(), deletion((b"v1", GPU, (b"c1",)), miner=BOB))

    def test_it_ends_the_claim_on_its_gpu_alone(self) -> None:
        assert self.alive(claim(), deletion((b"v1", "gpu-2", (b"c1",)), nonce=NOW_S + 1))

    @pytest.mark.parametrize("nonce", [NOW_S, NOW_S + 1])
    def test_an_unbound_signature_for_two_gpus_ends_neither(self, nonce: int) -> None:
        used_twice = ((b"v1", GPU, (b"c1",)), (b"v2", "gpu-2", (b"c1",)))
        assert self.alive(claim(), deletion(*used_twice, nonce=nonce, bound=False))
        assert not self.alive(claim(), deletion(*used_twice[:1], nonce=nonce, bound=False))

    def test_an_unbound_signature_may_be_recorded_twice_for_one_gpu(self) -> None:
        twice = ((b"v1", GPU, (b"c1",)), (b"v2", GPU, (b"c1",)))
        assert not self.alive(claim(), deletion(*twice, bound=False))

    def test_a_second_use_that_does_not_count_spoils_nothing(self) -> None:
        spoiled = ((b"v1", GPU, (b"c1",)), (b"gone", "gpu-2", ()))
        assert not self.alive(claim(), deletion(*spoiled, bound=False))

    def test_of_several_deletes_one_is_enough(self) -> None:
        early, late = deletion((b"v1", GPU, ()), nonce=NOW_S - 5), deletion((b"v2", GPU, ()), nonce=NOW_S + 5)
        assert not self.alive(claim(), early, late)
        assert not self.alive(claim(), late, early)


class TestOwner:
    """Who owns a GPU among standing claims."""

    @staticmethod
    def row(claims: Iterable[Claim], tallies: Mapping[bytes, Tally]) -> Row | None:
        return decide(GPU, claims, [], tallies, [], weights())

    def test_without_a_standing_claim_there_is_no_row(self) -> None:
        assert self.row([], {}) is None
        assert decide(GPU, [claim()], [deletion((b"v1", GPU, (b"c1",)))], {}, [], weights()) is None

    def test_without_a_verified_claim_the_lowest_stamp_owns(self) -> None:
        claims = [claim(b"c3", BOB, NOW_S), claim(b"c2", nonce=NOW_S), claim(b"c1", nonce=NOW_S + 1)]
        tallies = {b"c1": Tally(PENDING, None, ""), b"c2": Tally(FAILED, None, "why"), b"c3": Tally(PENDING, None, "")}
        row = self.row(claims, tallies)
        assert row is not None
        assert (row.claim_id, row.status, row.detail) == (b"c2", FAILED, "why")

    def test_a_verified_claim_owns_before_an_earlier_one(self) -> None:
        claims = [claim(b"c1"), claim(b"c2", BOB, NOW_S + 9)]
        row = self.row(claims, {b"c1": Tally(PENDING, None, ""), b"c2": Tally(VERIFIED, 5, "")})
        assert row is not None
        assert (row.claim_id, row.miner, row.verified_since) == (b"c2", BOB, 5)

    def test_of_two_verified_claims_the_one_verified_first_owns(self) -> None:
        claims = [claim(b"c1"), claim(b"c2", BOB, NOW_S + 9)]
        row = self.row(claims, {b"c1": Tally(VERIFIED, 7, ""), b"c2": Tally(VERIFIED, 5, "")})
        assert row is not None
        assert row.claim_id == b"c2"

    def test_of_two_verified_at_once_the_lowest_stamp_owns(self) -> None:
        claims = [claim(b"c2", BOB), claim(b"c1")]
        row = self.row(claims, {b"c1": Tally(VERIFIED, 5, ""), b"c2": Tally(VERIFIED, 5, "")})
        assert row is not None
        assert row.claim_id == b"c1"

    def test_a_row_was_created_when_the_first_event_that_counts_was_written(self) -> None:
        carriages = (
            Carriage(b"gone", BLOCK, 1),
            Carriage(b"v1", BLOCK + 1, 2),
            Carriage(b"v2", 0, 4),
            Carriage(b"v1", 0, 3),
        )
        row = self.row([claim()._replace(carriages=carriages)], {b"c1": Tally(PENDING, None, "")})
        assert row is not None
        assert row.created_hlc == 3


class TestChutes:
    """What runs on a GPU."""

    def test_a_place_counts_while_its_claim_owns_the_gpu(self) -> None:
        placements = [Placement(b"v1", 5, b"c1", CHUTE)]
        assert chute_of(claim(b"c1"), placements, weights()) == CHUTE
        assert chute_of(claim(b"c2"), placements, weights()) is None

    def test_a_release_ends_its_authors_own_place_alone(self) -> None:
        placed = [Placement(b"v1", 5, b"c1", CHUTE), Placement(b"v2", 6, b"c1", None)]
        assert chute_of(claim(), placed, weights()) == CHUTE
        assert chute_of(claim(), [*placed, Placement(b"v1", 7, b"c1", None)], weights()) is None
        assert chute_of(claim(), [*placed, Placement(b"v1", 4, b"c1", None)], weights()) == CHUTE

    def test_of_several_places_the_latest_counts(self) -> None:
        placed = [Placement(b"v1", 5, b"c1", CHUTE), Placement(b"v2", 6, b"c1", OTHER_CHUTE)]
        assert chute_of(claim(), placed, weights()) == OTHER_CHUTE
        assert chute_of(claim(), placed[::-1], weights()) == OTHER_CHUTE

    def test_a_place_of_a_validator_who_is_not_enrolled_counts_for_nothing(self) -> None:
        assert chute_of(claim(), [Placement(b"v9", 5, b"c1", CHUTE)], weights()) is None

    def test_words_of_one_instant_are_ordered_by_what_they_say(self) -> None:
        words = [Placement(b"v1", 5, b"c1", chute) for chute in (CHUTE, None, OTHER_CHUTE)]
        assert chute_of(claim(), words, weights()) == chute_of(claim(), words[::-1], weights())


class TestTask:
    """What a miner's poll answers."""

    PENDING, GOOD, BAD = Tally(PENDING, None, ""), Tally(VERIFIED, 5, ""), Tally(FAILED, None, "why")

    @staticmethod
    def answer(mine: Claim, own: Tally, on: Mapping[str, list[Claim]], tallies: Mapping[bytes, Tally]) -> TaskStatus:
        return task_status(mine, own, on, {mine.id: own, **tallies})

    @pytest.mark.parametrize("own", [PENDING, GOOD, BAD], ids=lambda own: own.status)
    def test_alone_it_is_the_vote_on_the_claim(self, own: Tally) -> None:
        mine = claim()
        assert self.answer(mine, own, {GPU: [mine]}, {}) == TaskStatus(own.status, own.detail)

    def test_a_verified_owner_of_another_hotkey_fails_it(self) -> None:
        mine, other = claim(), claim(b"c2", BOB)
        found = self.answer(mine, self.PENDING, {GPU: [mine, other]}, {b"c2": self.GOOD})
        assert found.status == FAILED
        assert "verified claim of another hotkey" in found.detail

    def test_an_owner_who_is_not_verified_does_not(self) -> None:
        """Squatting: who only came first cannot fail another's task."""
        mine, first = claim(nonce=NOW_S + 1), claim(b"c2", BOB)
        for squatter in (self.PENDING, self.BAD):
            assert self.answer(mine, self.PENDING, {GPU: [first, mine]}, {b"c2": squatter}).status == PENDING

    def test_who_was_verified_first_keeps_his_task(self) -> None:
        mine, other = claim(), claim(b"c2", BOB)
        found = self.answer(mine, Tally(VERIFIED, 4, ""), {GPU: [mine, other]}, {b"c2": self.GOOD})
        assert found.status == VERIFIED

    @pytest.mark.parametrize("earlier", [PENDING, GOOD, BAD], ids=lambda earlier: earlier.status)
    def test_a_later_own_task_follows_the_earlier(self, earlier: Tally) -> None:
        mine, first = claim(nonce=NOW_S + 1), claim(b"c2")
        found = self.answer(mine, self.PENDING, {GPU: [first, mine]}, {b"c2": earlier})
        assert found == TaskStatus(earlier.status, earlier.detail)

    def test_an_earlier_own_task_follows_the_later_once_that_is_verified(self) -> None:
        mine, later = claim(), claim(b"c2", nonce=NOW_S + 1)
        assert self.answer(mine, self.PENDING, {GPU: [mine, later]}, {b"c2": self.GOOD}).status == VERIFIED

    def test_over_many_gpus_failed_beats_pending_beats_verified(self) -> None:
        mine = claim()._replace(uuids=("a", "b"))
        other, earlier = claim(b"c2", BOB), claim(b"c3", nonce=NOW_S - 1)
        both = {b"c2": self.GOOD, b"c3": self.PENDING}
        assert self.answer(mine, Tally(VERIFIED, 9, ""), {"a": [mine], "b": [other, mine]}, both).status == FAILED
        assert self.answer(mine, self.PENDING, {"a": [mine], "b": [earlier, mine]}, both).status == PENDING

    def test_gpus_that_were_deleted_do_not_hold_it_up(self) -> None:
        mine = claim()._replace(uuids=("a", "b"))
        assert self.answer(mine, self.GOOD, {"a": [], "b": [mine]}, {}).status == VERIFIED

    def test_a_claim_that_stands_nowhere_keeps_a_vote_that_ended(self) -> None:
        assert self.answer(claim(), self.GOOD, {GPU: []}, {}).status == VERIFIED
        assert self.answer(claim(), self.BAD, {GPU: []}, {}) == TaskStatus(FAILED, "why")
        gone = self.answer(claim(), self.PENDING, {GPU: []}, {})
        assert gone.status == FAILED
        assert "deleted" in gone.detail


def test_a_rows_digest_covers_its_chute() -> None:
    row = Row(GPU, b"c1", ALICE, PENDING, 1, None, "", CHUTE)
    assert row.digest() == Row(*row).digest()
    assert row.digest() != row._replace(chute=OTHER_CHUTE).digest()


def test_findings_and_statuses_share_their_words() -> None:
    assert {inventory.PENDING, VERIFIED, FAILED} == {"pending", "verified", "failed"}
