"""``db verify`` finds what is wrong with a database and nothing else."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from p2pnodes.model.errors import StoreError
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from p2pnodes.store import audit as module
from p2pnodes.store import buckets
from p2pnodes.store.audit import audit
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.rebuild import rebuild
from p2pnodes.store.schema import open_writer
from tests.gossip.past import Past
from tests.store.files import change, full
from tests.store.test_indexes import begun, take
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with events of two validators: claims, a verdict, a deletion and a void event."""
    path = tmp_path / "p2pnodes.db"
    author, peer = Author("//validator0"), Author("//validator1")
    connection = open_writer(path)
    ledger = Ledger(connection, NETWORK, NodeKey.from_seed(author.node_key.seed))
    peer.delegate()
    claim = add("//Alice", ["gpu-1", "gpu-2"])
    peer.add(claim)
    peer.add(claim._replace(body=claim.body + b" "))  # void: the signature is over other bytes
    peer.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1")
    with ledger.transaction():
        ledger.set_electorate(electorate())
        ledger.open_log(0, author.delegation(), NOW_MS)
        ledger.receive(peer.events, NOW_MS)
    connection.close()
    return path


def test_a_sound_database_has_no_problems(path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    report = audit(path, NETWORK, lambda what, done, of: seen.update({what: (done, of)}))
    assert report.problems == []
    assert (report.logs, report.events, report.rows) == (2, 5, 1)
    assert list(seen) == ["checking events", "deriving rows", "settling rows", "comparing"]
    assert seen["checking events"] == seen["deriving rows"] == (5, 5)
    assert all(done == of for done, of in seen.values())


@pytest.mark.parametrize("at", ["open_writer", "drop_untyped", "finish_cut", "hold", "differences"])
def test_no_room_for_the_copy_that_is_checked_is_no_problem_of_the_database(
    path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Who is told of problems rebuilds, or restores a backup."""
    monkeypatch.setattr(*((sqlite3, "connect") if at == "open_writer" else (module, at)), full)
    with pytest.raises(StoreError, match=r"database or disk is full; .*") as refused:
        audit(path, NETWORK)
    assert "SQLite's temporary directory" in str(refused.value)


def test_the_check_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    audit(path, NETWORK)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE node SET status = 'verified'", "node: a rebuild lacks"),
        ("DELETE FROM node", "node: only a rebuild has"),
        ("UPDATE claim SET status = 'failed'", "claim: a rebuild lacks"),
        ("UPDATE logs SET hotkey = zeroblob(32) WHERE log = 2", "speaks for another hotkey"),
        ("UPDATE events SET void = NULL WHERE void IS NOT NULL", "was judged otherwise"),
        ("UPDATE events SET hlc_max = hlc_max + 1 WHERE log = 2 AND seq = 1", "another HLC as the highest so far"),
        ("DELETE FROM events WHERE log = 2 AND seq = 1", "seq 1 is missing"),
        ("UPDATE events SET seq = 9 WHERE log = 2 AND seq = 3", "the row names another event than its bytes"),
        ("UPDATE events SET wire = x'00' WHERE log = 2 AND seq = 3", "does not decode"),
        ("UPDATE node SET digest = zeroblob(32)", "node: a rebuild lacks"),
        ("DELETE FROM bucket_changed", "the state root is"),
    ],
)
def test_damage_is_named(path: Path, statement: str, problem: str) -> None:
    change(path, statement)
    assert any(problem in found for found in audit(path, NETWORK).problems)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE bucket SET hash = zeroblob(32)", "the state root is"),
        ("UPDATE bucket SET rows = rows + 1", "bucket: a rebuild lacks"),
    ],
)
def test_damage_to_a_written_hash_is_named(path: Path, statement: str, problem: str) -> None:
    with closing(open_writer(path)) as connection:
        buckets.write(connection, buckets.load(connection))
        buckets.written(connection)
    assert audit(path, NETWORK).problems == []
    change(path, statement)
    assert any(problem in found for found in audit(path, NETWORK).problems)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("wire", None, "table events: 1 rows have another type in wire than blob"),
        ("id", "text", "table events: 1 rows have another type in id than blob"),
        ("hlc", b"", "table events: 1 rows have another type in hlc than integer"),
        ("void", b"", "table events: 1 rows have another type in void than text or null"),
    ],
)
def test_a_value_of_another_type_is_named(path: Path, column: str, value: object, expected: str) -> None:
    """As a bit that flips in the head of a row makes one, which no constraint of SQLite's sees."""
    where = "WHERE name = 'events'"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (schema,) = connection.execute(f"SELECT sql FROM sqlite_master {where}").fetchone()
        connection.execute(f"UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') {where}")
    connection.close()
    change(path, f"UPDATE events SET {column} = ? WHERE log = 2 AND seq = 2", value)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(f"UPDATE sqlite_master SET sql = ? {where}", (schema,))
    connection.close()
    assert any(expected in found for found in audit(path, NETWORK).problems)
    with pytest.raises(StoreError, match=expected):
        rebuild(path, NETWORK)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE node SET name = x'00'", "table node: 1 rows have another type in name than text"),
        ("UPDATE supply SET idle = 'x'", "table supply: 1 rows have another type in idle than integer"),
        ("UPDATE claim SET detail = x''", "table claim: 1 rows have another type in detail than text"),
        ("UPDATE bucket_changed SET bucket = 'x' WHERE rowid = 1", "table bucket_changed: 1 rows"),
        (
            "INSERT INTO checks VALUES (x'00', 0, 0, 0, x'00')",
            "table checks: 1 rows have another type in note",
        ),
    ],
)
def test_one_in_what_can_be_derived_again_is_named_and_mended(path: Path, statement: str, expected: str) -> None:
    sound = audit(path, NETWORK)
    change(path, statement)
    damaged = audit(path, NETWORK)
    assert any(found.startswith(expected) for found in damaged.problems)
    assert (damaged.events, damaged.state_root) == (sound.events, sound.state_root), "the log is checked all the same"
    assert any(found.startswith(expected) for found in rebuild(path, NETWORK).differences)
    assert audit(path, NETWORK) == sound


FLIPS: Final = 150


def test_a_bit_that_flips_anywhere_is_told_of_in_words_or_hit_nothing(path: Path, tmp_path: Path) -> None:
    sound, rng, damaged = path.read_bytes(), random.Random(1), tmp_path / "damaged.db"
    expected = audit(path, NETWORK)
    named = 0
    for _ in range(FLIPS):
        content = bytearray(sound)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(content)
        try:
            report = audit(damaged, NETWORK)
        except StoreError:
            named += 1
            continue
        assert report.problems or report == expected
        named += bool(report.problems)
    assert 0 < named < FLIPS, "else none hit what is in use, or none what is not"


def test_a_schema_that_is_no_text_any_more_is_one_clear_error(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE events (") == 1
    path.write_bytes(content.replace(b"CREATE TABLE events (", b"CREATE TABLE events \xef"))
    with pytest.raises(StoreError, match="cannot read the database"):
        audit(path, NETWORK)
    with pytest.raises(StoreError, match="cannot read the database"):
        rebuild(path, NETWORK)


def test_a_signature_that_does_not_hold_is_found(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        (wire,) = connection.execute("SELECT wire FROM events WHERE log = 2 AND seq = 1").fetchone()
    connection.close()
    begin = wire.index(b"\xc4\x40") + 2  # the signature: 64 bytes of binary
    change(path, "UPDATE events SET wire = ? WHERE log = 2 AND seq = 1", wire[:begin] + bytes(64) + wire[begin + 64 :])
    assert any("its signature does not hold" in found for found in audit(path, NETWORK).problems)


def test_a_database_of_another_network_is_one_problem_and_not_one_for_each_event(path: Path) -> None:
    other = Network(genesis_hash="1" * 64, netuid=64)
    (problem,) = audit(path, other).problems
    assert problem.endswith(
        f"is of network {NETWORK.id.hex()}, the settings say {other.id.hex()}: use that network's configuration"
    )


def test_a_newer_schema_than_this_build_knows_is_a_problem(path: Path) -> None:
    change(path, "UPDATE compatibility SET lowest = 99")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    (problem,) = audit(path, NETWORK).problems
    assert "the database has schema 99" in problem


def test_an_absent_database_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such database"):
        audit(tmp_path / "p2pnodes.db", NETWORK)


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "p2pnodes.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        audit(path, NETWORK)


def test_a_body_whose_event_is_missing_is_damage(path: Path) -> None:
    with closing(open_writer(path)) as connection:
        (claim_id,) = connection.execute("SELECT claim_id FROM claim WHERE position NOTNULL").fetchone()
        connection.execute("DELETE FROM events WHERE kind = 'add'")
        with pytest.raises(StoreError, match="the database is damaged: the event that carries claim"):
            Facts(connection).body(claim_id)


def test_damage_to_what_rows_are_to_follow_from_is_told_in_words(pasts: list[Past], tmp_path: Path) -> None:
    """A live set is here and its rows are not, as behind a kill; what claims name is read then first."""
    past, path = pasts[0], tmp_path / "loaded.db"
    ledger = begun(past)
    take(ledger, past, *range(past.slices))
    assert ledger.state.loaded
    with closing(open_writer(path)) as disk:
        ledger.facts.connection.backup(disk)
    assert audit(path, NETWORK).problems == []
    change(path, "UPDATE claim SET uuids = x'91' WHERE claim = 3")
    assert any("claim: a rebuild lacks" in found for found in audit(path, NETWORK).problems)
    with pytest.raises(StoreError, match="the GPUs of a claim cannot be read"):
        rebuild(path, NETWORK)
