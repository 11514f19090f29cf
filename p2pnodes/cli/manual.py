"""The command line as a reference: every command with its options and examples, as a manual page or as Markdown.

Both are made from the commands themselves, so what ``--help`` says is what they say. The manual page is one for all
commands, as ``p2pnodes docs --man`` prints it.

Source: man(7) and groff_man(7) for the markup.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

from p2pnodes import __version__
from p2pnodes.cli.output import ERROR_CODES, EXIT_STATUS

if TYPE_CHECKING:
    from typer._click import Context

PROGRAM: Final = "p2pnodes"

LINE_CHARS_MAX: Final = 78
"""Of a line of text in the manual page's source; mandoc's style is 80."""

ENVIRONMENT: Final[Mapping[str, str]] = {
    "P2PNODES_CONFIG": "The daemon's configuration, where --config is not given.",
    "P2PNODES_TABLE__SETTING": (
        "A setting of the configuration: P2PNODES_HTTP__PORT=8001 is port in the table http, P2PNODES_DATA_DIR a "
        "setting at the top. It goes before the file, and options go before it. Lists and tables are JSON."
    ),
    "CREDENTIALS_DIRECTORY": "Set by systemd: the credential hotkey in it is the hotkey, where no other is named.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Set by systemd: where run says that it is ready, and how often that it is alive.",
    "LISTEN_FDS, LISTEN_FDNAMES": "Set by systemd: sockets that it kept while the daemon was restarted.",
    "SSL_CERT_FILE, HTTPS_PROXY": "A file of trusted certificates, and a proxy for the way to the chain.",
    "NO_COLOR": "Set to anything: no colours and no bold.",
    "PAGER": "What shows the pages of docs on a terminal; less unless set.",
}
"""Variables that a command heeds."""

FILES: Final[Mapping[str, str]] = {
    "/etc/p2pnodes/p2pnodes.toml": "The configuration of the system's service; any other path is as good.",
    "/var/lib/p2pnodes": (
        "The service's data_dir: p2pnodes.db (the database, with p2pnodes.db-wal and p2pnodes.db-shm while it is "
        "open), node.key (the key that signs events and sessions) and admin.sock (what the commands for operators ask)."
    ),
    "~/.bittensor/wallets": "Bittensor's wallets; wallet and hotkey name a file in it.",
}
"""Files and directories that one meets."""

SEE_ALSO: Final = "p2pnodes docs lists the pages that ship with the program, p2pnodes docs TOPIC shows one."


_NO_BRACES: Final = str.maketrans("", "", "{}")
"""typer puts names of arguments in braces."""

_DOUBLED: Final = re.compile(r"\[\[(.*?)\](?:\.\.\.)?\](\.\.\.)?")
"""An optional argument whose name is written with its brackets."""


class Command(NamedTuple):
    """One command, or a group of them.

    Attributes:
        words: What one types: ``p2pnodes db verify``.
        usage: What follows: ``[OPTIONS] [PATH]``.
        paragraphs: Its help.
        options: Options and arguments: how they are written, and what they are for.
        examples: Command lines.
        panel: Heading under which ``p2pnodes --help`` lists it, or its group.
        group: Whether it only holds others, which follow it.
    """

    words: str
    usage: str
    paragraphs: Sequence[str]
    options: Sequence[tuple[str, str]]
    examples: Sequence[str]
    panel: str
    group: bool


def commands() -> list[Command]:
    """Every command in the order of ``p2pnodes --help``; the first one is the program itself."""
    from p2pnodes.cli import app

    return list(_walk(typer.main.get_command(app), None, PROGRAM, ""))


def _walk(command: Any, parent: "Context | None", name: str, panel: str) -> Iterator[Command]:
    """A command of typer's, and those below it."""
    context = typer.Context(command, parent=parent, info_name=name)
    members: dict[str, Any] = getattr(command, "commands", {})
    paragraphs = [" ".join(part.split()) for part in (command.help or "").replace("\\[", "[").split("\n\n")]
    examples = (command.epilog or "").partition("Examples:\n")[2].splitlines()
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield Command(
        context.command_path,
        _usage(command.collect_usage_pieces(context), members=bool(members)),
        [part for part in paragraphs if part],
        [record for record in records if record is not None and record[0] not in {"--help", "-h, --help"}],
        [example.removeprefix("$ ") for example in examples],
        panel,
        bool(members) and not command.invoke_without_command,
    )
    by_panel: dict[str, list[str]] = {}
    for member, each in members.items():
        if not each.hidden:
            by_panel.setdefault(panel or each.rich_help_panel or "", []).append(member)
    for heading, names in by_panel.items():
        for member in names:
            yield from _walk(members[member], context, member, heading)


def _usage(pieces: Iterable[str], *, members: bool) -> str:
    """What follows a command, as ``[OPTIONS] [FILE]...``."""
    words = " ".join(piece for piece in pieces if piece != "COMMAND [ARGS]...").translate(_NO_BRACES)
    return f"{words} [COMMAND]" if members else _DOUBLED.sub(r"[\1]\2", words).replace("......", "...")


def markdown(listed: Iterable[Command]) -> str:
    """Commands as sections of a Markdown page: a heading of level 2 for each panel, of level 3 for each command."""
    parts: list[str] = []
    panel = ""
    for command in listed:
        if command.panel != panel:
            panel = command.panel
            parts.append(f"## {panel}\n")
        if command.panel:
            parts.append(f"### {command.words}\n")
        parts += [f"{_marked(paragraph)}\n" for paragraph in command.paragraphs]
        if not command.group:
            parts.append(f"```text\n{command.words} {command.usage}\n```\n")
        if command.options:
            rows = "".join(f"| `{_cell(name)}` | {_cell(_marked(text))} |\n" for name, text in command.options)
            parts.append(f"| option | meaning |\n| --- | --- |\n{rows}")
        if command.examples:
            lines = "\n".join(command.examples)
            parts.append(f"```sh needs=example\n{lines}\n```\n")
    return "\n".join(parts)


def _marked(text: str) -> str:
    """Text whose characters mean nothing to Markdown but for the backticks, which it has for the same purpose."""
    pieces = text.split("`")
    plain = [piece if index % 2 else _escaped(piece) for index, piece in enumerate(pieces)]
    return "`".join(plain)


def _escaped(text: str) -> str:
    for character in "\\*_<[":
        text = text.replace(character, f"\\{character}")
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def roff(listed: Iterable[Command], day: date) -> str:
    """All commands as a manual page of section 1, in ASCII.

    Args:
        listed: The first one is the program itself.
        day: What the page is dated with.
    """
    program, *others = listed
    lines = [
        f'.TH P2PNODES 1 "{day.isoformat()}" "{PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        *_text(f"{PROGRAM} \\- {_roff(program.paragraphs[0].rstrip('.'))}"),
        ".SH SYNOPSIS",
        f".B {PROGRAM}",
        "[OPTIONS] COMMAND [ARGS]...",
        ".SH DESCRIPTION",
        *_paragraphs(program.paragraphs[1:]),
        ".SH OPTIONS",
        *_list(program.options),
    ]
    panel = ""
    for command in others:
        if command.panel != panel:
            panel = command.panel
            lines.append(f'.SH "{_roff(panel.upper())}"')
        lines.append(f'.SS "{_roff(command.words if command.group else f"{command.words} {command.usage}")}"')
        lines += [*_paragraphs(command.paragraphs), *_list(command.options)]
        if command.examples:
            lines += [".PP", "Examples:", ".PP", ".nf", ".RS 4", *map(_roff, command.examples), ".RE", ".fi"]
    for heading, entries in (("EXIT STATUS", EXIT_STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines += [f'.SH "{heading}"', *_list(entries.items())]
        if entries is EXIT_STATUS:
            lines += [".PP", *_text(_roff(ERROR_CODES))]
    lines += ['.SH "SEE ALSO"', *_text(_roff(SEE_ALSO))]
    return "\n".join(lines) + "\n"


def _paragraphs(paragraphs: Sequence[str]) -> list[str]:
    """Paragraphs below a heading: the first one needs no macro."""
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [*([".PP"] if lines else []), *_text(_roff(paragraph))]
    return lines


def _list(entries: Iterable[tuple[str, str]]) -> list[str]:
    return [line for name, text in entries for line in (".TP", f".B {_roff(name)}", *_text(_roff(text)))]


def _text(escaped: str) -> list[str]:
    """Lines of running text, none of which begins like a macro."""
    lines = wrap(escaped, LINE_CHARS_MAX, break_long_words=False, break_on_hyphens=False)
    return [f"\\&{line}" if line.startswith((".", "'")) else line for line in lines]


def _roff(text: str) -> str:
    """Text of a manual page: nothing in it is taken for an escape, and all of it is ASCII."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in escaped)
