"""One daemon: wiring and life cycle.

Start: lock the data directory, open the database, read keys and electorate, listen, dial. The own log is taken up when
rule 4 allows it; until then reads are served and writes answer 503. Stop: refuse new requests, finish what runs, close.
SIGHUP reads the configuration again, as far as a running daemon can follow it (``config.RELOADABLE``).
"""

import asyncio
import ctypes
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from p2pnodes import __version__
from p2pnodes.api import explanations, overview, voters
from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.api.app import create_app, make_runner
from p2pnodes.api.browser import Browser, Look, pending_json
from p2pnodes.api.limits import client_address
from p2pnodes.api.referrals import referrals
from p2pnodes.api.stream import EVENTS_KEY, NodeEvents
from p2pnodes.api.tail import TAIL_KEY, EventTail
from p2pnodes.author import Author, alike, finish_rotation, observer_identity
from p2pnodes.carrier import Carrier
from p2pnodes.chain.delegation import log_name
from p2pnodes.chain.source import ElectorateSource, make_source
from p2pnodes.chain.wallet import create_node_key, load_hotkey, load_node_key, read_hotkey_file
from p2pnodes.clerk import Office
from p2pnodes.config import LogSettings, Settings, reloaded
from p2pnodes.gossip.bans import OperatorBans
from p2pnodes.gossip.driver import Driver
from p2pnodes.handover import Handover
from p2pnodes.inbound import listen
from p2pnodes.loglevel import LogLevel
from p2pnodes.loops import kept_up
from p2pnodes.metrics import Instruments, status_registry
from p2pnodes.model.branches import Ends, closing_order
from p2pnodes.model.clock import CLOCK_OFF_MS_MAX, hlc_ms
from p2pnodes.model.codes import Code, Reason, code_of
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import ConfigError, P2PNodesError, WritesRefusedError
from p2pnodes.model.events import Close, Delegation, Head, LogId
from p2pnodes.model.inventory import Chute
from p2pnodes.model.keys import Hotkey, NodeKey, ss58_encode
from p2pnodes.notify import Supervisor
from p2pnodes.store import directory
from p2pnodes.store.checking import CheckerProcess
from p2pnodes.store.checks import read_check
from p2pnodes.store.database import Commit, Database, Written
from p2pnodes.store.elsewhere import written_elsewhere
from p2pnodes.store.ownlog import written_by
from p2pnodes.store.placing import Placed
from p2pnodes.store.state import LogState, Outcome, Result
from p2pnodes.verify.exchange import Exchange
from p2pnodes.verify.scheduler import Scheduler
from p2pnodes.verify.verifier import NoneVerifier, Setup, Verifier, make_verifier

log = structlog.get_logger("p2pnodes.daemon")

OWN_LOG_POLL_S: Final = 0.25
TARGETS_POLL_S: Final = 2.0
STOP_S_MAX: Final = 12.0
"""Bound of a stop as a whole, whatever hangs (``bound_stop``); the unit gives more, and it takes a second or two."""

LAST_ANSWERS_S: Final = 2.0
"""Of these for miners' requests that are in progress."""

STOP_TASKS_TOLD: Final = 16
"""Names of tasks and of threads that the log has when a stop is given up."""

STATUS_S: Final = 5.0
"""How often a supervisor hears how the daemon is; where it wants signs of life, three times in their time at least."""

FIRST_READ_S_MAX: Final = 60.0
"""How long a start waits for the electorate where none is stored, and a quarter of it where one is."""

OBSERVER: Final = Reason(
    "this daemon is an observer: it replicates and shows the inventory, and takes no writes", Code.WRITES_OBSERVER
)
"""What an observer answers to writes."""


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Daemon:
    """Everything that one process runs."""

    def __init__(
        self,
        settings: Settings,
        *,
        reread: Callable[[], Settings] | None = None,
        supervisor: Supervisor | None = None,
        handover: Handover | None = None,
        on_stop: Callable[[], object] = lambda: None,
    ) -> None:
        """Take checked settings; nothing is opened yet.

        Args:
            settings: What the operator chose.
            reread: Reads the settings anew, at SIGHUP; None: they are those of the start for ever.
            supervisor: Who started this process and wants to hear from it.
            handover: Holds the sockets on which the process before this one listened.
            on_stop: Called when ``run`` begins to end, for whatever reason.
        """
        self.settings = settings
        self._on_stop = on_stop
        self._reread = reread
        self._supervisor = supervisor or Supervisor()
        self._handover = handover
        self._hung_up = asyncio.Event()
        self.started_ms = now_ms()
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._database: Database
        self._driver: Driver
        self._verifier: Verifier | None = None
        self._scheduler: Scheduler | None = None
        self._carrier: Carrier | None = None
        self._office: Office | None = None
        self._events: NodeEvents | None = None
        self._tail: EventTail | None = None
        self._browser: Browser
        self._console: str | None = None
        """Where the console is, on this machine; None while the operator's interface has no port."""
        self._node_key: NodeKey
        self._hotkey: Hotkey | None = None
        self._author: Author | None = None
        """None for an observer."""
        self._log_level = LogLevel(
            settings.log.level,
            lambda later_s, revert: asyncio.get_running_loop().call_later(later_s, revert),
            lambda: asyncio.get_running_loop().time(),
        )
        self._observer: tuple[LogId, Delegation] | None = None
        """Who an observer is to its peers."""
        self._level = False
        """Whether an observer has caught up with a peer since it started."""
        self._source: ElectorateSource
        self._read_error: Reason | None = None
        """Why the electorate could not be read the last time."""
        self._operator_bans = OperatorBans()
        """Here, because they outlive a driver, which ends with its node key."""
        self._strangers: set[LogId] = set()
        """Logs of the own hotkey by another daemon that were told of."""
        self._elsewhere: Sequence[str] = ()
        """Other validators, for writes that this daemon refuses."""
        self._url = settings.http.url
        self._registry = CollectorRegistry()
        self._instruments = Instruments(self._registry)
        self._outcomes: dict[str, int] = dict.fromkeys((result.value for result in Result), 0)

    # -- life cycle --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, or SIGHUP on a terminal.

        Raises:
            P2PNodesError: The daemon cannot start; the message is one line for the operator.
        """
        loop = asyncio.get_running_loop()
        self._stack.callback(self._log_level.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        # Who runs a daemon on a terminal and closes that wants it gone; any other daemon is told to look again.
        loop.add_signal_handler(signal.SIGHUP, (self._stopping if sys.stderr.isatty() else self._hung_up).set)
        stopped = asyncio.create_task(self._stopping.wait())
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                try:
                    await starting
                except (P2PNodesError, OSError):
                    if self._handover is not None:
                        await asyncio.to_thread(self._handover.give_up)
                    raise
                settle_memory()
                log.info(
                    "listening",
                    url=self._url,
                    console=self._console,
                    hotkey=self._address,
                    node_key=self._node_key.public_key.hex(),
                )
                self._supervisor.ready(self._condition())
                await stopped
            log.info("stopping")
            self._supervisor.stopping()
        finally:
            self._on_stop()
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)
            await self._stack.aclose()
        log.info("stopped")

    async def _start(self) -> None:
        settings = self.settings
        directory.make(settings.data_dir)
        self._stack.callback(directory.hold(settings.data_dir).close)
        path = settings.node_key_path
        finish_rotation(path, written_by(settings.database_path))
        new_key = not path.exists()
        self._node_key = create_node_key(path) if new_key else load_node_key(path)
        self._hotkey, known = _read_hotkey(settings)
        self._begin("opening the database")
        self._database = await Database.open(
            settings.database_path, settings.network, self._node_key, now_ms=now_ms, checker=CheckerProcess()
        )
        self._stack.push_async_callback(self._database.close)
        self._browser = Browser(self._database, time.monotonic)
        self._database.on_commit = self._committed
        self._database.on_written = self._written
        self._source = make_source(
            settings.electorate,
            settings.network,
            held=lambda: self._database.electorate,
            now_ms=now_ms,
            rng=random.Random(os.urandom(16)),
        )
        self._stack.push_async_callback(self._source.close)
        self._begin("reading the electorate")
        await self._read_first_electorate()
        if settings.role == "observer":
            network_id, now_s = settings.network.id, now_ms() // 1000
            self._observer = observer_identity(network_id, self._node_key, self._hotkey, now_s)
            self._database.ledger.writes_refused = OBSERVER
        else:
            self._author = Author(
                self._database,
                settings,
                hotkey=self._hotkey,
                known=known,
                node_key=self._node_key,
                new_key=new_key,
                heard=self,
                now_ms=now_ms,
            )
        if (vouched := settings.gossip.trusted_checkpoint) is not None:
            self._database.ledger.checkpoints.vouched = bytes.fromhex(vouched)
        self._office = office = Office(self._database, settings.network, self._own_hotkey, now_ms)
        self._driver = self._make_driver(self._node_key)
        if self._author is not None:
            self._require_permit(self._author)
            self._verifier = await self._make_verifier()
        await self._listen()
        if self._author is not None:
            await self._author.start()
            self._require_permit(self._author)  # now that a delegation may have named the hotkey
        await self._start_driver(self._node_key)
        self._stack.push_async_callback(self._stop_driver)
        if self._author is not None:
            author = self._author
            self._start_verifying(author)
            self._carrier = Carrier(self._database, lambda: author.hotkey, now_ms)
            self._carrier.start()
            self._stack.push_async_callback(self._carrier.stop)
            self._stack.push_async_callback(self._stop_verifying)
            self._keep_up(partial(self._watch_own_log, author))
        office.start()
        self._stack.push_async_callback(office.stop)
        for loop in (self._watch_electorate, self._watch_targets, self._watch_hangups, self._report):
            self._keep_up(loop)

    def _begin(self, step: str) -> None:
        """Tell what a start does now, and so what it waits for: a database may be recounted, a chain be silent."""
        log.info("starting", step=step)
        self._supervisor.status(step)

    def _keep_up(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop until the daemon stops; see ``kept_up``."""
        self._stack.push_async_callback(_cancel, asyncio.create_task(kept_up(loop)))

    def _require_permit(self, author: Author) -> None:
        """Do not start as a validator that is none: nobody would talk to it, and its operator would wonder why.

        Raises:
            ConfigError: The electorate does not permit the hotkey.
        """
        electorate, hotkey = self._database.electorate, author.hotkey
        if hotkey is not None and electorate.block and not electorate.permitted(hotkey):
            where = (
                "is registered there" if hotkey in electorate.current.registered else "is not registered there either"
            )
            raise ConfigError(
                f"the hotkey {author.address} holds no validator permit on netuid {self.settings.network.netuid} at "
                f"block {electorate.block} (it {where}): use the validator's wallet, wait for a permit, or set "
                'role = "observer"',
                code=Code.CHAIN_NO_PERMIT,
            )

    # -- what the supervisor hears and says --------------------------------------------------------------------------

    async def _report(self) -> None:
        """Tell the supervisor again and again how the daemon is, and that it lives, as far as that is so.

        A sign of life is more than a turn of the event loop: the writer must have come to a job since the last one.
        That it fails, as on a full disk, is no reason to be started anew; nor that so many wait that none has room.
        """
        if self._supervisor.address is None:
            return
        within_s = self._supervisor.watchdog_s
        pause_s = STATUS_S if within_s is None else min(STATUS_S, within_s / 3)
        seen = self._database.turns
        while True:
            await asyncio.sleep(pause_s)
            if within_s is None:
                self._supervisor.status(self._condition())
                continue
            if self._database.turns == seen and not self._database.queued_jobs:  # it has nothing to do
                await self._ask_writer()
            if self._database.turns != seen:
                seen = self._database.turns
                self._supervisor.alive(self._condition())

    async def _ask_writer(self) -> None:
        """Wait until the writer has done a job, or failed at it."""
        try:
            await self._database.write(lambda _: None)
        except P2PNodesError as error:
            log.debug("writer_failed", error=str(error), code=error.code)

    def _condition(self) -> str:
        """How the daemon is, one line for people."""
        behind = self._behind()
        reasons = self.readiness()
        words = [f"not ready: {reasons[0]}" if reasons else "ready"]
        if behind:
            words.append(f"catching up, {behind} events to go")
        return "; ".join([*words, f"{self._database.state.nodes} GPUs, {self._driver.sessions} peers connected"])

    def _behind(self) -> int:
        """Events that a peer is known to hold, and this daemon not yet."""
        return self._driver.behind()

    async def _watch_hangups(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            if self._reread is not None:
                self._supervisor.reloading()
                await _logged("settings_not_read_again", self._reload(self._reread))
                self._supervisor.ready(self._condition())

    async def _reload(self, reread: Callable[[], Settings]) -> None:
        """Follow the configuration as it is now.

        Raises:
            P2PNodesError: It cannot be used; what was in force stays.
        """
        settings, changed, fixed = reloaded(self.settings, await asyncio.to_thread(reread))
        self.settings = settings
        if {"log.level", "log.format"} & set(changed):
            configure_logging(settings.log)
        self._log_level.configure(settings.log.level)
        log.info("settings_read_again", changed=changed)
        if fixed:
            log.warning("settings_need_a_restart", settings=fixed, code=Code.CONFIG_NEEDS_RESTART)
        if "gossip.bootstrap" in changed:
            await self._set_targets()

    # -- gossip ------------------------------------------------------------------------------------------------------

    def _make_driver(self, node_key: NodeKey) -> Driver:
        settings = self.settings
        return Driver(
            node_key=node_key,
            delegation=self._identity,
            network=settings.network,
            store=self._database,
            electorate=lambda: self._database.electorate,
            rng=random.Random(os.urandom(16)),
            clock=now_ms,
            on_outcomes=self._received,
            on_applied=self._instruments.applied,
            on_tick=self._instruments.ticked,
            address=self._client_address,
            allow_private_addresses=settings.gossip.allow_private_addresses,
            observers=settings.gossip.allow_observers,
            view_size=settings.gossip.view_size,
            operator_bans=self._operator_bans,
        )

    async def _start_driver(self, node_key: NodeKey) -> None:
        """Meet the peers as the owner of a node key."""
        if self._node_key != node_key:
            self._node_key = node_key
            self._driver = self._make_driver(node_key)
        await self._driver.start()

    async def _stop_driver(self) -> None:
        await self._driver.stop()

    def _identity(self) -> tuple[LogId, Delegation] | None:
        """The log that this daemon speaks through, with its delegation."""
        return self._author.delegation if self._author is not None else self._observer

    def _own_hotkey(self) -> bytes | None:
        """The validator that this daemon speaks for; None for an observer, and while it is not known."""
        return None if self._author is None else self._author.hotkey

    def own_head_reports(self) -> dict[bytes, Head | None]:
        """What peers hold of the own log."""
        return self._driver.own_head_reports()

    def own_end_reports(self) -> set[bytes]:
        """Who says that the own log ends."""
        return self._driver.own_end_reports()

    def clock_offset_ms(self) -> int | None:
        """Median of the peers' clocks less this one."""
        return self._driver.clock_offset_ms()

    def _online(self) -> bool:
        return self._driver.online()

    async def _serve_gossip(self, request: web.Request) -> web.StreamResponse:
        return await self._driver.handler(request)

    async def _make_verifier(self) -> Verifier:
        """The verifier of the settings, started; its checks begin when the hotkey is known that they are for.

        Raises:
            ConfigError: It needs what is not here, the hotkey say.
        """
        settings = self.settings
        exchange = Exchange(allow_private=settings.api.allow_private_hosts, online=self._online)
        setup = Setup(settings.verify, self._hotkey, settings.network, exchange, time.time, os.urandom)
        verifier = make_verifier(settings.verify.verifier, setup)
        await exchange.start()
        self._stack.push_async_callback(exchange.close)
        await verifier.start()
        self._stack.push_async_callback(verifier.close)
        if isinstance(verifier, NoneVerifier):
            log.warning(
                "verifier",
                method=verifier.method,
                note="every claim gets the verdict verified, unchecked",
                code=Code.VERIFIER_NONE,
            )
        else:
            log.info("verifier", method=verifier.method)
        return verifier

    def _start_verifying(self, author: Author) -> None:
        """Check claims as soon as it is known for whom."""
        if self._scheduler is None and self._verifier is not None and author.hotkey is not None:
            self._scheduler = Scheduler(
                self._database,
                self._verifier,
                author.hotkey,
                now_ms,
                checks_at_once=self.settings.verify.checks_at_once,
                on_checked=self._instruments.checked,
            )
            self._scheduler.start()

    async def _stop_verifying(self) -> None:
        if self._scheduler is not None:
            await self._scheduler.stop()

    async def _listen(self) -> None:
        settings = self.settings
        app = create_app(
            self._database,
            settings.network,
            settings.api,
            now=time.time,
            readiness=self.readiness,
            behind=self._behind,
            gossip=self._serve_gossip,
            refusal=OBSERVER if self._author is None else None,
            elsewhere=lambda: self._elsewhere,
            answered=self._instruments.answered,
        )
        self._events = app[EVENTS_KEY]
        runner = make_runner(app, shutdown_timeout_s=LAST_ANSWERS_S)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        where = await listen(
            runner,
            settings.http.host,
            settings.http.port,
            advice="choose another [http] host or port, or stop what listens there",
            handover=self._handover,
        )
        self._url = self._url or f"http://{where}"
        port = settings.admin.port  # no browser finds a Unix socket
        admin = create_admin_app(self, status_registry(self.status, self._registry), console=port is not None)
        self._tail = admin[TAIL_KEY]
        runner = await start_admin(admin, settings.admin_socket_path, port)
        self._stack.push_async_callback(runner.cleanup)
        if port is not None:
            from p2pnodes.api.console import console_url

            self._console = console_url(runner.addresses)

    @property
    def _address(self) -> str | None:
        if self._author is not None:
            return self._author.address
        return self._hotkey.address if self._hotkey else None

    # -- electorate --------------------------------------------------------------------------------------------------

    @property
    def _electorate_error(self) -> Reason | None:
        """What is wrong with the electorate, for the operator; None when nothing is."""
        if self._read_error is not None:
            return self._read_error
        ahead_s = self._database.electorate.time_ms // 1000 - now_ms() // 1000
        if ahead_s > CLOCK_OFF_MS_MAX // 1000:
            return Reason(
                f"its time lies {ahead_s} s ahead of the system clock: set that right (NTP)", Code.CHAIN_CLOCK
            )
        if self._database.electorate.block and -ahead_s > self.settings.network.verdict_ttl_s:
            return Reason(
                f"its time is {-ahead_s / 86_400:.0f} days old: verdicts lapse by it, so none does; see [electorate]",
                Code.CHAIN_OLD,
            )
        return None

    async def _read_first_electorate(self) -> None:
        """Read the electorate before anything is decided by it; a stored one lets the daemon start without the chain.

        Raises:
            P2PNodesError: There is none, stored or to be read; or the system clock contradicts the chain.
        """
        stored = self._database.electorate.block > 0
        electorate: Electorate | None = None
        unread: P2PNodesError | None = None
        try:
            async with asyncio.timeout(FIRST_READ_S_MAX / 4 if stored else FIRST_READ_S_MAX):
                electorate = await self._source.poll()
        except TimeoutError as error:
            self._read_error = Reason(self._source.reasons() or "the chain has not answered yet", Code.CHAIN_UNREAD)
            if not stored:
                raise ConfigError(
                    f"no electorate could be read within {FIRST_READ_S_MAX:g} s, and none is stored: "
                    f"{self._read_error}",
                    code=Code.CHAIN_UNREAD,
                ) from error
        except P2PNodesError as error:
            unread = error
            self._read_error = error.reason()
        if (offset_ms := self._source.clock_trouble()) is not None:
            trouble = Reason(
                f"the system clock is {-offset_ms / 1000:+.0f} s off the chain's latest block: set it right (NTP), or "
                "use endpoints that keep up ([electorate] urls)",
                Code.CHAIN_CLOCK,
            )
            if not stored or len(self.settings.electorate.urls) > 1:  # one endpoint alone may be what is wrong
                raise ConfigError(trouble, code=Code.CHAIN_CLOCK)
            self._read_error = self._read_error or trouble
        if unread is not None and not stored:
            raise unread
        if electorate is not None:
            await self._take_electorate(electorate)
        if (found := self._electorate_error) is not None:
            log.warning("electorate_trouble", error=found, code=found.code)

    async def _take_electorate(self, electorate: Electorate) -> None:
        """Weigh with another electorate.

        Raises:
            P2PNodesError: It lies below the one that is held, or could not be stored.
        """
        held = self._database.electorate
        if electorate.block < held.block:
            raise ConfigError(
                f"the electorate went back: block {electorate.block} lies below {held.block}, which is held",
                code=Code.CHAIN_WENT_BACK,
            )
        try:
            await self._database.set_electorate(electorate)
        except P2PNodesError:
            self._source.forget()  # the next poll tries again
            raise
        if self._carrier is not None:
            self._carrier.weighed()
        log.info(
            "electorate",
            block=electorate.block,
            validators=len(electorate.current.validators),
            registered=len(electorate.current.registered),
        )

    async def _watch_electorate(self) -> None:
        told = self._electorate_error
        while True:
            await asyncio.sleep(self._source.pause_s)
            if self._database.state.loaded:  # rows that follow from it would be begun anew, and might never end
                continue
            try:
                electorate = await self._source.poll()
                if electorate is not None:
                    await self._take_electorate(electorate)
                self._read_error = None
            except P2PNodesError as error:
                self._read_error = error.reason()
            except Exception as error:
                self._read_error = Reason(f"BUG! {type(error).__name__}: {error}", Code.SYSTEM_BUG)
                log.exception("electorate_watch_failed", code=Code.SYSTEM_BUG)
            found = self._electorate_error
            if found is not None and alike(found) != alike(told or ""):
                log.warning("electorate_trouble", error=found, code=found.code)
            elif found is None and told is not None:
                log.info("electorate_well")
            told = found

    def _electorate_age_s(self) -> int:
        return max(0, (now_ms() - self._database.electorate.time_ms) // 1000)

    # -- own log -----------------------------------------------------------------------------------------------------

    async def _watch_own_log(self, author: Author) -> None:
        while True:
            await _logged("own_log_watch_failed", author.tend())
            self._driver.sweep(on=author.hearing)
            await _logged("gossip_not_restarted", self._follow_key(author))
            self._start_verifying(author)
            await asyncio.sleep(OWN_LOG_POLL_S)

    def _require_author(self) -> Author:
        if self._author is None:
            raise WritesRefusedError(OBSERVER)
        return self._author

    async def rotate_key(self) -> dict[str, Any]:
        """Replace the node key; see ``Author.rotate``."""
        author = self._require_author()
        before = author.delegation
        own = await author.rotate()
        return {
            "node_key": own.node_key.hex(), "log": log_name(own), "closed": log_name(before[0]) if before else None,
        }  # fmt: skip

    async def revoke(self, log_id: LogId | None, last: int | None) -> dict[str, Any]:
        """Close a log at its last good event, and replace the node key if it is the one in use.

        Args:
            log_id: The log; None for the own one.
            last: Seq of its last good event, -1 for none, None for the last that counts.

        Raises:
            ConfigError: There is no such log or event, or it is not the own hotkey's.
            WritesRefusedError: There is no hotkey at hand, or nothing may be written now.
        """
        author = self._require_author()
        own = self._database.ledger.own_log
        log_id = log_id or own
        if own is None or log_id is None:
            raise WritesRefusedError(
                "this daemon has no own log yet, in which the other could be closed", code=Code.WRITES_NO_LOG
            )
        if log_id.node_key != author.node_key.public_key:
            close = await author.close(log_id, last)
            return {"log": log_name(log_id), "good_events": closing_order(close)[0], "closed_by": log_name(own)}
        # A stolen key signs what it likes: whatever it wrote, it must not write more.
        head = await author.good_head(log_id, last)
        own = await author.rotate({log_id: head})
        good = 0 if head is None else head.seq + 1
        return {"log": log_name(log_id), "good_events": good, "closed_by": log_name(own)}

    async def _follow_key(self, author: Author) -> None:
        """Meet the peers with the node key that the author writes with; called by one loop alone."""
        if author.node_key != self._node_key:
            await self._driver.stop()
            await self._start_driver(author.node_key)
            await self._set_targets()

    async def publish_closing(self, close: Close) -> dict[str, Any]:
        """Write a closing that was signed elsewhere; see ``Author.publish``."""
        await self._require_author().publish(close)
        return {"log": log_name(close.log), "good_events": closing_order(close)[0]}

    def key_request(self, days: int) -> dict[str, Any]:
        """What a hotkey elsewhere is to sign next; see ``Author.request``."""
        return self._require_author().request(days).fields()

    async def forks(self) -> list[dict[str, Any]]:
        """Every log that is known to end: by a proved fork, by a closing, or both."""
        seen = await self._database.read(lambda facts: facts.ends_seen())
        state = self._database.state
        return [
            {
                "log": log_name(log_id),
                "hotkey": ss58_encode(state.logs[log_id].hotkey),
                "own": self._is_own(log_id),
                "fork": ends.fork,
                "good_events": state.logs[log_id].cut,
                "closed": ends.close is not None,
                "seen_at": seen.get(log_id, 0) // 1000,
                "proof": _proof_of(ends),
            }
            for log_id, ends in sorted(state.ends.items())
        ]

    def _is_own(self, log_id: LogId) -> bool:
        """Whether a log is of this validator's hotkey."""
        held = self._database.state.logs.get(log_id)
        return self._author is not None and held is not None and held.hotkey == self._author.hotkey

    # -- peers -------------------------------------------------------------------------------------------------------

    async def _watch_targets(self) -> None:
        while True:
            self._tell_strangers()
            await _logged("targets_watch_failed", self._set_targets())
            await asyncio.sleep(TARGETS_POLL_S)

    def _written_elsewhere(self) -> list[LogState]:
        """Logs that another daemon writes with the own hotkey."""
        if self._author is None or self._author.hotkey is None:
            return []
        logs, own = self._database.state.logs, self._node_key.public_key
        found = written_elsewhere(logs, self._author.hotkey, own, self.started_ms, now_ms() / 1000)
        # A rotation has opened the new log a moment before this daemon has its key.
        return [log for log in found if log.id != self._database.ledger.own_log]

    def _tell_strangers(self) -> None:
        for other in self._written_elsewhere():
            if other.id not in self._strangers:
                self._strangers.add(other.id)
                log.warning(
                    "hotkey_used_elsewhere",
                    log=log_name(other.id),
                    written_at=hlc_ms(other.prefix.hlc) // 1000,
                    advice="stop that daemon if it is yours; else `p2pnodes keys revoke --last -1 --log ...`",
                    code=Code.LOG_ELSEWHERE,
                )

    async def _set_targets(self) -> None:
        """Tell gossip who the other validators are, and where delegations, address books and the electorate say so."""
        electorate = self._database.electorate
        known = await self._database.urls()
        own = None if self._author is None else self._author.hotkey
        axons, book = electorate.current.addresses, self._driver.addresses()
        node_keys = self._driver.node_keys()
        enrolled, stakes = self._database.ledger.committed_weights.enrolled, electorate.stakes
        targets: dict[bytes, list[str]] = {}
        members: dict[bytes, bytes | None] = {}
        # Whose word about the own head counts is visited first: many others with a permit may run no daemon at all.
        for hotkey in sorted(stakes, key=lambda hotkey: (hotkey not in enrolled, -stakes[hotkey], hotkey)):
            if hotkey == own:
                continue
            members[hotkey] = node_keys.get(hotkey)
            # A delegation's URL goes before the rest; but who has moved can say so only once it is reached.
            likely = known.get(hotkey, book.get(hotkey, axons.get(hotkey, "")))
            if likely:
                others = (found[hotkey] for found in (book, axons) if found.get(hotkey))
                targets[hotkey] = [*dict.fromkeys([likely, *others])]
        self._elsewhere = referrals(
            enrolled,
            known,
            own=own,
            allow_private=self.settings.gossip.allow_private_addresses,
        )
        self._driver.set_targets(targets, self.settings.gossip.bootstrap, members)

    def _client_address(self, request: web.Request) -> str:
        """Where a peer's connection comes from, behind the operator's own proxies, too."""
        forwarded = request.headers.getall("X-Forwarded-For", ())
        return client_address(request.remote, forwarded, self.settings.api.trusted_proxies)

    def _written(self, written: Written) -> None:
        self._instruments.written(written)
        if self._tail is not None:
            self._tail.committed()

    def _committed(self, commit: Commit) -> None:
        self._instruments.appended(commit.appended)
        if commit.appended:
            self._driver.appended(commit.appended)
        if self._scheduler is not None:
            for claim_id in commit.new_claims:
                self._scheduler.offer(claim_id)
            self._scheduler.voted(commit.voted)
            self._scheduler.ended(commit.ended)
        if self._events is not None:
            self._events.committed(commit)
        if self._author is not None:
            self._author.ended(commit.ended)
        if commit.ended:
            self._driver.ended(commit.ended)
        if self._carrier is not None:
            self._carrier.committed(commit)
        if self._office is not None and self._database.state.cutting and not self._database.state.loading:
            self._office.wake()

    def _received(self, outcomes: "list[Outcome]") -> None:
        self._instruments.received(outcomes)
        for outcome in outcomes:
            self._outcomes[outcome.result.value] += 1
            if outcome.proved and self._author is not None:
                self._author.found_fork(outcome.event.log)

    # -- what the admin interface shows ------------------------------------------------------------------------------

    def readiness(self) -> list[Reason]:
        """Why this daemon is not ready; empty when it is."""
        reasons: list[Reason] = []
        age_s, max_age_s = self._electorate_age_s(), self.settings.electorate.max_age_s
        if not self._database.electorate.block:
            reasons.append(Reason("there is no electorate yet", Code.CHAIN_UNREAD))
        elif max_age_s is not None and age_s > max_age_s:
            why = self._electorate_error or "its source has no newer one"
            reasons.append(
                Reason(f"the electorate is {age_s} s old, at most {max_age_s} are allowed: {why}", Code.CHAIN_OLD)
            )
        if self._database.state.loading:
            reasons.append(Reason(f"the inventory is loaded from peers: {self._loaded()}", Code.WRITES_LOADING))
        if self._author is None and not self._caught_up():
            behind = "no peer holds what this observer holds: it has not caught up with any yet"
            reasons.append(Reason(behind, Code.SYSTEM_CATCHING_UP))
        if self._database.failure:
            failure = f"the database cannot write: {self._database.failure}"
            reasons.append(Reason(failure, Code.DATA_NOT_WRITTEN))
        if self._author is not None and (refusal := self._database.ledger.writes_refused):
            reasons.append(Reason(f"writes are refused: {refusal}", code_of(refusal, Code.WRITES_REFUSED)))
        return reasons

    def _loaded(self) -> str:
        """How far a live set is loaded, for people."""
        found = self._driver.loading()
        if found is None or found["of"] is None:
            return "it begins"
        return f"{found['held']} of {found['of']} slices of checkpoint {found['number']} are here"

    def _caught_up(self) -> bool:
        """Whether this daemon has held all that some peer held; asked by anybody, through /readyz."""
        self._level = self._level or self._driver.agreed()
        return self._level

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
            "role": self.settings.role,
            "url": self._url,
            "console": self._console,
            "hotkey": self._address,
            "node_key": self._node_key.public_key.hex(),
            "log": held and {"number": held.id.number, "seq": held.head.seq, "id": held.head.id.hex()},
            "delegation": None if self._author is None else self._author.status(),
            "state_root": state.state_root.hex(),
            "vector_digest": state.vector_digest.hex(),
            "electorate": {
                "block": electorate.block,
                "time": electorate.time_ms // 1000,
                "age_s": self._electorate_age_s(),
                "digest": state.electorate_digest.hex(),
                "validators": len(electorate.current.validators),
                "registered": len(electorate.current.registered),
                "enrolled": len(ledger.weights.enrolled),
                "error": (error := self._electorate_error),
                "code": error and error.code,
                "recounting": self._database.recounting,
                "source": self._source.status(),
            },
            "writes": {
                "allowed": ledger.writes_refused is None,
                "reason": ledger.writes_refused,
                "code": ledger.writes_refused and code_of(ledger.writes_refused, Code.WRITES_REFUSED),
            },
            "ready": self.readiness(),
            "events": state.events,
            "nodes": state.nodes,
            "outcomes": dict(self._outcomes),
            "forks": [
                {"log": log_name(log_id), "seq": ends.fork, "own": self._is_own(log_id)}
                for log_id, ends in sorted(state.ends.items())
                if ends.fork is not None
            ],
            "closed_logs": sum(ends.close is not None for ends in state.ends.values()),
            "other_logs": [
                {"log": log_name(other.id), "written_at": hlc_ms(other.prefix.hlc) // 1000}
                for other in self._written_elsewhere()
            ],
            "queues": {
                "writer": self._database.queued_jobs,
                "verifier": verification["queued"] + verification["running"] if verification else 0,
            },
            "verification": verification,
            "carrying": self._carrier.status() if self._carrier else None,
            "checkpoint": {**(self._office.status() if self._office else {}), "loading": self._driver.loading()},
            "gossip": gossip,
            "database": self._database.status(),
            "clock_offset_ms": self._driver.clock_offset_ms(),
            "logging": self._log_level.status(),
            "started_at": self.started_ms // 1000,
            "uptime_s": (now_ms() - self.started_ms) // 1000,
        }

    def peers(self) -> list[dict[str, Any]]:
        """Snapshot for ``p2pnodes peers``."""
        peers: list[dict[str, Any]] = self._driver.status()["peers"]
        return peers

    def log_level(self) -> dict[str, Any]:
        """From which level on this daemon logs; see ``LogLevel.status``."""
        return self._log_level.status()

    def set_log_level(self, level: str | None, logger: str | None, for_s: int | None) -> None:
        """Log from another level on, or for None as configured; see ``LogLevel``."""
        if level is None:
            self._log_level.reset(logger)
        else:
            self._log_level.set(level, logger, for_s)

    def bans(self) -> list[dict[str, Any]]:
        """Who is refused for a while; see ``Driver.bans``."""
        return self._driver.bans()

    def ban(self, key: bytes, reason: str, ban_s: int, *, is_node_key: bool = False) -> dict[str, Any]:
        """Refuse a peer; see ``Driver.ban``."""
        return self._driver.ban(key, reason, ban_s, is_node_key=is_node_key)

    def lift_ban(self, key: bytes) -> bool:
        """End a peer's bans; see ``Driver.lift``."""
        return self._driver.lift(key)

    async def query(
        self,
        view: str,
        where: Mapping[str, str],
        limit: int,
        *,
        after: int | None = None,
        until: int | None = None,
        newest_first: bool = False,
    ) -> list[dict[str, Any]]:
        """Rows of an operators' view; see ``Database.query``."""
        return await self._database.query(view, where, limit, after=after, until=until, newest_first=newest_first)

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

    async def overview(self) -> dict[str, Any]:
        """The daemon on one page; see ``overview.overview``."""
        return overview.overview(self.status(), await self._browser.totals())

    async def models(self) -> list[str]:
        """Names of the models of GPUs; see ``Browser.models``."""
        return await self._browser.models()

    async def electorate(self) -> dict[str, Any]:
        """Who votes, and with what; see ``voters.electorate``."""
        weights = self._database.ledger.committed_weights
        mandates, urls = await self._database.read(lambda facts: (facts.mandates(), facts.urls()))
        return voters.electorate(weights, mandates, urls, None if self._author is None else self._author.hotkey)

    async def inventory(self, look: Look) -> dict[str, Any]:
        """A page of the inventory; see ``Browser.page``."""
        return await self._browser.page(look)

    async def pending(self, limit: int, after: tuple[int, bytes] | None) -> dict[str, Any]:
        """Claims whose vote is open, with their turns; see ``browser.pending_json``."""
        page = await self._browser.pending(limit, after)
        turns: dict[bytes, list[dict[str, Any]]] = {}
        if self._scheduler is not None:
            for claim in page.claims:
                if claim.owned and (found := await self._scheduler.turns(claim.claim_id)):
                    turns[claim.claim_id] = explanations.turns(found, now_ms())
        return pending_json(page, turns)

    async def node(self, uuid: str) -> dict[str, Any] | None:
        """Why a GPU has the row that it has; None when nothing is known of it."""
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
            raise WritesRefusedError(
                "this daemon has no hotkey to vote with: set hotkey_file", retry_after_s=60, code=Code.WRITES_NO_HOTKEY
            )
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


def run(settings: Settings, reread: Callable[[], Settings] | None = None) -> int:
    """Run a daemon until it is told to stop; the exit code.

    Args:
        settings: What the operator chose.
        reread: Reads the settings anew, at SIGHUP.

    Raises:
        P2PNodesError: It cannot start.
    """
    configure_logging(settings.log)
    supervisor = Supervisor.from_environment(os.environ, os.getpid())
    handover = Handover.from_environment(os.environ, os.getpid(), supervisor)
    daemon = Daemon(settings, reread=reread, supervisor=supervisor, handover=handover, on_stop=bound_stop)
    asyncio.run(daemon.run())
    return 0


def bound_stop(seconds: float = STOP_S_MAX, end: Callable[[int], object] = os._exit) -> None:
    """See that this process ends within some time, whatever hangs, and say what does.

    A plugin can ignore that it is cancelled, a file of settings lie on a network disk that does not answer. Nothing is
    lost by it: what was acknowledged is durable. To be called in the event loop.

    Args:
        seconds: From now on.
        end: Ends the process with an exit status, at once.
    """
    loop = asyncio.get_running_loop()

    def give_up() -> None:
        tasks = sorted({_where(task.get_coro()) for task in asyncio.all_tasks(loop)})
        threads = sorted(thread.name for thread in threading.enumerate())
        log.error(
            "stop_given_up",
            after_s=seconds,
            tasks=tasks[:STOP_TASKS_TOLD],
            threads=threads[:STOP_TASKS_TOLD],
            code=Code.SYSTEM_STOP,
        )
        end(1)

    timer = threading.Timer(seconds, give_up)
    timer.name = "p2pnodes-stop"
    timer.daemon = True  # a process that is done does not wait for it
    with suppress(RuntimeError):  # the system allows no more threads: what can still be done is to stop as it goes
        timer.start()


def _where(work: object) -> str:
    """What a suspended coroutine is at: its name, that of what it waits for, and so on."""
    names: list[str] = []
    while (name := getattr(work, "__qualname__", None)) is not None:
        names.append(name)
        work = getattr(work, "cr_await", None)
    return " > ".join(names)


_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Levels as syslog counts them. Source: sd-daemon(3), "SD_ERR" and so on."""


def _for_journal(render: structlog.typing.Processor) -> structlog.typing.Processor:
    """Put each record's priority before its line, as systemd's journal reads and removes it."""

    def prefixed(logger: Any, name: str, record: structlog.typing.EventDict) -> str:
        priority = _PRIORITIES[record.get("level", "info")]
        return f"<{priority}>{render(logger, name, record)!s}"

    return prefixed


def is_journal(environ: Mapping[str, str], fd: int) -> bool:
    """Whether a file is a stream of systemd's journal; see systemd.exec(5), ``JOURNAL_STREAM``."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def configure_logging(settings: LogSettings) -> None:
    """Send structlog's and the libraries' records to stderr, as JSON lines or for people.

    Where stderr is systemd's journal, each line begins with its priority, so that ``journalctl -p warning`` works.
    """
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
    if is_journal(os.environ, 2):
        renderer = _for_journal(renderer)
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


def settle_memory() -> None:
    """Take what the start made, which lives as long as the process, out of the garbage collector's sight.

    A full collection looks at everything and holds the interpreter meanwhile, the event loop with it: 50 ms and more
    for what is imported alone, and a reader of the whole inventory starts several in a second. What the start freed
    goes back to the system: 1.7 MB of 70.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries have none
    if trim is not None:
        trim(0)


def _read_hotkey(settings: Settings) -> tuple[Hotkey | None, bytes | None]:
    """The hotkey as far as it is on this machine: the key pair, and its public key, which may be here alone.

    Raises:
        ConfigError: Its file cannot be read, or lacks the secret that nothing else stands in for.
    """
    path = settings.hotkey_path
    if path is None:
        return None, None
    if settings.role == "validator" and settings.delegation_file is None:
        hotkey = load_hotkey(path)
        return hotkey, hotkey.public_key
    found = read_hotkey_file(path)
    return found.hotkey, found.public_key


def _proof_of(ends: Ends) -> dict[str, Any]:
    """The signed bytes that prove where a log ends, hex."""
    return {
        "evidence": ends.evidence and [part.hex() for part in ends.evidence],
        "close": ends.close and ends.close.signature.hex(),
    }


async def _logged(event: str, work: Any) -> None:
    """Await a turn of a loop that must not end; an error is logged and the next turn tries again."""
    try:
        await work
    except P2PNodesError as error:
        log.warning(event, error=str(error), code=error.code)
    except Exception:
        log.exception(event, code=Code.SYSTEM_BUG)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
