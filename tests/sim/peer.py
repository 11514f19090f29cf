"""A simulated daemon: what ``daemon.py``, ``author.py``, ``database.py`` and the driver do, without asyncio around."""

import math
import random
import sqlite3
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from p2pnodes.carrier import Gather, Look, Rest, Rounds, Write
from p2pnodes.clerk import REST_MS_MAX, STEPS_PER_HORIZON, Clerk
from p2pnodes.clerk import Step as Duty
from p2pnodes.gossip.bans import Bans
from p2pnodes.gossip.contact import Contact
from p2pnodes.gossip.dials import Dial, Dials
from p2pnodes.gossip.engine import (
    TICK_MS,
    Close,
    Consider,
    Effect,
    Engine,
    Foresee,
    Load,
    Member,
    Notice,
    Peer,
    Prove,
    Read,
    ReadCertificate,
    ReadLeaves,
    Send,
    Store,
    Survey,
)
from p2pnodes.gossip.frames import Want, decode
from p2pnodes.gossip.ownlog import Step, hear, ran_ahead, stays_ahead
from p2pnodes.model.claims import parse_body
from p2pnodes.model.clock import CLOCK_OFF_MS_MAX, hlc_at
from p2pnodes.model.errors import P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.model.events import Delegation, Event, Head, LogId, Payload, closing, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.model.requests import Add, Delete
from p2pnodes.model.stateroot import state_root
from p2pnodes.store import carrying, checks, gathering
from p2pnodes.store.admission import admit_add, admit_delete
from p2pnodes.store.carrying import Carried, Cursor
from p2pnodes.store.checkpoints import Donor, read_certificate
from p2pnodes.store.database import GROUP_JOBS_MAX
from p2pnodes.store.gathering import Gathered
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found, Lack, consider, lacking
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Outcome, Result
from p2pnodes.verify.renewals import Renewals
from p2pnodes.verify.scheduler import PAUSE_MS, QUEUED_CLAIMS_MAX, WALK
from p2pnodes.verify.turns import OVERDUE
from p2pnodes.verify.verdicts import begins_ms, record_fault, record_renewals, record_verdict
from tests.sim.network import End
from tests.sim.verifiers import Behaviour, honest
from tests.support import hotkey

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

COMMIT_MS: Final = (1.0, 25.0)
"""From a job's arrival to its fsync; jobs that come meanwhile share it."""

READ_MS: Final = (0.5, 4.0)
CHECK_MS: Final = (50.0, 500.0)
"""How long a verifier looks at a claim."""

SCAN_MS: Final = 5_000
"""How often a peer looks for claims that it has to check."""

METHOD: Final = "simulated"

SKEW_MS_MAX: Final = 5_000

MEMBERS_MS: Final = 2_000
"""How often a peer looks who the validators are and where they are, as the daemon does (TARGETS_POLL_S)."""

DIALS_AT_ONCE_MAX: Final = 16
"""Dials under way (the driver's bound)."""

BOOTSTRAP_SESSIONS: Final = 4
"""With fewer sessions a peer dials the bootstrap addresses, too."""

PAGES_MAX: Final = 1_073_741_823
"""SQLite's bound of pages where none is set."""

WRITE_PAUSE_MS: Final = 1_000.0
"""How long a peer waits before it tries again what the disk did not take."""

WANT: Final = 3
"""Kind of the frame ``Want`` (docs/protocol.md, "Frames")."""

Job = Callable[[Ledger], Any]
Done = Callable[[Any], None]


class CheckFailedError(AssertionError):
    """Something happened that must never happen."""


class Speaker(End, Protocol):
    """An end that can hold a session with a simulated daemon.

    Attributes:
        honest: Whether nobody may ever have a reason to ban it.
    """

    honest: bool

    def identity(self) -> Peer:
        """What the handshake would prove of it."""


class Held(NamedTuple):
    """An open session: with whom, who that was when it opened, and when that was."""

    other: Speaker
    peer: Peer
    since_s: float


class SimPeer:
    """One validator. Its disk outlives a crash, everything else does not."""

    honest = True
    delegation_s = 86_400
    """How long before and behind its signing a delegation holds."""

    def __init__(self, world: "Simulation", index: int) -> None:
        self.world = world
        self.index = index
        self.name = f"p{index}"
        self.hotkey = hotkey(f"//validator{index}")
        self.rng = random.Random(f"{world.seed} peer {index}")
        """Of this peer alone, so that what it draws does not change what others draw."""
        self.node_key = NodeKey.from_seed(self.rng.randbytes(32))
        """Lies in the data directory: a backup or a clone has it, too."""
        self.skew_ms = self.rng.randint(-SKEW_MS_MAX, SKEW_MS_MAX)
        self.commit_ms = COMMIT_MS
        self._slowed: dict[Hashable, tuple[float, float]] = {}
        self.news_ms = 0.0
        """How much later than others it learns of electorates."""
        self.disk_full = False
        self.behaviour: Behaviour = honest
        """What it makes of the claims that it checks."""
        self.check_ms = CHECK_MS
        self.disk = open_writer(":memory:")
        self.backup: tuple[sqlite3.Connection, NodeKey] | None = None
        self.up = False
        self.starts = 0
        self.ledger: Ledger
        self.engine: Engine
        self.acknowledged: list[Event] = []
        """Own events that were durable and left the writer."""
        self.delegation: tuple[LogId, Delegation] | None = None
        self._jobs: list[tuple[Job, Done]] = []
        self._donor = Donor()
        self._committing = False
        self._heard = False
        self._opening = False
        self._hearing_since_ms: float | None = None
        self._waiting: dict[bytes, int] = {}
        self._running: set[bytes] = set()
        self._voted: set[bytes] = set()
        self._aside: dict[bytes, int] = {}
        self._walked = 0
        self._renewals = Renewals(world.parameters.verdict_ttl_s * 1000)
        self.rounds = Rounds()
        self.clerk = Clerk()
        self._attends = 0
        self.contact: Contact
        self._carrying = False
        self._carry_at_ms: int | None = None
        self._news: frozenset[LogId] = frozenset()
        self._found: dict[LogId, None] = {}
        self._told: set[LogId] = set()
        self.open: dict[int, Held] = {}
        self._dials = Dials()
        self._dialling: dict[int, Dial] = {}
        self._members_due_ms = 0.0
        self._fit_for = b""
        self.bans = Bans()

    # -- life --------------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """This peer's wall clock."""
        return int(self.world.clock.now_ms) + self.skew_ms

    def start(self) -> None:
        """Start on the disk as it is."""
        self.starts += 1
        self.up = True
        self.ledger = Ledger(self.disk, self.world.parameters, self.node_key)
        found, kept = state_root(self.ledger.rows()), self.ledger.state.state_root
        if found != kept and not self.ledger.state.loading:  # while a live set is loaded no row follows from it yet
            raise CheckFailedError(f"{self.name} starts with rows that its events do not give (rule 7)")
        self.engine = self._new_engine()
        self._jobs = []
        self._donor = Donor()
        self._waiting = {}
        self._running = set()
        self._voted = set()
        self._aside = {}
        self._walked = 0
        self._renewals = Renewals(self.world.parameters.verdict_ttl_s * 1000)
        self.rounds = Rounds()
        self.clerk = Clerk()
        self.contact = Contact(self.world.parameters, int(self.world.clock.now_ms))
        self._carrying = False
        self._carry_at_ms = None
        self._news = frozenset()
        self._found = {}
        self._told = set()
        self.open = {}
        self._dials, self._dialling = Dials(), {}
        self._members_due_ms = 0.0
        self._fit_for = b""
        self.bans = Bans()
        self._committing = self._heard = self._opening = False
        self._hearing_since_ms = None
        own = self.ledger.own_log
        found_delegation = self.ledger.delegation_of(own) if own else None
        self.delegation = (own, found_delegation) if own and found_delegation else None
        self.world.trace(self.name, "start", f"with {self.ledger.state.events} events")
        self.weigh()
        self._note(ended=False)
        self._every(TICK_MS, self._turn)
        self._every(SCAN_MS, self._scan)
        self._attend_in(1 if self._moves else self._rest_ms)

    def _new_engine(self) -> Engine:
        return Engine(
            self.world.parameters,
            self.ledger,
            random.Random(self.rng.getrandbits(64)),
            node_key=self.node_key.public_key,
            permitted=self._permitted,
        )

    def crash(self) -> None:
        """Lose everything but the disk; a job that was not committed never happened."""
        self.world.trace(self.name, "crash", f"{len(self._jobs)} jobs lost")
        self.up = False
        self._jobs = []

    @property
    def reachable(self) -> bool:
        """Whether it runs and has a log to show in a handshake."""
        return self.up and self.delegation is not None

    def holds(self, log: LogId, head: Head) -> bool:
        """Whether its disk holds a log up to a head."""
        held = self.ledger.state.logs.get(log)
        return held is not None and held.head.seq >= head.seq

    def copy_disk(self) -> tuple[sqlite3.Connection, NodeKey]:
        """Copy the disk and the node key on it, as an operator does."""
        copy = open_writer(":memory:")
        self.disk.backup(copy)
        return copy, self.node_key

    def save_backup(self) -> None:
        """Keep a copy of the disk."""
        self.backup = self.copy_disk()

    def restore_backup(self) -> None:
        """Put the copy in the disk's place, while the peer is down; nobody tells the daemon."""
        if self.backup is not None:
            self.restore(*self.backup)
            self.backup = None

    def restore(self, disk: sqlite3.Connection, node_key: NodeKey) -> None:
        """Put a copy in the disk's place, while the peer is down."""
        self.world.trace(self.name, "restore")
        self.disk.close()
        self.disk, self.node_key = disk, node_key

    def lose_disk(self, *, with_key: bool) -> None:
        """Begin with an empty disk, while the peer is down."""
        if with_key:
            self.forget_key()
        self.restore(open_writer(":memory:"), self.node_key)

    def fill_disk(self) -> None:
        """Let the disk take no page more than it holds; what SQLite then does is SQLite's own doing."""
        self.disk_full = True
        (pages,) = self.disk.execute("PRAGMA page_count").fetchone()
        self.disk.execute(f"PRAGMA max_page_count = {pages}")

    def empty_disk(self) -> None:
        """Let the disk take as much as ever."""
        self.disk_full = False
        self.disk.execute(f"PRAGMA max_page_count = {PAGES_MAX}")

    def slow_down(self, name: Hashable, bytes_per_ms: float, factor: float) -> None:
        """Read and write no faster than this, and take so many times as long to commit, until ``speed_up``.

        Of several such troubles, each with a name of its own, the worst counts.
        """
        self._slowed[name] = bytes_per_ms, factor
        self.world.network.slow(self.index, min(speed for speed, _ in self._slowed.values()))

    def speed_up(self, name: Hashable) -> None:
        """End a trouble; others stay."""
        del self._slowed[name]
        self.world.network.slow(self.index, min((speed for speed, _ in self._slowed.values()), default=None))

    def _commit_later(self) -> None:
        factor = max((factor for _, factor in self._slowed.values()), default=1.0)
        self.later(self.rng.uniform(*self.commit_ms) * factor, self._commit)

    def clone(self, other: "SimPeer") -> None:
        """Be a second machine with a copy of another one's disk and keys, before the first start."""
        other.disk.backup(self.disk)
        self.hotkey, self.node_key = other.hotkey, other.node_key

    def later(self, ms: float, callback: Callable[[], None]) -> None:
        """Run a callback unless this peer has crashed by then."""
        starts = self.starts

        def run() -> None:
            if self.up and self.starts == starts:
                callback()

        self.world.clock.after(ms, run)

    def _every(self, ms: float, callback: Callable[[], None]) -> None:
        def turn() -> None:
            callback()
            self.later(ms, turn)

        self.later(ms * self.rng.random(), turn)

    # -- the store ---------------------------------------------------------------------------------------------------

    def write(self, job: Job, done: Done) -> None:
        """Run a job of the writer; ``done`` gets its result, or its error, once it is durable."""
        self._jobs.append((job, done))
        if not self._committing:
            self._committing = True
            self._commit_later()

    def _commit(self) -> None:
        jobs, self._jobs = self._jobs[:GROUP_JOBS_MAX], self._jobs[GROUP_JOBS_MAX:]
        results = self._run([job for job, _ in jobs])
        self.world.committed(self)
        appended, claims = self.ledger.news.take_appended(), self.ledger.news.take_new_claims()
        self._voted.update(self.ledger.news.take_voted())
        self.ledger.news.take_changes()  # nobody follows them here
        ended = self.ledger.news.take_ended()
        # A crash between the fsync and this: durable, but neither answered nor sent.
        self.later(self.rng.uniform(0, 1), lambda: self._committed(appended, claims, ended))
        for (_, done), result in zip(jobs, results, strict=True):
            self.later(1, partial(done, result))
        self._committing = bool(self._jobs)
        if self._jobs:
            self._commit_later()

    def _run(self, jobs: list[Job]) -> list[Any]:
        """Run jobs in one transaction; where the disk does not take it, each in one of its own, as the daemon does."""
        try:
            with self.ledger.transaction():
                return [self.ledger.attempt(job) for job in jobs]
        except (sqlite3.OperationalError, P2PNodesError) as error:
            if len(jobs) == 1:
                return [error if isinstance(error, P2PNodesError) else StoreError(f"cannot write: {error}")]
            return [result for job in jobs for result in self._run([job])]

    def _committed(self, appended: list[Event], claims: list[bytes], ended: list[LogId]) -> None:
        if appended:
            self.acknowledged += appended
            self.world.acknowledged(self, appended)
            self.do(self.engine.appended(appended, self.now_ms()))
        self._news = frozenset(ended)
        if ended:
            self.do(self.engine.ended(ended, self.now_ms()))
            own, life_ms = self.hotkey.public_key, int(self.world.parameters.verdict_ttl_s * 1000 * OVERDUE)
            self.write(lambda ledger: checks.drop_unsaid(ledger.facts, own, life_ms), _done)
        self._note(ended=bool(ended))
        if ended and self._moves:
            self._attend_in(1)
        for claim_id in claims:
            self._look(claim_id)

    def weigh(self) -> None:
        """Take up the electorate that the chain has now."""
        electorate = self.world.electorate

        def done(result: Any) -> None:
            if isinstance(result, StoreError):
                self.later(WRITE_PAUSE_MS, self.weigh)
            else:
                self._note(ended=False)

        self.write(lambda ledger: ledger.set_electorate(electorate), done)

    def submit(self, request: Add | Delete, uuid: str, done: Done) -> None:
        """A miner's request, as the HTTP interface would hand it on."""
        now_ms = self.now_ms()

        def admit(ledger: Ledger) -> Any:
            if isinstance(request, Add):
                return admit_add(ledger, request, parse_body(request.body), None, now_ms)
            return admit_delete(ledger, request, uuid, now_ms)

        self.write(lambda ledger: self.world.guard.admitted(self, ledger, request, uuid, admit), done)

    def say(self, payload: Callable[[int], Payload], done: Done | None = None) -> None:
        """Write an own event of any kind, without asking whether this peer ought to."""
        now_ms = self.now_ms()
        self.write(lambda ledger: ledger.append(payload, now_ms), done or _done)

    # -- gossip ------------------------------------------------------------------------------------------------------

    def opened(self, session: int, other: Speaker) -> None:
        """A session is open; one that cannot be kept is closed at once, as the handshake would have refused it."""
        peer = other.identity()
        dial = self._dialling.pop(other.index, None)
        if dial is not None:
            dial.active, dial.error = False, None
        if self.bans.find(peer.hotkey, self._steady_s()) is not None:
            self.world.network.close(self, session, "banned")
            return
        for number, held in list(self.open.items()):
            if held.peer.node_key == peer.node_key:  # one session for each node key, the newest
                self.world.network.close(self, number, "replaced")
        peer = peer._replace(observer=not self._permitted(peer.hotkey))
        self.open[session] = Held(other, peer, self._steady_s())
        self.do(self.engine.opened(session, peer, self.now_ms()))

    def identity(self) -> Peer:
        """What the handshake would prove of this peer."""
        assert self.delegation is not None
        return Peer(*self.delegation, PROTOCOL_VERSION)

    def closed(self, session: int) -> None:
        """A session has ended."""
        held = self.open.pop(session, None)
        if self.up and held is not None:
            for dial in self._dials:
                if self.world.at(dial.url) is held.other:
                    dial.ended(self._steady_s() - held.since_s, self._steady_s(), self.rng)
            self.do(self.engine.closed(session, self.now_ms()))

    def dial_failed(self, other: Speaker) -> None:
        """A dial came to nothing."""
        dial = self._dialling.pop(other.index, None)
        if dial is None:
            return  # of the life before
        dial.active = False
        if not self._is_connected(dial):
            dial.failed("no session", self._steady_s(), self.rng)
            if dial.hotkey is not None:
                self.engine.failed(dial.hotkey, self.now_ms())

    def _steady_s(self) -> float:
        return self.world.clock.now_ms / 1000

    def _permitted(self, hotkey: bytes) -> bool:
        return self.ledger.weights.electorate.permitted(hotkey)

    def _is_connected(self, dial: Dial) -> bool:
        other = self.world.at(dial.url)
        return any(held.other is other for held in self.open.values())

    def _look_for_members(self) -> None:
        """Say who the validators are, and where; as ``daemon.py`` does."""
        if self.world.clock.now_ms < self._members_due_ms:
            return
        self._members_due_ms = self.world.clock.now_ms + MEMBERS_MS
        ledger, own = self.ledger, self.hotkey.public_key
        urls, book = ledger.facts.urls(), self.engine.addresses()
        latest: dict[bytes, tuple[int, bytes]] = {}
        for log, held in ledger.state.logs.items():
            if (found := (held.prefix.hlc, log.node_key)) > latest.get(held.hotkey, (0, b"")) and not held.ends.close:
                latest[held.hotkey] = found
        members: dict[bytes, Member] = {}
        targets: dict[bytes, Sequence[str]] = {}
        for key in ledger.weights.electorate.stakes:
            if key == own:
                continue
            url = urls.get(key, book.get(key, ""))
            members[key] = Member(latest[key][1] if key in latest else None, bool(url))
            if url:
                targets[key] = [url]
        self._dials.know(targets, [url for url in self.world.bootstrap if self.world.at(url) is not self])
        self.do(self.engine.set_members(members, self.now_ms()))

    def _dial_due(self) -> None:
        """Dial whom the engine wants, each after its pause; as the driver does."""
        if self.delegation is None:
            return
        now_s = self._steady_s()
        dials: list[Dial] = []
        for key in self.engine.wanted():
            if self.bans.find(key, now_s) is not None:
                self.engine.failed(key, self.now_ms())  # the view has to do without it
            elif (found := self._dials.next_of(key, now_s)) is not None:
                dials.append(found)
        if len(self.open) < BOOTSTRAP_SESSIONS:
            dials += [dial for dial in self._dials.of(None) if not dial.active and dial.next_s <= now_s]
        for dial in dials:
            other = self.world.at(dial.url)
            if other is None or other.index in self._dialling:
                continue
            if len(self._dialling) >= DIALS_AT_ONCE_MAX:
                return
            if self._is_connected(dial):
                continue
            dial.active = True
            self._dialling[other.index] = dial
            self.world.network.dial(self, other)

    def _end_unfit(self) -> None:
        """End the sessions whose peers are not what they were taken for since the electorate changed."""
        digest = self.ledger.state.electorate_digest
        if digest == self._fit_for:
            return
        self._fit_for = digest
        self._members_due_ms = 0.0
        for session, held in list(self.open.items()):
            if held.peer.observer is self._permitted(held.peer.hotkey):
                self.world.network.close(self, session, "it lost its permit, or got one")

    def received(self, session: int, frame: bytes) -> None:
        """A frame has arrived."""
        self.do(self.engine.received(session, frame, self.now_ms()))
        self.world.crimes.took(self, session, frame)

    def sent(self, session: int, size: int) -> None:
        """A frame has left."""
        self.do(self.engine.sent(session, size, self.now_ms()))

    def do(self, effects: list[Effect]) -> None:
        """Carry out what the engine asks for."""
        for effect in effects:
            match effect:
                case Send():
                    if effect.frame[1] == WANT and isinstance(want := decode(effect.frame), Want):
                        self.world.guard.wants(self, effect.session, want)
                    self.transmit(effect.session, effect.frame)
                case Store():
                    self._store(effect)
                case Prove():
                    self._prove(effect)
                case Read() | ReadCertificate() | ReadLeaves():
                    self.later(self.rng.uniform(*READ_MS), partial(self._read, effect))
                case Consider():
                    self._consider(effect)
                case Foresee():
                    pass  # a hint: a peer without a second core checks later
                case Survey():
                    self.write(lacking, self._surveyed)
                case Load():
                    self._load(effect)
                case Close():
                    self._close(effect)
                case Notice():
                    fields = {key: value for key, value in effect.fields.items() if key not in {"reason", "peer"}}
                    self.world.trace(
                        self.name, effect.event, " ".join(f"{key}={fields[key]}" for key in sorted(fields))
                    )

    def transmit(self, session: int, frame: bytes) -> None:
        """Send a frame of the engine's."""
        self.world.network.send(self, session, frame)

    def _close(self, effect: Close) -> None:
        other, peer, _ = self.open[effect.session]
        if effect.ban_s:
            if other.honest:
                raise CheckFailedError(f"{self.name} bans {other.name}, which is honest: {effect.reason}")
            self.bans.add(peer.hotkey, effect.reason, effect.ban_s, self._steady_s())
            self.world.crimes.banned(self, peer.hotkey, effect.ban_s, self._steady_s())
            self.world.trace(self.name, "bans", f"{other.name}: {effect.reason}")
        self.world.network.close(self, effect.session, effect.reason)

    def _store(self, effect: Store) -> None:
        now_ms = self.now_ms()

        def done(outcomes: list[Outcome] | P2PNodesError) -> None:
            answer = None if isinstance(outcomes, P2PNodesError) else outcomes
            self.world.guard.stored(self, answer or (), now_ms)
            for outcome in answer or ():
                if outcome.proved:
                    self._found_fork(outcome.event.log)
                if outcome.result is Result.STORED:
                    self.world.delivered(self, outcome.event)
                elif outcome.result is Result.FORK:
                    self.world.rivalled(self, outcome.event)
            self.do(self.engine.stored(effect.session, answer, self.now_ms()))

        self.write(lambda ledger: ledger.receive(effect.events, now_ms), done)

    def _prove(self, effect: Prove) -> None:
        now_ms = self.now_ms()

        def done(result: P2PNodesError | None) -> None:
            checked = not isinstance(result, P2PNodesError)
            self.do(self.engine.proved(effect.session, effect.proofs, self.now_ms(), checked=checked))

        self.write(lambda ledger: ledger.receive_proofs(effect.proofs, now_ms), done)

    def _consider(self, effect: Consider) -> None:
        def done(result: Answer | P2PNodesError) -> None:
            answer = Answer(Found.FAILED, str(result)) if isinstance(result, P2PNodesError) else result
            self.do(self.engine.considered(effect.session, effect.number, answer, self.now_ms()))
            self.world.guard.blames(self, effect.session, answer)

        self.write(lambda ledger: consider(ledger, effect.number, effect.wire), done)

    def _surveyed(self, result: Lack | P2PNodesError) -> None:
        self.do(self.engine.lacking(None if isinstance(result, P2PNodesError) else result, self.now_ms()))

    def _load(self, effect: Load) -> None:
        def done(result: Answer | P2PNodesError) -> None:
            answer = Answer(Found.FAILED, str(result)) if isinstance(result, P2PNodesError) else result
            self.do(self.engine.loaded(effect.session, effect.number, effect.place, answer, self.now_ms()))
            self.world.guard.blames(self, effect.session, answer)

        self.write(lambda ledger: self.world.guard.loads(self, ledger, effect), done)

    def _read(self, effect: Read | ReadCertificate | ReadLeaves) -> None:
        match effect:
            case Read():
                wires = self.ledger.read(effect.log, effect.first_seq, effect.size_bytes_max)
                self.do(self.engine.read(effect.session, effect.log, effect.first_seq, wires, self.now_ms()))
            case ReadCertificate(session, number):
                wire = read_certificate(self.disk, number) or b""
                self.do(self.engine.read_certificate(session, number, wire, self.now_ms()))
            case ReadLeaves(session, number, place):
                leaves, path = self._donor.slice(self.disk, number, place)
                self.do(self.engine.read_leaves(session, number, place, leaves, path, self.now_ms()))

    # -- the own log, as in author.py ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        self.do(self.engine.tick(self.now_ms()))
        self._look_for_members()
        self._end_unfit()
        self._dial_due()
        for claim_id in sorted(self._voted.intersection(self._waiting)):  # now it may be this peer's turn, or nobody's
            self._look(claim_id)
        self._voted.clear()
        ledger = self.ledger
        if self._opening:
            return
        if ledger.foreign_own is not None:
            self._heard = False
            self._open_log("a foreign event in the own log", doubled=True)
        elif self.delegation is None:
            self._open_log("there is no own log yet")
        elif not self._heard and ledger.weights.electorate.permitted(self.hotkey.public_key):
            self._hear()
        elif self._good_ends():
            self._open_log("the clock ran ahead")
        self.engine.sweep(not self._heard)
        ledger.writes_refused = self._why_no_writes()
        if ledger.writes_refused is None:
            self._tell_forks()

    def _hear(self) -> None:
        ledger = self.ledger
        others = {key: stake for key, stake in ledger.weights.enrolled.items() if key != self.hotkey.public_key}
        own = ledger.own_log
        held = ledger.state.logs.get(own) if own else None
        reports = self.engine.own_head_reports(own) if own else {}
        ids = ledger.facts.event_ids(own, {report.seq for report in reports.values() if report}) if own else {}
        stakes = ledger.weights.electorate.stakes
        alone = not any(stake for key, stake in stakes.items() if key != self.hotkey.public_key)
        if self._hearing_since_ms is None:
            self._hearing_since_ms = self.world.clock.now_ms
        waited_ms = int(self.world.clock.now_ms - self._hearing_since_ms)
        ended = self.engine.own_end_reports(own) if own else set()
        head = held.head if held else None
        hearing = hear(head, reports, others, waited_ms, ids=ids, alone=alone, ended=ended)
        if hearing.step is Step.GO_ON:
            self._heard = True
            self.world.trace(self.name, "own log", hearing.reason)
        elif hearing.step is Step.OPEN_NEW:
            self._open_log(hearing.reason, doubled=hearing.doubled)

    def _found_fork(self, log: LogId) -> None:
        """Note that this peer has proved a fork itself, to be told once for each log."""
        if log in self._news and log not in self._told:
            self._told.add(log)
            self._found[log] = None

    def _tell_forks(self) -> None:
        for log in self._found:
            ends = self.ledger.state.ends.get(log)
            if ends is not None and (evidence := ends.evidence) is not None:
                self.say(lambda _, evidence=evidence: evidence)  # type: ignore[misc]
        self._found.clear()

    def _good_ends(self) -> dict[LogId, Head | None]:
        """Rule 8: own logs with events from when the clock ran ahead, once it is right again, and where they end."""
        ledger, own_hotkey, now_ms = self.ledger, self.hotkey.public_key, self.now_ms()
        others = {key: stake for key, stake in ledger.weights.enrolled.items() if key != own_hotkey}
        if self._clock_is_off():
            return {}
        own, offset_ms = ledger.own_log if ledger.foreign_own is None else None, self.engine.clock_offset_ms()
        logs = ran_ahead(own_hotkey, own, ledger.state.logs, others, now_ms, offset_ms=offset_ms)
        return {log: ledger.facts.last_event(log, hlc_at(now_ms)) for log in logs}

    def _leave_bad_events(self, ends: Mapping[LogId, Head | None]) -> bool:
        now_ms = self.now_ms()
        if not stays_ahead(self.hotkey.public_key, self.ledger.state.logs, now_ms):
            return False
        closings = [closing(self.hotkey, self.world.parameters.id, *each) for each in ends.items()]
        self.write(lambda ledger: ledger.receive_proofs(closings, now_ms), _done)
        return True

    def rotate(self, others: Mapping[LogId, Head | None] | None = None) -> None:
        """Replace the node key, as an operator does.

        Args:
            others: Logs to close, each with its last good event. The own log ends with its head unless it is among
                them.
        """
        self._open_log("its operator replaces the node key", others or {}, doubled=True, close_own=True)

    def revoke(self, log: LogId, last: int | None) -> None:
        """Close a log of the own hotkey; a node key that is in use gives way to a fresh one.

        Args:
            log: The log.
            last: Seq of the last event of it that is good; the last one that counts unless given.
        """
        held = self.ledger.state.logs[log]
        head = held.counted if last is None else Head(last, self.ledger.facts.event_ids(log, [last])[last])
        if log.node_key == self.node_key.public_key:
            self.rotate({log: head})
        else:
            close = closing(self.hotkey, self.world.parameters.id, log, head)
            self.say(lambda _: close, self._revoked)

    def _revoked(self, result: Event | P2PNodesError) -> None:
        if isinstance(result, P2PNodesError) and not isinstance(result, StoreError):
            raise CheckFailedError(f"{self.name} cannot close a log: {result}")

    def forget_key(self) -> None:
        """Lose the node key, as with the disk that it lies on."""
        self.node_key = NodeKey.from_seed(self.rng.randbytes(32))

    def enrol(self, age_ms: int) -> LogId:
        """Open a log that is that old, before the first start."""
        now_ms = self.now_ms() - age_ms
        ledger = Ledger(self.disk, self.world.parameters, self.node_key)
        own = self._next_log(ledger, self.node_key, now_ms)
        with ledger.transaction():
            ledger.open_log(own.number, self._delegation(own, None, now_ms), now_ms)
        return own

    @staticmethod
    def _next_log(ledger: Ledger, node_key: NodeKey, now_ms: int) -> LogId:
        held = [log.number for log in ledger.state.logs if log.node_key == node_key.public_key]
        return LogId(node_key.public_key, max([now_ms // 1000, *(number + 1 for number in held)]))

    def _delegation(self, own: LogId, predecessor: tuple[LogId, Head | None] | None, now_ms: int) -> Delegation:
        now_s = now_ms // 1000
        return delegate(
            self.hotkey, self.world.parameters.id, own, url=self.world.url(self.index),
            not_before=now_s - self.delegation_s, not_after=now_s + self.delegation_s, predecessor=predecessor,
        )  # fmt: skip

    def _open_log(
        self,
        reason: str,
        ends: Mapping[LogId, Head | None] = MappingProxyType({}),
        *,
        doubled: bool = False,
        close_own: bool = False,
    ) -> None:
        """Open a new log.

        Args:
            reason: For people.
            ends: Logs to close, each with its last good event, for ``close_own``; else those that ran ahead are.
            doubled: Another daemon may write with this node key: take a fresh one.
            close_own: Close the log before, too, with the last event that counts when the writer comes to it.
        """
        if not close_own:
            ends = self._good_ends()
            if ends and self._leave_bad_events(ends):
                return
        now_ms = self.now_ms()
        node_key = NodeKey.from_seed(self.rng.randbytes(32)) if doubled else self.node_key
        own, before = self._next_log(self.ledger, node_key, now_ms), max(self.ledger.own_logs(), default=None)
        self._opening = True

        def job(ledger: Ledger) -> Delegation:
            last = None if before is None else ledger.counted(before)
            closed = dict(ends)
            if close_own and before is not None:
                last = closed.setdefault(before, last)
            closings = [closing(self.hotkey, self.world.parameters.id, *each) for each in closed.items()]
            predecessor = None if before is None else (before, closed.get(before, last))
            delegation = self._delegation(own, predecessor, now_ms)
            ledger.open_log(
                own.number, delegation, now_ms, closings=closings, node_key=node_key, ahead=self.delegation is None
            )
            self.node_key = node_key
            return delegation

        def done(result: Delegation | P2PNodesError) -> None:
            self._opening = False
            if isinstance(result, StoreError | WritesRefusedError):
                return  # the next turn tries again; the clock may be off
            if isinstance(result, P2PNodesError):
                raise CheckFailedError(f"{self.name} cannot open a log: {result}")
            self.delegation = own, result
            self._heard = True
            if doubled:
                self._follow_key()
            self.world.trace(self.name, "new log", f"{own.number - self.world.start_s}: {reason}")

        self.write(job, done)

    def _follow_key(self) -> None:
        """Meet the peers with the new node key, as the daemon does: all sessions end, and a fresh driver begins."""
        for session in list(self.open):
            self.world.network.close(self, session, "a new node key")
        self.engine = self._new_engine()
        self._members_due_ms = 0.0

    def _clock_is_off(self) -> bool:
        offset_ms = self.engine.clock_offset_ms()
        return offset_ms is not None and abs(offset_ms) > CLOCK_OFF_MS_MAX

    def _why_no_writes(self) -> str | None:
        if not self._heard:
            return "the own head is not heard yet"
        if self._clock_is_off():
            return "the clock is off"
        if not self.ledger.weights.electorate.permitted(self.hotkey.public_key):
            return "no permit"
        own, enrolled, now_ms = self.ledger.own_log, self.ledger.weights.enrolled, int(self.world.clock.now_ms)
        self.contact.note(self.engine.own_head_reports(own) if own else (), now_ms)
        if self.contact.lost(self.hotkey.public_key, enrolled, now_ms):
            return "no contact"
        return None

    # -- checkpoints: the clerk without its office ---------------------------------------------------------------------

    @property
    def _rest_ms(self) -> int:
        return min(REST_MS_MAX, self.world.parameters.horizon_s * 1000 // STEPS_PER_HORIZON)

    @property
    def _moves(self) -> bool:
        """Whether the clerk is to be woken, as by the daemon."""
        return self.ledger.moving and not self.ledger.state.loading

    def _attend_in(self, ms: float) -> None:
        """Have the clerk take its next step after some time, and not when it was to take it so far."""
        self._attends += 1
        self.later(ms, partial(self._attend, self._attends))

    def _attend(self, turn: int) -> None:
        if turn != self._attends:
            return
        own, now_ms = self.hotkey.public_key, int(self.world.clock.now_ms)
        self.write(lambda ledger: self.clerk.step(ledger, own, now_ms, self.now_ms()), self._attended)

    def _attended(self, duty: Duty | P2PNodesError) -> None:
        if isinstance(duty, StoreError) and not self.disk_full:
            raise CheckFailedError(f"{self.name} cannot attend to checkpoints: {duty}")
        if isinstance(duty, Duty) and duty.event:
            self.world.trace(self.name, duty.event, str(dict(duty.fields)))
        soon = isinstance(duty, Duty) and (duty.busy or self._moves)
        self._attend_in(1 if soon else self._rest_ms)

    # -- carrying: the carrier without its task ------------------------------------------------------------------------

    @property
    def carrying(self) -> bool:
        """Whether something is carried, or this peer waits for its turn to carry."""
        return not self.rounds.idle

    def _note(self, *, ended: bool) -> None:
        if self.rounds.committed(self.ledger.state, self.ledger.weights.electorate, ended=ended):
            self._carry()

    def _carry(self) -> None:
        if self._carrying:
            return
        own, now_ms = self.hotkey.public_key, int(self.world.clock.now_ms)
        match self.rounds.next(now_ms):
            case Look(cursor):
                self._carrying = True
                self.later(self.rng.uniform(*READ_MS), partial(self._look_through, cursor))
            case Write(keys):
                self._carrying = True
                self.write(lambda ledger: carrying.carry(ledger, keys, own, self.now_ms()), self._carried)
            case Gather(mark) as gather:
                self._carrying = True
                self.write(
                    lambda ledger: gathering.gather(ledger, mark, self.now_ms()), partial(self._gathered, gather)
                )
            case Rest(until_ms) if until_ms is not None and until_ms != self._carry_at_ms:
                self._carry_at_ms = until_ms
                self.later(max(1, until_ms - now_ms), partial(self._carry_at, until_ms))

    def _carry_at(self, moment_ms: int) -> None:
        if moment_ms == self._carry_at_ms:
            self._carry_at_ms = None
            self._carry()

    def _look_through(self, cursor: Cursor) -> None:
        part = carrying.part(self.ledger.facts, cursor, self.ledger.weights, self.hotkey.public_key)
        self.rounds.looked(part, int(self.world.clock.now_ms))
        self._carrying = False
        self._carry()

    def _carried(self, carried: Carried | P2PNodesError) -> None:
        now_ms = int(self.world.clock.now_ms)
        if isinstance(carried, P2PNodesError):
            self.rounds.failed(now_ms)
        else:
            self.rounds.wrote(carried, now_ms)
            if carried.requests:
                self.world.trace(self.name, "carries", f"{carried.requests} requests")
        self._carrying = False
        self._carry()

    def _gathered(self, gather: Gather, gathered: Gathered | P2PNodesError) -> None:
        now_ms = int(self.world.clock.now_ms)
        if isinstance(gathered, P2PNodesError):
            self.rounds.failed(now_ms)
        else:
            self.rounds.gathered(gather, gathered, now_ms)
            if gathered.requests or gathered.places:
                self.world.trace(self.name, "says again", f"{gathered.requests} requests, {gathered.places} places")
        self._carrying = False
        self._carry()

    # -- verification: the scheduler without its tasks -----------------------------------------------------------------

    @property
    def checking(self) -> bool:
        """Whether a check is under way, or this peer waits for its turn; renewals that come later do not count."""
        if self.ledger.writes_refused is not None:
            return False
        return bool(self._running) or any(
            self._begins_ms(claim_id) is not None for claim_id in self._due(self.now_ms())
        )

    def _due(self, now_ms: int) -> list[bytes]:
        facts, own, ttl_s = self.ledger.facts, self.hotkey.public_key, self.world.parameters.verdict_ttl_s
        found = checks.waiting(facts, own, now_ms, ttl_s, QUEUED_CLAIMS_MAX)
        found += checks.entered(facts, now_ms, ttl_s, QUEUED_CLAIMS_MAX)
        waiting = self._renewals.slots_ms().keys()
        return sorted(set(found) - waiting)  # in an order that the seed decides, not the database

    def _decided(self) -> list[bytes]:
        """The next part of the walk through the decided claims."""
        facts, ttl_s = self.ledger.facts, self.world.parameters.verdict_ttl_s
        part = math.ceil(checks.claims(facts) * SCAN_MS / (1000 * ttl_s * WALK))
        found, self._walked = checks.decided(facts, self._walked, part)
        return found

    def _begins_ms(self, claim_id: bytes) -> int | None:
        own, weights = self.hotkey.public_key, self.ledger.weights
        found = checks.prospect(self.ledger.facts, claim_id, own, weights)
        return found and begins_ms(found, own, weights, self.world.slot_ms, self.now_ms())

    def _scan(self) -> None:
        if self.ledger.writes_refused is None:
            now_ms = self.now_ms()
            self._publish(now_ms)
            self._aside = {claim_id: until_ms for claim_id, until_ms in self._aside.items() if until_ms > now_ms}
            for claim_id in [*self._due(now_ms), *self._decided()]:
                if claim_id not in self._aside and self._waiting.get(claim_id, 0) <= now_ms:
                    self._look(claim_id)

    def _look(self, claim_id: bytes) -> None:
        """Check a claim, or note when to look at it again."""
        self._waiting.pop(claim_id, None)
        if claim_id in self._running or claim_id in self._renewals or self.ledger.writes_refused is not None:
            return
        own, weights = self.hotkey.public_key, self.ledger.weights
        found = checks.prospect(self.ledger.facts, claim_id, own, weights)
        if found is None:
            self._set_aside(claim_id)
            return
        begin_ms = begins_ms(found, own, weights, self.world.slot_ms, self.now_ms())
        if begin_ms is None:
            if found.check is not None and own in weights.enrolled:
                self._strike(claim_id, found.check)
        elif begin_ms > self.now_ms():
            self._remind(claim_id, begin_ms)
        else:
            self._running.add(claim_id)
            self.later(self.rng.uniform(*self.check_ms), partial(self._checked, claim_id))

    def _ring(self, claim_id: bytes, moment_ms: int) -> None:
        if self._waiting.get(claim_id) == moment_ms:
            self._look(claim_id)

    def _remind(self, claim_id: bytes, moment_ms: int) -> None:
        self._waiting[claim_id] = moment_ms
        self.later(max(0, moment_ms - self.now_ms()), partial(self._ring, claim_id, moment_ms))

    def _set_aside(self, claim_id: bytes) -> None:
        """Pass a claim over for a while: it is beaten by a verified one, or stands nowhere."""
        if (entry := checks.read_check(self.ledger.facts, claim_id)) is not None:
            self._strike(claim_id, entry)
        self._aside[claim_id] = self.now_ms() + PAUSE_MS

    def _strike(self, claim_id: bytes, entry: checks.Check) -> None:
        self.write(lambda ledger: checks.drop_check(ledger.facts, claim_id, entry), _done)

    def _fault(self, claim_id: bytes, reason: str) -> None:
        def noted(check: checks.Check | P2PNodesError) -> None:
            if not isinstance(check, P2PNodesError):
                self._remind(claim_id, check.due_ms)

        self.write(lambda ledger: record_fault(ledger, claim_id, reason, self.now_ms()), noted)

    def _checked(self, claim_id: bytes) -> None:
        self._running.discard(claim_id)
        own, slot_ms = self.hotkey.public_key, self.world.slot_ms
        facts = self.ledger.facts
        key = facts.claim_key(claim_id)
        claim = None if key is None else facts.claim(key)
        if claim is None or not facts.checkable(claim, self.ledger.weights):
            return  # stopped: it was deleted, or beaten by a verified one
        finding = self.behaviour(claim, self.world.truth)
        self.world.trace(self.name, "checked", f"{claim_id.hex()[:8]}: {finding.finding if finding else 'no finding'}")
        if finding is None:
            self._fault(claim_id, "simulated")
        elif not self._renewals.take(claim_id, finding, facts.own_verdict(claim_id, own), slot_ms, self.now_ms()):
            self.write(
                lambda ledger: record_verdict(ledger, claim_id, finding, METHOD, own, slot_ms, self.now_ms()), _done
            )

    def _publish(self, now_ms: int) -> None:
        """Write the verdicts that wait for each other, when it is time."""
        if not self._renewals.due(now_ms):
            return
        own, told = self.hotkey.public_key, self._renewals.slots_ms()

        def written(result: int | P2PNodesError) -> None:
            for claim_id in () if isinstance(result, P2PNodesError) else told:
                self._renewals.forget(claim_id)

        self.write(lambda ledger: record_renewals(ledger, told, METHOD, own, self.now_ms()), written)


def _done(result: Any) -> None:
    """Nobody waits; a refused verdict is found again by the scan."""
