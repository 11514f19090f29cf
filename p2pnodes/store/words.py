"""The latest word of each log on a claim (verdict) or on a GPU under a claim (place, release), below the log's cut.

Where a word replaces another, its event says which (``events.before``): a cut that falls finds the words that are
latest again without reading the log.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from p2pnodes.model import codec
from p2pnodes.model.events import Event, Place, Release, Verdict
from p2pnodes.model.inventory import Chute
from p2pnodes.model.validity import contents
from p2pnodes.store.facts import chute_fields

Word = Verdict | Place | Release


class Taken(NamedTuple):
    """Words of one log that count no more, with the seq of what each replaced; None where it replaced nothing.

    Attributes:
        verdicts: By claim id.
        places: By GPU and claim id.
    """

    verdicts: dict[bytes, int | None]
    places: dict[tuple[str, bytes], int | None]

    def add(self, word: Word, before: bytes | None) -> None:
        """Take one more; from the highest seq down, so that what the lowest one replaced is what counts again."""
        named = 1 if isinstance(word, Verdict) else len(word.uuids)
        seqs: Sequence[Any] = [None] * named if before is None else codec.fields(codec.unpack(before), named, "before")
        if isinstance(word, Verdict):
            self.verdicts[word.claim_id] = seqs[0]
        else:
            self.places.update({(uuid, word.claim_id): seq for uuid, seq in zip(word.uuids, seqs, strict=True)})


_PLACEMENT: Final = "INSERT OR REPLACE INTO placement VALUES (?, ?, ?, ?, ?, ?)"


def replaced(connection: sqlite3.Connection, log: int, word: Word) -> bytes | None:
    """What a word of a log will replace, as ``events.before`` holds it."""
    if isinstance(word, Verdict):
        row = connection.execute(
            "SELECT v.seq FROM claim c JOIN verdict v USING (claim) WHERE c.claim_id = ? AND v.log = ?",
            (word.claim_id, log),
        ).fetchone()
        return None if row is None else codec.pack(list(row))
    rows = connection.execute(
        "SELECT uuid, seq FROM placement WHERE uuid IN (SELECT value FROM json_each(?)) AND claim_id = ? AND log = ?",
        (orjson.dumps(word.uuids).decode(), word.claim_id, log),
    )
    held: dict[str, int] = dict(rows.fetchall())
    return codec.pack([held.get(uuid) for uuid in word.uuids]) if held else None


def say_verdict(  # noqa: PLR0917 - the columns of the table
    connection: sqlite3.Connection, claim: int, log: int, seq: int, hlc: int, word: Verdict
) -> None:
    """Record a verdict on the claim of a row key."""
    connection.execute(
        "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (claim, log, seq, hlc, word.finding, word.since, word.method, word.detail),
    )


def say_placement(connection: sqlite3.Connection, log: int, seq: int, hlc: int, word: Place | Release) -> None:
    """Record a place or release."""
    _place(connection, log, seq, hlc, word, word.uuids)


def take_back(connection: sqlite3.Connection, log: int, taken: Taken) -> None:
    """Let what words of a log replaced be the latest again."""
    connection.executemany(
        "DELETE FROM verdict WHERE claim = (SELECT claim FROM claim WHERE claim_id = ?) AND log = ?",
        [(claim_id, log) for claim_id in taken.verdicts],
    )
    connection.executemany(
        "DELETE FROM placement WHERE uuid = ? AND claim_id = ? AND log = ?", [(*key, log) for key in taken.places]
    )
    verdicts = {seq for seq in taken.verdicts.values() if seq is not None}
    places: dict[int, list[str]] = {}
    for (uuid, _), before in taken.places.items():
        if before is not None:
            places.setdefault(before, []).append(uuid)
    for seq in sorted(verdicts | places.keys()):
        (wire,) = connection.execute("SELECT wire FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
        event = Event.decode(wire)
        match contents(event).payload:
            case Verdict() as verdict:
                (claim,) = connection.execute(
                    "SELECT claim FROM claim WHERE claim_id = ?", (verdict.claim_id,)
                ).fetchone()
                say_verdict(connection, claim, log, seq, event.hlc, verdict)
            case Place() | Release() as word:
                _place(connection, log, seq, event.hlc, word, places[seq])
            case _:
                raise LookupError("BUG! what a word replaced is no word")


def _place(  # noqa: PLR0917 - the columns of the table
    connection: sqlite3.Connection, log: int, seq: int, hlc: int, word: Place | Release, uuids: Iterable[str]
) -> None:
    chute = chute_fields(Chute(*word[2:])) if isinstance(word, Place) else None
    connection.executemany(_PLACEMENT, [(uuid, word.claim_id, log, seq, hlc, chute) for uuid in uuids])
