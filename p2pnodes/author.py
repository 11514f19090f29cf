"""The author of the own log: what a daemon signs, when it may, and what it does when the log cannot go on.

Rules 3, 4, 5 and 8 of design.md, and the life cycle of the node key, come down to three acts: open a log with a
delegation that names its predecessor, close a log at its last good event, and write nothing in between. An ``Author``
is tended every OWN_LOG_POLL_S and decides which is due; rotation and revocation are the same acts, asked for by the
operator. Where the hotkey is elsewhere, what it must sign comes in files (``chain/delegation.py``).
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from nacl.utils import random as random_bytes

from p2pnodes.chain.delegation import (
    DAY_S,
    DAYS_MAX,
    DelegationRequest,
    Predecessor,
    SignedDelegation,
    log_name,
    misfits,
    read_delegation,
    window,
)
from p2pnodes.chain.file import Watch
from p2pnodes.chain.wallet import create_node_key, load_node_key
from p2pnodes.config import Settings
from p2pnodes.gossip.contact import Contact
from p2pnodes.gossip.ownlog import Hearing, Step, hear, ran_ahead, stays_ahead
from p2pnodes.model.branches import Ends
from p2pnodes.model.clock import CLOCK_OFF_MS_MAX, SKEW_AHEAD_MS_MAX, hlc_at
from p2pnodes.model.codes import Code, Reason, code_of
from p2pnodes.model.errors import ConfigError, P2PNodesError, WritesRefusedError
from p2pnodes.model.events import LOG_NUMBER_MAX, Close, Delegation, Head, LogId, closing
from p2pnodes.model.keys import KEY_BYTES, Hotkey, NodeKey, ss58_encode
from p2pnodes.model.validity import check_close
from p2pnodes.steady import steady_ms
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger

log = structlog.get_logger("p2pnodes.author")

NUMBER_WAIT_MS_MAX: Final = 1_000
"""How long a new log waits for the second of its number: one that the next second brings, and no later one."""

REOPEN_BACKOFF_S: Final = 30.0
"""Pause after a new log could not be opened, or what was due in the own one could not be written."""

FORKS_TOLD_MAX: Final = 4_096
"""Logs of which it is remembered that their forks were told."""


_NUMBER: Final = re.compile(r"[-+]?[0-9][0-9.,]*")


class Heard(Protocol):
    """What peers say; the driver of gossip."""

    def own_head_reports(self) -> dict[bytes, Head | None]:
        """See ``Engine.own_head_reports``."""

    def own_end_reports(self) -> set[bytes]:
        """See ``Engine.own_end_reports``."""

    def clock_offset_ms(self) -> int | None:
        """See ``Engine.clock_offset_ms``."""


class Author:
    """Keeps the own log open, delegated to and unforked."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        hotkey: Hotkey | None,
        known: bytes | None,
        node_key: NodeKey,
        new_key: bool,
        heard: Heard,
        now_ms: Callable[[], int],
    ) -> None:
        """Take what writing needs; nothing is written yet.

        Args:
            database: Its ledger writes the own log.
            settings: Where keys and delegations are.
            hotkey: Signs delegations and closings; None when it is elsewhere.
            known: Its public key, where that is known; its logs alone are continued.
            node_key: Signs events; ``rotate`` replaces it.
            new_key: Whether it was made in this start, so that no process before can have opened a log with it.
            heard: What peers say.
            now_ms: Wall clock, Unix milliseconds.
        """
        self.node_key = node_key
        self.delegation: tuple[LogId, Delegation] | None = None
        """The own log and its latest delegation; None while there is none that may be written."""
        self._database = database
        self._settings = settings
        self._hotkey = hotkey
        self._known = known
        self._heard_from = heard
        self._now_ms = now_ms
        self._numbers_from = 0 if new_key else self._now_s + 1
        """A process before may have opened logs up to the second in which this one began, and its disk lost them."""
        self._watch = Watch(settings.delegation_file) if settings.delegation_file else None
        self._brought: SignedDelegation | None = None
        self._brought_error: str | None = None
        self._hearing_since: float | None = None
        self._heard = False
        self._cleared: LogId | None = None
        """A log that a delegation names, and of which peers with enough stake hold nothing: it may be opened."""
        self._retry_at = 0.0
        self._write_at = 0.0
        """When what is due in the own log is written at the earliest."""
        self._note: str = Reason("starting", Code.WRITES_STARTING)
        self._unused = "there is no own log that goes on"
        """Why the log before is not written on in, where there is none to take up."""
        self._refusal: str | None = None
        self._contact = Contact(settings.network, steady_ms())
        self._news: frozenset[LogId] = frozenset()
        self._found: dict[LogId, None] = {}
        self._told: dict[LogId, None] = {}
        self._busy = asyncio.Lock()

    # -- what others ask ---------------------------------------------------------------------------------------------

    @property
    def address(self) -> str | None:
        """SS58 of the hotkey that this daemon speaks for, as far as it is known."""
        hotkey = self.hotkey
        return None if hotkey is None else ss58_encode(hotkey)

    @property
    def hotkey(self) -> bytes | None:
        """The hotkey that this daemon speaks for, as far as it is known."""
        if self._known is not None:
            return self._known
        if self.delegation is not None:
            return self.delegation[1].hotkey
        return None if self._brought is None else self._brought.delegation.hotkey

    @property
    def permitted(self) -> bool:
        """Whether that hotkey holds a permit; without one its log is nobody's to report."""
        return self.delegation is not None and self._database.electorate.permitted(self.delegation[1].hotkey)

    @property
    def hearing(self) -> bool:
        """Whether the own head has to be heard yet (rule 4), for which every peer is welcome."""
        return self.permitted and not self._heard

    def request(self, days: int) -> DelegationRequest:
        """What a hotkey elsewhere is to sign next: a renewal while the own log can go on, else the next log."""
        ledger = self._database.ledger
        own = ledger.own_log
        if own is not None and ledger.foreign_own is None and (held := ledger.delegation_of(own)) is not None:
            return self._unsigned(own, held.predecessor, days)
        before = self._before()
        predecessor = None if before is None else (before, self._database.state.logs[before].counted)
        return self._unsigned(self._fresh_log(self.node_key), predecessor, days)

    def _unsigned(self, own: LogId, predecessor: Predecessor | None, days: int) -> DelegationRequest:
        electorate_s = self._database.electorate.time_ms // 1000
        return DelegationRequest(
            self._settings.network.id,
            own,
            self.hotkey,
            self._settings.http.url or "",
            *window(self._now_s, days, electorate_s or None),
            predecessor,
        )

    def found_fork(self, log_id: LogId) -> None:
        """Note that this daemon has proved a fork itself, to be told in an ``evidence`` event: once for each log.

        The proof itself spreads without one, and so do lower ones of the same log.
        """
        if log_id in self._news and log_id not in self._told:
            self._told[log_id] = self._found[log_id] = None
            if len(self._told) > FORKS_TOLD_MAX:
                self._told.pop(next(iter(self._told)))

    def ended(self, logs: Iterable[LogId]) -> None:
        """Note the logs of whose ends more became known with the last commit."""
        self._news = frozenset(logs)

    # -- delegations -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Speak for the own log that the database holds, or open one."""
        await self._remember_contact()
        self._look_for_brought()
        self.take_up_log()
        if self.delegation is None:
            async with self._busy:
                await self._open_log(self._unused)

    def take_up_log(self) -> None:
        """Speak for the own log that the database holds, if there is one whose delegation still lives."""
        ledger = self._database.ledger
        own = ledger.own_log
        delegation = ledger.delegation_of(own) if own else None
        if own is None or delegation is None:
            return
        if self._known not in {None, delegation.hotkey}:
            self._unused = f"the log before is of hotkey {ss58_encode(delegation.hotkey)}"
            log.warning(
                "hotkey_changed", before=ss58_encode(delegation.hotkey), now=self.address, code=Code.KEY_CHANGED
            )
            return
        self.delegation = own, delegation
        self._speak_anew()

    def _speak_anew(self) -> None:
        """Speak through a later delegation to the own log where one is due.

        It is written once that may be. Peers are shown it before: they talk to nobody whose delegation has ended, and
        while they do not, nothing may be written.
        """
        if self.delegation is not None and self._is_due(*self.delegation):
            own, held = self.delegation
            self.delegation = own, self._sign(own, held.predecessor)

    def _is_due(self, own: LogId, held: Delegation) -> bool:
        """Whether another delegation to a log can be had, and is to replace one that is held."""
        if self._hotkey is not None:
            return self.stale(held)
        if self._brought is None or self._brought.log != own:
            return False
        brought = self._brought.delegation
        return self._now_s < brought.not_after and _goes_before(brought, held)

    def stale(self, delegation: Delegation) -> bool:
        """Whether less than half of a delegation's days are left, or it names another URL than this daemon has."""
        half_s = self._settings.delegation_days * DAY_S / 2
        return self._now_s > delegation.not_after - half_s or delegation.url != (self._settings.http.url or "")

    def _sign(self, own: LogId, predecessor: Predecessor | None) -> Delegation:
        """A delegation to the own log, signed now or brought in a file."""
        if self._hotkey is None:
            brought = self._brought
            if brought is not None and brought.log == own and self._now_s < brought.delegation.not_after:
                return brought.delegation
            raise WritesRefusedError(
                f"{self._brought_error or 'this daemon has no hotkey to delegate with'}: set wallet or hotkey_file, or "
                f"have {log_name(own)} delegated to elsewhere (`p2pnodes keys request`, `keys delegate`) and set "
                "delegation_file",
                retry_after_s=60,
                code=Code.WRITES_NO_HOTKEY,
            )
        return self._unsigned(own, predecessor, self._settings.delegation_days).sign(self._hotkey).delegation

    def _look_for_brought(self) -> None:
        """Read the delegation file if it is new; a bad one is told once and changes nothing."""
        if self._watch is None or not self._watch.changed():
            return
        try:
            brought = read_delegation(self._watch.path)
            self._require_ours(brought, self._watch.path)
        except ConfigError as error:
            if str(error) != self._brought_error:
                log.warning("delegation_not_read", error=str(error), code=error.code)
            self._brought_error = str(error)
            return
        self._brought, self._brought_error = brought, None
        log.info("delegation_read", log=str(brought.log), not_after=brought.delegation.not_after)

    def _require_ours(self, brought: SignedDelegation, path: Path) -> None:
        network_id, hotkey = self._settings.network.id, self._known
        if hotkey is None and (held := self._database.state.logs.get(brought.log)) is not None:
            hotkey = held.hotkey  # a log speaks for one hotkey as long as it lives
        if problems := misfits(brought, path, network_id, self.node_key.public_key, hotkey):
            raise ConfigError(problems[0], code=Code.DELEGATION_MISFIT)

    # -- opening and closing -----------------------------------------------------------------------------------------

    def _named_log(self) -> LogId | None:
        """The log that a delegation names which was signed elsewhere, while nothing of it is here."""
        brought = self._brought
        if self._hotkey is None and brought is not None and brought.log not in self._database.state.logs:
            return brought.log
        return None

    def _expects_another(self) -> bool:
        """Whether the log that is heard about is not the one that is to be opened.

        Another delegation was brought meanwhile, or a transaction that failed made the ledger forget the log.
        """
        own = self._database.ledger.own_log
        return self._hotkey is None and own not in self._database.state.logs and own != self._named_log()

    def _fresh_log(self, node_key: NodeKey) -> LogId:
        """The next own log by the time: its number never meets one that a lost disk held (rule 4)."""
        number = max(self._now_s, self._number_min(node_key))
        return LogId(node_key.public_key, min(number, LOG_NUMBER_MAX))

    def _number_min(self, node_key: NodeKey) -> int:
        """The least number of a log that can't have been opened before, as far as the clock and this disk tell."""
        before = self._numbers_from if node_key is self.node_key else 0
        held = [log_id.number for log_id in self._database.state.logs if log_id.node_key == node_key.public_key]
        return max([before, *(number + 1 for number in held)])

    async def _reach_number(self) -> None:
        """Wait for the second of the next log's number, where that is the next one.

        No log so has a number that lies ahead of the clock, and a process that comes after a crash, maybe within the
        same second, begins above all that this one opened. A clock that was set back is not waited for.
        """
        wait_ms = self._number_min(self.node_key) * 1000 - self._now_ms()
        if 0 < wait_ms <= NUMBER_WAIT_MS_MAX:
            await asyncio.sleep(wait_ms / 1000)

    def _before(self) -> LogId | None:
        """The log of the own node key that was opened last."""
        return max(self._database.ledger.own_logs(), default=None)

    async def _open_log(self, reason: str, *, doubled: bool = False) -> None:
        """Open a new own log; what keeps it from being opened is told, and it is tried again later.

        It closes own logs in which the clock ran ahead, whatever it is opened for: none can be opened beside these.

        Args:
            reason: For the operator.
            doubled: Another daemon may write with this node key. A fresh one keeps the two apart: peers hold one
                session with each node key, and two daemons of one would take it from each other for ever.
        """
        named = self._named_log()
        try:
            if named is not None and named != self._cleared:
                await self._expect(named, reason)
                return
            ends = await self._good_ends()
            if ends and await self._leave_bad_events(ends):
                return
            try:
                await self._begin_log(reason, ends, fresh_key=doubled and self._hotkey is not None)
            except ConfigError as error:
                log.warning("node_key_not_replaced", error=str(error), code=error.code)
                await self._begin_log(reason, ends, fresh_key=False)
        except P2PNodesError as error:
            self._note = Reason(f"no new log: {error}", Code.WRITES_NO_LOG)
            self._retry_at = time.monotonic() + REOPEN_BACKOFF_S
            self._refuse_writes(self._note)
            log.error("log_not_opened", reason=reason, error=str(error), code=Code.LOG_NOT_OPENED)

    async def _expect(self, own: LogId, reason: str) -> None:
        """Hear what peers hold of a log before it is opened, for it may have been once: this disk may be an old one.

        A fresh log has the time for its number, and none can have met it; this one has the number of a delegation
        that was signed whenever, and a second beginning would fork it (rule 4).

        Raises:
            P2PNodesError: Its delegation is over, or the ledger cannot take note of it.
        """
        delegation = self._sign(own, None)
        await self._database.write(lambda ledger: ledger.expect(own))
        self.delegation = own, delegation
        self._heard, self._hearing_since = False, None
        self._note = Reason("waiting to hear whether peers hold the log that is delegated to", Code.WRITES_UNHEARD)
        log.info("log_expected", log=str(own), reason=reason)

    async def _begin_log(
        self, reason: str, ends: Mapping[LogId, Head | None], *, fresh_key: bool, close_own: bool = False
    ) -> LogId:
        """Open a new own log that closes others: all in one commit, and the key file behind it.

        Args:
            reason: For the operator.
            ends: Logs to close, each with its last good event.
            fresh_key: Write with a new node key from now on.
            close_own: Close the log before, too: with the last event that counts when the writer comes to it, so that
                nothing that was acknowledged meanwhile is left out.

        Raises:
            ConfigError: The key file cannot be written; nothing has changed.
            P2PNodesError: The log cannot be opened; nothing has changed.
        """
        path = self._settings.node_key_path
        pending = pending_key_path(path)
        if fresh_key:
            finish_rotation(path, self.node_key.public_key)  # the one before may not have come to its end
        else:
            await self._reach_number()
        node_key = create_node_key(pending) if fresh_key else self.node_key
        own, before, network_id = (
            self._named_log() or self._fresh_log(node_key),
            self._before(),
            self._settings.network.id,
        )

        def job(ledger: Ledger) -> tuple[Delegation, list[LogId]]:
            last = None if before is None else ledger.counted(before)
            closed = dict(ends)
            if close_own and before is not None:
                last = closed.setdefault(before, last)
            closings = [closing(self._require_hotkey(), network_id, *each) for each in closed.items()]
            delegation = self._sign(own, None if before is None else (before, closed.get(before, last)))
            ledger.open_log(
                own.number,
                delegation,
                self._now_ms(),
                closings=closings,
                node_key=node_key,
                ahead=self.delegation is None,  # nobody talks to who has none, or could tell the time (rule 8)
            )
            return delegation, list(closed)

        try:
            delegation, closed = await self._database.write(job)
        except P2PNodesError:
            if fresh_key:  # whatever else ends this: it may be committed, and ``finish_rotation`` decides
                with suppress(OSError):  # that, too, decides about one that stays
                    pending.unlink(missing_ok=True)
            raise
        if fresh_key:
            self.node_key = node_key
            try:
                _replace_key(path)
            except ConfigError as error:  # the log is open: the file is made good as after a crash
                log.error("node_key_not_replaced", error=str(error), code=error.code)
        self.delegation = own, delegation
        self._heard = True
        log.info("log_opened", log=str(own), reason=reason, closes=[str(log_id) for log_id in closed])
        self._refuse_writes(self._why_no_writes())
        return own

    def _require_hotkey(self) -> Hotkey:
        if self._hotkey is None:
            raise WritesRefusedError(
                "this daemon has no hotkey to sign with: sign elsewhere with `p2pnodes keys close`, and hand the file "
                "over with `p2pnodes keys publish`",
                retry_after_s=60,
                code=Code.WRITES_NO_HOTKEY,
            )
        return self._hotkey

    async def rotate(self, others: Mapping[LogId, Head | None] | None = None) -> LogId:
        """Replace the node key: a new key in the key file, a new log that closes the old one.

        Args:
            others: Logs to close, each with its last good event. The own log ends with its head unless it is among
                them.

        Returns:
            The log that was opened. The driver must be started anew, with ``node_key``.

        Raises:
            ConfigError: The key file cannot be written.
            WritesRefusedError: There is no hotkey at hand, it holds no permit, or the log cannot be opened; nothing has
                changed.
        """
        self._require_hotkey()
        async with self._busy:
            if self.delegation is not None and not self.permitted:
                raise WritesRefusedError(self._why_no_writes() or "", retry_after_s=60)
            return await self._begin_log(
                "its operator rotates the node key", others or {}, fresh_key=True, close_own=True
            )

    async def close(self, log_id: LogId, last: int | None) -> Close:
        """Close a log of the own hotkey, other than the one that is being written.

        Args:
            log_id: The log.
            last: Seq of its last good event, -1 for none, None for the last that counts.

        Raises:
            ConfigError: It is not held, not the own hotkey's, or has no such event.
            WritesRefusedError: There is no hotkey at hand, or nothing may be written now.
        """
        hotkey = self._require_hotkey()
        head = await self.good_head(log_id, last)
        close = closing(hotkey, self._settings.network.id, log_id, head)
        await self._database.write(lambda ledger: ledger.append(lambda _: close, self._now_ms()))
        log.warning(
            "log_closed", log=str(log_id), good_events=0 if head is None else head.seq + 1, code=Code.LOG_CLOSED
        )
        return close

    async def publish(self, close: Close) -> None:
        """Write a closing that was signed elsewhere.

        Raises:
            ConfigError: Its signature does not hold, or the log is held and another hotkey's.
            WritesRefusedError: Nothing may be written now.
        """
        if not check_close(self._settings.network.id, close):
            raise ConfigError(
                "the closing does not carry its hotkey's signature for this network: sign it anew",
                code=Code.DELEGATION_UNSIGNED,
            )
        held = self._database.state.logs.get(close.log)
        if held is not None and held.hotkey != close.hotkey:
            raise ConfigError(
                f"log {close.log} is of hotkey {ss58_encode(held.hotkey)}; only that one can close it, and "
                f"{ss58_encode(close.hotkey)} signed",
                code=Code.LOG_FOREIGN,
            )
        await self._database.write(lambda ledger: ledger.append(lambda _: close, self._now_ms()))
        log.warning(
            "log_closed",
            log=str(close.log),
            good_events=0 if close.head is None else close.head.seq + 1,
            code=Code.LOG_CLOSED,
        )

    async def good_head(self, log_id: LogId, last: int | None) -> Head | None:
        """The event that a closing names; see ``close``."""
        held = self._database.state.logs.get(log_id)
        if held is None:
            raise ConfigError(f"log {log_name(log_id)} is not held here: see `p2pnodes events`", code=Code.LOG_UNKNOWN)
        if self.hotkey is not None and held.hotkey != self.hotkey:
            raise ConfigError(
                f"log {log_id} is of hotkey {ss58_encode(held.hotkey)}, which this daemon does not speak for",
                code=Code.LOG_FOREIGN,
            )
        if last is None:
            return held.counted
        if last < 0:
            return None
        ids = await self._database.event_ids(log_id, [last])
        if last not in ids:
            raise ConfigError(
                f"log {log_id} has no event at seq {last}; expected 0 to {held.head.seq}, or -1 for none",
                code=Code.LOG_UNKNOWN,
            )
        return Head(last, ids[last])

    # -- tending -----------------------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Do what is due for the own log, and say whether writes are taken."""
        if time.monotonic() < self._retry_at or self._busy.locked():
            return
        async with self._busy:
            await self._tend()

    async def _tend(self) -> None:
        ledger = self._database.ledger
        self._look_for_brought()
        if ledger.foreign_own is not None:
            self._heard = False
            await self._open_log(ledger.foreign_reason, doubled=True)
        elif self.delegation is None or self._expects_another():
            await self._open_log(self._unused)
        elif not self._heard and self.permitted:
            await self._hear()
        elif self._ran_ahead():
            await self._open_log("the system clock ran ahead while the events behind it were written")
        self._speak_anew()
        reason = self._why_no_writes()
        if reason is None and ledger.writes_refused is not None:
            await self._renew()  # behind a delegation that has ended all that comes first would be void
        self._refuse_writes(reason)
        if ledger.writes_refused is None and time.monotonic() >= self._write_at:
            self._write_at = time.monotonic() + REOPEN_BACKOFF_S  # if it fails
            await self._renew()
            await self._tell_forks()
            await self._note_contact()
            self._write_at = 0.0

    async def _renew(self) -> None:
        """Write a later delegation where one is due; nothing speaks against writing, whatever is refused still."""
        ledger = self._database.ledger
        own = ledger.own_log
        delegation = ledger.delegation_of(own) if own else None
        if own is None or delegation is None:
            return
        if self._is_due(own, delegation):
            renewed = self._sign(own, delegation.predecessor)

            def job(ledger: Ledger) -> None:
                refused, ledger.writes_refused = ledger.writes_refused, None
                try:
                    ledger.renew(renewed, self._now_ms())
                finally:
                    ledger.writes_refused = refused

            await self._database.write(job)
            self.delegation = own, renewed
            log.info("delegation_renewed", log=str(own), not_after=renewed.not_after)

    async def _remember_contact(self) -> None:
        """Go on from when a quorum was heard of before this start; the first start is such a time."""
        now_ms = self._now_ms()
        heard_ms = await self._database.write(lambda ledger: ledger.heard_ms)
        if heard_ms is None:
            await self._database.write(lambda ledger: ledger.note_heard(now_ms))
        else:
            self._contact = Contact(self._settings.network, steady_ms() - max(0, now_ms - heard_ms))

    async def _note_contact(self) -> None:
        """Keep for the next start when a quorum was heard of."""
        now_ms = steady_ms()
        since_ms = self._contact.news(self.hotkey, self._database.ledger.weights.enrolled, now_ms)
        if since_ms is not None:
            at_ms = self._now_ms() - (now_ms - since_ms)
            await self._database.write(lambda ledger: ledger.note_heard(at_ms))

    async def _tell_forks(self) -> None:
        """Write ``evidence`` of the forks that this daemon has proved, each once."""
        for log_id in list(self._found):
            evidence = self._database.state.ends.get(log_id, Ends()).evidence
            if evidence is not None:
                await self._database.write(lambda ledger: ledger.append(lambda _: evidence, self._now_ms()))  # noqa: B023
            del self._found[log_id]

    async def _hear(self) -> None:
        """Rule 4: hear the own head from more than half of the other enrolled stake before the first write."""
        ledger = self._database.ledger
        own_hotkey = self.hotkey
        others = {hotkey: stake for hotkey, stake in ledger.weights.enrolled.items() if hotkey != own_hotkey}
        own = ledger.own_log if self.delegation else None
        held = ledger.state.logs.get(own) if own else None
        named = own is not None and own == self._named_log()
        reports = self._heard_from.own_head_reports()
        ids = await self._database.event_ids(own, {head.seq for head in reports.values() if head}) if own else {}
        if self._hearing_since is None:
            self._hearing_since = time.monotonic()
        hearing = hear(
            held.head if held else None,
            reports,
            others,
            int((time.monotonic() - self._hearing_since) * 1000),
            ids=ids,
            ended=self._heard_from.own_end_reports() if own else (),
            logs=sum(log.hotkey == own_hotkey for log in self._database.state.logs.values()),
            named=named,
            alone=not any(stake for hotkey, stake in self._database.electorate.stakes.items() if hotkey != own_hotkey),
        )
        self._note = Reason(hearing.reason, Code.WRITES_UNHEARD)
        if own is not None and named:
            await self._open_expected(own, hearing)
        elif hearing.step is Step.GO_ON:
            self._heard = True
            log.info("own_head_heard", reason=hearing.reason)
        elif hearing.step is Step.OPEN_NEW:
            await self._open_log(hearing.reason, doubled=hearing.doubled)

    async def _open_expected(self, own: LogId, hearing: Hearing) -> None:
        """Open the log that a delegation names, if peers hold nothing of it; there is no hotkey for another one."""
        if hearing.step is Step.GO_ON:
            self._cleared = own
            await self._open_log(hearing.reason)
        elif hearing.step is Step.OPEN_NEW:
            self._note = Reason(
                f"{hearing.reason}; writes go on once more of them are heard, or another log is delegated to "
                "(`p2pnodes keys request`)",
                Code.WRITES_UNHEARD,
            )
            self._retry_at = time.monotonic() + REOPEN_BACKOFF_S

    # -- rule 8 ------------------------------------------------------------------------------------------------------

    def _clock_trouble(self) -> str | None:
        """What is wrong with the system clock, as far as others tell; None when nothing is."""
        offset = self._heard_from.clock_offset_ms()
        if offset is not None and abs(offset) > CLOCK_OFF_MS_MAX:
            return (
                f"the system clock is {-offset / 1000:+.1f} s off the median of the peers' clocks: at most "
                f"{CLOCK_OFF_MS_MAX // 1000} s are allowed, set it right (NTP)"
            )
        ahead_ms = self._database.electorate.time_ms - self._now_ms()
        if ahead_ms > CLOCK_OFF_MS_MAX:
            return (
                f"the system clock lies {ahead_ms / 1000:.0f} s before the time of the electorate's block: at most "
                f"{CLOCK_OFF_MS_MAX // 1000} s are allowed, set it right (NTP)"
            )
        return None

    def _ran_ahead(self) -> list[LogId]:
        """Own logs with events from when the clock ran ahead, once it is right; none where no hotkey can close them."""
        if self._hotkey is None or self._clock_trouble() is not None:
            return []
        ledger, own_hotkey = self._database.ledger, self._hotkey.public_key
        own = ledger.own_log if ledger.foreign_own is None else None
        others = {key: stake for key, stake in ledger.weights.enrolled.items() if key != own_hotkey}
        offset_ms = self._heard_from.clock_offset_ms()
        return ran_ahead(own_hotkey, own, self._database.state.logs, others, self._now_ms(), offset_ms=offset_ms)

    async def _good_ends(self) -> dict[LogId, Head | None]:
        """Own logs that are to be closed below what was written while the clock ran ahead, with where they end."""
        hlc_max = hlc_at(self._now_ms())
        return {log_id: await self._database.last_event(log_id, hlc_max) for log_id in self._ran_ahead()}

    async def _leave_bad_events(self, ends: Mapping[LogId, Head | None]) -> bool:
        """Close own logs below what was written while the clock ran ahead, where no new log can tell that yet.

        That is where a log of another validator's is as far ahead: its author may wait for this.
        """
        own_hotkey, now_ms = self._require_hotkey(), self._now_ms()
        if not stays_ahead(own_hotkey.public_key, self._database.state.logs, now_ms):
            return False
        closings = [closing(own_hotkey, self._settings.network.id, *each) for each in ends.items()]
        await self._database.write(lambda ledger: ledger.receive_proofs(closings, now_ms))
        log.warning("log_closed", logs=[str(log_id) for log_id in ends], code=Code.LOG_CLOSED)
        return True

    # -- refusing ----------------------------------------------------------------------------------------------------

    def _refuse_writes(self, reason: str | None) -> None:
        """Refuse own writes for a reason, or take them again; the log tells each change."""
        if reason is None and self._refusal is not None:
            log.info("writes_allowed")
        elif reason is not None and alike(reason) != alike(self._refusal or ""):
            log.warning("writes_refused", reason=reason, code=code_of(reason, Code.WRITES_REFUSED))
        self._refusal = self._database.ledger.writes_refused = reason

    def _why_no_writes(self) -> str | None:
        if self.delegation is not None and not self.permitted:
            block = self._database.electorate.block
            return Reason(
                f"the hotkey {self.address} holds no validator permit at block {block}", Code.WRITES_NO_PERMIT
            )
        if not self._heard:
            return self._note
        ledger = self._database.ledger
        if ledger.foreign_own is not None:
            return ledger.foreign_reason
        if self.delegation is not None and self._now_s > self.delegation[1].not_after:
            return Reason(
                f"the delegation of {self.address} ended at {self.delegation[1].not_after} (Unix seconds), and there "
                "is no hotkey to renew it with: set wallet or hotkey_file, or bring a new delegation_file",
                Code.WRITES_DELEGATION_OVER,
            )
        if (trouble := self._clock_trouble()) is not None:
            return Reason(trouble, Code.WRITES_CLOCK)
        self._contact.note(self._heard_from.own_head_reports(), steady_ms())
        if self._contact.lost(self.hotkey, ledger.weights.enrolled, steady_ms()):
            return Reason(
                "validators with a quorum of the stake have not been heard of for half the horizon: what is written "
                "now might come too late to count; look why there are no sessions (`p2pnodes peers`)",
                Code.WRITES_ISOLATED,
            )
        if (ahead_ms := ledger.clock.ahead_ms(self._now_ms())) > SKEW_AHEAD_MS_MAX:
            return Reason(
                f"the logical clock is {ahead_ms // 1000} s ahead of the system clock: an event was written while "
                f"that ran ahead; at most {SKEW_AHEAD_MS_MAX // 1000} s are allowed, writes go on by themselves then",
                Code.WRITES_CLOCK_AHEAD,
            )
        return None

    @property
    def _now_s(self) -> int:
        return self._now_ms() // 1000

    def status(self) -> dict[str, Any] | None:
        """The delegation for the operator, JSON-able; None without one."""
        if self.delegation is None:
            return None
        delegation = self.delegation[1]
        return {
            "hotkey": ss58_encode(delegation.hotkey),
            "url": delegation.url,
            "not_before": delegation.not_before,
            "not_after": delegation.not_after,
            "signed": "here" if self._hotkey is not None else "elsewhere",
            "error": self._brought_error,
        }


def alike(reason: str) -> str:
    """A reason without its numbers: one that is the same but for these is no news."""
    return _NUMBER.sub("", reason)


def _goes_before(brought: Delegation, held: Delegation) -> bool:
    """Whether a delegation that was brought is to replace the one in use: it ends later, or names another URL."""
    return brought.not_after > held.not_after or (
        brought.url != held.url and brought.not_before >= held.not_before and brought != held
    )


def observer_identity(
    network_id: bytes, node_key: NodeKey, hotkey: Hotkey | None, now_s: int
) -> tuple[LogId, Delegation]:
    """Who an observer is to its peers: a log that is never written, delegated to by its hotkey or by one for the day.

    Peers ask for a delegation in every handshake; an observer's carries no weight.
    """
    own = LogId(node_key.public_key, 0)
    signer = hotkey or Hotkey.from_seed(random_bytes(KEY_BYTES))
    request = DelegationRequest(network_id, own, None, "", *window(now_s, DAYS_MAX), None)
    return own, request.sign(signer).delegation


def pending_key_path(path: Path) -> Path:
    """Where a rotation keeps the next node key until the database speaks for it."""
    return path.with_name(f"{path.name}.next")


def finish_rotation(path: Path, written_by: bytes | None) -> None:
    """Make good a rotation that a crash cut in two: the key file follows the database.

    Args:
        path: The node key's file.
        written_by: Node key of the log that the database wrote last; None when there is none.

    Raises:
        ConfigError: The next key's file is needed and cannot be read, or cannot take the place of the one before.
    """
    pending = pending_key_path(path)
    if not pending.exists():
        return
    needed = written_by is not None and not _holds(path, written_by)
    if needed and load_node_key(pending).public_key == written_by:
        _replace_key(path)
        log.warning("rotation_finished", file=str(path), code=Code.KEY_ROTATION_FINISHED)
        return
    try:
        pending.unlink()
    except OSError as error:
        raise ConfigError(
            f"{pending}: cannot be removed ({error.strerror}): remove it, it is a node key that was never used",
            code=Code.KEY_NOT_WRITTEN,
        ) from error


def _holds(path: Path, public_key: bytes) -> bool:
    """Whether a file holds the node key; one that cannot be read holds none."""
    try:
        return load_node_key(path).public_key == public_key
    except ConfigError:
        return False


def _replace_key(path: Path) -> None:
    """Put the next node key in the place of the one before.

    Raises:
        ConfigError: The disk refuses.
    """
    pending = pending_key_path(path)
    try:
        pending.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be replaced by {pending.name}, the node key from now on ({error.strerror}): set it right "
            "before the next start, or put that file in its place by hand",
            code=Code.KEY_NOT_WRITTEN,
        ) from error
