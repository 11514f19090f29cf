"""``p2pnodes run``, ``config check`` and ``config show``: what reads a daemon's configuration file as a whole."""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from p2pnodes.cli.output import (
    ExitCode,
    JsonOption,
    command,
    duration,
    fail_line,
    print_json,
    print_table,
    say,
    warn_line,
)
from p2pnodes.model.errors import P2PNodesError

if TYPE_CHECKING:
    from p2pnodes.config import Settings
    from p2pnodes.model.electorate import Electorate
    from p2pnodes.model.keys import Hotkey

ConfigOption = Annotated[
    Path,
    typer.Option("--config", envvar="P2PNODES_CONFIG", metavar="FILE", help="The daemon's configuration, TOML."),
]

_Found = TypeVar("_Found")

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

    Nothing is started, opened for writing or made. Exit code 1 when there is a problem. Warnings are for what works,
    but perhaps not as it was meant to: they change no exit code.
    """
    problems, warnings = _findings(config)
    if as_json:
        print_json({"problems": problems, "warnings": warnings})
    else:
        for warning in warnings:
            warn_line(warning)
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


def status_of(path: Path) -> os.stat_result | None:
    """What a path leads to, None when there is nothing.

    Raises:
        OSError: It cannot be told, as in another user's directory; ``Path.exists`` hides that in newer Pythons.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _findings(config: Path) -> tuple[list[str], list[str]]:
    """Problems and warnings; those of the files that a configuration names only when it can be read itself."""
    from p2pnodes.api.denied import read_denied
    from p2pnodes.chain.file import read_electorate
    from p2pnodes.chain.wallet import load_hotkey, load_node_key
    from p2pnodes.config import InvalidSettingsError, load_settings
    from p2pnodes.verify.exchange import Exchange
    from p2pnodes.verify.verifier import Setup, make_verifier

    try:
        settings = load_settings(config)
    except InvalidSettingsError as error:
        return error.problems, []
    problems: list[str] = []

    def checked(load: Callable[[Path], _Found], path: Path, *, optional: bool = False) -> _Found | None:
        try:
            return None if optional and status_of(path) is None else load(path)
        except P2PNodesError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: cannot be looked for ({error.strerror}); run this as the daemon's user")
        return None

    electorate = checked(read_electorate, settings.electorate.file)
    hotkey = checked(load_hotkey, settings.hotkey_file) if settings.hotkey_file is not None else None
    checked(load_node_key, settings.node_key_path, optional=settings.node_key_file is None)
    if settings.api.deny_file is not None:
        checked(read_denied, settings.api.deny_file)
    if hotkey is not None:  # without one nothing is verified
        exchange = Exchange(allow_private=settings.api.allow_private_hosts, online=lambda: True)
        setup = Setup(settings.verify, hotkey, settings.network, exchange, time.time, os.urandom)
        checked(lambda _: make_verifier(settings.verify.verifier, setup), config)
    problem, warning = _data_dir_findings(settings.data_dir)
    warnings = _hotkey_warnings(settings, hotkey, electorate)
    if electorate is not None:
        warnings += _electorate_warnings(settings, electorate)
    return problems + problem, warnings + warning


def _hotkey_warnings(settings: "Settings", hotkey: "Hotkey | None", electorate: "Electorate | None") -> list[str]:
    """What keeps this daemon from voting and writing."""
    warnings: list[str] = []
    if settings.hotkey_file is None:
        warnings.append(
            "hotkey_file is not set: the daemon serves and gossips, but cannot open a log, renew its delegation or vote"
        )
    elif hotkey is not None and electorate is not None and not electorate.permitted(hotkey.public_key):
        warnings.append(
            f"hotkey_file: {hotkey.address} holds no permit in {settings.electorate.file}: nothing that this daemon "
            "writes would count"
        )
    return warnings


def _electorate_warnings(settings: "Settings", electorate: "Electorate") -> list[str]:
    """What makes an electorate look old, or like one of another network."""
    file, network = settings.electorate.file, settings.network
    warnings: list[str] = []
    if electorate.block % network.epoch_blocks:
        warnings.append(
            f"{file}: block {electorate.block} is no multiple of network.epoch_blocks, {network.epoch_blocks}"
        )
    age_s = time.time() - electorate.time_ms / 1000
    if age_s > network.verdict_ttl_s:
        warnings.append(
            f"{file}: {duration(age_s)} old, but verdicts lapse after {duration(network.verdict_ttl_s)} "
            "(network.verdict_ttl_s): write a newer one"
        )
    return warnings


def _data_dir_findings(data_dir: Path) -> tuple[list[str], list[str]]:
    """Whether the data directory, or the nearest directory in which it would be made, can be written.

    A path that leads through a file is a problem for everybody; what this user may not do, the daemon's perhaps may.
    """
    nearest = data_dir
    try:
        while (status := status_of(nearest)) is None:
            nearest = nearest.parent
    except OSError as error:
        return [], [f"data_dir {data_dir}: cannot be looked into by this user ({error.strerror})"]
    if not stat.S_ISDIR(status.st_mode):
        return [f"data_dir {data_dir}: {nearest} is no directory; choose another"], []
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [], [f"data_dir {data_dir}: {nearest} cannot be written by this user; the daemon's must be able to"]
    return [], []
