"""The database writes in groups from one thread, answers after the fsync, and reads beside the writer."""

import asyncio
import resource
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import aiosqlite
import pytest
from structlog.testing import capture_logs

from p2pnodes.model.claims import parse_body
from p2pnodes.model.errors import StoreError, WritesRefusedError
from p2pnodes.model.events import Event, LogId
from p2pnodes.model.inventory import Weights
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import Add, request_id
from p2pnodes.store import database as database_module
from p2pnodes.store.admission import ConflictError
from p2pnodes.store.checkpoints import Donor
from p2pnodes.store.database import Commit, Database, Written
from p2pnodes.store.facts import Facts, StoredClaim
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Found
from p2pnodes.store.schema import BUSY_TIMEOUT_MS
from p2pnodes.store.signatures import SharedCheck
from p2pnodes.store.state import Result
from p2pnodes.throttle import STORE_FAILURES_LOGGED_BURST
from tests.gossip.past import Past
from tests.support import NETWORK, NOW_MS, Author, add, electorate


async def opened(path: Path, author: Author) -> Database:
    database = await Database.open(path, NETWORK, NodeKey.from_seed(author.node_key.seed), now_ms=lambda: NOW_MS)
    if database.ledger.own_log is None:
        await database.set_electorate(electorate())
        await database.write(lambda ledger: ledger.open_log(0, author.delegation(), NOW_MS))
    database.ledger.writes_refused = None
    return database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An open database of //validator0 that may write."""
    database = await opened(tmp_path / "p2pnodes.db", Author("//validator0"))
    yield database
    await database.close()


async def submit(database: Database, request: Add) -> StoredClaim:
    return await database.submit_add(request, parse_body(request.body), None)


class TestWriting:
    """Jobs share commits but not their failures."""

    async def test_many_writes_of_one_moment_share_commits(self, database: Database) -> None:
        commits: list[Commit] = []
        database.on_commit = commits.append
        claims = await asyncio.gather(*(submit(database, add("//Alice", [f"gpu-{n}"])) for n in range(64)))
        assert len({claim.claim_id for claim in claims}) == 64
        assert sum(len(commit.new_claims) for commit in commits) == 64
        assert len(commits) < 64

    async def test_what_is_submitted_in_one_turn_of_the_event_loop_shares_a_commit(self, database: Database) -> None:
        commits: list[Written] = []
        database.on_written = commits.append

        async def write(number: int) -> None:
            time.sleep(0)  # lets go of the interpreter, as the sending of an answer does
            await submit(database, add("//Alice", [f"gpu-{number}"]))

        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(60)  # the writer takes it only when nobody holds it
        try:
            await asyncio.gather(*(write(number) for number in range(16)))
        finally:
            sys.setswitchinterval(interval_s)
        assert [written.jobs for written in commits] == [16]

    async def test_a_crowd_is_gathered_without_a_timed_get(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CPython's, of a few microseconds, may last for ever: who came first would wait for whoever comes next."""
        waited: list[float] = []

        class Told(SimpleQueue[Any]):
            def get(self, block: bool = True, timeout: float | None = None) -> Any:
                if timeout is not None:
                    waited.append(timeout)
                return super().get(block, timeout)

        monkeypatch.setattr(database_module, "SimpleQueue", Told)
        database = await opened(tmp_path / "p2pnodes.db", Author("//validator0"))
        written: list[Written] = []
        database.on_written = written.append
        for crowd in range(3):
            await asyncio.gather(*(submit(database, add("//Alice", [f"gpu-{crowd}-{n}"])) for n in range(8)))
        await database.close()
        assert waited == []
        assert max(each.jobs for each in written) > 1

    async def test_an_answered_write_is_in_the_file_of_a_process_that_reads_it(self, database: Database) -> None:
        claim = await submit(database, add("//Alice", ["gpu-1"]))
        with sqlite3.connect(database.path) as other:
            rows = other.execute("SELECT uuid, claim_id FROM inventory").fetchall()
        other.close()
        assert rows == [("gpu-1", claim.claim_id.hex())]

    async def test_a_refused_job_does_not_disturb_its_neighbours(self, database: Database) -> None:
        first = add("//Alice", ["gpu-1"])
        await submit(database, first)
        outcomes = await asyncio.gather(
            submit(database, add("//Alice", ["gpu-1"], first_nonce(first) + 1)),
            submit(database, add("//Alice", ["gpu-2"])),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], StoredClaim)
        assert database.state.nodes == 2

    async def test_a_bug_in_one_job_is_told_to_its_caller_alone(self, database: Database) -> None:
        def broken(ledger: Ledger) -> None:
            raise ZeroDivisionError

        outcomes = await asyncio.gather(
            database.write(broken), submit(database, add("//Alice", ["gpu-1"])), return_exceptions=True
        )
        assert isinstance(outcomes[0], ZeroDivisionError)
        assert isinstance(outcomes[1], StoredClaim)
        assert database.state.nodes == 1

    async def test_a_disk_that_cannot_write_is_a_store_error_until_it_can_again(self, database: Database) -> None:
        def full(ledger: Ledger) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with pytest.raises(StoreError, match="disk is full"):
            await database.write(full)
        assert database.failure is not None
        await submit(database, add("//Alice", ["gpu-1"]))
        assert database.failure is None

    async def test_more_waiting_jobs_than_the_bound_are_refused(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "QUEUED_JOBS_MAX", 2)
        outcomes = await asyncio.gather(
            *(submit(database, add("//Alice", [f"gpu-{n}"])) for n in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StoredClaim, StoredClaim, WritesRefusedError]

    async def test_a_write_whose_caller_went_away_is_still_done(self, database: Database) -> None:
        task = asyncio.create_task(submit(database, add("//Alice", ["gpu-1"])))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await database.write(lambda _: None)
        assert database.state.nodes == 1
        assert database.queued_jobs == 0


def first_nonce(request: Add) -> int:
    return int(request.nonce)


@contextmanager
def failing_disk(database: Database) -> Iterator[None]:
    """No file grows any more, as on a full disk: what does not fit into the write-ahead log as it is fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size_bytes = database.status()["wal_bytes"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class TestAFailingDisk:
    """Whoever writes is told, and told soon; that it fails is known for as long as it does."""

    async def test_nothing_of_a_write_that_failed_happened_and_it_can_be_tried_again(self, database: Database) -> None:
        request, before = add("//Alice", ["gpu-1"]), database.state
        with failing_disk(database), pytest.raises(StoreError, match="cannot write"):
            await submit(database, request)
        assert database.state == before
        claim = await submit(database, request)
        assert (database.state.nodes, claim.claim_id) == (1, request_id(NETWORK.id, request))
        assert database.state.logs[database.ledger.own_log or LogId(b"", 0)].head.seq == 1

    async def test_what_the_disk_did_to_all_is_not_tried_again_with_each(self, database: Database) -> None:
        runs = 0

        def job(ledger: Ledger) -> None:
            nonlocal runs
            runs += 1
            ledger.append(lambda _: Author("//validator0").delegation(), NOW_MS)

        with failing_disk(database):
            outcomes = await asyncio.gather(*(database.write(job) for _ in range(64)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreError}
        assert runs == 64

    async def test_all_wait_for_another_process_once_and_not_each_for_itself(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await database.write(lambda ledger: ledger.facts.connection.execute("PRAGMA busy_timeout = 10"))
        waits = 0
        transaction = Ledger.transaction

        def counted(ledger: Ledger) -> AbstractContextManager[None]:
            nonlocal waits
            waits += 1
            return transaction(ledger)

        monkeypatch.setattr(Ledger, "transaction", counted)
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes = [submit(database, add("//Alice", [f"gpu-{number}"])) for number in range(64)]
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreError}
        assert waits == 2, "theirs, and one to see whether it was the disk"

    async def test_any_number_of_failures_has_few_lines_in_the_log_which_may_be_on_that_disk(
        self, database: Database
    ) -> None:
        with capture_logs() as logs, failing_disk(database):
            for number in range(2 * STORE_FAILURES_LOGGED_BURST):
                with pytest.raises(StoreError):
                    await submit(database, add("//Alice", [f"gpu-{number}"]))
        failed = [record["left_out"] for record in logs if record["event"] == "transaction_failed"]
        assert failed[:STORE_FAILURES_LOGGED_BURST] == [0] * STORE_FAILURES_LOGGED_BURST
        assert len(failed) < 1.5 * STORE_FAILURES_LOGGED_BURST

    async def test_a_job_whose_temporary_files_find_no_room_takes_no_neighbour_with_it(
        self, database: Database
    ) -> None:
        """SQLite says the same of them as of the database."""

        def job(ledger: Ledger) -> None:
            ledger.note_heard(NOW_MS)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        posts = [submit(database, add("//Alice", [f"gpu-{number}"])) for number in range(4)]
        failed, *claims = await asyncio.gather(database.write(job), *posts, return_exceptions=True)
        assert isinstance(failed, StoreError)
        assert {type(claim) for claim in claims} == {StoredClaim}
        assert database.state.nodes == 4

    async def test_a_job_that_writes_nothing_does_not_say_that_it_is_well(self, database: Database) -> None:
        with failing_disk(database):
            with pytest.raises(StoreError):
                await submit(database, add("//Alice", ["gpu-1"]))
            await database.write(lambda _: None)
            assert database.failure is not None
        await submit(database, add("//Alice", ["gpu-1"]))
        assert database.failure is None

    async def test_that_it_is_well_again_is_found_though_nobody_writes(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "TRIED_S", 0.01)
        tries = 0
        try_disk = Ledger.try_disk

        def counted(ledger: Ledger, now_ms: int) -> None:
            nonlocal tries
            tries += 1
            try_disk(ledger, now_ms)

        monkeypatch.setattr(Ledger, "try_disk", counted)
        with failing_disk(database):
            with pytest.raises(StoreError):
                await submit(database, add("//Alice", ["gpu-1"]))
            await eventually(lambda: tries > 2)
            assert database.failure is not None
        await eventually(lambda: database.failure is None)


class TestFilesThatAreTakenAway:
    """What is answered is in the files that the next start finds: SQLite goes on in others, and says nothing."""

    @pytest.mark.parametrize("suffix", ["", "-wal"])
    async def test_nothing_is_written_while_one_is_not_in_its_place(self, database: Database, suffix: str) -> None:
        await submit(database, add("//Alice", ["gpu-1"]))
        before, file = database.state, database.path.with_name(f"{database.path.name}{suffix}")
        away = file.rename(file.with_name("away"))
        outcomes = await asyncio.gather(
            *(submit(database, add("//Alice", [f"gpu-2{n}"])) for n in range(2)), return_exceptions=True
        )
        assert [str(outcome).partition(",")[0] for outcome in outcomes] == 2 * [str(database.path)]
        assert (database.state, database.failure is None) == (before, False)
        away.rename(file)
        await submit(database, add("//Alice", ["gpu-3"]))
        assert (database.state.nodes, database.failure) == (2, None)

    async def test_nor_while_another_has_its_place(self, database: Database, tmp_path: Path) -> None:
        shutil.copy(database.path, tmp_path / "older")
        (tmp_path / "older").replace(database.path)
        with pytest.raises(StoreError, match="replaced while this daemon runs"):
            await submit(database, add("//Alice", ["gpu-1"]))
        with pytest.raises(StoreError, match="replaced while this daemon runs"):
            await database.set_electorate(electorate(200))
        assert (database.state.nodes, database.electorate.block) == (0, 100)


class TestReading:
    """Readers see what was committed, and nothing else."""

    async def test_totals_and_details_filter_by_miner_and_model(self, database: Database) -> None:
        await submit(database, add("//Alice", ["a1", "a2"]))
        await submit(database, add("//Bob", ["b1"]))
        alice = add("//Alice", ["x"]).hotkey
        assert await database.totals(None, None) == [("h100_sxm", 0, 3)]
        assert await database.totals(alice, None) == [("h100_sxm", 0, 2)]
        assert await database.totals(alice, "a100") == []
        details = await database.details(None, "h100_sxm")
        assert sorted(details, key=lambda detail: detail.gpus) == [
            (add("//Bob", ["x"]).hotkey, 1, {"h100_sxm": 1}, []),
            (alice, 2, {"h100_sxm": 2}, []),
        ]

    async def test_a_task_is_found_by_its_miner_only(self, database: Database) -> None:
        request = add("//Alice", ["gpu-1"])
        task = request_id(NETWORK.id, request)[:16]
        await submit(database, request)
        status = await database.task_status(request.hotkey, task)
        assert status is not None
        assert status.status == "pending"
        assert await database.task_status(add("//Bob", ["x"]).hotkey, task) is None

    async def test_events_are_read_between_two_positions_in_order(self, database: Database) -> None:
        for number in range(4):
            await submit(database, add("//Alice", [f"gpu-{number}"]))
        rows = await database.query("event_log", {}, 10, after=1, until=3)
        assert [row["position"] for row in rows] == [2, 3]
        rows = await database.query("event_log", {"kind": "add"}, 2, after=2, newest_first=True)
        assert [row["position"] for row in rows] == [5, 4]

    async def test_views_filter_by_their_columns_and_refuse_others(self, database: Database) -> None:
        await submit(database, add("//Alice", ["gpu-1"]))
        (row,) = await database.query("inventory", {"uuid": "gpu-1"}, 10)
        assert row["status"] == "pending"
        assert [event["kind"] for event in await database.query("event_log", {}, 10, newest_first=True)] == [
            "add",
            "delegate",
        ]
        assert [event["kind"] for event in await database.query("event_log", {}, 10, after=1)] == ["add"]
        with pytest.raises(ValueError, match="no column 'colour'"):
            await database.query("inventory", {"colour": "red"}, 10)
        with pytest.raises(ValueError, match="no view 'sqlite_master'"):
            await database.query("sqlite_master", {}, 10)

    async def test_every_view_can_be_read_while_the_daemon_runs(self, database: Database) -> None:
        await submit(database, add("//Alice", ["gpu-1"]))
        counts = {view: len(await database.query(view, {}, 100)) for view in database_module.VIEWS}
        assert counts == {"inventory": 1, "claims": 1, "verdicts": 0, "placements": 0, "peers": 1, "event_log": 2}


class TestWeights:
    """What is read is weighed with the electorate that belongs to it, whatever the writer does meanwhile."""

    @staticmethod
    def blocks(facts: Facts, weights: Weights) -> tuple[int, int]:
        """Block of the electorate that is stored, and of the one that is weighed with."""
        (block,) = facts.connection.execute("SELECT block FROM electorate").fetchone()
        return block, weights.electorate.block

    async def test_an_electorate_that_is_not_committed_yet_does_not_count(self, database: Database) -> None:
        inside, go = threading.Event(), threading.Event()

        def change_and_fail(ledger: Ledger) -> None:
            ledger.set_electorate(electorate(200, NOW_MS))
            inside.set()
            assert go.wait(20)
            raise StoreError("no space left")

        writing = asyncio.create_task(database.write(change_and_fail))
        await asyncio.to_thread(inside.wait, 20)
        assert await database.read_weighed(self.blocks) == (100, 100)
        assert database.electorate.block == 100
        go.set()
        with pytest.raises(StoreError):
            await writing
        assert await database.read_weighed(self.blocks) == (100, 100)

    async def test_a_read_that_an_electorate_overtakes_is_done_again(self, database: Database) -> None:
        inside, go = threading.Event(), threading.Event()

        def read_late(facts: Facts, weights: Weights) -> tuple[int, int]:
            inside.set()
            assert go.wait(20)
            return self.blocks(facts, weights)

        reading = asyncio.create_task(database.read_weighed(read_late))
        await asyncio.to_thread(inside.wait, 20)
        await database.set_electorate(electorate(200, NOW_MS))
        go.set()
        assert await reading == (200, 200)

    async def test_a_commit_without_an_end_is_not_waited_for(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "WEIGHED_PAUSE_S", 0.0)
        monkeypatch.setattr(database.ledger, "settled", False)
        assert await database.read_weighed(self.blocks) == (100, 100)  # it changes nothing that counts here
        monkeypatch.setattr(database.ledger, "weights", None)
        with pytest.raises(StoreError, match="does not come to its end"):
            await database.read_weighed(self.blocks)


class TestLifeCycle:
    """What was written is there at the next start."""

    async def test_a_reopened_database_has_the_same_state(self, tmp_path: Path) -> None:
        author = Author("//validator0")
        database = await opened(tmp_path / "p2pnodes.db", author)
        await submit(database, add("//Alice", ["gpu-1", "gpu-2"]))
        before = database.state
        await database.close()
        database = await opened(tmp_path / "p2pnodes.db", author)
        after = database.state
        await database.close()
        assert after == before

    async def test_close_finishes_what_waits(self, tmp_path: Path) -> None:
        database = await opened(tmp_path / "p2pnodes.db", Author("//validator0"))
        writes = [asyncio.create_task(submit(database, add("//Alice", [f"gpu-{n}"]))) for n in range(8)]
        await asyncio.sleep(0)
        await database.close()
        assert len({claim.claim_id for claim in await asyncio.gather(*writes)}) == 8

    async def test_close_does_not_wait_for_an_operator_who_reads(self, tmp_path: Path) -> None:
        database = await opened(tmp_path / "p2pnodes.db", Author("//validator0"))
        reader = sqlite3.connect(tmp_path / "p2pnodes.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM inventory").fetchone()
        await submit(database, add("//Alice", ["gpu-1"]))
        await asyncio.wait_for(database.close(), BUSY_TIMEOUT_MS / 1000 / 2)
        reader.close()

    async def test_writes_whose_callers_went_away_still_count_towards_the_bound(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "QUEUED_JOBS_MAX", 2)
        database = await opened(tmp_path / "p2pnodes.db", Author("//validator0"))
        gate = threading.Event()
        blocked = [asyncio.create_task(database.write(lambda _: gate.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)
        with pytest.raises(WritesRefusedError):
            await database.write(lambda _: None)
        gate.set()
        await database.close()
        assert database.queued_jobs == 0

    @pytest.mark.parametrize("step", ["connect", "execute"])
    async def test_a_start_that_is_stopped_leaves_no_thread_that_the_process_would_wait_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        before, reached = set(threading.enumerate()), asyncio.Event()

        async def hangs(*_: object, **__: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(*{"connect": (aiosqlite, step), "execute": (aiosqlite.Connection, step)}[step], hangs)
        opening = asyncio.create_task(opened(tmp_path / "p2pnodes.db", Author("//validator0")))
        await reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(10):  # a thread that has said its last word takes a moment to end
            while not set(threading.enumerate()) <= before:
                await asyncio.sleep(0.001)

    async def test_a_write_after_close_is_refused(self, tmp_path: Path) -> None:
        database = await opened(tmp_path / "p2pnodes.db", Author("//validator0"))
        await database.close()
        with pytest.raises(StoreError, match="closed"):
            await submit(database, add("//Alice", ["gpu-1"]))

    async def test_a_file_that_is_no_database_is_one_clear_error(self, tmp_path: Path) -> None:
        path = tmp_path / "p2pnodes.db"
        path.write_bytes(b"not a database" * 100)
        with pytest.raises(StoreError, match=r"p2pnodes\.db.*not a database"):
            await Database.open(path, NETWORK, None, now_ms=lambda: NOW_MS)

    async def test_a_disk_that_fails_when_readers_are_opened_is_one_clear_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr("aiosqlite.connect", fail)
        with pytest.raises(StoreError, match="the database cannot be read: disk I/O error; check the disk"):
            await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: NOW_MS)

    async def test_a_disk_that_is_full_at_the_start_is_no_damage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(database_module, "Ledger", fail)
        with pytest.raises(StoreError) as refused:
            await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: NOW_MS)
        assert f"{refused.value}".endswith(
            "p2pnodes.db: database or disk is full; check the path, its owner and the disk"
        )

    async def test_another_program_that_writes_is_named_as_what_is_in_the_way(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.store.schema.BUSY_TIMEOUT_MS", 1)
        await database.write(lambda ledger: ledger.facts.connection.execute("PRAGMA busy_timeout = 1"))
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=r"cannot write: database is locked; another program .*: end that$"):
                await submit(database, add("//Alice", ["gpu-1"]))
            with pytest.raises(StoreError, match=r"is locked; another program .*: end that$"):
                await Database.open(database.path, NETWORK, None, now_ms=lambda: NOW_MS)
        await submit(database, add("//Alice", ["gpu-1"]))

    async def test_too_little_memory_is_one_clear_error(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of all that goes wrong in SQLite this alone is none of its errors in Python."""

        def fail(*_: object) -> None:
            raise MemoryError

        with pytest.raises(StoreError, match="cannot write: out of memory"):
            await database.write(fail)
        for read in (database.read, database.browse):
            with pytest.raises(StoreError, match="cannot be read: out of memory"):
                await read(fail)
        monkeypatch.setattr(database_module, "Ledger", fail)
        with pytest.raises(StoreError, match=r"other\.db: out of memory"):
            await Database.open(tmp_path / "other.db", NETWORK, None, now_ms=lambda: NOW_MS)

    async def test_a_read_that_the_disk_breaks_off_is_told_with_what_the_disk_said(self, database: Database) -> None:
        """SQLite has ended the transaction then; that there is none to be ended is not the cause."""

        def fail(facts: Facts) -> None:
            facts.connection.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")

        with pytest.raises(StoreError, match="cannot be read: disk I/O error"):
            await database.read(fail)
        assert await database.read(lambda facts: facts.cuts) == {}

    async def test_events_from_a_peer_are_handed_out_as_received(self, database: Database) -> None:
        author = Author("//validator1")
        author.delegate()
        author.verdict(bytes(32))
        outcomes = await database.receive(author.events, NOW_MS)
        assert [outcome.result for outcome in outcomes] == [Result.STORED] * 2
        assert await database.read_log(author.log, 0, 1 << 20) == [event.wire for event in author.events]
        assert await database.read_log(author.log, 1, 1) == [author.events[1].wire]
        assert await database.read_log(author.log, 2, 1 << 20) == []

    async def test_the_signatures_of_a_batch_are_checked_in_two_threads(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Sequence[Event]] = []
        monkeypatch.setattr(SharedCheck, "__call__", lambda _, events: told.append(events))
        author = Author("//validator1")
        author.delegate()
        await database.receive(author.events, NOW_MS)
        assert told == [author.events]

    async def test_and_so_are_those_of_a_slice(
        self, database: Database, pasts: list[Past], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[list[bytes]] = []
        monkeypatch.setattr(SharedCheck, "__call__", lambda _, events: told.append([event.wire for event in events]))
        await database.set_electorate(pasts[0].electorate)
        await database.consider(pasts[0].number, pasts[0].certificate)
        leaves, path = Donor().slice(pasts[0].disk, pasts[0].number, 0)
        other, _ = Donor().slice(pasts[0].disk, pasts[0].number, 1)
        assert (await database.load(pasts[0].number, 0, other, path)).found is Found.FORGED
        assert told == []  # what does not lie under the root costs no check
        assert (await database.load(pasts[0].number, 0, leaves, path)).found is Found.TAKEN
        assert told == [[wire for _, wire in leaves]]

    async def test_conflicts_name_their_gpus(self, database: Database) -> None:
        await submit(database, add("//Alice", ["gpu-1"]))
        with pytest.raises(ConflictError) as found:
            await submit(database, add("//Alice", ["gpu-2", "gpu-1"]))
        assert found.value.uuids == ["gpu-1"]
