"""``db rebuild`` makes rows what the log says, whole or not at all, and says what was wrong."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from p2pnodes.model.errors import StoreError
from p2pnodes.model.network import Network
from p2pnodes.store import rebuild as module
from p2pnodes.store.audit import audit
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.rebuild import PROBLEMS_MAX, rebuild
from p2pnodes.store.schema import open_writer
from tests.store.files import change, full, keep
from tests.support import NETWORK, Author, add

CLAIMS = 11
GPUS = 10 * CLAIMS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with more rows than differences are told of, and a void event."""
    author = Author("//validator0")
    author.delegate()
    requests = [add("//Alice", [f"gpu-{claim}-{index}" for index in range(10)]) for claim in range(CLAIMS)]
    for request in requests:
        author.add(request)
    author.add(requests[0]._replace(body=requests[0].body + b" "))  # void: the signature is over other bytes
    return keep(tmp_path / "p2pnodes.db", author.events)


def dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = list(connection.iterdump())
    connection.close()
    return found


def test_rows_that_are_right_do_not_differ(path: Path) -> None:
    before = audit(path, NETWORK)
    told: list[tuple[str, int, int]] = []
    report = rebuild(path, NETWORK, lambda *step: told.append(step))
    assert report == (CLAIMS + 2, GPUS, before.state_root, before.state_root, [])
    assert ("deriving rows", CLAIMS + 2, CLAIMS + 2) in told
    assert [what for what, done, of in told if done == of] == ["deriving rows", "settling rows", "comparing"]
    assert audit(path, NETWORK) == before


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("UPDATE node SET status = 'verified' WHERE uuid = 'gpu-0-1'", "node: a rebuild lacks"),
        ("DELETE FROM node WHERE uuid = 'gpu-0-1'", "node: only a rebuild has"),
        ("UPDATE supply SET idle = 7", "supply: a rebuild lacks"),
        ("INSERT INTO tenancy VALUES (x'00', 'h100_sxm', x'00', 1)", "tenancy: a rebuild lacks"),
        ("UPDATE claim SET status = 'failed'", "claim: a rebuild lacks"),
        ("DELETE FROM carriage", "carriage: only a rebuild has"),
        ("UPDATE events SET void = NULL WHERE void NOTNULL", "judgements: only a rebuild has"),
    ],
)
def test_rows_that_were_changed_are_named_and_set_right(path: Path, statement: str, difference: str) -> None:
    sound = audit(path, NETWORK)
    change(path, statement, several=True)
    assert any(found.startswith(difference) for found in rebuild(path, NETWORK).differences)
    assert audit(path, NETWORK) == sound
    assert rebuild(path, NETWORK).differences == []


def test_both_state_roots_are_told(path: Path) -> None:
    sound = audit(path, NETWORK).state_root
    change(path, "DELETE FROM node WHERE uuid = 'gpu-0-1'")
    report = rebuild(path, NETWORK)
    assert report.state_root == sound
    assert report.state_root_before != sound


def test_so_many_differences_are_told_and_no_more(path: Path) -> None:
    change(path, "DELETE FROM node", several=True)
    report = rebuild(path, NETWORK)
    assert len(report.differences) == PROBLEMS_MAX < GPUS
    assert audit(path, NETWORK).problems == []


def test_a_kill_in_the_middle_leaves_the_old_rows(path: Path) -> None:
    change(path, "DELETE FROM node WHERE uuid = 'gpu-0-1'")
    before = dump(path)
    # Killed when all events are judged and everything that was derived is written, in the transaction still.
    script = (
        "import os, signal, sys; from pathlib import Path; from p2pnodes.store.rebuild import rebuild; "
        "from tests.support import NETWORK; "
        "rebuild(Path(sys.argv[1]), NETWORK, lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert killed.returncode == -9
    assert dump(path) == before
    differing = {difference.partition(":")[0] for difference in rebuild(path, NETWORK).differences}
    assert differing == {"node", "bucket", "supply"}


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE events SET wire = x'00' WHERE seq = 2", "its log is damaged, nothing changed"),
        ("DELETE FROM events", "no event of log"),
    ],
)
def test_a_damaged_log_changes_nothing(path: Path, statement: str, reason: str) -> None:
    change(path, statement, several=True)
    before = dump(path)
    with pytest.raises(StoreError, match=reason):
        rebuild(path, NETWORK)
    assert dump(path) == before


def test_what_sqlite_refuses_is_one_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hold", full)
    with pytest.raises(StoreError, match="cannot be rebuilt, nothing changed: database or disk is full"):
        rebuild(path, NETWORK)


def test_nobody_is_told_to_throw_a_database_away_that_is_not_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "differences", full)
    with pytest.raises(StoreError, match=r"check the path, its owner and the disk$"):
        rebuild(path, NETWORK)


@pytest.mark.parametrize("failing", ["finish_cut", "differences"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE node SET status = x'00' WHERE uuid = 'gpu-0-1'",
        "UPDATE claim SET detail = x'00'",
        "UPDATE delegations SET hlc = 'x'",
        "UPDATE bucket_changed SET bucket = 'x'",
    ],
)
def test_what_was_struck_out_is_derived_wherever_it_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, failing: str
) -> None:
    """Rows of wrong types go before a ledger can open; the daemon would go on with those that are left."""
    sound = audit(path, NETWORK)
    change(path, statement, several=True)
    monkeypatch.setattr(module, failing, full)
    with pytest.raises(StoreError, match=r"struck out, and the next start derives it again: .* disk is full"):
        rebuild(path, NETWORK)
    with closing(open_writer(path)) as connection:
        state = Ledger(connection, NETWORK).state
    assert (state.state_root.hex(), state.nodes) == (sound.state_root, sound.rows)


def test_beside_what_was_struck_out_the_rest_that_differed_is_told(path: Path) -> None:
    sound = audit(path, NETWORK)
    change(path, "UPDATE node SET status = x'00' WHERE uuid = 'gpu-0-1'")
    change(path, "UPDATE supply SET idle = 7")
    report = rebuild(path, NETWORK)
    assert {found.partition(":")[0] for found in report.differences} == {"table node", "node", "bucket", "supply"}
    assert report.state_root == sound.state_root != report.state_root_before
    assert audit(path, NETWORK) == sound


def test_a_damaged_log_is_told_where_something_was_struck_out(path: Path) -> None:
    change(path, "UPDATE claim SET detail = x'00'", several=True)
    change(path, "UPDATE events SET wire = x'00' WHERE seq = 2")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"the database is damaged: an event cannot be read .*; restore a backup"):
            rebuild(path, NETWORK)


def test_an_absent_database_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such database"):
        rebuild(tmp_path / "p2pnodes.db", NETWORK)
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_another_network_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="belongs to network"):
        rebuild(path, Network(genesis_hash="1" * 64, netuid=64))
