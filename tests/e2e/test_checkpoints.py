"""Checkpoints on real daemons: logs are cut while miners go on, and nobody misses anything."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.store.audit import audit
from tests.e2e.test_network import rows
from tests.e2e.test_permits import add
from tests.e2e.waiting import eventually

PARAMETERS: Final = {"horizon_s": 60, "verdict_ttl_s": 60}
"""The shortest horizon that there is."""

GPUS: Final = 80
"""More than a slice has leaves."""

IN_FORCE_S: Final = 150.0
"""Within this time a checkpoint comes: events must be older than the horizon, and the number must be due."""


async def checkpoint(peer: Peer) -> dict[str, Any]:
    """What a daemon says of checkpoints."""
    found: dict[str, Any] = (await peer.status())["checkpoint"]
    return found


async def test_logs_are_cut_and_rows_stay(tmp_path: Path) -> None:
    """What is older than the horizon goes from all disks; rows, roots and an audit say that nothing is missing."""
    net = Devnet(tmp_path / "net", free_ports(3), epoch_s=2, parameters=PARAMETERS, report=lambda _: None)
    await net.start()
    try:
        for number, peer in enumerate(net.peers):
            await add(peer, f"gpu-{number}")

        async def shown() -> bool:
            return all([len(await rows(peer)) == 3 for peer in net.peers])

        await eventually(shown)

        async def in_force() -> bool:
            said = [await checkpoint(peer) for peer in net.peers]
            return said[0]["number"] > 0 and all(each["number"] == said[0]["number"] for each in said)

        await eventually(in_force, IN_FORCE_S)
        await add(net.peers[0], "gpu-3")

        async def all_four() -> bool:
            status = [await peer.status() for peer in net.peers]
            same = len({each["state_root"] for each in status}) == 1
            return same and all([len(await rows(peer)) == 4 for peer in net.peers])

        await eventually(all_four)
        net.peers[1].kill()  # the devnet starts it again
        await eventually(all_four)
    finally:
        await net.stop()
    for peer in net.peers:
        report = audit(peer.directory / "data/p2pnodes.db", net.network)
        assert report.problems == []
        assert report.rows == 4


@pytest.mark.timeout(4 * IN_FORCE_S)
async def test_a_daemon_that_lost_its_disk_loads_what_stands(tmp_path: Path) -> None:
    """The events are gone on all disks; what they left comes over in slices, and the daemon takes writes again.

    Its disk is slow: electorates come faster than the rows that follow from the live set.
    """
    net = Devnet(tmp_path / "net", free_ports(3), epoch_s=2, parameters=PARAMETERS, report=lambda _: None)
    await net.start()
    try:
        await asyncio.gather(*(add(net.peers[number % 3], f"gpu-{number}") for number in range(GPUS)))
        said_s = time.time()

        async def cut() -> bool:
            said = [await checkpoint(peer) for peer in net.peers]
            return all((each["due_at"] or 0) > said_s + PARAMETERS["horizon_s"] for each in said)

        await eventually(cut, IN_FORCE_S)
        newcomer = net.peers[2]
        slow = [str(Path(__file__).with_name("slow")), *filter(None, [os.environ.get("PYTHONPATH")])]
        newcomer.environment = {"PYTHONPATH": os.pathsep.join(slow)}
        newcomer.kill()
        await newcomer.wait()
        for path in (newcomer.directory / "data").glob("p2pnodes.db*"):  # before the devnet starts it again
            path.unlink()

        async def whole() -> bool:
            status = [await peer.status() for peer in net.peers]
            return len({(each["state_root"], each["vector_digest"]) for each in status}) == 1

        await eventually(whole, IN_FORCE_S)
        assert len(await rows(newcomer)) == GPUS
        told = [orjson.loads(line) for line in newcomer.log_file.read_bytes().splitlines()]
        assert [line["event"] for line in told if line["event"] in {"checkpoint_loading", "checkpoint_loaded"}] == [
            "checkpoint_loading",
            "checkpoint_loaded",
        ]
        assert max(line["of"] for line in told if line["event"] == "checkpoint_slices") > 1

        async def writes() -> bool:
            return not (await newcomer.status())["ready"]

        await eventually(writes, IN_FORCE_S)
        await add(newcomer, "gpu-more")

        async def heard() -> bool:
            return all([len(await rows(peer)) == GPUS + 1 for peer in net.peers])

        await eventually(heard)
    finally:
        await net.stop()
    for peer in net.peers:
        report = audit(peer.directory / "data/p2pnodes.db", net.network)
        assert report.problems == []
        assert report.rows == GPUS + 1
