"""When this validator checks which claim, and how its verdicts get into its log.

A claim is looked at when it comes, when a vote on it comes, when the book says so (``store.checks``), and by a scan
that finds what a restart or a full queue left over, and walks slowly through all decided claims: an electorate that
changes names none. Looking decides (``verdicts.begins_ms``): not at all, later, or now. At most ``checks_at_once``
checks run, of claims whose hosts no other check loads, and of one miner half as many (rule 6). Verdicts that only renew
what was said before wait for each other (``verify.renewals``).
"""

import asyncio
import heapq
import math
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog

from p2pnodes.loops import kept_up
from p2pnodes.model.clock import MS_MAX, hlc_ms
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError, WritesRefusedError, printable
from p2pnodes.model.events import LogId
from p2pnodes.store import checks
from p2pnodes.store.checks import Check, Prospect
from p2pnodes.store.database import Database
from p2pnodes.store.facts import Facts, StoredClaim
from p2pnodes.store.ledger import LOADING
from p2pnodes.verify.finding import Finding, VerifierUnavailableError, publishable
from p2pnodes.verify.loads import Loads
from p2pnodes.verify.renewals import Renewals
from p2pnodes.verify.turns import OVERDUE, Turns, turns
from p2pnodes.verify.verdicts import FAULT_MAX_MS, begins_ms, record_fault, record_renewals, record_verdict
from p2pnodes.verify.verifier import Verifier

log = structlog.get_logger("p2pnodes.verify")

ENTRIES_LOOKED_AT: Final = 2_048
"""Entries of the book that a scan looks at after the clock went back: some 20 ms, and 100,000 in eight minutes."""

QUEUED_CLAIMS_MAX: Final = 4_096
"""Claims that wait to be looked at, in two lines of half as many; what does not fit is found again by the scan."""

LATER_CLAIMS_MAX: Final = 65_536
"""Claims that are remembered for a later moment; what does not fit is found again by the scan."""

SCAN_INTERVAL_S: Final = 10.0
WALK: Final = 0.05
"""Share of a verdict's life in which all decided claims are walked through: a third of the time between ``OVERDUE`` and
the end, so that others see in time which verdict is not renewed."""

WALKED_CLAIMS_MAX: Final = 65_536
"""Claims of one scan's part of that walk, whatever their number."""

PAUSE_MS: Final = 60_000
"""Pause after a claim could not be checked, because it does not stand or is in conflict with a verified one, or after
its check came to an unexpected end: what the scan finds each time must not cost a look, or a challenge, each time."""

WENT_BACK_MS_MIN: Final = 10_000
"""A wall clock that lies so far behind where it was has been set back: whatever was put off by it is looked at anew."""

CHECK_S_MIN: Final = 60.0
"""Seconds that a check may take beyond its slot: a verifier that hangs must not hold a worker for ever."""

END_S_MAX: Final = 5.0
"""Seconds that a check whose time is over may take to end; one that ignores that it is cancelled is left alone then."""

STANDING_POLL_S: Final = 1.0
"""How often it is looked whether the claims that are being checked still stand."""

UNAVAILABLE: Final = "unavailable"
"""What is said instead of a finding where this validator could not check."""

BY_HAND_MAX: Final = 16
"""Checks that operators may have under way by hand."""


class ByHand(NamedTuple):
    """What a check that somebody asked for came to.

    Attributes:
        finding: The finding; None when this validator could not check.
        reason: Why it could not; empty otherwise.
        published: Whether a verdict was written.
        seconds: How long it took.
    """

    finding: Finding | None
    reason: str
    published: bool
    seconds: float


class NotCheckableError(P2PNodesError):
    """A claim that cannot be checked now: unknown, gone, or in conflict with a verified one."""

    code = Code.VERIFIER_NOT_CHECKABLE


class Scheduler:
    """Feeds claims to the verifier and its findings to the own log."""

    def __init__(
        self,
        database: Database,
        verifier: Verifier,
        hotkey: bytes,
        now_ms: Callable[[], int],
        *,
        checks_at_once: int = 16,
        on_checked: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """Verify for the validator ``hotkey``; call ``start`` then.

        Args:
            database: Where claims and verdicts are.
            verifier: Checks them.
            hotkey: Public key of whose votes they are.
            now_ms: The wall clock, Unix milliseconds.
            checks_at_once: Checks that run beside each other, at most.
            on_checked: Called with the method, what each check came to (a finding, or UNAVAILABLE), and its seconds.
        """
        self._database = database
        self._verifier = verifier
        self._hotkey = hotkey
        self._now_ms = now_ms
        self._checks_at_once = checks_at_once
        self._on_checked = on_checked
        self._queue: asyncio.PriorityQueue[tuple[int, bool, bytes]] = asyncio.PriorityQueue()
        """Two lines that are served by turns, new claims and those to be checked again: a backlog of either, as after
        a night without power, must not hold up the other. Round, line, claim."""
        self._rounds = {False: 0, True: 0}
        self._round = 0
        self._queued = {False: 0, True: 0}
        self._waiting: set[bytes] = set()
        self._voted: set[bytes] = set()
        """Claims on which verdicts came while they were looked at."""
        self._later: dict[bytes, int] = {}
        self._wakes: list[tuple[int, bytes]] = []
        self._wake = asyncio.Event()
        self._running: dict[bytes, asyncio.Task[Finding]] = {}
        self._stuck: set[asyncio.Task[Finding]] = set()
        """Checks that did not end when they were cancelled, and that nobody waits for."""
        self._loads = Loads()
        self._renewals = Renewals(database.ledger.network.verdict_ttl_s * 1000)
        self._resting: dict[bytes, int] = {}
        """Claims that cannot be checked, and until when the scan passes them over."""
        self._latest_ms = MS_MAX
        """The wall clock as it was when something was put off, the highest; a process before may have had any."""
        self._looked_at: checks.Entry | None = None
        """How far it was looked, since the clock went back, for entries that it made while it ran ahead."""
        self._walked = 0
        self._ended = False
        """Whether an own log has ended since the last scan, and verdicts with it."""
        self._freed = asyncio.Event()
        self._by_hand = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.scans = 0
        """How often it was looked for what is due."""
        self._passed_over = 0
        """Claims that found no place in the queue, and were left to the scan."""
        self.problem: str | None = None
        """Why the verifier could not check the last time that it was to; None when it could."""

    @property
    def method(self) -> str:
        """Name of the verifier."""
        return self._verifier.method

    def status(self) -> dict[str, Any]:
        """For ``p2pnodes status``: the verifier, its problem, and how many claims are where.

        Of those, ``renewed`` were found verified again, which is not published yet.
        """
        return {
            "method": self.method,
            "problem": self.problem,
            "running": len(self._running),
            "queued": len(self._waiting - self._running.keys()),
            "later": len(self._later) + len(self._loads),
            "renewed": len(self._renewals),
            "passed_over": self._passed_over,
        }

    def start(self) -> None:
        """Start the workers, the clock and the scan."""
        loops = [self._scan, self._ring, self._watch_standing, *[self._work] * self._checks_at_once]
        self._tasks = [asyncio.create_task(kept_up(loop)) for loop in loops]

    async def stop(self) -> None:
        """Stop; checks under way are dropped and found again at the next start, and so is what cannot be published."""
        for task in (*self._tasks, *self._running.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)
        try:
            await self._publish()
        except P2PNodesError as error:
            log.warning("renewals_not_written", error=str(error), code=Code.VERIFIER_NOT_WRITTEN)

    def offer(self, claim_id: bytes, *, again: bool = False) -> None:
        """Look at a claim soon; one that waits already, or does not fit, is passed over.

        Args:
            claim_id: 32 bytes.
            again: Its vote is decided, so that it must not hold up those that are open.
        """
        if any(claim_id in busy for busy in (self._waiting, self._running, self._loads, self._renewals)):
            return
        if self._queued[again] >= QUEUED_CLAIMS_MAX // 2:
            self._passed_over += 1
            return
        self._later.pop(claim_id, None)
        self._waiting.add(claim_id)
        self._queued[again] += 1
        # Of each line one claim in each round; a line that was empty begins in the present one.
        self._rounds[again] = max(self._rounds[again], self._round) + 1
        self._queue.put_nowait((self._rounds[again], again, claim_id))

    def voted(self, claim_ids: Iterable[bytes]) -> None:
        """Verdicts on claims have come: whoever waits for a turn may have it now."""
        for claim_id in claim_ids:
            if claim_id in self._later:
                self.offer(claim_id)
            elif claim_id in self._waiting:
                self._voted.add(claim_id)

    def ended(self, logs: Iterable[LogId]) -> None:
        """Logs have ended: what this validator said in its own ones may not count any more, and is due again."""
        held = self._database.state.logs
        if any(log_id in held and held[log_id].hotkey == self._hotkey for log_id in logs):
            self._ended = True

    async def turns(self, claim_id: bytes) -> Turns | None:
        """The turns at a claim, as they stand; None when it cannot be checked."""
        found = await self._prospect(claim_id)
        if found is None:
            return None
        weights, created_ms = self._database.ledger.committed_weights, hlc_ms(found.claim.created_hlc)
        return turns(claim_id, created_ms, found.votes, weights, self._slot_ms(found.claim), self._now_ms())

    async def check_now(self, claim_id: bytes) -> ByHand:
        """Check a claim out of turn, and publish what is found.

        Raises:
            NotCheckableError: See its own text, and too many checks by hand.
            WritesRefusedError: The verdict cannot be written now.
        """
        if self._by_hand >= BY_HAND_MAX:
            raise NotCheckableError(f"{BY_HAND_MAX} checks by hand are under way already: wait for one to end")
        self._by_hand += 1
        begun_s = time.monotonic()
        try:
            finding, reason, published = await self._check_by_hand(claim_id)
        finally:
            self._by_hand -= 1
        return ByHand(finding, reason, published, time.monotonic() - begun_s)

    async def _check_by_hand(self, claim_id: bytes) -> tuple[Finding | None, str, bool]:
        """The finding, or why there is none, and whether a verdict was written."""
        if (refusal := self._refusal) is not None:
            raise WritesRefusedError(refusal)
        found = await self._prospect(claim_id)
        if found is None:
            raise NotCheckableError(
                "this claim is unknown, deleted, of a miner that is not registered, or in conflict with a verified one"
            )
        needs = self._needs(found.claim)
        while not self._loads.take(claim_id, needs):
            await self._freed.wait()
        try:
            finding = await self._run(found.claim)
            self.problem = None
            return finding, "", await self._record(found.claim, finding, anew=True)
        except VerifierUnavailableError as error:
            self.problem = error.told()
            log.warning(
                "verifier_unavailable", claim=claim_id.hex(), error=self.problem, code=Code.VERIFIER_UNAVAILABLE
            )
            return None, self.problem, False
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return None, "the check was stopped: the claim was deleted meanwhile, or this daemon stops", False
        finally:
            self._unload(needs)

    @property
    def _refusal(self) -> str | None:
        """Why no verdict can be written, so that a challenge is for nothing; None when one can."""
        refusal = self._database.ledger.writes_refused
        return LOADING if refusal is None and self._database.state.loading else refusal

    # -- loops -------------------------------------------------------------------------------------------------------

    async def _scan(self) -> None:
        while True:
            try:
                ledger = self._database.ledger
                if self._refusal is None and self._hotkey in ledger.committed_weights.enrolled:
                    if self._renewals.due(self._now_ms()):
                        await self._publish()
                    await self._offer_due()
                self.scans += 1
            except P2PNodesError as error:
                log.warning("scan_failed", error=str(error), code=error.code)
            except Exception:  # a scan that fails must not be the last one: votes would lapse
                log.exception("scan_failed", code=Code.SYSTEM_BUG)
            await asyncio.sleep(SCAN_INTERVAL_S)

    async def _offer_due(self) -> None:
        now_ms, ttl_s = self._now_ms(), self._database.ledger.network.verdict_ttl_s
        hotkey, walked = self._hotkey, self._walked
        life_ms = int(ttl_s * 1000 * OVERDUE)
        if now_ms < self._latest_ms - WENT_BACK_MS_MIN:  # the scans find all of it again
            self._looked_at = now_ms + FAULT_MAX_MS, b""
            self._latest_ms = now_ms
            self._later.clear()
            self._wakes.clear()
            self._resting.clear()
        if self._looked_at is not None:
            looked_at = self._looked_at
            put_off, following = await self._database.read(
                lambda facts: checks.put_off(facts, hotkey, looked_at, life_ms, ENTRIES_LOOKED_AT)
            )
            if put_off:
                await self._database.write(lambda ledger: checks.drop_checks(ledger.facts, put_off))
            self._looked_at = following
        if self._ended:
            self._ended = False
            await self._database.write(lambda ledger: checks.drop_unsaid(ledger.facts, hotkey, life_ms))

        def find(facts: Facts) -> tuple[list[bytes], list[bytes], tuple[list[bytes], int]]:
            part = min(math.ceil(checks.claims(facts) * SCAN_INTERVAL_S / (ttl_s * WALK)), WALKED_CLAIMS_MAX)
            return (
                checks.waiting(facts, hotkey, now_ms, ttl_s, QUEUED_CLAIMS_MAX),
                checks.entered(facts, now_ms, ttl_s, QUEUED_CLAIMS_MAX),
                checks.decided(facts, walked, part),
            )

        waiting, entered, (decided, self._walked) = await self._database.read(find)
        self._resting = {claim_id: until_ms for claim_id, until_ms in self._resting.items() if until_ms > now_ms}
        for claim_ids, again in ((waiting, False), (entered, True), (decided, True)):
            for claim_id in claim_ids:
                if claim_id not in self._resting and self._later.get(claim_id, 0) <= now_ms:
                    self.offer(claim_id, again=again)

    async def _ring(self) -> None:
        """Offer each claim of ``_later`` at its moment."""
        while True:
            self._wake.clear()
            now_ms = self._now_ms()
            while self._wakes and (self._wakes[0][0] <= now_ms or self._later.get(self._wakes[0][1]) is None):
                moment_ms, claim_id = heapq.heappop(self._wakes)
                if self._later.get(claim_id) == moment_ms:
                    self.offer(claim_id)
                    self._later.pop(claim_id, None)  # one that did not fit into the queue is the scan's
            # The wall clock may jump: a machine sleeps, or its time is set.
            wait_s = min((self._wakes[0][0] - now_ms) / 1000, SCAN_INTERVAL_S) if self._wakes else None
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def _watch_standing(self) -> None:
        """Stop the checks of claims that are gone: deleted, or beaten by a verified one."""
        while True:
            await asyncio.sleep(STANDING_POLL_S)
            for claim_id, task in list(self._running.items()):
                try:
                    if await self._prospect(claim_id) is None:
                        log.info("check_stopped", claim=claim_id.hex(), reason="the claim does not stand any more")
                        task.cancel()
                except P2PNodesError as error:
                    log.warning("standing_not_read", claim=claim_id.hex(), error=str(error), code=error.code)

    async def _work(self) -> None:
        while True:
            self._round, again, claim_id = await self._queue.get()
            self._queued[again] -= 1
            try:
                await self._look(claim_id)
            except P2PNodesError as error:
                log.warning(
                    "verdict_not_written", claim=claim_id.hex(), error=str(error), code=Code.VERIFIER_NOT_WRITTEN
                )
                self._remind(claim_id, self._now_ms() + PAUSE_MS)
            except Exception as error:
                self.problem = printable(f"a check failed, and the log says where: {type(error).__name__}: {error}")
                log.exception("check_failed", claim=claim_id.hex(), code=Code.SYSTEM_BUG)
                self._remind(claim_id, self._now_ms() + PAUSE_MS)
            finally:
                self._waiting.discard(claim_id)
                self._call(self._loads.looked_at(claim_id))
                if claim_id in self._voted:
                    self._voted.discard(claim_id)
                    self.voted([claim_id])

    # -- one claim ---------------------------------------------------------------------------------------------------

    async def _look(self, claim_id: bytes) -> None:
        """Check a claim, or note when to look at it again."""
        if self._refusal is not None:
            return  # the scan finds it again
        found = await self._prospect(claim_id)
        if found is None:
            await self._set_aside(claim_id)
            return
        now_ms, weights = self._now_ms(), self._database.ledger.committed_weights
        begin_ms = begins_ms(found, self._hotkey, weights, self._slot_ms(found.claim), now_ms)
        if begin_ms is None:
            if found.check is not None and self._hotkey in weights.enrolled:
                await self._strike(claim_id, found.check)  # an entry that nothing comes of would be due for ever
            return
        if begin_ms > now_ms:
            self._remind(claim_id, begin_ms)
            return
        needs = self._needs(found.claim)
        if not self._loads.take(claim_id, needs):
            self._loads.line_up(claim_id, needs)
            return
        try:
            if found.check is None and self._slot_ms(found.claim):
                # A check of seconds or minutes: the book keeps that it was begun, so that a restart makes it anew.
                begun = Check(now_ms)
                await self._database.write(lambda ledger: checks.write_check(ledger.facts, claim_id, begun))
            await self._check(found)
        finally:
            self._unload(needs)

    async def _check(self, prospect: Prospect) -> None:
        claim = prospect.claim
        try:
            finding = await self._run(claim)
        except VerifierUnavailableError as error:
            await self._fault(claim.claim_id, error.told())
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the daemon stops; otherwise the check alone was stopped
        else:
            self.problem = None
            now_ms = self._now_ms()
            if not self._renewals.take(claim.claim_id, finding, prospect.own, self._slot_ms(claim), now_ms):
                await self._record(claim, finding)
            elif self._renewals.due(now_ms):
                await self._publish()

    async def _publish(self) -> None:
        """Write the verdicts that wait for each other, unless found long ago, or of claims that are gone meanwhile."""
        self._renewals.drop_late(self._now_ms())
        for claim_id in self._renewals.slots_ms():
            if await self._prospect(claim_id) is None:
                self._renewals.forget(claim_id)
        told, method, hotkey = self._renewals.slots_ms(), self._verifier.method, self._hotkey
        if not told:
            return
        written = await self._database.write(
            lambda ledger: record_renewals(ledger, told, method, hotkey, self._now_ms())
        )
        for claim_id in told:
            self._renewals.forget(claim_id)
        log.debug("verdicts_renewed", claims=len(told), written=written)

    async def _run(self, claim: StoredClaim) -> Finding:
        limit_s = CHECK_S_MIN + self._verifier.slot_s(claim)
        task = asyncio.create_task(self._verify(claim, limit_s))
        self._running[claim.claim_id] = task
        begun_s = time.monotonic()
        try:
            await asyncio.wait({task}, timeout=limit_s + END_S_MAX)
            if not task.done():
                self._stuck.add(task)
                task.add_done_callback(self._ended_late)
                raise VerifierUnavailableError(
                    f"the verifier {self.method} does not end a check, though it was cancelled after {limit_s:g} s: "
                    "tell its author"
                )
            finding = task.result()
            self._on_checked(self.method, finding.finding, time.monotonic() - begun_s)
            return finding
        except VerifierUnavailableError:
            self._on_checked(self.method, UNAVAILABLE, time.monotonic() - begun_s)
            raise
        finally:
            task.cancel()
            del self._running[claim.claim_id]

    def _ended_late(self, task: asyncio.Task[Finding]) -> None:
        """A check that nobody waits for any more has ended; what it found is not used."""
        self._stuck.discard(task)
        if not task.cancelled():
            task.exception()

    async def _verify(self, claim: StoredClaim, limit_s: float) -> Finding:
        if len(self._stuck) >= self._checks_at_once:
            raise VerifierUnavailableError(
                f"{len(self._stuck)} checks of the verifier {self.method} do not end, though they were cancelled: "
                "restart the daemon, and tell the verifier's author"
            )
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                return publishable(await self._verifier.verify(claim))
        except VerifierUnavailableError:
            raise
        except (Exception, SystemExit) as error:  # its time is over, or it has a bug: neither must cost the claim
            if limit.expired():
                raise VerifierUnavailableError(
                    f"the verifier {self.method} was not done after {limit_s:g} s; it should keep to its slot: tell "
                    "its author"
                ) from error
            log.exception("verifier_failed", claim=claim.claim_id.hex(), method=self.method, code=Code.SYSTEM_BUG)
            raise VerifierUnavailableError(f"the verifier failed: {type(error).__name__}: {error}") from error

    async def _record(self, claim: StoredClaim, finding: Finding, *, anew: bool = False) -> bool:
        claim_id, method, hotkey, slot_ms = claim.claim_id, self._verifier.method, self._hotkey, self._slot_ms(claim)
        now_ms = self._now_ms
        written = await self._database.write(
            lambda ledger: record_verdict(ledger, claim_id, finding, method, hotkey, slot_ms, now_ms(), anew=anew)
        )
        self._renewals.forget(claim_id)  # what waits was found before
        log.debug("verdict", claim=claim_id.hex(), finding=finding.finding, detail=finding.detail, written=written)
        return written

    async def _fault(self, claim_id: bytes, reason: str) -> None:
        self.problem = reason
        check = await self._database.write(lambda ledger: record_fault(ledger, claim_id, reason, self._now_ms()))
        log.warning(
            "verifier_unavailable",
            claim=claim_id.hex(),
            error=reason,
            times=check.faults,
            code=Code.VERIFIER_UNAVAILABLE,
        )
        self._remind(claim_id, check.due_ms)

    async def _set_aside(self, claim_id: bytes) -> None:
        """Pass a claim over for a while that cannot be checked now; the scan tells when it can."""
        entry = await self._database.read(lambda facts: checks.read_check(facts, claim_id))
        if entry is not None:
            await self._strike(claim_id, entry)
        if len(self._resting) < LATER_CLAIMS_MAX:
            self._note_clock()
            self._resting[claim_id] = self._now_ms() + PAUSE_MS

    async def _strike(self, claim_id: bytes, entry: Check) -> None:
        """Strike a claim out of the book, unless it was entered anew meanwhile."""
        await self._database.write(lambda ledger: checks.drop_check(ledger.facts, claim_id, entry))

    async def _prospect(self, claim_id: bytes) -> Prospect | None:
        hotkey = self._hotkey
        return await self._database.read_weighed(
            lambda facts, weights: checks.prospect(facts, claim_id, hotkey, weights)
        )

    def _slot_ms(self, claim: StoredClaim) -> int:
        return int(self._verifier.slot_s(claim) * 1000)

    def _remind(self, claim_id: bytes, moment_ms: int) -> None:
        if len(self._later) >= LATER_CLAIMS_MAX:
            return
        self._note_clock()
        self._later[claim_id] = moment_ms
        if len(self._wakes) < 2 * LATER_CLAIMS_MAX:
            heapq.heappush(self._wakes, (moment_ms, claim_id))
        else:  # most of them are of claims that were looked at for another reason meanwhile
            self._wakes = [(moment, claim) for claim, moment in self._later.items()]
            heapq.heapify(self._wakes)
        self._wake.set()

    def _note_clock(self) -> None:
        self._latest_ms = max(self._latest_ms, self._now_ms())

    def _needs(self, claim: StoredClaim) -> dict[Hashable, int]:
        """What a check of a claim loads: the claim, its hosts, and, where it loads hosts, its miner's share."""
        endpoints = self._verifier.endpoints(claim)
        needs: dict[Hashable, int] = {("claim", claim.claim_id): 1}
        needs |= {("host", endpoint): 1 for endpoint in endpoints}
        if endpoints:
            needs["miner", claim.miner] = max(1, self._checks_at_once // 2)
        return needs

    def _unload(self, needs: dict[Hashable, int]) -> None:
        self._call(self._loads.free(needs))
        self._freed.set()
        self._freed = asyncio.Event()

    def _call(self, called: list[bytes]) -> None:
        """Look at claims that waited for what is free now; one that does not fit into the queue is the scan's."""
        while called:
            claim_id = called.pop()
            self.offer(claim_id)
            if claim_id not in self._waiting:
                called += self._loads.looked_at(claim_id)
