"""While the inventory itself comes from peers, nobody is shown a part of it, and nothing is decided by that part."""

from collections.abc import Awaitable, Callable

import pytest

from p2pnodes.api.app import LOADING_RETRY_S
from p2pnodes.store.database import Database
from tests.api.support import Answer, Miner, gpu, server
from tests.gossip.past import lived
from tests.store.test_checkpoints import DAY_MS

Ask = Callable[[Miner], Awaitable[Answer]]

ASKS: dict[str, Ask] = {
    "inventory": lambda miner: miner.get("/nodes/"),
    "filtered inventory": lambda miner: miner.get("/nodes/?detailed=true"),
    "own nodes": lambda miner: miner.own_nodes(),
    "a task": lambda miner: miner.status(f"{miner.hotkey.address}::{'0' * 32}"),
    "the stream": lambda miner: miner.get("/nodes/events"),
    "a registration": lambda miner: miner.post(server(1)),
    "a deletion": lambda miner: miner.delete(gpu()["uuid"]),
}


@pytest.fixture
async def loading(db: Database) -> Database:
    """The database of a daemon that has got a certificate, and nothing of what it speaks of."""
    (past,) = lived(8 * DAY_MS)
    await db.write(lambda ledger: ledger.begin_loading(past.certificate))
    assert db.state.loading
    return db


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
async def test_it_is_answered_503_and_told_when_to_ask_again(loading: Database, alice: Miner, ask: Ask) -> None:
    answer = await ask(alice)
    assert answer.status == 503
    assert "loads the inventory from its peers" in answer.detail
    assert answer.headers["Retry-After"] == str(LOADING_RETRY_S)


@pytest.mark.parametrize("path", ["/healthz", "/nodes/supported", "/openapi.json"])
async def test_what_does_not_speak_of_the_inventory_is_answered(loading: Database, alice: Miner, path: str) -> None:
    assert (await alice.get(path)).status == 200
