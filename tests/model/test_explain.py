"""Explanations say what the inventory does, and name each case."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings

from p2pnodes.model import explain, inventory
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.explain import NodeCase, OwnerRule, PlacementState, VoiceState
from p2pnodes.model.inventory import (
    PENDING,
    Carriage,
    Chute,
    Claim,
    Deletion,
    Objection,
    Placement,
    Tally,
    TaskStatus,
    Weights,
)
from tests.model.reference import Reference
from tests.model.test_inventory import (
    ALICE,
    BLOCK,
    BOB,
    CHUTE,
    GPU,
    NOW_S,
    OTHER_CHUTE,
    TTL_S,
    at,
    claim,
    deletion,
    electorate,
    vote,
    weights,
)
from tests.model.world import Gatherer, World, worlds
from tests.support import NETWORK

pytestmark = pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure


def node(
    claims: Sequence[Claim],
    tallies: dict[bytes, Tally] | None = None,
    *,
    deletions: Sequence[Deletion] = (),
    placements: Sequence[Placement] = (),
    who: Weights | None = None,
) -> NodeCase:
    pending = {each.id: Tally(PENDING, None, "") for each in claims}
    return explain.node(GPU, claims, deletions, pending | (tallies or {}), placements, who or weights())


def verified(since: int) -> Tally:
    return Tally(VERIFIED, since, "")


class Told:
    """Everything that is explained of a world under one electorate, beside what was handed in."""

    def __init__(self, world: World, at_electorate: Electorate) -> None:
        daemon = Gatherer(world.events)
        self.weights = Weights(NETWORK, at_electorate, daemon.mandates())
        self.claims, self.votes, placements = daemon.claims(), daemon.votes(), daemon.placements()
        self.tallies = daemon.tallies(at_electorate)
        uuids = sorted({uuid for each in self.claims.values() for uuid in each.uuids})
        self.on = {uuid: [each for each in self.claims.values() if uuid in each.uuids] for uuid in uuids}
        self.deletions = {
            uuid: [d for d in daemon.deletions().values() if any(carriage.uuid == uuid for carriage in d.carriages)]
            for uuid in uuids
        }
        self.placements = {uuid: placements.get(uuid, []) for uuid in uuids}
        self.nodes = {
            uuid: explain.node(
                uuid, self.on[uuid], self.deletions[uuid], self.tallies, self.placements[uuid], self.weights
            )
            for uuid in uuids
        }
        self.cases = {
            claim_id: explain.claim(
                each, self.votes.get(claim_id, []), self.on, self.deletions, self.tallies, self.weights
            )
            for claim_id, each in self.claims.items()
        }

    def standing(self, uuid: str) -> list[Claim]:
        return inventory.standing(uuid, self.on[uuid], self.deletions[uuid], self.weights.electorate)


def told(world: World) -> Iterable[Told]:
    return (Told(world, at_electorate) for at_electorate in world.electorates)


class TestAgreement:
    """An explanation never says anything else than the inventory shows."""

    @settings(max_examples=80)
    @given(world=worlds())
    def test_a_gpu_is_explained_as_it_is_decided(self, world: World) -> None:
        for found in told(world):
            rows = Reference(world.events, found.weights.electorate, NETWORK).rows()
            for uuid, case in found.nodes.items():
                assert case.row == rows.get(uuid)
                standing = found.standing(uuid)
                assert [each.claim for each in case.candidacies if each.stands] == standing
                assert (case.rule is OwnerRule.NOBODY) is (case.row is None)
                assert (case.rule is OwnerRule.ONLY) is (len(standing) == 1)
                counting = [placement for placement, state in case.placements if state is PlacementState.COUNTS]
                assert [placement.chute for placement in counting] == (
                    [case.row.chute] if case.row and case.row.chute else []
                )

    @settings(max_examples=80)
    @given(world=worlds())
    def test_a_claim_is_explained_as_its_task_answers(self, world: World) -> None:
        for found in told(world):
            standings = {uuid: found.standing(uuid) for uuid in found.on}
            for claim_id, case in found.cases.items():
                own = {uuid: standings[uuid] for uuid in case.claim.uuids}
                assert case.task == inventory.task_status(case.claim, found.tallies[claim_id], own, found.tallies)
                assert (case.objection is None) is inventory.counts(case.claim, found.weights.electorate)
                for gpu in case.gpus:
                    row = found.nodes[gpu.uuid].row
                    assert (gpu.owner and gpu.owner.id) == (row and row.claim_id)
                    assert (gpu.owner_tally and gpu.owner_tally.status) == (row and row.status)
                    assert (gpu.answer is not None) is gpu.candidacy.stands

    @settings(max_examples=80)
    @given(world=worlds())
    def test_what_is_on_the_scales_is_what_the_voices_put_there_and_decides(self, world: World) -> None:
        for found in told(world):
            reference = Reference(world.events, found.weights.electorate, NETWORK)
            for claim_id, case in found.cases.items():
                tally, scales, voices = case.poll
                assert tally == found.tallies[claim_id]
                assert scales.weighed == sum(voice.stake for voice in voices if voice.weighed)
                assert scales.weighed == reference.weighed(reference.live_verdicts(claim_id))
                counting = [(v.stake, v.vote.finding) for v in voices if v.state is VoiceState.COUNTS and v.vote]
                assert scales.verified == sum(stake for stake, finding in counting if finding == VERIFIED)
                assert scales.failed == sum(stake for stake, finding in counting if finding == FAILED)
                assert (tally.status == VERIFIED) is (scales.verified >= max(scales.quorum, scales.share))
                assert (tally.status == FAILED) is (tally.status != VERIFIED and scales.failed >= scales.failing)

    @settings(max_examples=40)
    @given(world=worlds())
    def test_every_enrolled_validator_has_one_voice_and_every_verdict_is_told(self, world: World) -> None:
        for found in told(world):
            for claim_id, case in found.cases.items():
                said = [voice for voice in case.poll.voices if voice.state is not VoiceState.SUPERSEDED]
                validators = [voice.validator for voice in said]
                assert len(set(validators)) == len(validators)
                assert set(validators) >= found.weights.enrolled.keys()
                assert {voice.vote for voice in case.poll.voices} - {None} == set(found.votes.get(claim_id, []))


class TestVoices:
    """What each verdict, or its absence, does in a vote."""

    @pytest.mark.parametrize(
        ("seconds", "finding", "state", "weighed"),
        [
            (-60, VERIFIED, VoiceState.COUNTS, True),
            (-60, FAILED, VoiceState.COUNTS, True),
            (-60, ABSTAIN, VoiceState.ABSTAINS, False),
            (-TTL_S - 1, VERIFIED, VoiceState.LAPSED, True),
        ],
    )
    def test_a_verdict_of_an_enrolled_validator(
        self, seconds: float, finding: str, state: VoiceState, *, weighed: bool
    ) -> None:
        cast = vote(b"v1", finding, seconds=seconds)
        first, *others = explain.poll([cast], weights()).voices
        assert first == explain.Voice(b"v1", 100, cast, state, weighed)
        assert [(voice.validator, voice.state) for voice in others] == [
            (b"v2", VoiceState.AWAITED),
            (b"v3", VoiceState.AWAITED),
        ]

    def test_who_has_not_voted_is_awaited_unless_it_is_new(self) -> None:
        found = explain.poll([], weights(young=[b"v2"]))
        assert {voice.validator: (voice.state, voice.weighed) for voice in found.voices} == {
            b"v1": (VoiceState.AWAITED, True),
            b"v2": (VoiceState.YOUNG, False),
            b"v3": (VoiceState.AWAITED, True),
        }
        assert found.scales.weighed == 200

    def test_a_verdict_without_permit_or_delegation_says_which_is_missing(self) -> None:
        found = explain.poll([vote(b"v2"), vote(b"v9")], weights(windows={b"v2": ((0, 1),)}))
        states = {voice.validator: (voice.state, voice.stake, voice.weighed) for voice in found.voices}
        assert states[b"v2"] == (VoiceState.NO_DELEGATION, 100, False)
        assert states[b"v9"] == (VoiceState.NO_PERMIT, 0, False)

    def test_an_earlier_verdict_of_another_log_is_superseded_and_told_last(self) -> None:
        votes = [vote(b"v1", FAILED, seconds=-120), vote(b"v1", seconds=-60)]
        found = explain.poll(votes, weights())
        assert [voice.vote for voice in found.voices] == [votes[1], None, None, votes[0]]
        assert found.voices[-1].state is VoiceState.SUPERSEDED

    def test_what_is_missing_is_the_difference_to_what_decides(self) -> None:
        """40 of 100 say verified: 11 more exceed the half; failing takes 50."""
        stakes = {b"v1": 40, b"v2": 30, b"v3": 20, b"v4": 10}
        scales = explain.poll([vote(b"v1")], weights(stakes)).scales
        assert (scales.weighed, scales.verified, scales.failed) == (100, 40, 0)
        assert (scales.quorum, scales.share, scales.failing) == (51, 20, 50)


class TestCandidacies:
    """Why a claim stands on a GPU, or does not."""

    @pytest.mark.parametrize(
        ("one", "who", "objection"),
        [
            (claim(), electorate({b"v1": 1}), None),
            (claim(), electorate({b"v1": 1}, registered={}), Objection.NOT_REGISTERED),
            (claim(), electorate({b"v1": 1}, registered={ALICE: BLOCK}), None),
            (claim(), electorate({b"v1": 1}, registered={ALICE: BLOCK + 1}), Objection.REGISTERED_LATER),
            (claim(), electorate({b"v2": 1}), Objection.NOT_CARRIED),
            (claim(blocks={b"v1": BLOCK + 1}), electorate({b"v1": 1}), Objection.NOT_CARRIED),
        ],
    )
    def test_a_claim_that_does_not_count_says_why(
        self, one: Claim, who: Electorate, objection: Objection | None
    ) -> None:
        (found,) = explain.candidacies(GPU, [one], [], {one.id: Tally(PENDING, None, "")}, who)
        assert (found.objection, found.stands) == (objection, objection is None)

    def test_each_carriage_says_why_it_does_not_count(self) -> None:
        one = claim(blocks={b"v1": BLOCK, b"v2": BLOCK + 1, b"v9": BLOCK})
        case = explain.claim(one, [], {GPU: [one]}, {GPU: []}, {one.id: Tally(PENDING, None, "")}, weights())
        assert [(carriage.author, objection) for carriage, objection in case.carriages] == [
            (b"v1", None),
            (b"v2", Objection.AHEAD),
            (b"v9", Objection.NOT_PERMITTED),
        ]

    def test_a_deleted_claim_names_the_first_delete_that_ends_it(self) -> None:
        ends = [
            deletion((b"v1", GPU, ()), nonce=nonce)._replace(request_id=name)
            for name, nonce in ((b"d3", NOW_S + 3), (b"d0", NOW_S - 1), (b"d2", NOW_S + 2), (b"d1", NOW_S))
        ]
        case = node([claim()], deletions=ends)
        assert case.row is None
        (found,) = case.candidacies
        assert found.ended_by is not None
        assert found.ended_by.request_id == b"d2"
        assert [appeal.deletion.request_id for appeal in case.deletions] == [b"d0", b"d1", b"d2", b"d3"]

    def test_a_delete_at_the_same_nonce_ends_what_it_names(self) -> None:
        case = node([claim(b"c1"), claim(b"c2")], deletions=[deletion((b"v1", GPU, (b"c2",)))])
        assert [each.ended_by is None for each in case.candidacies] == [True, False]

    def test_a_delete_that_does_nothing_says_why(self) -> None:
        foreign = deletion((b"v9", GPU, ()), nonce=NOW_S + 1)
        several = deletion((b"v1", GPU, ()), (b"v1", "gpu-2", ()), nonce=NOW_S + 2, bound=False)
        case = node([claim()], deletions=[foreign, several])
        assert [appeal.ending for appeal in case.deletions] == [Objection.NOT_PERMITTED, Objection.SEVERAL_GPUS]
        assert case.candidacies[0].stands

    def test_many_claims_and_deletes_of_one_miner_cost_little(self) -> None:
        """A thousand of each are a million pairs: one lookup for each claim is what it takes."""
        claims = [claim(b"c%d" % number, nonce=NOW_S + number) for number in range(1_000)]
        ends = [
            deletion((b"v1", GPU, ()), nonce=NOW_S + number)._replace(request_id=b"d%d" % number)
            for number in range(1_000)
        ]
        asked = 0
        ends_claim = inventory.Ending.ends

        def counted(end: inventory.Ending, one: Claim) -> bool:
            nonlocal asked
            asked += 1
            return ends_claim(end, one)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inventory.Ending, "ends", counted)
            found = explain.candidacies(
                GPU,
                claims,
                ends,
                dict.fromkeys((one.id for one in claims), Tally(PENDING, None, "")),
                electorate({b"v1": 1}),
            )
        assert [one.claim.id for one in found if one.stands] == [b"c999"]
        assert asked < 3_000


class TestOwners:
    """By which rule a GPU has its owner."""

    @pytest.mark.parametrize(
        ("claims", "tallies", "owner", "rule"),
        [
            ([], {}, None, OwnerRule.NOBODY),
            ([claim()], {}, b"c1", OwnerRule.ONLY),
            ([claim()], {b"c1": verified(5)}, b"c1", OwnerRule.ONLY),
            ([claim(), claim(b"c2", BOB, NOW_S - 1)], {}, b"c2", OwnerRule.EARLIEST),
            ([claim(), claim(b"c2", BOB, NOW_S - 1)], {b"c1": verified(5)}, b"c1", OwnerRule.ONLY_VERIFIED),
            (
                [claim(), claim(b"c2", BOB)],
                {b"c1": verified(5), b"c2": verified(4)},
                b"c2",
                OwnerRule.VERIFIED_FIRST,
            ),
            (
                [claim(), claim(b"c2", BOB), claim(b"c3", BOB)],
                {b"c1": verified(4), b"c2": verified(4), b"c3": verified(5)},
                b"c1",
                OwnerRule.SAME_MOMENT,
            ),
        ],
    )
    def test_the_rule_is_named(
        self, claims: list[Claim], tallies: dict[bytes, Tally], owner: bytes | None, rule: OwnerRule
    ) -> None:
        case = node(claims, tallies)
        assert (case.row and case.row.claim_id, case.rule) == (owner, rule)

    def test_what_each_gpu_says_to_the_task(self) -> None:
        lost, won = claim(b"c1", ALICE), claim(b"c2", BOB)
        tallies = {b"c1": Tally(PENDING, None, ""), b"c2": verified(5)}
        case = explain.claim(lost, [], {GPU: [lost, won]}, {GPU: []}, tallies, weights())
        (gpu,) = case.gpus
        assert gpu.owner == won
        assert gpu.answer == case.task == TaskStatus(FAILED, f"GPU {GPU} belongs to a verified claim of another hotkey")


class TestPlacements:
    """What each place and release does."""

    @pytest.mark.parametrize(
        ("placements", "states"),
        [
            ([(b"v1", -9, b"c1", CHUTE)], [PlacementState.COUNTS]),
            ([(b"v1", -9, b"c1", None)], [PlacementState.RELEASED]),
            ([(b"v1", -9, b"c2", CHUTE)], [PlacementState.NOT_OWNER]),
            ([(b"v9", -9, b"c1", CHUTE)], [PlacementState.NOT_ENROLLED]),
            (
                [(b"v1", -8, b"c1", OTHER_CHUTE), (b"v2", -9, b"c1", CHUTE)],
                [PlacementState.COUNTS, PlacementState.OUTRANKED],
            ),
            (
                [(b"v1", -8, b"c1", None), (b"v1", -9, b"c1", CHUTE), (b"v2", -10, b"c1", CHUTE)],
                [PlacementState.RELEASED, PlacementState.SUPERSEDED, PlacementState.COUNTS],
            ),
        ],
    )
    def test_each_says_what_it_does(
        self, placements: list[tuple[bytes, int, bytes, Chute | None]], states: list[PlacementState]
    ) -> None:
        said = [Placement(author, at(seconds), claim_id, chute) for author, seconds, claim_id, chute in placements]
        case = node([claim(), claim(b"c2", BOB, NOW_S + 1)], placements=said)
        assert [state for _, state in case.placements] == states

    def test_nothing_counts_where_nobody_owns(self) -> None:
        case = node([], placements=[Placement(b"v1", at(-9), b"c1", CHUTE)])
        assert [state for _, state in case.placements] == [PlacementState.NOT_OWNER]


class TestHistory:
    """What was said about a GPU, in order of time."""

    def test_it_holds_requests_decisions_and_places(self) -> None:
        one = claim(nonce=NOW_S - 50)._replace(carriages=(Carriage(b"v1", BLOCK, at(-49)),))
        end = deletion((b"v1", GPU, ()), nonce=NOW_S - 10)
        said = Placement(b"v2", at(-30), b"c1", CHUTE)
        case = node([one], {b"c1": verified(at(-40))}, deletions=[end], placements=[said])
        assert [(hap.what, hap.at_ms // 1000 - NOW_S, hap.who, hap.reference) for hap in explain.history(case)] == [
            ("add", -50, ALICE, b"c1"),
            (VERIFIED, -40, None, b"c1"),
            ("place", -30, b"v2", b"c1"),
            ("delete", -10, ALICE, b"d1"),
        ]
        assert hlc_ms(said.hlc) == explain.history(case)[2].at_ms
