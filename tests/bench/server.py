"""A server process for the benchmarks: the public interface over a real database, or a bare handler of fixed bytes.

    python -m tests.bench.server inventory DATABASE
    python -m tests.bench.server bare FILE

Prints its port; ends when its standard input does, so that it never outlives the benchmark.
"""

import asyncio
import sys
import time
from pathlib import Path

from aiohttp import web

from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.database import Database
from tests.bench.world import NODE_SEED
from tests.support import NETWORK


def bare(path: Path) -> web.Application:
    """One route that answers the same bytes each time, with nothing around it."""
    content = path.read_bytes()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type="application/json")

    app = web.Application()
    app.router.add_get("/nodes/", answer)
    return app


async def serve(kind: str, path: Path) -> None:
    """Serve until standard input ends."""
    database: Database | None = None
    if kind == "inventory":
        database = await Database.open(
            path, NETWORK, NodeKey.from_seed(NODE_SEED), now_ms=lambda: time.time_ns() // 1_000_000
        )
        database.ledger.writes_refused = None
        settings = ApiSettings(
            allow_private_hosts=True,
            hotkey_rate=1e6, hotkey_burst=10**7, address_rate=1e6, address_burst=10**7,
        )  # fmt: skip
        app = create_app(database, NETWORK, settings, now=time.time, readiness=list, gossip=None)
        runner = make_runner(app, shutdown_timeout_s=1)
    else:
        runner = web.AppRunner(bare(path), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()
    if database is not None:
        await database.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
