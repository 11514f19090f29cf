"""Fixtures of the store's tests."""

import pytest

from p2pnodes.model.keys import NodeKey
from p2pnodes.store.ledger import Ledger
from tests.gossip.past import pasts
from tests.support import NOW_MS, Author, memory_ledger

__all__ = ["pasts"]


@pytest.fixture
def ledger() -> Ledger:
    """A ledger that knows three permitted validators and no event."""
    return memory_ledger()


@pytest.fixture
def writer() -> Ledger:
    """A ledger of //validator0 with an open log, allowed to write."""
    author = Author("//validator0")
    ledger = memory_ledger(NodeKey.from_seed(author.node_key.seed))
    with ledger.transaction():
        ledger.open_log(0, author.delegation(), NOW_MS)
    ledger.writes_refused = None
    return ledger
