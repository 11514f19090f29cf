"""Processes that are killed or stand still, at any moment: in a commit, in a start, alone or all at once."""

import asyncio

from tests.faults.arena import Scene


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
