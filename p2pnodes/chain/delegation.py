"""Files that carry a hotkey's signatures from where the hotkey is to where it is not.

A daemon's machine writes a *request*: what is to be signed, and nothing secret. Where the hotkey is, it becomes a
*delegation*, which the daemon reads (``delegation_file``). A *closing* says where a log ends, and is handed to a
running daemon. Each is one JSON object of at most FILE_BYTES_MAX bytes; its ``kind`` names the form and its version.
None holds a secret: a daemon tells its peers the same.

    "kind"          "p2pnodes-delegation-request-1", "p2pnodes-delegation-1" or "p2pnodes-closing-1"
    "network_id"    32 hex digits
    "log"           the node key's 64 hex digits, a slash, the log's number
    "hotkey"        SS58; in a request null when the daemon does not know it
    "url"           where peers reach the daemon, or ""; not in a closing
    "not_before"    Unix seconds; not in a closing
    "not_after"     Unix seconds; not in a closing
    "predecessor"   null, or {"log", "good_events", "last_id"}: the log that this one continues; not in a closing
    "good_events"   how many events of the log are good; in a closing
    "last_id"       id of the last of them, 64 hex digits, or null when none is good; in a closing
    "signature"     128 hex digits; not in a request
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from p2pnodes.chain.regular import read_regular, write_new
from p2pnodes.model.addresses import base_url
from p2pnodes.model.clock import SECONDS_MAX
from p2pnodes.model.codec import DIGEST_BYTES, INT_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import (
    DELEGATION_BACKDATE_S,
    LOG_NUMBER_MAX,
    URL_CHARS_MAX,
    Close,
    Delegation,
    Head,
    LogId,
    closing,
    delegate,
)
from p2pnodes.model.keys import KEY_BYTES, SIGNATURE_BYTES, Hotkey, ss58_decode, ss58_encode
from p2pnodes.model.problems import Address, found_and_expected
from p2pnodes.model.protocol import NETWORK_ID_BYTES
from p2pnodes.model.validity import check_close

FILE_BYTES_MAX: Final = 16 * 1024

DAYS_MAX: Final = 366
"""Longest time for which a hotkey delegates at once."""

DAY_S: Final = 86_400

_LOG: Final = re.compile(rf"([0-9a-f]{{{2 * KEY_BYTES}}})/(0|[1-9][0-9]{{0,9}})")

Predecessor = tuple[LogId, Head | None]


class DelegationRequest(NamedTuple):
    """What a hotkey is asked to sign, and for whom.

    Attributes:
        network_id: 16 bytes.
        log: Node key and log number.
        hotkey: Who is asked, 32 bytes; None when the daemon does not know it.
        url: Where peers reach the daemon; empty when it only dials out.
        not_before: Unix seconds.
        not_after: Unix seconds.
        predecessor: The log that this one continues, with its last good event; None for the first log.
    """

    network_id: bytes
    log: LogId
    hotkey: bytes | None
    url: str
    not_before: int
    not_after: int
    predecessor: Predecessor | None

    def fields(self) -> dict[str, Any]:
        """What the file says, JSON-able."""
        return {
            "kind": _REQUEST,
            "network_id": self.network_id.hex(),
            "log": log_name(self.log),
            "hotkey": None if self.hotkey is None else ss58_encode(self.hotkey),
            "url": self.url,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "predecessor": _predecessor_fields(self.predecessor),
        }

    def sign(self, hotkey: Hotkey) -> "SignedDelegation":
        """Sign exactly this.

        Raises:
            ConfigError: Another hotkey is asked.
        """
        if self.hotkey not in {None, hotkey.public_key}:
            raise ConfigError(
                f"the request asks {ss58_encode(self.hotkey or b'')} to sign, found {hotkey.address}; "
                "expected that hotkey: name another wallet or key",
                code=Code.DELEGATION_MISFIT,
            )
        delegation = delegate(
            hotkey,
            self.network_id,
            self.log,
            url=self.url,
            not_before=self.not_before,
            not_after=self.not_after,
            predecessor=self.predecessor,
        )
        return SignedDelegation(self.network_id, self.log, delegation)


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
            "kind": _DELEGATION,
            "network_id": self.network_id.hex(),
            "log": log_name(self.log),
            "hotkey": ss58_encode(delegation.hotkey),
            "url": delegation.url,
            "not_before": delegation.not_before,
            "not_after": delegation.not_after,
            "predecessor": _predecessor_fields(delegation.predecessor),
            "signature": delegation.signature.hex(),
        }


class SignedClosing(NamedTuple):
    """A closing and the network that it is good in.

    Attributes:
        network_id: 16 bytes.
        close: Signed over the log, its last good event and this network.
    """

    network_id: bytes
    close: Close

    def fields(self) -> dict[str, Any]:
        """What the file says, JSON-able."""
        return {
            "kind": _CLOSING,
            "network_id": self.network_id.hex(),
            "log": log_name(self.close.log),
            "hotkey": ss58_encode(self.close.hotkey),
            **_head_fields(self.close.head),
            "signature": self.close.signature.hex(),
        }


def sign_closing(hotkey: Hotkey, network_id: bytes, log: LogId, head: Head | None) -> SignedClosing:
    """Sign that a log ends with ``head``, its last good event; None: nothing in it is good."""
    return SignedClosing(network_id, closing(hotkey, network_id, log, head))


def misfits(
    signed: SignedDelegation, path: Path, network_id: bytes, node_key: bytes | None, hotkey: bytes | None
) -> list[str]:
    """Why a daemon cannot use a delegation, though it is well signed: a line each, none when it can.

    Args:
        signed: The delegation; whether it is over by now is the caller's question.
        path: Where it is, for the lines.
        network_id: 16 bytes.
        node_key: The daemon's, public; None when there is none yet, and any will do.
        hotkey: Public key of the hotkey that the daemon is set to; None when it is set to none.
    """
    advice = "make a new request with `p2pnodes keys request`"
    found: list[str] = []
    if signed.network_id != network_id:
        found.append(f"{path}: for network {signed.network_id.hex()}; expected {network_id.hex()}: {advice}")
    if node_key not in {None, signed.log.node_key}:
        found.append(f"{path}: for node key {signed.log.node_key.hex()}; expected {(node_key or b'').hex()}: {advice}")
    if hotkey not in {None, signed.delegation.hotkey}:
        found.append(
            f"{path}: signed by {ss58_encode(signed.delegation.hotkey)}; expected {ss58_encode(hotkey or b'')}, the "
            "configured hotkey: sign it with that one"
        )
    return found


def window(now_s: int, days: int, electorate_s: int | None = None) -> tuple[int, int]:
    """From when to when a delegation holds that is signed for some days: not-before and not-after, Unix seconds.

    It begins DELEGATION_BACKDATE_S before now, so that clocks may differ, and before the electorate's time if that is
    earlier: who is enrolled is asked at that time.

    Args:
        now_s: Wall clock.
        days: 1 to DAYS_MAX.
        electorate_s: Time of the electorate's block; None when there is none.
    """
    return max(0, min(now_s, electorate_s or now_s) - DELEGATION_BACKDATE_S), now_s + days * DAY_S


def log_name(log: LogId) -> str:
    """A log in full, as people name it to commands: the node key in hex, a slash, the number."""
    return f"{log.node_key.hex()}/{log.number}"


def parse_log(name: str) -> LogId:
    """The log that ``log_name`` writes.

    Raises:
        ValueError: Another form.
    """
    match = _LOG.fullmatch(name)
    if match is None or int(match[2]) > LOG_NUMBER_MAX:
        raise ValueError(f"expected a log, {2 * KEY_BYTES} hex digits, a slash and its number")
    return LogId(bytes.fromhex(match[1]), int(match[2]))


def read_request(path: Path) -> DelegationRequest:
    """Read a request file.

    Raises:
        ConfigError: Unreadable or malformed.
    """
    return parse_request(_read(path), str(path))


def read_delegation(path: Path) -> SignedDelegation:
    """Read a delegation file and check its signature; its window is the caller's question.

    Raises:
        ConfigError: Unreadable, malformed, or not signed by its hotkey.
    """
    return parse_delegation(_read(path), str(path))


def read_closing(path: Path) -> SignedClosing:
    """Read a closing file and check its signature; whose log it closes is for the daemon to know.

    Raises:
        ConfigError: Unreadable, malformed, or not signed by its hotkey.
    """
    return parse_closing(_read(path), str(path))


def parse_request(content: bytes, source: str) -> DelegationRequest:
    """A request from the bytes of its file.

    Args:
        content: JSON.
        source: What the error names: a path.

    Raises:
        ConfigError: Malformed.
    """
    parsed = _parse(_RequestFile, content, source)
    return DelegationRequest(
        bytes.fromhex(parsed.network_id),
        parse_log(parsed.log),
        None if parsed.hotkey is None else ss58_decode(parsed.hotkey),
        parsed.url,
        parsed.not_before,
        parsed.not_after,
        None if parsed.predecessor is None else parsed.predecessor.predecessor(),
    )


def parse_delegation(content: bytes, source: str) -> SignedDelegation:
    """A delegation from the bytes of its file, its signature checked; arguments and errors as ``parse_request``."""
    parsed = _parse(_DelegationFile, content, source)
    signed = SignedDelegation(
        bytes.fromhex(parsed.network_id),
        parse_log(parsed.log),
        Delegation(
            ss58_decode(parsed.hotkey),
            parsed.url,
            parsed.not_before,
            parsed.not_after,
            None if parsed.predecessor is None else parsed.predecessor.predecessor(),
            bytes.fromhex(parsed.signature),
        ),
    )
    if not signed.signed():
        raise ConfigError(
            f"{source}: not signed by {parsed.hotkey} for this network, log, URL, time and predecessor: sign it anew",
            code=Code.DELEGATION_UNSIGNED,
        )
    return signed


def parse_closing(content: bytes, source: str) -> SignedClosing:
    """A closing from the bytes of its file, its signature checked; arguments and errors as ``parse_request``."""
    parsed = _parse(_ClosingFile, content, source)
    signed = SignedClosing(
        bytes.fromhex(parsed.network_id),
        Close(parse_log(parsed.log), parsed.head(), ss58_decode(parsed.hotkey), bytes.fromhex(parsed.signature)),
    )
    if not check_close(*signed):
        raise ConfigError(
            f"{source}: not signed by {parsed.hotkey} for this network, log and last event: sign it anew",
            code=Code.DELEGATION_UNSIGNED,
        )
    return signed


def write_signed(path: Path, signed: DelegationRequest | SignedDelegation | SignedClosing) -> None:
    """Write one of these files, whole or not at all.

    Raises:
        ConfigError: The file exists already, or cannot be written.
    """
    try:
        write_new(path, json.dumps(signed.fields(), indent=2) + "\n")
    except FileExistsError as error:
        raise ConfigError(
            f"{path}: exists already, and is never overwritten: move it away first", code=Code.DELEGATION_FILE
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written here ({error.strerror})", code=Code.DELEGATION_FILE) from error


# -- forms -----------------------------------------------------------------------------------------------------------

_REQUEST: Final = "p2pnodes-delegation-request-1"
_DELEGATION: Final = "p2pnodes-delegation-1"
_CLOSING: Final = "p2pnodes-closing-1"

_ADVICE: Final = {
    _REQUEST: "this is a request: sign it with `p2pnodes keys delegate --request` where the hotkey is",
    _DELEGATION: "this is a delegation: name it in delegation_file on the daemon's machine",
    _CLOSING: "this is a closing: hand it to a running daemon with `p2pnodes keys publish`",
}
_NOUNS: Final = {_REQUEST: "a delegation request", _DELEGATION: "a delegation", _CLOSING: "a closing"}


def _url(value: str) -> str:
    if value and base_url(value) != value:
        raise ValueError("expected no slash at its end")
    return value


def _log_field(value: str) -> str:
    parse_log(value)
    return value


def _hex(size: int) -> Any:
    return Field(pattern=rf"^[0-9a-f]{{{2 * size}}}$")


NetworkId = Annotated[str, _hex(NETWORK_ID_BYTES)]
EventId = Annotated[str, _hex(DIGEST_BYTES)]
Signature = Annotated[str, _hex(SIGNATURE_BYTES)]
Log = Annotated[str, AfterValidator(_log_field)]
Url = Annotated[str, Field(max_length=URL_CHARS_MAX), AfterValidator(_url)]
Seconds = Annotated[int, Field(ge=0, le=SECONDS_MAX)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _Position(_Form):
    """A log and where what is good of it ends."""

    log: Log
    good_events: Annotated[int, Field(ge=0, le=INT_MAX)]
    last_id: EventId | None

    @model_validator(mode="after")
    def _id_if_any(self) -> Self:
        if (self.good_events == 0) is not (self.last_id is None):
            raise PydanticCustomError("position", "expected last_id for good_events, and null for none")
        return self

    def head(self) -> Head | None:
        """The last good event."""
        return None if self.last_id is None else Head(self.good_events - 1, bytes.fromhex(self.last_id))

    def predecessor(self) -> Predecessor:
        """The log with its last good event."""
        return parse_log(self.log), self.head()


class _Window(_Form):
    network_id: NetworkId
    log: Log
    url: Url
    not_before: Seconds
    not_after: Seconds
    predecessor: _Position | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.not_after <= self.not_before:
            raise PydanticCustomError("window", "expected not_after behind not_before")
        return self


class _RequestFile(_Window):
    kind: Literal["p2pnodes-delegation-request-1"]
    hotkey: Address | None


class _DelegationFile(_Window):
    kind: Literal["p2pnodes-delegation-1"]
    hotkey: Address
    signature: Signature


class _ClosingFile(_Position):
    kind: Literal["p2pnodes-closing-1"]
    network_id: NetworkId
    hotkey: Address
    signature: Signature


_FileForm = TypeVar("_FileForm", bound=_Form)


def _parse(form: type[_FileForm], content: bytes, source: str) -> _FileForm:
    """Content of a file of one form.

    Raises:
        ConfigError: Anything else; names the first field that is wrong.
    """
    kind = form.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{source}: over {FILE_BYTES_MAX} bytes; expected {_NOUNS[kind]}", code=Code.DELEGATION_FILE)
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        problems = error.errors()
    other = next((details["input"] for details in problems if details["loc"] == ("kind",)), None)
    if isinstance(other, str) and other in _ADVICE:
        raise ConfigError(f"{source}: expected {_NOUNS[kind]}; {_ADVICE[other]}", code=Code.DELEGATION_FILE)
    raise ConfigError(f"{source}: {_problem(problems[0])}; expected {_NOUNS[kind]}", code=Code.DELEGATION_FILE)


def _problem(details: ErrorDetails) -> str:
    """One line for one error of pydantic's."""
    key = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "json_invalid" | "model_type":
            return "no JSON object"
        case "extra_forbidden":
            return f"{key}: unknown field"
        case "missing":
            return f"{key}: missing"
        case "position" | "window":
            return f"{key or 'file'}: {details['msg']}"
        case _:
            return f"{key}: {found_and_expected(details, key)}"


def _predecessor_fields(predecessor: Predecessor | None) -> dict[str, Any] | None:
    return None if predecessor is None else {"log": log_name(predecessor[0]), **_head_fields(predecessor[1])}


def _head_fields(head: Head | None) -> dict[str, Any]:
    return {
        "good_events": 0 if head is None else head.seq + 1,
        "last_id": None if head is None else head.id.hex(),
    }


def _read(path: Path) -> bytes:
    """Content of a file, up to a byte more than is allowed."""
    try:
        return read_regular(path, FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected a file of `p2pnodes keys`", code=Code.DELEGATION_FILE
        ) from error
