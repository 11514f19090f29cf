"""The operator's commands against a daemon's admin socket."""

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any, get_args

import pytest

from p2pnodes.api.browser import Look
from p2pnodes.cli import admin, asking
from p2pnodes.store.browse import ORDERS, PAGE_ROWS_MAX, Mark, Wanted
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon
from tests.support import hotkey

ALICE = hotkey("//Alice").address
NODE = {"uuid": "u1", "status": "verified", "gpu_identifier": "h100_sxm", "hotkey": "5Alice", "server_id": None}


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
            f"log                {'cd' * 32}/7\n",
            "8 GPUs, 42 events",
            "40 stored, 3 known",
            "1 writer",
            "graval, checks: 2 running, 5 later",
            "none proved",
            "validator\n",
            "until 2025-12-24 16:00:00 UTC, signed here",
            "wss://chain.example:443 (block 100)",
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
            "forks": [{"log": "abc/0", "seq": 3}],
            "log": None,
            "delegation": None,
            "clock_offset_ms": None,
        }
        daemon.snapshot["electorate"]["error"] = "file is gone"
        daemon.snapshot["verification"]["problem"] = "GraVal service down"
        daemon.snapshot["gossip"]["peers"] = []
        out = (await ask("status")).out
        for text in (
            "there is no electorate yet",
            "own head not heard",
            "1 proved: see `p2pnodes forks`",
            "file is gone",
            "none: nothing can be written",
        ):
            assert text in out
        assert "could not check: GraVal service down" in out
        assert "no peer to compare with" in out
        assert "no peers known" in out

    async def test_a_daemon_without_a_hotkey_checks_nothing(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot["verification"] = None
        assert "none: this daemon has no hotkey to vote with" in (await ask("status")).out

    async def test_votes_without_a_look_are_called_that(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot["verification"] |= {"method": "none", "running": 0, "later": 0}
        assert (
            "off: this daemon votes verified for every claim, without a look; checks: none" in (await ask("status")).out
        )

    async def test_another_daemon_with_the_hotkey_is_told_of(self, ask: Ask, daemon: FakeDaemon) -> None:
        assert "other logs" not in (await ask("status")).out
        daemon.snapshot["other_logs"] = [{"log": "ab/1", "written_at": 1_764_000_000}]
        assert (
            "another daemon writes with this hotkey: ab/1, last at 2025-11-24 16:00:00 UTC" in (await ask("status")).out
        )

    async def test_a_reason_is_said_once(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot |= {
            "ready": ["the node is alone", "writes are refused: own head not heard"],
            "writes": {"allowed": False, "reason": "own head not heard"},
        }
        out = (await ask("status")).out
        assert out.count("own head not heard") == 1
        assert "the node is alone; writes are refused\n" in out

    @pytest.mark.parametrize(
        ("age_s", "age"), [(3, "3 s"), (119, "119 s"), (300, "5 min"), (7200, "2 h"), (366 * 86_400 + 1, "366 days")]
    )
    async def test_ages_are_for_people(self, ask: Ask, daemon: FakeDaemon, age_s: int, age: str) -> None:
        daemon.snapshot["electorate"]["age_s"] = daemon.snapshot["uptime_s"] = age_s
        out = (await ask("status")).out
        assert f"block 100, {age} old, " in out
        assert f"  {age}\n" in out

    async def test_lines_end_with_text(self, ask: Ask) -> None:
        lines = (await ask("status")).out.split("\n")
        assert [line for line in lines if line != line.rstrip()] == []
        assert len(lines) > 20

    async def test_the_socket_can_be_named_instead(self, cli: Cli, daemon: FakeDaemon, config: Path) -> None:
        path = config.parent / "data" / "admin.sock"
        ended = await asyncio.to_thread(cli, "peers", "--socket", path, "--json")
        assert ended.json == daemon.peers()


async def test_status_tells_of_a_checkpoint_that_is_not_found_here(ask: Ask, daemon: FakeDaemon) -> None:
    daemon.snapshot["checkpoint"]["lacks"] = 20_001
    (line,) = [line for line in (await ask("status")).out.splitlines() if line.startswith("checkpoint  ")]
    assert "20001 is final, and not all that it takes is here" in line


async def test_status_tells_of_a_checkpoint_that_has_no_room_for_the_own_log(ask: Ask, daemon: FakeDaemon) -> None:
    daemon.snapshot["checkpoint"]["leaves_own_log_out"] = True
    (line,) = [line for line in (await ask("status")).out.splitlines() if line.startswith("checkpoint  ")]
    assert "does not name the own log: see `p2pnodes logs explain log-left-out`" in line


@pytest.mark.parametrize(
    ("held", "of", "shown"),
    [
        (None, None, "20000 is loaded from peers: it begins"),
        (3, 10, "20000 is loaded from peers: 3 of 10 slices are here"),
    ],
)
async def test_status_tells_how_far_a_checkpoint_is_loaded(
    ask: Ask, daemon: FakeDaemon, held: int | None, of: int | None, shown: str
) -> None:
    daemon.snapshot["checkpoint"]["loading"] = {"number": 20_000, "held": held, "of": of}
    lines = (await ask("status")).out.splitlines()
    (line,) = [line for line in lines if line.startswith("checkpoint  ")]
    assert line.removeprefix("checkpoint").strip() == shown


class TestPeers:
    """Sessions, and what they say."""

    @pytest.mark.parametrize(
        ("same_vector", "same_electorate", "same_checkpoint", "same_state_root", "shown"),
        [
            (True, True, True, True, "yes"),
            (True, True, True, False, "no"),
            (False, True, True, False, "-"),
            (True, False, True, False, "-"),
            (True, True, False, False, "-"),
            (None, None, None, None, "-"),
        ],
    )
    async def test_roots_are_compared_only_at_equal_events_stakes_and_checkpoints(
        self,
        ask: Ask,
        daemon: FakeDaemon,
        *,
        same_vector: object,
        same_electorate: object,
        same_checkpoint: object,
        same_state_root: object,
        shown: str,
    ) -> None:
        same = {
            "same_vector": same_vector,
            "same_electorate": same_electorate,
            "same_checkpoint": same_checkpoint,
            "same_state_root": same_state_root,
        }
        daemon.snapshot["gossip"]["peers"] = [{"hotkey": "5Peer", "connected": True, **same}]
        head, row = (await ask("peers")).out.splitlines()
        assert head[head.index("same state root") :].split()[:3] == ["same", "state", "root"]
        assert row[head.index("same state root") :].split()[0] == shown
        assert (await ask("peers", "--json")).json[0]["same_state_root"] == same_state_root

    @pytest.mark.parametrize("command", ["peers", "status"])
    async def test_an_observer_is_marked(self, ask: Ask, daemon: FakeDaemon, command: str) -> None:
        peer = {"hotkey": "5Peer", "connected": True, "direction": "accepted"}
        daemon.snapshot["gossip"]["peers"] = [peer | {"observer": True}, peer | {"observer": False}]
        *_, first, second = (await ask(command)).out.splitlines()
        assert "accepted, observer" in first
        assert "accepted" in second
        assert "observer" not in second


class TestLists:
    """Rows of the daemon's views."""

    @pytest.mark.parametrize(
        ("arguments", "query"),
        [
            (["nodes"], ("inventory", {}, 101, None, False)),
            (
                ["nodes", "--status", "failed", "--model", "h100_sxm", "--server", "s/1", "--limit", "5"],
                ("inventory", {"status": "failed", "gpu_identifier": "h100_sxm", "server_id": "s/1"}, 6, None, False),
            ),
            (["nodes", "--uuid", "u&limit=1"], ("inventory", {"uuid": "u&limit=1"}, 101, None, False)),
            (["nodes", "--hotkey", ALICE], ("inventory", {"hotkey": ALICE}, 101, None, False)),
            (["nodes", "--chute", "c1"], ("inventory", {"chute_id": "c1"}, 101, None, False)),
            (["claims", "--task", "5A::00"], ("claims", {"task_id": "5A::00"}, 101, None, False)),
            (["claims", "--claim", "AB" * 32], ("claims", {"claim_id": "ab" * 32}, 101, None, False)),
            (["verdicts", "--finding", "failed"], ("verdicts", {"finding": "failed"}, 101, None, False)),
            (["verdicts", "--validator", ALICE], ("verdicts", {"validator": ALICE}, 101, None, False)),
            (["events", "--kind", "add"], ("event_log", {"kind": "add"}, 101, 0, True)),
            (["events", "--state", "void", "--after", "0"], ("event_log", {"state": "void"}, 101, 0, False)),
            (["events", "--node-key", "Cd" * 32], ("event_log", {"node_key": "cd" * 32}, 101, 0, True)),
        ],
    )
    async def test_options_become_filters(
        self, ask: Ask, daemon: FakeDaemon, arguments: list[str], query: tuple[Any, ...]
    ) -> None:
        daemon.rows = [NODE | {"position": 1}]
        ended = await ask(*arguments, "--json")
        assert (ended.code, ended.json, ended.err) == (0, daemon.rows, "")
        assert daemon.queries[-1] == query

    async def test_an_order_a_search_and_what_runs_are_asked_of_the_daemon(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [NODE]
        ended = await ask("nodes", "--sort", "verified", "--search", "rack", "--idle", "--model", "a100", "--json")
        assert (ended.code, ended.json, ended.err) == (0, [NODE], "")
        assert daemon.looks == [Look(Wanted("rack", gpu_identifier="a100", busy=False), "verified", 100)]
        assert "expected neither --busy" in (await ask("nodes", "--sort", "uuid", "--uuid", "u1")).err

    async def test_a_list_in_an_order_is_asked_for_page_by_page(
        self, ask: Ask, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def inventory(look: Look) -> dict[str, Any]:
            begin = 0 if look.after is None else look.after.place + 1
            rows = [{"uuid": f"u{place}"} for place in range(begin, min(begin + look.limit, 7))]
            end = begin + len(rows)
            after = None if end == 7 else Mark(f"u{end - 1}", f"u{end - 1}", end - 1).encode()
            return {"rows": rows, "place": begin, "total": 7, "before": None, "after": after}

        monkeypatch.setattr(daemon, "inventory", inventory)
        monkeypatch.setattr(admin, "PAGE_ROWS_MAX", 3)
        ended = await ask("nodes", "--sort", "uuid", "--json")
        assert [row["uuid"] for row in ended.json] == [f"u{place}" for place in range(7)]
        assert ended.err == ""
        ended = await ask("nodes", "--sort", "uuid", "--limit", "5", "--json")
        assert [row["uuid"] for row in ended.json] == [f"u{place}" for place in range(5)]
        assert ended.err == "p2pnodes: 5 rows are shown, there are more: see --limit\n"

    def test_the_orders_are_those_of_the_daemon(self) -> None:
        assert get_args(admin.NodeOrder) == tuple(ORDERS)
        assert admin.PAGE_ROWS_MAX == PAGE_ROWS_MAX

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

    @pytest.mark.parametrize("form", [[], ["--json"]])
    async def test_a_cut_list_says_so_and_a_whole_one_does_not(
        self, ask: Ask, daemon: FakeDaemon, form: list[str]
    ) -> None:
        daemon.rows = [NODE] * 3
        cut = await ask("nodes", "--limit", "2", *form)
        assert cut.err == "p2pnodes: 2 rows are shown, there are more: see --limit\n"
        assert cut.out.count("h100_sxm") == 2
        whole = await ask("nodes", "--limit", "3", *form)
        assert whole.err == ""
        assert whole.out.count("h100_sxm") == 3

    async def test_at_the_daemons_bound_nobody_knows(
        self, ask: Ask, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin, "ROWS_MAX", 100)
        daemon.rows = [NODE] * 200
        assert (await ask("nodes")).err == "p2pnodes: 100 rows are shown, there may be more: use the filters\n"

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["nodes", "--hotkey", "5Alice"], "an SS58 address"),
            (["claims", "--hotkey", ALICE[:-1] + "Z"], "an SS58 address"),
            (["claims", "--claim", "zz" * 32], "64 hex digits"),
            (["verdicts", "--validator", "//Alice"], "an SS58 address"),
            (["events", "--author", "l0IO"], "an SS58 address"),
            (["events", "--node-key", "cd" * 31], "64 hex digits"),
            (["events", "--id", ""], "64 hex digits"),
            (["events", "--kind", "adds"], "one of add, carry, checkpoint, close"),
        ],
    )
    async def test_a_filter_that_can_match_nothing_is_usage(
        self, ask: Ask, daemon: FakeDaemon, arguments: list[str], expected: str
    ) -> None:
        ended = await ask(*arguments)
        assert (ended.code, ended.out, daemon.queries) == (2, "", [])
        assert arguments[1] in ended.err
        assert f"expected {expected}" in ended.err

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

    @pytest.mark.parametrize("arguments", [("status",), ("events", "--follow")])
    def test_a_socket_of_another_user_s_daemon(
        self, cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr("socket.socket.connect", refuse)
        monkeypatch.setattr("asyncio.selector_events.BaseSelectorEventLoop.sock_connect", refuse)
        ended = cli(*arguments, "--config", config)
        assert (ended.code, ended.out) == (3, "")
        assert ended.error == (
            f"{config.parent}/data/admin.sock cannot be asked (Permission denied); run this as the daemon's user, "
            "or as a member of its group"
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

        monkeypatch.setattr(asking, "ANSWER_BYTES_MAX", 4096)
        async with await asyncio.start_unix_server(serve, tmp_path / "s"):
            ended = await asyncio.to_thread(cli, "status", "--socket", tmp_path / "s")
        assert ended.code == code
        assert reason in ended.error
