"""An API that answers what a test tells it to, on a real socket, and remembers what it was asked."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeApi:
    """Answers with its replies in order, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[Asked] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        self.asked.append(Asked(request.method, request.path_qs, headers, await request.read()))
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        return await reply(request)


def answers(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply: a status, and JSON or, from bytes, just these."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def reply(_: web.Request) -> web.Response:
        return web.Response(status=status, body=raw, headers=headers)

    return reply


async def hangs_up(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def never_answers(_: web.Request) -> web.Response:
    """Keep the client waiting."""
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def serving(api: FakeApi) -> AsyncIterator[FakeApi]:
    """Serve on a free port of the loopback interface."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    api.url = f"http://{host}:{port}"
    try:
        yield api
    finally:
        await runner.cleanup()


def dead_url() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def registered(*uuids: str, task: str = "5Alice::00") -> dict[str, Any]:
    """Body of a 202."""
    nodes = [
        {"uuid": uuid, "name": "H100", "gpu_identifier": "h100_sxm", "miner_hotkey": "5Alice", "seed": 7}
        for uuid in uuids
    ]
    return {"task_id": task, "nodes": nodes}
