"""Everything is decided anew part by part, and no part's cost follows the size of the inventory."""

import sqlite3
from collections.abc import Mapping

import pytest

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Place
from p2pnodes.model.inventory import Weights
from p2pnodes.model.requests import request_id
from p2pnodes.store import buckets, settling, sorter, supply
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.settling import Settling
from tests.store.steps import steps
from tests.support import MINERS, NETWORK, NOW_MS, Author, add, electorate, memory_ledger

OWN = "//validator0"
ALL = electorate(stakes={OWN: 100})
NOBODY = electorate(stakes={})
"""With which nothing counts: every row goes."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("NAMED_PER_PART", "ROWS_SORTED", "ROWS_PER_PART"):
        monkeypatch.setattr(settling, size, 32)
    monkeypatch.setattr(settling, "CLAIMS_PER_PART", 8)
    monkeypatch.setattr(sorter, "BLOCKS_CLEARED", 2)


def filled(claims: int) -> Ledger:
    """A ledger with so many verified claims of two GPUs, every second one with a chute on it."""
    author, ledger = Author(OWN), memory_ledger(who=ALL)
    author.delegate()
    for number in range(claims):
        uuids = tuple(f"gpu-{number}-{place}" for place in range(2))  # their first characters are alike
        request = add(MINERS[number % len(MINERS)], uuids)
        claim_id = request_id(NETWORK.id, request)
        author.add(request)
        author.verdict(claim_id)
        if number % 2:
            chute = f"chute-{number}"
            author.write(Place(claim_id, uuids, chute, "instance", verified=True, public=True, name="", username=""))
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS)
    return ledger


def dearest(ledger: Ledger, who: Electorate) -> int:
    """What the part that costs most takes when everything is decided anew for an electorate."""
    one = Settling(ledger.facts, Weights(NETWORK, who, ledger.facts.mandates()))
    parts = []
    while not one.done:
        parts.append(steps(ledger.facts.connection, one.advance))
    if who is ALL:
        assert (one.root.now().hash, one.rows) == (ledger.state.state_root, ledger.state.nodes)
    return max(parts)


@pytest.fixture(scope="module")
def ledgers() -> list[Ledger]:
    """One with few GPUs and one with many."""
    return [filled(64), filled(256)]


def test_behind_it_all_hashes_are_written() -> None:
    """Else the next change of a bucket that was noted before would note it a second time, and so without end."""
    ledger = filled(8)
    execute = ledger.facts.connection.execute
    assert buckets.load(ledger.facts.connection).unwritten
    execute("BEGIN")
    one = Settling(ledger.facts, ledger.weights)
    while not one.done:
        one.advance()
    execute("COMMIT")
    found = buckets.load(ledger.facts.connection)
    assert (found.root.root(), found.rows, found.unwritten) == (ledger.state.state_root, ledger.state.nodes, {})


def test_gpus_are_counted_in_the_order_of_what_they_are_counted_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the claims each chute would write a page of its own: of 1,000,000 GPUs that was most of it."""
    ledger, counted = filled(64), list[supply.Key]()
    connection = ledger.facts.connection
    held = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("supply", "tenancy")]
    assert all(held)
    add_counts = supply.add

    def count(connection: sqlite3.Connection, counts: Mapping[supply.Key, int]) -> None:
        counted.extend(counts)
        add_counts(connection, counts)

    monkeypatch.setattr(supply, "add", count)
    dearest(ledger, ALL)
    assert [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("supply", "tenancy")] == held
    keys = [(miner, model, chute or b"") for miner, model, chute in counted]
    assert keys == sorted(keys)
    assert len(keys) > settling.ROWS_PER_PART  # of several parts


class TestCost:
    """Four times as many GPUs make four times as many parts, and no dearer one."""

    @pytest.mark.parametrize("case", ["right", "gone", "new", "given up"])
    def test_no_part_follows_the_size_of_the_inventory(self, ledgers: list[Ledger], case: str) -> None:
        found = []
        for ledger in ledgers:
            execute = ledger.facts.connection.execute
            execute("BEGIN")
            if case == "new":
                execute("DELETE FROM node")
                execute("DELETE FROM claim_gpu")
            if case == "given up":
                before = Settling(ledger.facts, ledger.weights)
                while not before.rows:
                    before.advance()
            found.append(dearest(ledger, NOBODY if case == "gone" else ALL))
            execute("ROLLBACK")
        few, many = found
        assert many <= 1.25 * few
