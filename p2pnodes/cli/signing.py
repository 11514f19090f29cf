"""Which hotkey a command works with: the options for it, and how they are read. Secrets are read from files alone.

Whatever is on a command line can be read by every process of the machine, so no option takes a secret phrase or key.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from p2pnodes.model.keys import Hotkey

HotkeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--hotkey-file", metavar="FILE", help="The hotkey's file, as Bittensor writes it, instead of --wallet."
    ),
]
WalletOption = Annotated[
    str | None,
    typer.Option(
        "--wallet", metavar="NAME", help="The Bittensor wallet that holds the hotkey, in ~/.bittensor/wallets."
    ),
]
HotkeyOption = Annotated[
    str | None,
    typer.Option("--hotkey", metavar="NAME", show_default="default", help="The name of the hotkey in that wallet."),
]
UriOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="A development key such as //Alice, known to everybody: for devnets only."),
]


def load_signer(
    hotkey_file: Path | None, uri: str | None, wallet: str | None = None, hotkey: str | None = None
) -> "Hotkey":
    """The hotkey that a command signs with, from exactly one of its options.

    Raises:
        typer.BadParameter: None or several are given, one holds a secret, or the URI is malformed.
        ConfigError: The key cannot be read.
    """
    from p2pnodes.chain.wallet import load_hotkey

    if uri is not None and hotkey_file is None and wallet is None and hotkey is None:
        return hotkey_of_uri(uri)
    path = hotkey_path(hotkey_file, wallet, hotkey)
    if path is None or uri is not None:
        raise typer.BadParameter(
            "give exactly one of --wallet NAME (and --hotkey NAME), --hotkey-file FILE and --uri URI"
        )
    return load_hotkey(path)


def signer_if_any(hotkey_file: Path | None, uri: str | None, wallet: str | None, hotkey: str | None) -> "Hotkey | None":
    """As ``load_signer``; None when no option is given."""
    given = (hotkey_file, uri, wallet, hotkey)
    return None if given == (None,) * len(given) else load_signer(*given)


def hotkey_path(hotkey_file: Path | None, wallet: str | None, hotkey: str | None) -> Path | None:
    """The hotkey file that the options name; None when they name none.

    Raises:
        typer.BadParameter: They exclude each other, or hold a secret.
    """
    from p2pnodes.chain.wallet import HOTKEY_DEFAULT, WALLETS, wallet_hotkey_path

    settings = hotkey_settings(hotkey_file, wallet, hotkey)
    if hotkey is not None and wallet is None:
        raise typer.BadParameter("--hotkey is the name of a hotkey in a wallet; give --wallet, too")
    if wallet is not None:
        return wallet_hotkey_path(WALLETS.expanduser(), wallet, hotkey or HOTKEY_DEFAULT)
    return Path(settings["hotkey_file"]) if settings else None


def hotkey_settings(hotkey_file: Path | None, wallet: str | None, hotkey: str | None) -> dict[str, Any]:
    """The options as settings of a daemon, for ``load_settings``; JSON-able, only those that are given.

    Raises:
        typer.BadParameter: They exclude each other, or hold a secret.
    """
    from p2pnodes.chain.wallet import require_name
    from p2pnodes.model.problems import seems_secret

    if hotkey_file is not None and (wallet is not None or hotkey is not None):
        raise typer.BadParameter("give --wallet NAME (and --hotkey NAME), or --hotkey-file FILE")
    if any(value is not None and seems_secret(str(value)) for value in (hotkey_file, wallet, hotkey)):
        raise typer.BadParameter(
            "a secret was given where the name of its file belongs: other users may have seen it, so make a new key"
        )
    settings: dict[str, Any] = {"wallet": wallet, "hotkey": hotkey}
    for name, value in settings.items():
        if value is not None:
            try:
                require_name(value)
            except ValueError as error:
                raise typer.BadParameter(f"--{name}: {error}") from None
    if hotkey_file is not None:
        settings["hotkey_file"] = str(hotkey_file.expanduser().absolute())
    return {name: value for name, value in settings.items() if value is not None}


def hotkey_of_uri(uri: str) -> "Hotkey":
    """The development key that ``--uri`` names.

    Raises:
        typer.BadParameter: Malformed, or with a secret phrase or seed other than the one that everybody knows.
    """
    from p2pnodes.model.errors import ConfigError
    from p2pnodes.model.keys import DEV_PHRASE, Hotkey

    secret = uri.partition("/")[0].strip()
    if secret not in {"", DEV_PHRASE}:
        raise typer.BadParameter(
            "--uri: not a key URI: expected //Name, a development key; others can read what is written here, so a "
            "secret belongs into a hotkey file (`btcli wallet regen-hotkey`)"
        )
    try:
        return Hotkey.from_uri(uri)
    except ConfigError as error:
        raise typer.BadParameter(f"--uri: {error}") from error
