"""The latest word of each log on a claim (verdict, renew) or on a GPU under a claim (place, release), below its cut.

Where a word replaces another, its event says which (``events.before``): a cut that falls finds the words that are
latest again without reading the log.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from p2pnodes.model import codec
from p2pnodes.model.events import Place, Release, Renew, Verdict
from p2pnodes.model.inventory import Chute
from p2pnodes.model.validity import Contents, contents
from p2pnodes.store.checkpoints import Kept
from p2pnodes.store.damage import stored_event
from p2pnodes.store.facts import chute_fields

Saying = Verdict | Renew
"""One verdict, or several."""

Word = Saying | Place | Release


KEPT: Final = 0
"""In place of the seq of what a place or release replaced: whatever the live set in force keeps, not all of which was
here. No word is the first event of its log."""


class Taken(NamedTuple):
    """Words of one log that count no more, with the seq of what each replaced, or KEPT; None where that is nothing.

    Attributes:
        verdicts: By claim id.
        places: By GPU and claim id.
    """

    verdicts: dict[bytes, int | None]
    places: dict[tuple[str, bytes], int | None]

    def add(self, word: Word, before: bytes | None) -> None:
        """Take one more; from the highest seq down, so that what the lowest one replaced is what counts again."""
        named = len(claims_of(word) if isinstance(word, Saying) else word.uuids)
        seqs: Sequence[Any] = [None] * named if before is None else codec.fields(codec.unpack(before), named, "before")
        if isinstance(word, Saying):
            self.verdicts.update(zip(claims_of(word), seqs, strict=True))
        else:
            self.places.update({(uuid, word.claim_id): seq for uuid, seq in zip(word.uuids, seqs, strict=True)})


def claims_of(word: Saying) -> Sequence[bytes]:
    """Ids of the claims that it is about, in its order."""
    return [claim_id for claim_id, _ in word.claims] if isinstance(word, Renew) else [word.claim_id]


_PLACEMENT: Final = "INSERT OR REPLACE INTO placement VALUES (?, ?, ?, ?, ?, ?)"
_UNLESS_LATER: Final = (
    "INSERT INTO placement VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (claim_id, uuid, log)"
    " DO UPDATE SET seq = excluded.seq, hlc = excluded.hlc, chute = excluded.chute"
    " WHERE excluded.seq > seq OR seq <= ?7"
)
"""A later word stays: a live set may be loaded behind what came after it. Not one below the cut: of these a live set
keeps one, and another branch, or what came too late, may have a later one."""


def replaced(connection: sqlite3.Connection, log: int, word: Word, *, awaits: bool = False) -> bytes | None:
    """What a word of a log will replace, as ``events.before`` holds it.

    Args:
        connection: The writer's.
        log: Row key of the log.
        word: What it says.
        awaits: Whether a place that it replaces may come yet: slices of a live set that may keep one are not here.
    """
    if isinstance(word, Saying):
        query = "SELECT v.seq FROM claim c JOIN verdict v USING (claim) WHERE c.claim_id = ? AND v.log = ?"
        found = [connection.execute(query, (verdict.claim_id, log)).fetchone() for verdict in word.verdicts]
        return codec.pack([None if row is None else row[0] for row in found]) if any(found) else None
    rows = connection.execute(
        "SELECT uuid, seq FROM placement WHERE uuid IN (SELECT value FROM json_each(?)) AND claim_id = ? AND log = ?",
        (orjson.dumps(word.uuids).decode(), word.claim_id, log),
    )
    held: dict[str, int] = dict(rows.fetchall())
    unknown = KEPT if awaits else None
    return codec.pack([held.get(uuid, unknown) for uuid in word.uuids]) if held or awaits else None


def item_of(wire: bytes, uuid: str) -> int:
    """Which item of a place or release names a GPU."""
    word = contents(stored_event(wire)).payload
    assert isinstance(word, Place | Release)
    return word.uuids.index(uuid)


def say_verdict(  # noqa: PLR0917 - the columns of the table
    connection: sqlite3.Connection, claim: int, log: int, seq: int, hlc: int, said: Verdict
) -> None:
    """Record a verdict on the claim of a row key."""
    connection.execute(
        "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (claim, log, seq, hlc, said.finding, said.since, said.method, said.detail),
    )


def say_placement(  # noqa: PLR0917 - the columns of the table
    connection: sqlite3.Connection, log: int, seq: int, hlc: int, word: Place | Release, cut: int
) -> None:
    """Record a place or release that counts, on each GPU where no later one of the log is recorded.

    Args:
        connection: The writer's.
        log: Row key of its log.
        seq: Its seq.
        hlc: Its HLC.
        word: What it says.
        cut: Last seq of the log at or below the cut of the checkpoint in force; -1 for none.
    """
    connection.executemany(
        _UNLESS_LATER, [(uuid, word.claim_id, log, seq, hlc, _chute(word), cut) for uuid in word.uuids]
    )


def drop(connection: sqlite3.Connection, log: int, low: int, high: int, said: Iterable[Contents]) -> None:
    """Forget everything that events of a log from seq ``low`` to ``high`` state, not only their words.

    Each claim and GPU is looked for once, however often they name it.

    Args:
        connection: The writer's.
        log: Row key of the log.
        low: The first one.
        high: The last one.
        said: What those of them say that are valid.
    """
    adds: dict[bytes, None] = {}
    deletes: dict[tuple[str, bytes], None] = {}
    verdicts: dict[bytes, None] = {}
    places: dict[tuple[str, bytes], None] = {}
    for each in said:
        adds |= dict.fromkeys(each.adds)
        deletes |= dict.fromkeys((payload.uuid, request_id) for request_id, payload in each.deletes)
        match each.payload:
            case (Verdict() | Renew()) as word:
                verdicts |= dict.fromkeys(claims_of(word))
            case Place() | Release() as word:
                places |= dict.fromkeys((uuid, word.claim_id) for uuid in word.uuids)
            case _:
                pass
    where, span = "log = ? AND seq BETWEEN ? AND ?", (log, low, high)
    for table, claims in (("carriage", adds), ("verdict", verdicts)):
        connection.executemany(
            f"DELETE FROM {table} WHERE claim = (SELECT claim FROM claim WHERE claim_id = ?) AND {where}",  # noqa: S608
            [(claim_id, *span) for claim_id in claims],
        )
    for table, other, named in (("deletion", "request_id", deletes), ("placement", "claim_id", places)):
        connection.executemany(
            f"DELETE FROM {table} WHERE uuid = ? AND {other} = ? AND {where}",  # noqa: S608 - our own text
            [(*key, *span) for key in named],
        )
    for table in ("delegations", "proposal", "signature"):
        connection.execute(f"DELETE FROM {table} WHERE {where}", span)  # noqa: S608 - from the line above


def take_back(
    connection: sqlite3.Connection,
    log: int,
    taken: Taken,
    counts: Callable[[int, int, int], bool],
    kept: Callable[[], Iterable[Kept]],
) -> None:
    """Let what words of a log replaced be the latest again.

    Args:
        connection: The writer's.
        log: Row key of the log.
        taken: Its words that count no more.
        counts: Whether an item of one of its events (seq, item, HLC) counts as far as checkpoints go.
        kept: What the live set in force keeps of its places; asked where a word replaced one that does not count, or is
            gone, or KEPT: what counts again is to be found there alone.
    """
    connection.executemany(
        "DELETE FROM verdict WHERE claim = (SELECT claim FROM claim WHERE claim_id = ?) AND log = ?",
        [(claim_id, log) for claim_id in taken.verdicts],
    )
    connection.executemany(
        "DELETE FROM placement WHERE uuid = ? AND claim_id = ? AND log = ?", [(*key, log) for key in taken.places]
    )
    verdicts: dict[int, set[bytes]] = {}
    for claim_id, before in taken.verdicts.items():
        if before is not None:
            verdicts.setdefault(before, set()).add(claim_id)
    places: dict[int, list[tuple[str, bytes]]] = {}
    lost: set[tuple[str, bytes]] = set()
    for key, before in taken.places.items():
        if before == KEPT:
            lost.add(key)
        elif before is not None:
            places.setdefault(before, []).append(key)
    for seq in sorted(verdicts.keys() | places.keys()):
        row = connection.execute("SELECT wire FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
        if row is None:  # a checkpoint left it out
            lost.update(places.get(seq, ()))
            continue
        event = stored_event(row[0])
        match contents(event).payload:
            case (Verdict() | Renew()) as word:
                if not counts(seq, 0, event.hlc):
                    continue
                for verdict in word.verdicts:
                    if verdict.claim_id in verdicts[seq]:
                        query = "SELECT claim FROM claim WHERE claim_id = ?"
                        (claim,) = connection.execute(query, (verdict.claim_id,)).fetchone()
                        say_verdict(connection, claim, log, seq, event.hlc, verdict)
            case Place() | Release() as word:
                alive = [key for key in places[seq] if counts(seq, word.uuids.index(key[0]), event.hlc)]
                lost.update(set(places[seq]).difference(alive))
                _place(connection, log, seq, event.hlc, word, [uuid for uuid, _ in alive])
            case _:
                raise LookupError("BUG! what a word replaced is no word")
    if lost:
        for each in kept():
            say_kept(connection, log, each, [uuid for uuid in each.uuids if (uuid, each.word.claim_id) in lost])


def say_kept(connection: sqlite3.Connection, log: int, kept: Kept, uuids: Iterable[str]) -> None:
    """Record of a kept place of a log what it says of some GPUs."""
    _place(connection, log, kept.seq, kept.hlc, kept.word, uuids)


def _place(  # noqa: PLR0917 - the columns of the table
    connection: sqlite3.Connection,
    log: int,
    seq: int,
    hlc: int,
    word: Place | Release,
    uuids: Iterable[str],
) -> None:
    connection.executemany(_PLACEMENT, [(uuid, word.claim_id, log, seq, hlc, _chute(word)) for uuid in uuids])


def _chute(word: Place | Release) -> bytes | None:
    """What a place or release says, as ``placement.chute`` holds it."""
    return chute_fields(Chute(*word[2:])) if isinstance(word, Place) else None
