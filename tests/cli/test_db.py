"""``db path`` and ``db verify``."""

import re
import sqlite3
from pathlib import Path

import pytest

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

    def test_another_programs_database_is_told_from_a_damaged_one(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "other.db")
        connection.execute("CREATE TABLE cookies (name TEXT)")
        connection.close()
        ended = cli("db", "verify", tmp_path / "other.db", "--config", config)
        assert (ended.code, ended.out) == (1, "")
        assert "no p2pnodes database (it has no events)" in ended.error

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
