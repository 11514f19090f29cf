"""Whoever attacks a daemon's gossip port costs itself: events of honest validators go on, and memory stays.

Two daemons that know each other; one of them is attacked, while miners post at the other. ``HONEST_S_MAX`` and
``GROWTH_MB_MAX`` are the bounds of docs/protocol.md, "Bounds".
"""

import asyncio
import itertools
import re
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.connections import CONNECTIONS_MAX
from p2pnodes.devnet import Devnet, Peer
from p2pnodes.gossip import rates
from p2pnodes.gossip.channel import HEARTBEAT
from p2pnodes.gossip.frames import Digest, Events, Have, Link, Mode, News, Range, Want, decode
from p2pnodes.gossip.handshake import HandshakeError
from p2pnodes.gossip.lobby import GUESTS_MAX
from p2pnodes.gossip.rates import Rate
from p2pnodes.hardening import raise_file_limit
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.model import codec
from p2pnodes.model.codec import DIGEST_BYTES
from p2pnodes.model.events import LogId
from tests.e2e.hostile import Attacker, Op, connection, session, websocket, wire
from tests.e2e.waiting import POLL_S, eventually
from tests.support import MINERS, hotkey

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how large a process is"),
]

HONEST_S_MAX: Final = 10.0
"""An honest event is on the attacked daemon this long after it was acknowledged at the other, at most. Without attacks
it takes some 20 ms, with them 0.2 s; the rest is for machines that are busy with other tests."""

HONEST_EVENTS: Final = 3
"""So many honest events at least go on while an attack lasts."""

GROWTH_MB_MAX: Final = 32
"""All attacks together let the daemon's memory grow by no more than this."""

UUIDS = (f"honest-{number}" for number in itertools.count())
MALLORYS = (f"//Mallory{number}" for number in itertools.count())
"""Hotkeys of attackers, each for one attack: whoever was banned is out."""

HASH: Final = bytes(DIGEST_BYTES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    """The attacked daemon and the one that miners post at; both take observers, so anybody gets a session."""
    raise_file_limit()
    net = Devnet(tmp_path_factory.mktemp("net"), free_ports(2), report=lambda _: None)
    await net.start()
    yield net
    await net.stop()


@pytest.fixture
def victim(net: Devnet) -> Peer:
    return net.peers[0]


def resident_mb(peer: Peer) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{peer.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


class Honest:
    """Posts registrations at one daemon, one after the other, and measures when the other has each."""

    def __init__(self, net: Devnet) -> None:
        self.net = net
        self.delays_s: list[float] = []

    async def post(self) -> None:
        """One registration, until the attacked daemon has it."""
        uuid = next(UUIDS)
        miner = hotkey(MINERS[len(self.delays_s) % len(MINERS)])
        async with MinerClient([self.net.urls[1]], miner, retries=0) as client:
            await client.add(example_server([uuid], server_id=uuid))
        since_s = time.monotonic()

        async def there() -> bool:
            return any(row["uuid"] == uuid for row in await self.net.peers[0].ask("/nodes?limit=10000"))

        await eventually(there)
        self.delays_s.append(time.monotonic() - since_s)

    async def go_on(self) -> None:
        """Post until cancelled."""
        while True:
            await self.post()
            await asyncio.sleep(POLL_S)


async def attack(net: Devnet, work: Callable[[], Awaitable[None]]) -> None:
    """Attack again and again while honest events flow, then check that nothing happened to them."""
    honest = Honest(net)
    before = await neighbour(net)
    posting = asyncio.create_task(honest.go_on())
    try:
        while len(honest.delays_s) < HONEST_EVENTS:
            await work()
            if posting.done():
                await posting  # raises what ended it
                raise AssertionError("honest posts have ended")
    finally:
        posting.cancel()
        with suppress(asyncio.CancelledError):
            await posting
    await honest.post()
    assert max(honest.delays_s) < HONEST_S_MAX, honest.delays_s
    assert await neighbour(net) == before, "the honest session did not survive"
    assert resident_mb(net.peers[0]) < START_MB[net] + GROWTH_MB_MAX


START_MB: dict[Devnet, float] = {}


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def measured(net: Devnet) -> None:
    """Know how large the daemon was before the first attack, once it has done all that it does."""
    if net not in START_MB:
        await Honest(net).post()
        START_MB[net] = resident_mb(net.peers[0])


async def neighbour(net: Devnet) -> int:
    """Since when the attacked daemon has its session with the honest one."""
    (row,) = (row for row in await net.peers[0].ask("/peers") if row["hotkey"] == net.peers[1].hotkey.address)
    assert row["connected"]
    since: int = row["since"]
    return since


async def banned(victim: Peer, uri: str) -> dict[str, Any]:
    """The ban of a hotkey, as operators see it."""
    bans = {ban["hotkey"]: ban for ban in (await victim.status())["gossip"]["bans"]}
    ban: dict[str, Any] = bans[hotkey(uri).address]
    return ban


async def told(victim: Peer, reason: str) -> None:
    """Wait until the daemon's log gives a reason."""

    async def said() -> bool:
        return reason in victim.log_file.read_text()

    await eventually(said)


async def log_of(peer: Peer) -> LogId:
    """The log that a daemon writes."""
    status = await peer.status()
    return LogId(bytes.fromhex(status["node_key"]), status["log"]["number"])


class TestStrangers:
    """Who has proved nothing has no session to lose: its connection ends, and the log says why."""

    async def test_thousands_of_connections_from_one_address(self, net: Devnet, victim: Peer) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(CONNECTIONS_MAX + 200, soft - 300)

        async def work() -> None:
            async with AsyncExitStack() as stack:
                for _ in range(count):
                    await stack.enter_async_context(connection(victim.url))

                async def bounded() -> bool:  # what was accepted at once beyond the bound goes a moment later
                    return len(list(Path(f"/proc/{victim.pid}/fd").iterdir())) < CONNECTIONS_MAX + 100

                await eventually(bounded)

        await attack(net, work)

    async def test_half_open_handshakes(self, net: Devnet, victim: Peer) -> None:
        async def work() -> None:
            async with AsyncExitStack() as stack:
                for _ in range(3 * GUESTS_MAX):
                    await stack.enter_async_context(websocket(victim.url))
                assert (await victim.status())["gossip"]["handshakes"] <= GUESTS_MAX

        await attack(net, work)
        await told(victim, "too many handshakes at once: this one took longest")

    @pytest.mark.parametrize(
        "garbage",
        [
            bytes(100_000),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
            b"GET /gossip HTTP/1.1\r\nHost: x\r\n" + b"X-Header: %s\r\n" % (b"x" * 7_000) * 200,
            b"GET /gossip HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + bytes(1_000_000),
        ],
        ids=["zeros", "TLS", "headers", "a body"],
    )
    async def test_what_is_no_websocket(self, net: Devnet, victim: Peer, garbage: bytes) -> None:
        async def work() -> None:
            for _ in range(20):
                async with connection(victim.url) as attacker:
                    with suppress(ConnectionError):
                        await attacker.send(garbage)
                        answer = await asyncio.wait_for(attacker.reader.read(100), 20)
                        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))

        await attack(net, work)

    @pytest.mark.parametrize(
        ("flood", "reason"),
        [
            (wire(Op.PING, b"") * 20_000, "bytes in a handshake"),
            (wire(Op.PING, b"x" * 125) * 100, "WebSocket pings"),
            (wire(Op.PONG, b"") * 200, "WebSocket pings"),
            (wire(Op.BINARY, b"", fin=False) + wire(Op.MORE, b"", fin=False) * 20_000, "bytes in a handshake"),
            (wire(Op.BINARY, b"x", fin=False) + wire(Op.MORE, b"x", fin=False) * 20_000, "bytes in a handshake"),
            (wire(Op.TEXT, b"hello"), "a text message"),
            (wire(Op.BINARY, b"x", rsv=4), "non-zero reserved bits"),
            (wire(Op.BINARY, bytes(1 << 20)), "bytes in a handshake"),
            (b"\x82\xff" + (1 << 60).to_bytes(8, "big") + bytes(4), "exceeds limit"),
            (wire(Op.MORE, b"x"), "Continuation frame for non started message"),
            (wire(Op.BINARY, b"\xff" * 4_000), "msgpack"),
        ],
        ids=[
            "empty pings",
            "pings",
            "pongs",
            "empty fragments",
            "fragments of a byte",
            "text",
            "compressed",
            "a frame of a mebibyte",
            "a frame of an exbibyte",
            "a fragment of nothing",
            "garbage",
        ],
    )
    async def test_a_websocket_that_is_no_handshake(self, net: Devnet, victim: Peer, flood: bytes, reason: str) -> None:
        async def guest() -> None:
            async with websocket(victim.url) as attacker:
                with suppress(ConnectionError):
                    await attacker.send(flood)
                await attacker.ended()

        async def work() -> None:
            await asyncio.gather(*(guest() for _ in range(16)))

        async def said() -> bool:  # at most one line a second tells of strangers, so it may take some
            await guest()
            return reason in victim.log_file.read_text()

        await attack(net, work)
        await eventually(said)


class TestSessions:
    """Who has proved a hotkey loses its session; for what it signed with it, it is banned, and operators see why."""

    async def floods(self, net: Devnet, frames: Callable[[], bytes], count: int) -> str:
        """Send a frame again and again until the session ends; whose it was."""
        uris: list[str] = []

        async def work() -> None:
            uris.append(next(MALLORYS))
            async with session(net.peers[0].url, net.network, uris[-1]) as attacker:
                with suppress(ConnectionError):
                    for _ in range(count):
                        await attacker.frame(frames())
                        await asyncio.sleep(0)  # the honest share this process
                await attacker.ended()

        await attack(net, work)
        return uris[-1]

    @pytest.mark.parametrize(
        ("frame", "rate"),
        [
            (Digest(True, 0, HASH, HASH, HASH).encode(), rates.DIGESTS),
            (Link(Mode.EVENTS).encode(), rates.LINKS),
            (Have([News(number.to_bytes(8, "big"), 2**62, 0) for number in range(512)]).encode(), rates.HAVES),
            (HEARTBEAT, rates.HEARTBEATS),
        ],
        ids=lambda value: value.what if isinstance(value, Rate) else "",
    )
    async def test_a_flood_of_frames(self, net: Devnet, victim: Peer, frame: bytes, rate: Rate) -> None:
        uri = await self.floods(net, lambda: frame, 2 * rate.burst)
        ban = await banned(victim, uri)
        assert ban["ban_reason"] == rates.flood(rate)
        assert 0 < ban["banned_s"] <= 60

    async def test_events_that_everybody_has_again_and_again(self, net: Devnet, victim: Peer) -> None:
        wires: list[bytes] = []
        async with session(victim.url, net.network, next(MALLORYS)) as attacker:
            await attacker.frame(Want(await log_of(victim), 0, 512, 100_000).encode())
            while not wires:
                op, payload = await attacker.hear()
                frame = attacker.channel.decrypt(payload) if op is Op.BINARY else HEARTBEAT
                if frame != HEARTBEAT and isinstance(answer := decode(frame), Range):
                    wires.extend(answer.wires)
        uri = await self.floods(net, lambda: Events(wires * (512 // len(wires))).encode(), 1_000)
        assert (await banned(victim, uri))["ban_reason"] == rates.flood(rates.DUPLICATES)

    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (codec.pack([99]), "found 99"),
            (b"\xff" * 1_000_000, "msgpack"),
            (Range(LogId(HASH, 0), 0, []).encode(), "was not wanted"),
            (Events([codec.pack([1, 2])]).encode(), "event"),
        ],
        ids=["no frame", "garbage", "an unasked range", "no event"],
    )
    async def test_a_frame_that_is_a_lie(self, net: Devnet, victim: Peer, frame: bytes, reason: str) -> None:
        uri = await self.floods(net, lambda: frame, 1_000)
        assert reason in (await banned(victim, uri))["ban_reason"]
        with pytest.raises(HandshakeError, match="is refused for"):
            async with session(victim.url, net.network, uri):
                pass

    @pytest.mark.parametrize(
        ("flood", "reason"),
        [
            (wire(Op.PING, b"") * 1_000, "WebSocket pings"),
            (wire(Op.BINARY, b"", fin=False) + wire(Op.MORE, b"", fin=False) * 400_000, "without a whole message"),
            (wire(Op.BINARY, b"x", fin=False) * 2, "non-fin frame"),
            (wire(Op.BINARY, bytes(4_000)), "does not decrypt"),
        ],
        ids=["pings", "empty fragments", "an open message", "what does not decrypt"],
    )
    async def test_below_the_channel(self, net: Devnet, victim: Peer, flood: bytes, reason: str) -> None:
        """Whoever sits on the wire can do this to an honest peer: it costs the session, and no ban."""
        uris: list[str] = []

        async def work() -> None:
            uris.append(next(MALLORYS))
            async with session(victim.url, net.network, uris[-1]) as attacker:
                with suppress(ConnectionError):
                    for _ in range(100):
                        await attacker.send(flood)
                await attacker.ended()

        await attack(net, work)
        await told(victim, reason)
        assert hotkey(uris[-1]).address not in {ban["hotkey"] for ban in (await victim.status())["gossip"]["bans"]}

    async def test_peers_that_read_nothing(self, net: Devnet, victim: Peer) -> None:
        """Each asks for the whole of a log again and again, and takes none of it off the connection."""

        async def work() -> None:
            async with AsyncExitStack() as stack:
                log = await log_of(victim)
                deaf: list[Attacker] = []
                for _ in range(8):
                    attacker = await stack.enter_async_context(session(victim.url, net.network, next(MALLORYS)))
                    attacker.writer.transport.pause_reading()  # type: ignore[attr-defined]
                    deaf.append(attacker)
                for attacker in deaf:
                    for seq in range(4):
                        want = Want(LogId(log.node_key, log.number + seq), 0, 512, 262_144)
                        await attacker.frame(want.encode())
                for _ in range(5):
                    await asyncio.gather(*(attacker.frame(HEARTBEAT) for attacker in deaf))
                    await Honest(net).post()

        await attack(net, work)
