"""Clocks that jump by minutes and hours, forwards and back, under running daemons."""

import asyncio
import os
import random
from pathlib import Path
from typing import Final

from tests import e2e
from tests.faults.arena import Scene

SKEW: Final = Path(e2e.__file__).with_name("skew")
"""Puts a clock that is wrong into a Python process."""

JUMPS_S: Final = (-6 * 3600, -600, -40, 40, 600, 6 * 3600)
HOLD_S: Final = (0.2, 2.0, 10.0)
"""For how long a clock is wrong: too short to be noticed, noticed, and so long that its peers have left it alone."""


class Clock(Scene):
    """The wall clock of one daemon."""

    name = "clock"
    what = "the clock of one daemon jumps by up to six hours, forwards or back, and after up to 10 s it is right again"
    strikes = 200
    short = 2

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self._skews = {peer: directory / f"{peer.name}.skew" for peer in self.net.peers}
        for peer, skew in self._skews.items():
            path = os.pathsep.join(filter(None, (str(SKEW), os.environ.get("PYTHONPATH"))))
            peer.environment = {"PYTHONPATH": path, "SKEW_FILE": str(skew)}

    async def strike(self) -> str:
        """Let one clock jump and come back; sometimes the daemon is killed meanwhile."""
        peer = self.rng.choice(self.net.peers)
        jump_s, hold_s = self.rng.choice(JUMPS_S), self.rng.choice(HOLD_S)
        killed = self.rng.random() < 0.2
        self._skews[peer].write_text(str(jump_s))
        if killed:
            await self.kill(peer)
            self.revive(peer)
        await asyncio.sleep(hold_s)
        self._skews[peer].write_text("0")
        return f"{'forwards' if jump_s > 0 else 'back'}{', killed' if killed else ''}"
