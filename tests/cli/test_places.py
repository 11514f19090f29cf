"""``p2pnodes place`` and ``release``: what reaches the daemon, and what one sees."""

import pytest

from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.inventory import Chute
from p2pnodes.store.placing import NotPlacedError, UnknownGpusError
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon

CHUTE = ("--chute-id", "c-1", "--instance-id", "i-1")
PUBLIC = (*CHUTE, "--name", "llama", "--username", "ann")


class TestPlace:
    """GPUs and their chute become one request."""

    @pytest.mark.parametrize(
        "nodes", [("--nodes", "u1,u2"), ("--nodes", "u1", "--nodes", "u2"), ("--nodes", "u1,,u2,", "--nodes", "u1")]
    )
    async def test_gpus_may_be_given_in_any_way(self, ask: Ask, daemon: FakeDaemon, nodes: tuple[str, ...]) -> None:
        ended = await ask("place", *nodes, *PUBLIC)
        assert ended.code == 0
        assert daemon.placed == [(["u1", "u2"], Chute("c-1", "i-1", False, True, "llama", "ann"))]

    @pytest.mark.parametrize(("flag", "verified"), [("--verified", True), ("--unverified", False)])
    async def test_verified_is_said_on_purpose(
        self, ask: Ask, daemon: FakeDaemon, flag: str, *, verified: bool
    ) -> None:
        assert (await ask("place", "--nodes", "u1", *PUBLIC, flag)).code == 0
        assert daemon.placed == [(["u1"], Chute("c-1", "i-1", verified, True, "llama", "ann"))]

    @pytest.mark.parametrize("names", [(), ("--name", "llama"), ("--name", "llama", "--username", "ann")])
    async def test_the_names_of_a_private_chute_go_nowhere(
        self, ask: Ask, daemon: FakeDaemon, names: tuple[str, ...]
    ) -> None:
        assert (await ask("place", "--nodes", "u1", *CHUTE, "--private", *names)).code == 0
        assert daemon.placed == [(["u1"], Chute("c-1", "i-1", False, False, None, None))]

    async def test_what_was_written_is_shown(self, ask: Ask) -> None:
        out = (await ask("place", "--nodes", "u1,u2", *PUBLIC)).out.splitlines()
        assert [line.split()[:2] for line in out] == [
            ["gpu", "claim"],
            ["u1", "01" * 32],
            ["u2", "01" * 32],
            ["placed:", "2"],
        ]

    async def test_a_repeated_command_is_no_error_and_says_so(self, ask: Ask) -> None:
        await ask("place", "--nodes", "u1", *PUBLIC)
        ended = await ask("place", "--nodes", "u1", *PUBLIC)
        assert (ended.code, ended.out, ended.err) == (0, "unchanged, said before: u1\n", "")

    @pytest.mark.parametrize("form", [[], ["--json"]])
    async def test_a_place_that_does_not_count_is_warned_of(
        self, ask: Ask, daemon: FakeDaemon, form: list[str]
    ) -> None:
        daemon.enrolled = False
        ended = await ask("place", "--nodes", "u1", *PUBLIC, *form)
        assert ended.code == 0
        assert ended.err.startswith("p2pnodes: warning: 5")
        assert "is not enrolled (no permit, or no live delegation)" in ended.err

    async def test_json_is_the_daemons_answer(self, ask: Ask) -> None:
        ended = await ask("place", "--nodes", "u1", *PUBLIC, "--json")
        assert ended.json["written"] == [{"claim_id": "01" * 32, "uuids": ["u1"], "event_id": "02" * 32}]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("--nodes", "u1", *CHUTE), "give --name and --username, or --private"),
            (("--nodes", "u1", *CHUTE, "--name", "llama"), "give --name and --username, or --private"),
            (("--nodes", ",", *PUBLIC), "--nodes names no GPU"),
            (PUBLIC, "--nodes"),
            (("--nodes", "u1", "--chute-id", "c"), "--instance-id"),
        ],
    )
    async def test_what_cannot_be_placed_is_usage(
        self, ask: Ask, daemon: FakeDaemon, arguments: tuple[str, ...], expected: str
    ) -> None:
        ended = await ask("place", *arguments)
        assert (ended.code, daemon.placed) == (2, [])
        assert expected in ended.err

    async def test_what_the_daemon_finds_wrong_is_one_line_with_its_place(self, ask: Ask) -> None:
        ended = await ask("place", "--nodes", "u1," + "x" * 65, *PUBLIC[:-1], "y" * 300)
        assert ended.code == 1
        assert ended.error == (
            "the daemon answered 422: uuids.1: String should have at most 64 characters; "
            "username: String should have at most 256 characters"
        )

    async def test_unknown_gpus_and_refused_writes_are_exit_code_1(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.refusal = UnknownGpusError(["u1"])
        ended = await ask("place", "--nodes", "u1", *PUBLIC)
        assert (ended.code, ended.error) == (
            1, "the daemon answered 404: not in the inventory: u1; nothing was placed",
        )  # fmt: skip
        daemon.refusal = WritesRefusedError("own head not heard")
        ended = await ask("place", "--nodes", "u1", *PUBLIC)
        assert (ended.code, ended.error) == (1, "the daemon answered 503: own head not heard")


class TestRelease:
    """GPUs alone."""

    async def test_gpus_are_released_and_shown(self, ask: Ask, daemon: FakeDaemon) -> None:
        ended = await ask("release", "--nodes", "u1,u2")
        assert (ended.code, ended.out.splitlines()[-1]) == (0, "released: 2")
        assert daemon.placed == [(["u1", "u2"], None)]
        assert (await ask("release", "--nodes", "u2")).out == "unchanged, said before: u2\n"

    async def test_what_was_never_placed_is_named(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.refusal = NotPlacedError(["u1"])
        ended = await ask("release", "--nodes", "u1")
        assert ended.code == 1
        assert "404: nothing was ever placed there by this validator: u1" in ended.error


@pytest.mark.parametrize("arguments", [("place", "--nodes", "u1", *PUBLIC), ("release", "--nodes", "u1")])
def test_no_daemon_is_exit_code_3(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli(*arguments, "--socket", "/nowhere/admin.sock")
    assert ended.code == 3
    assert "no daemon answers at /nowhere/admin.sock" in ended.error
