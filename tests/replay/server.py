"""The node: JSON-RPC over a WebSocket, and a route through which another process changes the chain."""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Final, Self

import orjson
from aiohttp import WSMsgType, web

from tests.replay.chain import Chain
from tests.replay.faults import CONNECT, Fault, Faults
from tests.replay.rpc import Rpc, RpcError, state_discarded
from tests.replay.subnets import Change

HOST: Final = "127.0.0.1"
REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one call: the keys of 1,024 neurons in one query take 0.3 MB."""

STOP_S_MAX: Final = 1.0


class ReplayServer:
    """Serves one chain on loopback, from ``async with`` to its end.

    Attributes:
        chain: What it serves; changes show in the next answer.
        faults: What goes wrong.
        calls: How often each method was called, and as ``connect`` how often a connection was opened.
        changed: Is shown each order that changed the chain, with the block in which it did.
    """

    def __init__(self, chain: Chain, port: int = 0) -> None:
        """Serve ``chain``; port 0 takes a free one."""
        self.chain = chain
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.changed: Callable[[Mapping[str, Any]], None] | None = None
        self._port = port
        self._rpc = Rpc(chain)
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self._open: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        """Of the node: ``ws://127.0.0.1:PORT``."""
        return f"ws://{HOST}:{self._port}"

    @property
    def control_url(self) -> str:
        """Of the route that takes changes, see ``control``."""
        return f"http://{HOST}:{self._port}/control"

    async def start(self) -> None:
        """Listen; after a stop, on the same port again."""
        self._stopping.clear()
        app = web.Application()
        app.router.add_get("/", self._node)
        app.router.add_get("/control", self._show)
        app.router.add_post("/control", self._control)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S_MAX)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and reset what is open, as a node does that dies."""
        self._stopping.set()
        for transport in list(self._open):
            transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def control(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Do what the route was sent, and tell how the chain stands then.

        ==========  =================================================================================
        ``do``      further keys
        ==========  =================================================================================
        change      ``kind``, ``hotkey`` (SS58) and ``value`` of a Change; ``block`` or the next one
        upgrade     ``spec``; ``block`` or the next one
        fault       those of a Fault
        clear       none: no more faults
        stand       none: the head stands still
        go_on       none: it goes on
        go_back     ``blocks``
        ==========  =================================================================================

        Raises:
            ValueError, TypeError, KeyError: It cannot be done.
        """
        fields = dict(order)
        match fields.pop("do"):
            case "change":
                block = fields.pop("block", None)
                return self._at(order, self.chain.change(Change.parse(fields), block))
            case "upgrade":
                return self._at(order, self.chain.upgrade(**fields))
            case "fault":
                self.faults.add(**fields)
            case "clear":
                self.faults.clear()
            case "stand":
                self.chain.stand()
            case "go_on":
                self.chain.go_on()
            case "go_back":
                self.chain.go_back(**fields)
            case unknown:
                raise ValueError(f"cannot do {unknown!r}: see tests.replay.server.ReplayServer.control")
        return self.status()

    def _at(self, order: Mapping[str, Any], block: int) -> dict[str, Any]:
        if self.changed is not None:
            self.changed({**order, "block": block})
        return {**self.status(), "block": block}

    def status(self) -> dict[str, Any]:
        """How the chain stands, and what was asked of it."""
        head = self.chain.head
        return {
            "head": head,
            "finalized": self.chain.finalized,
            "spec": self.chain.runtime_at(head).spec,
            "calls": dict(self.calls),
        }

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response(self.status())

    async def _control(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(self.control(orjson.loads(await request.read())))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return web.json_response({"detail": f"{type(error).__name__}: {error}"}, status=400)

    async def _node(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        connection = web.WebSocketResponse(max_msg_size=REQUEST_BYTES_MAX)
        self._open.add(transport)
        try:
            self.calls[CONNECT] += 1
            match self.faults.meet(CONNECT):
                case Fault("reset"):
                    _reset(transport)
                case Fault("timeout" | "half_open"):
                    await self._stopping.wait()
                case Fault("error"):
                    return web.Response(status=503)
                case Fault("slow", seconds=seconds):
                    await asyncio.sleep(seconds)
            await connection.prepare(request)
            async for message in connection:
                if message.type is not WSMsgType.TEXT:
                    break
                await self._answer(connection, transport, orjson.loads(message.data))
        except ConnectionError:
            pass  # reset by a fault, or by the reader
        finally:
            self._open.discard(transport)
        return connection

    async def _answer(
        self, connection: web.WebSocketResponse, transport: asyncio.Transport, call: dict[str, Any]
    ) -> None:
        method, number = call["method"], call["id"]
        self.calls[method] += 1
        fault = self.faults.meet(method)
        match fault:
            case Fault("timeout"):
                return
            case Fault("half_open"):
                await self._stopping.wait()
                return
            case Fault("garbage"):
                await connection.send_str("<html>502 Bad Gateway</html>")
                return
            case Fault("slow", seconds=seconds):
                await asyncio.sleep(seconds)
            case Fault("wrong_id"):
                number += 1_000_000
            case Fault("run", action=action) if action is not None:
                action()
        answer = orjson.dumps({"jsonrpc": "2.0", "id": number, **self._outcome(fault, method, call["params"])})
        if fault is not None and fault.kind == "reset":
            # The frame's head announces the whole answer (RFC 6455, 5.2: final text frame, 64-bit length).
            transport.write(b"\x81\x7f" + struct.pack(">Q", len(answer)) + answer[: len(answer) // 2])
            _reset(transport)
            return
        await connection.send_str(answer.decode())

    def _outcome(self, fault: Fault | None, method: str, params: list[Any] | None) -> dict[str, Any]:
        """``result`` or ``error`` of a call."""
        try:
            match fault:
                case Fault("error", message=message):
                    raise RpcError(-32_603, message)
                case Fault("pruned"):
                    raise state_discarded(next((each for each in reversed(params or ()) if isinstance(each, str)), ""))
                case Fault("huge", size_bytes=size_bytes):
                    return {"result": "0x" + "00" * (size_bytes // 2)}
                case Fault("result", value=value):
                    return {"result": value}
                case _:
                    return {"result": self._rpc.answer(method, params or ())}
        except RpcError as error:
            return {"error": {"code": error.code, "message": error.message}}


def _reset(transport: asyncio.Transport) -> None:
    """Close with a TCP reset: with no time to linger, the kernel sends one."""
    transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
