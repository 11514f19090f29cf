"""An electorate that is recounted in slices changes what one transaction would, at once, whatever comes meanwhile."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import FAILED, VERIFIED, Event, Head, Place
from p2pnodes.model.events import closing as close_of
from p2pnodes.model.inventory import TaskStatus
from p2pnodes.model.requests import request_id
from p2pnodes.model.stateroot import state_root
from p2pnodes.store import changes as changes_module
from p2pnodes.store import database as database_module
from p2pnodes.store import recount as recount_module
from p2pnodes.store import reweighed as reweighed_module
from p2pnodes.store.audit import audit
from p2pnodes.store.changes import Changes
from p2pnodes.store.database import Commit, Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Found
from p2pnodes.store.schema import open_writer
from tests.gossip.past import Past
from tests.model.world import World, arrivals, worlds
from tests.store.test_changes import taken
from tests.store.test_database import opened, submit
from tests.store.test_equivalence import Replica
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, delete, electorate, hotkey

GPUS = 8
TABLES = ("claim", "node", "supply", "tenancy", "verdict", "placement", "carriage", "deletion", "electorate")
WITHIN_S = 20


@pytest.fixture(autouse=True)
def _small_parts() -> Iterator[None]:
    """One claim or GPU in each part, and nothing that was touched is left to the switch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recount_module, "PART", 1)
        patch.setattr(reweighed_module, "WINDOW", 1)
        patch.setattr(recount_module, "LEFT_MAX", 0)
        yield


def turned(block: int = BLOCK + 100) -> Electorate:
    """An electorate in which the third validator decides alone, and Bob is not registered."""
    return electorate(block, stakes=dict(zip(VALIDATORS, (1, 1, 100), strict=True)), miners=["//Alice"])


def history(at_ms: int = NOW_MS - 1000) -> list[Event]:
    """Eight GPUs of Alice's and Bob's by turns, verified by two validators and failed by the third, all since then."""
    authors = [Author(uri) for uri in VALIDATORS]
    for author in authors:
        author.write(author.delegation(not_before=at_ms // 1000 - 86_400), at_ms=at_ms)
    for number in range(GPUS):
        request = add(("//Alice", "//Bob")[number % 2], [f"gpu-{number}"])
        authors[0].add(request)
        for author, finding in zip(authors, (VERIFIED, VERIFIED, FAILED), strict=True):
            author.verdict(request_id(NETWORK.id, request), finding)
    return [event for author in authors for event in author.events]


def newcomer(uri: str) -> Author:
    """A further validator with its delegation."""
    author = Author(uri)
    author.delegate()
    return author


def tables(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    """What is stored but for the log, with row keys."""
    return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}


def content(changes: Changes) -> tuple[set[Any], ...]:
    """Changes without the order in which they are told; none of them is told twice."""
    for told in (changes.gone, changes.nodes, changes.claims):
        assert len(set(told)) == len(told)
    return set(changes.gone), set(changes.nodes), set(changes.claims), {changes.too_many}


def go_on(ledger: Ledger, parts: int) -> bool:
    """Do so many parts at most; whether that was all."""
    assert ledger.recount is not None
    for _ in range(parts):
        if ledger.recount.ready:
            break
        ledger.advance_recount(0)
    return ledger.recount.ready


def finish(ledger: Ledger) -> None:
    """Do the parts that are left, and switch."""
    assert ledger.recount is not None
    while not ledger.recount.ready:
        ledger.advance_recount(0)
    with ledger.transaction():
        ledger.switch()
    ledger.end_recount()


class Pair:
    """Two peers that hear the same: one recounts in slices, the other changes its electorate in one transaction."""

    def __init__(self, now_ms: int, first: Electorate) -> None:
        self.one, self.other = Replica(now_ms), Replica(now_ms)
        for replica in (self.one, self.other):
            replica.weigh(first)

    def hear(self, events: Sequence[Event]) -> None:
        for replica in (self.one, self.other):
            replica.hear(events)

    def fail(self, events: Sequence[Event], now_ms: int) -> None:
        """Let the sliced one take events in a transaction that fails."""
        with suppress(ZeroDivisionError), self.one.ledger.transaction():
            self.one.ledger.receive(events, now_ms)
            raise ZeroDivisionError

    def switch(self, who: Electorate) -> None:
        finish(self.one.ledger)
        with self.other.ledger.transaction():
            self.other.ledger.set_electorate(who)

    def check(self) -> None:
        """Require that both hold, show and tell the same."""
        one, other = self.one.ledger, self.other.ledger
        assert content(taken(one)) == content(taken(other))
        assert tables(one.facts.connection) == tables(other.facts.connection)
        assert one.state == other.state
        assert one.state.state_root == state_root(one.rows())
        assert one.weights.same_votes(other.weights)
        assert one.committed_weights is one.weights


@pytest.fixture
def pair() -> Pair:
    """Two peers that know the eight GPUs."""
    pair = Pair(NOW_MS, electorate())
    pair.hear(history())
    pair.check()
    return pair


class TestSlices:
    """The result, byte for byte, and what followers are told, are those of one transaction."""

    @pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure
    @settings(max_examples=100)
    @given(world=worlds(), data=st.data())
    def test_whatever_is_written_between_slices(self, world: World, data: st.DataObject) -> None:
        events = data.draw(st.one_of(st.just(world.events), st.just(world.events), arrivals(world.events)))
        known = data.draw(st.integers(0, len(events)))
        cuts = sorted(data.draw(st.lists(st.integers(known, len(events)), min_size=4, max_size=16)))
        batches = [events[start:end] for start, end in zip([known, *cuts], [*cuts, len(events)], strict=True)]
        first, *later = world.electorates
        pair = Pair(world.end_ms, first)
        pair.hear(events[:known])
        pair.check()
        for who in (*later, first):
            pair.one.ledger.begin_recount(who)
            for _ in range(data.draw(st.integers(1, 8))):
                go_on(pair.one.ledger, data.draw(st.integers(0, 12)))
                batch = batches.pop(0) if batches else []
                if data.draw(st.integers(0, 7)) == 0:
                    pair.fail(batch, world.end_ms)
                pair.hear(batch)
                pair.check()  # nothing shows of the electorate that is coming
            if who is not first and data.draw(st.integers(0, 3)) == 0:
                continue  # a newer one comes before this one is in force
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(recount_module, "LEFT_MAX", data.draw(st.sampled_from((0, 2, 1000))))
                pair.switch(who)
            pair.check()
            pair.hear([])  # what had no permit before
            pair.check()

    @pytest.mark.parametrize("part", [1, 2, 5, 64])
    def test_the_size_of_the_parts_is_a_matter_of_time_alone(
        self, pair: Pair, part: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recount_module, "PART", part)
        pair.one.ledger.begin_recount(turned())
        pair.switch(turned())
        assert pair.one.ledger.state.nodes == GPUS // 2
        assert {row.status for row in pair.one.ledger.rows()} == {FAILED}
        pair.check()

    def test_a_rebuild_in_the_middle_begins_it_anew(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        go_on(ledger, GPUS + 4)
        for replica in (pair.one, pair.other):
            with replica.ledger.transaction():
                replica.ledger.rebuild()
        assert ledger.recount is not None
        assert ledger.recount.done == 0
        pair.check()
        pair.switch(turned())
        pair.check()

    def test_a_validator_who_enrols_in_the_middle_begins_it_anew(self) -> None:
        stakes = dict.fromkeys((*VALIDATORS, "//validator3"), 100)
        pair = Pair(NOW_MS, electorate(stakes=stakes))
        pair.hear(history())
        ledger, who = pair.one.ledger, electorate(BLOCK + 100, stakes=stakes | {"//validator3": 1000})
        ledger.begin_recount(who)
        go_on(ledger, GPUS + 4)
        pair.hear(newcomer("//validator3").events)
        assert ledger.recount is not None
        assert ledger.recount.done == 0
        assert hotkey("//validator3").public_key in ledger.recount.weights.enrolled
        pair.check()
        pair.switch(who)
        assert {row.status for row in ledger.rows()} == {"pending"}
        pair.check()

    @pytest.mark.parametrize("parts", range(8))
    @pytest.mark.parametrize("losing", [False, True])
    def test_a_log_that_is_opened_in_the_middle_is_weighed_like_any_other(self, parts: int, *, losing: bool) -> None:
        """Its validator has another one, so who votes is what it was: nothing begins anew."""
        pair = Pair(NOW_MS, electorate())
        pair.hear(history(at_ms=NOW_MS - 3 * 86_400_000))
        stakes = (
            dict.fromkeys(VALIDATORS[:2], 100) if losing else dict.fromkeys(VALIDATORS, 100) | {VALIDATORS[2]: 1000}
        )
        ledger, who = pair.one.ledger, electorate(BLOCK + 100, stakes=stakes)
        ledger.begin_recount(who)
        go_on(ledger, parts)
        again = Author(VALIDATORS[2], number=1)
        again.delegate()
        request = add("//Alice", ["gpu-of-another-log"])
        again.add(request)
        again.verdict(request_id(NETWORK.id, request))
        pair.hear(again.events)
        pair.check()
        pair.switch(who)
        statuses = {row.uuid: row.status for row in ledger.rows()}
        assert statuses.get("gpu-of-another-log") == (None if losing else VERIFIED)
        pair.check()

    def test_a_delegation_that_was_undone_enrols_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stakes = dict.fromkeys((*VALIDATORS, "//validator3"), 100)
        pair = Pair(NOW_MS, electorate(stakes=stakes))
        pair.hear(history())
        pair.check()
        ledger, who = pair.one.ledger, electorate(BLOCK + 100, stakes=stakes | {"//validator3": 1000})
        ledger.begin_recount(who)
        go_on(ledger, GPUS + 4)
        settle = ledger._settle

        def fail() -> None:
            settle()
            raise StoreError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "_settle", fail)
            with pytest.raises(StoreError), ledger.transaction():
                ledger.receive(newcomer("//validator3").events, NOW_MS)
        assert ledger.recount is not None
        assert hotkey("//validator3").public_key not in ledger.recount.weights.enrolled
        pair.check()
        pair.switch(who)
        pair.check()

    def test_a_renewal_that_counts_only_then_begins_it_anew(self) -> None:
        pair = Pair(NOW_MS, electorate())
        author = Author(VALIDATORS[2], number=1)
        author.write(author.delegation(not_after=NOW_S + 60), at_ms=NOW_MS - 1000)
        pair.hear([*history(), *author.events])
        ledger, who = pair.one.ledger, electorate(BLOCK + 100, NOW_MS + 31 * 86_400_000)
        ledger.begin_recount(who)
        go_on(ledger, GPUS + 4)
        assert ledger.recount is not None
        assert ledger.recount.weights.enrolled == {}
        enrolled = ledger.weights.enrolled
        author.write(author.delegation(not_after=NOW_S + 40 * 86_400))
        pair.hear(author.events)
        assert ledger.weights.enrolled == enrolled
        assert ledger.recount.weights.enrolled == {hotkey(VALIDATORS[2]).public_key: 100}
        assert ledger.recount.done == 0
        pair.check()
        pair.switch(who)
        pair.check()

    def test_a_further_log_of_an_enrolled_validator_does_not(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        go_on(ledger, GPUS + 4)
        author = Author(VALIDATORS[0], number=1)
        author.delegate()
        pair.hear(author.events)
        assert ledger.recount is not None
        assert ledger.recount.done > 0
        pair.switch(turned())
        pair.check()

    def test_more_changes_than_can_be_told_are_told_as_too_many(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (changes_module, recount_module):
            monkeypatch.setattr(module, "CHANGES_MAX", 5)
        pair.one.ledger.begin_recount(turned())
        finish(pair.one.ledger)
        assert pair.one.ledger.news.take_changes() == Changes(too_many=True)


class Scene:
    """Three validators, what they have said about four claims, and what one of them may say next.

    Alice owns gpu-0, for which Bob came too late, and gpu-1, which the third validator fails; Bob owns gpu-2, about
    which nobody has said anything.
    """

    def __init__(self) -> None:
        self.first, self.second, self.third = self.authors = [Author(uri) for uri in VALIDATORS]
        for author in self.authors:
            author.delegate()
        self.alices = self.claim("//Alice", "gpu-0", VERIFIED, VERIFIED, VERIFIED)
        self.bobs = self.claim("//Bob", "gpu-0", VERIFIED, VERIFIED, FAILED)
        self.turning = self.claim("//Alice", "gpu-1", VERIFIED, VERIFIED, FAILED)
        self.silent = self.claim("//Bob", "gpu-2")
        self.before = self._written()

    def claim(self, miner: str, uuid: str, *findings: str) -> bytes:
        request = add(miner, [uuid], NOW_S + (miner == "//Bob"))
        self.first.add(request)
        claim_id = request_id(NETWORK.id, request)
        self.vote(claim_id, *findings)
        return claim_id

    def vote(self, claim_id: bytes, *findings: str) -> None:
        for author, finding in zip(self.authors, findings, strict=False):
            author.verdict(claim_id, finding)

    def place(self, uuid: str, claim_id: bytes) -> None:
        self.first.write(Place(claim_id, (uuid,), "chute", "instance", True, True, "chat", "carol"))

    def delete(self, uuid: str, claim_id: bytes) -> None:
        self.second.delete(delete("//Alice", f"nodes:{uuid}", NOW_S + 2), uuid, [claim_id])

    def close(self, author: Author, good: int) -> None:
        """Let an author's hotkey leave only the first events of his log good."""
        head = Head(good - 1, author.events[good - 1].id) if good else None
        self.second.write(close_of(author.hotkey, NETWORK.id, author.log, head))

    @property
    def news(self) -> list[Event]:
        """What was written since the beginning."""
        return [event for event in self._written() if event not in self.before]

    def _written(self) -> list[Event]:
        return [event for author in self.authors for event in author.events]


NEWS: dict[str, Callable[[Scene], object]] = {
    "nothing": lambda scene: scene.news,
    "a verdict that decides then": lambda scene: scene.third.verdict(scene.turning),
    "a verdict that decides then against it": lambda scene: scene.third.verdict(scene.alices, FAILED),
    "verdicts that decide": lambda scene: scene.vote(scene.silent, VERIFIED, VERIFIED, FAILED),
    "verdicts that decide nothing": lambda scene: scene.vote(scene.turning, VERIFIED, VERIFIED, FAILED),
    "a chute on a GPU that turns": lambda scene: scene.place("gpu-1", scene.turning),
    "a chute on a GPU that is fought over": lambda scene: scene.place("gpu-0", scene.alices),
    "a deletion": lambda scene: scene.delete("gpu-1", scene.turning),
    "a deletion that hands a GPU on": lambda scene: scene.delete("gpu-0", scene.alices),
    "a claim on a new GPU": lambda scene: scene.claim("//Alice", "gpu-3", VERIFIED, VERIFIED, FAILED),
    "a claim on a GPU that turns": lambda scene: scene.claim("//Bob", "gpu-1", VERIFIED, VERIFIED, VERIFIED),
    "a closing that voids votes": lambda scene: scene.close(scene.third, 2),
    "a closing that voids claims": lambda scene: scene.close(scene.first, 2),
    "a closing that voids all that somebody said": lambda scene: scene.close(scene.third, 0),
}


class TestEveryMoment:
    """What a peer says may come between any two parts, or before the switch."""

    @pytest.mark.parametrize("left", [0, 1000], ids=["caught up", "left to the switch"])
    @pytest.mark.parametrize("miners", [("//Alice", "//Bob"), ("//Alice",)], ids=["both stay", "Bob leaves"])
    @pytest.mark.parametrize("happens", NEWS)
    def test_the_result_is_the_same(
        self, happens: str, miners: tuple[str, ...], left: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        who = electorate(BLOCK + 100, stakes=dict(zip(VALIDATORS, (1, 1, 100), strict=True)), miners=miners)
        scene = Scene()
        NEWS[happens](scene)
        parts, ready = 0, False
        while not ready:
            monkeypatch.setattr(recount_module, "LEFT_MAX", 0)
            pair = Pair(NOW_MS, electorate())
            pair.hear(scene.before)
            pair.check()
            pair.one.ledger.begin_recount(who)
            ready = go_on(pair.one.ledger, parts)
            pair.hear(scene.news)
            pair.check()
            monkeypatch.setattr(recount_module, "LEFT_MAX", left)
            pair.switch(who)
            pair.check()
            parts += 1
        assert parts > len(("begin", "4 claims", "all", "3 GPUs", "all"))


class TestBounds:
    """A recount remembers no more than it says, and comes to an end."""

    def test_one_that_begins_anew_too_often_is_hopeless(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        assert ledger.recount is not None
        for _ in range(recount_module.RESTARTS_MAX):
            go_on(ledger, 2)
            ledger.recount.restart()
            ledger.recount.restart()  # what was not begun is not begun anew
        assert not ledger.recount.hopeless
        go_on(ledger, 2)
        ledger.recount.restart()
        assert ledger.recount.hopeless

    def test_one_that_cannot_remember_what_was_touched_is_hopeless(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recount_module, "BACKLOG_MAX", GPUS)
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        assert ledger.recount is not None
        go_on(ledger, GPUS * 2 + 3)
        ledger.recount.touch(range(GPUS), [])
        assert not ledger.recount.hopeless
        ledger.recount.touch([], ["gpu-0"])
        assert ledger.recount.hopeless

    def test_what_was_not_looked_at_yet_need_not_be_remembered(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recount_module, "BACKLOG_MAX", 0)
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        assert ledger.recount is not None
        go_on(ledger, 2)  # one claim
        ledger.recount.touch(range(2, GPUS + 1), [f"gpu-{number}" for number in range(GPUS)])
        assert not ledger.recount.hopeless

    def test_half_a_backlog_goes_before_what_was_not_looked_at_yet(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recount_module, "BACKLOG_MAX", 4)
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        assert ledger.recount is not None
        go_on(ledger, GPUS + 2)
        for number in range(1, GPUS + 1):
            ledger.recount.touch([number], [])
            go_on(ledger, 2)
            assert not ledger.recount.hopeless
        pair.switch(turned())
        pair.check()

    def test_the_switch_comes_though_writes_touch_more_all_the_time(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recount_module, "CATCH_UPS_MAX", 5)
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        assert ledger.recount is not None
        go_on(ledger, GPUS * 2 + 3)
        parts = 0
        while not ledger.recount.ready:
            ledger.recount.touch(range(1, GPUS + 1), [])
            ledger.advance_recount(0)
            parts += 1
        assert parts <= 5
        pair.switch(turned())
        pair.check()

    def test_a_slice_ends_when_its_time_is_over(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        assert ledger.recount is not None
        ledger.advance_recount(0)
        ledger.advance_recount(0)
        assert ledger.recount.done == 1
        ledger.advance_recount(60)
        assert ledger.recount.ready
        assert ledger.recount.done == ledger.recount.of == 2 * GPUS

    def test_it_leaves_nothing_behind(self, pair: Pair) -> None:
        connection = pair.one.ledger.facts.connection
        before = connection.execute("PRAGMA database_list").fetchall()
        pair.one.ledger.begin_recount(turned())
        go_on(pair.one.ledger, GPUS * 2)
        pair.one.ledger.end_recount()
        assert connection.execute("PRAGMA database_list").fetchall() == before
        pair.check()


class TestCost:
    """The switch costs what has changed."""

    def test_it_looks_for_nothing_without_an_index(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        go_on(ledger, 100)
        statements: list[str] = []
        connection = ledger.facts.connection
        connection.set_trace_callback(statements.append)
        with ledger.transaction():
            ledger.switch()
        connection.set_trace_callback(None)
        scanned: set[str] = set()
        for text in statements:
            if text.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
                found = {step.split()[1] for step in plan if step.startswith("SCAN")}
                assert not found or not any(step.startswith("CORRELATED") for step in plan), text
                scanned |= found
        assert scanned == {"kept", "recount.gpu", "json_each", "k"}  # what was kept, and what was asked for


class TestFailures:
    """What cannot be kept changes nothing."""

    def test_a_statement_that_still_reads_from_it_hinders_nobody(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned(BLOCK + 200))
        go_on(ledger, 100)
        reading = ledger.facts.connection.execute("SELECT * FROM recount.tally")
        assert reading.fetchone() is not None
        ledger.end_recount()
        ledger.begin_recount(turned())
        pair.switch(turned())
        pair.check()
        reading.close()

    def test_a_full_disk_leaves_the_electorate_before(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        ledger.facts.connection.execute("PRAGMA recount.max_page_count = 2")  # its schema and one table
        with pytest.raises(sqlite3.OperationalError, match="full"):
            finish(ledger)
        ledger.end_recount()
        pair.check()
        ledger.begin_recount(turned())
        pair.switch(turned())
        pair.check()

    def test_a_switch_that_fails_leaves_the_electorate_before(self, pair: Pair) -> None:
        ledger = pair.one.ledger
        ledger.begin_recount(turned())
        go_on(ledger, 100)

        def fail() -> None:
            with ledger.transaction():
                ledger.switch()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        ledger.end_recount()
        pair.check()
        ledger.begin_recount(turned())
        pair.switch(turned())
        pair.check()

    def test_a_killed_daemon_loses_the_recount_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "p2pnodes.db"
        with closing(open_writer(path)) as connection:
            ledger = Ledger(connection, NETWORK)
            with ledger.transaction():
                ledger.set_electorate(electorate())
            with ledger.transaction():
                ledger.receive(history(), NOW_MS)
            before = ledger.state
        code = (
            "import os, signal, sys\n"
            "from p2pnodes.store import recount\n"
            "from p2pnodes.store.ledger import Ledger\n"
            "from p2pnodes.store.schema import open_writer\n"
            "from tests.store.test_slices import go_on, turned\n"
            "from tests.support import NETWORK\n"
            "recount.PART = 1\n"
            "ledger = Ledger(open_writer(sys.argv[1]), NETWORK)\n"
            "ledger.begin_recount(turned())\n"
            "go_on(ledger, int(sys.argv[2]))\n"
            "with ledger.transaction():\n"
            "    if ledger.recount.ready:\n"
            "        ledger.switch()\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        for parts in (GPUS, 100):  # in the middle, and in the middle of the switch
            killed = subprocess.run([sys.executable, "-c", code, path, str(parts)], check=False)
            assert killed.returncode == -signal.SIGKILL
            assert audit(path, NETWORK).problems == []
            with closing(open_writer(path)) as connection:
                assert Ledger(connection, NETWORK).state == before
                names = connection.execute("SELECT name FROM sqlite_master WHERE name IN ('tally', 'gpu')").fetchall()
                assert names == []


class Gate:
    """Lets a recount go on part by part, or not at all, while the writer works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None
        self.slices = 0
        advance = Ledger.advance_recount

        def gated(ledger: Ledger, slice_s: float) -> None:
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            if self.slices or self.open.is_set():
                advance(ledger, 0)
                self.slices = max(0, self.slices - 1)  # now whoever waits for that may look
            else:
                time.sleep(0.001)

        monkeypatch.setattr(Ledger, "advance_recount", gated)


def own() -> Author:
    """The daemon itself, with another node key than its validator has in the history."""
    return Author("//validator0", seed=7)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An open database of //validator0 with the eight GPUs."""
    database = await opened(tmp_path / "p2pnodes.db", own())
    await database.receive(history(), NOW_MS)
    yield database
    if not database._closing:
        await database.close()


@pytest.fixture
def gate(database: Database, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate that is closed."""
    return Gate(monkeypatch)


async def begun(database: Database, gate: Gate, who: Electorate, slices: int = 5) -> "asyncio.Task[None]":
    """Ask for an electorate, and wait until a few parts are done."""
    gate.slices = slices
    task = asyncio.create_task(database.set_electorate(who))
    async with asyncio.timeout(WITHIN_S):
        while database.recounting is None or gate.slices:
            await asyncio.sleep(0.001)
    return task


class TestDatabase:
    """Writes and reads go on while an electorate is recounted, and are the old one's until all is the new one's."""

    async def test_meanwhile_everything_is_the_old_electorates(self, database: Database, gate: Gate) -> None:
        before = database.state
        change = await begun(database, gate, turned())
        assert database.recounting == {"block": BLOCK + 100, "done": 4, "of": GPUS}
        bobs = await submit(database, add("//Bob", ["gpu-new"]))  # whom the new electorate does not know
        assert not change.done()
        assert database.electorate.block == BLOCK
        assert database.ledger.weights.electorate.block == BLOCK
        assert database.state.electorate_digest == before.electorate_digest
        assert database.state.nodes == GPUS + 1
        assert {row["status"] for row in await database.query("inventory", {}, 100)} == {VERIFIED, "pending"}
        status = await database.task_status(bobs.miner, bobs.claim_id[:16])
        assert status == TaskStatus("pending", "")
        gate.open.set()
        await change
        assert database.recounting is None
        assert database.electorate.block == BLOCK + 100
        assert database.state.electorate_digest == turned().digest
        assert {row["status"] for row in await database.query("inventory", {}, 100)} == {FAILED}
        status = await database.task_status(bobs.miner, bobs.claim_id[:16])
        assert status is not None
        assert status.status == FAILED
        assert audit(database.path, NETWORK).problems == []

    async def test_it_is_one_commit_and_told_as_one(self, database: Database, gate: Gate) -> None:
        commits: list[Commit] = []
        database.on_commit = commits.append
        change = await begun(database, gate, turned())
        gate.open.set()
        await change
        (commit,) = commits
        assert commit.changes is not None
        assert len(commit.changes.gone) == len(commit.changes.nodes) == GPUS // 2

    async def test_a_newer_electorate_takes_the_place_of_one_that_is_not_in_force(
        self, database: Database, gate: Gate
    ) -> None:
        seen: list[int] = []
        database.on_commit = lambda _: seen.append(database.electorate.block)
        older = await begun(database, gate, turned())
        newer = await begun(database, gate, turned(BLOCK + 200))
        recounting = database.recounting
        assert recounting is not None
        assert recounting["block"] == BLOCK + 200
        assert not older.done()
        gate.open.set()
        await asyncio.gather(older, newer)
        assert seen == [BLOCK + 200]

    async def test_the_electorate_that_is_in_force_takes_the_place_of_one_that_is_not(
        self, database: Database, gate: Gate
    ) -> None:
        before = database.state.state_root
        change = await begun(database, gate, turned())
        await database.set_electorate(electorate())
        await change
        assert database.recounting is None
        assert (database.electorate.block, database.state.state_root) == (BLOCK, before)

    async def test_an_electorate_that_is_asked_for_twice_is_not_begun_anew(
        self, database: Database, gate: Gate
    ) -> None:
        change = await begun(database, gate, turned())
        again = asyncio.create_task(database.set_electorate(turned()))
        await database.write(lambda _: None)
        recounting = database.recounting
        assert recounting is not None
        assert recounting["done"] == 4
        gate.open.set()
        await asyncio.gather(change, again)
        assert database.queued_jobs == 0

    async def test_one_that_a_live_set_overtakes_is_in_force_at_once_and_tells_of_no_row(
        self, database: Database, gate: Gate, pasts: list[Past]
    ) -> None:
        """Rows are those of before then, and no more right for it; all are decided when the live set is here."""
        commits: list[Commit] = []
        change = await begun(database, gate, turned())
        before = await database.query("inventory", {}, 100)
        database.on_commit = commits.append
        assert (await database.consider(pasts[0].number, pasts[0].certificate)).found is Found.LOADS
        gate.open.set()
        await change
        assert database.state.loading
        assert (database.electorate.block, database.recounting) == (BLOCK + 100, None)
        assert [commit.changes for commit in commits if commit.changes is not None] == []
        assert await database.query("inventory", {}, 100) == before

    async def test_addresses_weigh_nothing_and_are_kept_at_once(self, database: Database, gate: Gate) -> None:
        pin = electorate().current
        moved = Electorate(pin._replace(addresses={hotkey(VALIDATORS[1]).public_key: "http://192.0.2.7"}))
        await database.set_electorate(moved)
        assert database.electorate is moved
        assert database.recounting is None

    async def test_closing_in_the_middle_leaves_the_electorate_before(self, database: Database, gate: Gate) -> None:
        change = await begun(database, gate, turned())
        claim = await submit(database, add("//Alice", ["gpu-new"]))
        await database.close()
        with pytest.raises(StoreError, match="stopping"):
            await change
        assert audit(database.path, NETWORK).problems == []
        gate.open.set()
        again = await opened(database.path, own())
        assert (again.electorate.block, again.state.nodes) == (BLOCK, GPUS + 1)
        assert await again.find_claim(claim.claim_id, None) == claim.claim_id
        await again.set_electorate(turned())
        assert again.electorate.block == BLOCK + 100
        await again.close()

    @pytest.mark.parametrize("slices", [0, 5])
    async def test_a_slice_that_fails_is_told_and_can_be_asked_for_again(
        self, database: Database, gate: Gate, slices: int
    ) -> None:
        change = await begun(database, gate, turned(), slices)
        gate.error = sqlite3.OperationalError("database or disk is full")
        with pytest.raises(StoreError, match="disk is full; check space and permissions of SQLite's temporary"):
            await change
        assert database.failure is not None
        assert database.recounting is None
        assert database.electorate.block == BLOCK
        await submit(database, add("//Alice", ["gpu-new"]))
        gate.open.set()
        await database.set_electorate(turned())
        assert database.electorate.block == BLOCK + 100
        assert database.failure is None

    async def test_one_that_cannot_be_ended_either_leaves_the_writer_at_work(
        self, database: Database, gate: Gate
    ) -> None:
        """SQLite reads the schema for that, from a disk that has just failed: whoever writes would wait for ever."""
        change = await begun(database, gate, turned())
        connection = database.ledger.facts.connection
        connection.set_authorizer(lambda action, *_: action == sqlite3.SQLITE_DETACH)
        gate.error = sqlite3.DatabaseError("database disk image is malformed")
        with pytest.raises(StoreError, match="malformed"):
            await change
        async with asyncio.timeout(WITHIN_S):
            await submit(database, add("//Alice", ["gpu-new"]))
        connection.set_authorizer(None)
        gate.open.set()
        await database.set_electorate(turned())
        assert database.electorate.block == BLOCK + 100

    async def test_a_switch_that_fails_is_told_and_can_be_asked_for_again(
        self, database: Database, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        switch = Ledger.switch

        def failing(ledger: Ledger) -> None:
            switch(ledger)
            raise sqlite3.OperationalError("disk I/O error")

        before = database.state.state_root
        gate.open.set()
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "switch", failing)
            with pytest.raises(StoreError, match="disk I/O error"):
                await database.set_electorate(turned())
        assert (database.electorate.block, database.state.state_root) == (BLOCK, before)
        await database.set_electorate(turned())
        assert database.electorate.block == BLOCK + 100

    async def test_one_that_is_hopeless_is_done_in_one_transaction(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recount_module, "BACKLOG_MAX", -1)  # any backlog is too large
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "switch", None)  # nobody may call it
            async with asyncio.timeout(WITHIN_S):
                await database.set_electorate(turned())
        assert database.electorate.block == BLOCK + 100
        assert audit(database.path, NETWORK).problems == []

    async def test_slices_and_jobs_take_turns(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        advance, transaction = Ledger.advance_recount, Ledger.transaction

        def advancing(ledger: Ledger, slice_s: float) -> None:
            order.append("slice")
            assert slice_s == database_module.SLICE_S
            advance(ledger, 0)
            time.sleep(0.01)  # so that jobs wait for its end

        def writing(ledger: Ledger) -> Any:
            order.append("jobs")
            return transaction(ledger)

        monkeypatch.setattr(Ledger, "advance_recount", advancing)
        monkeypatch.setattr(Ledger, "transaction", writing)
        change = asyncio.create_task(database.set_electorate(turned()))
        while not change.done():
            await database.write(lambda _: None)
        between = [sum(1 for _ in run) for run in runs(order, "slice")]
        assert sum(between) > 2 * GPUS
        assert max(between[1:-1]) <= 2  # one that begins as the answer to the last job is on its way


def runs(order: list[str], what: str) -> Iterator[list[str]]:
    """The stretches of one kind."""
    for kind, run in groupby(order):
        if kind == what:
            yield list(run)
