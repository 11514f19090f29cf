"""``db prune`` removes what nothing needs, and nothing else."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.store import prune
from p2pnodes.store.audit import audit
from p2pnodes.store.prune import FREE_BYTES_MIN, MARK_FORMAT, Item, copies, removable, remove
from p2pnodes.store.schema import open_reader, open_writer
from tests.store.release import write as write_database
from tests.support import NETWORK, NOW_S

DAY_S = 86_400


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with events of every kind, void ones and a fork among them."""
    path = tmp_path / "data" / "p2pnodes.db"
    path.parent.mkdir()
    write_database(path)
    return path


def aside(database: Path, age_s: float, content: bytes = b"x" * 1000, beside: str = "") -> Path:
    """What a restore of some time ago put aside."""
    mark = datetime.fromtimestamp(NOW_S - age_s, UTC).strftime(MARK_FORMAT)
    path = database.with_name(f"{database.name}.before-restore-{mark}{beside}")
    path.write_bytes(content)
    return path


def found(database: Path, *, older_than_s: float = 7 * DAY_S, stopped: bool = True) -> list[Item]:
    drafts = (database.with_name("node.key.restoring"),)
    return list(removable(database, older_than_s=older_than_s, now_s=NOW_S, drafts=drafts, stopped=stopped))


def empty(database: Path) -> None:
    """Leave free pages: write much and take it back."""
    with closing(open_writer(database)) as connection:
        connection.execute("CREATE TABLE filler (content BLOB)")
        connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (3 * FREE_BYTES_MIN,))
        connection.execute("DROP TABLE filler")


class TestCopies:
    """What ``restore`` put aside is known by its name, and its age by that, too."""

    def test_old_ones_may_go_with_what_lies_beside_them(self, database: Path) -> None:
        old, log = aside(database, 8 * DAY_S), aside(database, 8 * DAY_S, b"y" * 10, "-wal")
        young = aside(database, 6 * DAY_S)
        assert found(database) == [Item("copy", old, 1000, False), Item("copy", log, 10, False)]
        assert [path for path, _, _ in copies(database)] == [old, log, young]
        assert [item.path for item in found(database, older_than_s=0)] == [old, log, young]

    def test_what_a_killed_prune_left_beside_one_goes_the_next_time(self, database: Path) -> None:
        log = aside(database, 8 * DAY_S, beside="-wal")
        assert [item.path for item in found(database)] == [log]

    @pytest.mark.parametrize(
        "name",
        [
            "p2pnodes.db.before-restore-mine",
            "p2pnodes.db.before-restore-20251301T000000Z",
            "p2pnodes.db.before-restore-20200101T000000Z.gz",
            "other.db.before-restore-20200101T000000Z",
            "p2pnodes.db",
            "node.key",
            "lock",
        ],
    )
    def test_what_has_another_name_is_left(self, database: Path, name: str) -> None:
        if name != database.name:
            database.with_name(name).write_bytes(b"mine")
        assert found(database, older_than_s=0) == []

    def test_links_are_left(self, database: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(b"mine")
        database.with_name("p2pnodes.db.before-restore-20200101T000000Z").symlink_to(tmp_path / "elsewhere")
        assert found(database) == []

    def test_they_are_removed_and_nothing_else(self, database: Path) -> None:
        before = audit(database, NETWORK)
        old, young = aside(database, 8 * DAY_S), aside(database, DAY_S)
        assert remove(database, found(database)) == 1000
        assert not old.exists()
        assert young.exists()
        assert audit(database, NETWORK) == before

    def test_one_that_is_gone_meanwhile_is_no_error(self, database: Path) -> None:
        path = aside(database, 8 * DAY_S)
        items = found(database)
        path.unlink()
        assert remove(database, items) == 0

    def test_no_more_files_are_looked_at_than_that(self, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for days in range(20):
            aside(database, days * DAY_S)
        monkeypatch.setattr(prune, "FILES_MAX", 5)
        assert len(copies(database)) <= 5

    def test_without_a_directory_there_is_nothing(self, tmp_path: Path) -> None:
        assert found(tmp_path / "none" / "p2pnodes.db") == []


class TestDrafts:
    """What a killed ``restore`` left, but only while none runs."""

    def test_they_may_go_while_nobody_holds_the_directory(self, database: Path) -> None:
        for name in ("p2pnodes.db.restoring", "p2pnodes.db.restoring-wal", "node.key.restoring"):
            database.with_name(name).write_bytes(b"half")
        items = found(database)
        assert [(item.what, item.path.name, item.stopped) for item in items] == [
            ("draft", "p2pnodes.db.restoring", True),
            ("draft", "p2pnodes.db.restoring-wal", True),
            ("draft", "node.key.restoring", True),
        ]
        assert found(database, stopped=False) == []
        assert remove(database, items) == 12
        assert database.exists()


class TestNoDatabase:
    """A restore that was killed between its renames left the only copies: they stay."""

    @pytest.mark.parametrize("left", ["p2pnodes.db.restoring", "p2pnodes.db.before-restore-20200101T000000Z"])
    def test_nothing_goes_while_the_database_is_missing(self, database: Path, left: str) -> None:
        assert not prune.left_aside(database)
        database.rename(database.with_name(left))
        database.with_name("node.key.restoring").write_bytes(b"key")
        assert found(database, older_than_s=0) == []
        assert prune.left_aside(database)

    def test_where_nothing_was_ever_there_is_nothing_to_tell(self, tmp_path: Path) -> None:
        assert not prune.left_aside(tmp_path / "none" / "p2pnodes.db")


class TestTemporary:
    """SQLite's rule for where a temporary file is made."""

    def test_the_environment_goes_first_then_the_system_s(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own, general = tmp_path / "own", tmp_path / "general"
        own.mkdir()
        general.mkdir()
        environ = {"SQLITE_TMPDIR": str(own), "TMPDIR": str(general)}
        assert prune.temporary_directory(environ) == own
        assert prune.temporary_directory(environ | {"SQLITE_TMPDIR": str(tmp_path / "absent")}) == general
        monkeypatch.setattr(prune, "TEMPORARY", (str(tmp_path / "absent"), str(tmp_path)))
        assert prune.temporary_directory({}) == tmp_path

    def test_its_disk_is_looked_at_too(self, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        empty(database)
        elsewhere = Path("/dev/shm")
        if not elsewhere.is_dir() or elsewhere.stat().st_dev == database.stat().st_dev:
            pytest.skip("needs a second file system")
        free = {elsewhere: 9, database: 1 << 30}
        disk = lambda place: os.statvfs_result((4096, 4096, 9, 9, free[place], 9, 9, 9, 0, 255))  # noqa: E731
        monkeypatch.setattr(os, "statvfs", disk)
        monkeypatch.setenv("SQLITE_TMPDIR", str(elsewhere))
        with pytest.raises(StoreError, match=rf"^{elsewhere}: 36864 bytes are free; expected \d+ .* SQLITE_TMPDIR"):
            remove(database, found(database))


class TestDatabase:
    """Free pages and the write-ahead log go; what is stored stays, to the byte of its root."""

    def test_free_pages(self, database: Path) -> None:
        before = audit(database, NETWORK)
        empty(database)
        (item,) = found(database)
        assert (item.what, item.path, item.stopped) == ("free pages", database, True)
        assert item.size_bytes >= 3 * FREE_BYTES_MIN
        size_bytes = database.stat().st_size
        assert remove(database, [item]) >= 3 * FREE_BYTES_MIN
        page = 4_096  # a copy may have one more: what little is in a database is laid out anew
        assert database.stat().st_size <= size_bytes - item.size_bytes + page
        assert audit(database, NETWORK) == before
        assert found(database) == []

    def test_positions_stay(self, database: Path) -> None:
        """Claims and those who follow events name them."""
        empty(database)
        with closing(open_reader(database)) as connection:
            before = connection.execute("SELECT position, id FROM events ORDER BY position").fetchall()
        remove(database, found(database))
        with closing(open_reader(database)) as connection:
            assert connection.execute("SELECT position, id FROM events ORDER BY position").fetchall() == before

    def test_little_is_left(self, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        empty(database)
        monkeypatch.setattr(prune, "FREE_BYTES_MIN", 100 * FREE_BYTES_MIN)
        assert found(database) == []

    @pytest.fixture
    def killed(self, database: Path) -> Path:
        """A database whose write-ahead log a killed daemon left."""
        connection = open_writer(database)
        connection.execute("INSERT INTO meta VALUES ('x', 1)")
        wal = database.with_name(f"{database.name}-wal")
        content, log = database.read_bytes(), wal.read_bytes()
        connection.close()
        database.write_bytes(content)
        wal.write_bytes(log)
        return database

    def test_a_log_is_played_into_the_database(self, killed: Path) -> None:
        (item,) = found(killed)
        assert (item.what, item.stopped) == ("write-ahead log", True)
        assert item.size_bytes > 0
        assert found(killed, stopped=False) == []
        remove(killed, [item])
        assert found(killed) == []
        with closing(open_reader(killed)) as connection:
            assert connection.execute("SELECT value FROM meta WHERE key = 'x'").fetchone() == (1,)

    def test_a_reader_is_told_of(self, killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.store.schema.BUSY_TIMEOUT_MS", 1)
        items = found(killed)
        with closing(open_reader(killed)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with pytest.raises(StoreError, match="another program reads it") as refused:
                remove(killed, items)
        assert refused.value.code == Code.DATA_PRUNE

    def test_too_little_room_is_told_before_anything_is_written(
        self, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        empty(database)
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 9, 9, 9, 9, 9, 9, 0, 255)))
        with pytest.raises(
            StoreError, match=r"36864 bytes are free; expected \d+ to write p2pnodes.db anew"
        ) as refused:
            remove(database, found(database))
        assert refused.value.code == Code.DATA_DISK_LOW

    def test_a_damaged_database_is_told_of(self, database: Path) -> None:
        database.write_bytes(b"no database at all, but long enough for a header" * 99)
        with pytest.raises(StoreError, match="see `p2pnodes db verify`"):
            found(database)

    def test_a_failure_is_told_and_loses_nothing(self, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        empty(database)
        before = audit(database, NETWORK)

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        items = found(database)
        monkeypatch.setattr(prune, "_checkpoint", full)
        with pytest.raises(StoreError, match="nothing is lost: database or disk is full"):
            remove(database, items)
        assert audit(database, NETWORK) == before
