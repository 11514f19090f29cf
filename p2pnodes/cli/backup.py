"""``p2pnodes backup`` and ``p2pnodes restore``: a copy of a daemon's database, and the way back."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pnodes.cli.output import JsonOption, print_fields, print_json, say, terminated, warn_line
from p2pnodes.cli.progress import phases
from p2pnodes.cli.settings import ConfigOption
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError

if TYPE_CHECKING:
    from p2pnodes.config import Settings
    from p2pnodes.model.keys import NodeKey
    from p2pnodes.store.backup import Copied


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the backup is to be: a file on another disk.")],
    *,
    config: ConfigOption,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Check chains, signatures and rows of the copy, as db verify does."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Copy the database to FILE, while the daemon runs or not.

    The copy is one consistent state, checked, and there whole or not at all. It is as private as the data directory:
    mode 0600, and it should stay so. db verify FILE checks it again; restore brings it back.

    It holds no keys. Keep the wallet with the hotkey, the configuration and the network file beside it. Not the node
    key: restore makes a new one, and an old node key beside an old database could write a log twice.
    """
    from p2pnodes.config import load_settings
    from p2pnodes.store.backup import back_up

    settings = load_settings(config)
    begin = time.monotonic()
    with terminated(), phases() as progress:  # a timer's deadline must leave nothing behind
        copied = back_up(
            settings.database_path, file, settings.network, verify=verify, replace=force, progress=progress
        )
    seconds = time.monotonic() - begin
    if as_json:
        print_json({"file": str(file.resolve())} | _json(copied, seconds))
        return
    print_fields({"backup": file.resolve()} | _fields(copied, seconds))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, or a database that restore put aside.")],
    *,
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of the database. Stop the daemon first.

    FILE is checked before anything changes: network, schema, chains, signatures, rows. The database that is there is
    not deleted: it stays beside the new one, as p2pnodes.db.before-restore-TIME.

    Do not copy a backup over p2pnodes.db by hand. It is behind its own log, and the daemon can tell only by what peers
    say; writing on in that log would fork it. restore makes a new node key, and the next start opens a new log with it,
    whatever peers say. Where the hotkey is elsewhere (delegation_file), have the new key delegated to: keys request.

    Peers send what the backup lacks, own events too. A backup from before keys revoke or keys close does not know that
    the stolen log ended: it counts again on this daemon, until the first peer tells.
    """
    from p2pnodes.config import load_settings
    from p2pnodes.store import directory
    from p2pnodes.store.backup import drafted

    settings = load_settings(config)
    elsewhere = _hotkey_is_elsewhere(settings)
    begin = time.monotonic()
    directory.make(settings.data_dir)
    with (
        terminated(),
        directory.hold(settings.data_dir),
        phases() as progress,
        drafted(file, settings.database_path, settings.network, progress) as draft,
    ):
        node_key = _replace_node_key(settings)
        aside = draft.put_in_place(datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    seconds = time.monotonic() - begin
    if elsewhere:
        warn_line(
            "delegation_file is for the node key before: have the new one delegated to (`p2pnodes keys request`, "
            "`keys delegate`); until then writes answer 503",
            Code.DATA_RESTORE_NOTE,
        )
    if as_json:
        made = {
            "database": str(settings.database_path),
            "before": None if aside is None else str(aside),
            "node_key": node_key.public_key.hex(),
        }
        print_json(made | _json(draft.copied, seconds))
        return
    print_fields(
        {
            "restored": settings.database_path,
            "before": aside or "there was none",
            "node key": node_key.public_key.hex(),
        }
        | _fields(draft.copied, seconds)
    )
    say("next: start the daemon; it opens a new log, and peers send what the backup lacks")


def _hotkey_is_elsewhere(settings: "Settings") -> bool:
    """Whether a new log needs a delegation that is signed on another machine."""
    from p2pnodes.chain.wallet import read_hotkey_file

    if settings.role == "observer" or settings.delegation_file is None:
        return False
    path = settings.hotkey_path
    return path is None or read_hotkey_file(path).hotkey is None


def _replace_node_key(settings: "Settings") -> "NodeKey":
    """Put a new node key in the place of the one before, durably; ``store.backup`` says why.

    Raises:
        StoreError: The key file cannot be replaced; nothing has changed.
    """
    from p2pnodes.chain.wallet import create_node_key
    from p2pnodes.store import directory

    path = settings.node_key_path
    draft = path.with_name(f"{path.name}.restoring")
    try:
        draft.unlink(missing_ok=True)  # left by a restore that was killed
        node_key = create_node_key(draft)
        try:
            directory.hand_over(draft, settings.data_dir)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        directory.sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: the node key cannot be replaced ({error.strerror}), nothing was restored: run this as its owner, "
            "or leave node_key_file out",
            code=Code.KEY_NOT_WRITTEN,
        ) from error
    return node_key


def _json(copied: "Copied", seconds: float) -> dict[str, Any]:
    return copied._asdict() | {"seconds": round(seconds, 3)}


def _fields(copied: "Copied", seconds: float) -> dict[str, str]:
    from rich.filesize import decimal

    return {
        "size": decimal(copied.size_bytes),
        "holds": f"{copied.events} events in {copied.logs} logs, {copied.rows} rows",
        "state root": copied.state_root or "not computed",
        "checked": "the file, chains, signatures, rows" if copied.verified else "the file; not the log (--no-verify)",
        "took": f"{seconds:.1f} s",
    }
