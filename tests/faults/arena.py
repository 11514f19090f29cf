"""A suite on real processes: miners write, faults strike, all heals, and then nothing may be missing."""

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, DevnetError, Peer
from p2pnodes.store.audit import audit
from tests.e2e.waiting import eventually
from tests.faults.book import Book, Totals
from tests.faults.miners import PAUSE_S, mining

PROGRESS_S_MAX: Final = 120.0
"""Within this after a fault a write must be acknowledged again, by whichever daemon, before the next one strikes."""

HEALED_S_MAX: Final = 180.0
"""Within this after the last fault all daemons must take writes, and agree on everything once the miners rest."""

COMPLAINTS_MAX: Final = 50


class OverdueError(Exception):
    """Something did not come in the time that it may take; the text says what. A suite ends with it as a complaint."""


@contextmanager
def in_time(what: str, within_s: float) -> Iterator[None]:
    """Say what a wait in the body is for, when it raises TimeoutError after so many seconds."""
    try:
        yield
    except TimeoutError as error:
        raise OverdueError(f"waited {within_s:g} s in vain: {what}") from error


class Outcome(NamedTuple):
    """What came of a suite.

    Attributes:
        suite: Its name.
        seed: What repeats the faults; when processes get to run differs each time.
        strikes: Faults by kind.
        acknowledged: Writes that were acknowledged.
        totals: GPUs by fate.
        events: Events that each peer holds at the end.
        figures: What a suite measured beyond that.
        complaints: What must not be; empty when all is well.
        seconds: How long it took.
    """

    suite: str
    seed: int
    strikes: Counter[str]
    acknowledged: int
    totals: Totals
    events: int
    figures: dict[str, Any]
    complaints: list[str]
    seconds: float


class Scene:
    """A devnet and what may happen to it; suites say what strikes.

    Attributes:
        net: The daemons.
        book: What was acknowledged, once ``play`` has begun.
        rng: Draws the faults.
        figures: What the suite measures.
        complaints: What it saw that must not be.
        may_fork: Logs that it has let two daemons write, as ``p2pnodes forks`` names them; no other one may fork.
    """

    name = ""
    what = ""
    strikes = 100
    """Faults of the long form."""

    short = 4
    """Faults of the short form, which is part of the tests."""

    peers = 3
    book: Book
    pause_s = 1.0
    """Longest pause before a fault; drawn, so that it strikes at any moment."""

    rest_s = PAUSE_S
    """Mean pause of a miner between two requests."""

    epoch_s = 20.0
    parameters: Mapping[str, Any] = MappingProxyType({})
    """How long an electorate is in force, and what else the network is to be."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.rng = rng
        self.figures: dict[str, Any] = {}
        self.complaints: list[str] = []
        self.may_fork: set[str] = set()
        self._down = {f"peer{index}": asyncio.Event() for index in range(self.peers)}
        self.net = Devnet(
            directory, free_ports(self.peers), epoch_s=self.epoch_s, parameters=self.parameters, report=self._heard
        )

    async def begin(self) -> None:
        """Start the daemons and whatever stands between them."""
        await self.net.start()

    async def strike(self) -> str:
        """Let one fault strike, and take back what does not go by itself; its kind."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Make whole what still is broken."""

    async def end(self) -> None:
        """Stop everything."""
        await self.net.stop()

    def leave(self) -> None:
        """Take away what is in the way of removing its directory, once nobody looks at that any more."""

    def apis(self) -> dict[str, str]:
        """Where miners reach each daemon, by its name."""
        return {peer.name: peer.url for peer in self.net.peers}

    async def kill(self, peer: Peer) -> None:
        """Kill -9, and wait until the process is gone; ``revive`` starts it again."""
        down = self._down[peer.name]
        down.clear()
        peer.wanted.clear()
        if peer.pid is not None:
            peer.kill()
        with in_time(f"{peer.name} is gone after kill -9", PROGRESS_S_MAX):
            await asyncio.wait_for(down.wait(), PROGRESS_S_MAX)

    async def shut(self, peer: Peer) -> None:
        """Stop a daemon as its operator does."""
        down = self._down[peer.name]
        down.clear()
        peer.wanted.clear()
        await peer.stop()
        with in_time(f"{peer.name} is gone after it was stopped", PROGRESS_S_MAX):
            await asyncio.wait_for(down.wait(), PROGRESS_S_MAX)

    def revive(self, peer: Peer) -> None:
        """Start a daemon that ``kill`` or ``shut`` ended."""
        peer.wanted.set()

    def frozen(self, peer: Peer, *, stopped: bool) -> None:
        """SIGSTOP or SIGCONT."""
        if (pid := peer.pid) is not None:
            os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)

    def _heard(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if rest == "is down":
            self._down[name].set()
        elif rest.startswith("died ("):
            self.died(name, rest)

    def died(self, name: str, how: str) -> None:
        """A daemon ended that nobody ended; no suite but those of broken disks expects it."""
        self.complaints.append(f"{name} {how}")


async def play(
    scene: Scene, book: Book, *, seed: int, strikes: int, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Run a suite. Where something does not come in time no further fault strikes, and the rest is checked as ever.

    Args:
        scene: Its daemons, which are not running yet.
        book: An empty one.
        seed: What ``scene.rng`` was made from; repeated in the outcome.
        strikes: How many faults.
        say: Called with one line as it goes on.
    """
    begun = time.monotonic()
    struck: Counter[str] = Counter()
    events = 0
    complaints = scene.complaints
    scene.book = book
    await scene.begin()
    try:
        async with mining(scene.apis(), book, random.Random(seed), scene.rest_s):
            number = 0
            try:
                for number in range(1, strikes + 1):
                    await _acknowledged_more(book, complaints)
                    await asyncio.sleep(scene.rng.uniform(0, scene.pause_s))
                    struck[await scene.strike()] += 1
                    say(f"{number} of {strikes} faults, {book.acknowledged} writes acknowledged")
            except OverdueError as error:
                complaints.append(f"fault {number} of {strikes}: {error}")
            try:
                await scene.heal()
            except OverdueError as error:
                complaints.append(f"after the last fault: {error}")
            await _acknowledged_more(book, complaints)
        say("the miners rest; waiting until all agree")
        events = await _agreement(scene, complaints)
        for peer in scene.net.peers:
            complaints += book.complaints(inventory(peer), peer.name)
            complaints += await _forks(peer, scene.may_fork)
    finally:
        await scene.end()
    say("checking the databases")
    for peer in scene.net.peers:
        found = await asyncio.to_thread(audit, peer.database, scene.net.network)
        complaints += [f"{peer.name}: {problem}" for problem in found.problems]
        complaints += tracebacks(peer)
    return Outcome(
        scene.name, seed, struck, book.acknowledged, book.totals, events, scene.figures, complaints[:COMPLAINTS_MAX],
        time.monotonic() - begun,
    )  # fmt: skip


def inventory(peer: Peer) -> set[str]:
    """The GPUs that a daemon lists, read from its file."""
    connection = sqlite3.connect(f"file:{peer.database}?mode=ro", uri=True)
    try:
        return {uuid for (uuid,) in connection.execute("SELECT uuid FROM inventory")}
    finally:
        connection.close()


def tracebacks(peer: Peer) -> list[str]:
    """Whether a daemon's log holds one: whatever happens to it, it has words for it."""
    count = peer.log_file.read_text("utf-8", "replace").count("Traceback (most recent call last)")
    return [f"{peer.name}: {count} tracebacks in {peer.log_file}"] if count else []


async def _acknowledged_more(book: Book, complaints: list[str]) -> None:
    before = book.acknowledged

    async def more() -> bool:
        return book.acknowledged > before

    try:
        await eventually(more, PROGRESS_S_MAX)
    except TimeoutError:
        complaints.append(f"no write was acknowledged for {PROGRESS_S_MAX:g} s")


async def _agreement(scene: Scene, complaints: list[str]) -> int:
    """Wait until all agree, and show what was acknowledged; how many events each of them holds.

    Requests of a log that ended are carried by others, who agree before that, too.
    """
    said: list[dict[str, Any]] = []

    def agree() -> bool:
        whole = len(said) == len(scene.net.peers) and not any(each["ready"] for each in said)
        return whole and len({_state(each) for each in said}) == 1

    async def settled() -> bool:
        said.clear()  # of a peer that does not answer nothing is known
        said.extend([await peer.status() for peer in scene.net.peers])
        return agree() and not any(scene.book.complaints(inventory(peer), peer.name) for peer in scene.net.peers)

    try:
        await eventually(settled, HEALED_S_MAX)
    except TimeoutError:
        if agree():  # then what is lost is told by the book
            return int(said[0]["events"])
        seen = [(each["ready"], *(text[:12] for text in _state(each))) for each in said]
        complaints.append(f"they do not agree {HEALED_S_MAX:g} s after the last fault: {seen}")
        return 0
    return int(said[0]["events"])


def _state(status: dict[str, Any]) -> tuple[str, str, str, str]:
    checkpoint = str(status["checkpoint"]["number"])
    return status["state_root"], status["vector_digest"], status["electorate"]["digest"], checkpoint


async def _forks(peer: Peer, allowed: Collection[str]) -> list[str]:
    try:
        ended = await peer.ask("/forks")
    except DevnetError as error:
        return [str(error)]
    forked = {end["log"]: end["fork"] for end in ended if end["fork"] is not None}
    return [f"{peer.name}: log {log} forked at {fork}" for log, fork in forked.items() if log not in allowed]
