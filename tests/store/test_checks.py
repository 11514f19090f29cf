"""The book of checks: what is due is found, what is not is left alone, and it outlives the process."""

from pathlib import Path

import pytest

from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED, Head, closing
from p2pnodes.model.requests import request_id
from p2pnodes.store import checks
from p2pnodes.store.checks import NOTE_CHARS_MAX, Check
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_reader, open_writer
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate, hotkey, memory_ledger

OWN = hotkey("//validator0").public_key
TTL_S = NETWORK.verdict_ttl_s
TTL_MS = TTL_S * 1000


class Network:
    """A ledger that hears two validators, and registrations at the first one."""

    def __init__(self) -> None:
        self.ledger = memory_ledger(who=electorate(stakes={"//validator0": 50, "//validator1": 50}))
        self.own, self.other = Author("//validator0"), Author("//validator1")
        self.hear(self.own.delegate(), self.other.delegate())

    def hear(self, *events: object) -> None:
        with self.ledger.transaction():
            outcomes = self.ledger.receive(events, NOW_MS + TTL_MS)  # type: ignore[arg-type]
        assert {outcome.result for outcome in outcomes} == {"stored"}

    def claim(self, uuid: str, nonce_s: int = NOW_S) -> bytes:
        request = add("//Alice", [uuid], nonce_s)
        self.hear(self.own.add(request, at_ms=nonce_s * 1000))
        return request_id(NETWORK.id, request)

    def enter(self, claim_id: bytes, check: Check) -> None:
        with self.ledger.transaction():
            checks.write_check(self.ledger.facts, claim_id, check)

    def due(self, now_ms: int = NOW_MS, limit: int = 10) -> list[bytes]:
        facts = self.ledger.facts
        return checks.entered(facts, now_ms, TTL_S, limit) + checks.waiting(facts, OWN, now_ms, TTL_S, limit)


@pytest.fixture
def network() -> Network:
    return Network()


class TestDue:
    """What waits for this validator's verdict, and what is to be checked again."""

    def test_an_open_claim_without_an_own_verdict_is_due(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.other.verdict(claim_id, ABSTAIN))
        assert network.due() == [claim_id]

    def test_one_with_an_own_verdict_is_not(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.own.verdict(claim_id))
        assert network.due() == []

    def test_a_decided_claim_is_not(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.other.verdict(claim_id, FAILED))
        with network.ledger.transaction():
            network.ledger.set_electorate(electorate(200, stakes={"//validator0": 1, "//validator1": 99}))
        assert network.due() == []

    def test_an_entry_is_due_from_its_moment_on(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.enter(claim_id, Check(NOW_MS + 5_000, failures=1))
        assert network.due(NOW_MS + 4_999) == []
        assert network.due(NOW_MS + 5_000) == [claim_id]

    def test_an_old_open_claim_is_as_soon_as_the_verified_owner_of_its_gpu_is_that_no_more(
        self, network: Network
    ) -> None:
        owner, request = network.claim("gpu-1"), add("//Bob", ["gpu-1"])
        rival = request_id(NETWORK.id, request)
        network.hear(network.own.add(request), network.other.verdict(owner), network.own.verdict(owner))
        later_ms = NOW_MS + TTL_MS - 60_000
        network.hear(network.own.verdict(owner, at_ms=later_ms), network.other.verdict(owner, at_ms=later_ms))
        assert network.due(NOW_MS + TTL_MS + 1_000) == []
        network.hear(network.own.verdict(owner, FAILED, at_ms=later_ms + 1_000))
        assert network.due(NOW_MS + TTL_MS + 1_000) == [rival]

    def test_no_more_are_found_than_asked_for_and_each_of_them_in_time(self, network: Network) -> None:
        """They are drawn: entries that stay due for long must not stand before the others for ever."""
        ids = {network.claim(f"gpu-{number}") for number in range(4)}
        for claim_id in ids:
            network.enter(claim_id, Check(1_000))
        draws = [network.due(limit=2) for _ in range(64)]
        assert {len(draw) for draw in draws} == {2}
        assert {claim_id for draw in draws for claim_id in draw} == ids

    def test_an_entry_of_a_clock_that_ran_ahead_is_due(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.enter(claim_id, Check(NOW_MS + TTL_MS))
        assert network.due() == []
        network.enter(claim_id, Check(NOW_MS + TTL_MS + 1))
        assert network.due() == [claim_id]

    def test_an_old_open_claim_that_owns_nothing_is_not_looked_at(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.own.delete(delete("//Alice", "nodes:gpu-1"), "gpu-1", [claim_id]))
        assert network.due(NOW_MS + TTL_MS - 1_000) == [claim_id]  # whether it stands is for whoever looks at it
        assert network.due(NOW_MS + TTL_MS + 1_000) == []

    def test_an_old_open_claim_that_owns_a_gpu_is(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        assert network.due(NOW_MS + 10 * TTL_MS) == [claim_id]


class TestDecided:
    """All decided claims are walked through, part by part: whatever changed, each of them is looked at in time."""

    def walk(self, network: Network, count: int) -> list[list[bytes]]:
        parts: list[list[bytes]] = []
        after = 0
        while True:
            part, after = checks.decided(network.ledger.facts, after, count)
            if not after:
                return parts
            parts.append(part)

    def test_each_decided_claim_is_met_once_and_open_ones_are_not(self, network: Network) -> None:
        with network.ledger.transaction():
            network.ledger.set_electorate(electorate(200, stakes={"//validator0": 1, "//validator1": 99}))
        ids = [network.claim(f"gpu-{number}") for number in range(4)]
        network.hear(
            network.other.verdict(ids[0]), network.other.verdict(ids[2]), network.other.verdict(ids[3], FAILED)
        )
        assert self.walk(network, 2) == [[ids[0]], [ids[2], ids[3]]]

    def test_one_that_is_in_the_book_is_not(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.other.verdict(claim_id))
        assert self.walk(network, 10) == [[claim_id]]
        network.enter(claim_id, Check(NOW_MS + TTL_MS))
        assert self.walk(network, 10) == [[]]

    def test_an_empty_database_has_none(self, network: Network) -> None:
        assert checks.claims(network.ledger.facts) == 0
        assert checks.decided(network.ledger.facts, 0, 10) == ([], 0)


class TestBook:
    """Entries are kept, replaced and struck out."""

    def test_an_entry_outlives_the_process_and_a_rebuild(self, tmp_path: Path) -> None:
        path = tmp_path / "p2pnodes.db"
        connection = open_writer(path)
        ledger = Ledger(connection, NETWORK)
        entry = Check(NOW_MS, 2, 1, "service down")
        with ledger.transaction():
            checks.write_check(ledger.facts, bytes(32), entry)
        with ledger.transaction():
            ledger.rebuild()
        connection.close()
        facts = Facts(open_reader(path))
        assert checks.read_check(facts, bytes(32)) == entry
        facts.close()

    def test_a_note_is_cut_and_an_entry_replaced_and_struck_out(self, network: Network) -> None:
        facts = network.ledger.facts
        network.enter(bytes(32), Check(1, note="x" * 2_000))
        network.enter(bytes(32), Check(2, faults=1, note="y" * 2_000))
        assert checks.read_check(facts, bytes(32)) == Check(2, 0, 1, "y" * NOTE_CHARS_MAX)
        with network.ledger.transaction():
            checks.drop_check(facts, bytes(32))
        assert checks.read_check(facts, bytes(32)) is None


class TestCut:
    """What was said above the cut of an own log is due again, and nothing else."""

    LIFE_MS = TTL_MS * 8 // 10

    def cut(self, network: Network, good: int) -> None:
        """Let the own log be closed behind some events, and the book be brought in step."""
        last = network.own.events[good - 1]
        close = closing(network.own.hotkey, NETWORK.id, network.own.log, Head(last.seq, last.id))
        with network.ledger.transaction():
            network.ledger.receive_proofs([close], NOW_MS)
            checks.drop_unsaid(network.ledger.facts, OWN, self.LIFE_MS)

    def test_a_verdict_that_is_gone_is_due_again(self, network: Network) -> None:
        kept, gone = network.claim("gpu-1"), network.claim("gpu-2")
        network.hear(network.own.verdict(kept), network.own.verdict(gone))
        for claim_id in (kept, gone):
            network.enter(claim_id, Check(NOW_MS + TTL_MS // 2))
        assert network.due() == []
        self.cut(network, good=4)
        assert network.due() == [gone]
        assert checks.read_check(network.ledger.facts, kept) is not None

    def test_a_renewal_that_is_gone_is_due_before_what_it_renewed_lapses(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.own.verdict(claim_id), network.own.verdict(claim_id, at_ms=NOW_MS + TTL_MS // 2))
        network.enter(claim_id, Check(NOW_MS + TTL_MS))
        self.cut(network, good=3)
        assert checks.read_check(network.ledger.facts, claim_id) is None

    def test_a_fault_says_nothing_and_stays_in_the_book(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        entry = Check(NOW_MS + 5_000, faults=3, note="service down")
        network.enter(claim_id, entry)
        self.cut(network, good=2)
        assert checks.read_check(network.ledger.facts, claim_id) == entry


class TestProspect:
    """A claim that can be checked, with the votes on it."""

    def test_it_tells_the_own_vote_from_the_others(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.own.verdict(claim_id, FAILED), network.other.verdict(claim_id))
        found = checks.prospect(network.ledger.facts, claim_id, OWN, network.ledger.weights)
        assert found is not None
        assert found.claim.claim_id == claim_id
        assert {vote.finding for vote in found.votes} == {FAILED, VERIFIED}
        assert found.own is not None
        assert found.own.finding == FAILED

    def test_a_claim_that_is_deleted_unknown_or_only_voted_on_is_none(self, network: Network) -> None:
        claim_id = network.claim("gpu-1")
        network.hear(network.own.delete(delete("//Alice", "nodes:gpu-1"), "gpu-1", [claim_id]))
        network.hear(network.other.verdict(b"\1" * 32))
        for unknown in (claim_id, b"\1" * 32, b"\2" * 32):
            assert checks.prospect(network.ledger.facts, unknown, OWN, network.ledger.weights) is None
