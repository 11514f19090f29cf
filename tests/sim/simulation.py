"""What every simulated network has, whoever writes its story: a seed, a clock, links, peers, and a chain."""

import random
from collections.abc import Collection
from typing import Final

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.network import Network as Parameters
from tests.sim.clock import START_MS, Clock
from tests.sim.network import Network
from tests.sim.peer import SimPeer
from tests.sim.trace import Trace
from tests.sim.verifiers import Truth

SLOT_MS: Final = 2_000
"""Length of a validator's turn at a claim; real verifiers need up to minutes."""


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
        self.network = Network(self.clock, self.rng, self.trace, self.faults)
        self.truth = Truth()
        self.slot_ms = SLOT_MS
        self.electorate: Electorate
        self.peers: list[SimPeer] = []

    def connect(self) -> None:
        """Dial between every pair of peers, for ever."""
        for index, one in enumerate(self.peers):
            for other in self.peers[index + 1 :]:
                self.network.keep(one, other)

    def committed(self, peer: SimPeer) -> None:
        """A peer has committed: whatever its readers may see, they may see now."""

    def close(self) -> None:
        """Close the peers' disks."""
        for peer in self.peers:
            peer.disk.close()
