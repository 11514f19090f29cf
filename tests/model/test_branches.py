"""Where a log ends: of forks and closings the lowest counts, whoever proves it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.branches import NO_ENDS, Ends, closing_order, ended_log, ends_by, rivalry
from p2pnodes.model.events import Carry, Close, Evidence, Head, Release, closing
from p2pnodes.model.network import Network
from p2pnodes.model.requests import request_id
from p2pnodes.model.validity import check_close, check_evidence, contents
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete

LOW, HIGH = bytes(32), b"\xff" * 32


def log_of(length: int) -> Author:
    author = Author("//validator0")
    author.delegate()
    for number in range(1, length):
        author.write(Release(bytes(32), (f"gpu-{number}",)))
    return author


AUTHOR = log_of(6)


def evidence(seq: int, *, other: str = "gpu-other") -> Evidence:
    """A fork of AUTHOR's log."""
    twin = Author("//validator0")
    twin.head = Head(seq - 1, AUTHOR.events[seq - 1].id) if seq else None
    found = rivalry(AUTHOR.events[seq], twin.write(Release(bytes(32), (other,)), at_ms=NOW_MS + 1))
    assert found is not None
    return found


def close(seq: int | None, event_id: bytes = LOW, signature: bytes = b"") -> Close:
    """A closing of AUTHOR's log."""
    head = None if seq is None else Head(seq, event_id)
    return Close(AUTHOR.log, head, AUTHOR.hotkey.public_key, signature)


EVIDENCES = [evidence(seq) for seq in range(6)]
ENDS = st.builds(
    Ends,
    st.none() | st.sampled_from(EVIDENCES),
    st.none() | st.builds(close, st.none() | st.integers(0, 5), st.sampled_from([LOW, HIGH])),
)


class TestEnds:
    """Of each kind the lowest counts, in whatever order they come."""

    @given(one=ENDS, other=ENDS, third=ENDS)
    def test_merging_is_the_same_in_any_order_and_any_number_of_times(
        self, one: Ends, other: Ends, third: Ends
    ) -> None:
        assert one.merged(other).mark == other.merged(one).mark
        assert one.merged(other).merged(third).mark == one.merged(other.merged(third)).mark
        assert one.merged(one) == one.merged(NO_ENDS) == NO_ENDS.merged(one) == one

    def test_of_two_that_say_the_same_the_one_that_is_held_stays(self) -> None:
        """Else peers would send each other what proves nothing new for ever."""
        one = Ends(evidence(3), close(2, signature=b"1"))
        other = Ends(evidence(3, other="gpu-third"), close(2, signature=b"2"))
        assert one != other
        assert (one.merged(other), other.merged(one)) == (one, other)

    def test_a_mark_says_fork_and_closing(self) -> None:
        assert NO_ENDS.mark is None
        assert Ends(evidence(3)).mark == [3, None]
        assert Ends(close=close(2, HIGH)).mark == [None, [3, HIGH]]
        assert Ends(evidence(0), close(None)).mark == [0, [0, b""]]

    def test_what_one_proof_says(self) -> None:
        assert ends_by(EVIDENCES[2]) == Ends(evidence=EVIDENCES[2])
        assert ends_by(close(2)) == Ends(close=close(2))
        assert ended_log(EVIDENCES[2]) == ended_log(close(2)) == AUTHOR.log


class TestCut:
    """The cut is the first seq that counts for nothing."""

    @pytest.mark.parametrize(
        ("ends", "cut"),
        [
            (NO_ENDS, None),
            (Ends(evidence(3)), 3),
            (Ends(evidence(0)), 0),
            (Ends(close=close(None)), 0),
            (Ends(close=close(3, AUTHOR.events[3].id)), 4),
            (Ends(close=close(3, LOW)), 3),
            (Ends(close=close(3, HIGH)), 3),
            (Ends(close=close(0, LOW)), 0),
            (Ends(close=close(6, LOW)), 7),
            (Ends(close=close(codec.INT_MAX, LOW)), codec.INT_MAX),
            (Ends(evidence(2), close(3, AUTHOR.events[3].id)), 2),
            (Ends(evidence(5), close(3, AUTHOR.events[3].id)), 4),
        ],
    )
    def test_it_is_the_lower_of_fork_and_closing(self, ends: Ends, cut: int | None) -> None:
        stored = [event.id for event in AUTHOR.events]
        assert ends.cut(lambda seq: stored[seq] if seq < len(stored) else None) == cut

    def test_closings_are_ordered_by_what_they_leave_then_by_id(self) -> None:
        highest = close(codec.INT_MAX - 1, LOW)
        mixed = [close(1, LOW), highest, close(0, HIGH), close(None), close(0, LOW)]
        ordered = [close(None), close(0, LOW), close(0, HIGH), close(1, LOW), highest]
        assert sorted(mixed, key=closing_order) == ordered


class TestProofs:
    """What proves an end is checked by its own bytes alone."""

    @pytest.mark.parametrize("seq", range(6))
    def test_rivals_prove_a_fork_on_their_network_alone(self, seq: int) -> None:
        assert check_evidence(NETWORK.id, EVIDENCES[seq])
        assert not check_evidence(Network(genesis_hash="1" * 64, netuid=64).id, EVIDENCES[seq])

    def test_events_that_continue_different_ones_prove_nothing(self) -> None:
        twin = Author("//validator0")
        twin.write(Release(bytes(32), ("gpu-1",)))
        assert rivalry(AUTHOR.events[1], twin.write(Release(bytes(32), ("gpu-2",)))) is None

    def test_what_does_not_decode_proves_nothing(self) -> None:
        assert not check_evidence(NETWORK.id, EVIDENCES[1]._replace(first=b"\xc0"))

    def test_a_closing_is_signed_by_its_hotkey_for_its_network(self) -> None:
        signed = closing(AUTHOR.hotkey, NETWORK.id, AUTHOR.log, AUTHOR.head)
        assert check_close(NETWORK.id, signed)
        assert not check_close(Network(genesis_hash="1" * 64, netuid=64).id, signed)
        assert not check_close(NETWORK.id, signed._replace(head=None))


def test_what_a_valid_event_says_is_read_back_without_its_signatures() -> None:
    request, deletion = add("//Alice", ["gpu-1"]), delete("//Alice", "nodes:gpu-1", NOW_S + 1)
    author = Author("//validator1")
    added, deleted = author.add(request), author.delete(deletion, "gpu-1")
    carried = author.write(Carry((added.wire, deleted.wire)))
    claim_id, delete_id = request_id(NETWORK.id, request), request_id(NETWORK.id, deletion)
    assert contents(added).adds == (claim_id,)
    assert [(found, payload.uuid) for found, payload in contents(deleted).deletes] == [(delete_id, "gpu-1")]
    assert (contents(carried).adds, contents(carried).deletes) == ((claim_id,), contents(deleted).deletes)
    assert contents(AUTHOR.events[1]).adds == ()
