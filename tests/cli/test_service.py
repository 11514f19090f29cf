"""``service install``: what it would do is shown first, what is there is kept, and what is written can be read."""

import os
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2pnodes import service
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.config import CONFIG_VARIABLE, SHIPPED_NETWORKS, load_settings, shipped_network
from p2pnodes.model.errors import ConfigError
from tests.cli.conftest import Cli, Forbid
from tests.support import hotkey

COMMAND = sys.modules["p2pnodes.cli.service"]

OPTIONS = ("service", "install", "--network", "finney", "--program", "/usr/bin/p2pnodes")
ETC = Path("etc/p2pnodes/p2pnodes.toml")
UNIT = Path("etc/systemd/system/p2pnodes.service")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "image"


def test_networks_come_with_the_program() -> None:
    for name in SHIPPED_NETWORKS:
        path = shipped_network(name)
        assert path is not None
        assert "genesis_hash" in tomllib.loads(path.read_text())
    assert shipped_network("../finney") is None


class TestDryRun:
    """Shown, not done."""

    def test_nothing_is_written(self, cli: Cli, root: Path) -> None:
        ended = cli(*OPTIONS, "--observer", "--root", root, "--dry-run")
        assert ended.code == 0
        assert str(root / UNIT) in ended.out
        assert "systemctl enable --now p2pnodes" in ended.out
        assert not root.exists()

    def test_json_lists_the_same(self, cli: Cli, root: Path) -> None:
        shown = cli(*OPTIONS, "--hotkey-file", "/root/key", "--root", root, "--dry-run", "--json").json
        assert {"file": str(root / ETC), "action": "new"} in shown["files"]
        assert len(shown["files"]) == 5
        assert shown["commands"] == [], "nothing runs for another root"
        assert shown["then"] == ["systemctl enable --now p2pnodes"]
        assert shown["console"] == "http://127.0.0.1:9464/console/"

    def test_without_systemd_the_daemon_is_started_by_hand(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(COMMAND, "BOOTED", tmp_path / "absent")
        ended = cli(*OPTIONS, "--observer", "--dry-run")
        assert "run: " not in ended.out
        assert "  /usr/bin/p2pnodes run --config /etc/p2pnodes/p2pnodes.toml\n" in ended.out
        assert "systemd does not run here" in ended.err

    def test_the_console_is_named_where_there_is_one(self, cli: Cli, root: Path) -> None:
        arguments = (*OPTIONS, "--observer", "--root", root, "--dry-run")
        assert "its console: http://127.0.0.1:9464/console/\n" in cli(*arguments).out
        assert "its console" not in cli(*arguments, "--admin-port", 0).out


class TestInstall:
    """Written below another root, as for an image."""

    def test_the_configuration_is_one_that_a_daemon_takes(self, cli: Cli, root: Path) -> None:
        ended = cli(
            *OPTIONS, "--observer", "--root", root, "--url", "https://node.example.org", "--port", 9000, "--yes",
            "--bootstrap", "https://a.example",
        )  # fmt: skip
        assert (ended.code, ended.err) == (0, "")
        settings = load_settings(root / ETC)
        assert (settings.role, settings.http.port, settings.http.url) == ("observer", 9000, "https://node.example.org")
        assert settings.network.netuid == 64
        assert settings.data_dir == Path("/var/lib/p2pnodes")
        assert not list(root.rglob("*.new")), "no draft is left"
        assert not (root / ETC).stat().st_mode & stat.S_IWOTH

    def test_again_changes_nothing(self, cli: Cli, root: Path) -> None:
        arguments = (*OPTIONS, "--observer", "--root", root, "--yes", "--json")
        assert {file["action"] for file in cli(*arguments).json["files"]} == {"new"}
        assert {file["action"] for file in cli(*arguments).json["files"]} == {"unchanged"}

    def test_a_unit_that_came_with_a_package_stays_the_only_one(self, cli: Cli, root: Path) -> None:
        packaged = root / service.PACKAGED_UNIT.relative_to("/")
        packaged.parent.mkdir(parents=True)
        packaged.write_text(service.unit())
        arguments = (*OPTIONS, "--observer", "--root", root, "--yes", "--bootstrap", "https://a.example")
        assert cli(*arguments).err == ""
        assert not (root / UNIT).exists()
        (root / UNIT).parent.mkdir(parents=True)
        (root / UNIT).write_text("")
        assert f"{root / UNIT} hides the unit that comes with the package" in cli(*arguments).err

    def test_a_package_s_unit_for_another_program_is_none_for_this_one(self, cli: Cli, root: Path) -> None:
        packaged = root / service.PACKAGED_UNIT.relative_to("/")
        packaged.parent.mkdir(parents=True)
        packaged.write_text(service.unit("/opt/other/p2pnodes"))
        cli(*OPTIONS, "--observer", "--root", root, "--yes")
        assert (root / UNIT).read_text() == service.unit()

    def test_a_program_is_the_same_by_any_of_its_paths(self, cli: Cli, root: Path) -> None:
        packaged = root / service.PACKAGED_UNIT.relative_to("/")
        packaged.parent.mkdir(parents=True)
        packaged.write_text(service.unit())
        (root / "usr/bin").mkdir()
        (root / "usr/bin/p2pnodes").write_text("")
        (root / "bin").symlink_to("usr/bin")
        cli(
            "service",
            "install",
            "--network",
            "finney",
            "--program",
            "/bin/p2pnodes",
            "--observer",
            "--root",
            root,
            "-y",
        )
        assert not (root / UNIT).exists()

    def test_the_service_s_user_can_read_it_whatever_root_s_umask_is(self, cli: Cli, root: Path) -> None:
        root.mkdir()
        before = os.umask(0o077)
        try:
            ended = cli(*OPTIONS, "--hotkey-file", "/root/key", "--root", root, "--yes")
        finally:
            os.umask(before)
        assert ended.code == 0
        modes = {path.relative_to(root): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
        assert {mode for path, mode in modes.items() if (root / path).is_dir()} == {0o755}
        assert {mode for path, mode in modes.items() if (root / path).is_file()} == {0o644}

    def test_a_validator_that_would_vote_unchecked_is_told_before_it_starts(self, cli: Cli, root: Path) -> None:
        arguments = (*OPTIONS, "--hotkey-file", "/root/key", "--root", root, "--yes")
        warning = 'verify.verifier: "none" votes verified without a check'
        assert warning in cli(*arguments).err
        checked = cli("config", "check", root / ETC)
        assert warning in checked.err
        assert "hotkey_file" not in checked.err, "the unit hands it over"

    def test_what_this_shell_sets_is_not_the_service_s(
        self, cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = (*OPTIONS, "--hotkey-file", "/root/key", "--root", root, "--yes")
        wanted = cli(*arguments).err
        (root / ETC).unlink()
        monkeypatch.setenv("P2PNODES_VERIFY__VERIFIER", "nvml")
        monkeypatch.setenv("P2PNODES_GOSSIP__BOOTSTRAP", '["https://a.example"]')
        assert cli(*arguments).err == wanted
        assert wanted in cli(*arguments).err, "nor that of a configuration that is kept"
        (root / ETC).unlink()
        monkeypatch.setenv("P2PNODES_HTTP__PORT", "no port")
        monkeypatch.setenv("P2PNODES_GOSSIP__BOOTSTRAP", "no list")
        assert cli(*arguments).code == 0

    def test_a_verifier_is_written_and_explained(self, cli: Cli, root: Path) -> None:
        ended = cli(*OPTIONS, "--hotkey-file", "/root/key", "--root", root, "--yes", "--verifier", "graval")
        assert "votes verified without" not in ended.err
        verify = load_settings(root / ETC).verify
        assert (verify.verifier, verify.graval.url) == ("graval", service.GRAVAL_URL)
        assert "# `p2pnodes docs verifiers`" in (root / ETC).read_text()

    def test_the_verifier_is_asked_for_where_the_rest_is(
        self, cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = {"Network": "finney", "Public": "", "File": "/root/key", "Verifier": "nvml"}
        asked: list[str] = []

        def prompt(text: str, **_: object) -> str:
            asked.append(text)
            return answers[text.split(maxsplit=1)[0]]

        monkeypatch.setattr(COMMAND, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
        monkeypatch.setattr(COMMAND.typer, "prompt", prompt)
        ended = cli("service", "install", "--program", "/usr/bin/p2pnodes", "--root", root, "--yes")
        assert ended.code == 0
        assert asked[-1] == "Verifier (nvml, graval; none: it votes verified without a check)"
        assert load_settings(root / ETC).verify.verifier == "nvml"

    def test_peers_to_begin_with_are_missed_until_there_are_some(self, cli: Cli, root: Path) -> None:
        arguments = (*OPTIONS, "--observer", "--root", root, "--yes")
        assert "gossip.bootstrap: empty, so only axons on chain lead to peers" in cli(*arguments).err
        (root / ETC).unlink()
        assert cli(*arguments, "--bootstrap", "https://a.example").err == ""

    def test_the_console_is_the_kept_configuration_s(self, cli: Cli, root: Path) -> None:
        arguments = (*OPTIONS, "--observer", "--root", root, "--yes", "--json")
        cli(*arguments, "--admin-port", 9999)
        assert cli(*arguments).json["console"] == "http://127.0.0.1:9999/console/"

    def test_an_edited_configuration_is_kept_and_an_edited_unit_is_not(self, cli: Cli, root: Path) -> None:
        arguments = (*OPTIONS, "--observer", "--root", root, "--yes")
        cli(*arguments)
        (root / ETC).write_text((root / ETC).read_text().replace("8000", "8001"))
        (root / UNIT).write_text("[Unit]\n")
        ended = cli(*arguments)
        assert ended.code == 0
        assert load_settings(root / ETC).http.port == 8001
        assert "Type=notify" in (root / UNIT).read_text()
        assert "stays as it is" in ended.err

    def test_a_configuration_that_no_daemon_takes_is_told(self, cli: Cli, root: Path) -> None:
        ended = cli(*OPTIONS, "--observer", "--root", root, "--url", "ftp://node.example.org", "--yes")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error == (
            '/etc/p2pnodes/p2pnodes.toml: http.url: found "ftp://node.example.org", expected http://HOST[:PORT] or '
            "https://HOST[:PORT]; nothing was written"
        )
        assert not root.exists(), "it would be kept, whatever is given next"

    def test_a_dry_run_tells_that_too(self, cli: Cli, root: Path) -> None:
        ended = cli(*OPTIONS, "--observer", "--root", root, "--bootstrap", "node", "--dry-run")
        assert ended.code == 1
        assert "gossip.bootstrap" in ended.error


class TestRefused:
    """One line each, and nothing is written."""

    def test_without_a_terminal_and_without_yes(self, cli: Cli, root: Path) -> None:
        ended = cli(*OPTIONS, "--observer", "--root", root)
        assert ended.code == 2
        assert "--yes" in ended.err
        assert not root.exists()

    def test_without_a_network(self, cli: Cli) -> None:
        ended = cli("service", "install", "--observer")
        assert ended.code == 2
        assert "--network" in ended.err

    @pytest.mark.parametrize("options", [(), ("--observer", "--hotkey-file", "/root/key")])
    def test_neither_or_both_of_hotkey_and_observer(self, cli: Cli, options: tuple[str, ...]) -> None:
        ended = cli(*OPTIONS, *options, "--dry-run")
        assert ended.code == 2
        assert "--observer" in ended.err

    def test_a_file_that_is_no_network_s(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "other.toml").write_text('data_dir = "x"\n')
        ended = cli("service", "install", "--network", tmp_path / "other.toml", "--observer", "--dry-run")
        assert ended.code == 1
        assert "is no network file" in ended.err

    def test_a_hotkey_that_the_daemon_could_not_use(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        absent = cli(*OPTIONS, "--hotkey-file", tmp_path / "absent", "--dry-run")
        assert (absent.code, absent.out) == (1, "")
        assert f"{tmp_path / 'absent'}" in absent.err
        assert "sudo" not in absent.err
        monkeypatch.setenv("SUDO_USER", "ann")
        assert "under sudo --wallet means root's wallets" in cli(*OPTIONS, "--wallet", "validator", "--dry-run").err
        write_hotkey_file(tmp_path / "key", hotkey("//validator0"))
        assert cli(*OPTIONS, "--hotkey-file", tmp_path / "key", "--dry-run").code == 0

    def test_another_network_than_the_one_that_is_there(self, cli: Cli, root: Path) -> None:
        arguments = ("service", "install", "--program", "/usr/bin/p2pnodes", "--observer", "--root", root, "--yes")
        cli(*arguments, "--network", "finney")
        network = root / ETC.with_name("network.toml")
        before = network.read_text()
        ended = cli(*arguments, "--network", "testnet")
        assert ended.code == 1
        assert "name the same network" in ended.err
        assert network.read_text() == before
        network.write_text(before.replace("bootstrap = []", 'bootstrap = ["https://a.example"]'))  # of the same id
        assert cli(*arguments, "--network", "finney").code == 0

    def test_a_verifier_that_is_not_installed_or_not_wanted(self, cli: Cli, tmp_path: Path) -> None:
        write_hotkey_file(tmp_path / "key", hotkey("//validator0"))
        ended = cli(*OPTIONS, "--hotkey-file", tmp_path / "key", "--verifier", "magic", "--dry-run")
        assert (ended.code, ended.out) == (1, "")
        assert "expected one that is installed" in ended.err
        assert cli(*OPTIONS, "--observer", "--verifier", "nvml", "--dry-run").code == 2

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")
    def test_files_that_the_service_s_user_cannot_read(self, tmp_path: Path) -> None:
        path = tmp_path / "p2pnodes.toml"
        path.touch(0o600)
        with pytest.raises(ConfigError, match="the service's user nobody cannot read it"):
            COMMAND._require_readable([path], "nobody")
        COMMAND._require_readable([Path("/etc/passwd")], "nobody")
        COMMAND._require_readable([path], "no-such-user")

    def test_a_program_in_a_home(self, cli: Cli) -> None:
        ended = cli(
            "service", "install", "--network", "finney", "--observer", "--program", "/home/a/p2pnodes", "--dry-run"
        )
        assert ended.code == 1
        assert "its sandbox hides /home" in ended.err

    def test_a_place_that_cannot_be_written(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "image").write_text("")
        ended = cli(*OPTIONS, "--observer", "--root", tmp_path / "image", "--yes")
        assert ended.code == 1
        assert "cannot be" in ended.err


class TestQuestions:
    """What is not given is asked for on a terminal; nothing is written before the last answer."""

    @pytest.mark.parametrize(("interrupts", "code"), [(True, 130), (False, 1)])
    def test_ctrl_c_there_is_told_from_no_answer(self, tmp_path: Path, interrupts: bool, code: int) -> None:
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "p2pnodes", "service", "install", "--root", str(tmp_path)]
        with subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as asked:
            assert asked.stderr is not None
            shown = b""
            while not shown.endswith(b"]:"):
                character = asked.stderr.read(1)
                assert character, shown
                shown += character
            if interrupts:
                asked.send_signal(signal.SIGINT)
            else:
                os.write(ours, b"\x04")
            assert asked.stderr.read().strip() == b"p2pnodes: not done"
            assert asked.wait(timeout=30) == code
        os.close(ours)
        os.close(theirs)
        assert list(tmp_path.iterdir()) == []


class TestFound:
    """What is installed, commands find by themselves."""

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CONFIG_VARIABLE, "")  # so that what a command sets is undone
        monkeypatch.delenv(CONFIG_VARIABLE)

    def test_commands_without_a_configuration_mean_the_system_s(
        self, cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert cli("db", "path").code == 2
        cli(*OPTIONS, "--observer", "--root", root, "--yes")
        monkeypatch.setattr("p2pnodes.cli.SYSTEM_CONFIG", root / ETC)
        assert cli("db", "path").out == "/var/lib/p2pnodes/p2pnodes.db\n"

    def test_one_where_this_user_may_not_look_is_none(
        self, cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch, forbid: Forbid
    ) -> None:
        monkeypatch.setattr("p2pnodes.cli.SYSTEM_CONFIG", root / ETC)
        forbid(root / ETC)
        assert cli("--version").code == 0
        assert cli("db", "path").code == 2

    def test_what_is_named_goes_before_it(self, cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cli(*OPTIONS, "--observer", "--root", root, "--yes")
        monkeypatch.setattr("p2pnodes.cli.SYSTEM_CONFIG", root / ETC)
        assert "absent.toml" in cli("db", "path", "--config", "absent.toml").err
        monkeypatch.setenv(CONFIG_VARIABLE, "other.toml")
        assert "other.toml" in cli("db", "path").err
