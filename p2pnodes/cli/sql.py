"""``p2pnodes sql``: questions to a daemon's database, in SQL; the daemon may run meanwhile, or not.

The views (``store/views.sql``) are made for this and keep their columns; the tables below them can be read, too, and
may change with any release. Nothing can be changed: the file is opened read-only, and whatever is not reading is
refused before it runs. Every question has a bound of time, rows and bytes, and no read stays open between two of them:
one that did would keep the daemon from shortening its write-ahead log.
"""

import csv
import os
import re
import select
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NamedTuple

import typer

from p2pnodes.cli.asking import SYSTEM_DEFAULT
from p2pnodes.cli.output import ExitCode, JsonOption, fail_line, note, plain, print_json, print_table, rows_shown, say
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError, StoreError

SECONDS_DEFAULT: Final = 30.0
SECONDS_MAX: Final = 3600.0
"""How long a question may take."""

ROWS_DEFAULT: Final = 1_000
ROWS_MAX: Final = 1_000_000
"""Rows of one answer at most; what is more is said."""

ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bound of one answer: rows are kept until all of them are there."""

VALUE_BYTES_MAX: Final = 2 * 1024 * 1024 + 4096
"""Bound of one value: the largest that the database holds, an event of at most 1 MiB, in hex.

SQLite looks at no clock within a function, and some of them take the square of a value's length.
"""

PATTERN_BYTES_MAX: Final = 1_000
"""Bound of what LIKE and GLOB look for: these, too, end only when they are done."""

HARD_S: Final = 5.0
"""How long behind its time a question may still run, within one function, before the process is ended."""

QUERY_BYTES_MAX: Final = 64 * 1024
"""Bound of what is asked at once."""

STEPS_BETWEEN_LOOKS: Final = 10_000
"""SQLite's instructions between two looks at the clock: about a millisecond."""

HISTORY_MAX: Final = 1_000
"""Questions that the prompt remembers."""

PLACES_MAX: Final = 100
"""Places that are tried to find where an error is."""

HELP: Final = (
    "A question ends with a semicolon. .views lists what is made for reading, .schema NAME shows columns, .quit ends."
)
PROMPT: Final = "p2pnodes> "
MORE: Final = "      ...> "

_READING: Final = frozenset({sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE})
_PRAGMAS: Final = frozenset(
    {
        "application_id", "collation_list", "compile_options", "data_version", "encoding", "foreign_key_list",
        "freelist_count", "function_list", "index_info", "index_list", "index_xinfo", "journal_mode", "page_count",
        "page_size", "schema_version", "table_info", "table_list", "table_xinfo", "user_version",
    }
)  # fmt: skip
"""Pragmas that tell something; those of them that could set it, too, are allowed without a value alone."""
_OF_A_NAME: Final = frozenset(
    {"foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"}
)
_NOT_BESIDE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY})
"""What SQLite says when it can make no file beside a database."""
_TOKEN: Final = re.compile(r'near "(?P<near>.+)": syntax error|no such (?:column|table|function): (?P<name>\S+)')


class QueryError(P2PNodesError):
    """A question that cannot be answered, and where in it the reason is."""

    code = Code.DATA_QUERY


class Answer(NamedTuple):
    """What a question found.

    Attributes:
        columns: Names, each one once.
        rows: Values in that order.
        more: Whether there are more rows than were asked for.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


class Questions:
    """A database that can be asked, and nothing else.

    Args:
        connection: Read-only, from ``store.schema.open_reader``.
        seconds: How long a question may take.
        rows: Rows of an answer at most.
        clock: In seconds, from anywhere.
    """

    def __init__(
        self, connection: sqlite3.Connection, seconds: float, rows: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._rows = rows
        self._clock = clock
        self._deadline_s = 0.0
        self._interrupted = False
        connection.set_authorizer(_authorize)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX)
        connection.set_progress_handler(self._is_over, STEPS_BETWEEN_LOOKS)

    def ask(self, text: str) -> Iterator[Answer]:
        """Answer every statement of a text, one after the other.

        Raises:
            QueryError: One cannot be answered, or not within its bounds; those before it were.
        """
        check_text(text)
        for begin, statement in statements(text):
            answer = self._answer(text, begin, statement)
            if answer is not None:
                yield answer

    def _answer(self, text: str, begin: int, statement: str) -> Answer | None:
        self._deadline_s = self._clock() + self._seconds
        self._interrupted = False
        try:
            with self._interruptible(), closing(self._connection.execute(statement)) as cursor:
                if cursor.description is None:
                    return None  # a comment
                return self._fetch(_distinct([name for name, *_ in cursor.description]), cursor)
        except sqlite3.ProgrammingError as error:
            raise QueryError(f"a question has no parameters here; expected values in their place: {error}") from error
        except sqlite3.Error as error:
            if self._interrupted:
                raise KeyboardInterrupt from error
            raise QueryError(self._why(error, text, begin, statement)) from error
        except OverflowError as error:
            raise QueryError(
                f"a value is longer than {VALUE_BYTES_MAX} bytes; expected less: ask for a part"
            ) from error

    def _fetch(self, columns: tuple[str, ...], cursor: sqlite3.Cursor) -> Answer:
        rows: list[tuple[Any, ...]] = []
        size = 0
        for row in cursor:
            if len(rows) == self._rows:
                return Answer(columns, rows, more=True)
            size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if size > ANSWER_BYTES_MAX:
                raise QueryError(f"an answer of more than {ANSWER_BYTES_MAX} bytes; expected less: ask for fewer rows")
            rows.append(row)
        return Answer(columns, rows, more=False)

    def _is_over(self) -> bool:
        return self._interrupted or self._clock() > self._deadline_s

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end a question: SQLite would swallow what a handler raises within it.

        Within one of its functions SQLite asks nothing at all. There a second Ctrl-C ends the process, and so do
        ``HARD_S`` behind the first, or behind the question's time; a thread sees to it.
        """

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            self._interrupted = True

        try:
            before = signal.signal(signal.SIGINT, interrupt)
        except ValueError:  # not in the main thread, where no signal comes
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        noticed = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=end_hard, args=(reader, self._seconds + HARD_S), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(noticed)
            os.close(writer)  # which ends the thread
            thread.join()
            os.close(reader)
            signal.signal(signal.SIGINT, before)
        if self._interrupted:
            raise KeyboardInterrupt

    def _why(self, error: sqlite3.Error, text: str, begin: int, statement: str) -> str:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_INTERRUPT:
            return f"no answer within {self._seconds:g} s; ask for less, or give it more time with --timeout"
        if code == sqlite3.SQLITE_AUTH:
            return f"{error}; expected a question (SELECT): nothing can be changed here"
        if code == sqlite3.SQLITE_TOOBIG:
            return f"a value is longer than {VALUE_BYTES_MAX} bytes; expected less: ask for a part of it"
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return f"{error}; see `p2pnodes db verify`"
        place = self._place(str(error), statement)
        if place is None:
            return str(error)
        before = text[: begin + place]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        return f"line {line}, column {column}: {error}"

    def _place(self, message: str, statement: str) -> int | None:
        """Where in a statement the word is that an error names."""
        found = _TOKEN.search(message)
        if found is None:
            return len(statement) if message == "incomplete input" else None
        if found["name"]:
            word = re.search(rf"(?<!\w){re.escape(found['name'])}(?!\w)", statement)
            return None if word is None else word.start()
        # The same word may stand in several places: the error is at the first one up to which there is that error.
        for place in [match.start() for match in re.finditer(re.escape(found["near"]), statement)][:PLACES_MAX]:
            try:
                self._connection.execute(f"EXPLAIN {statement[: place + len(found['near'])]}").close()
            except sqlite3.Error as error:
                if str(error) == message:
                    return place
        return None

    def schema(self, name: str = "") -> list[tuple[str, str, str]]:
        """Views and tables, or one of them: its type, name, and the columns.

        Raises:
            QueryError: There is none of this name.
        """
        query = (
            "SELECT m.type, m.name, (SELECT group_concat(i.name, ', ') FROM pragma_table_info(m.name) i)"
            " FROM sqlite_master m WHERE m.type IN ('view', 'table') AND m.name NOT LIKE 'sqlite_%'"
            " AND (?1 = '' OR m.name = ?1) ORDER BY m.type DESC, m.name"
        )
        self._deadline_s = self._clock() + self._seconds
        found = self._connection.execute(query, (name,)).fetchall()
        if not found and name:
            raise QueryError(f"there is no view or table {name!r:.80}; .views lists them")
        return found

    def views(self) -> list[tuple[str, str]]:
        """The views with their columns."""
        return [(name, columns) for kind, name, columns in self.schema() if kind == "view"]


def end_hard(signals: int, seconds: float, end: Callable[[int], object] = os._exit) -> None:
    """End the process when a question does not: at the second Ctrl-C, some time behind the first, or behind its time.

    Args:
        signals: Where the number of each signal can be read, a byte each, until the question has ended.
        seconds: How long it may take.
        end: Takes the exit code.
    """
    deadline_s = time.monotonic() + seconds
    interrupts = 0
    while interrupts < 2 and select.select([signals], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        numbers = os.read(signals, 64)
        if not numbers:
            return
        if found := numbers.count(signal.SIGINT):
            interrupts += found
            deadline_s = min(deadline_s, time.monotonic() + HARD_S)
    if interrupts:
        end(ExitCode.INTERRUPTED)
        return
    fail_line(f"no end after {seconds:g} s, within one function of SQL; expected less: ask for a part", Code.DATA_QUERY)
    sys.stderr.flush()
    end(ExitCode.UNREACHABLE)


def check_text(text: str) -> None:
    """Check what is asked before SQLite sees it.

    Raises:
        QueryError: It is too long, or no text.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise QueryError(f"the question is not UTF-8 (character {error.start + 1}); expected text") from error
    if size > QUERY_BYTES_MAX:
        raise QueryError(f"more than {QUERY_BYTES_MAX} bytes of SQL; expected one question, or a few")
    if "\0" in text:
        raise QueryError(f"there is a NUL at character {text.index(chr(0)) + 1}; expected text without")


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _within: str | None) -> int:
    """Allow what reads."""
    if action in _READING:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if second == "load_extension" else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS and (second is None or first in _OF_A_NAME):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
        return sqlite3.SQLITE_OK  # so SQLite asks for table-valued functions (json_each); the file is read-only anyway
    return sqlite3.SQLITE_DENY


def statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a text, each with the place where it begins."""
    begin = 0
    for match in re.finditer(";", text):
        statement = text[begin : match.end()]
        if sqlite3.complete_statement(statement):
            if statement.strip(" \t\r\n;"):
                yield begin, statement
            begin = match.end()
    if text[begin:].strip():
        yield begin, text[begin:]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Column names, those that stand there already with a number."""
    found: dict[str, None] = {}
    for name in names:
        new, number = name, 2
        while new in found:
            new, number = f"{name}_{number}", number + 1
        found[new] = None
    return tuple(found)


# -- the command -------------------------------------------------------------------------------------------------------


def sql(
    query: Annotated[
        str | None,
        typer.Argument(metavar="[QUERY]", help="One question, or several with semicolons; standard input without it."),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="P2PNODES_CONFIG",
            metavar="FILE",
            show_default=SYSTEM_DEFAULT,
            help="The daemon's configuration.",
        ),
    ] = None,
    database: Annotated[
        Path | None, typer.Option("--database", metavar="FILE", help="Another database, such as a backup.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="Rows of an answer at most.")] = ROWS_DEFAULT,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=0.001, max=SECONDS_MAX, metavar="S", help="Seconds for a question at most."),
    ] = SECONDS_DEFAULT,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a line of headings.")] = False,
) -> None:
    """Ask the database in SQL, read-only; the daemon may run meanwhile, or not.

    The views inventory, claims, verdicts, placements, peers and event_log are made for this. Times are UTC texts, ids
    are hex, hotkeys are SS58. The tables below them can be read, too, but may change with any release.

    Without a QUERY on a terminal there is a prompt, with a history; .views, .schema and .quit work there.
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other; give one of them")
    from p2pnodes.store.copying import is_there

    path = database or _database_of(config)
    if not is_there(path):
        raise StoreError(
            f"{path}: no such database; expected the file of a daemon that has been started once",
            code=Code.DATA_MISSING,
        )
    show = _show_json if as_json else _show_csv if as_csv else _show_table
    if query is None and sys.stdin.isatty():
        _prompt(lambda: _opened(path, timeout_s, limit), path, show)
        return
    with _opened(path, timeout_s, limit) as questions:
        if query is None:
            query = sys.stdin.buffer.read(QUERY_BYTES_MAX + 1).decode(errors="surrogateescape")
        if not query.strip():
            raise typer.BadParameter("there is no question; give one, or send it to standard input")
        for answer in questions.ask(query):
            show(answer)


@contextmanager
def _opened(path: Path, seconds: float, rows: int) -> Iterator[Questions]:
    """A database to ask.

    Whoever may only read the data directory cannot make SQLite's files beside a database; those of a running daemon are
    there. When it is stopped there is none, and nobody writes: then none is needed.

    Raises:
        StoreError: It cannot be read, or is another program's.
    """
    from p2pnodes.store.schema import open_reader, what_to_do

    stopped = not path.with_name(f"{path.name}-wal").exists()
    for still in (False, True):
        with closing(open_reader(path, still=still)) as connection:
            questions = Questions(connection, seconds, rows)
            try:
                questions.schema()
            except sqlite3.Error as error:
                if stopped and not still and getattr(error, "sqlite_errorcode", None) in _NOT_BESIDE:
                    continue
                expected = "; expected a database of p2pnodes that you may read"
                foreign = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB
                advice = expected if foreign else what_to_do(error, expected)
                raise StoreError(f"{path}: {error}{advice}", code=Code.DATA_UNREADABLE) from error
            yield questions
            return


def _database_of(config: Path | None) -> Path:
    from p2pnodes.config import load_settings

    if config is None:
        raise typer.BadParameter("give the daemon's configuration with --config (or P2PNODES_CONFIG), or --database")
    return load_settings(config).database_path


def _show_table(answer: Answer) -> None:
    rows = ({name: _text(value) for name, value in zip(answer.columns, row, strict=True)} for row in answer.rows)
    print_table(answer.columns, rows, empty="no rows")
    _note_more(answer)


def _show_json(answer: Answer) -> None:
    print_json([dict(zip(answer.columns, map(_json, row), strict=True)) for row in answer.rows])
    _note_more(answer)


def _show_csv(answer: Answer) -> None:
    shown = _terminal if sys.stdout.isatty() else _text
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([shown(name) for name in answer.columns])
    writer.writerows([shown(value) for value in row] for row in answer.rows)
    _note_more(answer)


def _text(value: Any) -> Any:
    """A value as it is shown: bytes in hex."""
    return value.hex() if isinstance(value, bytes) else value


def _json(value: Any) -> Any:
    """A value as JSON has it, which knows no infinity."""
    return str(value) if isinstance(value, float) and not isfinite(value) else _text(value)


def _terminal(value: Any) -> Any:
    """A value as a terminal may have it: what strangers wrote moves no cursor."""
    return plain(value) if isinstance(value, str) else _text(value)


def _note_more(answer: Answer) -> None:
    if answer.more:
        note(f"{rows_shown(len(answer.rows))}, there are more: see --limit")


# -- the prompt --------------------------------------------------------------------------------------------------------


Open = Callable[[], AbstractContextManager[Questions]]
"""Opens the database anew: a daemon may have started or stopped since."""


def _prompt(opened: Open, path: Path, show: Callable[[Answer], None]) -> None:
    """Ask and answer until the end of the input."""
    with opened() as questions:
        words = _words(questions)
    note(f"{path}, read-only. {HELP}")
    with _history(words):
        asked = ""
        while True:
            try:
                line = input(MORE if asked else PROMPT)
                check_text(asked + line)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:  # gives up what is half written, as shells do
                print()
                asked = ""
                continue
            except UnicodeDecodeError as error:
                fail_line(f"the line is not {error.encoding}; expected text", Code.DATA_QUERY)
                asked = ""
                continue
            except QueryError as error:
                fail_line(str(error), error.code)
                asked = ""
                continue
            told = not asked and line.strip().startswith(".")
            asked = f"{asked}\n{line}" if asked else line
            if not asked.strip():
                asked = ""
            elif told or sqlite3.complete_statement(asked):
                question, asked = asked, ""
                try:
                    with opened() as questions:
                        if told and not _told(questions, question.split()):
                            return
                        for answer in () if told else questions.ask(question):
                            show(answer)
                except P2PNodesError as error:
                    fail_line(str(error), error.code)
                except KeyboardInterrupt:
                    note("given up")


def _told(questions: Questions, words: Sequence[str]) -> bool:
    """Do what a line with a dot says; false at the end."""
    match words:
        case [".quit" | ".exit"]:
            return False
        case [".views"]:
            for name, columns in questions.views():
                say(f"{name}: {columns}")
        case [".schema", *rest] if len(rest) <= 1:
            try:
                for kind, name, columns in questions.schema(*rest):
                    say(f"{kind} {name}: {columns}")
            except QueryError as error:
                fail_line(str(error), error.code)
        case [".help"]:
            say(HELP)
        case _:
            fail_line(
                f"{plain(' '.join(words))!r:.80} is no command here; expected .views, .schema [NAME] or .quit",
                Code.DATA_QUERY,
            )
    return True


def _words(questions: Questions) -> list[str]:
    """Names that the prompt completes."""
    return sorted({word for _, name, columns in questions.schema() for word in (name, *columns.split(", "))})


@contextmanager
def _history(words: Sequence[str]) -> Iterator[None]:
    """Remember questions from one prompt to the next, and complete names."""
    try:
        import readline
    except ImportError:  # a Python without it; the prompt works all the same
        yield
        return
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = home / "p2pnodes" / "sql_history"

    def complete(begun: str, index: int) -> str | None:
        return next(
            (word for number, word in enumerate(w for w in words if w.startswith(begun)) if number == index), None
        )

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(HISTORY_MAX)
    with suppress(OSError):  # there is none yet
        readline.read_history_file(path)
    try:
        yield
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            readline.write_history_file(path)
        except OSError as error:
            note(f"{path}: the history cannot be kept ({error.strerror})")
