"""Four daemons that read the electorate from a replayed chain, each by itself: what happens there, happens at all."""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, DevnetError, Peer, ReplayedChain, replayed_validator
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.model.errors import ConfigError
from tests.e2e.test_network import agree, rows
from tests.e2e.waiting import eventually
from tests.support import MINERS, hotkey

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

EPOCH_S = 5.0
CHAIN_S_MAX = 60.0
"""Until every daemon has the electorate that shows a change: an epoch, finality, and slow readers."""

PERMITS = 64
UUIDS = (f"{number:032x}" for number in itertools.count(0xC4A1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    net = Devnet(
        tmp_path_factory.mktemp("replay"), free_ports(4), chain="replay", epoch_s=EPOCH_S, report=lambda _: None
    )
    await net.start()
    yield net
    await net.stop()


@pytest.fixture
def chain(net: Devnet) -> ReplayedChain:
    assert net.replay is not None
    return net.replay


class Look(NamedTuple):
    """What one peer shows of one miner, and by which electorate."""

    block: int
    digest: str
    uuids: frozenset[str]


async def look(peer: Peer, miner: str) -> Look | None:
    """A look at a peer; None when its electorate changed meanwhile."""
    before = (await peer.status())["electorate"]
    found = await rows(peer)
    after = (await peer.status())["electorate"]
    if before["digest"] != after["digest"] or before["recounting"] or after["recounting"]:
        return None
    shown = frozenset(uuid for uuid, row in found.items() if row["hotkey"] == hotkey(miner).address)
    return Look(after["block"], after["digest"], shown)


async def looks_until(net: Devnet, miner: str, block: int) -> list[Look]:
    """Look at every peer again and again until each has weighed with the electorate of a block."""
    looks: list[Look] = []

    async def watch(peer: Peer) -> None:
        while True:
            found = await look(peer, miner)
            if found is not None:
                looks.append(found)
                if found.block >= block:
                    return
            await asyncio.sleep(0.05)

    async with asyncio.timeout(CHAIN_S_MAX), asyncio.TaskGroup() as watching:
        for peer in net.peers:
            watching.create_task(watch(peer))
    return looks


async def register(peer: Peer, miner: str, uuids: list[str]) -> None:
    async with MinerClient([peer.url], hotkey(miner)) as client:
        await client.add(example_server(uuids, server_id=uuids[0]))


async def verified_everywhere(net: Devnet, uuids: list[str]) -> bool:
    for peer in net.peers:
        found = await rows(peer)
        if {found[uuid]["status"] if uuid in found else None for uuid in uuids} != {"verified"}:
            return False
    return await agree(net)


async def electorates(net: Devnet, field: str) -> list[Any]:
    return [(await peer.status())["electorate"][field] for peer in net.peers]


async def test_every_daemon_reads_the_same_electorate_from_the_chain(net: Devnet, chain: ReplayedChain) -> None:
    for peer in net.peers:
        electorate = (await peer.status())["electorate"]
        assert electorate["block"] % net.network.epoch_blocks == 0
        assert [electorate["validators"], electorate["registered"]] == [PERMITS, 256]
        assert electorate["source"]["method"] == "metagraph"
        assert electorate["source"]["endpoints"][0]["url"] == chain.url

    async def one() -> bool:
        return len(set(await electorates(net, "digest"))) == 1 and await electorates(net, "enrolled") == [4] * 4

    await eventually(one)


async def test_what_is_posted_at_each_is_verified_at_all_with_equal_roots(net: Devnet) -> None:
    uuids = [next(UUIDS) for _ in range(8)]
    for index, (peer, miner) in enumerate(zip(net.peers, MINERS, strict=True)):
        await register(peer, miner, uuids[2 * index : 2 * index + 2])
    await eventually(lambda: verified_everywhere(net, uuids), CHAIN_S_MAX)


async def test_a_lost_permit_shows_at_all(net: Devnet, chain: ReplayedChain) -> None:
    stranger = replayed_validator(9).hotkey.address
    for value, expected in ((False, PERMITS - 1), (True, PERMITS)):
        await chain.change("permit", stranger, value)

        async def shown(expected: int = expected) -> bool:
            digests = set(await electorates(net, "digest"))
            return await electorates(net, "validators") == [expected] * 4 and len(digests) == 1

        await eventually(shown, CHAIN_S_MAX)


async def test_a_deregistered_miner_leaves_at_the_same_electorate_and_must_register_again(
    net: Devnet, chain: ReplayedChain
) -> None:
    miner, uuids = "//Dave", [next(UUIDS) for _ in range(2)]
    await register(net.peers[0], miner, uuids)
    await eventually(lambda: verified_everywhere(net, uuids), CHAIN_S_MAX)

    gone = await chain.change("deregister", hotkey(miner).address)
    looks = await looks_until(net, miner, gone)
    assert {found.block >= gone for found in looks} == {False, True}
    for found in looks:
        assert not found.uuids if found.block >= gone else set(uuids) <= found.uuids
    assert len({(found.block, found.digest) for found in looks}) == len({found.block for found in looks})
    await eventually(lambda: agree(net), CHAIN_S_MAX)

    back = await chain.change("register", hotkey(miner).address)
    later = back + 2 * net.network.epoch_blocks
    assert [found for found in await looks_until(net, miner, later) if found.uuids] == []
    await register(net.peers[1], miner, uuids)
    await eventually(lambda: verified_everywhere(net, uuids), CHAIN_S_MAX)


async def test_a_validator_without_permit_is_not_enrolled_until_it_has_one_again(
    net: Devnet, chain: ReplayedChain
) -> None:
    others = net.peers[:3]
    for value, expected in ((False, 3), (True, 4)):
        await chain.change("permit", net.peers[3].hotkey.address, value)

        async def enrolled(expected: int = expected) -> bool:
            return [(await peer.status())["electorate"]["enrolled"] for peer in others] == [expected] * 3

        await eventually(enrolled, CHAIN_S_MAX)
    await eventually(lambda: agree(net), CHAIN_S_MAX)


async def test_a_node_that_dies_is_back_at_the_same_address_and_the_electorate_moves_on(
    net: Devnet, chain: ReplayedChain
) -> None:
    before, url = max(await electorates(net, "block")), chain.url
    assert chain.pid is not None
    os.kill(chain.pid, signal.SIGKILL)

    async def moved() -> bool:
        return bool(min(await electorates(net, "block")) > before + net.network.epoch_blocks)

    await eventually(moved, CHAIN_S_MAX)
    assert chain.url == url
    for peer in net.peers:
        assert (await peer.status())["ready"] == []


async def test_what_the_chain_refuses_is_one_line(chain: ReplayedChain) -> None:
    with pytest.raises(DevnetError, match=r"refuses: ValueError: hotkey .* is registered already"):
        await chain.change("register", hotkey("//Alice").address)


async def test_a_replayed_devnet_goes_on_where_it_stopped(tmp_path: Path) -> None:
    alice = hotkey("//Alice").address
    blocks: list[int] = []
    for kind in ("deregister", "register"):  # the second is refused unless the first is remembered
        net = Devnet(tmp_path, free_ports(2), chain="replay", epoch_s=EPOCH_S, report=lambda _: None)
        await net.start()
        try:
            assert net.replay is not None
            block = await net.replay.change(kind, alice)
            await looks_until(net, "//Alice", block)
            blocks += [(await peer.status())["electorate"]["block"] for peer in net.peers]
        finally:
            await net.stop()
    assert min(blocks[2:]) > max(blocks[:2])


async def test_without_a_checkout_of_the_sources_there_is_no_replayed_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pnodes.devnet._SOURCES", tmp_path)
    net = Devnet(tmp_path / "net", free_ports(1), chain="replay", report=lambda _: None)
    with pytest.raises(DevnetError, match="needs a checkout of the sources"):
        await net.start()


async def test_the_replayed_chain_has_stakes_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the replayed chain has its own"):
        Devnet(tmp_path, [8100], chain="replay", stakes=[100])


async def test_a_chain_that_does_not_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        net = Devnet(tmp_path, free_ports(1), chain="replay", chain_port=port, report=lambda _: None)
        with pytest.raises(DevnetError, match=r"does not start: tests\.replay: error: .* address already in use"):
            await net.start()
