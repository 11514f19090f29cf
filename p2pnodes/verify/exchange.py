"""HTTP as verifiers need it: bounded, timed, never led astray, and every failure laid at the right door.

A host that a miner names is asked at a public address only; no redirect is followed, no proxy or cookie is used,
nothing is decompressed. What goes wrong is either the other side's doing (``NoAnswerError``) or this validator's own
(``VerifierUnavailableError``): its network is down, its resources are used up, its event loop was late.
"""

import asyncio
import errno
import math
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from p2pnodes.model.errors import printable
from p2pnodes.outbound import (
    LookupsBusyError,
    PrivateAddressError,
    PublicResolver,
    ThreadResolver,
    require_public_literal,
)
from p2pnodes.steady import steady_s
from p2pnodes.verify.finding import VerifierUnavailableError

CONNECT_S_MAX: Final = 5.0
CONNECTIONS_MAX: Final = 1_024
"""Connections that are open at the same time, to hosts and as many to services: one for each check that settings allow.
Who waits for one is not on the clock yet: this daemon's own limit makes nobody slow."""

HEADER_BYTES_MAX: Final = 8_190
LATE_S_MAX: Final = 1.0
"""Lateness of the own event loop during an exchange from which on its time-out, or its time, is not the miner's. A
machine that slept is late by all of that."""

BEAT_S: Final = 0.1
"""How often the event loop's lateness is looked at."""

LATE_S_MIN: Final = 0.02
"""Lateness that is worth remembering; below lies what any busy event loop shows."""

BEATS_KEPT: Final = 8_192
"""Late beats that are remembered: for minutes of a loop that is late at every one."""

_OWN_ERRORS: Final = frozenset(
    {errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""Errors of a connection attempt that say something about this machine, not about the other one."""

_NAME: Final = re.compile(
    r"(?=.{1,253}$)(?:[A-Za-z0-9_-]{1,63}\.)*(?![0-9]+\.?$|0[xX])[A-Za-z0-9_-]{1,63}\.?", re.ASCII
)
"""A host name. Its last label is no number: ``127.1`` and ``2130706433`` are spellings of addresses, which systems read
in ways of their own (WHATWG URL, "ends in a number")."""


class NoAnswerError(Exception):
    """The other side gave no answer that can be used; the text says what it did, for its owner."""


class Answer(NamedTuple):
    """An answer, whole.

    Attributes:
        status: HTTP status; a redirect comes as what it is.
        body: At most as long as was allowed.
        elapsed_s: From just before the connection attempt to the last byte.
        late_s: The most by which this daemon's event loop was late meanwhile: an uncertainty of ``elapsed_s``.
    """

    status: int
    body: bytes
    elapsed_s: float
    late_s: float


def host_url(host: str, port: int) -> str:
    """Base URL of a host that a miner named, which may be any text.

    Args:
        host: An address, IPv6 without brackets, or a name in ASCII.
        port: TCP port.

    Raises:
        NoAnswerError: It is neither, so nobody can be asked: with a slash or an at sign in it, another host would be.
    """
    try:
        address = ip_address(host)
    except ValueError:
        if _NAME.fullmatch(host) and 0 < port < 65_536:
            return f"http://{host}:{port}"
    else:
        if getattr(address, "scope_id", None) is None and 0 < port < 65_536:
            return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"
    raise NoAnswerError("verification_host and verification_port are no address or name, and port, to connect to")


class Exchange:
    """Asks HTTP servers; open it with ``start``, end it with ``close``."""

    def __init__(self, *, allow_private: bool, online: Callable[[], bool]) -> None:
        """Prepare.

        Args:
            allow_private: Ask miners' hosts at private addresses, too: for devnets.
            online: Whether this daemon has reason to believe that its own network works. While it has none, nobody
                else is blamed for silence.
        """
        self._allow_private = allow_private
        self._online = online
        self._host_turns = asyncio.Semaphore(CONNECTIONS_MAX)
        self._service_turns = asyncio.Semaphore(CONNECTIONS_MAX)
        self._hosts: aiohttp.ClientSession | None = None
        self._services: aiohttp.ClientSession | None = None
        self._beat: asyncio.Task[None] | None = None
        self._beat_due_s = math.inf
        self._beats: deque[tuple[float, float]] = deque(maxlen=BEATS_KEPT)

    async def start(self) -> None:
        """Open the client sessions."""
        self._hosts = _session(ThreadResolver() if self._allow_private else PublicResolver())
        self._services = _session(ThreadResolver())
        self._beat = asyncio.create_task(self._watch_loop())

    async def close(self) -> None:
        """End what is open."""
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        for session in (self._hosts, self._services):
            if session is not None:
                await session.close()

    async def ask_host(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        bytes_max: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask a host that a miner named.

        Args:
            method: HTTP method.
            url: ``http://host:port/path``, begun by ``host_url``.
            timeout_s: For the whole exchange, from the moment on when a connection is free.
            bytes_max: Longest body that is read.
            headers: Sent as they are.
            body: Sent as it is.

        Raises:
            NoAnswerError: The host refused, hung, broke off, sent too much, or lies at a private address.
            VerifierUnavailableError: This validator's own network or machine is in trouble.
        """
        assert self._hosts is not None, "BUG! the exchange is not started"
        async with self._host_turns:
            begun_s = steady_s()
            try:
                target = URL(url)
                if not self._allow_private:
                    # As it will be connected to: a URL's host is normalised, and full-width digits become an address.
                    require_public_literal(target)
                return await self._ask(self._hosts, method, target, timeout_s, bytes_max, headers, body)
            except TimeoutError as error:
                self._require_own_health(begun_s)
                raise NoAnswerError(_silence(error, timeout_s)) from error
            except ValueError as error:  # InvalidURL is one; yarl's own are not aiohttp's
                raise NoAnswerError("no URL that can be asked") from error
            except (aiohttp.ClientError, OSError) as error:
                if _own_fault(error):
                    raise VerifierUnavailableError(f"this machine cannot connect: {_reason(error)}") from error
                self._require_own_health(begun_s)
                raise NoAnswerError(_reason(error)) from error

    async def ask_service(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        bytes_max: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask a service of the operator's own, at whatever address; arguments as for ``ask_host``.

        Raises:
            VerifierUnavailableError: It gave no answer: nobody but this validator is to blame.
        """
        assert self._services is not None, "BUG! the exchange is not started"
        try:
            async with self._service_turns:
                return await self._ask(self._services, method, URL(url), timeout_s, bytes_max, headers, body)
        except TimeoutError as error:
            raise VerifierUnavailableError(f"{url}: {_silence(error, timeout_s)}") from error
        except (aiohttp.ClientError, OSError, NoAnswerError) as error:
            raise VerifierUnavailableError(f"{url}: {_reason(error)}") from error

    async def _ask(  # noqa: PLR0917 - the arguments of one request
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        timeout_s: float,
        bytes_max: int,
        headers: Mapping[str, str] | None,
        body: bytes | None,
    ) -> Answer:
        begun_s = steady_s()
        async with (
            asyncio.timeout(timeout_s),
            session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer,
        ):
            content = bytearray()
            async for part in answer.content.iter_any():
                content += part
                if len(content) > bytes_max:
                    raise NoAnswerError(f"an answer of over {bytes_max} bytes")
        return Answer(answer.status, bytes(content), steady_s() - begun_s, self._late_s(begun_s))

    def _require_own_health(self, begun_s: float) -> None:
        """Blame nobody else for silence while this daemon may be the cause."""
        if (late_s := self._late_s(begun_s)) > LATE_S_MAX:
            raise VerifierUnavailableError(was_busy(late_s))
        if not self._online():
            raise VerifierUnavailableError("a host does not answer, and no peer either: this network may be down")

    def _late_s(self, since_s: float) -> float:
        """The most by which the event loop was late since a moment; a beat that is overdue counts, too."""
        overdue_s = max(0.0, steady_s() - self._beat_due_s)
        return max([overdue_s, *(late_s for at_s, late_s in self._beats if at_s >= since_s)])

    async def _watch_loop(self) -> None:
        while True:
            self._beat_due_s = steady_s() + BEAT_S
            await asyncio.sleep(BEAT_S)
            now_s = steady_s()
            if (late_s := now_s - self._beat_due_s) >= LATE_S_MIN:
                self._beats.append((now_s, late_s))


def was_busy(late_s: float) -> str:
    """What the operator is told where this daemon's own lateness makes an answer worthless, or none."""
    return f"this daemon was busy for {late_s:.1f} s while it waited; give it more CPU"


def _session(resolver: aiohttp.abc.AbstractResolver) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )


def _own_fault(error: Exception) -> bool:
    """Whether a failed connection says something about this machine: its network, its limits, its name servers."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, socket.gaierror):
        return cause.errno in {socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY}
    return isinstance(cause, LookupsBusyError) or (isinstance(cause, OSError) and cause.errno in _OWN_ERRORS)


def _silence(error: TimeoutError, timeout_s: float) -> str:
    """What timed out: the connection attempt has a bound of its own, and the system may have one."""
    if isinstance(error, aiohttp.ConnectionTimeoutError) or error.errno is not None:
        return "no connection: the host is down, or drops packets to this port"
    return f"no answer within {timeout_s:g} s"


def _reason(error: Exception) -> str:
    """An error in one bounded line, which never names the host: findings are public, and where a GPU is, is not."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    match cause:
        case PrivateAddressError():
            return "the host is not at a public address"
        case LookupsBusyError():
            return printable(cause.strerror or "too many names are being looked up")
        case ssl.SSLError():
            return printable(f"TLS failed: {cause.reason}")
        case socket.gaierror():
            return printable(f"the host's name does not resolve: {cause.strerror}")
        case OSError(errno=int() as number) if number > 0:
            return os.strerror(number)
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before an answer"
        case aiohttp.ClientPayloadError():
            return "the answer broke off, or has another length than its headers say"
        case aiohttp.ClientResponseError():
            return "no HTTP that can be read: " + printable(cause.message.strip().partition("\n")[0].rstrip(": "))
        case NoAnswerError():
            return printable(str(cause))
        case _:
            return type(cause).__name__
