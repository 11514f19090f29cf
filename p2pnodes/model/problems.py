"""What is wrong with a file that people write, in words for them: pydantic's errors as parts of one line."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import ErrorDetails, PydanticCustomError

from p2pnodes.model.addresses import without_credentials
from p2pnodes.model.keys import ss58_decode

FOUND_CHARS_MAX: Final = 60
"""Most that a line shows of a value."""

_PHRASE: Final = re.compile(r"(?:\b[a-z]{3,8}[\s,]+){11,}[a-z]{3,8}\b", re.IGNORECASE)
"""A BIP-39 phrase has 12 words or more, of 3 to 8 letters."""

_SECRET_HEX: Final = re.compile(r"(?:0x)?(?:[0-9a-f]{64}|[0-9a-f]{128})", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s\"]{0,1024}@")
_QUERY: Final = re.compile(r"(?<=\?)[^\s\"]+")

_CHAIN_URL: Final = re.compile(r"wss?://[^\s\"]*", re.IGNORECASE)

_CHAIN_PATH: Final = re.compile(r"\s*wss?:/", re.IGNORECASE)
"""Begin of such a URL, as a path has it: with one slash."""

_Text = TypeVar("_Text", str, Path)

_SECRET_NAME: Final = re.compile(
    r"api_?key|auth|credential|mnemonic|passw|phrase|private|secret|seed|token|(^|_)(key|pw)$", re.IGNORECASE
)
"""Names that people give to secrets in settings that only a verifier of another package knows."""

_LIMITS: Final = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def found_and_expected(details: ErrorDetails, key: str, found: str | None = None) -> str:
    """One error of pydantic's as ``found X, expected Y``; unknown and missing keys are the caller's to explain.

    Args:
        details: The error.
        key: The dotted key that it is about.
        found: What to show of the value; by default what ``shown`` makes of it.
    """
    found = shown(details["input"]) if found is None else found
    context = details.get("ctx", {})
    match details["type"]:
        case "model_type" | "model_attributes_type":
            expected = f"a table [{key}]"
        case "list_type" | "tuple_type":
            expected = "a list"
        case "int_type" | "int_parsing" | "int_from_float":
            expected = "an integer"
        case "bool_type" | "bool_parsing":
            expected = "true or false"
        case "string_type":
            expected = "a text"
        case "ip_any_network":
            expected = "a network such as 10.0.0.0/8"
        case "path_type":
            expected = "a path"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            expected = " and ".join(f"{_LIMITS[name]} {limit:,}" for name, limit in context.items() if name in _LIMITS)
        case "value_error":
            return f"found {found}, {context['error']}"
        case _:
            expected = re.sub(r"^(Input|String|Value|Tuple|List) should (be )?", "", details["msg"])
            expected = re.sub(r"^(have|match) ", r"it to \1 ", expected)
    return f"found {found}, expected {expected}"


def suggestion(key: str, known: Sequence[str]) -> str:
    """What an unknown dotted key may have meant: the nearest one, else the keys beside it, else all tables."""
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return f"did you mean {near[0]}?"
    last = key.rpartition(".")[2]
    if same := [name for name in known if difflib.get_close_matches(last, [name.rpartition(".")[2]], n=1, cutoff=0.8)]:
        return f"did you mean {same[0]}?"
    table = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == table]
    return f"known {f'in [{table}]' if table else 'at the top'}: {', '.join(beside)}"


def seems_secret(text: str) -> bool:
    """Whether a text reads like a secret phrase, a seed or a private key in hex."""
    return _PHRASE.search(text) is not None or _SECRET_HEX.fullmatch(text.strip()) is not None


def no_secret(value: _Text) -> _Text:
    """Refuse a secret where a name or path belongs; whatever is accepted there will be shown.

    Raises:
        PydanticCustomError: A secret or a URL of the chain; its type is ``secret``, and the input is not to be shown.
    """
    text = str(value)
    if seems_secret(text):
        raise PydanticCustomError("secret", "found a secret, expected the name of the file that holds it")
    if _CHAIN_PATH.match(text) is not None:
        raise PydanticCustomError(
            "secret", "found a URL, expected a name or path; endpoints belong into electorate.urls"
        )
    return value


SettingPath = Annotated[Path, AfterValidator(no_secret)]
"""A path in settings: anything but a secret."""


def _address(value: str) -> str:
    try:
        ss58_decode(value)
    except ValueError as error:
        raise ValueError(f"expected an SS58 address: {error}") from None
    return value


Address = Annotated[str, Field(description="SS58 address."), AfterValidator(_address)]
"""An SS58 address in a file."""


def shown(value: Any) -> str:
    """A value as the file would write it, shortened to one line, without secret phrases and credentials of URLs.

    URLs of the chain hold them where other URLs do not, see ``without_credentials``, and may stand in a wrong place.
    """
    text = json.dumps(value, default=str, ensure_ascii=True)
    if _PHRASE.search(text) is not None:
        return "a secret phrase"
    text = _without_url_secrets(text)
    return text if len(text) <= FOUND_CHARS_MAX else text[: FOUND_CHARS_MAX - 3] + "..."


def type_shown(value: Any) -> str:
    """What kind of value a file has in some place, where even a part of the value would be too much."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def masked(value: Any, name: str = "") -> Any:
    """A value of a setting that nobody here knows, JSON-able, with ``***`` for what looks like a secret.

    Texts that are or contain a phrase, keys in hex, credentials in URLs, and whatever has a name as secrets have.

    Args:
        value: Texts, numbers, lists and tables, as TOML has them.
        name: Key that the value is under; one that is a secret's goes for all below it.
    """
    named = _SECRET_NAME.search(name) is not None
    if isinstance(value, dict):
        return {key: masked(held, name if named else key) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [masked(held, name) for held in value]
    if isinstance(value, bool):
        return value
    if named or (isinstance(value, str) and seems_secret(value)):
        return "***"
    return _without_url_secrets(value) if isinstance(value, str) else value


def _without_url_secrets(text: str) -> str:
    """A text in which ``***`` stands for the credentials of every URL."""
    text = _CHAIN_URL.sub(lambda found: without_credentials(found[0]), text)
    return _QUERY.sub("***", _CREDENTIALS.sub("***@", text))


def lower_first(text: str) -> str:
    """A description as the end of a sentence."""
    return text[:1].lower() + text[1:].rstrip(".")
