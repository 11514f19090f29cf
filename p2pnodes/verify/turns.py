"""Whose turn it is to check a claim: an order of validators for each claim, and time slots at its host.

Two checks of one GPU at the same time spoil each other's timing, so validators take turns. Everybody computes the same
turns from what everybody holds, so nobody has to ask:

- The **order** is the rendezvous over the claim id (``model.rendezvous``).
- The **first ones** are those from the head of the order whose stake together passes the quorum. They always check.
  The others step in only while the vote is open, counted as if no validator were young: on a network where all are,
  the first vote decides a claim, and should not stay alone.
- Time from the claim's creation on is cut into **slots**; slot number i belongs to the next one, from place i (modulo
  the number of validators) on and round, who still has to check. Where somebody before it is done, a turn thus comes
  early; whoever is offline costs one slot.

All of it is pure: times come in as Unix milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from p2pnodes.model import codec, inventory
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.inventory import PENDING, Vote, Weights
from p2pnodes.model.network import PPM
from p2pnodes.model.rendezvous import ranking

RENEW_EARLIEST: Final = 0.25
"""Share of a verdict's life before which it is not renewed."""

RENEW_PERIOD: Final = 0.5
"""Each claim has one moment in every such share of a verdict's life when it is checked again. Moments are spread evenly
by the claim ids, so verdicts are renewed at an age of a quarter to three quarters of their life."""

OVERDUE: Final = 0.85
"""Share of its life at which a verdict should have been renewed, whatever was in the way. From then on others count it
as gone and step in before it lapses, so that a validator that went offline does not make claims pending."""

RETRY_FIRST_MS: Final = 600_000
"""Time after which a failed claim, or one that could not be checked at its miner's will, is checked again; doubled
with each time."""


class Turns(NamedTuple):
    """The turns at one claim, as they stand.

    Attributes:
        order: Enrolled validators, the first one first.
        first: How many of them always check.
        open: Whether the vote needs the others, too.
        voted: Those with a verdict that lives, and is not overdue.
        waiting: Those that still have to check.
        base_ms: When slot 0 begins: the claim's creation.
        slot_ms: Length of a slot; 0: nobody waits for anybody.
    """

    order: tuple[bytes, ...]
    first: int
    open: bool
    voted: frozenset[bytes]
    waiting: frozenset[bytes]
    base_ms: int
    slot_ms: int

    def begins_ms(self, validator: bytes, now_ms: int) -> int | None:
        """When a validator may begin its check, not before now; None when it has none to do.

        A check is begun only where the validator's turn lasts for another half of a slot.
        """
        if validator not in self.waiting:
            return None
        if self.slot_ms == 0:
            return now_ms
        first = max(0, now_ms - self.base_ms) // self.slot_ms
        for index in range(first, first + len(self.order) + 1):
            if self._holder(index) != validator:
                continue
            begin = max(now_ms, self.base_ms + index * self.slot_ms)
            left_ms = self.base_ms + (index + 1) * self.slot_ms - begin
            if 2 * left_ms >= self.slot_ms or self._holder(index + 1) == validator:
                return begin
        raise AssertionError("BUG! a validator that waits has no slot in a whole round")

    def _holder(self, index: int) -> bytes:
        """Whose slot it is: round from its place on, the first one that still has to check."""
        count = len(self.order)
        places = (self.order[(index + step) % count] for step in range(count))
        return next(validator for validator in places if validator in self.waiting)


def first_ones(order: Sequence[bytes], stakes: Mapping[bytes, int], quorum_ppm: int) -> int:
    """How many from the head of an order it takes until their stake exceeds the quorum of all; all where none do."""
    needed = quorum_ppm * sum(stakes.values())
    reached = 0
    for count, hotkey in enumerate(order, 1):
        reached += stakes[hotkey]
        if reached * PPM > needed:
            return count
    return len(order)


def turns(  # noqa: PLR0917 - the arguments of a pure function
    claim_id: bytes, created_ms: int, votes: Iterable[Vote], weights: Weights, slot_ms: int, now_ms: int
) -> Turns:
    """The turns at a claim.

    Args:
        claim_id: 32 bytes.
        created_ms: Lowest HLC of the events that carry the claim, its milliseconds.
        votes: Every valid verdict on it.
        weights: Who counts, and with what.
        slot_ms: Length of a slot.
        now_ms: Wall clock: verdicts that are overdue by it are taken for gone.
    """
    overdue_ms = now_ms - int(weights.network.verdict_ttl_s * 1000 * OVERDUE)
    fresh = [vote for vote in votes if hlc_ms(vote.hlc) >= overdue_ms]
    voted = frozenset(inventory.live_votes(fresh, weights))
    is_open = inventory.tally(fresh, weights.aged()).status == PENDING
    order = ranking(claim_id, weights.enrolled)
    first = first_ones(order, weights.enrolled, weights.network.quorum_ppm)
    asked = order if is_open else order[:first]
    waiting = frozenset(hotkey for hotkey in asked if hotkey not in voted)
    return Turns(order, first, is_open, voted, waiting, created_ms, slot_ms)


def renew_ms(claim_id: bytes, verdict_ms: int, place: int, slot_ms: int, ttl_ms: int) -> int:
    """When a validator checks a verified claim again.

    Args:
        claim_id: 32 bytes.
        verdict_ms: When its last verdict on it was written.
        place: Its place in the order, 0 for the first one: keeps validators apart at the host.
        slot_ms: Length of a slot.
        ttl_ms: A verdict's life.
    """
    period_ms = max(1, int(ttl_ms * RENEW_PERIOD))
    moment_ms = int.from_bytes(codec.digest(claim_id)[:8], "big") % period_ms
    earliest_ms = verdict_ms + int(ttl_ms * RENEW_EARLIEST)
    moment_ms = earliest_ms + (moment_ms - earliest_ms) % period_ms
    return min(moment_ms + place * slot_ms, verdict_ms + int(ttl_ms * OVERDUE))


def retry_ms(verdict_ms: int, failures: int, place: int, slot_ms: int, ttl_ms: int) -> int:
    """When a validator checks a claim again that did not pass, ``failures`` times in a row."""
    pause_ms = min(RETRY_FIRST_MS << min(max(failures, 1) - 1, 20), int(ttl_ms * RENEW_PERIOD))
    return min(verdict_ms + pause_ms + place * slot_ms, verdict_ms + int(ttl_ms * OVERDUE))
