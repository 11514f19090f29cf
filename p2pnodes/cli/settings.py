"""``p2pnodes run``, ``config check`` and ``config show``: what reads a daemon's configuration file as a whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pnodes.cli.output import ExitCode, JsonOption, command, fail_line, print_json, print_table, say
from p2pnodes.model.errors import P2PNodesError

if TYPE_CHECKING:
    from p2pnodes.config import Settings

ConfigOption = Annotated[
    Path,
    typer.Option("--config", envvar="P2PNODES_CONFIG", metavar="FILE", help="The daemon's configuration, TOML."),
]

app = typer.Typer(
    no_args_is_help=True, help="Check and show a daemon's configuration. What each setting means: config show."
)


def run(config: ConfigOption) -> None:
    """Run a daemon until SIGTERM or Ctrl-C.

    It keeps the inventory in data_dir, serves miners and peers on [http], and the operator's commands on a Unix
    socket. It stops within 5 s and loses nothing that it acknowledged, however it ends.
    """
    from p2pnodes.config import load_settings

    settings = load_settings(config)
    from p2pnodes import daemon  # late: a bad setting is told before half a second of imports

    raise typer.Exit(daemon.run(settings))


@command(app, "p2pnodes config check --config p2pnodes.toml")
def check(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Check a configuration and the files that it names, and list every problem.

    Nothing is started, opened for writing or made. Exit code 1 when there is a problem.
    """
    problems = _problems(config)
    if as_json:
        print_json({"problems": problems})
    else:
        for problem in problems:
            fail_line(problem)
        if not problems:
            say(f"{config}: no problems found")
    raise typer.Exit(ExitCode.FAILED if problems else ExitCode.DONE)


@command(
    app,
    "p2pnodes config show --config p2pnodes.toml",
    "P2PNODES_HTTP__PORT=8001 p2pnodes config show --config p2pnodes.toml --json",
)
def show(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Show every setting: its value, where that comes from, and what it means.

    Environment variables go before the file, the file before the network file, that before the defaults. The variable
    of port in [http] is P2PNODES_HTTP__PORT. Settings hold no secrets, only paths of the files that do.
    """
    from p2pnodes.config import effective_settings, load_settings

    settings = [setting._asdict() for setting in effective_settings(load_settings(config))]
    if as_json:
        print_json(settings)
    else:
        for setting in settings:
            if setting["value"] is not None and not isinstance(setting["value"], str):
                setting["value"] = json.dumps(setting["value"])  # as the file writes it
        print_table(("key", "value", "origin", "description"), settings, empty="no settings")


def _problems(config: Path) -> list[str]:
    """Every problem of a configuration; those of the files that it names only when it can be read itself."""
    from p2pnodes.chain.file import read_electorate
    from p2pnodes.chain.wallet import load_hotkey, load_node_key
    from p2pnodes.config import InvalidSettingsError, load_settings

    try:
        settings = load_settings(config)
    except InvalidSettingsError as error:
        return error.problems
    checks: list[tuple[Callable[[Path], Any], Path]] = [(read_electorate, settings.electorate.file)]
    if settings.hotkey_file is not None:
        checks.append((load_hotkey, settings.hotkey_file))
    if settings.node_key_file is not None or settings.node_key_path.exists():
        checks.append((load_node_key, settings.node_key_path))
    problems: list[str] = []
    for load, path in checks:
        try:
            load(path)
        except P2PNodesError as error:
            problems.append(str(error))
    return problems + _data_dir_problems(settings)


def _data_dir_problems(settings: "Settings") -> list[str]:
    """Whether the data directory, or the nearest directory in which it would be made, can be written."""
    import os

    nearest = settings.data_dir
    while not nearest.exists():
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return []
    return [f"data_dir {settings.data_dir}: {nearest} cannot be written; choose another or fix its owner"]
