"""An observer holds the whole inventory, and takes no writes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tomli_w

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.miner.client import ApiUnreachableError, MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.test_network import alice, rows
from tests.e2e.waiting import eventually
from tests.support import gpu, hotkey


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Devnet]:
    net = Devnet(tmp_path / "net", free_ports(2), report=lambda _: None)
    await net.start()
    yield net
    await net.stop()


async def observer_of(net: Devnet, **gossip: Any) -> Peer:
    """A daemon without any key but its own, that knows one address."""
    (port,) = free_ports(1)
    peer = Peer(9, net.directory / "observer", port, {})
    peer.directory.mkdir()
    settings = {
        "role": "observer",
        "data_dir": "data",
        "network_file": "../network.toml",
        "http": {"host": "127.0.0.1", "port": port},
        "gossip": {"allow_private_addresses": True, "bootstrap": [net.urls[0]], **gossip},
        "electorate": {"file": "../electorate.toml"},
        "log": {"format": "json"},
    }
    (peer.directory / "p2pnodes.toml").write_text(tomli_w.dumps(settings))
    await peer.start()
    return peer


async def add(url: str, uuid: str) -> None:
    async with MinerClient([url], hotkey("//Alice"), retries=0) as client:
        await client.add(example_server([uuid], server_id=uuid))


async def test_an_observer_shows_what_the_validators_show_and_sends_writers_to_them(net: Devnet) -> None:
    await add(net.urls[0], "before")
    observer = await observer_of(net)
    try:

        async def follows(*uuids: str) -> bool:
            own, other = await observer.status(), await net.peers[0].status()
            return set(uuids) <= (await rows(observer)).keys() and all(
                own[key] == other[key] for key in ("state_root", "vector_digest")
            )

        await eventually(lambda: follows("before"))
        await add(net.urls[1], "after")
        await eventually(lambda: follows("before", "after"))
        status = await observer.status()
        assert (status["role"], status["ready"], status["log"]) == ("observer", [], None)
        assert all(peer["observer"] for peer in await net.peers[0].ask("/peers") if peer["url"] == "")

        async with aiohttp.ClientSession() as session:

            async def refers() -> bool:
                code, answer = await alice(observer.url).register(
                    session, [gpu("refused", 0, verification_host="127.0.0.1")]
                )
                assert code == 503
                assert "observer" in answer["detail"]
                return sorted(answer["validators"]) == sorted(net.urls)

            await eventually(refers)
            for path in ("/nodes/", "/nodes/supported", "/openapi.json"):
                async with session.get(f"{observer.url}{path}") as answer:
                    assert answer.status == 200
        async with MinerClient([observer.url], hotkey("//Alice"), retries=0) as client:
            with pytest.raises(ApiUnreachableError) as caught:
                await client.delete("before")
        assert "observer" in caught.value.failures[observer.url]
        assert all(url in caught.value.failures[observer.url] for url in net.urls)
        assert (await rows(net.peers[0])).keys() == {"before", "after"}
    finally:
        await observer.stop()
