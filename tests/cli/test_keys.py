"""``keys new``, ``show`` and ``delegate``."""

import json
from pathlib import Path

import pytest

from p2pnodes.chain.delegation import read_delegation
from p2pnodes.chain.wallet import load_hotkey, load_node_key
from p2pnodes.model.events import DELEGATION_BACKDATE_S
from tests.cli.conftest import Cli
from tests.support import NETWORK, hotkey

ALICE = hotkey("//Alice")


class TestNew:
    """A new key is its own file, mode 0600, and never replaces another."""

    def test_a_node_key_goes_where_the_configuration_says(self, cli: Cli, config: Path) -> None:
        path = config.parent / "data" / "node.key"
        path.unlink()
        path.parent.rmdir()
        ended = cli("keys", "new", "--config", config, "--json")
        assert ended.code == 0
        made = {"kind": "node key", "public_key": load_node_key(path).public_key.hex(), "file": str(path)}
        assert ended.json == made

    def test_a_hotkey_is_a_bittensor_file(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "hotkey"
        ended = cli("keys", "new", "--hotkey-file", path)
        assert ended.code == 0
        assert load_hotkey(path).address in ended.out

    def test_a_development_hotkey_is_made_from_its_uri(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "hotkey"
        assert cli("keys", "new", "--hotkey-file", path, "--uri", "//Alice").code == 0
        assert load_hotkey(path) == ALICE

    def test_a_file_that_exists_is_left_alone(self, cli: Cli, config: Path) -> None:
        path = config.parent / "data" / "node.key"
        before = path.read_bytes()
        ended = cli("keys", "new", "--config", config)
        assert ended.code == 1
        assert "exists already" in ended.error
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--uri", "//Alice"], ["--hotkey-file", "a", "--node-key-file", "b"]],
        ids=["nothing", "no file", "both"],
    )
    def test_options_that_do_not_go_together_are_usage(self, cli: Cli, arguments: list[str]) -> None:
        assert cli("keys", "new", *arguments).code == 2


class TestShow:
    """Public parts only."""

    def test_the_keys_of_a_configuration(self, cli: Cli, config: Path) -> None:
        ended = cli("keys", "show", "--config", config, "--json")
        assert ended.code == 0
        validator, node_key = ended.json
        assert (validator["kind"], validator["address"]) == ("hotkey", hotkey("//validator0").address)
        assert node_key["public_key"] == load_node_key(config.parent / "data" / "node.key").public_key.hex()

    def test_files_of_either_kind(self, cli: Cli, directory: Path) -> None:
        ended = cli("keys", "show", directory / "data" / "node.key", directory / "hotkey.json", "--json")
        assert [key["kind"] for key in ended.json] == ["node key", "hotkey"]

    def test_no_secret_is_printed(self, cli: Cli, directory: Path, config: Path) -> None:
        secrets = [
            json.loads((directory / "hotkey.json").read_text())["privateKey"].removeprefix("0x"),
            (directory / "data" / "node.key").read_text().split()[1],
        ]
        for form in ([], ["--json"]):
            out = cli("keys", "show", "--config", config, *form).out
            assert out
            assert not any(secret in out for secret in secrets)

    def test_a_development_key_is_known_by_its_uri(self, cli: Cli) -> None:
        assert ALICE.address in cli("keys", "show", "--uri", "//Alice").out

    @pytest.mark.parametrize(
        "command",
        [
            ["show"],
            ["new", "--hotkey-file", "hotkey"],
            ["delegate", "--network-id", "01" * 16, "--node-key", "01" * 32],
        ],
        ids=["show", "new", "delegate"],
    )
    def test_a_malformed_uri_is_usage(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        ended = cli("keys", *command, "--uri", "//")
        assert ended.code == 2
        assert "--uri: not a key URI: expected //Name" in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_a_bad_file_is_one_line(self, cli: Cli, tmp_path: Path) -> None:
        ended = cli("keys", "show", tmp_path / "absent")
        assert ended.code == 1
        assert "no such file" in ended.error


class TestDelegate:
    """Signed where the hotkey is, checked anywhere."""

    SIGN = ("keys", "delegate", "--uri", "//Alice", "--network-id", NETWORK.id.hex(), "--node-key", "01" * 32)

    def test_what_is_signed_can_be_checked(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "delegation.json"
        ended = cli(*self.SIGN, "--log", 7, "--url", "https://v.example", "--days", 2, "--out", path, "--json")
        assert ended.code == 0
        signed = read_delegation(path)
        assert signed.fields() == ended.json
        assert (signed.network_id, signed.log.number) == (NETWORK.id, 7)
        assert signed.delegation.hotkey == ALICE.public_key
        assert signed.delegation.not_after - signed.delegation.not_before == 2 * 86_400 + 3600
        checked = cli("keys", "delegate", "--verify", path)
        assert checked.code == 0
        assert "good: signed by the hotkey" in checked.out

    def test_one_that_was_changed_is_refused(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "delegation.json"
        fields = cli(*self.SIGN, "--json").json
        path.write_text(json.dumps(fields | {"url": "https://evil.example"}))
        ended = cli("keys", "delegate", "--verify", path)
        assert ended.code == 1
        assert "not signed by" in ended.error

    def test_one_whose_time_is_over_is_refused(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "delegation.json"
        with monkeypatch.context() as then:
            then.setattr("p2pnodes.cli.keys.time.time", lambda: 1_600_000_000.0)
            assert cli(*self.SIGN, "--out", path).code == 0
        ended = cli("keys", "delegate", "--verify", path)
        assert ended.code == 1
        assert "good from 2020-09-13 11:26:40 UTC to 2020-10-13 12:26:40 UTC, which is not now" in ended.error

    def test_its_begin_leaves_room_for_clocks_as_a_daemons_does(self, cli: Cli) -> None:
        fields = cli(*self.SIGN, "--days", 1, "--json").json
        assert fields["not_after"] - fields["not_before"] == 86_400 + DELEGATION_BACKDATE_S

    def test_help_says_that_no_daemon_reads_the_file(self, cli: Cli) -> None:
        assert "cannot take one from a file yet" in " ".join(cli("keys", "delegate", "--help").out.split())

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--uri", "//Alice", "--node-key", "01" * 32],
            ["--uri", "//Alice", "--network-id", "01" * 16, "--node-key", "zz"],
            ["--network-id", "01" * 16, "--node-key", "01" * 32],
        ],
    )
    def test_what_is_missing_is_usage(self, cli: Cli, arguments: list[str]) -> None:
        assert cli("keys", "delegate", *arguments).code == 2
