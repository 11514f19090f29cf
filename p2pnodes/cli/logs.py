"""``p2pnodes logs``: what the codes of errors and refusals mean, and how much a running daemon logs."""

import difflib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, BinaryIO, Final, Literal

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import JsonOption, command, duration, note, print_fields, print_json, print_table, say
from p2pnodes.cli.progress import waiting_for
from p2pnodes.cli.spans import span_up_to
from p2pnodes.model.codes import AREAS, BY_NAME, Code
from p2pnodes.model.errors import P2PNodesError

LINE_BYTES_MAX: Final = 64 * 1024
"""Bytes of a log's line that are looked at; a traceback in JSON has some kilobytes."""

UNKNOWN_MAX: Final = 100
"""Codes of a log that this build does not know, of which the names are kept."""

NEAR_MAX: Final = 3
"""Codes that are suggested for one that does not exist."""

FOR_S: Final = 600
"""How long a level holds that was set for no certain time, seconds."""

FOR_MAX: Final = "24h"
"""``FOR_S_MAX`` of the daemon as one types it; to import that would be slow."""

_STYLE: Final = re.compile(rb"\x1b\[[0-9;]*m")
"""What a terminal takes for a colour: a log for people may hold them."""

_CODE: Final = re.compile(
    rb'(?:"code": ?"|\bcode=|\[(?=[a-z-]+\]\s*$)|\bp2pnodes-code: ?)(?P<code>[a-z]+(?:-[a-z]+)+)', re.IGNORECASE
)
"""A code in a line of a log as JSON or for people, in a command's error, or in the header of an answer."""

Level = Literal["debug", "info", "warning", "error", "configured"]

app = typer.Typer(
    no_args_is_help=True,
    help="Understand what a daemon and the commands tell of errors and refusals, and choose how much a daemon logs.",
)


@command(
    app,
    "p2pnodes logs explain writes-unheard",
    "journalctl -u p2pnodes -p warning --since today | p2pnodes logs explain",
)
def explain(
    codes: Annotated[
        list[str] | None, typer.Argument(metavar="[CODE]...", help="As it stands in brackets or under code.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what codes of errors and refusals mean, and what to do.

    Without a code, a log is read from standard input, and each code in it is explained, the most frequent one first.
    Nothing is asked: this needs no daemon.
    """
    if codes:
        _show([_described(_known(code)) for code in dict.fromkeys(map(str.strip, codes))], as_json=as_json)
        return
    if sys.stdin.isatty():
        raise typer.BadParameter("expected a code, or a log on standard input; `p2pnodes logs list` shows all codes")
    with waiting_for("reading the log from standard input"):
        times = _count(sys.stdin.buffer)
    known = [_described(BY_NAME[code]) | {"times": count} for code, count in times.most_common() if code in BY_NAME]
    if unknown := [code for code in times if code not in BY_NAME]:
        note(f"codes that this build does not know, so a newer p2pnodes wrote them: {', '.join(unknown)}")
    _show(known, as_json=as_json)


@command(app, "p2pnodes logs list", "p2pnodes logs list writes --json", name="list")
def list_codes(
    area: Annotated[str | None, typer.Argument(metavar="[AREA]", help="Only codes that begin with this word.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the codes of errors and refusals."""
    if area is not None and area not in AREAS:
        raise typer.BadParameter(f"expected one of {', '.join(AREAS)}, found {area!r:.80}")
    found = [_described(code) for code in Code if area in {None, code.area}]
    if as_json:
        print_json(found)
    else:
        print_table(("code", "meaning"), found, empty="none")


@command(
    app,
    "p2pnodes logs level --config p2pnodes.toml",
    "p2pnodes logs level debug --for 10m --logger p2pnodes.gossip --config p2pnodes.toml",
    "p2pnodes logs level configured --config p2pnodes.toml",
)
def level(
    wanted: Annotated[
        Level | None, typer.Argument(metavar="[LEVEL]", help="debug, info, warning, error, or configured to undo.")
    ] = None,
    *,
    for_s: Annotated[
        int | None,
        typer.Option(
            "--for",
            metavar="SPAN",
            parser=span_up_to(FOR_MAX),
            help=f"How long: 90s, 10m, 2h, up to {FOR_MAX}; 10m unless told.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Until the daemon restarts or reads its settings again.")
    ] = False,
    logger: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this part, such as p2pnodes.gossip; all unless given.")
    ] = None,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or change the level from which on a running daemon logs.

    A change goes back by itself after its time. SIGHUP and a restart return to the configuration at once.
    """
    path = admin_socket(config, socket_path)
    if wanted is None:
        if for_s is not None or keep or logger is not None:
            raise typer.BadParameter("--for, --keep and --logger need a LEVEL")
        found = ask(path, "/log")
    else:
        if keep and for_s is not None:
            raise typer.BadParameter("expected either --for or --keep, found both")
        if wanted == "configured" and (keep or for_s is not None):
            raise typer.BadParameter("configured holds anyway: expected neither --for nor --keep")
        until = None if keep or wanted == "configured" else for_s or FOR_S
        found = ask(
            path, "/log", {"level": None if wanted == "configured" else wanted, "for_s": until, "logger": logger}
        )
    if as_json:
        print_json(found)
    else:
        print_fields({"level": level_line(found)})


def level_line(found: Mapping[str, Any]) -> str:
    """What ``GET /log`` answers, in one line for people."""
    changed = [f"{each['logger'] or 'all'} {each['level']} {_until(each['left_s'])}" for each in found["changed"]]
    configured = f"configured is {found['configured']}" if changed else f"{found['configured']}, as configured"
    return "; ".join([*changed, configured])


def _until(left_s: float | None) -> str:
    return "until a restart" if left_s is None else f"for {duration(left_s)} more"


def _known(name: str) -> Code:
    """A code by its name.

    Raises:
        P2PNodesError: There is none; the message suggests some.
    """
    found = BY_NAME.get(name.strip("[]").lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), list(BY_NAME), n=NEAR_MAX, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`p2pnodes logs list` shows all"
        raise P2PNodesError(f"there is no code {name!r:.80}; {hint}", code=Code.SYSTEM_UNKNOWN_NAME)
    return found


def _count(log: BinaryIO) -> Counter[str]:
    """How often each code stands in a log."""
    times: Counter[str] = Counter()
    unknown = 0
    for line in _lines(log):
        for found in _CODE.finditer(_STYLE.sub(b"", line)):
            code = found["code"].decode().lower()
            if code not in times and code not in BY_NAME:
                unknown += 1
                if unknown > UNKNOWN_MAX:
                    continue
            times[code] += 1
    return times


def _lines(log: BinaryIO) -> Iterator[bytes]:
    """The lines of a log, of each at most LINE_BYTES_MAX."""
    begins = True
    while line := log.readline(LINE_BYTES_MAX):
        if begins:
            yield line
        begins = line.endswith(b"\n")


def _described(code: Code) -> dict[str, Any]:
    return {"code": code.value, "area": AREAS[code.area], "meaning": code.meaning, "advice": code.advice}


def _show(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if not found:
        say("no code of an error or refusal in it")
    for number, each in enumerate(found):
        if number:
            say("")
        times = {"times": each["times"]} if "times" in each else {}
        print_fields({"code": each["code"], **times, "means": each["meaning"], "do": each["advice"]})
