"""What gossip counts for operators: bans by what they were for, traffic, ticks, and what it did not take up."""

import asyncio

import pytest

from p2pnodes.gossip import engine as engine_module
from p2pnodes.gossip.bans import OPENINGS_MAX, Bans, Offence
from p2pnodes.gossip.engine import BAN_S, STORE_RETRY_MS, Close
from p2pnodes.gossip.frames import ALL_SLICES, Events, Vector
from p2pnodes.gossip.rates import VECTORS
from p2pnodes.model.codes import Code, Reason
from tests.gossip import daemons, harness
from tests.gossip.daemons import until
from tests.support import VALIDATORS, Author

A, B, C = VALIDATORS
KEY = b"k" * 32


@pytest.fixture
def node() -> harness.Node:
    """A node with a hostile peer in session 1."""
    node = harness.Node(A)
    node.open(1, harness.peer_of(Author(B)))
    return node


class TestOffences:
    """A ban is counted as what it was for."""

    def test_a_frame_that_cannot_be_read_breaks_the_protocol(self, node: harness.Node) -> None:
        node.hear(1, b"garbage")
        assert [close.offence for close in node.closes] == [Offence.PROTOCOL]

    def test_what_comes_too_often_is_a_flood(self, node: harness.Node) -> None:
        for _ in range(VECTORS.burst + 1):
            node.hear(1, Vector(0, True, ALL_SLICES, []).encode())
        assert [(close.ban_s, close.offence) for close in node.closes] == [(BAN_S, Offence.FLOOD)]

    def test_an_event_that_its_log_did_not_sign_is_a_forgery(self, node: harness.Node) -> None:
        event = Author(B).delegate()
        node.hear(1, Events([event.wire.replace(event.signature, bytes(64))]).encode())
        node.settle()
        assert [close.offence for close in node.closes] == [Offence.FORGERY]

    def test_bans_are_counted_each_by_its_offence(self) -> None:
        bans = Bans()
        bans.add(KEY, "a bad frame", 60.0, 0.0)
        bans.add(KEY, "another", 60.0, 1.0)
        bans.add(KEY, "too many vectors", 60.0, 2.0, offence=Offence.FLOOD)
        for _ in range(OPENINGS_MAX + 1):
            bans.opened(KEY, 3.0)
        assert bans.counts == {
            Offence.PROTOCOL: 2, Offence.FLOOD: 1, Offence.FORGERY: 0, Offence.OPENINGS: 1, Offence.OPERATOR: 0
        }  # fmt: skip

    async def test_the_driver_counts_those_of_validators_and_observers(
        self, honest: tuple[daemons.Node, daemons.Node]
    ) -> None:
        first, _ = honest
        (link,) = first.driver._links.values()
        first.driver._perform([Close(link.id, Reason("too much", Code.SESSION_FLOOD), BAN_S, Offence.FLOOD)])
        status = first.driver.status()
        assert status["ban_counts"] == {
            "protocol": 0, "flood": 1, "forgery": 0, "openings": 0, "operator": 0,
        }  # fmt: skip
        assert [(ban["ban_reason"], ban["observer"]) for ban in status["bans"]] == [("too much", False)]


class TestDropped:
    """Events that are not taken up are counted; they come again."""

    def test_nothing_is_dropped_while_the_store_keeps_up(self, node: harness.Node) -> None:
        node.hear(1, Events([Author(B).delegate().wire]).encode())
        node.settle()
        assert node.engine.counts()["dropped"] == 0

    def test_what_comes_while_the_store_has_failed_is_dropped(self, node: harness.Node) -> None:
        one, other = Author(B), Author(C)
        node.disk_fails = True
        node.hear(1, Events([one.delegate().wire]).encode())
        node.settle()
        node.hear(1, Events([other.delegate().wire, other.verdict(KEY).wire]).encode())
        assert node.engine.counts()["dropped"] == 2
        node.disk_fails = False
        node.tick(STORE_RETRY_MS)
        node.hear(1, Events([event.wire for event in other.events]).encode())
        node.settle()
        assert (node.head(other.log), node.engine.counts()["dropped"]) == (1, 2)

    def test_what_is_more_than_the_store_may_have_to_do_is_dropped(
        self, node: harness.Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "PENDING_BYTES_MAX", 1)
        one, other = Author(B), Author(C)
        node.hear(1, Events([one.delegate().wire]).encode())
        node.hear(1, Events([other.delegate().wire]).encode())
        assert node.engine.counts()["dropped"] == 1


class TestDriver:
    """What a driver tells and counts of real sessions."""

    async def test_traffic_of_one_end_is_that_of_the_other(self, honest: tuple[daemons.Node, daemons.Node]) -> None:
        first, second = honest
        await first.post("gpu-1")
        await until(lambda: second.database.state.nodes == 1)
        before = first.driver.status()["traffic"]
        assert before["sent"]["frames"] > 0
        assert before["sent"]["bytes"] > sum(len(event.wire) for event in first.author.events)
        await until(lambda: first.driver.status()["traffic"]["sent"] == second.driver.status()["traffic"]["received"])
        await until(lambda: second.driver.status()["traffic"]["sent"] == first.driver.status()["traffic"]["received"])

    async def test_the_time_until_received_events_are_durable_is_told_once_a_batch(
        self, honest: tuple[daemons.Node, daemons.Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        await until(lambda: first.sees_all_of(second))
        told: list[float] = []
        batches = 0
        receive = second.database.receive

        async def counted(*arguments: object) -> object:
            nonlocal batches
            batches += 1
            return await receive(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(second.database, "receive", counted)
        monkeypatch.setattr(second.driver, "_on_applied", told.append)
        await first.post("gpu-1")
        await until(lambda: second.database.state.nodes == 1 and len(told) == batches)
        assert told
        assert all(0 < seconds < daemons.DEADLINE_S for seconds in told)

    async def test_each_tick_tells_how_late_the_loop_was(
        self, pair: tuple[daemons.Node, daemons.Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[float] = []
        monkeypatch.setattr(pair[0].driver, "_on_tick", told.append)
        await until(lambda: len(told) >= 2)
        assert all(late_s >= 0 for late_s in told)
        loop, told[:] = asyncio.get_running_loop(), []
        end_s = loop.time() + 1.5 * engine_module.TICK_MS / 1000
        while loop.time() < end_s:
            pass  # nobody else gets a turn, and a tick is due meanwhile
        await until(lambda: bool(told))
        assert told[0] > 0.2 * engine_module.TICK_MS / 1000
