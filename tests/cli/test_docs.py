"""``p2pnodes docs``: pages, example files, the manual page; and what Tab completes."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console

from p2pnodes.cli import manual
from p2pnodes.documentation import example, examples, text, topic, topics
from tests.cli.conftest import Cli
from tests.support import program


class TestPages:
    """What ships is shown, without a daemon and without a network."""

    def test_topics_are_listed_in_the_order_in_which_one_reads_them(self, cli: Cli) -> None:
        ended = cli("docs")
        assert (ended.code, ended.err) == (0, "")
        assert [line.split()[0] for line in ended.out.splitlines()[1:]] == [found.name for found in topics()]
        assert cli("docs", "--json").json == [found._asdict() for found in topics()]

    def test_a_page_that_is_piped_is_the_markdown_as_it_is(self, cli: Cli) -> None:
        ended = cli("docs", "recover")
        assert (ended.code, ended.out) == (0, text(topic("recover")))
        assert cli("docs", "recover", "--json").json == {**topic("recover")._asdict(), "text": text(topic("recover"))}

    def test_on_a_terminal_it_is_set_and_given_to_the_pager(self, tmp_path: Path) -> None:
        """Through a terminal of the system's, as a person has it."""
        shown = tmp_path / "shown"
        environment = {**os.environ, "PAGER": f"cat > {shown}; echo $LESS >> {shown}", "TERM": "xterm", "COLUMNS": "90"}
        environment.pop("LESS", None)
        script = "import pty, sys; sys.exit(pty.spawn([sys.executable, '-m', 'p2pnodes', 'docs', 'recover']) >> 8)"
        subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, timeout=60)
        page = shown.read_text()
        plain = re.sub(r"\x1b\[[0-9;]*m", "", page)
        assert "\x1b[" in page  # headings are bold
        assert "# Recover" not in page
        assert "What not to do" in page
        assert re.search(r"p2pnodes\s+docs\s+codes", plain)  # instead of a link, which a terminal cannot follow
        assert "](" not in plain
        assert ".md" not in plain
        assert page.endswith("FRX\n")
        assert max(map(len, plain.splitlines())) <= 90

    def test_a_wrong_name_is_usage_and_suggests(self, cli: Cli) -> None:
        ended = cli("docs", "recov")
        assert ended.code == 2
        assert "did you mean recover?" in ended.err

    @pytest.mark.parametrize(
        "arguments",
        [("recover", "--man"), ("--files", "--man"), ("--man", "--json"), ("--file", "nginx.conf", "--json")],
    )
    def test_two_things_at_once_are_usage(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        ended = cli("docs", *arguments)
        assert (ended.code, ended.out) == (2, "")

    @pytest.mark.parametrize("name", [each.name for each in examples()])
    def test_an_example_file_is_printed_byte_for_byte(self, cli: Cli, name: str) -> None:
        assert cli("docs", "--file", name).out == example(name).read_text()

    def test_example_files_are_listed(self, cli: Cli) -> None:
        assert [each["name"] for each in cli("docs", "--files", "--json").json] == [each.name for each in examples()]
        assert "did you mean nginx.conf?" in cli("docs", "--file", "nginx.cfg").err

    def test_every_page_can_be_set(self) -> None:
        from rich.markdown import Markdown

        console = Console(width=80, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115 - for the process's life
        for found in topics():
            console.print(Markdown(text(found), hyperlinks=False))
        console.file.close()
        assert found.title in console.export_text()


class TestManual:
    """One manual page has every command, option, exit code and file, and formatters find nothing wrong with it."""

    @pytest.fixture
    def page(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764000000")
        ended = cli("docs", "--man")
        assert (ended.code, ended.err) == (0, "")
        path = tmp_path / "p2pnodes.1"
        path.write_text(ended.out)
        return path

    def test_groff_finds_nothing_wrong(self, page: Path) -> None:
        ended = subprocess.run(
            [program("groff"), "-man", "-ww", "-Tutf8", str(page)], capture_output=True, text=True, check=True
        )
        assert ended.stderr == ""

    def test_mandoc_finds_nothing_wrong(self, page: Path) -> None:
        ended = subprocess.run(
            [program("mandoc"), "-T", "lint", "-W", "warning", str(page)], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout) == (0, "")

    def test_it_shows_every_command_with_its_options(self, page: Path) -> None:
        shown = subprocess.run(
            [program("mandoc"), "-T", "ascii", str(page)], capture_output=True, text=True, check=True
        )
        plain = re.sub(r".\x08", "", shown.stdout)  # bold is written twice over itself
        words = " ".join(plain.split())
        for command in manual.commands():
            assert command.words in words
            for name, _ in command.options:
                assert name in words, (command.words, name)
        for heading in ("EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"):
            assert f"\n{heading}\n" in plain
        assert "130 interrupted An error's line ends with its code in brackets" in words

    def test_it_is_ascii_and_bears_the_date_that_it_is_given(self, page: Path) -> None:
        assert page.read_bytes().isascii()
        assert page.read_text().startswith('.TH P2PNODES 1 "2025-11-24" "p2pnodes ')

    def test_nothing_of_a_help_text_is_taken_for_markup(self) -> None:
        hostile = manual.Command(
            "p2pnodes",
            "",
            ["First.", ".SH NOT A HEADING", "'quoted' \\fB \"x\" …"],
            [("--a", ".b")],
            [".c"],
            "",
            group=True,
        )
        lines = manual.roff([hostile], date(2026, 1, 2)).splitlines()
        assert ".SH NOT A HEADING" not in lines
        assert "\\&.SH NOT A HEADING" in lines
        assert "\\&'quoted' \\efB \\(dqx\\(dq \\[u2026]" in lines
        assert "\\&.b" in lines

    @pytest.mark.parametrize("epoch", ["yesterday", "", "-1", "253402300800", "9" * 30])
    def test_a_date_that_is_none_is_one_line(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        ended = cli("docs", "--man")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error.startswith(f"SOURCE_DATE_EPOCH is {epoch!r}; expected Unix seconds")


class TestCompletion:
    """What the shells complete, by the scripts that a package ships."""

    @pytest.fixture
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")} | {"PATH": path}

    @pytest.fixture
    def script(self, tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> Path:
        """Of the shell that the test names."""
        shell = request.param
        program(shell)
        written = subprocess.run(
            ["p2pnodes"], env={**environment, "_P2PNODES_COMPLETE": f"source_{shell}"}, capture_output=True, check=True
        )
        path = tmp_path / f"p2pnodes.{shell}"
        path.write_bytes(written.stdout)
        return path

    CASES = (
        ("db", {"verify", "rebuild", "path"}),
        ("docs", {"--man", "--file"}),
        ("events --state", {"valid", "void", "unknown", "cut"}),
    )

    @pytest.mark.parametrize("script", ["bash"], indirect=True)
    @pytest.mark.parametrize(("line", "offered"), CASES)
    def test_bash(self, script: Path, environment: dict[str, str], line: str, offered: set[str]) -> None:
        last = "--" if "--man" in offered else ""
        words = ["p2pnodes", *line.split(), last]
        run = f"source {script}; COMP_WORDS=({' '.join(words[:-1])} '{last}'); COMP_CWORD={len(words) - 1};"
        run += " _p2pnodes_completion p2pnodes; printf '%s\\n' \"${COMPREPLY[@]}\""
        ended = subprocess.run(["bash", "-c", run], env=environment, capture_output=True, text=True, check=True)
        assert offered <= set(ended.stdout.split())

    @pytest.mark.parametrize("script", ["zsh"], indirect=True)
    @pytest.mark.parametrize(("line", "offered"), CASES)
    def test_zsh(self, script: Path, environment: dict[str, str], line: str, offered: set[str]) -> None:
        """``_arguments`` stands in for the one of zsh's own that draws the list."""
        last = "--" if "--man" in offered else ""
        words = ["p2pnodes", *line.split(), last]
        run = f"compdef() {{ }}; _arguments() {{ print -r -- $@ }}; source {script};"
        run += f" words=({' '.join(words[:-1])} '{last}'); CURRENT={len(words)}; _p2pnodes_completion"
        ended = subprocess.run(["zsh", "-f", "-c", run], env=environment, capture_output=True, text=True, check=True)
        for each in offered:
            assert f'"{each}"' in ended.stdout

    @pytest.mark.parametrize("script", ["fish"], indirect=True)
    @pytest.mark.parametrize(("line", "offered"), CASES)
    def test_fish(
        self, script: Path, environment: dict[str, str], line: str, offered: set[str], tmp_path: Path
    ) -> None:
        last = "--" if "--man" in offered else ""
        run = f"source {script}; complete --do-complete 'p2pnodes {line} {last}'"
        ended = subprocess.run(
            ["fish", "--no-config", "-c", run],
            env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert offered <= {row.split("\t")[0] for row in ended.stdout.splitlines()}


def test_the_list_as_json_is_what_other_programs_may_rely_on(cli: Cli) -> None:
    for found in json.loads(cli("docs", "--json").out):
        assert found.keys() == {"name", "title", "sentence"}
