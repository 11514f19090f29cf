"""What goes wrong in a run, and when."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tests.sim.peer import SimPeer

if TYPE_CHECKING:
    from tests.sim.world import World

FAULTS: Final = ("loss", "delay", "partition", "crash", "restore", "permit")
"""
loss, delay: see ``network``.
partition: the peers fall apart into two sides for a while.
crash: a peer loses what it did not sync, and starts again after a while.
restore: a peer crashes and starts from an old backup, without being told (rule 4).
permit: a validator loses its permit for longer than the epoch of grace, and gets it back.
"""

PARTITION_EVERY_MS: Final = (15_000.0, 40_000.0)
PARTITION_MS: Final = (3_000.0, 25_000.0)
CRASH_EVERY_MS: Final = (5_000.0, 25_000.0)
DOWN_MS: Final = (200.0, 15_000.0)
RESTORE_EVERY_MS: Final = (5_000.0, 20_000.0)


class Faults:
    """Draws faults until it is told to heal."""

    def __init__(self, world: "World", faults: frozenset[str]) -> None:
        self._world = world
        self._faults = faults
        self._healed = False

    def start(self) -> None:
        """Let the kinds that were asked for happen again and again."""
        self._repeat("partition", PARTITION_EVERY_MS, self._part)
        self._repeat("crash", CRASH_EVERY_MS, lambda: self._crash(self._victim()))
        self._repeat("restore", RESTORE_EVERY_MS, self._restore)

    def heal(self) -> None:
        """No new faults; who is down comes back at once."""
        self._healed = True
        self._world.network.heal()
        for peer in self._world.peers:
            if not peer.up:
                peer.start()

    def _repeat(self, fault: str, every_ms: tuple[float, float], strike: Callable[[], None]) -> None:
        if fault not in self._faults:
            return
        rng, clock = self._world.rng, self._world.clock

        def turn() -> None:
            if not self._healed:
                strike()
                clock.after(rng.uniform(*every_ms), turn)

        clock.after(rng.uniform(*every_ms), turn)

    def _part(self) -> None:
        world = self._world
        sides = {peer.index: world.rng.randrange(2) for peer in world.peers}
        world.trace("net", "partition", " ".join(f"p{index}:{side}" for index, side in sides.items()))
        world.network.part(sides)
        world.clock.after(world.rng.uniform(*PARTITION_MS), self._join)

    def _join(self) -> None:
        if self._healed:
            return
        self._world.trace("net", "joined")
        self._world.network.part({})

    def _victim(self) -> SimPeer:
        return self._world.rng.choice(self._world.peers)

    def _crash(self, peer: SimPeer) -> None:
        if not peer.up:
            return
        world = self._world
        peer.crash()
        world.network.crashed(peer)
        world.clock.after(world.rng.uniform(*DOWN_MS), lambda: None if peer.up else peer.start())

    def _restore(self) -> None:
        """Back up a peer, or bring one back to its backup.

        Rule 4 protects a log of which a majority of the others can tell. So that many must hold it, and none of them
        may lose it again: backups of other peers that are older than this moment are not used any more.
        """
        peer = self._victim()
        if peer.backup is None:
            if peer.reachable:
                peer.save_backup()
        elif peer.up and self._majority_holds(peer):
            for other in self._world.peers:
                if other is not peer:
                    other.backup = None
            self._crash(peer)
            peer.restore_backup()

    def _majority_holds(self, peer: SimPeer) -> bool:
        own = peer.ledger.own_log
        if own is None:
            return False
        head = peer.ledger.state.logs[own].head
        others = [other for other in self._world.peers if other is not peer]
        return 2 * sum(other.holds(own, head) for other in others) > len(others)
