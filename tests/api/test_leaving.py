"""Clients that leave before their answer is whole: nothing goes on for them, and nobody is told of an error."""

import asyncio
import socket
from contextlib import closing
from typing import Final

import pytest
from aiohttp import web

from p2pnodes.api import app, server
from p2pnodes.api.measure import CUT
from p2pnodes.model.inventory import TaskStatus
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, Client, Clock, Miner
from tests.api.support import server as rack

Told = list[tuple[str, str, str, float | None]]

WAIT_S_MAX: Final = 10
"""Wait for what a part or the end of a connection leads to."""


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
async def client(make_client: MakeClient, told: Told) -> Client:
    return await make_client(answered=lambda *row: told.append(row))


def ask(client: Client, path: str, headers: dict[str, str] | None = None) -> socket.socket:
    """A connection on which a request has been sent."""
    connection = socket.create_connection(("127.0.0.1", client.port))
    lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


async def until_told(told: Told, count: int) -> list[tuple[str, str, str]]:
    """Rows of so many requests, without their times."""
    async with asyncio.timeout(WAIT_S_MAX):
        while len(told) < count:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)  # what aiohttp does behind it
    return [row[:3] for row in told]


@pytest.mark.parametrize("path", ["/nodes/?detailed=true", "/miner/nodes/"])
async def test_who_leaves_in_the_middle_of_a_list_leaves_no_traceback_and_no_place(  # noqa: PLR0917 - fixtures
    client: Client,
    clock: Clock,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    """Anybody may do it as often as he likes, and a traceback each time fills the disk."""
    alice = Miner(client, clock)
    assert (await alice.post(rack(8))).status == 202
    begun = asyncio.Event()

    async def send_part(request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
        if begun.is_set():
            await asyncio.Event().wait()  # as for who does not read
        await server.send_part(request, response, data)
        begun.set()

    monkeypatch.setattr(app, "PART_BYTES", 64)
    monkeypatch.setattr(app, "OWN_CLAIMS_PER_PART", 1)
    for bound in ("OWN_LISTS_MAX", "LISTS_MAX"):
        monkeypatch.setattr(app, bound, 1)
    assert (await alice.post(rack(8, 20))).status == 202
    told.clear()
    with monkeypatch.context() as patched:
        patched.setattr(app, "send_part", send_part)
        with closing(ask(client, path, alice.headers("miner"))):
            async with asyncio.timeout(WAIT_S_MAX):
                await begun.wait()
        assert [row[2] for row in await until_told(told, 1)] == [CUT]
    assert caplog.records == []
    assert (await alice.send("GET", path, alice.headers("miner"))).status == 200


async def test_who_leaves_before_an_answer_is_told_as_cut_and_not_as_a_bad_request(  # noqa: PLR0917 - fixtures
    client: Client,
    clock: Clock,
    told: Told,
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = asyncio.Event()

    async def slow(miner: bytes, task: bytes) -> TaskStatus | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(db, "task_status", slow)
    path = f"/nodes/verification_status?task_id={ALICE.address}::{bytes(16).hex()}"
    with closing(ask(client, path, Miner(client, clock).headers("graval"))):
        async with asyncio.timeout(WAIT_S_MAX):
            await asked.wait()
    assert await until_told(told, 1) == [("/nodes/verification_status", "GET", CUT)]
    assert caplog.records == []


async def test_a_peer_that_hangs_up_when_it_is_answered_leaves_no_traceback(
    make_client: MakeClient, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection ends, and aiohttp has yet to hear of it when the WebSocket is opened."""

    async def gossip(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        return opened

    client = await make_client(answered=lambda *row: told.append(row), gossip=gossip)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    with closing(ask(client, "/gossip", upgrade | {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})):
        assert await until_told(told, 1) == [("/gossip", "GET", CUT)]
    assert caplog.records == []
