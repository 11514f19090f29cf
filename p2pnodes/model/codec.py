"""Canonical msgpack and BLAKE2b: the one encoding behind every signature and every id.

A value has exactly one encoding: arrays, integers, booleans, nil, byte strings and UTF-8 strings in their shortest
form, arrays nested at most DEPTH_MAX deep. Maps, floats and extension types do not occur. Decoding re-encodes and
compares, so a second spelling of the same value is refused.
"""

from collections.abc import Sequence
from hashlib import blake2b
from types import NoneType
from typing import Any, Final

import msgpack

from p2pnodes.model.errors import RemoteProtocolError

Value = None | bool | int | bytes | str | Sequence["Value"]

INT_MAX: Final = 2**63 - 1
"""Largest integer on the wire: what a signed 64-bit SQLite column holds."""

DIGEST_BYTES: Final = 32

DEPTH_MAX: Final = 8
"""Arrays within arrays; the deepest thing on the wire or in the database has four."""

_SCALARS: Final = frozenset({NoneType, bool, int, bytes, str})
_VALUES: Final = _SCALARS | {list}


class MalformedError(RemoteProtocolError):
    """Bytes that do not decode, or decode to something the format does not allow."""


def pack(value: Value) -> bytes:
    """Encode a value canonically.

    Raises:
        OverflowError: An integer beyond 64 bits.
        ValueError: A string with a lone surrogate.
    """
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes, *, arrays_max: int | None = None) -> Value:
    """Decode one canonical value.

    Args:
        data: The value, encoded.
        arrays_max: How many arrays it may consist of, and how many values one of these may have; None for as many as
            there are. For what strangers send: a mebibyte of empty arrays, a byte each, takes half a second to look at.

    Raises:
        MalformedError: Truncated or trailing bytes, bad UTF-8, a type that the format does not have, nesting beyond
            DEPTH_MAX, more than ``arrays_max``, or an encoding that is not the canonical one.
    """
    try:
        value: Value = msgpack.unpackb(data, max_array_len=-1 if arrays_max is None else arrays_max)
        if not _plain(value, len(data) if arrays_max is None else arrays_max):
            most = "" if arrays_max is None else f"{arrays_max} "
            raise MalformedError(f"expected {most}arrays of at most {DEPTH_MAX} levels and no map, float or extension")
        canonical = msgpack.packb(value) == data
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException, OverflowError) as error:
        raise MalformedError(f"not msgpack: {type(error).__name__}: {error}") from error
    if not canonical:
        raise MalformedError("not canonical msgpack: the value has a shorter or other encoding")
    return value


def _plain(value: Any, arrays_max: int) -> bool:
    """Whether a value holds only what the format has, in so many arrays at most DEPTH_MAX deep."""
    if type(value) is not list:
        return type(value) in _SCALARS
    if _SCALARS.issuperset(map(type, value)):  # as most are
        return True
    level, count = [value], 1
    for _ in range(DEPTH_MAX):
        deeper: list[list[Any]] = []
        for found in level:
            types = set(map(type, found))
            if not types <= _VALUES:
                return False
            if list in types:
                deeper += [item for item in found if type(item) is list]
                if count + len(deeper) > arrays_max:
                    return False
        if not deeper:
            return True
        level, count = deeper, count + len(deeper)
    return False


def digest(data: bytes, size: int = DIGEST_BYTES) -> bytes:
    """BLAKE2b of ``data`` with ``size`` bytes (16 to 64), unkeyed: what libsodium calls its generic hash."""
    return blake2b(data, digest_size=size).digest()


def fields(value: Value, count: int, what: str) -> Sequence[Value]:
    """Require an array of exactly ``count`` values."""
    if not isinstance(value, list | tuple) or len(value) != count:
        found = f"{len(value)} values" if isinstance(value, list | tuple) else type(value).__name__
        raise MalformedError(f"{what}: expected an array of {count} values, found {found}")
    return value


def array(value: Value, low: int, high: int, what: str) -> Sequence[Value]:
    """Require an array of ``low`` to ``high`` values."""
    if not isinstance(value, list | tuple) or not low <= len(value) <= high:
        found = f"{len(value)} values" if isinstance(value, list | tuple) else type(value).__name__
        raise MalformedError(f"{what}: expected an array of {low} to {high} values, found {found}")
    return value


def integer(value: Value, what: str, low: int = 0, high: int = INT_MAX) -> int:
    """Require an integer (not a boolean) in ``low..high``."""
    if type(value) is not int or not low <= value <= high:
        raise MalformedError(f"{what}: expected an integer in {low}..{high}, found {_show(value)}")
    return value


def boolean(value: Value, what: str) -> bool:
    """Require a boolean."""
    if type(value) is not bool:
        raise MalformedError(f"{what}: expected a boolean, found {_show(value)}")
    return value


def binary(value: Value, what: str, low: int, high: int | None = None) -> bytes:
    """Require a byte string of ``low`` to ``high`` bytes; exactly ``low`` when ``high`` is absent."""
    if type(value) is not bytes or not low <= len(value) <= (low if high is None else high):
        expected = f"{low}" if high is None else f"{low} to {high}"
        found = f"{len(value)} bytes" if isinstance(value, bytes) else _show(value)
        raise MalformedError(f"{what}: expected {expected} bytes, found {found}")
    return value


def text(value: Value, what: str, high: int, low: int = 0) -> str:
    """Require a string of ``low`` to ``high`` characters without NUL."""
    if type(value) is not str or not low <= len(value) <= high or "\0" in value:
        found = f"{len(value)} characters" if isinstance(value, str) else _show(value)
        raise MalformedError(f"{what}: expected a string of {low} to {high} characters without NUL, found {found}")
    return value


def _show(value: Value) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
