"""The log level at run time: in force at once, back by itself, and never lost to a restart of anything."""

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from p2pnodes.loglevel import CHANGES_MAX, FOR_S_MAX, LogLevel
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

PART = "p2pnodes.gossip"
PARTS = (
    "api", "author", "carrier", "chain", "cli", "config", "connections", "daemon", "devnet", "doctor", "gossip",
    "inbound", "metrics", "miner", "model", "notify", "outbound", "store", "verify",
)  # fmt: skip


class Clock:
    """A clock that a test moves, and what is due by it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, asyncio.TimerHandle]] = []

    def later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now_s + delay_s, call, (), asyncio.get_running_loop())
        self._due.append((self.now_s + delay_s, handle))
        return handle

    def move(self, seconds: float) -> None:
        self.now_s += seconds
        for _, handle in [due for due in self._due if due[0] <= self.now_s]:
            if not handle.cancelled():
                handle._run()
        self._due = [due for due in self._due if due[0] > self.now_s]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def level(clock: Clock) -> Iterator[LogLevel]:  # type: ignore[misc]
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    level = LogLevel("info", clock.later, lambda: clock.now_s)
    yield level
    level.reset(None)
    root.setLevel(before)


def in_force(logger: str | None = None) -> str:
    return logging.getLevelName(logging.getLogger(logger).getEffectiveLevel()).lower()


class TestChange:
    """A level holds for all records, or for a part."""

    async def test_it_is_in_force_at_once_for_loggers_that_are_in_use(self, level: LogLevel) -> None:
        """Loggers of structlog are kept once used; they ask the standard library's at each record."""
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer()],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )
        try:
            log = structlog.get_logger("p2pnodes.gossip")
            log.info("bound and kept")
            records: list[logging.LogRecord] = []
            handler = logging.Handler()
            handler.emit = records.append  # type: ignore[assignment,method-assign]
            logging.getLogger().addHandler(handler)
            log.debug("too early")
            level.set("debug", None, None)
            log.debug("now")
            logging.getLogger().removeHandler(handler)
        finally:
            structlog.reset_defaults()
        assert ["now" in record.getMessage() for record in records if "log_level" not in record.getMessage()] == [True]

    async def test_a_part_has_its_own(self, level: LogLevel) -> None:
        level.set("debug", PART, None)
        assert (in_force(PART), in_force("p2pnodes.api"), in_force()) == ("debug", "info", "info")

    async def test_what_differs_is_told_with_the_time_that_is_left(self, level: LogLevel, clock: Clock) -> None:
        assert level.status() == {"configured": "info", "changed": []}
        level.set("warning", None, 600)
        level.set("debug", PART, None)
        clock.move(100)
        assert level.status() == {
            "configured": "info",
            "changed": [
                {"logger": None, "level": "warning", "left_s": 500.0},
                {"logger": PART, "level": "debug", "left_s": None},
            ],
        }


class TestBack:
    """Nobody has to remember to take it back."""

    async def test_it_goes_back_by_itself_and_alone(self, level: LogLevel, clock: Clock) -> None:
        level.set("error", None, 60)
        level.set("debug", PART, 600)
        clock.move(60)
        assert (in_force(), in_force(PART)) == ("info", "debug")
        clock.move(540)
        assert in_force(PART) == "info"
        assert level.status()["changed"] == []

    async def test_a_later_change_counts_its_own_time(self, level: LogLevel, clock: Clock) -> None:
        level.set("debug", None, 60)
        level.set("warning", None, 600)
        clock.move(60)
        assert in_force() == "warning"

    async def test_it_can_be_taken_back_for_a_part_or_for_all(self, level: LogLevel) -> None:
        level.set("error", None, None)
        level.set("debug", PART, None)
        level.reset(PART)
        assert (in_force(PART), in_force()) == ("error", "error")
        level.set("debug", PART, None)
        level.reset(None)
        assert (in_force(PART), in_force()) == ("info", "info")

    async def test_the_configuration_read_again_takes_all_back(self, level: LogLevel, clock: Clock) -> None:
        level.set("debug", PART, 60)
        level.set("error", None, 60)
        level.configure("warning")
        assert (in_force(), in_force(PART)) == ("warning", "warning")
        clock.move(60)
        assert in_force() == "warning", "no timer of before changes it"


class TestBounds:
    """What cannot be meant, and what would be too much, changes nothing."""

    @pytest.mark.parametrize(
        "name", ["p2pnodes.gosip", "aiohttp", "p2pnodes.", "p2pnodes..gossip", "p2pnodes./etc", "p2pnodes.a.b.c.d.e"]
    )
    async def test_a_name_that_no_record_has_is_refused(self, level: LogLevel, name: str) -> None:
        with pytest.raises(
            ConfigError, match=r"is no part of p2pnodes; expected a module such as p2pnodes\.gossip"
        ) as no:
            level.set("debug", name, None)
        assert no.value.code == Code.ADMIN_UNKNOWN
        assert level.status()["changed"] == []

    async def test_changes_are_bounded_in_number(self, level: LogLevel) -> None:
        for part in PARTS[:CHANGES_MAX]:
            level.set("debug", f"p2pnodes.{part}", None)
        with pytest.raises(ConfigError, match="16 changes of levels are in force already"):
            level.set("debug", f"p2pnodes.{PARTS[CHANGES_MAX]}", None)
        level.set("warning", f"p2pnodes.{PARTS[0]}", FOR_S_MAX)
        assert len(level.status()["changed"]) == CHANGES_MAX
