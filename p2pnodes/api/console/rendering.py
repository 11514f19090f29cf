"""Pages from templates: everything that is shown is escaped, and what a stranger wrote is made visible.

Texts of miners and peers may hold characters that move the cursor, turn the direction of writing or show as nothing;
they appear as escapes, as the command line prints them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from p2pnodes import __version__
from p2pnodes.api.console import drawing
from p2pnodes.api.console.assets import assets, release
from p2pnodes.api.explanations import YEAR_9999_S
from p2pnodes.model.codec import digest

ROOT: Final = "/console"
"""Path under which the console is."""

LONG_CHARS: Final = 20
"""Ids and hotkeys longer than this are shortened where space is short; they are in the element's title in full."""

NOTHING: Final = "\N{EN DASH}"
"""Stands where there is no figure."""

_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and signs that count as printable and show as nothing."""

HEADERS: Final[Mapping[str, str]] = {
    "Server": "p2pnodes",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer under ROOT: nothing inline, nothing from elsewhere, in nobody's frame."""


@cache
def environment() -> Environment:
    """Where the templates are, and what they may call."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
        auto_reload=False,
        cache_size=-1,  # all of them
    )
    found.filters |= {
        "short": short,
        "number": number,
        "bytes": size,
        "duration": span,
        "utc": utc,
        "key": key,
        "percent": percent,
        "segment": segment,
    }
    found.globals |= {
        "root": ROOT,
        "version": __version__,
        "release": release(),
        "asset": asset,
        "url": url,
        "bars": drawing.bars,
        "mesh": drawing.mesh,
    }
    return found


def load() -> None:
    """Read every template and asset: an upgrade of the package under a running daemon must not mix the two."""
    assets()
    found = environment()
    for name in found.list_templates():
        found.get_template(name)


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """A template with its values, UTF-8."""
    return environment().get_template(template).render(context).encode()


def visible(text: str) -> str:
    """A text whose unprintable characters are escapes."""
    if text.isprintable() and _BLANK.isdisjoint(text):
        return text
    return "".join(
        char.encode("unicode_escape").decode() if char in _BLANK or not (char.isprintable() or char == "\n") else char
        for char in text
    )


def _finalized(value: Any) -> Any:
    """What an expression shows: nothing for None, no invisible characters."""
    if value is None:
        return ""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def asset(name: str) -> str:
    """URL of a script, style or picture."""
    found = assets()[name]
    return f"{ROOT}/static/{found.mark}/{found.name}"


def url(path: str, /, **query: Any) -> str:
    """A page of the console with parameters; empty ones are left out."""
    given = {name: value for name, value in query.items() if value not in {None, ""}}
    return f"{ROOT}/{path}{f'?{urlencode(given)}' if given else ''}"


def segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")


def short(text: str | None) -> str:
    """A long id by its ends."""
    text = text or ""
    return text if len(text) <= LONG_CHARS else f"{text[:8]}…{text[-4:]}"


def number(value: int | None) -> str:
    """An integer with its thousands apart."""
    return NOTHING if value is None else f"{value:,}"


def percent(share: float) -> str:
    """A share for people; what is not nothing never shows as 0."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{100 * share:.1f}%".replace(".0%", "%")


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return NOTHING
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def span(seconds: float | None) -> str:
    """A time span by its largest unit of which there are two."""
    if seconds is None:
        return NOTHING
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def utc(seconds: float) -> str:
    """A moment as the JSON routes write it, from Unix seconds; one beyond the last that a date can name is that."""
    return datetime.fromtimestamp(min(seconds, YEAR_9999_S), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def key(text: str) -> str:
    """A name for an element, by what it is about: short, and without characters that mean something in a selector."""
    return f"k{digest(text.encode('utf-8', 'surrogatepass'))[:8].hex()}"
