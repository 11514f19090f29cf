"""Rate limits: token buckets per hotkey and per client address, in tables of bounded size.

``aiolimiter`` delays instead of refusing and keeps no table of keys, ``limits`` keeps tables without a bound; so the
bucket is our own. It is pure: the clock comes in as an argument.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from p2pnodes.api.settings import Network

BUCKETS_MAX: Final = 65_536
"""Keys that one table remembers; beyond it the key that was quiet the longest is forgotten, and so starts full."""

ADDRESSES_KEPT: Final = 1_024
"""Addresses of connections that are kept parsed: one connection carries many requests."""

FORWARDED_HOPS_MAX: Final = 16
"""Entries of X-Forwarded-For that are looked at, from the right."""

_HOST_BITS_V6: Final = 64
"""Bits of an IPv6 address that its holder chooses freely: a /64 is one subscriber (RFC 6177)."""

Address = IPv4Address | IPv6Address


class TokenBuckets:
    """One token bucket per key: ``burst`` tokens at most, refilled at ``rate`` per second."""

    def __init__(self, rate: float, burst: int, *, size: int = BUCKETS_MAX) -> None:
        """Start with every bucket full."""
        self._rate = rate
        self._burst = float(burst)
        self._size = size
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until ``key`` has a token, 0 when it has one; takes none."""
        tokens = self._tokens(key, now)
        return 0.0 if tokens >= 1 else (1 - tokens) / self._rate

    def take(self, key: str, now: float) -> float:
        """Take a token of ``key`` and return 0; without one, take nothing and return the seconds until there is one."""
        tokens = self._tokens(key, now)
        granted = tokens >= 1
        self._buckets[key] = (tokens - 1 if granted else tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._size:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - tokens) / self._rate

    def _tokens(self, key: str, now: float) -> float:
        held = self._buckets.get(key)
        if held is None:
            return self._burst
        tokens, then = held
        # A clock that was set back adds nothing; the bucket then counts from the new time on.
        return min(self._burst, tokens + max(0.0, now - then) * self._rate)


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
