import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.metrics import status_registry
from p2pnodes.store.database import Database
from tests.fake_daemon import BANS, OBSERVERS, DatabaseDaemon, FakeDaemon


class Seen(NamedTuple):
    """An answer of the console."""

    status: int
    text: str
    headers: Mapping[str, str]


Visit = Callable[..., Awaitable[Seen]]
Serve = Callable[[FakeDaemon], Awaitable[Visit]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serve a daemon's operator's interface, and ask it."""
    async with AsyncExitStack() as stack:

        async def serve(daemon: FakeDaemon) -> Visit:
            path = tmp_path / "admin.sock"
            runner = await start_admin(create_admin_app(daemon, status_registry(daemon.status)), path)
            stack.push_async_callback(runner.cleanup)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))))

            async def visit(path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Seen:
                async with session.request(
                    method, f"http://localhost{path}", headers=headers, allow_redirects=False
                ) as answer:
                    return Seen(answer.status, await answer.text(), answer.headers)

            return visit

        yield serve


@pytest.fixture
def daemon() -> FakeDaemon:
    """One with peers and bans of every kind."""
    found = FakeDaemon()
    found.snapshot["gossip"]["peers"] += copy.deepcopy(OBSERVERS)
    found.snapshot["gossip"]["bans"] += copy.deepcopy(BANS)
    return found


@pytest.fixture
async def visit(serve: Serve, daemon: FakeDaemon) -> Visit:
    """The console of a daemon of which nothing runs."""
    return await serve(daemon)


@pytest.fixture
async def look(serve: Serve, db: Database) -> Visit:
    """The console over a database."""
    return await serve(DatabaseDaemon(db))
