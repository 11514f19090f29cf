"""How much a running daemon logs: the level of its configuration, and changes to it that go back by themselves.

A change is for all records or for those of one part (``p2pnodes.gossip``), and holds for a time or until the process
ends. Reading the configuration again takes all changes back. Levels live in the standard library's loggers, which
structlog asks at every record, so a change is in force at once.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

log = structlog.get_logger("p2pnodes.daemon")

LEVELS: Final = ("debug", "info", "warning", "error")
"""What a level may be, the most talkative first."""

FOR_S_MAX: Final = 86_400
"""Longest time of a change, seconds: a debug log that nobody reads fills a disk."""

CHANGES_MAX: Final = 16
"""Changes at once, that for all records included."""

_PACKAGE: Final = Path(__file__).parent
_PART: Final = re.compile(r"[a-z_]+(?:\.[a-z_]+){0,3}")

Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]
"""Calls a function after so many seconds, as ``loop.call_later`` does."""


class _Change(NamedTuple):
    level: str
    timer: asyncio.TimerHandle | None


class LogLevel:
    """What is in force of the levels; one for a process, as loggers are."""

    def __init__(self, configured: str, later: Later, clock_s: Callable[[], float]) -> None:
        """Begin with the level of the configuration, which is in force already.

        Args:
            configured: One of LEVELS.
            later: Of the event loop.
            clock_s: That by which ``later`` counts.
        """
        self._configured = configured
        self._later = later
        self._clock_s = clock_s
        self._changes: dict[str, _Change] = {}
        """By logger; the empty name stands for all records."""

    def set(self, level: str, logger: str | None, for_s: int | None) -> None:
        """Log from another level on.

        Args:
            level: One of LEVELS.
            logger: A part of this package, as records name it under ``logger``; None for all records.
            for_s: For how long, 1 to FOR_S_MAX seconds; None until the process ends.

        Raises:
            ConfigError: There is no such part, or too many changes are in force.
        """
        assert level in LEVELS
        assert for_s is None or 1 <= for_s <= FOR_S_MAX
        name = logger or ""
        if name and not _is_part(name):
            raise ConfigError(
                f"logger {name!r:.80} is no part of p2pnodes; expected a module such as p2pnodes.gossip",
                code=Code.ADMIN_UNKNOWN,
            )
        if name not in self._changes and len(self._changes) >= CHANGES_MAX:
            raise ConfigError(
                f"{CHANGES_MAX} changes of levels are in force already; take some back with level configured",
                code=Code.ADMIN_NOT_NOW,
            )
        log.info("log_level", level=level, part=name or "all", for_s=for_s)  # before it may be too quiet for this
        self._forget(name)
        timer = None if for_s is None else self._later(for_s, lambda: self._revert([name]))
        self._changes[name] = _Change(level, timer)
        logging.getLogger(name or None).setLevel(level.upper())

    def reset(self, logger: str | None) -> None:
        """Take a change back; None: all of them. Where none is in force, nothing changes."""
        self._revert([name for name in self._changes if logger in {None, name}])

    def _revert(self, names: list[str]) -> None:
        for name in names:
            self._forget(name)
            logging.getLogger(name or None).setLevel(logging.NOTSET if name else self._configured.upper())
            log.info("log_level", level="configured", part=name or "all")

    def configure(self, level: str) -> None:
        """Follow the configuration as it was read again: its level, and no changes."""
        self._configured = level
        self.reset(None)
        logging.getLogger().setLevel(level.upper())

    def close(self) -> None:
        """Forget the timers, as the process ends."""
        for name in list(self._changes):
            self._forget(name)

    def status(self) -> dict[str, Any]:
        """For operators, JSON-able.

        Returns:
            The ``configured`` level, and what is ``changed``: a list of ``logger`` (None for all records), ``level``
            and ``left_s``, seconds until it goes back, None for never.
        """
        now_s = self._clock_s()
        return {
            "configured": self._configured,
            "changed": [
                {
                    "logger": name or None,
                    "level": change.level,
                    "left_s": None if change.timer is None else round(max(0.0, change.timer.when() - now_s), 1),
                }
                for name, change in sorted(self._changes.items())
            ],
        }

    def _forget(self, name: str) -> None:
        change = self._changes.pop(name, None)
        if change is not None and change.timer is not None:
            change.timer.cancel()


def _is_part(name: str) -> bool:
    """Whether records can have this logger: a name that nothing has would silently change nothing."""
    package, dot, rest = name.partition(".")
    if package != "p2pnodes":
        return False
    if not dot:
        return True
    path = _PACKAGE.joinpath(*rest.split("."))
    return _PART.fullmatch(rest) is not None and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())
