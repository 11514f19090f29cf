"""Real daemons on real sockets: how soon and how fast they agree on what one of them has acknowledged."""

import asyncio
import itertools
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import msgpack
import orjson

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import MINERS, Devnet, Peer
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.model.requests import Add, sign_add
from tests.bench.load import answered, drive, post
from tests.bench.measure import ROUNDS, Ratio, costs, of_pairs, progress, share
from tests.bench.world import stream, uuids
from tests.support import VALIDATORS, body, hotkey

PEERS: Final = len(VALIDATORS)
TRIPS: Final = 100
TRIP_S_MAX: Final = 20.0
POLL_S: Final = 0.002
"""Between two looks at one peer: its answers cost it time that it would rather spend on events."""

DECIDED: Final = 240
DECIDED_GPUS: Final = 8
DECIDED_S_MAX: Final = 120.0
CLIENTS: Final = 18


class Trip(NamedTuple):
    """Seconds from the answer to a POST until the slowest other peer lists its GPU, and shows it as verified."""

    listed: float
    verified: float


def travel(directory: Path) -> Iterator[Ratio]:
    """How long what one daemon has acknowledged takes to the others, and until they have all voted on it."""
    trips = asyncio.run(_travel(directory / "travel"))
    listed, verified = [trip.listed for trip in trips], [trip.verified for trip in trips]
    yield costs(
        f"POST on one of {PEERS} peers until the slowest other one lists it: {_spread(listed)}",
        "what is allowed",
        1.0,
        " s",
        [(seconds, 1.0) for seconds in listed],
    )
    yield costs(
        f"POST on one of {PEERS} peers until the slowest other one shows it as verified: {_spread(verified)}",
        "until that one lists it",
        0.5,
        " s",
        [(trip.verified, trip.listed) for trip in trips],
    )


def _spread(seconds: list[float]) -> str:
    p50, p99 = statistics.median(seconds), share(seconds, 0.99)
    return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms of {len(seconds)}"


async def _travel(directory: Path) -> list[Trip]:
    net = Devnet(directory, free_ports(PEERS), report=lambda _: None)
    await net.start()
    trips: list[Trip] = []
    try:
        for number in range(TRIPS):
            origin = net.peers[number % PEERS]
            (uuid,) = uuids(number, 1)
            async with MinerClient([origin.url], hotkey(MINERS[0])) as client:
                await client.add(example_server([uuid], server_id=str(number)))
            begin = time.perf_counter()
            others = [_arrives(peer, uuid, begin) for peer in net.peers if peer is not origin]
            found = await asyncio.gather(*others)
            trips.append(Trip(max(trip.listed for trip in found), max(trip.verified for trip in found)))
            progress(f"travel: {number + 1} of {TRIPS}")
    finally:
        await net.stop()
    return trips


async def _arrives(peer: Peer, uuid: str, begin: float) -> Trip:
    """Look at one peer over one connection until it shows a GPU as verified."""
    listed: float | None = None
    connector = aiohttp.UnixConnector(str(peer.directory / "data" / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
        while (seconds := time.perf_counter() - begin) < TRIP_S_MAX:
            async with session.get(f"http://localhost/nodes?uuid={uuid}") as answer:
                rows = orjson.loads(await answer.read())
            seconds = time.perf_counter() - begin
            if rows and listed is None:
                listed = seconds
            if rows and listed is not None and rows[0]["status"] == "verified":
                return Trip(listed, seconds)
            await asyncio.sleep(POLL_S)
    raise SystemExit(f"{peer.name} does not show {uuid} as verified after {TRIP_S_MAX:g} s")


def decide(directory: Path) -> Iterator[Ratio]:
    """Claims that come in at all peers at once, until all three show all of them as verified, with verifier none.

    The floor: whatever the daemons do, each must check every request and every vote on it, and commit them. Three bare
    ledgers do just that and nothing else, at the same time on the same cores, with events that are in their hands.
    """
    wires = directory / "decide.events"
    wires.write_bytes(msgpack.packb([event.wire for event in stream(DECIDED, DECIDED_GPUS, PEERS)]))
    pairs = asyncio.run(_decide(directory / "decide", wires))
    yield of_pairs(
        f"claims of {DECIDED_GPUS} GPUs posted to {PEERS} peers, {DECIDED} at a time, until all show all as verified",
        f"{PEERS} bare ledgers at once, each verifying and committing the same requests and verdicts",
        0.3,
        pairs,
    )


async def _decide(directory: Path, wires: Path) -> list[tuple[float, float]]:
    """Claims per second of daemons and of bare ledgers, turn about; the first round warms up and is not counted."""
    ports = free_ports(PEERS)
    net = Devnet(directory, ports, report=lambda _: None)
    await net.start()
    numbers = itertools.count()
    pairs: list[tuple[float, float]] = []
    try:
        for number in range(ROUNDS + 1):
            posts = [post(_signed(next(numbers))) for _ in range(DECIDED)]
            begin = time.perf_counter()
            answered(await asyncio.to_thread(drive, ports, posts, CLIENTS), 202)
            for peer in net.peers:
                await _all_verified(peer, DECIDED * (number + 1), begin)
            ours = DECIDED / (time.perf_counter() - begin)
            pairs.append((ours, await asyncio.to_thread(_bare, wires, directory / str(number))))
            progress(f"decide: round {number} of {ROUNDS}")
    finally:
        await net.stop()
    return pairs[1:]


async def _all_verified(peer: Peer, claims: int, begin: float) -> None:
    """Wait until a peer's database, which is there for operators to read, has so many verified claims."""
    with closing(sqlite3.connect(f"{peer.database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT count(*) FROM claim WHERE status = 'verified'"
        while (found := connection.execute(query).fetchone()[0]) < claims:
            if time.perf_counter() - begin > DECIDED_S_MAX:
                raise SystemExit(f"{peer.name} shows {found} of {claims} claims as verified after {DECIDED_S_MAX:g} s")
            await asyncio.sleep(POLL_S)


def _bare(wires: Path, databases: Path) -> float:
    """Claims per second that as many bare ledgers as there are peers take in at the same time."""
    databases.mkdir()
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.bench.writer", str(wires), str(databases / f"{index}.db")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for index in range(PEERS)
        ]
        _await_line(writers, "ready")
        begin = time.perf_counter()
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        _await_line(writers, "done")
        return DECIDED / (time.perf_counter() - begin)


def _await_line(writers: "list[subprocess.Popen[str]]", expected: str) -> None:
    for writer in writers:
        assert writer.stdout is not None
        if (line := writer.stdout.readline().strip()) != expected:
            raise SystemExit(f"tests.bench.writer said {line!r}, expected {expected!r}")


def _signed(number: int) -> Add:
    miner = hotkey(MINERS[number % len(MINERS)])
    return sign_add(miner, int(time.time()), body(uuids(number, DECIDED_GPUS)))
