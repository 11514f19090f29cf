"""Where else a write can go: a daemon that takes none names validators that may."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from yarl import URL

from p2pnodes.model.addresses import base_url
from p2pnodes.outbound import PrivateAddressError, require_public_literal

REFERRALS_MAX: Final = 16
"""URLs that one answer names: with as many down at once, the network has other troubles."""


def referrals(
    enrolled: Mapping[bytes, int], urls: Mapping[bytes, str], *, own: bytes | None, allow_private: bool
) -> tuple[str, ...]:
    """Base URLs of other validators, by their stake, the highest first.

    Args:
        enrolled: Hotkey -> stake of the validators that take part.
        urls: Hotkey -> URL of its latest delegation; empty for a daemon that only dials out.
        own: Hotkey of this daemon, which is left out.
        allow_private: Name private addresses, too: for devnets.

    Returns:
        At most REFERRALS_MAX, each once.
    """
    found: dict[str, None] = {}
    for hotkey in sorted(enrolled, key=lambda hotkey: (-enrolled[hotkey], hotkey)):
        url = urls.get(hotkey, "")
        if hotkey == own or not url:
            continue
        with suppress(PrivateAddressError, ValueError):  # a validator may have signed any text for its URL
            url = base_url(url)
            if not allow_private:
                require_public_literal(URL(url))
            found[url] = None
        if len(found) == REFERRALS_MAX:
            break
    return tuple(found)
