"""Spans of time as one types them: ``90s``, ``10m``, ``2h``, ``7d``."""

import re
from collections.abc import Callable
from typing import Final

import typer

UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Unit -> seconds."""

_SPAN: Final = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>[smhd])")


def span_s(text: str) -> int:
    """Seconds of a span.

    Raises:
        typer.BadParameter: It is none.
    """
    found = _SPAN.fullmatch(text)
    if found is None or not int(found["count"]):
        raise typer.BadParameter(f"expected a number with s, m, h or d, such as 10m, found {text!r:.80}")
    return int(found["count"]) * UNITS_S[found["unit"]]


def span_up_to(longest: str) -> Callable[[str], int]:
    """What reads an option that is a span no longer than another one: its parser, which gives seconds."""

    def parse(text: str) -> int:
        found_s = span_s(text)
        if found_s > span_s(longest):
            raise typer.BadParameter(f"expected {longest} at most, found {text!r:.80}")
        return found_s

    return parse
