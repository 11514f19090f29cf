"""Peers that are light enough for a thousand of them in one process: the real engine over a store without a disk.

Nobody lies here, so no log has two branches, and one ``Archive`` can keep the events of all peers: what a peer holds is
then a head for each log. The store follows the chain's rules alone (known, gap, next): it has no inventory. An event's
signature is checked once, when it is written; what arrives elsewhere is compared with that.

What is simulated besides is what a daemon does around its engine: commits that take a while and are shared, dials with
pauses, and crashes that lose what was not committed.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from p2pnodes.gossip import frames
from p2pnodes.gossip.dials import Dial
from p2pnodes.gossip.engine import TICK_MS, Close, Effect, Engine, Member, Notice, Peer, Prove, Read, Send, Store
from p2pnodes.model import codec
from p2pnodes.model.clock import HybridClock
from p2pnodes.model.events import Delegation, Event, Head, LogId, Payload, delegate
from p2pnodes.model.keys import Hotkey, NodeKey
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.model.stateroot import StateRoot
from p2pnodes.model.validity import Prefix
from p2pnodes.store.database import GROUP_JOBS_MAX
from p2pnodes.store.state import LogState, Outcome, Result, State
from p2pnodes.store.vector import SLICES, digest_over, slice_digest, slice_of
from tests.sim.clock import START_MS, Clock
from tests.sim.network import FRAME_OVERHEAD_BYTES, Network
from tests.support import NETWORK

T = TypeVar("T")

COMMIT_MS: Final = (1.0, 4.0)
"""From an event's arrival until it is durable and goes on to others: an fsync of a server's SSD and the work before it.
Events that come meanwhile share the next commit."""

READ_MS: Final = (0.2, 1.0)
"""For a range to be read."""

DIAL_MS: Final = 1_000
"""How often a peer looks whom to dial."""

SAMPLED: Final = 17
"""One call of the protocol's code in so many is timed: asking for the time costs as much as many of them."""

DELEGATION_S: Final = 30 * 86_400

KINDS: Final = (
    *("", "digest", "vector", "want", "range", "events", "proofs", "book", "link", "have", "slices"),
    *("certificate want", "certificate", "leaves want", "leaves"),
)
"""Names of frames by their kind on the wire."""


class Identity(NamedTuple):
    """One validator with its one log."""

    hotkey: Hotkey
    node_key: NodeKey
    log: LogId
    delegation: Delegation

    @classmethod
    def of(cls, index: int) -> "Identity":
        """The validator of this number; always the same one."""
        hotkey = Hotkey.from_seed(codec.digest(f"hotkey {index}".encode()))
        node_key = NodeKey.from_seed(codec.digest(f"node key {index}".encode()))
        log = LogId(node_key.public_key, 0)
        now_s = START_MS // 1000
        url = f"https://v{index}.example"
        delegation = delegate(
            hotkey, NETWORK.id, log, url=url, not_before=now_s - 3_600, not_after=now_s + DELEGATION_S
        )
        return cls(hotkey, node_key, log, delegation)

    def peer(self) -> Peer:
        """What a handshake proves of it."""
        return Peer(self.log, self.delegation, PROTOCOL_VERSION)


class Archive:
    """Every event that was written, and what a ledger keeps in memory of each log at each of its events."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        """Begin with a delegation in everybody's log."""
        self.identities = {identity.log: identity for identity in identities}
        self._keys = {log: key for key, log in enumerate(self.identities, 1)}
        self._clocks = {log: HybridClock() for log in self.identities}
        self._events: dict[LogId, list[Event]] = {log: [] for log in self.identities}
        self._states: dict[LogId, list[LogState]] = {log: [] for log in self.identities}
        self._slices: list[list[LogId]] = [[] for _ in range(SLICES)]
        for log in self.identities:
            self._slices[slice_of(log)].append(log)
        self._digests: dict[tuple[int, int], bytes] = {}
        for identity in identities:
            self.write(identity.log, identity.delegation, START_MS)

    def write(self, log: LogId, payload: Payload, now_ms: int) -> Event:
        """Sign the next event of a log."""
        identity, events, states = self.identities[log], self._events[log], self._states[log]
        hlc = self._clocks[log].tick(now_ms)
        event = Event.create(
            identity.node_key,
            NETWORK.id,
            log_number=log.number,
            seq=len(events),
            previous=events[-1].id if events else b"",
            hlc=hlc,
            payload=payload,
        )
        head = Head(event.seq, event.id)
        prefix = Prefix(identity.delegation, hlc)
        states.append(LogState(self._keys[log], log, identity.hotkey.public_key, head, prefix, counted=head, hlc=hlc))
        events.append(event)
        return event

    def event(self, log: LogId, seq: int) -> Event:
        """An event that was written."""
        return self._events[log][seq]

    def state(self, log: LogId, seq: int) -> LogState:
        """What a ledger that holds a log up to ``seq`` keeps of it."""
        return self._states[log][seq]

    def written(self, log: LogId) -> int:
        """How many events a log has."""
        return len(self._events[log])

    def slice_digest(self, part: int, mix: int, heads: Mapping[LogId, Head]) -> bytes:
        """Digest of a slice of the heads, computed once for all who hold the same; ``mix`` tells them apart."""
        found = self._digests.get((part, mix))
        if found is None:
            found = self._digests[part, mix] = slice_digest(heads, {}, self._slices[part])
        return found


class LightStore:
    """What one peer holds of an archive: for the engine, what a ledger is."""

    def __init__(self, archive: Archive, own: LogId) -> None:
        """Begin with what the archive has now."""
        self._archive = archive
        logs = {log: archive.state(log, archive.written(log) - 1) for log in archive.identities}
        heads = {log: state.head for log, state in logs.items()}
        self._logs, self._heads = logs, heads
        self._mixes = [0] * SLICES
        for log, head in heads.items():
            self._mixes[slice_of(log)] ^= _mixed(head)
        self._slices = [archive.slice_digest(part, mix, heads) for part, mix in enumerate(self._mixes)]
        slices = tuple(self._slices)
        self.state = State(
            logs, heads, StateRoot().now(), bytes(32), digest_over(slices), len(logs), 0, own=own, slices=slices
        )  # fmt: skip

    def receive(self, events: Sequence[Event]) -> list[Outcome]:
        """Store what follows on what is there.

        Raises:
            AssertionError: An event is not the one that its author wrote; here nobody forges.
        """
        touched: set[int] = set()
        outcomes = [self._receive(event, touched) for event in events]
        if touched:
            for part in touched:
                self._slices[part] = self._archive.slice_digest(part, self._mixes[part], self._heads)
            slices = tuple(self._slices)
            stored = sum(outcome.result is Result.STORED for outcome in outcomes)
            self.state = self.state._replace(
                vector_digest=digest_over(slices), events=self.state.events + stored, slices=slices
            )
        return outcomes

    def _receive(self, event: Event, touched: set[int]) -> Outcome:
        log, seq = event.log, event.seq
        assert event.wire == self._archive.event(log, seq).wire
        head = self._heads[log]
        if seq <= head.seq:
            return Outcome(event, Result.KNOWN, "")
        if seq > head.seq + 1:
            return Outcome(event, Result.GAP, f"seq {seq} while {head.seq + 1} is next")
        state = self._archive.state(log, seq)
        part = slice_of(log)
        touched.add(part)
        self._mixes[part] ^= _mixed(head) ^ _mixed(state.head)
        self._logs[log], self._heads[log] = state, state.head
        return Outcome(event, Result.STORED, "")

    def read(self, log: LogId, first_seq: int, size_bytes_max: int) -> list[bytes]:
        """Consecutive events of a log from ``first_seq``: at least one if it is there, else up to a size."""
        wires: list[bytes] = []
        size = 0
        for seq in range(first_seq, self._heads[log].seq + 1):
            wire = self._archive.event(log, seq).wire
            size += len(wire)
            if wires and size > size_bytes_max:
                break
            wires.append(wire)
        return wires


def _mixed(head: Head) -> int:
    return int.from_bytes(head.id[:16])


class Tally:
    """What a network of peers did, in all: to be asked for what was sent, and what that cost."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.bytes: Counter[str] = Counter()
        """By kind of frame, on the wire."""
        self.frames: Counter[str] = Counter()
        self.events = 0
        """Events in frames, each time that one was sent."""
        self.cpu_s = 0.0
        """Processor time inside of the protocol's own code, seconds; an estimate from one call in SAMPLED."""
        self._calls = 0

    def copy(self) -> "Tally":
        """A snapshot."""
        copied = Tally()
        copied.bytes, copied.frames = self.bytes.copy(), self.frames.copy()
        copied.events, copied.cpu_s = self.events, self.cpu_s
        return copied

    def since(self, before: "Tally") -> "Tally":
        """What came on top of an earlier snapshot."""
        grown = self.copy()
        grown.bytes.subtract(before.bytes)
        grown.frames.subtract(before.frames)
        grown.events -= before.events
        grown.cpu_s -= before.cpu_s
        return grown

    def timed(self, call: Callable[[], T]) -> T:
        """Call the protocol's code, and count the time that it takes."""
        self._calls += 1
        if self._calls % SAMPLED:
            return call()
        begin = time.thread_time()
        result = call()
        self.cpu_s += (time.thread_time() - begin) * SAMPLED
        return result

    def count(self, kind: str, size: int, events: int = 0) -> None:
        """Take note of a frame that was sent."""
        self.bytes[kind] += size
        self.frames[kind] += 1
        self.events += events

    def watch(self, _sender: Any, _receiver: Any, frame: bytes) -> None:
        """Take note of a frame of an engine's; for ``Network.watch``."""
        kind = KINDS[frame[1]]
        events = 0
        if kind == "events":
            events = events_in(frame)
        elif kind == "range":
            decoded = frames.decode(frame)
            assert isinstance(decoded, frames.Range)
            events = len(decoded.wires)
        self.count(kind, len(frame) + FRAME_OVERHEAD_BYTES, events)


def events_in(frame: bytes) -> int:
    """How many events an events frame holds, by its array's header: other frames of a run need not be decoded."""
    return int.from_bytes(frame[3:5]) if frame[2] == 0xDC else frame[2] & 0x0F


class Watcher(Protocol):
    """Who is told what becomes of events."""

    def wrote(self, author: int, event: Event) -> None:
        """An author's event is durable: from here on its delivery is timed."""

    def stored(self, peer: int, event: Event) -> None:
        """A peer has stored it."""


class Surroundings(NamedTuple):
    """What all peers of one run share."""

    clock: Clock
    network: "Network[LightPeer]"
    archive: Archive
    tally: Tally
    watcher: Watcher


Done = Callable[[Any], None]


class LightPeer:
    """One validator. What it has committed outlives a crash, everything else does not."""

    def __init__(self, around: Surroundings, index: int, identity: Identity, rng: random.Random) -> None:
        """Make a peer that is not started yet and holds what the archive holds now."""
        self.around = around
        self.index = index
        self.name = f"p{index}"
        self.identity = identity
        self.rng = rng
        self.store = LightStore(around.archive, identity.log)
        self.up = False
        self.starts = 0
        self.engine: Engine
        self.others: Mapping[bytes, LightPeer] = {}
        """By hotkey."""
        self.sessions: dict[int, LightPeer] = {}
        self.closings: Counter[str] = Counter()
        """Why its engine ended sessions."""
        self._dials: dict[bytes, Dial] = {}
        self._dialling: set[bytes] = set()
        self._opened_ms: dict[int, float] = {}
        self._jobs: list[tuple[Callable[[], Any], Done]] = []
        self._committing = False

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self, members: Mapping[bytes, Member]) -> None:
        """Start on what is committed.

        Args:
            members: All validators by hotkey, this one as well.
        """
        self.up = True
        self.starts += 1
        own = self.identity.hotkey.public_key
        self.engine = Engine(NETWORK, self.store, self.rng, node_key=self.identity.node_key.public_key)
        self.sessions, self._dials, self._opened_ms = {}, {}, {}
        self._dialling = set()
        self._jobs, self._committing = [], False
        others = {hotkey: member for hotkey, member in members.items() if hotkey != own}
        self._run(partial(self.engine.set_members, others))
        self._every(TICK_MS, self._tick)
        self._every(DIAL_MS, self._look_around)

    def crash(self) -> None:
        """Lose sessions and what is not committed."""
        self.up = False
        self.around.network.crashed(self)

    @property
    def reachable(self) -> bool:
        """Whether it can be dialled."""
        return self.up

    @cached_property
    def proved(self) -> Peer:
        """What a handshake proves of it."""
        return self.identity.peer()

    def later(self, ms: float, callback: Callable[[], None]) -> None:
        """Run a callback unless this peer has crashed by then."""
        starts = self.starts

        def run() -> None:
            if self.up and self.starts == starts:
                callback()

        self.around.clock.after(ms, run)

    def _every(self, ms: float, callback: Callable[[], None]) -> None:
        def turn() -> None:
            callback()
            self.later(ms, turn)

        self.later(ms * self.rng.random(), turn)

    def _tick(self) -> None:
        self._run(self.engine.tick)

    # -- the store ---------------------------------------------------------------------------------------------------

    def write(self, payload: Payload) -> None:
        """Write an own event; once it is committed it is pushed."""
        log = self.identity.log

        def job() -> Event:
            event = self.around.archive.write(log, payload, int(self.around.clock.now_ms))
            self.store.receive([event])
            return event

        def done(event: Event) -> None:
            self.around.watcher.wrote(self.index, event)
            self._run(partial(self.engine.appended, [event]))

        self._job(job, done)

    def _job(self, job: Callable[[], Any], done: Done) -> None:
        self._jobs.append((job, done))
        if not self._committing:
            self._committing = True
            self.later(self.rng.uniform(*COMMIT_MS), self._commit)

    def _commit(self) -> None:
        jobs, self._jobs = self._jobs[:GROUP_JOBS_MAX], self._jobs[GROUP_JOBS_MAX:]
        results = [job() for job, _ in jobs]
        self._committing = bool(self._jobs)
        if self._committing:
            self.later(self.rng.uniform(*COMMIT_MS), self._commit)
        for (_, done), result in zip(jobs, results, strict=True):
            done(result)

    def _store(self, effect: Store) -> None:
        def done(outcomes: list[Outcome]) -> None:
            for outcome in outcomes:
                if outcome.result is Result.STORED:
                    self.around.watcher.stored(self.index, outcome.event)
            self._run(partial(self.engine.stored, effect.session, outcomes))

        self._job(partial(self.store.receive, effect.events), done)

    def _read(self, effect: Read) -> None:
        wires = self.store.read(effect.log, effect.first_seq, effect.size_bytes_max)
        self._run(partial(self.engine.read, effect.session, effect.log, effect.first_seq, wires))

    # -- gossip ------------------------------------------------------------------------------------------------------

    def opened(self, session: int, other: "LightPeer") -> None:
        """A session is open."""
        now_ms = self.around.clock.now_ms
        self._dialling.discard(other.identity.hotkey.public_key)
        self.sessions[session] = other
        self._opened_ms[session] = now_ms
        self._run(partial(self.engine.opened, session, other.proved))

    def dial_failed(self, other: "LightPeer") -> None:
        """A dial of this peer's came to nothing."""
        hotkey = other.identity.hotkey.public_key
        self._dialling.discard(hotkey)
        self._dial(hotkey).failed("no answer", self._now_s(), self.rng)
        self.engine.failed(hotkey, int(self.around.clock.now_ms))

    def closed(self, session: int) -> None:
        """A session has ended."""
        if self.up and session in self.sessions:
            self._over(session)
            self._run(partial(self.engine.closed, session))

    def received(self, session: int, frame: bytes) -> None:
        """A frame has arrived."""
        self._run(partial(self.engine.received, session, frame))

    def sent(self, session: int, size: int) -> None:
        """A frame has left."""
        if self.up:
            self._run(partial(self.engine.sent, session, size))

    def _run(self, call: Callable[[int], list[Effect]]) -> None:
        """Call the engine, and do what it asks for."""
        effects = self.around.tally.timed(partial(call, int(self.around.clock.now_ms)))
        for effect in effects:
            match effect:
                case Send():
                    self.around.network.send(self, effect.session, effect.frame)
                case Store():
                    self._store(effect)
                case Read():
                    self.later(self.rng.uniform(*READ_MS), partial(self._read, effect))
                case Close():
                    assert not effect.ban_s, f"{self.name} bans an honest peer: {effect.reason}"
                    self.closings[effect.reason] += 1
                    self._over(effect.session)
                    self.around.network.close(self, effect.session, effect.reason)
                case Prove():
                    raise AssertionError("nobody forks or closes a log here")
                case Notice():
                    pass

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        for hotkey in self.engine.wanted():
            if hotkey not in self._dialling and self._dial(hotkey).next_s <= self._now_s():
                self._dialling.add(hotkey)
                self.around.network.dial(self, self.others[hotkey])

    def _over(self, session: int) -> None:
        other = self.sessions.pop(session)
        lasted_s = (self.around.clock.now_ms - self._opened_ms.pop(session)) / 1000
        dial = self._dials.get(other.identity.hotkey.public_key)
        if dial is not None:
            dial.ended(lasted_s, self._now_s(), self.rng)

    def _dial(self, hotkey: bytes) -> Dial:
        found = self._dials.get(hotkey)
        if found is None:
            found = self._dials[hotkey] = Dial("", hotkey)
        return found

    def _now_s(self) -> float:
        return self.around.clock.now_ms / 1000
