"""How often a peer may say something, and how many events of one author go through the network at once.

A session has an allowance for each kind of thing that its peer may say, apart from one another: who floods one cannot
use up another. Membership (links, books), what is said about events (announcements, digests, slices, vectors, proofs)
and events themselves (those that are held already, of logs that nobody knows, of seqs long past) are told apart. Events
that are new need no allowance of the session: the store's speed is theirs, by backpressure, and their authors have one.

What is over an allowance that no honest peer can use up, also not with all that piled up while its network stood still
for as long as a session survives it (30 s, or 4 MiB of frames), ends the session (``spend``). What an honest peer may
come by, because others made it, is left out or put off instead (``take``), and anti-entropy brings it.

An author's allowance is the same for all sessions together, whoever forwards its events: so a validator that floods
fills its own share of everybody's time, and the events of others go past.
"""

from typing import Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import EVENT_BYTES_MAX, Event


class Rate(NamedTuple):
    """What a session's peer may say.

    Attributes:
        what: Of what, for the reason of a ban.
        burst: How many at once.
        per_s: How many more each second, until there are as many again.
    """

    what: str
    burst: int
    per_s: float


LINKS: Final = Rate("link frames", 128, 4)
"""A daemon takes a neighbour off its tree once a second at most, and back when it misses an event."""

BOOKS: Final = Rate("books", 8, 0.1)
"""One is told a minute at most."""

HAVES: Final = Rate("announced logs", 32_768, 4_096)
"""A log is announced once in a batch, and batches come every fraction of a second while there are events: 1,024 logs
that all grow at once, four times a second."""

DIGESTS: Final = Rate("digests", 512, 16)
"""In trouble one is sent at each tick (four a second), and as many answers."""

SLICES: Final = Rate("slices", 32, 2)
"""None is sent sooner than a second after the last; twice that, since a receiver that stands still counts less time."""

VECTORS: Final = Rate("parts of vectors", 32, 2)
"""A network that stood still delivers what piled up, but reading vectors must not become all that we do. We send none
sooner than one a second, see SLICES: peers that take in a stream of events always differ a little."""

PROOFS: Final = Rate("frames of proofs", 512, 16)
"""Four frames answer a vector, and one tells of each commit by which a log ended."""

HEARTBEATS: Final = Rate("heartbeats", 64, 1)
"""One is sent after 10 s in which nothing else was."""

PINGS: Final = Rate("WebSocket pings", 64, 1)
"""Pings and pongs, of which a daemon sends none: a proxy between two of them might."""

DUPLICATES: Final = Rate("events that are here already", 32_768, 4_096)
"""A link that is not on the tree yet brings all events again, and a whole queue of 4 MiB after it stood still."""

WANTS: Final = Rate("wants", 1_024, 512)
"""More wait for their turn (``take``): who catches up with many short logs wants as fast as it is answered."""

CERTIFICATES: Final = Rate("wants of certificates", 16, 0.2)
"""One is asked for after each answer at most, and again after 10 s; each is read from the disk, up to 868 KiB."""

LEAVES: Final = Rate("wants of slices", 64, 32)
"""More wait for their turn (``take``): up to 11 MB a second for who loads a live set."""

STRANGERS: Final = Rate("events and announcements of unknown logs", 1_024, 16)
"""More are not looked at (``take``), because made-up node keys cost the maker nothing; anti-entropy brings what is
real. A network has at most 256 validators, and new logs are rare."""

STALE: Final = Rate("events of seqs long past", 4_096, 64)
"""Copies of what was stored before the last 16,384 events, or rivals of it. More are not looked at (``take``): honest
peers forward the branch that they hold, whoever forked the log."""

AUTHOR_EVENTS: Final = Rate("events of one author", 8_192, 1_024)
"""Events of one author that are pushed, by their ``weight``; more are fetched, within the credit for catching up, and
are not pushed on."""

LIST_BYTES: Final = 256
BODY_BYTES: Final = 4_096
"""So many bytes are as much work as a registration of one GPU, which takes 0.25 ms (measured): the first of lists of
GPUs, claims or requests, of which a KiB may take 1 ms, the second of all else, such as a registration's body."""

_LISTS: Final = frozenset({"place", "release", "renew", "carry"})
"""Kinds that are such lists."""

AUTHOR_BYTES: Final = Rate("bytes of events of one author", 16 << 20, 2 << 20)
"""The same in bytes."""

AUTHOR_PROOFS: Final = Rate("proofs of ends of one author's logs", 64, 0.2)
"""Each proof that is lower than the one before can have the rows of a whole log decided again; what comes beyond is
looked at later, and of many only the lowest counts."""

AUTHORS_MAX: Final = 1_024
"""Authors whose allowances are remembered; beyond it the one that was quiet the longest is forgotten. A network has at
most 256 validators, and nobody else's events are stored."""


class Allowance:
    """A token bucket: so many at once, and more as time goes by."""

    __slots__ = ("_at_ms", "_burst", "_left", "_per_ms")

    def __init__(self, rate: Rate, time_ms: int) -> None:
        """Begin with all of the burst."""
        self._burst = float(rate.burst)
        self._per_ms = rate.per_s / 1000
        self._left = self._burst
        self._at_ms = time_ms

    def has(self, time_ms: int, amount: int = 1) -> bool:
        """Whether ``amount`` more is allowed now, in steady time; nothing is used up."""
        if time_ms > self._at_ms:
            self._left = min(self._burst, self._left + (time_ms - self._at_ms) * self._per_ms)
            self._at_ms = time_ms
        return self._left >= amount

    def take(self, time_ms: int, amount: int = 1) -> bool:
        """Whether ``amount`` more is allowed now; if so, it is used up."""
        allowed = self.has(time_ms, amount)
        if allowed:
            self._left -= amount
        return allowed


def flood(rate: Rate) -> str:
    """Why somebody is refused who said more than a rate allows."""
    return f"{rate.what}: over {rate.burst} at once, {rate.per_s:g} a second are allowed"


class FloodError(RemoteProtocolError):
    """A peer said more than a rate allows."""

    code = Code.SESSION_FLOOD


class SessionRates:
    """The allowances of one session's peer; each one begins when the first of its kind is said."""

    def __init__(self) -> None:
        """Begin with none used."""
        self._allowances: dict[Rate, Allowance] = {}

    def take(self, rate: Rate, time_ms: int, amount: int = 1) -> bool:
        """Whether ``amount`` more of something may be taken up now; if so, it is used up.

        Args:
            rate: One of the constants of this module.
            time_ms: Steady time.
            amount: At most the rate's burst, else it is never allowed.
        """
        allowance = self._allowances.get(rate)
        if allowance is None:
            allowance = self._allowances[rate] = Allowance(rate, time_ms)
        return allowance.take(time_ms, amount)

    def spend(self, rate: Rate, time_ms: int, amount: int = 1) -> None:
        """Use up ``amount`` of an allowance; arguments as ``take`` has them.

        Raises:
            FloodError: It is not allowed: the peer does what no honest one does.
        """
        if not self.take(rate, time_ms, amount):
            raise FloodError(flood(rate))


def weight(event: Event) -> int:
    """How much work it is to store an event, in registrations of one GPU: 1 to 385.

    By its kind and size alone: what it says is read when it is stored.
    """
    return 1 + len(event.payload) // (LIST_BYTES if event.kind in _LISTS else BODY_BYTES)


class _Author:
    """The allowances of one author."""

    __slots__ = ("bytes", "events", "proofs")

    def __init__(self, time_ms: int) -> None:
        self.events = Allowance(AUTHOR_EVENTS, time_ms)
        self.bytes = Allowance(AUTHOR_BYTES, time_ms)
        self.proofs = Allowance(AUTHOR_PROOFS, time_ms)


class AuthorRates:
    """The allowances of all authors, by hotkey: an author has one however many logs it writes."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._authors: dict[bytes, _Author] = {}

    def __len__(self) -> int:
        return len(self._authors)

    def allow(self, hotkey: bytes, event: Event, time_ms: int) -> bool:
        """Whether an event of an author may be taken in as it was pushed; else it is fetched. Nothing is used up."""
        author = self._of(hotkey, time_ms)
        return author.events.has(time_ms, weight(event)) and author.bytes.has(time_ms, EVENT_BYTES_MAX)

    def live(self, hotkey: bytes, event: Event, time_ms: int) -> bool:
        """Whether one more event of an author that is stored now may be pushed on; if so, it is counted.

        Args:
            hotkey: The author's.
            event: The event.
            time_ms: Steady time.
        """
        author, size_bytes = self._of(hotkey, time_ms), len(event.wire)
        return (
            author.bytes.has(time_ms, size_bytes)
            and author.events.take(time_ms, weight(event))
            and author.bytes.take(time_ms, size_bytes)
        )

    def provable(self, hotkey: bytes, time_ms: int) -> bool:
        """Whether a proof of the end of an author's log may be checked now.

        What is only said to be one is not counted: others could use up the author's allowance, and so put off the
        closing by which it revokes a key.
        """
        return self._of(hotkey, time_ms).proofs.has(time_ms)

    def proved(self, hotkey: bytes, time_ms: int) -> None:
        """Count a proof that held."""
        self._of(hotkey, time_ms).proofs.take(time_ms)

    def _of(self, hotkey: bytes, time_ms: int) -> _Author:
        author = self._authors.pop(hotkey, None) or _Author(time_ms)
        self._authors[hotkey] = author  # the one that was quiet the longest is first, and forgotten first
        if len(self._authors) > AUTHORS_MAX:
            del self._authors[next(iter(self._authors))]
        return author
