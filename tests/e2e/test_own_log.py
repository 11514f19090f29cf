"""A daemon whose disk went back in time never forks its log (design.md, rule 4)."""

import asyncio
import shutil
from pathlib import Path

import pytest

from p2pnodes.devnet import Devnet, DevnetError, Peer
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.support import hotkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 30.0


async def add(peer: Peer, uuid: str) -> None:
    async with MinerClient([peer.url], hotkey("//Alice")) as client:
        await client.add(example_server([uuid], server_id=uuid))


async def holds(peer: Peer, *uuids: str) -> bool:
    try:
        return {row["uuid"] for row in await peer.ask("/nodes?limit=1000")} >= set(uuids)
    except DevnetError:
        return False


async def shown_everywhere(devnet: Devnet, *uuids: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        for peer in devnet.peers:
            while not await holds(peer, *uuids):
                await asyncio.sleep(0.02)


async def stop(peer: Peer) -> None:
    peer.wanted.clear()
    await peer.stop()


async def start(devnet: Devnet, peer: Peer) -> None:
    peer.wanted.set()
    await devnet.ready(peer)


def copy_database(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in source.glob("p2pnodes.db*"):
        shutil.copy(file, target / file.name)


async def test_a_restored_backup_opens_a_new_log_and_loses_nothing(devnet: Devnet, tmp_path: Path) -> None:
    peer = devnet.peers[0]
    await add(peer, "before-backup")
    await shown_everywhere(devnet, "before-backup")
    first = (await peer.status())["log"]["number"]
    await stop(peer)
    copy_database(peer.database.parent, tmp_path / "backup")
    await start(devnet, peer)
    assert (await peer.status())["log"]["number"] == first

    await add(peer, "after-backup")
    await shown_everywhere(devnet, "after-backup")
    await stop(peer)
    for file in peer.database.parent.glob("p2pnodes.db*"):
        file.unlink()
    copy_database(tmp_path / "backup", peer.database.parent)
    await start(devnet, peer)

    await add(peer, "after-restore")
    await shown_everywhere(devnet, "before-backup", "after-backup", "after-restore")
    assert (await peer.status())["log"]["number"] > first
    for each in devnet.peers:
        assert (await each.status())["forks"] == []


async def test_a_lost_disk_is_refilled_by_the_peers_and_writes_a_new_log(devnet: Devnet) -> None:
    peer = devnet.peers[1]
    await add(peer, "before-loss")
    await shown_everywhere(devnet, "before-loss")
    first = (await peer.status())["log"]["number"]
    await stop(peer)
    for file in peer.database.parent.glob("p2pnodes.db*"):
        file.unlink()
    await start(devnet, peer)

    await shown_everywhere(devnet, "before-loss")
    await add(peer, "after-loss")
    await shown_everywhere(devnet, "after-loss")
    assert (await peer.status())["log"]["number"] > first
    for each in devnet.peers:
        assert (await each.status())["forks"] == []
