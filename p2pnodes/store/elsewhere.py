"""Logs of the own hotkey that another node key writes: how a stolen hotkey or a forgotten second machine shows."""

from collections.abc import Mapping

from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, hlc_ms
from p2pnodes.model.events import LogId
from p2pnodes.store.state import LogState


def written_elsewhere(
    logs: Mapping[LogId, LogState], hotkey: bytes, node_key: bytes, begun_ms: int, now_s: float
) -> list[LogState]:
    """Logs of a daemon's own hotkey that somebody else writes: a second daemon of its operator, or a thief.

    A log that this hotkey closed, as a rotation does, is none; nor is one whose delegation has ended, one in which
    nothing is written any more, as that of a lost disk, or one that an own log continues and that ends there.

    Args:
        logs: Every log that is held.
        hotkey: The own hotkey.
        node_key: The own node key.
        begun_ms: When this daemon began; what was written by then, or within what clocks may differ by, is its past.
        now_s: Wall clock, Unix seconds.
    """
    continued = dict(
        log.prefix.delegation.predecessor
        for log in logs.values()
        if log.id.node_key == node_key and log.prefix.delegation and log.prefix.delegation.predecessor
    )
    return [
        log
        for log in logs.values()
        if log.hotkey == hotkey
        and log.id.node_key != node_key
        and log.ends.close is None
        and continued.get(log.id) != log.head
        and log.prefix.delegation is not None
        and log.prefix.delegation.not_before <= now_s < log.prefix.delegation.not_after
        and log.prefix.hlc >= 0
        and hlc_ms(log.prefix.hlc) > begun_ms + SKEW_AHEAD_MS_MAX
    ]
