"""The inventories and event streams that the benchmarks run on."""

import argparse
import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from p2pnodes.model import codec
from p2pnodes.model.events import AddPayload, Event, LogId, Payload, Place, Release, Verdict, delegate
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import request_id, sign_add
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.parts import batched
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Outcome, Result
from tests.support import NETWORK, Author, body, electorate, hotkey

DAY_S: Final = 86_400
DAYS: Final = 30
"""For which the only validator of an inventory is delegated."""

NODE_SEED: Final = bytes(range(32))
OWN: Final = "//validator0"
MINERS: Final = tuple(f"//miner{number}" for number in range(64))
"""As many as a subnet may have; what one of them has pending is looked at for each of its registrations."""

GPUS_PER_SERVER: Final = 10
GPUS_PER_CHANGE: Final = 8
EVENTS_PER_COMMIT: Final = 256
"""As many as a peer's frames bring at once when there is much to say."""

BATCHES_AHEAD: Final = 3
"""What has come and waits for the writer: a socket is read until it is 2 MiB (``gossip.driver``)."""

SERVERS_PER_COMMIT: Final = 64
"""Of an inventory that is written to be read."""


def now_ms() -> int:
    """Wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def uuids(server: int, count: int) -> list[str]:
    """GPU uuids of one server: spread like real ones, so that the database's pages are met at random."""
    return [codec.digest(f"{server}/{index}".encode(), 16).hex() for index in range(count)]


def open_ledger(path: Path, miners: Sequence[str] = MINERS) -> Ledger:
    """A new database whose only validator may write now."""
    now_s = int(time.time())
    ledger = Ledger(open_writer(path), NETWORK, NodeKey.from_seed(NODE_SEED))
    log = LogId(NodeKey.from_seed(NODE_SEED).public_key, 0)
    delegation = delegate(
        hotkey(OWN), NETWORK.id, log, url="", not_before=now_s - DAY_S, not_after=now_s + DAYS * DAY_S
    )
    with ledger.transaction():
        ledger.set_electorate(electorate(time_ms=now_s * 1000, stakes={OWN: 100}, miners=miners))
        ledger.open_log(0, delegation, now_s * 1000)
    ledger.writes_refused = None
    return ledger


def fill(path: Path, gpus: int, per_server: int = GPUS_PER_SERVER) -> None:
    """Write an inventory: verified GPUs of all MINERS, so many to a server, every second one with a chute on it."""
    ledger = open_ledger(path)
    now_ms = time.time_ns() // 1_000_000
    for servers in batched(range(gpus // per_server), SERVERS_PER_COMMIT):
        with ledger.transaction():
            for server in servers:
                _fill(ledger, server, per_server, now_ms)
        for told in (ledger.news.take_appended, ledger.news.take_new_claims, ledger.news.take_voted):
            told()  # nobody is told; it waits in memory
    assert ledger.state.nodes == gpus
    ledger.facts.close()


def _fill(ledger: Ledger, server: int, gpus: int, now_ms: int) -> None:
    """Write one server's events."""
    names = uuids(server, gpus)
    request = sign_add(hotkey(MINERS[server % len(MINERS)]), now_ms // 1000, body(names))
    claim_id = request_id(NETWORK.id, request)
    place = Place(claim_id, tuple(names), f"chute-{server}", f"instance-{server}", True, True, "llama", "alice")
    payloads: list[Payload] = [AddPayload(request, 100), Verdict(claim_id, "verified", "none", "", now_ms << 16)]
    if server % 2:
        payloads.append(place)
    for payload in payloads:
        ledger.append(partial(given, payload), now_ms)


def changes() -> Iterator[Payload]:
    """What happens to servers that no inventory has: each is registered, verified, taken by a chute and left by it."""
    for server in itertools.count(time.time_ns()):
        begun_ms = now_ms()
        names = uuids(server, GPUS_PER_CHANGE)
        request = sign_add(hotkey(MINERS[server % len(MINERS)]), begun_ms // 1000, body(names))
        claim_id = request_id(NETWORK.id, request)
        yield AddPayload(request, 100)
        yield Verdict(claim_id, "verified", "none", "", begun_ms << 16)
        yield Place(claim_id, tuple(names), f"chute-{server}", f"instance-{server}", True, True, "llama", "alice")
        yield Release(claim_id, tuple(names))


def renew(ledger: Ledger) -> None:
    """Delegate anew for a day: a database that was filled some time ago can be written again; in a transaction."""
    assert ledger.own_log is not None
    who, now_s = ledger.weights.electorate, now_ms() // 1000
    begin_s, end_s = min(who.time_ms // 1000, now_s) - DAY_S, now_s + DAY_S
    delegation = delegate(hotkey(OWN), NETWORK.id, ledger.own_log, url="", not_before=begin_s, not_after=end_s)
    ledger.renew(delegation, now_ms())


def given(payload: Payload, _: int) -> Payload:
    """A payload, whatever its event's HLC is."""
    return payload


def take_in(ledger: Ledger, wires: Sequence[bytes]) -> None:
    """Store what peers send, in commits of EVENTS_PER_COMMIT; all of it must be new and valid."""
    for batch in batched(wires, EVENTS_PER_COMMIT):
        with ledger.transaction():
            outcomes = ledger.receive([Event.decode(wire) for wire in batch], now_ms())
        _require_stored(outcomes)


async def bring(database: Database, wires: Sequence[bytes]) -> None:
    """The same as a session's peer has it done: the daemon decodes what is next while the writer stores a batch."""
    came: deque[list[Event]] = deque()
    storing: asyncio.Task[list[Outcome]] | None = None
    for batch in itertools.chain(batched(wires, EVENTS_PER_COMMIT), [()] * BATCHES_AHEAD):
        events = [Event.decode(wire) for wire in batch]
        database.foresee(events)
        came.append(events)
        if len(came) <= BATCHES_AHEAD:
            continue
        if storing is not None:
            _require_stored(await storing)
        if events := came.popleft():
            storing = asyncio.create_task(database.receive(events, now_ms()))
            await asyncio.sleep(0)  # it begins
    if storing is not None:
        _require_stored(await storing)


def _require_stored(outcomes: Sequence[Outcome]) -> None:
    assert {outcome.result for outcome in outcomes} == {Result.STORED}
    assert not any(outcome.detail for outcome in outcomes)


def stream(claims: int, gpus: int, validators: int, *, apart: bool = False) -> Iterator[Event]:
    """What a peer hears: each claim in the log of one validator, and then a verdict of every validator on it.

    ``apart``: all claims come before all verdicts.
    """
    now_s = int(time.time())
    authors = [Author(f"//validator{index}") for index in range(validators)]
    for author in authors:
        yield author.write(
            author.delegation(not_before=now_s - 86_400, not_after=now_s + 86_400), at_ms=now_s * 1000 - 1000
        )
    made: list[bytes] = []
    for server in range(claims):
        request = sign_add(hotkey(MINERS[server % len(MINERS)]), now_s, body(uuids(server, gpus)))
        yield authors[server % validators].add(request, at_ms=now_s * 1000)
        made.append(request_id(NETWORK.id, request))
        if apart and server < claims - 1:
            continue
        for claim_id in made:
            for author in authors:
                yield author.verdict(claim_id, at_ms=now_s * 1000)
        made.clear()


def main(arguments: Sequence[str]) -> int:
    """``python -m tests.bench fill NODES FILE``: write a database for ``--database``; 0 when it is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench fill", description=__doc__)
    parser.add_argument("nodes", type=int, help="GPUs; 1,000,000 take some four minutes and 1.3 GB")
    parser.add_argument("file", type=Path, help="a file that does not exist yet")
    options = parser.parse_args(arguments)
    if options.file.exists():
        parser.error(f"{options.file} exists already")
    fill(options.file, options.nodes)
    return 0
