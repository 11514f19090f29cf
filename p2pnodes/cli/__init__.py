"""The command line. Modules here import what a command needs when it runs: ``p2pnodes --help`` must be quick.

``main`` is the console script. Each module holds one group of commands; ``output`` holds what all of them share.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from typer._click.exceptions import UsageError  # typer exports its children alone

from p2pnodes import __version__
from p2pnodes.cli import admin, agent, bans, db, keys, logs, lookup, miner, places, proof, service, settings
from p2pnodes.cli.adopt import adopt
from p2pnodes.cli.backup import backup, restore
from p2pnodes.cli.compare import compare
from p2pnodes.cli.console import console
from p2pnodes.cli.demo import demo
from p2pnodes.cli.devnet import devnet
from p2pnodes.cli.docs import docs
from p2pnodes.cli.doctor import doctor
from p2pnodes.cli.forks import forks
from p2pnodes.cli.output import (
    EXIT_CODES,
    ExitCode,
    command,
    fail,
    fail_line,
    fail_memory,
    fail_system,
    fail_usage,
    note,
)
from p2pnodes.cli.sql import sql
from p2pnodes.cli.top import top
from p2pnodes.cli.verify import verify
from p2pnodes.hardening import no_core_dumps
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.service import CONFIG

__all__ = ["app", "main"]

CONFIG_VARIABLE = "P2PNODES_CONFIG"
"""Names the configuration for commands that are not told; it is ``config.CONFIG_VARIABLE``, which costs an import."""

SYSTEM_CONFIG = Path(CONFIG)
"""The configuration that they take when that names none, either."""

_FIRST = "Begin here"
_DAEMON = "Daemon"
_OPERATOR = "Look into a running daemon"
_ACT = "Tell a running daemon"
_MINER = "Miners"

app = typer.Typer(
    name="p2pnodes",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The GPU inventory of a Bittensor subnet, kept by its validators together instead of by one operator.\n\n"
    "Each validator runs a daemon. Miners register GPUs with any of them, all of them vote, and all of them show the "
    "same inventory.",
    epilog=EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"p2pnodes {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that go before a command."""


command(app, "p2pnodes demo", panel=_FIRST)(demo)
command(app, "p2pnodes devnet --dir ./devnet", "p2pnodes miner list --api http://127.0.0.1:8100", panel=_FIRST)(devnet)
command(app, "p2pnodes docs", "p2pnodes docs recover", "p2pnodes docs --file nginx.conf", panel=_FIRST)(docs)
command(
    app,
    "p2pnodes run --config /etc/p2pnodes/p2pnodes.toml",
    "p2pnodes run --config p2pnodes.toml --wallet validator --hotkey default",
    panel=_DAEMON,
)(settings.run)
app.add_typer(settings.app, name="config", rich_help_panel=_DAEMON)
app.add_typer(keys.app, name="keys", rich_help_panel=_DAEMON)
app.add_typer(service.app, name="service", rich_help_panel=_DAEMON)
app.add_typer(db.app, name="db", rich_help_panel=_DAEMON)
command(
    app,
    "p2pnodes backup /mnt/backups/p2pnodes-2026-01-31.db --config p2pnodes.toml",
    "p2pnodes backup /mnt/backups/latest.db --force --json",
    panel=_DAEMON,
)(backup)
command(app, "p2pnodes restore /mnt/backups/latest.db --config p2pnodes.toml", panel=_DAEMON)(restore)
command(
    app,
    "p2pnodes doctor --config p2pnodes.toml",
    "p2pnodes doctor --config p2pnodes.toml --offline --json",
    panel=_DAEMON,
)(doctor)
command(app, "p2pnodes status --config p2pnodes.toml", panel=_OPERATOR)(admin.status)
command(app, "p2pnodes console", "p2pnodes console --open --config p2pnodes.toml", panel=_OPERATOR)(console)
command(app, "p2pnodes peers --config p2pnodes.toml", "p2pnodes peers --watch --interval 5", panel=_OPERATOR)(
    admin.peers
)
command(
    app,
    "p2pnodes nodes --config p2pnodes.toml --status pending",
    "p2pnodes nodes --busy --model h100_sxm --sort verified",
    "p2pnodes nodes --hotkey 5Grw... --watch",
    "p2pnodes nodes --model h100_sxm --watch --json",
    panel=_OPERATOR,
)(admin.nodes)
command(app, "p2pnodes claims --config p2pnodes.toml --status failed --json", panel=_OPERATOR)(admin.claims)
command(app, "p2pnodes verdicts --config p2pnodes.toml --finding failed", panel=_OPERATOR)(admin.verdicts)
command(
    app,
    "p2pnodes events --config p2pnodes.toml --state void --limit 20",
    "p2pnodes events --follow --kind verdict",
    "p2pnodes events --follow --after 0 --json >> events.jsonl",
    panel=_OPERATOR,
)(admin.events)
command(app, "p2pnodes forks --config p2pnodes.toml", panel=_OPERATOR)(forks)
app.add_typer(logs.app, name="logs", rich_help_panel=_OPERATOR)
app.add_typer(logs.app, name="log", hidden=True)  # as one types it for ``log level``
app.add_typer(bans.app, name="bans", rich_help_panel=_ACT)
app.add_typer(lookup.claim_app, name="claim", rich_help_panel=_OPERATOR)
app.add_typer(lookup.node_app, name="node", rich_help_panel=_OPERATOR)
command(
    app,
    "p2pnodes place --nodes UUID,UUID --chute-id ID --instance-id ID --name llama --username ann --verified",
    "p2pnodes place --nodes UUID --chute-id ID --instance-id ID --private",
    panel=_ACT,
)(places.place)
command(app, "p2pnodes release --nodes UUID,UUID --config p2pnodes.toml", panel=_ACT)(places.release)
command(app, "p2pnodes verify CLAIM --config p2pnodes.toml --timeout 60", panel=_ACT)(verify)
command(app, "p2pnodes top --config p2pnodes.toml", "p2pnodes top --json --interval 10", panel=_OPERATOR)(top)
command(
    app,
    'p2pnodes sql --config p2pnodes.toml "SELECT gpu_identifier, count(*) FROM inventory GROUP BY 1"',
    "p2pnodes sql \"SELECT * FROM claims WHERE status = 'failed'\" --csv > failed.csv",
    "p2pnodes sql --database /mnt/backups/latest.db",
    panel=_OPERATOR,
)(sql)
app.add_typer(proof.app, name="proof", rich_help_panel=_OPERATOR)
command(
    miner.app,
    "p2pnodes miner adopt --from https://api.example --hotkey-file HOTKEY --api https://a.example --dry-run",
    "p2pnodes miner adopt --from http://127.0.0.1:8100 --uri //Alice --api http://127.0.0.1:8200 --wait",
)(adopt)
command(
    miner.app,
    "p2pnodes miner probe --host 203.0.113.7 --server-id rack-1 > server.json",
    "p2pnodes miner probe --sources",
)(agent.probe)
command(
    miner.app,
    "p2pnodes miner serve --hotkey-file HOTKEY --host 0.0.0.0 --allow 5Grw... --allow 5FHn...",
    "p2pnodes miner serve --uri //Alice --allow any --recording gpus.json",
)(agent.serve)
app.add_typer(miner.app, name="miner", rich_help_panel=_MINER)
command(
    app,
    "p2pnodes compare https://api.example --api http://127.0.0.1:8100 --gpus-only",
    "p2pnodes compare http://127.0.0.1:8102 --api http://127.0.0.1:8100 --uri //Alice",
    panel=_MINER,
)(compare)


def main() -> None:
    """Run the command line: what is done on purpose ends in one line on stderr and an exit code, never a traceback."""
    if sys.stdout is None:  # closed, so that the next file to be opened would take its place
        fail_line(
            "standard output is closed; expected an open one: send it to /dev/null to be rid of it", Code.SYSTEM_REFUSED
        )
        sys.exit(ExitCode.FAILED)
    _open_what_is_closed()
    try:
        try:
            no_core_dumps()  # before any command reads a key
            _find_configuration()
            sys.exit(app(prog_name="p2pnodes", standalone_mode=False))  # the code of typer.Exit, or None
        except P2PNodesError as error:
            fail(error)
        except UsageError as error:
            fail_usage(error)
        except typer.Abort as error:  # the answer to a question was no, or there is none
            note("not done")
            sys.exit(ExitCode.INTERRUPTED if isinstance(error.__context__, KeyboardInterrupt) else ExitCode.FAILED)
        finally:
            _flush()
    except OSError as error:
        fail_system(error)
    except MemoryError:
        fail_memory()


def _open_what_is_closed() -> None:
    """Put /dev/null in the place of a closed standard input or error output, for this process and its children.

    Python has None for them, and prints among the results what is to go to None; and the next file to be opened would
    take their numbers, so that what a library says on standard error lands in it.
    """
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 - as long as the process
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _find_configuration() -> None:
    """Let commands without --config mean the system's service where there is one, as ``service install`` writes it."""
    if CONFIG_VARIABLE in os.environ:
        return
    with suppress(OSError):  # in a directory that this user may not enter it is none for them
        SYSTEM_CONFIG.stat()
        os.environ[CONFIG_VARIABLE] = str(SYSTEM_CONFIG)


def _flush() -> None:
    """Write what is still buffered.

    Raises:
        OSError: It cannot be written, and is given up.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python must not try to flush again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read our output is gone, as with `| head`
            sys.exit(ExitCode.FAILED)
        raise
