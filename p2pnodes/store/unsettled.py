"""What the ledger's open transaction touched, and the tallies and rows of the inventory have to follow."""

from typing import Final

from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX

EVENTS_PER_MOVE: Final = 4_096
TOUCHED_PER_MOVE: Final = 4_096
"""Valid events of logs whose cuts move that count no more, or again, in one transaction; and GPUs that these may touch,
with GPUS_PER_CLAIM_MAX of each claim, before no further event is looked at. One touches up to 1,280: up to 0.2 s."""


class Unsettled:
    """Marks, until they are settled.

    Attributes:
        claims: Row keys of claims that are to be counted.
        uuids: GPUs whose rows are to be decided; in order, so that those of one claim are settled together.
        placed: The same of GPUs of which something was placed or released.
        recounted: Claims whose new tallies are recorded already, and are not in their rows yet.
        mandates: Whether delegations changed, from which other weights may follow.
        reweighed: Whether all is to be settled that other weights than those of the rows can change.
        everything: Whether every tally and row is to be computed anew.
        moved: Events that count otherwise, because the cut of their log moved.
        moved_touched: How much more these marked, as ``marked`` counts it.
    """

    def __init__(self) -> None:
        """Begin with nothing touched."""
        self.claims: set[int] = set()
        self.uuids: dict[str, None] = {}
        self.placed: dict[str, None] = {}
        self.recounted: set[int] = set()
        self.clear()

    def clear(self) -> None:
        """Forget all marks."""
        self.claims.clear()
        self.uuids.clear()
        self.placed.clear()
        self.recounted.clear()
        self.mandates = self.reweighed = self.everything = False
        self.moved = self.moved_touched = 0

    @property
    def marked(self) -> int:
        """GPUs that are not settled, at most."""
        return len(self.claims) * GPUS_PER_CLAIM_MAX + len(self.uuids) + len(self.placed)

    @property
    def takes_moves(self) -> bool:
        """Whether one more event may count otherwise in this transaction."""
        return self.moved < EVENTS_PER_MOVE and self.moved_touched < TOUCHED_PER_MOVE
