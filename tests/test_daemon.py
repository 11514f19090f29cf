"""The daemon's own decisions: what it reads, when it starts, and what makes it say not ready."""

import asyncio
import gc
import logging
import os
import sqlite3
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest
import tomli_w
from structlog.testing import capture_logs

from p2pnodes import daemon as daemon_module
from p2pnodes import loops
from p2pnodes.chain.file import ElectorateFile
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.config import load_settings
from p2pnodes.daemon import Daemon, bound_stop, is_journal, now_ms
from p2pnodes.gossip.driver import Driver
from p2pnodes.metrics import METRICS
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import ConfigError, WritesRefusedError
from p2pnodes.model.events import Event, LogId, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.notify import Supervisor
from p2pnodes.store import database as database_module
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.state import Result, State
from tests.gossip.past import lived
from tests.store.test_checkpoints import DAY_MS
from tests.support import hotkey

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


def write_electorate(directory: Path, block: int, *others: dict[str, Any], age_s: int = 0) -> None:
    content = {
        "block": block,
        "time": int(time.time()) - age_s,
        "validators": [{"hotkey": VALIDATOR.address, "stake": 100}, *others],
    }
    (directory / "electorate.toml").write_text(tomli_w.dumps(content))


@asynccontextmanager
async def running(config: Path, supervisor: Supervisor | None = None) -> AsyncIterator[Daemon]:
    daemon = Daemon(load_settings(config), supervisor=supervisor)
    try:
        await daemon._start()
        yield daemon
    finally:
        await daemon._stack.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


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


async def test_an_electorate_that_could_not_be_stored_is_read_again(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElectorateFile, "pause_s", 0.02)
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


async def test_an_electorate_that_is_too_old_makes_the_daemon_say_not_ready_until_a_newer_one_comes(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElectorateFile, "pause_s", 0.02)
    settings = tomllib.loads(config.read_text())
    settings["electorate"]["max_age_s"] = 60
    config.write_text(tomli_w.dumps(settings))
    write_electorate(config.parent, 100, age_s=100)
    async with running(config) as daemon:
        await until(lambda: any("at most 60 are allowed" in reason for reason in daemon.readiness()))
        assert daemon._database.ledger.writes_refused is None, "an old electorate is no reason to refuse writes"
        write_electorate(config.parent, 200)
        await until(lambda: not daemon.readiness())


async def test_what_is_wrong_with_the_electorate_is_told_for_as_long_as_it_is(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElectorateFile, "pause_s", 0.02)
    async with running(config) as daemon:
        good = (config.parent / "electorate.toml").read_text()
        (config.parent / "electorate.toml").write_text("block = 'high'")
        await until(lambda: "electorate.toml" in (daemon.status()["electorate"]["error"] or ""))
        (config.parent / "electorate.toml").write_text(good)
        await until(lambda: daemon.status()["electorate"]["error"] is None)
        write_electorate(config.parent, 200, age_s=-3600)
        await until(lambda: "ahead of the system clock" in (daemon.status()["electorate"]["error"] or ""))


async def test_status_can_be_asked_at_every_moment_of_a_start(config: Path) -> None:
    async with running(config) as daemon:
        daemon._database.ledger.own_log = LogId(bytes(32), 7)  # as in the moment before its first commit
        assert daemon.status()["log"] is None


async def test_a_start_while_a_checkpoint_takes_something_away_is_one_like_any_other(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is stored first is told when nobody is there yet who takes away."""
    monkeypatch.setattr(State, "cutting", True)
    async with running(config):
        pass
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_observer_is_not_ready_before_it_has_caught_up_with_somebody(config: Path) -> None:
    text = config.read_text().replace('hotkey_file = "hotkey"', 'role = "observer"')
    config.write_text(text)
    async with running(config) as daemon:
        assert any("not caught up" in reason for reason in daemon.readiness())
        assert not daemon.status()["writes"]["allowed"]


async def test_whether_it_is_ready_costs_an_observer_no_look_at_what_each_peer_lacks(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask, as often as he likes; with 64 sessions that look took 40 ms and more of the event loop."""
    config.write_text(config.read_text().replace('hotkey_file = "hotkey"', 'role = "observer"'))
    async with running(config) as daemon:
        monkeypatch.setattr(Driver, "status", lambda _: pytest.fail("everything was looked at"))
        assert not daemon._caught_up()
        monkeypatch.setattr(Driver, "agreed", lambda _: True)
        assert daemon.readiness() == []
        monkeypatch.setattr(Driver, "agreed", lambda _: False)
        assert daemon.readiness() == [], "it has been so once"


async def test_gossip_hears_who_the_other_validators_are_and_where_those_with_most_stake_first(config: Path) -> None:
    low, high, hidden = (hotkey(f"//validator{number}") for number in (1, 2, 3))
    others = (
        {"hotkey": low.address, "stake": 50, "address": "http://low.example"},
        {"hotkey": high.address, "stake": 200, "address": "http://high.example"},
        {"hotkey": hidden.address, "stake": 60},
    )
    write_electorate(config.parent, 100, *others)
    text = tomllib.loads(config.read_text())
    config.write_text(tomli_w.dumps({**text, "gossip": {"view_size": 5}}))
    async with running(config) as daemon:
        view = daemon._driver._engine._view
        await until(lambda: view.status()["members"] == 3)
        assert view.status()["size"] == 5
        members = view._members or {}
        assert [*members] == [high.public_key, hidden.public_key, low.public_key]
        assert [found.dialable for found in members.values()] == [True, False, True]
        assert {found.node_key for found in members.values()} == {None}


async def test_those_whose_word_about_the_own_head_counts_come_before_others_with_more_stake(config: Path) -> None:
    low, high = hotkey("//validator1"), hotkey("//validator2")
    others = ({"hotkey": each.address, "stake": stake} for each, stake in ((high, 200), (low, 50)))
    write_electorate(config.parent, 100, *others)
    async with running(config) as daemon:
        view, network = daemon._driver._engine._view, daemon.settings.network
        node_key, now_s = NodeKey.from_seed(bytes(32)), int(time.time())
        log = LogId(node_key.public_key, 0)
        delegation = delegate(
            low, network.id, log, url="http://192.0.2.1", not_before=now_s - 3_600, not_after=now_s + 3_600
        )
        event = Event.create(
            node_key, network.id, log_number=0, seq=0, previous=b"", hlc=hlc_at(now_ms()), payload=delegation
        )
        (outcome,) = await daemon._database.receive([event], now_ms())
        assert outcome.result is Result.STORED
        await daemon._set_targets()
        assert [*(view._members or {})] == [low.public_key, high.public_key]


async def test_all_are_visited_as_long_as_the_own_head_has_to_be_heard(config: Path) -> None:
    async with running(config) as daemon:
        assert daemon._author is not None
        await until(lambda: daemon._database.ledger.writes_refused is None)
        assert not daemon._author.hearing
        assert not daemon._driver._engine._view._sweeping
    write_electorate(config.parent, 200, {"hotkey": hotkey("//validator1").address, "stake": 100})
    async with running(config) as daemon:
        assert daemon._author is not None
        assert daemon._author.hearing, "nobody has been heard"
        await until(lambda: daemon._driver._engine._view._sweeping)


@pytest.mark.parametrize(
    ("method", "loop"),
    [
        ("_start_verifying", "Daemon._watch_own_log"),
        ("_tell_strangers", "Daemon._watch_targets"),
        ("_condition", "Daemon._report"),
    ],
)
async def test_a_loop_that_fails_is_told_and_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, method: str, loop: str
) -> None:
    """A task that fails and that nobody awaits ends without a word until the daemon stops."""
    calls = 0

    def fail_once(*_: object) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        return ""

    monkeypatch.setattr(loops, "PAUSE_S", 0.01)
    monkeypatch.setattr(daemon_module, "TARGETS_POLL_S", 0.01)
    with capture_logs() as logs:
        async with running(config, Ear()):
            monkeypatch.setattr(Daemon, method, fail_once)
            await until(lambda: calls > 1)
    failed = [(record["loop"], record["code"]) for record in logs if record["event"] == "loop_failed"]
    assert failed == [(loop, Code.SYSTEM_BUG)]


async def test_a_loop_that_fails_each_time_has_few_lines_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    times = 0

    async def loop() -> None:
        nonlocal times
        times += 1
        if times <= 4 * loops.FAILURES_LOGGED_BURST:
            raise RuntimeError("a bug")

    monkeypatch.setattr(loops, "PAUSE_S", 0.0)
    with capture_logs() as logs:
        await loops.kept_up(loop)
    assert [record["left_out"] for record in logs] == [0] * loops.FAILURES_LOGGED_BURST


class Ear(Supervisor):
    """A supervisor that notes the signs of life it gets."""

    def __init__(self) -> None:
        super().__init__("/nowhere", 0.03)
        self.alives = 0

    def _tell(self, *fields: str, fds: Sequence[int] = ()) -> None:
        self.alives += "WATCHDOG=1" in fields


class TestSignsOfLife:
    """A watchdog is fed by the writer's work, not by the event loop alone."""

    async def test_they_stop_while_the_writer_does_nothing_and_go_on_when_it_does(self, config: Path) -> None:
        ear = Ear()
        async with running(config, ear) as daemon:
            await until(lambda: ear.alives >= 2)
            waiting, held = threading.Event(), threading.Event()

            def hang(_: Ledger) -> None:  # as a disk does
                waiting.set()
                held.wait()

            job = asyncio.create_task(daemon._database.write(hang))
            await asyncio.to_thread(waiting.wait)
            before = ear.alives
            turns = 0

            async def turn() -> None:  # the event loop goes on meanwhile, for longer than the watchdog waits
                nonlocal turns
                deadline = time.monotonic() + 3 * 0.03
                while time.monotonic() < deadline:
                    await asyncio.sleep(0)
                    turns += 1

            await turn()
            assert turns > 0
            assert ear.alives <= before + 1, "one turn may have been on its way"
            held.set()
            await job
            await until(lambda: ear.alives > before + 1)

    async def test_a_disk_that_is_full_is_no_reason_to_start_anew(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ear = Ear()
        async with running(config, ear):

            def full(_: Ledger) -> NoReturn:
                raise sqlite3.OperationalError("database or disk is full")

            monkeypatch.setattr(Ledger, "transaction", full)
            before = ear.alives
            await until(lambda: ear.alives > before + 2)

    async def test_a_writer_that_is_never_done_lives(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database_module, "QUEUED_JOBS_MAX", 8)
        ear = Ear()
        async with running(config, ear) as daemon:
            begun = threading.Event()

            def work(_: Ledger) -> None:
                begun.set()
                time.sleep(0.002)  # some statements, which let go of the interpreter

            async def again() -> None:
                while True:
                    with suppress(WritesRefusedError):
                        await daemon._database.write(work)
                    await asyncio.sleep(0)

            busy = [asyncio.create_task(again()) for _ in range(3 * 8)]  # each of the turns finds it full
            await asyncio.to_thread(begun.wait)
            before = ear.alives
            await until(lambda: ear.alives > before + 3)
            assert daemon._database.refused_jobs
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)


class TestStop:
    """A stop ends, whatever hangs."""

    async def test_it_is_given_up_when_something_does_not_let_go_and_the_log_says_what(self) -> None:
        ended: asyncio.Queue[int] = asyncio.Queue()

        async def hangs() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        hanging = asyncio.create_task(hangs())
        await asyncio.sleep(0)  # it begins
        with capture_logs() as records:
            bound_stop(0.01, lambda status: loop.call_soon_threadsafe(ended.put_nowait, status))
            hanging.cancel()
            async with asyncio.timeout(20):
                assert await ended.get() == 1
        hanging.cancel()
        (record,) = records
        assert (record["event"], record["code"]) == ("stop_given_up", Code.SYSTEM_STOP)
        assert [name for name in record["tasks"] if name.endswith("hangs > Event.wait")]
        assert "MainThread" in record["threads"]

    async def test_without_a_thread_to_watch_it_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: threading.Thread) -> NoReturn:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        bound_stop(60, lambda _: pytest.fail("it was ended"))

    @pytest.mark.parametrize("starts", [True, False])
    async def test_it_is_bounded_from_its_beginning(self, config: Path, *, starts: bool) -> None:
        if not starts:
            (config.parent / "data").write_text("no directory")
        began: list[bool] = []
        daemon = Daemon(load_settings(config), on_stop=lambda: began.append(daemon._stopping.is_set()))
        running = asyncio.create_task(daemon.run())
        if starts:
            await until(lambda: daemon._url is not None)
            daemon._stopping.set()
            await running
        else:
            with pytest.raises(ConfigError):
                await running
        assert began == [starts]


def test_only_the_stream_that_systemd_names_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream.fileno())
        assert not is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, stream.fileno())
        assert not is_journal({"JOURNAL_STREAM": "soon"}, stream.fileno())
        assert not is_journal({}, stream.fileno())
        number = stream.fileno()
    assert not is_journal({"JOURNAL_STREAM": "1:2"}, number), "a file that is closed"


async def test_a_daemon_exposes_every_metric_of_the_table_and_fills_those_of_its_own_doing(config: Path) -> None:
    async with running(config) as daemon:
        async with aiohttp.ClientSession() as session, session.get(f"{daemon._url}/healthz") as response:
            assert response.status == 200

        def value(name: str, **labels: str) -> float:
            return daemon._registry.get_sample_value(name, labels) or 0

        await until(lambda: value("p2pnodes_loop_lag_seconds_count") > 0)
        await until(lambda: value("p2pnodes_own_events_total", kind="delegate") == 1)
        suffixes = {"counter": "_total", "info": "_info"}
        exposed = {family.name + suffixes.get(family.type, "") for family in daemon._registry.collect()}
        assert exposed == METRICS.keys()
        assert value("p2pnodes_http_requests_total", route="/healthz", method="GET", code="200") == 1
        assert value("p2pnodes_commit_seconds_count") >= 1
        assert value("p2pnodes_electorate_block") == 100
        assert value("p2pnodes_database_working") == 1
        assert value("p2pnodes_database_bytes", file="database") > 0
        assert value("p2pnodes_sessions", role="validator", link="eager") == 0
        assert value("p2pnodes_verifier_working") == 1


async def test_the_log_level_of_an_operator_ends_when_the_settings_are_read_again(config: Path) -> None:
    root = logging.getLogger()
    before = root.level
    try:
        async with running(config) as daemon:
            daemon.set_log_level("error", None, 600)
            assert root.level == logging.ERROR
            (change,) = daemon.status()["logging"]["changed"]
            assert (change["logger"], change["level"]) == (None, "error")
            assert 0 < change["left_s"] <= 600
            await daemon._reload(lambda: load_settings(config))
            assert root.level == logging.INFO
            assert daemon.log_level() == {"configured": "info", "changed": []}
    finally:
        root.setLevel(before)


async def test_an_operators_bans_outlive_the_driver_of_a_node_key(config: Path) -> None:
    async with running(config) as daemon:
        peer = hotkey("//Malice").public_key
        assert daemon.ban(peer, "it floods us", 60)["warning"] is None
        another = daemon._make_driver(daemon._node_key)
        assert [ban["ban_reason"] for ban in another.bans()] == ["it floods us"]
        assert daemon.lift_ban(peer)
        assert daemon.bans() == another.bans() == []


async def test_it_is_not_ready_while_the_inventory_comes_from_peers_and_says_how_far_it_is(config: Path) -> None:
    (past,) = lived(8 * DAY_MS)
    async with running(config) as daemon:
        await until(lambda: not daemon.readiness())
        await daemon._database.write(lambda ledger: ledger.begin_loading(past.certificate))
        here = f"0 of {past.slices} slices of checkpoint {past.number} are here"
        await until(lambda: f"the inventory is loaded from peers: {here}" in daemon.readiness())
        assert Code.WRITES_LOADING in {reason.code for reason in daemon.readiness()}
        assert daemon.status()["checkpoint"]["loading"] == {"number": past.number, "held": 0, "of": past.slices}
    async with running(config) as daemon:  # what is half done is gone on with
        await until(lambda: daemon.status()["checkpoint"]["loading"] is not None)


async def test_what_is_wrong_has_the_same_code_in_readiness_status_and_writes(config: Path) -> None:
    async with running(config) as daemon:
        await until(lambda: not daemon.readiness())
        daemon._database.ledger.writes_refused = Reason("the clock is off", Code.WRITES_CLOCK)
        assert daemon.status()["writes"] == {
            "allowed": False, "reason": "the clock is off", "code": Code.WRITES_CLOCK,
        }  # fmt: skip
        (reason,) = daemon.readiness()
        assert (reason, reason.code) == ("writes are refused: the clock is off", Code.WRITES_CLOCK)
