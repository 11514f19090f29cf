"""The miner's client: what it signs, whom it asks, and what it makes of the answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from p2pnodes.miner import client as client_module
from p2pnodes.miner.client import (
    POLL_GAP_S,
    RECONNECT_S,
    RECONNECT_S_MIN,
    RETRY_AFTER_S_MAX,
    RETRY_DELAY_S,
    SIGNATURE_AGE_S_MAX,
    ApiUnreachableError,
    AuthRefusedError,
    ConflictError,
    InvalidRequestError,
    MalformedAnswerError,
    MinerClient,
    NodesEvent,
    NotFoundError,
    RefusedError,
    TaskFailedError,
    TaskTimeoutError,
    TooOftenError,
    WaitProgress,
)
from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.keys import ss58_decode, verify_hotkey
from p2pnodes.model.requests import Add, Delete, signing_message, verify_request
from tests.miner.fake_api import (
    Asked,
    FakeApi,
    Reply,
    answers,
    dead_url,
    event,
    hangs_up,
    lists,
    never_answers,
    registered,
    self_signed,
    serving,
    streams,
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

        async def start(*replies: Reply, events: Sequence[Reply] = ()) -> FakeApi:
            return await stack.enter_async_context(serving(FakeApi(*replies, events=events)))

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

    async def test_a_certificate_that_is_not_trusted_is_told_and_not_tried_again(
        self, time: Time, tmp_path: Path
    ) -> None:
        tls = self_signed(tmp_path)
        async with serving(FakeApi(answers(202)), tls) as api, miner(time, api.url) as client:
            with pytest.raises(ApiUnreachableError) as adding:
                await client.add(BODY)
            with pytest.raises(ApiUnreachableError) as following:
                await anext(client.follow())
        reason = "certificate not trusted: self-signed certificate (SSL_CERT_FILE names another CA)"
        assert adding.value.failures == following.value.failures == {api.url: reason}
        assert (time.slept, api.asked, api.followed) == ([], [], [])

    async def test_the_other_apis_are_asked_on_without_it(self, serve: Serve, time: Time, tmp_path: Path) -> None:
        failures: list[str] = []
        other = await serve(answers(503), answers(202, registered("u1")))
        async with serving(FakeApi(answers(202)), self_signed(tmp_path)) as untrusted:
            tell = lambda api, _: failures.append(api)  # noqa: E731
            async with miner(time, untrusted.url, other.url, on_failure=tell) as client:
                await client.add(BODY)
        assert failures == [untrusted.url, other.url]
        assert time.slept == [RETRY_DELAY_S]

    @pytest.mark.parametrize(
        ("validators", "told"),
        [
            (["https://a.example", "https://b.example"], "; validators that may take it: https://a.example, "),
            ([f"https://{name}.example" for name in "abcdefgh"], "https://b.example, https://c.example"),
            ([], ""),
            ("https://a.example", ""),
            ([7, None], ""),
            (["javascript:alert(1)"], ""),
            (["https://a.example/\x1b[31m"], ""),
            ([f"https://{'a' * 1_000}.example"], ""),
        ],
        ids=["two", "many", "none", "a text", "numbers", "no URL", "control characters", "long"],
    )
    async def test_other_validators_that_a_daemon_names_are_told(
        self, serve: Serve, time: Time, validators: Any, told: str
    ) -> None:
        api = await serve(answers(503, {"detail": "this daemon is an observer", "validators": validators}))
        async with miner(time, api.url, retries=0) as client:
            with pytest.raises(ApiUnreachableError) as caught:
                await client.add(BODY)
        text = caught.value.failures[api.url]
        assert text.startswith("503: this daemon is an observer")
        assert told in text
        assert bool(told) is (text != "503: this daemon is an observer")
        assert len(text) < 200

    async def test_an_api_that_is_asked_anyway_is_not_told(self, serve: Serve, time: Time) -> None:
        dead = dead_url()
        api = await serve(answers(503, {"detail": "starting", "validators": [f"{dead}/"]}))
        async with miner(time, api.url, dead, retries=0) as client:
            with pytest.raises(ApiUnreachableError) as caught:
                await client.add(BODY)
        assert caught.value.failures[api.url] == "503: starting"

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

    @pytest.mark.parametrize(
        ("named", "code"),
        [
            ("api-clock-back", "api-clock-back"),
            ("from-the-future", "from-the-future"),
            ("Bad Code", Code.MINER_REFUSED),
            ("x-" * 32 + "x", Code.MINER_REFUSED),
            ("", Code.MINER_REFUSED),
        ],
    )
    async def test_a_refusal_has_the_apis_code_where_it_names_one(
        self, serve: Serve, time: Time, named: str, code: str
    ) -> None:
        api = await serve(answers(409, {"detail": "no"}, {HEADER: named}))
        async with miner(time, api.url) as client:
            with pytest.raises(ConflictError) as caught:
                await client.add(BODY)
        assert caught.value.code == code

    @pytest.mark.parametrize("retry_after", ["121", "86400"])
    async def test_a_limit_of_hours_is_a_refusal_and_not_waited_out(
        self, serve: Serve, time: Time, retry_after: str
    ) -> None:
        detail = {"detail": "Detected GPU hotkey hopping for nodes: u1 (used 3 times recently)"}
        api = await serve(answers(429, detail, {"Retry-After": retry_after}))
        async with miner(time, api.url) as client:
            with pytest.raises(TooOftenError, match="hopping"):
                await client.add(BODY)
        assert time.slept == []

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


PENDING = answers(200, {"status": "pending"})
VERIFIED = answers(200, {"status": "verified"})


def claim(task_id: str, status: str) -> bytes:
    return event("claim", task_id=task_id, claim_id="00", hotkey=ALICE.address, status=status, detail=None)


class TestWaiting:
    """A task is polled until the validators have decided; a stream of events makes that quicker, never slower."""

    async def test_it_polls_while_pending(self, serve: Serve, time: Time) -> None:
        api = await serve(PENDING, PENDING, VERIFIED)
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
        api = await serve(PENDING)
        async with MinerClient([api.url], ALICE) as client:
            with pytest.raises(TaskTimeoutError, match=r"still pending after 0\.1 s"):
                await client.wait_verified("t", timeout_s=0.1, poll_s=0.01)
        assert len(api.asked) > 1

    async def test_what_is_decided_already_needs_no_stream(self, serve: Serve, time: Time) -> None:
        api = await serve(VERIFIED, events=[streams()])
        async with miner(time, api.url) as client:
            await client.wait_verified("t")
        assert api.followed == []

    async def test_a_decision_that_is_streamed_is_confirmed_at_once_by_a_signed_poll(self, serve: Serve) -> None:
        told = event("reset") + claim("t", "pending") + event("snapshot_end") + claim("t", "verified")
        api = await serve(PENDING, VERIFIED, events=[streams(told)])
        async with MinerClient([api.url], ALICE) as client, asyncio.timeout(30):
            assert (await client.wait_verified("t", poll_s=3600)).status == "verified"
        assert api.followed[0].path == f"/nodes/events?hotkey={ALICE.address}"
        assert not any(name.startswith("X-Chutes") for name in api.followed[0].headers)
        assert [asked.path for asked in api.asked] == ["/nodes/verification_status?task_id=t"] * 2
        assert all("X-Chutes-Signature" in asked.headers for asked in api.asked)

    async def test_a_stream_that_lies_decides_nothing_and_costs_one_poll_a_turn(self, serve: Serve) -> None:
        api = await serve(PENDING, events=[streams(*[claim("t", "verified")] * 500)])
        progress: list[WaitProgress] = []
        async with MinerClient([api.url], ALICE) as client:
            with pytest.raises(TaskTimeoutError):
                await client.wait_verified("t", timeout_s=1, poll_s=0.25, on_progress=progress.append)
        assert progress[-1].events == 500
        assert len(api.asked) <= 2 * 5

    async def test_other_tasks_and_events_do_not_wake_it(self, serve: Serve) -> None:
        told = claim("other", "verified") + claim("t", "pending") + event("node", status="verified", task_id="t")
        told += event("claim", status="verified") + event("claim", task_id=7, status="verified")
        progress: list[WaitProgress] = []
        api = await serve(PENDING, events=[streams(told)])
        async with MinerClient([api.url], ALICE) as client:
            with pytest.raises(TaskTimeoutError):
                await client.wait_verified("t", timeout_s=0.5, poll_s=3600, on_progress=progress.append)
        assert progress[-1] == WaitProgress(pending=1, decided=0, polls=1, events=5)

    @pytest.mark.parametrize(
        "broken",
        [
            pytest.param(answers(404), id="404"),
            pytest.param(answers(405, {"detail": "Method Not Allowed"}), id="405"),
            pytest.param(answers(429, None, {"Retry-After": "9"}), id="429"),
            pytest.param(answers(503), id="503"),
            pytest.param(answers(200, {"h100_sxm": {}}), id="no stream"),
            pytest.param(hangs_up, id="hangs up"),
            pytest.param(never_answers, id="never answers"),
            pytest.param(streams(), id="silent"),
            pytest.param(streams(b"data: {}", cut=True), id="cut"),
            pytest.param(streams(b"data: []\n\n"), id="no object"),
            pytest.param(streams(b"data: {\n\n"), id="no JSON"),
            pytest.param(streams(b"data: \xff\n\n"), id="no UTF-8"),
            pytest.param(streams(claim("t", "pending"), ends=True), id="ends"),
        ],
    )
    async def test_without_a_good_stream_it_polls_as_often_as_ever(self, serve: Serve, broken: Reply) -> None:
        api = await serve(*[PENDING] * 5, VERIFIED, events=[broken])
        failures: list[object] = []
        client = MinerClient([api.url], ALICE, on_failure=lambda *failure: failures.append(failure))
        begun = asyncio.get_running_loop().time()
        async with client:
            assert (await client.wait_verified("t", poll_s=0.05)).status == "verified"
        assert len(api.asked) == 6
        assert failures == []  # the stream is an extra: nobody is told that there is none
        assert asyncio.get_running_loop().time() - begun < 20

    async def test_the_stream_may_come_from_another_api_than_the_answers(self, serve: Serve) -> None:
        central = await serve(PENDING, VERIFIED)
        daemon = await serve(PENDING, events=[streams(claim("t", "verified"))])
        async with MinerClient([central.url, daemon.url], ALICE) as client, asyncio.timeout(30):
            await client.wait_verified("t", poll_s=3600)
        assert (len(central.asked), len(central.followed), len(daemon.asked)) == (2, 1, 0)

    async def test_many_tasks_are_polled_in_turn_and_each_is_told(self, serve: Serve, time: Time) -> None:
        api = await serve(PENDING, PENDING, VERIFIED, answers(200, {"status": "failed", "detail": "no"}))
        progress: list[WaitProgress] = []
        async with miner(time, api.url) as client:
            decided = await client.wait_decided(["a", "b", "a"], on_progress=progress.append)
        assert {task_id: task.status for task_id, task in decided.items()} == {"a": "verified", "b": "failed"}
        assert [asked.path[-1] for asked in api.asked] == ["a", "b", "a", "b"]
        assert [told[:3] for told in progress] == [(2, 0, 1), (2, 0, 2), (1, 1, 3), (0, 2, 4)]
        assert time.slept == [0.5, 0.5, POLL_GAP_S]

    async def test_hundreds_of_tasks_are_not_polled_hundreds_of_times_a_second(self, serve: Serve, time: Time) -> None:
        api = await serve(VERIFIED)
        async with miner(time, api.url) as client:
            await client.wait_decided([str(number) for number in range(200)])
        assert time.slept == [POLL_GAP_S] * 199

    async def test_a_stream_that_tells_of_hundreds_does_not_change_that(self, serve: Serve, time: Time) -> None:
        told = streams(b"".join(claim(str(number), "verified") for number in range(60)))
        api = await serve(PENDING, VERIFIED, events=[told])
        progress: list[WaitProgress] = []
        async with MinerClient([api.url], ALICE) as client, asyncio.timeout(60):
            begun = asyncio.get_running_loop().time()
            await client.wait_decided([str(number) for number in range(60)], poll_s=3600, on_progress=progress.append)
        assert asyncio.get_running_loop().time() - begun >= 59 * POLL_GAP_S
        assert progress[-1] == WaitProgress(pending=0, decided=60, polls=61, events=60)

    async def test_what_is_pending_when_the_time_is_over_is_absent(self, serve: Serve) -> None:
        api = await serve(VERIFIED, PENDING)
        async with MinerClient([api.url], ALICE) as client:
            assert list(await client.wait_decided(["a", "b"], timeout_s=0.2, poll_s=0.02)) == ["a"]


async def events_of(client: MinerClient, count: int) -> list[NodesEvent]:
    """The next events, within a deadline."""
    found: list[NodesEvent] = []
    async with asyncio.timeout(30), aclosing(client.follow(ALICE.address)) as changes:
        async for change in changes:
            found.append(change)
            if len(found) == count:
                break
    return found


class TestFollowing:
    """A stream is followed over breaks and from one daemon to the next, and every wait of that has a bound."""

    SNAPSHOT = event("reset", 1) + event("node", 2, uuid="u1") + event("snapshot_end", 3)

    async def test_events_come_with_their_type_data_and_api(self, serve: Serve, time: Time) -> None:
        api = await serve(events=[streams(self.SNAPSHOT, b": keep-alive\n\n", event("node_deleted", 4, uuid="u1"))])
        async with MinerClient([api.url]) as client:
            found = await events_of(client, 4)
        assert [change.type for change in found] == ["reset", "node", "snapshot_end", "node_deleted"]
        assert found[3] == NodesEvent("node_deleted", {"uuid": "u1"}, api.url)
        assert api.followed[0].headers["Accept"] == "text/event-stream"

    @pytest.mark.parametrize("how", [{"ends": True}, {"cut": True}])
    async def test_a_stream_that_breaks_is_resumed_where_it_was(
        self, serve: Serve, time: Time, how: dict[str, bool]
    ) -> None:
        first = streams(self.SNAPSHOT + event("node", 4, uuid="u2"), **how)
        api = await serve(events=[first, streams(event("node", 5, uuid="u3"))])
        failures: list[tuple[str, str]] = []
        async with miner(time, api.url, on_failure=lambda *failure: failures.append(failure)) as client:
            found = await events_of(client, 5)
        assert [change.data.get("uuid") for change in found] == [None, "u1", None, "u2", "u3"]
        assert [asked.headers.get("Last-Event-ID") for asked in api.followed] == [None, "e-4"]
        assert (len(failures), time.slept) == (1, [RECONNECT_S])

    async def test_what_was_cut_off_is_asked_for_again_and_ids_of_keep_alives_count(
        self, serve: Serve, time: Time
    ) -> None:
        idle = self.SNAPSHOT + b": keep-alive\nid: e-8\n\n"
        cut = streams(event("node", 9, uuid="u2") + b"id: e-10\nevent: node\ndata: {}\n", ends=True)
        api = await serve(events=[streams(idle, ends=True), cut, streams(event("node", 10, uuid="u3"))])
        async with miner(time, api.url) as client:
            await events_of(client, 5)
        assert [asked.headers.get("Last-Event-ID") for asked in api.followed] == [None, "e-8", "e-9"]

    async def test_half_a_snapshot_is_not_resumed(self, serve: Serve, time: Time) -> None:
        half = streams(event("reset", 1) + event("node", 2, uuid="u1"), ends=True)
        api = await serve(events=[half, streams(self.SNAPSHOT)])
        async with miner(time, api.url) as client:
            await events_of(client, 5)
        assert [asked.headers.get("Last-Event-ID") for asked in api.followed] == [None, None]

    @pytest.mark.parametrize("name", ["x" * 257, "\N{GREEK SMALL LETTER ALPHA}", "a\tb"])
    async def test_an_id_that_fits_no_header_is_not_given_back(self, serve: Serve, time: Time, name: str) -> None:
        strange = f"id: {name}\nevent: node\ndata: {{}}\n\n".encode()
        api = await serve(events=[streams(self.SNAPSHOT + strange, ends=True), streams(self.SNAPSHOT)])
        async with miner(time, api.url) as client:
            await events_of(client, 7)
        assert "Last-Event-ID" not in api.followed[1].headers

    async def test_the_next_api_is_asked_when_one_goes_away_and_gets_no_foreign_id(
        self, serve: Serve, time: Time
    ) -> None:
        first = await serve(events=[streams(self.SNAPSHOT, ends=True), answers(503, {"detail": "stopping"})])
        second = await serve(events=[streams(self.SNAPSHOT)])
        failures: list[tuple[str, str]] = []
        async with miner(time, first.url, second.url, on_failure=lambda *told: failures.append(told)) as client:
            found = await events_of(client, 6)
        assert [change.api for change in found] == [first.url] * 3 + [second.url] * 3
        assert first.followed[1].headers["Last-Event-ID"] == "e-3"
        assert "Last-Event-ID" not in second.followed[0].headers
        assert failures == [(first.url, "the stream of events ended"), (first.url, "503: stopping")]

    async def test_the_api_that_streamed_last_is_asked_first(self, serve: Serve, time: Time) -> None:
        first = await serve(events=[answers(503)])
        second = await serve(events=[streams(self.SNAPSHOT, ends=True), streams(self.SNAPSHOT)])
        async with miner(time, first.url, second.url) as client:
            await events_of(client, 6)
        assert (len(first.followed), len(second.followed)) == (1, 2)

    @pytest.mark.parametrize(
        ("asked_ms", "pause_s"), [(b"2500", 2.5), (b"0", RECONNECT_S_MIN), (b"999999", RETRY_AFTER_S_MAX)]
    )
    async def test_the_pause_that_a_daemon_asks_for_is_kept_within_bounds(
        self, serve: Serve, time: Time, asked_ms: bytes, pause_s: float
    ) -> None:
        first = streams(b"retry: " + asked_ms + b"\n\n" + self.SNAPSHOT, ends=True)
        api = await serve(events=[first, streams(self.SNAPSHOT)])
        async with miner(time, api.url) as client:
            await events_of(client, 6)
        assert time.slept == [pause_s]

    async def test_rounds_without_an_event_are_bounded(self, serve: Serve, time: Time) -> None:
        api, dead = await serve(events=[answers(503, {"detail": "full"})]), dead_url()
        rounds: list[tuple[float, int]] = []
        async with miner(time, api.url, dead, retries=3, on_retry=lambda *told: rounds.append(told)) as client:
            with pytest.raises(ApiUnreachableError) as caught:
                await events_of(client, 1)
        assert caught.value.failures == {api.url: "503: full", dead: "Connection refused"}
        assert len(api.followed) == 4
        assert rounds == [(RETRY_DELAY_S, number) for number in (1, 2, 3)]

    async def test_a_stream_that_only_opens_is_such_a_round(self, serve: Serve, time: Time) -> None:
        api = await serve(events=[streams(b": hello\n\n", ends=True)])
        async with miner(time, api.url, retries=2) as client:
            with pytest.raises(ApiUnreachableError, match="the stream of events ended"):
                await events_of(client, 1)
        assert len(api.followed) == 3

    async def test_events_in_between_begin_the_count_anew(self, serve: Serve, time: Time) -> None:
        api = await serve(events=[streams(self.SNAPSHOT, ends=True), hangs_up] * 5)
        async with miner(time, api.url, retries=1) as client:
            assert len(await events_of(client, 15)) == 15

    async def test_a_silent_stream_counts_as_broken(
        self, serve: Serve, time: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "STREAM_SILENT_S_MAX", 0.1)
        api = await serve(events=[streams()])
        async with miner(time, api.url, retries=1) as client:
            with pytest.raises(ApiUnreachableError, match=r"silent for 0\.1 s"):
                await events_of(client, 1)

    async def test_an_event_without_end_is_not_kept(self, serve: Serve, time: Time) -> None:
        api = await serve(events=[streams(*[b"data: " + b"x" * 1000 + b"\n"] * 100)])
        async with miner(time, api.url, retries=0) as client:
            with pytest.raises(ApiUnreachableError, match="an event of more than 65536 bytes"):
                await events_of(client, 1)

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (answers(404, {"detail": "Not Found"}), "answered 404: Not Found"),
            (answers(405, {"detail": "Method Not Allowed"}), "answered 405"),
            (answers(422, {"detail": "no such hotkey"}), "answered 422: no such hotkey"),
            (answers(307, b"", {"Location": "/elsewhere"}), "answered 307: a redirect"),
            (answers(200, {}), "answered 200: application/octet-stream; expected text/event-stream"),
        ],
    )
    async def test_an_api_without_a_stream_is_not_asked_again(
        self, serve: Serve, time: Time, reply: Reply, reason: str
    ) -> None:
        without, other = await serve(events=[reply]), await serve(events=[answers(503)])
        async with miner(time, without.url, other.url, retries=3) as client:
            with pytest.raises(ApiUnreachableError):
                await events_of(client, 1)
        assert (len(without.followed), len(other.followed)) == (1, 4)
        async with miner(time, without.url) as client:
            with pytest.raises(RefusedError, match=reason):
                await events_of(client, 1)
        assert len(without.followed) == 2


class TestOwnNodes:
    """A miner's list of its nodes, from daemons and from the central API alike."""

    async def test_it_is_signed_for_miner_and_read_row_by_row(self, serve: Serve, time: Time) -> None:
        api = await serve(lists({"uuid": "u1", "seed": 2**62}, {"uuid": "u2"}))
        async with miner(time, api.url) as client:
            found = await client.own_nodes()
        assert found == (api.url, [{"uuid": "u1", "seed": 2**62}, {"uuid": "u2"}], [])
        (asked,) = api.asked
        assert (asked.method, asked.path) == ("GET", "/miner/nodes/")
        message = signing_message(ALICE.address, asked.headers["X-Chutes-Nonce"], "miner")
        assert verify_hotkey(ALICE.public_key, message, bytes.fromhex(asked.headers["X-Chutes-Signature"]))

    async def test_no_nodes_are_an_empty_list(self, serve: Serve, time: Time) -> None:
        api = await serve(lists())
        async with miner(time, api.url) as client:
            assert (await client.own_nodes()).nodes == []

    async def test_a_malformed_row_is_named_and_the_others_count(self, serve: Serve, time: Time) -> None:
        api = await serve(lists({"uuid": "u1"}, b"{", [], {"uuid": "u2"}))
        async with miner(time, api.url) as client:
            found = await client.own_nodes()
        assert [node["uuid"] for node in found.nodes] == ["u1", "u2"]
        assert [reason.split(":")[0] for reason in found.malformed] == ["row 2", "row 3"]

    @pytest.mark.parametrize(
        "body", [b"<html>\n\n", b'{"detail": 7}', b'data: {"uuid": "u1"}\n\ndata: {"uu', b"data: {}", b"data: \xff\n\n"]
    )
    async def test_another_answer_or_a_part_of_one_is_no_list(self, serve: Serve, time: Time, body: bytes) -> None:
        api = await serve(answers(200, body))
        async with miner(time, api.url) as client:
            with pytest.raises(MalformedAnswerError, match="no list of nodes"):
                await client.own_nodes()

    async def test_a_list_that_is_cut_off_is_asked_for_again(self, serve: Serve, time: Time) -> None:
        whole = lists({"uuid": "u1"})
        api = await serve(streams(b'data: {"uuid": "u1"}\n\n', cut=True), whole)
        async with miner(time, api.url) as client:
            assert len((await client.own_nodes()).nodes) == 1
        assert len(api.asked) == 2

    @pytest.mark.parametrize(("bound", "most"), [("NODE_LIST_BYTES_MAX", 20), ("NODE_LIST_NODES_MAX", 1)])
    async def test_a_list_is_read_up_to_its_bounds(
        self, serve: Serve, time: Time, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
    ) -> None:
        monkeypatch.setattr(client_module, bound, most)
        api = await serve(lists({"uuid": "u1"}, {"uuid": "u2"}))
        async with miner(time, api.url) as client:
            with pytest.raises(MalformedAnswerError, match=f"answered more than {most}"):
                await client.own_nodes()

    async def test_a_list_that_never_ends_is_given_up_in_time(
        self, serve: Serve, time: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "NODE_LIST_S_MAX", 0.1)
        api = await serve(streams(b'data: {"uuid": "u1"}\n\n'))
        async with miner(time, api.url, retries=0) as client:
            with pytest.raises(ApiUnreachableError, match=r"no answer within 0\.1 s"):
                await client.own_nodes()


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
