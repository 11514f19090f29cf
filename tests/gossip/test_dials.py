"""Dials are repeated for ever, with pauses that grow to a bound."""

import random

import pytest

from p2pnodes.gossip.dials import DIALS_MAX, OWN_PAUSE_S, PAUSE_S_MAX, PAUSE_S_MIN, SETTLED_S, Dial, Dials

A, B = b"a" * 32, b"b" * 32


class TestDial:
    """One address."""

    def test_the_first_try_is_due_at_once(self) -> None:
        assert Dial("http://peer", A).next_s == 0.0

    @pytest.mark.parametrize("seed", range(20))
    def test_pauses_grow_to_their_bound_and_never_stop(self, seed: int) -> None:
        rng = random.Random(seed)
        dial = Dial("http://peer", A)
        pauses = []
        for turn in range(200):
            dial.failed("no", turn * 100.0, rng)
            pauses.append(dial.next_s - turn * 100.0)
        assert all(PAUSE_S_MIN <= pause <= PAUSE_S_MAX for pause in pauses)
        assert pauses[0] <= 2 * PAUSE_S_MIN
        assert max(pauses) > PAUSE_S_MAX / 2
        assert len(set(pauses)) == len(pauses)

    def test_a_reason_is_news_once(self) -> None:
        rng = random.Random(0)
        dial = Dial("http://peer", A)
        assert [dial.failed(reason, 0.0, rng) for reason in ("x", "x", "y", "x")] == [True, False, True, True]

    def test_a_session_that_lasted_makes_the_next_pause_short(self) -> None:
        rng = random.Random(0)
        dial = Dial("http://peer", A)
        for _ in range(20):
            dial.failed("no", 0.0, rng)
        dial.ended(SETTLED_S, 100.0, rng)
        assert dial.next_s <= 100.0 + 2 * PAUSE_S_MIN

    def test_sessions_that_end_at_once_are_no_success(self) -> None:
        rng = random.Random(0)
        dial = Dial("http://peer", A)
        pauses = []
        for _ in range(50):
            dial.ended(0.1, 0.0, rng)
            pauses.append(dial.next_s)
        assert max(pauses) > 10 * PAUSE_S_MIN

    def test_its_own_address_is_left_alone_for_long(self) -> None:
        dial = Dial("http://me", None)
        dial.found_itself("own node key", 5.0)
        assert dial.next_s == 5.0 + OWN_PAUSE_S


class TestDials:
    """All addresses."""

    def test_what_is_known_of_an_address_outlives_a_change_of_others(self) -> None:
        dials = Dials()
        dials.know({A: ["http://a"]}, [])
        (dial,) = dials
        dial.failed("no", 0.0, random.Random(0))
        dials.know({A: ["http://a/"], B: ["http://b"]}, ["http://c"])
        assert [(each.hotkey, each.url) for each in dials] == [(A, "http://a"), (B, "http://b"), (None, "http://c")]
        assert next(iter(dials)) is dial

    def test_another_url_of_a_hotkey_is_due_at_once(self) -> None:
        dials = Dials()
        dials.know({A: ["http://a"]}, [])
        for dial in dials:
            dial.failed("no", 0.0, random.Random(0))
        dials.know({A: ["http://elsewhere"]}, [])
        assert [(dial.url, dial.next_s) for dial in dials] == [("http://elsewhere", 0.0)]

    def test_a_bootstrap_address_is_left_to_the_hotkey_that_has_it(self) -> None:
        dials = Dials()
        dials.know({A: ["http://a"]}, ["http://a/", "http://b", "http://b/"])
        assert [(dial.hotkey, dial.url) for dial in dials] == [(A, "http://a"), (None, "http://b")]
        assert [dial.url for dial in dials.of(None)] == ["http://b"]

    def test_there_is_a_bound(self) -> None:
        dials = Dials()
        dials.know({number.to_bytes(32, "big"): [f"http://{number}"] for number in range(DIALS_MAX + 1)}, [])
        assert len(list(dials)) == DIALS_MAX

    def test_addresses_of_one_hotkey_take_turns_and_the_likeliest_begins(self) -> None:
        rng, dials = random.Random(0), Dials()
        dials.know({A: ["http://likely", "http://other"]}, [])
        tried = []
        for second in range(200):
            dial = dials.next_of(A, float(second))
            if dial is not None:
                tried.append(dial.url)
                dial.failed("no", float(second), rng)
        assert tried[:2] == ["http://likely", "http://other"]
        assert tried.count("http://other") > 3
        assert tried.count("http://likely") > 3

    def test_a_hotkey_is_dialled_at_one_address_at_a_time(self) -> None:
        dials = Dials()
        dials.know({A: ["http://likely", "http://other"]}, [])
        first = dials.next_of(A, 0.0)
        assert first is not None
        first.active = True
        assert dials.next_of(A, 0.0) is None

    def test_of_whom_no_address_is_known_none_is_tried(self) -> None:
        assert Dials().next_of(A, 0.0) is None
