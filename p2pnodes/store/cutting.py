"""Taking away what a checkpoint leaves out, part by part, once its cut is in force.

What goes: of the events at or below the cut all that is not in the live set; of those above it what came too late
(``model.checkpoint``). Facts go first, each part with the rows of its GPUs in one transaction, so that rows are never
behind the facts; then the events themselves. It begins anew after a restart, and finds nothing twice; after a
transaction that was undone it goes on (``store.parts``).
"""

import sqlite3
from collections.abc import Iterable
from functools import cache, partial
from typing import Any, Final

from p2pnodes.store import words
from p2pnodes.store.checkpoints import Checkpoints
from p2pnodes.store.facts import Facts, unpack_uuids
from p2pnodes.store.parts import Parts

CLAIMS_PER_PART: Final = 64
"""Claims whose carriages and verdicts are looked at in one transaction."""

ROWS_PER_PART: Final = 256
"""Deletions, places, events or leaves that are looked at in one transaction."""


class Touched:
    """What a part took away something of."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.claims: set[int] = set()
        """Row keys of claims."""
        self.uuids: dict[str, None] = {}
        """GPUs whose claims or deletions changed."""
        self.placed: dict[str, None] = {}
        """GPUs of which a place went."""
        self.events = 0
        """Events that are gone."""


Cursor = tuple[Any, ...]


class Cutting(Parts):
    """Takes away what the checkpoint in force leaves out; call ``advance`` until ``done``."""

    MOVING = ("done", "_at", "_after")

    def __init__(self, connection: sqlite3.Connection, checkpoints: Checkpoints) -> None:
        """Begin.

        Args:
            connection: The writer's.
            checkpoints: With a cut in force.
        """
        self.done = False
        self._connection = connection
        self._checkpoints = checkpoints
        self._facts = Facts(connection)
        self._steps = (
            self._claims,
            self._uncarried,
            self._deletions,
            self._late_words,
            self._placements,
            self._events,
            self._old_sets,
        )
        self._at = 0
        """The step that it is at."""
        self._after: Cursor | None = None
        """The last thing that was looked at in this step."""

    def advance(self) -> Touched:
        """Do the next part; call inside a transaction of the writer's."""
        touched = Touched()
        self._after = self._steps[self._at](self._after, touched)
        if self._after is None:
            self._at += 1
            self.done = self._at == len(self._steps)
        return touched

    # -- steps: each does a part, and returns where to go on, or None at its end -------------------------------------

    def _claims(self, after: Cursor | None, touched: Touched) -> Cursor | None:
        keys = self._connection.execute(
            "SELECT claim, nonce, uuids FROM claim WHERE claim > ? ORDER BY claim LIMIT ?",
            (*(after or (0,)), CLAIMS_PER_PART),
        ).fetchall()
        for key, nonce, uuids in keys:
            self._cut_claim(key, nonce, uuids, touched)
        return (keys[-1][0],) if keys else None

    def _cut_claim(self, key: int, nonce: int | None, uuids: bytes | None, touched: Touched) -> None:
        execute, checkpoints = self._connection.execute, self._checkpoints
        words = execute("SELECT log, seq, hlc FROM verdict WHERE claim = ?", (key,)).fetchall()
        gone = [(key, log) for log, seq, hlc in words if not checkpoints.keeps_word(log, seq, 0, hlc)]
        if gone:  # they have lapsed, but not where the electorate here is an old one
            self._connection.executemany("DELETE FROM verdict WHERE claim = ? AND log = ?", gone)
            touched.claims.add(key)
        carriages = execute("SELECT log, seq, item FROM carriage WHERE claim = ?", (key,)).fetchall()
        held = partial(checkpoints.any_lives, carriages)
        dead = [
            (key, log, seq, item)
            for log, seq, item in carriages
            if not checkpoints.keeps_request(log, seq, item, nonce or 0, held)
        ]
        if dead:
            self._connection.executemany(
                "DELETE FROM carriage WHERE claim = ? AND log = ? AND seq = ? AND item = ?", dead
            )
            touched.claims.add(key)
            touched.uuids |= dict.fromkeys(_named(uuids))
        if dead and len(dead) < len(carriages):
            _point(self._connection, key)

    def _uncarried(self, after: Cursor | None, _: Touched) -> Cursor | None:
        """Forget the claims that no event carries any more: not before their rows are gone, which name them."""
        (low,) = after or (0,)
        (high,) = self._connection.execute(
            "SELECT max(claim) FROM (SELECT claim FROM claim WHERE claim > ? ORDER BY claim LIMIT ?)",
            (low, ROWS_PER_PART),
        ).fetchone()
        if high is None:
            return None
        keys = self._connection.execute(
            "SELECT claim FROM claim WHERE claim > ? AND claim <= ?"
            " AND NOT EXISTS (SELECT 1 FROM carriage WHERE carriage.claim = claim.claim)",
            (low, high),
        ).fetchall()
        for (key,) in keys:
            _forget(self._connection, key)
        return (high,)

    def _deletions(self, after: Cursor | None, touched: Touched) -> Cursor | None:
        rows = self._connection.execute(
            "SELECT uuid, request_id, log, seq, item, nonce, bound FROM deletion"
            " WHERE (uuid, request_id, log, seq, item) > (?, ?, ?, ?, ?)"
            " ORDER BY uuid, request_id, log, seq, item LIMIT ?",
            (*(after or ("", b"", 0, 0, 0)), ROWS_PER_PART),
        ).fetchall()
        holds = cache(self._checkpoints.holds_deletion)  # a log may say one request a hundred thousand times
        named = cache(self._facts.named_by)
        for uuid, request, log, seq, item, nonce, bound in rows:
            if not self._checkpoints.keeps_request(log, seq, item, nonce, partial(holds, request)):
                if not bound:  # what it named elsewhere may count from now on
                    touched.uuids |= dict.fromkeys(named(request))
                self._connection.execute(
                    "DELETE FROM deletion WHERE uuid = ? AND request_id = ? AND log = ? AND seq = ? AND item = ?",
                    (uuid, request, log, seq, item),
                )
                touched.uuids[uuid] = None
        return tuple(rows[-1][:5]) if rows else None

    def _late_words(self, after: Cursor | None, touched: Touched) -> Cursor | None:
        """Let places that are kept be the last words again where later ones, above the cut, came too late."""
        log, seq = after or (0, -1)
        if self._has_late_words(log):
            kept = list(self._checkpoints.kept_places(log, seq, ROWS_PER_PART))
            for each in kept:
                back = [uuid for uuid in each.uuids if not self._is_said(log, uuid, each.word.claim_id)]
                words.say_kept(self._connection, log, each, back)
                touched.placed |= dict.fromkeys(back)
            if kept:
                return log, kept[-1].seq
        following = min((key for key in self._checkpoints.cuts if key > log), default=None)
        return None if following is None else (following, -1)

    def _has_late_words(self, log: int) -> bool:
        """Whether an event above the cut of a log is older than the horizon: HLCs of valid events rise along a log."""
        row = self._connection.execute(
            "SELECT hlc FROM events WHERE log = ? AND seq > ? AND judged AND void IS NULL ORDER BY seq LIMIT 1",
            (log, self._checkpoints.cuts.get(log, -1)),
        ).fetchone()
        return row is not None and row[0] < self._checkpoints.line.horizon_hlc

    def _is_said(self, log: int, uuid: str, claim_id: bytes) -> bool:
        """Whether a log's last word on a GPU is one that counts."""
        row = self._connection.execute(
            "SELECT seq, hlc FROM placement WHERE uuid = ? AND claim_id = ? AND log = ?", (uuid, claim_id, log)
        ).fetchone()
        return row is not None and (
            self._checkpoints.below(log, row[0]) or row[1] >= self._checkpoints.line.horizon_hlc
        )

    def _placements(self, after: Cursor | None, touched: Touched) -> Cursor | None:
        rows = self._connection.execute(
            "SELECT p.claim_id, p.uuid, p.log, p.seq, p.hlc, e.wire FROM placement p JOIN events e USING (log, seq)"
            " WHERE (p.claim_id, p.uuid, p.log) > (?, ?, ?) ORDER BY p.claim_id, p.uuid, p.log LIMIT ?",
            (*(after or (b"", "", 0)), ROWS_PER_PART),
        ).fetchall()
        for claim_id, uuid, log, seq, hlc, wire in rows:
            item = words.item_of(wire, uuid) if self._checkpoints.below(log, seq) else 0
            if not self._checkpoints.keeps_word(log, seq, item, hlc):
                self._connection.execute(
                    "DELETE FROM placement WHERE uuid = ? AND claim_id = ? AND log = ?", (uuid, claim_id, log)
                )
                touched.placed[uuid] = None
        return tuple(rows[-1][:3]) if rows else None

    def _events(self, after: Cursor | None, touched: Touched) -> Cursor | None:
        log, seq = after or (0, -1)
        last = self._checkpoints.cuts.get(log, -1)
        if seq < 0:  # of whatever number: their events go
            for table in ("proposal", "signature"):
                self._connection.execute(f"DELETE FROM {table} WHERE log = ? AND seq <= ?", (log, last))  # noqa: S608 - from the line above
        rows = self._connection.execute(
            "SELECT e.seq, e.position, l.mask, e.kind FROM events e LEFT JOIN live l"
            " ON l.number = ? AND l.log = e.log AND l.seq = e.seq"
            " WHERE e.log = ? AND e.seq > ? AND e.seq <= ? ORDER BY e.seq LIMIT ?",
            (self._checkpoints.line.number, log, seq, last, ROWS_PER_PART),
        ).fetchall()
        dead = [(position,) for _, position, mask, _ in rows if mask is None]
        self._connection.executemany("DELETE FROM events WHERE position = ?", dead)
        replaced = [(log, at) for at, _, mask, kind in rows if mask is None and kind == "delegate"]
        self._connection.executemany("DELETE FROM delegations WHERE log = ? AND seq = ?", replaced)
        touched.events = len(dead)
        if rows:
            return log, rows[-1][0]
        following = min((key for key in self._checkpoints.cuts if key > log), default=None)
        return None if following is None else (following, -1)

    def _old_sets(self, _: Cursor | None, __: Touched) -> Cursor | None:
        """Forget live sets, proposals and signatures of checkpoints before."""
        number = self._checkpoints.line.number
        gone = self._connection.execute(
            "DELETE FROM live WHERE (number, log, seq) IN (SELECT number, log, seq FROM live WHERE number < ? LIMIT ?)",
            (number, ROWS_PER_PART),
        ).rowcount
        if gone:
            return ()
        for table in ("live_slice", "proposal", "signature"):
            self._connection.execute(f"DELETE FROM {table} WHERE number < ?", (number,))  # noqa: S608 - from the line above
        return None


def read_elsewhere(connection: sqlite3.Connection, claim_ids: Iterable[bytes]) -> None:
    """Have claims read from other events than one that is gone; forget those that no event carries any more.

    Rows must follow: one may still name a claim that is forgotten.

    Args:
        connection: The writer's.
        claim_ids: What the event carried.
    """
    for claim_id in claim_ids:
        row = connection.execute("SELECT claim FROM claim WHERE claim_id = ?", (claim_id,)).fetchone()
        if row is not None and not _point(connection, row[0]):
            _forget(connection, row[0])


def _point(connection: sqlite3.Connection, key: int) -> bool:
    """Let a claim's body be read from an event that stays; whether there is one."""
    ((position,),) = connection.execute(
        "UPDATE claim SET position = (SELECT position FROM carriage JOIN events USING (log, seq)"
        " WHERE carriage.claim = claim.claim LIMIT 1) WHERE claim = ? RETURNING position",
        (key,),
    ).fetchall()
    return position is not None


def _forget(connection: sqlite3.Connection, key: int) -> None:
    """Forget a claim that no event carries; one that verdicts name is as if they had come before it."""
    uuids, voted = connection.execute(
        "SELECT uuids, EXISTS (SELECT 1 FROM verdict WHERE verdict.claim = claim.claim) FROM claim WHERE claim = ?",
        (key,),
    ).fetchone()
    connection.executemany(
        "DELETE FROM claim_gpu WHERE uuid = ? AND claim = ?", [(uuid, key) for uuid in _named(uuids)]
    )
    connection.execute(
        "UPDATE claim SET miner = NULL, nonce = NULL, position = NULL, uuids = NULL WHERE claim = ?"
        if voted
        else "DELETE FROM claim WHERE claim = ?",
        (key,),
    )


def _named(uuids: bytes | None) -> list[str]:
    """The GPUs of a claim, as the database has them; none while only verdicts name it."""
    return [] if uuids is None else list(unpack_uuids(uuids))
