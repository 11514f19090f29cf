"""What a running daemon holds and does, in lists: the operator's first look."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.logs import level_line
from p2pnodes.cli.output import (
    JsonOption,
    duration,
    note,
    print_fields,
    print_json,
    print_table,
    rows_shown,
    ss58,
    utc,
)
from p2pnodes.cli.watch import (
    FIRST_DEFAULT,
    INTERVAL_S_DEFAULT,
    IntervalOption,
    TimeoutOption,
    Watched,
    WatchOption,
    by,
    follow_events,
    watch,
)
from p2pnodes.doctor import comparable

ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 10_000


PAGE_ROWS_MAX: Final = 500
"""Rows that a daemon tells at once of a list with an order."""

NodeOrder = Literal["newest", "oldest", "uuid", "model", "status", "miner", "server", "verified"]
"""``store.browse.ORDERS``: naming them here keeps the help from importing the database."""


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
PEER_FIGURES: Final = frozenset(
    {"rtt_ms", "queue_bytes", "storing_bytes", "wants", "searches", "offset_ms", "open_s", "next_dial_s", "banned_s"}
)
"""What changes at a session all the time, and is nothing that a watch on peers has to tell."""

STATUS_FIGURES: Final = frozenset(
    {
        *(
            "age_s",
            "clock_offset_ms",
            "database",
            "last_ok",
            "latency_ms",
            "loading",
            "outcomes",
            "queues",
            "recounting",
            "uptime_s",
        ),
        *("counts", "dials", "handshakes", "loop", "peers", "traffic", "view"),  # of gossip
    }
)
"""The same of a daemon as a whole; ``top`` shows these."""

EVENT_COLUMNS: Final = ("seq", "id", "kind", "state", "author", "number", "at", "reason", "position")


def status(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    watching: WatchOption = False,
    interval_s: IntervalOption = INTERVAL_S_DEFAULT,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a running daemon at a glance.

    Two daemons hold the same inventory when their state roots are equal; they should be when their vector digests
    (the same events), electorate digests (the same stakes) and checkpoints are.
    """
    path = admin_socket(config, socket_path)
    thing = Watched(lambda: ask(path, "/status"), _print_status, "status", volatile=STATUS_FIGURES)
    _show(thing, watching=watching, interval_s=interval_s, timeout_s=timeout_s, as_json=as_json)


def _checkpoint(found: Mapping[str, Any]) -> str:
    """What is in force, how far it is loaded, and what is in the way of the next one."""
    if (loading := found["loading"]) is not None:
        slices = "it begins" if loading["of"] is None else f"{loading['held']} of {loading['of']} slices are here"
        return f"{loading['number']} is loaded from peers: {slices}"
    said = f"{found['number']}, {duration(found['age_s'])} old" if found["number"] else "none yet"
    if found["differs"]:
        return f"{said}; DIFFERS from what validators agreed on: see `p2pnodes logs explain checkpoint-differs`"
    if found["lacks"]:
        return f"{said}; {found['lacks']} is final, and not all that it takes is here: it will be loaded from peers"
    if found["leaves_own_log_out"]:
        return f"{said}; does not name the own log: see `p2pnodes logs explain log-left-out`"
    return f"{said}; not signed: {found['problem']}" if found["problem"] else said


def _print_status(found: Mapping[str, Any]) -> None:
    electorate, log, refusal = found["electorate"], found["log"], found["writes"]["reason"]
    age = duration(electorate["age_s"])
    print_fields(
        {
            "version": found["version"],
            "network": f"{found['network_id']} (netuid {found['netuid']})",
            "role": found["role"],
            "url": found["url"],
            "console": found.get("console") or "no port: set port under [admin], see `p2pnodes console`",
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
            "checkpoint": _checkpoint(found["checkpoint"]),
            "checkpoint id": found["checkpoint"]["id"],
            "forks": f"{len(found['forks'])} proved: see `p2pnodes forks`" if found["forks"] else "none proved",
            **({"other logs": _other_logs(others)} if (others := found["other_logs"]) else {}),
            "closed logs": found["closed_logs"],
            "queues": _counts(found["queues"]),
            "verifier": _verifier(found["verification"]),
            "clock": "no peer to compare with"
            if found["clock_offset_ms"] is None
            else f"peers are {found['clock_offset_ms'] / 1000:+.3f} s off",
            **({"log level": level_line(logging)} if (logging := found.get("logging")) and logging["changed"] else {}),
            "up": duration(found["uptime_s"]),
        }
    )
    print()
    _print_peers(found["gossip"]["peers"])


def peers(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    watching: WatchOption = False,
    interval_s: IntervalOption = INTERVAL_S_DEFAULT,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the peers of a running daemon: sessions, lag, and why there is no session.

    A peer lacks events that are not on their way to it yet; we lack those that it says it holds. With --json there is
    more about each session. Under direction an observer is marked: it holds no permit, and counts for nothing.
    """
    path = admin_socket(config, socket_path)
    thing = Watched(lambda: ask(path, "/peers"), _print_peers, "peers", key=by("hotkey", "url"), volatile=PEER_FIGURES)
    _show(thing, watching=watching, interval_s=interval_s, timeout_s=timeout_s, as_json=as_json)


def nodes(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    uuid: Annotated[str | None, typer.Option(help="Only this GPU.")] = None,
    hotkey: HotkeyOption = None,
    state: StatusOption = None,
    model: Annotated[str | None, typer.Option(metavar="GPU", help="Only this GPU model, such as h100_sxm.")] = None,
    server: Annotated[str | None, typer.Option(metavar="ID", help="Only this server, as its miner calls it.")] = None,
    chute: Annotated[str | None, typer.Option(metavar="ID", help="Only GPUs on which this chute runs.")] = None,
    busy: Annotated[
        bool | None,
        typer.Option("--busy/--idle", show_default="both", help="Only GPUs on which something runs, or not."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only with this in uuid, server, name, model, chute or hotkey."),
    ] = None,
    sort: Annotated[NodeOrder | None, typer.Option(show_default="as stored", help="What comes first.")] = None,
    claim: ClaimOption = None,
    limit: LimitOption = ROWS_DEFAULT,
    watching: WatchOption = False,
    interval_s: IntervalOption = INTERVAL_S_DEFAULT,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the GPUs that a running daemon has in its inventory."""
    path = admin_socket(config, socket_path)
    filters = {
        "uuid": uuid,
        "hotkey": hotkey,
        "status": state,
        "gpu_identifier": model,
        "server_id": server,
        "chute_id": chute,
        "claim_id": claim,
    }
    rows = _Rows(path, "/nodes", filters, limit, NODE_COLUMNS)
    if not (busy is None and search is None and sort is None):
        if uuid is not None or claim is not None:
            raise typer.BadParameter("--uuid and --claim name a few GPUs; expected neither --busy, --search nor --sort")
        words = {"busy": None if busy is None else str(busy).lower(), "search": search, "sort": sort}
        rows = _Pages(path, "/inventory", filters | words, limit, NODE_COLUMNS)
    thing = rows.watched(by("uuid"))
    _show(thing, watching=watching, interval_s=interval_s, timeout_s=timeout_s, as_json=as_json)


def claims(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    hotkey: HotkeyOption = None,
    state: StatusOption = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only the claim of this task.")] = None,
    claim: ClaimOption = None,
    limit: LimitOption = ROWS_DEFAULT,
    watching: WatchOption = False,
    interval_s: IntervalOption = INTERVAL_S_DEFAULT,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the claims that a running daemon knows, and how the vote on each stands."""
    filters = {"hotkey": hotkey, "status": state, "task_id": task, "claim_id": claim}
    thing = _Rows(admin_socket(config, socket_path), "/claims", filters, limit, CLAIM_COLUMNS).watched(by("claim_id"))
    _show(thing, watching=watching, interval_s=interval_s, timeout_s=timeout_s, as_json=as_json)


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
    _Rows(admin_socket(config, socket_path), "/verdicts", filters, limit, VERDICT_COLUMNS).print(as_json=as_json)


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
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=ROWS_MAX,
            show_default=f"{ROWS_DEFAULT}, with --follow {FIRST_DEFAULT}",
            help="Rows at most; with --follow, how many of those that are there come first.",
        ),
    ] = None,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with each event as it is stored, until Ctrl-C.")
    ] = False,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List stored events, newest first; with --after oldest first. With --follow, tell them as they come.

    A position is the order of arrival at this one daemon, and means nothing elsewhere. --follow waits for a daemon that
    restarts, and leaves out none of what it stored meanwhile; with --json each event is one line.
    """
    path = admin_socket(config, socket_path)
    filters = {"kind": kind, "state": state, "author": author, "node_key": node_key, "id": event_id}
    if following:
        given = {name: value for name, value in filters.items() if value is not None}
        first = FIRST_DEFAULT if limit is None else limit
        follow_events(path, given, after, first, timeout_s, as_json=as_json)
        return
    if limit == 0:
        raise typer.BadParameter("--limit 0 shows nothing; expected 1 or more, or --follow with it")
    order = {"newest_first": "true"} if after is None else {"after": str(after)}
    _Rows(path, "/events", filters | order, limit or ROWS_DEFAULT, EVENT_COLUMNS).print(as_json=as_json)


class _Rows:
    """A list of a daemon, and whether there is more of it."""

    def __init__(
        self, path: Path, route: str, filters: Mapping[str, str | None], limit: int, columns: tuple[str, ...]
    ) -> None:
        self._query = {name: value for name, value in filters.items() if value is not None}
        self._path = path
        self._name = route.removeprefix("/")
        self._route = route
        self._limit = limit
        self._columns = columns
        self._more = ""

    def read(self) -> list[dict[str, Any]]:
        """Ask the daemon."""
        asked = min(self._limit + 1, ROWS_MAX)  # one row more tells whether there are more
        query = self._query | {"limit": str(asked)}
        rows: list[dict[str, Any]] = ask(self._path, f"{self._route}?{urlencode(query)}")
        if len(rows) > self._limit:
            self._more = f"{rows_shown(self._limit)}, there are more: see --limit"
        elif len(rows) == ROWS_MAX:
            self._more = f"{rows_shown(self._limit)}, there may be more: use the filters"
        else:
            self._more = ""
        return rows[: self._limit]

    def show(self, rows: list[dict[str, Any]]) -> None:
        """Print a table."""
        print_table(self._columns, rows, empty="none")
        self.note_more()

    def note_more(self) -> None:
        """Say that there is more."""
        if self._more:
            note(self._more)

    def print(self, *, as_json: bool) -> None:
        """Read and print it once."""
        rows = self.read()
        if as_json:
            print_json(rows)
            self.note_more()
        else:
            self.show(rows)

    def watched(self, key: Callable[[Mapping[str, Any]], str]) -> Watched:
        """It as a thing to watch; ``key`` tells its rows apart."""
        return Watched(self.read, self.show, self._name, key=key, after_json=self.note_more)


class _Pages(_Rows):
    """A list that a daemon tells page by page, in an order."""

    def read(self) -> list[dict[str, Any]]:
        """Ask the daemon for as many pages as it takes."""
        rows: list[dict[str, Any]] = []
        behind: str | None = ""
        while behind is not None and len(rows) < self._limit:
            left = min(self._limit - len(rows), PAGE_ROWS_MAX)
            query = self._query | {"limit": str(left)} | ({"after": behind} if behind else {})
            page = ask(self._path, f"{self._route}?{urlencode(query)}")
            rows += page["rows"]
            behind = page["after"]
        self._more = f"{rows_shown(len(rows))}, there are more: see --limit" if behind is not None else ""
        return rows


def _show(thing: Watched, *, watching: bool, interval_s: float, timeout_s: float | None, as_json: bool) -> None:
    """Show a thing once, or for as long as it is watched."""
    if watching:
        watch(thing, interval_s, timeout_s, as_json=as_json)
        return
    found = thing.read()
    if as_json:
        print_json(found)
        thing.after_json()
    else:
        thing.show(found)


def _print_peers(found: list[dict[str, Any]]) -> None:
    rows: list[dict[str, Any]] = []
    for peer in found:
        direction = f"{peer['direction']}, observer" if peer.get("observer") else peer.get("direction")
        root = peer.get("same_state_root") if comparable(peer) else None
        error = peer.get("last_error")
        if peer.get("ban_reason"):
            error = f"banned for {duration(peer['banned_s'])}: {peer['ban_reason']}"
        rows.append(peer | {"direction": direction, "same_state_root": root, "last_error": error})
    print_table(PEER_COLUMNS, rows, empty="no peers known")


def _delegation(found: Mapping[str, Any] | None) -> str:
    """Until when the hotkey lets the node key speak, and what is wrong with the next delegation."""
    if found is None:
        return "none: nothing can be written"
    trouble = f"; {found['error']}" if found["error"] else ""
    return f"until {utc(found['not_after'])}, signed {found['signed']}{trouble}"


def _other_logs(found: Sequence[Mapping[str, Any]]) -> str:
    """Logs that somebody else writes with this hotkey."""
    logs = "; ".join(f"{other['log']}, last at {utc(other['written_at'])}" for other in found)
    return f"another daemon writes with this hotkey: {logs}; if it is not yours, see `p2pnodes doctor`"


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
    if found["method"] == "none":
        return f"off: this daemon votes verified for every claim, without a look; checks: {counts}"
    trouble = f"; could not check: {found['problem']}" if found["problem"] else ""
    return f"{found['method']}, checks: {counts}{trouble}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
