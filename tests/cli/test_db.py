"""``db path`` and ``db verify``."""

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from p2pnodes.model.errors import StoreError
from p2pnodes.store import directory
from p2pnodes.store.ownlog import written_by
from tests.cli.conftest import Cli, Forbid


def test_path_is_the_configured_one(cli: Cli, config: Path) -> None:
    assert cli("db", "path", "--config", config).out == f"{config.parent}/data/p2pnodes.db\n"


class TestVerify:
    """A database is what its log says, or the exit code is 1."""

    def test_a_good_database(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("db", "verify", "--config", config)
        assert (ended.code, ended.err) == (0, "")
        assert "2 events in 1 logs, 2 rows" in ended.out
        assert "no problems found" in ended.out

    def test_json_is_the_report(self, cli: Cli, config: Path, database: Path) -> None:
        report = cli("db", "verify", "--config", config, "--json").json
        assert (report["events"], report["logs"], report["rows"], report["problems"]) == (2, 1, 2, [])
        assert len(report["state_root"]) == 64

    def test_a_changed_row_is_found(self, cli: Cli, config: Path, database: Path) -> None:
        connection = sqlite3.connect(database)
        connection.execute("DELETE FROM node WHERE uuid = 'u1'")
        connection.commit()
        connection.close()
        ended = cli("db", "verify", "--config", config)
        assert ended.code == 1
        assert re.search(r"^p2pnodes: error: node: only a rebuild has .*\bu1\b", ended.err, re.MULTILINE)
        assert "problems found: " in ended.out

    def test_a_backup_can_be_named(self, cli: Cli, config: Path, database: Path) -> None:
        backup = database.rename(config.parent / "backup.db")
        assert cli("db", "verify", backup, "--config", config).code == 0
        ended = cli("db", "verify", "--config", config)
        assert ended.code == 1
        assert "no such database" in ended.error

    def test_a_directory_means_the_database_in_it(self, cli: Cli, config: Path, database: Path) -> None:
        assert cli("db", "verify", database.parent, "--config", config).code == 0
        ended = cli("db", "verify", config.parent, "--config", config)
        assert ended.error.startswith(f"{config.parent}/p2pnodes.db: no such database")

    @pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
    def test_another_file_is_told_from_a_damaged_one(
        self, cli: Cli, config: Path, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "other.db"
        path.write_bytes(content)
        ended = cli("db", "verify", path, "--config", config)
        assert (ended.code, ended.out) == (1, "")
        assert ended.error.startswith(f"{path}: no p2pnodes database (")
        assert "check the path" in ended.error

    @pytest.mark.parametrize("size", [20_000, None], ids=["cut off", "overwritten"])
    def test_a_damaged_one_is_told_with_what_to_do(
        self, cli: Cli, config: Path, database: Path, size: int | None
    ) -> None:
        told = "; restore a backup, or start empty and let peers refill it"
        if size is None:
            database.write_bytes(b"no database any more" + database.read_bytes()[20:])
        else:
            os.truncate(database, size)
        ended = cli("db", "rebuild", "--config", config)
        assert (ended.code, ended.error_code) == (1, "data-missing" if size is None else "data-unreadable")
        assert ended.error.endswith(told.removeprefix("; "))
        with pytest.raises(StoreError, match=f"{told}$"):  # what a start reads first
            written_by(database)

    def test_another_programs_database_is_told_from_a_damaged_one(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "other.db")
        connection.execute("CREATE TABLE cookies (name TEXT)")
        connection.close()
        ended = cli("db", "verify", tmp_path / "other.db", "--config", config)
        assert (ended.code, ended.out) == (1, "")
        assert "no p2pnodes database (it has no events)" in ended.error

    @pytest.mark.parametrize("foreign", [True, False], ids=["another program's", "empty"])
    def test_and_no_rebuild_makes_one_of_it(self, cli: Cli, config: Path, database: Path, *, foreign: bool) -> None:
        """It would say that no row differs, and leave twenty tables in somebody else's file."""
        database.unlink()
        with closing(sqlite3.connect(database)) as connection:
            if foreign:
                connection.execute("CREATE TABLE cookies (name TEXT)")
        before = database.read_bytes()
        ended = cli("db", "rebuild", "--config", config)
        assert (ended.code, ended.out, ended.error_code) == (1, "", "data-missing")
        assert ended.error.startswith(f"{database}: no p2pnodes database (it has no events); expected ")
        assert database.read_bytes() == before

    @pytest.mark.parametrize(
        "command", [("db", "rebuild"), ("backup", "b.db"), ("sql", "SELECT 1"), ("db", "diff", "")]
    )
    def test_a_directory_in_its_place_is_no_damage(
        self, cli: Cli, config: Path, database: Path, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        other = database.rename(tmp_path / "other.db")
        database.mkdir()
        ended = cli(*(part or str(other) for part in command), "--config", config)
        assert (ended.code, ended.error_code) == (1, "data-missing")
        assert ended.error == (
            f"{database}: no p2pnodes database (it is no file); expected a daemon's p2pnodes.db: check the path"
        )

    def test_a_database_that_another_user_hides_is_one_line(
        self, cli: Cli, config: Path, database: Path, forbid: Forbid
    ) -> None:
        forbid(database)
        ended = cli("db", "verify", "--config", config)
        assert ended.code == 1
        assert ended.error == f"{database}: cannot be looked for (Permission denied); run this as the daemon's user"

    def test_a_path_that_no_file_can_have_is_one_line(self, cli: Cli, config: Path) -> None:
        ended = cli("db", "verify", "x" * 300, "--config", config)
        assert ended.code == 1
        assert ended.error == f"{'x' * 300}: File name too long"


class TestPrune:
    """What nothing needs any more is shown, asked about, and removed; the database says the same as before."""

    MARK = "before-restore-20250101T000000Z"

    @pytest.fixture
    def aside(self, database: Path) -> Path:
        path = database.with_name(f"{database.name}.{self.MARK}")
        path.write_bytes(b"x" * 2_000_000)
        return path

    def test_nothing_to_remove(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("db", "prune", "--config", config)
        assert (ended.code, ended.out) == (0, "nothing to remove\n")
        report = cli("db", "prune", "--config", config, "--json").json
        assert report == {"items": [], "freed_bytes": 0, "daemon_runs": False}

    def test_a_dry_run_shows_and_removes_nothing(self, cli: Cli, config: Path, aside: Path) -> None:
        ended = cli("db", "prune", "--config", config, "--dry-run")
        assert ended.code == 0
        assert ended.out.splitlines()[1].split() == ["copy", "2.0", "MB", str(aside)]
        assert cli("db", "prune", "--config", config, "--dry-run", "--json").json == {
            "items": [{"what": "copy", "bytes": 2_000_000, "path": str(aside), "removed": False, "note": ""}],
            "freed_bytes": 0,
            "daemon_runs": False,
        }
        assert aside.exists()

    def test_without_a_terminal_it_wants_yes(self, cli: Cli, config: Path, aside: Path) -> None:
        ended = cli("db", "prune", "--config", config)
        assert ended.code == 2
        assert "give --yes" in ended.err
        assert aside.exists()

    def test_it_removes(self, cli: Cli, config: Path, database: Path, aside: Path) -> None:
        before = cli("db", "verify", "--config", config, "--json").json
        ended = cli("db", "prune", "--config", config, "--yes")
        assert ended.code == 0
        assert ended.out.endswith("removed: 2.0 MB\n")
        assert not aside.exists()
        assert cli("db", "verify", "--config", config, "--json").json == before

    def test_without_a_database_it_says_why_nothing_goes(
        self, cli: Cli, config: Path, database: Path, aside: Path
    ) -> None:
        database.unlink()
        ended = cli("db", "prune", "--config", config, "--yes")
        assert (ended.code, ended.out) == (0, "nothing to remove\n")
        assert "what a restore left beside it stays" in ended.err
        assert aside.exists()

    def test_a_young_copy_stays_unless_it_is_asked_for(self, cli: Cli, config: Path, database: Path) -> None:
        cli("backup", config.parent / "backup.db", "--config", config)
        before = Path(cli("restore", config.parent / "backup.db", "--config", config, "--json").json["before"])
        ended = cli("db", "prune", "--config", config, "--yes")
        assert ended.out == "nothing to remove\n"
        assert ended.err == "p2pnodes: 1 copy kept, younger than 7 days; see --older-than\n"
        assert before.exists()
        report = cli("db", "prune", "--config", config, "--older-than", 0, "--yes", "--json").json
        assert report["items"][0]["path"] == str(before)
        assert all(item["path"].startswith(str(before)) for item in report["items"])  # SQLite's files beside it, too
        assert not before.exists()

    def test_beside_a_daemon_only_copies_go(self, cli: Cli, config: Path, database: Path, aside: Path) -> None:
        connection = sqlite3.connect(database, isolation_level=None)
        connection.execute("CREATE TABLE filler (content BLOB)")
        connection.execute("INSERT INTO filler VALUES (zeroblob(3000000))")
        connection.execute("DROP TABLE filler")
        connection.close()
        with directory.hold(database.parent):
            report = cli("db", "prune", "--config", config, "--yes", "--json").json
        assert [(item["what"], item["removed"], item["note"]) for item in report["items"]] == [
            ("copy", True, ""),
            ("free pages", False, "stop the daemon first"),
        ]
        assert report["daemon_runs"]
        assert not aside.exists()
        assert cli("db", "prune", "--config", config, "--yes", "--json").json["freed_bytes"] >= 3_000_000


def test_a_rebuild_that_found_differences_has_a_code_of_its_own(cli: Cli, config: Path, database: Path) -> None:
    assert cli("db", "rebuild", "--config", config).err == ""
    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM node WHERE uuid = 'u1'")
    connection.commit()
    connection.close()
    ended = cli("db", "rebuild", "--config", config)
    assert ended.code == 0
    assert "[data-rebuild-differed]" in ended.err


class TestDiff:
    """Two databases keep the same below a cut, or it is said what only one of them keeps."""

    @pytest.fixture
    def cut_databases(self, database: Path, tmp_path: Path) -> tuple[Path, Path]:
        """The database with a live set of its only log's events, and a copy that keeps less."""
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("INSERT INTO live SELECT 7, log, seq, 1 FROM events")
            connection.commit()
        other = tmp_path / "other.db"
        shutil.copy(database, other)
        return database, other

    def test_equal_ones(self, cli: Cli, config: Path, cut_databases: tuple[Path, Path]) -> None:
        ended = cli("db", "diff", cut_databases[1], "--config", config)
        assert ended.code == 0
        assert "both keep the same below the cut of checkpoint 7" in ended.out

    @pytest.mark.parametrize("change", ["DELETE FROM live WHERE seq = 1", "UPDATE live SET mask = 3 WHERE seq = 1"])
    def test_what_differs_is_listed(
        self, cli: Cli, config: Path, cut_databases: tuple[Path, Path], change: str
    ) -> None:
        with closing(sqlite3.connect(cut_databases[1])) as connection:
            connection.execute(change)
            connection.commit()
        ended = cli("db", "diff", cut_databases[1], "--config", config, "--json")
        assert ended.code == 1
        found = ended.json["differences"]
        assert {"seq": 1, "kind": "add", "items": [0], "only": "here"}.items() <= found[0].items()
        assert [each["items"] for each in found[1:]] == ([[0, 1]] if "mask" in change else [])

    def test_who_has_gone_on_to_the_next_checkpoint_has_nothing_to_compare(
        self, cli: Cli, config: Path, cut_databases: tuple[Path, Path]
    ) -> None:
        """That it keeps nothing of this one any more does not mean that it lacks all of it."""
        with closing(sqlite3.connect(cut_databases[1])) as connection:
            connection.execute("UPDATE live SET number = 8")
            connection.commit()
        ended = cli("db", "diff", cut_databases[1], "--config", config)
        assert (ended.code, ended.out) == (3, ""), "who asks whether they are equal is not told that they are"
        assert "nothing was compared: there is no checkpoint whose live set both of them hold" in ended.err

    def test_before_the_first_checkpoint_there_is_nothing_to_compare(
        self, cli: Cli, config: Path, database: Path
    ) -> None:
        ended = cli("db", "diff", database, "--config", config)
        assert ended.code == 3
        assert "there is no checkpoint whose live set both of them hold" in ended.err

    def test_a_directory_means_the_database_in_it(
        self, cli: Cli, config: Path, cut_databases: tuple[Path, Path]
    ) -> None:
        assert cli("db", "diff", cut_databases[0].parent, "--config", config).code == 0

    def test_one_that_there_is_not_is_named(self, cli: Cli, config: Path, database: Path, tmp_path: Path) -> None:
        ended = cli("db", "diff", tmp_path / "absent.db", "--config", config)
        assert ended.code == 1
        assert f"{tmp_path / 'absent.db'}: no such database" in ended.err
        assert "[data-missing]" in ended.err

    @pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
    def test_one_that_is_none_is_named_with_what_to_do(
        self, cli: Cli, config: Path, database: Path, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "other.db"
        path.write_bytes(content)
        ended = cli("db", "diff", path, "--config", config)
        assert (ended.code, ended.out, ended.error_code) == (1, "", "data-missing")
        assert ended.error.startswith(f"{path}: no p2pnodes database (")
        assert "check the path" in ended.error

    def test_a_damaged_one_is_told_with_what_to_do(
        self, cli: Cli, config: Path, cut_databases: tuple[Path, Path]
    ) -> None:
        with closing(sqlite3.connect(cut_databases[1])) as connection:
            connection.execute("DROP TABLE live")
        ended = cli("db", "diff", cut_databases[1], "--config", config)
        assert (ended.code, ended.error_code) == (1, "data-unreadable")
        assert ended.error.endswith("cannot be compared: no such table: live; check the path, its owner and the disk")

    def test_one_of_another_network_is_refused(self, cli: Cli, config: Path, cut_databases: tuple[Path, Path]) -> None:
        """Numbers of checkpoints are alike there, and all that is kept would differ."""
        with closing(sqlite3.connect(cut_databases[1])) as connection:
            connection.execute("UPDATE meta SET value = x'00' WHERE key = 'network_id'")
            connection.commit()
        ended = cli("db", "diff", cut_databases[1], "--config", config)
        assert ended.code == 1
        assert "another network" in ended.err
        assert "[data-other-network]" in ended.err
