"""The agent shows its host's GPUs to validators that the miner allows, one challenge at a time, and to nobody else."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
import sr25519
from structlog.testing import capture_logs
from yarl import URL

from p2pnodes.miner import agent as agent_module
from p2pnodes.miner.agent import Agent, Source, models
from p2pnodes.miner.challenge import CHALLENGE_BYTES_MAX, Challenge, open_report
from p2pnodes.miner.hardware import HardwareError, HostAnswers, describe
from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import ConfigError
from tests.miner.agents import (
    CLAIM_ID,
    MINER,
    NETWORK_ID,
    OTHER,
    UUIDS,
    VALIDATOR,
    Answered,
    ask,
    challenge,
    post,
    running,
    signed,
)
from tests.miner.nvml import changed, recording
from tests.support import NOW_S, hotkey

HOST = recording("h200")


class Clock:
    """Wall clock that a test moves."""

    def __init__(self) -> None:
        self.s = float(NOW_S)

    def __call__(self) -> float:
        return self.s


def make(source: Source = lambda: HOST, **options: Any) -> Agent:
    defaults: dict[str, Any] = {"allow": [VALIDATOR.address, OTHER.address], "now_s": Clock()}
    return Agent(MINER, source, **(defaults | options))


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running(make()) as url:
        yield url


def nonces(count: int) -> list[str]:
    return [f"{number:064x}" for number in range(count)]


class Held:
    """GPUs whose reading takes until a test lets it go; the agent's first one does not."""

    def __init__(self) -> None:
        self.reads = 0
        self.at_once = self.most_at_once = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> HostAnswers:
        with self._lock:
            self.reads += 1
            first = self.reads == 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if not first:
            assert self.go.wait(20)
        with self._lock:
            self.at_once -= 1
        return HOST


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    held = Held()
    yield held
    held.go.set()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class TestAnswers:
    """An answer holds for one challenge of one validator, and anybody can check it from the protocol's text."""

    async def test_a_report_is_signed_by_the_miner_over_the_challenge(self, url: str) -> None:
        answer = await ask(url, NOW_S)
        assert answer.status == 200
        sealed = json.loads(answer.body)
        parts = (NETWORK_ID, CLAIM_ID, MINER.address, VALIDATOR.address, "01" * 32)
        message = ":".join(("p2pnodes-gpu-report", *parts, sha256(sealed["report"].encode()).hexdigest()))
        assert sr25519.verify(bytes.fromhex(sealed["signature"]), message.encode(), MINER.public_key)

    async def test_a_report_shows_the_facts_of_the_gpus_that_were_asked_for(self, url: str) -> None:
        report = (await ask(url, NOW_S)).report
        assert report["devices"] == [describe(gpu).gpu.model_dump() for gpu in HOST.gpus]
        assert (report["time"], report["driver"], report["problems"], report["total"]) == (NOW_S, HOST.driver, [], 2)

    async def test_gpus_that_nobody_asked_for_are_not_shown(self, url: str) -> None:
        report = (await ask(url, NOW_S, uuids=[UUIDS[1]])).report
        assert ([device["uuid"] for device in report["devices"]], report["total"]) == ([UUIDS[1]], 2)
        assert UUIDS[0] not in json.dumps(report)

    async def test_a_uuid_in_another_spelling_is_the_same_gpu(self, url: str) -> None:
        report = (await ask(url, NOW_S, uuids=[str(HOST.gpus[0].uuid).upper()])).report
        assert [device["uuid"] for device in report["devices"]] == [UUIDS[0]]

    async def test_validators_read_it(self, url: str) -> None:
        asked = Challenge(network=NETWORK_ID, claim=CLAIM_ID, nonce="01" * 32, uuids=("gpu-1",))
        answer = await ask(url, NOW_S)
        report = open_report(answer.body, asked, miner=MINER.address, validator=VALIDATOR.address, now_s=NOW_S)
        assert len(report.devices) == 2

    async def test_the_gpus_are_read_anew_for_each_challenge(self) -> None:
        hosts = [HOST, HOST, changed(HOST, 0, name="NVIDIA H100 80GB HBM3")]
        async with running(make(lambda: hosts.pop(0))) as url:
            names = [(await ask(url, NOW_S, nonce=nonce)).report["devices"][0]["name"] for nonce in nonces(2)]
        assert names == ["NVIDIA H200", "NVIDIA H100 80GB HBM3"]

    async def test_a_gpu_with_a_problem_is_told_beside_the_others(self) -> None:
        async with running(make(lambda: recording("mig"))) as url:
            uuids = [str(gpu.uuid) for gpu in recording("mig").gpus]
            report = (await ask(url, NOW_S, uuids=uuids)).report
        assert [device["device_index"] for device in report["devices"]] == [0]
        assert report["problems"][0].startswith("GPU 1 (NVIDIA A100-SXM4-80GB): MIG is on")

    async def test_each_challenge_is_one_log_line(self, url: str) -> None:
        with capture_logs() as lines:
            await ask(url, NOW_S, uuids=[*UUIDS, "gpu-1"])
        (line,) = lines
        assert line["event"] == "challenge"
        assert (line["validator"], line["claim"], line["gpus"]) == (VALIDATOR.address, CLAIM_ID, 2)
        assert line["absent"] == ["gpu-1"]

    async def test_ping(self, url: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/ping") as answer:
            assert (answer.status, await answer.text()) == (200, "pong")


class TestWhoIsAnswered:
    """Only a validator on the list, with a signature of now over this very body, for this very miner."""

    async def refused(self, url: str, headers: dict[str, str], body: bytes = b"{}") -> Answered:
        return await post(url, body, headers)

    async def test_another_validator_is_403(self, url: str) -> None:
        stranger = hotkey("//validator2")
        answer = await ask(url, NOW_S, validator=stranger)
        assert (answer.status, answer.detail) == (403, f"{stranger.address} is not on this agent's allow-list")

    async def test_any_allows_everybody_who_signs(self) -> None:
        async with running(make(allow=None)) as url:
            assert (await ask(url, NOW_S, validator=hotkey("//validator2"))).status == 200
            body = json.dumps(challenge()).encode()
            headers = signed(body, NOW_S, validator=hotkey("//validator2")) | {"X-Chutes-Signature": "00" * 64}
            assert (await post(url, body, headers)).status == 401

    @pytest.mark.parametrize("off_s", [-31, 31, -3600, 10**12])
    async def test_a_time_that_is_not_now_is_401_and_tells_the_hosts(self, url: str, off_s: int) -> None:
        answer = await ask(url, NOW_S + off_s)
        assert answer.status == 401
        assert f"within 30 s of this host's clock, which says {NOW_S}" in answer.detail

    @pytest.mark.parametrize("off_s", [-30, 30])
    async def test_clocks_may_differ_a_little(self, url: str, off_s: int) -> None:
        assert (await ask(url, NOW_S + off_s)).status == 200

    @pytest.mark.parametrize("header", ["X-Chutes-Validator", "X-Chutes-Nonce", "X-Chutes-Signature"])
    @pytest.mark.parametrize("value", [None, "", "0", "é" * 70, "5" * 48, "00" * 64])
    async def test_a_header_that_is_absent_or_wrong_is_401(self, url: str, header: str, value: str | None) -> None:
        body = json.dumps(challenge()).encode()
        headers = signed(body, NOW_S)
        if value is None:
            del headers[header]
        else:
            headers[header] = value
        answer = await post(url, body, headers)
        assert answer.status == 401
        assert header in answer.detail

    @pytest.mark.parametrize("miner", ["", hotkey("//Bob").address, "é" * 100])
    async def test_another_miners_challenge_is_421_and_names_both(self, url: str, miner: str) -> None:
        body = json.dumps(challenge()).encode()
        answer = await post(url, body, signed(body, NOW_S, miner=miner))
        assert answer.status == 421
        assert MINER.address in answer.detail
        assert miner[:48] in answer.detail

    async def test_a_signature_is_for_one_body(self, url: str) -> None:
        headers = signed(json.dumps(challenge()).encode(), NOW_S)
        assert (await post(url, json.dumps(challenge(uuids=["gpu-2"])).encode(), headers)).status == 401

    async def test_a_signature_is_for_one_validator(self, url: str) -> None:
        body = json.dumps(challenge()).encode()
        headers = signed(body, NOW_S) | {"X-Chutes-Validator": OTHER.address}
        assert (await post(url, body, headers)).status == 401

    async def test_a_challenge_is_answered_once(self, url: str) -> None:
        body = json.dumps(challenge()).encode()
        headers = signed(body, NOW_S)
        assert [(await post(url, body, headers)).status for _ in range(2)] == [200, 409]
        assert (await ask(url, NOW_S)).status == 409
        assert (await ask(url, NOW_S, validator=OTHER)).status == 200

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff",
            b"[" * 4_000,
            json.dumps(challenge(nonce="AB" * 32)).encode(),
            json.dumps(challenge(nonce="ab" * 31)).encode(),
            json.dumps(challenge(network=7)).encode(),
            json.dumps(challenge(claim="cd" * 32 + "\n")).encode(),
            json.dumps(challenge(uuids=[])).encode(),
            json.dumps(challenge(uuids=["u"] * 11)).encode(),
            json.dumps(challenge(uuids=["u" * 65])).encode(),
            json.dumps(challenge(uuids="u")).encode(),
        ],
    )
    async def test_a_body_that_is_no_challenge_is_400(self, url: str, body: bytes) -> None:
        answer = await post(url, body, signed(body, NOW_S))
        assert answer.status == 400
        assert answer.detail.startswith("no challenge: ")

    async def test_other_paths_and_methods_are_refused_as_json(self, url: str) -> None:
        assert (await post(url, b"", {}, "/elsewhere")).detail == "Not Found"
        async with aiohttp.ClientSession() as session, session.get(f"{url}/challenge") as answer:
            assert (answer.status, await answer.json()) == (405, {"detail": "Method Not Allowed"})
            assert answer.headers[HEADER] == Code.API_NO_ROUTE


class TestTurns:
    """One challenge is answered at a time; the others wait a bounded time, in bounded number."""

    async def test_no_two_readings_run_at_once(self, held: Held) -> None:
        async with running(make(held)) as url:
            asked = [asyncio.create_task(ask(url, NOW_S, nonce=nonce)) for nonce in nonces(6)]
            await eventually(lambda: held.at_once == 1)
            held.go.set()
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        assert (held.reads, held.most_at_once) == (7, 1)

    async def test_who_waits_too_long_is_told_to_come_again(self, held: Held) -> None:
        async with running(make(held, wait_s_max=0.05)) as url:
            first = asyncio.create_task(ask(url, NOW_S, nonce="00" * 32))
            await eventually(lambda: held.at_once == 1)
            second = await ask(url, NOW_S)
            assert (second.status, second.headers["Retry-After"]) == (503, "1")
            assert second.detail == "busy: other challenges took longer than 0.05 s"
            held.go.set()
            assert (await first).status == 200

    async def test_who_is_one_too_many_is_told_at_once(self, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "WAITING_MAX", 2)
        agent = make(held, wait_s_max=20.0)
        async with running(agent) as url:
            asked = [asyncio.create_task(ask(url, NOW_S, nonce=nonce)) for nonce in nonces(3)]
            await eventually(lambda: held.at_once == 1 and agent._waiting == 2)
            answer = await ask(url, NOW_S)
            assert (answer.status, answer.detail) == (503, "busy: 2 challenges wait already")
            held.go.set()
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}


class TestTrouble:
    """A driver in trouble is 503 with its reason; the agent lives on and answers when the trouble is over."""

    async def test_a_driver_that_hangs_is_given_up_on_until_it_comes_back(self, held: Held) -> None:
        async with running(make(held, read_s_max=0.05)) as url:
            with capture_logs() as lines:
                first, second = [await ask(url, NOW_S, nonce=nonce) for nonce in nonces(2)]
            assert (first.status, second.status) == (503, 503)
            assert first.detail.startswith("the GPUs could not be read within 0.05 s: see nvidia-smi on this host")
            assert second.detail.startswith("NVML hangs in an earlier reading")
            assert [line["event"] for line in lines if line["log_level"] == "error"] == ["nvml_hangs"]
            assert held.reads == 2
            held.go.set()
            await eventually(lambda: held.at_once == 0)
            assert (await ask(url, NOW_S)).status == 200

    async def test_an_agent_stops_while_its_driver_hangs(self, held: Held) -> None:
        agent = make(held, read_s_max=0.05)
        async with running(agent) as url:
            assert (await ask(url, NOW_S)).status == 503
            begun_s = time.monotonic()
        assert time.monotonic() - begun_s < 2
        assert held.at_once == 1

    async def test_a_driver_that_is_gone_is_503_and_may_come_back(self) -> None:
        lost: list[HardwareError | None] = [None, HardwareError("no NVIDIA driver answers on this host"), None]

        def source() -> HostAnswers:
            if (error := lost.pop(0)) is not None:
                raise error
            return HOST

        async with running(make(source)) as url:
            answers = [await ask(url, NOW_S, nonce=nonce) for nonce in nonces(2)]
        assert [answer.status for answer in answers] == [503, 200]
        assert (answers[0].detail, answers[0].headers["Retry-After"]) == ("no NVIDIA driver answers on this host", "1")

    async def test_an_error_that_nobody_expected_is_503_too(self) -> None:
        calls = iter([HOST])

        def source() -> HostAnswers:
            return next(calls)

        async with running(make(source)) as url:
            with capture_logs() as lines:
                answer = await ask(url, NOW_S)
        assert (answer.status, answer.detail) == (503, "reading the GPUs failed: StopIteration: ")
        assert "gpus_not_read" in [line["event"] for line in lines]

    async def test_an_agent_without_gpus_does_not_start(self) -> None:
        def source() -> HostAnswers:
            raise HardwareError("no NVIDIA driver answers")

        with pytest.raises(HardwareError, match="no NVIDIA driver answers"):
            await make(source).start()

    async def test_a_port_that_is_taken_is_one_line(self) -> None:
        agent = make()
        async with running(agent):
            with pytest.raises(
                ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{agent.port}: Address already in use"
            ):
                await make().start(port=agent.port)

    @pytest.mark.parametrize(
        ("allow", "reason"),
        [([], "found 0 validators"), ([VALIDATOR.address] * 1_025, "found 1025"), (["5Alice"], "expected SS58")],
    )
    def test_an_allow_list_that_is_none_is_one_line(self, allow: list[str], reason: str) -> None:
        with pytest.raises(ConfigError, match=reason):
            make(allow=allow)


class TestBounds:
    """Nothing that a client sends grows the agent."""

    async def test_a_long_body_is_413(self, url: str) -> None:
        body = b" " * (CHALLENGE_BYTES_MAX + 1)
        assert (await post(url, body, signed(body, NOW_S))).status == 413

    async def test_a_body_that_never_ends_is_408(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "BODY_S_MAX", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /challenge HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        writer.close()
        await writer.wait_closed()

    async def test_bytes_that_are_no_http_are_400_and_the_agent_goes_on(self, url: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        async with asyncio.timeout(10):
            assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert (await ask(url, NOW_S)).status == 200

    async def test_one_validator_has_a_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "VALIDATOR_BURST", 2)
        monkeypatch.setattr(agent_module, "VALIDATOR_RATE", 0.01)
        async with running(make()) as url:
            answers = [await ask(url, NOW_S, nonce=nonce) for nonce in nonces(3)]
            assert [answer.status for answer in answers] == [200, 200, 429]
            assert 90 <= int(answers[2].headers["Retry-After"]) <= 100
            assert (await ask(url, NOW_S, validator=OTHER)).status == 200

    async def test_one_address_has_a_rate_signed_or_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "ADDRESS_BURST", 2)
        monkeypatch.setattr(agent_module, "ADDRESS_RATE", 0.01)
        async with running(make()) as url:
            assert [(await post(url, b"", {})).status for _ in range(3)] == [421, 421, 429]

    async def test_nonces_are_forgotten_when_their_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "NONCES_MAX", 2)
        clock = Clock()
        async with running(make(now_s=clock)) as url:
            answers = [await ask(url, clock.s, nonce=nonce) for nonce in nonces(3)]
            assert [answer.status for answer in answers] == [200, 200, 503]
            assert answers[2].headers["Retry-After"] == "30"
            clock.s += 32
            assert (await ask(url, clock.s, nonce=nonces(3)[2])).status == 200
            assert (await ask(url, clock.s, nonce=nonces(3)[2])).status == 409

    async def test_a_connection_too_many_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "CONNECTIONS_MAX", 2)
        agent = make()
        async with running(agent) as url, AsyncExitStack() as stack:
            assert agent._runner is not None
            server = agent._runner.server
            assert server is not None
            for _ in range(2):
                _, writer = await asyncio.open_connection("127.0.0.1", agent.port)
                stack.callback(writer.close)
            await eventually(lambda: len(server.connections) == 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
            await stack.aclose()
            await eventually(lambda: len(server.connections) == 0)
            assert (await ask(url, NOW_S)).status == 200

    async def test_whoever_holds_many_idle_connections_keeps_no_other_address_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agent_module, "CONNECTIONS_PER_ADDRESS_MAX", 2)
        async with running(make()) as url, AsyncExitStack() as stack:
            port = URL(url).port or 0
            for _ in range(2):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            stack.callback(writer.close)
            writer.write(b"GET /ping HTTP/1.1\r\nHost: agent\r\n\r\n")
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def test_refusals_do_not_fill_the_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "REFUSALS_BURST", 2)
        monkeypatch.setattr(agent_module, "REFUSALS_PER_S", 1e-6)
        agent = make()
        async with running(agent) as url:
            with capture_logs() as lines:
                for _ in range(5):
                    await post(url, b"", {"X-Chutes-Validator": "\u200b" * 100})
        assert [(line["event"], line["status"], line["validator"]) for line in lines] == [
            ("challenge_refused", 421, "?" * 64)
        ] * 2

    async def test_a_hundred_agents_live_in_one_process(self) -> None:
        clock = Clock()
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(running(make(now_s=clock))) for _ in range(100)]
            answers = await asyncio.gather(*(ask(url, NOW_S) for url in urls))
        assert {answer.status for answer in answers} == {200}


def test_models_are_counted() -> None:
    assert models([describe(gpu).gpu for gpu in HOST.gpus]) == "2 x NVIDIA H200"
    assert models([]) == "no GPU"


@pytest.mark.parametrize(
    ("remote", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
    ],
)
def test_an_ipv6_subnet_is_one_client(remote: str | None, key: str) -> None:
    assert agent_module._address_key(remote) == key
