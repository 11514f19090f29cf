"""Delegation files: a hotkey's signed delegation, carried from where the hotkey is to where it is not.

One JSON object with ``network_id``, ``node_key`` and ``signature`` (hex), ``log`` (number), ``hotkey`` (SS58), ``url``,
``not_before`` and ``not_after`` (Unix seconds). It holds no secret: it is what the daemon tells its peers anyway.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pnodes.model.clock import HLC_MAX
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import LOG_NUMBER_MAX, URL_CHARS_MAX, Delegation, LogId
from p2pnodes.model.keys import KEY_BYTES, SIGNATURE_BYTES, ss58_decode, ss58_encode
from p2pnodes.model.network import NETWORK_ID_BYTES

FILE_BYTES_MAX: Final = 16 * 1024
_SECONDS_MAX: Final = HLC_MAX >> 26


class SignedDelegation(NamedTuple):
    """A delegation and what it is good for.

    Attributes:
        network_id: 16 bytes.
        log: Node key and log number.
        delegation: Signed over all of these.
    """

    network_id: bytes
    log: LogId
    delegation: Delegation

    def signed(self) -> bool:
        """Whether the hotkey signed exactly this."""
        return self.delegation.signed_for(self.network_id, self.log)

    def fields(self) -> dict[str, Any]:
        """What the file says, JSON-able."""
        delegation = self.delegation
        return {
            "network_id": self.network_id.hex(),
            "node_key": self.log.node_key.hex(),
            "log": self.log.number,
            "hotkey": ss58_encode(delegation.hotkey),
            "url": delegation.url,
            "not_before": delegation.not_before,
            "not_after": delegation.not_after,
            "signature": delegation.signature.hex(),
        }


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    network_id: str = Field(pattern=rf"^[0-9a-f]{{{2 * NETWORK_ID_BYTES}}}$")
    node_key: str = Field(pattern=rf"^[0-9a-f]{{{2 * KEY_BYTES}}}$")
    log: int = Field(ge=0, le=LOG_NUMBER_MAX)
    hotkey: str
    url: str = Field(max_length=URL_CHARS_MAX)
    not_before: int = Field(ge=0, le=_SECONDS_MAX)
    not_after: int = Field(ge=0, le=_SECONDS_MAX)
    signature: str = Field(pattern=rf"^[0-9a-f]{{{2 * SIGNATURE_BYTES}}}$")


def write_delegation(path: Path, signed: SignedDelegation) -> None:
    """Write a delegation file.

    Raises:
        ConfigError: The file exists already, or cannot be written.
    """
    try:
        with path.open("x") as file:
            file.write(json.dumps(signed.fields(), indent=2) + "\n")
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; a delegation is never overwritten: move it away first") from error
    except OSError as error:
        raise ConfigError(f"{path}: the delegation cannot be written here ({error.strerror})") from error


def read_delegation(path: Path) -> SignedDelegation:
    """Read a delegation file and check its signature; its window is the caller's question.

    Raises:
        ConfigError: Unreadable, malformed, or not signed by its hotkey.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a delegation file") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: over {FILE_BYTES_MAX} bytes; expected a delegation file")
    try:
        parsed = _File.model_validate_json(content)
        hotkey = ss58_decode(parsed.hotkey)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'file'}: {first['msg']}; expected a delegation file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: hotkey: {error}; expected an SS58 address") from error
    signed = SignedDelegation(
        bytes.fromhex(parsed.network_id),
        LogId(bytes.fromhex(parsed.node_key), parsed.log),
        Delegation(hotkey, parsed.url, parsed.not_before, parsed.not_after, None, bytes.fromhex(parsed.signature)),
    )
    if not signed.signed():
        raise ConfigError(f"{path}: not signed by {parsed.hotkey} for this network, log, URL and time: sign it anew")
    return signed
