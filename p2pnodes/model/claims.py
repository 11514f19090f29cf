"""The pinned parser of request bodies: bytes in, the GPUs of one server out, the same on every build.

Peers judge events with this parser, so its answers may never depend on a library's version. It mirrors what the
central API's pydantic models accept from real clients: integers also as integral floats or digit strings, booleans
also as 0, 1, ``"true"`` and ``"false"``. GPU models, hosts and specs are not looked at here (design.md, "Valid").
"""

import json
import math
import re
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, NoReturn

from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.errors import InvalidBodyError
from p2pnodes.model.requests import BODY_BYTES_MAX, UUID_CHARS_MAX

GPUS_PER_CLAIM_MAX: Final = 10
DEVICE_INDEX_MAX: Final = 9
INT32_MAX: Final = 2**31 - 1
BODIES_KEPT: Final = 128
"""Bodies that are kept parsed, 8 MiB at most: a daemon meets each at its HTTP interface and again in its own event."""

NAME_CHARS_MAX: Final = 256
HOST_CHARS_MAX: Final = 255
IDENTIFIER_CHARS_MAX: Final = 64
JSON_DEPTH_MAX: Final = 32
"""Nesting of brackets and braces; a body of the real client has three levels."""

INTEGER_DIGITS_MAX: Final = 640
"""Length of a JSON integer; the longest that every Python converts, however its limit is set."""

_DIGITS = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,19}(\.[0-9]{1,19})?([eE][+-]?[0-9]{1,2})?")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?')
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPEN: Final = ord("[")
_UUID = re.compile(rf"[!-~]{{1,{UUID_CHARS_MAX}}}")


class Node(NamedTuple):
    """One GPU as its miner describes it: the fields of upstream's NodeArgs, in its order.

    memory is bytes, clock_rate kHz; None where the body says nothing or null.
    """

    uuid: str
    name: str
    memory: int
    major: int | None
    minor: int | None
    processors: int | None
    sxm: bool | None
    clock_rate: float
    max_threads_per_processor: int | None
    concurrent_kernels: bool | None
    ecc: bool | None
    device_index: int
    gpu_identifier: str
    verification_host: str
    verification_port: int


_FIELDS: Final = itemgetter(*Node._fields)
_PLAIN: Final = (str, str, int, int, int, int, bool, float, int, bool, bool, int, str, str, int)
"""Types of a node's fields as the real client sends them."""


class Body(NamedTuple):
    """A request body: server id and name, and its GPUs in request order."""

    server_id: str | None
    server_name: str | None
    nodes: tuple[Node, ...]


class DepthError(ValueError):
    """JSON nested deeper than JSON_DEPTH_MAX."""


def parse_json(data: bytes) -> Any:
    """Decode a JSON text: UTF-8, no NaN or Infinity, no integer of over 640 digits, bounded nesting.

    Raises:
        json.JSONDecodeError: Not JSON; carries the position.
        ValueError: Not UTF-8, a constant that JSON does not have, a huge integer, or DepthError.
    """
    content = data.decode("utf-8")
    if _is_deep(data):
        raise DepthError(f"JSON is nested deeper than {JSON_DEPTH_MAX} levels")
    decoder = _COUNTING_DECODER if _LONG_RUN in data[::_STRIDE].translate(_AS_ZEROS) else _DECODER
    return decoder.decode(content)


@lru_cache(BODIES_KEPT)
def parse_body(data: bytes) -> Body:
    """Read the body of ``POST /nodes/``, without judging how many GPUs it lists or whether a uuid occurs twice.

    Raises:
        InvalidBodyError: The bytes are no such body; ``loc`` names the first offending value.
    """
    if len(data) > BODY_BYTES_MAX:
        raise InvalidBodyError((), f"body of {len(data)} bytes: at most {BODY_BYTES_MAX} are allowed")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise InvalidBodyError((), f"not JSON: {error}") from error
    return body_of(value)


def body_of(value: Any) -> Body:
    """Read a decoded body; see ``parse_body``."""
    if not isinstance(value, dict):
        raise InvalidBodyError((), "expected an object")
    nodes = value.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise InvalidBodyError(("nodes",), "expected an array of at least one node")
    return Body(
        _optional_text(value, "server_id", ()),
        _optional_text(value, "server_name", ()),
        tuple(_node(node, index) for index, node in enumerate(nodes)),
    )


def check_claim(body: Body) -> None:
    """Require what makes a body a claim: 1 to 10 GPUs, no uuid twice.

    Raises:
        InvalidBodyError: Too many GPUs, or a uuid occurs twice.
    """
    if len(body.nodes) > GPUS_PER_CLAIM_MAX:
        raise InvalidBodyError(("nodes",), f"{len(body.nodes)} GPUs: at most {GPUS_PER_CLAIM_MAX} per server")
    if duplicates := duplicate_uuids(body):
        raise InvalidBodyError(("nodes",), f"uuids occur twice: {duplicates}")


def duplicate_uuids(body: Body) -> list[str]:
    """Uuids that occur more than once, sorted."""
    uuids = [node.uuid for node in body.nodes]
    return sorted({uuid for uuid in uuids if uuids.count(uuid) > 1}) if len(set(uuids)) < len(uuids) else []


def valid_uuid(uuid: str) -> bool:
    """Whether a GPU uuid is 1 to 64 printable ASCII characters without a space (compat.md, "Ours, better").

    ASCII because what else is printable differs between the Unicode tables of Python's versions.
    """
    return _UUID.fullmatch(uuid) is not None


def _node(value: Any, index: int) -> Node:
    loc: tuple[str | int, ...] = ("nodes", index)
    if not isinstance(value, dict):
        raise InvalidBodyError(loc, "expected an object")
    if (plain := _plain(value)) is not None:
        return plain
    uuid = _text(value, "uuid", loc, UUID_CHARS_MAX)
    if not valid_uuid(uuid):
        raise InvalidBodyError((*loc, "uuid"), "expected 1 to 64 printable ASCII characters without spaces")
    return Node(
        uuid=uuid,
        name=_text(value, "name", loc, NAME_CHARS_MAX),
        memory=_int(value, "memory", loc, INT_MAX),
        major=_optional_int(value, "major", loc),
        minor=_optional_int(value, "minor", loc),
        processors=_optional_int(value, "processors", loc),
        sxm=_optional_bool(value, "sxm", loc),
        clock_rate=_float(value, "clock_rate", loc),
        max_threads_per_processor=_optional_int(value, "max_threads_per_processor", loc),
        concurrent_kernels=_optional_bool(value, "concurrent_kernels", loc),
        ecc=_optional_bool(value, "ecc", loc),
        device_index=_int(value, "device_index", loc, DEVICE_INDEX_MAX),
        gpu_identifier=_text(value, "gpu_identifier", loc, IDENTIFIER_CHARS_MAX),
        verification_host=_text(value, "verification_host", loc, HOST_CHARS_MAX),
        verification_port=_int(value, "verification_port", loc, INT32_MAX),
    )


def _plain(value: dict[str, Any]) -> Node | None:
    """A node all of whose fields are of the types of ``_PLAIN``, ASCII and within bounds; None for any other.

    The same as field by field, in half the time; most nodes are such.
    """
    try:
        found = _FIELDS(value)
    except KeyError:
        return None
    if tuple(map(type, found)) != _PLAIN:
        return None
    uuid, name, memory, major, minor, processors, _, clock_rate, threads, _, _, index, model, host, port = found
    texts = name + model + host
    if (
        0 <= memory <= INT_MAX
        and 0 <= major <= INT32_MAX
        and 0 <= minor <= INT32_MAX
        and 0 <= processors <= INT32_MAX
        and 0 <= threads <= INT32_MAX
        and 0 <= index <= DEVICE_INDEX_MAX
        and 0 <= port <= INT32_MAX
        and math.isfinite(clock_rate)
        and valid_uuid(uuid)
        and len(name) <= NAME_CHARS_MAX
        and len(model) <= IDENTIFIER_CHARS_MAX
        and len(host) <= HOST_CHARS_MAX
        and texts.isascii()
        and "\0" not in texts
    ):
        return Node._make(found)
    return None


Loc = tuple[str | int, ...]


def _text(value: dict[str, Any], key: str, loc: Loc, high: int) -> str:
    found = value.get(key)
    if type(found) is not str or len(found) > high or "\0" in found or not (found.isascii() or _encodes(found)):
        raise InvalidBodyError((*loc, key), f"expected a string of at most {high} characters without NUL or surrogates")
    return found


def _optional_text(value: dict[str, Any], key: str, loc: Loc) -> str | None:
    return None if value.get(key) is None else _text(value, key, loc, NAME_CHARS_MAX)


def _int(value: dict[str, Any], key: str, loc: Loc, high: int) -> int:
    found = value.get(key)
    number: int | None = None
    if type(found) is int:
        number = found
    elif (type(found) is float and found.is_integer() and abs(found) <= 2**53) or (
        type(found) is str and _DIGITS.fullmatch(found)
    ):
        number = int(found)
    if number is None or not 0 <= number <= high:
        raise InvalidBodyError((*loc, key), f"expected an integer in 0..{high}")
    return number


def _optional_int(value: dict[str, Any], key: str, loc: Loc) -> int | None:
    return None if value.get(key) is None else _int(value, key, loc, INT32_MAX)


def _float(value: dict[str, Any], key: str, loc: Loc) -> float:
    found = value.get(key)
    number: float | None = None
    if (
        type(found) is float
        or (type(found) is int and abs(found) <= INT_MAX)
        or (type(found) is str and _DECIMAL.fullmatch(found))
    ):
        number = float(found)
    if number is None or not math.isfinite(number):
        raise InvalidBodyError((*loc, key), "expected a finite number")
    return number


_BOOLEANS: Final = {"true": True, "false": False, 0: False, 1: True}


def _optional_bool(value: dict[str, Any], key: str, loc: Loc) -> bool | None:
    found = value.get(key)
    if found is None or type(found) is bool:
        return found
    if type(found) in (str, int) and found in _BOOLEANS:
        return _BOOLEANS[found]
    raise InvalidBodyError((*loc, key), "expected a boolean")


def _encodes(content: str) -> bool:
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounded_int(digits: str) -> int:
    if len(digits) > INTEGER_DIGITS_MAX:
        raise ValueError(f"an integer of {len(digits)} digits: at most {INTEGER_DIGITS_MAX} are allowed")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_deep(data: bytes) -> bool:
    """Whether brackets are nested deeper than JSON_DEPTH_MAX; 64 KiB of them, the worst case, take some 2 ms."""
    if data.count(b"[") + data.count(b"{") <= JSON_DEPTH_MAX:
        return False
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(_ALIKE, _NO_BRACKETS):
        if bracket == _OPEN:
            depth += 1
            if depth > JSON_DEPTH_MAX:
                return True
        else:
            depth -= 1
    return False


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_COUNTING_DECODER: Final = json.JSONDecoder(parse_int=_bounded_int, parse_constant=_no_constant)
"""Counts the digits of every integer, at a price: taken only where a run of digits is long enough to matter."""

_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_STRIDE: Final = 16
_LONG_RUN: Final = b"0" * (INTEGER_DIGITS_MAX // _STRIDE)
"""How a run of INTEGER_DIGITS_MAX digits looks in every 16th byte, wherever it begins; the decoder counts them."""
