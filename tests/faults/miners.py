"""Miners that never stop: they register and delete GPUs at whichever daemon, and note each answer in the book."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from p2pnodes.devnet import MINERS
from p2pnodes.miner.client import MinerClient, MinerError
from p2pnodes.miner.example import example_server
from p2pnodes.model.keys import Hotkey
from tests.faults.book import Book, Fate

PAUSE_S: Final = 0.1
"""Between two requests of one miner, unless a suite has another: some thirty writes a second of all four."""

ANSWER_S: Final = 5.0
"""Wait for an answer; a daemon that is stopped or cut off gives none."""

DELETES: Final = 0.3
"""Share of deletions among the requests."""

GPUS_MAX: Final = 3
"""GPUs of one registration, from 1."""

KEPT_MAX: Final = 1_000
"""GPUs of one miner; with so many it only deletes, so that the inventory of a long suite stays as large as it is."""


class Miner:
    """One of the devnet's miners."""

    def __init__(self, uri: str, apis: Mapping[str, str], book: Book, rng: random.Random, pause_s: float) -> None:
        self._apis = apis
        self._book = book
        self._rng = rng
        self._pause_s = pause_s
        self._hotkey = Hotkey.from_uri(uri)
        self._name = uri.strip("/").lower()
        self._numbers = itertools.count()
        self._live: list[str] = []

    async def run(self) -> None:
        """Write until cancelled."""
        async with AsyncExitStack() as stack:
            clients = [
                (name, await stack.enter_async_context(MinerClient([api], self._hotkey, retries=0, timeout_s=ANSWER_S)))
                for name, api in self._apis.items()
            ]
            while True:
                await self._write(*self._rng.choice(clients))
                await asyncio.sleep(self._rng.uniform(0, 2 * self._pause_s))

    async def _write(self, peer: str, client: MinerClient) -> None:
        deleting = self._live and (len(self._live) >= KEPT_MAX or self._rng.random() < DELETES)
        if deleting:
            uuids = [self._live.pop(self._rng.randrange(len(self._live)))]
        else:
            uuids = [f"{self._name}-{next(self._numbers)}" for _ in range(self._rng.randint(1, GPUS_MAX))]
        self._book.note(uuids, Fate.OPEN, peer)  # what is cut off in the middle may have been taken
        try:
            if deleting:
                await client.delete(uuids[0])
            else:
                await client.add(example_server(uuids, server_id=uuids[0]))
        except MinerError:
            return
        self._book.note(uuids, Fate.GONE if deleting else Fate.LISTED, peer)
        if not deleting:
            self._live += uuids


@asynccontextmanager
async def mining(
    apis: Mapping[str, str], book: Book, rng: random.Random, pause_s: float = PAUSE_S
) -> AsyncIterator[None]:
    """All four miners at work at some daemons for as long as the block lasts; one that fails ends it."""
    async with asyncio.TaskGroup() as group:
        miners = [Miner(uri, apis, book, random.Random(rng.random()), pause_s) for uri in MINERS]
        tasks = [group.create_task(miner.run()) for miner in miners]
        yield
        for task in tasks:
            task.cancel()
