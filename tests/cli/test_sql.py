"""``p2pnodes sql``: reads everything, changes nothing, has an end."""

import csv
import io
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from p2pnodes.cli.sql import (
    HARD_S,
    PATTERN_BYTES_MAX,
    VALUE_BYTES_MAX,
    Answer,
    QueryError,
    Questions,
    end_hard,
    statements,
)
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import EVENT_BYTES_MAX
from p2pnodes.store.database import VIEWS
from p2pnodes.store.schema import open_reader, open_writer
from tests.cli.conftest import Cli, Forbid
from tests.support import hotkey

module = sys.modules["p2pnodes.cli.sql"]

ALICE = hotkey("//Alice").address
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def questions(database: Path) -> Iterator[Questions]:
    with closing(open_reader(database)) as connection:
        yield Questions(connection, 30.0, 1_000)


def only(questions: Questions, query: str) -> Answer:
    """The answer to a query of one statement."""
    (answer,) = questions.ask(query)
    return answer


class TestAnswers:
    """What is asked is answered, in the form that was asked for."""

    def test_a_table(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", "SELECT uuid, hotkey FROM inventory ORDER BY uuid", "--config", config)
        assert ended.code == 0
        assert [line.split() for line in ended.out.splitlines()] == [["uuid", "hotkey"], ["u1", ALICE], ["u2", ALICE]]

    def test_json(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli(
            "sql", "SELECT uuid, verified_at, x'01ff' AS raw FROM inventory ORDER BY uuid", "--config", config, "--json"
        )
        assert ended.json == [{"uuid": uuid, "verified_at": None, "raw": "01ff"} for uuid in ("u1", "u2")]

    def test_csv_quotes_what_it_must(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", "SELECT 'a,b' AS x, 'say \"hi\"' AS y, NULL AS z", "--config", config, "--csv")
        assert list(csv.reader(io.StringIO(ended.out))) == [["x", "y", "z"], ["a,b", 'say "hi"', ""]]

    def test_no_rows(self, cli: Cli, config: Path, database: Path) -> None:
        assert cli("sql", "SELECT * FROM verdicts", "--config", config).out == "no rows\n"
        assert cli("sql", "SELECT * FROM verdicts", "--config", config, "--json").json == []

    def test_standard_input_is_asked_without_a_query(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", "--config", config, "--csv", stdin=b"SELECT 1 AS a;\n-- and\nSELECT ';' AS b;")
        assert ended.out == "a\n1\nb\n;\n"

    def test_another_database_needs_no_configuration(self, cli: Cli, database: Path) -> None:
        assert cli("sql", "SELECT count(*) AS n FROM claims", "--database", database, "--csv").out == "n\n1\n"

    @pytest.mark.parametrize("runs", [False, True])
    def test_a_stopped_daemons_database_can_be_asked_where_nothing_can_be_written(
        self, cli: Cli, config: Path, database: Path, monkeypatch: pytest.MonkeyPatch, *, runs: bool
    ) -> None:
        opened: list[bool] = []

        def open_in_a_directory_of_others(path: Path, *, still: bool = False) -> sqlite3.Connection:
            opened.append(still)
            return open_reader(path, still=still)

        def schema(questions: Questions, name: str = "") -> list[tuple[str, str, str]]:
            if not opened[-1]:
                error = sqlite3.OperationalError("attempt to write a readonly database")
                error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
                raise error
            return []

        monkeypatch.setattr("p2pnodes.store.schema.open_reader", open_in_a_directory_of_others)
        monkeypatch.setattr(Questions, "schema", schema)
        if runs:
            database.with_name(f"{database.name}-wal").write_bytes(b"")
        ended = cli("sql", "SELECT count(*) AS n FROM inventory", "--config", config, "--csv")
        if runs:  # its writes would be missed
            assert "expected a database of p2pnodes that you may read" in ended.error
            assert opened == [False]
        else:
            assert ended.out == "n\n2\n"
            assert opened == [False, True]

    def test_control_characters_reach_no_terminal(self, cli: Cli, config: Path, database: Path) -> None:
        assert "\x1b" not in cli("sql", "SELECT char(27) || '[2J' AS x", "--config", config).out

    def test_control_characters_of_csv_reach_files_alone(
        self, questions: Questions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = only(questions, "SELECT char(27) || '[2J' AS \"\x1b]\", 1 AS b")
        for terminal, shown in ((True, "\\x1b],b\n\\x1b[2J,1\n"), (False, "\x1b],b\n\x1b[2J,1\n")):
            out = io.StringIO()
            monkeypatch.setattr(out, "isatty", lambda terminal=terminal: terminal, raising=False)
            monkeypatch.setattr(sys, "stdout", out)
            module._show_csv(answer)
            assert out.getvalue() == shown

    def test_infinity_is_a_text_in_json(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", "SELECT 9e999 AS a, -9e999 AS b, 1.5 AS c", "--config", config, "--json")
        assert ended.json == [{"a": "inf", "b": "-inf", "c": 1.5}]

    def test_the_views_are_all_there(self, questions: Questions) -> None:
        assert {name for name, _ in questions.views()} == VIEWS
        for name, columns in questions.views():
            assert only(questions, f"SELECT * FROM {name}").columns == tuple(columns.split(", "))

    def test_columns_of_one_name_are_told_apart(self, questions: Questions) -> None:
        assert only(questions, "SELECT 1 AS a, 2 AS a, 3 AS a").columns == ("a", "a_2", "a_3")

    def test_a_comment_has_no_answer(self, questions: Questions) -> None:
        assert list(questions.ask("-- nothing;\n")) == []

    def test_it_reads_beside_a_writer(self, questions: Questions, database: Path) -> None:
        with closing(open_writer(database)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM checks")
            assert only(questions, "SELECT count(*) FROM inventory").rows == [(2,)]
            writer.execute("ROLLBACK")

    def test_no_read_stays_open(self, questions: Questions, database: Path) -> None:
        module_answer = only(questions, "SELECT * FROM event_log")
        assert module_answer.rows
        with closing(open_writer(database)) as writer:
            writer.execute("INSERT INTO meta VALUES ('x', 1)")
            busy, *_ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0


class TestRefusals:
    """Whatever is not reading is refused, and says so."""

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM events",
            "UPDATE node SET status = 'verified'",
            "INSERT INTO meta VALUES ('a', 1)",
            "DROP VIEW inventory",
            "CREATE TABLE t (a)",
            "CREATE TEMP TABLE t (a)",
            "ATTACH DATABASE '/tmp/other.db' AS other",
            "VACUUM INTO '/tmp/copy.db'",
            "BEGIN",
            "PRAGMA query_only = OFF",
            "PRAGMA user_version = 7",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA wal_checkpoint",
            "PRAGMA writable_schema = ON",
            "REINDEX",
            "SELECT load_extension('x')",
            "UPDATE sqlite_master SET sql = ''",
        ],
    )
    def test_nothing_can_be_changed(self, questions: Questions, database: Path, statement: str) -> None:
        before = database.read_bytes()
        with pytest.raises(QueryError):
            list(questions.ask(statement))
        assert database.read_bytes() == before

    def test_the_refusal_says_what_is_expected(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", "DELETE FROM events", "--config", config)
        assert ended.code == 1
        assert ended.error == "not authorized; expected a question (SELECT): nothing can be changed here"

    @pytest.mark.parametrize(
        "question",
        [
            "PRAGMA table_info(inventory)",
            "PRAGMA user_version",
            "EXPLAIN SELECT 1",
            "SELECT value FROM json_each('[1]')",
            "SELECT name FROM pragma_table_info('meta')",
        ],
    )
    def test_what_only_tells_is_answered(self, questions: Questions, question: str) -> None:
        assert only(questions, question).rows

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("SELECT uuid FORM inventory", 'line 1, column 18: near "inventory": syntax error'),
            ("SELECT 1;\nSELECT nope\nFROM claims", "line 2, column 8: no such column: nope"),
            ("SELECT *\n  FROM nodes", "line 2, column 8: no such table: nodes"),
            ("SELECT f(1)", "line 1, column 8: no such function: f"),
            ("SELECT 1, 2, , 3", 'line 1, column 14: near ",": syntax error'),
            ("SELECT (1", "line 1, column 10: incomplete input"),
            (
                "SELECT ?",
                (
                    "a question has no parameters here; expected values in their place: Incorrect number of bindings"
                    " supplied. The current statement uses 1, and there are 0 supplied."
                ),
            ),
        ],
    )
    def test_an_error_says_where_it_is(self, questions: Questions, query: str, message: str) -> None:
        with pytest.raises(QueryError) as refused:
            list(questions.ask(query))
        assert str(refused.value) == message

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (b'SELECT "\xff"', "the question is not UTF-8 (character 9); expected text"),
            (b"SELECT 1\0", "there is a NUL at character 9; expected text without"),
        ],
    )
    def test_what_is_no_text_is_refused(
        self, cli: Cli, config: Path, database: Path, query: bytes, message: str
    ) -> None:
        for arguments, stdin in (([os.fsdecode(query)], b""), ([], query)):
            ended = cli("sql", *arguments, "--config", config, stdin=stdin)
            assert (ended.code, ended.error) == (1, message)

    def test_no_database_is_told_of(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        assert "no such database" in cli("sql", "SELECT 1", "--config", config).error
        other = tmp_path / "other.db"
        other.write_bytes(b"no database at all, but long enough for a header" * 9)
        assert "expected a database of p2pnodes" in cli("sql", "SELECT 1", "--database", other).error

    def test_one_that_another_user_hides_is_told_with_what_to_do(
        self, cli: Cli, config: Path, database: Path, forbid: Forbid
    ) -> None:
        forbid(database)
        ended = cli("sql", "SELECT 1", "--config", config)
        assert ended.error == f"{database}: cannot be looked for (Permission denied); run this as the daemon's user"

    def test_usage(self, cli: Cli, config: Path, database: Path) -> None:
        assert "exclude each other" in cli("sql", "SELECT 1", "--config", config, "--json", "--csv").err
        assert "there is no question" in cli("sql", "--config", config).err
        assert "or --database" in cli("sql", "SELECT 1").err


class TestBounds:
    """A question that would not end does; an answer that would not fit says so."""

    def test_time(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", ENDLESS, "--config", config, "--timeout", 0.05)
        assert ended.code == 1
        assert ended.error == "no answer within 0.05 s; ask for less, or give it more time with --timeout"

    def test_rows(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("sql", "SELECT uuid FROM inventory", "--config", config, "--limit", 1, "--csv")
        assert len(ended.out.splitlines()) == 2
        assert ended.err == "p2pnodes: 1 row is shown, there are more: see --limit\n"
        assert cli("sql", "SELECT uuid FROM inventory", "--config", config, "--limit", 2).err == ""

    def test_bytes_of_a_value(self, questions: Questions) -> None:
        with pytest.raises(QueryError, match=f"longer than {VALUE_BYTES_MAX} bytes"):
            only(questions, "SELECT zeroblob(2101249)")
        assert len(only(questions, f"SELECT hex(zeroblob({EVENT_BYTES_MAX}))").rows[0][0]) == 2 * EVENT_BYTES_MAX

    def test_bytes_of_a_pattern(self, questions: Questions) -> None:
        assert only(questions, f"SELECT 'a' LIKE '{'%' * PATTERN_BYTES_MAX}'").rows == [(1,)]
        with pytest.raises(QueryError, match="pattern too complex"):
            only(questions, f"SELECT 'a' LIKE '{'%' * (PATTERN_BYTES_MAX + 1)}'")

    def test_bytes_of_an_answer(self, questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 100)
        with pytest.raises(QueryError, match="an answer of more than 100 bytes"):
            only(questions, "SELECT hex(zeroblob(20)) UNION ALL SELECT hex(zeroblob(40))")

    def test_bytes_of_a_question(self, questions: Questions) -> None:
        with pytest.raises(QueryError, match="more than 65536 bytes of SQL"):
            list(questions.ask("SELECT " + "1," * 40_000 + "1"))

    def test_ctrl_c_ends_a_question(self, questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = iter(range(100))

        def clock() -> float:
            if next(asked) == 3:  # in the middle of the question
                os.kill(os.getpid(), 2)
            return 0.0

        monkeypatch.setattr(questions, "_clock", clock)
        with pytest.raises(KeyboardInterrupt):
            only(questions, ENDLESS)
        assert only(questions, "SELECT 1").rows == [(1,)]

    @pytest.mark.parametrize(
        ("numbers", "seconds", "code"),
        [([2, 2], 60.0, 130), ([2], 60.0, 130), ([28], 0.0, 3), ([], 0.0, 3)],
        ids=["a second Ctrl-C", "one alone, for a while", "another signal", "none"],
    )
    def test_what_does_not_end_is_ended(
        self,
        numbers: list[int],
        seconds: float,
        code: int,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Within one function of SQLite nothing else can."""
        monkeypatch.setattr(module, "HARD_S", 0.0)
        reader, writer = os.pipe()
        os.write(writer, bytes(numbers))
        ended: list[int] = []
        end_hard(reader, seconds, ended.append)
        assert ended == [code]
        assert ("within one function of SQL" in capsys.readouterr().err) == (code == 3)
        os.close(reader)
        os.close(writer)

    def test_what_ends_ends_its_watch(self, questions: Questions) -> None:
        reader, writer = os.pipe()
        os.close(writer)
        ended: list[int] = []
        end_hard(reader, 60.0, ended.append)
        os.close(reader)
        assert ended == []
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        only(questions, "SELECT 1")
        assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)  # noqa: PTH208

    def test_a_question_is_watched(self, questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
        watched: list[float] = []
        monkeypatch.setattr(module, "end_hard", lambda _, seconds: watched.append(seconds))
        only(questions, "SELECT 1")
        assert watched == [30.0 + HARD_S]


class TestPrompt:
    """Questions one after the other, each to the database as it is by then."""

    def ask(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Path, *lines: str | Exception) -> int:
        """Type these lines; how often the database was opened."""
        typed = iter(lines)
        opened = 0

        def type_line(_prompt: str) -> str:
            line = next(typed, EOFError())
            if isinstance(line, Exception):
                raise line
            return line

        def opens() -> AbstractContextManager[Questions]:
            nonlocal opened
            opened += 1
            return module._opened(database, 30.0, 1_000)  # type: ignore[no-any-return]

        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setattr("builtins.input", type_line)
        module._prompt(opens, database, module._show_csv)
        return opened

    def test_each_question_opens_it_anew(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = [
            "SELECT count(*) AS n",
            "FROM inventory;",
            "",
            ".schema checks",
            "SELECT 1 AS a;",
            ".quit",
            "SELECT 2;",
        ]
        assert self.ask(monkeypatch, tmp_path, database, *lines) == 1 + 4  # the names to complete, and each of these
        out = capsys.readouterr().out
        assert out.split("\n") == ["n", "2", "table checks: claim_id, due_ms, failures, faults, note", "a", "1", ""]

    def test_what_cannot_be_asked_ends_no_prompt(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        no_text = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        self.ask(monkeypatch, tmp_path, database, "a\0;", "\udcff;", no_text, "nope;", "SELECT 1 AS a;")
        out, err = capsys.readouterr()
        assert out == "a\n1\n\n"
        for part in ("there is a NUL at character 2", "is not UTF-8 (character 1)", "the line is not utf-8", "nope"):
            assert part in err

    def test_a_database_that_is_gone_ends_no_prompt(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise StoreError("it is gone")

        monkeypatch.setattr(Questions, "ask", fail)
        self.ask(monkeypatch, tmp_path, database, "SELECT 1;")
        assert "it is gone" in capsys.readouterr().err


class TestTold:
    """Lines that begin with a dot."""

    def test_views_and_schema(self, questions: Questions, capsys: pytest.CaptureFixture[str]) -> None:
        assert module._told(questions, [".views"])
        assert "claims: claim_id, task_id, hotkey" in capsys.readouterr().out
        assert module._told(questions, [".schema", "checks"])
        assert capsys.readouterr().out == "table checks: claim_id, due_ms, failures, faults, note\n"
        assert module._told(questions, [".schema"])
        assert "view inventory: uuid, hotkey" in capsys.readouterr().out

    def test_what_is_not_there_is_told(self, questions: Questions, capsys: pytest.CaptureFixture[str]) -> None:
        assert module._told(questions, [".schema", "nodes"])
        assert module._told(questions, [".tables\x1b"])
        lines = capsys.readouterr().err.splitlines()
        assert "there is no view or table 'nodes'; .views lists them" in lines[0]
        assert "is no command here; expected .views, .schema [NAME] or .quit" in lines[1]
        assert "\x1b" not in lines[1]

    @pytest.mark.parametrize("word", [".quit", ".exit"])
    def test_quit_ends(self, questions: Questions, word: str) -> None:
        assert not module._told(questions, [word])


def test_statements_end_where_sqlite_says() -> None:
    text = "SELECT ';' ; -- a; b\nSELECT 2;;\n SELECT \"x;\" "
    found = list(statements(text))
    assert [statement.strip() for _, statement in found] == ["SELECT ';' ;", "-- a; b\nSELECT 2;", 'SELECT "x;"']
    assert all(text[begin:].startswith(statement) for begin, statement in found)
    assert sqlite3.complete_statement(found[0][1])
