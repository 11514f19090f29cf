"""What is damaged is neither served nor taken for a peer's fault or a bug; an event that comes again mends itself."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Event, Head
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.audit import audit
from p2pnodes.store.checkpoints import Donor, live_set_damage, read_certificate
from p2pnodes.store.damage import DamagedEventError
from p2pnodes.store.database import DAMAGED_MAX, Database
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import MENDED, Ledger, read_log
from p2pnodes.store.loading import Found, load
from p2pnodes.store.rebuild import rebuild
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result
from tests.gossip.past import Past
from tests.store.files import change, keep
from tests.store.test_indexes import begun
from tests.support import NETWORK, NOW_MS, Author, add, electorate, memory_ledger


def flipped(data: bytes, at: int) -> bytes:
    """One bit of a byte is another one."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def damage(connection: sqlite3.Connection, event: Event, wire: bytes) -> None:
    """Another process, or the disk, changes the bytes of a stored event."""
    where = "log = (SELECT log FROM logs WHERE node_key = ?) AND seq = ?"
    changed = connection.execute(f"UPDATE events SET wire = ? WHERE {where}", (wire, event.log.node_key, event.seq))
    assert changed.rowcount == 1


@pytest.fixture
def author() -> Author:
    """Of a log with four events, one of them a claim."""
    author = Author("//validator1")
    author.delegate()
    author.add(add("//Alice", ["gpu-1"]))
    author.verdict(bytes(32))
    author.verdict(bytes(32))
    return author


@pytest.fixture
def held(author: Author) -> Ledger:
    """A ledger that holds it."""
    ledger = memory_ledger()
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS)
    return ledger


def stored(ledger: Ledger, author: Author, first_seq: int = 0) -> list[bytes]:
    return read_log(ledger.facts.connection, author.log, first_seq, 1 << 20)


class TestServing:
    """Nobody is sent an event that is not what it was: it would be taken for a forgery."""

    @pytest.mark.parametrize("place", ["header", "payload", "frame", "tail", "id"])
    def test_a_range_ends_before_a_damaged_event(self, held: Ledger, author: Author, place: str) -> None:
        event, connection = author.events[2], held.facts.connection
        if place == "id":
            connection.execute("UPDATE events SET id = zeroblob(32) WHERE seq = 2")
        else:
            wires = {
                "header": flipped(event.wire, event.wire.index(event.header) + 40),
                "payload": flipped(event.wire, len(event.wire) - 1),
                "frame": flipped(event.wire, 0),
                "tail": event.wire + b"\0",
            }
            damage(connection, event, wires[place])
        assert stored(held, author) == [each.wire for each in author.events[:2]]
        assert stored(held, author, 3) == [author.events[3].wire]
        with pytest.raises(DamagedEventError) as found:
            stored(held, author, 2)
        assert (found.value.log, found.value.seq) == (author.log, 2)

    @pytest.mark.parametrize("wire", [b"", b"\x93\x01\x02\x03", b"\xc1", b"\x90", b"\x93\xc4\x00\xc4\x00\xc4\x00"])
    def test_what_is_no_event_is_not_whole(self, author: Author, wire: bytes) -> None:
        assert not Event.is_whole(wire, author.events[0].id)
        assert all(Event.is_whole(event.wire, event.id) for event in author.events)

    def test_a_slice_with_a_damaged_event_names_it(self, pasts: list[Past]) -> None:
        past = pasts[0]
        disk = past.copy()
        leaves, _ = Donor().slice(disk, past.number, 1)
        event = Event.decode(leaves[0][1])
        damage(disk, event, flipped(event.wire, len(event.wire) - 1))
        with pytest.raises(DamagedEventError) as found:
            Donor().slice(disk, past.number, 1)
        assert (found.value.log, found.value.seq) == (event.log, event.seq)
        assert Donor().slice(disk, past.number, 0) == Donor().slice(past.disk, past.number, 0)

    @pytest.mark.parametrize(
        ("statement", "reason"),
        [
            ("UPDATE live_slice SET hash = zeroblob(32) WHERE slice = 1", "the hashes of the live set"),
            ("UPDATE live SET mask = mask + 2", "is not what was signed"),
            ("UPDATE certificate SET wire = substr(wire, 1, 400)", "a certificate cannot be read"),
            ("UPDATE certificate SET stage = 'd/ne'", "a certificate cannot be read"),
        ],
    )
    def test_nor_a_slice_that_proves_nothing(self, pasts: list[Past], statement: str, reason: str) -> None:
        disk = pasts[0].copy()
        disk.execute(statement)
        with pytest.raises(StoreError, match=f"the database is damaged: .*{reason}"):
            Donor().slice(disk, pasts[0].number, 0)

    def test_nor_a_certificate_that_is_none(self, pasts: list[Past]) -> None:
        disk = pasts[0].copy()
        disk.execute("UPDATE certificate SET wire = ?", (flipped(pasts[0].certificate, 900),))
        with pytest.raises(StoreError, match="the database is damaged: a certificate cannot be read"):
            read_certificate(disk, pasts[0].number)


class TestMending:
    """A damaged event that a peer sends again takes its place."""

    @pytest.mark.parametrize("seq", [1, 3])
    @pytest.mark.parametrize("place", ["payload", "signature"])
    def test_an_event_that_comes_again_is_whole_again(self, held: Ledger, author: Author, seq: int, place: str) -> None:
        event = author.events[seq]
        at = event.wire.index(event.signature) if place == "signature" else len(event.wire) - 1
        damage(held.facts.connection, event, flipped(event.wire, at))
        with held.transaction():
            (outcome,) = held.receive([event], NOW_MS)
        assert (outcome.result, outcome.detail) == (Result.KNOWN, MENDED)
        assert stored(held, author) == [each.wire for each in author.events]
        assert audit_of(held) == []

    @pytest.mark.parametrize("seq", [1, 3])
    def test_also_where_its_row_names_another_one(self, held: Ledger, author: Author, seq: int) -> None:
        """Else the true event would be taken for a fork, and an own log be left for it."""
        held.facts.connection.execute("UPDATE events SET id = zeroblob(32) WHERE seq = ?", (seq,))
        again = Ledger(held.facts.connection, NETWORK)
        with again.transaction():
            (outcome,) = again.receive([author.events[seq]], NOW_MS)
        assert (outcome.result, outcome.detail) == (Result.KNOWN, MENDED)
        assert again.state.logs[author.log].head == Head(3, author.events[3].id)
        assert stored(again, author) == [each.wire for each in author.events]

    def test_a_forged_copy_mends_nothing(self, held: Ledger, author: Author) -> None:
        event = author.events[1]
        wrong = flipped(event.wire, len(event.wire) - 1)
        damage(held.facts.connection, event, wrong)
        forged = Event.decode(flipped(event.wire, event.wire.index(event.signature)))
        assert forged.id == event.id
        with held.transaction():
            (outcome,) = held.receive([forged], NOW_MS)
        assert (outcome.result, outcome.detail) == (Result.KNOWN, "")
        assert held.facts.connection.execute("SELECT wire FROM events WHERE seq = 1").fetchone() == (wrong,)

    def test_a_sound_event_stays_as_it_is(self, held: Ledger, author: Author) -> None:
        with held.transaction():
            outcomes = held.receive(author.events, NOW_MS)
        assert {(outcome.result, outcome.detail) for outcome in outcomes} == {(Result.KNOWN, "")}

    def test_a_rival_of_a_damaged_event_proves_nothing_and_fails_nothing(self, held: Ledger, author: Author) -> None:
        event = author.events[2]
        damage(held.facts.connection, event, flipped(event.wire, len(event.wire) - 1))
        author.head = Head(1, author.events[1].id)
        rival = author.verdict(bytes(32), "abstain", at_ms=NOW_MS + 1)
        with held.transaction():
            outcomes = held.receive([rival, author.events[0]], NOW_MS + 1)
        assert [(outcome.result, outcome.proved) for outcome in outcomes] == [
            (Result.FORK, False),
            (Result.KNOWN, False),
        ]


def audit_of(ledger: Ledger) -> list[str]:
    """What ``db verify`` says of a ledger's database."""
    with closing(sqlite3.connect("file:audited?mode=memory&cache=shared", uri=True)) as copy:
        ledger.facts.connection.backup(copy)
        found = [
            row
            for row in copy.execute("SELECT id, wire FROM events")
            if not (Event.is_whole(row[1], row[0]) and Event.decode(row[1]).signed())
        ]
    return [f"{row}" for row in found]


@pytest.fixture
def path(tmp_path: Path, author: Author) -> Path:
    """The same database in a file."""
    return keep(tmp_path / "p2pnodes.db", author.events)


def _shown(facts: Facts, claim_id: bytes) -> object:
    return facts.servers({1: claim_id})


def _claim(facts: Facts, _: bytes) -> object:
    return facts.claim(1)


def _explained(facts: Facts, claim_id: bytes) -> object:
    return facts.explain_claim(claim_id, memory_ledger().weights)


class TestWords:
    """Damage is told in words, as damage: no peer is blamed, and nobody is sent a traceback."""

    @pytest.mark.parametrize(
        ("statement", "read", "reason"),
        [
            ("UPDATE events SET wire = x'93' WHERE seq = 1", Facts.raw_body, "an event cannot be read"),
            ("UPDATE events SET wire = x'93' WHERE seq = 1", _shown, "an event cannot be read"),
            ("UPDATE carriage SET log = 99", _claim, "log 99 is not in it"),
            ("DELETE FROM node", _explained, "is not found by the GPUs that it names"),
        ],
    )
    def test_what_cannot_be_read_is_damage(
        self, path: Path, statement: str, read: Callable[[Facts, bytes], object], reason: str
    ) -> None:
        change(path, statement)
        with closing(open_writer(path)) as connection:
            (claim_id,) = connection.execute("SELECT claim_id FROM claim WHERE miner NOTNULL").fetchone()
            with pytest.raises(StoreError, match=f"the database is damaged: .*{reason}"):
                read(Facts(connection), claim_id)

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE electorate SET pins = x'92'",
            "INSERT INTO bucket_changed VALUES (65536)",
            "INSERT INTO bucket_changed VALUES (-1)",
            "INSERT INTO meta VALUES ('cut_away', x'c1')",
            "UPDATE events SET wire = x'93' WHERE kind = 'delegate'",
        ],
    )
    async def test_a_daemon_does_not_start_with_it(self, path: Path, statement: str) -> None:
        change(path, statement)
        with pytest.raises(StoreError, match=r"the database is damaged: .*; (restore|run)"):
            await Database.open(path, NETWORK, None, now_ms=lambda: NOW_MS)

    def test_own_damage_is_no_forgery_of_whoever_sends_a_slice(self, pasts: list[Past]) -> None:
        """Nor is half of the slice kept."""
        past, ledger = pasts[0], begun(pasts[0])
        leaves, path = Donor().slice(past.disk, past.number, 0)
        with ledger.transaction():
            assert load(ledger, past.number, 0, leaves, path).found is Found.TAKEN
        ledger.facts.connection.execute("UPDATE events SET wire = x'93'")
        before = list(ledger.facts.connection.iterdump())
        slices = [(index, *Donor().slice(past.disk, past.number, index)) for index in range(1, past.slices)]
        of_log = Event.decode(leaves[0][1]).log
        index, more, path = next(each for each in slices if Event.decode(each[1][0][1]).log == of_log)
        with pytest.raises(StoreError, match="an event cannot be read"), ledger.transaction():
            load(ledger, past.number, index, more, path)
        assert list(ledger.facts.connection.iterdump()) == before


class TestVerify:
    """``db verify`` names what else a flipped byte may hit, and ``db rebuild`` mends what follows from the log."""

    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            ("UPDATE logs SET node_key = zeroblob(32)", "is of another log than the log's row says"),
            ("UPDATE logs SET number = 7", "is of another log than the log's row says"),
            ("UPDATE events SET hlc = hlc + 1 WHERE seq = 1", "names another HLC or kind than its bytes"),
            ("UPDATE events SET kind = 'carry' WHERE seq = 1", "names another HLC or kind than its bytes"),
        ],
    )
    def test_a_row_that_belies_its_event_is_named(self, path: Path, statement: str, problem: str) -> None:
        change(path, statement)
        assert any(problem in found for found in audit(path, NETWORK).problems)

    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            ("UPDATE claim SET position = 99", "rows name an event that does not carry the claim"),
            ("UPDATE address SET address = 'x'", "table address: "),
            ("DELETE FROM address", "address: only a rebuild has"),
            ("INSERT INTO bucket_changed VALUES (65536)", "rows are of buckets that there are not"),
            ("UPDATE node SET name = CAST(x'f0' AS TEXT)", r"node: a rebuild lacks"),
        ],
    )
    def test_what_follows_from_the_log_is_named_and_mended(self, path: Path, statement: str, problem: str) -> None:
        change(path, statement, several=True)
        found = audit(path, NETWORK).problems
        assert any(problem in each for each in found)
        assert not any("could not go on" in each for each in found)
        rebuild(path, NETWORK)
        assert audit(path, NETWORK).problems == []

    def test_hashes_of_slices_are_looked_at(self, pasts: list[Past]) -> None:
        disk = pasts[0].copy()
        assert live_set_damage(disk, NETWORK) is None
        disk.execute("UPDATE live_slice SET hash = zeroblob(32) WHERE slice = 1")
        assert "the hashes of its live set's slices" in (live_set_damage(disk, NETWORK) or "")


class TestDatabase:
    """A running daemon tells of damage once, and that it is mended."""

    async def test_damage_is_counted_until_the_event_comes_again(self, path: Path, author: Author) -> None:
        key = NodeKey.from_seed(Author("//validator0").node_key.seed)
        database = await Database.open(path, NETWORK, key, now_ms=lambda: NOW_MS)
        try:
            await database.set_electorate(electorate())
            with closing(sqlite3.connect(path)) as other, other:
                damage(other, author.events[2], flipped(author.events[2].wire, 0))
            for _ in range(3):
                with pytest.raises(DamagedEventError):
                    await database.read_log(author.log, 2, 1 << 20)
            assert (database.status()["damaged_events"], database.status()["damaged_left"]) == (1, 1)
            await database.receive([author.events[2]], NOW_MS)
            assert (database.status()["damaged_events"], database.status()["damaged_left"]) == (1, 0)
            assert await database.read_log(author.log, 2, 1 << 20) == [event.wire for event in author.events[2:]]
        finally:
            await database.close()

    async def test_no_more_are_remembered_than_bounds_allow(
        self, path: Path, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert DAMAGED_MAX
        monkeypatch.setattr("p2pnodes.store.database.DAMAGED_MAX", 1)
        change(path, "UPDATE events SET wire = x'93' WHERE seq > 1", several=True)
        database = await Database.open(path, NETWORK, None, now_ms=lambda: NOW_MS)
        try:
            for seq in (2, 3):
                with pytest.raises(DamagedEventError):
                    await database.read_log(author.log, seq, 1 << 20)
            assert database.status()["damaged_left"] == 1
        finally:
            await database.close()
