"""The own log of a daemon that does not run is read from its database."""

import sqlite3
from pathlib import Path

import pytest

from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Head, LogId, Verdict, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.ownlog import OwnLog, read_own_log
from p2pnodes.store.schema import open_writer
from tests.support import NETWORK, NOW_MS, NOW_S, electorate, hotkey

NODE_KEY = NodeKey.from_seed(b"\x07" * 32)
VALIDATOR = hotkey("//validator0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p2pnodes.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    ledger = Ledger(open_writer(path), NETWORK, NODE_KEY)
    ledger.writes_refused = None
    with ledger.transaction():
        ledger.set_electorate(electorate())
    return ledger


def open_log(ledger: Ledger, number: int) -> Head:
    log = LogId(NODE_KEY.public_key, number)
    delegation = delegate(VALIDATOR, NETWORK.id, log, url="", not_before=NOW_S - 3600, not_after=NOW_S + 3600)
    with ledger.transaction():
        ledger.open_log(number, delegation, NOW_MS)
        event = ledger.append(lambda _: Verdict(bytes(32), "failed", "test", "no", None), NOW_MS)
    return Head(event.seq, event.id)


def read(path: Path) -> OwnLog:
    found = read_own_log(path, NODE_KEY.public_key)
    assert found is not None
    return found


class TestOwnLog:
    """What a daemon would do next follows from the log that it opened last."""

    def test_there_is_none_without_a_database_or_events(self, path: Path, ledger: Ledger) -> None:
        assert read_own_log(path.with_name("absent"), NODE_KEY.public_key) is None
        assert read_own_log(path, NODE_KEY.public_key) is None
        open_log(ledger, 7)
        assert read_own_log(path, bytes(32)) is None

    def test_the_last_one_goes_on(self, path: Path, ledger: Ledger) -> None:
        open_log(ledger, 7)
        head = open_log(ledger, 9)
        found = read(path)
        assert (found.id, found.counted, found.goes_on) == (LogId(NODE_KEY.public_key, 9), head, True)
        assert found.delegation == ledger.delegation_of(found.id)

    def test_one_that_somebody_else_writes_does_not(self, path: Path, ledger: Ledger) -> None:
        head = open_log(ledger, 7)
        ledger._connection.execute("DELETE FROM meta WHERE key = 'own_log'")  # as the ledger disowns it
        found = read(path)
        assert (found.counted, found.goes_on) == (head, False)

    def test_one_with_an_end_does_not_and_counts_below_it(self, path: Path, ledger: Ledger) -> None:
        open_log(ledger, 7)
        first = Head(0, ledger._connection.execute("SELECT id FROM events WHERE seq = 0").fetchone()[0])
        ledger._connection.execute("UPDATE logs SET cut = 1")
        assert read(path)[2:] == (first, False)
        ledger._connection.execute("UPDATE logs SET cut = 0")
        assert read(path)[2:] == (None, False)

    def test_another_file_is_one_line(self, path: Path) -> None:
        path.write_bytes(b"no database" * 100)
        with pytest.raises(StoreError, match=f"cannot read the database {path}"):
            read_own_log(path, NODE_KEY.public_key)
        path.unlink()
        sqlite3.connect(path).close()
        with pytest.raises(StoreError, match="no such table"):
            read_own_log(path, NODE_KEY.public_key)
