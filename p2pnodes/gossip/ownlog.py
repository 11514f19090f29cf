"""Rule 4: a daemon never forks its own log.

After a start the own log may be older than what peers hold of it: a restored backup, a cloned disk, a disk that lied.
Before its first write a daemon therefore hears its own head from peers with more than half of the other enrolled stake;
what it hears decides whether it goes on with its log or opens a new one. Rule 8: nor does it stay in one that it wrote
while its clock ran ahead. Pure: time and reports come in as arguments.
"""

from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, hlc_at
from p2pnodes.model.events import Head, LogId
from p2pnodes.store.state import LogState

HEARING_MS_MAX: Final = 30_000
"""How long a daemon waits to hear its own head before it opens a new log; longer if it has many (``patience_ms``)."""

LOGS_MANY: Final = 64
LOGS_PER_DOUBLING: Final = 16
"""From so many logs of its hotkey on it waits twice as long for every so many more. Peers hold a bounded number of them
until they have ended, and one that is restarted again and again while it reaches nobody must not use all up: 256 last
for six weeks then, and not for two hours."""


class Step(Enum):
    """What the daemon does next."""

    WAIT = auto()
    GO_ON = auto()
    OPEN_NEW = auto()


class Hearing(NamedTuple):
    """A decision and its reason, for the operator.

    Attributes:
        step: What to do.
        reason: Why.
        doubled: Whether another daemon may write with this node key: peers hold what this disk does not, or kept no
            session with it.
    """

    step: Step
    reason: str
    doubled: bool = False


def patience_ms(logs: int) -> int:
    """How long a daemon whose hotkey has so many logs waits to hear its own head before it opens one more."""
    return HEARING_MS_MAX << max(0, logs - LOGS_MANY + LOGS_PER_DOUBLING) // LOGS_PER_DOUBLING


def hear(
    own: Head | None,
    reports: Mapping[bytes, Head | None],
    others: Mapping[bytes, int],
    waited_ms: int,
    *,
    ids: Mapping[int, bytes],
    alone: bool,
    named: bool = False,
    ended: Collection[bytes] = (),
    logs: int = 1,
) -> Hearing:
    """Decide whether the own log can be written.

    Args:
        own: Head of the current own log; None when nothing of it is here.
        reports: Hotkey of a connected peer -> last event of our current log that counts for it, None when none does.
        others: Hotkey -> stake of every other enrolled validator.
        waited_ms: Time since the daemon may speak.
        ids: Seq -> id of our own events, for each seq in ``reports`` that is not above ours.
        alone: Whether the electorate permits no other stake. Who is enrolled is known from the own database, which may
            be as old as a backup; the electorate is not.
        named: Whether a delegation that was signed elsewhere names the log, and none of it is here. It is to be opened,
            unless it was once already and this disk has lost it.
        ended: Hotkeys of connected peers that know of an end of our current log, a fork or a closing.
        logs: How many logs the own hotkey has.

    Returns:
        OPEN_NEW when there is no log, or when too little stake was heard in ``patience_ms``; GO_ON when enough was
        heard; else WAIT. A peer that holds more of the log than we do, or another event, or knows that it has ended, is
        waited for: who is honest proves it within moments by what it sends, and the log ends by that. Nobody signs a
        vector, so one that proves nothing in time ends no log that more than half of the other stake knows as we do.
    """
    if own is None and not named:
        return Hearing(Step.OPEN_NEW, "there is no own log yet")
    total = sum(others.values())
    patience = patience_ms(logs)
    after = f"; a new log is opened after {patience // 1000} s" if patience > HEARING_MS_MAX else ""
    against = {hotkey: reason for hotkey, head in reports.items() if (reason := _contradiction(own, head, ids))}
    against |= dict.fromkeys(ended, "the own log forked, or was closed")
    if against:
        reason = next(iter(against.values()))
        if waited_ms < HEARING_MS_MAX:
            return Hearing(Step.WAIT, f"a peer says that {reason}: waiting for the proof")
        agreed = sum(stake for hotkey, stake in others.items() if hotkey in reports and hotkey not in against)
        if 2 * agreed > total:
            return Hearing(Step.GO_ON, f"heard from {agreed} of {total} other enrolled stake; not proved: {reason}")
        if waited_ms < patience:
            return Hearing(Step.WAIT, f"peers say that {reason}: waiting for the proof{after}")
        return Hearing(Step.OPEN_NEW, f"peers say that {reason}", doubled=True)
    if total == 0 and not alone and waited_ms < HEARING_MS_MAX:
        return Hearing(Step.WAIT, "waiting to hear whether other validators of the electorate are enrolled")
    heard = sum(stake for hotkey, stake in others.items() if hotkey in reports)
    if 2 * heard > total or total == 0:
        return Hearing(Step.GO_ON, f"heard from {heard} of {total} other enrolled stake")
    if waited_ms >= patience:
        return Hearing(
            Step.OPEN_NEW,
            f"heard only {heard} of {total} other enrolled stake in {patience // 1000} s",
            doubled=True,  # perhaps because another daemon takes the peers' sessions with this key
        )
    return Hearing(Step.WAIT, f"waiting to hear the own head: {heard} of {total} other enrolled stake so far{after}")


def ran_ahead(
    own_hotkey: bytes,
    own: LogId | None,
    logs: Mapping[LogId, LogState],
    others: Mapping[bytes, int],
    now_ms: int,
    *,
    offset_ms: int | None,
) -> list[LogId]:
    """Own logs with events from when the clock ran ahead, to be closed below these now that it is right (rule 8).

    None while nobody else says what the time is: a clock that was set back looks the same, and what was acknowledged
    since would count for nothing.

    Args:
        own_hotkey: Whose logs are own ones, whichever daemon or node key wrote them.
        own: The current own log; None while there is none.
        logs: Every log that is held.
        others: Hotkey -> stake of every other enrolled validator.
        now_ms: Wall clock, which nobody is known to contradict.
        offset_ms: Median of the peers' clocks less ours; None while there is none.
    """
    if offset_ms is None and any(others.values()):
        return []
    found = {log for log, hotkey in _ahead(logs, now_ms).items() if hotkey == own_hotkey}
    held = logs.get(own) if own else None
    if held is not None and held.hotkey == own_hotkey and held.prefix.hlc > _limit_hlc(now_ms):
        found.add(held.id)
    return sorted(found)


def stays_ahead(own_hotkey: bytes, logs: Mapping[LogId, LogState], now_ms: int) -> bool:
    """Whether another validator's log that counts here is too far ahead, too: while it is, no log can be opened."""
    return any(hotkey != own_hotkey for hotkey in _ahead(logs, now_ms).values())


def _ahead(logs: Mapping[LogId, LogState], now_ms: int) -> dict[LogId, bytes]:
    """Logs of which something counts that lies too far ahead, with their hotkeys."""
    limit_hlc = _limit_hlc(now_ms)
    return {log: state.hotkey for log, state in logs.items() if state.hlc > limit_hlc}


def _limit_hlc(now_ms: int) -> int:
    return hlc_at(now_ms + SKEW_AHEAD_MS_MAX + 1) - 1


def _contradiction(own: Head | None, head: Head | None, ids: Mapping[int, bytes]) -> str | None:
    """What a peer's report has that this disk has not; None when it agrees, or holds less."""
    if head is None:
        return None
    if own is None:
        return f"the own log is there up to seq {head.seq}, and nothing of it is here: this disk is a backup or lost it"
    if head.seq <= own.seq and head.id == ids.get(head.seq):
        return None
    if head.seq > own.seq:
        return f"the own log goes on to seq {head.seq} and not to {own.seq}: this disk is a backup or a clone"
    return f"the own log has another event at seq {head.seq}"
