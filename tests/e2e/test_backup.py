"""A backup beside a busy daemon, and back: no log is forked, nothing acknowledged is lost, and all peers end equal."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from p2pnodes.chain.wallet import load_node_key
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.store.audit import audit
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.test_key_life import add, show, sound, start, stop, try_to_add
from tests.e2e.test_network import rows
from tests.e2e.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MORE = 10
"""Writes that are acknowledged after the backup."""


async def command(*arguments: object) -> tuple[int, Any]:
    """Run a command with ``--json``: its exit code, and what it printed, or its error line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "p2pnodes", *map(str, arguments), "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode or 0, json.loads(out) if process.returncode == 0 else err.decode()


@asynccontextmanager
async def writing(peer: Peer, acknowledged: list[str]) -> AsyncIterator[None]:
    """Register GPUs at a peer one after the other for as long as the block lasts."""

    async def write() -> None:
        while True:
            if (uuid := await try_to_add(peer, "busy")) is not None:
                acknowledged.append(uuid)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_restored_daemon_opens_a_new_log_and_gets_back_what_the_backup_lacks(
    devnet: Devnet, tmp_path: Path
) -> None:
    peer, file = devnet.peers[0], tmp_path / "backup.db"
    config = ("--config", peer.directory / "p2pnodes.toml")
    acknowledged = [await add(peer)]
    async with writing(peer, acknowledged):
        await eventually(lambda: more_than(acknowledged, 3))
        before = list(acknowledged)
        code, made = await command("backup", file, *config)
        assert code == 0, made
        saved = len(acknowledged)
        await eventually(lambda: more_than(acknowledged, saved + MORE))
    report = audit(file, devnet.network)
    assert report.problems == []
    assert (made["events"], made["rows"], made["state_root"]) == (report.events, report.rows, report.state_root)
    assert len(before) <= made["rows"] <= saved + 1, "what was acknowledged before, and nothing from after it"
    await show(devnet, *acknowledged)

    old = await peer.status()
    code, refusal = await command("restore", file, *config)
    assert code == 1
    assert "another daemon runs on" in refusal
    await stop(peer)
    code, restored = await command("restore", file, *config)
    assert code == 0, restored
    assert audit(Path(restored["before"]), devnet.network).problems == []
    await start(devnet, peer)

    after = await add(peer)
    await show(devnet, *acknowledged, after)
    new = await peer.status()
    assert new["node_key"] == restored["node_key"] != old["node_key"]
    for each in devnet.peers:
        assert (await each.status())["forks"] == []
        assert set(acknowledged) <= (await rows(each)).keys()
    sound(devnet)


async def more_than(found: list[str], count: int) -> bool:
    return len(found) > count


@pytest_asyncio.fixture(loop_scope="module")
async def daemon(tmp_path: Path) -> AsyncIterator[Single]:
    """A daemon whose electorate permits another one, which nobody runs."""
    write_electorate(tmp_path / "electorate.toml", "//validator0", "//validator1")
    daemon = Single(tmp_path, settings_of(tmp_path))
    yield daemon
    await daemon.stop()


async def test_a_restored_daemon_without_peers_waits_for_none(daemon: Single, tmp_path: Path) -> None:
    await daemon.listening()
    first = (await daemon.until("log_opened"))["log"]
    code, made = await command("backup", tmp_path / "backup", "--config", daemon.config)
    assert (code, made["events"]) == (0, 1)
    assert await daemon.stop() == 0
    code, restored = await command("restore", tmp_path / "backup", "--config", daemon.config)
    assert code == 0, restored

    await daemon.listening()
    second = (await daemon.until("log_opened"))["log"]
    assert second != first
    assert second.startswith(restored["node_key"][:12])
    assert (await daemon.ask("/status"))["writes"]["allowed"]
    assert "waiting to hear" not in daemon.log


async def test_a_log_that_was_delegated_to_elsewhere_is_not_opened_a_second_time(
    daemon: Single, tmp_path: Path
) -> None:
    write_electorate(tmp_path / "electorate.toml", "//validator0")  # with others it would wait to hear of the log
    del daemon.settings["hotkey_file"]
    daemon.settings["delegation_file"] = "delegation.json"
    hotkey_file, request, key_file = tmp_path / "hotkey", tmp_path / "request.json", tmp_path / "data" / "node.key"

    async def delegated() -> None:
        for path in (request, tmp_path / "delegation.json"):
            path.unlink(missing_ok=True)
        assert (await command("keys", "request", "--config", daemon.config, "--out", request))[0] == 0
        sign = ("keys", "delegate", "--request", request, "--hotkey-file", hotkey_file)
        assert (await command(*sign, "--out", tmp_path / "delegation.json"))[0] == 0

    await daemon.listening()
    assert (await command("backup", tmp_path / "backup", "--config", daemon.config))[0] == 0
    await delegated()
    first = (await daemon.until("log_opened"))["log"]
    assert await daemon.stop() == 0
    assert (await command("restore", tmp_path / "backup", "--config", daemon.config))[0] == 0

    await daemon.listening()
    status = await daemon.ask("/status")
    assert (status["log"], status["events"], status["writes"]["allowed"]) == (None, 0, False)
    assert "keys request" in status["writes"]["reason"]
    await delegated()
    second = (await daemon.until("log_opened"))["log"]
    assert second != first
    assert second.startswith(load_node_key(key_file).public_key.hex()[:12])
