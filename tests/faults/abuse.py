"""Strangers abuse one daemon's HTTP ports; an honest miner at the same ports is answered all the same."""

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import MINERS, Peer
from p2pnodes.inbound import IDLE_TIMEOUT_S
from p2pnodes.miner.client import MinerClient, MinerError
from p2pnodes.miner.example import example_server
from p2pnodes.model.keys import Hotkey
from tests.bench.measure import share
from tests.e2e.waiting import eventually
from tests.faults.arena import Scene, in_time
from tests.faults.attacks import ATTACKS, CONNECTIONS, FILES
from tests.faults.book import Fate
from tests.faults.miners import ANSWER_S
from tests.faults.soak import Sample, look

ALONE: Final = "alone"
"""The strike in which nobody attacks: what the others are compared with."""

KINDS: Final = (ALONE, *ATTACKS)

ATTACK_S: Final = 4.0
"""How long one attack lasts, and the honest miner's requests beside it are timed."""

START_S_MAX: Final = 60.0
"""What an attacker gets beyond that to start, to connect and to end."""

PAUSE_S: Final = 0.05
"""Of the honest miner between two requests."""

LOOK_S: Final = 0.2
FILES_SPARE: Final = 16
"""Open files more than before the first attack: connections of the honest that come and go."""

RETURN_S_MAX: Final = IDLE_TIMEOUT_S + 15
"""Within this after an attack its connections are gone."""

MEMORY_MB: Final = 64
"""All attacks together let the daemon grow by no more than this beyond what the other one grew by, which holds the same
events: the allocator keeps some of what the largest of them took. On a quiet machine, where attacks get furthest, that
was 28 MB after one round of all attacks."""

AGAIN_MB: Final = 24
"""Further rounds of all attacks let it grow by no more than this, all together: what an attack took once serves the
next one, and only what is kept of each stranger is more with every round."""


class Abuse(Scene):
    """Each strike is one attack on the first daemon; the second one tells whether gossip goes on."""

    name = "abuse"
    what = (
        "slow, pipelined, oversized, idle, forged and half-closed requests; the honest miner's p50 and p99 beside them"
    )
    strikes = 6 * len(KINDS)
    short = len(KINDS)
    pause_s = 0.0
    peers = 2

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        (self._console,) = free_ports(1)
        self._victim = self.net.peers[0]
        self._victim.console_port = self._console
        self._honest = Hotkey.from_uri(MINERS[0])
        self._numbers = itertools.count()
        self._turns = itertools.cycle(KINDS)
        self._before: dict[Peer, Sample] = {}
        self._times_s: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._attacks: dict[str, Counter[str]] = defaultdict(Counter)
        self._peaks: dict[str, Sample] = {}
        self._rounds_mb: list[float] = []
        """Growth beyond the other daemon's at the end of each round."""
        self._left = len(KINDS)
        """Strikes of this round that are still to come."""

    async def strike(self) -> str:
        """Attack once, in turns."""
        kind = next(self._turns)
        self._before = self._before or {peer: _look(peer) for peer in self.net.peers}
        honest = asyncio.create_task(self._ask(self._times_s[kind]))
        watch = asyncio.create_task(self._watch(kind))
        try:
            await (asyncio.sleep(ATTACK_S) if kind == ALONE else self._attack(kind))
        finally:
            for task in (honest, watch):
                task.cancel()
            ended = await asyncio.gather(honest, watch, return_exceptions=True)
        self.complaints += [f"{kind}: {error}" for error in ended if isinstance(error, MinerError)]
        for error in ended:
            if error is not None and not isinstance(error, (asyncio.CancelledError, MinerError)):
                raise error
        await self._returned(kind)
        return kind

    async def _ask(self, times_s: dict[str, list[float]]) -> None:
        """What a miner does, one request after the other; a MinerError when one is not answered."""
        async with MinerClient([self._victim.url], self._honest, retries=0, timeout_s=ANSWER_S) as client:
            while True:
                uuid = f"honest-{next(self._numbers)}"
                self.book.note([uuid], Fate.OPEN, self._victim.name)
                since_s = time.monotonic()
                registration = await client.add(example_server([uuid], server_id=uuid))
                times_s["post"].append(time.monotonic() - since_s)
                self.book.note([uuid], Fate.LISTED, self._victim.name)
                await asyncio.sleep(PAUSE_S)
                since_s = time.monotonic()
                await client.inventory()
                times_s["get"].append(time.monotonic() - since_s)
                await asyncio.sleep(PAUSE_S)
                since_s = time.monotonic()
                await client.task_status(registration.task_id)
                times_s["status"].append(time.monotonic() - since_s)
                await asyncio.sleep(PAUSE_S)

    async def _attack(self, kind: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.attacks", kind,
            "--port", self._victim.url.rpartition(":")[2], "--console", str(self._console),
            "--seconds", str(ATTACK_S), "--seed", str(self.rng.randrange(1 << 32)),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            with in_time(f"the attacker of the kind {kind} ends", ATTACK_S + START_S_MAX):
                said, complained = await asyncio.wait_for(process.communicate(), ATTACK_S + START_S_MAX)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"the attacker failed: {complained.decode()[-2000:]}")
        heard = Counter[str](json.loads(said))
        self._attacks[kind] += heard
        least = CONNECTIONS if kind.startswith("idle") else 1
        if heard["connections"] < least:
            self.complaints.append(f"{kind}: {heard['connections']} connections were made; expected {least}")
        self.complaints += [
            f"{kind}: {count} answers of {status}"
            for status, count in heard.items()
            if status.isdigit() and int(status) >= 500 and status != "503"
        ]

    async def _watch(self, kind: str) -> None:
        """Note the most that the daemon takes."""
        while True:
            sample = _look(self._victim)
            peak = self._peaks.get(kind, sample)
            self._peaks[kind] = sample._replace(
                memory_mb=max(sample.memory_mb, peak.memory_mb), files=max(sample.files, peak.files)
            )
            await asyncio.sleep(LOOK_S)

    async def _returned(self, kind: str) -> None:
        """Wait until the daemon has let go of an attack's connections; then its memory counts."""
        files = self._before[self._victim].files

        async def few() -> bool:
            return _look(self._victim).files <= files + FILES_SPARE

        try:
            await eventually(few, RETURN_S_MAX)
        except TimeoutError:
            now = _look(self._victim).files
            self.complaints.append(f"{kind}: {files} files were open; {RETURN_S_MAX:g} s after it there are {now}")
        grown_mb, other_mb = (_look(peer).memory_mb - self._before[peer].memory_mb for peer in self.net.peers)
        self._weigh(kind, grown_mb, max(0.0, other_mb))

    def _weigh(self, kind: str, grown_mb: float, other_mb: float) -> None:
        """Complain of memory that a strike has left, or a whole round beyond the first one."""
        beyond_mb = grown_mb - other_mb
        if beyond_mb > MEMORY_MB:
            self.complaints.append(f"{kind}: memory grew by {grown_mb:.0f} MB, that of the other by {other_mb:.0f} MB")
        self._left -= 1
        if self._left:
            return
        self._left = len(KINDS)
        self._rounds_mb.append(beyond_mb)
        if beyond_mb > self._rounds_mb[0] + AGAIN_MB:
            told = ", ".join(f"{each:.0f}" for each in self._rounds_mb)
            self.complaints.append(f"memory grows with each round of attacks, MB beyond the other's: {told}")

    async def heal(self) -> None:
        """Tell the times."""
        for kind, times_s in self._times_s.items():
            figures: dict[str, Any] = {
                name: {
                    "answered": len(each),
                    **{f"p{part:g}_ms": round(share(each, part / 100) * 1000, 1) for part in (50, 99)},
                }
                for name, each in times_s.items()
            }
            peak = self._peaks[kind]
            self.figures[kind] = figures | {
                "peak_mb": round(peak.memory_mb), "peak_files": peak.files, "attack": self._attacks[kind]
            }  # fmt: skip
        if '"request_failed"' in self._victim.log_file.read_text("utf-8", "replace"):
            self.complaints.append(f"a request failed by a bug: {self._victim.log_file}")
        for peer in self.net.peers:
            before, after = self._before[peer], _look(peer)
            self.figures[peer.name] = {"before": before._asdict(), "after": after._asdict()}
        self.figures["rounds"] = {"beyond_mb": [round(each, 1) for each in self._rounds_mb]}
        self.figures["limits"] = {"daemon_files": _files_max(self._victim), "attacker_files": FILES}


def _look(peer: Peer) -> Sample:
    sample = look(peer)
    assert sample is not None, f"{peer.name} does not run"
    return sample


def _files_max(peer: Peer) -> int:
    """How many files a daemon may open."""
    limits = Path(f"/proc/{peer.pid}/limits").read_text()
    return int(next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3])
