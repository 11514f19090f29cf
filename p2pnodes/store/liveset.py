"""Finding the live set below a line: what of the events at or below a cut today's rows still need.

It is found in parts, each in the writer's transaction, while the daemon goes on: what lies below the cut of a proposal
does not change any more. What is found is recorded under the checkpoint's number and counts for nothing before a
certificate says the same.

What is in it, of the events at or below the cut:

- of each log the first valid delegation, which says since when its author is known, and the last one, by which what
  follows is judged; and those under which what is kept was written, for proofs;
- of each claim that stands on a GPU, what decides of each author's events that carry it (``needed_carriages``). It
  stands under E_c, or would if every author in the cut had a permit: who has lost his may have been replaced by a
  carrier whose event lies above the cut;
- of each deletion with a nonce at or above the floor, and of each that ends such a claim on another of its GPUs, in
  either reading, what decides of each author's events that carry it (``needed_deletions``), also for other GPUs: an
  unbound one counts for a single GPU only;
- on each GPU on which such a claim stands, the last word of each author about it, where that is a place; and the same
  of each claim that does not count by what lies at or below the cut, where the place is not too old for one that still
  may (``awaited_hlc``): its author may have forked or lost its permit, and what carries it since lies above the cut.

No verdict is: all of them have lapsed, because the horizon is no shorter than a verdict lives.

Nor is an event of a kind or version above that of the proposal, of which there is one so far: else builds would not
find the same, and anybody could keep all others from agreeing. An upgrade has the time of a horizon.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Final

from p2pnodes.model import inventory
from p2pnodes.model.checkpoint import (
    Leaf,
    Line,
    Slicer,
    awaited_hlc,
    believing,
    by_age,
    ending_requests,
    needed_carriages,
    needed_deletions,
)
from p2pnodes.model.events import Checkpoint, LogId, Place, Release
from p2pnodes.model.inventory import Carriage, Chute, DeleteCarriage, Placement
from p2pnodes.model.validity import contents
from p2pnodes.store.checkpoints import Checkpoints, plain_mask, signed_mask
from p2pnodes.store.damage import stored_event
from p2pnodes.store.facts import Facts, unpack_ids
from p2pnodes.store.parts import Parts

CLAIMS_PER_PART: Final = 64
"""Claims, each of up to 10 GPUs, that are decided at once."""

ROWS_PER_PART: Final = 256
"""Deletions or leaves that are looked at at once: some milliseconds, for which writes wait."""

WORDS_PER_PART: Final = 2_048
"""Last words of the search before that are forgotten at once: some 10 ms."""

_MARK: Final = (
    "INSERT INTO live VALUES (?, ?, ?, ?) ON CONFLICT (number, log, seq) DO UPDATE SET mask = mask | excluded.mask"
)

Item = tuple[int, int, int]
"""Row key of a log, seq, item."""


class LiveSet(Parts):
    """Finds one live set; call ``advance`` until ``statement`` is there."""

    MOVING = ("statement", "_at", "_after", "_slicer")

    def __init__(self, connection: sqlite3.Connection, checkpoints: Checkpoints, line: Line) -> None:
        """Begin.

        Args:
            connection: The writer's; events at or below the cut must all be there and judged.
            checkpoints: What is in force; no cut may be under way.
            line: Of the proposal.
        """
        assert line.electorate is not None
        self.line = line
        self.statement: Checkpoint | None = None
        """What was found, when it is found."""
        self._connection = connection
        self._checkpoints = checkpoints
        # Mostly the two are one: nobody has lost a permit.
        self._readings = (line.electorate, believing(line))
        self._facts = Facts(connection)
        self._steps = (
            self._clear,
            self._words,
            self._claims,
            self._awaited,
            self._deletions,
            self._delegations,
            self._leaves,
        )
        self._at = 0
        """The step that it is at."""
        self._after: tuple[Any, ...] = ()
        """The last thing that was looked at in this step."""
        self._slicer = Slicer()
        self._ordered: list[tuple[LogId, int, int]] = []
        self._ages: dict[int, tuple[int, LogId]] = {}
        """Row keys of the logs in the cut, by which the youngest comes first; what is below it changes no more."""

    def advance(self) -> None:
        """Do the next part; call inside a transaction of the writer's."""
        self._renew_cuts()
        after = self._steps[self._at]()
        if after is not None:
            self._after = after
            return
        self._after = ()
        self._at += 1
        if self._at < len(self._steps):
            return
        full = len(self._slicer.digests)
        tree = self._slicer.tree()
        self._keep_hashes(full)
        self.statement = Checkpoint(self.line.number, self.line.proposal, self._slicer.leaves, len(tree), tree.root)

    def back(self, facts: Facts) -> None:
        """Be again as far as was noted, see ``Parts``."""
        super().back(facts)
        self._facts, self._ages = Facts(self._connection), {}

    def _renew_cuts(self) -> None:
        """Let facts end where the cut does, also in logs that came meanwhile."""
        logs = self._connection.execute("SELECT log, node_key, number FROM logs").fetchall()
        cuts = {log: self.line.logs.get(LogId(*rest)) for log, *rest in logs}
        self._facts.cuts = {log: 0 if cut is None else cut.head.seq + 1 for log, cut in cuts.items()}
        self._ordered = sorted((cut.log, log, cut.head.seq) for log, cut in cuts.items() if cut is not None)
        for name, log, _ in self._ordered:
            if log not in self._ages:
                self._ages[log] = by_age(self._facts.began(log), name)

    def _mark(self, items: Iterable[Item]) -> None:
        number = self.line.number
        self._connection.executemany(_MARK, [(number, log, seq, signed_mask(1 << item)) for log, seq, item in items])

    # -- steps: each does a part, and returns where to go on, or None at its end -------------------------------------

    def _clear(self) -> tuple[Any, ...] | None:
        """Forget what was found of another proposal, or before a restart."""
        number = self.line.number
        self._connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS last_word (uuid TEXT, claim_id BLOB, log INTEGER, seq INTEGER,"
            " PRIMARY KEY (claim_id, uuid, log)) WITHOUT ROWID"
        )
        self._connection.execute("DELETE FROM live_slice WHERE number = ?", (number,))
        gone = self._connection.execute(
            "DELETE FROM live WHERE (number, log, seq) IN (SELECT number, log, seq FROM live WHERE number = ? LIMIT ?)",
            (number, ROWS_PER_PART),
        ).rowcount
        gone += self._connection.execute(
            "DELETE FROM last_word WHERE (claim_id, uuid, log) IN (SELECT claim_id, uuid, log FROM last_word LIMIT ?)",
            (WORDS_PER_PART,),
        ).rowcount
        return () if gone else None

    def _words(self) -> tuple[Any, ...] | None:
        """Learn each log's last word on each GPU: of what the checkpoint in force keeps, and what counts behind that.

        They are read in order, once each: to go back from the latest would cost as many steps as a log has words.
        """
        at, after = self._after or (0, -1)
        if at == len(self._ordered):
            return None
        _, log, last = self._ordered[at]
        rows = self._connection.execute(
            "SELECT seq, hlc, CASE WHEN kind IN ('place', 'release') AND judged AND void IS NULL THEN wire END"
            " FROM events WHERE log = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (log, after, last, ROWS_PER_PART),
        ).fetchall()
        for seq, hlc, wire in rows:
            if wire is None:
                continue
            word = _word(wire)
            self._connection.executemany(
                "INSERT OR REPLACE INTO last_word VALUES (?, ?, ?, ?)",
                [
                    (uuid, word.claim_id, log, seq)
                    for item, uuid in enumerate(word.uuids)
                    if self._checkpoints.keeps_word(log, seq, item, hlc)
                ],
            )
        return (at, rows[-1][0]) if rows else (at + 1, -1)

    def _claims(self) -> tuple[Any, ...] | None:
        (after,) = self._after or (0,)
        keys = [
            key
            for (key,) in self._connection.execute(
                "SELECT claim FROM claim WHERE claim > ? AND miner NOTNULL ORDER BY claim LIMIT ?",
                (after, CLAIMS_PER_PART),
            )
        ]
        if not keys:
            return None
        named = {uuid for _, _, uuids in self._facts.held_tallies(keys) for uuid in uuids}
        on, deletions = self._facts.claims_on(named), self._facts.deletions(named)
        part = set(keys)
        kept: set[int] = set()
        standing: dict[str, set[bytes]] = {uuid: set() for uuid in named}
        for uuid, electorate in product(named, self._readings):
            ids = {claim.id for claim in inventory.standing(uuid, on[uuid].values(), deletions[uuid], electorate)}
            kept.update(key for key, claim in on[uuid].items() if key in part and claim.id in ids)
            standing[uuid] |= ids
        requests: set[bytes] = set()
        for uuid, electorate in product(named, self._readings):
            own = [claim for key, claim in on[uuid].items() if key in kept]
            requests |= ending_requests(uuid, own, deletions[uuid], electorate)
        self._keep_carriages(kept)
        self._keep_requests(requests)
        self._keep_words(
            {
                uuid: [claim.id for key, claim in on[uuid].items() if key in kept and claim.id in ids]
                for uuid, ids in standing.items()
            }
        )
        self._connection.executemany(  # the words that are left are about claims that do not count
            "DELETE FROM last_word WHERE claim_id = ? AND uuid = ?",
            [
                (claim.id, uuid)
                for uuid in named
                for key, claim in on[uuid].items()
                if key in part and any(inventory.counts(claim, electorate) for electorate in self._readings)
            ],
        )
        return (keys[-1],)

    def _awaited(self) -> tuple[Any, ...] | None:
        """Keep the last places under claims that do not count by what lies below the cut, but may by what lies above.

        Whether such a claim is held here is not asked: not all would say the same.
        """
        rows = self._connection.execute(
            "SELECT claim_id, uuid FROM last_word WHERE (claim_id, uuid) > (?, ?) GROUP BY claim_id, uuid"
            " ORDER BY claim_id, uuid LIMIT ?",
            (*(self._after or (b"", "")), ROWS_PER_PART),
        ).fetchall()
        claims: dict[str, list[bytes]] = {}
        for claim_id, uuid in rows:
            claims.setdefault(uuid, []).append(claim_id)
        self._keep_words(claims, awaited_hlc(self.line))
        return rows[-1] if rows else None

    def _keep_carriages(self, keys: Iterable[int]) -> None:
        assert self.line.electorate is not None
        query = "SELECT log, seq, item, electorate_block, hlc FROM carriage WHERE claim = ?"
        for key in keys:
            said = [
                ((log, seq, item), Carriage(self._facts.author(log), block, hlc))
                for log, seq, item, block, hlc in self._connection.execute(query, (key,))
                if not self._facts.is_void(log, seq)
            ]
            said.sort(key=lambda each: self._order(each[0]))
            self._mark(needed_carriages(said, self.line.electorate.block))

    def _order(self, item: Item) -> tuple[tuple[int, LogId], int, int]:
        """The order in which of what says the same the first is kept: the same everywhere."""
        log, seq, place = item
        return self._ages[log], seq, place

    def _keep_requests(self, requests: Iterable[bytes]) -> None:
        query = "SELECT log, seq, item, uuid, claim_ids FROM deletion WHERE request_id = ?"
        for request in requests:
            by_author: dict[bytes, list[tuple[Item, DeleteCarriage]]] = {}
            for log, seq, item, uuid, ids in self._connection.execute(query, (request,)).fetchall():
                if not self._facts.is_void(log, seq):
                    carriage = DeleteCarriage(self._facts.author(log), uuid, unpack_ids(ids))
                    by_author.setdefault(carriage.author, []).append(((log, seq, item), carriage))
            for said in by_author.values():
                self._mark(needed_deletions(sorted(said, key=lambda each: self._order(each[0]))))

    def _keep_words(self, claims: Mapping[str, Iterable[bytes]], since_hlc: int = 0) -> None:
        """Keep the last places on some GPUs under some claims, where they are not older than ``since_hlc``."""
        query = (  # in an order that is the same everywhere: two logs of one author may say the same at one HLC
            "SELECT log, seq, hlc, wire FROM last_word JOIN logs USING (log) JOIN events USING (log, seq)"
            " WHERE uuid = ? AND claim_id = ? ORDER BY node_key, logs.number"
        )
        for uuid, claim_ids in claims.items():
            for claim_id in claim_ids:
                said: dict[Placement, Item] = {}
                for log, seq, hlc, wire in self._connection.execute(query, (uuid, claim_id)).fetchall():
                    word = _word(wire)
                    chute = Chute(*word[2:]) if isinstance(word, Place) else None
                    placement = Placement(self._facts.author(log), hlc, claim_id, chute)
                    said.setdefault(placement, (log, seq, word.uuids.index(uuid)))
                last = inventory.last_words(said).values()
                self._mark([said[word] for word in last if word.chute is not None and word.hlc >= since_hlc])

    def _deletions(self) -> tuple[Any, ...] | None:
        """Keep the deletions that are not below the floor; each comes once for each GPU, and is looked at whole."""
        rows = self._connection.execute(
            "SELECT uuid, request_id, nonce FROM deletion WHERE (uuid, request_id) > (?, ?)"
            " ORDER BY uuid, request_id LIMIT ?",
            (*(self._after or ("", b"")), ROWS_PER_PART),
        ).fetchall()
        self._keep_requests({request for _, request, nonce in rows if nonce >= self.line.floor_s})
        return tuple(rows[-1][:2]) if rows else None

    def _delegations(self) -> tuple[Any, ...] | None:
        """Keep the delegations that f, or a proof of something that is kept, can ask for; these are known by now."""
        at, after = self._after or (0, -1)
        if at == len(self._ordered):
            return None
        _, log, last = self._ordered[at]
        rows = self._connection.execute(
            "SELECT seq, (SELECT max(seq) FROM delegations d WHERE d.log = live.log AND d.seq < live.seq) FROM live"
            " WHERE number = ? AND log = ? AND seq > ? ORDER BY seq LIMIT ?",
            (self.line.number, log, after, ROWS_PER_PART),
        ).fetchall()
        if rows:
            self._mark({(log, before, 0) for _, before in rows})
            return at, rows[-1][0]
        ends = self._connection.execute(  # not before: they were taken for something that is kept
            "SELECT min(seq), max(seq) FROM delegations WHERE log = ? AND seq <= ?", (log, last)
        ).fetchone()
        self._mark((log, seq, 0) for seq in ends if seq is not None)
        return at + 1, -1

    def _leaves(self) -> tuple[Any, ...] | None:
        """Hash what was kept, in order."""
        at, after = self._after or (0, -1)
        if at == len(self._ordered):
            return None
        log_id, log, _ = self._ordered[at]
        full = len(self._slicer.digests)
        rows = self._connection.execute(
            "SELECT seq, id, mask, length(wire) FROM live JOIN events USING (log, seq)"
            " WHERE live.number = ? AND log = ? AND seq > ? ORDER BY seq LIMIT ?",
            (self.line.number, log, after, ROWS_PER_PART),
        ).fetchall()
        for seq, event_id, mask, size_bytes in rows:
            place = len(self._slicer.digests)
            if self._slicer.add(Leaf(log_id, seq, event_id, plain_mask(mask)), size_bytes):
                self._connection.execute(
                    "INSERT INTO live_slice VALUES (?, ?, ?, ?, x'')", (self.line.number, place, log, seq)
                )
        self._keep_hashes(full)
        return (at, rows[-1][0]) if rows else (at + 1, -1)

    def _keep_hashes(self, first: int) -> None:
        """Record the hashes of the slices that are full, from one on."""
        digests = self._slicer.digests
        self._connection.executemany(
            "UPDATE live_slice SET hash = ? WHERE number = ? AND slice = ?",
            [(digests[place], self.line.number, place) for place in range(first, len(digests))],
        )


def _word(wire: bytes) -> Place | Release:
    word = contents(stored_event(wire)).payload
    assert isinstance(word, Place | Release)
    return word
