"""The ledger: one database, one thread. Takes events in, keeps facts and rows in step, hands ranges out.

Every public method runs inside a transaction that the caller opens with ``transaction()``; rows are recomputed once
before it commits, so that no reader ever sees events without their rows (rule 7). The in-memory state (log heads,
prefixes, weights, bucket hashes) mirrors the database and is read anew whenever a transaction fails.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeVar

from p2pnodes.model import codec
from p2pnodes.model.branches import NO_ENDS, ended_log, ends_by, proof_order, rivalry
from p2pnodes.model.checkpoint import Certified, Leaf, Line, ended_ms, is_over, judge_kept, proves, slice_digest
from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, HybridClock, hlc_ms
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import LocalProtocolError, P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.model.events import (
    PAYLOADS,
    Checkpoint,
    Close,
    CutLog,
    Delegation,
    Event,
    Evidence,
    Head,
    LogId,
    Payload,
)
from p2pnodes.model.inventory import Row, Weights
from p2pnodes.model.keys import KEY_BYTES, NodeKey, ss58_encode
from p2pnodes.model.network import Network
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.model.stateroot import BUCKETS
from p2pnodes.model.validity import (
    EMPTY,
    Judgement,
    Prefix,
    check_close,
    check_evidence,
    judge,
)
from p2pnodes.store import indexes, pins
from p2pnodes.store.checkpoints import Checkpoints, Stage
from p2pnodes.store.cutting import Cutting, read_elsewhere
from p2pnodes.store.damage import DamagedEventError, damaged, reading, stored_event, unreadable
from p2pnodes.store.ends import keep as keep_end
from p2pnodes.store.ends import of_all, of_log
from p2pnodes.store.facts import Facts
from p2pnodes.store.liveset import LiveSet
from p2pnodes.store.logs import Logs, crowded_out, too_many
from p2pnodes.store.news import News
from p2pnodes.store.recount import Recount
from p2pnodes.store.schema import FAILURES, told
from p2pnodes.store.settling import Settling
from p2pnodes.store.state import LogState, Outcome, Result, State
from p2pnodes.store.statements import Statements
from p2pnodes.store.unsettled import Unsettled
from p2pnodes.store.upkeep import Upkeep
from p2pnodes.store.vector import digest_over

T = TypeVar("T")

MENDED: Final = "what was stored of it was damaged, and is whole again"
"""Detail of an event that is known, where it came again in the place of a damaged one."""

FOREIGN_EVENT: Final = Reason(
    "an event that this daemon did not write appeared in its own log: two daemons write it", Code.WRITES_FOREIGN
)
LOADING: Final = Reason("a checkpoint's live set is being loaded from peers", Code.WRITES_LOADING)
OWN_LOG_CLOSED: Final = Reason("this daemon's log was closed by its hotkey", Code.WRITES_NO_LOG)
OWN_LOG_FORKED: Final = Reason("this daemon's log has a fork: two daemons wrote it", Code.WRITES_FOREIGN)
OWN_LOG_DISPLACED: Final = Reason(
    "no peer keeps this daemon's log any more: its hotkey has too many logs, or it ended long ago", Code.LOG_DISPLACED
)
"""Why writes stop until a new log is open (rules 4 to 6)."""

EVENTS_PER_READ: Final = 1_024
"""Events that a rebuild reads at once."""

DERIVED: Final = (
    "delegations", "claim", "claim_gpu", "carriage", "deletion", "verdict", "placement", "proposal", "signature",
    "node", "bucket", "supply", "tenancy",
)  # fmt: skip
"""Every table that ``Ledger.rebuild`` fills from the log."""

NETWORK_ID: Final = "network_id"
OWN_LOG: Final = "own_log"
_HEARD_MS: Final = "heard_ms"
_TRIED_MS: Final = "tried_ms"
_DERIVED_BY: Final = "derived_by"
_CUT_AWAY: Final = "cut_away"
_FORGOTTEN_KEY: Final = "forgotten_key"
_PART: Final = "part"
_MOVING: Final = "moving"
_LEAVING: Final = "leaving"
"""Keys of the table ``meta``: the network; the log of own events; when a quorum was heard of last (``gossip.contact``;
wall clock, Unix milliseconds); when it was tried last whether the disk takes writes again (the same); what all that
follows from the events was derived by (a build's version, its kinds and its buckets); how many events of the logs that
are held checkpoints left out; the highest row key of a log that is not held any more; how many parts of long work
were done (``Ledger._next_part``); the row keys of the logs that do not count up to their cuts yet, or still count
above them (``Ledger.move_on``); and while something has to go before a live set can be loaded the row keys of the logs
whose events do, each with the first seq that does (``Ledger.begin_loading``)."""

_NOTHING: Final = b""
"""What all that follows from the events was derived by where some of it was struck out: see ``derive_anew``."""

EVENTS_PER_PART: Final = 256
BYTES_PER_PART: Final = 262_144
"""Events of logs that are taken away in one transaction, and their bytes, before no further one is: what one carries
costs as much as its bytes, up to 40 us a kB. One may have more alone. A log counts as an event."""

LEAVES_PER_PART: Final = 65_536
"""Leaves of a live set that was found here that are forgotten in one transaction: some 25 ms."""

NEWCOMER_PARTS: Final = 4
"""Who holds less than one of so many parts of a live set loads it without ``indexes.LIFTED``: laid over what was there
before and stays they would cost more than they save."""


class Ledger:
    """The event log, its facts and the inventory rows in one SQLite connection."""

    def __init__(self, connection: sqlite3.Connection, network: Network, node_key: NodeKey | None = None) -> None:
        """Load what the database holds.

        Args:
            connection: From ``schema.open_writer``.
            network: Parameters; a database of another network is refused.
            node_key: Signs own events; None for a ledger that only reads and receives.

        Raises:
            StoreError: The database belongs to another network, or is damaged.
        """
        self.network = network
        with reading("something in it"):
            self.facts = Facts(connection)
            self.checkpoints = Checkpoints(connection, network)
        self.clock = HybridClock()
        self.writes_refused: str | None = Reason("the daemon is starting", Code.WRITES_STARTING)
        """Why own events may not be written; None when they may."""
        self.own_log: LogId | None = None
        """The log that own events go to; None until one is opened or taken up."""
        self.foreign_own: LogId | None = None
        """An own log that must not be written on: it holds an event of another daemon's, or has an end (rule 4)."""
        self.foreign_reason = FOREIGN_EVENT
        """Why ``foreign_own`` must not."""
        self.weights = Weights(network, pins.EMPTY, {})
        """Of the open transaction, if there is one."""
        self.committed_weights = self.weights
        """Those that the rows of ``state`` were computed with."""
        self.commit_s = 0.0
        """How long the last COMMIT took, seconds: with it the disk has what the transaction wrote."""
        self.written = False
        """Whether the last transaction wrote anything; one that did not says nothing of the disk."""
        self.temporary_failure: str | None = None
        """What SQLite said of the last transaction, which is committed all the same: see ``_is_committed``."""
        self.logs = Logs()
        """Every log that is held, as the open transaction has it."""
        self.news = News()
        """What is to be told of transactions."""
        self.recount: Recount | None = None
        """What is known so far under the weights of an electorate that is not in force yet."""
        self._connection = connection
        self._node_key = node_key
        self._unsettled = Unsettled()
        self._statements: Statements
        self._upkeep: Upkeep
        self._wrote = False
        self._stale = False
        self._live_set: LiveSet | None = None
        self._cutting: Cutting | None = None
        self._settling: Settling | None = None
        """Of the live set that was loaded."""
        self._part = 0
        """How many parts of these three were done."""
        self._kept: tuple[int, LiveSet | None, Cutting | None, Settling | None] = (0, None, None, None)
        """What was there behind the last commit: ``_part``, and these three."""
        self._cut_away = 0
        self._moving: set[LogId] = set()
        """Logs whose cuts are not in force: rows follow from them up to ``Facts.cuts``."""
        self._moving_noted = True
        """Whether ``meta`` says which these are; it does behind every transaction."""
        self._cuts_moved = False
        """Whether cuts moved since the clock was set by what counts."""
        self._reload = False
        """Whether heads and prefixes are to be read anew behind the open transaction."""
        self.settled = True
        """False from just before a commit until ``state`` tells of it: readers may then be ahead of ``state``."""
        with reading("something in it"):
            self._check_network()
            self._load()
        if self.checkpoints.loading is None:  # a build that knows of none away may have ended a load
            indexes.lay_all(connection)
        self._derive_what_is_known_now()
        self._displace_what_counted()

    # -- transactions ------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the body in one transaction; rows are settled before it commits, everything is undone when it raises."""
        self._undo()  # one before, if there was no memory for that
        if self._stale:
            self._load()
        self._connection.execute("BEGIN IMMEDIATE")
        self._stale = True
        before = self._node_key, self.foreign_own
        changes = self._connection.total_changes
        try:
            yield
            self._settle()
            self.settled = False
            begun_s = time.perf_counter()
            self._connection.execute("COMMIT")
            self.commit_s = time.perf_counter() - begun_s
        except BaseException as error:
            after, (self._node_key, self.foreign_own) = (self._node_key, self.foreign_own), before
            self._undo()
            if self.settled or not isinstance(error, FAILURES) or not self._is_committed():
                self._load()
                self.settled = True
                raise
            self._node_key, self.foreign_own = after
            self._load(committed=True)
            self.temporary_failure = told(error)
        else:
            self.temporary_failure = None
            self._keep_parts()
            if self._reload:
                self._load(committed=True)
            else:
                self._refresh_state()
        self.written = self._connection.total_changes != changes
        self._wrote = False
        self._stale = False  # last: a load that failed half way is done again
        self.settled = True

    def _undo(self) -> None:
        """End the open transaction, if there is one; SQLite may have done so."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

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

    def read(self, log: LogId, first_seq: int, size_bytes_max: int, count_max: int = EVENTS_PER_READ) -> list[bytes]:
        """Consecutive events of a log from ``first_seq``, as received: at least one if it exists, else up to bounds."""
        return read_log(self._connection, log, first_seq, size_bytes_max, count_max)

    def receive(
        self, events: Sequence[Event], now_ms: int, check: Callable[[Sequence[Event]], None] | None = None
    ) -> list[Outcome]:
        """Store what peers sent; call inside a transaction.

        Args:
            events: Decoded, signatures unchecked, any order, at most a few hundred.
            now_ms: Wall clock, for the bound on skew.
            check: Told whose signatures will be asked for, one after the other (``store.signatures``).

        Returns:
            An outcome for each event, in order.
        """
        if self._loads:  # what stood before them is on its way
            return [Outcome(event, Result.GAP, "a live set is being loaded") for event in events]
        if check is not None:
            check(self._following(events))
        return [self._receive(event, now_ms) for event in events]

    def receive_proofs(self, proofs: Sequence[Evidence | Close], now_ms: int) -> None:
        """Take proofs of the ends of logs that are held; call inside a transaction.

        Args:
            proofs: Decoded, unchecked, at most a few hundred. One that is bad, of a log that is not held, or not lower
                than what is known changes nothing.
            now_ms: Wall clock, to tell when it was seen.
        """
        lower: list[Evidence | Close] = []
        for proof in proofs:
            with suppress(codec.MalformedError):
                state = self.logs.get(ended_log(proof))
                if state is not None and (isinstance(proof, Evidence) or proof.hotkey == state.hotkey):
                    lower.append(proof)
        # The lowest first, so that of each kind a log takes one and leaves the others.
        for proof in sorted(lower, key=proof_order):
            ends = self.logs[ended_log(proof)].ends
            # First what costs nothing: a proof that is known already comes from every peer.
            if ends.merged(ends_by(proof)) != ends and self._proves(proof):
                self._take_end(proof, now_ms)

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
        assert self._node_key is not None
        return self._write(self._node_key, state.id, state.head, state.prefix, build(hlc), hlc)

    def open_log(
        self,
        number: int,
        delegation: Delegation,
        now_ms: int,
        *,
        closings: Sequence[Close] = (),
        node_key: NodeKey | None = None,
        ahead: bool = False,
    ) -> Event:
        """Open a new own log with its delegation; call inside a transaction.

        Args:
            number: Its number.
            delegation: Its first event.
            now_ms: Wall clock.
            closings: Checked ones, which it tells behind that. What they void does not hold the clock ahead any more.
            node_key: Signs from now on, instead of the ledger's key so far.
            ahead: Also where it begins too far ahead of the wall clock.

        Raises:
            LocalProtocolError: The log exists, or the ledger has no node key.
            WritesRefusedError: The delegation is void here, the hotkey is at its bound of logs, or the log would begin
                too far ahead of the wall clock: another one's does, of which the hybrid clock is never behind.
        """
        node_key = node_key or self._node_key
        if node_key is None:
            raise LocalProtocolError("this ledger has no node key and cannot write", code=Code.SYSTEM_MISUSE)
        log = LogId(node_key.public_key, number)
        if log in self.logs:
            raise LocalProtocolError(f"log {log} exists already", code=Code.SYSTEM_MISUSE)
        self.logs.check_room(delegation.hotkey)
        self.receive_proofs(closings, now_ms)
        if not ahead:
            self._require_time(now_ms)
        event = self._write(node_key, log, None, EMPTY, delegation, self.clock.tick(now_ms))
        self._node_key = node_key
        for close in closings:
            state = self.logs[log]
            self._write(node_key, log, state.head, state.prefix, close, self.clock.tick(now_ms))
        self._set_meta(OWN_LOG, codec.pack([*log]))
        self.own_log = log
        self.foreign_own = None
        return event

    def expect(self, log: LogId) -> None:
        """Take a log of which nothing is here for the own one: peers are heard about it before it is opened.

        Call it inside a transaction; a restart forgets it.
        """
        self.own_log = log
        self.foreign_own = None

    @property
    def heard_ms(self) -> int | None:
        """When validators with a quorum were heard of last, as ``note_heard`` kept it; None where it never did."""
        held = self._meta(_HEARD_MS)
        return None if held is None else codec.integer(codec.unpack(held), "when a quorum was heard of")

    def note_heard(self, at_ms: int) -> None:
        """Keep for the next start when a quorum was heard of, Unix milliseconds; call inside a transaction."""
        self._wrote = True
        self._set_meta(_HEARD_MS, codec.pack(at_ms))

    def try_disk(self, now_ms: int) -> None:
        """Write the wall clock, Unix milliseconds, for nobody to read; call inside a transaction."""
        self._wrote = True
        self._set_meta(_TRIED_MS, codec.pack(now_ms))

    def renew(self, delegation: Delegation, now_ms: int) -> Event:
        """Write a later delegation into the current own log; call inside a transaction."""
        return self.append(lambda _: delegation, now_ms)

    def counted(self, log: LogId) -> Head | None:
        """The last event of a log that counts, as the open transaction has it; None when none does."""
        state = self.logs.get(log)
        return None if state is None else state.counted

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
        state = self.logs.get(event.log)
        if state is not None and state.displaced:
            return Outcome(event, Result.REFUSED, _OVER if event.log in self.logs.over else too_many(state.hotkey))
        if state is not None and event.seq <= state.head.seq:
            return self._known_or_fork(event, state, now_ms)
        if (state is None and event.seq) or (state is not None and event.seq > state.head.seq + 1):
            return Outcome(event, Result.GAP, f"seq {event.seq} while {state.head.seq + 1 if state else 0} is next")
        if not event.signed():
            return Outcome(event, Result.FORGED, "the header does not carry its node key's signature")
        if hlc_ms(event.hlc) > now_ms + SKEW_AHEAD_MS_MAX:
            return Outcome(event, Result.AHEAD, f"its clock is {hlc_ms(event.hlc) - now_ms} ms ahead of ours")
        if state is not None and event.previous != state.head.id:
            return self._fork(event, None, f"seq {event.seq} continues another event than the stored one", now_ms)
        judgement = judge(event, state.prefix if state else EMPTY)
        if refusal := self._refusal(event.log, judgement, state):
            return Outcome(event, Result.REFUSED, refusal)
        if event.log == self.own_log:
            self._disown(event.log, FOREIGN_EVENT)
        self._store(event, state, judgement)
        return Outcome(event, Result.STORED, judgement.void or "")

    def _following(self, events: Iterable[Event]) -> list[Event]:
        """Those of events that follow on what is stored, or on others of them."""
        following: list[Event] = []
        nexts: dict[LogId, int] = {}
        for event in events:
            log, seq = event.log, event.seq
            state = self.logs.get(log)
            if seq == nexts.get(log, state.head.seq + 1 if state else 0):
                nexts[log] = seq + 1
                following.append(event)
        return following

    def _refusal(self, log: LogId, judgement: Judgement, state: LogState | None) -> str | None:
        """Why nobody must store this event; None when it is to be stored."""
        if state is not None:
            hotkey = state.hotkey
        elif isinstance(judgement.payload, Delegation):
            hotkey = judgement.payload.hotkey
            if is_over(log, ended_ms(judgement.prefix.hlc, judgement.payload.not_after), self.checkpoints.line):
                return _OVER
            if not self.logs.have_room(log, hotkey, self.checkpoints.line.logs):
                return too_many(hotkey)
        else:
            return f"a log must begin with a valid delegation: {judgement.void or 'found another kind'}"
        if not self.weights.electorate.permitted(hotkey):
            return (
                f"the hotkey {ss58_encode(hotkey)} holds no validator permit at block {self.weights.electorate.block}"
            )
        return None

    def _known_or_fork(self, event: Event, state: LogState, now_ms: int) -> Outcome:
        stored = self._stored_id(state, event.seq)
        if stored == event.id:
            return Outcome(event, Result.KNOWN, self._mend(event, state))
        if self.checkpoints.below(state.key, event.seq):  # what a checkpoint closed no fork opens again
            return Outcome(event, Result.KNOWN, "")
        if not event.signed():
            return Outcome(event, Result.FORGED, "the header does not carry its node key's signature")
        row = self._connection.execute(
            "SELECT wire FROM events WHERE log = ? AND seq = ?", (state.key, event.seq)
        ).fetchone()
        wire = b"" if row is None else row[0]
        evidence = None  # nothing can be shown by an event that is damaged
        if Event.is_whole(wire, event.id):  # the row names another event than its bytes, which are this one
            return Outcome(event, Result.KNOWN, self._mend(event, state))
        if stored is not None and Event.is_whole(wire, stored):
            evidence = rivalry(Event.decode(wire), event)
        return self._fork(event, evidence, f"seq {event.seq} is stored with another id", now_ms)

    def _mend(self, event: Event, state: LogState) -> str:
        """Put an event that came again in the place of what is stored of it, where that is damaged; what was done.

        What was made of it when it was stored stays: it was whole then.
        """
        where = "WHERE log = ? AND seq = ?"
        row = self._connection.execute(f"SELECT id, wire FROM events {where}", (state.key, event.seq)).fetchone()  # noqa: S608 - our own text
        if row is None or row == (event.id, event.wire) or not event.signed():
            return ""
        if row[0] == event.id and _is_sound(row[1], event.id):  # a second signature of the same event
            return ""
        self._wrote = True
        self._connection.execute(
            f"UPDATE events SET id = ?, wire = ? {where}",  # noqa: S608 - the same
            (event.id, event.wire, state.key, event.seq),
        )
        if event.seq == state.head.seq:
            self.logs.keep(self._counted_to(state._replace(head=Head(event.seq, event.id))))
        return MENDED

    def _fork(self, event: Event, evidence: Evidence | None, detail: str, now_ms: int) -> Outcome:
        """Answer to a signed event that the stored branch does not have."""
        if evidence is not None:
            self._take_end(evidence, now_ms)
        if event.log == self.own_log:
            self._disown(event.log, FOREIGN_EVENT)
        return Outcome(event, Result.FORK, detail, evidence is not None)

    def _require_time(self, now_ms: int) -> None:
        """Require that peers would take an event now: they take none from the future."""
        if (ahead_ms := self.clock.ahead_ms(now_ms)) > SKEW_AHEAD_MS_MAX:
            raise WritesRefusedError(
                f"the logical clock is {ahead_ms} ms ahead of the system clock, which may have gone back: at most "
                f"{SKEW_AHEAD_MS_MAX} ms are allowed, check the system's time",
                code=Code.WRITES_CLOCK_AHEAD,
            )

    def _writable(self, now_ms: int) -> LogState:
        if self.writes_refused is not None:
            raise WritesRefusedError(self.writes_refused)
        if self._loads:
            raise WritesRefusedError(LOADING, retry_after_s=10)
        if self.foreign_own is not None:  # here, so that no other thread's view of it can be late
            raise WritesRefusedError(self.foreign_reason, code=Code.WRITES_FOREIGN)
        if self.own_log is None:
            raise WritesRefusedError("this daemon has no open log", code=Code.WRITES_NO_LOG)
        self._require_time(now_ms)
        state = self.logs.get(self.own_log)
        if state is None:
            raise WritesRefusedError("the own log is not open yet", code=Code.WRITES_NO_LOG)
        if state.cut is not None and state.cut <= state.head.seq + 1:
            raise WritesRefusedError(
                f"the own log {state.id} ends at seq {state.cut}: what is written there is void",
                code=Code.WRITES_NO_LOG,
            )
        return state

    def _write(  # noqa: PLR0917 - what an event is made of
        self, node_key: NodeKey, log: LogId, head: Head | None, prefix: Prefix, payload: Payload, hlc: int
    ) -> Event:
        event = Event.create(
            node_key,
            self.network.id,
            log_number=log.number,
            seq=head.seq + 1 if head else 0,
            previous=head.id if head else b"",
            hlc=hlc,
            payload=payload,
        )
        judgement = judge(event, prefix)
        if judgement.void is not None:
            raise WritesRefusedError(f"peers would find this event void: {judgement.void}", code=Code.WRITES_VOID)
        self._store(event, self.logs.get(log), judgement)
        self.news.appended.append(event)
        return event

    # -- facts -------------------------------------------------------------------------------------------------------

    def _store(self, event: Event, state: LogState | None, judgement: Judgement) -> None:
        self._wrote = True
        if state is None:
            assert isinstance(judgement.payload, Delegation)
            state = self._open(event.log, judgement.payload.hotkey)
        head = Head(event.seq, event.id)
        cut = state.cut
        if cut is not None:  # that the closing names another event here may show only now
            cut = self.cut_of(state._replace(head=head))
        counted = cut is None or event.seq < cut
        moving = event.log in self._moving
        told = counted and not (moving and self.facts.is_void(state.key, event.seq))  # the others in their turn
        before = self._statements.replaced(judgement, state.key, event) if told else None
        cursor = self._connection.execute(
            "INSERT INTO events (log, seq, id, hlc, hlc_max, kind, judged, void, before, wire)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                state.key, event.seq, event.id, event.hlc, judgement.prefix.hlc, event.kind, judgement.judged,
                judgement.void, before, event.wire,
            ),
        )  # fmt: skip
        self.logs.keep(LogState(
            state.key, event.log, state.hotkey, head, judgement.prefix, state.ends, cut,
            head if counted else state.counted,
            max(event.hlc, state.hlc) if counted else state.hlc,
        ))  # fmt: skip
        if cut is not None and not moving:
            self._record_cut(state.key, cut)
        if event.seq == 0 and self.logs.has_too_many(state.hotkey):
            self._displace(self.logs.of(state.hotkey))
        self._events += 1
        if counted:
            self.clock.observe(event.hlc)
        self._record(event, state.key, cursor.lastrowid or 0, judgement, counted=told)

    def _record(self, event: Event, log: int, position: int, judgement: Judgement, *, counted: bool) -> None:
        """Record what an event says, and take what it proves; arguments as ``Statements.record`` has them."""
        self._statements.record(event, log, position, judgement, counted=counted)
        if isinstance(judgement.payload, Close | Evidence):
            self._take_end(judgement.payload, hlc_ms(event.hlc))

    def _open(self, log: LogId, hotkey: bytes) -> LogState:
        """Begin to hold a log that speaks for a hotkey."""
        self._statements.name(hotkey)
        (key,) = self._connection.execute("SELECT coalesce(max(log), 0) FROM logs").fetchone()
        key = max(key, self._forgotten_key()) + 1  # readers remember whose log has which
        self._connection.execute(
            "INSERT INTO logs (log, node_key, number, hotkey) VALUES (?, ?, ?, ?)", (key, *log, hotkey)
        )
        self.checkpoints.note_log(key, log)
        self.logs.per_hotkey[hotkey] += 1
        ends = of_log(self._connection, log, hotkey)
        if ends != NO_ENDS:
            self.news.ended[log] = None
        state = LogState(key, log, hotkey, Head(-1, b""), EMPTY, ends)
        return state._replace(cut=self.cut_of(state))

    # -- ends --------------------------------------------------------------------------------------------------------

    def _proves(self, proof: Evidence | Close) -> bool:
        if isinstance(proof, Close):
            return check_close(self.network.id, proof)
        return check_evidence(self.network.id, proof)

    def _take_end(self, proof: Evidence | Close, seen_ms: int) -> None:
        """Keep a proof that was checked, whoever brought it; what it voids counts no more before the commit."""
        if not keep_end(self._connection, proof, seen_ms):
            return
        self._wrote = True
        log = ended_log(proof)
        state = self.logs.get(log)
        if state is None or (isinstance(proof, Close) and proof.hotkey != state.hotkey):
            return
        state = state._replace(ends=state.ends.merged(ends_by(proof)))
        self.logs.keep(state)
        self.news.ended[log] = None
        if log == self.own_log:
            self._disown(log, OWN_LOG_CLOSED if isinstance(proof, Close) else OWN_LOG_FORKED)
        self._move_cut(state, self.cut_of(state))
        self._set_clock_back()

    def cut_of(self, state: LogState) -> int | None:
        """First seq of a log that counts for nothing; never at or below the cut of the checkpoint in force."""
        if state.displaced:
            return 0
        cut = state.ends.cut(lambda seq: self._stored_id(state, seq))
        return None if cut is None else max(cut, self.checkpoints.cuts.get(state.key, -1) + 1)

    def _stored_id(self, state: LogState, seq: int) -> bytes | None:
        """Id of the event of a log at a seq; None where none is stored."""
        for head in (state.head, self._closed_head(state)):
            if head is not None and head.seq == seq:
                return head.id
        return self.facts.stored_id(state.key, seq)

    def _closed_head(self, state: LogState) -> Head | None:
        """The last event of a log at or below the cut of the checkpoint in force."""
        entry = self.checkpoints.line.logs.get(state.id)
        return None if entry is None else entry.head

    def _move_cut(self, state: LogState, cut: int | None) -> None:
        """Let a log count up to another seq than before: a first part at once, see ``move_on``."""
        if cut == state.cut:
            return
        self.logs.keep(self._counted_to(state._replace(cut=cut)))
        self._follow_cut(state.id)
        self._cuts_moved = True

    def _set_clock_back(self) -> None:
        """Let the clock go by what counts where cuts moved: what is void does not hold it ahead (rule 8).

        Behind all that move at once: it looks at all logs.
        """
        if self._cuts_moved:
            latest = max((each.hlc for each in self.logs.values()), default=0)
            self.clock.latest = max(0, latest)  # of a log of which nothing counts it is -1
            self._cuts_moved = False

    @property
    def moving(self) -> bool:
        """Whether cuts of logs are not in force: ``move_on`` is to be called."""
        return bool(self._moving)

    def move_on(self) -> bool:
        """Put the cuts of logs in force, a part of them; call inside a transaction, but not while a live set is loaded.

        An end that voids much does so from the log's end down, as if it had been proved higher at first; what counts
        again does from below. Meanwhile rows are what they are without the events that count for nothing so far, and
        where the parts are interrupted they go on. All else goes by the cut itself: heads, the vector, what is written.

        Returns:
            Whether all of them are.
        """
        self._wrote = True
        for log in sorted(self._moving):
            self._follow_cut(log)
            if log in self._moving:
                return False
            self.news.ended[log] = None  # what only it carries is found by now
        return True

    def _moves(self) -> bool:
        """Whether more may count otherwise in the open transaction."""
        if self._statements.rebuilding:
            return True
        if self._loads:  # rows are decided from what is here, and marks are forgotten
            return False
        return self._unsettled.takes_moves

    def _follow_cut(self, log: LogId) -> None:
        """Let a log count up to its cut, as far as the open transaction has room for it."""
        state = self.logs[log]
        following = state.head.seq + 1
        before, after = (
            following if seq is None else min(seq, following) for seq in (self.facts.cuts.get(state.key), state.cut)
        )
        while before != after and self._moves():
            if after < before:
                before = self._statements.take_back(state.key, after, before, self._moves)
            else:  # of two closings with one seq the lower id counts, and may name the stored event
                before = self._statements.say_again(state.key, before, after, self._moves)
        self._record_cut(state.key, state.cut if before == after else before)
        if (before != after) != (log in self._moving):
            self._moving ^= {log}
            self._moving_noted = False

    def _counted_to(self, state: LogState) -> LogState:
        """A log's state with what its cut leaves."""
        cut, head = state.cut, state.head
        entry = self.checkpoints.line.logs.get(state.id)
        if cut is not None and entry is not None and entry.head.seq == cut - 1:
            # Of another branch, which is to go, the event in its place may be here.
            return state._replace(counted=entry.head, hlc=entry.hlc)
        if cut is None or cut > head.seq:
            return state._replace(counted=head, hlc=state.prefix.hlc)
        last = self._connection.execute(
            "SELECT id, hlc_max FROM events WHERE log = ? AND seq = ?", (state.key, cut - 1)
        ).fetchone()
        if last is None:  # it is cut at its first event
            return state._replace(counted=None, hlc=-1)
        event_id, hlc = last
        return state._replace(counted=Head(cut - 1, event_id), hlc=hlc)

    def _record_cut(self, log: int, cut: int | None) -> None:
        if self.facts.cuts.get(log) != cut:
            self._connection.execute("UPDATE logs SET cut = ? WHERE log = ?", (cut, log))
            self.facts.note_cut(log, cut)

    def _displace_all(self) -> None:
        """Decide anew which logs count, where another cut is in force."""
        self.logs.find_over(self._connection, self.checkpoints.line)
        for logs in self.logs.standing():
            self._displace(logs)
        for log in self.logs.over:
            self._set_displaced(log, beyond=True)
        self._set_clock_back()

    def _displace_what_counted(self) -> None:
        """Let logs count no more that a build of before let count: then it is carried what only they carry."""
        logs = [state for state in self.logs.values() if state.displaced and state.cut != 0]
        if logs:
            with self.transaction():
                for state in logs:
                    self.logs.keep(state._replace(displaced=False))
                    self._set_displaced(state.id, beyond=True)
                self._set_clock_back()

    def _displace(self, logs: Sequence[LogId]) -> None:
        """Let those of a hotkey's logs count no more by which it has too many; the others do."""
        beyond = crowded_out(logs, self.checkpoints.line.logs)
        for log in logs:
            self._set_displaced(log, beyond=log in beyond)
        self._set_clock_back()

    def _set_displaced(self, log: LogId, *, beyond: bool) -> None:
        """Let a log count no more, or again; what only it carries, others carry then."""
        state = self.logs[log]
        if beyond == state.displaced:
            return
        if beyond and log == self.own_log:
            self._disown(log, OWN_LOG_DISPLACED)
        if beyond and (last := self._last_stored(state.key)) is not None:
            self._count_cut_away(last[0].seq - state.head.seq)  # below a cut the last ones may be gone
            state = state._replace(head=last[0], prefix=last[1])
        state = state._replace(displaced=beyond)
        self.logs.keep(state)
        self.news.ended[log] = None
        self._move_cut(state, self.cut_of(state))

    def forget(self, log: LogId) -> bool:
        """Take away the next part of a displaced log, from its end down; call inside a transaction.

        Not at once: the requests that only it carries are to be carried by others first (``clerk.DISPLACED_MS``).

        Returns:
            Whether all of it is gone.
        """
        state = self.logs[log]
        if not state.displaced:
            raise LocalProtocolError(f"BUG! log {log} counts and is not to be forgotten", code=Code.SYSTEM_BUG)
        if log in self._moving:
            self._wrote = True
            self._follow_cut(log)
            return False
        return self._forget_part(state)

    def _forget_part(self, state: LogState) -> bool:
        """Take away the last events of a log, a part of them; with the first one the log. Whether it is gone."""
        self._wrote = True
        gone = self._take_away(state, 0, _Room(EVENTS_PER_PART))
        if gone:
            self._forget_log(state)
        return gone

    def _take_away(self, state: LogState, low: int, room: "_Room") -> bool:
        """Take away the last events of a log from seq ``low`` on, as far as there is room; whether all of these are."""
        query = "SELECT seq, length(wire) FROM events WHERE log = ? AND seq >= ? ORDER BY seq DESC LIMIT ?"
        gone: list[int] = []
        for seq, size_bytes in self._connection.execute(query, (state.key, low, EVENTS_PER_PART)):
            if not room.takes(size_bytes):
                break
            gone.append(seq)
        if gone:
            self._statements.drop(state.key, gone[-1], gone[0])
            self._events -= len(gone)
        last = self._last_stored(state.key) or (Head(-1, b""), state.prefix)
        # Of one that was cut, some had been gone before.
        self._count_cut_away(last[0].seq + len(gone) - state.head.seq)
        state = state._replace(head=last[0], prefix=last[1])
        if state.id in self._moving:  # a closing may have named another event of those; the next start asks, too
            state = state._replace(cut=self.cut_of(state))
        self.logs.keep(self._counted_to(state))
        return last[0].seq < low

    def _forget_log(self, state: LogState) -> None:
        """Forget a log of which no event is here."""
        self._connection.execute("DELETE FROM logs WHERE log = ?", (state.key,))
        self._set_meta(_FORGOTTEN_KEY, codec.pack(max(state.key, self._forgotten_key())))
        if state.id in self._moving:
            self._moving.discard(state.id)
            self._moving_noted = False
        self.logs.forget(state.id)
        self.facts.note_cut(state.key, None)
        if self._live_set is not None and state.id in self._live_set.line.logs:  # others are found in spite of it
            self.forget_finding()

    def _forgotten_key(self) -> int:
        """Highest row key of a log that was forgotten; 0 for none."""
        return codec.integer(codec.unpack(self._meta(_FORGOTTEN_KEY) or b"\0"), "row key of a log")

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def find_live_set(self, line: Line) -> Checkpoint | None:
        """Find the live set below a line, part by part; call inside a transaction, until it is found.

        Args:
            line: Of a proposal whose cut is held here; another one than before begins anew.
        """
        if self._live_set is None or self._live_set.line.proposal != line.proposal:
            self._live_set = LiveSet(self._connection, self.checkpoints, line)
        if self._live_set.statement is None:
            self._next_part()
            self._live_set.advance()
        return self._live_set.statement

    def found(self, proposal: bytes) -> Checkpoint | None:
        """The live set that was found last, if it lies below the cut of this proposal; None until it is found."""
        return self._live_set.statement if self._live_set is not None and self.is_finding(proposal) else None

    @property
    def finding(self) -> Line | None:
        """The line below which a live set is being found, or was found last; None for none."""
        return None if self._live_set is None else self._live_set.line

    def is_finding(self, proposal: bytes) -> bool:
        """Whether the live set below the cut of a proposal is being found, or is found."""
        return self.finding is not None and self.finding.proposal == proposal

    def forget_finding(self) -> None:
        """Forget the live set that is being found, or was found last; call inside a transaction."""
        self._next_part()
        self._live_set = None

    def enforce(self, said: Certified | None = None) -> None:
        """Put a certificate in force, the pending one, whose live set is held; ``cut`` after it.

        Call it inside a transaction.
        """
        said = said or self.checkpoints.pending
        assert said is not None
        self._next_part()
        self.checkpoints.enforce(said, Stage.CUTTING)
        self._live_set = self._cutting = None
        self._displace_all()
        for state in list(self.logs.values()):
            if state.cut is not None:  # an end that was proved meanwhile lies just above the cut now
                self._move_cut(state, self.cut_of(state))
        self._set_clock_back()

    def cut(self) -> bool:
        """Take away the next part of what the checkpoint in force leaves out; call inside a transaction.

        Where its live set is loaded, first goes what cannot stay beside it, and nothing more before it is whole; then
        the rows come that follow from it. What goes, goes in one part of a transaction: the next one begins with the
        rows that follow from it. All loads that end at the same time ask for a part, and share a transaction.

        Returns:
            Whether all of it is gone.
        """
        alone = self._part == self._kept[0]
        self._next_part()
        if self.logs.leaving is not None:
            if alone:
                self._leave()
            return False
        if self.checkpoints.loaded:
            return self._settle_loaded()
        if self.checkpoints.loading is not None or not alone:
            return False
        if self._cutting is None:
            self._cutting = Cutting(self._connection, self.checkpoints)
        touched = self._cutting.advance()
        self._unsettled.claims |= touched.claims
        self._unsettled.uuids |= touched.uuids
        self._unsettled.placed |= touched.placed
        self._count_cut_away(touched.events)
        self._events -= touched.events
        if self._cutting.done:
            self._cutting = None
            self.checkpoints.reach(Stage.DONE)
            return True
        return False

    def _settle_loaded(self) -> bool:
        """Have the next rows follow from a live set that is whole; whether nothing is left to be taken away, either."""
        if self._settling is None or not self._settling.weights.same_votes(self.weights):
            self._settling = Settling(self.facts, self.weights)
        if not self._settling.done:
            self._settling.advance()
        if not self._settling.done or indexes.lay(self._connection):
            return False
        self._settling = None
        statement = self.checkpoints.loading
        assert statement is not None
        # Nothing was here before: there is nothing else.
        alone = self._held_events() == statement.leaves and not self.checkpoints.holds_older_sets()
        self.checkpoints.reach(Stage.DONE if alone else Stage.CUTTING)
        self.news.changes.give_up()
        self._reload = True
        return alone

    def _count_cut_away(self, events: int) -> None:
        if events:
            self._cut_away += events
            self._set_meta(_CUT_AWAY, codec.pack(self._cut_away))

    def begin_loading(self, certificate: bytes) -> None:
        """Take a certificate whose live set comes from peers; call inside a transaction, and ``load`` each slice then.

        What cannot stay beside it goes before: a first part at once, and what is left by ``cut``, while ``leaving``.
        Until then it is stored, and counts for as little as all else while a live set is loaded.

        Args:
            certificate: Checked here. The caller has seen that its signers are to be trusted.

        Raises:
            MalformedError: It proves nothing.
        """
        self._next_part()
        self._live_set = self._cutting = self._settling = None
        before = self.checkpoints.line.logs
        self.checkpoints.begin(certificate)
        self.checkpoints.forget_slices()
        self.logs.find_over(self._connection, self.checkpoints.line)
        self.logs.leaving = self._find_leaving(before)
        self._disown_unless_held(before)
        self._displace_all()
        for log, entry in self.checkpoints.line.logs.items():
            if log not in self.logs.leaving:
                self._enter(log, entry)
        for log in sorted(self.logs.leaving):
            if self._take_away(self.logs[log], self.logs.leaving[log], _Room(0)):  # it is gone already
                self._end_leaving(log)
        self._displace_all()
        self._leave()
        self._reload = True

    @property
    def leaving(self) -> bool:
        """Whether something that is here has to go before a live set can be loaded: ``cut`` is to be called."""
        return self.logs.leaving is not None

    def _find_leaving(self, before: Mapping[LogId, CutLog]) -> dict[LogId, int]:
        """Find the logs of which events cannot stay beside the cut in force, each with the first seq that cannot.

        All of a log goes that cannot go on from that cut; peers send again what follows on it. Such are those that
        another hotkey opened here; those in which the cut before went farther, as where two checkpoints follow one; and
        those that it named, which are named no more though they are not over, or of which not even the beginning came,
        by which others are known to be over. Of all these there may be gaps here. Of others a branch goes that the
        checkpoint closed; and what had to go before, and is still here.

        Args:
            before: How far the cut before went.
        """
        leaving = {} if self.logs.leaving is None else {**self.logs.leaving}
        for log, state in self.logs.items():
            entry, closed = self.checkpoints.line.logs.get(log), before.get(log)
            if entry is None:
                low = None if closed is None or log in self.logs.over else 0
            elif entry.hotkey != state.hotkey or (closed is not None and closed.head.seq > entry.head.seq):
                low = 0
            elif state.head.seq >= entry.head.seq and self._held_at(log, entry, before) != entry.head.id:
                low = entry.head.seq
            else:
                low = None
            if low is not None:
                leaving[log] = min(low, leaving.get(log, low))
        return leaving

    def _held_at(self, log: LogId, entry: CutLog, before: Mapping[LogId, CutLog]) -> bytes | None:
        """Id of the event of a log that is here, or was, where the cut in force ends; None where none came."""
        closed, state = before.get(log), self.logs.get(log)
        if closed is not None and closed.head.seq == entry.head.seq:
            return closed.head.id
        return None if state is None else self.facts.stored_id(state.key, entry.head.seq)

    def _disown_unless_held(self, before: Mapping[LogId, CutLog]) -> None:
        """Stop writing the own log if it ends in an event that this daemon did not write, or goes from here."""
        log = self.own_log
        if log is None or self.logs.leaving is None:
            return
        entry = self.checkpoints.line.logs.get(log)
        if log in self.logs.leaving or (entry is not None and self._held_at(log, entry, before) != entry.head.id):
            self._disown(log, FOREIGN_EVENT)

    def _enter(self, log: LogId, entry: CutLog) -> None:
        """Let a log go on from the cut in force: of what is here nothing speaks against it."""
        state = self.logs[log] if log in self.logs else self._open(log, entry.hotkey)
        self._count_cut_away(max(0, entry.head.seq - state.head.seq))
        if log in self._moving:  # it goes on behind what is loaded; what comes next lies above it
            low, high = entry.head.seq, max(entry.head.seq, state.head.seq)
            self._record_cut(state.key, min(max(self.facts.cuts[state.key], low + 1), high + 1))
        else:
            self._record_cut(state.key, self.cut_of(state))
        self.logs[log] = state

    def _leave(self) -> None:
        """Take away the next part of what cannot stay beside a live set that is to be loaded."""
        assert self.logs.leaving is not None
        if self.checkpoints.forget_leaves(LEAVES_PER_PART) < LEAVES_PER_PART:
            room, hotkeys = _Room(EVENTS_PER_PART), set()
            for log in sorted(self.logs.leaving):
                if not self._take_away(self.logs[log], self.logs.leaving[log], room):
                    break
                hotkeys.add(self._end_leaving(log))
                room.takes(0)
            for hotkey in hotkeys:
                self._displace(self.logs.of(hotkey))
            if not self.logs.leaving:
                self.logs.leaving = None
            self._reload |= bool(hotkeys)
        self._note_leaving()

    def _end_leaving(self, log: LogId) -> bytes:
        """Let a log go on from the cut in force, if that names it, where all is gone that had to; its hotkey then."""
        assert self.logs.leaving is not None
        state, entry = self.logs[log], self.checkpoints.line.logs.get(log)
        if not self.logs.leaving.pop(log):
            self._forget_log(state)
        if entry is None:
            return state.hotkey
        self._enter(log, entry)
        return entry.hotkey

    def _note_leaving(self) -> None:
        if self.logs.leaving is None:
            self._connection.execute("DELETE FROM meta WHERE key = ?", (_LEAVING,))
            return
        leaving = sorted(self.logs.leaving.items())
        self._set_meta(_LEAVING, codec.pack([[self.logs[log].key, low] for log, low in leaving]))

    def _next_part(self) -> None:
        """Count a part of long work: by that a commit that failed behind the database's own is told from one before."""
        self._wrote = True
        self._part += 1
        self._set_meta(_PART, codec.pack(self._part))

    def _keep_parts(self) -> None:
        """Note how far long work is, behind a commit."""
        if self._part == self._kept[0]:
            return
        self._kept = self._part, self._live_set, self._cutting, self._settling
        for work in self._kept[1:]:
            if work is not None:
                work.keep()

    def _take_up_parts(self) -> None:
        """Let long work go on where the last committed part ended; or forget it, where its database went on without it.

        That is so where SQLite committed a part and failed behind that: what belongs to it in temporary tables may be
        lost (``_is_committed``).
        """
        self._part = codec.integer(codec.unpack(self._meta(_PART) or b"\0"), "parts of long work")
        if self._part != self._kept[0]:
            self._kept = self._part, None, None, None
        _, self._live_set, self._cutting, self._settling = self._kept
        for work in self._kept[1:]:
            if work is not None:
                work.back(self.facts)

    @property
    def _loads(self) -> bool:
        """Whether a live set is being loaded, or was until this very transaction, after which logs are read anew."""
        return self._reload or self.checkpoints.loading is not None

    def missing_slices(self) -> list[int]:
        """Slices of the live set that is being loaded which are not here yet, in order; none while none is loaded."""
        loading = self.checkpoints.loading
        if loading is None:
            return []
        held = self.checkpoints.slices_held()
        return [index for index in range(loading.slices) if index not in held]

    def load(
        self,
        index: int,
        leaves: Sequence[tuple[int, bytes | Event]],
        path: Sequence[bytes],
        check: Callable[[Sequence[Event]], None] | None = None,
    ) -> bool:
        """Take one slice of the live set that is being loaded; call inside a transaction, behind ``begin_loading``'s.

        Where something had to go, it is also behind the one with the last of that: heads are read anew between the two.

        Args:
            index: Of the slice; one that is here already changes nothing.
            leaves: Mask and event of each leaf; events that are decoded already are not decoded again.
            path: From the slice to the root, see ``model.checkpoint.Tree``.
            check: See ``receive``.

        Returns:
            Whether the live set is whole now; ``cut`` after it: before that no row follows from it.

        Raises:
            MalformedError: It is forged: it does not lie under the root that the certificate names.
            LocalProtocolError: It comes too early, in one of these transactions.
        """
        statement = self.checkpoints.loading
        if statement is None or self.logs.leaving is not None or index in self.checkpoints.slices_held():
            return False
        if self._reload:
            raise LocalProtocolError(
                f"BUG! slice {index} comes in the transaction from which on its live set is loaded",
                code=Code.SYSTEM_BUG,
            )
        events = [(mask, Event.decode(each) if isinstance(each, bytes) else each) for mask, each in leaves]
        found = [Leaf(event.log, event.seq, event.id, mask) for mask, event in events]
        hashed = slice_digest(leaf.digest() for leaf in found)
        if not found or not proves(path, hashed, index, statement.slices, statement.root):
            raise codec.MalformedError(f"slice {index}: it is not in the live set of checkpoint {statement.number}")
        if check is not None:
            check([event for _, event in events])
        judged = [_judge_kept(event) for _, event in events]  # before anything is written: ids do not cover signatures
        self._wrote = True
        if not self.checkpoints.slices_held() and self._held_events() * NEWCOMER_PARTS < statement.leaves:
            indexes.lift(self._connection)
        self.checkpoints.keep_leaves({(self.logs[leaf.log].key, leaf.seq): leaf.mask for leaf in found})
        known = self._known(event for _, event in events)
        for (_, event), judgement in zip(events, judged, strict=True):
            self._load_event(event, judgement, known.get((event.log, event.seq)))
        for log in dict.fromkeys(leaf.log for leaf in found):
            state = self.logs[log]
            self.logs.keep(state._replace(prefix=state.prefix._replace(delegation=self._latest_delegation(state.key))))
        self._count_cut_away(len(known) - len(events))
        self._events += len(events) - len(known)
        self.checkpoints.keep_slice(index, self.logs[found[0].log].key, found[0].seq, hashed)
        if self.checkpoints.loaded:
            self.checkpoints.forget_other_delegations()  # rows, and what is heard next, follow from those that are kept
            self._unsettled.mandates = self._reload = True
        return self.checkpoints.loaded

    def _known(self, events: Iterable[Event]) -> dict[tuple[LogId, int], tuple[int, bytes]]:
        """Position and id of what is stored at the places of some events, by log and seq."""
        seqs: dict[LogId, list[int]] = {}
        for event in events:
            seqs.setdefault(event.log, []).append(event.seq)
        query = "SELECT seq, position, id FROM events WHERE log = ? AND seq IN (SELECT value FROM json_each(?))"
        return {
            (log, seq): (position, event_id)
            for log, named in seqs.items()
            for seq, position, event_id in self._connection.execute(query, (self.logs[log].key, f"{named}"))
        }

    def _load_event(self, event: Event, judgement: Judgement, held: tuple[int, bytes] | None) -> None:
        """Store an event of a live set that a certificate vouches for, and what it says of it.

        Args:
            event: The event.
            judgement: What it says.
            held: Position and id of what is stored in its place.
        """
        state = self.logs[event.log]
        if held is not None and held[1] == event.id:  # what was made of it here need not be what a checkpoint keeps
            self._statements.unsay(state.key, event.seq, event.seq, [event])
            self._record(event, state.key, held[0], judgement, counted=True)
            lives = partial(self.checkpoints.lives, state.key, event.seq)
            read_elsewhere(self._connection, [add.claim_id for add in judgement.adds if not lives(add.item)])
            return
        if held is not None:
            self._statements.drop(state.key, event.seq, event.seq)
        cursor = self._connection.execute(
            "INSERT INTO events (log, seq, id, hlc, hlc_max, kind, judged, void, wire)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)",
            (state.key, event.seq, event.id, event.hlc, event.hlc, event.kind, judgement.judged, event.wire),
        )
        self._record(event, state.key, cursor.lastrowid or 0, judgement, counted=True)

    # -- rows --------------------------------------------------------------------------------------------------------

    def set_electorate(self, electorate: Electorate) -> None:
        """Weigh with another electorate; call inside a transaction. Rows follow before it commits: all at once."""
        held = self.weights.electorate
        if (electorate.current, electorate.previous) == (held.current, held.previous):
            return
        self._wrote = True
        pins.save(self._connection, electorate)
        self.weights = Weights(self.network, electorate, self.facts.mandates())
        self.checkpoints.weigh(electorate)
        self._unsettled.mandates = False
        self._unsettled.reweighed |= electorate.digest != held.digest  # addresses weigh nothing

    def begin_recount(self, electorate: Electorate) -> None:
        """Begin to recount under another electorate, instead of any that was begun; call outside of transactions.

        The electorate is in force after ``advance_recount``, as often as it takes, and ``switch``.
        """
        self.end_recount()
        self.recount = Recount(self._connection, Weights(self.network, electorate, self.facts.mandates()))

    def advance_recount(self, slice_s: float) -> None:
        """Go on with a recount; call outside of transactions, until it is ready or hopeless.

        Args:
            slice_s: Seconds after which no further part of it is begun.

        Raises:
            sqlite3.Error: What is known so far could not be kept; end it.
        """
        assert self.recount is not None
        self._undo()
        if self._stale:
            self._load()
        deadline = time.monotonic() + slice_s
        self._connection.execute("BEGIN")
        try:
            while not self.recount.ready:
                self.recount.advance(self.facts, self.weights)
                if time.monotonic() >= deadline:
                    break
            self._connection.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def switch(self) -> None:
        """Put the electorate in force that was recounted; call inside a transaction of its own, and end the recount."""
        assert self.recount is not None
        self._wrote = True
        pins.save(self._connection, self.recount.weights.electorate)
        self.weights = self.recount.weights
        self.checkpoints.weigh(self.weights.electorate)
        self._upkeep.take_over(self.recount.apply(self.facts, self.news.changes))

    def end_recount(self) -> None:
        """Forget a recount; call outside of transactions."""
        if self.recount is not None:
            self.recount.close()
            self.recount = None

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Judge every stored event again and derive everything from them; call inside a transaction.

        Args:
            progress: If given, called now and then with events judged and events in all.
        """
        self._wrote = True
        self._connection.execute("UPDATE events SET before = NULL WHERE before NOTNULL")
        for state in self.logs.values():
            self._statements.name(state.hotkey)
        for table in reversed(DERIVED):  # rows go when nothing counts them any more
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above
        for log in self._moving:
            self._record_cut(self.logs[log].key, self.logs[log].cut)
        self._moving.clear()
        self._moving_noted = False
        told = _Told(progress, self._events)
        self._statements.rebuilding = True
        # What the checkpoint in force keeps comes first: what lies above it may carry the same requests again.
        for state in list(self.logs.values()):
            self._rebuild_kept(state, told)
        for state in list(self.logs.values()):
            self._rebuild_above(state, told)
        self._statements.rebuilding = False
        self.news.new_claims.clear()
        self.news.voted.clear()
        self._unsettled.everything = self._unsettled.mandates = True

    def _rebuild_kept(self, state: LogState, told: "_Told") -> None:
        """State again what a log's events at or below the cut of the checkpoint in force say, as far as it is kept."""
        for position, event in self._wires(state.key, -1, self.checkpoints.cuts.get(state.key, -1)):
            judgement = judge_kept(event)
            self._connection.execute(
                "UPDATE events SET judged = ?, void = ? WHERE position = ?",
                (judgement.judged, judgement.void, position),
            )
            if self.checkpoints.is_kept(state.key, event.seq):
                self._record(event, state.key, position, judgement, counted=True)
            elif isinstance(judgement.payload, Delegation) and self.checkpoints.lacks_slices:
                # Peers may yet bring another one; until then events above are judged by this, and the own log speaks.
                self._record(event, state.key, position, judgement, counted=True)
            told.one_more()

    def _rebuild_above(self, state: LogState, told: "_Told") -> None:
        """Judge a log's events above that cut again, and state what they say."""
        log, prefix = state.id, self._closed_prefix(state)
        for position, event in self._wires(state.key, self.checkpoints.cuts.get(state.key, -1), codec.INT_MAX):
            judgement = judge(event, prefix)
            prefix = judgement.prefix
            cut = self.logs[log].cut  # an event that tells of an end may have moved it
            counted = cut is None or event.seq < cut
            before = self._statements.replaced(judgement, state.key, event) if counted else None
            self._connection.execute(
                "UPDATE events SET judged = ?, void = ?, before = ? WHERE position = ?",
                (judgement.judged, judgement.void, before, position),
            )
            self._record(event, state.key, position, judgement, counted=counted)
            told.one_more()
        leaving = self.logs.leaving or {}
        if log in leaving and (last := self._last_stored(state.key)) is not None:
            _, prefix = last  # what is left of it need not reach that cut, nor be of its branch
        self.logs.keep(self._counted_to(self.logs[log]._replace(prefix=prefix)))

    def _closed_prefix(self, state: LogState) -> Prefix:
        """What the first event of a log above the cut of the checkpoint in force is judged by."""
        entry = self.checkpoints.line.logs.get(state.id)
        if entry is None:
            return EMPTY
        return Prefix(self._latest_delegation(state.key, entry.head.seq), entry.hlc)

    def _wires(self, key: int, above: int, last: int) -> Iterator[tuple[int, Event]]:
        """Position and event of those of a log above one seq up to another, read in parts while the caller writes."""
        query = "SELECT seq, position, wire FROM events WHERE log = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        while part := self._connection.execute(query, (key, above, last, EVENTS_PER_READ)).fetchall():
            yield from ((position, Event.decode(wire)) for _, position, wire in part)
            above = part[-1][0]

    def rows(self) -> Iterator[Row]:
        """Every current row as f decides it now, in order of uuids, computed anew and not read."""
        return self._upkeep.decided(self.weights)

    def _settle(self) -> None:
        """Bring tallies, rows and state root in step with facts and electorate."""
        if not self._moving_noted:
            self._set_meta(_MOVING, codec.pack(sorted(self.logs[log].key for log in self._moving)))
            self._moving_noted = True
        marks = self._unsettled
        if marks.mandates:
            mandates = self.facts.mandates()
            weights = Weights(self.network, self.weights.electorate, mandates)
            marks.reweighed |= not weights.same_votes(self.weights)
            self.weights = weights
            if self.recount is not None:
                self.recount.weigh(Weights(self.network, self.recount.weights.electorate, mandates))
        # A daemon's event loop waits for as long as one call holds the interpreter: what concerns everything is done in
        # parts and remembered by numbers, so that neither a large set nor the garbage collector takes long.
        if marks.everything:
            self._settle_all()
        elif self.checkpoints.stage is Stage.LOADING:
            pass  # rows follow when all of the live set is here (``cut``), and nobody reads them before
        elif marks.reweighed:
            self._upkeep.settle_reweighed(self.weights)
        else:
            decided = self._upkeep.settle(self.weights)
            if self.recount is not None:
                self.recount.touch(marks.claims, decided, marks.placed)
        if self.recount is not None and (marks.everything or marks.reweighed or self._loads):
            self.recount.restart()  # it is told of no claim and no GPU by name
        marks.clear()
        self.facts.fresh.clear()
        self._upkeep.weights = self.weights

    def _settle_all(self) -> None:
        """Settle everything; followers read it anew."""
        if self._settling is not None:  # what it has sorted goes
            self._next_part()
            self._settling = None
        settling = Settling(self.facts, self.weights)
        while not settling.done:
            settling.advance()
        self._upkeep.replace(settling.root, settling.rows)

    def open_claims(self, miner: bytes, now_ms: int) -> int:
        """How many claims of a miner have no verdict of the network, not counting those that have lapsed."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM claim WHERE miner = ? AND status = 'pending' AND nonce >= ?",
            (miner, now_ms // 1000 - self.network.verdict_ttl_s),
        ).fetchone()
        return int(count)

    def uuids_deleted_by(self, request: bytes) -> set[str]:
        """GPUs that deletions under one request id name, as far as authors are permitted and their logs not cut."""
        rows = self._connection.execute("SELECT uuid, log, seq FROM deletion WHERE request_id = ?", (request,))
        permitted, facts = self.weights.electorate.permitted, self.facts
        return {uuid for uuid, log, seq in rows if permitted(facts.author(log)) and not facts.is_void(log, seq)}

    # -- memory ------------------------------------------------------------------------------------------------------

    def _stored_own_log(self) -> LogId | None:
        """The log that this database wrote last, while it may go on.

        Never another one of its node key's, which a clone may be writing.
        """
        held = self._meta(OWN_LOG)
        if held is None or self._node_key is None:
            return None
        node_key, number = codec.fields(codec.unpack(held), 2, "own log")
        log = LogId(codec.binary(node_key, "node key", KEY_BYTES), codec.integer(number, "log number"))
        if log.node_key != self._node_key.public_key or log not in self.logs:
            return None
        return log if self.logs[log].ends == NO_ENDS else None

    def _disown(self, log: LogId, reason: Reason) -> None:
        """Stop writing the own log, also after a restart: somebody else writes it, too, or it has ended (rule 4)."""
        self.foreign_own, self.foreign_reason = log, reason
        self._connection.execute("DELETE FROM meta WHERE key = ?", (OWN_LOG,))

    def _meta(self, key: str) -> bytes | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def _set_meta(self, key: str, value: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _check_network(self) -> None:
        if require_network(self._connection, self.network) is None:
            self._set_meta(NETWORK_ID, self.network.id)

    def _load(self, *, committed: bool = False) -> None:
        """Read the in-memory state from the database.

        Args:
            committed: What there is to tell of the open transaction stays.
        """
        execute = self._connection.execute
        if not committed:
            self.news.clear()
        self._wrote = False
        self._unsettled.clear()
        self.logs = Logs()
        self.facts = Facts(self._connection)
        self.checkpoints.load()
        self._statements = Statements(self.facts, self.checkpoints, self._unsettled, self.news)
        self._reload = False
        self._take_up_parts()
        self._moving.clear()
        self._moving_noted, self._cuts_moved = True, False
        left = self._meta(_LEAVING)
        leaving = {} if left is None else _leaving_from(left)
        still: dict[LogId, int] = {}
        self.logs.leaving = None if left is None else still
        moving = frozenset(codec.array(codec.unpack(self._meta(_MOVING) or b"\x90"), 0, codec.INT_MAX, "moving logs"))
        ends = of_all(self._connection)
        for key, *log_id, hotkey, cut in execute("SELECT log, node_key, number, hotkey, cut FROM logs").fetchall():
            log = LogId(*log_id)
            last = self._last_stored(key)
            entry = self.checkpoints.line.logs.get(log)
            if key in leaving:
                still[log] = leaving[key]
            elif entry is not None and (last is None or last[0].seq < entry.head.seq):
                last = entry.head, Prefix(self._latest_delegation(key), entry.hlc)
            if last is None:
                raise damaged(f"no event of log {log} is in it")
            state = LogState(key, log, hotkey, *last, ends.get(log, NO_ENDS), cut)
            self.logs[log] = self._counted_to(state)
            if key in moving:
                self._moving.add(log)
            else:
                self.clock.observe(self.logs[log].hlc)
            self.logs.per_hotkey[hotkey] += 1
        self.logs.find_over(self._connection, self.checkpoints.line)
        many = filter(self.logs.has_too_many, self.logs.per_hotkey)
        beyond = (crowded_out(self.logs.of(hotkey), self.checkpoints.line.logs) for hotkey in many)
        for log in self.logs.over.union(*beyond):
            self.logs[log] = self.logs[log]._replace(displaced=True)
        for log in self._moving:
            self.logs[log] = self._counted_to(self.logs[log]._replace(cut=self.cut_of(self.logs[log])))
            self.clock.observe(self.logs[log].hlc)
        self.own_log = self._stored_own_log()
        self.weights = Weights(self.network, pins.load(self._connection), self.facts.mandates())
        self.checkpoints.weigh(self.weights.electorate)
        if self.recount is not None:  # it may have been told of delegations that were undone
            self.recount.weigh(Weights(self.network, self.recount.weights.electorate, self.facts.mandates()))
        self._upkeep = Upkeep(self.facts, self._unsettled, self.news.changes, self.weights)
        self._cut_away = codec.integer(codec.unpack(self._meta(_CUT_AWAY) or b"\0"), "events that are cut away")
        self._events = self._held_events()
        self._refresh_state()
        self._stale = False  # last: a load that failed half way is done again

    def _last_stored(self, key: int) -> tuple[Head, Prefix] | None:
        """The last event of a log that is here, and what stands behind it; None where there is none."""
        query = "SELECT seq, id, hlc_max FROM events WHERE log = ? ORDER BY seq DESC LIMIT 1"
        row = self._connection.execute(query, (key,)).fetchone()
        return None if row is None else (Head(*row[:2]), Prefix(self._latest_delegation(key), row[2]))

    def _is_committed(self) -> bool:
        """Whether a transaction whose COMMIT failed is committed all the same, if somebody is to hear of it.

        SQLite commits file by file, this database first. What is changed in temporary ones, as while a live set is
        found or an electorate is recounted, may fail behind it; where it does, that work begins anew.

        Source: sqlite.org/lang_attach.html: with a write-ahead log, transactions are atomic within each file alone.
        """
        for log in self.logs if self.logs.changed is None else self.logs.changed:
            now, known = self.logs[log], self.state.logs.get(log)
            if known is None or now.head.seq > known.head.seq:  # where events went, what is left was there before, too
                return self.facts.stored_id(now.key, now.head.seq) == now.head.id
            if now.ends != known.ends:
                return of_log(self._connection, log, now.hotkey) == now.ends
        ours, before, held = self.weights.electorate, self.committed_weights.electorate, pins.load(self._connection)
        return ours is not before and (held.current, held.previous) == (ours.current, ours.previous)

    def _held_events(self) -> int:
        """Events that are stored: a log is held from its beginning but for what checkpoints left out."""
        return sum(state.head.seq + 1 for state in self.logs.values()) - self._cut_away

    def _latest_delegation(self, key: int, last: int = codec.INT_MAX) -> Delegation | None:
        """The latest valid delegation of a log, above its cut or below, up to a seq."""
        row = self._connection.execute(
            "SELECT wire FROM events WHERE log = ?1"
            " AND seq = (SELECT max(seq) FROM delegations WHERE log = ?1 AND seq <= ?2)",
            (key, last),
        ).fetchone()
        return None if row is None else Delegation.from_wire(codec.unpack(stored_event(row[0]).payload))

    def _derive_what_is_known_now(self) -> None:
        """Rebuild what the build before left: events that it could not judge, or rows that lie in other buckets."""
        derived_by = codec.pack([PROTOCOL_VERSION, sorted(PAYLOADS), BUCKETS])
        held = self._meta(_DERIVED_BY)
        if held == derived_by:
            return
        with self.transaction():
            self._unsettled.everything = True  # rows that a migration took away come back
            unjudged = "SELECT 1 FROM events WHERE NOT judged LIMIT 1"
            if held == _NOTHING or self._connection.execute(unjudged).fetchone():
                try:
                    self.rebuild()
                except codec.MalformedError as error:
                    raise unreadable("an event", error) from error
            self._set_meta(_DERIVED_BY, derived_by)

    def _refresh_state(self) -> None:
        self.committed_weights = self.weights
        self.logs.compare(self.weights.electorate)
        self.state = State(
            dict(self.logs),
            dict(self.logs.heads),
            self._upkeep.root,
            self.weights.electorate.digest,
            digest_over(self.logs.slices.digests),
            self._events,
            self._upkeep.rows,
            dict(self.logs.ends),
            self.own_log,
            self.logs.slices.digests,
            self.checkpoints.line.number,
            self.checkpoints.highest,
            self.checkpoints.loading is not None,
            self.leaving,
            self.checkpoints.loaded,
            self.checkpoints.stage is Stage.CUTTING or self.moving,
            self.checkpoints.line.proposal,
        )


class _Room:
    """How much more may be taken away in a transaction."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._bytes = BYTES_PER_PART
        self._none = True
        """Whether nothing was."""

    def takes(self, size_bytes: int) -> bool:
        """Whether there is room for one more thing; the first one has it, however large it is."""
        if not self._events or (size_bytes > self._bytes and not self._none):
            return False
        self._events -= 1
        self._bytes -= size_bytes
        self._none = self._none and not size_bytes
        return True


class _Told:
    """Counts events for whoever wants to see progress."""

    def __init__(self, progress: Callable[[int, int], None] | None, of: int) -> None:
        self._progress = progress
        self._done = 0
        self._of = of

    def one_more(self) -> None:
        """Count one event; say so now and then, and at the end."""
        self._done += 1
        if self._progress and (self._done % EVENTS_PER_READ == 0 or self._done == self._of):
            self._progress(self._done, self._of)


def _is_sound(wire: bytes, event_id: bytes) -> bool:
    """Whether bytes are the event with an id, its signature included."""
    return Event.is_whole(wire, event_id) and Event.decode(wire).signed()


def _judge_kept(event: Event) -> Judgement:
    """Judge an event of a live set.

    Raises:
        MalformedError: Its signature does not hold, or it is void.
    """
    if not event.signed():
        raise codec.MalformedError(f"seq {event.seq} of log {event.log}: its signature does not hold")
    judgement = judge_kept(event)
    if judgement.void:
        raise codec.MalformedError(f"seq {event.seq} of log {event.log}: {judgement.void}")
    return judgement


_OVER: Final = "its first delegation ended before the horizon, and the cut in force does not name it: it is over"


def _leaving_from(packed: bytes) -> dict[int, int]:
    """Row keys and first seqs, as ``meta`` has them."""
    pairs = [codec.fields(pair, 2, "a log") for pair in codec.array(codec.unpack(packed), 0, codec.INT_MAX, "logs")]
    return {codec.integer(key, "row key of a log"): codec.integer(low, "first seq") for key, low in pairs}


def stored_network(connection: sqlite3.Connection) -> bytes | None:
    """Id of the network that a database is of; None before a ledger opened it."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (NETWORK_ID,)).fetchone()
    return None if row is None else row[0]


def require_network(connection: sqlite3.Connection, network: Network) -> bytes | None:
    """Id of the network that a database is of; None before a ledger opened it.

    Raises:
        StoreError: It belongs to another network.
    """
    held = stored_network(connection)
    if held not in {None, network.id}:
        raise StoreError(
            f"the database belongs to network {held.hex()}, the settings say {network.id.hex()}: "
            "use the data directory of this network, or restore the network's parameters",
            code=Code.DATA_OTHER_NETWORK,
        )
    return held


def derive_anew(connection: sqlite3.Connection) -> None:
    """Have the next ledger that opens a database derive everything from its events; call inside a transaction.

    For who strikes out some of what follows from them: whatever becomes of him, nobody goes on with what is left.
    """
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_DERIVED_BY, _NOTHING))


def read_log(
    connection: sqlite3.Connection, log: LogId, first_seq: int, size_bytes_max: int, count_max: int = EVENTS_PER_READ
) -> list[bytes]:
    """Consecutive events of a log from ``first_seq``: at least one if it exists, else no more than the bounds.

    They end before one that is damaged: whoever is sent that takes the sender for a liar.

    Raises:
        DamagedEventError: The first one is.
    """
    wires: list[bytes] = []
    size = 0
    rows: Iterable[tuple[int, bytes, bytes]] = connection.execute(
        "SELECT seq, id, wire FROM events WHERE log = (SELECT log FROM logs WHERE node_key = ? AND number = ?)"
        " AND seq >= ? ORDER BY seq LIMIT ?",
        (*log, first_seq, count_max),
    )
    for seq, event_id, wire in rows:
        if seq != first_seq + len(wires):  # a checkpoint may have left some out
            break
        if not Event.is_whole(wire, event_id):
            if wires:
                break
            raise DamagedEventError(log, seq)
        size += len(wire)
        if wires and size > size_bytes_max:
            break
        wires.append(wire)
    return wires
