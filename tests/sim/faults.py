"""What goes wrong in a run, and when: a list that is drawn ahead.

Every fault has its time, its length and a stream of randomness of its own, from which it draws its victims when it
strikes. So one can be left out without changing what the others draw, and a run that fails can be run again with fewer
and fewer of them, until only those are left that matter (``shrink``).

A kind is a function in ``KINDS``; it does its harm and returns what it touched and how to undo it.
"""

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.sim import byzantine
from tests.sim.liar import Liar
from tests.sim.network import Rule
from tests.sim.peer import SimPeer

if TYPE_CHECKING:
    from tests.sim.world import World

CALM_MS: Final = 4_000.0
"""Nothing goes wrong before: the peers open their logs and find each other."""

MOODS: Final = (0.0, 0.5, 1.0, 1.0, 2.0)
"""How often a kind strikes in one run, as a multiple of its rate, where several kinds may: in some runs not at all, so
that no kind always hides what another one shows."""


class Fault(NamedTuple):
    """One fault of a run.

    Attributes:
        kind: One of KINDS.
        at_ms: When it strikes, milliseconds from the start of the run.
        lasts_ms: How long.
        seed: From which its own randomness follows.
    """

    kind: str
    at_ms: int
    lasts_ms: int
    seed: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.at_ms / 1000:.1f} s for {self.lasts_ms / 1000:.1f} s"


class Struck(NamedTuple):
    """What a fault did.

    Attributes:
        text: For people.
        ends: Whom it touched, by index; None: everybody.
        undo: Ends it; None where nothing is to be undone.
    """

    text: str
    ends: frozenset[int] | None
    undo: Callable[[], None] | None = None


Strike = Callable[["World", Fault, random.Random], Struck | None]
"""Does the harm; None where it finds nobody to harm."""


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        every_ms: Shortest and longest time between two of them.
        lasts_ms: Shortest and longest time that one lasts.
        strike: What it does.
        byzantine: Whether it needs validators that lie.
    """

    every_ms: tuple[float, float]
    lasts_ms: tuple[float, float]
    strike: Strike
    byzantine: bool = False


def plan(kinds: Iterable[str], seed: str, minutes: float, known: Mapping[str, Kind] | None = None) -> list[Fault]:
    """Draw the faults of a run, in order of time.

    Args:
        kinds: Which may happen. A kind that is alone strikes at its own rate, of several each in its mood.
        seed: Of the run.
        minutes: Length of the run; no fault begins behind it.
        known: What each kind is; KINDS unless given.
    """
    known = KINDS if known is None else known
    chosen = sorted(set(kinds))
    faults: list[Fault] = []
    for name in chosen:
        kind, rng = known[name], random.Random(f"{seed} faults {name}")
        mood = rng.choice(MOODS) if len(chosen) > 1 else 1.0
        at_ms = CALM_MS
        while mood:
            at_ms += rng.uniform(*kind.every_ms) / mood
            lasts_ms = rng.uniform(*kind.lasts_ms)
            if at_ms >= minutes * 60_000:
                break
            faults.append(Fault(name, int(at_ms), int(lasts_ms), f"{seed} {name} {len(faults)}"))
    return sorted(faults, key=lambda fault: (fault.at_ms, fault.kind))


# -- links -----------------------------------------------------------------------------------------------------------


def _some(world: "World", rng: random.Random) -> frozenset[int]:
    """A few ends, or (empty) all."""
    if rng.random() < 0.5:
        return frozenset()
    indexes = [end.index for end in world.ends]
    return frozenset(rng.sample(indexes, rng.randint(1, max(1, len(indexes) // 3))))


def _rule(kind: str, shares: tuple[float, float], delay_ms: tuple[float, float] = (0.0, 0.0)) -> Strike:
    def strike(world: "World", fault: Fault, rng: random.Random) -> Struck:
        ends, share = _some(world, rng), rng.uniform(*shares)
        rule = Rule(kind, share, rng, ends=ends, delay_ms=delay_ms)
        world.network.impose(rule)
        return Struck(f"{share:.1%} at {_names(ends)}", ends or None, lambda: world.network.lift(rule))

    return strike


def _reset(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    numbers = world.network.numbers()
    if not numbers:
        return None
    chosen = rng.sample(numbers, rng.randint(1, min(5, len(numbers))))
    touched = {end.index for number in chosen for end in world.network.peers(number) or ()}
    for number in chosen:
        world.network.reset(number, "reset on the way")
    return Struck(_names(touched), frozenset(touched))


def _partition(world: "World", fault: Fault, rng: random.Random) -> Struck:
    sides = {end.index: rng.randrange(2) for end in world.ends}
    world.network.cut(fault, lambda one, other: sides.get(one) != sides.get(other))
    text = " ".join(f"p{index}:{side}" for index, side in sides.items())
    return Struck(text, None, lambda: world.network.mend(fault))


def _oneway(world: "World", fault: Fault, rng: random.Random) -> Struck:
    senders, receivers = _groups(world, rng)
    world.network.cut(fault, lambda one, other: one in senders and other in receivers)
    text = f"from {_names(senders)} to {_names(receivers)}"
    return Struck(text, senders | receivers, lambda: world.network.mend(fault))


def _flap(world: "World", fault: Fault, rng: random.Random) -> Struck:
    """A way that is cut and mended again and again."""
    ones, others = _groups(world, rng)
    over = False

    def blocked(one: int, other: int) -> bool:
        return (one in ones and other in others) or (other in ones and one in others)

    def turn(*, down: bool) -> None:
        if over:
            return
        if down:
            world.network.cut(fault, blocked)
        else:
            world.network.mend(fault)
        world.clock.after(rng.uniform(300, 5_000), lambda: turn(down=not down))

    def undo() -> None:
        nonlocal over
        over = True
        world.network.mend(fault)

    turn(down=True)
    return Struck(f"between {_names(ones)} and {_names(others)}", ones | others, undo)


def _groups(world: "World", rng: random.Random) -> tuple[frozenset[int], frozenset[int]]:
    indexes = [end.index for end in world.ends]
    rng.shuffle(indexes)
    cut = rng.randint(1, max(1, len(indexes) // 3))
    return frozenset(indexes[:cut]), frozenset(indexes[cut : cut + rng.randint(1, max(1, len(indexes) - cut))])


# -- peers -----------------------------------------------------------------------------------------------------------


def _victim(world: "World", rng: random.Random) -> SimPeer | None:
    """A peer that runs; nobody if the one that is drawn does not."""
    peer = rng.choice(world.peers)
    return peer if peer.up else None


def _crash(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    peer = _victim(world, rng)
    if peer is None or peer.disk_full:
        return None
    touched = {peer.index, *(held.other.index for held in peer.open.values())}
    world.stop(peer, silent=rng.random() < 0.5)
    return Struck(peer.name, frozenset(touched), lambda: world.start(peer))


def _restore(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """Back up a peer; at the end it starts from the backup, without being told (rule 4).

    Rule 4 protects a log of which a majority of the others can tell. So that many must hold it, and none of them may
    lose it again: a backup that is older than another peer's return to its own is not used.
    """
    peer = _victim(world, rng)
    if peer is None or not peer.reachable:
        return None
    backup, taken_ms, down_ms = peer.copy_disk(), world.clock.now_ms, rng.uniform(200, 10_000)

    def come_back() -> None:
        if peer.up and not peer.disk_full and taken_ms > world.restored_ms and world.majority_holds(peer):
            world.restored_ms = world.clock.now_ms
            world.touched(fault.kind, frozenset({peer.index}), down_ms)
            world.stop(peer, silent=rng.random() < 0.5)
            peer.restore(*backup)
            world.clock.after(down_ms, lambda: world.start(peer))

    return Struck(f"a backup of {peer.name}", frozenset(), come_back)


def _clock(low_ms: int, high_ms: int) -> Strike:
    def strike(world: "World", fault: Fault, rng: random.Random) -> Struck:
        peer, off_ms = rng.choice(world.peers), rng.randint(low_ms, high_ms) * rng.choice((-1, 1))
        peer.skew_ms += off_ms

        def undo() -> None:
            peer.skew_ms -= off_ms

        return Struck(f"{peer.name} by {off_ms / 1000:+.1f} s", frozenset({peer.index}), undo)

    return strike


def _slow(world: "World", fault: Fault, rng: random.Random) -> Struck:
    peer, speed, factor = rng.choice(world.peers), rng.uniform(3, 60), rng.uniform(5, 60)
    peer.slow_down(fault, speed, factor)
    text = f"{peer.name}: {speed:.0f} kB/s, commits of up to {peer.commit_ms[1] * factor / 1000:.1f} s"
    return Struck(text, frozenset({peer.index}), lambda: peer.speed_up(fault))


def _disk_full(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    peer = _victim(world, rng)
    if peer is None or peer.disk_full:
        return None
    peer.fill_disk()
    return Struck(peer.name, frozenset({peer.index}), peer.empty_disk)


# -- the chain -------------------------------------------------------------------------------------------------------


def _permit(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
    """A validator loses its permit from the next electorate on, for longer than the epoch of grace."""
    index = rng.randrange(len(world.stakes))
    if world.without_permit:
        return None
    world.without_permit.add(index)
    return Struck(f"p{index}", None, lambda: world.without_permit.discard(index))


def _late(world: "World", fault: Fault, rng: random.Random) -> Struck:
    """Some peers learn of electorates long after the others."""
    ends, late_ms = _some(world, rng), rng.uniform(5_000, 40_000)
    peers = [peer for peer in world.peers if not ends or peer.index in ends]
    for peer in peers:
        peer.news_ms += late_ms

    def undo() -> None:
        for peer in peers:
            peer.news_ms -= late_ms
            peer.later(0, peer.weigh)

    return Struck(f"{_names(ends)} by {late_ms / 1000:.1f} s", None, undo)


# -- liars -----------------------------------------------------------------------------------------------------------


def _deed(deed: byzantine.Deed) -> Strike:
    """What a liar does, one that is drawn. It explains nothing that is late: honest peers have each other."""

    def strike(world: "World", fault: Fault, rng: random.Random) -> Struck | None:
        liars = [peer for peer in world.peers if isinstance(peer, Liar)]
        liar = rng.choice(liars) if liars else None
        if liar is None or not liar.reachable:
            return None
        return Struck(f"{liar.name}: {deed(world, liar, rng, world.clock.now_ms + fault.lasts_ms)}", frozenset())

    return strike


def _names(indexes: Collection[int]) -> str:
    return " ".join(f"p{index}" for index in sorted(indexes)) or "all"


KINDS: Final[dict[str, Kind]] = {
    "loss": Kind((10_000, 40_000), (3_000, 20_000), _rule("loss", (0.005, 0.15))),
    "delay": Kind((10_000, 40_000), (3_000, 20_000), _rule("delay", (0.01, 0.2), (200, 3_000))),
    "duplicate": Kind((20_000, 60_000), (2_000, 10_000), _rule("duplicate", (0.001, 0.02))),
    "reorder": Kind((20_000, 60_000), (2_000, 10_000), _rule("reorder", (0.001, 0.02))),
    "reset": Kind((5_000, 30_000), (0, 0), _reset),
    "partition": Kind((20_000, 60_000), (3_000, 45_000), _partition),
    "oneway": Kind((20_000, 60_000), (3_000, 45_000), _oneway),
    "flap": Kind((20_000, 60_000), (5_000, 20_000), _flap),
    "crash": Kind((5_000, 25_000), (200, 15_000), _crash),
    "restore": Kind((10_000, 40_000), (5_000, 20_000), _restore),
    "skew": Kind((15_000, 60_000), (5_000, 30_000), _clock(1_000, 20_000)),
    "jump": Kind((20_000, 60_000), (5_000, 40_000), _clock(31_000, 200_000)),
    "slow": Kind((15_000, 60_000), (3_000, 20_000), _slow),
    "disk-full": Kind((15_000, 60_000), (1_000, 15_000), _disk_full),
    "permit": Kind((20_000, 60_000), (50_000, 70_000), _permit),
    "late-electorate": Kind((20_000, 60_000), (10_000, 30_000), _late),
    **{
        name: Kind((8_000, 40_000), (5_000, 40_000), _deed(deed), byzantine=True)
        for name, deed in byzantine.DEEDS.items()
    },
}
"""
loss, delay: segments are lost (which delays, TCP sends them again), frames come late.
duplicate, reorder: what the channel refuses: the session ends.
reset: some sessions break.
partition, oneway, flap: two sides cannot talk; one side cannot be heard by the other; a way comes and goes.
crash: a peer loses what it did not sync, and starts again after a while.
restore: a peer crashes and starts from an old backup, without being told (rule 4).
skew, jump: a wall clock goes wrong by less, or by more, than what rule 8 tolerates, and right again.
slow: a peer reads, writes and commits slowly.
disk-full: the disk takes no more for a while.
permit: a validator loses its permit for longer than the epoch of grace, and gets it back.
late-electorate: some peers learn of electorates much later than others.
fork, backdate, withhold, flip, replay, split, hostile: see ``byzantine``.
"""
