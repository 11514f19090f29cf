"""``python -m tests.bench``: reads, writes and apply, each against what it cannot beat; exit 1 below a wanted ratio."""

import argparse
import gc
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from nacl.signing import VerifyKey

from p2pnodes.model.events import Event
from p2pnodes.model.keys import Hotkey, ss58_encode
from p2pnodes.model.requests import Add, sign_add, verify_request
from p2pnodes.store.ledger import Ledger, Result
from p2pnodes.store.schema import open_writer
from tests.bench.load import drive
from tests.bench.world import fill, open_ledger, stream, uuids
from tests.support import MINERS, NETWORK, body, electorate, hotkey

ROUNDS: Final = 7
GPUS: Final = 10_000
READS: Final = 2_000
DETAILED_READS: Final = 300
READERS: Final = 16
POSTS: Final = 400
CLIENTS: Final = 16
GPUS_PER_POST: Final = 8
CLAIMS: Final = 120
VALIDATORS: Final = 16
BATCH: Final = 256


class Ratio(NamedTuple):
    """One result: ``ours`` and ``limit`` per second, medians of rounds; ``ratio`` the median of each round's."""

    name: str
    against: str
    ours: float
    limit: float
    ratio: float
    wanted: float


@contextmanager
def server(kind: str, path: Path) -> Iterator[int]:
    """A server process; its port."""
    command = [sys.executable, "-m", "tests.bench.server", kind, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(30)


def compare(
    name: str, against: str, wanted: float, ours: Callable[[int], float], limit: Callable[[int], float]
) -> Ratio:
    """Run both turn about; the first round warms up and is not counted."""
    pairs = []
    for number in range(ROUNDS + 1):
        gc.collect()
        order = (ours, limit) if number % 2 else (limit, ours)
        found = {each: each(number) for each in order}
        pairs.append((found[ours], found[limit]))
        _progress(f"{name}: round {number} of {ROUNDS}")
    counted = pairs[1:]
    return Ratio(
        name,
        against,
        statistics.median(one for one, _ in counted),
        statistics.median(two for _, two in counted),
        statistics.median(one / two for one, two in counted),
        wanted,
    )


def reads(directory: Path) -> Iterator[Ratio]:
    """GET of the inventory against a handler that has the answer in its hand."""
    database = directory / "reads.db"
    _progress(f"writing an inventory of {GPUS:,} GPUs")
    fill(database, GPUS)
    with server("inventory", database) as port:
        for name, path, count in (("compact", "/nodes/", READS), ("detailed", "/nodes/?detailed=true", DETAILED_READS)):
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n".encode()
            answer = directory / f"{name}.json"
            answer.write_bytes(_fetch(port, path))
            with server("bare", answer) as bare:
                yield compare(
                    f"GET /nodes/ {name}, {GPUS:,} GPUs, {answer.stat().st_size:,} bytes",
                    "a bare aiohttp handler with the same bytes",
                    0.7,
                    partial(_read, port, request, count),
                    partial(_read, bare, request, count),
                )


def _read(port: int, request: bytes, count: int, _: int) -> float:
    return _answered(drive(port, [request] * count, READERS), 200)


def writes(directory: Path) -> Iterator[Ratio]:
    """POST of a server against one verification and one fsynced commit of its bytes."""
    database = directory / "writes.db"
    open_ledger(database)
    floor = sqlite3.connect(directory / "floor.db", isolation_level=None)
    floor.execute("PRAGMA journal_mode = WAL")
    floor.execute("PRAGMA synchronous = FULL")
    floor.execute("CREATE TABLE request (id INTEGER PRIMARY KEY, body BLOB)")

    def limit(number: int) -> float:
        requests = [_registration(number * POSTS + index) for index in range(POSTS)]
        begin = time.perf_counter()
        for request in requests:
            assert verify_once(request)
            floor.execute("BEGIN IMMEDIATE")
            floor.execute("INSERT INTO request (body) VALUES (?)", (request.body,))
            floor.execute("COMMIT")
        return POSTS / (time.perf_counter() - begin)

    with server("inventory", database) as port:

        def ours(number: int) -> float:
            posts = [_post(_registration(number * POSTS + index)) for index in range(POSTS)]
            return _answered(drive(port, posts, CLIENTS), 202)

        yield compare(
            f"POST /nodes/ of {GPUS_PER_POST} GPUs, {CLIENTS} clients at once",
            "one sr25519 verification and one fsynced commit each",
            0.5,
            ours,
            limit,
        )
    floor.close()


def verify_once(request: Add) -> bool:
    """The sr25519 verification of a request, with no cache before it."""
    clear = getattr(verify_request, "cache_clear", None)
    if clear is not None:
        clear()
    return verify_request(request)


def apply(directory: Path) -> Iterator[Ratio]:
    """Storing and counting what peers send, against nothing but the check of each event's signature."""
    _progress(f"signing {CLAIMS} claims of {GPUS_PER_POST} GPUs and {VALIDATORS} verdicts on each")
    wires = [event.wire for event in stream(CLAIMS, GPUS_PER_POST, VALIDATORS)]
    events = [Event.decode(wire) for wire in wires]
    who = electorate(
        time_ms=time.time_ns() // 1_000_000, stakes={f"//validator{index}": 100 for index in range(VALIDATORS)}
    )

    def ours(number: int) -> float:
        ledger = Ledger(open_writer(directory / f"apply{number}.db"), NETWORK)
        with ledger.transaction():
            ledger.set_electorate(who)
        begin = time.perf_counter()
        for at in range(0, len(wires), BATCH):
            batch = [Event.decode(wire) for wire in wires[at : at + BATCH]]
            with ledger.transaction():
                outcomes = ledger.receive(batch, time.time_ns() // 1_000_000)
            assert {outcome.result for outcome in outcomes} == {Result.STORED}
            assert not any(outcome.detail for outcome in outcomes)
        seconds = time.perf_counter() - begin
        assert ledger.state.nodes == CLAIMS * GPUS_PER_POST
        return len(wires) / seconds

    def limit(number: int) -> float:
        begin = time.perf_counter()
        for event in events:
            VerifyKey(event.log.node_key).verify(event.header, event.signature)
        return len(events) / (time.perf_counter() - begin)

    yield compare(
        f"apply of remote events: 1 claim of {GPUS_PER_POST} GPUs to {VALIDATORS} verdicts, batches of {BATCH}",
        "PyNaCl's ed25519 verification of each",
        0.4,
        ours,
        limit,
    )


def _registration(server_number: int) -> Add:
    miner: Hotkey = hotkey(MINERS[server_number % len(MINERS)])
    return sign_add(miner, int(time.time()), body(uuids(server_number, GPUS_PER_POST)))


def _post(request: Add) -> bytes:
    headers = (
        f"POST /nodes/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(request.body)}\r\nX-Chutes-Hotkey: {ss58_encode(request.hotkey)}\r\n"
        f"X-Chutes-Nonce: {request.nonce}\r\nX-Chutes-Signature: {request.signature.hex()}\r\n\r\n"
    )
    return headers.encode() + request.body


def _fetch(port: int, path: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        content: bytes = answer.read()
        return content


def _answered(load: "tuple[float, dict[int, int]]", status: int) -> float:
    per_second, statuses = load
    if set(statuses) != {status}:
        raise SystemExit(f"expected {status} for every request, found {dict(statuses)}")
    return per_second


def _progress(line: str) -> None:
    print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)


def main() -> int:
    """Run the benchmarks; 0 when every ratio is reached."""
    suites = {"reads": reads, "writes": writes, "apply": apply}
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(suites)} (all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each result")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.suites if name not in suites]:
        parser.error(f"no suite {unknown[0]!r}: there are {', '.join(suites)}")
    random.seed(0)
    failed = False
    with tempfile.TemporaryDirectory(prefix="p2pnodes-bench-") as directory:
        for name in arguments.suites or suites:
            for result in suites[name](Path(directory)):
                failed |= result.ratio < result.wanted
                if arguments.json:
                    print(json.dumps(result._asdict()), flush=True)
                    continue
                verdict = "ok" if result.ratio >= result.wanted else "TOO SLOW"
                print(f"\r{result.name}", flush=True)
                print(f"    {result.ours:,.0f}/s against {result.limit:,.0f}/s: {result.against}")
                print(f"    ratio {result.ratio:.2f}, wanted {result.wanted:.2f}: {verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
