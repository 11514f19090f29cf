"""What a command shows while it waits: a line that moves on a terminal, one plain note on stderr elsewhere.

Everything here goes to stderr, so that results can be piped and ``--json`` stays JSON.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from p2pnodes.cli.output import note

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from p2pnodes.miner.client import WaitProgress

WAITING: Final = "waiting for the validators' votes"


@contextmanager
def waiting_for_votes() -> Iterator[Callable[["WaitProgress"], None]]:
    """Show how a wait stands, in a line with the time that it takes; yields what is to be called with each change."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    if not sys.stderr.isatty():
        noted = False

        def note_once(progress: "WaitProgress") -> None:
            nonlocal noted
            if progress.pending and not noted:
                noted = True
                note(WAITING)

        yield note_once
        return
    with _bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        line = bar.add_task(WAITING, total=None)
        yield lambda progress: bar.update(line, description=_described(progress))


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of some things are done, on a terminal only; yields what is to be called after each of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        yield lambda: None
        return
    with _bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        line = bar.add_task(what, total=total)
        yield lambda: bar.advance(line)


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far each part of a long work is, one after the other, on a terminal only.

    Yields what is to be called now and then with the part's name, how much of it is done, and of how much.
    """
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    if not sys.stderr.isatty():
        yield lambda _what, _done, _of: None
        return
    with _bar(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()) as bar:
        line = bar.add_task("", total=None)
        yield lambda what, done, of: bar.update(line, description=what, completed=done, total=of)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show how long something takes, on a terminal only."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    if not sys.stderr.isatty():
        yield
        return
    with _bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        bar.add_task(what, total=None)
        yield


def _described(progress: "WaitProgress") -> str:
    tasks = "pending" if progress.pending + progress.decided == 1 else f"{progress.pending} tasks pending"
    if not progress.pending:
        tasks = "decided"
    polls = f"{progress.polls} poll{'' if progress.polls == 1 else 's'}"
    return f"{tasks}: {polls}, {progress.events} event{'' if progress.events == 1 else 's'}"


def _bar(*columns: "ProgressColumn") -> "Progress":
    """A display that vanishes when it ends; notes and errors appear above it, results are not its business."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, color_system=None if os.environ.get("NO_COLOR") else "auto")
    return Progress(*columns, console=console, transient=True, redirect_stdout=False)
