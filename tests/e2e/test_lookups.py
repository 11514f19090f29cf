"""Looking into a real daemon as its operator does, over its restarts: followers, watches, ``top`` and ``sql``."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.single import Single, settings_of
from tests.e2e.waiting import DEADLINE_S, eventually
from tests.support import hotkey


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Single]:
    """A validator that is alone, and accepts this machine's addresses as hosts of GPUs."""
    settings = settings_of(tmp_path)
    settings["api"] = {"allow_private_hosts": True}
    daemon = Single(tmp_path, settings)
    yield daemon
    await daemon.stop()


async def start(daemon: Single) -> str:
    """Start it and wait until it takes writes; its URL."""
    url = await daemon.listening()

    async def writes() -> bool:
        return bool((await daemon.ask("/status"))["writes"]["allowed"])

    await eventually(writes)
    return url


async def register(url: str, uuid: str) -> None:
    async with MinerClient([url], hotkey("//Alice")) as client:
        await client.add(example_server([uuid], server_id=uuid))


class Command:
    """A command that goes on by itself, with what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), DEADLINE_S)
        assert line, "the command ended"
        self.lines.append(line.decode().rstrip("\n"))
        return self.lines[-1]

    async def until(self, reached: Callable[[str], bool]) -> str:
        """The first line from here that is as it must be."""
        while not reached(await self.line()):
            pass
        return self.lines[-1]


@asynccontextmanager
async def running(daemon: Single, *arguments: str) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "p2pnodes", *arguments, "--config", str(daemon.config),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def interrupted(command: Command) -> tuple[int, str]:
    """Press Ctrl-C: the exit code, and what it wrote on stderr."""
    command.process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(command.process.communicate(), DEADLINE_S)
    assert command.process.returncode is not None
    return command.process.returncode, err.decode()


async def test_events_are_followed_over_a_restart_and_none_is_left_out(daemon: Single) -> None:
    url = await start(daemon)
    async with running(daemon, "events", "--follow", "--after", "0", "--json") as command:
        assert json.loads(await command.line())["kind"] == "delegate"
        await register(url, "1" * 32)
        await command.until(lambda line: json.loads(line)["kind"] == "add")
        await daemon.stop()
        url = await start(daemon)
        await register(url, "2" * 32)
        await command.until(lambda line: json.loads(line)["kind"] == "add")

        async def told_all() -> bool:
            rows: list[dict[str, Any]] = await daemon.ask("/events?after=0")
            while len(command.lines) < len(rows):
                await command.line()
            return [json.loads(line) for line in command.lines] == rows

        await eventually(told_all)
        code, err = await interrupted(command)
    assert code == 130
    assert "Traceback" not in err
    assert err.splitlines()[:2] == [
        "p2pnodes: the daemon went away; waiting for it (Ctrl-C ends)",
        "p2pnodes: the daemon is back",
    ]


async def test_a_filter_lets_nothing_else_pass(daemon: Single) -> None:
    url = await start(daemon)
    async with running(daemon, "events", "--follow", "--kind", "add", "--json") as command:
        for number in range(3):
            await register(url, f"{number}" * 32)
            assert json.loads(await command.line())["kind"] == "add"


async def test_nodes_are_watched_over_a_restart(daemon: Single) -> None:
    url = await start(daemon)
    async with running(daemon, "nodes", "--watch", "--interval", "0.5") as command:
        assert await command.line() == "none"
        await register(url, "1" * 32)
        assert (await command.line()).startswith(f"+ {'1' * 32} uuid={'1' * 32} ")
        if "status=pending" in command.lines[-1]:
            assert "status: pending -> verified" in await command.line()
        await daemon.stop()
        url = await start(daemon)
        await register(url, "2" * 32)
        assert (await command.line()).startswith(f"+ {'2' * 32}")
        code, err = await interrupted(command)
    assert (code, "Traceback" in err) == (130, False)


async def test_sql_asks_beside_the_daemon_and_without_it(daemon: Single) -> None:
    url = await start(daemon)
    await register(url, "1" * 32)

    async def asked() -> Any:
        async with running(daemon, "sql", "SELECT uuid FROM inventory", "--json") as command:
            out, err = await asyncio.wait_for(command.process.communicate(), DEADLINE_S)
            assert command.process.returncode == 0, err
            return json.loads(out)

    assert await asked() == [{"uuid": "1" * 32}]
    await daemon.stop()
    assert await asked() == [{"uuid": "1" * 32}]


class Terminal:
    """A command on a pseudo terminal."""

    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    async def shows(self, *texts: str) -> None:
        """Wait until all of these were on the screen since the last time that this was asked."""
        begin = len(self.shown)

        async def all_there() -> bool:
            self._read()
            return all(text in self.shown[begin:] for text in texts)

        await eventually(all_there)

    async def ended(self) -> int:
        async def gone() -> bool:
            self._read()
            return self.process.returncode is not None

        await eventually(gone)
        assert self.process.returncode is not None
        return self.process.returncode

    def _read(self) -> None:
        try:
            while data := os.read(self._descriptor, 65_536):
                self.shown += data.decode(errors="replace")
        except (BlockingIOError, OSError):  # nothing yet, or nobody there any more
            return


@asynccontextmanager
async def on_terminal(*arguments: str, environment: dict[str, str] | None = None) -> AsyncIterator[Terminal]:
    """Run a command on a terminal of 80 x 24."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    size = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "p2pnodes", *arguments,
            stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | size | (environment or {}),
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(ours)


class TestTop:
    """``top`` on a terminal: it shows the daemon at work, sorts, survives its restart, and ends with q."""

    async def test_a_run_ends_with_q(self, daemon: Single) -> None:
        await start(daemon)
        async with on_terminal("top", "--config", str(daemon.config), "--interval", "0.5") as terminal:
            await terminal.shows("p2pnodes ", "validator", "ready", "events", "writer", "by lag", "q quit", "/s")
            terminal.type("r")
            await terminal.shows("by rtt")
            await daemon.stop()
            await terminal.shows("NO ANSWER since")
            await start(daemon)
            await terminal.shows("ready")
            terminal.type("q")
            assert await terminal.ended() == 0
        assert "\x1b[?1049l" in terminal.shown, "the screen that was there before is shown again"
        assert "Traceback" not in terminal.shown


class TestPrompt:
    """``sql`` on a terminal: a prompt that survives mistakes and remembers what was asked."""

    async def test_questions_mistakes_and_the_history(self, daemon: Single, tmp_path: Path) -> None:
        await start(daemon)
        state = {"XDG_STATE_HOME": str(tmp_path / "state")}
        async with on_terminal("sql", "--config", str(daemon.config), environment=state) as terminal:
            await terminal.shows("read-only", "p2pnodes> ")
            terminal.type("SELECT count(*)\n")
            await terminal.shows("...> ")
            terminal.type("AS events FROM event_log;\n")
            await terminal.shows("events", "p2pnodes> ")
            terminal.type("SELECT nope FROM claims;\n")
            await terminal.shows("line 1, column 8: no such column: nope", "p2pnodes> ")
            terminal.type(".schema claims\n")
            await terminal.shows("view claims: claim_id, task_id", "p2pnodes> ")
            terminal.type(".quit\n")
            assert await terminal.ended() == 0
        kept = tmp_path / "state" / "p2pnodes" / "sql_history"
        assert "SELECT nope FROM claims;" in kept.read_text()
        assert kept.stat().st_mode & 0o077 == 0
