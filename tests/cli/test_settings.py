"""``run``, ``config check`` and ``config show``."""

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from p2pnodes.cli.output import duration
from p2pnodes.config import setting_keys
from tests.cli.conftest import Cli, Forbid
from tests.support import NETWORK, hotkey


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


class TestWarnings:
    """What works, but perhaps not as it was meant to: a line each on stderr, exit code 0."""

    @pytest.fixture
    def warnings(self, cli: Cli, config: Path) -> Callable[[], list[str]]:
        def warnings() -> list[str]:
            ended = cli("config", "check", "--config", config)
            assert (ended.code, ended.out) == (0, f"{config}: no problems found\n")
            found = cli("config", "check", "--config", config, "--json")
            assert (found.code, found.json["problems"]) == (0, [])
            lines = [line.removeprefix("p2pnodes: warning: ") for line in ended.err.splitlines()]
            assert lines == found.json["warnings"]
            return lines

        return warnings

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
        assert line.startswith("hotkey_file is not set: ")

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

    def run(self, config: Path) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "p2pnodes", "run", "--config", str(config)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=20)

    def test_a_bad_setting(self, cli: Cli, config: Path) -> None:
        config.write_text("[http]\n")
        ended = cli("run", "--config", config)
        assert ended.code == 1
        assert "data_dir: missing" in ended.error

    def test_a_bad_hotkey_file(self, config: Path) -> None:
        (config.parent / "hotkey.json").chmod(0o644)
        ended = self.run(config)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(
            f"p2pnodes: error: {config.parent}/hotkey.json: the hotkey file"
        )
        assert "Traceback" not in ended.stderr
