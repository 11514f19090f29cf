"""``p2pnodes forks``: which logs end, and why."""

from typing import Final

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import JsonOption, print_json, print_table, utc

COLUMNS: Final = ("node_key", "number", "hotkey", "own", "fork", "good_events", "closed", "seen_at")


def forks(*, config: ConfigOption = None, socket_path: SocketOption = None, as_json: JsonOption = False) -> None:
    """List the logs that are proved to end: by a fork, by a closing that their hotkey signed, or by both.

    A fork is a log in which one node key signed two events for one place: its machine was cloned, an old backup runs,
    or the key is stolen. From there on the log counts for nothing, on every daemon; the first good_events of it count.
    Miners' requests above are published again by others. A closing is its owner's own word, by keys rotate or revoke.

    When a log is your own: stop the second machine, and keys rotate on the first; when the key may be stolen, keys
    revoke. With --json each row has its proof, which anybody can check: the two signed headers, or the signed closing.
    """
    found = ask(admin_socket(config, socket_path), "/forks")
    if as_json:
        print_json(found)
    else:
        rows = []
        for row in found:
            node_key, _, number = row["log"].partition("/")
            rows.append({**row, "node_key": node_key, "number": number, "seen_at": utc(row["seen_at"])})
        print_table(COLUMNS, rows, empty="no log is known to end")
