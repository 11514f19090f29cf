"""``p2pnodes keys``: make key files, show their public parts, delegate a hotkey to a node key."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pnodes.cli.output import JsonOption, command, print_fields, print_json, say
from p2pnodes.model.errors import ConfigError

if TYPE_CHECKING:
    from p2pnodes.model.keys import Hotkey, NodeKey

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="P2PNODES_CONFIG", metavar="FILE", help="A daemon's configuration, TOML."),
]
UriOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="A development key such as //Alice, known to everybody: for devnets only."),
]

app = typer.Typer(
    no_args_is_help=True,
    help="Make and show keys. The hotkey is the validator's or miner's on chain, the node key is the daemon's own: "
    "the hotkey delegates to it, and can be kept elsewhere.",
)


@command(
    app,
    "p2pnodes keys new --config p2pnodes.toml",
    "p2pnodes keys new --node-key-file node.key",
    "p2pnodes keys new --hotkey-file hotkey.json",
)
def new(
    *,
    config: ConfigOption = None,
    node_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a new node key here instead of where --config says.")
    ] = None,
    hotkey_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a new hotkey here, as a Bittensor hotkey file.")
    ] = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a node key, or a hotkey, in a new file that only its owner can read (mode 0600).

    A file that exists is never overwritten. A daemon without a node key makes one by itself; one that gets another
    key opens a new log. Back up hotkeys: what a lost one owns on chain is lost.
    """
    from nacl.utils import random as random_bytes

    from p2pnodes.chain.wallet import create_node_key, write_hotkey_file
    from p2pnodes.model.keys import KEY_BYTES, Hotkey

    if hotkey_file is not None:
        if node_key_file is not None:
            raise typer.BadParameter("give one of --node-key-file and --hotkey-file")
        hotkey = hotkey_of_uri(uri) if uri is not None else Hotkey.from_seed(random_bytes(KEY_BYTES))
        write_hotkey_file(hotkey_file, hotkey)
        made = _of_hotkey(hotkey, hotkey_file)
    else:
        if uri is not None:
            raise typer.BadParameter("--uri makes a hotkey; give --hotkey-file, too")
        path = node_key_file or _node_key_path(config)
        made = _of_node_key(create_node_key(path), path)
    _print(made, as_json=as_json)


@command(app, "p2pnodes keys show --config p2pnodes.toml", "p2pnodes keys show ~/.bittensor/wallets/w/hotkeys/h")
def show(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Key files.")] = None,
    *,
    config: ConfigOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the public parts of key files: node keys, hotkeys; without FILE those that --config names.

    No secret is ever printed. A key file that others can read, or whose parts contradict each other, is an error.
    """
    shown = [_of_file(path) for path in files or []]
    if uri is not None:
        shown.append(_of_hotkey(hotkey_of_uri(uri), None))
    elif not shown:
        from p2pnodes.chain.wallet import load_hotkey, load_node_key
        from p2pnodes.config import load_settings

        settings = load_settings(_required(config))
        if settings.hotkey_file is not None:
            shown.append(_of_hotkey(load_hotkey(settings.hotkey_file), settings.hotkey_file))
        shown.append(_of_node_key(load_node_key(settings.node_key_path), settings.node_key_path))
    if as_json:
        print_json(shown)
    else:
        for number, key in enumerate(shown):
            if number:
                print()
            print_fields(key)


@command(
    app,
    "p2pnodes keys delegate --hotkey-file hotkey.json --network-id HEX --node-key HEX --out delegation.json",
    "p2pnodes keys delegate --verify delegation.json",
)
def delegate(
    *,
    verify: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check a delegation instead of signing one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the delegation here; it holds no secret.")
    ] = None,
    hotkey_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The validator's hotkey.")] = None,
    uri: UriOption = None,
    network_id: Annotated[str | None, typer.Option(metavar="HEX", help="The network, as status shows it.")] = None,
    node_key: Annotated[
        str | None, typer.Option(metavar="HEX", help="The daemon's public node key, as status or keys show tell.")
    ] = None,
    log: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, show_default="the time, as daemons do", help="The log's number.")
    ] = None,
    url: Annotated[str, typer.Option(help="Where peers reach the daemon; empty: it only dials out.")] = "",
    days: Annotated[int, typer.Option(min=1, max=366, help="For how long.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Sign a delegation where the hotkey is: it lets a node key elsewhere speak for the hotkey in one log.

    The file is for keeping and checking: the daemon of this release signs its delegations itself, with hotkey_file,
    and cannot take one from a file yet.

    Works offline, and needs no secret of the daemon's. With --verify, check one: the signature, and whether it is
    good now. Exit code 1 when it is not.
    """
    from p2pnodes.chain.delegation import SignedDelegation, read_delegation, write_delegation
    from p2pnodes.model.events import DELEGATION_BACKDATE_S, LogId
    from p2pnodes.model.events import delegate as sign
    from p2pnodes.model.keys import KEY_BYTES
    from p2pnodes.model.network import NETWORK_ID_BYTES

    now_s = int(time.time())
    if verify is not None:
        signed = read_delegation(verify)
        if not signed.delegation.not_before <= now_s < signed.delegation.not_after:
            raise ConfigError(
                f"{verify}: well signed, but good from {_utc(signed.delegation.not_before)} to "
                f"{_utc(signed.delegation.not_after)}, which is not now: sign it anew"
            )
    else:
        network = _hex(network_id, NETWORK_ID_BYTES, "--network-id")
        log_id = LogId(_hex(node_key, KEY_BYTES, "--node-key"), now_s if log is None else log)
        delegation = sign(
            load_signer(hotkey_file, uri),
            network,
            log_id,
            url=url,
            not_before=now_s - DELEGATION_BACKDATE_S,
            not_after=now_s + days * 86_400,
        )
        signed = SignedDelegation(network, log_id, delegation)
        if out is not None:
            write_delegation(out, signed)
    fields = signed.fields()
    if not as_json:
        fields |= {name: _utc(fields[name]) for name in ("not_before", "not_after")}
    _print(fields, as_json=as_json)
    if verify is not None and not as_json:
        say("good: signed by the hotkey, and the time is right")


def load_signer(hotkey_file: Path | None, uri: str | None) -> "Hotkey":
    """The hotkey that a command signs with, from exactly one of its two options.

    Raises:
        typer.BadParameter: Neither or both are given, or the URI is malformed.
        ConfigError: The key cannot be read.
    """
    from p2pnodes.chain.wallet import load_hotkey

    if hotkey_file is not None and uri is None:
        return load_hotkey(hotkey_file)
    if uri is not None and hotkey_file is None:
        return hotkey_of_uri(uri)
    raise typer.BadParameter("give exactly one of --hotkey-file FILE and --uri URI")


def hotkey_of_uri(uri: str) -> "Hotkey":
    """The development key that ``--uri`` names.

    Raises:
        typer.BadParameter: Malformed.
    """
    from p2pnodes.model.keys import Hotkey

    try:
        return Hotkey.from_uri(uri)
    except ConfigError as error:
        raise typer.BadParameter(f"--uri: {error}") from error


def _node_key_path(config: Path | None) -> Path:
    from p2pnodes.config import load_settings

    path = load_settings(_required(config)).node_key_path
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be made ({error.strerror}); choose another data_dir") from error
    return path


def _required(config: Path | None) -> Path:
    if config is None:
        raise typer.BadParameter(
            "give the key's file, or the daemon's configuration with --config (or P2PNODES_CONFIG)"
        )
    return config


def _of_file(path: Path) -> dict[str, Any]:
    """Public parts of a key file of either kind."""
    from p2pnodes.chain.wallet import load_key
    from p2pnodes.model.keys import Hotkey

    key = load_key(path)
    return _of_hotkey(key, path) if isinstance(key, Hotkey) else _of_node_key(key, path)


def _of_hotkey(hotkey: "Hotkey", path: Path | None) -> dict[str, Any]:
    file = {"file": str(path)} if path else {}
    return {"kind": "hotkey", "address": hotkey.address, "public_key": hotkey.public_key.hex(), **file}


def _of_node_key(node_key: "NodeKey", path: Path) -> dict[str, Any]:
    return {"kind": "node key", "public_key": node_key.public_key.hex(), "file": str(path)}


def _print(fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)


def _hex(text: str | None, size: int, option: str) -> bytes:
    try:
        found = bytes.fromhex(text or "")
    except ValueError:
        found = b""
    if len(found) != size:
        raise typer.BadParameter(f"{option}: expected {2 * size} hex digits, found {text!r:.80}")
    return found


def _utc(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
