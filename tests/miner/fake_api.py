"""An API that answers what a test tells it to, on a real socket, and remembers what it was asked."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeApi:
    """Answers with its replies in order, the last one again and again; for its stream of events it has others."""

    def __init__(self, *replies: Reply, events: Sequence[Reply] = ()) -> None:
        self.replies = list(replies)
        self.events = list(events) or [answers(404, {"detail": "Not Found"})]
        self.asked: list[Asked] = []
        self.followed: list[Asked] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        follows = request.path == "/nodes/events"
        asked, replies = (self.followed, self.events) if follows else (self.asked, self.replies)
        asked.append(Asked(request.method, request.path_qs, headers, await request.read()))
        reply = replies[min(len(asked), len(replies)) - 1]
        return await reply(request)


def answers(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply: a status, and JSON or, from bytes, just these."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def reply(_: web.Request) -> web.Response:
        return web.Response(status=status, body=raw, headers=headers)

    return reply


def lists(*nodes: Any) -> Reply:
    """A miner's own nodes, as upstream streams them: without a content type of their own."""
    rows = (node if isinstance(node, bytes) else json.dumps(node).encode() for node in nodes)
    return answers(200, b"".join(b"data: " + row + b"\n\n" for row in rows))


def event(kind: str, number: int | None = None, /, **data: Any) -> bytes:
    """One event of ``GET /nodes/events``."""
    name = b"" if number is None else b"id: e-%d\n" % number
    return name + f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def streams(*parts: bytes | Callable[[], Awaitable[object]], ends: bool = False, cut: bool = False) -> Reply:
    """A stream of events: its bytes, waiting for what is called in between; then it ends, is cut, or stays open."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            if isinstance(part, bytes):
                await response.write(part)
            else:
                await part()
        if cut:
            assert request.transport is not None
            request.transport.abort()
        elif not ends:
            await asyncio.Event().wait()
        return response

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
async def serving(api: FakeApi, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeApi]:
    """Serve on a free port of the loopback interface."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    host, port = runner.addresses[0][:2]
    api.url = f"{'https' if tls else 'http'}://{host}:{port}"
    try:
        yield api
    finally:
        await runner.cleanup()


def self_signed(directory: Path) -> ssl.SSLContext:
    """TLS for 127.0.0.1 with a certificate that nobody vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", key, "-out", certificate,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


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
