"""A hundred servers of eight GPUs, each with its agent, are verified through real sockets, and liars are named."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet
from p2pnodes.miner.agent import Agent
from p2pnodes.miner.client import MinerClient, TaskFailedError
from p2pnodes.miner.example import example_answers, example_server
from tests.e2e.test_network import agree, rows
from tests.e2e.waiting import eventually
from tests.support import MINERS, hotkey

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SERVERS = 100
GPUS = 8
AT_ONCE = 8
WITHIN_S = 240.0
UUIDS = (f"{number:032x}" for number in itertools.count(1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    net = Devnet(tmp_path_factory.mktemp("net"), free_ports(3), verify=[{"verifier": "nvml"}], report=lambda _: None)
    await net.start()
    yield net
    await net.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def agents() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def serve(agents: AsyncExitStack, miner: str, uuids: list[str]) -> int:
    """Start an agent of a miner whose host has these GPUs; its port."""
    answers = example_answers(uuids)
    agent = Agent(hotkey(miner), lambda: answers, allow=[hotkey(f"//validator{index}").address for index in range(3)])
    await agent.start()
    agents.push_async_callback(agent.stop)
    return agent.port


async def test_a_hundred_servers_of_eight_gpus_are_verified(net: Devnet, agents: AsyncExitStack) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def register(number: int) -> list[str]:
        miner = MINERS[number % len(MINERS)]
        uuids = [next(UUIDS) for _ in range(GPUS)]
        port = await serve(agents, miner, uuids)
        async with room, MinerClient([net.urls[number % 3]], hotkey(miner)) as client:
            await client.add(example_server(uuids, server_id=f"server-{number}", port=port))
        return uuids

    registered = await asyncio.gather(*(register(number) for number in range(SERVERS)))
    expected = set(itertools.chain.from_iterable(registered))

    async def verified_everywhere() -> bool:
        found = [await rows(peer) for peer in net.peers]
        return all(
            row.keys() == expected and {each["status"] for each in row.values()} == {"verified"} for row in found
        )

    await eventually(verified_everywhere, within_s=WITHIN_S)
    await eventually(lambda: agree(net))
    methods = {verdict["method"] for verdict in await net.peers[0].ask("/verdicts?limit=10000")}
    assert methods == {"nvml"}


async def test_a_server_without_one_of_its_gpus_fails_and_is_told_which(net: Devnet, agents: AsyncExitStack) -> None:
    uuids = [next(UUIDS) for _ in range(GPUS)]
    port = await serve(agents, "//Alice", uuids[:-1])
    async with MinerClient([net.urls[0]], hotkey("//Alice")) as client:
        task = (await client.add(example_server(uuids, server_id="short", port=port))).task_id
        with pytest.raises(TaskFailedError, match=uuids[-1]):
            await client.wait_verified(task, timeout_s=WITHIN_S)


async def test_another_miners_agent_does_not_speak_for_a_claim(net: Devnet, agents: AsyncExitStack) -> None:
    uuids = [next(UUIDS) for _ in range(GPUS)]
    port = await serve(agents, "//Bob", uuids)
    async with MinerClient([net.urls[1]], hotkey("//Alice")) as client:
        task = (await client.add(example_server(uuids, server_id="stolen", port=port))).task_id
        with pytest.raises(TaskFailedError):
            await client.wait_verified(task, timeout_s=WITHIN_S)
