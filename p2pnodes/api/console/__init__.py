"""The console: pages for the operator, rendered here, read-only, served beside the operator's JSON routes.

Every figure on a page comes from the function that a documented JSON route answers with; the page names that route. The
pages work without scripts. With them a page fetches itself anew when events come in (``GET /events/stream``) and swaps
what differs; nothing is loaded from another host, and no script or style is written into a page.
"""

from collections.abc import Sequence
from typing import Any

from p2pnodes.api.console.pages import Console
from p2pnodes.api.console.rendering import ROOT

__all__ = ["ROOT", "Console", "console_url"]


def console_url(addresses: Sequence[Any]) -> str | None:
    """Where a browser on this machine finds the console; None where the interface is on its Unix socket alone.

    Args:
        addresses: What the operator's interface listens on: (host, port) of TCP, paths of Unix sockets.
    """
    ports = [address[1] for address in addresses if isinstance(address, tuple)]
    return f"http://127.0.0.1:{ports[0]}{ROOT}/" if ports else None
