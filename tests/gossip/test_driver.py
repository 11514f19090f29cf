"""Drivers keep sessions over real sockets; a hostile or slow peer costs its own session and nobody else's."""

import asyncio
import gc
import os
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from p2pnodes.gossip import dials, driver, engine, fetch, frames, lobby, pace
from p2pnodes.gossip.channel import HEARTBEAT, OVERHEAD_BYTES
from p2pnodes.gossip.frames import FRAME_BYTES_MAX, Digest, Events
from p2pnodes.gossip.handshake import HandshakeError, Identity, Peer, Policy, RefusedByPeerError, Responder
from p2pnodes.gossip.rates import weight
from p2pnodes.model import codec
from p2pnodes.model.branches import rivalry
from p2pnodes.model.codec import DIGEST_BYTES
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Event, Evidence, Head, LogId, closing, delegate
from p2pnodes.model.keys import verify_node
from p2pnodes.model.network import Network
from p2pnodes.store import ahead
from p2pnodes.store.checking import CheckerProcess
from p2pnodes.store.state import Outcome
from p2pnodes.throttle import STORE_FAILURES_LOGGED_BURST, FewLines
from tests.gossip.daemons import Node, Stranger, now_ms, stranger, until
from tests.gossip.harness import clone
from tests.support import NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, electorate, hotkey

FOREIGN = Network(genesis_hash=NETWORK.genesis_hash, netuid=65)
HASH = bytes(DIGEST_BYTES)
MALICE = Author(VALIDATORS[2])
"""A validator with a permit and bad intentions."""


@pytest.fixture
async def nodes(pair: tuple[Node, Node], tmp_path: Path) -> AsyncIterator[list[Node]]:
    """Three of them."""
    third = Node(tmp_path, VALIDATORS[2])
    await third.start()
    yield [*pair, third]
    await third.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a peer up soon; heartbeats come in time for that."""
    monkeypatch.setattr(driver, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(driver, "SILENCE_S_MAX", 0.5)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dial again soon."""
    monkeypatch.setattr(dials, "PAUSE_S_MIN", 0.05)
    monkeypatch.setattr(dials, "PAUSE_S_MAX", 0.3)


async def still_talk(first: Node, second: Node) -> None:
    """A registration posted on one honest daemon arrives on the other."""
    begin = second.events
    await first.post(f"gpu-{first.events}-{second.events}")
    await until(lambda: second.events > begin and first.sees_all_of(second))


def hang(node: Node, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, list[int]]:
    """Have a node's store keep events waiting until the event is set; how many it was given each time."""
    receive, released, taken = node.database.receive, asyncio.Event(), list[int]()

    async def slow(events: Sequence[Event], at_ms: int) -> list[Outcome]:
        taken.append(len(events))
        await released.wait()
        return await receive(events, at_ms)

    monkeypatch.setattr(node.database, "receive", slow)
    return released, taken


class TestExchange:
    """What one daemon writes, all hold."""

    async def test_events_of_one_arrive_on_all(self, nodes: list[Node]) -> None:
        for node in nodes:
            node.dial(*(other for other in nodes if other is not node))
        await until(lambda: all(len(node.sessions) == 2 for node in nodes))
        for number, node in enumerate(nodes):
            await node.post(f"gpu-{number}")
        await until(lambda: nodes[0].sees_all_of(*nodes[1:]) and nodes[0].events == 6)
        assert {node.database.state.nodes for node in nodes} == {3}
        assert len({node.database.state.state_root for node in nodes}) == 1

    async def test_a_daemon_that_comes_late_catches_up(self, pair: tuple[Node, Node]) -> None:
        early, late = pair
        for number in range(30):
            await early.post(f"gpu-{number}")
        late.dial(early)
        await until(lambda: late.sees_all_of(early))
        assert late.database.state.nodes == 30
        assert {outcome.result for outcome in late.outcomes} == {"stored"}

    async def test_events_reach_who_has_no_session_with_their_author(self, nodes: list[Node]) -> None:
        first, middle, last = nodes
        middle.dial(first, last)
        await until(lambda: len(middle.sessions) == 2)
        await first.post("gpu-1")
        await until(lambda: last.database.state.nodes == 1)

    async def test_own_heads_and_clocks_are_heard(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await until(lambda: first.sees_all_of(second) and second.hotkey in first.driver.own_head_reports())
        await until(lambda: first.driver.clock_offset_ms() is not None)
        offset = first.driver.clock_offset_ms()
        assert offset is not None
        assert abs(offset) < 1_000

    async def test_a_failing_disk_costs_a_retry_and_no_session(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "STORE_RETRY_MS", 50)
        first, second = honest
        receive, failures = second.database.receive, 2

        async def failing(events: Sequence[Event], at_ms: int) -> list[Outcome]:
            nonlocal failures
            if failures:
                failures -= 1
                raise StoreError("disk full")
            return await receive(events, at_ms)

        monkeypatch.setattr(second.database, "receive", failing)
        session = second.session_with(first)
        assert session is not None
        await first.post("gpu-1")
        await until(lambda: second.database.state.nodes == 1)
        assert failures == 0
        after = second.session_with(first)
        assert after is not None
        assert after["since"] == session["since"]

    async def test_a_log_that_cannot_be_read_is_had_later(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "STALL_MS", 50)
        early, late = pair
        read_log, failures = early.database.read_log, 1

        async def failing(log: LogId, first_seq: int, size_bytes_max: int, count_max: int) -> list[bytes]:
            nonlocal failures
            if failures:
                failures -= 1
                raise sqlite3.OperationalError("disk I/O error")
            return await read_log(log, first_seq, size_bytes_max, count_max)

        monkeypatch.setattr(early.database, "read_log", failing)
        await early.post("gpu-1")
        late.dial(early)
        await until(lambda: late.database.state.nodes == 1)
        assert failures == 0

    async def test_what_the_store_does_not_take_has_few_lines_of_each_kind_in_the_log(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, second = honest

        async def full(*_: object) -> list[Outcome]:
            raise StoreError("the disk is full")

        monkeypatch.setattr(second.database, "receive", full)
        monkeypatch.setattr(second.database, "lacking", full)
        with capture_logs() as logs:
            for _ in range(2 * STORE_FAILURES_LOGGED_BURST):
                assert await second.driver._receive_job([]) is None
            await second.driver._survey()
        failed = Counter(record["event"] for record in logs)
        assert failed["events_not_stored"] >= STORE_FAILURES_LOGGED_BURST
        assert failed["events_not_stored"] < 1.5 * STORE_FAILURES_LOGGED_BURST
        assert failed["checkpoint_not_stored"] == 1, "of another kind"

    async def test_a_socket_is_not_read_while_the_store_has_too_much_of_it(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "STORING_BYTES_MAX", 0)
        first, second = honest
        await until(lambda: first.sees_all_of(second))
        released, taken = hang(second, monkeypatch)
        await first.post("gpu-1")
        await until(lambda: taken)
        (link,) = second.driver._links.values()
        assert not link.room.is_set()
        released.set()
        await until(lambda: second.database.state.nodes == 1)
        assert link.room.is_set()
        await still_talk(first, second)

    async def test_what_others_write_waits_for_a_part_of_what_a_peer_has_sent(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "STORING_EVENTS_MAX", 20)
        first, second = honest
        jobs: list[int] = []
        receive = second.database.receive

        async def noted(events: Sequence[Event], now_ms: int) -> list[Outcome]:
            jobs.append(sum(map(weight, events)))
            return await receive(events, now_ms)

        monkeypatch.setattr(second.database, "receive", noted)
        author = Author(VALIDATORS[2])
        sent = [author.delegate(), *(author.renew(*(bytes([each]) * 32 for each in range(64))) for _ in range(10))]
        async with stranger(second, author) as guest:
            await guest.shake()
            await guest.send(Events([event.wire for event in sent]).encode())
            await until(lambda: second.database.state.heads.get(author.log) == Head(10, sent[-1].id))
        assert len(jobs) > 5
        assert max(jobs) <= 20
        await still_talk(first, second)

    async def test_no_socket_is_read_while_the_store_has_too_much_of_sessions_that_have_ended(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a disk hangs, whoever comes, sends and goes would have any number of batches wait."""
        monkeypatch.setattr(driver, "LEFT_BYTES_MAX", 0)
        first, second = honest
        await until(lambda: first.sees_all_of(second))
        released, taken = hang(second, monkeypatch)
        gone, coming = Author(VALIDATORS[2], seed=1), Author(VALIDATORS[2], seed=2)
        async with stranger(second, gone) as guest:
            await guest.shake()
            await guest.send(Events([gone.delegate().wire]).encode())
            await until(lambda: len(taken) == 1)
            assert second.driver._room.is_set()
        await until(lambda: not second.driver._room.is_set())
        async with stranger(second, coming) as guest:
            await guest.shake()
            await until(lambda: len(second.sessions) == 2)
            for _ in range(10):  # turns of the loop, in the first of which a task begins to read
                await asyncio.sleep(0)
            (link,) = (link for link in second.driver._links.values() if link.peer.node_key == coming.log.node_key)
            assert link.listening_ms is None
        released.set()
        await until(second.driver._room.is_set)
        await first.post("gpu-1")
        await until(lambda: second.database.state.nodes == 1)


class TestSessions:
    """One session per pair, for as long as both live."""

    async def test_daemons_that_dial_each_other_at_once_keep_one_session(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        first.dial(second)
        second.dial(first)
        await until(lambda: first.session_with(second) and second.session_with(first))
        await still_talk(first, second)
        ours, theirs = first.session_with(second), second.session_with(first)
        assert ours is not None
        assert theirs is not None
        assert {ours["direction"], theirs["direction"]} == {"dialled", "accepted"}
        assert len(first.sessions) == len(second.sessions) == 1

    @pytest.mark.usefixtures("eager")
    async def test_a_daemon_that_started_again_has_its_sessions_back(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await first.post("gpu-1")
        await until(lambda: second.sees_all_of(first))
        await second.stop()
        await until(lambda: not first.sessions)
        await first.post("gpu-2")
        await second.start()
        await until(lambda: second.sees_all_of(first))
        assert second.database.state.nodes == 2

    async def test_a_fresh_session_replaces_one_that_only_looks_open(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        async with stranger(first, MALICE) as lost, stranger(first, MALICE) as back:
            await lost.shake()
            await back.shake()
            assert "took its place" in await lost.closed()
            await back.receive()
            assert len(first.sessions) == 2
        await still_talk(first, second)

    @pytest.mark.usefixtures("eager")
    async def test_a_peer_that_was_down_is_dialled_until_it_answers(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        await second.stop()
        first.dial(second)

        def row() -> dict[str, Any]:
            (found,) = first.driver.status()["peers"]
            return dict(found)

        await until(lambda: row().get("last_error"))
        assert row()["hotkey"] == second.author.hotkey.address
        assert row()["connected"] is False
        assert row()["last_error"] == "Connection refused"
        await second.start()
        await until(lambda: first.session_with(second))
        await still_talk(first, second)

    async def test_a_bootstrap_address_leads_to_a_session_and_is_not_dialled_again(
        self, pair: tuple[Node, Node]
    ) -> None:
        first, second = pair
        first.know({}, [second.url, second.url + "/"])
        await until(lambda: first.session_with(second))
        assert [peer["connected"] for peer in first.driver.status()["peers"]] == [True]

    async def test_a_daemon_that_finds_itself_leaves_the_address_alone(self, pair: tuple[Node, Node]) -> None:
        first = pair[0]
        first.know({}, [first.url])
        await until(lambda: (first.driver.status()["peers"][0]["last_error"] or "").startswith("this is one's own"))
        assert first.driver.status()["peers"][0]["next_dial_s"] > 500

    async def test_another_hotkey_than_the_one_dialled_is_refused(self, nodes: list[Node]) -> None:
        first, second, third = nodes
        first.know({third.hotkey: second.url})
        await until(lambda: first.driver.status()["peers"][0].get("last_error"))
        error = first.driver.status()["peers"][0]["last_error"]
        assert error == f"hotkey {second.author.hotkey.address} answers; expected {third.author.hotkey.address}"
        assert not first.sessions

    async def test_a_peer_without_a_log_is_neither_dialled_nor_served(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        second.delegation = None
        second.dial(first)
        first.dial(second)
        await until(lambda: first.driver.status()["peers"][0].get("last_error"))
        assert first.driver.status()["peers"][0]["last_error"] == "answered with HTTP status 503; expected a WebSocket"
        second.delegation = second.author.log, second.author.delegation()
        await until(lambda: first.session_with(second))

    async def test_a_validator_that_loses_its_permit_loses_its_session(self, nodes: list[Node]) -> None:
        first, second, third = nodes
        first.dial(second, third)
        await until(lambda: len(first.sessions) == 2)
        stakes = {VALIDATORS[0]: 100, VALIDATORS[1]: 100}
        later = electorate(200, NOW_MS + 1, stakes=stakes, previous=electorate(150, NOW_MS, stakes=stakes))
        await first.database.set_electorate(later)
        await until(lambda: not first.session_with(third))
        assert first.session_with(second)

    @pytest.mark.usefixtures("impatient")
    async def test_an_idle_session_lives_by_heartbeats(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pace, "DIGEST_INTERVAL_MS", 3_600_000)
        first, _ = honest
        (link,) = first.driver._links.values()
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            heartbeats = 0
            while heartbeats * driver.HEARTBEAT_S < 2 * driver.SILENCE_S_MAX:
                heartbeats += await guest.receive() == HEARTBEAT
                await guest.send(HEARTBEAT)
            assert len(first.sessions) == 2
        assert not link.over.done()

    @pytest.mark.usefixtures("impatient")
    async def test_a_silent_peer_is_gone(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            assert await guest.closed() == "nothing heard for 0.5 s"
        assert first.session_with(second)
        await still_talk(first, second)

    async def test_a_redirect_is_not_followed(self, pair: tuple[Node, Node]) -> None:
        first, second = pair

        async def redirect(request: web.Request) -> web.Response:
            raise web.HTTPFound(second.url + driver.PATH)

        app = web.Application()
        app.router.add_get(driver.PATH, redirect)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            first.know({second.hotkey: f"http://127.0.0.1:{runner.addresses[0][1]}"})
            await until(lambda: first.driver.status()["peers"][0].get("last_error"))
            assert "redirects" in first.driver.status()["peers"][0]["last_error"]
            assert not first.sessions
        finally:
            await runner.cleanup()

    async def test_what_is_dialled_leaves_no_cookies(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thousands would be kept, 8 kB each, and sent back; in older releases of aiohttp without a bound."""
        monkeypatch.setattr(dials, "PAUSE_S_MIN", 0.01)
        monkeypatch.setattr(dials, "PAUSE_S_MAX", 0.01)
        sent: list[str | None] = []

        async def refuse(request: web.Request) -> web.Response:
            sent.append(request.headers.get("Cookie"))
            answer = web.Response(status=503)
            answer.set_cookie(f"dial-{len(sent)}", "x")
            return answer

        app = web.Application()
        app.router.add_get(driver.PATH, refuse)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:  # by its name: cookies of addresses are never kept
            pair[0].know({pair[1].hotkey: f"http://localhost:{runner.addresses[0][1]}"})
            await until(lambda: len(sent) >= 3)
        finally:
            await runner.cleanup()
        assert set(sent) == {None}

    @pytest.mark.parametrize(
        ("proved", "opening", "event", "code", "reason"),
        [
            (False, b"\x02\x00", "dial_failed", Code.HANDSHAKE_MALFORMED, "over 16384 bytes in a handshake"),
            (True, b"\x02\x00", "session_closed", Code.SESSION_FLOOD, "over 2097234 bytes without a whole message"),
            (True, b"\x82\x7f" + (2 << 20).to_bytes(8, "big"), "session_closed", Code.SESSION_LOST, "exceeds limit"),
        ],
        ids=["fragments instead of an answer", "fragments in a session", "a message that is too large"],
    )
    async def test_who_is_dialled_may_not_send_without_end(  # noqa: PLR0917 - a table
        self, pair: tuple[Node, Node], proved: bool, opening: bytes, event: str, code: Code, reason: str
    ) -> None:
        """Empty fragments took the daemon's time for ten seconds before the handshake ended, for 30 in a session."""
        first, second = pair
        cut = asyncio.Event()

        async def flood(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            if proved:
                identity = Identity(second.author.node_key, second.author.log, second.author.delegation())
                responder = Responder(identity, Policy(NETWORK, NOW_S, lambda _: True), bytes([1]) * 32)
                await socket.send_bytes(responder.answer(await socket.receive_bytes()))
                _, keys = responder.finish(await socket.receive_bytes())
                await socket.send_bytes(keys.welcome)
            transport = request.transport
            assert transport is not None
            transport.write(opening)
            while not transport.is_closing():
                transport.write(bytes(20_000))  # thousands of empty fragments, or what it may be else
                await asyncio.sleep(0)
            cut.set()
            return socket

        app = web.Application()
        app.router.add_get(driver.PATH, flood)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            with capture_logs() as logs:
                first.know({second.hotkey: f"http://127.0.0.1:{runner.addresses[0][1]}"})
                await asyncio.wait_for(cut.wait(), driver.HANDSHAKE_S_MAX / 2)
                await until(lambda: any(line["event"] in {"dial_failed", "session_closed"} for line in logs))
        finally:
            await runner.cleanup()
        (line,) = [line for line in logs if line["event"] in {"dial_failed", "session_closed"}]
        assert (line["event"], line["code"]) == (event, code)
        assert reason in line["reason"]

    @pytest.mark.parametrize("url", ["http://", "nonsense", "ftp://127.0.0.1", "http://[", "http://127.0.0.1:1"])
    async def test_an_address_that_is_none_is_an_error_in_the_status(self, pair: tuple[Node, Node], url: str) -> None:
        pair[0].know({pair[1].hotkey: url})
        await until(lambda: pair[0].driver.status()["peers"][0].get("last_error"))


async def test_how_far_behind_it_is_is_not_reckoned_for_everybody_who_asks(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 64 sessions of peers that name 4,096 logs each it took 53 ms, and /readyz is for everybody."""
    reckoned = iter(range(5, 9))
    monkeypatch.setattr(pair[0].driver._engine, "behind", lambda: next(reckoned))
    assert [pair[0].driver.behind() for _ in range(100)] == [5] * 100
    monkeypatch.setattr(driver, "BEHIND_S", 0.0)
    assert pair[0].driver.behind() == 6


class TestOnline:
    """Silence of all peers is taken for a fault of this daemon's own network; having no peers is not."""

    async def test_a_daemon_that_knows_nobody_and_one_that_is_heard_are_online(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        assert first.driver.online()
        first.dial(second)
        await until(lambda: first.session_with(second))
        assert first.driver.online()

    async def test_one_that_nobody_answers_is_not(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        await second.stop()
        first.dial(second)
        assert not first.driver.online()

    async def test_one_that_hears_nothing_in_its_sessions_is_not(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, _ = honest
        assert first.driver.online()
        monkeypatch.setattr(driver, "ONLINE_S_MAX", 0.0)
        assert not first.driver.online()


class TestHostileStrangers:
    """Whoever fails the handshake is told why, and nobody else notices."""

    async def refused(self, guest: Stranger) -> str:
        with pytest.raises(RefusedByPeerError) as caught:
            await guest.shake()
        await guest.closed()
        return str(caught.value)

    async def test_a_foreign_network_hears_what_differs(self, honest: tuple[Node, Node]) -> None:
        with capture_logs() as logs:
            async with stranger(honest[0], MALICE, network=FOREIGN) as guest:
                text = await self.refused(guest)
        assert text == "another network: netuid is 64 there, 65 here"
        reasons = [entry["reason"] for entry in logs if entry["event"] == "handshake_refused"]
        assert reasons == ["another network: netuid is 65 there, 64 here"]
        await still_talk(*honest)

    async def test_an_unregistered_validator_is_refused(self, honest: tuple[Node, Node]) -> None:
        async with stranger(honest[0], Author("//Mallory")) as guest:
            text = await self.refused(guest)
        assert text == f"hotkey {hotkey('//Mallory').address} holds no validator permit in the current electorate"
        await still_talk(*honest)

    @pytest.mark.parametrize("garbage", [b"", b"\xff" * 40, b"\xc1", b"GET / HTTP/1.1", bytes(5_000)])
    async def test_garbage_is_refused(self, honest: tuple[Node, Node], garbage: bytes) -> None:
        async with stranger(honest[0], MALICE) as guest:
            await guest.socket.send_bytes(garbage)
            fields = codec.fields(codec.unpack(await guest.socket.receive_bytes()), 2, "refusal")
            assert fields[0] == "refused"
            await guest.closed()
        await still_talk(*honest)

    async def test_a_huge_message_is_not_read(self, honest: tuple[Node, Node]) -> None:
        async with stranger(honest[0], MALICE) as guest:
            await guest.socket.send_bytes(bytes(2 * FRAME_BYTES_MAX))
            await guest.closed()
        await still_talk(*honest)

    async def test_text_is_refused(self, honest: tuple[Node, Node]) -> None:
        async with stranger(honest[0], MALICE) as guest:
            await guest.socket.send_str("hello")
            assert b"a text message" in await guest.socket.receive_bytes()
            await guest.closed()
        await still_talk(*honest)

    async def test_a_replayed_proof_is_refused(self, honest: tuple[Node, Node]) -> None:
        async with stranger(honest[0], MALICE) as guest, stranger(honest[0], MALICE) as replayer:
            initiator = guest.initiator()
            await guest.socket.send_bytes(initiator.hello)
            proof = initiator.prove(await guest.socket.receive_bytes())
            await replayer.socket.send_bytes(initiator.hello)
            await replayer.socket.receive_bytes()
            await replayer.socket.send_bytes(proof)
            assert b"does not decrypt" in await replayer.socket.receive_bytes()
        await still_talk(*honest)

    async def test_a_half_open_handshake_ends_by_itself(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "HANDSHAKE_S_MAX", 0.2)
        async with stranger(honest[0], MALICE) as guest:
            await guest.socket.send_bytes(guest.initiator().hello)
            await guest.socket.receive_bytes()
            assert honest[0].driver.status()["handshakes"] == 1
            assert await guest.closed() == "no handshake within 0.2 s"
        await until(lambda: honest[0].driver.status()["handshakes"] == 0)
        await still_talk(*honest)

    async def test_many_half_open_handshakes_do_not_keep_an_honest_peer_out(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lobby, "GUESTS_PER_ADDRESS_MAX", 4)
        first, second = pair
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(stranger(first, MALICE)) for _ in range(8)]
            for guest in idle[:4]:
                await guest.closed()
            second.dial(first)
            await until(lambda: second.session_with(first))
            assert first.driver.status()["handshakes"] <= 4
            await still_talk(first, second)

    async def test_a_handshake_that_made_room_is_forgotten_while_strangers_go_on_coming(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each held the one before it, 16 kB of memory for everyone who came; a daemon grew by 30 MB a second."""
        monkeypatch.setattr(lobby, "GUESTS_PER_ADDRESS_MAX", 1)

        def ended() -> list[Any]:
            gc.collect()
            tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and each.done()]
            return [task for task in tasks if "_accept" in repr(task.get_coro())]

        async with AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(stranger(pair[0], MALICE)) for _ in range(10)]
            for guest in guests[:-1]:
                await guest.closed()
            await until(lambda: len(ended()) <= 1)

    async def test_what_is_no_websocket_is_told_so(self, pair: tuple[Node, Node]) -> None:
        async with aiohttp.ClientSession() as client, client.get(pair[0].url + driver.PATH) as answer:
            assert answer.status == 426
            assert await answer.json() == {"detail": "this is the peers' WebSocket; miners use /nodes"}

    async def test_refusals_do_not_fill_the_log(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with capture_logs() as logs:
            for _ in range(3 * driver.REFUSALS_LOGGED_BURST):
                async with stranger(honest[0], MALICE) as guest:
                    await guest.socket.send_bytes(b"x")
                    await guest.closed()
        refused = [entry for entry in logs if entry["event"] == "handshake_refused"]
        assert driver.REFUSALS_LOGGED_BURST <= len(refused) < 2 * driver.REFUSALS_LOGGED_BURST
        await still_talk(*honest)


class TestHostilePeers:
    """A validator that breaks the protocol loses its own session; for what it signed it is banned for a while."""

    async def test_a_frame_that_is_no_frame_costs_the_session_and_a_ban(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            await guest.send(codec.pack([99]))
            assert "found 99" in await guest.closed()
        another_key = Author(VALIDATORS[2], seed=7)  # as many as a hotkey likes to sign
        for author in (MALICE, another_key):
            async with stranger(first, author) as guest:
                with pytest.raises(RefusedByPeerError, match=r"this hotkey is refused for .* s more: .*found 99"):
                    await guest.shake()
        (ban,) = first.driver.status()["bans"]
        assert ban["hotkey"] == MALICE.hotkey.address
        assert 0 < ban["banned_s"] <= engine.BAN_S
        await still_talk(first, second)

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f000001",
            "[::1]",
            "\uff11\uff12\uff17.0.0.1",
            "127\u30020\u30020\u30021",
        ],
    )
    async def test_a_url_that_leads_to_a_private_address_is_not_dialled(
        self, pair: tuple[Node, Node], host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = pair
        await first.driver.stop()
        first.driver._allow_private = False
        await first.driver.start()
        port = second.url.rpartition(":")[2]
        first.know({second.hotkey: f"http://{host}:{port}"})
        await until(lambda: bool(first.driver.status()["peers"][0]["last_error"]))
        error = first.driver.status()["peers"][0]["last_error"]
        hinted = "no public address; [gossip] allow_private_addresses allows that, for devnets" in error
        assert hinted or "not a canonical IPv4 address" in error
        assert not second.sessions

    async def test_a_banned_peer_is_not_dialled_until_its_ban_ends(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dials, "PAUSE_S_MIN", 0.05)
        first, second = pair
        first.dial(second)
        await until(lambda: first.session_with(second))
        (link,) = first.driver._links.values()
        first.driver._perform([engine.Close(link.id, Reason("a lie", Code.SESSION_PROTOCOL), 0.8)])
        await until(lambda: not first.sessions)
        (row,) = first.driver.status()["peers"]
        assert row["ban_reason"] == "a lie"
        assert 0 < row["banned_s"] <= 0.8
        await until(lambda: first.session_with(second))
        assert first.driver.status()["bans"] == []

    async def test_the_largest_frame_is_read_and_judged(self, honest: tuple[Node, Node]) -> None:
        async with stranger(honest[0], MALICE) as guest:
            await guest.shake()
            await guest.send(b"\xc0" * FRAME_BYTES_MAX)
            assert "msgpack" in await guest.closed()
        await still_talk(*honest)

    async def test_a_larger_frame_costs_the_session(self, honest: tuple[Node, Node]) -> None:
        async with stranger(honest[0], MALICE) as guest:
            await guest.shake()
            await guest.send(b"\xc0" * (FRAME_BYTES_MAX + OVERHEAD_BYTES))
            assert "msgpack" not in await guest.closed()
        await until(lambda: len(honest[0].sessions) == 1)
        await still_talk(*honest)

    @pytest.mark.parametrize("wrong", ["garbage", "truncated", "replayed", "dropped", "text"])
    async def test_a_message_outside_the_stream_costs_the_session(self, honest: tuple[Node, Node], wrong: str) -> None:
        first, second = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            good = Digest(False, now_ms(), HASH, HASH, HASH).encode()
            message = guest.channel.encrypt(good)
            match wrong:
                case "garbage":
                    await guest.socket.send_bytes(b"\xff" * 64)
                case "truncated":
                    await guest.socket.send_bytes(message[:-1])
                case "replayed":
                    await guest.socket.send_bytes(message)
                    await guest.socket.send_bytes(message)
                case "dropped":
                    await guest.send(good)
                case "text":
                    await guest.socket.send_str("a frame")
            assert ("text message" if wrong == "text" else "does not decrypt") in await guest.closed()
        await until(lambda: len(first.sessions) == 1)
        assert first.driver.status()["bans"] == []  # whoever sits on the wire can do this to an honest peer
        await still_talk(first, second)

    async def test_an_event_with_a_forged_signature_costs_the_session(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        author = Author(VALIDATORS[2], seed=7)
        event = author.delegate()
        header, signature, payload = codec.fields(codec.unpack(event.wire), 3, "event")
        assert isinstance(signature, bytes)
        forged = codec.pack([header, bytes([signature[0] ^ 1]) + signature[1:], payload])
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            await guest.send(Events([forged]).encode())
            assert "forged event" in await guest.closed()
        assert author.log not in first.database.state.logs
        await still_talk(first, second)

    @pytest.mark.usefixtures("impatient")
    async def test_a_peer_that_reads_nothing_loses_its_session_and_delays_nobody(
        self, honest: tuple[Node, Node]
    ) -> None:
        first, second = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            guest.socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
            (link,) = (link for link in first.driver._links.values() if link.peer.log == MALICE.log)
            with capture_logs() as logs:
                for _ in range(12):  # more than the system's buffers take
                    first.driver._perform([engine.Send(link.id, bytes(FRAME_BYTES_MAX))])
                for _ in range(5):
                    await still_talk(first, second)

                def reason() -> list[str]:
                    return [e["reason"] for e in logs if e["event"] == "session_closed" and e["session"] == link.id]

                async def alive() -> None:
                    while not reason():
                        await guest.send(HEARTBEAT)
                        await asyncio.sleep(0.05)

                await asyncio.wait_for(alive(), 10)
            assert reason() == ["the peer read nothing for 0.5 s"]
        await still_talk(first, second)

    async def test_when_all_places_are_taken_only_known_peers_get_in(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        monkeypatch.setattr(driver, "SESSIONS_MAX", 2)
        newcomer = Author(VALIDATORS[2], seed=1)
        async with stranger(first, MALICE) as held, stranger(first, newcomer) as guest:
            await held.shake()
            with pytest.raises(RefusedByPeerError, match="there are 2 sessions already"):
                await guest.shake()
            async with stranger(first, MALICE) as back:
                await back.shake()
        await still_talk(first, second)

    async def test_own_dials_under_way_count_as_sessions(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        monkeypatch.setattr(driver, "SESSIONS_MAX", 2)
        assert first.driver._pairs.prove(bytes(32))
        async with stranger(first, MALICE) as guest:
            with pytest.raises(RefusedByPeerError, match="there are 2 sessions already"):
                await guest.shake()
        first.driver._pairs.proved(bytes(32))
        async with stranger(first, MALICE) as guest:
            await guest.shake()
        await still_talk(first, second)

    async def test_a_dial_that_finds_all_places_taken_meanwhile_is_broken_off(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest

        def crowded(peer: Peer) -> None:
            assert peer.node_key == second.node_key
            raise HandshakeError("others were faster")

        monkeypatch.setattr(first.driver, "_require_room", crowded)
        (link,) = first.driver._links.values()
        first.driver._end(link, Reason("to be dialled again", Code.SESSION_NOT_NEEDED))
        await until(lambda: "others were faster" in {row.get("last_error") for row in first.driver.status()["peers"]})
        assert not first.sessions

    async def test_a_peer_that_connects_without_end_is_banned(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.gossip.bans.OPENINGS_MAX", 3)
        for _ in range(4):
            async with stranger(honest[0], MALICE) as guest:
                await guest.shake()
        async with stranger(honest[0], MALICE) as guest:
            with pytest.raises(RefusedByPeerError, match="over 3 sessions in a row"):
                await guest.shake()
        await still_talk(*honest)


class TestObservers:
    """Who holds no permit may listen where the operator allows it, and takes no place and no voice from validators."""

    OBSERVER = Author("//Mallory")

    @pytest.fixture
    async def open_door(self, tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
        """Two daemons with a session between them; the first takes observers."""
        first, second = Node(tmp_path, VALIDATORS[0], observers=True), Node(tmp_path, VALIDATORS[1])
        await asyncio.gather(first.start(), second.start())
        first.dial(second)
        await until(lambda: first.session_with(second) and second.session_with(first))
        yield first, second
        await asyncio.gather(first.stop(), second.stop())

    async def test_it_is_sent_what_is_new_and_shown_as_what_it_is(self, open_door: tuple[Node, Node]) -> None:
        first, second = open_door
        async with stranger(first, self.OBSERVER) as guest:
            await guest.shake()
            await guest.send(frames.Link(frames.Mode.EVENTS).encode())
            await until(lambda: [row["link"] for row in first.sessions if row["observer"]] == ["eager"])
            await still_talk(first, second)
            frame = HEARTBEAT
            while frame == HEARTBEAT or not isinstance(frames.decode(frame), Events):
                frame = await guest.receive()
            rows = {row["hotkey"]: row["observer"] for row in first.sessions}
        assert rows == {self.OBSERVER.hotkey.address: True, second.author.hotkey.address: False}

    async def test_it_says_nothing_of_clocks_and_of_the_network_s_health(self, open_door: tuple[Node, Node]) -> None:
        first, second = open_door
        await second.stop()
        await until(lambda: not first.sessions)
        assert not first.driver.online()
        async with stranger(first, self.OBSERVER) as guest:
            await guest.shake()
            await guest.send(Digest(False, now_ms() + 40_000, HASH, HASH, HASH).encode())
            await until(lambda: first.sessions[0]["offset_ms"])
            assert first.driver.clock_offset_ms() is None
            assert first.driver.own_head_reports() == {}
            assert not first.driver.online()

    async def test_observers_are_bounded_apart_from_validators(
        self, open_door: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "OBSERVERS_MAX", 1)
        first, second = open_door
        async with stranger(first, self.OBSERVER) as guest, stranger(first, Author("//Trudy")) as late:
            await guest.shake()
            with pytest.raises(RefusedByPeerError, match="there are 1 observers already"):
                await late.shake()
            async with stranger(first, MALICE) as validator, stranger(first, self.OBSERVER) as back:
                await validator.shake()
                await back.shake()  # in the place of its own session
                assert first.driver.status()["observers"] == 1
        await still_talk(first, second)

    async def test_bans_of_observers_make_no_ban_of_a_validator_be_forgotten(
        self, open_door: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.gossip.bans.BANS_MAX", 1)
        first, _ = open_door
        for author in (MALICE, self.OBSERVER, Author("//Trudy")):
            async with stranger(first, author) as guest:
                await guest.shake()
                await guest.send(codec.pack([99]))
                await guest.closed()
        banned = {ban["hotkey"] for ban in first.driver.status()["bans"]}
        assert banned == {MALICE.hotkey.address, hotkey("//Trudy").address}

    async def test_who_comes_again_and_again_under_other_hotkeys_does_not_fill_the_log(
        self, open_door: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = open_door
        monkeypatch.setattr(first.driver, "_visitors", FewLines(4, 0.0001))
        with capture_logs() as lines:
            for number in range(6):
                async with stranger(first, Author(f"//Trudy{number}")) as guest:
                    await guest.shake()
            await until(lambda: not any(row["observer"] for row in first.sessions))
            async with stranger(first, MALICE) as guest:
                await guest.shake()
        sessions = [line for line in lines if line["event"] in {"session_opened", "session_closed"}]
        strangers = [line for line in sessions if line["peer"] != MALICE.hotkey.address]
        assert len(strangers) == 4
        assert len(sessions) > 4, "validators' are told all the same"
        await still_talk(first, second)

    async def test_whose_sessions_are_ended_under_other_hotkeys_again_and_again_do_not_fill_it_either(
        self, open_door: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, _ = open_door
        monkeypatch.setattr(first.driver, "_visitors", FewLines(1, 0.0001))
        monkeypatch.setattr(first.driver, "_ended_visitors", FewLines(2, 0.0001))
        with capture_logs() as lines:
            for number in range(6):
                async with stranger(first, Author(f"//Trudy{number}")) as guest:
                    await guest.shake()
                    await guest.send(codec.pack([99]))
                    await guest.closed()
            await until(lambda: not any(row["observer"] for row in first.sessions))
        told = [(line["event"], line.get("code")) for line in lines if line["event"].startswith("session_")]
        assert told == [("session_opened", None), *[("session_closed", Code.SESSION_PROTOCOL)] * 2]

    @pytest.mark.parametrize("how", ["politely", "by force"])
    async def test_that_one_went_by_itself_is_told_as_that(self, open_door: tuple[Node, Node], how: str) -> None:
        first, _ = open_door
        with capture_logs() as lines:
            async with stranger(first, self.OBSERVER) as guest:
                await guest.shake()
                await until(lambda: any(row["observer"] for row in first.sessions))
                if how == "politely":
                    await guest.socket.close(message=b"the peer closed its shop")
                else:
                    guest.socket.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
                await until(lambda: lines[-1:] and lines[-1]["event"] == "session_closed")
        assert lines[-1]["code"] in {Code.SESSION_CLOSED, Code.SESSION_LOST}
        if how == "politely":
            assert (lines[-1]["code"], lines[-1]["reason"]) == (
                Code.SESSION_CLOSED, "the peer closed: the peer closed its shop"
            )  # fmt: skip

    async def test_one_that_gets_a_permit_comes_back_as_a_validator(self, open_door: tuple[Node, Node]) -> None:
        first, _ = open_door
        async with stranger(first, self.OBSERVER) as guest:
            await guest.shake()
            stakes = {VALIDATORS[0]: 100, VALIDATORS[1]: 100, "//Mallory": 100}
            await first.database.set_electorate(electorate(200, NOW_MS + 1, stakes=stakes))
            assert "holds a validator permit now" in await guest.closed()
        async with stranger(first, self.OBSERVER) as guest:
            await guest.shake()
            assert not any(row["observer"] for row in first.sessions)


class TestClosedLogs:
    """A log that its hotkey has closed is nobody's any more; one that forked is talked to, and hears of it."""

    async def close(self, node: Node, author: Author) -> None:
        await node.database.receive_proofs([closing(author.hotkey, NETWORK.id, author.log, None)], now_ms())

    async def test_its_session_ends_and_its_dialler_is_told_why(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await until(lambda: first.sees_all_of(second))
        second.dial()  # only first dials
        await self.close(first, second.author)
        await until(lambda: not first.sessions)
        async with stranger(first, second.author) as guest:
            with pytest.raises(RefusedByPeerError, match=f"the log {second.author.log} is closed: "):
                await guest.shake()

    @pytest.mark.usefixtures("eager")
    async def test_it_is_not_taken_for_a_peer_that_was_dialled(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await until(lambda: first.sees_all_of(second))
        await self.close(first, second.author)
        await until(lambda: any("is closed" in (row.get("last_error") or "") for row in first.driver.status()["peers"]))
        (row,) = first.driver.status()["peers"]
        assert row["last_error"].startswith(f"the log {second.author.log} is closed: {second.author.hotkey.address}")

    async def test_one_that_forked_keeps_its_session(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await second.post("gpu-1")
        await until(lambda: first.sees_all_of(second))
        evidence = await forked(second)
        await first.database.receive_proofs([evidence], now_ms())
        await until(lambda: second.database.ledger.foreign_own is not None)
        assert first.session_with(second)


async def forked(node: Node) -> Evidence:
    """Evidence that a node's log has two events at its head, as a clone of its disk would make it."""
    held = node.database.state.logs[node.author.log]
    events = [Event.decode(wire) for wire in await node.database.read_log(held.id, 0, 1 << 20)]
    twin = Author(VALIDATORS[1])
    assert twin.log == held.id
    twin.head = Head(held.head.seq - 1, events[-1].previous)
    twin.clock.observe(events[-2].hlc)
    evidence = rivalry(events[-1], twin.verdict(bytes(32), at_ms=now_ms()))
    assert evidence is not None
    return evidence


class TestBranches:
    """Daemons that hold different branches of a log come to the same in seconds."""

    @pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (200, 3), (3, 200)])
    async def test_two_daemons_find_the_fork(self, pair: tuple[Node, Node], ours: int, theirs: int) -> None:
        first, second = pair
        author = Author(VALIDATORS[2])
        author.delegate()
        shared = [*author.events, *[author.verdict(bytes([number] * 32)) for number in range(9)]]
        twin = clone(author)
        branches = (
            [author.verdict(number.to_bytes(32, "big")) for number in range(ours)],
            [twin.verdict(number.to_bytes(32, "big"), "failed") for number in range(theirs)],
        )
        for node, branch in zip(pair, branches, strict=True):
            await node.database.receive([*shared, *branch], now_ms())
        begin = time.monotonic()
        first.dial(second)
        await until(lambda: first.sees_all_of(second) and first.database.state.ends)
        assert time.monotonic() - begin < 5.0
        for node in pair:
            assert node.database.state.ends[author.log].fork == 10
            assert node.database.state.heads[author.log].seq == 9
        assert first.database.state.state_root == second.database.state.state_root
        await still_talk(first, second)

    async def test_an_end_is_passed_on_at_once(self, nodes: list[Node]) -> None:
        first, middle, last = nodes
        middle.dial(first, last)
        await until(lambda: len(middle.sessions) == 2 and first.sees_all_of(middle, last))
        author = Author(VALIDATORS[2], seed=5)
        author.delegate()
        await first.database.receive(author.events, now_ms())
        await until(lambda: all(author.log in node.database.state.logs for node in nodes))
        await first.database.receive_proofs([closing(author.hotkey, NETWORK.id, author.log, None)], now_ms())
        await until(lambda: all(author.log in node.database.state.ends for node in nodes))


class TestAddresses:
    """A newcomer that reaches one daemon is told where the others are."""

    async def test_who_has_a_session_with_one_knows_all(self, nodes: list[Node]) -> None:
        first, middle, last = nodes
        for node in nodes:
            said = delegate(
                node.author.hotkey, NETWORK.id, node.author.log, url=node.url, not_before=NOW_S - 60,
                not_after=NOW_S + 3_600,
            )  # fmt: skip
            node.delegation = node.author.log, said
        middle.dial(first)
        await until(lambda: middle.session_with(first))
        last.know({}, [middle.url])
        await until(lambda: len(last.driver.addresses()) == 2)
        assert last.driver.addresses() == {first.hotkey: first.url, middle.hotkey: middle.url}
        last.know(last.driver.addresses())
        await until(lambda: last.session_with(first))


class TestAnotherKey:
    """A daemon that changes its node key stops one driver and starts another on the same store and server."""

    @pytest.mark.usefixtures("eager")
    async def test_it_meets_its_peers_again_under_the_new_key(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        await first.post("gpu-1")
        await until(lambda: first.sees_all_of(second))
        old = first.driver
        await old.stop()
        async with aiohttp.ClientSession() as client, client.get(first.url + driver.PATH) as answer:
            assert answer.status == 503
        first.author = Author(VALIDATORS[0], seed=1)
        first.delegation = first.author.log, first.author.delegation()
        first.driver = first.new_driver()
        await first.driver.start()
        first.dial(second)
        await until(lambda: first.session_with(second) and second.session_with(first))
        assert old.status()["sessions"] == 0
        await still_talk(second, first)
        await until(lambda: len(second.sessions) == 1)

    async def test_a_handshake_that_begins_while_it_stops_is_ended(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, _ = honest
        prepare, prepared, stopped = web.WebSocketResponse.prepare, asyncio.Event(), asyncio.Event()

        async def slow(socket: web.WebSocketResponse, request: web.BaseRequest) -> Any:
            found = await prepare(socket, request)
            prepared.set()
            await stopped.wait()
            return found

        monkeypatch.setattr(web.WebSocketResponse, "prepare", slow)
        async with stranger(first, MALICE) as guest:
            await prepared.wait()
            await first.driver.stop()
            stopped.set()
            assert await guest.closed() == "this daemon stops"
        assert not first.driver._tasks


class TestOwnFaults:
    """A bug of ours that a peer runs into costs one session, and is logged as a bug."""

    async def test_in_the_engine(self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = honest
        received = first.driver._engine.received

        def broken(session: int, frame: bytes, at_ms: int) -> list[Any]:
            return [1 // 0] if frame == b"\0" else received(session, frame, at_ms)

        monkeypatch.setattr(first.driver._engine, "received", broken)
        with capture_logs() as logs:
            async with stranger(first, MALICE) as guest:
                await guest.shake()
                await guest.send(b"\0")
                assert await guest.closed() == "an error of this daemon's; its log has it"
        (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert entry["event"] == "session_failed"
        assert first.driver.status()["bans"] == []
        await still_talk(first, second)

    async def test_in_a_tick(self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = pair
        tick, failures = first.driver._engine.tick, 1

        def broken(at_ms: int) -> list[Any]:
            nonlocal failures
            failures -= 1
            return [1 // 0] if failures >= 0 else tick(at_ms)

        monkeypatch.setattr(first.driver._engine, "tick", broken)
        with capture_logs() as logs:
            await until(lambda: failures < 0)
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["tick_failed"]
        first.dial(second)
        await until(lambda: first.session_with(second))


class TestStop:
    """A driver that stops leaves nothing behind."""

    async def test_it_stops_at_once_whatever_goes_on(self, tmp_path: Path) -> None:
        before = asyncio.all_tasks()
        first, second = Node(tmp_path, VALIDATORS[0]), Node(tmp_path, VALIDATORS[1])
        await first.start()
        await second.start()
        first.know({second.hotkey: second.url}, ["http://127.0.0.1:1"])
        await until(lambda: first.session_with(second))
        async with stranger(first, MALICE) as idle, stranger(first, MALICE) as guest:
            await idle.socket.send_bytes(idle.initiator().hello)
            await guest.shake()
            begin = time.monotonic()
            await first.driver.stop()
            assert time.monotonic() - begin < 2.0
            assert first.driver.status()["sessions"] == 0
            assert first.driver.status()["handshakes"] == 0
        await until(lambda: not second.sessions)
        async with aiohttp.ClientSession() as client, client.get(first.url + driver.PATH) as answer:
            assert answer.status == 503
        await first.stop()
        await second.stop()
        await until(lambda: asyncio.all_tasks() == before)

    async def test_events_that_were_being_stored_are_kept(
        self, honest: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = honest
        await until(lambda: first.sees_all_of(second))
        receive, begun, released = second.database.receive, asyncio.Event(), asyncio.Event()

        async def slow(events: Sequence[Event], at_ms: int) -> list[Outcome]:
            begun.set()
            await released.wait()
            return await receive(events, at_ms)

        monkeypatch.setattr(second.database, "receive", slow)
        await first.post("gpu-1")
        await asyncio.wait_for(begun.wait(), 5)
        await first.driver.stop()
        await until(lambda: not second.sessions)
        released.set()
        await until(lambda: second.database.state.nodes == 1)


class TestCheckedAhead:
    """A daemon that much comes to has a process check signatures beside it (``store.ahead``)."""

    @pytest.mark.parametrize("dies", [False, True])
    async def test_a_newcomer_has_everything_whatever_becomes_of_the_process(
        self, dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ahead, "cores", lambda: 2)
        process = CheckerProcess()
        old, new = Node(tmp_path, VALIDATORS[0]), Node(tmp_path, VALIDATORS[1], checker=process)
        await old.start()
        await new.start()
        author = Author(VALIDATORS[2])
        author.delegate()
        for number in range(6_000):
            author.verdict(number.to_bytes(32, "big"), "failed")
        for first in range(0, len(author.events), 512):
            await old.database.receive(author.events[first : first + 512], now_ms())
        verify_node.cache_clear()
        with capture_logs() as logs:
            new.dial(old)
            await until(lambda: process.pid is not None, 60)
            if dies and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
            await until(lambda: new.sees_all_of(old), 60)
        assert new.events == old.events
        failures = [line for line in logs if line["event"] == "signature_checker_failed"]
        assert len(failures) == (1 if dies else 0)
        assert (process.pid is None) is dies
        assert (new.database._ahead is not None and new.database._ahead._checked > 2_000) is not dies
        await new.stop()
        await old.stop()
        assert process.pid is None
