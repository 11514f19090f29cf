"""A daemon's public interface over etcd: what a validator's daemon would be if a cluster of etcd kept the registry.

    python -m tests.bench.through ETCD_PORT DATABASE RECORD

HTTP, limits, parsing and the check of the miner's signature are the daemon's own (``create_app``). A registration or
deletion is put into the cluster, through this daemon's own member, and answered when that has it on the disks of a
majority. From a watch the daemon hears what all have put, and keeps the rows that ``/nodes`` is answered from: as
little of them as can be (``floor.Floor``), with no vote, no state root and no second check of a signature, and not
durably, for etcd is. Each write whose rows are there adds RECORD_BYTES to the file RECORD, as in ``recorded.py``.
Prints its port; ends when its standard input does.
"""

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Final

from aiohttp import web

from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.settings import ApiSettings
from p2pnodes.daemon import settle_memory
from p2pnodes.devnet import MINERS
from p2pnodes.model import codec
from p2pnodes.model.claims import Body, parse_body
from p2pnodes.model.inventory import Tally
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import Add, Delete, request_id
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store.database import Database
from p2pnodes.store.facts import StoredClaim
from tests.bench.floor import Floor
from tests.bench.grpc import PUT, WATCH, Client, connected, put, watch_all, watched
from tests.bench.recorded import RECORD
from tests.bench.world import NODE_SEED, open_ledger
from tests.support import NETWORK

CALLS_AT_ONCE: Final = 64
"""Puts of one daemon that are under way at once, each on a connection of its own; more wait."""


class Puts:
    """Puts into one member."""

    def __init__(self, clients: list[Client]) -> None:
        self._free: Final[asyncio.Queue[Client]] = asyncio.Queue()
        for client in clients:
            self._free.put_nowait(client)

    async def put(self, key: bytes, value: bytes) -> None:
        """Return when the cluster has it."""
        client = await self._free.get()
        try:
            await client.call(put(key, value))
        finally:
            self._free.put_nowait(client)


class EtcdInventory(Database):
    """Reads as a daemon does, writes into etcd."""

    puts: Puts

    async def submit_add(
        self, request: Add, body: Body, refusal: Exception | None, *, denial: Exception | None = None
    ) -> StoredClaim:
        """Put a registration."""
        if (error := refusal or denial) is not None:
            raise error
        claim_id = request_id(NETWORK.id, request)
        value = codec.pack([request.hotkey, request.nonce, request.signature, request.body])
        await self.puts.put(claim_id, value)
        now_hlc = (time.time_ns() // 1_000_000) << 16
        return StoredClaim(claim_id, request.hotkey, int(request.nonce), body, now_hlc, Tally("pending", None, ""))

    async def submit_delete(self, request: Delete, uuid: str) -> None:
        """Put a deletion."""
        value = codec.pack([request.hotkey, request.nonce, request.signature, uuid])
        await self.puts.put(request_id(NETWORK.id, request), value)


class Rows:
    """What a watch brings, as rows."""

    def __init__(self, path: Path, record: int) -> None:
        self._floor = Floor(path)
        self._floor.connection.execute("PRAGMA synchronous = OFF")
        self._numbers = count(1)
        self._record = record

    def take(self, values: list[bytes]) -> None:
        """Write the rows of some registrations and deletions in one transaction, and note them."""
        execute = self._floor.connection.execute
        noted = []
        execute("BEGIN IMMEDIATE")
        for value in values:
            hotkey, nonce, signature, what = codec.fields(codec.unpack(value), 4, "write")
            assert isinstance(hotkey, bytes)
            assert isinstance(nonce, str)
            assert isinstance(signature, bytes)
            if isinstance(what, bytes):
                request = Add(hotkey, nonce, signature, what)
                self._floor.insert(next(self._numbers), request, [node.uuid for node in parse_body(what).nodes])
            else:
                assert isinstance(what, str)
                execute("DELETE FROM node WHERE bucket = ? AND uuid = ? AND miner = ?", (bucket_of(what), what, hotkey))
            noted.append(signature[:8])
        execute("COMMIT")
        now_ns = time.monotonic_ns()
        os.write(self._record, b"".join(RECORD.pack(key, now_ns) for key in noted))


async def watch(port: int, rows: Rows, watching: asyncio.Event) -> None:
    """Take what is put once ``watching`` is set, for ever."""
    async with connected(port, WATCH) as client:
        async for answers in client.answers(watch_all(), last=False):
            watching.set()  # the first answer says that the watch is there
            if values := [value for answer in answers for value in watched(answer)]:
                await asyncio.to_thread(rows.take, values)


async def serve(port: int, path: Path, record: Path) -> None:
    """Serve until standard input ends."""
    open_ledger(path, MINERS).facts.close()
    inventory = await EtcdInventory.open(path, NETWORK, NodeKey.from_seed(NODE_SEED), now_ms=lambda: 0)
    assert isinstance(inventory, EtcdInventory)
    settings = ApiSettings(
        allow_private_hosts=True,
        hotkey_rate=1e6, hotkey_burst=10**7, address_rate=1e6, address_burst=10**7,
    )  # fmt: skip
    app = create_app(inventory, NETWORK, settings, now=time.time, readiness=list, gossip=None)
    runner = make_runner(app, shutdown_timeout_s=1)
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port, PUT)) for _ in range(CALLS_AT_ONCE)]
        inventory.puts = Puts(clients)
        watching = asyncio.Event()
        task = asyncio.create_task(watch(port, Rows(path.with_suffix(".rows"), descriptor), watching))
        await watching.wait()
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        settle_memory()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        task.cancel()
        await runner.cleanup()
    await inventory.close()
    os.close(descriptor)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
