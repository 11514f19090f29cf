"""Tight bounds: the engine's own limits made so small that a run of small events meets every one of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from p2pnodes.gossip import backoff, effects, engine, frames, intake, session, sync
from tests.sim import network

TIGHT: Final[tuple[tuple[Any, str, int], ...]] = (
    (frames, "EVENTS_PER_FRAME_MAX", 5),
    (sync, "EVENTS_PER_FRAME_MAX", 5),
    (frames, "BATCH_BYTES", 3_000),
    (frames, "LOGS_PER_FRAME", 3),
    (sync, "WANT_BYTES_MAX", 1_500),
    (sync, "STORING_BYTES_MAX", 2_000),
    (sync, "SERVE_QUEUE_BYTES_MAX", 2_000),
    (effects, "QUEUE_BYTES_MAX", 4_000),
    (engine, "QUEUE_BYTES_DRAINED", 1_000),
    (engine, "PENDING_BYTES_MAX", 4_000),
    (intake, "SEEN_MAX", 8),
    (session, "UNKNOWN_LOGS_MAX", 2),
    (backoff, "BACKOFFS_MAX", 2),
    (network, "BYTES_PER_MS", 10),
)


@contextmanager
def tight_bounds() -> Iterator[None]:
    """Run the body under them."""
    with ExitStack() as stack:
        for module, name, value in TIGHT:
            assert hasattr(module, name)
            stack.enter_context(patch.object(module, name, value))
        yield
