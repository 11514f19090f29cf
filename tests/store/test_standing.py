"""Which claims stand on a GPU: found from its last deletions, and the same as from all that was ever said of it."""

import random
from typing import Final

import pytest

from p2pnodes.model import inventory
from p2pnodes.model.requests import Add, Delete, request_id
from p2pnodes.store.ledger import Ledger
from tests.store.test_branches import evidence_of
from tests.support import NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, delete, electorate, memory_ledger

GPUS: Final = ("gpu-1", "gpu-2", "gpu-3")
ROUNDS: Final = 50


def cycled(rounds: int, purpose: str) -> Ledger:
    """A ledger in which a miner registered a server and deleted its GPUs so often; the last registration stands."""
    author, ledger = Author(VALIDATORS[0]), memory_ledger()
    author.delegate()
    for second in range(NOW_S - rounds, NOW_S):
        author.add(add("//Alice", GPUS, second))
        for gpu in GPUS:
            author.delete(delete("//Alice", purpose or f"nodes:{gpu}", second), gpu)
    author.add(add("//Alice", GPUS))
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS)
    return ledger


@pytest.mark.parametrize("purpose", ["", "nodes"])
def test_of_a_gpu_that_is_registered_and_deleted_again_and_again_the_last_of_it_is_looked_at(purpose: str) -> None:
    """All that was ever said of it was: one miner could make his polls take a second, and others' wait for them."""
    ledger = cycled(ROUNDS, purpose)
    facts, who = ledger.facts, ledger.weights.electorate
    deletions, ended = facts.last_endings(GPUS, who)
    assert [len(deletions[gpu]) for gpu in GPUS] == [1, 1, 1]
    assert [len(claims) for claims in facts.claims_on(GPUS, ended=ended).values()] == [2, 2, 2]
    assert [len(claims) for claims in facts.claims_on(GPUS).values()] == [ROUNDS + 1] * 3


def test_a_deletion_that_counts_hides_none_that_counts_above_it() -> None:
    """It is found by another GPU, whose last deletion counts for nothing there, and is not its own GPU's last."""
    author, nobody, ledger = Author(VALIDATORS[0]), Author(VALIDATORS[1]), memory_ledger()
    for each in (author, nobody):
        each.delegate()
    unbound = delete("//Alice", "nodes", NOW_S + 1)
    nobody.delete(unbound, "gpu-1")
    author.delete(unbound, "gpu-2")
    author.add(add("//Alice", ["gpu-2"], NOW_S + 2))
    author.delete(delete("//Alice", "nodes", NOW_S + 3), "gpu-2")
    nobody.delete(delete("//Alice", "nodes", NOW_S + 4), "gpu-2")
    with ledger.transaction():
        for each in (author, nobody):
            ledger.receive(each.events, NOW_MS)
        ledger.set_electorate(electorate(200, NOW_MS + 1, stakes={VALIDATORS[0]: 100}))
    assert ledger.facts.standing(["gpu-1", "gpu-2"], ledger.weights) == {"gpu-1": {}, "gpu-2": {}}


class World:
    """Registrations and deletions at random: some by authors who lose their permit, in cut logs, or cancelled."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.authors = [Author(uri) for uri in VALIDATORS]
        self.requests: list[Add | Delete] = []
        for author in self.authors:
            author.delegate()

    def say(self) -> None:
        some = self.random
        author = some.choice(self.authors)
        again = [request for request in self.requests if isinstance(request, Delete)]
        gpu, miner, nonce = some.choice(GPUS), some.choice(["//Alice", "//Bob"]), NOW_S + some.randrange(5)
        claims = [request for request in self.requests if isinstance(request, Add)]
        match some.randrange(5):
            case 0 | 1:
                claim = add(miner, some.sample(GPUS, some.choice([1, 1, 2, 3])), nonce)
                self.requests.append(claim)
                author.add(claim, block=some.choice([100, 100, 2**40]))
                return
            case 2 if again:
                request = some.choice(again)
                gpu = request.purpose.partition(":")[2] or gpu
            case 3:
                request = delete(miner, "nodes", nonce)
            case _:
                request = delete(miner, f"nodes:{gpu}", nonce)
        self.requests.append(request)
        named = sorted({request_id(NETWORK.id, claim) for claim in some.sample(claims, min(len(claims), 2))})
        author.delete(request, gpu, named)

    def ledger(self) -> Ledger:
        ledger = memory_ledger()
        with ledger.transaction():
            for author in self.authors:
                ledger.receive(author.events, NOW_MS)
        for author in self.authors:
            if self.random.random() < 0.3 and len(author.events) > 2:
                with ledger.transaction():
                    ledger.receive_proofs([evidence_of(author, self.random.randrange(1, len(author.events)))], NOW_MS)
        if self.random.random() < 0.7:
            with ledger.transaction():
                ledger.set_electorate(electorate(200, NOW_MS + 1, stakes={VALIDATORS[0]: 100}))
        return ledger


@pytest.mark.parametrize("seed", range(40))
def test_they_are_those_that_stand_by_all_that_was_said(seed: int) -> None:
    world = World(seed)
    for _ in range(world.random.choice([5, 12, 30])):
        world.say()
    ledger = world.ledger()
    facts, weights = ledger.facts, ledger.weights
    for gpus in (*([gpu] for gpu in GPUS), GPUS, [*GPUS, "gpu-4"]):
        claims, deletions = facts.claims_on(gpus), facts.deletions(gpus)
        found = facts.standing(gpus, weights)
        assert found.keys() == set(gpus)
        for gpu in gpus:
            expected = inventory.standing(gpu, claims[gpu].values(), deletions[gpu], weights.electorate)
            assert list(found[gpu].values()) == expected
            assert all(claims[gpu][key] == claim for key, claim in found[gpu].items())
