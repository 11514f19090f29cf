"""Turns in a run's story that no kind of fault takes, for the mutants that only they bring to light.

A turn prepares a ``World`` before it runs: it arranges what happens, notes what that explains, and has looks at what
must hold then, which raise CheckFailedError. Turns pick their victims by index, so that every seed meets them.
"""

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from p2pnodes.gossip import rates
from p2pnodes.gossip.engine import Effect, Store
from p2pnodes.gossip.frames import Events, Have, Link, Mode, News, batches, decode, log_tag
from p2pnodes.model.events import Event, LogId
from tests.sim import lies
from tests.sim.liar import EVENTS, RANGE, Liar, Mask
from tests.sim.peer import CheckFailedError, SimPeer, Speaker
from tests.sim.pen import Pen

if TYPE_CHECKING:
    from tests.sim.world import World

Turn = Callable[["World"], None]

BEGIN_MS: Final = 20_000
"""When most turns come: everybody has found everybody."""

CRAWL: Final = 0.5
"""Bytes per millisecond on a line that is far too slow for what a run has to say."""

DISK_MS: Final = (5_000.0, 10_000.0)
"""A commit on a disk that is far too slow."""

STALE_MS: Final = (4_000, 15_000)
"""How old a backup is when it comes back."""

SLOW_START: Final = 1.0
"""Bytes per millisecond for a peer that has come back: what it hears first, it hears long before the rest."""

CUT_MS: Final = 75_000
"""How long the two halves of a network are apart: until every session between them has ended, and dials have failed."""

WHOLE_MS: Final = 60_000
"""How long after that the ring may be torn: dials wait up to 30 s for their turn."""

LINKS_FLOOD: Final = 2 * rates.LINKS.burst
"""Link frames in one moment."""

TAKEN_MS: Final = 5_000
"""After this a frame has arrived, and what follows from it is done."""

PROLIFIC: Final = 300
"""Events of one author that are pushed, WRITTEN at a time, with WRITE_MS between."""

WRITTEN: Final = 10
WRITE_MS: Final = 200

AUTHOR_RATE: Final = rates.Rate("events of one author", 40, 4)
"""What ``prolific_author`` allows one author instead of AUTHOR_EVENTS."""

LIVE_MAX: Final = 150
"""Of PROLIFIC events so many may go to the store as they were pushed: the burst, what a rate of 4 a second adds, and
what came before the store could count it."""

HOPS_MAX: Final = 5
"""Links between any two of 16 peers with views of 4, at most; a ring alone has 8."""

INTRODUCED_MS: Final = 4_000
"""After this long in a session, who has just come knows where all are whom the other end has met."""


def slow_line(world: "World") -> None:
    """Let one peer hear and speak at a crawl until the network heals."""
    world.network.slow(0, CRAWL)
    world.touched("slow line", frozenset({0}), world.minutes * 60_000)


def slow_disk(world: "World") -> None:
    """Let one peer's disk take seconds for every commit, until the network heals."""
    _slow_disk(world, world.peers[0], 0)
    world.touched("slow disk", frozenset({0}), world.minutes * 60_000)


def _slow_disk(world: "World", peer: SimPeer, at_ms: float) -> None:
    usual = peer.commit_ms

    def set_to(value: tuple[float, float]) -> None:
        peer.commit_ms = value

    world.clock.after(at_ms, partial(set_to, DISK_MS))
    world.clock.after(world.minutes * 60_000 - 1, partial(set_to, usual))


def backup_returns(world: "World") -> None:
    """Let one peer come back with an old disk again and again, on a slow line, while the others know better."""
    peer, rng = world.peers[0], random.Random(f"{world.seed} backup")
    world.touched("backup", frozenset({peer.index}), world.minutes * 60_000)

    def save() -> None:
        if world.network.healed:
            return
        if not peer.reachable or not world.majority_holds(peer):
            world.clock.after(100, save)
            return
        peer.save_backup()
        world.clock.after(rng.randint(*STALE_MS), come_back)

    def come_back() -> None:
        if world.network.healed:
            return
        if not peer.up or not world.majority_holds(peer):
            world.clock.after(100, come_back)
            return
        world.stop(peer, silent=False)
        peer.restore_backup()
        world.network.slow(peer.index, SLOW_START)
        world.clock.after(rng.randint(200, 2_000), partial(world.start, peer))
        world.clock.after(BEGIN_MS // 2, partial(world.network.slow, peer.index, None))
        world.clock.after(BEGIN_MS, save)

    world.clock.after(BEGIN_MS // 2, save)


def backup_meets_a_laggard(world: "World") -> None:
    """The same, where one of the others knows no better, because its disk is slow."""
    _slow_disk(world, world.peers[1], BEGIN_MS // 2)
    world.touched("slow disk", frozenset({1}), world.minutes * 60_000)
    backup_returns(world)


def long_cut(world: "World") -> None:
    """Let the halves of the network be apart for so long that each holds the other for gone: the ring must heal."""

    def look() -> None:
        ring = sorted(world.peers, key=lambda peer: peer.node_key.public_key)
        for one, other in zip(ring, [*ring[1:], *ring[:1]], strict=True):
            if other.index not in _links(one):
                found = f"{one.name} and {other.name}, neighbours on the ring, have no link"
                raise CheckFailedError(f"{found} {WHOLE_MS // 1000} s after they could have one again")

    def begin() -> None:
        world.network.cut("halves", lambda one, other: one % 2 != other % 2)
        world.touched("long cut", None, CUT_MS)
        world.clock.after(CUT_MS, partial(world.network.mend, "halves"))
        world.clock.after(CUT_MS + WHOLE_MS, look)

    world.clock.after(BEGIN_MS // 2, begin)


def short_ways(world: "World") -> None:
    """Measure the ways over links, again and again: none may be long once the peers have found each other."""

    def look() -> None:
        if world.network.healed:
            return
        if (hops := _hops(world)) is None or hops > HOPS_MAX:
            raise CheckFailedError(
                f"the longest way between two peers has {hops} links: at most {HOPS_MAX} may it have"
            )
        world.clock.after(5_000, look)

    world.clock.after(2 * BEGIN_MS, look)


def _hops(world: "World") -> int | None:
    """Links on the longest of the shortest ways between any two peers; None when there is none between some."""
    links = {peer.index: _links(peer) for peer in world.peers}
    longest = 0
    for start in links:
        far, reached = {start: 0}, deque([start])
        while reached:
            here = reached.popleft()
            for there in links[here]:
                if there not in far:
                    far[there] = far[here] + 1
                    reached.append(there)
        if len(far) < len(links):
            return None
        longest = max(longest, *far.values())
    return longest


def _links(peer: SimPeer) -> list[int]:
    """With whom a peer has links, by index."""
    return [peer.open[session.id].other.index for session in peer.engine._sessions.values() if session.linked]


class _Announcer(Mask):
    """Announces at once what its daemon would push, and serves nothing of it."""

    def sends(self, other: Speaker, kind: int, frame: bytes) -> bytes | None:
        """See ``Mask``."""
        if kind == RANGE:
            return None
        decoded = decode(frame) if kind == EVENTS else None
        if not isinstance(decoded, Events):
            return frame
        events = [Event.decode(wire) for wire in decoded.wires]
        heads = {event.log: event.seq for event in events}
        return Have([News(log_tag(log), seq, 0) for log, seq in heads.items()]).encode()


def announcers(world: "World") -> None:
    """Let every liar become one that announces first and serves nothing, as soon as it is on the tree."""
    for number, liar in enumerate(_liars(world)):
        at_ms = BEGIN_MS + 5_000 * number
        world.clock.after(at_ms, partial(liar.wear, _Announcer(math.inf)))


def flooded_with_links(world: "World") -> None:
    """Let a liar send more link frames than anybody has a use for: its session must end."""
    liar = _liars(world)[0]

    def flood() -> None:
        victims = [peer for peer in world.honest if liar.session_with(peer.index) is not None]
        if not victims:
            world.clock.after(1_000, flood)
            return
        victim = victims[0]
        session = liar.session_with(victim.index)
        liar.tell([victim.index], [Link(Mode.NEWS).encode()] * LINKS_FLOOD)

        def look() -> None:
            if session in victim.open:
                raise CheckFailedError(f"{victim.name} goes on with {liar.name} after {LINKS_FLOOD} links (rule 6)")

        world.clock.after(TAKEN_MS, look)

    world.clock.after(BEGIN_MS, flood)


def prolific_author(world: "World") -> None:
    """Let a liar push events of its own faster than an author may: not all of them go to the store as they come."""
    liar, rng = _liars(world)[0], random.Random(f"{world.seed} prolific")
    live: Counter[int] = Counter()
    victims = [peer for peer in world.honest if peer.index < 3]

    def begin() -> None:
        pen = lies.side_log(liar.hand(rng))
        for peer in victims:
            _watch_stores(peer, lambda peer, events: live.update({peer.index: _of(pen.log, events)}))
        write(pen, 0)

    def write(pen: Pen, told: int) -> None:
        if told > PROLIFIC:
            world.clock.after(TAKEN_MS, look)
            return
        lies.scribble(liar.hand(rng), pen, WRITTEN)
        liar.tell([peer.index for peer in victims], batches(pen.events[told:]))
        world.clock.after(WRITE_MS, partial(write, pen, len(pen.events)))

    def look() -> None:
        for peer in victims:
            if live[peer.index] > LIVE_MAX:
                found = f"{live[peer.index]} of {PROLIFIC} events of one author to its store as they were pushed"
                raise CheckFailedError(f"{peer.name} gave {found}: at most {LIVE_MAX} are expected (rule 6)")

    world.clock.after(BEGIN_MS, begin)


def _of(log: LogId, events: Sequence[Event]) -> int:
    return sum(event.log == log for event in events)


def _watch_stores(peer: SimPeer, watch: Callable[[SimPeer, Sequence[Event]], object]) -> None:
    """Be told of what a peer gives its store without having wanted it."""
    do = peer.do

    def watched(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Store) and _was_pushed(peer, effect):
                watch(peer, effect.events)
        do(effects)

    peer.do = watched  # type: ignore[method-assign]


def _was_pushed(peer: SimPeer, effect: Store) -> bool:
    held = peer.engine._sessions.get(effect.session)
    return held is not None and any(batch.events is effect.events and not batch.fetched for batch in held.storing)


def newcomer(world: "World") -> None:
    """Let one peer start late, on a slow disk: it must know where the others are before it has their logs."""
    peer = world.peers[-1]
    start, opened = peer.start, peer.opened
    world.touched("newcomer", frozenset({peer.index}), world.minutes * 60_000)

    def later() -> None:
        peer.start = start  # type: ignore[method-assign]
        _slow_disk(world, peer, BEGIN_MS)
        world.clock.after(BEGIN_MS + 1, start)

    def first_session(session: int, other: Speaker) -> None:
        peer.opened = opened  # type: ignore[method-assign]
        opened(session, other)
        world.clock.after(INTRODUCED_MS, look)

    def look() -> None:
        known = {*peer.engine.addresses(), *peer.ledger.facts.urls(), peer.hotkey.public_key}
        if unknown := [each.name for each in world.honest if each.hotkey.public_key not in known]:
            found = f"{peer.name} does not know where {', '.join(unknown)} are"
            raise CheckFailedError(f"{found}, {INTRODUCED_MS // 1000} s after its first session")

    peer.start, peer.opened = later, first_session  # type: ignore[method-assign]


def _liars(world: "World") -> list[Liar]:
    return [peer for peer in world.peers if isinstance(peer, Liar)]
