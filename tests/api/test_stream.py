"""GET /nodes/events: who hears it knows what one who polls knows, whatever happens to the connection."""

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import aiohttp
import pytest
from aiohttp import ClientResponse, web
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.api import listener as listener_module
from p2pnodes.api import server as api_server
from p2pnodes.api import stream
from p2pnodes.api.settings import ApiSettings
from p2pnodes.api.stream import NodeEvents, Ring
from p2pnodes.miner.sse import SseEvent, SseParser
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import FAILED, VERIFIED, AddPayload
from p2pnodes.model.requests import request_id, sign_add, task_id_of
from p2pnodes.store.changes import Changes, Gone
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.snapshots import NodeRow, Part
from p2pnodes.store.snapshots import part as snapshot
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, BOB, NETWORK, Client, Clock, Miner, claim_id_of, encode, gpu, place, server, vote

ALICE_KEY, BOB_KEY = ALICE.public_key, BOB.public_key
NOTHING = Changes()

GONE_S_MAX = 10.0
"""Bound of seeing that a client is gone: below KEEP_ALIVE_S, after which one would look anyhow."""


class Rows(list[NodeRow]):
    """Rows of which one can tell whether somebody holds them."""


def told(ring: Ring, position: int) -> list[tuple[int, Any]]:
    """All that a listener at a position is told."""
    found: list[tuple[int, Any]] = []
    while position < ring.head:
        changes, position = ring.after(position, 3)
        found += changes
    return found


class TestRing:
    """The latest changes by position: resumed from without loss, or not at all."""

    def test_changes_are_told_in_order_with_their_seqs(self) -> None:
        ring = Ring("e", 8)
        begin = ring.head
        ring.extend(Changes((Gone("a", ALICE_KEY),), ("a", "b"), (7,)))
        assert told(ring, begin) == [(2, Gone("a", ALICE_KEY)), (3, "a"), (4, "b"), (5, 7)]
        assert told(ring, 4) == [(5, 7)]
        assert told(ring, ring.head) == []

    def test_what_changed_again_is_told_once_and_last(self) -> None:
        ring = Ring("e", 8)
        begin = ring.head
        ring.extend(Changes(nodes=("a",), claims=(1,)))
        ring.extend(Changes(nodes=("b", "a")))
        assert told(ring, begin) == [(3, 1), (4, "b"), (5, "a")]

    def test_a_loss_is_always_told(self) -> None:
        ring = Ring("e", 8)
        begin = ring.head
        for miner in (ALICE_KEY, BOB_KEY):
            ring.extend(Changes((Gone("a", miner),), ("a",)))
        assert told(ring, begin) == [(2, Gone("a", ALICE_KEY)), (4, Gone("a", BOB_KEY)), (5, "a")]

    def test_a_position_holds_for_as_long_as_all_behind_it_is_kept(self) -> None:
        ring = Ring("e", 4)
        begin = ring.head
        ring.extend(Changes(nodes=("a", "b", "c", "d")))
        assert ring.holds(begin)
        assert len(told(ring, begin)) == 4
        ring.extend(Changes(nodes=("a",)))
        assert not ring.holds(begin)
        assert told(ring, begin + 1) == [(3, "b"), (4, "c"), (5, "d"), (6, "a")]
        assert not ring.holds(ring.head + 1)

    @pytest.mark.parametrize("many", [Changes(too_many=True), Changes(nodes=tuple("abcde"))])
    def test_too_many_changes_at_once_leave_no_position_but_the_latest(self, many: Changes) -> None:
        ring = Ring("e", 4)
        ring.extend(Changes(nodes=("a",)))
        before = ring.head
        ring.extend(many)
        assert not ring.holds(before)
        assert ring.holds(ring.head)
        assert told(ring, ring.head) == []
        ring.extend(Changes(nodes=("z",)))
        assert [change for _, change in told(ring, ring.head - 1)] == ["z"]

    def test_ids_come_back_as_positions(self) -> None:
        ring = Ring("e", 4)
        ring.extend(Changes(nodes=("a", "b")))
        for position in range(1, ring.head + 1):
            assert ring.resume(ring.event_id(position)) == position

    @pytest.mark.parametrize(
        "event_id",
        [
            "",
            "e",
            "e-",
            "e-0",
            "e-99",
            "e--1",
            "e-+1",
            "e-1 ",
            "f-1",
            "-1",
            "1",
            "e-e-1",
            "e-\u0661",
            "e-" + "9" * 5000,
            "\0",
        ],
    )
    def test_what_is_no_place_to_resume_from_begins_anew(self, event_id: str) -> None:
        ring = Ring("e", 4)
        ring.extend(Changes(nodes=("a", "b")))
        assert ring.resume(event_id) is None

    def test_an_id_of_another_process_begins_anew(self) -> None:
        assert Ring("e", 4).resume(Ring("f", 4).event_id(1)) is None

    @given(
        st.lists(st.tuples(st.lists(st.sampled_from("abcdefgh"), max_size=5, unique=True), st.booleans()), max_size=30),
        st.integers(1, 12),
    )
    def test_a_listener_that_holds_is_told_all_that_changed_since(
        self, commits: list[tuple[list[str], bool]], size: int
    ) -> None:
        ring = Ring("e", size)
        since: dict[int, set[str]] = {ring.head: set()}
        for nodes, too_many in commits:
            ring.extend(Changes(too_many=True) if too_many else Changes(nodes=tuple(nodes)))
            since = {} if too_many else {position: known | set(nodes) for position, known in since.items()}
            since[ring.head] = set()
        assert len(ring._last) <= size
        for position, changed in since.items():
            if ring.holds(position):
                heard = [change for _, change in told(ring, position)]
                assert set(heard) == changed
                assert len(heard) == len(changed)
            else:
                assert ring.head - position > size or position < ring.begin


class Heard(NamedTuple):
    """An event with its decoded data."""

    type: str
    data: dict[str, Any]
    id: str


class Listener:
    """A client of the stream: what it heard, and what it knows by it."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self.events: list[Heard] = []
        self.nodes: dict[str, dict[str, Any]] = {}
        self.claims: dict[str, tuple[str, str | None]] = {}
        self.raw = b""
        self._parser = SseParser()
        self._unread: list[SseEvent] = []

    def know(self, other: "Listener") -> Self:
        """Begin with what an earlier connection told."""
        self.nodes, self.claims = dict(other.nodes), dict(other.claims)
        return self

    async def next(self) -> Heard:
        async with asyncio.timeout(20):
            while not self._unread:
                chunk = await self.response.content.readany()
                if not chunk:
                    raise EOFError
                self.raw += chunk
                self._unread += self._parser.feed(chunk)
        kind, data, event_id = self._unread.pop(0)
        heard = Heard(kind, json.loads(data), event_id)
        self.events.append(heard)
        self._learn(heard)
        return heard

    def _learn(self, heard: Heard) -> None:
        match heard.type:
            case "reset":
                self.nodes, self.claims = {}, {}
            case "node":
                self.nodes[heard.data["uuid"]] = heard.data
            case "node_deleted":
                self.nodes.pop(heard.data["uuid"], None)
            case "claim":
                self.claims[heard.data["task_id"]] = heard.data["status"], heard.data["detail"]

    async def until(self, reached: Callable[[], Any]) -> None:
        while not reached():
            await self.next()

    async def snapshot(self) -> Self:
        while (await self.next()).type != "snapshot_end":
            pass
        return self

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def last_id(self) -> str:
        return self.events[-1].id


@asynccontextmanager
async def listen(client: Client, query: str = "", last_event_id: str | None = None) -> AsyncIterator[Listener]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with client.session.get(f"/nodes/events{query}", headers=headers) as response:
        assert response.status == 200
        yield Listener(response)


def streams(db: Database) -> int:
    """How many streams the interface over a database serves."""
    events = db.on_commit.__self__  # type: ignore[attr-defined]
    assert isinstance(events, NodeEvents)
    return events._streams.taken


async def agrees(listener: Listener, miners: Collection[Miner]) -> None:
    """What the listener knows of tasks is what their miners' polls answer."""
    for task_id, (status, detail) in listener.claims.items():
        (miner,) = [m for m in miners if m.hotkey.address == task_id.split("::")[0]]
        answer = (await miner.status(task_id)).body
        assert (answer["status"], answer.get("detail")) == (status, detail)


class TestSnapshot:
    """A stream that cannot be resumed begins with all that there is."""

    async def test_an_empty_inventory_is_reset_and_end(self, client: Client) -> None:
        async with listen(client) as listener:
            await listener.snapshot()
            assert listener.types == ["reset", "snapshot_end"]
            assert [event.data for event in listener.events] == [{}, {}]
            assert listener.raw.startswith(b"retry: 3000\n\n")
            assert listener.response.headers["Content-Type"] == "text/event-stream"
            assert listener.response.headers["Cache-Control"] == "no-store"
            assert listener.response.headers["X-Accel-Buffering"] == "no"

    async def test_it_tells_every_gpu_and_every_claim(
        self, client: Client, alice: Miner, bob: Miner, db: Database, clock: Clock
    ) -> None:
        task = (await alice.post(server(2))).body["task_id"]
        other = (await bob.post(server(1, first=20))).body["task_id"]
        claim_id = await claim_id_of(db, task)
        await vote(db, clock, claim_id, VERIFIED)
        await vote(db, clock, await claim_id_of(db, other, BOB), FAILED, "too slow")
        await place(db, clock, claim_id, gpu(0)["uuid"], public=True)
        await place(db, clock, claim_id, gpu(1)["uuid"], public=False)
        async with listen(client) as listener:
            await listener.snapshot()
        assert set(listener.nodes) == {gpu(index)["uuid"] for index in (0, 1, 20)}
        await agrees(listener, [alice, bob])
        assert listener.claims == {task: ("verified", None), other: ("failed", "too slow")}
        assert listener.nodes[gpu(0)["uuid"]] == {
            "uuid": gpu(0)["uuid"],
            "hotkey": ALICE.address,
            "status": "verified",
            "gpu_identifier": "h100_sxm",
            "claim_id": claim_id.hex(),
            "task_id": task,
            "verified_at": "2027-01-15T08:00:00.000000+00:00",
            "detail": None,
            "chute": {
                "username": "carol", "name": "chat", "chute_id": "chute-1", "verified": True,
                "instance_id": "instance-1",
            },
        }  # fmt: skip
        masked = listener.nodes[gpu(1)["uuid"]]["chute"]
        assert (masked["username"], masked["name"]) == (None, "[private chute]")
        failed = listener.nodes[gpu(20)["uuid"]]
        assert (failed["status"], failed["detail"], failed["verified_at"]) == ("failed", "too slow", None)
        assert gpu(0)["verification_host"].encode() not in listener.raw
        assert b"verification_port" not in listener.raw

    async def test_of_one_miner_it_tells_his_own(self, client: Client, alice: Miner, bob: Miner) -> None:
        task = (await alice.post(server(1))).body["task_id"]
        await bob.post(server(1, first=20))
        async with listen(client, f"?hotkey={ALICE.address}") as listener:
            await listener.snapshot()
        assert set(listener.nodes) == {gpu(0)["uuid"]}
        assert set(listener.claims) == {task}

    async def test_a_claim_without_a_gpu_is_told_for_a_day(self, client: Client, alice: Miner, clock: Clock) -> None:
        task = (await alice.post(server(1))).body["task_id"]
        await alice.delete(gpu(0)["uuid"])
        async with listen(client) as listener:
            await listener.snapshot()
            assert set(listener.claims) == {task}
        clock.s += 86_401
        async with listen(client) as listener:
            await listener.snapshot()
            assert listener.types == ["reset", "snapshot_end"]

    async def test_a_large_one_comes_in_parts(
        self, client: Client, alice: Miner, monkeypatch: pytest.MonkeyPatch, db: Database
    ) -> None:
        for first in range(0, 700, 10):
            assert (await alice.post(server(10, first=first))).status == 202
        sizes: list[int] = []
        send_part = api_server.send_part

        async def watched(request: Any, response: Any, data: bytes) -> None:
            sizes.append(len(data))
            await send_part(request, response, data)

        monkeypatch.setattr(listener_module, "send_part", watched)
        async with listen(client) as listener:
            await listener.snapshot()
        assert (len(listener.nodes), len(listener.claims)) == (700, 70)
        assert len(sizes) >= 4
        assert max(sizes) < sum(sizes) * 0.95

    async def test_what_changes_while_it_is_sent_is_told_behind_it(
        self, client: Client, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await alice.post(server(2))
        read = db.snapshot_part
        gate, inside = asyncio.Event(), asyncio.Event()

        async def gated(after: int, miner: bytes | None) -> Any:
            part = await read(after, miner)
            inside.set()
            await gate.wait()
            return part

        monkeypatch.setattr(db, "snapshot_part", gated)
        async with listen(client) as listener:
            await inside.wait()
            await alice.delete(gpu(0)["uuid"])
            gate.set()
            await listener.snapshot()
            assert set(listener.nodes) == {gpu(0)["uuid"], gpu(1)["uuid"]}
            await listener.until(lambda: "node_deleted" in listener.types)
            assert set(listener.nodes) == {gpu(1)["uuid"]}


class TestChanges:
    """What happens is told as it happens."""

    async def test_a_registration_its_verdict_and_its_end(
        self, client: Client, alice: Miner, db: Database, clock: Clock
    ) -> None:
        async with listen(client) as listener:
            await listener.snapshot()
            task = (await alice.post(server(1))).body["task_id"]
            await listener.until(lambda: listener.claims == {task: ("pending", None)})
            assert listener.nodes[gpu(0)["uuid"]]["status"] == "pending"
            await vote(db, clock, await claim_id_of(db, task), VERIFIED)
            await listener.until(lambda: listener.claims == {task: ("verified", None)})
            assert listener.nodes[gpu(0)["uuid"]]["status"] == "verified"
            await place(db, clock, await claim_id_of(db, task), gpu(0)["uuid"], public=True)
            await listener.until(lambda: listener.nodes[gpu(0)["uuid"]]["chute"])
            await alice.delete(gpu(0)["uuid"])
            await listener.until(lambda: not listener.nodes)
            deleted = next(event for event in listener.events if event.type == "node_deleted")
            assert deleted.data == {"uuid": gpu(0)["uuid"], "hotkey": ALICE.address}
            assert len({event.id for event in listener.events[1:]}) == len(listener.events) - 1

    async def test_a_task_that_fails_by_anothers_votes_is_told(
        self, client: Client, alice: Miner, bob: Miner, db: Database, clock: Clock
    ) -> None:
        mine = (await alice.post(server(1))).body["task_id"]
        clock.s += 1
        theirs = (await bob.post(server(1))).body["task_id"]
        async with listen(client, f"?hotkey={ALICE.address}") as listener:
            await listener.snapshot()
            assert set(listener.nodes) == {gpu(0)["uuid"]}
            await vote(db, clock, await claim_id_of(db, theirs, BOB), VERIFIED)
            await listener.until(lambda: listener.claims[mine][0] == "failed" and not listener.nodes)
            assert "another hotkey" in str(listener.claims[mine][1])
            await agrees(listener, [alice])
            assert all(BOB.address not in json.dumps(event.data) for event in listener.events)

    async def test_a_later_task_of_the_same_miner_follows_the_first(
        self, client: Client, alice: Miner, db: Database, clock: Clock
    ) -> None:
        """Two daemons took the same server: the vote on one claim answers for both."""
        first = (await alice.post(server(1))).body["task_id"]
        clock.s += 1
        body = encode(server(1))
        again = sign_add(ALICE, int(clock()), body)

        def append(ledger: Ledger) -> None:  # as the other daemon did
            ledger.append(lambda _: AddPayload(again, ledger.weights.electorate.block), int(clock() * 1000))

        await db.write(append)
        second = task_id_of(ALICE.address, request_id(NETWORK.id, again))
        async with listen(client) as listener:
            await listener.snapshot()
            assert set(listener.claims) == {first, second}
            await vote(db, clock, await claim_id_of(db, first), FAILED, "too slow")
            await listener.until(lambda: listener.claims == dict.fromkeys((first, second), ("failed", "too slow")))
            await agrees(listener, [alice])

    async def test_listeners_hear_the_same_and_one_read_serves_them(
        self, client: Client, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = 0
        changed = db.changed

        async def counted(uuids: Collection[str], keys: Collection[int]) -> Any:
            nonlocal reads
            reads += 1
            return await changed(uuids, keys)

        monkeypatch.setattr(db, "changed", counted)
        async with listen(client) as one, listen(client) as two, listen(client, f"?hotkey={BOB.address}") as other:
            for listener in (one, two, other):
                await listener.snapshot()
            await alice.post(server(3))
            for listener in (one, two):
                await listener.until(lambda: listener.claims)  # noqa: B023 - awaited here
            assert one.events[2:] == two.events[2:]
            assert reads == 1
            assert other.types == ["reset", "snapshot_end"]

    async def test_a_row_that_is_gone_before_it_is_read_is_told_by_its_end_alone(
        self, client: Client, alice: Miner, db: Database
    ) -> None:
        async with listen(client) as listener:
            await listener.snapshot()
            await asyncio.gather(*(alice.post(server(1, first=n)) for n in range(10)))
            await asyncio.gather(*(alice.delete(gpu(n)["uuid"]) for n in range(10)))
            await alice.post(server(1, first=30))
            await listener.until(lambda: gpu(30)["uuid"] in listener.nodes)
            assert set(listener.nodes) == {gpu(30)["uuid"]}


class TestResume:
    """Last-Event-ID of this process goes on where it was; any other begins anew."""

    async def test_nothing_is_lost_and_nothing_told_twice(self, client: Client, alice: Miner) -> None:
        async with listen(client) as before:
            await before.snapshot()
            await alice.post(server(2))
            await before.until(lambda: before.claims)
        await alice.delete(gpu(0)["uuid"])
        await alice.post(server(1, first=20))
        async with listen(client, last_event_id=before.last_id) as after:
            after.know(before)
            await after.until(lambda: len(after.claims) == 2)
            assert set(after.nodes) == {gpu(1)["uuid"], gpu(20)["uuid"]}
            assert "reset" not in after.types
            deleted_task = after.events[0]
            assert deleted_task.type == "node_deleted"
            heard = [(event.type, event.data.get("uuid", event.data.get("task_id"))) for event in after.events]
            assert len(heard) == len(set(heard))
            assert gpu(1)["uuid"] not in {key for _, key in heard}

    async def test_a_client_that_stops_after_any_event_resumes_to_the_same(self, client: Client, alice: Miner) -> None:
        async with listen(client) as whole:
            await whole.snapshot()
            at = len(whole.events)
            await alice.post(server(2))
            await alice.delete(gpu(0)["uuid"])
            await alice.post(server(1, first=20))
            await whole.until(lambda: gpu(20)["uuid"] in whole.nodes and len(whole.claims) == 2)
        for stop in range(at - 1, len(whole.events)):
            known = Listener(whole.response)
            for event in whole.events[: stop + 1]:
                known._learn(event)
            async with listen(client, f"?last_event_id={whole.events[stop].id}") as again:
                again.know(known)
                await again.until(lambda: again.nodes == whole.nodes and again.claims == whole.claims)
                assert "reset" not in again.types

    async def test_the_header_goes_before_the_parameter(self, client: Client, alice: Miner) -> None:
        async with listen(client) as first:
            await first.snapshot()
        await alice.post(server(1))
        async with listen(client, "?last_event_id=nonsense", first.last_id) as second:
            assert (await second.next()).type == "node"
        async with listen(client, f"?last_event_id={first.last_id}", "nonsense") as third:
            assert (await third.next()).type == "reset"

    async def test_an_id_within_a_snapshot_begins_anew(self, client: Client, alice: Miner) -> None:
        await alice.post(server(1))
        async with listen(client) as listener:
            await listener.snapshot()
        inside = {event.id for event in listener.events[:-1]}
        assert len(inside) == 1
        async with listen(client, last_event_id=inside.pop()) as again:
            assert (await again.next()).type == "reset"

    async def test_another_daemon_begins_anew(self, client: Client, make_client: MakeClient) -> None:
        async with listen(client) as listener:
            await listener.snapshot()
        async with listen(await make_client(), last_event_id=listener.last_id) as other:
            assert (await other.next()).type == "reset"

    async def test_one_whom_nothing_concerns_stays_resumable(
        self, client: Client, alice: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 0.05)
        async with listen(client, f"?hotkey={BOB.address}") as listener:
            await listener.snapshot()
            before = listener.last_id
            await alice.post(server(1))
            raw = b""
            async with asyncio.timeout(20):
                while before.encode() in raw[-60:] or not raw.endswith(b"\n\n"):
                    raw += await listener.response.content.readany()
        assert b": keep-alive\nid: " in raw
        last_id = raw.rstrip().rpartition(b"id: ")[2].decode()
        assert last_id != before
        async with listen(client, f"?hotkey={BOB.address}", last_id) as again:
            assert b": keep-alive" in await again.response.content.readuntil(b"keep-alive")


class TestBounds:
    """Listeners are bounded in number, in what they cost, and in how long they may not read."""

    async def test_silence_is_broken_by_comments(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 0.02)
        async with listen(client) as listener:
            await listener.snapshot()
            for _ in range(3):
                await listener.response.content.readuntil(b": keep-alive\n")

    async def test_silence_within_a_snapshot_is_broken_by_comments_that_are_no_place_to_resume_from(
        self, client: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Much history, and nothing of it is told: parts are empty for as long as it takes to look through them."""
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 0.0)
        history = [Part([], [], after) for after in (64, 128, None)]

        async def read(*_: Any) -> Part:
            return history.pop(0)

        monkeypatch.setattr(db, "snapshot_part", read)
        async with listen(client) as listener:
            await listener.response.content.readuntil(b"event: reset\ndata: {}\n\n")
            told = await listener.response.content.readuntil(b"event: snapshot_end\n")
        assert told.startswith(b": keep-alive\n\n" * 3 + b"id: ")

    async def test_comments_come_also_while_others_are_busy(
        self, client: Client, alice: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What concerns somebody else does not count as a word to this listener."""
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 0.3)
        monkeypatch.setattr(listener_module, "GATHER_S", 0.01)
        done = False

        async def be_busy() -> None:
            number = 0
            while not done:
                await alice.post(server(1, first=number))
                number += 1

        busy = asyncio.create_task(be_busy())
        async with listen(client, f"?hotkey={BOB.address}") as listener:
            await listener.snapshot()
            async with asyncio.timeout(20):
                for _ in range(2):
                    await listener.response.content.readuntil(b": keep-alive\n")
        done = True
        await busy

    async def test_more_changes_than_the_ring_holds_begin_anew(
        self, make_client: MakeClient, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "RING_SIZE", 8)
        client = await make_client()
        async with listen(client) as listener:
            await listener.snapshot()
            await alice.post(server(10))
            await listener.snapshot()
            assert listener.types.count("reset") == 2
            assert len(listener.nodes) == 10
            await alice.delete(gpu(0)["uuid"])
            await listener.until(lambda: len(listener.nodes) == 9)
            assert listener.types.count("reset") == 2

    async def test_one_that_falls_behind_the_ring_is_disconnected_and_begins_anew(
        self, make_client: MakeClient, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "RING_SIZE", 8)
        client = await make_client()
        gate = asyncio.Event()
        send_part = api_server.send_part

        async def slow(request: Any, response: Any, data: bytes) -> None:
            await send_part(request, response, data)
            if b"event: node\n" in data:
                await gate.wait()

        monkeypatch.setattr(listener_module, "send_part", slow)
        async with listen(client) as listener:
            await listener.snapshot()
            for first in range(10):
                await alice.post(server(1, first=first))
            gate.set()
            with pytest.raises((EOFError, aiohttp.ClientError)):
                await listener.until(lambda: False)
        async with listen(client, last_event_id=listener.last_id) as again:
            await again.snapshot()
            assert again.types[0] == "reset"
            assert len(again.nodes) == 10

    async def test_one_that_does_not_read_is_disconnected(
        self, client: Client, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def never(*_: Any) -> None:
            await asyncio.Event().wait()

        async with listen(client) as listener:
            await listener.snapshot()
            monkeypatch.setattr(api_server, "STALLED_S", 0.01)
            monkeypatch.setattr(web.StreamResponse, "write", never)  # as with a full buffer that nobody empties
            await alice.post(server(1))
            with pytest.raises(aiohttp.ClientError):
                await listener.next()
        async with asyncio.timeout(20):
            while streams(db):
                await asyncio.sleep(0.01)

    async def test_one_that_waits_for_its_next_part_holds_no_rows(
        self, client: Client, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Hundreds may wait for their turn at the database, or not read: the rows are larger than what is sent."""
        for first in range(3):
            await alice.post(server(1, first=first))
        read: list[weakref.ref[Rows]] = []
        held: list[int] = []

        async def one_claim(after: int, miner: bytes | None) -> Part:
            held.append(sum(rows() is not None for rows in read))
            part = await db.read_weighed(lambda facts, weights: snapshot(facts, after, miner, 0, weights, limit=1))
            rows = Rows(part.rows)
            read.append(weakref.ref(rows))
            return part._replace(rows=rows)

        monkeypatch.setattr(db, "snapshot_part", one_claim)
        async with listen(client) as listener:
            await listener.snapshot()
            assert len(listener.nodes) == 3
        assert held == [0] * 4

    async def test_one_that_left_has_no_place_any_more(
        self, client: Client, db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Though nothing happens that it would be told of: who reconnects often must not be refused for it."""
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 3600.0)
        for _ in range(3):
            async with listen(client, f"?hotkey={ALICE.address}") as listener:
                await listener.snapshot()
                assert streams(db) == 1
            async with asyncio.timeout(GONE_S_MAX):
                while streams(db):
                    await asyncio.sleep(0.001)
        assert caplog.records == []

    async def test_streams_of_one_address_are_bounded(
        self, client: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "STREAMS_PER_ADDRESS_MAX", 2)
        async with listen(client) as one, listen(client) as two:
            await one.snapshot()
            await two.snapshot()
            async with client.session.get("/nodes/events") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (429, "30")
                assert "streams of this address" in (await refused.json())["detail"]
        async with asyncio.timeout(GONE_S_MAX):
            while streams(db):
                await asyncio.sleep(0.01)
        async with listen(client) as again:
            await again.snapshot()

    async def test_streams_are_bounded_over_all(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "STREAMS_MAX", 1)
        async with listen(client) as one:
            await one.snapshot()
            async with client.session.get("/nodes/events") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "30")

    async def test_connecting_counts_against_the_addresss_limit(self, make_client: MakeClient) -> None:
        client = await make_client(ApiSettings(address_rate=0.1, address_burst=1))
        async with listen(client) as listener:
            await listener.snapshot()
        async with client.session.get("/nodes/events") as refused:
            assert refused.status == 429

    async def test_rendered_events_are_bounded(
        self, client: Client, alice: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "RENDERED_MAX", 5)
        async with listen(client) as listener:
            await listener.snapshot()
            for first in range(0, 40, 10):
                await alice.post(server(10, first=first))
            await listener.until(lambda: len(listener.claims) == 4)
            assert len(listener.nodes) == 40
        async with listen(client, last_event_id=listener.events[1].id) as again:
            await again.until(lambda: len(again.claims) == 4)
            assert again.nodes == listener.nodes


class TestAnswers:
    """Refusals before the stream, and its end."""

    @pytest.mark.parametrize("hotkey", ["x", "5" * 48, "5" * 5000, "%00", "%F0%9F%92%A9"])
    async def test_a_hotkey_that_is_none_is_422(self, alice: Miner, hotkey: str) -> None:
        answer = await alice.get(f"/nodes/events?hotkey={hotkey}")
        assert answer.status == 422
        assert answer.detail[0]["loc"] == ["query", "hotkey"]
        assert answer.detail[0]["type"] == "value_error"

    async def test_an_empty_hotkey_is_everybody(self, client: Client, alice: Miner) -> None:
        await alice.post(server(1))
        async with listen(client, "?hotkey=") as listener:
            await listener.snapshot()
            assert len(listener.nodes) == 1

    async def test_it_ends_as_a_whole_answer_when_the_daemon_stops(
        self, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runners: list[web.AppRunner] = []
        setup = web.AppRunner.setup

        async def noted(runner: web.AppRunner) -> None:
            runners.append(runner)
            await setup(runner)

        monkeypatch.setattr(web.AppRunner, "setup", noted)
        client = await make_client()
        async with listen(client) as listener:
            await listener.snapshot()
            async with asyncio.timeout(5):
                await runners[0].cleanup()
            with pytest.raises(EOFError):  # and no ClientPayloadError, which a cut connection would be
                await listener.next()

    async def test_a_read_that_fails_cuts_the_stream_so_that_the_client_comes_back(
        self, client: Client, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: Any) -> None:
            raise StoreError("disk I/O error")

        async with listen(client) as listener:
            await listener.snapshot()
            monkeypatch.setattr(db, "changed", fail)
            await alice.post(server(1))
            with pytest.raises((EOFError, aiohttp.ClientError)):
                await listener.next()
        monkeypatch.undo()
        async with listen(client, last_event_id=listener.last_id) as again:
            await again.until(lambda: again.claims)

    async def test_pages_of_named_origins_may_listen(self, make_client: MakeClient) -> None:
        client = await make_client(ApiSettings(cors_origins=("https://a.example",)))
        async with client.session.get("/nodes/events", headers={"Origin": "https://a.example"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
            assert response.headers["Vary"] == "Origin"
