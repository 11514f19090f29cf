"""What every command shares: tables, JSON, errors on stderr, exit codes.

Tables are for people: colours only on a terminal (and not with NO_COLOR), hotkeys and ids shortened where a terminal is
too narrow for them, everything in full where the output is no terminal. ``--json`` is for programs. What miners and
peers wrote is shown without the control characters that could move a cursor.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from p2pnodes.model.errors import P2PNodesError

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS: Final = 10_000
"""Width of a table that goes to no terminal."""


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 refused or failed, the reason is on stderr; 2 the command line cannot be used; "
    "3 nobody answered or decided in time, the same command can be repeated; 130 interrupted."
)

_LONG: Final = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}|[0-9a-f]{64}")
"""SS58 addresses, and what is 32 bytes in hex."""

Command = TypeVar("Command", bound=Callable[..., None])
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class UnreachableError(P2PNodesError):
    """Nobody answered, or nothing was decided in time; the command can be repeated."""


def command(
    app: typer.Typer, *examples: str, name: str | None = None, panel: str | None = None
) -> Callable[[Command], Command]:
    """Register a function as a command, with its docstring as help.

    Args:
        app: The group that it belongs to.
        examples: Command lines, shown below the help.
        name: The function's own name unless given.
        panel: Heading in the group's list of commands.
    """

    def register(function: Command) -> Command:
        paragraphs = cleandoc(function.__doc__ or "").split("\n\n")
        app.command(
            name,
            help="\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs),  # the terminal breaks lines
            epilog="\n".join(["Examples:", *(f"$ {example}" for example in examples)]) if examples else None,
            rich_help_panel=panel,
        )(function)
        return function

    return register


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII: escapes instead of what a terminal would act on."""
    print(json.dumps(value, indent=2))


def say(line: str) -> None:
    """Print one line for people."""
    console().print(plain(line), soft_wrap=True, markup=False, highlight=False)


def note(line: str) -> None:
    """Print one line on stderr that is neither result nor error."""
    print(f"p2pnodes: {plain(line)}", file=sys.stderr)


def fail_line(line: str) -> None:
    """Print one error line on stderr; the command goes on."""
    print(f"p2pnodes: error: {plain(line)}", file=sys.stderr)


def fail(error: P2PNodesError) -> NoReturn:
    """Print an error as one line on stderr and end the program with its exit code."""
    fail_line(str(error))
    sys.exit(ExitCode.UNREACHABLE if isinstance(error, UnreachableError) else ExitCode.FAILED)


def plain(text: str) -> str:
    """A text on one line, its control characters and other unprintable ones as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return plain(value)
        case Mapping() | list():
            return plain(json.dumps(value))
        case _:
            return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, empty: str) -> None:
    """Print rows as a table.

    Args:
        columns: Keys of the rows, in order; they are the headings, too.
        rows: Column -> value; a column that is absent shows as ``-``.
        empty: Said instead of a table without rows.
    """
    from rich.table import Table
    from rich.text import Text

    headings = [column.replace("_", " ") for column in columns]
    lines = [[cell(row.get(column)) for column in columns] for row in rows]
    if not lines:
        say(empty)
        return
    target = console()
    widths = [max(map(len, values)) for values in zip(headings, *lines, strict=True)]
    if sum(widths) + 2 * len(widths) > target.width:
        lines = [[_shortened(text) for text in line] for line in lines]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number == 0)
    for line in lines:
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in line))
    target.print(table)


def _shortened(text: str) -> str:
    """A hotkey, node key or id by its ends; GPU uuids and the like are short enough to stay."""
    return f"{text[:8]}…{text[-4:]}" if _LONG.fullmatch(text) else text


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one thing: a line for each of its fields."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text(cell(value)))
    console().print(table)


def console() -> "Console":
    """Where results go: stdout, as wide as the terminal, or as wide as needed where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


_STYLES: Final[Mapping[str, str]] = {
    "verified": "green",
    "valid": "green",
    "pending": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "void": "red",
}
"""Colours of the values that one looks for."""
