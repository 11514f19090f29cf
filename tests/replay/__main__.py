"""``python -m tests.replay``: a chain for a devnet, until it is told to stop.

Prints one JSON line with ``url`` and ``control``, the route that takes changes:
``curl -d '{"do": "change", "kind": "permit", "hotkey": "5...", "value": false}' http://127.0.0.1:PORT/control``.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.replay.chain import BLOCK_MS, GENESIS_HASH, Chain, wall_clock
from tests.replay.recorded import RUNTIMES
from tests.replay.server import ReplayServer
from tests.replay.subnets import Change, Subnet, finney, made_up

SETTLED_BLOCKS = 1000
"""Blocks before the start at which ``--register`` puts a registration: below every block that a reader looks at."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--netuid", type=int, choices=(1, 64), default=64, help="1: recorded on finney; 64: made up")
    parser.add_argument("--neurons", type=int, default=256, help="of netuid 64")
    parser.add_argument("--spec", type=int, choices=tuple(RUNTIMES), help="runtime (343 for netuid 1, else 461)")
    parser.add_argument("--genesis", default=GENESIS_HASH, help="hex of block 0's hash")
    parser.add_argument("--block-s", type=float, default=BLOCK_MS / 1000, help="between blocks")
    parser.add_argument("--keep-blocks", type=int, help="prune the state of older ones")
    parser.add_argument("--register", metavar="HOTKEY", action="append", default=[], help="long registered; repeatable")
    parser.add_argument(
        "--axon", metavar="HOTKEY=IP:PORT", action="append", default=[], help="instead of all others; repeatable"
    )
    parser.add_argument("--journal", type=Path, help="file that keeps start, pace and changes: run again, it goes on")
    return parser.parse_args(arguments)


def subnet(arguments: argparse.Namespace) -> Subnet:
    """What the chain begins with; raises ValueError for what it would refuse."""
    found = finney() if arguments.netuid == 1 else made_up(arguments.neurons)
    state, block = found.state, found.start_block - SETTLED_BLOCKS
    for hotkey in arguments.register:
        state = Change.parse({"kind": "register", "hotkey": hotkey}).apply(state, block)
    if arguments.axon:  # made-up axons are on ports of this machine, where others may listen
        state = replace(state, neurons=tuple(neuron._replace(axon=None) for neuron in state.neurons))
    for hotkey, _, address in (axon.partition("=") for axon in arguments.axon):
        state = Change.parse({"kind": "axon", "hotkey": hotkey, "value": address}).apply(state, block)
    return replace(found, state=state)


class Journal:
    """A file of JSON lines: when the chain began and its pace, then each change with its block."""

    def __init__(self, path: Path | None, block_ms: int) -> None:
        """Read what is there; a new one begins now, with this pace."""
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path is not None and path.exists() else []
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        if not self.entries:
            self.write({"start_ms": wall_clock(), "block_ms": block_ms})

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append an entry."""
        self.entries.append(dict(entry))
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(entry) + "\n")


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    journal = Journal(arguments.journal, round(arguments.block_s * 1000))
    chain = Chain(
        subnet(arguments),
        spec=arguments.spec or (343 if arguments.netuid == 1 else 461),
        genesis_hash=arguments.genesis,
        **journal.entries[0],
        keep_blocks=arguments.keep_blocks,
    )
    server = ReplayServer(chain, arguments.port)
    for entry in journal.entries[1:]:
        server.control(entry)
    server.changed = journal.write
    async with server:
        print(json.dumps({"url": server.url, "control": server.control_url}), flush=True)  # noqa: T201
        await stopping.wait()


def main() -> int:
    """Run; 1 with one line on stderr for what cannot be done."""
    arguments = parse()
    try:
        asyncio.run(serve(arguments))
    except (OSError, ValueError) as error:
        print(f"tests.replay: error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
