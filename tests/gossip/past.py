"""A network with a past: what daemons hold once a checkpoint has cut their logs."""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pytest

from p2pnodes.gossip.engine import Engine
from p2pnodes.model import checkpoint
from p2pnodes.model.checkpoint import line_of
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Event
from p2pnodes.store import checkpoints
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.gossip.harness import Node
from tests.store.test_checkpoints import DAY_MS, certificate, cut, found, later, proposed
from tests.support import MINERS, NETWORK, NOW_MS, VALIDATORS, Author, add, electorate, memory_ledger

GPUS: Final = 24
"""Registered below the cut."""


class Past(NamedTuple):
    """What is held once a checkpoint is in force.

    Attributes:
        disk: A database that is cut; see ``copy``.
        number: Of the checkpoint.
        certificate: As bytes.
        slices: Of the live set.
        electorate: E_c.
        events: All that was written below the cut, in order.
        above: What was written above it.
    """

    disk: sqlite3.Connection
    number: int
    certificate: bytes
    slices: int
    electorate: Electorate
    events: Sequence[Event]
    above: Sequence[Event]

    @property
    def now_ms(self) -> int:
        """The present."""
        return self.electorate.time_ms + 1_000

    def copy(self) -> sqlite3.Connection:
        """A disk of its own with all that is held."""
        disk = open_writer(":memory:")
        self.disk.backup(disk)
        return disk

    def node(self, uri: str, disk: sqlite3.Connection | None = None, who: Electorate | None = None) -> Node:
        """A daemon in the present, with an empty disk unless one is given."""
        node = Node(uri, who or self.electorate)
        if disk is not None:
            node.ledger = Ledger(disk, NETWORK)
        node.now_ms = self.now_ms
        restart(node)
        return node

    def holder(self, uri: str) -> Node:
        """A daemon that has lived through all of it."""
        return self.node(uri, self.copy())


@pytest.fixture(scope="module")
def pasts() -> Iterator[list[Past]]:
    """One older than the horizon, and the same two days later; slices of few events, so that a small past has many."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (checkpoint, checkpoints):
            patch.setattr(module, "SLICE_LEAVES_MAX", 2)
        yield lived(8 * DAY_MS, 10 * DAY_MS)


def restart(node: Node) -> None:
    """Let a daemon begin anew on its disk; its sessions are gone."""
    node.ledger = Ledger(node.ledger.facts.connection, NETWORK)
    node.engine = Engine(NETWORK, node, random.Random(node.author.log.node_key), permitted=node.permitted)
    node.outgoing, node.said = {}, []
    for queue in (node.stores, node.reads, node.proves, node.parts):
        queue.clear()


def lived(*ages_ms: int) -> list[Past]:
    """What is held at some ages, when a checkpoint of each is in force; call it with small slices."""
    authors = [Author(uri) for uri in VALIDATORS]
    events = [author.write(author.delegation(not_after=NOW_MS // 1000 + 90 * 86_400)) for author in authors]
    for index in range(GPUS):
        author = authors[index % len(authors)]
        events.append(author.add(add(MINERS[index % len(MINERS)], [f"gpu-{index}"])))
    events += [author.verdict(bytes(32)) for author in authors]  # in no live set, so that no log's head is
    ledger = memory_ledger()
    _hear(ledger, events, NOW_MS)
    pasts = []
    for age_ms in ages_ms:
        weighed = later(electorate(), age_ms)
        with ledger.transaction():
            ledger.set_electorate(weighed)
        made = proposed(ledger)
        assert made is not None
        statement = found(ledger, line_of(NETWORK, *made))
        wire = certificate(made[0], statement, VALIDATORS, weighed.time_ms)
        with ledger.transaction():
            ledger.checkpoints.take(wire)
            ledger.enforce()
        cut(ledger)
        above = [author.verdict(bytes(32), at_ms=weighed.time_ms) for author in authors]
        _hear(ledger, above, weighed.time_ms)
        disk = open_writer(":memory:")
        ledger.facts.connection.backup(disk)
        pasts.append(Past(disk, statement.number, wire, statement.slices, weighed, events, above))
    return pasts


def _hear(ledger: Ledger, events: Sequence[Event], now_ms: int) -> None:
    with ledger.transaction():
        outcomes = ledger.receive(events, now_ms)
    assert {outcome.result for outcome in outcomes} == {"stored"}, outcomes
