"""Outgoing connections whose target others name: peers by their URLs, miners by their verification hosts.

Whoever names a host must not be able to make this daemon connect into its operator's own network. An address is judged
by what it is, a name by every address that it resolves to, at the moment of the connection.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AddressFamily

import aiohttp
from yarl import URL

from p2pnodes.model.addresses import is_public


class PrivateAddressError(OSError):
    """A host that others named is at an address that is not public."""


class PublicResolver(aiohttp.ThreadedResolver):
    """Resolves names to public addresses only."""

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """See ``aiohttp.abc.AbstractResolver``.

        Raises:
            PrivateAddressError: Not every address of the name is public.
            OSError: The name does not resolve.
        """
        found = await super().resolve(host, port, family)
        for entry in found:
            _require_public(ip_address(entry["host"]), host)
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
    _require_public(address, host)


def _require_public(address: IPv4Address | IPv6Address, host: str) -> None:
    if not is_public(address):
        raise PrivateAddressError(f"{host} is at {address}, which is no public address")
