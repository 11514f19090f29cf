"""Settings: where a value comes from, and what is said when one is wrong."""

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import tomli_w
from pydantic import BaseModel

from p2pnodes.chain.file import read_electorate
from p2pnodes.config import (
    CHAIN_AGE_S_DEFAULT,
    CHAIN_URLS_MAX,
    FILE_BYTES_MAX,
    InvalidSettingsError,
    Settings,
    effective_settings,
    is_network_file,
    load_network_file,
    load_settings,
    setting_keys,
)
from p2pnodes.gossip.view import VIEW_SIZE, VIEW_SIZE_MAX, VIEW_SIZE_MIN
from p2pnodes.model.addresses import CHAIN_URL_CHARS_MAX, has_credentials, without_credentials
from p2pnodes.model.keys import DEV_PHRASE
from p2pnodes.model.network import Network

CONFIGS = Path(__file__).parent.parent / "configs"
MINIMAL: dict[str, Any] = {
    "data_dir": "data",
    "network": {"genesis_hash": "0" * 64, "netuid": 64},
    "electorate": {"file": "electorate.toml"},
}
NETWORKS = {
    "finney": "2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03",
    "testnet": "8f9cf856bf558a14440e75569c9e58594757048d7b3a84b5d25f6bd978263105",
    "devnet": "0" * 64,
}
SECRETS = [DEV_PHRASE, "0x" + "ab" * 32, "AB" * 32, "ab" * 64]
Load = Callable[..., Settings]


def paths_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Keys of all settings that are paths."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += paths_of(field.annotation, f"{prefix}{name}.")
        elif "pathlib" in str(field.annotation):
            found.append(prefix + name)
    return found


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment says nothing."""
    for name in list(os.environ):
        if name.upper().startswith("P2PNODES_") or name == "CREDENTIALS_DIRECTORY":
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


class TestHotkey:
    """The hotkey is a file, named by itself, by its wallet, or by systemd; the highest source that names one counts."""

    def test_a_wallet_names_its_hotkeys_file(self, load: Load, tmp_path: Path) -> None:
        wallets = tmp_path / "wallets"
        assert load(wallet="w", wallet_path="wallets").hotkey_path == wallets / "w" / "hotkeys" / "default"
        assert load(wallet="w", hotkey="h", wallet_path=str(wallets)).hotkey_path == wallets / "w" / "hotkeys" / "h"

    def test_wallets_are_where_bittensor_keeps_them(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/operator")
        assert load(wallet="w").hotkey_path == Path("/home/operator/.bittensor/wallets/w/hotkeys/default")

    def test_a_user_without_a_home_needs_none(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it answers when nobody knows the user
        assert load(hotkey_file="hotkey").hotkey_path is not None

    def test_systemds_credential_is_taken_when_nothing_else_is_named(
        self, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        assert load().hotkey_path is None
        (tmp_path / "hotkey").touch()
        settings = load()
        assert settings.hotkey_path == tmp_path / "hotkey"
        shown = {setting.key: setting for setting in effective_settings(settings)}["hotkey_file"]
        assert (shown.value, shown.origin) == (str(tmp_path / "hotkey"), "systemd credential")
        assert load(hotkey_file="other").hotkey_path == tmp_path / "other"

    @pytest.mark.parametrize(
        ("variables", "options", "expected"),
        [
            ({}, {}, ("own/hotkeys/own", "file")),
            ({"WALLET": "w"}, {}, ("w/hotkeys/default", "environment")),
            ({"HOTKEY": "h"}, {}, ("own/hotkeys/h", "file")),
            ({"HOTKEY_FILE": "wallets/x"}, {}, ("x", "environment")),
            ({"HOTKEY_FILE": "x"}, {"wallet": "w"}, ("w/hotkeys/default", "command line")),
            ({"WALLET": "w", "HOTKEY": "h"}, {"hotkey": "o"}, ("w/hotkeys/o", "environment")),
            ({}, {"hotkey_file": "wallets/x"}, ("x", "command line")),
        ],
    )
    def test_the_highest_source_that_names_one_counts(
        self,
        file: Path,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        options: dict[str, str],
        expected: tuple[str, str],
    ) -> None:
        file.write_text(tomli_w.dumps({**MINIMAL, "wallet": "own", "hotkey": "own", "wallet_path": "wallets"}))
        for name, value in variables.items():
            monkeypatch.setenv(f"P2PNODES_{name}", value)
        path, origin = expected
        settings = load_settings(file, options)
        assert settings.hotkey_path == file.parent / "wallets" / path
        shown = {setting.key: setting for setting in effective_settings(settings)}["hotkey_file"]
        assert (shown.value, shown.origin) == (str(settings.hotkey_path), origin)

    def test_two_names_in_one_source_are_a_problem(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("P2PNODES_WALLET", "w")
        monkeypatch.setenv("P2PNODES_HOTKEY_FILE", "x")
        with pytest.raises(InvalidSettingsError, match="both wallet and hotkey_file are given"):
            load(hotkey_file="y")


class TestActiveView:
    """How many validators sessions are kept with."""

    @pytest.mark.parametrize("size", [VIEW_SIZE_MIN, VIEW_SIZE_MAX])
    def test_a_size_within_its_bounds_is_taken(self, load: Load, size: int) -> None:
        assert load().gossip.view_size == VIEW_SIZE
        assert load(gossip={"view_size": size}).gossip.view_size == size

    @pytest.mark.parametrize("size", [VIEW_SIZE_MIN - 1, VIEW_SIZE_MAX + 1])
    def test_one_beyond_them_is_a_problem(self, problems: Callable[..., list[str]], size: int) -> None:
        (problem,) = problems(gossip={"view_size": size})
        assert f"gossip.view_size: found {size}" in problem


class TestChain:
    """Where the electorate comes from, and how old it may be."""

    def test_one_from_the_chain_is_too_old_some_day_and_one_from_a_file_never(self, load: Load) -> None:
        assert load().electorate.max_age_s is None
        assert load(electorate={"urls": ["wss://h"]}).electorate.max_age_s == CHAIN_AGE_S_DEFAULT
        assert load(electorate={"urls": ["wss://h"], "max_age_s": 60}).electorate.max_age_s == 60
        assert load(electorate={"file": "e", "max_age_s": 60}).electorate.max_age_s == 60

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("wss://h", "wss://h"),
            ("wss://h:443/", "wss://h:443"),
            ("ws://[::1]:9944", "ws://[::1]:9944"),
            ("wss://user:geheim@h:443", "wss://***@h:443"),
            ("wss://geheim@h", "wss://***@h"),
            ("wss://h/geheim", "wss://h/***"),
            ("wss://h/?key=geheim", "wss://h/***"),
            ("wss://h?geheim", "wss://h/***"),
            ("wss://h/public-ws", "wss://h/public-ws"),
            ("wss://h/ws/", "wss://h/ws"),
            ("wss://h/public-ws/geheim", "wss://h/***"),
            ("wss://h/ws?geheim", "wss://h/***"),
        ],
    )
    def test_credentials_are_used_and_not_shown(self, load: Load, url: str, shown: str) -> None:
        settings = load(electorate={"urls": [url]})
        assert settings.electorate.urls == (url,)
        assert without_credentials(url) == shown
        assert has_credentials(url) is ("geheim" in url)
        assert "geheim" not in str(effective_settings(settings))

    @pytest.mark.parametrize("url", ["wss://user:geheim@h", "wss://h/?key=geheim", "wss://h/v3/geheim"])
    def test_credentials_in_the_environment_are_refused(
        self, problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.setenv("P2PNODES_ELECTORATE__URLS", f'["{url}"]')
        (problem,) = problems()
        assert problem == (
            "environment: electorate.urls: found a user name, path or query, which may be credentials, but others can "
            "see the environment; write these URLs in the file"
        )

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("ELECTORATE__URLS", "wss://h/geheim"),
            ("ELECTORATE__URLS", '["wss://h/geheim"'),
            ("ELECTORATE__URLS", '[["wss://h/geheim"]]'),
            ("ELECTORATE__URLS", '"wss://h/geheim"'),
            ("ELECTORATE__URLS__0", "wss://h/geheim"),
            ("ELECTORATE", "wss://h/geheim"),
            ("ELECTORATE", '["wss://h/geheim"]'),
            ("ELECTORATE", '{"urls": "wss://h/geheim"}'),
            ("ELECTORATE", '{"urls": ["wss://h/geheim"]'),
            ("HTTP__HOST", '{"urls": "wss://h/geheim"}'),
            ("GOSSIP__BOOTSTRAP", "wss://h/geheim"),
        ],
    )
    def test_whatever_the_environment_holds_in_their_place_is_refused_and_not_repeated(
        self, problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(f"P2PNODES_{variable}", value)
        found = problems(http={"port": "x"})
        assert any("environment" in problem for problem in found)
        assert "geheim" not in "".join(found)

    def test_a_public_path_may_stand_in_the_environment(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        url = "wss://bittensor-finney.api.onfinality.io/public-ws"
        monkeypatch.setenv("P2PNODES_ELECTORATE__URLS", f'["{url}"]')
        assert load().electorate.urls == (url,)

    @pytest.mark.parametrize(
        "url",
        [
            "http://u:geheim@h",
            "wss://u:geheim@",
            "wss://:geheim@h:x",
            "wss://u:geheim/x@h",
            "x?geheim",
            "geheim",
            "geheim:x",
            "http://h/geheim",
            "ws://[geheim",
        ],
    )
    def test_a_problem_shows_no_credentials(self, problems: Callable[..., list[str]], url: str) -> None:
        (problem,) = problems(electorate={"urls": [url]})
        assert "electorate.urls.0: found " in problem
        assert "geheim" not in problem

    @pytest.mark.parametrize(
        ("electorate", "line"),
        [
            ({"urls": "wss://h/v3/geheim"}, 'electorate.urls: found "wss://h/***", expected a list'),
            ({"urls": "geheim"}, "electorate.urls: found a text, expected a list"),
            ({"urls": {"a": "wss://h/geheim"}}, "electorate.urls: found a table, expected a list"),
            ({"urls": ["wss://h/geheim"] * 9}, "electorate.urls: found a list, expected it to have at most 8"),
            ({"urls": [["wss://h/geheim"]]}, "electorate.urls.0: found a list, expected a text"),
            ({"urls": [{"url": "wss://h/geheim"}]}, "electorate.urls.0: found a table, expected a text"),
            ({"urls": [7]}, "electorate.urls.0: found a number, expected a text"),
            ("wss://h/geheim", 'electorate: found "wss://h/***", expected a table'),
            (["wss://h/geheim"], "electorate: found a list, expected a table"),
            ({"file": "wss://h/geheim"}, "electorate.file: found a URL, expected a name or path"),
            ({"file": "e", "max_age_s": "wss://h/geheim"}, 'electorate.max_age_s: found "wss://h/***", expected'),
        ],
    )
    def test_a_problem_of_their_shape_shows_none_either(
        self, problems: Callable[..., list[str]], electorate: Any, line: str
    ) -> None:
        (problem,) = problems(electorate=electorate)
        assert line in problem
        assert "geheim" not in problem

    def test_a_higher_source_replaces_the_lower_ones_kind(
        self, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "network.toml").write_text(
            tomli_w.dumps({**MINIMAL["network"], "electorate": {"urls": ["ws://h"]}})
        )
        settings = load(network_file="network.toml")
        assert (settings.electorate.file, settings.electorate.urls) == (tmp_path / "electorate.toml", ())
        monkeypatch.setenv("P2PNODES_ELECTORATE__URLS", '["ws://i"]')
        settings = load(network_file="network.toml")
        assert (settings.electorate.file, settings.electorate.urls) == (None, ("ws://i",))


class TestSecrets:
    """No setting takes a secret, and none that was written by mistake is repeated."""

    @pytest.mark.parametrize("secret", SECRETS)
    @pytest.mark.parametrize("key", ["wallet", "hotkey", *paths_of(Settings)])
    def test_one_in_the_place_of_its_file_is_refused(
        self, problems: Callable[..., list[str]], key: str, secret: str
    ) -> None:
        table, _, name = key.rpartition(".")
        own = {"wallet": "w"} if key == "hotkey" else {}
        found = problems(**own, **({table: {name: secret}} if table else {name: secret}))
        assert [problem.rpartition(".toml: ")[2] for problem in found] == [
            f"{key}: found a secret, expected the name of the file that holds it"
        ]

    @pytest.mark.parametrize("secret", SECRETS)
    def test_one_in_the_place_of_the_network_file_is_not_looked_for(
        self, problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, secret: str
    ) -> None:
        monkeypatch.setenv("P2PNODES_NETWORK_FILE", secret)
        (problem,) = problems()
        assert problem.startswith("environment variable P2PNODES_NETWORK_FILE: network_file: found a secret")

    @pytest.mark.parametrize(
        ("options", "shown"),
        [
            ({"phrase_of_it": DEV_PHRASE, "x": DEV_PHRASE}, {"phrase_of_it": "***", "x": "***"}),
            ({"x": ["0x" + "ab" * 32, "plain"], "y": {"z": "AB" * 32}}, {"x": ["***", "plain"], "y": {"z": "***"}}),
            (
                {"api_key": "geheim", "Token": "geheim", "key": "geheim"},
                {"api_key": "***", "Token": "***", "key": "***"},
            ),
            ({"passwords": ["geheim"], "pw": 1234, "keys_max": 7}, {"passwords": ["***"], "pw": "***", "keys_max": 7}),
            (
                {"secret_mode": True, "secrets": {"x": {"y": "geheim"}}},
                {"secret_mode": True, "secrets": {"x": {"y": "***"}}},
            ),
            (
                {"url": "https://u:geheim@h/x", "chain": "wss://h/v3/geheim", "to": "https://h?k=geheim"},
                {"url": "https://***@h/x", "chain": "wss://h/***", "to": "https://h?***"},
            ),
        ],
    )
    def test_one_among_a_verifiers_options_is_handed_on_and_not_shown(
        self, load: Load, options: dict[str, Any], shown: dict[str, Any]
    ) -> None:
        settings = load(verify={"options": options})
        assert settings.verify.options == options
        assert {found.key: found.value for found in effective_settings(settings)}["verify.options"] == shown

    @pytest.mark.parametrize("secret", SECRETS)
    def test_one_in_the_environment_is_refused(
        self, problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, secret: str
    ) -> None:
        monkeypatch.setenv("P2PNODES_HOTKEY", secret)
        (problem,) = problems(wallet="w")
        assert problem == (
            "environment variable P2PNODES_HOTKEY: hotkey: found a secret, expected the name of the file that holds it"
        )

    @pytest.mark.parametrize("variable", ["P2PNODES_SEED", "P2PNODES_SECRET_PHRASE", "P2PNODES_HOTKEY_SEED"])
    def test_a_variable_for_one_does_not_exist(
        self, problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, DEV_PHRASE)
        (problem,) = problems()
        assert "unknown setting" in problem
        assert DEV_PHRASE not in problem

    def test_a_phrase_in_any_other_place_is_not_repeated(self, problems: Callable[..., list[str]]) -> None:
        (problem,) = problems(http={"port": DEV_PHRASE})
        assert "http.port: found a secret phrase, expected an integer" in problem


class TestNetworkFiles:
    """The parameters of a network, and defaults that go below each daemon's own file."""

    PARAMETERS: ClassVar[dict[str, Any]] = {"genesis_hash": "1" * 64, "netuid": 7}
    OWN: ClassVar[dict[str, Any]] = {"data_dir": "data", "network_file": "network.toml"}

    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[..., Path]:
        def write(**content: Any) -> Path:
            path = tmp_path / "network.toml"
            path.write_text(tomli_w.dumps({**self.PARAMETERS, **content}))
            return path

        return write

    def test_its_tables_are_defaults(self, write: Callable[..., Path], file: Path) -> None:
        write(
            electorate={"urls": ["wss://a", "wss://b"]},
            gossip={"bootstrap": ["https://p"], "allow_observers": True},
            api={"hotkey_rate": 2.0},
        )
        file.write_text(tomli_w.dumps({**self.OWN, "gossip": {"bootstrap": ["https://q"]}}))
        settings = load_settings(file)
        assert settings.electorate.urls == ("wss://a", "wss://b")
        assert (settings.gossip.bootstrap, settings.gossip.allow_observers) == (("https://q",), True)
        origins = {setting.key: setting.origin for setting in effective_settings(settings)}
        assert origins["electorate.urls"] == origins["network.netuid"] == "network file"
        assert origins["gossip.allow_observers"] == origins["api.hotkey_rate"] == "network file"
        assert origins["gossip.bootstrap"] == "file"
        assert origins["gossip.allow_private_addresses"] == "default"

    def test_what_is_below_the_parameters_is_not_hashed(self, write: Callable[..., Path]) -> None:
        alone = load_network_file(write())
        found = load_network_file(write(gossip={"bootstrap": ["https://p"]}))
        assert found.network.id == alone.network.id
        assert (alone.defaults, found.defaults) == ({}, {"gossip": {"bootstrap": ["https://p"]}})

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ({"data_dir": "/x"}, "data_dir: not in a network file, it is about one machine"),
            ({"hotkey_file": "/x"}, "hotkey_file: not in a network file, it is about one machine"),
            ({"wallet": "w"}, "wallet: not in a network file"),
            ({"http": {"port": 1}}, "[http]: not in a network file; expected a network's parameters, or [api], "),
            ({"admin": {"port": 1}}, "[admin]: not in a network file"),
            ({"electorate": {"file": "e"}}, "electorate.file: not in a network file"),
            ({"api": {"deny_file": "d"}}, "api.deny_file: not in a network file"),
            ({"api": {"upstream": "https://evil"}}, "api.upstream: not in a network file"),
            ({"verify": {"graval": {"url": "https://evil"}}}, "verify.graval: not in a network file"),
            (
                {"electorate": {"urls": ["wss://u:geheim@h"]}},
                "electorate.urls: found a user name, path or query, which may be credentials, but a network file is",
            ),
            ({"electorate": {"urls": ["wss://h/geheim"]}}, "electorate.urls: found a user name, path or query"),
            ({"electorate": {"urls": "wss://h/geheim"}}, "electorate.urls: found a user name, path or query"),
            ({"quorum": 2}, "quorum: found 2, expected at most"),
            (
                {"horizon_s": 86_399},
                "horizon_s: found 86399, expected at least verdict_ttl_s, 86,400: else checkpoints",
            ),
            ({"verdict_ttl_s": 700_000}, "horizon_s: found 604800, expected at least verdict_ttl_s, 700,000: else "),
            ({"quorom": 0.5}, "quorom: unknown setting; did you mean quorum?"),
            ({"gossip": {"bootstrap": ["x"]}}, 'gossip.bootstrap.0: found "x"'),
            ({"gossip": {"bootsrap": []}}, "gossip.bootsrap: unknown setting; did you mean gossip.bootstrap?"),
        ],
    )
    def test_what_does_not_belong_there_is_refused_and_the_file_is_named(
        self, write: Callable[..., Path], file: Path, content: dict[str, Any], problem: str
    ) -> None:
        path = write(**content)
        file.write_text(tomli_w.dumps({**self.OWN, "electorate": {"file": "e"}}))
        for load in (lambda: load_network_file(path), lambda: load_settings(file)):
            with pytest.raises(InvalidSettingsError) as caught:
                load()
            (found,) = caught.value.problems
            assert found.startswith(f"{path}: {problem}")
            assert "geheim" not in found

    def test_it_is_told_from_a_daemons_file_by_its_content(self) -> None:
        assert is_network_file(self.PARAMETERS)
        assert is_network_file({"quorum": 0.5})
        assert not is_network_file(MINIMAL)
        assert not is_network_file({**MINIMAL, "netuid": 64})
        assert not is_network_file({})


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
            (
                {"network": {**MINIMAL["network"], "horizon_s": 86_399}},
                "network.horizon_s: found 86399, expected at least verdict_ttl_s, 86,400: else checkpoints take ",
            ),
            (
                {"network": {**MINIMAL["network"], "verdict_ttl_s": 700_000}},
                "network.horizon_s: found 604800, expected at least verdict_ttl_s, 700,000: else ",
            ),
            ({"electorate": {}}, "[electorate]: neither urls nor file is given; expected one of them"),
            ({"electorate": {"urls": []}}, "[electorate]: neither urls nor file is given"),
            ({"electorate": {"file": "e", "urls": ["ws://h"]}}, "[electorate]: both urls and file are given"),
            ({"electorate": {"urls": ["http://h"]}}, 'electorate.urls.0: found "http://h", expected ws://HOST[:PORT]'),
            ({"electorate": {"urls": ["wss://"]}}, "electorate.urls.0: found "),
            ({"electorate": {"urls": ["wss://h:0"]}}, "expected ws://HOST[:PORT] or wss://HOST[:PORT]"),
            ({"electorate": {"urls": ["wss://h/#x"]}}, "expected no fragment"),
            ({"electorate": {"urls": ["wss://h/" + "x" * CHAIN_URL_CHARS_MAX]}}, "electorate.urls.0: found "),
            ({"electorate": {"urls": [f"wss://h{n}" for n in range(CHAIN_URLS_MAX + 1)]}}, "electorate.urls: found "),
            ({"electorate": {"file": "e", "max_age_s": 59}}, "electorate.max_age_s: found 59, expected at least 60"),
            ({"wallet": "w", "hotkey_file": "h"}, "both wallet and hotkey_file are given; expected one"),
            ({"hotkey": "h"}, "hotkey is given without wallet; expected both"),
            ({"admin": {"port": 8000}}, "http.port and admin.port are both 8000; expected two ports"),
            ({"wallet": "a/b"}, 'wallet: found "a/b", expected a name without slashes'),
            ({"wallet": ".."}, "wallet: found "),
            ({"wallet": "x" * 256}, "wallet: found "),
            ({"wallet": "w", "hotkey": ""}, 'hotkey: found "", expected a name'),
            ({"role": "miner"}, "role: found \"miner\", expected 'validator' or 'observer'"),
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

    def test_one_port_serves_both_where_miners_have_another_address(self, load: Load) -> None:
        admin, http = {"port": 9000}, {"port": 9000, "host": "192.0.2.1"}
        assert load(admin=admin, http=http).admin.port == 9000
        assert load(admin={"port": 0}, http={"port": 0}).admin.port == 0

    def test_all_problems_are_found_at_once(self, problems: Callable[..., list[str]]) -> None:
        found = problems(http={"prot": 1, "port": -1}, log={"level": 7}, delegation_days=1000)
        assert len(found) == 4

    def test_a_network_file_that_cannot_be_used_hides_no_other_problem(
        self, problems: Callable[..., list[str]], file: Path
    ) -> None:
        found = problems(network_file="absent.toml", http={"port": -1}, log={"level": "loud"}, colour="red")
        assert found[0] == f"{file.parent}/absent.toml: no such file; expected a TOML file"
        assert sorted(problem.split(": ")[1] for problem in found[1:]) == ["colour", "http.port", "log.level"]

    def test_one_hides_no_variable_either_where_the_network_is_known_without_it(
        self, problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("P2PNODES_COLOUR", "red")
        found = problems(network_file="absent.toml")
        assert [("P2PNODES_COLOUR" in problem, "absent.toml" in problem) for problem in found] == [
            (True, False), (False, True),
        ]  # fmt: skip

    def test_what_a_network_file_that_cannot_be_used_may_say_is_not_missed(
        self, problems: Callable[..., list[str]], file: Path
    ) -> None:
        assert problems('data_dir = "data"\nnetwork_file = "absent.toml"\n') == [
            f"{file.parent}/absent.toml: no such file; expected a TOML file"
        ]

    def test_what_is_missing_is_asked_for(self, problems: Callable[..., list[str]], file: Path) -> None:
        assert problems("") == [
            (
                f"{file}: data_dir: missing; expected directory of the database, the node key and the admin socket; "
                "made if absent"
            ),
            f"{file}: network: missing; expected a table [network] with genesis_hash and netuid, or network_file",
            f"{file}: electorate: missing; expected a table [electorate] with urls or file",
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

    def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
        self, file: Path, problems: Callable[..., list[str]]
    ) -> None:
        os.mkfifo(file.parent / "network.toml")
        (problem,) = problems(network_file="network.toml")
        assert problem == (f"{file.parent}/network.toml: cannot be read (not a regular file); expected a TOML file")
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(InvalidSettingsError, match="not a regular file"):
            load_settings(file)

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
        settings = load_settings(CONFIGS / "p2pnodes.toml")
        assert settings.electorate.file == CONFIGS / "electorate.toml"
        assert settings.hotkey_path == Path.home() / ".bittensor" / "wallets" / "default" / "hotkeys" / "default"

    def test_the_sample_names_every_setting(self, sample: Path) -> None:
        def keys(table: dict[str, Any], prefix: str = "") -> set[str]:
            found: set[str] = set()
            for name, value in table.items():
                found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name}
            return found

        assert keys(tomllib.loads(sample.read_text())) == set(setting_keys())

    def test_the_sample_shows_the_defaults(self, sample: Path, load: Load) -> None:
        # Of settings that exclude each other only one can be in effect.
        text = re.sub(r"^(hotkey_file|urls) = .*\n", "", sample.read_text(), flags=re.MULTILINE)
        sample.write_text(text.replace('network_file = "finney.toml"', 'network_file = "network.toml"'))
        shown = {setting.key: setting.value for setting in effective_settings(load_settings(sample))}
        for setting in effective_settings(load()):
            if setting.origin == "default" and setting.value not in (None, shown[setting.key]):
                assert setting.key in {"node_key_file", "admin.socket"}, setting.key  # depend on data_dir

    def test_the_sample_takes_a_network_file_instead_of_its_own_tables(self, tmp_path: Path) -> None:
        text = (CONFIGS / "p2pnodes.toml").read_text().replace("#network_file", "network_file")
        for table in ("network", "electorate"):
            text, found = re.subn(rf"^\[{table}\]\n(?:(?!^\[).*\n)*", "", text, flags=re.MULTILINE)
            assert found == 1
        (tmp_path / "p2pnodes.toml").write_text(text)
        (tmp_path / "finney.toml").write_text((CONFIGS / "finney.toml").read_text())
        settings = load_settings(tmp_path / "p2pnodes.toml")
        assert settings.network == load_network_file(CONFIGS / "finney.toml").network
        assert len(settings.electorate.urls) == 2

    @pytest.mark.parametrize("name", ["finney", "testnet", "devnet"])
    def test_the_network_files_are_good_and_say_every_parameter(self, name: str) -> None:
        path = CONFIGS / f"{name}.toml"
        found = tomllib.loads(path.read_text())
        assert is_network_file(found)
        assert Network.model_fields.keys() <= found.keys()
        assert load_network_file(path).network.model_dump() == {key: found[key] for key in Network.model_fields}

    def test_the_chains_are_told_apart_by_their_genesis(self) -> None:
        hashes = {name: load_network_file(CONFIGS / f"{name}.toml").network.genesis_hash for name in NETWORKS}
        assert hashes == NETWORKS

    def test_finney_is_read_from_two_operators(self) -> None:
        settings = load_network_file(CONFIGS / "finney.toml").defaults["electorate"]
        assert len({urlsplit(url).hostname.split(".", 1)[1] for url in settings["urls"]}) == 2

    def test_the_electorate_example_is_good(self) -> None:
        electorate = read_electorate(CONFIGS / "electorate.example.toml")
        assert electorate.block == 200
        assert len(electorate.stakes) == 2
        assert len(electorate.current.registered) == 3
        assert electorate.previous is not None
