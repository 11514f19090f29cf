from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.api.app import create_app
from p2pnodes.api.settings import ApiSettings
from p2pnodes.api.stream import EVENTS_KEY
from p2pnodes.inbound import listen, make_runner
from p2pnodes.metrics import status_registry
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import LogId, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from tests.api.support import ALICE, BOB, NETWORK, NOW_S, VALIDATOR, Answer, Client, Clock, FakeResolver, Miner, answer
from tests.fake_daemon import DatabaseDaemon

MakeClient = Callable[..., Awaitable[Client]]
Tell = Callable[..., Awaitable[Answer]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver() -> FakeResolver:
    return FakeResolver()


@pytest.fixture
async def db(tmp_path: Path, clock: Clock) -> AsyncIterator[Database]:
    """The database of the only validator, ready to write."""
    node_key = NodeKey.from_seed(bytes(32))
    database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, node_key, now_ms=lambda: int(clock() * 1000))
    registered = {ALICE.public_key: 50, BOB.public_key: 60}
    pin = Pin(100, NOW_S * 1000, {VALIDATOR.public_key: 100}, registered, {})
    await database.set_electorate(Electorate(pin))
    delegation = delegate(
        VALIDATOR,
        NETWORK.id,
        LogId(node_key.public_key, 0),
        url="",
        not_before=NOW_S - 3600,
        not_after=NOW_S + 86_400,
    )

    def take_up(ledger: Ledger) -> None:
        ledger.open_log(0, delegation, NOW_S * 1000)
        ledger.writes_refused = None

    await database.write(take_up)
    yield database
    await database.close()


@pytest.fixture
async def make_client(db: Database, clock: Clock, resolver: FakeResolver) -> AsyncIterator[MakeClient]:
    """Serve the database with other settings than the default ones, as the daemon does."""
    async with AsyncExitStack() as stack:

        async def make(settings: ApiSettings | None = None, **changes: Any) -> Client:
            arguments: dict[str, Any] = {"now": clock, "readiness": list, "resolver": resolver, **changes}
            app = create_app(arguments.pop("db", db), NETWORK, settings or ApiSettings(), **arguments)
            db.on_commit = app[EVENTS_KEY].committed
            runner = make_runner(app, shutdown_timeout_s=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            host, _, port = (await listen(runner, "127.0.0.1", 0, advice="use another")).rpartition(":")
            session = await stack.enter_async_context(aiohttp.ClientSession(f"http://{host}:{port}"))
            return Client(session, int(port))

        yield make


@pytest.fixture
async def client(make_client: MakeClient) -> Client:
    return await make_client()


@pytest.fixture
def alice(client: Client, clock: Clock) -> Miner:
    return Miner(client, clock)


@pytest.fixture
def bob(client: Client, clock: Clock) -> Miner:
    return Miner(client, clock, BOB)


@pytest.fixture
async def tell(db: Database, tmp_path: Path) -> AsyncIterator[Tell]:
    """Send a request to the admin socket."""
    daemon = DatabaseDaemon(db)
    path = tmp_path / "admin.sock"
    runner = await start_admin(create_admin_app(daemon, status_registry(daemon.status)), path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:

        async def tell(route: str, body: Any = None) -> Answer:
            method = "GET" if body is None else "POST"
            data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
            async with session.request(method, f"http://localhost{route}", data=data) as response:
                return await answer(response)

        yield tell
    await runner.cleanup()
