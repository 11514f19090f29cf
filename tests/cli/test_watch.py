"""``--follow`` and ``--watch``: what happens is told once and in order, also over a restart of the daemon."""

import asyncio
import json
import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.api.tail import TAIL_KEY
from p2pnodes.cli.asking import RefusedError
from p2pnodes.cli.output import UnreachableError, print_fields, say
from p2pnodes.metrics import status_registry
from p2pnodes.model.errors import StoreError
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon
from tests.support import hotkey

following = sys.modules["p2pnodes.cli.watch"]

ALICE = hotkey("//Alice").address


def row(position: int, kind: str = "verdict", reason: str | None = None) -> dict[str, Any]:
    """An event as ``GET /events`` tells it."""
    return {
        "position": position, "node_key": "ab" * 32, "number": 7, "seq": position - 1, "id": f"{position:064x}",
        "kind": kind, "at": "2026-01-31T12:00:00.000Z", "author": ALICE, "state": "void" if reason else "valid",
        "reason": reason, "bytes": 200,
    }  # fmt: skip


class Served:
    """A daemon whose admin interface can be stopped and started again."""

    def __init__(self, path: Path) -> None:
        self.daemon = FakeDaemon()
        self.path = path
        self.runner: web.AppRunner | None = None
        self.app: web.Application | None = None

    async def start(self) -> None:
        self.app = create_admin_app(self.daemon, status_registry(self.daemon.status))
        self.runner = await start_admin(self.app, self.path)

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    def store(self, *rows: dict[str, Any]) -> None:
        self.daemon.rows += rows
        if self.app is not None:
            self.app[TAIL_KEY].committed()


@pytest.fixture
async def served(tmp_path: Path) -> Any:
    served = Served(tmp_path / "admin.sock")
    await served.start()
    yield served
    await served.stop()


@pytest.fixture(autouse=True)
def _again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.01)


class TestFollow:
    """``events --follow``: the latest events, then each one as it is stored."""

    async def test_the_latest_come_first_oldest_of_them_before(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [row(position) for position in range(1, 21)]
        ended = await ask("events", "--follow", "--limit", 3, "--timeout", 0.2)
        assert ended.code == 0
        assert re.findall(r"#(\d+)", ended.out) == ["18", "19", "20"]
        assert ended.out.splitlines()[0] == (
            f"2026-01-31T12:00:00.000Z #18 verdict  valid   {ALICE} log {'ab' * 32}/7 seq 17"
        )

    async def test_a_void_event_says_why(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [row(1, reason="a bad\x1b[31m signature")]
        out = (await ask("events", "-f", "--timeout", 0.2)).out
        assert out.endswith("seq 0 a bad\\x1b[31m signature\n")

    async def test_json_is_one_object_a_line(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [row(1), row(2)]
        ended = await ask("events", "--follow", "--after", 0, "--json", "--timeout", 0.3)
        assert [json.loads(line) for line in ended.out.splitlines()] == daemon.rows

    async def test_filters_are_asked_of_the_daemon(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [row(1)]
        await ask("events", "--follow", "--kind", "add", "--state", "void", "--author", ALICE, "--timeout", 0.2)
        filters = {"kind": "add", "state": "void", "author": ALICE}
        assert ("event_log", filters, 10, 0, True) in daemon.queries
        assert ("event_log", filters, 256, 1, False) in daemon.queries

    async def test_without_follow_a_limit_of_0_is_usage(self, ask: Ask) -> None:
        ended = await ask("events", "--limit", 0)
        assert ended.code == 2
        assert "--limit 0 shows nothing" in ended.err

    def test_nobody_there_is_exit_code_3(self, cli: Cli, config: Path) -> None:
        ended = cli("events", "--follow", "--after", 0, "--config", config)
        assert ended.code == 3
        assert "no daemon answers at" in ended.error

    async def test_a_restart_leaves_nothing_out(self, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
        served.store(row(1))
        async with asyncio.timeout(20), aclosing(following._events(served.path, {}, 0)) as events:
            assert (await anext(events)).id == "1"
            await served.stop()
            served.store(row(2))
            upcoming = asyncio.ensure_future(anext(events))
            while "went away" not in capsys.readouterr().err:
                await asyncio.sleep(0.005)
            await served.start()
            assert (await upcoming).id == "2"
            served.store(row(3))
            assert (await anext(events)).id == "3"
        assert capsys.readouterr().err == "p2pnodes: the daemon is back\n"

    async def test_a_refusal_is_told_and_ends_it(self, served: Served) -> None:
        async with aclosing(following._events(served.path, {"colour": "red"}, 0)) as events:
            with pytest.raises(RefusedError, match="unknown parameter 'colour'"):
                await anext(events)

    async def test_another_database_is_told_of(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.rows = [row(1)]
        ended = await ask("events", "--follow", "--after", 99, "--timeout", 0.2)
        assert "another database" in ended.err


class FakeClock:
    """Time that passes by being waited for; at each wait the next thing happens."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.s = 0.0
        self.waits: list[float] = []
        self._steps: Iterator[Callable[[], None]] = iter(steps)

    def now(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.s += seconds
        step = next(self._steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    def label(self) -> str:
        return f"12:00:{self.s:02.0f}"


class Thing:
    """Something to watch."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows: list[dict[str, Any]] | Exception = list(rows)
        self.watched = following.Watched(
            self._read, lambda rows: say(f"rows: {len(rows)}"), "nodes", key=following.by("uuid"),
            volatile=frozenset({"rtt_ms"}),
        )  # fmt: skip

    def _read(self) -> list[dict[str, Any]]:
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows

    def becomes(self, *rows: dict[str, Any]) -> Callable[[], None]:
        return lambda: setattr(self, "rows", list(rows))

    def fails(self, error: Exception) -> Callable[[], None]:
        return lambda: setattr(self, "rows", error)


ONE = {"uuid": "u1", "status": "pending", "detail": None, "rtt_ms": 1}


def watched(thing: Thing, *steps: Callable[[], None], as_json: bool = False) -> FakeClock:
    """Watch a thing, one step after each look, until it is interrupted."""
    clock = FakeClock(*steps)
    with pytest.raises(KeyboardInterrupt):
        following.watch(thing.watched, 2.0, None, as_json=as_json, clock=clock)
    return clock


class TestWatch:
    """``--watch`` into a pipe: the list once, then what changed; nothing while nothing does."""

    def test_only_changes_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        thing = Thing(ONE, {"uuid": "u2", "status": "failed"})
        clock = watched(
            thing,
            lambda: None,
            thing.becomes(ONE | {"status": "verified", "rtt_ms": 9}, {"uuid": "u2", "status": "failed"}),
            thing.becomes(ONE | {"status": "verified", "rtt_ms": 10}, {"uuid": "u3", "status": "pending"}),
        )
        assert capsys.readouterr().out.splitlines() == [
            "rows: 2",
            "~ u1 status: pending -> verified",
            "- u2",
            "+ u3 uuid=u3 status=pending",
        ]
        assert clock.waits == [2.0] * 4

    def test_json_is_a_line_for_each_new_state(self, capsys: pytest.CaptureFixture[str]) -> None:
        thing = Thing(ONE)
        watched(thing, lambda: None, thing.becomes(ONE | {"rtt_ms": 2}), thing.becomes(), as_json=True)
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [[ONE], []]

    def test_a_daemon_that_went_away_is_waited_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        thing = Thing(ONE)
        gone = thing.fails(UnreachableError("nobody there"))
        watched(thing, gone, gone, thing.becomes(ONE), thing.becomes())
        captured = capsys.readouterr()
        assert captured.out.splitlines() == ["rows: 1", "- u1"]
        assert captured.err.splitlines() == [
            "p2pnodes: the daemon went away; waiting for it (Ctrl-C ends)",
            "p2pnodes: the daemon is back",
        ]

    def test_a_daemon_that_was_never_there_is_an_error(self) -> None:
        thing = Thing()
        thing.fails(UnreachableError("nobody there"))()
        with pytest.raises(UnreachableError):
            following.watch(thing.watched, 2.0, None, as_json=False, clock=FakeClock())

    def test_a_refusal_ends_it(self) -> None:
        thing = Thing(ONE)
        with pytest.raises(StoreError):
            following.watch(
                thing.watched, 2.0, None, as_json=False, clock=FakeClock(thing.fails(StoreError("the disk is gone")))
            )

    def test_it_ends_when_its_time_is_over(self) -> None:
        clock = FakeClock(*[lambda: None] * 9)
        following.watch(Thing(ONE).watched, 2.0, 5.0, as_json=True, clock=clock)
        assert clock.waits == [2.0, 2.0, 1.0]

    def test_what_is_within_a_value_is_named_with_dots(self) -> None:
        thing = following.Watched(dict, print, "status", volatile=frozenset({"age_s", "gossip.loop"}))
        found = {"ready": [], "electorate": {"block": 1, "age_s": 9}, "gossip": {"loop": {"lag_ms": 1}, "sessions": 2}}
        assert thing.rows(found) == {"": {"ready": [], "electorate.block": 1, "gossip.sessions": 2}}
        later = thing.rows(found | {"electorate": {"block": 2, "age_s": 0}})
        assert following.changes(thing.rows(found), later) == ["~ electorate.block: 1 -> 2"]

    def test_a_value_that_is_gone_is_a_change(self) -> None:
        before = {"": {"log.seq": 1, "a": 1}}
        assert following.changes(before, {"": {"log": None, "a": 1}}) == ["~ log.seq: 1 -> -"]

    @pytest.mark.parametrize("command", ["nodes", "claims", "peers", "status"])
    async def test_every_command_that_has_it_shows_the_thing_first(
        self, ask: Ask, daemon: FakeDaemon, command: str
    ) -> None:
        once = await ask(command)
        assert (await ask(command, "--watch", "--timeout", 0)).out == once.out
        line = (await ask(command, "--watch", "--timeout", 0, "--json")).out
        assert json.loads(line) == (await ask(command, "--json")).json
        assert line.count("\n") == 1


class TestTerminal:
    """``--watch`` on a terminal: drawn anew in its place, cut to its height."""

    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Callable[[], str]]]:
        """Sends stdout to a pseudo terminal of 80 x 24 from then on, and gives what reads all that came there."""
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        screen = os.fdopen(theirs, "w")
        held = bytearray()

        def read() -> str:
            screen.flush()
            try:
                while data := os.read(ours, 65_536):
                    held.extend(data)
            except BlockingIOError:
                pass
            return held.decode()

        def show() -> Callable[[], str]:
            for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(sys, "stdout", screen)
            return read

        yield show
        screen.close()
        os.close(ours)

    def test_it_is_drawn_when_it_changes(self, terminal: Callable[[], Callable[[], str]]) -> None:
        thing, read = Thing(ONE), terminal()
        watched(thing, thing.becomes(ONE, ONE | {"uuid": "u2"}), thing.fails(UnreachableError("nobody")))
        shown = read()
        for text in ("nodes, every 2 s, changed at 12:00:00", "rows: 1", "changed at 12:00:02", "rows: 2"):
            assert text in shown
        assert "the daemon is away; waiting for it" in shown

    def test_nothing_is_drawn_while_nothing_changes(self, terminal: Callable[[], Callable[[], str]]) -> None:
        thing, read = Thing(ONE), terminal()
        watched(thing, *[lambda: None] * 9)
        assert read().count("rows: 1") == 2  # once, and when it ends

    def test_long_lines_are_broken_and_count(self, terminal: Callable[[], Callable[[], str]]) -> None:
        thing, read = Thing(ONE), terminal()
        thing.watched.show = lambda _: print_fields({f"line {number:02}": "word " * 20 for number in range(30)})
        watched(thing)
        shown = read()
        assert "line 10" in shown
        assert "line 11" not in shown

    def test_it_never_grows_beyond_the_terminal(self, terminal: Callable[[], Callable[[], str]]) -> None:
        thing, read = Thing(ONE), terminal()
        thing.watched.show = lambda _: print_fields({f"line {number}": "" for number in range(100)})
        watched(thing)
        shown = read()
        assert "line 0" in shown
        assert "line 21" in shown
        assert "line 22" not in shown
