"""Three daemons on real sockets and disks: what one is told is the inventory of all, whatever dies meanwhile."""

import asyncio
import itertools
import json
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from p2pnodes.devnet import Devnet, Peer
from p2pnodes.miner.client import ApiUnreachableError, MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.store.audit import audit
from tests.e2e.miner import UpstreamMiner
from tests.e2e.waiting import eventually
from tests.support import gpu, hotkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

UUIDS = (f"{number:032x}" for number in itertools.count(1))
"""GPUs that no test before has named."""


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def rows(peer: Peer) -> dict[str, Any]:
    return {row["uuid"]: row for row in await peer.ask("/nodes?limit=10000")}


async def agree(devnet: Devnet) -> bool:
    states = [await peer.status() for peer in devnet.peers]
    return len({(s["state_root"], s["vector_digest"], s["electorate"]["digest"]) for s in states}) == 1


def alice(api: str) -> UpstreamMiner:
    """//Alice, whose key comes from no seed of its own."""
    client = UpstreamMiner(hotkey("//Alice").secret_key[:32], api)
    client.public_key, client._secret_key = hotkey("//Alice").public_key, hotkey("//Alice").secret_key
    client.address = hotkey("//Alice").address
    return client


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_upstreams_miner_client_registers_polls_and_deletes_at_every_peer(
    devnet: Devnet, session: aiohttp.ClientSession, index: int
) -> None:
    client = alice(devnet.urls[index])
    assert "h100_sxm" in await client.supported(session)
    nodes = [gpu(next(UUIDS), place, verification_host="127.0.0.1", major=None, sxm=None) for place in range(8)]
    uuids = [node["uuid"] for node in nodes]

    status, answer = await client.register(session, nodes)
    assert status == 202
    assert [node["uuid"] for node in answer["nodes"]] == uuids
    (seed,) = {node["seed"] for node in answer["nodes"]}
    assert 1 <= seed < 2**63
    assert answer["task_id"]

    async def decided() -> bool:
        status = await client.status(session, answer["task_id"])
        return bool(status["status"] != "pending")

    await eventually(decided)
    assert await client.status(session, answer["task_id"]) == {"status": "verified"}
    for uuid in uuids:  # in a loop within one second, as upstream does
        assert await client.delete(session, uuid) == (200, {"node_id": uuid, "deleted": True})
    assert client.address not in await client.inventory(session)
    await eventually(lambda: agree(devnet))


async def test_what_one_peer_accepts_is_verified_on_all_with_equal_roots(devnet: Devnet) -> None:
    uuids = [next(UUIDS) for _ in range(8)]
    async with MinerClient([devnet.urls[0]], hotkey("//Bob")) as client:
        registration = await client.add(example_server(uuids, server_id="s"))
    for peer in devnet.peers:

        async def shown(peer: Peer = peer) -> bool:
            found = await rows(peer)
            return {found[uuid]["status"] for uuid in uuids if uuid in found} == {"verified"}

        await eventually(shown)
        async with MinerClient([peer.url], hotkey("//Bob")) as client:
            assert (await client.task_status(registration.task_id)).status == "verified"
    await eventually(lambda: agree(devnet))


async def test_two_miners_who_claim_one_gpu_at_once_end_with_one_owner_everywhere(devnet: Devnet) -> None:
    uuid = next(UUIDS)

    async def claim(miner: str, url: str) -> str:
        async with MinerClient([url], hotkey(miner)) as client:
            return (await client.add(example_server([uuid], server_id="s"))).task_id

    tasks = await asyncio.gather(claim("//Charlie", devnet.urls[0]), claim("//Dave", devnet.urls[1]))

    async def verified_everywhere() -> bool:
        found = [(await rows(peer)).get(uuid) for peer in devnet.peers]
        return {row["status"] if row else None for row in found} == {"verified"} and await agree(devnet)

    await eventually(verified_everywhere)
    owners = {(await rows(peer))[uuid]["hotkey"] for peer in devnet.peers}
    assert len(owners) == 1

    async def outcomes(url: str) -> list[str]:
        found = []
        for miner, task in zip(("//Charlie", "//Dave"), tasks, strict=True):
            async with MinerClient([url], hotkey(miner)) as client:
                found.append((await client.task_status(task)).status)
        return sorted(found)

    for url in devnet.urls:
        assert await outcomes(url) == ["failed", "verified"]


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_kill_9_under_load_loses_no_acknowledged_write_and_needs_no_hand(devnet: Devnet, index: int) -> None:
    victim = devnet.peers[index]
    acknowledged: set[str] = set()
    by_victim = 0
    pid = victim.pid
    waiting = [(devnet.peers[number % 3], next(UUIDS)) for number in range(90)]

    async def write() -> None:
        nonlocal by_victim
        while waiting:
            peer, uuid = waiting.pop()
            async with MinerClient([peer.url], hotkey("//Bob"), retries=0) as client:
                try:
                    await client.add(example_server([uuid], server_id=uuid))
                except ApiUnreachableError:
                    assert peer is victim
                    continue
            acknowledged.add(uuid)
            by_victim += peer is victim
            if len(acknowledged) == 30:
                victim.kill()  # the devnet starts it again by itself

    await asyncio.gather(*(write() for _ in range(6)))
    assert by_victim
    assert len(acknowledged) >= 60

    async def back() -> bool:
        return victim.pid not in {None, pid} and acknowledged <= (await rows(victim)).keys()

    await eventually(back)
    await devnet.ready(victim)
    await eventually(lambda: agree(devnet))
    status = await victim.status()
    assert status["forks"] == []
    for peer in devnet.peers:
        assert acknowledged <= (await rows(peer)).keys()


async def test_a_killed_peer_goes_on_with_its_own_log(devnet: Devnet) -> None:
    victim = devnet.peers[0]
    before, pid = (await victim.status())["log"], victim.pid
    victim.kill()

    async def writes() -> bool:
        allowed: bool = (await victim.status())["writes"]["allowed"]
        return allowed and victim.pid not in {None, pid}

    await eventually(writes)
    await devnet.ready(victim)
    after = (await victim.status())["log"]
    assert after["number"] == before["number"]
    assert after["seq"] >= before["seq"]


async def test_every_database_passes_the_audit_while_its_daemon_runs(devnet: Devnet) -> None:
    for peer in devnet.peers:
        report = await asyncio.to_thread(audit, peer.database, devnet.network)
        assert report.problems == []
        assert report.events > 0
    with sqlite3.connect(f"file:{devnet.peers[0].database}?mode=ro", uri=True) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("SELECT count(*) FROM inventory WHERE status = 'verified'").fetchone()[0] > 0
    reader.close()


async def test_a_graceful_stop_takes_under_five_seconds_and_loses_nothing(devnet: Devnet) -> None:
    peer = devnet.peers[2]
    uuids = [next(UUIDS) for _ in range(20)]
    acknowledged: set[str] = set()

    async def write(uuid: str) -> None:
        async with MinerClient([peer.url], hotkey("//Dave"), retries=0) as client:
            try:
                await client.add(example_server([uuid], server_id=uuid))
            except ApiUnreachableError:
                return
            acknowledged.add(uuid)

    writes = [asyncio.create_task(write(uuid)) for uuid in uuids]
    await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
    begin = time.monotonic()
    peer.wanted.clear()
    await peer.stop()
    assert time.monotonic() - begin < 5
    await asyncio.gather(*writes)
    with sqlite3.connect(f"file:{peer.database}?mode=ro", uri=True) as reader:
        held = {uuid for (uuid,) in reader.execute("SELECT uuid FROM inventory")}
    reader.close()
    assert acknowledged
    assert acknowledged <= held
    assert not peer.last_words() or '"stopped"' in peer.last_words()
    peer.wanted.set()
    await eventually(lambda: agree(devnet))


async def test_the_operators_commands_read_a_running_daemon(devnet: Devnet) -> None:
    config = str(devnet.peers[1].directory / "p2pnodes.toml")

    async def command(*arguments: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "p2pnodes", *arguments, "--config", config, "--json", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(output)

    status = await command("status")
    assert status["state_root"] == (await devnet.peers[1].status())["state_root"]
    assert len(await command("peers")) >= 2
    assert {row["status"] for row in await command("nodes")} == {"verified"}
    assert await command("claims")
    assert await command("events")
