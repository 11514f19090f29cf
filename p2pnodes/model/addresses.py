"""Which addresses belong to the public internet: the only ones that others may make a daemon connect to."""

from ipaddress import IPv4Address, IPv6Address


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
