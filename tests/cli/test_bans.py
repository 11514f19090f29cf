"""``p2pnodes bans``: who is refused, for how long, why, and by whom."""

import pytest

from p2pnodes.cli.bans import FOR_MAX
from p2pnodes.cli.spans import span_s
from p2pnodes.gossip.bans import OPERATOR_BAN_S_MAX
from p2pnodes.model.codes import Code
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon
from tests.support import hotkey

PEER = hotkey("//Malice")


class TestList:
    """The daemon's own bans and the operator's stand in one list."""

    async def test_nobody(self, ask: Ask) -> None:
        assert (await ask("bans")).out == "nobody is banned\n"
        assert (await ask("bans", "--json")).json == []

    async def test_each_with_who_banned_it_for_how_long_still_and_why(self, ask: Ask, daemon: FakeDaemon) -> None:
        own = {
            "hotkey": PEER.address, "node_key": None, "observer": False, "operator": False,
            "banned_s": 240.0, "ban_reason": "digest: over 8 at once", "code": "session-flood",
        }  # fmt: skip
        node_key = {
            "hotkey": None, "node_key": "ab" * 32, "observer": False, "operator": True,
            "banned_s": 7200.0, "ban_reason": "a clone", "code": "session-banned",
        }  # fmt: skip
        daemon.banned = [own, node_key]
        heading, first, second = (await ask("bans")).out.splitlines()
        assert heading.split() == ["key", "by", "left", "code", "reason"]
        assert first.split(maxsplit=5) == [
            PEER.address,
            "daemon",
            "4",
            "min",
            "session-flood",
            "digest: over 8 at once",
        ]
        assert second.split(maxsplit=5) == ["ab" * 32, "operator", "2", "h", "session-banned", "a clone"]


async def test_the_list_of_peers_names_a_ban_with_its_reason(ask: Ask, daemon: FakeDaemon) -> None:
    ban = {"banned_s": 1800.0, "ban_reason": "it floods us", "ban_code": "session-banned"}
    daemon.snapshot["gossip"]["peers"][1] |= ban
    assert "banned for 30 min: it floods us" in (await ask("peers")).out


class TestAdd:
    """A peer is refused for a time, with a reason."""

    def test_the_longest_time_is_the_daemon_s(self, cli: Cli) -> None:
        assert span_s(FOR_MAX) == OPERATOR_BAN_S_MAX
        ended = cli("bans", "add", PEER.address, "--reason", "x", "--for", "8d")
        assert ended.code == 2
        assert ended.error.startswith("'--for': expected 7d at most, found '8d' (see ")

    def test_what_is_no_key_is_told_with_both_kinds(self, cli: Cli) -> None:
        ended = cli("bans", "lift", "nobody")
        assert ended.code == 2
        assert "expected a hotkey (an SS58 address) or a node key (64 hex digits), found 'nobody'" in ended.error

    async def test_a_peer_is_refused_for_an_hour_unless_told(self, ask: Ask, daemon: FakeDaemon) -> None:
        ended = await ask("bans", "add", PEER.address, "--reason", "it floods us")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"{PEER.address} is refused for 60 min; sessions ended: 1\n"
        (ban,) = daemon.banned
        assert (ban["hotkey"], ban["ban_reason"], ban["banned_s"]) == (PEER.address, "it floods us", 3600.0)

    async def test_a_node_key_can_be_named_in_hex(self, ask: Ask, daemon: FakeDaemon) -> None:
        await ask("bans", "add", PEER.public_key.hex().upper(), "--for", "2d", "--reason", "clone", "--json")
        assert daemon.banned[0]["banned_s"] == 2 * 86_400

    async def test_who_bans_everybody_is_warned(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.ban_warning = "every other validator is banned now"
        ended = await ask("bans", "add", PEER.address, "--reason", "all of them")
        assert ended.code == 0
        assert ended.err == "p2pnodes: warning: every other validator is banned now [dial-no-peers]\n"

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["5Nobody", "--reason", "x"], "expected a hotkey (an SS58 address) or a node key"),
            ([PEER.address], "--reason"),
            ([PEER.address, "--reason", "x", "--for", "forever"], "expected a number with s, m, h or d"),
        ],
    )
    def test_what_cannot_be_meant_is_an_error_of_the_command_line(
        self, cli: Cli, arguments: list[str], reason: str
    ) -> None:
        ended = cli("bans", "add", *arguments)
        assert ended.code == 2
        assert reason in " ".join(ended.err.split())


class TestLift:
    """A ban ends when the operator says so."""

    async def test_a_ban_is_lifted(self, ask: Ask, daemon: FakeDaemon) -> None:
        await ask("bans", "add", PEER.address, "--reason", "a mistake")
        ended = await ask("bans", "lift", PEER.address)
        assert (ended.code, ended.out) == (0, f"{PEER.address} is not refused any more\n")
        assert daemon.banned == []

    async def test_lifting_none_is_refused(self, ask: Ask) -> None:
        ended = await ask("bans", "lift", PEER.address)
        assert (ended.code, ended.error_code) == (1, Code.ADMIN_UNKNOWN)


class TestOptions:
    """Options belong behind the word that they are for."""

    def test_one_in_front_of_add_is_not_silently_lost(self, cli: Cli) -> None:
        ended = cli("bans", "--json", "add", PEER.address, "--reason", "x")
        assert ended.code == 2
        assert "expected options behind add, found some before it" in " ".join(ended.err.replace("│", " ").split())

    async def test_the_variable_that_names_the_configuration_is_no_such_option(
        self, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("P2PNODES_CONFIG", "/nowhere")
        assert (await ask("bans", "add", PEER.address, "--reason", "x")).code == 0
