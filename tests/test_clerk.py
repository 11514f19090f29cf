"""The clerk: when it proposes, what it signs, and that a difference takes nothing away."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from p2pnodes import clerk as clerk_module
from p2pnodes.clerk import (
    BUSY,
    DISPLACED_MS,
    IDLE,
    MARGINS_PER_HORIZON,
    MOMENTS_PER_MARGIN,
    REST_MS_MAX,
    TURN_MS_MIN,
    Clerk,
    Office,
    Step,
)
from p2pnodes.model import checkpoint
from p2pnodes.model.branches import displaced, rivalry
from p2pnodes.model.checkpoint import Certificate, Line, Signature, due_number, rendezvous_key, suffices
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import (
    Checkpoint,
    Close,
    Evidence,
    Head,
    LogId,
    Propose,
    Release,
    closing,
    delegate,
)
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.rendezvous import ranking
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store.checkpoints import ELECTORATES_KEPT, STATEMENTS_MAX
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import cut_of, entry_at, proposal, refusal
from p2pnodes.store.schema import open_writer
from tests.store.test_checkpoints import found
from tests.support import (
    NETWORK,
    NOW_MS,
    NOW_S,
    VALIDATORS,
    Author,
    add,
    electorate,
    hotkey,
    machine_sleeps,
    proposals,
    signatures,
)

HORIZON_MS: Final = NETWORK.horizon_s * 1000
MARGIN_MS: Final = HORIZON_MS // MARGINS_PER_HORIZON
TURN_MS: Final = max(TURN_MS_MIN, HORIZON_MS // 1_024)
LATER_MS: Final = NOW_MS + 8 * 86_400_000
OWN: Final = VALIDATORS[0]
STEPS_MAX: Final = 200


class Desk:
    """A daemon whose clerk is asked, eight days after its validators have opened their logs."""

    def __init__(self, own: str = OWN) -> None:
        node_key = NodeKey.from_seed(bytes(range(32)))
        self.ledger = Ledger(open_writer(":memory:"), NETWORK, node_key)
        self.own = hotkey(own).public_key
        self.log = LogId(node_key.public_key, 0)
        until_s = NOW_S + 30 * 86_400
        delegation = delegate(hotkey(own), NETWORK.id, self.log, url="", not_before=NOW_S - 3_600, not_after=until_s)
        self.others = {uri: Author(uri) for uri in VALIDATORS if uri != own}
        with self.ledger.transaction():
            self.ledger.set_electorate(electorate())
            self.ledger.open_log(0, delegation, NOW_MS)
            for author in self.others.values():
                self.ledger.receive([author.delegate()], NOW_MS)
        self.ledger.writes_refused = None
        self.clerk = Clerk()
        self.now_ms = 0
        """By the clock that never goes back."""
        self.weigh(LATER_MS)

    def weigh(self, time_ms: int) -> None:
        """Let the chain's time go on."""
        with self.ledger.transaction():
            self.ledger.set_electorate(electorate(time_ms=time_ms))
        self.wall_ms = time_ms

    def step(self, after_ms: int = 0) -> Step:
        """Let time pass, in which the clerk looks around as it does in a daemon, and take one step."""
        while after_ms > MARGIN_MS:
            self.now_ms += MARGIN_MS
            after_ms -= MARGIN_MS
            self.clerk._remember(self.ledger, self.now_ms)
        self.now_ms += after_ms
        with self.ledger.transaction():
            return self.clerk.step(self.ledger, self.own, self.now_ms, self.wall_ms)

    def work(self, after_ms: int = 0) -> list[str]:
        """Let time pass, and take steps until there is nothing to do; what was told."""
        told = []
        for _ in range(STEPS_MAX):
            step = self.step(after_ms)
            after_ms = 0
            told += [step.event] if step.event else []
            if not step.busy and not step.event:
                return told
        raise AssertionError(f"there is always something to do: {told}")

    def awake(self) -> list[str]:
        """Be up for as long as a clerk must before it signs, until it is everybody's turn."""
        self.work()
        return self.work(MARGIN_MS + len(VALIDATORS) * TURN_MS)

    def hear(self, uri: str, payload: Propose | Checkpoint) -> bytes:
        """Take an event of another validator; its id."""
        event = self.others[uri].write(payload, at_ms=self.wall_ms)
        with self.ledger.transaction():
            (outcome,) = self.ledger.receive([event], self.wall_ms)
        assert not outcome.detail
        return event.id

    @property
    def number(self) -> int:
        """What is due."""
        return due_number(NETWORK, self.ledger.weights.electorate)

    @property
    def signed(self) -> list[Checkpoint]:
        """What the own validator has signed of it."""
        return [said for who, said in signatures(self.ledger, self.number) if who == self.own]

    def order(self) -> list[str]:
        """Who proposes, one after the other."""
        keys = ranking(rendezvous_key(NETWORK, self.number), self.ledger.weights.enrolled)
        names = {hotkey(uri).public_key: uri for uri in VALIDATORS}
        return [names[key] for key in keys]

    def events(self) -> int:
        """How many events are held."""
        return self.ledger.state.events


def desk(place: int) -> Desk:
    """A desk of the validator at a place in the order."""
    return Desk(Desk().order()[place])


def made(at: Desk) -> Propose:
    """What a desk would propose."""
    found = proposal(at.ledger)
    assert found is not None
    return found


class TestProposing:
    """One after the other proposes, the first of a number's order at once."""

    def test_the_first_proposes_as_soon_as_a_number_is_due(self) -> None:
        at = desk(0)
        at.work()
        assert at.work(MARGIN_MS) == ["checkpoint_proposed", "checkpoint_signed"]

    def test_the_second_waits_for_its_turn(self) -> None:
        at = desk(1)
        at.work()
        at.now_ms = max(MARGIN_MS, TURN_MS) - 1  # long enough up only with the turn that follows
        assert at.work() == []
        assert "checkpoint_proposed" in at.work(max(MARGIN_MS, TURN_MS))

    def test_nobody_proposes_while_nothing_is_older_than_the_horizon(self) -> None:
        at = desk(0)
        at.weigh(NOW_MS + HORIZON_MS // 2)
        assert at.awake() == []
        assert at.clerk.problem is None

    def test_whoever_may_not_write_or_has_no_stake_does_nothing(self) -> None:
        refused, watcher = desk(0), desk(0)
        refused.ledger.writes_refused = "a copy of this log is elsewhere"
        watcher.own = hotkey("//Alice").public_key
        assert refused.awake() == watcher.awake() == []


class TestSigning:
    """One signature a number, of the first proposal in the order that may be signed."""

    def test_nothing_is_signed_before_a_margin_after_the_start(self) -> None:
        at = desk(0)
        at.work()
        assert at.work(MARGIN_MS - 1) == []
        assert at.clerk.problem == "this daemon has not been up for long"
        assert at.work(1) == ["checkpoint_proposed", "checkpoint_signed"]

    def test_a_number_is_signed_once_whatever_else_is_proposed(self) -> None:
        at = desk(1)
        first, _, third = at.order()
        at.hear(third, made(at))
        assert at.awake() == ["checkpoint_signed"]
        at.hear(first, made(at))
        assert at.work(10 * TURN_MS) == []
        assert len(at.signed) == 1

    def test_of_two_proposals_the_one_of_the_first_in_the_order_is_signed(self) -> None:
        at = desk(1)
        first, _, third = at.order()
        at.hear(third, made(at))
        expected = at.hear(first, made(at))
        at.awake()
        assert [said.proposal for said in at.signed] == [expected]

    def test_a_proposal_of_somebody_whose_turn_is_not_there_waits(self) -> None:
        at = desk(0)
        at.awake()
        at.weigh(LATER_MS + 86_400_000)
        *_, last = (uri for uri in at.order() if uri in at.others)
        key = at.hear(last, made(at))
        at.work()
        assert key not in {said.proposal for said in at.signed}

    def test_a_cut_through_what_is_not_held_is_not_signed(self) -> None:
        at = desk(2)
        first, *_ = at.order()
        honest = made(at)
        beyond = honest.logs[0]._replace(head=Head(99, bytes(32)))
        at.hear(first, honest._replace(logs=(beyond, *honest.logs[1:])))
        told = at.awake()
        assert at.clerk.problem is None
        assert told == ["checkpoint_proposed", "checkpoint_signed"]

    def test_a_cut_that_leaves_out_a_log_is_not_signed_and_it_is_told_why(self) -> None:
        at = desk(1)
        first, *_ = at.order()
        at.hear(first, made(at)._replace(logs=made(at).logs[1:]))
        at.work()
        at.step(MARGIN_MS)
        assert at.clerk.problem is not None
        assert "leaves out seq 0" in at.clerk.problem

    def test_what_came_within_the_margin_may_be_left_out(self) -> None:
        at = desk(1)
        first, _, third = at.order()
        at.work()
        payload = made(at)
        author = at.others[third]
        late = author.add(add("//Alice", ["gpu-0"]), at_ms=NOW_MS)
        at.now_ms += MARGIN_MS
        with at.ledger.transaction():
            at.ledger.receive([late], at.wall_ms)
        at.hear(first, payload)
        assert at.work() == ["checkpoint_signed"]

    def test_of_what_one_log_says_of_a_number_only_the_first_few_are_recorded(self) -> None:
        """All of it is read whenever one more comes."""
        at = desk(1)
        first, *_ = at.order()
        keys = [at.hear(first, made(at)) for _ in range(STATEMENTS_MAX + 1)]
        assert sorted(proposals(at.ledger, at.number)) == sorted(keys[:STATEMENTS_MAX])
        for at_place in range(STATEMENTS_MAX + 1):
            at.hear(first, Checkpoint(at.number, keys[0], 1, 1, bytes([at_place]) * 32))
        assert len(signatures(at.ledger, at.number)) == STATEMENTS_MAX

    def test_of_several_proposals_of_one_author_the_first_is_signed(self) -> None:
        """Else it could have others begin anew for ever."""
        at = desk(1)
        first, *_ = at.order()
        keys = [at.hear(first, made(at)) for _ in range(5)]
        at.awake()
        assert [said.proposal for said in at.signed] == keys[:1]

    def test_one_proposal_is_looked_at_in_a_transaction_and_again_when_the_clerk_has_rested(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writes wait for one alone, also where many propose; and whoever has the clerk woken does not have it look."""
        at = desk(2)
        looked: list[bytes] = []

        def noted(ledger: Ledger, proposed: Propose, line: Line, *rest: Any) -> str | None:
            looked.append(line.proposal)
            return refusal(ledger, proposed, line, *rest)

        monkeypatch.setattr(clerk_module, "refusal", noted)
        monkeypatch.setattr(clerk_module, "proposal", lambda *_: None)
        first, second, _ = at.order()
        at.work()
        keys = [at.hear(uri, made(at)._replace(logs=made(at).logs[1:])) for uri in (first, second)]
        assert at.step(MARGIN_MS).busy
        assert looked == keys[:1]
        assert at.step().busy
        assert looked == keys
        assert at.work() == []
        assert at.work(REST_MS_MAX - 1) == []
        assert looked == keys
        assert at.work(1) == []
        assert looked == 2 * keys

    def test_however_much_is_proposed_the_first_of_each_author_is_found_in_one_statement(self) -> None:
        at = desk(2)
        first, second, _ = at.order()
        keys = [[at.hear(uri, made(at)) for _ in range(STATEMENTS_MAX)] for uri in (first, second)]
        statements: list[str] = []
        at.ledger.facts.connection.set_trace_callback(statements.append)
        found = at.ledger.checkpoints.first_proposals(at.number)
        at.ledger.facts.connection.set_trace_callback(None)
        expected = {hotkey(uri).public_key: of_one[0] for uri, of_one in zip((first, second), keys, strict=True)}
        assert (found, len(statements)) == (expected, 1)

    def test_a_search_that_has_begun_is_ended_whatever_is_proposed_meanwhile(self) -> None:
        """An author with many logs could else have all others begin anew for ever."""
        at = desk(2)
        first, second, _ = at.order()
        at.work()
        expected = at.hear(second, made(at))
        assert at.step(MARGIN_MS + len(VALIDATORS) * TURN_MS).busy
        assert at.ledger.is_finding(expected)
        at.hear(first, made(at))
        assert at.work() == ["checkpoint_signed"]
        assert [said.proposal for said in at.signed] == [expected]

    def test_a_search_that_has_begun_is_ended_when_the_next_number_is_due(self) -> None:
        """One that takes longer than from one number to the next would else never end."""
        at = desk(1)
        first, *_ = at.order()
        at.work()
        expected, number = at.hear(first, made(at)), at.number
        assert at.step(MARGIN_MS).busy
        at.weigh(LATER_MS + 86_400_000)
        assert at.number == number + 1
        while (step := at.step()).busy and not step.event:
            pass
        assert (step.event, step.fields["number"]) == ("checkpoint_signed", number)
        assert [said.proposal for who, said in signatures(at.ledger, number) if who == at.own] == [expected]
        assert "checkpoint_signed" in at.work(len(VALIDATORS) * TURN_MS)
        assert [said.number for said in at.signed] == [number + 1]

    def test_what_was_found_and_may_not_be_signed_any_more_keeps_nothing_else_from_being_signed(self) -> None:
        """As where the electorate of a proposal was in force too long ago when the search below its cut ends."""
        at = desk(2)
        first, second, _ = at.order()
        at.work()
        bad = at.hear(first, made(at))
        assert at.step(MARGIN_MS).busy
        assert at.ledger.is_finding(bad)
        for _ in range(ELECTORATES_KEPT):
            at.weigh(at.wall_ms + 1)
        at.work()
        assert at.signed == []
        assert at.clerk.problem == "its electorate was not in force here lately"
        good = at.hear(second, made(at))
        assert at.work(len(VALIDATORS) * TURN_MS) == ["checkpoint_signed"]
        assert [said.proposal for said in at.signed] == [good]

    def test_a_proposal_behind_another_checkpoint_is_not_signed(self) -> None:
        at = desk(1)
        first, *_ = at.order()
        at.hear(first, made(at)._replace(previous=bytes(32)))
        at.work()
        at.step(MARGIN_MS)
        assert at.clerk.problem is not None
        assert at.clerk.problem.startswith("it follows another checkpoint than none")

    def test_an_electorate_that_was_never_in_force_here_is_not_signed_for(self) -> None:
        at = desk(1)
        first, *_ = at.order()
        other = electorate(time_ms=LATER_MS, stakes={first: 10**6, OWN: 1})
        at.hear(first, made(at)._replace(pins=other.canonical))
        at.work()
        at.step(MARGIN_MS)
        assert at.clerk.problem == "its electorate was not in force here lately"


class TestWhatIsShownBehindAProposal:
    """A validator can prove a fork of its own log at each of its events, one after the other, or close it there."""

    @staticmethod
    def begin() -> tuple[Desk, str, Author]:
        """A desk that is up for long enough, who proposes to it, and a log with thirty old events."""
        at = desk(2)
        first, second, _ = at.order()
        author = at.others[second]
        with at.ledger.transaction():
            at.ledger.receive([author.verdict(bytes(32)) for _ in range(30)], NOW_MS)
        at.work()
        at.now_ms += MARGIN_MS
        return at, first, author

    @staticmethod
    def show(at: Desk, proof: Evidence | Close) -> None:
        with at.ledger.transaction():
            at.ledger.receive_proofs([proof], at.wall_ms)

    @staticmethod
    def named(payload: Propose, author: Author) -> int:
        (entry,) = (entry for entry in payload.logs if entry.log == author.log)
        return entry.head.seq

    @staticmethod
    def fork(author: Author, seq: int) -> Evidence:
        """Proof of a second event at a seq."""
        one, twin = author.events[seq], Author(VALIDATORS[1])
        twin.node_key, twin.log = author.node_key, author.log
        twin.head = Head(seq - 1, one.previous)
        evidence = rivalry(one, twin.write(Release(bytes(32), ("gpu",)), hlc=one.hlc))
        assert evidence is not None
        return evidence

    @staticmethod
    def next_day(at: Desk) -> str:
        """Let it be the next day on which somebody else is the first to propose; who that is."""
        while True:
            at.weigh(at.wall_ms + 86_400_000)
            at.work()
            if (first := at.order()[0]) in at.others:
                return first

    def test_a_fork_at_the_end_of_each_cut_keeps_none_from_being_signed(self) -> None:
        """One log stopped all checkpoints for as many turns as it had events."""
        at, _, author = self.begin()
        for _ in range(5):
            first = self.next_day(at)
            payload = made(at)
            proposed = at.hear(first, payload)
            self.show(at, self.fork(author, self.named(payload, author)))
            assert at.work(1) == ["checkpoint_signed"]
            assert [said.proposal for said in at.signed] == [proposed]

    def test_a_closing_keeps_none_from_being_signed(self) -> None:
        at, first, author = self.begin()
        proposed = at.hear(first, made(at))
        self.show(at, closing(author.hotkey, NETWORK.id, author.log, Head(1, author.events[1].id)))
        assert at.work() == ["checkpoint_signed"]
        assert [said.proposal for said in at.signed] == [proposed]
        assert self.named(made(at), author) == 1

    def test_a_closing_that_makes_more_count_again_keeps_none_from_being_signed(self) -> None:
        """Of two closings that name one seq the lower id counts, and may be right where the other one was not."""
        at, _, author = self.begin()
        for _ in range(4):
            first = self.next_day(at)
            seq = self.named(made(at), author) - 1
            self.show(at, closing(author.hotkey, NETWORK.id, author.log, Head(seq, b"\xff" * 32)))
            at.work(1)
            payload = made(at)
            assert self.named(payload, author) == seq - 1
            proposed = at.hear(first, payload)
            self.show(at, closing(author.hotkey, NETWORK.id, author.log, Head(seq, author.events[seq].id)))
            assert self.named(made(at), author) == seq
            assert at.work(1) == ["checkpoint_signed"]
            assert [said.proposal for said in at.signed] == [proposed]

    def test_however_long_the_search_takes_nothing_that_is_shown_meanwhile_spoils_it(self) -> None:
        at, first, author = self.begin()
        proposed = at.hear(first, made(at))
        assert at.step().busy
        self.show(at, self.fork(author, 7))
        with at.ledger.transaction():
            at.ledger.receive([author.verdict(bytes(32))], NOW_MS)  # not void by itself, and older than the horizon
        for _ in range(2 * MOMENTS_PER_MARGIN):
            at.now_ms += MARGIN_MS // MOMENTS_PER_MARGIN
            at.clerk._remember(at.ledger, at.now_ms)
        assert at.work() == ["checkpoint_signed"]
        assert [said.proposal for said in at.signed] == [proposed]

    def test_what_has_not_counted_for_a_margin_is_not_signed(self) -> None:
        """Else whoever proposes could undo that the log of a stolen key was closed."""
        at, _, author = self.begin()
        payload = made(at)
        self.show(at, self.fork(author, 7))
        for _ in range(2 * MOMENTS_PER_MARGIN):
            at.work(MARGIN_MS // MOMENTS_PER_MARGIN)
        first = self.next_day(at)
        at.hear(first, payload._replace(number=at.number, pins=at.ledger.weights.electorate.canonical))
        assert at.work(1) == []
        assert at.clerk.problem == f"log {author.log} has not counted up to seq 30 lately"

    @pytest.mark.parametrize("ends", [False, True])
    def test_a_log_that_takes_the_room_of_another_keeps_none_from_being_signed_also_when_it_ends(
        self, monkeypatch: pytest.MonkeyPatch, *, ends: bool
    ) -> None:
        """Whoever has more logs than are named can have others find that he has other ones, as often as he likes."""
        for name, room in (("LOGS_PER_HOTKEY_CUT", 2), ("SURPLUS_PER_HOTKEY_MAX", 0)):
            monkeypatch.setattr(checkpoint, name, room)
        at, first, author = self.begin()
        older, newest = (Author(at.order()[1], number=number) for number in (1, 2))
        with at.ledger.transaction():
            at.ledger.receive([older.delegate(at_ms=NOW_MS)], NOW_MS)
        at.clerk._moments[0].held.update({older.log: 0})  # type: ignore[attr-defined]
        with at.ledger.transaction():
            at.ledger.receive([newest.delegate(at_ms=NOW_MS + 1)], NOW_MS)
        at.clerk._remember(at.ledger, at.now_ms)
        payload = made(at)
        assert author.log not in {entry.log for entry in payload.logs}
        proposed = at.hear(first, payload)
        if ends:
            self.show(at, self.fork(newest, 0))
            assert author.log in {entry.log for entry in made(at).logs}
        assert at.work() == ["checkpoint_signed"]
        assert [said.proposal for said in at.signed] == [proposed]

    @pytest.mark.parametrize(("moment", "expected"), [(1, 1), (2, 1), (3, 0)])
    def test_nothing_is_proposed_before_it_has_been_here_for_half_a_margin(self, moment: int, expected: int) -> None:
        """Who has it only now has not heard what is shown of it elsewhere, and not all others have it."""
        at = desk(0)
        author = at.others[at.order()[1]]
        at.work()
        for each in range(1, MOMENTS_PER_MARGIN):
            if each == moment:
                with at.ledger.transaction():
                    at.ledger.receive([author.verdict(bytes(32))], NOW_MS)
            assert at.work(MARGIN_MS // MOMENTS_PER_MARGIN) == []
        assert at.work(MARGIN_MS // MOMENTS_PER_MARGIN) == ["checkpoint_proposed", "checkpoint_signed"]
        payload = at.ledger.checkpoints.proposed_by(at.signed[0].proposal)
        assert payload is not None
        assert self.named(payload, author) == expected


class TestStandingStill:
    """A daemon that was stopped, and goes on, has not heard what was shown meanwhile: it knows as much as a new one."""

    LONG_MS: Final = MARGIN_MS + REST_MS_MAX + 1

    @pytest.mark.parametrize("long", [False, True])
    def test_it_signs_nothing_for_a_margin(self, *, long: bool) -> None:
        at = desk(1)
        first, *_ = at.order()
        at.work()
        at.now_ms += MARGIN_MS
        at.clerk._remember(at.ledger, at.now_ms)
        at.now_ms += self.LONG_MS - (not long)
        at.hear(first, made(at))
        assert at.work() == ([] if long else ["checkpoint_signed"])
        assert at.clerk.problem == ("this daemon has not been up for long" if long else None)
        assert at.work(MARGIN_MS) == (["checkpoint_signed"] if long else [])

    @pytest.mark.parametrize("shown", [False, True])
    def test_what_it_found_is_signed_if_that_may_be_signed_by_what_is_here_now(self, *, shown: bool) -> None:
        at, first, author = TestWhatIsShownBehindAProposal.begin()
        at.hear(first, made(at))
        assert at.step().busy
        at.now_ms += self.LONG_MS
        if shown:
            TestWhatIsShownBehindAProposal.show(at, TestWhatIsShownBehindAProposal.fork(author, 7))
        assert at.work() == []
        told = at.work(MARGIN_MS - 1) + at.work(1)
        assert told[:1] == ([] if shown else ["checkpoint_signed"])
        assert at.clerk.problem == (f"log {author.log} has not counted up to seq 30 lately" if shown else None)

    def test_a_displaced_log_stays_for_as_long_as_if_it_was_displaced_now(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be the only one who holds what is to be carried."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
        at, uri = desk(0), desk(0).order()[1]
        with at.ledger.transaction():
            at.ledger.receive([Author(uri, number=number).delegate() for number in range(1, 9)], at.wall_ms)
        assert "log_displaced" in at.work()
        at.now_ms += max(self.LONG_MS, 2 * DISPLACED_MS)
        assert at.work() == []
        assert "log_forgotten" in at.work(DISPLACED_MS)

    async def test_one_that_slept_with_its_machine_is_one_of_these(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: NOW_MS)
        office = Office(database, NETWORK, lambda: None, lambda: NOW_MS)
        seen: list[int] = []

        def step(_: Ledger, __: bytes | None, now_ms: int, ___: int) -> Step:
            seen.append(now_ms)
            if len(seen) == 1:
                machine_sleeps(monkeypatch, 3_600)
                return BUSY
            return IDLE

        monkeypatch.setattr(office.clerk, "step", step)
        office.start()
        try:
            async with asyncio.timeout(10):
                while len(seen) < 2:
                    await asyncio.sleep(0.005)
        finally:
            await office.stop()
            await database.close()
        assert seen[1] - seen[0] >= 3_600_000


class TestEnforcing:
    """A certificate is in force where the same is found, and nowhere else."""

    def test_two_thirds_put_it_in_force_and_what_it_leaves_out_goes(self) -> None:
        at = desk(0)
        at.awake()
        (statement,) = at.signed
        for uri in at.others:
            at.hear(uri, statement)
        assert at.work() == ["checkpoint_in_force", "checkpoint_cut"]
        assert at.ledger.state.checkpoint == at.number

    @pytest.mark.parametrize("room", [2, 3])
    def test_one_that_has_no_room_for_the_own_log_though_that_is_older_is_told_of(
        self, monkeypatch: pytest.MonkeyPatch, room: int
    ) -> None:
        monkeypatch.setattr(checkpoint, "LOGS_PER_CUT_MAX", room)
        at = Desk(max(VALIDATORS, key=lambda uri: hotkey(uri).public_key))
        at.awake()
        (statement,) = at.signed
        assert at.clerk.left_out is None
        for uri in at.others:
            at.hear(uri, statement)
        at.work()
        assert at.ledger.state.checkpoint == at.number
        assert at.clerk.left_out == (at.log if room == 2 else None)

    def test_a_difference_is_an_alarm_told_once_and_takes_nothing_away(self) -> None:
        at = desk(0)
        at.awake()
        (own,) = at.signed
        self._certify(at, own._replace(root=bytes(32)))
        before = at.events()
        assert at.work() == ["checkpoint_differs"]
        assert at.clerk.mismatch == own
        assert at.work(HORIZON_MS) == []
        assert at.ledger.state.checkpoint == 0
        assert at.events() == before

    async def test_an_alarm_whose_transaction_failed_is_told_when_one_succeeds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that is full at that moment must not be why nobody hears of it."""
        monkeypatch.setattr(clerk_module, "REFUSED_PAUSE_S", 0.001)
        at = desk(0)
        at.awake()
        (own,) = at.signed
        self._certify(at, own._replace(root=bytes(32)))
        database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: NOW_MS)
        full = True

        async def write(job: Callable[[Ledger], Step]) -> Step:
            nonlocal full
            with suppress(ZeroDivisionError), at.ledger.transaction():
                step = job(at.ledger)
                if step.event and full:
                    raise ZeroDivisionError
                return step
            full = False
            raise StoreError("the disk is full")

        monkeypatch.setattr(database, "write", write)
        office = Office(database, NETWORK, lambda: at.own, lambda: at.wall_ms)
        with structlog.testing.capture_logs() as told:
            office.start()
            try:
                async with asyncio.timeout(10):
                    while not any(line["event"] == "checkpoint_differs" for line in told):
                        await asyncio.sleep(0.005)
            finally:
                await office.stop()
                await database.close()
        assert not full
        assert office.clerk.mismatch == own

    def test_a_later_one_that_is_found_alike_ends_it(self) -> None:
        at = desk(0)
        at.awake()
        (own,) = at.signed
        self._certify(at, own._replace(root=bytes(32)))
        assert at.work() == ["checkpoint_differs"]
        at.weigh(LATER_MS + 86_400_000)
        key = at.hear(next(iter(at.others)), made(at)._replace(previous=own.proposal))
        line = at.ledger.checkpoints.line_of(key)
        assert line is not None
        self._certify(at, found(at.ledger, line))
        assert at.work() == ["checkpoint_in_force", "checkpoint_cut"]
        assert (at.clerk.mismatch, at.ledger.state.checkpoint) == (None, line.number)

    def test_a_cut_that_is_not_held_here_is_noted_and_takes_nothing_away(self) -> None:
        at = desk(0)
        at.awake()
        (own,) = at.signed
        line = at.ledger.checkpoints.line_of(own.proposal)
        assert line is not None
        event = at.ledger.checkpoints.proposed_by(own.proposal)
        assert event is not None
        beyond = tuple(entry._replace(head=Head(9, bytes(32))) for entry in event.logs)
        first = at.order()[1]
        proposal_id = at.hear(first, event._replace(logs=beyond))
        self._certify(at, own._replace(proposal=proposal_id))
        assert at.work() == ["checkpoint_lacks"]
        assert at.clerk.lacks == at.number
        assert at.work(HORIZON_MS) == []
        assert at.ledger.state.checkpoint == 0

    @pytest.mark.parametrize("stake", [100, 140, 199])  # a third, more, and almost a quorum
    def test_stakes_that_the_chain_never_named_make_nothing_final(self, stake: int) -> None:
        """A proposal says itself who has stake: in an electorate of its own one liar has all of it, in ten years."""
        at = desk(0)
        at.awake()
        liar = at.order()[1]
        with at.ledger.transaction():
            at.ledger.set_electorate(
                electorate(time_ms=LATER_MS, stakes={**dict.fromkeys(VALIDATORS, 100), liar: stake})
            )
        ahead_ms = LATER_MS + 3_650 * 86_400_000
        forged = electorate(time_ms=ahead_ms, stakes={liar: 1}, miners=())
        self._renew(at, liar, ahead_ms)
        held = sorted(at.ledger.logs.values(), key=lambda state: state.id)
        logs = tuple(entry for state in held if (entry := entry_at(at.ledger, state, state.head.seq)) is not None)
        key = at.hear(liar, Propose(due_number(NETWORK, forged), b"", forged.canonical, logs))
        line = at.ledger.checkpoints.line_of(key)
        assert line is not None
        statement = found(at.ledger, line)
        at.hear(liar, statement)
        assert suffices(NETWORK, line, [hotkey(liar).public_key])
        before = at.events()
        assert at.work() == []
        assert (at.ledger.state.certificate, at.ledger.state.checkpoint, at.events()) == (0, 0, before)

    def test_signers_whose_electorate_nobody_saw_here_are_believed_for_the_stake_that_they_have_now(self) -> None:
        """Who did not run then was told neither of that electorate nor of this."""
        at = desk(0)
        *_, first = at.others
        before = electorate(time_ms=LATER_MS - 1_200_000)
        with at.ledger.transaction():
            logs = cut_of(at.ledger, before)
        key = at.hear(first, Propose(due_number(NETWORK, before), b"", before.canonical, logs))
        line = at.ledger.checkpoints.line_of(key)
        assert line is not None
        statement = found(at.ledger, line)
        for uri in at.others:
            at.hear(uri, statement)
        assert at.ledger.state.certificate == 0  # two thirds exactly are too few
        with at.ledger.transaction():
            at.ledger.append(lambda _: statement, at.wall_ms)
        assert at.ledger.state.certificate == line.number

    @staticmethod
    def _renew(at: Desk, uri: str, until_ms: int) -> None:
        author = at.others[uri]
        renewed = author.write(author.delegation(not_after=until_ms // 1000 + 1), at_ms=at.wall_ms)
        with at.ledger.transaction():
            at.ledger.receive([renewed], at.wall_ms)

    @staticmethod
    def _certify(at: Desk, statement: Checkpoint) -> None:
        """Give a daemon a certificate of the whole stake, by logs that it does not hold."""
        event = at.ledger.checkpoints._proposal(statement.proposal)
        assert event is not None
        signatures = []
        for uri in VALIDATORS:
            author = Author(uri, number=1_000)
            delegation = author.delegate()
            signatures.append(Signature(delegation, author.write(statement, at_ms=LATER_MS)))
        with at.ledger.transaction():
            wire = Certificate(event, tuple(sorted(signatures, key=lambda each: each.checkpoint.log))).encode()
            at.ledger.checkpoints.take(wire)


class TestCutsThatMove:
    """What lies above the end of a log is taken away part by part, before anything is found or put in force."""

    @staticmethod
    def end(at: Desk) -> Close:
        *_, uri = at.others
        author = at.others[uri]
        return closing(author.hotkey, NETWORK.id, author.log, Head(0, author.events[0].id))

    def test_it_is_done_first_and_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        at = desk(0)
        at.awake()
        *_, uri = at.others
        for _ in range(3):
            at.others[uri].verdict(bytes(32), at_ms=at.wall_ms)
        with at.ledger.transaction():
            at.ledger.receive(at.others[uri].events, at.wall_ms)
        monkeypatch.setattr("p2pnodes.store.unsettled.EVENTS_PER_MOVE", 1)
        with at.ledger.transaction():
            at.ledger.receive_proofs([self.end(at)], at.wall_ms)
        parts = 0
        while at.ledger.moving:
            with at.ledger.transaction():
                step = at.clerk.step(at.ledger, at.own, at.now_ms, at.wall_ms)
            assert step == Step(busy=True)
            parts += 1
        assert parts == len(at.others[uri].events) - 2

    async def test_an_office_that_rests_is_woken_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        at, turns = desk(0), asyncio.Semaphore(0)
        database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, None, now_ms=lambda: at.wall_ms)
        office = Office(database, NETWORK, lambda: None, lambda: at.wall_ms)
        step = office.clerk.step

        def noted(*args: Any) -> Step:
            found = step(*args)
            asyncio.run_coroutine_threadsafe(_release(turns), loop)
            return found

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(office.clerk, "step", noted)
        office.start()
        try:
            async with asyncio.timeout(10):
                await turns.acquire()
                office.wake()
                await turns.acquire()  # else it rests for a minute
        finally:
            await office.stop()
            await database.close()


async def _release(turns: asyncio.Semaphore) -> None:
    turns.release()


class TestTooManyLogs:
    """A log that counts for nothing is told of, stays for as long as others may carry from it, and goes."""

    @staticmethod
    def show(at: Desk, uri: str, *logs: LogId) -> None:
        """Let these logs of a validator come, one by one."""
        for log in logs:
            with at.ledger.transaction():
                at.ledger.receive([Author(uri, number=log.number).delegate()], at.wall_ms)

    def test_a_displaced_log_goes_when_its_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 2)
        monkeypatch.setattr(ledger_module, "EVENTS_PER_PART", 1)
        at = desk(0)
        *_, uri = at.others
        order = displaced([Author(uri, number=number).log for number in range(4)], (), 0)
        with at.ledger.transaction():
            for log in reversed(order):
                author = Author(uri, number=log.number)
                if log.number:  # that one is there
                    at.ledger.receive([author.delegate(), author.verdict(bytes(32))], at.wall_ms)
        beyond = {log for log, state in at.ledger.state.logs.items() if state.displaced}
        assert beyond <= set(order[2:])
        assert beyond
        assert at.work() == ["log_displaced"] * len(beyond)
        assert at.work(DISPLACED_MS - 1) == []
        assert at.work(1) == ["log_forgotten"] * len(beyond)
        assert not beyond & at.ledger.state.logs.keys()
        assert at.work() == []

    def test_whoever_shows_another_log_behind_each_proposal_keeps_none_from_being_signed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a validator could stop checkpoints for ever: to find logs whose ids hash low costs it nothing."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 4)
        monkeypatch.setattr("p2pnodes.store.logs.DISPLACED_PER_HOTKEY_MAX", 99)
        at = desk(2)
        rogue, second, _ = at.order()
        order = displaced([Author(rogue, number=number).log for number in range(1, 40)], (), 0)
        authors = (Author(rogue, number=log.number) for log in reversed(order))

        def show(count: int) -> None:
            for author in islice(authors, count):
                with at.ledger.transaction():
                    at.ledger.receive([author.delegate()], at.wall_ms)

        at.work()
        show(4)
        assert hotkey(rogue).public_key not in {entry.hotkey for entry in made(at).logs}
        proposed = at.hear(second, made(at))
        show(1)
        assert sum(state.displaced for state in at.ledger.state.logs.values()) == 2
        at.work(MARGIN_MS + TURN_MS)
        assert [said.proposal for said in at.signed] == [proposed]

    @pytest.mark.parametrize("busy", [True, False])
    def test_one_that_counted_when_it_was_proposed_stays_for_as_long_as_that_may_be_signed(
        self, monkeypatch: pytest.MonkeyPatch, *, busy: bool
    ) -> None:
        """Who begins late, or takes long to find a live set, would else refuse what the others have signed."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 4)
        at = desk(2)
        rogue, second, _ = at.order()
        *rest, last = displaced([Author(rogue, number=number).log for number in range(1, 40)], (), 0)
        self.show(at, rogue, last)
        at.work()
        payload = made(at)
        assert last in {entry.log for entry in payload.logs}
        proposed = at.hear(second, payload)
        at.now_ms += max(MARGIN_MS, TURN_MS)
        if busy:
            assert at.step().busy
            assert at.ledger.is_finding(proposed)
        self.show(at, rogue, *rest[:3])
        assert [log for log, state in at.ledger.state.logs.items() if state.displaced] == [last]
        assert at.step().event == "log_displaced"
        late_ms = 2 * MARGIN_MS if busy else MARGIN_MS - 1
        assert late_ms > DISPLACED_MS
        for _ in range(MOMENTS_PER_MARGIN):
            at.now_ms += late_ms // MOMENTS_PER_MARGIN
            at.clerk._remember(at.ledger, at.now_ms)
        assert at.work() == ["checkpoint_signed"]
        assert [said.proposal for said in at.signed] == [proposed]
        at.ledger.forget_finding()
        assert at.work(2 * MARGIN_MS) == ["log_forgotten"]

    @pytest.mark.parametrize("named", [False, True])
    def test_one_that_no_signed_proposal_names_goes_though_its_number_came_to_nothing(
        self, monkeypatch: pytest.MonkeyPatch, *, named: bool
    ) -> None:
        """Else the room for displaced logs stays taken until the next number is found: a day, or for ever.

        Whoever has not signed forgot them by then, and took others.
        """
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 4 if named else 2)
        at = desk(2)
        rogue, second, _ = at.order()
        *rest, last = displaced([Author(rogue, number=number).log for number in range(1, 40)], (), 0)
        self.show(at, rogue, last)
        at.work()
        payload = made(at)
        assert named == (last in {entry.log for entry in payload.logs})
        at.hear(second, payload)
        assert at.work(max(MARGIN_MS, TURN_MS)) == ["checkpoint_signed"]
        self.show(at, rogue, *rest[:3])
        assert at.ledger.state.logs[last].displaced
        told = at.work() + at.work(3 * MARGIN_MS)
        assert at.ledger.finding is not None
        assert (last in at.ledger.state.logs) == named
        assert ("log_forgotten" in told) == (not named)

    def test_one_of_the_own_validator_stays_while_nothing_may_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody else need hold what it says, so nobody else can carry it."""
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
        at, uri = desk(0), desk(0).order()[0]
        order = displaced([at.log, *(Author(uri, number=number).log for number in range(1, 9))], (), 0)
        with at.ledger.transaction():
            at.ledger.receive([Author(uri, number=order[0].number).delegate()], at.wall_ms)
        assert at.ledger.state.logs[at.log].displaced
        at.ledger.writes_refused = "there is no log to write"
        assert at.work() == ["log_displaced"]
        assert at.work(2 * DISPLACED_MS) == []
        at.ledger.writes_refused = None
        assert at.work(DISPLACED_MS - 1) == []
        assert at.work(1) == ["log_forgotten"]
