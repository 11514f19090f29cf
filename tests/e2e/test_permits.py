"""Who joins and who goes: a newcomer needs one address, and a validator that goes takes no row with it."""

import asyncio
import shutil
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.test_network import rows
from tests.e2e.waiting import eventually
from tests.support import hotkey


async def add(peer: Peer, uuid: str) -> None:
    async with MinerClient([peer.url], hotkey("//Alice")) as client:
        await client.add(example_server([uuid], server_id=uuid))


def rewrite(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file that daemons may be reading."""
    temporary = path.with_suffix(".new")
    temporary.write_text(tomli_w.dumps(content))
    temporary.replace(path)


async def test_a_newcomer_with_one_address_finds_everybody(tmp_path: Path) -> None:
    """It is told no other address than that of one peer, and nobody can dial it."""
    net = Devnet(tmp_path / "net", free_ports(4), report=lambda _: None)
    await net.start()
    try:
        await add(net.peers[1], "early")
        newcomer = net.peers[3]
        newcomer.wanted.clear()
        await newcomer.stop()
        shutil.rmtree(newcomer.directory / "data")
        electorate = tomllib.loads((net.directory / "electorate.toml").read_text())
        for validator in electorate["validators"]:
            del validator["address"]
        rewrite(newcomer.directory / "electorate.toml", electorate)
        settings = tomllib.loads((newcomer.directory / "p2pnodes.toml").read_text())
        settings["electorate"] = {"file": "electorate.toml"}
        settings["gossip"]["bootstrap"] = [net.urls[0]]
        settings["http"] = {"host": "127.0.0.1", "port": 0}
        rewrite(newcomer.directory / "p2pnodes.toml", settings)
        await newcomer.start()

        async def met_all() -> bool:
            peers = await newcomer.ask("/peers")
            dialled = {peer["url"] for peer in peers if peer["connected"] and peer["direction"] == "dialled"}
            return dialled >= set(net.urls[:3]) and "early" in await rows(newcomer)

        await eventually(met_all)
    finally:
        await net.stop()


async def test_a_validator_that_loses_its_permit_takes_no_row_with_it(tmp_path: Path) -> None:
    """What it recorded is carried by the others while the block before still counts for it; no row is ever away."""
    net = Devnet(tmp_path / "net", free_ports(3), epoch_s=3_600, report=lambda _: None)
    await net.start()
    try:
        leaving, staying = net.peers[0], net.peers[1:]
        for number in range(3):
            await add(leaving, f"gpu-{number}")

        async def shown(peer: Peer) -> bool:
            return len(await rows(peer)) == 3

        for peer in staying:
            await eventually(lambda peer=peer: shown(peer))  # type: ignore[misc]
        over = asyncio.Event()

        async def watch(peer: Peer) -> int:
            looks = 0
            while not over.is_set():
                assert len(await rows(peer)) == 3, "a row was away"
                looks += 1
                await asyncio.sleep(0.01)
            return looks

        watching = [asyncio.create_task(watch(peer)) for peer in staying]
        path = net.directory / "electorate.toml"
        held = tomllib.loads(path.read_text())
        held.pop("previous", None)
        gone = hotkey(leaving.hotkey_uri).address
        for _ in range(2):  # in its grace, and behind it
            later = {
                **held,
                "block": held["block"] + net.network.epoch_blocks,
                "time": max(held["time"] + 1, int(time.time())),
            }
            later["validators"] = [each for each in held["validators"] if each["hotkey"] != gone]
            later.setdefault("registered", []).append({"hotkey": gone, "block": 0})
            rewrite(path, {**later, "previous": held})
            block = later["block"]

            async def reached(block: int = block) -> bool:
                return all([(await peer.status())["electorate"]["block"] == block for peer in staying])

            async def carried() -> bool:
                """All three are, and both have what carries them."""
                states = [(await peer.status())["carrying"] for peer in staying]
                known = [len(await peer.ask("/events?kind=carry&limit=1000")) for peer in staying]
                return (
                    not any(state["waiting"] for state in states)
                    and sum(state["requests"] for state in states) >= 3
                    and min(known) == sum(state["events"] for state in states)
                )

            await eventually(reached)
            await eventually(carried)
            held = later
        over.set()
        assert min(await asyncio.gather(*watching)) > 10
        one, other = [await peer.status() for peer in staying]
        assert one["state_root"] == other["state_root"]
    finally:
        await net.stop()
