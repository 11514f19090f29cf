"""Settings of the daemon: one TOML file, overridden by the environment, checked as a whole before anything starts.

Precedence, highest first: options of the command line, environment variables (``P2PNODES_HTTP__PORT=8001`` is ``port``
of ``[http]``), the file given with ``--config``, the network file that it names, the defaults below. A key that nobody
knows is an error, in the file and in the environment alike: a mistyped setting that is silently ignored is found in the
worst moment. Of settings that exclude each other (``hotkey_file`` and ``wallet``, the electorate's ``file`` and
``urls``) the one of the higher source counts, and the other is an error only where one source gives both.

Settings hold no secrets but the credentials that URLs of chain endpoints may carry, and what verifiers of other
packages take; those are never shown, and those of the chain are refused in the environment, which other processes can
read.

Paths are relative to the directory of the configuration file; ``~`` is the home directory.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from p2pnodes.api.settings import ApiSettings
from p2pnodes.chain.regular import read_regular
from p2pnodes.chain.wallet import CREDENTIALS_VARIABLE, HOTKEY_DEFAULT, WALLETS, require_name, wallet_hotkey_path
from p2pnodes.gossip.view import VIEW_SIZE, VIEW_SIZE_MAX, VIEW_SIZE_MIN
from p2pnodes.model.addresses import BaseUrl, ChainUrl, has_credentials, without_credentials
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.network import Network
from p2pnodes.model.problems import (
    SettingPath,
    found_and_expected,
    lower_first,
    masked,
    no_secret,
    shown,
    suggestion,
    type_shown,
)
from p2pnodes.verify.settings import VerifySettings

ENV_PREFIX: Final = "P2PNODES_"
ENV_DELIMITER: Final = "__"
CONFIG_VARIABLE: Final = "P2PNODES_CONFIG"
"""Names the configuration file where ``--config`` is not given; the one variable that is no setting."""

FILE_BYTES_MAX: Final = 1 << 20
BOOTSTRAP_URLS_MAX: Final = 64
CHAIN_URLS_MAX: Final = 8
CHAIN_AGE_S_DEFAULT: Final = 7_200
"""Age at which an electorate from the chain is too old by default: six epochs of 100 blocks."""

SHIPPED_NETWORKS: Final = ("finney", "testnet")
"""Networks whose files come with this program."""

RELOADABLE: Final = frozenset({"electorate.max_age_s", "gossip.bootstrap", "log.format", "log.level"})
"""Settings that a running daemon follows when it is told to read them again (SIGHUP)."""

HOTKEY_CREDENTIAL: Final = "hotkey"
"""Name of the credential that holds the hotkey, ``LoadCredential=hotkey:/path``."""

_NETWORK_DESCRIPTIONS: Final = {
    "genesis_hash": "Hash of the chain's block 0: 32 bytes, 64 lower-case hex digits; zeros for a devnet.",
    "netuid": "Subnet on that chain.",
    "quorum": "Share of the weighed stake above which a claim is verified.",
    "min_share": "Share of all enrolled stake that a verified claim needs at least.",
    "verdict_ttl_s": "Seconds of the electorate's time after which a verdict lapses.",
    "epoch_blocks": "The electorate is pinned to multiples of this many blocks.",
    "horizon_s": "Seconds of the electorate's time behind which checkpoints replace the log; at least verdict_ttl_s.",
}
"""The pure model documents its parameters for programmers; these lines are for operators."""

_ALTERNATIVES_ERROR: Final = "alternatives"
"""Type of our own pydantic errors about a table as a whole: the input is not shown."""

_HOSTS_WITH_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "0.0.0.0", "::"})  # noqa: S104 - nothing is bound here
"""Where ``http.host`` is one of these, its port is taken at 127.0.0.1, too."""

_CHAIN_URLS: Final = re.compile(r"electorate(\.urls(\..*)?)?")
"""Keys with URLs of chain endpoints in their values."""

_Model = TypeVar("_Model", bound=BaseModel)
Origin = Literal["default", "network file", "file", "environment", "command line", "systemd credential"]


WalletName = Annotated[str, AfterValidator(no_secret), AfterValidator(require_name)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Table(BaseModel):
    """What all tables of the file have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(_Table):
    """``[http]``: where miners and peers reach this daemon."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on for miners and peers; :: for every interface, 0.0.0.0 for IPv4 alone.",
    )
    port: Port = Field(8000, description="TCP port to listen on; 0 takes a free one.")
    url: BaseUrl | None = Field(
        None,
        description="Public base URL that this daemon announces to its peers, such as https://node.example.org. "
        "Unset: it only dials out, as behind NAT.",
    )


class AdminSettings(_Table):
    """``[admin]``: where the operator's commands and metrics scrapers reach this daemon. Read-only, never public."""

    socket: SettingPath | None = Field(
        None, description="Unix socket of the operator's interface, mode 0660. Unset: admin.sock in data_dir."
    )
    port: Port | None = Field(
        None, description="Also serve the operator's interface on this loopback TCP port; unset: the socket alone."
    )


class GossipSettings(_Table):
    """``[gossip]``: how this daemon finds its peers."""

    bootstrap: tuple[BaseUrl, ...] = Field(
        (),
        max_length=BOOTSTRAP_URLS_MAX,
        description="Base URLs to dial until the network's own delegations are known. In the environment a JSON list.",
    )
    allow_private_addresses: bool = Field(
        False, description="Also dial private, loopback and link-local addresses; for devnets only."
    )
    allow_observers: bool = Field(
        False, description="Let daemons whose hotkey holds no permit open sessions: they read, and cannot write."
    )
    view_size: int = Field(
        VIEW_SIZE,
        ge=VIEW_SIZE_MIN,
        le=VIEW_SIZE_MAX,
        description="Validators with which sessions are kept, of a network that has more: two neighbours in the order "
        "of node keys, about a third of the rest drawn at random, and those that drew this daemon. More sessions cost "
        "more announcements, and let events survive the loss of more peers at once.",
    )
    trusted_checkpoint: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Id of a checkpoint that is believed though its signers hold no quorum of the stake of today, as "
        "other operators' `p2pnodes status` shows it; for who is told checkpoint-distrusted and has asked them.",
    )


class ElectorateSettings(_Table):
    """``[electorate]``: where stakes, permits and registrations come from; exactly one of ``file`` and ``urls``."""

    urls: tuple[ChainUrl, ...] = Field(
        (),
        max_length=CHAIN_URLS_MAX,
        description="Endpoints of the chain, such as wss://entrypoint-finney.opentensor.ai:443; with two or more, "
        "each block is compared between two of them. Credentials in them are never shown. In the environment a JSON "
        "list.",
    )
    file: SettingPath | None = Field(
        None,
        description="TOML file that stands in for the chain: block, time, validators and registered hotkeys; "
        "read again when it changes.",
    )
    max_age_s: int | None = Field(
        None,
        ge=60,
        le=31_536_000,
        description="Seconds after which an electorate is too old to be ready with. "
        f"Unset: {CHAIN_AGE_S_DEFAULT:,} with urls, no limit with file.",
    )

    @model_validator(mode="before")
    @classmethod
    def _age_by_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("urls") and values.get("max_age_s") is None:
            return {**values, "max_age_s": CHAIN_AGE_S_DEFAULT}
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file is None and not self.urls:
            raise PydanticCustomError(_ALTERNATIVES_ERROR, "neither urls nor file is given; expected one of them")
        if self.file is not None and self.urls:
            raise PydanticCustomError(_ALTERNATIVES_ERROR, "both urls and file are given; expected one of them")
        return self


class LogSettings(_Table):
    """``[log]``: what the daemon writes to stderr."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="json: one object a line; console: for people; auto: console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is written.")


class Settings(BaseSettings):
    """Every setting of a daemon. Load it with ``load_settings``; all paths in it are absolute.

    Attributes:
        config_file: The file that it was read from.
        origins: Dotted key -> where its value comes from; a key that is absent has its default.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,  # `FOO=` in a unit file means "not set"
        hide_input_in_errors=True,  # chained errors reach tracebacks, and the input may hold credentials
    )

    data_dir: SettingPath = Field(
        description="Directory of the database, the node key and the admin socket; made if absent."
    )
    role: Literal["validator", "observer"] = Field(
        "validator",
        description="validator: takes writes and votes; observer: replicates and serves reads, needs no hotkey.",
    )
    wallet: WalletName | None = Field(None, description="Bittensor wallet that holds the hotkey; excludes hotkey_file.")
    hotkey: WalletName = Field(HOTKEY_DEFAULT, description="Name of the hotkey in that wallet.")
    wallet_path: SettingPath = Field(WALLETS, description="Directory of the wallets, as btcli knows it.")
    hotkey_file: SettingPath | None = Field(
        None,
        description="Hotkey of the validator, a Bittensor hotkey file, mode 0600; excludes wallet. Unset, and no "
        f"wallet: the systemd credential {HOTKEY_CREDENTIAL}, if the unit loads one; else there is no hotkey here.",
    )
    delegation_file: SettingPath | None = Field(
        None,
        description="Delegation that was signed elsewhere (`p2pnodes keys request` and `keys delegate`); needs no "
        "hotkey here; read again when it changes.",
    )
    node_key_file: SettingPath | None = Field(
        None, description="Key that signs events and sessions, mode 0600. Unset: node.key in data_dir, made if absent."
    )
    network_file: SettingPath | None = Field(
        None,
        description="TOML file with the keys of [network] at its top, the same for all peers, and defaults for tables "
        "of this file; this file goes before it.",
    )
    delegation_days: int = Field(
        30,
        ge=1,
        le=366,
        description="Days for which the hotkey delegates to the node key; renewed when half is over. With less than "
        "two horizons of the network this validator weighs in few checkpoints, or in none.",
    )
    network: Network = Field(description="Parameters that make the network; peers with others are refused.")
    http: HttpSettings = Field(default_factory=HttpSettings, description="Where miners and peers reach this daemon.")
    api: ApiSettings = Field(default_factory=ApiSettings, description="Limits of the public HTTP interface.")
    admin: AdminSettings = Field(default_factory=AdminSettings, description="The operator's interface.")
    gossip: GossipSettings = Field(default_factory=GossipSettings, description="How this daemon finds its peers.")
    electorate: ElectorateSettings = Field(description="Where stakes, permits and registrations come from.")
    verify: VerifySettings = Field(default_factory=VerifySettings, description="How miners' GPUs are checked.")
    log: LogSettings = Field(default_factory=LogSettings, description="What the daemon writes to stderr.")

    _config_file: Path = PrivateAttr(default=Path())
    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: ``load_settings`` merges all sources itself, to know where each value comes from."""
        return (init_settings,)

    @model_validator(mode="after")
    def _one_hotkey(self) -> Self:
        if self.wallet is not None and self.hotkey_file is not None:
            raise PydanticCustomError(_ALTERNATIVES_ERROR, "both wallet and hotkey_file are given; expected one")
        if self.wallet is None and "hotkey" in self.model_fields_set:
            raise PydanticCustomError(_ALTERNATIVES_ERROR, "hotkey is given without wallet; expected both")
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.admin.port and self.admin.port == self.http.port and self.http.host in _HOSTS_WITH_LOOPBACK:
            raise PydanticCustomError(
                _ALTERNATIVES_ERROR, f"http.port and admin.port are both {self.http.port}; expected two ports"
            )
        return self

    @property
    def config_file(self) -> Path:
        """The file that these settings were read from."""
        return self._config_file

    @property
    def origins(self) -> Mapping[str, Origin]:
        """Where the values that are not defaults come from."""
        return self._origins

    @property
    def hotkey_path(self) -> Path | None:
        """File of the hotkey: ``hotkey_file``, that of the wallet, or systemd's credential; None without any."""
        if self.hotkey_file is not None:
            return self.hotkey_file
        if self.wallet is not None:
            return wallet_hotkey_path(self.wallet_path, self.wallet, self.hotkey)
        return _credential(HOTKEY_CREDENTIAL)

    @property
    def node_key_path(self) -> Path:
        """File of the node key."""
        return self.node_key_file or self.data_dir / "node.key"

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "p2pnodes.db"

    @property
    def admin_socket_path(self) -> Path:
        """The operator's Unix socket."""
        return self.admin.socket or self.data_dir / "admin.sock"


class InvalidSettingsError(ConfigError):
    """Settings that cannot be used; the message is the first problem and says how many more there are.

    Attributes:
        problems: One line for each problem, at least one.
    """

    code = Code.CONFIG_VALUE

    def __init__(self, problems: list[str], *, code: Code = Code.CONFIG_VALUE) -> None:
        more = f" (and {len(problems) - 1} more: see `p2pnodes config check`)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more, code=code)
        self.problems = problems


class Setting(NamedTuple):
    """One effective setting, as ``config show`` prints it: dotted key, JSON-able value, origin, description."""

    key: str
    value: Any
    origin: Origin
    description: str


def load_settings(path: Path, options: Mapping[str, Any] | None = None, *, with_environment: bool = True) -> Settings:
    """Read a configuration file and the environment.

    Args:
        path: TOML, at most 1 MiB.
        options: Settings from the command line, by their names at the top; they go before everything else.
        with_environment: Whether this process's variables count; not where another one is to use the file.

    Returns:
        Settings with absolute paths.

    Raises:
        InvalidSettingsError: Unreadable, not TOML, or with keys or values that cannot be used; lists every problem.
    """
    path = path.expanduser().absolute()
    given = _Layer("command line", "command line", dict(options or {}))
    own = _Layer("file", str(path), read_toml(path))
    environment, problems = _environment() if with_environment else (_Layer("environment", "environment", {}), [])

    layers = [given, environment, own]
    unusable: InvalidSettingsError | None = None
    named = environment.data.get("network_file", own.data.get("network_file"))
    if isinstance(named, str) and _is_path(named):
        try:
            layers.append(_network_layer(path.parent / Path(os.path.expanduser(named))))  # noqa: PTH111 - never raises
        except InvalidSettingsError as error:
            unusable = error
            problems += error.problems
    layers = _without_overruled(layers)
    data: dict[str, Any] = {}
    for layer in reversed(layers):
        data = _merged(data, layer.data)
    try:
        settings = Settings(**data)
    except ValidationError as error:
        problems += [
            _settings_problem(details, layers, str(path))
            for details in error.errors()
            if unusable is None or details["type"] != "missing"  # the network file may say what is missing
        ]
    if unusable is not None and problems == unusable.problems:
        raise unusable
    if problems:
        raise InvalidSettingsError(problems)

    settings = _with_absolute_paths(settings, path.parent)
    settings._config_file = path  # noqa: SLF001 - the loader is the other half of the class
    settings._origins = _origins(layers)  # noqa: SLF001
    return settings


class NetworkFile(NamedTuple):
    """A network file: what makes the network, and what is only handed out with it.

    Attributes:
        network: The parameters at its top, all of them hashed into the network id.
        defaults: The tables below them, defaults for the daemons' own files; not hashed.
    """

    network: Network
    defaults: dict[str, Any]


def load_network_file(path: Path) -> NetworkFile:
    """Read a network file, and check it as a daemon's configuration that names it would.

    Raises:
        InvalidSettingsError: Unreadable, not TOML, or with keys or values that cannot be used; lists every problem.
    """
    path = path.expanduser().absolute()
    layer = _network_layer(path)
    rest = {"data_dir": ".", "electorate": {"file": "electorate.toml"}}
    layers = _without_overruled([layer, _Layer("default", "", rest)])
    try:
        Settings(**_merged(layers[1].data, layer.data))
    except ValidationError as error:
        problems = [_settings_problem(details, layers, str(path)) for details in error.errors()]
        raise InvalidSettingsError(problems) from None
    return NetworkFile(Network(**layer.data["network"]), {k: v for k, v in layer.data.items() if k != "network"})


def shipped_network(name: str) -> Path | None:
    """The network file that comes with this program under a name, such as ``finney``; None when there is none.

    An installed package has a copy of those in ``configs``; a checkout has these.
    """
    package = Path(__file__).parent
    if name not in SHIPPED_NETWORKS:
        return None
    places = (package / "networks" / f"{name}.toml", package.parent / "configs" / f"{name}.toml")
    return next((place for place in places if place.is_file()), None)


def is_network_file(data: Mapping[str, Any]) -> bool:
    """Whether the content of a TOML file is a network file rather than a daemon's configuration."""
    return "data_dir" not in data and not data.keys().isdisjoint(Network.model_fields)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most 1 MiB.

    Raises:
        InvalidSettingsError: Absent, no regular file, unreadable, too large or not TOML.
    """
    try:
        content = read_regular(path, FILE_BYTES_MAX)
        if len(content) > FILE_BYTES_MAX:
            raise InvalidSettingsError(
                [f"{path}: over {FILE_BYTES_MAX} bytes; expected a TOML file"], code=Code.CONFIG_FILE
            )
        return tomllib.loads(content.decode())
    except FileNotFoundError as error:
        raise InvalidSettingsError([f"{path}: no such file; expected a TOML file"], code=Code.CONFIG_FILE) from error
    except OSError as error:
        raise InvalidSettingsError(
            [f"{path}: cannot be read ({error.strerror}); expected a TOML file"], code=Code.CONFIG_FILE
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidSettingsError(
            [f"{path}: not UTF-8 at byte {error.start}; expected a TOML file"], code=Code.CONFIG_FILE
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSettingsError([f"{path}: not TOML: {error}"], code=Code.CONFIG_FILE) from error


class Reloaded(NamedTuple):
    """What a running daemon makes of a configuration that was read again.

    Attributes:
        settings: In force from now on.
        changed: Keys of those in RELOADABLE that changed, in the order of the file.
        fixed: Keys of the others that changed: they are followed after a restart.
    """

    settings: Settings
    changed: list[str]
    fixed: list[str]


def reloaded(settings: Settings, later: Settings) -> Reloaded:
    """Follow a configuration that was read again, as far as a running daemon can.

    Args:
        settings: In force until now.
        later: As the files and the environment are now.
    """
    before, now = settings.model_dump(), later.model_dump()
    differing = [key for key in setting_keys() if _value_at(before, key) != _value_at(now, key)]
    changed = [key for key in differing if key in RELOADABLE]
    tables: dict[str, BaseModel] = {}
    for key in changed:
        table, name = key.split(".")
        value = getattr(getattr(later, table), name)
        tables[table] = tables.get(table, getattr(settings, table)).model_copy(update={name: value})
    return Reloaded(settings.model_copy(update=tables), changed, [key for key in differing if key not in RELOADABLE])


def effective_settings(settings: Settings) -> list[Setting]:
    """Every setting with its effective value, in the order of the file, and without credentials."""
    values = settings.model_dump(mode="json")
    origins = dict(settings.origins)
    values["node_key_file"] = str(settings.node_key_path)
    values["admin"]["socket"] = str(settings.admin_socket_path)
    values["electorate"]["urls"] = [without_credentials(url) for url in settings.electorate.urls]
    values["verify"]["options"] = masked(values["verify"]["options"])
    if settings.hotkey_path is not None:
        values["hotkey_file"] = str(settings.hotkey_path)
        origins.setdefault("hotkey_file", origins.get("wallet", "systemd credential"))
    return [
        Setting(key, _value_at(values, key), origins.get(key, "default"), _description(key, field))
        for key, field in _leaves(Settings.model_fields)
    ]


def setting_keys() -> list[str]:
    """Dotted keys of all settings, in the order of the file."""
    return [key for key, _ in _leaves(Settings.model_fields)]


def _leaves(fields: Mapping[str, FieldInfo], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in fields.items():
        table = _table_of(field)
        if table is None:
            yield prefix + name, field
        else:
            yield from _leaves(table.model_fields, f"{prefix}{name}.")


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


class _Layer(NamedTuple):
    """What one source of settings says.

    Attributes:
        origin: As ``config show`` names it.
        source: As problems name it.
        data: Settings by name, tables as dicts.
    """

    origin: Origin
    source: str
    data: dict[str, Any]


_OVERRULING: Final = (
    ((), frozenset({"hotkey_file", "wallet"}), frozenset({"hotkey_file", "wallet", "hotkey"})),
    (("electorate",), frozenset({"file", "urls"}), frozenset({"file", "urls"})),
)
"""Table, keys that exclude each other, and what a layer below one that has any of them loses."""

_NETWORK_TABLES: Final = frozenset({"api", "electorate", "gossip", "verify"})
"""Tables that a network file may hold; the others are about one machine."""

_OWN_KEYS: Final = frozenset(
    {"api.deny_file", "api.trusted_proxies", "api.upstream", "electorate.file", "verify.graval"}
)
"""Keys of these tables that are about one machine all the same."""


def _network_layer(path: Path) -> _Layer:
    """The defaults that a network file gives: its parameters as ``network``, its tables as they are.

    Raises:
        InvalidSettingsError: Unreadable, or with parameters or keys that cannot be used.
    """
    content = read_toml(path)
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    parameters = {name: value for name, value in content.items() if name not in tables}
    problems: list[str] = []
    for name, value in tables.items():
        if name not in _NETWORK_TABLES:
            allowed = ", ".join(f"[{table}]" for table in sorted(_NETWORK_TABLES))
            problems.append(f"{path}: [{name}]: not in a network file; expected a network's parameters, or {allowed}")
        problems += [
            f"{path}: {key}: not in a network file, it is about one machine; write it in the daemon's own file"
            for key in sorted(_OWN_KEYS & {f"{name}.{entry}" for entry in value})
        ]
    if _chain_credentials(tables):
        problems.append(
            f"{path}: electorate.urls: {_CREDENTIALS_FOUND} a network file is handed out; "
            "write these URLs in the daemon's own file"
        )
    for name in sorted(parameters.keys() & (Settings.model_fields.keys() - Network.model_fields.keys())):
        del parameters[name]
        problems.append(
            f"{path}: {name}: not in a network file, it is about one machine; write it in the daemon's own file"
        )
    try:
        Network(**parameters)
    except ValidationError as error:
        problems = [_problem(details, Network.model_fields, str(path)) for details in error.errors()] + problems
    if problems:
        raise InvalidSettingsError(problems)
    return _Layer("network file", str(path), {"network": parameters, **tables})


def _without_overruled(layers: list[_Layer]) -> list[_Layer]:
    """The layers, highest first, without what a higher one excludes."""
    data = [layer.data for layer in layers]
    for path, excluding, lost in _OVERRULING:
        overruled = False
        for number, found in enumerate(data):
            table = found.get(path[0]) if path else found
            if not isinstance(table, dict):
                continue
            kept = {name: value for name, value in table.items() if name not in lost} if overruled else table
            data[number] = {**found, path[0]: kept} if path else kept
            overruled = overruled or any(table.get(name) for name in excluding)
    return [layer._replace(data=found) for layer, found in zip(layers, data, strict=True)]


def _merged(lower: dict[str, Any], higher: dict[str, Any]) -> dict[str, Any]:
    """Both, tables key by key; what is in both is the higher one's."""
    merged = dict(lower)
    for name, value in higher.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _origins(layers: list[_Layer]) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for key in setting_keys():
        if (layer := _layer_with(layers, key.split("."))) is not None:
            origins[key] = layer.origin
    return origins


def _layer_with(layers: list[_Layer], parts: list[str]) -> _Layer | None:
    """The highest layer that has a setting."""
    return next((layer for layer in layers if _holds(layer.data, parts)), None)


def _credential(name: str) -> Path | None:
    """File of a systemd credential; None when the unit has none of this name."""
    directory = os.environ.get(CREDENTIALS_VARIABLE)
    path = Path(directory) / name if directory else None
    return path if path is not None and path.exists() else None


def _holds(data: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True


def _with_absolute_paths(model: _Model, base: Path) -> _Model:
    """Copy of a model whose paths, at any depth, are absolute."""
    update: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            # Unlike Path.expanduser this does not raise for a user without a home, as systemd makes them.
            update[name] = Path(os.path.normpath(base / os.path.expanduser(value)))  # noqa: PTH111
        elif isinstance(value, BaseModel):
            update[name] = _with_absolute_paths(value, base)
    return model.model_copy(update=update)


def _settings_problem(details: ErrorDetails, layers: list[_Layer], path: str) -> str:
    """One line for one error of pydantic's, naming the file or the variable that it comes from."""
    parts = [str(part) for part in details["loc"]]
    variables = _variables()
    for depth in range(len(parts), 0, -1):
        layer = _layer_with(layers, parts[:depth])
        if layer is None or (details["type"] == "missing" and depth < len(parts)):
            continue
        source = layer.source
        if layer.origin == "environment":
            names = (variables.get((ENV_PREFIX + ENV_DELIMITER.join(parts[:d])).lower()) for d in range(depth, 0, -1))
            source = next((f"environment variable {name}" for name in names if name), source)
        return _problem(details, Settings.model_fields, source)
    return _problem(details, Settings.model_fields, path)


def _problem(details: ErrorDetails, fields: Mapping[str, FieldInfo], source: str) -> str:
    key = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            tables = [name for name, field in fields.items() if _table_of(field)]
            return f"{source}: {key}: unknown setting; {suggestion(key, [*tables, *(k for k, _ in _leaves(fields))])}"
        case "missing":
            return f"{source}: {key}: missing; expected {_wanted(key, fields)}"
        case "alternatives":
            return f"{source}: {f'[{key}]: ' if key else ''}{details['msg']}"
        case "secret":
            return f"{source}: {key}: {details['msg']}"
        case _ if _CHAIN_URLS.fullmatch(key) is not None:
            return f"{source}: {key}: {found_and_expected(details, key, _chain_shown(details['input']))}"
        case _:
            return f"{source}: {key}: {found_and_expected(details, key)}"


def _chain_shown(value: Any) -> str:
    """What is in the place of a chain endpoint, or of several, as far as it may be shown."""
    url = without_credentials(value) if isinstance(value, str) else ""
    return shown(url) if "://" in url else type_shown(value)


def _wanted(key: str, fields: Mapping[str, FieldInfo]) -> str:
    """What to write for a setting or table that has no default."""
    if key == "network":
        return "a table [network] with genesis_hash and netuid, or network_file"
    if key == "electorate":
        return "a table [electorate] with urls or file"
    if (field := fields.get(key)) is not None and (table := _table_of(field)):
        required = [name for name, field in table.model_fields.items() if field.is_required()]
        return f"a table [{key}] with {', '.join(required)}"
    return lower_first(_description(key, dict(_leaves(fields))[key])) or "a value"


def _description(key: str, field: FieldInfo) -> str:
    return field.description or _NETWORK_DESCRIPTIONS.get(key.rpartition(".")[2], "")


def _variables() -> dict[str, str]:
    """Lower-case name -> name of every variable that is set: case does not matter in them."""
    return {name.lower(): name for name, value in os.environ.items() if value}


def _environment() -> tuple[_Layer, list[str]]:
    """What this process's variables set, and one line for each of them that cannot be used.

    Raises:
        InvalidSettingsError: One that is a list or table is not JSON.
    """
    problems = _unknown_variables()
    try:
        environment = _Layer("environment", "environment", EnvSettingsSource(Settings)())
    except SettingsError as error:
        raise InvalidSettingsError([*problems, _undecodable_variable(error)]) from None
    return environment, [*problems, *_secrets_in(environment)]


def _unknown_variables() -> list[str]:
    """One line for each variable of our prefix that is no setting; pydantic-settings would pass over them."""
    known = {name.lower() for name in Settings.model_fields}
    problems: list[str] = []
    for variable in sorted(os.environ):
        if not variable.upper().startswith(ENV_PREFIX) or variable.upper() == CONFIG_VARIABLE:
            continue
        key = variable[len(ENV_PREFIX) :].lower().replace(ENV_DELIMITER, ".")
        if key.partition(".")[0] not in known:
            # `P2PNODES_HTTP_PORT` is what people write first.
            dotted = {name.replace(".", "_"): name for name in setting_keys()}
            near = difflib.get_close_matches(key.replace(".", "_"), dotted, n=1, cutoff=0.6)
            hint = f"did you mean {_variable_of(dotted[near[0]])}?" if near else "unset it"
            problems.append(f"environment variable {variable}: unknown setting; {hint}")
    return problems


_CREDENTIALS_FOUND: Final = "found a user name, path or query, which may be credentials, but"


def _chain_credentials(data: Mapping[str, Any]) -> bool:
    """Whether ``electorate.urls`` of one source, not validated yet and of any shape, may hold credentials."""
    electorate = data.get("electorate")
    held = [electorate.get("urls") if isinstance(electorate, dict) else electorate]
    while held:
        match held.pop():
            case str(url) if has_credentials(url):
                return True
            case dict(table):
                held += table.values()
            case list(values):
                held += values
    return False


def _secrets_in(environment: _Layer) -> list[str]:
    """One line when the environment holds credentials of a chain endpoint: other processes can read it."""
    if _chain_credentials(environment.data):
        advice = "others can see the environment; write these URLs in the file"
        return [f"environment: electorate.urls: {_CREDENTIALS_FOUND} {advice}"]
    return []


def _is_path(text: str) -> bool:
    """Whether a text that is not validated yet may be used, and told, as a path."""
    try:
        no_secret(text)
    except PydanticCustomError:
        return False
    return True


def _variable_of(key: str) -> str:
    return ENV_PREFIX + key.replace(".", ENV_DELIMITER).upper()


def _undecodable_variable(error: SettingsError) -> str:
    """One line for a list or table in the environment that is not JSON."""
    for variable, value in sorted(os.environ.items()):
        if variable.upper().startswith(ENV_PREFIX) and variable.upper() != CONFIG_VARIABLE:
            key = variable[len(ENV_PREFIX) :].lower().replace(ENV_DELIMITER, ".")
            field = dict(_leaves(Settings.model_fields)).get(key)
            if (field is None or _is_list(field)) and not _is_json(value):
                such = '["a", "b"]' if field is not None and not _is_table(field) else '{"a": "b"}'
                found = shown(value) if _CHAIN_URLS.fullmatch(key) is None else _chain_shown(value)
                return f"environment variable {variable}: found {found}, expected JSON, such as {such}"
    return f"environment: {error}"


def _is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) in {tuple, list, set, frozenset, dict}


def _is_table(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is dict


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True
