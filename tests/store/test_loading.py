"""Jobs of the writer by which a live set comes over: what becomes of a certificate, and of slices."""

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from p2pnodes.model import codec
from p2pnodes.model.branches import displaced
from p2pnodes.model.checkpoint import line_of
from p2pnodes.model.errors import LocalProtocolError, WritesRefusedError
from p2pnodes.model.events import AddPayload, Delegation, Head, Verdict
from p2pnodes.model.requests import request_id
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store import settling
from p2pnodes.store.audit import audit
from p2pnodes.store.changes import Changes
from p2pnodes.store.checkpoints import ELECTORATES_KEPT, Donor, certified
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import NOTHING, Answer, Found, Lack, consider, lacking, load
from p2pnodes.store.rebuild import rebuild
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result
from tests.gossip.past import Past
from tests.model.world import signed_closing
from tests.store.restarts import assert_a_start_finds_it
from tests.store.test_checkpoints import cut, found, proposed
from tests.support import BLOCK, MINERS, NETWORK, NOW_MS, VALIDATORS, Author, add, electorate, memory_ledger


def considered(ledger: Ledger, past: Past, number: int | None = None, wire: bytes | None = None) -> Answer:
    with ledger.transaction():
        return consider(ledger, past.number if number is None else number, past.certificate if wire is None else wire)


def brought(ledger: Ledger, past: Past, place: int) -> Answer:
    with ledger.transaction():
        return load(ledger, past.number, place, *Donor().slice(past.disk, past.number, place))


def missing(ledger: Ledger) -> Lack:
    with ledger.transaction():
        return lacking(ledger)


def stored(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM events").fetchone()
    return int(count)


class TestACertificate:
    """What is to be loaded, and when."""

    def test_whoever_holds_nothing_loads(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        assert missing(ledger) == NOTHING
        assert considered(ledger, pasts[0]).found is Found.LOADS
        assert ledger.state.loading
        assert missing(ledger) == Lack(pasts[0].number, pasts[0].slices, list(range(pasts[0].slices)))

    def test_what_came_in_the_same_transaction_is_told_all_the_same(self, pasts: list[Past]) -> None:
        """Jobs share commits: peers are sent own events, verifiers hear of claims, carriers of logs that ended."""
        author = Author(VALIDATORS[0], number=9)
        ledger = Ledger(open_writer(":memory:"), NETWORK, author.node_key)
        close = signed_closing(VALIDATORS[1], Author(VALIDATORS[1]).log, None)
        with ledger.transaction():
            ledger.set_electorate(pasts[0].electorate)
            ledger.receive(pasts[0].events[:3], pasts[0].now_ms)
        ledger.writes_refused = None
        with ledger.transaction():
            own = ledger.open_log(9, author.delegation(not_after=pasts[0].now_ms // 1000 + 99), pasts[0].now_ms)
            outcomes = ledger.receive(pasts[0].events[3:], pasts[0].now_ms)
            assert {outcome.result for outcome in outcomes} == {Result.STORED}
            ledger.receive_proofs([close], pasts[0].now_ms)
            ledger.begin_loading(pasts[0].certificate)
        assert ledger.news.take_appended() == [own]
        assert len(ledger.news.take_new_claims()) == sum(event.kind == "add" for event in pasts[0].events)
        assert close.log in ledger.news.take_ended()

    def test_whoever_holds_all_below_the_cut_finds_the_live_set_itself(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive(pasts[0].events, pasts[0].now_ms)
        assert considered(ledger, pasts[0]) == Answer(Found.TAKEN)
        assert (ledger.state.certificate, ledger.state.checkpoint) == (pasts[0].number, 0)

    def test_one_that_came_as_events_is_loaded_all_the_same_where_events_are_missing(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.checkpoints.take(pasts[0].certificate)
        assert considered(ledger, pasts[0]).found is Found.LOADS

    def test_what_was_found_here_under_the_same_number_is_no_part_of_it(self, pasts: list[Past]) -> None:
        """Who lacks events may have proposed a cut of its own."""
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive(pasts[0].events[:9], pasts[0].now_ms)
        made = proposed(ledger)
        assert made is not None
        assert found(ledger, line_of(NETWORK, *made)).number == pasts[0].number
        assert considered(ledger, pasts[0]).found is Found.LOADS
        assert missing(ledger).missing == list(range(pasts[0].slices))

    def test_signers_without_a_quorum_of_today_are_not_trusted_and_nobody_is_blamed(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, electorate(stakes={}))
        assert considered(ledger, pasts[0]).found is Found.DISTRUSTED
        ledger = memory_ledger(None, electorate(stakes={"//validator0": 50, "//Alice": 51}))
        assert considered(ledger, pasts[0]).found is Found.DISTRUSTED
        assert not ledger.state.loading

    def test_the_operator_may_know_a_checkpoint_from_others_and_needs_its_id_for_that(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, electorate(stakes={}))
        shown = considered(ledger, pasts[0]).detail.rpartition(" ")[2]
        ledger.checkpoints.vouched = bytes.fromhex(shown)
        assert considered(ledger, pasts[0]).found is Found.LOADS
        assert ledger.state.checkpoint_id.hex() == shown

    def test_signers_are_trusted_for_the_stake_of_then_where_that_was_in_force_here_lately(
        self, pasts: list[Past]
    ) -> None:
        ledger, said = memory_ledger(None, pasts[0].electorate), certified(NETWORK, pasts[0].certificate)
        for number in (1, 2, *range(1, ELECTORATES_KEPT + 1)):  # one that comes again is still one
            assert ledger.checkpoints.trusts(said)
            with ledger.transaction():
                ledger.set_electorate(electorate(BLOCK + number, stakes={"//Alice": 100}))
        assert not ledger.checkpoints.trusts(said)

    def test_what_proves_nothing_is_forged(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        for number, wire in ((pasts[0].number, b"none"), (pasts[0].number + 1, pasts[0].certificate)):
            assert considered(ledger, pasts[0], number, wire).found is Found.FORGED

    def test_an_older_one_than_is_in_force_changes_nothing(self, pasts: list[Past]) -> None:
        ledger = Ledger(pasts[1].copy(), NETWORK)
        assert considered(ledger, pasts[0]) == Answer(Found.TAKEN)
        assert ledger.state.checkpoint == pasts[1].number

    def test_a_higher_one_is_loaded_instead_though_its_cut_goes_no_farther(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[1].electorate)
        considered(ledger, pasts[0])
        brought(ledger, pasts[0], 0)
        assert considered(ledger, pasts[1]).found is Found.LOADS
        assert brought(ledger, pasts[0], 1) == Answer(Found.TAKEN)  # it was under way, and is nobody's fault
        assert missing(ledger).missing == list(range(pasts[1].slices))
        for place in range(pasts[1].slices):
            assert brought(ledger, pasts[1], place) == Answer(Found.TAKEN)
        cut(ledger)
        donor = Ledger(pasts[1].copy(), NETWORK)
        with ledger.transaction():
            ledger.receive([*pasts[0].above, *pasts[1].above], pasts[1].now_ms)
        assert ledger.state.state_root == donor.state.state_root
        assert ledger.state.vector_digest == donor.state.vector_digest
        assert ledger.state.events == stored(ledger.facts.connection) == donor.state.events


class TestTheOwnLog:
    """Rule 4: whoever sees an event of its own log that it did not write opens another log."""

    @staticmethod
    def own(past: Past, events: int) -> Ledger:
        """A daemon whose log others know; it holds that many events of it, the last one only here."""
        author = Author("//validator0")
        ledger = memory_ledger(author.node_key, past.electorate)
        kept = [event for event in past.events if event.log == author.log]
        delegation = Delegation.from_wire(codec.unpack(kept[0].payload))
        with ledger.transaction():
            ledger.set_electorate(electorate())
            ledger.open_log(0, delegation, NOW_MS)
        ledger.writes_refused = None
        for _ in range(1, events):
            with ledger.transaction():
                ledger.append(lambda _: Verdict(bytes(32), "failed", "test", "", None), NOW_MS)
        with ledger.transaction():
            ledger.set_electorate(past.electorate)
        return ledger

    @pytest.mark.parametrize("events", [1, 3, 30])
    def test_one_that_a_checkpoint_cuts_on_another_branch_or_beyond_what_is_here_is_left(
        self, pasts: list[Past], events: int
    ) -> None:
        """A clone wrote on while this disk was away: peers hold more of the log than the checkpoint tells."""
        ledger = self.own(pasts[0], events)
        log = ledger.own_log
        assert considered(ledger, pasts[0]).found is Found.LOADS
        for place in range(pasts[0].slices):
            brought(ledger, pasts[0], place)
        cut(ledger)
        assert (ledger.own_log, ledger.foreign_own) == (None, log)
        with ledger.transaction(), pytest.raises(WritesRefusedError, match="two daemons write it"):
            ledger.append(lambda _: Verdict(bytes(32), "failed", "test", "", None), pasts[0].now_ms)
        assert Ledger(ledger.facts.connection, NETWORK, Author("//validator0").node_key).own_log is None

    def test_one_that_is_here_up_to_the_cut_goes_on(self, pasts: list[Past]) -> None:
        author = Author("//validator0")
        ledger = memory_ledger(author.node_key, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive([event for event in pasts[0].events if event.log == author.log], pasts[0].now_ms)
            ledger.expect(author.log)
            answer = consider(ledger, pasts[0].number, pasts[0].certificate)
        assert answer.found is Found.LOADS
        assert ledger.foreign_own is None


class TestSlices:
    """What comes while a live set is loaded, and at its end."""

    def test_events_above_a_cut_that_goes_no_farther_stay(self, pasts: list[Past]) -> None:
        """Heads of logs at the cut are in no live set: that they are gone does not mean another branch."""
        ledger = Ledger(pasts[0].copy(), NETWORK)
        before = ledger.state.events
        with ledger.transaction():
            ledger.begin_loading(pasts[1].certificate)
        for place in range(pasts[1].slices):
            brought(ledger, pasts[1], place)
        cut(ledger)
        assert ledger.state.events == stored(ledger.facts.connection) == before
        assert {event.log: event.seq for event in pasts[0].above} == {
            log: head.seq for log, head in ledger.state.heads.items()
        }

    @pytest.mark.parametrize("alone", [True, False])
    def test_what_came_first_on_a_branch_that_was_closed_is_read_from_where_it_is_kept(
        self, pasts: list[Past], *, alone: bool
    ) -> None:
        """A claim is read from the event that brought it; on another branch than the checkpoint's, that goes."""
        first, other = (
            next(event for event in pasts[0].events if event.log == Author(uri).log) for uri in VALIDATORS[:2]
        )
        carried = next(event for event in pasts[0].events if event.log == first.log and event.kind == "add")
        payload = AddPayload.from_wire(codec.unpack(carried.payload))
        rival = Author(VALIDATORS[1])
        rival.head, rival.clock.latest = Head(0, other.id), other.hlc
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive([other, rival.write(payload), *(() if alone else [first, carried])], NOW_MS)
        considered(ledger, pasts[0])
        for place in range(pasts[0].slices):
            assert brought(ledger, pasts[0], place) == Answer(Found.TAKEN)
        cut(ledger)
        claim = request_id(NETWORK.id, payload.request)
        assert ledger.facts.raw_body(claim) == payload.request.body
        assert ledger.state.state_root == Ledger(pasts[0].copy(), NETWORK).state.state_root

    def test_a_slice_whose_events_are_not_signed_leaves_nothing(self, pasts: list[Past]) -> None:
        """Ids do not cover signatures, so the path holds."""
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        leaves, path = Donor().slice(pasts[0].disk, pasts[0].number, 0)
        *good, (mask, wire) = leaves
        header, _, payload = codec.fields(codec.unpack(wire), 3, "event")
        forged = [*good, (mask, codec.pack([header, bytes(64), payload]))]
        with ledger.transaction():
            answer = load(ledger, pasts[0].number, 0, forged, path)
        assert answer.found is Found.FORGED
        assert "signature" in answer.detail
        assert stored(ledger.facts.connection) == 0
        assert 0 in missing(ledger).missing

    def test_a_start_behind_each_of_them_finds_what_was_known(self, pasts: list[Past]) -> None:
        """Of a newcomer, too, of whose logs nothing was here: how many events these have, and who they speak for."""
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        for place in range(pasts[0].slices):
            assert brought(ledger, pasts[0], place) == Answer(Found.TAKEN)
            assert ledger.state.events == stored(ledger.facts.connection)
            assert_a_start_finds_it(ledger)
        while ledger.state.loading or ledger.state.cutting:
            with ledger.transaction():
                ledger.cut()
            assert_a_start_finds_it(ledger)

    def test_none_is_taken_in_the_transaction_in_which_its_certificate_is(self, pasts: list[Past]) -> None:
        """How far logs go is read anew behind that: less seemed to be here, and indexes were lifted for nothing."""
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive(pasts[0].events[:12], pasts[0].now_ms)
        with ledger.transaction():
            assert consider(ledger, pasts[0].number, pasts[0].certificate).found is Found.LOADS
            assert not ledger.leaving
            with pytest.raises(LocalProtocolError, match="BUG! slice 0 comes in the transaction"):
                load(ledger, pasts[0].number, 0, *Donor().slice(pasts[0].disk, pasts[0].number, 0))
        assert missing(ledger).missing == list(range(pasts[0].slices))
        assert brought(ledger, pasts[0], 0) == Answer(Found.TAKEN)
        assert_a_start_finds_it(ledger)

    def test_one_that_is_here_already_changes_nothing(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        for _ in range(2):
            assert brought(ledger, pasts[0], 3) == Answer(Found.TAKEN)
        assert 3 not in missing(ledger).missing
        assert len(missing(ledger).missing) == pasts[0].slices - 1

    def test_nothing_follows_on_it_before_its_rows_are_there_nor_in_their_last_transaction(
        self, pasts: list[Past]
    ) -> None:
        ledger = memory_ledger(Author("//validator0").node_key, pasts[0].electorate)
        ledger.writes_refused = None
        considered(ledger, pasts[0])
        for place in range(pasts[0].slices):
            assert not ledger.state.loaded
            brought(ledger, pasts[0], place)
        assert ledger.state.loaded
        assert ledger.state.nodes == 0
        parts = 0
        while ledger.state.loading:
            parts += 1
            with ledger.transaction():
                ledger.cut()
                outcomes = ledger.receive(pasts[0].above, pasts[0].now_ms)
                with pytest.raises(WritesRefusedError, match="loaded from peers"):
                    ledger.append(lambda _: Verdict(bytes(32), "failed", "test", "", None), pasts[0].now_ms)
            assert {outcome.result for outcome in outcomes} == {Result.GAP}
        assert parts > 1
        assert not ledger.state.loaded
        assert not ledger.state.cutting  # nothing was here before: nothing else is to be taken away
        with ledger.transaction():
            outcomes = ledger.receive(pasts[0].above, pasts[0].now_ms)
        assert [(outcome.result, outcome.detail) for outcome in outcomes] == [(Result.STORED, "")] * 3

    def test_all_of_it_is_settled_only_when_the_rest_is_gone(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        assert ledger.state.settled is None
        for place in range(pasts[0].slices):
            brought(ledger, pasts[0], place)
        assert ledger.state.settled is None
        cut(ledger)
        assert ledger.state.settled == pasts[0].number


class TestRows:
    """They follow once all of a live set is here, part by part."""

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settling, "CLAIMS_PER_PART", 2)
        monkeypatch.setattr(settling, "ROWS_PER_PART", 2)
        monkeypatch.setattr(settling, "NAMED_PER_PART", 2)
        monkeypatch.setattr(settling, "ROWS_SORTED", 2)

    def loaded(self, ledger: Ledger, past: Past) -> Ledger:
        """A ledger to which all slices have come."""
        considered(ledger, past)
        for place in range(past.slices):
            brought(ledger, past, place)
        return ledger

    def test_none_is_there_before_it_is_whole_though_the_electorate_changes(self, pasts: list[Past]) -> None:
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        for place in range(pasts[0].slices - 1):
            brought(ledger, pasts[0], place)
        with ledger.transaction():
            ledger.set_electorate(pasts[1].electorate)
        assert ledger.facts.connection.execute("SELECT count(*) FROM node").fetchone() == (0,)
        brought(ledger, pasts[0], pasts[0].slices - 1)
        cut(ledger)
        donor = Ledger(pasts[0].copy(), NETWORK)
        with donor.transaction():
            donor.set_electorate(pasts[1].electorate)
        assert ledger.state.nodes == donor.state.nodes > 0
        assert ledger.state.state_root == donor.state.state_root

    def test_a_daemon_killed_between_two_parts_goes_on(self, pasts: list[Past]) -> None:
        ledger = self.loaded(memory_ledger(None, pasts[0].electorate), pasts[0])
        parts = 0
        while ledger.state.loading:
            parts += 1
            with ledger.transaction():
                ledger.cut()
            for begun in range(2):  # one that is killed again after a part
                disk = open_writer(":memory:")
                ledger.facts.connection.backup(disk)
                again = Ledger(disk, NETWORK)
                assert again.state.loaded == ledger.state.loading
                for _ in range(begun * again.state.loaded):
                    with again.transaction():
                        again.cut()
                if again.state.loading:
                    again = Ledger(disk, NETWORK)
                if again.state.settled is None:
                    cut(again)
                assert again.state.state_root == Ledger(pasts[0].copy(), NETWORK).state.state_root
                disk.close()
        assert parts > pasts[0].slices

    def test_followers_are_told_to_read_anew_when_they_are_there(self, pasts: list[Past]) -> None:
        """As rows changed that nobody was told of."""
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        for place in range(pasts[0].slices):
            brought(ledger, pasts[0], place)
        ledger.news.take_changes()
        while ledger.state.loading:
            assert ledger.news.take_changes() is None
            with ledger.transaction():
                ledger.cut()
        assert ledger.news.take_changes() == Changes(too_many=True)

    def test_an_electorate_that_changes_between_two_parts_begins_them_anew(self, pasts: list[Past]) -> None:
        ledger = self.loaded(memory_ledger(None, pasts[0].electorate), pasts[0])
        written = "SELECT EXISTS (SELECT 1 FROM node)"
        while ledger.facts.connection.execute(written).fetchone() == (0,):
            with ledger.transaction():
                ledger.cut()
        assert ledger.state.loading
        other = electorate(stakes={}, time_ms=pasts[1].electorate.time_ms)  # nobody is permitted: nothing counts
        with ledger.transaction():
            ledger.set_electorate(other)
        cut(ledger)
        assert ledger.state.nodes == 0
        assert ledger.facts.connection.execute("SELECT count(*) FROM node").fetchone() == (0,)
        assert ledger.facts.connection.execute("SELECT count(*) FROM supply").fetchone() == (0,)
        with ledger.transaction():
            ledger.set_electorate(pasts[0].electorate)
        assert ledger.state.state_root == Ledger(pasts[0].copy(), NETWORK).state.state_root

    def test_rows_that_were_there_stay_where_they_are_right(self, pasts: list[Past]) -> None:
        """Of a daemon that was away for longer than the horizon."""
        ledger = memory_ledger(None, pasts[1].electorate)
        with ledger.transaction():
            ledger.receive(pasts[0].events[: len(pasts[0].events) // 2], pasts[1].now_ms)
        before = set(ledger.facts.connection.execute("SELECT uuid, digest FROM node").fetchall())
        self.loaded(ledger, pasts[1])
        cut(ledger)
        donor = Ledger(pasts[1].copy(), NETWORK)
        with ledger.transaction():
            ledger.receive([*pasts[0].above, *pasts[1].above], pasts[1].now_ms)
        assert ledger.state.state_root == donor.state.state_root
        assert before & set(ledger.facts.connection.execute("SELECT uuid, digest FROM node").fetchall())
        for query in ("SELECT * FROM supply ORDER BY 1, 2", "SELECT * FROM tenancy ORDER BY 1, 2, 3"):
            assert ledger.facts.connection.execute(query).fetchall() == donor.facts.connection.execute(query).fetchall()

    @pytest.mark.parametrize("lacks", [0, 1])
    def test_a_database_whose_rows_do_not_follow_yet_is_no_problem(
        self, pasts: list[Past], tmp_path: Path, lacks: int
    ) -> None:
        """What is checked is what they are to be."""
        ledger = memory_ledger(None, pasts[0].electorate)
        considered(ledger, pasts[0])
        for place in range(lacks, pasts[0].slices):
            brought(ledger, pasts[0], place)
        with closing(sqlite3.connect(tmp_path / "loading.db")) as disk:
            ledger.facts.connection.backup(disk)
        report = audit(tmp_path / "loading.db", NETWORK)
        assert report.problems == []
        assert report.rows > 0
        assert rebuild(tmp_path / "loading.db", NETWORK).differences == []


class TestTooManyLogs:
    """What the cut in force names stays, whatever else a hotkey has (``model.branches.displaced``)."""

    @pytest.mark.parametrize("parts", [0, 1, 2])
    def test_a_displaced_log_counts_when_a_checkpoint_names_it(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch, parts: int
    ) -> None:
        """Here it was displaced by another one, and some parts of it are forgotten already."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
        monkeypatch.setattr(ledger_module, "EVENTS_PER_PART", 4)
        log = Author(VALIDATORS[0]).log
        numbers = (number for number in count(1) if displaced([log, log._replace(number=number)], (), 1) == [log])
        other = Author(VALIDATORS[0], number=next(numbers))
        other.write(other.delegation(not_after=pasts[0].now_ms // 1000 + 99))
        other.add(add(MINERS[0], ["gpu-of-another-log"]))
        ledger = memory_ledger(None, pasts[0].electorate)
        with ledger.transaction():
            ledger.receive([*pasts[0].events, *other.events], pasts[0].now_ms)
        assert [held.id for held in ledger.state.logs.values() if held.displaced] == [log]
        for _ in range(parts):
            with ledger.transaction():
                assert not ledger.forget(log)
        assert considered(ledger, pasts[0]).found is (Found.LOADS if parts else Found.TAKEN)
        if parts:
            for place in range(pasts[0].slices):
                assert brought(ledger, pasts[0], place) == Answer(Found.TAKEN)
        else:  # all that it said is still here
            pending = ledger.checkpoints.pending
            assert pending is not None
            assert found(ledger, pending.line) == pending.statement
            with ledger.transaction():
                ledger.enforce()
        cut(ledger)
        assert [held.id for held in ledger.state.logs.values() if held.displaced] == [other.log]
        assert log in ledger.state.heads
        assert ledger.state.state_root == Ledger(pasts[0].copy(), NETWORK).state.state_root
        assert Ledger(ledger.facts.connection, NETWORK).state == ledger.state
        with ledger.transaction():
            assert ledger.forget(other.log)
        assert ledger.state.events == stored(ledger.facts.connection)

    def test_no_other_log_takes_the_row_key_of_one_that_is_gone(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Readers remember by it whose log it is."""
        disk = pasts[0].copy()
        for number, key in ((1, 4), (2, 5)):
            author = Author(VALIDATORS[0], number=number)
            monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 2)
            ledger = Ledger(disk, NETWORK)
            with ledger.transaction():
                ledger.receive([author.delegate()], pasts[0].now_ms)
            assert ledger.state.logs[author.log].key == key
            monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
            ledger = Ledger(disk, NETWORK)
            with ledger.transaction():
                assert ledger.forget(author.log)
