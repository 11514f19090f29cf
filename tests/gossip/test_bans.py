"""Bans end by themselves, grow while they come in a row, and are bounded."""

from p2pnodes.gossip.bans import BAN_S_MAX, BANS_MAX, GOOD_S, OPENING_S, OPENINGS_BAN_S, OPENINGS_MAX, Bans

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
