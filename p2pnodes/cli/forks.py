"""``p2pnodes forks``: which logs end, and why."""

from typing import Annotated, Final

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import JsonOption, note, print_json, print_table, utc

COLUMNS: Final = ("node_key", "number", "hotkey", "own", "fork", "good_events", "closed", "seen_at")


def forks(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    closed: Annotated[
        bool, typer.Option("--all", help="Also logs that did not fork but were closed, by keys rotate or revoke, say.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the logs that are proved to fork; with --all also those that their hotkeys closed.

    A fork is a log in which one node key signed two events for one place: its machine was cloned, an old backup runs,
    or the key is stolen. From there on the log counts for nothing, on every daemon; the first good_events of it count.
    Miners' requests above are published again by others. A closing is its owner's own word, by keys rotate or revoke.

    When a log is your own: stop the second machine, and keys rotate on the first; when the key may be stolen, keys
    revoke. With --json each row has its proof, which anybody can check: the two signed headers, or the signed closing.
    """
    found = ask(admin_socket(config, socket_path), "/forks")
    shown = [row for row in found if closed or row["fork"] is not None]
    if as_json:
        print_json(shown)
    else:
        rows = []
        for row in shown:
            node_key, _, number = row["log"].partition("/")
            rows.append({**row, "node_key": node_key, "number": number, "seen_at": utc(row["seen_at"])})
        print_table(COLUMNS, rows, empty="no log is known to end" if closed else "no log is known to fork")
    if left := len(found) - len(shown):
        note(f"not shown: {left} closed {'log' if left == 1 else 'logs'} without a fork; see --all")
