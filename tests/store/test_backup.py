"""A backup is a whole and checked copy; a restored one never goes on with its old log."""

import errno
import fcntl
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.model.errors import StoreError
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from p2pnodes.store import backup, copying
from p2pnodes.store.audit import audit
from p2pnodes.store.backup import back_up, drafted
from p2pnodes.store.directory import sync
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import SCHEMA, TEMPORARY, open_reader, open_writer
from tests.store.files import change, full
from tests.support import NETWORK, NOW_MS, Author, add, electorate

MARK = "20260131T120000Z"
NODE_KEY = NodeKey.from_seed(Author("//validator0").node_key.seed)


def register(database: Path, *uuids: str) -> None:
    """Write registrations as the daemon of the database does."""
    connection = open_writer(database)
    write(Ledger(connection, NETWORK, NODE_KEY), *uuids)
    connection.close()


def write(ledger: Ledger, *uuids: str) -> None:
    author = Author("//validator0")
    peer = Author("//validator1", number=ledger.state.events)  # a log for each call
    peer.delegate()
    for uuid in uuids:
        peer.add(add("//Alice", [uuid]))
    ledger.writes_refused = None
    with ledger.transaction():
        if ledger.own_log is None:
            ledger.set_electorate(electorate())
            ledger.open_log(0, author.delegation(), NOW_MS)
        ledger.receive(peer.events, NOW_MS)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The database of a daemon that does not run: an own log, another one, two rows."""
    path = tmp_path / "data" / "p2pnodes.db"
    path.parent.mkdir()
    register(path, "gpu-1", "gpu-2")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup is to be."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "backup.db"


def files(directory: Path) -> dict[str, bytes]:
    """All files of a directory with what is in them, but not what SQLite keeps beside an open database."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def uuids(path: Path) -> set[str]:
    connection = open_reader(path)
    found = {uuid for (uuid,) in connection.execute("SELECT uuid FROM node")}
    connection.close()
    return found


class TestBackUp:
    """The copy is one state of the database, and is what it says."""

    def test_it_holds_what_the_database_holds(self, database: Path, file: Path) -> None:
        copied = back_up(database, file, NETWORK)
        original, found = audit(database, NETWORK), audit(file, NETWORK)
        assert found == original
        assert found.problems == []
        assert copied == (file.stat().st_size, 2, 4, 2, original.state_root, True)

    def test_without_the_check_of_the_log_it_says_the_same(self, database: Path, file: Path) -> None:
        checked = back_up(database, file, NETWORK)
        assert back_up(database, file, NETWORK, verify=False, replace=True) == checked._replace(verified=False)

    def test_only_its_owner_can_read_it(self, database: Path, file: Path) -> None:
        database.chmod(0o644)
        back_up(database, file, NETWORK)
        assert stat.S_IMODE(file.stat().st_mode) == backup.BACKUP_MODE == 0o600

    def test_it_is_one_file_that_can_be_read_where_nothing_can_be_written(self, database: Path, file: Path) -> None:
        back_up(database, file, NETWORK)
        connection = sqlite3.connect(file)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        connection.close()
        assert list(file.parent.iterdir()) == [file]

    def test_a_busy_writer_neither_gets_into_it_nor_starts_it_anew(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(copying, "PAGES_PER_STEP", 4)
        connection = open_writer(database)
        ledger = Ledger(connection, NETWORK, NODE_KEY)
        steps: list[int] = []

        def progress(what: str, done: int, of: int) -> None:
            if what == "copying":
                steps.append(done)
                write(ledger, f"busy-{len(steps)}")

        copied = back_up(database, file, NETWORK, progress=progress)
        connection.close()
        assert steps == sorted(set(steps))
        assert len(steps) > 5
        assert uuids(file) == {"gpu-1", "gpu-2"}
        assert copied.events == 4
        assert len(uuids(database)) == 2 + len(steps)

    def test_progress_is_told_of_each_part(self, database: Path, file: Path) -> None:
        told: dict[str, tuple[int, int]] = {}
        back_up(database, file, NETWORK, progress=lambda what, done, of: told.update({what: (done, of)}))
        assert list(told) == ["copying", "checking events", "deriving rows", "settling rows", "comparing"]
        assert all(done == of > 0 for done, of in told.values())

    def test_a_file_that_exists_is_replaced_only_when_told_to(self, database: Path, file: Path) -> None:
        file.write_text("precious")
        with pytest.raises(StoreError, match="exists already; choose another name, or replace it with --force"):
            back_up(database, file, NETWORK)
        assert file.read_text() == "precious"
        back_up(database, file, NETWORK, replace=True)
        assert audit(file, NETWORK).events == 4

    def test_a_file_that_comes_meanwhile_is_not_replaced(self, database: Path, file: Path) -> None:
        def come(*_: object) -> None:
            file.write_text("precious")

        with pytest.raises(StoreError, match="exists now"):
            back_up(database, file, NETWORK, progress=come)
        assert files(file.parent) == {"backup.db": b"precious"}

    def test_where_it_can_have_one_name_only_a_failure_leaves_none(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(StoreError, match="No space left"):
            back_up(database, file, NETWORK)
        assert files(file.parent) == {}

    @pytest.mark.parametrize("came", [False, True])
    def test_where_a_file_can_have_one_name_only_it_is_the_same(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch, *, came: bool
    ) -> None:
        def refuse(*_: object) -> None:
            if came:
                file.write_text("precious")
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        if not came:
            back_up(database, file, NETWORK)
            assert audit(file, NETWORK).events == 4
            return
        with pytest.raises(StoreError, match="exists now"):
            back_up(database, file, NETWORK)
        assert files(file.parent) == {"backup.db": b"precious"}

    def test_a_kill_before_it_has_its_name_leaves_nothing_there(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "link", killed)
        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            back_up(database, file, NETWORK)
        assert not file.exists(), "else the next one finds an empty file that looks like a backup"

    def test_a_problem_leaves_the_backup_before_and_nothing_else(self, database: Path, file: Path) -> None:
        back_up(database, file, NETWORK)
        before = files(file.parent)
        change(database, "DELETE FROM node WHERE uuid = 'gpu-1'")
        with pytest.raises(
            StoreError, match=r"no backup of .* was made: node: only a rebuild has .*`p2pnodes db verify`"
        ):
            back_up(database, file, NETWORK, replace=True)
        assert files(file.parent) == before
        assert back_up(database, file, NETWORK, verify=False, replace=True).rows == 1

    def test_what_sqlite_itself_finds_is_found_without_the_check_of_the_log(self, database: Path, file: Path) -> None:
        connection = sqlite3.connect(database)
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'claim_miner'").fetchone()
        connection.close()
        with database.open("r+b") as raw:
            raw.seek((page - 1) * 4096)
            raw.write(b"\xff" * 64)
        with pytest.raises(StoreError, match="SQLite finds the file damaged"):
            back_up(database, file, NETWORK, verify=False)
        assert files(file.parent) == {}

    def test_an_interrupted_one_leaves_nothing_behind(self, database: Path, file: Path) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            back_up(database, file, NETWORK, progress=interrupt)
        assert list(file.parent.iterdir()) == []

    def test_what_killed_ones_left_goes_with_the_next_one(self, database: Path, file: Path) -> None:
        left = file.with_name(".p2pnodes-backup-left")
        for name in (left.name, f"{left.name}-journal", ".p2pnodes-other"):
            file.with_name(name).write_text("x")
        back_up(database, file, NETWORK)
        assert sorted(path.name for path in file.parent.iterdir()) == [".p2pnodes-other", "backup.db"]

    def test_what_another_one_is_writing_stays(self, database: Path, file: Path) -> None:
        def begin_another(what: str, done: int, of: int) -> None:
            if what == "copying" and not file.exists():
                back_up(database, file, NETWORK)

        other = file.with_name("other.db")
        assert back_up(database, other, NETWORK, progress=begin_another).events == 4
        assert sorted(files(file.parent)) == ["backup.db", "other.db"]

    def test_where_nothing_can_be_locked_a_backup_is_made_and_nothing_removed(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        file.with_name(".p2pnodes-backup-left").touch()
        back_up(database, file, NETWORK)
        assert sorted(files(file.parent)) == [".p2pnodes-backup-left", "backup.db"]

    def test_a_draft_that_somebody_removes_before_it_is_locked_is_made_anew(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock, removed = fcntl.flock, list[Path]()

        def late(descriptor: int, how: int) -> None:
            if not removed:
                removed.extend(file.parent.iterdir())
                removed[0].unlink()
            lock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", late)
        back_up(database, file, NETWORK)
        assert (len(removed), sorted(files(file.parent))) == (1, ["backup.db"])

    @pytest.mark.parametrize(
        ("place", "reason"),
        [
            ("data/backup.db", "lies in the data directory, and is lost with it"),
            ("data/p2pnodes.db", "lies in the data directory"),
            ("data/deeper/backup.db", "lies in the data directory"),
            ("elsewhere", "is a directory"),
            ("nowhere/backup.db", "there is no directory"),
            ("pipe", "is no regular file"),
            (f"elsewhere/{'x' * 300}", "File name too long"),
        ],
    )
    def test_a_place_that_makes_no_sense_is_refused(
        self, database: Path, file: Path, tmp_path: Path, place: str, reason: str
    ) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises((StoreError, OSError), match=reason):
            back_up(database, tmp_path / place, NETWORK, replace=True)
        assert uuids(database) == {"gpu-1", "gpu-2"}

    def test_a_link_into_the_data_directory_is_followed(self, database: Path, file: Path) -> None:
        file.symlink_to(database)
        with pytest.raises(StoreError, match="lies in the data directory"):
            back_up(database, file, NETWORK, replace=True)

    def test_a_full_disk_is_named_by_where_the_copy_was_to_be(self, database: Path) -> None:
        target = sqlite3.connect(":memory:")
        target.execute("PRAGMA max_page_count = 2")  # as full as a disk can be
        for into in ("/backups", TEMPORARY):
            with pytest.raises(StoreError, match=re.escape(f"no room for a copy in {into} ")):
                copying.copy_database(database, target, into=into)
        target.close()

    def test_no_room_for_its_check_is_no_fault_of_the_database(
        self, database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.store.audit.finish_cut", full)
        with pytest.raises(StoreError, match="cannot be checked: database or disk is full; make room"):
            back_up(database, file, NETWORK)
        assert list(file.parent.iterdir()) == []

    def test_no_database_is_one_clear_error(self, file: Path, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no such database"):
            back_up(tmp_path / "data" / "p2pnodes.db", file, NETWORK)
        assert list(file.parent.iterdir()) == []


def restore(file: Path, database: Path, mark: str = MARK) -> Path | None:
    with drafted(file, database, NETWORK) as draft:
        return draft.put_in_place(mark)


def killed(database: Path, *more: str) -> None:
    """Leave a database as a killed daemon does: what it wrote last is in the write-ahead log alone."""
    connection = open_writer(database)
    write(Ledger(connection, NETWORK, NODE_KEY), *more)
    copy = database.with_name("copy")
    copy.mkdir()
    for path in database.parent.glob("p2pnodes.db*"):
        shutil.copy(path, copy / path.name)
    connection.close()
    for path in copy.iterdir():
        path.replace(database.parent / path.name)
    copy.rmdir()
    assert database.with_name("p2pnodes.db-wal").stat().st_size > 0


class TestRestore:
    """What is in place then is the backup, what was there is aside, and the old log is not written on."""

    @pytest.fixture
    def saved(self, database: Path, file: Path) -> Path:
        """A backup; the database has gone on since, and its daemon was killed."""
        back_up(database, file, NETWORK)
        killed(database, "gpu-3")
        return file

    def test_the_backup_is_in_place_and_the_database_before_is_aside(self, saved: Path, database: Path) -> None:
        aside = restore(saved, database)
        assert aside == database.with_name(f"p2pnodes.db.before-restore-{MARK}")
        assert uuids(aside) == {"gpu-1", "gpu-2", "gpu-3"}, "what was in its write-ahead log went with it"
        assert uuids(database) == {"gpu-1", "gpu-2"}
        assert audit(database, NETWORK).problems == audit(aside, NETWORK).problems == []
        assert not database.with_name("p2pnodes.db-wal").exists()

    def test_what_was_put_aside_can_be_restored_in_turn(self, saved: Path, database: Path) -> None:
        aside = restore(saved, database)
        assert aside is not None
        restore(aside, database, "later")
        assert uuids(database) == {"gpu-1", "gpu-2", "gpu-3"}

    def test_a_lost_database_is_no_hindrance(self, saved: Path, database: Path) -> None:
        for path in database.parent.iterdir():
            path.unlink()
        assert restore(saved, database) is None
        assert uuids(database) == {"gpu-1", "gpu-2"}
        assert stat.S_IMODE(database.stat().st_mode) == backup.DATABASE_MODE

    def test_the_mode_is_that_of_the_database_before(self, saved: Path, database: Path) -> None:
        database.chmod(0o660)
        restore(saved, database)
        assert stat.S_IMODE(database.stat().st_mode) == 0o660

    @pytest.mark.parametrize("restored", [True, False], ids=["restored", "copied by hand"])
    def test_no_log_is_gone_on_with_even_with_the_old_node_key(
        self, saved: Path, database: Path, *, restored: bool
    ) -> None:
        restore(saved, database)
        if not restored:
            shutil.copy(saved, database)
        connection = open_writer(database)
        ledger = Ledger(connection, NETWORK, NODE_KEY)
        assert list(ledger.own_logs()) == [(NODE_KEY.public_key, 0)]
        assert (ledger.own_log is None) is restored
        connection.close()

    def test_the_backup_stays_as_it_is(self, saved: Path, database: Path) -> None:
        before = files(saved.parent)
        restore(saved, database)
        assert files(saved.parent) == before

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda path: change(path, "DELETE FROM node WHERE uuid = 'gpu-1'"), "was not restored: node: only a rebu"),
            (lambda path: change(path, "DELETE FROM events WHERE log = 1"), "no event of log"),
            (lambda path: change(path, "UPDATE events SET wire = x'00' WHERE seq = 2"), "does not decode"),
            (lambda path: change(path, "UPDATE meta SET value = x'00' WHERE key = 'network_id'"), "is of network 00, "),
            (lambda path: change(path, "DELETE FROM meta WHERE key = 'network_id'"), "is of network none, "),
            (lambda path: path.write_bytes(b"no database" * 1000), "no p2pnodes database"),
            (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "malformed|damaged"),
            (lambda path: path.unlink(), "no such file"),
        ],
    )
    def test_a_bad_backup_changes_nothing(
        self, saved: Path, database: Path, damage: Callable[[Path], Any], reason: str
    ) -> None:
        damage(saved)
        before = files(database.parent)
        with pytest.raises(StoreError, match=reason):
            restore(saved, database)
        assert files(database.parent) == before
        assert uuids(database) == {"gpu-1", "gpu-2", "gpu-3"}

    def test_no_room_beside_the_database_is_no_fault_of_the_backup(
        self, saved: Path, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = files(database.parent)
        monkeypatch.setattr(backup, "Ledger", full)
        with pytest.raises(StoreError, match=r"restoring: cannot be written: database or disk is full; make room"):
            restore(saved, database)
        assert files(database.parent) == before

    def test_a_newer_schema_is_refused(self, saved: Path, database: Path) -> None:
        connection = sqlite3.connect(saved, isolation_level=None)
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE compatibility SET lowest = 99")
        connection.close()
        with pytest.raises(StoreError, match=f"schema 99, this build knows {SCHEMA}: install a newer p2pnodes"):
            restore(saved, database)

    def test_another_network_is_named(self, saved: Path, database: Path) -> None:
        other = Network(genesis_hash="1" * 64, netuid=64)
        with (
            pytest.raises(StoreError, match=f"is of network {NETWORK.id.hex()}, the settings say {other.id.hex()}"),
            drafted(saved, database, other),
        ):
            pytest.fail("it was drafted")

    def test_a_backup_of_another_networks_database_names_that(self, database: Path, tmp_path: Path) -> None:
        """Not the draft, which is gone when somebody reads it."""
        other = Network(genesis_hash="1" * 64, netuid=64)
        with pytest.raises(StoreError, match=f"^{database}: is of network {NETWORK.id.hex()}, the settings say"):
            back_up(database, tmp_path / "other.db", other)

    def test_the_database_itself_is_no_backup(self, saved: Path, database: Path) -> None:
        with pytest.raises(StoreError, match="is the database itself"):
            restore(database, database)

    def test_a_draft_that_is_not_put_in_place_is_gone(self, saved: Path, database: Path) -> None:
        before = files(database.parent)
        with drafted(saved, database, NETWORK) as draft:
            assert draft.path.exists()
        assert files(database.parent) == before

    def test_two_in_one_second_do_not_replace_what_was_put_aside(self, saved: Path, database: Path) -> None:
        restore(saved, database)
        before = files(database.parent)
        with pytest.raises(StoreError, match="exists already; repeat the command"):
            restore(saved, database)
        assert files(database.parent) == before

    def test_wherever_it_ends_nothing_is_lost_and_it_can_be_repeated(
        self, saved: Path, database: Path, tmp_path: Path
    ) -> None:
        pristine = tmp_path / "pristine"
        shutil.copytree(database.parent, pristine)
        seen: set[str] = set()
        for step in range(100):
            shutil.rmtree(database.parent)
            shutil.copytree(pristine, database.parent)
            with drafted(saved, database, NETWORK) as draft, pytest.MonkeyPatch.context() as patch:
                end_at(patch, step)
                try:
                    draft.put_in_place(MARK)
                    break
                except Ended:
                    pass
            seen.add(found_by_a_start(database, tmp_path / f"start-{step}"))
            aside = database.with_name(f"p2pnodes.db.before-restore-{MARK}")
            assert uuids(aside if aside.exists() else database) == {"gpu-1", "gpu-2", "gpu-3"}
            restore(saved, database, "again")
            assert uuids(database) == {"gpu-1", "gpu-2"}
            assert audit(database, NETWORK).problems == []
        assert step > 5
        assert seen == {"the database before", "nothing", "the backup"}


class Ended(BaseException):
    """The process ends here."""


def end_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process end before the change number ``step`` to the file system."""
    left = [step]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise Ended
            return change(*arguments, **options)

        return run

    for name in ("rename", "hardlink_to", "unlink"):
        patch.setattr(Path, name, counted(getattr(Path, name)))
    patch.setattr(backup, "sync", counted(sync))


def found_by_a_start(database: Path, directory: Path) -> str:
    """What a daemon would find that starts now; always a sound database."""
    shutil.copytree(database.parent, directory)
    path = directory / database.name
    connection = open_writer(path)
    Ledger(connection, NETWORK)
    connection.close()
    assert audit(path, NETWORK).problems == []
    found = frozenset(uuids(path))
    return {
        frozenset({"gpu-1", "gpu-2", "gpu-3"}): "the database before",
        frozenset({"gpu-1", "gpu-2"}): "the backup",
        frozenset[str](): "nothing",
    }[found]
