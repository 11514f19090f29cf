"""How aiohttp serves the public interface: bounds and timeouts of connections, and what its own parser refuses.

Errors that aiohttp finds before a handler runs (a NUL in a header, too many headers, a TLS hello) never reach the
application. It answers them with 400 and logs a traceback for each; ``ParserErrors`` makes that one line, and few.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from p2pnodes.api.errors import echo
from p2pnodes.api.limits import TokenBuckets

log = structlog.get_logger(__name__)

HEADERS_MAX: Final = 128
HEADER_BYTES_MAX: Final = 8190
REQUEST_LINE_BYTES_MAX: Final = 8190
IDLE_TIMEOUT_S: Final = 75.0
"""Seconds that a connection may stay without a complete request: idle, or sending its headers drop by drop."""

LINGER_S: Final = 2.0
"""Seconds for which the rest of a refused body is read, so that the client sees the answer and not a reset."""

SHUTDOWN_S: Final = 3.0
"""Seconds that requests in progress get to finish when the daemon stops."""

PARSER_ERRORS_PER_S: Final = 0.2
PARSER_ERRORS_BURST: Final = 5


class ParserErrors(logging.Filter):
    """Turns aiohttp's tracebacks about unreadable requests into single lines, at most one per 5 s after the first 5."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count time by ``clock``, in seconds."""
        super().__init__()
        self._clock = clock
        self._budget = TokenBuckets(PARSER_ERRORS_PER_S, PARSER_ERRORS_BURST, size=1)
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass that is not a parser's error; log those here."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if not isinstance(error, HttpProcessingError):
            return True
        if self._budget.take("", self._clock()):
            self._suppressed += 1
            return False
        remote = record.args[0] if isinstance(record.args, tuple) and record.args else None
        reason = echo(" ".join(error.message.split()))
        log.warning("unreadable_request", remote=remote, reason=reason, suppressed=self._suppressed)
        self._suppressed = 0
        return False


def make_runner(app: web.Application, *, shutdown_timeout_s: float = SHUTDOWN_S) -> web.AppRunner:
    """Runner of the public interface; the daemon adds sites to it.

    Args:
        app: The application.
        shutdown_timeout_s: Seconds that requests in progress get when it is stopped.
    """
    logger = logging.getLogger(f"{__name__}.aiohttp")
    logger.filters[:] = [ParserErrors()]
    logger.setLevel(logging.DEBUG)  # what is not HTTP at all (a TLS hello, say) aiohttp logs there
    return web.AppRunner(
        app,
        shutdown_timeout=shutdown_timeout_s,
        logger=logger,
        access_log=None,  # at the rate of polls, a line per request is what fills disks
        max_headers=HEADERS_MAX,
        max_field_size=HEADER_BYTES_MAX,
        max_line_size=REQUEST_LINE_BYTES_MAX,
        keepalive_timeout=IDLE_TIMEOUT_S,
        lingering_time=LINGER_S,
        auto_decompress=False,  # the miner signed the bytes that it sent; and no bombs
    )
