"""``p2pnodes console``: where a running daemon's web console is, and how to get there."""

import os
import sys
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import JsonOption, note, print_json, say
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.service import ADMIN_PORT


def console(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Also open it in this machine's default browser.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where the web console of a running daemon is.

    It is served on loopback alone, to look at and nothing else. From another machine, forward its port over SSH: the
    command says how.
    """
    url = ask(admin_socket(config, socket_path), "/status").get("console")
    if url is None:
        raise P2PNodesError(
            f"the console has no port; set `port = {ADMIN_PORT}` under [admin] in the daemon's configuration, and "
            "restart it",
            code=Code.ADMIN_NOT_NOW,
        )
    if as_json:
        print_json({"url": url, "forward": _forward(url, os.environ)})
    else:
        say(url)
        if sys.stdout.isatty():
            note(f"from another machine: {_forward(url, os.environ)}, and open the same address there")
    if open_browser:
        _open(url)


def _forward(url: str, environ: Mapping[str, str]) -> str:
    """The command that brings the console to another machine; of an SSH session it knows this machine's address."""
    port = urlsplit(url).port
    ends = environ.get("SSH_CONNECTION", "").split()  # the client's address and port, then this machine's
    host = ends[2] if len(ends) == 4 else "HOST"
    user = environ.get("USER", "USER")
    return f"ssh -N -L {port}:127.0.0.1:{port} {user}@{host}"


def _open(url: str) -> None:
    """Open a browser.

    Raises:
        P2PNodesError: This machine has none.
    """
    import webbrowser

    if not webbrowser.open(url):
        raise P2PNodesError(
            f"no browser was found here; open {url} by hand, or see `p2pnodes console --json` for the way from "
            "another machine",
            code=Code.SYSTEM_REFUSED,
        )
