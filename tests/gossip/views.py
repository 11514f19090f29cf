"""Many active views in one network without sockets: dials that reach who is up, frames in order, one clock."""

import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from p2pnodes.gossip import frames
from p2pnodes.gossip.effects import Outbox, Send
from p2pnodes.gossip.frames import Link, Mode
from p2pnodes.gossip.handshake import Peer
from p2pnodes.gossip.session import Session
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.gossip.view import Member, View
from p2pnodes.model import codec
from p2pnodes.model.events import Delegation, LogId
from p2pnodes.model.protocol import PROTOCOL_VERSION

TICK_MS: Final = 500
"""Pause between ticks: half as many as a daemon has, for the tests' sake."""

DIAL_PAUSE_MS: Final = 5_000
"""Pause before a member is dialled again."""


def name(number: int) -> bytes:
    """A hotkey; node keys are others, so that the order of the ring is another one."""
    return codec.digest(b"hotkey %d" % number)


def key(number: int) -> bytes:
    return codec.digest(b"node key %d" % number)


def peer(number: int, *, node_key: bytes | None = None, observer: bool = False) -> Peer:
    """What a handshake would prove of a daemon; nobody looks at its signatures here."""
    log = LogId(node_key or key(number), 0)
    return Peer(log, Delegation(name(number), "", 0, 1, None, bytes(64)), PROTOCOL_VERSION, observer)


class Daemon:
    """A view with its sessions; what it says waits in its outbox."""

    def __init__(self, number: int, *, size: int = 8, seed: int = 0, observer: bool = False) -> None:
        self.number = number
        self.observer = observer
        self.time = Timeline()
        self.time.tick(1_000_000, TICK_MS)
        self.outbox = Outbox(self.time)
        self.sessions: dict[int, Session] = {}
        self.links: set[int] = set()
        """Numbers of the sessions that ``linked`` and ``unlinked`` speak of."""
        self.next_dial_ms: dict[bytes, int] = {}
        self.view = View(
            self.sessions,
            node_key=key(number),
            linked=self.linked,
            unlinked=self.unlinked,
            outbox=self.outbox,
            time=self.time,
            rng=random.Random(f"{seed} {number}"),
            size=size,
        )

    def linked(self, session: Session) -> None:
        assert session.linked
        assert session.id not in self.links
        self.links.add(session.id)

    def unlinked(self, session: Session) -> None:
        self.links.remove(session.id)

    def knows(self, numbers: Iterable[int], *, dialable: bool = True) -> None:
        """Tell it who the members are."""
        self.view.set_members({name(n): Member(key(n), dialable) for n in numbers if n != self.number})

    def opened(self, number: int, other: Peer) -> Session:
        session = self.sessions[number] = Session(number, other, self.time.ms)
        self.view.opened(session)
        return session

    def closed(self, number: int) -> None:
        session = self.sessions.pop(number, None)
        if session is not None:
            self.view.closed(session)

    def said(self) -> list[tuple[int, Mode]]:
        """What it said since the last call: session, mode."""
        said = []
        for effect in self.outbox.take():
            assert isinstance(effect, Send)
            frame = frames.decode(effect.frame)
            assert isinstance(frame, Link)
            said.append((effect.session, frame.mode))
        return said

    def pass_time(self, ms: int) -> list[int]:
        """Tick; the sessions that are to be closed."""
        over = []
        for _ in range(max(1, ms // TICK_MS)):
            self.time.tick(self.time.wall_ms + TICK_MS, TICK_MS)
            over += [close.session for close in self.view.tick()]
        return over

    @property
    def neighbours(self) -> set[bytes]:
        """Hotkeys of those with whom it has links."""
        return {session.peer.hotkey for session in self.sessions.values() if session.linked}


class Net:
    """Daemons that dial each other."""

    def __init__(self, count: int, *, size: int = 8, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.size = size
        self.seed = seed
        self.count = count
        self.daemons: dict[int, Daemon] = {}
        self.sides: Mapping[int, int] = {}
        """Daemons of different sides do not reach each other."""
        self.cut: set[tuple[int, int]] = set()
        """Pairs that do not reach each other, though all others reach both."""
        self.undialable: set[int] = set()
        self.ends: dict[int, tuple[int, int]] = {}
        self.queues: dict[tuple[int, int], deque[Mode]] = {}
        """What is under way, by session and receiver."""
        self.dials = 0

    def start(self, number: int, members: Iterable[int] | None = None) -> Daemon:
        daemon = self.daemons[number] = Daemon(number, size=self.size, seed=self.rng.randrange(1 << 30))
        known = range(self.count) if members is None else members
        daemon.view.set_members({name(n): Member(key(n), n not in self.undialable) for n in known if n != number})
        return daemon

    def start_all(self) -> None:
        for number in range(self.count):
            self.start(number)

    def stop(self, number: int) -> None:
        for session, ends in list(self.ends.items()):
            if number in ends:
                self.end(session)
        del self.daemons[number]

    def reaches(self, one: int, other: int) -> bool:
        return (
            other in self.daemons
            and self.sides.get(one, 0) == self.sides.get(other, 0)
            and (min(one, other), max(one, other)) not in self.cut
        )

    def part(self, sides: Mapping[int, int]) -> None:
        """Divide the network; sessions across end."""
        self.sides = sides
        for session, (one, other) in list(self.ends.items()):
            if not self.reaches(one, other):
                self.end(session)

    def end(self, session: int) -> None:
        for number in self.ends.pop(session):
            self.queues.pop((session, number))
            self.daemons[number].closed(session)
            self.collect(number)

    def dial(self, one: int, other: int) -> None:
        self.dials += 1
        session = self.dials
        self.ends[session] = one, other
        for number in (one, other):
            self.queues[session, number] = deque()
        for number, far in ((one, other), (other, one)):
            self.daemons[number].opened(session, peer(far))
            self.collect(number)

    def collect(self, number: int) -> None:
        """Put what a daemon said under way."""
        for session, mode in self.daemons[number].said():
            if session in self.ends:
                one, other = self.ends[session]
                self.queues[session, other if number == one else one].append(mode)

    def deliver(self) -> None:
        """Let all that is under way arrive, in an order of its own between sessions."""
        for _ in range(1_000 + 100 * len(self.daemons)):
            waiting = [place for place, queue in self.queues.items() if queue]
            if not waiting:
                return
            session, number = self.rng.choice(waiting)
            mode = self.queues[session, number].popleft()
            daemon = self.daemons[number]
            daemon.view.told(daemon.sessions[session], mode)
            self.collect(number)
        raise AssertionError("the views never come to rest")

    def run(self, ms: int) -> None:
        numbers = {name(number): number for number in range(self.count)}
        for _ in range(ms // TICK_MS):
            for number, daemon in list(self.daemons.items()):
                for session in daemon.pass_time(TICK_MS):
                    if session in self.ends:
                        self.end(session)
                self.collect(number)
                for hotkey in daemon.view.wanted():
                    if daemon.next_dial_ms.get(hotkey, 0) > daemon.time.ms:
                        continue
                    daemon.next_dial_ms[hotkey] = daemon.time.ms + DIAL_PAUSE_MS
                    other = numbers[hotkey]
                    if self.reaches(number, other) and other not in self.undialable:
                        self.dial(number, other)
                    else:
                        daemon.view.failed(hotkey)
            self.deliver()

    # -- what tests look at ------------------------------------------------------------------------------------------

    def parts(self) -> list[set[int]]:
        """The connected parts of the graph of links."""
        numbers = {name(number): number for number in self.daemons}
        left, parts = set(self.daemons), []
        while left:
            part, border = set(), [next(iter(left))]
            while border:
                number = border.pop()
                if number not in part:
                    part.add(number)
                    border += [numbers[hotkey] for hotkey in self.daemons[number].neighbours]
            left -= part
            parts.append(part)
        return parts

    def agree(self) -> bool:
        """Whether both ends of every session say the same of it."""
        return all(
            self.daemons[one].sessions[session].linked == self.daemons[other].sessions[session].linked
            and self.daemons[one].sessions[session].ours == self.daemons[other].sessions[session].theirs
            for session, (one, other) in self.ends.items()
        )

    def degrees(self) -> list[int]:
        return [len(daemon.neighbours) for daemon in self.daemons.values()]
