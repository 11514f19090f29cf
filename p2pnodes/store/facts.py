"""Reading what the stored valid events state, as arguments of the inventory function.

Works on any connection: the writer's inside its transaction, or a reader's snapshot.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgpack
import orjson

from p2pnodes.model import codec, explain, inventory
from p2pnodes.model.checkpoint import ended_ms
from p2pnodes.model.claims import Body, parse_body
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.codec import DIGEST_BYTES
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import P2PNodesError, StoreError
from p2pnodes.model.events import VERIFIED, AddPayload, Carry, Event, Head, LogId, body_of_add
from p2pnodes.model.inventory import (
    Carriage,
    Chute,
    Claim,
    DeleteCarriage,
    Deletion,
    Ending,
    Mandate,
    Placement,
    Tally,
    TaskStatus,
    Vote,
    Weights,
)
from p2pnodes.model.requests import NONCE_WINDOW_S, Add, request_id
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store.checkpoints import cut_logs
from p2pnodes.store.damage import REBUILD, UNREADABLE, damaged, stored_event, unreadable

FROM_NODE: Final = (
    "FROM json_each(?) k CROSS JOIN node n ON n.bucket = json_extract(k.value, '$[0]')"
    " AND n.uuid = json_extract(k.value, '$[1]')"
)
"""The rows of some GPUs as ``n``, by their keys (``row_keys``)."""

CLAIMS_ON: Final = (
    "SELECT claim FROM claim_gpu WHERE uuid = ? UNION ALL SELECT claim FROM node WHERE bucket = ? AND uuid = ?"
)
"""Row keys of the claims that name a GPU (``claims_on_key``): that which has its row, and all others."""

Held = dict[str, tuple[int, bytes]]
"""Rows of GPUs: uuid -> row key of the claim, digest of the row."""

_FROM_LATEST_DELEGATIONS: Final = (
    "FROM logs CROSS JOIN delegations latest ON latest.log = logs.log AND latest.seq = (SELECT max(seq)"
    " FROM delegations d WHERE d.log = logs.log AND d.seq < ifnull(logs.cut, 9223372036854775807))"
)
"""The logs, each with its latest delegation that counts; those without any are left out. No other one is read."""

_NAMED_BY: Final = (  # from one GPU to the next: one log may name the same one a hundred thousand times
    "WITH RECURSIVE named(uuid) AS (SELECT min(uuid) FROM deletion WHERE request_id = ?1 UNION ALL"
    " SELECT (SELECT min(uuid) FROM deletion d WHERE d.request_id = ?1 AND d.uuid > named.uuid)"
    " FROM named WHERE uuid NOTNULL) SELECT uuid FROM named WHERE uuid NOTNULL"
)

_DELETION: Final = "request_id, miner, nonce, bound, log, seq, uuid, claim_ids"
_OF_GPUS: Final = "uuid IN (SELECT value FROM json_each(?))"

_LAST_DELETIONS: Final = (  # on each GPU each miner's of his highest nonce
    f"WITH last AS (SELECT uuid, miner, max(nonce) AS nonce FROM deletion WHERE {_OF_GPUS}"  # noqa: S608 - our own names
    f" GROUP BY uuid, miner) SELECT {_DELETION} FROM deletion CROSS JOIN last USING (uuid, miner, nonce)"
    " WHERE uuid IN (SELECT uuid FROM last)"
)

_NO_CLAIMS: Final[Mapping[int, Claim]] = MappingProxyType({})

BODIES_KEPT: Final = 256
"""Parsed bodies that are kept, the oldest is dropped: rows of a new claim are written right behind its event."""


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


class Server(NamedTuple):
    """What rows show of a claim's body: the server's id, and of each GPU, by uuid, gpu_identifier and name."""

    id: str | None
    gpus: dict[str, tuple[str, str]]


class Task(NamedTuple):
    """A claim with the answer to its miner's poll."""

    claim: Claim
    status: TaskStatus


CLAIM_PREFIX_BYTES: Final = 16
"""Bytes of a claim id that name it: those of a task id (design.md, rule 2)."""


class AmbiguousError(P2PNodesError):
    """A few first bytes name several claims."""

    code = Code.API_FORM


class Facts:
    """Everything that is stored about claims, GPUs and mandates. Never writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read through ``connection``, from its own thread."""
        self.connection = connection
        self.cuts: dict[int, int] = {}
        """First seq that counts for nothing, of the logs that have such, by row key: what lies there is left out."""
        self.read_cuts()
        self.fresh: dict[str, list[int]] = {}
        """Claims of the writer's open transaction, by the GPUs that they name: until its end nothing else tells so."""
        self._hotkeys: dict[int, bytes] = {}
        self._bodies: dict[bytes, Body] = {}

    def close(self) -> None:
        """Close the connection, in its own thread."""
        self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the database throughout the body; not for the writer's connection."""
        self._end()  # one before, if there was no memory for that
        self.connection.execute("BEGIN")
        try:
            self.read_cuts()
            yield
        finally:
            self._end()

    def _end(self) -> None:
        """End the open transaction, if there is one; where it could not read SQLite has done so."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    def read_cuts(self) -> None:
        """Learn where logs are cut, as of now."""
        self.cuts = dict(self.connection.execute("SELECT log, cut FROM logs WHERE cut NOTNULL").fetchall())

    def note_cut(self, log: int, cut: int | None) -> None:
        """Learn where a log is cut from now on; None for nowhere. To read all would cost each as much as all have."""
        if cut is None:
            self.cuts.pop(log, None)
        else:
            self.cuts[log] = cut

    def is_void(self, log: int, seq: int) -> bool:
        """Whether an event lies at or above the cut of its log."""
        return seq >= self.cuts.get(log, seq + 1)

    def author(self, log: int) -> bytes:
        """Hotkey that a log speaks for, by the log's row key.

        Raises:
            StoreError: There is no such log.
        """
        hotkey: bytes | None = self._hotkeys.get(log)
        if hotkey is None:
            row = self.connection.execute("SELECT hotkey FROM logs WHERE log = ?", (log,)).fetchone()
            if row is None:
                raise damaged(f"log {log} is not in it, of which it holds statements")
            hotkey = self._hotkeys[log] = row[0]
        return hotkey

    def mandates(self) -> dict[bytes, Mandate]:
        """What the logs say about each validator's delegations."""
        windows: dict[bytes, list[tuple[int, int]]] = {}
        first: dict[bytes, int] = {}
        # HLCs rise along a log: its first delegation has the lowest.
        first_hlc = "(SELECT hlc FROM delegations d WHERE d.log = logs.log ORDER BY seq LIMIT 1)"
        columns = f"hotkey, latest.not_before, latest.not_after, {first_hlc}"
        query = f"SELECT {columns} {_FROM_LATEST_DELEGATIONS} ORDER BY logs.log"
        for hotkey, not_before, not_after, hlc in self.connection.execute(query):
            windows.setdefault(hotkey, []).append((not_before, not_after))
            first[hotkey] = min(first.get(hotkey, hlc), hlc)
        return {hotkey: Mandate(tuple(spans), first[hotkey]) for hotkey, spans in windows.items()}

    def urls(self) -> dict[bytes, str]:
        """Hotkey -> URL of the delegation with the highest HLC."""
        query = f"SELECT hotkey, latest.url {_FROM_LATEST_DELEGATIONS} ORDER BY latest.hlc, logs.log"
        return dict(self.connection.execute(query).fetchall())

    def claim_key(self, claim_id: bytes) -> int | None:
        """Row key of a claim that at least a verdict names."""
        row = self.connection.execute("SELECT claim FROM claim WHERE claim_id = ?", (claim_id,)).fetchone()
        return None if row is None else row[0]

    def claim(self, key: int) -> Claim | None:
        """A claim by row key; None while only verdicts name it."""
        return self._claims([key]).get(key)

    def all_void(self, key: int) -> bool:
        """Whether every event that carries a claim lies at or above the cut of its log."""
        if not self.cuts:
            return False
        return all(
            self.is_void(log, seq)
            for log, seq in self.connection.execute("SELECT log, seq FROM carriage WHERE claim = ?", (key,))
        )

    def _claims(self, keys: Collection[int], *, cut: bool = False) -> dict[int, Claim]:
        """Some claims by row key; with ``cut`` also with the carriages that count for nothing, to explain them."""
        carriages: dict[int, list[Carriage]] = {}
        query = (
            "SELECT claim, log, seq, electorate_block, hlc FROM carriage"
            " WHERE claim IN (SELECT value FROM json_each(?))"
        )
        for key, log, seq, block, hlc in self._select(query, keys):
            void = self.is_void(log, seq)
            if cut or not void:
                carriages.setdefault(key, []).append(Carriage(self.author(log), block, hlc, void))
        query = (
            "SELECT claim, claim_id, miner, nonce, uuids FROM claim"
            " WHERE miner NOTNULL AND claim IN (SELECT value FROM json_each(?))"
        )
        return {
            key: Claim(claim_id, miner, nonce, unpack_uuids(uuids), tuple(carriages.get(key, ())))
            for key, claim_id, miner, nonce, uuids in self._select(query, keys)
        }

    def miners(self, keys: Collection[int]) -> dict[int, bytes]:
        """Miner of each of some claims."""
        query = "SELECT claim, miner FROM claim WHERE miner NOTNULL AND claim IN (SELECT value FROM json_each(?))"
        return dict(self._select(query, keys))

    def history(self, uuid: str, since_hlc: int, limit: int) -> list[tuple[int, bytes]]:
        """Claims that named a GPU since some moment, whatever became of them, earliest first: HLC, miner.

        Args:
            uuid: The GPU.
            since_hlc: Lowest HLC; that of a claim is the lowest of its carriages.
            limit: Claims that are looked at, at most: those that came here last.
        """
        since_s = hlc_ms(since_hlc) // 1000 - NONCE_WINDOW_S  # an older nonce was void by then
        found = self.connection.execute(
            "SELECT (SELECT min(hlc) FROM carriage r WHERE r.claim = c.claim), c.miner"  # noqa: S608 - our own names
            f" FROM (SELECT claim FROM ({CLAIMS_ON} UNION ALL SELECT value FROM json_each(?))"
            " ORDER BY claim DESC LIMIT ?) g CROSS JOIN claim c ON c.claim = g.claim WHERE c.nonce >= ?",
            (*claims_on_key(uuid), orjson.dumps(self.fresh.get(uuid, [])).decode(), limit, since_s),
        )
        # Between two parts of a cut nothing carries one that is about to be forgotten.
        return sorted((hlc, miner) for hlc, miner in found if hlc is not None and hlc >= since_hlc)

    def named(self, uuids: Collection[str]) -> bool:
        """Whether any claim or deletion ever named one of these GPUs."""
        if not self.fresh.keys().isdisjoint(uuids):
            return True
        (found,) = self.connection.execute(
            f"SELECT EXISTS (SELECT 1 {FROM_NODE}) OR EXISTS (SELECT 1 FROM json_each(?) k"  # noqa: S608 - our own names
            " WHERE EXISTS (SELECT 1 FROM claim_gpu WHERE uuid = k.value)"
            " OR EXISTS (SELECT 1 FROM deletion WHERE uuid = k.value))",
            (row_keys(uuids), orjson.dumps(list(uuids)).decode()),
        ).fetchone()
        return bool(found)

    def gpus(self) -> list[str]:
        """Every GPU that a claim names, in order; of all claims, so it takes as long."""
        found: set[str] = set()
        for (uuids,) in self.connection.execute("SELECT uuids FROM claim WHERE uuids NOTNULL"):
            found.update(unpack_uuids(uuids))
        return sorted(found)

    def naming(self, uuids: Collection[str], held: Held | None = None) -> list[tuple[str, int]]:
        """Which claims name some GPUs: uuid and row key. Of each GPU its row tells one, and ``claim_gpu`` the others.

        Args:
            uuids: The GPUs.
            held: Their rows, where they are known already.
        """
        query = "SELECT uuid, claim FROM claim_gpu WHERE uuid IN (SELECT value FROM json_each(?))"
        rows, fresh = self.held_rows(uuids) if held is None else held, self.fresh
        return [
            *((uuid, rows[uuid][0]) for uuid in uuids if uuid in rows),
            *self._select(query, uuids),
            *((uuid, key) for uuid in uuids if uuid in fresh for key in fresh[uuid]),
        ]

    def claims_on(
        self,
        uuids: Collection[str],
        held: Held | None = None,
        *,
        cut: bool = False,
        ended: Mapping[tuple[str, bytes], int] | None = None,
    ) -> dict[str, Mapping[int, Claim]]:
        """Every claim that names a GPU, by row key, for each of some GPUs; ``held`` as in ``naming``.

        With ``ended``, as ``last_endings`` gives it, those that have ended by it may be left out.
        """
        naming = self.naming(uuids, held)
        if ended:
            stamps = self._stamps({key for _, key in naming})
            naming = [
                (uuid, key)
                for uuid, key in naming
                if key in stamps and stamps[key][1] >= ended.get((uuid, stamps[key][0]), 0)
            ]
        claims = self._claims({key for _, key in naming}, cut=cut) if naming else {}
        alone = {key: {key: claim} for key, claim in claims.items()}  # mostly, all that names a server's GPUs
        found: dict[str, Mapping[int, Claim]] = dict.fromkeys(uuids, _NO_CLAIMS)
        several: dict[str, dict[int, Claim]] = {}
        for uuid, key in naming:
            if key not in alone:  # a row's may be forgotten, while a live set is loaded and rows are those of before
                continue
            if uuid in several:
                several[uuid][key] = claims[key]
            elif found[uuid]:
                found[uuid] = several[uuid] = {**found[uuid], **alone[key]}
            else:
                found[uuid] = alone[key]
        return found

    def _stamps(self, keys: Collection[int]) -> dict[int, tuple[bytes, int]]:
        """Miner and nonce of each of some claims; those that only verdicts name are left out."""
        query = (
            "SELECT claim, miner, nonce FROM claim WHERE miner NOTNULL AND claim IN (SELECT value FROM json_each(?))"
        )
        return {key: (miner, nonce) for key, miner, nonce in self._select(query, keys)}

    def votes(self, keys: Collection[int]) -> dict[int, list[Vote]]:
        """The latest verdict of every log on each of some claims."""
        found: dict[int, list[Vote]] = {key: [] for key in keys}
        if not found:
            return found
        query = (
            "SELECT claim, log, hlc, finding, since, method, detail FROM verdict"
            " WHERE claim IN (SELECT value FROM json_each(?))"
        )
        for key, log, *rest in self._select(query, keys):
            found[key].append(Vote(self.author(log), *rest))
        return found

    def tallies(self, keys: Collection[int], weights: Weights) -> dict[int, Tally]:
        """Tally of each of some claims."""
        return {key: inventory.tally(votes, weights) for key, votes in self.votes(keys).items()}

    def deletions(self, uuids: Collection[str], *, cut: bool = False) -> dict[str, tuple[Deletion, ...]]:
        """Every delete request that names a GPU, for each of some GPUs, with its carriages below the cuts of the logs.

        Those of an unbound request are all that there are, also for other GPUs (design.md, "How one GPU's row is
        decided"). With ``cut`` those that count for nothing are among them.
        """
        rows = self._select(f"SELECT {_DELETION} FROM deletion WHERE {_OF_GPUS}", uuids).fetchall()  # noqa: S608
        return self._deletions(rows, uuids, cut=cut)

    def _deletions(
        self, rows: Collection[tuple[Any, ...]], uuids: Collection[str], *, cut: bool
    ) -> dict[str, tuple[Deletion, ...]]:
        """The delete requests of some rows of ``deletion`` (_DELETION), for each of some GPUs; see ``deletions``."""
        requests: dict[bytes, tuple[bytes, int, bool]] = {}
        carriages: dict[bytes, list[DeleteCarriage]] = {}
        unbound = {request for request, _, _, bound, *_ in rows if not bound}
        bound_rows = [row for row in rows if row[3]]
        siblings = (
            self.connection.execute(
                f"SELECT {_DELETION} FROM deletion WHERE bound = 0 AND request_id = ?",  # noqa: S608 - our own names
                (request,),
            )
            for request in unbound
        )
        for request, miner, nonce, bound, log, seq, named, ids in chain(bound_rows, chain.from_iterable(siblings)):
            void = self.is_void(log, seq)
            if void and not cut:
                continue
            requests[request] = miner, nonce, bool(bound)
            carriages.setdefault(request, []).append(DeleteCarriage(self.author(log), named, unpack_ids(ids), void))
        found: dict[str, list[Deletion]] = {uuid: [] for uuid in uuids}
        for request, fields in requests.items():
            deletion = Deletion(request, *fields, tuple(carriages[request]))
            for uuid in {carriage.uuid for carriage in deletion.carriages} & found.keys():
                found[uuid].append(deletion)
        return {uuid: tuple(deletions) for uuid, deletions in found.items()}

    def named_by(self, request: bytes) -> list[str]:
        """The GPUs that deletions under one request id name, in order; as many steps as these are."""
        return [uuid for (uuid,) in self.connection.execute(_NAMED_BY, (request,))]

    def placements(
        self, on: Mapping[str, Mapping[int, Claim]], more: Collection[tuple[bytes, str]] = ()
    ) -> dict[str, tuple[Placement, ...]]:
        """The latest place or release of every log under each claim that names a GPU, for each of some GPUs.

        Args:
            on: The GPUs with these claims, see ``claims_on``.
            more: Claims by id, each with one of these GPUs, that may not be known here.
        """
        found: dict[str, tuple[Placement, ...]] = dict.fromkeys(on, ())
        named: dict[int, list[str]] = {}
        for uuid, claims in on.items():
            for claim in claims:
                named.setdefault(claim, []).append(uuid)
        # Claim by claim: both lists apart would be looked up as many times as they have pairs.
        query = (
            "SELECT uuid, log, hlc, claim_id, chute FROM json_each(?) k"
            " CROSS JOIN claim ON claim = json_extract(k.value, '$[0]') CROSS JOIN placement USING (claim_id)"
            " WHERE uuid IN (SELECT value FROM json_each(k.value, '$[1]'))"
        )
        said: dict[tuple[Any, ...], Placement] = {}  # one event mostly names all GPUs of a server
        for uuid, *word in self.connection.execute(query, (orjson.dumps(list(named.items())).decode(),)):
            key = tuple(word)
            if key not in said:
                log, hlc, claim_id, chute = word
                said[key] = Placement(self.author(log), hlc, claim_id, chute_from(chute))
            found[uuid] += (said[key],)
        known = {(claim.id, uuid) for uuid, claims in on.items() for claim in claims.values()}
        query = "SELECT log, hlc, chute FROM placement WHERE claim_id = ? AND uuid = ?"
        for claim_id, uuid in set(more) - known:
            for log, hlc, chute in self.connection.execute(query, (claim_id, uuid)):
                found[uuid] += (Placement(self.author(log), hlc, claim_id, chute_from(chute)),)
        return found

    def worded(self, uuids: Collection[str], hotkey: bytes) -> set[tuple[bytes, str]]:
        """Under which claims a validator has placed or released GPUs, whether they are known here or not: id, GPU."""
        query = (
            "SELECT claim_id, uuid FROM placement WHERE uuid IN (SELECT value FROM json_each(?))"
            " AND log IN (SELECT log FROM logs WHERE hotkey = ?)"
        )
        return set(self.connection.execute(query, (orjson.dumps(list(uuids)).decode(), hotkey)))

    def last_endings(
        self, uuids: Collection[str], electorate: Electorate
    ) -> tuple[dict[str, tuple[Deletion, ...]], dict[tuple[str, bytes], int]]:
        """What ends claims on each of some GPUs: no more of ``deletions`` than decides, and below which nonces.

        Of a miner's deletions those of the highest nonce end all that the others do. So who registers and deletes a
        GPU again and again has the last of that looked at, unless nothing of the last counts.

        Returns:
            For each GPU the deletions that decide which claims stand; and (GPU, miner) -> the nonce below which all
            of the miner's claims there have ended.
        """
        rows = self._select(_LAST_DELETIONS, uuids).fetchall()
        found = self._deletions(rows, uuids, cut=False)
        if not rows:
            return found, {}
        ends = {uuid: _nonces(uuid, deletions, electorate) for uuid, deletions in found.items()}
        if unsure := {uuid for _, miner, nonce, *_, uuid, _ in rows if ends[uuid].get(miner) != nonce}:
            found |= self.deletions(unsure)
            ends |= {uuid: _nonces(uuid, found[uuid], electorate) for uuid in unsure}
        return found, {(uuid, miner): nonce for uuid, by in ends.items() for miner, nonce in by.items()}

    def deleted_above(self, uuids: Collection[str], miner: bytes, nonce: int) -> dict[str, int]:
        """The highest nonce with which a miner deleted each of some GPUs, of those where it is above ``nonce``."""
        rows = self.connection.execute(
            f"SELECT uuid, nonce, log, seq FROM deletion WHERE {_OF_GPUS} AND miner = ? AND nonce > ?",  # noqa: S608
            (orjson.dumps(list(uuids)).decode(), miner, nonce),
        )
        found: dict[str, int] = {}
        for uuid, above, log, seq in rows:
            if not self.is_void(log, seq):
                found[uuid] = max(found.get(uuid, above), above)
        return found

    def standing(self, uuids: Collection[str], weights: Weights) -> dict[str, dict[int, Claim]]:
        """The standing claims by row key, in order of their stamps, on each of some GPUs."""
        deletions, ended = self.last_endings(uuids, weights.electorate)
        found: dict[str, dict[int, Claim]] = {}
        for uuid, claims in self.claims_on(uuids, ended=ended).items():
            order = inventory.standing(uuid, claims.values(), deletions[uuid], weights.electorate)
            keys = {claim.id: key for key, claim in claims.items()}
            found[uuid] = {keys[claim.id]: claim for claim in order}
        return found

    def owners(self, uuids: Collection[str], weights: Weights) -> dict[str, Claim]:
        """The claim that owns each of some GPUs, of those that have an owner; decided anew, not read from the rows."""
        standings = self.standing(uuids, weights)
        ids = {key: claim.id for claims in standings.values() for key, claim in claims.items()}
        tallies = {ids[key]: vote for key, vote in self.tallies(ids, weights).items()}
        found = {uuid: inventory.owner(list(claims.values()), tallies) for uuid, claims in standings.items()}
        return {uuid: claim for uuid, claim in found.items() if claim is not None}

    def body(self, claim_id: bytes) -> Body:
        """What the miner sent, from an event that carries the claim."""
        body = self._bodies.get(claim_id)
        if body is None:
            body = parse_body(self.raw_body(claim_id))
            self.keep_body(claim_id, body)
        return body

    def servers(self, claims: Mapping[int, bytes]) -> dict[int, Server]:
        """What rows show of the bodies of some claims: row key -> claim id.

        Raises:
            StoreError: The event that carries one is missing.
        """
        bodies = {key: body for key, claim_id in claims.items() if (body := self._bodies.get(claim_id)) is not None}
        found = {key: _server(body) for key, body in bodies.items()}
        query = (
            "SELECT claim, claim_id, kind, wire FROM claim JOIN events USING (position)"
            " WHERE claim IN (SELECT value FROM json_each(?))"
        )
        for key, claim_id, kind, wire in self._select(query, claims.keys() - bodies.keys()):
            found[key] = _shown(_body_of_add(wire) if kind == "add" else _find_add(stored_event(wire), claim_id).body)
        for claim_id in (claims[key] for key in claims.keys() - found.keys()):
            raise _lost(claim_id)
        return found

    def keep_body(self, claim_id: bytes, body: Body) -> None:
        """Spare the next ``body`` of a claim its way to the log; a claim's id fixes its body, so none grows stale."""
        self._bodies[claim_id] = body
        if len(self._bodies) > BODIES_KEPT:
            del self._bodies[next(iter(self._bodies))]

    def raw_body(self, claim_id: bytes) -> bytes:
        """The bytes that the miner sent.

        Raises:
            StoreError: The event that carries the claim is missing.
        """
        row = self.connection.execute(
            "SELECT wire FROM claim JOIN events USING (position) WHERE claim_id = ?", (claim_id,)
        ).fetchone()
        if row is None:
            raise _lost(claim_id)
        return _find_add(stored_event(row[0]), claim_id).body

    def stored(self, key: int, weights: Weights) -> StoredClaim | None:
        """A claim as its miner sees it; None while only verdicts name it."""
        claim = self.claim(key)
        if claim is None:
            return None
        # As its row has it; one that nothing counted carries has none, and keeps the time that it was first told.
        counted = inventory.counted_carriages(claim, weights.electorate) or claim.carriages
        created = min((carriage.hlc for carriage in counted), default=None)
        if created is None:  # every log that carries it was cut
            (created,) = self.connection.execute("SELECT min(hlc) FROM carriage WHERE claim = ?", (key,)).fetchone()
        return StoredClaim(
            claim.id, claim.miner, claim.nonce, self.body(claim.id), created, self.tallies([key], weights)[key]
        )

    def find_task(self, miner: bytes, task: bytes) -> int | None:
        """Row key of a miner's claim whose id begins with ``task`` (16 bytes)."""
        row = self.connection.execute(
            "SELECT claim FROM claim WHERE claim_id BETWEEN ? AND ? AND miner = ?",
            (task + bytes(16), task + b"\xff" * 16, miner),
        ).fetchone()
        return None if row is None else row[0]

    def find_claim(self, prefix: bytes, miner: bytes | None) -> bytes | None:
        """Id of the claim that begins with ``prefix`` and is this miner's, or anybody's for None.

        Args:
            prefix: Up to 32 bytes; CLAIM_PREFIX_BYTES of them name one claim, fewer may name several.
            miner: Public key.

        Raises:
            AmbiguousError: They do.
        """
        rest = DIGEST_BYTES - len(prefix)
        found = self.connection.execute(
            "SELECT claim_id FROM claim WHERE claim_id BETWEEN ? AND ? AND miner = coalesce(?, miner)"
            " ORDER BY claim_id LIMIT 2",
            (prefix + bytes(rest), prefix + b"\xff" * rest, miner),
        ).fetchall()
        if len(found) > 1 and len(prefix) < CLAIM_PREFIX_BYTES:
            raise AmbiguousError(f"several claims begin with {prefix.hex()}; expected more digits of the one")
        return found[0][0] if found else None

    def explain_claim(self, claim_id: bytes, weights: Weights) -> explain.ClaimCase | None:
        """Why a claim is where it is; None while at most verdicts name it."""
        key = self.claim_key(claim_id)
        claim = None if key is None else self._claims([key], cut=True).get(key)
        if key is None or claim is None:
            return None
        claims = self.claims_on(claim.uuids, cut=True)
        if any(key not in on for on in claims.values()):
            raise damaged(f"claim {claim_id.hex()} is not found by the GPUs that it names", REBUILD)
        ids = {other: each.id for on in claims.values() for other, each in on.items()}
        tallies = {ids[other]: vote for other, vote in self.tallies(ids, weights).items()}
        return explain.claim(
            claim,
            self.votes([key])[key],
            {uuid: list(on.values()) for uuid, on in claims.items()},
            self.deletions(claim.uuids, cut=True),
            tallies,
            weights,
        )

    def explain_node(self, uuid: str, weights: Weights, own: bytes | None = None) -> explain.NodeCase | None:
        """Why a GPU has the row that it has, or none; None when nothing is known of it.

        Args:
            uuid: The GPU.
            weights: Who counts.
            own: Validator whose words on it are told of also under claims that are not known here.
        """
        on = self.claims_on([uuid], cut=True)
        more = self.worded([uuid], own) if own is not None else ()
        claims, placements = on[uuid], self.placements(on, more)[uuid]
        if not claims and not placements:
            return None
        tallies = {claims[key].id: vote for key, vote in self.tallies(claims, weights).items()}
        return explain.node(
            uuid,
            list(claims.values()),
            self.deletions([uuid], cut=True)[uuid],
            tallies,
            placements,
            weights,
        )

    def task_status(self, miner: bytes, task: bytes, weights: Weights) -> TaskStatus | None:
        """Status of a miner's task, None when no claim of this miner is known by it."""
        key = self.find_task(miner, task)
        task_of = {} if key is None else self.tasks([key], weights)
        return task_of[key].status if key in task_of else None

    def tasks(self, keys: Collection[int], weights: Weights) -> dict[int, Task]:
        """Each of some claims with the status of its task, by row key; those that only verdicts name are left out."""
        claims = self._claims(keys)
        standings = self.standing({uuid for claim in claims.values() for uuid in claim.uuids}, weights)
        ids = {other: each.id for on in standings.values() for other, each in on.items()}
        ids |= {key: claim.id for key, claim in claims.items()}
        tallies = {ids[other]: vote for other, vote in self.tallies(ids, weights).items()}
        found: dict[int, Task] = {}
        for key, claim in claims.items():
            on = {uuid: list(standings[uuid].values()) for uuid in claim.uuids}
            found[key] = Task(claim, inventory.task_status(claim, tallies[claim.id], on, tallies))
        return found

    def stored_id(self, log: int, seq: int) -> bytes | None:
        """Id of the event that is stored at a seq of a log, by the log's row key; None where none is."""
        row = self.connection.execute("SELECT id FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
        return None if row is None else row[0]

    def highest_hlc(self, log: int, seq: int) -> int:
        """Highest HLC of a log's events up to one that is stored."""
        (hlc,) = self.connection.execute("SELECT hlc_max FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
        return int(hlc)

    def last_below(self, log: int, low: int, high: int, hlc: int) -> int:
        """The last seq of a log above ``low``, up to ``high``, at which its HLCs are below one; ``low`` for none.

        A few statements, however long the log. Where checkpoints left some of it out, it may be one of these.
        """
        query = "SELECT seq, hlc_max FROM events WHERE log = ? AND seq > ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
        while low < high:  # HLCs rise along a log
            middle = (low + high + 1) // 2
            found = self.connection.execute(query, (log, low, middle)).fetchone()
            if found is None or found[1] < hlc:
                low = middle
            else:
                high = found[0] - 1
        return low

    def window(self, log: int, seq: int) -> tuple[int, int] | None:
        """Not-before and not-after (Unix seconds) of the latest valid delegation of a log up to a seq."""
        row = self.connection.execute(
            "SELECT not_before, not_after FROM delegations WHERE log = ? AND seq <= ? ORDER BY seq DESC LIMIT 1",
            (log, seq),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def delegations_ended(self, log: int, last: int) -> int:
        """When all valid delegations of a log that are held, up to a seq, have ended, see ``checkpoint.ended_ms``."""
        query = "SELECT hlc, not_after FROM delegations WHERE log = ? AND seq <= ?"
        return max((ended_ms(*each) for each in self.connection.execute(query, (log, last))), default=-1)

    def began(self, log: int) -> int:
        """HLC of the first event of a log that is held; -1 where that is no valid delegation, or not here."""
        query = "SELECT hlc FROM delegations WHERE log = ? ORDER BY seq LIMIT 1"
        row = self.connection.execute(query, (log,)).fetchone()
        return -1 if row is None else row[0]

    def event_ids(self, log: LogId, seqs: Collection[int]) -> dict[int, bytes]:
        """Ids of some events of a log, by seq."""
        query = (
            "SELECT seq, id FROM events WHERE log = (SELECT log FROM logs WHERE node_key = ? AND number = ?)"
            " AND seq IN (SELECT value FROM json_each(?))"
        )
        found = dict(self.connection.execute(query, (*log, orjson.dumps(list(seqs)).decode())))
        entry = cut_logs(self.connection).get(log)
        if entry is not None and entry.head.seq in seqs:
            found[entry.head.seq] = entry.head.id
        return found

    def last_event(self, log: LogId, hlc_max: int) -> Head | None:
        """The last event of a log whose HLC is not above ``hlc_max``; None when there is none."""
        row = self.connection.execute(
            "SELECT seq, id FROM events WHERE log = (SELECT log FROM logs WHERE node_key = ? AND number = ?)"
            " AND hlc <= ? ORDER BY seq DESC LIMIT 1",
            (*log, hlc_max),
        ).fetchone()
        head = None if row is None else Head(*row)
        entry = cut_logs(self.connection).get(log)
        if entry is not None and entry.hlc <= hlc_max and (head is None or head.seq < entry.head.seq):
            return entry.head
        return head

    def ends_seen(self) -> dict[LogId, int]:
        """When the first proof of each log's end came here, Unix milliseconds."""
        query = (
            "SELECT node_key, number, min(seen_ms) FROM (SELECT node_key, number, seen_ms FROM fork"
            " UNION ALL SELECT node_key, number, seen_ms FROM closing) GROUP BY node_key, number"
        )
        return {LogId(node_key, number): seen_ms for node_key, number, seen_ms in self.connection.execute(query)}

    def checkable(self, claim: Claim, weights: Weights) -> bool:
        """Whether a claim stands on a GPU and is not in conflict with a verified claim of another hotkey.

        One that is waits until that one lapses (design.md, "Squatting").
        """
        standings = self.standing(claim.uuids, weights)
        ids = {key: each.id for claims in standings.values() for key, each in claims.items()}
        tallies = {ids[key]: vote for key, vote in self.tallies(ids, weights).items()}
        for claims in standings.values():
            holder = inventory.owner(list(claims.values()), tallies)
            if holder and holder.miner != claim.miner and tallies[holder.id].status == VERIFIED:
                return False
        return claim.id in tallies

    def held_tallies(self, keys: Collection[int]) -> Iterator[tuple[int, Tally, tuple[str, ...]]]:
        """What is recorded of some claims: row key, tally, and the GPUs that it names."""
        query = "SELECT claim, uuids, status, since, detail FROM claim WHERE claim IN (SELECT value FROM json_each(?))"
        for key, uuids, *tally in self._select(query, keys).fetchall():
            yield key, Tally(*tally), () if uuids is None else unpack_uuids(uuids)

    def recorded(self, keys: Collection[int]) -> dict[int, Tally]:
        """The tallies that are recorded of some claims."""
        return {key: tally for key, tally, _ in self.held_tallies(keys)}

    def held_rows(self, uuids: Collection[str]) -> Held:
        """The rows of some GPUs, of those that have one."""
        query = f"SELECT n.uuid, n.claim, n.digest {FROM_NODE}"
        return {uuid: (claim, digest) for uuid, claim, digest in self.connection.execute(query, (row_keys(uuids),))}

    def own_verdict(self, claim_id: bytes, hotkey: bytes) -> Vote | None:
        """The latest verdict of a validator on a claim."""
        key = self.claim_key(claim_id)
        votes = [] if key is None else self.votes([key])[key]
        return max((vote for vote in votes if vote.author == hotkey), key=lambda vote: vote.hlc, default=None)

    def _select(self, query: str, keys: Collection[int] | Collection[str]) -> sqlite3.Cursor:
        """Run a query with ``IN (SELECT value FROM json_each(?))``: one statement for any number of keys."""
        return self.connection.execute(query, (orjson.dumps(list(keys)).decode(),))


def claims_on_key(uuid: str) -> tuple[str, int, str]:
    """A GPU, as CLAIMS_ON takes it."""
    return uuid, bucket_of(uuid), uuid


def row_keys(uuids: Iterable[str]) -> str:
    """The keys of some GPUs' rows, as FROM_NODE takes them."""
    return orjson.dumps([[bucket_of(uuid), uuid] for uuid in uuids]).decode()


def chute_fields(chute: Chute | None) -> bytes | None:
    """A chute as the database holds it."""
    return None if chute is None else codec.pack(list(chute))


def chute_from(data: bytes | None) -> Chute | None:
    """A chute from the database."""
    return None if data is None else unpack_chute(data)


def unpack_chute(data: bytes) -> Chute:
    """The same where there is one.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return Chute(*msgpack.unpackb(data))  # our own bytes: the codec's checks would take six times as long
    except UNREADABLE as error:
        raise unreadable("what runs on a GPU", error) from error


def unpack_uuids(data: bytes) -> tuple[str, ...]:
    """The GPUs that a claim names, from ``claim.uuids``; our own bytes as well.

    Raises:
        StoreError: They are damaged.
    """
    try:
        uuids: tuple[str, ...] = msgpack.unpackb(data, use_list=False)
        "".join(uuids)  # refuses what is no text
    except UNREADABLE as error:
        raise unreadable("the GPUs of a claim", error) from error
    return uuids


def unpack_ids(data: bytes) -> frozenset[bytes]:
    """The claims that a delete request names, from ``deletion.claim_ids``.

    Raises:
        StoreError: They are damaged.
    """
    try:
        return frozenset(codec.unpack(data))  # type: ignore[arg-type]
    except UNREADABLE as error:
        raise unreadable("the claims of a deletion", error) from error


def _body_of_add(wire: bytes) -> bytes:
    """What the miner sent, from an ``add`` event.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return body_of_add(wire)
    except UNREADABLE as error:
        raise unreadable("an event", error) from error


def _lost(claim_id: bytes) -> StoreError:
    return damaged(f"the event that carries claim {claim_id.hex()} is not in it")


def _server(body: Body) -> Server:
    return Server(body.server_id, {node.uuid: (node.gpu_identifier, node.name) for node in body.nodes})


def _shown(data: bytes) -> Server:
    """The same of a body that the pinned parser has found good, in a fraction of its time."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:  # in what is not shown the pinned parser lets more pass
        return _server(parse_body(data))
    return Server(
        body.get("server_id"), {node["uuid"]: (node["gpu_identifier"], node["name"]) for node in body["nodes"]}
    )


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
    raise _lost(claim_id)


def _nonces(uuid: str, deletions: Iterable[Deletion], electorate: Electorate) -> dict[bytes, int]:
    """The highest nonce of each miner's deletions of a GPU, of those that end something there."""
    found: dict[bytes, int] = {}
    for deletion in deletions:
        if isinstance(inventory.ending(deletion, uuid, electorate), Ending):
            found[deletion.miner] = max(found.get(deletion.miner, 0), deletion.nonce)
    return found
