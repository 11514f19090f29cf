"""The routes that change how a daemon works: bodies are checked, refusals have codes, TCP may only read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.gossip.bans import OPERATOR_BAN_S_MAX, REASON_CHARS_MAX, TooManyBansError
from p2pnodes.loglevel import FOR_S_MAX
from p2pnodes.metrics import status_registry
from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import ConfigError
from tests.fake_daemon import FakeDaemon
from tests.support import hotkey

PEER = hotkey("//Malice")
BAN = {"key": PEER.address, "for_s": 60, "reason": "it floods us"}


class Operator:
    """Asks the interface; an answer is its status and body, whose code stands in the header, too."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def get(self, route: str) -> tuple[int, Any]:
        async with self._session.get(self._base + route) as answer:
            return answer.status, await answer.json()

    async def post(self, route: str, body: Any) -> tuple[int, Any]:
        async with self._session.post(self._base + route, data=orjson.dumps(body)) as answer:
            found = await answer.json()
            assert answer.headers.get(HEADER) == (None if answer.status == 200 else found["code"])
            return answer.status, found


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def runner(tmp_path: Path, daemon: FakeDaemon) -> AsyncIterator[web.AppRunner]:
    app = create_admin_app(daemon, status_registry(daemon.status))
    runner = await start_admin(app, tmp_path / "admin.sock", 0)
    yield runner
    await runner.cleanup()


@pytest.fixture
async def operator(runner: web.AppRunner, tmp_path: Path) -> AsyncIterator[Operator]:
    connector = aiohttp.UnixConnector(str(tmp_path / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Operator(session, "http://localhost")


class TestLog:
    """``/log``: from which level on the daemon logs."""

    async def test_a_change_answers_with_what_is_in_force(self, operator: Operator) -> None:
        assert await operator.get("/log") == (200, {"configured": "info", "changed": []})
        status, found = await operator.post("/log", {"level": "debug", "for_s": 600, "logger": "p2pnodes.gossip"})
        assert (status, found["changed"]) == (200, [{"logger": "p2pnodes.gossip", "level": "debug", "left_s": 600}])
        assert await operator.post("/log", {"level": None}) == (200, {"configured": "info", "changed": []})

    @pytest.mark.parametrize(
        ("body", "loc"),
        [
            ({}, "level"),
            ({"level": "loud"}, "level"),
            ({"level": "debug", "for_s": 0}, "for_s"),
            ({"level": "debug", "for_s": FOR_S_MAX + 1}, "for_s"),
            ({"level": "debug", "logger": ""}, "logger"),
            ({"level": "debug", "logger": "x" * 101}, "logger"),
            ({"level": "debug", "forever": True}, "forever"),
        ],
    )
    async def test_a_bad_body_is_422_and_names_the_place(self, operator: Operator, body: Any, loc: str) -> None:
        status, answer = await operator.post("/log", body)
        assert (status, answer["code"], answer["detail"][0]["loc"]) == (422, Code.API_FORM, ["body", loc])

    async def test_an_unknown_logger_is_404_with_its_code(self, operator: Operator, daemon: FakeDaemon) -> None:
        daemon.refusal = ConfigError("no such part", code=Code.ADMIN_UNKNOWN)
        assert await operator.post("/log", {"level": "debug", "logger": "p2pnodes.x"}) == (
            404,
            {"detail": "no such part", "code": "admin-unknown"},
        )


class TestBans:
    """``/bans``: who is refused."""

    async def test_a_ban_is_answered_listed_and_lifted(self, operator: Operator) -> None:
        status, found = await operator.post("/bans", BAN)
        assert (status, found["ended"], found["warning"]) == (200, 1, None)
        assert found["ban"]["hotkey"] == PEER.address
        assert await operator.get("/bans") == (200, [found["ban"]])
        assert await operator.post("/bans/lift", {"key": PEER.address}) == (200, {"lifted": True})
        assert await operator.get("/bans") == (200, [])

    async def test_lifting_one_that_is_not_banned_is_404(self, operator: Operator) -> None:
        status, answer = await operator.post("/bans/lift", {"key": PEER.address})
        assert (status, answer["code"]) == (404, Code.ADMIN_UNKNOWN)

    async def test_a_node_key_is_taken_in_hex(self, operator: Operator) -> None:
        assert (await operator.post("/bans", {**BAN, "key": PEER.public_key.hex()}))[0] == 200

    async def test_what_the_daemon_refuses_is_409_with_its_code(self, operator: Operator, daemon: FakeDaemon) -> None:
        daemon.refusal = TooManyBansError("1024 peers are banned already")
        assert await operator.post("/bans", BAN) == (
            409,
            {"detail": "1024 peers are banned already", "code": "admin-bans-full"},
        )

    @pytest.mark.parametrize(
        ("change", "loc"),
        [
            ({"key": "5Nobody"}, "key"),
            ({"key": "ab" * 31}, "key"),
            ({"key": 7}, "key"),
            ({"for_s": 0}, "for_s"),
            ({"for_s": OPERATOR_BAN_S_MAX + 1}, "for_s"),
            ({"reason": ""}, "reason"),
            ({"reason": "x" * (REASON_CHARS_MAX + 1)}, "reason"),
            ({"reason": "two\nlines"}, "reason"),
        ],
    )
    async def test_a_bad_body_is_422_and_names_the_place(
        self, operator: Operator, daemon: FakeDaemon, change: Any, loc: str
    ) -> None:
        status, answer = await operator.post("/bans", BAN | change)
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", loc])
        assert daemon.banned == []


class TestTcp:
    """Over TCP these routes can be read, and change nothing."""

    @pytest.mark.parametrize(
        ("route", "body"), [("/log", {"level": "debug"}), ("/bans", BAN), ("/bans/lift", {"key": PEER.address})]
    )
    async def test_a_change_is_refused(
        self, runner: web.AppRunner, daemon: FakeDaemon, route: str, body: dict[str, Any]
    ) -> None:
        port = next(address[1] for address in runner.addresses if isinstance(address, tuple))
        async with aiohttp.ClientSession() as session:
            reader = Operator(session, f"http://127.0.0.1:{port}")
            status, answer = await reader.post(route, body)
            assert (status, answer["code"]) == (403, Code.ADMIN_READ_ONLY)
            assert (await reader.get("/log"))[0] == (await reader.get("/bans"))[0] == 200
        assert daemon.banned == []
        assert daemon.levels["changed"] == []
