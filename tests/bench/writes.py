"""POST and DELETE, durable and signed, against the least that any daemon must do for as many clients.

The floor checks each request's sr25519 signature, signs an event with ed25519, and writes what the request leaves
behind into tables as the daemon has them; those of all clients share one fsynced commit, as if all had come at one
moment. It has no HTTP, no JSON, no rules.
"""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model.keys import NodeKey, ss58_encode, verify_sr25519
from p2pnodes.model.requests import (
    Add,
    Delete,
    Request,
    bound_purpose,
    request_id,
    sign_add,
    sign_delete,
    signing_message,
    tail_of,
)
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store.parts import batched
from tests.bench.floor import GPUS_PER_POST, Floor
from tests.bench.load import answered, delete, drive, post
from tests.bench.measure import ROUNDS, Ratio, compare, costs, of_pairs, progress
from tests.bench.server import Served, served
from tests.bench.world import MINERS, NODE_SEED, open_ledger, uuids
from tests.support import NETWORK, body, hotkey

SLICES: Final = {1: 100, 16: 400, 128: 768}
"""Clients at once, and the writes of a slice."""

POST, DELETE, BYTES = f"POST of {GPUS_PER_POST} GPUs", "DELETE of a GPU", "POST, its bytes alone"
ACTS: Final = {
    POST: "one sr25519 verification, one ed25519 signature, its share of a commit with the rows that it leaves behind",
    DELETE: "the same of a deletion",
    BYTES: "the same, but for the rows: the request's bytes alone",
}
WANTED: Final = {(POST, 16): 0.6}
"""Anything else is for comparison."""


class Signed(NamedTuple):
    """A request and the GPUs that it names."""

    request: Request
    names: Sequence[str]

    def sent(self) -> bytes:
        """The request as it is sent."""
        return post(self.request) if isinstance(self.request, Add) else delete(self.request, self.names[0])


def verify_once(request: Request) -> bool:
    """The sr25519 verification of a request, with no cache before it."""
    message = signing_message(ss58_encode(request.hotkey), request.nonce, tail_of(request))
    return verify_sr25519.__wrapped__(request.hotkey, message, request.signature)


class GroupFloor(Floor):
    """The floor of several requests that share a commit."""

    def __init__(self, path: Path) -> None:
        """Open or create its database."""
        super().__init__(path)
        self._node_key = NodeKey.from_seed(NODE_SEED)
        self._numbers = itertools.count(1)

    def write(self, signed: Sequence[Signed], *, rows: bool = True) -> None:
        """Check requests, sign for each, and commit them together; ``rows``: with what follows from them."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        for request, names in signed:
            assert verify_once(request)
            number, signature = next(self._numbers), self._node_key.sign(request.signature)
            if not rows:
                execute("INSERT INTO meta VALUES (?, ?)", (str(number), _content(request) + signature))
            elif isinstance(request, Add):
                self.insert(number, request, names)
            else:
                self.remove(number, request, names[0])
        execute("COMMIT")

    def remove(self, number: int, request: Delete, name: str) -> None:
        """The event of a deletion, the deletion, and no row any more; in a transaction."""
        execute, request_key = self.connection.execute, request_id(NETWORK.id, request)
        execute(
            "INSERT INTO events (log, seq, id, hlc, hlc_max, kind, judged, wire)"
            " VALUES (1, ?1, ?2, ?3, ?3, 'delete', 1, ?4)",
            (number, request_key, number, request.purpose.encode() + request.signature + request.hotkey),
        )
        execute(
            "INSERT INTO deletion VALUES (?, ?, 1, ?, 0, ?, ?, 1, x'90')",
            (name, request_key, number, request.hotkey, int(request.nonce)),
        )
        execute("DELETE FROM node WHERE bucket = ? AND uuid = ?", (bucket_of(name), name))


def writes(directory: Path) -> Iterator[Ratio]:
    """Each kind of write by as many clients at once, and how many of them share a commit."""
    database = directory / "writes.db"
    open_ledger(database).facts.close()
    servers = itertools.count()
    with served("inventory", database) as ours:
        for clients in SLICES:
            for act in (POST, DELETE, BYTES)[: 3 if (POST, clients) in WANTED else 2]:
                floor = GroupFloor(directory / f"{act}-{clients}.db")
                yield from _compared(ours, floor, servers, act, clients)
        for act, clients in WANTED:
            floor = GroupFloor(directory / f"{act}-{clients}-cpu.db")
            yield _least(directory, ours, floor, servers, clients)


def _compared(ours: Served, floor: GroupFloor, servers: Iterator[int], act: str, clients: int) -> Iterator[Ratio]:
    shared: list[tuple[float, float]] = []

    def post_all(_: int) -> float:
        raw = [each.sent() for each in signed_posts(servers, SLICES[clients], GPUS_PER_POST)]
        return drive_all(raw, 202)

    def delete_all(_: int) -> float:
        added = signed_posts(servers, SLICES[clients], 1)
        answered(drive([ours.port], [each.sent() for each in added], 16), 202)
        return drive_all([each.sent() for each in _deletions(added)], 200)

    def drive_all(raw: Sequence[bytes], status: int) -> float:
        before = ours.report()
        per_s = answered(drive([ours.port], raw, clients), status)
        commits = ours.report().commits - before.commits
        shared.append((per_s, per_s * commits / len(raw)))
        return per_s

    def limit(_: int) -> float:
        signed = signed_posts(servers, SLICES[clients], 1 if act == DELETE else GPUS_PER_POST)
        if act == DELETE:
            for group in batched(signed, 128):
                floor.write(group)
            signed = _deletions(signed)
        begin = time.perf_counter()
        for group in batched(signed, clients):
            floor.write(group, rows=act != BYTES)
        return len(signed) / (time.perf_counter() - begin)

    name = f"{act}, {clients} {'client' if clients == 1 else 'clients at once'}"
    yield compare(name, ACTS[act], WANTED.get((act, clients), 0.0), delete_all if act == DELETE else post_all, limit)
    if act != BYTES:
        waits = statistics.median(commits for _, commits in shared)
        yield of_pairs(
            f"{name}: {1 / statistics.median(one / two for one, two in shared):.2f} waits for the disk a write",
            f"{waits:,.0f} waits for the disk a second",
            0.0,
            shared[1:],
        )


def _least(directory: Path, ours: Served, floor: GroupFloor, servers: Iterator[int], clients: int) -> Ratio:
    """What a POST costs us, against the floor behind the least that aiohttp does for each: whatever rules cost nothing.

    Both on one core: a rate of WANTED of the floor leaves ``1 / WANTED`` of its time for all of it.
    """
    answer = directory / "answer.json"
    answer.write_bytes(b"{}")
    pairs = []
    with served("bare", answer, 202) as bare:
        for number in range(ROUNDS + 1):
            signed = signed_posts(servers, SLICES[clients], GPUS_PER_POST)
            floor_s = time.process_time()
            for group in batched(signed, clients):
                floor.write(group)
            floor_s = time.process_time() - floor_s
            spent_s = []
            for server in (ours, bare):
                before_s = server.report().cpu_s
                answered(drive([server.port], [each.sent() for each in signed], clients), 202)
                spent_s.append(server.report().cpu_s - before_s)
            pairs.append((spent_s[0] / len(signed) * 1e6, (floor_s + spent_s[1]) / len(signed) * 1e6))
            progress(f"{POST}, {clients} clients at once, CPU: round {number} of {ROUNDS}")
    against = "the floor and a bare aiohttp handler that reads the request, one behind the other"
    return costs(f"{POST}, {clients} clients at once: CPU of the server", against, 0.0, " us", pairs[1:])


def _content(request: Request) -> bytes:
    return request.body if isinstance(request, Add) else request.purpose.encode()


def signed_posts(servers: Iterator[int], count: int, gpus: int) -> list[Signed]:
    """Registrations of servers that nobody has, signed now."""
    found = []
    for server in itertools.islice(servers, count):
        names = uuids(server, gpus)
        miner = hotkey(MINERS[server % len(MINERS)])
        found.append(Signed(sign_add(miner, int(time.time()), body(names)), names))
    return found


def _deletions(added: Sequence[Signed]) -> list[Signed]:
    """Deletions of the first GPU of each registration, by whoever registered it."""
    miners = {hotkey(uri).public_key: hotkey(uri) for uri in MINERS}
    return [
        Signed(sign_delete(miners[request.hotkey], int(time.time()), bound_purpose(names[0])), names[:1])
        for request, names in added
    ]
