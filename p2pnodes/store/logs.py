"""The logs that are held, in memory: each of them, all those of a hotkey, and the version vector that they make."""

import sqlite3
from collections import Counter
from collections.abc import Container, Sequence
from typing import Final

from p2pnodes.model.branches import NO_ENDS, Ends, displaced
from p2pnodes.model.checkpoint import Line, ended_ms, is_over
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import Head, LogId
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store import pins
from p2pnodes.store.state import LogState
from p2pnodes.store.vector import Slices

LOGS_PER_HOTKEY_MAX: Final = 256
"""Bound of the logs of one validator that count (rule 6)."""

DISPLACED_PER_HOTKEY_MAX: Final = 64
"""Logs beyond these that are still here, see ``Ledger.forget``; while so many are, no further one is displaced."""


class Logs(dict[LogId, LogState]):
    """Every log that is held, as the ledger's open transaction has it.

    Attributes:
        per_hotkey: How many there are of each hotkey.
        over: Those that have ended, and count for nothing because the cut in force does not name them.
        leaving: Those of which events have to go before a live set can be loaded (``Ledger.begin_loading``), each with
            the first seq that does: all of them at 0. None where nothing has to go.
        heads: The version vector as of the last ``compare``, see ``State.heads``.
        ends: The same of ``State.ends``.
        slices: Their hashes.
        changed: Logs whose entries in the vector may have changed since then; None for all.
    """

    def __init__(self) -> None:
        """Begin without any."""
        super().__init__()
        self.per_hotkey: Counter[bytes] = Counter()
        self.over: set[LogId] = set()
        self.leaving: dict[LogId, int] | None = None
        self.heads: dict[LogId, Head] = {}
        self.ends: dict[LogId, Ends] = {}
        self.slices = Slices()
        self.changed: set[LogId] | None = None
        self._electorate = pins.EMPTY
        """Whose permits the vector was compared by."""

    def keep(self, state: LogState) -> None:
        """Keep what is known of a log now."""
        self[state.id] = state
        if self.changed is not None:
            self.changed.add(state.id)

    def forget(self, log: LogId) -> None:
        """Hold a log no more."""
        hotkey = self.pop(log).hotkey
        self.over.discard(log)
        self.per_hotkey[hotkey] -= 1
        if not self.per_hotkey[hotkey]:
            del self.per_hotkey[hotkey]
        self.changed = None

    def stands(self, log: LogId) -> bool:
        """Whether a log is not over, nor goes."""
        return log not in self.over and (self.leaving is None or self.leaving.get(log) != 0)

    def of(self, hotkey: bytes) -> list[LogId]:
        """The logs of a hotkey that stand."""
        return [log for log, state in self.items() if state.hotkey == hotkey and self.stands(log)]

    def standing(self) -> list[list[LogId]]:
        """All that stand, those of each hotkey together."""
        found: dict[bytes, list[LogId]] = {}
        for log, state in self.items():
            if self.stands(log):
                found.setdefault(state.hotkey, []).append(log)
        return [*found.values()]

    def counted(self) -> dict[LogId, int]:
        """The last event of each log that counts now."""
        return {log: state.counted.seq for log, state in self.items() if state.counted is not None}

    def have_room(self, log: LogId, hotkey: bytes, named: Container[LogId]) -> bool:
        """Whether one more log of a hotkey is to be stored: it has few, or this one comes before one of them.

        Args:
            log: That one.
            hotkey: Whose it is.
            named: Logs that the cut in force names: these stay.
        """
        held = self.per_hotkey[hotkey]
        if held < LOGS_PER_HOTKEY_MAX:
            return True
        if held >= LOGS_PER_HOTKEY_MAX + DISPLACED_PER_HOTKEY_MAX:
            return False
        return log not in displaced([*self.of(hotkey), log], named, LOGS_PER_HOTKEY_MAX)

    def check_room(self, hotkey: bytes) -> None:
        """Require that peers take one more log of a hotkey.

        Raises:
            WritesRefusedError: It is at its bound.
        """
        if len(self.of(hotkey)) >= LOGS_PER_HOTKEY_MAX:
            raise WritesRefusedError(
                f"this hotkey has {LOGS_PER_HOTKEY_MAX} logs, the most that peers accept",
                retry_after_s=600,
                code=Code.WRITES_LOGS_FULL,
            )

    def has_too_many(self, hotkey: bytes) -> bool:
        """Whether a hotkey has more logs than may count, some of which may be over."""
        return self.per_hotkey[hotkey] > LOGS_PER_HOTKEY_MAX

    def crowded(self) -> set[bytes]:
        """Hotkeys with so many logs that another one may displace one of them, unless the cut in force names it."""
        logs = Counter(state.hotkey for log, state in self.items() if log not in self.over)
        return {hotkey for hotkey, count in logs.items() if count >= LOGS_PER_HOTKEY_MAX}

    def find_over(self, connection: sqlite3.Connection, line: Line) -> None:
        """Learn which logs are over.

        Args:
            connection: The writer's, where their delegations are.
            line: Of the checkpoint in force.
        """
        self.over.clear()
        if line.number:
            query = "SELECT node_key, number, hlc, not_after FROM delegations JOIN logs USING (log) WHERE seq = 0"
            for node_key, number, *ends in connection.execute(query):
                if is_over(log := LogId(node_key, number), ended_ms(*ends), line):
                    self.over.add(log)

    def compare(self, electorate: Electorate) -> None:
        """Bring the version vector in step with what changed; permits are those of this electorate."""
        if electorate is not self._electorate:  # other hotkeys may be permitted
            self._electorate, self.changed = electorate, None
        whole = self.changed is None
        if self.changed is None:
            self.heads, self.ends, self.changed = {}, {}, set(self)
        for log in self.changed:
            state = self[log]
            if electorate.permitted(state.hotkey):
                if state.counted is not None:
                    self.heads[log] = state.counted
                else:
                    self.heads.pop(log, None)
                if state.ends != NO_ENDS:
                    self.ends[log] = state.ends
        if whole:
            self.slices.renew(self.heads, self.ends)
        else:
            self.slices.update(self.heads, self.ends, self.changed)
        self.changed = set()


def crowded_out(logs: Sequence[LogId], named: Container[LogId]) -> set[LogId]:
    """Those of one hotkey's logs by which it has too many.

    Args:
        logs: All of them that stand.
        named: Logs that the cut in force names; of these none is.
    """
    if len(logs) <= LOGS_PER_HOTKEY_MAX:  # almost always; else all their ids are hashed
        return set()
    return set(displaced(logs, named, LOGS_PER_HOTKEY_MAX))


def too_many(hotkey: bytes) -> str:
    """Why nobody must store a log of a hotkey that has too many."""
    return f"the hotkey {ss58_encode(hotkey)} has {LOGS_PER_HOTKEY_MAX} other logs, and no more count"
