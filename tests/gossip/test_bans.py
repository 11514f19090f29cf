"""Bans end by themselves, and are bounded."""

from p2pnodes.gossip.bans import BANS_MAX, OPENING_S, OPENINGS_MAX, Bans

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
