"""Whoever follows what commits tell knows as much as whoever reads everything anew, and is told little beyond it."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import VERIFIED, Event, Place, Verdict
from p2pnodes.model.inventory import TaskStatus
from p2pnodes.model.keys import NodeKey
from p2pnodes.store import changes as changes_module
from p2pnodes.store import snapshots
from p2pnodes.store.changes import ChangeCollector, Changes, Gone
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.snapshots import NodeRow
from tests.model.world import GPUS, MINERS, World, worlds
from tests.store.test_admission import admit, remove, verify
from tests.store.test_equivalence import Replica, histories
from tests.support import NOW_MS, NOW_S, VALIDATORS, Author, add, delete, electorate, hotkey, memory_ledger


class Follower:
    """Knows the rows and tasks of one miner, or of all, from what it is told alone."""

    def __init__(self, miner: bytes | None = None) -> None:
        self.miner = miner
        self.rows: dict[str, NodeRow] = {}
        self.tasks: dict[int, TaskStatus] = {}

    def hear(self, ledger: Ledger, changes: Changes) -> None:
        for gone in changes.gone:
            if self.miner in {None, gone.miner}:
                self.rows.pop(gone.uuid, None)
        for row in snapshots.rows(ledger.facts, changes.nodes).values():
            if self.miner in {None, row.miner}:
                self.rows[row.uuid] = row
        for key, task in ledger.facts.tasks(changes.claims, ledger.weights).items():
            if self.miner in {None, task.claim.miner}:
                self.tasks[key] = task.status

    def check(self, ledger: Ledger) -> None:
        rows = snapshots.rows(ledger.facts, GPUS)
        assert self.rows == {uuid: row for uuid, row in rows.items() if self.miner in {None, row.miner}}
        keys = [key for (key,) in ledger.facts.connection.execute("SELECT claim FROM claim")]
        tasks = ledger.facts.tasks(keys, ledger.weights)
        assert self.tasks == {key: task.status for key, task in tasks.items() if self.miner in {None, task.claim.miner}}


def taken(ledger: Ledger) -> Changes:
    """What was told since the last look; nothing is an empty change."""
    return ledger.news.take_changes() or Changes()


class TestFollowers:
    """They agree with readers after every commit, each miner's follower about his own."""

    @pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure
    @settings(max_examples=80)
    @given(world=worlds(), data=st.data())
    def test_rows_and_tasks_are_those_of_a_reader_at_every_step(self, world: World, data: st.DataObject) -> None:
        life: list[Sequence[Event] | Electorate] = []
        for step in data.draw(histories(world)):
            events = [] if isinstance(step, Electorate) else [[each] for each in step if isinstance(each, Event)]
            life.extend([step] if isinstance(step, Electorate) else events)
        replica = Replica(world.end_ms)
        followers = [Follower(), *(Follower(hotkey(uri).public_key) for uri in MINERS)]
        for step in life:
            if isinstance(step, Electorate):
                replica.weigh(step)
            else:
                replica.hear(step)
            changes = taken(replica.ledger)
            for follower in followers:
                follower.hear(replica.ledger, changes)
                follower.check(replica.ledger)


class TestPrecision:
    """What did not change is not told."""

    def test_a_registration_tells_its_gpus_and_itself(self, writer: Ledger) -> None:
        taken(writer)
        claim = admit(writer, add("//Alice", ["gpu-1", "gpu-2"]))
        key = writer.facts.claim_key(claim.claim_id)
        changes = taken(writer)
        assert (set(changes.nodes), changes.claims, changes.gone) == ({"gpu-1", "gpu-2"}, (key,), ())
        assert writer.news.take_changes() is None

    def test_a_verdict_that_decides_nothing_tells_nothing(self, writer: Ledger) -> None:
        claim = admit(writer, add("//Alice", ["gpu-1"]))
        verify(writer, claim)
        taken(writer)
        with writer.transaction():
            writer.append(lambda hlc: Verdict(claim.claim_id, VERIFIED, "test", "", hlc), NOW_MS + 5000)
        assert writer.news.take_changes() is None

    def test_a_deletion_tells_whose_row_is_gone(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        taken(writer)
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        changes = taken(writer)
        assert changes.gone == (Gone("gpu-1", hotkey("//Alice").public_key),)
        assert (changes.nodes, len(changes.claims)) == ((), 1)

    def test_a_gpu_that_goes_to_another_miner_is_gone_and_new(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        other = admit(writer, add("//Bob", ["gpu-1"], NOW_S + 1))
        taken(writer)
        verify(writer, other)
        changes = taken(writer)
        assert changes.gone == (Gone("gpu-1", hotkey("//Alice").public_key),)
        assert changes.nodes == ("gpu-1",)
        assert len(changes.claims) == 2  # Alice's task has failed by it

    def test_a_chute_tells_its_gpu_and_no_claim(self, writer: Ledger) -> None:
        claim = admit(writer, add("//Alice", ["gpu-1", "gpu-2"]))
        taken(writer)
        place = Place(claim.claim_id, ("gpu-2",), "chute", "instance", True, True, "chat", "carol")
        with writer.transaction():
            writer.append(lambda _: place, NOW_MS)
        changes = taken(writer)
        assert (changes.nodes, changes.claims) == (("gpu-2",), ())

    def test_an_electorate_that_changes_no_row_tells_nothing_of_the_gpus_that_were_ever_fought_over(
        self, writer: Ledger
    ) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        admit(writer, add("//Alice", ["gpu-1"]))
        admit(writer, add("//Bob", ["gpu-1"]))
        taken(writer)
        with writer.transaction():
            writer.set_electorate(electorate(200, NOW_MS + 1))
        assert writer.news.take_changes() is None

    def test_a_miner_who_leaves_the_chain_is_told_also_where_he_owned_nothing(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        bobs = admit(writer, add("//Bob", ["gpu-1"], NOW_S + 1))
        taken(writer)
        with writer.transaction():
            writer.set_electorate(electorate(200, NOW_MS + 1, miners=["//Alice"]))
        changes = taken(writer)
        assert (changes.nodes, changes.gone) == ((), ())
        assert writer.facts.claim_key(bobs.claim_id) in changes.claims

    def test_a_transaction_that_fails_tells_nothing(self, writer: Ledger) -> None:
        taken(writer)

        def fail() -> None:
            with writer.transaction():
                writer.append(lambda _: Place(bytes(32), ("gpu-1",), "c", "i", True, False, None, None), NOW_MS)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert writer.news.take_changes() is None


class TestBounds:
    """A commit that changes too much says so, and holds no more."""

    def test_more_changes_than_can_be_told_are_told_as_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(changes_module, "CHANGES_MAX", 3)
        collector = ChangeCollector()
        collector.add([], ["a", "b"], [1])
        collector.add([], ["a"], [1])
        collector.add([Gone("c", bytes(32))], [], [])
        collector.add([], ["d"], [2])
        assert collector.take() == Changes(too_many=True)
        assert collector.take() is None
        collector.add([], ["d"], [])
        assert collector.take() == Changes(nodes=("d",))

    def test_an_electorate_may_change_more_rows_than_can_be_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        author = Author(VALIDATORS[0])
        ledger = memory_ledger(NodeKey.from_seed(author.node_key.seed))
        with ledger.transaction():
            ledger.open_log(0, author.delegation(), NOW_MS)
        ledger.writes_refused = None
        for number in range(4):
            admit(ledger, add("//Alice", [f"gpu-{number}"], NOW_S))
        taken(ledger)
        monkeypatch.setattr(changes_module, "CHANGES_MAX", 3)
        with ledger.transaction():
            ledger.set_electorate(electorate(200, NOW_MS + 1, miners=[]))
        assert ledger.news.take_changes() == Changes(too_many=True)


class TestSnapshots:
    """The parts of the inventory are the whole of it."""

    @settings(max_examples=30)
    @given(world=worlds())
    def test_parts_hold_every_row_and_the_task_of_every_young_claim(self, world: World) -> None:
        replica = Replica(world.end_ms)
        replica.weigh(world.electorates[-1])
        replica.hear(world.events)
        facts, weights = replica.ledger.facts, replica.ledger.weights
        for miner in (None, *(hotkey(uri).public_key for uri in MINERS)):
            follower = Follower(miner)
            after: int | None = 0
            while after is not None:
                part = snapshots.part(facts, after, miner, 0, weights, limit=2)
                follower.rows |= {row.uuid: row for row in part.rows}
                follower.tasks |= {
                    key: task.status for task in part.tasks if (key := facts.claim_key(task.claim.id)) is not None
                }
                after = part.after
            follower.check(replica.ledger)
            if miner is not None:
                owned = [uuid for _, uuids in snapshots.owned(facts, miner) for uuid in uuids]
                assert sorted(owned) == sorted(follower.rows)

    def test_old_claims_without_a_row_are_history(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"], NOW_S))
        admit(writer, add("//Alice", ["gpu-2"], NOW_S + 1))
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        weights = writer.weights
        assert len(snapshots.part(writer.facts, 0, None, NOW_S, weights).tasks) == 2
        assert [t.claim.uuids for t in snapshots.part(writer.facts, 0, None, NOW_S + 2, weights).tasks] == [("gpu-2",)]

    def test_a_miners_claims_are_found_by_their_index(self, writer: Ledger) -> None:
        plan = writer.facts.connection.execute(
            "EXPLAIN QUERY PLAN SELECT claim, nonce, uuids FROM claim WHERE claim > ? AND miner = ?"
            " ORDER BY claim LIMIT ?",
            (0, bytes(32), 10),
        ).fetchall()
        assert "claim_miner (miner=? AND rowid>?)" in plan[0][3]
