"""The command line in this process: what a command prints, and how it ends."""

import asyncio
import errno
import io
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import tomli_w

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.chain.wallet import create_node_key, write_hotkey_file
from p2pnodes.cli import main
from p2pnodes.metrics import status_registry
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.fake_daemon import FakeDaemon
from tests.support import NETWORK, NOW_MS, Author, add, electorate, hotkey


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that it wrote on stderr, without the code at its end."""
        return self._error["text"]

    @property
    def error_code(self) -> str:
        """The code at the end of that line."""
        return self._error["code"]

    @property
    def _error(self) -> re.Match[str]:
        (line,) = self.err.splitlines()
        found = re.fullmatch(r"p2pnodes: error: (?P<text>.*) \[(?P<code>[a-z-]+)\]", line)
        assert found is not None, line
        return found


Cli = Callable[..., Ended]
Ask = Callable[..., Awaitable[Ended]]
Forbid = Callable[[Path], None]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command as the console script does, without colours and outside any terminal."""
    for name in list(os.environ):
        if name.startswith("P2PNODES_") or name in {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("p2pnodes.cli.no_core_dumps", lambda: None)  # cannot be undone, and this is pytest's process

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["p2pnodes", *(str(argument) for argument in arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Everything that a daemon needs to start: settings, hotkey, node key, electorate."""
    (tmp_path / "data").mkdir()
    create_node_key(tmp_path / "data" / "node.key")
    write_hotkey_file(tmp_path / "hotkey.json", hotkey("//validator0"))
    validator = {"hotkey": hotkey("//validator0").address, "stake": 100}
    electorate = {"block": 100, "time": int(time.time()), "validators": [validator]}
    (tmp_path / "electorate.toml").write_text(tomli_w.dumps(electorate))
    settings = {
        "data_dir": "data",
        "hotkey_file": "hotkey.json",
        "network": NETWORK.model_dump(),
        "electorate": {"file": "electorate.toml"},
    }
    (tmp_path / "p2pnodes.toml").write_text(tomli_w.dumps(settings))
    return tmp_path


@pytest.fixture
def config(directory: Path) -> Path:
    """The daemon's settings."""
    return directory / "p2pnodes.toml"


@pytest.fixture
def database(config: Path) -> Path:
    """The database of a daemon that has seen a claim of two GPUs."""
    path = config.parent / "data" / "p2pnodes.db"
    connection = open_writer(path)
    ledger = Ledger(connection, NETWORK)
    author = Author("//validator0")
    author.delegate()
    author.add(add("//Alice", ["u1", "u2"]))
    with ledger.transaction():
        ledger.set_electorate(electorate())
        ledger.receive(author.events, NOW_MS)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Forbid:
    """Let this process not look for a path, as in a directory of another user's; root would be let in."""
    stat = Path.stat

    def forbid(forbidden: Path) -> None:
        def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            if path == forbidden:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return stat(path, follow_symlinks=follow_symlinks)

        monkeypatch.setattr(Path, "stat", refuse)

    return forbid


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
