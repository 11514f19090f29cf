"""One run: peers, network, miners, faults and the electorate, from one seed."""

from collections.abc import Collection
from contextlib import nullcontext
from typing import Final

from p2pnodes.model.electorate import Electorate
from tests.sim.bounds import open_door, tight_bounds
from tests.sim.check import agree, check
from tests.sim.faults import FAULTS, Faults
from tests.sim.peer import SimPeer
from tests.sim.signatures import seeded_signatures
from tests.sim.simulation import Simulation, SimulationError
from tests.sim.workload import Workload
from tests.support import BLOCK, NETWORK, electorate

PEERS_MAX: Final = 16
EPOCH_MS: Final = 20_000
"""Time between two electorates; the real one is 20 minutes, faults need to meet many."""

NEWS_MS: Final = 6_000.0
"""A peer learns of a new electorate within this time."""

HEALED_MS_MAX: Final = 180_000
"""How long a healed network may take to come to rest."""

REST_MS: Final = 12_000
"""How long nothing may change, and no check be due, before the network counts as at rest."""


class World(Simulation):
    """A run whose story is drawn: workload, faults and electorates."""

    def __init__(
        self,
        seed: int,
        *,
        peers: int = 4,
        minutes: float = 1.0,
        faults: Collection[str] = FAULTS,
        tight: bool = False,
        echo: bool = False,
    ) -> None:
        """Prepare a run.

        Args:
            seed: Everything that is drawn follows from it.
            peers: 2 to PEERS_MAX.
            minutes: Virtual time before the network heals.
            faults: Some of FAULTS.
            tight: Under the small limits of ``bounds``.
            echo: Print the log as it grows.
        """
        if not 2 <= peers <= PEERS_MAX:
            raise ValueError(f"{peers} peers: expected 2 to {PEERS_MAX}")
        super().__init__(seed, parameters=NETWORK, faults=faults, echo=echo)
        self.truth.everybody = True
        self.minutes = minutes
        self.tight = tight
        self._validators = [f"//validator{index}" for index in range(peers)]
        self._without_permit: str | None = None
        self._epochs = 0
        self.electorate = self._next_electorate(None)
        self.peers = [SimPeer(self, index) for index in range(peers)]
        self.workload = Workload(self)
        self._weather = Faults(self, self.faults)
        self.replay = (
            f"python -m tests.sim --peers {peers} --seed {seed} --minutes {minutes:g} "
            f"--faults {','.join(sorted(self.faults)) or 'none'}{' --tight' if tight else ''}"
        )

    def run(self) -> str:
        """Run to the end and check what must hold.

        Returns:
            The digest of the trace.

        Raises:
            SimulationError: Whatever went wrong.
        """
        try:
            with seeded_signatures(self.seed), open_door(), tight_bounds() if self.tight else nullcontext():
                self._run()
        except Exception as error:
            log = "\n".join(self.trace.lines)
            raise SimulationError(f"{log}\n\nseed {self.seed}: {error!r}\nreplay: {self.replay}") from error
        return self.trace.digest

    def _run(self) -> None:
        for peer in self.peers:
            peer.start()
        self.connect()
        self.workload.start()
        self._weather.start()
        self.clock.after(EPOCH_MS, self._epoch)
        self.clock.run_for(self.minutes * 60_000)
        self.trace("net", "heal")
        self.workload.end()
        self._without_permit = None
        self._weather.heal()
        if "permit" in self.faults:  # who lost its permit gets it back, in this epoch and in the one of grace
            self._epoch(last=True)
            self._epoch(last=True)
        self._rest()
        check(self)
        for row in self.peers[0].ledger.rows():
            owner = row.miner.hex()[:8]
            self.trace("all", "row", f"{row.uuid} {owner} {row.status} {row.created_hlc} {row.verified_since}")

    def _rest(self) -> None:
        """Wait until all agree and nothing changes any more."""
        deadline_ms = self.clock.now_ms + HEALED_MS_MAX
        unchanged_ms = 0
        events = -1
        while unchanged_ms < REST_MS:
            if self.clock.now_ms > deadline_ms:
                heads = {peer.name: peer.ledger.state.events for peer in self.peers}
                raise AssertionError(f"not at rest {HEALED_MS_MAX / 1000:g} s after healing; events: {heads}")
            self.clock.run_for(1_000)
            before, events = events, max(peer.ledger.state.events for peer in self.peers)
            busy = any(peer.checking or peer.carrying for peer in self.peers)
            still = agree(self.peers) and events == before and not busy
            unchanged_ms = unchanged_ms + 1_000 if still else 0
        self.trace("net", "at rest", f"{events} events, {self.peers[0].ledger.state.nodes} nodes")

    # -- the chain ---------------------------------------------------------------------------------------------------

    def _next_electorate(self, previous: Electorate | None) -> Electorate:
        stakes = {uri: 100 for uri in self._validators if uri != self._without_permit}
        block = BLOCK + 100 * self._epochs
        self._epochs += 1
        return electorate(block, int(self.clock.now_ms), stakes=stakes, previous=previous)

    def _epoch(self, *, last: bool = False) -> None:
        """Move the chain on; every peer hears of it a little later."""
        if "permit" in self.faults and not last and self._epochs % 2 == 0:
            self._without_permit = self.rng.choice((None, self.rng.choice(self._validators)))
        self.electorate = self._next_electorate(self.electorate)
        self.trace("net", "electorate", f"block {self.electorate.block}, no permit: {self._without_permit}")
        for peer in self.peers:
            peer.later(self.rng.uniform(0, NEWS_MS), peer.weigh)
        if not last:
            self.clock.after(EPOCH_MS, self._next_epoch)

    def _next_epoch(self) -> None:
        if self.network.healed:
            return
        self._epoch()
