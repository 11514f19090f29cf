"""Why a claim or a GPU is where it is, as operators read it; on a real database."""

import pytest

from p2pnodes.api import explanations
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.store.database import Database
from tests.api.conftest import Tell
from tests.api.support import ALICE, NOW_S, VALIDATOR, Clock, Miner, claim_id_of, gpu, place, server, vote

UUIDS = [gpu(index)["uuid"] for index in range(3)]


@pytest.fixture
async def claim_id(alice: Miner, db: Database) -> bytes:
    """Alice's three H100s."""
    return await claim_id_of(db, (await alice.post(server(3))).body["task_id"])


class TestLookups:
    """One claim and one GPU, explained."""

    async def test_a_claim_tells_its_vote_and_what_is_missing(
        self, tell: Tell, db: Database, clock: Clock, claim_id: bytes
    ) -> None:
        told = await tell(f"/claims/{claim_id.hex()}")
        assert told.status == 200
        assert told.body["task"] == {"status": "pending", "detail": ""}
        vote_ = told.body["vote"]
        # The only validator is new: until it votes, nothing is weighed.
        assert (vote_["enrolled_stake"], vote_["weighed_stake"], vote_["verified_stake"]) == (100, 0, 0)
        assert vote_["missing"] == {"quorum": 1, "share": 20, "failed": 1}
        assert [(v["validator"], v["stake"], v["state"], v["finding"]) for v in told.body["votes"]] == [
            (VALIDATOR.address, 100, "new", None)
        ]
        await vote(db, clock, claim_id, "failed", "no such GPU")
        told = await tell(f"/claims/{ALICE.address}::{claim_id.hex()[:32]}")
        assert told.body["task"] == {"status": "failed", "detail": "no such GPU"}
        (voice,) = told.body["votes"]
        assert (voice["state"], voice["finding"], voice["method"], voice["detail"], voice["weighed"]) == (
            "counts", "failed", "none", "no such GPU", True,
        )  # fmt: skip
        assert voice["at"] == "2027-01-15T08:00:00.000Z"
        assert told.body["vote"]["missing"] == {"quorum": 51, "share": 20, "failed": 0}
        assert [(each["uuid"], each["state"], each["owner"]["status"]) for each in told.body["gpus"]] == [
            (uuid, "owner", "failed") for uuid in UUIDS
        ]
        assert (await tell(f"/claims/{claim_id.hex()[:32].upper()}")).body == told.body

    async def test_a_gpu_tells_its_claims_deletions_chutes_and_history(
        self, tell: Tell, alice: Miner, bob: Miner, *, db: Database, clock: Clock, claim_id: bytes
    ) -> None:
        await place(db, clock, claim_id, UUIDS[0], public=True)
        clock.s += 1
        assert (await alice.delete(UUIDS[0])).status == 200
        second = await claim_id_of(db, (await bob.post(server(1))).body["task_id"], bob.hotkey)
        clock.s += 1
        await vote(db, clock, second, "verified")
        told = (await tell(f"/nodes/{UUIDS[0]}")).body
        assert (told["owner"]["claim_id"], told["owner"]["status"], told["rule"]) == (
            second.hex(), "verified", "the only standing claim",
        )  # fmt: skip
        assert told["owner"]["chute"] is None
        first, other = told["claims"]
        assert (first["claim_id"], first["state"], other["claim_id"], other["state"]) == (
            claim_id.hex(), "deleted", second.hex(), "owner",
        )  # fmt: skip
        (deletion,) = told["deletions"]
        assert first["ended_by"] == {"request_id": deletion["request_id"], "nonce": NOW_S + 1}
        assert f"of nonce {NOW_S + 1}, with a higher nonce" in first["why"]
        assert (deletion["state"], deletion["authors"]) == ("counts", [VALIDATOR.address])
        (placement,) = told["placements"]
        assert (placement["state"], placement["chute"]["name"]) == ("claim does not own the GPU", "chat")
        assert [each["what"] for each in told["history"]] == ["add", "place", "add", "delete", "verified"]

    async def test_a_miner_that_is_gone_is_the_reason(self, tell: Tell, db: Database, claim_id: bytes) -> None:
        held = db.electorate.current
        await db.set_electorate(Electorate(Pin(200, held.time_ms + 1, held.validators, {}, {}), held))
        told = (await tell(f"/nodes/{UUIDS[0]}")).body
        assert (told["owner"], told["rule"]) == (None, "no claim stands")
        (found,) = told["claims"]
        assert (found["state"], found["why"]) == (
            "miner not registered", "its miner is not registered at block 200",
        )  # fmt: skip
        told = (await tell(f"/claims/{claim_id.hex()}")).body
        assert (told["counts"], told["why"]) == (False, "its miner is not registered at block 200")

    async def test_a_miner_that_came_back_later_is_told_to_register_again(
        self, tell: Tell, db: Database, claim_id: bytes
    ) -> None:
        held = db.electorate.current
        came_back = {**held.registered, ALICE.public_key: 150}
        await db.set_electorate(Electorate(Pin(200, held.time_ms + 1, held.validators, came_back, {}), held))
        (found,) = (await tell(f"/nodes/{UUIDS[0]}")).body["claims"]
        assert found["state"] == "miner registered later"
        assert found["why"].startswith("its miner registered at block 150, above 100, the highest electorate block")

    async def test_a_claim_that_nobody_permitted_carries_says_so(
        self, tell: Tell, db: Database, claim_id: bytes
    ) -> None:
        held = db.electorate.current
        strangers = {bytes(32): 1}
        pins = [Pin(block, held.time_ms + block, strangers, held.registered, {}) for block in (200, 300)]
        await db.set_electorate(Electorate(pins[1], pins[0]))
        told = (await tell(f"/claims/{claim_id.hex()}")).body
        assert told["why"] == (
            "no event that carries it counts: of 1, 0 name an electorate above block 300, the others' authors hold no "
            "permit"
        )
        assert [each["state"] for each in told["carriages"]] == ["author not permitted"]

    async def test_long_lists_are_cut_and_say_so(
        self, tell: Tell, alice: Miner, claim_id: bytes, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(explanations, "LISTED_MAX", 2)
        for _ in range(3):
            clock.s += 1
            assert (await alice.delete(UUIDS[0])).status == 200
            clock.s += 1
            assert (await alice.post(server(1))).status == 202
        told = (await tell(f"/nodes/{UUIDS[0]}")).body
        assert [each["state"] for each in told["claims"]] == ["deleted", "owner"]
        assert told["left_out"] == {"claims": 2, "deletions": 1, "placements": 0, "history": 5}
        assert [each["what"] for each in told["history"]] == ["delete", "add"]
        assert len(told["deletions"]) == 2

    @pytest.mark.parametrize(
        ("route", "status"),
        [
            ("/nodes/gpu-x", 404),
            ("/nodes/a%2Fb", 404),
            ("/nodes/%00", 404),
            ("/nodes/" + "x" * 300, 404),
            ("/claims/" + "00" * 32, 404),
            (f"/claims/{ALICE.address}::{'00' * 16}", 404),
        ],
    )
    async def test_what_is_unknown_is_404(self, tell: Tell, claim_id: bytes, route: str, status: int) -> None:
        assert (await tell(route)).status == status

    async def test_a_uuid_with_a_slash_is_found(self, tell: Tell, alice: Miner) -> None:
        assert (await alice.post({"nodes": [gpu(0, uuid="a/b?c%d")]})).status == 202
        told = await tell("/nodes/a%2Fb%3Fc%25d")
        assert (told.status, told.body["uuid"]) == (200, "a/b?c%d")
