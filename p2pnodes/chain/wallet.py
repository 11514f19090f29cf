"""Key files: Bittensor's hotkey files, and the file that holds a daemon's node key.

A hotkey file is JSON with any of secretPhrase, secretSeed, privateKey, publicKey, accountId, ss58Address and
cryptoType; the secret is taken from the first of the former three, and must fit the public parts (chain.md, "Wallet
files"). One with public parts only says whose hotkey it is. A node key file is one line, ``p2pnodes-node-key-1 <64 hex
digits>``.

A file with a secret that others can read is refused, and no message ever shows its content. Files in systemd's
credentials directory are as systemd makes them: 0400, or 0440 where root owns them and an access list lets the service
in, which shows as the group's bits (``LoadCredential=`` in systemd.exec(5)).
"""

import json
import os
import stat
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from nacl.utils import random as random_bytes

from p2pnodes.chain.regular import open_regular
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.keys import KEY_BYTES, Hotkey, NodeKey, ss58_decode, ss58_encode

KEY_FILE_BYTES_MAX: Final = 64 * 1024
WALLETS: Final = Path("~/.bittensor/wallets")
"""Where Bittensor keeps wallets unless told otherwise."""

HOTKEY_DEFAULT: Final = "default"
"""Name of a wallet's hotkey unless told otherwise."""

CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
"""Set by systemd for a unit with ``LoadCredential=``."""

NAMES_SHOWN_MAX: Final = 10
"""Wallets or hotkeys that a message names; a directory can hold any number."""

NAMES_READ_MAX: Final = 1_000
NAME_CHARS_MAX: Final = 255
"""Longest file name on the usual file systems."""

_HOTKEYS_FOLDER: Final = "hotkeys"
_PUBLIC_SUFFIX: Final = "pub.txt"
_SECRETS: Final = ("secretPhrase", "secretSeed", "privateKey")
_CREDENTIAL_BITS: Final = stat.S_IRUSR | stat.S_IRGRP
_SECRET_KEY_BYTES: Final = 64
_SR25519: Final = 1
_ENCRYPTED_PREFIXES: Final = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")
_NODE_KEY_TAG: Final = "p2pnodes-node-key-1"
_WAY_OUT: Final = (
    "expected a plain one: write it without a password (`btcli wallet regen-hotkey --no-use-password`), or keep it "
    "where it is, sign there (`p2pnodes keys request`, `keys delegate`) and set delegation_file"
)


class HotkeyFile(NamedTuple):
    """What a hotkey file says.

    Attributes:
        public_key: Whose it is, 32 bytes.
        hotkey: The key pair; None when the file holds no secret.
    """

    public_key: bytes
    hotkey: Hotkey | None

    @property
    def address(self) -> str:
        """SS58 address."""
        return ss58_encode(self.public_key)


def require_name(name: str) -> str:
    """Check the name of a wallet or hotkey: of a file, not a path.

    Raises:
        ValueError: It is none.
    """
    if name in {"", ".", ".."} or "/" in name or not name.isprintable() or len(name) > NAME_CHARS_MAX:
        raise ValueError("expected a name without slashes, as `btcli wallet list` shows it")
    return name


def wallet_hotkey_path(wallets: Path, wallet: str, hotkey: str) -> Path:
    """Where Bittensor keeps a wallet's hotkey."""
    return wallets / wallet / _HOTKEYS_FOLDER / hotkey


def load_hotkey(path: Path) -> Hotkey:
    """Read a Bittensor hotkey file that holds its secret.

    Raises:
        ConfigError: See ``read_hotkey_file``; or the file holds public parts only.
    """
    found = read_hotkey_file(path)
    if found.hotkey is None:
        raise ConfigError(
            f"{path}: public only, no secret of {found.address} here; expected secretPhrase, secretSeed or privateKey: "
            "name the file in the wallet's hotkeys folder, not its copy with the public part, or sign where the hotkey "
            "is (`p2pnodes keys request`, `keys delegate`) and set delegation_file",
            code=Code.KEY_PUBLIC_ONLY,
        )
    return found.hotkey


def read_hotkey_file(path: Path) -> HotkeyFile:
    """Read a Bittensor hotkey file with or without its secret.

    Raises:
        ConfigError: Unreadable, encrypted, malformed, not sr25519, contradictory, or with a secret that others can
            read.
    """
    content, status = _read(path, "hotkey file")
    if content.lstrip().startswith(_ENCRYPTED_PREFIXES):
        raise ConfigError(
            f"{path}: the hotkey file is encrypted with a password, which a daemon cannot type; {_WAY_OUT}",
            code=Code.KEY_ENCRYPTED,
        )
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError):  # no cause: its message may quote the file
        raise ConfigError(f"{path}: not JSON; expected a Bittensor hotkey file", code=Code.KEY_MALFORMED) from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: no JSON object; expected a Bittensor hotkey file", code=Code.KEY_MALFORMED)
    if "encoded" in fields and "encoding" in fields:
        raise ConfigError(
            f"{path}: an export of polkadot.js, encrypted with a password; {_WAY_OUT}", code=Code.KEY_ENCRYPTED
        )
    if any(fields.get(name) for name in _SECRETS):
        _require_private(path, status, "hotkey file")
    crypto_type = fields.get("cryptoType")
    if crypto_type is not None and (isinstance(crypto_type, bool) or crypto_type != _SR25519):
        raise ConfigError(
            f"{path}: cryptoType is {crypto_type!r:.40}; expected {_SR25519} (sr25519)", code=Code.KEY_MALFORMED
        )
    hotkey = _hotkey_of(fields, path)
    public_key = _public_key_of(fields, path) if hotkey is None else hotkey.public_key
    _check_public_parts(fields, public_key, path, "public key" if hotkey is None else "secret")
    return HotkeyFile(public_key, hotkey)


def write_hotkey_file(path: Path, hotkey: Hotkey) -> None:
    """Write a hotkey as a plain Bittensor hotkey file, mode 0600.

    Raises:
        ConfigError: The file exists already, or its directory cannot be written.
    """
    public = f"0x{hotkey.public_key.hex()}"
    fields = {
        "accountId": public,
        "publicKey": public,
        "privateKey": f"0x{hotkey.secret_key.hex()}",
        "ss58Address": hotkey.address,
        "cryptoType": _SR25519,
    }
    _write_secret(path, json.dumps(fields) + "\n", "hotkey file")


def load_node_key(path: Path) -> NodeKey:
    """Read a node key file.

    Raises:
        ConfigError: Unreadable, readable by others, or not a node key file.
    """
    content, status = _read(path, "node key file")
    _require_private(path, status, "node key file")
    tag, _, seed_hex = content.decode("ascii", errors="replace").strip().partition(" ")
    seed = _hex_bytes(seed_hex, KEY_BYTES)
    if tag != _NODE_KEY_TAG or seed is None:
        raise ConfigError(
            f"{path}: not a node key file; expected one line, `{_NODE_KEY_TAG} <64 hex digits>`: move it away, and put "
            "no old one in its place; the next start makes a new one (where node_key_file is set, `p2pnodes keys new` "
            "does) and opens a new log",
            code=Code.KEY_MALFORMED,
        )
    return NodeKey.from_seed(seed)


def read_key(path: Path) -> HotkeyFile | NodeKey:
    """Read a key file of either kind.

    Raises:
        ConfigError: See ``read_hotkey_file`` and ``load_node_key``.
    """
    content, _ = _read(path, "key file")
    is_node_key = content.lstrip().startswith(_NODE_KEY_TAG.encode())
    return load_node_key(path) if is_node_key else read_hotkey_file(path)


def create_node_key(path: Path) -> NodeKey:
    """Draw a node key and write it to a new file, mode 0600; the file appears whole or not at all.

    Raises:
        ConfigError: The file exists already, or its directory cannot be written.
    """
    node_key = NodeKey.from_seed(random_bytes(KEY_BYTES))
    _write_secret(path, f"{_NODE_KEY_TAG} {node_key.seed.hex()}\n", "node key file")
    return node_key


def _hotkey_of(fields: dict[str, Any], path: Path) -> Hotkey | None:
    """The key pair of the first secret that the file holds, in Bittensor's order; None without a secret."""
    if phrase := fields.get("secretPhrase"):
        if not isinstance(phrase, str):
            raise ConfigError(f"{path}: secretPhrase is no text; expected a BIP-39 phrase", code=Code.KEY_MALFORMED)
        try:
            return Hotkey.from_phrase(phrase)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", code=error.code) from None
    if seed_hex := fields.get("secretSeed"):
        seed = _hex_bytes(seed_hex, KEY_BYTES)
        if seed is None:
            raise ConfigError(
                f"{path}: secretSeed is malformed; expected 0x and 64 hex digits", code=Code.KEY_MALFORMED
            )
        return Hotkey.from_seed(seed)
    if secret_hex := fields.get("privateKey"):
        secret = _hex_bytes(secret_hex, _SECRET_KEY_BYTES)
        try:
            if secret is not None:
                return Hotkey.from_secret_key(secret)
        except (ValueError, TypeError):
            pass
        raise ConfigError(
            f"{path}: privateKey is malformed; expected 0x and 128 hex digits of an sr25519 secret key",
            code=Code.KEY_MALFORMED,
        )
    return None


def _public_key_of(fields: dict[str, Any], path: Path) -> bytes:
    """Whose hotkey a file without a secret is."""
    for name in ("publicKey", "accountId"):
        if value := fields.get(name):
            public_key = _hex_bytes(value, KEY_BYTES)
            if public_key is None:
                raise ConfigError(
                    f"{path}: {name} is malformed; expected 0x and 64 hex digits", code=Code.KEY_MALFORMED
                )
            return public_key
    address = fields.get("ss58Address")
    if not isinstance(address, str):
        raise ConfigError(
            f"{path}: names no key; expected secretPhrase, secretSeed, privateKey, publicKey, accountId or ss58Address",
            code=Code.KEY_MALFORMED,
        )
    try:
        return ss58_decode(address)
    except ValueError as error:
        raise ConfigError(f"{path}: ss58Address: {error}", code=Code.KEY_MALFORMED) from None


def _check_public_parts(fields: dict[str, Any], public_key: bytes, path: Path, kind: str) -> None:
    """Whether everything public in a file is of one key, that of its ``kind``: secret or public key."""
    owner = ss58_encode(public_key)
    address = fields.get("ss58Address")
    if address is not None and address != owner:
        # Only an address is shown: whatever else is there may be a secret in the wrong place.
        found = f"ss58Address is {address}, but" if _is_address(address) else "ss58Address is no SS58 address;"
        raise ConfigError(
            f"{path}: {found} the {kind} belongs to {owner}; expected both of one key: restore the file from its "
            "backup",
            code=Code.KEY_MALFORMED,
        )
    for name in ("publicKey", "accountId"):
        if fields.get(name) and _hex_bytes(fields[name], KEY_BYTES) != public_key:
            raise ConfigError(
                f"{path}: {name} does not belong to the {kind}, whose address is {owner}; "
                "expected both of one key: restore the file from its backup",
                code=Code.KEY_MALFORMED,
            )


def _is_address(value: Any) -> bool:
    try:
        ss58_decode(value)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def _read(path: Path, kind: str) -> tuple[bytes, os.stat_result]:
    """Content of a key file, and what its file system says of it."""
    path = path.expanduser()
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            content = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; expected a {kind}{_names_near(path)}", code=Code.KEY_UNREADABLE
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected a {kind}", code=Code.KEY_UNREADABLE
        ) from None
    if len(content) > KEY_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: over {KEY_FILE_BYTES_MAX} bytes; expected a {kind}", code=Code.KEY_MALFORMED)
    return content, status


def _require_private(path: Path, status: os.stat_result, kind: str) -> None:
    """Refuse a secret that others than its owner may read."""
    mode = stat.S_IMODE(status.st_mode)
    if not mode & (stat.S_IRWXG | stat.S_IRWXO) or _is_credential(path, status):
        return
    raise ConfigError(
        f"{path}: the {kind} has mode {mode:04o}, others could read the secret; expected 0600: run `chmod 600 {path}`",
        code=Code.KEY_EXPOSED,
    )


def _is_credential(path: Path, status: os.stat_result) -> bool:
    """Whether a file is a credential as systemd makes them; see the top of this file."""
    directory = os.environ.get(CREDENTIALS_VARIABLE)
    return (
        bool(directory)
        and path.expanduser().absolute().parent == Path(directory or "")
        and status.st_uid == 0
        and not stat.S_IMODE(status.st_mode) & ~_CREDENTIAL_BITS
    )


def _names_near(path: Path) -> str:
    """For a hotkey file of a wallet that is not there: the hotkeys or wallets that are."""
    folder = path.parent
    if folder.name != _HOTKEYS_FOLDER:
        return ""
    wallet, wallets = folder.parent, folder.parent.parent
    try:
        if wallet.is_dir():
            hotkeys = _names_in(folder) if folder.is_dir() else []
            if f"{path.name}{_PUBLIC_SUFFIX}" in hotkeys:
                return f"; only the public part of {path.name} is here: {path.name}{_PUBLIC_SUFFIX}"
            hotkeys = [name for name in hotkeys if not name.endswith(_PUBLIC_SUFFIX)]
            return f"; the wallet {wallet.name} holds {_listed(hotkeys, 'the hotkeys', 'no hotkey')}"
        found = [name for name in _names_in(wallets) if (wallets / name).is_dir()] if wallets.is_dir() else []
        other = "no wallet: name another directory with wallet_path, or the file itself (hotkey_file, --hotkey-file)"
        return f"; {wallets} holds {_listed(found, 'the wallets', other)}"
    except OSError:
        return ""


def _names_in(directory: Path) -> list[str]:
    """Names of what is visible in a directory, sorted; of a huge one only some."""
    visible = (entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    return sorted(islice(visible, NAMES_READ_MAX))


def _listed(names: list[str], some: str, none: str) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return f"{some} {shown}{more}" if names else none


def _write_secret(path: Path, content: str, kind: str) -> None:
    """Create a file with mode 0600, durably, whole or not at all, and never over an existing one."""
    path = path.expanduser()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)  # left by a process of the same id that was killed here
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(draft)  # unlike a rename, this fails when the file exists
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists already; a {kind} is never overwritten: move it away first", code=Code.KEY_EXISTS
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: the {kind} cannot be written here ({error.strerror})", code=Code.KEY_NOT_WRITTEN
        ) from None


def _hex_bytes(value: Any, size: int) -> bytes | None:
    """Bytes of a hex text with or without 0x, None when it is not that."""
    if not isinstance(value, str):
        return None
    try:
        decoded = bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        return None
    return decoded if len(decoded) == size else None
