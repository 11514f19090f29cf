"""Staying with a running daemon: its events as they come, and a list that is shown again when it changes.

Both wait for a daemon that goes away and go on when it is back: whoever watches an upgrade wants to see its end.
"""

import asyncio
import io
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pnodes.cli.asking import RefusedError, ask, unanswered
from p2pnodes.cli.output import UnreachableError, cell, note, say, shortened, terminated

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions
    from rich.text import Text

    from p2pnodes.miner.sse import SseEvent

FIRST_DEFAULT: Final = 10
"""Events that are shown before those that come, unless told; as ``tail -f`` and ``journalctl -f`` have it."""

SILENT_S_MAX: Final = 45.0
"""Silence after which a stream is given up; the daemon breaks its own after 15 s."""

CONNECT_S_MAX: Final = 10.0
"""How long a daemon may take to begin an answer."""

AGAIN_S: Final = 1.0
"""Pause before a daemon that went away is asked again: on a local socket that costs nothing."""

INTERVAL_S_DEFAULT: Final = 2.0
INTERVAL_S_MIN: Final = 0.5
INTERVAL_S_MAX: Final = 3600.0
"""How often a watched list is looked at."""

LOCAL: Final = "http://localhost"
"""Whose Host the admin interface answers; the socket decides who is asked."""

WatchOption = Annotated[
    bool, typer.Option("--watch", help="Show it again whenever it changes, until Ctrl-C; elsewhere than on a terminal, "
                       "the changes, or with --json each new state on one line.")
]  # fmt: skip
IntervalOption = Annotated[
    float,
    typer.Option(
        "--interval", min=INTERVAL_S_MIN, max=INTERVAL_S_MAX, metavar="S", help="Seconds between two looks of --watch."
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="S", show_default="no limit", help="Seconds to stay, then exit 0."),
]

Rows = list[dict[str, Any]]


# -- events ------------------------------------------------------------------------------------------------------------


def follow_events(
    path: Path, filters: Mapping[str, str], after: int | None, first: int, timeout_s: float | None, *, as_json: bool
) -> None:
    """Show the latest events, or those behind a position, and then each one as the daemon stores it.

    Args:
        path: The daemon's admin socket.
        filters: Those of ``GET /events``.
        after: Position to begin behind; None: show the latest ones first.
        first: How many of these.
        timeout_s: When to end; None: never.
        as_json: One object a line, for programs.

    Raises:
        UnreachableError: No daemon answers. One that goes away later is waited for.
        RefusedError: It does not serve this.
    """
    from urllib.parse import urlencode

    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    if after is None:
        query = urlencode({**filters, "newest_first": "true", "limit": str(max(1, first))})
        rows: Rows = ask(path, f"/events?{query}")
        after = rows[0]["position"] if rows else 0
        for row in reversed(rows[:first]):
            _tell(row, as_json=as_json)

    async def follow(position: int) -> None:
        try:
            async with asyncio.timeout(None if deadline_s is None else max(0.0, deadline_s - time.monotonic())):
                async with aclosing(_events(path, filters, position)) as events:
                    async for event in events:
                        if event.type == "event":
                            _tell(json.loads(event.data), as_json=as_json)
                        elif event.type == "reset":
                            note("the daemon has another database now; following from its end")
        except TimeoutError:
            pass  # followed for as long as was asked

    asyncio.run(follow(after))


async def _events(path: Path, filters: Mapping[str, str], after: int) -> AsyncGenerator["SseEvent"]:
    """What a daemon streams, over all its restarts."""
    import aiohttp

    from p2pnodes.miner.sse import SseParser
    from p2pnodes.model.errors import RemoteProtocolError

    last = str(after)
    met = gone = False
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX, sock_read=SILENT_S_MAX)
    async with aiohttp.ClientSession(LOCAL, connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session:
        while True:
            parser = SseParser()
            try:
                async with session.get("/events/stream", params=filters, headers={"Last-Event-ID": last}) as answer:
                    if answer.status != 200:
                        raise RefusedError(answer.status, (await answer.json()).get("detail"))
                    if gone:
                        note("the daemon is back")
                    met, gone = True, False
                    async for chunk in answer.content.iter_any():
                        for event in parser.feed(chunk):
                            yield event
                        last = parser.last_id or last
            except RefusedError as error:
                if not met or error.status != 503:
                    raise
            except RemoteProtocolError as error:
                raise UnreachableError(f"the daemon at {path} streams no events: {error}") from error
            except (aiohttp.ClientError, OSError) as error:
                if not met:
                    raise unanswered(path, error) from error
            if not gone:
                note("the daemon went away; waiting for it (Ctrl-C ends)")
            gone = True
            await asyncio.sleep(AGAIN_S)


def _tell(row: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)  # whoever reads a pipe waits for it
        return
    short = shortened if sys.stdout.isatty() else str
    log = f"{short(row['node_key'])}/{row['number']}"
    words = (
        row["at"], f"#{row['position']}", f"{row['kind']:<8}", f"{row['state']:<7}", short(row["author"]), "log", log,
        "seq", str(row["seq"]), *([row["reason"]] if row["reason"] else []),
    )  # fmt: skip
    say(" ".join(words))
    sys.stdout.flush()


# -- lists -------------------------------------------------------------------------------------------------------------


class Clock:
    """What a watch asks of time, and how it waits; a test has another one."""

    def now(self) -> float:
        """Seconds, from anywhere."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def label(self) -> str:
        """The time of day, for people."""
        return time.strftime("%H:%M:%S")


class Watched:
    """A thing that is looked at again and again.

    Args:
        read: Asks the daemon.
        show: Prints what was read, as the command does without ``--watch``.
        name: What it is, for the heading.
        key: For a list, what tells its rows apart; None for what is one thing.
        after_json: Called when it was printed as JSON, once; for what is to be noted beside.
        volatile: Names of values that change at each look and say nothing new, such as ages.
    """

    def __init__(
        self,
        read: Callable[[], Any],
        show: Callable[[Any], None],
        name: str,
        *,
        key: Callable[[Mapping[str, Any]], str] | None = None,
        volatile: frozenset[str] = frozenset(),
        after_json: Callable[[], None] = lambda: None,
    ) -> None:
        self.read = read
        self.show = show
        self.name = name
        self.key = key
        self.volatile = volatile
        self.after_json = after_json

    def rows(self, found: Any) -> dict[str, dict[str, Any]]:
        """Rows by what tells them apart, without what says nothing new; one thing is a row of no name.

        What is within another value is named with dots, ``electorate.block``.
        """
        if self.key is None:
            return {"": dict(self._essence(found))}
        return {self.key(row): dict(self._essence(row)) for row in found}

    def _essence(self, row: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in row.items():
            path = f"{within}{name}"
            if path in self.volatile or name in self.volatile:
                continue
            if isinstance(value, Mapping):
                yield from self._essence(value, f"{path}.")
            else:
                yield path, value


def watch(
    watched: Watched, interval_s: float, timeout_s: float | None, *, as_json: bool, clock: Clock | None = None
) -> None:
    """Look at a thing every ``interval_s`` seconds, and show it when it has changed.

    On a terminal it is drawn anew in its place. Elsewhere it is shown once, and then each change is a line: ``+`` for a
    row that is new, ``-`` for one that is gone, ``~`` with the columns that changed. With ``as_json`` each new state is
    one line of JSON.

    Raises:
        UnreachableError: No daemon answers at the first look. One that goes away later is waited for.
        P2PNodesError: It answers, and refuses.
    """
    clock = clock or Clock()
    live = sys.stdout.isatty() and not as_json
    looks = _looks(watched, interval_s, timeout_s, clock, silent=live)
    if live:
        _draw(watched, looks, interval_s, clock)
        return
    before: dict[str, dict[str, Any]] | None = None
    for found in looks:
        if found is None:
            continue
        rows = watched.rows(found)
        if rows == before:
            continue
        if as_json:
            print(json.dumps(found))
        elif before is None:
            watched.show(found)
        else:
            for line in changes(before, rows):
                say(line)
        sys.stdout.flush()
        before = rows


def _looks(
    watched: Watched, interval_s: float, timeout_s: float | None, clock: Clock, *, silent: bool
) -> Iterator[Any]:
    """What is found at each look; None while the daemon is away."""
    deadline_s = None if timeout_s is None else clock.now() + timeout_s
    met = gone = False
    while True:
        try:
            found = watched.read()
        except UnreachableError:
            if not met:
                raise
            if not (gone or silent):
                note("the daemon went away; waiting for it (Ctrl-C ends)")
            gone = True
            yield None
        else:
            if gone and not silent:
                note("the daemon is back")
            met, gone = True, False
            yield found
        left_s = interval_s if deadline_s is None else min(interval_s, deadline_s - clock.now())
        if left_s <= 0:
            return
        clock.sleep(left_s)
        if deadline_s is not None and clock.now() >= deadline_s:
            return


def changes(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs between two states, a line for each row."""
    lines = [f"- {key}" for key in before if key not in after]
    for key, row in after.items():
        if key not in before:
            lines.append(" ".join(["+", key, *(f"{name}={cell(value)}" for name, value in row.items() if value)]))
        elif changed := [
            f"{name}: {cell(before[key].get(name))} -> {cell(row.get(name))}"
            for name in {**before[key], **row}
            if before[key].get(name) != row.get(name)
        ]:
            lines.append(" ".join(part for part in ("~", key, "; ".join(changed)) if part))
    return lines


class _Terminal(io.StringIO):
    """Takes what a command prints as if it went to the terminal."""

    def isatty(self) -> bool:
        return True


def _draw(watched: Watched, looks: Iterator[Any], interval_s: float, clock: Clock) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    body = Text()
    seen: Any = None
    drawn: Any = None
    changed_at = clock.label()
    console = Console()
    with terminated(), Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop") as live:
        for found in looks:
            if found is not None:
                body = Text.from_ansi(_printed(watched, found))
                if (rows := watched.rows(found)) != seen:
                    seen, changed_at = rows, clock.label()
            state = "the daemon is away; waiting for it" if found is None else f"changed at {changed_at}"
            screen = (f"{watched.name}, every {interval_s:g} s, {state}; Ctrl-C ends", body, console.size)
            if screen != drawn:
                drawn = screen
                live.update(_screen(*screen), refresh=True)


def _screen(heading: str, body: "Text", size: "ConsoleDimensions") -> "Text":
    """A heading and as much of a body as there is room for below it; long lines are broken as a terminal does it."""
    from rich.text import Text

    lines = [Text(heading[: size.width], style="dim")]
    for line in body.split(allow_blank=True):
        lines += line.divide(range(size.width, len(line), size.width))
    return Text("\n", no_wrap=True, overflow="crop").join(lines[: max(2, size.height - 1)])


def _printed(watched: Watched, found: Any) -> str:
    with _Terminal() as frame:
        with redirect_stdout(frame), redirect_stderr(frame):
            watched.show(found)
        return frame.getvalue()


def by(*columns: str) -> Callable[[Mapping[str, Any]], str]:
    """What tells rows apart: some of their columns together."""

    def key(row: Mapping[str, Any]) -> str:
        return " ".join(str(row[column]) for column in columns if row.get(column)) or "-"

    return key
