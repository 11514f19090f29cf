"""The rules of design.md, each broken on purpose, and how soon a checker of the simulator notices.

``python -m tests.sim.mutants`` breaks one line at a time, runs seeds 1, 2, 3 ... until a checker fails, and prints a
table; with ``--write`` it becomes MUTANTS.md. A mutant that no checker notices is a hole in the checkers.

``mutation`` has the tool. Mutants that bend the inventory function are listed with the scenarios in
``test_scenarios``, those of parts that a simulated network hardly ever comes to need in ``parts``; they are hunted
here, too.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from p2pnodes.gossip import ownlog
from p2pnodes.gossip.backoff import Backoffs
from p2pnodes.gossip.bans import Bans
from p2pnodes.gossip.effects import Outbox
from p2pnodes.gossip.engine import Engine
from p2pnodes.gossip.fetch import Fetch
from p2pnodes.gossip.intake import Intake
from p2pnodes.gossip.pace import Pace
from p2pnodes.gossip.proving import Proving
from p2pnodes.gossip.push import Push
from p2pnodes.gossip.search import Searches
from p2pnodes.gossip.sync import Sync
from p2pnodes.gossip.view import View
from p2pnodes.model import checkpoint, inventory, validity
from p2pnodes.model.branches import Ends
from p2pnodes.model.clock import HybridClock
from p2pnodes.store import admission, ends, proposing
from p2pnodes.store.checkpoints import Checkpoints
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.liveset import LiveSet
from p2pnodes.store.logs import Logs
from p2pnodes.store.statements import Statements
from p2pnodes.store.upkeep import Upkeep
from tests.sim import stories
from tests.sim.mutation import Drawn, Edit, Found, Mutant, Played, Swap, UnitTests, hunt
from tests.sim.parts import MUTANTS as PARTS
from tests.sim.peer import SimPeer
from tests.sim.test_scenarios import MUTANTS as BENT

TABLE: Final = Path(__file__).with_name("MUTANTS.md")

RULES: Final = {
    "1": "State is a function of the set",
    "2": "A retry is free",
    "3": "An acknowledged write is durable and valid",
    "4": "A daemon never forks its own log",
    "5": "A fork is proved and harmless",
    "6": "Everything is bounded",
    "7": "Nothing acknowledged is lost, nothing half-applied is seen",
    "8": "Clocks are suspects",
    "valid": "Stored, valid, counted",
    "row": "How one GPU's row is decided",
    "tree": "Push",
    "view": "Membership and the active view",
    "sync": "Anti-entropy",
    "cut": "Checkpoints",
}
"""What design.md demands: its rules by number, and its sections."""

CALM: Final = Drawn(())
ANY: Final = Drawn()
LIARS: Final = Drawn(("fork", "backdate", "withhold", "flip", "replay", "split", "hostile"))
SMALL: Final = Drawn(("loss", "crash", "partition"), tight=True)

RESTORED: Final = Drawn(("restore", "partition", "delay"), minutes=2.0)
FORKED: Final = Drawn(("fork", "crash", "partition"), minutes=2.0)
CALM_TREE: Final = Drawn((), peers=16, view=4, late_ms=3_000, copies_max=1.8)
SMALL_TREE: Final = Drawn((), peers=16, view=4, tight=True)
SLOW_LINE: Final = Drawn((), tight=True, turn=stories.slow_line)
SLOW_DISK: Final = Drawn((), tight=True, turn=stories.slow_disk)
ANNOUNCED: Final = Drawn(("backdate",), peers=16, view=4, late_ms=7_000, turn=stories.announcers)
TORN_TREE: Final = Drawn(("reset",), peers=16, view=4, pace_ms=600_000, begins_ms=15_000)
"""Sessions break, and nobody compares itself with others: what the tree loses by it, it must mend by itself."""

ANY_WEIGHT: Final = Edit(Checkpoints, "_weighty", "> sum(stakes.values())", "> 0")
"""Signatures are looked at whatever stake has signed: a liar has too little to be read otherwise."""

_commit, _crash = SimPeer._commit, SimPeer.crash


def _unsynced_commit(peer: SimPeer) -> None:
    """Commit without waiting for the disk: what it holds until the next commit is the state before this one."""
    vars(peer)["unsynced"] = peer.copy_disk()
    _commit(peer)


def _power_cut(peer: SimPeer) -> None:
    """Lose what was not synced."""
    _crash(peer)
    if (unsynced := vars(peer).pop("unsynced", None)) is not None:
        peer.restore(*unsynced)


# -- the rules ---------------------------------------------------------------------------------------------------------

_OWN: Final = (
    Mutant(
        "touched-gpus-forgotten",
        "1",
        "A registration is recorded, and the rows of its GPUs are not recomputed",
        (Edit(Statements, "_record_add", "self._unsettled.uuids |= dict.fromkeys(uuids)", "pass"),),
        CALM,
    ),
    Mutant(
        "verdict-moves-nothing",
        "1",
        "A verdict is recorded, and its claim is not counted again",
        (Edit(Statements, "_record_word", "self._unsettled.claims.add(key)", "pass"),),
        CALM,
    ),
    Mutant(
        "delete-moves-nothing",
        "1",
        "A deletion is recorded, and the row of its GPU is not recomputed",
        (Edit(Statements, "_record_delete", "dict.fromkeys((payload.uuid, *named))", "dict.fromkeys(named)"),),
        CALM,
    ),
    Mutant(
        "electorate-moves-nothing",
        "1",
        "Rows are not recomputed under a new electorate",
        (
            Edit(
                Ledger,
                "set_electorate",
                "self._unsettled.reweighed |= electorate.digest != held.digest",
                "pass",
            ),
        ),
        Drawn(("permit",)),
    ),
    Mutant(
        "claims-in-order-of-arrival",
        "1",
        "Standing claims are ordered as they arrived",
        (
            Edit(
                inventory,
                "standing",
                "return sorted(alive, key=lambda claim: claim.stamp)",
                "return list(alive)",
            ),
        ),
        ANY,
    ),
    Mutant(
        "first-carriage-dates",
        "1",
        "A row is as old as the registration that arrived first, not as the oldest one",
        (
            Edit(
                inventory,
                "decide",
                "min(carriage.hlc for carriage in counted_carriages(winner, weights.electorate))",
                "counted_carriages(winner, weights.electorate)[0].hlc",
            ),
        ),
        ANY,
    ),
    Mutant(
        "retry-is-new",
        "2",
        "A registration that is recorded already is treated like a new one",
        (
            Edit(
                admission,
                "admit_add",
                "if key is not None and known is not None and inventory.counts(known, weights.electorate):",
                "if False:",
            ),
        ),
        CALM,
    ),
    Mutant(
        "delete-retry-refused",
        "2",
        "The same deletion once more is taken for a signature that is used for a second GPU",
        (Edit(admission, "admit_delete", "if uuid in named:", "if False:"),),
        CALM,
    ),
    Mutant(
        "own-events-unchecked",
        "3",
        "An own event is written without a look at its validity, and the clock gives one timestamp twice",
        (
            Edit(Ledger, "_write", "if judgement.void is not None:", "if False:"),
            Edit(HybridClock, "tick", "max(self.latest + 1, hlc_at(now_ms))", "hlc_at(now_ms)"),
        ),
        CALM,
    ),
    Mutant(
        "answered-before-the-sync",
        "3",
        "A write is answered and sent before the disk has it",
        (Swap(SimPeer, "_commit", _unsynced_commit), Swap(SimPeer, "crash", _power_cut)),
        Drawn(("crash",), peers=4, minutes=2.0),
        20,
    ),
    Mutant(
        "head-not-heard",
        "4",
        "A daemon that starts goes on with its log at once",
        (
            Edit(
                ownlog,
                "hear",
                "total = sum(others.values())",
                "return Hearing(Step.GO_ON, 'unheard')",
            ),
        ),
        RESTORED,
        40,
    ),
    Mutant(
        "forked-log-goes-on",
        "4",
        "A daemon goes on with its log though it was shown an event in it that it did not write",
        (
            Edit(Ledger, "_receive", "if event.log == self.own_log:", "if False:"),
            Edit(Ledger, "_fork", "if event.log == self.own_log:", "if False:"),
            Edit(Ledger, "_take_end", "if log == self.own_log:", "if False:"),
        ),
        Played("cloned-disk"),
    ),
    Mutant(
        "evidence-kept-to-oneself",
        "5",
        "Who knows of the end of a log does not tell",
        (Edit(Proving, "tell", "if session.behind:", "if True:"),),
        Played("branches-for-two-sides"),
        20,
    ),
    Mutant(
        "evidence-forgotten",
        "5",
        "A proof of a fork is not written down",
        (
            Edit(
                ends,
                "keep",
                "return connection.execute(_KEEP_FORK, values).fetchone() is not None",
                "return True",
            ),
        ),
        FORKED,
        20,
    ),
    Mutant(
        "no-search",
        "5",
        "Peers with different branches of a log do not look for the point where they part",
        (Edit(Searches, "begin", "if log in session.searches or log in session.searched:", "if True:"),),
        Played("branches-for-two-sides"),
    ),
    Mutant(
        "highest-fork-counts",
        "5",
        "Of two forks of one log the higher one counts",
        (Edit(Ends, "merged", "evidence = min(", "evidence = max("),),
        FORKED,
        20,
    ),
    Mutant(
        "cut-leaves-words",
        "5",
        "What lies above a fork was said, and is not taken back",
        (
            Edit(
                Ledger,
                "_follow_cut",
                "before = self._statements.take_back(state.key, after, before, self._moves)",
                "before = after",
            ),
        ),
        Played("branches-for-two-sides"),
    ),
    Mutant(
        "evidence-unchecked",
        "5",
        "Evidence counts without a look at its signatures",
        (Edit(Ledger, "_proves", "return check_evidence(self.network.id, proof)", "return True"),),
        LIARS,
        20,
    ),
    Mutant(
        "skew-accepted",
        "6",
        "Events from the future are stored",
        (Edit(Ledger, "_receive", "if hlc_ms(event.hlc) > now_ms + SKEW_AHEAD_MS_MAX:", "if False:"),),
        Played("clock-jumped-ahead"),
        20,
    ),
    Mutant(
        "seen-unbounded",
        "6",
        "What was stored is remembered for ever",
        (Edit(Intake, "_remember", "if len(self._seen) > SEEN_MAX:", "if False:"),),
        SMALL,
        20,
    ),
    Mutant(
        "backoffs-unbounded",
        "6",
        "Every log that was refused is remembered",
        (Edit(Backoffs, "_set", "if len(self._pauses) > BACKOFFS_MAX:", "if False:"),),
        Drawn(("fork", "backdate", "flip", "permit"), tight=True),
        20,
    ),
    Mutant(
        "hostile-goes-on",
        "6",
        "Who breaks the protocol keeps its session",
        (Edit(Engine, "received", "self._close(found, error.reason(), BAN_S, offence)", "pass"),),
        LIARS,
        20,
    ),
    Mutant(
        "forgotten-delete",
        "7",
        "A deletion is answered, and not written",
        (
            Edit(
                admission,
                "admit_delete",
                "ledger.append(lambda _: DeletePayload(request, uuid, claim_ids), now_ms)",
                "pass",
            ),
        ),
        CALM,
    ),
    Mutant(
        "refused-is-seen",
        "7",
        "An event that was refused is taken for known from then on",
        (Edit(Intake, "settle", "self._seen.pop(key, None)", "pass"),),
        ANY,
        20,
    ),
    Mutant(
        "undo-leaves-memory",
        "7",
        "When a transaction fails, what is in memory stays as it would have become",
        (
            Edit(
                Ledger,
                "transaction",
                "self._load()\n            self.settled = True",
                "self._stale = False\n            self.settled = True",
            ),
        ),
        Drawn(("disk-full",)),
        20,
    ),
    Mutant(
        "root-left-behind",
        "7",
        "The state root is not brought in step with the rows",
        (
            Edit(
                Upkeep,
                "_settle_rows",
                "buckets.change(self._connection, self._held, sorted(changed))",
                "pass",
            ),
        ),
        CALM,
    ),
    Mutant(
        "before-the-parent",
        "7",
        "An event is stored though the one before it is missing",
        (
            Edit(Ledger, "_receive", "(state is not None and event.seq > state.head.seq + 1)", "False"),
            Edit(Ledger, "_receive", "if state is not None and event.previous != state.head.id:", "if False:"),
            Edit(
                Intake,
                "_arrange",
                "elif seq > following or not self.may_follow(log, session.id) or self._gaps.has(log, seq):",
                "elif False:",
            ),
        ),
        ANY,
        20,
    ),
    Mutant(
        "bad-events-kept",
        "8",
        "A daemon whose clock ran ahead keeps its log when the clock is right again",
        (Edit(ownlog, "ran_ahead", "return sorted(found)", "return []"),),
        Played("clock-jumped-ahead"),
    ),
    Mutant(
        "clock-right-by-itself",
        "8",
        "A daemon takes its clock for right though nobody else says what the time is",
        (Edit(ownlog, "ran_ahead", "offset_ms is None and", "False and"),),
        Played("clock-is-set-back"),
    ),
    Mutant(
        "logs-ahead",
        "8",
        "A log is opened with events that lie too far ahead",
        (Edit(Ledger, "open_log", "self._require_time(now_ms)", "pass"),),
        Played("two-clocks-jumped-ahead"),
    ),
    Mutant(
        "ahead-with-others",
        "8",
        "A daemon that cannot open a log does not close its own either, for which another one may wait",
        (Edit(ownlog, "stays_ahead", "return any", "return False and any"),),
        Played("two-clocks-jumped-ahead"),
    ),
    Mutant(
        "void-holds-the-clock",
        "8",
        "What is void still holds the logical clock ahead",
        (Edit(Ledger, "_set_clock_back", "self.clock.latest = max(0, latest)", "pass"),),
        Played("clock-jumped-ahead"),
    ),
    Mutant(
        "clock-off-ignored",
        "8",
        "A daemon whose clock differs from its peers' goes on writing",
        (
            Edit(
                Engine, "clock_offset_ms", "return round(median(offsets.values())) if offsets else None", "return None"
            ),
        ),
        Played("clock-is-off"),
    ),
    Mutant(
        "unsigned-events-stored",
        "valid",
        "Events are stored without a look at their signatures",
        (
            Edit(Ledger, "_receive", "if not event.signed():", "if False:"),
            Edit(Ledger, "_known_or_fork", "if not event.signed():", "if False:"),
        ),
        LIARS,
        20,
    ),
    Mutant(
        "unsigned-requests-valid",
        "valid",
        "A request is valid without its miner's signature",
        (Edit(validity, "_request", "if not verify_request(request):", "if False:"),),
        LIARS,
        20,
    ),
    Mutant(
        "any-gpu-deleted",
        "valid",
        "A deletion that is signed for one GPU is good for another one",
        (Edit(validity, "_delete", "if purpose not in (PURPOSE_DELETE, bound_purpose(payload.uuid)):", "if False:"),),
        LIARS,
        20,
    ),
    Mutant(
        "carried-unsigned",
        "valid",
        "What is carried counts without a look at its author's signature",
        (
            Edit(
                validity,
                "_carry",
                "if inner.network_id != event.network_id or not inner.signed():",
                "if inner.network_id != event.network_id:",
            ),
        ),
        Drawn(("replay",), minutes=2.0),
        30,
    ),
    Mutant(
        "timestamps-go-back",
        "valid",
        "An event is valid though its timestamp lies below an earlier one's in its log",
        (Edit(validity, "judge", "if event.hlc <= prefix.hlc:", "if False:"),),
        Drawn(("backdate",)),
        20,
    ),
    Mutant(
        "window-ignored",
        "valid",
        "An event is valid outside the window of its log's delegation",
        (
            Edit(
                validity,
                "_within",
                "if not delegation.not_before * 1000 <= hlc_ms(event.hlc) <= delegation.not_after * 1000:",
                "if False:",
            ),
        ),
        Drawn(("backdate",)),
        20,
    ),
    Mutant(
        "since-tomorrow",
        "valid",
        "A verdict may say that it began after it was given",
        (
            Edit(
                validity,
                "_content",
                "if payload.since is not None and payload.since > event.hlc:",
                "if False:",
            ),
        ),
        Drawn(("backdate",)),
        20,
    ),
    Mutant(
        "unpermitted-counts",
        "valid",
        "What an author said counts without its permit",
        (
            Edit(
                inventory,
                "carriage_objection",
                "return None if electorate.permitted(carriage.author) else Objection.NOT_PERMITTED",
                "return None",
            ),
        ),
        Played("validator-loses-its-permit"),
    ),
    Mutant(
        "future-electorate-counts",
        "valid",
        "A registration counts that names an electorate which has not come yet",
        (
            Edit(
                inventory,
                "carriage_objection",
                "if carriage.electorate_block > electorate.block:",
                "if False:",
            ),
        ),
        Played("registration-ahead-of-the-chain"),
    ),
    Mutant(
        "vote-counted-twice",
        "row",
        "Who says verified has twice its stake",
        (Edit(inventory, "weigh", "verified += enrolled[author]", "verified += 2 * enrolled[author]"),),
        Played("one-of-four-lies"),
    ),
    Mutant(
        "last-heard-vote-counts",
        "row",
        "Of a validator's verdicts the one counts that was heard last",
        (Edit(inventory, "latest_votes", "if held is None or _vote_order(vote) > _vote_order(held):", "if True:"),),
        Drawn(("flip", "crash"), minutes=2.0),
        20,
    ),
    Mutant(
        "delete-is-for-ever",
        "row",
        "A deletion ends also what its miner registers later on",
        (Edit(inventory.Ending, "ends", "claim.nonce < self.nonce", "claim.nonce != self.nonce"),),
        ANY,
        20,
    ),
    Mutant(
        "nothing-pushed",
        "tree",
        "Events are not pushed, only found by anti-entropy",
        (Edit(Push, "push", "if not events:", "if True:"),),
        CALM_TREE,
    ),
    Mutant(
        "never-pruned",
        "tree",
        "Links stay eager however often events come sooner from elsewhere",
        (Edit(Push, "came", "session.late += late", "return"),),
        CALM_TREE,
    ),
    Mutant(
        "pushed-back",
        "tree",
        "Events are pushed to who is known to hold them, too",
        (
            Edit(
                Push,
                "push",
                "if known.get(event.log, -1) < event.seq and ahead.get(event.log, -1) < event.seq",
                "if True",
            ),
        ),
        CALM_TREE,
    ),
    Mutant(
        "never-grafted",
        "tree",
        "What was announced and does not come is waited for",
        (Edit(Push, "tick", "self._graft_due(state)", "pass"),),
        TORN_TREE,
        10,
    ),
    Mutant(
        "never-announced",
        "tree",
        "Lazy links are told nothing",
        (
            Edit(
                Push,
                "_announce",
                "self._outbox.send(session, Have(news[start : start + HAVES_PER_FRAME_MAX]).encode())",
                "pass",
            ),
        ),
        TORN_TREE,
        10,
    ),
    Mutant(
        "pruned-at-one-end",
        "tree",
        "A link is made lazy or eager without a word to the other end",
        (Edit(Push, "_say", "self._outbox.send(session, Link(Mode.EVENTS if eager else Mode.NEWS).encode())", "pass"),),
        CALM_TREE,
        10,
    ),
    Mutant(
        "no-ring",
        "view",
        "Links are only drawn at random, with nobody next to anybody",
        (
            Edit(View, "_nearest", "for side in SIDES:", "for side in ():"),
            Edit(View, "_is_nearest", "for side in SIDES:", "for side in ():"),
        ),
        Drawn((), peers=16, view=3),
        20,
    ),
    Mutant(
        "claims-untold",
        "view",
        "Who takes a peer into its view does not tell it",
        (Edit(View, "_claim", "self._outbox.send(session, Link(Mode.EVENTS).encode())", "pass"),),
        CALM_TREE,
    ),
    Mutant(
        "no-digests",
        "sync",
        "Nobody is asked whether anything differs",
        (
            Edit(Sync, "tick", "if session.digest_due:", "if False:"),
            Edit(Pace, "due", "if self._time.ms < self._next_ms:", "if True:"),
        ),
        SMALL_TREE,
        30,
    ),
    Mutant(
        "all-equal",
        "sync",
        "Digests that differ are taken for equal",
        (Edit(Sync, "digest", "if digest.vector == state.vector_digest:", "if True:"),),
        ANY,
    ),
    Mutant(
        "promises-are-waited-for",
        "sync",
        "What a peer holds and does not send is wanted from nobody else",
        (
            Edit(Fetch, "_late", "if waited_ms > WANT_MS_MAX:", "if False:"),
            Edit(Fetch, "_late", "if waited_ms > SILENT_MS_MAX:", "if False:"),
            Edit(Fetch, "announced", "self._leave_to_others(log, seq, state)", "pass"),
        ),
        ANNOUNCED,
        10,
    ),
    Mutant(
        "fetch-dies-with-its-session",
        "sync",
        "What a session was asked for is wanted from nobody else when it ends",
        (Edit(Fetch, "closed", "self._give_up(session, log, first_seq, wanted)", "pass"),),
        ANY,
        20,
    ),
    Mutant(
        "slices-alike",
        "sync",
        "Slices that differ are taken for equal",
        (Edit(Sync, "slices", "if theirs != state.slices[number]", "if False"),),
        ANY,
    ),
    Mutant(
        "vector-stale",
        "sync",
        "The version vector is not brought in step with what was stored",
        (Edit(Logs, "keep", "self.changed.add(state.id)", "pass"),),
        ANY,
    ),
    Mutant(
        "credit-unbounded",
        "6",
        "As much is wanted at once as peers have",
        (Edit(Fetch, "_credit", "size_bytes = min(most, room, share)", "size_bytes = most"),),
        SMALL,
        20,
    ),
    Mutant(
        "gaps-forgotten",
        "7",
        "What waited for the event before it is forgotten when that comes",
        (Edit(Fetch, "go_on", "for log in list(self._turns):", "for log in ():"),),
        ANY,
        20,
    ),
    Mutant(
        "contradiction-ignored",
        "4",
        "A daemon goes on with its log though peers say that they hold more of it",
        (Edit(ownlog, "hear", "if against:", "if False:"),),
        Drawn((), peers=5, minutes=2.0, tight=True, turn=stories.backup_returns),
        20,
    ),
    Mutant(
        "one-voice-is-enough",
        "4",
        "A daemon goes on with its log as soon as one peer has told what it holds of it",
        (Edit(ownlog, "hear", "if 2 * heard > total or total == 0:", "if heard or total == 0:"),),
        Drawn((), peers=5, minutes=2.0, tight=True, turn=stories.backup_meets_a_laggard),
        20,
    ),
    Mutant(
        "send-queue-unbounded",
        "6",
        "Who reads slowly is sent everything all the same",
        (
            Edit(
                Outbox,
                "send",
                "if session.queue_bytes > QUEUE_BYTES_MAX and not session.behind:",
                "if False:",
            ),
        ),
        SLOW_LINE,
    ),
    Mutant(
        "waiting-unbounded",
        "6",
        "Whatever is pushed too early waits for what is missing before it",
        (
            Edit(Intake, "_has_room", "and self._gaps.room_ahead_bytes >= size", "and True"),
            Edit(Intake, "_has_room", "and self._gaps.pushed_bytes + size <= GAP_BYTES_MAX", "and True"),
            Edit(Intake, "_has_room", "and self._gaps.pushed_by(session.id) + size <= GAP_SHARE_BYTES_MAX", "and True"),
        ),
        SLOW_LINE,
    ),
    Mutant(
        "store-flooded",
        "6",
        "The store is handed whatever comes, however much it has to do",
        (Edit(Engine, "_accept", "self._paused or session.storing_bytes > PENDING_BYTES_MAX", "self._paused"),),
        SLOW_DISK,
    ),
    Mutant(
        "slow-is-banned",
        "6",
        "Who is slow to answer is banned like who breaks the protocol",
        (
            Edit(Fetch, "_late", "if waited_ms > SILENT_MS_MAX:", "if waited_ms > WANT_MS_MAX:"),
            Edit(Fetch, "_late", "Close(session.id, reason, 0.0)", "Close(session.id, reason, 60.0)"),
        ),
        SLOW_LINE,
    ),
    Mutant(
        "rates-ignored",
        "6",
        "A peer may say everything as often as it likes",
        (
            Edit(
                Engine,
                "_frame",
                "session.rates.spend(rate, self._time.ms, len(frame.news) if isinstance(frame, Have) else 1)",
                "pass",
            ),
        ),
        Drawn(("hostile",), turn=stories.flooded_with_links),
        20,
    ),
    Mutant(
        "authors-unbounded",
        "6",
        "All events of an author go to the store as they are pushed, however fast it writes",
        (Edit(Intake, "_is_live", "self._authors.allow(held.hotkey, event, self._time.ms)", "True"),),
        Drawn(("flip",), turn=stories.prolific_author, author_rate=stories.AUTHOR_RATE),
    ),
    Mutant(
        "bans-never-double",
        "6",
        "Who is banned again and again is refused no longer each time",
        (Edit(Bans, "add", "length_s = max(ban_s, min(2 * before.length_s, BAN_S_MAX))", "pass"),),
        Drawn(("hostile",), peers=4, minutes=5.0),
        20,
    ),
    Mutant(
        "no-random",
        "view",
        "Links are only those of the ring",
        (
            Edit(View, "_draw", "if self._takes_all:", "if True:"),
            Edit(
                View,
                "_may_take",
                "taken < self._free - self._reserved and own + taken < self._free",
                "False",
            ),
        ),
        Drawn((), peers=16, view=4, turn=stories.short_ways),
    ),
    Mutant(
        "down-is-for-ever",
        "view",
        "Who could not be dialled once is never dialled again",
        (Edit(View, "_review", "list(dict.fromkeys([*fresh, *down]))", "list(dict.fromkeys(fresh))"),),
        Drawn((), peers=12, view=5, minutes=2.6, turn=stories.long_cut),
        10,
    ),
    Mutant(
        "book-untold",
        "view",
        "Nobody is told where others are, but by their logs",
        (Edit(Engine, "_tell_book", "self._outbox.send(session, frame)", "pass"),),
        Drawn((), peers=14, view=4, turn=stories.newcomer),
    ),
    Mutant(
        "fetched-twice",
        "sync",
        "What one session is asked for is wanted from others at the same time",
        (
            Edit(
                Fetch,
                "_is_free",
                "number is None or (self._sessions[number].peer.observer and not session.peer.observer)",
                "True",
            ),
        ),
        SMALL,
        20,
    ),
    Mutant(
        "announcers-are-waited-for",
        "sync",
        "A live event that its announcer does not serve is wanted from nobody else for 10 s",
        (Edit(Fetch, "_leave_to_others", "if number is None:", "if True:"),),
        ANNOUNCED,
        10,
    ),
    Mutant(
        "prune-without-certificate",
        "cut",
        "Whatever one validator signs is in force",
        (
            Edit(
                checkpoint,
                "suffices",
                "return 3 * signed > 2 * sum(stakes.values()) and signed > network.quorum_ppm * permitted // PPM",
                "return True",
            ),
            ANY_WEIGHT,
        ),
        Played("liars-at-a-cut"),
        20,
    ),
    Mutant(
        "half-is-enough",
        "cut",
        "A quorum signs, not two thirds: of two sides of a network each has one, if a validator helps both",
        (Edit(checkpoint, "suffices", "3 * signed > 2 * sum(stakes.values()) and ", ""),),
        Played("two-sides-of-a-cut"),
        20,
    ),
    Mutant(
        "signed-twice-counts-twice",
        "cut",
        "Who signs a checkpoint several times has several times the stake",
        (
            Edit(checkpoint, "check", "set()).add(speaker.hotkey)", "[]).append(speaker.hotkey)"),
            Edit(Checkpoints, "_certify", ".setdefault(hotkey, (log, seq))", ".setdefault((hotkey, seq), (log, seq))"),
            Edit(Checkpoints, "_certify", "line, signers)", "line, [hotkey for hotkey, _ in signers])"),
            ANY_WEIGHT,
        ),
        Played("liars-at-a-cut"),
        20,
    ),
    Mutant(
        "cut-without-horizon",
        "cut",
        "A cut goes up to now",
        (Edit(checkpoint, "horizon_of", " - network.horizon_s * 1000", ""),),
        Played("logs-are-cut"),
        20,
    ),
    Mutant(
        "cut-beyond-what-is-held",
        "cut",
        "A live set is looked for below a cut that goes further in a log than what is held of it",
        (
            Edit(
                proposing,
                "objection",
                'return f"log {log} is not here up to seq {entry.head.seq}"',
                "continue",
            ),
        ),
        UnitTests("test_clerk.py"),
        1,
    ),
    Mutant(
        "cut-of-another-branch",
        "cut",
        "A cut is signed that ends in an event which is not held",
        (Edit(proposing, "objection", "if held != entry:", "if False:"),),
        Played("liars-at-a-cut"),
        20,
    ),
    Mutant(
        "cut-may-leave-out",
        "cut",
        "A cut is signed that leaves out logs, whose words are too late then",
        (
            Edit(
                proposing,
                "refusal",
                "if each.seq > (-1 if there is None else there.head.seq) and _entry(ledger, each) is not None:",
                "if False:",
            ),
        ),
        Played("liars-at-a-cut"),
        20,
    ),
    Mutant(
        "deletes-kept-by-hlc",
        "cut",
        "Deletions are kept by when they were recorded, not by their nonce",
        (
            Edit(
                LiveSet,
                "_deletions",
                "request_id, nonce FROM deletion",
                "request_id, (SELECT hlc FROM events e WHERE e.log = d.log AND e.seq = d.seq) FROM deletion d",
            ),
            Edit(LiveSet, "_deletions", "nonce >= self.line.floor_s", "nonce >= self.line.horizon_hlc"),
        ),
        Played("what-comes-late"),
        20,
    ),
    Mutant(
        "late-words-count",
        "cut",
        "What is said above a cut counts though it is older than the horizon",
        (Edit(Checkpoints, "keeps_word", "hlc >= self.line.horizon_hlc", "True"),),
        Played("what-comes-late"),
        20,
    ),
    Mutant(
        "late-claims-count",
        "cut",
        "A registration counts though deletions of its time are gone",
        (Edit(Checkpoints, "keeps_request", "nonce >= self.line.floor_s or held()", "True"),),
        Played("what-comes-late"),
        20,
    ),
    Mutant(
        "cut-leaves-rows",
        "cut",
        "What a cut takes away is not settled",
        (
            Edit(Ledger, "cut", "self._unsettled.claims |= touched.claims", "pass"),
            Edit(Ledger, "cut", "self._unsettled.uuids |= touched.uuids", "pass"),
            Edit(Ledger, "cut", "self._unsettled.placed |= touched.placed", "pass"),
        ),
        Played("what-comes-late"),
        20,
    ),
    Mutant(
        "floor-at-the-horizon",
        "cut",
        "Requests above a cut that are older than the horizon are void: what is carried there is lost",
        (
            Edit(
                checkpoint,
                "floor_of",
                "horizon_ms // 1000 - FLOOR_HORIZONS * network.horizon_s - NONCE_WINDOW_S",
                "horizon_ms // 1000",
            ),
        ),
        Played("permit-is-lost-above-a-cut"),
        20,
    ),
    Mutant(
        "unpermitted-are-left-out",
        "cut",
        "A live set lacks what only those carry who have lost their permits",
        (Edit(LiveSet, "__init__", "believing(line)", "line.electorate"),),
        Played("permit-is-lost-above-a-cut"),
        20,
    ),
    Mutant(
        "places-go-before-their-claims-come",
        "cut",
        "A live set lacks places under claims that only what lies above its cut carries",
        (Edit(LiveSet, "_awaited", "self._keep_words(claims, awaited_hlc(self.line))", "pass"),),
        Played("place-under-what-is-carried"),
        20,
    ),
    Mutant(
        "whole-events-are-kept",
        "cut",
        "Of an event that is kept all items are, also those that were deleted or released",
        (Edit(LiveSet, "_mark", "signed_mask(1 << item)", "-1"),),
        Played("half-of-an-event-is-kept"),
        20,
    ),
    Mutant(
        "fork-reopens-a-cut",
        "cut",
        "A fork that is proved below a cut takes away what a checkpoint kept",
        (
            Edit(
                Ledger,
                "cut_of",
                "max(cut, self.checkpoints.cuts.get(state.key, -1) + 1)",
                "cut",
            ),
        ),
        Played("fork-below-a-cut"),
        20,
    ),
    Mutant(
        "slices-unproved",
        "cut",
        "A slice is taken whether or not it is in the live set that was signed",
        (
            Edit(
                Ledger,
                "load",
                "if not found or not proves(path, hashed, index, statement.slices, statement.root):",
                "if not found:",
            ),
        ),
        Played("newcomer-among-forgers"),
        20,
    ),
    Mutant(
        "any-past-is-trusted",
        "cut",
        "A newcomer takes a certificate under whatever electorate it brings along",
        (Edit(checkpoint.Certified, "trusted", "return signed > quorum_ppm * total // PPM", "return True"),),
        Played("newcomer-among-forgers"),
        20,
    ),
    Mutant(
        "forgers-stay",
        "cut",
        "Who sends a forged certificate or slice keeps its session",
        (Edit(Engine, "_close_forger", "self._close(session, error.reason(), BAN_S, Offence.FORGERY)", "pass"),),
        Played("newcomer-among-forgers"),
        20,
    ),
)

_BENT_RULES: Final = {
    "unsorted": "1",
    "only_permits_end": "5",
    "first_come_first_served": "5",
    "one_too_many": "5",
    "a_close_is_a_word": "5",
    "nobody_carries": "7",
    "grace_is_for_ever": "7",
    "what_is_deleted_returns": "7",
    "no_delete_is_carried": "7",
}
"""Rules that are bent by mutants of ``test_scenarios``; the others bend the row of a GPU."""


def _bent() -> Iterator[Mutant]:
    """The mutants of ``test_scenarios``."""
    for where, name, bent, scenario in BENT:
        called = bent.__name__.removeprefix("_")
        breaks = " ".join((bent.__doc__ or "").split()).rstrip(".")
        yield Mutant(
            f"{called.replace('_', '-')}-{scenario}",
            _BENT_RULES.get(called, "row"),
            breaks,
            (Swap(where, name, bent),),
            Played(scenario),
            20,
        )


MUTANTS: Final[dict[str, Mutant]] = {mutant.name: mutant for mutant in (*_OWN, *PARTS, *_bent())}
"""By name, in order of the rules."""


def hunted(name: str, seeds: int | None = None) -> Found:
    """Hunt a mutant, within its own number of seeds unless told otherwise."""
    mutant = MUTANTS[name]
    with mutant.applied():
        return hunt(mutant.hunt, seeds or mutant.seeds)


def unbroken(runs: Drawn | Played | UnitTests, seeds: int) -> Found:
    """Run what finds mutants where nothing is broken: nothing may be found."""
    return hunt(runs, seeds)


# -- the table ---------------------------------------------------------------------------------------------------------

_HEAD: Final = f"""# Mutants

Every rule of `design.md`, broken on purpose, one line at a time, and what noticed: a checker of the simulator, or a
unit test. Written by `python -m tests.sim.mutants --write`; `mutants.py` and `parts.py` have the lines. *Seed* is the
first one, from 1 on, with which a checker failed, of so many that it may take; unit tests have one. CPU seconds are
those of all runs up to it.

| rule | |
| --- | --- |
{"".join(f"| {rule} | {text} |" + chr(10) for rule, text in RULES.items())}
"""

_COLUMNS: Final = ("mutant", "rule", "what it does", "runs", "seed", "CPU s", "what the checker said")

_CONTROLS: Final = """
## Unbroken

The same runs with the same seeds where nothing is broken: no checker fails.

| runs | seeds | CPU s | found |
| --- | ---: | ---: | --- |
"""


class Table(NamedTuple):
    """The rows of MUTANTS.md: of each mutant by its name, and of each run without one by what was run."""

    found: dict[str, str]
    controls: dict[str, str]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what ``__str__`` has written."""
        hunts, controls = text.partition(_CONTROLS)[::2]
        found = hunts[hunts.index(_row(*_COLUMNS)) :].splitlines()[2:]
        return cls(*({_first(row): row for row in rows if row} for rows in (found, controls.splitlines())))

    def add(self, name: str, found: Found) -> None:
        """Enter what a hunt came to."""
        mutant = MUTANTS[name]
        seed = f"{found.seed or 'none'} of {mutant.seeds}"
        cells = name, mutant.rule, mutant.breaks, str(mutant.hunt), seed, f"{found.cpu_s:.1f}", found.said
        self.found[name] = _row(*cells)

    def add_control(self, runs: str, seeds: int, found: Found) -> None:
        """Enter what came of runs in which nothing was broken."""
        self.controls[runs] = _row(runs, str(seeds), f"{found.cpu_s:.1f}", found.said or "nothing")

    def __str__(self) -> str:
        runs = {str(mutant.hunt) for mutant in MUTANTS.values()}
        lines = [_row(*_COLUMNS), "| --- | --- | --- | --- | ---: | ---: | --- |"]
        lines += [self.found[name] for name in MUTANTS if name in self.found]
        lines.append(_CONTROLS.rstrip("\n"))
        lines += [row for named, row in sorted(self.controls.items()) if named in runs]
        return _HEAD + "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _first(row: str) -> str:
    return row.split(" | ", 1)[0].removeprefix("| ")


# -- the command -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Hunt what the command line says; 0 when every mutant is found, and nothing where nothing is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description="Break rules, and hunt for them.")
    parser.add_argument("--only", action="append", choices=MUTANTS, metavar="NAME", help="one mutant; repeatable")
    parser.add_argument("--seeds", type=int, help="seeds 1 to this one instead of each mutant's own number")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}; rows of other mutants stay")
    arguments = parser.parse_args()
    if arguments.write and arguments.seeds:
        parser.error("--write is for each mutant's own number of seeds")
    names = arguments.only or list(MUTANTS)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        found = dict(_progress(pool, {name: partial(hunted, name, arguments.seeds) for name in names}))
        table = Table.read(TABLE.read_text()) if TABLE.exists() else Table({}, {})
        seeds: dict[Drawn | Played | UnitTests, int] = {}
        for name, verdict in found.items():
            table.add(name, verdict)
            runs = MUTANTS[name].hunt
            seeds[runs] = max(seeds.get(runs, 0), verdict.seed or MUTANTS[name].seeds)
        unbroken_runs = {str(runs): partial(unbroken, runs, count) for runs, count in seeds.items()}
        if arguments.write:
            TABLE.write_text(str(table))
        controls = dict(_progress(pool, unbroken_runs, unbroken_too=True))
        for runs, count in seeds.items():
            table.add_control(str(runs), count, controls[str(runs)])
        if arguments.write:
            TABLE.write_text(str(table))
    escaped = [name for name, verdict in found.items() if verdict.seed is None]
    wrong = [runs for runs, verdict in controls.items() if verdict.seed is not None]
    cpu_s = sum(verdict.cpu_s for verdict in (*found.values(), *controls.values()))
    print(f"{len(found) - len(escaped)} of {len(found)} mutants found, {cpu_s:.0f} s of CPU time")
    for name in escaped:
        print(f"not found: {name}")
    for named in wrong:
        print(f"fails though nothing is broken: {named}, seed {controls[named].seed}")
    return 1 if escaped or wrong else 0


def _progress(
    pool: ProcessPoolExecutor, jobs: Mapping[str, Callable[[], Found]], *, unbroken_too: bool = False
) -> Iterator[tuple[str, Found]]:
    """Run jobs, and print a line for each as it ends."""
    futures = {pool.submit(job): name for name, job in jobs.items()}
    for number, future in enumerate(as_completed(futures), 1):
        name, verdict = futures[future], future.result()
        place = f"{number:>3}/{len(futures)}"
        if unbroken_too:
            said = "nothing is found" if verdict.seed is None else f"SEED {verdict.seed} FAILS: {verdict.said}"
            print(f"{place} unbroken: {name:<60} {verdict.cpu_s:6.1f} s  {said}", flush=True)
        else:
            rule, seed = MUTANTS[name].rule, verdict.seed or "-"
            print(f"{place} {name:<44} {rule:<6}{seed:>3} {verdict.cpu_s:6.1f} s  {verdict.said[:80]}", flush=True)
        yield name, verdict


if __name__ == "__main__":
    sys.exit(main())
