"""Who really has which GPU, and what validators make of it: honest ones, those that cannot look, and liars."""

from collections.abc import Callable, Iterable
from typing import Final

from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.inventory import Claim
from p2pnodes.verify.finding import Finding
from tests.support import hotkey

NOT_THERE: Final = "the GPU did not answer as it should"
"""What a failed verdict says, whether it is true or a lie."""

NOT_ALLOWED: Final = "the miner does not let this validator look"


class Truth:
    """The world outside of the network: miners and their hosts."""

    def __init__(self) -> None:
        """Nobody has anything."""
        self._has: dict[str, frozenset[bytes]] = {}
        self._shut: dict[bytes, Finding | None] = {}
        self.everybody = False
        """Every miner has every GPU, as in a devnet without verification."""

    def give(self, uuid: str, *miners: str) -> None:
        """Let these miners, and no others, pass a check of a GPU; two can where they share a host."""
        self._has[uuid] = frozenset(hotkey(uri).public_key for uri in miners)

    def shut(self, miner: str, *, abstain: bool) -> None:
        """Let nobody look at a miner's host: by its allow-list (``abstain``), or because no route leads there."""
        self._shut[hotkey(miner).public_key] = Finding(ABSTAIN, NOT_ALLOWED) if abstain else None

    def holds(self, claim: Claim) -> bool:
        """Whether a claim's miner really has all its GPUs, now."""
        return self.everybody or all(claim.miner in self._has.get(uuid, ()) for uuid in claim.uuids)

    def look(self, claim: Claim) -> Finding | None:
        """What an honest check finds; None when it cannot be done now and nobody is to blame for it."""
        if claim.miner in self._shut:
            return self._shut[claim.miner]
        return _say(self.holds(claim))


Behaviour = Callable[[Claim, Truth], Finding | None]
"""What a validator says to a claim when it has checked it; None: nothing, it tries again later."""


def honest(claim: Claim, truth: Truth) -> Finding | None:
    """Say what is."""
    return truth.look(claim)


def contrary(claim: Claim, truth: Truth) -> Finding | None:
    """Lie either way: verified for what is false, failed for what is true."""
    return _say(not truth.holds(claim))


def abstains(claim: Claim, truth: Truth) -> Finding | None:
    """Be on nobody's allow-list."""
    return Finding(ABSTAIN, NOT_ALLOWED)


def unavailable(claim: Claim, truth: Truth) -> Finding | None:
    """Run, but without a verifier that works."""
    return None


def favours(miners: Iterable[str]) -> Behaviour:
    """Say verified to whatever some miners claim, failed to all others: bought."""
    friends = frozenset(hotkey(uri).public_key for uri in miners)

    def find(claim: Claim, truth: Truth) -> Finding | None:
        return _say(claim.miner in friends)

    return find


def flipping() -> Behaviour:
    """Say the opposite of what it said to the same claim before, beginning with a lie."""
    said: dict[bytes, bool] = {}

    def find(claim: Claim, truth: Truth) -> Finding | None:
        said[claim.id] = not said.get(claim.id, truth.holds(claim))
        return _say(said[claim.id])

    return find


def _say(good: bool) -> Finding:
    return Finding(VERIFIED) if good else Finding(FAILED, NOT_THERE)
