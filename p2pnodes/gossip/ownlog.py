"""Rule 4: a daemon never forks its own log.

After a start the own log may be older than what peers hold of it: a restored backup, a cloned disk, a disk that lied.
Before its first write a daemon therefore hears its own head from peers with more than half of the other enrolled stake;
what it hears decides whether it goes on with its log or opens a new one. Pure: time and reports come in as arguments.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from p2pnodes.model.events import Head

HEARING_MS_MAX: Final = 30_000
"""How long a daemon waits to hear its own head before it opens a new log."""


class Step(Enum):
    """What the daemon does next."""

    WAIT = auto()
    GO_ON = auto()
    OPEN_NEW = auto()


class Hearing(NamedTuple):
    """A decision and its reason, for the operator."""

    step: Step
    reason: str


def hear(
    own: Head | None,
    reports: Mapping[bytes, Head | None],
    others: Mapping[bytes, int],
    waited_ms: int,
    *,
    ids: Mapping[int, bytes],
    alone: bool,
) -> Hearing:
    """Decide whether the own log can be written.

    Args:
        own: Head of the current own log; None when there is no log yet.
        reports: Hotkey of a connected peer -> head of our current log as it holds it, None when it holds nothing of it.
        others: Hotkey -> stake of every other enrolled validator.
        waited_ms: Time since the daemon may speak.
        ids: Seq -> id of our own events, for each seq in ``reports`` that is not above ours.
        alone: Whether the electorate permits no other stake. Who is enrolled is known from the own database, which may
            be as old as a backup; the electorate is not.

    Returns:
        OPEN_NEW when there is no log, when a peer holds more of it than we do or another event than ours, or when too
        few were heard in time; GO_ON when enough stake was heard; else WAIT.
    """
    if own is None:
        return Hearing(Step.OPEN_NEW, "there is no own log yet")
    for head in reports.values():
        if head is not None and head.seq > own.seq:
            return Hearing(
                Step.OPEN_NEW,
                f"peers hold the own log up to seq {head.seq}, this disk up to {own.seq}: it is a backup or a clone",
            )
        if head is not None and head.seq <= own.seq and head.id != ids.get(head.seq):
            return Hearing(Step.OPEN_NEW, f"peers hold another event at seq {head.seq} of the own log")
    total = sum(others.values())
    if total == 0 and not alone and waited_ms < HEARING_MS_MAX:
        return Hearing(Step.WAIT, "waiting to hear whether other validators of the electorate are enrolled")
    heard = sum(stake for hotkey, stake in others.items() if hotkey in reports)
    if 2 * heard > total or total == 0:
        return Hearing(Step.GO_ON, f"heard from {heard} of {total} other enrolled stake")
    if waited_ms >= HEARING_MS_MAX:
        return Hearing(
            Step.OPEN_NEW,
            f"heard only {heard} of {total} other enrolled stake in {HEARING_MS_MAX // 1000} s",
        )
    return Hearing(Step.WAIT, f"waiting to hear the own head: {heard} of {total} other enrolled stake so far")
