"""``p2pnodes db verify``: is the database what its own log says it must be?"""

import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model.branches import Ends, ended_log
from p2pnodes.model.checkpoint import judge_kept
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError, StoreError
from p2pnodes.model.events import Close, Delegation, Event, Evidence, Head, LogId
from p2pnodes.model.network import Network
from p2pnodes.model.stateroot import state_root
from p2pnodes.model.validity import EMPTY, Prefix, check_close, check_evidence, judge
from p2pnodes.store.checkpoints import Checkpoints, Stage, live_set_damage
from p2pnodes.store.copying import copy_database
from p2pnodes.store.ledger import Ledger, stored_network
from p2pnodes.store.rebuild import PROBLEMS_MAX, Progress, as_text, differences, drop_untyped, finish_cut, hold
from p2pnodes.store.schema import TEMPORARY, is_of_the_disk, migrate, open_writer


class AuditReport(NamedTuple):
    """What was checked and what was found.

    Attributes:
        logs: Logs checked.
        events: Events checked: chain, signature, and whether they are judged as this build judges them.
        rows: Inventory rows compared with a rebuild.
        state_root: Of the rebuild, hex.
        problems: One line each, at most PROBLEMS_MAX; empty when all is well.
    """

    logs: int
    events: int
    rows: int
    state_root: str
    problems: list[str]


def audit(path: Path, network: Network, progress: Progress | None = None) -> AuditReport:
    """Check a database without changing it; the daemon may run meanwhile.

    What is checked is a copy, as this build would open it: one of an older build is migrated and derived first.

    Args:
        path: The SQLite file.
        network: Its parameters.
        progress: If given, called now and then with what is being done, how much of it is done, and of how much.

    Raises:
        StoreError: No such file, not a database, or its copy cannot be kept.
    """
    copy = open_writer("", as_it_is=True)  # a temporary file: memory stays bounded by SQLite's cache
    try:
        copy_database(path, copy)
    except BaseException:
        copy.close()
        raise
    copy.text_factory = as_text
    problems: list[str] = []
    logs, events, rows, root = 0, 0, 0, ""
    try:
        (integrity,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if integrity != "ok":
            problems.append(f"SQLite finds the file damaged: {integrity}")
        migrate(copy)
        if (held := stored_network(copy)) not in {None, network.id}:  # else each of its events would be told
            raise StoreError(
                f"{path} is of network {held.hex()}, the settings say {network.id.hex()}: use that network's "
                "configuration",
                code=Code.DATA_OTHER_NETWORK,
            )
        problems += drop_untyped(copy)
        try:
            finish_cut(Ledger(copy, network))
        except (sqlite3.Error, P2PNodesError) as error:  # what keeps it from that is told below
            if is_of_the_disk(error):
                raise
        events = _check_logs(copy, network, problems, progress)
        if (wrong := live_set_damage(copy, network)) is not None:
            problems.append(wrong)
        _check_ends(copy, network, problems)
        _check_claims(copy, problems)
        logs, rows, root = _check_rows(copy, network, problems, progress)
    except (sqlite3.Error, P2PNodesError) as error:
        if is_of_the_disk(error):  # where the copy is: it says nothing of the database
            raise StoreError(
                f"{path}: cannot be checked: {error}; make room in {TEMPORARY}, or check its disk",
                code=Code.DATA_DISK_LOW,
            ) from error
        problems.append(f"the check could not go on: {error}")
    finally:
        copy.close()
    return AuditReport(logs, events, rows, root, problems[:PROBLEMS_MAX])


def _check_logs(copy: sqlite3.Connection, network: Network, problems: list[str], progress: Progress | None) -> int:
    (total,) = copy.execute("SELECT count(*) FROM events").fetchone()
    checkpoints = Checkpoints(copy, network)
    done = 0
    logs = copy.execute("SELECT log, node_key, number, hotkey, cut IS 0 FROM logs").fetchall()
    for key, node_key, number, hotkey, counts_nothing in logs:
        log = LogId(node_key, number)
        entry = checkpoints.line.logs.get(log)
        cut = -1 if entry is None else entry.head.seq
        head, prefix = None if entry is None else entry.head, EMPTY
        query = "SELECT seq, id, hlc, kind, judged, void, hlc_max, wire FROM events WHERE log = ? ORDER BY seq"
        for seq, event_id, hlc, kind, judged, void, hlc_max, wire in copy.execute(query, (key,)):
            done += 1
            if progress and done % 1000 == 0:
                progress("checking events", done, total)
            where = f"log {key}, seq {seq}"
            try:
                event = Event.decode(wire)
            except P2PNodesError as error:
                problems.append(f"{where}: does not decode: {error}")
                continue
            wrongs = [
                (event.id != event_id or event.seq != seq, "the row names another event than its bytes"),
                ((event.hlc, event.kind) != (hlc, kind), "the row names another HLC or kind than its bytes"),
                (event.log != log, "is of another log than the log's row says"),
                (event.network_id != network.id, "is of another network"),
                (not event.signed(), "its signature does not hold"),
            ]
            if counts_nothing and seq != (head.seq + 1 if head else 0):
                continue  # of a log that was cut once and is over: what it stood behind is gone
            if seq <= cut:
                kept = checkpoints.is_kept(key, seq)
                judgement = judge_kept(event)
                stated = kept or checkpoints.stage is Stage.LOADING  # of half of a live set, see ``Ledger.rebuild``
                if stated and judgement.prefix.delegation is not None and isinstance(judgement.payload, Delegation):
                    prefix = Prefix(judgement.payload, -1)
                wrongs += [
                    (not kept and checkpoints.stage is Stage.DONE, "the checkpoint in force left it out"),
                    (kept and (bool(judged), void) != (judgement.judged, judgement.void), "was judged otherwise"),
                ]
            else:
                if entry is not None and head == entry.head:
                    prefix = Prefix(prefix.delegation, entry.hlc)
                judgement = judge(event, prefix)
                prefix = judgement.prefix
                expected = head.seq + 1 if head else 0
                wrongs += [
                    (event.seq != expected, f"seq {expected} is missing"),
                    (event.previous != (head.id if head else b""), "does not continue the event before it"),
                    ((bool(judged), void) != (judgement.judged, judgement.void), "was judged otherwise"),
                    (hlc_max != prefix.hlc, "the row names another HLC as the highest so far"),
                ]
                head = Head(event.seq, event.id)
            if prefix.delegation is not None and prefix.delegation.hotkey != hotkey:
                wrongs.append((True, "speaks for another hotkey than the log's row says"))
            problems += [f"{where}: {what}" for wrong, what in wrongs if wrong]
    if progress:
        progress("checking events", done, total)
    return done


_NOT_CARRIED: Final = (
    "SELECT count(*) FROM claim c WHERE miner NOTNULL AND NOT EXISTS (SELECT 1 FROM events e"
    " JOIN carriage r USING (log, seq) WHERE e.position = c.position AND r.claim = c.claim)"
)
"""How many claims name an event that does not carry them: any of those that do will do, so rows need not differ."""


def _check_claims(copy: sqlite3.Connection, problems: list[str]) -> None:
    """Check that each claim can be read from the event that it names."""
    (claims,) = copy.execute(_NOT_CARRIED).fetchone()
    if claims:
        problems.append(f"claim: {claims} rows name an event that does not carry the claim")


def _check_ends(copy: sqlite3.Connection, network: Network, problems: list[str]) -> None:
    """Check that every proof of a log's end proves it."""
    query = "SELECT node_key, number, seq, first, first_signature, second, second_signature FROM fork"
    for node_key, number, seq, *proof in copy.execute(query):
        log = LogId(node_key, number)
        evidence = Evidence(*proof)
        if not check_evidence(network.id, evidence) or Ends(evidence).fork != seq or ended_log(evidence) != log:
            problems.append(f"log {log}: what is held as the proof of its fork at seq {seq} proves nothing")
    for node_key, number, hotkey, *head, signature in copy.execute(
        "SELECT node_key, number, hotkey, seq, id, signature FROM closing"
    ):
        log = LogId(node_key, number)
        close = Close(log, None if head[0] is None else Head(*head), hotkey, signature)
        if not check_close(network.id, close):
            problems.append(f"log {log}: what is held as its closing does not carry its hotkey's signature")


def _check_rows(
    copy: sqlite3.Connection, network: Network, problems: list[str], progress: Progress | None
) -> tuple[int, int, str]:
    """Rebuild every derived table and compare."""
    hold(copy)
    ledger = Ledger(copy, network)
    for log, state in ledger.state.logs.items():
        cut = ledger.cut_of(state)
        if cut != state.cut:
            problems.append(f"log {log}: is cut at seq {state.cut}, its ends say {cut}")
    held_root = ledger.state.state_root
    problems += differences(ledger, progress)
    root = state_root(ledger.rows())
    if root != held_root or root != ledger.state.state_root:
        problems.append(f"the state root is {held_root.hex()}, a rebuild gives {root.hex()}")
    return len(ledger.state.logs), ledger.state.nodes, root.hex()
