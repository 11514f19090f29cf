"""Incoming HTTP connections: their bounds and time-outs, and what aiohttp's own parser refuses.

Errors that aiohttp finds before a handler runs (a NUL in a header, too many headers, a TLS hello) never reach the
application. It answers them with 400 and logs a traceback for each; ``ParserErrors`` makes that one line, and few.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from p2pnodes.connections import DoorSite, Listening, in_turn
from p2pnodes.handover import Handover, Place
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, printable
from p2pnodes.outbound import look_up
from p2pnodes.throttle import FewLines

log = structlog.get_logger(__name__)

HEADERS_MAX: Final = 128
HEADER_BYTES_MAX: Final = 8190
REQUEST_LINE_BYTES_MAX: Final = 8190
IDLE_TIMEOUT_S: Final = 75.0
"""Seconds that a connection may stay without a complete request: idle, or sending its headers drop by drop."""

LINGER_S: Final = 2.0
"""Seconds for which the rest of a refused body is read, so that the client sees the answer and not a reset."""

SHUTDOWN_S: Final = 3.0
"""Seconds that requests in progress get to finish when the daemon stops."""

PARSER_ERRORS_PER_S: Final = 0.2
PARSER_ERRORS_BURST: Final = 5

ADDRESSES_KEPT: Final = 1_024
"""Addresses of connections that are kept parsed: one connection carries many requests."""

BACKLOG: Final = 1_024
"""Connections that wait to be accepted, at most: a crowd of miners that comes back at once."""

EVERY_ADDRESS: Final = "::"
"""Host that means every interface, by IPv4 and IPv6."""

_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT})
"""What a kernel answers that has no IPv6, or has it turned off."""

_HOST_BITS_V6: Final = 64
"""Bits of an IPv6 address that its holder chooses freely: a /64 is one subscriber (RFC 6177)."""

Address = IPv4Address | IPv6Address


@lru_cache(ADDRESSES_KEPT)
def parse_address(text: str) -> Address | None:
    """An address as a socket or a header has it, IPv4 in its own form; None where it is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@lru_cache(ADDRESSES_KEPT)
def address_key(client: Address) -> str:
    """Whose limits a client counts to: an IPv4 address, or an IPv6 /64."""
    if isinstance(client, IPv4Address):
        return str(client)
    return f"{IPv6Address(int(client) >> _HOST_BITS_V6 << _HOST_BITS_V6)}/{_HOST_BITS_V6}"


def whose(peer: str) -> str:
    """The same of a socket's peer, as the system writes it."""
    address = parse_address(peer)
    return peer if address is None else address_key(address)


class ParserErrors(logging.Filter):
    """Turns aiohttp's tracebacks about unreadable requests into single lines, at most one per 5 s after the first 5."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count time by ``clock``, in seconds."""
        super().__init__()
        self._lines = FewLines(PARSER_ERRORS_BURST, PARSER_ERRORS_PER_S, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass that is not a parser's error; log those here."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if not isinstance(error, HttpProcessingError):
            return True
        suppressed = self._lines.take()
        if suppressed is None:
            return False
        remote = record.args[0] if isinstance(record.args, tuple) and record.args else None
        reason = printable(" ".join(error.message.split()))
        log.warning(
            "unreadable_request",
            remote=remote,
            reason=reason,
            suppressed=suppressed,
            code=Code.API_UNREADABLE,
        )
        return False


def authority(host: str, port: int) -> str:
    """``HOST:PORT`` as a URL has it: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def bind(host: str, port: int, *, advice: str, handover: Handover | None = None) -> list[Listening]:
    """Sockets that listen on a host, for the caller to close.

    Args:
        host: An address; a name, for all its addresses; or ``::`` for every interface, which is one socket for IPv4
            and IPv6 both, whatever the system's own default for them (``net.ipv6.bindv6only``) is.
        port: 0 takes a free one, the same for all addresses of a name.
        advice: What the operator can do where it cannot listen, the end of the message.
        handover: Holds the sockets of the process before this one, and will hold these.

    Returns:
        At least one socket.

    Raises:
        ConfigError: It cannot listen there; the message says why.
    """
    listening: list[socket.socket] = []
    taken: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = await asyncio.shield(look_up(host, port, flags=socket.AI_PASSIVE))
        if handover is not None:
            wanted = [Place(family, address[0], port) for family, _, _, _, address in found]
            taken = await asyncio.to_thread(handover.take, wanted, dual=host == EVERY_ADDRESS)
            listening += taken
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            if listening and port == 0:
                port = listening[0].getsockname()[1]
            if Place(family, address[0], port) in map(Place.of, taken):
                continue
            try:
                opened = socket.create_server(
                    (address[0], port, *address[2:]),
                    family=family,
                    backlog=BACKLOG,
                    dualstack_ipv6=host == EVERY_ADDRESS,
                )
            except OSError as error:
                if len(found) == 1 or family != socket.AF_INET6 or error.errno not in _NO_IPV6:
                    raise
                absent = error  # a name may have an IPv6 address that this system cannot use
            else:
                listening.append(opened)
        if not listening and absent is not None:
            raise absent
    except (OSError, ValueError) as error:
        for each in listening:
            each.close()
        raise ConfigError(
            f"cannot listen on {authority(host, port)}: {why_not(error, host)}; {advice}",
            code=Code.CONFIG_ADDRESS_TAKEN,
        ) from error
    if handover is not None and len(listening) > len(taken):
        handover.keep(listening[len(taken) :])
    return [Listening.of(each) for each in listening]


def why_not(error: OSError | ValueError, host: str) -> str:
    """The operating system's word for an error, without what Python adds to it."""
    if isinstance(error, ValueError) or (":" in host and error.errno in _NO_IPV6):
        return "this system has no IPv6" if host == EVERY_ADDRESS else "this system has no IPv6, or no such address"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def listen(runner: web.AppRunner, host: str, port: int, *, advice: str, handover: Handover | None = None) -> str:
    """Serve an application on a host, until the runner's ``cleanup()``; arguments and errors as ``bind`` has them.

    Returns:
        ``HOST:PORT`` of the first address, with the port that it is.
    """
    listening = await bind(host, port, advice=advice, handover=handover)
    for each in listening:
        await DoorSite(runner, each, backlog=BACKLOG, whose=whose).start()
    return authority(*listening[0].getsockname()[:2])


def make_runner(app: web.Application, *, shutdown_timeout_s: float = SHUTDOWN_S) -> web.AppRunner:
    """Runner of an application; whoever calls it adds sites.

    Args:
        app: The application.
        shutdown_timeout_s: Seconds that requests in progress get when it is stopped.
    """
    logger = logging.getLogger(f"{__name__}.aiohttp")
    logger.filters[:] = [ParserErrors()]
    logger.setLevel(logging.DEBUG)  # what is not HTTP at all (a TLS hello, say) aiohttp logs there
    app.middlewares.insert(0, in_turn)
    return web.AppRunner(
        app,
        shutdown_timeout=shutdown_timeout_s,
        logger=logger,
        access_log=None,  # at the rate of polls, a line per request is what fills disks
        max_headers=HEADERS_MAX,
        max_field_size=HEADER_BYTES_MAX,
        max_line_size=REQUEST_LINE_BYTES_MAX,
        keepalive_timeout=IDLE_TIMEOUT_S,
        lingering_time=LINGER_S,
        auto_decompress=False,  # the miner signed the bytes that it sent; and no bombs
    )
