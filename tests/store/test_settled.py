"""``Ledger.settled``: rows and ``state`` are one, or the ledger says that they may not be."""

import sqlite3
from typing import Any

import pytest

from p2pnodes.store.ledger import Ledger
from tests.support import Author, memory_ledger


class Watched:
    """A connection that notes what the ledger says of itself at each commit, and fails one when told."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._connection = ledger._connection
        self.at_commit: list[bool] = []
        self.fail = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        if query == "COMMIT":
            self.at_commit.append(self._ledger.settled)
            if self.fail:
                raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(query, *values)


@pytest.fixture
def ledger() -> Ledger:
    return memory_ledger()


@pytest.fixture
def watched(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched(ledger)
    monkeypatch.setattr(ledger, "_connection", watched)
    return watched


def test_a_commit_is_unsettled_until_the_state_tells_of_it(ledger: Ledger, watched: Watched) -> None:
    before = ledger.state
    assert ledger.settled
    author = Author("//validator0")
    author.delegate()
    with ledger.transaction():
        ledger.receive(author.events, 2**50)
        assert ledger.settled  # nobody sees rows of a transaction that is open
    assert watched.at_commit == [False]
    assert ledger.settled
    assert ledger.state is not before


def test_a_commit_that_fails_leaves_the_old_state_settled(ledger: Ledger, watched: Watched) -> None:
    before = ledger.state.state_root
    watched.fail = True
    with pytest.raises(sqlite3.OperationalError), ledger.transaction():
        ledger.rebuild()
    assert watched.at_commit == [False]
    assert ledger.settled
    assert ledger.state.state_root == before
