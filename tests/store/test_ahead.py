"""Signatures of much that comes at once are checked ahead, and the writer finds what holds, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sr25519
from structlog.testing import capture_logs

from p2pnodes.model import keys
from p2pnodes.model.events import EVENT_BYTES_MAX, Event
from p2pnodes.model.keys import verify_node, verify_sr25519
from p2pnodes.model.validity import EMPTY, judge
from p2pnodes.store import ahead
from p2pnodes.store.ahead import (
    BATCH_BYTES,
    BATCH_EVENTS,
    BULK_EVENTS,
    BULK_EVENTS_MAX,
    BULK_PER_S,
    BYTES_MAX,
    EVENTS_MAX,
    EVENTS_MIN,
    REST_S,
    Ahead,
)
from p2pnodes.store.checker import BATCH_BYTES_MAX, Answer, answer, pack_batch
from p2pnodes.store.checking import CheckerError
from p2pnodes.store.database import Database
from p2pnodes.store.state import Result
from tests.support import NETWORK, NOW_MS, Author, add, electorate

AUTHOR, MINER = "//validator1", "//miner0"


class Elsewhere:
    """Checks in this process, when it is let."""

    def __init__(self) -> None:
        self.batches: list[Sequence[bytes]] = []
        self.let = asyncio.Event()
        self.let.set()
        self.fails: Exception | None = None
        self.ended = 0

    async def check(self, wires: Sequence[bytes]) -> Answer:
        self.batches.append(wires)
        await self.let.wait()
        if self.fails is not None:
            raise self.fails
        return answer(wires)

    async def end(self) -> None:
        self.ended += 1
        self.fails = CheckerError("it was ended")
        self.let.set()

    @property
    def events(self) -> int:
        """Events that it was asked for."""
        return sum(map(len, self.batches))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signature was ever checked, and there are two cores."""
    monkeypatch.setattr(ahead, "cores", lambda: 2)
    verify_node.cache_clear()
    verify_sr25519.cache_clear()


@pytest.fixture
async def elsewhere() -> Elsewhere:
    """A checker."""
    return Elsewhere()


@pytest.fixture
async def checks(elsewhere: Elsewhere) -> AsyncIterator[Ahead]:
    """What asks it."""
    checks = Ahead(elsewhere)
    yield checks
    await checks.close()
    assert not keys._vouched


@pytest.fixture
def nobody_checks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, a signature that is checked in this process fails the test."""

    def refuse(*_: Any) -> None:
        pytest.fail("a signature was checked again")

    def begin() -> None:
        monkeypatch.setattr(keys, "crypto_sign_open", refuse)
        monkeypatch.setattr(sr25519, "verify", refuse)

    return begin


def written(count: int) -> list[Event]:
    """The first events of a log: registrations, but for the first."""
    author = Author(AUTHOR)
    author.delegate()
    for number in range(count - 1):
        author.add(add(MINER, [f"{number:032x}"]))
    return author.events


def verdicts(count: int) -> list[Event]:
    """The same, of small events."""
    author = Author(AUTHOR)
    author.delegate()
    for _ in range(count - 1):
        author.verdict(bytes(32))
    return author.events


def forged(event: Event) -> Event:
    """An event that its log did not sign."""
    return event._replace(signature=bytes(64), wire=event.wire.replace(event.signature, bytes(64)))


def bulk(checks: Ahead) -> None:
    """Let many events have come just now."""
    for _ in range(BULK_EVENTS // EVENTS_MIN):
        checks.wants(EVENTS_MIN)


async def whole(checks: Ahead, events: Sequence[Event]) -> bool:
    """Whether all of some events was found to hold."""
    async with checks.settled(events) as found:
        return found


class TestWanting:
    """Only much that comes at once is worth a process."""

    async def test_live_events_never_are(self, checks: Ahead) -> None:
        assert not any(checks.wants(count) for count in range(EVENTS_MIN) for _ in range(BULK_EVENTS))

    async def test_many_are_from_a_number_on(self, checks: Ahead) -> None:
        found = [checks.wants(EVENTS_MIN) for _ in range(2 * BULK_EVENTS // EVENTS_MIN)]
        assert not any(found[: BULK_EVENTS // EVENTS_MIN - 1])
        assert found[-1]

    async def test_a_daemon_that_hears_less_than_many_a_second_never_comes_to_it(
        self, checks: Ahead, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now_s = 0.0
        monkeypatch.setattr(checks._loop, "time", lambda: now_s)
        for _ in range(10_000):
            assert not checks.wants(EVENTS_MIN)
            now_s += EVENTS_MIN / BULK_PER_S

    async def test_after_any_number_it_takes_no_longer_to_be_few_again(
        self, checks: Ahead, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now_s = 0.0
        monkeypatch.setattr(checks._loop, "time", lambda: now_s)
        for _ in range(1_000):
            checks.wants(BULK_EVENTS_MAX)
        now_s = (BULK_EVENTS_MAX - BULK_EVENTS + 2 * EVENTS_MIN) / BULK_PER_S
        assert not checks.wants(EVENTS_MIN)

    async def test_one_core_is_for_the_daemon(self, checks: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ahead, "cores", lambda: 1)
        assert not any(checks.wants(BULK_EVENTS) for _ in range(10))


class TestAnswers:
    """What holds is found by whoever asks next, once; what does not hold, or was not answered, is checked there."""

    async def test_nothing_of_what_was_checked_ahead_is_checked_again(
        self, checks: Ahead, nobody_checks: Callable[[], None]
    ) -> None:
        events = written(100)
        prefix = judge(events[0], EMPTY).prefix  # delegations are left to whoever judges
        checks.offer(events)
        async with checks.settled(events) as found:
            nobody_checks()
            assert found
            for event in events[1:]:
                assert event.signed()
                judgement = judge(event, prefix)
                assert judgement.void is None
                prefix = judgement.prefix

    async def test_what_nobody_asked_for_is_forgotten_behind_the_writer(self, checks: Ahead) -> None:
        events = written(BATCH_EVENTS)
        checks.offer(events)
        async with checks.settled(events):
            assert len(keys._vouched) == 2 * len(events) - 1
        assert not keys._vouched

    async def test_a_batch_is_kept_until_all_of_it_was_asked_about(self, checks: Ahead) -> None:
        events = written(BATCH_EVENTS)
        checks.offer(events)
        assert await whole(checks, events[:10])
        async with checks.settled(events[10:]) as found:
            assert found
            assert keys._vouched
        assert not keys._vouched

    async def test_a_forged_event_is_not_vouched_for_nor_what_follows_on_it(self, checks: Ahead) -> None:
        events = verdicts(40)
        events[20] = forged(events[20])
        checks.offer(events)
        async with checks.settled(events) as found:
            assert not found
            assert len(keys._vouched) == 20
            assert not events[20].signed()

    async def test_what_was_not_offered_is_not_vouched_for(self, checks: Ahead) -> None:
        events = verdicts(40)
        checks.offer(events[:30])
        assert not await whole(checks, events)

    async def test_an_event_that_came_twice_is_checked_once(self, checks: Ahead, elsewhere: Elsewhere) -> None:
        events = verdicts(200)
        checks.offer(events + events)
        checks.offer(events)
        assert await whole(checks, events)
        assert elsewhere.events == len(events)

    async def test_who_goes_away_takes_no_answer_from_others(self, checks: Ahead, elsewhere: Elsewhere) -> None:
        events = verdicts(BATCH_EVENTS)
        elsewhere.let.clear()
        checks.offer(events)
        gone = asyncio.create_task(whole(checks, events[:10]))
        await asyncio.sleep(0)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        elsewhere.let.set()
        assert await whole(checks, events[10:])

    async def test_an_answer_that_nobody_waits_for_any_more_is_not_kept(
        self, checks: Ahead, elsewhere: Elsewhere
    ) -> None:
        events = verdicts(BATCH_EVENTS)
        elsewhere.let.clear()
        checks.offer(events)
        gone = asyncio.create_task(whole(checks, events))
        await asyncio.sleep(0)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        elsewhere.let.set()
        await asyncio.sleep(0.01)
        assert not keys._vouched


class TestBounds:
    """However much comes, so much is under way, and what nobody uses goes."""

    async def test_events(self, checks: Ahead, elsewhere: Elsewhere) -> None:
        elsewhere.let.clear()
        checks.offer(verdicts(2 * EVENTS_MAX))
        await asyncio.sleep(0)
        assert elsewhere.events == EVENTS_MAX

    async def test_no_batch_is_larger_than_the_process_takes(self, checks: Ahead, elsewhere: Elsewhere) -> None:
        events = written(300)
        large = [event._replace(wire=event.wire + bytes(BATCH_BYTES // 3)) for event in events[:10]]
        larger = [event._replace(wire=event.wire + bytes(EVENT_BYTES_MAX)) for event in events[10:12]]
        elsewhere.let.clear()  # none of these decodes
        checks.offer(large + larger + events[12:])
        await asyncio.sleep(0)
        assert [len(batch) for batch in elsewhere.batches[:5]] == [2] * 5
        assert max(map(len, elsewhere.batches)) == BATCH_EVENTS
        assert elsewhere.events == len(events)
        assert all(len(pack_batch(batch)) < BATCH_BYTES_MAX for batch in elsewhere.batches)

    async def test_bytes(self, checks: Ahead, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
        events = written(500)
        size = sum(len(event.wire) for event in events)
        monkeypatch.setattr(ahead, "BYTES_MAX", size // 2)
        elsewhere.let.clear()
        checks.offer(events)
        await asyncio.sleep(0)
        asked = sum(len(wire) for batch in elsewhere.batches for wire in batch)
        assert size // 2 - BATCH_EVENTS * 1_000 < asked <= size // 2 < BYTES_MAX

    async def test_there_is_room_again_for_what_was_settled(self, checks: Ahead, elsewhere: Elsewhere) -> None:
        events = verdicts(EVENTS_MAX + BATCH_EVENTS)
        checks.offer(events)
        assert await whole(checks, events[:BATCH_EVENTS])
        checks.offer(events[EVENTS_MAX:])
        assert await whole(checks, events[EVENTS_MAX:])

    async def test_answers_that_nobody_uses_make_room(self, checks: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
        events = verdicts(EVENTS_MAX + BATCH_EVENTS)
        checks.offer(events)
        await asyncio.sleep(0.1)
        assert len(keys._vouched) == EVENTS_MAX
        monkeypatch.setattr(ahead, "KEPT_S", 0.0)
        checks.offer(events[EVENTS_MAX:])
        assert await whole(checks, events[EVENTS_MAX:])
        assert not keys._vouched

    async def test_an_idle_one_holds_nothing_and_has_no_process(
        self, checks: Ahead, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ahead, "IDLE_S", 0.05)
        with capture_logs() as logs:
            checks.offer(verdicts(100))
            async with asyncio.timeout(10):
                while not elsewhere.ended:
                    await asyncio.sleep(0.01)
        assert not keys._vouched
        assert logs == [{"event": "signatures_checked_ahead", "signatures": 100, "log_level": "info"}]

    async def test_one_that_is_slow_is_not_idle(
        self, checks: Ahead, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ahead, "IDLE_S", 0.01)
        elsewhere.let.clear()
        events = verdicts(100)
        checks.offer(events)
        await asyncio.sleep(0.05)
        assert not elsewhere.ended
        elsewhere.let.set()
        assert await whole(checks, events)


class TestFailure:
    """A checker that fails costs one line, and the writer checks by itself."""

    @pytest.mark.parametrize("error", [CheckerError("it died (signal 9)"), RuntimeError("a bug")])
    async def test_nothing_is_vouched_for_and_nothing_asked_for_a_while(
        self, checks: Ahead, elsewhere: Elsewhere, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere.fails = error
        events = verdicts(500)
        bulk(checks)
        with capture_logs() as logs:
            checks.offer(events)
            assert not await whole(checks, events)
        assert not keys._vouched
        assert not checks.wants(EVENTS_MIN)
        if isinstance(error, CheckerError):
            (line,) = logs
            assert (line["event"], line["code"]) == ("signature_checker_failed", "data-checker")
            assert "signal 9" in line["error"]
        now_s = checks._loop.time() + REST_S
        monkeypatch.setattr(checks._loop, "time", lambda: now_s)
        bulk(checks)
        assert checks.wants(EVENTS_MIN)

    async def test_what_was_offered_in_the_same_moment_starts_it_no_more(
        self, checks: Ahead, elsewhere: Elsewhere
    ) -> None:
        elsewhere.fails = CheckerError("it cannot be started")
        events = verdicts(500)
        checks.offer(events)
        assert not await whole(checks, events)
        assert len(elsewhere.batches) == 1

    async def test_who_waits_for_several_batches_when_it_is_closed_has_their_answers(self) -> None:
        class OneByOne(Elsewhere):
            """Answers in order, as long as it takes, whoever ends it."""

            async def check(self, wires: Sequence[bytes]) -> Answer:
                self.batches.append(wires)
                await asyncio.sleep(0.01 * len(self.batches))
                return answer(wires)

            async def end(self) -> None:
                self.ended += 1

        checks = Ahead(OneByOne())
        events = verdicts(2 * BATCH_EVENTS)
        checks.offer(events)
        waiting = asyncio.create_task(whole(checks, events))
        await asyncio.sleep(0)
        await checks.close()
        assert await waiting
        assert not keys._vouched

    async def test_what_was_offered_in_the_moment_in_which_it_is_closed_starts_nothing(
        self, elsewhere: Elsewhere
    ) -> None:
        checks = Ahead(elsewhere)
        checks.offer(verdicts(BATCH_EVENTS))
        await checks.close()
        assert not elsewhere.batches

    async def test_the_database_stores_all_the_same(self, tmp_path: Path, elsewhere: Elsewhere) -> None:
        database = await Database.open(tmp_path / "p.db", NETWORK, None, now_ms=lambda: NOW_MS, checker=elsewhere)
        await database.set_electorate(electorate())
        events = written(BULK_EVENTS + 200)
        for first in range(0, len(events), 64):
            if first > BULK_EVENTS + 50:
                elsewhere.fails = CheckerError("it died (signal 9)")
            part = events[first : first + 64]
            database.foresee(part)
            outcomes = await database.receive(part, NOW_MS)
            assert {outcome.result for outcome in outcomes} == {Result.STORED}
            assert not any(outcome.detail for outcome in outcomes)
        await database.close()
        assert elsewhere.batches

    async def test_the_database_refuses_a_forged_event_as_ever(self, tmp_path: Path, elsewhere: Elsewhere) -> None:
        database = await Database.open(tmp_path / "p.db", NETWORK, None, now_ms=lambda: NOW_MS, checker=elsewhere)
        await database.set_electorate(electorate())
        assert database._ahead is not None
        bulk(database._ahead)
        events = verdicts(100)
        events[50] = forged(events[50])
        database.foresee(events)
        outcomes = await database.receive(events, NOW_MS)
        await database.close()
        assert elsewhere.events == 100
        assert [outcome.result for outcome in outcomes] == [Result.STORED] * 50 + [Result.FORGED] + [Result.GAP] * 49
