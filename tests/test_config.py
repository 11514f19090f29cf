"""Settings: where a value comes from, and what is said when one is wrong."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2pnodes.chain.file import read_electorate
from p2pnodes.config import (
    FILE_BYTES_MAX,
    InvalidSettingsError,
    Settings,
    effective_settings,
    load_settings,
    setting_keys,
)

CONFIGS = Path(__file__).parent.parent / "configs"
MINIMAL: dict[str, Any] = {
    "data_dir": "data",
    "network": {"genesis_hash": "0" * 64, "netuid": 64},
    "electorate": {"file": "electorate.toml"},
}
Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment says nothing."""
    import os

    for name in list(os.environ):
        if name.upper().startswith("P2PNODES_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "p2pnodes.toml"


@pytest.fixture
def load(file: Path) -> Load:
    """Load the minimal settings with some changes."""

    def load(**changes: Any) -> Settings:
        file.write_text(tomli_w.dumps({**MINIMAL, **changes}))
        return load_settings(file)

    return load


@pytest.fixture
def problems(file: Path) -> Callable[..., list[str]]:
    """What is wrong with the minimal settings and some changes, or with a file of this text."""

    def problems(text: str | bytes | None = None, **changes: Any) -> list[str]:
        written = tomli_w.dumps({**MINIMAL, **changes}) if text is None else text
        file.write_bytes(written if isinstance(written, bytes) else written.encode())
        with pytest.raises(InvalidSettingsError) as caught:
            load_settings(file)
        assert str(caught.value).startswith(caught.value.problems[0])
        assert not any("\n" in problem for problem in caught.value.problems)
        return caught.value.problems

    return problems


class TestPrecedence:
    """Environment, file, network file, default: in this order."""

    def test_defaults_fill_what_is_not_said(self, load: Load, tmp_path: Path) -> None:
        settings = load()
        assert (settings.http.host, settings.http.port, settings.http.url) == ("127.0.0.1", 8000, None)
        assert settings.node_key_path == tmp_path / "data" / "node.key"
        assert settings.admin_socket_path == tmp_path / "data" / "admin.sock"
        assert settings.database_path == tmp_path / "data" / "p2pnodes.db"
        assert settings.hotkey_file is None

    def test_the_environment_goes_before_the_file(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("P2PNODES_HTTP__PORT", "8001")
        monkeypatch.setenv("P2PNODES_GOSSIP__BOOTSTRAP", '["http://a.example/"]')
        monkeypatch.setenv("P2PNODES_LOG__LEVEL", "")  # an empty variable is not set
        settings = load(http={"port": 9000, "host": "::"}, log={"level": "debug"})
        assert (settings.http.port, settings.http.host, settings.log.level) == (8001, "::", "debug")
        assert settings.gossip.bootstrap == ("http://a.example",)
        origins = {setting.key: setting.origin for setting in effective_settings(settings)}
        assert origins["http.port"] == "environment"
        assert origins["http.host"] == "file"
        assert origins["http.url"] == "default"
        assert origins["log.level"] == "file"

    def test_the_file_goes_before_the_network_file(self, load: Load, tmp_path: Path) -> None:
        shared = {"genesis_hash": "1" * 64, "netuid": 1, "quorum": 0.6, "min_share": 0.3}
        (tmp_path / "network.toml").write_text(tomli_w.dumps(shared))
        settings = load(network_file="network.toml", network={"quorum": 0.7})
        assert (settings.network.netuid, settings.network.quorum, settings.network.min_share) == (1, 0.7, 0.3)
        assert settings.origins["network.quorum"] == "file"
        assert settings.origins["network.min_share"] == "network file"

    def test_a_network_file_is_enough(self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "network.toml").write_text(tomli_w.dumps(MINIMAL["network"]))
        file.write_text(tomli_w.dumps({key: value for key, value in MINIMAL.items() if key != "network"}))
        monkeypatch.setenv("P2PNODES_NETWORK_FILE", "network.toml")
        assert load_settings(file).network.netuid == 64

    @pytest.mark.parametrize("variable", ["P2PNODES_NETWORK_FILE", "p2pnodes_network_file", "P2pnodes_Network_File"])
    def test_the_case_of_a_variable_does_not_matter(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        (tmp_path / "network.toml").write_text(tomli_w.dumps(MINIMAL["network"]))
        file.write_text(tomli_w.dumps({key: value for key, value in MINIMAL.items() if key != "network"}))
        monkeypatch.setenv(variable, "network.toml")
        settings = load_settings(file)
        assert (settings.network.netuid, settings.network_file) == (64, tmp_path / "network.toml")
        assert settings.origins["network_file"] == "environment"

    def test_paths_are_relative_to_the_file(self, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/operator")
        monkeypatch.chdir("/")
        settings = load(hotkey_file="~/hotkey", admin={"socket": "/run/admin.sock"}, node_key_file="keys/node.key")
        assert settings.data_dir == tmp_path / "data"
        assert settings.electorate.file == tmp_path / "electorate.toml"
        assert settings.hotkey_file == Path("/home/operator/hotkey")
        assert settings.admin_socket_path == Path("/run/admin.sock")
        assert settings.node_key_path == tmp_path / "keys" / "node.key"

    def test_every_setting_is_shown_with_its_meaning(self, load: Load) -> None:
        shown = effective_settings(load())
        assert [setting.key for setting in shown] == setting_keys()
        assert all(setting.description for setting in shown)


class TestProblems:
    """Each is one line with what was found, what was expected, and what may have been meant."""

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"http": {"prot": 1}}, "http.prot: unknown setting; did you mean http.port?"),
            ({"port": 8001}, "port: unknown setting; did you mean http.port?"),
            ({"htpp": {"port": 1}}, "htpp: unknown setting; did you mean http?"),
            ({"zzz": 1}, "zzz: unknown setting; known at the top: "),
            ({"log": {"qqqq": 1}}, "log.qqqq: unknown setting; known in [log]: log.format, log.level"),
            ({"http": {"port": "eight"}}, 'http.port: found "eight", expected an integer'),
            ({"http": {"port": 65536}}, "http.port: found 65536, expected at most 65,535"),
            ({"http": 7}, "http: found 7, expected a table [http]"),
            ({"delegation_days": 0}, "delegation_days: found 0, expected at least 1"),
            ({"data_dir": 7}, "data_dir: found 7, expected a path"),
            ({"log": {"level": "loud"}}, "log.level: found \"loud\", expected 'debug', 'info', 'warning' or 'error'"),
            ({"http": {"url": "node.example.org"}}, 'http.url: found "node.example.org", expected http://HOST'),
            ({"http": {"url": "http://u:p@h"}}, "expected no user name or password"),
            ({"http": {"url": "http://h?q"}}, "expected no query"),
            ({"http": {"url": "http://h:99999"}}, "expected http://HOST[:PORT]"),
            ({"http": {"url": "http://" + "h" * 300}}, "http.url: found "),
            ({"gossip": {"bootstrap": ["x"]}}, 'gossip.bootstrap.0: found "x", expected http://HOST[:PORT]'),
            ({"network": {"netuid": 64}}, "network.genesis_hash: missing; expected hash of the chain's block 0"),
            ({"network": {**MINIMAL["network"], "quorum": 1}}, "network.quorum: found 1, expected at most"),
            ({"network": {**MINIMAL["network"], "genesis_hash": "xyz"}}, 'network.genesis_hash: found "xyz"'),
            ({"electorate": {}}, "electorate.file: missing; expected TOML file that stands in for the chain"),
            (
                {"api": {"trusted_proxies": ["everybody"]}},
                'api.trusted_proxies.0: found "everybody", expected a network such as',
            ),
        ],
    )
    def test_a_bad_setting(
        self, problems: Callable[..., list[str]], file: Path, changes: dict[str, Any], line: str
    ) -> None:
        (problem,) = problems(**changes)
        assert problem.startswith(f"{file}: ")
        assert line.lower() in problem.lower()

    def test_all_problems_are_found_at_once(self, problems: Callable[..., list[str]]) -> None:
        found = problems(http={"prot": 1, "port": -1}, log={"level": 7}, delegation_days=1000)
        assert len(found) == 4

    def test_what_is_missing_is_asked_for(self, problems: Callable[..., list[str]], file: Path) -> None:
        assert problems("") == [
            (
                f"{file}: data_dir: missing; expected directory of the database, the node key and the admin socket; "
                "made if absent"
            ),
            f"{file}: network: missing; expected a table [network] with genesis_hash and netuid, or network_file",
            f"{file}: electorate: missing; expected a table [electorate] with file",
        ]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("data_dir = ", "not TOML"),
            ("x" * (FILE_BYTES_MAX + 1), "over 1048576 bytes"),
            (b"\xff", "not UTF-8 at byte 0"),
            ("a = " + "[" * 100_000, "not TOML"),
        ],
    )
    def test_a_file_that_is_no_toml(
        self, problems: Callable[..., list[str]], file: Path, content: str | bytes, reason: str
    ) -> None:
        (problem,) = problems(content)
        assert problem.startswith(f"{file}: {reason}")

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidSettingsError, match="no such file"):
            load_settings(tmp_path / "absent.toml")
        with pytest.raises(InvalidSettingsError, match="cannot be read"):
            load_settings(tmp_path)

    def test_a_bad_network_file_is_named(self, problems: Callable[..., list[str]], tmp_path: Path) -> None:
        network = tmp_path / "network.toml"
        network.write_text('genesis_hash = "00"\nnetuid = 64\nquorom = 0.5\n')
        found = problems(network_file="network.toml")
        assert found[0].startswith(f'{network}: genesis_hash: found "00"')
        assert found[1] == f"{network}: quorom: unknown setting; did you mean quorum?"

    @pytest.mark.parametrize(
        ("variable", "value", "line"),
        [
            ("P2PNODES_HTTP_PORT", "1", "unknown setting; did you mean P2PNODES_HTTP__PORT?"),
            ("P2PNODES_PROT", "1", "unknown setting; "),
            ("P2PNODES_XYZ", "1", "unknown setting; unset it"),
            ("P2PNODES_HTTP__PROT", "1", "http.prot: unknown setting; did you mean http.port?"),
            ("P2PNODES_HTTP__PORT", "eight", 'http.port: found "eight", expected an integer'),
            ("P2PNODES_GOSSIP__BOOTSTRAP", "http://a", 'found "http://a", expected JSON, such as ["a", "b"]'),
            ("p2pnodes_log__level", "loud", 'log.level: found "loud"'),
        ],
    )
    def test_a_bad_variable_is_named(
        self,
        problems: Callable[..., list[str]],
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        value: str,
        line: str,
    ) -> None:
        monkeypatch.setenv(variable, value)
        (problem,) = problems()
        assert problem.startswith(f"environment variable {variable}: ")
        assert line in problem

    def test_the_variable_that_names_the_file_is_no_setting(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("P2PNODES_CONFIG", "/elsewhere")
        assert load().http.port == 8000

    def test_a_long_value_is_shortened(self, problems: Callable[..., list[str]]) -> None:
        (problem,) = problems(http={"port": "9" * 5000 + "\n"})
        assert len(problem) < 400

    def test_the_first_problem_says_how_many_more_there_are(self, file: Path) -> None:
        file.write_text("")
        with pytest.raises(InvalidSettingsError, match=r"\(and 2 more: see `p2pnodes config check`\)"):
            load_settings(file)


class TestSamples:
    """The files in configs/ show every setting as it is."""

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        """The sample with every commented setting in effect."""
        text = re.sub(r"^#(?=\w+ = )", "", (CONFIGS / "p2pnodes.toml").read_text(), flags=re.MULTILINE)
        written = {"genesis_hash": "0" * 64, "netuid": 64}
        (tmp_path / "network.toml").write_text(tomli_w.dumps(written))
        path = tmp_path / "p2pnodes.toml"
        path.write_text(text)
        return path

    def test_the_sample_is_good_as_it_is(self) -> None:
        assert load_settings(CONFIGS / "p2pnodes.toml").electorate.file == CONFIGS / "electorate.toml"

    def test_the_sample_names_every_setting(self, sample: Path) -> None:
        def keys(table: dict[str, Any], prefix: str = "") -> set[str]:
            found: set[str] = set()
            for name, value in table.items():
                found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name}
            return found

        assert keys(tomllib.loads(sample.read_text())) == set(setting_keys())

    def test_the_sample_shows_the_defaults(self, sample: Path, load: Load) -> None:
        shown = {setting.key: setting.value for setting in effective_settings(load_settings(sample))}
        for setting in effective_settings(load()):
            if setting.origin == "default" and setting.value not in (None, shown[setting.key]):
                assert setting.key in {"node_key_file", "admin.socket"}, setting.key  # depend on data_dir

    def test_the_electorate_example_is_good(self) -> None:
        electorate = read_electorate(CONFIGS / "electorate.example.toml")
        assert electorate.block == 200
        assert len(electorate.stakes) == 2
        assert len(electorate.current.registered) == 3
        assert electorate.previous is not None
