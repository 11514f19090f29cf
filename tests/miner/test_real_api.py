"""The miner's client against the real HTTP interface on a real database: what it signs is what daemons accept."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.settings import ApiSettings
from p2pnodes.miner.client import AuthRefusedError, ConflictError, InvalidRequestError, MinerClient, NotFoundError
from p2pnodes.miner.example import example_server
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import LogId, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from tests.support import NETWORK, hotkey

UUIDS = ["a" * 32, "b" * 32]


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A daemon's public interface, without gossip and verifier."""
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
    settings = ApiSettings(allow_private_hosts=True)
    runner = make_runner(create_app(database, NETWORK, settings, now=time.time, readiness=list))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
    await database.close()


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
        with pytest.raises(NotFoundError, match="does not belong to you"):
            await bob.delete(UUIDS[0])
        with pytest.raises(AuthRefusedError, match=f"go away .no task of {hotkey('//Bob').address}"):
            await bob.task_status(registration.task_id)
        with pytest.raises(AuthRefusedError, match="not registered on netuid 64"):
            await mallory.add(example_server(["c" * 32]))
        with pytest.raises(InvalidRequestError, match=r"body\.nodes: "):
            await alice.add({"server_id": "s"})
