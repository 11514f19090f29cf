"""Settings of the daemon: one TOML file, overridden by the environment, checked as a whole before anything starts.

Precedence, highest first: environment variables (``P2PNODES_HTTP__PORT=8001`` is ``port`` of ``[http]``), the file
given with ``--config``, the network file that it names, the defaults below. A key that nobody knows is an error, in the
file and in the environment alike: a mistyped setting that is silently ignored is found in the worst moment.

Paths are relative to the directory of the configuration file; ``~`` is the home directory.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.addresses import BaseUrl
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.network import Network
from p2pnodes.model.problems import found_and_expected, lower_first, shown, suggestion
from p2pnodes.verify.settings import VerifySettings

ENV_PREFIX: Final = "P2PNODES_"
ENV_DELIMITER: Final = "__"
CONFIG_VARIABLE: Final = "P2PNODES_CONFIG"
"""Names the configuration file where ``--config`` is not given; the one variable that is no setting."""

FILE_BYTES_MAX: Final = 1 << 20
BOOTSTRAP_URLS_MAX: Final = 64

_NETWORK_DESCRIPTIONS: Final = {
    "genesis_hash": "Hash of the chain's block 0: 32 bytes, 64 lower-case hex digits; zeros for a devnet.",
    "netuid": "Subnet on that chain.",
    "quorum": "Share of the weighed stake above which a claim is verified.",
    "min_share": "Share of all enrolled stake that a verified claim needs at least.",
    "verdict_ttl_s": "Seconds of the electorate's time after which a verdict lapses.",
    "epoch_blocks": "The electorate is pinned to multiples of this many blocks.",
}
"""The pure model documents its parameters for programmers; these lines are for operators."""

_Model = TypeVar("_Model", bound=BaseModel)
Origin = Literal["default", "file", "network file", "environment"]


Port = Annotated[int, Field(ge=0, le=65535)]


class _Table(BaseModel):
    """What all tables of the file have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(_Table):
    """``[http]``: where miners and peers reach this daemon."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on for miners and peers; 0.0.0.0 or :: for every interface.",
    )
    port: Port = Field(8000, description="TCP port to listen on; 0 takes a free one.")
    url: BaseUrl | None = Field(
        None,
        description="Public base URL that this daemon announces to its peers, such as https://node.example.org. "
        "Unset: it only dials out, as behind NAT.",
    )


class AdminSettings(_Table):
    """``[admin]``: where the operator's commands and metrics scrapers reach this daemon. Read-only, never public."""

    socket: Path | None = Field(
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


class ElectorateSettings(_Table):
    """``[electorate]``: where stakes, permits and registrations come from."""

    file: Path = Field(
        description="TOML file that stands in for the chain: block, time, validators and registered hotkeys; "
        "read again when it changes."
    )


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
    )

    data_dir: Path = Field(description="Directory of the database, the node key and the admin socket; made if absent.")
    hotkey_file: Path | None = Field(
        None,
        description="Hotkey of the validator, a Bittensor wallet file (~/.bittensor/wallets/WALLET/hotkeys/HOTKEY), "
        "mode 0600. Unset: the daemon cannot renew its delegation.",
    )
    node_key_file: Path | None = Field(
        None, description="Key that signs events and sessions, mode 0600. Unset: node.key in data_dir, made if absent."
    )
    network_file: Path | None = Field(
        None,
        description="TOML file with the keys of [network], the same for all peers; [network] goes before it.",
    )
    delegation_days: int = Field(
        30, ge=1, le=366, description="Days for which the hotkey delegates to the node key; renewed when half is over."
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
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file, whose tables come in as init arguments; no other source."""
        return env_settings, init_settings

    @property
    def config_file(self) -> Path:
        """The file that these settings were read from."""
        return self._config_file

    @property
    def origins(self) -> Mapping[str, Origin]:
        """Where the values that are not defaults come from."""
        return self._origins

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

    def __init__(self, problems: list[str]) -> None:
        more = f" (and {len(problems) - 1} more: see `p2pnodes config check`)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = problems


class Setting(NamedTuple):
    """One effective setting, as ``config show`` prints it: dotted key, JSON-able value, origin, description."""

    key: str
    value: Any
    origin: Origin
    description: str


def load_settings(path: Path) -> Settings:
    """Read a configuration file and the environment.

    Args:
        path: TOML, at most 1 MiB.

    Returns:
        Settings with absolute paths.

    Raises:
        InvalidSettingsError: Unreadable, not TOML, or with keys or values that cannot be used; lists every problem.
    """
    path = path.expanduser().absolute()
    data = read_toml(path)
    inline = data.get("network")
    variable = _variables().get(f"{ENV_PREFIX}network_file".lower())
    network_file = data.get("network_file") if variable is None else os.environ[variable]
    from_network_file: dict[str, Any] = {}
    if isinstance(network_file, str):
        network_path = path.parent / Path(network_file).expanduser()
        from_network_file = read_toml(network_path)
        try:
            Network(**from_network_file)
        except ValidationError as error:
            problems = [_problem(details, Network.model_fields, str(network_path)) for details in error.errors()]
            raise InvalidSettingsError(problems) from error
        if inline is None or isinstance(inline, dict):
            data["network"] = {**from_network_file, **(inline or {})}

    problems = _unknown_variables()
    try:
        settings = Settings(**data)
    except ValidationError as error:
        problems += [_settings_problem(details, path) for details in error.errors()]
        raise InvalidSettingsError(problems) from error
    except SettingsError as error:
        raise InvalidSettingsError([*problems, _undecodable_variable(error)]) from error
    if problems:
        raise InvalidSettingsError(problems)

    settings = _with_absolute_paths(settings, path.parent)
    settings._config_file = path  # noqa: SLF001 - the loader is the other half of the class
    settings._origins = _origins(data, inline if isinstance(inline, dict) else {}, from_network_file)  # noqa: SLF001
    return settings


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most 1 MiB.

    Raises:
        InvalidSettingsError: Absent, unreadable, too large or not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise InvalidSettingsError([f"{path}: over {FILE_BYTES_MAX} bytes; expected a TOML file"])
        return tomllib.loads(content.decode())
    except FileNotFoundError as error:
        raise InvalidSettingsError([f"{path}: no such file; expected a TOML file"]) from error
    except OSError as error:
        raise InvalidSettingsError([f"{path}: cannot be read ({error.strerror}); expected a TOML file"]) from error
    except UnicodeDecodeError as error:
        raise InvalidSettingsError([f"{path}: not UTF-8 at byte {error.start}; expected a TOML file"]) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSettingsError([f"{path}: not TOML: {error}"]) from error


def effective_settings(settings: Settings) -> list[Setting]:
    """Every setting with its effective value, in the order of the file. Settings hold paths of secrets, no secrets."""
    values = settings.model_dump(mode="json")
    values["node_key_file"] = str(settings.node_key_path)
    values["admin"]["socket"] = str(settings.admin_socket_path)
    return [
        Setting(key, _value_at(values, key), settings.origins.get(key, "default"), _description(key, field))
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


def _origins(
    data: dict[str, Any], inline_network: dict[str, Any], from_network_file: dict[str, Any]
) -> dict[str, Origin]:
    variables = _variables().keys()
    origins: dict[str, Origin] = {}
    for key in setting_keys():
        parts = key.split(".")
        names = {(ENV_PREFIX + ENV_DELIMITER.join(parts[:depth])).lower() for depth in range(1, len(parts) + 1)}
        if names & variables:
            origins[key] = "environment"
        elif parts[0] == "network" and parts[-1] in from_network_file and parts[-1] not in inline_network:
            origins[key] = "network file"
        elif _holds(data, parts):
            origins[key] = "file"
    return origins


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
            update[name] = Path(os.path.normpath(base / value.expanduser()))
        elif isinstance(value, BaseModel):
            update[name] = _with_absolute_paths(value, base)
    return model.model_copy(update=update)


def _settings_problem(details: ErrorDetails, path: Path) -> str:
    """One line for one error of pydantic's, naming the file or the variable that it comes from."""
    parts = [str(part) for part in details["loc"]]
    variables = _variables()
    for depth in range(len(parts), 0, -1):
        variable = variables.get((ENV_PREFIX + ENV_DELIMITER.join(parts[:depth])).lower())
        if variable is not None:
            return _problem(details, Settings.model_fields, f"environment variable {variable}")
    return _problem(details, Settings.model_fields, str(path))


def _problem(details: ErrorDetails, fields: Mapping[str, FieldInfo], source: str) -> str:
    key = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            tables = [name for name, field in fields.items() if _table_of(field)]
            return f"{source}: {key}: unknown setting; {suggestion(key, [*tables, *(k for k, _ in _leaves(fields))])}"
        case "missing":
            return f"{source}: {key}: missing; expected {_wanted(key, fields)}"
        case _:
            return f"{source}: {key}: {found_and_expected(details, key)}"


def _wanted(key: str, fields: Mapping[str, FieldInfo]) -> str:
    """What to write for a setting or table that has no default."""
    if key == "network":
        return "a table [network] with genesis_hash and netuid, or network_file"
    if (field := fields.get(key)) is not None and (table := _table_of(field)):
        required = [name for name, field in table.model_fields.items() if field.is_required()]
        return f"a table [{key}] with {', '.join(required)}"
    return lower_first(_description(key, dict(_leaves(fields))[key])) or "a value"


def _description(key: str, field: FieldInfo) -> str:
    return field.description or _NETWORK_DESCRIPTIONS.get(key.rpartition(".")[2], "")


def _variables() -> dict[str, str]:
    """Lower-case name -> name of every variable that is set: case does not matter in them."""
    return {name.lower(): name for name, value in os.environ.items() if value}


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
                return f"environment variable {variable}: found {shown(value)}, expected JSON, such as {such}"
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
