"""What a commit changed in the inventory, for those who follow it: keys alone, which cost the writer next to nothing.

What stands under a key is read when somebody wants to know (``p2pnodes.store.snapshots``).
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

CHANGES_MAX: Final = 65_536
"""Keys of one commit that are told, some 10 MB; of one that changes more only that it was too much. An electorate can
change every row."""


class Gone(NamedTuple):
    """A row that its miner lost: GPU uuid, the miner's public key. The GPU may have a row of another miner now."""

    uuid: str
    miner: bytes


class Changes(NamedTuple):
    """What the inventory's readers see otherwise since a commit.

    Attributes:
        gone: Rows that their miners lost.
        nodes: GPUs whose rows are new or not what they were.
        claims: Row keys of claims whose tasks may have another status; all that have one are among them.
        too_many: There were more than CHANGES_MAX; the other attributes are empty.
    """

    gone: tuple[Gone, ...] = ()
    nodes: tuple[str, ...] = ()
    claims: tuple[int, ...] = ()
    too_many: bool = False


class ChangeCollector:
    """Gathers what transactions change, until it is taken."""

    def __init__(self) -> None:
        """Start without any change."""
        self.clear()

    def clear(self) -> None:
        """Forget what was gathered."""
        self._gone: dict[Gone, None] = {}
        self._nodes: dict[str, None] = {}
        self._claims: dict[int, None] = {}
        self._too_many = False

    def add(self, gone: Iterable[Gone], nodes: Iterable[str], claims: Iterable[int]) -> None:
        """Note changes; see ``Changes``."""
        if self._too_many:
            return
        self._gone.update(dict.fromkeys(gone))
        self._nodes.update(dict.fromkeys(nodes))
        self._claims.update(dict.fromkeys(claims))
        if len(self._gone) + len(self._nodes) + len(self._claims) > CHANGES_MAX:
            self.give_up()

    def give_up(self) -> None:
        """Tell only that it was too much."""
        self.clear()
        self._too_many = True

    def take(self) -> Changes | None:
        """What was gathered since the last call; None when nothing was."""
        if not (self._nodes or self._claims or self._gone or self._too_many):
            return None
        found = Changes(tuple(self._gone), tuple(self._nodes), tuple(self._claims), self._too_many)
        self.clear()
        return found
