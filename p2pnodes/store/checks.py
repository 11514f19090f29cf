"""The validator's own book of checks: what is to be checked again and when, kept across restarts.

A claim without an entry is due while it waits for this validator's verdict. An entry says when a claim is due again, or
that a check was begun: a daemon that is killed in the middle of one makes it anew.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.inventory import Vote, Weights
from p2pnodes.store.facts import Facts, StoredClaim

NOTE_CHARS_MAX: Final = 512

_UNSAID: Final = (
    "NOT EXISTS (SELECT 1 FROM claim c JOIN verdict v USING (claim) JOIN logs l USING (log)"
    " WHERE c.claim_id = checks.claim_id AND l.hotkey = ? AND v.hlc >= ? * (due_ms - ?))"
)
"""That no verdict of a validator counts for which an entry was made: its public key, HLCs in a millisecond, and within
how many milliseconds after a verdict its entry is due."""


class Check(NamedTuple):
    """An entry of the book.

    Attributes:
        due_ms: Unix milliseconds; the claim is checked again from then on.
        failures: Findings other than verified, in a row.
        faults: Times in a row that this validator could not check.
        note: Why it could not, for the operator; empty otherwise.
    """

    due_ms: int
    failures: int = 0
    faults: int = 0
    note: str = ""


class Prospect(NamedTuple):
    """A claim that may be checked, with what decides when.

    Attributes:
        claim: The claim.
        votes: Every valid verdict on it.
        own: The latest of them that is this validator's.
        check: What the book says of it.
    """

    claim: StoredClaim
    votes: tuple[Vote, ...]
    own: Vote | None
    check: Check | None


def read_check(facts: Facts, claim_id: bytes) -> Check | None:
    """The entry of a claim."""
    row = facts.connection.execute(
        "SELECT due_ms, failures, faults, note FROM checks WHERE claim_id = ?", (claim_id,)
    ).fetchone()
    return None if row is None else Check(*row)


def write_check(facts: Facts, claim_id: bytes, check: Check) -> None:
    """Enter a claim, or enter it anew; in the writer's transaction."""
    facts.connection.execute(
        "INSERT OR REPLACE INTO checks VALUES (?, ?, ?, ?, ?)",
        (claim_id, *check._replace(note=check.note[:NOTE_CHARS_MAX])),
    )


def drop_check(facts: Facts, claim_id: bytes, check: Check | None = None) -> None:
    """Strike a claim out; in the writer's transaction. With ``check`` only while its entry is still that one."""
    if check is None or read_check(facts, claim_id) == check:
        facts.connection.execute("DELETE FROM checks WHERE claim_id = ?", (claim_id,))


def drop_checks(facts: Facts, claim_ids: Iterable[bytes]) -> None:
    """Strike claims out, whatever their entries are; in the writer's transaction."""
    for claim_id in claim_ids:
        drop_check(facts, claim_id)


def drop_unsaid(facts: Facts, validator: bytes, life_ms: int) -> None:
    """Strike out what was entered for verdicts that do not count any more, as their log was cut; they are due again.

    Call it in the writer's transaction.

    Args:
        facts: Of the writer.
        validator: Whose checks.
        life_ms: An entry is due within this time after the verdict that it was made for.
    """
    facts.connection.execute(
        f"DELETE FROM checks WHERE faults = 0 AND {_UNSAID}",  # noqa: S608 - a constant
        (validator, hlc_at(1), life_ms),
    )


def prospect(facts: Facts, claim_id: bytes, validator: bytes, weights: Weights) -> Prospect | None:
    """A claim with what decides when it is checked; None when it is unknown or not ``Facts.checkable``."""
    key = facts.claim_key(claim_id)
    claim = None if key is None else facts.claim(key)
    if key is None or claim is None or not facts.checkable(claim, weights):
        return None
    stored = facts.stored(key, weights)
    if stored is None:
        return None
    votes = tuple(facts.votes([key])[key])
    own = max((vote for vote in votes if vote.author == validator), key=lambda vote: vote.hlc, default=None)
    return Prospect(stored, votes, own, read_check(facts, claim_id))


Entry = tuple[int, bytes]
"""When an entry is due, Unix milliseconds, and its claim."""


def put_off(facts: Facts, validator: bytes, after: Entry, life_ms: int, count: int) -> tuple[list[bytes], Entry | None]:
    """Claims whose entry is due late though no verdict counts for which it was made: the clock ran ahead then.

    Args:
        facts: To read from.
        validator: Whose checks.
        after: As late as an entry may be due that was made by no verdict; then where the part before this one ended.
        life_ms: An entry is due within this time after the verdict that it was made for.
        count: Entries that are looked at.

    Returns:
        The claims, and where this part ends: None when it was the last one.
    """
    rows = facts.connection.execute(
        f"SELECT due_ms, claim_id, faults > 0 OR {_UNSAID} FROM (SELECT * FROM checks"  # noqa: S608 - a constant
        " WHERE (due_ms, claim_id) > (?, ?) ORDER BY due_ms, claim_id LIMIT ?) checks",
        (validator, hlc_at(1), life_ms, *after, count),
    ).fetchall()
    last = (rows[-1][0], rows[-1][1]) if len(rows) == count else None
    return [claim_id for _, claim_id, vain in rows if vain], last


def entered(facts: Facts, now_ms: int, ttl_s: int, limit: int) -> list[bytes]:
    """Claims whose entry is due.

    Args:
        facts: To read from.
        now_ms: Wall clock.
        ttl_s: A verdict's life. An entry that is due later than that was written by a clock that ran ahead.
        limit: Claims at most. They are drawn: some may have to wait long for reasons of their own, and must not stand
            before the others for ever.
    """
    rows = facts.connection.execute(
        "SELECT claim_id FROM checks WHERE due_ms <= ? OR due_ms > ? ORDER BY random() LIMIT ?",
        (now_ms, now_ms + ttl_s * 1000, limit),
    )
    return [claim_id for (claim_id,) in rows]


def waiting(facts: Facts, validator: bytes, now_ms: int, ttl_s: int, limit: int) -> list[bytes]:
    """Open claims without an entry and without a verdict of this validator that lives.

    They are looked at while they are younger than a verdict lives, or on a GPU whose owner is not verified: what else
    was ever claimed is deleted, or has lost to another, and must not cost a look at each scan.

    Args:
        facts: To read from.
        validator: Whose checks.
        now_ms: Wall clock.
        ttl_s: A verdict's life.
        limit: Claims at most, drawn as in ``entered``.
    """
    rows = facts.connection.execute(
        "SELECT claim_id FROM (SELECT claim FROM claim WHERE status = 'pending' AND nonce >= ?"
        " UNION SELECT claim FROM node WHERE status <> 'verified'"
        " UNION SELECT g.claim FROM node n JOIN claim_gpu g USING (uuid) WHERE n.status <> 'verified')"
        " JOIN claim c USING (claim) WHERE c.status = 'pending'"
        " AND NOT EXISTS (SELECT 1 FROM checks k WHERE k.claim_id = c.claim_id)"
        " AND NOT EXISTS (SELECT 1 FROM verdict v JOIN logs l USING (log)"
        " WHERE v.claim = c.claim AND l.hotkey = ? AND v.hlc >= ?) ORDER BY random() LIMIT ?",
        (now_ms // 1000 - ttl_s, validator, hlc_at(max(0, now_ms - ttl_s * 1000)), limit),
    )
    return [claim_id for (claim_id,) in rows]


def decided(facts: Facts, after: int, count: int) -> tuple[list[bytes], int]:
    """Decided claims without an entry among the next ``count`` claims: one part of a walk through all.

    Some of them may wait for this validator all the same: it enrolled after they were decided, stakes have changed,
    or somebody does not renew a verdict.

    Args:
        facts: To read from.
        after: Where the part before this one ended; 0 at first.
        count: Claims that are looked at.

    Returns:
        The claims, and where this part ends: 0 when it was the last one.
    """
    (last,) = facts.connection.execute(
        "SELECT max(claim) FROM (SELECT claim FROM claim WHERE claim > ? ORDER BY claim LIMIT ?)", (after, count)
    ).fetchone()
    if last is None:
        return [], 0
    rows = facts.connection.execute(
        "SELECT claim_id FROM claim c WHERE claim > ? AND claim <= ? AND status <> 'pending' AND miner NOTNULL"
        " AND NOT EXISTS (SELECT 1 FROM checks k WHERE k.claim_id = c.claim_id)",
        (after, last),
    )
    return [claim_id for (claim_id,) in rows], last


def claims(facts: Facts) -> int:
    """How many claims there are: their row keys have no gaps."""
    (count,) = facts.connection.execute("SELECT coalesce(max(claim), 0) FROM claim").fetchone()
    return int(count)
