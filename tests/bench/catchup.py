"""``python -m tests.bench catchup``: a daemon without anything catches up with a long log while live events flow.

Three processes with real databases (synchronous=FULL) and drivers on loopback sockets. OLD and OTHER hold a log of N
events, verdicts of some 430 bytes; OLD writes live events all the time. NEW begins with an empty database and dials
OLD. Measured are

- events per second that NEW takes in, against a bare ledger that is handed the same events in commits of 256;
- memory of OLD and of NEW while NEW catches up, against their own before: the most of resident sizes, looked at every
  50 ms. Of what NEW grows by, up to 64 MiB are SQLite's page cache, whoever writes (store/schema). A longer log shows
  that the rest does not grow with what there is to catch up with;
- the time from a live event's commit at OLD to its commit at NEW, and at OTHER, which is there to show that serving
  NEW delays nobody else; against OLD to OTHER before NEW came.

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from p2pnodes.model.events import Event, LogId, Verdict
from p2pnodes.process import MALLOC_ARENAS
from p2pnodes.store.checking import CheckerProcess
from p2pnodes.store.database import Commit
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.parts import batched
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Outcome, Result
from tests.bench.measure import progress, share
from tests.gossip.daemons import Node, now_ms
from tests.support import NETWORK, NOW_MS, Author, electorate, hotkey

OLD, OTHER, NEW, HISTORY = "//validator0", "//validator1", "//validator2", "//validator3"
STAKES: Final = dict.fromkeys((OLD, OTHER, NEW, HISTORY), 100)

EVENTS: Final = 100_000
LIVE_PER_S: Final = 20.0
CALM_S: Final = 15.0
"""Length of the measurement before NEW comes."""

SAMPLE_S: Final = 0.05
COMMIT_EVENTS: Final = 256
FLOOR_EVENTS: Final = 10_000
"""Of the history, for the bare ledger."""

START_S_MAX: Final = 60.0
CATCHUP_S_MAX: Final = 3_600.0


def rss_bytes(pid: int | None = None) -> int:
    """Resident size of a process; None for this one."""
    return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Daemon:
    """One of the three, in a process of its own: does what it is told, line by line, and answers each with a line."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.node = Node(directory, uri, who=electorate(stakes=STAKES), checker=CheckerProcess())
        self.live = LogId(Author(OLD).node_key.public_key, 0)
        self.seen: dict[int, float] = {}
        """Seq of a live event -> when it was committed here."""
        self.peak = 0

    async def run(self) -> None:
        """Serve until the input ends."""
        await self.node.start()
        self._watch()
        print(json.dumps({"port": self.node.port}), flush=True)
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(self._sample())}
        while line := await asyncio.to_thread(sys.stdin.readline):
            said = json.loads(line)
            match said["do"]:
                case "dial":
                    self.node.know({hotkey(uri).public_key: url for uri, url in said["urls"].items()})
                case "write":
                    tasks.add(loop.create_task(self._write(said["per_s"])))
                case "reset":
                    self.seen.clear()
                    gc.collect()
                    self.peak = rss_bytes()
            state = self.node.database.state
            history = state.logs.get(LogId(Author(HISTORY).node_key.public_key, 0))
            answer = {
                "events": -1 if history is None else history.head.seq,
                "peers": len(self.node.sessions),
                "stored": state.events,
                "rss": rss_bytes(),
                "peak": self.peak,
                "seen": self.seen if said["do"] == "report" else {},
            }
            print(json.dumps(answer), flush=True)
        for task in tasks:
            task.cancel()
        await self.node.stop()

    def _watch(self) -> None:
        """Note what is stored of the live log with its time."""
        database, receive, committed = self.node.database, self.node.database.receive, self.node._committed

        async def noting(events: Sequence[Event], now_ms: int) -> list[Outcome]:
            self.node.outcomes.clear()  # the node keeps them for tests
            outcomes = await receive(events, now_ms)
            self._note([outcome.event for outcome in outcomes if outcome.result is Result.STORED])
            return outcomes

        def noting_own(commit: Commit) -> None:
            self._note(commit.appended)
            committed(commit)

        database.receive = noting  # type: ignore[method-assign]
        database.on_commit = noting_own

    def _note(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        for event in events:
            if event.log == self.live:
                self.seen[event.seq] = now

    async def _write(self, per_s: float) -> None:
        due = time.monotonic()
        for number in range(1 << 40):
            verdict = Verdict(number.to_bytes(32, "big"), "abstain", "bench", "", None)
            await self.node.database.write(partial(_append, verdict))
            due += 1 / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, rss_bytes())
            await asyncio.sleep(SAMPLE_S)


def _append(verdict: Verdict, ledger: Ledger) -> Event:
    return ledger.append(lambda _: verdict, now_ms())


class Child:
    """A daemon's process, seen from the one that measures."""

    def __init__(self, process: asyncio.subprocess.Process, uri: str) -> None:
        self._process = process
        self.uri = uri
        self.url = ""

    @classmethod
    async def start(cls, running: AsyncExitStack, directory: Path, uri: str) -> "Child":
        """Start one on the database that lies in ``directory``, if there is one; it ends with ``running``."""
        command = [sys.executable, "-m", "tests.bench.catchup", str(directory), uri]
        pipe = asyncio.subprocess.PIPE
        environment = {"MALLOC_ARENA_MAX": MALLOC_ARENAS, **os.environ}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, env=environment, limit=1 << 26
        )
        child = cls(process, uri)
        running.push_async_callback(child.stop)
        child.url = f"http://127.0.0.1:{(await child._answer())['port']}"
        return child

    async def do(self, what: str, **said: Any) -> dict[str, Any]:
        """Tell it to do something; how it stands."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **said}).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S_MAX):
            line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"catchup: the daemon of {self.uri} has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    async def stop(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


def write_history(paths: Sequence[Path], count: int) -> list[bytes]:
    """Put a log of so many events into databases; the first FLOOR_EVENTS of them."""
    ledgers = [Ledger(open_writer(path), NETWORK) for path in paths]
    author = Author(HISTORY)
    author.delegate()
    first: list[bytes] = []
    for part in batched(range(1, count + 1), 1_024):
        for ledger in ledgers:
            with ledger.transaction():
                ledger.receive(author.events, NOW_MS + 60_000)
        first += [event.wire for event in author.events][: max(0, FLOOR_EVENTS - len(first))]
        author.events.clear()
        for number in part:
            if number < count:
                author.verdict(number.to_bytes(32, "big"), "failed")
        progress(f"catchup: {part[-1]:,} of {count:,} events written")
    for ledger in ledgers:
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS + 60_000)
        ledger.facts.close()
    return first


def floor(wires: Sequence[bytes], path: Path) -> float:
    """Events per second of a bare ledger that is handed them in commits of COMMIT_EVENTS."""
    ledger = Ledger(open_writer(path), NETWORK)
    with ledger.transaction():
        ledger.set_electorate(electorate(stakes=STAKES))
    begin = time.perf_counter()
    for part in batched(wires, COMMIT_EVENTS):
        with ledger.transaction():
            ledger.receive([Event.decode(wire) for wire in part], NOW_MS + 60_000)
    return len(wires) / (time.perf_counter() - begin)


def delays(written: dict[str, float], seen: dict[str, float]) -> list[float]:
    """Seconds that live events took to come to where they were seen, since the first one was seen there."""
    begin = min(seen.values(), default=0.0)
    return [seen[seq] - at for seq, at in written.items() if seq in seen and at >= begin]


async def measure(directory: Path, count: int, per_s: float) -> dict[str, Any]:
    """Run all three; what was found."""
    async with AsyncExitStack() as running:  # so that nobody's enrolment has all votes counted anew later
        old, other, new = children = [await Child.start(running, directory, uri) for uri in (OLD, OTHER, NEW)]
        for child in (other, new):
            await child.do("dial", urls={OLD: old.url})
        for child in children:
            await _until(child, lambda said: said["stored"] == len(children), START_S_MAX)
    wires = write_history([directory / f"{uri.strip('/')}.db" for uri in (OLD, OTHER)], count)
    bare = floor(wires, directory / "floor.db")
    async with AsyncExitStack() as running:
        old, other, new = children = [await Child.start(running, directory, uri) for uri in (OLD, OTHER, NEW)]
        await other.do("dial", urls={OLD: old.url})
        await old.do("write", per_s=per_s)
        await _until(other, lambda said: said["peers"] == 1, START_S_MAX)
        await asyncio.sleep(2.0)
        for child in children:
            await child.do("reset")
        await asyncio.sleep(CALM_S)
        calm = await _reports(children)
        for child in children:
            await child.do("reset")
        begin = time.perf_counter()
        await new.do("dial", urls={OLD: old.url})
        await _until(new, lambda said: said["events"] == count - 1, CATCHUP_S_MAX, count)
        seconds = time.perf_counter() - begin
        busy = await _reports(children)
    written = busy[0]["seen"]
    return {
        "events": count,
        "seconds": seconds,
        "events_per_s": count / seconds,
        "bare_ledger_per_s": bare,
        "live": len(delays(written, busy[1]["seen"])),
        "rss_before": {child.uri: said["peak"] for child, said in zip(children, calm, strict=True)},
        "rss_peak": {child.uri: said["peak"] for child, said in zip(children, busy, strict=True)},
        "calm_to_other_s": _spread(delays(calm[0]["seen"], calm[1]["seen"])),
        "busy_to_other_s": _spread(delays(written, busy[1]["seen"])),
        "busy_to_new_s": _spread(delays(written, busy[2]["seen"])),
    }


async def _reports(children: Sequence[Child]) -> list[dict[str, Any]]:
    return [await child.do("report") for child in children]


async def _until(child: Child, condition: Any, deadline_s: float, count: int = 0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition(said := await child.do("look")):
            if count:
                progress(f"catchup: {said['events'] + 1:,} of {count:,} events")
            await asyncio.sleep(0.1)


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"p50": share(seconds, 0.5), "p99": share(seconds, 0.99), "max": max(seconds)} if seconds else {}


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench catchup", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS, help="length of the log (%(default)s)")
    parser.add_argument("--live", type=float, default=LIVE_PER_S, help="live events a second (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
        found = asyncio.run(measure(Path(directory), arguments.events, arguments.live))
    progress("")
    if arguments.json:
        print(json.dumps(found))
        return 0
    ratio = found["events_per_s"] / found["bare_ledger_per_s"]
    print(f"{found['events']:,} events caught up in {found['seconds']:.1f} s, {found['live']:,} live events meanwhile")
    print(
        f"    {found['events_per_s']:,.0f} events/s against {found['bare_ledger_per_s']:,.0f}/s of a bare ledger:"
        f" ratio {ratio:.2f}"
    )
    for name, uri in (("OLD", OLD), ("NEW", NEW)):
        before, peak = found["rss_before"][uri], found["rss_peak"][uri]
        grown = (peak - before) / (1 << 20)
        print(f"    {name}: {before / (1 << 20):.0f} MiB before, at most {peak / (1 << 20):.0f} MiB: {grown:+.0f} MiB")
    calm = found["calm_to_other_s"]
    for name, spread in (("OTHER", found["busy_to_other_s"]), ("NEW", found["busy_to_new_s"])):
        print(
            f"    live events to {name}: p50 {spread['p50'] * 1000:.0f} ms, p99 {spread['p99'] * 1000:.0f} ms,"
            f" against {calm['p50'] * 1000:.0f} and {calm['p99'] * 1000:.0f} ms to OTHER before:"
            f" ratio of p99 {spread['p99'] / calm['p99']:.1f}"
        )
    return 0


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # stdout is for answers
    asyncio.run(Daemon(Path(sys.argv[1]), sys.argv[2]).run())
