"""What the engine knows about one open session and the peer at its other end."""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from p2pnodes.gossip.frames import Digest, Entry, Mark, Want
from p2pnodes.gossip.handshake import Peer
from p2pnodes.gossip.rates import SessionRates
from p2pnodes.model.events import Close, Event, Evidence, Head, LogId
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store.state import LogState, State
from p2pnodes.store.vector import SLICES, slice_of

if TYPE_CHECKING:
    from p2pnodes.gossip.search import Search

SessionId = int

SPARED_MAX: Final = 4_096
"""Logs of which a session's peer is not asked for a while; beyond it, the oldest is asked for again."""

UNKNOWN_LOGS_MAX: Final = 4_096
"""Logs that we don't hold and of which a session's peer is remembered to hold something; the rest come with its next
vector, when these are fetched."""

KNOWN_MAX: Final = 256
"""Logs of which a session's peer is remembered to hold something; beyond it, what we hold as well is forgotten."""

PROVING_MAX: Final = 4
"""Frames of proofs of one session that the store may have to check; more are dropped, and come with a later vector."""

VECTOR_INTERVAL_MS: Final = 1_000
"""Shortest pause between two parts of vectors that we send in a session; ``rates.VECTORS`` is what a peer may."""


class Wanted(NamedTuple):
    """A want of ours that has no answer yet.

    Attributes:
        count_max: Events that are wanted.
        size_bytes: The credit that was given.
        asked_ms: When, in patient time.
        probe: Whether one event is to be looked at, for a search; else a range is to be stored.
        late: Whether it was given up: the credit went to others, and the answer is taken if there is room for it.
        ahead: Whether something was missing before the range, so that it had to wait for its turn.
    """

    count_max: int
    size_bytes: int
    asked_ms: int
    probe: bool = False
    late: bool = False
    ahead: bool = False


class Pending(NamedTuple):
    """A batch that the store works on.

    Attributes:
        events: The events.
        keys: Under which ``Intake`` remembers them; none of a probe.
        size_bytes: Of the events.
        probe: Whether it is one event of a branch that is being searched.
        fetched: Whether the events were wanted; else they were pushed.
    """

    events: tuple[Event, ...]
    keys: tuple[bytes, ...]
    size_bytes: int
    probe: bool = False
    fetched: bool = False


class Session:
    """State of one session. Plain data; the rules are in ``engine``, ``intake`` and ``sync``."""

    def __init__(self, number: SessionId, peer: Peer, time_ms: int) -> None:
        """Begin with nothing known about the peer's events."""
        self.id = number
        self.peer = peer
        self.address = ss58_encode(peer.hotkey)
        self.opened_ms = time_ms
        self.rates = SessionRates()
        """What the peer may still say."""

        self.ours = False
        """Whether we hold the peer in our active view, and told it so."""
        self.theirs = False
        """Whether the peer holds us in its."""
        self.eager = False
        """Whether events are pushed on this link, both ways; else they are announced."""
        self.late = 0.0
        self.late_max = 0
        """Pushed frames with events that had come sooner from elsewhere, of those looked at since the link became what
        it is, each by the share of such events; and how many of them make it lazy."""
        self.look_ms = 0
        """When the next of them counts."""
        self.pruned_until_ms = 0
        """Until when we remember to have made the link lazy, because of these."""
        self.gains = 0
        self.gain_ms = 0.0
        """How much sooner than they came here events could have come on this lazy link: number and recent mean."""
        self.gain_next_ms = 0
        """When this link may be made eager for that again."""
        self.news: dict[LogId, int] = {}
        """What is to be announced on a lazy link: highest seq of a log that was newly stored."""
        self.announce_ms = 0
        """When that is due."""

        self.known: dict[LogId, int] = {}
        """Highest seq of a log that the peer holds, or that is on its way to it: what need not be pushed. Of logs with
        traffic only; what we have held for longer is forgotten."""
        self.ahead: OrderedDict[LogId, int] = OrderedDict()
        """Highest seq of a log that the peer holds and we don't, as far as it said so; what is wanted next first."""
        self.heard = 0
        """Slices of the version vector about which there was the peer's complete word: bit i for slice i."""
        self.own: tuple[LogId, Entry | None] | None = None
        """Our own log, and what the peer's last complete word about its slice said of it (rule 4)."""
        self.lacks: dict[LogId, int] = {}
        """Logs of which the peer holds less than we did at its last word -> highest seq that it holds, -1 for none."""
        self.told: dict[LogId, Mark] = {}
        """What the peer knows of logs' ends, where its last word differed from ours or proofs went to or fro since."""
        self.partial: list[Entry] = []
        """The parts so far of a vector whose last part has not come; of logs that we don't hold, UNKNOWN_LOGS_MAX."""
        self.parts = 0
        self.last_log: LogId | None = None
        """The last log in these parts."""
        self.scope = b""
        """The slices that this vector lists."""
        self.digest: Digest | None = None
        """The peer's latest digest."""

        self.wanted: dict[tuple[LogId, int], Wanted] = {}
        """Unanswered wants of ours, by log and first seq."""
        self.serving: dict[tuple[LogId, int], Want] = {}
        """Unanswered wants of the peer, likewise."""
        self.reading: set[tuple[LogId, int]] = set()
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
        self.behind_ms = 0
        """Since when, in patient time."""

        self.higher: tuple[int, int] | None = None
        """First higher checkpoint than is in force here that the peer named, and since when it names such, in patient
        time; None while it does not."""
        self.certificate_wanted: tuple[int, int] | None = None
        """Number of the certificate that the peer is asked for, and since when, in patient time."""
        self.certificate_next_ms = 0
        """When the peer may be asked for one."""
        self.leaves_wanted: dict[tuple[int, int], int] = {}
        """Unanswered wants of slices, by checkpoint and slice -> since when, in patient time."""
        self.leaves_ms: int | None = None
        """How long the peer took for the last slice that it was asked for, in patient time; None if it brought none."""
        self.leaves_next_ms = 0
        """When the peer may be asked for another slice."""
        self.lending_certificate: int | None = None
        """Number of the certificate that the peer waits for."""
        self.lending: dict[tuple[int, int], bool] = {}
        """Slices that the peer waits for, by checkpoint and slice -> whether they are being read."""

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
        self.slices_due = False
        self.slices_next_ms = 0
        self.vector_due: set[int] = set()
        """Slices that the peer is to be told of."""
        self.vector_next_ms = 0
        self.marks_due = False
        """Whether the peer knows ends of logs that we don't hold yet; it tells us once we do, and compare again."""
        self.book_version = 0
        """Of our address book, as far as the peer was sent it."""
        self.book_next_ms = time_ms
        self.digest_due = True
        self.asked_ms: int | None = None
        """When a digest was sent that asks and has no answer yet."""
        self.clock_ms: int | None = None
        """The peer's wall clock less our steady time: what our own wall clock does meanwhile changes nothing of it."""
        self.rtt_ms: int | None = None

        self.frames_sent = 0
        self.frames_received = 0
        self.events_sent = 0
        self.events_received = 0
        self.events_stored = 0
        self.duplicates = 0
        self.excused = 0
        """How many of all events that were new here the peer has had its copy of, or can have it no more."""

    @property
    def linked(self) -> bool:
        """Whether each end holds the other in its view: a link, on which events are pushed or announced."""
        return self.ours and self.theirs

    def spare(self, log: LogId, until_ms: int) -> None:
        """Leave a log to other peers for a while."""
        self.spared.pop(log, None)
        self.spared[log] = until_ms
        if len(self.spared) > SPARED_MAX:
            del self.spared[next(iter(self.spared))]

    def wants(self, log: LogId) -> bool:
        """Whether something of a log is wanted from the peer."""
        return any(wanted == log for wanted, _ in self.wanted)

    def holds(self, log: LogId, seq: int) -> None:
        """Note that the peer holds a log up to ``seq``, or was sent it."""
        if self.known.get(log, -1) < seq:
            self.known[log] = seq
        if self.lacks and self.lacks.get(log, seq) < seq:
            self.lacks[log] = seq

    def forget_known(self, state: State, flying: Callable[[LogId], bool]) -> None:
        """Forget what the peer holds of logs of which we hold as much: nothing of that will be pushed.

        Args:
            state: What is stored.
            flying: Whether the store works on events of a log, which are pushed once that is done.
        """
        self.known = {log: seq for log, seq in self.known.items() if seq > _seq(state.logs, log) or flying(log)}

    def is_ahead(self, log: LogId, seq: int, state: State) -> None:
        """Note that the peer holds a log up to ``seq``, which we don't."""
        if log in self.ahead or log in state.logs or len(self.ahead) < UNKNOWN_LOGS_MAX + len(state.logs):
            self.ahead[log] = max(seq, self.ahead.get(log, -1))

    @property
    def compared(self) -> bool:
        """Whether there was the peer's complete word about everything, since the session opened."""
        return self.heard == (1 << SLICES) - 1

    def forget_word(self) -> None:
        """Forget the peer's word: equal digests spoke of the logs that were permitted then."""
        self.heard = 0
        self.own = None
        self.lacks = {}
        self.told = {}

    def agrees(self, slices: Collection[int], state: State) -> None:
        """Note that the peer said that some slices are the same as ours."""
        own = state.own
        self._renew_word(slices)
        if own is not None and slice_of(own) in slices:
            ends = state.ends.get(own)
            head = state.heads.get(own)
            self.own = own, None if head is None else Entry(own, head, None if ends is None else Mark.of(ends))

    def hear(self, entries: Sequence[Entry], slices: Collection[int], state: State) -> None:
        """Take the peer's complete word about some slices: all of its logs that are in them."""
        self._renew_word(slices)
        said = {entry.log: entry for entry in entries}
        for log, head, mark in entries:
            held = state.logs.get(log)
            if held is not None and mark is not None and mark != Mark.of(held.ends):
                self.told[log] = mark
            if head is not None and (held is None or held.head.seq < head.seq):
                self.is_ahead(log, head.seq, state)
        for log, ours in state.heads.items():
            if slice_of(log) in slices:
                theirs = said.get(log)
                seq = -1 if theirs is None or theirs.head is None else theirs.head.seq
                if seq < ours.seq:
                    self.lacks[log] = seq
        if state.own is not None and slice_of(state.own) in slices:
            self.own = state.own, said.get(state.own)

    def _renew_word(self, slices: Collection[int]) -> None:
        for number in slices:
            self.heard |= 1 << number
        if self.lacks:
            self.lacks = {log: seq for log, seq in self.lacks.items() if slice_of(log) not in slices}
        if self.told:
            self.told = {log: mark for log, mark in self.told.items() if slice_of(log) not in slices}

    def tell(self, log: LogId, mark: Mark) -> None:
        """Note that the peer was told of a log's end, or told us."""
        self.told[log] = mark.merged(self.told.get(log))

    def we_lack(self, state: State) -> int:
        """Events that the peer said it holds and we don't."""
        return sum(max(0, seq - _seq(state.logs, log)) for log, seq in self.ahead.items())

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
            "link": ("eager" if self.eager else "lazy") if self.linked else "visit",
            "peer_lacks": _missing(state.heads, self.lacks) if self.compared else None,
            "we_lack": self.we_lack(state),
            "queue_bytes": self.queue_bytes,
            "behind": self.behind,
            "storing_events": sum(len(batch.events) for batch in self.storing),
            "storing_bytes": self.storing_bytes,
            "wants": len(self.wanted),
            "serving": len(self.serving),
            "searches": len(self.searches),
            "rtt_ms": self.rtt_ms,
            "same_vector": digest and digest.vector == state.vector_digest,
            "same_electorate": digest and digest.electorate == state.electorate_digest,
            "same_checkpoint": digest and digest.checkpoint is not None and digest.checkpoint == state.settled,
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


def _missing(heads: Mapping[LogId, Head], lacks: Mapping[LogId, int]) -> int:
    """Events of ours that count and that a peer lacked by its last word, and was not sent since."""
    return sum(max(0, heads[log].seq - seq) for log, seq in lacks.items() if log in heads)
