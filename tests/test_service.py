"""The texts of the service: systemd takes the unit, its sandbox is worth something, the plan says all that is done."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from p2pnodes import outbound, service
from p2pnodes.api import hosts
from p2pnodes.daemon import STOP_S_MAX
from p2pnodes.model.errors import ConfigError
from p2pnodes.service import Choice, Plan, plan, sysusers, unit
from tests.support import program

OTHER_TASKS = 64
"""Threads besides: the writer, readers, up to 32 of asyncio's pool; and the daemon's processes with theirs."""

CONFIGS = Path(__file__).parent.parent / "configs"
EXPOSURE_MAX = 2.0
CHOICE = Choice(
    Path("/opt/p2pnodes/bin/p2pnodes"), "netuid = 64\n", "https://node.example.org", "127.0.0.1", 8000, (),
    Path("/root/.bittensor/hotkey"), None,
)  # fmt: skip


def systemd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze"), "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def written(directory: Path, text: str) -> str:
    path = directory / "p2pnodes.service"
    path.write_text(text)
    return str(path)


def texts(found: Plan) -> dict[str, str]:
    return {str(file.path): file.content for file in found.files}


def settings(found: Plan) -> dict[str, Any]:
    return tomllib.loads(texts(found)[str(found.config)])


class TestUnit:
    """The unit that is installed, and the one in configs."""

    def test_configs_hold_what_would_be_installed(self) -> None:
        assert (CONFIGS / "p2pnodes.service").read_text() == unit()
        assert (CONFIGS / "p2pnodes.sysusers").read_text() == sysusers()

    def test_systemd_finds_nothing_wrong_with_it(self, tmp_path: Path) -> None:
        # systemd wants the program to be there, and nothing else of it.
        ended = systemd("verify", written(tmp_path, unit("/usr/bin/env")))
        assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")

    def test_systemd_would_find_what_is_wrong(self, tmp_path: Path) -> None:
        ended = systemd("verify", written(tmp_path, unit("/usr/bin/env").replace("Type=notify", "Typ=notify")))
        assert "Typ" in ended.stderr

    @pytest.mark.parametrize("user", [False, True])
    def test_a_stop_is_told_to_the_daemon_alone_which_ends_what_it_has_started(self, *, user: bool) -> None:
        """Told as well, the process that reads the chain dies in the middle of it, and the endpoint is blamed."""
        assert "\nKillMode=mixed\n" in unit(user=user)

    @pytest.mark.parametrize("user", [False, True])
    def test_it_has_room_for_all_threads_in_which_names_are_looked_up(self, *, user: bool) -> None:
        (tasks,) = re.findall(r"\nTasksMax=(\d+)\n", unit(user=user))
        resolvers = 3  # of the driver, and two of the verifiers' exchange
        assert int(tasks) >= hosts.LOOKUPS_MAX + resolvers * outbound.LOOKUPS_MAX + OTHER_TASKS

    @pytest.mark.parametrize("user", [False, True])
    def test_a_daemon_says_what_hangs_before_it_is_killed(self, *, user: bool) -> None:
        (stop_s,) = re.findall(r"\nTimeoutStopSec=(\d+)s\n", unit(user=user))
        assert int(stop_s) > STOP_S_MAX + 2
        assert f"({STOP_S_MAX:g} s)" in unit(user=user)

    def test_its_exposure_is_low(self, tmp_path: Path) -> None:
        path = written(tmp_path, unit())
        ended = systemd("security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:g}", path)
        assert ended.returncode == 0, ended.stdout
        assert systemd("security", "--offline=true", "--threshold=1", path).returncode != 0

    def test_a_user_s_own_has_no_other_user_and_no_sandbox_that_it_cannot_make(self) -> None:
        text = unit(user=True)
        for setting in ("User=", "StateDirectory=", "ProtectSystem=", "CapabilityBoundingSet="):
            assert f"\n{setting}" in unit()
            assert f"\n{setting}" not in text
        assert "\nNoNewPrivileges=yes\n" in text
        assert text.endswith("WantedBy=default.target\n")

    @pytest.mark.parametrize(
        ("path", "quoted"),
        [
            ("/opt/a/p2pnodes", "/opt/a/p2pnodes"),
            ("/opt/a b/p2pnodes", '"/opt/a b/p2pnodes"'),
            ("/opt/50%", "/opt/50%%"),
        ],
    )
    def test_paths_are_taken_literally(self, path: str, quoted: str) -> None:
        assert f"ExecStart={quoted} run --config {quoted}\n" in unit(path, path)

    @pytest.mark.parametrize(
        ("path", "quoted"),
        [("/etc/$HOME", "/etc/$$HOME"), ('/etc/"x"', '"/etc/\\"x\\""'), ("/etc/back\\slash", '"/etc/back\\\\slash"')],
    )
    def test_a_configuration_may_lie_where_no_program_can(self, path: str, quoted: str) -> None:
        assert f"run --config {quoted}\n" in unit(config=path)

    @pytest.mark.parametrize("name", ["a b", "50%h", "$HOME", "a;b", "ä"])
    def test_systemd_finds_a_program_at_an_odd_path(self, tmp_path: Path, name: str) -> None:
        odd = tmp_path / name / "p2pnodes"
        odd.parent.mkdir()
        odd.touch(mode=0o755)
        ended = systemd("verify", written(tmp_path, unit(str(odd), str(odd))))
        assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


class TestPlan:
    """What an installation writes and runs."""

    def test_the_system_s_service_has_its_files_and_its_user(self) -> None:
        found = plan(CHOICE)
        assert list(texts(found)) == [
            "/etc/p2pnodes/network.toml",
            "/etc/p2pnodes/p2pnodes.toml",
            "/etc/systemd/system/p2pnodes.service",
            "/etc/systemd/system/p2pnodes.service.d/hotkey.conf",
            "/etc/sysusers.d/p2pnodes.conf",
        ]
        assert texts(found)["/etc/systemd/system/p2pnodes.service"] == unit("/opt/p2pnodes/bin/p2pnodes")
        assert [words[0] for words in found.commands] == ["systemd-sysusers", "systemctl"]
        assert found.following == ["systemctl enable --now p2pnodes"]
        assert [file.path for file in found.files if file.keep] == [found.config]

    def test_a_unit_that_came_with_a_package_is_not_written_nor_is_its_user(self) -> None:
        found = plan(CHOICE._replace(packaged=True))
        assert list(texts(found)) == [
            "/etc/p2pnodes/network.toml",
            "/etc/p2pnodes/p2pnodes.toml",
            "/etc/systemd/system/p2pnodes.service.d/hotkey.conf",
        ]
        assert found.commands == [("systemctl", "daemon-reload")]

    def test_without_systemd_nothing_of_it_is_run_and_the_hotkey_is_named(self) -> None:
        found = plan(CHOICE._replace(systemd=False))
        assert found.commands == []
        assert found.following == (
            "/opt/p2pnodes/bin/p2pnodes run --config /etc/p2pnodes/p2pnodes.toml --hotkey-file /root/.bittensor/hotkey",
        )
        observer = plan(CHOICE._replace(systemd=False, hotkey=None))
        assert observer.following == ("/opt/p2pnodes/bin/p2pnodes run --config /etc/p2pnodes/p2pnodes.toml",)

    def test_no_port_is_opened_for_the_console_when_none_is_wanted(self) -> None:
        assert settings(plan(CHOICE))["admin"] == {"port": service.ADMIN_PORT}
        assert "admin" not in settings(plan(CHOICE._replace(admin_port=None)))

    def test_its_hotkey_is_a_credential_and_stays_where_it_is(self) -> None:
        found = plan(CHOICE)
        drop_in = texts(found)["/etc/systemd/system/p2pnodes.service.d/hotkey.conf"]
        assert "\nLoadCredential=hotkey:/root/.bittensor/hotkey\n" in drop_in
        assert settings(found) == {
            "data_dir": "/var/lib/p2pnodes",
            "network_file": "network.toml",
            "http": {"host": "127.0.0.1", "port": 8000, "url": "https://node.example.org"},
            "admin": {"port": 9464},
            "api": {"trusted_proxies": list(service.TRUSTED_PROXIES)},
        }

    def test_a_proxy_is_believed_only_where_nobody_else_reaches_the_daemon(self) -> None:
        text = texts(plan(CHOICE))["/etc/p2pnodes/p2pnodes.toml"]
        assert "\n# The reverse proxy on this machine says who a client is" in text
        assert "api" not in settings(plan(CHOICE._replace(host="::")))
        assert "api" not in settings(plan(CHOICE._replace(url=None)))

    def test_an_observer_needs_no_credential(self) -> None:
        found = plan(CHOICE._replace(hotkey=None, url=None, bootstrap=["https://a.example"]))
        assert settings(found) == {
            "data_dir": "/var/lib/p2pnodes",
            "role": "observer",
            "network_file": "network.toml",
            "http": {"host": "127.0.0.1", "port": 8000},
            "admin": {"port": 9464},
            "gossip": {"bootstrap": ["https://a.example"]},
        }
        assert not any(path.endswith("hotkey.conf") for path in texts(found))

    def test_a_user_s_own_lies_in_the_home_and_reads_the_key_itself(self) -> None:
        found = plan(CHOICE._replace(home=Path("/home/ann"), program=Path("/home/ann/.local/bin/p2pnodes")))
        assert all(path.startswith("/home/ann/.config/") for path in texts(found))
        assert settings(found)["hotkey_file"] == "/root/.bittensor/hotkey"
        assert settings(found)["data_dir"] == "/home/ann/.local/share/p2pnodes"
        assert found.commands == [("systemctl", "--user", "daemon-reload")]

    @pytest.mark.parametrize("name", ['a"b', "it's", "back\\slash", "line\nfeed"])
    def test_a_program_whose_path_systemd_takes_for_none_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="quotes, backslashes or control characters"):
            plan(CHOICE._replace(program=Path("/opt", name, "p2pnodes")))

    @pytest.mark.parametrize("place", service.HIDDEN)
    def test_a_program_that_the_sandbox_hides_is_refused(self, place: str) -> None:
        with pytest.raises(ConfigError, match=f"its sandbox hides {place}"):
            plan(CHOICE._replace(program=Path(place, "ann/bin/p2pnodes")))
