"""Whose limits a client counts to: its address, or the one that the operator's reverse proxies vouch for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from aiohttp import hdrs

from p2pnodes.api.errors import ApiError
from p2pnodes.api.settings import Network

ADDRESSES_KEPT: Final = 1_024
"""Addresses of connections that are kept parsed: one connection carries many requests."""

FORWARDED_HOPS_MAX: Final = 16
"""Entries of X-Forwarded-For that are looked at, from the right."""

_HOST_BITS_V6: Final = 64
"""Bits of an IPv6 address that its holder chooses freely: a /64 is one subscriber (RFC 6177)."""

Address = IPv4Address | IPv6Address


class Places:
    """How many of something are open at once, over all and for each client."""

    def __init__(self) -> None:
        """Start with none."""
        self._open: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many are open."""
        return self._open.total()

    @contextmanager
    def take(self, client: str, what: str, *, most: int, most_each: int, retry_s: int) -> Iterator[None]:
        """Hold a place throughout the body.

        Args:
            client: Key of the client, see ``client_address``.
            what: What is open, in the plural.
            most: Bound over all.
            most_each: Bound for each client: nobody can take all places from the others.
            retry_s: When a client that is refused shall come back.

        Raises:
            ApiError: 503 when all are taken, 429 when this client has its share.
        """
        again: dict[str, str] = {hdrs.RETRY_AFTER: str(retry_s)}
        if self.taken >= most:
            raise ApiError(503, f"{most} {what} are open here already", again)
        if self._open[client] >= most_each:
            raise ApiError(429, f"{most_each} {what} of this address are open already", again)
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            self._open += Counter()  # drops what is zero


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Key of the client in the address table: an IPv4 address, an IPv6 /64, or ``"local"`` without an address.

    Args:
        peer: Address of the connection, None on a Unix socket.
        forwarded: The X-Forwarded-For headers in order; believed only as far as they were added by ``trusted`` proxies.
        trusted: Networks of the operator's reverse proxies.
    """
    client = None if peer is None else _parse(peer)
    if client is None:
        return "local"
    if trusted and forwarded and _within(client, trusted):
        for entry in reversed(",".join(forwarded).rsplit(",", FORWARDED_HOPS_MAX)[-FORWARDED_HOPS_MAX:]):
            hop = _parse(entry.strip())
            if hop is None:
                break  # whoever wrote this, the hop before it is the last one that a trusted proxy vouches for
            client = hop
            if not _within(client, trusted):
                break
    return _key(client)


def is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether a connection comes from one of the operator's reverse proxies."""
    address = None if peer is None else _parse(peer)
    return address is not None and _within(address, trusted)


@lru_cache(ADDRESSES_KEPT)
def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@lru_cache(ADDRESSES_KEPT)
def _key(client: Address) -> str:
    if isinstance(client, IPv4Address):
        return str(client)
    return f"{IPv6Address(int(client) >> _HOST_BITS_V6 << _HOST_BITS_V6)}/{_HOST_BITS_V6}"


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
