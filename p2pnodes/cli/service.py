"""``p2pnodes service``: the daemon as a systemd service."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pnodes.cli.output import JsonOption, command, confirm, note, print_json, print_table, say, warn_line
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, WalletOption, hotkey_path
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from p2pnodes.service import ADMIN_PORT, NAME, PACKAGED_UNIT, PROGRAM, UNITS, Choice, plan, unit

if TYPE_CHECKING:
    from p2pnodes.service import File, Plan

app = typer.Typer(no_args_is_help=True, help="Run the daemon as a systemd service.")

BOOTED: Final = Path("/run/systemd/system")
"""There where systemd is the system's manager. Source: sd_booted(3)."""

FILE_MODE: Final = 0o644
"""Of the system's files, whatever root's umask is: they hold no secret, and the service's user must read them."""

DIRECTORY_BITS: Final = 0o111
"""What a directory has besides, to be entered."""

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
    verifier: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How GPUs are checked: nvml, graval, or an installed package's; none votes verified without a check. "
            "What the network file says unless given, and that is none for most.",
        ),
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
    from p2pnodes.cli.findings import service_warnings
    from p2pnodes.config import load_settings
    from p2pnodes.verify.verifier import load_verifier

    key = hotkey_path(hotkey_file, wallet, hotkey)
    if network is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("give --network: there is no terminal to ask on")
        network = typer.prompt("Network (finney, testnet, or its file)", default="finney", err=True)
        url = url or typer.prompt("Public URL (none: it only dials out)", default="", err=True) or None
        if key is None and not observer:
            named = typer.prompt("File of the validator's hotkey (none: an observer)", default="", err=True)
            key, observer = (Path(named), False) if named else (None, True)
        if verifier is None and not observer:
            asked = "Verifier (nvml, graval; none: it votes verified without a check)"
            verifier = typer.prompt(asked, default="none", err=True)
    if observer is (key is not None):
        raise typer.BadParameter("give either the validator's hotkey (--wallet, or --hotkey-file) or --observer")
    if observer and verifier is not None:
        raise typer.BadParameter("an observer does not vote, and so has no --verifier")
    if verifier is not None and root is None:
        load_verifier(verifier)  # refuses what is not installed
    program = (program or Path(sys.argv[0])).absolute()
    packaged = not user and _is_packaged(program, root)
    if key is not None:
        key = key.expanduser().absolute()
        if root is None:
            _require_key(key, of_root=wallet is not None)
    network_path = _network_file(network)
    choice = Choice(
        program,
        network_path.read_text(),
        url,
        host,
        port,
        bootstrap or (),
        key,
        Path.home() if user else None,
        admin_port or None,
        packaged,
        root is not None or BOOTED.is_dir(),
        verifier,
    )
    planned = plan(choice)
    _require_same_network(network_path, _below(root, planned.config.with_name("network.toml")))
    files = [(file, _action(file, root)) for file in planned.files]
    if (planned.config, "new") in [(file.path, action) for file, action in files]:
        _require_usable(planned)
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
                _write(_below(root, file.path), file.content, mode=None if user else FILE_MODE)
        for words in commands:
            _run(words)
        if root is None and not user:
            _require_readable([file.path for file in planned.files if file.path.parent == planned.config.parent], NAME)
    kept = (planned.config, "kept") in [(file.path, action) for file, action in files]
    if kept or not dry_run:
        # As the service will, which has none of this shell's variables: what is wrong is told now.
        settings = load_settings(_below(root, planned.config), with_environment=False)
        admin_port = settings.admin.port or 0
        for warning in service_warnings(settings):
            warn_line(warning, Code.CONFIG_WARNING)
    if kept:
        note(f"{planned.config} was there and stays as it is: see that it says what you want now")
    if packaged and (own := _below(root, UNITS / PACKAGED_UNIT.name)).exists():
        note(f"{own} hides the unit that comes with the package: remove it, unless you wrote it on purpose")
    if not choice.systemd:
        note("systemd does not run here, so nothing starts the daemon by itself")
    if as_json:
        shown = {"files": rows, "commands": [list(words) for words in commands], "then": list(planned.following)}
        print_json({**shown, "console": f"http://127.0.0.1:{admin_port}/console/" if admin_port else None})
    else:
        say("then:")
        for line in planned.following:
            say(f"  {line}")
        if admin_port:
            say(f"its console: http://127.0.0.1:{admin_port}/console/")


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


def _require_usable(planned: "Plan") -> None:
    """Refuse a configuration that no daemon takes before anything is written: once there, it would be kept."""
    from p2pnodes.config import InvalidSettingsError, load_settings

    place = planned.config.parent
    with tempfile.TemporaryDirectory() as name:
        for file in planned.files:
            if file.path.parent == place:
                Path(name, file.path.name).write_text(file.content)
        try:
            load_settings(Path(name, planned.config.name), with_environment=False)
        except InvalidSettingsError as error:
            problems = "; ".join(problem.replace(name, str(place)) for problem in error.problems)
            raise ConfigError(f"{problems}; nothing was written", code=Code.CONFIG_SERVICE) from error


def _is_packaged(program: Path, root: Path | None) -> bool:
    """Whether the unit for a program is there already, as a package of the distribution puts it.

    A program may have several paths, as where /bin is a link to /usr/bin.
    """
    try:
        found = _below(root, PACKAGED_UNIT).read_text()
        if found == unit():
            return _below(root, program).resolve() == _below(root, Path(PROGRAM)).resolve()
        return found == unit(str(program))
    except OSError:
        return False


def _require_same_network(file: Path, held: Path) -> None:
    """Refuse to put another network's file below a configuration, and so below a database.

    Args:
        file: The network file that is to be written.
        held: Where it is to be.
    """
    from p2pnodes.config import InvalidSettingsError, load_network_file

    wanted = load_network_file(file).network.id
    try:
        found = load_network_file(held).network.id
    except InvalidSettingsError:  # there is none, or none that a daemon ran with
        return
    if found != wanted:
        raise ConfigError(
            f"{held}: is of network {found.hex()}, {file} of {wanted.hex()}, and the database of one is of no use in "
            "the other; name the same network, or move the configuration and the data directory away first",
            code=Code.CONFIG_SERVICE,
        )


def _require_readable(paths: Sequence[Path], name: str) -> None:
    """Refuse files that the service's user cannot read: it would be started again and again.

    Only root can look as another user; for anybody else nothing is checked.
    """
    import pwd

    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(name)
    except KeyError:  # made by hand, later
        return
    for path in paths:
        words = ("test", "-r", str(path))
        asked = subprocess.run(
            words,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=(),
            check=False,
            timeout=COMMAND_S_MAX,
        )
        if asked.returncode:
            raise ConfigError(
                f"{path}: the service's user {name} cannot read it; give it that, with `chgrp {name}` and `chmod g+r`, "
                f"or `g+rx` for {path.parent}",
                code=Code.CONFIG_SERVICE,
            )


def _network_file(network: str) -> Path:
    """The network file that is named, or comes with this program."""
    from p2pnodes.config import is_network_file, read_toml, shipped_network

    path = shipped_network(network) or Path(network)
    if not is_network_file(read_toml(path)):
        raise ConfigError(
            f"{path} is no network file; expected genesis_hash and netuid at its top: see finney.toml",
            code=Code.CONFIG_SERVICE,
        )
    return path


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


def _write(path: Path, content: str, *, mode: int | None) -> None:
    """Write a file whole or not at all.

    Args:
        path: Where.
        content: What.
        mode: Of the file, and of directories that are made, which may be entered, too; None leaves it to the umask.
    """
    from p2pnodes.chain.regular import write_new

    try:
        absent = [directory for directory in path.parents if not directory.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)  # left by an installation that was killed
        write_new(draft, content)
        if mode is not None:
            draft.chmod(mode)
            for directory in absent:
                directory.chmod(mode | DIRECTORY_BITS)
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
