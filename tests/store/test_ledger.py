"""The ledger stores what is signed and linked, counts what is valid, and never loses step with its own log."""

import resource
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count, permutations
from pathlib import Path
from typing import Any, Final

import pytest

from p2pnodes.model import codec
from p2pnodes.model import events as events_module
from p2pnodes.model.branches import displaced
from p2pnodes.model.checkpoint import line_of
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import LocalProtocolError, StoreError, WritesRefusedError
from p2pnodes.model.events import AddPayload, Carry, Event, Head, LogId, Verdict, closing, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from p2pnodes.model.requests import request_id
from p2pnodes.model.stateroot import state_root
from p2pnodes.store import buckets, statements
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import proposal
from p2pnodes.store.rebuild import differences, hold
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Outcome, Result
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate, forks, hotkey, memory_ledger

TEMPORARY_BYTES: Final = 16_000_000
"""More than SQLite keeps of a temporary table in memory."""


def receive(ledger: Ledger, *events: Event, now_ms: int = NOW_MS) -> list[Outcome]:
    with ledger.transaction():
        return ledger.receive(events, now_ms)


def results(ledger: Ledger, *events: Event, now_ms: int = NOW_MS) -> list[Result]:
    return [outcome.result for outcome in receive(ledger, *events, now_ms=now_ms)]


def forged(event: Event) -> Event:
    """The event with one bit of its signature flipped."""
    signature = bytes([event.signature[0] ^ 1]) + event.signature[1:]
    return Event.decode(codec.pack([event.header, signature, event.payload]))


class TestReceive:
    """What a peer sends is stored once, in order, if its log may speak."""

    def test_events_of_a_permitted_log_are_stored_in_order(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        author.verdict(bytes(32))
        assert results(ledger, *author.events) == [Result.STORED, Result.STORED]
        assert ledger.state.heads == {author.log: author.head}

    def test_a_known_event_is_known_and_nothing_changes(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        event = author.delegate()
        receive(ledger, event)
        before = ledger.state
        assert results(ledger, event) == [Result.KNOWN]
        assert ledger.state == before

    def test_an_event_above_the_next_is_a_gap_and_not_stored(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        later = author.verdict(bytes(32))
        assert results(ledger, later) == [Result.GAP]
        assert ledger.state.events == 0

    def test_a_forged_signature_is_told_apart(self, ledger: Ledger) -> None:
        assert results(ledger, forged(Author("//validator1").delegate())) == [Result.FORGED]
        assert ledger.state.events == 0

    def test_a_clock_over_a_minute_ahead_is_deferred_not_stored(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        event = author.delegate(at_ms=NOW_MS + 60_001)
        assert results(ledger, event) == [Result.AHEAD]
        assert results(ledger, event, now_ms=NOW_MS + 1) == [Result.STORED]

    def test_an_event_of_another_network_is_refused(self) -> None:
        other = Ledger(open_writer(":memory:"), Network(genesis_hash="1" * 64, netuid=64))
        assert results(other, Author("//validator1").delegate()) == [Result.REFUSED]

    def test_a_log_of_an_unpermitted_hotkey_is_refused(self, ledger: Ledger) -> None:
        outcome = receive(ledger, Author("//Alice").delegate())[0]
        assert outcome.result is Result.REFUSED
        assert "permit" in outcome.detail

    def test_a_log_that_does_not_begin_with_a_delegation_is_refused(self, ledger: Ledger) -> None:
        assert results(ledger, Author("//validator1").verdict(bytes(32))) == [Result.REFUSED]

    def test_a_log_whose_delegation_another_hotkey_signed_is_refused(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        stolen = author.delegation()._replace(hotkey=Author("//validator2").hotkey.public_key)
        assert results(ledger, author.write(stolen)) == [Result.REFUSED]

    def test_a_rival_of_a_stored_event_is_a_fork_and_remembered(self, ledger: Ledger) -> None:
        author, twin = Author("//validator1"), Author("//validator1")
        first = author.delegate()
        receive(ledger, first, author.verdict(bytes(32)))
        twin.head, twin.clock.latest = author.head and author.head._replace(seq=0, id=first.id), first.hlc
        rival = twin.verdict(bytes([1]) * 32)
        assert results(ledger, rival) == [Result.FORK]
        assert forks(ledger) == {author.log: 1}
        assert ledger.state.heads == {author.log: Head(0, first.id)}

    def test_an_event_that_continues_another_branch_is_a_fork(self, ledger: Ledger) -> None:
        author, twin = Author("//validator1"), Author("//validator1")
        receive(ledger, author.delegate(at_ms=NOW_MS - 1000))
        twin.delegate(at_ms=NOW_MS - 2000)
        assert results(ledger, twin.verdict(bytes(32))) == [Result.FORK]


class TestVoid:
    """A void event is kept and forwarded, counts for nothing and does not stop its log."""

    def test_a_forged_miner_signature_makes_the_event_void(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        request = add("//Alice", ["gpu-1"])
        author.add(request._replace(hotkey=Author("//Bob").hotkey.public_key))
        outcome = receive(ledger, *author.events)[1]
        assert outcome.result is Result.STORED
        assert "miner's signature" in outcome.detail
        assert ledger.state.nodes == 0

    def test_a_valid_event_behind_a_void_one_counts(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"], nonce_s=NOW_S - 10_000))
        author.add(add("//Alice", ["gpu-2"]))
        receive(ledger, *author.events)
        assert [row.uuid for row in ledger.rows()] == ["gpu-2"]

    def test_a_void_event_is_read_back_as_received(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        void = author.add(add("//Alice", ["gpu-1"], nonce_s=NOW_S - 10_000))
        receive(ledger, *author.events)
        assert ledger.read(author.log, 1, 1) == [void.wire]


class TestUnknownKinds:
    """A kind that this build does not know is stored and forwarded, and judged after an upgrade."""

    def test_an_unknown_kind_waits_and_is_applied_by_a_build_that_knows_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        connection = open_writer(":memory:")
        with monkeypatch.context() as patch:
            patch.delitem(events_module.PAYLOADS, "add")
            old = Ledger(connection, NETWORK)
            with old.transaction():
                old.set_electorate(electorate())
            outcome = receive(old, *author.events)[1]
        assert (outcome.result, outcome.detail) == (Result.STORED, "")
        assert old.state.nodes == 0
        assert old.read(author.log, 0, 1 << 20) == [event.wire for event in author.events]
        upgraded = Ledger(connection, NETWORK)
        assert [row.uuid for row in upgraded.rows()] == ["gpu-1"]
        assert upgraded.state.nodes == 1

    def test_a_carried_event_of_an_unknown_kind_does_not_cost_a_rebuild_at_each_start(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author, other = Author("//validator1"), Author("//validator2")
        author.delegate()
        other.delegate()
        foreign = other.add(add("//Alice", ["gpu-1"]))
        header = codec.unpack(foreign.header)
        assert isinstance(header, list)
        header[7] = "future"
        signed = codec.pack(header)
        author.write(Carry((codec.pack([signed, other.node_key.sign(signed), foreign.payload]),)))
        connection = open_writer(":memory:")
        ledger = Ledger(connection, NETWORK)
        with ledger.transaction():
            ledger.set_electorate(electorate())
        assert results(ledger, *author.events) == [Result.STORED, Result.STORED]
        assert connection.execute("SELECT count(*) FROM events WHERE NOT judged").fetchone() == (1,)
        monkeypatch.setattr(Ledger, "rebuild", lambda _: pytest.fail("everything is judged again"))
        Ledger(connection, NETWORK)


class TestOwnLogAfterARestart:
    """What a database wrote last is what it goes on with; what somebody else wrote, it leaves (rule 4)."""

    def test_the_log_of_a_clone_is_not_taken_up(self, writer: Ledger) -> None:
        own = writer.own_log
        clone = Author("//validator0", number=9)
        assert clone.log.node_key == own.node_key if own else False
        clone.delegate()
        assert results(writer, *clone.events) == [Result.STORED]
        assert reopened(writer).own_log == own

    def test_a_foreign_event_in_the_own_log_ends_it_for_good(self, writer: Ledger) -> None:
        author = Author("//validator0")
        author.head, author.clock.latest = writer.state.heads[author.log], writer.clock.latest
        assert results(writer, author.verdict(bytes(32))) == [Result.STORED]
        again = reopened(writer)
        assert again.own_log is None
        with pytest.raises(WritesRefusedError), again.transaction():
            again.append(lambda hlc: Verdict(bytes(32), "verified", "test", "", hlc), NOW_MS)

    def test_a_rival_in_the_own_log_ends_it_for_good(self, writer: Ledger) -> None:
        with writer.transaction():
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "test", "", hlc), NOW_MS)
        rival = Author("//validator0")
        rival.write(rival.delegation(), at_ms=NOW_MS + 1)
        assert results(writer, *rival.events) == [Result.FORK]
        assert reopened(writer).own_log is None

    def test_a_new_log_that_was_not_committed_is_not_the_own_one(self, writer: Ledger) -> None:
        before = writer.own_log
        author = Author("//validator0", number=1)

        def interrupted() -> None:
            with writer.transaction():
                writer.open_log(1, author.delegation(), NOW_MS)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            interrupted()
        assert writer.own_log == before


def reopened(ledger: Ledger) -> Ledger:
    """The ledger as the next start finds it."""
    again = Ledger(ledger.facts.connection, NETWORK, NodeKey.from_seed(Author("//validator0").node_key.seed))
    again.writes_refused = None
    return again


class TestBounds:
    """What a permitted liar publishes costs no more with each event (rule 6)."""

    def test_an_unbound_signature_for_many_gpus_is_kept_twice_per_log_and_ends_none(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", [f"gpu-{number}" for number in range(5)]))
        request = delete("//Alice", "nodes", NOW_S + 1)
        for number in range(5):
            author.delete(request, f"gpu-{number}")
        receive(ledger, *author.events)
        assert ledger.facts.connection.execute("SELECT count(*) FROM deletion").fetchone() == (2,)
        assert ledger.state.nodes == 5

    def test_an_event_without_its_logs_signature_is_forged_before_it_is_ahead(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        receive(ledger, *author.events)
        ahead = author.verdict(bytes(32), at_ms=NOW_MS + 120_000)
        assert results(ledger, forged(ahead)) == [Result.FORGED]
        assert results(ledger, ahead) == [Result.AHEAD]

    def test_hotkeys_that_requests_name_take_no_memory_without_end(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever writes events can make up as many as he likes; each has its address in the database once."""
        monkeypatch.setattr(statements, "ADDRESSES_KEPT", 3)
        author = Author("//validator1")
        author.delegate()
        for gpu, number in enumerate((0, 1, 2, 3, 4, 5, 0, 5)):
            author.add(add(f"//Miner{number}", [f"gpu-{gpu}"], NOW_S))
        receive(ledger, *author.events)
        assert len(ledger._statements._addresses) == 3
        named = [name for (name,) in ledger._connection.execute("SELECT address FROM address")]
        assert sorted(named) == sorted({hotkey(f"//Miner{n}").address for n in range(6)} | {author.hotkey.address})
        with ledger.transaction():
            ledger._reload = True
        assert not ledger._statements._addresses, "nothing is read that grows without end"

    def test_addresses_that_change_alone_are_taken(self, ledger: Ledger) -> None:
        held = ledger.weights.electorate.current
        moved = Electorate(held._replace(addresses={hotkey("//validator1").public_key: "http://192.0.2.9"}))
        with ledger.transaction():
            ledger.set_electorate(moved)
        assert ledger.weights.electorate.current.addresses == moved.current.addresses

    def test_a_load_that_failed_is_done_again_before_the_next_transaction(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        receive(ledger, *author.events)
        before = ledger.state

        def failing(_: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        def interrupted() -> None:
            with ledger.transaction():
                raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(buckets, "load", failing)
            with pytest.raises(sqlite3.OperationalError):
                interrupted()
        with ledger.transaction():
            pass
        assert ledger.state == before

    def test_and_so_is_one_that_failed_behind_a_commit(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else the next transaction would know half of the logs, and tell peers so."""
        author = Author("//validator1")
        author.delegate()
        receive(ledger, *author.events)
        before = ledger.state

        def failing(_: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        def loaded() -> None:
            with ledger.transaction():
                ledger._reload = True  # as when a live set has come

        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, "of_all", failing)
            with pytest.raises(sqlite3.OperationalError):
                loaded()
        author.add(add("//Alice", ["gpu-1"]))
        assert results(ledger, author.events[-1]) == [Result.STORED]
        assert ledger.state.events == before.events + 1
        assert ledger.settled


class TestAppend:
    """An own event is valid by the peers' own function, or it is not written."""

    def test_an_own_event_continues_the_own_log(self, writer: Ledger) -> None:
        with writer.transaction():
            event = writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS)
        assert event.seq == 1
        assert writer.news.take_appended()[-1] == event

    def test_a_void_own_event_is_refused_and_leaves_no_trace(self, writer: Ledger) -> None:
        before = writer.state
        with pytest.raises(WritesRefusedError, match="void"), writer.transaction():
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc + 1), NOW_MS)
        assert writer.state == before

    def test_nothing_is_written_while_writes_are_refused(self, writer: Ledger) -> None:
        writer.writes_refused = "because"
        with pytest.raises(WritesRefusedError, match="because"), writer.transaction():
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS)

    def test_a_logical_clock_over_a_minute_ahead_refuses_writes(self, writer: Ledger) -> None:
        with pytest.raises(WritesRefusedError, match="system clock"), writer.transaction():
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS - 60_001)

    def test_an_event_of_the_own_log_from_elsewhere_stops_writing_at_once(self, writer: Ledger) -> None:
        clone = Author("//validator0")
        own = writer.own_log
        assert own == clone.log
        clone.head, clone.clock.latest = writer.state.heads[own], writer.clock.latest
        assert results(writer, clone.verdict(bytes(32))) == [Result.STORED]
        assert writer.foreign_own == own
        with pytest.raises(WritesRefusedError, match="did not write"), writer.transaction():
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS)

    def test_a_new_log_of_the_same_key_is_written_from_then_on(self, writer: Ledger) -> None:
        author = Author("//validator0", number=7)
        with writer.transaction():
            writer.open_log(7, author.delegation(), NOW_MS)
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS)
        assert writer.own_log == LogId(author.node_key.public_key, 7)
        assert writer.state.heads[author.log].seq == 1

    def test_own_logs_per_hotkey_are_bounded(self, writer: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
        with pytest.raises(WritesRefusedError, match="logs"), writer.transaction():
            writer.open_log(9, Author("//validator0", number=9).delegation(), NOW_MS)


class FullDisk:
    """A connection that commits nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *args)


class TestTooManyLogs:
    """Rules 1 and 6: of a hotkey with more logs than may count the same ones count everywhere."""

    BOUND: Final = 3

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a hotkey have few logs, that are forgotten event by event."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", self.BOUND)
        monkeypatch.setattr("p2pnodes.store.logs.DISPLACED_PER_HOTKEY_MAX", 2)
        monkeypatch.setattr(ledger_module, "EVENTS_PER_PART", 1)

    @staticmethod
    def authors(count: int = 5, uri: str = "//validator1") -> list[Author]:
        """Logs of one hotkey, each of which registers a GPU; the first one is the last to be displaced."""
        authors = [Author(uri, number=number) for number in range(count)]
        for author in authors:
            author.delegate()
            author.add(add("//Alice", [f"gpu-{author.log.number}"]))
            author.verdict(bytes(32))
        order = displaced([author.log for author in authors], (), 0)
        return sorted(authors, key=lambda author: order.index(author.log))

    @staticmethod
    def displaced(ledger: Ledger) -> list[LogId]:
        return [log for log, state in ledger.state.logs.items() if state.displaced]

    @staticmethod
    def rebuilt_otherwise(ledger: Ledger) -> list[str]:
        hold(ledger.facts.connection)
        return differences(ledger)

    @staticmethod
    def forget(ledger: Ledger, log: LogId) -> int:
        """Take a displaced log away; in how many parts."""
        for part in count(1):
            with ledger.transaction():
                if ledger.forget(log):
                    return part
        raise AssertionError

    @pytest.mark.parametrize("order", list(permutations(range(5)))[::7])
    def test_the_same_ones_count_in_whatever_order_they_come(self, order: Sequence[int]) -> None:
        authors = self.authors()
        few, many = memory_ledger(), memory_ledger()
        for author in authors[: self.BOUND]:
            receive(few, *author.events)
        for index in order:
            receive(many, *authors[index].events)
            for log in self.displaced(many):
                self.forget(many, log)
        assert many.state.heads == few.state.heads
        assert many.state.vector_digest == few.state.vector_digest
        assert many.state.state_root == few.state.state_root
        assert many.state.nodes == self.BOUND

    def test_one_that_comes_after_them_is_refused_and_so_is_what_a_displaced_one_goes_on_with(
        self, ledger: Ledger
    ) -> None:
        *others, last = self.authors(self.BOUND + 1)
        for author in [*others[1:], last]:
            assert set(results(ledger, *author.events)) == {Result.STORED}
        assert set(results(ledger, *others[0].events)) == {Result.STORED}
        assert self.displaced(ledger) == [last.log]
        last.verdict(bytes(32))
        assert set(results(ledger, *last.events)) == {Result.REFUSED}
        assert "3 other logs" in receive(ledger, last.events[0])[0].detail
        self.forget(ledger, last.log)
        assert results(ledger, last.events[0]) == [Result.REFUSED]

    def test_no_more_are_displaced_while_many_wait_to_be_forgotten(self, ledger: Ledger) -> None:
        authors = self.authors(6)
        for author in reversed(authors[1:]):
            receive(ledger, *author.events)
        assert len(self.displaced(ledger)) == 2
        assert set(results(ledger, authors[0].events[0])) == {Result.REFUSED}
        self.forget(ledger, self.displaced(ledger)[0])
        assert set(results(ledger, authors[0].events[0])) == {Result.STORED}
        assert len(ledger.state.logs) == 5

    def test_a_search_for_a_live_set_goes_on_when_one_that_it_does_not_concern_is_forgotten(
        self, ledger: Ledger
    ) -> None:
        """Whoever opens logs without end could else have it begin anew for ever."""
        *others, last = self.authors(self.BOUND + 1)
        for author in [*others[1:], last, others[0]]:
            receive(ledger, *author.events)
        receive(ledger, Author("//validator0").delegate())
        with ledger.transaction():
            ledger.set_electorate(electorate(time_ms=NOW_MS + 8 * 86_400_000))
            payload = proposal(ledger)
            assert payload is not None
            line = line_of(NETWORK, Author("//validator0", number=99).write(payload), payload)
            assert last.log not in line.logs
            assert ledger.find_live_set(line) is None
        self.forget(ledger, last.log)
        assert ledger.finding == line
        with suppress(ZeroDivisionError), ledger.transaction():
            raise ZeroDivisionError
        assert ledger.finding == line

    def test_what_it_says_counts_no_more_and_is_forgotten_in_parts(self, ledger: Ledger) -> None:
        authors = self.authors(self.BOUND + 1)
        shared = AddPayload.from_wire(codec.unpack(authors[-1].events[1].payload))
        for author in reversed(authors[1:]):
            receive(ledger, *author.events)
        receive(ledger, Author("//validator2").delegate())
        assert ledger.state.nodes == 3
        authors[0].write(shared)  # one of the others carries the same request
        receive(ledger, *authors[0].events)
        assert self.displaced(ledger) == [authors[-1].log]
        assert authors[-1].log not in ledger.state.heads
        assert ledger.state.nodes == 4
        before = ledger.state
        assert Ledger(ledger.facts.connection, NETWORK).state == before
        assert self.forget(ledger, authors[-1].log) == 3
        assert ledger.state.state_root == before.state_root
        assert ledger.state.vector_digest == before.vector_digest
        assert ledger.state.events == before.events - 3
        assert ledger.state.logs.keys() == before.logs.keys() - {authors[-1].log}
        assert Ledger(ledger.facts.connection, NETWORK).state == ledger.state
        assert self.rebuilt_otherwise(ledger) == []
        assert ledger.facts.raw_body(request_id(NETWORK.id, shared.request)) == shared.request.body

    def test_a_request_that_nothing_carries_any_more_is_as_new(self, writer: Ledger) -> None:
        """Its claim is forgotten with the log, so that it can be carried or posted again."""
        authors = self.authors(self.BOUND + 1)
        for author in reversed(authors):
            receive(writer, *author.events)
        self.forget(writer, authors[-1].log)
        payload = AddPayload.from_wire(codec.unpack(authors[-1].events[1].payload))
        claim_id = request_id(NETWORK.id, payload.request)
        assert writer.facts.claim_key(claim_id) is None
        with writer.transaction():
            writer.append(lambda _: payload, NOW_MS)
        assert writer.facts.raw_body(claim_id) == payload.request.body
        assert writer.state.nodes == self.BOUND + 1
        assert self.rebuilt_otherwise(writer) == []

    def test_the_own_one_is_not_written_any_more(self, writer: Ledger) -> None:
        """Who has the hotkey can open logs that come before it."""
        own = writer.own_log
        assert own is not None
        others = [author for author in self.authors(99, "//validator0") if author.log != own]
        before = [author for author in others if displaced([author.log, own], (), 1) == [own]]
        for author in before[: self.BOUND]:
            receive(writer, *author.events)
        assert self.displaced(writer) == [own]
        with pytest.raises(WritesRefusedError, match="no peer keeps"), writer.transaction():
            writer.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS)
        assert Ledger(writer.facts.connection, NETWORK, Author("//validator0").node_key).own_log is None

    def test_a_part_of_it_that_goes_makes_no_transaction_that_failed_one_that_is_committed(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what others wrote with it would be acknowledged and lost."""
        *others, last = self.authors(self.BOUND + 1)
        for author in (last, *others):
            receive(writer, *author.events)
        assert self.displaced(writer) == [last.log]
        before, connection = writer.state, writer.facts.connection
        monkeypatch.setattr(writer, "_connection", FullDisk(connection))
        with pytest.raises(sqlite3.OperationalError), writer.transaction():
            writer.forget(last.log)
        assert writer.state == before

    def test_one_that_counts_cannot_be_forgotten(self, writer: Ledger) -> None:
        own = writer.own_log
        assert own is not None
        with pytest.raises(LocalProtocolError, match="counts"), writer.transaction():
            writer.forget(own)


class TestTransaction:
    """What fails leaves nothing behind, in memory as on disk."""

    def test_a_failed_transaction_undoes_events_rows_and_memory(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        before = ledger.state

        def interrupted() -> None:
            with ledger.transaction():
                ledger.receive(author.events, NOW_MS)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            interrupted()
        assert ledger.state == before
        assert results(ledger, *author.events) == [Result.STORED, Result.STORED]

    @staticmethod
    def at_a_full_temporary_directory(ledger: Ledger, job: Callable[[Ledger], object]) -> None:
        """Do a job in a transaction that cannot write what it has in a temporary table, but all else."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        connection = ledger.facts.connection
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS large (content BLOB)")
        try:
            with ledger.transaction():
                job(ledger)
                rows = [(bytes(TEMPORARY_BYTES // 1_000),)] * 1_000
                connection.executemany("INSERT INTO large VALUES (?)", rows)
                resource.setrlimit(resource.RLIMIT_FSIZE, (TEMPORARY_BYTES // 2, hard))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_one_that_sqlite_commits_and_calls_failed_is_taken_for_committed(self, tmp_path: Path) -> None:
        """SQLite commits the database first, and then what lies in temporary files: these fail too late."""
        author = Author("//validator0")
        ledger = Ledger(open_writer(tmp_path / "p2pnodes.db"), NETWORK, NodeKey.from_seed(author.node_key.seed))
        with ledger.transaction():
            ledger.set_electorate(electorate())
            ledger.open_log(0, author.delegation(), NOW_MS)
        ledger.writes_refused = None
        ledger.news.take_appended()
        ledger.news.take_changes()
        payload = AddPayload(add("//Alice", ["gpu-1"]), BLOCK)
        self.at_a_full_temporary_directory(ledger, lambda ledger: ledger.append(lambda _: payload, NOW_MS))
        (event,) = ledger.news.take_appended()
        assert ledger.state.logs[event.log].head == (1, event.id)
        assert ledger.news.take_new_claims() == [request_id(NETWORK.id, payload.request)]
        changes = ledger.news.take_changes()
        assert changes is not None
        assert changes.nodes == ("gpu-1",)
        assert "disk I/O" in (ledger.temporary_failure or "")
        assert Ledger(ledger.facts.connection, NETWORK, NodeKey.from_seed(author.node_key.seed)).state == ledger.state
        with ledger.transaction():
            ledger.renew(author.delegation(), NOW_MS)
        assert ledger.temporary_failure is None

    def test_and_so_is_one_that_received_events(self, tmp_path: Path) -> None:
        """Who follows the inventory must hear of them: they come but once."""
        ledger, author = Ledger(open_writer(tmp_path / "p2pnodes.db"), NETWORK), Author("//validator1")
        with ledger.transaction():
            ledger.set_electorate(electorate())
        ledger.news.take_changes()
        author.delegate()
        claim = add("//Alice", ["gpu-1"])
        author.add(claim)
        self.at_a_full_temporary_directory(ledger, lambda ledger: ledger.receive(author.events, NOW_MS))
        assert ledger.state.heads == {author.log: author.head}
        assert ledger.news.take_new_claims() == [request_id(NETWORK.id, claim)]
        changes = ledger.news.take_changes()
        assert changes is not None
        assert changes.nodes == ("gpu-1",)
        close = closing(author.hotkey, NETWORK.id, author.log, None)
        self.at_a_full_temporary_directory(ledger, lambda ledger: ledger.receive_proofs([close], NOW_MS))
        assert ledger.news.take_ended() == [author.log]
        assert ledger.state.nodes == 0

    def test_and_so_is_a_change_of_the_electorate(self, tmp_path: Path) -> None:
        ledger = Ledger(open_writer(tmp_path / "p2pnodes.db"), NETWORK)
        author = Author("//validator0")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        with ledger.transaction():
            ledger.set_electorate(electorate())
            ledger.receive(author.events, NOW_MS)
        ledger.news.take_changes()
        turned = electorate(BLOCK + 100, stakes={"//validator1": 1})
        self.at_a_full_temporary_directory(ledger, lambda ledger: ledger.set_electorate(turned))
        assert (ledger.state.electorate_digest, ledger.state.nodes) == (turned.digest, 0)
        changes = ledger.news.take_changes()
        assert changes is not None
        assert [gone.uuid for gone in changes.gone] == ["gpu-1"]

    def test_a_reopened_database_has_the_same_state(self) -> None:
        connection = open_writer(":memory:")
        first = Ledger(connection, NETWORK)
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1", "gpu-2"]))
        with first.transaction():
            first.set_electorate(electorate())
            first.receive(author.events, NOW_MS)
        again = Ledger(connection, NETWORK)
        assert again.state == first.state
        assert state_root(again.rows()) == first.state.state_root

    def test_a_database_of_another_network_is_refused(self) -> None:
        connection = open_writer(":memory:")
        Ledger(connection, NETWORK)
        with pytest.raises(StoreError, match="belongs to network"):
            Ledger(connection, Network(genesis_hash="2" * 64, netuid=1))

    def test_a_rebuild_changes_nothing(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        request = add("//Alice", ["gpu-1", "gpu-2"])
        author.add(request)
        author.verdict(request_id(NETWORK.id, request))
        author.delete(delete("//Alice", "nodes:gpu-2", NOW_S + 1), "gpu-2")
        receive(ledger, *author.events)
        before = ledger.state
        with ledger.transaction():
            ledger.rebuild()
        assert ledger.state == before


class TestRows:
    """Rows and root follow events and electorate in the same transaction."""

    def test_a_lost_registration_removes_the_rows(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        receive(ledger, *author.events)
        assert ledger.state.nodes == 1
        with ledger.transaction():
            ledger.set_electorate(electorate(200, miners=["//Bob"], previous=electorate()))
        assert ledger.state.nodes == 0
        assert ledger.state.state_root == state_root([])

    def test_a_lapsed_verdict_makes_the_row_pending_again(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        request = add("//Alice", ["gpu-1"])
        author.add(request)
        author.verdict(request_id(NETWORK.id, request))
        receive(ledger, *author.events)
        assert [row.status for row in ledger.rows()] == ["verified"]
        with ledger.transaction():
            ledger.set_electorate(electorate(200, NOW_MS + NETWORK.verdict_ttl_s * 1000 + 1))
        assert [row.status for row in ledger.rows()] == ["pending"]

    def test_a_verdict_that_comes_before_its_claim_counts(self, ledger: Ledger) -> None:
        early, late = Author("//validator1"), Author("//validator2")
        request = add("//Alice", ["gpu-1"])
        early.delegate()
        early.verdict(request_id(NETWORK.id, request))
        receive(ledger, *early.events)
        late.delegate()
        late.add(request)
        receive(ledger, *late.events)
        assert [row.status for row in ledger.rows()] == ["verified"]

    def test_the_stored_root_is_the_root_of_the_rows(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        for number in range(20):
            author.add(add("//Alice", [f"gpu-{number}-{index}" for index in range(3)]))
        receive(ledger, *author.events)
        assert ledger.state.nodes == 60
        assert state_root(ledger.rows()) == ledger.state.state_root


class TestRead:
    """Ranges of a log come back as received."""

    def test_a_range_holds_at_least_one_event_and_then_up_to_the_size(self, ledger: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        for number in range(5):
            author.verdict(bytes([number]) * 32)
        receive(ledger, *author.events)
        wires = [event.wire for event in author.events]
        assert ledger.read(author.log, 0, 1) == wires[:1]
        assert ledger.read(author.log, 1, len(wires[1]) + len(wires[2])) == wires[1:3]
        assert ledger.read(author.log, 6, 1 << 20) == []

    def test_an_unknown_log_has_no_events(self, ledger: Ledger) -> None:
        assert ledger.read(LogId(bytes(32), 0), 0, 1 << 20) == []


def test_a_damaged_file_is_a_store_error(tmp_path: object) -> None:
    path = f"{tmp_path}/broken.db"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"this is no database" * 100)
    with pytest.raises(StoreError, match="cannot open"):
        open_writer(path)


def test_a_newer_schema_is_refused(tmp_path: object) -> None:
    path = f"{tmp_path}/newer.db"
    connection = open_writer(path)
    connection.executescript("UPDATE compatibility SET lowest = 99; PRAGMA user_version = 99;")
    connection.close()
    with pytest.raises(StoreError, match="newer p2pnodes"):
        open_writer(path)


def test_a_newer_schema_that_allows_this_build_is_opened(tmp_path: object) -> None:
    path = f"{tmp_path}/newer.db"
    connection = open_writer(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    open_writer(path).close()


def test_a_ledger_without_a_node_key_cannot_write() -> None:
    ledger = memory_ledger()
    ledger.writes_refused = None
    with pytest.raises(WritesRefusedError, match="no open log"), ledger.transaction():
        ledger.append(lambda hlc: Verdict(bytes(32), "verified", "none", "", hlc), NOW_MS)


def test_own_log_is_taken_up_again() -> None:
    connection = open_writer(":memory:")
    key = NodeKey.from_seed(bytes(32))
    first = Ledger(connection, NETWORK, key)
    log = LogId(key.public_key, 3)
    delegation = delegate(
        Author("//validator0").hotkey, NETWORK.id, log, url="", not_before=NOW_S - 1, not_after=NOW_S + 1
    )
    with first.transaction():
        first.open_log(3, delegation, NOW_MS)
    assert Ledger(connection, NETWORK, key).own_log == log
