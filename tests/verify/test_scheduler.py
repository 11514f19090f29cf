"""Every claim that waits for this validator's verdict gets one, once, and again before it lapses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from p2pnodes.model.claims import parse_body
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.keys import NodeKey
from p2pnodes.store.database import Database
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify import scheduler as scheduler_module
from p2pnodes.verify.scheduler import Scheduler
from p2pnodes.verify.verifier import Finding, NoneVerifier, VerifierUnavailableError
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate

AUTHOR = Author("//validator0")


class Clock:
    """Wall clock that a test moves."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


class Scripted:
    """A verifier that answers what it is told, and counts."""

    method = "scripted"

    def __init__(self, *findings: Finding | Exception) -> None:
        self.findings = list(findings)
        self.checked: list[bytes] = []

    async def verify(self, claim: StoredClaim) -> Finding:
        self.checked.append(claim.claim_id)
        finding = self.findings.pop(0)
        if isinstance(finding, Exception):
            raise finding
        return finding


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path, clock: Clock) -> AsyncIterator[Database]:
    node_key = NodeKey.from_seed(AUTHOR.node_key.seed)
    database = await Database.open(tmp_path / "p2pnodes.db", NETWORK, node_key, now_ms=clock)
    await database.set_electorate(electorate(stakes={"//validator0": 100}))
    await database.write(lambda ledger: ledger.open_log(0, AUTHOR.delegation(), NOW_MS))
    database.ledger.writes_refused = None
    yield database
    await database.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan without a pause that a test would wait for."""
    monkeypatch.setattr(scheduler_module, "SCAN_INTERVAL_S", 0.01)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)


async def submit(database: Database, uuid: str) -> StoredClaim:
    request = add("//Alice", [uuid], database._now_ms() // 1000)
    return await database.submit_add(request, parse_body(request.body), None)


async def verdicts(database: Database) -> list[tuple[str, str]]:
    return [(row["finding"], row["detail"]) for row in await database.query("verdicts", {}, 100)]


async def running(database: Database, verifier: Scripted | NoneVerifier, clock: Clock) -> Scheduler:
    scheduler = Scheduler(database, verifier, AUTHOR.hotkey.public_key, clock)
    scheduler.start()
    return scheduler


async def test_a_new_claim_is_verified_by_the_none_verifier(database: Database, clock: Clock) -> None:
    scheduler = await running(database, NoneVerifier(), clock)
    claim = await submit(database, "gpu-1")
    scheduler.offer(claim.claim_id)

    async def verified() -> bool:
        return [row["status"] for row in await database.query("inventory", {}, 10)] == ["verified"]

    await eventually(verified)
    await scheduler.stop()


async def test_claims_from_before_the_start_are_found_by_the_scan(database: Database, clock: Clock) -> None:
    await submit(database, "gpu-1")
    await submit(database, "gpu-2")
    scheduler = await running(database, NoneVerifier(), clock)

    async def both() -> bool:
        return await verdicts(database) == [("verified", "")] * 2

    await eventually(both)
    await scheduler.stop()


async def test_a_claim_is_checked_once_while_its_verdict_is_fresh(database: Database, clock: Clock) -> None:
    verifier = Scripted(Finding("verified"))  # a second check would find no answer and be logged as a failure
    claim = await submit(database, "gpu-1")
    scheduler = await running(database, verifier, clock)
    for _ in range(3):
        scheduler.offer(claim.claim_id)

    async def done() -> bool:
        return scheduler.queued == 0 and len(await verdicts(database)) == 1

    await eventually(done)
    events = database.state.events
    assert await database.due_claims(AUTHOR.hotkey.public_key, hlc_at(NOW_MS - 1000), 10) == []
    await scheduler.stop()
    assert database.state.events == events
    assert verifier.checked == [claim.claim_id]


async def test_a_verifier_that_is_down_says_nothing_and_is_asked_again(database: Database, clock: Clock) -> None:
    verifier = Scripted(VerifierUnavailableError("service down"), Finding("failed", "wrong GPU"))
    claim = await submit(database, "gpu-1")
    scheduler = await running(database, verifier, clock)

    async def failed() -> bool:
        return await verdicts(database) == [("failed", "wrong GPU")]

    await eventually(failed)
    await scheduler.stop()
    assert verifier.checked == [claim.claim_id] * 2


async def test_a_deleted_claim_is_not_checked(database: Database, clock: Clock) -> None:
    verifier = Scripted()
    claim = await submit(database, "gpu-1")
    await database.submit_delete(delete("//Alice", "nodes:gpu-1", NOW_S), "gpu-1")
    scheduler = await running(database, verifier, clock)
    scheduler.offer(claim.claim_id)

    async def empty() -> bool:
        return scheduler.queued == 0

    await eventually(empty)
    await scheduler.stop()
    assert verifier.checked == []


async def test_a_renewed_verdict_keeps_the_begin_of_its_unbroken_run(database: Database, clock: Clock) -> None:
    await submit(database, "gpu-1")
    scheduler = await running(database, NoneVerifier(), clock)

    async def one() -> bool:
        return len(await verdicts(database)) == 1

    await eventually(one)
    (first,) = await database.query("verdicts", {}, 10)
    clock.ms += int(NETWORK.verdict_ttl_s * 1000 * 0.8)

    async def renewed() -> bool:
        (now,) = await database.query("verdicts", {}, 10)
        return bool(now["at"] > first["at"])

    await eventually(renewed)
    (second,) = await database.query("verdicts", {}, 10)
    await scheduler.stop()
    assert second["since"] == first["since"]


async def test_a_verdict_after_a_lapse_begins_a_new_run(database: Database, clock: Clock) -> None:
    await submit(database, "gpu-1")
    scheduler = await running(database, NoneVerifier(), clock)

    async def one() -> bool:
        return len(await verdicts(database)) == 1

    await eventually(one)
    await scheduler.stop()
    (first,) = await database.query("verdicts", {}, 10)
    clock.ms += NETWORK.verdict_ttl_s * 1000 + 1
    scheduler = await running(database, NoneVerifier(), clock)

    async def again() -> bool:
        (now,) = await database.query("verdicts", {}, 10)
        return bool(now["at"] > first["at"])

    await eventually(again)
    (second,) = await database.query("verdicts", {}, 10)
    await scheduler.stop()
    assert second["since"] == second["at"]


async def test_claims_beyond_the_queue_are_found_again_by_the_scan(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "QUEUED_CLAIMS_MAX", 2)
    for number in range(5):
        await submit(database, f"gpu-{number}")
    scheduler = await running(database, NoneVerifier(), clock)

    async def all_five() -> bool:
        return len(await verdicts(database)) == 5

    await eventually(all_five)
    await scheduler.stop()
