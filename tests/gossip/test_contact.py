"""Writes stop in time where nobody hears of them (``gossip.contact``)."""

from typing import Final

import pytest

from p2pnodes.gossip.contact import LIMIT_PARTS, NOTED_PARTS, Contact
from tests.support import NETWORK

LIMIT_MS: Final = NETWORK.horizon_s * 1000 // LIMIT_PARTS
OWN, SMALL, LARGE = b"own", b"small", b"large"
STAKES: Final = {OWN: 30, SMALL: 30, LARGE: 40}


class TestContact:
    """A quorum of the stake, one's own among it, must have been heard of within half the horizon."""

    def test_everybody_counts_as_heard_of_at_the_start(self) -> None:
        contact = Contact(NETWORK, 1_000)
        assert not contact.lost(OWN, STAKES, 1_000 + LIMIT_MS)
        assert contact.lost(OWN, STAKES, 1_001 + LIMIT_MS)

    @pytest.mark.parametrize(("heard", "lost"), [((), True), ((SMALL,), False), ((LARGE,), False)])
    def test_more_than_half_of_the_stake_is_enough(self, heard: tuple[bytes, ...], lost: bool) -> None:
        contact = Contact(NETWORK, 0)
        contact.note(heard, LIMIT_MS)
        assert contact.lost(OWN, STAKES, 2 * LIMIT_MS) is lost

    def test_exactly_half_is_too_little(self) -> None:
        contact = Contact(NETWORK, 0)
        contact.note((SMALL,), LIMIT_MS)
        assert contact.lost(OWN, {OWN: 30, SMALL: 20, LARGE: 50}, LIMIT_MS + 1)

    def test_who_is_alone_has_nobody_to_lose(self) -> None:
        assert not Contact(NETWORK, 0).lost(OWN, {OWN: 30}, 9 * LIMIT_MS)

    def test_an_observer_has_no_stake_of_its_own(self) -> None:
        contact = Contact(NETWORK, 0)
        contact.note((LARGE,), LIMIT_MS)
        assert contact.lost(None, STAKES, 2 * LIMIT_MS)

    def test_it_remembers_nobody_who_is_not_enrolled(self) -> None:
        contact = Contact(NETWORK, 0)
        contact.note((SMALL, b"gone"), 5)
        contact.lost(OWN, STAKES, 6)
        assert vars(contact)["_heard"] == {SMALL: 5}

    def test_what_a_start_goes_on_from_is_news_once_in_a_part_of_the_time(self) -> None:
        part_ms = LIMIT_MS // NOTED_PARTS
        contact = Contact(NETWORK, 0)
        assert contact.news(OWN, STAKES, 2 * part_ms) is None  # nobody was heard of
        contact.note((SMALL,), 2 * part_ms)
        assert contact.news(OWN, STAKES, 2 * part_ms) == part_ms
        contact.note((SMALL,), 3 * part_ms - 1)
        assert contact.news(OWN, STAKES, 3 * part_ms - 1) is None
        assert contact.news(OWN, STAKES, 3 * part_ms) == 2 * part_ms
        assert contact.news(OWN, STAKES, LIMIT_MS) is None

    def test_a_start_goes_on_from_it(self) -> None:
        contact = Contact(NETWORK, -LIMIT_MS)
        assert not contact.lost(OWN, STAKES, 0)
        assert contact.lost(OWN, STAKES, 1)

    def test_it_is_good_again_as_soon_as_they_are_heard_of(self) -> None:
        contact = Contact(NETWORK, 0)
        assert contact.lost(OWN, STAKES, 9 * LIMIT_MS)
        contact.note((LARGE,), 9 * LIMIT_MS)
        assert not contact.lost(OWN, STAKES, 9 * LIMIT_MS)
