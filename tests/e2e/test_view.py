"""Six daemons with places for three: few sessions each, and still one network that loses nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.waiting import eventually
from tests.support import hotkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEERS: Final = 6
PLACES: Final = 3

STANDSTILL_S: Final = 3.0
"""Long enough for some ticks to come late, and short enough for a test."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    net = Devnet(tmp_path_factory.mktemp("net"), free_ports(PEERS), report=lambda _: None)
    for peer in net.peers:
        peer.environment["P2PNODES_GOSSIP__VIEW_SIZE"] = str(PLACES)
    await net.start()
    yield net
    await net.stop()


async def gossip(peer: Peer) -> dict[str, Any]:
    found: dict[str, Any] = (await peer.status())["gossip"]
    return found


async def add(url: str, uuid: str) -> None:
    async with MinerClient([url], hotkey("//Alice"), retries=0) as client:
        await client.add(example_server([uuid], server_id=uuid))


async def all_hold(net: Devnet, count: int) -> bool:
    states = [await peer.status() for peer in net.peers]
    return {state["nodes"] for state in states} == {count} and len({state["vector_digest"] for state in states}) == 1


async def test_what_one_is_told_all_know_over_few_links(crowd: Devnet) -> None:
    await add(crowd.urls[0], "gpu-1")
    await eventually(lambda: all_hold(crowd, 1))

    async def few() -> bool:
        views = [(await gossip(peer))["view"] for peer in crowd.peers]
        return all(view["members"] == PEERS - 1 and 2 <= view["links"] <= PLACES for view in views)

    await eventually(few)


async def test_every_member_is_shown_with_what_it_is_to_us(crowd: Devnet) -> None:
    rows = (await gossip(crowd.peers[0]))["peers"]
    assert {row["hotkey"] for row in rows} == {peer.hotkey.address for peer in crowd.peers[1:]}
    assert {row["link"] for row in rows if row["connected"]} <= {"eager", "lazy", "visit"}


async def test_one_that_was_killed_hears_its_own_head_from_more_than_its_links(crowd: Devnet) -> None:
    peer = crowd.peers[0]
    before, pid = (await peer.status())["log"]["number"], peer.pid
    peer.kill()

    async def writes() -> bool:
        status = await peer.status()
        return bool(status["writes"]["allowed"] and peer.pid != pid)

    await eventually(writes)
    assert (await peer.status())["log"]["number"] == before
    await add(peer.url, "gpu-2")
    await eventually(lambda: all_hold(crowd, 2))


async def test_one_that_stood_still_blames_nobody_and_says_so(crowd: Devnet) -> None:
    peer = crowd.peers[1]
    await eventually(lambda: calm(peer))
    before = {row["hotkey"]: row["since"] for row in (await gossip(peer))["peers"] if row.get("link") == "eager"}
    assert before
    assert peer.pid is not None
    os.kill(peer.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STANDSTILL_S)
    finally:
        os.kill(peer.pid, signal.SIGCONT)

    async def late() -> bool:
        return bool((await gossip(peer))["loop"]["slowness"] > 1)

    await eventually(late)
    await eventually(lambda: calm(peer))
    after = {row["hotkey"]: row["since"] for row in (await gossip(peer))["peers"] if row["connected"]}
    assert before.items() <= after.items()


async def calm(peer: Peer) -> bool:
    return bool((await gossip(peer))["loop"]["slowness"] == 1)
