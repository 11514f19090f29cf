"""The process that checks signatures: it answers for what it has checked, and each of its deaths costs one line."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from p2pnodes import children
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.events import Carry, Event
from p2pnodes.model.keys import verify_node, verify_sr25519
from p2pnodes.store import ahead, checking
from p2pnodes.store.checker import (
    ANSWER_BYTES_MAX,
    BATCH_BYTES_MAX,
    LENGTH_BYTES,
    MEMORY_BYTES_MAX,
    Answer,
    answer,
    pack_batch,
    serve,
    unpack_batch,
)
from p2pnodes.store.checking import CheckerError, CheckerProcess
from p2pnodes.store.database import Database
from p2pnodes.store.state import Result
from tests.e2e.waiting import alive, until_dead
from tests.replying import replying
from tests.support import NETWORK, NOW_MS, Author, add, delete, electorate

RESIDENT_MB_MAX: Final = 30.0
"""What the process may take while it works."""


def events() -> list[Event]:
    """One of each kind that holds requests, and some that don't."""
    author, other = Author("//validator1"), Author("//validator2")
    author.delegate()
    other.delegate()
    added = other.add(add("//miner0", ["a" * 32]))
    deleted = other.delete(delete("//miner0", "nodes:" + "a" * 32), "a" * 32)
    author.verdict(bytes(32))
    author.write(Carry((added.wire, deleted.wire)))
    return [*author.events, *other.events]


def many(count: int) -> list[Event]:
    """The first events of a log."""
    author = Author("//validator1")
    author.delegate()
    for _ in range(count - 1):
        author.verdict(bytes(32))
    return author.events


def forged(event: Event) -> bytes:
    """An event that its log did not sign, as it is sent."""
    return event.wire.replace(event.signature, bytes(64))


@pytest.fixture
async def process() -> AsyncIterator[CheckerProcess]:
    """The real one."""
    process = CheckerProcess()
    yield process
    await process.end()


class TestAnswer:
    """What it says holds, it has checked."""

    def test_everything_that_an_event_names_is_checked(self) -> None:
        found = answer([event.wire for event in events()])
        assert found.whole
        assert len(found.ids) == 6 + 2 + 4  # envelopes, requests, and both again of what is carried

    def test_an_event_that_its_log_did_not_sign_ends_a_batch(self) -> None:
        first, second, third = many(3)
        assert answer([first.wire, forged(second), third.wire]) == Answer(False, [check.id for check in first.checks()])

    def test_a_request_that_its_miner_did_not_sign_is_left_out(self) -> None:
        author = Author("//validator1")
        request = add("//miner0", ["a" * 32])
        event = author.add(request._replace(signature=bytes(64)))
        after = author.verdict(bytes(32))
        own, _ = event.checks()
        assert answer([event.wire, after.wire]) == Answer(False, [own.id, *(check.id for check in after.checks())])

    def test_frames_survive(self) -> None:
        wires = [event.wire for event in events()]
        assert unpack_batch(pack_batch(wires)[LENGTH_BYTES:]) == wires
        found = answer(wires)
        assert Answer.unpack(found.pack()[LENGTH_BYTES:]) == found

    @pytest.mark.parametrize("data", [b"", b"\x02", b"\x01\x00", bytes(32), bytes(34)])
    def test_anything_else_is_no_answer(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            Answer.unpack(data)

    @pytest.mark.parametrize("rest", [b"", b"\x00", (BATCH_BYTES_MAX + 1).to_bytes(4, "big") + b"x", b"\0\0\0\x09abc"])
    def test_it_ends_with_its_input_or_with_what_is_no_batch(self, rest: bytes) -> None:
        wires = [event.wire for event in events()]
        answers = BytesIO()
        serve(BytesIO(pack_batch(wires) + rest), answers)
        assert answers.getvalue() == answer(wires).pack()

    def test_the_largest_batch_has_an_answer_within_its_bound(self) -> None:
        smallest = min(len(event.wire) for event in events())
        assert BATCH_BYTES_MAX // smallest * 2 * 32 < ANSWER_BYTES_MAX


class TestProcess:
    """Started for a batch, it answers several in order, and has of the daemon what it needs alone."""

    async def test_it_answers_as_this_process_would(self, process: CheckerProcess) -> None:
        batches = [[event.wire for event in events()], [forged(many(1)[0])], [], [event.wire for event in many(300)]]
        found = await asyncio.gather(*map(process.check, batches))
        assert found == [answer(batch) for batch in batches]

    async def test_one_serves_all_batches(self, process: CheckerProcess) -> None:
        assert process.pid is None
        await process.check([])
        first = process.pid
        await asyncio.gather(*(process.check([event.wire for event in many(64)]) for _ in range(20)))
        assert process.pid == first

    async def test_it_is_small(self, process: CheckerProcess) -> None:
        batch = [event.wire for event in many(512)]
        for _ in range(8):
            await asyncio.gather(*(process.check(batch) for _ in range(8)))
        status = Path(f"/proc/{process.pid}/status").read_text()
        (peak_kb,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        assert peak_kb / 1024 < RESIDENT_MB_MAX
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert f"{MEMORY_BYTES_MAX}" in limits

    async def test_it_gets_no_open_file_and_no_variable_of_the_daemons(
        self, process: CheckerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("P2PNODES_SECRET", "x")
        reading, writing = os.pipe()
        await process.check([])
        files = [str(each.readlink()) for each in Path(f"/proc/{process.pid}/fd").iterdir()]
        os.close(reading)
        os.close(writing)
        assert all(name.startswith(("pipe:", "/dev/null", "socket:")) for name in files)
        assert len(files) <= 4  # both ends that it talks on, one of them twice, and where errors go
        assert b"P2PNODES_SECRET" not in Path(f"/proc/{process.pid}/environ").read_bytes()

    async def test_it_ends_when_it_is_told_to_and_the_next_batch_starts_another(self, process: CheckerProcess) -> None:
        await process.check([])
        first = process.pid
        assert first is not None
        await process.end()
        assert not alive(first)
        await process.check([])
        assert process.pid not in {None, first}

    async def test_what_tells_all_processes_of_a_service_to_stop_leaves_it_to_its_daemon(
        self, process: CheckerProcess
    ) -> None:
        await process.check([])
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        batch = [event.wire for event in events()]
        assert await process.check(batch) == answer(batch)

    async def test_it_does_not_outlive_a_daemon_that_is_killed(self) -> None:
        daemon = """
            import asyncio
            from p2pnodes.store.checking import CheckerProcess

            async def main():
                process = CheckerProcess()
                await process.check([])
                print(process.pid, flush=True)
                await asyncio.sleep(60)

            asyncio.run(main())
        """
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(daemon)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(await asyncio.to_thread(parent.stdout.readline))
            assert alive(pid)
            parent.kill()
        await until_dead(pid)


class TestDeath:
    """However it dies, whoever waits hears why; nothing that it has not said is taken for an answer."""

    @pytest.mark.parametrize(
        ("command", "why"),
        [
            (["/nowhere/python"], "it cannot be started: No such file or directory"),
            (replying("b''", "sys.exit(3)"), r"it died \(exit status 3\)"),
            (replying("b'\\x00\\x00\\x00\\x02'", "sys.exit(0)"), r"it died \(exit status 0\)"),
            (replying("b'\\x00\\x00\\x00\\x02\\x01\\x01'"), "it answered with garbage"),
            (replying("b'\\xff' * 8"), "it answered with garbage"),
        ],
    )
    async def test_each_fault_is_a_reason(self, command: Sequence[str], why: str) -> None:
        process = CheckerProcess(command)
        for _ in range(2):
            with pytest.raises(CheckerError, match=why):
                await process.check([many(1)[0].wire])
        await process.end()

    async def test_one_that_says_more_than_it_was_asked_is_killed(self) -> None:
        process = CheckerProcess(replying("b'\\x00\\x00\\x00\\x01\\x01' * 2"))
        assert await process.check([]) == Answer(True, [])
        async with asyncio.timeout(20):
            while process.pid is not None:
                await asyncio.sleep(0.01)
        await process.end()

    async def test_one_that_hangs_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "ANSWER_S_MAX", 1.0)
        process = CheckerProcess(replying("b''"))
        begun = [asyncio.create_task(process.check([])) for _ in range(3)]
        found = await asyncio.gather(*begun, return_exceptions=True)
        assert all(isinstance(each, CheckerError) and "no answer within 1 s" in str(each) for each in found)
        assert process.pid is None
        await process.end()

    async def test_a_late_answer_is_nobodys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "ANSWER_S_MAX", 0.5)
        process = CheckerProcess(replying("b''"))
        with pytest.raises(CheckerError):
            await process.check([many(1)[0].wire])
        process._command = checking.COMMAND
        monkeypatch.setattr(checking, "ANSWER_S_MAX", 20.0)
        wires = [event.wire for event in many(10)]
        assert await process.check(wires) == answer(wires)
        await process.end()

    async def test_none_is_started_beside_one_that_is_dying(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dying, seen = asyncio.Event(), asyncio.Event()
        ended, start = children.ended, children.start
        started: list[Sequence[str]] = []

        async def starting(command: Sequence[str], *, limit: int) -> asyncio.subprocess.Process:
            started.append(command)
            return await start(command, limit=limit)

        async def slowly(process: asyncio.subprocess.Process, seconds: float) -> int:
            dying.set()
            await seen.wait()
            return await ended(process, seconds)

        monkeypatch.setattr(children, "ended", slowly)
        monkeypatch.setattr(children, "start", starting)
        process = CheckerProcess(replying("b''", "sys.exit(3)"))
        first = asyncio.create_task(process.check([]))
        await dying.wait()
        assert process.pid is None
        second = asyncio.create_task(process.check([]))
        await asyncio.sleep(0.01)
        assert len(started) == 1
        assert not second.done()
        seen.set()
        for asking in (first, second):
            with pytest.raises(CheckerError, match=r"it died \(exit status 3\)"):
                await asking
        await process.end()

    async def test_one_that_does_not_end_by_itself_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "END_S_MAX", 0.1)
        process = CheckerProcess(replying("b'\\x00\\x00\\x00\\x01\\x01'", "time.sleep(60)"))
        await process.check([])
        pid = process.pid
        assert pid is not None
        await process.end()
        assert not alive(pid)

    async def test_one_that_is_being_started_is_ended_as_well(self) -> None:
        process = CheckerProcess()
        asking = asyncio.create_task(process.check([event.wire for event in many(10)]))
        await asyncio.sleep(0)
        await process.end()
        with pytest.raises(CheckerError, match="it was ended"):
            await asking
        assert process.pid is None

    async def test_who_waits_when_it_is_ended_hears_so(self) -> None:
        process = CheckerProcess(replying("b''"))
        waiting = asyncio.create_task(process.check([]))
        async with asyncio.timeout(20):
            while process.pid is None:
                await asyncio.sleep(0.01)
        await process.end()
        with pytest.raises(CheckerError, match="it was ended"):
            await waiting


class TestEndToEnd:
    """A database that much comes into, with the real process beside it."""

    @pytest.mark.parametrize("fate", [None, signal.SIGKILL, signal.SIGSTOP])
    async def test_everything_is_stored_whatever_becomes_of_it(
        self, fate: signal.Signals | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ahead, "cores", lambda: 2)
        if fate is signal.SIGSTOP:
            monkeypatch.setattr(checking, "ANSWER_S_MAX", 2.0)
        process = CheckerProcess()
        database = await Database.open(tmp_path / "p.db", NETWORK, None, now_ms=lambda: NOW_MS, checker=process)
        await database.set_electorate(electorate())
        came, outcomes, pids = many(4_000), [], set[int | None]()
        parts = [came[first : first + 100] for first in range(0, len(came), 100)]
        verify_node.cache_clear()
        verify_sr25519.cache_clear()
        with capture_logs() as logs:
            for number, part in enumerate(parts):
                for next_part in parts[number : number + 4]:
                    database.foresee(next_part)
                if number == len(parts) // 2 and fate is not None:
                    assert process.pid is not None
                    os.kill(process.pid, fate)
                outcomes += await database.receive(part, NOW_MS)
                pids.add(process.pid)
        assert database._ahead is not None
        assert database._ahead._checked > (2_000 if fate is None else 64)
        await database.close()
        assert [outcome.event.seq for outcome in outcomes] == list(range(len(came)))
        assert {(outcome.result, outcome.detail) for outcome in outcomes} == {(Result.STORED, "")}
        failures: list[Any] = [line for line in logs if line["event"] == "signature_checker_failed"]
        assert len(failures) == (0 if fate is None else 1)
        assert len(pids - {None}) == 1  # it is not started again and again
        for pid in pids - {None}:
            assert pid is not None
            await until_dead(pid)
