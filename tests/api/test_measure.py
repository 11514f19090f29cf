"""What the public listener answers is told once, under labels that clients cannot make up."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from p2pnodes.api.app import GOSSIP_PATH
from p2pnodes.api.measure import CUT, LASTING, OTHER, PASSED_ON, Answered
from p2pnodes.api.openapi import document
from p2pnodes.api.settings import ApiSettings
from tests.api.conftest import MakeClient
from tests.api.support import Client

Told = list[tuple[str, str, str, float | None]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def answered(told: Told) -> Answered:
    return lambda *row: told.append(row)


@pytest.fixture
async def client(make_client: MakeClient, answered: Answered) -> Client:
    return await make_client(answered=answered)


async def ask(client: Client, method: str, path: str) -> int:
    async with client.session.request(method, path, allow_redirects=False) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize(
    ("method", "path", "row"),
    [
        ("GET", "/nodes/", ("/nodes/", "GET", "200")),
        ("GET", "/nodes/?model=x&detailed=true", ("/nodes/", "GET", "200")),
        ("POST", "/nodes/", ("/nodes/", "POST", "401")),
        ("DELETE", "/nodes/gpu-1", ("/nodes/{node_id}", "DELETE", "401")),
        ("GET", "/nodes", ("/nodes", "GET", "307")),
        ("GET", "/healthz", ("/healthz", "GET", "200")),
        ("GET", "/secret-of-a-client", (OTHER, "GET", "404")),
        ("PUT", "/healthz", (OTHER, "PUT", "405")),
        ("PROPFIND", "/nodes", ("/nodes", OTHER, "307")),
        ("PROPFIND", "/pot", (OTHER, OTHER, "404")),
    ],
)
async def test_a_request_is_told_by_template_method_and_code(
    client: Client, told: Told, method: str, path: str, row: tuple[str, str, str]
) -> None:
    assert str(await ask(client, method, path)) == row[2]
    ((*labels, seconds),) = told
    assert tuple(labels) == row
    assert seconds is not None
    assert 0 <= seconds < 10


async def test_answers_to_browsers_are_told_as_well(make_client: MakeClient, answered: Answered, told: Told) -> None:
    """These are answered before any route is asked."""
    client = await make_client(ApiSettings(cors_origins=("https://site.example",)), answered=answered)
    headers = {"Origin": "https://site.example", "Access-Control-Request-Method": "GET"}
    async with client.session.options("/nodes/", headers=headers) as response:
        assert response.status == 204
    assert [row[1:3] for row in told] == [("OPTIONS", "204")]


async def test_a_bug_is_told_as_a_500(make_client: MakeClient, answered: Answered, told: Told) -> None:
    def readiness() -> list[str]:
        raise RuntimeError("a bug")

    client = await make_client(answered=answered, readiness=readiness)
    assert await ask(client, "GET", "/readyz") == 500
    assert [row[:3] for row in told] == [("/readyz", "GET", "500")]


async def test_a_request_that_lasts_is_told_when_it_ends_without_its_time(
    make_client: MakeClient, answered: Answered, told: Told
) -> None:
    go = asyncio.Event()

    async def gossip(_: web.Request) -> web.StreamResponse:
        await go.wait()
        return web.Response(status=426)

    client = await make_client(answered=answered, gossip=gossip)
    asking = asyncio.create_task(ask(client, "GET", "/gossip"))
    assert await ask(client, "GET", "/healthz") == 200
    assert [row[0] for row in told] == ["/healthz"]
    go.set()
    assert await asking == 426
    assert told[1:] == [("/gossip", "GET", "426", None)]


async def test_an_answer_that_breaks_off_has_no_code(make_client: MakeClient, answered: Answered, told: Told) -> None:
    async def gossip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the first part")
        raise ConnectionResetError("the client is gone")

    client = await make_client(answered=answered, gossip=gossip)
    with pytest.raises(aiohttp.ClientError):
        await ask(client, "GET", "/gossip")
    assert told == [("/gossip", "GET", CUT, None)]


def test_the_routes_that_last_exist() -> None:
    assert LASTING - {GOSSIP_PATH} <= document()["paths"].keys()


class TestPassedOn:
    """What is passed on to another API has one label, whatever its path; what is ours has its own."""

    @pytest.fixture
    async def upstream(self) -> AsyncIterator[str]:
        async def teapot(_: web.Request) -> web.Response:
            return web.Response(status=418)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", teapot)
        async with TestServer(app) as server:
            yield str(server.make_url("/")).rstrip("/")

    async def test_its_paths_are_one_label(
        self, make_client: MakeClient, answered: Answered, told: Told, upstream: str
    ) -> None:
        settings: dict[str, Any] = {"upstream": upstream}
        client = await make_client(ApiSettings(**settings), answered=answered)
        assert await ask(client, "GET", "/chutes/one") == 418
        assert await ask(client, "GET", "/chutes/two") == 418
        assert await ask(client, "GET", "/nodes/a/b") == 404
        assert [row[:3] for row in told] == [
            (PASSED_ON, "GET", "418"), (PASSED_ON, "GET", "418"), (OTHER, "GET", "404"),
        ]  # fmt: skip
