"""One peer of py-libp2p's gossipsub, in a process and with an interpreter of its own: it imports nothing of ours.

    PYTHON tests/bench/rival.py RECORD

Says in JSON, a line each: where it listens; once it is told all addresses and its mesh is formed, how many peers that
has; and after each order to publish, when it did so. A message that arrives adds 16 bytes to the file RECORD: its
number and CLOCK_MONOTONIC in nanoseconds, as ``tests.bench.recorded`` writes them.

It gets its best shot. The degrees and the heartbeat are those of the specification, as the library has none of its own;
everything else is its default, except what would lose messages or time (measured with libp2p 0.8.1):

- Its spam protection drops what exceeds 10 messages a second, nine of ten in a run of 100 a second: it is off.
- Its queues, to each peer and to the application, hold 32 messages and drop what finds no room: they hold QUEUE_MAX.
- Gossipsub 1.4 tells each peer of each message that it need not send it, which for small messages costs more than it
  saves: 1.1 is spoken, with half of the processor time.
- Streams are told apart by Mplex and not by Yamux: that saves another 30 %.

Who publishes at full speed waits while BACKLOG messages or more wait for one of its peers.

Source: libp2p/specs, pubsub/gossipsub/gossipsub-v1.0.md, "Parameters".
"""

import json
import os
import struct
import sys
import time
from typing import Any, Final

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub import pubsub as pubsub_module
from libp2p.pubsub import rpc_queue
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

TOPIC: Final = "bench"
RECORD: Final = struct.Struct("<8sQ")
DEGREE: Final = 6
DEGREE_LOW: Final = 4
DEGREE_HIGH: Final = 12
HEARTBEAT_S: Final = 1
QUEUE_MAX: Final = 4_096
"""More than one run has messages."""

BACKLOG: Final = 16
BACKLOG_POLL_S: Final = 0.001
MESH_S_MAX: Final = 60.0


class Rival:
    """A host, its gossipsub and the file of what it received."""

    def __init__(self, record: int) -> None:
        """Note in the file with the descriptor ``record``; nothing listens yet."""
        self.listen: Final = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
        self.host: Final = new_host(listen_addrs=self.listen, muxer_preference="MPLEX")
        self.router: Final = GossipSub(
            protocols=[PROTOCOL_ID_V11],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_S,
            spam_protection_enabled=False,
        )
        self.pubsub: Final = Pubsub(self.host, self.router)
        self._record: Final = record

    async def meet(self, addresses: list[str]) -> None:
        """Dial those before oneself, and wait until every other one is known to listen and the mesh is formed."""
        own = str(self.host.get_id())
        peers = [info_from_p2p_addr(Multiaddr(address)) for address in addresses]
        position = [str(peer.peer_id) for peer in peers].index(own)
        for peer in peers[:position]:
            await self.host.connect(peer)
        with trio.fail_after(MESH_S_MAX):
            for peer in peers[:position] + peers[position + 1 :]:
                await self.pubsub.wait_for_subscription(peer.peer_id, TOPIC, MESH_S_MAX)
            while len(self.router.mesh[TOPIC]) < min(DEGREE_LOW, len(peers) - 1):
                await trio.sleep(HEARTBEAT_S / 10)

    async def take(self, subscription: Any) -> None:
        """Note each message when the application gets it."""
        async for message in subscription:
            os.write(self._record, RECORD.pack(message.data[:8], time.monotonic_ns()))

    async def publish(self, first: int, count: int, size: int, per_second: float | None) -> list[int]:
        """Publish messages of ``size`` bytes; when each was due, or without a pace when it was published (ns)."""
        moments: list[int] = []
        begin_ns, begin = time.monotonic_ns(), trio.current_time()
        for index in range(count):
            if per_second is None:
                await trio.lowlevel.checkpoint()
                while max(map(len, self.pubsub.peer_queues.values())) >= BACKLOG:
                    await trio.sleep(BACKLOG_POLL_S)
                moments.append(time.monotonic_ns())
            else:
                await trio.sleep_until(begin + index / per_second)
                moments.append(begin_ns + int(index / per_second * 1e9))
            await self.pubsub.publish(TOPIC, (first + index).to_bytes(8, "little") + os.urandom(size - 8))
        return moments


async def run(record: int) -> None:
    """Serve until standard input ends."""
    rival = Rival(record)
    async with (
        rival.host.run(listen_addrs=rival.listen),
        background_trio_service(rival.pubsub),
        background_trio_service(rival.router),
        trio.open_nursery() as nursery,
    ):
        await rival.pubsub.wait_until_ready()
        _say(address=str(rival.host.get_addrs()[0]))
        addresses = await _hear()
        assert addresses is not None
        nursery.start_soon(rival.take, await rival.pubsub.subscribe(TOPIC))
        await rival.meet(addresses["addresses"])
        _say(mesh=len(rival.router.mesh[TOPIC]))
        while (order := await _hear()) is not None:
            _say(moments=await rival.publish(**order))
        nursery.cancel_scope.cancel()


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def _hear() -> dict[str, Any] | None:
    line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return json.loads(line) if line else None


def main(record: str) -> None:
    """Run as one of the peers."""
    rpc_queue.RpcQueue.__init__.__defaults__ = (QUEUE_MAX, rpc_queue.DefaultMaxMessageSize)
    pubsub_module.SUBSCRIPTION_CHANNEL_SIZE = QUEUE_MAX
    trio.run(run, os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


if __name__ == "__main__":
    main(sys.argv[1])
