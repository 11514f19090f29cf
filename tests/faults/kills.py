"""Processes that are killed or stand still, at any moment: in a commit, in a start, alone or all at once."""

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from p2pnodes.devnet import DevnetError, Peer
from p2pnodes.store.checkpoints import Stage
from tests.e2e.waiting import eventually
from tests.faults.arena import Scene, in_time
from tests.faults.miners import PAUSE_S

NEW_S_MAX: Final = 180.0
"""Within this time a checkpoint comes: the first one when something is older than the horizon of a minute."""


LOADING_S: Final = 0.25
"""Longest pause before a daemon that loads is killed; a few thousand events are loaded in twice of it."""


class Kill(Scene):
    """``kill -9``."""

    name = "kill"
    what = "kill -9 of one, two or all daemons at random moments, also while they start"
    strikes = 1_000
    short = 6

    async def strike(self) -> str:
        """Kill some, and start them again one after the other."""
        count = self.rng.choices((1, 2, 3), (7, 2, 1))[0]
        victims = self.rng.sample(self.net.peers, count)
        await asyncio.gather(*(self.kill(peer) for peer in victims))
        for peer in victims:
            await asyncio.sleep(self.rng.uniform(0, 0.5))
            self.revive(peer)
        return f"{count} killed"


class Cut(Kill):
    """``kill -9`` while logs are cut; the shortest horizon that there is brings a checkpoint every few seconds."""

    name = "cut"
    what = "kill -9 while checkpoints are proposed, signed and put in force, and what they leave out is taken away"
    strikes = 100
    short = 3
    epoch_s = 3.0
    rest_s = 3 * PAUSE_S
    """A live set is searched every ten seconds here, not once a day: thirty writes a second leave over ten thousand
    events in it after a quarter of an hour, and on a busy machine the search alone would take longer than that."""

    parameters: Mapping[str, Any] = MappingProxyType({"horizon_s": 60, "verdict_ttl_s": 60})

    async def strike(self) -> str:
        """Wait for a checkpoint that nobody had before, and kill right behind it."""
        seen = max(await self._numbers(), default=0)

        async def new() -> bool:
            return max(await self._numbers(), default=0) > seen

        with in_time(f"a checkpoint above number {seen} is in force", NEW_S_MAX):
            await eventually(new, NEW_S_MAX)
        self.figures["checkpoints"] = self.figures.get("checkpoints", 0) + 1
        await asyncio.sleep(self.rng.uniform(0, 1))
        return await super().strike()

    async def _numbers(self) -> list[int]:
        """The checkpoints in force on the daemons that answer."""
        found = []
        for peer in self.net.peers:
            with suppress(DevnetError):
                found.append(int((await peer.status())["checkpoint"]["number"]))
        return found


class Away(Cut):
    """A daemon comes back to others that have forgotten what it lacks, and takes over what they agreed on.

    Three of four agree without it. Nobody asks it for anything: what it had acknowledged and told nobody before it went
    would be void by now, as design.md has it.
    """

    name = "away"
    what = "kill -9 of a daemon that was away for longer than a horizon, while it loads the others' live set"
    strikes = 20
    short = 1
    peers = 4

    def apis(self) -> dict[str, str]:
        """All but that of the one that goes away."""
        return {peer.name: peer.url for peer in self.net.peers[:-1]}

    async def strike(self) -> str:
        """Stop the daemon until it has to load, and kill it again and again while it does."""
        away = self.net.peers[-1]
        await self.shut(away)
        gone_s = time.time()

        async def forgotten() -> bool:
            status = await self.net.peers[0].status()
            due_at = status["checkpoint"]["due_at"]
            return due_at is not None and due_at - self.net.network.horizon_s > gone_s

        with in_time("the others have cut away what the one that is away lacks", NEW_S_MAX):
            await eventually(forgotten, NEW_S_MAX)
        kills = self.rng.randint(2, 5)
        for _ in range(kills):
            self.revive(away)
            with in_time(f"{away.name} loads a live set", NEW_S_MAX):
                await eventually(partial(_loads, away), NEW_S_MAX)
                await eventually(partial(_is_up, away), NEW_S_MAX)  # the file says so since the kill before, too
            await asyncio.sleep(self.rng.uniform(0, LOADING_S))
            await self.kill(away)
            stage = _stage(away)
            self.figures[stage] = self.figures.get(stage, 0) + 1
            if stage != Stage.LOADING:  # it has it, and loads nothing any more
                break
        self.revive(away)
        with in_time(f"{away.name} has loaded the live set", NEW_S_MAX):
            await eventually(partial(_has_loaded, away), NEW_S_MAX)
        return "killed while it loads"


def _stage(peer: Peer) -> str:
    """How far a daemon is with the latest checkpoint that holds on it, from its file."""
    query = "SELECT stage FROM certificate WHERE stage <> 'known' ORDER BY number DESC LIMIT 1"
    connection = sqlite3.connect(f"file:{peer.database}?mode=ro", uri=True)
    try:
        found = connection.execute(query).fetchone()
    finally:
        connection.close()
    return "" if found is None else found[0]


async def _loads(peer: Peer) -> bool:
    return _stage(peer) == Stage.LOADING


async def _is_up(peer: Peer) -> bool:
    """Whether a daemon that has to load does by its own word, or has done so."""
    return (await peer.status())["checkpoint"]["loading"] is not None or not await _loads(peer)


async def _has_loaded(peer: Peer) -> bool:
    return _stage(peer) in {Stage.CUTTING, Stage.DONE} and (await peer.status())["checkpoint"]["loading"] is None


class Pause(Scene):
    """``kill -STOP`` and ``-CONT``: to the others, a process that stands still is one that hangs."""

    name = "pause"
    what = "one or two daemons stand still for up to 12 s, as behind a disk that hangs or in a machine that is moved"
    strikes = 200
    short = 2

    async def strike(self) -> str:
        """Stop some for a while."""
        count = self.rng.choices((1, 2), (3, 1))[0]
        victims = self.rng.sample(self.net.peers, count)
        for peer in victims:
            self.frozen(peer, stopped=True)
        await asyncio.sleep(self.rng.choice((0.2, 1, 3, 12)))
        for peer in victims:
            self.frozen(peer, stopped=False)
        return f"{count} stopped"
