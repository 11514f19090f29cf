"""A bare ledger in a process of its own, the least that a daemon is: checks events, and commits them with their rows.

    python -m tests.bench.writer WIRES DATABASE

Reads events from a file (one msgpack array), says "ready", waits for a line, takes them in, says "done".
"""

import sys
import time
from pathlib import Path

import msgpack

from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.bench.world import MINERS, take_in
from tests.support import NETWORK, VALIDATORS, electorate


def main(wires: Path, database: Path) -> None:
    """Take events of the three validators in when told."""
    events = msgpack.unpackb(wires.read_bytes())
    ledger = Ledger(open_writer(database), NETWORK)
    with ledger.transaction():
        stakes = dict.fromkeys(VALIDATORS, 100)
        ledger.set_electorate(electorate(time_ms=time.time_ns() // 1_000_000, stakes=stakes, miners=MINERS))
    print("ready", flush=True)
    sys.stdin.readline()
    take_in(ledger, events)
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
