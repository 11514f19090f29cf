"""The miner's client against the real HTTP interface on a real database: what it signs is what daemons accept."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp import web

from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.settings import ApiSettings
from p2pnodes.api.stream import EVENTS_KEY
from p2pnodes.miner.adopt import plan_adoption
from p2pnodes.miner.client import (
    AuthRefusedError,
    ConflictError,
    InvalidRequestError,
    MinerClient,
    NotFoundError,
    WaitProgress,
)
from p2pnodes.miner.example import example_server
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import VERIFIED, LogId, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from tests.api.support import Clock, claim_id_of, vote
from tests.support import NETWORK, hotkey

UUIDS = ["a" * 32, "b" * 32]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """The database of the only validator, ready to write."""
    now_s = int(time.time())
    validator, node_key = hotkey("//validator0"), NodeKey.from_seed(bytes(32))
    database = await Database.open(tmp_path / "db", NETWORK, node_key, now_ms=lambda: time.time_ns() // 1_000_000)
    registered = {hotkey(uri).public_key: 0 for uri in ("//Alice", "//Bob")}
    await database.set_electorate(Electorate(Pin(100, now_s * 1000, {validator.public_key: 100}, registered, {})))
    log = LogId(node_key.public_key, 0)
    delegation = delegate(validator, NETWORK.id, log, url="", not_before=now_s - 60, not_after=now_s + 3600)

    def take_up(ledger: Ledger) -> None:
        ledger.open_log(0, delegation, now_s * 1000)
        ledger.writes_refused = None

    await database.write(take_up)
    yield database
    await database.close()


@pytest.fixture
async def url(database: Database) -> AsyncIterator[str]:
    """A daemon's public interface, without gossip and verifier."""
    settings = ApiSettings(allow_private_hosts=True)
    app = create_app(database, NETWORK, settings, now=time.time, readiness=list)
    database.on_commit = app[EVENTS_KEY].committed
    runner = make_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_gpus_are_registered_listed_and_deleted(url: str) -> None:
    async with MinerClient([url], hotkey("//Alice"), retries=0) as alice:
        registration = await alice.add(example_server(UUIDS))
        assert [node.uuid for node in registration.nodes] == UUIDS
        assert {node.seed for node in registration.nodes} == {registration.seed}
        assert (await alice.task_status(registration.task_id)).status == "pending"
        assert await alice.inventory() == {"h100_sxm": {"provisioned": 0, "idle": 2}}
        assert hotkey("//Alice").address in await alice.detailed_inventory(model="h100_sxm")
        assert "h100_sxm" in await alice.supported()
        await alice.delete(UUIDS[0])
        await alice.delete(UUIDS[1], bound=False)
        assert await alice.inventory() == {}


async def test_the_same_signed_request_again_is_the_same_claim(url: str) -> None:
    async with MinerClient([url], hotkey("//Alice"), retries=0) as alice:
        request = alice.sign_add(example_server(UUIDS))
        assert await alice.send(request) == await alice.send(request)
        assert await alice.add(example_server(UUIDS)) == await alice.send(request)


async def test_refusals_are_told_apart(url: str) -> None:
    async with (
        MinerClient([url], hotkey("//Alice"), retries=0) as alice,
        MinerClient([url], hotkey("//Bob"), retries=0) as bob,
        MinerClient([url], hotkey("//Mallory"), retries=0) as mallory,
    ):
        registration = await alice.add(example_server(UUIDS))
        with pytest.raises(ConflictError, match="already exist"):
            await alice.add(example_server(UUIDS, server_id="another"))
        with pytest.raises(NotFoundError, match="does not belong to you") as refused:
            await bob.delete(UUIDS[0])
        assert refused.value.code == Code.API_NOT_OWNED
        with pytest.raises(AuthRefusedError, match=f"go away .no task of {hotkey('//Bob').address}"):
            await bob.task_status(registration.task_id)
        with pytest.raises(AuthRefusedError, match="not registered on netuid 64"):
            await mallory.add(example_server(["c" * 32]))
        with pytest.raises(InvalidRequestError, match=r"body\.nodes: "):
            await alice.add({"server_id": "s"})


async def test_own_nodes_are_what_was_registered_and_leave_nothing_to_adopt(url: str) -> None:
    async with MinerClient([url], hotkey("//Alice"), retries=0) as alice:
        assert (await alice.own_nodes()).nodes == []
        registration = await alice.add(example_server(UUIDS))
        found = await alice.own_nodes()
        assert found.nodes == registration.model_dump(mode="json")["nodes"]
        again = plan_adoption(found.nodes, (), hotkey("//Alice").address)
        assert [server.uuids for server in again.servers] == [UUIDS]
        assert plan_adoption(found.nodes, set(UUIDS), hotkey("//Alice").address).servers == ()
    async with MinerClient([url], hotkey("//Bob"), retries=0) as bob:
        assert (await bob.own_nodes()).nodes == []


async def test_a_stream_shows_what_happens_to_a_miners_gpus(url: str) -> None:
    address = hotkey("//Alice").address
    async with (
        MinerClient([url], hotkey("//Alice"), retries=0) as alice,
        asyncio.timeout(30),
        aclosing(alice.follow(address)) as changes,
    ):
        assert [(await anext(changes)).type for _ in range(2)] == ["reset", "snapshot_end"]
        registration = await alice.add(example_server(UUIDS))
        told = [await anext(changes) for _ in range(3)]
        assert {change.data["uuid"] for change in told if change.type == "node"} == set(UUIDS)
        (claim,) = [change.data for change in told if change.type == "claim"]
        assert (claim["task_id"], claim["status"]) == (registration.task_id, "pending")
        await alice.delete(UUIDS[0])
        while (change := await anext(changes)).type != "node_deleted":
            pass
        assert change.data == {"uuid": UUIDS[0], "hotkey": address}


async def test_a_wait_hears_of_the_decision_from_the_stream(url: str, database: Database) -> None:
    async with MinerClient([url], hotkey("//Alice"), retries=0) as alice, asyncio.timeout(30):
        registration = await alice.add(example_server(UUIDS))
        streamed = asyncio.Event()

        def told(progress: WaitProgress) -> None:
            if progress.events:
                streamed.set()

        waiting = asyncio.create_task(alice.wait_verified(registration.task_id, poll_s=3600, on_progress=told))
        await streamed.wait()
        clock = Clock()
        clock.s = time.time()
        await vote(database, clock, await claim_id_of(database, registration.task_id), VERIFIED)
        assert (await waiting).status == "verified"
