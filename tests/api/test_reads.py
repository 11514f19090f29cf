"""GET /nodes/ and /nodes/supported: both views, filters, and 304 while the state root stands."""

import asyncio
import json
from importlib import resources
from typing import Any

import pytest
from aiohttp import web

from p2pnodes.api import app, server, views
from p2pnodes.model.inventory import Chute
from p2pnodes.store.database import Database, Detail
from p2pnodes.store.facts import chute_fields
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, BOB, Clock, Miner, claim_id_of, gpu, place
from tests.api.support import server as rack

A100 = {"name": "NVIDIA A100-SXM4-80GB", "gpu_identifier": "a100_sxm", "processors": 108, "clock_rate": 1_410_000.0}


@pytest.fixture
async def fleet(alice: Miner, bob: Miner, db: Database, clock: Clock) -> None:
    """Alice: three H100s, one of them with a public chute, one with a private one. Bob: four H100s and an A100."""
    claim_id = await claim_id_of(db, (await alice.post(rack(3))).body["task_id"])
    await place(db, clock, claim_id, gpu(0)["uuid"], public=True)
    await place(db, clock, claim_id, gpu(1)["uuid"], public=False)
    answer = await bob.post({"server_id": "b", "nodes": [*rack(4, 10)["nodes"], gpu(20, **A100)]})
    assert answer.status == 202


@pytest.mark.usefixtures("fleet")
class TestViews:
    """The compact and the detailed view, unverified nodes counted."""

    async def test_the_compact_view_counts_by_model(self, alice: Miner) -> None:
        answer = await alice.get("/nodes/")
        assert answer.status == 200
        assert answer.body == {"a100_sxm": {"provisioned": 0, "idle": 1}, "h100_sxm": {"provisioned": 2, "idle": 5}}

    async def test_the_detailed_view_lists_miners_by_their_gpus_and_hides_private_chutes(self, alice: Miner) -> None:
        answer = await alice.get("/nodes/?detailed=true")
        chute = {
            "username": "carol",
            "name": "chat",
            "chute_id": "chute-1",
            "verified": True,
            "instance_id": "instance-1",
        }
        private = {**chute, "username": None, "name": "[private chute]"}
        assert list(answer.body) == [BOB.address, ALICE.address]
        assert answer.body[BOB.address] == {"provisioned": [], "idle": {"a100_sxm": 1, "h100_sxm": 4}}
        assert answer.body[ALICE.address]["idle"] == {"h100_sxm": 1}
        provisioned = answer.body[ALICE.address]["provisioned"]
        assert len(provisioned) == 2
        assert {"gpu": "h100_sxm", "chute": chute} in provisioned
        assert {"gpu": "h100_sxm", "chute": private} in provisioned

    async def test_equal_numbers_of_gpus_are_ordered_by_hotkey(self, alice: Miner, bob: Miner) -> None:
        for index in (12, 13):
            assert (await bob.delete(gpu(index)["uuid"])).status == 200
        answer = await alice.get("/nodes/?detailed=true")
        assert list(answer.body) == sorted([ALICE.address, BOB.address])

    @pytest.mark.parametrize(
        ("query", "body"),
        [
            ("hotkey=ALICE", {"h100_sxm": {"provisioned": 2, "idle": 1}}),
            ("model=a100_sxm", {"a100_sxm": {"provisioned": 0, "idle": 1}}),
            ("model=h100_sxm&hotkey=BOB", {"h100_sxm": {"provisioned": 0, "idle": 4}}),
            ("detailed=true&hotkey=BOB", {"BOB": {"provisioned": [], "idle": {"a100_sxm": 1, "h100_sxm": 4}}}),
            ("detailed=true&model=a100_sxm", {"BOB": {"provisioned": [], "idle": {"a100_sxm": 1}}}),
            ("detailed=1&hotkey=BOB&model=a100_sxm", {"BOB": {"provisioned": [], "idle": {"a100_sxm": 1}}}),
            ("model=unknown", {}),
            ("model=%27%20OR%201%3D1", {}),
            ("hotkey=nobody", {}),
            ("hotkey=%00&detailed=on", {}),
            ("hotkey=ALICE&model=a100_sxm", {}),
            ("detailed=true&model=" + "x" * 4000, {}),
            ("detailed=no&model=a100_sxm&colour=red", {"a100_sxm": {"provisioned": 0, "idle": 1}}),
            ("detailed=true&detailed=false&model=a100_sxm", {"a100_sxm": {"provisioned": 0, "idle": 1}}),
        ],
    )
    async def test_filters_hold_in_both_views(self, alice: Miner, query: str, body: dict[str, Any]) -> None:
        names = {"ALICE": ALICE.address, "BOB": BOB.address}
        for name, address in names.items():
            query = query.replace(name, address)
        answer = await alice.get(f"/nodes/?{query}")
        assert answer.status == 200
        assert answer.body == {names.get(key, key): value for key, value in body.items()}


@pytest.mark.parametrize("text", ["banana", "", "2", "%00", "%ff"])
async def test_what_is_no_boolean_is_422(alice: Miner, text: str) -> None:
    answer = await alice.get(f"/nodes/?detailed={text}")
    assert answer.status == 422
    (entry,) = answer.detail
    assert (entry["type"], entry["loc"]) == ("bool_parsing", ["query", "detailed"])
    assert entry["msg"] == "Input should be a valid boolean, unable to interpret input"


async def test_an_empty_inventory_is_an_empty_object(alice: Miner) -> None:
    assert (await alice.get("/nodes/")).body == {}
    assert (await alice.get("/nodes/?detailed=true")).body == {}


async def test_supported_is_the_table_key_by_key_in_order(alice: Miner) -> None:
    table = json.loads(resources.files("p2pnodes.model").joinpath("data/supported_gpus.json").read_bytes())
    answer = await alice.get("/nodes/supported")
    assert answer.body == table
    assert list(answer.body) == list(table)


class TestEtag:
    """An ETag names state and view: 304 while nothing changed, never after."""

    @pytest.mark.parametrize("path", ["/nodes/", "/nodes/?detailed=true", "/nodes/?model=x", "/nodes/supported"])
    async def test_what_did_not_change_is_304_without_a_body(self, alice: Miner, path: str) -> None:
        first = await alice.get(path)
        etag = first.headers["ETag"]
        for header in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await alice.get(path, {"If-None-Match": header})
            assert (again.status, again.body, again.headers["ETag"]) == (304, None, etag)
        assert (await alice.get(path, {"If-None-Match": '"other"'})).body == first.body

    async def test_a_write_changes_the_etag_and_its_undoing_brings_the_old_one_back(
        self, alice: Miner, clock: Clock
    ) -> None:
        before = await alice.get("/nodes/")
        await alice.post(rack(1))
        changed = await alice.get("/nodes/", {"If-None-Match": before.headers["ETag"]})
        assert (changed.status, changed.body) == (200, {"h100_sxm": {"provisioned": 0, "idle": 1}})
        assert changed.headers["ETag"] != before.headers["ETag"]
        clock.s += 1
        await alice.delete(gpu()["uuid"])
        assert (await alice.get("/nodes/", {"If-None-Match": before.headers["ETag"]})).status == 304

    async def test_every_view_has_its_own_etag(self, alice: Miner) -> None:
        paths = ["/nodes/", "/nodes/?detailed=true", f"/nodes/?hotkey={ALICE.address}", "/nodes/?model=x"]
        assert len({(await alice.get(path)).headers["ETag"] for path in paths}) == len(paths)

    async def test_two_peers_with_one_inventory_answer_the_same_etag(
        self, alice: Miner, make_client: MakeClient, clock: Clock
    ) -> None:
        other = Miner(await make_client(), clock)
        assert (await other.get("/nodes/")).headers["ETag"] == (await alice.get("/nodes/")).headers["ETag"]

    async def test_a_conditional_read_that_is_malformed_is_answered_whole(self, alice: Miner) -> None:
        assert (await alice.get("/nodes/", {"If-None-Match": ',"",W/x,"'})).status == 200


class Counting:
    """A database that counts how often the detailed view is read."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def details(self, miner: bytes | None, model: str | None) -> list[Detail]:
        self.reads += 1
        return await self._db.details(miner, model)


async def test_the_database_is_read_once_for_each_root_and_view(
    make_client: MakeClient, db: Database, clock: Clock
) -> None:
    counting = Counting(db)
    miner = Miner(await make_client(db=counting), clock)
    await miner.post(rack(8))
    answers = await asyncio.gather(*(miner.get("/nodes/?detailed=true") for _ in range(20)))
    assert counting.reads == 1
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    clock.s += 1
    await miner.delete(gpu()["uuid"])
    assert (await miner.get("/nodes/?detailed=true")).body[ALICE.address]["idle"] == {"h100_sxm": 7}
    assert counting.reads == 2


async def test_a_client_that_has_the_answer_costs_no_read(make_client: MakeClient, db: Database, clock: Clock) -> None:
    counting = Counting(db)
    etag = (await Miner(await make_client(db=counting), clock).get("/nodes/?detailed=true")).headers["ETag"]
    restarted = Miner(await make_client(db=counting), clock)
    again = await restarted.get("/nodes/?detailed=true", {"If-None-Match": etag})
    assert (again.status, again.headers["ETag"]) == (304, etag)
    assert counting.reads == 1


@pytest.mark.usefixtures("fleet")
class TestLargeView:
    """A detailed view that is too large to be held is rendered while it is sent."""

    @pytest.fixture
    async def large(self, make_client: MakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Miner:
        """Of a daemon that holds no view of over seven GPUs, and sends one chute at a time."""
        monkeypatch.setattr(app, "GPUS_HELD_MAX", 7)
        monkeypatch.setattr(app, "PIECES_PER_PART", 1)
        return Miner(await make_client(), clock)

    async def test_it_is_the_same_view_with_the_same_etag_but_in_parts(self, alice: Miner, large: Miner) -> None:
        whole = await alice.get("/nodes/?detailed=true")
        for _ in range(2):
            parts = await large.get("/nodes/?detailed=true")
            assert (parts.status, parts.body) == (200, whole.body)
            assert parts.headers["ETag"] == whole.headers["ETag"]
            assert parts.headers["Transfer-Encoding"] == "chunked"
        known = {"If-None-Match": whole.headers["ETag"]}
        assert (await large.get("/nodes/?detailed=true", known)).status == 304

    async def test_one_miners_list_is_not_large_because_others_have_more(self, large: Miner) -> None:
        answer = await large.get(f"/nodes/?detailed=true&hotkey={BOB.address}")
        assert answer.body[BOB.address]["idle"] == {"a100_sxm": 1, "h100_sxm": 4}
        assert "Content-Length" in answer.headers

    @pytest.mark.parametrize(("bound", "status"), [("LISTS_MAX", 503), ("LISTS_PER_ADDRESS_MAX", 429)])
    async def test_so_many_are_sent_at_once_and_no_more(
        self, large: Miner, monkeypatch: pytest.MonkeyPatch, bound: str, status: int
    ) -> None:
        monkeypatch.setattr(app, bound, 0)
        answer = await large.get("/nodes/?detailed=true")
        assert (answer.status, answer.headers["Retry-After"]) == (status, str(app.LISTS_RETRY_S))

    async def test_one_that_is_refused_costs_no_read(
        self, make_client: MakeClient, db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "GPUS_HELD_MAX", 7)
        monkeypatch.setattr(app, "LISTS_MAX", 0)
        counting = Counting(db)
        answer = await Miner(await make_client(db=counting), clock).get("/nodes/?detailed=true")
        assert (answer.status, counting.reads) == (503, 0)

    @pytest.mark.parametrize("bound", ["LISTS_MAX", "LISTS_PER_ADDRESS_MAX"])
    async def test_one_miners_list_that_is_large_takes_a_place_as_well(
        self, large: Miner, monkeypatch: pytest.MonkeyPatch, bound: str
    ) -> None:
        monkeypatch.setattr(app, "GPUS_HELD_MAX", 2)
        path = f"/nodes/?detailed=true&hotkey={ALICE.address}"
        assert (await large.get(path)).headers["Transfer-Encoding"] == "chunked"
        monkeypatch.setattr(app, bound, 0)
        assert (await large.get(path)).status in {429, 503}

    async def test_one_that_is_sent_takes_a_place_until_it_is_whole(
        self, large: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "LISTS_MAX", 1)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def send_part(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
            begun.set()
            await go_on.wait()
            await server.send_part(request, response, data)

        monkeypatch.setattr(app, "send_part", send_part)
        first = asyncio.create_task(large.get("/nodes/?detailed=true"))
        await begun.wait()
        assert (await large.get("/nodes/?detailed=true")).status == 503
        go_on.set()
        assert (await first).status == 200
        assert (await large.get("/nodes/?detailed=true")).status == 200


async def test_a_large_body_is_written_part_by_part_and_is_the_same(
    make_client: MakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    async def send_part(request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
        written.append(len(data))
        await server.send_part(request, response, data)

    monkeypatch.setattr(app, "send_part", send_part)
    miner = Miner(await make_client(), clock)
    await miner.post(rack(8))
    whole = await miner.get("/nodes/?detailed=true")
    assert written == []
    monkeypatch.setattr(app, "PART_BYTES", 64)
    parts = await miner.get("/nodes/?detailed=true")
    assert (parts.status, parts.body, parts.headers["ETag"]) == (200, whole.body, whole.headers["ETag"])
    assert max(written) == 64
    assert sum(written) == int(parts.headers["Content-Length"])
    written.clear()
    assert (await miner.get("/nodes/?detailed=true", {"If-None-Match": whole.headers["ETag"]})).status == 304
    assert written == []


def test_no_piece_of_the_detailed_view_lists_more_gpus_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "GPUS_PER_PIECE", 2)
    chute = chute_fields(Chute("c-1", "i-1", verified=True, public=False, name=None, username=None))
    assert chute is not None
    pieces = list(views.detailed([Detail(ALICE.public_key, 6, {"h100_sxm": 1}, [("h100_sxm", chute, 5)])]))
    assert max(piece.count(b'"gpu"') for piece in pieces) == 2
    assert json.loads(b"".join(pieces))[ALICE.address] == {
        "provisioned": [
            {
                "gpu": "h100_sxm",
                "chute": {
                    "username": None, "name": views.PRIVATE_CHUTE, "chute_id": "c-1", "verified": True,
                    "instance_id": "i-1",
                },
            }
        ] * 5,
        "idle": {"h100_sxm": 1},
    }  # fmt: skip
