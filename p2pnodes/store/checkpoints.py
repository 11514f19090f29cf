"""Checkpoints in the database: proposals and signatures as events state them, certificates, and what is in force.

A certificate is primary data: the events that it was made of go with the next checkpoint. Its *stage* says how far this
daemon is with it: ``known``; ``loading``, while its live set comes from peers; ``cutting``, in force, while the rest
goes; ``done``.
"""

import heapq
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.checkpoint import (
    ITEMS_MAX,
    MASK_MAX,
    NO_LINE,
    SIGNERS_MAX,
    SLICE_LEAVES_MAX,
    Certificate,
    Certified,
    Leaf,
    Line,
    Signature,
    Slicer,
    Tree,
    check,
    line_of,
    proves,
    slice_digest,
    stakes_of,
    suffices,
)
from p2pnodes.model.codec import INT_MAX, MalformedError
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Checkpoint, CutLog, Event, LogId, Place, Propose
from p2pnodes.model.network import Network
from p2pnodes.store.damage import DamagedEventError, damaged, reading, stored_event

CERTIFICATES_KEPT: Final = 8
"""Certificates that are kept, the latest: to tell what was in force, not for anybody who joins."""

ELECTORATES_KEPT: Final = 16
"""Electorates that were in force here lately: under these a proposal may be signed, and these a certificate may name:
some five hours by default."""

STATEMENTS_MAX: Final = 8
"""Proposals, and signatures, of one number and log that are recorded: honest validators write one. All signatures of a
proposal are read whenever one more comes, and all proposals of a number at every step of the clerk."""

SHARE_LOOKED_AT: Final = 3
"""Signatures are looked at once a third of the stake of today has signed: with less there is nothing to find, and
whoever has less cannot make others read proposals."""

PROPOSALS_KEPT: Final = 4
"""Lines of proposals that are kept read, some 500 KiB each at most."""

_SIGN_BIT: Final = 1 << 63


class Stage(StrEnum):
    """How far this daemon is with a certificate."""

    KNOWN = "known"
    LOADING = "loading"
    CUTTING = "cutting"
    DONE = "done"


IN_FORCE: Final = frozenset({Stage.LOADING, Stage.CUTTING, Stage.DONE})
"""Stages from which on the cut holds; nobody is answered while it is ``loading``."""


class Kept(NamedTuple):
    """A place that a live set keeps, of some of the GPUs that it names."""

    seq: int
    hlc: int
    word: Place
    uuids: Sequence[str]


class Checkpoints:
    """What one connection's database holds of checkpoints."""

    def __init__(self, connection: sqlite3.Connection, network: Network) -> None:
        """Read what is held.

        Args:
            connection: The writer's.
            network: Whose certificates they are.
        """
        self._connection = connection
        self._network = network
        self._lines: dict[bytes, Line | None] = {}
        self._slices: set[int] | None = None
        """Those of ``slices_held``, once somebody has asked."""
        self._known: dict[int, Certified] = {}
        """What certificates say that are not in force yet, by number, in ascending order."""
        self._electorate: Electorate | None = None
        self.lately: deque[bytes] = deque(maxlen=ELECTORATES_KEPT)
        """Digests of the electorates that were in force here since the start, the latest last."""
        self.vouched: bytes | None = None
        """Id of a checkpoint that the operator knows from others."""
        self._kept: dict[tuple[int, int], int] = {}
        """Masks of the leaves that were recorded last, by log and seq: what they say is asked for next."""
        self.line = NO_LINE
        """The cut in force."""
        self.stage = Stage.DONE
        """How far this daemon is with the certificate in force."""
        self.current: Certified | None = None
        """What the certificate in force says."""
        self.cuts: dict[int, int] = {}
        """Row key of a log -> the last seq at or below the cut in force."""
        self.load()

    def load(self) -> None:
        """Read again, after a transaction that was undone."""
        self.line, self.stage, self.current = NO_LINE, Stage.DONE, None
        self._known.clear()
        self._lines.clear()
        self._slices = None
        self._kept = {}
        for number, stage, wire in self._connection.execute(
            "SELECT number, stage, wire FROM certificate ORDER BY number"
        ).fetchall():
            said = certified(self._network, wire)
            if stage in IN_FORCE:
                self.line, self.stage, self.current = said.line, Stage(stage), said
                self._known.clear()
            else:
                self._known[number] = said
        self._note_logs()

    def _note_logs(self) -> None:
        """Learn the row keys of all logs."""
        self.cuts = {}
        for key, node_key, number in self._connection.execute("SELECT log, node_key, number FROM logs"):
            self.note_log(key, LogId(node_key, number))

    def note_log(self, key: int, log: LogId) -> None:
        """Learn the row key of a log."""
        if (cut := self.line.logs.get(log)) is not None:
            self.cuts[key] = cut.head.seq

    def below(self, log: int, seq: int) -> bool:
        """Whether an event, of a log by its row key, lies at or below the cut in force."""
        return seq <= self.cuts.get(log, -1)

    def lives(self, log: int, seq: int, item: int) -> bool:
        """Whether an item of an event at or below the cut in force is in its live set."""
        kept = self._kept.get((log, seq))
        if kept is None:
            row = self._connection.execute(
                "SELECT mask FROM live WHERE number = ? AND log = ? AND seq = ?", (self.line.number, log, seq)
            ).fetchone()
            kept = 0 if row is None else row[0]
        return bool(kept >> item & 1)

    def is_kept(self, log: int, seq: int) -> bool:
        """Whether the live set in force holds something of an event."""
        query = "SELECT 1 FROM live WHERE number = ? AND log = ? AND seq = ?"
        return self._connection.execute(query, (self.line.number, log, seq)).fetchone() is not None

    def keeps_of(self, log: int) -> bool:
        """Whether the live set in force holds anything of a log but its delegations."""
        query = (
            "SELECT 1 FROM live JOIN events USING (log, seq) WHERE live.number = ? AND log = ? AND kind <> 'delegate'"
            " LIMIT 1"
        )
        return self._connection.execute(query, (self.line.number, log)).fetchone() is not None

    def weigh(self, electorate: Electorate) -> None:
        """Learn which electorate is in force: certificates are trusted by it."""
        self._electorate = electorate
        if electorate.digest not in self.lately:
            self.lately.append(electorate.digest)

    def trusts(self, said: Certified) -> bool:
        """Whether a certificate is to be believed here.

        What it says of the stakes in E_c is its author's word. Either that electorate was in force here, or its signers
        have a quorum of the one that is, or the operator knows the checkpoint from others.
        """
        if said.line.proposal == self.vouched:
            return True
        if said.line.electorate is not None and said.line.electorate.digest in self.lately:
            return True
        return self._electorate is not None and said.trusted(self._electorate, self._network.quorum_ppm)

    @property
    def loading(self) -> Checkpoint | None:
        """What certificate's live set comes from peers just now; None for none."""
        return self.current.statement if self.current is not None and self.stage is Stage.LOADING else None

    @property
    def highest(self) -> int:
        """The highest number of which a certificate is held; 0 for none."""
        return max(self._known, default=self.line.number)

    @property
    def loaded(self) -> bool:
        """Whether all of that live set is here, but the rows do not follow from it yet."""
        loading = self.loading
        return loading is not None and len(self.slices_held()) == loading.slices

    @property
    def lacks_slices(self) -> bool:
        """Whether slices of it are to come: behind the last one nothing else is left of its delegations."""
        return self.loading is not None and not self.loaded

    @property
    def pending(self) -> Certified | None:
        """The certificate that comes next: the highest that follows the one in force, else the highest; None for none.

        What is kept of an event depends on what was kept before. So checkpoints are put in force one after the other,
        also where several have come at once. From another one than its signers came from, the same need not be found.
        """
        following = [said for said in self._known.values() if self.follows(said)]
        return max(following, key=lambda said: said.line.number, default=self.newest)

    @property
    def newest(self) -> Certified | None:
        """The certificate with the highest number of those that are not in force; None for none."""
        return self._known[self.highest] if self._known else None

    def follows(self, said: Certified) -> bool:
        """Whether a certificate follows the one in force."""
        return said.previous == self.line.proposal

    def holds_claim(self, claim_id: bytes) -> bool:
        """Whether the live set in force holds a registration."""
        query = "SELECT log, seq, item FROM claim JOIN carriage USING (claim) WHERE claim_id = ?"
        return bool(self.cuts) and self.any_lives(self._connection.execute(query, (claim_id,)).fetchall())

    def holds_deletion(self, request_id: bytes) -> bool:
        """Whether the live set in force holds a delete request."""
        query = "SELECT log, seq, item FROM deletion WHERE request_id = ?"
        return bool(self.cuts) and self.any_lives(self._connection.execute(query, (request_id,)).fetchall())

    def any_lives(self, items: Iterable[tuple[int, int, int]]) -> bool:
        """Whether the live set in force holds one of these: (row key of a log, seq, item)."""
        return any(self.below(log, seq) and self.lives(log, seq, item) for log, seq, item in items)

    def keeps_word(self, log: int, seq: int, item: int, hlc: int) -> bool:
        """Whether a word counts as far as the checkpoint in force goes."""
        return self.lives(log, seq, item) if self.below(log, seq) else hlc >= self.line.horizon_hlc

    def kept_places(self, log: int, after: int = -1, limit: int = -1) -> Iterator[Kept]:
        """What the live set in force keeps of the places in a log, above a seq, in order; at most so many."""
        rows = self._connection.execute(
            "SELECT seq, hlc, mask, wire FROM live JOIN events USING (log, seq) WHERE live.number = ? AND log = ?"
            " AND seq > ? AND kind = 'place' ORDER BY seq LIMIT ?",
            (self.line.number, log, after, limit),
        ).fetchall()
        for seq, hlc, mask, wire in rows:
            word = Place.from_wire(codec.unpack(stored_event(wire).payload))
            yield Kept(seq, hlc, word, [uuid for item, uuid in enumerate(word.uuids) if mask >> item & 1])

    def keeps_request(self, log: int, seq: int, item: int, nonce: int, held: Callable[[], bool]) -> bool:
        """Whether an event that carries a request counts for it as far as the checkpoint in force goes.

        Args:
            log: Row key of its log.
            seq: Its seq.
            item: Of the request.
            nonce: Of the request, Unix seconds.
            held: Whether the live set holds the request, in whatever event; asked for where that matters.
        """
        return self.lives(log, seq, item) if self.below(log, seq) else nonce >= self.line.floor_s or held()

    # -- what events state -------------------------------------------------------------------------------------------

    def proposed(self, event: Event, log: int, payload: Propose) -> None:
        """Record a valid ``propose``; of one number a log has STATEMENTS_MAX at most."""
        query = "SELECT count(*) FROM proposal WHERE number = ? AND log = ?"
        if self._connection.execute(query, (payload.number, log)).fetchone()[0] >= STATEMENTS_MAX:
            return
        self._connection.execute(
            "INSERT OR IGNORE INTO proposal VALUES (?, ?, ?, ?)", (event.id, payload.number, log, event.seq)
        )
        self._certify(payload.number, event.id)

    def signed(self, event: Event, log: int, payload: Checkpoint) -> None:
        """Record a valid ``checkpoint``; of one number a log has STATEMENTS_MAX at most."""
        query = "SELECT count(*) FROM signature WHERE number = ? AND log = ?"
        if self._connection.execute(query, (payload.number, log)).fetchone()[0] >= STATEMENTS_MAX:
            return
        self._connection.execute(
            "INSERT OR IGNORE INTO signature VALUES (?, ?, ?, ?, ?, ?, ?)",
            (payload.number, payload.proposal, log, event.seq, *payload[2:]),
        )
        self._certify(payload.number, payload.proposal)

    def first_proposals(self, number: int) -> dict[bytes, bytes]:
        """The first proposal of a number of each validator's, by hotkey: what else it proposes nobody looks at."""
        query = (
            "SELECT hotkey, id FROM proposal JOIN logs USING (log) WHERE proposal.number = ?"
            " ORDER BY log DESC, seq DESC"
        )
        return dict(self._connection.execute(query, (number,)))

    def line_of(self, proposal: bytes) -> Line | None:
        """The line that a proposal draws; None where it is not held, or draws none."""
        if proposal not in self._lines and (event := self._proposal(proposal)) is not None:
            self._lines[proposal] = self._read_line(event)
            if len(self._lines) > PROPOSALS_KEPT:
                del self._lines[next(iter(self._lines))]
        return self._lines.get(proposal)

    def proposed_by(self, proposal: bytes) -> Propose | None:
        """What a proposal says; None where it is not held."""
        event = self._proposal(proposal)
        return None if event is None else Propose.from_wire(codec.unpack(event.payload))

    def _read_line(self, event: Event) -> Line | None:
        try:
            return line_of(self._network, event, Propose.from_wire(codec.unpack(event.payload)))
        except MalformedError:  # whoever wrote it broke the rules; nobody signs it
            return None

    def _proposal(self, proposal: bytes) -> Event | None:
        row = self._connection.execute(
            "SELECT wire FROM proposal JOIN events USING (log, seq) WHERE proposal.id = ?", (proposal,)
        ).fetchone()
        return None if row is None else stored_event(row[0])

    def signed_number(self, hotkey: bytes) -> int:
        """Highest number that a validator has signed; 0 for none."""
        (number,) = self._connection.execute(
            "SELECT max((SELECT max(s.number) FROM signature s WHERE s.log = logs.log)) FROM logs WHERE hotkey = ?",
            (hotkey,),
        ).fetchone()
        return max(number or 0, self.line.number)

    # -- certificates ------------------------------------------------------------------------------------------------

    def take(self, wire: bytes) -> None:
        """Take a certificate, which is checked here but for whether it is trusted.

        One with a number that is held already, or not above that in force, changes nothing.

        Args:
            wire: ``Certificate.encode``.

        Raises:
            MalformedError: It proves nothing.
        """
        taken = certified(self._network, wire)
        number = taken.line.number
        if number <= self.line.number or number in self._known:
            return
        self._connection.execute("INSERT INTO certificate VALUES (?, ?, ?)", (number, Stage.KNOWN, wire))
        self._connection.execute(  # never the one in force: without it nobody knows what is cut
            "DELETE FROM certificate WHERE number <> ?"
            " AND number NOT IN (SELECT number FROM certificate ORDER BY number DESC LIMIT ?)",
            (self.line.number, CERTIFICATES_KEPT),
        )
        numbers = sorted((*self._known, number))[-CERTIFICATES_KEPT:]
        self._known = {each: taken if each == number else self._known[each] for each in numbers}

    def begin(self, wire: bytes) -> None:
        """Take a certificate with a number above that in force, and put it in force though its live set is not here.

        It takes the place of another one of its number.

        Raises:
            MalformedError: It proves nothing.
        """
        taken = certified(self._network, wire)
        self._connection.execute(
            "INSERT OR REPLACE INTO certificate VALUES (?, ?, ?)", (taken.line.number, Stage.KNOWN, wire)
        )
        self.enforce(taken, Stage.LOADING)

    def certificate(self, number: int) -> bytes | None:
        """A certificate that is held, as peers and ``take`` have it."""
        return read_certificate(self._connection, number)

    def enforce(self, said: Certified, stage: Stage) -> None:
        """Put a certificate in force that was taken, ``loading`` or ``cutting``; ``reach`` further stages then."""
        number = said.line.number
        self._connection.execute("UPDATE certificate SET stage = ? WHERE stage <> ?", (Stage.DONE, Stage.KNOWN))
        self._connection.execute("DELETE FROM certificate WHERE number < ? AND stage = ?", (number, Stage.KNOWN))
        self._known = {other: each for other, each in self._known.items() if other > number}
        self.line, self.current, self._slices, self._kept = said.line, said, None, {}
        self._note_logs()
        self.reach(stage)

    def reach(self, stage: Stage) -> None:
        """Note how far this daemon is with the certificate in force."""
        self._connection.execute("UPDATE certificate SET stage = ? WHERE number = ?", (stage, self.line.number))
        self.stage = stage

    def _certify(self, number: int, proposal: bytes) -> None:
        """Make a certificate as soon as the signatures suffice, if it is to be trusted."""
        if number <= self.line.number or number in self._known:
            return
        rows = self._connection.execute(
            "SELECT hotkey, log, seq, s.number, proposal, leaves, slices, root FROM signature s JOIN logs USING (log)"
            " WHERE s.number = ? AND proposal = ? ORDER BY log, seq",
            (number, proposal),
        ).fetchall()
        if not self._weighty({hotkey for hotkey, *_ in rows}):
            return
        line = self.line_of(proposal)
        if line is None:
            return
        stakes = stakes_of(line)
        found: dict[Checkpoint, dict[bytes, tuple[int, int]]] = {}
        for hotkey, log, seq, *said in rows:
            if hotkey in stakes:
                found.setdefault(Checkpoint(*said), {}).setdefault(hotkey, (log, seq))
        for signers in found.values():
            if suffices(self._network, line, signers):
                places = sorted(signers.values(), key=lambda place: -stakes[self._hotkey(place[0])])[:SIGNERS_MAX]
                event = self._proposal(proposal)
                assert event is not None
                signatures = [self._signature(*place) for place in places]
                made = Certificate(event, tuple(sorted(signatures, key=lambda each: each.checkpoint.log))).encode()
                if self.trusts(certified(self._network, made)):
                    self.take(made)
                return

    def _weighty(self, signers: AbstractSet[bytes]) -> bool:
        """Whether enough of the stake of today has signed to look any further."""
        stakes = {} if self._electorate is None else self._electorate.stakes
        return SHARE_LOOKED_AT * sum(stakes.get(hotkey, 0) for hotkey in signers) > sum(stakes.values())

    def _hotkey(self, log: int) -> bytes:
        (hotkey,) = self._connection.execute("SELECT hotkey FROM logs WHERE log = ?", (log,)).fetchone()
        return bytes(hotkey)

    def _signature(self, log: int, seq: int) -> Signature:
        query = "SELECT wire FROM events WHERE log = ? AND seq = ?"
        (delegated,) = self._connection.execute(
            "SELECT max(seq) FROM delegations WHERE log = ? AND seq < ?", (log, seq)
        ).fetchone()
        wires = [self._connection.execute(query, (log, each)).fetchone()[0] for each in (delegated, seq)]
        return Signature(*(stored_event(wire) for wire in wires))

    # -- live sets ---------------------------------------------------------------------------------------------------

    def forget_slices(self) -> None:
        """Forget the slices that were found of a live set that is to be loaded: here it came out otherwise."""
        self._connection.execute("DELETE FROM live_slice WHERE number = ?", (self.line.number,))
        self._slices, self._kept = None, {}

    def forget_leaves(self, limit: int) -> int:
        """Forget some of its leaves that were found; how many."""
        return self._connection.execute(
            "DELETE FROM live WHERE (number, log, seq) IN (SELECT number, log, seq FROM live WHERE number = ? LIMIT ?)",
            (self.line.number, limit),
        ).rowcount

    def keep_leaves(self, masks: Mapping[tuple[int, int], int]) -> None:
        """Record events of the live set that is being loaded: row key of the log and seq -> mask."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?)",
            [(self.line.number, *place, signed_mask(mask)) for place, mask in masks.items()],
        )
        self._kept = dict(masks)

    def keep_slice(self, index: int, log: int, seq: int, hashed: bytes) -> None:
        """Record that a slice of it is here, which begins with the event at a seq of a log."""
        self._connection.execute(
            "INSERT INTO live_slice VALUES (?, ?, ?, ?, ?)", (self.line.number, index, log, seq, hashed)
        )
        if self._slices is not None:
            self._slices.add(index)

    def slices_held(self) -> AbstractSet[int]:
        """The slices of it that are here."""
        if self._slices is None:
            query = "SELECT slice FROM live_slice WHERE number = ?"
            self._slices = {index for (index,) in self._connection.execute(query, (self.line.number,))}
        return self._slices

    def forget_other_delegations(self) -> None:
        """Forget the delegations at or below the cut in force that its live set, which is whole, does not hold."""
        self._connection.executemany(
            "DELETE FROM delegations WHERE log = ? AND seq <= ? AND NOT EXISTS (SELECT 1 FROM live"
            " WHERE live.number = ? AND live.log = delegations.log AND live.seq = delegations.seq)",
            [(log, last, self.line.number) for log, last in self.cuts.items()],
        )

    def holds_older_sets(self) -> bool:
        """Whether anything of the live set of a checkpoint before the one in force is here."""
        query = "SELECT 1 FROM live WHERE number < ?1 UNION ALL SELECT 1 FROM live_slice WHERE number < ?1 LIMIT 1"
        return self._connection.execute(query, (self.line.number,)).fetchone() is not None

    def tree(self, number: int) -> Tree:
        """The Merkle tree over the slices of a live set that is held whole."""
        return tree_of(self._connection, number)


def signed_mask(mask: int) -> int:
    """A mask as SQLite's signed integers hold it."""
    return mask - (_SIGN_BIT << 1) if mask & _SIGN_BIT else mask


def plain_mask(held: int) -> int:
    """A mask from SQLite."""
    return held & MASK_MAX


@lru_cache(CERTIFICATES_KEPT + 1)  # the one in force may be older
def certified(network: Network, wire: bytes) -> Certified:
    """What a certificate says, checked; the latest ones are not checked again. Raises MalformedError."""
    return check(network, Certificate.decode(wire))


def read_line(connection: sqlite3.Connection, network: Network) -> Line:
    """The cut in force, for whoever has no ``Checkpoints``."""
    row = _in_force(connection)
    return NO_LINE if row is None else certified(network, row[2]).line


def cut_logs(connection: sqlite3.Connection) -> dict[LogId, CutLog]:
    """How far the cut in force goes in each log, for whoever has no ``Checkpoints``; nothing is checked again."""
    row = _in_force(connection)
    if row is None:
        return {}
    payload = Propose.from_wire(codec.unpack(_certificate(row[2]).proposal.payload))
    return {entry.log: entry for entry in payload.logs}


def _in_force(connection: sqlite3.Connection) -> tuple[int, Stage, bytes] | None:
    """Number, stage and bytes of the certificate in force."""
    row = connection.execute(
        "SELECT number, stage, wire FROM certificate WHERE stage <> ? ORDER BY number DESC LIMIT 1", (Stage.KNOWN,)
    ).fetchone()
    if row is None:
        return None
    with reading("a certificate"):
        return row[0], Stage(row[1]), row[2]


def read_slice(connection: sqlite3.Connection, number: int, index: int) -> list[tuple[Leaf, bytes]]:
    """The leaves of one slice of a live set that is held, each with its event; empty where there is no such slice."""
    starts = {
        place: (log, seq)
        for place, log, seq in connection.execute(
            "SELECT slice, log, seq FROM live_slice WHERE number = ? AND slice IN (?, ?)", (number, index, index + 1)
        )
    }
    if index not in starts:
        return []
    (log, seq), end = starts[index], starts.get(index + 1)
    logs = connection.execute(
        "SELECT log, node_key, number FROM logs WHERE (node_key, number) >="
        " (SELECT node_key, number FROM logs WHERE log = ?) ORDER BY node_key, number",
        (log,),
    ).fetchall()
    found: list[tuple[Leaf, bytes]] = []
    for key, *log_id in logs:
        low = seq if key == log else 0
        high = end[1] if end and end[0] == key else INT_MAX
        rows = connection.execute(
            "SELECT seq, id, mask, wire FROM live JOIN events USING (log, seq)"
            " WHERE live.number = ? AND log = ? AND seq >= ? AND seq < ? ORDER BY seq LIMIT ?",
            (number, key, low, high, SLICE_LEAVES_MAX - len(found)),
        )
        for at, event_id, mask, wire in rows:
            found.append((Leaf(LogId(*log_id), at, event_id, plain_mask(mask)), wire))
        if (end and end[0] == key) or len(found) == SLICE_LEAVES_MAX:
            break
    return found


class KeptLeaf(NamedTuple):
    """A leaf of a live set, for people: its log, seq, id, kind, and the items that are kept."""

    log: LogId
    seq: int
    id: bytes
    kind: str
    items: tuple[int, ...]


def live_set_damage(connection: sqlite3.Connection, network: Network) -> str | None:
    """What is wrong with what is kept below the cut in force, in one line; None if it is what the validators signed.

    While it is loaded from peers it is not whole, and that is nothing wrong.
    """
    checkpoints = Checkpoints(connection, network)
    if checkpoints.line.number == 0 or checkpoints.stage is Stage.LOADING:
        return None
    certificate = checkpoints.certificate(checkpoints.line.number)
    if certificate is None:
        return f"the certificate of checkpoint {checkpoints.line.number} is not in it under its number"
    statement = certified(network, certificate).statement
    slicer = Slicer()
    for index in range(statement.slices):
        for leaf, wire in read_slice(connection, statement.number, index):
            slicer.add(leaf, len(wire))
    tree = slicer.tree()
    if (slicer.leaves, len(tree), tree.root) == (statement.leaves, statement.slices, statement.root):
        if tree_of(connection, statement.number).root == tree.root:
            return None
        return f"checkpoint {statement.number}: the hashes of its live set's slices are not those of its events"
    return (
        f"checkpoint {statement.number}: {slicer.leaves} events are kept below its cut with another root than that "
        f"of the {statement.leaves} that validators signed"
    )


def live_sets(connection: sqlite3.Connection) -> set[int]:
    """Numbers of the checkpoints whose live sets a database holds, or a part of them."""
    return {number for (number,) in connection.execute("SELECT DISTINCT number FROM live")}


def kept_leaves(connection: sqlite3.Connection, number: int) -> Iterator[KeptLeaf]:
    """The leaves of a live set that a database holds, in ascending order of logs and seqs."""
    rows = connection.execute(
        "SELECT l.node_key, l.number, live.seq, id, kind, mask FROM live JOIN logs l USING (log)"
        " JOIN events USING (log, seq) WHERE live.number = ? ORDER BY l.node_key, l.number, live.seq",
        (number,),
    )
    for node_key, log_number, seq, event_id, kind, mask in rows:
        items = tuple(item for item in range(ITEMS_MAX) if mask >> item & 1)
        yield KeptLeaf(LogId(node_key, log_number), seq, event_id, kind, items)


def live_difference(here: Iterable[KeptLeaf], there: Iterable[KeptLeaf]) -> Iterator[tuple[bool, KeptLeaf]]:
    """What one of two live sets has and the other has not, in order: (whether it is the first one's, the leaf)."""
    merged = heapq.merge(((leaf, True) for leaf in here), ((leaf, False) for leaf in there))
    for leaf, found in groupby(merged, itemgetter(0)):
        sides = [mine for _, mine in found]
        if len(sides) == 1:
            yield sides[0], leaf


class Donor:
    """Reads for peers what they load: slices of the live set in force, each with what proves it. One thread's."""

    def __init__(self) -> None:
        """Begin without a tree; that of the live set in force is kept."""
        self._number = 0
        self._tree = Tree()

    def slice(
        self, connection: sqlite3.Connection, number: int, index: int
    ) -> tuple[list[tuple[int, bytes]], list[bytes]]:
        """Mask and event of each leaf of a slice, and its path; none unless its live set is in force, and all here.

        Raises:
            DamagedEventError: One of its events is damaged.
            StoreError: What else belongs to it is. Whoever is sent any of that takes the sender for a liar.
        """
        row = _in_force(connection)
        if row is None or row[0] != number or row[1] is Stage.LOADING:  # of older ones, parts may be gone
            return [], []
        if self._number != number:
            tree = tree_of(connection, number)
            if tree.root not in _roots(row[2]):
                raise damaged(f"the hashes of the live set of checkpoint {number} are not those that were signed")
            self._number, self._tree = number, tree
        if index >= len(self._tree):
            return [], []
        leaves, path = read_slice(connection, number, index), self._tree.path(index)
        for leaf, wire in leaves:
            if not Event.is_whole(wire, leaf.id):
                raise DamagedEventError(leaf.log, leaf.seq)
        hashed = slice_digest(leaf.digest() for leaf, _ in leaves)
        if not proves(path, hashed, index, len(self._tree), self._tree.root):
            raise damaged(f"slice {index} of the live set of checkpoint {number} is not what was signed")
        return [(leaf.mask, wire) for leaf, wire in leaves], path


def tree_of(connection: sqlite3.Connection, number: int) -> Tree:
    """The Merkle tree over the slices of a live set that is held whole."""
    rows = connection.execute("SELECT hash FROM live_slice WHERE number = ? ORDER BY slice", (number,))
    return Tree(hashed for (hashed,) in rows)


def _roots(wire: bytes) -> set[bytes]:
    """The Merkle roots that the signatures of a certificate name."""
    signatures = _certificate(wire).signatures
    return {Checkpoint.from_wire(codec.unpack(each.checkpoint.payload)).root for each in signatures}


def _certificate(wire: bytes) -> Certificate:
    """A certificate from the database.

    Raises:
        StoreError: It is damaged.
    """
    with reading("a certificate"):
        return Certificate.decode(wire)


def read_certificate(connection: sqlite3.Connection, number: int) -> bytes | None:
    """A certificate that is held, as peers and ``Checkpoints.take`` have it.

    Raises:
        StoreError: It is damaged; signatures are not looked at.
    """
    row = connection.execute("SELECT wire FROM certificate WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    wire: bytes = row[0]
    _certificate(wire)
    return wire
