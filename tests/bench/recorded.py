"""A real daemon that notes when it holds an event, for the benchmark on real processes.

    python -m tests.bench.recorded RECORD --config FILE

Everything is as in ``p2pnodes run``, except that it casts no votes: what its network carries is then what was posted,
and nothing else. Each event that is durable here, whoever wrote it, adds RECORD_BYTES to the file RECORD.
"""

import asyncio
import os
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from p2pnodes.author import Author
from p2pnodes.config import Settings, load_settings
from p2pnodes.daemon import Daemon, configure_logging
from p2pnodes.model.events import Event
from p2pnodes.store.database import Commit
from p2pnodes.store.state import Outcome, Result

RECORD: Final = struct.Struct("<8sQ")
"""The begin of an event's id (of the rival: a message's number), and CLOCK_MONOTONIC in nanoseconds."""

RECORD_BYTES: Final = RECORD.size


class RecordedDaemon(Daemon):
    """A daemon that notes when it holds an event, at the moment at which its event loop hears of the commit."""

    def __init__(self, settings: Settings, record: int) -> None:
        """Note in the file with the descriptor ``record``."""
        super().__init__(settings)
        self._record = record

    def _note(self, events: Iterable[Event]) -> None:
        now_ns = time.monotonic_ns()
        os.write(self._record, b"".join(RECORD.pack(event.id[:8], now_ns) for event in events))

    def _received(self, outcomes: list[Outcome]) -> None:
        self._note(outcome.event for outcome in outcomes if outcome.result is Result.STORED)
        super()._received(outcomes)

    def _committed(self, commit: Commit) -> None:
        self._note(commit.appended)
        super()._committed(commit)

    def _start_verifying(self, author: Author) -> None:
        """Cast no votes."""


def main(record: Path, config: Path) -> None:
    """Run until told to stop."""
    sys.modules["rich"] = None  # type: ignore[assignment] # as in p2pnodes.process
    settings = load_settings(config, {})
    configure_logging(settings.log)
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        asyncio.run(RecordedDaemon(settings, descriptor).run())
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[3]))
