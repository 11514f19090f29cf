"""The miner's client: what it signs, whom it asks, and what it makes of the answers."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from p2pnodes.miner import client as client_module
from p2pnodes.miner.client import (
    RETRY_AFTER_S_MAX,
    RETRY_DELAY_S,
    SIGNATURE_AGE_S_MAX,
    ApiUnreachableError,
    AuthRefusedError,
    ConflictError,
    InvalidRequestError,
    MalformedAnswerError,
    MinerClient,
    NotFoundError,
    RefusedError,
    TaskFailedError,
    TaskTimeoutError,
    TooOftenError,
)
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.keys import ss58_decode, verify_hotkey
from p2pnodes.model.requests import Add, Delete, signing_message, verify_request
from tests.miner.fake_api import (
    Asked,
    FakeApi,
    Reply,
    answers,
    dead_url,
    hangs_up,
    never_answers,
    registered,
    serving,
)
from tests.support import hotkey

ALICE = hotkey("//Alice")
BODY = {"server_id": "s", "server_name": None, "nodes": [{"uuid": "u1", "major": None}]}
Serve = Callable[..., Any]


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.s = 1_764_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.s += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(*replies: Reply) -> FakeApi:
            return await stack.enter_async_context(serving(FakeApi(*replies)))

        yield start


def miner(time: Time, *apis: str, **options: Any) -> MinerClient:
    return MinerClient(apis, ALICE, clock=time, sleep=time.sleep, **options)


def add_of(asked: Asked) -> Add:
    headers = asked.headers
    return Add(
        ss58_decode(headers["X-Chutes-Hotkey"]),
        headers["X-Chutes-Nonce"],
        bytes.fromhex(headers["X-Chutes-Signature"]),
        asked.body,
    )


class TestSigning:
    """Requests carry what compat.md, section 1, wants."""

    async def test_a_registration_is_compact_json_without_nulls_and_signed_with_its_hash(
        self, serve: Serve, time: Time
    ) -> None:
        api = await serve(answers(202, registered("u1")))
        async with miner(time, api.url) as client:
            registration = await client.add(BODY)
        (asked,) = api.asked
        assert (asked.method, asked.path) == ("POST", "/nodes/")
        assert asked.body == b'{"server_id":"s","nodes":[{"uuid":"u1"}]}'
        assert asked.headers["Content-Type"] == "application/json"
        assert asked.headers["X-Chutes-Nonce"] == str(int(time.s))
        assert verify_request(add_of(asked))
        assert (registration.task_id, registration.seed, registration.nodes[0].uuid) == ("5Alice::00", 7, "u1")

    async def test_bytes_are_sent_as_they_are(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(202, registered("u1")))
        raw = b'{ "nodes": [], "server_id": null }'
        async with miner(time, api.url) as client:
            await client.add(raw)
        assert api.asked[0].body == raw

    @pytest.mark.parametrize(("bound", "purpose"), [(True, "nodes:a/b"), (False, "nodes")])
    async def test_a_delete_is_bound_to_its_gpu_unless_told_otherwise(
        self, serve: Serve, time: Time, *, bound: bool, purpose: str
    ) -> None:
        api = await serve(answers(200, {"deleted": True}))
        async with miner(time, api.url) as client:
            await client.delete("a/b", bound=bound)
        (asked,) = api.asked
        assert (asked.method, asked.path) == ("DELETE", "/nodes/a%2Fb")
        add = add_of(asked)
        assert verify_request(Delete(add.hotkey, add.nonce, add.signature, purpose))

    async def test_a_status_is_signed_for_graval(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(200, {"status": "pending"}))
        async with miner(time, api.url) as client:
            assert (await client.task_status("5Alice::00")).status == "pending"
        (asked,) = api.asked
        assert asked.path == "/nodes/verification_status?task_id=5Alice%3A%3A00"
        signature = bytes.fromhex(asked.headers["X-Chutes-Signature"])
        message = signing_message(ALICE.address, asked.headers["X-Chutes-Nonce"], "graval")
        assert verify_hotkey(ALICE.public_key, message, signature)

    async def test_reads_need_no_key(self, serve: Serve) -> None:
        api = await serve(answers(200, {"h100_sxm": {"provisioned": 0, "idle": 8}}))
        async with MinerClient([api.url]) as client:
            assert await client.inventory(model="h100_sxm") == {"h100_sxm": {"provisioned": 0, "idle": 8}}
            await client.detailed_inventory(hotkey="5Alice")
            await client.supported()
            with pytest.raises(LocalProtocolError, match="needs a signature"):
                await client.delete("u1")
        assert [asked.path for asked in api.asked] == [
            "/nodes/?model=h100_sxm",
            "/nodes/?detailed=true&hotkey=5Alice",
            "/nodes/supported",
        ]
        assert not any(name.startswith("X-Chutes") for asked in api.asked for name in asked.headers)


class TestSeveralApis:
    """One signed request, taken to the first API that serves it (rule 2)."""

    async def test_a_dead_api_is_passed_over_at_once(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(202, registered("u1")))
        failures: list[tuple[str, str]] = []
        dead = dead_url()
        async with miner(time, dead, api.url, on_failure=lambda *failure: failures.append(failure)) as client:
            await client.add(BODY)
        assert failures == [(dead, "Connection refused")]
        assert time.slept == []

    @pytest.mark.parametrize(
        "reply",
        [
            pytest.param(hangs_up, id="hangs up"),
            pytest.param(answers(408), id="408"),
            pytest.param(answers(500, {"detail": "Internal Server Error"}), id="500"),
            pytest.param(answers(501), id="501"),
            pytest.param(answers(502, b"<html>"), id="502"),
            pytest.param(answers(503, {"detail": "writes are refused"}, {"Retry-After": "5"}), id="503"),
            pytest.param(answers(504), id="504"),
            pytest.param(answers(599), id="599"),
            pytest.param(answers(429, {"detail": "slow down"}, {"Retry-After": "1"}), id="429"),
        ],
    )
    async def test_the_next_api_gets_identical_bytes(self, serve: Serve, time: Time, reply: Reply) -> None:
        first, second = await serve(reply), await serve(answers(202, registered("u1")))
        async with miner(time, first.url, second.url) as client:
            await client.add(BODY)
        assert first.asked == second.asked
        assert len(second.asked) == 1

    async def test_an_api_that_hangs_is_passed_over(self, serve: Serve, time: Time) -> None:
        first, second = await serve(never_answers), await serve(answers(202, registered("u1")))
        async with miner(time, first.url, second.url, timeout_s=0.1) as client:
            await client.add(BODY)
        assert first.asked == second.asked

    async def test_an_api_that_refuses_is_the_last_word(self, serve: Serve, time: Time) -> None:
        first, second = await serve(answers(409, {"detail": "exists"})), await serve(answers(202, registered("u1")))
        async with miner(time, first.url, second.url) as client:
            with pytest.raises(ConflictError, match="exists"):
                await client.add(BODY)
        assert second.asked == []

    async def test_a_request_that_was_signed_once_can_be_sent_anywhere(self, serve: Serve, time: Time) -> None:
        first, second = await serve(answers(202, registered("u1"))), await serve(answers(202, registered("u1")))
        async with miner(time, first.url) as client:
            request = client.sign_add(BODY)
            await client.send(request)
        time.s += 2 * SIGNATURE_AGE_S_MAX
        async with miner(time, second.url) as client:
            await client.send(request)
        assert add_of(first.asked[0]) == add_of(second.asked[0]) == request

    async def test_rounds_go_on_with_pauses_until_one_serves(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(503), answers(503), answers(202, registered("u1")))
        async with miner(time, api.url) as client:
            await client.add(BODY)
        assert time.slept == [RETRY_DELAY_S, RETRY_DELAY_S]
        assert len({add_of(asked) for asked in api.asked}) == 1

    @pytest.mark.parametrize(
        ("retry_after", "pause_s"),
        [("7", 7.0), ("1", RETRY_DELAY_S), ("86400", RETRY_AFTER_S_MAX), ("tomorrow", RETRY_DELAY_S)],
    )
    async def test_retry_after_is_respected_within_bounds(
        self, serve: Serve, time: Time, retry_after: str, pause_s: float
    ) -> None:
        api = await serve(answers(503, None, {"Retry-After": retry_after}), answers(202, registered("u1")))
        async with miner(time, api.url) as client:
            await client.add(BODY)
        assert time.slept == [pause_s]

    async def test_the_api_that_is_ready_first_decides_the_pause(self, serve: Serve, time: Time) -> None:
        slow = await serve(answers(429, None, {"Retry-After": "20"}), answers(202, registered("u1")))
        async with miner(time, slow.url, dead_url()) as client:
            await client.add(BODY)
        assert time.slept == [RETRY_DELAY_S]

    async def test_a_request_is_signed_anew_only_when_its_nonce_is_old(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(503))
        pause_s = SIGNATURE_AGE_S_MAX / 2
        async with miner(time, api.url, retries=4, retry_delay_s=pause_s) as client:
            with pytest.raises(ApiUnreachableError):
                await client.add(BODY)
        nonces = [int(asked.headers["X-Chutes-Nonce"]) - 1_764_000_000 for asked in api.asked]
        assert nonces == [0, 0, 0, 3 * pause_s, 3 * pause_s]
        assert len({add_of(asked) for asked in api.asked}) == 2
        assert all(verify_request(add_of(asked)) for asked in api.asked)

    async def test_apis_that_hang_do_not_use_up_the_nonce_of_the_one_that_lives(self, serve: Serve, time: Time) -> None:
        async def hangs(request: web.Request) -> web.StreamResponse:
            time.s += 30
            return await hangs_up(request)

        hanging, live = await serve(hangs), await serve(answers(202, registered("u1")))
        names = [f"{hanging.url}/{number}" for number in range(25)]
        async with miner(time, *names, live.url) as client:
            await client.add(BODY)
        (asked,) = live.asked
        assert time.s - int(asked.headers["X-Chutes-Nonce"]) <= SIGNATURE_AGE_S_MAX
        assert verify_request(add_of(asked))
        assert len({add_of(asked) for asked in hanging.asked}) == 3  # not one for each

    async def test_rounds_are_told(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(503, None, {"Retry-After": "7"}))
        rounds: list[tuple[float, int]] = []
        async with miner(time, api.url, dead_url(), retries=2, on_retry=lambda *told: rounds.append(told)) as client:
            with pytest.raises(ApiUnreachableError):
                await client.add(BODY)
        assert rounds == [(RETRY_DELAY_S, 1), (RETRY_DELAY_S, 2)]
        assert [wait_s for wait_s, _ in rounds] == time.slept

    async def test_it_gives_up_naming_each_api_and_its_reason(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(503, {"detail": "own head not heard yet"}))
        dead = dead_url()
        async with miner(time, dead, api.url, retries=1) as client:
            with pytest.raises(ApiUnreachableError) as caught:
                await client.add(BODY)
        assert caught.value.failures == {dead: "Connection refused", api.url: "503: own head not heard yet"}
        assert len(api.asked) == 2

    async def test_the_same_api_twice_is_asked_once_a_round(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(503))
        async with miner(time, api.url, f"{api.url}/", retries=0) as client:
            with pytest.raises(ApiUnreachableError):
                await client.supported()
        assert len(api.asked) == 1


class TestAnswers:
    """Every answer is a result or an error that says why."""

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, InvalidRequestError),
            (401, AuthRefusedError),
            (403, AuthRefusedError),
            (404, NotFoundError),
            (409, ConflictError),
            (413, InvalidRequestError),
            (429, TooOftenError),
            (418, RefusedError),
        ],
    )
    async def test_a_refusal_is_raised_with_the_apis_text_and_not_repeated(
        self, serve: Serve, time: Time, status: int, kind: type[RefusedError]
    ) -> None:
        api = await serve(answers(status, {"detail": "no,\nbecause"}, {"Location": "http://192.0.2.1/"}))
        async with miner(time, api.url) as client:
            with pytest.raises(kind) as caught:
                await client.add(BODY)
        assert (caught.value.status, caught.value.detail, caught.value.api) == (status, "no, because", api.url)
        assert len(api.asked) == 1

    async def test_a_redirect_is_not_followed_and_says_what_to_give(self, serve: Serve, time: Time) -> None:
        other = await serve(answers(202, registered("u1")))
        api = await serve(answers(307, b"<html>", {"Location": f"{other.url}/nodes/"}))
        async with miner(time, api.url) as client:
            with pytest.raises(RefusedError, match=r"answered 307: .*base URL, such as http://host:port") as caught:
                await client.add(BODY)
        assert caught.value.status == 307
        assert other.asked == []

    async def test_field_errors_are_one_line(self, serve: Serve, time: Time) -> None:
        errors = [{"loc": ["body", "nodes", 0, "uuid"], "msg": "Field required"}, "odd", {"msg": "no place"}]
        api = await serve(answers(422, {"detail": errors}))
        async with miner(time, api.url) as client:
            with pytest.raises(InvalidRequestError) as caught:
                await client.add(BODY)
        assert caught.value.detail == "body.nodes.0.uuid: Field required; odd; None: no place"

    @pytest.mark.parametrize(
        "body",
        [b"<html>", b"[]", b"{}", b'{"task_id": "", "nodes": []}', json.dumps(registered()).encode(), b"\xff"],
    )
    async def test_an_answer_of_another_shape_is_an_error(self, serve: Serve, time: Time, body: bytes) -> None:
        api = await serve(answers(202, body))
        async with miner(time, api.url) as client:
            with pytest.raises(MalformedAnswerError, match="is it a p2pnodes daemon"):
                await client.add(BODY)

    async def test_an_inventory_of_another_shape_is_an_error(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(200, []))
        async with miner(time, api.url) as client:
            with pytest.raises(MalformedAnswerError):
                await client.inventory()

    async def test_an_answer_is_read_up_to_its_bound(
        self, serve: Serve, time: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 1000)
        api = await serve(answers(200, b" " * 1001))
        async with miner(time, api.url) as client:
            with pytest.raises(MalformedAnswerError, match="more than 1000 bytes"):
                await client.supported()

    async def test_an_error_text_is_bounded(self, serve: Serve, time: Time) -> None:
        api = await serve(answers(400, {"detail": "x" * 100_000}))
        async with miner(time, api.url) as client:
            with pytest.raises(InvalidRequestError) as caught:
                await client.add(BODY)
        assert len(str(caught.value)) < 3000


class TestWaiting:
    """A task is polled until the validators have decided."""

    async def test_it_polls_while_pending(self, serve: Serve, time: Time) -> None:
        pending = answers(200, {"status": "pending"})
        api = await serve(pending, pending, answers(200, {"status": "verified"}))
        async with miner(time, api.url) as client:
            assert (await client.wait_verified("t")).status == "verified"
        assert time.slept == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"status": "failed", "detail": "no GPU there"}, "no GPU there"),
            ({"status": "error", "error": "broken"}, "broken"),
            ({"status": "failed"}, "no reason"),
        ],
    )
    async def test_a_lost_vote_is_an_error_with_its_reason(
        self, serve: Serve, time: Time, answer: dict[str, str], reason: str
    ) -> None:
        api = await serve(answers(200, answer))
        async with miner(time, api.url) as client:
            with pytest.raises(TaskFailedError, match=reason):
                await client.wait_verified("t")

    async def test_it_gives_up_when_the_time_is_over(self, serve: Serve) -> None:
        api = await serve(answers(200, {"status": "pending"}))
        async with MinerClient([api.url], ALICE) as client:
            with pytest.raises(TaskTimeoutError, match=r"still pending after 0\.1 s"):
                await client.wait_verified("t", timeout_s=0.1, poll_s=0.01)
        assert len(api.asked) > 1


class TestMisuse:
    """What the caller does wrong is said before anything is sent."""

    @pytest.mark.parametrize(
        "api", ["", "node.example.org", "ftp://x", "http://", "http://x:0", "http://x?y", "http://[", "http://x:port"]
    )
    def test_an_api_must_be_a_base_url(self, api: str) -> None:
        with pytest.raises(LocalProtocolError, match="expected a base URL"):
            MinerClient([api])

    @pytest.mark.parametrize("count", [0, 65])
    def test_there_are_1_to_64_apis(self, count: int) -> None:
        with pytest.raises(LocalProtocolError, match="expected 1 to 64"):
            MinerClient([f"http://peer{index}" for index in range(count)])

    async def test_a_client_must_be_opened(self) -> None:
        with pytest.raises(LocalProtocolError, match="not open"):
            await MinerClient(["http://127.0.0.1:1"]).supported()
