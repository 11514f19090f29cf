"""The operator's interface: read-only, local, bounded; on a real Unix socket."""

import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from p2pnodes.api.admin import ROWS_DEFAULT, create_admin_app, start_admin
from p2pnodes.metrics import status_registry
from p2pnodes.model.errors import ConfigError
from tests.fake_daemon import FakeDaemon

Get = Callable[..., Any]


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def app(daemon: FakeDaemon) -> web.Application:
    return create_admin_app(daemon, status_registry(daemon.status))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
async def runner(app: web.Application, path: Path) -> AsyncIterator[web.AppRunner]:
    runner = await start_admin(app, path)
    yield runner
    await runner.cleanup()


@pytest.fixture
async def get(runner: web.AppRunner, path: Path) -> AsyncIterator[Get]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:

        async def get(route: str, method: str = "GET") -> tuple[int, Any]:
            async with session.request(method, f"http://localhost{route}") as answer:
                is_json = answer.content_type == "application/json"
                return answer.status, await (answer.json() if is_json else answer.text())

        yield get


class TestRoutes:
    """Every route answers from the daemon, nothing is changed."""

    async def test_status_and_peers_are_the_daemons(self, get: Get, daemon: FakeDaemon) -> None:
        assert await get("/status") == (200, daemon.snapshot)
        assert await get("/peers") == (200, daemon.snapshot["gossip"]["peers"])
        assert await get("/healthz") == (200, {"status": "ok"})

    async def test_metrics_are_prometheus_text(self, get: Get) -> None:
        status, text = await get("/metrics")
        assert status == 200
        assert "p2pnodes_nodes 8.0\n" in text

    @pytest.mark.parametrize(
        ("route", "query"),
        [
            ("/nodes", ("inventory", {}, ROWS_DEFAULT, None, False)),
            ("/nodes?status=verified&limit=3", ("inventory", {"status": "verified"}, 3, None, False)),
            ("/claims?task_id=5A%3A%3A00", ("claims", {"task_id": "5A::00"}, ROWS_DEFAULT, None, False)),
            ("/verdicts?finding=failed", ("verdicts", {"finding": "failed"}, ROWS_DEFAULT, None, False)),
            ("/events?kind=add&after=7", ("event_log", {"kind": "add"}, ROWS_DEFAULT, 7, False)),
            ("/events?newest_first=true&limit=10000", ("event_log", {}, 10_000, None, True)),
        ],
    )
    async def test_lists_are_the_views_with_filters(
        self, get: Get, daemon: FakeDaemon, route: str, query: tuple[Any, ...]
    ) -> None:
        daemon.rows = [{"n": 1}, {"n": 2}]
        assert await get(route) == (200, daemon.rows)
        assert daemon.queries == [query]

    @pytest.mark.parametrize(
        ("route", "detail"),
        [
            ("/nodes?limit=0", "limit is '0'; expected an integer in 1..10000"),
            ("/nodes?limit=10001", "limit is '10001'"),
            ("/nodes?limit=%D9%A3", "limit is"),
            ("/nodes?limit=" + "9" * 5000, "limit is"),
            ("/nodes?limit=1&limit=2", "given twice"),
            ("/nodes?colour=red", "unknown parameter 'colour'; expected one of limit, chute_id, claim_id"),
            ("/nodes?after=1", "unknown parameter 'after'"),
            ("/nodes?uuid=" + "x" * 513, "longer than 512 characters"),
            ("/events?after=-1", "after is '-1'"),
            ("/events?newest_first=yes", "newest_first is 'yes'; expected true or false"),
        ],
    )
    async def test_a_bad_parameter_is_400_and_says_what_is_expected(
        self, get: Get, daemon: FakeDaemon, route: str, detail: str
    ) -> None:
        status, answer = await get(route)
        assert status == 400
        assert detail in answer["detail"]
        assert daemon.queries == []

    async def test_every_filter_is_a_column_of_its_view(self) -> None:
        from p2pnodes.api import admin
        from tests.support import memory_ledger

        ledger = memory_ledger()
        for served in admin._LISTS.values():
            rows = ledger._connection.execute("SELECT name FROM pragma_table_info(?)", (served.view,))
            assert served.filters <= {name for (name,) in rows}

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_nothing_can_be_written(self, get: Get, method: str) -> None:
        assert (await get("/nodes", method))[0] == 405

    async def test_an_unknown_route_is_404(self, get: Get) -> None:
        assert (await get("/secrets"))[0] == 404


class TestSocket:
    """The socket is the operator's group's, and one daemon's."""

    async def test_others_cannot_open_it(self, runner: web.AppRunner, path: Path) -> None:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660

    async def test_it_is_gone_after_the_stop(self, app: web.Application, path: Path) -> None:
        runner = await start_admin(app, path)
        await runner.cleanup()
        assert not path.exists()

    async def test_what_a_killed_daemon_left_is_replaced(self, app: web.Application, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        runner = await start_admin(app, path)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                session.get("http://localhost/healthz") as answer,
            ):
                assert answer.status == 200
        finally:
            await runner.cleanup()

    async def test_a_living_daemons_socket_is_left_alone(
        self, runner: web.AppRunner, daemon: FakeDaemon, path: Path, get: Get
    ) -> None:
        other = create_admin_app(daemon, status_registry(daemon.status))
        with pytest.raises(ConfigError, match="another daemon answers"):
            await start_admin(other, path)
        assert (await get("/healthz"))[0] == 200

    async def test_another_kind_of_file_is_left_alone(self, app: web.Application, path: Path) -> None:
        path.write_text("mine")
        with pytest.raises(ConfigError, match="exists and is no socket"):
            await start_admin(app, path)
        assert path.read_text() == "mine"

    @pytest.mark.parametrize(
        ("name", "reason"), [("absent/admin.sock", "No such file or directory"), ("x" * 108, "expected at most 107")]
    )
    async def test_a_path_that_cannot_be_used_is_one_line(
        self, app: web.Application, tmp_path: Path, name: str, reason: str
    ) -> None:
        with pytest.raises(ConfigError, match=reason):
            await start_admin(app, tmp_path / name)


class TestTcp:
    """On TCP the interface is the loopback's alone."""

    @pytest.fixture
    async def port(self, app: web.Application, path: Path) -> AsyncIterator[int]:
        runner = await start_admin(app, path, 0)
        (port,) = [address[1] for address in runner.addresses if isinstance(address, tuple)]
        yield port
        await runner.cleanup()

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("127.0.0.1", 200),
            ("localhost", 200),
            ("[::1]", 200),
            ("evil.example", 403),
            ("127.0.0.1.evil.example", 403),
        ],
    )
    @pytest.mark.parametrize("with_port", [True, False])
    async def test_a_page_whose_name_points_here_cannot_read(
        self, port: int, host: str, status: int, *, with_port: bool
    ) -> None:
        headers = {"Host": f"{host}:{port}" if with_port else host}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/status", headers=headers) as answer,
        ):
            assert answer.status == status

    async def test_a_taken_port_is_one_line_and_leaves_nothing(self, app: web.Application, path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigError, match=r"admin\.port: 127\.0\.0\.1:\d+ cannot be listened on"):
                await start_admin(app, path, taken.getsockname()[1])
        assert not path.exists()
