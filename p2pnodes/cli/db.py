"""``p2pnodes db``: look into a daemon's SQLite file without asking the daemon."""

import stat
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from p2pnodes.cli.findings import status_of
from p2pnodes.cli.output import ExitCode, JsonOption, command, fail_line, print_fields, print_json, warn_line
from p2pnodes.cli.progress import phases
from p2pnodes.cli.settings import ConfigOption
from p2pnodes.model.errors import StoreError

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a daemon's database. It is a SQLite file, which sqlite3 can read while the daemon runs, too.",
)


@command(app, 'sqlite3 "$(p2pnodes db path --config p2pnodes.toml)" "SELECT * FROM inventory"', name="path")
def database_path(config: ConfigOption) -> None:
    """Print the path of the database.

    Its views inventory, claims, verdicts, peers and event_log are made for reading.
    """
    from p2pnodes.config import load_settings

    print(load_settings(config).database_path)


@command(
    app, "p2pnodes db verify --config p2pnodes.toml", "p2pnodes db verify --config p2pnodes.toml backup/p2pnodes.db"
)
def verify(
    config: ConfigOption,
    database: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="Another database of the same network, such as a backup, or the directory that holds it.",
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check a database against its own log: chains, signatures, and rows that equal a rebuild.

    Nothing is changed, and the daemon may run meanwhile. A problem means a damaged file or a bug. Exit code 1 when
    there is one.
    """
    from rich.console import Console
    from rich.progress import Progress

    from p2pnodes.config import load_settings
    from p2pnodes.store.audit import audit

    settings = load_settings(config)
    path = database or settings.database_path
    begin = time.monotonic()
    try:
        found = status_of(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            path /= settings.database_path.name
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("events", total=None)
            report = audit(
                path, settings.network, lambda done, total: progress.update(task, completed=done, total=total)
            )
    except PermissionError as error:
        raise StoreError(f"{path}: cannot be looked for ({error.strerror}); run this as the daemon's user") from error
    if as_json:
        print_json(report._asdict())
    else:
        for problem in report.problems:
            fail_line(problem)
        print_fields(
            {
                "checked": f"{report.events} events in {report.logs} logs, {report.rows} rows",
                "state root": report.state_root or "not computed",
                "took": f"{time.monotonic() - begin:.1f} s",
                "result": f"problems found: {len(report.problems)}" if report.problems else "no problems found",
            }
        )
    raise typer.Exit(ExitCode.FAILED if report.problems else ExitCode.DONE)


@command(app, "p2pnodes db rebuild --config p2pnodes.toml")
def rebuild(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Derive all rows from the log again. Stop the daemon first.

    For rows that db verify finds wrong in a log that is sound; it changes no event, and needs no peer. It is done whole
    or not at all. Where rows differed from what was there, a warning names them; that means a damaged file or a bug.
    """
    from p2pnodes.config import load_settings
    from p2pnodes.store import directory
    from p2pnodes.store.rebuild import PROBLEMS_MAX
    from p2pnodes.store.rebuild import rebuild as rebuild_database

    settings = load_settings(config)
    begin = time.monotonic()
    with directory.hold(settings.data_dir), phases() as progress:
        report = rebuild_database(
            settings.database_path, settings.network, lambda done, total: progress("deriving rows", done, total)
        )
    seconds = time.monotonic() - begin
    if report.differences:
        more = " or more" if len(report.differences) == PROBLEMS_MAX else ""
        warn_line(
            f"differences from what was there: {len(report.differences)}{more}; the first: {report.differences[0]}"
        )
    if as_json:
        print_json(report._asdict() | {"seconds": round(seconds, 3)})
        return
    print_fields(
        {
            "rebuilt": f"{report.rows} rows from {report.events} events",
            "state root": report.state_root,
            "before": "the same" if report.state_root == report.state_root_before else report.state_root_before,
            "took": f"{seconds:.1f} s",
            "result": "rows differed" if report.differences else "no row differed",
        }
    )
