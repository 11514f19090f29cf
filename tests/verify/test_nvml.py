"""The verifier nvml: honest agents pass, every lie is caught and named, and who cannot check says nothing."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.gossip import driver
from p2pnodes.miner.agent import Agent, Source
from p2pnodes.miner.challenge import (
    Challenge,
    MalformedReportError,
    Report,
    Sealed,
    open_report,
)
from p2pnodes.miner.hardware import Gpu, HardwareError, HostAnswers, describe
from p2pnodes.miner.probe import probe
from p2pnodes.model.claims import parse_body
from p2pnodes.model.events import ABSTAIN, DETAIL_CHARS_MAX, FAILED, VERIFIED
from p2pnodes.model.gpus import supported_gpus
from p2pnodes.model.inventory import Tally
from p2pnodes.model.keys import Hotkey
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify import nvml
from p2pnodes.verify.exchange import Exchange
from p2pnodes.verify.finding import Finding, VerifierUnavailableError
from p2pnodes.verify.nvml import SLOT_S, NvmlVerifier, compare
from p2pnodes.verify.settings import VerifySettings
from p2pnodes.verify.verifier import Setup
from tests.miner.agents import MINER, OTHER, VALIDATOR, running
from tests.miner.fake_api import FakeApi, Reply, answers, dead_url, hangs_up, never_answers, serving
from tests.miner.nvml import changed, recording
from tests.support import NETWORK, NOW_S, hotkey, machine_sleeps

HOST: Final = recording("h200")
FACTS: Final = [describe(gpu).gpu for gpu in HOST.gpus]
G0, G1 = (gpu.uuid for gpu in FACTS)
CLAIM_ID: Final = bytes(range(32))
REGISTER: Final = "delete the claim and register what p2pnodes miner probe prints on that host"
ASKED: Final = Challenge(network="ab" * 16, claim="cd" * 32, nonce="01" * 32, uuids=("u",))
SEALED: Final = (
    Sealed.of(
        Report(
            network=ASKED.network,
            claim=ASKED.claim,
            miner=MINER.address,
            validator=VALIDATOR.address,
            nonce=ASKED.nonce,
            time=NOW_S,
            driver=HOST.driver,
            total=2,
            devices=tuple(FACTS),
            problems=(),
        ),
        MINER,
    )
    .model_dump_json()
    .encode()
)
"""An answer to ASKED."""

Change = Callable[[dict[str, Any]], None]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def claim_of(
    *urls: str, host: HostAnswers = HOST, address: str = "127.0.0.1", change: Mapping[str, Any] | None = None
) -> StoredClaim:
    """A claim of a host's GPUs: the first at the first agent, and so on; the last agent takes the rest."""
    nodes = probe(host, host=address, port=port_of(urls[0])).body["nodes"]
    for index, node in enumerate(nodes):
        node["verification_port"] = port_of(urls[min(index, len(urls) - 1)])
    nodes[0].update(change or {})
    body = parse_body(json.dumps({"nodes": nodes}).encode())
    return StoredClaim(CLAIM_ID, MINER.public_key, NOW_S, body, 0, Tally("pending", None, ""))


class Online:
    """Whether this daemon's own network works; a test says."""

    def __init__(self) -> None:
        self.value = True

    def __call__(self) -> bool:
        return self.value


@pytest.fixture
def online() -> Online:
    return Online()


@pytest.fixture
async def verifier(online: Online) -> AsyncIterator[NvmlVerifier]:
    exchange = Exchange(allow_private=True, online=online)
    await exchange.start()
    setup = Setup(VerifySettings(), VALIDATOR, NETWORK, exchange, time.time, os.urandom)
    yield NvmlVerifier(setup, pause_s=0.0)
    await exchange.close()


def honest(source: Source = lambda: HOST, **options: Any) -> Agent:
    return Agent(MINER, source, **({"allow": [VALIDATOR.address]} | options))


def report_to(asked: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """What an honest agent would report."""
    return {
        **{field: asked[field] for field in ("network", "claim", "nonce")},
        "miner": headers["X-Chutes-Miner"],
        "validator": headers["X-Chutes-Validator"],
        "time": int(time.time()),
        "driver": HOST.driver,
        "total": 2,
        "devices": [gpu.model_dump() for gpu in FACTS],
        "problems": [],
    }


def lies(change: Change = lambda _: None, *, key: Hotkey = MINER) -> Reply:
    """An agent that changes its report before it signs it, with whatever key it has."""

    async def reply(request: web.Request) -> web.Response:
        report = report_to(json.loads(await request.read()), request.headers)
        change(report)
        sealed = Sealed.of(Report.model_validate_json(json.dumps(report)), key)
        return web.Response(body=sealed.model_dump_json().encode())

    return reply


def device(index: int, **fields: Any) -> Change:
    return lambda report: report["devices"][index].update(fields)


def fields(**values: Any) -> Change:
    return lambda report: report.update(values)


async def check(verifier: NvmlVerifier, *replies: Reply) -> tuple[Finding, FakeApi]:
    async with serving(FakeApi(*replies)) as api:
        return await verifier.verify(claim_of(api.url)), api


class TestHonest:
    """Who has the GPUs and shows them is verified."""

    @pytest.mark.parametrize("name", ["a100_sxm", "h100_sxm", "h200", "l40s", "rtx4090", "rtx5090"])
    async def test_each_model_passes(self, verifier: NvmlVerifier, name: str) -> None:
        async with running(honest(lambda: recording(name))) as url:
            assert await verifier.verify(claim_of(url, host=recording(name))) == Finding(VERIFIED)

    async def test_gpus_beyond_the_claims_may_be_there(self, verifier: NvmlVerifier) -> None:
        async with running(honest()) as url:
            claim = claim_of(url)
            part = claim._replace(body=claim.body._replace(nodes=claim.body.nodes[1:]))
            assert await verifier.verify(part) == Finding(VERIFIED)

    async def test_each_agent_of_a_claim_is_asked_once(self, verifier: NvmlVerifier) -> None:
        async with serving(FakeApi(lies())) as one, serving(FakeApi(lies())) as two:
            assert await verifier.verify(claim_of(one.url, two.url)) == Finding(VERIFIED)
        assert [json.loads(api.asked[0].body)["uuids"] for api in (one, two)] == [[G0], [G1]]
        assert (len(one.asked), len(two.asked)) == (1, 1)

    async def test_nonces_are_never_used_twice(self, verifier: NvmlVerifier) -> None:
        async with serving(FakeApi(lies())) as api:
            for _ in range(3):
                await verifier.verify(claim_of(api.url))
        assert len({json.loads(asked.body)["nonce"] for asked in api.asked}) == 3

    async def test_an_ipv6_host_is_asked(self, verifier: NvmlVerifier) -> None:
        agent = honest()
        await agent.start("::1")
        try:
            claim = claim_of(f"http://[::1]:{agent.port}", address="::1")
            assert await verifier.verify(claim) == Finding(VERIFIED)
        finally:
            await agent.stop()

    async def test_memory_and_clock_may_differ_as_drivers_do(self, verifier: NvmlVerifier) -> None:
        memory, clock = int(FACTS[0].memory * 0.995), FACTS[0].clock_rate - 15_000
        finding, _ = await check(verifier, lies(device(0, memory=memory, clock_rate=clock)))
        assert finding == Finding(VERIFIED)

    async def test_ecc_and_the_index_are_settings_and_not_compared(self, verifier: NvmlVerifier) -> None:
        finding, _ = await check(verifier, lies(device(0, ecc=False, device_index=7)))
        assert finding == Finding(VERIFIED)

    def test_every_validator_gives_the_same_time(self, verifier: NvmlVerifier) -> None:
        assert verifier.slot_s(claim_of("http://127.0.0.1:1")) == SLOT_S
        assert nvml.CHECK_S_MAX < SLOT_S


class TestLies:
    """Each thing that is not as claimed fails, and the detail says which GPU, what was found and what to do."""

    @pytest.mark.parametrize(
        ("change", "uuid", "detail"),
        [
            (
                device(0, name="NVIDIA H200 NVL"),
                G0,
                f'found name "NVIDIA H200 NVL" on its host, the claim says "NVIDIA H200"; {REGISTER}',
            ),
            (
                device(1, memory=80 * 2**30),
                G1,
                f"found memory 85899345920 bytes on its host, the claim says 150754820096; {REGISTER}",
            ),
            (device(0, processors=114), G0, f"found SM count 114 on its host, the claim says 132; {REGISTER}"),
            (
                device(0, clock_rate=1_755_000.0),
                G0,
                f"found clock rate 1755000 kHz on its host, the claim says 1980000; {REGISTER}",
            ),
            (
                device(0, major=8),
                G0,
                f"found compute capability, major, 8 on its host, the claim says 9; {REGISTER}",
            ),
            (
                device(0, minor=6),
                G0,
                f"found compute capability, minor, 6 on its host, the claim says 0; {REGISTER}",
            ),
            (device(0, uuid="0" * 32), G0, f"not on its host, which has 2 other GPUs; {REGISTER}"),
            (fields(devices=[], total=0), G0, f"not on its host, which has 0 other GPUs; {REGISTER}"),
            (
                lambda report: report["devices"].pop(0) and report["problems"].append("GPU 0: GPU is lost"),
                G0,
                "not among the GPUs that its agent can read, GPU 0: GPU is lost",
            ),
            (
                device(1, uuid=G0),
                G0,
                f"its agent shows GPU {G0} twice; run the agent of this p2pnodes",
            ),
            (
                fields(nonce="0" * 64),
                G0,
                f"asked its agent, and its report answers another challenge: found nonce {'0' * 64}, expected NONCE",
            ),
            (
                fields(claim="0" * 64),
                G0,
                (
                    f"asked its agent, and its report answers another challenge: found claim {'0' * 64}, expected "
                    f"{CLAIM_ID.hex()}"
                ),
            ),
            (
                fields(network="0" * 32),
                G0,
                (
                    f"asked its agent, and its report answers another challenge: found network {'0' * 32}, expected "
                    f"{NETWORK.id.hex()}"
                ),
            ),
            (
                fields(validator=OTHER.address),
                G0,
                (
                    f"asked its agent, and its report answers another challenge: found validator {OTHER.address}, "
                    f"expected {VALIDATOR.address}"
                ),
            ),
            (
                fields(miner="\x1b[31m"),
                G0,
                (
                    "asked its agent, and its report answers another challenge: found miner ?[31m, expected "
                    f"{MINER.address}"
                ),
            ),
        ],
    )
    async def test_each_is_named(self, verifier: NvmlVerifier, change: Change, uuid: str, detail: str) -> None:
        finding, api = await check(verifier, lies(change))
        detail = detail.replace("NONCE", json.loads(api.asked[0].body)["nonce"])
        assert finding == Finding(FAILED, f"GPU {uuid}: {detail}")
        assert len(api.asked) == 1

    async def test_a_report_that_another_key_signed(self, verifier: NvmlVerifier) -> None:
        finding, _ = await check(verifier, lies(key=hotkey("//Bob")))
        assert finding == Finding(
            FAILED,
            f"GPU {G0}: asked its agent, and its report is not signed by {MINER.address}; run the agent with that "
            "hotkey",
        )

    @pytest.mark.parametrize(("off_s", "words"), [(40, "ahead of"), (-40, "behind")])
    async def test_a_report_that_is_not_of_now(self, verifier: NvmlVerifier, off_s: int, words: str) -> None:
        finding, _ = await check(verifier, lies(fields(time=int(time.time()) + off_s)))
        assert finding.finding == FAILED
        assert f"s {words} the validator's clock, expected at most 30 s; set the host's clock" in finding.detail

    async def test_an_answer_to_another_validator_is_worth_nothing(self, verifier: NvmlVerifier) -> None:
        heard: list[bytes] = []

        async def listens(request: web.Request) -> web.Response:
            answer = await lies()(request)
            assert isinstance(answer, web.Response)
            assert isinstance(answer.body, bytes)
            heard.append(answer.body)
            return answer

        async def repeats(_: web.Request) -> web.Response:
            return web.Response(body=heard[0])

        assert (await check(verifier, listens))[0] == Finding(VERIFIED)
        finding, _ = await check(verifier, repeats)
        assert finding.finding == FAILED
        assert "its report answers another challenge: found nonce" in finding.detail

    async def test_a_geforce_without_cuda_is_told_what_to_do(self, verifier: NvmlVerifier) -> None:
        claimed = recording("rtx4090")
        async with running(honest(lambda: changed(claimed, 0, cuda_clock_rate_khz=None))) as url:
            finding = await verifier.verify(claim_of(url, host=claimed))
        assert finding == Finding(
            FAILED,
            f"GPU {describe(claimed.gpus[0]).gpu.uuid}: found clock rate 3120000 kHz on its host, NVML's maximum, the "
            "claim says 2520000; its agent cannot have CUDA's clock rate: run it where CUDA programs run",
        )

    @pytest.mark.parametrize(
        ("change", "detail"),
        [
            ({"processors": 114}, "Processor count 114 does not match expected 132 for h200"),
            ({"name": "NVIDIA T4"}, "GPU model in name 'NVIDIA T4' not found in supported GPUs"),
            ({"gpu_identifier": "h100_sxm"}, "GPU identifier h100_sxm does not match model name identifier: h200"),
            ({"memory": 1}, "Memory 0GB does not match expected 140GB for h200"),
            (
                {"verification_host": "a/b"},
                "verification_host and verification_port are no address or name, and port, to connect to",
            ),
        ],
    )
    async def test_a_claim_that_cannot_be_true_fails_without_asking_its_gpu(
        self, verifier: NvmlVerifier, change: dict[str, Any], detail: str
    ) -> None:
        async with serving(FakeApi(lies())) as api:
            finding = await verifier.verify(claim_of(api.url, change=change))
        assert finding == Finding(FAILED, f"GPU {G0}: {detail}; {REGISTER}")
        assert all(json.loads(asked.body)["uuids"] == [G1] for asked in api.asked)

    async def test_a_second_spelling_of_a_uuid_is_another_gpu(self, verifier: NvmlVerifier) -> None:
        async with running(honest()) as url:
            finding = await verifier.verify(claim_of(url, change={"uuid": str(HOST.gpus[0].uuid)}))
        assert finding.finding == FAILED
        assert f"found uuid {G0} on its host, expected it to be written so in the claim" in finding.detail

    def test_what_fits_the_claim_but_not_the_table_is_caught(self) -> None:
        node = claim_of("http://127.0.0.1:1").body.nodes[0]._replace(processors=7)
        found = compare(node, FACTS[0].model_copy(update={"processors": 7}), supported_gpus())
        assert found == (
            "what its agent shows does not fit the GPU table: Processor count 7 does not match expected 132 for h200"
        )


class TestAnswersThatAreNone:
    """Whatever an agent sends instead of a report is one bounded, printable line."""

    @pytest.mark.parametrize(
        ("reply", "detail"),
        [
            (answers(200, b""), "its answer is no report (Invalid JSON: EOF while parsing a value"),
            (answers(200, b"\xff\x00"), "its answer is no report (Invalid JSON"),
            (answers(200, b"[" * 10_000), "its answer is no report (Invalid JSON: recursion limit"),
            (answers(200, {"report": "{}", "signature": "00"}), "its answer is no report (signature: "),
            (
                answers(200, {"report": "{}", "signature": "00" * 64}),
                "its answer is no report (network: Field required",
            ),
            (answers(200, {"report": "x" * 100_000, "signature": "00" * 64}), "its answer is no report (report: "),
            (answers(404, {"detail": "Not Found"}), "found status 404 from its agent, Not Found; expected 200"),
            (answers(302, b"", {"Location": "http://127.0.0.1:1/"}), "found status 302 from its agent"),
            (answers(421, {"detail": "\x1b[2J" + "x" * 400}), "found status 421 from its agent, ?[2Jxxx"),
            (answers(500, b"<html>"), "found status 500 from its agent, without a reason"),
            (answers(204), "found status 204 from its agent"),
        ],
    )
    async def test_it_is_named(self, verifier: NvmlVerifier, reply: Reply, detail: str) -> None:
        finding, api = await check(verifier, reply)
        assert finding.finding == FAILED
        assert detail in finding.detail
        assert finding.detail.isprintable()
        assert len(finding.detail) <= DETAIL_CHARS_MAX
        assert len(api.asked) == 1

    async def test_nan_and_numbers_beyond_all_gpus_are_no_report(self, verifier: NvmlVerifier) -> None:
        for number in ("NaN", "1e999", "9" * 400, "-1"):

            async def reply(request: web.Request, number: str = number) -> web.Response:
                report = json.dumps(report_to(json.loads(await request.read()), request.headers))
                text = report.replace('"clock_rate": 1980000.0', f'"clock_rate": {number}')
                return web.Response(body=json.dumps({"report": text, "signature": "00" * 64}).encode())

            finding, _ = await check(verifier, reply)
            assert "its answer is no report (devices.0.clock_rate" in finding.detail or "Invalid JSON" in finding.detail

    @given(st.data())
    def test_a_byte_that_changes_makes_it_no_report_of_this_miner(self, data: st.DataObject) -> None:
        answer = bytearray(SEALED)
        place = data.draw(st.integers(0, len(answer) - 1))
        answer[place] ^= data.draw(st.integers(1, 255))
        with pytest.raises(MalformedReportError):
            open_report(bytes(answer), ASKED, miner=MINER.address, validator=VALIDATOR.address, now_s=NOW_S)


class TestSilence:
    """Silence and "not now" are tried again within the slot; only then they fail the miner."""

    @pytest.mark.parametrize(
        ("reply", "detail"),
        [
            (hangs_up, "the connection was closed before an answer"),
            (answers(503, {"detail": "busy: 32 challenges wait already"}), "it answered 503: busy: 32 challenges wait"),
            (answers(429, {"detail": "too many"}), "it answered 429: too many"),
            (answers(502, b"<html>"), "it answered 502: without a reason"),
            (answers(200, b"x" * 300_000), "an answer of over 262144 bytes"),
        ],
    )
    async def test_it_fails_after_all_tries(self, verifier: NvmlVerifier, reply: Reply, detail: str) -> None:
        finding, api = await check(verifier, reply)
        assert finding.finding == FAILED
        assert finding.detail.startswith(f"GPU {G0}: its agent gave no answer in 4 tries, {detail}")
        assert "run p2pnodes miner serve at the claim's verification host and port" in finding.detail
        assert len(api.asked) == nvml.TRIES_MAX

    @pytest.mark.parametrize("first", [hangs_up, answers(503, {"detail": "busy"}), answers(429, {"detail": "busy"})])
    async def test_one_that_comes_back_passes(self, verifier: NvmlVerifier, first: Reply) -> None:
        finding, api = await check(verifier, first, lies())
        assert finding == Finding(VERIFIED)
        assert len(api.asked) == 2

    async def test_nobody_there_is_named(self, verifier: NvmlVerifier) -> None:
        finding = await verifier.verify(claim_of(dead_url()))
        assert finding.detail.startswith(f"GPU {G0}: its agent gave no answer in 4 tries, Connection refused; run p2p")

    async def test_hosts_and_ports_are_in_no_detail(self, verifier: NvmlVerifier) -> None:
        url = dead_url()
        finding = await verifier.verify(claim_of(url))
        assert "127.0.0.1" not in finding.detail
        assert str(port_of(url)) not in finding.detail

    async def test_an_agent_that_hangs_costs_no_more_than_the_check_may_take(
        self, verifier: NvmlVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nvml, "CHECK_S_MAX", 0.5)
        monkeypatch.setattr(nvml, "ANSWER_S_MAX", 0.3)
        monkeypatch.setattr(nvml, "ANSWER_S_MIN", 0.05)
        finding, api = await check(verifier, never_answers)
        assert finding.detail.startswith(f"GPU {G0}: its agent gave no answer in 2 tries, no answer within 0.")
        assert len(api.asked) == 2

    async def test_a_driver_that_is_lost_fails_with_the_agents_words(self, verifier: NvmlVerifier) -> None:
        reads = iter([HOST])

        def source() -> HostAnswers:
            if (host := next(reads, None)) is None:
                raise HardwareError("no NVIDIA driver answers on this host (NVML: Driver Not Loaded)")
            return host

        async with running(honest(source)) as url:
            finding = await verifier.verify(claim_of(url))
        assert finding.finding == FAILED
        assert "503: no NVIDIA driver answers on this host (NVML: Driver Not Loaded)" in finding.detail


class TestNoVerdict:
    """A miner that does not let this validator in is an abstention; this validator's own trouble is no verdict."""

    async def test_a_validator_that_is_not_allowed_abstains(self, verifier: NvmlVerifier) -> None:
        async with running(honest(allow=[OTHER.address])) as url:
            finding = await verifier.verify(claim_of(url))
        assert finding == Finding(
            ABSTAIN,
            f"the agent does not let this validator in (403: {VALIDATOR.address} is not on this agent's allow-list); "
            f"allow it: --allow {VALIDATOR.address}",
        )

    async def test_a_host_whose_clock_is_off_abstains(self, verifier: NvmlVerifier) -> None:
        async with running(honest(now_s=lambda: time.time() + 100)) as url:
            finding = await verifier.verify(claim_of(url))
        assert finding.finding == ABSTAIN
        assert "(401: X-Chutes-Nonce: expected Unix seconds within 30 s of this host's clock" in finding.detail

    async def test_another_miners_agent_fails(self, verifier: NvmlVerifier) -> None:
        agent = Agent(hotkey("//Bob"), lambda: HOST, allow=None)
        async with running(agent) as url:
            finding = await verifier.verify(claim_of(url))
        assert finding.finding == FAILED
        assert f"found status 421 from its agent, this agent answers for {hotkey('//Bob').address}" in finding.detail

    async def test_a_model_beyond_this_builds_table_abstains(self, verifier: NvmlVerifier) -> None:
        finding = await verifier.verify(claim_of("http://127.0.0.1:1", change={"gpu_identifier": "b300"}))
        assert finding == Finding(
            ABSTAIN, 'this validator\'s GPU table has no model "b300": it cannot check it before an upgrade'
        )

    def test_an_outage_that_begins_with_a_check_is_noticed_before_its_last_try_ends(self) -> None:
        assert driver.ONLINE_S_MAX + nvml.ANSWER_S_MIN < nvml.CHECK_S_MAX

    async def test_a_validator_without_a_network_says_nothing(self, verifier: NvmlVerifier, online: Online) -> None:
        online.value = False
        with pytest.raises(VerifierUnavailableError, match="this network may be down"):
            await verifier.verify(claim_of(dead_url()))

    async def test_a_report_that_grew_old_while_the_machine_slept_is_asked_for_again(
        self, verifier: NvmlVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept_s = 0

        async def sleeps(request: web.Request) -> web.StreamResponse:
            nonlocal slept_s
            answer = await lies()(request)
            slept_s = 120
            machine_sleeps(monkeypatch, slept_s)
            return answer

        verifier.setup = verifier.setup._replace(now_s=lambda: time.time() + slept_s)
        async with serving(FakeApi(sleeps)) as api:
            with pytest.raises(
                VerifierUnavailableError, match=r"^this daemon was busy for 1[12]\d\.\d s while it waited"
            ):
                await verifier.verify(claim_of(api.url))

    async def test_what_failed_counts_before_what_could_not_be_checked(
        self, verifier: NvmlVerifier, online: Online
    ) -> None:
        online.value = False
        async with serving(FakeApi(lies(device(1, processors=1)))) as api:
            finding = await verifier.verify(claim_of(dead_url(), api.url))
        assert finding.finding == FAILED
        assert finding.detail.startswith(f"GPU {G1}: found SM count 1")

    async def test_one_agent_that_does_not_let_in_is_an_abstention_of_the_claim(self, verifier: NvmlVerifier) -> None:
        async with running(honest()) as one, running(honest(allow=[OTHER.address])) as two:
            assert (await verifier.verify(claim_of(one, two))).finding == ABSTAIN

    async def test_a_check_that_is_stopped_leaves_nothing_behind(self, verifier: NvmlVerifier) -> None:
        async with serving(FakeApi(never_answers)) as api:
            check = asyncio.create_task(verifier.verify(claim_of(api.url)))
            async with asyncio.timeout(10):
                while not api.asked:
                    await asyncio.sleep(0.005)
            tasks = len(asyncio.all_tasks())
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)
            assert check.cancelled()
            async with asyncio.timeout(10):
                while len(asyncio.all_tasks()) >= tasks:
                    await asyncio.sleep(0.005)


class TestScale:
    """Agents answer several validators, and a validator many hosts, at the same time."""

    async def test_forty_hosts_are_checked_at_once(self, verifier: NvmlVerifier) -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(running(honest())) for _ in range(40)]
            found = await asyncio.gather(*(verifier.verify(claim_of(url)) for url in urls))
        assert found == [Finding(VERIFIED)] * 40

    async def test_a_busy_agent_serves_eight_checks_in_turn(self, verifier: NvmlVerifier) -> None:
        def slow() -> HostAnswers:
            time.sleep(0.02)
            return HOST

        async with running(honest(slow)) as url:
            found = await asyncio.gather(*(verifier.verify(claim_of(url)) for _ in range(8)))
        assert found == [Finding(VERIFIED)] * 8


def test_every_fact_of_a_gpu_is_compared_or_named_as_not() -> None:
    """A new field of Gpu must not slip past the verifier unseen."""
    compared = {"uuid", "name", "memory", "processors", "clock_rate", "major", "minor"}
    settings_of_the_host = {"ecc", "device_index", "clock_source"}
    assert Gpu.model_fields.keys() == compared | settings_of_the_host
