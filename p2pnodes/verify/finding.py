"""What a check of a claim comes to: a finding, or that this validator cannot check now."""

from typing import NamedTuple


class Finding(NamedTuple):
    """What a verifier found.

    Attributes:
        finding: ``verified``, ``failed``, or ``abstain`` when this validator could not check because the miner does not
            let it: the vote is then counted without it.
        detail: For the miner: what failed and what to do; empty when verified. At most 512 characters are published.
    """

    finding: str
    detail: str = ""


class VerifierUnavailableError(Exception):
    """The verifier cannot work now for a reason of the validator's own; the claim is tried again later.

    Its text is for the operator: what is wrong, and what to do.
    """
