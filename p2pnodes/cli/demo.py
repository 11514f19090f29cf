"""``p2pnodes demo``: what p2pnodes does, shown on real processes in under a minute."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

if TYPE_CHECKING:
    from p2pnodes.devnet import Devnet, Peer
    from p2pnodes.model.keys import Hotkey

DEMO_S_MAX: Final = 60.0
WRITES: Final = 60
"""Registrations of one GPU each while a peer is killed."""

HOSTS: Final = 4
"""Servers that these GPUs are in: an agent answers only so many challenges a second."""

WRITERS: Final = 6
KILL_AFTER: Final = 20
"""Acknowledged writes after which the peer is killed."""

POLL_S: Final = 0.02
GPUS: Final = 8


class DemoError(P2PNodesError):
    """A step of the demo did not do what it shows."""

    code = Code.SYSTEM_DEVNET


def demo(*, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False) -> None:
    """Show in under a minute what p2pnodes does, with real daemons on this machine.

    Three validators, each with a daemon of its own, keep one inventory of GPUs: miners register servers, two of the
    validators check them, the third waves everything through and is outvoted, one is killed in the middle of writes,
    and in the end all three hold the same state. There are no real GPUs: the miners' agents answer from recordings.

    Nothing stays behind: keys, databases and ports are temporary. The exit code is 0 when every step held.
    """
    story = Story(quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="p2pnodes-demo-") as directory:
        asyncio.run(_run(story, Path(directory)))
    if as_json:
        print(json.dumps({"seconds": story.seconds, "steps": story.steps}))


class Story:
    """Tells the steps as they happen, each with its measured time."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console

        self._console = Console(quiet=quiet, highlight=False)
        self._begin = time.monotonic()
        self.steps: list[dict[str, Any]] = []
        self.current = "starting"

    @property
    def seconds(self) -> float:
        """Time since the demo began."""
        return round(time.monotonic() - self._begin, 3)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Measure one step and print it when it held."""
        self.current = title
        number = len(self.steps) + 1
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self.steps.append({"title": title, "seconds": round(seconds, 4)})
        took = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
        self._console.print(f"[green]{number}[/green]  [bold]{title}[/bold]  [cyan]{took}[/cyan]", soft_wrap=True)

    def say(self, line: str) -> None:
        """Explain what was just seen."""
        self._console.print(f"   {line}", soft_wrap=True)

    def headline(self, line: str) -> None:
        """Print a line of its own."""
        self._console.print(f"\n[bold]{line}[/bold]\n", soft_wrap=True)


async def _run(story: Story, directory: Path) -> None:
    from p2pnodes.devnet import Devnet

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    verify = [{"verifier": "nvml"}, {"verifier": "nvml"}, {"verifier": "none"}]
    net = Devnet(directory, free_ports(3), verify=verify, report=lambda _: None)
    try:
        async with asyncio.timeout(DEMO_S_MAX), contextlib.AsyncExitStack() as agents:
            await _tell(story, net, agents)
    except TimeoutError as error:
        raise DemoError(f"not done after {DEMO_S_MAX:g} s; it was at: {story.current}") from error
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except P2PNodesError as error:
        raise DemoError(f"step {len(story.steps) + 1}, “{story.current}”, failed: {error}") from error
    finally:
        await net.stop()


async def _tell(story: Story, net: "Devnet", agents: contextlib.AsyncExitStack) -> None:
    from p2pnodes.miner.client import MinerClient
    from p2pnodes.miner.example import example_server
    from p2pnodes.model.keys import Hotkey

    alice, charlie = Hotkey.from_uri("//Alice"), Hotkey.from_uri("//Charlie")
    first, second, third = net.peers
    story.headline("One inventory of GPUs, kept by three validators together, without a central database")
    with story.step("Three daemons start, each with its own key, database and port, and find each other"):
        await net.start()
    for peer in net.peers:
        story.say(f"{peer.name}  {peer.url}  validator {peer.hotkey_uri}, a third of the stake")
    story.say("peer0 and peer1 ask the agents on the miners' hosts (verifier nvml), peer2 votes without a look (none)")

    uuids = [f"{0xA11CE << 64 | index:032x}" for index in range(GPUS)]
    port = await _serve(agents, alice, uuids)
    async with MinerClient([first.url], alice) as client:
        request = client.sign_add(example_server(uuids, server_id="alice-1", port=port))
        with story.step(f"The miner //Alice registers a server with {GPUS} GPUs at peer0"):
            registration = await client.send(request)
    story.say("the request is signed by the miner; peer0 wrote it to its log, on disk, before it answered")
    story.say(f"task {registration.task_id.partition('::')[2]}, seed {registration.seed}")

    with story.step("The claim travels, validators vote, and peer2 shows the GPUs as verified"):
        await _until(lambda: _have_votes(third, uuids[0], 2), "peer2 does not show the verdicts of two validators")
        await _until(lambda: _have_status(third, uuids, "verified"), "peer2 does not show all GPUs as verified")
    story.say(
        f"{len(await _votes(third, uuids[0]))} signed verdicts had reached peer2; more than half of the stake decides"
    )

    claimed = [f"{0xC4A7 << 64 | index:032x}" for index in range(GPUS)]
    with story.step(f"//Charlie claims {GPUS} GPUs, but his server has {GPUS - 1}: the claim fails on every peer"):
        port = await _serve(agents, charlie, claimed[:-1])
        async with MinerClient([third.url], charlie) as client:
            await client.add(example_server(claimed, server_id="charlie-1", port=port))
        for peer in net.peers:
            await _until(partial(_have_status, peer, claimed, "failed"), f"the claim has not failed on {peer.name}")
        await _until(lambda: _have_votes(first, claimed[0], 3), "peer0 does not show three verdicts")
    found = await _votes(first, claimed[0])
    names = {Hotkey.from_uri(peer.hotkey_uri).address: peer.name for peer in net.peers}
    told = ", ".join(f"{name} {found[address]}" for address, name in names.items())
    _require(told == "peer0 failed, peer1 failed, peer2 verified", f"the votes are: {told}")
    story.say(f"{told}: who votes without a look is outvoted; //Charlie reads:")
    story.say(f"“{(await first.ask(f'/nodes?uuid={claimed[0]}'))[0]['detail']}”")

    with story.step("//Alice repeats the same signed request, at peer1 this time: one claim, not two"):
        async with MinerClient([second.url], alice) as client:
            again = await client.send(request)
        _require(again.task_id == registration.task_id, "the retry got another task")
        _require(again.seed == registration.seed, "the retry got another seed")
        claims = await second.ask(f"/claims?hotkey={alice.address}")
        _require(len(claims) == 1, "the retry made a second claim")
    story.say("a retry is free: any peer, any number of times, the same task and the same seed")

    with story.step(f"//Bob registers {WRITES} GPUs at all peers; peer2 is killed (kill -9) in the middle"):
        acknowledged, by_third = await _write_and_kill(net, agents)
    story.say(f"{len(acknowledged)} writes were acknowledged, {by_third} of them by peer2 before it died")
    with story.step("peer2 starts again and catches up by itself"):
        third.wanted.set()
        await _until(lambda: _holds(third, acknowledged), "peer2 lacks writes that were acknowledged")
        await net.ready(third)
    story.say("nothing that was acknowledged is lost, neither what peer2 wrote nor what it missed")

    with story.step("//Alice deletes one GPU at peer1, and it is gone everywhere"):
        async with MinerClient([second.url], alice) as client:
            await client.delete(uuids[0])
        for peer in net.peers:
            await _until(partial(_lacks, peer, uuids[0]), f"{peer.name} still lists the deleted GPU")

    with story.step("All three show the same state"):
        await _until(lambda: _agree(net), "the state roots differ")
    status = await first.status()
    for peer in net.peers:
        theirs = await peer.status()
        story.say(f"{peer.name}  state root {theirs['state_root']}  {theirs['nodes']} GPUs, {theirs['events']} events")
    _require(status["nodes"] >= GPUS - 1 + len(acknowledged), "GPUs are missing")
    story.headline(f"Every step held; {story.seconds:.1f} s in all")


async def _serve(agents: contextlib.AsyncExitStack, miner: "Hotkey", uuids: list[str]) -> int:
    """Start a miner's agent on a host with these GPUs, as ``p2pnodes miner serve`` does; its port."""
    import structlog

    from p2pnodes.miner.agent import Agent
    from p2pnodes.miner.example import example_answers

    # The agents run in this process, and what they log would stand between the steps.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    answers = example_answers(uuids)
    agent = Agent(miner, lambda: answers, allow=None)
    await agent.start()
    agents.push_async_callback(agent.stop)
    return agent.port


async def _write_and_kill(net: "Devnet", agents: contextlib.AsyncExitStack) -> tuple[set[str], int]:
    """Register GPUs at all peers at once and kill the last peer meanwhile; what was acknowledged, and by it alone."""
    from p2pnodes.miner.client import ApiUnreachableError, MinerClient
    from p2pnodes.miner.example import example_server
    from p2pnodes.model.keys import Hotkey

    bob = Hotkey.from_uri("//Bob")
    victim = net.peers[-1]
    acknowledged: set[str] = set()
    by_victim = 0
    uuids = [f"{0xB0B << 64 | index:032x}" for index in range(WRITES)]
    ports = [await _serve(agents, bob, uuids[host::HOSTS]) for host in range(HOSTS)]
    waiting = [(net.peers[index % 3], uuid, ports[index % HOSTS]) for index, uuid in enumerate(uuids)]

    async def write() -> None:
        nonlocal by_victim
        while waiting:
            peer, uuid, port = waiting.pop()
            async with MinerClient([peer.url], bob, retries=0) as client:
                try:
                    await client.add(example_server([uuid], server_id=uuid, port=port))
                except ApiUnreachableError:
                    if peer is not victim:
                        raise
                    continue  # not acknowledged: a miner would now ask another peer
            acknowledged.add(uuid)
            by_victim += peer is victim
            if len(acknowledged) == KILL_AFTER:
                victim.wanted.clear()
                victim.kill()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(write())
    except* P2PNodesError as errors:
        raise DemoError(f"a write failed: {errors.exceptions[0]}") from errors
    _require(by_victim > 0, "peer2 acknowledged nothing before it was killed")
    return acknowledged, by_victim


async def _have_status(peer: "Peer", uuids: list[str], status: str) -> bool:
    rows = await peer.ask(f"/nodes?status={status}&limit=10000")
    return set(uuids) <= {row["uuid"] for row in rows}


async def _votes(peer: "Peer", uuid: str) -> dict[str, str]:
    """Validator -> finding, of the claim that owns a GPU, as a peer knows them."""
    rows = await peer.ask(f"/nodes?uuid={uuid}")
    verdicts = await peer.ask(f"/verdicts?claim_id={rows[0]['claim_id']}") if rows else []
    return {verdict["validator"]: verdict["finding"] for verdict in verdicts}


async def _have_votes(peer: "Peer", uuid: str, count: int) -> bool:
    return len(await _votes(peer, uuid)) >= count


async def _holds(peer: "Peer", uuids: set[str]) -> bool:
    return uuids <= {row["uuid"] for row in await peer.ask("/nodes?limit=10000")}


async def _lacks(peer: "Peer", uuid: str) -> bool:
    return not await peer.ask(f"/nodes?uuid={uuid}")


async def _agree(net: "Devnet") -> bool:
    states = [await peer.status() for peer in net.peers]
    return len({(s["state_root"], s["vector_digest"], s["electorate"]["digest"]) for s in states}) == 1


async def _until(condition: Callable[[], Awaitable[bool]], failure: str, within_s: float = 20.0) -> None:
    """Poll a condition until it holds; a peer that does not answer does not meet it."""
    from p2pnodes.devnet import DevnetError

    deadline = time.monotonic() + within_s
    while True:
        try:
            if await condition():
                return
        except DevnetError as error:
            failure_now = f"{failure}: {error}"
        else:
            failure_now = failure
        if time.monotonic() > deadline:
            raise DemoError(f"{failure_now} (waited {within_s:g} s)")
        await asyncio.sleep(POLL_S)


def _require(held: bool, failure: str) -> None:
    if not held:
        raise DemoError(failure)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
