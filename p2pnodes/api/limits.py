"""Whose limits a client counts to: its address, or the one that the operator's reverse proxies vouch for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp import hdrs

from p2pnodes.api.errors import ApiError
from p2pnodes.api.settings import Network
from p2pnodes.inbound import Address, address_key, parse_address
from p2pnodes.model.codes import Code

FORWARDED_HOPS_MAX: Final = 16
"""Entries of X-Forwarded-For that are looked at, from the right."""


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
    def take(
        self, client: str, what: str, *, most: int, most_each: int, retry_s: int, client_is: str = "address"
    ) -> Iterator[None]:
        """Hold a place throughout the body.

        Args:
            client: Key of the client, see ``client_address``.
            what: What is open, in the plural.
            most: Bound over all.
            most_each: Bound for each client: nobody can take all places from the others.
            retry_s: When a client that is refused shall come back.
            client_is: What the key stands for.

        Raises:
            ApiError: 503 when all are taken, 429 when this client has its share.
        """
        again: dict[str, str] = {hdrs.RETRY_AFTER: str(retry_s)}
        if self.taken >= most:
            raise ApiError(503, f"{most} {what} are open here already", again, code=Code.API_BUSY)
        if self._open[client] >= most_each:
            raise ApiError(429, f"{most_each} {what} of this {client_is} are open already", again, code=Code.API_RATE)
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
    client = None if peer is None else parse_address(peer)
    if client is None:
        return "local"
    if trusted and forwarded and _within(client, trusted):
        for entry in reversed(",".join(forwarded).rsplit(",", FORWARDED_HOPS_MAX)[-FORWARDED_HOPS_MAX:]):
            hop = parse_address(entry.strip())
            if hop is None:
                break  # whoever wrote this, the hop before it is the last one that a trusted proxy vouches for
            client = hop
            if not _within(client, trusted):
                break
    return address_key(client)


def is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether a connection comes from one of the operator's reverse proxies."""
    address = None if peer is None else parse_address(peer)
    return address is not None and _within(address, trusted)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
