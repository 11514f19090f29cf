"""A burst at once, then a steady rate: of what one asks for, and of lines in the log."""

from p2pnodes.throttle import FewLines, TokenBuckets


class TestTokenBuckets:
    """A burst at once, then a steady rate, per key, in a bounded table."""

    def test_a_burst_is_granted_and_then_the_rate(self) -> None:
        buckets = TokenBuckets(rate=2, burst=3)
        assert [buckets.take("a", 0) for _ in range(3)] == [0, 0, 0]
        assert buckets.take("a", 0) == 0.5
        assert buckets.take("a", 0.25) == 0.25
        assert buckets.take("a", 0.5) == 0
        assert buckets.take("a", 0.5) == 0.5

    def test_asking_for_the_wait_takes_nothing(self) -> None:
        buckets = TokenBuckets(rate=1, burst=1)
        assert [buckets.wait_s("a", 0) for _ in range(3)] == [0, 0, 0]
        buckets.take("a", 0)
        assert buckets.wait_s("a", 0.5) == 0.5

    def test_keys_do_not_share(self) -> None:
        buckets = TokenBuckets(rate=1, burst=1)
        assert (buckets.take("a", 0), buckets.take("b", 0)) == (0, 0)

    def test_a_rest_refills_no_more_than_the_burst(self) -> None:
        buckets = TokenBuckets(rate=10, burst=2)
        buckets.take("a", 0)
        assert [buckets.take("a", 1000) > 0 for _ in range(3)] == [False, False, True]

    def test_a_clock_that_goes_back_neither_grants_nor_blocks(self) -> None:
        buckets = TokenBuckets(rate=1, burst=1)
        buckets.take("a", 1000)
        assert buckets.take("a", 0) == 1
        assert buckets.take("a", 1) == 0

    def test_the_table_is_bounded_and_forgets_who_was_quiet_the_longest(self) -> None:
        buckets = TokenBuckets(rate=1, burst=1, size=3)
        for key in "abcad":
            buckets.take(key, 0)
        assert len(buckets) == 3
        assert buckets.take("a", 0) > 0
        assert buckets.take("b", 0) == 0


def test_lines_that_were_left_out_are_counted_in_the_next_one() -> None:
    now_s = 0.0
    lines = FewLines(2, 0.5, lambda: now_s)
    assert [lines.take() for _ in range(5)] == [0, 0, None, None, None]
    now_s = 1.9
    assert lines.take() is None
    now_s = 2.0
    assert [lines.take(), lines.take()] == [4, None]
