"""An electorate changes over a large inventory: how long it takes, and how long registrations and the event loop wait.

python -m tests.bench tally --claims 125000 --gpus-per-claim 1
"""

import asyncio
import gc
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.api.stream import NodeEvents
from p2pnodes.model import inventory
from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.inventory import Vote, Weights
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import sign_add
from p2pnodes.store.database import Database
from p2pnodes.store.facts import Facts
from p2pnodes.store.schema import open_reader
from tests.bench.crowd import Crowd
from tests.bench.measure import Ratio, costs, of_pairs, progress
from tests.bench.world import MINERS, NODE_SEED, uuids
from tests.support import NETWORK, body, hotkey

CLAIMS: Final = 125_000
CHANGES: Final = 3
"""Changes of each sort that are counted, one after the other on one database."""

POST_PAUSE_S: Final = 0.01
"""Between the answer to one registration and the next one, which come throughout a change."""

NONE, SOME, EVERY = "no row changes", "one row in 64 comes or goes", "every row changes"
SORTS: Final = {NONE: 0.1, SOME: 0.5, EVERY: 2.0}
"""What a change does -> how long a registration may wait for it: for a slice, or for all rows to be written (s)."""

BLOCKED_S_MAX: Final = 0.05
BEAT_S: Final = 0.001
COUNTING_S: Final = 5.0
VOTERS: Final = (3, 20)


class Beat(NamedTuple):
    """One turn of the event loop.

    Attributes:
        late: Seconds by which it was late.
        starved: Seconds of it that the loop's thread or the writer's waited for a core, which other programs had.
    """

    late: float
    starved: float

    @property
    def blocked(self) -> float:
        """Seconds that are the daemon's own doing."""
        return max(0.0, self.late - self.starved)


class Change(NamedTuple):
    """One change of the electorate.

    Attributes:
        seconds: Until it was committed.
        beats: Turns of the event loop meanwhile.
        waits: Seconds that each of the registrations waited which came meanwhile, one after the other.
        floor: Seconds that reading and counting all the votes alone takes.
    """

    seconds: float
    beats: list[Beat]
    waits: list[float]
    floor: float


def tally(directory: Path, claims: int = CLAIMS, gpus: int = 1) -> Iterator[Ratio]:
    """An electorate that is recounted in slices: how long it takes, how long registrations and the event loop wait."""
    progress(f"writing {claims:,} claims of {gpus} GPUs")
    crowd = Crowd(directory / "tally.db", claims=claims, gpus=gpus, voters_max=max(VOTERS))
    for voters in VOTERS:
        crowd.vote(voters)
        found = asyncio.run(_changes(crowd))
        counting = asyncio.run(_beside_counting())
        what = f"{claims:,} claims of {gpus} GPUs, {voters} voters, "
        for sort, (changes, whole) in found.items():
            yield of_pairs(
                f"electorate change over {what}{sort}: median {_median(c.seconds for c in changes):.1f} s",
                "one SELECT of all verdicts, and the pure function over them",
                0.0,
                [(claims / c.seconds, claims / c.floor) for c in changes],
            )
            yield costs(
                f"the same, in slices beside {_median(len(c.waits) for c in changes):.0f} registrations",
                "in one transaction",
                0.0,
                " s",
                [(c.seconds, whole.seconds) for c in changes],
            )
            late = [max(beat.late for beat in c.beats) for c in changes]
            blocked = [max(beat.blocked for beat in c.beats) for c in changes]
            yield costs(
                f"event loop meanwhile, blocked at the worst in the median change; {_ms(max(blocked))} in the worst of "
                f"{len(changes)} (with the waits for a core: {_ms(_median(late))}, {_ms(max(late))})",
                f"what is allowed at a time; beside a thread that only counts it is {_ms(counting)}",
                1.0,
                " ms",
                [(each * 1000, BLOCKED_S_MAX * 1000) for each in blocked],
            )
            longest = [max(c.waits) for c in changes]
            usual = _median(wait for c in changes for wait in c.waits)
            yield costs(
                f"registrations meanwhile, the longest wait in the median change; {_ms(max(longest))} in the worst, "
                f"the median one {_ms(usual)}",
                f"what is allowed; where the change is one transaction it is {_ms(max(whole.waits))}",
                1.0,
                " ms",
                [(each * 1000, SORTS[sort] * 1000) for each in longest],
            )


async def _changes(crowd: Crowd) -> dict[str, tuple[list[Change], Change]]:
    """Changes of each sort, those that turn rows to and fro; of each sort one in one transaction, too."""
    database = await Database.open(
        crowd.path, NETWORK, NodeKey.from_seed(NODE_SEED), now_ms=lambda: time.time_ns() // 1_000_000
    )
    database.ledger.writes_refused = None
    database.on_commit = NodeEvents(database, limit=lambda _: "").committed  # what a daemon's event loop has to do then
    gc.collect()
    gc.freeze()  # as the daemon does when it has started
    try:
        await _change(database, crowd.next_electorate())
        sorts: dict[str, tuple[list[Change], Change]] = {}
        for sort in SORTS:
            changes: list[Change] = []
            for number in range(CHANGES + 1):
                to = number % 2 == 0
                electorate = crowd.next_electorate(turned=to and sort == EVERY, leaving=to and sort == SOME)
                changes.append(await _change(database, electorate, whole=number == CHANGES))
                progress(f"tally, {crowd.voters} voters, {sort}: {number + 1} of {CHANGES + 1}")
            sorts[sort] = changes[:-1], changes[-1]
        return sorts
    finally:
        gc.unfreeze()
        await database.close()


async def _change(database: Database, electorate: Electorate, *, whole: bool = False) -> Change:
    beats: list[Beat] = []
    waits: list[float] = []
    begin = time.perf_counter()
    beating = asyncio.create_task(_beat(beats, database._thread))
    at_once = database.write(lambda ledger: ledger.set_electorate(electorate)) if whole else None
    changing = asyncio.create_task(at_once or database.set_electorate(electorate))
    posting = asyncio.create_task(_post_until(changing, database, waits))
    await changing
    end = time.perf_counter()
    beating.cancel()
    await posting
    assert database.ledger.weights.electorate is electorate
    return Change(end - begin, beats, waits, _count_votes(database.path, database.ledger.weights))


async def _beat(beats: list[Beat], other: threading.Thread) -> None:
    """Note each turn of the loop, beside the thread that it shares the interpreter with."""
    threads = [threading.get_native_id(), other.native_id]
    while True:
        starved, begin = sum(map(_starved_s, threads)), time.perf_counter()
        await asyncio.sleep(BEAT_S)
        late = time.perf_counter() - begin - BEAT_S
        beats.append(Beat(late, sum(map(_starved_s, threads)) - starved))


def _starved_s(thread: int | None) -> float:
    """Seconds that a thread has waited for a core so far (Linux, Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[1]) / 1e9


async def _beside_counting() -> float:
    """How long the loop is blocked at the worst where another thread does nothing but hold the interpreter."""
    beats: list[Beat] = []
    done = threading.Event()
    counting = threading.Thread(target=_count_until, args=(done,))
    counting.start()
    beating = asyncio.create_task(_beat(beats, counting))
    await asyncio.sleep(COUNTING_S)
    beating.cancel()
    done.set()
    counting.join()
    return max(beat.blocked for beat in beats)


def _count_until(done: threading.Event) -> None:
    count = 0
    while not done.is_set():
        count += 1


async def _post_until(changed: "asyncio.Task[None]", database: Database, waits: list[float]) -> None:
    """Register one server after the other until the electorate has changed; note how long each takes to be durable."""
    while not changed.done():
        await asyncio.sleep(POST_PAUSE_S)
        miner = MINERS[len(waits) % len(MINERS)]
        request = sign_add(hotkey(miner), int(time.time()), body(uuids(time.time_ns(), 1)))
        posted = time.perf_counter()
        await database.submit_add(request, parse_body(request.body), None)
        waits.append(time.perf_counter() - posted)


def _count_votes(path: Path, weights: Weights) -> float:
    """Seconds that the least takes which a recount must do: read each verdict once, and count."""
    facts = Facts(open_reader(path))
    begin = time.perf_counter()
    query = "SELECT claim, log, hlc, finding, since, method, detail FROM verdict ORDER BY claim"
    for _, votes in groupby(facts.connection.execute(query), itemgetter(0)):
        inventory.tally([Vote(facts.author(log), *rest) for _, log, *rest in votes], weights)
    seconds = time.perf_counter() - begin
    facts.close()
    return seconds


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
