"""The operator's commands against a daemon's admin socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.cli import admin
from p2pnodes.metrics import status_registry
from tests.cli.conftest import Cli, Ended
from tests.fake_daemon import FakeDaemon

Ask = Callable[..., Awaitable[Ended]]

NODE = {"uuid": "u1", "status": "verified", "gpu_identifier": "h100_sxm", "hotkey": "5Alice", "server_id": None}


@pytest.fixture
async def daemon(config: Path) -> AsyncIterator[FakeDaemon]:
    """A daemon that answers at the socket that ``config`` names."""
    daemon = FakeDaemon()
    app = create_admin_app(daemon, status_registry(daemon.status))
    runner = await start_admin(app, config.parent / "data" / "admin.sock")
    yield daemon
    await runner.cleanup()


@pytest.fixture
def ask(cli: Cli, config: Path, daemon: FakeDaemon) -> Ask:
    """Run a command beside the daemon's loop."""

    async def ask(*arguments: object) -> Ended:
        return await asyncio.to_thread(cli, *arguments, "--config", config)

    return ask


class TestStatus:
    """A running daemon at a glance."""

    async def test_json_is_the_daemons_status(self, ask: Ask, daemon: FakeDaemon) -> None:
        ended = await ask("status", "--json")
        assert (ended.code, ended.json) == (0, daemon.snapshot)

    async def test_the_table_names_roots_electorate_queues_and_peers(self, ask: Ask) -> None:
        ended = await ask("status")
        assert ended.code == 0
        for text in (
            "01" * 32,
            "block 100, 12 s old, 3 validators (2 enrolled), 7 registered hotkeys",
            "number 7, seq 41",
            "8 GPUs, 42 events",
            "40 stored, 3 known",
            "1 writer",
            "none seen",
            "peers are -1.500 s off",
            "5Peer",
            "Connection refused",
        ):
            assert text in ended.out
        assert "\x1b" not in ended.out

    async def test_what_is_wrong_is_said(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot |= {
            "ready": ["there is no electorate yet"],
            "writes": {"allowed": False, "reason": "own head not heard"},
            "forks": [{"log": "abc/0", "seq": 3, "seen_at": 0}],
            "log": None,
            "clock_offset_ms": None,
        }
        daemon.snapshot["electorate"]["error"] = "file is gone"
        daemon.snapshot["gossip"]["peers"] = []
        out = (await ask("status")).out
        for text in ("there is no electorate yet", "own head not heard", "log abc/0 at seq 3", "file is gone"):
            assert text in out
        assert "no peer to compare with" in out
        assert "no peers known" in out

    async def test_the_socket_can_be_named_instead(self, cli: Cli, daemon: FakeDaemon, config: Path) -> None:
        path = config.parent / "data" / "admin.sock"
        ended = await asyncio.to_thread(cli, "peers", "--socket", path, "--json")
        assert ended.json == daemon.peers()


class TestLists:
    """Rows of the daemon's views."""

    @pytest.mark.parametrize(
        ("arguments", "query"),
        [
            (["nodes"], ("inventory", {}, 100, None, False)),
            (
                ["nodes", "--status", "failed", "--model", "h100_sxm", "--server", "s/1", "--limit", "5"],
                ("inventory", {"status": "failed", "gpu_identifier": "h100_sxm", "server_id": "s/1"}, 5, None, False),
            ),
            (["nodes", "--uuid", "u&limit=1"], ("inventory", {"uuid": "u&limit=1"}, 100, None, False)),
            (["claims", "--task", "5A::00"], ("claims", {"task_id": "5A::00"}, 100, None, False)),
            (["verdicts", "--finding", "failed"], ("verdicts", {"finding": "failed"}, 100, None, False)),
            (["events", "--kind", "add"], ("event_log", {"kind": "add"}, 100, None, True)),
            (["events", "--state", "void", "--after", "0"], ("event_log", {"state": "void"}, 100, 0, False)),
        ],
    )
    async def test_options_become_filters(
        self, ask: Ask, daemon: FakeDaemon, arguments: list[str], query: tuple[Any, ...]
    ) -> None:
        daemon.rows = [NODE]
        ended = await ask(*arguments, "--json")
        assert (ended.code, ended.json, ended.err) == (0, [NODE], "")
        assert daemon.queries == [query]

    async def test_the_table_shows_rows_in_full(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [NODE | {"server_id": "s" * 300, "detail": "\x1b[2Jgone"}]
        out = (await ask("nodes")).out
        head, row = out.splitlines()
        assert head.split()[:3] == ["uuid", "status", "gpu"]
        assert row.split()[:2] == ["u1", "verified"]
        assert "s" * 300 in row
        assert r"\x1b[2Jgone" in row

    async def test_no_rows_is_said(self, ask: Ask) -> None:
        assert (await ask("claims")).out == "none\n"

    async def test_a_cut_list_says_so(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [NODE] * 3
        assert "there may be more: see --limit" in (await ask("nodes", "--limit", "3")).err
        assert (await ask("nodes", "--limit", "4")).err == ""

    @pytest.mark.parametrize(
        "arguments", [["nodes", "--limit", "0"], ["nodes", "--status", "odd"], ["events", "--after", "x"]]
    )
    async def test_a_bad_option_is_usage(self, ask: Ask, arguments: list[str]) -> None:
        assert (await ask(*arguments)).code == 2

    async def test_what_the_daemon_refuses_is_one_line(self, ask: Ask) -> None:
        ended = await ask("nodes", "--uuid", "x" * 600)
        assert ended.code == 1
        assert "the daemon answered 400: a filter is longer than 512 characters" in ended.error


class TestNobodyThere:
    """No daemon, or something else at its socket."""

    @pytest.mark.parametrize("command", ["status", "peers", "nodes", "claims", "verdicts", "events"])
    def test_no_daemon_is_exit_code_3(self, cli: Cli, config: Path, command: str) -> None:
        ended = cli(command, "--config", config)
        assert ended.code == 3
        assert ended.error.startswith(
            f"no daemon answers at {config.parent}/data/admin.sock (No such file or directory)"
        )

    def test_a_socket_that_nobody_serves(self, cli: Cli, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "s"))
        ended = cli("status", "--socket", tmp_path / "s")
        assert ended.code == 3
        assert "(Connection refused)" in ended.error

    def test_a_path_that_is_too_long_for_a_socket(self, cli: Cli) -> None:
        ended = cli("status", "--socket", "/" + "x" * 200)
        assert ended.code == 3
        assert "path too long" in ended.error

    def test_neither_configuration_nor_socket_is_usage(self, cli: Cli) -> None:
        ended = cli("status")
        assert ended.code == 2
        assert "--socket" in ended.err

    @pytest.mark.parametrize(
        ("answer", "code", "reason"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1, "answered 200 without JSON"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b" " * 9000, 1, "more than 4096 bytes"),
            (b"SSH-2.0\r\n", 3, "no daemon answers"),
            (b"", 3, "no daemon answers"),
        ],
    )
    async def test_something_else_at_the_socket_is_one_line(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answer: bytes, code: int, reason: str
    ) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

        monkeypatch.setattr(admin, "ANSWER_BYTES_MAX", 4096)
        async with await asyncio.start_unix_server(serve, tmp_path / "s"):
            ended = await asyncio.to_thread(cli, "status", "--socket", tmp_path / "s")
        assert ended.code == code
        assert reason in ended.error
