"""The operator's interface: local, bounded, written to on its Unix socket alone; on a real one."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from p2pnodes.api import admin, browser
from p2pnodes.api.admin import BODY_BYTES_MAX, ROWS_DEFAULT, create_admin_app, start_admin
from p2pnodes.api.tail import TAIL_KEY, TCP_TAILS_MAX
from p2pnodes.metrics import status_registry
from p2pnodes.model.errors import ConfigError, P2PNodesError, StoreError, WritesRefusedError
from p2pnodes.model.events import LABEL_CHARS_MAX
from p2pnodes.model.inventory import Chute
from p2pnodes.store.facts import AmbiguousError
from p2pnodes.store.placing import GPUS_PER_REQUEST_MAX, NotPlacedError, UnknownGpusError
from tests.fake_daemon import FakeDaemon
from tests.support import hotkey

Get = Callable[..., Any]
Post = Callable[..., Any]

ALICE = hotkey("//Alice")
CHUTE = {"chute_id": "c", "instance_id": "i", "name": "llama", "username": "ann"}


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


@pytest.fixture
async def post(runner: web.AppRunner, path: Path) -> AsyncIterator[Post]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:

        async def post(route: str, body: Any) -> tuple[int, Any]:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            async with session.post(f"http://localhost{route}", data=data) as answer:
                return answer.status, await answer.json()

        yield post


class TestRoutes:
    """Every route answers from the daemon; what is read changes nothing."""

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
            ("/placements?uuid=gpu-1", ("placements", {"uuid": "gpu-1"}, ROWS_DEFAULT, None, False)),
            ("/events?after=7", ("event_log", {}, ROWS_DEFAULT, 7, False)),
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
            ("/nodes?status=verifed", "status is 'verifed'; expected one of pending, verified, failed"),
            ("/verdicts?finding=ok", "finding is 'ok'; expected one of abstain, failed, verified"),
            ("/events?state=forked", "state is 'forked'; expected one of valid, void, unknown, cut"),
            ("/events/stream?state=forked", "state is 'forked'"),
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
        from tests.support import memory_ledger

        ledger = memory_ledger()
        for served in admin._LISTS.values():
            rows = ledger._connection.execute("SELECT name FROM pragma_table_info(?)", (served.view,))
            assert served.filters <= {name for (name,) in rows}

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_what_is_read_cannot_be_written(self, get: Get, method: str) -> None:
        for route in ("/nodes", "/nodes/gpu-1", "/claims", "/claims/00", "/status"):
            assert (await get(route, method))[0] == 405

    async def test_what_is_written_cannot_be_read(self, get: Get) -> None:
        for route in ("/place", "/release", "/verify"):
            assert (await get(route))[0] == 405

    async def test_an_unknown_route_is_404(self, get: Get) -> None:
        assert (await get("/secrets"))[0] == 404


class TestClaims:
    """A claim is named by its id, its task, or the hex digits of that."""

    @pytest.mark.parametrize(
        ("name", "looked_for"),
        [
            ("ab" * 32, (b"\xab" * 32, None)),
            ("AB" * 32, (b"\xab" * 32, None)),
            ("ab" * 16, (b"\xab" * 16, None)),
            (f"{ALICE.address}::{'ab' * 16}", (b"\xab" * 16, ALICE.public_key)),
            (f"{ALICE.address}%3A%3A{'ab' * 16}", (b"\xab" * 16, ALICE.public_key)),
            ("ab" * 31, (b"\xab" * 31, None)),
            ("abABabAB", (b"\xab" * 4, None)),
            ("ababababa", (b"\xab" * 4, None)),
        ],
    )
    async def test_every_name_leads_to_it(
        self, get: Get, daemon: FakeDaemon, name: str, looked_for: tuple[bytes, bytes | None]
    ) -> None:
        daemon.claims[b"\xab" * 32] = {"claim_id": "ab" * 32}
        assert await get(f"/claims/{name}") == (200, {"claim_id": "ab" * 32})
        assert daemon.looked_for == [looked_for]

    @pytest.mark.parametrize(
        "name",
        ["x", "abababa", "ab" * 33, "zz" * 32, f"{ALICE.address}::{'ab' * 32}", f"::{'ab' * 16}", "%D9%A3" * 32, "%00"],
    )
    async def test_what_names_no_claim_is_400(self, get: Get, daemon: FakeDaemon, name: str) -> None:
        status, answer = await get(f"/claims/{name}")
        assert status == 400
        assert "expected a claim id (64 hex digits), how it begins (8 or more), or a task id" in answer["detail"]
        assert daemon.looked_for == []

    async def test_the_half_of_a_byte_counts(self, get: Get, daemon: FakeDaemon) -> None:
        daemon.claims[b"\xab" * 32] = {"claim_id": "ab" * 32}
        assert (await get("/claims/ababababb"))[0] == 404

    async def test_a_beginning_of_several_claims_is_400(
        self, get: Get, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def several(prefix: bytes, miner: bytes | None) -> bytes | None:
            raise AmbiguousError(f"several claims begin with {prefix.hex()}; expected more digits of the one")

        monkeypatch.setattr(daemon, "find_claim", several)
        status, answer = await get("/claims/abababab")
        assert status == 400
        assert answer["detail"] == "several claims begin with abababab; expected more digits of the one"

    async def test_a_hotkey_with_a_wrong_checksum_is_400(self, get: Get) -> None:
        status, answer = await get(f"/claims/{ALICE.address[:-1]}Z::{'ab' * 16}")
        assert status == 400
        assert "names no claim" in answer["detail"]

    async def test_an_unknown_claim_is_404_and_may_arrive(self, get: Get) -> None:
        status, answer = await get(f"/claims/{'ab' * 32}")
        assert (status, answer["detail"]) == (404, f"no claim '{'ab' * 32}' is known here; it may arrive yet")

    async def test_one_that_is_known_but_cannot_be_explained_is_404(
        self, get: Get, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def unexplained(claim_id: bytes) -> None:
            return None

        daemon.claims[b"\xab" * 32] = {}
        monkeypatch.setattr(daemon, "claim", unexplained)
        assert (await get(f"/claims/{'ab' * 32}"))[0] == 404


class TestNodes:
    """A GPU is named by its uuid."""

    @pytest.mark.parametrize(("uuid", "written"), [("gpu-1", "gpu-1"), ("{a/b%}", "%7Ba%2Fb%25%7D")])
    async def test_it_is_the_daemons_word(self, get: Get, daemon: FakeDaemon, uuid: str, written: str) -> None:
        daemon.nodes[uuid] = {"uuid": uuid}
        assert await get(f"/nodes/{written}") == (200, {"uuid": uuid})
        status, answer = await get("/nodes/gpu-2")
        assert status == 404
        assert "no claim ever named a GPU 'gpu-2'" in answer["detail"]


class TestWrites:
    """Bodies are strict: what is not as it must be is refused by name, and never reaches the daemon."""

    async def test_a_place_reaches_the_daemon_as_a_chute(self, post: Post, daemon: FakeDaemon) -> None:
        status, answer = await post("/place", {"uuids": ["gpu-1", "gpu-2"], **CHUTE, "verified": True})
        assert status == 200
        assert daemon.placed == [(["gpu-1", "gpu-2"], Chute("c", "i", True, True, "llama", "ann"))]
        assert answer == {
            "written": [{"claim_id": "01" * 32, "uuids": ["gpu-1", "gpu-2"], "event_id": "02" * 32}],
            "unchanged": [],
            "validator": hotkey("//validator0").address,
            "enrolled": True,
            "warning": None,
        }

    @pytest.mark.parametrize("names", [{}, {"name": None, "username": None}, {"name": "llama", "username": "ann"}])
    async def test_the_names_of_a_private_chute_do_not_reach_it(
        self, post: Post, daemon: FakeDaemon, names: dict[str, object]
    ) -> None:
        body = {"uuids": ["gpu-1"], "chute_id": "c", "instance_id": "i", "private": True, **names}
        assert (await post("/place", body))[0] == 200
        assert daemon.placed == [(["gpu-1"], Chute("c", "i", False, False, None, None))]

    async def test_a_release_names_gpus_alone(self, post: Post, daemon: FakeDaemon) -> None:
        assert (await post("/release", {"uuids": ["gpu-1"]}))[0] == 200
        assert daemon.placed == [(["gpu-1"], None)]

    @pytest.mark.parametrize(
        ("change", "loc", "message"),
        [
            ({"uuids": []}, ["uuids"], "at least 1 item"),
            ({"uuids": ["x"] * 513}, ["uuids"], "at most 512 items"),
            ({"uuids": "gpu-1"}, ["uuids"], "valid array"),
            ({"uuids": ["gpu-1", ""]}, ["uuids", 1], "at least 1 character"),
            ({"uuids": ["x" * 65]}, ["uuids", 0], "at most 64 characters"),
            ({"uuids": ["a b"]}, ["uuids", 0], "match pattern"),
            ({"uuids": ["\u00e4"]}, ["uuids", 0], "match pattern"),
            ({"chute_id": ""}, ["chute_id"], "at least 1 character"),
            ({"chute_id": 7}, ["chute_id"], "valid string"),
            ({"instance_id": "x" * 257}, ["instance_id"], "at most 256 characters"),
            ({"instance_id": None}, ["instance_id"], "valid string"),
            ({"name": "a\0b"}, ["name"], "match pattern"),
            ({"name": None}, [], "expected name and username, or private: true"),
            ({"username": None}, [], "expected name and username, or private: true"),
            ({"verified": "yes"}, ["verified"], "valid boolean"),
            ({"private": 1}, ["private"], "valid boolean"),
            ({"public": True}, ["public"], "not permitted"),
        ],
    )
    async def test_a_bad_value_is_422_at_its_place(
        self, post: Post, daemon: FakeDaemon, *, change: dict[str, object], loc: list[object], message: str
    ) -> None:
        status, answer = await post("/place", {"uuids": ["gpu-1"], **CHUTE, **change})
        assert status == 422
        (problem,) = answer["detail"]
        assert problem["loc"] == ["body", *loc]
        assert message in problem["msg"]
        assert daemon.placed == []

    @pytest.mark.parametrize("route", ["/place", "/release", "/verify"])
    @pytest.mark.parametrize(
        "raw", [b"", b"null", b"[]", b"{", b"\xff", b'{"uuids": ["\\ud800"]}', b"[" * 10_000, b'"x"', b"1e999", b"{}"]
    )
    async def test_what_is_no_such_body_is_422(self, post: Post, route: str, raw: bytes) -> None:
        status, answer = await post(route, raw)
        assert status == 422
        assert answer["detail"][0]["loc"][0] == "body"

    async def test_a_huge_body_is_413(self, post: Post, daemon: FakeDaemon) -> None:
        assert (await post("/place", b" " * (BODY_BYTES_MAX + 1)))[0] == 413
        assert daemon.placed == []

    async def test_the_largest_body_fits(self, post: Post) -> None:
        uuids = [f"{number:064}" for number in range(GPUS_PER_REQUEST_MAX)]
        wide = dict.fromkeys(CHUTE, "\u00e4" * LABEL_CHARS_MAX)
        assert (await post("/place", {"uuids": uuids, **wide}))[0] == 200

    async def test_a_body_that_never_ends_is_given_up(
        self, runner: web.AppRunner, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin, "BODY_S_MAX", 0.05)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /release HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(10):
            assert (await reader.readline()).split()[1] == b"408"
        writer.close()

    @pytest.mark.parametrize(
        ("refusal", "status"),
        [
            (UnknownGpusError(["gpu-1"]), 404),
            (WritesRefusedError("own head not heard"), 503),
            (StoreError("disk full"), 503),
        ],
    )
    async def test_refusals_of_a_place_have_their_statuses(
        self, post: Post, daemon: FakeDaemon, refusal: P2PNodesError, status: int
    ) -> None:
        daemon.refusal = refusal
        assert (await post("/place", {"uuids": ["gpu-1"], **CHUTE}))[0] == status

    @pytest.mark.parametrize(
        ("refusal", "status"),
        [
            (NotPlacedError(["gpu-1"]), 404),
            (WritesRefusedError("own head not heard"), 503),
        ],
    )
    async def test_refusals_of_a_release_have_their_statuses(
        self, post: Post, daemon: FakeDaemon, refusal: P2PNodesError, status: int
    ) -> None:
        daemon.refusal = refusal
        assert (await post("/release", {"uuids": ["gpu-1"]}))[0] == status


class TestVerify:
    """A check by hand."""

    @pytest.mark.parametrize("name", ["ab" * 32, "ab" * 16, f"{ALICE.address}::{'ab' * 16}"])
    async def test_the_finding_is_the_daemons(self, post: Post, daemon: FakeDaemon, name: str) -> None:
        daemon.claims[b"\xab" * 32] = {}
        assert await post("/verify", {"claim_id": name}) == (200, daemon.finding)
        assert daemon.checked == [b"\xab" * 32]

    async def test_an_unknown_claim_is_not_checked(self, post: Post, daemon: FakeDaemon) -> None:
        assert (await post("/verify", {"claim_id": "ab" * 32}))[0] == 404
        assert (await post("/verify", {"claim_id": "ab"}))[0] == 400
        assert daemon.checked == []

    @pytest.mark.parametrize(
        ("refusal", "status"),
        [
            (P2PNodesError("the claim is deleted"), 409),
            (WritesRefusedError("own head not heard"), 503),
            (StoreError("disk full"), 503),
        ],
    )
    async def test_one_that_cannot_be_checked_says_why(
        self, post: Post, daemon: FakeDaemon, refusal: P2PNodesError, status: int
    ) -> None:
        daemon.claims[b"\xab" * 32] = {}
        daemon.refusal = refusal
        found, answer = await post("/verify", {"claim_id": "ab" * 32})
        assert found == status
        assert answer["detail"] == (
            "This peer cannot record or read at the moment." if isinstance(refusal, StoreError) else str(refusal)
        )


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

    async def test_silent_connections_make_room_and_the_socket_stays_usable(
        self, app: web.Application, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin, "TCP_CONNECTIONS_MAX", 3)
        runner = await start_admin(app, path, 0)
        (port,) = [address[1] for address in runner.addresses if isinstance(address, tuple)]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        try:
            async with asyncio.timeout(20):
                for reader, _ in silent[:2]:
                    with suppress(ConnectionResetError):
                        assert await reader.read() == b"", "who was quiet the longest made room"
                connector = aiohttp.UnixConnector(str(path))
                async with (
                    aiohttp.ClientSession("http://localhost", connector=connector) as session,
                    session.get("/healthz") as answer,
                ):
                    assert answer.status == 200
            assert not any(reader.at_eof() for reader, _ in silent[2:])
        finally:
            for _, writer in silent:
                writer.close()
            await runner.cleanup()

    async def test_a_stream_of_events_need_not_make_room(
        self, app: web.Application, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is quiet by nature; how many there are is bounded by itself."""
        monkeypatch.setattr(admin, "TCP_CONNECTIONS_MAX", 1)
        runner = await start_admin(app, path, 0)
        (port,) = [address[1] for address in runner.addresses if isinstance(address, tuple)]
        try:
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
                session.get("/events/stream") as stream,
            ):
                for _ in range(3):
                    async with session.get("/healthz", headers={"Connection": "close"}) as answer:
                        assert answer.status == 200
                assert app[TAIL_KEY].open == 1
                await app[TAIL_KEY].stop(app)
                assert await stream.read() == b"retry: 3000\n\n", "it ends whole, and was not cut"
        finally:
            await runner.cleanup()

    def test_so_many_fit_beside_all_else(self) -> None:
        """With as few files as a process may have: the streams and what waits are open, too."""
        assert admin.TCP_CONNECTIONS_MAX + admin.TCP_BACKLOG + TCP_TAILS_MAX <= 128

    async def test_requests_over_tcp_are_bounded_also_those_whose_clients_have_left(
        self, app: web.Application, path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin, "TCP_REQUESTS_MAX", 2)
        begun, go_on, query = 0, asyncio.Event(), daemon.query

        async def slow(*args: Any, **named: Any) -> list[dict[str, Any]]:
            nonlocal begun
            begun += 1
            await go_on.wait()
            return await query(*args, **named)

        monkeypatch.setattr(daemon, "query", slow)
        runner = await start_admin(app, path, 0)
        (port,) = [address[1] for address in runner.addresses if isinstance(address, tuple)]
        try:
            for number in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /nodes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                if number < 2:
                    while begun <= number:
                        await asyncio.sleep(0.001)
                else:
                    assert (await reader.readline()).split()[1] == b"503"
                writer.transport.abort()
            assert begun == 2
            async with (
                aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as local,
                local.get("/healthz") as answer,
            ):
                assert answer.status == 200
            go_on.set()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as tcp, tcp.get("/nodes") as answer:
                assert answer.status == 200, "there is room again"
        finally:
            go_on.set()
            await runner.cleanup()

    async def test_looks_over_tcp_take_no_place_from_the_socket(
        self, app: web.Application, path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(browser, "TCP_LOOKS_MAX", 0)
        runner = await start_admin(app, path, 0)
        (port,) = [address[1] for address in runner.addresses if isinstance(address, tuple)]
        try:
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as tcp,
                aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as local,
            ):
                for route in ("/inventory", "/pending", "/console/nodes", "/console/claims"):
                    async with tcp.get(route) as refused, local.get(route) as answer:
                        assert (refused.status, answer.status) == (503, 200)
                        assert refused.headers["Retry-After"] == str(browser.BUSY_RETRY_S)
                for route in ("/overview", "/console/"):
                    async with tcp.get(route) as answer:
                        assert answer.status == 200
        finally:
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

    @pytest.mark.parametrize("route", ["/place", "/release", "/verify", "/status", "/nodes"])
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    async def test_nothing_can_be_changed(self, port: int, daemon: FakeDaemon, route: str, method: str) -> None:
        daemon.claims[b"\xab" * 32] = {}
        body = {"uuids": ["gpu-1"], **CHUTE} if route == "/place" else {"claim_id": "ab" * 32}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{port}{route}", json=body) as answer,
        ):
            assert answer.status == 403
            assert "expected the Unix socket" in (await answer.json())["detail"]
        assert (daemon.placed, daemon.checked) == ([], [])

    async def test_a_taken_port_is_one_line_and_leaves_nothing(self, app: web.Application, path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigError, match=r"admin\.port: 127\.0\.0\.1:\d+ .* \(Address already in use\);"):
                await start_admin(app, path, taken.getsockname()[1])
        assert not path.exists()
