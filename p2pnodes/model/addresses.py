"""Addresses: which ones belong to the public internet, and how URLs are written in settings."""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

from p2pnodes.model.events import URL_CHARS_MAX


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


def base_url(url: str) -> str:
    """A base URL without the slash at its end.

    Raises:
        ValueError: Not HTTP or HTTPS, or with parts that a base URL in a settings file must not have.
    """
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"}:
        raise ValueError("expected http://HOST[:PORT] or https://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected no user name or password: settings hold no secrets, and some URLs are published")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("expected no query, fragment or space, and ASCII only")
    return url.rstrip("/")


BaseUrl = Annotated[str, Field(max_length=URL_CHARS_MAX), AfterValidator(base_url)]


CHAIN_URL_CHARS_MAX: Final = 1_024
"""Longest URL of a chain endpoint: some providers put long tokens in the path."""

CHAIN_PUBLIC_PATHS: Final = frozenset({"", "/ws", "/public-ws"})
"""Paths of chain endpoints that say nothing: of a node behind a proxy, and of a provider's endpoint for everybody. Any
other may hold a token."""


def chain_url(url: str) -> str:
    """The URL of a chain endpoint as it is; it may carry credentials.

    Raises:
        ValueError: Not a WebSocket URL. The message does not quote it.
    """
    parts = _split(url)
    if parts is None or parts.scheme not in {"ws", "wss"}:
        raise ValueError("expected ws://HOST[:PORT] or wss://HOST[:PORT]")
    if parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("expected no fragment or space, and ASCII only")
    return url


def without_credentials(url: str) -> str:
    """A URL of a chain endpoint as it may be shown: ``***`` stands for what may hold a password or token.

    Providers put tokens in the user name, the path or the query, so only scheme, host, port and a public path are kept;
    and nothing at all of what is no URL, whose parts cannot be told apart.
    """
    parts = _split(url)
    if parts is None:
        return "***"
    user, _, host = parts.netloc.rpartition("@")
    path = parts.path.rstrip("/")
    if path not in CHAIN_PUBLIC_PATHS or parts.query or parts.fragment:
        path = "/***"
    return f"{parts.scheme}://{'***@' if user else ''}{host}{path}"


def has_credentials(url: str) -> bool:
    """Whether a URL of a chain endpoint may hold a password or token: whether some of it is not shown."""
    return "***" in without_credentials(url)


def _split(url: str) -> SplitResult | None:
    """Parts of a URL; None without a host, or with one or a port that is malformed."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return parts if parts.hostname and port != 0 else None


ChainUrl = Annotated[str, Field(max_length=CHAIN_URL_CHARS_MAX), AfterValidator(chain_url)]
