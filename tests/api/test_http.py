"""What surrounds the routes: slashes, methods, health, CORS, and errors that are nobody's bad input."""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from p2pnodes.api import errors
from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.codes import HEADER, Code, Reason
from p2pnodes.model.errors import StoreError, WritesRefusedError
from p2pnodes.store import database as database_module
from p2pnodes.store import snapshots
from p2pnodes.store.admission import TooManyClaimsError
from p2pnodes.store.database import Database
from p2pnodes.store.facts import Facts
from p2pnodes.throttle import STORE_FAILURES_LOGGED_BURST
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, Answer, Clock, Miner, gpu, server


class TestSlashes:
    """The other form of a path is answered 307 with the right one."""

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
    @pytest.mark.parametrize(
        ("path", "location"),
        [
            ("/nodes", "/nodes/"),
            ("/nodes?detailed=true&model=a%20b", "/nodes/?detailed=true&model=a%20b"),
            ("/nodes/supported/", "/nodes/supported"),
            ("/nodes/verification_status/?task_id=x", "/nodes/verification_status?task_id=x"),
            ("/nodes/events/?hotkey=x", "/nodes/events?hotkey=x"),
            ("/miner/nodes", "/miner/nodes/"),
            ("/nodes/0123/", "/nodes/0123"),
            ("/nodes/a%0D%0AX-B:%20c/", "/nodes/a%0D%0AX-B:%20c"),
        ],
    )
    async def test_the_other_form_is_307(self, alice: Miner, method: str, path: str, location: str) -> None:
        answer = await alice.send(method, path)
        assert (answer.status, answer.headers["Location"]) == (307, location)
        assert "X-B" not in answer.headers

    async def test_a_client_that_follows_it_registers(self, alice: Miner) -> None:
        body = b'{"nodes":[]}'
        sent = {**alice.signed(body), "Content-Type": "application/json"}
        async with alice.client.session.post("/nodes", data=body, headers=sent) as response:
            assert response.status == 422
            assert (await response.json())["detail"][0]["type"] == "too_short"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/nodes/", {"GET", "POST"}),
        ("HEAD", "/nodes/", {"GET", "POST"}),
        ("OPTIONS", "/nodes/", {"GET", "POST"}),
        ("DELETE", "/nodes/", {"GET", "POST"}),
        ("POST", "/nodes/supported", {"GET"}),
        ("OPTIONS", "/nodes/verification_status", {"GET"}),
        ("GET", "/nodes/0123", {"DELETE"}),
        ("PATCH", "/nodes/0123", {"DELETE"}),
        ("POST", "/nodes/events", {"GET"}),
        ("POST", "/miner/nodes/", {"GET"}),
        ("POST", "/healthz", {"GET"}),
        ("PROPFIND", "/openapi.json", {"GET"}),
    ],
)
async def test_another_method_is_405_and_names_the_right_ones(
    alice: Miner, method: str, path: str, allowed: set[str]
) -> None:
    answer = await alice.send(method, path)
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(",")) == allowed
    if method != "HEAD":
        assert answer.detail == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/", "/nodes/a/b", "/node", "/gossip", "/metrics", "/status", "/nodes//"])
async def test_an_unknown_path_is_404(alice: Miner, path: str) -> None:
    answer = await alice.get(path)
    assert (answer.status, answer.detail) == (404, "Not Found")


async def test_answers_name_no_versions_and_are_never_sniffed(alice: Miner) -> None:
    for path in ("/nodes/", "/nodes/supported", "/absent", "/healthz", "/docs", "/nodes"):
        headers = (await alice.get(path)).headers
        assert headers["Server"] == "p2pnodes"
        assert headers["X-Content-Type-Options"] == "nosniff"


class TestHealth:
    """/healthz: the process answers. /readyz: the daemon does its work, or why not."""

    async def test_the_process_answers(self, alice: Miner) -> None:
        answer = await alice.get("/healthz")
        assert (answer.status, answer.body) == (200, {"status": "ok"})

    async def test_ready_means_no_reason_against_it(self, alice: Miner) -> None:
        answer = await alice.get("/readyz")
        assert (answer.status, answer.body) == (200, {"ready": True, "reasons": [], "codes": [], "behind": 0})

    async def test_not_ready_is_503_with_the_reasons(self, make_client: MakeClient, clock: Clock) -> None:
        reasons = [
            Reason("there is no electorate yet", Code.CHAIN_UNREAD),
            Reason("writes are refused: starting", Code.WRITES_STARTING),
        ]
        codes = ["chain-unread", "writes-starting"]
        miner = Miner(await make_client(readiness=lambda: reasons, behind=lambda: 7), clock)
        answer = await miner.get("/readyz")
        assert (answer.status, answer.body) == (
            503, {"ready": False, "reasons": reasons, "codes": codes, "behind": 7},
        )  # fmt: skip
        assert (await miner.get("/healthz")).status == 200


class TestCors:
    """No page may read this interface from a browser unless the operator names its origin."""

    PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}  # noqa: RUF012

    async def test_it_is_off_by_default(self, alice: Miner) -> None:
        answer = await alice.get("/nodes/", {"Origin": "https://a.example"})
        assert [name for name in answer.headers if name.lower().startswith("access-control")] == []
        assert (await alice.send("OPTIONS", "/nodes/", self.PREFLIGHT)).status == 405

    async def test_a_named_origin_may_read_and_send_the_signing_headers(
        self, make_client: MakeClient, clock: Clock
    ) -> None:
        miner = Miner(await make_client(ApiSettings(cors_origins=("https://a.example",))), clock)
        preflight = await miner.send("OPTIONS", "/nodes/", self.PREFLIGHT)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "X-Chutes-Signature" in preflight.headers["Access-Control-Allow-Headers"]
        for path, status in (("/nodes/", 200), ("/absent", 404), ("/nodes/verification_status", 401)):
            answer = await miner.get(path, {"Origin": "https://a.example"})
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "https://a.example")
            assert answer.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in answer.headers

    async def test_another_origin_is_told_nothing(self, make_client: MakeClient, clock: Clock) -> None:
        miner = Miner(await make_client(ApiSettings(cors_origins=("https://a.example",))), clock)
        for origin in ("https://b.example", "https://a.example.b.example", "http://a.example", "null"):
            answer = await miner.get("/nodes/", {"Origin": origin})
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert answer.headers["Vary"] == "Origin"

    async def test_a_star_is_every_origin(self, make_client: MakeClient, clock: Clock) -> None:
        miner = Miner(await make_client(ApiSettings(cors_origins=("*",))), clock)
        answer = await miner.get("/nodes/", {"Origin": "https://b.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


class Failing:
    """A database whose writes and reads fail."""

    def __init__(self, db: Database, error: Exception) -> None:
        self._db = db
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name in {"submit_add", "submit_delete", "task_status", "totals", "details", "owned"}:
            return self._fail
        return getattr(self._db, name)

    async def _fail(self, *_: Any, **__: Any) -> None:
        raise self._error


Use = Callable[[Miner], Awaitable[Answer]]
WRITES: list[Use] = [lambda miner: miner.post(server(1)), lambda miner: miner.delete(gpu()["uuid"])]
READS: list[Use] = [
    lambda miner: miner.get("/nodes/"),
    lambda miner: miner.get("/nodes/?detailed=true"),
    lambda miner: miner.status(f"{ALICE.address}::{'0' * 32}"),
    lambda miner: miner.own_nodes(),
]


class TestFailures:
    """What is not the client's fault is 503, with a time to come back; a bug is 500 and one log line."""

    async def serve(self, make_client: MakeClient, db: Database, clock: Clock, error: Exception) -> Miner:
        return Miner(await make_client(db=Failing(db, error)), clock)

    @pytest.mark.parametrize("use", WRITES)
    async def test_a_peer_that_may_not_write_says_why_and_until_when(
        self, make_client: MakeClient, db: Database, clock: Clock, use: Use
    ) -> None:
        error = WritesRefusedError("the system clock is +31.0 s off", retry_after_s=7)
        answer = await use(await self.serve(make_client, db, clock, error))
        assert (answer.status, answer.detail, answer.headers["Retry-After"]) == (503, str(error), "7")
        assert answer.body["validators"] == []

    @pytest.mark.parametrize("error", [WritesRefusedError("this daemon is an observer"), StoreError("disk full")])
    async def test_a_write_that_is_not_taken_is_told_who_may_take_it(
        self, make_client: MakeClient, db: Database, clock: Clock, error: Exception
    ) -> None:
        others = ("https://a.example", "https://b.example:8443/p2p")
        miner = Miner(await make_client(db=Failing(db, error), elsewhere=lambda: others), clock)
        for use in WRITES:
            answer = await use(miner)
            assert (answer.status, answer.body["validators"]) == (503, list(others))
        for use in READS:
            answer = await use(miner)
            assert (answer.status, answer.body.keys()) == (503, {"detail"})

    @pytest.mark.parametrize("use", WRITES + READS)
    async def test_a_failing_disk_is_503_without_its_details(
        self, make_client: MakeClient, db: Database, clock: Clock, use: Use
    ) -> None:
        answer = await use(await self.serve(make_client, db, clock, StoreError("disk I/O error on /var/lib/secret")))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert answer.detail == "This peer cannot record or read at the moment."

    async def test_a_failing_disk_is_a_few_lines_however_many_ask(
        self, make_client: MakeClient, db: Database, clock: Clock
    ) -> None:
        """The log may be on the same disk."""
        miner = await self.serve(make_client, db, clock, StoreError("disk I/O error"))
        with capture_logs() as logs:
            for _ in range(2 * STORE_FAILURES_LOGGED_BURST):
                assert (await miner.post(server(1))).status == 503
        told = [line for line in logs if line["event"] == "store_failed"]
        assert STORE_FAILURES_LOGGED_BURST <= len(told) < 2 * STORE_FAILURES_LOGGED_BURST
        assert (told[0]["error"], told[0]["left_out"]) == ("disk I/O error", 0)

    async def test_a_database_that_cannot_be_read_is_503(
        self, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(db._reader, "execute_fetchall", fail)
        monkeypatch.setattr(database_module, "_details", fail)
        monkeypatch.setattr(Facts, "task_status", fail)
        monkeypatch.setattr(snapshots, "owned", fail)
        for use in READS:
            assert (await use(alice)).status == 503

    async def test_too_many_open_claims_are_429(self, make_client: MakeClient, db: Database, clock: Clock) -> None:
        error = TooManyClaimsError("2048 claims of this hotkey wait for their vote already")
        answer = await (await self.serve(make_client, db, clock, error)).post(server(1))
        assert (answer.status, answer.detail, answer.headers["Retry-After"]) == (429, str(error), "60")

    async def test_a_bug_is_500_without_its_details_and_the_next_request_is_served(
        self, make_client: MakeClient, db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines: list[tuple[str, dict[str, str]]] = []
        log = type("Log", (), {"exception": staticmethod(lambda event, **fields: lines.append((event, fields)))})
        monkeypatch.setattr(errors, "log", log)
        miner = await self.serve(make_client, db, clock, ZeroDivisionError("secret"))
        answer = await miner.post(server(1))
        assert (answer.status, answer.body) == (500, {"detail": "Internal Server Error"})
        assert lines == [("request_failed", {"method": "POST", "path": "/nodes/", "code": "system-bug"})]
        assert answer.headers[HEADER] == "system-bug"
        assert (await miner.get("/healthz")).status == 200

    async def test_the_daemon_that_starts_refuses_writes_and_serves_reads(self, alice: Miner, db: Database) -> None:
        db.ledger.writes_refused = "the daemon is starting"
        answer = await alice.post(server(1))
        assert (answer.status, answer.detail) == (503, "the daemon is starting")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await alice.get("/nodes/")).status == 200
