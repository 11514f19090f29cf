"""Verifiers' HTTP: bounded, timed, never led astray, and every failure laid at the right door."""

import asyncio
import errno
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from yarl import URL

from p2pnodes import outbound
from p2pnodes.outbound import PrivateAddressError, PublicResolver
from p2pnodes.verify import exchange as exchange_module
from p2pnodes.verify.exchange import Answer, Exchange, NoAnswerError, host_url
from p2pnodes.verify.finding import VerifierUnavailableError
from tests.support import machine_sleeps

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PUBLIC = "1.1.1.1"


@asynccontextmanager
async def listening(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A TCP server on a free port, below HTTP; its base URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield host_url(host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


def sends(*parts: bytes, pause_s: float = 0.0, hangs: bool = False, resets: bool = False) -> Handler:
    """Write bytes, then close, hang or reset."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if hangs:
            await reader.read()  # until the other end closes
        if resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    return handle


def answer_of(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@asynccontextmanager
async def exchanging(*, allow_private: bool = True, online: bool = True) -> AsyncIterator[Exchange]:
    exchange = Exchange(allow_private=allow_private, online=lambda: online)
    await exchange.start()
    try:
        yield exchange
    finally:
        await exchange.close()


async def ask(exchange: Exchange, url: str, *, timeout_s: float = 5.0, bytes_max: int = 1_024, **more: Any) -> Answer:
    return await exchange.ask_host("GET", f"{url}/info", timeout_s=timeout_s, bytes_max=bytes_max, **more)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str, error: OSError | None = None) -> None:
    """Let every name resolve to these addresses, or fail."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if error is not None:
            raise error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def connecting(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Let every connection attempt fail, before a packet is sent."""

    async def sock_connect(*_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)


class TestAnswers:
    """An answer comes whole, as it is, with the time that it took."""

    async def test_status_and_body_are_returned(self) -> None:
        async with listening(sends(answer_of(b"pong", status=b"418 Teapot"))) as url, exchanging() as exchange:
            answer = await ask(exchange, url)
        assert (answer.status, answer.body) == (418, b"pong")

    async def test_method_headers_and_body_are_sent_as_they_are(self) -> None:
        seen = asyncio.get_running_loop().create_future()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(await reader.readexactly(4))
            writer.write(answer_of(b""))

        async with listening(handle) as url, exchanging() as exchange:
            await exchange.ask_host(
                "POST", f"{url}/prove", timeout_s=5, bytes_max=10, headers={"X-Chutes-Nonce": "7"}, body=b'{"a"'
            )
        assert await seen == b'{"a"'

    async def test_the_time_reaches_to_the_last_byte(self) -> None:
        parts = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", b"b")
        async with listening(sends(*parts, pause_s=0.2)) as url, exchanging() as exchange:
            answer = await ask(exchange, url)
        assert answer.body == b"ab"
        assert 0.2 <= answer.elapsed_s < 5

    async def test_ipv6_is_asked_too(self) -> None:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        async with listening(sends(answer_of(b"six")), "::1") as url, exchanging() as exchange:
            assert (await ask(exchange, url)).body == b"six"

    async def test_a_redirect_is_an_answer_and_is_not_followed(self) -> None:
        visits = 0

        async def trap(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal visits
            visits += 1
            writer.write(answer_of(b"in here"))

        async with listening(trap) as other:
            redirect = answer_of(b"", b"Location: " + other.encode(), status=b"302 Found")
            async with listening(sends(redirect)) as url, exchanging() as exchange:
                assert (await ask(exchange, url)).status == 302
        assert visits == 0

    async def test_nothing_is_decompressed_and_nothing_compressed_is_asked_for(self) -> None:
        seen = asyncio.get_running_loop().create_future()
        bomb = b"\x1f\x8b" + b"0" * 100

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(b"")
            writer.write(answer_of(bomb, b"Content-Encoding: gzip"))

        async with listening(handle) as url, exchanging() as exchange:
            assert (await ask(exchange, url)).body == bomb

    async def test_no_cookie_comes_back(self) -> None:
        requests: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer_of(b"", b"Set-Cookie: a=b"))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = host_url("127.0.0.1", server.sockets[0].getsockname()[1])
        async with server, exchanging() as exchange:
            await ask(exchange, url)
            await ask(exchange, url)
        assert len(requests) == 2
        assert not any(b"cookie:" in request.lower() for request in requests)
        assert all(b"accept-encoding: identity" in request.lower() for request in requests)


WIRE_FAULTS = {
    "closed at once": (sends(), "the connection was closed before an answer"),
    "reset at once": (sends(resets=True), "Connection reset by peer"),
    "half an answer": (
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        "the answer broke off, or has another length than its headers say",
    ),
    "half a chunk": (
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
        "the answer broke off, or has another length than its headers say",
    ),
    "reset in mid-answer": (
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", pause_s=0.05, resets=True),
        "the answer broke off, or has another length than its headers say",
    ),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "no HTTP that can be read: "),
    "two lengths": (sends(answer_of(b"a", b"Content-Length: 9")), "no HTTP that can be read: "),
    "a body that is too long": (sends(answer_of(b"x" * 2_000)), "an answer of over 1024 bytes"),
    "a body without an end": (
        sends(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1_000] * 5, hangs=True),
        "an answer of over 1024 bytes",
    ),
    "silence": (sends(hangs=True), "no answer within 0.3 s"),
    "a slow drip": (
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n", *[b"x"] * 60, pause_s=0.05),
        "no answer within 0.3 s",
    ),
    "headers that drip": (
        sends(b"HTTP/1.1 200 OK\r\n", *[b"A: b\r\n"] * 60, pause_s=0.05),
        "no answer within 0.3 s",
    ),
}


class TestTheOtherSideIsToBlame:
    """What a host does wrong is told in one line, which is bounded and does not name the host."""

    @pytest.mark.parametrize("fault", WIRE_FAULTS)
    async def test_what_the_host_did_is_named(self, fault: str) -> None:
        handler, reason = WIRE_FAULTS[fault]
        async with listening(handler) as url, exchanging() as exchange:
            with pytest.raises(NoAnswerError) as caught:
                await ask(exchange, url, timeout_s=0.3)
        assert str(caught.value).startswith(reason)
        assert "127.0.0.1" not in str(caught.value)

    @pytest.mark.parametrize(
        "headers", [b"A: " + b"x" * 100_000, b"\r\n".join(b"H%d: x" % number for number in range(10_000))]
    )
    async def test_headers_are_bounded(self, headers: bytes) -> None:
        async with listening(sends(answer_of(b"", headers))) as url, exchanging() as exchange:
            with pytest.raises(NoAnswerError, match=r"^no HTTP that can be read") as caught:
                await ask(exchange, url)
        assert len(str(caught.value)) < 400

    async def test_a_closed_port_is_named(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = host_url("127.0.0.1", free.getsockname()[1])
        async with exchanging() as exchange:
            with pytest.raises(NoAnswerError, match=r"^Connection refused$"):
                await ask(exchange, url)

    async def test_a_host_that_drops_packets_costs_the_connection_bound_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exchange_module, "CONNECT_S_MAX", 0.1)

        async def hangs(*_: Any) -> NoReturn:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", hangs)
        async with exchanging() as exchange:
            with pytest.raises(NoAnswerError, match=r"^no connection: the host is down, or drops packets"):
                await ask(exchange, f"http://{PUBLIC}:9", timeout_s=60)

    async def test_a_time_out_of_the_system_is_one_of_the_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connecting(monkeypatch, OSError(errno.ETIMEDOUT, "Connection timed out"))
        async with exchanging() as exchange:
            with pytest.raises(NoAnswerError):
                await ask(exchange, f"http://{PUBLIC}:9")

    async def test_a_name_that_does_not_exist_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, error=socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(NoAnswerError, match=r"^the host's name does not resolve: Name or service not known$"):
                await ask(exchange, "http://gpu.example:80")


class TestPublicAddressesOnly:
    """A miner cannot make a validator connect into its own network."""

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "0.0.0.0",  # noqa: S104 - refused
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[fe80::1]",
            "[64:ff9b::7f00:1]",
            "１２７.0.0.1",  # noqa: RUF001 - full-width digits, which URLs turn into ASCII
            "127。0。0。1",
            "user@127.0.0.1",
        ],
    )
    async def test_an_address_that_is_not_public_is_refused(self, host: str) -> None:
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(NoAnswerError, match=r"^the host is not at a public address$"):
                await ask(exchange, f"http://{host}:9")

    @pytest.mark.parametrize("host", ["2130706433", "127.1", "127.0.0.1.", "0177.0.0.1"])
    async def test_other_spellings_of_an_address_reach_nobody(self, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        connecting(monkeypatch, AssertionError("connects"))  # type: ignore[arg-type]
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(NoAnswerError):
                await ask(exchange, f"http://{host}:9")

    @pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "192.168.0.1"]])
    async def test_a_name_that_resolves_to_a_private_address_is_refused(
        self, addresses: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving(monkeypatch, *addresses)
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(NoAnswerError, match=r"^the host is not at a public address$"):
                await ask(exchange, "http://gpu.example:80")

    async def test_the_resolver_names_what_it_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, "10.1.2.3")
        with pytest.raises(PrivateAddressError, match=r"^gpu\.example is at 10\.1\.2\.3, which is no public address$"):
            await PublicResolver().resolve("gpu.example", 80)

    async def test_a_public_address_is_connected_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, PUBLIC)
        connecting(monkeypatch, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(NoAnswerError, match=r"^Connection refused$"):
                await ask(exchange, "http://gpu.example:80")

    async def test_services_of_the_operator_may_be_anywhere(self) -> None:
        async with listening(sends(answer_of(b"mine"))) as url, exchanging(allow_private=False) as exchange:
            answer = await exchange.ask_service("POST", f"{url}/encrypt", timeout_s=5, bytes_max=100)
        assert answer.body == b"mine"


class TestHostUrl:
    """Whatever a miner names as its host, that host is asked and no other."""

    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("192.0.2.1", "http://192.0.2.1:80"),
            ("2001:db8::1", "http://[2001:db8::1]:80"),
            ("gpu-1.example", "http://gpu-1.example:80"),
            ("gpu_1.1example.", "http://gpu_1.1example.:80"),
            ("127.0.0.1.nip.example", "http://127.0.0.1.nip.example:80"),
        ],
    )
    def test_addresses_and_names_become_urls(self, host: str, url: str) -> None:
        assert host_url(host, 80) == url

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "gpu.example/prove?",
            "gpu.example#",
            "user@gpu.example",
            "gpu.example:81",
            "[::1]",
            "fe80::1%eth0",
            "gpu example",
            "gpu.example\r\nX: y",
            "1２7.0.0.1",  # noqa: RUF001 - a full-width digit
            "127.1",
            "2130706433",
            "0x7f000001",
            "127.0.0.1.",
            "..",
            "gpu..example",
            "x" * 64 + ".example",
            "x." * 127 + "example",
        ],
    )
    def test_anything_else_is_refused(self, host: str) -> None:
        with pytest.raises(NoAnswerError, match=r"^verification_host and verification_port are no address or name"):
            host_url(host, 80)

    @pytest.mark.parametrize("port", [-1, 0, 65_536])
    @pytest.mark.parametrize("host", ["192.0.2.1", "gpu.example"])
    def test_a_port_that_is_none_is_refused(self, host: str, port: int) -> None:
        with pytest.raises(NoAnswerError):
            host_url(host, port)


class TestOwnFaults:
    """What this validator cannot do is never a miner's fault."""

    @pytest.mark.parametrize(
        "number", [errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL]
    )
    async def test_a_network_or_limit_of_this_machine_is(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        connecting(monkeypatch, OSError(number, "so it is"))
        async with exchanging() as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"^this machine cannot connect: "):
                await ask(exchange, f"http://{PUBLIC}:9")

    async def test_name_servers_that_do_not_answer_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, error=socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"Temporary failure in name resolution"):
                await ask(exchange, "http://gpu.example:80")

    async def test_names_that_hang_keep_nobody_elses_from_being_looked_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pool of asyncio has some six threads: with it, a few such names would make other miners fail."""
        let_go = threading.Event()

        def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            if host != "gpu.example":
                let_go.wait(30)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            async with listening(sends(answer_of(b"pong"))) as url, exchanging() as exchange:
                port = URL(url).port
                hanging = [asyncio.create_task(ask(exchange, f"http://gpu-{n}.example:{port}")) for n in range(64)]
                await asyncio.sleep(0)
                assert (await ask(exchange, f"http://gpu.example:{port}")).body == b"pong"
                for task in hanging:
                    task.cancel()
                await asyncio.gather(*hanging, return_exceptions=True)
        finally:
            let_go.set()

    async def test_too_many_names_that_hang_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbound, "LOOKUPS_MAX", 0)
        async with exchanging(allow_private=False) as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"0 names are being looked up already"):
                await ask(exchange, "http://gpu.example:80")

    async def test_while_no_peer_is_heard_silence_is(self) -> None:
        async with listening(sends(hangs=True)) as url, exchanging(online=False) as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"this network may be down"):
                await ask(exchange, url, timeout_s=0.1)

    async def test_while_no_peer_is_heard_a_reset_is(self) -> None:
        async with listening(sends(resets=True)) as url, exchanging(online=False) as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"this network may be down"):
                await ask(exchange, url)

    async def test_while_no_peer_is_heard_an_answer_still_counts(self) -> None:
        async with listening(sends(answer_of(b"pong"))) as url, exchanging(online=False) as exchange:
            assert (await ask(exchange, url)).body == b"pong"

    async def test_a_time_out_while_the_event_loop_stood_still_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange_module, "LATE_S_MAX", 0.1)

        async def stands_still(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            time.sleep(0.4)
            await asyncio.sleep(1)

        async with listening(stands_still) as url, exchanging() as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"^this daemon was busy for 0\.\d s while it waited"):
                await ask(exchange, url, timeout_s=0.3)

    async def test_a_connection_that_broke_while_the_machine_slept_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def breaks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            machine_sleeps(monkeypatch, 3_600)
            writer.transport.abort()

        async with listening(breaks) as url, exchanging() as exchange:
            with pytest.raises(VerifierUnavailableError, match=r"^this daemon was busy for \d{4}\.\d s"):
                await ask(exchange, url)

    @pytest.mark.parametrize("fault", WIRE_FAULTS)
    async def test_whatever_a_service_of_the_operator_does_is(self, fault: str) -> None:
        handler, reason = WIRE_FAULTS[fault]
        async with listening(handler) as url, exchanging() as exchange:
            with pytest.raises(VerifierUnavailableError) as caught:
                await exchange.ask_service("POST", f"{url}/encrypt", timeout_s=0.3, bytes_max=1_024)
        assert str(caught.value).startswith(f"{url}/encrypt: {reason}")


class TestLateness:
    """How late the event loop was during an exchange is known with its answer."""

    async def test_an_idle_loop_is_not_late(self) -> None:
        async with listening(sends(answer_of(b""))) as url, exchanging() as exchange:
            assert (await ask(exchange, url)).late_s < exchange_module.LATE_S_MAX

    async def test_a_loop_that_stood_still_is_late_by_about_that(self) -> None:
        async def stands_still(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.15)
            time.sleep(0.5)
            writer.write(answer_of(b""))

        async with listening(stands_still) as url, exchanging() as exchange:
            answer = await ask(exchange, url)
        assert 0.5 - exchange_module.BEAT_S <= answer.late_s <= answer.elapsed_s

    async def test_a_machine_that_slept_is_late_by_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else the work of a GPU that took a minute seems to have taken seconds, and so to be another's."""

        async def sleeps(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            machine_sleeps(monkeypatch, 60)
            writer.write(answer_of(b""))

        async with listening(sleeps) as url, exchanging() as exchange:
            answer = await ask(exchange, url)
        assert 59 <= answer.late_s <= answer.elapsed_s

    async def test_lateness_of_before_is_not_counted(self) -> None:
        async with listening(sends(answer_of(b""))) as url, exchanging() as exchange:
            await asyncio.sleep(0)
            time.sleep(0.6)
            async with asyncio.timeout(10):
                while not exchange._beats:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert (await ask(exchange, url)).late_s < 0.4

    async def test_what_is_remembered_is_bounded(self) -> None:
        async with exchanging() as exchange:
            assert exchange._beats.maxlen == exchange_module.BEATS_KEPT


class TestNothingIsLeft:
    """Whatever happens, connections end with their exchange."""

    async def test_a_cancelled_exchange_closes_its_connection(self) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            begun.set()
            await reader.read()
            ended.set()

        async with listening(handle) as url, exchanging() as exchange:
            asking = asyncio.create_task(ask(exchange, url, timeout_s=60))
            async with asyncio.timeout(10):
                await begun.wait()
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await ended.wait()
        assert asking.cancelled()

    async def test_connections_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange_module, "CONNECTIONS_MAX", 3)
        running = most = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            writer.write(answer_of(b""))
            await writer.drain()
            running -= 1

        async with listening(handle) as url, exchanging() as exchange:
            await asyncio.gather(*(ask(exchange, url, timeout_s=30) for _ in range(12)))
            services = (exchange.ask_service("GET", url, timeout_s=30, bytes_max=9) for _ in range(12))
            assert most == 3
            await asyncio.gather(*services)
        assert most == 3

    async def test_who_waits_for_a_connection_is_not_on_the_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange_module, "CONNECTIONS_MAX", 1)
        async with listening(sends(b"", answer_of(b""), pause_s=0.3)) as url, exchanging() as exchange:
            begun_s = time.monotonic()
            asked = await asyncio.gather(*(ask(exchange, url, timeout_s=2.0) for _ in range(8)))
        assert time.monotonic() - begun_s >= 8 * 0.3
        assert max(answer.elapsed_s for answer in asked) < 2.0

    async def test_closing_one_that_was_not_started_is_nothing(self) -> None:
        await Exchange(allow_private=False, online=lambda: True).close()
