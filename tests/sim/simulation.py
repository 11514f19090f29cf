"""What every simulated network has, whoever writes its story: a seed, a clock, links, peers, and a chain."""

import random
from collections.abc import Collection, Sequence
from typing import Final

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Event
from p2pnodes.model.network import Network as Parameters
from tests.sim import atlas
from tests.sim.clock import START_MS, Clock
from tests.sim.crimes import Crimes
from tests.sim.guard import Guard
from tests.sim.network import Network
from tests.sim.peer import SimPeer, Speaker
from tests.sim.trace import Trace
from tests.sim.verifiers import Truth

SLOT_MS: Final = 2_000
"""Length of a validator's turn at a claim; real verifiers need up to minutes."""


BOOTSTRAP_PEERS: Final = 3
"""Peers whose addresses everybody knows at the start."""


class SimulationError(AssertionError):
    """A run failed; the message holds its log and the command that replays it."""


class Simulation:
    """The outside of a run's peers. ``World`` draws a story for them, ``Stage`` plays one that is written down."""

    def __init__(self, seed: int, *, parameters: Parameters, faults: Collection[str], echo: bool) -> None:
        """Begin without peers and without an electorate.

        Args:
            seed: Everything that is drawn follows from it.
            parameters: Of the inventory function.
            faults: Of the links, see ``network``.
            echo: Print the log as it grows.
        """
        self.seed = seed
        self.parameters = parameters
        self.start_s = START_MS // 1000
        self.faults = frozenset(faults)
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.trace = Trace(self.clock, echo=echo)
        self._regions: dict[int, int] = {}
        self.network: Network[Speaker] = Network(self.clock, str(seed), self.trace, self._one_way_ms)
        self.truth = Truth()
        self.guard = Guard()
        self.crimes = Crimes()
        self.slot_ms = SLOT_MS
        self.electorate: Electorate
        self.peers: list[SimPeer] = []
        self._ends: dict[str, Speaker] = {}

    @property
    def bootstrap(self) -> list[str]:
        """Addresses that every peer knows from its settings."""
        return [self.url(end.index) for end in self.ends[:BOOTSTRAP_PEERS]]

    @staticmethod
    def url(index: int) -> str:
        """Where a peer is."""
        return f"https://p{index}.example"

    def at(self, url: str) -> Speaker | None:
        """Who is there."""
        if url not in self._ends:
            self._ends = {self.url(end.index): end for end in self.ends}
        return self._ends.get(url)

    @property
    def ends(self) -> Sequence[Speaker]:
        """Everybody who may be dialled."""
        return self.peers

    def region(self, index: int) -> int:
        """Where on the map a peer is, as a place in ``atlas.REGIONS``."""
        found = self._regions.get(index)
        if found is None:
            drawn = random.Random(f"{self.seed} region {index}").randrange(len(atlas.REGIONS))
            found = self._regions[index] = drawn
        return found

    def _one_way_ms(self, one: int, other: int) -> float:
        return atlas.one_way_ms(self.region(one), self.region(other))

    def acknowledged(self, peer: SimPeer, events: Sequence[Event]) -> None:
        """Own events of a peer are durable, and may be answered and sent."""

    def delivered(self, peer: SimPeer, event: Event) -> None:
        """A peer has stored an event of another one."""

    def rivalled(self, peer: SimPeer, event: Event) -> None:
        """A peer was sent a signed event in whose place it holds another one."""
        self.crimes.rivalled(peer, event)

    def committed(self, peer: SimPeer) -> None:
        """A peer has committed: whatever its readers may see, they may see now."""
        self.guard.committed(peer)

    def close(self) -> None:
        """Close the peers' disks."""
        for peer in self.peers:
            peer.disk.close()
