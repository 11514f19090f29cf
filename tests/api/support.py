"""What the tests of the public interface share: a clock, a resolver, bodies, and a client that signs like a miner."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aiohttp import ClientResponse, ClientSession

from p2pnodes.miner.example import example_gpu
from p2pnodes.model.events import VERIFIED, Place, Verdict
from p2pnodes.model.keys import Hotkey
from p2pnodes.model.network import Network
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger

NETWORK: Final = Network(genesis_hash="00" * 32, netuid=64)
NOW_S: Final = 1_800_000_000
"""Where the tests' clock starts, Unix seconds."""

ALICE: Final = Hotkey.from_uri("//Alice")
BOB: Final = Hotkey.from_uri("//Bob")
MALLORY: Final = Hotkey.from_uri("//Mallory")
"""Signs well, but is not registered."""

VALIDATOR: Final = Hotkey.from_uri("//validator0")


class Client(NamedTuple):
    """An HTTP client of one served interface, and the port that it is served on."""

    session: ClientSession
    port: int


class Clock:
    """A wall clock that moves when told."""

    def __init__(self) -> None:
        self.s = float(NOW_S)

    def __call__(self) -> float:
        return self.s


class FakeResolver:
    """Resolves the names that it was given; ``hang`` never resolves."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {"public.example": ["93.184.216.34"]}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        if name == "hang.example":
            await asyncio.Event().wait()
        if name not in self.names:
            raise OSError(f"{name} does not resolve")
        return self.names[name]


class Answer(NamedTuple):
    """An HTTP answer with its decoded body (None where it has none)."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def detail(self) -> Any:
        return self.body["detail"]


class Miner:
    """Sends requests like the miner's client: compact JSON, and one nonce for all requests of a second."""

    def __init__(self, client: Client, clock: Clock, hotkey: Hotkey = ALICE) -> None:
        self.client = client
        self.clock = clock
        self.hotkey = hotkey

    def headers(self, tail: str, nonce: str | None = None) -> dict[str, str]:
        return signed_headers(self.hotkey, nonce or str(int(self.clock())), tail)

    def signed(self, raw: bytes, nonce: str | None = None) -> dict[str, str]:
        """Headers of a POST of these bytes: sent twice, they are the same signed request."""
        return self.headers(hashlib.sha256(raw).hexdigest(), nonce)

    async def post(self, body: Any, headers: Mapping[str, str] | None = None, nonce: str | None = None) -> Answer:
        raw = body if isinstance(body, bytes) else encode(body)
        sent = {"Content-Type": "application/json", **self.signed(raw, nonce), **(headers or {})}
        return await self.send("POST", "/nodes/", sent, raw)

    async def delete(self, uuid: str, headers: Mapping[str, str] | None = None, nonce: str | None = None) -> Answer:
        return await self.send("DELETE", f"/nodes/{uuid}", headers or self.headers("nodes", nonce))

    async def status(self, task_id: str | None) -> Answer:
        query = "" if task_id is None else f"?task_id={task_id}"
        return await self.send("GET", f"/nodes/verification_status{query}", self.headers("graval"))

    async def own_nodes(self) -> Answer:
        return await self.send("GET", "/miner/nodes/", self.headers("miner"))

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("GET", path, headers)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        async with self.client.session.request(
            method, path, headers=headers, data=body, allow_redirects=False
        ) as response:
            return await answer(response)


async def answer(response: ClientResponse) -> Answer:
    raw = await response.read()
    is_json = response.content_type == "application/json" and raw
    return Answer(response.status, json.loads(raw) if is_json else raw or None, response.headers)


def signed_headers(hotkey: Hotkey, nonce: str, tail: str) -> dict[str, str]:
    """The headers of compat.md, section 1, from its text: the package's own signing is not asked."""
    return {
        "X-Chutes-Hotkey": hotkey.address,
        "X-Chutes-Nonce": nonce,
        "X-Chutes-Signature": hotkey.sign(f"{hotkey.address}:{nonce}:{tail}".encode()).hex(),
    }


def encode(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def gpu(index: int = 0, **changes: Any) -> dict[str, Any]:
    """One H100 of a server, as the miner's bootstrap describes it; a change to None drops the field."""
    node = {
        **example_gpu(f"{index:032x}", index % 10, host="93.184.216.34"),
        "memory": 85_045_542_912,
        "verification_port": 20000,
        **changes,
    }
    return {key: value for key, value in node.items() if value is not None}


def server(count: int = 8, first: int = 0, **changes: Any) -> dict[str, Any]:
    """A server of ``count`` H100s."""
    nodes = [gpu(index, **changes) for index in range(first, first + count)]
    return {"server_id": "server-1", "server_name": "gpu-host", "nodes": nodes}


async def fingerprint(db: Database) -> tuple[bytes, int]:
    """What a refused request must leave as it was: state root and number of events."""
    return db.state.state_root, db.state.events


async def claim_id_of(db: Database, task_id: str, miner: Hotkey = ALICE) -> bytes:
    def find(ledger: Ledger) -> bytes:
        key = ledger.facts.find_task(miner.public_key, bytes.fromhex(task_id.split("::")[1]))
        assert key is not None
        claim = ledger.facts.claim(key)
        assert claim is not None
        return claim.id

    return await db.write(find)


async def vote(db: Database, clock: Clock, claim_id: bytes, finding: str, detail: str = "") -> None:
    """The only validator's verdict on a claim."""

    def write(ledger: Ledger) -> None:
        ledger.append(
            lambda hlc: Verdict(claim_id, finding, "none", detail, hlc if finding == VERIFIED else None),
            int(clock() * 1000),
        )

    await db.write(write)


async def place(db: Database, clock: Clock, claim_id: bytes, uuid: str, *, public: bool) -> None:
    """A chute of the only validator on one GPU."""

    def write(ledger: Ledger) -> None:
        name, username = ("chat", "carol") if public else (None, None)
        ledger.append(
            lambda _: Place(claim_id, (uuid,), "chute-1", "instance-1", True, public, name, username),
            int(clock() * 1000),
        )

    await db.write(write)
