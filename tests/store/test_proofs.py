"""The store finds the events that prove a claim, and says why when there are not enough."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import inventory, proof
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED, Carry, Event, Verdict
from p2pnodes.model.inventory import Mandate, Weights
from p2pnodes.model.proof import ProofError, Statement
from p2pnodes.store import proofs
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result
from tests.model.proof_scene import DAY_S, GPU_UUIDS, STAKES, Scene
from tests.model.world import VALIDATORS, World, raw_event, worlds
from tests.support import NETWORK, NOW_MS, NOW_S, Author, delete, electorate, hotkey


def ledger_of(who: Electorate, *logs: Author) -> Ledger:
    """A ledger that holds these logs."""
    ledger = Ledger(open_writer(":memory:"), NETWORK)
    with ledger.transaction():
        ledger.set_electorate(who)
        outcomes = ledger.receive([event for log in logs for event in log.events], NOW_MS + 60_000)
    assert {outcome.result for outcome in outcomes} == {Result.STORED}
    return ledger


def exported(ledger: Ledger, uuid: str = GPU_UUIDS[0]) -> Statement:
    """What the proof of a GPU proves."""
    found = proofs.gather(ledger.facts, uuid, ledger.weights)
    assert found is not None
    return proof.check(found)


def kinds(ledger: Ledger, uuid: str = GPU_UUIDS[0]) -> dict[tuple[bytes, int], list[tuple[int, str]]]:
    """Seq and kind of the events in the proof of a GPU, by log."""
    found = proofs.gather(ledger.facts, uuid, ledger.weights)
    assert found is not None
    by_log: dict[tuple[bytes, int], list[tuple[int, str]]] = {}
    for event in map(Event.decode, found.events):
        by_log.setdefault(event.log, []).append((event.seq, event.kind))
    return by_log


def refused(ledger: Ledger, uuid: str = GPU_UUIDS[0]) -> str:
    """Why there is no proof of a GPU."""
    with pytest.raises(ProofError) as found:
        proofs.gather(ledger.facts, uuid, ledger.weights)
    return str(found.value)


@pytest.fixture
def scene() -> Scene:
    return Scene()


class TestGather:
    """The proof of a GPU holds what makes its claim verified, and nothing else."""

    def test_each_gpu_of_a_claim_has_the_same_proof(self, scene: Scene) -> None:
        ledger = ledger_of(scene.who, *scene.logs.values())
        for uuid in GPU_UUIDS:
            assert proofs.gather(ledger.facts, uuid, ledger.weights) == scene.proof()

    def test_an_unknown_gpu_has_none(self, scene: Scene) -> None:
        ledger = ledger_of(scene.who, *scene.logs.values())
        assert proofs.gather(ledger.facts, "gpu-z", ledger.weights) is None

    def test_a_deleted_gpu_has_none(self, scene: Scene) -> None:
        scene.logs["//validator2"].delete(delete("//Alice", f"nodes:{GPU_UUIDS[0]}", NOW_S + 1), GPU_UUIDS[0])
        ledger = ledger_of(scene.who, *scene.logs.values())
        assert proofs.gather(ledger.facts, GPU_UUIDS[0], ledger.weights) is None
        assert exported(ledger, GPU_UUIDS[1]).verified == 70

    def test_the_latest_votes_are_taken(self, scene: Scene) -> None:
        scene.vote("//validator2")
        scene.vote("//validator2", FAILED)
        scene.vote("//validator3", FAILED)
        again = [scene.vote("//validator3"), scene.vote("//validator0")]
        found = exported(ledger_of(scene.who, *scene.logs.values()))
        assert {vote.event_id for vote in found.votes} == {scene.votes[1].id, again[0].id, again[1].id}
        assert (found.verified, found.weighed) == (80, 100)

    def test_abstentions_are_taken(self, scene: Scene) -> None:
        scene.vote("//validator2", ABSTAIN)
        found = exported(ledger_of(scene.who, *scene.logs.values()))
        assert (found.verified, found.weighed, found.permitted) == (70, 80, 100)

    def test_a_lapsed_vote_is_not_taken(self, scene: Scene) -> None:
        scene.who = electorate(time_ms=NOW_MS + NETWORK.verdict_ttl_s * 1000 + 1, stakes=STAKES)
        for uri in ("//validator0", "//validator2"):
            scene.vote(uri, at_ms=NOW_MS + 1000)
        found = exported(ledger_of(scene.who, *scene.logs.values()))
        assert {vote.stake for vote in found.votes} == {40, 20}

    def test_of_a_renewed_log_the_first_the_then_latest_and_the_latest_delegation_are_taken(self) -> None:
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        log.write(log.delegation(not_before=NOW_S - 9 * DAY_S, not_after=NOW_S), at_ms=NOW_MS - 4000)
        for n in range(3):
            log.write(log.delegation(not_after=NOW_S + DAY_S * (n + 1)), at_ms=NOW_MS - 3000 + n)
        scene.votes[0] = scene.vote("//validator0")
        for n in range(3):
            log.write(log.delegation(not_after=NOW_S + DAY_S * (n + 10)), at_ms=NOW_MS + 1 + n)
        ledger = ledger_of(scene.who, *scene.logs.values())
        assert kinds(ledger)[log.log] == [(0, "delegate"), (3, "delegate"), (4, "verdict"), (7, "delegate")]

    def test_a_validator_that_moved_to_a_new_log_is_enrolled_by_it(self) -> None:
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        log.write(log.delegation(not_after=NOW_S - 10), at_ms=NOW_MS - 30_000)
        scene.votes[0] = scene.vote("//validator0", at_ms=NOW_MS - 20_000)
        moved = scene.logs["moved"] = Author("//validator0", number=1)
        moved.delegate()
        moved.write(moved.delegation(not_after=NOW_S + 5))
        ledger = ledger_of(scene.who, *scene.logs.values())
        assert kinds(ledger)[moved.log] == [(0, "delegate"), (1, "delegate")]
        assert exported(ledger).verified == 70

    def test_a_carry_serves_where_the_adds_author_has_no_permit_any_more(self, scene: Scene) -> None:
        log = scene.logs["//validator2"]
        log.write(Carry((scene.registration.wire,)))
        ledger = ledger_of(scene.who, *scene.logs.values())
        assert kinds(ledger)[scene.registration.log] == [(0, "delegate"), (1, "add")]
        with ledger.transaction():
            ledger.set_electorate(electorate(stakes={uri: STAKES[uri] for uri in STAKES if uri != "//validator3"}))
        assert exported(ledger).carrier == hotkey("//validator2").public_key
        assert kinds(ledger)[log.log] == [(0, "delegate"), (1, "carry")]

    def test_a_carriage_that_knows_the_miners_registration_is_taken(self, scene: Scene) -> None:
        scene.logs["//validator2"].add(scene.request, block=200)
        pin = scene.who.current
        registered = {**pin.registered, hotkey("//Alice").public_key: 150}
        ledger = ledger_of(Electorate(pin._replace(block=200, registered=registered)), *scene.logs.values())
        assert exported(ledger).carrier == hotkey("//validator2").public_key

    def test_void_events_in_a_log_do_not_hide_a_vote(self) -> None:
        """Their HLCs say nothing about where a valid event is."""
        scene = Scene()
        log = scene.logs["//validator0"] = Author("//validator0")
        log.delegate()
        for n in range(9):
            raw_event(log, "verdict", b"\xc0", hlc_at(NOW_MS - 500_000 * n))
            if n == 4:
                scene.votes[0] = scene.vote("//validator0", at_ms=NOW_MS + 1000)
        for n in range(4):
            raw_event(log, "tomorrow", b"\xc0", hlc_at(NOW_MS + 1001 + n))
            log.write(Verdict(bytes([n]) * 32, FAILED, "test", "", None), hlc=hlc_at(NOW_MS + 2000 + n))
        assert exported(ledger_of(scene.who, *scene.logs.values())).verified == 70


class TestRefusal:
    """Where what is held proves nothing, the numbers are told."""

    def test_a_pending_gpu(self, scene: Scene) -> None:
        logs = [log for uri, log in scene.logs.items() if uri != "//validator0"]
        assert refused(ledger_of(scene.who, *logs[1:])) == (
            "no proof for GPU gpu-a: there is no verdict that verifies the claim; it is pending in the inventory, "
            "which weighs enrolled stake alone"
        )
        reason = refused(ledger_of(electorate(stakes=dict.fromkeys(STAKES, 10)), *logs))
        assert "a stake of 10 verified the claim; needed is 21, more than 50 % of 40 and at least 20 % of 40" in reason

    def test_a_gpu_that_only_enrolled_stake_verifies(self, scene: Scene) -> None:
        """Validators 0 and 2 never enrolled, so that the inventory counts 30 of 40."""
        logs = [scene.logs["//validator1"], scene.logs["//validator3"]]
        reason = refused(ledger_of(scene.who, *logs))
        assert "a stake of 30 verified the claim; needed is 51" in reason
        assert reason.endswith("it is verified in the inventory, which weighs enrolled stake alone")

    def test_a_failed_gpu(self, scene: Scene) -> None:
        for uri in STAKES:
            scene.vote(uri, FAILED)
        assert "it is failed in the inventory" in refused(ledger_of(scene.who, *scene.logs.values()))


class TestWorlds:
    """In worlds of fighting miners and changing validators."""

    @settings(max_examples=80, deadline=None)
    @given(world=worlds(), at_the_end=st.booleans())
    def test_a_gpu_has_a_proof_if_the_latest_votes_suffice_without_knowing_who_is_enrolled(
        self, world: World, at_the_end: bool
    ) -> None:
        ledger = Ledger(open_writer(":memory:"), NETWORK)
        late = electorate(10_000, world.end_ms, stakes=dict.fromkeys(VALIDATORS, 10))
        with ledger.transaction():
            ledger.set_electorate(late)
            ledger.receive(world.events, world.end_ms)
        if not at_the_end:
            with ledger.transaction():
                ledger.set_electorate(world.electorates[-1])
        who, facts = ledger.weights.electorate, ledger.facts
        everyone = Weights(NETWORK, who, dict.fromkeys(who.stakes, Mandate(((0, 2**62),), -(2**62))))
        rows = facts.connection.execute("SELECT uuid, claim, status FROM node").fetchall()
        for uuid, key, status in rows:
            able = [vote for vote in facts.votes([key])[key] if vote.author in ledger.weights.enrolled]
            suffices = inventory.tally(able, everyone).status == VERIFIED
            try:
                found = proofs.gather(facts, uuid, ledger.weights)
            except ProofError:
                assert not suffices
            else:
                assert found is not None
                assert suffices
                assert status == VERIFIED
                assert uuid in {gpu.uuid for gpu in proof.check(found).gpus}


async def test_the_database_hands_proofs_out_beside_its_writer(scene: Scene, tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: NOW_MS)
    await database.set_electorate(scene.who)
    await database.receive([event for log in scene.logs.values() for event in log.events], NOW_MS)
    assert await database.proof(GPU_UUIDS[1]) == scene.proof()
    assert await database.proof("gpu-z") is None
    await database.close()
