"""What the console shows of real daemons: the same figures as everywhere else. How it looks is tested in a browser."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.waiting import eventually
from tests.support import hotkey

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def devnet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    """Two daemons, the first of them with a port for its console."""
    net = Devnet(tmp_path_factory.mktemp("net"), free_ports(2), report=lambda _: None)
    net.peers[0].environment["P2PNODES_ADMIN__PORT"] = str(free_ports(1)[0])
    await net.start()
    async with MinerClient([net.urls[1]], hotkey("//Alice"), retries=0) as client:
        await client.add(example_server(["gpu-1", "gpu-2"], server_id="rack-1"))

    async def verified() -> bool:
        rows = await net.peers[0].ask("/nodes?status=verified")
        return len(rows) == 2

    await eventually(verified)
    yield net
    await net.stop()


async def test_the_overview_counts_gpus_and_says_that_peers_agree(devnet: Devnet) -> None:
    async def agreed() -> bool:
        found = await devnet.peers[0].ask("/overview")
        counts = {name: found["gpus"][name] for name in ("provisioned", "idle", "pending", "failed")}
        return counts == {"provisioned": 0, "idle": 2, "pending": 0, "failed": 0} and (
            found["agreement"]["state"] == "equal"
        )

    await eventually(agreed)


async def test_the_inventory_is_searched(devnet: Devnet) -> None:
    found = await devnet.peers[0].ask("/inventory?search=GPU-2")
    assert [row["uuid"] for row in found["rows"]] == ["gpu-2"]
    assert found["rows"] == await devnet.peers[0].ask("/nodes?uuid=gpu-2")


async def test_the_electorate_knows_who_is_enrolled(devnet: Devnet) -> None:
    found = await devnet.peers[0].ask("/electorate")
    assert [(each["enrolled"], each["share"]) for each in found["validators"]] == [(True, 0.5)] * 2
    assert {each["url"] for each in found["validators"]} == set(devnet.urls)
    assert sum(each["own"] for each in found["validators"]) == 1


async def test_nothing_is_pending_when_all_is_decided(devnet: Devnet) -> None:
    assert await devnet.peers[0].ask("/pending") == {"claims": [], "total": 0, "after": None}


async def test_status_says_where_it_is_and_there_it_is(devnet: Devnet) -> None:
    with_port, without = [await peer.status() for peer in devnet.peers]
    assert without["console"] is None
    async with aiohttp.ClientSession() as session:
        for page in ("", "nodes", "nodes/gpu-1", "claims", "peers", "events", "electorate", "docs"):
            async with session.get(with_port["console"] + page) as answer:
                assert answer.status == 200, page
                assert 'id="live"' in await answer.text()
    assert f'"console": "{with_port["console"]}"' in devnet.peers[0].log_file.read_text()
