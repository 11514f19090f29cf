"""A client of a daemon's gossip port that is its own WebSocket, so that it can break each rule below and above it."""

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from p2pnodes.gossip.channel import Channel
from p2pnodes.gossip.driver import PATH
from p2pnodes.gossip.handshake import Identity, Initiator, Policy
from p2pnodes.model.events import LogId, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from tests.e2e.waiting import DEADLINE_S
from tests.support import hotkey

UPGRADE: Final = (
    b"GET %s HTTP/1.1\r\nHost: victim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
"""Source: RFC 6455, 1.2, with the key of its example."""


class Op(IntEnum):
    """Kinds of WebSocket frames. Source: RFC 6455, 5.2."""

    MORE = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def wire(op: Op, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    """A WebSocket frame of a client's; its mask is zero, as masks may be."""
    head = bytes([fin << 7 | rsv << 4 | op])
    if len(payload) < 126:
        return head + bytes([0x80 | len(payload)]) + bytes(4) + payload
    if len(payload) < 1 << 16:
        return head + b"\xfe" + struct.pack(">H", len(payload)) + bytes(4) + payload
    return head + b"\xff" + struct.pack(">Q", len(payload)) + bytes(4) + payload


class Ended(NamedTuple):
    """How a daemon ended a connection.

    Attributes:
        reason: What its close frame says; empty when it was cut.
        refusal: The message before that, if it was one of the handshake's refusals; else empty.
    """

    reason: str
    refusal: bytes


class Attacker:
    """One connection to a daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.channel: Channel

    async def send(self, data: bytes) -> None:
        """Bytes as they are, and wait until they are taken; ConnectionError when the daemon cuts the connection."""
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def say(self, message: bytes) -> None:
        """A binary message."""
        await self.send(wire(Op.BINARY, message))

    async def frame(self, frame: bytes) -> None:
        """A frame of the channel."""
        await self.say(self.channel.encrypt(frame))

    async def hear(self) -> tuple[Op, bytes]:
        """The daemon's next WebSocket frame; it sends no fragments. IncompleteReadError at the end."""
        async with asyncio.timeout(DEADLINE_S):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
            return Op(first & 0xF), await self.reader.readexactly(length)

    async def ended(self) -> Ended:
        """Read on until the daemon ends the connection."""
        last = b""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    op, payload = await self.hear()
                    if op is Op.CLOSE:
                        return Ended(payload[2:].decode(), last)
                    last = payload
        return Ended("", last)

    async def upgrade(self) -> None:
        """Make the connection a WebSocket."""
        await self.send(UPGRADE % PATH.encode())
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def shake(self, network: Network, uri: str) -> None:
        """Go through the handshake as a daemon of ``uri``'s; raises HandshakeError when it is refused."""
        now_s, node_key = int(time.time()), NodeKey.from_seed(os.urandom(32))
        log = LogId(node_key.public_key, 0)
        delegation = delegate(hotkey(uri), network.id, log, url="", not_before=now_s - 3600, not_after=now_s + 86_400)
        initiator = Initiator(
            Identity(node_key, log, delegation), Policy(network, now_s, lambda _: True), os.urandom(32)
        )
        await self.say(initiator.hello)
        await self.say(initiator.prove((await self.hear())[1]))
        _, keys = initiator.finish((await self.hear())[1])
        self.channel = Channel(keys)


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Attacker]:
    """A TCP connection to a daemon; nothing is said yet."""
    parts = urlsplit(url)
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Attacker(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def websocket(url: str) -> AsyncIterator[Attacker]:
    """A WebSocket to a daemon's gossip port, before the handshake."""
    async with connection(url) as attacker:
        await attacker.upgrade()
        yield attacker


@asynccontextmanager
async def session(url: str, network: Network, uri: str) -> AsyncIterator[Attacker]:
    """A session with a daemon."""
    async with websocket(url) as attacker:
        await attacker.shake(network, uri)
        yield attacker
