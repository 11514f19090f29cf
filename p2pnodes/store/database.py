"""The database as the daemon sees it: one writer thread with group commit, readers beside it.

Writes are jobs, functions of the ledger. The writer takes all that wait (up to GROUP_JOBS_MAX), runs them in one
transaction, and answers after its one fsync: many events of one moment share a commit. A transaction is hundreds of
statements with Python between them, so it runs on sqlite3 in a thread of its own; reads that are one statement go
through aiosqlite on a read-only connection, and never wait for the writer.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

import aiosqlite
import orjson
import structlog

from p2pnodes.model.claims import Body
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.model.events import Close, Event, Evidence, Head, LogId
from p2pnodes.model.explain import ClaimCase, NodeCase
from p2pnodes.model.inventory import Chute, TaskStatus, Weights
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from p2pnodes.model.proof import Proof
from p2pnodes.model.requests import Add, Delete
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store import admission, placing, proofs, snapshots
from p2pnodes.store.ahead import Ahead, Checker
from p2pnodes.store.browse import BROWSE_S_MAX, BROWSE_STEPS
from p2pnodes.store.changes import Changes
from p2pnodes.store.checkpoints import Donor, read_certificate
from p2pnodes.store.damage import DamagedEventError
from p2pnodes.store.facts import Facts, StoredClaim, Task
from p2pnodes.store.ledger import EVENTS_PER_READ, MENDED, Ledger, read_log
from p2pnodes.store.loading import Answer, Lack, consider, lacking, load
from p2pnodes.store.placing import Placed
from p2pnodes.store.schema import (
    BUSY_TIMEOUT_MS,
    CHECK,
    FAILURES,
    TEMPORARY,
    is_of_the_disk,
    open_reader,
    open_writer,
    opening,
    told,
    what_to_do,
)
from p2pnodes.store.signatures import SharedCheck
from p2pnodes.store.snapshots import NodeRow, Part
from p2pnodes.store.state import Outcome, State
from p2pnodes.throttle import store_failures

log = structlog.get_logger("p2pnodes.store")

GROUP_JOBS_MAX: Final = 256
"""Jobs that share one commit."""

GATHER_S: Final = 0.0005
"""How long a commit waits for another job where several came at once before: well below what it costs to be alone."""

SLICE_S: Final = 0.02
"""How long the writer recounts for another electorate before it looks whether jobs wait: what these wait for it."""

TRIED_S: Final = 5.0
"""How long after a transaction failed it is tried whether the disk takes writes again, and then again and again."""

QUEUED_JOBS_MAX: Final = 4_096
"""Jobs that may wait for the writer; beyond it a write is refused with 503."""

DAMAGED_MAX: Final = 1_024
"""Stored events that are remembered as damaged; a disk that has more of them is to be replaced."""

BROWSES_WAITING_MAX: Final = 32
"""Reads of people that may wait for one another (``Database.browse``); beyond it one is refused."""

WEIGHED_PAUSE_S: Final = 0.01
WEIGHED_READS_MAX: Final = 500
"""Pause before what was read with weights that do not belong to it is read again, and how often: 5 s in all, of which a
commit takes milliseconds."""

VIEWS: Final = frozenset({"inventory", "claims", "verdicts", "placements", "peers", "event_log"})
"""The operators' views (views.sql)."""

VIEW_ROWS_MAX: Final = 10_000

_STOPPING: Final = "the database is closed: this daemon is stopping"

T = TypeVar("T")


class BrowseError(P2PNodesError):
    """Somebody's look through the inventory is refused or was given up; the message says what to do."""

    code = Code.ADMIN_NOT_NOW


class MovedError(StoreError):
    """The files that are written are not the ones that the next start would find; the message says what to do."""

    code = Code.DATA_NOT_WRITTEN


class Detail(NamedTuple):
    """GPUs of one miner.

    Attributes:
        miner: Public key.
        gpus: How many.
        idle: Model -> how many of it are idle.
        provisioned: Model, chute as the database has it (``facts.unpack_chute``), and how many GPUs it runs on.
    """

    miner: bytes
    gpus: int
    idle: dict[str, int]
    provisioned: list[tuple[str, bytes, int]]


class Commit(NamedTuple):
    """What one committed group brought.

    Attributes:
        appended: Own events, durable now, to be sent.
        new_claims: Ids of claims that became known, or count again.
        voted: Ids of claims on which verdicts came.
        changes: What the inventory's readers see otherwise; None when nothing.
        ended: Logs of whose ends more became known.
    """

    appended: tuple[Event, ...]
    new_claims: tuple[bytes, ...]
    voted: tuple[bytes, ...] = ()
    changes: Changes | None = None
    ended: tuple[LogId, ...] = ()


class Written(NamedTuple):
    """What one committed transaction took.

    Attributes:
        jobs: Jobs that shared it. A change of the electorate is none of these, and not told.
        work_s: Seconds for all before and after COMMIT: the jobs themselves, and the rows that they change.
        commit_s: Seconds for COMMIT, which waits for the disk (fsync).
    """

    jobs: int
    work_s: float
    commit_s: float


class _FileId(NamedTuple):
    """Which file it is that is at a path."""

    device: int
    inode: int


class _Job(NamedTuple):
    run: Callable[[Ledger], Any]
    future: "asyncio.Future[Any]"
    electorate: Electorate | None = None
    """What to weigh with then: the job is not run among others, but done when a recount beside them is in force."""


class Database:
    """Asynchronous front of the ledger. Make one with ``await Database.open(...)``."""

    def __init__(
        self,
        path: Path,
        network: Network,
        node_key: NodeKey | None,
        now_ms: Callable[[], int],
        checker: Checker | None = None,
    ) -> None:
        """Use ``open`` instead."""
        self.path = path
        self._network = network
        self._node_key = node_key
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = 0
        self._submitted: list[_Job] = []  # in this turn of the event loop
        self._changing: list[_Job] = []  # the writer's: those who wait for the recount
        self._files: tuple[_FileId | None, ...] = ()  # those that the writer has open
        self._thread = threading.Thread(target=self._write_loop, name="p2pnodes-writer", daemon=True)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._closed = asyncio.Event()
        self._check = SharedCheck()  # the writer's
        self._ahead = None if checker is None else Ahead(checker)
        self._facts_pool = ThreadPoolExecutor(1, thread_name_prefix="p2pnodes-reader")
        self._facts: Facts | None = None
        self._donor = Donor()  # the readers' thread's
        self._browse_pool = ThreadPoolExecutor(1, thread_name_prefix="p2pnodes-browser")
        self._browsing: Facts | None = None
        self._browses_waiting = 0
        self._reader: aiosqlite.Connection | None = None
        self._ledger: Ledger | None = None
        self.failure: str | None = None
        """Why the last transaction failed as a whole (disk full, I/O error), until something was written again."""
        self._failures = store_failures()
        self._tried_s = 0.0  # when the disk was tried last, on the clock that never goes back
        self.on_commit: Callable[[Commit], None] = _ignore
        """Called in the event loop after each commit that appended events, brought claims, votes or proofs of ends, or
        changed rows."""
        self.on_written: Callable[[Written], None] = _ignore
        """Called in the event loop after each transaction of jobs that was committed."""
        self._damaged: set[tuple[LogId, int]] = set()
        """Stored events that were found damaged and have not come again."""
        self.damaged_events = 0
        """How many were found damaged since the start."""
        self.turns = 0
        """Jobs and slices of a recount that the writer has come to since the start; it stands still while the disk, or
        one of these, keeps the writer from the next."""
        self.refused_jobs = 0
        """Jobs that were refused since the start, because QUEUED_JOBS_MAX waited."""

    @classmethod
    async def open(
        cls,
        path: Path,
        network: Network,
        node_key: NodeKey | None,
        *,
        now_ms: Callable[[], int],
        checker: Checker | None = None,
    ) -> "Database":
        """Open or create the database and start its writer.

        Args:
            path: Of the file.
            network: What it must belong to.
            node_key: Whose logs are this daemon's own; None to read alone.
            now_ms: Wall clock, Unix milliseconds.
            checker: Checks the signatures of much that peers send ahead of the writer (``store.ahead``); None for the
                writer alone.

        Raises:
            StoreError: The file cannot be opened, is of a newer schema, or belongs to another network.
        """
        database = cls(path, network, node_key, now_ms, checker)
        database._thread.start()
        try:
            await database._opened
        except asyncio.CancelledError:
            database._jobs.put(None)  # the thread ends when it has opened the file
            raise
        except BaseException:
            await database._closed.wait()  # the thread has said its last word to this loop
            raise
        try:
            uri = f"{path.resolve().as_uri()}?mode=ro"
            database._reader = await aiosqlite.connect(uri, uri=True, isolation_level=None)
            await database._reader.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        except BaseException as error:  # the process would wait at its end for a reader that nobody closes
            await database.close()
            if isinstance(error, FAILURES):
                raise _unreadable(error) from error
            raise
        return database

    async def close(self) -> None:
        """Finish what waits, checkpoint, and close every connection."""
        self._closing = True
        if self._thread.is_alive():
            self._hand_over()
            self._jobs.put(None)
            await self._closed.wait()
            self._thread.join()
        if self._ahead is not None:
            await self._ahead.close()
        self._check.close()
        if self._reader is not None:
            await self._reader.close()
        if self._facts is not None:
            await self._loop.run_in_executor(self._facts_pool, self._facts.close)
        self._facts_pool.shutdown()
        if self._browsing is not None:
            await self._loop.run_in_executor(self._browse_pool, self._browsing.close)
        self._browse_pool.shutdown()

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The ledger, whose plain attributes may be read from the event loop; its methods belong to the writer."""
        if self._ledger is None:
            raise StoreError("the database is not open", code=Code.DATA_STOPPING)
        return self._ledger

    @property
    def state(self) -> State:
        """What the last commit left."""
        return self.ledger.state

    @property
    def settled_state(self) -> State | None:
        """``state``, or None while a commit is under way, when what a reader sees may be ahead of it.

        What was read between two looks at one and the same state belongs to that state.
        """
        return self.ledger.state if self.ledger.settled else None

    @property
    def electorate(self) -> Electorate:
        """The electorate that rows are computed with."""
        return self.ledger.committed_weights.electorate

    @property
    def recounting(self) -> dict[str, int] | None:
        """How far the recount is for an electorate that is not in force yet; None while there is none.

        Its ``block``, and ``done`` of ``of``: claims that were looked at, and once more those that it can change.
        """
        recount = self.ledger.recount
        if recount is None:
            return None
        return {"block": recount.weights.electorate.block, "done": recount.done, "of": max(recount.of, recount.done)}

    @property
    def queued_jobs(self) -> int:
        """Jobs that wait for the writer or are being written."""
        return self._waiting

    def status(self) -> dict[str, Any]:
        """For ``p2pnodes status``: sizes in bytes of the file and its write-ahead log, space left, what is wrong.

        ``free_bytes`` is what an unprivileged process may still write on the file's disk, ``disk_bytes`` its size;
        both None, like a size, where the system does not say. ``damaged_events`` were found since the start, of which
        ``damaged_left`` have not come again from peers.
        """
        try:
            disk = os.statvfs(self.path)
        except OSError:  # the file is gone, or its disk is: the failure of the next write says so
            disk = None
        return {
            "bytes": _size_bytes(self.path),
            "wal_bytes": _size_bytes(self.path.with_name(f"{self.path.name}-wal")),
            "free_bytes": disk and disk.f_bavail * disk.f_frsize,
            "disk_bytes": disk and disk.f_blocks * disk.f_frsize,
            "refused_jobs": self.refused_jobs,
            "damaged_events": self.damaged_events,
            "damaged_left": len(self._damaged),
            "failure": self.failure,
        }

    # -- writing -----------------------------------------------------------------------------------------------------

    async def write(self, job: Callable[[Ledger], T]) -> T:
        """Run a job of the writer and wait until it is durable.

        Raises:
            WritesRefusedError: Too many jobs wait already.
            StoreError: The transaction failed, nothing of it happened; or the database is closed.
            P2PNodesError: What the job itself raised.
        """
        return await self._queue(job)

    async def _queue(self, job: Callable[[Ledger], T], electorate: Electorate | None = None) -> T:
        if self._closing:
            raise StoreError(_STOPPING, code=Code.DATA_STOPPING)
        if self._waiting >= QUEUED_JOBS_MAX:
            self.refused_jobs += 1
            raise WritesRefusedError(
                f"{QUEUED_JOBS_MAX} writes wait for the disk already", retry_after_s=1, code=Code.WRITES_BUSY
            )
        self._waiting += 1
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._submitted:
            self._loop.call_soon(self._hand_over)
        self._submitted.append(_Job(job, future, electorate))
        return await future  # a caller that goes away takes no job out of the queue, nor out of its bound

    def _hand_over(self) -> None:
        """Hand the writer what was submitted in one turn of the event loop.

        Were it woken by the first, it would take the interpreter from those that come behind it.
        """
        for job in self._submitted:
            self._jobs.put(job)
        self._submitted.clear()

    def foresee(self, events: Sequence[Event]) -> None:
        """Have the signatures checked of events that a peer sent and that will be stored, if there are many."""
        if self._ahead is not None and self._ahead.wants(len(events)):
            self._ahead.offer(events)

    async def receive(self, events: Sequence[Event], now_ms: int) -> list[Outcome]:
        """Store events that a peer sent."""
        async with self._checked_ahead(events) as check:
            outcomes = await self.write(lambda ledger: ledger.receive(events, now_ms, check))
        for event, _, detail, _ in outcomes:
            if detail == MENDED:
                self._damaged.discard((event.log, event.seq))
                log.warning("event_mended", log=str(event.log), seq=event.seq, code=Code.DATA_EVENT)
        return outcomes

    async def receive_proofs(self, proofs: Sequence[Evidence | Close], now_ms: int) -> None:
        """Take proofs of the ends of logs, which a peer sent; see ``Ledger.receive_proofs``."""
        await self.write(lambda ledger: ledger.receive_proofs(proofs, now_ms))

    async def consider(self, number: int, certificate: bytes) -> Answer:
        """Take a certificate that a peer sent; see ``loading.consider``."""
        return await self.write(lambda ledger: consider(ledger, number, certificate))

    async def lacking(self) -> Lack:
        """What is still missing of a live set, once all is gone that cannot stay beside it; see ``loading.lacking``."""
        await self._go_on_loading()
        return await self.write(lacking)

    async def load(self, number: int, index: int, leaves: Sequence[tuple[int, bytes]], path: Sequence[bytes]) -> Answer:
        """Take a slice of a live set that a peer sent; see ``loading.load``."""
        decoded: list[tuple[int, Event]] = []
        if self._ahead is not None and self._ahead.wants(len(leaves)):
            with suppress(MalformedError):  # whoever loads it says so
                decoded = [(mask, Event.decode(wire)) for mask, wire in leaves]
                self._ahead.offer([event for _, event in decoded])
        async with self._checked_ahead([event for _, event in decoded]) as check:
            answer = await self.write(lambda ledger: load(ledger, number, index, decoded or leaves, path, check))
        await self._go_on_loading()
        return answer

    @asynccontextmanager
    async def _checked_ahead(self, events: Sequence[Event]) -> AsyncIterator[Callable[[Sequence[Event]], None] | None]:
        """Wait for the checks of what was foreseen of some events; what the writer has to check the rest, if any."""
        if self._ahead is None or not events:
            yield self._check
            return
        async with self._ahead.settled(events) as whole:
            yield None if whole else self._check

    async def _go_on_loading(self) -> None:
        """Have go what cannot stay beside a live set, or the rows follow from one that is whole.

        Part by part: before that nothing is loaded, or nothing is served.
        """
        while self.state.leaving or self.state.loaded:
            await self.write(Ledger.cut)

    async def submit_add(
        self, request: Add, body: Body, refusal: Exception | None, *, denial: Exception | None = None
    ) -> StoredClaim:
        """Record a registration; see ``admission.admit_add``."""
        # The clock is read when the job runs: events that came in before it were held against a later one.
        return await self.write(
            lambda ledger: admission.admit_add(ledger, request, body, refusal, self._now_ms(), denial=denial)
        )

    async def submit_delete(self, request: Delete, uuid: str) -> None:
        """Record a deletion; see ``admission.admit_delete``."""
        await self.write(lambda ledger: admission.admit_delete(ledger, request, uuid, self._now_ms()))

    async def place(self, uuids: Sequence[str], chute: Chute) -> Placed:
        """Say that a chute runs on GPUs; see ``placing.place``."""
        return await self.write(lambda ledger: placing.place(ledger, uuids, chute, self._now_ms()))

    async def release(self, uuids: Sequence[str]) -> Placed:
        """Say that nothing runs on GPUs any more; see ``placing.release``."""
        return await self.write(lambda ledger: placing.release(ledger, uuids, self._now_ms()))

    async def set_electorate(self, electorate: Electorate) -> None:
        """Weigh with another electorate, and wait until it is in force.

        What it changes is computed in slices, between which other jobs are written under the electorate before; then
        everything changes in one commit. An electorate that is asked for meanwhile takes its place: whoever waits for
        this one waits for that one then.

        Raises:
            WritesRefusedError: Too many jobs wait already.
            StoreError: What is computed cannot be kept, or the commit failed: the electorate before stays in force. Or
                the database is closed.
        """
        await self._queue(lambda ledger: ledger.set_electorate(electorate), electorate)

    def _write_loop(self) -> None:
        try:
            with opening(f"cannot read the database {self.path}", CHECK) as opened:
                connection = open_writer(self.path)
                opened.append(connection)
                self._ledger = Ledger(connection, self._network, self._node_key)
                self._files = self._files_there()
        except BaseException as error:  # noqa: BLE001 - handed to the caller of open()
            self._call(_reject, self._opened, error)
            self._call(self._closed.set)
            return
        self._call(_resolve, self._opened, None)
        jobs: list[_Job] = []
        running = True
        while running:
            group, running = self._next_group(crowded=len(jobs) > 1)
            jobs = [job for job in group if job.electorate is None]
            if jobs:
                self._run_group(self._ledger, jobs)
            for job in group:
                if job.electorate is not None:
                    self._begin_change(self._ledger, job, job.electorate)
            if self._changing and running:
                self._go_on_changing(self._ledger)
            if self.failure is not None and running:
                self._try_disk(self._ledger)
        self._give_up_change(self._ledger, StoreError(_STOPPING, code=Code.DATA_STOPPING))
        try:
            connection.execute("PRAGMA busy_timeout = 0")  # a reader may hold the file for as long as it likes
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        except FAILURES as error:  # nothing is lost: what is committed stands in the write-ahead log
            log.warning("no_last_checkpoint", error=told(error), code=Code.DATA_CHECKPOINT)
        finally:
            self._call(self._closed.set)

    def _next_group(self, *, crowded: bool) -> tuple[list[_Job], bool]:
        """Wait for jobs that will share a commit; false when no more will come. None are waited for beside a recount.

        A lone writer never waits for company. Where the last commit had several jobs, the next one waits a little.
        While the disk fails nobody is waited for longer than until it is to be tried.
        """
        jobs: list[_Job] = []
        if self._changing and self._jobs.empty():
            return jobs, True
        try:
            job = self._jobs.get(timeout=None if self.failure is None else TRIED_S)
        except Empty:
            return jobs, True
        while job is not None:
            jobs.append(job)
            if len(jobs) >= GROUP_JOBS_MAX:
                return jobs, True
            # Not by a timed get: CPython's takes what is left of its time anew behind a first look, and where that is
            # less than nothing it waits for ever, with these jobs in hand.
            # Source: SimpleQueue.get in Modules/_queuemodule.c of 3.11 and 3.12.
            if crowded and self._jobs.empty():
                time.sleep(GATHER_S)
                crowded = False
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _run_group(self, ledger: Ledger, jobs: list[_Job]) -> None:
        results: list[Any] = []
        begun_s = time.perf_counter()
        try:
            with self._transaction(ledger):
                for job in jobs:
                    self.turns += 1
                    results.append(ledger.attempt(job.run))
        except BaseException as error:  # noqa: BLE001 - every job of the group is told
            self.turns += 1  # also where it failed before the first job
            # One bad job must not take its neighbours with it, be it that its temporary files found no room. But what
            # the disk did to all it would do to each, and each would wait for that, and for everything to be read anew.
            everybodys = isinstance(error, MovedError) or is_of_the_disk(error)
            if len(jobs) > 1 and not (everybodys and not self._takes_writes(ledger)):
                for job in jobs:
                    self._run_group(ledger, [job])
                return
            self._call(self._failed, jobs, self._why_failed(error))
            return
        written = Written(len(jobs), time.perf_counter() - begun_s - ledger.commit_s, ledger.commit_s)
        self._tell_commit(ledger, jobs, results, written)

    @contextmanager
    def _transaction(self, ledger: Ledger) -> Iterator[None]:
        """A transaction of the ledger that is not committed to files which the next start would not find.

        Raises:
            MovedError: They were moved, removed or replaced. SQLite goes on in them, and says nothing.
        """
        with ledger.transaction():
            yield
            if self._files_there() != self._files:
                raise MovedError(
                    f"{self.path}, or its write-ahead log, was moved, removed or replaced while this daemon runs: what "
                    "is written now would be lost; put back what was there, or restart the daemon to go on with what "
                    "is there now"
                )

    def _files_there(self) -> tuple["_FileId | None", ...]:
        """Which files the database and its write-ahead log are."""
        return tuple(map(_file_id, (self.path, self.path.with_name(f"{self.path.name}-wal"))))

    def _begin_change(self, ledger: Ledger, job: _Job, electorate: Electorate) -> None:
        """Begin to recount for an electorate, or wait with others for one that is being recounted."""
        pending = ledger.recount.weights.electorate if ledger.recount else None
        self._changing.append(job)
        if pending and (electorate.current, electorate.previous) == (pending.current, pending.previous):
            return
        try:
            # Nothing to recount: only addresses can differ, or rows do not follow yet from a live set that is loaded.
            if electorate.digest == ledger.weights.electorate.digest or ledger.state.loading:
                self._change_at_once(ledger)
            else:
                ledger.begin_recount(electorate)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self._give_up_change(ledger, self._why_failed(error))

    def _go_on_changing(self, ledger: Ledger) -> None:
        """Recount for a while; switch when that is done."""
        assert ledger.recount is not None
        self.turns += 1
        if ledger.state.loading:  # what rows are now they are no more when its live set is here
            self._change_at_once(ledger)
            return
        try:
            ledger.advance_recount(SLICE_S)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            failure = self._why_failed(error)
            if isinstance(error, FAILURES):
                failure = StoreError(
                    f"what electorate {ledger.recount.weights.electorate.block} changes cannot be kept: {told(error)}; "
                    f"check space and permissions of {TEMPORARY}",
                    code=Code.DATA_NOT_WRITTEN,
                )
            self._give_up_change(ledger, failure)
            return
        if ledger.recount.hopeless:
            self._change_at_once(ledger)
        elif ledger.recount.ready:
            self._change(ledger, Ledger.switch)

    def _change_at_once(self, ledger: Ledger) -> None:
        """Change to the latest electorate in one transaction."""
        ledger.end_recount()
        self._change(ledger, self._changing[-1].run)

    def _change(self, ledger: Ledger, change: Callable[[Ledger], None]) -> None:
        try:
            with self._transaction(ledger):
                change(ledger)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self._give_up_change(ledger, self._why_failed(error))
            return
        ledger.end_recount()
        changed, self._changing = self._changing, []
        self._tell_commit(ledger, changed, [None] * len(changed))

    def _give_up_change(self, ledger: Ledger, error: BaseException) -> None:
        """Stay with the electorate that is in force."""
        ledger.end_recount()
        given_up, self._changing = self._changing, []
        self._call(self._failed, given_up, error)

    def _why_failed(self, error: BaseException) -> BaseException:
        """Note why a transaction failed, and say what whoever waits for it is told."""
        self._note_failure(error)
        left_out = self._failures.take()
        if left_out is not None:
            log.error("transaction_failed", error=self.failure, left_out=left_out, code=Code.DATA_NOT_WRITTEN)
        if isinstance(error, FAILURES):
            advice = what_to_do(error, "; check disk space and permissions")
            return StoreError(f"the database cannot write: {told(error)}{advice}", code=Code.DATA_NOT_WRITTEN)
        return error

    def _try_disk(self, ledger: Ledger) -> None:
        """See whether the disk takes writes again, some time after it did not.

        Most jobs write nothing: they succeed on a full disk, too, and nobody may write anything for hours.
        """
        if time.monotonic() >= self._tried_s + TRIED_S:
            self._takes_writes(ledger)

    def _takes_writes(self, ledger: Ledger) -> bool:
        """Whether the disk takes a write now; the log has been told that it did not."""
        try:
            with self._transaction(ledger):
                ledger.try_disk(self._now_ms())
        except BaseException as error:  # noqa: BLE001 - noted, and tried again
            self._note_failure(error)
            return False
        self.failure = None
        return True

    def _note_failure(self, error: BaseException) -> None:
        self.failure = f"{type(error).__name__}: {error}"
        self._tried_s = time.monotonic()

    def _tell_commit(
        self, ledger: Ledger, jobs: list[_Job], results: list[Any], written: Written | None = None
    ) -> None:
        if ledger.written:
            self.failure = None
        if ledger.temporary_failure is not None:
            log.warning("temporary_file_failed", error=ledger.temporary_failure, code=Code.DATA_TEMPORARY)
        commit = Commit(
            tuple(ledger.news.take_appended()),
            tuple(ledger.news.take_new_claims()),
            tuple(ledger.news.take_voted()),
            ledger.news.take_changes(),
            tuple(ledger.news.take_ended()),
        )
        self._call(self._committed, jobs, results, commit, written)

    def _failed(self, jobs: list[_Job], error: BaseException) -> None:
        self._waiting -= len(jobs)
        for job in jobs:
            _reject(job.future, error)

    def _committed(self, jobs: list[_Job], results: list[Any], commit: Commit, written: Written | None) -> None:
        self._waiting -= len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, P2PNodesError):
                _reject(job.future, result)
            else:
                _resolve(job.future, result)
        if written is not None:
            self.on_written(written)
        if any(commit):
            self.on_commit(commit)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop has ended: nobody waits any more
            log.warning("loop_closed_before_writer", code=Code.SYSTEM_BUG)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read_log(
        self, log_id: LogId, first_seq: int, size_bytes_max: int, count_max: int = EVENTS_PER_READ
    ) -> list[bytes]:
        """Consecutive events of a log as received; see ``ledger.read_log``."""
        with self._noting_damage():
            return await self.read(
                lambda facts: read_log(facts.connection, log_id, first_seq, size_bytes_max, count_max)
            )

    async def certificate(self, number: int) -> bytes | None:
        """The certificate of a checkpoint; None where there is none."""
        return await self.read(lambda facts: read_certificate(facts.connection, number))

    async def live_slice(self, number: int, index: int) -> tuple[list[tuple[int, bytes]], list[bytes]]:
        """A slice of the live set in force with what proves it; see ``Donor.slice``."""
        with self._noting_damage():
            return await self.read(lambda facts: self._donor.slice(facts.connection, number, index))

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        """Tell the operator once of each event that is found damaged, as far as DAMAGED_MAX goes."""
        try:
            yield
        except DamagedEventError as error:
            at = error.log, error.seq
            if at not in self._damaged and len(self._damaged) < DAMAGED_MAX:
                self._damaged.add(at)
                self.damaged_events += 1
                log.error("event_damaged", log=str(error.log), seq=error.seq, code=Code.DATA_EVENT)
            raise

    async def task_status(self, miner: bytes, task: bytes) -> TaskStatus | None:
        """Status of a miner's task (the first 16 bytes of its claim id); None when unknown."""
        return await self.read_weighed(lambda facts, weights: facts.task_status(miner, task, weights))

    async def changed(
        self, uuids: Collection[str], keys: Collection[int]
    ) -> tuple[dict[str, NodeRow], dict[int, Task]]:
        """The rows of some GPUs, of those that have one, and the tasks of some claims by row key."""
        return await self.read_weighed(
            lambda facts, weights: (snapshots.rows(facts, uuids), facts.tasks(keys, weights))
        )

    async def snapshot_part(self, after: int, miner: bytes | None) -> Part:
        """The next part of the inventory; see ``snapshots.part``."""
        since_s = self._now_ms() // 1000 - self._network.verdict_ttl_s
        return await self.read_weighed(lambda facts, weights: snapshots.part(facts, after, miner, since_s, weights))

    async def owned(self, miner: bytes) -> list[tuple[int, list[str]]]:
        """The GPUs of a miner, by claim; see ``snapshots.owned``."""
        return await self.read(lambda facts: snapshots.owned(facts, miner))

    async def stored_claims(self, keys: Collection[int]) -> dict[int, StoredClaim]:
        """Some claims with all that their miners are told of them, by row key."""
        return await self.read_weighed(
            lambda facts, weights: {key: claim for key in keys if (claim := facts.stored(key, weights)) is not None}
        )

    async def find_claim(self, prefix: bytes, miner: bytes | None) -> bytes | None:
        """Id of a claim by its first 16 bytes or more; see ``Facts.find_claim``."""
        return await self.read(lambda facts: facts.find_claim(prefix, miner))

    async def explain_claim(self, claim_id: bytes) -> ClaimCase | None:
        """Why a claim is where it is; None when unknown."""
        return await self.read_weighed(lambda facts, weights: facts.explain_claim(claim_id, weights))

    async def explain_node(self, uuid: str) -> NodeCase | None:
        """Why a GPU has the row that it has; None when no claim names it, and no place of this validator."""
        own = None if self.state.own is None else self.state.logs.get(self.state.own)
        hotkey = None if own is None else own.hotkey
        return await self.read_weighed(lambda facts, weights: facts.explain_node(uuid, weights, hotkey))

    async def urls(self) -> dict[bytes, str]:
        """Hotkey -> URL of its latest delegation."""
        return await self.read(lambda facts: facts.urls())

    async def event_ids(self, log_id: LogId, seqs: Collection[int]) -> dict[int, bytes]:
        """Ids of some events of a log, by seq."""
        return await self.read(lambda facts: facts.event_ids(log_id, seqs))

    async def last_event(self, log_id: LogId, hlc_max: int) -> Head | None:
        """The last event of a log whose HLC is not above ``hlc_max``."""
        return await self.read(lambda facts: facts.last_event(log_id, hlc_max))

    async def proof(self, uuid: str) -> Proof | None:
        """A proof of the claim that owns a GPU; see ``proofs.gather``."""
        return await self.read_weighed(lambda facts, weights: proofs.gather(facts, uuid, weights))

    async def totals(self, miner: bytes | None, model: str | None) -> list[tuple[str, int, int]]:
        """GPUs by model: gpu_identifier, provisioned, idle."""
        where, values = _filter(miner, model)
        return await self._fetch(
            f"SELECT gpu_identifier, sum(provisioned), sum(idle) FROM supply{where}"  # noqa: S608 - constant texts
            " GROUP BY gpu_identifier ORDER BY gpu_identifier",
            values,
        )

    async def details(self, miner: bytes | None, model: str | None) -> list[Detail]:
        """GPUs by miner, model and chute, at one moment."""
        return await self.read(lambda facts: _details(facts.connection, miner, model))

    async def query(
        self,
        view: str,
        where: Mapping[str, str],
        limit: int,
        *,
        after: int | None = None,
        until: int | None = None,
        newest_first: bool = False,
    ) -> list[dict[str, Any]]:
        """Rows of an operators' view, as column -> value.

        Args:
            view: One of VIEWS.
            where: Column -> exact value.
            limit: Rows at most, itself at most VIEW_ROWS_MAX.
            after: For ``event_log``: only events behind this position.
            until: For ``event_log``: only events up to this position.
            newest_first: For ``event_log``: from the newest back, not from the oldest on.

        Raises:
            ValueError: An unknown view or column.
        """
        if view not in VIEWS:
            raise ValueError(f"no view {view!r}: there are {', '.join(sorted(VIEWS))}")
        columns = [column for (column,) in await self._fetch("SELECT name FROM pragma_table_info(?)", (view,))]
        if unknown := where.keys() - set(columns):
            raise ValueError(f"{view} has no column {min(unknown)!r}: there are {', '.join(columns)}")
        if view == "inventory" and "uuid" in where:
            where = {**where, "bucket": str(bucket_of(where["uuid"]))}  # the other half of the row's key
        conditions = [f"{column} = ?" for column in where]
        values: list[Any] = list(where.values())
        if view == "event_log":
            bounds = {"position > ?": after, "position <= ?": until}
            conditions += [condition for condition, position in bounds.items() if position is not None]
            values += [position for position in bounds.values() if position is not None]
        clause = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        order = f" ORDER BY position{' DESC' if newest_first else ''}" if view == "event_log" else ""
        rows = await self._fetch(
            f"SELECT * FROM {view}{clause}{order} LIMIT ?",  # noqa: S608 - names checked above
            (*values, min(limit, VIEW_ROWS_MAX)),
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    async def _fetch(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        if self._reader is None:
            raise StoreError("the database is not open", code=Code.DATA_STOPPING)
        try:
            return list(await self._reader.execute_fetchall(query, values))
        except FAILURES as error:
            raise _unreadable(error) from error

    async def read(self, function: Callable[[Facts], T]) -> T:
        """Run a function on one state of the database, in the readers' thread; it must not write.

        Raises:
            StoreError: The database cannot be read.
        """
        return await self._loop.run_in_executor(self._facts_pool, self._run_read, function)

    async def browse(self, function: Callable[[Facts], T]) -> T:
        """Run a function as ``read`` does, in a thread of its own: one that takes long keeps no other reader waiting.

        Raises:
            BrowseError: It took over BROWSE_S_MAX, or too many wait already.
            StoreError: The database cannot be read.
        """
        if self._browses_waiting >= BROWSES_WAITING_MAX:
            raise BrowseError(f"{BROWSES_WAITING_MAX} others look through the inventory already: try again")
        self._browses_waiting += 1
        try:
            return await self._loop.run_in_executor(self._browse_pool, self._run_browse, function)
        finally:
            self._browses_waiting -= 1

    def _run_browse(self, function: Callable[[Facts], T]) -> T:
        deadline_s = time.monotonic() + BROWSE_S_MAX
        try:
            if self._browsing is None:
                self._browsing = Facts(open_reader(self.path))
            self._browsing.connection.set_progress_handler(lambda: time.monotonic() > deadline_s, BROWSE_STEPS)
            with self._browsing.snapshot():
                return function(self._browsing)
        except FAILURES as error:
            if time.monotonic() > deadline_s:
                raise BrowseError(
                    f"this look through the inventory took over {BROWSE_S_MAX:g} s and was given up: filter for less"
                ) from error
            raise _unreadable(error) from error

    async def read_weighed(self, function: Callable[[Facts, Weights], T]) -> T:
        """Run a function as ``read`` does, with the weights that belong to what it reads.

        What others' weights make of it may be what never was; a follower would not be told that it is not.

        Raises:
            StoreError: The database cannot be read, or a commit that changes the weights takes too long.
        """
        return await self.weighed(lambda weights: self.read(lambda facts: function(facts, weights)))

    async def weighed(self, read: Callable[[Weights], Awaitable[T]]) -> T:
        """Read with the weights that belong to what is read, again where a commit changes them meanwhile.

        Raises:
            StoreError: See ``read_weighed``.
        """
        for _ in range(WEIGHED_READS_MAX):
            weights = self.ledger.committed_weights
            found = await read(weights)
            # Either no transaction has touched them since, or none that did is being committed, or is.
            if self.ledger.weights is weights or (self.ledger.settled and self.ledger.committed_weights is weights):
                return found
            await asyncio.sleep(WEIGHED_PAUSE_S)
        raise StoreError(
            "the database cannot be read: a commit does not come to its end; check the disk", code=Code.DATA_UNREADABLE
        )

    def _run_read(self, function: Callable[[Facts], T]) -> T:
        try:
            if self._facts is None:
                self._facts = Facts(open_reader(self.path))
            with self._facts.snapshot():
                return function(self._facts)
        except FAILURES as error:
            raise _unreadable(error) from error


def _unreadable(error: BaseException) -> StoreError:
    return StoreError(
        f"the database cannot be read: {told(error)}; check the disk and the file's permissions",
        code=Code.DATA_UNREADABLE,
    )


def _details(connection: sqlite3.Connection, miner: bytes | None, model: str | None) -> list[Detail]:
    where, values = _filter(miner, model)
    gpus: Counter[bytes] = Counter()
    idle: dict[bytes, dict[str, int]] = {}
    provisioned: dict[bytes, list[tuple[str, bytes, int]]] = {}
    for owner, gpu_identifier, busy, free in connection.execute(
        f"SELECT miner, gpu_identifier, provisioned, idle FROM supply{where}",  # noqa: S608 - constant texts
        values,
    ):
        gpus[owner] += busy + free
        if free:
            idle.setdefault(owner, {})[gpu_identifier] = free
    # One row for each miner: a thread lets go of the interpreter for each row that it reads, and waits for it again.
    for owner, tenancy in connection.execute(
        "SELECT miner, json_group_array(json_array(gpu_identifier, hex(chute), gpus))"  # noqa: S608 - constant texts
        f" FROM tenancy{where} GROUP BY miner",
        values,
    ):
        provisioned[owner] = [(name, bytes.fromhex(chute), count) for name, chute, count in orjson.loads(tenancy)]
    return [Detail(owner, count, idle.get(owner, {}), provisioned.get(owner, [])) for owner, count in gpus.items()]


def _filter(miner: bytes | None, model: str | None) -> tuple[str, list[Any]]:
    conditions = {"miner = ?": miner, "gpu_identifier = ?": model}
    used = {condition: value for condition, value in conditions.items() if value is not None}
    return (f" WHERE {' AND '.join(used)}" if used else ""), list(used.values())


def _ignore(_: object) -> None:
    """Nobody listens yet."""


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # without a write-ahead log there is no file of it
        return None


def _file_id(path: Path) -> _FileId | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _FileId(status.st_dev, status.st_ino)


def _resolve(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():  # a caller that went away does not undo its write
        future.set_result(result)


def _reject(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
