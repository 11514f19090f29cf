"""Which cut a daemon would make, and whether it may sign one that somebody proposes."""

from collections.abc import Collection, Container, Iterable, Mapping
from typing import NamedTuple

from p2pnodes.model.branches import closing_order
from p2pnodes.model.checkpoint import (
    LOGS_PER_HOTKEY_CUT,
    Certified,
    Line,
    OfHotkey,
    by_age,
    chosen,
    due_number,
    horizon_of,
)
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.events import PINS_BYTES_MAX, CutLog, Head, LogId, Propose
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.state import LogState

View = Mapping[LogId, int]
"""Last seq of each log up to which it is looked at. Of one that is not in it, what the cut in force names is taken as
it is, and nothing else."""


class Past(NamedTuple):
    """What a daemon remembers of the logs, so that nobody can spoil a proposal by what is shown behind it.

    Attributes:
        held: What has been here for some time: a cut that leaves out what counts of it and is older than the horizon
            would lose it.
        counted: The last seq of each log that counted at some time lately: a fork or closing that is shown when the
            proposal is there changes what the next one names, and not what this one does.
    """

    held: View
    counted: View


class Reach(NamedTuple):
    """How far a cut would go in a log: that is less to find than all that a cut says of it.

    Attributes:
        log: The log.
        hotkey: Whose it is.
        seq: The last one.
    """

    log: LogId
    hotkey: bytes
    seq: int


def proposal(ledger: Ledger, view: View | None = None) -> Propose | None:
    """What this daemon would propose under the electorate in force; None while nothing is older than the horizon.

    Args:
        ledger: What is here.
        view: What others have heard of for long enough; all that is here unless given.

    Raises:
        LocalProtocolError: The electorate is larger than a proposal can hold.
    """
    electorate = ledger.weights.electorate
    if len(electorate.canonical) > PINS_BYTES_MAX:
        raise LocalProtocolError(
            f"no checkpoint can be proposed: the electorate takes {len(electorate.canonical)} bytes, at most "
            f"{PINS_BYTES_MAX} fit a proposal",
            code=Code.CHECKPOINT_DELAYED,
        )
    logs = cut_of(ledger, electorate, view)
    if not logs:
        return None
    number = due_number(ledger.network, electorate)
    return Propose(number, ledger.checkpoints.line.proposal, electorate.canonical, logs)


def cut_of(
    ledger: Ledger, electorate: Electorate, view: View | None = None, counted: View | None = None
) -> tuple[CutLog, ...]:
    """The cut of what is held here, or of a view of it: what it names of ``older``."""
    logs = {each.log: each for each in older(ledger, electorate, view, counted)}
    began = _began(ledger, logs)
    settled = _settled(ledger, logs, began, view)
    named = chosen(logs.values(), electorate, began, ledger.checkpoints.line.logs, settled)
    entries = (_entry(ledger, each) for each in named)
    return tuple(entry for entry in entries if entry is not None)


def _began(ledger: Ledger, logs: Iterable[LogId]) -> dict[LogId, int]:
    """HLC of the first event of logs that are held here."""
    return {log: ledger.facts.began(ledger.logs[log].key) for log in logs}


def _settled(
    ledger: Ledger, logs: Mapping[LogId, OfHotkey], began: Mapping[LogId, int], view: View | None = None
) -> set[LogId]:
    """The logs that are *settled*: the youngest of a hotkey, or begun a horizon after all those of it that are named.

    So an honest validator has one soon, also if it opens one after the other; and who does so to have them named gets a
    name or two in a horizon.
    """
    last: dict[bytes, int] = {}
    for log, entry in logs.items():
        if log in ledger.checkpoints.line.logs:
            last[entry.hotkey] = max(last.get(entry.hotkey, -1), began[log])
    horizon = hlc_at(ledger.network.horizon_s * 1000)
    settled = {log for log, entry in logs.items() if began[log] >= last.get(entry.hotkey, -1) + horizon}
    return settled | _youngest(ledger, began, view)


def _youngest(ledger: Ledger, began: Mapping[LogId, int], view: View | None) -> set[LogId]:
    """The youngest log of each hotkey with more than may be named anyhow, also one that has nothing older yet.

    Whether it counts is not asked: else whoever shows its end behind a proposal gave room to the one before. One that
    is over, though, takes none.
    """
    own: dict[bytes, list[LogState]] = {}
    for state in ledger.logs.values():
        if not state.displaced and (view is None or state.id in view):
            own.setdefault(state.hotkey, []).append(state)
    many = [states for states in own.values() if len(states) > LOGS_PER_HOTKEY_CUT]
    all_began = {**_began(ledger, [each.id for states in many for each in states if each.id not in began]), **began}
    return {min(states, key=lambda each: by_age(all_began[each.id], each.id)).id for states in many}


def _sure(ledger: Ledger) -> View:
    """The last seq of each log that counts whatever is shown of its end, unless that lies below.

    A closing with a lower id counts instead of one that names the same seq, and may be right about that event where the
    other was not: then that counts again.
    """
    sure = ledger.logs.counted()
    for log, state in ledger.logs.items():
        if log in sure and state.ends.close is not None:
            good, _ = closing_order(state.ends.close)
            sure[log] = min(sure[log], good - 2)
    return sure


def older(
    ledger: Ledger,
    electorate: Electorate,
    view: View | None = None,
    counted: View | None = None,
    *,
    crowded: Container[bytes] | None = None,
    logs: Iterable[LogId] | None = None,
) -> list[Reach]:
    """What a cut would name if it had room: of each log as far as its events are older than the horizon and count.

    Of a hotkey with as many logs as may count it names none that the cut in force does not name: its author can have
    such a log displaced whenever it is proposed, and so would keep all others from signing.

    Args:
        ledger: What is here.
        electorate: E_c.
        view: Up to where; all that is here unless given.
        counted: Up to where each log counts; as it is now unless given.
        crowded: Hotkeys of which nothing new is named; those with as many logs as may count unless given.
        logs: Those that are asked for, each held here; all unless given.
    """
    horizon_ms, named = horizon_of(ledger.network, electorate), ledger.checkpoints.line.logs
    horizon_hlc = hlc_at(max(0, horizon_ms))
    if view is None:
        view = {log: state.head.seq for log, state in ledger.logs.items()}
    if counted is None:
        counted = ledger.logs.counted()
    ended = {log for log in named if log in view and _ended_ms(ledger, ledger.logs[log], view[log]) < horizon_ms}
    known = {entry.hotkey for log, entry in named.items() if log not in ended}
    if crowded is None:
        crowded = ledger.logs.crowded()
    found: list[Reach] = []
    for log in ledger.logs if logs is None else logs:
        state, before = ledger.logs[log], named.get(log)
        if before is None and state.hotkey in crowded:
            continue
        # What a hotkey without a permit said does not count, but whoever joins later must be able to go on from there.
        permitted = electorate.permitted(state.hotkey)
        last = min(view.get(log, -1), counted.get(log, -1)) if permitted else -1
        # Else the list of logs would grow for ever. A validator with a permit stays known by another log.
        may_go = log in ended and (not permitted or state.hotkey in known)
        if may_go and not _is_needed(ledger, state, view[log], last):
            continue
        seq = ledger.facts.last_below(state.key, -1 if before is None else before.head.seq, last, horizon_hlc)
        if seq >= 0:
            found.append(Reach(log, state.hotkey, seq))
    return found


def _ended_ms(ledger: Ledger, state: LogState, last: int) -> int:
    """When all delegations of a log up to a seq have ended, Unix milliseconds: with more of them never earlier."""
    return ledger.facts.delegations_ended(state.key, last)


def _is_needed(ledger: Ledger, state: LogState, last: int, counted: int) -> bool:
    """Whether something is needed that a log said whose delegations have ended, and which the cut in force names.

    That is so where the live set in force holds some of it, and where something counts above that cut which was written
    before they ended: no live set was asked yet whether it is needed. Words with an HLC below the horizon in force
    count for nothing there, so whoever goes on in such a log with old HLCs has it stay no longer.

    Args:
        ledger: What is here.
        state: The log.
        last: Seq up to which its delegations are looked at.
        counted: Seq up to which it counts.
    """
    line = ledger.checkpoints.line
    if ledger.checkpoints.keeps_of(state.key):
        return True
    first = 1 + ledger.facts.last_below(state.key, line.logs[state.id].head.seq, counted, line.horizon_hlc)
    return first <= counted and hlc_ms(ledger.facts.highest_hlc(state.key, first)) <= _ended_ms(ledger, state, last)


def _entry(ledger: Ledger, reach: Reach) -> CutLog | None:
    """What a cut says that goes so far in a log; None where that event is not here."""
    before = ledger.checkpoints.line.logs.get(reach.log)
    if before is not None and before.head.seq == reach.seq:
        return before
    return entry_at(ledger, ledger.logs[reach.log], reach.seq)


def entry_at(ledger: Ledger, state: LogState, seq: int) -> CutLog | None:
    """What a cut says that goes in a log up to a seq; None where that event is not here."""
    facts = ledger.facts
    event_id = facts.stored_id(state.key, seq)
    window = facts.window(state.key, seq)
    if event_id is None or window is None:
        return None
    return CutLog(state.id, state.hotkey, Head(seq, event_id), facts.highest_hlc(state.key, seq), *window)


def left_out(ledger: Ledger) -> LogId | None:
    """The own log, where the cut in force does not name it though it had begun before the horizon; else None.

    What it says is carried by others before it is too old, but for places, and its validator may not weigh in the next
    checkpoint.
    """
    line, own = ledger.checkpoints.line, ledger.own_log
    if own is None or own in line.logs or (state := ledger.logs.get(own)) is None:
        return None
    return own if 0 <= ledger.facts.began(state.key) < line.horizon_hlc else None


def hindrance(ledger: Ledger, said: Certified) -> str | None:
    """Why a certificate's live set cannot be found here and must come from peers; None if it can.

    From another checkpoint than its signers came from something else may be found, and nobody be wrong.
    """
    if (why := objection(ledger, said.line)) is not None:
        return why
    held = ledger.checkpoints
    if held.follows(said) or ledger.found(said.line.proposal) in {None, said.statement}:
        return None
    return f"it follows another checkpoint than {held.line.number or 'none'}, which is in force here"


def objection(ledger: Ledger, line: Line) -> str | None:
    """Why the live set below a line cannot be found here; None if it can.

    Whether it counts here what lies there is not asked: once that is cut, no end lies below.
    """
    for log, entry in line.logs.items():
        state = ledger.logs.get(log)
        before = ledger.checkpoints.line.logs.get(log)
        if state is None or state.head.seq < entry.head.seq:
            return f"log {log} is not here up to seq {entry.head.seq}"
        if before is not None and entry.head.seq <= before.head.seq:
            held: CutLog | None = before
        else:
            held = entry_at(ledger, state, entry.head.seq)
        if held != entry:
            return f"log {log} is another one here at seq {entry.head.seq}"
    return None


def refusal(ledger: Ledger, proposed: Propose, line: Line, electorates: Collection[bytes], past: Past) -> str | None:
    """Why this daemon must not sign a proposal, or not yet; None if it may.

    Args:
        ledger: What is here.
        proposed: The proposal.
        line: What it draws.
        electorates: Digests of those that were in force here lately.
        past: What is remembered of the logs.
    """
    in_force = ledger.checkpoints.line
    if line.number <= in_force.number or proposed.previous != in_force.proposal:
        return f"it follows another checkpoint than {in_force.number or 'none'}, which is in force here"
    if line.electorate is None or line.electorate.digest not in electorates:
        return "its electorate was not in force here lately"
    if (why := objection(ledger, line)) is not None:
        return why
    for log, entry in line.logs.items():
        if log in ledger.logs.over:  # it may have counted until the cut in force was, not long ago everywhere
            return f"log {log} is over"
        if entry.head.seq > past.counted.get(log, -1):
            return f"log {log} has not counted up to seq {entry.head.seq} lately"
    # Whether one is settled its author knows: a younger one may have been shown since.
    began = _began(ledger, line.logs)
    if len(chosen(line.logs.values(), line.electorate, began, in_force.logs, line.logs)) < len(line.logs):
        return "it names more logs of a hotkey than a cut has room for"
    # Nothing that was shown since, and nothing that has ended since, makes it have to name what it need not have named:
    # what it names takes room here, too, though that may have gone meanwhile; and so does what had no name in it of a
    # hotkey that has as many logs as may count since.
    mine = {each.log: each for each in older(ledger, line.electorate, counted=past.counted, crowded=())}
    either: dict[LogId, OfHotkey] = {**line.logs, **mine}
    began |= _began(ledger, either.keys() - began.keys())
    settled = _settled(ledger, either, began)
    room = [each.log for each in chosen(either.values(), line.electorate, began, in_force.logs, settled)]
    for each in older(ledger, line.electorate, past.held, _sure(ledger), logs=room):
        there = line.logs.get(each.log)
        if each.seq > (-1 if there is None else there.head.seq) and _entry(ledger, each) is not None:
            return f"it leaves out seq {each.seq} of log {each.log}, which is older than the horizon"
    return None
