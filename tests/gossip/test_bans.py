"""Bans end by themselves, grow while they come in a row, and are bounded."""

import pytest

from p2pnodes.gossip.bans import (
    BAN_S_MAX,
    BANS_MAX,
    GOOD_S,
    OPENING_S,
    OPENINGS_BAN_S,
    OPENINGS_MAX,
    OPERATOR_BAN_S_MAX,
    OPERATOR_BANS_MAX,
    Bans,
    OperatorBans,
    TooManyBansError,
)
from p2pnodes.model.codes import Code

KEY = b"k" * 32


def test_a_ban_holds_for_its_time_and_says_why() -> None:
    bans = Bans()
    bans.add(KEY, "a bad frame", 60.0, 100.0)
    found = bans.find(KEY, 159.9)
    assert found is not None
    assert found.reason == "a bad frame"
    assert bans.active(159.9) == {KEY: found}
    assert bans.find(KEY, 160.0) is None
    assert bans.active(160.0) == {}


def test_a_later_ban_replaces_an_earlier_one() -> None:
    bans = Bans()
    bans.add(KEY, "first", 60.0, 0.0)
    bans.add(KEY, "second", 60.0, 30.0)
    found = bans.find(KEY, 89.0)
    assert found is not None
    assert found.reason == "second"


class TestRow:
    """Who is banned again soon is banned for longer, up to a bound; who behaves begins anew."""

    def test_each_ban_in_a_row_is_twice_as_long(self) -> None:
        bans, now_s, lengths = Bans(), 0.0, []
        for _ in range(12):
            bans.add(KEY, "again", 60.0, now_s)
            found = bans.find(KEY, now_s)
            assert found is not None
            lengths.append(found.until_s - now_s)
            now_s = found.until_s
        assert lengths == [60, 120, 240, 480, 960, 1920, *[BAN_S_MAX] * 6]

    def test_it_is_forgotten_after_good_behaviour(self) -> None:
        bans = Bans()
        bans.add(KEY, "once", 60.0, 0.0)
        bans.active(60.0 + GOOD_S - 1)
        bans.add(KEY, "again, just before that", 60.0, 60.0 + GOOD_S - 1)
        again = bans.find(KEY, 60.0 + GOOD_S)
        assert again is not None
        assert again.until_s == 60.0 + GOOD_S - 1 + 120.0
        bans.add(KEY, "long after", 60.0, again.until_s + GOOD_S)
        late = bans.find(KEY, again.until_s + GOOD_S)
        assert late is not None
        assert late.until_s == again.until_s + GOOD_S + 60.0

    def test_what_ended_long_ago_is_not_kept(self) -> None:
        bans = Bans()
        bans.add(KEY, "once", 60.0, 0.0)
        assert bans.active(60.0 + GOOD_S) == {}
        assert bans._bans == {}

    def test_a_daemon_that_crashes_again_and_again_is_not_refused_for_longer(self) -> None:
        bans, now_s = Bans(), 0.0
        for _ in range(3):
            for _ in range(OPENINGS_MAX + 1):
                bans.opened(KEY, now_s)
            found = bans.find(KEY, now_s)
            assert found is not None
            assert found.until_s == now_s + OPENINGS_BAN_S
            now_s = found.until_s

    def test_a_ban_is_never_made_shorter(self) -> None:
        bans = Bans()
        bans.add(KEY, "a lie", 600.0, 0.0)
        for _ in range(OPENINGS_MAX + 1):
            bans.opened(KEY, 1.0)
        assert bans.find(KEY, 599.0) is not None


def test_the_oldest_ban_goes_when_there_are_too_many() -> None:
    bans = Bans()
    for number in range(BANS_MAX + 1):
        bans.add(number.to_bytes(32, "big"), "x", 60.0, 0.0)
    assert len(bans.active(0.0)) == BANS_MAX
    assert bans.find((0).to_bytes(32, "big"), 0.0) is None
    assert bans.find(BANS_MAX.to_bytes(32, "big"), 0.0) is not None


def test_a_peer_that_opens_sessions_without_end_is_banned() -> None:
    bans = Bans()
    for _ in range(OPENINGS_MAX):
        bans.opened(KEY, 0.0)
    assert bans.find(KEY, 0.0) is None
    bans.opened(KEY, 0.0)
    assert bans.find(KEY, 0.0) is not None


def test_a_peer_that_comes_back_now_and_then_is_not_banned() -> None:
    bans = Bans()
    for turn in range(10 * OPENINGS_MAX):
        bans.opened(KEY, turn * OPENING_S)
    assert bans.active(0.0) == {}


def test_what_is_counted_is_bounded() -> None:
    bans = Bans()
    for number in range(BANS_MAX + 1):
        bans.opened(number.to_bytes(32, "big"), 0.0)
    assert len(bans._openings) == BANS_MAX


class TestLift:
    """A ban ends when the operator says so."""

    def test_a_lifted_ban_holds_no_longer_and_the_next_is_a_first_one(self) -> None:
        bans = Bans()
        bans.add(KEY, "first", 60.0, 0.0)
        bans.add(KEY, "second", 60.0, 0.0)
        assert bans.lift(KEY, 1.0)
        assert bans.find(KEY, 1.0) is None
        bans.add(KEY, "third", 60.0, 2.0)
        found = bans.find(KEY, 2.0)
        assert found is not None
        assert found.until_s == 62.0

    def test_lifting_says_whether_one_held(self) -> None:
        bans = Bans()
        assert not bans.lift(KEY, 0.0)
        bans.add(KEY, "over soon", 60.0, 0.0)
        assert not bans.lift(KEY, 60.0)


class TestOperator:
    """The operator's bans hold for their time, are bounded in number, and are nobody else's to end."""

    def test_a_ban_holds_for_its_time_and_knows_its_code(self) -> None:
        bans = OperatorBans()
        ban = bans.add(KEY, "it floods us", 60, 100.0)
        assert (ban.until_s, ban.reason, ban.reason.code) == (160.0, "it floods us", Code.SESSION_BANNED)
        assert bans.find([KEY], 159.9) == ban
        assert bans.find([KEY], 160.0) is None
        assert bans.active(160.0) == {}

    def test_a_peer_is_found_by_either_of_its_keys(self) -> None:
        bans = OperatorBans()
        bans.add(KEY, "the hotkey", 60, 0.0)
        longer = bans.add(b"n" * 32, "the node key", 90, 0.0)
        assert bans.find([b"x" * 32, KEY], 1.0) is not None
        assert bans.find([KEY, b"n" * 32], 1.0) == longer, "that which holds longest"
        assert bans.find([b"x" * 32], 1.0) is None

    def test_a_second_ban_sets_time_and_reason_anew(self) -> None:
        bans = OperatorBans()
        bans.add(KEY, "for long", OPERATOR_BAN_S_MAX, 0.0)
        assert bans.add(KEY, "not so long", 10, 5.0).until_s == 15.0
        assert len(bans.active(6.0)) == 1
        assert bans.count == 2

    def test_lifting_says_whether_one_held(self) -> None:
        bans = OperatorBans()
        bans.add(KEY, "a mistake", 60, 0.0)
        assert bans.lift(KEY, 1.0)
        assert bans.find([KEY], 1.0) is None
        assert not bans.lift(KEY, 1.0)

    def test_more_than_are_kept_are_refused_until_some_end(self) -> None:
        bans = OperatorBans()
        for number in range(OPERATOR_BANS_MAX):
            bans.add(number.to_bytes(32), "many", 60 if number else 30, 0.0)
        with pytest.raises(TooManyBansError, match="1024 peers are banned already") as refused:
            bans.add(KEY, "one too many", 60, 1.0)
        assert refused.value.code == Code.ADMIN_BANS_FULL
        bans.add((1).to_bytes(32), "one of them anew", 60, 1.0)
        bans.add(KEY, "there is room again", 60, 30.0)
        assert len(bans.active(30.0)) == OPERATOR_BANS_MAX
