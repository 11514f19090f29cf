"""What a running daemon holds and does, in lists: the operator's first look."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import (
    JsonOption,
    duration,
    note,
    print_fields,
    print_json,
    print_table,
    ss58,
    utc,
)

ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 10_000


def _hex_32(text: str) -> str:
    """A node key or an id as the daemon writes it."""
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise typer.BadParameter(f"expected 64 hex digits, found {text!r:.80}")
    return text.lower()


def _kind(text: str) -> str:
    from p2pnodes.model.events import PAYLOADS

    if text not in PAYLOADS:
        raise typer.BadParameter(f"expected one of {', '.join(sorted(PAYLOADS))}, found {text!r:.80}")
    return text


LimitOption = Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="Rows at most.")]
HotkeyOption = Annotated[str | None, typer.Option(metavar="SS58", parser=ss58, help="Only this miner's.")]
ClaimOption = Annotated[str | None, typer.Option(metavar="ID", parser=_hex_32, help="Only of this claim.")]
StatusOption = Annotated[
    Literal["pending", "verified", "failed"] | None, typer.Option("--status", help="Only with this status.")
]

PEER_COLUMNS: Final = (
    "hotkey",
    "url",
    "connected",
    "direction",
    "link",
    "peer_lacks",
    "we_lack",
    "same_state_root",
    "queue_bytes",
    "rtt_ms",
    "last_error",
)
NODE_COLUMNS: Final = ("uuid", "status", "gpu_identifier", "hotkey", "server_id", "created_at", "verified_at", "detail")
CLAIM_COLUMNS: Final = ("claim_id", "status", "gpus", "hotkey", "created_at", "verified_since", "detail")
VERDICT_COLUMNS: Final = ("claim_id", "validator", "finding", "method", "at", "detail")
EVENT_COLUMNS: Final = ("seq", "id", "kind", "state", "author", "number", "at", "reason", "position")


def status(*, config: ConfigOption = None, socket_path: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show a running daemon at a glance.

    Two daemons hold the same inventory when their state roots are equal; they should be when their vector digests
    (the same events) and electorate digests (the same stakes) are.
    """
    found = ask(admin_socket(config, socket_path), "/status")
    if as_json:
        print_json(found)
        return
    electorate, log, refusal = found["electorate"], found["log"], found["writes"]["reason"]
    age = duration(electorate["age_s"])
    print_fields(
        {
            "version": found["version"],
            "network": f"{found['network_id']} (netuid {found['netuid']})",
            "role": found["role"],
            "url": found["url"],
            "hotkey": found["hotkey"],
            "node key": found["node_key"],
            "delegation": _delegation(found["delegation"]),
            "ready": "; ".join(reason.removesuffix(f": {refusal}") for reason in found["ready"]) or "yes",
            "writes": refusal or "allowed",
            "own log": log and f"number {log['number']}, seq {log['seq']}, head {log['id']}",
            "log": log and f"{found['node_key']}/{log['number']}",  # as keys revoke takes it
            "state root": found["state_root"],
            "vector digest": found["vector_digest"],
            "electorate": f"block {electorate['block']}, {age} old, {electorate['validators']} validators "
            f"({electorate['enrolled']} enrolled), {electorate['registered']} registered hotkeys",
            "electorate digest": electorate["digest"],
            **({"electorate error": electorate["error"]} if electorate["error"] else {}),
            **({"electorate from": source} if (source := _source(electorate["source"])) else {}),
            **({"electorate next": _recounting(electorate["recounting"])} if electorate["recounting"] else {}),
            "holds": f"{found['nodes']} GPUs, {found['events']} events",
            "received": _counts(found["outcomes"]),
            "forks": f"{len(found['forks'])} proved: see `p2pnodes forks`" if found["forks"] else "none proved",
            "closed logs": found["closed_logs"],
            "queues": _counts(found["queues"]),
            "verifier": _verifier(found["verification"]),
            "clock": "no peer to compare with"
            if found["clock_offset_ms"] is None
            else f"peers are {found['clock_offset_ms'] / 1000:+.3f} s off",
            "up": duration(found["uptime_s"]),
        }
    )
    print()
    _print_peers(found["gossip"]["peers"])


def peers(*, config: ConfigOption = None, socket_path: SocketOption = None, as_json: JsonOption = False) -> None:
    """List the peers of a running daemon: sessions, lag, and why there is no session.

    A peer lacks events that are not on their way to it yet; we lack those that it says it holds. With --json there is
    more about each session. Under direction an observer is marked: it holds no permit, and counts for nothing.
    """
    found = ask(admin_socket(config, socket_path), "/peers")
    if as_json:
        print_json(found)
    else:
        _print_peers(found)


def nodes(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    uuid: Annotated[str | None, typer.Option(help="Only this GPU.")] = None,
    hotkey: HotkeyOption = None,
    state: StatusOption = None,
    model: Annotated[str | None, typer.Option(metavar="GPU", help="Only this GPU model, such as h100_sxm.")] = None,
    server: Annotated[str | None, typer.Option(metavar="ID", help="Only this server, as its miner calls it.")] = None,
    claim: ClaimOption = None,
    limit: LimitOption = ROWS_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """List the GPUs that a running daemon has in its inventory."""
    filters = {
        "uuid": uuid,
        "hotkey": hotkey,
        "status": state,
        "gpu_identifier": model,
        "server_id": server,
        "claim_id": claim,
    }
    _list(admin_socket(config, socket_path), "/nodes", filters, limit, NODE_COLUMNS, as_json=as_json)


def claims(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    hotkey: HotkeyOption = None,
    state: StatusOption = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only the claim of this task.")] = None,
    claim: ClaimOption = None,
    limit: LimitOption = ROWS_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """List the claims that a running daemon knows, and how the vote on each stands."""
    filters = {"hotkey": hotkey, "status": state, "task_id": task, "claim_id": claim}
    _list(admin_socket(config, socket_path), "/claims", filters, limit, CLAIM_COLUMNS, as_json=as_json)


def verdicts(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    claim: ClaimOption = None,
    validator: Annotated[str | None, typer.Option(metavar="SS58", parser=ss58, help="Only this validator's.")] = None,
    finding: Annotated[
        Literal["verified", "failed", "abstain"] | None, typer.Option(help="Only with this finding.")
    ] = None,
    limit: LimitOption = ROWS_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """List the latest verdict of each validator on each claim."""
    filters = {"claim_id": claim, "validator": validator, "finding": finding}
    _list(admin_socket(config, socket_path), "/verdicts", filters, limit, VERDICT_COLUMNS, as_json=as_json)


def events(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", parser=_kind, help="Only this kind, such as add or verdict.")
    ] = None,
    state: Annotated[
        Literal["valid", "void", "unknown", "cut"] | None,
        typer.Option(
            help="Only these; void events count for nothing, nor do cut ones, which lie where their log forks or is"
            " closed; unknown ones wait for a newer build."
        ),
    ] = None,
    author: Annotated[str | None, typer.Option(metavar="SS58", parser=ss58, help="Only this validator's.")] = None,
    node_key: Annotated[
        str | None, typer.Option(metavar="HEX", parser=_hex_32, help="Only logs of this node key.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="HEX", parser=_hex_32, help="Only this event.")
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="Only behind this position, in order of arrival, oldest first.")
    ] = None,
    limit: LimitOption = ROWS_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """List stored events, newest first; with --after oldest first, so that a program can follow them.

    A position is the order of arrival at this one daemon, and means nothing elsewhere.
    """
    order = {"newest_first": "true"} if after is None else {"after": str(after)}
    filters = {"kind": kind, "state": state, "author": author, "node_key": node_key, "id": event_id, **order}
    _list(admin_socket(config, socket_path), "/events", filters, limit, EVENT_COLUMNS, as_json=as_json)


def _list(
    path: Path, route: str, filters: Mapping[str, str | None], limit: int, columns: tuple[str, ...], *, as_json: bool
) -> None:
    asked = min(limit + 1, ROWS_MAX)  # one row more tells whether there are more
    query = {name: value for name, value in filters.items() if value is not None} | {"limit": str(asked)}
    rows = ask(path, f"{route}?{urlencode(query)}")
    if as_json:
        print_json(rows[:limit])
    else:
        print_table(columns, rows[:limit], empty="none")
    if len(rows) > limit:
        note(f"{limit} rows are shown, there are more: see --limit")
    elif len(rows) == ROWS_MAX:
        note(f"{limit} rows are shown, there may be more: use the filters")


def _print_peers(found: list[dict[str, Any]]) -> None:
    rows: list[dict[str, Any]] = []
    for peer in found:
        comparable = peer.get("same_vector") and peer.get("same_electorate")  # else the roots differ by right
        direction = f"{peer['direction']}, observer" if peer.get("observer") else peer.get("direction")
        root = peer.get("same_state_root") if comparable else None
        rows.append(peer | {"direction": direction, "same_state_root": root})
    print_table(PEER_COLUMNS, rows, empty="no peers known")


def _delegation(found: Mapping[str, Any] | None) -> str:
    """Until when the hotkey lets the node key speak, and what is wrong with the next delegation."""
    if found is None:
        return "none: nothing can be written"
    trouble = f"; {found['error']}" if found["error"] else ""
    return f"until {utc(found['not_after'])}, signed {found['signed']}{trouble}"


def _source(found: Mapping[str, Any]) -> str:
    """How reading the chain goes, by endpoint; empty for a file."""
    return "; ".join(
        f"{endpoint['url']} ({endpoint['error'] or 'block ' + str(endpoint['block'])})"
        for endpoint in found.get("endpoints", ())
    )


def _recounting(found: Mapping[str, int]) -> str:
    return f"block {found['block']}, {found['done']} of {found['of']} counted"


def _verifier(found: Mapping[str, Any] | None) -> str:
    """How checks of claims go at a daemon."""
    if found is None:
        return "none: this daemon has no hotkey to vote with"
    counts = _counts({name: found[name] for name in ("running", "queued", "later")})
    trouble = f"; could not check: {found['problem']}" if found["problem"] else ""
    return f"{found['method']}, checks: {counts}{trouble}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
