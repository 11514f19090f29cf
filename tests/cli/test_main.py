"""The command line as a whole: help, version, import time, and how errors end it."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from p2pnodes import __version__
from p2pnodes.cli import app
from p2pnodes.cli.admin import EVENT_COLUMNS, NODE_COLUMNS
from p2pnodes.cli.output import cell, plain, print_fields, print_table
from p2pnodes.model.errors import ConfigError
from tests.cli.conftest import Cli
from tests.support import hotkey

CONFIGS = Path(__file__).parent.parent.parent / "configs"
HEAVY = ("substrateinterface", "aiohttp", "aiosqlite", "prometheus_client", "structlog", "p2pnodes.daemon")


def p2pnodes(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "p2pnodes", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")}
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environment, **options)


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
    def test_no_name_in_brackets_is_lost_as_markup(self, cli: Cli, words: tuple[str, ...]) -> None:
        command = COMMANDS[words]
        texts = (command.callback.__doc__, command.epilog, *(parameter.help for parameter in command.params))
        written = re.findall(r"\[[a-z_]+\]", " ".join(texts))
        out = cli(*words[1:], "--help").out
        assert [name for name in written if name not in out] == []
        assert "\\[" not in out

    def test_some_help_names_tables_in_brackets(self, cli: Cli) -> None:
        assert "on [http]" in cli("run", "--help").out
        assert "port in [http]" in cli("config", "show", "--help").out

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

    def test_too_little_memory_is_one_line(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(config: object) -> None:
            raise MemoryError

        monkeypatch.setattr("p2pnodes.config.load_settings", broken)
        ended = cli("config", "show", "--config", "x")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error == "out of memory; expected more: see what else runs, and the limits of this process"

    def test_too_little_memory_is_one_line_of_a_daemon_too(self) -> None:
        script = (
            "from p2pnodes import config, process\n"
            "def broken(*_): raise MemoryError\n"
            "config.load_settings = broken\n"
            "process.main('x', '{}')"
        )
        ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert ended.stderr.startswith("p2pnodes: error: out of memory; ")
        assert ended.stderr.count("\n") == 1

    def test_a_mistyped_command_is_usage_and_suggests(self, cli: Cli) -> None:
        ended = cli("statsu")
        assert ended.code == 2
        assert "Did you mean 'status'?" in ended.err

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (("--nope",), "no such option: --nope (see `p2pnodes --help`)"),
            (("statsu",), "no such command 'statsu'. Did you mean 'status'? (see `p2pnodes --help`)"),
            (("status", "more"), "got unexpected extra argument(s) (more) (see `p2pnodes status --help`)"),
            (("status", "--config"), "option '--config' requires an argument (see `p2pnodes --help`)"),
            (("claim", "show"), "missing argument 'CLAIM' (see `p2pnodes claim show --help`)"),
            (
                ("nodes", "--limit", "0"),
                "'--limit': expected a value that is greater than or equal to 1 (see `p2pnodes nodes --help`)",
            ),
            (
                ("nodes", "--status", "x"),
                "'--status': 'x' is not one of 'pending', 'verified', 'failed' (see `p2pnodes nodes --help`)",
            ),
            (
                ("compare", "x", "--api", "http://127.0.0.1:1"),
                "URL: API 'x'; expected a base URL such as https://node.example.org (see `p2pnodes compare --help`)",
            ),
            (
                ("docs", "nope"),
                "there is no page 'nope'; did you mean inspect? (see `p2pnodes docs --help`)",
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_a_command_line_that_cannot_be_used_is_told_in_one_line_too(
        self, cli: Cli, arguments: tuple[str, ...], line: str
    ) -> None:
        ended = cli(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert (ended.error, ended.error_code) == (line, "system-usage")

    def test_a_question_that_is_answered_no_is_told_in_one_line(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no(config: object) -> None:
            raise typer.Abort

        monkeypatch.setattr("p2pnodes.config.load_settings", no)
        ended = cli("config", "show", "--config", "x")
        assert (ended.code, ended.out, ended.err) == (1, "", "p2pnodes: not done\n")

    @pytest.mark.parametrize("words", [("run",), ("db", "path"), ("status",)])
    def test_a_missing_configuration_is_usage_and_names_where_one_is_looked_for(
        self, cli: Cli, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("p2pnodes.cli.SYSTEM_CONFIG", tmp_path / "absent.toml")
        ended = cli(*words)
        assert ended.code == 2
        told = " ".join(ended.err.split())
        for part in ("--config", "P2PNODES_CONFIG", "/etc/p2pnodes/p2pnodes.toml"):
            assert part in told

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


class TestBrokenOutput:
    """An output that cannot be written is one line, whenever that is noticed."""

    SHORT = ("--version",)
    LONG = ("config", "show", "--config", CONFIGS / "p2pnodes.toml", "--json")

    @pytest.mark.parametrize("arguments", [SHORT, ("--help",), LONG[:-1], LONG], ids=["short", "help", "table", "json"])
    def test_a_full_disk(self, arguments: tuple[object, ...]) -> None:
        with Path("/dev/full").open("w") as full:
            ended = p2pnodes(*arguments, stdout=full)
        assert ended.returncode == 1
        assert ended.stderr == (
            "p2pnodes: error: standard output, or another open file: No space left on device [system-refused]\n"
        )

    @pytest.mark.parametrize("arguments", [SHORT, LONG, ("status", "--socket", "absent")])
    def test_a_closed_output(self, arguments: tuple[object, ...]) -> None:
        ended = p2pnodes(*arguments, preexec_fn=lambda: os.close(1))
        assert ended.returncode == 1
        assert ended.stderr.startswith("p2pnodes: error: standard output is closed; expected an open one")
        assert len(ended.stderr.splitlines()) == 1

    def test_notes_go_nowhere_where_errors_are_closed(self, config: Path, database: Path) -> None:
        """Python would print them among the results, and a wait that looks for a terminal would be a traceback."""
        closed = {"stdout": subprocess.PIPE, "preexec_fn": lambda: os.close(2)}
        assert p2pnodes("nosuch", **closed).stdout == ""
        assert p2pnodes("db", "verify", database, "--config", config, **closed).returncode == 0

    @pytest.mark.parametrize("arguments", [("logs", "explain"), ("proof", "check", "-"), ("sql", "--database", "X")])
    def test_a_closed_input_is_an_empty_one(self, arguments: tuple[str, ...], database: Path) -> None:
        words = [str(database) if word == "X" else word for word in arguments]
        ended = p2pnodes(*words, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(0))
        empty = p2pnodes(*words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert (ended.returncode, ended.stdout, ended.stderr) == (empty.returncode, empty.stdout, empty.stderr)

    def test_any_other_file_is_named(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(config: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", b"/a/file")

        monkeypatch.setattr("p2pnodes.config.load_settings", broken)
        ended = cli("config", "show", "--config", "x")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error == "/a/file: Permission denied"


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
        assert ("\x1b" in stdout.getvalue()) is coloured  # NO_COLOR is about bold, too

    def terminal(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> io.StringIO:
        """A terminal of some width, without colours."""
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        stdout = io.StringIO()
        monkeypatch.setattr(stdout, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdout", stdout)
        return stdout

    @pytest.mark.parametrize("columns", [80, 100, 140, 400])
    def test_nodes_stay_whole_on_any_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
    ) -> None:
        stdout = self.terminal(monkeypatch, columns)
        reason = "the challenge was not answered in time, three times in a row"
        row = {
            "uuid": "ab" * 16,
            "status": "failed",
            "gpu_identifier": "h100_sxm",
            "hotkey": hotkey("//Alice").address,
            "server_id": "rack-12-host-3",
            "created_at": "2026-01-02T03:04:05.678Z",
            "verified_at": None,
            "detail": reason,
        }
        print_table(NODE_COLUMNS, [row], empty="")
        head, first, *rest = stdout.getvalue().splitlines()
        assert max(map(len, (head, first, *rest))) <= columns
        assert first.split()[:3] == ["ab" * 16, "failed", "h100_sxm"]
        assert all(line.startswith(" " * 32) for line in rest)  # only the free text is broken
        shown = [name for name in NODE_COLUMNS if name.replace("_", " ") in head]
        hidden = [name for name in NODE_COLUMNS if name not in shown]
        left_out = [name.replace("_", " ") for name in hidden if row[name] is not None]
        assert "detail" in shown
        assert ("created_at" in hidden) is (columns < 140)
        assert ("verified_at" in hidden) is (columns < 400)
        told = f"p2pnodes: (not shown: {', '.join(left_out)}; see --json)\n"
        assert capsys.readouterr().err == (told if left_out else "")

    def test_what_the_doctor_found_and_advises_is_on_any_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = {
            "check": "configuration",
            "level": "problem",
            "found": "/etc/p2pnodes/p2pnodes.toml: no such file; expected a TOML file",
            "advice": "edit it; `p2pnodes config show` explains each setting",
            "code": "config-file",
        }
        stdout = self.terminal(monkeypatch, 80)
        print_table(tuple(row), [row], empty="")
        said = "".join(stdout.getvalue().split())
        assert all(len(line) <= 80 for line in stdout.getvalue().splitlines())
        assert "expected" in said
        assert "explains" in said

    @pytest.mark.parametrize("columns", [40, 60, 63, 66, 80, 120, 400])
    @pytest.mark.parametrize(
        "names",
        [("key", "value", "origin", "description"), ("key", "description", "detail"), ("detail", "reason", "key")],
        ids=" ".join,
    )
    def test_what_is_broken_over_lines_loses_nothing(
        self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], columns: int
    ) -> None:
        stdout = self.terminal(monkeypatch, columns)
        text = f"Key that signs events and sessions, by default node.key in data_dir, made if absent. {'x' * 90}"
        row = {
            "key": "gossip.allow_private_addresses",
            "value": "/var/lib/p2pnodes/node.key",
            "origin": "environment",
            "description": text,
            "detail": text[::-1],
            "reason": "the key is wrong",
        }
        print_table(names, [row], empty="")
        head, *lines = stdout.getvalue().splitlines()
        assert columns < 68 or max(map(len, (head, *lines))) <= columns  # the terminal breaks what cannot be narrower
        begins = [(name, head.index(name)) for name in names if name in head.split()]
        for (name, begin), (_, end) in pairwise((*begins, ("", None))):
            shown = "".join(line[begin:end] for line in lines)
            assert "".join(shown.split()) == "".join(row[name].split())

    def test_columns_without_a_value_go_first_and_silently(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stdout = self.terminal(monkeypatch, 80)
        row = {"uuid": "ab" * 16, "detail": "", "reason": None, "hotkey": "", "name": "n" * 44}
        print_table(tuple(row), [row], empty="")
        assert stdout.getvalue().split() == ["uuid", "name", "ab" * 16, "n" * 44]
        assert capsys.readouterr().err == ""

    def test_a_table_of_nothing_but_dashes_keeps_a_column(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stdout = self.terminal(monkeypatch, 5)
        print_table(("hotkey", "detail"), [{}], empty="")
        assert stdout.getvalue().split()[-1] == "-"

    def test_whoever_revokes_sees_seq_and_id_on_a_common_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stdout = self.terminal(monkeypatch, 80)
        row = {
            "position": 123_456,
            "at": "2026-01-02T03:04:05.678Z",
            "kind": "delegation",
            "state": "valid",
            "author": hotkey("//Alice").address,
            "number": 1_764_000_000,
            "seq": 1207,
            "id": "ef" * 32,
            "reason": "",
        }
        print_table(EVENT_COLUMNS, [row], empty="")
        head, line = stdout.getvalue().splitlines()
        assert head.split()[:2] == ["seq", "id"]
        assert line.split()[:2] == ["1207", "efefefef…efef"]

    def test_fields_are_left_to_the_terminal_to_break(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stdout = self.terminal(monkeypatch, 40)
        print_fields({"state root": "ab" * 32, "up": "3 h"})
        assert stdout.getvalue() == f"state root  {'ab' * 32}\nup          3 h\n"

    def test_a_pipe_gets_no_blanks_at_the_end_of_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("uuid", "detail"), [{"uuid": "u1", "detail": "long text"}, {"uuid": "u2"}], empty="")
        print_fields({"name": "long value", "n": "v"})
        assert capsys.readouterr().out.splitlines() == [
            "uuid  detail",
            "u1    long text",
            "u2    -",
            "name  long value",
            "n     v",
        ]

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
