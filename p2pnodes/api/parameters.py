"""Parameters of a query string, checked: each refusal says what was found and what is expected."""

from collections.abc import Sequence

from aiohttp import web

from p2pnodes.api.errors import ApiError, echo
from p2pnodes.model.codes import Code


def once(request: web.Request) -> dict[str, str]:
    """All parameters of a request by name.

    Raises:
        ApiError: 400: one is given twice.
    """
    query = dict(request.query)
    if len(query) < len(request.query):
        raise ApiError(400, "a parameter is given twice; expected each at most once", code=Code.API_FORM)
    return query


def integer(text: str, name: str, low: int, high: int) -> int:
    """A number in ``low..high``.

    Raises:
        ApiError: 400: it is none.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not low <= number <= high:
        raise ApiError(400, f"{name} is {echo(text)!r}; expected an integer in {low}..{high}", code=Code.API_FORM)
    return number


def boolean(text: str, name: str) -> bool:
    """``true`` or ``false``.

    Raises:
        ApiError: 400: it is neither.
    """
    if text not in {"true", "false"}:
        raise ApiError(400, f"{name} is {echo(text)!r}; expected true or false", code=Code.API_FORM)
    return text == "true"


def choice(text: str, name: str, choices: Sequence[str]) -> str:
    """One of some words.

    Raises:
        ApiError: 400: it is none of them.
    """
    if text not in choices:
        raise ApiError(400, f"{name} is {echo(text)!r}; expected one of {', '.join(choices)}", code=Code.API_FORM)
    return text
