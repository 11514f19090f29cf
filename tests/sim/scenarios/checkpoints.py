"""Checkpoints: what is older than the horizon goes, and nobody sees a difference."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest import mock

from p2pnodes import clerk
from p2pnodes.model import checkpoint
from p2pnodes.model.branches import displaced
from p2pnodes.model.checkpoint import (
    FLOOR_HORIZONS,
    LOGS_PER_HOTKEY_CUT,
    PER_HORIZON,
    Line,
    due_number,
    rendezvous_key,
    stakes_of,
)
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.events import VERIFIED, AddPayload, Checkpoint, Event, Head, LogId, Place, Release
from p2pnodes.model.inventory import Chute
from p2pnodes.model.rendezvous import ranking
from p2pnodes.model.requests import NONCE_WINDOW_S
from p2pnodes.store import checkpoints
from p2pnodes.store import logs as logs_module
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import proposal
from p2pnodes.store.schema import open_writer
from tests.sim import outcome
from tests.sim.bounds import patched
from tests.sim.check import agree
from tests.sim.forger import Forger
from tests.sim.liar import Liar
from tests.sim.peer import CheckFailedError, SimPeer
from tests.sim.rogue import Rogue
from tests.sim.scenarios.cast import ALICE, BOB, CHARLIE, DAVE, GPU, OTHER, anywhere, stakes, verified_everywhere
from tests.sim.stage import EPOCH_MS, TTL_S, Posted, Stage
from tests.support import covers, forks, proposals, signatures

HORIZON_S: Final = TTL_S + 30
"""A little longer than a verdict lives."""

IN_FORCE_MS: Final = 120_000
"""Within this time a checkpoint that is due is in force everywhere, and what it leaves out is gone."""

TURN_S: Final = HORIZON_S / PER_HORIZON
"""From one number to the next."""

TURN_MS: Final = 40 * TURN_S * 1000
"""Within this time everybody is the first to propose once: of 40 numbers one is, with a share of a fifth."""

HEARD_MS_MAX: Final = 20_000

LOADING_MS_MAX: Final = 180_000
"""Within this time a daemon begins to load, which it does after CERTIFICATE_WAIT_MS, and has loaded."""

CHUTE: Final = Chute("chute", "instance", verified=True, public=False, name=None, username=None)
"""What is placed."""

FLOOR_S: Final = (1 + FLOOR_HORIZONS) * HORIZON_S + NONCE_WINDOW_S
"""A request so old lies below the floor of a checkpoint that is made now."""


def in_force(stage: Stage, above: int = 0) -> int:
    """Wait until one checkpoint with a number above another one is in force on every peer; its number."""

    def everywhere() -> bool:
        states = [peer.ledger.state for peer in stage.up]
        return len({s.checkpoint for s in states}) == 1 and states[0].checkpoint > above and agree(stage.up)

    stage.until(everywhere, IN_FORCE_MS, f"a checkpoint above {above} is in force")
    return stage.up[0].ledger.state.checkpoint


def old(stage: Stage) -> int:
    """Let what was said so far become older than the horizon of the checkpoint in force; its number."""
    stage.run(HORIZON_S + EPOCH_MS / 1000 + 1)
    return in_force(stage, due_number(stage.parameters, stage.electorate))


def place(stage: Stage, posted: Posted, at: int) -> None:
    """Let a validator place CHUTE on all GPUs of a claim."""
    stage.peer(at).say(lambda _: Place(posted.claim_id, posted.uuids, *CHUTE))


def logs_are_cut(stage: Stage) -> None:
    """Rows outlive the events that nobody needs; what was deleted stays so, though the deletion is gone in the end."""
    stage.shorten(HORIZON_S)
    stage.open(stakes(stage))
    for uuid, miner in ((GPU, ALICE), (OTHER, BOB), ("gpu-2", BOB), ("gpu-3", CHARLIE)):
        stage.truth.give(uuid, miner)
    kept = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    half = stage.post_accepted(BOB, [OTHER, "gpu-2"], anywhere(stage))
    stage.post_accepted(CHARLIE, ["gpu-3"], anywhere(stage))
    for posted, uuid in ((kept, GPU), (half, OTHER)):
        verified_everywhere(stage, posted, uuid)
    place(stage, kept, anywhere(stage))
    for miner, uuid in ((BOB, "gpu-2"), (CHARLIE, "gpu-3")):
        stage.delete(miner, uuid, anywhere(stage))
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    for uuid, posted in ((GPU, kept), (OTHER, half)):
        stage.hold(uuid, posted)
    number = old(stage)
    for _ in range(stage.rng.randint(1, 4)):
        number = in_force(stage, number)
    stage.settle()
    for uuid, posted in ((GPU, kept), (OTHER, half)):
        stage.owns(uuid, posted)
    for uuid in ("gpu-2", "gpu-3"):
        stage.owns(uuid, None)
    for peer in stage.up:
        (first,) = peer.disk.execute("SELECT count(*) FROM events WHERE kind = 'verdict'").fetchone()
        if first > len(stage.history) // 2:
            raise CheckFailedError(f"{peer.name} holds {first} verdicts of {len(stage.history)} events: nothing is cut")
    stage.task(kept, VERIFIED)


def permit_is_lost_above_a_cut(stage: Stage) -> None:
    """A validator loses its permit when its log was cut: others carry on what it recorded, and no cut drops it."""
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 20))
    leaver = stage.rng.randrange(4)
    stays = next(index for index in range(4) if index != leaver)
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    before = stage.post_accepted(ALICE, [GPU], leaver)
    verified_everywhere(stage, before)
    if stage.rng.random() < 0.5:  # so that carrying it does not help
        stage.run(FLOOR_S)
    number = old(stage)
    above = stage.post_accepted(BOB, [OTHER], leaver)
    deleted = stage.post_accepted(CHARLIE, ["gpu-2"], leaver)
    verified_everywhere(stage, above, OTHER)
    stage.delete(CHARLIE, "gpu-2", leaver)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    for uuid, posted in ((GPU, before), (OTHER, above)):
        stage.hold(uuid, posted)
    stage.stakes.pop(f"//validator{leaver}")
    for _ in range(stage.rng.randint(3, 8)):
        number = in_force(stage, number)
    stage.repost(deleted, stays)
    stage.settle()
    for uuid, posted in ((GPU, before), (OTHER, above)):
        stage.owns(uuid, posted)
    stage.owns("gpu-2", None)


def place_under_what_is_carried(stage: Stage) -> None:
    """A claim's author forks or loses its permit, and others carry the claim: what was placed before that stays placed.

    Of the cuts that follow some lie between the two: the place is below, and of its claim nothing that counts.
    """
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 40), rogue={3})
    rogue = Rogue(stage, 3)
    stage.truth.give(GPU, ALICE)
    posted = stage.sign(ALICE, [GPU, OTHER])
    rogue.write(AddPayload(posted.request, stage.block), rogue.next_hlc)
    recorded = rogue.last_seq
    stage.until(lambda: stage.everywhere(GPU, posted), HEARD_MS_MAX, "everybody lists it")
    place(stage, posted, anywhere(stage))
    stage.hold(GPU, posted)
    stage.run(stage.rng.uniform(0, HORIZON_S * 2 / 3))
    if stage.rng.random() < 0.5:
        del stage.stakes["//validator3"]
        stage.epochs(2)
    else:
        stage.forking.add(rogue.hotkey.public_key)
        stage.steady.clear()  # until it is carried
        proof = rogue.rivals(recorded)
        stage.peer(anywhere(stage)).say(lambda _: proof)
        stage.until(lambda: all(rogue.log in forks(peer.ledger) for peer in stage.up), HEARD_MS_MAX, "it is proved")
    stage.until(lambda: stage.everywhere(GPU, posted), HEARD_MS_MAX, "it is carried")
    stage.hold(GPU, posted)
    if released := stage.rng.random() < 0.3:
        for peer in stage.up:  # each but one in vain
            peer.say(lambda _: Release(posted.claim_id, (OTHER,)))
    number = old(stage)
    for _ in range(stage.rng.randint(0, 6)):
        number = in_force(stage, number)
    stage.settle()
    stage.owns(GPU, posted)
    stage.chute(GPU, CHUTE)
    stage.owns(OTHER, posted)
    stage.chute(OTHER, None if released else CHUTE)


def what_comes_late(stage: Stage) -> None:
    """A validator tells long after a cut what it says that it knew before: it counts for nothing, on whatever peer."""
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 20), rogue={3})
    age_ms = stage.rng.randint(HORIZON_S * 2_000, HORIZON_S * 15_000)
    rogue = Rogue(stage, 3, age_ms=age_ms)
    stage.truth.give(GPU, ALICE)
    kept = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    verified_everywhere(stage, kept)
    stage.post_accepted(BOB, [OTHER], anywhere(stage))
    stage.delete(BOB, OTHER, anywhere(stage))
    number = old(stage)
    chute = Place(kept.claim_id, (GPU,), "late", "late", verified=True, public=False, name=None, username=None)
    for _ in range(stage.rng.randint(1, 5)):
        match stage.rng.choice(("place", "claim")):
            case "place":
                rogue.write(chute)
                stage.late.add(rogue.last.id)
            case _:  # signed once, told now: its nonce fits the event's time, not ours
                nonce_s = hlc_ms(rogue.last_hlc) // 1000
                request = stage.sign(stage.rng.choice((BOB, DAVE)), [OTHER], nonce_s).request
                rogue.write(AddPayload(request, stage.block))
                if nonce_s < stage.up[0].ledger.checkpoints.line.floor_s:
                    stage.late.add(rogue.last.id)
    now = _say_while_one_is_made(stage, rogue, kept)
    in_force(stage, number)
    stage.settle()
    stage.owns(GPU, kept)
    for peer in stage.up:
        row = outcome.row_of(peer, GPU)
        if row is None or row.chute not in (None, now):
            raise CheckFailedError(f"{peer.name} places {GPU} by a word from before the horizon")


def _say_while_one_is_made(stage: Stage, rogue: Rogue, posted: Posted) -> Chute | None:
    """Say what counts until the checkpoint that is just made makes it void: a registration, and a place.

    Returns:
        What was placed, if it came early enough for the cut.
    """
    stage.until(lambda: any(map(_proposals_ahead, stage.up)), IN_FORCE_MS, "a checkpoint is proposed")
    first = next(peer for peer in stage.up if _proposals_ahead(peer))
    number = first.ledger.state.checkpoint
    line = first.ledger.checkpoints.line_of(_proposals_ahead(first)[0])
    assert line is not None
    claim: Event | None = None
    nonce_s = hlc_ms(rogue.last_hlc) // 1000
    if first.ledger.checkpoints.line.floor_s <= nonce_s < line.floor_s:
        rogue.write(AddPayload(stage.sign(DAVE, ["gpu-2"], nonce_s).request, stage.block))
        claim = rogue.last
    early_hlc = line.horizon_hlc - hlc_at(stage.rng.randint(1, 5_000))
    rogue.write(Place(posted.claim_id, posted.uuids, *CHUTE), max(rogue.last_hlc + 1, early_hlc))
    stage.until(lambda: first.ledger.state.checkpoint > number, IN_FORCE_MS, "it is in force")
    line = first.ledger.checkpoints.line
    if claim is not None and not covers(line, rogue.log, claim.seq) and nonce_s < line.floor_s:
        stage.late.add(claim.id)
    if covers(line, rogue.log, rogue.last.seq) or rogue.last_hlc >= line.horizon_hlc:
        return CHUTE
    stage.late.add(rogue.last.id)
    return None


def _is_due(peer: SimPeer) -> bool:
    """Whether a checkpoint is due, as a peer sees it, and not in force."""
    return due_number(peer.ledger.network, peer.ledger.weights.electorate) > peer.ledger.state.checkpoint


def _first(peer: SimPeer) -> bytes:
    """Who is the first to propose the checkpoint that is due."""
    key = rendezvous_key(peer.ledger.network, due_number(peer.ledger.network, peer.ledger.weights.electorate))
    return ranking(key, peer.ledger.weights.enrolled)[0]


def _proposals_ahead(peer: SimPeer) -> list[bytes]:
    """Proposals that a peer holds of the number that is due."""
    number = due_number(peer.ledger.network, peer.ledger.weights.electorate)
    return proposals(peer.ledger, number) if _is_due(peer) else []


def liars_at_a_cut(stage: Stage) -> None:
    """A validator proposes cuts that lose others' events or that nobody holds, and signs anything, also twice.

    With less than a third of the stake it delays checkpoints, and changes none.
    """
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 40), rogue={3})
    rogue = Rogue(stage, 3, age_ms=HORIZON_S * 3_000)
    stage.truth.give(GPU, ALICE)
    stage.truth.give(OTHER, BOB)
    stage.truth.give("gpu-2", CHARLIE)
    claims = [
        stage.post_accepted(*each, anywhere(stage)) for each in ((ALICE, [GPU]), (BOB, [OTHER]), (CHARLIE, ["gpu-2"]))
    ]
    for at, posted in enumerate(claims):
        verified_everywhere(stage, posted, posted.uuids[0])
        place(stage, posted, at)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    for posted in claims:
        stage.hold(posted.uuids[0], posted)
    number = old(stage)
    for _ in range(stage.rng.randint(2, 4)):
        _lie(stage, rogue)
        number = in_force(stage, number)
    stage.settle()
    for posted in claims:
        stage.owns(posted.uuids[0], posted)
        stage.chute(posted.uuids[0], CHUTE)


def newcomer_behind_a_cut(stage: Stage) -> None:
    """A validator loses its disk when the events are gone: it loads what stands, also when it is killed meanwhile."""
    with small_slices():
        leaver, posted = _cut_with_some(stage)
        peer = stage.peer(leaver)
        stage.leave(leaver)
        if stage.rng.random() < 1 / 2:
            peer.forget_key()
        peer.restore(open_writer(":memory:"), peer.node_key)
        _join(stage, peer)
        stage.settle()
        for each in posted:
            stage.owns(each.uuids[0], each)


def away_for_longer_than_the_horizon(stage: Stage) -> None:
    """A validator comes back when what it missed is gone: it loads what stands, and goes on."""
    with small_slices():
        stage.shorten(HORIZON_S)
        stage.open((40, 30, 20, 10))
        before = _some(stage, range(2))
        stage.leave(3)
        after = _some(stage, range(2, 6))
        _cut_all(stage)
        _join(stage, stage.peer(3))
        stage.settle()
        for each in (*before, *after):
            stage.owns(each.uuids[0], each)


def newcomer_among_forgers(stage: Stage) -> None:
    """A validator comes back without what stands, and of those who have it one or two show something else: in vain."""
    with small_slices():
        stage.shorten(HORIZON_S)
        liars = stage.rng.sample(range(4), stage.rng.randint(1, 2))
        stage.open((30, 30, 30, 30, 10), liars=liars)
        posted = _some(stage, range(1))
        stage.leave(4)
        posted += _some(stage, range(1, 5))  # with more, five validators are hardly ever at rest
        _cut_all(stage)
        forgers: list[Forger] = []
        for index in liars:
            liar = stage.peer(index)
            assert isinstance(liar, Liar)
            forgers.append(Forger(liar, stage.rng, 4))
            liar.wear(forgers[-1])
        in_force(stage, stage.up[0].ledger.state.checkpoint)
        peer = stage.peer(4)
        if stage.rng.random() < 1 / 2:  # whoever has nothing loads at once, mostly from the first one that it meets
            peer.restore(open_writer(":memory:"), peer.node_key)
        _join(stage, peer)
        for forger in forgers:
            forger.take_off()
        stage.settle()
        for each in posted:
            stage.owns(each.uuids[0], each)


@contextmanager
def small_slices() -> Iterator[None]:
    """Let live sets have many slices, though little happens on a stage."""
    with ExitStack() as patches:
        for module in (checkpoint, checkpoints):
            patches.enter_context(mock.patch.object(module, "SLICE_LEAVES_MAX", 1))
        yield


def _some(stage: Stage, numbers: Iterable[int]) -> list[Posted]:
    """Register some GPUs, each verified."""
    found = []
    for number in numbers:
        uuid, miner = f"gpu-{number}", (ALICE, BOB, CHARLIE)[number % 3]
        stage.truth.give(uuid, miner)
        found.append(stage.post_accepted(miner, [uuid], anywhere(stage)))
    for posted in found:
        verified_everywhere(stage, posted, posted.uuids[0])
    return found


def _cut_with_some(stage: Stage) -> tuple[int, list[Posted]]:
    """A network whose logs are cut; who is going to leave, and what is registered."""
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 10))
    posted = _some(stage, range(6))
    _cut_all(stage)
    return 3, posted


def _cut_all(stage: Stage) -> None:
    """Wait until all that has been said so far lies below the cut, on every peer that runs."""
    said = dict(stage.up[0].ledger.state.heads)

    def below() -> bool:
        lines = [peer.ledger.checkpoints.line for peer in stage.up]
        return all(covers(line, log, head.seq) for line in lines for log, head in said.items()) and agree(stage.up)

    stage.until(below, HORIZON_S * 1000 + IN_FORCE_MS, "all that has been said is cut")


def _join(stage: Stage, peer: SimPeer) -> None:
    """Let a validator come up and load what it lacks; it may be killed in the middle, and goes on with what is left."""
    peer.start()
    _finely(stage, lambda: peer.ledger.state.loading, f"{peer.name} loads a live set")
    left = len(peer.ledger.missing_slices())
    for _ in range(stage.rng.randint(0, 2)):
        until = stage.rng.randint(1, left)
        _finely(stage, lambda until=until: len(peer.ledger.missing_slices()) <= until, "slices have come")  # type: ignore[misc]
        stage.leave(peer.index)
        stage.run(1)
        stage.enter(peer.index)
        if len(peer.ledger.missing_slices()) > until:
            raise CheckFailedError(f"{peer.name} begins anew after it was killed")
    _finely(stage, lambda: peer.ledger.state.settled is not None, f"{peer.name} has loaded a live set")


def _finely(stage: Stage, condition: Callable[[], bool], what: str, within_ms: int = LOADING_MS_MAX) -> None:
    """Let time pass until something holds that may last for some milliseconds only."""
    deadline_ms = stage.clock.now_ms + within_ms
    while not condition():
        if stage.clock.now_ms > deadline_ms:
            raise CheckFailedError(f"waited {within_ms / 1000:g} s in vain: {what}")
        stage.clock.run_for(1)


def _lie(stage: Stage, rogue: Rogue) -> None:
    """As soon as it is the first to propose, write what must not be signed, and sign it and everything else."""

    def turn() -> list[Ledger]:
        return [peer.ledger for peer in stage.up if _is_due(peer) and _first(peer) == rogue.hotkey.public_key]

    stage.until(lambda: bool(turn()), TURN_MS, "the rogue is the first to propose")
    ledger = turn()[0]
    honest = proposal(ledger)
    assert honest is not None
    victim = stage.rng.choice([entry for entry in honest.logs if entry.log != rogue.log])
    others = [entry for entry in honest.logs if entry != victim]
    match stage.rng.choice(("omit", "beyond", "branch")):
        case "omit":
            logs = others
        case "beyond":
            logs = [*others, victim._replace(head=Head(victim.head.seq + 1_000, stage.rng.randbytes(32)))]
        case _:
            logs = [*others, victim._replace(head=Head(victim.head.seq, stage.rng.randbytes(32)))]
    rogue.write(honest._replace(logs=tuple(sorted(logs))), rogue.now_hlc)
    own = rogue.last.id
    for key in [own, *proposals(ledger, honest.number)]:
        for said in [stage.rng.randbytes(32)] * 4 + [stage.rng.randbytes(32)]:
            rogue.write(Checkpoint(honest.number, key, 1, 1, said))
    stage.run(TURN_S / 2)
    fooled = {said for peer in stage.up for _, said in signatures(peer.ledger, honest.number)}
    for statement in fooled:  # whoever signed it gets its stake, too
        if statement.proposal == own and statement.leaves > 1:
            rogue.write(statement, rogue.next_hlc)


def half_of_an_event_is_kept(stage: Stage) -> None:
    """Of one ``carry`` one request is deleted, of one ``place`` one GPU is released: neither comes back."""
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 20))
    leaver = stage.rng.randrange(4)
    stays = next(index for index in range(4) if index != leaver)
    for uuid, miner in ((GPU, ALICE), (OTHER, BOB), ("gpu-2", CHARLIE), ("gpu-3", CHARLIE)):
        stage.truth.give(uuid, miner)
    kept = stage.post_accepted(ALICE, [GPU], leaver)
    deleted = stage.post_accepted(BOB, [OTHER], leaver)
    placed = stage.post_accepted(CHARLIE, ["gpu-2", "gpu-3"], stays)
    for posted in (kept, deleted, placed):
        verified_everywhere(stage, posted, posted.uuids[0])
    place(stage, placed, stays)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    stage.stakes.pop(f"//validator{leaver}")
    stage.epochs(3)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    stage.delete(BOB, OTHER, stays)
    stage.peer(stays).say(lambda _: Release(placed.claim_id, ("gpu-3",)))
    stage.hold(GPU, kept)
    number = old(stage)
    stage.run(FLOOR_S)
    in_force(stage, number)
    stage.settle()
    stage.owns(GPU, kept)
    stage.owns(OTHER, None)
    stage.chute("gpu-2", CHUTE)
    stage.chute("gpu-3", None)


def fork_below_a_cut(stage: Stage) -> None:
    """That a log had two events is proved when a checkpoint has closed it there: what it keeps of it goes on to count.

    Its author stays at fault: whoever hears of the fork before a checkpoint does not believe it.
    """
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 40), rogue={3})
    rogue = Rogue(stage, 3)
    stage.forking.add(rogue.hotkey.public_key)
    stage.truth.give(GPU, ALICE)
    posted = stage.sign(ALICE, [GPU])
    rogue.write(AddPayload(posted.request, stage.block), rogue.next_hlc)
    verified_everywhere(stage, posted)
    rogue.write(Place(posted.claim_id, (GPU,), *CHUTE), rogue.next_hlc)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    stage.hold(GPU, posted)
    number = old(stage)
    proof = rogue.rivals(stage.rng.randint(1, rogue.last_seq))
    stage.peer(anywhere(stage)).say(lambda _: proof)
    for _ in range(stage.rng.randint(1, 3)):
        number = in_force(stage, number)
    stage.settle()
    stage.owns(GPU, posted)
    stage.chute(GPU, CHUTE)


def forks_behind_proposals(stage: Stage) -> None:
    """A validator proves a fork of a log of its own behind each proposal, where that goes on, to some of the others.

    It leaves the registration in it alone, so that nobody has to carry that meanwhile. Its log has events enough to do
    so for ever. Checkpoints are made all the same: who has held for long what a proposal names signs it, whatever has
    been proved of it since.
    """
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 20), rogue={3})
    rogue = Rogue(stage, 3)
    stage.forking.add(rogue.hotkey.public_key)
    stage.truth.give(GPU, ALICE)
    posted = stage.sign(ALICE, [GPU])
    rogue.write(AddPayload(posted.request, stage.block), rogue.next_hlc)
    stage.repost(posted, anywhere(stage))
    verified_everywhere(stage, posted)
    for _ in range(99):
        rogue.write(Place(posted.claim_id, (GPU,), *CHUTE), rogue.next_hlc)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    stage.hold(GPU, posted)
    spoiled: set[bytes] = set()

    def done() -> bool:
        for holder, key in [(peer, key) for peer in stage.up for key in _proposals_ahead(peer)]:
            line = holder.ledger.checkpoints.line_of(key)
            if key not in spoiled and line is not None and rogue.log in line.logs:
                spoiled.add(key)
                _fork_at(stage, rogue, max(2, line.logs[rogue.log].head.seq))
        return len(spoiled) > 0 and all(covers(peer.ledger.checkpoints.line, rogue.log, 1) for peer in stage.up)

    stage.until(done, 3 * HORIZON_S * 1000, "a cut that goes through its log is in force")
    in_force(stage, stage.up[0].ledger.state.checkpoint)
    stage.settle()
    stage.owns(GPU, posted)


def _fork_at(stage: Stage, rogue: Rogue, seq: int) -> None:
    """Prove to some that a log has two events at a seq."""
    proof = rogue.rivals(seq)
    for index in stage.rng.sample(range(3), stage.rng.randint(1, 3)):
        peer = stage.peer(index)
        now_ms = peer.now_ms()
        peer.write(lambda ledger, at_ms=now_ms: ledger.receive_proofs([proof], at_ms), lambda _: None)  # type: ignore[misc]


def displaced_behind_a_proposal(stage: Stage) -> None:
    """Behind a proposal that names its logs a validator shows so many others that one of these counts no more.

    The others hear of the proposal late, when the log would be gone if only its requests mattered. It is signed all the
    same, and in force: who has signed it already could sign no other one of its number.
    """
    bounds = (logs_module, "LOGS_PER_HOTKEY_MAX", 4), (clerk, "DISPLACED_MS", 5_000)
    late = (
        (clerk, "MARGINS_PER_HORIZON", 2),
        (clerk, "TURN_MS_MIN", 60_000),
    )  # so that no other one is proposed meanwhile
    with patched((*bounds, *late)):
        stage.shorten(3 * HORIZON_S)
        stage.open((40, 30, 20, 20), rogue={3})
        rogues = [Rogue(stage, 3) for _ in range(3)]
        stage.truth.give(GPU, ALICE)
        posted = stage.post_accepted(ALICE, [GPU], anywhere(stage))
        verified_everywhere(stage, posted)
        stage.hold(GPU, posted)
        named = {rogue.log for rogue in rogues}
        proposed: list[tuple[SimPeer, Line]] = []

        def naming() -> bool:
            for peer in stage.up:
                lines = map(peer.ledger.checkpoints.line_of, _proposals_ahead(peer))
                proposed.extend((peer, line) for line in lines if line is not None and named <= line.logs.keys())
            return len(proposed) > 0

        _finely(stage, naming, "a cut that names its logs is proposed", 5 * HORIZON_S * 1000)
        author, line = proposed[0]
        stage.part([author.index], [peer.index for peer in stage.up if peer != author])
        while not set(displaced([rogue.log for rogue in rogues], (), 4)) & named:
            rogues.append(Rogue(stage, 3, through=author.index))
            rogues[-1].replay(1, through=stage.rng.choice([peer.index for peer in stage.up if peer != author]))
        stage.run(stage.rng.uniform(8, 20))
        stage.join()
        number = in_force(stage, line.number - 1)
        if number != line.number:
            raise CheckFailedError(f"number {line.number} came to nothing")
        stage.settle()
        stage.owns(GPU, posted)


def two_sides_of_a_cut(stage: Stage) -> None:
    """While the network is parted, a validator tells each side that it found what they did: one of them has enough."""
    stage.shorten(HORIZON_S)
    stage.open((40, 30, 20, 40), rogue={3})
    rogue = Rogue(stage, 3, age_ms=HORIZON_S * 3_000)
    stage.truth.give(GPU, ALICE)
    posted = stage.post_accepted(ALICE, [GPU], anywhere(stage))
    verified_everywhere(stage, posted)
    stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
    old(stage)
    stage.part([0], [1, 2])
    signed: set[Checkpoint] = set()
    for _ in range(stage.rng.randint(60, 90)):
        for peer in stage.up:
            due = due_number(stage.parameters, peer.ledger.weights.electorate)
            for _, said in signatures(peer.ledger, due):
                if said not in signed:
                    signed.add(said)
                    rogue.write(said, rogue.next_hlc, through=peer.index)
        stage.run(1)
    stage.join()
    stage.hold(GPU, posted)
    number = in_force(stage, max(peer.ledger.state.checkpoint for peer in stage.up))
    in_force(stage, number)
    stage.settle()
    stage.owns(GPU, posted)


def one_log_after_the_other(stage: Stage) -> None:
    """A validator opens many logs, with a GPU and a place in each: all that stays, the last is named, the others go."""
    stage.shorten(HORIZON_S)
    stage.open(stakes(stage))
    restless = anywhere(stage)
    peer = stage.peer(restless)
    claims: list[Posted] = []
    logs: list[LogId | None] = []
    room = (checkpoint, "SURPLUS_PER_HOTKEY_MAX", 0), (checkpoint, "SETTLED_PER_HOTKEY_MAX", 8)
    with patched(((clerk, "DISPLACED_MS", 60_000), *room)):
        with patched(((SimPeer, "delegation_s", HORIZON_S),)):
            count = stage.rng.randint(6, 9)
            # With more claims somebody always checks one again, and the network never rests.
            used = {0, *stage.rng.sample(range(count), 2)}
            for number in range(count):
                if number in used:
                    claims.append(_place(stage, restless, f"gpu-{number}"))
                _open_another_log(stage, restless)
                logs.append(peer.ledger.own_log)
        _open_another_log(stage, restless)
        older = {*[*logs, peer.ledger.own_log][:-LOGS_PER_HOTKEY_CUT]}

        def gone() -> bool:
            return not any(each.ledger.state.logs.keys() & older for each in stage.up)

        for posted in claims:
            verified_everywhere(stage, posted, *posted.uuids)
        number = old(stage)
        stage.until(gone, 8 * HORIZON_S * 1000, "the older logs are forgotten")
        in_force(stage, number)
    stage.settle()
    for each in stage.up:
        line = each.ledger.checkpoints.line
        if peer.ledger.own_log not in line.logs:
            raise CheckFailedError(f"{each.name} has a cut without room for the log of {peer.name}")
        if peer.hotkey.public_key not in stakes_of(line):
            raise CheckFailedError(f"{each.name} has a cut at which {peer.name} does not weigh")
        if chutes := [row.uuid for row in each.ledger.rows() if row.chute != CHUTE]:
            raise CheckFailedError(f"{each.name} shows no chute on {chutes}")
    for posted in claims:
        stage.owns(posted.uuids[0], posted)


def _place(stage: Stage, at: int, uuid: str) -> Posted:
    """Let a validator take a GPU, and place on it."""
    stage.truth.give(uuid, ALICE)
    posted = stage.post_accepted(ALICE, [uuid], at)
    place(stage, posted, at)
    return posted


def _open_another_log(stage: Stage, at: int) -> None:
    """Let a validator go on for some time, and then open another log."""
    peer, before = stage.peer(at), stage.peer(at).ledger.own_log
    stage.run(stage.rng.uniform(1, 2 * TURN_S))
    peer.rotate()
    stage.until(lambda: peer.ledger.own_log != before and peer.ledger.writes_refused is None, 60_000, "it writes")


def logs_that_are_over(stage: Stage) -> None:
    """Two logs end. The one of which nothing is needed any more is named by no cut, is forgotten, and stays away."""
    with patched(((clerk, "DISPLACED_MS", 60_000),)):
        stage.shorten(HORIZON_S)
        stage.open((40, 30, 20, 40, 10), rogue={3}, absent={4})
        rogue = Rogue(stage, 3)  # by which its validator stays known
        stage.truth.give(GPU, ALICE)
        stage.truth.give(OTHER, BOB)
        kept, gone = stage.sign(ALICE, [GPU]), stage.sign(BOB, [OTHER])
        stays, over = (Rogue(stage, 3, lasts_s=int(TURN_S)) for _ in range(2))
        for log, posted, uuid in ((stays, kept, GPU), (over, gone, OTHER)):
            log.write(AddPayload(posted.request, stage.block), log.next_hlc)
            stage.repost(posted, anywhere(stage))
            verified_everywhere(stage, posted, uuid)
        stage.delete(BOB, OTHER, anywhere(stage))
        stage.until(lambda: agree(stage.up), HEARD_MS_MAX, "everybody has heard")
        stage.hold(GPU, kept)
        number = old(stage)

        def forgotten() -> bool:
            return not any(over.log in peer.ledger.state.logs for peer in stage.up)

        stage.until(forgotten, 4 * HORIZON_S * 1000, "the log that is over is forgotten")
        if stage.rng.random() < 0.5:
            stage.enter(4)
        for _ in range(stage.rng.randint(1, 4)):
            over.replay(stage.rng.randint(1, over.last_seq + 1), through=stage.rng.choice(stage.up).index)
            stage.run(stage.rng.uniform(1, 30))
        rogue.vote(kept.claim_id, hlc=rogue.next_hlc)
        in_force(stage, number)
        stage.until(forgotten, HORIZON_S * 1000, "a newcomer that took it for new forgets it, too")
        stage.settle()
        for peer in stage.up:
            if over.log in peer.ledger.checkpoints.line.logs:
                raise CheckFailedError(f"{peer.name} has a log in its cut that is over")
            if stays.log not in peer.ledger.checkpoints.line.logs:
                raise CheckFailedError(f"{peer.name} let go a log of which something is needed")
        stage.owns(GPU, kept)
        stage.owns(OTHER, None)
