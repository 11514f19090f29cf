"""What the pages hold: fenced blocks, links, anchors and tables, by the same parser as the console's."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from p2pnodes.documentation import topics

ROOT: Final = Path(__file__).parents[2]
"""The checkout."""

README: Final = ROOT / "README.md"

_PARSER: Final = MarkdownIt("commonmark").enable("table")


class Block(NamedTuple):
    """A fenced block, or an indented one, which has no language.

    Attributes:
        page: File that holds it.
        line: Where it begins, from 1.
        language: First word of its info string.
        attributes: The other words: ``needs=root`` as a pair, ``output`` with an empty value.
        code: Its text.
    """

    page: Path
    line: int
    language: str
    attributes: Mapping[str, str]
    code: str

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


def pages() -> list[Path]:
    """README, and each page that ships."""
    return [README, *(topic.file for topic in topics())]


def blocks(page: Path) -> list[Block]:
    """Every block of code, in order."""
    return [
        _block(page, token)
        for token in _PARSER.parse(page.read_text(encoding="utf-8"))
        if token.type in {"fence", "code_block"}
    ]


def _block(page: Path, token: Token) -> Block:
    assert token.map is not None
    language, *words = shlex.split(token.info) or [""]
    pairs = (word.partition("=") for word in words)
    return Block(page, token.map[0] + 1, language, {name: value for name, _, value in pairs}, token.content)


def _inline(page: Path) -> Iterator[Token]:
    for token in _PARSER.parse(page.read_text(encoding="utf-8")):
        yield from token.children or ()


def links(page: Path) -> list[str]:
    """Where its links lead."""
    return [str(token.attrs["href"]) for token in _inline(page) if token.type == "link_open"]


def code_spans(page: Path) -> list[str]:
    """What it has between backticks."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def title(page: Path) -> str:
    """Its first heading, which must be what it begins with."""
    opening, text, *_ = _PARSER.parse(page.read_text(encoding="utf-8"))
    assert (opening.type, opening.tag) == ("heading_open", "h1"), f"{page.name} begins without a heading"
    return text.content


def anchors(page: Path) -> set[str]:
    """Fragments of its headings, as code hosts make them: lower case, blanks as hyphens, without punctuation."""
    tokens = _PARSER.parse(page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for opening, text in pairwise(tokens):
        if opening.type == "heading_open":
            plain = "".join(child.content for child in text.children or ())
            found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found
