"""Bounds of a run: the engine's own made so small that a run of small events meets every one, others lifted."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from p2pnodes.gossip import backoff, effects, engine, frames, intake, session, sync
from p2pnodes.store import admission
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

UNBOUND: Final = ((admission, "HOPPING_CLAIMS_MAX", 1_000_000),)
"""What a daemon refuses for itself, by its own history: else most of a run's conflicts could not be posted."""


@contextmanager
def open_door() -> Iterator[None]:
    """Run the body without refusals that no rule of the network asks for."""
    with patched(UNBOUND):
        yield


@contextmanager
def tight_bounds() -> Iterator[None]:
    """Run the body under them."""
    with patched(TIGHT):
        yield


@contextmanager
def patched(values: Iterable[tuple[Any, str, int]]) -> Iterator[None]:
    """Run the body with other values of some modules' constants."""
    with ExitStack() as stack:
        for module, name, value in values:
            assert hasattr(module, name)
            stack.enter_context(patch.object(module, name, value))
        yield
