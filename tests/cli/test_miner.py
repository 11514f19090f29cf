"""The miner's commands against APIs that answer what a test tells them to."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.chain.wallet import wallet_hotkey_path, write_hotkey_file
from p2pnodes.miner.client import MinerClient
from tests.cli.conftest import Cli, Ended
from tests.miner.fake_api import (
    FakeApi,
    Reply,
    answers,
    dead_url,
    event,
    hangs_up,
    registered,
    serving,
    streams,
)
from tests.support import hotkey

Serve = Callable[..., Awaitable[FakeApi]]
Run = Callable[..., Awaitable[Ended]]
ALICE = ("--uri", "//Alice")
ADDRESS = hotkey("//Alice").address
TASK = "5Alice::00"
GONE = answers(404, {"detail": "gone"})
"""Ends whoever follows."""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(*replies: Reply, events: Sequence[Reply] = ()) -> FakeApi:
            return await stack.enter_async_context(serving(FakeApi(*replies, events=events)))

        yield start


@pytest.fixture
def run(cli: Cli) -> Run:
    """Run a miner's command beside the API's loop, without waiting for APIs that are down."""

    async def run(*arguments: object, stdin: bytes = b"") -> Ended:
        retries = () if arguments[0] == "example" else ("--retries", 0)
        return await asyncio.to_thread(cli, "miner", *arguments, *retries, stdin=stdin)

    return run


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"server_id": "s", "server_name": None, "nodes": [{"uuid": "u1"}]}, indent=2))
    return path


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Stderr as a terminal without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


class TestAdd:
    """A registration from a file or standard input."""

    async def test_a_file_is_registered_and_the_task_is_shown(self, serve: Serve, run: Run, server: Path) -> None:
        api = await serve(answers(202, registered("u1")))
        ended = await run("add", server, *ALICE, "--api", api.url)
        assert (ended.code, ended.err) == (0, "")
        assert TASK in ended.out
        assert "u1" in ended.out
        assert api.asked[0].body == b'{"server_id":"s","nodes":[{"uuid":"u1"}]}'
        assert api.asked[0].headers["X-Chutes-Hotkey"] == hotkey("//Alice").address

    async def test_the_example_is_taken_from_standard_input(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(202, registered("u1")))
        example = await run("example")
        ended = await run("add", "-", *ALICE, "--api", api.url, "--json", stdin=example.out.encode())
        assert ended.json == registered("u1") | {"nodes": [ended.json["nodes"][0]]}
        sent = json.loads(api.asked[0].body)
        assert sent == example.json
        assert len({node["uuid"] for node in sent["nodes"]}) == 8

    async def test_a_dead_api_is_noted_and_the_next_one_asked(self, serve: Serve, run: Run, server: Path) -> None:
        api, dead = await serve(answers(202, registered("u1"))), dead_url()
        ended = await run("add", server, *ALICE, "--api", dead, "--api", api.url)
        assert ended.code == 0
        assert ended.err == f"p2pnodes: {dead}: Connection refused\n"

    async def test_a_hotkey_file_signs(self, serve: Serve, run: Run, server: Path, tmp_path: Path) -> None:
        write_hotkey_file(tmp_path / "hotkey", hotkey("//Bob"))
        api = await serve(answers(202, registered("u1")))
        assert (await run("add", server, "--hotkey-file", tmp_path / "hotkey", "--api", api.url)).code == 0
        assert api.asked[0].headers["X-Chutes-Hotkey"] == hotkey("//Bob").address

    async def test_a_wallets_hotkey_signs(
        self, serve: Serve, run: Run, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.chain.wallet.WALLETS", tmp_path)
        path = wallet_hotkey_path(tmp_path, "w", "h")
        path.parent.mkdir(parents=True)
        write_hotkey_file(path, hotkey("//Bob"))
        api = await serve(answers(202, registered("u1")))
        assert (await run("add", server, "--wallet", "w", "--hotkey", "h", "--api", api.url)).code == 0
        assert api.asked[0].headers["X-Chutes-Hotkey"] == hotkey("//Bob").address

    async def test_it_waits_for_the_vote(self, serve: Serve, run: Run, server: Path) -> None:
        api = await serve(answers(202, registered("u1")), answers(200, {"status": "verified"}))
        ended = await run("add", server, *ALICE, "--api", api.url, "--wait", "--json")
        assert (ended.code, ended.json["status"]) == (0, "verified")

    async def test_a_lost_vote_is_exit_code_1_and_shows_the_task_all_the_same(
        self, serve: Serve, run: Run, server: Path
    ) -> None:
        api = await serve(answers(202, registered("u1")), answers(200, {"status": "failed", "detail": "no GPU"}))
        ended = await run("add", server, *ALICE, "--api", api.url, "--wait", "--json")
        assert (ended.code, ended.json["task_id"]) == (1, TASK)
        assert ended.error == f"task {TASK} failed: no GPU"  # and no note: there was nothing to wait for

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"{", "not JSON"), (b"[]", "see miner example"), (b" " * 65_537, "over 65536 bytes"), (b"\xff", "not JSON")],
    )
    async def test_a_bad_file_is_not_sent(
        self, serve: Serve, run: Run, server: Path, content: bytes, reason: str
    ) -> None:
        api = await serve(answers(202, registered("u1")))
        server.write_bytes(content)
        ended = await run("add", server, *ALICE, "--api", api.url)
        assert ended.code == 1
        assert reason in ended.error
        assert api.asked == []

    async def test_an_absent_file_is_one_line(self, run: Run, tmp_path: Path) -> None:
        ended = await run("add", tmp_path / "absent", *ALICE, "--api", "http://127.0.0.1:1")
        assert ended.code == 1
        assert "cannot be read (No such file or directory)" in ended.error

    async def test_a_refusal_is_exit_code_1_with_the_apis_words(self, serve: Serve, run: Run, server: Path) -> None:
        api = await serve(answers(409, {"detail": "Nodes already \x1b[31mexist"}))
        ended = await run("add", server, *ALICE, "--api", api.url)
        assert ended.code == 1
        assert ended.error == rf"{api.url} answered 409: Nodes already \x1b[31mexist"

    async def test_a_gpu_of_another_miner_is_told_with_what_to_do_here(
        self, serve: Serve, run: Run, server: Path
    ) -> None:
        """The text of the refusal is the central API's, and stays."""
        detail = "Nodes already exist in inventory, please contact chutes team to resolve: u1"
        api = await serve(answers(409, {"detail": detail}))
        ended = await run("add", server, *ALICE, "--api", api.url)
        assert ended.code == 1
        told, error = ended.err.splitlines()
        assert "p2pnodes node show UUID" in told
        assert detail in error

    async def test_nobody_there_is_exit_code_3(self, run: Run, server: Path) -> None:
        dead = dead_url()
        ended = await run("add", server, *ALICE, "--api", dead)
        assert ended.code == 3
        assert f"error: no API served the request ({dead}: Connection refused)" in ended.err

    @pytest.mark.parametrize("keys", [[], ["--uri", "//Alice", "--hotkey-file", "x"]])
    async def test_there_is_exactly_one_key(self, run: Run, server: Path, keys: list[str]) -> None:
        ended = await run("add", server, *keys, "--api", "http://127.0.0.1:1")
        assert ended.code == 2
        assert "exactly one of" in ended.err

    async def test_a_malformed_uri_is_usage(self, run: Run, server: Path) -> None:
        ended = await run("add", server, "--uri", "//", "--api", "http://127.0.0.1:1")
        assert ended.code == 2
        assert "--uri: not a key URI" in ended.err

    async def test_a_malformed_api_is_usage(self, run: Run, server: Path) -> None:
        ended = await run("add", server, *ALICE, "--api", "node.example.org")
        assert ended.code == 2
        assert "--api: API 'node.example.org'; expected a base URL" in ended.err

    async def test_a_redirect_names_what_to_give_instead(self, serve: Serve, run: Run, server: Path) -> None:
        api = await serve(answers(307, b"", {"Location": "/elsewhere"}))
        ended = await run("add", server, *ALICE, "--api", api.url)
        assert ended.code == 1
        assert "answered 307: a redirect; give the daemon's base URL, such as http://host:port" in ended.error

    async def test_a_daemon_without_a_permit_can_be_asked_again(self, serve: Serve, run: Run, server: Path) -> None:
        api = await serve(answers(503, {"detail": "the hotkey holds no permit"}))
        ended = await run("add", server, *ALICE, "--api", api.url)
        assert ended.code == 3
        assert ended.err.count("the hotkey holds no permit") == 2  # when it happened, and at the end

    async def test_a_round_is_told_once_and_a_reason_when_it_changes(
        self, serve: Serve, cli: Cli, server: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        defaults = MinerClient.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "retry_delay_s", 0.01)
        api = await serve(answers(503, {"detail": "a"}), answers(503, {"detail": "a"}), answers(503, {"detail": "b"}))
        dead = dead_url()
        ended = await asyncio.to_thread(
            cli, "miner", "add", server, *ALICE, "--retries", 3, "--api", dead, "--api", api.url
        )
        assert ended.code == 3
        assert ended.err.splitlines()[:-1] == [
            f"p2pnodes: {dead}: Connection refused",
            f"p2pnodes: {api.url}: 503: a",
            "p2pnodes: retrying in 0.01 s (1 of 3)",
            "p2pnodes: retrying in 0.01 s (2 of 3)",
            f"p2pnodes: {api.url}: 503: b",
            "p2pnodes: retrying in 0.01 s (3 of 3)",
        ]


class TestStatus:
    """How a vote stands, as text and as exit code."""

    @pytest.mark.parametrize(
        ("answer", "code"),
        [({"status": "pending"}, 0), ({"status": "verified"}, 0), ({"status": "failed", "detail": "no"}, 1)],
    )
    async def test_the_exit_code_tells(self, serve: Serve, run: Run, answer: dict[str, str], code: int) -> None:
        api = await serve(answers(200, answer))
        ended = await run("status", TASK, *ALICE, "--api", api.url)
        assert (ended.code, ended.out) == (code, answer["status"] + "\n")
        as_json = await run("status", TASK, *ALICE, "--api", api.url, "--json")
        assert (as_json.code, as_json.json) == (code, answer)

    async def test_an_id_that_is_no_task_of_this_hotkey_is_explained(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(401, {"detail": "go away"}))
        ended = await run("status", "5Alice", *ALICE, "--api", api.url)
        assert ended.code == 1
        assert f"answered 401: go away (no task of {hotkey('//Alice').address}; expected <hotkey>::<32" in ended.error

    async def test_another_refusal_is_the_apis_own_words(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(401, {"detail": "invalid nonce"}))
        assert (await run("status", TASK, *ALICE, "--api", api.url)).error == f"{api.url} answered 401: invalid nonce"

    async def test_wait_ends_with_the_decision(self, serve: Serve, run: Run) -> None:
        pending = answers(200, {"status": "pending"})
        api = await serve(pending, pending, answers(200, {"status": "verified"}))
        ended = await run("status", TASK, *ALICE, "--api", api.url, "--wait")
        assert (ended.code, ended.out) == (0, "verified\n")
        assert ended.err == "p2pnodes: waiting for the validators' votes\n"

    async def test_what_is_decided_is_not_waited_for(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {"status": "verified"}))
        ended = await run("status", TASK, *ALICE, "--api", api.url, "--wait", "--json")
        assert (ended.code, ended.err, ended.json) == (0, "", {"status": "verified"})

    async def test_on_a_terminal_a_line_tells_how_the_wait_stands_and_vanishes(
        self, serve: Serve, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stderr = terminal(monkeypatch)
        told = event("reset") + event("claim", task_id=TASK, status="verified")
        pending = answers(200, {"status": "pending"})
        api = await serve(pending, pending, answers(200, {"status": "verified"}), events=[streams(told)])
        ended = await run("status", TASK, *ALICE, "--api", api.url, "--wait")
        assert (ended.code, ended.out) == (0, "verified\n")
        shown = stderr.getvalue()
        assert "decided: 2 polls, 2 events" in shown
        assert "0:00:0" in shown
        assert shown.endswith("\x1b[2K")  # erased

    async def test_wait_ends_with_the_time(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {"status": "pending"}))
        ended = await run("status", TASK, *ALICE, "--api", api.url, "--wait", "--timeout", "0.1")
        assert ended.code == 3
        assert "error: task 5Alice::00 is still pending after 0.1 s" in ended.err


class TestList:
    """The inventory needs no key."""

    async def test_the_compact_list(self, serve: Serve, run: Run) -> None:
        inventory = {"h100_sxm": {"provisioned": 1, "idle": 7}}
        api = await serve(answers(200, inventory))
        ended = await run("list", "--api", api.url, "--hotkey", ADDRESS, "--model", "h100_sxm")
        assert [line.split() for line in ended.out.splitlines()] == [
            ["gpu", "provisioned", "idle"],
            ["h100_sxm", "1", "7"],
        ]
        assert api.asked[0].path == f"/nodes/?hotkey={ADDRESS}&model=h100_sxm"
        assert (await run("list", "--api", api.url, "--json")).json == inventory

    async def test_a_hotkey_that_is_none_is_usage(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {}))
        ended = await run("list", "--api", api.url, "--hotkey", "5Alice")
        assert (ended.code, api.asked) == (2, [])
        assert "expected an SS58 address, found '5Alice'" in ended.err

    async def test_the_detailed_list(self, serve: Serve, run: Run) -> None:
        chute = {"name": "chat", "username": "carol", "chute_id": "c", "verified": True, "instance_id": "i"}
        held: dict[str, Any] = {"provisioned": [{"gpu": "a100", "chute": chute}] * 2, "idle": {"h100": 3}}
        api = await serve(answers(200, {"5Alice": held}))
        ended = await run("list", "--api", api.url, "--detailed")
        assert [line.split() for line in ended.out.splitlines()[1:]] == [
            ["5Alice", "a100", "0", "2", "chat"],
            ["5Alice", "h100", "3", "0", "-"],
        ]
        assert (await run("list", "--api", api.url, "--detailed", "--json")).json == {"5Alice": held}

    async def test_an_empty_inventory_is_said(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {}))
        assert (await run("list", "--api", api.url)).out == "no GPUs are listed\n"

    @pytest.mark.parametrize(("option", "answer"), [("--detailed", {"5Alice": 7}), ("--model=x", {"h100": 7})])
    async def test_an_answer_of_another_shape_is_one_line(
        self, serve: Serve, run: Run, option: str, answer: dict[str, Any]
    ) -> None:
        api = await serve(answers(200, answer))
        ended = await run("list", "--api", api.url, option)
        assert ended.code == 1
        assert "is it a p2pnodes daemon?" in ended.error


class TestFollow:
    """A live tail of one's nodes and tasks, over several daemons."""

    SNAPSHOT = (
        event("reset") + event("node", uuid="u1", status="pending", gpu_identifier="h100") + event("snapshot_end")
    )
    CHANGE = event("node", uuid="u1", status="verified", gpu_identifier="h100\x1b[31m")

    @pytest.fixture(autouse=True)
    def _reconnect_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RECONNECT_S", "RECONNECT_S_MIN"):
            monkeypatch.setattr(f"p2pnodes.miner.client.{name}", 0.01)

    async def test_changes_are_lines_with_their_time(self, serve: Serve, run: Run) -> None:
        api = await serve(events=[streams(self.SNAPSHOT + self.CHANGE, ends=True), GONE])
        ended = await run("follow", *ALICE, "--api", api.url)
        times, told = zip(*(line.split(" ", 1) for line in ended.out.splitlines()), strict=True)
        assert told == ("now: 1 GPU (1 pending); 0 tasks", r"node u1 verified h100\x1b[31m")
        assert all(datetime.fromisoformat(time).tzinfo is UTC for time in times)
        assert api.followed[0].path == f"/nodes/events?hotkey={ADDRESS}"

    async def test_json_has_one_event_a_line(self, serve: Serve, run: Run) -> None:
        api = await serve(events=[streams(self.SNAPSHOT + self.CHANGE, ends=True), GONE])
        ended = await run("follow", "--hotkey", ADDRESS, "--api", api.url, "--json")
        lines = [json.loads(line) for line in ended.out.splitlines()]
        assert [line["event"] for line in lines] == ["reset", "node", "snapshot_end", "node"]
        assert lines[1] == {
            "event": "node",
            "api": api.url,
            "data": {"uuid": "u1", "status": "pending", "gpu_identifier": "h100"},
        }
        assert "\x1b" not in ended.out

    async def test_the_next_daemon_goes_on_and_tells_what_changed(self, serve: Serve, run: Run) -> None:
        first = await serve(events=[streams(self.SNAPSHOT, ends=True), GONE])
        later = event("reset") + event("node", uuid="u2", status="pending", gpu_identifier="a100")
        second = await serve(events=[streams(later + event("snapshot_end"), ends=True), GONE])
        ended = await run("follow", *ALICE, "--api", first.url, "--api", second.url)
        assert [line.split(" ", 1)[1] for line in ended.out.splitlines()[1:]] == [
            "node u1 deleted",
            "node u2 pending a100",
        ]
        assert ended.err.splitlines() == [
            f"p2pnodes: {first.url}: following {ADDRESS}",
            f"p2pnodes: {first.url}: the stream of events ended",
            f"p2pnodes: {first.url}: 404: gone",
            f"p2pnodes: {second.url}: following {ADDRESS}",
            f"p2pnodes: {second.url}: the stream of events ended",
            f"p2pnodes: error: {second.url} answered 404: gone [miner-refused]",
        ]
        assert ended.code == 1

    async def test_it_ends_when_its_time_is_over(self, serve: Serve, run: Run) -> None:
        api = await serve(events=[streams(self.SNAPSHOT)])
        ended = await run("follow", *ALICE, "--api", api.url, "--timeout", "0.2")
        assert (ended.code, len(api.followed)) == (0, 1)

    async def test_nobody_there_is_exit_code_3(self, run: Run) -> None:
        ended = await run("follow", *ALICE, "--api", dead_url())
        assert ended.code == 3
        assert "error: no API served the request" in ended.err

    async def test_an_api_without_a_stream_is_exit_code_1(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {}))
        ended = await run("follow", *ALICE, "--api", api.url)
        assert (ended.code, ended.error) == (1, f"{api.url} answered 404: Not Found")

    async def test_a_wallets_hotkey_is_followed_by_its_name(
        self, serve: Serve, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("p2pnodes.chain.wallet.WALLETS", tmp_path)
        path = wallet_hotkey_path(tmp_path, "w", "h")
        path.parent.mkdir(parents=True)
        write_hotkey_file(path, hotkey("//Alice"))
        api = await serve(events=[streams(self.SNAPSHOT)])
        ended = await run("follow", "--wallet", "w", "--hotkey", "h", "--api", api.url, "--timeout", "0.2")
        assert ended.code == 0
        assert f"following {ADDRESS}" in ended.err

    @pytest.mark.parametrize(
        "keys",
        [
            [],
            [*ALICE, "--hotkey", ADDRESS],
            [*ALICE, "--hotkey-file", "x"],
            ["--wallet", "w", "--hotkey-file", "x"],
            [*ALICE, "--wallet", "w"],
        ],
    )
    async def test_there_is_exactly_one_miner(self, run: Run, keys: list[str]) -> None:
        ended = await run("follow", *keys, "--api", "http://127.0.0.1:1")
        assert ended.code == 2
        assert "exactly one of --hotkey" in ended.err


class TestDelete:
    """Each GPU has a signature of its own; one refusal does not stop the others."""

    async def test_all_are_deleted(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {"deleted": True}))
        ended = await run("delete", "u1", "u2", "u1", *ALICE, "--api", api.url)
        assert (ended.code, ended.out) == (0, "deleted u1\ndeleted u2\n")
        assert [asked.path for asked in api.asked] == ["/nodes/u1", "/nodes/u2"]
        assert len({asked.headers["X-Chutes-Signature"] for asked in api.asked}) == 2

    async def test_what_was_done_is_told_when_the_api_goes_away(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(200, {"deleted": True}), hangs_up)
        ended = await run("delete", "u1", "u2", *ALICE, "--api", api.url, "--json")
        assert (ended.code, ended.json) == (3, {"deleted": ["u1"], "refused": {}})

    async def test_a_refused_one_is_told_and_the_rest_goes_on(self, serve: Serve, run: Run) -> None:
        api = await serve(answers(404, {"detail": "Node does not exist"}), answers(200, {"deleted": True}))
        ended = await run("delete", "u1", "u2", *ALICE, "--api", api.url, "--json")
        assert ended.code == 1
        reason = f"{api.url} answered 404: Node does not exist"
        assert ended.json == {"deleted": ["u2"], "refused": {"u1": reason}}
        assert ended.error == f"u1: {reason}"
