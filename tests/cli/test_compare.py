"""``compare``: where two inventories differ, as a table, as JSON and as an exit code."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.cli.conftest import Cli, Ended
from tests.miner.fake_api import FakeApi, Reply, answers, dead_url, lists, serving
from tests.support import gpu

Serve = Callable[..., Awaitable[FakeApi]]
Run = Callable[..., Awaitable[Ended]]
ALICE = ("--uri", "//Alice")
CHUTE = {"username": None, "name": "[private chute]", "chute_id": "c", "verified": True, "instance_id": "i"}


def held(busy: int = 0, **idle: int) -> dict[str, Any]:
    """One miner's part of a detailed inventory."""
    return {"provisioned": [{"gpu": "h100", "chute": CHUTE}] * busy, "idle": idle}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(*replies: Reply) -> FakeApi:
            return await stack.enter_async_context(serving(FakeApi(*replies)))

        yield start


@pytest.fixture
def run(cli: Cli) -> Run:
    """Run the command beside the APIs' loop."""

    async def run(here: FakeApi | str, there: FakeApi | str, *arguments: object) -> Ended:
        urls = [api if isinstance(api, str) else api.url for api in (here, there)]
        return await asyncio.to_thread(cli, "compare", urls[1], "--api", urls[0], "--retries", 0, *arguments)

    return run


class TestCounts:
    """Without a key: how many GPUs of which model each miner has."""

    async def test_equal_ones_are_0(self, serve: Serve, run: Run) -> None:
        here, there = (
            await serve(answers(200, {"5A": held(2, h100=6)})),
            await serve(answers(200, {"5A": held(2, h100=6)})),
        )
        ended = await run(here, there)
        assert (ended.code, ended.out) == (0, "equal: 8 GPUs of 1 miners\n")
        assert (await run(here, there, "--json")).json == {"equal": True, "there": there.url, "counts": []}
        assert [asked.path for asked in (*here.asked, *there.asked)] == ["/nodes/?detailed=true"] * 4
        assert not any(name.startswith("X-Chutes") for name in here.asked[0].headers)

    async def test_differences_are_1_and_a_table(self, serve: Serve, run: Run) -> None:
        here = await serve(answers(200, {"5A": held(2, h100=6), "5B": held(a100=8)}))
        there = await serve(answers(200, {"5A": held(h100=8), "5B": held(a100=8), "5C": held(a100=1)}))
        ended = await run(here, there)
        assert ended.code == 1
        assert [line.split() for line in ended.out.splitlines()[1:]] == [
            ["5A", "h100", "8", "8", "2", "0"],
            ["5C", "a100", "0", "1", "0", "0"],
        ]
        found = (await run(here, there, "--json")).json["counts"]
        assert found[1] == {"miner": "5C", "gpu": "a100", "here": 0, "there": 1, "in_use_here": 0, "in_use_there": 0}

    async def test_what_is_in_use_can_be_left_out(self, serve: Serve, run: Run) -> None:
        here, there = await serve(answers(200, {"5A": held(2)})), await serve(answers(200, {"5A": held(h100=2)}))
        assert ((await run(here, there)).code, (await run(here, there, "--gpus-only")).code) == (1, 0)

    async def test_another_answer_is_one_line(self, serve: Serve, run: Run) -> None:
        here, there = await serve(answers(200, {"5A": held(2)})), await serve(answers(200, {"h100": {"idle": 1}}))
        ended = await run(here, there)
        assert (ended.code, ended.error) == (
            1,
            f"{there.url} answered no detailed inventory; is it an API of this interface?",
        )


class TestNodes:
    """With a miner's key: which of its GPUs are missing, and what differs."""

    async def test_equal_ones_are_0(self, serve: Serve, run: Run) -> None:
        here, there = await serve(lists({**gpu("a"), "seed": 1})), await serve(lists({**gpu("a"), "seed": 2}))
        ended = await run(here, there, *ALICE)
        assert (ended.code, ended.out) == (0, "equal: 1 GPUs\n")
        assert [asked.path for asked in (*here.asked, *there.asked)] == ["/miner/nodes/"] * 2

    async def test_differences_are_1_gpu_by_gpu(self, serve: Serve, run: Run) -> None:
        here = await serve(lists(gpu("a"), gpu("b", verification_port=1), {**gpu("d"), "verified_at": "2026"}))
        there = await serve(lists(gpu("b", verification_port=2), gpu("c"), {**gpu("d"), "verified_at": None}))
        ended = await run(here, there, *ALICE)
        assert ended.code == 1
        assert [line.split() for line in ended.out.splitlines()[1:]] == [
            ["a", "missing", "there", "-", "-", "-"],
            ["b", "differs", "verification_port", "1", "2"],
            ["c", "missing", "here", "-", "-", "-"],
            ["d", "differs", "verified", "yes", "no"],
        ]
        assert (await run(here, there, *ALICE, "--json")).json == {
            "equal": False,
            "there": there.url,
            "missing_here": ["c"],
            "missing_there": ["a"],
            "different": [
                {"uuid": "b", "columns": {"verification_port": {"here": 1, "there": 2}}},
                {"uuid": "d", "columns": {"verified": {"here": True, "there": False}}},
            ],
            "malformed": [],
        }

    async def test_rows_that_cannot_be_read_are_named_and_not_equal(self, serve: Serve, run: Run) -> None:
        here, there = await serve(lists(gpu("a"))), await serve(lists(gpu("a"), b"{", {"uuid": 7}))
        ended = await run(here, there, *ALICE, "--json")
        assert (ended.code, ended.json["equal"], len(ended.json["malformed"])) == (1, False, 2)
        assert ended.err.splitlines()[1] == f"p2pnodes: error: {there.url}: 1 rows without a uuid [miner-answer]"


class TestErrors:
    """Nobody there is 3; a refusal is 1; a bad command line is 2."""

    @pytest.mark.parametrize("key", [(), ALICE])
    async def test_nobody_there(self, serve: Serve, run: Run, key: tuple[str, ...]) -> None:
        api = await serve(lists() if key else answers(200, {}))
        assert (await run(api, dead_url(), *key)).code == 3
        assert (await run(dead_url(), api, *key)).code == 3

    async def test_a_refusal(self, serve: Serve, run: Run) -> None:
        here, there = await serve(lists()), await serve(answers(401, {"detail": "Invalid nonce!"}))
        ended = await run(here, there, *ALICE)
        assert (ended.code, ended.error) == (1, f"{there.url} answered 401: Invalid nonce!")

    async def test_bad_urls_and_keys(self, run: Run) -> None:
        ended = await run("http://127.0.0.1:1", "api.example")
        assert ended.code == 2
        assert "URL: API 'api.example'; expected a base URL" in ended.err
        ended = await run("http://127.0.0.1:1", "http://127.0.0.1:1", *ALICE, "--hotkey-file", "x")
        assert ended.code == 2
