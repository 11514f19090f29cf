"""What is wrong at a first start is one clear line: what was found, what was expected, what to do."""

import asyncio
import os
import signal
import socket
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2pnodes.chain.wallet import write_hotkey_file
from tests.support import hotkey

DEADLINE_S = 30.0


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Settings of a daemon that starts."""
    write_hotkey_file(tmp_path / "hotkey", hotkey("//validator0"))
    electorate = {
        "block": 100,
        "time": int(time.time()),
        "validators": [{"hotkey": hotkey("//validator0").address, "stake": 100}],
    }
    (tmp_path / "electorate.toml").write_text(tomli_w.dumps(electorate))
    return {
        "data_dir": "data",
        "hotkey_file": "hotkey",
        "network": {"genesis_hash": "0" * 64, "netuid": 64},
        "http": {"host": "127.0.0.1", "port": 0},
        "electorate": {"file": "electorate.toml"},
        "log": {"format": "json"},
    }


async def start(directory: Path, settings: dict[str, Any]) -> asyncio.subprocess.Process:
    config = directory / "p2pnodes.toml"
    config.write_text(tomli_w.dumps(settings))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "p2pnodes", "run", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )


async def refused(directory: Path, settings: dict[str, Any]) -> str:
    """The one line of a daemon that does not start."""
    process = await start(directory, settings)
    _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    lines = [line for line in stderr.decode().splitlines() if not line.startswith("{")]  # log records go before it
    assert process.returncode not in {0, None}
    assert len(lines) == 1
    return lines[0]


async def first_record(process: asyncio.subprocess.Process, event: str) -> str:
    """Read the log up to a record of this event."""
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        while line := (await process.stderr.readline()).decode():
            if f'"{event}"' in line:
                return line
    raise AssertionError(f"the daemon ended without {event}")


async def stop(process: asyncio.subprocess.Process) -> int:
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode is not None
    return process.returncode


async def test_good_settings_start_a_daemon_that_sigterm_ends_with_0(tmp_path: Path, settings: dict[str, Any]) -> None:
    process = await start(tmp_path, settings)
    await first_record(process, "listening")
    assert await stop(process) == 0


async def test_a_taken_port(tmp_path: Path, settings: dict[str, Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings["http"]["port"] = port = taken.getsockname()[1]
        line = await refused(tmp_path, settings)
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


async def test_an_unknown_setting_with_a_suggestion(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["http"]["prot"] = 8000
    assert "http.prot: unknown setting; did you mean http.port?" in await refused(tmp_path, settings)


async def test_an_absent_hotkey_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["hotkey_file"] = "nowhere"
    assert str(tmp_path / "nowhere") in await refused(tmp_path, settings)


async def test_a_hotkey_file_that_others_can_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "hotkey").chmod(0o644)
    assert "hotkey" in await refused(tmp_path, settings)


async def test_a_node_key_file_that_is_none(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir()
    key = tmp_path / "data" / "node.key"
    key.touch(mode=0o600)
    key.write_text("not a key")
    assert "not a node key file" in await refused(tmp_path, settings)


async def test_a_data_directory_that_cannot_be_made(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "file").touch()
    settings["data_dir"] = "file/data"
    line = await refused(tmp_path, settings)
    assert "data_dir" in line
    assert str(tmp_path / "file" / "data") in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_data_directory_that_is_not_writable(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    assert "cannot be written" in await refused(tmp_path, settings)


async def test_an_electorate_that_is_none(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "electorate.toml").write_text("block = 'high'")
    assert "electorate.toml: block" in await refused(tmp_path, settings)


async def test_a_database_of_another_network(tmp_path: Path, settings: dict[str, Any]) -> None:
    process = await start(tmp_path, settings)
    await first_record(process, "listening")
    await stop(process)
    settings["network"]["netuid"] = 65
    assert "belongs to network" in await refused(tmp_path, settings)


async def test_a_second_daemon_on_one_directory(tmp_path: Path, settings: dict[str, Any]) -> None:
    process = await start(tmp_path, settings)
    await first_record(process, "listening")
    assert "another daemon runs on" in await refused(tmp_path, settings)
    assert await stop(process) == 0


async def test_a_clock_that_is_far_behind_the_chain_is_told_and_nothing_is_written(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    electorate = tmp_path / "electorate.toml"
    held = tomllib.loads(electorate.read_text())
    electorate.write_text(tomli_w.dumps({**held, "time": held["time"] + 3600}))
    process = await start(tmp_path, settings)
    record = await first_record(process, "writes_refused")
    assert "set it right (NTP)" in record
    assert await stop(process) == 0
