"""The optional reverse proxy: what is not ours reaches the upstream API as it came, and its answers come back so."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from p2pnodes.api import proxy
from p2pnodes.api.proxy import is_ours
from p2pnodes.api.settings import ApiSettings
from tests.api.conftest import MakeClient
from tests.api.support import Client, Clock, Miner, server


class Received(NamedTuple):
    """What reached the upstream API."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


class UpstreamApi:
    """An API that notes what it is asked, and answers as it is told."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.begun = 0
        self.ended = 0
        self.respond: Respond = self._ok
        self.port = 0

    async def _ok(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"upstream": True})

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.begun += 1
        try:
            body = await request.read()
        finally:
            self.ended += 1
        target = request.rel_url.raw_path_qs
        self.received.append(Received(request.method, target, CIMultiDict(request.headers), body))
        return await self.respond(request)  # type: ignore[arg-type]

    @property
    def last(self) -> Received:
        return self.received[-1]


@pytest.fixture
async def upstream() -> AsyncIterator[UpstreamApi]:
    api = UpstreamApi()
    runner = web.ServerRunner(web.Server(api, auto_decompress=False), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.port = runner.addresses[0][1]
    yield api
    await runner.cleanup()


@pytest.fixture
async def client(make_client: MakeClient, upstream: UpstreamApi) -> Client:
    return await make_client(ApiSettings(upstream=f"http://127.0.0.1:{upstream.port}"))


@pytest.fixture
def miner(client: Client, clock: Clock) -> Miner:
    return Miner(client, clock)


@asynccontextmanager
async def raw_upstream(answer: bytes, *, close: bool = True) -> AsyncIterator[int]:
    """A server that sends these bytes for whatever it is asked; its port."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if not close:
            await done.wait()
        writer.close()

    serving = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield serving.sockets[0].getsockname()[1]
    finally:
        done.set()
        serving.close()


async def raw_request(port: int, request: bytes) -> bytes:
    """Send bytes, and read until the daemon closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


class TestRequests:
    """Method, path and query, headers and body arrive as they were sent."""

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
    async def test_any_method_passes(self, miner: Miner, upstream: UpstreamApi, method: str) -> None:
        answer = await miner.send(method, "/chutes/", {"X-A": "b"}, None if method == "GET" else b"body")
        assert (answer.status, answer.body) == (200, {"upstream": True})
        assert upstream.last.method == method
        assert upstream.last.headers["X-A"] == "b"
        assert upstream.last.body == (b"" if method == "GET" else b"body")

    async def test_head_passes_without_a_body(self, miner: Miner, upstream: UpstreamApi) -> None:
        answer = await miner.send("HEAD", "/chutes/")
        assert (answer.status, answer.body) == (200, None)
        assert answer.headers["Content-Length"] == str(len(json.dumps({"upstream": True})))

    @pytest.mark.parametrize(
        "target",
        [
            "/miner/chutes/", "/", "/a%2Fb%20c/%C3%A9?x=%20&x=2&y", "/a/../b/./c", "//double//slash", "/q?", "/a+b;c=d",
            "/%6eot-ours", "/miner/nodes/x", "/?a=b%26c", "/nodesque", "/healthz/", "/gossipers",
        ],
    )  # fmt: skip
    async def test_the_path_passes_byte_by_byte(self, client: Client, upstream: UpstreamApi, target: str) -> None:
        head = f"GET {target} HTTP/1.1\r\nHost: daemon.example\r\nConnection: close\r\n\r\n"
        answer = await raw_request(client.port, head.encode())
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert upstream.last.target == target.removesuffix("?")

    async def test_signing_headers_and_authorization_pass(self, miner: Miner, upstream: UpstreamApi) -> None:
        headers = {**miner.headers("miner"), "Authorization": "cpk_x", "Cookie": "a=b", "User-Agent": "gepetto"}
        await miner.get("/miner/images/", headers)
        for name, value in headers.items():
            assert upstream.last.headers[name] == value

    async def test_nothing_is_added_that_the_client_did_not_send(self, client: Client, upstream: UpstreamApi) -> None:
        await raw_request(client.port, b"GET /x HTTP/1.1\r\nHost: daemon.example\r\nConnection: close\r\n\r\n")
        assert {name.lower() for name in upstream.last.headers} == {
            "host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "connection",
        }  # fmt: skip
        assert upstream.last.headers["Host"] == f"127.0.0.1:{upstream.port}"

    async def test_hop_by_hop_headers_stay_here(self, client: Client, upstream: UpstreamApi) -> None:
        await raw_request(
            client.port,
            b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
            b"Trailer: X-T\r\nUpgrade: h2c\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nX-Yours: 1\r\n\r\n",
        )
        names = {name.lower() for name in upstream.last.headers}
        assert "x-yours" in names
        assert not names & {
            "x-mine",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "proxy-connection",
            "proxy-authorization",
        }

    async def test_the_upstream_is_told_who_asked_for_what(self, miner: Miner, upstream: UpstreamApi) -> None:
        sent = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "e"}
        await miner.get("/x", {**sent, "Forwarded": "host=e"})
        headers = upstream.last.headers
        assert "Forwarded" not in headers
        assert headers.getall("X-Forwarded-For") == ["198.51.100.7, 127.0.0.1"]
        assert headers.getall("X-Forwarded-Proto") == ["http"]
        assert headers.getall("X-Forwarded-Host") == [f"127.0.0.1:{miner.client.port}"]

    async def test_what_a_trusted_proxy_says_of_the_client_is_kept(
        self, make_client: MakeClient, upstream: UpstreamApi, clock: Clock
    ) -> None:
        settings = ApiSettings(
            upstream=f"http://127.0.0.1:{upstream.port}", trusted_proxies=(ip_network("127.0.0.0/8"),)
        )
        miner = Miner(await make_client(settings), clock)
        sent = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "node.example.org"}
        await miner.get("/x", sent)
        assert upstream.last.headers["X-Forwarded-For"] == "198.51.100.7, 127.0.0.1"
        assert upstream.last.headers["X-Forwarded-Proto"] == "https"
        assert upstream.last.headers["X-Forwarded-Host"] == "node.example.org"

    async def test_a_base_with_a_path_goes_before_it(
        self, make_client: MakeClient, upstream: UpstreamApi, clock: Clock
    ) -> None:
        settings = ApiSettings(upstream=f"http://127.0.0.1:{upstream.port}/v1/")
        await Miner(await make_client(settings), clock).get("/chutes/?a=b")
        assert upstream.last.target == "/v1/chutes/?a=b"

    async def test_a_compressed_body_stays_compressed(self, miner: Miner, upstream: UpstreamApi) -> None:
        body = gzip.compress(b"x" * 1000)
        await miner.send("POST", "/x", {"Content-Encoding": "gzip", "Content-Type": "text/plain"}, body)
        assert upstream.last.body == body
        assert upstream.last.headers["Content-Encoding"] == "gzip"
        assert upstream.last.headers["Content-Length"] == str(len(body))

    async def test_a_body_in_chunks_passes_in_chunks(self, client: Client, upstream: UpstreamApi) -> None:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a" * 100_000
            yield b"b"

        async with client.session.post("/x", data=parts()) as answer:
            assert answer.status == 200
        assert upstream.last.body == b"a" * 100_000 + b"b"
        assert upstream.last.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in upstream.last.headers

    async def test_an_expectation_is_met_here(self, client: Client, upstream: UpstreamApi) -> None:
        answer = await raw_request(
            client.port,
            b"PUT /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        )
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
        assert upstream.last.body == b"ok"


class TestAnswers:
    """Status, headers and body come back as the upstream API sent them."""

    @pytest.mark.parametrize("status", [200, 201, 204, 302, 304, 401, 404, 418, 500, 503])
    async def test_any_status_passes_and_no_redirect_is_followed(
        self, miner: Miner, upstream: UpstreamApi, status: int
    ) -> None:
        async def respond(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, reason="As It Is", headers={"Location": "/elsewhere"})

        upstream.respond = respond
        answer = await miner.get("/x")
        assert (answer.status, answer.headers["Location"]) == (status, "/elsewhere")
        assert len(upstream.received) == 1

    async def test_headers_pass_also_several_of_one_name(self, miner: Miner, upstream: UpstreamApi) -> None:
        async def respond(_: web.Request) -> web.StreamResponse:
            headers = CIMultiDict([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Server", "theirs"), ("ETag", '"x"')])
            return web.Response(body=b"x", headers=headers)

        upstream.respond = respond
        async with miner.client.session.get("/x") as answer:
            assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert answer.headers["Server"] == "theirs"
            assert answer.headers["ETag"] == '"x"'
            assert answer.headers["Via"].startswith("1.1 p2pnodes-")
            assert len(answer.headers.getall("Date")) == 1

    async def test_hop_by_hop_headers_of_the_answer_stay_behind(self, make_client: MakeClient, clock: Clock) -> None:
        sent = (
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nX-Yours: 1\r\n"
            b"Proxy-Authenticate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        )
        async with raw_upstream(sent) as port:
            answer = await Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock).get("/x")
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["X-Yours"] == "1"
        assert not {"X-Mine", "Keep-Alive", "Proxy-Authenticate"} & set(answer.headers)
        assert answer.headers["Server"] == "p2pnodes"

    async def test_a_compressed_answer_stays_compressed(self, miner: Miner, upstream: UpstreamApi) -> None:
        packed = gzip.compress(b"x" * 1000)

        async def respond(_: web.Request) -> web.StreamResponse:
            return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

        upstream.respond = respond
        url = f"http://127.0.0.1:{miner.client.port}/x"
        async with aiohttp.ClientSession(auto_decompress=False) as session, session.get(url) as answer:
            assert await answer.read() == packed
            assert answer.headers["Content-Encoding"] == "gzip"

    async def test_a_large_answer_passes_whole(self, miner: Miner, upstream: UpstreamApi) -> None:
        body = bytes(range(256)) * 20_000

        async def respond(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, content_type="application/octet-stream")

        upstream.respond = respond
        assert (await miner.get("/x")).body == body

    async def test_server_sent_events_pass_one_by_one(self, miner: Miner, upstream: UpstreamApi) -> None:
        go_on = asyncio.Event()

        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for number in range(3):
                await response.write(b"data: %d\n\n" % number)
                await go_on.wait()
                go_on.clear()
            return response

        upstream.respond = respond
        async with asyncio.timeout(20), miner.client.session.get("/miner/instances/") as answer:
            assert answer.content_type == "text/event-stream"
            for number in range(3):  # the next one is sent only after this one has come
                assert await answer.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
                go_on.set()
            assert await answer.content.read() == b""

    async def test_an_answer_that_breaks_off_breaks_off_here(self, make_client: MakeClient, clock: Clock) -> None:
        for head in (b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n2\r\n"):
            async with raw_upstream(b"HTTP/1.1 200 OK\r\n" + head + b"ok") as port:
                miner = Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock)
                with pytest.raises(aiohttp.ClientError):
                    await miner.get("/x")

    async def test_an_upstream_that_resets_the_connection_does_not_end_an_answer_well(
        self, miner: Miner, upstream: UpstreamApi
    ) -> None:
        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"half")
            await asyncio.sleep(0.05)  # so that the half is read before the reset, which drops what is not
            assert request.transport is not None
            request.transport.abort()
            return response

        upstream.respond = respond
        with pytest.raises(aiohttp.ClientError):
            await miner.get("/x")

    async def test_bytes_that_are_no_text_cost_their_header_nothing_else(
        self, client: Client, make_client: MakeClient, upstream: UpstreamApi, clock: Clock
    ) -> None:
        head = b"GET /x HTTP/1.1\r\nHost: h\r\nX-A: a\xffb\r\nX-B: \xc3\xa9\r\nConnection: close\r\n\r\n"
        assert (await raw_request(client.port, head)).startswith(b"HTTP/1.1 200 ")
        assert upstream.last.headers["X-B"] == "\xe9"
        sent = b"HTTP/1.1 200 \xff\xe9\r\nX-A: a\xffb\r\nX-B: \xc3\xa9\r\nContent-Length: 2\r\n\r\nok"
        async with raw_upstream(sent) as port:
            answer = await Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock).get("/x")
        assert (answer.status, answer.body, answer.headers["X-B"]) == (200, b"ok", "\xe9")

    @pytest.mark.parametrize("sent", [b"200 OK\r\nX-A: a\x01\x7f\tb", b"200 O\x01K\r\nX-A: a  \tb"])
    async def test_control_characters_become_spaces(self, make_client: MakeClient, clock: Clock, sent: bytes) -> None:
        async with raw_upstream(b"HTTP/1.1 " + sent + b"\r\nContent-Length: 2\r\n\r\nok") as port:
            answer = await Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock).get("/x")
        assert (answer.status, answer.body, answer.headers["X-A"]) == (200, b"ok", "a  \tb")

    async def test_pages_of_named_origins_may_read_them(
        self, make_client: MakeClient, upstream: UpstreamApi, clock: Clock
    ) -> None:
        settings = ApiSettings(upstream=f"http://127.0.0.1:{upstream.port}", cors_origins=("https://a.example",))
        answer = await Miner(await make_client(settings), clock).get("/x", {"Origin": "https://a.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


class TestOurs:
    """What is this daemon's own never leaves it, be there a route or not."""

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nodes/", 200),
            ("GET", "/nodes", 307),
            ("PUT", "/nodes/", 405),
            ("GET", "/nodes/a/b", 404),
            ("GET", "/nodes//", 404),
            ("GET", "/%6eodes/a/b", 404),
            ("GET", "/nodes%2Fa%2Fb", 404),
            ("GET", "/nodes/x", 405),
            ("GET", "/miner/nodes/", 401),
            ("POST", "/miner/nodes/", 405),
            ("GET", "/miner/nodes", 307),
            ("GET", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/openapi.json", 200),
            ("GET", "/docs", 200),
            ("POST", "/docs", 405),
            ("GET", "/gossip", 404),
        ],
    )
    async def test_it_is_answered_here(
        self, client: Client, upstream: UpstreamApi, method: str, path: str, status: int
    ) -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
        assert int((await raw_request(client.port, head)).split()[1]) == status
        assert upstream.received == []

    async def test_registrations_stay_here(self, miner: Miner, upstream: UpstreamApi) -> None:
        assert (await miner.post(server(1))).status == 202
        assert upstream.received == []

    @pytest.mark.parametrize("path", ["/nodesque", "/node", "/miner", "/miner/nodes/x", "/", "/metrics", "/docs/"])
    def test_what_only_looks_like_it_is_not(self, path: str) -> None:
        assert not is_ours(path)

    async def test_without_an_upstream_the_rest_is_404(self, alice_alone: Miner) -> None:
        for path in ("/", "/miner/chutes/", "/miner/nodes/x"):
            answer = await alice_alone.get(path)
            assert (answer.status, answer.detail) == (404, "Not Found")

    @pytest.fixture
    async def alice_alone(self, make_client: MakeClient, clock: Clock) -> Miner:
        return Miner(await make_client(), clock)


class TestRefusals:
    """What is not passed on is refused with the reason; what fails upstream is told as such."""

    @pytest.fixture
    def log(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        events: list[str] = []
        note = staticmethod(lambda event, **_: events.append(event))
        monkeypatch.setattr(proxy, "log", type("Log", (), {"info": note, "warning": note}))
        return events

    async def test_websockets_are_refused(self, client: Client, upstream: UpstreamApi) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.session.ws_connect("/socket")
        assert refused.value.status == 400
        async with client.session.get("/socket", headers={"Connection": "Upgrade", "Upgrade": "WebSocket"}) as answer:
            assert "WebSockets are not passed on" in (await answer.json())["detail"]
        assert upstream.received == []

    async def test_an_upstream_that_is_down_is_502_and_told_once(
        self, make_client: MakeClient, clock: Clock, upstream: UpstreamApi, log: list[str]
    ) -> None:
        async with raw_upstream(b"") as port:
            pass  # nobody listens there any more
        miner = Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock)
        for _ in range(3):
            answer = await miner.get("/x")
            assert (answer.status, answer.detail) == (502, "The upstream API cannot be reached.")
        assert log == ["upstream_failed"]

    @pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 101 S\r\n\r\n"])
    async def test_what_is_no_answer_is_502(
        self, make_client: MakeClient, clock: Clock, sent: bytes, log: list[str]
    ) -> None:
        async with raw_upstream(sent) as port:
            miner = Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock)
            assert (await miner.get("/x")).status == 502
            assert (await miner.get("/healthz")).status == 200

    async def test_an_upstream_that_is_silent_is_504(
        self, make_client: MakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch, log: list[str]
    ) -> None:
        monkeypatch.setattr(proxy, "IDLE_S_MAX", 0.1)
        async with raw_upstream(b"", close=False) as port:
            miner = Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock)
            answer = await miner.get("/x")
        assert (answer.status, answer.detail) == (504, "The upstream API was silent for 0.1 s.")

    async def test_an_answer_that_falls_silent_is_cut_off(
        self, make_client: MakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch, log: list[str]
    ) -> None:
        monkeypatch.setattr(proxy, "IDLE_S_MAX", 0.1)
        async with raw_upstream(b"HTTP/1.1 200 OK\r\n\r\nhello", close=False) as port:
            miner = Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}")), clock)
            with pytest.raises(aiohttp.ClientError):
                await miner.get("/x")

    async def test_one_that_answers_again_is_told(
        self, make_client: MakeClient, clock: Clock, upstream: UpstreamApi, log: list[str]
    ) -> None:
        miner = Miner(await make_client(ApiSettings(upstream=f"http://127.0.0.1:{upstream.port}")), clock)
        broken = True

        async def respond(request: web.Request) -> web.StreamResponse:
            if broken:
                assert request.transport is not None
                request.transport.abort()
            return web.Response()

        upstream.respond = respond
        assert (await miner.get("/x")).status == 502
        broken = False
        assert (await miner.get("/x")).status == 200
        assert log == ["upstream_failed", "upstream_answers"]

    async def test_a_loop_is_508_at_once(self, make_client: MakeClient, clock: Clock, upstream: UpstreamApi) -> None:
        """A daemon whose upstream leads back to itself, here by way of another server."""
        client = await make_client(ApiSettings(upstream=f"http://127.0.0.1:{upstream.port}"))
        passed = 0

        async def respond(request: web.Request) -> web.StreamResponse:
            nonlocal passed
            passed += 1
            async with client.session.get(request.path_qs, headers=request.headers) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        upstream.respond = respond
        answer = await Miner(client, clock).get("/x")
        assert answer.status == 508
        assert "api.upstream" in answer.detail
        assert passed == 1

    async def test_other_proxies_in_between_are_no_loop(self, miner: Miner, upstream: UpstreamApi) -> None:
        answer = await miner.get("/x", {"Via": "1.1 p2pnodes-0123456789ab, 1.0 fred"})
        assert answer.status == 200
        assert upstream.last.headers.getall("Via")[0] == "1.1 p2pnodes-0123456789ab, 1.0 fred"

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_a_body_over_its_bound_is_413(
        self, client: Client, upstream: UpstreamApi, monkeypatch: pytest.MonkeyPatch, chunked: bool, log: list[str]
    ) -> None:
        monkeypatch.setattr(proxy, "BODY_BYTES_MAX", 100_000)

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 10_000

        async with client.session.post("/x", data=parts() if chunked else b"x" * 200_000) as answer:
            assert answer.status == 413
            assert "100000 bytes" in (await answer.json())["detail"]
        assert all(len(received.body) <= 100_000 for received in upstream.received)
        assert log == []

    async def test_a_body_that_never_arrives_is_408(
        self, client: Client, upstream: UpstreamApi, monkeypatch: pytest.MonkeyPatch, log: list[str]
    ) -> None:
        monkeypatch.setattr(proxy, "IDLE_S_MAX", 0.2)
        answer = await raw_request(client.port, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert log == []

    async def test_an_upstream_that_takes_nothing_of_a_body_is_504(
        self, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, log: list[str]
    ) -> None:
        monkeypatch.setattr(proxy, "IDLE_S_MAX", 0.2)
        monkeypatch.setattr(proxy, "WATCH_S", 0.05)
        done = asyncio.Event()

        async def never_read(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await done.wait()
            writer.close()

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(400):
                yield b"x" * 100_000

        serving = await asyncio.start_server(never_read, "127.0.0.1", 0)
        port = serving.sockets[0].getsockname()[1]
        client = await make_client(ApiSettings(upstream=f"http://127.0.0.1:{port}"))
        async with asyncio.timeout(20), client.session.post("/x", data=parts()) as answer:
            assert answer.status == 504
        assert log == ["upstream_failed"]
        done.set()
        serving.close()

    async def test_a_client_that_goes_away_in_its_body_is_not_the_upstreams_failure(
        self, client: Client, upstream: UpstreamApi, log: list[str]
    ) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf")
        async with asyncio.timeout(20):
            while not upstream.begun:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            while upstream.begun > upstream.ended:
                await asyncio.sleep(0.01)
        async with client.session.get("/y") as answer:
            assert answer.status == 200
        assert log == []

    async def test_a_client_that_goes_away_before_the_answer_is_not_waited_for(
        self, client: Client, upstream: UpstreamApi, monkeypatch: pytest.MonkeyPatch, log: list[str]
    ) -> None:
        monkeypatch.setattr(proxy, "WATCH_S", 0.01)
        monkeypatch.setattr(proxy, "REQUESTS_PER_ADDRESS_MAX", 1)
        upstream.respond = lambda _: asyncio.sleep(3600)  # type: ignore[assignment, return-value]
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(20):
            while not upstream.received:
                await asyncio.sleep(0.01)
            async with client.session.get("/y") as refused:
                assert refused.status == 429
            writer.transport.abort()
            upstream.respond = upstream._ok
            status = 0
            while status != 200:
                async with client.session.get("/y") as answer:
                    status = answer.status
        assert log == []

    async def test_one_address_cannot_take_all_places(
        self, make_client: MakeClient, clock: Clock, upstream: UpstreamApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(proxy, "REQUESTS_PER_ADDRESS_MAX", 1)
        settings = ApiSettings(
            upstream=f"http://127.0.0.1:{upstream.port}", trusted_proxies=(ip_network("127.0.0.0/8"),)
        )
        miner = Miner(await make_client(settings), clock)
        gate = asyncio.Event()

        async def respond(request: web.Request) -> web.StreamResponse:
            if request.path == "/slow":
                await gate.wait()
            return web.Response()

        upstream.respond = respond
        slow = asyncio.create_task(miner.get("/slow", {"X-Forwarded-For": "198.51.100.7"}))
        async with asyncio.timeout(20):
            while not upstream.received:
                await asyncio.sleep(0.01)
        refused = await miner.get("/x", {"X-Forwarded-For": "198.51.100.7"})
        assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
        assert refused.detail == "1 requests of this address are open already"
        assert (await miner.get("/x", {"X-Forwarded-For": "198.51.100.8"})).status == 200
        gate.set()
        assert (await slow).status == 200

    async def test_too_many_at_once_are_503(
        self, miner: Miner, upstream: UpstreamApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(proxy, "REQUESTS_MAX", 2)
        gate = asyncio.Event()

        async def respond(_: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        upstream.respond = respond
        waiting = [asyncio.create_task(miner.get("/x")) for _ in range(2)]
        async with asyncio.timeout(20):
            while len(upstream.received) < 2:
                await asyncio.sleep(0.01)
        answer = await miner.get("/x")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await miner.get("/nodes/")).status == 200
        gate.set()
        assert [(await task).status for task in waiting] == [200, 200]
        assert (await miner.get("/x")).status == 200

    async def test_requests_count_against_the_addresss_limit(
        self, make_client: MakeClient, clock: Clock, upstream: UpstreamApi
    ) -> None:
        settings = ApiSettings(upstream=f"http://127.0.0.1:{upstream.port}", address_rate=0.1, address_burst=1)
        miner = Miner(await make_client(settings), clock)
        assert [(await miner.get("/x")).status for _ in range(2)] == [200, 429]

    @pytest.mark.parametrize(
        "target",
        [b"http://127.0.0.1:1/x", b"*", b"127.0.0.1:1", b"x"],
        ids=["absolute", "asterisk", "authority", "none"],
    )
    @pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"CONNECT"])
    async def test_it_is_no_open_proxy(
        self, client: Client, upstream: UpstreamApi, method: bytes, target: bytes
    ) -> None:
        answer = await raw_request(
            client.port, b"%b %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % (method, target)
        )
        assert not answer.startswith(b"HTTP/1.1 50")
        assert all(received.target == "/x" for received in upstream.received)

    async def test_a_client_that_goes_away_leaves_nothing_behind(
        self, client: Client, upstream: UpstreamApi, log: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        gone = asyncio.Event()

        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(b"x" * 10_000)
                    await asyncio.sleep(0)
            except ConnectionError:
                gone.set()
            return response

        upstream.respond = respond
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(client.session.get("/x"))
            await answer.content.readexactly(1000)
        async with asyncio.timeout(20):
            await gone.wait()
        assert log == []
        assert [record for record in caplog.records if record.exc_info] == []


class TestSettings:
    """The upstream is a base URL."""

    def test_its_last_slash_is_cut(self) -> None:
        assert ApiSettings(upstream="https://api.example.org/").upstream == "https://api.example.org"
        assert ApiSettings().upstream is None

    @pytest.mark.parametrize(
        "url",
        ["api.example.org", "ftp://a", "http://u:p@a", "http://a?q", "http://a#f", "http://a b", "http://a:99999", ""],
    )
    def test_what_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="expected"):
            ApiSettings(upstream=url)
