"""What the engine knows about one open session and the peer at its other end."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from p2pnodes.gossip.frames import Digest, Entry, Mark, Want
from p2pnodes.gossip.handshake import Peer
from p2pnodes.model.events import Close, Event, Evidence, LogId
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store.ledger import LogState, State

if TYPE_CHECKING:
    from p2pnodes.gossip.search import Search

SessionId = int

UNKNOWN_LOGS_MAX: Final = 4_096
"""Logs that we don't hold and of which a session's peer is remembered to hold something; the rest come with its next
vector, when these are fetched."""

PROVING_MAX: Final = 4
"""Frames of proofs of one session that the store may have to check; more are dropped, and come with a later vector."""

VECTORS_BURST: Final = 32
VECTOR_INTERVAL_MS: Final = 1_000
"""Parts of vectors that a peer may send at once, and pause after which one more may come: a network that stood still
delivers what piled up, but reading vectors must not become all that we do. We send none sooner than that: peers that
take in a stream of events always differ a little."""

BOOKS_BURST: Final = 8
BOOK_INTERVAL_MS_MIN: Final = 10_000
"""Books that a peer may send at once, and pause after which one more may come."""


class Allowance:
    """How often a peer may say something: so many at once, and one more each time a pause is over."""

    def __init__(self, burst: int, interval_ms: int, time_ms: int) -> None:
        """Begin with all of ``burst``."""
        self._burst = burst
        self._interval_ms = interval_ms
        self._left: float = burst
        self._refilled_ms = time_ms

    def take(self, time_ms: int) -> bool:
        """Whether one more is allowed now; if so, it is used up."""
        self._left = min(self._burst, self._left + (time_ms - self._refilled_ms) / self._interval_ms)
        self._refilled_ms = time_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Wanted(NamedTuple):
    """A want of ours that has no answer yet.

    Attributes:
        first_seq: First event that is wanted.
        size_bytes: The credit that was given.
        asked_ms: When, in steady time.
        probe: Whether one event is to be looked at, for a search; else a range is to be stored.
    """

    first_seq: int
    size_bytes: int
    asked_ms: int
    probe: bool


class Pending(NamedTuple):
    """A batch that the store works on.

    Attributes:
        events: The events.
        keys: Under which ``Intake`` remembers them; none of a probe.
        size_bytes: Of the events.
        probe: Whether it is one event of a branch that is being searched.
    """

    events: tuple[Event, ...]
    keys: tuple[bytes, ...]
    size_bytes: int
    probe: bool = False


class Session:
    """State of one session. Plain data; the rules are in ``engine``, ``intake`` and ``sync``."""

    def __init__(self, number: SessionId, peer: Peer, time_ms: int) -> None:
        """Begin with nothing known about the peer's events."""
        self.id = number
        self.peer = peer
        self.address = ss58_encode(peer.hotkey)
        self.opened_ms = time_ms

        self.known: dict[LogId, int] = {}
        """Highest seq of a log that the peer holds, or that is on its way to it: what need not be pushed."""
        self.ahead: dict[LogId, int] = {}
        """Highest seq of a log that the peer holds and we don't, as far as it said so."""
        self.reported: dict[LogId, Entry] | None = None
        """Of the logs that we hold, the peer's own last complete word; None until there was one."""
        self.equal_at: bytes | None = None
        """The vector digest at which ``reported`` was taken, if the peer's digest was equal to ours."""
        self.told: dict[LogId, Mark] = {}
        """Ends of logs of which proofs went from or to the peer since then."""
        self.partial: list[Entry] = []
        """The parts so far of a vector whose last part has not come."""
        self.parts = 0
        self.digest: Digest | None = None
        """The peer's latest digest."""

        self.wanted: dict[LogId, Wanted] = {}
        """Unanswered wants of ours."""
        self.serving: dict[LogId, Want] = {}
        """Unanswered wants of the peer."""
        self.reading: set[LogId] = set()
        """Those of them whose events are being read."""
        self.storing: deque[Pending] = deque()
        """Batches of this session that the store works on, in order."""
        self.storing_bytes = 0
        self.proving: deque[tuple[Evidence | Close, ...]] = deque()
        """Proofs of this session that the store works on."""
        self.queue_bytes = 0
        """Frames that the driver has not written yet."""
        self.behind = False
        """Whether pushes are left out, because the queue was full and has not drained yet."""

        self.spared: dict[LogId, int] = {}
        """Logs that are left to other peers -> until when."""
        self.rivals: set[LogId] = set()
        """Logs of which the peer named another event at our head."""
        self.searches: dict[LogId, Search] = {}
        """Searches for the point where the peer's branch of a log parts from ours."""
        self.searched: dict[LogId, int] = {}
        """Logs that were searched and are not again -> until when."""
        self.stalled_until_ms = 0
        """Until then the peer is asked for nothing: it left a want without an answer."""
        self.vector_due = False
        self.vector_next_ms = 0
        self.vectors = Allowance(VECTORS_BURST, VECTOR_INTERVAL_MS, time_ms)
        """Parts of vectors that the peer may still send."""
        self.marks_due = False
        """Whether the peer knows ends of logs that we don't hold yet; it tells us once we do, and compare again."""
        self.books = Allowance(BOOKS_BURST, BOOK_INTERVAL_MS_MIN, time_ms)
        """Books that the peer may still send."""
        self.book_version = 0
        """Of our address book, as far as the peer was sent it."""
        self.book_next_ms = time_ms
        self.digest_due = True
        self.asked_ms: int | None = None
        """When a digest was sent that asks and has no answer yet."""
        self.offset_ms: int | None = None
        """The peer's wall clock less ours."""
        self.rtt_ms: int | None = None

        self.frames_sent = 0
        self.frames_received = 0
        self.events_sent = 0
        self.events_received = 0
        self.events_stored = 0
        self.duplicates = 0

    def holds(self, log: LogId, seq: int) -> None:
        """Note that the peer holds a log up to ``seq``, or was sent it."""
        if self.known.get(log, -1) < seq:
            self.known[log] = seq

    def is_ahead(self, log: LogId, seq: int, state: State) -> None:
        """Note that the peer holds a log up to ``seq``, which we don't."""
        if log in self.ahead or log in state.logs or len(self.ahead) < UNKNOWN_LOGS_MAX + len(state.logs):
            self.ahead[log] = max(seq, self.ahead.get(log, -1))

    def hear(self, entries: Iterable[Entry], state: State) -> None:
        """Take the peer's complete vector."""
        self.reported = {}
        self.told = {}
        self.equal_at = None
        for entry in entries:
            log, head, _ = entry
            held = state.logs.get(log)
            if held is not None:
                self.reported[log] = entry
            if head is None:
                continue
            if held is None or held.head.seq < head.seq:
                self.is_ahead(log, head.seq, state)
            else:
                self.holds(log, head.seq)

    def mark(self, log: LogId) -> Mark | None:
        """What the peer knows of a log's end, by its own word and by what was told since."""
        said = self.reported.get(log) if self.reported else None
        told = self.told.get(log)
        return (said.mark if said else None) if told is None else told.merged(said.mark if said else None)

    def tell(self, log: LogId, mark: Mark) -> None:
        """Note that the peer was told of a log's end, or told us."""
        self.told[log] = mark.merged(self.told.get(log))

    def status(self, state: State) -> dict[str, Any]:
        """Snapshot for the operator; see ``Engine.status``."""
        digest = self.digest
        return {
            "hotkey": self.address,
            "node_key": self.peer.node_key.hex(),
            "url": self.peer.delegation.url,
            "log": self.peer.log.number,
            "version": self.peer.version,
            "observer": self.peer.observer,
            "peer_lacks": None if self.reported is None else _missing(state.logs, self.known),
            "we_lack": sum(max(0, seq - _seq(state.logs, log)) for log, seq in self.ahead.items()),
            "queue_bytes": self.queue_bytes,
            "behind": self.behind,
            "storing_events": sum(len(batch.events) for batch in self.storing),
            "storing_bytes": self.storing_bytes,
            "wants": len(self.wanted),
            "serving": len(self.serving),
            "searches": len(self.searches),
            "offset_ms": self.offset_ms,
            "rtt_ms": self.rtt_ms,
            "same_vector": digest and digest.vector == state.vector_digest,
            "same_electorate": digest and digest.electorate == state.electorate_digest,
            "same_state_root": digest and digest.state_root == state.state_root,
            "frames_sent": self.frames_sent,
            "frames_received": self.frames_received,
            "events_sent": self.events_sent,
            "events_received": self.events_received,
            "events_stored": self.events_stored,
            "duplicates": self.duplicates,
        }


def _seq(logs: Mapping[LogId, LogState], log: LogId) -> int:
    held = logs.get(log)
    return held.head.seq if held else -1


def _missing(logs: Mapping[LogId, LogState], known: Mapping[LogId, int]) -> int:
    """Events of ours that count and that a peer is not known to hold."""
    return sum(max(0, held.counted.seq - known.get(log, -1)) for log, held in logs.items() if held.counted)
