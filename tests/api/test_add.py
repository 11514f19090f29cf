"""POST /nodes/: the accepted answer, every refusal with its text, and the order of the checks."""

import asyncio
import re
from typing import Any

import pytest

from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.events import VERIFIED
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import (
    ALICE,
    MALLORY,
    Clock,
    FakeResolver,
    Miner,
    claim_id_of,
    encode,
    fingerprint,
    gpu,
    server,
    vote,
)

HOSTS = "One or more invalid verification_hosts provided."
SPECS = "GPU parameter validation error: "
EXISTS = "Nodes already exist in inventory, please contact chutes team to resolve: "


class TestAccepted:
    """202 carries the full node objects."""

    async def test_the_answer_has_every_column_in_request_order(self, alice: Miner) -> None:
        answer = await alice.post({"server_id": None, "server_name": "rack", "nodes": [gpu(3), gpu(1)], "extra": [1]})
        assert answer.status == 202
        assert re.fullmatch(rf"{ALICE.address}::[0-9a-f]{{32}}", answer.body["task_id"])
        first, second = answer.body["nodes"]
        assert (first["uuid"], second["uuid"]) == (gpu(3)["uuid"], gpu(1)["uuid"])
        assert re.fullmatch(r"2027-01-15T08:00:00\.\d{6}\+00:00", first["created_at"])
        assert first == {
            **gpu(3),
            "miner_hotkey": ALICE.address,
            "server_id": None,
            "seed": second["seed"],
            "created_at": second["created_at"],
            "verified_at": None,
            "verification_error": None,
            "instance": None,
        }

    async def test_a_server_name_and_id_may_be_left_out(self, alice: Miner) -> None:
        answer = await alice.post({"nodes": [gpu()]})
        assert (answer.status, answer.body["nodes"][0]["server_id"]) == (202, None)

    async def test_json_may_come_without_a_content_type_or_with_a_json_like_one(self, alice: Miner) -> None:
        assert (await alice.post(server(1), {"Content-Type": "application/vnd.miner+json"})).status == 202
        assert (await alice.post(server(1, 1), {"Content-Type": "application/json; charset=utf-8"})).status == 202
        assert (await alice.post(server(1, 2), {"Content-Type": ""})).status == 202

    async def test_authorization_beside_a_signature_is_ignored(self, alice: Miner) -> None:
        assert (await alice.post(server(1), {"Authorization": "Bearer x"})).status == 202

    async def test_ten_gpus_are_accepted(self, alice: Miner) -> None:
        assert (await alice.post(server(10))).status == 202


class TestRetry:
    """A retry is free (rule 2)."""

    async def test_the_same_signed_request_is_the_same_claim_and_writes_nothing(
        self, alice: Miner, db: Database, clock: Clock
    ) -> None:
        body = encode(server(8))
        headers = alice.signed(body)
        first = await alice.post(body, headers)
        before = await fingerprint(db)
        clock.s += 599
        again = await alice.post(body, headers)
        assert (again.status, again.body) == (202, first.body)
        assert await fingerprint(db) == before

    async def test_the_same_signed_request_many_times_at_once_is_one_claim(self, alice: Miner, db: Database) -> None:
        body = encode(server(8))
        headers = alice.signed(body)
        events = db.state.events
        answers = await asyncio.gather(*(alice.post(body, headers) for _ in range(20)))
        assert {answer.status for answer in answers} == {202}
        assert len({answer.body["task_id"] for answer in answers}) == 1
        assert db.state.events == events + 1

    async def test_a_retry_finds_its_claim_though_its_hosts_name_is_gone(
        self, alice: Miner, resolver: FakeResolver
    ) -> None:
        body = server(2, verification_host="public.example")
        first = await alice.post(body)
        resolver.names.clear()
        again = await alice.post(body)
        assert (again.status, again.body) == (202, first.body)

    async def test_a_retry_shows_what_became_of_the_claim(self, alice: Miner, db: Database, clock: Clock) -> None:
        first = await alice.post(server(1))
        await vote(db, clock, await claim_id_of(db, first.body["task_id"]), VERIFIED)
        again = await alice.post(server(1))
        assert again.body["task_id"] == first.body["task_id"]
        assert re.fullmatch(r"2027-01-15T08:00:00\.\d{6}\+00:00", again.body["nodes"][0]["verified_at"])

    async def test_a_replay_after_the_gpus_were_deleted_brings_nothing_back(
        self, alice: Miner, db: Database, clock: Clock
    ) -> None:
        body = encode(server(1))
        headers = alice.signed(body)
        assert (await alice.post(body, headers)).status == 202
        clock.s += 1
        assert (await alice.delete(gpu()["uuid"])).status == 200
        before = await fingerprint(db)
        assert (await alice.post(body, headers)).status == 202
        assert await fingerprint(db) == before
        assert db.state.nodes == 0

    async def test_a_signed_request_is_worthless_to_another_hotkey_or_for_another_body(
        self, alice: Miner, bob: Miner, db: Database
    ) -> None:
        body = encode(server(1))
        stolen = alice.signed(body)
        before = await fingerprint(db)
        assert (await bob.post(body, {**stolen, "X-Chutes-Hotkey": bob.hotkey.address})).status == 401
        assert (await bob.post(encode(server(2)), stolen)).status == 401
        assert await fingerprint(db) == before

    async def test_after_600_seconds_a_nonce_is_stale_and_the_body_signed_anew_a_conflict(
        self, alice: Miner, clock: Clock
    ) -> None:
        nonce = str(int(clock()))
        assert (await alice.post(server(1), nonce=nonce)).status == 202
        clock.s += 600
        assert (await alice.post(server(1), nonce=nonce)).detail == "Invalid nonce!"
        answer = await alice.post(server(1))
        assert (answer.status, answer.detail) == (409, f"{EXISTS}{[gpu()['uuid']]}")


class TestRefused:
    """Every refusal with upstream's status and text; nothing is written."""

    @pytest.mark.parametrize(
        ("changes", "detail"),
        [
            ({"name": "NVIDIA Riva 128"}, "GPU model in name 'NVIDIA Riva 128' not found in supported GPUs"),
            ({"memory": 70_000_000_000}, "Memory 70GB does not match expected 80GB for h100_sxm"),
            ({"processors": 114}, "Processor count 114 does not match expected 132 for h100_sxm"),
            ({"clock_rate": 1_000_000}, "Clock rate 1000MHz not within expected range 1590-1980MHz for h100_sxm"),
            ({"clock_rate": -1e300}, "Clock rate -"),
            ({"verification_port": 79}, "Invalid verification_port: 79"),
            ({"verification_port": 65536}, "Invalid verification_port: 65536"),
            ({"gpu_identifier": "a100"}, "GPU identifier a100 does not match model name identifier: h100_sxm"),
        ],
    )
    async def test_a_gpu_that_does_not_fit_the_table_is_400(
        self, alice: Miner, db: Database, changes: dict[str, Any], detail: str
    ) -> None:
        before = await fingerprint(db)
        answer = await alice.post({**server(1), "nodes": [gpu(), gpu(1, **changes)]})
        assert answer.status == 400
        assert answer.detail.startswith(SPECS + detail)
        assert await fingerprint(db) == before

    @pytest.mark.parametrize(
        "host",
        [
            "", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fe80::1", "93.184.216.34:80", "http://public.example",
            "unresolvable.example", "private.example", "half.example", "a b", "-", "x" * 255,
        ],
    )  # fmt: skip
    async def test_a_host_that_is_not_public_is_400(
        self, alice: Miner, db: Database, resolver: FakeResolver, host: str
    ) -> None:
        resolver.names |= {"private.example": ["192.168.1.1"], "half.example": ["93.184.216.34", "10.0.0.1"]}
        before = await fingerprint(db)
        answer = await alice.post({**server(1), "nodes": [gpu(), gpu(1, verification_host=host)]})
        assert (answer.status, answer.detail) == (400, HOSTS)
        assert await fingerprint(db) == before

    async def test_a_name_that_does_not_answer_in_time_is_400(self, make_client: MakeClient, clock: Clock) -> None:
        alice = Miner(await make_client(ApiSettings(dns_timeout_s=0.01)), clock)
        answer = await alice.post(server(1, verification_host="hang.example"))
        assert (answer.status, answer.detail) == (400, HOSTS)

    async def test_eleven_gpus_are_400(self, alice: Miner) -> None:
        answer = await alice.post(server(11))
        assert (answer.status, answer.detail) == (400, "Limit is 10 GPUs per server.")

    async def test_a_uuid_twice_is_400(self, alice: Miner) -> None:
        answer = await alice.post({"nodes": [gpu(1), gpu(0), gpu(1)]})
        assert (answer.status, answer.detail) == (400, f"Duplicate node uuids in request: {[gpu(1)['uuid']]}")

    async def test_ones_own_standing_claim_is_409_and_names_the_gpus(self, alice: Miner) -> None:
        await alice.post(server(2))
        answer = await alice.post({**server(3), "server_name": "other"})
        assert (answer.status, answer.detail) == (409, f"{EXISTS}{[gpu(0)['uuid'], gpu(1)['uuid']]}")

    async def test_anothers_unverified_claim_is_no_conflict(self, alice: Miner, bob: Miner) -> None:
        first, second = await alice.post(server(1)), await bob.post(server(1))
        assert (first.status, second.status) == (202, 202)
        assert first.body["task_id"] != second.body["task_id"]

    async def test_two_who_claim_one_gpu_at_once_are_decided_by_the_vote(
        self, alice: Miner, bob: Miner, db: Database, clock: Clock
    ) -> None:
        first, second = await asyncio.gather(alice.post(server(1)), bob.post(server(1)))
        assert (first.status, second.status) == (202, 202)
        await vote(db, clock, await claim_id_of(db, second.body["task_id"], bob.hotkey), VERIFIED)
        assert (await bob.status(second.body["task_id"])).body == {"status": "verified"}
        lost = (await alice.status(first.body["task_id"])).body
        assert lost["status"] == "failed"
        assert lost["detail"]
        assert list((await alice.get("/nodes/?detailed=true")).body) == [bob.hotkey.address]

    async def test_anothers_verified_claim_is_409(self, alice: Miner, bob: Miner, db: Database, clock: Clock) -> None:
        claim_id = await claim_id_of(db, (await alice.post(server(1))).body["task_id"])
        await vote(db, clock, claim_id, VERIFIED)
        answer = await bob.post(server(2))
        assert (answer.status, answer.detail) == (409, f"{EXISTS}{[gpu(0)['uuid']]}")

    async def test_a_post_older_than_a_delete_of_its_gpu_is_409_and_names_both_nonces(
        self, alice: Miner, clock: Clock
    ) -> None:
        deleted = str(int(clock()) + 30)
        await alice.post(server(1))
        assert (await alice.delete(gpu()["uuid"], nonce=deleted)).status == 200
        older = str(int(clock()) + 29)
        answer = await alice.post({**server(1), "server_name": "again"}, nonce=older)
        assert answer.status == 409
        assert older in answer.detail
        assert deleted in answer.detail


class TestFields:
    """422 in FastAPI's shape, as pydantic 2 writes it."""

    @pytest.mark.parametrize(
        ("changes", "kind", "field"),
        [
            ({"uuid": None}, "missing", "uuid"),
            ({"memory": "many"}, "int_parsing", "memory"),
            ({"memory": 1.5}, "int_from_float", "memory"),
            ({"memory": 2**63}, "less_than_equal", "memory"),
            ({"memory": True}, "value_error", "memory"),
            ({"clock_rate": "fast"}, "float_parsing", "clock_rate"),
            ({"clock_rate": [1]}, "float_type", "clock_rate"),
            ({"name": 7}, "string_type", "name"),
            ({"name": "x" * 257}, "string_too_long", "name"),
            ({"sxm": "maybe"}, "bool_parsing", "sxm"),
            ({"device_index": -1}, "greater_than_equal", "device_index"),
            ({"device_index": 10}, "less_than_equal", "device_index"),
            ({"processors": 2**31}, "less_than_equal", "processors"),
            ({"verification_port": 2**31}, "less_than_equal", "verification_port"),
            ({"uuid": ""}, "string_too_short", "uuid"),
            ({"uuid": "x" * 65}, "string_too_long", "uuid"),
            ({"uuid": "a b"}, "value_error", "uuid"),
            ({"uuid": "a\n"}, "value_error", "uuid"),
            ({"name": "H100\0"}, "value_error", "name"),
        ],
    )
    async def test_a_wrong_value_is_named_by_its_place(
        self, alice: Miner, db: Database, changes: dict[str, Any], kind: str, field: str
    ) -> None:
        before = await fingerprint(db)
        answer = await alice.post({"server_name": "s", "nodes": [gpu(), gpu(1, **changes)]})
        assert answer.status == 422
        (entry,) = answer.detail
        assert (entry["type"], entry["loc"]) == (kind, ["body", "nodes", 1, field])
        assert entry["msg"]
        assert entry["input"] == changes[field] or kind == "missing"
        assert set(entry) <= {"type", "loc", "msg", "input", "ctx"}
        assert await fingerprint(db) == before

    @pytest.mark.parametrize(
        ("body", "entry"),
        [
            (b'{"nodes": [],', {"type": "json_invalid", "loc": ["body", 13], "msg": "JSON decode error", "input": {},
             "ctx": {"error": "Expecting property name enclosed in double quotes"}}),
            (b"", {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}),
            (b"null", {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}),
            (b"{}", {"type": "missing", "loc": ["body", "nodes"], "msg": "Field required", "input": {}}),
            (b'{"nodes":[]}', {"type": "too_short", "loc": ["body", "nodes"], "input": [],
             "msg": "List should have at least 1 item after validation, not 0",
             "ctx": {"field_type": "List", "min_length": 1, "actual_length": 0}}),
            (b'{"nodes":7}', {"type": "list_type", "loc": ["body", "nodes"], "msg": "Input should be a valid list",
             "input": 7}),
            (b'{"nodes":[7]}', {"type": "model_attributes_type", "loc": ["body", "nodes", 0], "input": 7,
             "msg": "Input should be a valid dictionary or object to extract fields from"}),
            (b"[]", {"type": "model_attributes_type", "loc": ["body"], "input": [],
             "msg": "Input should be a valid dictionary or object to extract fields from"}),
        ],
    )  # fmt: skip
    async def test_a_body_of_the_wrong_shape_is_answered_as_upstream_does(
        self, alice: Miner, body: bytes, entry: dict[str, Any]
    ) -> None:
        answer = await alice.post(body)
        assert (answer.status, answer.detail) == (422, [entry])

    async def test_a_null_server_name_is_422(self, alice: Miner) -> None:
        answer = await alice.post({**server(1), "server_name": None})
        assert answer.status == 422
        assert [(entry["type"], entry["loc"]) for entry in answer.detail] == [("string_type", ["body", "server_name"])]

    async def test_another_content_type_makes_the_body_a_text(self, alice: Miner) -> None:
        answer = await alice.post(server(1), {"Content-Type": "text/plain"})
        assert answer.status == 422
        assert [(entry["type"], entry["loc"]) for entry in answer.detail] == [("model_attributes_type", ["body"])]

    async def test_a_thousand_errors_are_answered_with_a_bounded_list(self, alice: Miner) -> None:
        answer = await alice.post({"nodes": [{}] * 400})
        assert answer.status == 422
        assert len(answer.detail) == 64

    async def test_numbers_may_be_texts_as_upstream_takes_them(self, alice: Miner) -> None:
        answer = await alice.post(server(1, memory="85045542912", clock_rate="1980000", device_index=0.0, sxm="true"))
        assert answer.status == 202
        assert answer.body["nodes"][0]["memory"] == 85_045_542_912


class TestOrder:
    """Checks run in the order of compat.md, section 2: each case is wrong twice and says which it is told."""

    async def test_json_comes_before_auth(self, alice: Miner) -> None:
        answer = await alice.send("POST", "/nodes/", {"Content-Type": "application/json"}, b"{")
        assert answer.status == 422
        assert answer.detail[0]["type"] == "json_invalid"

    async def test_nonce_comes_before_hex(self, alice: Miner) -> None:
        answer = await alice.post(server(1), {"X-Chutes-Nonce": "soon", "X-Chutes-Signature": "zz"})
        assert (answer.status, answer.detail) == (401, "Invalid nonce!")

    async def test_hex_comes_before_the_signature(self, alice: Miner) -> None:
        answer = await alice.post(server(1), {"X-Chutes-Hotkey": "nobody", "X-Chutes-Signature": "zz"})
        assert answer.status == 401
        assert answer.detail.startswith("Invalid signature: zz, with error: non-hexadecimal number found")

    async def test_the_signature_comes_before_registration(self, alice: Miner) -> None:
        answer = await alice.post(server(1), {"X-Chutes-Hotkey": MALLORY.address})
        assert answer.detail.startswith(f"Invalid request signature for hotkey {MALLORY.address}. Message: ")

    async def test_registration_comes_before_the_fields(self, alice: Miner, clock: Clock) -> None:
        answer = await Miner(alice.client, clock, MALLORY).post({"nodes": [{}]})
        assert (answer.status, answer.detail) == (401, "Hotkey is not registered on netuid 64")

    async def test_a_bad_signature_comes_before_missing_fields(self, alice: Miner) -> None:
        answer = await alice.post({"nodes": [{}]}, alice.headers("another body"))
        assert answer.status == 401

    async def test_the_limit_of_ten_comes_before_a_conflict_and_hosts(self, alice: Miner) -> None:
        await alice.post(server(1))
        answer = await alice.post(server(11, verification_host="10.0.0.1"))
        assert answer.detail == "Limit is 10 GPUs per server."

    async def test_a_conflict_comes_before_hosts(self, alice: Miner) -> None:
        await alice.post(server(1))
        answer = await alice.post(server(1, verification_host="10.0.0.1"))
        assert answer.status == 409

    async def test_hosts_come_before_specs(self, alice: Miner) -> None:
        assert (await alice.post(server(1, verification_host="10.0.0.1", memory=1))).detail == HOSTS

    async def test_specs_come_before_duplicates(self, alice: Miner) -> None:
        answer = await alice.post({"nodes": [gpu(), gpu(memory=1)]})
        assert answer.detail.startswith(SPECS)

    async def test_duplicates_come_before_the_clock(self, alice: Miner, clock: Clock) -> None:
        await alice.post(server(1))
        await alice.delete(gpu()["uuid"], nonce=str(int(clock()) + 30))
        answer = await alice.post({"nodes": [gpu(), gpu()]})
        assert (answer.status, answer.detail) == (400, f"Duplicate node uuids in request: {[gpu()['uuid']]}")


async def test_a_slow_name_does_not_push_the_nonce_out_of_the_window(
    alice: Miner, db: Database, clock: Clock, resolver: FakeResolver
) -> None:
    """What is acknowledged must be valid to peers: the event's own stamp has to lie within the nonce's window."""
    nonce = str(int(clock()) - 598)
    before = await fingerprint(db)

    class Slow(FakeResolver):
        async def __call__(self, name: str) -> list[str]:
            clock.s += 2
            return ["93.184.216.34"]

    resolver.__class__ = Slow
    answer = await alice.post(server(1, verification_host="slow.example"), nonce=nonce)
    assert (answer.status, answer.detail) == (401, "Invalid nonce!")
    assert await fingerprint(db) == before
