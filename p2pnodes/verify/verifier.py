"""The interface of a verifier, and the one that waves everything through."""

from typing import NamedTuple, Protocol

from p2pnodes.model.events import VERIFIED
from p2pnodes.store.facts import StoredClaim


class Finding(NamedTuple):
    """What a verifier found.

    Attributes:
        finding: ``verified``, ``failed``, or ``abstain`` when this validator could not check (its own fault, or the
            miner's allow-list): the vote is then counted without it.
        detail: For the miner: what failed and what to do; empty when verified. At most 512 characters are published.
    """

    finding: str
    detail: str = ""


class VerifierUnavailableError(Exception):
    """The verifier cannot work now for a reason of the validator's own; the claim is tried again later."""


class Verifier(Protocol):
    """Checks one claim at a time; several calls may run at once."""

    method: str
    """Name in the verdict, at most 32 characters."""

    async def verify(self, claim: StoredClaim) -> Finding:
        """Check the GPUs of a claim.

        Raises:
            VerifierUnavailableError: See its own text.
        """
        ...


class NoneVerifier:
    """Votes verified at once, without looking: upstream's ``skip_gpu_verification``, for devnets."""

    method = "none"

    async def verify(self, claim: StoredClaim) -> Finding:
        """Say verified."""
        return Finding(VERIFIED)
