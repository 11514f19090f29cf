"""Who says too much is stopped, and nobody else: allowances by session and kind, and by author."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2pnodes
from p2pnodes.connections import CONNECTIONS_MAX
from p2pnodes.gossip import rates
from p2pnodes.gossip.driver import HANDSHAKE_BYTES_MAX, UNREAD_BYTES_MAX
from p2pnodes.gossip.frames import ARRAYS_PER_FRAME_MAX, EVENTS_PER_FRAME_MAX, HAVES_PER_FRAME_MAX
from p2pnodes.gossip.rates import (
    AUTHOR_BYTES,
    AUTHOR_EVENTS,
    AUTHOR_PROOFS,
    AUTHORS_MAX,
    Allowance,
    AuthorRates,
    Rate,
    SessionRates,
)
from p2pnodes.model.errors import RemoteProtocolError
from p2pnodes.model.events import EVENT_BYTES_MAX, Event, LogId

SOME = Rate("things", 10, 2)
OTHER = Rate("other things", 1, 1)
A, B = b"a" * 32, b"b" * 32
RATES = [rate for rate in vars(rates).values() if isinstance(rate, Rate)]


class TestAllowance:
    """A burst, and then so many a second."""

    def test_the_burst_may_come_at_once_and_no_more(self) -> None:
        allowance = Allowance(SOME, 0)
        assert [allowance.take(0) for _ in range(12)] == [True] * 10 + [False] * 2

    def test_more_comes_with_time_but_never_more_than_the_burst(self) -> None:
        allowance = Allowance(SOME, 0)
        assert allowance.take(0, 10)
        assert not allowance.take(499)
        assert allowance.take(500)
        assert not allowance.take(1_000_000, 11)
        assert allowance.take(1_000_000, 10)

    def test_what_is_refused_or_only_asked_for_uses_nothing_up(self) -> None:
        allowance = Allowance(SOME, 0)
        assert not allowance.take(0, 11)
        assert allowance.has(0, 10)
        assert allowance.take(0, 10)
        assert not allowance.has(0)

    @given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 10)), max_size=60))
    def test_no_span_of_time_has_more_than_burst_and_rate_allow(self, asked: list[tuple[int, int]]) -> None:
        allowance, now_ms = Allowance(SOME, 0), 0
        taken: list[tuple[int, int]] = []
        for pause_ms, amount in asked:
            now_ms += pause_ms
            if allowance.take(now_ms, amount):
                taken.append((now_ms, amount))
        for index, (since_ms, _) in enumerate(taken):
            for until in range(index, len(taken)):
                total = sum(amount for _, amount in taken[index : until + 1])
                assert total <= SOME.burst + (taken[until][0] - since_ms) * SOME.per_s / 1000 + 1e-6


class TestSession:
    """What one kind uses up is no other's."""

    def test_over_its_allowance_is_a_fault_that_says_what_is_allowed(self) -> None:
        session = SessionRates()
        session.spend(SOME, 0, 10)
        with pytest.raises(RemoteProtocolError, match="things: over 10 at once, 2 a second are allowed"):
            session.spend(SOME, 499)
        session.spend(SOME, 500)

    def test_kinds_are_counted_apart(self) -> None:
        session = SessionRates()
        session.spend(SOME, 0, 10)
        session.spend(OTHER, 0)
        assert not session.take(SOME, 0)
        assert not session.take(OTHER, 0)

    def test_the_allowance_is_whole_however_late_it_begins(self) -> None:
        session = SessionRates()
        session.spend(SOME, 1_000_000, 10)
        assert not session.take(SOME, 1_000_000)

    @pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.what)
    def test_every_rate_lets_something_through_and_ends(self, rate: Rate) -> None:
        assert rate.burst >= 1
        assert 0 < rate.per_s <= rate.burst

    def test_no_two_kinds_share_an_allowance(self) -> None:
        assert len(set(RATES)) == len(RATES) == len({rate.what for rate in RATES})

    def test_whole_frames_fit(self) -> None:
        assert rates.HAVES.burst >= HAVES_PER_FRAME_MAX
        assert min(rates.DUPLICATES.burst, rates.STRANGERS.burst, rates.STALE.burst) >= EVENTS_PER_FRAME_MAX


class TestStall:
    """What an honest peer says while its network stands still for 30 s comes at once, and ends no session."""

    @pytest.mark.parametrize(
        ("rate", "said_per_s"),
        [
            (rates.LINKS, 2.0),  # a PRUNE and a GRAFT
            (rates.BOOKS, 1 / 60),
            (rates.HAVES, 1_024.0),
            (rates.DIGESTS, 8.0),  # asks at every tick, and as many answers
            (rates.SLICES, 1.0),
            (rates.VECTORS, 1.0),
            (rates.PROOFS, 8.0),
            (rates.HEARTBEATS, 0.1),
        ],
        ids=lambda value: value.what if isinstance(value, Rate) else None,
    )
    def test_it_is_allowed(self, rate: Rate, said_per_s: float) -> None:
        session = SessionRates()
        for second in range(60):  # normal life before it
            for _ in range(round(said_per_s)):
                session.spend(rate, second * 1000)
        for _ in range(max(1, round(30 * said_per_s))):
            session.spend(rate, 90_000)


def event(payload_bytes: int = 0, kind: str = "add") -> Event:
    """An event that is not looked at, but for its kind and size."""
    payload = bytes(payload_bytes)
    return Event(payload, b"", b"", payload, b"", 1, b"", LogId(A, 0), 0, b"", 0, kind)


SMALL = event()


class TestAuthors:
    """One author's flood is its own."""

    def test_a_burst_of_honest_bulk_work_is_live(self) -> None:
        authors = AuthorRates()
        assert all(authors.live(A, event(1_000), 0) for _ in range(4_096))

    def test_beyond_the_burst_it_is_not_and_others_are(self) -> None:
        authors = AuthorRates()
        assert sum(authors.live(A, SMALL, 0) for _ in range(2 * AUTHOR_EVENTS.burst)) == AUTHOR_EVENTS.burst
        assert authors.live(B, SMALL, 0)

    def test_large_events_are_counted_by_their_bytes(self) -> None:
        authors = AuthorRates()
        live = sum(authors.live(A, event(EVENT_BYTES_MAX), 0) for _ in range(AUTHOR_EVENTS.burst))
        assert live == AUTHOR_BYTES.burst // EVENT_BYTES_MAX

    @pytest.mark.parametrize(
        ("kind", "size_bytes", "as_many"),
        [("add", 4_095, 1), ("verdict", 200, 1), ("place", 255, 1), ("place", 2_560, 11), ("carry", 46_080, 181)],
    )
    def test_lists_count_by_what_they_make_to_do(self, kind: str, size_bytes: int, as_many: int) -> None:
        authors, heavy = AuthorRates(), event(size_bytes, kind)
        assert sum(authors.live(A, heavy, 0) for _ in range(1_000)) == min(1_000, AUTHOR_EVENTS.burst // as_many)

    def test_it_is_live_again_at_the_rate_that_is_allowed(self) -> None:
        authors = AuthorRates()
        while authors.live(A, SMALL, 0):
            pass
        assert sum(authors.live(A, SMALL, 1_000) for _ in range(AUTHOR_EVENTS.burst)) == AUTHOR_EVENTS.per_s

    def test_proofs_have_an_allowance_of_their_own(self) -> None:
        authors = AuthorRates()
        for _ in range(AUTHOR_PROOFS.burst):
            assert authors.provable(A, 0)
            authors.proved(A, 0)
        assert not authors.provable(A, 0)
        assert authors.live(A, SMALL, 0)
        assert authors.provable(A, 5_000)
        authors.proved(A, 5_000)
        assert not authors.provable(A, 5_000)

    def test_the_table_is_bounded_and_forgets_who_was_quiet_the_longest(self) -> None:
        authors = AuthorRates()
        while authors.live(A, SMALL, 0):
            pass
        for number in range(AUTHORS_MAX - 1):
            authors.live(number.to_bytes(32, "big"), SMALL, 0)
            assert not authors.live(A, SMALL, 0)  # who floods all the time is not forgotten
        assert len(authors) == AUTHORS_MAX
        authors.live(B, SMALL, 0)
        assert len(authors) == AUTHORS_MAX
        assert not authors.live(A, SMALL, 0)


def test_the_protocol_says_the_same() -> None:
    text = (Path(p2pnodes.__file__).parent / "docs/protocol.md").read_text()
    rows = set(re.findall(r"^\| ([a-z][^|]*) \| ([\d,]+) \| ([\d,.]+) \|", text, re.MULTILINE))
    told = {(what, int(burst.replace(",", "")), float(per_s.replace(",", ""))) for what, burst, per_s in rows}
    assert told == {(rate.what, rate.burst, float(rate.per_s)) for rate in RATES if rate is not rates.PINGS}
    assert f"More than {rates.PINGS.burst} pings" in text
    for number in (AUTHORS_MAX, HANDSHAKE_BYTES_MAX, UNREAD_BYTES_MAX, ARRAYS_PER_FRAME_MAX, CONNECTIONS_MAX):
        assert f"{number:,}" in text
