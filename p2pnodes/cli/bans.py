"""``p2pnodes bans``: which peers a running daemon refuses, and why; refuse one, and have one back."""

import re
from typing import Annotated, Any, Final

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import JsonOption, command, duration, print_json, print_table, say, ss58, warn_line
from p2pnodes.cli.spans import span_up_to
from p2pnodes.model.codes import Code

COLUMNS: Final = ("key", "by", "left", "code", "reason")

FOR_S: Final = 3_600
"""How long a ban lasts that is given for no certain time, seconds."""

FOR_MAX: Final = "7d"
"""``OPERATOR_BAN_S_MAX`` of the daemon as one types it; to import that would be slow."""


def _key(text: str) -> str:
    """A hotkey, or a node key as the daemon writes it."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return text.lower()
    try:
        return ss58(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(
            f"expected a hotkey (an SS58 address) or a node key (64 hex digits), found {text!r:.80}"
        ) from error


KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", parser=_key, help="The peer's hotkey (SS58), or its node key (64 hex digits).")
]

app = typer.Typer(invoke_without_command=True)


@app.callback(
    epilog="Examples:\n$ p2pnodes bans --config p2pnodes.toml\n$ p2pnodes bans --json --config p2pnodes.toml",
)
def bans(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the peers that a running daemon refuses for a while, refuse one, or have one back.

    A peer that breaks the protocol is refused by the daemon itself; bans are forgotten when it restarts.
    """
    if context.invoked_subcommand is not None:
        sources = map(context.get_parameter_source, ("config", "socket_path", "as_json"))
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter(f"expected options behind {context.invoked_subcommand}, found some before it")
        return
    found = ask(admin_socket(config, socket_path), "/bans")
    if as_json:
        print_json(found)
    else:
        print_table(COLUMNS, [_row(each) for each in found], empty="nobody is banned")


@command(
    app,
    'p2pnodes bans add 5Grw... --for 1h --reason "floods us since its upgrade" --config p2pnodes.toml',
    "p2pnodes bans add NODEKEY --for 7d --reason clone --config p2pnodes.toml",
)
def add(
    key: KeyArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks later; the peer does not hear it.")],
    for_s: Annotated[
        int | None,
        typer.Option(
            "--for",
            metavar="SPAN",
            parser=span_up_to(FOR_MAX),
            help=f"How long: 30m, 2h, up to {FOR_MAX}; 1h unless told.",
        ),
    ] = None,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a peer for a while: its sessions end at once, and no new one is opened.

    It costs no correctness: what the peer writes arrives through the others. Repeating it sets time and reason anew. A
    restart of the daemon forgets it.
    """
    found = ask(admin_socket(config, socket_path), "/bans", {"key": key, "for_s": for_s or FOR_S, "reason": reason})
    if found["warning"]:
        warn_line(found["warning"], Code.DIAL_NO_PEERS)
    if as_json:
        print_json(found)
    else:
        say(f"{key} is refused for {duration(found['ban']['banned_s'])}; sessions ended: {found['ended']}")


@command(app, "p2pnodes bans lift 5Grw... --config p2pnodes.toml")
def lift(
    key: KeyArgument, *, config: ConfigOption = None, socket_path: SocketOption = None, as_json: JsonOption = False
) -> None:
    """End a peer's ban, the operator's and the daemon's own; it is dialled again by itself."""
    found = ask(admin_socket(config, socket_path), "/bans/lift", {"key": key})
    if as_json:
        print_json(found)
    else:
        say(f"{key} is not refused any more")


def _row(ban: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": ban["hotkey"] or ban["node_key"],
        "by": "operator" if ban["operator"] else "daemon",
        "left": duration(ban["banned_s"]),
        "code": ban["code"],
        "reason": ban["ban_reason"],
    }
