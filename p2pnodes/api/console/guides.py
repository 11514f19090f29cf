"""The package's documentation (``p2pnodes/docs``) as pages of the console.

Markdown only: HTML in a page is shown as text. Links between the pages lead to pages of the console; what a page names
of the sources or of example files, which the console does not serve, is left as text.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from p2pnodes.api.console.rendering import ROOT
from p2pnodes.documentation import Topic, text, topics

_ABSOLUTE: Final = re.compile(r"https?://")
_PAGE: Final = re.compile(r"(?P<name>[a-z0-9-]+)\.md(?P<anchor>#[^\s]*)?")
_NOT_IN_ANCHORS: Final = re.compile(r"[^\w\- ]")


class Heading(NamedTuple):
    """A section of a page: its level (2 or 3), its anchor, its text."""

    level: int
    anchor: str
    title: str


class Guide(NamedTuple):
    """A page of the documentation, rendered.

    Attributes:
        topic: Which one it is.
        body: HTML.
        headings: Its sections, for a list of contents.
    """

    topic: Topic
    body: Markup
    headings: tuple[Heading, ...]


@cache
def guide(topic: Topic) -> Guide:
    """Render a page; it ships with the package and does not change while this process runs."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.renderer.rules |= {"fence": _scrolled_code, "table_open": _open_table, "table_close": _close_table}  # type: ignore[attr-defined]
    tokens = parser.parse(text(topic))
    if [token.type for token in tokens[:1]] == ["heading_open"] and tokens[0].tag == "h1":
        del tokens[:3]  # the page has it as its own heading
    names = {each.name for each in topics()}
    headings: list[Heading] = []
    taken: set[str] = set()
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            title = _plain(tokens[index + 1])
            anchor = _anchor(title, taken)
            token.attrSet("id", anchor)
            if token.tag in {"h2", "h3"}:
                headings.append(Heading(int(token.tag[1]), anchor, title))
        if token.children is not None:
            token.children = _relinked(token.children, names)
    return Guide(topic, Markup(parser.renderer.render(tokens, parser.options, {})), tuple(headings))  # noqa: S704 - markdown-it escapes


def _scrolled_code(tokens: Sequence[Token], index: int, *_: object) -> str:
    """Code that may be wider than the window is scrolled by keyboard, too."""
    return f'<pre tabindex="0"><code>{escape(tokens[index].content)}</code></pre>\n'


def _open_table(*_: object) -> str:
    return '<div class="scroll" tabindex="0"><table>\n'


def _close_table(*_: object) -> str:
    return "</table></div>\n"


def _relinked(tokens: list[Token], names: set[str]) -> list[Token]:
    """Inline tokens whose links lead somewhere; a link that does not is dropped, and its text stays."""
    kept: list[Token] = []
    dropped = 0
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrGet("href") or "")
            page = _PAGE.fullmatch(target)
            if page is not None and page["name"] in names:
                token.attrSet("href", f"{ROOT}/docs/{page['name']}{page['anchor'] or ''}")
            elif _ABSOLUTE.match(target):
                token.attrSet("rel", "noreferrer noopener")
            elif not target.startswith("#"):
                dropped += 1
                continue
        elif token.type == "link_close" and dropped:
            dropped -= 1
            continue
        elif token.type == "image":
            continue  # none ships with the pages, and none may come from elsewhere
        kept.append(token)
    return kept


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())


def _anchor(title: str, taken: set[str]) -> str:
    """The anchor of a heading as GitHub makes it, so that links in the pages work in both places."""
    base = _NOT_IN_ANCHORS.sub("", title.lower()).replace(" ", "-")
    anchor, number = base, 0
    while anchor in taken:
        number += 1
        anchor = f"{base}-{number}"
    taken.add(anchor)
    return anchor
