"""``python -m tests.bench year``: what a ledger weighs after a year of checkpoints, against what is still needed.

One database lives through the days by a clock of its own, with the clerk and the ledger of a daemon and nothing else:
it writes the log of one validator, and takes in those of the others, which sign every checkpoint that it signs. The
inventory is as large on each day: claims come, others are deleted, chutes come and go. A checkpoint is made once a day.

Verdicts are those of the daemon: every validator votes on a new claim, as with the verifier ``none``; then the first
ones in the claim's order check it again at the moments of ``verify.turns.renew_ms``, and what they find waits in
``verify.renewals``. Time moves on in steps, and what would be told within one is told at its beginning, so that nothing
gathers for longer than it does in a daemon. Nothing fails and nobody is offline.

- *Live set*: the bytes of the events that the last checkpoint kept. It is what a year must not make larger.
- *Log*: the bytes of all events that are held, that is the live set and what is younger than the horizon.
- *Log without checkpoints*: the bytes of all events that were ever taken in, counted as they came.

Verdicts of the last eight days are in the log and none is in the live set, so the ratio follows the number of
validators. It falls with the number of claims, as long as fewer come in a time than one ``renew`` holds. The age of a
ledger must not show in it. That the log stops growing is shown by the same ratio on the first
day on which one horizon has passed.
"""

import argparse
import heapq
import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.clerk import Clerk
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.events import (
    RENEWED_MAX,
    VERIFIED,
    AddPayload,
    DeletePayload,
    Event,
    LogId,
    Payload,
    Place,
    Release,
    Renew,
    Verdict,
    delegate,
)
from p2pnodes.model.inventory import Chute, Vote
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.rendezvous import ranking
from p2pnodes.model.requests import PURPOSE_DELETE, request_id, sign_add, sign_delete
from p2pnodes.store.checkpoints import Stage
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.parts import batched
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.renewals import Renewals
from p2pnodes.verify.turns import first_ones, renew_ms
from tests.bench.measure import progress, share
from tests.bench.world import EVENTS_PER_COMMIT, MINERS, NODE_SEED, OWN, given, uuids
from tests.support import NETWORK, NOW_S, Author, body, electorate, hotkey, signatures

DAYS: Final = 365
CLAIMS: Final = 100
VALIDATORS: Final = 3
GPUS: Final = 8
"""Of each claim."""

DAYS_MIN: Final = 9
"""The first day on which something is older than the horizon."""

RATIO_MAX: Final = 3.0
"""Wanted of the log, in live sets."""

STEP_S: Final = 600
"""How time moves on. In each step every validator tells what is due."""

CHANGES_PER_DAY: Final = 4
"""How often the inventory changes, and the electorate."""

TURNOVER: Final = 0.02
"""Share of the claims that is replaced on a day; as many chutes end and others begin."""

DAY_S: Final = 86_400
TTL_MS: Final = NETWORK.verdict_ttl_s * 1000
DELEGATED_S: Final = 40 * DAY_S
DELEGATION_DAYS: Final = 30
PAUSE_S: Final = 1_800
"""From one look of the clerk to the next: every validator's turn comes up."""

METHOD: Final = "none"
AGAIN: Final = Finding(VERIFIED)
CHUTE: Final = Chute("chute", "instance", verified=True, public=True, name="llama", username="alice")


class Day(NamedTuple):
    """What was held at the end of a day, in bytes.

    Attributes:
        live: Events of the live set in force; 0 before the first one.
        log: All events.
        disk: The database's pages that are in use.
        ever: All events that ever came.
    """

    live: int
    log: int
    disk: int
    ever: int


class Checks:
    """The book of one validator: when it checks which claim again, and what of it waits to be told."""

    def __init__(self) -> None:
        """Begin with an empty book."""
        self._due: list[tuple[int, bytes]] = []
        self._votes: dict[bytes, Vote] = {}
        self._renewals = Renewals(TTL_MS)
        self.told = 0
        """Verdicts that were renewed."""
        self.events = 0
        """Events that they took."""

    def enter(self, claim_id: bytes, vote: Vote) -> None:
        """Enter a claim for which the validator is one of the first ones, after its vote."""
        self._votes[claim_id] = vote
        heapq.heappush(self._due, (renew_ms(claim_id, hlc_ms(vote.hlc), 0, 0, TTL_MS), claim_id))

    def strike(self, claim_id: bytes) -> None:
        """Forget a claim that is deleted."""
        self._votes.pop(claim_id, None)
        self._renewals.forget(claim_id)

    def step(self, now_ms: int) -> Iterator[Renew]:
        """Check what is due in this step, and tell what has waited long enough at its end."""
        while self._due and self._due[0][0] <= now_ms:
            _, claim_id = heapq.heappop(self._due)
            if (vote := self._votes.get(claim_id)) is not None:
                assert self._renewals.take(claim_id, AGAIN, vote, 0, now_ms)
                if len(self._renewals) == RENEWED_MAX:
                    yield self._tell(now_ms)
        if len(self._renewals) and self._renewals.due(now_ms + STEP_S * 1000):
            yield self._tell(now_ms)

    def _tell(self, now_ms: int) -> Renew:
        claims = [(claim_id, self._votes[claim_id].since or 0) for claim_id in sorted(self._renewals.slots_ms())]
        for claim_id, since in claims:
            self._renewals.forget(claim_id)
            self.enter(claim_id, self._votes[claim_id]._replace(hlc=hlc_at(now_ms), since=since))
        self.told += len(claims)
        self.events += 1
        return Renew(METHOD, tuple(claims))


class Year:
    """One ledger and those whom it hears."""

    def __init__(self, path: Path, claims: int, validators: int) -> None:
        """Open the logs, and register all claims."""
        self.now_s = NOW_S
        self._random = random.Random(claims)
        self._stakes = {OWN: 100} | {f"//validator{index}": 100 for index in range(1, validators)}
        self._keys = [hotkey(uri).public_key for uri in self._stakes]
        connection = open_writer(path)
        connection.execute("PRAGMA synchronous = OFF")
        self.ledger = Ledger(connection, NETWORK, NodeKey.from_seed(NODE_SEED))
        self._clerk = Clerk()
        self._others = [Author(uri) for uri in list(self._stakes)[1:]]
        self._waiting: list[Event] = []
        self._servers = 0
        self._claims: deque[tuple[str, bytes, list[str]]] = deque()
        self.checks = [Checks() for _ in self._stakes]
        self._block = 0
        self.ever = 0
        """Bytes of all events."""
        self.steps_s: list[float] = []
        """What each of the clerk's steps took that did something."""
        self.checkpoints_s: list[float] = []
        """What the steps of each checkpoint took together."""
        self._weigh()
        self._delegate(first=True)
        self._say([said for _ in range(claims) for said in self._claim()])

    # -- days --------------------------------------------------------------------------------------------------------

    def live(self, day: int) -> Day:
        """Let a day pass."""
        if day % DELEGATION_DAYS == 0 and day:
            self._delegate()
        for second in range(0, DAY_S, STEP_S):
            self.now_s += STEP_S
            if second % (DAY_S // CHANGES_PER_DAY) == 0:
                self._weigh()
                self._say(self._changes())
            self._say([(who, said) for who in self._everybody for said in self.checks[who].step(self._now_ms)])
            if second % PAUSE_S == 0:
                self._attend()
        return self._day()

    def _changes(self) -> list[tuple[int, Payload]]:
        """What changes in the inventory: who says what."""
        said: list[tuple[int, Payload]] = []
        for _ in range(max(1, int(len(self._claims) * TURNOVER / CHANGES_PER_DAY))):
            said += self._end(*self._claims.popleft())
            said += self._claim()
            _, claim_id, names = self._random.choice(self._claims)
            placed = self._random.choice((Place(claim_id, tuple(names), *CHUTE), Release(claim_id, tuple(names))))
            said.append((self._anyone(), placed))
        return said

    @property
    def _everybody(self) -> range:
        return range(1 + len(self._others))

    def _anyone(self) -> int:
        return self._random.choice(self._everybody)

    def _claim(self) -> list[tuple[int, Payload]]:
        """A miner registers a server, and everybody verifies it."""
        miner = MINERS[self._servers % len(MINERS)]
        names = uuids(self._servers, GPUS)
        self._servers += 1
        request = sign_add(hotkey(miner), self.now_s, body(names))
        claim_id = request_id(NETWORK.id, request)
        self._claims.append((miner, claim_id, names))
        enrolled = self.ledger.weights.enrolled
        order = ranking(claim_id, enrolled)
        hlc = hlc_at(self._now_ms)
        for validator in order[: first_ones(order, enrolled, NETWORK.quorum_ppm)]:
            self.checks[self._keys.index(validator)].enter(claim_id, Vote(validator, hlc, VERIFIED, hlc, METHOD, ""))
        verdict = Verdict(claim_id, VERIFIED, METHOD, "", hlc)
        return [(self._anyone(), AddPayload(request, self._block)), *((who, verdict) for who in self._everybody)]

    def _end(self, miner: str, claim_id: bytes, names: Sequence[str]) -> list[tuple[int, Payload]]:
        """A miner deletes all GPUs of a claim, each with a signature of its own."""
        who = self._anyone()
        for checks in self.checks:
            checks.strike(claim_id)
        requests = [sign_delete(hotkey(miner), self.now_s, f"{PURPOSE_DELETE}:{uuid}") for uuid in names]
        return [(who, DeletePayload(request, uuid, (claim_id,))) for request, uuid in zip(requests, names, strict=True)]

    # -- the ledger --------------------------------------------------------------------------------------------------

    @property
    def _now_ms(self) -> int:
        return self.now_s * 1000

    def _weigh(self) -> None:
        self._block += NETWORK.epoch_blocks
        before = self.ledger.weights.electorate
        who = electorate(self._block, self._now_ms, stakes=self._stakes, miners=MINERS, previous=before)
        with self.ledger.transaction():
            self.ledger.set_electorate(who)

    def _delegate(self, *, first: bool = False) -> None:
        begin_s, end_s = self.now_s - 3_600, self.now_s + DELEGATED_S
        log = LogId(NodeKey.from_seed(NODE_SEED).public_key, 0)
        delegation = delegate(hotkey(OWN), NETWORK.id, log, url="", not_before=begin_s, not_after=end_s)
        with self.ledger.transaction():
            if first:
                self.ledger.open_log(0, delegation, self._now_ms)
            else:
                self.ledger.append(partial(given, delegation), self._now_ms)
        for author in self._others:
            self._hear(author, author.delegation(not_before=begin_s, not_after=end_s))
        self._take_in()
        self.ledger.writes_refused = None

    def _say(self, said: Sequence[tuple[int, Payload]]) -> None:
        for part in batched(said, EVENTS_PER_COMMIT):
            with self.ledger.transaction():
                for who, payload in part:
                    if who == 0:
                        self.ledger.append(partial(given, payload), self._now_ms)
                    else:
                        self._hear(self._others[who - 1], payload)
            self._take_in()

    def _hear(self, author: Author, payload: Payload) -> None:
        event = author.write(payload, at_ms=self._now_ms)
        author.events.clear()
        self._waiting.append(event)

    def _take_in(self) -> None:
        with self.ledger.transaction():
            outcomes = self.ledger.receive(self._waiting, self._now_ms)
        assert {outcome.result for outcome in outcomes} <= {Result.STORED}
        assert not any(outcome.detail for outcome in outcomes)
        self.ever += sum(len(event.wire) for event in (*self._waiting, *self.ledger.news.take_appended()))
        self._waiting.clear()

    def _attend(self) -> None:
        """Let the clerk do all that it finds to do, and the others sign what it signed."""
        took_s: list[float] = []
        while True:
            begin = time.perf_counter()
            with self.ledger.transaction():
                step = self._clerk.step(self.ledger, hotkey(OWN).public_key, self._now_ms, self._now_ms)
            if not step.busy and not step.event:
                break
            took_s.append(time.perf_counter() - begin)
            if step.event == "checkpoint_signed":
                ((_, statement),) = signatures(self.ledger, step.fields["number"])
                for author in self._others:
                    self._hear(author, statement)
                self._take_in()
        self._take_in()
        self.steps_s += took_s
        if took_s:
            self.checkpoints_s.append(sum(took_s))

    def _day(self) -> Day:
        ledger, execute = self.ledger, self.ledger.facts.connection.execute
        assert ledger.checkpoints.stage is Stage.DONE
        number = ledger.checkpoints.line.number
        query = "SELECT total(length(wire)) FROM live JOIN events USING (log, seq) WHERE live.number = ?"
        (live,) = execute(query, (number,)).fetchone()
        (log,) = execute("SELECT total(length(wire)) FROM events").fetchone()
        pages, free, size = (
            execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return Day(int(live), int(log), (pages - free) * size, self.ever)


def measure(directory: Path, days: int, claims: int, validators: int) -> dict[str, float]:
    """Let a ledger live so many days."""
    began_s = time.perf_counter()
    year = Year(directory / "year.db", claims, validators)
    found: list[Day] = []
    for day in range(days):
        progress(f"day {day + 1} of {days}")
        found.append(year.live(day))
    first = next(day for day in found if day.live)
    last = found[-1]
    told = sum(checks.told for checks in year.checks)
    steps_ms = sorted(each * 1000 for each in year.steps_s)
    return {
        "days": days,
        "claims": claims,
        "gpus": year.ledger.state.nodes,
        "validators": validators,
        "checkpoints": len(year.checkpoints_s),
        "live_bytes": last.live,
        "log_bytes": last.log,
        "disk_bytes": last.disk,
        "ever_bytes": last.ever,
        "renewed": told,
        "renewed_at_once": told / sum(checks.events for checks in year.checks),
        "ratio": last.log / last.live,
        "first_ratio": first.log / first.live,
        "ever_ratio": last.ever / last.live,
        "checkpoint_ms": sum(steps_ms) / len(year.checkpoints_s),
        "step_ms_p99": share(steps_ms, 0.99),
        "step_ms_max": steps_ms[-1],
        "seconds": time.perf_counter() - began_s,
    }


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0 when the log is no larger than is wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench year", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=DAYS, help="of the year, at least 9 (%(default)s)")
    parser.add_argument("--claims", type=int, default=CLAIMS, help=f"of {GPUS} GPUs each (%(default)s)")
    parser.add_argument("--validators", type=int, default=VALIDATORS, help="of equal stakes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.days < DAYS_MIN:
        parser.error(f"--days: no checkpoint is made before day {DAYS_MIN}")
    with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
        found = measure(Path(directory), arguments.days, arguments.claims, arguments.validators)
    progress("")
    if arguments.json:
        print(json.dumps(found))
    else:
        _print(found)
    return int(found["ratio"] > RATIO_MAX)


def _print(found: dict[str, float]) -> None:
    print(
        f"{found['days']} days, {found['claims']:,} claims ({found['gpus']:,} GPUs), {found['validators']} validators,"
        f" {found['checkpoints']} checkpoints, in {found['seconds']:.0f} s"
    )
    verdict = "TOO LARGE" if found["ratio"] > RATIO_MAX else "ok"
    print(f"    live set {found['live_bytes'] / _MIB:.2f} MiB, log {found['log_bytes'] / _MIB:.2f} MiB:")
    print(f"    ratio {found['ratio']:.2f}, wanted at most {RATIO_MAX:g}: {verdict}")
    print(f"    the same ratio at the first checkpoint: {found['first_ratio']:.2f}")
    print(f"    {found['renewed']:,} verdicts renewed, {found['renewed_at_once']:.1f} in an event on average")
    print(f"    without checkpoints: {found['ever_bytes'] / _MIB:.2f} MiB, ratio {found['ever_ratio']:.1f}")
    print(f"    database, its indexes and rows included: {found['disk_bytes'] / _MIB:.2f} MiB")
    print(
        f"    a checkpoint takes {found['checkpoint_ms']:.0f} ms in all; its steps p99 {found['step_ms_p99']:.1f} ms,"
        f" the longest {found['step_ms_max']:.1f} ms"
    )


_MIB: Final = 1 << 20
