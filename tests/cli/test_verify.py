"""``p2pnodes verify``: a check by hand, and what its exit code means."""

import asyncio
import io
import sys

import pytest

from p2pnodes.model.errors import P2PNodesError, StoreError, WritesRefusedError
from tests.cli.conftest import Ask
from tests.fake_daemon import FakeDaemon

CLAIM = b"\xab" * 32


@pytest.fixture(autouse=True)
def known(daemon: FakeDaemon) -> None:
    """The daemon knows one claim."""
    daemon.claims[CLAIM] = {}


class TestFinding:
    """The exit code is the finding's: 0 verified, 1 failed, 3 not checked."""

    @pytest.mark.parametrize(("finding", "code"), [("verified", 0), ("failed", 1), ("abstain", 3), ("unavailable", 3)])
    @pytest.mark.parametrize("form", [[], ["--json"]])
    async def test_a_finding_has_its_exit_code(
        self, ask: Ask, daemon: FakeDaemon, finding: str, code: int, form: list[str]
    ) -> None:
        daemon.finding |= {"finding": finding, "detail": "the reason" if code else "", "published": code != 3}
        ended = await ask("verify", CLAIM.hex(), *form)
        assert (ended.code, ended.err) == (code, "")
        assert daemon.checked == [CLAIM]
        if form:
            assert ended.json == daemon.finding
        else:
            assert ("the reason" in ended.out) is (code != 0)
            assert [line.split()[-1] for line in ended.out.splitlines()[-2:]] == ["s", "no" if code == 3 else "yes"]

    @pytest.mark.parametrize("name", [CLAIM.hex()[:32], "AB" * 32])
    async def test_the_claim_may_be_named_by_its_task(self, ask: Ask, daemon: FakeDaemon, name: str) -> None:
        assert (await ask("verify", name)).code == 0
        assert daemon.checked == [CLAIM]


class TestRefusals:
    """What is no word on the claim is never taken for a failed check."""

    @pytest.mark.parametrize(
        ("refusal", "reason"),
        [
            (P2PNodesError("the claim is deleted"), "409: the claim is deleted"),
            (WritesRefusedError("own head not heard"), "503: own head not heard"),
            (StoreError("disk full"), "503: This peer cannot record"),
        ],
    )
    async def test_a_daemon_that_cannot_check_is_exit_code_3(
        self, ask: Ask, daemon: FakeDaemon, refusal: P2PNodesError, reason: str
    ) -> None:
        daemon.refusal = refusal
        ended = await ask("verify", CLAIM.hex())
        assert ended.code == 3
        assert reason in ended.error

    @pytest.mark.parametrize(("name", "status"), [("00" * 32, 404), ("x", 400)])
    async def test_a_claim_that_nobody_knows_is_refused(self, ask: Ask, name: str, status: int) -> None:
        ended = await ask("verify", name)
        assert (ended.code, ended.out) == (1, "")
        assert f"the daemon answered {status}: " in ended.error

    async def test_one_does_not_wait_for_ever(
        self, ask: Ask, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended = asyncio.Event()

        async def hang(claim_id: bytes) -> dict[str, object]:
            await ended.wait()
            return daemon.finding

        monkeypatch.setattr(daemon, "verify", hang)
        told = await ask("verify", CLAIM.hex(), "--timeout", "1")
        ended.set()
        assert told.code == 3
        assert told.error.endswith("did not answer within 1 s")


async def test_on_a_terminal_a_line_turns_meanwhile_and_vanishes(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert (await ask("verify", CLAIM.hex())).code == 0
    assert "the daemon checks the claim" in stderr.getvalue()
    assert stderr.getvalue().endswith("\x1b[2K")
