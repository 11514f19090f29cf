"""A log that a delegation file names is begun once: who lost it hears from peers that they hold it (rule 4)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.cli.demo import free_ports
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.test_backup import command
from tests.e2e.waiting import eventually
from tests.support import hotkey


class Pair:
    """Two validators that know each other; the hotkey of the first is not on its machine."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2)
        self.hotkey_file = directory / "hotkey"
        write_hotkey_file(self.hotkey_file, hotkey("//validator0"))
        daemons = []
        for uri, port, other in zip(("//validator0", "//validator1"), ports, ports[::-1], strict=True):
            home = directory / uri.strip("/")
            home.mkdir()
            write_electorate(home / "electorate.toml", "//validator0", "//validator1")
            settings = settings_of(home, uri)
            settings["http"] = {"host": "127.0.0.1", "port": port, "url": f"http://127.0.0.1:{port}"}
            settings["gossip"] = {"allow_private_addresses": True, "bootstrap": [f"http://127.0.0.1:{other}"]}
            settings["api"] = {"allow_private_hosts": True}
            daemons.append(Single(home, settings))
        self.away, self.other = daemons
        del self.away.settings["hotkey_file"]
        self.away.settings["delegation_file"] = "delegation.json"

    async def delegate(self) -> None:
        """Sign what the first one asks for, where its hotkey is, and bring it."""
        request, brought = self.away.directory / "request.json", self.away.directory / "delegation.json"
        for path in (request, brought):
            path.unlink(missing_ok=True)
        code, said = await command("keys", "request", "--config", self.away.config, "--out", request)
        assert code == 0, said
        sign = ("keys", "delegate", "--request", request, "--hotkey-file", self.hotkey_file)
        code, said = await command(*sign, "--out", brought)
        assert code == 0, said

    async def agree(self) -> bool:
        """Whether both hold the same, and no log is known to fork."""
        one, other = await self.away.ask("/status"), await self.other.ask("/status")
        assert one["forks"] == other["forks"] == []
        return bool(one["state_root"] == other["state_root"] and one["vector_digest"] == other["vector_digest"])


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    await pair.away.stop()
    await pair.other.stop()


async def test_a_disk_that_lost_its_log_does_not_begin_it_again(pair: Pair) -> None:
    url, _ = await asyncio.gather(pair.away.listening(), pair.other.listening())
    await pair.delegate()
    await pair.away.until("writes_allowed")
    first = (await pair.away.until("log_opened"))["log"]
    assert "heard from 100 of 100" in (await pair.away.until("log_opened"))["reason"]
    async with MinerClient([url], hotkey("//Alice")) as client:
        await client.add(example_server(["gpu-1"], server_id="rack-1"))

    async def told() -> bool:
        return len(await pair.other.ask("/nodes")) == 1 and await pair.agree()

    await eventually(told)
    assert await pair.away.stop() == 0
    for file in (pair.away.directory / "data").glob("p2pnodes.db*"):
        file.unlink()

    await pair.away.listening()
    assert (await pair.away.until("log_expected"))["log"] == first

    async def knows() -> bool:
        status = await pair.away.ask("/status")
        assert not status["writes"]["allowed"]
        return "keys request" in status["writes"]["reason"] and len(await pair.away.ask("/nodes")) == 1

    await eventually(knows)
    assert "log_opened" not in pair.away.log
    assert (await pair.other.ask("/status"))["forks"] == []

    await pair.delegate()
    second = (await pair.away.until("log_opened"))["log"]
    assert second != first
    await pair.away.until("writes_allowed")
    async with MinerClient([url], hotkey("//Alice")) as client:
        await client.add(example_server(["gpu-2"], server_id="rack-1"))
    await eventually(pair.agree)
