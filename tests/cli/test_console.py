"""``p2pnodes console``: the address, or what to set."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ask
from tests.fake_daemon import FakeDaemon

command: Any = sys.modules["p2pnodes.cli.console"]
URL = "http://127.0.0.1:9464/console/"


class TestConsole:
    """Where it is, and how to get there."""

    async def test_the_address_is_all_that_is_printed(self, ask: Ask) -> None:
        ended = await ask("console")
        assert (ended.code, ended.out, ended.err) == (0, f"{URL}\n", "")

    async def test_json_has_the_way_from_another_machine(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSH_CONNECTION", raising=False)
        monkeypatch.setenv("USER", "ann")
        assert (await ask("console", "--json")).json == {
            "url": URL,
            "forward": "ssh -N -L 9464:127.0.0.1:9464 ann@HOST",
        }

    async def test_in_an_ssh_session_it_knows_this_machine(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.9 22")
        monkeypatch.setenv("USER", "ann")
        assert (await ask("console", "--json")).json["forward"].endswith(" ann@203.0.113.9")

    async def test_without_a_port_it_says_what_to_set(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.snapshot["console"] = None
        ended = await ask("console")
        assert ended.code == 1
        assert "set `port = 9464` under [admin]" in ended.error

    async def test_it_opens_a_browser_when_asked(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[str] = []

        def note(url: str) -> bool:
            opened.append(url)
            return True

        monkeypatch.setattr("webbrowser.open", note)
        assert (await ask("console", "--open")).code == 0
        assert opened == [URL]

    async def test_a_machine_without_one_is_told(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("webbrowser.open", lambda _: False)
        ended = await ask("console", "--open")
        assert ended.code == 1
        assert "no browser was found here" in ended.error

    def test_the_port_that_is_advised_is_the_samples(self) -> None:
        sample = Path(__file__).parents[2] / "configs" / "p2pnodes.toml"
        assert f"#port = {command.ADMIN_PORT}\n" in sample.read_text()


class TestStatus:
    """``p2pnodes status`` says it too."""

    async def test_the_console_is_named(self, ask: Ask, daemon: FakeDaemon) -> None:
        assert URL in (await ask("status")).out
        daemon.snapshot["console"] = None
        assert "no port: set port under [admin]" in (await ask("status")).out
