"""``p2pnodes top``: a running daemon at work, on one screen that is drawn anew every few seconds.

Rates are what two looks differ by, divided by the time between them. ``measure`` turns two looks into figures and
``frame`` turns figures into what is shown; neither knows of a terminal, a daemon or a clock.
"""

import os
import re
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask, ask_text
from p2pnodes.cli.output import JsonOption, UnreachableError, cell, duration, plain, print_json, shortened, terminated
from p2pnodes.cli.watch import INTERVAL_S_DEFAULT, INTERVAL_S_MAX, INTERVAL_S_MIN
from p2pnodes.doctor import comparable
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, P2PNodesError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

REASONS_MAX: Final = 3
"""Reasons of not being ready that are shown; more are counted."""

COLUMNS_MIN: Final = 40
LINES_MIN: Final = 12
"""Smallest terminal that is drawn for; a smaller one shows a part."""

SAMPLES_MAX: Final = 20_000
"""Metrics of one look that are read; a daemon with 256 peers has some 2,000."""

Sort = Literal["hotkey", "lag", "rtt", "queue"]
KEYS: Final[Mapping[str, Sort]] = {"h": "hotkey", "l": "lag", "r": "rtt", "u": "queue"}
"""Key -> what peers are sorted by."""

KEYS_BYTES_MAX: Final = 64
"""What is read of a keyboard at once."""

_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|O.?|.)?", re.DOTALL)
"""What a terminal sends for a key that is no character."""

Metrics = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Name and labels of a sample -> its value."""


class Look(NamedTuple):
    """What a daemon said at one moment.

    Attributes:
        status: Of ``/status``.
        metrics: Of ``/metrics``.
        at_s: When, in seconds from anywhere.
    """

    status: Mapping[str, Any]
    metrics: Metrics
    at_s: float


def read_metrics(text: str) -> Metrics:
    """Values of Prometheus' text format; at most SAMPLES_MAX of them.

    Raises:
        P2PNodesError: It is in another format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    try:
        return {
            (name, frozenset(labels.items())): float(value) for name, labels, value, *_ in islice(samples, SAMPLES_MAX)
        }
    except ValueError as error:
        raise P2PNodesError(
            f"/metrics is not in Prometheus' text format: {error}; is this the socket of a p2pnodes daemon?",
            code=Code.ADMIN_ANSWER,
        ) from error


def total(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Sum over everything of a name that has some labels; None when there is nothing."""
    wanted = labels.items()
    found = [value for (key, its), value in metrics.items() if key == name and wanted <= its]
    return sum(found) if found else None


def measure(now: Look, before: Look | None) -> dict[str, Any]:
    """What two looks tell, JSON-able; rates are None without a look before, or over a restart in between."""
    status = now.status
    if before is not None and before.status["started_at"] != status["started_at"]:
        before = None  # its counters were another process's
    seconds = None if before is None else now.at_s - before.at_s

    def grown(name: str, **labels: str) -> float | None:
        """How much a counter grew; one that nothing was counted in yet stands at 0."""
        if before is None:
            return None
        grew = (total(now.metrics, name, **labels) or 0.0) - (total(before.metrics, name, **labels) or 0.0)
        return grew if grew >= 0 else None

    def rate(name: str, **labels: str) -> float | None:
        grew = grown(name, **labels)
        return None if grew is None or not seconds else round(grew / seconds, 3)

    def mean_ms(name: str) -> float | None:
        grew, count = grown(f"{name}_sum"), grown(f"{name}_count")
        return None if grew is None or not count else round(1000 * grew / count, 3)

    gossip, verification, electorate = status["gossip"], status["verification"], status["electorate"]
    cpu = rate("process_cpu_seconds_total")
    return {
        "version": status["version"],
        "role": status["role"],
        "hotkey": status["hotkey"],
        "uptime_s": status["uptime_s"],
        "seconds": None if seconds is None else round(seconds, 3),
        "ready": list(status["ready"]),
        "events": {
            "stored": status["events"],
            "received_per_s": rate("p2pnodes_received_events_total"),
            "stored_per_s": rate("p2pnodes_received_events_total", outcome="stored"),
            "own_per_s": rate("p2pnodes_own_events_total"),
            "apply_ms": mean_ms("p2pnodes_apply_seconds"),
            "dropped": gossip["counts"]["dropped"],
            "forks": len(status["forks"]),
        },
        "nodes": status["nodes"],
        "traffic": {
            f"{direction}_{unit}_per_s": rate(f"p2pnodes_gossip_{unit}_total", direction=direction)
            for direction in ("received", "sent")
            for unit in ("bytes", "frames")
        },
        "sessions": {
            "open": gossip["sessions"],
            "view": gossip["view"]["size"],
            "handshakes": gossip["handshakes"],
            "bans": len(gossip["bans"]),
            "we_lack": max((peer.get("we_lack") or 0 for peer in gossip["peers"]), default=0),
        },
        "verification": verification
        and {name: verification[name] for name in ("method", "problem", "running", "queued", "later")}
        | {"checks_per_min": _times(rate("p2pnodes_check_seconds_count"), 60)},
        "writer": {
            "queued": status["queues"]["writer"],
            "commits_per_s": rate("p2pnodes_commit_seconds_count"),
            "jobs_per_s": rate("p2pnodes_commit_jobs_sum"),
            "commit_ms": mean_ms("p2pnodes_commit_seconds"),
            "work_ms": mean_ms("p2pnodes_commit_work_seconds"),
            "refused": status["database"]["refused_jobs"],
        },
        "loop": {
            "lag_ms": gossip["loop"]["lag_ms"],
            "mean_ms": mean_ms("p2pnodes_loop_lag_seconds"),
            "cpu_percent": _times(cpu, 100),
            "memory_bytes": total(now.metrics, "process_resident_memory_bytes"),
            "files": total(now.metrics, "process_open_fds"),
        },
        "http": {"requests_per_s": rate("p2pnodes_http_requests_total")},
        "electorate": {
            name: electorate[name] for name in ("block", "age_s", "validators", "enrolled", "error", "recounting")
        },
        "database": dict(status["database"]),
        "peers": [dict(peer) for peer in gossip["peers"]],
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 1)


# -- what is shown -----------------------------------------------------------------------------------------------------


def frame(
    figures: Mapping[str, Any], columns: int, lines: int, *, sort: Sort = "lag", footer: str = "", away: str = ""
) -> "Group":
    """A screen of figures.

    Args:
        figures: From ``measure``.
        columns: Width of the terminal; lines are cut there.
        lines: Its height; peers are left out that have no room.
        sort: What peers are sorted by.
        footer: The last line.
        away: Since when the daemon does not answer; empty while it does.
    """
    from rich.console import Group
    from rich.text import Text

    columns, lines = max(columns, COLUMNS_MIN), max(lines, LINES_MIN)
    head = [_heading(figures, away), *_reasons(figures["ready"])]
    head += [Text.assemble((f"{name:<9}", "bold"), text) for name, text in _fields(figures)]
    head.append(Text())
    room = lines - len(head) - (1 if footer else 0)
    shown = [*head, *_peers(figures["peers"], sort, columns, room)][: lines - (1 if footer else 0)]
    if footer:
        shown += [Text()] * (lines - 1 - len(shown))
        shown.append(Text(footer, style="dim"))
    for line in shown:
        line.no_wrap = True
        line.truncate(columns)
    return Group(*shown)


def _heading(figures: Mapping[str, Any], away: str) -> "Text":
    from rich.text import Text

    ready = not figures["ready"]
    state = (f"NO ANSWER since {away}", "bold red") if away else ("ready", "green") if ready else ("NOT READY", "red")
    who = shortened(cell(figures["hotkey"]))
    return Text.assemble(
        (f"p2pnodes {cell(figures['version'])}", "bold"),
        f"  {cell(figures['role'])} {who}  up {duration(figures['uptime_s'])}  ",
        state,
    )


def _reasons(reasons: Sequence[str]) -> list["Text"]:
    from rich.text import Text

    shown = [Text(f"! {plain(reason)}", style="red") for reason in reasons[:REASONS_MAX]]
    if len(reasons) > REASONS_MAX:
        shown[-1] = Text(f"! and {len(reasons) - REASONS_MAX + 1} more: see p2pnodes status", style="red")
    return shown


def _fields(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each line; what is wrong stands first in its line, which may be cut at its end."""
    events, traffic, sessions = figures["events"], figures["traffic"], figures["sessions"]
    received = f"in {_rate(events['received_per_s'])} ({_rate(events['stored_per_s'])} new)"
    written = f"own {_rate(events['own_per_s'])}, apply {_ms(events['apply_ms'])}, dropped {events['dropped']}"
    yield "events", f"{events['stored']} held, {received}, {written}"
    ways = (
        f"{name} {_size(traffic[f'{way}_bytes_per_s'])}/s, {_rate(traffic[f'{way}_frames_per_s'])} frames"
        for name, way in (("in", "received"), ("out", "sent"))
    )
    yield "traffic", "; ".join(ways)
    others = f"{sessions['handshakes']} handshakes, {sessions['bans']} bans, {sessions['we_lack']} events to fetch"
    yield "sessions", f"{sessions['open']} (view of {sessions['view']}), {others}, {events['forks']} forks"
    yield "verifier", _verifier(figures["verification"])
    writer, loop = figures["writer"], figures["loop"]
    commits = f"{_rate(writer['commits_per_s'])} commits ({_rate(writer['jobs_per_s'])} jobs)"
    took = f"fsync {_ms(writer['commit_ms'])}, work {_ms(writer['work_ms'])}"
    yield "writer", f"{writer['queued']} queued, {commits}, {took}, {writer['refused']} refused"
    process = f"cpu {_figure(loop['cpu_percent'])}%, memory {_size(loop['memory_bytes'])}"
    late = f"lag {_ms(loop['lag_ms'])}, mean {_ms(loop['mean_ms'])}"
    yield "loop", f"{late}; {process}, {_figure(loop['files'])} files"
    yield "http", f"{_rate(figures['http']['requests_per_s'])} requests; {figures['nodes']} GPUs in the inventory"
    yield "chain", _chain(figures["electorate"])
    disk = figures["database"]
    sizes = f"database {_size(disk['bytes'])}, log {_size(disk['wal_bytes'])}, free {_size(disk['free_bytes'])}"
    yield "disk", f"CANNOT WRITE: {plain(disk['failure'])}; {sizes}" if disk["failure"] else sizes


def _verifier(checks: Mapping[str, Any] | None) -> str:
    if checks is None:
        return "none: this daemon has no hotkey to vote with"
    trouble = f"COULD NOT CHECK: {plain(checks['problem'])}; " if checks["problem"] else ""
    counts = f"{checks['running']} running, {checks['queued']} queued, {checks['later']} later"
    return f"{trouble}{plain(checks['method'])}: {counts}, {_figure(checks['checks_per_min'])}/min"


def _chain(electorate: Mapping[str, Any]) -> str:
    trouble = f"{plain(electorate['error'])}; " if electorate["error"] else ""
    counting = electorate["recounting"]
    coming = f"; counting for block {counting['block']}" if counting else ""
    age = duration(electorate["age_s"])
    return (
        f"{trouble}block {electorate['block']}, {age} old, {electorate['validators']} validators "
        f"({electorate['enrolled']} enrolled){coming}"
    )


PEER_COLUMNS: Final = (("peer", 14), ("link", 6), ("lacks", 7), ("we lack", 8), ("rtt", 7), ("queue", 10), ("root", 6))
"""Columns of peers with their widths; behind them stands where the peer is, or why there is no session."""


def _peers(peers: Sequence[Mapping[str, Any]], sort: Sort, columns: int, room: int) -> Iterator["Text"]:
    from rich.text import Text

    if room <= 0:
        return
    connected = sum(bool(peer["connected"]) for peer in peers)
    width = sum(width for _, width in PEER_COLUMNS)
    heading = "".join(f"{name:<{width}}" for name, width in PEER_COLUMNS)
    yield Text(f"{heading}{connected} of {len(peers)} up, by {sort}"[:columns], style="bold")
    ordered = sorted(peers, key=_sort_key(sort))
    left_out = len(ordered) - (room - 1)
    if left_out > 0:
        ordered = ordered[: max(0, room - 2)]
    for peer in ordered:
        root = "-" if not comparable(peer) else "same" if peer.get("same_state_root") else "OTHER"
        cells = (
            shortened(cell(peer.get("hotkey"))), cell(peer.get("link")), cell(peer.get("peer_lacks")),
            cell(peer.get("we_lack")), _ms(peer.get("rtt_ms")), _size(peer.get("queue_bytes")), root,
        )  # fmt: skip
        line = "".join(f"{text[: size - 1]:<{size}}" for text, (_, size) in zip(cells, PEER_COLUMNS, strict=True))
        rest = plain(cell(peer.get("url") if peer["connected"] else peer.get("last_error") or "no session"))
        style = "" if peer["connected"] else "dim"
        yield Text(line + rest[: max(0, columns - width)], style="bold red" if root == "OTHER" else style)
    if left_out > 0 and room > 1:
        yield Text(f"... and {len(peers) - len(ordered)} more: see p2pnodes peers", style="dim")


def _sort_key(sort: Sort) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Those with a session first; then what is highest, and by hotkey."""

    def key(peer: Mapping[str, Any]) -> tuple[Any, ...]:
        value = {
            "hotkey": 0,
            "lag": (peer.get("peer_lacks") or 0) + (peer.get("we_lack") or 0),
            "rtt": peer.get("rtt_ms") or 0,
            "queue": peer.get("queue_bytes") or 0,
        }[sort]
        return (not peer["connected"], -value, str(peer.get("hotkey") or ""), str(peer.get("url") or ""))

    return key


def _rate(per_s: float | None) -> str:
    return "-/s" if per_s is None else f"{_figure(per_s)}/s"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{_figure(value)} ms"


def _size(size_bytes: float | None) -> str:
    from rich.filesize import decimal

    return "-" if size_bytes is None else decimal(int(size_bytes))


# -- the command -------------------------------------------------------------------------------------------------------


def top(
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    interval_s: Annotated[
        float,
        typer.Option(
            "--interval", min=INTERVAL_S_MIN, max=INTERVAL_S_MAX, metavar="S", help="Seconds between two looks."
        ),
    ] = INTERVAL_S_DEFAULT,
    sort: Annotated[Sort, typer.Option(help="What peers are sorted by.")] = "lag",
    once: Annotated[bool, typer.Option("--once", help="Print one screen and end, after two looks.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a running daemon at work: peers, rates, queues, verification, and what is wrong.

    Keys: q ends; h, l, r and u sort peers by hotkey, lag, round trip and queue. With --once or --json there is one
    screen, or one object, whose rates are those between two looks. A daemon that goes away is waited for.
    """
    path = admin_socket(config, socket_path)
    if once or as_json:
        before = _look(path)
        time.sleep(interval_s)
        figures = measure(_look(path), before)
        if as_json:
            print_json(figures)
        else:
            _print_once(figures, sort)
        return
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise ConfigError(
            "top needs a terminal, found none; expected --once for one screen, or --json for programs",
            code=Code.SYSTEM_TERMINAL,
        )
    _run(path, interval_s, sort)


def _look(path: Path) -> Look:
    return Look(ask(path, "/status"), read_metrics(ask_text(path, "/metrics")), time.monotonic())


def _print_once(figures: Mapping[str, Any], sort: Sort) -> None:
    from rich.console import Console

    size = shutil.get_terminal_size()
    lines = size.lines if sys.stdout.isatty() else len(figures["peers"]) + 2 * LINES_MIN
    columns = size.columns if sys.stdout.isatty() else 200
    console = Console(width=columns, highlight=False, soft_wrap=True)
    console.print(frame(figures, columns, lines - 1, sort=sort))


def _run(path: Path, interval_s: float, sort: Sort) -> None:
    """Draw until q."""
    from rich.live import Live

    now = _look(path)
    before: Look | None = None
    away = ""
    due_s = time.monotonic() + interval_s / 4  # the first rates come soon
    with terminated(), _keys() as pressed, Live(screen=True, auto_refresh=False, redirect_stderr=False) as live:
        while True:
            size = shutil.get_terminal_size()
            footer = f"q quit   sort: h hotkey  l lag  r rtt  u queue   every {interval_s:g} s"
            figures = measure(now, before)
            live.update(frame(figures, size.columns, size.lines, sort=sort, footer=footer, away=away), refresh=True)
            key = pressed(max(0.0, due_s - time.monotonic()))
            if key in {"q", "Q", "\x03", "\x04"}:
                return
            sort = KEYS.get(key, sort)
            if time.monotonic() < due_s:
                continue
            due_s = time.monotonic() + interval_s
            try:
                look = _look(path)
            except UnreachableError:
                away = away or time.strftime("%H:%M:%S")
            else:
                before, now, away = now, look, ""


def typed(found: bytes) -> str:
    """The keys that are characters; what a terminal sends for others (arrows, F2, Alt with a letter) is none."""
    return _SEQUENCE.sub("", found.decode(errors="replace"))


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Take keys one by one, without their echo; yields what waits so many seconds for one, and gives it or nothing."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    waiting: list[str] = []

    def pressed(seconds: float) -> str:
        if not waiting and select.select([descriptor], [], [], seconds)[0]:
            found = os.read(descriptor, KEYS_BYTES_MAX)
            waiting.extend(typed(found) if found else "q")  # nothing: the terminal is gone
        return waiting.pop(0) if waiting else ""

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
