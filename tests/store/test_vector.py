"""The hashes of the version vector: kept a little at a time they are what they would be from the beginning."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.branches import Ends
from p2pnodes.model.events import Close, Head, LogId, closing
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.vector import (
    NO_LOGS,
    SLICE_BYTES,
    SLICES,
    Slices,
    digest_over,
    slice_digests,
    slice_of,
    vector_digest,
)
from tests.support import NETWORK, NOW_MS, VALIDATORS, Author, electorate, hotkey, memory_ledger

_LOGS = st.builds(LogId, st.binary(min_size=2, max_size=2).map(lambda start: start + bytes(30)), st.integers(0, 1))
_HEADS = st.dictionaries(_LOGS, st.builds(Head, st.integers(0, 9), st.just(bytes(32))), max_size=20)
_CLOSE = Ends(None, Close(LogId(bytes(32), 0), None, bytes(32), bytes(64)))


def test_a_slice_is_chosen_by_the_node_key_s_first_byte() -> None:
    assert [slice_of(LogId(bytes([first]) + bytes(31), 7)) for first in (0, 63, 64, 255)] == [0, 63, 0, 63]


def test_a_slice_s_hash_covers_its_logs_in_order_with_heads_and_marks() -> None:
    low, high = LogId(b"\1" * 32, 0), LogId(b"\1" * 32, 1)
    heads = {high: Head(4, b"h" * 32), low: Head(2, b"l" * 32)}
    packed = codec.pack([[*low, 2, b"l" * 32, _CLOSE.mark], [*high, 4, b"h" * 32, None]])
    slices = slice_digests(heads, {low: _CLOSE})
    assert slices == (NO_LOGS[0], codec.digest(packed, SLICE_BYTES), *NO_LOGS[2:])
    assert vector_digest(heads, {low: _CLOSE}) == digest_over(slices) == codec.digest(b"".join(slices))


@given(_HEADS, st.lists(st.tuples(_HEADS, st.sets(_LOGS)), max_size=4))
def test_slices_that_changed_a_little_equal_those_from_the_beginning(
    before: dict[LogId, Head], changes: list[tuple[dict[LogId, Head], set[LogId]]]
) -> None:
    slices, heads = Slices(), dict(before)
    slices.renew(heads, {})
    assert len(slices.digests) == SLICES
    for grown, gone in changes:
        heads.update(grown)
        for log in gone:
            heads.pop(log, None)
        ends = dict.fromkeys(list(heads)[::2], _CLOSE)
        slices.update(heads, ends, [*heads, *gone])
        assert slices.digests == slice_digests(heads, ends)


class TestLedger:
    """A ledger's slices follow its logs, their ends, and the permits of the electorate."""

    @staticmethod
    def check(ledger: Ledger) -> None:
        state = ledger.state
        assert state.slices == slice_digests(state.heads, state.ends)
        assert state.vector_digest == vector_digest(state.heads, state.ends)

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from(["verdict", "close", "permits", "fail"])),
            min_size=1,
            max_size=12,
        )
    )
    def test_after_any_commits_they_equal_those_from_the_beginning(self, steps: list[tuple[int, str]]) -> None:
        ledger = memory_ledger()
        authors = [Author(VALIDATORS[index % 3], number=index) for index in range(6)]
        with ledger.transaction():
            ledger.receive([author.delegate() for author in authors], NOW_MS)
        self.check(ledger)
        block = 100
        for index, kind in steps:
            author = authors[index]
            try:
                with ledger.transaction():
                    match kind:
                        case "close":
                            head = Head(0, author.events[0].id)
                            ledger.receive([author.write(close(author, head))], NOW_MS)
                        case "permits":
                            block += 100
                            stakes = {uri: 1 for uri in VALIDATORS if hotkey(uri) != author.hotkey}
                            ledger.set_electorate(electorate(block, stakes=stakes))
                        case _:
                            ledger.receive([author.verdict(bytes(32))], NOW_MS)
                    if kind == "fail":
                        raise OSError("the disk fails")
            except OSError:
                author.events.pop()
                author.head = Head(author.events[-1].seq, author.events[-1].id)
            self.check(ledger)

    def test_a_commit_that_touches_one_log_keeps_the_other_slices(self) -> None:
        ledger = memory_ledger()
        one, other = Author(VALIDATORS[0]), Author(VALIDATORS[1])
        assert slice_of(one.log) != slice_of(other.log)
        with ledger.transaction():
            ledger.receive([one.delegate(), other.delegate()], NOW_MS)
        before = ledger.state.slices
        with ledger.transaction():
            ledger.receive([one.verdict(bytes(32))], NOW_MS)
        differing = {number for number in range(SLICES) if before[number] != ledger.state.slices[number]}
        assert differing == {slice_of(one.log)}


def close(author: Author, head: Head) -> Close:
    """The hotkey's word that the log ends with ``head``."""
    return closing(author.hotkey, NETWORK.id, author.log, head)


@pytest.mark.parametrize("count", [0, 1])
def test_a_vector_without_logs_has_a_digest(count: int) -> None:
    heads = {LogId(bytes(32), 0): Head(0, bytes(32))} if count else {}
    assert (vector_digest(heads, {}) == digest_over(NO_LOGS)) is (count == 0)
