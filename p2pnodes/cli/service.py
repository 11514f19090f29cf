"""``p2pnodes service``: the daemon as a systemd service."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pnodes.cli.output import JsonOption, command, confirm, note, print_json, print_table, say
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, WalletOption, hotkey_path
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from p2pnodes.service import ADMIN_PORT, PACKAGED_UNIT, UNITS, Choice, plan, unit

if TYPE_CHECKING:
    from p2pnodes.service import File

app = typer.Typer(no_args_is_help=True, help="Run the daemon as a systemd service.")

BOOTED: Final = Path("/run/systemd/system")
"""There where systemd is the system's manager. Source: sd_booted(3)."""

COMMAND_S_MAX: Final = 60.0
"""Bound of each of systemd's own commands."""


@command(
    app,
    "sudo p2pnodes service install",
    "p2pnodes service install --network finney --url https://node.example.org --wallet validator --dry-run",
    "p2pnodes service install --user --network network.toml --observer --yes",
)
def install(
    *,
    network: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="finney or testnet, or the file that a network hands out."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where peers and miners reach this daemon; without, it only dials out."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    admin_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Port of 127.0.0.1 for the console and metrics, for this machine alone; 0 for none.",
        ),
    ] = ADMIN_PORT,
    bootstrap: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Base URL of a daemon to begin with; repeatable.")
    ] = None,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    observer: Annotated[
        bool, typer.Option("--observer", help="Replicate and show the inventory, without a key.")
    ] = False,
    user: Annotated[
        bool, typer.Option("--user", help="For your own service manager: needs no root, and has less of a sandbox.")
    ] = False,
    program: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The p2pnodes that the service runs; this one unless given.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write below this directory and run nothing, as for an image.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the unit and a first configuration of a daemon, after showing what that means.

    A configuration that is there stays as it is. The hotkey's file is not copied: systemd reads it as root and hands
    it to the service alone. A unit that came with a package is used as it is. Nothing is started; what is printed last
    says how.

    What is not given is asked for on a terminal.
    """
    from p2pnodes.config import load_settings

    key = hotkey_path(hotkey_file, wallet, hotkey)
    if network is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("give --network: there is no terminal to ask on")
        network = typer.prompt("Network (finney, testnet, or its file)", default="finney", err=True)
        url = url or typer.prompt("Public URL (none: it only dials out)", default="", err=True) or None
        if key is None and not observer:
            named = typer.prompt("File of the validator's hotkey (none: an observer)", default="", err=True)
            key, observer = (Path(named), False) if named else (None, True)
    if observer is (key is not None):
        raise typer.BadParameter("give either the validator's hotkey (--wallet, or --hotkey-file) or --observer")
    program = (program or Path(sys.argv[0])).absolute()
    packaged = not user and _is_packaged(program, root)
    if key is not None:
        key = key.expanduser().absolute()
        if root is None:
            _require_key(key, of_root=wallet is not None)
    choice = Choice(
        program,
        _network_text(network),
        url,
        host,
        port,
        bootstrap or (),
        key,
        Path.home() if user else None,
        admin_port or None,
        packaged,
        root is not None or BOOTED.is_dir(),
    )
    planned = plan(choice)
    files = [(file, _action(file, root)) for file in planned.files]
    commands = [] if root is not None else planned.commands
    rows = [{"file": str(_below(root, file.path)), "action": action} for file, action in files]
    if not as_json:
        print_table(("file", "action"), rows, empty="no files")
        for words in commands:
            say(f"run: {' '.join(words)}")
    if not dry_run:
        confirm("Do this?", yes=yes)
        for file, action in files:
            if action in {"new", "replaced"}:
                _write(_below(root, file.path), file.content)
        for words in commands:
            _run(words)
    kept = (planned.config, "kept") in [(file.path, action) for file, action in files]
    if kept or not dry_run:
        settings = load_settings(_below(root, planned.config))  # as the daemon will: what is wrong is told now
        admin_port = settings.admin.port or 0
    if kept:
        note(f"{planned.config} was there and stays as it is: see that it says what you want now")
    if packaged and (own := _below(root, UNITS / PACKAGED_UNIT.name)).exists():
        note(f"{own} hides the unit that comes with the package: remove it, unless you wrote it on purpose")
    if not choice.systemd:
        note("systemd does not run here, so nothing starts the daemon by itself")
    if as_json:
        shown = {"files": rows, "commands": [list(words) for words in commands], "then": list(planned.following)}
        print_json({**shown, "console": f"http://127.0.0.1:{admin_port}/" if admin_port else None})
    else:
        say("then:")
        for line in planned.following:
            say(f"  {line}")
        if admin_port:
            say(f"its console: http://127.0.0.1:{admin_port}/")


def _require_key(path: Path, *, of_root: bool) -> None:
    """Refuse a hotkey that the daemon could not use: systemd would tell it much later, and in other words.

    Args:
        path: The hotkey's file.
        of_root: Whether it is in a wallet of the user that runs this.
    """
    from p2pnodes.chain.wallet import load_hotkey

    try:
        load_hotkey(path)
    except ConfigError as error:
        if of_root and "SUDO_USER" in os.environ:
            hint = "under sudo --wallet means root's wallets: name yours with --hotkey-file ~/.bittensor/wallets/..."
            raise ConfigError(f"{error}; {hint}", code=error.code) from error
        raise


def _is_packaged(program: Path, root: Path | None) -> bool:
    """Whether the unit for a program is there already, as a package of the distribution puts it."""
    try:
        return _below(root, PACKAGED_UNIT).read_text() == unit(str(program))
    except OSError:
        return False


def _network_text(network: str) -> str:
    """Content of a network file that is named, or comes with this program."""
    from p2pnodes.config import is_network_file, read_toml, shipped_network

    path = shipped_network(network) or Path(network)
    if not is_network_file(read_toml(path)):
        raise ConfigError(
            f"{path} is no network file; expected genesis_hash and netuid at its top: see finney.toml",
            code=Code.CONFIG_SERVICE,
        )
    return path.read_text()


def _below(root: Path | None, path: Path) -> Path:
    return path if root is None else root.absolute() / path.relative_to("/")


def _action(file: "File", root: Path | None) -> str:
    """What becomes of a file: new, replaced, kept or unchanged."""
    path = _below(root, file.path)
    try:
        content = path.read_text()
    except FileNotFoundError:
        return "new"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); run this as root, or move it away", code=Code.CONFIG_SERVICE
        ) from error
    if content == file.content:
        return "unchanged"
    return "kept" if file.keep else "replaced"


def _write(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    from p2pnodes.chain.regular import write_new

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)  # left by an installation that was killed
        write_new(draft, content)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}); run this as root, or with --user", code=Code.CONFIG_SERVICE
        ) from error


def _run(words: Sequence[str]) -> None:
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_S_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"`{' '.join(words)}` cannot be run ({error}); the files are written: run it by hand",
            code=Code.CONFIG_SERVICE,
        ) from error
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise ConfigError(
            f"`{' '.join(words)}` failed ({said[-1] if said else f'exit code {ended.returncode}'}); the files are "
            "written: run it by hand",
            code=Code.CONFIG_SERVICE,
        )
