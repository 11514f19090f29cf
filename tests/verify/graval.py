"""Stand-ins for both ends of GraVal on real sockets: the miner's bootstrap service and the operator's GraVal service.

Written from compat.md, section 5, alone: nothing of p2pnodes decides here who may ask or what is right. The real GraVal
binds work to a GPU; this one binds it with a secret, which stands for what only the GPU can compute. A miner can be
told to lie in its content (``tamper_info``, ``tamper_proof``), in its time (``worked_s``), and on the wire (``info``,
``prove``).
"""

import asyncio
import base64
import hashlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import sr25519
from aiohttp import web
from base58 import b58decode

from p2pnodes.verify.exchange import Answer, Exchange
from tests.miner.fake_api import Reply

NONCE_AGE_S_MAX: Final = 30
DeviceInfo = Mapping[str, Any]


def _hash(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


class Graval:
    """What GraVal computes, as keyed hashes."""

    def __init__(self, secret: str = "GraVal") -> None:
        self._secret = secret

    def device_answer(self, devices: Iterable[DeviceInfo], challenge: str) -> str:
        return _hash(self._secret, "devices", list(devices), challenge).hex()

    def encrypt(self, device: DeviceInfo, text: str, seed: int, iterations: int) -> str:
        return base64.b64encode(self._xor(device, text.encode(), seed, iterations)).decode()

    def decrypt(self, device: DeviceInfo, ciphertext: str, seed: int, iterations: int) -> str:
        return self._xor(device, base64.b64decode(ciphertext), seed, iterations).decode(errors="replace")

    def work(self, device: DeviceInfo, seed: int, iterations: int) -> dict[str, Any]:
        hashes = [_hash(self._secret, "work", device, seed, iterations, index).hex() for index in range(4)]
        return {"intermediate_hashes": hashes, "num_matrices": 4, "total_iterations": iterations}

    def check(self, device: DeviceInfo, seed: int, product: Mapping[str, Any], index: int) -> bool:
        expected = self.work(device, seed, product["total_iterations"])["intermediate_hashes"]
        return bool(product["intermediate_hashes"][index] == expected[index])

    def _xor(self, device: DeviceInfo, content: bytes, seed: int, iterations: int) -> bytes:
        key = b"".join(_hash(self._secret, "key", device, seed, iterations, block) for block in range(4))
        return bytes(a ^ b for a, b in zip(content, key, strict=False))


class Asked(NamedTuple):
    """A signed request that was let in."""

    path: str
    query: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str]


class MinerBootstrap:
    """A miner's bootstrap service: answers validators on its allow-list for the GPUs of one server.

    Attributes:
        devices: device_info of each GPU, in order.
        allowed: Validators that may ask.
        info: Answers ``GET /info`` instead, where given.
        prove: Answers ``POST /prove`` instead, where given.
        tamper_info: Changes the number (from 1) and text of an answer to a device challenge.
        tamper_proof: Changes the answer to ``/prove``.
        worked_s: What ``/prove`` takes; on the clock of a ``WorkClockExchange``, so nobody waits for it.
        waits: Take that time on the real clock.
        asked: What was let in.
        most_proving: Most ``/prove`` that ran at the same time.
    """

    def __init__(self, graval: Graval, miner: str, devices: Iterable[DeviceInfo], allowed: Iterable[str]) -> None:
        self.graval = graval
        self.miner = miner
        self.devices = list(devices)
        self.allowed = set(allowed)
        self.info: Reply | None = None
        self.prove: Reply | None = None
        self.tamper_info: Callable[[int, str], str] = lambda _, text: text
        self.tamper_proof: Callable[[dict[str, Any]], Any] = lambda content: content
        self.worked_s = 0.0
        self.waits = False
        self.asked: list[Asked] = []
        self.most_proving = 0
        self.url = ""
        self.host = ""
        self.port = 0
        self.runner: web.AppRunner
        self._proving = 0

    @property
    def connections(self) -> int:
        """Connections that are open."""
        assert self.runner.server is not None
        return len(self.runner.server.connections)

    def at_its_address(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """A GPU of a claim that names this service."""
        return {**node, "verification_host": self.host, "verification_port": self.port}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1024 * 1024)
        app.router.add_get("/info", self._info)
        app.router.add_post("/prove", self._prove)
        return app

    async def _info(self, request: web.Request) -> web.StreamResponse:
        if refusal := await self._admit(request, "graval"):
            return refusal
        if self.info is not None:
            return await self.info(request)
        challenge = request.query["challenge"]
        assert len(bytes.fromhex(challenge)) == 32
        number = sum(asked.path == "/info" for asked in self.asked)
        return web.Response(text=self.tamper_info(number, self.graval.device_answer(self.devices, challenge)))

    async def _prove(self, request: web.Request) -> web.StreamResponse:
        if refusal := await self._admit(request, hashlib.sha256(await request.read()).hexdigest()):
            return refusal
        self._proving += 1
        self.most_proving = max(self.most_proving, self._proving)
        try:
            if self.prove is not None:
                return await self.prove(request)
            question = await request.json()
            if self.waits:
                await asyncio.sleep(self.worked_s)
            return web.json_response(self.tamper_proof(self.proof(question)))
        finally:
            self._proving -= 1

    def proof(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What an honest miner answers to ``/prove``."""
        seed, iterations = question["seed"], question["iterations"]
        by_uuid = {device["uuid"]: device for device in self.devices}
        return {
            "devices": self.devices,
            "seed": seed,
            "proof": {
                uuid: {
                    "device_id": self.devices.index(by_uuid[uuid]),
                    "device_uuid": uuid,
                    "device_name": by_uuid[uuid]["name"],
                    "work_product": self.graval.work(by_uuid[uuid], seed, iterations),
                }
                for uuid in question["ciphertext"]
            },
            "plaintext": {
                uuid: self.graval.decrypt(by_uuid[uuid], ciphertext, seed, iterations)
                for uuid, ciphertext in question["ciphertext"].items()
            },
        }

    async def _admit(self, request: web.Request, tail: str) -> web.Response | None:
        """Refuse who is not to be answered, as compat.md says: signature, age, allow-list."""
        headers = request.headers
        miner, validator = headers.get("X-Chutes-Miner", ""), headers.get("X-Chutes-Validator", "")
        nonce, signature = headers.get("X-Chutes-Nonce", ""), headers.get("X-Chutes-Signature", "")
        if validator not in self.allowed or miner != self.miner:
            return web.json_response({"detail": "not allowed"}, status=403)
        if not nonce.isdigit() or not 0 <= time.time() - int(nonce) < NONCE_AGE_S_MAX:
            return web.json_response({"detail": "invalid nonce"}, status=401)
        message = f"{miner}:{validator}:{nonce}:{tail}".encode()
        if not sr25519.verify(bytes.fromhex(signature), message, b58decode(validator)[1:33]):
            return web.json_response({"detail": "invalid signature"}, status=401)
        self.asked.append(Asked(request.path, dict(request.query), await request.read(), dict(headers)))
        return None


class GravalService:
    """The operator's GraVal service.

    Attributes:
        replies: Path -> what it answers instead.
        asked: Path -> the questions it was asked.
        most: Most calls that ran at the same time.
        held: Cleared, calls wait.
    """

    def __init__(self, graval: Graval) -> None:
        self.graval = graval
        self.replies: dict[str, Reply] = {}
        self.asked: dict[str, list[dict[str, Any]]] = {
            "/encrypt": [],
            "/check_proof": [],
            "/verify_device_challenge": [],
        }
        self.most = 0
        self.held = asyncio.Event()
        self.held.set()
        self.url = ""
        self.runner: web.AppRunner
        self._running = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/{name}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        self.asked[request.path].append(question)
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            await self.held.wait()
            if request.path in self.replies:
                return await self.replies[request.path](request)
            return self._answer(request.path, question)
        finally:
            self._running -= 1

    def _answer(self, path: str, question: dict[str, Any]) -> web.Response:
        match path:
            case "/encrypt":
                device, seed = question["device_info"], question["seed"]
                _require_device(device)
                ciphertext = self.graval.encrypt(device, question["payload"], seed, question["iterations"])
                return web.Response(text=f"{seed}|{ciphertext}")
            case "/check_proof":
                _require_device(question["device_info"])
                product = question["work_product"]
                right = self.graval.check(question["device_info"], question["seed"], product, question["check_index"])
                return web.json_response({"result": right})
            case _:
                for device in question["devices"]:
                    _require_device(device)
                expected = self.graval.device_answer(question["devices"], question["challenge"])
                return web.json_response({"result": question["response"] == expected})


def _require_device(device: DeviceInfo) -> None:
    """What compat.md says of device_info: these fields, absent ones dropped."""
    required = {"uuid", "name", "memory", "clock_rate", "max_threads_per_processor"}
    optional = {"major", "minor", "processors", "sxm", "concurrent_kernels", "ecc"}
    assert required <= device.keys() <= required | optional, device
    assert None not in device.values()


@asynccontextmanager
async def serving(service: MinerBootstrap | GravalService, host: str = "127.0.0.1") -> AsyncIterator[None]:
    """Serve on a free port."""
    service.runner = web.AppRunner(service.app(), shutdown_timeout=0.1, handler_cancellation=True)
    await service.runner.setup()
    try:
        await web.TCPSite(service.runner, host, 0).start()
        port = service.runner.addresses[0][1]
        service.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if isinstance(service, MinerBootstrap):
            service.host, service.port = host, port
        yield
    finally:
        await service.runner.cleanup()


class WorkClockExchange(Exchange):
    """An exchange on whose clock GPUs work without anybody waiting for them.

    Attributes:
        miners: Whose ``worked_s`` is the time that ``/prove`` takes.
        late_s: Lateness that is reported of this daemon's event loop.
    """

    def __init__(self) -> None:
        super().__init__(allow_private=True, online=lambda: True)
        self.miners: list[MinerBootstrap] = []
        self.late_s = 0.0

    async def ask_host(self, method: str, url: str, **options: Any) -> Answer:
        answer = await super().ask_host(method, url, **options)
        for miner in self.miners:
            if url == f"{miner.url}/prove" and not miner.waits:
                answer = answer._replace(elapsed_s=miner.worked_s)
        return answer._replace(late_s=self.late_s)


def raw(*parts: bytes, pause_s: float = 0.0, reset: bool = False, stay: bool = False) -> Reply:
    """Write bytes past HTTP's rules, then close the connection, reset it, or keep it open."""

    async def reply(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        for part in parts:
            if transport.is_closing():
                break
            transport.write(part)
            await asyncio.sleep(pause_s)
        if stay:
            await asyncio.Event().wait()
        if reset:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort() if reset else transport.close()
        return web.Response()

    return reply


def floods(status_line: bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") -> Reply:
    """Send without an end."""

    async def reply(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        transport.write(status_line)
        while not transport.is_closing():
            transport.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await asyncio.sleep(0)
        return web.Response()

    return reply
