"""What liars say is what it claims to be, and none of it goes through."""

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from p2pnodes.gossip import frames
from p2pnodes.gossip.engine import Engine
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    Digest,
    Entry,
    Events,
    Frame,
    Have,
    News,
    Range,
    Vector,
    Want,
)
from p2pnodes.model import inventory
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import Delegation, Event, Head, Verdict
from p2pnodes.model.inventory import Vote
from p2pnodes.model.requests import PURPOSE_DELETE, bound_purpose
from p2pnodes.model.validity import EMPTY, Judgement, judge
from tests.sim import lies
from tests.sim.liar import Face, Mask, Miser
from tests.sim.lies import ATTACKS, SURE, Hand
from tests.sim.pen import Pen
from tests.sim.simulation import SimulationError
from tests.sim.workload import GPUS
from tests.sim.world import World
from tests.support import MINERS, NETWORK, NOW_MS, Author, add, delete, hotkey

if TYPE_CHECKING:
    from tests.sim.peer import Speaker

SEEDS = range(40)


def hand(seed: int) -> Hand:
    """A liar's, who has heard of some requests."""
    author = Author("//validator0")
    author.delegate()
    for number, miner in enumerate(MINERS):
        author.add(add(miner, [GPUS[number]]))
    author.delete(delete(MINERS[0], PURPOSE_DELETE), GPUS[0])
    author.delete(delete(MINERS[1], bound_purpose(GPUS[1])), GPUS[1])
    claims = [request.claim_id for event in author.events for request in judged([*author.events[:1], event])[1].adds]
    return Hand(
        hotkey("//validator1"), NETWORK.id, random.Random(seed), NOW_MS, 100, claims, author.events[1:], [author.log]
    )


def judged(events: Sequence[Event]) -> list[Judgement]:
    """What every peer makes of a log, from its first event on."""
    found: list[Judgement] = []
    for event in events:
        found.append(judge(event, found[-1].prefix if found else EMPTY))
    return found


def valid(pen: Pen) -> list[bool]:
    return [judgement.payload is not None for judgement in judged(pen.events)]


class TestLogs:
    """Every log that a liar writes is stored by whoever meets it: its chain and its signatures are good."""

    @pytest.mark.parametrize("seed", SEEDS)
    def test_what_it_scribbles_is_valid(self, seed: int) -> None:
        mine = hand(seed)
        pen = lies.side_log(mine)
        lies.scribble(mine, pen, 10)
        assert valid(pen) == [True] * 11
        assert all(event.signed() for event in pen.events)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_branches_share_what_they_should_and_prove_a_fork_behind_it(self, seed: int) -> None:
        mine = hand(seed)
        pen = lies.side_log(mine)
        lies.scribble(mine, pen, 5)
        branches = lies.branches(mine, pen, 4, 3)
        for branch in branches:
            assert branch.events[:4] == pen.events[:4]
            assert all(valid(branch))
        rivals = {branch.events[4].id for branch in branches}
        assert len(rivals) == 3
        assert {branch.events[4].previous for branch in branches} == {pen.events[3].id}

    def test_some_of_what_is_backdated_is_valid_and_some_void_for_each_reason(self) -> None:
        reasons: set[str] = set()
        counted = 0
        for seed in SEEDS:
            found = judged(lies.backdated(hand(seed)).events)
            assert isinstance(found[0].payload, Delegation)
            reasons.update(judgement.void for judgement in found if judgement.void)
            counted += sum(judgement.payload is not None for judgement in found[1:])
        assert counted > len(SEEDS)
        for part in ("does not lie above", "outside the window", "since lies above"):
            assert any(part in reason for reason in reasons), part

    @pytest.mark.parametrize("seed", SEEDS)
    def test_a_backdated_log_is_older_than_a_day_and_not_too_far_ahead_to_be_stored(self, seed: int) -> None:
        events = lies.backdated(hand(seed)).events
        assert events[0].hlc < hlc_at(NOW_MS - lies.DAY_MS + 1)
        assert max(event.hlc for event in events) < hlc_at(NOW_MS + 60_000)

    def test_flips_say_opposite_things_of_one_claim_at_one_time_and_are_all_valid(self) -> None:
        mine = hand(3)
        one, other = lies.side_log(mine), lies.side_log(mine)
        for _ in range(10):
            lies.flips(mine, one, other)
        assert all(valid(one) + valid(other))
        votes = {(event.hlc, said.claim_id): said for event, said in _verdicts(one)}
        contradicted = [
            votes[event.hlc, said.claim_id].finding != said.finding
            for event, said in _verdicts(other)
            if (event.hlc, said.claim_id) in votes
        ]
        assert len(contradicted) > 10
        assert all(contradicted)


def _verdicts(pen: Pen) -> list[tuple[Event, Verdict]]:
    found = [(event, judgement.payload) for event, judgement in zip(pen.events, judged(pen.events), strict=True)]
    return [(event, payload) for event, payload in found if isinstance(payload, Verdict)]


class TestRequests:
    """Whatever a liar does to a miner's request, its signature does not cover it any more."""

    def test_nothing_forged_is_valid_and_replays_of_all_kinds_occur(self) -> None:
        forged_claims = forged_deletes = void = good = 0
        for seed in SEEDS:
            mine = hand(seed)
            pen = lies.side_log(mine)
            forged = lies.replays(mine, pen)
            for judgement in judged(pen.events)[1:]:
                assert not forged.claims.intersection(request.claim_id for request in judgement.adds)
                assert not forged.deletes.intersection(request.request_id for request in judgement.deletes)
                void += judgement.void is not None
                good += judgement.payload is not None
            forged_claims += len(forged.claims)
            forged_deletes += len(forged.deletes)
        assert min(forged_claims, forged_deletes, void, good) > len(SEEDS) // 4

    def test_without_anything_heard_it_still_forges(self) -> None:
        mine = hand(1)._replace(requests=(), claims=())
        pen = lies.side_log(mine)
        for _ in range(10):
            lies.replays(mine, pen)
        assert not any(valid(pen)[1:])

    def test_one_seed_writes_the_same_again(self) -> None:
        mine = hand(1)

        def written(seed: int) -> list[bytes]:
            pen = Pen(Author("//validator2").node_key, NETWORK.id, 0, mine.requests[:0])
            pen.write(Author("//validator2").delegation()._replace(signature=bytes(64)), hlc_at(NOW_MS))
            lies.replays(mine._replace(rng=random.Random(seed)), pen)
            return [event.wire for event in pen.events]

        assert written(7) == written(7) != written(8)


class TestAttacks:
    """What must cost the session is malformed or unasked; the rest is well-formed."""

    @pytest.mark.parametrize("name", sorted(ATTACKS))
    def test_an_attack_decodes_unless_it_is_malformed(self, name: str) -> None:
        malformed = SURE - {"unasked-range"}
        for seed in SEEDS:
            for frame in ATTACKS[name](hand(seed))[:5]:
                if name in malformed:
                    with pytest.raises(RemoteProtocolError):
                        frames.decode(frame)
                else:
                    frames.decode(frame)

    def test_every_attack_is_drawn(self) -> None:
        assert {lies.attack(hand(seed)).name for seed in range(200)} == set(ATTACKS)


class Other:
    """A peer at the other end, by its index."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = f"p{index}"
        self.honest = True


def told(mask: Mask, index: int, frame: Frame) -> Frame | None:
    """What a peer sees of a frame that passes a mask."""
    encoded = frame.encode()
    left = mask.sends(cast("Speaker", Other(index)), encoded[1], encoded)
    return None if left is None else frames.decode(left)


def answered(mask: Mask, index: int, frame: Frame) -> list[Frame] | None:
    """What a peer's frame is answered with, by a mask."""
    encoded = frame.encode()
    answers = mask.answers(cast("Speaker", Other(index)), encoded[1], encoded)
    return None if answers is None else [frames.decode(answer) for answer in answers]


class TestFaces:
    """A face shows each peer its own branch, and the rest of the liar's frames as they are."""

    def scene(self, *, rest: bool) -> tuple[Face, Pen, Pen, Author]:
        """A face that shows peer 1 another branch than peer 2 sees, and somebody else's log."""
        mine = hand(5)
        pen = lies.side_log(mine)
        lies.scribble(mine, pen, 3)
        one, other = lies.branches(mine, pen, 3, 2)
        stranger = Author("//validator2")
        stranger.delegate()
        return Face(pen.log, {1: one.events, 2: other.events}, 1.0, rest=rest), one, other, stranger

    def test_pushes_of_the_other_branch_are_left_out(self) -> None:
        face, one, other, stranger = self.scene(rest=True)
        pushed = Events([stranger.events[0].wire, *(event.wire for event in other.events)])
        assert told(face, 1, pushed) == Events([stranger.events[0].wire, *(event.wire for event in one.events[:3])])
        assert told(face, 2, pushed) == pushed
        assert told(face, 3, pushed) == pushed
        assert told(face, 1, Events([event.wire for event in other.events[3:]])) is None

    def test_who_is_to_see_nothing_sees_nothing(self) -> None:
        face, one, _, stranger = self.scene(rest=False)
        entry = Entry(stranger.log, Head(0, stranger.events[0].id), None)
        entries = sorted([entry, Entry(one.log, Head(3, one.events[3].id), None)])
        assert told(face, 3, Events([event.wire for event in one.events])) is None
        vector = told(face, 3, Vector(0, True, ALL_SLICES, entries))
        assert vector == Vector(0, True, ALL_SLICES, [entry])
        assert answered(face, 3, Want(one.log, 0, 512, 262_144)) == [Range(one.log, 0, [])]

    def test_a_vector_names_the_head_of_the_branch_that_the_peer_is_shown(self) -> None:
        face, one, other, _ = self.scene(rest=True)
        vector = Vector(0, True, ALL_SLICES, [Entry(one.log, Head(0, one.events[0].id), None)])
        shown = told(face, 2, vector)
        assert isinstance(shown, Vector)
        assert shown.entries[0].head == Head(other.last_seq, other.events[-1].id)

    def test_wants_are_served_from_the_branch_within_their_credit(self) -> None:
        face, one, other, stranger = self.scene(rest=True)
        wires = [event.wire for event in other.events]
        assert answered(face, 2, Want(one.log, 1, 512, 262_144)) == [Range(one.log, 1, wires[1:])]
        assert answered(face, 2, Want(one.log, 1, 2, 262_144)) == [Range(one.log, 1, wires[1:3])]
        assert answered(face, 2, Want(one.log, 0, 512, 1)) == [Range(one.log, 0, wires[:1])]
        assert answered(face, 3, Want(one.log, 1, 512, 262_144)) is None
        assert answered(face, 2, Want(stranger.log, 0, 512, 262_144)) is None

    def test_a_range_that_was_read_before_the_face_was_put_on_is_replaced(self) -> None:
        face, one, other, _ = self.scene(rest=True)
        read = Range(one.log, 3, [event.wire for event in other.events[3:]])
        assert told(face, 1, read) == Range(one.log, 3, [event.wire for event in one.events[3:]])


class TestMisers:
    """A miser keeps back what it says it keeps back."""

    def miser(self, way: str) -> Miser:
        return next(miser for seed in range(500) if (miser := Miser(random.Random(seed), 1.0)).ways == {way})

    def test_each_way_of_being_a_miser(self) -> None:
        mine = hand(2)
        pen = lies.side_log(mine)
        lies.scribble(mine, pen, 4)
        wires = [event.wire for event in pen.events]
        entry = Entry(pen.log, Head(4, pen.events[4].id), None)
        have, vector = Have([News(b"tagofalog"[:8], 4, 0)]), Vector(0, True, ALL_SLICES, [entry])
        asked = Range(pen.log, 0, wires)
        assert told(self.miser("mute"), 1, Events(wires)) is None
        assert told(self.miser("mute"), 1, have) is None
        assert told(self.miser("empty"), 1, asked) == Range(pen.log, 0, [])
        assert told(self.miser("trickle"), 1, asked) == Range(pen.log, 0, wires[:1])
        assert answered(self.miser("silent"), 1, Want(pen.log, 0, 512, 1)) == []
        assert answered(self.miser("mute"), 1, Want(pen.log, 0, 512, 1)) is None
        digest = Digest(True, NOW_MS, bytes(32), bytes(32), bytes(32))
        other = Digest(False, NOW_MS + 1, b"v" * 32, b"r" * 32, b"e" * 32)
        echo = self.miser("echo")
        assert told(echo, 1, digest) == digest
        assert answered(echo, 1, other) is None
        assert told(echo, 1, digest) == other._replace(asks=True, clock_ms=NOW_MS)
        assert told(echo, 2, digest) == digest
        late = told(self.miser("clock"), 1, digest)
        assert isinstance(late, Digest)
        assert abs(late.clock_ms - NOW_MS) > 60_000
        boaster = self.miser("boast")
        boasted = [told(boaster, 1, vector) for _ in range(20)]
        heads = [each.entries[0].head for each in boasted if isinstance(each, Vector)]
        assert len(heads) == 20
        assert any(head is not None and head.seq > 4 for head in heads)
        longer = told(boaster, 1, have)
        assert isinstance(longer, Have)
        assert longer.news[0].seq > 4


def ran(seed: int, *kinds: str, peers: int = 5, minutes: float = 0.7) -> World:
    """A run with liars, to its end."""
    world = World(seed, peers=peers, minutes=minutes, faults=kinds)
    world.trace.lines = deque()  # all of them
    try:
        world.run()
    finally:
        world.close()
    return world


def said(world: World, what: str) -> list[str]:
    """The lines of a run's log that tell of one thing."""
    return [line for line in world.trace.lines if line.split()[2:3] == [what]]


class TestRuns:
    """Networks with liars end as those without: the honest agree, and each kind of deed has bitten by then."""

    def test_a_quarter_of_the_stake_lies_at_most_and_somebody_does_from_four_peers_on(self) -> None:
        for seed in range(5):
            for peers in (3, 4, 12):
                world = World(seed, peers=peers, faults=["fork"])
                liars = [peer.index for peer in world.peers if not peer.honest]
                assert bool(liars) is (peers >= 4)
                assert len(liars) <= max(1, peers // 6)
                assert 4 * sum(world.stakes[index] for index in liars) <= sum(world.stakes)
                world.close()
        world = World(1, peers=12, faults=["crash"])
        assert all(peer.honest for peer in world.peers)
        world.close()

    def test_who_forks_is_convicted_by_all_who_are_honest(self) -> None:
        assert sum(ran(seed, "fork").crimes.convicted for seed in (1, 2)) >= 2

    def test_what_is_backdated_or_forged_is_void(self) -> None:
        assert said(ran(1, "backdate"), "void_event")
        world = ran(2, "replay")
        assert world.crimes.forged.claims
        assert said(world, "void_event")

    def test_who_attacks_is_banned(self) -> None:
        world = ran(1, "hostile")
        assert len(said(world, "bans")) >= 3

    @pytest.mark.parametrize("kind", ["withhold", "split", "flip"])
    def test_nothing_that_is_kept_back_or_contradicted_keeps_the_honest_apart(self, kind: str) -> None:
        assert said(ran(2, kind), "fault")


def fails(*kinds: str, seeds: range = range(1, 9)) -> None:
    """Run seeds until one fails."""
    for seed in seeds:
        ran(seed, *kinds)


class TestCheckers:
    """What lets a lie through is found."""

    def test_a_fork_that_nobody_proves_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.store.ledger.rivalry", lambda *_: None)
        with pytest.raises(SimulationError, match=r"does not know that log|not at rest"):
            fails("fork")

    def test_a_request_that_nobody_signed_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.model.validity.verify_request", lambda _: True)
        with pytest.raises(SimulationError, match=r"nobody signed|did not sign"):
            fails("replay")

    def test_a_peer_that_goes_on_with_an_attacker_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Engine, "_close", lambda *_: None)
        with pytest.raises(SimulationError, match=r"goes on with p\d after"):
            fails("hostile")

    def test_a_vote_that_does_not_give_way_to_a_later_one_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def first_votes(votes: Iterable[Vote]) -> dict[bytes, Vote]:
            found: dict[bytes, Vote] = {}
            for vote in sorted(votes, key=lambda vote: vote.hlc, reverse=True):
                found[vote.author] = vote
            return found

        monkeypatch.setattr(inventory, "latest_votes", first_votes)
        with pytest.raises(SimulationError, match="a plain reading of the design gives"):
            fails("flip")
