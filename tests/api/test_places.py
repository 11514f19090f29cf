"""Chutes on GPUs, from the operator's word on the admin socket to what miners read; on a real database."""

import pytest

from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import Place
from p2pnodes.model.inventory import Chute
from p2pnodes.store.database import Database
from tests.api.conftest import Tell
from tests.api.support import ALICE, NOW_S, VALIDATOR, Clock, Miner, claim_id_of, gpu, server

PUBLIC = {"chute_id": "c-1", "instance_id": "i-1", "name": "llama", "username": "ann", "verified": True}
PRIVATE = {"chute_id": "c-2", "instance_id": "i-2", "private": True, "name": "secret-model", "username": "secret-user"}
UUIDS = [gpu(index)["uuid"] for index in range(3)]


@pytest.fixture
async def claim_id(alice: Miner, db: Database) -> bytes:
    """Alice's three H100s."""
    return await claim_id_of(db, (await alice.post(server(3))).body["task_id"])


@pytest.fixture
async def bobs(bob: Miner, db: Database) -> bytes:
    """Bob's two H100s."""
    return await claim_id_of(db, (await bob.post(server(2, 10))).body["task_id"], bob.hotkey)


class TestWhatMinersRead:
    """Both views count what is placed; private chutes show neither name nor user, to nobody."""

    async def test_placed_gpus_are_provisioned_and_listed(self, tell: Tell, alice: Miner, claim_id: bytes) -> None:
        before = (await alice.get("/nodes/")).headers["ETag"]
        placed = await tell("/place", {"uuids": UUIDS[:1], **PUBLIC})
        assert placed.status == 200
        assert (await alice.get("/nodes/")).body == {"h100_sxm": {"provisioned": 1, "idle": 2}}
        assert (await alice.get("/nodes/", {"If-None-Match": before})).status == 200
        found = (await alice.get("/nodes/?detailed=true")).body[ALICE.address]
        chute = {key: PUBLIC[key] for key in ("chute_id", "instance_id", "name", "username", "verified")}
        assert found == {"provisioned": [{"gpu": "h100_sxm", "chute": chute}], "idle": {"h100_sxm": 2}}

    async def test_private_chutes_are_masked_and_their_names_are_in_no_event(
        self, tell: Tell, alice: Miner, claim_id: bytes, db: Database
    ) -> None:
        assert (await tell("/place", {"uuids": UUIDS[:1], **PRIVATE})).status == 200
        (found,) = (await alice.get("/nodes/?detailed=true")).body[ALICE.address]["provisioned"]
        assert found["chute"] == {
            "username": None,
            "name": "[private chute]",
            "chute_id": "c-2",
            "instance_id": "i-2",
            "verified": False,
        }
        (log_id,) = db.state.logs
        assert not [wire for wire in await db.read_log(log_id, 0, 1_000_000) if b"secret" in wire]

    async def test_released_gpus_are_idle_again(self, tell: Tell, alice: Miner, db: Database, claim_id: bytes) -> None:
        await tell("/place", {"uuids": UUIDS, **PUBLIC})
        assert (await tell("/release", {"uuids": UUIDS[1:]})).status == 200
        assert (await alice.get("/nodes/")).body == {"h100_sxm": {"provisioned": 1, "idle": 2}}
        words = await db.query("placements", {"claim_id": claim_id.hex(), "validator": VALIDATOR.address}, 10)
        assert {row["uuid"]: row["placed"] for row in words} == dict(zip(UUIDS, (1, 0, 0), strict=True))

    async def test_a_chute_does_not_outlive_its_claim(
        self, tell: Tell, alice: Miner, bob: Miner, claim_id: bytes, clock: Clock
    ) -> None:
        await tell("/place", {"uuids": UUIDS[:1], **PUBLIC})
        clock.s += 1
        assert (await alice.delete(UUIDS[0])).status == 200
        assert (await bob.post(server(1))).status == 202
        assert (await alice.get("/nodes/")).body == {"h100_sxm": {"provisioned": 0, "idle": 3}}

    async def test_what_was_placed_under_a_claim_that_is_not_known_here_is_told_of_and_taken_back(
        self, tell: Tell, db: Database, clock: Clock
    ) -> None:
        """As when its author lost the permit, and its log is gone: it comes back when others carry it."""
        chute = Chute("c-1", "i-1", verified=True, public=True, name="llama", username="ann")
        await db.write(lambda ledger: ledger.append(lambda _: Place(bytes(32), ("gpu-1",), *chute), NOW_S * 1000))
        told = (await tell("/nodes/gpu-1")).body
        assert [(each["claim_id"], each["chute"]["chute_id"]) for each in told["placements"]] == [("00" * 32, "c-1")]
        assert (told["owner"], told["claims"]) == (None, [])
        assert [each["what"] for each in told["history"]] == ["place"]
        (written,) = (await tell("/release", {"uuids": ["gpu-1"]})).body["written"]
        assert (written["claim_id"], written["uuids"]) == ("00" * 32, ["gpu-1"])
        (said,) = (await tell("/nodes/gpu-1")).body["placements"]
        assert said["state"] == "released"


class TestAnswers:
    """What was written is told, claim by claim; what was said before is not written again."""

    async def test_one_event_for_each_claim(self, tell: Tell, db: Database, claim_id: bytes, bobs: bytes) -> None:
        theirs = [gpu(10)["uuid"], gpu(11)["uuid"]]
        events = db.state.events
        told = await tell("/place", {"uuids": [*UUIDS, *theirs], **PUBLIC})
        assert [(each["claim_id"], each["uuids"]) for each in told.body["written"]] == [
            (claim_id.hex(), UUIDS),
            (bobs.hex(), theirs),
        ]
        rows = await db.query("event_log", {"kind": "place"}, 10)
        assert [each["event_id"] for each in told.body["written"]] == [row["id"] for row in rows]
        assert {key: told.body[key] for key in ("unchanged", "validator", "enrolled", "warning")} == {
            "unchanged": [],
            "validator": VALIDATOR.address,
            "enrolled": True,
            "warning": None,
        }
        assert db.state.events == events + 2

    @pytest.mark.parametrize("route", ["/place", "/release"])
    async def test_a_repeated_command_changes_nothing(
        self, tell: Tell, db: Database, claim_id: bytes, route: str
    ) -> None:
        await tell("/place", {"uuids": UUIDS, **PUBLIC})
        body = {"uuids": UUIDS} | (PUBLIC if route == "/place" else {})
        await tell(route, body)
        events = db.state.events
        again = await tell(route, body)
        assert (again.status, again.body["written"], again.body["unchanged"]) == (200, [], UUIDS)
        assert db.state.events == events

    async def test_unknown_gpus_are_404_by_name_and_nothing_is_written(
        self, tell: Tell, db: Database, claim_id: bytes
    ) -> None:
        events = db.state.events
        told = await tell("/place", {"uuids": [*UUIDS, "gpu-x"], **PUBLIC})
        assert (told.status, told.detail) == (404, "not in the inventory: gpu-x; nothing was placed")
        told = await tell("/release", {"uuids": UUIDS[:1]})
        assert told.status == 404
        assert told.detail == (f"nothing was ever placed there by this validator: {UUIDS[0]}; nothing was released")
        assert db.state.events == events

    async def test_while_writes_are_refused_it_is_503_with_the_reason(
        self, tell: Tell, db: Database, claim_id: bytes
    ) -> None:
        db.ledger.writes_refused = "own head not heard"
        told = await tell("/place", {"uuids": UUIDS, **PUBLIC})
        assert (told.status, told.detail) == (503, "own head not heard")
        assert told.headers["Retry-After"] == "5"

    async def test_a_validator_that_is_not_enrolled_is_warned(
        self, tell: Tell, alice: Miner, db: Database, claim_id: bytes
    ) -> None:
        held = db.electorate.current
        late = Pin(200, (NOW_S + 90_000) * 1000, held.validators, held.registered, {})  # its delegation ended before
        await db.set_electorate(Electorate(late, held))
        told = await tell("/place", {"uuids": UUIDS, **PUBLIC})
        assert (told.status, told.body["enrolled"]) == (200, False)
        assert told.body["warning"] == (
            f"{VALIDATOR.address} is not enrolled (no permit, or no live delegation): what it places does not count"
        )
        assert (await alice.get("/nodes/")).body == {"h100_sxm": {"provisioned": 0, "idle": 3}}
