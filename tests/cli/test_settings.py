"""``run``, ``config check`` and ``config show``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnodes.config import setting_keys
from tests.cli.conftest import Cli


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
        electorate, hotkey, node_key = ended.json["problems"]
        assert "electorate.toml: block: " in electorate
        assert "mode 0644" in hotkey
        assert "not a node key file" in node_key

    def test_a_data_dir_below_a_file_cannot_be_made(self, cli: Cli, config: Path) -> None:
        config.write_text(config.read_text().replace('"data"', '"electorate.toml/data"'))
        ended = cli("config", "check", "--config", config)
        assert ended.code == 1
        assert "electorate.toml cannot be written" in ended.error


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
