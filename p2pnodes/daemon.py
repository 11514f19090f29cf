"""One daemon: wiring and life cycle.

Start: lock the data directory, open the database, read keys and electorate, listen, dial. The own log is taken up when
rule 4 allows it; until then reads are served and writes answer 503. Stop: refuse new requests, finish what runs, close.
"""

import asyncio
import fcntl
import gc
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import IO, Any, Final

import structlog
from aiohttp import web

from p2pnodes import __version__
from p2pnodes.api import explanations
from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.limits import client_address
from p2pnodes.api.stream import EVENTS_KEY, NodeEvents
from p2pnodes.chain.file import ElectorateFile
from p2pnodes.chain.wallet import create_node_key, load_hotkey, load_node_key
from p2pnodes.config import LogSettings, Settings
from p2pnodes.gossip.driver import Driver
from p2pnodes.gossip.ownlog import Step, hear
from p2pnodes.metrics import status_registry
from p2pnodes.model.clock import CLOCK_OFF_MS_MAX, SKEW_AHEAD_MS_MAX
from p2pnodes.model.errors import ConfigError, P2PNodesError, WritesRefusedError
from p2pnodes.model.events import DELEGATION_BACKDATE_S, LOG_NUMBER_MAX, Delegation, Head, LogId, delegate
from p2pnodes.model.inventory import Chute
from p2pnodes.model.keys import Hotkey, NodeKey, ss58_encode
from p2pnodes.store.checks import read_check
from p2pnodes.store.database import Commit, Database
from p2pnodes.store.ledger import FOREIGN_EVENT, Outcome, Result
from p2pnodes.store.placing import Placed
from p2pnodes.verify.exchange import Exchange
from p2pnodes.verify.scheduler import Scheduler
from p2pnodes.verify.verifier import NoneVerifier, Setup, make_verifier

log = structlog.get_logger("p2pnodes.daemon")

ELECTORATE_POLL_S: Final = 1.0
OWN_LOG_POLL_S: Final = 0.25
TARGETS_POLL_S: Final = 2.0
STOP_S_MAX: Final = 4.0
"""Bound of a graceful stop; systemd and the devnet give 5 s."""

REOPEN_BACKOFF_S: Final = 30.0
"""Pause after a new log could not be opened."""


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Daemon:
    """Everything that one process runs."""

    def __init__(self, settings: Settings) -> None:
        """Take checked settings; nothing is opened yet."""
        self.settings = settings
        self.started_ms = now_ms()
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._database: Database
        self._driver: Driver
        self._scheduler: Scheduler | None = None
        self._events: NodeEvents | None = None
        self._node_key: NodeKey
        self._hotkey: Hotkey | None = None
        self._delegation: tuple[LogId, Delegation] | None = None
        self._electorate_file = ElectorateFile(settings.electorate.file)
        self._electorate_error: str | None = None
        self._hearing_since: float | None = None
        self._heard = False
        self._retry_at = 0.0
        self._own_log_note = "starting"
        self._refusal: str | None = None
        self._url = settings.http.url
        self._outcomes: dict[str, int] = dict.fromkeys((result.value for result in Result), 0)

    # -- life cycle --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP.

        Raises:
            P2PNodesError: The daemon cannot start; the message is one line for the operator.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        stopped = asyncio.create_task(self._stopping.wait())
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                await starting
                _settle_memory()
                log.info("listening", url=self._url, hotkey=self._address, node_key=self._node_key.public_key.hex())
                await stopped
            log.info("stopping")
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)
            await self._stack.aclose()
        log.info("stopped")

    async def _start(self) -> None:
        settings = self.settings
        _make_dir(settings.data_dir)
        self._stack.callback(_lock(settings.data_dir / "lock").close)
        path = settings.node_key_path
        self._node_key = load_node_key(path) if path.exists() else create_node_key(path)
        self._hotkey = load_hotkey(settings.hotkey_file) if settings.hotkey_file else None
        self._database = await Database.open(settings.database_path, settings.network, self._node_key, now_ms=now_ms)
        self._stack.push_async_callback(self._database.close)
        self._database.on_commit = self._committed
        await self._read_electorate(first=True)
        self._driver = Driver(
            node_key=self._node_key,
            delegation=lambda: self._delegation,
            network=settings.network,
            store=self._database,
            electorate=lambda: self._database.electorate,
            rng=random.Random(os.urandom(16)),
            clock=now_ms,
            on_outcomes=self._received,
            address=self._client_address,
            allow_private_addresses=settings.gossip.allow_private_addresses,
        )
        await self._listen()
        self._take_up_log()
        if self._delegation is None:
            await self._open_log("there is no own log yet")
        await self._driver.start()
        self._stack.push_async_callback(self._driver.stop)
        if self._hotkey is not None:
            await self._start_verifying(self._hotkey)
        for work in (self._watch_electorate, self._watch_own_log, self._watch_targets):
            task = asyncio.create_task(work())
            self._stack.push_async_callback(_cancel, task)

    async def _start_verifying(self, hotkey: Hotkey) -> None:
        settings = self.settings
        exchange = Exchange(allow_private=settings.api.allow_private_hosts, online=self._driver.online)
        await exchange.start()
        self._stack.push_async_callback(exchange.close)
        setup = Setup(settings.verify, hotkey, settings.network, exchange, time.time, os.urandom)
        verifier = make_verifier(settings.verify.verifier, setup)
        await verifier.start()
        self._stack.push_async_callback(verifier.close)
        if isinstance(verifier, NoneVerifier):
            log.warning("verifier", method=verifier.method, note="every claim gets the verdict verified, unchecked")
        else:
            log.info("verifier", method=verifier.method)
        self._scheduler = Scheduler(
            self._database,
            verifier,
            hotkey.public_key,
            now_ms,
            checks_at_once=settings.verify.checks_at_once,
        )
        self._scheduler.start()
        self._stack.push_async_callback(self._scheduler.stop)

    async def _listen(self) -> None:
        settings = self.settings
        app = create_app(
            self._database,
            settings.network,
            settings.api,
            now=time.time,
            readiness=self.readiness,
            gossip=self._driver.handler,
        )
        self._events = app[EVENTS_KEY]
        runner = make_runner(app, shutdown_timeout_s=STOP_S_MAX / 2)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.http.host, settings.http.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.http.host}:{settings.http.port}: {_why(error)}; "
                "choose another [http] host or port, or stop what listens there"
            ) from error
        host, port = runner.addresses[0][:2]
        self._url = self._url or f"http://{host}:{port}"
        admin = create_admin_app(self, status_registry(self.status))
        runner = await start_admin(admin, settings.admin_socket_path, settings.admin.port)
        self._stack.push_async_callback(runner.cleanup)

    @property
    def _address(self) -> str | None:
        return self._hotkey.address if self._hotkey else None

    # -- electorate --------------------------------------------------------------------------------------------------

    async def _read_electorate(self, *, first: bool = False) -> None:
        try:
            electorate = self._electorate_file.poll()
        except ConfigError as error:
            if first and not self._database.electorate.block:
                raise
            self._electorate_error = str(error)
            log.warning("electorate_not_read", error=str(error))
            return
        if electorate is None:
            return
        held = self._database.electorate
        if electorate.block < held.block:
            self._electorate_error = f"block {electorate.block} lies below {held.block}, which is held"
            log.warning("electorate_went_back", error=self._electorate_error)
            return
        self._electorate_error = None
        try:
            await self._database.set_electorate(electorate)
        except P2PNodesError:
            self._electorate_file.forget()  # the next poll tries again
            raise
        age_s = now_ms() // 1000 - electorate.time_ms // 1000
        if age_s > self.settings.network.verdict_ttl_s:
            self._electorate_error = (
                f"its time is {age_s / 86_400:.0f} days old: verdicts lapse by it, so nothing lapses; replace "
                f"{self.settings.electorate.file}"
            )
            log.warning("electorate_old", error=self._electorate_error)
        log.info(
            "electorate",
            block=electorate.block,
            validators=len(electorate.current.validators),
            registered=len(electorate.current.registered),
        )

    async def _watch_electorate(self) -> None:
        while True:
            await asyncio.sleep(ELECTORATE_POLL_S)
            await _logged("electorate_watch_failed", self._read_electorate())

    # -- own log (rules 3, 4 and 8) ----------------------------------------------------------------------------------

    def _take_up_log(self) -> None:
        """Speak for the own log that the database holds, if there is one whose delegation still lives."""
        ledger = self._database.ledger
        own = ledger.own_log
        delegation = ledger.delegation_of(own) if own else None
        if own is None or delegation is None:
            return
        if self._hotkey is not None and self._hotkey.public_key != delegation.hotkey:
            log.warning("hotkey_changed", before=ss58_encode(delegation.hotkey), now=self._address)
            return
        if self._hotkey is not None and self._stale(delegation):
            delegation = self._sign(own, delegation.predecessor)
        self._delegation = own, delegation

    def _stale(self, delegation: Delegation) -> bool:
        """Whether less than half of a delegation's days are left, or it names another URL than this daemon has."""
        half_s = self.settings.delegation_days * 86_400 / 2
        return time.time() > delegation.not_after - half_s or delegation.url != (self.settings.http.url or "")

    def _sign(self, own: LogId, predecessor: tuple[LogId, Head | None] | None) -> Delegation:
        if self._hotkey is None:
            raise WritesRefusedError("this daemon has no hotkey to delegate with: set hotkey_file", retry_after_s=60)
        begin = int(time.time())
        electorate_s = self._database.electorate.time_ms // 1000
        return delegate(
            self._hotkey,
            self.settings.network.id,
            own,
            url=self.settings.http.url or "",
            not_before=max(0, min(begin, electorate_s or begin) - DELEGATION_BACKDATE_S),
            not_after=begin + self.settings.delegation_days * 86_400,
            predecessor=predecessor,
        )

    async def _open_log(self, reason: str) -> None:
        """Open a new own log; its number is the time, so that it never meets one that a lost disk held."""
        ledger = self._database.ledger
        held = ledger.own_logs()
        number = min(max([int(time.time()), *(log_id.number + 1 for log_id in held)]), LOG_NUMBER_MAX)
        own = LogId(self._node_key.public_key, number)
        before = max(held, default=None)
        predecessor = (before, held[before].head) if before else None
        try:
            delegation = self._sign(own, predecessor)
            await self._database.write(lambda led: led.open_log(number, delegation, now_ms()))
        except P2PNodesError as error:
            self._own_log_note = f"no new log: {error}"
            self._retry_at = time.monotonic() + REOPEN_BACKOFF_S
            self._refuse_writes(self._own_log_note)
            log.error("log_not_opened", reason=reason, error=str(error))
            return
        ledger.foreign_own = None
        self._delegation = own, delegation
        self._heard = True
        log.info("log_opened", log=str(own), reason=reason)

    async def _watch_own_log(self) -> None:
        while True:
            await _logged("own_log_watch_failed", self._tend_own_log())
            await asyncio.sleep(OWN_LOG_POLL_S)

    async def _tend_own_log(self) -> None:
        ledger = self._database.ledger
        if time.monotonic() < self._retry_at:
            return
        if ledger.foreign_own is not None:
            self._heard = False
            await self._open_log(FOREIGN_EVENT)
        elif self._delegation is None:
            await self._open_log("there is no own log that this daemon may write")
        elif not self._heard and self._permitted:
            await self._hear()
        self._refuse_writes(self._why_no_writes())
        own = ledger.own_log
        delegation = ledger.delegation_of(own) if own else None
        if ledger.writes_refused is None and own and delegation and self._hotkey and self._stale(delegation):
            renewed = self._sign(own, delegation.predecessor)
            await self._database.write(lambda led: led.renew(renewed, now_ms()))
            self._delegation = own, renewed
            log.info("delegation_renewed", log=str(own), not_after=renewed.not_after)

    def _refuse_writes(self, reason: str | None) -> None:
        """Refuse own writes for a reason, or take them again; the log tells each change."""
        if reason is None and self._refusal is not None:
            log.info("writes_taken", before=self._refusal)
        elif reason is not None and reason != self._refusal:
            log.warning("writes_refused", reason=reason)
        self._refusal = reason
        self._database.ledger.writes_refused = reason

    @property
    def _permitted(self) -> bool:
        """Whether the hotkey that this daemon speaks for holds a permit; without one its log is nobody's to report."""
        return self._delegation is not None and self._database.electorate.permitted(self._delegation[1].hotkey)

    async def _hear(self) -> None:
        ledger = self._database.ledger
        own_hotkey = self._delegation[1].hotkey if self._delegation else None
        others = {hotkey: stake for hotkey, stake in ledger.weights.enrolled.items() if hotkey != own_hotkey}
        own = ledger.own_log if self._delegation else None
        held = ledger.state.logs.get(own) if own else None
        reports = self._driver.own_head_reports()
        ids = await self._database.event_ids(own, {head.seq for head in reports.values() if head}) if own else {}
        if self._hearing_since is None:
            self._hearing_since = time.monotonic()
        hearing = hear(
            held.head if held else None,
            reports,
            others,
            int((time.monotonic() - self._hearing_since) * 1000),
            ids=ids,
            alone=not any(stake for hotkey, stake in self._database.electorate.stakes.items() if hotkey != own_hotkey),
        )
        self._own_log_note = hearing.reason
        if hearing.step is Step.GO_ON:
            self._heard = True
            log.info("own_head_heard", reason=hearing.reason)
        elif hearing.step is Step.OPEN_NEW:
            await self._open_log(hearing.reason)

    def _why_no_writes(self) -> str | None:
        if self._delegation is not None and not self._permitted:
            address = ss58_encode(self._delegation[1].hotkey)
            return f"the hotkey {address} holds no validator permit at block {self._database.electorate.block}"
        if not self._heard:
            return self._own_log_note
        ledger = self._database.ledger
        if ledger.foreign_own is not None:
            return FOREIGN_EVENT
        if self._delegation is not None and time.time() > self._delegation[1].not_after:
            return (
                f"the delegation of {ss58_encode(self._delegation[1].hotkey)} ended at {self._delegation[1].not_after} "
                "(Unix seconds), and there is no hotkey_file to renew it with"
            )
        if (ahead_ms := ledger.clock.ahead_ms(now_ms())) > SKEW_AHEAD_MS_MAX:
            return (
                f"the logical clock is {ahead_ms // 1000} s ahead of the system clock: an own event was written while "
                f"that ran ahead; at most {SKEW_AHEAD_MS_MAX // 1000} s are allowed, writes go on by themselves then"
            )
        offset = self._driver.clock_offset_ms()
        if offset is not None and abs(offset) > CLOCK_OFF_MS_MAX:
            return (
                f"the system clock is {-offset / 1000:+.1f} s off the median of the peers' clocks: at most "
                f"{CLOCK_OFF_MS_MAX // 1000} s are allowed, set it right (NTP)"
            )
        ahead_ms = self._database.electorate.time_ms - now_ms()
        if ahead_ms > CLOCK_OFF_MS_MAX:
            return (
                f"the system clock lies {ahead_ms / 1000:.0f} s before the time of the electorate's block: at most "
                f"{CLOCK_OFF_MS_MAX // 1000} s are allowed, set it right (NTP)"
            )
        return None

    # -- peers -------------------------------------------------------------------------------------------------------

    async def _watch_targets(self) -> None:
        while True:
            await _logged("targets_watch_failed", self._set_targets())
            await asyncio.sleep(TARGETS_POLL_S)

    async def _set_targets(self) -> None:
        """Tell gossip whom to dial: addresses of the electorate, corrected by what delegations say, and bootstrap."""
        electorate = self._database.electorate
        known = await self._database.urls()
        own = self._delegation[1].hotkey if self._delegation else None
        targets: dict[bytes, str] = {}
        for hotkey in electorate.stakes:
            url = known.get(hotkey, electorate.current.addresses.get(hotkey, ""))
            if hotkey != own and url:
                targets[hotkey] = url
        # A delegation's URL goes before the electorate's address; but who has moved can say so only once it is reached.
        moved = [url for hotkey, url in electorate.current.addresses.items() if targets.get(hotkey, url) != url]
        self._driver.set_targets(targets, [*self.settings.gossip.bootstrap, *moved])

    def _client_address(self, request: web.Request) -> str:
        """Where a peer's connection comes from, behind the operator's own proxies, too."""
        forwarded = request.headers.getall("X-Forwarded-For", ())
        return client_address(request.remote, forwarded, self.settings.api.trusted_proxies)

    def _committed(self, commit: Commit) -> None:
        if commit.appended:
            self._driver.appended(commit.appended)
        if self._scheduler is not None:
            for claim_id in commit.new_claims:
                self._scheduler.offer(claim_id)
            self._scheduler.voted(commit.voted)
        if self._events is not None:
            self._events.committed(commit)

    def _received(self, outcomes: "list[Outcome]") -> None:
        for outcome in outcomes:
            self._outcomes[outcome.result.value] += 1

    # -- what the admin interface shows ------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """Why this daemon is not ready; empty when it is."""
        reasons = []
        if not self._database.electorate.block:
            reasons.append("there is no electorate yet")
        if self._database.failure:
            reasons.append(f"the database cannot write: {self._database.failure}")
        if self._database.ledger.writes_refused:
            reasons.append(f"writes are refused: {self._database.ledger.writes_refused}")
        return reasons

    def status(self) -> dict[str, Any]:
        """Snapshot for ``p2pnodes status``."""
        state, ledger, electorate = self._database.state, self._database.ledger, self._database.electorate
        gossip = self._driver.status()
        verification = self._scheduler.status() if self._scheduler else None
        own = ledger.own_log
        held = state.logs.get(own) if own else None  # absent for as long as its first commit takes
        return {
            "version": __version__,
            "network_id": self.settings.network.id.hex(),
            "netuid": self.settings.network.netuid,
            "url": self._url,
            "hotkey": self._address,
            "node_key": self._node_key.public_key.hex(),
            "log": held and {"number": held.id.number, "seq": held.head.seq, "id": held.head.id.hex()},
            "state_root": state.state_root.hex(),
            "vector_digest": state.vector_digest.hex(),
            "electorate": {
                "block": electorate.block,
                "time": electorate.time_ms // 1000,
                "age_s": max(0, (now_ms() - electorate.time_ms) // 1000),
                "digest": state.electorate_digest.hex(),
                "validators": len(electorate.current.validators),
                "registered": len(electorate.current.registered),
                "enrolled": len(ledger.weights.enrolled),
                "error": self._electorate_error,
            },
            "writes": {"allowed": ledger.writes_refused is None, "reason": ledger.writes_refused},
            "ready": self.readiness(),
            "events": state.events,
            "nodes": state.nodes,
            "outcomes": dict(self._outcomes),
            "forks": [
                {"log": str(fork), "seq": seq, "seen_at": seen_ms // 1000} for fork, seq, seen_ms in ledger.forks_seen
            ],
            "queues": {
                "writer": self._database.queued_jobs,
                "verifier": verification["queued"] + verification["running"] if verification else 0,
            },
            "verification": verification,
            "gossip": gossip,
            "clock_offset_ms": self._driver.clock_offset_ms(),
            "uptime_s": (now_ms() - self.started_ms) // 1000,
        }

    def peers(self) -> list[dict[str, Any]]:
        """Snapshot for ``p2pnodes peers``."""
        peers: list[dict[str, Any]] = self._driver.status()["peers"]
        return peers

    async def query(
        self, view: str, where: Mapping[str, str], limit: int, *, after: int | None = None, newest_first: bool = False
    ) -> list[dict[str, Any]]:
        """Rows of an operators' view; see ``Database.query``."""
        return await self._database.query(view, where, limit, after=after, newest_first=newest_first)

    async def find_claim(self, prefix: bytes, miner: bytes | None) -> bytes | None:
        """Id of a claim by its first bytes; see ``Database.find_claim``."""
        return await self._database.find_claim(prefix, miner)

    async def claim(self, claim_id: bytes) -> dict[str, Any] | None:
        """Why a claim is where it is, and who checks it when; None when unknown."""
        case = await self._database.explain_claim(claim_id)
        if case is None:
            return None
        turns = await self._scheduler.turns(claim_id) if self._scheduler else None
        entry = await self._database.read(lambda facts: read_check(facts, claim_id))
        return {
            **explanations.claim(case),
            "turns": explanations.turns(turns, now_ms()) if turns else [],
            "own_check": explanations.check(entry),
        }

    async def node(self, uuid: str) -> dict[str, Any] | None:
        """Why a GPU has the row that it has; None when no claim ever named it."""
        case = await self._database.explain_node(uuid)
        return None if case is None else explanations.node(case)

    async def place(self, uuids: Sequence[str], chute: Chute) -> Placed:
        """Say that a chute runs on GPUs; see ``Database.place``."""
        return await self._database.place(uuids, chute)

    async def release(self, uuids: Sequence[str]) -> Placed:
        """Say that nothing runs on GPUs any more; see ``Database.release``."""
        return await self._database.release(uuids)

    async def verify(self, claim_id: bytes) -> dict[str, Any]:
        """Check a claim now, out of turn; see ``Scheduler.check_now``."""
        if self._scheduler is None:
            raise WritesRefusedError("this daemon has no hotkey to vote with: set hotkey_file", retry_after_s=60)
        found = await self._scheduler.check_now(claim_id)
        return {
            "finding": found.finding.finding if found.finding else "unavailable",
            "method": self._scheduler.method,
            "detail": found.finding.detail if found.finding else found.reason,
            "seconds": round(found.seconds, 3),
            "published": found.published,
        }

    async def proof(self, uuid: str) -> dict[str, Any] | None:
        """A proof that a GPU was registered and verified; see ``Database.proof``."""
        found = await self._database.proof(uuid)
        return None if found is None else found.document()


def run(settings: Settings) -> int:
    """Run a daemon until it is told to stop; the exit code.

    Raises:
        P2PNodesError: It cannot start.
    """
    configure_logging(settings.log)
    asyncio.run(Daemon(settings).run())
    return 0


def configure_logging(settings: LogSettings) -> None:
    """Send structlog's and the libraries' records to stderr, as JSON lines or for people."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=colors) if console else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _settle_memory() -> None:
    """Take what the start made, which lives as long as the process, out of the garbage collector's sight.

    A full collection looks at everything and holds the interpreter meanwhile, the event loop with it: 50 ms and more
    for what is imported alone, and a reader of the whole inventory starts several in a second.
    """
    gc.collect()
    gc.freeze()


def _why(error: OSError) -> str:
    """The operating system's word for an error, without what asyncio adds to it."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _make_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"data_dir {path} cannot be written: {error.strerror}; choose another or fix its owner"
        ) from error


def _lock(path: Path) -> IO[str]:
    """Hold the data directory: two daemons on one would fork its log."""
    try:
        file = path.open("w")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened: {error.strerror}; fix its owner, or move it away") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(f"another daemon runs on {path.parent}: stop it, or use another data_dir") from error
    return file


async def _logged(event: str, work: Any) -> None:
    """Await a turn of a loop that must not end; an error is logged and the next turn tries again."""
    try:
        await work
    except P2PNodesError as error:
        log.warning(event, error=str(error))
    except Exception:
        log.exception(event)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
