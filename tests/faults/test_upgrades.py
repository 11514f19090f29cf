"""What the suite ``upgrade`` upgrades from, and the form in which it leaves a database to the build after."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from p2pnodes.devnet import DevnetError
from p2pnodes.gossip.handshake import LOWEST_VERSION
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.store.audit import audit
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import SCHEMA, open_writer
from tests.faults.upgrades import HERE, NEWER, About, Build, as_released, build_before
from tests.store.release import DATABASES, write
from tests.support import NETWORK

RELEASES = sorted(DATABASES.glob("*.db"))


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
class TestReleased:
    """A database in the schema of a release is what that release would have left, with all that it holds."""

    def test_it_has_the_tables_of_the_release_and_its_number(self, release: Path, tmp_path: Path) -> None:
        database = tmp_path / "p2pnodes.db"
        write(database)
        as_released(database, release)
        found, wanted = (
            [
                connection.execute("PRAGMA user_version").fetchone(),
                *connection.execute("SELECT name FROM sqlite_master"),
            ]
            for connection in (sqlite3.connect(database), sqlite3.connect(release))
        )
        assert sorted(map(str, found)) == sorted(map(str, wanted))

    def test_this_build_takes_it_over_and_shows_the_same(self, release: Path, tmp_path: Path) -> None:
        database = tmp_path / "p2pnodes.db"
        wanted = write(database)
        as_released(database, release)
        with closing(open_writer(database)) as connection:
            state = Ledger(connection, NETWORK).state
        assert (state.events, state.state_root.hex()) == (wanted["events"], wanted["state_root"])
        assert state.vector_digest.hex() == wanted["vector_digest"]
        assert audit(database, NETWORK).problems == []

    def test_what_was_in_the_write_ahead_log_is_in_it(self, release: Path, tmp_path: Path) -> None:
        """A daemon that was killed leaves one."""
        database = tmp_path / "p2pnodes.db"
        write(database)
        living = open_writer(database)
        living.execute("PRAGMA wal_autocheckpoint = 0")
        living.execute("INSERT INTO meta VALUES ('late', 1)")
        as_released(database, release)
        living.close()
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT value FROM meta WHERE key = 'late'").fetchone() == (1,)


class TestBuild:
    """A build is found wherever it is said to be, or one line says that it is not."""

    def test_without_a_release_it_is_a_copy_of_this_tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.faults.upgrades.last_release", lambda: None)
        build = build_before(None, tmp_path / "before")
        assert build.path == str(tmp_path / "before")
        assert build.about() == About(LOWEST_VERSION, PROTOCOL_VERSION, SCHEMA)

    def test_a_release_goes_before_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.faults.upgrades.last_release", lambda: str(HERE))
        assert build_before(None, tmp_path / "before") == Build(str(HERE), sys.executable, str(HERE))

    def test_a_directory_with_an_interpreter_is_an_environment(self, tmp_path: Path) -> None:
        python = tmp_path / "bin" / "python"
        python.parent.mkdir()
        python.touch()
        assert build_before(str(tmp_path), tmp_path / "before") == Build(str(tmp_path), str(python), "")

    def test_a_reference_is_taken_from_the_repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "repository" / "p2pnodes"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("then = 1\n")
        git = ["git", "-C", str(package.parent), "-c", "user.name=n", "-c", "user.email=n@example.org"]
        for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "then"], ["tag", "v0.9.0"]):
            subprocess.run([*git, *arguments], check=True, timeout=60)
        (package / "__init__.py").write_text("now = 1\n")
        monkeypatch.setattr("tests.faults.upgrades.SOURCES", package.parent)
        build = build_before(None, tmp_path / "before")
        assert build == Build("v0.9.0", sys.executable, str(tmp_path / "before"))
        assert (tmp_path / "before" / "p2pnodes" / "__init__.py").read_text() == "then = 1\n"

    def test_what_is_nowhere_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(DevnetError, match=r"^git failed: [^\n]*; expected a build to upgrade from [^\n]*$"):
            build_before("no-such-reference", tmp_path / "before")

    def test_a_build_that_is_not_the_one_that_runs_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DevnetError, match="was imported instead"):
            Build("another", sys.executable, str(tmp_path)).about()

    def test_the_build_after_this_one_speaks_a_version_more(self) -> None:
        newer = Build("newer", sys.executable, f"{NEWER}{os.pathsep}{HERE}")
        assert newer.about().highest == PROTOCOL_VERSION + 1
