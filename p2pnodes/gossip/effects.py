"""What the engine asks of whoever drives it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from p2pnodes.gossip.bans import Offence
from p2pnodes.gossip.rates import Allowance, Rate
from p2pnodes.gossip.session import Session, SessionId
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.events import Close as Closing
from p2pnodes.model.events import Event, Evidence, LogId

QUEUE_BYTES_MAX: Final = 4 << 20
"""Unsent bytes of a session above which nothing is pushed to it any more: anti-entropy repairs it once it drained. What
was begun below it may go over it: one frame of events, or one vector."""

NOTICES: Final = Rate("notices of one kind", 20, 2)
"""Peers cause them, so a hostile one must not fill the disk with log lines. Each of the kinds, a dozen in the code, has
an allowance of its own: who causes many of one must not hide the others."""


class Send(NamedTuple):
    """Encrypt and queue a frame of at most FRAME_BYTES_MAX; report it with ``Engine.sent`` when it is written."""

    session: SessionId
    frame: bytes


class Close(NamedTuple):
    """End a session, whose engine side is gone already; refuse its peer for ``ban_s`` seconds (0: not at all)."""

    session: SessionId
    reason: Reason
    ban_s: float
    offence: Offence = Offence.PROTOCOL
    """What the ban is counted as."""


class Store(NamedTuple):
    """Store events, in order with the session's other stores; answer with ``Engine.stored``."""

    session: SessionId
    events: tuple[Event, ...]


class Foresee(NamedTuple):
    """Events that will be stored: their signatures may be checked while others are. There is no answer."""

    events: tuple[Event, ...]


class Prove(NamedTuple):
    """Have proofs of logs' ends checked and kept; answer with ``Engine.proved``."""

    session: SessionId
    proofs: tuple[Evidence | Closing, ...]


class Read(NamedTuple):
    """Read consecutive events of a log; answer with ``Engine.read``."""

    session: SessionId
    log: LogId
    first_seq: int
    size_bytes_max: int
    count_max: int


class Consider(NamedTuple):
    """Have a certificate looked at (``store.loading.consider``); answer with ``Engine.considered``.

    Carried out also when the session has ended; so is ``Load``.
    """

    session: SessionId
    number: int
    wire: bytes


class Survey(NamedTuple):
    """Have it looked up what is missing of the live set that is being loaded; answer with ``Engine.lacking``."""


class Load(NamedTuple):
    """Have a slice of a live set stored (``store.loading.load``); answer with ``Engine.loaded``."""

    session: SessionId
    number: int
    place: int
    leaves: Sequence[tuple[int, bytes]]
    path: Sequence[bytes]


class ReadCertificate(NamedTuple):
    """Read a certificate; answer with ``Engine.read_certificate``."""

    session: SessionId
    number: int


class ReadLeaves(NamedTuple):
    """Read a slice of the live set of a checkpoint, with its path; answer with ``Engine.read_leaves``."""

    session: SessionId
    number: int
    place: int


class Notice(NamedTuple):
    """A record for the daemon's log; ``session`` is None where no session is at its root."""

    session: SessionId | None
    level: str
    event: str
    fields: dict[str, Any]


Loadings = Consider | Survey | Load
"""What goes to the store whoever is still there."""

Effect = Send | Close | Store | Foresee | Prove | Read | ReadCertificate | ReadLeaves | Loadings | Notice


class Outbox:
    """Collects the effects of one call; counts what sessions have unsent and bounds the notices."""

    def __init__(self, time: Timeline) -> None:
        """Begin empty."""
        self._time = time
        self._effects: list[Effect] = []
        self._notices: dict[str, Allowance] = {}
        self._left_out: Counter[str] = Counter()

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        taken, self._effects = self._effects, []
        return taken

    def send(self, session: Session, frame: bytes) -> None:
        """Send a frame; a session whose queue is full with it is behind from then on."""
        session.queue_bytes += len(frame)
        session.frames_sent += 1
        self._effects.append(Send(session.id, frame))
        if session.queue_bytes > QUEUE_BYTES_MAX and not session.behind:
            session.behind, session.behind_ms = True, self._time.patient_ms
            self.notice(session, "warning", "peer_behind", queue_bytes=session.queue_bytes, code=Code.EVENT_PEER_BEHIND)

    def add(self, effect: Close | Store | Foresee | Prove | Read | ReadCertificate | ReadLeaves | Loadings) -> None:
        """Any other effect."""
        self._effects.append(effect)

    def notice(self, session: Session | None, level: str, event: str, **fields: Any) -> None:
        """Add a log record, unless there were too many of its kind just now; the next one then says how many."""
        allowance = self._notices.get(event)
        if allowance is None:
            allowance = self._notices[event] = Allowance(NOTICES, self._time.ms)
        if not allowance.take(self._time.ms):
            self._left_out[event] += 1
            return
        if left_out := self._left_out.pop(event, 0):
            fields["left_out"] = left_out
        if session is not None:
            fields["peer"] = session.address
        self._effects.append(Notice(None if session is None else session.id, level, event, fields))
