"""Long work that is done part by part, each part in one transaction, and survives those that are undone.

What such work knows beside the database is noted behind each transaction that is committed, and taken back to that
behind one that is undone: so it goes on where the last committed part ended. Begun anew, it would never come to an end
on a disk that fails now and then.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from itertools import islice
from typing import Any, ClassVar, TypeVar

from p2pnodes.store.facts import Facts

T = TypeVar("T")


class Parts:
    """Base of such work: it names what moves on with its parts."""

    MOVING: ClassVar[tuple[str, ...]]
    """Attributes that a part changes, each of which ``copy.copy`` can keep as it is."""

    _kept: dict[str, Any]

    def keep(self) -> None:
        """Note how far it is; call behind a commit."""
        self._kept = {name: copy(getattr(self, name)) for name in self.MOVING}

    def back(self, facts: Facts) -> None:
        """Be again as far as was noted; call behind a transaction that was undone.

        Args:
            facts: What is stored, without what was read in that transaction: row keys may name other logs from now on.
        """
        del facts
        for name, value in self._kept.items():
            setattr(self, name, copy(value))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to ``size`` items; ``itertools.batched`` comes with Python 3.12."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
