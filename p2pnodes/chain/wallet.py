"""Key files: Bittensor's hotkey files, and the file that holds a daemon's node key.

A hotkey file is JSON with any of secretPhrase, secretSeed, privateKey, publicKey, accountId, ss58Address and
cryptoType; the secret is taken from the first of the former three, and must fit the public parts (chain.md, "Wallet
files"). A node key file is one line, ``p2pnodes-node-key-1 <64 hex digits>``.

Every file here holds a secret: one that others can read is refused, and no message ever shows its content.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from nacl.utils import random as random_bytes

from p2pnodes.model.errors import ConfigError
from p2pnodes.model.keys import KEY_BYTES, Hotkey, NodeKey

KEY_FILE_BYTES_MAX: Final = 64 * 1024
_SECRET_KEY_BYTES: Final = 64
_SR25519: Final = 1
_ENCRYPTED_PREFIXES: Final = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")
_NODE_KEY_TAG: Final = "p2pnodes-node-key-1"


def load_hotkey(path: Path) -> Hotkey:
    """Read a Bittensor hotkey file that holds its secret.

    Raises:
        ConfigError: Unreadable, readable by others, encrypted, without a secret, not sr25519, or contradictory.
    """
    content = _read_secret(path, "hotkey file")
    if content.lstrip().startswith(_ENCRYPTED_PREFIXES):
        raise ConfigError(
            f"{path}: the hotkey file is encrypted with a password, which a daemon cannot type; "
            "expected a plain hotkey file: make one with Bittensor's tools without a password"
        )
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError):  # no cause: its message may quote the file
        raise ConfigError(f"{path}: not JSON; expected a Bittensor hotkey file") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: no JSON object; expected a Bittensor hotkey file")
    if (crypto_type := fields.get("cryptoType")) not in {None, _SR25519} or isinstance(crypto_type, bool):
        raise ConfigError(f"{path}: cryptoType is {crypto_type!r}; expected {_SR25519} (sr25519)")
    hotkey = _hotkey_of(fields, path)
    _check_public_parts(fields, hotkey, path)
    return hotkey


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
    content = _read_secret(path, "node key file")
    tag, _, seed_hex = content.decode("ascii", errors="replace").strip().partition(" ")
    seed = _hex_bytes(seed_hex, KEY_BYTES)
    if tag != _NODE_KEY_TAG or seed is None:
        raise ConfigError(
            f"{path}: not a node key file; expected one line, `{_NODE_KEY_TAG} <64 hex digits>`: restore it, or move "
            "it away and run `p2pnodes keys new` (the daemon then opens a new log)"
        )
    return NodeKey.from_seed(seed)


def load_key(path: Path) -> Hotkey | NodeKey:
    """Read a key file of either kind.

    Raises:
        ConfigError: See ``load_hotkey`` and ``load_node_key``.
    """
    is_node_key = _read_secret(path, "key file").lstrip().startswith(_NODE_KEY_TAG.encode())
    return load_node_key(path) if is_node_key else load_hotkey(path)


def create_node_key(path: Path) -> NodeKey:
    """Draw a node key and write it to a new file, mode 0600; the file appears whole or not at all.

    Raises:
        ConfigError: The file exists already, or its directory cannot be written.
    """
    node_key = NodeKey.from_seed(random_bytes(KEY_BYTES))
    _write_secret(path, f"{_NODE_KEY_TAG} {node_key.seed.hex()}\n", "node key file")
    return node_key


def _hotkey_of(fields: dict[str, Any], path: Path) -> Hotkey:
    """The key pair of the first secret that the file holds, in Bittensor's order."""
    if phrase := fields.get("secretPhrase"):
        if not isinstance(phrase, str):
            raise ConfigError(f"{path}: secretPhrase is no text; expected a BIP-39 phrase")
        try:
            return Hotkey.from_phrase(phrase)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    if seed_hex := fields.get("secretSeed"):
        seed = _hex_bytes(seed_hex, KEY_BYTES)
        if seed is None:
            raise ConfigError(f"{path}: secretSeed is malformed; expected 0x and 64 hex digits")
        return Hotkey.from_seed(seed)
    if secret_hex := fields.get("privateKey"):
        secret = _hex_bytes(secret_hex, _SECRET_KEY_BYTES)
        try:
            if secret is not None:
                return Hotkey.from_secret_key(secret)
        except (ValueError, TypeError):
            pass
        raise ConfigError(f"{path}: privateKey is malformed; expected 0x and 128 hex digits of an sr25519 secret key")
    raise ConfigError(
        f"{path}: holds no secret (a public hotkey file); expected secretPhrase, secretSeed or privateKey: "
        "name the file in the wallet's hotkeys folder, not its copy with the public part"
    )


def _check_public_parts(fields: dict[str, Any], hotkey: Hotkey, path: Path) -> None:
    address = fields.get("ss58Address")
    if address is not None and address != hotkey.address:
        raise ConfigError(
            f"{path}: ss58Address is {str(address)[:64]}, but the secret belongs to {hotkey.address}; "
            "expected both of one key: restore the file from its backup"
        )
    for name in ("publicKey", "accountId"):
        if fields.get(name) and _hex_bytes(fields[name], KEY_BYTES) != hotkey.public_key:
            raise ConfigError(
                f"{path}: {name} does not belong to the secret, whose address is {hotkey.address}; "
                "expected both of one key: restore the file from its backup"
            )


def _read_secret(path: Path, kind: str) -> bytes:
    """Content of a secret file, which nobody but its owner may read."""
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{path}: not a regular file; expected a {kind}")
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(
                    f"{path}: the {kind} has mode {stat.S_IMODE(mode):04o}, others could read the secret; expected "
                    f"0600: run `chmod 600 {path}`"
                )
            content = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a {kind}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a {kind}") from None
    if len(content) > KEY_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: over {KEY_FILE_BYTES_MAX} bytes; expected a {kind}")
    return content


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
        raise ConfigError(f"{path}: exists already; a {kind} is never overwritten: move it away first") from None
    except OSError as error:
        raise ConfigError(f"{path}: the {kind} cannot be written here ({error.strerror})") from None


def _hex_bytes(value: Any, size: int) -> bytes | None:
    """Bytes of a hex text with or without 0x, None when it is not that."""
    if not isinstance(value, str):
        return None
    try:
        decoded = bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        return None
    return decoded if len(decoded) == size else None
