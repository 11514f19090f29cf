"""Upgrades and downgrades, with real daemons: the rules of ``p2pnodes/store/schema.py`` and those of the protocol."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tomli_w

from p2pnodes.cli.demo import free_ports
from p2pnodes.model import codec
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.model.requests import sign_add
from p2pnodes.store.audit import audit
from p2pnodes.store.schema import SCHEMA
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.waiting import eventually
from tests.store.release import DATABASES
from tests.support import BLOCK, MINERS, NETWORK, NOW_S, VALIDATORS, Author, body, hotkey

RELEASES = sorted(DATABASES.glob("*.db"))
OWN = "//validator1"
"""Whose log in a release's database nothing has ended."""


def electorate_of(directory: Path, *, block: int = BLOCK, stakes: tuple[str, ...] = VALIDATORS) -> None:
    """The electorate that ``tests.store.release`` weighs with, or one in which fewer hold a stake."""
    found = {
        "block": block,
        "time": NOW_S,
        "validators": [{"hotkey": hotkey(uri).address, "stake": 100} for uri in stakes],
        "registered": [{"hotkey": hotkey(uri).address, "block": 0} for uri in (*MINERS, *VALIDATORS)],
    }
    (directory / "electorate.toml").write_text(tomli_w.dumps(found))


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Single]:
    """A daemon of today's build on the directory of the validator ``OWN``, at the time of the releases' databases."""
    electorate_of(tmp_path)
    daemon = Single(tmp_path, settings_of(tmp_path, OWN))
    (tmp_path / "skew").write_text(str(NOW_S + 60 - time.time()))
    path = f"{Path(__file__).with_name('skew')}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    daemon.environment = {"PYTHONPATH": path, "SKEW_FILE": str(tmp_path / "skew")}
    daemon.settings["network"] = NETWORK.model_dump()
    (tmp_path / "data").mkdir()
    key_file = tmp_path / "data" / "node.key"
    key_file.write_text(f"p2pnodes-node-key-1 {Author(OWN).node_key.seed.hex()}\n")
    key_file.chmod(0o600)
    yield daemon
    await daemon.stop()


def put(release: Path, daemon: Single) -> Path:
    """A release's database as the daemon ``OWN`` of that release would have left it."""
    database = daemon.directory / "data" / "p2pnodes.db"
    shutil.copy(release, database)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("INSERT INTO meta VALUES ('own_log', ?)", (codec.pack([*Author(OWN).log]),))
    return database


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
class TestUpgrade:
    """A database of any release is taken over: the same rows, the own log goes on, nothing is left behind."""

    async def test_it_shows_what_it_showed(self, daemon: Single, release: Path) -> None:
        put(release, daemon)
        wanted = json.loads(release.with_suffix(".json").read_text())
        await daemon.listening()
        status = await daemon.ask("/status")
        assert (status["events"], status["state_root"]) == (wanted["events"], wanted["state_root"])
        assert status["vector_digest"] == wanted["vector_digest"]
        rows = {row["uuid"]: (row["status"], row["chute_id"]) for row in await daemon.ask("/nodes")}
        assert rows == {uuid: (state, chute) for uuid, state, chute in wanted["rows"]}

    async def test_its_own_log_goes_on(self, daemon: Single, release: Path) -> None:
        database = put(release, daemon)
        electorate_of(daemon.directory, block=BLOCK + 100, stakes=(OWN,))  # nobody else has to be heard
        url = await daemon.listening()

        async def writes() -> bool:
            return bool((await daemon.ask("/status"))["writes"]["allowed"])

        await eventually(writes)
        before = (await daemon.ask("/status"))["log"]
        request = sign_add(hotkey("//Bob"), NOW_S + 60, body(["gpu-9"], verification_host="93.184.216.34"))
        headers = {
            "Content-Type": "application/json",
            "X-Chutes-Hotkey": hotkey("//Bob").address,
            "X-Chutes-Nonce": request.nonce,
            "X-Chutes-Signature": request.signature.hex(),
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/nodes/", data=request.body, headers=headers) as answer,
        ):
            assert answer.status == 202, await answer.text()
        after = (await daemon.ask("/status"))["log"]
        assert before["number"] == after["number"] == Author(OWN).log.number
        assert after["seq"] > before["seq"] >= 1
        assert await daemon.stop() == 0
        assert audit(database, NETWORK).problems == []


class TestDowngrade:
    """An older build opens a newer database only if that one says that it may."""

    @pytest.fixture
    async def newer(self, daemon: Single) -> Path:
        """A database of a schema that this build does not know."""
        await daemon.listening()
        await daemon.stop()
        database = daemon.directory / "data" / "p2pnodes.db"
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
            connection.execute("ALTER TABLE checks ADD COLUMN colour TEXT")
        return database

    async def test_one_that_needs_the_newer_build_is_refused_and_untouched(self, daemon: Single, newer: Path) -> None:
        with closing(sqlite3.connect(newer, isolation_level=None)) as connection:
            connection.execute("UPDATE compatibility SET lowest = ?", (SCHEMA + 1,))
            before = list(connection.iterdump())
        line = await daemon.refused()
        assert line.startswith(
            f"the database has schema {SCHEMA + 1}, this build knows {SCHEMA}: install a newer p2pnodes"
        )
        with closing(sqlite3.connect(newer)) as connection:
            assert list(connection.iterdump()) == before

    async def test_one_that_allows_it_is_opened_and_keeps_its_number(self, daemon: Single, newer: Path) -> None:
        await daemon.listening()
        assert (await daemon.ask("/status"))["database"]["failure"] is None
        assert await daemon.stop() == 0
        with closing(sqlite3.connect(newer)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)

    async def test_commands_refuse_it_in_the_same_words(self, daemon: Single, newer: Path) -> None:
        with closing(sqlite3.connect(newer, isolation_level=None)) as connection:
            connection.execute("UPDATE compatibility SET lowest = ?", (SCHEMA + 1,))
        ended = subprocess.run(
            [sys.executable, "-m", "p2pnodes", "db", "rebuild", "--config", str(daemon.config)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        assert f"the database has schema {SCHEMA + 1}, this build knows {SCHEMA}" in ended.stderr


async def test_a_newer_build_and_this_one_hold_one_inventory(tmp_path: Path) -> None:
    """Peers speak the highest version that both know: N speaks N-1."""
    ports = free_ports(2)
    peers: list[Single] = []
    write_electorate(tmp_path / "electorate.toml", *VALIDATORS[:2])
    for number, uri in enumerate(VALIDATORS[:2]):
        directory = tmp_path / f"peer{number}"
        directory.mkdir()
        shutil.copy(tmp_path / "electorate.toml", directory)
        settings: dict[str, Any] = settings_of(directory, uri)
        settings["http"] = {"host": "127.0.0.1", "port": ports[number], "url": f"http://127.0.0.1:{ports[number]}"}
        settings["gossip"] = {
            "allow_private_addresses": True,
            "bootstrap": [f"http://127.0.0.1:{ports[1 - number]}"],
        }
        peers.append(Single(directory, settings))
    peers[0].environment = {
        "PYTHONPATH": f"{Path(__file__).with_name('newer')}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    }
    said = subprocess.run(
        [sys.executable, "-c", "from p2pnodes.gossip import handshake; print(handshake.PROTOCOL_VERSION)"],
        env=os.environ | peers[0].environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert int(said.stdout) == PROTOCOL_VERSION + 1
    try:
        for peer in peers:
            await peer.listening()

        async def agree() -> bool:
            first, second = [await peer.ask("/status") for peer in peers]
            sessions = first["gossip"]["sessions"] and second["gossip"]["sessions"]
            return bool(sessions) and first["events"] >= 2 and first["vector_digest"] == second["vector_digest"]

        await eventually(agree)
    finally:
        for peer in peers:
            await peer.stop()
