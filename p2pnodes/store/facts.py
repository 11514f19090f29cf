"""Reading what the stored valid events state, as arguments of the inventory function.

Works on any connection: the writer's inside its transaction, or a reader's snapshot.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from p2pnodes.model import codec, inventory
from p2pnodes.model.claims import Body, parse_body
from p2pnodes.model.events import VERIFIED, AddPayload, Carry, Event
from p2pnodes.model.inventory import (
    Carriage,
    Chute,
    Claim,
    DeleteCarriage,
    Deletion,
    Mandate,
    Placement,
    Tally,
    TaskStatus,
    Vote,
    Weights,
)
from p2pnodes.model.requests import Add, request_id


class StoredClaim(NamedTuple):
    """A claim with all that a miner is told of it.

    Attributes:
        claim_id: 32 bytes.
        miner: Public key.
        nonce: Unix seconds.
        body: What the miner sent.
        created_hlc: Lowest HLC of the events that carry it.
        tally: The vote on it.
    """

    claim_id: bytes
    miner: bytes
    nonce: int
    body: Body
    created_hlc: int
    tally: Tally


class Facts:
    """Everything that is stored about claims, GPUs and mandates. Never writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read through ``connection``, from its own thread."""
        self.connection = connection
        self._hotkeys: dict[int, bytes] = {}

    def close(self) -> None:
        """Close the connection, in its own thread."""
        self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the database throughout the body; not for the writer's connection."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("COMMIT")

    def author(self, log: int) -> bytes:
        """Hotkey that a log speaks for."""
        hotkey = self._hotkeys.get(log)
        if hotkey is None:
            (hotkey,) = self.connection.execute("SELECT hotkey FROM logs WHERE log = ?", (log,)).fetchone()
            self._hotkeys[log] = hotkey
        return hotkey

    def mandates(self) -> dict[bytes, Mandate]:
        """What the logs say about each validator's delegations."""
        windows: dict[bytes, list[tuple[int, int]]] = {}
        first: dict[bytes, int] = {}
        query = "SELECT log, hlc, not_before, not_after FROM delegations ORDER BY log, seq DESC"
        latest_of = None
        for log, hlc, not_before, not_after in self.connection.execute(query):
            hotkey = self.author(log)
            first[hotkey] = min(first.get(hotkey, hlc), hlc)
            if log != latest_of:
                windows.setdefault(hotkey, []).append((not_before, not_after))
                latest_of = log
        return {hotkey: Mandate(tuple(spans), first[hotkey]) for hotkey, spans in windows.items()}

    def urls(self) -> dict[bytes, str]:
        """Hotkey -> URL of the delegation with the highest HLC."""
        query = "SELECT log, url FROM delegations ORDER BY hlc"
        return {self.author(log): url for log, url in self.connection.execute(query)}

    def claim_key(self, claim_id: bytes) -> int | None:
        """Row key of a claim that at least a verdict names."""
        row = self.connection.execute("SELECT claim FROM claim WHERE claim_id = ?", (claim_id,)).fetchone()
        return None if row is None else row[0]

    def claim(self, key: int) -> Claim | None:
        """A claim by row key; None while only verdicts name it."""
        row = self.connection.execute(
            "SELECT claim_id, miner, nonce, uuids FROM claim WHERE claim = ?", (key,)
        ).fetchone()
        return None if row is None or row[1] is None else self._claim(key, *row)

    def claims_on(self, uuid: str) -> dict[int, Claim]:
        """Every claim that names a GPU, by row key."""
        rows = self.connection.execute(
            "SELECT claim, claim_id, miner, nonce, uuids FROM claim_gpu JOIN claim USING (claim) WHERE uuid = ?",
            (uuid,),
        ).fetchall()
        return {row[0]: self._claim(*row) for row in rows}

    def _claim(self, key: int, claim_id: bytes, miner: bytes, nonce: int, uuids: bytes) -> Claim:
        carriages = tuple(
            Carriage(self.author(log), block, hlc)
            for log, block, hlc in self.connection.execute(
                "SELECT log, electorate_block, hlc FROM carriage WHERE claim = ?", (key,)
            )
        )
        return Claim(claim_id, miner, nonce, tuple(codec.unpack(uuids)), carriages)  # type: ignore[arg-type]

    def votes(self, key: int) -> list[Vote]:
        """The latest verdict of every log on a claim."""
        rows = self.connection.execute(
            "SELECT log, hlc, finding, since, method, detail FROM verdict WHERE claim = ?", (key,)
        )
        return [Vote(self.author(log), *rest) for log, *rest in rows]

    def deletions(self, uuid: str) -> list[Deletion]:
        """Every delete request that names a GPU, with its carriages; unbound ones with those for other GPUs too."""
        rows = self.connection.execute(
            "SELECT request_id, miner, nonce, bound, log, uuid, claim_ids FROM deletion WHERE uuid = ?", (uuid,)
        ).fetchall()
        if not rows:
            return []
        found: dict[bytes, Deletion] = {}
        for request, miner, nonce, bound, *_ in rows:
            if request in found:
                continue
            siblings = (
                [row[4:] for row in rows if row[0] == request]
                if bound
                else self.connection.execute(
                    "SELECT log, uuid, claim_ids FROM deletion WHERE bound = 0 AND request_id = ?", (request,)
                ).fetchall()
            )
            carriages = tuple(
                DeleteCarriage(self.author(log), named, frozenset(codec.unpack(ids)))  # type: ignore[arg-type]
                for log, named, ids in siblings
            )
            found[request] = Deletion(request, miner, nonce, bool(bound), carriages)
        return list(found.values())

    def placements(self, uuid: str) -> list[Placement]:
        """The latest place or release of every log for a GPU."""
        rows = self.connection.execute("SELECT log, hlc, claim_id, chute FROM placement WHERE uuid = ?", (uuid,))
        return [Placement(self.author(log), hlc, claim_id, chute_from(chute)) for log, hlc, claim_id, chute in rows]

    def body(self, key: int) -> Body:
        """What the miner sent, from an event that carries the claim."""
        return parse_body(self.raw_body(key))

    def raw_body(self, key: int) -> bytes:
        """The bytes that the miner sent."""
        claim_id, wire = self.connection.execute(
            "SELECT claim_id, wire FROM claim JOIN events USING (position) WHERE claim = ?", (key,)
        ).fetchone()
        return _find_add(Event.decode(wire), claim_id).body

    def stored(self, key: int, weights: Weights) -> StoredClaim | None:
        """A claim as its miner sees it; None while only verdicts name it."""
        claim = self.claim(key)
        if claim is None:
            return None
        created = min(carriage.hlc for carriage in claim.carriages)
        vote = inventory.tally(self.votes(key), weights)
        return StoredClaim(claim.id, claim.miner, claim.nonce, self.body(key), created, vote)

    def standing(self, uuid: str, weights: Weights) -> dict[int, Claim]:
        """The standing claims on a GPU by row key, in order of their stamps."""
        claims = self.claims_on(uuid)
        order = inventory.standing(uuid, claims.values(), self.deletions(uuid), weights.electorate)
        keys = {claim.id: key for key, claim in claims.items()}
        return {keys[claim.id]: claim for claim in order}

    def tallies(self, keys: Iterable[int], weights: Weights) -> dict[int, Tally]:
        """Tally of each claim, by row key."""
        return {key: inventory.tally(self.votes(key), weights) for key in keys}

    def find_task(self, miner: bytes, task: bytes) -> int | None:
        """Row key of a miner's claim whose id begins with ``task`` (16 bytes)."""
        row = self.connection.execute(
            "SELECT claim FROM claim WHERE claim_id BETWEEN ? AND ? AND miner = ?",
            (task + bytes(16), task + b"\xff" * 16, miner),
        ).fetchone()
        return None if row is None else row[0]

    def task_status(self, miner: bytes, task: bytes, weights: Weights) -> TaskStatus | None:
        """Status of a miner's task, None when no claim of this miner is known by it."""
        key = self.find_task(miner, task)
        claim = None if key is None else self.claim(key)
        if key is None or claim is None:
            return None
        standings: dict[str, Sequence[Claim]] = {}
        keys = {key}
        for uuid in claim.uuids:
            found = self.standing(uuid, weights)
            keys |= found.keys()
            standings[uuid] = list(found.values())
        votes = self.tallies(keys, weights)
        by_id = {
            claim_id: votes[other]
            for other in keys
            for (claim_id,) in self.connection.execute("SELECT claim_id FROM claim WHERE claim = ?", (other,))
        }
        return inventory.task_status(claim, votes[key], standings, by_id)

    def due(self, hotkey: bytes, before_hlc: int, limit: int, weights: Weights) -> list[bytes]:
        """Claims that a validator should check now, oldest first.

        Args:
            hotkey: The validator.
            before_hlc: Claims with a verdict of its own at or above this HLC are not due.
            limit: Claims at most.
            weights: Who counts.

        Returns:
            Ids of claims that are ``checkable``.
        """
        keys = self.connection.execute(
            "SELECT claim FROM claim c WHERE miner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM verdict v"
            " JOIN logs l USING (log) WHERE v.claim = c.claim AND l.hotkey = ? AND v.hlc >= ?) ORDER BY claim",
            (hotkey, before_hlc),
        ).fetchall()
        found: list[bytes] = []
        for (key,) in keys:
            claim = self.claim(key)
            if claim is not None and self.checkable(claim, weights):
                found.append(claim.id)
            if len(found) >= limit:
                break
        return found

    def checkable(self, claim: Claim, weights: Weights) -> bool:
        """Whether a claim stands on a GPU and is not in conflict with a verified claim of another hotkey.

        One that is waits until that one lapses (design.md, "Squatting").
        """
        stands = False
        for uuid in claim.uuids:
            claims = self.standing(uuid, weights)
            tallies = {other.id: inventory.tally(self.votes(key), weights) for key, other in claims.items()}
            holder = inventory.owner(list(claims.values()), tallies)
            if holder and holder.miner != claim.miner and tallies[holder.id].status == VERIFIED:
                return False
            stands = stands or claim in claims.values()
        return stands

    def own_verdict(self, claim_id: bytes, hotkey: bytes) -> Vote | None:
        """The latest verdict of a validator on a claim."""
        key = self.claim_key(claim_id)
        votes = [] if key is None else [vote for vote in self.votes(key) if vote.author == hotkey]
        return max(votes, key=lambda vote: vote.hlc, default=None)


def chute_fields(chute: Chute | None) -> bytes | None:
    """A chute as the database holds it."""
    return None if chute is None else codec.pack(list(chute))


def chute_from(data: bytes | None) -> Chute | None:
    """A chute from the database."""
    return None if data is None else Chute(*codec.unpack(data))  # type: ignore[misc]


def _find_add(event: Event, claim_id: bytes) -> Add:
    """The add request with this id in an ``add`` or ``carry`` event."""
    if event.kind == "add":
        return AddPayload.from_wire(codec.unpack(event.payload)).request
    for wire in Carry.from_wire(codec.unpack(event.payload)).events:
        inner = Event.decode(wire)
        if inner.kind == "add":
            add = AddPayload.from_wire(codec.unpack(inner.payload)).request
            if request_id(inner.network_id, add) == claim_id:
                return add
    raise LookupError("BUG! the event that the claim names does not carry it")
