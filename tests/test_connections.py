"""Inbound connections are bounded, by number and by what may come on one; whoever is quiet makes room, nobody else."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from p2pnodes import connections
from p2pnodes.connections import (
    ACCEPTS_AT_ONCE,
    CONNECTIONS_MAX,
    CONNECTIONS_MIN,
    CROWDED_PART,
    DIALLED,
    FILES_RESERVED,
    Crowd,
    Door,
    Listening,
    MeteredConnector,
    connections_max,
    while_open,
)
from p2pnodes.hardening import FILES_MAX
from p2pnodes.inbound import listen, make_runner, whose


class Wire(asyncio.Transport):
    """A transport that remembers whether it was cut."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.is_cut = False

    def abort(self) -> None:
        self.is_cut = True


class Server(asyncio.Protocol):
    """Remembers what was passed on to it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> bool | None:
        self.heard.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(exc)

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


def opened(crowd: Crowd, address: str = "192.0.2.1") -> tuple[Door, Wire]:
    door, wire = Door(Server(), crowd), Wire(address)
    door.connection_made(wire)
    return door, wire


class TestDoor:
    """Everything goes through, and is counted on its way."""

    def test_what_comes_is_passed_on(self) -> None:
        server = Server()
        door, lost = Door(server, Crowd(9)), ConnectionError("gone")
        door.connection_made(Wire("192.0.2.1"))
        door.data_received(b"a")
        door.pause_writing()
        door.resume_writing()
        assert door.eof_received() is True
        door.connection_lost(lost)
        assert server.heard == ["made", b"a", "pause", "resume", "eof", lost]

    def test_more_than_is_allowed_cuts_it_and_is_not_passed_on(self) -> None:
        over: list[str] = []
        server, wire = Server(), Wire("192.0.2.1")
        door = Door(server, Crowd(9))
        door.connection_made(wire)
        door.data_received(bytes(100))
        door.allow(10, lambda: over.append("over"))
        door.data_received(bytes(10))
        assert not wire.is_cut
        door.data_received(b"x")
        door.data_received(b"y")
        assert wire.is_cut
        assert over == ["over"]
        assert server.heard == ["made", bytes(100), bytes(10)]

    def test_a_later_allowance_replaces_the_one_before(self) -> None:
        door, wire = opened(Crowd(9))
        door.allow(10)
        door.data_received(bytes(10))
        door.allow(10)
        door.data_received(bytes(10))
        door.allow(None)
        door.data_received(bytes(1_000_000))
        assert not wire.is_cut


class TestMeteredConnector:
    """What is dialled may not send what it likes either."""

    async def ask(self, answer: bytes, size_bytes: int, times: int) -> tuple[bool, int]:
        """Whether a dial of who answers so was cut; how much it got rid of."""
        sent = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            with suppress(ConnectionError):
                for _ in range(times):
                    writer.write(answer)
                    await writer.drain()
                    sent += len(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connector = MeteredConnector(size_bytes, force_close=True)
        async with server, aiohttp.ClientSession(connector=connector) as client:
            try:
                async with client.get(f"http://127.0.0.1:{port}/") as response:
                    assert await response.read() == b"yes"
            except aiohttp.ClientError:
                meter = DIALLED.get()
                assert meter is not None
                return meter.exceeded, sent
            return False, sent

    async def test_an_answer_within_the_bound_comes_through(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
        assert await self.ask(answer, len(answer), 1) == (False, len(answer))

    async def test_interim_answers_without_end_are_cut(self) -> None:
        cut, sent = await self.ask(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000, 16_384, 10_000)
        assert cut
        assert sent < 16 << 20  # what systems buffer on the way


class TestWhileOpen:
    """What only a connection's client wants ends with the connection, and otherwise as it would."""

    async def test_it_ends_with_the_connection(self) -> None:
        door, _ = opened(Crowd(9))
        asyncio.get_running_loop().call_soon(door.connection_lost, None)
        with pytest.raises(ConnectionResetError):
            await door.while_open(asyncio.Event().wait())
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    async def test_its_result_is_what_comes_of_it(self) -> None:
        door, _ = opened(Crowd(9))
        assert await door.while_open(asyncio.sleep(0, "done")) == "done"
        door.connection_lost(None)  # cancels nobody any more
        await asyncio.sleep(0)

    async def test_who_is_cancelled_by_others_stays_cancelled(self) -> None:
        door, _ = opened(Crowd(9))
        task = asyncio.create_task(door.while_open(asyncio.Event().wait()))
        await asyncio.sleep(0)
        door.connection_lost(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_nothing_is_begun_for_who_left_while_waiting_for_its_turn(self) -> None:
        """From Python 3.12 on aiohttp begins the requests behind the first one while their connection ends."""
        begun: list[web.Request] = []

        async def handler(request: web.Request) -> web.Response:
            begun.append(request)
            return web.Response()

        request = make_mocked_request("GET", "/")
        request.protocol.transport = None
        with pytest.raises(ConnectionResetError):
            await while_open(handler)(request)
        assert begun == []


class TestCrowd:
    """When there are too many, the one that was quiet the longest goes, at the address that has most."""

    def test_the_quietest_of_the_most_crowded_address_makes_room(self) -> None:
        crowd = Crowd(4)
        _, honest = opened(crowd, "192.0.2.1")
        first, cut = opened(crowd, "203.0.113.9")
        quiet, also_cut = opened(crowd, "203.0.113.9")
        last, kept = opened(crowd, "203.0.113.9")
        first.data_received(b"x")
        opened(crowd, "192.0.2.2")
        assert (honest.is_cut, cut.is_cut, also_cut.is_cut, kept.is_cut) == (False, False, True, False)
        opened(crowd, "192.0.2.3")
        assert (honest.is_cut, cut.is_cut, kept.is_cut) == (False, False, True)
        assert (len(crowd), crowd.cut) == (4, 2)
        for door in (quiet, last):  # whose end comes a moment later
            door.connection_lost(None)
        assert len(crowd) == 4

    def test_all_addresses_of_one_subscriber_count_as_one(self) -> None:
        crowd = Crowd(4, whose)
        _, honest = opened(crowd, "2001:db8:1::1")
        wires = [opened(crowd, f"2001:db8:2::{number:x}")[1] for number in range(1, 9)]
        assert not honest.is_cut
        assert [wire.is_cut for wire in wires] == 5 * [True] + 3 * [False]
        assert whose("::ffff:192.0.2.1") == whose("192.0.2.1") == "192.0.2.1"
        assert whose("fe80::1%eth0") == whose("fe80::2") == "fe80::/64"
        assert whose("@/run/agent") == "@/run/agent"

    def test_one_that_something_else_bounds_does_not_count(self) -> None:
        crowd = Crowd(1)
        session, wire = opened(crowd)
        session.keep()
        opened(crowd)
        assert not wire.is_cut
        session.data_received(b"x")
        session.connection_lost(None)
        assert len(crowd) == 1

    def test_connections_that_end_leave_nothing(self) -> None:
        crowd = Crowd(100)
        for number in range(1_000):
            opened(crowd, f"192.0.2.{number % 256}")[0].connection_lost(None)
        assert len(crowd) == 0
        assert not crowd._of

    def test_whoever_has_an_address_for_each_connection_drives_out_his_own_quiet_ones(self) -> None:
        """An office behind one address has the most connections then, but is no crowd."""
        crowd = Crowd(256)
        office = [opened(crowd, "192.0.2.1") for _ in range(256 // CROWDED_PART)]
        cut = [opened(crowd, f"203.0.{number // 256}.{number % 256}")[1] for number in range(200)]
        for door, _ in office:
            door.data_received(b"x")
        wires = [opened(crowd, f"198.51.{number // 256}.{number % 256}")[1] for number in range(250)]
        assert all(wire.is_cut for wire in cut[:-2])
        assert not any(wire.is_cut for _, wire in office)
        assert not any(wire.is_cut for wire in wires[-200:])
        opened(crowd, "192.0.2.1")
        opened(crowd, "192.0.2.2")
        assert office[0][1].is_cut, "with one more it is the most crowded address"

    def test_its_order_follows_what_is_heard(self) -> None:
        crowd = Crowd(100)
        doors = [opened(crowd, f"192.0.2.{number % 3}")[0] for number in range(9)]
        for door in reversed(doors):
            door.data_received(b"x")
        assert list(crowd._doors) == doors[::-1]
        assert list(crowd._of["192.0.2.0"]) == doors[6::-3]


class TestBound:
    """How many there may be follows from how many files the process may open."""

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            (resource.RLIM_INFINITY, CONNECTIONS_MAX),
            (1_000_000, CONNECTIONS_MAX),
            (1_024, 1_024 - FILES_RESERVED),
            (100, CONNECTIONS_MIN),
        ],
    )
    def test_files_are_left_for_all_else(self, files: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
        assert connections_max() == expected

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [("(1000, 1200)", "1200 1200"), (f"(1000, {FILES_MAX + 1})", f"{FILES_MAX} {FILES_MAX + 1}")],
    )
    def test_a_daemon_allows_itself_more_files_as_far_as_it_may(self, limits: str, expected: str) -> None:
        script = (
            "import resource; from p2pnodes.hardening import raise_file_limit\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits}); raise_file_limit()\n"
            "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
        )
        if resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= FILES_MAX:
            pytest.skip("the hard limit is lower here")
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        assert ended.stdout.split() == expected.split()

    def test_it_never_takes_files_away(self) -> None:
        script = (
            "import resource; from p2pnodes.hardening import raise_file_limit\n"
            "before = resource.getrlimit(resource.RLIMIT_NOFILE); raise_file_limit()\n"
            "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@asynccontextmanager
async def served(handler: Callable[[web.Request], Any]) -> AsyncIterator[tuple[str, int]]:
    """An application on a free port of loopback."""
    app = web.Application()
    app.router.add_get("/", handler)
    runner = make_runner(app, shutdown_timeout_s=1)
    await runner.setup()
    try:
        host, _, port = (await listen(runner, "127.0.0.1", 0, advice="use another")).rpartition(":")
        yield host, int(port)
    finally:
        await runner.cleanup()


class TestListener:
    """On real sockets."""

    async def test_requests_are_answered_through_the_door(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            assert request.transport is not None
            door = request.transport.get_protocol()
            assert isinstance(door, Door)
            return web.Response(text=door.address)

        async with served(handler) as (host, port):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"127.0.0.1")

    async def test_without_a_file_for_a_connection_it_is_looked_for_again_and_no_more(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By itself asyncio fails 64 times at a look, and looks again for each of these."""
        monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.05)
        told: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["message"]))
        accepted = asyncio.Event()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.set()

        listening = Listening.of(socket.create_server(("127.0.0.1", 0)))
        server = await loop.create_server(Accepted, sock=listening, backlog=64)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as client:
            client.setblocking(False)
            free = os.dup(client.fileno())  # no file from here on
            os.close(free)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                await loop.sock_connect(client, listening.getsockname())
                begin = time.monotonic()
                while len(told) < 4:
                    await asyncio.sleep(0.001)
                assert time.monotonic() - begin > 2 * 0.05
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(20):
                await accepted.wait()
        server.close()
        assert set(told) == {"socket.accept() out of system resource"}

    async def test_a_crowd_that_comes_at_once_is_accepted_a_few_at_a_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What else the loop has to do is done in between; and all who wait are taken in the end."""
        turn = 0
        made: Counter[int] = Counter()
        enter = Crowd.enter

        def counted(self: Crowd, door: Door) -> None:
            made[turn] += 1
            enter(self, door)

        monkeypatch.setattr(Crowd, "enter", counted)

        async def handler(_: web.Request) -> web.Response:
            return web.Response()

        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(served(handler))
            for _ in range(10 * ACCEPTS_AT_ONCE):
                stack.enter_context(socket.create_connection(address))  # it blocks: all wait before one is accepted
            async with asyncio.timeout(10):
                while made.total() < 10 * ACCEPTS_AT_ONCE:
                    await asyncio.sleep(0)
                    turn += 1
        assert max(made.values()) <= ACCEPTS_AT_ONCE + 1

    async def test_requests_that_come_at_once_are_served_in_turn_with_all_else(self) -> None:
        turn = 0
        served_in: Counter[int] = Counter()

        async def handler(_: web.Request) -> web.Response:
            served_in[turn] += 1
            return web.Response()

        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(served(handler))
            sender = stack.enter_context(socket.create_connection(address))
            sender.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
            async with asyncio.timeout(20):
                while served_in.total() < 500:
                    await asyncio.sleep(0)
                    turn += 1
        assert max(served_in.values()) == 1

    async def test_idle_connections_make_room_for_new_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "connections_max", lambda: 5)

        async def handler(_: web.Request) -> web.Response:
            return web.Response(text="served")

        async with AsyncExitStack() as stack:
            host, port = await stack.enter_async_context(served(handler))
            idle = [await asyncio.open_connection(host, port) for _ in range(20)]
            for _, writer in idle:
                stack.callback(writer.close)
            for reader, _ in idle[:15]:
                assert await asyncio.wait_for(reader.read(), 10) == b""
            reader, writer = idle[-1]
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"served")

    async def test_what_a_client_waited_for_ends_when_it_leaves(self) -> None:
        """Else requests would wait without a bound: of each connection one, also of those that are gone."""
        waiting: list[str] = []

        async def handler(_: web.Request) -> web.Response:
            waiting.append("begun")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                waiting.append("ended")
                raise
            return web.Response()

        async with served(while_open(handler)) as (host, port):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(10):
                while waiting != ["begun"]:
                    await asyncio.sleep(0.001)
                writer.transport.abort()
                while waiting != ["begun", "ended"]:
                    await asyncio.sleep(0.001)
