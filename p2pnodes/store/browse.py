"""Looking through the inventory as people do: filtered, sorted, page by page.

A page is found by the row that it follows, never by counting off those before it, so the last page costs what the first
one does. Sorted by arrival, which is the order unless told, a page without a filter reads its own claims alone, however
large the inventory is; any other page, and any total, is one walk over the rows. Such walks run on a connection of
their own (``Database.browse``) and end after ``BROWSE_S_MAX``.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from p2pnodes.model import codec, explain
from p2pnodes.model.claims import NAME_CHARS_MAX
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.inventory import Scales, Weights
from p2pnodes.model.keys import ss58_decode
from p2pnodes.model.requests import UUID_CHARS_MAX
from p2pnodes.store.facts import FROM_NODE, Facts, row_keys, unpack_uuids

BROWSE_S_MAX: Final = 2.0
"""Seconds after which a walk over the inventory is given up: 100,000 rows take about a tenth of a second."""

BROWSE_STEPS: Final = 10_000
"""SQLite instructions between two looks at the clock: about a millisecond."""

PAGE_ROWS_MAX: Final = 500
"""Rows of one page at most."""

CLAIMS_PER_READ: Final = 64
"""Claims whose GPUs are read at once."""

CLAIMS_PER_PAGE_MAX: Final = 4_096
"""Claims that a page by arrival looks at; where more of them own nothing any more, walking over the rows is cheaper."""

SEARCH_CHARS_MAX: Final = 128
"""Longest text that is searched for: an SS58 address has 48 characters, a claim id 64."""

MODELS_MAX: Final = 256
"""Models that are told one by one, the most frequent ones; the rest is summed up as OTHERS. A table of supported GPUs
has some dozens, but what a miner calls its GPU is checked by no rule of the network."""

OTHERS: Final = "(others)"
"""Name of that sum; a miner may call its GPU so, too: ``ModelTotal.others`` tells the sum from it."""

PENDING_MAX: Final = 100
"""Open claims of one page at most: for each, its votes are weighed and its turns are worked out."""

ORDERS: Final = {
    "newest": ("n.claim", True),
    "oldest": ("n.claim", False),
    "uuid": ("n.uuid", False),
    "model": ("n.gpu_identifier", False),
    "status": ("n.status", False),
    "miner": ("n.miner", False),
    "server": ("ifnull(n.server_id, '')", False),
    "verified": ("ifnull(n.verified_since, 0)", True),
}
"""Name of an order -> what rows are sorted by, and whether the highest comes first; then by uuid."""

_SORTED_BY: Final = {"newest": int, "oldest": int, "verified": int, "miner": bytes}
"""What the values of an order are, where they are no texts."""

_ARRIVAL: Final = frozenset({"newest", "oldest"})

_SEARCHED: Final = ("n.uuid", "n.server_id", "n.name", "n.gpu_identifier", "n.chute_id", "n.instance_id")
"""Columns in which a search looks; miners are searched by their addresses besides."""


class Wanted(NamedTuple):
    """Which rows are looked for; None, or an empty text, where it does not matter.

    Attributes:
        search: Text that a row's uuid, server, name, model, chute or miner's address contains, in any case of letters.
        status: ``pending``, ``verified`` or ``failed``.
        gpu_identifier: Model.
        hotkey: SS58 address of its miner.
        server_id: As the miner says.
        chute_id: What runs on it.
        busy: Whether something runs on it.
    """

    search: str = ""
    status: str | None = None
    gpu_identifier: str | None = None
    hotkey: str | None = None
    server_id: str | None = None
    chute_id: str | None = None
    busy: bool | None = None


class Mark(NamedTuple):
    """A row that a page follows, or comes before.

    Attributes:
        value: What it is sorted by.
        uuid: GPU uuid.
        place: How many rows came before it when it was shown.
    """

    value: int | str | bytes
    uuid: str
    place: int

    def encode(self) -> str:
        """As a parameter of a URL."""
        return codec.pack([self.value, self.uuid, self.place]).hex()

    @classmethod
    def decode(cls, text: str) -> "Mark":
        """Read what ``encode`` wrote.

        Raises:
            ValueError: It did not write this.
        """
        if len(text) > MARK_CHARS_MAX:
            raise ValueError("not a place in a list")
        try:
            value, uuid, place = codec.fields(codec.unpack(bytes.fromhex(text)), 3, "mark")
            sorted_by = value if isinstance(value, str | bytes) else codec.integer(value, "value")
            return cls(sorted_by, codec.text(uuid, "uuid", UUID_CHARS_MAX), codec.integer(place, "place"))
        except (ValueError, MalformedError) as error:
            raise ValueError("not a place in a list") from error


MARK_CHARS_MAX: Final = 2 * (4 * (UUID_CHARS_MAX + NAME_CHARS_MAX) + 64)
"""Longest mark, in hex digits: two texts of at most four bytes a character, and a number."""


class Page(NamedTuple):
    """A part of a list.

    Attributes:
        rows: As the view ``inventory`` has them, in order.
        place: How many rows come before the first one; an estimate once rows were added or deleted there.
        before: Where the page before it ends; None when this is the first one.
        after: Where the next one begins; None when this is the last one.
    """

    rows: list[dict[str, Any]]
    place: int
    before: Mark | None
    after: Mark | None


class ModelTotal(NamedTuple):
    """GPUs of one model. ``provisioned`` and ``idle`` are verified, with and without a chute.

    The four do not overlap, and their sum is all GPUs of the model. ``others`` marks the sum of those left out.
    """

    gpu_identifier: str
    provisioned: int
    idle: int
    pending: int
    failed: int
    others: bool = False


class OpenClaim(NamedTuple):
    """A claim whose vote is open.

    Attributes:
        claim_id: 32 bytes.
        miner: Public key.
        nonce: Unix seconds.
        created_hlc: Lowest HLC of the events that carry it.
        gpus: How many GPUs it names.
        owned: How many of these it owns; none when it was deleted, or is in conflict with others.
        scales: The stakes of the vote.
        votes: Validators with a verdict on it that lives.
    """

    claim_id: bytes
    miner: bytes
    nonce: int
    created_hlc: int
    gpus: int
    owned: int
    scales: Scales
    votes: int


def page(
    facts: Facts, wanted: Wanted, order: str, limit: int, *, after: Mark | None = None, before: Mark | None = None
) -> Page:
    """A page of the inventory.

    Args:
        facts: To read from.
        wanted: Which rows.
        order: A key of ORDERS.
        limit: Rows at most, itself at most PAGE_ROWS_MAX.
        after: Begin behind this row.
        before: End before this row; goes before ``after``.

    Raises:
        ValueError: No such order, or a mark of another one.
    """
    if order not in ORDERS:
        raise ValueError(f"no order {order!r}; expected one of {', '.join(ORDERS)}")
    mark, backwards = (before, True) if before is not None else (after, False)
    limit = min(limit, PAGE_ROWS_MAX)
    descending = ORDERS[order][1] != backwards
    if mark is not None:
        checked(mark, order)
    found = None
    if order in _ARRIVAL and wanted == Wanted(hotkey=wanted.hotkey):
        found = _by_arrival(facts, wanted.hotkey, mark, limit + 1, descending=descending, backwards=backwards)
    if found is None:
        found = _walk(facts, wanted, order, mark, limit + 1, backwards=backwards)
    more = len(found) > limit
    del found[limit:]
    if backwards:
        found.reverse()
    earlier, later = (more, True) if backwards else (mark is not None, more)
    place = 0
    if mark is not None and earlier:
        place = max(0, mark.place - len(found)) if backwards else mark.place + 1
    return Page(
        _rows(facts, [uuid for _, uuid in found]),
        place,
        Mark(*found[0], place) if found and earlier else None,
        Mark(*found[-1], place + len(found) - 1) if found and later else None,
    )


def checked(mark: Mark, order: str) -> Mark:
    """The mark, if it is of this order: SQLite would compare any other one all the same.

    Raises:
        ValueError: It is of another order.
    """
    if not isinstance(mark.value, _SORTED_BY.get(order, str)):
        raise ValueError("of a list in another order")
    return mark


def _by_arrival(
    facts: Facts, hotkey: str | None, mark: Mark | None, limit: int, *, descending: bool, backwards: bool
) -> list[tuple[Any, str]] | None:
    """Rows in order of the claims that own them, read from the claims; None when too many of these own nothing."""
    miner = None if hotkey is None else _public_key(hotkey)
    if hotkey is not None and miner is None:
        return []
    comes, direction = ("<=", "DESC") if descending else (">=", "ASC")
    conditions = [f"claim {comes} ?" if mark else "1", "miner NOTNULL" if miner is None else "miner = ?"]
    values: list[Any] = [*([mark.value] if mark else []), *([] if miner is None else [miner])]
    claims = facts.connection.execute(
        f"SELECT claim, uuids FROM claim WHERE {' AND '.join(conditions)}"  # noqa: S608 - constant texts
        f" ORDER BY claim {direction} LIMIT ?",
        (*values, CLAIMS_PER_PAGE_MAX),
    )
    found: list[tuple[Any, str]] = []
    looked_at = 0
    while some := claims.fetchmany(CLAIMS_PER_READ):
        looked_at += len(some)
        named = {key: _uuids(uuids) for key, uuids in some}
        owner = _owners(facts, named)
        for key, uuids in named.items():
            for uuid in sorted(uuids, reverse=backwards):
                passed = mark is not None and key == mark.value and not _is_beyond(uuid, mark.uuid, down=backwards)
                if owner.get(uuid) == key and not passed:
                    found.append((key, uuid))
            if len(found) >= limit:
                return found[:limit]
    return found if looked_at < CLAIMS_PER_PAGE_MAX else None


def _is_beyond(uuid: str, other: str, *, down: bool) -> bool:
    return uuid < other if down else uuid > other


def _uuids(packed: bytes) -> set[str]:
    return set(unpack_uuids(packed))


def _owners(facts: Facts, named: Mapping[int, Collection[str]]) -> dict[str, int]:
    """Row key of the claim that owns a GPU, for each one that claims name and that has a row."""
    uuids = {uuid for each in named.values() for uuid in each}
    return dict(facts.connection.execute(f"SELECT n.uuid, n.claim {FROM_NODE}", (row_keys(uuids),)))


def _walk(
    facts: Facts, wanted: Wanted, order: str, mark: Mark | None, limit: int, *, backwards: bool
) -> list[tuple[Any, str]]:
    """Sort values and uuids of the rows behind (or, backwards, before) a mark."""
    column, highest_first = ORDERS[order]
    falling = highest_first != backwards
    conditions, values = _conditions(facts, wanted)
    if mark is not None:
        comes, follows = ("<" if falling else ">"), ("<" if backwards else ">")
        conditions.append(f"({column} {comes} ? OR ({column} = ? AND n.uuid {follows} ?))")
        values += [mark.value, mark.value, mark.uuid]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    directions = f"{column} {'DESC' if falling else 'ASC'}, n.uuid {'DESC' if backwards else 'ASC'}"
    return facts.connection.execute(
        f"SELECT {column}, n.uuid FROM node n{where} ORDER BY {directions} LIMIT ?",  # noqa: S608 - constant texts
        (*values, limit),
    ).fetchall()


def count(facts: Facts, wanted: Wanted) -> int:
    """How many rows there are that are looked for."""
    conditions, values = _conditions(facts, wanted)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    (found,) = facts.connection.execute(f"SELECT count(*) FROM node n{where}", values).fetchone()  # noqa: S608
    return int(found)


def totals(facts: Facts) -> list[ModelTotal]:
    """GPUs by model, the most frequent one first; at most MODELS_MAX of them, and then OTHERS."""
    rows = facts.connection.execute(
        "SELECT gpu_identifier,"
        " sum(status = 'verified' AND chute NOTNULL), sum(status = 'verified' AND chute ISNULL),"
        " sum(status = 'pending'), sum(status = 'failed'), count(*) AS gpus"
        " FROM node GROUP BY gpu_identifier ORDER BY gpus DESC, gpu_identifier"
    )
    models = [ModelTotal(*columns[:5]) for columns in rows.fetchmany(MODELS_MAX)]
    others = [0, 0, 0, 0]
    for _, *counts, _ in rows:
        others = [left + right for left, right in zip(others, counts, strict=True)]
    provisioned, idle, pending, failed = others
    summed = ModelTotal(OTHERS, provisioned, idle, pending, failed, others=True)
    return [*models, summed] if any(others) else models


def open_claims(facts: Facts, weights: Weights, limit: int, after: tuple[int, bytes] | None = None) -> list[OpenClaim]:
    """Claims whose vote is open, the latest first.

    Args:
        facts: To read from.
        weights: Who counts.
        limit: Claims at most, itself at most PENDING_MAX.
        after: Nonce and claim id of the last one of the page before.
    """
    behind = "" if after is None else " AND (nonce < ? OR (nonce = ? AND claim_id > ?))"
    values = [] if after is None else [after[0], after[0], after[1]]
    claims = facts.connection.execute(
        "SELECT claim, claim_id, miner, nonce, uuids,"  # noqa: S608 - constant texts
        " (SELECT min(hlc) FROM carriage r WHERE r.claim = c.claim) FROM claim c"
        f" WHERE status = 'pending' AND miner NOTNULL{behind} ORDER BY nonce DESC, claim_id LIMIT ?",
        (*values, min(limit, PENDING_MAX)),
    ).fetchall()
    named = {key: _uuids(uuids) for key, _, _, _, uuids, _ in claims}
    owner = _owners(facts, named)
    votes = facts.votes(named)
    found = []
    for key, claim_id, miner, nonce, _, hlc in claims:
        poll = explain.poll(votes[key], weights)
        owned = sum(owner.get(uuid) == key for uuid in named[key])
        heard = sum(voice.state is explain.VoiceState.COUNTS for voice in poll.voices)
        found.append(OpenClaim(claim_id, miner, nonce, hlc, len(named[key]), owned, poll.scales, heard))
    return found


def count_open(facts: Facts) -> int:
    """How many claims have an open vote."""
    query = "SELECT count(*) FROM claim WHERE status = 'pending' AND miner NOTNULL"
    return int(facts.connection.execute(query).fetchone()[0])


def _rows(facts: Facts, uuids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the view ``inventory``, in this order."""
    cursor = facts.connection.execute(
        "SELECT i.* FROM json_each(?) k CROSS JOIN inventory i ON i.bucket = json_extract(k.value, '$[0]')"
        " AND i.uuid = json_extract(k.value, '$[1]') ORDER BY k.key",
        (row_keys(uuids),),
    )
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def _conditions(facts: Facts, wanted: Wanted) -> tuple[list[str], list[Any]]:
    exact = {
        "n.status = ?": wanted.status,
        "n.gpu_identifier = ?": wanted.gpu_identifier,
        "n.server_id = ?": wanted.server_id,
        "n.chute_id = ?": wanted.chute_id,
    }
    conditions = [condition for condition, value in exact.items() if value is not None]
    values: list[Any] = [value for value in exact.values() if value is not None]
    if wanted.hotkey is not None:
        conditions.append("n.miner IS ?")
        values.append(_public_key(wanted.hotkey))
    if wanted.busy is not None:
        conditions.append(f"n.chute {'NOTNULL' if wanted.busy else 'ISNULL'}")
    if wanted.search:
        like = f"%{_escaped(wanted.search[:SEARCH_CHARS_MAX])}%"
        miners = [
            hotkey.hex()
            for (hotkey,) in facts.connection.execute(
                "SELECT hotkey FROM address WHERE address LIKE ? ESCAPE '\\'", (like,)
            )
        ]
        looked_in = [f"{column} LIKE ? ESCAPE '\\'" for column in _SEARCHED]
        if miners:
            looked_in.append("lower(hex(n.miner)) IN (SELECT value FROM json_each(?))")
        conditions.append(f"({' OR '.join(looked_in)})")
        values += [like] * len(_SEARCHED) + ([orjson.dumps(miners).decode()] if miners else [])
    return conditions, values


def _escaped(text: str) -> str:
    """A text in which LIKE finds no wildcards."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _public_key(address: str) -> bytes | None:
    try:
        return ss58_decode(address)
    except ValueError:
        return None
