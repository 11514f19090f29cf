"""``run``, ``config check`` and ``config show``."""

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2pnodes.chain.delegation import DelegationRequest, write_signed
from p2pnodes.chain.wallet import load_node_key
from p2pnodes.cli.output import duration
from p2pnodes.config import load_network_file, setting_keys
from p2pnodes.model.codes import Code
from p2pnodes.model.events import LogId
from tests.cli.conftest import Cli, Forbid
from tests.support import NETWORK, hotkey

CONFIGS = Path(__file__).parent.parent.parent / "configs"
Delegated = Callable[..., None]


@pytest.fixture
def delegated(config: Path) -> Delegated:
    """Give the daemon a delegation file; some of what is signed may be changed."""

    def delegated(*, signer: str = "//validator0", **changes: Any) -> None:
        log = LogId(load_node_key(config.parent / "data" / "node.key").public_key, 1)
        now_s = int(time.time())
        asked = DelegationRequest(NETWORK.id, log, None, "", now_s - 60, now_s + 60, None)._replace(**changes)
        write_signed(config.parent / "delegation.json", asked.sign(hotkey(signer)))
        config.write_text(f'delegation_file = "delegation.json"\n{config.read_text()}')

    return delegated


class TestCheck:
    """Every problem is listed, one line each; nothing is made."""

    def test_a_good_configuration_has_no_problems(self, cli: Cli, config: Path) -> None:
        before = sorted(config.parent.rglob("*"))
        ended = cli("config", "check", "--config", config)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"{config}: no problems found\n"
        assert sorted(config.parent.rglob("*")) == before

    def test_the_environment_names_the_file(self, cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("P2PNODES_CONFIG", str(config))
        assert cli("config", "check").code == 0

    def test_every_bad_setting_is_a_line(self, cli: Cli, config: Path) -> None:
        config.write_text(config.read_text() + "\n[http]\nprot = 1\nport = -1\n")
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        lines = ended.err.splitlines()
        assert len(lines) == 2
        assert all(line.startswith(f"p2pnodes: error: {config}: http.p") for line in lines)
        assert "did you mean http.port?" in ended.err

    def test_the_files_that_it_names_are_checked(self, cli: Cli, config: Path) -> None:
        (config.parent / "hotkey.json").chmod(0o644)
        (config.parent / "data" / "node.key").write_text("broken")
        (config.parent / "electorate.toml").write_text("time = 0")
        ended = cli("config", "check", "--config", config, "--json")
        assert ended.code == 1
        electorate, hotkey_problem, node_key = ended.json["problems"]
        assert "electorate.toml: block: missing; expected number of the pinned block" in electorate
        assert "mode 0644" in hotkey_problem
        assert "not a node key file" in node_key

    def test_a_data_dir_below_a_file_cannot_be_made(self, cli: Cli, config: Path) -> None:
        config.write_text(config.read_text().replace('"data"', '"electorate.toml/data"'))
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        assert ended.error.endswith("electorate.toml is no directory; choose another")

    def test_a_key_that_another_user_hides_is_one_line(self, cli: Cli, config: Path, forbid: Forbid) -> None:
        path = config.parent / "data" / "node.key"
        forbid(path)
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        assert ended.error == f"{path}: cannot be looked for (Permission denied); run this as the daemon's user"

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ('[verify]\nverifier = "nonesuch"\n', "verify.verifier: found 'nonesuch', expected one that is installed"),
            ('[verify]\nverifier = "graval"\n', "verify.graval.url: missing"),
            ('[api]\ndeny_file = "denied.toml"\n', "denied.toml"),
        ],
    )
    def test_a_verifier_or_deny_list_that_cannot_be_had_is_one_line(
        self, cli: Cli, config: Path, settings: str, problem: str
    ) -> None:
        (config.parent / "denied.toml").write_text('"5Nobody" = "?"\n')
        config.write_text(f"{config.read_text()}\n{settings}")
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        assert problem in ended.error


class TestHotkey:
    """The hotkey, or the delegation that stands in for it, must fit the daemon."""

    def test_options_go_before_the_file(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        ended = cli("config", "check", "--config", config, "--hotkey-file", tmp_path / "absent")
        assert ended.code == 1
        assert ended.error.startswith(f"{tmp_path}/absent: no such file; expected a hotkey file")

    def test_a_configuration_that_there_is_not_has_the_code_that_every_command_gives_it(
        self, cli: Cli, tmp_path: Path
    ) -> None:
        ended = cli("config", "check", "--config", tmp_path / "absent.toml")
        assert ended.code == 1
        assert ended.err.endswith("no such file; expected a TOML file [config-file]\n")

    def test_a_wrong_wallet_is_one_line_with_those_that_are_there(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        config.write_text(f'wallet_path = "wallets"\n{config.read_text()}')
        (tmp_path / "wallets" / "validator" / "hotkeys").mkdir(parents=True)
        ended = cli("config", "check", "--config", config, "--wallet", "vaildator")
        assert ended.code == 1
        assert ended.error.endswith(f"{tmp_path}/wallets holds the wallets validator")
        ended = cli("config", "check", "--config", config, "--wallet", "validator")
        assert ended.error.endswith("the wallet validator holds no hotkey")

    def test_a_delegation_from_elsewhere_needs_no_hotkey(self, cli: Cli, config: Path, delegated: Delegated) -> None:
        delegated()
        config.write_text(re.sub('hotkey_file = ".*"', "", config.read_text()))
        ended = cli("config", "check", "--config", config)
        assert (ended.code, ended.err) == (0, "")

    def test_a_public_hotkey_is_good_with_a_delegation_alone(
        self, cli: Cli, config: Path, delegated: Delegated
    ) -> None:
        (config.parent / "hotkey.json").write_text(json.dumps({"ss58Address": hotkey("//validator0").address}))
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        assert "public only, no secret of" in ended.error
        delegated()
        ended = cli("config", "check", "--config", config)
        assert (ended.code, ended.err) == (0, "")

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            (
                {"network_id": bytes(16)},
                f"for network {bytes(16).hex()}; expected {NETWORK.id.hex()}: make a new request",
            ),
            ({"log": LogId(bytes(32), 1)}, f"for node key {bytes(32).hex()}; expected "),
            ({"signer": "//validator1"}, f"signed by {hotkey('//validator1').address}; expected "),
            ({"not_before": 1, "not_after": 2}, "ended at 1970-01-01 00:00:02 UTC: make a new request"),
        ],
    )
    def test_a_delegation_of_something_else_is_a_problem(
        self, cli: Cli, config: Path, delegated: Delegated, changes: dict[str, Any], problem: str
    ) -> None:
        delegated(**changes)
        ended = cli("config", "check", "--config", config, "--json")
        assert ended.code == 1
        (found,) = ended.json["problems"]
        assert found.startswith(f"{config.parent}/delegation.json: {problem}")

    def test_a_verifier_that_signs_needs_the_hotkey_here(self, cli: Cli, config: Path, delegated: Delegated) -> None:
        delegated()
        text = re.sub('hotkey_file = ".*"', "", config.read_text())
        config.write_text(f'{text}\n[verify]\nverifier = "nvml"\n')
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        assert "which is not on this machine" in ended.error


class TestNetworkFiles:
    """A network file is told by its content, and shows what is hashed."""

    def test_the_shipped_ones_pass(self, cli: Cli) -> None:
        for name in ("finney", "testnet", "devnet"):
            ended = cli("config", "check", CONFIGS / f"{name}.toml")
            assert (ended.code, ended.err) == (0, "")

    def test_its_id_and_what_is_hashed_are_shown(self, cli: Cli) -> None:
        ended = cli("config", "check", CONFIGS / "finney.toml", "--json")
        network = load_network_file(CONFIGS / "finney.toml").network
        assert (ended.json["problems"], ended.json["network_id"]) == ([], network.id.hex())
        assert ended.json["hashed"] == network.model_dump()
        assert ended.json["not_hashed"].keys() == {"electorate.urls", "gossip.bootstrap"}
        lines = [line.split()[:2] for line in cli("config", "check", CONFIGS / "finney.toml").out.splitlines()]
        assert ["network", "id"] in lines
        assert ["netuid", "yes"] in lines
        assert ["electorate.urls", "no"] in lines

    def test_a_file_goes_before_the_configuration(self, cli: Cli, config: Path) -> None:
        ended = cli("config", "check", CONFIGS / "devnet.toml", "--config", config)
        assert ended.out.endswith(f"{CONFIGS}/devnet.toml: no problems found\n")
        assert cli("config", "check", config).out == f"{config}: no problems found\n"

    def test_every_problem_is_a_line(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "network.toml"
        path.write_text('genesis_hash = "00"\nnetuid = 64\ndata_dri = "x"\n[http]\nport = 1\n')
        ended = cli("config", "check", path)
        assert ended.code == 1
        assert len(ended.err.splitlines()) == 3

    def test_without_a_file_it_is_usage(self, cli: Cli) -> None:
        assert cli("config", "check").code == 2


class TestWarnings:
    """What works, but perhaps not as it was meant to: a line each on stderr, exit code 0."""

    @pytest.fixture
    def warnings(self, cli: Cli, config: Path) -> Callable[[], list[str]]:
        def warnings() -> list[str]:
            ended = cli("config", "check", "--config", config)
            assert (ended.code, ended.out) == (0, f"{config}: no problems found\n")
            found = cli("config", "check", "--config", config, "--json")
            assert (found.code, found.json["problems"]) == (0, [])
            lines = [
                line.removeprefix("p2pnodes: warning: ").removesuffix(f" [{Code.CONFIG_WARNING}]")
                for line in ended.err.splitlines()
            ]
            assert lines == found.json["warnings"]
            return lines

        return warnings

    def test_a_parameter_beside_the_networks_own_is_named(
        self, config: Path, warnings: Callable[[], list[str]]
    ) -> None:
        (config.parent / "network.toml").write_text(f'genesis_hash = "{"0" * 64}"\nnetuid = 64\n')
        held = tomllib.loads(config.read_text())
        held |= {"network": {"netuid": 65}, "network_file": "network.toml"}
        config.write_text(tomli_w.dumps(held))
        (warning,) = [line for line in warnings() if "network id" in line]
        assert "network.netuid: 65 here, 64 in" in warning

    def change(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, new, text))

    def test_a_good_configuration_has_none(self, warnings: Callable[[], list[str]]) -> None:
        assert warnings() == []

    def test_a_hotkey_without_a_permit(self, warnings: Callable[[], list[str]], config: Path) -> None:
        self.change(config.parent / "electorate.toml", hotkey("//validator0").address, hotkey("//validator1").address)
        (line,) = warnings()
        assert f"{hotkey('//validator0').address} holds no permit in {config.parent}/electorate.toml" in line

    def test_a_permit_in_its_grace_is_one(self, warnings: Callable[[], list[str]], config: Path) -> None:
        path = config.parent / "electorate.toml"
        electorate = tomllib.loads(path.read_text())
        before = {"block": 0, "time": 0, "validators": electorate["validators"]}
        path.write_text(tomli_w.dumps(electorate | {"validators": [], "previous": before}))
        assert warnings() == []

    def test_no_hotkey(self, warnings: Callable[[], list[str]], config: Path) -> None:
        self.change(config, 'hotkey_file = ".*"', "")
        (line,) = warnings()
        assert line.startswith("neither wallet nor hotkey_file nor delegation_file is set: ")

    def test_a_hotkey_that_the_unit_hands_over_is_not_missed(
        self, warnings: Callable[[], list[str]], config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.change(config, 'hotkey_file = ".*"', "")
        monkeypatch.setattr("p2pnodes.service.hands_hotkey", lambda path: path == config)
        assert warnings() == []

    def test_a_vote_without_a_check_and_no_way_to_peers(
        self, warnings: Callable[[], list[str]], config: Path, tmp_path: Path
    ) -> None:
        assert warnings() == [], "on a network of one's own both are common"
        self.change(config, 'genesis_hash = ".*"', f'genesis_hash = "{"1" * 64}"')
        unchecked, alone = warnings()
        assert unchecked.startswith('verify.verifier: "none" votes verified without a check')
        assert alone.startswith("gossip.bootstrap: empty, so nothing leads to peers")
        database = tmp_path / "data" / "p2pnodes.db"
        database.parent.mkdir(exist_ok=True)
        database.touch()  # of a daemon that has met peers
        assert warnings() == [unchecked]
        self.change(config, 'hotkey_file = ".*"', 'role = "observer"')
        assert warnings() == []

    def test_an_observer_needs_no_hotkey(self, warnings: Callable[[], list[str]], config: Path) -> None:
        self.change(config, 'hotkey_file = ".*"', 'role = "observer"')
        assert warnings() == []

    def test_a_delegation_beside_the_hotkey(
        self, warnings: Callable[[], list[str]], config: Path, delegated: Delegated
    ) -> None:
        delegated()
        (line,) = warnings()
        assert line.startswith("delegation_file is not used: the hotkey is on this machine")

    def test_a_delegation_that_names_another_url(
        self, warnings: Callable[[], list[str]], config: Path, delegated: Delegated
    ) -> None:
        delegated(url="https://v.example")
        self.change(config, 'hotkey_file = ".*"', "")
        (line,) = warnings()
        assert "peers go by its URL, https://v.example, but http.url is unset" in line

    @pytest.mark.parametrize(
        ("urls", "found"),
        [
            (["wss://a", "wss://b"], []),
            (["ws://127.0.0.1:9944"], []),
            (["wss://a"], ["one endpoint, so nothing tells when it lies"]),
            (["wss://a:1/geheim", "wss://a:2"], ["one endpoint", "others can read the credentials"]),
            (["wss://a", "ws://geheim@b"], ["ws://***@b is not encrypted", "others can read the credentials"]),
            (["wss://a", "wss://b/public-ws"], []),
        ],
    )
    def test_a_chain_that_is_hard_to_trust(
        self, warnings: Callable[[], list[str]], config: Path, urls: list[str], found: list[str]
    ) -> None:
        settings = tomllib.loads(config.read_text()) | {"electorate": {"urls": urls}}
        config.write_text(tomli_w.dumps(settings))
        config.chmod(0o644)
        lines = warnings()
        assert len(lines) == len(found)
        assert all(text in line for text, line in zip(found, lines, strict=True))
        assert "geheim" not in "".join(lines)

    def test_an_electorate_between_two_epochs(self, warnings: Callable[[], list[str]], config: Path) -> None:
        self.change(config.parent / "electorate.toml", "block = 100", "block = 250")
        (line,) = warnings()
        assert line.endswith("electorate.toml: block 250 is no multiple of network.epoch_blocks, 100")

    def test_an_old_electorate(self, warnings: Callable[[], list[str]], config: Path) -> None:
        time_s = int(time.time()) - 366 * 86_400 - 60
        self.change(config.parent / "electorate.toml", r"time = \d+", f"time = {time_s}")
        (line,) = warnings()
        assert f"electorate.toml: 366 days old, but verdicts lapse after {duration(NETWORK.verdict_ttl_s)}" in line

    def test_a_data_dir_that_this_user_cannot_write(
        self, warnings: Callable[[], list[str]], config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda path, _: path != config.parent)  # root could write it
        self.change(config, '"data"', '"absent/data"')
        (line,) = warnings()
        assert line.startswith(f"data_dir {config.parent}/absent/data: {config.parent} cannot be written by this user")

    def test_a_data_dir_that_this_user_cannot_look_into(
        self, warnings: Callable[[], list[str]], config: Path, forbid: Forbid
    ) -> None:
        self.change(config, "data_dir", 'node_key_file = "data/node.key"\ndata_dir')
        forbid(config.parent / "data")
        (line,) = warnings()
        assert line == f"data_dir {config.parent}/data: cannot be looked into by this user (Permission denied)"


class TestShow:
    """What is in effect, and why."""

    def test_every_setting_is_shown(self, cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("P2PNODES_HTTP__PORT", "8001")
        ended = cli("config", "show", "--config", config, "--json")
        assert ended.code == 0
        shown = {setting["key"]: setting for setting in ended.json}
        assert list(shown) == setting_keys()
        assert (shown["http.port"]["value"], shown["http.port"]["origin"]) == (8001, "environment")
        assert shown["data_dir"]["value"] == str(config.parent / "data")

    def test_the_table_writes_values_as_the_file_does(self, cli: Cli, config: Path) -> None:
        lines = {
            line.split()[0]: line.split()[1] for line in cli("config", "show", "--config", config).out.splitlines()
        }
        assert lines["api.allow_private_hosts"] == "false"
        assert lines["gossip.bootstrap"] == "[]"
        assert lines["http.url"] == "-"

    def test_a_narrow_terminal_gets_a_line_for_each_with_its_meaning_below(
        self, cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        everything = cli("config", "show", "--config", config, "--json").json
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "119")
        narrow = cli("config", "show", "--config", config).out
        lines = narrow.splitlines()
        assert "api.allow_private_hosts = false  (default)" in lines
        assert "http.url = -  (default)" in lines
        assert [line.split()[0] for line in lines if not line.startswith(" ")] == setting_keys()
        assert all(len(line) <= 119 for line in lines if line.startswith(" "))
        shown = " ".join(narrow.split())
        assert all(" ".join(setting["description"].split()) in shown for setting in everything)
        monkeypatch.setenv("COLUMNS", "120")
        head, *_ = cli("config", "show", "--config", config).out.splitlines()
        assert head.split() == ["key", "value", "origin", "description"]

    def test_credentials_of_the_chain_are_not_shown(self, cli: Cli, config: Path) -> None:
        settings = tomllib.loads(config.read_text()) | {"electorate": {"urls": ["wss://u:geheim@h/geheim"]}}
        config.write_text(tomli_w.dumps(settings))
        for form in ([], ["--json"]):
            out = cli("config", "show", "--config", config, *form).out
            assert "wss://***@h/***" in out
            assert "geheim" not in out

    def test_secrets_among_a_verifiers_options_are_not_shown(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        options = {"verify": {"options": {"token": "geheim", "mode": "fast"}}}
        settings = tomllib.loads(config.read_text())
        config.write_text(tomli_w.dumps(settings | options))
        network = tmp_path / "network.toml"
        network.write_text(tomli_w.dumps(settings["network"] | options))
        for command in (["show", "--config", config], ["check", network]):
            for form in ([], ["--json"]):
                out = cli("config", *command, *form).out
                assert "fast" in out
                assert "geheim" not in out

    def test_a_network_file_is_an_origin(self, cli: Cli, config: Path) -> None:
        settings = tomllib.loads(config.read_text())
        network = {**settings.pop("network"), "gossip": {"allow_observers": True}}
        (config.parent / "network.toml").write_text(tomli_w.dumps(network))
        config.write_text(tomli_w.dumps({**settings, "network_file": "network.toml"}))
        shown = {setting["key"]: setting for setting in cli("config", "show", "--config", config, "--json").json}
        assert shown["gossip.allow_observers"]["origin"] == shown["network.netuid"]["origin"] == "network file"

    def test_secrets_are_not_shown(self, cli: Cli, config: Path) -> None:
        secret = json.loads((config.parent / "hotkey.json").read_text())["privateKey"]
        out = cli("config", "show", "--config", config).out + cli("config", "show", "--config", config, "--json").out
        assert secret not in out

    def test_a_bad_file_is_one_line(self, cli: Cli, tmp_path: Path) -> None:
        ended = cli("config", "show", "--config", tmp_path / "absent.toml")
        assert ended.code == 1
        assert "no such file; expected a TOML file" in ended.error


class TestRun:
    """What a validator gets wrong at the first start is one clear line."""

    def run(self, config: Path, *options: object) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "p2pnodes", "run", "--config", str(config), *map(str, options)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=20)

    def test_a_bad_setting(self, config: Path) -> None:
        config.write_text("[http]\n")
        ended = self.run(config)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert line.startswith("p2pnodes: error: ")
        assert "data_dir: missing" in line

    def test_a_wrong_wallet(self, config: Path, tmp_path: Path) -> None:
        config.write_text(f'wallet_path = "wallets"\n{config.read_text()}')
        (tmp_path / "wallets" / "validator").mkdir(parents=True)
        ended = self.run(config, "--wallet", "vaildator")
        assert ended.returncode == 1
        line = ended.stderr.splitlines()[-1]
        assert line.endswith(f"{tmp_path}/wallets holds the wallets validator [key-unreadable]")

    def test_a_bad_hotkey_file(self, config: Path) -> None:
        (config.parent / "hotkey.json").chmod(0o644)
        ended = self.run(config)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(
            f"p2pnodes: error: {config.parent}/hotkey.json: the hotkey file"
        )
        assert "Traceback" not in ended.stderr
