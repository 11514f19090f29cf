"""Hostile inputs: each is a 4xx, none changes a row, none leaves a traceback."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp.http import HttpProcessingError

from p2pnodes import inbound
from p2pnodes.api import errors
from p2pnodes.api.settings import ApiSettings
from p2pnodes.inbound import PARSER_ERRORS_BURST, ParserErrors
from p2pnodes.model.requests import BODY_BYTES_MAX
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, Client, Clock, Miner, encode, fingerprint, gpu, server


class Log:
    """What was logged, as (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))

    def exception(self, event: str, **fields: Any) -> None:
        self.lines.append(("exception", event, fields))


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """The interface's own log; no test of this file may leave a traceback in it or in aiohttp's."""
    log = Log()
    monkeypatch.setattr(inbound, "log", log)
    monkeypatch.setattr(errors, "log", log)
    yield log
    assert [line for line in log.lines if line[0] != "warning"] == []
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


def with_text(place: str, text: str) -> bytes:
    """A body in which a JSON text, which ``json.dumps`` may not write, stands in one field."""
    return encode({"server_id": "s", "server_name": "n", "nodes": [{**gpu(), place: "@"}]}).replace(
        b'"@"', text.encode()
    )


BODIES = {
    "NUL in a name": with_text("name", r'"H100\u0000"'),
    "NUL in a uuid": with_text("uuid", r'"a\u0000"'),
    "NUL in the server id": encode({**server(1), "server_id": "\0"}),
    "NUL byte": b'{"nodes":\0[]}',
    "lone surrogate in a name": with_text("name", r'"\ud800"'),
    "lone surrogate in a host": with_text("verification_host", r'"\udfff"'),
    "lone surrogate as a key": b'{"\\ud800":1,"nodes":[{}]}',
    "lone surrogate in the server name": b'{"server_name":"\\ud800","nodes":[]}',
    "NaN": with_text("clock_rate", "NaN"),
    "Infinity": with_text("clock_rate", "-Infinity"),
    "1e999": with_text("clock_rate", "1e999"),
    "a float of a thousand digits": with_text("clock_rate", "1" * 1000 + ".0"),
    "an integer of 600 digits": with_text("memory", "9" * 600),
    "an integer of 5,000 digits": with_text("memory", "9" * 5000),
    "an integer of 60,000 digits": with_text("memory", "9" * 60_000),
    "int32 overflow": with_text("processors", str(2**31)),
    "int64 overflow": with_text("memory", str(2**63)),
    "a negative memory": with_text("memory", "-1"),
    "digits of another script": with_text("memory", '"٣٣"'),
    "a huge uuid": with_text("uuid", json.dumps("x" * 60_000)),
    "60,000 brackets": b"[" * 60_000,
    "30,000 nested arrays": b"[" * 30_000 + b"]" * 30_000,
    "10,000 nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "brackets in a text": with_text("name", json.dumps("[" * 40_000)),
    "20,000 empty nodes": b'{"nodes":[' + b"{}," * 20_000 + b"{}]}",
    "a node of 10,000 fields": encode({"nodes": [{f"f{n}": n for n in range(5_000)}]}),
    "not UTF-8": b'{"nodes":"\xff\xfe"}',
    "UTF-16": encode(server(1)).decode().encode("utf-16"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + encode(server(1)),
    "gzip": gzip.compress(encode(server(1))),
    "two documents": encode(server(1)) * 2,
    "trailing garbage": encode(server(1)) + b"x",
    "truncated": encode(server(1))[:-1],
    "white space": b" \n",
    "a text": b'"nodes"',
    "a number": b"7",
    "nodes as an object": b'{"nodes":{"0":{}}}',
    "nodes as a text": b'{"nodes":"[{}]"}',
    "null nodes": b'{"nodes":[null]}',
    "a pattern in a name": with_text("name", json.dumps("(a+)+$" * 40)),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_hostile_body_is_refused(alice: Miner, db: Database, name: str) -> None:
    before = await fingerprint(db)
    answer = await alice.post(BODIES[name])
    assert answer.status in {400, 422}
    assert answer.detail
    assert len(json.dumps(answer.body)) < 400_000
    assert await fingerprint(db) == before
    unsigned = await alice.send("POST", "/nodes/", {"Content-Type": "application/json"}, BODIES[name])
    assert unsigned.status in {401, 422}


REQUESTS = {
    "a nonce of 5,000 digits": ("GET", "/nodes/verification_status", {"X-Chutes-Nonce": "9" * 5000}),
    "a nonce of other digits": ("GET", "/nodes/verification_status", {"X-Chutes-Nonce": "١٢٣"}),
    "a header that is not UTF-8": ("GET", "/nodes/verification_status", {"X-Chutes-Hotkey": "\udcff\udcfe"}),
    "a signature that is not UTF-8": ("DELETE", "/nodes/x", {"X-Chutes-Signature": "\udcff"}),
    "a hotkey of 8,000 characters": ("POST", "/nodes/", {"X-Chutes-Hotkey": "5" * 8000}),
    "a signature of 8,000 digits": ("POST", "/nodes/", {"X-Chutes-Signature": "ab" * 4000}),
    "a content type that is none": ("POST", "/nodes/", {"Content-Type": ";;\udcff=,"}),
    "a NUL in the path": ("DELETE", "/nodes/%00", {}),
    "a surrogate in the path": ("DELETE", "/nodes/%ED%A0%80", {}),
    "a path of 7,000 characters": ("DELETE", "/nodes/" + "x" * 7000, {}),
    "a line break in the path": ("DELETE", "/nodes/a%0d%0ab", {}),
    "dots in the path": ("DELETE", "/nodes/..%2f..%2fetc", {}),
    "a task id that is not UTF-8": ("GET", "/nodes/verification_status?task_id=%ff%00", {}),
    "a query that is not UTF-8": ("GET", "/nodes/?detailed=%ff", {}),
    "an unknown path": ("GET", "/etc/passwd", {}),
    "an unknown method": ("PROPFIND", "/nodes/", {}),
    "an unknown expectation": ("POST", "/nodes/", {"Expect": "tea"}),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_hostile_request_is_refused(alice: Miner, db: Database, name: str) -> None:
    method, path, headers = REQUESTS[name]
    before = await fingerprint(db)
    for signed in ({}, alice.headers("nodes"), alice.signed(b"{}")):
        answer = await alice.send(method, path, {**signed, **headers}, b"{}" if method == "POST" else None)
        assert 400 <= answer.status < 500
        assert answer.detail
    assert await fingerprint(db) == before


class TestSize:
    """64 KiB are read, and not a byte more than it takes to see that there is more."""

    async def test_a_body_of_64_kib_is_read(self, alice: Miner) -> None:
        padding = BODY_BYTES_MAX - len(encode({**server(1), "extra": ""}))
        body = encode({**server(1), "extra": "x" * padding})
        assert len(body) == BODY_BYTES_MAX
        assert (await alice.post(body)).status == 202
        assert (await alice.post(body + b" ")).status == 413

    async def test_a_declared_length_over_it_is_413_before_a_byte_of_the_body(self, raw: "Raw") -> None:
        status, answer = await raw.send(b"POST /nodes/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        assert status == 413
        assert b'{"detail":"Request body is too large: at most 65536 bytes are allowed."}' in answer

    async def test_a_client_that_waits_to_be_told_need_not_send_it(self, raw: "Raw") -> None:
        head = b"POST /nodes/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        assert (await raw.send(head % 70_000))[0] == 413
        assert (await raw.send(head % 2, head_only=True))[0] == 100

    async def test_chunks_are_counted(self, alice: Miner) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b" " * 4096

        async with alice.client.session.post("/nodes/", data=chunks(), headers=alice.signed(b"")) as response:
            assert response.status == 413

    async def test_a_body_that_does_not_come_is_408(self, make_client: MakeClient) -> None:
        raw = Raw(await make_client(ApiSettings(body_timeout_s=0.05)))
        status, answer = await raw.send(b"POST /nodes/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert status == 408
        assert b"Connection: close" in answer


class Raw:
    """A connection without an HTTP client, which would not send such bytes."""

    def __init__(self, client: Client) -> None:
        self.port = client.port

    async def send(self, *parts: bytes, head_only: bool = False) -> tuple[int, bytes]:
        """Send the parts one by one; status and bytes of the answer, or of its head alone."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                for _ in range(5):  # so that the server sees them apart
                    await asyncio.sleep(0)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            body = b"" if head_only else await asyncio.wait_for(reader.read(65_536), 10)
            return int(head.split()[1]), head + body
        finally:
            writer.close()


@pytest.fixture
def raw(client: Client) -> Raw:
    return Raw(client)


HOST = b"GET /nodes/ HTTP/1.1\r\nHost: a\r\n"
UNREADABLE = {
    "a NUL in a header": [HOST + b"X-A: a\0b\r\n\r\n"],
    "a header name that is not ASCII": [HOST + b"X-A\xff: 1\r\n\r\n"],
    "thousands of headers": [HOST + b"".join(b"X-%d: 1\r\n" % n for n in range(5000)) + b"\r\n"],
    "129 headers": [HOST + b"".join(b"X-%d: 1\r\n" % n for n in range(129)) + b"\r\n"],
    "a header of 20,000 bytes": [HOST + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n"],
    "a header that never ends": [HOST + b"X-A: " + b"a" * 9_000],
    "a request line of 20,000 bytes": [b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"],
    "a TLS hello": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(100))],
    "no HTTP at all": [b"\xff\xfe\xfd\r\n\r\n"],
    "a query that is not ASCII": [b"GET /nodes/?a=\xff HTTP/1.1\r\nHost: a\r\n\r\n"],
    "a host that is none": [b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n"],
    "a length that is no number": [HOST + b"Content-Length: x\r\n\r\n"],
    "a negative length": [HOST + b"Content-Length: -1\r\n\r\n"],
    "two lengths": [HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
    "a length beside chunks": [HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    "a bad chunk": [HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_the_parser_cannot_read_is_400_and_one_line(raw: Raw, log: Log, name: str) -> None:
    status, _ = await raw.send(*UNREADABLE[name])
    assert status == 400
    ((level, event, fields),) = log.lines
    assert (level, event) == ("warning", "unreadable_request")
    assert fields["remote"] == "127.0.0.1"
    assert fields["reason"]
    assert "\n" not in fields["reason"]
    assert len(fields["reason"]) < 300


async def test_a_flood_of_unreadable_requests_is_a_few_lines(raw: Raw, log: Log) -> None:
    for _ in range(PARSER_ERRORS_BURST + 20):
        assert (await raw.send(HOST + b"X-A: \0\r\n\r\n"))[0] == 400
    assert len(log.lines) == PARSER_ERRORS_BURST


def test_the_next_line_tells_how_many_were_left_out(log: Log) -> None:
    now = 0.0
    parser_errors = ParserErrors(lambda: now)

    def fail() -> bool:
        error = HttpProcessingError(message="bad\n\nthing")
        return parser_errors.filter(
            logging.LogRecord("x", logging.ERROR, "", 0, "from %s", ("192.0.2.1",), (type(error), error, None))
        )

    for _ in range(PARSER_ERRORS_BURST + 7):
        assert not fail()
    now = 5.0
    fail()
    assert [fields["suppressed"] for _, _, fields in log.lines] == [0] * PARSER_ERRORS_BURST + [7]
    assert log.lines[-1][2] == {"remote": "192.0.2.1", "reason": "bad thing", "suppressed": 7, "code": "api-unreadable"}


def test_other_records_of_aiohttp_pass() -> None:
    assert ParserErrors().filter(logging.LogRecord("x", logging.ERROR, "", 0, "text", (), None))


@pytest.mark.parametrize("method", [b"POST", b"GET", b"DELETE"])
async def test_a_body_that_breaks_off_in_its_framing_is_refused_quietly(
    make_client: MakeClient, log: Log, method: bytes
) -> None:
    raw = Raw(await make_client(ApiSettings(body_timeout_s=0.05)))
    head = method + b" /nodes/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    status, _ = await raw.send(head, b"zz\r\nab\r\n\r\n")
    assert status in {200, 400, 405, 408}
    assert len(log.lines) <= 1


async def test_a_client_that_goes_away_in_its_body_leaves_no_trace(
    client: Client, db: Database, alice: Miner, log: Log
) -> None:
    body = encode(server(1))
    head = "".join(f"{name}: {value}\r\n" for name, value in alice.signed(body).items())
    before = await fingerprint(db)
    for sent in (0, 1, len(body) - 1):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"POST /nodes/ HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
        writer.write(body[:sent])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await alice.get("/healthz")).status == 200
    assert await fingerprint(db) == before
    assert log.lines == []


async def test_a_replayed_request_of_each_kind_changes_nothing(alice: Miner, db: Database, clock: Clock) -> None:
    body = encode(server(2))
    post, unbound, bound = alice.signed(body), alice.headers("nodes"), alice.headers(f"nodes:{gpu(1)['uuid']}")
    task_id = (await alice.post(body, post)).body["task_id"]
    assert (await alice.delete(gpu(0)["uuid"], unbound)).status == 200
    assert (await alice.delete(gpu(1)["uuid"], bound)).status == 200
    before = await fingerprint(db)
    clock.s += 599
    assert (await alice.post(body, post)).body["task_id"] == task_id
    assert (await alice.delete(gpu(0)["uuid"], unbound)).status == 200
    assert (await alice.delete(gpu(1)["uuid"], bound)).status == 200
    assert (await alice.delete(gpu(1)["uuid"], unbound)).status == 401
    assert await fingerprint(db) == before
    clock.s += 1
    assert (await alice.post(body, post)).detail == "Invalid nonce!"
    assert (await alice.delete(gpu(0)["uuid"], unbound)).detail == "Invalid nonce!"
    assert await fingerprint(db) == before
    assert task_id.startswith(ALICE.address)
