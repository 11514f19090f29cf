"""What the store knows of a claim or a GPU is all that its explanation needs."""

import pytest
from hypothesis import given, settings

from p2pnodes.model.events import Place
from p2pnodes.model.explain import OwnerRule, PlacementState
from p2pnodes.model.inventory import Chute
from p2pnodes.model.requests import request_id
from p2pnodes.store.facts import AmbiguousError
from p2pnodes.store.ledger import Ledger
from tests.model.world import World, worlds
from tests.store.test_equivalence import Replica
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, hotkey

pytestmark = pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure

CHUTE = Chute("chute-1", "instance-1", verified=True, public=True, name="llama", username="ann")
CLAIM = request_id(NETWORK.id, add("//Alice", ["gpu-1"]))


class TestExplanations:
    """They agree with the rows, the tallies and the task answers of the same database."""

    @settings(max_examples=40)
    @given(world=worlds())
    def test_every_gpu_and_every_claim_is_explained_as_it_is_shown(self, world: World) -> None:
        replica = Replica(world.end_ms)
        replica.hear(world.events)
        for electorate in world.electorates:
            replica.weigh(electorate)
            ledger = replica.ledger
            facts, weights, shown = ledger.facts, ledger.weights, replica.shown()
            uuids = facts.gpus()
            for uuid in uuids:
                node = facts.explain_node(uuid, weights)
                assert node is not None
                assert node.row == shown.get(uuid)
            assert {uuid: claim.id for uuid, claim in facts.owners(uuids, weights).items()} == {
                uuid: row.claim_id for uuid, row in shown.items()
            }
            keys = "SELECT claim, claim_id, miner FROM claim WHERE miner NOTNULL"
            for key, claim_id, miner in facts.connection.execute(keys).fetchall():
                case = facts.explain_claim(claim_id, weights)
                assert case is not None
                assert case.task == facts.task_status(miner, claim_id[:16], weights)
                assert [case.poll.tally] == [tally for _, tally, _ in facts.held_tallies([key])]
                assert case.claim == facts.claim(key)

    def test_a_gpu_that_no_claim_names_has_none(self, ledger: Ledger) -> None:
        assert ledger.facts.explain_node("gpu-1", ledger.weights) is None

    def test_a_claim_that_only_verdicts_name_has_none(self, ledger: Ledger) -> None:
        author = Author("//validator0")
        author.delegate()
        author.verdict(CLAIM)
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        assert ledger.facts.explain_claim(CLAIM, ledger.weights) is None
        assert ledger.facts.find_claim(CLAIM, None) is None

    def test_a_deleted_gpu_is_still_explained(self, ledger: Ledger) -> None:
        author = Author("//validator0")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        author.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1")
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        node = ledger.facts.explain_node("gpu-1", ledger.weights)
        assert node is not None
        assert (node.row, node.rule) == (None, OwnerRule.NOBODY)
        assert [candidacy.ended_by for candidacy in node.candidacies] == [node.deletions[0].deletion]

    def test_words_under_a_claim_that_is_not_known_here_are_told_of_where_it_is_named(self, ledger: Ledger) -> None:
        request = add("//Alice", ["gpu-1"])
        claim_id = request_id(NETWORK.id, request)
        author = Author("//validator0")
        author.delegate()
        author.write(Place(claim_id, ("gpu-1",), *CHUTE))
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        assert ledger.facts.explain_node("gpu-1", ledger.weights) is None
        node = ledger.facts.explain_node("gpu-1", ledger.weights, author.hotkey.public_key)
        assert node is not None
        assert (node.row, node.rule, node.candidacies) == (None, OwnerRule.NOBODY, ())
        assert [(said.claim_id, said.chute, state) for said, state in node.placements] == [
            (claim_id, CHUTE, PlacementState.NOT_OWNER)
        ]
        author.add(request)
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        node = ledger.facts.explain_node("gpu-1", ledger.weights, author.hotkey.public_key)
        assert node is not None
        assert node == ledger.facts.explain_node("gpu-1", ledger.weights)
        assert [state for _, state in node.placements] == [PlacementState.COUNTS]


class TestFindClaim:
    """A claim is found by its id or its task's 16 bytes, with or without its miner."""

    @pytest.fixture
    def claim_id(self, ledger: Ledger) -> bytes:
        request = add("//Alice", ["gpu-1"])
        author = Author("//validator0")
        author.delegate()
        author.add(request)
        author.add(add("//Bob", ["gpu-2"]))
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        return request_id(NETWORK.id, request)

    def test_by_the_whole_id_and_by_the_task(self, ledger: Ledger, claim_id: bytes) -> None:
        alice, bob = hotkey("//Alice").public_key, hotkey("//Bob").public_key
        assert ledger.facts.find_claim(claim_id, None) == claim_id
        assert ledger.facts.find_claim(claim_id[:16], None) == claim_id
        assert ledger.facts.find_claim(claim_id[:16], alice) == claim_id
        assert ledger.facts.find_claim(claim_id[:16], bob) is None
        assert ledger.facts.find_claim(bytes(16), None) is None
        assert ledger.facts.find_claim(claim_id[:4], None) == claim_id
        assert ledger.facts.find_claim(b"\xff" * 32, None) is None

    def test_a_few_bytes_name_a_claim_only_if_no_other_one_begins_so(self, ledger: Ledger, claim_id: bytes) -> None:
        bob = hotkey("//Bob").public_key
        assert ledger.facts.find_claim(claim_id[:4], bob) is None
        with pytest.raises(AmbiguousError, match="several claims begin with ; expected more digits of the one"):
            ledger.facts.find_claim(b"", None)
        assert ledger.facts.find_claim(b"", hotkey("//Alice").public_key) == claim_id

    def test_no_other_claim_is_looked_at(self, ledger: Ledger, claim_id: bytes) -> None:
        asked: list[str] = []
        connection = ledger.facts.connection
        connection.set_trace_callback(asked.append)
        ledger.facts.find_claim(claim_id[:16], None)
        connection.set_trace_callback(None)
        (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}")
        assert "SEARCH claim USING INDEX" in plan[3]
