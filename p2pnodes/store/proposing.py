"""Which cut a daemon would make, and whether it may sign one that somebody proposes."""

from collections.abc import Collection, Mapping

from p2pnodes.model.checkpoint import Certified, Line, chosen, due_number, horizon_of
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.events import PINS_BYTES_MAX, CutLog, Head, LogId, Propose
from p2pnodes.store.ledger import Ledger, LogState


def proposal(ledger: Ledger) -> Propose | None:
    """What this daemon would propose under the electorate in force; None while nothing is older than the horizon.

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
    logs = cut_of(ledger, electorate)
    if not logs:
        return None
    number = due_number(ledger.network, electorate)
    return Propose(number, ledger.checkpoints.line.proposal, electorate.canonical, logs)


def cut_of(ledger: Ledger, electorate: Electorate) -> tuple[CutLog, ...]:
    """The cut of what is held here: of each log as far as its events are older than the horizon and count."""
    horizon_hlc = hlc_at(max(0, horizon_of(ledger.network, electorate)))
    found: list[CutLog] = []
    for state in ledger.logs.values():
        before = ledger.checkpoints.line.logs.get(state.id)
        # What a hotkey without a permit said does not count, but whoever joins later must be able to go on from there.
        entry = _entry(ledger, state, horizon_hlc, before) if electorate.permitted(state.hotkey) else before
        if entry is not None and not _is_over(ledger, state, electorate):
            found.append(entry)
    return chosen(found, electorate, ledger.checkpoints.line.logs)


def _is_over(ledger: Ledger, state: LogState, electorate: Electorate) -> bool:
    """Whether a cut need not name a log any more that the one in force names.

    Its first delegation has ended before the horizon, so that it counts for nothing then (``checkpoint.is_over``), and
    so has its last one; of what it said nothing is in the live set; and its hotkey has no permit, or another log there
    of which this is not so, by which it stays known. Else the list of logs would grow for ever.
    """
    named, horizon_ms = ledger.checkpoints.line.logs, horizon_of(ledger.network, electorate)
    if state.id not in named or not _has_ended(ledger, state, horizon_ms):
        return False
    known = not electorate.permitted(state.hotkey) or any(
        entry.hotkey == state.hotkey and not _has_ended(ledger, ledger.logs[entry.log], horizon_ms)
        for entry in named.values()
    )
    return known and not ledger.checkpoints.keeps_of(state.key)


def _has_ended(ledger: Ledger, state: LogState, horizon_ms: int) -> bool:
    return max(ledger.facts.delegations_ended(state.key)) < horizon_ms


def _entry(ledger: Ledger, state: LogState, horizon_hlc: int, before: CutLog | None) -> CutLog | None:
    """How far a log is older than the horizon."""
    low = -1 if before is None else before.head.seq
    high = -1 if state.counted is None else state.counted.seq
    facts = ledger.facts
    while low < high:  # HLCs rise along a log
        middle = (low + high + 1) // 2
        if facts.highest_hlc(state.key, middle) < horizon_hlc:
            low = middle
        else:
            high = middle - 1
    if before is not None and low <= before.head.seq:
        return before
    return None if low < 0 else entry_at(ledger, state, low)


def entry_at(ledger: Ledger, state: LogState, seq: int) -> CutLog | None:
    """What a cut says that goes in a log up to a seq; None where that event is not here."""
    facts = ledger.facts
    event_id = facts.stored_id(state.key, seq)
    window = facts.window(state.key, seq)
    if event_id is None or window is None:
        return None
    return CutLog(state.id, state.hotkey, Head(seq, event_id), facts.highest_hlc(state.key, seq), *window)


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
    """Why the live set below a line cannot be found here; None if it can."""
    for log, entry in line.logs.items():
        state = ledger.logs.get(log)
        before = ledger.checkpoints.line.logs.get(log)
        if state is None or state.counted is None or state.counted.seq < entry.head.seq:
            return f"log {log} is not here up to seq {entry.head.seq}, or does not count"
        if before is not None and entry.head.seq <= before.head.seq:
            held: CutLog | None = before
        else:
            held = entry_at(ledger, state, entry.head.seq)
        if held != entry:
            return f"log {log} is another one here at seq {entry.head.seq}"
    return None


def refusal(
    ledger: Ledger, proposed: Propose, line: Line, electorates: Collection[bytes], held: Mapping[LogId, int]
) -> str | None:
    """Why this daemon must not sign a proposal, or not yet; None if it may.

    Args:
        ledger: What is here.
        proposed: The proposal.
        line: What it draws.
        electorates: Digests of those that were in force here lately.
        held: Last seq of each log that has been here for some time: a cut that leaves out what counts and is older than
            the horizon would lose it.
    """
    in_force = ledger.checkpoints.line
    if line.number <= in_force.number or proposed.previous != in_force.proposal:
        return f"it follows another checkpoint than {in_force.number or 'none'}, which is in force here"
    if line.electorate is None or line.electorate.digest not in electorates:
        return "its electorate was not in force here lately"
    if (why := objection(ledger, line)) is not None:
        return why
    for entry in cut_of(ledger, line.electorate):
        least = min(entry.head.seq, held.get(entry.log, -1))
        there = line.logs.get(entry.log)
        if least > (-1 if there is None else there.head.seq):
            return f"it leaves out seq {least} of log {entry.log}, which is older than the horizon"
    return None
