"""Where a log forks or is closed, nothing from there on counts, in whatever order the store comes to know of it."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.branches import Ends, proof_order, rivalry
from p2pnodes.model.claims import parse_body
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import (
    VERIFIED,
    Carry,
    Close,
    Event,
    Evidence,
    Head,
    Place,
    Release,
    Verdict,
    closing,
    delegate,
)
from p2pnodes.model.inventory import Chute, Mandate, Objection
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.network import Network
from p2pnodes.model.requests import request_id
from p2pnodes.store import changes as changes_module
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store import proofs
from p2pnodes.store.admission import admit_add, admit_delete
from p2pnodes.store.audit import audit
from p2pnodes.store.changes import Changes
from p2pnodes.store.database import Commit, Database
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import FOREIGN_EVENT, OWN_LOG_CLOSED, Ledger
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import LogState, Outcome, Result
from p2pnodes.store.vector import digest_over, slice_of, vector_digest
from tests.model.world import World, worlds
from tests.store.steps import steps
from tests.store.test_equivalence import Replica, histories, live
from tests.support import (
    NETWORK,
    NOW_MS,
    NOW_S,
    Author,
    add,
    delete,
    electorate,
    forks,
    hotkey,
    memory_ledger,
)

CHUTE = Chute("chute-1", "instance-1", verified=True, public=True, name="llama", username="ann")
REQUEST = add("//Alice", ["gpu-1"])
CLAIM = request_id(NETWORK.id, REQUEST)


def receive(ledger: Ledger, *events: Event, now_ms: int = NOW_MS) -> list[Outcome]:
    with ledger.transaction():
        return ledger.receive(events, now_ms)


def prove(ledger: Ledger, *proofs: Evidence | Close, network: Network = NETWORK) -> None:
    assert network.id == ledger.network.id
    with ledger.transaction():
        ledger.receive_proofs(proofs, NOW_MS)


def twin_of(author: Author, seq: int) -> Author:
    """Another writer of the same log, who has its events below ``seq``."""
    twin = Author("//Ferdie", number=author.log.number)
    twin.hotkey, twin.node_key, twin.log = author.hotkey, author.node_key, author.log
    twin.events = author.events[:seq]
    twin.head = Head(seq - 1, twin.events[-1].id) if seq else None
    twin.clock.latest = twin.events[-1].hlc if seq else 0
    return twin


def rival_of(author: Author, seq: int) -> Event:
    """A rival of the author's event at ``seq``."""
    return twin_of(author, seq).write(Release(bytes(32), ("gpu-rival",)), at_ms=NOW_MS + seq)


def evidence_of(author: Author, seq: int) -> Evidence:
    evidence = rivalry(author.events[seq], rival_of(author, seq))
    assert evidence is not None
    return evidence


def close_of(author: Author, head: Head | None, *, signer: str | None = None) -> Close:
    return closing(hotkey(signer) if signer else author.hotkey, NETWORK.id, author.log, head)


def head_at(author: Author, seq: int) -> Head:
    return Head(seq, author.events[seq].id)


def state_of(ledger: Ledger, author: Author) -> LogState:
    return ledger.state.logs[author.log]


def shown(ledger: Ledger) -> dict[str, tuple[str, str | None]]:
    """GPU -> status and chute, as the rows stand in the table; which are those that f gives."""
    rows = ledger.facts.connection.execute("SELECT uuid, status, chute_id FROM node ORDER BY uuid").fetchall()
    computed = [(row.uuid, row.status, row.chute and row.chute.chute_id) for row in ledger.rows()]
    assert rows == computed
    return {uuid: (status, chute) for uuid, status, chute in rows}


def words_of(ledger: Ledger) -> list[tuple[str, int]]:
    """Finding and seq of every verdict that counts."""
    return ledger.facts.connection.execute("SELECT finding, seq FROM verdict ORDER BY log, seq").fetchall()


@pytest.fixture
def author() -> Author:
    """A log: 0 delegation, 1 add, 2 verified, 3 place, 4 failed, 5 release, 6 add of another claim."""
    author = Author("//validator0")
    author.delegate()
    author.add(REQUEST)
    author.verdict(CLAIM)
    author.write(Place(CLAIM, ("gpu-1",), *CHUTE))
    author.verdict(CLAIM, "failed")
    author.write(Release(CLAIM, ("gpu-1",)))
    author.add(add("//Bob", ["gpu-2", "gpu-3"]))
    return author


@pytest.fixture
def ledger() -> Ledger:
    """A ledger in which //validator0 has the say."""
    return memory_ledger(who=electorate(stakes={"//validator0": 100, "//validator1": 10, "//validator2": 10}))


WHOLE = {"gpu-1": ("failed", None), "gpu-2": ("pending", None), "gpu-3": ("pending", None)}

AT_CUT = {
    7: WHOLE,
    6: {"gpu-1": ("failed", None)},
    5: {"gpu-1": ("failed", "chute-1")},
    4: {"gpu-1": ("verified", "chute-1")},
    3: {"gpu-1": ("verified", None)},
    2: {"gpu-1": ("pending", None)},
    1: {},
    0: {},
}
"""The rows of the fixture's log, by its cut."""


class TestCut:
    """From its lowest fork or closing on, nothing in a log counts; what it said before counts again."""

    @pytest.mark.parametrize("cut", AT_CUT)
    @pytest.mark.parametrize("first", ["log", "proof"])
    def test_a_closing_leaves_what_lies_below_it(self, ledger: Ledger, author: Author, cut: int, first: str) -> None:
        close = close_of(author, head_at(author, cut - 1) if cut else None)
        teller = Author("//validator1")
        teller.delegate()
        teller.write(close)
        for log in (author, teller) if first == "log" else (teller, author):
            receive(ledger, *log.events)
        assert shown(ledger) == AT_CUT[cut]
        assert state_of(ledger, author).cut == cut
        assert state_of(ledger, author).head == author.head
        assert ledger.state.heads.get(author.log) == (head_at(author, cut - 1) if cut else None)

    @pytest.mark.parametrize("cut", range(7))
    @pytest.mark.parametrize("first", ["log", "proof"])
    def test_evidence_leaves_what_lies_below_the_fork(
        self, ledger: Ledger, author: Author, cut: int, first: str
    ) -> None:
        teller = Author("//validator1")
        teller.delegate()
        teller.write(evidence_of(author, cut))
        for log in (author, teller) if first == "log" else (teller, author):
            receive(ledger, *log.events)
        assert shown(ledger) == AT_CUT[cut]
        assert state_of(ledger, author).cut == cut

    def test_it_falls_step_by_step_as_lower_proofs_come(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        for seq in reversed(range(7)):
            proof = evidence_of(author, seq) if seq % 2 else close_of(author, head_at(author, seq - 1) if seq else None)
            prove(ledger, proof)
            assert shown(ledger) == AT_CUT[seq]

    def test_a_higher_proof_changes_nothing(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 3), close_of(author, head_at(author, 2)))
        before = ledger.state
        prove(ledger, evidence_of(author, 5), close_of(author, head_at(author, 4)))
        assert ledger.state == before

    def test_a_verdict_of_long_ago_counts_again(self, ledger: Ledger, author: Author) -> None:
        """Each word says what it replaced, so that thousands between cost nothing but their own reading."""
        for number in range(50):
            author.verdict(CLAIM, "failed" if number % 2 else "abstain")
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 3))
        assert words_of(ledger) == [("verified", 2)]

    def test_verdicts_of_one_event_come_back_claim_by_claim(self, ledger: Ledger) -> None:
        """A renewal of three claims, of which one was renewed again and one has failed since, is what counts again."""
        author = Author("//validator0")
        author.delegate()
        claims = [bytes([number]) * 32 for number in range(3)]
        author.verdict(claims[0], "failed")
        author.renew(*claims, since=5)
        author.renew(*claims[:2], since=6)
        author.verdict(claims[1], "failed")
        author.renew(*claims, since=7)

        def said() -> list[tuple[object, ...]]:
            return self._said(ledger, claims)

        receive(ledger, *author.events)
        assert said() == [("verified", 7, 5)] * 3
        prove(ledger, evidence_of(author, 5))
        assert said() == [("verified", 6, 3), ("failed", None, 4), ("verified", 5, 2)]
        prove(ledger, evidence_of(author, 4))
        assert said() == [("verified", 6, 3), ("verified", 6, 3), ("verified", 5, 2)]
        prove(ledger, evidence_of(author, 3))
        assert said() == [("verified", 5, 2)] * 3
        prove(ledger, evidence_of(author, 2))
        assert said() == [("failed", None, 1), (), ()]

    def test_a_renewal_that_comes_back_leaves_later_words_on_its_other_claims(self, ledger: Ledger) -> None:
        author = Author("//validator0")
        author.delegate()
        claims = [bytes([number]) * 32 for number in range(2)]
        author.renew(*claims, since=5)
        author.verdict(claims[1], "failed")
        author.verdict(claims[0], "failed")
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 3))
        assert self._said(ledger, claims) == [("verified", 5, 1), ("failed", None, 2)]

    @staticmethod
    def _said(ledger: Ledger, claims: list[bytes]) -> list[tuple[object, ...]]:
        """Of each claim the verdict that counts: finding, since, seq; nothing without one."""
        query = "SELECT claim_id, finding, v.since, seq FROM verdict v JOIN claim USING (claim)"
        found = {claim_id: rest for claim_id, *rest in ledger.facts.connection.execute(query)}
        return [tuple(found.get(claim_id, ())) for claim_id in claims]

    def test_a_place_of_several_gpus_comes_back_gpu_by_gpu(self, ledger: Ledger) -> None:
        author = Author("//validator0")
        author.delegate()
        uuids = ("gpu-1", "gpu-2", "gpu-3")
        request = add("//Alice", uuids)
        claim = request_id(NETWORK.id, request)
        author.add(request)
        author.write(Place(claim, ("gpu-1", "gpu-2"), *CHUTE))
        author.write(Place(claim, ("gpu-2",), *CHUTE._replace(chute_id="chute-2")))
        author.write(Release(claim, uuids))
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 4))
        assert {uuid: chute for uuid, (_, chute) in shown(ledger).items()} == {
            "gpu-1": "chute-1", "gpu-2": "chute-2", "gpu-3": None,
        }  # fmt: skip

    def test_both_gpus_of_a_reused_signature_follow_when_one_deletion_is_void(self, ledger: Ledger) -> None:
        """A deletion by a thief must not shield a GPU that its miner deleted."""
        honest, thief = Author("//validator0"), Author("//validator1")
        unbound = delete("//Alice", "nodes", NOW_S + 1)
        for log in (honest, thief):
            log.delegate()
        honest.add(add("//Alice", ["gpu-1", "gpu-2"]))
        honest.delete(unbound, "gpu-1")
        thief.delete(unbound, "gpu-2")
        receive(ledger, *honest.events, *thief.events)
        assert sorted(shown(ledger)) == ["gpu-1", "gpu-2"]
        prove(ledger, close_of(thief, head_at(thief, 0)))
        assert sorted(shown(ledger)) == ["gpu-2"]
        assert ledger.facts.deletions(["gpu-2"]) == {"gpu-2": ()}

    def test_a_validator_whose_delegation_is_void_is_not_enrolled(self, ledger: Ledger, author: Author) -> None:
        late = author.write(author.delegation(not_after=NOW_S + 60))
        receive(ledger, *author.events)
        assert ledger.facts.mandates()[author.hotkey.public_key].windows == ((NOW_S - 86_400, NOW_S + 60),)
        prove(ledger, evidence_of(author, late.seq))
        assert ledger.facts.mandates()[author.hotkey.public_key].windows == ((NOW_S - 86_400, NOW_S + 30 * 86_400),)
        prove(ledger, close_of(author, None))
        assert author.hotkey.public_key not in ledger.weights.enrolled
        assert ledger.facts.urls() == {}

    def test_more_than_followers_are_told_of_is_settled_all_the_same(
        self, ledger: Ledger, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes_module, "CHANGES_MAX", 3)
        receive(ledger, *author.events)
        ledger.news.take_changes()
        prove(ledger, close_of(author, None))
        assert shown(ledger) == {}
        assert ledger.news.take_changes() == Changes(too_many=True)

    def test_followers_are_told_of_each_gpu_that_it_changes(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        ledger.news.take_changes()
        prove(ledger, evidence_of(author, 4))
        changes = ledger.news.take_changes()
        assert changes is not None
        assert changes.nodes == ("gpu-1",)
        assert {gone.uuid for gone in changes.gone} == {"gpu-2", "gpu-3"}
        assert set(changes.claims) >= {ledger.facts.claim_key(CLAIM)}


class TestCost:
    """What a hostile log holds costs its storing alone: nothing reads all of it again."""

    EVENTS = 400

    def test_a_cut_that_moves_does_not_read_the_void_events_below_it(self, ledger: Ledger) -> None:
        author = Author("//validator0")
        author.delegate()
        for _ in range(self.EVENTS):
            author.write(Release(bytes(32), ("gpu-1",)), hlc=author.events[0].hlc)
        receive(ledger, *author.events)
        lower = [evidence_of(author, seq) for seq in range(self.EVENTS, self.EVENTS - 8, -1)]

        def one_by_one() -> None:
            for proof in lower:
                prove(ledger, proof)

        assert steps(ledger.facts.connection, one_by_one, 100) < self.EVENTS // 8
        assert state_of(ledger, author).hlc == author.events[0].hlc
        assert reloaded(ledger).state == ledger.state

    def test_of_many_proofs_a_log_takes_the_lowest_of_each_kind_that_holds(
        self, ledger: Ledger, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receive(ledger, *author.events)
        taken: list[Evidence | Close] = []
        take_end = Ledger._take_end

        def note(ledger: Ledger, proof: Evidence | Close, seen_ms: int) -> None:
            taken.append(proof)
            take_end(ledger, proof, seen_ms)

        monkeypatch.setattr(Ledger, "_take_end", note)
        forks = [evidence_of(author, seq) for seq in (6, 5, 4, 3)]
        bad = evidence_of(author, 2)._replace(first_signature=bytes(64))
        closes = [close_of(author, head_at(author, seq)) for seq in (5, 4, 3)]
        prove(ledger, *forks, bad, *closes)
        assert sorted(taken, key=proof_order) == [forks[-1], closes[-1]]
        assert state_of(ledger, author).ends == Ends(forks[-1], closes[-1])

    def test_who_speaks_and_where_is_read_from_the_latest_delegations(self, ledger: Ledger) -> None:
        author = Author("//validator0")
        for _ in range(self.EVENTS):
            author.write(author.delegation())
        last = author.write(
            delegate(
                author.hotkey, NETWORK.id, author.log,
                url="http://192.0.2.9", not_before=NOW_S - 86_400, not_after=NOW_S + 60,
            )
        )  # fmt: skip
        author.write(author.delegation())
        receive(ledger, *author.events)
        prove(ledger, close_of(author, head_at(author, last.seq)))
        facts, key = ledger.facts, author.hotkey.public_key
        assert steps(ledger.facts.connection, lambda: (facts.mandates(), facts.urls()), 100) < self.EVENTS // 50
        assert facts.mandates() == {key: Mandate(((NOW_S - 86_400, NOW_S + 60),), author.events[0].hlc)}
        assert facts.urls() == {key: "http://192.0.2.9"}


class TestClosing:
    """A closing names the last good event; the lowest one by the log's own hotkey counts."""

    def test_a_closing_by_another_hotkey_closes_nothing(self, ledger: Ledger, author: Author) -> None:
        teller = Author("//validator1")
        teller.delegate()
        teller.write(close_of(author, None, signer="//validator1"))
        receive(ledger, *teller.events, *author.events)
        receive(ledger, teller.write(close_of(author, head_at(author, 0), signer="//validator2")))
        prove(ledger, close_of(author, None, signer="//validator2"))
        assert shown(ledger) == WHOLE
        assert state_of(ledger, author).ends == Ends()

    def test_one_that_names_what_is_not_held_yet_lets_that_in_and_no_more(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events[:3])
        prove(ledger, close_of(author, head_at(author, 3)))
        assert (state_of(ledger, author).cut, state_of(ledger, author).counted) == (4, head_at(author, 2))
        receive(ledger, *author.events[3:])
        assert shown(ledger) == AT_CUT[4]
        assert state_of(ledger, author).counted == head_at(author, 3)

    def test_an_event_that_it_does_not_name_where_it_names_one_is_void(self, ledger: Ledger, author: Author) -> None:
        """It lies on another branch than the one that ends in the closing's id."""
        receive(ledger, *author.events[:3])
        prove(ledger, close_of(author, Head(3, bytes(32))))
        assert state_of(ledger, author).cut == 4
        receive(ledger, *author.events[3:])
        assert state_of(ledger, author).cut == 3
        assert shown(ledger) == AT_CUT[3]

    def test_of_two_that_name_one_seq_the_lower_id_counts_in_either_order(self, author: Author) -> None:
        """Even where the log so counts up to one event more than before."""
        own, higher = close_of(author, head_at(author, 3)), close_of(author, Head(3, b"\xff" * 32))
        for order in ((own, higher), (higher, own)):
            ledger = memory_ledger(who=electorate(stakes={"//validator0": 100}))
            receive(ledger, *author.events)
            for close in order:
                prove(ledger, close)
            assert state_of(ledger, author).cut == 4
            assert shown(ledger) == AT_CUT[4]
            prove(ledger, evidence_of(author, 3))
            assert shown(ledger) == AT_CUT[3]

    def test_the_highest_seq_that_there_is_can_be_named(self, ledger: Ledger, author: Author) -> None:
        author.write(close_of(author, Head(codec.INT_MAX, bytes(32))))
        receive(ledger, *author.events)
        prove(ledger, close_of(author, Head(codec.INT_MAX - 1, bytes(32))))
        assert shown(ledger) == WHOLE
        assert state_of(ledger, author).cut == codec.INT_MAX
        assert reloaded(ledger).state == ledger.state

    def test_the_log_that_it_closes_may_be_its_own(self, ledger: Ledger, author: Author) -> None:
        author.write(close_of(author, head_at(author, 4)))
        receive(ledger, *author.events)
        assert shown(ledger) == AT_CUT[5]


class TestFork:
    """Two events of one log with equal seq and equal previous id prove a fork; whoever sees them keeps the proof."""

    @pytest.mark.parametrize("seq", range(1, 7))
    def test_a_rival_proves_it(self, ledger: Ledger, author: Author, seq: int) -> None:
        receive(ledger, *author.events)
        (outcome,) = receive(ledger, rival_of(author, seq))
        assert (outcome.result, outcome.proved) == (Result.FORK, True)
        assert shown(ledger) == AT_CUT[seq]
        assert state_of(ledger, author).ends == Ends(evidence_of(author, seq))
        assert forks(ledger) == {author.log: seq}

    def test_an_event_further_up_the_other_branch_does_not_yet(self, ledger: Ledger, author: Author) -> None:
        twin = twin_of(author, 3)
        events = [twin.write(Release(bytes(32), (f"gpu-{n}",)), at_ms=NOW_MS + n) for n in range(5)]
        receive(ledger, *author.events)
        for event in (events[4], events[2], events[1]):  # the next one, those at its seq
            assert receive(ledger, event) == [Outcome(event, Result.FORK, receive(ledger, event)[0].detail)]
        assert state_of(ledger, author).cut is None
        assert receive(ledger, events[0])[0].proved
        assert state_of(ledger, author).cut == 3

    def test_the_lowest_counts_and_the_first_seen_of_equals_is_kept(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events, rival_of(author, 4))
        kept = state_of(ledger, author).ends
        another = twin_of(author, 4).write(Release(bytes(32), ("gpu-other",)))
        receive(ledger, another)
        assert state_of(ledger, author).ends == kept
        receive(ledger, rival_of(author, 2))
        assert state_of(ledger, author).ends.fork == 2
        assert forks(ledger) == {author.log: 2}

    def test_whichever_branch_was_stored_first_the_state_is_the_same(self, author: Author) -> None:
        twin = twin_of(author, 3)
        twin.verdict(CLAIM, "failed", at_ms=NOW_MS + 5)
        twin.add(add("//Charlie", ["gpu-9"]), at_ms=NOW_MS + 6)
        states = []
        for one, other in ((author, twin), (twin, author)):
            ledger = memory_ledger()
            receive(ledger, *one.events, *other.events)
            states.append(ledger.state)
        assert states[0].heads == states[1].heads == {author.log: head_at(author, 2)}
        assert states[0].vector_digest == states[1].vector_digest
        assert states[0].state_root == states[1].state_root
        assert states[0].ends == states[1].ends

    def test_the_branch_that_is_stored_goes_on_and_counts_for_nothing(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events[:5], rival_of(author, 4))
        outcomes = receive(ledger, *author.events[5:])
        assert {outcome.result for outcome in outcomes} == {Result.STORED}
        assert shown(ledger) == AT_CUT[4]
        assert ledger.read(author.log, 6, 1) == [author.events[6].wire]

    def test_a_proof_counts_in_a_log_that_is_cut_itself(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events, rival_of(author, 5))
        assert shown(ledger) == AT_CUT[5]
        receive(ledger, author.write(evidence_of(author, 3)))
        assert shown(ledger) == AT_CUT[3]

    def test_a_proof_counts_whose_author_holds_no_permit(self, ledger: Ledger, author: Author) -> None:
        teller = Author("//validator1")
        teller.delegate()
        teller.write(evidence_of(author, 3))
        receive(ledger, *teller.events)
        with ledger.transaction():
            ledger.set_electorate(electorate(200, stakes={"//validator0": 100}))
        receive(ledger, *author.events)
        assert shown(ledger) == AT_CUT[3]

    def test_a_log_that_forks_at_its_first_event_says_nothing_not_even_whom_it_speaks_for(self) -> None:
        """Two hotkeys may have delegated to one log: peers that hold different ones must still compare as equal."""
        author = Author("//validator0")
        author.delegate()
        other = hotkey("//validator1")
        twin = twin_of(author, 0)
        twin.write(
            delegate(other, NETWORK.id, author.log, url="", not_before=NOW_S - 60, not_after=NOW_S + 60),
            at_ms=NOW_MS - 1000,
        )
        states = []
        for one, rival in ((author, twin), (twin, author)):
            ledger = memory_ledger()
            receive(ledger, *one.events, *rival.events)
            prove(ledger, close_of(author, head_at(author, 0)))
            states.append(ledger.state)
            assert ledger.weights.enrolled == {}
        assert [state.heads for state in states] == [{}, {}]
        assert states[0].vector_digest == states[1].vector_digest == vector_digest({}, {})

    def test_the_vector_digest_covers_what_is_proved(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        before = ledger.state.vector_digest
        prove(ledger, close_of(author, author.head))
        assert ledger.state.heads == {author.log: author.head}
        assert ledger.state.vector_digest != before
        assert author.head is not None
        packed = codec.pack([[*author.log, *author.head, [None, [7, author.head.id]]]])
        assert ledger.state.slices[slice_of(author.log)] == codec.digest(packed, 16)
        assert ledger.state.vector_digest == digest_over(ledger.state.slices)


class TestWhatIsAboveACut:
    """It stays: known, readable, ready to be carried by somebody else."""

    def test_a_request_stays_known_and_is_carried_by_nobody(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, close_of(author, head_at(author, 0)))
        key = ledger.facts.claim_key(CLAIM)
        assert key is not None
        claim = ledger.facts.claim(key)
        assert claim is not None
        assert (claim.carriages, claim.uuids) == ((), ("gpu-1",))
        assert ledger.facts.raw_body(CLAIM) == REQUEST.body
        stored = ledger.facts.stored(key, ledger.weights)
        assert stored is not None
        assert stored.created_hlc == author.events[1].hlc

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_it_counts_when_somebody_else_carries_it(self, ledger: Ledger, author: Author, when: str) -> None:
        carrier = Author("//validator1")
        carrier.delegate()
        carrier.write(Carry((author.events[1].wire,)))
        close = close_of(author, head_at(author, 0))
        logs: list[Author] = [author, carrier] if when == "before" else [carrier, author]
        receive(ledger, *logs[0].events)
        prove(ledger, close)
        receive(ledger, *logs[1].events)
        prove(ledger, close)
        assert shown(ledger) == {"gpu-1": ("pending", None)}
        assert state_of(ledger, author).cut == 1

    def test_verifiers_hear_of_it_when_it_first_counts(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, author.events[0])
        prove(ledger, close_of(author, head_at(author, 0)))
        receive(ledger, *author.events[1:])
        assert ledger.news.take_new_claims() == []
        assert ledger.news.take_voted() == []
        carrier = Author("//validator1")
        carrier.delegate()
        carrier.write(Carry((author.events[1].wire,)))
        receive(ledger, *carrier.events)
        assert ledger.news.take_new_claims() == [CLAIM]
        again = Author("//validator2")
        again.delegate()
        again.write(Carry((author.events[1].wire,)))
        receive(ledger, *again.events)
        assert ledger.news.take_new_claims() == []

    def test_a_retry_of_it_is_recorded_here(self, author: Author) -> None:
        own = Author("//validator1")
        ledger = writing_ledger(own)
        receive(ledger, *author.events)
        prove(ledger, close_of(author, head_at(author, 0)))
        with ledger.transaction():
            stored = admit_add(ledger, REQUEST, parse_body(REQUEST.body), None, NOW_MS)
        assert stored.claim_id == CLAIM
        assert shown(ledger) == {"gpu-1": ("pending", None)}

    def test_a_void_deletion_does_not_answer_for_a_new_one(self, author: Author) -> None:
        own, thief = Author("//validator1"), Author("//validator2")
        ledger = writing_ledger(own)
        request = delete("//Alice", "nodes:gpu-1", NOW_S + 1)
        thief.delegate()
        thief.delete(request, "gpu-1", [CLAIM])
        receive(ledger, *author.events, *thief.events)
        prove(ledger, close_of(thief, head_at(thief, 0)))
        assert "gpu-1" in shown(ledger)
        with ledger.transaction():
            admit_delete(ledger, request, "gpu-1", NOW_MS)
        assert "gpu-1" not in shown(ledger)

    def test_it_is_explained(self, ledger: Ledger, author: Author) -> None:
        author.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1", [CLAIM])
        receive(ledger, *author.events)
        prove(ledger, close_of(author, head_at(author, 0)))
        case = ledger.facts.explain_claim(CLAIM, ledger.weights)
        assert case is not None
        assert [objection for _, objection in case.carriages] == [Objection.CUT]
        assert case.objection is Objection.NOT_CARRIED
        node = ledger.facts.explain_node("gpu-1", ledger.weights)
        assert node is not None
        assert node.row is None
        assert [ending for _, ending in node.deletions] == [Objection.CUT]

    def test_operators_see_where_each_log_is_cut(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events, rival_of(author, 5))
        prove(ledger, close_of(author, head_at(author, 3)))
        execute = ledger.facts.connection.execute
        assert execute("SELECT forked, closed, cut FROM peers").fetchall() == [(5, 4, 4)]
        states = [state for (state,) in execute("SELECT state FROM event_log ORDER BY seq")]
        assert states == [*["valid"] * 4, *["cut"] * 3]

    def test_a_proof_of_a_claim_holds_nothing_of_it(self, ledger: Ledger, author: Author) -> None:
        late = author.write(author.delegation())
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 4))
        found = proofs.gather(ledger.facts, "gpu-1", ledger.weights)
        assert found is not None
        assert {Event.decode(wire).seq for wire in found.events} == {0, 1, 2}
        assert late.wire not in found.events


def writing_ledger(own: Author) -> Ledger:
    """A ledger with an own log that may write."""
    ledger = memory_ledger(NodeKey.from_seed(own.node_key.seed))
    with ledger.transaction():
        ledger.open_log(own.log.number, own.delegation(), NOW_MS)
    ledger.writes_refused = None
    return ledger


def reloaded(ledger: Ledger) -> Ledger:
    """The same database, as a daemon that starts finds it."""
    return Ledger(ledger.facts.connection, NETWORK)


def verdict_at(hlc: int) -> Verdict:
    return Verdict(bytes(32), VERIFIED, "none", "", hlc)


class TestProofsFromPeers:
    """Whatever a peer sends as proof changes nothing unless it proves something new of a log that is held."""

    def test_one_of_a_log_that_is_not_held_is_not_kept(self, ledger: Ledger, author: Author) -> None:
        prove(ledger, evidence_of(author, 3), close_of(author, None))
        receive(ledger, *author.events)
        assert shown(ledger) == WHOLE
        for table in ("fork", "closing"):
            assert ledger.facts.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)

    def test_what_proves_nothing_changes_nothing(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        before = ledger.state
        good, close = evidence_of(author, 3), close_of(author, head_at(author, 2))
        flipped = bytes([close.signature[0] ^ 1]) + close.signature[1:]
        foreign = Network(genesis_hash="1" * 64, netuid=64)
        hostile: Iterable[Evidence | Close] = (
            close._replace(signature=flipped),
            close._replace(head=None),
            close._replace(signature=b""),
            closing(author.hotkey, foreign.id, author.log, None),
            close_of(author, None, signer="//validator1"),
            good._replace(first_signature=flipped),
            good._replace(second_signature=good.first_signature),
            good._replace(second=good.first, second_signature=good.first_signature),
            Evidence(good.second, good.second_signature, good.first, good.first_signature),
            good._replace(first=b"\xc0"),
            good._replace(first=good.first + bytes(1 << 20)),
            good._replace(second=b""),
            rivals_of_different_events(author),
            *(evidence_on(author, network) for network in (foreign,)),
        )
        for proof in hostile:
            prove(ledger, proof)
            assert ledger.state == before
        assert ledger.news.take_ended() == []

    def test_a_bad_one_does_not_stop_the_good_ones(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 3)._replace(first=b"\xc0"), evidence_of(author, 4))
        assert shown(ledger) == AT_CUT[4]

    def test_a_known_one_costs_no_signature(
        self, ledger: Ledger, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 3), close_of(author, head_at(author, 2)))
        asked: list[object] = []
        for name in ("check_evidence", "check_close"):
            monkeypatch.setattr(ledger_module, name, lambda *arguments: asked.append(arguments))
        prove(ledger, evidence_of(author, 3), evidence_of(author, 4), close_of(author, head_at(author, 3)))
        assert asked == []

    def test_ended_logs_are_told_once(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        assert ledger.news.take_ended() == []
        prove(ledger, evidence_of(author, 3))
        assert ledger.news.take_ended() == [author.log]
        prove(ledger, evidence_of(author, 3))
        assert ledger.news.take_ended() == []

    def test_a_log_that_comes_after_its_proof_is_told_too(self, ledger: Ledger, author: Author) -> None:
        teller = Author("//validator1")
        teller.delegate()
        teller.write(evidence_of(author, 3))
        receive(ledger, *teller.events)
        assert ledger.news.take_ended() == []
        receive(ledger, author.events[0])
        assert ledger.news.take_ended() == [author.log]


def rivals_of_different_events(author: Author) -> Evidence:
    """Two events of one log and seq that continue different ones."""
    twin = twin_of(author, 3)
    twin.write(Release(bytes(32), ("gpu-rival",)))
    child = twin.write(Release(bytes(32), ("gpu-rival",)))
    first, second = sorted((child, author.events[4]), key=lambda event: event.id)
    return Evidence(first.header, first.signature, second.header, second.signature)


def evidence_on(author: Author, network: Network) -> Evidence:
    """A fork of the same log on another network."""
    events = [
        Event.create(
            author.node_key, network.id, log_number=author.log.number, seq=0, previous=b"", hlc=hlc,
            payload=Release(bytes(32), ("gpu-1",)),
        )
        for hlc in (1, 2)
    ]  # fmt: skip
    evidence = rivalry(*events)
    assert evidence is not None
    return evidence


class TestClock:
    """What counts for nothing does not hold the clock ahead (rule 8)."""

    AHEAD_MS = NOW_MS + 50_000

    def test_a_closing_below_what_was_written_ahead_sets_the_clock_back(self, ledger: Ledger, author: Author) -> None:
        last = author.head
        author.verdict(CLAIM, at_ms=self.AHEAD_MS)
        receive(ledger, *author.events)
        assert ledger.clock.ahead_ms(NOW_MS) == 50_000
        prove(ledger, close_of(author, last))
        assert ledger.clock.latest == author.events[-2].hlc
        assert reloaded(ledger).clock.latest == ledger.clock.latest

    def test_what_is_stored_above_a_cut_never_sets_it_ahead(self, ledger: Ledger, author: Author) -> None:
        receive(ledger, *author.events)
        prove(ledger, close_of(author, author.head))
        before = ledger.clock.latest
        receive(ledger, author.verdict(CLAIM, at_ms=self.AHEAD_MS))
        assert ledger.clock.latest == before
        assert reloaded(ledger).clock.latest == before

    def test_where_nothing_counts_it_stands_where_that_of_a_new_daemon_stands(
        self, ledger: Ledger, author: Author
    ) -> None:
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 0))
        assert ledger.clock.latest == reloaded(ledger).clock.latest == 0

    def test_a_daemon_whose_clock_ran_ahead_closes_its_log_below_that_and_writes_on(self) -> None:
        own = Author("//validator0")
        ledger = writing_ledger(own)
        with ledger.transaction():
            good = ledger.append(verdict_at, NOW_MS)
            ledger.append(verdict_at, NOW_MS + 3_600_000)
        with pytest.raises(WritesRefusedError, match="logical clock"), ledger.transaction():
            ledger.append(verdict_at, NOW_MS)
        close = close_of(own, Head(good.seq, good.id))
        following = Author("//validator0", number=1)
        with ledger.transaction():
            ledger.receive_proofs([close], NOW_MS)
            ledger.open_log(1, following.delegation(), NOW_MS)
            ledger.append(lambda _: close, NOW_MS)
            event = ledger.append(verdict_at, NOW_MS)
        assert event.hlc < hlc_at(NOW_MS + 1000)
        assert ledger.foreign_own is None
        assert words_of(ledger) == [(VERIFIED, good.seq), (VERIFIED, event.seq)]


class TestOwnLog:
    """A daemon never writes a log on that forks or is closed (rules 4 and 5)."""

    @pytest.fixture
    def own(self) -> Author:
        return Author("//validator0")

    @pytest.fixture
    def writer(self, own: Author) -> Ledger:
        ledger = writing_ledger(own)
        with ledger.transaction():
            ledger.append(verdict_at, NOW_MS)
        own.events = [Event.decode(wire) for wire in ledger.read(own.log, 0, 1 << 20)]
        return ledger

    def refused(self, ledger: Ledger) -> str:
        with pytest.raises(WritesRefusedError) as found, ledger.transaction():
            ledger.append(verdict_at, NOW_MS)
        return str(found.value)

    @pytest.mark.parametrize("seq", [0, 1, 5])
    def test_a_closing_stops_it_wherever_it_ends(self, writer: Ledger, own: Author, seq: int) -> None:
        """One that names more than is held tells of a disk that was lost: others hold what this one must not fork."""
        prove(writer, close_of(own, Head(seq, own.events[seq].id if seq < 2 else bytes(32))))
        assert writer.foreign_own == own.log
        assert self.refused(writer) == OWN_LOG_CLOSED

    def test_evidence_stops_it(self, writer: Ledger, own: Author) -> None:
        prove(writer, evidence_of(own, 1))
        assert writer.foreign_own == own.log
        assert "fork" in self.refused(writer)

    @pytest.mark.parametrize("seq", [1, 2])
    def test_a_signed_rival_stops_it_and_proves_the_fork_where_it_can(
        self, writer: Ledger, own: Author, seq: int
    ) -> None:
        twin = twin_of(own, 1)
        events = [twin.write(Release(bytes(32), ("gpu-1",))), twin.write(Release(bytes(32), ("gpu-2",)))]
        (outcome,) = receive(writer, events[seq - 1])
        assert (outcome.result, outcome.proved) == (Result.FORK, seq == 1)
        assert self.refused(writer) == FOREIGN_EVENT

    def test_it_is_not_taken_up_after_a_restart(self, writer: Ledger, own: Author) -> None:
        prove(writer, evidence_of(own, 1))
        again = Ledger(writer.facts.connection, NETWORK, NodeKey.from_seed(own.node_key.seed))
        assert again.own_log is None

    def test_its_own_closing_ends_it_too(self, writer: Ledger, own: Author) -> None:
        with writer.transaction():
            writer.append(lambda _: close_of(own, head_at(own, 1)), NOW_MS)
        writer.foreign_own = None  # as if nobody had said so
        assert "ends at seq 2" in self.refused(writer)

    def test_a_new_log_goes_on(self, writer: Ledger, own: Author) -> None:
        prove(writer, evidence_of(own, 1))
        following = Author("//validator0", number=1)
        with writer.transaction():
            writer.open_log(1, following.delegation(), NOW_MS)
            event = writer.append(verdict_at, NOW_MS)
        assert event.log == following.log
        assert writer.foreign_own is None

    def test_another_node_key_writes_on_in_a_log_of_its_own(self, writer: Ledger, own: Author) -> None:
        fresh = Author("//validator0", seed=9)
        close = close_of(own, head_at(own, 1))
        with writer.transaction():
            writer.open_log(0, fresh.delegation(), NOW_MS, closings=[close], node_key=fresh.node_key)
        assert writer.own_log == fresh.log
        assert set(writer.own_logs()) == {fresh.log}
        assert writer.state.logs[own.log].cut == 2
        again = Ledger(writer.facts.connection, NETWORK, NodeKey.from_seed(fresh.node_key.seed))
        assert again.own_log == fresh.log

    def test_a_rotation_that_fails_leaves_the_key_and_the_log_as_they_were(self, writer: Ledger, own: Author) -> None:
        fresh = Author("//validator0", seed=9)
        before = writer.state

        def interrupted() -> None:
            with writer.transaction():
                close = close_of(own, head_at(own, 0))
                writer.open_log(0, fresh.delegation(), NOW_MS, closings=[close], node_key=fresh.node_key)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            interrupted()
        assert (writer.state, writer.own_log, writer.foreign_own) == (before, own.log, None)
        with writer.transaction():
            assert writer.append(verdict_at, NOW_MS).log == own.log


class TestDurable:
    """Ends are primary data: they outlive restarts, rebuilds and failures, and the audit knows them."""

    CHANGES: tuple[tuple[str, Callable[[Author], Evidence | Close]], ...] = (
        ("fork", lambda author: evidence_of(author, 4)),
        ("closing", lambda author: close_of(author, head_at(author, 2))),
    )

    @pytest.mark.parametrize(("_", "proof"), CHANGES)
    def test_a_restart_and_a_rebuild_change_nothing(
        self, ledger: Ledger, author: Author, _: str, proof: Callable[[Author], Evidence | Close]
    ) -> None:
        receive(ledger, *author.events)
        prove(ledger, proof(author))
        before, rows = ledger.state, shown(ledger)
        again = reloaded(ledger)
        assert (again.state, shown(again)) == (before, rows)
        with again.transaction():
            again.rebuild()
        assert (again.state, shown(again)) == (before, rows)
        prove(again, evidence_of(author, 1))
        assert shown(again) == AT_CUT[1]

    @pytest.mark.parametrize("first", ["log", "proof"])
    def test_a_rebuild_finds_ends_that_events_tell_of(self, ledger: Ledger, author: Author, first: str) -> None:
        teller = Author("//validator1")
        teller.delegate()
        teller.write(close_of(author, head_at(author, 2)))
        for log in (author, teller) if first == "log" else (teller, author):
            receive(ledger, log.events[0])
        receive(ledger, *author.events, *teller.events)
        before, rows = ledger.state, shown(ledger)
        ledger.facts.connection.execute("DELETE FROM closing")
        ledger.facts.connection.execute("UPDATE logs SET cut = NULL")
        again = reloaded(ledger)
        assert again.state != before
        with again.transaction():
            again.rebuild()
        assert (again.state, shown(again)) == (before, rows)

    @pytest.mark.parametrize(("_", "proof"), CHANGES)
    def test_a_failed_transaction_undoes_it(
        self, ledger: Ledger, author: Author, _: str, proof: Callable[[Author], Evidence | Close]
    ) -> None:
        receive(ledger, *author.events)
        before, rows, clock = ledger.state, shown(ledger), ledger.clock.latest

        def interrupted() -> None:
            with ledger.transaction():
                ledger.receive_proofs([proof(author)], NOW_MS)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            interrupted()
        assert (ledger.state, shown(ledger), ledger.clock.latest) == (before, rows, clock)
        assert ledger.news.take_ended() == []
        assert ledger.facts.cuts == {}
        prove(ledger, evidence_of(author, 3))
        assert shown(ledger) == AT_CUT[3]

    @settings(max_examples=25, deadline=None)
    @given(world=worlds(ends=True), data=st.data())
    def test_the_audit_finds_nothing_in_whatever_was_lived_through(
        self, tmp_path_factory: pytest.TempPathFactory, world: World, data: st.DataObject
    ) -> None:
        replica: Replica = live(data.draw(histories(world)), world.end_ms)
        path = tmp_path_factory.mktemp("audited") / "p2pnodes.db"
        copy = sqlite3.connect(path)
        replica.ledger.facts.connection.backup(copy)
        copy.close()
        assert audit(path, NETWORK).problems == []

    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            ("UPDATE logs SET cut = 5", "is cut at seq 5, its ends say 3"),
            ("UPDATE logs SET cut = NULL", "is cut at seq None, its ends say 3"),
            ("UPDATE fork SET seq = 3", "proof of its fork at seq 3 proves nothing"),
            ("UPDATE fork SET second = first", "proof of its fork at seq 4 proves nothing"),
            ("UPDATE closing SET id = zeroblob(32)", "does not carry its hotkey's signature"),
            ("UPDATE events SET before = NULL WHERE seq = 2", "events: only a rebuild has"),
        ],
    )
    def test_the_audit_finds_what_is_wrong(self, tmp_path: Path, author: Author, statement: str, problem: str) -> None:
        path = tmp_path / "p2pnodes.db"
        connection = open_writer(path)
        ledger = Ledger(connection, NETWORK)
        author = Author("//validator0")
        for event in (author.delegate(), author.verdict(CLAIM), author.verdict(CLAIM), author.verdict(CLAIM)):
            receive(ledger, event)
        with ledger.transaction():
            ledger.set_electorate(electorate())
        author.verdict(CLAIM)
        receive(ledger, *author.events)
        prove(ledger, evidence_of(author, 4), close_of(author, head_at(author, 2)))
        assert audit(path, NETWORK).problems == []
        connection.execute(statement)
        connection.close()
        assert any(problem in line for line in audit(path, NETWORK).problems)


class TestDatabase:
    """The daemon hears of ended logs with the commit that ended them."""

    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncIterator[Database]:
        database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: NOW_MS)
        await database.set_electorate(electorate(stakes={"//validator0": 100}))
        yield database
        await database.close()

    async def test_a_commit_names_the_logs_whose_ends_changed(self, database: Database, author: Author) -> None:
        commits: list[Commit] = []
        database.on_commit = commits.append
        await database.receive(author.events, NOW_MS)
        await database.receive_proofs([evidence_of(author, 4)], NOW_MS)
        assert [log for commit in commits for log in commit.ended] == [author.log]
        await database.receive_proofs([evidence_of(author, 4)], NOW_MS)
        assert [log for commit in commits for log in commit.ended] == [author.log]

    async def test_a_reader_sees_the_cuts_of_its_own_snapshot(self, database: Database, author: Author) -> None:
        await database.receive(author.events, NOW_MS)
        assert (await database.read(lambda facts: facts.claims_on(["gpu-2"])))["gpu-2"]
        await database.receive_proofs([close_of(author, head_at(author, 0))], NOW_MS)

        def carriages(facts: Facts) -> list[int]:
            return [
                len(claim.carriages) for on in facts.claims_on(["gpu-1", "gpu-2"]).values() for claim in on.values()
            ]

        assert await database.read(carriages) == [0, 0]
        assert await database.proof("gpu-1") is None
        case = await database.explain_claim(CLAIM)
        assert case is not None
        assert case.objection is Objection.NOT_CARRIED
