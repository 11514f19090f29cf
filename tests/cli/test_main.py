"""The command line as a whole: help, version, import time, and how errors end it."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from p2pnodes import __version__
from p2pnodes.cli import app
from p2pnodes.cli.output import cell, plain, print_table
from p2pnodes.model.errors import ConfigError
from tests.cli.conftest import Cli
from tests.support import hotkey

HEAVY = ("substrateinterface", "aiohttp", "aiosqlite", "prometheus_client", "structlog", "p2pnodes.daemon")


def commands(group: Any = None, words: tuple[str, ...] = ("p2pnodes",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands())


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from p2pnodes.cli import main; sys.argv = ['p2pnodes', '--help']\n"
        "try: main()\n"
        f"except SystemExit: print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("heavy: []\n")
    assert "demo" in ended.stdout


def test_the_module_is_the_console_script() -> None:
    ended = subprocess.run([sys.executable, "-m", "p2pnodes", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"p2pnodes {__version__}\n"


class TestHelp:
    """Help teaches: what a command does, each option, and examples that work."""

    def test_the_first_page_shows_every_group_and_the_exit_codes(self, cli: Cli) -> None:
        ended = cli("--help")
        assert ended.code == 0
        for word in ("demo", "devnet", "run", "config", "keys", "db", "status", "events", "miner", "3 nobody answered"):
            assert word in ended.out

    def test_no_command_at_all_is_a_question_for_help(self, cli: Cli) -> None:
        ended = cli()
        assert ended.code == 2
        assert "Usage: p2pnodes" in ended.out + ended.err

    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_every_command_and_option_is_explained(self, words: tuple[str, ...]) -> None:
        command = COMMANDS[words]
        assert len(command.help) > 20
        assert command.epilog.startswith("Examples:\n$ ")
        for parameter in command.params:
            assert parameter.help, parameter.name

    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_every_example_names_commands_and_options_that_exist(self, words: tuple[str, ...]) -> None:
        for example in re.findall(r"\bp2pnodes ((?:[a-z]+ ?)+)([^|>)\n]*)", COMMANDS[words].epilog):
            called = tuple(example[0].split())
            known = [name for name in COMMANDS if name[1:] == called[: len(name) - 1]]
            assert len(known) == 1, example
            options = {option for parameter in COMMANDS[known[0]].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", example[1])) <= options, example

    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_help_can_be_shown(self, cli: Cli, words: tuple[str, ...]) -> None:
        ended = cli(*words[1:], "-h")
        assert ended.code == 0
        assert f"Usage: {' '.join(words)}" in ended.out
        assert "\x1b" not in ended.out


class TestErrors:
    """What goes wrong is one line and an exit code, never a traceback."""

    def test_an_error_is_one_line(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(config: object) -> None:
            raise ConfigError("found this,\nexpected \x1b[31mthat")

        monkeypatch.setattr("p2pnodes.config.load_settings", broken)
        ended = cli("config", "show", "--config", "x")
        assert ended.code == 1
        assert ended.error == r"found this,\nexpected \x1b[31mthat"
        assert ended.out == ""

    def test_a_mistyped_command_is_usage_and_suggests(self, cli: Cli) -> None:
        ended = cli("statsu")
        assert ended.code == 2
        assert "Did you mean 'status'?" in ended.err

    def test_a_missing_option_is_usage(self, cli: Cli) -> None:
        ended = cli("config", "show")
        assert ended.code == 2
        assert "--config" in ended.err

    def test_ctrl_c_is_quiet(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(config: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("p2pnodes.config.load_settings", interrupted)
        ended = cli("config", "show", "--config", "x")
        assert (ended.code, ended.out, ended.err) == (130, "", "")

    @pytest.mark.parametrize("arguments", [["miner", "example"], ["--help"]])
    def test_a_reader_that_went_away_is_no_error(self, arguments: list[str]) -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "p2pnodes", *arguments], stdout=write, stderr=subprocess.PIPE, check=False
            )
        finally:
            os.close(write)
        assert ended.stderr == b""
        assert ended.returncode in {1, -signal.SIGPIPE}


class TestOutput:
    """Colours are for terminals, and what others wrote cannot act on one."""

    @pytest.mark.parametrize(
        ("terminal", "variables", "coloured"),
        [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)],
        ids=["terminal", "NO_COLOR", "pipe"],
    )
    def test_colours_are_for_terminals(
        self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, variables: dict[str, str], coloured: bool
    ) -> None:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", **variables}.items():
            monkeypatch.setenv(name, value)
        stdout = io.StringIO()
        monkeypatch.setattr(stdout, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stdout", stdout)
        print_table(("status",), [{"status": "verified"}], empty="")
        assert ("\x1b[32mverified" in stdout.getvalue()) is coloured
        assert ("\x1b" in stdout.getvalue()) is terminal

    @pytest.mark.parametrize(("columns", "shortened"), [("80", True), ("200", False)])
    def test_long_ids_are_shortened_only_where_the_terminal_is_too_narrow(
        self, monkeypatch: pytest.MonkeyPatch, *, columns: str, shortened: bool
    ) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("NO_COLOR", "1")
        stdout = io.StringIO()
        monkeypatch.setattr(stdout, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdout", stdout)
        row = {"uuid": "ab" * 16, "hotkey": hotkey("//Alice").address, "claim_id": "cd" * 32}
        print_table(tuple(row), [row], empty="")
        assert row["uuid"] in stdout.getvalue()
        assert (row["hotkey"] not in stdout.getvalue()) is shortened
        assert ("5GrwvaEF…utQY  cdcdcdcd…cdcd" in stdout.getvalue()) is shortened

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("h100 sxm", "h100 sxm"),
            ("a\nb\tc", r"a\nb\tc"),
            ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
            ("\x9b31m", r"\x9b31m"),
            ("a\u202eb", r"a\u202eb"),
            ("\ud800", r"\ud800"),
            ("[red]ä…", "[red]ä…"),
        ],
    )
    def test_control_characters_are_escaped(self, text: str, shown: str) -> None:
        assert plain(text) == shown

    @pytest.mark.parametrize(
        ("value", "shown"), [(None, "-"), (True, "yes"), (False, "no"), (0, "0"), (["a\n"], r'["a\n"]'), ("", "")]
    )
    def test_values_are_shown_for_people(self, value: object, shown: str) -> None:
        assert cell(value) == shown
