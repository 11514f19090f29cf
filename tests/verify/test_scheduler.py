"""Every claim that waits for this validator's verdict gets one, once, in its turn, and again before it lapses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.model.claims import parse_body
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import REASON_CHARS_MAX, WritesRefusedError
from p2pnodes.model.events import ABSTAIN, DETAIL_CHARS_MAX, FAILED, VERIFIED, Head, closing
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.rendezvous import ranking
from p2pnodes.store import checks
from p2pnodes.store.checks import Check
from p2pnodes.store.database import Commit, Database
from p2pnodes.store.facts import StoredClaim
from p2pnodes.store.ledger import Ledger
from p2pnodes.verify import renewals as renewals_module
from p2pnodes.verify import scheduler as scheduler_module
from p2pnodes.verify.finding import Finding, VerifierUnavailableError
from p2pnodes.verify.renewals import GATHER
from p2pnodes.verify.scheduler import UNAVAILABLE, NotCheckableError, Scheduler
from p2pnodes.verify.turns import OVERDUE, RETRY_FIRST_MS
from p2pnodes.verify.verdicts import FAULT_FIRST_MS, FAULT_MAX_MS, record_fault, record_verdict
from p2pnodes.verify.verifier import Verifier
from tests.gossip.past import Past
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate, hotkey

AUTHOR = Author("//validator0")
OWN = AUTHOR.hotkey.public_key
SLOT_S = 60.0
SECOND_MS = 1_000
TTL_MS = NETWORK.verdict_ttl_s * SECOND_MS


class Clock:
    """Wall clock that a test moves."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


class Scripted(Verifier):
    """A verifier that answers what it is told, verified when it is told nothing more, and remembers."""

    method = "scripted"

    def __init__(self, *findings: Finding | BaseException, slot_s: float = 0.0, hold: bool = False) -> None:
        self.findings = list(findings)
        self.slot = slot_s
        self.checked: list[bytes] = []
        self.running = 0
        self.most = 0
        self.let_go = asyncio.Event()
        if not hold:
            self.let_go.set()

    async def verify(self, claim: StoredClaim) -> Finding:
        self.checked.append(claim.claim_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.let_go.wait()
        finally:
            self.running -= 1
        finding = self.findings.pop(0) if self.findings else Finding(VERIFIED)
        if isinstance(finding, BaseException):
            raise finding
        return finding

    def slot_s(self, claim: StoredClaim) -> float:
        return self.slot


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Deaf(Verifier):
    """A verifier that goes on though it is cancelled."""

    method = "deaf"

    def __init__(self) -> None:
        self.begun = 0
        self.let_go = asyncio.Event()

    async def verify(self, claim: StoredClaim) -> Finding:
        self.begun += 1
        while not self.let_go.is_set():
            with suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return Finding(VERIFIED)


@asynccontextmanager
async def opened(directory: Path, clock: Callable[[], int] = lambda: NOW_MS) -> AsyncIterator[Database]:
    """A database of the only validator, with its own log."""
    node_key = NodeKey.from_seed(AUTHOR.node_key.seed)
    database = await Database.open(directory / "p2pnodes.db", NETWORK, node_key, now_ms=clock)
    await database.set_electorate(electorate(stakes={"//validator0": 100}))
    await database.write(lambda ledger: ledger.open_log(0, AUTHOR.delegation(), NOW_MS))
    database.ledger.writes_refused = None
    yield database
    await database.close()


@pytest.fixture
async def database(tmp_path: Path, clock: Clock) -> AsyncIterator[Database]:
    async with opened(tmp_path, clock) as database:
        yield database


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan without a pause that a test would wait for."""
    monkeypatch.setattr(scheduler_module, "SCAN_INTERVAL_S", 0.01)
    monkeypatch.setattr(scheduler_module, "STANDING_POLL_S", 0.01)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)


async def waits_for(condition: Callable[[], bool]) -> bool:
    return condition()


async def submit(database: Database, *uuids: str, host: str = "192.0.2.10") -> StoredClaim:
    request = add("//Alice", uuids, database._now_ms() // SECOND_MS)
    return await database.submit_add(request, parse_body(request.body), None)


async def verdicts(database: Database) -> list[tuple[str, str]]:
    return [(row["finding"], row["detail"]) for row in await database.query("verdicts", {}, 100)]


async def own_verdicts(database: Database) -> int:
    """Verdict events in the log: each of them was published."""
    return len(await database.query("event_log", {"kind": "verdict"}, 100))


def say(count: int, database: Database) -> Callable[[], Awaitable[bool]]:
    async def said() -> bool:
        return await own_verdicts(database) >= count

    return said


def say_again(count: int, database: Database) -> Callable[[], Awaitable[bool]]:
    async def said() -> bool:
        return len(await database.query("event_log", {"kind": "renew"}, 100)) >= count

    return said


def renewed(scheduler: Scheduler, count: int) -> Callable[[], Awaitable[bool]]:
    async def waits() -> bool:
        return bool(scheduler.status()["renewed"] == count)

    return waits


async def entry(database: Database, claim: StoredClaim) -> Check | None:
    return await database.read(lambda facts: checks.read_check(facts, claim.claim_id))


@pytest.fixture
async def running(database: Database, clock: Clock) -> AsyncIterator[Callable[..., Scheduler]]:
    """Starts schedulers, each listening to commits as in the daemon, and stops them in the end."""
    started: list[Scheduler] = []

    def run(verifier: Verifier, *, checks_at_once: int = 4) -> Scheduler:
        scheduler = Scheduler(database, verifier, OWN, clock, checks_at_once=checks_at_once)

        def committed(commit: Commit) -> None:
            for claim_id in commit.new_claims:
                scheduler.offer(claim_id)
            scheduler.voted(commit.voted)
            scheduler.ended(commit.ended)

        database.on_commit = committed
        scheduler.start()
        started.append(scheduler)
        return scheduler

    yield run
    for scheduler in started:
        await scheduler.stop()


Running = Callable[..., Scheduler]


def idle(scheduler: Scheduler) -> Callable[[], Awaitable[bool]]:
    async def nothing_queued() -> bool:
        status = scheduler.status()
        return bool(status["queued"] == 0 and status["running"] == 0)

    return nothing_queued


def idle_but_running(scheduler: Scheduler) -> Callable[[], Awaitable[bool]]:
    async def nothing_queued() -> bool:
        status = scheduler.status()
        return bool(status["queued"] == 0 and status["running"] > 0)

    return nothing_queued


class TestEveryClaim:
    """Each claim that waits for this validator gets a verdict, and one only."""

    async def test_a_new_claim_is_checked_as_it_comes(self, database: Database, running: Running) -> None:
        running(Scripted())
        await submit(database, "gpu-1")

        async def verified() -> bool:
            return [row["status"] for row in await database.query("inventory", {}, 10)] == ["verified"]

        await eventually(verified)

    async def test_claims_from_before_the_start_are_found_by_the_scan(
        self, database: Database, running: Running
    ) -> None:
        await submit(database, "gpu-1")
        await submit(database, "gpu-2")
        running(Scripted())
        await eventually(say(2, database))

    async def test_a_claim_is_checked_once_while_its_verdict_is_fresh(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        verifier = Scripted()
        claim = await submit(database, "gpu-1")
        scheduler = running(verifier)
        for _ in range(3):
            scheduler.offer(claim.claim_id)
        await eventually(say(1, database))
        scheduler.offer(claim.claim_id)
        await eventually(idle(scheduler))
        ttl_s = NETWORK.verdict_ttl_s
        assert await database.read(lambda facts: checks.entered(facts, clock.ms, ttl_s, 10)) == []
        assert await database.read(lambda facts: checks.waiting(facts, OWN, clock.ms, ttl_s, 10)) == []
        assert verifier.checked == [claim.claim_id]

    async def test_claims_beyond_the_queue_are_found_again_by_the_scan(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "QUEUED_CLAIMS_MAX", 2)
        for number in range(5):
            await submit(database, f"gpu-{number}")
        running(Scripted())
        await eventually(say(5, database))
        assert len(await verdicts(database)) == 5

    async def test_a_check_that_was_cut_off_by_the_end_is_made_after_the_next_start(
        self, database: Database, running: Running
    ) -> None:
        """As after kill -9: there is no verdict, and the next start makes one. None is lost, none doubled."""
        held = Scripted(hold=True)
        claim = await submit(database, "gpu-1")
        first = running(held)

        async def begun() -> bool:
            return held.running == 1

        await eventually(begun)
        await first.stop()
        assert await own_verdicts(database) == 0
        second = running(Scripted())
        await eventually(say(1, database))
        await eventually(idle(second))
        assert held.checked == [claim.claim_id]
        assert await own_verdicts(database) == 1

    async def test_a_check_that_was_cut_off_is_made_anew_though_the_vote_was_decided_meanwhile(
        self, database: Database, running: Running
    ) -> None:
        held = Scripted(hold=True, slot_s=SLOT_S)
        claim = await submit(database, "gpu-1")
        first = running(held)

        async def begun() -> bool:
            return held.running == 1

        await eventually(begun)
        await first.stop()
        assert await entry(database, claim) == Check(NOW_MS)
        others = electorate(200, stakes={"//validator0": 1, "//validator1": 99})
        await database.set_electorate(others)
        author = Author("//validator1")
        await database.receive([author.delegate(), author.verdict(claim.claim_id)], NOW_MS)
        assert (await database.query("claims", {}, 10))[0]["status"] == VERIFIED
        running(Scripted(slot_s=SLOT_S))
        await eventually(say(2, database))

    async def test_nothing_is_checked_while_writes_are_refused(self, database: Database, running: Running) -> None:
        verifier = Scripted()
        claim = await submit(database, "gpu-1")
        database.ledger.writes_refused = "test"
        scheduler = running(verifier)
        scheduler.offer(claim.claim_id)
        await eventually(idle(scheduler))
        assert verifier.checked == []
        database.ledger.writes_refused = None
        await eventually(say(1, database))

    async def test_nothing_is_checked_while_a_live_set_is_loaded(
        self, database: Database, running: Running, pasts: list[Past]
    ) -> None:
        """What was found could not be written, claim by claim, and each would say so in the log."""
        verifier = Scripted()
        claim = await submit(database, "gpu-1")
        await database.write(lambda ledger: ledger.begin_loading(pasts[0].certificate))
        scheduler = running(verifier)
        scheduler.offer(claim.claim_id)
        await eventually(idle(scheduler))
        with pytest.raises(WritesRefusedError, match="is being loaded"):
            await scheduler.check_now(claim.claim_id)
        assert (verifier.checked, database.ledger.writes_refused) == ([], None)

    async def test_a_validator_that_is_not_enrolled_checks_nothing(self, database: Database, running: Running) -> None:
        """Its verdict would count for nothing, and cost the miner a challenge."""
        verifier = Scripted()
        await submit(database, "gpu-1")
        after_its_delegation_ms = NOW_MS + 31 * 86_400 * SECOND_MS
        await database.set_electorate(electorate(200, after_its_delegation_ms, stakes={"//validator0": 100}))
        scheduler = running(verifier)
        other = await submit(database, "gpu-2")  # comes by itself

        async def looked_at() -> bool:
            return await idle(scheduler)() and scheduler.scans > 2

        await eventually(looked_at)
        assert await entry(database, other) is None
        assert verifier.checked == []


class TestElectorate:
    """Whoever has to check after the electorate changed checks, though no event says so."""

    @pytest.fixture
    async def other(self, database: Database) -> Author:
        """A validator with all that decides; the own one has nothing, and so comes last at each claim."""
        await database.set_electorate(electorate(200, stakes={"//validator0": 0, "//validator1": 100}))
        other = Author("//validator1")
        await database.receive([other.delegate()], NOW_MS)
        return other

    async def test_a_claim_that_was_decided_without_it_is_checked_once_its_stake_is_missing(
        self, database: Database, running: Running, other: Author
    ) -> None:
        claim = await submit(database, "gpu-1")
        await database.receive([other.verdict(claim.claim_id)], NOW_MS)
        verifier = Scripted(slot_s=SLOT_S)
        scheduler = running(verifier)

        async def scanned() -> bool:
            return await idle(scheduler)() and scheduler.scans > 3

        await eventually(scanned)
        assert verifier.checked == []
        await database.set_electorate(electorate(300, stakes={"//validator0": 100, "//validator1": 100}))
        # For as long as its delegation is young the vote is decided without it; then all claims would be open at once.
        assert (await database.query("claims", {}, 10))[0]["status"] == VERIFIED
        await eventually(say(2, database))

    async def test_who_stepped_in_and_is_not_needed_any_more_does_not_check_again(
        self, database: Database, running: Running, clock: Clock, other: Author
    ) -> None:
        verifier = Scripted(slot_s=SLOT_S)
        claim = await submit(database, "gpu-1")
        clock.ms += int(SLOT_S * SECOND_MS)  # the second slot is its own
        running(verifier)
        await eventually(say(1, database))
        held = await entry(database, claim)
        assert held is not None
        await database.receive([other.verdict(claim.claim_id, at_ms=held.due_ms)], held.due_ms)
        clock.ms = held.due_ms

        async def struck() -> bool:
            return await entry(database, claim) is None

        await eventually(struck)
        assert verifier.checked == [claim.claim_id]

    async def test_an_entry_that_nothing_comes_of_is_struck_out(
        self, database: Database, running: Running, clock: Clock, other: Author
    ) -> None:
        """Left in the book it would be due at each scan for ever, and some thousands of them would hide the others."""
        verifier = Scripted(VerifierUnavailableError("service down"))
        claim = await submit(database, "gpu-1")
        running(verifier)

        async def faulted() -> bool:
            held = await entry(database, claim)
            return held is not None and held.faults == 1

        await eventually(faulted)
        await database.receive([other.verdict(claim.claim_id)], NOW_MS)
        clock.ms += FAULT_FIRST_MS

        async def struck() -> bool:
            return await entry(database, claim) is None

        await eventually(struck)
        assert verifier.checked == [claim.claim_id]


class TestTurns:
    """A validator checks in its turn, and early when those before it have voted."""

    @pytest.fixture
    async def second(self, database: Database) -> str:
        """Another validator of equal stake, enrolled, whose turn comes first at ``claim``."""
        await database.set_electorate(electorate(200, stakes={"//validator0": 100, "//validator1": 100}))
        other = Author("//validator1")
        event = other.delegate()
        await database.receive([event], NOW_MS)
        self.other = other
        return "//validator1"

    async def claim_where(self, database: Database, first: str, begin: int = 0) -> StoredClaim:
        """A claim at which a certain validator has the first turn."""
        stakes = {hotkey(name).public_key: 100 for name in ("//validator0", "//validator1")}
        for number in range(begin, begin + 64):
            claim = await submit(database, f"gpu-{number}")
            if ranking(claim.claim_id, stakes)[0] == hotkey(first).public_key:
                return claim
            await database.submit_delete(delete("//Alice", f"nodes:gpu-{number}", NOW_S), f"gpu-{number}")
        raise AssertionError("64 draws went one way")

    async def test_the_second_one_waits_for_its_slot(
        self, database: Database, running: Running, clock: Clock, second: str
    ) -> None:
        verifier = Scripted(slot_s=SLOT_S)
        claim = await self.claim_where(database, second)
        scheduler = running(verifier)

        async def noted() -> bool:
            return claim.claim_id in scheduler._later

        await eventually(noted)
        assert verifier.checked == []
        clock.ms += int(SLOT_S * SECOND_MS) + SECOND_MS
        await eventually(say(1, database))

    async def test_the_second_one_begins_when_the_first_has_voted(
        self, database: Database, running: Running, second: str
    ) -> None:
        verifier = Scripted(slot_s=SLOT_S)
        claim = await self.claim_where(database, second)
        scheduler = running(verifier)

        async def noted() -> bool:
            return claim.claim_id in scheduler._later

        await eventually(noted)
        vote = self.other.verdict(claim.claim_id)
        await database.receive([vote], NOW_MS)
        await eventually(say(2, database))
        assert verifier.checked == [claim.claim_id]

    async def test_a_vote_that_comes_while_the_claim_is_looked_at_counts(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch, second: str
    ) -> None:
        verifier = Scripted(slot_s=SLOT_S)
        claim = await self.claim_where(database, second)
        vote = self.other.verdict(claim.claim_id)
        plain = Scheduler._prospect
        reads = 0

        async def slow(scheduler: Scheduler, claim_id: bytes) -> checks.Prospect | None:
            nonlocal reads
            found = await plain(scheduler, claim_id)
            reads += claim_id == claim.claim_id
            if reads == 1:  # this look knows nothing of it yet
                await database.receive([vote], NOW_MS)
            return found

        monkeypatch.setattr(Scheduler, "_prospect", slow)
        running(verifier)
        await eventually(say(2, database))
        assert verifier.checked == [claim.claim_id]


class TestHosts:
    """No two checks load one host, and no more run than the operator allows."""

    async def test_claims_of_one_host_are_checked_one_after_the_other(
        self, database: Database, running: Running
    ) -> None:
        verifier = Scripted(hold=True)
        for number in range(3):
            await submit(database, f"gpu-{number}")  # all of them at one host and port
        scheduler = running(verifier)

        async def begun() -> bool:
            return len(verifier.checked) == 1 and bool(scheduler.status()["queued"] == 0)

        await eventually(begun)
        verifier.let_go.set()
        await eventually(say(3, database))
        assert verifier.most == 1

    async def test_at_most_so_many_checks_run_at_once(self, database: Database, running: Running) -> None:
        class Anywhere(Scripted):
            def endpoints(self, claim: StoredClaim) -> frozenset[tuple[str, int]]:
                return frozenset()

        verifier = Anywhere(hold=True)
        for number in range(6):
            await submit(database, f"gpu-{number}")
        running(verifier, checks_at_once=2)

        async def full() -> bool:
            return verifier.running == 2

        await eventually(full)
        verifier.let_go.set()
        await eventually(say(6, database))
        assert verifier.most == 2

    async def test_the_claims_of_one_miner_take_half_of_the_checks_at_most(
        self, database: Database, running: Running
    ) -> None:
        """Rule 6: its hosts may hang for as long as they like, the claims of others are checked beside them."""

        class EachItsOwn(Scripted):
            def endpoints(self, claim: StoredClaim) -> frozenset[tuple[str, int]]:
                return frozenset({(claim.claim_id.hex(), 1)})

        verifier = EachItsOwn(hold=True)
        claims = [await submit(database, f"gpu-{number}") for number in range(6)]
        other = add("//Bob", ["gpu-9"], NOW_S)
        scheduler = running(verifier, checks_at_once=4)

        async def full() -> bool:
            return await idle_but_running(scheduler)() and verifier.running == 2

        await eventually(full)
        bobs = await database.submit_add(other, parse_body(other.body), None)

        async def beside() -> bool:
            return bobs.claim_id in verifier.checked

        await eventually(beside)
        assert verifier.running == 3
        verifier.let_go.set()
        await eventually(say(7, database))
        assert set(verifier.checked) == {bobs.claim_id, *(claim.claim_id for claim in claims)}
        assert len(verifier.checked) == 7

    async def test_many_claims_behind_one_host_cost_a_look_or_two_each(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not all of them look again whenever one of them is done."""
        monkeypatch.setattr(scheduler_module, "STANDING_POLL_S", 60.0)
        looks = 0
        plain = Scheduler._prospect

        async def counted(scheduler: Scheduler, claim_id: bytes) -> checks.Prospect | None:
            nonlocal looks
            looks += 1
            return await plain(scheduler, claim_id)

        monkeypatch.setattr(Scheduler, "_prospect", counted)
        verifier = Scripted(hold=True)
        count = 20
        for number in range(count):
            await submit(database, f"gpu-{number}")
        scheduler = running(verifier)
        await eventually(idle_but_running(scheduler))
        verifier.let_go.set()
        await eventually(say(count, database))
        assert looks <= 3 * count


class TestOwnFaults:
    """What is this validator's own fault never becomes a verdict; it is tried again, ever less often."""

    async def test_a_verifier_that_is_down_says_nothing_and_is_asked_again(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        verifier = Scripted(VerifierUnavailableError("service down"), Finding(FAILED, "wrong GPU"))
        claim = await submit(database, "gpu-1")
        scheduler = running(verifier)

        async def noted() -> bool:
            return await entry(database, claim) == Check(NOW_MS + FAULT_FIRST_MS, 0, 1, "service down")

        await eventually(noted)
        assert scheduler.status()["problem"] == "service down"
        assert await own_verdicts(database) == 0
        clock.ms += FAULT_FIRST_MS
        await eventually(say(1, database))
        assert await verdicts(database) == [(FAILED, "wrong GPU")]
        assert scheduler.status()["problem"] is None
        assert verifier.checked == [claim.claim_id] * 2

    async def test_a_verdict_that_cannot_be_written_does_not_make_the_miner_be_asked_at_each_scan(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        refuse = True

        def record(*args: Any, **named: Any) -> bool:
            if refuse:
                raise WritesRefusedError("test")
            return record_verdict(*args, **named)

        monkeypatch.setattr(scheduler_module, "record_verdict", record)
        verifier = Scripted()
        claim = await submit(database, "gpu-1")
        scheduler = running(verifier)

        async def scanned() -> bool:
            return scheduler.scans > 10 and verifier.checked != []

        await eventually(scanned)
        assert verifier.checked == [claim.claim_id]
        refuse = False
        clock.ms += scheduler_module.PAUSE_MS
        await eventually(say(1, database))

    async def test_pauses_double_up_to_a_bound(self, database: Database, running: Running, clock: Clock) -> None:
        verifier = Scripted(*[VerifierUnavailableError("down")] * 12)
        claim = await submit(database, "gpu-1")
        running(verifier)
        pauses: list[int] = []
        for times in range(1, 11):

            async def faulted(times: int = times) -> bool:
                held = await entry(database, claim)
                return held is not None and held.faults == times

            await eventually(faulted)
            held = await entry(database, claim)
            assert held is not None
            pauses.append(held.due_ms - clock.ms)
            clock.ms = held.due_ms
        assert pauses == [min(FAULT_FIRST_MS * 2**time, FAULT_MAX_MS) for time in range(10)]

    async def test_a_bug_of_the_verifier_costs_no_claim(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        verifier = Scripted(RuntimeError("a bug"))
        claim = await submit(database, "gpu-1")
        scheduler = running(verifier)

        async def told() -> bool:
            held = await entry(database, claim)
            return held is not None and "a bug" in held.note and "a bug" in scheduler.status()["problem"]

        await eventually(told)
        clock.ms += FAULT_FIRST_MS
        await eventually(say(1, database))
        assert await verdicts(database) == [(VERIFIED, "")]

    async def test_a_verifier_that_hangs_holds_no_worker_for_ever(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "CHECK_S_MIN", 0.05)
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted(hold=True))

        async def told() -> bool:
            held = await entry(database, claim)
            return held is not None and held.faults == 1

        await eventually(told)
        assert scheduler.status()["problem"] == (
            "the verifier scripted was not done after 0.05 s; it should keep to its slot: tell its author"
        )

    @pytest.mark.parametrize(
        "nonsense",
        [None, "verified", ("verified", ""), Finding("maybe"), Finding(FAILED, None), Finding(3, 4)],  # type: ignore[arg-type]
        ids=repr,
    )
    async def test_an_answer_that_is_no_finding_is_the_verifiers_fault_and_told(
        self, database: Database, running: Running, nonsense: Any
    ) -> None:
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted(nonsense))

        async def told() -> bool:
            held = await entry(database, claim)
            return held is not None and held.faults == 1

        await eventually(told)
        problem = scheduler.status()["problem"]
        assert problem.startswith("the verifier answered ")
        assert problem.endswith("expected a Finding of abstain, failed, verified, and a text: tell its author")
        assert await own_verdicts(database) == 0

    async def test_a_detail_that_no_event_can_hold_is_published_without_that(
        self, database: Database, running: Running
    ) -> None:
        await submit(database, "gpu-1")
        running(Scripted(Finding(FAILED, "line 1\nNUL \0, half a pair \ud800, " + 600 * "x")))
        await eventually(say(1, database))
        ((finding, detail),) = await verdicts(database)
        assert (finding, len(detail)) == (FAILED, DETAIL_CHARS_MAX)
        assert detail.startswith("line 1\nNUL ?, half a pair ?, xxx")

    @pytest.mark.parametrize(
        ("reason", "told_as"),
        [
            ("half a pair \ud800\n\x1b[31m", "half a pair ? ?[31m"),
            ("x" * 100_000, "x" * REASON_CHARS_MAX),
            ("", "the verifier cannot check and does not say why"),
        ],
        ids=["unprintable", "long", "empty"],
    )
    async def test_whatever_a_verifier_gives_as_its_reason_is_told_in_a_line(
        self, database: Database, running: Running, reason: str, told_as: str
    ) -> None:
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted(VerifierUnavailableError(reason)))

        async def told() -> bool:
            held = await entry(database, claim)
            return held is not None and held.note == told_as

        await eventually(told)
        assert scheduler.status()["problem"] == told_as

    async def test_a_slot_that_cannot_be_told_is_told_as_a_problem(self, database: Database, running: Running) -> None:
        await submit(database, "gpu-1")
        scheduler = running(Scripted(slot_s=None))  # type: ignore[arg-type]
        await eventually(partial(waits_for, lambda: scheduler.status()["problem"] is not None))
        assert scheduler.status()["problem"].startswith("a check failed, and the log says where: TypeError: ")

    async def test_a_verifier_that_ignores_its_end_holds_no_worker_and_is_not_started_without_end(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        monkeypatch.setattr(scheduler_module, "CHECK_S_MIN", 0.05)
        monkeypatch.setattr(scheduler_module, "END_S_MAX", 0.05)
        verifier = Deaf()

        async def note(number: int) -> str:
            claim = await submit(database, f"gpu-{number}", host=f"192.0.2.{number}")
            while (held := await entry(database, claim)) is None:
                await asyncio.sleep(0.01)
            return held.note

        scheduler = running(verifier, checks_at_once=2)
        async with asyncio.timeout(20):
            notes = await asyncio.gather(note(0), note(1))
            assert all("does not end a check, though it was cancelled after 0.05 s" in told for told in notes)
            assert "2 checks of the verifier deaf do not end" in await note(2)
        assert verifier.begun == 2
        assert scheduler.status()["running"] == 0
        verifier.let_go.set()
        clock.ms += FAULT_FIRST_MS
        await eventually(say(3, database))


def test_a_verifier_that_exits_does_not_end_the_daemon(tmp_path: Path) -> None:
    async def check() -> str:
        """In a loop of its own, which an exit would end."""
        async with opened(tmp_path) as database:
            claim = await submit(database, "gpu-1")
            scheduler = Scheduler(database, Scripted(SystemExit(3)), OWN, Clock())
            return (await scheduler.check_now(claim.claim_id)).reason

    assert asyncio.run(check()) == "the verifier failed: SystemExit: 3"


class TestAgain:
    """Verdicts are renewed before they lapse; failed claims are tried again, ever less often."""

    async def test_a_renewed_verdict_keeps_the_begin_of_its_unbroken_run(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted())
        await eventually(say(1, database))
        (first,) = await database.query("verdicts", {}, 10)
        held = await entry(database, claim)
        assert held is not None
        assert TTL_MS * 0.25 <= held.due_ms - NOW_MS <= TTL_MS * 0.75
        clock.ms = held.due_ms
        await eventually(renewed(scheduler, 1))
        assert await database.query("verdicts", {}, 10) == [first]
        clock.ms += int(TTL_MS * GATHER)
        await eventually(say_again(1, database))
        (second,) = await database.query("verdicts", {}, 10)
        assert second["at"] > first["at"]
        assert second["since"] == first["since"]
        after = await entry(database, claim)
        assert after is not None
        assert TTL_MS * 0.25 <= after.due_ms - clock.ms <= TTL_MS * 0.75

    async def test_a_verdict_after_a_lapse_begins_a_new_run(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        await submit(database, "gpu-1")
        scheduler = running(Scripted())
        await eventually(say(1, database))
        await scheduler.stop()
        clock.ms += TTL_MS + SECOND_MS
        running(Scripted())
        await eventually(say(2, database))
        (row,) = await database.query("verdicts", {}, 10)
        assert row["since"] == row["at"]

    @pytest.mark.parametrize("finding", [FAILED, ABSTAIN])
    async def test_a_claim_that_did_not_pass_is_tried_again_ever_less_often(
        self, database: Database, running: Running, clock: Clock, finding: str
    ) -> None:
        claim = await submit(database, "gpu-1")
        running(Scripted(*[Finding(finding, "no")] * 3, Finding(VERIFIED)))
        for failures in (1, 2, 3):

            async def failed(failures: int = failures) -> bool:
                held = await entry(database, claim)
                return held is not None and held.failures == failures

            await eventually(failed)
            held = await entry(database, claim)
            assert held is not None
            assert held.due_ms - clock.ms == RETRY_FIRST_MS << (failures - 1)
            clock.ms = held.due_ms

        async def verified() -> bool:
            return await verdicts(database) == [(VERIFIED, "")]

        await eventually(verified)
        held = await entry(database, claim)
        assert held is not None
        assert held.failures == 0

    @pytest.mark.parametrize("finding", [VERIFIED, FAILED])
    async def test_a_finding_that_was_repeated_in_silence_is_renewed_before_the_verdict_lapses(
        self, database: Database, clock: Clock, finding: str
    ) -> None:
        """The silence says what the verdict said, so the verdict's own age counts."""
        await database.set_electorate(electorate(200, stakes={"//validator0": 0, "//validator1": 100}))
        await database.receive([Author("//validator1").delegate()], NOW_MS)  # so that the own place is the second one

        def record(claim: StoredClaim) -> Callable[[Ledger], bool]:
            return lambda ledger: record_verdict(
                ledger, claim.claim_id, Finding(finding, "no"), "test", OWN, TTL_MS // 5, clock.ms
            )

        for number in range(8):
            claim, said_ms = await submit(database, f"gpu-{number}"), clock.ms
            assert await database.write(record(claim))
            clock.ms += int(TTL_MS * 0.24)
            for _ in range(9):
                assert not await database.write(record(claim))
            held = await entry(database, claim)
            assert held is not None
            assert clock.ms <= held.due_ms <= said_ms + TTL_MS * OVERDUE

    async def test_the_book_survives_a_restart(self, database: Database, running: Running, clock: Clock) -> None:
        verifier = Scripted(Finding(FAILED, "no"))
        await submit(database, "gpu-1")
        first = running(verifier)
        await eventually(say(1, database))
        await first.stop()
        clock.ms += RETRY_FIRST_MS - SECOND_MS
        second = running(verifier)
        await eventually(idle(second))
        assert len(verifier.checked) == 1
        clock.ms += SECOND_MS
        await eventually(say(2, database))


class TestTogether:
    """Renewals wait for each other and are told in one event; what changes a vote is told at once."""

    @pytest.fixture
    async def claims(self, database: Database, running: Running, clock: Clock) -> list[StoredClaim]:
        """Three verified claims; by now all are due to be checked again."""
        first = running(Scripted())
        claims = [await submit(database, f"gpu-{number}", host=f"192.0.2.{number + 1}") for number in range(3)]
        await eventually(say(3, database))
        await first.stop()
        clock.ms += int(TTL_MS * 0.76)
        return claims

    async def test_those_that_come_in_one_time_are_one_event(
        self, database: Database, running: Running, clock: Clock, claims: list[StoredClaim]
    ) -> None:
        before = {row["claim_id"]: row for row in await database.query("verdicts", {}, 10)}
        verifier = Scripted()
        scheduler = running(verifier)
        await eventually(renewed(scheduler, 3))
        clock.ms += int(TTL_MS * 0.041)  # by 0.8 of its life a verdict is renewed
        await eventually(say_again(1, database))
        await eventually(renewed(scheduler, 0))
        after = {row["claim_id"]: row for row in await database.query("verdicts", {}, 10)}
        assert len({row["at"] for row in after.values()}) == 1
        assert {claim_id: row["since"] for claim_id, row in after.items()} == {
            claim_id: row["since"] for claim_id, row in before.items()
        }
        assert sorted(verifier.checked) == sorted(claim.claim_id for claim in claims)
        assert await own_verdicts(database) == 3

    async def test_as_many_as_one_event_holds_are_told_at_once(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch, claims: list[StoredClaim]
    ) -> None:
        monkeypatch.setattr(renewals_module, "RENEWED_MAX", len(claims))
        running(Scripted())
        await eventually(say_again(1, database))

    async def test_a_finding_that_is_none_of_them_is_told_at_once(
        self, database: Database, running: Running, claims: list[StoredClaim]
    ) -> None:
        scheduler = running(Scripted(Finding(FAILED, "gone")))
        await eventually(say(4, database))
        await eventually(renewed(scheduler, 2))
        assert (FAILED, "gone") in await verdicts(database)

    async def test_what_is_found_by_hand_meanwhile_is_what_counts(
        self, database: Database, running: Running, claims: list[StoredClaim]
    ) -> None:
        scheduler = running(Scripted(*[Finding(VERIFIED)] * 3, Finding(FAILED, "gone")))
        await eventually(renewed(scheduler, 3))
        await scheduler.check_now(claims[0].claim_id)
        assert scheduler.status()["renewed"] == 2
        await scheduler.stop()
        assert sorted(await verdicts(database)) == [(FAILED, "gone"), (VERIFIED, ""), (VERIFIED, "")]

    async def test_a_claim_that_is_gone_is_not_renewed(
        self, database: Database, running: Running, clock: Clock, claims: list[StoredClaim]
    ) -> None:
        scheduler = running(Scripted())
        await eventually(renewed(scheduler, 3))
        request = delete("//Alice", "nodes:gpu-0", clock.ms // SECOND_MS)
        await database.submit_delete(request, "gpu-0")
        await scheduler.stop()
        rows = await database.query("verdicts", {"claim_id": claims[0].claim_id.hex()}, 10)
        others = await database.query("verdicts", {"claim_id": claims[1].claim_id.hex()}, 10)
        assert rows[0]["at"] < others[0]["at"]

    async def test_a_daemon_that_stops_tells_what_it_found(
        self, database: Database, running: Running, claims: list[StoredClaim]
    ) -> None:
        scheduler = running(Scripted())
        await eventually(renewed(scheduler, 3))
        await scheduler.stop()
        assert await say_again(1, database)()

    async def test_one_that_is_killed_checks_them_again(
        self, database: Database, running: Running, claims: list[StoredClaim]
    ) -> None:
        """What nobody was told was not said; the book still has it as due."""
        killed, verifier = running(Scripted()), Scripted()
        await eventually(renewed(killed, 3))
        running(verifier)

        async def checked() -> bool:
            return len(verifier.checked) == 3

        await eventually(checked)

    async def test_they_wait_while_nothing_can_be_written(
        self, database: Database, running: Running, clock: Clock, claims: list[StoredClaim]
    ) -> None:
        scheduler = running(Scripted())
        await eventually(renewed(scheduler, 3))
        database.ledger.writes_refused = Reason("the clock is off", Code.WRITES_CLOCK)
        clock.ms += int(TTL_MS * 0.1)
        scans = scheduler.scans

        async def scanned() -> bool:
            return scheduler.scans >= scans + 2

        await eventually(scanned)
        assert scheduler.status()["renewed"] == 3
        await scheduler.stop()  # says that it could not, and is no error
        database.ledger.writes_refused = None
        running(Scripted())
        await eventually(say(6, database))

    async def test_what_could_not_be_told_for_long_is_checked_again_instead(
        self, database: Database, running: Running, clock: Clock, claims: list[StoredClaim]
    ) -> None:
        """What was found is no news any more, and would count for a whole life from now on."""
        scheduler = running(Scripted(*[Finding(VERIFIED)] * 3, *[Finding(FAILED, "gone")] * 3))
        await eventually(renewed(scheduler, 3))
        database.ledger.writes_refused = Reason("the clock is off", Code.WRITES_CLOCK)
        clock.ms += int(TTL_MS * 0.2)
        database.ledger.writes_refused = None
        await eventually(say(6, database))
        assert await verdicts(database) == [(FAILED, "gone")] * 3
        assert await database.query("event_log", {"kind": "renew"}, 100) == []


class TestCut:
    """Verdicts above the cut of the own log are made anew at once, and those of others are not this one's business."""

    @pytest.fixture
    async def scene(self, database: Database, running: Running) -> tuple[Scheduler, Scripted, StoredClaim]:
        verifier = Scripted()
        scheduler = running(verifier)
        claim = await submit(database, "gpu-1")
        await eventually(say(1, database))
        await eventually(idle(scheduler))
        return scheduler, verifier, claim

    async def test_what_it_said_above_the_cut_is_said_again(
        self, database: Database, scene: tuple[Scheduler, Scripted, StoredClaim]
    ) -> None:
        _, verifier, claim = scene
        own = database.ledger.own_log
        assert own is not None
        close = closing(AUTHOR.hotkey, NETWORK.id, own, Head(1, (await database.event_ids(own, [1]))[1]))

        def job(ledger: Ledger) -> None:
            ledger.receive_proofs([close], NOW_MS)
            ledger.open_log(1, Author("//validator0", number=1).delegation(), NOW_MS)

        await database.write(job)
        await eventually(say(2, database))
        assert verifier.checked == [claim.claim_id] * 2
        assert (await verdicts(database)) == [(VERIFIED, "")]

    async def test_the_end_of_a_log_of_somebody_else_changes_nothing(
        self, database: Database, scene: tuple[Scheduler, Scripted, StoredClaim]
    ) -> None:
        scheduler, verifier, _ = scene
        await database.set_electorate(electorate(200, stakes={"//validator0": 100, "//validator1": 1}))
        other = Author("//validator1")
        first = other.delegate()
        await database.receive(
            [first, other.write(closing(other.hotkey, NETWORK.id, other.log, Head(0, first.id)))], NOW_MS
        )
        scans = scheduler.scans

        async def scanned() -> bool:
            return scheduler.scans > scans + 2

        await eventually(scanned)
        assert len(verifier.checked) == 1


class TestDeleted:
    """A claim that is gone is not checked, and its check is stopped."""

    async def test_a_deleted_claim_is_not_checked(self, database: Database, running: Running) -> None:
        verifier = Scripted()
        claim = await submit(database, "gpu-1")
        await database.submit_delete(delete("//Alice", "nodes:gpu-1", NOW_S), "gpu-1")
        scheduler = running(verifier)
        scheduler.offer(claim.claim_id)
        await eventually(idle(scheduler))
        assert verifier.checked == []

    async def test_a_delete_stops_the_check(self, database: Database, running: Running) -> None:
        verifier = Scripted(hold=True)
        await submit(database, "gpu-1")
        scheduler = running(verifier)

        async def begun() -> bool:
            return verifier.running == 1

        await eventually(begun)
        await database.submit_delete(delete("//Alice", "nodes:gpu-1", NOW_S), "gpu-1")

        async def stopped() -> bool:
            return verifier.running == 0

        await eventually(stopped)
        await eventually(idle(scheduler))
        verifier.let_go.set()
        await submit(database, "gpu-2")  # the workers are alive
        await eventually(say(1, database))
        assert len(await verdicts(database)) == 1

    async def test_a_claim_that_is_gone_is_struck_out_of_the_book(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        claim = await submit(database, "gpu-1")
        running(Scripted())
        await eventually(say(1, database))
        await database.submit_delete(delete("//Alice", "nodes:gpu-1", NOW_S), "gpu-1")
        clock.ms += TTL_MS

        async def gone() -> bool:
            return await entry(database, claim) is None

        await eventually(gone)
        assert await own_verdicts(database) == 1

    async def test_a_claim_that_is_gone_is_not_looked_at_for_ever(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        """Else each that ever was would cost a look a minute."""
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted())
        await eventually(say(1, database))
        await database.submit_delete(delete("//Alice", "nodes:gpu-1", NOW_S), "gpu-1")
        scheduler.offer(claim.claim_id)
        await eventually(idle(scheduler))
        assert scheduler.status()["later"] == 0
        assert claim.claim_id in scheduler._resting
        clock.ms += scheduler_module.PAUSE_MS
        scans = scheduler.scans

        async def scanned() -> bool:
            return scheduler.scans > scans + 2

        await eventually(scanned)
        assert claim.claim_id not in scheduler._later


class TestByHand:
    """An operator may have a claim checked out of turn."""

    async def test_the_verdict_is_published_though_the_last_one_is_fresh(
        self, database: Database, running: Running
    ) -> None:
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted())
        await eventually(say(1, database))
        found = await scheduler.check_now(claim.claim_id)
        assert found.finding == Finding(VERIFIED)
        assert found.published
        assert await own_verdicts(database) == 2

    async def test_a_fault_is_told_and_nothing_published(self, database: Database, running: Running) -> None:
        claim = await submit(database, "gpu-1")
        scheduler = running(Scripted(Finding(VERIFIED), VerifierUnavailableError("service down")))
        await eventually(say(1, database))
        found = await scheduler.check_now(claim.claim_id)
        assert (found.finding, found.reason, found.published) == (None, "service down", False)
        assert await own_verdicts(database) == 1

    async def test_an_unknown_claim_is_refused(self, database: Database, running: Running) -> None:
        scheduler = running(Scripted())
        with pytest.raises(NotCheckableError, match="unknown"):
            await scheduler.check_now(bytes(32))

    async def test_it_waits_for_the_host(self, database: Database, running: Running) -> None:
        verifier = Scripted(hold=True)
        await submit(database, "gpu-1")
        scheduler = running(verifier)

        async def begun() -> bool:
            return verifier.running == 1

        await eventually(begun)
        other = await submit(database, "gpu-2")
        by_hand = asyncio.create_task(scheduler.check_now(other.claim_id))
        verifier.let_go.set()
        async with asyncio.timeout(10):
            found = await by_hand
        assert found.finding == Finding(VERIFIED)
        assert verifier.most == 1

    async def test_a_claim_that_is_deleted_meanwhile_ends_it(self, database: Database, running: Running) -> None:
        verifier = Scripted()
        claim = await submit(database, "gpu-1")
        scheduler = running(verifier)
        await eventually(say(1, database))
        verifier.let_go.clear()
        by_hand = asyncio.create_task(scheduler.check_now(claim.claim_id))

        async def begun() -> bool:
            return verifier.running == 1

        await eventually(begun)
        await database.submit_delete(delete("//Alice", "nodes:gpu-1", NOW_S), "gpu-1")
        async with asyncio.timeout(10):
            found = await by_hand
        assert found.finding is None
        assert "deleted" in found.reason

    async def test_it_makes_no_second_verdict_of_a_check_that_runs_already(
        self, database: Database, running: Running
    ) -> None:
        """Also where a check loads no host."""

        class Nowhere(Scripted):
            def endpoints(self, claim: StoredClaim) -> frozenset[tuple[str, int]]:
                return frozenset()

        verifier = Nowhere(hold=True)
        claim = await submit(database, "gpu-1")
        scheduler = Scheduler(database, verifier, OWN, lambda: NOW_MS)
        by_hand = asyncio.create_task(scheduler.check_now(claim.claim_id))

        async def begun() -> bool:
            return verifier.running == 1

        await eventually(begun)
        looking = asyncio.create_task(scheduler._look(claim.claim_id))
        again = asyncio.create_task(scheduler.check_now(claim.claim_id))
        await looking
        assert verifier.running == 1
        verifier.let_go.set()
        async with asyncio.timeout(10):
            assert [(await task).finding for task in (by_hand, again)] == [Finding(VERIFIED)] * 2
        assert verifier.most == 1

    async def test_so_many_run_at_once_and_no_more(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "BY_HAND_MAX", 2)
        verifier = Scripted(hold=True)
        claim = await submit(database, "gpu-1")
        scheduler = running(verifier)
        asked = [asyncio.create_task(scheduler.check_now(claim.claim_id)) for _ in range(5)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        while len(done) < 3:
            done, waiting = await asyncio.wait(asked, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        assert {type(task.exception()) for task in done} == {NotCheckableError}
        assert (len(done), len(waiting)) == (3, 2)
        verifier.let_go.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)

    async def test_nobody_is_challenged_for_a_verdict_that_cannot_be_written(
        self, database: Database, running: Running
    ) -> None:
        claim = await submit(database, "gpu-1")
        verifier = Scripted()
        scheduler = Scheduler(database, verifier, OWN, lambda: NOW_MS)
        database.ledger.writes_refused = "test"
        with pytest.raises(WritesRefusedError, match="test"):
            await scheduler.check_now(claim.claim_id)
        assert verifier.checked == []

    async def test_a_bug_of_the_verifier_is_told(self, database: Database) -> None:
        claim = await submit(database, "gpu-1")
        scheduler = Scheduler(database, Scripted(RuntimeError("a bug")), OWN, lambda: NOW_MS)
        found = await scheduler.check_now(claim.claim_id)
        assert (found.finding, found.published) == (None, False)
        assert "a bug" in found.reason


class TestAClockThatWentBack:
    """What was put off under a clock that ran ahead is not put off until that time comes."""

    async def test_a_verdict_that_was_refused_meanwhile_is_made_soon(
        self, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        ahead_ms = 10 * 3_600 * SECOND_MS
        refuse = True

        def record(*args: Any, **named: Any) -> bool:
            if refuse:
                raise WritesRefusedError("the system clock is off")
            return record_verdict(*args, **named)

        monkeypatch.setattr(scheduler_module, "record_verdict", record)
        verifier = Scripted(hold=True)
        scheduler = running(verifier)
        claim = await submit(database, "gpu-1")
        await eventually(lambda: waits_for(lambda: verifier.checked == [claim.claim_id]))
        clock.ms += ahead_ms
        verifier.let_go.set()
        await eventually(lambda: waits_for(lambda: scheduler.status()["later"] == 1))
        clock.ms -= ahead_ms
        refuse = False
        clock.ms += scheduler_module.PAUSE_MS
        await eventually(say(1, database))

    async def test_a_claim_that_could_not_be_checked_meanwhile_is_looked_at_again(
        self, database: Database, running: Running, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ahead_ms = 10 * 3_600 * SECOND_MS
        scheduler = running(Scripted())
        claim = await submit(database, "gpu-1")
        await eventually(say(1, database))
        clock.ms += ahead_ms
        await scheduler._set_aside(claim.claim_id)
        assert scheduler._resting
        clock.ms -= ahead_ms
        await eventually(lambda: waits_for(lambda: not scheduler._resting))

    async def test_an_entry_of_that_time_does_not_hold_though_the_daemon_was_restarted(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        ahead_ms = 10 * 3_600 * SECOND_MS
        claim = await submit(database, "gpu-1")
        begun = await submit(database, "gpu-2", host="192.0.2.11")
        clock.ms += ahead_ms
        await database.write(lambda ledger: record_fault(ledger, claim.claim_id, "its certificate is over", clock.ms))
        await database.write(lambda ledger: checks.write_check(ledger.facts, begun.claim_id, Check(clock.ms)))
        clock.ms -= ahead_ms
        running(Scripted())
        await eventually(say(2, database))

    async def test_all_of_them_are_found_however_many_there_are(
        self, database: Database, running: Running, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "ENTRIES_LOOKED_AT", 2)
        claims = [await submit(database, f"gpu-{number}", host=f"192.0.2.{number}") for number in range(5)]
        for claim in claims:  # all at one moment
            later_ms = clock.ms + 36_000 * SECOND_MS
            await database.write(partial(_fault_at, claim.claim_id, later_ms))
        running(Scripted())
        await eventually(say(5, database))

    async def test_what_was_put_off_for_good_reason_stays_so(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        """A renewal, a claim that did not pass, and one that could not be checked just now."""
        verifier = Scripted(Finding(VERIFIED), Finding(FAILED, "wrong GPU"), VerifierUnavailableError("down"))
        claims = [await submit(database, f"gpu-{number}", host=f"192.0.2.{number}") for number in range(3)]
        first = running(verifier, checks_at_once=1)

        async def entries() -> list[Check | None]:
            return [await entry(database, claim) for claim in claims]

        async def entered() -> bool:
            return None not in await entries()

        await eventually(entered)
        await first.stop()
        before = await entries()
        assert all(held is not None and held.due_ms > clock.ms for held in before)
        second = running(Scripted())
        await eventually(lambda: waits_for(lambda: second.scans > 2))
        assert await entries() == before

    async def test_one_that_went_back_by_little_changes_nothing(
        self, database: Database, running: Running, clock: Clock
    ) -> None:
        scheduler = running(Scripted())
        await eventually(lambda: waits_for(lambda: scheduler.scans > 0))
        scheduler._remind(bytes(32), clock.ms + 3_600 * SECOND_MS)
        clock.ms -= SECOND_MS
        scans = scheduler.scans
        await eventually(lambda: waits_for(lambda: scheduler.scans > scans + 3))
        assert scheduler.status()["later"] == 1


def _fault_at(claim_id: bytes, now_ms: int, ledger: Ledger) -> None:
    record_fault(ledger, claim_id, "its certificate is over", now_ms)


class TestBounds:
    """What is remembered for later is bounded, however often it changes."""

    async def test_reminders_are_bounded_and_the_latest_one_holds(
        self, database: Database, running: Running, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "LATER_CLAIMS_MAX", 8)
        scheduler = Scheduler(database, Scripted(), OWN, clock)
        for turn in range(100):
            scheduler._remind(bytes([turn % 5]) * 32, NOW_MS + turn)
            assert len(scheduler._wakes) <= 16
        for number in range(5, 50):
            scheduler._remind(bytes([number]) * 32, NOW_MS)
        assert len(scheduler._later) == 8
        assert {scheduler._later[bytes([number]) * 32] - NOW_MS for number in range(5)} == {95, 96, 97, 98, 99}
        assert {(scheduler._later[claim], claim) for claim in scheduler._later} <= set(scheduler._wakes)

    async def test_a_backlog_of_renewals_does_not_hold_up_a_new_claim(self, database: Database, clock: Clock) -> None:
        """Nor the other way round: the two lines are served by turns."""
        scheduler = Scheduler(database, Scripted(), OWN, clock)
        for number in range(100):
            scheduler.offer(bytes([0, number]) * 16, again=True)
        for number in range(3):
            scheduler.offer(bytes([1, number]) * 16)
        served = [scheduler._queue.get_nowait()[2][0] for _ in range(8)]
        assert served == [1, 0, 1, 0, 1, 0, 0, 0]

    async def test_each_line_is_bounded(
        self, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "QUEUED_CLAIMS_MAX", 8)
        scheduler = Scheduler(database, Scripted(), OWN, clock)
        for number in range(100):
            scheduler.offer(bytes([number]) * 32, again=number % 3 == 0)
        assert scheduler._queue.qsize() == 8
        assert scheduler.status()["queued"] == 8


class TestTold:
    """What checks come to, and how long they took, is told to whoever counts it."""

    async def test_each_check_is_told_by_method_and_finding(self, database: Database, clock: Clock) -> None:
        told: list[tuple[str, str, float]] = []
        verifier = Scripted(Finding(VERIFIED), Finding(FAILED, "wrong GPU"), VerifierUnavailableError("service down"))
        scheduler = Scheduler(database, verifier, OWN, clock, on_checked=lambda *check: told.append(check))
        for number in range(3):
            claim = await submit(database, f"gpu-{number}")
            await scheduler.check_now(claim.claim_id)
        assert [check[:2] for check in told] == [
            (verifier.method, VERIFIED), (verifier.method, FAILED), (verifier.method, UNAVAILABLE),
        ]  # fmt: skip
        assert all(seconds >= 0 for _, _, seconds in told)

    async def test_claims_that_find_no_place_are_counted(
        self, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "QUEUED_CLAIMS_MAX", 4)
        scheduler = Scheduler(database, Scripted(), OWN, clock)
        for number in range(5):
            scheduler.offer(bytes([number]) * 32)
        assert scheduler.status()["passed_over"] == 3
