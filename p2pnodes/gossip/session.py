"""What the engine knows about one open session and the peer at its other end."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from p2pnodes.gossip.frames import Digest, Want
from p2pnodes.gossip.handshake import Peer
from p2pnodes.model.events import Event, Head, LogId
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store.ledger import LogState, State

SessionId = int

UNKNOWN_LOGS_MAX: Final = 4_096
"""Logs that we don't hold and of which a session's peer is remembered to hold something; the rest come with its next
vector, when these are fetched."""

VECTORS_BURST: Final = 32
"""Parts of vectors that a peer may send at once, one more a second: a network that stood still delivers what
piled up, but reading vectors must not become all that we do."""


class Pending(NamedTuple):
    """A batch that the store works on: its events and the keys under which ``Intake`` remembers them."""

    events: tuple[Event, ...]
    keys: tuple[bytes, ...]
    size_bytes: int


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
        self.reported: dict[LogId, Head] | None = None
        """Heads of the logs that we hold, by the peer's own last complete word; None until there was one."""
        self.equal_at: bytes | None = None
        """The vector digest at which ``reported`` was taken, if the peer's digest was equal to ours."""
        self.partial: list[tuple[LogId, Head]] = []
        """The parts so far of a vector whose last part has not come."""
        self.parts = 0
        self.digest: Digest | None = None
        """The peer's latest digest."""

        self.wanted: dict[LogId, tuple[int, int]] = {}
        """Unanswered wants of ours: log -> first seq, when it was asked."""
        self.serving: dict[LogId, Want] = {}
        """Unanswered wants of the peer."""
        self.reading: set[LogId] = set()
        """Those of them whose events are being read."""
        self.storing: deque[Pending] = deque()
        """Batches of this session that the store works on, in order."""
        self.storing_bytes = 0
        self.queue_bytes = 0
        """Frames that the driver has not written yet."""
        self.behind = False
        """Whether pushes are left out, because the queue was full and has not drained yet."""

        self.spared: dict[LogId, int] = {}
        """Logs that are left to other peers -> until when."""
        self.rivals: set[LogId] = set()
        """Logs of which the peer named another event at our head."""
        self.stalled_until_ms = 0
        """Until then the peer is asked for nothing: it left a want without an answer."""
        self.vector_due = False
        self.vector_next_ms = 0
        self.vectors_left: float = VECTORS_BURST
        self.vectors_refilled_ms = time_ms
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

    def hear(self, heads: Iterable[tuple[LogId, Head]], state: State) -> None:
        """Take the peer's complete vector."""
        self.reported = {}
        self.equal_at = None
        for log, head in heads:
            held = state.logs.get(log)
            if held is not None:
                self.reported[log] = head
            if held is None or held.head.seq < head.seq:
                self.is_ahead(log, head.seq, state)
            else:
                self.holds(log, head.seq)

    def status(self, state: State) -> dict[str, Any]:
        """Snapshot for the operator; see ``Engine.status``."""
        digest = self.digest
        return {
            "hotkey": self.address,
            "node_key": self.peer.node_key.hex(),
            "url": self.peer.delegation.url,
            "log": self.peer.log.number,
            "version": self.peer.version,
            "peer_lacks": None if self.reported is None else _missing(state.logs, self.known),
            "we_lack": sum(max(0, seq - _seq(state.logs, log)) for log, seq in self.ahead.items()),
            "queue_bytes": self.queue_bytes,
            "behind": self.behind,
            "storing_events": sum(len(batch.events) for batch in self.storing),
            "storing_bytes": self.storing_bytes,
            "wants": len(self.wanted),
            "serving": len(self.serving),
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
    """Events of ours that a peer is not known to hold."""
    return sum(max(0, held.head.seq - known.get(log, -1)) for log, held in logs.items())
