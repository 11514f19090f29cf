"""What several suites need: keys by name, request bodies, an author of events off any ledger, an electorate."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import pytest

from p2pnodes.miner.example import example_gpu
from p2pnodes.model.checkpoint import Line
from p2pnodes.model.clock import HybridClock
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import (
    AddPayload,
    Checkpoint,
    Delegation,
    DeletePayload,
    Event,
    Head,
    LogId,
    Payload,
    Renew,
    Verdict,
    delegate,
)
from p2pnodes.model.keys import Hotkey, NodeKey
from p2pnodes.model.network import Network
from p2pnodes.model.requests import Add, Delete, sign_add, sign_delete
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer

NETWORK: Final = Network(genesis_hash="0" * 64, netuid=64)
NOW_S: Final = 1_764_000_000
NOW_MS: Final = NOW_S * 1000
BLOCK: Final = 100
VALIDATORS: Final = ("//validator0", "//validator1", "//validator2")
MINERS: Final = ("//Alice", "//Bob", "//Charlie", "//Dave")


@cache
def hotkey(uri: str) -> Hotkey:
    """A development key by its URI; cached, because derivation costs milliseconds."""
    return Hotkey.from_uri(uri)


def gpu(uuid: str, index: int = 0, **changes: Any) -> dict[str, Any]:
    """NodeArgs of an H100 that fits the GPU table."""
    return {**example_gpu(uuid, index, host="192.0.2.10"), **changes}


def body(uuids: Iterable[str], **changes: Any) -> bytes:
    """The bytes that a miner posts for these GPUs, compact as its client writes them."""
    nodes = [gpu(uuid, index, **changes) for index, uuid in enumerate(uuids)]
    return json.dumps({"server_id": "s-1", "server_name": "rack-1", "nodes": nodes}, separators=(",", ":")).encode()


def add(miner: str, uuids: Iterable[str], nonce_s: int = NOW_S) -> Add:
    """A signed registration."""
    return sign_add(hotkey(miner), nonce_s, body(uuids))


def delete(miner: str, purpose: str, nonce_s: int = NOW_S) -> Delete:
    """A signed deletion."""
    return sign_delete(hotkey(miner), nonce_s, purpose)


def electorate(
    block: int = BLOCK,
    time_ms: int = NOW_MS,
    *,
    stakes: Mapping[str, int] | None = None,
    miners: Sequence[str] = MINERS,
    previous: Electorate | None = None,
) -> Electorate:
    """An electorate of development keys: three validators with a stake of 100 each unless told otherwise."""
    weights = stakes if stakes is not None else dict.fromkeys(VALIDATORS, 100)
    pin = Pin(
        block,
        time_ms,
        {hotkey(uri).public_key: stake for uri, stake in weights.items()},
        {hotkey(uri).public_key: 0 for uri in (*miners, *weights)},
        {},
    )
    return Electorate(pin, previous.current if previous else None)


class Author:
    """Writes one log off any ledger, as a peer does: valid events by default, whatever a test needs otherwise."""

    def __init__(self, uri: str, *, number: int = 0, seed: int = 0) -> None:
        """Open a log of ``uri``'s; ``seed`` tells node keys of one hotkey apart. No event is written yet."""
        self.hotkey = hotkey(uri)
        self.node_key = NodeKey.from_seed(bytes([seed]) * 16 + self.hotkey.public_key[:16])
        self.log = LogId(self.node_key.public_key, number)
        self.clock = HybridClock()
        self.head: Head | None = None
        self.events: list[Event] = []

    def write(self, payload: Payload, *, at_ms: int = NOW_MS, hlc: int | None = None) -> Event:
        """Append an event."""
        event = Event.create(
            self.node_key,
            NETWORK.id,
            log_number=self.log.number,
            seq=self.head.seq + 1 if self.head else 0,
            previous=self.head.id if self.head else b"",
            hlc=self.clock.tick(at_ms) if hlc is None else hlc,
            payload=payload,
        )
        self.head = Head(event.seq, event.id)
        self.events.append(event)
        return event

    def delegation(self, *, not_before: int = NOW_S - 86_400, not_after: int = NOW_S + 30 * 86_400) -> Delegation:
        """A delegation of the hotkey to this log, signed now."""
        return delegate(
            self.hotkey, NETWORK.id, self.log, url="http://192.0.2.1", not_before=not_before, not_after=not_after
        )

    def delegate(self, *, at_ms: int = NOW_MS - 1000) -> Event:
        """Append a delegation."""
        return self.write(self.delegation(), at_ms=at_ms)

    def add(self, request: Add, *, block: int = BLOCK, at_ms: int = NOW_MS) -> Event:
        """Append a registration."""
        return self.write(AddPayload(request, block), at_ms=at_ms)

    def delete(self, request: Delete, uuid: str, claim_ids: Iterable[bytes] = (), *, at_ms: int = NOW_MS) -> Event:
        """Append a deletion."""
        return self.write(DeletePayload(request, uuid, tuple(claim_ids)), at_ms=at_ms)

    def verdict(
        self, claim_id: bytes, finding: str = "verified", *, at_ms: int = NOW_MS, since: int | None = None
    ) -> Event:
        """Append a verdict; ``since`` is its own HLC unless given."""
        hlc = self.clock.tick(at_ms)
        begin = (hlc if since is None else since) if finding == "verified" else None
        detail = "" if finding == "verified" else f"{finding} by test"
        return self.write(Verdict(claim_id, finding, "test", detail, begin), hlc=hlc)

    def renew(self, *claim_ids: bytes, at_ms: int = NOW_MS, since: int | None = None) -> Event:
        """Append verdicts that claims are verified, in one event; ``since`` is its own HLC unless given."""
        hlc = self.clock.tick(at_ms)
        begin = hlc if since is None else since
        return self.write(Renew("test", tuple((claim_id, begin) for claim_id in sorted(claim_ids))), hlc=hlc)


def proposals(ledger: Ledger, number: int) -> list[bytes]:
    """Ids of the proposals of a checkpoint that a ledger holds; of each log the first one comes last."""
    query = "SELECT id FROM proposal WHERE number = ? ORDER BY log DESC, seq DESC"
    return [key for (key,) in ledger.facts.connection.execute(query, (number,))]


def signatures(ledger: Ledger, number: int) -> list[tuple[bytes, Checkpoint]]:
    """Hotkeys that have signed the checkpoint of a number, each with what it found, as a ledger holds it."""
    rows = ledger.facts.connection.execute(
        "SELECT hotkey, s.number, proposal, leaves, slices, root FROM signature s JOIN logs USING (log)"
        " WHERE s.number = ? ORDER BY hotkey, seq",
        (number,),
    )
    return [(hotkey, Checkpoint(*said)) for hotkey, *said in rows]


def covers(line: Line, log: LogId, seq: int) -> bool:
    """Whether an event lies at or below the cut of a line."""
    cut = line.logs.get(log)
    return cut is not None and seq <= cut.head.seq


def forks(ledger: Ledger) -> dict[LogId, int]:
    """The logs of which a ledger holds a proof that they fork, and where."""
    return {log: fork for log, state in ledger.state.logs.items() if (fork := state.ends.fork) is not None}


def finish_moves(ledger: Ledger) -> None:
    """Have the cuts of logs be in force, as a clerk does; not while a live set is loaded."""
    while ledger.moving:
        with ledger.transaction():
            ledger.move_on()


def memory_ledger(node_key: NodeKey | None = None, who: Electorate | None = None) -> Ledger:
    """A ledger in memory that weighs with ``who`` (the default electorate)."""
    ledger = Ledger(open_writer(":memory:"), NETWORK, node_key)
    with ledger.transaction():
        ledger.set_electorate(who or electorate())
    return ledger


def has_ipv6() -> bool:
    """Whether this machine has a loopback address of IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def program(name: str) -> str:
    """Path of a program that a test needs; without it the test is skipped, or fails where TESTS_NEED names it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        if name in os.environ.get("TESTS_NEED", "").split():
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


def machine_sleeps(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Have the machine sleep: of its clocks that do not go back one alone goes on."""
    now_ns = time.clock_gettime_ns

    def awake_ns(clock: int) -> int:
        return now_ns(clock) + (seconds * 1_000_000_000 if clock == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(time, "clock_gettime_ns", awake_ns)
