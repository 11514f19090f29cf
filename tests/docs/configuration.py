"""The page of all settings, from their declarations in ``p2pnodes.config``."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import IPvAnyNetwork
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from p2pnodes import config
from p2pnodes.config import RELOADABLE, Settings

_HEAD: Final = """# Configuration

Written by `python -m tests.pages` from the declarations in `p2pnodes/config.py`.

A daemon reads one TOML file, named by `--config` or `P2PNODES_CONFIG`. Of a setting that several sources give, the
first of these counts: an option of `p2pnodes run`, the environment, the file, the network file that it names, the
default. A name that nobody knows is an error, in the file and in the environment alike. Paths are relative to the
directory of the file; `~` is the home directory. Lists and tables are JSON in the environment.

A command that looks at a daemon (`status`, `doctor`, `backup` and so on) reads the same file and its own environment,
`service install` the file alone. Neither knows of variables that a service alone has, such as those of `Environment=`
in a drop-in, and would look for the daemon elsewhere: set in the file what both must know, `data_dir` above all.

`p2pnodes docs --file p2pnodes.toml` prints a file with every setting to begin with, `p2pnodes config check` lists every
problem of yours, and `p2pnodes config show` what is in effect and where it comes from.

Most settings are followed after a restart. Those that say *reload* are followed by a running daemon, too, when it gets
SIGHUP (`systemctl reload p2pnodes`). Those of `[network]` stand at the top of a network file; all of them are hashed
into the network's id, so they are changed by all peers together or not at all.
"""

_TEXT: Final = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", Any: "any value"}
"""How a type is called on the page."""


class Described(NamedTuple):
    """A setting on the page."""

    key: str
    kind: str
    range: str
    default: str
    variable: str
    reload: bool
    text: str


def settings() -> list[Described]:
    """Every setting, in the order of the file."""
    return [_described(key, field) for key, field in config._leaves(Settings.model_fields)]


def page() -> str:
    """The page as it should be."""
    tables: dict[str, list[Described]] = {}
    for setting in settings():
        tables.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    parts = [_HEAD]
    for table, within in tables.items():
        parts.append(f"\n## {f'[{table}]' if table else 'At the top'}\n")
        parts += map(_section, within)
    return "".join(parts)


def _section(setting: Described) -> str:
    facts = [setting.kind, *([setting.range] if setting.range else []), setting.default, f"`{setting.variable}`"]
    facts += ["*reload*"] if setting.reload else []
    return f"\n### {setting.key}\n\n{setting.text}\n\n{' · '.join(facts)}\n"


def _described(key: str, field: FieldInfo) -> Described:
    kind, bounds = _kind(field.annotation, list(field.metadata))
    if field.is_required():
        default = "required"
    else:
        value = field.get_default(call_default_factory=True, validated_data={})
        assert value is not PydanticUndefined
        default = "no default" if value is None else f"default `{_toml(value)}`"
    return Described(
        key, kind, bounds, default, config._variable_of(key), key in RELOADABLE, config._description(key, field)
    )


def _kind(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """What values are, and within which bounds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [*metadata, *more])
    if origin in {Union, types.UnionType}:
        (inner,) = (each for each in get_args(annotation) if each is not types.NoneType)
        return _kind(inner, metadata)
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(annotation)), ""
    bounds = _bounds(metadata)
    if origin is tuple:
        inner, _ = _kind(get_args(annotation)[0], [])
        return f"list of {inner}s", bounds.replace("characters", "entries")
    if origin is dict:
        return "table", ""
    if annotation is str and any("url" in str(getattr(each, "func", "")).lower() for each in metadata):
        return "URL", bounds
    if annotation is IPvAnyNetwork:
        return "network", ""
    return _TEXT[annotation], bounds


def _bounds(metadata: list[Any]) -> str:
    found: dict[str, Any] = {}
    for each in _flat(metadata):
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            if (value := getattr(each, name, None)) is not None:
                found[name] = value
    words: list[str] = []
    if "ge" in found and "le" in found:
        words.append(f"{_number(found['ge'])} to {_number(found['le'])}")
    elif "gt" in found and "le" in found:
        words.append(f"above {_number(found['gt'])}, to {_number(found['le'])}")
    if "max_length" in found:
        words.append(f"at most {found['max_length']} characters")
    elif "min_length" in found:
        words.append("not empty")
    if "pattern" in found:
        words.append(f"matches `{found['pattern']}`")
    return ", ".join(words)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}".rstrip("0").rstrip(".")


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for each in metadata:
        if isinstance(each, annotated_types.GroupedMetadata):
            yield from each
        elif isinstance(each, FieldInfo):
            yield from _flat(each.metadata)
        else:
            yield each


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case tuple() if not value:
            return "[]"
        case dict() if not value:
            return "{}"
        case str() | Path():
            return f'"{str(value).replace(str(Path.home()), "~")}"'
    raise TypeError(f"no way to show {value!r}")
