"""A server process for the benchmarks: the public interface over a real database, or a bare handler of fixed bytes.

    python -m tests.bench.server inventory DATABASE [CHANGES_PER_S]
    python -m tests.bench.server bare FILE [STATUS]

Prints its port. Then it answers each line that it is told with a line: ``change`` makes a change and waits until it is
durable, ``report`` is answered with what the process has done (``Report``). With CHANGES_PER_S it makes as many by
itself all the time. It ends when its standard input does, so that it never outlives the benchmark.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.settings import ApiSettings
from p2pnodes.api.stream import EVENTS_KEY
from p2pnodes.daemon import settle_memory
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.database import Database, Written
from tests.bench.world import NODE_SEED, changes, given, now_ms, renew
from tests.support import NETWORK


class Report(NamedTuple):
    """What a server has done since it began.

    Attributes:
        commits: Transactions, each of which waited once for the disk (``fdatasync`` of the write-ahead log).
        jobs: Writes that shared them.
        cpu_s: Seconds of processor time.
    """

    commits: int
    jobs: int
    cpu_s: float


class Served:
    """A server process, as the benchmark sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.port = int(self._answer())

    def change(self) -> None:
        """Let it make a change; durable when this returns."""
        self._tell("change")

    def report(self) -> Report:
        """What it has done."""
        return Report(*json.loads(self._tell("report")))

    def _tell(self, what: str) -> str:
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a server of the benchmark ended before its time; see above")
        return line


@contextmanager
def served(kind: str, path: Path, *options: float) -> Iterator[Served]:
    """A server process; the arguments are its own."""
    command = [sys.executable, "-m", "tests.bench.server", kind, str(path), *map(str, options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        try:
            yield Served(process)
        finally:
            process.stdin.close()
            process.wait(30)


def bare(path: Path, status: int) -> web.Application:
    """One route that reads what comes and answers the same bytes each time, with nothing around it."""
    content = path.read_bytes()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=content, content_type="application/json")

    app = web.Application()
    app.router.add_get("/nodes/", answer)
    app.router.add_post("/nodes/", answer)
    return app


class _Inventory:
    """A database whose only validator writes, and what is written."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.commits = self.jobs = 0
        self._changes = changes()
        database.on_written = self._written

    def _written(self, written: Written) -> None:
        self.commits += 1
        self.jobs += written.jobs

    async def change(self) -> None:
        payload = next(self._changes)
        await self.database.write(lambda ledger: ledger.append(partial(given, payload), now_ms()))

    async def go_on_changing(self, per_s: float) -> None:
        """Make a change at even distances, until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            due_s += 1 / per_s
            await asyncio.sleep(due_s - loop.time())
            await self.change()


async def serve(kind: str, path: Path, option: float | None) -> None:
    """Serve until standard input ends."""
    inventory: _Inventory | None = None
    changing: asyncio.Task[None] | None = None
    if kind == "inventory":
        database = await Database.open(path, NETWORK, NodeKey.from_seed(NODE_SEED), now_ms=now_ms)
        database.ledger.writes_refused = None
        await database.write(renew)
        inventory = _Inventory(database)
        settings = ApiSettings(
            allow_private_hosts=True,
            hotkey_rate=1e6, hotkey_burst=10**7, address_rate=1e6, address_burst=10**7,
        )  # fmt: skip
        app = create_app(database, NETWORK, settings, now=time.time, readiness=list, gossip=None)
        database.on_commit = app[EVENTS_KEY].committed
        runner = make_runner(app, shutdown_timeout_s=1)
        if option:
            changing = asyncio.create_task(inventory.go_on_changing(option))
    else:
        runner = web.AppRunner(bare(path, 200 if option is None else int(option)), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settle_memory()
    print(runner.addresses[0][1], flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if changing is not None and changing.done():
            raise SystemExit(f"a server of kind {kind} changes nothing any more")
        if line.strip() == "change":
            if inventory is None:
                raise SystemExit(f"a server of kind {kind} cannot change")
            await inventory.change()
        done = (0, 0) if inventory is None else (inventory.commits, inventory.jobs)
        print(json.dumps(Report(*done, time.process_time())), flush=True)
    if changing is not None:
        changing.cancel()
    await runner.cleanup()
    if inventory is not None:
        await inventory.database.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]) if sys.argv[3:] else None))
