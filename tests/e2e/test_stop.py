"""A daemon that is told to stop ends, also where a plugin does not let go."""

import os
import signal
import time
from pathlib import Path

from p2pnodes.daemon import STOP_S_MAX
from tests.e2e.single import Single, settings_of

PLUGIN = """
import asyncio
from p2pnodes.verify.verifier import NoneVerifier

class Clinging(NoneVerifier):
    method = "clinging"

    async def close(self):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
"""


async def test_a_plugin_that_never_lets_go_does_not_hold_it_up_for_ever(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "clinging-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "clinging.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clinging\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[p2pnodes.verifiers]\nclinging = clinging:Clinging\n")
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = settings_of(tmp_path) | {"verify": {"verifier": "clinging"}}
    daemon = Single(tmp_path, settings, {"PYTHONPATH": paths})
    try:
        await daemon.listening()
        begin = time.monotonic()
        os.kill(daemon.pid, signal.SIGTERM)
        assert await daemon.ended() == 1
        assert time.monotonic() - begin > STOP_S_MAX - 1
        told = await daemon.until("stop_given_up")
        assert [task for task in told["tasks"] if task.startswith("Daemon.run > ") and " > Clinging.close > " in task]
    finally:
        await daemon.stop()
