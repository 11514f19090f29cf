"""``p2pnodes db``: look into a daemon's SQLite file without asking the daemon."""

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from p2pnodes.cli.output import (
    ExitCode,
    JsonOption,
    command,
    confirm,
    fail_line,
    kept_copies,
    note,
    print_fields,
    print_json,
    print_table,
    say,
    warn_line,
)
from p2pnodes.cli.progress import phases, waiting_for
from p2pnodes.cli.settings import ConfigOption
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, StoreError
from p2pnodes.store import COPY_DAYS_DEFAULT
from p2pnodes.store.directory import status_of

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a daemon's database. It is a SQLite file, which sqlite3 can read while the daemon runs, too.",
)


@command(app, 'sqlite3 "$(p2pnodes db path --config p2pnodes.toml)" "SELECT * FROM inventory"', name="path")
def database_path(config: ConfigOption) -> None:
    """Print the path of the database.

    Its views inventory, claims, verdicts, placements, peers and event_log are made for reading.
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
    from p2pnodes.config import load_settings
    from p2pnodes.store.audit import audit

    settings = load_settings(config)
    begin = time.monotonic()
    with _looking_for(database or settings.database_path, settings.database_path.name) as path, phases() as progress:
        report = audit(path, settings.network, progress)
    if as_json:
        print_json(report._asdict())
    else:
        for problem in report.problems:
            fail_line(problem, Code.DATA_AUDIT)
        print_fields(
            {
                "checked": f"{report.events} events in {report.logs} logs, {report.rows} rows",
                "state root": report.state_root or "not computed",
                "took": f"{time.monotonic() - begin:.1f} s",
                "result": f"problems found: {len(report.problems)}" if report.problems else "no problems found",
            }
        )
    raise typer.Exit(ExitCode.FAILED if report.problems else ExitCode.DONE)


@contextmanager
def _looking_for(path: Path, name: str) -> Iterator[Path]:
    """The database that a path names, itself or by its directory.

    Raises:
        StoreError: This user may not look there.
    """
    try:
        found = status_of(path)
        yield path / name if found is not None and stat.S_ISDIR(found.st_mode) else path
    except PermissionError as error:
        raise StoreError(
            f"{path}: cannot be looked for ({error.strerror}); run this as the daemon's user", code=Code.DATA_UNREADABLE
        ) from error


DIFFERENCES_SHOWN: Final = 1_000
"""Leaves that ``db diff`` lists; whoever has more asks for JSON."""


@command(app, "p2pnodes db diff --config p2pnodes.toml backup/p2pnodes.db")
def diff(
    config: ConfigOption,
    other: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Another validator's database, such as a backup, or its directory."),
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare what two databases keep below the cut of one checkpoint: for `checkpoint-differs`.

    Lists every event of which only one of them keeps something, or each another part. Exit code 1 when there is one, 3
    when nothing can be compared: each database holds the live sets of its latest checkpoints alone.
    """
    from p2pnodes.config import load_settings
    from p2pnodes.store.checkpoints import kept_leaves, live_difference, live_sets
    from p2pnodes.store.copying import open_ours
    from p2pnodes.store.ledger import stored_network
    from p2pnodes.store.schema import CHECK, what_to_do

    path = load_settings(config).database_path
    with ExitStack() as stack:
        other = stack.enter_context(_looking_for(other, path.name))
        here, there = (stack.enter_context(closing(open_ours(each))) for each in (path, other))
        try:
            if stored_network(here) != stored_network(there):
                raise StoreError(
                    f"{other} is of another network than {path}; give a database of this network",
                    code=Code.DATA_OTHER_NETWORK,
                )
            number = max(live_sets(here) & live_sets(there), default=0)
            found = [
                {
                    "only": "here" if mine else "there",
                    "log": str(leaf.log),
                    "seq": leaf.seq,
                    "kind": leaf.kind,
                    "items": list(leaf.items),
                    "id": leaf.id.hex(),
                }
                for mine, leaf in live_difference(kept_leaves(here, number), kept_leaves(there, number))
            ]
        except sqlite3.Error as error:
            advice = what_to_do(error, CHECK)
            raise StoreError(
                f"{path} and {other} cannot be compared: {error}{advice}", code=Code.DATA_UNREADABLE
            ) from error
    if as_json:
        print_json({"number": number, "differences": found})
    elif not number:
        note(
            "nothing was compared: there is no checkpoint whose live set both of them hold, for each has that of its "
            "latest one alone; take backups of both within the same day"
        )
    else:
        columns = ("only", "log", "seq", "kind", "items", "id")
        print_table(
            columns, found[:DIFFERENCES_SHOWN], empty=f"both keep the same below the cut of checkpoint {number}"
        )
        if len(found) > DIFFERENCES_SHOWN:
            note(f"{len(found) - DIFFERENCES_SHOWN} more; --json has all of them")
    if not number:
        raise typer.Exit(ExitCode.UNREACHABLE)
    raise typer.Exit(ExitCode.FAILED if found else ExitCode.DONE)


@command(
    app,
    "p2pnodes db prune --config p2pnodes.toml --dry-run",
    "p2pnodes db prune --config p2pnodes.toml --older-than 0 --yes",
)
def prune(
    config: ConfigOption,
    *,
    older_than_days: Annotated[
        float,
        typer.Option(
            "--older-than",
            min=0,
            max=36_500,
            metavar="DAYS",
            show_default=f"{COPY_DAYS_DEFAULT:g}",
            help="Remove databases that restore put aside when they are as old as that.",
        ),
    ] = COPY_DAYS_DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and how much it is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what a data directory holds that nothing needs any more.

    Databases that restore put aside, drafts of a restore that was killed, free pages within the database, and its
    write-ahead log. All but the first need a stopped daemon, and are left out while one runs.

    No event goes, void ones and those of hotkeys without a permit neither: logs are compared whole, so peers would send
    them again or rows would differ. A database that was put aside may be the only copy of what restore went back from:
    delete it when all is well.
    """
    from rich.filesize import decimal

    from p2pnodes.config import load_settings
    from p2pnodes.store.prune import copies, left_aside, removable, remove

    settings = load_settings(config)
    node_key = settings.node_key_path
    drafts = (node_key.with_name(f"{node_key.name}.restoring"),)
    path = settings.database_path
    with _held(settings.data_dir) as runs:
        found = list(
            removable(path, older_than_s=86_400 * older_than_days, now_s=time.time(), drafts=drafts, stopped=not runs)
        )
        going = [item for item in found if not (runs and item.stopped)]
        rows = [
            {"what": item.what, "size": decimal(item.size_bytes), "bytes": item.size_bytes, "path": str(item.path)}
            | {"removed": item in going and not dry_run, "note": "" if item in going else "stop the daemon first"}
            for item in found
        ]
        if not as_json:
            print_table(("what", "size", "path", "note"), rows, empty="nothing to remove")
        if not found and left_aside(path):
            note(f"there is no {path}: what a restore left beside it stays, it may be all that there is")
        young = {at_s for _, _, at_s in copies(path) if time.time() - at_s < 86_400 * older_than_days}
        if young and not as_json:
            note(f"{kept_copies(young, older_than_days)}; see --older-than")
        freed = 0
        if going and not dry_run:
            confirm("Remove this?", yes=yes)
            with waiting_for("removing"):
                freed = remove(path, going)
    if as_json:
        print_json({"items": [_without_size(row) for row in rows], "freed_bytes": freed, "daemon_runs": runs})
    elif going and not dry_run:
        say(f"removed: {decimal(freed)}")


@contextmanager
def _held(data_dir: Path) -> Iterator[bool]:
    """Hold a data directory, unless a daemon (or a restore) does; yields whether one does."""
    from p2pnodes.store import directory

    try:
        lock = directory.hold(data_dir)
    except ConfigError as error:
        if error.code != Code.DATA_IN_USE:
            raise
        yield True
        return
    with lock:
        yield False


def _without_size(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "size"}


@command(app, "p2pnodes db rebuild --config p2pnodes.toml")
def rebuild(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Derive all rows from the log again. Stop the daemon first.

    For rows that db verify finds wrong in a log that is sound; it changes no event, and needs no peer. It is done whole
    or not at all, and not where the log is damaged, or what a checkpoint keeps of it. Where rows differed from what was
    there, a warning names them; that means a damaged file or a bug.
    """
    from p2pnodes.config import load_settings
    from p2pnodes.store import directory
    from p2pnodes.store.rebuild import PROBLEMS_MAX
    from p2pnodes.store.rebuild import rebuild as rebuild_database

    settings = load_settings(config)
    begin = time.monotonic()
    with directory.hold(settings.data_dir), phases() as progress:
        report = rebuild_database(settings.database_path, settings.network, progress)
    seconds = time.monotonic() - begin
    if report.differences:
        more = " or more" if len(report.differences) == PROBLEMS_MAX else ""
        warn_line(
            f"differences from what was there: {len(report.differences)}{more}; the first: {report.differences[0]}",
            Code.DATA_REBUILD_DIFFERED,
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
