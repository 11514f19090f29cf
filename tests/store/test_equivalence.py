"""The store shows what the events say: equal rows and roots whatever the order, the batches and the electorates before.

The same worlds as in tests/model, through the real ledger on SQLite, against the plain reading of the design.
"""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Event
from p2pnodes.model.inventory import Row
from p2pnodes.model.stateroot import state_root
from p2pnodes.store.facts import chute_from
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result
from tests.model.reference import Reference
from tests.model.world import Proof, World, arrivals, proofs_in, worlds
from tests.store.references import dangling
from tests.support import NETWORK, finish_moves

pytestmark = pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure

SETTLED = {Result.STORED, Result.KNOWN, Result.FORK}


class Replica:
    """A ledger that hears events in any order, and asks again for what it could not store yet."""

    def __init__(self, now_ms: int) -> None:
        self.ledger = Ledger(open_writer(":memory:"), NETWORK)
        self._now_ms = now_ms
        self._waiting: list[Event] = []
        self._proofs: list[Proof] = []

    def hear(self, heard: Sequence[Event | Proof]) -> None:
        """Take one batch in one transaction; what has a gap before it or no permit waits.

        Proofs of the ends of logs that are not held yet come again: with every version vector.
        """
        self._waiting.extend(item for item in heard if isinstance(item, Event))
        self._proofs.extend(item for item in heard if not isinstance(item, Event))
        with self.ledger.transaction():
            self.ledger.receive_proofs(self._proofs, self._now_ms)
        stored = True
        while stored and self._waiting:
            with self.ledger.transaction():
                outcomes = self.ledger.receive(self._waiting, self._now_ms)
            assert {outcome.result for outcome in outcomes} <= SETTLED | {Result.GAP, Result.REFUSED}
            stored = any(outcome.result is Result.STORED for outcome in outcomes)
            self._waiting = [outcome.event for outcome in outcomes if outcome.result not in SETTLED]
        with self.ledger.transaction():
            self.ledger.receive_proofs(self._proofs, self._now_ms)

    def weigh(self, electorate: Electorate) -> None:
        """Take another electorate, and hear again what was refused under the one before."""
        with self.ledger.transaction():
            self.ledger.set_electorate(electorate)
        self.hear(())

    def shown(self) -> dict[str, Row]:
        """The rows as SQLite holds them."""
        facts = self.ledger.facts
        query = "SELECT uuid, claim_id, n.miner, n.status, created_hlc, verified_since, n.detail, chute FROM node n"
        rows = facts.connection.execute(f"{query} JOIN claim USING (claim)").fetchall()
        return {row[0]: Row._make((*row[:-1], chute_from(row[-1]))) for row in rows}

    def counted(self) -> tuple[dict[tuple[bytes, str], tuple[int, int]], Counter[tuple[bytes, str, bytes]]]:
        """What ``supply`` and ``tenancy`` hold: (provisioned, idle) and GPUs, each by the rest."""
        execute = self.ledger.facts.connection.execute
        supply = {(miner, gpu): (busy, idle) for miner, gpu, busy, idle in execute("SELECT * FROM supply")}
        return supply, Counter(
            {(miner, gpu, chute): gpus for miner, gpu, chute, gpus in execute("SELECT * FROM tenancy")}
        )

    def check(self, expected: dict[str, Row]) -> None:
        """Require these rows, in the table, counted, computed anew, and in the state root; and that nothing dangles."""
        finish_moves(self.ledger)
        assert dangling(self.ledger.facts.connection) == []
        assert self.shown() == expected
        rows = self.ledger.facts.connection.execute("SELECT miner, gpu_identifier, chute FROM node").fetchall()
        busy, idle = (
            Counter((miner, gpu) for miner, gpu, chute in rows if (chute is None) is free) for free in (False, True)
        )
        supply = {key: (busy[key], idle[key]) for key in busy | idle}
        assert self.counted() == (supply, Counter(row for row in rows if row[2] is not None))
        assert {row.uuid: row for row in self.ledger.rows()} == expected
        assert self.ledger.state.state_root == state_root(expected.values())
        assert self.ledger.state.nodes == len(expected)


@st.composite
def histories(draw: st.DrawFn, world: World) -> list[Sequence[Event | Proof] | Electorate]:
    """Draw how a daemon lives through a world: batches of what it hears with the electorates somewhere between them."""
    order: list[Event | Proof] = draw(arrivals((*world.events, *world.proofs)))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))
    batches = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    life: list[Sequence[Event | Proof] | Electorate] = list(batches)
    at = 0
    for electorate in world.electorates:  # in their order; a daemon that was away sees only the last ones
        if electorate is world.electorates[-1] or draw(st.booleans()):
            at = draw(st.integers(at, len(life)))
            life.insert(at, electorate)
            at += 1
    return life


def live(life: Sequence[Sequence[Event | Proof] | Electorate], now_ms: int) -> Replica:
    replica = Replica(now_ms)
    for step in life:
        if isinstance(step, Electorate):
            replica.weigh(step)
        else:
            replica.hear(step)
    finish_moves(replica.ledger)
    return replica


class TestEveryHistoryEndsInTheSameInventory:
    """Rule 1, on SQLite."""

    @settings(max_examples=120)
    @given(world=worlds(), data=st.data())
    def test_rows_and_root_are_those_of_the_design_whatever_came_first(self, world: World, data: st.DataObject) -> None:
        replica = live(data.draw(histories(world)), world.end_ms)
        replica.check(Reference(world.events, world.electorates[-1], NETWORK).rows())

    @settings(max_examples=250)
    @given(world=worlds(ends=True), data=st.data())
    def test_where_logs_fork_and_end_everybody_ends_with_the_rows_of_the_design(
        self, world: World, data: st.DataObject
    ) -> None:
        """Whatever branch came first, and whether proofs came before their log or after: same rows, same vectors."""
        one, other = (live(data.draw(histories(world)), world.end_ms) for _ in range(2))
        expected = Reference(world.events, world.electorates[-1], NETWORK, world.loose).rows()
        one.check(expected)
        other.check(expected)
        states = [replica.ledger.state for replica in (one, other)]
        assert states[0].heads == states[1].heads
        assert states[0].vector_digest == states[1].vector_digest
        marks = [{log: ends.mark for log, ends in state.ends.items()} for state in states]
        assert marks[0] == marks[1]

    @settings(max_examples=40)
    @given(world=worlds(ends=True))
    def test_rows_follow_the_electorate_step_by_step(self, world: World) -> None:
        """An electorate on events that were stored under another one gives the rows that it gives from scratch."""
        replica = Replica(world.end_ms)
        replica.hear((*world.events, *world.proofs))
        for electorate in world.electorates:
            replica.weigh(electorate)
            replica.check(Reference(world.events, electorate, NETWORK, world.loose).rows())

    @settings(max_examples=100)
    @given(world=worlds(ends=True))
    def test_rows_follow_events_one_by_one(self, world: World) -> None:
        """After every single event the rows are those of the events so far, and of the proofs that they bring."""
        replica = Replica(world.end_ms)
        electorate = world.electorates[-1]
        replica.weigh(electorate)
        for count, event in enumerate(world.events, start=1):
            replica.hear([event, *proofs_in(world.events[:count])])
            replica.check(Reference(world.events[:count], electorate, NETWORK).rows())

    @settings(max_examples=80)
    @given(world=worlds(ends=True), data=st.data())
    def test_a_rebuild_and_a_restart_change_nothing(self, world: World, data: st.DataObject) -> None:
        ledger = live(data.draw(histories(world)), world.end_ms).ledger
        before, rows = ledger.state, list(ledger.rows())
        with ledger.transaction():
            ledger.rebuild()
        assert (ledger.state, list(ledger.rows())) == (before, rows)
        again = Ledger(ledger.facts.connection, NETWORK)
        assert (again.state, list(again.rows())) == (before, rows)
        assert again.clock.latest == ledger.clock.latest

    @settings(max_examples=40)
    @given(world=worlds(), data=st.data())
    def test_equal_electorates_and_vectors_mean_equal_roots(self, world: World, data: st.DataObject) -> None:
        """What peers compare when they meet: at equal electorate and vector digests they hold one inventory."""
        one, other = (live(data.draw(histories(world)), world.end_ms).ledger.state for _ in range(2))
        assert one.electorate_digest == other.electorate_digest
        assume(one.vector_digest == other.vector_digest)
        assert one.state_root == other.state_root
