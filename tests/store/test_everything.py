"""What an electorate changes: every claim and every GPU is looked at, in parts, and the parts leave no trace."""

import pytest

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Event
from p2pnodes.model.requests import request_id
from p2pnodes.store import upkeep
from p2pnodes.store.changes import Changes
from p2pnodes.store.ledger import Ledger
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, delete, electorate, memory_ledger

GPUS = 9


@pytest.fixture
def events() -> list[Event]:
    """Claims on pairs of GPUs, all but the first found verified by two validators and failed by the third.

    One GPU is deleted by one of its miners.
    """
    authors = [Author(uri) for uri in VALIDATORS]
    for author in authors:
        author.delegate()
    requests = [add(("//Alice", "//Bob")[n % 2], [f"gpu-{n}", f"gpu-{(n + 1) % GPUS}"], NOW_S + n) for n in range(GPUS)]
    for request in requests:
        authors[0].add(request)
    authors[1].delete(delete("//Alice", "nodes:gpu-4", NOW_S + 4), "gpu-4", [request_id(NETWORK.id, requests[4])])
    for request in requests[1:]:
        for author, finding in zip(authors, ("verified", "verified", "failed"), strict=True):
            author.verdict(request_id(NETWORK.id, request), finding)
    return [event for author in authors for event in author.events]


def turned() -> Electorate:
    """An electorate in which the third validator decides alone."""
    return electorate(BLOCK + 100, stakes=dict(zip(VALIDATORS, (1, 1, 100), strict=True)))


def after_the_change(events: list[Event]) -> tuple[Ledger, Changes | None]:
    ledger = memory_ledger()
    with ledger.transaction():
        ledger.receive(events, NOW_MS)
    ledger.news.take_changes()
    with ledger.transaction():
        ledger.set_electorate(turned())
    return ledger, ledger.news.take_changes()


class TestParts:
    """The size of the parts is a matter of time and memory alone."""

    @pytest.mark.parametrize("size", [1, 2, 5, 512])
    def test_rows_and_root_are_those_of_a_ledger_that_never_knew_another_electorate(
        self, events: list[Event], size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fresh = memory_ledger(who=turned())
        with fresh.transaction():
            fresh.receive(events, NOW_MS)
        monkeypatch.setattr(upkeep, "GPUS_PER_READ", size)
        ledger, _ = after_the_change(events)
        assert {row.status for row in ledger.rows()} == {"failed", "pending"}
        assert list(ledger.rows()) == list(fresh.rows())
        assert ledger.state.state_root == fresh.state.state_root
        assert ledger.state.nodes == fresh.state.nodes

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_followers_are_told_the_same(self, events: list[Event], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        _, at_once = after_the_change(events)
        monkeypatch.setattr(upkeep, "GPUS_PER_READ", size)
        _, in_parts = after_the_change(events)
        assert at_once is not None
        assert in_parts is not None
        assert set(in_parts.nodes) == set(at_once.nodes) != set()
        assert set(in_parts.claims) == set(at_once.claims) != set()
        assert set(in_parts.gone) == set(at_once.gone) != set()
