"""The last good electorate, kept in the database so that a daemon starts without the chain."""

import sqlite3
from collections.abc import Iterator

from p2pnodes.model import codec
from p2pnodes.model.electorate import HOTKEYS_MAX, Electorate, Pin, pairs
from p2pnodes.model.events import URL_CHARS_MAX
from p2pnodes.model.keys import KEY_BYTES

EMPTY = Electorate(Pin(0, 0, {}, {}, {}))
"""What a new database starts with: nobody is permitted, nothing counts."""


def load(connection: sqlite3.Connection) -> Electorate:
    """The stored electorate, or EMPTY."""
    row = connection.execute("SELECT pins FROM electorate ORDER BY block DESC LIMIT 1").fetchone()
    if row is None:
        return EMPTY
    current, previous = codec.fields(codec.unpack(row[0]), 2, "electorate")
    return Electorate(read_pin(current), None if previous is None else read_pin(previous))


def save(connection: sqlite3.Connection, electorate: Electorate) -> None:
    """Replace the stored electorate."""
    previous = electorate.previous
    pins = codec.pack([pin_fields(electorate.current), None if previous is None else pin_fields(previous)])
    connection.execute("DELETE FROM electorate")
    connection.execute("INSERT INTO electorate VALUES (?, ?)", (electorate.block, pins))


def pin_fields(pin: Pin) -> list[codec.Value]:
    """A pin as a value of the canonical encoding: block, time, stakes, registrations and addresses, sorted."""
    return [
        pin.block,
        pin.time_ms,
        [[key, stake] for key, stake in sorted(pin.validators.items())],
        [[key, block] for key, block in sorted(pin.registered.items())],
        [[key, url] for key, url in sorted(pin.addresses.items())],
    ]


def read_pin(value: codec.Value) -> Pin:
    """The pin that ``pin_fields`` wrote.

    Raises:
        MalformedError: It is none.
    """
    block, time_ms, validators, registered, addresses = codec.fields(value, 5, "pin")
    return Pin(
        codec.integer(block, "block"),
        codec.integer(time_ms, "time"),
        dict(pairs(validators, "stake")),
        dict(pairs(registered, "registration block")),
        dict(_addresses(addresses)),
    )


def _addresses(entries: codec.Value) -> Iterator[tuple[bytes, str]]:
    for entry in codec.array(entries, 0, HOTKEYS_MAX, "addresses"):
        key, url = codec.fields(entry, 2, "address of a hotkey")
        yield codec.binary(key, "hotkey", KEY_BYTES), codec.text(url, "address", URL_CHARS_MAX)
