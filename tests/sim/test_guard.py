"""What the guard takes for a fault of a peer, and what not."""

from types import SimpleNamespace
from typing import Any

import pytest

from p2pnodes.gossip.frames import Want
from p2pnodes.gossip.session import Session, Wanted
from tests.gossip.harness import peer_of
from tests.sim.guard import Guard
from tests.sim.peer import CheckFailedError
from tests.support import Author

LOG = Author("//Alice").log
VALIDATOR, OBSERVER = False, True


def look(*sessions: tuple[bool, int, Wanted]) -> None:
    """Let the guard look at the want of the first session.

    Args:
        sessions: Each one's role, the first seq that is wanted, and the want.
    """
    held: dict[int, Session] = {}
    for number, (observer, first_seq, wanted) in enumerate(sessions):
        held[number] = Session(number, peer_of(Author("//Bob", seed=number))._replace(observer=observer), 0)
        held[number].wanted[LOG, first_seq] = wanted
    ledger = SimpleNamespace(state=SimpleNamespace(logs={}))
    peer: Any = SimpleNamespace(honest=True, name="p0", engine=SimpleNamespace(_sessions=held), ledger=ledger)
    _, first_seq, wanted = sessions[0]
    Guard.wants(peer, 0, Want(LOG, first_seq, wanted.count_max, wanted.size_bytes))


class TestWhatIsWanted:
    """Is wanted once; an observer is trusted less, so a validator may be asked for the same after it."""

    @pytest.mark.parametrize("role", [VALIDATOR, OBSERVER])
    def test_what_a_validator_is_asked_for_is_wanted_from_nobody_else(self, role: bool) -> None:
        with pytest.raises(CheckFailedError, match=r"p0 wants seq 4 to 6 of log .* from two sessions at once"):
            look((role, 4, Wanted(3, 1, 250)), (VALIDATOR, 6, Wanted(1, 1, 0)))

    def test_two_validators_are_not_asked_in_one_tick_either(self) -> None:
        with pytest.raises(CheckFailedError, match="from two sessions at once"):
            look((VALIDATOR, 4, Wanted(3, 1, 250)), (VALIDATOR, 4, Wanted(3, 1, 250)))

    def test_a_validator_is_asked_for_what_an_observer_owes(self) -> None:
        look((VALIDATOR, 4, Wanted(3, 1, 250)), (OBSERVER, 4, Wanted(3, 1, 0)))

    def test_a_tick_may_ask_an_observer_and_then_a_validator(self) -> None:
        look((OBSERVER, 4, Wanted(3, 1, 250)), (VALIDATOR, 4, Wanted(3, 1, 250)))

    def test_another_is_asked_for_what_is_late_or_another_range(self) -> None:
        late, next_one = Wanted(3, 1, 0, late=True), Wanted(3, 1, 0)
        look((VALIDATOR, 4, Wanted(3, 1, 250)), (VALIDATOR, 4, late), (VALIDATOR, 7, next_one))
