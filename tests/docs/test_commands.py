"""What the pages tell a reader to type is run, or says why it cannot be run here."""

import re
import sys
from pathlib import Path
from typing import Final

import pytest

from p2pnodes.cli import manual
from p2pnodes.documentation import NEEDS
from tests.docs.markdown import Block, blocks, code_spans, pages
from tests.docs.shell import PAGE_S_MAX, kept, run

KNOWN = {"needs", "until", "stopped", "exit"}
PROGRAMS = ("p2pnodes ", "curl ", "sqlite3 ", "systemctl ", "journalctl ", "sudo ", "python", "pip", "datasette ")

CALL = re.compile(r"(?:^|[|;&(]|\bsudo |\b\w+=\S+ )\s*(?=(p2pnodes( .*)?$))")
"""Where a line runs p2pnodes itself."""

ALL = [block for page in pages() for block in blocks(page)]


def ids(block: Block) -> str:
    return block.where


class TestMarks:
    """A block is run unless it says, in a known word, why not."""

    @pytest.mark.parametrize("block", ALL, ids=ids)
    def test_commands_are_in_blocks_that_are_run(self, block: Block) -> None:
        """A block of another language, or an indented one, would escape."""
        first = [line.removeprefix("$ ").lstrip() for line in block.code.splitlines()]
        if block.language not in {"sh", "text", "toml", "python", "ini", "json", "yaml", "promql"}:
            assert block.language == "", f"{block.where}: unknown language {block.language!r}"
            assert not [line for line in first if line.startswith(PROGRAMS)], f"{block.where}: no ```sh"
        if block.language == "text" and "output" not in block.attributes:
            assert block.page.name == "commands.md" or not [line for line in first if line.startswith(PROGRAMS)]

    @pytest.mark.parametrize("block", [block for block in ALL if block.language == "sh"], ids=ids)
    def test_attributes_and_reasons_are_known(self, block: Block) -> None:
        assert block.attributes.keys() <= KNOWN
        if "needs" in block.attributes:
            assert block.attributes["needs"] in NEEDS


class TestWords:
    """Also where a command is not run, it and its options exist."""

    COMMANDS: Final = {command.words: command for command in manual.commands()}

    def problem(self, line: str) -> str | None:
        """What is wrong with ``p2pnodes ...``, up to where the shell takes over."""
        words = re.split(r"\s*(?:[|>;&#)]|$)", line, maxsplit=1)[0].split()
        name = max(
            (" ".join(words[:count]) for count in range(1, 4) if " ".join(words[:count]) in self.COMMANDS), key=len
        )
        rest = words[len(name.split()) :]
        command = self.COMMANDS[name]
        if command.group and rest and re.fullmatch(r"[a-z]+", rest[0]):
            return f"{name} has no command {rest[0]}"
        options = {
            "-h",
            "--help",
            *re.findall(r"(?<!\S)--?[a-z][a-z-]*", " ".join(option for option, _ in command.options)),
        }
        return next(
            (f"{name} has no option {word}" for word in rest if re.match(r"--?[a-z]", word) and word not in options),
            None,
        )

    @pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
    def test_what_pages_name_between_backticks_exists(self, page: Path) -> None:
        spans = [" ".join(span.split()) for span in code_spans(page)]
        found = [
            span
            for span in spans
            if re.match(r"(sudo )?p2pnodes( |$)", span) and not span.startswith("p2pnodes COMMAND")
        ]
        assert [
            self.problem(span.removeprefix("sudo ")) for span in found if self.problem(span.removeprefix("sudo "))
        ] == []

    @pytest.mark.parametrize("block", [block for block in ALL if block.language == "sh" and not kept(block)], ids=ids)
    def test_what_blocks_that_are_not_run_call_exists(self, block: Block) -> None:
        lines = block.code.replace("\\\n", " ").splitlines()
        called = [match[1] for line in lines for match in CALL.finditer(line)]
        assert [self.problem(call) for call in called if self.problem(call)] == []

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("p2pnodes db verify --json", None),
            ("p2pnodes db path | xargs ls --color", None),
            ("p2pnodes db vacuum", "p2pnodes db has no command vacuum"),
            ("p2pnodes statsu", "p2pnodes has no command statsu"),
            ("p2pnodes events --kinds add", "p2pnodes events has no option --kinds"),
        ],
    )
    def test_what_does_not_exist_is_found(self, line: str, problem: str | None) -> None:
        assert self.problem(line) == problem


class TestHarness:
    """What runs the pages notices what a reader would."""

    def page(self, *texts: tuple[str, dict[str, str], str]) -> list[Block]:
        return [Block(Path("page.md"), 10 * (at + 1), *text) for at, text in enumerate(texts)]

    def test_a_command_that_fails_is_named_with_what_it_printed(self) -> None:
        page = self.page(("sh", {}, "true"), ("sh", {}, "echo before\nls /absent\necho behind"))
        with pytest.raises(AssertionError, match=r"page\.md:20: ended with 2:\n(.|\n)*before\n.*/absent") as failed:
            run(page)
        assert "behind" not in str(failed.value)

    def test_a_pipeline_that_fails_anywhere_fails(self) -> None:
        with pytest.raises(AssertionError, match=r"page\.md:10: ended with 1"):
            run(self.page(("sh", {}, "false | cat")))

    def test_an_exit_code_that_is_announced_is_wanted(self) -> None:
        run(self.page(("sh", {"exit": "3"}, "(exit 3)")))
        with pytest.raises(AssertionError, match=r"page\.md:10: ended with"):
            run(self.page(("sh", {"exit": "3"}, "true")))

    def test_what_is_shown_as_output_must_be_printed_in_order(self) -> None:
        command: tuple[str, dict[str, str], str] = ("sh", {}, "printf 'first  1\nsecond\nthird\n'")
        run(self.page(command, ("text", {"output": ""}, "first …\nthird")))
        with pytest.raises(AssertionError, match=r"page\.md:20: not printed: 'first 1'"):
            run(self.page(command, ("text", {"output": ""}, "third\nfirst 1")))

    def test_what_one_block_sets_the_next_one_knows_and_other_terminals_run_on_until_they_are_stopped(self) -> None:
        run(
            self.page(
                ("sh", {}, "name=7000"),
                ("sh", {"until": "Serving"}, "python -u -m http.server --bind 127.0.0.1 7000"),
                ("sh", {}, "curl -s http://127.0.0.1:$name/ > /tmp/listing; test -s /tmp/listing"),
                ("sh", {"stopped": "", "exit": "7"}, "curl -s http://127.0.0.1:$name/"),
            )
        )

    def test_another_terminal_that_ends_before_it_said_its_word_is_told(self) -> None:
        with pytest.raises(AssertionError, match="it ended without: ready"):
            run(self.page(("sh", {"until": "ready"}, "echo no")))

    def test_one_that_hangs_is_named_and_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.docs.shell.PAGE_S_MAX", 1)
        page = self.page(
            ("sh", {"until": "Serving"}, "python -u -m http.server --bind 127.0.0.1 7000"), ("sh", {}, "sleep 600")
        )
        with pytest.raises(AssertionError, match=r"page\.md:[12]0: not done in 1 s"):
            run(page)

    def test_the_machines_own_tmp_and_ports_are_not_those_of_the_page(self) -> None:
        run(self.page(("sh", {}, "echo > /tmp/only-in-the-page; ls /tmp/only-in-the-page")))
        assert not Path("/tmp/only-in-the-page").exists()


@pytest.mark.timeout(PAGE_S_MAX + 60)
@pytest.mark.parametrize("page", [page for page in pages() if any(map(kept, blocks(page)))], ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_it_says(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(page)
    run(found)
    shell = [block for block in found if block.language == "sh"]
    with capsys.disabled():
        sys.stdout.write(
            f" {page.stem}: {sum(map(kept, shell))} blocks run, {sum(not kept(each) for each in shell)} marked\n"
        )
