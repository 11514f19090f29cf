"""``p2pnodes docs``: the pages that ship with the program, its example files and its manual page."""

import os
import re
import sys
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from p2pnodes import documentation
from p2pnodes.cli.output import JsonOption, console, print_json, print_table
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

COLUMNS_MAX: Final = 100
"""Widest that a page becomes on a terminal: longer lines are hard to read."""

LESS_OPTIONS: Final = "FRX"
"""For ``less``, unless the user has its own: colours, and a page that fits stays on the screen, as git has it."""

_PAGE_LINK: Final = re.compile(r"\[(?P<words>[^\]]+)\]\((?:(?P<page>\w+)\.md)?(?:#[\w-]+)?\)")
"""A Markdown link to a page, to a heading in one, or to a heading of the same page."""

EPOCH_VARIABLE: Final = "SOURCE_DATE_EPOCH"
"""Unix seconds that date the manual page, so that a package that is built twice is the same twice.

Source: https://reproducible-builds.org/specs/source-date-epoch/
"""

EPOCH_MAX: Final = 253_402_300_799
"""The last second that a date can name, at the end of the year 9999."""


def docs(
    name: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="The page to show; all are listed without.")
    ] = None,
    *,
    file: Annotated[
        str | None, typer.Option("--file", metavar="NAME", help="Print this example file, such as nginx.conf.")
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="List the example files.")] = False,
    man: Annotated[bool, typer.Option("--man", help="Print the manual page of all commands, for man(1).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the documentation that ships with this program; it needs no daemon and no network.

    On a terminal a page is set and shown in $PAGER; elsewhere it is printed as it is, in Markdown.
    """
    if sum((name is not None, file is not None, files, man)) > 1:
        raise typer.BadParameter("give one of TOPIC, --file, --files and --man")
    if as_json and (file is not None or man):
        raise typer.BadParameter("--json goes with a topic, and with the lists of topics and files")
    try:
        if man:
            sys.stdout.write(_manual_page())
        elif file is not None:
            sys.stdout.write(documentation.example(file).read_text(encoding="utf-8"))
        elif name is not None:
            _show(documentation.topic(name), as_json=as_json)
        elif files:
            _list("file", {each.name: each.sentence for each in documentation.examples()}, as_json=as_json)
        elif as_json:
            print_json([found._asdict() for found in documentation.topics()])
        else:
            _list("topic", {each.name: each.sentence for each in documentation.topics()}, as_json=False)
    except documentation.UnknownNameError as error:
        raise typer.BadParameter(str(error)) from error


def _list(column: str, entries: dict[str, str], *, as_json: bool) -> None:
    rows = [{column: name, "description": sentence} for name, sentence in entries.items()]
    if as_json:
        print_json([{"name": name, "sentence": sentence} for name, sentence in entries.items()])
    else:
        print_table((column, "description"), rows, empty="nothing")


def _show(found: documentation.Topic, *, as_json: bool) -> None:
    text = documentation.text(found)
    if as_json:
        print_json({**found._asdict(), "text": text})
        return
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.markdown import Markdown

    os.environ.setdefault("LESS", LESS_OPTIONS)
    wide = console()
    target = console(min(wide.width, COLUMNS_MAX))
    with target.pager(styles=target.color_system is not None):
        target.print(Markdown(_for_a_terminal(text), hyperlinks=False))


def _for_a_terminal(text: str) -> str:
    """Markdown whose links to pages are the commands that show them, and whose links to headings are words alone."""

    def shown(link: re.Match[str]) -> str:
        words, page = link["words"], link["page"]
        if page is None:
            return words
        command = f"`p2pnodes docs {page}`"
        return command if words == f"{page}.md" else f"{words} ({command})"

    return _PAGE_LINK.sub(shown, text)


def _manual_page() -> str:
    from p2pnodes.cli import manual

    epoch = os.environ.get(EPOCH_VARIABLE)
    if epoch is not None and not (epoch.isascii() and epoch.isdigit() and int(epoch) <= EPOCH_MAX):
        raise P2PNodesError(
            f"{EPOCH_VARIABLE} is {epoch!r:.40}; expected Unix seconds: unset it, or set it right",
            code=Code.CONFIG_ENVIRONMENT,
        )
    now = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    return manual.roff(manual.commands(), now.date())
