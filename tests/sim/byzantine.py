"""What byzantine validators do. Each kind of deed is a kind of fault, and draws from the randomness of its own fault.

A liar is one of a minority: its votes decide nothing alone, what it writes is signed by its own keys only, and what it
keeps back the others have from each other. What must come of its deeds is in ``crimes``.
"""

import math
import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from p2pnodes.gossip.frames import Entry, Have, Mark, News, Vector, batches, log_tag, scope_of
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED, Event, Head, LogId
from p2pnodes.store.vector import slice_of
from tests.sim import lies
from tests.sim.liar import Face, Liar, Miser
from tests.sim.pen import Pen

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

STEPS: Final = (1, 6)
STEP_MS: Final = (200.0, 5_000.0)
"""How many steps a deed has that goes on for a while, and the pause between two of them."""

SCRIBBLED: Final = (2, 20)
"""How many events a log has before it is split or forked."""

GROUP_MAX: Final = 16
"""How many peers a liar tells of one thing: it dials those with whom it has no session."""

FOR_EVER: Final = 0.3
"""Share of the masks that are never taken off, also when all else has healed."""

Deed = Callable[["Simulation", Liar, random.Random, float], str]
"""Lets a liar that runs do something until a moment of virtual time; says what, for people."""


def fork(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Give different branches of one log to different peers: of the daemon's own, or of one beside it.

    The one beside it is forked once more, below the first fork.
    """
    hand, own = liar.hand(rng), liar.ledger.own_log
    if own is not None and rng.random() < 0.5:
        pen = _own(world, liar, own)
        shared = rng.choice((len(pen.events), rng.randint(1, len(pen.events))))
        groups = _groups(world, rng, rng.choice((2, 3)))[:-1]  # the last one sees what the daemon writes
    else:
        pen = lies.side_log(hand, age_ms=rng.choice((0, lies.DAY_MS)))
        lies.scribble(hand, pen, rng.randint(*SCRIBBLED))
        shared = rng.randint(1, len(pen.events))
        groups = _groups(world, rng, rng.choice((2, 3)))
        lower = rng.randint(1, shared)
        world.clock.after(rng.uniform(*STEP_MS), lambda: _fork_again(world, liar, rng, pen, lower))
    branches = lies.branches(hand, pen, shared, len(groups))
    shown = {index: branch.events for group, branch in zip(groups, branches, strict=True) for index in group}
    liar.wear(Face(pen.log, shown, _until(rng, until_ms), rest=pen.log == own))
    for group, branch in zip(groups, branches, strict=True):
        liar.tell(group, batches(branch.events[rng.choice((0, shared)) :]))
    if pen.log == own:
        _say_something(liar, rng)  # what the daemon writes next contradicts a branch that begins behind its head
    told = " | ".join(_names(group) for group in groups)
    return f"{'its own log' if pen.log == own else 'a log'} behind seq {shared - 1} for {told}"


def _fork_again(world: "Simulation", liar: Liar, rng: random.Random, pen: Pen, lower: int) -> None:
    """Tell somebody of one more branch, which parts from the others at or below where they part."""
    if liar.reachable and not world.network.healed:
        (branch,) = lies.branches(liar.hand(rng), pen, lower, 1)
        group = _groups(world, rng, 3)[0]
        world.trace(liar.name, "forks again", f"behind seq {lower - 1} for {_names(group)}")
        liar.wear(Face(pen.log, dict.fromkeys(group, branch.events), math.inf, rest=True))
        liar.tell(group, batches(branch.events))


def backdate(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Tell somebody of a log that is older than the network, and speaks from outside of its window."""
    pen, group = lies.backdated(liar.hand(rng)), _groups(world, rng, 2)[0]
    liar.wear(Face(pen.log, dict.fromkeys(group, pen.events), until_ms, rest=True))
    liar.tell(group, batches(pen.events))
    return f"{len(pen.events)} events, told to {_names(group)}"


def withhold(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Keep back what it holds, or boast of what it has not; and tell of a log of which it never shows all."""
    miser = Miser(rng, _until(rng, until_ms))
    liar.wear(miser)
    hand = liar.hand(rng)
    pen = lies.side_log(hand)
    lies.scribble(hand, pen, rng.randint(*SCRIBBLED))
    group, shown = _groups(world, rng, 2)[0], pen.events[: rng.randrange(len(pen.events))]
    liar.wear(Face(pen.log, dict.fromkeys(group, shown), math.inf, rest=True))
    entries = [Entry(pen.log, Head(pen.events[-1].seq, pen.events[-1].id), None)]
    if rng.random() < 0.5:  # and of an end of somebody's log that nobody has seen
        log = hand.log()
        entries = sorted([*entries, Entry(log, None, Mark(rng.randrange(9), None))])
    scope = scope_of(slice_of(entry.log) for entry in entries)
    have = Have([News(log_tag(pen.log), pen.events[-1].seq, 0)])
    liar.tell(group, [Vector(0, True, scope, entries).encode(), have.encode()])
    return f"{', '.join(sorted(miser.ways))}; {len(shown)} of {len(pen.events)} events for {_names(group)}"


def flip(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Vote again and again on the same claims, in its own log and in two others that contradict each other."""
    hand, group = liar.hand(rng), _groups(world, rng, 1)[0]
    pens = [lies.side_log(hand, age_ms=rng.choice((0, lies.DAY_MS))) for _ in range(2)]
    for pen in pens:
        liar.wear(Face(pen.log, dict.fromkeys(group, pen.events), until_ms, rest=True))

    def step() -> None:
        now, before = liar.hand(rng), [len(pen.events) for pen in pens]
        lies.flips(now, *pens)
        claim_id, finding = now.claim(), rng.choice((VERIFIED, FAILED, ABSTAIN))
        liar.say(lambda hlc: lies.verdict(claim_id, finding, rng.choice((0, hlc))))
        for pen, told in zip(pens, before, strict=True):
            liar.tell(group, batches(pen.events[0 if told == 1 else told :]))  # with its delegation at first

    return f"in {_steps(world, liar, rng, until_ms, step)} steps"


def replay(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Write miners' requests again, and requests that no miner signed."""
    hand, group = liar.hand(rng), _groups(world, rng, 2)[0]
    pen = lies.side_log(hand)
    forged = lies.replays(hand, pen)
    world.crimes.forged.claims.update(forged.claims)
    world.crimes.forged.deletes.update(forged.deletes)
    liar.wear(Face(pen.log, dict.fromkeys(group, pen.events), until_ms, rest=True))
    liar.tell(group, batches(pen.events))
    return f"{len(pen.events) - 1} events, told to {_names(group)}"


def split(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Let one half of the network alone see what it writes: in its own log, or in one beside it."""
    half, own = _groups(world, rng, 2, len(world.peers))[0], liar.ledger.own_log
    if own is not None and rng.random() < 0.5:
        seen = tuple(_own(world, liar, own).events)
        liar.wear(Face(own, dict.fromkeys(half, seen), _until(rng, until_ms), rest=True))
        count = _steps(world, liar, rng, until_ms, lambda: _say_something(liar, rng))
        return f"{count} events of its own log hidden from {_names(half)}"
    pen = lies.side_log(liar.hand(rng))
    liar.wear(Face(pen.log, dict.fromkeys(half, pen.events), _until(rng, until_ms), rest=False))

    def step() -> None:
        lies.scribble(liar.hand(rng), pen, rng.randint(1, 5))
        liar.tell(half, batches(pen.events))

    return f"a log in {_steps(world, liar, rng, until_ms, step)} steps for {_names(half)}"


def _say_something(liar: Liar, rng: random.Random) -> None:
    hand = liar.hand(rng)
    liar.say(lambda hlc: lies.word(hand, hlc))


def hostile(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float) -> str:
    """Attack peers in its sessions with them, one after the other."""

    def step() -> None:
        victims = [held.other.index for held in liar.open.values() if held.other.honest]
        if not victims:
            return
        victim, attack = rng.choice(victims), lies.attack(liar.hand(rng))
        session = liar.session_with(victim)
        assert session is not None
        world.trace(liar.name, "attacks", f"p{victim} with {attack.name}")
        world.crimes.attacks(session, attack)
        liar.tell([victim], attack.frames)

    return f"in {_steps(world, liar, rng, until_ms, step)} steps"


DEEDS: Final[dict[str, Deed]] = {
    "fork": fork,
    "backdate": backdate,
    "withhold": withhold,
    "flip": flip,
    "replay": replay,
    "split": split,
    "hostile": hostile,
}
"""What a byzantine validator may do, by name."""


def _own(world: "Simulation", liar: Liar, own: LogId) -> Pen:
    """The daemon's own log, to be written on behind its back."""
    wires = liar.ledger.read(own, 0, 1 << 30)
    return Pen(liar.node_key, world.parameters.id, own.number, [Event.decode(wire) for wire in wires])


def _groups(world: "Simulation", rng: random.Random, count: int, most: int = GROUP_MAX) -> list[list[int]]:
    """Honest peers, in so many groups of at most ``most``; none is empty where there are enough peers."""
    indexes = [peer.index for peer in world.peers if peer.honest]
    rng.shuffle(indexes)
    return [sorted(indexes[start::count][:most]) for start in range(count)]


def _until(rng: random.Random, until_ms: float) -> float:
    return math.inf if rng.random() < FOR_EVER else until_ms


def _steps(world: "Simulation", liar: Liar, rng: random.Random, until_ms: float, step: Callable[[], None]) -> int:
    """Take steps, the first one at once, each only if the liar runs; how many there will be."""
    count = rng.randint(*STEPS)

    def turn(left: int) -> None:
        if world.network.healed or world.clock.now_ms > until_ms:
            return
        if liar.reachable:
            step()
        if left:
            world.clock.after(rng.uniform(*STEP_MS), lambda: turn(left - 1))

    turn(count - 1)
    return count


def _names(indexes: Collection[int]) -> str:
    return " ".join(f"p{index}" for index in sorted(indexes)) or "nobody"
