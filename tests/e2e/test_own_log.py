"""A daemon whose disk went back in time never forks its log (design.md, rule 4), and all peers end equal."""

import shutil
from pathlib import Path

import pytest

from p2pnodes.chain.wallet import load_node_key
from p2pnodes.devnet import Devnet, Peer
from tests.e2e.test_key_life import add, show, sound, start, stop

pytestmark = pytest.mark.asyncio(loop_scope="module")


def copy_database(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in source.glob("p2pnodes.db*"):
        shutil.copy(file, target / file.name)


def lose(peer: Peer, pattern: str) -> None:
    files = list(peer.database.parent.glob(pattern))
    assert peer.database in files
    for file in files:
        file.unlink()


async def log_number(peer: Peer) -> int:
    number: int = (await peer.status())["log"]["number"]
    return number


async def no_forks(devnet: Devnet) -> None:
    for peer in devnet.peers:
        assert (await peer.status())["forks"] == []
    sound(devnet)


async def test_a_restored_backup_opens_a_new_log_and_loses_nothing(devnet: Devnet, tmp_path: Path) -> None:
    peer = devnet.peers[0]
    before = await add(peer)
    await show(devnet, before)
    first = await log_number(peer)
    await stop(peer)
    copy_database(peer.database.parent, tmp_path / "backup")
    await start(devnet, peer)
    assert await log_number(peer) == first

    lost = await add(peer)
    await show(devnet, before, lost)
    await stop(peer)
    lose(peer, "p2pnodes.db*")
    copy_database(tmp_path / "backup", peer.database.parent)
    await start(devnet, peer)

    after = await add(peer)
    await show(devnet, before, lost, after)
    assert await log_number(peer) > first
    await no_forks(devnet)


@pytest.mark.parametrize("pattern", ["*", "p2pnodes.db*"], ids=["with the node key", "without the node key"])
async def test_a_lost_disk_is_refilled_by_the_peers_and_writes_a_new_log(devnet: Devnet, pattern: str) -> None:
    peer = devnet.peers[1]
    key_file = peer.directory / "data" / "node.key"
    before = await add(peer)
    await show(devnet, before)
    first, node_key = await log_number(peer), load_node_key(key_file)
    await stop(peer)
    lose(peer, pattern)
    assert key_file.exists() is (pattern != "*")
    await start(devnet, peer)

    await show(devnet, before)
    after = await add(peer)
    await show(devnet, before, after)
    assert await log_number(peer) > first
    if pattern == "*":
        assert load_node_key(key_file) != node_key
    await no_forks(devnet)
