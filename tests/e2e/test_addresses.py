"""Daemons at IPv6 addresses, and at both versions of IP."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.cli.demo import free_ports
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.waiting import eventually
from tests.support import has_ipv6, hotkey


def settings(directory: Path, uri: str, *validators: str, host: str, port: int, url: str) -> dict[str, Any]:
    directory.mkdir()
    write_electorate(directory / "electorate.toml", *validators)
    return settings_of(directory, uri) | {
        "http": {"host": host, "port": port} | ({"url": url} if url else {}),
        "api": {"allow_private_hosts": True},
        "gossip": {"allow_private_addresses": True},
    }


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Single, Single]]:
    """Two daemons, made and not started; those of tests that start them are stopped."""
    pair = Single(tmp_path / "first", {}), Single(tmp_path / "second", {})
    yield pair
    for daemon in pair:
        await daemon.stop()


async def connected(daemon: Single) -> list[str]:
    return [peer["url"] for peer in await daemon.ask("/peers") if peer["connected"]]


async def statuses(daemon: Single, uuid: str) -> list[str]:
    return [row["status"] for row in await daemon.ask(f"/nodes?uuid={uuid}")]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_daemons_with_ipv6_addresses_announce_dial_and_serve(pair: tuple[Single, Single]) -> None:
    first, second = pair
    ports = free_ports(2)
    urls = [f"http://[::1]:{port}" for port in ports]
    both = ("//validator0", "//validator1")
    first.settings = settings(first.directory, both[0], *both, host="::", port=ports[0], url=urls[0])
    second.settings = settings(second.directory, both[1], *both, host="::1", port=ports[1], url=urls[1])
    second.settings["gossip"]["bootstrap"] = [urls[0]]
    for daemon in pair:
        await daemon.listening()

    async def meet() -> bool:
        return [await connected(daemon) for daemon in pair] == [[urls[1]], [urls[0]]] and not any(
            [(await daemon.ask("/status"))["ready"] for daemon in pair]
        )

    await eventually(meet)
    four, six = "4" * 32, "6" * 32
    for uuid, api in ((four, f"http://127.0.0.1:{ports[0]}"), (six, urls[0])):
        async with MinerClient([api], hotkey("//Alice")) as client:
            await client.add(example_server([uuid], server_id=uuid))
        async with MinerClient([urls[1]], hotkey("//Alice")) as client:
            assert await client.supported()

        async def verified(uuid: str = uuid) -> bool:
            return await statuses(second, uuid) == ["verified"]

        await eventually(verified)
    assert [(await daemon.ask("/status"))["url"] for daemon in pair] == urls
