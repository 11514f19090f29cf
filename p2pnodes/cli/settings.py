"""``p2pnodes run``, ``config check`` and ``config show``: what reads a daemon's configuration file as a whole."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from p2pnodes.cli.asking import SYSTEM_DEFAULT
from p2pnodes.cli.output import (
    FREE_TEXT_CHARS_MIN,
    ExitCode,
    JsonOption,
    cell,
    command,
    console,
    fail_line,
    print_fields,
    print_json,
    print_table,
    say,
    warn_line,
)
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, WalletOption, hotkey_settings
from p2pnodes.model.codes import Code
from p2pnodes.service import CONFIG


def _found(ctx: typer.Context, config: Path | None) -> Path | None:
    """Say where a configuration is looked for when there is none; that an option is missing would not tell."""
    if config is None and not ctx.resilient_parsing:  # which completes words
        raise typer.BadParameter(f"give it, or set P2PNODES_CONFIG; found neither, nor the default {CONFIG}")
    return config


ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        envvar="P2PNODES_CONFIG",
        metavar="FILE",
        help="The daemon's configuration, TOML.",
        default_factory=lambda: None,
        callback=_found,
        show_default=SYSTEM_DEFAULT,
    ),
]

OptionalConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="P2PNODES_CONFIG",
        metavar="FILE",
        show_default=SYSTEM_DEFAULT,
        help="A daemon's configuration, TOML.",
    ),
]

TABLE_COLUMNS_MIN: Final = 120
"""Narrowest terminal that shows the settings as a table; what they mean would be a word a line in a narrower one."""

_INDENT: Final = "    "

app = typer.Typer(
    no_args_is_help=True, help="Check and show a daemon's configuration. What each setting means: config show."
)


def run(
    *,
    config: ConfigOption,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
) -> None:
    """Run a daemon until SIGTERM or Ctrl-C.

    It keeps the inventory in data_dir, serves miners and peers on [http], and the operator's commands on a Unix
    socket. It stops within 5 s and loses nothing that it acknowledged, however it ends. SIGHUP makes it read its
    configuration again, as far as a running daemon can follow it; on a terminal, which hangs up, it stops.

    --wallet, --hotkey and --hotkey-file go before the settings of the same names.
    """
    from p2pnodes.process import become_daemon

    become_daemon(config, hotkey_settings(hotkey_file, wallet, hotkey))


@command(
    app,
    "p2pnodes config check --config p2pnodes.toml --wallet validator",
    "p2pnodes config check configs/finney.toml",
)
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A configuration, or a network file; goes before --config.")
    ] = None,
    *,
    config: OptionalConfigOption = None,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration and the files that it names, and list every problem; or check a network file.

    Nothing is started, opened for writing or made, and no chain is asked. Exit code 1 when there is a problem.
    Warnings are for what works, but perhaps not as it was meant to: they change no exit code.

    Of a network file the network's id is shown, and what is hashed into it: peers must agree on that, and on nothing
    else in the file.
    """
    from p2pnodes.cli.findings import Findings, of_configuration, of_network_file
    from p2pnodes.config import InvalidSettingsError, is_network_file, read_toml

    path = file or config
    if path is None:
        raise typer.BadParameter("give a file, or a daemon's configuration with --config (or P2PNODES_CONFIG)")
    options = hotkey_settings(hotkey_file, wallet, hotkey)
    code = Code.CONFIG_VALUE
    try:
        found = of_network_file(path) if is_network_file(read_toml(path)) else of_configuration(path, options)
    except InvalidSettingsError as error:
        found, code = Findings(error.problems, [], {}), error.code
    if as_json:
        print_json({"problems": found.problems, "warnings": found.warnings, **found.shown})
    else:
        for warning in found.warnings:
            warn_line(warning, Code.CONFIG_WARNING)
        for problem in found.problems:
            fail_line(problem, code)
        if not found.problems:
            _print_shown(found.shown)
            say(f"{path}: no problems found")
    raise typer.Exit(ExitCode.FAILED if found.problems else ExitCode.DONE)


@command(
    app,
    "p2pnodes config show --config p2pnodes.toml",
    "P2PNODES_HTTP__PORT=8001 p2pnodes config show --config p2pnodes.toml --json",
)
def show(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Show every setting: its value, where that comes from, and what it means.

    Environment variables go before the file, the file before the network file, that before the defaults. The variable
    of port in [http] is P2PNODES_HTTP__PORT. Settings hold no secrets, only paths of the files that do; credentials in
    the URLs of chain endpoints are not shown.
    """
    from p2pnodes.config import effective_settings, load_settings

    settings = [setting._asdict() for setting in effective_settings(load_settings(config))]
    if as_json:
        print_json(settings)
    else:
        for setting in settings:
            if setting["value"] is not None and not isinstance(setting["value"], str):
                setting["value"] = json.dumps(setting["value"])  # as the file writes it
        if (width := console().width) < TABLE_COLUMNS_MIN:
            _print_settings(settings, width)
        else:
            print_table(("key", "value", "origin", "description"), settings, empty="no settings")


def _print_settings(settings: Sequence[Mapping[str, Any]], width: int) -> None:
    """Settings for a narrow terminal: each in one line, what it means indented below."""
    room = max(FREE_TEXT_CHARS_MIN, width - len(_INDENT))
    for setting in settings:
        say(f"{setting['key']} = {cell(setting['value'])}  ({setting['origin']})")
        for line in textwrap.wrap(cell(setting["description"]), room):
            say(f"{_INDENT}{line}")


def _print_shown(shown: Mapping[str, Any]) -> None:
    """What ``config check`` found in a network file, for people; nothing for a configuration."""
    if not shown:
        return
    print_fields({"network id": shown["network_id"]})
    rows = [
        {"key": key, "hashed": part == "hashed", "value": json.dumps(value)}  # as the file writes it
        for part in ("hashed", "not_hashed")
        for key, value in shown[part].items()
    ]
    print_table(("key", "hashed", "value"), rows, empty="")
