"""/openapi.json describes what the routes really answer; /docs shows it without anybody else's help."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel, RootModel

from p2pnodes.api import schemas
from p2pnodes.api.app import create_app
from p2pnodes.api.inventory import Inventory
from p2pnodes.api.openapi import document
from p2pnodes.api.settings import ApiSettings
from p2pnodes.miner.sse import SseEvent, SseParser
from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX, NAME_CHARS_MAX
from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, NETWORK, Answer, Clock, FakeResolver, Miner, claim_id_of, gpu, place, server, vote

DOCUMENT = document()
WRITES = [("/nodes/", "post"), ("/nodes/{node_id}", "delete")]


def conforms(answer: Answer, method: str, path: str) -> None:
    """The answer's status is documented for its route, and its body is what its model says, no field more."""
    described = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status) in described
    content = described[str(answer.status)].get("content")
    if content is None:
        assert answer.body is None
        return
    ((media, value),) = content.items()
    assert answer.headers["Content-Type"] == media
    schema = value["schema"]
    if media == "text/event-stream":
        schema = schema["properties"]["data"]["contentSchema"]
    reference = schema["$ref"]
    model: type[BaseModel] = getattr(schemas, reference.removeprefix("#/components/schemas/"))
    bodies = [answer.body] if media == "application/json" else [json.loads(data) for _, data, _ in events_of(answer)]
    for body in bodies:
        assert model.model_validate(body, strict=True).model_dump(exclude_unset=True) == body


def events_of(answer: Answer) -> list[SseEvent]:
    """The server-sent events of an answer, at least one."""
    events = SseParser().feed(answer.body)
    assert events
    return events


async def heard(miner: Miner, headers: dict[str, str], until: str) -> Answer:
    """What the stream of events sends up to an event of some type."""
    async with asyncio.timeout(20), miner.client.session.get("/nodes/events", headers=headers) as response:
        body = await response.content.readuntil(f"event: {until}\n".encode()) + await response.content.readuntil(
            b"\n\n"
        )
        return Answer(response.status, body, response.headers)


async def test_a_refused_write_is_as_documented(make_client: MakeClient, db: Database, clock: Clock) -> None:
    miner = Miner(await make_client(elsewhere=lambda: ("https://a.example",)), clock)
    db.ledger.writes_refused = "this daemon is an observer"
    answer = await miner.post(server(1))
    assert (answer.status, answer.body["validators"]) == (503, ["https://a.example"])
    conforms(answer, "post", "/nodes/")
    refused = [DOCUMENT["paths"][path][method]["responses"]["503"] for path, method in WRITES]
    assert refused[0] == refused[1]


async def test_every_real_answer_is_the_documented_one(
    alice: Miner, bob: Miner, db: Database, clock: Clock, make_client: MakeClient
) -> None:
    async def post(body: Any, **changes: Any) -> Answer:
        answer = await alice.post(body, **changes)
        conforms(answer, "post", "/nodes/")
        return answer

    statuses = set()
    accepted = await post(server(8))
    claim_id = await claim_id_of(db, accepted.body["task_id"])
    for path in ("/nodes/", "/nodes/?detailed=true"):
        conforms(await alice.get(path), "get", "/nodes/")
    await vote(db, clock, claim_id, VERIFIED)
    await place(db, clock, claim_id, gpu(0)["uuid"], public=True)
    await place(db, clock, claim_id, gpu(1)["uuid"], public=False)
    bodies: list[Any] = [server(8), server(9), server(11), server(1, 20, memory=1), {"nodes": [{}]}, b"{", b""]
    for body in bodies:
        statuses.add((await post(body)).status)
    assert statuses == {202, 400, 409, 422}
    statuses.add((await post(server(1), nonce="0")).status)
    statuses.add((await post(b" " * 70_000)).status)
    assert {401, 413} <= statuses

    for path in ("/nodes/", "/nodes/?detailed=true", "/nodes/?detailed=x"):
        answer = await alice.get(path)
        conforms(answer, "get", "/nodes/")
    conforms(await alice.get("/nodes/", {"If-None-Match": "*"}), "get", "/nodes/")
    conforms(await alice.get("/nodes/supported"), "get", "/nodes/supported")
    conforms(await alice.get("/nodes/supported", {"If-None-Match": "*"}), "get", "/nodes/supported")

    failed = await bob.post(server(1, 30))
    await vote(db, clock, await claim_id_of(db, failed.body["task_id"], bob.hotkey), FAILED, "too slow")
    for miner, task_id in (
        (alice, accepted.body["task_id"]),
        (bob, failed.body["task_id"]),
        (alice, "x"),
        (alice, None),
    ):
        conforms(await miner.status(task_id), "get", "/nodes/verification_status")
    conforms(await alice.status(f"{ALICE.address}::{'0' * 32}"), "get", "/nodes/verification_status")

    headers = alice.headers("nodes")
    deletions = [(gpu(0)["uuid"], headers), (gpu(1)["uuid"], headers), ("absent", None)]
    answers = [await alice.delete(uuid, with_headers) for uuid, with_headers in deletions]
    answers.append(await alice.delete(gpu(2)["uuid"], nonce=str(int(clock()) - 1)))
    assert [answer.status for answer in answers] == [200, 401, 404, 409]
    for answer in answers:
        conforms(answer, "delete", "/nodes/{node_id}")

    whole = await heard(alice, {}, "snapshot_end")
    conforms(whole, "get", "/nodes/events")
    await alice.delete(gpu(3)["uuid"])
    rest = await heard(alice, {"Last-Event-ID": events_of(whole)[-1].id}, "claim")
    conforms(rest, "get", "/nodes/events")
    told = {event.type for event in events_of(whole) + events_of(rest)}
    assert told == {"reset", "node", "node_deleted", "claim", "snapshot_end"}
    conforms(await alice.get("/nodes/events?hotkey=x"), "get", "/nodes/events")
    conforms(await alice.own_nodes(), "get", "/miner/nodes/")
    conforms(await alice.get("/miner/nodes/"), "get", "/miner/nodes/")

    conforms(await alice.get("/healthz"), "get", "/healthz")
    conforms(await alice.get("/readyz"), "get", "/readyz")
    limited = Miner(await make_client(ApiSettings(address_burst=1, address_rate=0.1), readiness=lambda: ["no"]), clock)
    conforms(await limited.get("/readyz"), "get", "/readyz")
    await limited.status("x")
    conforms(await limited.status("x"), "get", "/nodes/verification_status")
    conforms(await limited.post(server(1)), "post", "/nodes/")
    conforms(await limited.delete("x"), "delete", "/nodes/{node_id}")
    conforms(await limited.get("/nodes/?model=x"), "get", "/nodes/")
    conforms(await limited.get("/nodes/events"), "get", "/nodes/events")
    conforms(await limited.own_nodes(), "get", "/miner/nodes/")


async def test_a_denied_hotkeys_answer_is_the_documented_one(
    make_client: MakeClient, clock: Clock, tmp_path: Path
) -> None:
    deny_file = tmp_path / "denied.toml"
    deny_file.write_text(f'"{ALICE.address}" = "spam"')
    answer = await Miner(await make_client(ApiSettings(deny_file=deny_file)), clock).post(server(1))
    assert answer.status == 403
    conforms(answer, "post", "/nodes/")


async def test_the_document_is_served_as_it_is_made(alice: Miner) -> None:
    answer = await alice.get("/openapi.json")
    assert answer.status == 200
    assert answer.body == DOCUMENT


def test_every_route_that_is_served_is_described_and_no_other() -> None:
    app = create_app(
        cast("Inventory", None), NETWORK, ApiSettings(), now=Clock(), readiness=list, resolver=FakeResolver()
    )
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "*"  # of another slash
    }
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert served - described == {("get", "/openapi.json"), ("get", "/docs")}
    assert described <= served


def test_the_request_model_is_the_one_that_lists_errors() -> None:
    schema = DOCUMENT["paths"]["/nodes/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/MultiNodeArgs"}
    args = DOCUMENT["components"]["schemas"]["NodeArgs"]
    assert args["properties"]["name"]["maxLength"] == NAME_CHARS_MAX
    assert set(args["required"]) == {
        "uuid", "name", "memory", "clock_rate", "device_index", "gpu_identifier", "verification_host",
        "verification_port",
    }  # fmt: skip
    with pytest.raises(ValueError, match="at most 512 items"):
        schemas.MultiNodeArgs.model_validate({"nodes": [{}] * 600})


def test_the_document_is_whole() -> None:
    """Every reference leads somewhere, every operation is named once, every signed route asks for the three headers."""

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return found.union(*(references(item) for item in value.values()))
        return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()

    names = DOCUMENT["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(DOCUMENT)} <= set(names)
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    signed = {
        operation["operationId"]
        for operation in operations
        if {p["name"] for p in operation["parameters"]} >= {"X-Chutes-Hotkey", "X-Chutes-Nonce", "X-Chutes-Signature"}
    }
    assert signed == {"post_nodes", "delete_nodes_node_id", "get_nodes_verification_status", "get_miner_nodes"}
    assert str(GPUS_PER_CLAIM_MAX) in DOCUMENT["paths"]["/nodes/"]["post"]["responses"]["400"]["description"]
    assert issubclass(schemas.Inventory, RootModel)


async def test_the_page_needs_nothing_from_anywhere(alice: Miner) -> None:
    answer = await alice.get("/docs")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    page = answer.body.decode()
    assert "<script" not in page
    assert re.findall(r"(?:src|href)\s*=\s*['\"]?([^'\">\s]+)", page) == ["/openapi.json"]
    for path in DOCUMENT["paths"]:
        assert path in page
