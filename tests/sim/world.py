"""One run: peers, network, miners, faults and the electorate, from one seed."""

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.ledger import OWN_LOG, Ledger
from p2pnodes.store.schema import open_writer
from tests.sim.bounds import open_door, tight_bounds
from tests.sim.check import Deliveries, agree, check, within_bounds
from tests.sim.faults import KINDS, Fault, plan
from tests.sim.horizons import EPOCH_MS as PASSING_MS
from tests.sim.horizons import HORIZON_S, LONG, TTL_S, LyingValidator, Validator, shorter
from tests.sim.horizons import check as check_behind
from tests.sim.liar import Liar
from tests.sim.memo import memoised
from tests.sim.peer import SimPeer
from tests.sim.signatures import seeded_signatures
from tests.sim.simulation import Simulation, SimulationError
from tests.sim.workload import Workload
from tests.support import BLOCK, MINERS, NETWORK, electorate, hotkey

FAULTS: Final[tuple[str, ...]] = tuple(KINDS)
"""Names of all kinds of faults."""

PEERS_MAX: Final = 256
EPOCH_MS: Final = 20_000
"""Time between two electorates; the real one is 20 minutes, faults need to meet many."""

PASSING: Final = NETWORK.model_copy(update={"horizon_s": HORIZON_S, "verdict_ttl_s": TTL_S})
"""Of worlds in which horizons pass."""

NEWS_MS: Final = 6_000.0
"""A peer learns of a new electorate within this time."""

START_WITHIN_MS: Final = 2_000.0
"""The peers start within this time."""

SAMPLE_MS: Final = 1_000
"""How often queues are measured and deliveries looked at."""

HEALED_MS_MAX: Final = 240_000
"""How long a healed network may take to come to rest."""

REST_MS: Final = 12_000
"""How long nothing may change before the network counts as at rest, if no check is due then."""

STAKE: Final = 1_000_000
STEEPNESS: Final = (0.0, 0.5, 1.0)
"""Stakes fall with the validators' ranks by one of these powers: alike, or few who have most, as on chain."""

CROWD: Final = 32
"""With more peers than this the stakes are always steep, else a thousand verdicts decided each claim; and all are
enrolled at the start."""

ENROLLED_MS: Final = 3_600_000
"""How long ago the validators of a crowd were enrolled."""

LIARS_SHARE: Final = 6
"""One peer in so many lies, if any shall; never so many that they hold LIARS_STAKE_MAX of the stake."""

LIARS_STAKE_MAX: Final = 0.25
PEERS_WITH_LIARS_MIN: Final = 4


class Spec(NamedTuple):
    """What a run is made from: equal ones are equal runs, byte for byte.

    Attributes:
        seed: Everything that is drawn follows from it.
        peers: 2 to PEERS_MAX.
        minutes: Virtual time before the network heals.
        faults: Some of FAULTS.
        tight: Whether under the small limits of ``bounds``.
        only: Numbers of the faults that strike, as places in the list that is drawn; None: all.
        horizons: Whether horizons pass in it, see there; its faults are some of ``horizons.LONG``.
    """

    seed: int
    peers: int = 4
    minutes: float = 1.0
    faults: tuple[str, ...] = FAULTS
    tight: bool = False
    only: tuple[int, ...] | None = None
    horizons: bool = False

    @property
    def command(self) -> str:
        """What repeats the run."""
        every = LONG if self.horizons else FAULTS
        faults = "all" if set(self.faults) == set(every) else ",".join(sorted(self.faults)) or "none"
        command = f"python -m tests.sim --peers {self.peers} --seed {self.seed} --minutes {self.minutes:g}"
        command += f" --faults {faults}{' --tight' if self.tight else ''}{' --horizons' if self.horizons else ''}"
        if self.only is not None:
            command += f" --only {','.join(map(str, self.only)) or 'none'}"
        return command


class Incident(NamedTuple):
    """A fault that struck.

    Attributes:
        kind: Of the fault.
        from_ms: When it began, in the clock's time.
        until_ms: When it was over; infinite while it lasts.
        ends: Whom it touched; None: everybody.
    """

    kind: str
    from_ms: float
    until_ms: float
    ends: frozenset[int] | None


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
        only: Collection[int] | None = None,
        horizons: bool = False,
        echo: bool = False,
    ) -> None:
        """Prepare a run; for the arguments see ``Spec``. With ``echo`` the log is printed as it grows."""
        if not 2 <= peers <= PEERS_MAX:
            raise ValueError(f"{peers} peers: expected 2 to {PEERS_MAX}")
        super().__init__(seed, parameters=PASSING if horizons else NETWORK, faults=faults, echo=echo)
        self.spec = Spec(
            seed,
            peers,
            minutes,
            tuple(sorted(self.faults)),
            tight,
            None if only is None else tuple(sorted(only)),
            horizons,
        )
        self._kinds = LONG if horizons else KINDS
        self._epoch_ms = PASSING_MS if horizons else EPOCH_MS
        self.minutes = minutes
        self.truth.everybody = True
        drawn = random.Random(f"{seed} world")
        self.stakes = [STAKE] * peers if horizons else _stakes(peers, drawn)
        self.without_permit: set[int] = set()
        """Validators that lose their permit with the next electorate."""
        self.gone: set[str] = set()
        """Miners that leave the chain with the next electorate."""
        self.left: set[bytes] = set()
        """Public keys of those that ever did."""
        self._registered = dict.fromkeys(MINERS, 0)
        self._epochs = 0
        before = self._next_electorate(None, int(self.clock.now_ms) - self._epoch_ms)
        self.electorate = self._next_electorate(before, int(self.clock.now_ms))
        liars = self._draw_liars(drawn)
        honest, lying = (Validator, LyingValidator) if horizons else (SimPeer, Liar)
        self.peers = [(lying if index in liars else honest)(self, index) for index in range(peers)]
        if peers > CROWD:
            self._enrol_all()
        self.workload = Workload(self)
        self.plan = plan(self.faults, str(seed), minutes, self._kinds)
        """Every fault that is drawn, also those that ``only`` leaves out."""
        self.incidents: list[Incident] = []
        self.gaps = 0
        """The most numbers that came to nothing between two checkpoints in force."""
        self._final = 0
        """The highest number in force anywhere."""
        self.restored_ms = 0.0
        """When the last peer went back to a backup."""
        self._undo: dict[int, Callable[[], None]] = {}
        self.deliveries = Deliveries(self)
        self.replay = self.spec.command

    @classmethod
    def of(cls, spec: Spec, *, echo: bool = False) -> "World":
        """The world of a spec."""
        return cls(
            spec.seed,
            peers=spec.peers,
            minutes=spec.minutes,
            faults=spec.faults,
            tight=spec.tight,
            only=spec.only,
            horizons=spec.horizons,
            echo=echo,
        )

    def _draw_liars(self, rng: random.Random) -> set[int]:
        count = len(self.stakes)
        if count < PEERS_WITH_LIARS_MIN or not any(self._kinds[kind].byzantine for kind in self.faults):
            return set()
        liars: set[int] = set()
        for index in rng.sample(range(count), count):
            held = sum(self.stakes[liar] for liar in {*liars, index})
            if len(liars) < max(1, count // LIARS_SHARE) and held <= LIARS_STAKE_MAX * sum(self.stakes):
                liars.add(index)
        return liars

    def _enrol_all(self) -> None:
        """Let everybody be enrolled already, and hold all delegations: how a crowd meets is a long story of its own."""
        disk = open_writer(":memory:")
        ledger = Ledger(disk, self.parameters)
        with ledger.transaction():
            ledger.set_electorate(self.electorate)
        own: list[LogId] = []
        for peer in self.peers:
            own.append(peer.enrol(ENROLLED_MS))
            wires = [wire for (wire,) in peer.disk.execute("SELECT wire FROM events ORDER BY seq")]
            with ledger.transaction():
                ledger.receive([Event.decode(wire) for wire in wires], int(self.clock.now_ms))
        for peer, log in zip(self.peers, own, strict=True):
            disk.backup(peer.disk)
            copy = Ledger(peer.disk, self.parameters, peer.node_key)
            with copy.transaction():
                copy._set_meta(OWN_LOG, codec.pack([*log]))
        disk.close()

    @property
    def honest(self) -> list[SimPeer]:
        """The peers that do not lie."""
        return [peer for peer in self.peers if peer.honest]

    def run(self) -> str:
        """Run to the end and check what must hold.

        Returns:
            The digest of the trace.

        Raises:
            SimulationError: Whatever went wrong.
        """
        try:
            with ExitStack() as stack:
                stack.enter_context(seeded_signatures(self.seed))
                stack.enter_context(memoised())
                stack.enter_context(open_door())
                if self.spec.horizons:
                    stack.enter_context(shorter())
                if self.spec.tight:
                    stack.enter_context(tight_bounds())
                self._run()
        except Exception as error:
            raise SimulationError(self._report(error)) from error
        return self.trace.digest

    def _report(self, error: Exception) -> str:
        log = "\n".join(self.trace.lines)
        return f"{log}\n\nseed {self.seed}: {error!r}\nreplay: {self.replay}"

    def _run(self) -> None:
        for peer in self.peers:
            self.clock.after(peer.rng.uniform(0, START_WITHIN_MS), peer.start)
        self.workload.start()
        for number, fault in enumerate(self.plan):
            if self.spec.only is None or number in self.spec.only:
                self.clock.after(fault.at_ms, partial(self._strike, number, fault))
        self.clock.after(self._epoch_ms, self._epoch)
        self.clock.after(SAMPLE_MS, self._sample)
        self.clock.run_for(self.minutes * 60_000)
        self._heal()
        self._rest()
        (check_behind if self.spec.horizons else check)(self)
        for row in self.peers[0].ledger.rows():
            owner = row.miner.hex()[:8]
            self.trace("all", "row", f"{row.uuid} {owner} {row.status} {row.created_hlc} {row.verified_since}")

    # -- faults ------------------------------------------------------------------------------------------------------

    def _strike(self, number: int, fault: Fault) -> None:
        struck = self._kinds[fault.kind].strike(self, fault, random.Random(fault.seed))
        if struck is None:
            self.trace("net", "fault", f"{number} {fault.kind} finds nobody")
            return
        self.trace("net", "fault", f"{number} {fault.kind} for {fault.lasts_ms / 1000:.1f} s: {struck.text}")
        self.touched(fault.kind, struck.ends, fault.lasts_ms)
        if struck.undo is not None:
            self._undo[number] = struck.undo
            self.clock.after(fault.lasts_ms, partial(self._end_fault, number, fault))

    def _end_fault(self, number: int, fault: Fault) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            self.trace("net", "over", f"{number} {fault.kind}")
            undo()

    def touched(self, kind: str, ends: frozenset[int] | None, lasts_ms: float) -> None:
        """Note that a fault harms some ends, from now on for so long; None: everybody."""
        self.incidents.append(Incident(kind, self.clock.now_ms, self.clock.now_ms + lasts_ms, ends))

    def stop(self, peer: SimPeer, *, silent: bool) -> None:
        """Let a peer crash; with ``silent`` its host goes, too, and nobody is told."""
        peer.crash()
        self.network.crashed(peer, silent=silent)

    def start(self, peer: SimPeer) -> None:
        """Start a peer that is down."""
        if not peer.up:
            peer.start()

    def majority_holds(self, peer: SimPeer) -> bool:
        """Whether the others that hold a peer's own log up to its head have more than half of their stake."""
        own = peer.ledger.own_log
        if own is None:
            return False
        head = peer.ledger.state.logs[own].head
        others = [other for other in self.honest if other is not peer]
        held = sum(self.stakes[other.index] for other in others if other.holds(own, head))
        return 2 * held > sum(self.stakes) - self.stakes[peer.index]

    def _heal(self) -> None:
        """No new faults; those that last end, and who is down comes back at once."""
        self.trace("net", "heal")
        self.workload.end()
        for number in sorted(self._undo):
            self._end_fault(number, self.plan[number])
        self.network.heal()
        self.touched("heal", None, 0)
        for peer in self.peers:
            self.start(peer)
        if self.without_permit or "permit" in self.faults:
            # who lost its permit gets it back, in this epoch and in the one of grace
            self.without_permit.clear()
            self._epoch(last=True)
            self._epoch(last=True)
        if self.spec.horizons:  # what is on its way then is put in force
            for number in (1, 2):
                self.clock.after(number * self._epoch_ms, partial(self._epoch, last=True))

    def _rest(self) -> None:
        """Wait until all agree and nothing changes any more."""
        deadline_ms = self.clock.now_ms + HEALED_MS_MAX
        unchanged_ms = 0
        events = -1
        while unchanged_ms < REST_MS:
            if self.clock.now_ms > deadline_ms:
                heads = {peer.name: peer.ledger.state.events for peer in self.honest}
                raise AssertionError(f"not at rest {HEALED_MS_MAX / 1000:g} s after healing; events: {heads}")
            self.clock.run_for(1_000)
            before, events = events, max(peer.ledger.state.events for peer in self.honest)
            unchanged_ms = unchanged_ms + 1_000 if agree(self.honest) and events == before else 0
            if unchanged_ms >= REST_MS and any(peer.carrying or peer.checking for peer in self.honest):
                unchanged_ms = REST_MS // 2
        self.trace("net", "at rest", f"{events} events, {self.honest[0].ledger.state.nodes} nodes")

    # -- what is watched ---------------------------------------------------------------------------------------------

    def acknowledged(self, peer: SimPeer, events: Sequence[Event]) -> None:
        """Expect everywhere what an honest peer has acknowledged."""
        self.deliveries.acknowledged(peer, events)

    def committed(self, peer: SimPeer) -> None:
        """Look at what a commit left, and count the checkpoints that came to nothing."""
        super().committed(peer)
        number = peer.ledger.checkpoints.line.number
        if number > self._final:
            self.gaps = max(self.gaps, number - self._final - 1) if self._final else 0
            self._final = number

    def delivered(self, peer: SimPeer, event: Event) -> None:
        """Take note that it has arrived."""
        self.deliveries.delivered(peer, event)

    def _sample(self) -> None:
        for peer in self.honest:
            if peer.up:
                within_bounds(peer)
        if not self.spec.horizons:  # what lies behind a horizon comes no more
            self.deliveries.look()
        self.clock.after(SAMPLE_MS, self._sample)

    # -- the chain ---------------------------------------------------------------------------------------------------

    def _next_electorate(self, previous: Electorate | None, time_ms: int) -> Electorate:
        stakes = {
            f"//validator{index}": stake for index, stake in enumerate(self.stakes) if index not in self.without_permit
        }
        block = BLOCK + 100 * self._epochs
        self._epochs += 1
        for miner in MINERS:
            if miner in self.gone:
                self._registered.pop(miner, None)
            else:
                self._registered.setdefault(miner, block)
        found = electorate(block, time_ms, stakes=stakes, previous=previous).current
        miners = {hotkey(miner).public_key: since for miner, since in self._registered.items()}
        registered = {key: since for key, since in found.registered.items() if key in found.validators} | miners
        return Electorate(found._replace(registered=registered), previous.current if previous else None)

    def _epoch(self, *, last: bool = False) -> None:
        """Move the chain on; every peer hears of it a little later."""
        self.electorate = self._next_electorate(self.electorate, int(self.clock.now_ms))
        missing = " ".join(f"p{index}" for index in sorted(self.without_permit)) or "nobody"
        self.trace("net", "electorate", f"block {self.electorate.block}, no permit: {missing}")
        for peer in self.peers:
            peer.later(peer.news_ms + peer.rng.uniform(0, NEWS_MS), peer.weigh)
        if not last:
            self.clock.after(self._epoch_ms, self._next_epoch)

    def _next_epoch(self) -> None:
        if not self.network.healed:
            self._epoch()


def _stakes(count: int, rng: random.Random) -> list[int]:
    """The validators' stakes, by index: they fall with ranks that are drawn."""
    steepness = STEEPNESS[-1] if count > CROWD else rng.choice(STEEPNESS)
    ranks = rng.sample(range(count), count)
    return [int(STAKE / (1 + rank) ** steepness) for rank in ranks]
