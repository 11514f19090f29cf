"""The miner's agent: shows the GPUs of its host to validators that the miner allows, over HTTP.

``challenge`` has the protocol. What is checked costs more along this order: the client's rate, size, whose agent this
is, the allow-list, time, signature, the validator's rate, the body, whether it was asked before. Then the challenge
waits for its turn: one is answered at a time, from GPUs that are read anew for it.

NVML runs in a thread, because a driver that is in trouble can hang, and nothing can interrupt it. The agent then gives
up waiting, says so, and reads no more until that thread comes back.
"""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Final

import orjson
import structlog
from aiohttp import hdrs, web
from pydantic import ValidationError

from p2pnodes.inbound import BACKLOG, address_key, bind, make_runner, parse_address
from p2pnodes.miner.challenge import (
    CHALLENGE_BYTES_MAX,
    MINER,
    NONCE,
    PATH,
    PROBLEM_CHARS_MAX,
    SIGNATURE,
    VALIDATOR,
    WINDOW_S,
    Challenge,
    Report,
    Sealed,
    challenge_message,
)
from p2pnodes.miner.hardware import Gpu, GpuProblemError, HardwareError, HostAnswers, canonical_uuid, describe
from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import ConfigError, printable
from p2pnodes.model.keys import Hotkey, ss58_decode, ss58_encode, verify_hotkey
from p2pnodes.model.requests import parse_nonce
from p2pnodes.throttle import FewLines, TokenBuckets

log = structlog.get_logger(__name__)

ALLOWED_MAX: Final = 1_024
"""Validators on an allow-list; a subnet has at most 256 neurons."""

CONNECTIONS_MAX: Final = 256
"""Connections that are open at the same time; one more is closed at once."""

CONNECTIONS_PER_ADDRESS_MAX: Final = 32
"""Those of one address: whoever holds idle ones must not keep validators out, whose miner would fail for it."""

BODY_S_MAX: Final = 5.0
WAITING_MAX: Final = 32
"""Challenges that wait for their turn; one more is told to come again."""

WAIT_S_MAX: Final = 3.0
"""How long a challenge waits for its turn. With READ_S_MAX it stays below what a validator waits for an answer."""

READ_S_MAX: Final = 5.0
"""How long a reading of all GPUs may take: eight of them take a fraction of a second once NVML is open."""

FIRST_READ_S_MAX: Final = 60.0
"""How long the first one may take: without persistence mode the driver initialises every GPU."""

RETRY_AFTER_S: Final = 1
ADDRESS_RATE: Final = 5.0
ADDRESS_BURST: Final = 50
ADDRESSES_MAX: Final = 4_096
VALIDATOR_RATE: Final = 1.0
VALIDATOR_BURST: Final = 20
"""Challenges of one validator: each claim asks once or a few times, and a host has few claims."""

NONCES_MAX: Final = 16_384
"""Nonces that are remembered for the time in which their challenge could be sent again. Full, the agent is busy."""

REFUSALS_PER_S: Final = 1.0
REFUSALS_BURST: Final = 20
"""Log lines about refused challenges; the next line tells how many had none."""

SHUTDOWN_S: Final = 3.0

Source = Callable[[], HostAnswers]
"""Reads the GPUs; blocks. Raises HardwareError."""


_CODES: Final = {
    401: Code.AGENT_SIGNATURE,
    403: Code.AGENT_NOT_ALLOWED,
    421: Code.AGENT_NOT_ALLOWED,
    429: Code.AGENT_RATE,
    503: Code.AGENT_BUSY,
}
"""HTTP status of a refusal -> its code; of any other status it is AGENT_FORM."""


class _RefusedError(Exception):
    """A challenge is not answered: HTTP status and the reason for the validator, with its code."""

    def __init__(
        self, status: int, detail: str, retry_after_s: float | None = None, *, code: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.code = code or _CODES.get(status, Code.AGENT_FORM)


class Agent:
    """Answers challenges; ``start`` it, and ``stop`` it in the end. Several may run in one process.

    Attributes:
        hotkey: The miner's.
        allow: Public keys of the validators that are answered; None: any.
    """

    def __init__(
        self,
        hotkey: Hotkey,
        source: Source,
        *,
        allow: Collection[str] | None,
        now_s: Callable[[], float] = time.time,
        wait_s_max: float = WAIT_S_MAX,
        read_s_max: float = READ_S_MAX,
    ) -> None:
        """Prepare.

        Args:
            hotkey: The miner's; signs reports.
            source: Reads the GPUs: ``NvmlGpus()``, or a function that returns a recording.
            allow: SS58 of the validators that are answered; None answers every one, for devnets.
            now_s: Wall clock, Unix seconds.
            wait_s_max: How long a challenge waits for its turn.
            read_s_max: How long a reading may take.

        Raises:
            ConfigError: No validator, too many, or one that is no SS58 address.
        """
        self.hotkey: Final = hotkey
        self.allow: Final = None if allow is None else _public_keys(allow)
        self._source = source
        self._now_s = now_s
        self._wait_s_max = wait_s_max
        self._read_s_max = read_s_max
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._reading: Future[HostAnswers] | None = None
        self._nonces: dict[tuple[bytes, str], float] = {}
        self._per_address = TokenBuckets(ADDRESS_RATE, ADDRESS_BURST, size=ADDRESSES_MAX)
        self._per_validator = TokenBuckets(VALIDATOR_RATE, VALIDATOR_BURST, size=ALLOWED_MAX)
        self._refusals = FewLines(REFUSALS_BURST, REFUSALS_PER_S)
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._servers, "BUG! the agent is not started"
        port: int = self._servers[0].sockets[0].getsockname()[1]
        return port

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[list[Gpu], list[str]]:
        """Read the GPUs once, and listen.

        Args:
            host: Address to listen on; ``::`` takes IPv4 and IPv6.
            port: 0 takes a free one.

        Returns:
            The facts of the GPUs, and why others have none.

        Raises:
            HardwareError: The GPUs cannot be read.
            ConfigError: It cannot listen there.
        """
        shown = _facts(await self._read(FIRST_READ_S_MAX))
        app = web.Application(client_max_size=CHALLENGE_BYTES_MAX)
        app.router.add_post(PATH, self._answer)
        app.router.add_get("/ping", _pong)
        app.middlewares.append(_json_errors)
        self._runner = make_runner(app, shutdown_timeout_s=SHUTDOWN_S)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        try:
            listening = await bind(host, port, advice="choose another --host or --port")
        except ConfigError:
            await self.stop()
            raise
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_server(lambda: _Door(server), sock=each, backlog=BACKLOG) for each in listening
        ]
        return shown

    async def stop(self) -> None:
        """Stop listening; challenges that are being answered get SHUTDOWN_S to end."""
        for server in self._servers:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._servers, self._runner = [], None

    # -- one challenge -----------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.Response:
        begun_s = time.monotonic()
        try:
            validator, challenge = await self._admit(request)
            report = await self._report(validator, challenge)
        except _RefusedError as refusal:
            self._log_refusal(request, refusal)
            return _refusal(refusal.status, refusal.detail, refusal.retry_after_s, refusal.code)
        log.info(
            "challenge",
            validator=validator,
            claim=challenge.claim,
            remote=request.remote,
            gpus=len(report.devices),
            absent=sorted(set(challenge.uuids) - {gpu.uuid for gpu in report.devices}),
            problems=report.problems,
            seconds=round(time.monotonic() - begun_s, 3),
        )
        sealed = Sealed.of(report, self.hotkey)
        return web.Response(body=sealed.model_dump_json().encode(), content_type="application/json")

    async def _admit(self, request: web.Request) -> tuple[str, Challenge]:
        """The validator that asks, and what it asks."""
        if wait_s := self._per_address.take(_address_key(request.remote), time.monotonic()):
            raise _RefusedError(429, "too many requests from this address", wait_s)
        body = await _read_body(request)
        miner, validator = request.headers.get(MINER, ""), request.headers.get(VALIDATOR, "")
        if miner != self.hotkey.address:
            raise _RefusedError(421, f"this agent answers for {self.hotkey.address}, found {MINER}: {miner:.64}")
        public_key = self._require_allowed(validator)
        nonce, now_s = parse_nonce(request.headers.get(NONCE, "")), self._now_s()
        if nonce is None or abs(now_s - nonce) > WINDOW_S:
            raise _RefusedError(
                401, f"{NONCE}: expected Unix seconds within {WINDOW_S} s of this host's clock, which says {now_s:.0f}"
            )
        message = challenge_message(miner, validator, request.headers[NONCE], body)
        if not verify_hotkey(public_key, message, _unhex(request.headers.get(SIGNATURE, ""))):
            raise _RefusedError(401, f"{SIGNATURE}: expected {validator}'s over miner:validator:nonce:sha256(body)")
        if wait_s := self._per_validator.take(validator, time.monotonic()):
            raise _RefusedError(429, "too many challenges of this validator", wait_s)
        try:
            challenge = Challenge.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            loc = ".".join(str(part) for part in first["loc"]) or "body"
            raise _RefusedError(400, f"no challenge: {loc}: {first['msg']:.200}") from error
        self._require_new(public_key, challenge.nonce, nonce, now_s)
        return validator, challenge

    def _require_allowed(self, validator: str) -> bytes:
        try:
            public_key = ss58_decode(validator)
        except ValueError:
            public_key = b""
        if not public_key or ss58_encode(public_key) != validator:
            raise _RefusedError(401, f"{VALIDATOR}: expected an SS58 address, found {validator:.64}")
        if self.allow is not None and public_key not in self.allow:
            raise _RefusedError(403, f"{validator} is not on this agent's allow-list")
        return public_key

    def _require_new(self, validator: bytes, nonce: str, sent_s: int, now_s: float) -> None:
        """Refuse a challenge that was asked already; remember this one for as long as it could be sent again."""
        if (validator, nonce) in self._nonces:
            raise _RefusedError(409, "this challenge was asked already: draw a new nonce")
        if len(self._nonces) >= NONCES_MAX:
            self._nonces = {key: until_s for key, until_s in self._nonces.items() if until_s >= now_s}
        if len(self._nonces) >= NONCES_MAX:
            raise _RefusedError(503, "busy: too many challenges were asked in the last minute", WINDOW_S)
        self._nonces[validator, nonce] = sent_s + WINDOW_S + 1

    async def _report(self, validator: str, challenge: Challenge) -> Report:
        if self._waiting >= WAITING_MAX:
            raise _RefusedError(503, f"busy: {WAITING_MAX} challenges wait already", RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s_max):
                await self._turn.acquire()
        except TimeoutError as error:
            raise _RefusedError(
                503, f"busy: other challenges took longer than {self._wait_s_max:g} s", RETRY_AFTER_S
            ) from error
        finally:
            self._waiting -= 1
        try:
            answers = await self._read(self._read_s_max)
        except HardwareError as error:
            raise _RefusedError(503, str(error), RETRY_AFTER_S, code=error.code) from error
        finally:
            self._turn.release()
        devices, problems = _facts(answers)
        wanted = {canonical_uuid(uuid) for uuid in challenge.uuids}
        return Report(
            network=challenge.network,
            claim=challenge.claim,
            miner=self.hotkey.address,
            validator=validator,
            nonce=challenge.nonce,
            time=int(self._now_s()),
            driver=answers.driver,
            total=len(answers.gpus),
            devices=tuple(gpu for gpu in devices if gpu.uuid in wanted),
            problems=tuple(problem[:PROBLEM_CHARS_MAX] for problem in problems),
        )

    async def _read(self, seconds_max: float) -> HostAnswers:
        """Read the GPUs in a thread of its own, which the end of the program does not wait for."""
        if self._reading is not None and not self._reading.done():
            raise HardwareError("NVML hangs in an earlier reading: see nvidia-smi and the kernel's log on this host")
        reading = self._reading = Future[HostAnswers]()
        reading.set_running_or_notify_cancel()  # from here on, nobody who gives up waiting cancels it
        threading.Thread(target=_run, args=(self._source, reading), name="p2pnodes-gpus", daemon=True).start()
        try:
            async with asyncio.timeout(seconds_max):
                return await asyncio.wrap_future(reading)
        except TimeoutError as error:
            log.error(
                "nvml_hangs", seconds=seconds_max, note="no GPU is read until it comes back", code=Code.GPU_DRIVER
            )
            raise HardwareError(
                f"the GPUs could not be read within {seconds_max:g} s: see nvidia-smi on this host; persistence mode "
                "(nvidia-smi -pm 1) makes it quick"
            ) from error

    def _log_refusal(self, request: web.Request, refusal: _RefusedError) -> None:
        unlogged = self._refusals.take()
        if unlogged is None:
            return
        log.warning(
            "challenge_refused",
            status=refusal.status,
            reason=printable(refusal.detail),
            code=refusal.code,
            validator=printable(request.headers.get(VALIDATOR, "")[:64]),
            remote=request.remote,
            unlogged=unlogged,
        )


class _Door(asyncio.Protocol):
    """Hands a connection on to the server, or closes it where it is one too many."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        held = [_peer(handler.transport) for handler in self._server.connections]
        if len(held) >= CONNECTIONS_MAX or held.count(_peer(transport)) >= CONNECTIONS_PER_ADDRESS_MAX:
            transport.close()
            return
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


def models(gpus: Collection[Gpu]) -> str:
    """GPUs by name, for a person: ``8 x NVIDIA H100 80GB HBM3``."""
    return ", ".join(f"{count} x {name}" for name, count in Counter(gpu.name for gpu in gpus).items()) or "no GPU"


def _facts(answers: HostAnswers) -> tuple[list[Gpu], list[str]]:
    """Facts of the GPUs, and why others have none."""
    gpus: list[Gpu] = []
    problems: list[str] = []
    for gpu in answers.gpus:
        try:
            gpus.append(describe(gpu).gpu)
        except GpuProblemError as error:
            problems.append(str(error))
    return gpus, problems


def _run(source: Source, reading: "Future[HostAnswers]") -> None:
    """Read, and hand over what came of it."""
    try:
        reading.set_result(source())
    except HardwareError as error:
        reading.set_exception(error)
    except Exception as error:
        log.exception("gpus_not_read", code=Code.SYSTEM_BUG)
        reading.set_exception(HardwareError(f"reading the GPUs failed: {type(error).__name__}: {error}"))


async def _read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_S_MAX):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _RefusedError(413, f"the body is over {CHALLENGE_BYTES_MAX} bytes") from error
    except TimeoutError as error:
        raise _RefusedError(408, f"the body did not come within {BODY_S_MAX:g} s") from error


async def _pong(_: web.Request) -> web.Response:
    return web.Response(text="pong")


@web.middleware
async def _json_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """What the router refuses, and a client that went away, in the shape of our own refusals."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return _refusal(error.status, error.reason)
    except ConnectionError:
        return web.Response(status=400)  # the client is gone; raised, it would be a traceback
    return response


def _refusal(
    status: int, detail: str, retry_after_s: float | None = None, code: str = Code.API_NO_ROUTE
) -> web.Response:
    headers = {HEADER: str(code)}
    if retry_after_s is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(retry_after_s)))
    detail = detail.encode("utf-8", "backslashreplace").decode()  # headers can hold what is not Unicode
    return web.Response(
        status=status, body=orjson.dumps({"detail": detail}), headers=headers, content_type="application/json"
    )


def _public_keys(addresses: Collection[str]) -> frozenset[bytes]:
    if not 1 <= len(addresses) <= ALLOWED_MAX:
        raise ConfigError(
            f"allow-list: found {len(addresses)} validators, expected 1 to {ALLOWED_MAX}", code=Code.AGENT_SETTINGS
        )
    try:
        return frozenset(ss58_decode(address) for address in addresses)
    except ValueError as error:
        raise ConfigError(
            f"allow-list: {error}; expected SS58 addresses of validators' hotkeys", code=Code.AGENT_SETTINGS
        ) from error


def _peer(transport: asyncio.BaseTransport | None) -> str:
    """Whose connection it is; see ``_address_key``."""
    peer = None if transport is None else transport.get_extra_info("peername")
    return _address_key(peer[0] if peer else None)


def _address_key(remote: str | None) -> str:
    """Whose limits a client counts to; see ``inbound.address_key``."""
    address = parse_address(remote or "")
    return "" if address is None else address_key(address)


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
