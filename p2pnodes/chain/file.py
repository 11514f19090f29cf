"""The electorate from a TOML file, in the shape that the chain reader fills: for devnets and tests.

    block = 100
    time = 1764000000                   # Unix seconds of that block

    [[validators]]
    hotkey = "5..."                     # SS58
    stake = 100                         # any unit, one for the whole file
    permit = true                       # optional
    address = "http://127.0.0.1:8100"   # optional

    [[registered]]
    hotkey = "5..."
    block = 0                           # of its registration

    [previous]                          # optional: the pinned block before, of the same shape

Validators are registered too, at block 0 unless the file lists them under ``registered``.
"""

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from p2pnodes.chain.regular import read_regular
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import URL_CHARS_MAX
from p2pnodes.model.keys import ss58_decode
from p2pnodes.model.problems import Address, found_and_expected, lower_first, suggestion

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
ENTRIES_MAX: Final = 65_536


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Validator(_Table):
    hotkey: Address
    stake: Annotated[int, Field(ge=0, le=INT_MAX, description="Integer, in one unit for the whole file.")]
    permit: bool = True
    address: Annotated[str, Field(max_length=URL_CHARS_MAX)] = ""


class _Registered(_Table):
    hotkey: Address
    block: Annotated[int, Field(ge=0, le=INT_MAX, description="Number of the block at which it registered.")]


class _Pin(_Table):
    block: Annotated[int, Field(ge=0, le=INT_MAX, description="Number of the pinned block.")]
    time: Annotated[int, Field(ge=0, le=INT_MAX // 65_536_000, description="Unix seconds of that block.")]
    validators: Annotated[list[_Validator], Field(max_length=ENTRIES_MAX)] = []
    registered: Annotated[list[_Registered], Field(max_length=ENTRIES_MAX)] = []

    def pin(self) -> Pin:
        keys = {validator.hotkey: ss58_decode(validator.hotkey) for validator in self.validators}
        return Pin(
            self.block,
            self.time * 1000,
            {keys[v.hotkey]: v.stake for v in self.validators if v.permit},
            dict.fromkeys(keys.values(), 0) | {ss58_decode(entry.hotkey): entry.block for entry in self.registered},
            {keys[v.hotkey]: v.address for v in self.validators if v.address},
        )


class _File(_Pin):
    previous: _Pin | None = None


def read_electorate(path: Path) -> Electorate:
    """Read an electorate file.

    Raises:
        ConfigError: Unreadable, no regular file, too large, not TOML, or not of the shape above.
    """
    try:
        content = read_regular(path, FILE_BYTES_MAX)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{path}: over {FILE_BYTES_MAX} bytes, no electorate is that large", code=Code.CHAIN_FILE)
        data = tomllib.loads(content.decode())
        parsed = _File.model_validate(data)
        return Electorate(parsed.pin(), parsed.previous.pin() if parsed.previous else None)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the electorate: {error.strerror}", code=Code.CHAIN_FILE) from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problem(error.errors()[0])}", code=Code.CHAIN_FILE) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not an electorate: {error}", code=Code.CHAIN_FILE) from error


def _problem(details: ErrorDetails) -> str:
    """One line for one error of pydantic's."""
    key = ".".join(str(part) for part in details["loc"])
    tables: dict[str, type[_Table]] = {"validators": _Validator, "registered": _Registered}
    table = next((str(part) for part in details["loc"][:-1] if part in tables), "")
    fields = tables.get(table, _File).model_fields
    name = str(details["loc"][-1])
    match details["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {suggestion(name, list(fields))}"
        case "missing":
            return f"{key}: missing; expected {lower_first(fields[name].description or 'a value')}"
        case _:
            return f"{key}: {found_and_expected(details, key)}"


class Watch:
    """Tells whether a file changed since the last look."""

    def __init__(self, path: Path) -> None:
        """Watch ``path``; the first look finds a change."""
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def forget(self) -> None:
        """Find a change at the next look, whatever is there."""
        self._seen = None

    def changed(self) -> bool:
        """Whether the file is another one now, or cannot be looked at: who reads it will see why."""
        before = self._seen
        try:
            status = self.path.stat()
        except OSError:
            self._seen = None
        else:
            self._seen = status.st_mtime_ns, status.st_size, status.st_ino
        return self._seen is None or self._seen != before


class ElectorateFile:
    """A file that is read again when it changed; an ``ElectorateSource``.

    Attributes:
        pause_s: Seconds between two polls: a look at the file's time costs nothing.
    """

    pause_s = 1.0

    def __init__(self, path: Path) -> None:
        """Watch ``path``; nothing is read yet."""
        self.path = path
        self._watch = Watch(path)
        self._error: str | None = None

    def forget(self) -> None:
        """Read the file again at the next poll, changed or not."""
        self._watch.forget()

    async def poll(self) -> Electorate | None:
        """The electorate if the file is new or changed since the last good or bad read, else None.

        Raises:
            ConfigError: The file is not good, also if that was said before; the caller keeps what it has.
        """
        if self._watch.changed():
            self._error = None
            try:
                return await asyncio.to_thread(read_electorate, self.path)  # a large one takes a second to parse
            except ConfigError as error:
                self._error = str(error)
        if self._error is not None:
            raise ConfigError(self._error, code=Code.CHAIN_FILE)
        return None

    async def close(self) -> None:
        """Nothing is open between two polls."""

    def status(self) -> dict[str, Any]:
        """What ``status`` shows of the source."""
        return {"source": "file", "file": str(self.path)}

    def clock_offset_ms(self) -> int | None:
        """None: a file has no clock."""
        return None

    def clock_trouble(self) -> int | None:
        """None: a file has no clock."""
        return None

    def reasons(self) -> str | None:
        """None: a file is read at once, and what is wrong with it is raised."""
        return None
