"""What is wrong with a file that people write, in words for them: pydantic's errors as parts of one line."""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import ErrorDetails

FOUND_CHARS_MAX: Final = 60
"""Most that a line shows of a value."""

_PHRASE: Final = re.compile(r"(?:\b[a-z]{3,8}[\s,]+){11,}[a-z]{3,8}\b", re.IGNORECASE)
"""A BIP-39 phrase has 12 words or more, of 3 to 8 letters."""

_SECRET_HEX: Final = re.compile(r"(?:0x)?(?:[0-9a-f]{64}|[0-9a-f]{128})", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s\"@]*@")
_QUERY: Final = re.compile(r"(?<=\?)[^\s\"]+")

_LIMITS: Final = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def found_and_expected(details: ErrorDetails, key: str) -> str:
    """One error of pydantic's as ``found X, expected Y``; unknown and missing keys are the caller's to explain.

    Args:
        details: The error.
        key: The dotted key that it is about.
    """
    found = shown(details["input"])
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


def shown(value: Any) -> str:
    """A value as the file would write it, shortened to one line, without secret phrases and credentials of URLs."""
    text = json.dumps(value, default=str, ensure_ascii=True)
    if _PHRASE.search(text) is not None:
        return "a secret phrase"
    text = _QUERY.sub("***", _CREDENTIALS.sub("***@", text))
    return text if len(text) <= FOUND_CHARS_MAX else text[: FOUND_CHARS_MAX - 3] + "..."


def lower_first(text: str) -> str:
    """A description as the end of a sentence."""
    return text[:1].lower() + text[1:].rstrip(".")
