"""What a check of a claim comes to: a finding, or that this validator cannot check now."""

from typing import Final, NamedTuple

from p2pnodes.model.errors import printable
from p2pnodes.model.events import DETAIL_CHARS_MAX, FINDINGS

_SHOWN_CHARS_MAX: Final = 100
"""Of an answer that is no finding."""


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

    def told(self) -> str:
        """Its text as one bounded line, whatever a verifier wrote into it; never empty."""
        return printable(" ".join(str(self).split())) or "the verifier cannot check and does not say why"


def publishable(found: object) -> Finding:
    """What a verifier answered, as a verdict can say it: a detail of at most 512 characters, each of them valid text.

    Raises:
        VerifierUnavailableError: It is no finding; the verifier is wrong, and not the miner.
    """
    if not isinstance(found, Finding) or found.finding not in FINDINGS or not isinstance(found.detail, str):
        expected = ", ".join(sorted(FINDINGS))
        raise VerifierUnavailableError(
            f"the verifier answered {printable(repr(found))[:_SHOWN_CHARS_MAX]}, expected a Finding of {expected}, and "
            "a text: tell its author"
        )
    detail = found.detail.encode(errors="replace").decode().replace("\0", "?")  # no event can hold what is replaced
    return found._replace(detail=detail[:DETAIL_CHARS_MAX])
