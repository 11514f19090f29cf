"""Where connections come in: addresses, names, and both versions of IP at once."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from p2pnodes.api.limits import client_address
from p2pnodes.inbound import authority, bind, listen, make_runner
from p2pnodes.model.errors import ConfigError
from tests.support import has_ipv6

ADVICE = "use another"
DENIED = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
async def runner() -> AsyncIterator[web.AppRunner]:
    """An application that answers whose limits a client counts to."""

    async def who(request: web.Request) -> web.Response:
        return web.Response(text=client_address(request.remote, (), ()))

    app = web.Application()
    app.router.add_get("/", who)
    runner = make_runner(app, shutdown_timeout_s=1)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest.fixture
def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that was started with ``ipv6.disable=1``."""
    create = socket.create_server

    def refuse(address: Any, *, family: int, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise DENIED
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", refuse)


async def ask(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


def names(*addresses: str) -> Callable[..., Any]:
    """A resolver for which every name has these addresses."""

    async def look_up(name: str, port: int = 0, **_: Any) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    return look_up


class TestDualStack:
    """``::`` is one socket for both versions of IP, and who comes by IPv4 is known by its IPv4 address."""

    @needs_ipv6
    async def test_clients_of_both_versions_come_to_one_socket(self, runner: web.AppRunner) -> None:
        where = await listen(runner, "::", 0, advice=ADVICE)
        assert where.startswith("[::]:")
        assert len(runner.sites) == 1
        port = where.rpartition(":")[2]
        assert await ask(f"http://127.0.0.1:{port}/") == "127.0.0.1"
        assert await ask(f"http://[::1]:{port}/") == "::/64"

    @needs_ipv6
    async def test_an_ipv6_address_is_that_address_alone(self, runner: web.AppRunner) -> None:
        where = await listen(runner, "::1", 0, advice=ADVICE)
        assert await ask(f"http://{where}/") == "::/64"
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(f"http://127.0.0.1:{where.rpartition(':')[2]}/")

    async def test_an_ipv4_address_is_that_address_alone(self, runner: web.AppRunner) -> None:
        where = await listen(runner, "127.0.0.1", 0, advice=ADVICE)
        assert await ask(f"http://{where}/") == "127.0.0.1"
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(f"http://[::1]:{where.rpartition(':')[2]}/")

    @pytest.mark.usefixtures("without_ipv6")
    async def test_a_kernel_without_ipv6_is_told_in_one_line(self, runner: web.AppRunner) -> None:
        with pytest.raises(ConfigError) as refused:
            await listen(runner, "::", 8000, advice=ADVICE)
        assert str(refused.value) == "cannot listen on [::]:8000: this system has no IPv6; use another"

    async def test_a_kernel_without_mapped_addresses_is_told_in_one_line(
        self, runner: web.AppRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
        with pytest.raises(ConfigError, match=r"^cannot listen on \[::\]:0: this system has no IPv6; use another$"):
            await listen(runner, "::", 0, advice=ADVICE)


class TestNames:
    """A name is all its addresses, at one port."""

    @needs_ipv6
    async def test_every_address_of_a_name_is_listened_on(
        self, runner: web.AppRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.inbound.look_up", names("127.0.0.1", "::1", "127.0.0.1"))
        where = await listen(runner, "both.example", 0, advice=ADVICE)
        port = where.rpartition(":")[2]
        assert where == f"127.0.0.1:{port}"
        assert await ask(f"http://127.0.0.1:{port}/") == "127.0.0.1"
        assert await ask(f"http://[::1]:{port}/") == "::/64"

    @pytest.mark.usefixtures("without_ipv6")
    async def test_its_ipv6_address_is_passed_over_where_there_is_no_ipv6(
        self, runner: web.AppRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.inbound.look_up", names("::1", "127.0.0.1"))
        assert (await listen(runner, "both.example", 0, advice=ADVICE)).startswith("127.0.0.1:")

    @pytest.mark.usefixtures("without_ipv6")
    async def test_a_name_with_no_address_that_can_be_used_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.inbound.look_up", names("::1", "::2"))
        with pytest.raises(ConfigError, match=r"^cannot listen on six.example:80: Address family not supported"):
            await bind("six.example", 80, advice=ADVICE)

    async def test_a_name_that_does_not_resolve_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"^cannot listen on p2pnodes.invalid:80: .*[a-z]; use another$"):
            await bind("p2pnodes.invalid", 80, advice=ADVICE)

    async def test_who_stops_while_one_is_looked_up_leaves_no_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon that is told to stop just then."""
        loop, asked, go, troubles = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), list[object]()

        def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
            loop.call_soon_threadsafe(asked.set)
            go.wait(10)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        loop.set_exception_handler(lambda _, trouble: troubles.append(trouble))
        binding = asyncio.create_task(bind("localhost", 0, advice=ADVICE))
        await asked.wait()
        binding.cancel()
        await asyncio.wait([binding])
        go.set()
        while any(thread.name == "p2pnodes-lookup" for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        assert binding.cancelled()
        assert troubles == []


class TestRefusals:
    """Why it cannot listen is the system's own word for it, and nothing stays open."""

    async def test_a_port_that_is_taken(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError) as refused:
                await bind("127.0.0.1", port, advice=ADVICE)
        assert str(refused.value) == f"cannot listen on 127.0.0.1:{port}: Address already in use; use another"

    async def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(ConfigError, match=r"^cannot listen on 192\.0\.2\.1:0: Cannot assign requested address; "):
            await bind("192.0.2.1", 0, advice=ADVICE)

    async def test_an_ipv6_address_of_another_machine(self) -> None:
        with pytest.raises(ConfigError, match=r"^cannot listen on \[2001:db8::1\]:0: this system has no IPv6, or no "):
            await bind("2001:db8::1", 0, advice=ADVICE)

    async def test_what_was_opened_before_a_refusal_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.inbound.look_up", names("127.0.0.1", "192.0.2.1"))
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        for _ in range(2):  # the second time, 127.0.0.1 would be in use
            with pytest.raises(ConfigError, match="Cannot assign requested address"):
                await bind("half.example", port, advice=ADVICE)


@pytest.mark.parametrize(
    ("host", "written"), [("192.0.2.1", "192.0.2.1:80"), ("2001:db8::1", "[2001:db8::1]:80"), ("a.b", "a.b:80")]
)
def test_an_ipv6_address_is_in_brackets(host: str, written: str) -> None:
    assert authority(host, 80) == written
