"""GET /events/stream: who listens is told every stored event once and in order, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from p2pnodes.api import listener as listener_module
from p2pnodes.api import tail
from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.api.tail import TAIL_KEY, EventTail
from p2pnodes.metrics import status_registry
from p2pnodes.miner.sse import SseEvent, SseParser
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import Verdict
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from tests.api.support import NOW_S
from tests.fake_daemon import DatabaseDaemon


class Listener:
    """A client of the stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.raw = b""
        self._response = response
        self._parser = SseParser()
        self._unread: list[SseEvent] = []

    async def next(self) -> SseEvent:
        """The next event; EOFError at the end of the answer."""
        async with asyncio.timeout(20):
            while not self._unread:
                await self.read()
        return self._unread.pop(0)

    async def read(self) -> None:
        """Take what comes next, an event or not."""
        chunk = await self._response.content.readany()
        if not chunk:
            raise EOFError
        self.raw += chunk
        self._unread += self._parser.feed(chunk)

    async def positions(self, count: int) -> list[int]:
        """Positions of the next events."""
        return [orjson.loads((await self.next()).data)["position"] for _ in range(count)]

    @property
    def last_id(self) -> str:
        return self._parser.last_id


Listen = Callable[..., Any]
Get = Callable[[str], Awaitable[tuple[int, Any]]]


@pytest.fixture
async def app(db: Database) -> web.Application:
    daemon = DatabaseDaemon(db)
    app = create_admin_app(daemon, status_registry(daemon.status))
    db.on_written = lambda _: app[TAIL_KEY].committed()
    return app


@pytest.fixture
async def session(app: web.Application, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    path = tmp_path / "admin.sock"
    runner = await start_admin(app, path)
    async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as session:
        yield session
    await runner.cleanup()


@pytest.fixture
def listen(session: aiohttp.ClientSession) -> Listen:
    @asynccontextmanager
    async def listen(query: str = "", last_event_id: str | None = None) -> AsyncIterator[Listener]:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        async with session.get(f"/events/stream{query}", headers=headers) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream"
            yield Listener(response)

    return listen


@pytest.fixture
def get(session: aiohttp.ClientSession) -> Get:
    async def get(route: str) -> tuple[int, Any]:
        async with session.get(route) as response:
            return response.status, await response.json()

    return get


async def write(db: Database, count: int = 1) -> None:
    """Store events; with the delegation of ``db`` at position 1, the first of them is at 2."""

    def append(ledger: Ledger) -> None:
        for _ in range(count):
            ledger.append(lambda _: Verdict(bytes(32), "abstain", "none", "", None), NOW_S * 1000)

    await db.write(append)


class TestEvents:
    """What is told is what the list tells, as it comes."""

    async def test_an_event_is_its_row_of_the_list_and_its_id_its_position(
        self, db: Database, listen: Listen, get: Get
    ) -> None:
        async with listen() as listener:
            await write(db)
            event = await listener.next()
        status, rows = await get("/events?after=1")
        assert status == 200
        assert (event.type, event.id) == ("event", "2")
        assert [orjson.loads(event.data)] == rows
        assert rows[0]["kind"] == "verdict"
        assert listener.raw.startswith(b"retry: 3000\n\n")

    async def test_without_a_position_it_begins_at_the_end(self, db: Database, listen: Listen) -> None:
        await write(db, 3)
        async with listen() as listener:
            await listener.read()  # the answer has begun
            await write(db)
            assert await listener.positions(1) == [5]

    async def test_it_goes_on_behind_a_position(self, db: Database, listen: Listen) -> None:
        await write(db, 3)
        async with listen("?after=2") as listener:
            assert await listener.positions(2) == [3, 4]

    async def test_the_header_goes_before_the_parameter(self, db: Database, listen: Listen) -> None:
        await write(db, 3)
        async with listen("?after=0", last_event_id="3") as listener:
            assert await listener.positions(1) == [4]

    async def test_many_events_come_in_parts_each_once_and_in_order(
        self, db: Database, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "EVENTS_PER_PART", 7)
        await write(db, 20)
        async with listen("?after=0") as listener:
            assert await listener.positions(21) == list(range(1, 22))
            await write(db, 14)  # a whole number of parts
            assert await listener.positions(14) == list(range(22, 36))

    async def test_filters_are_those_of_the_list(self, db: Database, listen: Listen) -> None:
        await write(db, 2)
        async with listen("?after=0&kind=delegate") as listener:
            assert await listener.positions(1) == [1]
        async with listen("?after=0&kind=verdict&state=valid") as listener:
            assert await listener.positions(2) == [2, 3]

    async def test_what_no_filter_lets_pass_is_not_looked_at_again(
        self, db: Database, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 0.01)
        await write(db, 5)
        async with listen("?after=0&kind=add") as listener, asyncio.timeout(20):
            while listener.last_id != "6":
                await listener.read()

    async def test_many_events_are_filtered_a_part_at_a_time(
        self, app: web.Application, db: Database, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "POSITIONS_PER_READ", 4)
        await write(db, 15)
        looked: list[tuple[int, int]] = []
        read = app[TAIL_KEY]._rows

        async def rows(*query: Any, **bounds: Any) -> Any:
            if "after" in bounds:
                looked.append((bounds["after"], bounds["until"]))
            return await read(*query, **bounds)

        monkeypatch.setattr(app[TAIL_KEY], "_rows", rows)
        async with listen("?after=0&kind=verdict") as listener:
            assert await listener.positions(15) == list(range(2, 17))
            await write(db)
            assert await listener.positions(1) == [17]
        assert looked[:4] == [(0, 4), (4, 8), (8, 12), (12, 16)]

    async def test_a_position_of_another_database_is_reset_to_the_end(self, db: Database, listen: Listen) -> None:
        async with listen(last_event_id="999") as listener:
            event = await listener.next()
            assert (event.type, event.data, event.id) == ("reset", '{"position":1}', "1")
            await write(db)
            assert await listener.positions(1) == [2]

    async def test_silence_is_broken_by_a_comment_and_the_position(
        self, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 0.02)
        async with listen() as listener, asyncio.timeout(20):
            while b": keep-alive\nid: 1\n\n" not in listener.raw:
                await listener.read()


class TestLists:
    """A list with a filter looks at a part of the log at a time, too."""

    @pytest.fixture
    def looked(self, app: web.Application, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """The parts that are read, four positions each at most."""
        monkeypatch.setattr(tail, "POSITIONS_PER_READ", 4)
        found: list[tuple[int, int]] = []
        read = app[TAIL_KEY]._rows

        async def rows(*query: Any, **bounds: Any) -> Any:
            if "until" in bounds:
                found.append((bounds["after"], bounds["until"]))
            return await read(*query, **bounds)

        monkeypatch.setattr(app[TAIL_KEY], "_rows", rows)
        return found

    async def test_the_newest_first(self, db: Database, get: Get, looked: list[tuple[int, int]]) -> None:
        await write(db, 10)
        status, rows = await get("/events?kind=verdict&newest_first=true&limit=6")
        assert (status, [row["position"] for row in rows]) == (200, [11, 10, 9, 8, 7, 6])
        assert looked == [(7, 11), (3, 7)]
        _, rows = await get("/events?kind=verdict&newest_first=true&after=8")
        assert [row["position"] for row in rows] == [11, 10, 9]
        _, rows = await get("/events?kind=delegate&newest_first=true")
        assert [row["position"] for row in rows] == [1]

    async def test_the_oldest_first(self, db: Database, get: Get, looked: list[tuple[int, int]]) -> None:
        await write(db, 10)
        status, rows = await get("/events?kind=verdict&limit=6")
        assert (status, [row["position"] for row in rows]) == (200, [2, 3, 4, 5, 6, 7])
        assert looked == [(0, 4), (4, 8)]
        _, rows = await get("/events?kind=verdict&after=8")
        assert [row["position"] for row in rows] == [9, 10, 11]
        assert (await get("/events?kind=add"))[1] == []

    async def test_a_page_of_events_begins_where_its_tail_goes_on(
        self, app: web.Application, db: Database, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that comes while the page is read is in neither its rows nor behind its position twice."""
        await write(db, 2)
        read = app[TAIL_KEY]._rows

        async def rows(view: str, where: Any, *rest: Any, **bounds: Any) -> Any:
            if where:
                await write(db)
            return await read(view, where, *rest, **bounds)

        monkeypatch.setattr(app[TAIL_KEY], "_rows", rows)
        async with session.get("/console/events?kind=verdict") as response:
            text = await response.text()
        assert 'data-position="3"' in text
        assert text.count('<span class="kind">verdict</span>') == 2


class TestBounds:
    """A listener costs itself, nobody else."""

    async def test_one_too_many_is_503_and_told_when_to_come_back(
        self, app: web.Application, session: aiohttp.ClientSession, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "TAILS_MAX", 1)
        async with listen() as listener:
            await listener.read()
            assert app[TAIL_KEY].open == 1
            async with session.get("/events/stream") as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"] == "30"
                assert (await refused.json())["detail"] == "1 streams are open here already"

    async def test_listeners_over_tcp_take_no_place_from_the_socket(
        self, app: web.Application, listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "TCP_TAILS_MAX", 1)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ((_, port),) = runner.addresses
        try:
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
                session.get("/events/stream") as first,
                session.get("/events/stream") as refused,
                listen() as listener,
            ):
                assert (first.status, refused.status) == (200, 503)
                await listener.read()
                assert app[TAIL_KEY].open == 2
        finally:
            await runner.cleanup()

    async def test_a_head_of_a_stream_is_refused(self, session: aiohttp.ClientSession) -> None:
        """It would never end."""
        async with session.head("/events/stream") as response:
            assert response.status == 405

    @pytest.mark.parametrize(
        ("query", "last_event_id", "detail"),
        [
            ("?after=-1", None, "after is '-1'; expected an integer in 0.."),
            ("?limit=3", None, "unknown parameter 'limit'; expected one of after, author, id, kind"),
            ("?kind=add&kind=delete", None, "given twice"),
            ("?kind=" + "x" * 513, None, "longer than 512 characters"),
            ("", "abc", "Last-Event-ID is 'abc'; expected the id of an event, which is its position"),
            ("", "-1", "Last-Event-ID is '-1'"),
            ("", "9" * 19, "Last-Event-ID is"),
        ],
    )
    async def test_a_bad_parameter_is_400(
        self, session: aiohttp.ClientSession, query: str, last_event_id: str | None, detail: str
    ) -> None:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        async with session.get(f"/events/stream{query}", headers=headers) as response:
            assert response.status == 400
            assert detail in (await response.json())["detail"]

    async def test_the_place_of_a_listener_that_left_is_free_again(
        self, app: web.Application, db: Database, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "GONE_LOOK_S", 0.01)
        monkeypatch.setattr(listener_module, "KEEP_ALIVE_S", 3600)  # nothing is written to it
        async with listen() as listener:
            await listener.read()
        async with asyncio.timeout(20):
            while app[TAIL_KEY].open:
                await asyncio.sleep(0.005)

    async def test_one_that_does_not_read_is_cut(
        self, app: web.Application, db: Database, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def stalled(*_: object) -> None:
            raise ConnectionResetError("the client took nothing")

        async with listen() as listener:
            await listener.read()
            monkeypatch.setattr(listener_module, "send_part", stalled)
            await write(db)
            with pytest.raises((EOFError, aiohttp.ClientError)):
                await listener.next()
        assert app[TAIL_KEY].open == 0


class TestEnds:
    """A stream ends whole when the daemon stops, and is cut when a read fails."""

    async def test_a_stop_ends_the_answer(self, app: web.Application, listen: Listen) -> None:
        async with listen() as listener:
            await listener.read()
            await app[TAIL_KEY].stop(app)
            with pytest.raises(EOFError):
                await listener.next()

    async def test_a_failed_read_cuts_it_so_that_the_client_comes_back(
        self, app: web.Application, db: Database, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object, **__: object) -> Any:
            raise StoreError("the disk is gone")

        async with listen() as listener:
            await listener.read()
            monkeypatch.setattr(app[TAIL_KEY], "_rows", fail)
            await write(db)
            with pytest.raises(aiohttp.ClientPayloadError):
                await listener.positions(2)  # a read that began before reads fail may still tell the one event

    def test_news_without_listeners_cost_nothing(self) -> None:
        async def never(*_: object, **__: object) -> Any:
            raise AssertionError("nobody listens")

        EventTail(never).committed()  # outside any loop: no timer is made
