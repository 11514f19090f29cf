"""Outgoing connections whose target others name: peers by their URLs, miners by their verification hosts.

Whoever names a host must not be able to make this daemon connect into its operator's own network. An address is judged
by what it is, a name by every address that it resolves to, at the moment of the connection.
"""

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from socket import AF_INET, AddressFamily
from typing import Any, Final

from aiohttp import ClientSSLError
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from p2pnodes.model.addresses import is_public

LOOKUPS_MAX: Final = 256
"""Names that one resolver looks up at the same time: each has a thread for as long as its name servers take.
``TasksMax=`` of the unit has room for those of all resolvers."""

_NO_KNOWN_CA: Final = frozenset({18, 19, 20, 21})
"""How OpenSSL says that a certificate leads to no authority that is trusted; not that it expired or names another host.

Source: X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT to X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, openssl/x509_vfy.h.
"""


class PrivateAddressError(OSError):
    """A host that others named is at an address that is not public."""


class LookupsBusyError(OSError):
    """Too many names are being looked up already, or there is no thread for one more: no word on this one."""


def look_up(name: str, port: int = 0, family: int = socket.AF_UNSPEC, flags: int = 0) -> "asyncio.Future[list[Any]]":
    """Ask the system for the addresses of a name, in a thread of its own; wait for it with ``asyncio.shield``.

    ``getaddrinfo`` cannot be interrupted, and the interpreter waits for the threads of an executor when it exits: in a
    daemon thread, a name that hangs does not hold up the daemon's stop.

    Returns:
        What ``socket.getaddrinfo`` gives for TCP; an OSError where the name does not resolve, a ``LookupsBusyError``
        where the system allows no more threads. Done when the thread is.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()
    found.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # seen, where nobody waits any more

    def ask() -> None:
        outcome: tuple[Callable[[Any], None], Any]
        try:
            infos = socket.getaddrinfo(name, port, family=family, type=socket.SOCK_STREAM, flags=flags)
            outcome = found.set_result, infos
        except OSError as error:
            outcome = found.set_exception, error
        except UnicodeError:  # no name that can be asked for: a label is too long, say
            outcome = found.set_exception, socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(*outcome)

    try:
        threading.Thread(target=ask, name="p2pnodes-lookup", daemon=True).start()
    except RuntimeError:  # TasksMax= of the service, or the user's own bound
        busy = LookupsBusyError(errno.EAGAIN, "the system allows no more threads, in which names are looked up")
        found.set_exception(busy)
    return found


class ThreadResolver(AbstractResolver):
    """Resolves names, each in a thread of its own.

    A name whose servers do not answer holds its thread for many seconds. asyncio's pool, which aiohttp would use, has
    some six threads for the whole process: a few such names would keep everybody else's from being looked up.
    """

    def __init__(self) -> None:
        """Start with nothing to look up."""
        self._running = 0

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        """See ``aiohttp.abc.AbstractResolver``.

        Raises:
            LookupsBusyError: See its own text.
            OSError: The name does not resolve.
        """
        if self._running >= LOOKUPS_MAX:
            raise LookupsBusyError(errno.EAGAIN, f"{LOOKUPS_MAX} names are being looked up already")
        self._running += 1
        lookup = look_up(host, port, family, socket.AI_ADDRCONFIG)
        lookup.add_done_callback(self._ended)
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, proto, _, address in await asyncio.shield(lookup)
        ]

    def _ended(self, _: "asyncio.Future[list[Any]]") -> None:
        self._running -= 1

    async def close(self) -> None:
        """Nothing to close: lookups end by themselves."""


class PublicResolver(ThreadResolver):
    """Resolves names to public addresses only."""

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        """See ``ThreadResolver``.

        Raises:
            PrivateAddressError: Not every address of the name is public.
            OSError: The name does not resolve, or too many are being looked up.
        """
        found = await super().resolve(host, port, family)
        for entry in found:
            if not is_public(ip_address(entry["host"])):
                raise PrivateAddressError(f"{host} is at {entry['host']}, which is no public address")
        return found


def require_public_literal(url: URL) -> None:
    """Refuse a URL whose host is an address, and not a public one: aiohttp resolves names only.

    The host is judged as yarl, and so aiohttp, has it: full-width digits, which others leave as they are, have become
    plain ones by then.

    Raises:
        PrivateAddressError: See its own text.
    """
    host = url.raw_host or ""
    try:
        address = ip_address(host)
    except ValueError:
        return  # a name
    if not is_public(address):
        raise PrivateAddressError(f"{host} is no public address")


def tls_reason(error: ClientSSLError) -> str:
    """Why there is no TLS with a host, in plain words.

    The ``errno`` of such an error is OpenSSL's own; the system's text for it would be "Operation not permitted".
    """
    cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = " (SSL_CERT_FILE names another CA)" if cause.verify_code in _NO_KNOWN_CA else ""
        return f"certificate not trusted: {cause.verify_message.rstrip('.')}{hint}"
    return f"TLS failed: {getattr(cause, 'reason', None) or cause}"
