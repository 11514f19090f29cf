"""``doctor``: ten faults, each planted alone, are named; without one there are none."""

import asyncio
import errno
import os
import socket
import sqlite3
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from aiohttp import web

from p2pnodes.cli.doctor import _address
from p2pnodes.gossip.handshake import RefusedByPeerError
from tests.cli.conftest import Ask, Cli, Ended
from tests.fake_daemon import FakeDaemon
from tests.gossip.test_handshake import pick_up
from tests.support import hotkey

MODULE = sys.modules["p2pnodes.cli.doctor"]
"""The package's attribute of that name is the command."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def change(config: Path, **tables: Any) -> None:
    """Write settings over others."""
    settings = tomllib.loads(config.read_text())
    for table, values in tables.items():
        settings[table] = {**settings.get(table, {}), **values} if isinstance(values, dict) else values
    config.write_text(tomli_w.dumps(settings))


def problems(ended: Ended) -> list[str]:
    """Checks that found a problem; the exit code says the same."""
    found = [finding["check"] for finding in ended.json if finding["level"] == "problem"]
    assert ended.code == int(bool(found))
    assert all(finding["advice"] for finding in ended.json if finding["level"] == "problem")
    return found


class TestStopped:
    """Before the first start, and whenever the daemon does not run."""

    def test_one_that_could_start_has_no_problem(self, cli: Cli, config: Path, database: Path) -> None:
        change(config, http={"port": 0})
        ended = cli("doctor", "--config", config, "--offline")
        assert (ended.code, ended.err) == (0, "")
        assert "no problems found" in ended.out
        assert f"SQLite finds {database} whole" in ended.out

    def test_that_it_does_not_answer_is_the_problem(self, cli: Cli, config: Path, database: Path) -> None:
        change(config, http={"port": 0})
        ended = cli("doctor", "--config", config, "--json")
        assert problems(ended) == ["daemon"]
        (daemon,) = [finding for finding in ended.json if finding["check"] == "daemon"]
        assert daemon["code"] == "admin-unreachable"
        assert "the hotkey may validate" in str(ended.json)

    @pytest.mark.parametrize(("days", "level"), [(0, "ok"), (8, "warning")])
    def test_what_restore_put_aside_is_mentioned(
        self, cli: Cli, config: Path, database: Path, days: int, level: str
    ) -> None:
        change(config, http={"port": 0})
        mark = datetime.fromtimestamp(time.time() - days * 86_400, UTC).strftime("%Y%m%dT%H%M%SZ")
        database.with_name(f"{database.name}.before-restore-{mark}").write_bytes(b"x" * 1_500_000)
        ended = cli("doctor", "--config", config, "--json")
        assert problems(ended) == ["daemon"]
        (copies,) = [finding for finding in ended.json if finding["check"] == "copies"]
        assert copies["level"] == level
        assert f"1.5 MB in databases that `restore` put aside, the oldest {days} days ago" in copies["found"]
        if level == "ok":
            assert copies["found"].endswith("; 1 copy kept, younger than 7 days")
        else:
            assert "p2pnodes db prune" in copies["advice"]

    def test_a_mistyped_setting(self, cli: Cli, config: Path) -> None:
        change(config, http={"prot": 8000})
        assert problems(cli("doctor", "--config", config, "--json")) == ["configuration"]

    def test_a_key_that_others_can_read(self, cli: Cli, config: Path) -> None:
        change(config, http={"port": 0})
        (config.parent / "hotkey.json").chmod(0o644)
        assert problems(cli("doctor", "--config", config, "--json")) == ["configuration", "daemon"]

    def test_a_port_that_is_taken(self, cli: Cli, config: Path, taken: int) -> None:
        change(config, http={"port": taken})
        ended = cli("doctor", "--config", config, "--json")
        assert problems(ended) == ["daemon", "port"]
        assert f"port {taken}" in str(ended.json)

    def test_a_daemon_that_this_user_may_not_ask_has_its_ports(
        self, cli: Cli, config: Path, taken: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        change(config, http={"port": taken})
        monkeypatch.setattr("p2pnodes.cli.asking._UnixConnection.connect", refuse)
        ended = cli("doctor", "--config", config, "--json")
        assert problems(ended) == ["daemon"]
        (daemon,) = [finding for finding in ended.json if finding["check"] == "daemon"]
        assert daemon["advice"] == "run this as the daemon's user"

    def test_a_hotkey_without_a_permit(self, cli: Cli, config: Path) -> None:
        change(config, http={"port": 0})
        electorate = {
            "block": 200, "time": int(time.time()), "validators": [{"hotkey": hotkey("//bob").address, "stake": 1}]
        }  # fmt: skip
        (config.parent / "electorate.toml").write_text(tomli_w.dumps(electorate))
        assert problems(cli("doctor", "--config", config, "--json")) == ["daemon", "permit"]

    def test_a_chain_that_does_not_answer(
        self, cli: Cli, config: Path, taken: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MODULE, "CHAIN_S_MAX", 1.0)
        settings = tomllib.loads(config.read_text())
        settings |= {"http": {"port": 0}, "electorate": {"urls": [f"ws://127.0.0.1:{taken}"]}}
        config.write_text(tomli_w.dumps(settings))
        assert problems(cli("doctor", "--config", config, "--json")) == ["daemon", "chain"]
        assert problems(cli("doctor", "--config", config, "--json", "--offline")) == []

    def test_a_database_with_a_damaged_page(self, cli: Cli, config: Path, database: Path) -> None:
        change(config, http={"port": 0})
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE filler AS SELECT randomblob(4096) FROM pragma_function_list LIMIT 100")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = bytearray(database.read_bytes())
        content[-40 * 4_096 : -10 * 4_096] = bytes(range(256)) * (30 * 16)
        database.write_bytes(content)
        assert problems(cli("doctor", "--config", config, "--json")) == ["database", "daemon"]

    @pytest.mark.parametrize(
        ("statement", "told"),
        [
            ("PRAGMA user_version = 99", ("data-newer", "install a newer p2pnodes")),
            ("DROP TABLE events", ("data-missing", "no p2pnodes database (it has no events); expected ")),
        ],
    )
    def test_a_database_that_no_daemon_starts_on(
        self, cli: Cli, config: Path, database: Path, statement: str, told: tuple[str, str]
    ) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE compatibility SET lowest = 99")
            connection.execute(statement)
        ended = cli("doctor", "--config", config, "--offline", "--json")
        assert ended.code == 1
        (finding,) = [each for each in ended.json if each["check"] == "database"]
        assert (finding["level"], finding["code"]) == ("problem", told[0])
        assert told[1] in finding["found"]

    def test_one_that_is_empty_is_made_by_the_next_start(self, cli: Cli, config: Path, database: Path) -> None:
        """A first start that was killed at once leaves such a file."""
        database.write_bytes(b"")
        assert problems(cli("doctor", "--config", config, "--json")) == ["daemon"]

    def test_a_database_of_another_network(self, cli: Cli, config: Path, database: Path) -> None:
        change(config, http={"port": 0})
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'network_id'", (bytes(16),))
        ended = cli("doctor", "--config", config, "--json")
        assert problems(ended) == ["database", "daemon"]
        assert f"is of network {bytes(16).hex()}" in str(ended.json)

    def test_a_disk_that_is_nearly_full(self, cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        change(config, http={"port": 0})

        class Full:
            f_bavail = 10
            f_frsize = 4_096

        monkeypatch.setattr("os.statvfs", lambda _: Full)
        assert problems(cli("doctor", "--config", config, "--json")) == ["disk", "daemon"]

    def test_a_large_database_is_looked_at_for_a_while_only(
        self, cli: Cli, config: Path, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change(config, http={"port": 0})
        monkeypatch.setattr(MODULE, "DATABASE_S_MAX", 0.0)
        monkeypatch.setattr(MODULE, "_STEPS_BETWEEN_LOOKS", 1)
        ended = cli("doctor", "--config", config, "--json")
        assert problems(ended) == ["daemon"]
        assert "db verify" in str(ended.json)


class TestRunning:
    """Beside a daemon that answers."""

    async def test_one_that_is_well_has_no_problem(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot["delegation"]["not_after"] = time.time() + 30 * 86_400
        assert problems(await ask("doctor", "--json")) == []

    async def test_what_it_says_of_itself_is_judged(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot["delegation"]["not_after"] = time.time() + 30 * 86_400
        daemon.snapshot["clock_offset_ms"] = 45_000
        daemon.snapshot["writes"] = {"allowed": False, "reason": "the clock is off"}
        assert problems(await ask("doctor", "--json")) == ["clock", "writes"]


class Proxy:
    """What stands at the public address."""

    def __init__(self, *, websockets: bool, status: int = 200) -> None:
        self.websockets = websockets
        self.status = status
        self.heard: list[bytes] = []

    async def healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, status=self.status)

    async def gossip(self, request: web.Request) -> web.StreamResponse:
        if not self.websockets:
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.heard = [message.data async for message in socket]
        return socket


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    """Starts a proxy; its URL."""
    runners: list[web.AppRunner] = []

    async def serve(proxy: Proxy) -> str:
        app = web.Application()
        app.router.add_get("/healthz", proxy.healthz)
        app.router.add_get("/gossip", proxy.gossip)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    yield serve
    for runner in runners:
        await runner.cleanup()


class TestAddress:
    """The way from outside, as peers come."""

    @pytest.mark.parametrize(
        ("proxy", "level", "words"),
        [
            (Proxy(websockets=True), "ok", "WebSockets, too"),
            (Proxy(websockets=False), "problem", "answered 404: WebSockets do not pass"),
            (Proxy(websockets=True, status=502), "problem", "/healthz answered 502"),
        ],
    )
    async def test_both_plain_requests_and_websockets_must_pass(
        self, serve: Any, proxy: Proxy, level: str, words: str
    ) -> None:
        found = await _address(await serve(proxy), running=True)
        assert (found.check, found.level) == ("address", level)
        assert words in found.found

    async def test_the_daemon_is_told_so_that_its_log_has_no_warning(self, serve: Any) -> None:
        """A refusal by the other side is told at info; see ``Driver._accept``."""
        proxy = Proxy(websockets=True)
        assert (await _address(await serve(proxy), running=True)).level == "ok"
        (hello,) = proxy.heard
        with pytest.raises(RefusedByPeerError, match="p2pnodes doctor only looks"):
            pick_up().answer(hello)

    async def test_nobody_there_is_a_problem_of_a_running_daemon_alone(self, serve: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert (await _address(url, running=True)).level == "problem"
        assert (await _address(url, running=False)).level == "not checked"

    async def test_a_plain_port_is_no_tls(self, serve: Any) -> None:
        url = await serve(Proxy(websockets=True))
        found = await _address(url.replace("http:", "https:"), running=True)
        assert found.level == "problem"
        assert "TLS failed" in found.found

    async def test_an_address_that_never_answers_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MODULE, "PROBE_S_MAX", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            found = await asyncio.wait_for(_address(f"http://127.0.0.1:{listener.getsockname()[1]}", running=True), 20)
        assert found.level == "problem"
