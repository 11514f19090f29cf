"""Which requests no log will carry any more that counts, and carrying them again (design.md, rules 5 and 7).

A request counts through the events that carry it. It is at risk when none of these *lasts*: is below the cut of its
log, by an author with a permit at the pinned block itself. An author whose permit lives on the grace of the block
before is about to go; what lies at or above a cut is gone already; and of a log that checkpoints have no room for, what
is older than the horizon fades. Whoever holds such a request carries it again: one ``carry`` event with the raw events
of the requests' first authors, so that everything in them, the miner's signature and the time above all, stays what it
was.

What is done is decided claim by claim, in three readings of what is stored, each by the inventory function itself:

- what *lasts* counts: how the inventory will be if nobody carries anything;
- what counts *now*;
- everything that is *known* counts, whoever wrote it on whatever branch.

**An add** is carried when its claim does not count by what lasts, counts by what is known, and stands on one of its
GPUs. On a GPU it stands when no known deletion ends it there; so what a miner deleted is never brought back, also where
the deletion itself does not count any more, because its author went together with that of the add. Of several events
that carry an add, the one with the lowest HLC is taken among those whose electorate block is not below the miner's
registration: the row keeps its time, and a miner that left the chain and came back has to register again as before.

**A delete** is carried when it ends a claim that counts, or will by what is carried, and no deletion that lasts ends
that claim. Otherwise it is of no use: also when its claim goes with it. It lies before the add in the same event, or in
an earlier one, so nobody sees the GPU listed in between. But an add that the live set in force holds does not go with
an author that loses the permit: it is there when that author comes back, and for whoever loads the live set, who does
not get what that author said above the cut. So what ends such a claim is carried, too; else it were too old one day,
and the add were not. What a delete does is read from the events of it that count now, if there are any, and from all
that are known otherwise:

- *Unbound* signatures name no GPU, so its author said which. Where the events that are read name several GPUs the
  deletion ends nothing, and carrying it would not change that; it is left alone. Where one of them counts, what others
  say above a cut or without a permit is not asked, so a thief cannot undo a deletion by applying its signature to
  another GPU.
- At an *equal nonce* a delete ends those claims that every event of it names. One event, the one that names the fewest,
  may therefore not be enough: those are carried as well without which it would end more. For the same reason an event
  that keeps a claim alive, because it alone does not name it, is carried before its author goes.

What a carrier passes on is the word of a first author in two points, the electorate block of an add and the GPU of an
unbound delete. The inventory function believes both of any permitted validator, and so does a carrier.

The reading half works in parts, so that a reader of everything takes its turn with others; the writing half decides
anew, inside the writer's transaction.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import orjson

from p2pnodes.model import codec, inventory
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import CARRIED_MAX, PAYLOAD_BYTES_MAX, Carry, LogId
from p2pnodes.model.inventory import Carriage, Claim, DeleteCarriage, Deletion, Ending, Weights
from p2pnodes.model.rendezvous import place_of, ranking
from p2pnodes.store.checkpoints import plain_mask, read_line
from p2pnodes.store.damage import stored_event
from p2pnodes.store.facts import CLAIMS_ON, Facts, claims_on_key, unpack_ids, unpack_uuids
from p2pnodes.store.ledger import Ledger

T = TypeVar("T", Carriage, DeleteCarriage)

CLAIMS_PER_PART: Final = 1_024
"""Claims that one part of a walk sifts."""

DELETIONS_PER_PART: Final = 1_024
"""Deletions that one part of a walk sifts."""

DECIDED_PER_PART: Final = 64
"""Claims that are decided at once, those that the sieve lets through: some 10 ms, in either half.

More where many deletions name one GPU, as all of these are read for it: some 100 ms for a thousand.
"""

ITEM_BYTES: Final = 5
LIST_BYTES: Final = 4
"""What the encoding of a ``carry`` takes beside the bytes of each event, and of all."""

STEP_MS_MAX: Final = 15_000
"""Longest time that one validator waits for the one before it: some rounds of gossip."""

STEP_MS_MIN: Final = 500
"""Shortest time, where epochs are short or validators many: one push through the network and its commit."""

GRACE_SHARE: Final = 0.5
"""Share of the time between two pinned blocks in which the last validator begins. The other half is for writing."""


class Cursor(NamedTuple):
    """How far a walk has come: first through the claims by row key, then through the deletions by theirs.

    Attributes:
        claim: Row key of the last claim that was looked at; None when all were.
        deletion: Row key of the last deletion that was looked at.
        ended: Of the claims on its GPU, row key of the last one that was looked at.
    """

    claim: int | None = 0
    deletion: tuple[str, bytes, int, int, int] = ("", b"", 0, 0, 0)
    ended: int = 0


class Need(NamedTuple):
    """A claim that something must be carried for.

    Attributes:
        key: Row key of the claim.
        wait_ms: How long this validator leaves it to those before it; 0 when it is the first, or holds it surely.
    """

    key: int
    wait_ms: int


class Part(NamedTuple):
    """What one part of a walk found, and where the next one begins; None when the walk is at its end."""

    needs: tuple[Need, ...]
    cursor: Cursor | None


class Carried(NamedTuple):
    """What became of some claims.

    Attributes:
        done: How many of them, from the first one on, need nothing any more.
        requests: Requests that were carried.
    """

    done: int
    requests: int


class _At(NamedTuple):
    """Where an event carries a request: row key of its log, seq, place within a ``carry``."""

    log: int
    seq: int
    item: int


class _Said(NamedTuple, Generic[T]):
    """One event that carries a request, and whether it lies at or above the cut of its log."""

    at: _At
    author: bytes
    cut: bool
    says: T


class _Request(NamedTuple):
    """A delete request on one GPU: of the events that carry it those that last, and those that it is read from.

    With what it does there by either, whoever wrote them; None for nothing.
    """

    deletion: Deletion
    lasting: "tuple[_Said[DeleteCarriage], ...]"
    read: "tuple[_Said[DeleteCarriage], ...]"
    by_lasting: Ending | None
    by_read: Ending | None


class _Case(NamedTuple):
    """A claim, all events that carry it, and its miner's delete requests that might end it, by GPU."""

    claim: Claim
    said: "tuple[_Said[Carriage], ...]"
    requests: dict[str, list[_Request]]


class _Unit(NamedTuple):
    """What must be carried for one claim: deletes, and then perhaps the add."""

    claim_id: bytes
    deletes: "tuple[_Said[DeleteCarriage], ...]"
    adds: "tuple[_Said[Carriage], ...]"

    def lost_by(self, author: bytes) -> bool:
        """Whether an author wrote some of it itself, where it does not count any more."""
        return any(said.cut and said.author == author for said in self.deletes) or any(
            said.cut and said.author == author for said in self.adds
        )

    @property
    def places(self) -> list[_At]:
        """Where it is to be had."""
        return [*(said.at for said in self.deletes), *(said.at for said in self.adds)]


class _Reading:
    """Which logs there are, and who counts in each of the three readings."""

    def __init__(self, facts: Facts, weights: Weights) -> None:
        electorate, line = weights.electorate, read_line(facts.connection, weights.network)
        logs = facts.connection.execute("SELECT log, hotkey, cut, node_key, number FROM logs").fetchall()
        self.authors: dict[int, bytes] = {log: hotkey for log, hotkey, *_ in logs}
        self._cuts: dict[int, int] = {log: cut for log, _, cut, *_ in logs if cut is not None}
        self._connection, self._number = facts.connection, line.number
        self._closed = {log: line.logs[LogId(*name)].head.seq for log, _, _, *name in logs if LogId(*name) in line.logs}
        """The last seq at or below the cut in force."""
        self._fading: dict[int, int] = {}
        """Logs that the cut in force does not name though they are older, for it has room for so many -> the first seq
        that is not older. No live set holds what lies below, and what is too old counts for nothing there."""
        for log, _, _, *name in logs if line.number else ():
            if LogId(*name) not in line.logs and (last := _last_below(facts, log, line.horizon_hlc)) is not None:
                self._fading[log] = last + 1
        self.now = electorate
        self.lasting = Electorate(electorate.current)
        everybody = dict.fromkeys(self.authors.values(), 0)
        self.known = Electorate(electorate.current._replace(validators=everybody))

    def all_lasts(self) -> bool:
        """Whether nothing can be at risk."""
        return not self._cuts and not self._fading and all(map(self.lasting.permitted, self.authors.values()))

    def lasts(self, log: int, seq: int) -> bool:
        """Whether what an event says will count."""
        kept = not self.cut(log, seq) and seq >= self._fading.get(log, 0)
        return kept and self.lasting.permitted(self.authors[log])

    def may_carry(self, own: bytes) -> bool:
        """Whether what a validator writes lasts, as far as its logs tell."""
        logs = {log for log, author in self.authors.items() if author == own and log not in self._cuts}
        return self.lasting.permitted(own) and (not logs or not logs <= self._fading.keys())

    def cut(self, log: int, seq: int) -> bool:
        """Whether an event lies at or above the cut of its log."""
        cut = self._cuts.get(log)
        return cut is not None and seq >= cut

    def is_kept(self, said: "Iterable[_Said[Carriage]]") -> bool:
        """Whether the live set in force holds one of some events that carry a request."""
        query = "SELECT mask FROM live WHERE number = ? AND log = ? AND seq = ?"
        for log, seq, item in (one.at for one in said):
            if seq <= self._closed.get(log, -1):
                row = self._connection.execute(query, (self._number, log, seq)).fetchone()
                if row is not None and plain_mask(row[0]) >> item & 1:
                    return True
        return False

    def counts(self, said: "_Said[Carriage] | _Said[DeleteCarriage]") -> bool:
        """Whether what an event says counts now, as far as its author goes."""
        return not said.cut and self.now.permitted(said.author)

    def may_count(self, miner: bytes, blocks: Iterable[int]) -> bool:
        """Whether a claim counts that is carried with these electorate blocks."""
        registration = self.now.registration_block(miner)
        return registration is not None and any(registration <= block <= self.now.block for block in blocks)


# -- reading -----------------------------------------------------------------------------------------------------------


def part(facts: Facts, cursor: Cursor, weights: Weights, own: bytes) -> Part:
    """Look for what must be carried in the next part of what is stored.

    Args:
        facts: To read from.
        cursor: Where the part before this one ended; ``Cursor()`` begins.
        weights: Who counts.
        own: Hotkey of the validator that would carry it. One without a permit at the pinned block carries nothing, nor
            does one for whose log cuts have no room: nothing of its own lasts.
    """
    reading = _Reading(facts, weights)
    if reading.all_lasts() or not reading.may_carry(own):
        return Part((), None)
    if cursor.claim is not None:
        keys, claim = _claims_at_risk(facts.connection, reading, cursor.claim)
        following: Cursor | None = cursor._replace(claim=claim)
    else:
        keys, following = _claims_that_may_return(facts.connection, reading, cursor)
    order = _validators(weights)
    step = step_ms(weights.electorate, len(order))
    needs: list[Need] = []
    for key, unit in _units(facts.connection, reading, keys).items():
        place = 0 if unit.lost_by(own) else place_of(ranking(unit.claim_id, order), own)
        needs.append(Need(key, place * step))
    return Part(tuple(needs), following)


def _validators(weights: Weights) -> dict[bytes, int]:
    """Stakes of those who may be asked to carry: enrolled, with a permit at the pinned block."""
    stakes = weights.electorate.current.validators
    return {hotkey: stake for hotkey, stake in weights.enrolled.items() if hotkey in stakes}


def step_ms(electorate: Electorate, validators: int) -> int:
    """How long a validator waits for the one before it to carry a request.

    All have their turn within GRACE_SHARE of the time between the last two pinned blocks (20 minutes for 100 blocks),
    within STEP_MS_MIN and STEP_MS_MAX.
    """
    previous = electorate.previous
    if previous is None:
        return STEP_MS_MAX
    share_ms = int((electorate.time_ms - previous.time_ms) * GRACE_SHARE) // max(1, validators)
    return min(max(share_ms, STEP_MS_MIN), STEP_MS_MAX)


def _claims_at_risk(connection: sqlite3.Connection, reading: _Reading, after: int) -> tuple[list[int], int | None]:
    """Claims that do not count by what lasts, though they may by what is known; and where the next part begins."""
    claims = connection.execute(
        "SELECT claim, miner FROM claim WHERE claim > ? ORDER BY claim LIMIT ?", (after, CLAIMS_PER_PART)
    ).fetchall()
    if not claims:
        return [], None
    lasting: dict[int, list[int]] = {}
    known: dict[int, list[int]] = {}
    query = "SELECT claim, log, seq, electorate_block FROM carriage WHERE claim > ? AND claim <= ?"
    for key, log, seq, block in connection.execute(query, (after, claims[-1][0])):
        known.setdefault(key, []).append(block)
        if reading.lasts(log, seq):
            lasting.setdefault(key, []).append(block)
    found: list[int] = []
    for key, miner in claims:
        if miner is None or reading.may_count(miner, lasting.get(key, ())):
            continue
        if reading.may_count(miner, known.get(key, ())):
            found.append(key)
            if len(found) == DECIDED_PER_PART:
                return found, key
    return found, claims[-1][0]


def _claims_that_may_return(
    connection: sqlite3.Connection, reading: _Reading, cursor: Cursor
) -> tuple[list[int], Cursor | None]:
    """Claims that deletions end which do not last; and where the next part begins."""
    rows = connection.execute(
        "SELECT uuid, request_id, log, seq, item, claim_ids, miner, nonce FROM deletion"
        " WHERE (uuid, request_id, log, seq, item) >= (?, ?, ?, ?, ?)"
        " ORDER BY uuid, request_id, log, seq, item LIMIT ?",
        (*cursor.deletion, DELETIONS_PER_PART + 1),  # the last one of the part before is among them
    ).fetchall()
    lasting = {(uuid, request, ids) for uuid, request, log, seq, _, ids, *_ in rows if reading.lasts(log, seq)}
    found: dict[int, None] = {}
    sifted: dict[tuple[str, bytes], int] = {}  # the highest nonce for which a miner's claims on a GPU were
    left = CLAIMS_PER_PART
    for uuid, request, log, seq, item, ids, miner, nonce in rows:
        if (uuid, request, ids) in lasting or nonce <= sifted.get((uuid, miner), -1):
            continue
        at = uuid, request, log, seq, item
        after = cursor.ended if at == cursor.deletion else 0
        claims = connection.execute(
            f"SELECT claim, miner, nonce FROM ({CLAIMS_ON}) CROSS JOIN claim USING (claim) WHERE claim > ?"  # noqa: S608 - our own names
            " ORDER BY claim",
            (*claims_on_key(uuid), after),
        )
        for key, of, made in claims:
            left -= 1
            if of == miner and made <= nonce:
                found[key] = None
            if not left or len(found) >= DECIDED_PER_PART:
                return list(found), cursor._replace(deletion=at, ended=key)
        sifted[uuid, miner] = nonce
    if len(rows) <= DELETIONS_PER_PART:
        return list(found), None
    return list(found), cursor._replace(deletion=rows[-1][:5], ended=codec.INT_MAX)


# -- deciding ----------------------------------------------------------------------------------------------------------


def _units(connection: sqlite3.Connection, reading: _Reading, keys: Collection[int]) -> dict[int, _Unit]:
    """What must be carried for each of some claims, of those for which there is something."""
    units = {key: _unit(case, reading) for key, case in _cases(connection, reading, keys).items()}
    return {key: unit for key, unit in units.items() if unit.deletes or unit.adds}


def _unit(case: _Case, reading: _Reading) -> _Unit:
    claim = case.claim
    lasts = _counts(claim, (said for said in case.said if reading.lasts(said.at.log, said.at.seq)), reading.lasting)
    ended = all(_ending(case, uuid, lasting=False) for uuid in claim.uuids)
    returns = not lasts and not ended and _counts(claim, case.said, reading.known)
    if not lasts and not returns and not (ended and reading.is_kept(case.said)):
        return _Unit(claim.id, (), ())
    deletes = dict.fromkeys(said for uuid in claim.uuids for said in _wanted_deletes(case, uuid))
    return _Unit(claim.id, tuple(deletes), (_wanted_add(case, reading),) if returns else ())


def _counts(claim: Claim, said: "Iterable[_Said[Carriage]]", electorate: Electorate) -> bool:
    return inventory.counts(claim._replace(carriages=tuple(one.says for one in said)), electorate)


def _wanted_add(case: _Case, reading: _Reading) -> "_Said[Carriage]":
    registration = reading.now.registration_block(case.claim.miner)
    assert registration is not None
    fitting = [said for said in case.said if registration <= said.says.electorate_block <= reading.now.block]
    return min(fitting, key=lambda said: (not reading.counts(said), said.says.hlc, said.at))


def _wanted_deletes(case: _Case, uuid: str) -> "list[_Said[DeleteCarriage]]":
    """Events of deletions without which a claim would be on a GPU, or would not be, as what is read does not say."""
    wanted, held = (_ending(case, uuid, lasting=lasting) for lasting in (False, True))
    if wanted and not held:
        return _restored(max(wanted, key=lambda request: (request.deletion.nonce, request.deletion.request_id)), uuid)
    if held and not wanted:  # at an equal nonce, where an event that is about to go alone does not name the claim
        narrower = (request for request in held if request.by_read is not None)
        return [said for request in narrower for said in _restored(request, uuid)]
    return []


def _ending(case: _Case, uuid: str, *, lasting: bool) -> list[_Request]:
    """The deletions that end a claim on a GPU, by what lasts or as they are read."""
    return [
        request
        for request in case.requests[uuid]
        if (effect := request.by_lasting if lasting else request.by_read) is not None and effect.ends(case.claim)
    ]


def _effect(deletion: Deletion, said: "Sequence[_Said[DeleteCarriage]]", uuid: str, reading: _Reading) -> Ending | None:
    """What a deletion does on a GPU by some of the events that carry it, whoever wrote these."""
    found = inventory.ending(deletion._replace(carriages=tuple(one.says for one in said)), uuid, reading.known)
    return found if isinstance(found, Ending) else None


def _restored(request: _Request, uuid: str) -> "list[_Said[DeleteCarriage]]":
    """The events of a deletion that, carried, do on a GPU what it does as it is read."""
    named = [said for said in request.read if said.says.uuid == uuid]
    target = frozenset.intersection(*(said.says.claim_ids for said in named))
    held = [said.says.claim_ids for said in request.lasting if said.says.uuid == uuid]
    chosen: list[_Said[DeleteCarriage]] = []
    for said in sorted(named, key=lambda said: (len(said.says.claim_ids), said.at)):
        if held and frozenset.intersection(*held) == target:
            break
        if not held or not frozenset.intersection(*held) <= said.says.claim_ids:
            chosen.append(said)
            held.append(said.says.claim_ids)
    return chosen


def _cases(connection: sqlite3.Connection, reading: _Reading, keys: Collection[int]) -> dict[int, _Case]:
    """Everything that decides about some claims, of those that are known."""
    claims = {
        key: Claim(claim_id, miner, nonce, unpack_uuids(uuids), ())
        for key, claim_id, miner, nonce, uuids in _select(
            connection,
            "SELECT claim, claim_id, miner, nonce, uuids FROM claim"
            " WHERE miner NOTNULL AND claim IN (SELECT value FROM json_each(?))",
            keys,
        )
    }
    said: dict[int, list[_Said[Carriage]]] = {key: [] for key in claims}
    query = (
        "SELECT claim, log, seq, item, electorate_block, hlc FROM carriage"
        " WHERE claim IN (SELECT value FROM json_each(?))"
    )
    for key, log, seq, item, block, hlc in _select(connection, query, claims):
        author = reading.authors[log]
        said[key].append(_Said(_At(log, seq, item), author, reading.cut(log, seq), Carriage(author, block, hlc)))
    requests = _requests(connection, reading, {uuid for claim in claims.values() for uuid in claim.uuids})
    return {
        key: _Case(
            claim,
            tuple(said[key]),
            {
                uuid: [
                    request
                    for request in requests.get(uuid, ())
                    if request.deletion.miner == claim.miner and request.deletion.nonce >= claim.nonce
                ]
                for uuid in claim.uuids
            },
        )
        for key, claim in claims.items()
    }


def _requests(connection: sqlite3.Connection, reading: _Reading, uuids: Collection[str]) -> dict[str, list[_Request]]:
    """The delete requests that name GPUs, by GPU."""
    columns = "request_id, miner, nonce, bound, log, seq, item, uuid, claim_ids"
    rows = _select(
        connection,
        f"SELECT {columns} FROM deletion WHERE uuid IN (SELECT value FROM json_each(?))",  # noqa: S608 - a constant
        uuids,
    ).fetchall()
    bound = [row for row in rows if row[3]]
    unbound = [
        row
        for request in {row[0] for row in rows if not row[3]}
        for row in connection.execute(
            f"SELECT {columns} FROM deletion WHERE bound = 0 AND request_id = ?",  # noqa: S608 - a constant
            (request,),
        )
    ]
    deletions: dict[bytes, Deletion] = {}
    said: dict[bytes, list[_Said[DeleteCarriage]]] = {}
    for request, miner, nonce, is_bound, log, seq, item, uuid, claim_ids in (*bound, *unbound):
        author = reading.authors[log]
        deletions[request] = Deletion(request, miner, nonce, bool(is_bound), ())
        carriage = DeleteCarriage(author, uuid, unpack_ids(claim_ids))
        said.setdefault(request, []).append(_Said(_At(log, seq, item), author, reading.cut(log, seq), carriage))
    found: dict[str, list[_Request]] = {}
    for request, deletion in deletions.items():
        lasting = tuple(one for one in said[request] if reading.lasts(one.at.log, one.at.seq))
        read = tuple(filter(reading.counts, said[request])) or tuple(said[request])
        for uuid in {one.says.uuid for one in said[request]}.intersection(uuids):
            effects = (_effect(deletion, some, uuid, reading) for some in (lasting, read))
            found.setdefault(uuid, []).append(_Request(deletion, lasting, read, *effects))
    return found


def _last_below(facts: Facts, log: int, hlc: int) -> int | None:
    """The last seq of a log up to which its HLCs are below one; None where its first event is not."""
    query = "SELECT hlc_max, (SELECT max(seq) FROM events WHERE log = ?1) FROM events WHERE log = ?1 AND seq = 0"
    first = facts.connection.execute(query, (log,)).fetchone()
    if first is None or first[0] >= hlc:  # almost always: whatever is older is named
        return None
    return facts.last_below(log, 0, first[1], hlc)


def _select(connection: sqlite3.Connection, query: str, keys: Iterable[int] | Iterable[str]) -> sqlite3.Cursor:
    return connection.execute(query, (orjson.dumps(list(keys)).decode(),))


# -- writing -----------------------------------------------------------------------------------------------------------


def carry(ledger: Ledger, keys: Sequence[int], own: bytes, now_ms: int) -> Carried:
    """Carry what some claims still need, as far as one event holds it; call inside a transaction.

    Args:
        ledger: The own one.
        keys: Row keys of claims, at most DECIDED_PER_PART.
        own: The hotkey that it writes for.
        now_ms: Wall clock, Unix milliseconds.

    Returns:
        What has been done. With claims left over, call again for those.

    Raises:
        WritesRefusedError: This daemon may not write now.
    """
    connection = ledger.facts.connection
    reading = _Reading(ledger.facts, ledger.weights)
    if not reading.may_carry(own):
        return Carried(len(keys), 0)
    units = _units(connection, reading, keys)
    wires: dict[_At, bytes] = {}
    left = PAYLOAD_BYTES_MAX - LIST_BYTES
    done = 0
    for key in keys:
        missing = {
            at: raw_request(connection, *at) for at in (units[key].places if key in units else ()) if at not in wires
        }
        for at, wire in missing.items():
            left -= len(wire) + ITEM_BYTES
            if left < 0 or len(wires) == CARRIED_MAX:
                break
            wires[at] = wire
        else:
            done += 1
            continue
        break
    assert wires or done == len(keys), "BUG! an add or delete does not fit into a carry"
    if wires:
        payload = Carry(tuple(wires.values()))
        ledger.append(lambda _: payload, now_ms)
    return Carried(done, len(wires))


def raw_request(connection: sqlite3.Connection, log: int, seq: int, item: int) -> bytes:
    """The raw event of a request's first author, also where it lies in a ``carry``."""
    (wire,) = connection.execute("SELECT wire FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
    event = stored_event(wire)
    if event.kind != "carry":
        return bytes(wire)
    inner = Carry.from_wire(codec.unpack(event.payload)).events
    return inner[item]
