"""A stage: a few validators, miners and GPUs whose truth is known, on which a scenario plays.

A scenario says what happens (``post``, ``part``, ``epoch`` ...), lets time pass, ends with ``settle``, and then says
how every peer must see it (``owns``, ``task``). What must hold whatever happened is checked by ``outcome``.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.errors import P2PNodesError, WritesRefusedError
from p2pnodes.model.events import VERIFIED, Event
from p2pnodes.model.inventory import Chute, Row, TaskStatus
from p2pnodes.model.keys import Hotkey
from p2pnodes.model.network import Network as Parameters
from p2pnodes.model.requests import PURPOSE_DELETE, Add, Delete, bound_purpose, request_id, sign_add, sign_delete
from p2pnodes.store.admission import ConflictError
from p2pnodes.store.facts import StoredClaim
from tests.sim import outcome
from tests.sim.check import agree
from tests.sim.liar import Liar
from tests.sim.network import Rule
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.simulation import SLOT_MS, Simulation
from tests.sim.verifiers import NOT_THERE, honest
from tests.support import BLOCK, MINERS, body, hotkey

TTL_S: Final = 120
"""Life of a verdict on a stage: short, so that verdicts lapse while one looks on."""

PARAMETERS: Final = Parameters(genesis_hash="0" * 64, netuid=64, verdict_ttl_s=TTL_S)

EPOCH_MS: Final = 20_000
NEWS_MS: Final = 4_000.0
"""A peer learns of a new electorate within this time."""

OLD_MS: Final = 2 * TTL_S * 1000
"""Age of the validators where W counts also those who have not voted (design.md, "Tally of a claim")."""

FAULT_SHARE: Final = 0.3
"""Share of the seeds whose connections lose segments; as many have some with spikes."""

STRIKE_SHARE: Final = 0.01
SPIKE_MS: Final = (500.0, 3_000.0)
"""How many segments, or frames, are hit, and how long a spike is."""

SLOW_MS: Final = (4_000.0, 12_000.0)
SLOW_SHARE: Final = 0.15
"""How long slow validators look at a claim, for turns on end, and how many are slow."""

STEP_MS: Final = 500
"""How often a condition is looked at."""

TRIES_MAX: Final = 30
"""How often a miner repeats a request that is answered 503, a second after the answer."""

READY_MS_MAX: Final = 60_000
SETTLED_MS_MAX: Final = 300_000
"""How long a healed network may take to come to rest: some rounds of the validators' turns."""

REST_MS: Final = 2_500
"""How long nothing may change, and no check be due, before the network counts as at rest."""


class Posted(NamedTuple):
    """A registration that a miner posted, and what the peer answered (nothing yet: an empty list).

    ``answers`` holds a ``StoredClaim``, or the error with which it was refused.
    """

    request: Add
    claim_id: bytes
    miner: str
    uuids: tuple[str, ...]
    answers: list[StoredClaim | P2PNodesError]

    @property
    def stamp(self) -> tuple[int, bytes]:
        """What orders claims."""
        return int(self.request.nonce), self.claim_id

    @property
    def accepted(self) -> bool:
        """Whether a peer took it (or found the claim that it repeats)."""
        return any(isinstance(answer, StoredClaim) for answer in self.answers)


class Stage(Simulation):
    """Everything of one scenario's run."""

    def __init__(self, seed: int, *, echo: bool = False) -> None:
        """Prepare a stage; ``open`` raises the curtain."""
        drawn = random.Random(f"stage {seed}")
        faults = [fault for fault in ("loss", "delay") if drawn.random() < FAULT_SHARE]
        super().__init__(seed, parameters=PARAMETERS, faults=faults, echo=echo)
        self.slot_ms = drawn.choice((0, SLOT_MS))
        self.stakes: dict[str, int] = {}
        """Validators with a permit, as of the next electorate."""
        self.registered: dict[str, int] = dict.fromkeys(MINERS, 0)
        """Registered miners and the block of their registration, as of the next electorate."""
        self.claims: list[Posted] = []
        self.untrusted: set[bytes] = set()
        """Hotkeys whose logs may hold void events."""
        self.forking: set[bytes] = set()
        """Hotkeys of which somebody writes a second branch of a log."""
        self.deleted: list[tuple[str, str, int]] = []
        """Deletions that were answered 200: miner, GPU, nonce."""
        self.steady: dict[str, tuple[bytes, str | None, frozenset[str]]] = {}
        """GPUs that must not flicker: the claim, its status if that matters, and on which peers; see ``hold``."""
        self.owners: dict[str, dict[int, list[bytes]]] = {}
        self.history: dict[bytes, None] = {}
        """Every event that any daemon ever held, as bytes: also those that a checkpoint left out since."""
        self.late: set[bytes] = set()
        """Ids of those that came when a checkpoint had made them void."""
        self._epochs = 0
        self._chain = 0
        self._chain_stands = True

    # -- before ------------------------------------------------------------------------------------------------------

    def open(
        self,
        stakes: Sequence[int],
        *,
        old: bool = True,
        absent: Collection[int] = (),
        rogue: Collection[int] = (),
        liars: Collection[int] = (),
    ) -> None:
        """Start the validators and wait until all of them write.

        Args:
            stakes: Of validators 0, 1, ...
            old: They were enrolled long ago; else everybody is young.
            absent: Validators that have a permit, but are not enrolled yet: ``enter`` starts them.
            rogue: Validators that run no daemon; ``rogue.Rogue`` writes their logs.
            liars: Validators that put masks on (``liar.Mask``); they check claims like honest ones.
        """
        self.stakes = {f"//validator{index}": stake for index, stake in enumerate(stakes)}
        self.electorate = self._next_electorate(None)
        for index in range(len(stakes)):
            if index not in rogue:
                peer = Liar(self, index) if index in liars else SimPeer(self, index)
                peer.behaviour = honest
                if self.rng.random() < SLOW_SHARE:
                    peer.check_ms = SLOW_MS
                self.peers.append(peer)
                if index not in absent:
                    if old:
                        peer.enrol(OLD_MS)
                    peer.start()
        self.trace("net", "stage", f"stakes {list(stakes)}, {'old' if old else 'young'}, {sorted(self.faults)}")
        for fault in sorted(self.faults):
            self.network.impose(Rule(fault, STRIKE_SHARE, random.Random(f"{self.seed} {fault}"), delay_ms=SPIKE_MS))
        self.resume()

        def ready() -> bool:
            return agree(self.up) and all(peer.ledger.writes_refused is None for peer in self.up)

        self.until(ready, READY_MS_MAX, "all write, and know of each other")

    def shorten(self, horizon_s: int) -> None:
        """Let checkpoints be made on a stage that is not open yet: a horizon of the default is longer than any play."""
        self.parameters = self.parameters.model_copy(update={"horizon_s": horizon_s})

    def acknowledged(self, peer: SimPeer, events: Sequence[Event]) -> None:
        """Remember what a daemon wrote."""
        self.history.update(dict.fromkeys(event.wire for event in events))

    def delivered(self, peer: SimPeer, event: Event) -> None:
        """Remember what a daemon took from others."""
        self.history[event.wire] = None

    def clone(self, index: int, twin: int) -> SimPeer:
        """Start a second machine from a copy of a validator's disk, as validator number ``twin``'s name is free."""
        original = self.peer(index)
        self.forking.add(original.hotkey.public_key)
        peer = SimPeer(self, twin)
        peer.clone(original)
        self.peers.append(peer)
        peer.start()
        return peer

    @property
    def up(self) -> list[SimPeer]:
        """Peers that run."""
        return [peer for peer in self.peers if peer.up]

    def peer(self, index: int) -> SimPeer:
        """The peer of a validator."""
        return next(peer for peer in self.peers if peer.index == index)

    def enter(self, index: int) -> None:
        """Start a validator that was absent, or that had gone."""
        self.peer(index).start()

    def leave(self, *indexes: int) -> None:
        """Stop daemons: the others find out by and by. What they miss meanwhile may change for them at once."""
        for index in indexes:
            name = self.peer(index).name
            self.steady = {uuid: (*held, names - {name}) for uuid, (*held, names) in self.steady.items()}  # type: ignore[misc]
            self.peer(index).crash()
            self.network.crashed(self.peer(index))

    # -- what happens ------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> int:
        """Unix seconds of the true time."""
        return int(self.clock.now_ms) // 1000

    def sign(self, miner: str, uuids: Sequence[str], nonce_s: int | None = None) -> Posted:
        """Sign a registration, without posting it."""
        request = sign_add(hotkey(miner), self.now_s if nonce_s is None else nonce_s, body(uuids))
        return Posted(request, request_id(self.parameters.id, request), miner, tuple(uuids), [])

    def post(self, miner: str, uuids: Sequence[str], at: int, nonce_s: int | None = None) -> Posted:
        """Let a miner register GPUs at validator ``at``'s daemon."""
        posted = self.sign(miner, uuids, nonce_s)
        self.repost(posted, at)
        return posted

    def repost(self, posted: Posted, at: int) -> None:
        """Let a miner send the very same request, once more or for the first time."""
        peer = self.peer(at)
        if posted not in self.claims:
            self.claims.append(posted)
        self.trace(peer.name, "post", f"{posted.miner} {' '.join(posted.uuids)}: {posted.claim_id.hex()[:8]}")

        def done(result: Any) -> None:
            posted.answers.append(result)
            self.trace(peer.name, "answer", f"{posted.claim_id.hex()[:8]}: {type(result).__name__}")

        peer.submit(posted.request, "", done)

    def post_accepted(self, miner: str, uuids: Sequence[str], at: int, nonce_s: int | None = None) -> Posted:
        """Let a miner register GPUs, and wait for the 202 that it must get."""
        posted = self.post(miner, uuids, at, nonce_s)
        self.until(lambda: bool(posted.answers), 5_000, "an answer")
        if not posted.accepted:
            raise CheckFailedError(f"{posted.miner}'s registration of {posted.uuids} is refused: {posted.answers}")
        return posted

    def delete(self, miner: str, uuid: str, at: int) -> None:
        """Let a miner delete a GPU; the signature is bound to it or not. Waits for the 200, tries again after a 503."""
        purpose = self.rng.choice((PURPOSE_DELETE, bound_purpose(uuid)))
        nonce_s = self.now_s
        request: Delete = sign_delete(hotkey(miner), nonce_s, purpose)
        answers: list[Any] = []
        for tries in range(1, TRIES_MAX + 1):
            self.trace(f"p{at}", "delete", f"{miner} {uuid}")
            self.peer(at).submit(request, uuid, answers.append)
            self.until(lambda tries=tries: len(answers) == tries, 5_000, "an answer")  # type: ignore[misc]
            if not isinstance(answers[-1], WritesRefusedError):
                break
            self.run(1)
        if answers[-1] is not None:
            raise CheckFailedError(f"{miner}'s deletion of {uuid} is refused: {answers[-1]!r}")
        self.deleted.append((miner, uuid, nonce_s))

    def part(self, *sides: Collection[int]) -> None:
        """Let only validators of one side talk to each other; those who are named nowhere are alone, together."""
        self.trace("net", "partition", " | ".join(str(sorted(side)) for side in sides))
        self.network.part({index: number for number, side in enumerate(sides, 1) for index in side})

    def join(self) -> None:
        """End a partition."""
        self.trace("net", "joined")
        self.network.part({})

    def split(self) -> tuple[list[int], list[int]]:
        """Two sides, drawn, none of them empty."""
        indexes = [peer.index for peer in self.peers]
        self.rng.shuffle(indexes)
        cut = self.rng.randint(1, len(indexes) - 1)
        return indexes[:cut], indexes[cut:]

    # -- time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end_ms = self.clock.now_ms + seconds * 1000
        while self.clock.now_ms < end_ms:
            self.clock.run_for(min(STEP_MS, end_ms - self.clock.now_ms))
            self._watch()

    def until(self, condition: Callable[[], bool], ms_max: float, what: str) -> None:
        """Let time pass until something holds.

        Raises:
            CheckFailedError: It does not come.
        """
        deadline_ms = self.clock.now_ms + ms_max
        while not condition():
            if self.clock.now_ms > deadline_ms:
                raise CheckFailedError(f"waited {ms_max / 1000:g} s in vain: {what}")
            self.clock.run_for(STEP_MS)
            self._watch()

    def settle(self) -> None:
        """Heal the network, let it come to rest under one electorate, and check what must hold always."""
        self.trace("net", "heal")
        self.network.heal()
        self.stop_chain()
        self.epoch()
        unchanged_ms, events = 0, -1

        def at_rest() -> bool:
            nonlocal unchanged_ms, events
            before, events = events, max(peer.ledger.state.events for peer in self.up)
            busy = any(peer.checking or peer.carrying for peer in self.up)
            still = events == before and agree(self.up) and not busy
            unchanged_ms = unchanged_ms + STEP_MS if still else 0
            return unchanged_ms >= REST_MS

        self.until(at_rest, SETTLED_MS_MAX, "the network comes to rest")
        self.trace("net", "at rest", f"{events} events, {self.up[0].ledger.state.nodes} nodes")
        outcome.check(self)

    # -- the chain ---------------------------------------------------------------------------------------------------

    @property
    def block(self) -> int:
        """The pinned block."""
        return self.electorate.block

    def epoch(self) -> None:
        """Pin the next block, with ``stakes`` and ``registered`` as they are; every peer hears of it a bit later."""
        self.electorate = self._next_electorate(self.electorate)
        self.trace("net", "electorate", f"block {self.block}, {self.stakes}")
        for peer in self.up:
            peer.later(self.rng.uniform(0, NEWS_MS), peer.weigh)

    def epochs(self, count: int) -> None:
        """Pin some blocks, and wait each time until every peer has heard of it."""
        for _ in range(count):
            self.epoch()
            self.run(NEWS_MS / 1000 + 1)

    def stop_chain(self) -> None:
        """Pin no block any more, but by ``epoch`` and ``epochs``."""
        self._chain_stands = True

    def resume(self) -> None:
        """Let the chain go on."""
        if self._chain_stands:
            self._chain_stands = False
            self._chain += 1
            self.clock.after(EPOCH_MS, partial(self._next_epoch, self._chain))

    def _next_epoch(self, chain: int) -> None:
        if not self._chain_stands and chain == self._chain:
            self.epoch()
            self.clock.after(EPOCH_MS, partial(self._next_epoch, chain))

    def _next_electorate(self, previous: Electorate | None) -> Electorate:
        block = BLOCK + self.parameters.epoch_blocks * self._epochs
        self._epochs += 1
        pin = Pin(block, int(self.clock.now_ms), _keys(self.stakes), _keys(self.registered), {})
        return Electorate(pin, previous.current if previous else None)

    # -- what is seen ------------------------------------------------------------------------------------------------

    def watch(self, uuid: str) -> None:
        """Note from now on every claim that owns a GPU, on every peer; see ``owners``."""
        self.owners[uuid] = {peer.index: [] for peer in self.peers}

    def _watch(self) -> None:
        for uuid, seen in self.owners.items():
            for peer in self.up:
                found = outcome.listed(peer, uuid)
                if found is not None and found[0] not in seen[peer.index][-1:]:
                    seen[peer.index].append(found[0])

    def hold(self, uuid: str, posted: Posted, status: str | None = None) -> None:
        """Require from now on that the peers that run list a GPU for a claim after each single commit.

        Args:
            uuid: The GPU, which all of them list so now.
            posted: The claim.
            status: Its status, if that must not change either.
        """
        self.steady[uuid] = posted.claim_id, status, frozenset(peer.name for peer in self.up)

    def committed(self, peer: SimPeer) -> None:
        """Look at what must not flicker.

        Raises:
            CheckFailedError: It does.
        """
        super().committed(peer)
        for uuid, (claim_id, status, names) in self.steady.items():
            if peer.name not in names:
                continue
            found = outcome.listed(peer, uuid)
            if found is None or found[0] != claim_id or status not in {None, found[1]}:
                raise CheckFailedError(
                    f"{peer.name} has for {uuid} {found}: expected {claim_id.hex()[:8]}, {status or 'any'}, always"
                )

    def rows(self, uuid: str) -> dict[str, str]:
        """The row of a GPU on every peer that runs, by the peer's name, for people."""
        return {peer.name: shown(outcome.row_of(peer, uuid)) for peer in self.up}

    def status(self, posted: Posted, at: int) -> TaskStatus | None:
        """What a peer answers to the poll for a claim's task."""
        return outcome.task_of(self.peer(at), posted)

    def enrolled(self, validator: Hotkey) -> bool:
        """Whether every peer that runs counts a validator as enrolled."""
        return all(validator.public_key in peer.ledger.weights.enrolled for peer in self.up)

    def everywhere(self, uuid: str, posted: Posted, status: str | None = None) -> bool:
        """Whether every peer that runs says that a claim owns a GPU, with this status if one is given."""
        found = [outcome.listed(peer, uuid) for peer in self.up]
        return all(row is not None and row[0] == posted.claim_id and status in (None, row[1]) for row in found)

    def verified_anywhere(self, uuid: str) -> bool:
        """Whether any peer that runs says that a GPU is verified."""
        return any((row := outcome.listed(peer, uuid)) is not None and row[1] == VERIFIED for peer in self.up)

    def owns(self, uuid: str, posted: Posted | None, status: str | None = None) -> None:
        """Require that every peer says so; None: that the GPU is not in the inventory.

        Raises:
            CheckFailedError: One does not.
        """
        for peer in self.up:
            row = outcome.row_of(peer, uuid)
            if posted is None:
                if row is not None:
                    raise CheckFailedError(f"{peer.name} lists {uuid}, which nobody claims any more: {shown(row)}")
            elif row is None or row.claim_id != posted.claim_id or status not in (None, row.status):
                raise CheckFailedError(
                    f"{peer.name} has for {uuid} {shown(row)}: expected {posted.miner}'s claim "
                    f"{posted.claim_id.hex()[:8]}, {status or 'whatever its status'}"
                )

    def task(self, posted: Posted, status: str, detail: str = "") -> None:
        """Require that every peer answers a poll with this status, and a detail that holds this text.

        Raises:
            CheckFailedError: One does not.
        """
        for peer in self.up:
            found = outcome.task_of(peer, posted)
            if found is None or found.status != status or detail not in found.detail:
                raise CheckFailedError(
                    f"{peer.name} answers {found} to {posted.miner}'s task {posted.claim_id.hex()[:8]} for "
                    f"{posted.uuids}: expected {status} {detail!r}"
                )

    def refused(self, posted: Posted, uuids: Sequence[str]) -> None:
        """Require that a registration was answered 409, naming these GPUs.

        Raises:
            CheckFailedError: It was not.
        """
        conflicts = [answer for answer in posted.answers if isinstance(answer, ConflictError)]
        if not posted.answers or len(conflicts) < len(posted.answers) or conflicts[0].uuids != list(uuids):
            raise CheckFailedError(
                f"{posted.miner}'s {posted.uuids} got {[str(a)[:60] for a in posted.answers]}: expected 409 for {uuids}"
            )

    def kept(self, uuid: str, posted: Posted) -> None:
        """Require that no peer ever saw a GPU, since ``watch``, with another owner.

        Raises:
            CheckFailedError: One did.
        """
        for index, seen in self.owners[uuid].items():
            if seen != [posted.claim_id]:
                owners = [claim_id.hex()[:8] for claim_id in seen]
                raise CheckFailedError(
                    f"on p{index} {uuid} went from claim to claim: {owners}; expected {posted.claim_id.hex()[:8]} to "
                    "keep it"
                )

    def since(self, uuid: str) -> int:
        """Since when a GPU's owner is verified, HLC."""
        row = outcome.row_of(self.up[0], uuid)
        if row is None or row.verified_since is None:
            raise CheckFailedError(f"{uuid} is not verified: {shown(row)}")
        return row.verified_since

    def chute(self, uuid: str, chute: Chute | None) -> None:
        """Require that every peer says that this runs on a GPU.

        Raises:
            CheckFailedError: One does not.
        """
        for peer in self.up:
            row = outcome.row_of(peer, uuid)
            if row is None or row.chute != chute:
                raise CheckFailedError(f"{peer.name} has for {uuid} {shown(row)}: expected the chute {chute}")


FAILED_CHECK: Final = NOT_THERE
"""Detail of a task that the vote failed."""


def shown(row: Row | None) -> str:
    """A row for people."""
    return f"claim {row.claim_id.hex()[:8]}, {row.status}, {row.chute}" if row else "no row"


def taken(uuid: str) -> str:
    """Detail of a task that lost a GPU to a verified claim."""
    return f"GPU {uuid} belongs to a verified claim of another hotkey"


def _keys(values: Mapping[str, int]) -> dict[bytes, int]:
    return {hotkey(uri).public_key: value for uri, value in values.items()}
