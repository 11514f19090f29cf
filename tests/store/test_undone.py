"""A transaction that fails at any statement, or at its end, leaves what a restart would read, and can be done again.

Worlds with forks, closings, electorates and checkpoints, on a disk that fails now and then.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pnodes.model.checkpoint import Line, line_of, stakes_of, suffices
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Checkpoint
from p2pnodes.store.checkpoints import Stage
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from p2pnodes.store.unsettled import Unsettled
from tests.model.world import VALIDATORS, proofs_in
from tests.store.restarts import assert_a_start_finds_it
from tests.store.test_checkpoints import Lives, certificate, cut, found, lives, load, proposed, small_slices
from tests.store.test_equivalence import Replica
from tests.support import BLOCK, NETWORK, NOW_MS, Author, electorate, hotkey, memory_ledger

__all__ = ["small_slices"]  # the fixture

pytestmark = pytest.mark.timeout(400)

FAILURES: Final = 2
"""How often a transaction that fails at its end fails once more, at a statement that is drawn."""

SHARE: Final = 0.5
"""How many transactions fail."""

SWITCH_STATEMENTS: Final = 30
"""Of the switch to another electorate, the statements at which it may fail; it has some more."""


class ShakyConnection(sqlite3.Connection):
    """A connection that fails at one of its next statements."""

    left: int | None = None
    """How many statements succeed before; None: all do."""
    done = 0

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self._shake()
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        self._shake()
        return super().executemany(*args)

    def _shake(self) -> None:
        self.done += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise sqlite3.OperationalError("disk I/O error")


class ShakyLedger(Ledger):
    """A ledger whose transactions are done, fail, and are done again, as whoever was told of the failure would."""

    def __init__(self, connection: ShakyConnection) -> None:
        self.failed = 0
        self._shaky: ShakyConnection | None = None
        self._rng = random.Random(1)
        self._calls: list[Callable[[], object]] = []
        """What was called in the open transaction, from outside."""
        self._inside = False
        super().__init__(connection, NETWORK)
        self._shaky = connection
        take = self.checkpoints.take
        self.checkpoints.take = lambda wire: self.called(take, wire)  # type: ignore[method-assign]

    def called(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._inside:
            return function(*args)
        self._calls.append(lambda: function(*args))
        return self._call(self._calls[-1])

    def _call(self, call: Callable[[], object]) -> object:
        self._inside = True
        try:
            return call()
        finally:
            self._inside = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        shaky = self._shaky
        if shaky is None or self._rng.random() >= SHARE:
            with super().transaction():
                yield
            return
        self._calls.clear()
        shaky.done = 0
        with self.failing(shaky):
            yield
            self._settle()
            statements, shaky.left = shaky.done, 0
        for _ in range(FAILURES):
            failed = self.failed
            with self.failing(shaky):
                shaky.left = self._rng.randrange(statements)
                self._again()
            if self.failed == failed:  # it had less to do than before
                return
        with super().transaction():
            self._again()
        self.require_memory()

    @contextmanager
    def failing(self, shaky: ShakyConnection) -> Iterator[None]:
        """A transaction that fails, unless it ends before the statement at which it would."""
        try:
            with super().transaction():
                yield
        except sqlite3.OperationalError:
            self.failed += 1
            self.require_memory(undone=True)
        finally:
            shaky.left = None

    def _again(self) -> None:
        for call in self._calls:
            self._call(call)

    def switched(self) -> None:
        """Switch to the electorate that was recounted; fails now and then."""
        assert self._shaky is not None
        with self.failing(self._shaky):
            if self._rng.random() < SHARE:
                self._shaky.left = self._rng.randrange(SWITCH_STATEMENTS)
            self.switch()
        self.require_memory()

    def require_memory(self, *, undone: bool = False) -> None:
        """Require that all that is known is what a restart knows.

        While a live set is loaded less is known, which is read anew behind it; but not where a transaction was undone.
        """
        if self.checkpoints.stage is Stage.LOADING and not undone:
            return
        known, read = memory(self), memory(Ledger(self._connection, NETWORK))
        assert [(name, known[name], read[name]) for name in known if known[name] != read[name]] == []


def _passed_on(name: str) -> Callable[..., Any]:
    def call(ledger: ShakyLedger, *args: Any) -> Any:
        return ledger.called(getattr(super(ShakyLedger, ledger), name), *args)

    return call


for _name in (
    "receive",
    "receive_proofs",
    "set_electorate",
    "find_live_set",
    "enforce",
    "cut",
    "begin_loading",
    "load",
):
    setattr(ShakyLedger, _name, _passed_on(_name))


def addresses(ledger: Ledger) -> set[bytes]:
    """Hotkeys whose address is written down."""
    return {hotkey for (hotkey,) in ledger._connection.execute("SELECT hotkey FROM address")}


def memory(ledger: Ledger) -> dict[str, Any]:
    """Everything that a ledger knows of its database, and what it has still to do."""
    held, electorate = ledger.checkpoints, ledger.weights.electorate
    return {
        "state": ledger.state,
        "settled": ledger.settled and ledger.weights is ledger.committed_weights is ledger._upkeep.weights,
        "logs": ledger.logs,
        "own": (ledger.own_log, ledger.foreign_own),
        "hotkeys": (ledger.logs.per_hotkey, ledger._statements._addresses.keys() - addresses(ledger)),
        "vector": (ledger.logs.heads, ledger.logs.ends, ledger.logs.slices.digests, ledger.logs.changed),
        "weights": (electorate.current, electorate.previous, ledger.weights.enrolled),
        "rows": (ledger._upkeep._held.root.root(), ledger._upkeep._held.unwritten, ledger._upkeep.rows),
        "events": (ledger._events, ledger._cut_away),
        "cuts": ledger.facts.cuts,
        "checkpoints": (held.line, held.stage, held.current, held.cuts, held._known, held.slices_held()),
        "left": (
            vars(ledger._unsettled) == vars(Unsettled()), ledger._statements.rebuilding,
            ledger._reload, ledger._wrote, ledger._stale,
        ),
    }  # fmt: skip


class ShakyReplica(Replica):
    """A replica on such a disk; another electorate is recounted beside what is held."""

    ledger: ShakyLedger

    def __init__(self, now_ms: int) -> None:
        super().__init__(now_ms)
        connect = sqlite3.connect
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **named, factory=ShakyConnection))
            connection = open_writer(":memory:")
        assert isinstance(connection, ShakyConnection)
        self.ledger = ShakyLedger(connection)

    def weigh(self, electorate: Electorate) -> None:
        ledger = self.ledger
        while ledger.weights.electorate is not electorate:
            ledger.begin_recount(electorate)
            assert ledger.recount is not None
            while not ledger.recount.ready:
                ledger.advance_recount(0)
            ledger.switched()
            ledger.end_recount()
        self.hear(())


def found_for_good(ledger: Ledger, line: Line) -> Checkpoint:
    """The live set below a line; the transaction in which it was found may have been undone."""
    statement = found(ledger, line)
    while ledger.found(line.proposal) is None:
        statement = found(ledger, line)
    return statement


def cut_for_good(ledger: Ledger) -> None:
    """The same of a cut."""
    while ledger.checkpoints.stage is not Stage.DONE:
        cut(ledger)


class TestEveryTransaction:
    """Rule 7: nothing half-applied is seen, in memory neither."""

    @settings(max_examples=25)
    @given(drawn=st.one_of(lives(), lives(ends=True)), data=st.data())
    def test_one_that_failed_leaves_what_a_restart_would_read(self, drawn: Lives, data: st.DataObject) -> None:
        end_ms = max(world.end_ms for world in (drawn.before, drawn.after) if world.events)
        steady, shaky, newcomer = Replica(end_ms), ShakyReplica(end_ms), ShakyReplica(end_ms)
        order = data.draw(st.permutations([*drawn.before.events, *drawn.before.proofs]))
        for replica in (steady, shaky):
            replica.weigh(drawn.before.electorates[-1])
            replica.hear(order)
            replica.weigh(drawn.electorate)
        made = proposed(steady.ledger)
        assume(made is not None)
        assert made is not None
        line = line_of(NETWORK, *made)
        assume(suffices(NETWORK, line, stakes_of(line)))
        signers = [uri for uri in VALIDATORS if hotkey(uri).public_key in stakes_of(line)]
        statement = found(steady.ledger, line)
        wire = certificate(made[0], statement, signers, drawn.electorate.time_ms)
        for replica in (steady, shaky):
            assert found_for_good(replica.ledger, line) == statement
            with replica.ledger.transaction():
                replica.ledger.checkpoints.take(wire)
                replica.ledger.enforce()
            cut_for_good(replica.ledger)
        with newcomer.ledger.transaction():
            newcomer.ledger.set_electorate(drawn.electorate)
        load(steady.ledger, newcomer.ledger, wire, range(statement.slices))
        cut_for_good(newcomer.ledger)
        after = [*drawn.after.events, *proofs_in((*drawn.before.events, *drawn.after.events)), *drawn.after.loose]
        steady.hear(after)
        shaky.hear(after)
        newcomer.hear([*drawn.before.events, *drawn.before.proofs, *after])
        for replica in (steady, shaky, newcomer):
            replica.weigh(drawn.last)
        for replica in (shaky, newcomer):
            assert replica.ledger.failed > 0
            assert replica.ledger.state.vector_digest == steady.ledger.state.vector_digest
            replica.check(steady.shown())


class Forgetful(sqlite3.Connection):
    """A connection that has no memory for the next statements that would end a transaction."""

    lacks = 0

    def execute(self, *args: Any) -> sqlite3.Cursor:
        if self.lacks and args[0] in {"COMMIT", "ROLLBACK"}:
            self.lacks -= 1
            raise MemoryError
        return super().execute(*args)


class TestATransactionThatDoesNotEnd:
    """The next one ends it: nothing of it is taken for what is stored, and nobody waits for a restart."""

    @pytest.fixture
    def connection(self) -> Forgetful:
        connection = sqlite3.connect(":memory:", isolation_level=None, factory=Forgetful)
        memory_ledger().facts.connection.backup(connection)
        return connection

    def test_one_that_writes(self, connection: Forgetful) -> None:
        ledger, author = Ledger(connection, NETWORK), Author(VALIDATORS[0])
        author.delegate()
        connection.lacks = 2
        with pytest.raises(MemoryError), ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        with ledger.transaction():
            assert not ledger.logs
        assert ledger.state.events == 0
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)
        assert ledger.state.events == 1
        assert_a_start_finds_it(ledger)

    def test_one_of_a_recount(self, connection: Forgetful) -> None:
        ledger = Ledger(connection, NETWORK)
        ledger.begin_recount(electorate(BLOCK + 100))
        connection.lacks = 2
        with pytest.raises(MemoryError):
            ledger.advance_recount(0)
        ledger.begin_recount(electorate(BLOCK + 100))
        ledger.advance_recount(0)
        ledger.end_recount()
        assert not connection.in_transaction

    def test_one_that_reads(self, connection: Forgetful) -> None:
        facts = Facts(connection)
        connection.lacks = 1
        with pytest.raises(MemoryError), facts.snapshot():
            assert facts.cuts == {}
        with facts.snapshot():
            assert facts.cuts == {}
        assert not connection.in_transaction
