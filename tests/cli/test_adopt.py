"""``miner adopt``: a plan, then one registration a server, and a report of what became of each."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.cli.conftest import Cli, Ended
from tests.miner.fake_api import FakeApi, Reply, answers, dead_url, event, hangs_up, lists, registered, serving, streams
from tests.support import gpu, hotkey

Serve = Callable[..., Awaitable[FakeApi]]
Run = Callable[..., Awaitable[Ended]]
ALICE = ("--uri", "//Alice")


def row(uuid: str, server_id: str | None, index: int = 0, **changes: Any) -> dict[str, Any]:
    """A row of the central API."""
    owner = {"miner_hotkey": hotkey("//Alice").address, "seed": 7, "created_at": "2026", "instance": None}
    return {**gpu(uuid, index), **owner, "server_id": server_id, **changes}


ROWS = (row("a", "s1", 1), row("b", "s1", 0), row("c", "s2"), row("d", None, verification_host="192.0.2.4"))


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(*replies: Reply, events: Sequence[Reply] = ()) -> FakeApi:
            return await stack.enter_async_context(serving(FakeApi(*replies, events=events)))

        yield start


@pytest.fixture
def run(cli: Cli) -> Run:
    """Run the command beside the APIs' loop, without waiting for APIs that are down."""

    async def run(central: FakeApi | str, daemon: FakeApi | str, *arguments: object) -> Ended:
        urls = [api if isinstance(api, str) else api.url for api in (central, daemon)]
        words = ("miner", "adopt", "--from", urls[0], "--api", urls[1], *ALICE, "--retries", 0, *arguments)
        return await asyncio.to_thread(cli, *words)

    return run


def accepted(task: str) -> Reply:
    return answers(202, registered("u", task=task))


def posted(daemon: FakeApi) -> list[Any]:
    return [json.loads(asked.body) for asked in daemon.asked if asked.method == "POST"]


class TestMoving:
    """Servers are registered one by one, each as the miner once registered it."""

    async def test_every_server_is_registered_with_the_fields_of_a_request(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*ROWS)), await serve(lists(), *map(accepted, ("t1", "t2", "t3")))
        ended = await run(central, daemon)
        assert (ended.code, ended.err) == (0, "")
        assert [(body.get("server_id"), [node["uuid"] for node in body["nodes"]]) for body in posted(daemon)] == [
            ("s1", ["b", "a"]),
            ("s2", ["c"]),
            (None, ["d"]),
        ]
        assert posted(daemon)[0]["nodes"][0] == gpu("b", 0)
        assert [asked.path for asked in central.asked] == ["/miner/nodes/"]  # nothing is changed there

    async def test_a_plan_comes_first_and_then_what_became_of_it(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*ROWS)), await serve(lists(*ROWS[2:]), accepted("t1"))
        ended = await run(central, daemon)
        lines = [line.split() for line in ended.out.splitlines()]
        assert lines[:2] == [["server", "host", "gpus", "models"], ["s1", "192.0.2.10", "2", "h100_sxm"]]
        assert ended.out.splitlines()[2] == "plan: register 2 GPUs of 1 servers; the daemons hold 2 already"
        assert lines[3:] == [["server", "gpus", "result", "task", "reason"], ["s1", "2", "pending", "t1", "-"]]

    async def test_a_dry_run_ends_with_the_plan(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*ROWS)), await serve(lists())
        ended = await run(central, daemon, "--dry-run")
        assert ended.code == 0
        assert "plan: register 4 GPUs of 3 servers" in ended.out
        report = (await run(central, daemon, "--dry-run", "--json")).json
        assert report["planned"][0] == {"server_id": "s1", "host": "192.0.2.10", "uuids": ["b", "a"]}
        assert (report["dry_run"], report["adopted"]) == (True, [])
        assert posted(daemon) == []

    async def test_what_the_daemons_hold_is_skipped(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*ROWS)), await serve(lists(*ROWS))
        ended = await run(central, daemon, "--json")
        assert (ended.code, ended.json["skipped"], ended.json["planned"]) == (0, ["a", "b", "c", "d"], [])
        assert posted(daemon) == []
        assert "nothing to register\nplan: register 0 GPUs of 0 servers" in (await run(central, daemon)).out


class TestRefusals:
    """What cannot be moved is named, and stops nothing else."""

    async def test_one_server_that_is_refused_does_not_stop_the_others(self, serve: Serve, run: Run) -> None:
        refused = answers(400, {"detail": "One or more invalid verification_hosts provided."})
        central, daemon = await serve(lists(*ROWS)), await serve(lists(), accepted("t1"), refused, accepted("t3"))
        ended = await run(central, daemon, "--json")
        assert (ended.code, len(posted(daemon))) == (1, 3)
        assert [entry["task_id"] for entry in ended.json["adopted"]] == ["t1", "t3"]
        (entry,) = ended.json["refused"]
        assert (entry["server_id"], entry["uuids"]) == ("s2", ["c"])
        assert "invalid verification_hosts" in entry["reason"]
        assert ended.error == f"s2: {entry['reason']}"

    async def test_an_answer_that_is_no_registration_is_a_refusal(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*ROWS)), await serve(lists(), answers(202, b"<html>"), accepted("t2"))
        ended = await run(central, daemon, "--json")
        assert (ended.code, len(ended.json["adopted"]), len(ended.json["refused"])) == (1, 2, 1)

    async def test_malformed_rows_are_named_and_left_out(self, serve: Serve, run: Run) -> None:
        rows = lists(b"{", row("a", "s1", memory="much"), row("b", "s1"))
        central, daemon = await serve(rows), await serve(lists(), accepted("t1"))
        ended = await run(central, daemon, "--json")
        assert (ended.code, len(ended.json["adopted"])) == (1, 1)
        assert [reason.split(":")[0] for reason in ended.json["malformed"]] == ["row 1", "a"]
        assert ended.err.splitlines() == [
            f"p2pnodes: error: {reason} [miner-answer]" for reason in ended.json["malformed"]
        ]

    async def test_hundreds_of_them_do_not_flood_the_terminal(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*[[]] * 300)), await serve(lists())
        ended = await run(central, daemon, "--json")
        assert len(ended.err.splitlines()) == 21
        assert ended.err.endswith("280 more rows are left out; --json names all of them\n")
        assert len(ended.json["malformed"]) == 300

    async def test_what_was_done_is_told_when_the_daemons_go_away(self, serve: Serve, run: Run) -> None:
        central, daemon = await serve(lists(*ROWS)), await serve(lists(), accepted("t1"), hangs_up)
        ended = await run(central, daemon, "--json")
        assert (ended.code, [entry["task_id"] for entry in ended.json["adopted"]]) == (3, ["t1"])
        assert "error: no API served the request" in ended.err

    async def test_nobody_there_is_exit_code_3_and_nothing_is_planned(self, serve: Serve, run: Run) -> None:
        daemon = await serve(lists())
        ended = await run(dead_url(), daemon, "--json")
        assert (ended.code, ended.json["planned"], daemon.asked) == (3, [], [])
        central = await serve(lists(*ROWS))
        assert (await run(central, dead_url())).code == 3

    async def test_a_refused_key_is_exit_code_1(self, serve: Serve, run: Run) -> None:
        central = await serve(answers(401, {"detail": "Hotkey is not registered on netuid 64"}))
        ended = await run(central, await serve(lists()))
        assert (ended.code, ended.out) == (1, "")
        assert ended.error == f"{central.url} answered 401: Hotkey is not registered on netuid 64"

    async def test_a_url_that_is_none_names_its_option(self, run: Run) -> None:
        ended = await run("api.example", "http://127.0.0.1:1", "--json")
        assert (ended.code, ended.out) == (2, "")
        assert "--from: API 'api.example'; expected a base URL" in ended.err


class TestWaiting:
    """With --wait the votes decide the exit code."""

    async def test_verified_is_0(self, serve: Serve, run: Run) -> None:
        verified = answers(200, {"status": "verified"})
        central, daemon = await serve(lists(*ROWS[:3])), await serve(lists(), accepted("t1"), accepted("t2"), verified)
        ended = await run(central, daemon, "--wait", "--json")
        assert (ended.code, [entry["status"] for entry in ended.json["adopted"]]) == (0, ["verified"] * 2)

    async def test_a_lost_vote_is_1_with_its_reason(self, serve: Serve, run: Run) -> None:
        failed, verified = answers(200, {"status": "failed", "detail": "no GPU"}), answers(200, {"status": "verified"})
        central = await serve(lists(*ROWS[:3]))
        daemon = await serve(lists(), accepted("t1"), accepted("t2"), failed, verified)
        ended = await run(central, daemon, "--wait", "--json")
        assert ended.code == 1
        assert [(entry["status"], entry["reason"]) for entry in ended.json["adopted"]] == [
            ("failed", "no GPU"),
            ("verified", None),
        ]
        assert ended.err.splitlines()[-1] == "p2pnodes: error: s1: no GPU [miner-task-failed]"

    async def test_still_pending_is_3(self, serve: Serve, run: Run) -> None:
        pending = answers(200, {"status": "pending"})
        central, daemon = await serve(lists(*ROWS[:2])), await serve(lists(), accepted("t1"), pending)
        ended = await run(central, daemon, "--wait", "--timeout", "0.1", "--json")
        assert (ended.code, ended.json["adopted"][0]["status"]) == (3, "pending")
        assert "still pending after 0.1 s" in ended.err

    async def test_a_streamed_decision_ends_the_wait(self, serve: Serve, run: Run) -> None:
        replies = [answers(200, {"status": status}) for status in ("pending", "verified")]
        told = streams(event("claim", task_id="t1", status="verified"))
        central, daemon = await serve(lists(*ROWS[:2])), await serve(lists(), accepted("t1"), *replies, events=[told])
        ended = await run(central, daemon, "--wait", "--json")
        assert (ended.code, ended.json["adopted"][0]["status"]) == (0, "verified")


async def test_on_a_terminal_a_bar_shows_how_far_it_is(serve: Serve, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    refused = answers(409, {"detail": "exists"})
    central, daemon = await serve(lists(*ROWS)), await serve(lists(), accepted("t1"), refused, accepted("t3"))
    ended = await run(central, daemon, "--json")
    assert ended.code == 1
    assert len(ended.json["adopted"]) == 2  # the bar is not on stdout
    shown = stderr.getvalue()
    assert "registering servers" in shown
    assert "3/3" in shown
    assert f"p2pnodes: error: s2: {daemon.url} answered 409: exists" in shown
