"""Who is named to a write that is not taken here: other validators that can be reached, the most stake first."""

from typing import Any

import pytest

from p2pnodes.api.referrals import REFERRALS_MAX, referrals

A, B, C = (bytes([number]) * 32 for number in range(1, 4))
STAKES = {A: 10, B: 30, C: 20}
URLS = {A: "https://a.example", B: "https://b.example", C: "https://c.example"}


def named(enrolled: Any = STAKES, urls: Any = URLS, *, own: bytes | None = None, private: bool = False) -> list[str]:
    return list(referrals(enrolled, urls, own=own, allow_private=private))


def test_the_highest_stake_is_named_first() -> None:
    assert named() == ["https://b.example", "https://c.example", "https://a.example"]


def test_equal_stakes_have_one_order_everywhere() -> None:
    assert named({C: 1, A: 1, B: 1}) == ["https://a.example", "https://b.example", "https://c.example"]


def test_this_daemon_is_left_out() -> None:
    assert named(own=B) == ["https://c.example", "https://a.example"]


def test_who_is_not_enrolled_or_cannot_be_reached_is_left_out() -> None:
    assert named({A: 1, B: 2}, {A: "https://a.example", B: "", C: "https://c.example"}) == ["https://a.example"]


def test_one_url_is_named_once() -> None:
    assert named(urls=dict.fromkeys(STAKES, "https://one.example")) == ["https://one.example"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000", "http://[::1]:8000", "http://[::ffff:10.0.0.1]", "http://10.0.0.1", "http://[fd00::1]"],
)
def test_private_addresses_are_named_on_devnets_alone(url: str) -> None:
    assert named({A: 1}, {A: url}) == []
    assert named({A: 1}, {A: url}, private=True) == [url]


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://", "http://[::1", "https://user:pw@a.example", "http://a b"]
)
@pytest.mark.parametrize("private", [True, False])
def test_a_text_that_is_no_base_url_is_left_out(url: str, *, private: bool) -> None:
    assert named({A: 1, B: 2}, {A: "https://a.example", B: url}, private=private) == ["https://a.example"]


def test_an_answer_names_a_bounded_number() -> None:
    stakes = {number.to_bytes(32, "big"): number for number in range(1, 65)}
    urls = {hotkey: f"https://n{stake}.example" for hotkey, stake in stakes.items()}
    found = named(stakes, urls)
    assert len(found) == REFERRALS_MAX
    assert found[0] == "https://n64.example"
