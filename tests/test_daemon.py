"""The daemon's own decisions: its delegation, its log after trouble, and what makes it say not ready."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2pnodes import daemon as daemon_module
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.config import load_settings
from p2pnodes.daemon import Daemon
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import Delegation, LogId, delegate
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from tests.support import hotkey

DAY_S = 86_400
VALIDATOR = hotkey("//validator0")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Configuration of the only validator of its electorate."""
    write_hotkey_file(tmp_path / "hotkey", VALIDATOR)
    write_electorate(tmp_path, 100)
    settings = {
        "data_dir": "data",
        "hotkey_file": "hotkey",
        "network": {"genesis_hash": "0" * 64, "netuid": 64},
        "http": {"host": "127.0.0.1", "port": 0},
        "electorate": {"file": "electorate.toml"},
    }
    path = tmp_path / "p2pnodes.toml"
    path.write_text(tomli_w.dumps(settings))
    return path


def write_electorate(directory: Path, block: int) -> None:
    content = {
        "block": block,
        "time": int(time.time()),
        "validators": [{"hotkey": VALIDATOR.address, "stake": 100}],
    }
    (directory / "electorate.toml").write_text(tomli_w.dumps(content))


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(load_settings(config))
    try:
        await daemon._start()
        yield daemon
    finally:
        await daemon._stack.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def delegation(*, begun_days_ago: int, days_left: float, url: str = "") -> Delegation:
    now_s = int(time.time())
    return delegate(
        VALIDATOR, bytes(16), LogId(bytes(32), 0), url=url,
        not_before=now_s - begun_days_ago * DAY_S, not_after=now_s + int(days_left * DAY_S),
    )  # fmt: skip


class TestDelegation:
    """It is renewed when half of its days are left, and for no other reason than a new URL."""

    def test_a_fresh_one_is_not_renewed_however_far_back_it_begins(self, config: Path) -> None:
        """It begins before the electorate's time, which may be a year old."""
        daemon = Daemon(load_settings(config))
        assert not daemon._stale(delegation(begun_days_ago=400, days_left=30))

    def test_one_with_less_than_half_of_its_days_left_is_renewed(self, config: Path) -> None:
        daemon = Daemon(load_settings(config))
        assert not daemon._stale(delegation(begun_days_ago=14, days_left=15.1))
        assert daemon._stale(delegation(begun_days_ago=16, days_left=14.9))

    def test_another_url_is_announced_at_once(self, config: Path) -> None:
        daemon = Daemon(load_settings(config))
        assert daemon._stale(delegation(begun_days_ago=0, days_left=30, url="http://192.0.2.1"))


async def test_what_the_start_made_costs_no_collection_any_more(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full one over it would hold the event loop for longer than its 50 ms."""
    urls: list[str | None] = []
    daemon = Daemon(load_settings(config))
    # The test's own process must go on to collect its garbage.
    monkeypatch.setattr(gc, "freeze", lambda: urls.append(daemon._url))
    running = asyncio.create_task(daemon.run())
    try:
        await until(lambda: bool(urls) or running.done())
    finally:
        daemon._stopping.set()
        await running
    (url,) = urls
    assert url, "it listens by then"


async def test_a_first_log_that_cannot_be_opened_is_tried_again(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0
    open_log = Ledger.open_log

    def failing_twice(ledger: Ledger, *arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts <= 2:
            raise WritesRefusedError("the disk is full")
        return open_log(ledger, *arguments)

    monkeypatch.setattr(Ledger, "open_log", failing_twice)
    monkeypatch.setattr(daemon_module, "REOPEN_BACKOFF_S", 0.05)
    async with running(config) as daemon:
        assert any("the disk is full" in reason for reason in daemon.readiness())
        await until(lambda: not daemon.readiness())
    assert attempts == 3


async def test_an_electorate_that_could_not_be_stored_is_read_again(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "ELECTORATE_POLL_S", 0.02)
    async with running(config) as daemon:
        set_electorate = Database.set_electorate
        failed = False

        async def failing_once(database: Database, electorate: Any) -> None:
            nonlocal failed
            if not failed:
                failed = True
                raise WritesRefusedError("4096 writes wait for the disk already")
            await set_electorate(database, electorate)

        monkeypatch.setattr(Database, "set_electorate", failing_once)
        write_electorate(config.parent, 200)
        await until(lambda: daemon.status()["electorate"]["block"] == 200)
    assert failed


async def test_a_delegation_that_ended_without_a_hotkey_to_renew_it_is_no_secret(config: Path) -> None:
    async with running(config) as daemon:
        assert daemon._delegation is not None
        log, held = daemon._delegation
        daemon._hotkey = None
        daemon._delegation = log, held._replace(not_after=int(time.time()) - 1)
        await until(lambda: any("no hotkey_file to renew it with" in reason for reason in daemon.readiness()))


async def test_status_can_be_asked_at_every_moment_of_a_start(config: Path) -> None:
    async with running(config) as daemon:
        daemon._database.ledger.own_log = LogId(bytes(32), 7)  # as in the moment before its first commit
        assert daemon.status()["log"] is None
