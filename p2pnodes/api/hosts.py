"""Verification hosts: a miner may name public hosts only, since the daemon's verifier is going to call them.

An address is judged by what it is, a name by all addresses that it resolves to. The verifier checks again what it
connects to (a name can resolve to something else tomorrow); here the point is that a miner hears of it at once.
"""

import asyncio
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

HOSTS_KEPT: Final = 4_096
"""Texts that are remembered as addresses or names: a server's GPUs share one host."""

LOOKUPS_MAX: Final = 8
"""Names that are resolved at the same time, over all requests: a lookup that hangs holds a thread."""

_NAME = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?", re.ASCII)


class Resolver(Protocol):
    """Looks up the addresses of a name."""

    async def __call__(self, name: str) -> Iterable[str]:
        """Addresses of ``name``, as text.

        Raises:
            OSError: The name does not resolve.
        """


class SystemResolver:
    """``getaddrinfo`` in a small thread pool of its own, so that slow names starve nobody else's threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="p2pnodes-dns")

    async def __call__(self, name: str) -> Iterable[str]:
        """See ``Resolver``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _getaddrinfo, name)

    def close(self) -> None:
        """Forget what waits; lookups that hang are left to the C library's own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _getaddrinfo(name: str) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


class HostCheck:
    """Decides which verification hosts are acceptable."""

    def __init__(self, resolver: Resolver, *, timeout_s: float, allow_private: bool) -> None:
        """Take the resolver for names; ``allow_private`` lifts the check of publicness, and nothing else."""
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._lookups = asyncio.Semaphore(LOOKUPS_MAX)

    async def acceptable(self, hosts: Iterable[str]) -> bool:
        """Whether every host is an address or a resolvable name, and public; answers within the timeout."""
        names = []
        for host in set(hosts):
            address = _literal(host)
            if address is None:
                if not _NAME.fullmatch(host):
                    return False
                names.append(host)
            elif not self._public(address):
                return False
        if not names:
            return True
        try:
            async with asyncio.timeout(self._timeout_s):
                for name in names:
                    if not await self._name_acceptable(name):
                        return False
        except TimeoutError:
            return False
        return True

    async def _name_acceptable(self, name: str) -> bool:
        try:
            async with self._lookups:
                found = [_literal(text) for text in await self._resolver(name)]
        except (OSError, UnicodeError):  # UnicodeError: a label that the resolver cannot encode
            return False
        return bool(found) and all(address is not None and self._public(address) for address in found)

    def _public(self, address: IPv4Address | IPv6Address) -> bool:
        return self._allow_private or is_public(address)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public unicast internet; IPv4 inside IPv6 (mapped, 6to4) is looked at itself.

    Source: the IANA special-purpose registries, as ``ipaddress`` knows them. ``is_global`` alone lets multicast and
    IPv6's reserved and site-local ranges pass.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None or address.is_site_local:
            return False
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is not None:
            return is_public(embedded)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    )


@lru_cache(HOSTS_KEPT)
def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
