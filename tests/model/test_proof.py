"""Proofs: what they prove follows from signatures, and nobody can make one of what was not signed."""

import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import codec, inventory, proof
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED, Carry, Delegation, Event, LogId, Release, Renew, Verdict
from p2pnodes.model.inventory import Mandate, Vote, Weights
from p2pnodes.model.network import PPM, Network
from p2pnodes.model.proof import EVENTS_MAX, PROOF_BYTES_MAX, MalformedProofError, Proof, ProofError
from p2pnodes.model.requests import request_id
from tests.model.proof_scene import DAY_S, GPU_UUIDS, STAKES, Scene, full_server, proven, refused, served
from tests.model.world import EPOCH, FIRST_BLOCK, GPUS, VALIDATORS, Gatherer, World, raw_event, worlds
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate, hotkey

TTL_MS: Final = NETWORK.verdict_ttl_s * 1000


@pytest.fixture
def scene() -> Scene:
    return Scene()


class TestStatement:
    """A proof that holds says who registered what, and who voted for it with what stake."""

    def test_it_names_claim_votes_and_stakes(self, scene: Scene) -> None:
        found = scene.prove()
        assert found.network == NETWORK
        assert (found.electorate_block, found.electorate_time_ms) == (BLOCK, NOW_MS)
        assert found.electorate_digest == scene.who.digest
        assert (found.claim_id, found.miner, found.nonce) == (
            scene.claim_id,
            hotkey("//Alice").public_key,
            int(scene.request.nonce),
        )
        assert [gpu.uuid for gpu in found.gpus] == list(GPU_UUIDS)
        assert (found.carrier, found.created_hlc) == (hotkey("//validator3").public_key, scene.registration.hlc)
        assert [(vote.validator, vote.finding, vote.stake, vote.hlc, vote.event_id) for vote in found.votes] == [
            (hotkey(f"//validator{n}").public_key, VERIFIED, STAKES[f"//validator{n}"], event.hlc, event.id)
            for n, event in enumerate(scene.votes)
        ]
        assert (found.verified, found.weighed, found.needed, found.permitted) == (70, 100, 51, 100)

    def test_where_gpus_are_verified_is_not_in_it(self, scene: Scene) -> None:
        assert "192.0.2.10" not in repr(scene.prove())
        assert b"192.0.2.10" in b"".join(scene.proof().events)

    def test_events_can_be_given_in_any_order(self, scene: Scene) -> None:
        assert proof.build(NETWORK, scene.who, scene.claim_id, reversed(scene.events())) == scene.proof()

    def test_a_signed_abstention_leaves_its_stake_out(self, scene: Scene) -> None:
        found = scene.prove(scene.vote("//validator2", ABSTAIN))
        assert (found.verified, found.weighed, found.needed, found.permitted) == (70, 80, 41, 100)
        assert [vote.finding for vote in found.votes] == [VERIFIED, VERIFIED, ABSTAIN]

    def test_a_carried_registration_counts_by_its_carrier(self, scene: Scene) -> None:
        log = scene.logs["//validator0"]
        carry = log.write(
            Carry((scene.logs["//validator2"].add(add("//Bob", ["gpu-z"])).wire, scene.registration.wire))
        )
        found = scene.prove(carry, without=[scene.registration, scene.delegation("//validator3")])
        assert (found.carrier, found.created_hlc) == (hotkey("//validator0").public_key, scene.registration.hlc)
        assert [gpu.uuid for gpu in found.gpus] == list(GPU_UUIDS)

    def test_a_vote_may_need_a_renewed_delegation(self) -> None:
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        first = log.write(log.delegation(not_before=NOW_S - 9 * DAY_S, not_after=NOW_S - 1), at_ms=NOW_MS - 8 * DAY_S)
        renewal = log.write(log.delegation(not_before=NOW_S - 60), at_ms=NOW_MS - 2000)
        scene.votes[0] = scene.vote("//validator0")
        assert scene.prove(renewal).verified == 70
        assert "outside the window" in refused(scene.proof(without=[renewal]))
        assert "the log's first event is missing" in refused(scene.proof(renewal, without=[first]))

    def test_another_log_may_hold_the_delegation_that_lives(self) -> None:
        """A validator that moved to a new log is enrolled by it; what it said in the old one counts on."""
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        log.write(log.delegation(not_after=NOW_S - 10), at_ms=NOW_MS - 30_000)
        scene.votes[0] = scene.vote("//validator0", at_ms=NOW_MS - 20_000)
        moved = Author("//validator0", number=1).delegate()
        assert "no delegation in the proof that lives then" in refused(scene.proof())
        assert scene.prove(moved).verified == 70


class TestLies:
    """What a dishonest prover can put into a proof, take out of it, or change in it."""

    def test_too_few_votes_prove_nothing_and_the_numbers_are_told(self, scene: Scene) -> None:
        reason = refused(scene.proof(without=[scene.votes[0], scene.delegation("//validator0")]))
        assert (
            "a stake of 30 verified the claim; needed is 51, more than 50 % of 100 and at least 20 % of 100" in reason
        )

    def test_half_is_not_more_than_half(self) -> None:
        scene = Scene()
        scene.who = electorate(stakes={"//validator0": 40, "//validator1": 30, "//validator2": 70, "//validator3": 0})
        assert "needed is 71" in refused(scene.proof())

    def test_abstentions_cannot_go_below_the_minimum_share(self) -> None:
        scene = Scene()
        scene.who = electorate(stakes={**dict.fromkeys(STAKES, 0), "//validator0": 19, "//validator2": 81})
        reason = refused(scene.proof(scene.vote("//validator2", ABSTAIN)))
        assert "needed is 20, more than 50 % of 19 and at least 20 % of 100" in reason

    def test_validators_that_are_left_out_weigh_all_the_same(self) -> None:
        """Nobody but validator 0 has a delegation, so that the inventory would count 40 of 40; a proof cannot know."""
        scene = Scene()
        scene.votes = scene.votes[:1]
        registration = scene.registration = scene.logs["//validator0"].add(scene.request, at_ms=NOW_MS + 5)
        alone = Weights(NETWORK, scene.who, {registration_author(registration): Mandate(((0, NOW_S + 1),), 0)})
        votes = [Vote(registration_author(registration), scene.votes[0].hlc, VERIFIED, 1, "test", "")]
        assert inventory.tally(votes, alone).status == VERIFIED
        assert "a stake of 40 verified the claim; needed is 51" in refused(scene.proof())

    def test_a_young_validator_weighs_all_the_same(self, scene: Scene) -> None:
        """Every delegation is a second old here, and the inventory would not wait for those who have not voted yet."""
        scene.votes = scene.votes[1:]
        assert "a stake of 30 verified the claim; needed is 51" in refused(scene.proof())

    def test_a_vote_is_counted_once(self, scene: Scene) -> None:
        again = scene.vote("//validator1")
        assert "there are two verdicts of validator" in refused(scene.proof(again, without=scene.votes[:1]))
        wires = scene.proof().events
        for number in range(len(wires)):
            doubled = scene.proof()._replace(events=(*wires[: number + 1], *wires[number:]))
            assert "each event once, in ascending order" in refused(doubled)

    def test_a_validator_with_two_logs_votes_once(self, scene: Scene) -> None:
        second = Author("//validator1", number=1)
        more = [second.delegate(), second.verdict(scene.claim_id)]
        assert "there are two verdicts of validator" in refused(scene.proof(*more))

    def test_a_lapsed_vote_does_not_count(self) -> None:
        scene = Scene()
        old = [Author("//validator0"), Author("//validator1")]
        for log in old:
            log.write(log.delegation(not_before=NOW_S - 9 * DAY_S), at_ms=NOW_MS - TTL_MS - 10)
        scene.logs |= {"//validator0": old[0], "//validator1": old[1]}
        scene.votes = [scene.vote("//validator0"), scene.vote("//validator1", at_ms=NOW_MS - TTL_MS)]
        assert scene.prove().verified == 70
        old[1] = scene.logs["//validator1"] = Author("//validator1")
        old[1].write(old[1].delegation(not_before=NOW_S - 9 * DAY_S), at_ms=NOW_MS - TTL_MS - 10)
        scene.votes[1] = scene.vote("//validator1", at_ms=NOW_MS - TTL_MS - 1)
        assert "has lapsed" in refused(scene.proof())

    def test_a_failed_verdict_proves_nothing(self, scene: Scene) -> None:
        assert "is failed; expected verified or abstain" in refused(scene.proof(scene.vote("//validator2", FAILED)))

    def test_a_verdict_of_another_claim_is_refused(self, scene: Scene) -> None:
        other = scene.logs["//validator2"].verdict(bytes(32))
        assert "is about other claims" in refused(scene.proof(other))
        other = scene.logs["//validator2"].renew(bytes(32), bytes([1]) * 32)
        assert "is about other claims" in refused(scene.proof(other))

    def test_a_verdict_may_stand_beside_others_in_its_event(self, scene: Scene) -> None:
        scene.votes[0] = scene.logs["//validator0"].renew(bytes(32), scene.claim_id, bytes([255]) * 32)
        statement = scene.prove()
        assert statement.claim_id == scene.claim_id
        assert scene.votes[0].id in {vote.event_id for vote in statement.votes}

    def test_verdicts_and_registration_are_of_one_claim(self, scene: Scene) -> None:
        """Also when the other claim is the same miner's, on the same GPUs, signed anew."""
        again = scene.logs["//validator3"].add(add("//Alice", GPU_UUIDS))
        assert "which the registration does not bring" in refused(scene.proof(again, without=[scene.registration]))

    def test_there_is_one_registration(self, scene: Scene) -> None:
        carry = scene.logs["//validator3"].write(Carry((scene.registration.wire,)))
        assert "there are 2 registrations" in refused(scene.proof(carry))
        gone = [scene.registration, scene.delegation("//validator3")]
        assert "there are 0 registrations" in refused(scene.proof(without=gone))

    def test_a_proof_without_votes_is_none(self, scene: Scene) -> None:
        assert "no verdict" in refused(Proof(NETWORK, proof._electorate_bytes(scene.who), scene.claim_id, ()))

    def test_a_miner_that_is_not_registered(self, scene: Scene) -> None:
        scene.who = electorate(stakes=STAKES, miners=["//Bob"])
        assert "not registered" in refused(scene.proof())

    def test_a_miner_that_left_and_came_back(self, scene: Scene) -> None:
        pin = scene.who.current
        miner = hotkey("//Alice").public_key
        scene.who = Electorate(pin._replace(registered={**pin.registered, miner: BLOCK}))
        assert scene.prove().verified == 70
        scene.who = Electorate(pin._replace(block=BLOCK + 1, registered={**pin.registered, miner: BLOCK + 1}))
        assert f"is registered since block {BLOCK + 1}, the registration names block {BLOCK}" in refused(scene.proof())

    def test_a_registration_ahead_of_the_electorate(self) -> None:
        scene = Scene()
        scene.registration = scene.logs["//validator3"].add(scene.request, block=BLOCK + 1)
        assert f"does not count at block {BLOCK}" in refused(scene.proof())

    def test_a_registration_that_nobody_with_a_permit_carries(self, scene: Scene) -> None:
        scene.who = electorate(stakes={uri: stake for uri, stake in STAKES.items() if uri != "//validator3"})
        assert f"{hotkey('//validator3').address} has no permit" in refused(scene.proof())

    def test_a_vote_without_a_permit(self, scene: Scene) -> None:
        scene.logs["//Bob"] = Author("//Bob")
        scene.logs["//Bob"].delegate()
        assert f"{hotkey('//Bob').address} does not count" in refused(scene.proof(scene.vote("//Bob")))

    def test_a_vote_without_its_delegation(self, scene: Scene) -> None:
        for uri in ("//validator0", "//validator1", "//validator3"):
            assert "first event is missing" in refused(scene.proof(without=[scene.delegation(uri)]))

    def test_a_delegation_that_ended_before_the_electorates_time(self) -> None:
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        log.write(log.delegation(not_after=NOW_S - 1), at_ms=NOW_MS - 3000)
        scene.votes[0] = scene.vote("//validator0", at_ms=NOW_MS - 2000)
        assert "no delegation in the proof that lives then" in refused(scene.proof())

    def test_a_void_delegation(self) -> None:
        """Of another hotkey's signature, for another log, or with another window than the hotkey signed."""
        good = Author("//validator0").delegation()
        stranger = hotkey("//Bob").sign(b"whatever")
        for delegation in (
            good._replace(signature=stranger),
            good._replace(not_after=good.not_after + 1),
            Author("//validator0", number=1).delegation(),
        ):
            scene = Scene()
            log = scene.logs["//validator0"] = Author("//validator0")
            log.write(delegation, at_ms=NOW_MS - 1000)
            scene.votes[0] = scene.vote("//validator0")
            assert "hotkey's signature for this log" in refused(scene.proof())

    def test_a_log_does_not_change_its_validator(self, scene: Scene) -> None:
        """Else two hotkeys that share a node key would both be counted with one verdict each in one log."""
        log = scene.logs["//validator1"]
        other = Author("//validator2")
        other.log = log.log
        switch = log.write(other.delegation())
        assert "another hotkey than its log's first one" in refused(scene.proof(switch, log.verdict(scene.claim_id)))

    def test_a_void_vote(self, scene: Scene) -> None:
        log = scene.logs["//validator0"]
        vote = log.verdict(scene.claim_id, since=hlc_at(NOW_MS + DAY_S * 1000))
        assert "since lies above" in refused(scene.proof(vote, without=scene.votes[:1]))

    def test_a_vote_before_its_delegation(self) -> None:
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        log.delegate()
        hlc = hlc_at(NOW_MS - 2000)
        scene.votes[0] = log.write(Verdict(scene.claim_id, VERIFIED, "test", "", hlc), hlc=hlc)
        assert "HLC does not lie above" in refused(scene.proof())

    def test_a_request_that_its_miner_did_not_sign(self, scene: Scene) -> None:
        signature = hotkey("//Bob").sign(b"whatever")
        forged = scene.request._replace(signature=signature)
        scene.claim_id = request_id(NETWORK.id, forged)
        scene.registration = scene.logs["//validator3"].add(forged)
        scene.votes = [scene.vote("//validator0"), scene.vote("//validator1")]
        assert "does not carry its miner's signature" in refused(scene.proof())

    def test_a_verdict_that_its_log_did_not_sign(self, scene: Scene) -> None:
        event = scene.votes[0]
        stranger = Author("//validator0", seed=1).node_key.sign(event.header)
        scene.votes[0] = Event.decode(codec.pack([event.header, stranger, event.payload]))
        assert "not signed by its log's node key" in refused(scene.proof())

    def test_events_of_another_network(self, scene: Scene) -> None:
        """A network with an easy quorum has another id, which is in every event that its validators sign."""
        easy = Network(genesis_hash="0" * 64, netuid=64, quorum=0.000001, min_share=0)
        assert "of network" in refused(scene.proof()._replace(network=easy))

    def test_a_fork_within_the_proof(self, scene: Scene) -> None:
        log = scene.logs["//validator0"]
        (first, _), log.events = log.events[:2], []
        log.head = None
        rival = log.write(log.delegation(not_after=NOW_S + 7))
        assert "continues another event" in refused(scene.proof(rival, without=[first]))

    def test_other_kinds_prove_nothing(self, scene: Scene) -> None:
        log = scene.logs["//validator0"]
        deletion = log.delete(delete("//Alice", "nodes"), "gpu-a", [scene.claim_id])
        assert "expected only delegate, add, carry, verdict and renew" in refused(scene.proof(deletion))
        release = log.write(Release(scene.claim_id, ("gpu-a",)))
        assert "expected only delegate, add, carry, verdict and renew" in refused(scene.proof(release))

    def test_an_event_that_this_build_cannot_judge(self, scene: Scene) -> None:
        strange = raw_event(scene.logs["//validator0"], "tomorrow", b"\xc0", hlc_at(NOW_MS + 5))
        assert "this build does not know" in refused(scene.proof(strange))

    def test_a_log_that_has_nothing_to_do_with_it(self, scene: Scene) -> None:
        reason = refused(scene.proof(scene.delegation("//validator2")))
        assert f"{hotkey('//validator2').address} says nothing about the claim" in reason

    def test_more_events_than_the_bound(self, scene: Scene) -> None:
        assert f"at most {EVENTS_MAX}" in refused(scene.proof()._replace(events=(b"",) * (EVENTS_MAX + 1)))


class TestElectorate:
    """The electorate is the one whose digest the statement names, in its one encoding."""

    def test_any_other_has_another_digest(self, scene: Scene) -> None:
        """Nobody signs it, so whoever checks must compare it; and nothing about it can be changed unseen."""
        pin = scene.who.current
        more = {**pin.validators, hotkey("//validator0").public_key: 41}
        for other in (
            pin._replace(block=BLOCK + 1),
            pin._replace(time_ms=NOW_MS + 1),
            pin._replace(validators=more),
            pin._replace(registered={**pin.registered, hotkey("//Alice").public_key: 1}),
        ):
            scene.who = Electorate(other)
            assert scene.prove().electorate_digest != electorate(stakes=STAKES).digest
        scene.who = Electorate(pin, Pin(BLOCK - 1, NOW_MS - 1, {}, {}, {}))
        assert scene.prove().electorate_digest != electorate(stakes=STAKES).digest

    def test_a_validator_in_its_grace_weighs_and_votes(self) -> None:
        scene = Scene()
        before = electorate(BLOCK - 100, NOW_MS - 1_200_000, stakes={"//validator0": 40})
        now = {uri: stake for uri, stake in STAKES.items() if uri != "//validator0"}
        scene.who = electorate(stakes=now, previous=before)
        found = scene.prove()
        assert (found.verified, found.permitted) == (70, 100)

    def test_addresses_are_no_part_of_it(self, scene: Scene) -> None:
        pin = scene.who.current
        scene.who = Electorate(pin._replace(addresses={hotkey("//validator0").public_key: "http://192.0.2.1"}))
        assert scene.prove().electorate_digest == electorate(stakes=STAKES).digest

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "expected an array of 2 values"),
            ([[1, 2, [], []]], "expected an array of 2 values"),
            ([[1, 2, []], None], "expected an array of 4 values"),
            ([[-1, 2, [], []], None], "block"),
            ([[1, 2**47, [], []], None], "time"),
            ([[1, 2, [[b"k" * 31, 1]], []], None], "hotkey"),
            ([[1, 2, [[b"k" * 32, -1]], []], None], "stake"),
            ([[1, 2, [], [[b"k" * 32, 2**63]]], None], "registration block"),
            ([[1, 2, [[b"k" * 32, 1], [b"k" * 32, 1]], []], None], "every hotkey once, in ascending order"),
            ([[1, 2, [[b"k" * 32, 1], [b"a" * 32, 1]], []], None], "every hotkey once, in ascending order"),
            ([[1, 2, [], []], [1, 2, [], []]], "does not lie below"),
        ],
    )
    def test_what_is_none_is_told(self, scene: Scene, value: codec.Value, reason: str) -> None:
        found = refused(scene.proof()._replace(electorate=codec.pack(value)))
        assert found.startswith("electorate: ")
        assert reason in found

    def test_its_lists_are_bounded(self, scene: Scene) -> None:
        pairs: list[codec.Value] = [[n.to_bytes(32, "big"), 0] for n in range(proof.HOTKEYS_MAX + 1)]
        found = refused(scene.proof()._replace(electorate=codec.pack([[1, 2, pairs, []], None])))
        assert f"0 to {proof.HOTKEYS_MAX} values" in found


def document(brought: Proof | None = None) -> dict[str, Any]:
    return (brought or served()).document()


def decoded(value: Any) -> Proof:
    return Proof.decode(json.dumps(value).encode())


class TestFile:
    """One JSON file, of which nothing is overlooked."""

    def test_it_is_read_back_as_it_was(self) -> None:
        assert decoded(document()) == served()

    def test_its_layout_is_what_PROOF_md_says(self) -> None:  # noqa: N802 - the file's name
        found = document()
        assert list(found) == ["format", "version", "network", "electorate", "claim", "events"]
        assert found["network"] == {
            "genesis_hash": "0" * 64,
            "netuid": 64,
            "quorum_ppm": 500_000,
            "min_share_ppm": 200_000,
            "verdict_ttl_s": 86_400,
            "epoch_blocks": 100,
            "horizon_s": 604_800,
        }

    @given(quorum=st.integers(1, PPM - 1), share=st.integers(0, PPM))
    def test_every_share_is_one_number_of_millionths(self, quorum: int, share: int) -> None:
        network = Network(genesis_hash="0" * 64, netuid=64, quorum=quorum / PPM, min_share=share / PPM)
        brought = Proof(network, b"", bytes(32), ())
        assert (document(brought)["network"]["quorum_ppm"], document(brought)["network"]["min_share_ppm"]) == (
            quorum,
            share,
        )
        assert decoded(document(brought)).network.id == network.id

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "not JSON"),
            (b"[]", "no proof"),
            (b"{}", "no proof"),
            (b"\xff", "not JSON"),
            (b"\xef\xbb\xbf{}", "not JSON"),
            ('{"format": "p2pnodes-proof"}'.encode("utf-16"), "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b'{"format": 1e999}', "no proof"),
            (b'{"version": ' + b"9" * 5000 + b"}", "not JSON"),
            (b'{"format": "p2pnodes-proof", "format": "p2pnodes-proof"}', '"format" occurs twice'),
            (b'{"format": "p2pnodes-proof", "version": 2}', "version 2: this build reads version 1"),
            (b'{"format": "p2pnodes-proof", "version": 0}', "version: "),
            (b'{"format": "p2pnodes-proof", "version": 1}', "network: missing"),
            (b" " * (PROOF_BYTES_MAX + 1), f"over {PROOF_BYTES_MAX} bytes"),
        ],
        ids=lambda value: value[:40] if isinstance(value, bytes) else value,
    )
    def test_what_is_no_proof_is_told(self, text: bytes, reason: str) -> None:
        with pytest.raises(MalformedProofError) as found:
            Proof.decode(text)
        assert reason in str(found.value)
        assert "\n" not in str(found.value)

    @pytest.mark.parametrize(
        ("path", "value", "reason"),
        [
            ("extra", 1, "unknown key"),
            ("a\nb", 1, r'"a\nb": unknown key'),
            ("\ud800", 1, r'a key: found "\ud800", expected a valid string'),
            ("network.quorum", 0.5, "unknown key"),
            ("version", True, "version: "),
            ("version", 1.0, "version: "),
            ("version", "1", "version: "),
            ("network", [], "network: "),
            ("network.netuid", 65_536, "network.netuid: found 65536"),
            ("network.netuid", True, "network.netuid: found true"),
            ("network.netuid", 64.0, "network.netuid: found 64.0"),
            ("network.quorum_ppm", 0, "network.quorum_ppm: found 0"),
            ("network.quorum_ppm", PPM, "network.quorum_ppm: "),
            ("network.min_share_ppm", PPM + 1, "network.min_share_ppm: "),
            ("network.verdict_ttl_s", 59, "network.verdict_ttl_s: "),
            ("network.epoch_blocks", 0, "network.epoch_blocks: "),
            ("network.horizon_s", 59, "network.horizon_s: found 59"),
            ("network.horizon_s", 86_399, "network.horizon_s: found 86399, expected at least verdict_ttl_s, 86,400"),
            ("network.horizon_s", None, "network.horizon_s: "),
            ("network.genesis_hash", "0" * 63, "network.genesis_hash: "),
            ("network.genesis_hash", "0" * 64 + "\n", "network.genesis_hash: "),
            ("network.genesis_hash", "A" * 64, "network.genesis_hash: "),
            ("electorate", None, "electorate: "),
            ("electorate", "AA=", "electorate: not base64"),
            ("electorate", "AA==\n", "electorate: not base64"),
            ("electorate", "AB==", "electorate: not base64 in its canonical form"),
            ("electorate", "é", "electorate: not base64"),
            ("electorate", "\ud800", "electorate: "),
            ("events", {}, "events: "),
            ("events", [1], "events.0: "),
            ("events", ["_"], "events.0: not base64"),
            ("events", ["AA=="] * (EVENTS_MAX + 1), "events: "),
        ],
    )
    def test_what_does_not_belong_into_it_is_refused(self, path: str, value: Any, reason: str) -> None:
        found = document()
        *tables, key = path.split(".")
        (found[tables[0]] if tables else found)[key] = value
        with pytest.raises(MalformedProofError) as refusal:
            decoded(found)
        assert reason in str(refusal.value)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("path", ["format", "version", "network", "electorate", "events", "network.netuid"])
    def test_nothing_may_be_missing(self, path: str) -> None:
        found = document()
        *tables, key = path.split(".")
        del (found[tables[0]] if tables else found)[key]
        with pytest.raises(MalformedProofError):
            decoded(found)

    def test_a_proof_that_nobody_reads_is_not_made(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(proof, "PROOF_BYTES_MAX", 1000)
        with pytest.raises(ProofError, match="at most 1000 are read"):
            proof.build(NETWORK, scene.who, scene.claim_id, scene.events())

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_proof_or_refused(self, text: bytes) -> None:
        with pytest.raises(MalformedProofError):
            Proof.decode(text)


class TestTampering:
    """Whatever is changed in a proof, it is refused, or proves the very same, or says itself that it is another's."""

    @settings(max_examples=400)
    @given(data=st.data())
    def test_no_byte_of_an_event_can_be_changed(self, data: st.DataObject) -> None:
        honest = served()
        number = data.draw(st.integers(0, len(honest.events) - 1))
        wire = honest.events[number]
        at = data.draw(st.integers(0, len(wire) - 1))
        changed = wire[:at] + bytes([wire[at] ^ data.draw(st.integers(1, 255))]) + wire[at + 1 :]
        events = (*honest.events[:number], changed, *honest.events[number + 1 :])
        assert proven(lambda: honest._replace(events=events)) is None

    def test_no_byte_at_all_of_an_event_can_be_changed(self) -> None:
        honest = served()
        for number, wire in enumerate(honest.events):
            for at, byte in enumerate(wire):
                changed = wire[:at] + bytes([byte ^ 1]) + wire[at + 1 :]
                events = (*honest.events[:number], changed, *honest.events[number + 1 :])
                assert proven(lambda events=events: honest._replace(events=events)) is None  # type: ignore[misc]

    def test_no_byte_of_the_electorate_can_be_changed_unseen(self) -> None:
        honest = served()
        same = proof.check(honest)
        for at, byte in enumerate(honest.electorate):
            changed = honest.electorate[:at] + bytes([byte ^ 1]) + honest.electorate[at + 1 :]
            found = proven(lambda changed=changed: honest._replace(electorate=changed))  # type: ignore[misc]
            assert found is None or found.electorate_digest != same.electorate_digest

    def test_no_character_of_the_file_can_be_changed_unseen(self) -> None:
        honest = served()
        same = proof.check(honest)
        text = json.dumps(document()).encode()
        head = text.index(b'"electorate"') + 40
        for at in range(head):
            for bit in (1, 2, 16, 32):
                changed = text[:at] + bytes([text[at] ^ bit]) + text[at + 1 :]
                found = proven(lambda changed=changed: Proof.decode(changed))  # type: ignore[misc]
                assert found is None or found == same or found.electorate_digest != same.electorate_digest

    @settings(max_examples=200)
    @given(data=st.data())
    def test_no_character_of_base64_can_be_changed(self, data: st.DataObject) -> None:
        found = document()
        number = data.draw(st.integers(0, len(found["events"]) - 1))
        text = found["events"][number]
        at = data.draw(st.integers(0, len(text) - 1))
        char = data.draw(st.characters(max_codepoint=127).filter(lambda char: char != text[at]))
        found["events"][number] = text[:at] + char + text[at + 1 :]
        assert proven(lambda: decoded(found)) is None

    @given(data=st.data())
    def test_parts_cannot_be_put_in_another_order(self, data: st.DataObject) -> None:
        honest = served()
        events = tuple(data.draw(st.permutations(honest.events)))
        found = proven(lambda: honest._replace(events=events))
        assert (found is not None) is (events == honest.events)

    @given(data=st.data())
    def test_nothing_that_is_left_out_makes_more_of_it(self, data: st.DataObject) -> None:
        honest = served()
        same = proof.check(honest)
        kept = data.draw(st.lists(st.booleans(), min_size=len(honest.events), max_size=len(honest.events)))
        events = tuple(event for event, keep in zip(honest.events, kept, strict=True) if keep)
        found = proven(lambda: honest._replace(events=events))
        if found is not None:
            assert found == same._replace(
                votes=found.votes, verified=found.verified, weighed=found.weighed, needed=found.needed
            )
            assert set(found.votes) <= set(same.votes)
            assert found.verified <= same.verified
            assert found.weighed >= same.weighed

    def test_a_single_part_less_is_a_proof_of_less_or_none(self) -> None:
        honest = served()
        for number in range(len(honest.events)):
            events = honest.events[:number] + honest.events[number + 1 :]
            found = proven(lambda events=events: honest._replace(events=events))  # type: ignore[misc]
            kind = Event.decode(honest.events[number]).kind
            assert found is None or kind in {"delegate", "verdict", "renew"}


class TestWhatAnybodyCanProve:
    """In worlds of fighting miners and changing validators, no choice of true events proves an untruth."""

    @settings(max_examples=300, deadline=None)
    @given(world=worlds(), data=st.data())
    def test_true_events_are_a_proof_if_they_suffice_and_only_then(self, world: World, data: st.DataObject) -> None:
        """A prover takes the votes that it likes, of whatever moments, with whatever electorate there was."""
        whole = Gatherer(world.events)
        at_the_end = electorate(FIRST_BLOCK + 5 * EPOCH, world.end_ms, stakes=dict.fromkeys(VALIDATORS, 10))
        who = data.draw(st.sampled_from((at_the_end, at_the_end, *world.electorates)))
        valid = [(event, judgement) for event, judgement in whole.judged if judgement.payload is not None]
        claims = sorted(
            {add.claim_id for _, judgement in valid for add in judgement.adds},
            key=lambda claim_id: (-len(whole.votes().get(claim_id, [])), claim_id),
        )
        if not claims:
            return
        claim_id = data.draw(st.sampled_from((claims[0], *claims)))
        carriers = [(e, j.adds) for e, j in valid if any(add.claim_id == claim_id for add in j.adds)]
        carrier, adds = data.draw(st.sampled_from(carriers))
        cast: dict[bytes, list[tuple[Event, Verdict]]] = {}
        for event, judgement in valid:
            for said in judgement.payload.verdicts if isinstance(judgement.payload, Verdict | Renew) else ():
                if said.claim_id == claim_id and said.finding != FAILED:
                    cast.setdefault(whole.author(event.log), []).append((event, said))
        votes = {author: data.draw(st.sampled_from([*own, own[-1], None])) for author, own in sorted(cast.items())}
        chosen = {author: vote for author, vote in votes.items() if vote is not None}
        logs = {carrier.log, *(event.log for event, _ in chosen.values())}
        delegations = [e for e, judgement in valid if isinstance(judgement.payload, Delegation) and e.log in logs]
        windows: dict[LogId, Delegation] = {e.log: Delegation.from_wire(codec.unpack(e.payload)) for e in delegations}

        def weighs(author: bytes, event: Event) -> bool:
            alive = any(
                said.hotkey == author and said.not_before * 1000 <= who.time_ms <= said.not_after * 1000
                for said in windows.values()
            )
            return author in who.stakes and alive and hlc_ms(event.hlc) >= who.time_ms - TTL_MS

        stakes = {VERIFIED: 0, ABSTAIN: 0}
        for author, (_, said) in chosen.items():
            stakes[said.finding] += who.stakes.get(author, 0)
        total = sum(who.stakes.values())
        blocks = [add.payload.electorate_block for add in adds if add.claim_id == claim_id]
        request = next(add.payload.request for add in adds if add.claim_id == claim_id)
        registered = who.current.registered.get(request.hotkey)
        holds = (
            registered is not None
            and any(registered <= block <= who.block for block in blocks)
            and whole.author(carrier.log) in who.stakes
            and all(weighs(author, event) for author, (event, _) in chosen.items())
            and stakes[VERIFIED] > (total - stakes[ABSTAIN]) / 2
            and stakes[VERIFIED] * 5 >= total
        )
        event_of = {event.id: event for event in (carrier, *delegations, *(event for event, _ in chosen.values()))}
        try:
            found = proof.check(proof.build(NETWORK, who, claim_id, event_of.values()))
        except ProofError:
            assert not holds
            return
        assert holds
        assert (found.claim_id, found.miner) == (claim_id, request.hotkey)
        assert {gpu.uuid for gpu in found.gpus} <= set(GPUS)
        assert {vote.validator: vote.event_id for vote in found.votes} == {
            author: event.id for author, (event, _) in chosen.items()
        }
        assert (found.verified, found.permitted) == (stakes[VERIFIED], total)

    @settings(max_examples=60, deadline=None)
    @given(world=worlds(), data=st.data())
    def test_what_holds_with_the_latest_votes_is_verified_in_the_inventory(
        self, world: World, data: st.DataObject
    ) -> None:
        """A proof asks for more than the inventory: it may fail for what is verified there, never the other way."""
        whole = Gatherer(world.events)
        who = data.draw(st.sampled_from(world.electorates))
        everyone = Weights(NETWORK, who, {hotkey: Mandate(((0, 2**62),), -(2**62)) for hotkey in who.stakes})
        enrolled = Weights(NETWORK, who, whole.mandates()).enrolled
        for claim_id, votes in whole.votes().items():
            able = [vote for vote in votes if vote.author in enrolled]
            if claim_id in whole.claims() and inventory.tally(able, everyone).status == VERIFIED:
                assert whole.tallies(who)[claim_id].status == VERIFIED


def registration_author(event: Event) -> bytes:
    """Validator 0's key: it wrote the event."""
    assert event.log == Author("//validator0").log
    return hotkey("//validator0").public_key


def test_a_proof_of_a_full_server_is_small() -> None:
    """Twenty voters and eight GPUs, among 256 hotkeys with two pins of them: what a real subnet has."""
    brought = full_server()
    found = proof.check(brought)
    assert (len(found.votes), len(found.gpus), found.verified) == (20, 8, 2000)
    assert len(brought.electorate) > 2 * 256 * 34
    assert len(json.dumps(brought.document())) < 80 * 1024
