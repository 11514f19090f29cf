"""Renewals that wait for others, to be told together.

That a verified claim was found verified again is no news: the verdict before lives on for hours, and votes stand as
they do. So such findings are gathered, and published as one ``renew`` event: with 64 claims it weighs a sixth of what
64 verdicts do, and costs every peer one check of a signature. Whatever may change a vote is published at once.

What waits here is not published yet, and so not said: a daemon that is killed checks these claims again, because their
entries in the book stay due. So does one that could not tell them for long, be it that it holds no permit, that writes
are refused or that its machine slept: a verdict counts from when it is published, so what it says must have been found
shortly before. Pure: times come in as Unix milliseconds.
"""

from typing import Final

from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.events import RENEWED_MAX, VERIFIED
from p2pnodes.model.inventory import Vote
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.verdicts import renewed_since

GATHER: Final = 0.1
"""Share of a verdict's life that a renewal waits for others at most."""

TOLD_BY: Final = 0.8
"""Share of the life of the verdict before by which a renewal is told: well before ``turns.OVERDUE``, when others step
in. One that is found later does not wait."""


class Renewals:
    """Claims that were found verified again, and until when each may wait."""

    def __init__(self, ttl_ms: int) -> None:
        """Hold none.

        Args:
            ttl_ms: A verdict's life.
        """
        self._ttl_ms = ttl_ms
        self._wait_ms = int(ttl_ms * GATHER)
        self._held: dict[bytes, tuple[int, int]] = {}
        """Claim id -> until when it waits, and the length of a turn at it."""

    def __len__(self) -> int:
        """How many wait."""
        return len(self._held)

    def __contains__(self, claim_id: bytes) -> bool:
        """Whether a claim waits."""
        return claim_id in self._held

    def take(self, claim_id: bytes, finding: Finding, own: Vote | None, slot_ms: int, now_ms: int) -> bool:
        """Let a claim wait, where what was found only renews a verdict, there is room, and it is not too late.

        Args:
            claim_id: 32 bytes.
            finding: What was found now.
            own: The validator's verdict on the claim so far.
            slot_ms: Length of a turn at the claim.
            now_ms: Wall clock.

        Returns:
            Whether it waits; else what was found has to be told now.
        """
        if finding != Finding(VERIFIED) or own is None or renewed_since(own, self._ttl_ms, now_ms) is None:
            return False
        until_ms = min(now_ms + self._wait_ms, hlc_ms(own.hlc) + int(self._ttl_ms * TOLD_BY))
        if until_ms <= now_ms or len(self._held) >= RENEWED_MAX:
            return False
        self._held[claim_id] = until_ms, slot_ms
        return True

    def due(self, now_ms: int) -> bool:
        """Whether it is time to tell them: there are as many as one event holds, or one has waited long enough.

        A wait that is longer than any is one that began under a clock that ran ahead.
        """
        waits_ms = [until_ms - now_ms for until_ms, _ in self._held.values()]
        return len(waits_ms) >= RENEWED_MAX or any(not 0 < wait_ms <= self._wait_ms for wait_ms in waits_ms)

    def slots_ms(self) -> dict[bytes, int]:
        """All that wait, each with the length of a turn at it."""
        return {claim_id: slot_ms for claim_id, (_, slot_ms) in self._held.items()}

    def drop_late(self, now_ms: int) -> None:
        """Let go of what could not be told for as long again as a renewal waits at most: it is to be found anew."""
        late_ms = now_ms - self._wait_ms
        self._held = {claim_id: held for claim_id, held in self._held.items() if held[0] >= late_ms}

    def forget(self, claim_id: bytes) -> None:
        """Let a claim go: it is told, or something else was."""
        self._held.pop(claim_id, None)
