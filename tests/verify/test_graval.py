"""The verifier graval: honest GPUs pass, every lie is caught and named, and own faults are nobody else's."""

import asyncio
import copy
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from p2pnodes.model.claims import parse_body
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import ABSTAIN, DETAIL_CHARS_MAX, FAILED, VERIFIED
from p2pnodes.model.gpus import GpuTable, supported_gpus
from p2pnodes.model.inventory import Tally
from p2pnodes.model.requests import seed_of
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify import graval
from p2pnodes.verify.finding import Finding, VerifierUnavailableError
from p2pnodes.verify.graval import GravalVerifier
from p2pnodes.verify.settings import GravalSettings, VerifySettings
from p2pnodes.verify.verifier import Setup, load_verifier
from tests.miner.fake_api import Reply, answers, dead_url, hangs_up, never_answers
from tests.support import NETWORK, NOW_S, gpu, hotkey
from tests.verify.graval import (
    DeviceInfo,
    Graval,
    GravalService,
    MinerBootstrap,
    WorkClockExchange,
    floods,
    raw,
    serving,
)

VALIDATOR = hotkey("//validator0")
MINER = hotkey("//Alice")
UUIDS = [f"{number:032x}" for number in range(1, 11)]
G1, G2 = UUIDS[:2]
CLAIM_ID = bytes(range(32))
ESTIMATE_S = 0.4
"""Estimate in the tests' GPU table: a time-out of one whole second, the shortest that the arithmetic gives."""

LOW_HIGH = "expected 0.2 to 0.7 s for h100_sxm"
H100 = "NVIDIA H100 80GB HBM3"
A100 = {
    "name": "NVIDIA A100-SXM4-80GB",
    "gpu_identifier": "a100_sxm",
    "memory": 85_899_345_920,
    "major": 8,
    "minor": 0,
    "processors": 108,
    "clock_rate": 1_410_000.0,
}


def table(estimate_s: float = ESTIMATE_S) -> GpuTable:
    """The GPU table with other estimates."""
    data = copy.deepcopy(dict(supported_gpus().data))
    for model in data.values():
        model["graval"]["estimate"] = estimate_s
    return GpuTable(data)


def device_info(node: dict[str, Any]) -> DeviceInfo:
    """A GPU as its bootstrap service lists it."""
    other = {"device_index", "gpu_identifier", "verification_host", "verification_port"}
    return {name: value for name, value in node.items() if name not in other}


def claim_of(nodes: Sequence[dict[str, Any]], claim_id: bytes = CLAIM_ID) -> StoredClaim:
    body = parse_body(json.dumps({"nodes": list(nodes)}).encode())
    created = hlc_at(int(time.time() * 1000))
    return StoredClaim(claim_id, MINER.public_key, NOW_S, body, created, Tally("pending", None, ""))


class Rig:
    """A verifier between the stand-ins: one miner unless more are added."""

    def __init__(self, exchange: WorkClockExchange, stack: AsyncExitStack, estimate_s: float) -> None:
        self.graval = Graval()
        self.exchange = exchange
        self.service = GravalService(self.graval)
        self.miners: list[MinerBootstrap] = []
        self.claim: StoredClaim
        self.verifier: GravalVerifier
        self._stack = stack
        self._estimate_s = estimate_s

    @property
    def miner(self) -> MinerBootstrap:
        return self.miners[0]

    async def serve(self, gpus: int, host: str) -> None:
        await self._stack.enter_async_context(serving(self.service))
        settings = VerifySettings(verifier="graval", graval=GravalSettings(url=self.service.url))
        setup = Setup(settings, VALIDATOR, NETWORK, self.exchange, time.time, os.urandom)
        self.verifier = GravalVerifier(setup, table(self._estimate_s))
        nodes = await self.add_miner([gpu(uuid, index) for index, uuid in enumerate(UUIDS[:gpus])], host)
        self.claim = claim_of(nodes)

    async def add_miner(self, nodes: Sequence[dict[str, Any]], host: str = "127.0.0.1") -> list[dict[str, Any]]:
        """Serve another bootstrap service; its GPUs with its address."""
        miner = MinerBootstrap(self.graval, MINER.address, [device_info(node) for node in nodes], [VALIDATOR.address])
        miner.worked_s = self._estimate_s
        await self._stack.enter_async_context(serving(miner, host))
        self.miners.append(miner)
        self.exchange.miners.append(miner)
        return [miner.at_its_address(node) for node in nodes]

    async def check(self) -> Finding:
        return await self.verifier.verify(self.claim)


@asynccontextmanager
async def rig(gpus: int = 2, *, host: str = "127.0.0.1", estimate_s: float = ESTIMATE_S) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        exchange = WorkClockExchange()
        await exchange.start()
        stack.push_async_callback(exchange.close)
        rigged = Rig(exchange, stack, estimate_s)
        await rigged.serve(gpus, host)
        yield rigged


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait as long for a liar as a validator does."""
    monkeypatch.setattr(graval, "INFO_S_MAX", 1.0)
    monkeypatch.setattr(graval, "RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(graval, "EARLY_S_MAX", 0.9)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def failed(detail: str, uuid: str = G1) -> Finding:
    return Finding(FAILED, f"GPU {uuid}: {detail}")


class TestHonestMiners:
    """Who has the GPUs that it claims is verified."""

    @pytest.mark.parametrize("gpus", [1, 8, 10])
    async def test_a_server_is_verified(self, gpus: int) -> None:
        async with rig(gpus) as rigged:
            assert await rigged.check() == Finding(VERIFIED)
            assert len(rigged.service.asked["/encrypt"]) == len(rigged.service.asked["/check_proof"]) == gpus

    async def test_a_server_at_an_ipv6_address_is_verified(self) -> None:
        try:
            async with rig(host="::1") as rigged:
                assert await rigged.check() == Finding(VERIFIED)
        except OSError:
            pytest.skip("this machine has no IPv6")

    async def test_the_table_of_today_gives_the_bounds(self) -> None:
        for seconds, finding in ((38.5, FAILED), (38.6, VERIFIED), (118.9, VERIFIED), (119.0, FAILED)):
            async with rig(1, estimate_s=supported_gpus().data["h100_sxm"]["graval"]["estimate"]) as rigged:
                rigged.miner.worked_s = seconds
                assert (await rigged.check()).finding == finding, seconds

    async def test_real_work_is_timed_on_the_real_clock(self) -> None:
        async with rig(1, estimate_s=0.8) as rigged:
            rigged.miner.waits = True
            for worked_s, finding in ((0.1, FAILED), (0.8, VERIFIED), (1.5, FAILED)):
                rigged.miner.worked_s = worked_s
                async with asyncio.timeout(60):
                    while (found := await rigged.check()).finding != finding:
                        pass  # a machine that is busy makes work long, once in a while
                assert found.finding == finding

    async def test_a_claim_without_what_newer_clients_omit_is_completed_by_the_table(self) -> None:
        async with rig(1) as rigged:
            node = gpu(G1, processors=None, max_threads_per_processor=None, ecc=None)
            rigged.claim = claim_of(
                [{**node, "verification_host": "127.0.0.1", "verification_port": rigged.miner.port}]
            )
            assert await rigged.check() == Finding(VERIFIED)

    async def test_a_service_that_starts_is_waited_for(self) -> None:
        async with rig(1) as rigged:
            rigged.miner.info = at_first(2, rigged.miner, "info", answers(503, b"starting"))
            rigged.miner.prove = at_first(2, rigged.miner, "prove", hangs_up)
            assert await rigged.check() == Finding(VERIFIED)

    async def test_gpus_of_two_models_work_one_model_after_the_other(self) -> None:
        async with rig(1) as rigged:
            nodes = [gpu(G1, 0), gpu(G2, 1, **A100), gpu(UUIDS[2], 2)]
            rigged.claim = claim_of(await rigged.add_miner(nodes))
            assert await rigged.check() == Finding(VERIFIED)
            miner = rigged.miners[1]
            proves = [json.loads(asked.body) for asked in miner.asked if asked.path == "/prove"]
            assert [(list(question["ciphertext"]), question["iterations"]) for question in proves] == [
                ([G1, UUIDS[2]], 5),
                ([G2], 3),
            ]
            assert miner.most_proving == 1

    async def test_services_of_one_claim_work_at_the_same_time(self) -> None:
        async with rig(1) as rigged:
            nodes = [*await rigged.add_miner([gpu(G1, 0)]), *await rigged.add_miner([gpu(G2, 1)])]
            both = asyncio.Barrier(2)

            def meets(miner: MinerBootstrap) -> Reply:
                async def reply(request: web.Request) -> web.Response:
                    await both.wait()
                    return web.json_response(miner.proof(await request.json()))

                return reply

            for miner in rigged.miners[1:]:
                miner.prove = meets(miner)
            rigged.claim = claim_of(nodes)
            assert await rigged.check() == Finding(VERIFIED)


def at_first(count: int, miner: MinerBootstrap, what: str, reply: Reply) -> Reply:
    """A reply that a miner gives some times, and then is honest."""

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count -= 1
        if count == 0:
            setattr(miner, what, None)
        return await reply(request)

    return handle


def at_last(number: int) -> Callable[[MinerBootstrap], None]:
    """Answer the device challenges wrongly from this number on."""

    def lie(miner: MinerBootstrap) -> None:
        miner.tamper_info = lambda count, text: text if count < number else "0" * 64

    return lie


def info(reply: Reply) -> Callable[[MinerBootstrap], None]:
    return lambda miner: setattr(miner, "info", reply)


def prove(reply: Reply) -> Callable[[MinerBootstrap], None]:
    return lambda miner: setattr(miner, "prove", reply)


def worked(seconds: float) -> Callable[[MinerBootstrap], None]:
    return lambda miner: setattr(miner, "worked_s", seconds)


def tampered(change: Callable[[dict[str, Any]], Any]) -> Callable[[MinerBootstrap], None]:
    """Change the answer to ``/prove`` in place, or return another."""

    def tamper(content: dict[str, Any]) -> Any:
        changed = change(content)
        return content if changed is None else changed

    return lambda miner: setattr(miner, "tamper_proof", tamper)


def of(uuid: str, **changes: Any) -> Callable[[MinerBootstrap], None]:
    """Change fields of the proof of one GPU."""
    return tampered(lambda content: content["proof"][uuid].update(changes))


def product(**changes: Any) -> Callable[[MinerBootstrap], None]:
    return tampered(lambda content: content["proof"][G1]["work_product"].update(changes))


def replays(miner: MinerBootstrap) -> None:
    """Answer each device challenge as the first one."""
    first: list[str] = []

    def tamper(_: int, text: str) -> str:
        first.append(text)
        return first[0]

    miner.tamper_info = tamper


def forgets(miner: MinerBootstrap) -> None:
    """Take a GPU out of the server."""
    del miner.devices[1]


def swaps(content: dict[str, Any]) -> None:
    texts = content["plaintext"]
    texts[G1], texts[G2] = texts[G2], texts[G1]


BEGIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
DRIP = [BEGIN % 64, *[b"x"] * 64]
BOMB = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 64\r\n\r\n" + b"\x1f\x8b" + b"\0" * 62
RUN = "run the bootstrap service, and open its port to validators"
VERSION = "run the GraVal bootstrap service in the version that validators support"
LOG = "see the log of the bootstrap service"
ADDRESS = "give the bootstrap service's own address as verification_host and verification_port"
DEVICES = "register exactly the GPUs that GET /devices of the bootstrap service lists, in its order"
SEES = "let the bootstrap service see every GPU that is claimed, or claim those that it sees"
THERE = "register the GPU that is there"
IN_1 = "expected an answer within 1 s"
BROKE = "the answer broke off, or has another length than its headers say"
CLOSED = "the connection was closed before an answer"
REDIRECT = "which is not followed, expected an answer"
START = "invalid start byte"
PRODUCT = f"proof.{G1}.work_product"
WRONG_INFO = "GET /info: wrong answer to device challenge"
WRONG_TEXT = (
    "expected the text that was encrypted for this GPU; the GPU there is another than the one claimed, or its memory "
    "is faulty: check it, and register what is there"
)
NINE_SHARP_S = r"\u00df" * 9
SEVEN_NULS = r"\u0000" * 7
WRONG_WORK = "its proof of work is wrong; the work was not done by this GPU: register what is there"
ALLOW = (
    f"this validator may not check; put {VALIDATOR.address} on the allow-list of the bootstrap service, and set the "
    "host's clock, to have its vote"
)

LIES: dict[str, tuple[Callable[[MinerBootstrap], None], Finding]] = {
    # Device challenges.
    "info: all wrong": (at_last(1), failed(f"{WRONG_INFO} 1 of 20; {DEVICES}")),
    "info: the 20th wrong": (at_last(20), failed(f"{WRONG_INFO} 20 of 20; {DEVICES}", G2)),
    "info: replayed": (replays, failed(f"{WRONG_INFO} 2 of 20; {DEVICES}", G2)),
    "info: a GPU is missing": (forgets, failed(f"{WRONG_INFO} 1 of 20; {DEVICES}")),
    "info: too short": (
        info(answers(200, b"0" * 63)),
        failed(f'GET /info: found "{"0" * 56}..., expected 64 characters; {VERSION}'),
    ),
    "info: not ASCII": (
        info(answers(200, "ß".encode() * 64)),
        failed(rf'GET /info: found "{NINE_SHARP_S}\u..., expected 64 characters; {VERSION}'),
    ),
    "info: hangs": (info(never_answers), failed(f"GET /info: no answer within 1 s, 3 times, {IN_1}; {RUN}")),
    "info: drips": (
        info(raw(*DRIP, pause_s=1.0)),
        failed(f"GET /info: no answer within 1 s, 3 times, {IN_1}; {RUN}"),
    ),
    "info: huge": (info(floods()), failed(f"GET /info: an answer of over 16384 bytes, 3 times, {IN_1}; {RUN}")),
    "info: hangs up": (info(hangs_up), failed(f"GET /info: {CLOSED}, 3 times, {IN_1}; {RUN}")),
    "info: broken off": (info(raw(BEGIN % 64, b"half")), failed(f"GET /info: {BROKE}, 3 times, {IN_1}; {RUN}")),
    "info: a gzip bomb": (
        info(raw(BOMB)),
        failed(rf'GET /info: found "\u001f\ufffd{SEVEN_NULS}\u..., expected 64 characters; {VERSION}'),
    ),
    "info: redirects": (
        info(answers(307, b"", {"Location": "http://127.0.0.1:9/info"})),
        failed(f"GET /info: found a redirect (status 307), {REDIRECT}; {ADDRESS}"),
    ),
    "info: 500": (
        info(answers(500, b"out of memory, " * 100)),
        failed(f'GET /info: found status 500 "{"out of memory, " * 3}out of memo..., expected 200; {LOG}'),
    ),
    "info: 404": (info(answers(404, b"")), failed(f'GET /info: found status 404 "", expected 200; {LOG}')),
    "info: never ready": (
        info(answers(503, b"starting")),
        failed(f'GET /info: found status 503 "starting", 3 times, {IN_1}; {RUN}'),
    ),
    "info: 401": (info(answers(401, b"no")), Finding(ABSTAIN, f'GET /info: found status 401 "no": {ALLOW}')),
    # Proof of work: content.
    "prove: wrong plaintext": (
        tampered(lambda content: content["plaintext"].update({G2: "decrypt me please: 0"})),
        failed(f'POST /prove: found plaintext "decrypt me please: 0", {WRONG_TEXT}', G2),
    ),
    "prove: no plaintext": (
        tampered(lambda content: content["plaintext"].pop(G2) and None),
        failed(f"POST /prove: found no plaintext of this GPU; {SEES}", G2),
    ),
    "prove: a GPU is missing": (
        tampered(lambda content: content["proof"].pop(G2) and None),
        failed(f"POST /prove: found no proof of this GPU; {SEES}", G2),
    ),
    "prove: a GPU too many": (
        tampered(lambda content: content["proof"].update({UUIDS[2]: content["proof"][G1]})),
        failed(
            f'POST /prove: found an answer for GPU "{UUIDS[2]}", too, which was not asked; answer for the GPUs of the '
            "challenge only"
        ),
    ),
    "prove: another GPU": (
        of(G2, device_uuid=UUIDS[5]),
        failed(f'POST /prove: found the work of GPU "{UUIDS[5]}", expected its own; {THERE}', G2),
    ),
    "prove: another model": (
        of(G1, device_name="NVIDIA A10"),
        failed(f'POST /prove: found the work of a "NVIDIA A10", expected a "{H100}"; {THERE}'),
    ),
    "prove: one GPU's work for two": (
        tampered(lambda content: content["proof"].update({G2: content["proof"][G1]})),
        failed(f'POST /prove: found the work of GPU "{G1}", expected its own; {THERE}', G2),
    ),
    "prove: one GPU's work under two names": (
        tampered(lambda content: content["proof"][G2].update(work_product=content["proof"][G1]["work_product"])),
        failed(f"POST /prove: {WRONG_WORK}", G2),
    ),
    "prove: wrong proof": (product(intermediate_hashes=["0" * 64]), failed(f"POST /prove: {WRONG_WORK}")),
    "prove: less work": (product(total_iterations=1), failed(f"POST /prove: {WRONG_WORK}")),
    "prove: replayed": (
        tampered(lambda content: content.update(seed=content["seed"] ^ 1)),
        failed(
            "POST /prove: found the answer to a challenge with another seed, expected this one's; answer each "
            "challenge on its own"
        ),
    ),
    # Proof of work: time.
    "prove: too fast": (
        worked(0.0),
        failed(
            f"POST /prove: found an answer after 0.0 s, {LOW_HIGH}; so little time is not the work of this model: "
            f"{THERE}"
        ),
    ),
    "prove: too slow": (
        worked(30.0),
        failed(
            f"POST /prove: found an answer after 30.0 s, {LOW_HIGH}; let nothing else run on the GPUs while they are "
            "verified, and register the model that is there"
        ),
    ),
    "prove: hangs": (prove(never_answers), failed(f"POST /prove: no answer within 1 s, {IN_1}; {RUN}")),
    "prove: drips": (prove(raw(*DRIP, pause_s=1.0)), failed(f"POST /prove: no answer within 1 s, {IN_1}; {RUN}")),
    # Proof of work: the wire.
    "prove: huge": (prove(floods()), failed(f"POST /prove: an answer of over 2097152 bytes, 3 times, {IN_1}; {RUN}")),
    "prove: reset in mid-answer": (
        prove(raw(BEGIN % 64, b"half", pause_s=0.02, reset=True)),
        failed(f"POST /prove: {BROKE}, 3 times, {IN_1}; {RUN}"),
    ),
    "prove: wrong length": (
        prove(raw(BEGIN % 4096 + b"{}")),
        failed(f"POST /prove: {BROKE}, 3 times, {IN_1}; {RUN}"),
    ),
    "prove: hangs up": (prove(hangs_up), failed(f"POST /prove: {CLOSED}, 3 times, {IN_1}; {RUN}")),
    "prove: redirects": (
        prove(answers(302, b"", {"Location": "http://169.254.169.254/latest"})),
        failed(f"POST /prove: found a redirect (status 302), {REDIRECT}; {ADDRESS}"),
    ),
    "prove: 500": (
        prove(answers(500, b"Internal Server Error")),
        failed(f'POST /prove: found status 500 "Internal Server Error", expected 200; {LOG}'),
    ),
    "prove: 404": (
        prove(answers(404, b"Not Found")),
        failed(f'POST /prove: found status 404 "Not Found", expected 200; {LOG}'),
    ),
    "prove: 403": (prove(answers(403, b"no")), Finding(ABSTAIN, f'POST /prove: found status 403 "no": {ALLOW}')),
    # Proof of work: the text.
    "prove: garbage": (
        prove(answers(200, b"<html>")),
        failed(f"POST /prove: found no JSON: Expecting value: line 1 column 1 (char 0); {VERSION}"),
    ),
    "prove: not UTF-8": (
        prove(answers(200, b'"\xff"')),
        failed(f"POST /prove: found no JSON: 'utf-8' codec can't decode byte 0xff in position 1: {START}; {VERSION}"),
    ),
    "prove: a gzip bomb": (
        prove(raw(BOMB)),
        failed(f"POST /prove: found no JSON: 'utf-8' codec can't decode byte 0x8b in position 1: {START}; {VERSION}"),
    ),
    "prove: NaN": (
        prove(answers(200, b'{"seed": NaN}')),
        failed(f"POST /prove: found no JSON: NaN is not JSON; {VERSION}"),
    ),
    "prove: deep nesting": (
        prove(answers(200, b"[" * 100_000)),
        failed(f"POST /prove: found no JSON: JSON is nested deeper than 32 levels; {VERSION}"),
    ),
    "prove: a huge integer": (
        prove(answers(200, b'{"seed": ' + b"9" * 5_000 + b"}")),
        failed(f"POST /prove: found no JSON: an integer of 5000 digits: at most 640 are allowed; {VERSION}"),
    ),
    "prove: a list": (
        tampered(lambda _: []),
        failed(f"POST /prove: the answer: found [], expected a table [the answer]; {VERSION}"),
    ),
    "prove: null": (
        prove(answers(200, None)),
        failed(f"POST /prove: the answer: found null, expected a table [the answer]; {VERSION}"),
    ),
    "prove: another object": (
        tampered(lambda _: {"hello": "there"}),
        failed(f"POST /prove: found no seed in the answer, expected one; {VERSION}"),
    ),
    "prove: a text for a number": (
        product(num_matrices="4"),
        failed(f'POST /prove: {PRODUCT}.num_matrices: found "4", expected an integer; {VERSION}'),
    ),
    "prove: a number for a text": (
        tampered(lambda content: content["plaintext"].update({G1: 4})),
        failed(f"POST /prove: plaintext.{G1}: found 4, expected a text; {VERSION}"),
    ),
    "prove: a huge text": (
        tampered(lambda content: content["plaintext"].update({G1: "x" * 500_000})),
        failed(
            f'POST /prove: plaintext.{G1}: found "{"x" * 56}..., expected it to have at most 256 characters; {VERSION}'
        ),
    ),
    "prove: a huge name": (
        tampered(lambda content: content["plaintext"].update({"x" * 500_000: "x"})),
        failed(
            f'POST /prove: plaintext.{"x" * 246}: found "{"x" * 56}..., expected it to have at most 64 characters; '
            f"{VERSION}"
        ),
    ),
    "prove: no hashes": (
        product(intermediate_hashes=[]),
        failed(
            f"POST /prove: {PRODUCT}.intermediate_hashes: found [], expected it to have at least 1 item after "
            f"validation, not 0; {VERSION}"
        ),
    ),
    "prove: a hash that nobody can send on": (
        product(intermediate_hashes=[10**30]),
        failed(f"POST /prove: intermediate_hashes: Integer exceeds 64-bit range; {VERSION}"),
    ),
}


class TestLies:
    """Whatever a miner does is caught, and its detail says what was found, what was expected, and what to do."""

    @pytest.mark.parametrize("lie", LIES)
    async def test_a_lie_is_caught_and_named(self, lie: str) -> None:
        tell, finding = LIES[lie]
        async with rig() as rigged:
            tell(rigged.miner)
            assert await rigged.check() == finding
        assert len(finding.detail) <= DETAIL_CHARS_MAX
        assert finding.detail.isprintable()
        assert "127.0.0.1" not in finding.detail

    async def test_swapped_plaintexts_are_caught(self) -> None:
        async with rig() as rigged:
            tampered(swaps)(rigged.miner)
            assert (await rigged.check()).detail.startswith(f"GPU {G1}: POST /prove: found plaintext")

    async def test_a_closed_port_is_named(self) -> None:
        async with rig(1) as rigged:
            port = int(dead_url().rpartition(":")[2])
            rigged.claim = claim_of([gpu(G1, verification_host="127.0.0.1", verification_port=port)])
            assert await rigged.check() == failed(f"GET /info: Connection refused, 3 times, {IN_1}; {RUN}")

    async def test_one_lying_server_of_two_fails_the_claim(self) -> None:
        async with rig(1) as rigged:
            nodes = [*await rigged.add_miner([gpu(G1, 0)]), *await rigged.add_miner([gpu(G2, 1)])]
            at_last(1)(rigged.miners[2])
            rigged.claim = claim_of(nodes)
            assert await rigged.check() == failed(f"{WRONG_INFO} 1 of 20; {DEVICES}", G2)

    async def test_all_device_challenges_together_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graval, "INFO_PHASE_S_MAX", 0.2)
        async with rig(1) as rigged:

            async def dawdles(request: web.Request) -> web.Response:
                await asyncio.sleep(0.05)
                return web.Response(text=rigged.graval.device_answer(rigged.miner.devices, request.query["challenge"]))

            rigged.miner.info = dawdles
            finding = await rigged.check()
        assert finding.finding == FAILED
        assert "GET /info: 0.2 s were over at device challenge " in finding.detail
        assert "of 20, expected less for all; free the host's CPU and network while it is verified" in finding.detail

    async def test_silence_counts_for_the_bound_of_all_device_challenges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graval, "INFO_PHASE_S_MAX", 0.1)
        async with rig(1) as rigged:
            rigged.miner.info = never_answers
            assert (await rigged.check()).detail.startswith(
                f"GPU {G1}: GET /info: 0.1 s were over at device challenge 1 "
            )

    @pytest.mark.parametrize("host", ["gpu.example/prove?", "user@127.0.0.1", "127.1", ""])
    async def test_a_host_that_is_none_is_named(self, host: str) -> None:
        async with rig(1) as rigged:
            rigged.claim = claim_of([gpu(G1, verification_host=host)])
            assert await rigged.check() == failed(
                "verification_host and verification_port are no address or name, and port, to connect to; register it "
                "with the public address of its bootstrap service"
            )

    async def test_a_private_address_is_named(self) -> None:
        async with rig(1) as rigged:
            rigged.exchange._allow_private = False
            assert await rigged.check() == failed(
                f"GET /info: the host is not at a public address, 3 times, {IN_1}; {RUN}"
            )
            assert rigged.miner.asked == []

    async def test_specifications_that_the_table_does_not_allow_are_named(self) -> None:
        async with rig(1) as rigged:
            rigged.claim = claim_of([gpu(G1), gpu(G2, processors=114)])
            assert await rigged.check() == failed(
                "Processor count 114 does not match expected 132 for h100_sxm; register what GET /devices of the "
                "bootstrap service lists",
                G2,
            )
            assert rigged.miner.asked == []

    async def test_texts_of_strangers_are_cut_and_cleaned(self) -> None:
        async with rig(1) as rigged:
            name = "\x1b[31m\n" + "ü" * 240
            rigged.claim = claim_of([gpu("~" * 64, name=name)])
            detail = (await rigged.check()).detail
        assert len(detail) <= DETAIL_CHARS_MAX
        assert detail.isprintable()


def proof_with(hashes: Any = ("0" * 64,), key: str = G1, text: str = "x") -> bytes:
    work = {"intermediate_hashes": hashes, "num_matrices": 1, "total_iterations": 1}
    proof = {key: {"device_id": 0, "device_uuid": G1, "device_name": H100, "work_product": work}}
    return json.dumps({"seed": 1, "proof": proof, "plaintext": {key: text}}).encode()


class TestReading:
    """Whatever comes as an answer to ``/prove`` is a proof, or an error of one bounded, printable line."""

    @given(
        st.binary()
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
        ).map(lambda value: json.dumps(value).encode())
        | st.recursive(st.floats() | st.text(st.characters()) | st.integers(), st.lists).map(
            lambda hashes: proof_with([hashes])
        )
        | st.builds(proof_with, key=st.text(st.characters()), text=st.text(st.characters()))
    )
    @example(proof_with(["\ud800"]))
    @example(proof_with(text="\ud800"))
    @example(proof_with(key="\ud800" * 1_000))
    @example(proof_with([float("inf")]))
    @example(b'{"seed": 1e999}')
    def test_any_bytes(self, data: bytes) -> None:
        try:
            proof = graval._read_proof(data)
        except ValueError as error:
            problem = str(error)
        else:
            problem = ""
            assert orjson.loads(orjson.dumps(proof.model_dump()))
        assert problem.isprintable()
        assert len(problem) < 400

    def test_the_largest_answer_is_read_in_little_time(self) -> None:
        body = proof_with(["0" * 64] * 150_000)
        assert graval.PROOF_BYTES_MAX * 9 < len(body) <= graval.PROOF_BYTES_MAX * 10
        begun_s = time.perf_counter()
        graval._read_proof(body)
        assert time.perf_counter() - begun_s < 5  # a fifth of a second where nothing else runs


class TestGone:
    """Today's miners take their bootstrap service away once they have registered: that fails no claim later on."""

    @staticmethod
    def aged(claim: StoredClaim, seconds: float) -> StoredClaim:
        return claim._replace(created_hlc=hlc_at(int((time.time() - seconds) * 1000)))

    @pytest.mark.parametrize(
        ("age_s", "finding"),
        [(0, FAILED), (NETWORK.verdict_ttl_s / 4 - 60, FAILED), (NETWORK.verdict_ttl_s / 4, ABSTAIN)],
    )
    async def test_silence_fails_a_young_claim_and_is_no_verdict_on_an_old_one(
        self, age_s: float, finding: str
    ) -> None:
        async with rig(1) as rigged:
            rigged.miner.info = hangs_up
            rigged.claim = self.aged(rigged.claim, age_s)
            found = await rigged.check()
            assert found.finding == finding
            assert found.detail.endswith(RUN)

    async def test_a_wrong_answer_fails_an_old_claim_as_well(self) -> None:
        async with rig(1) as rigged:
            rigged.miner.info = answers(200, b"0" * 64)
            rigged.claim = self.aged(rigged.claim, NETWORK.verdict_ttl_s)
            assert (await rigged.check()).finding == FAILED


class TestAbstentions:
    """Who may not check, or cannot know, says so, and does not vote against the miner."""

    async def test_a_validator_that_is_not_on_the_allow_list_abstains(self) -> None:
        async with rig(1) as rigged:
            rigged.miner.allowed = {hotkey("//validator1").address}
            finding = await rigged.check()
        assert finding.finding == ABSTAIN
        assert "found status 403" in finding.detail
        assert VALIDATOR.address in finding.detail

    @pytest.mark.parametrize("off_s", [-60, 60])
    async def test_a_clock_that_the_miner_does_not_accept_makes_it_abstain(self, off_s: int) -> None:
        async with rig(1) as rigged:
            setup = rigged.verifier.setup._replace(now_s=lambda: time.time() + off_s)
            finding = await GravalVerifier(setup, table()).verify(rigged.claim)
        assert finding.finding == ABSTAIN
        assert "found status 401" in finding.detail

    async def test_a_model_of_tomorrow_makes_it_abstain_without_a_challenge(self) -> None:
        async with rig(1) as rigged:
            rigged.claim = claim_of([gpu(G1, gpu_identifier="z900")])
            assert await rigged.check() == Finding(
                ABSTAIN, 'this validator\'s GPU table has no model "z900": it cannot check it before an upgrade'
            )
            assert rigged.verifier.slot_s(rigged.claim) == 0
            assert rigged.miner.asked == []


SERVICE_FAULTS: dict[str, Reply] = {
    "hangs up": hangs_up,
    "hangs": never_answers,
    "drips": raw(*DRIP, pause_s=1.0),
    "500": answers(500, b"CUDA error"),
    "404": answers(404, b""),
    "redirects": answers(307, b"", {"Location": "/elsewhere"}),
    "garbage": answers(200, b"<html>"),
    "no result": answers(200, {"detail": "?"}),
    "a result that is no boolean": answers(200, {"result": 1}),
    "deep nesting": answers(200, b"[" * 10_000),
    "empty": answers(200, b""),
    "huge": floods(),
    "another's seed": answers(200, b"1|AAAA"),
    "broken off": raw(BEGIN % 64, b"half"),
}


class TestOwnFaults:
    """What is wrong on the validator's side never becomes a finding."""

    @pytest.mark.parametrize("path", ["/verify_device_challenge", "/encrypt", "/check_proof"])
    @pytest.mark.parametrize("fault", SERVICE_FAULTS)
    async def test_a_graval_service_that_fails_is(self, path: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graval, "SERVICE_S_MAX", 0.3)
        async with rig() as rigged:
            rigged.service.replies[path] = SERVICE_FAULTS[fault]
            with pytest.raises(VerifierUnavailableError) as caught:
                await rigged.check()
        assert str(caught.value).startswith(f"{rigged.service.url}{path}: ")
        assert str(caught.value).isprintable()

    async def test_a_graval_service_that_is_down_is(self) -> None:
        async with rig() as rigged:
            await rigged.service.runner.cleanup()
            with pytest.raises(VerifierUnavailableError, match=r"/verify_device_challenge: Connection refused$"):
                await rigged.check()

    @pytest.mark.parametrize("text", ["{seed}", "{seed}|", "{seed}|*", "AAAA", "{seed}0|AAAA"])
    async def test_a_ciphertext_that_is_none_is(self, text: str) -> None:
        async with rig(1) as rigged:

            async def encrypt(request: web.Request) -> web.Response:
                return web.Response(text=text.format(seed=(await request.json())["seed"]))

            rigged.service.replies["/encrypt"] = encrypt
            with pytest.raises(VerifierUnavailableError, match=r"/encrypt: found .*, expected \d+\|base64"):
                await rigged.check()

    async def test_a_graval_service_that_is_too_slow_for_the_slot_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GravalVerifier, "slot_s", lambda *_: 0.3)
        async with rig(1) as rigged:
            rigged.service.held.clear()
            with pytest.raises(
                VerifierUnavailableError, match=r"^the check was not done after 0\.3 s; the GraVal service"
            ):
                await rigged.check()

    async def test_a_proof_that_the_service_cannot_read_is_the_miners_once_it_has_read_another(self) -> None:
        """A service of another version reads none at all, and must not fail every miner."""
        async with rig(1) as rigged:
            rigged.service.replies["/check_proof"] = answers(422, {"detail": "intermediate_hashes"})
            with pytest.raises(VerifierUnavailableError, match=r"/check_proof: found status 422"):
                await rigged.check()
            del rigged.service.replies["/check_proof"]
            assert await rigged.check() == Finding(VERIFIED)
            rigged.service.replies["/check_proof"] = answers(422, {"detail": "intermediate_hashes"})
            assert (await rigged.check()).detail.startswith(f"GPU {G1}: POST /prove: its proof of work is wrong")

    async def test_while_no_peer_is_heard_silence_is(self) -> None:
        async with rig(1) as rigged:
            rigged.exchange._online = lambda: False
            rigged.miner.prove = hangs_up
            with pytest.raises(VerifierUnavailableError, match=r"this network may be down"):
                await rigged.check()

    @pytest.mark.parametrize(
        ("worked_s", "late_s", "finding"),
        [
            (10.0, 0.0, VERIFIED),
            (10.0, 1.1, VERIFIED),
            (10.0, 1.2, None),  # it may have been 5.2 s
            (17.2, 0.04, FAILED),
            (17.2, 0.1, None),  # it may have been 16.8 s
            (5.0, 4.0, FAILED),  # it was even less
        ],
    )
    async def test_a_time_that_the_own_lateness_makes_doubtful_is(
        self, worked_s: float, late_s: float, finding: str | None
    ) -> None:
        async with rig(1, estimate_s=10.0) as rigged:
            rigged.miner.worked_s, rigged.exchange.late_s = worked_s, late_s
            if finding is None:
                with pytest.raises(VerifierUnavailableError, match=r"^this daemon was busy for"):
                    await rigged.check()
            else:
                assert (await rigged.check()).finding == finding


class TestChallenges:
    """What miners are sent is signed as they expect, and drawn anew each time."""

    async def test_requests_without_the_validators_signature_are_refused(self) -> None:
        """The stand-in checks signatures by itself: this shows that it does."""
        async with rig(1) as rigged:
            await rigged.check()
            info, proof = rigged.miner.asked[0], rigged.miner.asked[-1]
            known = [name for name in info.headers if name.startswith("X-Chutes-")]
            assert sorted(known) == ["X-Chutes-Miner", "X-Chutes-Nonce", "X-Chutes-Signature", "X-Chutes-Validator"]
            asked = len(rigged.miner.asked)
            for altered in (
                {"X-Chutes-Nonce": str(int(info.headers["X-Chutes-Nonce"]) - 1)},
                {"X-Chutes-Signature": proof.headers["X-Chutes-Signature"]},
                {"X-Chutes-Miner": VALIDATOR.address},
            ):
                headers = {name: info.headers[name] for name in known} | altered
                answer = await rigged.exchange.ask_host(
                    "GET", f"{rigged.miner.url}/info?challenge={'0' * 64}", timeout_s=5, bytes_max=99, headers=headers
                )
                assert answer.status in {401, 403}
            assert len(rigged.miner.asked) == asked

    async def test_twenty_different_device_challenges_ask_for_every_gpu(self) -> None:
        async with rig(8) as rigged:
            await rigged.check()
            challenges = [
                bytes.fromhex(asked.query["challenge"]) for asked in rigged.miner.asked if asked.path == "/info"
            ]
        assert len(set(challenges)) == 20
        assert {len(challenge) for challenge in challenges} == {32}
        assert {challenge[0] for challenge in challenges} == set(range(8))

    async def test_seeds_and_texts_are_fresh_and_never_the_public_ones(self) -> None:
        async with rig() as rigged:
            for _ in range(2):
                await rigged.check()
            questions = rigged.service.asked["/encrypt"]
        first, second = questions[0]["seed"], questions[2]["seed"]
        assert [question["seed"] for question in questions] == [first, first, second, second]
        assert len({first, second, seed_of(CLAIM_ID)}) == 3
        assert all(0 < seed < 2**63 for seed in (first, second))
        texts = [question["payload"] for question in questions]
        assert len(set(texts)) == 4
        assert all(text.startswith("decrypt me please: ") and len(text) == 19 + 36 for text in texts)

    async def test_a_second_try_is_another_challenge(self) -> None:
        async with rig(1) as rigged:
            rigged.miner.prove = at_first(2, rigged.miner, "prove", hangs_up)
            assert await rigged.check() == Finding(VERIFIED)
            bodies = [json.loads(asked.body) for asked in rigged.miner.asked if asked.path == "/prove"]
        assert len({body["seed"] for body in bodies}) == len({body["ciphertext"][G1] for body in bodies}) == 3

    async def test_work_that_broke_off_late_gets_no_second_try(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graval, "EARLY_S_MAX", 0.0)
        async with rig(1) as rigged:
            rigged.miner.prove = hangs_up
            assert await rigged.check() == failed(
                f"POST /prove: the connection was closed before an answer, {IN_1}; {RUN}"
            )
            assert sum(asked.path == "/prove" for asked in rigged.miner.asked) == 1

    async def test_a_wrong_answer_gets_no_second_try(self) -> None:
        async with rig(1) as rigged:
            at_last(1)(rigged.miner)
            await rigged.check()
            assert len(rigged.miner.asked) == 1

    async def test_graval_is_told_of_a_gpu_what_the_table_knows(self) -> None:
        async with rig(1) as rigged:
            node = gpu(G1, processors=None, ecc=None, concurrent_kernels=None)
            rigged.claim = claim_of(
                [{**node, "verification_host": "127.0.0.1", "verification_port": rigged.miner.port}]
            )
            await rigged.check()
            (question,) = rigged.service.asked["/encrypt"]
        assert question["iterations"] == 5
        assert question["device_info"] == {
            "uuid": G1,
            "name": H100,
            "memory": 85_899_345_920,
            "major": 9,
            "minor": 0,
            "processors": 132,
            "sxm": True,
            "clock_rate": 1_980_000.0,
            "max_threads_per_processor": 2048,
            "concurrent_kernels": True,
            "ecc": True,
        }

    @pytest.mark.parametrize("spelling", ["GPU-{}", "{}"])
    async def test_a_uuid_in_nvmls_spelling_is_the_same_gpu(self, spelling: str) -> None:
        dashed = f"{G1[:8]}-{G1[8:12]}-{G1[12:16]}-{G1[16:20]}-{G1[20:]}"
        async with rig(1) as rigged:
            of(G1, device_uuid=spelling.format(dashed))(rigged.miner)
            assert await rigged.check() == Finding(VERIFIED)


class TestBounds:
    """A check takes its slot at most, and leaves nothing behind."""

    def test_a_slot_is_as_long_as_all_time_outs_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        verifier = GravalVerifier(setup_of("http://127.0.0.1:1"))
        eight = [gpu(uuid, index, verification_port=3_000) for index, uuid in enumerate(UUIDS[:8])]
        assert verifier.slot_s(claim_of(eight)) == 120 + 60 + int(70 * 2.5) + 2 * (6 + 2)
        mixed = [*eight, gpu(UUIDS[8], 8, verification_port=3_000, **A100)]
        assert verifier.slot_s(claim_of(mixed)) == 120 + 60 + 2 * (int(70 * 2.5) + 16)
        two_services = [*eight, gpu(UUIDS[8], 8, verification_port=3_001, **A100)]
        assert verifier.slot_s(claim_of(two_services)) == 120 + 60 + 175 + 16

    def test_what_a_check_loads_are_the_claims_hosts_and_ports(self) -> None:
        verifier = GravalVerifier(setup_of("http://127.0.0.1:1"))
        nodes = [gpu(G1, verification_port=80), gpu(G2, verification_port=81), gpu(UUIDS[2], verification_port=80)]
        assert verifier.endpoints(claim_of(nodes)) == {("192.0.2.10", 80), ("192.0.2.10", 81)}

    async def test_calls_of_the_graval_service_are_bounded_over_all_checks(self) -> None:
        async with rig(1) as rigged:
            rigged.service.held.clear()
            checks = [asyncio.create_task(rigged.check()) for _ in range(graval.SERVICE_CALLS_MAX + 4)]
            await eventually(lambda: len(rigged.miner.asked) == len(checks))
            await eventually(lambda: rigged.service.most == graval.SERVICE_CALLS_MAX)
            rigged.service.held.set()
            assert await asyncio.gather(*checks) == [Finding(VERIFIED)] * len(checks)
            assert rigged.service.most == graval.SERVICE_CALLS_MAX

    @pytest.mark.parametrize("where", ["info", "prove"])
    async def test_a_cancelled_check_closes_its_connections(self, where: str) -> None:
        async with rig() as rigged:
            setattr(rigged.miner, where, never_answers)
            checking = asyncio.create_task(rigged.check())
            await eventually(lambda: any(asked.path == f"/{where}" for asked in rigged.miner.asked))
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
            assert checking.cancelled()
            await eventually(lambda: rigged.miner.connections == 0)

    async def test_a_check_that_is_cancelled_at_the_service_lets_the_next_one_in(self) -> None:
        async with rig() as rigged:
            rigged.service.held.clear()
            checks = [asyncio.create_task(rigged.check()) for _ in range(graval.SERVICE_CALLS_MAX + 2)]
            await eventually(lambda: rigged.service.most == graval.SERVICE_CALLS_MAX)
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)
            rigged.service.held.set()
            assert await rigged.check() == Finding(VERIFIED)

    async def test_nothing_grows_with_the_number_of_checks(self) -> None:
        async with rig(1) as rigged:
            lies = [lambda _: None, at_last(3), prove(answers(200, b"{}")), prove(hangs_up), info(answers(403, b""))]
            await rigged.check()
            tasks = len(asyncio.all_tasks())
            for number in range(20):
                rigged.miner.info = rigged.miner.prove = None
                rigged.miner.asked.clear()
                rigged.miner.tamper_info = lambda _, text: text
                lies[number % len(lies)](rigged.miner)
                await rigged.check()
            await eventually(lambda: rigged.miner.connections == 0)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            hosts = rigged.exchange._hosts
            assert hosts is not None
            assert hosts.connector is not None
            assert not hosts.connector._acquired
            assert rigged.verifier._service._turns._value == graval.SERVICE_CALLS_MAX


def setup_of(url: str | None, exchange: WorkClockExchange | None = None) -> Setup:
    settings = VerifySettings(verifier="graval", graval=GravalSettings(url=url))
    return Setup(settings, VALIDATOR, NETWORK, exchange or WorkClockExchange(), time.time, os.urandom)


class TestStart:
    """An operator learns at the start what is missing."""

    def test_it_is_found_by_its_name(self) -> None:
        assert load_verifier("graval") is GravalVerifier

    def test_a_missing_url_is_an_error_of_the_configuration(self) -> None:
        with pytest.raises(ConfigError, match=r"^verify\.graval\.url: missing; expected the base URL of your GraVal"):
            GravalVerifier(setup_of(None))

    async def test_a_service_that_answers_is_no_news(self) -> None:
        async with rig(1) as rigged:
            with capture_logs() as logs:
                await rigged.verifier.start()
            assert logs == []
            assert len(rigged.service.asked["/verify_device_challenge"]) == 1

    async def test_a_service_that_is_down_is_warned_of_and_may_come_up_later(self) -> None:
        async with rig(1) as rigged:
            rigged.service.replies["/verify_device_challenge"] = hangs_up
            with capture_logs() as logs:
                await rigged.verifier.start()
            assert [(entry["log_level"], entry["event"]) for entry in logs] == [
                ("warning", "graval_service_unavailable")
            ]
            assert logs[0]["error"].startswith(f"{rigged.service.url}/verify_device_challenge: ")
            rigged.service.replies.clear()
            assert await rigged.check() == Finding(VERIFIED)

    async def test_a_service_that_hangs_does_not_hold_up_the_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graval, "PROBE_S_MAX", 0.1)
        async with rig(1) as rigged:
            rigged.service.replies["/verify_device_challenge"] = never_answers
            with capture_logs() as logs:
                await rigged.verifier.start()
            assert logs[0]["error"].endswith("no answer within 0.1 s")

    async def test_a_service_that_believes_everything_is_warned_of(self) -> None:
        async with rig(1) as rigged:
            rigged.service.replies["/verify_device_challenge"] = answers(200, {"result": True})
            with capture_logs() as logs:
                await rigged.verifier.start()
            assert "found true for a made-up answer, expected false" in logs[0]["error"]
