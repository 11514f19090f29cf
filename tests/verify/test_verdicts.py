"""What was found becomes verdicts: each says since when its run goes on, and none says what the log has outlived."""

from typing import Final

import pytest

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.inventory import Vote
from p2pnodes.model.requests import request_id
from p2pnodes.store.checks import read_check
from p2pnodes.store.ledger import Ledger
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.turns import RENEW_EARLIEST
from p2pnodes.verify.verdicts import record_renewals, record_verdict
from tests.support import NETWORK, NOW_MS, Author, add, memory_ledger

OWN: Final = Author("//validator0")
VALIDATOR: Final = OWN.hotkey.public_key
TTL_MS: Final = NETWORK.verdict_ttl_s * 1000
SLOT_MS: Final = 1_000
ADDS: Final = [add("//Alice", [f"gpu-{number}"]) for number in range(3)]
CLAIMS: Final = [request_id(NETWORK.id, request) for request in ADDS]


@pytest.fixture
def ledger() -> Ledger:
    """A validator's own one, in which three claims were found verified."""
    ledger = memory_ledger(OWN.node_key)
    other = Author("//validator1")
    events = [other.delegate(), *map(other.add, ADDS)]
    with ledger.transaction():
        ledger.open_log(0, OWN.delegation(), NOW_MS)
        ledger.receive(events, NOW_MS)
    ledger.writes_refused = None
    for claim_id in CLAIMS:
        found(ledger, claim_id, VERIFIED, NOW_MS)
    return ledger


def found(ledger: Ledger, claim_id: bytes, finding: str, now_ms: int) -> None:
    """Write at once what was found."""
    with ledger.transaction():
        assert record_verdict(ledger, claim_id, Finding(finding), "test", VALIDATOR, SLOT_MS, now_ms)


def renew(ledger: Ledger, now_ms: int) -> int:
    """Tell of all three that they were found verified again; of how many it was said."""
    with ledger.transaction():
        return record_renewals(ledger, dict.fromkeys(CLAIMS, SLOT_MS), "test", VALIDATOR, now_ms)


def said(ledger: Ledger, claim_id: bytes) -> Vote:
    """The own verdict on a claim."""
    vote = ledger.facts.own_verdict(claim_id, VALIDATOR)
    assert vote is not None
    return vote


class TestRenewals:
    """A renewal says what the verdict before it said, of the claims of which that is still what the log says."""

    def test_a_run_began_where_it_began_however_often_it_is_renewed(self, ledger: Ledger) -> None:
        begun = {claim_id: said(ledger, claim_id).since for claim_id in CLAIMS}
        assert len(set(begun.values())) == len(CLAIMS)
        for times in range(1, 4):
            now_ms = NOW_MS + times * TTL_MS // 2
            assert renew(ledger, now_ms) == len(CLAIMS)
            for claim_id in CLAIMS:
                vote = said(ledger, claim_id)
                assert (vote.finding, vote.since) == (VERIFIED, begun[claim_id])
                assert vote.hlc >= hlc_at(now_ms)

    @pytest.mark.parametrize("finding", [FAILED, ABSTAIN])
    def test_a_claim_that_was_found_otherwise_meanwhile_is_left_out(self, ledger: Ledger, finding: str) -> None:
        now_ms = NOW_MS + TTL_MS // 2
        found(ledger, CLAIMS[1], finding, now_ms - 1)
        book = read_check(ledger.facts, CLAIMS[1])
        assert renew(ledger, now_ms) == 2
        assert said(ledger, CLAIMS[1]).finding == finding
        assert read_check(ledger.facts, CLAIMS[1]) == book

    @pytest.mark.parametrize("age", [RENEW_EARLIEST - 0.01, 1.01])
    def test_nor_is_anything_said_too_soon_or_when_the_verdict_before_has_lapsed(
        self, ledger: Ledger, age: float
    ) -> None:
        head = ledger.state.heads[OWN.log]
        assert renew(ledger, NOW_MS + int(TTL_MS * age)) == 0
        assert ledger.state.heads[OWN.log] == head

    def test_a_run_that_was_broken_begins_anew(self, ledger: Ledger) -> None:
        found(ledger, CLAIMS[0], FAILED, NOW_MS + 1_000)
        found(ledger, CLAIMS[0], VERIFIED, NOW_MS + 2_000)
        assert said(ledger, CLAIMS[0]).since == said(ledger, CLAIMS[0]).hlc
