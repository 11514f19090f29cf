"""What every command shares: tables, JSON, errors on stderr, exit codes.

Tables are for people: colours only on a terminal (and not with NO_COLOR), hotkeys and ids shortened and columns left
out where a terminal is too narrow for them, everything in full where the output is no terminal. ``--json`` is for
programs. What miners and peers wrote is shown without the control characters that could move a cursor.
"""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from typer._click.exceptions import UsageError

PIPE_COLUMNS: Final = 10_000
"""Width of a table that goes to no terminal."""

FREE_TEXT: Final = frozenset(
    {"advice", "chutes", "description", "detail", "found", "last_error", "meaning", "note", "reason", "value"}
)
"""Columns of no certain width; only these are broken over several lines where a terminal is too narrow."""

FREE_TEXT_CHARS_MIN: Final = 16
"""Narrowest that such a column gets; where there is less room, other columns are left out."""


_GAP: Final = 2
"""Blanks between columns."""


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


_EXIT_CODES: Final = (
    "0 done; 1 refused or failed, the reason is on stderr; 2 the command line cannot be used; "
    "3 nobody answered or decided in time, the same command can be repeated; 130 interrupted"
)

EXIT_STATUS: Final[Mapping[str, str]] = {
    code: meaning for code, _, meaning in (part.partition(" ") for part in _EXIT_CODES.split("; "))
}
"""What the exit codes mean, one by one."""

ERROR_CODES: Final = "An error's line ends with its code in brackets, which `p2pnodes logs explain` explains."

EXIT_CODES: Final = f"Exit codes: {_EXIT_CODES}. {ERROR_CODES}"

_LONG: Final = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}|[0-9a-f]{64}")
"""SS58 addresses, and what is 32 bytes in hex."""

_INVALID: Final = re.compile(r"\AInvalid value(?: for (?P<what>.+?))?: ")
"""How typer begins what it says of a value; the option in quotes."""

_ITS_WORDS: Final = re.compile(r"(?<=: )Value error, ")
"""What pydantic puts before another library's words."""

_MARKUP: Final = re.compile(r"\[(?=[a-z])")
"""What rich would take for the begin of a style: the name of a table in the configuration."""

Command = TypeVar("Command", bound=Callable[..., None])
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class UnreachableError(P2PNodesError):
    """Nobody answered, or nothing was decided in time; the command can be repeated."""

    code = Code.ADMIN_UNREACHABLE


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
        help_text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)  # the terminal breaks lines
        app.command(
            name,
            help=_MARKUP.sub(r"\\[", help_text),
            epilog="\n".join(["Examples:", *(f"$ {example}" for example in examples)]) if examples else None,
            rich_help_panel=panel,
        )(function)
        return function

    return register


def ss58(text: str) -> str:
    """Check an option that is a hotkey.

    Raises:
        typer.BadParameter: Not an SS58 address.
    """
    from p2pnodes.model.keys import ss58_decode

    try:
        ss58_decode(text)
    except ValueError as error:
        raise typer.BadParameter(f"expected an SS58 address, found {text!r:.80}: {error}") from error
    return text


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII: escapes instead of what a terminal would act on."""
    print(json.dumps(value, indent=2))


def say(line: str) -> None:
    """Print one line for people."""
    console().print(plain(line), soft_wrap=True, markup=False, emoji=False, highlight=False)


def note(line: str) -> None:
    """Print one line on stderr that is neither result nor error."""
    print(f"p2pnodes: {plain(line)}", file=sys.stderr)


def warn_line(line: str, code: Code) -> None:
    """Print one line on stderr for what works, but not as it should, with its code."""
    print(f"p2pnodes: warning: {plain(line)} [{code}]", file=sys.stderr)


def fail_line(line: str, code: str) -> None:
    """Print one error line on stderr, with its code; the command goes on."""
    print(f"p2pnodes: error: {plain(line)} [{plain(code)}]", file=sys.stderr)


def fail(error: P2PNodesError) -> NoReturn:
    """Print an error as one line on stderr and end the program with its exit code."""
    fail_line(str(error), error.code)
    sys.exit(ExitCode.UNREACHABLE if isinstance(error, UnreachableError) else ExitCode.FAILED)


def fail_usage(error: "UsageError") -> NoReturn:
    """Print what is wrong with the command line as one line on stderr and end the program.

    Nothing is printed where the command's help, on stdout, is the answer to no arguments at all.
    """
    from typer._click.exceptions import NoArgsIsHelpError

    if not isinstance(error, NoArgsIsHelpError):
        text = _INVALID.sub(lambda found: f"{found['what']}: " if found["what"] else "", error.format_message())
        text = _ITS_WORDS.sub("", text).replace("Input should be", "expected a value that is").rstrip(".")
        words = error.ctx.command_path if error.ctx else "p2pnodes"
        if text[1:2].islower():  # a word, not a name such as URL
            text = f"{text[0].lower()}{text[1:]}"
        fail_line(f"{text} (see `{words} --help`)", Code.SYSTEM_USAGE)
    sys.exit(ExitCode.USAGE)


def fail_system(error: OSError) -> NoReturn:
    """Print what the system refused as one line on stderr and end the program."""
    where = "standard output, or another open file" if error.filename is None else os.fsdecode(error.filename)
    fail_line(f"{where}: {error.strerror or error}", Code.SYSTEM_REFUSED)
    sys.exit(ExitCode.FAILED)


def fail_memory() -> NoReturn:
    """Print that memory did not suffice as one line on stderr and end the program."""
    fail_line("out of memory; expected more: see what else runs, and the limits of this process", Code.SYSTEM_REFUSED)
    sys.exit(ExitCode.FAILED)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is done that cannot be undone.

    Args:
        question: What is asked.
        yes: Whether the command line has said so already.

    Raises:
        typer.BadParameter: There is no terminal to ask on.
        typer.Abort: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("give --yes: there is no terminal to ask on")
    typer.confirm(question, abort=True, err=True)


@contextmanager
def terminated() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this as Ctrl-C does: the terminal is put right, and drafts are removed."""

    def end(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():  # where no signal comes
        yield
        return
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


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


def duration(seconds: float) -> str:
    """A time span as one says it: the largest unit of which there are two."""
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def rows_shown(count: int) -> str:
    """How many rows a list has that goes on."""
    return "1 row is shown" if count == 1 else f"{count} rows are shown"


def kept_copies(put_aside: Collection[float], days: float) -> str:
    """Why databases that ``restore`` put aside, at these moments, are not removed yet."""
    count = len(put_aside)
    return f"{count} {'copy' if count == 1 else 'copies'} kept, younger than {days:g} days"


def utc(seconds: float) -> str:
    """A moment for people, from Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, empty: str) -> None:
    """Print rows as a table.

    Args:
        columns: Keys of the rows, in order; they are the headings, too. Where a terminal is too narrow, those without
            a value are left out first and silently, then the last ones with a note; FREE_TEXT that says something
            stays, and so does the first of the others. What is too wide even so is left to the terminal to break.
        rows: Column -> value; a column that is absent shows as ``-``.
        empty: Said instead of a table without rows.
    """
    from rich.table import Table
    from rich.text import Text

    cells: dict[str, list[str]] = {column: [] for column in columns}
    for row in rows:
        for column in columns:
            cells[column].append(cell(row.get(column)))
    if not any(cells.values()):
        say(empty)
        return
    width = console().width
    if _width(cells) > width:
        cells = {column: [shortened(text) for text in texts] for column, texts in cells.items()}
    left_out = _leave_out(cells, width)
    room = _free_text_widths(cells, width)
    table = Table(box=None, header_style="bold", padding=(0, _GAP, 0, 0))
    for column in cells:
        free = column in FREE_TEXT
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=not free, width=room.get(column))
    for line in zip(*cells.values(), strict=True):
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in line))
    _print(table, max(width, _width(cells, FREE_TEXT_CHARS_MIN)))
    if left_out:
        note(f"(not shown: {', '.join(left_out)}; see --json)")


def _leave_out(cells: dict[str, list[str]], width: int) -> list[str]:
    """Remove columns until the others fit; return those that held a value."""
    empty = [column for column in cells if set(cells[column]) <= {"-", ""}]
    others = [column for column in cells if column not in FREE_TEXT and column not in empty]
    left_out: list[str] = []
    for column in (*empty, *reversed(others[1:])):
        if len(cells) == 1 or _width(cells, FREE_TEXT_CHARS_MIN) <= width:
            break
        del cells[column]
        if column not in empty:
            left_out.insert(0, column.replace("_", " "))
    return left_out


def _width(cells: Mapping[str, Sequence[str]], free_text_max: int = PIPE_COLUMNS) -> int:
    """Width of a table, a gap behind each of its columns, when free text is broken at a width."""
    widths = [_column_width(column, texts) for column, texts in cells.items() if column not in FREE_TEXT]
    free = [min(free_text_max, _column_width(column, texts)) for column, texts in cells.items() if column in FREE_TEXT]
    return sum(widths) + sum(free) + _GAP * len(cells)


def _free_text_widths(cells: Mapping[str, Sequence[str]], width: int) -> dict[str, int]:
    """Share what the other columns leave of a width out among the free text: the narrow ones get all that they need."""
    needed = {column: _column_width(column, texts) for column, texts in cells.items() if column in FREE_TEXT}
    room = width - _width(cells, 0)
    widths: dict[str, int] = {}
    for column in sorted(needed, key=needed.__getitem__):
        share = max(FREE_TEXT_CHARS_MIN, room // (len(needed) - len(widths)))
        widths[column] = min(needed[column], share)
        room -= widths[column]
    return widths


def _column_width(column: str, texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(column), *map(cell_len, texts))


def shortened(text: str) -> str:
    """A hotkey, node key or id by its ends; GPU uuids and the like are short enough to stay."""
    return f"{text[:8]}…{text[-4:]}" if _LONG.fullmatch(text) else text


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one thing: a line for each of its fields, which is left to the terminal to break.

    A terminal copies a line that it broke itself as one line, so that ids and keys stay whole.
    """
    from rich.text import Text

    target = console()
    longest = max(map(len, fields), default=0)
    for name, value in fields.items():
        line = Text.assemble((name.ljust(longest + _GAP), "bold"), cell(value))
        line.rstrip()
        target.print(line, soft_wrap=True)


def _print(table: "Table", width: int) -> None:
    """Print a table; where it goes to no terminal, without the blanks that fill its lines up."""
    target = console(width)
    if target.is_terminal:
        target.print(table)
        return
    with target.capture() as captured:
        target.print(table)
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def console(width: int | None = None) -> "Console":
    """Where results go: stdout, as wide as the terminal unless told otherwise, or as needed where there is none."""
    from rich.console import Console

    return Console(
        width=width if sys.stdout.isatty() else PIPE_COLUMNS,
        highlight=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # rich itself would go on with bold
    )


_STYLES: Final[Mapping[str, str]] = {
    "verified": "green",
    "valid": "green",
    "pending": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "void": "red",
    "cut": "red",
}
"""Colours of the values that one looks for."""
