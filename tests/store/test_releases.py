"""A database that any release wrote opens in this build and shows what it showed then."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from p2pnodes import __version__
from p2pnodes.store.audit import audit
from p2pnodes.store.backup import back_up, drafted
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.prune import FREE_BYTES_MIN, removable, remove
from p2pnodes.store.rebuild import rebuild
from p2pnodes.store.schema import SCHEMA, open_reader, open_writer
from tests.store.release import DATABASES
from tests.support import NETWORK

RELEASES = sorted(DATABASES.glob("*.db"))


def test_this_release_is_among_those_that_are_kept() -> None:
    assert DATABASES / f"{__version__}.db" in RELEASES


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_a_releases_database_is_migrated_and_shows_the_same(release: Path, tmp_path: Path) -> None:
    path = tmp_path / "p2pnodes.db"
    shutil.copy(release, path)
    wanted = json.loads(release.with_suffix(".json").read_text())
    connection = open_writer(path)
    ledger = Ledger(connection, NETWORK)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    state = ledger.state
    found = {
        "events": state.events,
        "rows": [[row.uuid, row.status, row.chute and row.chute.chute_id] for row in ledger.rows()],
        "state_root": state.state_root.hex(),
        "vector_digest": state.vector_digest.hex(),
    }
    assert found == wanted
    connection.close()
    assert audit(path, NETWORK).problems == []


@pytest.fixture(params=RELEASES, ids=lambda path: path.stem)
def untouched(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A release's database before this build's first start."""
    path = tmp_path / "data" / "p2pnodes.db"
    path.parent.mkdir()
    shutil.copy(request.param, path)
    return path


def schema(path: Path) -> int:
    with closing(open_reader(path)) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


class TestBeforeTheFirstStart:
    """The commands that need no daemon take a database as the release before left it."""

    def test_verify_finds_nothing_wrong_and_changes_nothing(self, untouched: Path) -> None:
        before = untouched.read_bytes()
        report = audit(untouched, NETWORK)
        assert report.problems == []
        assert report.rows == 2
        assert untouched.read_bytes() == before

    def test_a_backup_is_of_the_same_schema_and_can_be_restored(self, untouched: Path, tmp_path: Path) -> None:
        copied = back_up(untouched, tmp_path / "backup.db", NETWORK)
        assert copied.state_root == audit(untouched, NETWORK).state_root
        assert schema(tmp_path / "backup.db") == schema(untouched)
        unverified = back_up(untouched, tmp_path / "backup.db", NETWORK, verify=False, replace=True)
        assert unverified.state_root == ("" if schema(untouched) < SCHEMA else copied.state_root)
        with drafted(tmp_path / "backup.db", untouched, NETWORK) as draft:
            assert draft.copied == copied._replace(size_bytes=draft.copied.size_bytes)

    def test_rebuild_does_not_take_the_migration_for_a_difference(self, untouched: Path) -> None:
        report = rebuild(untouched, NETWORK)
        assert report.differences == []
        assert report.state_root == report.state_root_before

    def test_prune_leaves_the_migration_to_the_start(self, untouched: Path) -> None:
        before = schema(untouched)
        with closing(sqlite3.connect(untouched, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE filler (content BLOB)")
            connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (2 * FREE_BYTES_MIN,))
            connection.execute("DROP TABLE filler")
            rows = connection.execute("SELECT count(*) FROM node").fetchone()
        items = list(removable(untouched, older_than_s=0, now_s=0))
        assert remove(untouched, items) >= 2 * FREE_BYTES_MIN
        assert schema(untouched) == before
        with closing(open_reader(untouched)) as connection:
            assert connection.execute("SELECT count(*) FROM node").fetchone() == rows

    def test_one_that_was_killed_behind_the_migration_is_derived(self, untouched: Path) -> None:
        wanted = audit(untouched, NETWORK)
        open_writer(untouched).close()
        assert audit(untouched, NETWORK) == wanted
        assert rebuild(untouched, NETWORK).differences == []
