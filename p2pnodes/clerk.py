"""When this validator proposes a checkpoint, signs one, and puts one in force (``model.checkpoint``).

A number is due as the electorate's time reaches it, once a day by default. The validator that is first in the number's
rendezvous order proposes a cut; each further one waits a step longer. Each validator signs one proposal of a number,
the first in that order that it may sign, with what it finds below the cut. A search that has begun is ended, whatever
is proposed or due meanwhile: else whoever proposes again and again, or a number that is due before it ends, would have
it begin anew for ever. If their stakes are split over several, the number comes to nothing, and the next one does
better: nothing waits for a checkpoint but room on the disk.

``Clerk`` takes one short step at a time on the ledger, so that neither writes nor the simulator's clock wait for it;
``Office`` has it do so on the daemon's database.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import structlog

from p2pnodes.model.checkpoint import Certified, Line, due_at, due_number, rendezvous_key
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.model.events import Checkpoint, LogId
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.network import Network
from p2pnodes.model.rendezvous import place_of, ranking
from p2pnodes.steady import steady_ms
from p2pnodes.store.checkpoints import Stage
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import Past, View, hindrance, left_out, proposal, refusal

log = structlog.get_logger("p2pnodes.clerk")

STEPS_PER_HORIZON: Final = 1_024
TURN_MS_MIN: Final = 10_000
"""A validator proposes one so many-th part of a horizon later than the one before it, ten minutes by default, and no
less: the chain's news do not come everywhere at once, and who proposes too early splits the signatures."""

MARGINS_PER_HORIZON: Final = 256
MARGIN_MS_MIN: Final = 2_000
"""What has been here for a margin, one so many-th part of a horizon, 40 minutes by default, and no less than this, must
be in a cut that is signed here; what has been here for half of one is in a cut that is proposed here. So what reaches
some a little later than others keeps nobody from signing, nor does what is told of a log less than a margin ago."""

MOMENTS_PER_MARGIN: Final = 4
"""How often within a margin it is noted what is here."""

REST_MS_MAX: Final = 60_000
"""Longest rest between two steps, while nothing is to be done, and between two looks at a proposal."""

BUSY_PAUSE_S: Final = 0.01
"""Rest between two parts of a long piece of work, so that writes have their turn."""

DISPLACED_MS: Final = 1_200_000
"""How long a displaced log stays at least: others carry what it did within 16 minutes, 15 s for each of 64 validators.
It stays for longer where a proposal may name it, or the room that it takes decides what one need not name: else whoever
signs late, or takes long to find a live set, would refuse what the others have signed."""

REFUSED_PAUSE_S: Final = 10.0
"""Rest after a step that could not be taken, as on a full disk. Where one of twenty fails, the 4,000 parts that 100,000
GPUs can make still come to their end in half an hour."""

FAILED_PAUSE_S: Final = 60.0
"""Rest after a step that failed by a bug: its traceback is logged each time."""


class Step(NamedTuple):
    """What a step came to.

    Attributes:
        busy: Whether the next one is to follow at once.
        event: Name of what an operator hears of it; empty for nothing.
        fields: What belongs to that.
    """

    busy: bool
    event: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})


class _Moment(NamedTuple):
    """What was here at a time: of each log the last event, and the last one that counted."""

    at_ms: int
    held: View
    counted: View


_NOT_BEGUN: Final = b"", Past({}, {})

IDLE: Final = Step(busy=False)
BUSY: Final = Step(busy=True)

DIFFERS: Final = "checkpoint_differs"
LACKS: Final = "checkpoint_lacks"
DISPLACED: Final = "log_displaced"
"""Names of what goes wrong."""


class Clerk:
    """Takes one step after another on a ledger; remembers nothing that a restart must not forget.

    Who does not call it for longer than a margin and REST_MS_MAX has it forget as by a restart.
    """

    def __init__(self) -> None:
        """Begin without any memory: nothing is signed for the first MARGINS_PER_HORIZON-th part of a horizon."""
        self.problem: str | None = None
        """Why what is due cannot be signed here, for the operator; None while nothing is in the way."""
        self.mismatch: Checkpoint | None = None
        """What was found here below the cut of a certificate that says otherwise: an alarm."""
        self.lacks: int | None = None
        """Number of a certificate whose cut is not held here, so that its live set must come from peers."""
        self.left_out: LogId | None = None
        """The own log, where it is older than the cut in force and that does not name it: an operator should know."""
        self._displaced: dict[LogId, int] = {}
        """Logs that are to be forgotten, and since when."""
        self._moments: deque[_Moment] = deque()
        """The first one is a margin old, or as old as this clerk."""
        self._looked_ms = 0
        """When it remembered last."""
        self._begun: tuple[bytes, Past] = _NOT_BEGUN
        """The proposal whose live set is being found, and what was remembered when that began: however long it takes,
        nothing that is told meanwhile is a reason not to sign."""
        self._refused: dict[bytes, int] = {}
        """Proposals that were not signed when they were looked at last, and when that was: one is looked at in a
        transaction, for writes wait for it, and again after a rest, however often the clerk is woken. Of each validator
        there is one."""
        self._due: tuple[int, int] = (0, 0)
        """The number that is due, and since when."""

    def step(self, ledger: Ledger, own: bytes | None, now_ms: int, wall_ms: int) -> Step:
        """Take the next step; call inside a transaction.

        Args:
            ledger: It may write its own log, or refuse to.
            own: The validator that it speaks for; None for a daemon that only watches.
            now_ms: By a clock that never goes back.
            wall_ms: Wall clock, Unix milliseconds.

        Raises:
            P2PNodesError: What is to be written cannot be written now.
        """
        self._remember(ledger, now_ms)
        self.left_out = left_out(ledger)
        checkpoints = ledger.checkpoints
        if checkpoints.stage is Stage.LOADING and not (ledger.leaving or checkpoints.loaded):
            return IDLE
        if checkpoints.stage is not Stage.LOADING and ledger.moving:
            ledger.move_on()
            return BUSY
        if checkpoints.stage in {Stage.LOADING, Stage.CUTTING}:
            fields = {"number": checkpoints.line.number}
            return Step(busy=ledger.moving, event="checkpoint_cut", fields=fields) if ledger.cut() else BUSY
        if (forgot := self._forget(ledger, own, now_ms)) is not None:
            return forgot
        if (pending := checkpoints.pending) is not None:
            if self.mismatch is not None and self.mismatch.number == pending.line.number:
                pending = checkpoints.newest or pending  # that may come out alike again
            return self._enforce(ledger, pending)
        self.mismatch = self.lacks = None
        if own is None or own not in ledger.weights.enrolled or ledger.writes_refused is not None:
            return IDLE
        return self._agree(ledger, own, now_ms, wall_ms)

    def _forget(self, ledger: Ledger, own: bytes | None, now_ms: int) -> Step | None:
        """Tell of the next log that is displaced, or take away a part of one that has been for long.

        What an own one says perhaps nobody else holds: its time runs from when this daemon may write, and so carry.
        """
        held = {log_id: state.hotkey for log_id, state in ledger.logs.items() if state.displaced}
        self._displaced = {log_id: since_ms for log_id, since_ms in self._displaced.items() if log_id in held}
        waits = ledger.own_logs() if ledger.writes_refused is not None else {}
        for log_id, hotkey in held.items():
            fields = {"log": str(log_id), "hotkey": ss58_encode(hotkey)}
            if log_id not in self._displaced:
                self._displaced[log_id] = now_ms
                return Step(busy=True, event=DISPLACED, fields=fields)
            if log_id in waits or (hotkey == own and ledger.writes_refused is not None):
                self._displaced[log_id] = now_ms
            if now_ms >= self._displaced[log_id] + DISPLACED_MS and not self._may_matter(ledger, own, log_id):
                return Step(busy=True, event="log_forgotten", fields=fields) if ledger.forget(log_id) else BUSY
        return None

    def _may_matter(self, ledger: Ledger, own: bytes | None, log_id: LogId) -> bool:
        """Whether a log that is displaced may be named by a proposal that can still be signed here, or take room in it.

        That is so if it counted less than a margin ago, or less than one before the search for a live set began that is
        still remembered. Of what is signed already those matter that it names, until it is in force: where its number
        comes to nothing all others would stay until the next one is found, and there is room for few.
        """
        begun, past = self._begun
        if (line := ledger.finding) is not None and line.proposal == begun:
            signed = own is not None and ledger.checkpoints.signed_number(own) >= line.number
            if log_id in (line.logs if signed else past.counted):
                return True
        return any(log_id in moment.counted for moment in self._moments)

    def _remember(self, ledger: Ledger, now_ms: int) -> None:
        """Note what is here. Where a daemon stood still or slept for long what was here before says nothing of now."""
        margin_ms = _margin_ms(ledger.network)
        if now_ms > self._looked_ms + margin_ms + REST_MS_MAX:
            self._moments.clear()
            self._begun = _NOT_BEGUN
            self._displaced = dict.fromkeys(self._displaced, now_ms)
        self._looked_ms = now_ms
        if not self._moments or now_ms >= self._moments[-1].at_ms + margin_ms // MOMENTS_PER_MARGIN:
            held = {log_id: state.head.seq for log_id, state in ledger.logs.items()}
            self._moments.append(_Moment(now_ms, held, ledger.logs.counted()))
        while len(self._moments) > 1 and self._moments[1].at_ms <= now_ms - margin_ms:
            self._moments.popleft()

    def _past(self, ledger: Ledger) -> Past:
        """What is remembered, for who signs."""
        counted = ledger.logs.counted()
        for moment in self._moments:
            for log_id, seq in moment.counted.items():
                counted[log_id] = max(seq, counted.get(log_id, -1))
        return Past(self._moments[0].held, counted)

    def _heard(self, network: Network, now_ms: int) -> View:
        """What everybody has heard of, for who proposes: what has been here for half a margin."""
        until_ms = now_ms - _margin_ms(network) // 2
        return next(moment.held for moment in reversed(self._moments) if moment.at_ms <= until_ms)

    def _enforce(self, ledger: Ledger, certified: Certified) -> Step:
        """Put a certificate in force, when the same is found here."""
        number, line = certified.line.number, certified.line
        if not ledger.is_finding(line.proposal) and (lacks := self._lacking(ledger, certified)) is not None:
            return lacks
        statement = ledger.find_live_set(line)
        if statement is None:
            return BUSY
        if (lacks := self._lacking(ledger, certified)) is not None:  # something may have shown meanwhile
            return lacks
        if statement != certified.statement:
            first, self.mismatch = self.mismatch != statement, statement
            fields = {"number": number, "leaves": statement.leaves, "theirs": certified.statement.leaves}
            return Step(busy=False, event=DIFFERS, fields=fields) if first else IDLE
        ledger.enforce(certified)
        self.mismatch = self.lacks = None
        return Step(busy=True, event="checkpoint_in_force", fields={"number": number, "leaves": statement.leaves})

    def _lacking(self, ledger: Ledger, certified: Certified) -> Step | None:
        """What follows where a live set cannot be found here; None where it can."""
        why, number = hindrance(ledger, certified), certified.line.number
        if why is None:
            return None
        first, self.lacks = self.lacks != number, number
        return Step(busy=False, event=LACKS, fields={"number": number, "reason": why}) if first else IDLE

    def _agree(self, ledger: Ledger, own: bytes, now_ms: int, wall_ms: int) -> Step:
        """Propose, or sign what is proposed."""
        number = due_number(ledger.network, ledger.weights.electorate)
        if self._due[0] != number:
            self._due = number, now_ms
        signed = ledger.checkpoints.signed_number(own)
        found = ledger.finding
        if number <= signed and (found is None or found.number <= signed):
            self.problem = None
            return IDLE
        if self._moments[0].at_ms > now_ms - _margin_ms(ledger.network):
            self.problem = "this daemon has not been up for long"
            return IDLE
        if found is not None and found.number > signed:
            return self._sign(ledger, found, wall_ms)
        turns = (now_ms - self._due[1]) // max(TURN_MS_MIN, ledger.network.horizon_s * 1000 // STEPS_PER_HORIZON)
        order = ranking(rendezvous_key(ledger.network, number), ledger.weights.enrolled)
        proposals = {place_of(order, who): key for who, key in ledger.checkpoints.first_proposals(number).items()}
        rest_ms = _rest_ms(ledger.network)
        self._refused = {key: at_ms for key, at_ms in self._refused.items() if now_ms < at_ms + rest_ms}
        for place, key in sorted(proposals.items()):
            if place > turns or key in self._refused:
                continue
            line = ledger.checkpoints.line_of(key)
            if line is not None and self._may_sign(ledger, line):
                return self._sign(ledger, line, wall_ms)
            self._refused[key] = now_ms
            return BUSY
        mine = place_of(order, own)
        if mine in proposals or mine > turns:
            return IDLE
        payload = proposal(ledger, self._heard(ledger.network, now_ms))
        if payload is None:
            self.problem = None
            return IDLE
        ledger.append(lambda _: payload, wall_ms)
        return Step(busy=True, event="checkpoint_proposed", fields={"number": number})

    def _may_sign(self, ledger: Ledger, line: Line) -> bool:
        payload = ledger.checkpoints.proposed_by(line.proposal)
        if payload is None:
            return False
        begun, past = self._begun
        if begun != line.proposal or not ledger.is_finding(begun):
            past = self._past(ledger)
        self.problem = refusal(ledger, payload, line, ledger.checkpoints.lately, past)
        if self.problem is None:
            self._begun = line.proposal, past
        return self.problem is None

    def _sign(self, ledger: Ledger, line: Line, wall_ms: int) -> Step:
        statement = ledger.find_live_set(line)
        if statement is None:
            return BUSY
        if not self._may_sign(ledger, line):  # something may have shown meanwhile
            ledger.forget_finding()  # what others propose has its turn
            return IDLE
        ledger.append(lambda _: statement, wall_ms)
        fields = {"number": statement.number, "leaves": statement.leaves}
        return Step(busy=True, event="checkpoint_signed", fields=fields)


def _margin_ms(network: Network) -> int:
    return max(MARGIN_MS_MIN, network.horizon_s * 1000 // MARGINS_PER_HORIZON)


def _rest_ms(network: Network) -> int:
    return min(REST_MS_MAX, network.horizon_s * 1000 // STEPS_PER_HORIZON)


class Office:
    """Has a clerk work on a daemon's database."""

    def __init__(
        self, database: Database, network: Network, hotkey: Callable[[], bytes | None], now_ms: Callable[[], int]
    ) -> None:
        """Take what it needs; call ``start`` then.

        Args:
            database: Its ledger writes the own log.
            network: Its parameters.
            hotkey: The validator that this daemon speaks for; None while that is not known.
            now_ms: Wall clock, Unix milliseconds.
        """
        self.clerk = Clerk()
        self._database = database
        self._network = network
        self._hotkey = hotkey
        self._now_ms = now_ms
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        """Why the last step could not be taken, told once."""

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Take the next step soon: there is something to be taken away."""
        self._woken.set()

    async def stop(self) -> None:
        """Stop; what is half done is begun anew at the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def status(self) -> dict[str, Any]:
        """For ``p2pnodes status``: what is in force, how old it is, and what is in the way of the next one."""
        state = self._database.state
        due = due_at(self._network, state.checkpoint) if state.checkpoint else None
        return {
            "number": state.checkpoint,
            "id": state.checkpoint_id.hex() or None,
            "due_at": due,
            "age_s": None if due is None else self._now_ms() // 1000 - due,
            "final": state.certificate,
            "problem": self.clerk.problem,
            "differs": self.clerk.mismatch is not None,
            "lacks": self.clerk.lacks,
            "leaves_own_log_out": self.clerk.left_out is not None,
        }

    async def _run(self) -> None:
        rest_s = _rest_ms(self._network) / 1000
        while True:
            self._woken.clear()
            alarms = self.clerk.mismatch, self.clerk.lacks  # those of a transaction that fails are told to nobody
            try:
                step = await self._database.write(
                    lambda ledger: self.clerk.step(ledger, self._hotkey(), steady_ms(), self._now_ms())
                )
            except P2PNodesError as error:
                self.clerk.mismatch, self.clerk.lacks = alarms
                if str(error) != self._trouble:
                    log.warning("checkpoint_delayed", error=str(error), code=Code.CHECKPOINT_DELAYED)
                self._trouble = str(error)
                await asyncio.sleep(REFUSED_PAUSE_S)
                continue
            except Exception:  # one that fails must not be the last one: the disk would fill
                self.clerk.mismatch, self.clerk.lacks = alarms
                log.exception("clerk_failed", code=Code.SYSTEM_BUG)
                await asyncio.sleep(FAILED_PAUSE_S)
                continue
            self._trouble = None
            match step.event:
                case "":
                    pass
                case event if event == DIFFERS:
                    log.error(DIFFERS, code=Code.CHECKPOINT_DIFFERS, **step.fields)
                case event if event == LACKS:
                    log.warning(LACKS, code=Code.CHECKPOINT_LACKS, **step.fields)
                case event if event == DISPLACED:
                    log.warning(DISPLACED, code=Code.LOG_DISPLACED, **step.fields)
                case event:
                    log.info(event, **step.fields)
            if step.busy:
                await asyncio.sleep(BUSY_PAUSE_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._woken.wait()
