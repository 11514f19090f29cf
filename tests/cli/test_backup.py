"""``backup``, ``restore`` and ``db rebuild``: what they print, and what they refuse."""

import json
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
import tomli_w

from p2pnodes.chain.delegation import misfits, read_delegation
from p2pnodes.chain.wallet import load_node_key
from p2pnodes.store import backup, directory
from p2pnodes.store.audit import audit
from tests.cli.conftest import Cli, Forbid
from tests.support import NETWORK


@pytest.fixture
def file(cli: Cli, config: Path, database: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    assert cli("backup", tmp_path / "backup.db", "--config", config).code == 0
    return tmp_path / "backup.db"


def damage(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM node WHERE uuid = 'u1'")
    connection.commit()
    connection.close()


class TestBackup:
    """A backup is made beside the daemon, and says what it holds."""

    def test_for_people(self, cli: Cli, config: Path, database: Path, tmp_path: Path) -> None:
        ended = cli("backup", tmp_path / "backup.db", "--config", config)
        assert (ended.code, ended.err) == (0, "")
        assert f"backup      {tmp_path}/backup.db\n" in ended.out
        assert "holds       2 events in 1 logs, 2 rows\n" in ended.out
        assert f"state root  {audit(database, NETWORK).state_root}\n" in ended.out

    def test_for_programs(self, cli: Cli, config: Path, database: Path, tmp_path: Path) -> None:
        path = tmp_path / "backup.db"
        report = cli("backup", path, "--config", config, "--json").json
        assert report.pop("seconds") > 0
        assert report == {
            "file": str(path),
            "size_bytes": path.stat().st_size,
            "logs": 1,
            "events": 2,
            "rows": 2,
            "state_root": audit(path, NETWORK).state_root,
            "verified": True,
        }

    def test_a_daemon_that_holds_the_directory_is_no_hindrance(
        self, cli: Cli, config: Path, database: Path, tmp_path: Path
    ) -> None:
        with directory.hold(database.parent):
            assert cli("backup", tmp_path / "backup.db", "--config", config).code == 0

    def test_a_file_is_replaced_with_force_alone(self, cli: Cli, config: Path, file: Path) -> None:
        ended = cli("backup", file, "--config", config)
        assert ended.code == 1
        assert ended.error == f"{file}: exists already; choose another name, or replace it with --force"
        assert cli("backup", file, "--config", config, "--force").code == 0

    @pytest.mark.parametrize("command", ["backup", "restore"])
    def test_one_that_is_told_to_end_leaves_nothing_behind(
        self, command: str, cli: Cli, config: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ended(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does, or a timer's TimeoutStartSec=

        def found() -> set[Path]:
            return {path for path in file.parent.rglob("*") if not path.name.endswith(("-wal", "-shm", "lock"))}

        before = found()
        monkeypatch.setattr(backup, "audit", ended)
        where = file.with_name("another.db") if command == "backup" else file
        assert cli(command, where, "--config", config).code == 128 + signal.SIGTERM
        assert found() == before

    def test_a_database_that_another_user_hides_is_no_fault_of_the_place(
        self, cli: Cli, config: Path, database: Path, tmp_path: Path, forbid: Forbid
    ) -> None:
        forbid(database)
        ended = cli("backup", tmp_path / "backup.db", "--config", config)
        assert ended.error == f"{database}: cannot be looked for (Permission denied); run this as the daemon's user"

    def test_a_problem_is_one_line_unless_nobody_looks(
        self, cli: Cli, config: Path, database: Path, tmp_path: Path
    ) -> None:
        damage(database)
        ended = cli("backup", tmp_path / "backup.db", "--config", config)
        assert ended.code == 1
        assert ended.error.startswith(f"no backup of {database} was made: node: only a rebuild has ")
        report = cli("backup", tmp_path / "backup.db", "--config", config, "--no-verify", "--json").json
        assert (report["rows"], report["verified"]) == (1, False)

    def test_the_help_says_what_else_is_to_be_kept(self, cli: Cli) -> None:
        told = " ".join(cli("backup", "--help").out.replace("│", " ").split())
        assert "It holds no keys." in told
        assert "Not the node key" in told


class TestRestore:
    """A restored daemon gets another node key, and what was there stays."""

    def test_for_people(self, cli: Cli, config: Path, database: Path, file: Path) -> None:
        ended = cli("restore", file, "--config", config)
        assert (ended.code, ended.err) == (0, "")
        assert f"restored    {database}\n" in ended.out
        assert "it opens a new log" in ended.out

    def test_for_programs(self, cli: Cli, config: Path, database: Path, file: Path) -> None:
        damage(database)
        report = cli("restore", file, "--config", config, "--json").json
        assert report["database"] == str(database)
        assert report["node_key"] == load_node_key(database.parent / "node.key").public_key.hex()
        assert (report["events"], report["rows"], report["verified"]) == (2, 2, True)
        assert report["state_root"] == audit(database, NETWORK).state_root
        assert Path(report["before"]).name.startswith("p2pnodes.db.before-restore-2")
        assert audit(Path(report["before"]), NETWORK).problems != []

    def test_on_a_new_machine(self, cli: Cli, config: Path, database: Path, file: Path) -> None:
        shutil.rmtree(database.parent)
        assert cli("restore", file, "--config", config, "--json").json["before"] is None
        assert audit(database, NETWORK).rows == 2
        load_node_key(database.parent / "node.key")

    def test_the_node_key_is_another_one(self, cli: Cli, config: Path, database: Path, file: Path) -> None:
        key_file = database.parent / "node.key"
        before = load_node_key(key_file)
        cli("restore", file, "--config", config)
        assert load_node_key(key_file).public_key != before.public_key
        left = {path.name for path in database.parent.iterdir()} - {"lock", "node.key", "p2pnodes.db"}
        assert all(name.startswith("p2pnodes.db.before-restore-") for name in left)

    def test_a_delegation_from_elsewhere_is_not_used_a_second_time(
        self, cli: Cli, config: Path, database: Path, file: Path, tmp_path: Path
    ) -> None:
        # Its log may have been opened after the backup: opening it again would fork it at its first event.
        cli("keys", "request", "--config", config, "--out", tmp_path / "request.json")
        hotkey_file = tmp_path / "hotkey.json"
        brought = tmp_path / "delegation.json"
        signed = cli(
            "keys", "delegate", "--request", tmp_path / "request.json", "--hotkey-file", hotkey_file, "--out", brought
        )
        assert signed.code == 0
        hotkey_file.rename(tmp_path / "elsewhere.json")
        settings = {
            "data_dir": "data",
            "delegation_file": "delegation.json",
            "network": NETWORK.model_dump(),
            "electorate": {"file": "electorate.toml"},
        }
        config.write_text(tomli_w.dumps(settings))
        key_file = database.parent / "node.key"
        delegation = read_delegation(brought)
        assert misfits(delegation, brought, NETWORK.id, load_node_key(key_file).public_key, None) == []

        ended = cli("restore", file, "--config", config)
        assert ended.code == 0
        assert ended.err.startswith("p2pnodes: warning: delegation_file is for the node key before: have the new one ")
        assert misfits(delegation, brought, NETWORK.id, load_node_key(key_file).public_key, None) != []
        cli("keys", "request", "--config", config, "--out", tmp_path / "second.json")
        asked = json.loads((tmp_path / "second.json").read_text())
        assert load_node_key(key_file).public_key.hex() in json.dumps(asked)

    def test_beside_a_running_daemon_it_is_refused(self, cli: Cli, config: Path, database: Path, file: Path) -> None:
        before = database.read_bytes()
        with directory.hold(database.parent):
            ended = cli("restore", file, "--config", config)
        assert ended.code == 1
        assert f"another daemon runs on {database.parent}" in ended.error
        assert database.read_bytes() == before

    def test_a_bad_backup_leaves_database_and_node_key(
        self, cli: Cli, config: Path, database: Path, file: Path
    ) -> None:
        damage(file)
        key_file = database.parent / "node.key"
        before = database.read_bytes(), key_file.read_bytes()
        ended = cli("restore", file, "--config", config)
        assert ended.code == 1
        assert ended.error.startswith(f"{file} was not restored: node: only a rebuild has ")
        assert (database.read_bytes(), key_file.read_bytes()) == before

    def test_a_node_key_that_cannot_be_replaced_changes_nothing(
        self, cli: Cli, config: Path, database: Path, file: Path, tmp_path: Path
    ) -> None:
        before = database.read_bytes()
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "node.key").mkdir()  # nothing that a file could take the place of
        config.write_text('node_key_file = "keys/node.key"\n' + config.read_text())
        ended = cli("restore", file, "--config", config)
        assert ended.code == 1
        assert f"{tmp_path}/keys/node.key: the node key cannot be replaced" in ended.error
        assert database.read_bytes() == before
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["node.key"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root restores for others")
    def test_what_root_restores_belongs_to_the_daemons_user(
        self, cli: Cli, config: Path, database: Path, file: Path
    ) -> None:
        os.chown(database.parent, 12_345, 23_456)
        assert cli("restore", file, "--config", config).code == 0
        for name in ("p2pnodes.db", "node.key", "lock"):
            made = (database.parent / name).stat()
            assert (made.st_uid, made.st_gid) == (12_345, 23_456), name

    def test_the_help_warns_of_the_tempting_wrong_command(self, cli: Cli) -> None:
        told = " ".join(cli("restore", "--help").out.replace("│", " ").split())
        assert "Do not copy a backup over p2pnodes.db by hand." in told
        assert "A backup from before keys revoke" in told


class TestRebuild:
    """Rows are derived again, and differences are warned of."""

    def test_sound_rows(self, cli: Cli, config: Path, database: Path) -> None:
        ended = cli("db", "rebuild", "--config", config)
        assert (ended.code, ended.err) == (0, "")
        assert "rebuilt     2 rows from 2 events\n" in ended.out
        assert "before      the same\n" in ended.out
        assert "result      no row differed\n" in ended.out

    def test_rows_that_differed_are_set_right_with_a_warning(self, cli: Cli, config: Path, database: Path) -> None:
        damage(database)
        ended = cli("db", "rebuild", "--config", config)
        assert ended.code == 0
        assert ended.err.startswith(
            "p2pnodes: warning: differences from what was there: 4; the first: node: only a rebuild has "
        )
        assert "result      rows differed\n" in ended.out
        assert audit(database, NETWORK).problems == []

    def test_for_programs(self, cli: Cli, config: Path, database: Path) -> None:
        damage(database)
        report = cli("db", "rebuild", "--config", config, "--json").json
        # The row, twice how many there are, and what its bucket hashes to.
        assert (report["events"], report["rows"], len(report["differences"])) == (2, 2, 4)
        assert report["state_root"] == audit(database, NETWORK).state_root != report["state_root_before"]
        assert report["seconds"] > 0

    def test_beside_a_running_daemon_it_is_refused(self, cli: Cli, config: Path, database: Path) -> None:
        with directory.hold(database.parent):
            ended = cli("db", "rebuild", "--config", config)
        assert ended.code == 1
        assert "another daemon runs on" in ended.error
