"""What other weights cannot change stays; what they can change is named, and little else is."""

from collections.abc import Iterable, Sequence
from typing import Final

import pytest
from hypothesis import given, settings

from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED, AddPayload, Event, Place
from p2pnodes.model.inventory import Weights, standing
from p2pnodes.model.requests import request_id
from p2pnodes.store import reweighed as module
from p2pnodes.store import rows
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.reweighed import UUID_LAST, Reweighed, windows
from tests.model.world import World, worlds
from tests.store.test_equivalence import Replica
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, delete, electorate, memory_ledger

STAKES: Final = dict.fromkeys(VALIDATORS, 100)
TTL_MS: Final = NETWORK.verdict_ttl_s * 1000


class Named:
    """What is named for a change from the weights in force to an electorate."""

    def __init__(self, ledger: Ledger, now: Electorate) -> None:
        facts, weights = ledger.facts, Weights(NETWORK, now, ledger.facts.mandates())
        reweighed = Reweighed(facts, ledger.weights, weights)
        found = list(windows(reweighed))
        self.weights = weights
        self.tallies = {key for window in found for key in window.tallies}
        self.stirred = {key for window in found for key in window.stirred}
        self.gpus = reweighed.gpus("", UUID_LAST)

    @property
    def nothing(self) -> bool:
        """Whether nothing is."""
        return not (self.tallies or self.stirred or self.gpus)


class TestNothingThatChangesIsMissed:
    """In drawn worlds, for every electorate that may come next: what is not named is what it was."""

    @pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure
    @pytest.mark.parametrize("window", [1, 256])
    @settings(max_examples=100)
    @given(world=worlds())
    def test_what_is_not_named_stays(self, window: int, world: World) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "WINDOW", window)
            replica = Replica(world.end_ms)
            for who in world.electorates:
                replica.weigh(who)
                replica.hear(world.events)
                for now in (*world.electorates, *turned(who)):
                    self.check(replica.ledger, now)

    def check(self, ledger: Ledger, now: Electorate) -> None:
        named = Named(ledger, now)
        facts, before, weights = ledger.facts, ledger.weights.electorate, named.weights
        keys = [key for (key,) in facts.connection.execute("SELECT claim FROM claim")]
        tallies = facts.tallies(keys, weights)
        assert {key for key, held, _ in facts.held_tallies(keys) if held != tallies[key]} <= named.tallies
        uuids = facts.gpus()
        decided = rows.decide(facts, uuids, lambda keys: facts.tallies(keys, weights), weights)
        held = facts.held_rows(uuids)
        for uuid, decision in decided.items():
            if uuid in named.gpus or not (named.tallies | named.stirred).isdisjoint(decision.claims):
                continue
            row = None if decision.row is None else (decision.owner, decision.digest)
            assert row == held.get(uuid)
            claims = decision.claims.values()
            one, other = (standing(uuid, claims, decision.deletions, who) for who in (before, now))
            assert one == other


def turned(who: Electorate) -> Iterable[Electorate]:
    """Electorates as the next block could have them: one stake is another, one permit is gone, one miner, an hour."""
    current = who.current
    for voter, held in current.validators.items():
        others = {other: stake for other, stake in current.validators.items() if other != voter}
        for stake in (1, held + 1, 1000):
            yield Electorate(current._replace(validators={**others, voter: stake}))
        yield Electorate(current._replace(validators=others))
        yield Electorate(current._replace(validators=others, block=current.block + 100), current)
    for miner in current.registered:
        yield Electorate(current._replace(registered={**current.registered, miner: current.block}))
    yield Electorate(current._replace(time_ms=current.time_ms + 3_600_000))


class Scene:
    """Three validators with what they say about the claims of two miners, and the ledger that hears it."""

    def __init__(self) -> None:
        self.authors = [Author(uri) for uri in VALIDATORS]
        for author in self.authors:
            author.delegate()
        self.ledger = memory_ledger(who=electorate(stakes=STAKES))
        self.hear()

    def hear(self, *others: Author) -> None:
        """Let the ledger take what it has not."""
        events: list[Event] = [event for author in (*self.authors, *others) for event in author.events]
        with self.ledger.transaction():
            self.ledger.receive(events, NOW_MS + 60_000)

    def claim(self, miner: str, uuids: Sequence[str], *findings: str, by: int = 0) -> bytes:
        """A claim and what validators find of it, a second after each other."""
        request = add(miner, uuids)
        self.authors[by].add(request)
        claim_id = request_id(NETWORK.id, request)
        for index, (author, finding) in enumerate(zip(self.authors, findings, strict=False)):
            author.verdict(claim_id, finding, at_ms=NOW_MS + 1000 * index)
        self.hear()
        return claim_id

    def key(self, claim_id: bytes) -> int:
        key = self.ledger.facts.claim_key(claim_id)
        assert key is not None
        return key

    def named(self, stakes: dict[str, int] | None = None, **others: object) -> Named:
        """What is named for the next block's electorate."""
        time_ms = others.pop("time_ms", NOW_MS)
        assert isinstance(time_ms, int)
        return Named(self.ledger, electorate(BLOCK + 100, time_ms, stakes=stakes or STAKES, **others))  # type: ignore[arg-type]


@pytest.fixture
def scene() -> Scene:
    return Scene()


class TestTallies:
    """Votes."""

    def test_a_stake_that_turns_nothing_names_nothing(self, scene: Scene) -> None:
        scene.claim("//Alice", ["gpu-1"], VERIFIED, VERIFIED, VERIFIED)
        scene.claim("//Alice", ["gpu-2"], FAILED, FAILED, VERIFIED)
        scene.claim("//Bob", ["gpu-3"], VERIFIED, ABSTAIN)
        scene.claim("//Bob", ["gpu-4"])
        assert scene.named(STAKES | {VALIDATORS[0]: 101}).nothing

    def test_a_stake_that_turns_a_vote_names_its_claims_alone(self, scene: Scene) -> None:
        scene.claim("//Alice", ["gpu-1"], FAILED, FAILED, FAILED)
        turning = scene.claim("//Alice", ["gpu-2"], VERIFIED, VERIFIED, FAILED)
        named = scene.named(STAKES | {VALIDATORS[2]: 200})  # half is not more than half, and fails it
        assert named.tallies == {scene.key(turning)}
        assert not named.stirred

    def test_a_stake_that_moves_verified_since_names_the_claim(self, scene: Scene) -> None:
        claim_id = scene.claim("//Alice", ["gpu-1"], VERIFIED, VERIFIED, VERIFIED)
        assert scene.named(STAKES | {VALIDATORS[0]: 201}).tallies == {scene.key(claim_id)}  # the first decides alone
        assert scene.named(STAKES | {VALIDATORS[2]: 201}).tallies == {scene.key(claim_id)}  # now it takes the last

    def test_a_stake_that_changes_whose_detail_is_told_names_the_claim(self, scene: Scene) -> None:
        claim_id = scene.claim("//Alice", ["gpu-1"], FAILED, FAILED)
        with scene.ledger.transaction():
            scene.ledger.facts.connection.execute("UPDATE verdict SET detail = 'other' WHERE log = 2")
            scene.ledger._unsettled.everything = True
        assert scene.named(STAKES | {VALIDATORS[1]: 101}).tallies == {scene.key(claim_id)}

    def test_verdicts_that_lapse_name_their_claims(self, scene: Scene) -> None:
        claim_id = scene.claim("//Alice", ["gpu-1"], VERIFIED, VERIFIED, VERIFIED)
        assert scene.named(time_ms=NOW_MS + TTL_MS).nothing
        assert scene.named(time_ms=NOW_MS + TTL_MS + 1_001).tallies == {scene.key(claim_id)}

    def test_the_latest_of_several_logs_of_a_hotkey_is_counted(self, scene: Scene) -> None:
        claim_id = scene.claim("//Alice", ["gpu-1"], FAILED, VERIFIED, VERIFIED)
        later = Author(VALIDATORS[0], number=1)
        later.delegate()
        later.verdict(claim_id, VERIFIED, at_ms=NOW_MS + 5000)
        scene.hear(later)
        assert scene.named(STAKES | {VALIDATORS[0]: 101}).nothing
        assert scene.named(STAKES | {VALIDATORS[0]: 1000}).tallies == {scene.key(claim_id)}  # its since decides

    def test_two_logs_of_a_hotkey_at_one_hlc_are_looked_at(self, scene: Scene) -> None:
        claim_id = scene.claim("//Alice", ["gpu-1"], VERIFIED, VERIFIED, VERIFIED)
        twin = Author(VALIDATORS[0], number=1)
        twin.delegate()
        twin.verdict(claim_id, FAILED, at_ms=NOW_MS + 5000)
        scene.hear(twin)
        with scene.ledger.transaction():
            scene.ledger.facts.connection.execute(
                "UPDATE verdict SET hlc = (SELECT max(hlc) FROM verdict WHERE log = 1) WHERE log = 4"
            )
            scene.ledger._unsettled.everything = True
        assert scene.named(STAKES).tallies == {scene.key(claim_id)}

    def test_stakes_too_large_for_sums_have_everything_counted(self, scene: Scene) -> None:
        claim_id = scene.claim("//Alice", ["gpu-1"], VERIFIED, VERIFIED, VERIFIED)
        large = INT_MAX // 2 // 3
        assert scene.named(dict.fromkeys(VALIDATORS, large)).nothing
        assert scene.named(dict.fromkeys(VALIDATORS, large + 1)).tallies == {scene.key(claim_id)}


class TestRows:
    """Who is permitted, enrolled and registered, and since when."""

    def test_a_miner_that_leaves_stirs_its_own_claims(self, scene: Scene) -> None:
        scene.claim("//Alice", ["gpu-1"])
        bobs = scene.claim("//Bob", ["gpu-2"])
        named = scene.named(miners=["//Alice", "//Charlie", "//Dave"])
        assert named.stirred == {scene.key(bobs)}
        assert not named.tallies

    def test_a_validator_that_loses_its_permit_stirs_the_claims_that_it_carries(self, scene: Scene) -> None:
        scene.claim("//Alice", ["gpu-1"], by=0)
        carried = scene.claim("//Alice", ["gpu-2"], by=2)
        named = scene.named({uri: STAKES[uri] for uri in VALIDATORS[:2]})
        assert named.stirred == {scene.key(carried)}

    def test_a_claim_that_names_a_block_that_is_now_reached_is_stirred(self, scene: Scene) -> None:
        scene.claim("//Alice", ["gpu-1"])
        request = add("//Bob", ["gpu-2"])
        scene.authors[1].write(AddPayload(request, BLOCK + 100))
        scene.hear()
        assert scene.named().stirred == {scene.key(request_id(NETWORK.id, request))}

    def test_deletions_of_a_validator_that_loses_its_permit_name_their_gpus(self, scene: Scene) -> None:
        scene.claim("//Alice", ["gpu-1", "gpu-2", "gpu-3"])
        unbound = delete("//Alice", "nodes", NOW_S + 1)
        scene.authors[0].delete(unbound, "gpu-1")
        scene.authors[1].delete(unbound, "gpu-2")  # which makes both count for nothing
        scene.authors[0].delete(delete("//Alice", "nodes:gpu-3", NOW_S + 1), "gpu-3")
        scene.hear()
        assert scene.named({uri: STAKES[uri] for uri in (VALIDATORS[0], VALIDATORS[2])}).gpus == {"gpu-1", "gpu-2"}

    def test_places_of_a_validator_that_is_enrolled_no_more_name_their_claims(self, scene: Scene) -> None:
        claims = [scene.claim("//Alice", [uuid], VERIFIED, VERIFIED, VERIFIED) for uuid in ("gpu-1", "gpu-2")]
        for author, claim_id, uuid in zip(scene.authors, claims, ("gpu-1", "gpu-2"), strict=False):
            author.write(Place(claim_id, (uuid,), "chute", "instance", True, True, "chat", "carol"))
        scene.hear()
        named = scene.named({uri: STAKES[uri] for uri in (VALIDATORS[0], VALIDATORS[2])})
        assert named.stirred == {scene.ledger.facts.claim_key(claims[1])}
        assert not named.gpus


class TestCost:
    """Nothing else is computed anew."""

    def test_an_electorate_that_turns_nothing_counts_and_decides_nothing(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(8):
            scene.claim("//Alice", [f"gpu-{number}"], VERIFIED, VERIFIED, VERIFIED)
        looked: list[str] = []
        facts = scene.ledger.facts
        for name in ("votes", "claims_on"):
            monkeypatch.setattr(facts, name, lambda keys, name=name, **_: looked.append(name) if keys else {})
        before = scene.ledger.state
        with scene.ledger.transaction():
            scene.ledger.set_electorate(electorate(BLOCK + 100, stakes=STAKES | {VALIDATORS[0]: 101}))
        assert looked == []
        assert scene.ledger.state.state_root == before.state_root
        assert scene.ledger.state.electorate_digest != before.electorate_digest

    @pytest.mark.parametrize("table", ["verdict", "carriage", "placement", "deletion"])
    def test_no_table_is_read_but_by_the_window(self, scene: Scene, table: str) -> None:
        statements: list[str] = []
        connection = scene.ledger.facts.connection
        scene.claim("//Alice", ["gpu-1"], VERIFIED, VERIFIED, VERIFIED)
        connection.set_trace_callback(statements.append)
        scene.named({uri: STAKES[uri] for uri in VALIDATORS[1:]})
        connection.set_trace_callback(None)
        plans = [row[3] for text in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
        alias = {"verdict": "v", "carriage": "r", "placement": "p", "deletion": "d"}[table]
        steps = [step for step in plans if step.split()[1] == alias]
        assert steps
        assert all(step.startswith("SEARCH") for step in steps)


def test_the_pin_says_all_that_is_compared() -> None:
    """A further field of a pin may be one that rows follow from: then it is to be compared, too."""
    assert Pin._fields == ("block", "time_ms", "validators", "registered", "addresses")
