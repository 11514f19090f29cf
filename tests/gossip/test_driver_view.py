"""Drivers dial whom the active view names, over real sockets, and blame nobody for what they missed themselves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.gossip import dials, driver, engine, pace, timeline, view
from p2pnodes.gossip.channel import HEARTBEAT
from p2pnodes.gossip.dials import DIALS
from p2pnodes.gossip.handshake import RefusedByPeerError
from p2pnodes.gossip.rates import Allowance, Rate
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.events import delegate
from tests.gossip.daemons import Node, stranger, until
from tests.support import NETWORK, NOW_S, VALIDATORS, Author, electorate

MANY = tuple(f"//validator{number}" for number in range(7))
"""More than a small view has places for."""

MALICE = Author(VALIDATORS[2])
"""A validator with a permit and bad intentions."""

DEAD = "http://127.0.0.1:1"
"""An address where nobody listens."""


@pytest.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[list[Node]]:
    """Seven daemons with places for three, that know each other and have linked."""
    who = electorate(stakes=dict.fromkeys(MANY, 100))
    nodes = [Node(tmp_path, uri, view_size=3, who=who) for uri in MANY]
    await asyncio.gather(*(node.start() for node in nodes))
    for node in nodes:
        others = [other for other in nodes if other is not node]
        node.driver.set_targets(
            {other.hotkey: [other.url] for other in others}, [], {other.hotkey: other.node_key for other in others}
        )
    await until(lambda: all(len(links(node)) >= 2 for node in nodes))
    yield nodes
    await asyncio.gather(*(node.stop() for node in nodes))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a peer up soon; heartbeats come in time for that."""
    monkeypatch.setattr(driver, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(driver, "SILENCE_S_MAX", 0.7)
    monkeypatch.setattr(driver, "HANDSHAKE_S_MAX", 0.7)
    monkeypatch.setattr(timeline, "STILL_MS", 300)


def links(node: Node) -> list[dict[str, Any]]:
    return [row for row in node.sessions if row["link"] != "visit"]


def count_dials(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where a node dials from now on."""
    begun: list[str] = []
    dial = node.driver._dial

    async def counting(target: dials.Dial, *rest: Any) -> None:
        begun.append(target.url)
        await dial(target, *rest)

    monkeypatch.setattr(node.driver, "_dial", counting)
    return begun


class TestActiveView:
    """Sessions are few, and reach all."""

    async def test_what_one_writes_all_hold_although_not_all_have_sessions_with_it(self, crowd: list[Node]) -> None:
        assert min(len(links(node)) for node in crowd) < len(crowd) - 1
        for node in crowd:
            await node.post(f"gpu-{node.port}")
        await until(lambda: crowd[0].sees_all_of(*crowd[1:]) and crowd[0].events == 2 * len(crowd))

    async def test_members_without_a_session_are_listed_and_not_dialled(
        self, crowd: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = crowd[0]
        await until(lambda: not node.driver._engine.wanted())
        rows = node.driver.status()["peers"]
        assert {row["hotkey"] for row in rows} == {other.author.hotkey.address for other in crowd[1:]}
        idle = [row for row in rows if not row["connected"]]
        assert idle
        assert all(row["next_dial_s"] is None for row in idle)
        assert node.driver.status()["view"]["members"] == len(crowd) - 1

    async def test_the_own_head_is_heard_from_all_and_visits_end(
        self, crowd: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = crowd[0]
        node.driver.sweep(on=True)
        await until(lambda: len(node.driver.own_head_reports()) == len(crowd) - 1)
        assert len(links(node)) < len(crowd) - 1
        monkeypatch.setattr(view, "VISIT_MS_MAX", 500)
        node.driver.sweep(on=False)
        await until(lambda: len(node.sessions) == len(links(node)))
        assert node.driver.status()["bans"] == []

    async def test_two_that_know_each_other_are_linked_eagerly(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await until(lambda: [row["link"] for row in (*first.sessions, *second.sessions)] == ["eager", "eager"])

    async def test_one_that_has_no_place_for_a_peer_shows_it_as_a_visit(self, honest: tuple[Node, Node]) -> None:
        first, _ = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            await until(lambda: "visit" in {row["link"] for row in first.sessions})


class TestRoom:
    """Visits keep nobody out, and those who cannot be dialled stay."""

    @pytest.mark.parametrize("dials", ["we", "they"])
    async def test_with_all_places_taken_a_visit_gives_way_to_a_validator(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, dials: str
    ) -> None:
        monkeypatch.setattr(driver, "SESSIONS_MAX", 2)
        first, second = pair
        first.know({})  # so that nobody else is a member
        async with stranger(first, MALICE) as older, stranger(first, Author(VALIDATORS[2], seed=1)) as newer:
            await older.shake()
            await newer.shake()
            await until(lambda: len(first.sessions) == 2)
            if dials == "we":
                first.dial(second)
            else:
                second.dial(first)
            assert await older.closed() == driver.GAVE_WAY
            await until(lambda: first.session_with(second))
            assert len(first.driver._links) == 2
            assert first.driver.status()["bans"] == []

    async def test_none_gives_way_to_an_observer(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "SESSIONS_MAX", 2)
        first, _ = pair
        monkeypatch.setattr(first.driver, "_observers", True)
        first.know({})
        async with AsyncExitStack() as stack:
            for author in (MALICE, Author(VALIDATORS[2], seed=1)):
                await (await stack.enter_async_context(stranger(first, author))).shake()
            guest = await stack.enter_async_context(stranger(first, Author("//Observer")))
            with pytest.raises(RefusedByPeerError, match="there are 2 sessions already"):
                await guest.shake()
            assert len(first.sessions) == 2

    async def test_a_validator_without_an_address_has_a_session_with_everybody(self, crowd: list[Node]) -> None:
        node = crowd[0]
        others = {other.hotkey: [other.url] for other in crowd[1:]}
        known = {other.hotkey: other.node_key for other in crowd[1:]}
        assert not node.driver._is_hidden()
        node.delegation = (
            node.author.log,
            delegate(
                node.author.hotkey, NETWORK.id, node.author.log, url="", not_before=NOW_S - 60, not_after=NOW_S + 86_400
            ),
        )
        node.driver.set_targets(others, [], known)
        await until(lambda: {row["hotkey"] for row in node.sessions} == {o.author.hotkey.address for o in crowd[1:]})
        assert len(links(node)) < len(crowd) - 1

    async def test_an_observer_without_an_address_has_not(self, tmp_path: Path) -> None:
        node = Node(tmp_path, "//Observer")
        node.delegation = node.author.log, node.author.delegation()._replace(url="")
        await node.start()
        hidden = node.driver._is_hidden()
        await node.stop()
        assert not hidden


class TestDialling:
    """Down peers are tried for ever, within bounds."""

    async def test_one_that_cannot_be_reached_is_down_for_the_view(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        gone = Author(MANY[5]).hotkey.public_key
        first.know({second.hotkey: second.url, gone: DEAD})
        await until(lambda: first.driver.status()["view"]["down"] == 1)

    async def test_a_banned_member_is_down_for_the_view_and_not_dialled(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        begun = count_dials(first, monkeypatch)
        (link,) = first.driver._links.values()
        first.driver._perform([engine.Close(link.id, Reason("a lie", Code.SESSION_PROTOCOL), 60.0)])
        await until(lambda: first.driver.status()["view"]["down"] == 1)
        assert begun == []
        assert second.url not in begun

    async def test_dials_are_bounded_in_rate(self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
        assert DIALS.burst >= driver.SESSIONS_MAX // 2
        first, _ = honest
        begun = count_dials(first, monkeypatch)
        first.driver._pace = Allowance(Rate("dials", 3, 0.001), 0)
        first.driver._pace.take(driver._now_ms(), 0)
        first.know({bytes([number]) * 32: f"http://127.0.0.1:{number}" for number in range(1, 9)})
        await until(lambda: len(begun) == 3)
        first.driver._dial_due()
        assert len(begun) == 3
        assert first.driver.status()["dials"] <= 3

    async def test_bootstrap_addresses_are_left_alone_with_enough_sessions(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        begun = count_dials(first, monkeypatch)
        monkeypatch.setattr(driver, "SESSIONS_FEW", 1)
        first.know({second.hotkey: second.url}, [DEAD])
        assert begun == []
        (row,) = [row for row in first.driver.status()["peers"] if not row["connected"]]
        assert row["next_dial_s"] is None
        monkeypatch.setattr(driver, "SESSIONS_FEW", 2)
        await until(lambda: DEAD in begun)

    async def test_one_validator_with_many_sessions_is_not_the_network(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        begun = count_dials(first, monkeypatch)
        async with AsyncExitStack() as stack:
            for seed in range(driver.SESSIONS_FEW - 1):
                guest = await stack.enter_async_context(stranger(first, Author(VALIDATORS[1], seed=seed + 1)))
                await guest.shake()
            await until(lambda: len(first.driver._links) == driver.SESSIONS_FEW)
            first.know({second.hotkey: second.url}, [DEAD])
            await until(lambda: DEAD in begun)


class TestStandstill:
    """A daemon that stood still, or is late, distrusts its own suspicions (Lifeguard)."""

    @pytest.mark.usefixtures("impatient")
    async def test_no_session_ends_because_this_daemon_slept(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        before = first.session_with(second)
        assert before is not None
        await until(lambda: first.driver._engine.time._tick_due_ms)
        for _ in range(3):
            time.sleep(1.5)
            await until(lambda: first.driver.status()["loop"]["slowness"] > 1, 2.0)
            await asyncio.sleep(0)
        heard_s = first.driver._heard_s()
        await until(lambda: (first.driver._heard_s() or 0) > (heard_s or 0))
        after = first.session_with(second)
        assert after is not None
        assert after["since"] == before["since"]

    @pytest.mark.usefixtures("impatient")
    async def test_no_handshake_fails_because_this_daemon_slept(self, honest: tuple[Node, Node]) -> None:
        first, _ = honest
        async with stranger(first, MALICE) as guest:
            await until(lambda: first.driver.status()["handshakes"] == 1)
            time.sleep(1.5)
            await guest.shake()
            assert await guest.receive() is not None

    @pytest.mark.usefixtures("impatient")
    async def test_a_peer_that_is_silent_while_we_live_is_gone_all_the_same(self, honest: tuple[Node, Node]) -> None:
        first, _ = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            time.sleep(1.5)
            assert await guest.closed() == "nothing heard for 0.7 s"

    async def test_lag_and_slowness_are_shown(self, honest: tuple[Node, Node]) -> None:
        first, _ = honest
        await until(lambda: first.driver._engine.time._tick_due_ms)
        assert first.driver.status()["loop"]["slowness"] == 1
        time.sleep(2.5)
        await until(lambda: first.driver.status()["loop"]["slowness"] > 1)


class TestSignsOfLife:
    """Before this daemon doubts its own network, it asks."""

    async def test_when_nothing_comes_a_peer_is_asked_and_answers(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        monkeypatch.setattr(pace.Pace, "due", lambda *_: False)
        await until(lambda: first.sees_all_of(second))
        monkeypatch.setattr(driver, "QUIET_S", 0.3)
        monkeypatch.setattr(driver, "QUIET_AGAIN_S", 0.1)
        (link,) = first.driver._links.values()
        for _ in range(3):
            heard_s = link.heard_s
            await until(lambda: link.heard_s > heard_s, 2.0)  # noqa: B023 - it is called at once
        assert first.driver.online()

    async def test_with_bounds_that_leave_time_for_several_to_answer(self) -> None:
        assert driver.QUIET_S >= pace.DIGEST_INTERVAL_MS * 4 / 3 / 1000
        assert driver.ONLINE_S_MAX - driver.QUIET_S >= 3 * driver.QUIET_AGAIN_S

    async def test_a_heartbeat_is_a_sign_of_life(self, honest: tuple[Node, Node]) -> None:
        first, _ = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            (link,) = [link for link in first.driver._links.values() if link.peer.log == MALICE.log]
            heard_s = link.heard_s
            await guest.send(HEARTBEAT)
            await until(lambda: link.heard_s > heard_s)
