"""A daemon that a test configures by itself: its settings as a table, its process, its log, its admin socket."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import tomli_w

from p2pnodes.chain.wallet import write_hotkey_file
from tests.e2e.waiting import DEADLINE_S, eventually
from tests.support import hotkey


def write_electorate(path: Path, *validators: str, registered: tuple[str, ...] = ("//Alice",), **fields: Any) -> None:
    """An electorate file of now in which these development keys validate with equal stakes."""
    electorate = {
        "block": 100,
        "time": int(time.time()),
        "validators": [{"hotkey": hotkey(uri).address, "stake": 100} for uri in validators],
        "registered": [{"hotkey": hotkey(uri).address, "block": 1} for uri in registered],
        **fields,
    }
    path.write_text(tomli_w.dumps(electorate))


def settings_of(directory: Path, uri: str = "//validator0") -> dict[str, Any]:
    """Settings of a daemon that starts: the key ``uri`` in a file, and the electorate file beside it."""
    write_hotkey_file(directory / "hotkey", hotkey(uri))
    if not (directory / "electorate.toml").exists():
        write_electorate(directory / "electorate.toml", uri)
    return {
        "data_dir": "data",
        "hotkey_file": "hotkey",
        "network": {"genesis_hash": "0" * 64, "netuid": 64},
        "http": {"host": "127.0.0.1", "port": 0},
        "electorate": {"file": "electorate.toml"},
        "log": {"format": "json"},
    }


class Single:
    """One daemon, running or not; ``stop`` it, whatever happens.

    Args:
        directory: Its settings, keys and data.
        settings: What its configuration file holds; can be changed until it starts.
        environment: Variables that it gets beside those of this process.
        arguments: Further options of ``p2pnodes run``.

    Attributes:
        held: Sockets that it gets as systemd hands them over: their descriptors, named ``http``.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.environment = dict(environment or {})
        self.arguments = arguments
        self.held: tuple[int, ...] = ()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def config(self) -> Path:
        return self.directory / "p2pnodes.toml"

    @property
    def log(self) -> str:
        """All that it wrote, of every start."""
        return (self.directory / "log").read_text()

    async def start(self) -> None:
        """Start the process; ``until`` tells how far it is."""
        self.config.write_text(tomli_w.dumps(self.settings))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")}
        with (self.directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._handed_over(),
                sys.executable, "-m", "p2pnodes", "run", "--config", str(self.config), *self.arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=inherited | self.environment,
                pass_fds=self.held,
            )  # fmt: skip

    def _handed_over(self) -> list[str]:
        """What starts the process with the sockets from descriptor 3 on, and tells it that they are for it."""
        if not self.held:
            return []
        names = ":".join("http" for _ in self.held)
        moved = " ".join(f"{to}<&{fd} {fd}<&-" for to, fd in enumerate(self.held, 3))
        told = f"LISTEN_FDS={len(self.held)} LISTEN_FDNAMES={names} LISTEN_PID=$$"
        return ["bash", "-c", f'export {told}; exec "$@" {moved}', "systemd"]

    async def until(self, event: str) -> dict[str, Any]:
        """The first record of an event in the log; it fails when the daemon ends before that."""
        found: dict[str, Any] = {}

        async def told() -> bool:
            assert self._process is not None
            ended = self._process.returncode is not None
            for line in self.log.splitlines():
                if line.startswith("{") and line.endswith("}") and (record := json.loads(line))["event"] == event:
                    found.update(record)
                    return True
            assert not ended, f"the daemon ended without {event}: {self.log}"
            return False

        await eventually(told)
        return found

    async def listening(self) -> str:
        """Start it and wait until it serves; the URL where it does."""
        await self.start()
        url: str = (await self.until("listening"))["url"]
        return url

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), DEADLINE_S)

    async def refused(self) -> str:
        """The one line of a start that fails: it exits 1, and log records are all that goes before the line."""
        await self.start()
        assert await self.ended() == 1, self.log
        lines = [line for line in self.log.splitlines() if not line.startswith("{")]
        assert len(lines) == 1, self.log
        assert lines[0].startswith("p2pnodes: error: ")
        return lines[0].removeprefix("p2pnodes: error: ")

    async def stop(self) -> int | None:
        """End it if it runs, gracefully if it does so in time; its exit code."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), DEADLINE_S)
            finally:
                if self._process.returncode is None:
                    self._process.kill()
                    await self._process.wait()
        return self._process.returncode

    async def ask(self, path: str) -> Any:
        """What the operator's interface answers: JSON, or text where it is none."""
        connector = aiohttp.UnixConnector(str(self.directory / "data" / "admin.sock"))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(DEADLINE_S)) as session,
            session.get(f"http://localhost{path}") as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await (answer.json() if answer.content_type == "application/json" else answer.text())
