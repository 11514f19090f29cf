"""The operator's deny-list: hotkeys whose registrations this daemon does not take.

A TOML file with one line for each, ``"<SS58>" = "reason"``. It is read at the start, and again when it changes; a file
that turns bad is told once and changes nothing.
"""

import asyncio
import tomllib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import structlog
from aiohttp import web
from pydantic import Field, RootModel, ValidationError

from p2pnodes.chain.file import Watch
from p2pnodes.chain.regular import read_regular
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, printable
from p2pnodes.model.keys import ss58_decode
from p2pnodes.model.problems import Address, found_and_expected

log = structlog.get_logger(__name__)

FILE_BYTES_MAX: Final = 2 * 1024 * 1024
ENTRIES_MAX: Final = 16_384
REASON_CHARS_MAX: Final = 256
POLL_S: Final = 1.0
"""Pause between two looks at the file."""

_EXAMPLE: Final = '"<SS58 address>" = "reason"'


class _File(RootModel[dict[Address, str]]):
    root: Annotated[
        dict[Address, Annotated[str, Field(min_length=1, max_length=REASON_CHARS_MAX)]], Field(max_length=ENTRIES_MAX)
    ]


class DenyList:
    """Who is denied, as the file says."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; without one nobody is denied.

        Raises:
            ConfigError: The file cannot be read, or is not of its shape.
        """
        self._watched = None if path is None else Watch(path)
        self._problem: str | None = None
        self._denied: dict[bytes, str] = {}
        if self._watched is not None:
            self._watched.changed()
            self._denied = read_denied(self._watched.path)

    def reason(self, hotkey: bytes) -> str | None:
        """Why a hotkey (public key) is denied; None when it is not."""
        return self._denied.get(hotkey)

    def poll(self) -> None:
        """Read the file again if it changed; safe in any thread, as only one calls it at a time."""
        if self._watched is None or not self._watched.changed():
            return
        try:
            self._denied = read_denied(self._watched.path)
        except ConfigError as error:
            if str(error) != self._problem:
                log.warning("deny_file_not_read", error=str(error), kept=len(self._denied), code=error.code)
            self._problem = str(error)
            return
        self._problem = None
        log.info("deny_file", hotkeys=len(self._denied))

    async def watch(self, _: web.Application) -> AsyncIterator[None]:
        """Poll for as long as an application runs, in a thread (an entry of ``Application.cleanup_ctx``)."""
        task = asyncio.create_task(self._watch()) if self._watched is not None else None
        yield
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await asyncio.to_thread(self.poll)
            except Exception:  # a look that fails must not be the last one
                log.exception("deny_file_watch_failed", code=Code.SYSTEM_BUG)


def read_denied(path: Path) -> dict[bytes, str]:
    """Read a deny-list: public key -> reason.

    Raises:
        ConfigError: Unreadable, too large, not TOML, or not of the shape above; the message is one line.
    """
    try:
        content = read_regular(path, FILE_BYTES_MAX)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(
                f"{path}: over {FILE_BYTES_MAX} bytes; expected lines {_EXAMPLE}", code=Code.CONFIG_DENY_FILE
            )
        entries = _File.model_validate(tomllib.loads(content.decode())).root
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected lines {_EXAMPLE}", code=Code.CONFIG_DENY_FILE
        ) from error
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = printable(".".join(str(part) for part in details["loc"] if part != "[key]")) or "the file"
        raise ConfigError(f"{path}: {key}: {found_and_expected(details, key)}", code=Code.CONFIG_DENY_FILE) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML
        raise ConfigError(
            f"{path}: not TOML: {error}; expected lines {_EXAMPLE}", code=Code.CONFIG_DENY_FILE
        ) from error
    return {ss58_decode(address): reason for address, reason in entries.items()}
