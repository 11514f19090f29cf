"""When this validator checks which claim, and how its verdicts get into its log.

New claims are checked as they come; a scan finds what a restart, a full queue or a lapsing verdict left over. A verdict
is renewed when three quarters of its life are over, so that an unbroken run of verified stays unbroken.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.model.events import DETAIL_CHARS_MAX, VERIFIED, Verdict
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.verify.verifier import Finding, Verifier, VerifierUnavailableError

log = structlog.get_logger("p2pnodes.verify")

QUEUED_CLAIMS_MAX: Final = 4_096
"""Claims that wait in memory; what does not fit is found again by the scan."""

CHECKS_AT_ONCE: Final = 16
SCAN_INTERVAL_S: Final = 10.0
RENEW_AT: Final = 0.75
"""Share of a verdict's life after which it is renewed."""


class Scheduler:
    """Feeds claims to the verifier and its findings to the own log."""

    def __init__(self, database: Database, verifier: Verifier, hotkey: bytes, now_ms: Callable[[], int]) -> None:
        """Verify for the validator ``hotkey``; call ``start`` then."""
        self._database = database
        self._verifier = verifier
        self._hotkey = hotkey
        self._now_ms = now_ms
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUED_CLAIMS_MAX)
        self._waiting: set[bytes] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def queued(self) -> int:
        """Claims that wait or are being checked."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the workers and the scan."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(CHECKS_AT_ONCE)]
        self._tasks.append(asyncio.create_task(self._scan()))

    async def stop(self) -> None:
        """Stop; checks under way are dropped and found again at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def offer(self, claim_id: bytes) -> None:
        """Check a claim soon; one that waits already, or does not fit, is passed over."""
        if claim_id not in self._waiting and not self._queue.full():
            self._waiting.add(claim_id)
            self._queue.put_nowait(claim_id)

    async def _scan(self) -> None:
        while True:
            try:
                if self._database.ledger.writes_refused is None:
                    renew_hlc = hlc_at(self._renew_before_ms())
                    for claim_id in await self._database.due_claims(self._hotkey, renew_hlc, QUEUED_CLAIMS_MAX):
                        self.offer(claim_id)
            except P2PNodesError as error:
                log.warning("scan_failed", error=str(error))
            except Exception:  # a scan that fails must not be the last one: votes would lapse
                log.exception("scan_failed")
            await asyncio.sleep(SCAN_INTERVAL_S)

    def _renew_before_ms(self) -> int:
        """Own verdicts written before this moment are to be renewed."""
        life_ms = self._database.ledger.network.verdict_ttl_s * 1000
        return max(0, self._now_ms() - int(life_ms * RENEW_AT))

    async def _work(self) -> None:
        while True:
            claim_id = await self._queue.get()
            try:
                await self._check(claim_id)
            except VerifierUnavailableError as error:
                log.warning("verifier_unavailable", claim=claim_id.hex(), error=str(error))
            except P2PNodesError as error:
                log.warning("verdict_not_written", claim=claim_id.hex(), error=str(error))
            except Exception:
                log.exception("verifier_failed", claim=claim_id.hex())
            finally:
                self._waiting.discard(claim_id)

    async def _check(self, claim_id: bytes) -> None:
        if self._database.ledger.writes_refused is not None:
            return  # its verdict could not be written; the scan finds it again
        claim = await self._database.claim_to_check(claim_id)
        if claim is None:
            return
        finding = await self._verifier.verify(claim)
        await self._database.write(lambda ledger: self._record(ledger, claim_id, finding))
        log.debug("verdict", claim=claim_id.hex(), finding=finding.finding, detail=finding.detail)

    def _record(self, ledger: Ledger, claim_id: bytes, finding: Finding) -> None:
        now_ms = self._now_ms()
        previous = ledger.facts.own_verdict(claim_id, self._hotkey)
        if previous and previous.finding == finding.finding and hlc_ms(previous.hlc) >= self._renew_before_ms():
            return  # said already: the scan and a new claim met
        deadline_ms = now_ms - ledger.network.verdict_ttl_s * 1000
        unbroken = previous is not None and previous.finding == VERIFIED and hlc_ms(previous.hlc) >= deadline_ms

        def build(hlc: int) -> Verdict:
            since = None
            if finding.finding == VERIFIED:
                since = previous.since if unbroken and previous else hlc
            return Verdict(claim_id, finding.finding, self._verifier.method, finding.detail[:DETAIL_CHARS_MAX], since)

        ledger.append(build, now_ms)
