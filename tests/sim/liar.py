"""A byzantine validator: an honest daemon, with somebody between it and the others who adds, drops and changes frames.

What the daemon itself says is honest, so a liar has sessions, a place in the views, and a log of its own like anybody.
``Mask`` says what becomes of single frames; whole logs that the daemon does not know are told with ``tell``.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from p2pnodes.gossip import frames
from p2pnodes.gossip.engine import Close
from p2pnodes.gossip.frames import EVENTS_PER_FRAME_MAX, Digest, Entry, Events, Have, Range, Vector, Want
from p2pnodes.model.events import Event, Head, LogId
from tests.sim.lies import Hand
from tests.sim.peer import SimPeer, Speaker
from tests.sim.verifiers import contrary, flipping, honest

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

DIGEST, VECTOR, WANT, RANGE, EVENTS, HAVE = 1, 2, 3, 4, 5, 9
"""Kinds of frames (docs/protocol.md, "Frames")."""

BOAST: Final = (1, 1_000)
"""By how many events a liar makes logs longer than they are."""

WRONG_MS: Final = 3_600_000
"""How wrong the time is that a liar tells."""

REQUESTS_MAX: Final = 200
"""Requests that a liar keeps at hand."""


class Mask:
    """What becomes of a liar's frames for a while; this one changes none."""

    def __init__(self, until_ms: float) -> None:
        """Wear it until then, in virtual time."""
        self.until_ms = until_ms

    def sends(self, other: Speaker, kind: int, frame: bytes) -> bytes | None:
        """What goes out to a peer in place of a frame of the daemon's; None: nothing."""
        return frame

    def answers(self, other: Speaker, kind: int, frame: bytes) -> Sequence[bytes] | None:
        """What a peer's frame is answered with, without the daemon's seeing it; None: the daemon takes it."""
        return None


class Face(Mask):
    """Shows one log to each peer as it is told, instead of what the daemon holds of it."""

    def __init__(self, log: LogId, shown: Mapping[int, Sequence[Event]], until_ms: float, *, rest: bool) -> None:
        """Wear a face.

        Args:
            log: The log.
            shown: Peer, by index -> all of the log, from seq 0, as that peer is to see it.
            until_ms: See ``Mask``.
            rest: Whether all others see what the daemon holds; else they see nothing of it.
        """
        super().__init__(until_ms)
        self.log = log
        self._shown = shown
        self._rest = rest

    def _events(self, other: Speaker) -> Sequence[Event] | None:
        """What a peer may see; None: whatever the daemon holds."""
        return self._shown.get(other.index, None if self._rest else ())

    def sends(self, other: Speaker, kind: int, frame: bytes) -> bytes | None:
        """Leave out of pushes and vectors what the peer is not to see."""
        if kind not in {EVENTS, VECTOR, RANGE} or (shown := self._events(other)) is None:
            return frame
        decoded = frames.decode(frame)
        if isinstance(decoded, Range) and decoded.log == self.log:  # wanted before the face was put on
            return _range(shown, Want(decoded.log, decoded.first_seq, EVENTS_PER_FRAME_MAX, frames.WANT_BYTES_MAX))
        if isinstance(decoded, Events):
            seen = {event.wire for event in shown}
            wires = [wire for wire in decoded.wires if wire in seen or Event.decode(wire).log != self.log]
            return Events(wires).encode() if wires else None
        if isinstance(decoded, Vector):
            head = Head(shown[-1].seq, shown[-1].id) if shown else None
            entries = [
                Entry(entry.log, head, None) if entry.log == self.log else entry
                for entry in decoded.entries
                if entry.log != self.log or head is not None
            ]
            return decoded._replace(entries=entries).encode()
        return frame

    def answers(self, other: Speaker, kind: int, frame: bytes) -> Sequence[bytes] | None:
        """Serve the log as the peer is to see it."""
        if kind != WANT or (shown := self._events(other)) is None:
            return None
        want = frames.decode(frame)
        return [_range(shown, want)] if isinstance(want, Want) and want.log == self.log else None


class Miser(Mask):
    """Keeps things back, and boasts of what it does not have.

    Attributes:
        ways: Some of WAYS.
    """

    WAYS: Final = ("mute", "silent", "empty", "trickle", "boast", "echo", "clock")
    """
    mute: nothing is pushed or announced, neither own events nor those of others.
    silent: wants are left without an answer.
    empty: ranges hold nothing.
    trickle: ranges hold one event.
    boast: vectors and announcements say that logs are longer than they are.
    echo: digests say that it holds what the peer said of itself: nothing more, and nothing less.
    clock: digests say another time, each peer another one.
    """

    def __init__(self, rng: random.Random, until_ms: float) -> None:
        """Draw one way, or two."""
        super().__init__(until_ms)
        self._rng = rng
        self.ways = frozenset(rng.sample(self.WAYS, rng.choice((1, 2))))
        self._heard: dict[int, Digest] = {}

    def sends(self, other: Speaker, kind: int, frame: bytes) -> bytes | None:
        """Keep back or boast."""
        if kind in {EVENTS, HAVE} and "mute" in self.ways:
            return None
        if kind == RANGE and self.ways & {"empty", "trickle"}:
            found = frames.decode(frame)
            assert isinstance(found, Range)
            return found._replace(wires=found.wires[: 0 if "empty" in self.ways else 1]).encode()
        if kind in {VECTOR, HAVE} and "boast" in self.ways:
            return self._boast(frames.decode(frame))
        if kind == DIGEST and self.ways & {"echo", "clock"}:
            return self._misstate(other.index, frames.decode(frame))
        return frame

    def _misstate(self, index: int, frame: frames.Frame) -> bytes:
        assert isinstance(frame, Digest)
        heard = self._heard.get(index)
        if heard is not None and "echo" in self.ways:
            frame = heard._replace(asks=frame.asks, clock_ms=frame.clock_ms)
        if "clock" in self.ways:
            frame = frame._replace(clock_ms=frame.clock_ms + random.Random(index).choice((-1, 1)) * WRONG_MS)
        return frame.encode()

    def _boast(self, frame: frames.Frame) -> bytes:
        if isinstance(frame, Vector):
            return frame._replace(entries=[self._longer(entry) for entry in frame.entries]).encode()
        assert isinstance(frame, Have)
        return Have([news._replace(seq=news.seq + self._rng.randint(*BOAST)) for news in frame.news]).encode()

    def _longer(self, entry: Entry) -> Entry:
        if entry.head is None or self._rng.random() < 0.5:
            return entry
        return entry._replace(head=Head(entry.head.seq + self._rng.randint(*BOAST), self._rng.randbytes(32)))

    def answers(self, other: Speaker, kind: int, frame: bytes) -> Sequence[bytes] | None:
        """Say nothing to a want; remember what is to be echoed."""
        if kind == DIGEST and "echo" in self.ways:
            digest = frames.decode(frame)
            assert isinstance(digest, Digest)
            self._heard[other.index] = digest
        return [] if kind == WANT and "silent" in self.ways else None


class Liar(SimPeer):
    """A validator with a permit that is not to be trusted."""

    honest = False

    def __init__(self, world: "Simulation", index: int) -> None:
        super().__init__(world, index)
        self.behaviour = self.rng.choice((honest, contrary, flipping()))
        self.masks: list[Mask] = []
        self._owed: dict[int, list[bytes]] = {}
        """Frames for peers with whom there is no session yet."""

    # -- what goes through its hands -----------------------------------------------------------------------------------

    def transmit(self, session: int, frame: bytes) -> None:
        """Send what the masks leave of a frame."""
        held, left = self.open.get(session), frame
        if held is None:
            return
        for mask in self._worn():
            shown = mask.sends(held.other, left[1], left)
            if shown is None:
                self._dropped(session, len(frame))
                return
            left = shown
        super().transmit(session, left)
        if len(left) < len(frame):
            self._dropped(session, len(frame) - len(left))

    def _dropped(self, session: int, size: int) -> None:
        """Tell the engine that these bytes have left, too."""
        self.later(0, lambda: self.sent(session, size) if session in self.open else None)

    def received(self, session: int, frame: bytes) -> None:
        """Hand a frame to the engine, unless a mask answers it."""
        if session in self.open and len(frame) > 1:
            other = self.open[session].other
            for mask in self._worn():
                answers = mask.answers(other, frame[1], frame)
                if answers is not None:
                    for answer in answers:
                        self.world.network.send(self, session, answer)
                    return
        super().received(session, frame)

    def wear(self, mask: Mask) -> None:
        """Put a mask on; of a log the newest face counts."""
        self.masks = [worn for worn in self._worn() if not _hides(mask, worn)]
        self.masks.append(mask)

    def _worn(self) -> list[Mask]:
        self.masks = [mask for mask in self.masks if mask.until_ms > self.world.clock.now_ms]
        return self.masks

    def _close(self, effect: Close) -> None:
        """End a session, without a ban: it has asked for trouble."""
        self.world.network.close(self, effect.session, effect.reason)

    # -- what it says beside the daemon --------------------------------------------------------------------------------

    def tell(self, targets: Collection[int], said: Iterable[bytes]) -> None:
        """Send frames to peers, given by index; to those without a session once there is one."""
        sent = list(said)
        for index in sorted(targets):
            if (session := self.session_with(index)) is not None:
                for frame in sent:
                    self.world.network.send(self, session, frame)
                continue
            self._owed[index] = sent
            other = self.world.at(self.world.url(index))
            if other is not None:
                self.world.network.dial(self, other)

    def opened(self, session: int, other: Speaker) -> None:
        """Say what was to be said when there is a session."""
        super().opened(session, other)
        if session in self.open:
            for frame in self._owed.pop(other.index, ()):
                self.world.network.send(self, session, frame)

    def session_with(self, index: int) -> int | None:
        """The session with a peer."""
        return next((session for session, held in self.open.items() if held.other.index == index), None)

    def hand(self, rng: random.Random) -> Hand:
        """What it has at hand now."""
        claims = [claim_id for (claim_id,) in self.disk.execute("SELECT claim_id FROM claim ORDER BY claim_id")]
        found = self.disk.execute(
            "SELECT wire FROM events WHERE kind IN ('add', 'delete') AND void IS NULL ORDER BY hlc DESC, id LIMIT ?",
            (REQUESTS_MAX,),
        )
        return Hand(
            self.hotkey,
            self.world.parameters.id,
            rng,
            int(self.world.clock.now_ms),
            self.world.electorate.block,
            claims,
            [Event.decode(wire) for (wire,) in found],
            sorted(log for log, held in self.ledger.state.logs.items() if held.hotkey != self.hotkey.public_key),
        )


def _hides(mask: Mask, worn: Mask) -> bool:
    return isinstance(mask, Face) and isinstance(worn, Face) and mask.log == worn.log


def _range(shown: Sequence[Event], want: Want) -> bytes:
    """The answer to a want from somebody who holds these events of its log."""
    wires: list[bytes] = []
    size = 0
    for event in shown[want.first_seq :][: want.count_max]:
        size += len(event.wire)
        if wires and size > want.size_bytes:
            break
        wires.append(event.wire)
    return Range(want.log, want.first_seq, wires).encode()
