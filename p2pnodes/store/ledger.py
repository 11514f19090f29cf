"""The ledger: one database, one thread. Takes events in, keeps facts and rows in step, hands ranges out.

Every public method runs inside a transaction that the caller opens with ``transaction()``; rows are recomputed once
before it commits, so that no reader ever sees events without their rows (rule 7). The in-memory state (log heads,
prefixes, weights, bucket hashes) mirrors the database and is read anew whenever a transaction fails.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from p2pnodes.model import codec, inventory
from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, HybridClock, hlc_ms
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import LocalProtocolError, P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.model.events import (
    PAYLOADS,
    Delegation,
    DeletePayload,
    Event,
    Head,
    LogId,
    Payload,
    Place,
    Release,
    Verdict,
)
from p2pnodes.model.inventory import Chute, Claim, Deletion, Row, Tally, Weights
from p2pnodes.model.keys import KEY_BYTES, NodeKey, ss58_encode
from p2pnodes.model.network import PROTOCOL_VERSION, Network
from p2pnodes.model.requests import parse_nonce
from p2pnodes.model.stateroot import BUCKETS, StateRoot, bucket_of
from p2pnodes.model.validity import EMPTY, CarriedAdd, CarriedDelete, Judgement, Prefix, judge
from p2pnodes.store import pins
from p2pnodes.store.changes import ChangeCollector, Changes, Gone
from p2pnodes.store.facts import Facts, chute_fields

T = TypeVar("T")

FOREIGN_EVENT: Final = "an event that this daemon did not write appeared in its own log: two daemons write it"
"""Why writes stop until a new log is open (rule 4)."""

GPUS_PER_READ: Final = 512
"""GPUs whose facts are read at once when rows are settled: few statements, bounded memory."""

EVENTS_PER_READ: Final = 1_024
"""Events that a rebuild reads at once."""

_NETWORK_ID: Final = "network_id"
_OWN_LOG: Final = "own_log"
_JUDGED_BY: Final = "judged_by"
"""Keys of the table ``meta``: the network, the log of own events, version and kinds of the build that judged."""

LOGS_PER_HOTKEY_MAX: Final = 256
"""Bound of logs that one validator may open (rule 6)."""


class Result(StrEnum):
    """What became of an event that a peer sent."""

    STORED = "stored"
    KNOWN = "known"
    GAP = "gap"
    FORK = "fork"
    AHEAD = "ahead"
    REFUSED = "refused"
    FORGED = "forged"


class Outcome(NamedTuple):
    """Answer to one received event.

    Attributes:
        event: The event.
        result: STORED; KNOWN already; GAP: an event before it is missing; FORK: a rival of a stored event; AHEAD: its
            clock runs over 60 s ahead of ours, deferred; REFUSED: nobody must store it; FORGED: not signed by its log.
        detail: For STORED the reason why it is void, or empty. Otherwise what was found.
    """

    event: Event
    result: Result
    detail: str


class LogState(NamedTuple):
    """What the ledger keeps in memory of a log."""

    key: int
    id: LogId
    hotkey: bytes
    head: Head
    prefix: Prefix


class State(NamedTuple):
    """What the last committed transaction left: comparable between peers at equal digests. Safe in any thread.

    Attributes:
        logs: Every log that is held.
        heads: The version vector as it is compared: heads of the logs whose hotkeys are permitted. What others say
            cannot matter, and some peers hold it while others never asked for it.
        state_root: Over all rows.
        electorate_digest: Of the electorate that they were computed with.
        vector_digest: Of ``heads``.
        events: Stored events.
        nodes: Rows.
    """

    logs: Mapping[LogId, LogState]
    heads: Mapping[LogId, Head]
    state_root: bytes
    electorate_digest: bytes
    vector_digest: bytes
    events: int
    nodes: int


class Decision(NamedTuple):
    """What f says of one GPU: its row or None, the row key of the owner, and what that was decided from."""

    row: Row | None
    owner: int | None
    claims: Mapping[int, Claim]
    deletions: Sequence[Deletion]


def vector_digest(heads: Mapping[LogId, Head]) -> bytes:
    """BLAKE2b-256 over the version vector: every log with its head, sorted."""
    return codec.digest(codec.pack([[*log, *heads[log]] for log in sorted(heads)]))


class Ledger:
    """The event log, its facts and the inventory rows in one SQLite connection."""

    def __init__(self, connection: sqlite3.Connection, network: Network, node_key: NodeKey | None = None) -> None:
        """Load what the database holds.

        Args:
            connection: From ``schema.open_writer``.
            network: Parameters; a database of another network is refused.
            node_key: Signs own events; None for a ledger that only reads and receives.

        Raises:
            StoreError: The database belongs to another network.
        """
        self.network = network
        self.facts = Facts(connection)
        self.clock = HybridClock()
        self.writes_refused: str | None = "the daemon is starting"
        """Why own events may not be written; None when they may."""
        self.own_log: LogId | None = None
        """The log that own events go to; None until one is opened or taken up."""
        self.foreign_own: LogId | None = None
        """An own log in which an event appeared that this ledger did not write (rule 4)."""
        self.forks_seen: list[tuple[LogId, int, int]] = []
        """Logs in which a rival event was seen: log, seq of the first rival, when (Unix ms)."""
        self.weights = Weights(network, pins.EMPTY, {})
        """Of the open transaction, if there is one."""
        self.committed_weights = self.weights
        """Those that the rows of ``state`` were computed with."""
        self._connection = connection
        self._node_key = node_key
        self._logs: dict[LogId, LogState] = {}
        self._per_hotkey: dict[bytes, int] = {}
        self._addresses: set[bytes] = set()
        self._dirty_claims: set[int] = set()
        self._dirty_uuids: set[str] = set()
        self._placed_uuids: set[str] = set()
        self._changes = ChangeCollector()
        self._all_dirty = False
        self._mandates_dirty = False
        self._new_claims: list[bytes] = []
        self._voted: list[bytes] = []
        self._appended: list[Event] = []
        self._wrote = False
        self._stale = False
        self.settled = True
        """False from just before a commit until ``state`` tells of it: readers may then be ahead of ``state``."""
        self._check_network()
        self._load()
        self._judge_what_is_known_now()

    # -- transactions ------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the body in one transaction; rows are settled before it commits, everything is undone when it raises."""
        if self._stale:
            self._load()
        self._connection.execute("BEGIN IMMEDIATE")
        self._stale = True
        try:
            yield
            self._settle()
            self.settled = False
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._load()
            self.settled = True
            raise
        self._stale = False
        self._wrote = False
        self._refresh_state()
        self.settled = True

    def attempt(self, job: "Callable[[Ledger], T]") -> T | P2PNodesError:
        """Run one job of a group inside the open transaction; hand back the error of one that refused before writing.

        Raises:
            Exception: The job failed after it wrote, or on anything but a P2PNodesError: the transaction must end.
        """
        self._wrote = False
        try:
            return job(self)
        except P2PNodesError as error:
            if self._wrote or isinstance(error, StoreError):
                raise
            return error

    # -- events ------------------------------------------------------------------------------------------------------

    def read(self, log: LogId, first_seq: int, size_bytes_max: int) -> list[bytes]:
        """Consecutive events of a log from ``first_seq``, as received: at least one if it exists, else up to a size."""
        return read_log(self._connection, log, first_seq, size_bytes_max)

    def receive(self, events: Sequence[Event], now_ms: int) -> list[Outcome]:
        """Store what peers sent; call inside a transaction.

        Args:
            events: Decoded, signatures unchecked, any order, at most a few hundred.
            now_ms: Wall clock, for the bound on skew.

        Returns:
            An outcome for each event, in order.
        """
        return [self._receive(event, now_ms) for event in events]

    def append(self, build: Callable[[int], Payload], now_ms: int) -> Event:
        """Write an own event; call inside a transaction and answer or send nothing before it commits (rule 3).

        Args:
            build: Payload for the event's HLC.
            now_ms: Wall clock.

        Raises:
            WritesRefusedError: This daemon may not write now, or the event would be void.
        """
        state = self._writable(now_ms)
        hlc = self.clock.tick(now_ms)
        return self._write(state.id, state.head, state.prefix, build(hlc), hlc)

    def open_log(self, number: int, delegation: Delegation, now_ms: int) -> Event:
        """Open a new own log with its delegation; call inside a transaction.

        Raises:
            LocalProtocolError: The log exists, or the ledger has no node key.
            WritesRefusedError: The delegation is void here, or the hotkey is at its bound of logs.
        """
        if self._node_key is None:
            raise LocalProtocolError("this ledger has no node key and cannot write")
        log = LogId(self._node_key.public_key, number)
        if log in self._logs:
            raise LocalProtocolError(f"log {log} exists already")
        if self._per_hotkey.get(delegation.hotkey, 0) >= LOGS_PER_HOTKEY_MAX:
            raise WritesRefusedError(
                f"this hotkey has {LOGS_PER_HOTKEY_MAX} logs, the most that peers accept", retry_after_s=600
            )
        hlc = self.clock.tick(now_ms)
        event = self._write(log, None, EMPTY, delegation, hlc)
        self._set_meta(_OWN_LOG, codec.pack([*log]))
        self.own_log = log
        self.foreign_own = None
        return event

    def renew(self, delegation: Delegation, now_ms: int) -> Event:
        """Write a later delegation into the current own log; call inside a transaction."""
        return self.append(lambda _: delegation, now_ms)

    def own_logs(self) -> dict[LogId, LogState]:
        """Every log of this ledger's node key."""
        key = self._node_key.public_key if self._node_key else None
        return {log: state for log, state in self.state.logs.items() if log.node_key == key}

    def delegation_of(self, log: LogId) -> Delegation | None:
        """Latest valid delegation of a log."""
        state = self.state.logs.get(log)
        return state.prefix.delegation if state else None

    def _receive(self, event: Event, now_ms: int) -> Outcome:
        if event.network_id != self.network.id:
            return Outcome(event, Result.REFUSED, "the event is of another network")
        state = self._logs.get(event.log)
        if state is not None and event.seq <= state.head.seq:
            return self._known_or_fork(event, state, now_ms)
        if (state is None and event.seq) or (state is not None and event.seq > state.head.seq + 1):
            return Outcome(event, Result.GAP, f"seq {event.seq} while {state.head.seq + 1 if state else 0} is next")
        if not event.signed():
            return Outcome(event, Result.FORGED, "the header does not carry its node key's signature")
        if hlc_ms(event.hlc) > now_ms + SKEW_AHEAD_MS_MAX:
            return Outcome(event, Result.AHEAD, f"its clock is {hlc_ms(event.hlc) - now_ms} ms ahead of ours")
        if state is not None and event.previous != state.head.id:
            self._record_fork(event, state, now_ms)
            return Outcome(event, Result.FORK, f"seq {event.seq} continues another event than the stored one")
        judgement = judge(event, state.prefix if state else EMPTY)
        if refusal := self._refusal(judgement, state):
            return Outcome(event, Result.REFUSED, refusal)
        if event.log == self.own_log:
            self._disown(event.log)
        self._store(event, state, judgement)
        return Outcome(event, Result.STORED, judgement.void or "")

    def _refusal(self, judgement: Judgement, state: LogState | None) -> str | None:
        """Why nobody must store this event; None when it is to be stored."""
        if state is not None:
            hotkey = state.hotkey
        elif isinstance(judgement.payload, Delegation):
            hotkey = judgement.payload.hotkey
            if self._per_hotkey.get(hotkey, 0) >= LOGS_PER_HOTKEY_MAX:
                return f"the hotkey {ss58_encode(hotkey)} has {LOGS_PER_HOTKEY_MAX} logs already"
        else:
            return f"a log must begin with a valid delegation: {judgement.void or 'found another kind'}"
        if not self.weights.electorate.permitted(hotkey):
            return (
                f"the hotkey {ss58_encode(hotkey)} holds no validator permit at block {self.weights.electorate.block}"
            )
        return None

    def _known_or_fork(self, event: Event, state: LogState, now_ms: int) -> Outcome:
        (stored_id,) = self._connection.execute(
            "SELECT id FROM events WHERE log = ? AND seq = ?", (state.key, event.seq)
        ).fetchone()
        if stored_id == event.id:
            return Outcome(event, Result.KNOWN, "")
        if not event.signed():
            return Outcome(event, Result.FORGED, "the header does not carry its node key's signature")
        self._record_fork(event, state, now_ms)
        return Outcome(event, Result.FORK, f"seq {event.seq} is stored with another id")

    def _record_fork(self, event: Event, state: LogState, now_ms: int) -> None:
        self._wrote = True
        self._connection.execute(
            "INSERT OR IGNORE INTO fork VALUES (?, ?, ?, ?, ?)",
            (state.key, event.seq, event.header, event.signature, now_ms),
        )
        if event.log not in {log for log, _, _ in self.forks_seen}:
            self.forks_seen = [*self.forks_seen, (event.log, event.seq, now_ms)]
        if event.log == self.own_log:
            self._disown(event.log)

    def _writable(self, now_ms: int) -> LogState:
        if self.writes_refused is not None:
            raise WritesRefusedError(self.writes_refused)
        if self.foreign_own is not None:  # here, so that no other thread's view of it can be late
            raise WritesRefusedError(FOREIGN_EVENT)
        if self.own_log is None:
            raise WritesRefusedError("this daemon has no open log")
        if self.clock.ahead_ms(now_ms) > SKEW_AHEAD_MS_MAX:
            raise WritesRefusedError(
                f"the logical clock is {self.clock.ahead_ms(now_ms)} ms ahead of the system clock, which may have gone "
                f"back: at most {SKEW_AHEAD_MS_MAX} ms are allowed, check the system's time"
            )
        return self._logs[self.own_log]

    def _write(self, log: LogId, head: Head | None, prefix: Prefix, payload: Payload, hlc: int) -> Event:
        assert self._node_key is not None
        event = Event.create(
            self._node_key,
            self.network.id,
            log_number=log.number,
            seq=head.seq + 1 if head else 0,
            previous=head.id if head else b"",
            hlc=hlc,
            payload=payload,
        )
        judgement = judge(event, prefix)
        if judgement.void is not None:
            raise WritesRefusedError(f"peers would find this event void: {judgement.void}")
        self._store(event, self._logs.get(log), judgement)
        self._appended.append(event)
        return event

    # -- facts -------------------------------------------------------------------------------------------------------

    def _store(self, event: Event, state: LogState | None, judgement: Judgement) -> None:
        self._wrote = True
        if state is None:
            assert isinstance(judgement.payload, Delegation)
            hotkey = judgement.payload.hotkey
            self._name(hotkey)
            cursor = self._connection.execute(
                "INSERT INTO logs (node_key, number, hotkey) VALUES (?, ?, ?)", (*event.log, hotkey)
            )
            key = cursor.lastrowid or 0
            self._per_hotkey[hotkey] = self._per_hotkey.get(hotkey, 0) + 1
        else:
            key, hotkey = state.key, state.hotkey
        cursor = self._connection.execute(
            "INSERT INTO events (log, seq, id, hlc, kind, judged, void, wire) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key, event.seq, event.id, event.hlc, event.kind, judgement.judged, judgement.void, event.wire),
        )
        self._logs[event.log] = LogState(key, event.log, hotkey, Head(event.seq, event.id), judgement.prefix)
        self._events += 1
        self.clock.observe(event.hlc)
        self._state_facts(event, key, cursor.lastrowid or 0, judgement)

    def _state_facts(self, event: Event, log: int, position: int, judgement: Judgement) -> None:
        for item, add in enumerate(judgement.adds):
            self._state_add(add, log, event.seq, item, position)
        for item, delete in enumerate(judgement.deletes):
            self._state_delete(delete, log, event.seq, item)
        match judgement.payload:
            case Verdict() as verdict:
                self._state_verdict(verdict, log, event.hlc)
            case Delegation() as delegation:
                self._connection.execute(
                    "INSERT INTO delegations VALUES (?, ?, ?, ?, ?, ?)",
                    (log, event.seq, event.hlc, delegation.url, delegation.not_before, delegation.not_after),
                )
                self._mandates_dirty = True
            case Place() as place:
                self._state_placement(place, _chute(place), log, event.hlc)
            case Release() as release:
                self._state_placement(release, None, log, event.hlc)
            case _:  # requests are done above; close and evidence get their effect with key rotation
                pass

    def _state_add(self, add: CarriedAdd, log: int, seq: int, item: int, position: int) -> None:
        request = add.payload.request
        uuids = [node.uuid for node in add.body.nodes]
        new = self._connection.execute(
            "INSERT INTO claim (claim_id, miner, nonce, position, uuids, status, detail) VALUES (?, ?, ?, ?, ?, ?, '')"
            " ON CONFLICT (claim_id) DO UPDATE SET miner = excluded.miner, nonce = excluded.nonce,"
            " position = excluded.position, uuids = excluded.uuids WHERE miner IS NULL RETURNING claim",
            (add.claim_id, request.hotkey, parse_nonce(request.nonce), position, codec.pack(uuids), inventory.PENDING),
        ).fetchone()
        if new is not None:
            (key,) = new
            self._name(request.hotkey)
            self._connection.execute(
                "INSERT INTO claim_gpu (uuid, claim) SELECT value, ? FROM json_each(?)",
                (key, orjson.dumps(uuids).decode()),
            )
            self._new_claims.append(add.claim_id)
            self.facts.keep_body(add.claim_id, add.body)
        else:
            key = self._claim_key(add.claim_id)
        self._connection.execute(
            "INSERT INTO carriage VALUES (?, ?, ?, ?, ?, ?)",
            (key, log, seq, item, add.payload.electorate_block, add.hlc),
        )
        self._dirty_claims.add(key)
        self._dirty_uuids.update(uuids)

    def _state_delete(self, delete: CarriedDelete, log: int, seq: int, item: int) -> None:
        payload: DeletePayload = delete.payload
        request = payload.request
        named: set[str] = set()
        if not request.bound:
            rows = self._connection.execute(
                "SELECT log, uuid FROM deletion WHERE bound = 0 AND request_id = ?", (delete.request_id,)
            ).fetchall()
            here = {uuid for other, uuid in rows if other == log}
            if len(here) > 1 and payload.uuid not in here:
                return  # two GPUs in one log end nothing already, and a hundred would not end less
            named = {uuid for _, uuid in rows}
        self._connection.execute(
            "INSERT INTO deletion VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                payload.uuid,
                delete.request_id,
                log,
                seq,
                item,
                request.hotkey,
                parse_nonce(request.nonce),
                request.bound,
                codec.pack(list(payload.claim_ids)),
            ),
        )
        self._dirty_uuids.add(payload.uuid)
        self._dirty_uuids.update(named)

    def _state_verdict(self, verdict: Verdict, log: int, hlc: int) -> None:
        key = self._claim_key(verdict.claim_id)
        self._connection.execute(
            "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, log, hlc, verdict.finding, verdict.since, verdict.method, verdict.detail),
        )
        self._voted.append(verdict.claim_id)
        self._dirty_claims.add(key)

    def _state_placement(self, payload: Place | Release, chute: Chute | None, log: int, hlc: int) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO placement VALUES (?, ?, ?, ?, ?)",
            [(uuid, payload.claim_id, log, hlc, chute_fields(chute)) for uuid in payload.uuids],
        )
        self._placed_uuids.update(payload.uuids)

    def _claim_key(self, claim_id: bytes) -> int:
        key = self.facts.claim_key(claim_id)
        if key is None:
            cursor = self._connection.execute(
                "INSERT INTO claim (claim_id, status, detail) VALUES (?, ?, '')", (claim_id, inventory.PENDING)
            )
            key = cursor.lastrowid or 0
        return key

    def _name(self, hotkey: bytes) -> None:
        if hotkey not in self._addresses:
            self._connection.execute("INSERT OR IGNORE INTO address VALUES (?, ?)", (hotkey, ss58_encode(hotkey)))
            self._addresses.add(hotkey)

    # -- rows --------------------------------------------------------------------------------------------------------

    def set_electorate(self, electorate: Electorate) -> None:
        """Weigh with another electorate; call inside a transaction. Rows follow before it commits."""
        held = self.weights.electorate
        if (electorate.current, electorate.previous) == (held.current, held.previous):
            return
        self._wrote = True
        pins.save(self._connection, electorate)
        self.weights = Weights(self.network, electorate, self.facts.mandates())
        self._mandates_dirty = False
        self._all_dirty = self._all_dirty or electorate.digest != held.digest  # addresses weigh nothing

    def rebuild(self) -> None:
        """Judge every stored event again and derive everything from them; call inside a transaction."""
        self._wrote = True
        for table in ("delegations", "claim", "claim_gpu", "carriage", "deletion", "verdict", "placement", "node"):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above
        self._root = StateRoot()
        self._nodes = 0
        for log, state in list(self._logs.items()):
            prefix = EMPTY
            for position, wire in self._wires(state.key):
                event = Event.decode(wire)
                judgement = judge(event, prefix)
                prefix = judgement.prefix
                self._connection.execute(
                    "UPDATE events SET judged = ?, void = ? WHERE position = ?",
                    (judgement.judged, judgement.void, position),
                )
                self._state_facts(event, state.key, position, judgement)
            self._logs[log] = state._replace(prefix=prefix)
        self._new_claims.clear()
        self._voted.clear()
        self._all_dirty = self._mandates_dirty = True

    def _wires(self, key: int) -> Iterator[tuple[int, bytes]]:
        """Position and bytes of every event of a log, read in parts while the caller writes."""
        query = "SELECT seq, position, wire FROM events WHERE log = ? AND seq > ? ORDER BY seq LIMIT ?"
        seq = -1
        while part := self._connection.execute(query, (key, seq, EVENTS_PER_READ)).fetchall():
            yield from ((position, wire) for _, position, wire in part)
            seq = part[-1][0]

    def rows(self) -> Iterator[Row]:
        """Every current row as f decides it now, in order of uuids, computed anew and not read."""
        uuids = [uuid for (uuid,) in self._connection.execute("SELECT DISTINCT uuid FROM claim_gpu ORDER BY uuid")]
        for part in batched(uuids, GPUS_PER_READ):
            for decision in self._decide(part, self._recount).values():
                if decision.row is not None:
                    yield decision.row

    def _settle(self) -> None:
        """Bring tallies, rows and state root in step with facts and electorate."""
        if self._mandates_dirty:
            weights = Weights(self.network, self.weights.electorate, self.facts.mandates())
            self._all_dirty = self._all_dirty or not weights.same_votes(self.weights)
            self.weights = weights
            self._mandates_dirty = False
        # A daemon's event loop waits for as long as one call holds the interpreter: what concerns everything is done in
        # parts and remembered by numbers, so that neither a large set nor the garbage collector takes long.
        if self._all_dirty:
            recounted = self._settle_tallies(self._every_claim())
            self._settle_rows(batched(self._every_gpu(), GPUS_PER_READ), recounted)
            self._all_dirty = False
        else:
            recounted = self._settle_tallies(batched(self._dirty_claims, GPUS_PER_READ))
            dirty = self._dirty_uuids | self._placed_uuids
            for part in batched(recounted, GPUS_PER_READ):
                dirty.update(*(uuids for _, _, uuids in self.facts.held_tallies(part)))
            self._settle_rows(batched(sorted(dirty, key=bucket_of), GPUS_PER_READ), recounted)
        self._dirty_claims.clear()
        self._dirty_uuids.clear()
        self._placed_uuids.clear()
        self._settled_electorate = self.weights.electorate

    def _every_claim(self) -> Iterator[list[int]]:
        """Row keys of all claims, in parts, read while the caller writes."""
        last = 0
        query = "SELECT claim FROM claim WHERE claim > ? ORDER BY claim LIMIT ?"
        while part := [key for (key,) in self._connection.execute(query, (last, GPUS_PER_READ))]:
            yield part
            last = part[-1]

    def _every_gpu(self) -> Iterator[str]:
        """All GPUs that claims name, those of one bucket one after the other."""
        buckets = [bytearray() for _ in range(BUCKETS)]  # as text: a list's items are each looked at by the collector
        for (uuid,) in self._connection.execute("SELECT DISTINCT uuid FROM claim_gpu"):
            buckets[bucket_of(uuid)] += uuid.encode() + b"\0"
        while buckets:
            yield from buckets.pop().decode().split("\0")[:-1]

    def _settle_tallies(self, parts: Iterable[Collection[int]]) -> set[int]:
        """Recount claims and record the tallies that differ; the claims whose tallies did."""
        changed: set[int] = set()
        for part in parts:
            found = self._recount(part)
            for key, held, _ in self.facts.held_tallies(part):
                if held != found[key]:
                    self._connection.execute(
                        "UPDATE claim SET status = ?, since = ?, detail = ? WHERE claim = ?", (*found[key], key)
                    )
                    changed.add(key)
        return changed

    def _recount(self, keys: Collection[int]) -> dict[int, Tally]:
        return self.facts.tallies(keys, self.weights)

    def _recorded(self, keys: Collection[int]) -> dict[int, Tally]:
        return {key: tally for key, tally, _ in self.facts.held_tallies(keys)}

    def _settle_rows(self, parts: Iterable[list[str]], recounted: AbstractSet[int]) -> None:
        """Decide GPUs anew, write the rows that differ, and rehash their buckets.

        Args:
            parts: The GPUs, those of one bucket one after the other.
            recounted: Claims whose tallies changed.
        """
        for part in parts:
            held = self.facts.rows_in({bucket_of(uuid) for uuid in part})
            gone: list[str] = []
            changed: list[tuple[Any, ...]] = []
            new: list[tuple[Row, int, bytes]] = []
            rehash: set[int] = set()
            left: dict[str, int] = {}
            decided = self._decide(part, self._recorded)
            for uuid, (row, key, *_) in decided.items():
                bucket = bucket_of(uuid)
                rows = held[bucket]
                claim, before = rows.get(uuid, (None, None))
                if row is None or key is None:
                    if claim is None:
                        continue
                    gone.append(uuid)
                    left[uuid] = claim
                    del rows[uuid]
                else:
                    digest = row.digest()
                    if claim != key:
                        new.append((row, key, digest))
                        self._nodes += claim is None
                        if claim is not None:
                            left[uuid] = claim
                    elif digest != before:  # the same claim: what the GPU is has not changed
                        changed.append((*_varying(row), digest, bucket, uuid))
                    else:
                        continue
                    rows[uuid] = key, digest
                rehash.add(bucket)
            self._nodes -= len(gone)
            self._connection.executemany(
                "DELETE FROM node WHERE bucket = ? AND uuid = ?", [(bucket_of(uuid), uuid) for uuid in gone]
            )
            self._connection.executemany(
                "UPDATE node SET status = ?, created_hlc = ?, verified_since = ?, detail = ?, chute = ?, chute_id = ?,"
                " instance_id = ?, digest = ? WHERE bucket = ? AND uuid = ?",
                changed,
            )
            self._insert_rows(new)
            for bucket in rehash:
                self._root.set_bucket(bucket, (held[bucket][uuid][1] for uuid in sorted(held[bucket])))
            written = [row.uuid for row, *_ in new] + [values[-1] for values in changed]
            self._note_changes(decided, written, left, recounted)

    def _note_changes(
        self,
        decided: Mapping[str, Decision],
        written: Sequence[str],
        left: Mapping[str, int],
        recounted: AbstractSet[int],
    ) -> None:
        """Note for the followers what became of some GPUs.

        Args:
            decided: Each GPU that was looked at, as it is now.
            written: Those whose rows are new or changed.
            left: GPU -> row key of the claim that owned it and does not any more.
            recounted: Claims whose tallies changed.
        """
        miners = self.facts.miners(left.values()) if left else {}
        gone = [
            Gone(uuid, miners[key])
            for uuid, key in left.items()
            if (row := decided[uuid].row) is None or row.miner != miners[key]
        ]
        before = self._settled_electorate
        restood = before is not self.weights.electorate
        rows = {*written, *left} if restood else ()
        claims: list[int] = []
        for uuid, decision in decided.items():
            touched = uuid in self._dirty_uuids or not recounted.isdisjoint(decision.claims)
            if touched or (restood and self._stands_otherwise(uuid, decision, before, changed=uuid in rows)):
                claims += decision.claims
        self._changes.add(gone, written, claims)

    def _stands_otherwise(self, uuid: str, decision: Decision, before: Electorate, *, changed: bool) -> bool:
        """Whether other claims stand on a GPU than did under the electorate before, or in another order."""
        if len(decision.claims) == 1:
            return changed  # a claim that is alone stands just where it has the row
        claims, deletions = decision.claims.values(), decision.deletions
        return inventory.standing(uuid, claims, deletions, before) != inventory.standing(
            uuid, claims, deletions, self.weights.electorate
        )

    def _insert_rows(self, rows: Sequence[tuple[Row, int, bytes]]) -> None:
        """Write rows of GPUs that are new or have another claim than before, with what their bodies say."""
        bodies = {key: self.facts.body(claim_id) for key, claim_id in {(key, row.claim_id) for row, key, _ in rows}}
        nodes = {key: {node.uuid: node for node in body.nodes} for key, body in bodies.items()}
        self._connection.executemany(
            "INSERT OR REPLACE INTO node (status, created_hlc, verified_since, detail, chute, chute_id, instance_id,"
            " digest, bucket, uuid, claim, miner, gpu_identifier, name, server_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *_varying(row), digest, bucket_of(row.uuid), row.uuid, key, row.miner,
                    nodes[key][row.uuid].gpu_identifier, nodes[key][row.uuid].name, bodies[key].server_id,
                )
                for row, key, digest in rows
            ],
        )  # fmt: skip

    def _decide(
        self, uuids: Collection[str], tallies_of: Callable[[Collection[int]], Mapping[int, Tally]]
    ) -> dict[str, Decision]:
        """What f says of each GPU, with the tallies of claims from ``tallies_of``."""
        claims, deletions, placements = (
            self.facts.claims_on(uuids), self.facts.deletions(uuids), self.facts.placements(uuids)
        )  # fmt: skip
        tallies = tallies_of({key for on in claims.values() for key in on})
        decided: dict[str, Decision] = {}
        for uuid, on in claims.items():
            by_id = {claim.id: tallies[key] for key, claim in on.items()}
            row = inventory.decide(uuid, on.values(), deletions[uuid], by_id, placements[uuid], self.weights)
            owner = None if row is None else next(key for key, claim in on.items() if claim.id == row.claim_id)
            decided[uuid] = Decision(row, owner, on, deletions[uuid])
        return decided

    def open_claims(self, miner: bytes, now_ms: int) -> int:
        """How many claims of a miner have no verdict of the network, not counting those that have lapsed."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM claim WHERE miner = ? AND status = 'pending' AND nonce >= ?",
            (miner, now_ms // 1000 - self.network.verdict_ttl_s),
        ).fetchone()
        return int(count)

    def uuids_deleted_by(self, request: bytes) -> set[str]:
        """GPUs that deletions under one request id name, as far as their authors are permitted."""
        rows = self._connection.execute("SELECT uuid, log FROM deletion WHERE request_id = ?", (request,))
        permitted = self.weights.electorate.permitted
        return {uuid for uuid, log in rows if permitted(self.facts.author(log))}

    def take_appended(self) -> list[Event]:
        """Own events written since the last call, to be sent once they are durable."""
        found, self._appended = self._appended, []
        return found

    def take_new_claims(self) -> list[bytes]:
        """Ids of claims that became known since the last call, for the verifiers."""
        found, self._new_claims = self._new_claims, []
        return found

    def take_voted(self) -> list[bytes]:
        """Ids of claims on which verdicts came since the last call, for whoever waits for them."""
        found, self._voted = self._voted, []
        return found

    def take_changes(self) -> Changes | None:
        """What transactions changed in the inventory since the last call, for those who follow it."""
        return self._changes.take()

    # -- memory ------------------------------------------------------------------------------------------------------

    def _stored_own_log(self) -> LogId | None:
        """The log that this database wrote last: never another one of its node key's, which a clone may be writing."""
        held = self._meta(_OWN_LOG)
        if held is None or self._node_key is None:
            return None
        node_key, number = codec.fields(codec.unpack(held), 2, "own log")
        log = LogId(codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number"))
        return log if log.node_key == self._node_key.public_key and log in self._logs else None

    def _disown(self, log: LogId) -> None:
        """Stop writing the own log, also after a restart: somebody else writes it, too (rule 4)."""
        self.foreign_own = log
        self._connection.execute("DELETE FROM meta WHERE key = ?", (_OWN_LOG,))

    def _meta(self, key: str) -> bytes | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def _set_meta(self, key: str, value: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _check_network(self) -> None:
        held = self._meta(_NETWORK_ID)
        if held is None:
            self._set_meta(_NETWORK_ID, self.network.id)
        elif held != self.network.id:
            raise StoreError(
                f"the database belongs to network {held.hex()}, the settings say {self.network.id.hex()}: "
                "use the data directory of this network, or restore the network's parameters"
            )

    def _load(self) -> None:
        """Read the in-memory state from the database."""
        execute = self._connection.execute
        self._dirty_claims.clear()
        self._dirty_uuids.clear()
        self._placed_uuids.clear()
        self._changes.clear()
        self._all_dirty = self._mandates_dirty = self._wrote = False
        self._new_claims.clear()
        self._voted.clear()
        self._appended.clear()
        self._logs = {}
        self._per_hotkey = {}
        self._addresses = {hotkey for (hotkey,) in execute("SELECT hotkey FROM address")}
        self.facts = Facts(self._connection)
        for key, node_key, number, hotkey in execute("SELECT log, node_key, number, hotkey FROM logs").fetchall():
            log = LogId(node_key, number)
            seq, event_id = execute(
                "SELECT seq, id FROM events WHERE log = ? ORDER BY seq DESC LIMIT 1", (key,)
            ).fetchone()
            prefix = self._prefix(key)
            self.clock.observe(prefix.hlc)
            self._logs[log] = LogState(key, log, hotkey, Head(seq, event_id), prefix)
            self._per_hotkey[hotkey] = self._per_hotkey.get(hotkey, 0) + 1
        self.forks_seen = [
            (LogId(node_key, number), seq, seen_ms)
            for node_key, number, seq, seen_ms in execute(
                "SELECT node_key, number, seq, seen_ms FROM fork JOIN logs USING (log)"
            )
        ]
        self.own_log = self._stored_own_log()
        self.weights = Weights(self.network, pins.load(self._connection), self.facts.mandates())
        self._settled_electorate = self.weights.electorate
        self._root = StateRoot()
        self._load_root()
        (self._events,) = execute("SELECT count(*) FROM events").fetchone()
        (self._nodes,) = execute("SELECT count(*) FROM node").fetchone()
        self._refresh_state()
        self._stale = False  # last: a load that failed half way is done again

    def _load_root(self) -> None:
        digests: list[bytes] = []
        current = 0
        for bucket, row_digest in self._connection.execute("SELECT bucket, digest FROM node ORDER BY bucket, uuid"):
            if bucket != current:
                self._root.set_bucket(current, digests)
                current, digests = bucket, []
            digests.append(row_digest)
        self._root.set_bucket(min(current, BUCKETS - 1), digests)

    def _prefix(self, key: int) -> Prefix:
        """What a log says so far, read back from it."""
        execute = self._connection.execute
        delegate = execute("SELECT max(seq) FROM delegations WHERE log = ?", (key,)).fetchone()[0]
        if delegate is None:
            return EMPTY
        (wire,) = execute("SELECT wire FROM events WHERE log = ? AND seq = ?", (key, delegate)).fetchone()
        # A valid event lies above all before it, so the highest HLC is its own or that of one behind it.
        (hlc,) = execute(
            "SELECT max(hlc) FROM events WHERE log = :log AND seq >= (SELECT seq FROM events"
            " WHERE log = :log AND judged AND void IS NULL ORDER BY seq DESC LIMIT 1)",
            {"log": key},
        ).fetchone()
        return Prefix(Delegation.from_wire(codec.unpack(Event.decode(wire).payload)), hlc)

    def _judge_what_is_known_now(self) -> None:
        """Rebuild if events wait that the build before could not judge, and this one knows other kinds than it did."""
        judged_by = codec.pack([PROTOCOL_VERSION, sorted(PAYLOADS)])
        if self._meta(_JUDGED_BY) == judged_by:
            return
        with self.transaction():
            if self._connection.execute("SELECT 1 FROM events WHERE NOT judged LIMIT 1").fetchone():
                self.rebuild()
            self._set_meta(_JUDGED_BY, judged_by)

    def _refresh_state(self) -> None:
        self.committed_weights = self.weights
        permitted = self.weights.electorate.permitted
        heads = {log: state.head for log, state in self._logs.items() if permitted(state.hotkey)}
        self.state = State(
            dict(self._logs),
            heads,
            self._root.root(),
            self.weights.electorate.digest,
            vector_digest(heads),
            self._events,
            self._nodes,
        )


def _varying(row: Row) -> tuple[Any, ...]:
    """Columns of ``node`` that votes and places change: status to instance_id."""
    chute = row.chute
    return (
        row.status, row.created_hlc, row.verified_since, row.detail, chute_fields(chute),
        chute and chute.chute_id, chute and chute.instance_id,
    )  # fmt: skip


def _chute(place: Place) -> Chute:
    return Chute(place.chute_id, place.instance_id, place.verified, place.public, place.name, place.username)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to ``size`` items; ``itertools.batched`` comes with Python 3.12."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def read_log(connection: sqlite3.Connection, log: LogId, first_seq: int, size_bytes_max: int) -> list[bytes]:
    """Consecutive events of a log from ``first_seq``: at least one if it exists, else up to ``size_bytes_max``."""
    wires: list[bytes] = []
    size = 0
    rows: Iterable[tuple[bytes]] = connection.execute(
        "SELECT wire FROM events WHERE log = (SELECT log FROM logs WHERE node_key = ? AND number = ?) AND seq >= ?"
        " ORDER BY seq",
        (*log, first_seq),
    )
    for (wire,) in rows:
        size += len(wire)
        if wires and size > size_bytes_max:
            break
        wires.append(wire)
    return wires
