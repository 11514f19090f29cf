"""Node keys, disks and clocks in the life of a validator: no log is written twice, and nothing acknowledged is lost.

All of it on real processes with real SQLite files, and all peers end equal.
"""

import asyncio
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from p2pnodes.chain.wallet import load_node_key
from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.miner.client import MinerClient, MinerError
from p2pnodes.miner.example import example_server
from p2pnodes.store.audit import audit
from tests.e2e.test_network import agree, rows
from tests.e2e.waiting import eventually
from tests.support import hotkey

NUMBERS = itertools.count()


@asynccontextmanager
async def network(directory: Path, peers: int = 3, **options: Any) -> AsyncIterator[Devnet]:
    net = Devnet(directory, free_ports(peers), report=lambda _: None, **options)
    await net.start()
    try:
        yield net
    finally:
        await net.stop()


async def add(peer: Peer, name: str = "gpu") -> str:
    """Register one GPU at a peer; its uuid."""
    uuid = f"{name}-{next(NUMBERS)}"
    async with MinerClient([peer.url], hotkey("//Alice")) as client:
        await client.add(example_server([uuid], server_id=uuid))
    return uuid


async def try_to_add(peer: Peer, name: str) -> str | None:
    """Register one GPU at a peer that may take no writes just now; its uuid if it was acknowledged."""
    try:
        async with MinerClient([peer.url], hotkey("//Alice"), retries=0) as client:
            uuid = f"{name}-{next(NUMBERS)}"
            await client.add(example_server([uuid], server_id=uuid))
            return uuid
    except MinerError:
        return None


async def show(net: Devnet, *uuids: str, within_s: float = 60) -> None:
    """Wait until every peer has these GPUs, and all agree on everything."""

    async def shown() -> bool:
        return all([set(uuids) <= (await rows(peer)).keys() for peer in net.peers]) and await agree(net)

    await eventually(shown, within_s)


async def tell(peer: Peer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Change something at a peer, as its operator does."""
    connector = aiohttp.UnixConnector(str(peer.directory / "data" / "admin.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://localhost{path}", json=body or {}) as answer,
    ):
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
        return found


async def stop(peer: Peer) -> None:
    peer.wanted.clear()
    await peer.stop()


async def start(net: Devnet, peer: Peer) -> None:
    peer.wanted.set()
    await net.ready(peer)


def sound(net: Devnet) -> None:
    """Every database is what its own log says."""
    for peer in net.peers:
        assert audit(peer.database, net.network).problems == []


def copied(peer: Peer, directory: Path, url_of: Peer) -> Peer:
    """A copy of a stopped peer with all its files, at another address."""
    shutil.copytree(peer.directory, directory)
    (directory / "data" / "admin.sock").unlink(missing_ok=True)
    settings = directory / "p2pnodes.toml"
    port, other = peer.url.rpartition(":")[2], url_of.url.rpartition(":")[2]
    # It announces the original's URL, as a copied configuration does.
    settings.write_text(settings.read_text().replace(f"port = {port}", f"port = {other}"))
    return Peer(0, directory, int(other), {"verifier": "none"})


class TestRotation:
    """``keys rotate``: another node key, another log, the same inventory."""

    async def test_a_rotated_key_goes_on_where_the_old_one_ended(self, tmp_path: Path) -> None:
        async with network(tmp_path / "net") as net:
            peer = net.peers[0]
            before = await add(peer)
            await show(net, before)
            old = await peer.status()
            key_file = (peer.directory / "data" / "node.key").read_text()

            answer = await tell(peer, "/keys/rotate")
            assert answer["closed"] == f"{old['node_key']}/{old['log']['number']}"
            assert answer["node_key"] != old["node_key"]
            assert (peer.directory / "data" / "node.key").read_text() != key_file
            await net.ready(peer)
            after = await add(peer)
            await show(net, before, after)
            for each in net.peers:
                (closed,) = await each.ask("/forks")
                assert closed["log"] == answer["closed"]
                assert closed["closed"]
                assert closed["good_events"] == old["log"]["seq"] + 1

            await stop(peer)
            await start(net, peer)
            assert (await peer.status())["node_key"] == answer["node_key"]
            await show(net, before, after, await add(peer))
        sound(net)


class TestClonedDisk:
    """Two daemons on copies of one disk both take writes: their log forks, and every request of both survives."""

    async def test_both_copies_get_logs_of_their_own_and_nothing_is_lost(self, tmp_path: Path) -> None:
        async with network(tmp_path / "net", 4) as net:
            original, spare = net.peers[0], net.peers[3]
            first = await add(original)
            await show(net, first)
            # The clone takes the place of the fourth daemon's address, whose own life ends here.
            await stop(spare)
            await stop(original)
            clone = copied(original, tmp_path / "net" / "clone", spare)
            net.peers.remove(spare)
            await asyncio.gather(original.start(), clone.start())
            original.wanted.set()
            acknowledged = [first]
            try:

                async def both_write() -> bool:
                    return not (await original.status())["ready"] and not (await clone.status())["ready"]

                await eventually(both_write)
                deadline = time.monotonic() + 60

                async def told_apart() -> bool:
                    one, other = await original.status(), await clone.status()
                    return one["node_key"] != other["node_key"] and not one["ready"] and not other["ready"]

                while not (acknowledged[1:] and await told_apart()):
                    assert time.monotonic() < deadline
                    found = await asyncio.gather(try_to_add(original, "original"), try_to_add(clone, "clone"))
                    acknowledged += [uuid for uuid in found if uuid is not None]
                acknowledged += [await add(original), await add(clone)]
                net.peers.append(clone)
                await show(net, *acknowledged)
                for peer in net.peers:
                    (forked,) = await peer.ask("/forks")
                    assert forked["fork"] is not None
            finally:
                await clone.stop()
        sound(net)


class TestStolenKey:
    """``keys revoke``: what a thief wrote with the node key stops counting, also for who hears of it late."""

    async def test_what_was_written_behind_the_last_good_event_is_undone_everywhere(self, tmp_path: Path) -> None:
        failing = {"verifier": "none"}
        async with network(tmp_path / "net", 4, stakes=[60, 20, 10, 10], verify=[failing]) as net:
            victim, late = net.peers[0], net.peers[3]
            honest = await add(net.peers[1])
            await show(net, honest)
            await stop(victim)
            await stop(late)
            loot = tmp_path / "net" / "thief"
            shutil.copytree(victim.directory, loot)
            (loot / "hotkey.json").unlink()  # it never left the operator's safe
            (loot / "data" / "admin.sock").unlink(missing_ok=True)
            settings = loot / "p2pnodes.toml"
            settings.write_text(settings.read_text().replace('hotkey_file = "hotkey.json"\n', ""))
            thief = Peer(0, loot, int(victim.url.rpartition(":")[2]), {"verifier": "none"})
            log_before = await last_log(victim)
            await thief.start()
            placed = {
                "uuids": [honest], "chute_id": "stolen", "instance_id": "stolen", "name": "stolen", "username": "thief",
            }  # fmt: skip

            async def writes() -> bool:
                return not (await thief.status())["ready"]

            await eventually(writes)
            await tell(thief, "/place", placed)

            async def believed(*, chute: str | None) -> bool:
                found = [(await rows(peer)).get(honest, {}).get("chute_id", "absent") for peer in net.peers[1:3]]
                return found == [chute, chute]

            await eventually(lambda: believed(chute="stolen"))
            await thief.stop()

            # The operator begins anew on an empty disk, with the hotkey, and names the last event that was still his.
            shutil.rmtree(victim.directory / "data")
            await start_alone(net, victim)
            node_key, number, seq = log_before

            async def refilled() -> bool:
                found = await victim.ask(f"/events?node_key={node_key}&kind=place")
                return bool(found)

            await eventually(refilled)
            answer = await tell(victim, "/keys/revoke", {"log": f"{node_key}/{number}", "last": seq})
            assert answer["good_events"] == seq + 1
            await eventually(lambda: believed(chute=None))
            await start_alone(net, late)
            await net.ready(late)
            after = await add(victim)
            await show(net, honest, after)
            assert (await rows(late))[honest]["chute_id"] is None

            # The key is worth nothing any more: nobody opens a session with it.
            thief_again = Peer(0, loot, int(victim.url.rpartition(":")[2]), {"verifier": "none"})
            settings.write_text(settings.read_text().replace(f"port = {victim.url.rpartition(':')[2]}", "port = 0"))
            await thief_again.start()
            try:

                async def refused() -> bool:
                    peers = await thief_again.ask("/peers")
                    return bool(peers) and all("closed" in (peer.get("last_error") or "") for peer in peers)

                await eventually(refused)
            finally:
                await thief_again.stop()
            await show(net, honest, after)
        sound(net)


class TestClockThatJumped:
    """Rule 8: what was written while the clock ran ahead is left behind, and its requests are carried."""

    async def test_a_clock_five_minutes_ahead_stops_writes_and_its_log_is_closed_below_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        skew = tmp_path / "skew"
        net = Devnet(tmp_path / "net", free_ports(3), report=lambda _: None)
        peer = net.peers[0]
        here = Path(__file__).with_name("skew")
        path = f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        peer.environment = {"PYTHONPATH": path, "SKEW_FILE": str(skew)}
        await net.start()
        try:
            first = await add(peer)
            await show(net, first)
            old = (await peer.status())["log"]["number"]
            acknowledged = [first]

            async def refused() -> bool:
                if (uuid := await try_to_add(peer, "ahead")) is not None:
                    acknowledged.append(uuid)
                return "off the median" in ((await peer.status())["writes"]["reason"] or "")

            async def allowed() -> bool:
                return bool((await peer.status())["writes"]["allowed"])

            while not acknowledged[1:]:  # until a write gets ahead of the peers' clocks
                await eventually(allowed)
                skew.write_text("300")
                await eventually(refused)
                skew.write_text("0")

            async def writes_again() -> bool:
                status = await peer.status()
                return not status["ready"] and bool(status["log"]) and status["log"]["number"] != old

            await eventually(writes_again)
            await show(net, *acknowledged, await add(peer))
        finally:
            await net.stop()
        sound(net)


async def last_log(peer: Peer) -> tuple[str, int, int]:
    """Node key, number and last seq of a stopped peer's own log."""
    node_key = load_node_key(peer.directory / "data" / "node.key").public_key
    with sqlite3.connect(peer.database) as database:
        number, seq = database.execute(
            "SELECT number, max(seq) FROM events JOIN logs USING (log) WHERE node_key = ? GROUP BY number"
            " ORDER BY number DESC LIMIT 1",
            (node_key,),
        ).fetchone()
    database.close()
    return node_key.hex(), number, seq


async def start_alone(net: Devnet, peer: Peer) -> None:
    """Start a peer while others are down."""
    peer.wanted.set()

    async def ready() -> bool:
        return not (await peer.status())["ready"]

    await eventually(ready, within_s=60)
