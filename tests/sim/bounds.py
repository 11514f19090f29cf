"""Bounds of a run: the engine's own made so small that a run of small events meets every one, others lifted."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from p2pnodes.gossip import backoff, effects, engine, fetch, frames, gaps, intake, push, session, sync
from p2pnodes.gossip.session import PROVING_MAX
from p2pnodes.store import admission
from tests.sim import network

if TYPE_CHECKING:
    from tests.sim.peer import SimPeer

TIGHT: Final[tuple[tuple[Any, str, int], ...]] = (
    (frames, "EVENTS_PER_FRAME_MAX", 5),
    (intake, "BLOCK", 5),
    (fetch, "BLOCK", 5),
    (fetch, "LANE_EVENTS_MAX", 5),
    (fetch, "LANE_BYTES_MAX", 2_000),
    (gaps, "CATCHUP_BYTES_MAX", 6_000),
    (gaps, "AHEAD_BYTES_MAX", 3_000),
    (intake, "GAP_BYTES_MAX", 3_000),
    (intake, "GAP_SHARE_BYTES_MAX", 1_500),
    (frames, "BATCH_BYTES", 3_000),
    (frames, "LOGS_PER_FRAME", 3),
    (fetch, "WANT_BYTES_MAX", 1_500),
    (fetch, "STORING_BYTES_MAX", 2_000),
    (sync, "SERVE_QUEUE_BYTES_MAX", 2_000),
    (effects, "QUEUE_BYTES_MAX", 4_000),
    (engine, "QUEUE_BYTES_DRAINED", 1_000),
    (engine, "PENDING_BYTES_MAX", 4_000),
    (intake, "SEEN_MAX", 8),
    (session, "UNKNOWN_LOGS_MAX", 2),
    (backoff, "BACKOFFS_MAX", 2),
    (push, "MISSING_MAX", 2),
    (push, "NEWS_MAX", 2),
    (push, "STORED_MAX", 2),
    (network, "BYTES_PER_MS", 10),
)

OWN_LOOKED_AT: Final = 64
"""Own events that may not have arrived anywhere."""

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
    """Run the body with other values of what some modules or classes hold constant."""
    with ExitStack() as stack:
        for owner, name, value in values:
            assert hasattr(owner, name)
            stack.enter_context(patch.object(owner, name, value))
        yield


def sizes(peer: "SimPeer") -> Iterator[tuple[str, int, int]]:
    """Every queue of a peer that others can make grow: its name, how long it is, and its bound."""
    engine_, event = peer.engine, _event_bytes(peer)
    # What was pushed last while there was room, and the ranges whose reading began while there was.
    pushed, ranges = frames.BATCH_BYTES + event, fetch.WANTS_MAX * (vars(fetch)["WANT_BYTES_MAX"] + event)
    logs = len(peer.ledger.state.logs)
    waiting = engine_._fetch._gaps
    # A bound of bytes may be passed by the event that reaches it.
    last = max((len(event.wire) for runs in waiting._runs.values() for run in runs for event in run.events), default=0)
    yield "bytes of ranges under way", engine_._fetch.under_way_bytes, gaps.CATCHUP_BYTES_MAX + last
    yield "bytes that wait for their turn", waiting.pushed_bytes, intake.GAP_BYTES_MAX + last
    yield "events that were seen", len(engine_._intake._seen), intake.SEEN_MAX
    yield "logs that are left alone", len(engine_._backoffs), backoff.BACKOFFS_MAX
    yield "announced logs that are missing", len(engine_._push._missing), push.MISSING_MAX
    yield "logs with the time of storing", len(engine_._push._stored), push.STORED_MAX
    for held in engine_._sessions.values():
        yield "unsent bytes", held.queue_bytes, effects.QUEUE_BYTES_MAX + pushed + ranges
        batch = max((batch.size_bytes for batch in held.storing), default=0)
        yield "bytes for the store", held.storing_bytes, engine.PENDING_BYTES_MAX + batch
        # Those that are held, and of others as many again: there were some that are held by now.
        yield "logs that a peer is ahead in", len(held.ahead), session.UNKNOWN_LOGS_MAX + 2 * logs
        yield "logs to be announced", len(held.news), push.NEWS_MAX
        yield "proofs for the store", len(held.proving), PROVING_MAX
        yield "wants", len(held.wanted), fetch.WANTS_MAX
        yield "wants to be served", len(held.serving), fetch.WANTS_MAX


def _event_bytes(peer: "SimPeer") -> int:
    """The size of the largest event that may be on its way to somebody: also of what the peer has just written."""
    return max(peer.world.guard.event_bytes, *(len(event.wire) for event in peer.acknowledged[-OWN_LOOKED_AT:]), 0)
