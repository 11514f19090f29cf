"""``p2pnodes forks``."""

from typing import Any

from tests.cli.conftest import Ask
from tests.fake_daemon import FakeDaemon
from tests.support import hotkey

FORK: dict[str, Any] = {
    "log": f"{'cd' * 32}/7",
    "hotkey": hotkey("//validator1").address,
    "own": False,
    "fork": 5,
    "good_events": 5,
    "closed": False,
    "seen_at": 1_764_000_000,
    "proof": {"first": "00"},
}


class TestForks:
    """Every log that is proved to fork, and with ``--all`` to end, with what is left of it."""

    async def test_the_table_names_the_log_and_what_counts_of_it(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.ended = [FORK, FORK | {"log": f"{'ab' * 32}/1", "fork": None, "good_events": None, "closed": True}]
        ended = await ask("forks", "--all")
        assert (ended.code, ended.err) == (0, "")
        heading, fork, closed = ended.out.splitlines()
        assert heading.split() == [
            "node",
            "key",
            "number",
            "hotkey",
            "own",
            "fork",
            "good",
            "events",
            "closed",
            "seen",
            "at",
        ]
        assert fork.split() == ["cd" * 32, "7", FORK["hotkey"], "no", "5", "5", "no", "2025-11-24", "16:00:00", "UTC"]
        assert closed.split()[:7] == ["ab" * 32, "1", FORK["hotkey"], "no", "-", "-", "yes"]

    async def test_json_has_the_proofs(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.ended = [FORK]
        assert (await ask("forks", "--json")).json == [FORK]

    async def test_none_is_said(self, ask: Ask) -> None:
        assert (await ask("forks")).out == "no log is known to fork\n"
        assert (await ask("forks", "--all")).out == "no log is known to end\n"

    async def test_logs_that_were_merely_closed_are_counted_and_hidden(self, ask: Ask, daemon: FakeDaemon) -> None:
        both = FORK | {"closed": True, "log": f"{'ef' * 32}/2"}
        daemon.ended = [FORK, both, FORK | {"fork": None, "closed": True}]
        ended = await ask("forks", "--json")
        assert ended.json == [FORK, both]
        assert ended.err == "p2pnodes: not shown: 1 closed log without a fork; see --all\n"
        assert (await ask("forks", "--all", "--json")).json == daemon.ended
