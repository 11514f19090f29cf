"""Four validators of unequal stake, one of them lying: every claim ends as the honest majority says, on every peer."""

import itertools
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pnodes.chain.wallet import create_node_key
from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.model.events import LogId, delegate
from p2pnodes.store.database import Database
from tests.e2e.test_network import agree, rows
from tests.e2e.waiting import eventually
from tests.support import hotkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

STAKES = (40, 30, 20, 10)
NOBODY = 9
NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    """Four daemons whose verifier comes from a package that is no part of p2pnodes."""
    site = tmp_path_factory.mktemp("site-packages")
    shutil.copy(Path(__file__).with_name("scripted_verifier.py"), site)
    info = site / "scripted_verifier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-verifier\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[p2pnodes.verifiers]\nscripted = scripted_verifier:ScriptedVerifier\n")
    directory = tmp_path_factory.mktemp("net")
    verify = [
        {"verifier": "scripted", "options": {"index": index, "hold": str(directory / f"hold{index}")}}
        for index in range(len(STAKES))
    ]
    net = Devnet(directory, free_ports(len(STAKES)), stakes=STAKES, verify=verify, report=lambda _: None)
    for peer in net.peers:
        await begin_long_ago(net, peer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        await net.start()
        yield net
        await net.stop()


async def begin_long_ago(net: Devnet, peer: Peer) -> None:
    """Give a peer a log that is older than a verdict lives: the silence of the young is left out of the vote."""
    begun_ms = int(time.time() - 2 * net.network.verdict_ttl_s) * 1000
    peer.database.parent.mkdir(parents=True)
    node_key = create_node_key(peer.database.parent / "node.key")
    log = LogId(node_key.public_key, begun_ms // 1000)
    delegation = delegate(
        hotkey(peer.hotkey_uri), net.network.id, log, url=peer.url, not_before=log.number, not_after=log.number + 10**7
    )
    database = await Database.open(peer.database, net.network, node_key, now_ms=lambda: begun_ms)
    await database.write(lambda ledger: ledger.open_log(log.number, delegation, begun_ms))
    await database.close()


async def register(net: Devnet, truth: str, liar: int, at: int) -> str:
    """Claim one GPU at a peer; its uuid."""
    uuid = f"{truth}-{liar}-{next(NUMBERS)}"
    async with MinerClient([net.urls[at]], hotkey("//Alice")) as client:
        await client.add(example_server([uuid], server_id=uuid))
    return uuid


async def ended(peers: list[Peer], uuid: str, status: str) -> bool:
    found = [(await rows(peer)).get(uuid) for peer in peers]
    return {row["status"] if row else None for row in found} == {status}


async def votes(peer: Peer, uuid: str) -> dict[str, str]:
    """Validator -> finding, as a peer knows them."""
    row = (await rows(peer)).get(uuid)
    verdicts = [] if row is None else await peer.ask(f"/verdicts?claim_id={row['claim_id']}")
    return {vote["validator"]: vote["finding"] for vote in verdicts}


def down(peer: Peer) -> None:
    peer.wanted.clear()
    peer.kill()


@pytest.mark.parametrize("liar", range(len(STAKES)))
async def test_whoever_lies_the_honest_majority_is_right_everywhere(net: Devnet, liar: int) -> None:
    good, bad = await register(net, "good", liar, liar), await register(net, "bad", liar, (liar + 1) % 4)
    await eventually(lambda: ended(net.peers, good, "verified"))
    await eventually(lambda: ended(net.peers, bad, "failed"))
    await eventually(lambda: agree(net))
    details = {(await rows(peer))[bad]["detail"] for peer in net.peers}
    assert len(details) == 1
    assert details <= {f"validator {index} says no" for index in range(4) if index != liar}


@pytest.mark.parametrize(("truth", "status", "returns"), [("good", "verified", 0), ("bad", "failed", 2)])
async def test_with_40_percent_of_the_stake_a_claim_stays_pending_until_one_returns(
    net: Devnet, truth: str, status: str, returns: int
) -> None:
    """The 40 and the 20 are offline: the 30 and the 10 have both voted, and that decides nothing."""
    offline = [net.peers[0], net.peers[2]]
    up = [net.peers[1], net.peers[3]]
    for peer in offline:
        down(peer)
    uuid = await register(net, truth, NOBODY, 1)

    async def both_voted() -> bool:
        return all([len(await votes(peer, uuid)) == 2 for peer in up])

    await eventually(both_voted)
    assert await ended(up, uuid, "pending")
    back = net.peers[returns]
    back.wanted.set()
    # The 20 hears of its own log from just half of the other stake, and so opens a new one after 30 s (rule 4).
    await eventually(lambda: ended([*up, back], uuid, status), within_s=75)
    for peer in offline:
        peer.wanted.set()
    await eventually(lambda: ended(net.peers, uuid, status))
    await eventually(lambda: agree(net))


@pytest.mark.parametrize("index", range(len(STAKES)))
async def test_kill_9_in_mid_challenge_neither_loses_nor_doubles_a_verdict(net: Devnet, index: int) -> None:
    victim = net.peers[index]
    holds = [net.directory / f"hold{place}" for place in range(len(STAKES))]
    for hold in holds:
        hold.touch()
    try:
        uuid = await register(net, "good", NOBODY, (index + 1) % 4)

        async def begun() -> bool:
            return bool(holds[index].read_text())

        await eventually(begun)
        down(victim)
        await eventually(lambda: gone(victim))
    finally:
        for hold in holds:
            hold.unlink()
    victim.wanted.set()
    await eventually(lambda: ended(net.peers, uuid, "verified"))
    address = hotkey(victim.hotkey_uri).address

    async def voted_once_each() -> bool:
        claims = await victim.ask(f"/verdicts?validator={address}&limit=10000")
        events = await victim.ask(f"/events?kind=verdict&author={address}&limit=10000")
        return len(claims) == len(events) and address in await votes(victim, uuid)

    await eventually(voted_once_each)
    await eventually(lambda: agree(net))


async def gone(peer: Peer) -> bool:
    return peer.pid is None
