"""Which claims name a GPU is told by its row, and of claims that have no row by ``claim_gpu``; never by both."""

from functools import partial
from pathlib import Path
from typing import Final

import pytest

from p2pnodes.model.events import VERIFIED, AddPayload, Place
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import Add, request_id, sign_add
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.bench.world import MINERS, NODE_SEED, fill, given, now_ms, renew, uuids
from tests.store.references import dangling
from tests.store.steps import steps
from tests.support import (
    BLOCK,
    NETWORK,
    NOW_MS,
    NOW_S,
    VALIDATORS,
    Author,
    add,
    body,
    delete,
    electorate,
    hotkey,
    memory_ledger,
)

GPU: Final = "gpu-1"
STAKES: Final = dict.fromkeys(VALIDATORS, 100)


class Scene:
    """One ledger, and the validators whose events it takes."""

    def __init__(self) -> None:
        self.authors = [Author(uri) for uri in VALIDATORS]
        for author in self.authors:
            author.delegate()
        self.ledger = memory_ledger(who=electorate(stakes=STAKES))
        self.hear()

    def hear(self) -> None:
        with self.ledger.transaction():
            self.ledger.receive([event for author in self.authors for event in author.events], NOW_MS + 60_000)
        assert dangling(self.ledger.facts.connection) == []

    def claim(self, request: Add) -> bytes:
        self.authors[0].add(request)
        self.hear()
        return request_id(NETWORK.id, request)

    def verify(self, claim_id: bytes) -> None:
        for author in self.authors:
            author.verdict(claim_id, VERIFIED)
        self.hear()

    def told(self, table: str) -> set[bytes]:
        """The claims that a table has on the GPU."""
        query = f"SELECT claim_id FROM {table} JOIN claim USING (claim) WHERE uuid = ?"
        return {claim_id for (claim_id,) in self.ledger.facts.connection.execute(query, (GPU,))}

    def named(self) -> set[bytes]:
        """The claims that are found on the GPU."""
        return {claim.id for claim in self.ledger.facts.claims_on([GPU])[GPU].values()}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_of_a_gpu_that_one_claim_names_the_row_tells_it(scene: Scene) -> None:
    claim = scene.claim(add("//Alice", [GPU]))
    assert (scene.told("node"), scene.told("claim_gpu"), scene.named()) == ({claim}, set(), {claim})


def test_of_several_claims_those_without_the_row_are_told_beside_it(scene: Scene) -> None:
    first, second = scene.claim(add("//Alice", [GPU])), scene.claim(add("//Bob", [GPU], NOW_S + 1))
    assert (scene.told("node"), scene.told("claim_gpu")) == ({first}, {second})
    assert scene.named() == {first, second}


def test_they_change_places_when_the_vote_gives_the_other_one_the_row(scene: Scene) -> None:
    first, second = scene.claim(add("//Alice", [GPU])), scene.claim(add("//Bob", [GPU], NOW_S + 1))
    scene.verify(second)
    assert (scene.told("node"), scene.told("claim_gpu")) == ({second}, {first})
    assert scene.named() == {first, second}


def test_a_claim_whose_gpu_is_deleted_is_told_without_a_row(scene: Scene) -> None:
    request = add("//Alice", [GPU])
    claim = scene.claim(request)
    scene.authors[0].delete(delete("//Alice", f"nodes:{GPU}", int(request.nonce) + 1), GPU, [claim])
    scene.hear()
    assert (scene.told("node"), scene.told("claim_gpu"), scene.named()) == (set(), {claim}, {claim})


def test_a_claim_of_a_miner_that_is_not_registered_is_told_without_a_row_until_it_is(scene: Scene) -> None:
    request = add("//Eve", [GPU])
    claim = scene.claim(request)
    assert (scene.told("node"), scene.told("claim_gpu")) == (set(), {claim})
    now = electorate(stakes=STAKES, miners=("//Alice", "//Bob", "//Eve"))
    with scene.ledger.transaction():
        scene.ledger.set_electorate(now)
    assert (scene.told("node"), scene.told("claim_gpu")) == ({claim}, set())
    assert dangling(scene.ledger.facts.connection) == []


def test_the_same_is_told_after_a_recount(scene: Scene) -> None:
    """Alice leaves the chain: one GPU is Bob's then, the other one nobody's."""
    alices, bobs = scene.claim(add("//Alice", [GPU, "gpu-2"])), scene.claim(add("//Bob", [GPU], NOW_S + 1))
    ledger = scene.ledger
    ledger.begin_recount(electorate(BLOCK + 100, stakes=STAKES, miners=("//Bob",)))
    assert ledger.recount is not None
    while not ledger.recount.ready:
        ledger.advance_recount(1.0)
    with ledger.transaction():
        ledger.switch()
    ledger.end_recount()
    assert (scene.told("node"), scene.told("claim_gpu")) == ({bobs}, {alices})
    assert dangling(ledger.facts.connection) == []


@pytest.mark.parametrize("parts", range(8))
def test_a_place_beside_a_recount_counts_as_the_electorate_says(scene: Scene, parts: int) -> None:
    """Its validator is enrolled no more: whenever it came, it is not shown after the switch."""
    claim = scene.claim(add("//Alice", [GPU]))
    ledger, (*_, author) = scene.ledger, scene.authors
    ledger.begin_recount(electorate(BLOCK + 100, stakes={uri: STAKES[uri] for uri in VALIDATORS[:-1]}))
    assert ledger.recount is not None
    for _ in range(parts):
        if not ledger.recount.ready:
            ledger.advance_recount(0)
    author.write(Place(claim, (GPU,), "chute", "instance", True, True, "chat", "carol"))
    scene.hear()
    query = "SELECT chute_id FROM node"
    assert ledger.facts.connection.execute(query).fetchall() == [("chute",)]
    while not ledger.recount.ready:
        ledger.advance_recount(1.0)
    with ledger.transaction():
        ledger.switch()
    ledger.end_recount()
    assert ledger.facts.connection.execute(query).fetchall() == [(None,)]


def test_places_under_a_claim_on_other_gpus_are_not_looked_at(scene: Scene) -> None:
    """A place may name 64 GPUs, whichever its claim has."""
    scene.claim(add("//Alice", [GPU]))
    facts, statements = scene.ledger.facts, list[str]()
    facts.connection.set_trace_callback(statements.append)
    facts.placements(facts.claims_on([GPU]))
    facts.connection.set_trace_callback(None)
    (query,) = (text for text in statements if "placement" in text)
    plan = [row[3] for row in facts.connection.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert any("claim_id=? AND uuid=?" in step for step in plan if "placement" in step)


def test_places_of_many_claims_cost_as_much_as_these_are(scene: Scene) -> None:
    """They are read for all claims of a transaction, and for all of a part where everything is decided anew."""
    facts, gpus = scene.ledger.facts, [f"gpu-{number}" for number in range(64)]
    for gpu in gpus:
        claim = scene.claim(add("//Alice", [gpu]))
        scene.authors[0].write(Place(claim, (gpu,), "chute", "instance", True, True, "chat", "carol"))
    scene.hear()
    few, many = (facts.claims_on(names) for names in (gpus[:8], gpus))
    assert set(map(len, facts.placements(many).values())) == {1}
    cost = [steps(facts.connection, partial(facts.placements, on)) for on in (few, many)]
    assert cost[1] < 12 * cost[0]


def test_the_same_is_told_when_everything_is_derived_anew(scene: Scene) -> None:
    request = add("//Alice", [GPU, "gpu-2"])
    first, second = scene.claim(request), scene.claim(add("//Bob", [GPU], NOW_S + 1))
    scene.authors[0].delete(delete("//Alice", "nodes:gpu-2", int(request.nonce) + 1), "gpu-2", [first])
    scene.claim(add("//Eve", ["gpu-3"]))
    scene.verify(second)
    query = "SELECT uuid, claim_id FROM claim_gpu JOIN claim USING (claim) ORDER BY uuid"
    before = scene.ledger.facts.connection.execute(query).fetchall()
    assert [uuid for uuid, _ in before] == [GPU, "gpu-2", "gpu-3"]
    with scene.ledger.transaction():
        scene.ledger.rebuild()
    assert scene.ledger.facts.connection.execute(query).fetchall() == before
    assert dangling(scene.ledger.facts.connection) == []


def test_a_claim_is_found_in_the_transaction_that_brings_it(scene: Scene) -> None:
    request = add("//Alice", [GPU])
    scene.authors[0].add(request)
    facts = scene.ledger.facts
    with scene.ledger.transaction():
        assert not facts.named([GPU])
        scene.ledger.receive(scene.authors[0].events, NOW_MS)
        assert scene.named() == {request_id(NETWORK.id, request)}
        assert facts.named([GPU])
        assert [miner for _, miner in facts.history(GPU, 0, 8)] == [request.hotkey]
    assert not facts.fresh


def test_one_whose_transaction_is_undone_is_not(scene: Scene) -> None:
    scene.authors[0].add(add("//Alice", [GPU]))

    def bring() -> None:
        with scene.ledger.transaction():
            scene.ledger.receive(scene.authors[0].events, NOW_MS)
            raise LookupError

    with pytest.raises(LookupError):
        bring()
    assert scene.named() == set()
    assert not scene.ledger.facts.named([GPU])


def test_a_registration_writes_one_page_at_random_for_each_gpu(tmp_path: Path) -> None:
    registrations, gpus = 8, 8
    others = 23  # the ends of tables and indexes, and what is split
    fill(tmp_path / "nodes.db", 8_000)
    ledger = Ledger(open_writer(tmp_path / "nodes.db"), NETWORK, NodeKey.from_seed(NODE_SEED))
    ledger.writes_refused = None
    with ledger.transaction():
        renew(ledger)
    written = 0
    for server in range(registrations):
        ledger.facts.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        request = sign_add(hotkey(MINERS[0]), now_ms() // 1000, body(uuids(10**6 + server, gpus)))
        with ledger.transaction():
            ledger.append(partial(given, AddPayload(request, 100)), now_ms())
        _, pages, _ = ledger.facts.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        written += pages
    ledger.facts.close()
    assert registrations * gpus < written <= registrations * (gpus + others)
