"""Strangers who abuse a daemon's HTTP ports: ``python -m tests.faults.attacks NAME`` is one, in a process of its own.

It has addresses of its own, 127.0.1.1 and so on, so that what the daemon allows an address is not what it allows the
honest. What it did and heard is printed as one JSON object.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

from p2pnodes.devnet import HOST
from p2pnodes.gossip.driver import PATH
from p2pnodes.miner.example import example_server
from p2pnodes.model.keys import KEY_BYTES, SIGNATURE_BYTES, Hotkey, ss58_encode
from p2pnodes.model.requests import BODY_BYTES_MAX, Add, sign_add
from tests.e2e.hostile import UPGRADE, Op, wire

CONNECTIONS: Final = 10_000
"""Of those who connect and say nothing; many times what a daemon keeps."""

FILES: Final = CONNECTIONS + 500
ADDRESSES: Final = 250
"""Of an attacker, unless he has one for each connection."""

WORKERS: Final = 64
SLOW_WORKERS: Final = 500
DRIP_S: Final = 0.2
"""Between two bytes of who is slow."""

DEPTH: Final = 2_000
"""Requests that are sent at once, before the first answer is read."""

ANSWER_S_MAX: Final = 30.0
"""Wait for an answer or the end of the connection."""

LEAVE_S: Final = 0.05
"""Until one leaves that does not wait for an answer: enough for its request to be taken up."""

SIGNED: Final = 200
"""Requests that are signed before an attack begins: sr25519 costs who attacks as much as who is attacked."""

GET: Final = b"GET /nodes/ HTTP/1.1\r\nHost: victim\r\n\r\n"
HEAD: Final = b"POST /nodes/ HTTP/1.1\r\nHost: victim\r\nContent-Type: application/json\r\n"


class Connection(NamedTuple):
    """One connection to the victim, and from whom."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Bytes as they are; ConnectionError when the daemon cut the connection."""
        self.writer.write(data)
        async with asyncio.timeout(ANSWER_S_MAX):
            await self.writer.drain()

    async def answer(self) -> int:
        """Read one whole answer; its status. IncompleteReadError when the connection ends before."""
        async with asyncio.timeout(ANSWER_S_MAX):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            _, _, length = head.partition(b"content-length: ")
            await self.reader.readexactly(int(length.split(b"\r\n")[0] or 0))
        return int(head.split()[1])


class Siege:
    """An attack under way.

    Args:
        port: The victim's, on 127.0.0.1.
        console: Where its operator's pages are.
        seconds: How long it lasts.
        rng: Draws what differs between connections.

    Attributes:
        counts: ``connections``, ``cut``, and answers by status.
    """

    def __init__(self, port: int, console: int, seconds: float, rng: random.Random) -> None:
        self.port = port
        self.console = console
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self._until = time.monotonic() + seconds

    @property
    def going_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self._until

    async def rest(self) -> None:
        """Do nothing until the end."""
        await asyncio.sleep(max(0.0, self._until - time.monotonic()))

    @asynccontextmanager
    async def connect(self, number: int, port: int | None = None) -> AsyncIterator[Connection]:
        """A connection from the attacker's address of some number, reset at the end of the block."""
        async with asyncio.timeout(ANSWER_S_MAX):
            reader, writer = await asyncio.open_connection(HOST, port or self.port, local_addr=(address(number), 0))
        self.counts["connections"] += 1
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()

    async def again(self, workers: int, work: Callable[[int, Connection], Awaitable[None]]) -> None:
        """Let some do a thing on a connection each, again and again on a new one, until the end."""

        async def worker(number: int) -> None:
            while self.going_on:
                try:
                    async with self.connect(number % ADDRESSES) as connection:
                        await work(number, connection)
                except (OSError, asyncio.IncompleteReadError):
                    self.counts["cut"] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(worker(number))

    async def hear(self, connection: Connection) -> None:
        """Read an answer, and count it."""
        self.counts[str(await connection.answer())] += 1


def address(number: int) -> str:
    """The attacker's address of some number."""
    return f"127.{1 + number // 62_500}.{1 + number // 250 % 250}.{1 + number % 250}"


async def slow_headers(siege: Siege) -> None:
    """A header comes byte by byte and never ends."""

    async def work(_: int, connection: Connection) -> None:
        await connection.send(b"GET /nodes/ HTTP/1.1\r\nHost: victim\r\nX-Long: ")
        while siege.going_on:
            await connection.send(b"x")
            await asyncio.sleep(siege.rng.uniform(0, 2 * DRIP_S))

    await siege.again(SLOW_WORKERS, work)


async def slow_bodies(siege: Siege) -> None:
    """A body comes byte by byte."""

    async def work(_: int, connection: Connection) -> None:
        await connection.send(HEAD + b"Content-Length: %d\r\n\r\n" % BODY_BYTES_MAX)
        while siege.going_on:
            await connection.send(b" ")
            await asyncio.sleep(siege.rng.uniform(0, 2 * DRIP_S))

    await siege.again(SLOW_WORKERS, work)


async def pipelines(siege: Siege) -> None:
    """Thousands of requests at once; the answers are read."""

    async def work(_: int, connection: Connection) -> None:
        while siege.going_on:
            await connection.send(GET * DEPTH)
            for _ in range(DEPTH):
                await siege.hear(connection)

    await siege.again(WORKERS // 4, work)


async def unread_pipelines(siege: Siege) -> None:
    """Thousands of requests at once, and no answer is read."""

    async def work(_: int, connection: Connection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for path in itertools.cycle((b"/openapi.json", b"/nodes/supported", b"/nodes/verification_status", b"/docs")):
            if not siege.going_on:
                break
            connection.writer.write(b"GET %s HTTP/1.1\r\nHost: victim\r\n\r\n" % path * DEPTH)
            try:
                async with asyncio.timeout(1):
                    await connection.writer.drain()
            except TimeoutError:
                break
        await siege.rest()

    await siege.again(WORKERS, work)


def _sized(body: bytes, *headers: bytes) -> bytes:
    return HEAD + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _oversized() -> list[bytes]:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    return [
        b"GET /%s HTTP/1.1\r\nHost: victim\r\n\r\n" % (b"x" * 1_000_000),
        GET[:-2] + b"X-Long: %s\r\n\r\n" % (b"x" * 1_000_000),
        GET[:-2] + b"X-Many: x\r\n" * 100_000 + b"\r\n",
        GET[:-2] + b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(20_000)) + b"\r\n",
        _sized(b" " * 10_000_000),
        HEAD + b"Content-Length: %d\r\n\r\n" % (1 << 62),
        chunked + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 200,
        chunked + b"1\r\n \r\n" * 60_000 + b"0\r\n\r\n",
        chunked + b"1;%s\r\n \r\n" % (b"x" * 8_000) * 100 + b"0\r\n\r\n",
        chunked + b"f" * 100_000,
        _sized(b"[" * BODY_BYTES_MAX),
        _sized(b'{"nodes":' * 7_000),
        _sized(b'{"nodes":[' + b"{}," * 20_000 + b"{}]}"),
        _sized(b'{"nodes":[{"memory":%s}]}' % (b"9" * 65_000)),
        _sized(b'{"nodes":[{"clock_rate":1%s}]}' % (b"0" * 65_000)),
        _sized(b'{"nodes":[],"x":"%s"}' % (b"\\ud800" * 10_000)),
        b"GET /nodes/?%s HTTP/1.1\r\nHost: victim\r\n\r\n" % b"&".join(b"a=b" for _ in range(2_000)),
        b"DELETE /nodes/%s HTTP/1.1\r\nHost: victim\r\n\r\n" % (b"%41" * 2_500),
    ]


async def oversized(siege: Siege) -> None:
    """Everything that has a size is too large: request lines, headers, their number, bodies, chunks, depth of JSON."""
    requests = _oversized()

    async def work(number: int, connection: Connection) -> None:
        await connection.send(requests[(number + siege.counts["connections"]) % len(requests)])
        await siege.hear(connection)

    await siege.again(WORKERS // 4, work)


async def idle(siege: Siege) -> None:
    """Thousands of connections from a few hundred addresses; nothing is said on any."""
    await _hold(siege, ADDRESSES)


async def idle_everywhere(siege: Siege) -> None:
    """The same, each from an address of its own."""
    await _hold(siege, CONNECTIONS)


async def _hold(siege: Siege, addresses: int) -> None:
    async with AsyncExitStack() as stack:
        for number in range(CONNECTIONS):
            await stack.enter_async_context(siege.connect(number % addresses))
        await siege.rest()


def _request(add: Add, signer: Hotkey) -> bytes:
    return _sized(
        add.body,
        b"X-Chutes-Hotkey: " + signer.address.encode(),
        b"X-Chutes-Nonce: " + add.nonce.encode(),
        b"X-Chutes-Signature: " + add.signature.hex().encode(),
    )


def _bodies() -> Iterator[bytes]:
    for number in itertools.count():
        yield json.dumps(example_server([f"flood-{number}"], server_id="flood")).encode()


async def bad_signatures(siege: Siege) -> None:
    """Registrations in the name of a miner that is registered, each with another signature that does not hold."""
    alice, now_s = Hotkey.from_uri("//Alice"), int(time.time())
    adds = [
        Add(alice.public_key, str(now_s), siege.rng.randbytes(SIGNATURE_BYTES), body)
        for body in itertools.islice(_bodies(), SIGNED)
    ]
    await _flood(siege, [_request(add, alice) for add in adds])


async def strangers(siege: Siege) -> None:
    """Registrations whose signatures hold, of hotkeys that are not registered."""
    signers = [Hotkey.from_uri(f"//Stranger{number}") for number in range(SIGNED)]
    now_s = int(time.time())
    await _flood(
        siege, [_request(sign_add(each, now_s, body), each) for each, body in zip(signers, _bodies(), strict=False)]
    )


async def garbage(siege: Siege) -> None:
    """A registered miner's own hand: signed, fresh, well-formed, and refused, or said again and again."""
    dave, now_s = Hotkey.from_uri("//Dave"), int(time.time())
    bodies = [
        json.dumps(example_server([f"garbage-{number}"] * 2, server_id="garbage")).encode()  # the same GPU twice
        for number in range(SIGNED)
    ]
    await _flood(siege, [_request(sign_add(dave, now_s, body), dave) for body in bodies])


async def _flood(siege: Siege, requests: list[bytes]) -> None:
    async def work(_: int, connection: Connection) -> None:
        while siege.going_on:
            await connection.send(siege.rng.choice(requests))
            await siege.hear(connection)

    await siege.again(WORKERS, work)


async def half_closed(siege: Siege) -> None:
    """Whole and half requests, after which nothing more will come, and nothing is read."""
    beginnings = (GET, GET[:20], _sized(b"{}")[:-1], HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", b"")

    async def work(number: int, connection: Connection) -> None:
        await connection.send(beginnings[number % len(beginnings)])
        connection.writer.write_eof()
        await asyncio.sleep(siege.rng.uniform(0, 1))

    await siege.again(SLOW_WORKERS, work)


async def left_streams(siege: Siege) -> None:
    """Streams of events whose listeners leave: at once, or with an orderly end before anything concerns them."""
    nobody = Hotkey.from_uri("//Nobody").address.encode()

    async def work(number: int, connection: Connection) -> None:
        query = b"?hotkey=" + nobody if number % 2 else b""
        await connection.send(b"GET /nodes/events%s HTTP/1.1\r\nHost: victim\r\n\r\n" % query)
        async with asyncio.timeout(ANSWER_S_MAX):
            status = (await connection.reader.readuntil(b"\r\n")).split()[1].decode()
            siege.counts[status] += 1
            if query and status == "200":
                await connection.reader.readuntil(b"snapshot_end")
                connection.writer.close()
        await asyncio.sleep(siege.rng.uniform(0, 0.2))

    await siege.again(WORKERS, work)


async def left_reads(siege: Siege) -> None:
    """Reads that the database has to do, each another one and from another address; nobody waits for the answers."""
    numbers = itertools.count()

    async def work(_: int) -> None:
        while siege.going_on:
            whose = ss58_encode(siege.rng.randbytes(KEY_BYTES)).encode()
            with suppress(OSError):
                async with siege.connect(next(numbers) % CONNECTIONS) as connection:
                    await connection.send(GET.replace(b"/nodes/", b"/nodes/?detailed=true&hotkey=" + whose))
                    await asyncio.sleep(LEAVE_S)

    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(work(number))


async def handshakes(siege: Siege) -> None:
    """WebSockets of peers that begin no handshake, begin one byte by byte, or say what is none."""
    upgrade = UPGRADE % PATH.encode()
    floods = (
        b"", wire(Op.PING, b"x" * 125) * 50, wire(Op.BINARY, os.urandom(4_000)), wire(Op.BINARY, b"x", fin=False),
    )  # fmt: skip

    async def work(number: int, connection: Connection) -> None:
        if number % 3 == 0:
            for at in range(len(upgrade)):
                await connection.send(upgrade[at : at + 1])
                await asyncio.sleep(siege.rng.uniform(0, DRIP_S / 4))
        else:
            await connection.send(upgrade)
        await siege.hear(connection)
        await connection.send(floods[number % len(floods)])
        async with asyncio.timeout(ANSWER_S_MAX):
            while await connection.reader.read(65_536):
                pass

    await siege.again(SLOW_WORKERS, work)


async def console(siege: Siege) -> None:
    """The operator's pages, to whoever is on the same machine: idle, slow and pipelined at once."""

    async def work(number: int) -> None:
        while siege.going_on:
            try:
                async with siege.connect(number % ADDRESSES, siege.console) as connection:
                    get = b"GET /status HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % siege.console
                    if number % 8 == 0:
                        await connection.send(get * 20)
                        for _ in range(20):
                            await siege.hear(connection)
                    else:
                        await connection.send(get[: number % len(get)])
                        await siege.rest()
            except (OSError, asyncio.IncompleteReadError):
                siege.counts["cut"] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(SLOW_WORKERS):
            group.create_task(work(number))


ATTACKS: Final[dict[str, Callable[[Siege], Coroutine[Any, Any, None]]]] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        slow_headers, slow_bodies, pipelines, unread_pipelines, oversized, idle, idle_everywhere, bad_signatures,
        strangers, garbage, half_closed, left_streams, left_reads, handshakes, console,
    )
}  # fmt: skip


def main() -> int:
    """Attack as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.attacks", description=__doc__)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--console", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        sys.exit(f"this process may open {hard} files; expected {FILES}: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    siege = Siege(arguments.port, arguments.console, arguments.seconds, random.Random(arguments.seed))
    asyncio.run(ATTACKS[arguments.attack](siege))
    print(json.dumps(siege.counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
