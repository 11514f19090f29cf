"""A miner's client as compat.md describes upstream's, written from that page alone: nothing of p2pnodes is in it."""

import hashlib
import json
import time
from typing import Any

import aiohttp
import sr25519
from base58 import b58encode


class UpstreamMiner:
    """What ``chutes-miner`` does on the wire: compact JSON, nulls dropped, signatures that are bound to no GPU."""

    def __init__(self, seed: bytes, api: str) -> None:
        self.public_key, self._secret_key = sr25519.pair_from_seed(seed)
        self.api = api
        checksum = hashlib.blake2b(b"SS58PRE" + b"\x2a" + self.public_key, digest_size=64).digest()[:2]
        self.address = b58encode(b"\x2a" + self.public_key + checksum).decode()

    def headers(self, tail: str, *, nonce: str | None = None) -> dict[str, str]:
        """The three headers over ``hotkey:nonce:tail``."""
        nonce = nonce or str(int(time.time()))
        message = f"{self.address}:{nonce}:{tail}".encode()
        signature = sr25519.sign((self.public_key, self._secret_key), message)
        return {"X-Chutes-Hotkey": self.address, "X-Chutes-Nonce": nonce, "X-Chutes-Signature": signature.hex()}

    async def supported(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """GET /nodes/supported."""
        async with session.get(f"{self.api}/nodes/supported") as answer:
            assert answer.status == 200
            table: dict[str, Any] = await answer.json()
            return table

    async def register(self, session: aiohttp.ClientSession, nodes: list[dict[str, Any]]) -> tuple[int, Any]:
        """POST /nodes/, signed over the body's SHA-256."""
        present = [{key: value for key, value in node.items() if value is not None} for node in nodes]
        content = {"server_id": "server-1", "server_name": "rack-1", "nodes": present}
        body = json.dumps(content, separators=(",", ":")).encode()
        headers = {**self.headers(hashlib.sha256(body).hexdigest()), "Content-Type": "application/json"}
        async with session.post(f"{self.api}/nodes/", data=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def status(self, session: aiohttp.ClientSession, task_id: str) -> dict[str, Any]:
        """GET /nodes/verification_status."""
        query = {"task_id": task_id}
        async with session.get(
            f"{self.api}/nodes/verification_status", params=query, headers=self.headers("graval")
        ) as answer:
            assert answer.status == 200
            status: dict[str, Any] = await answer.json()
            return status

    async def delete(self, session: aiohttp.ClientSession, uuid: str) -> tuple[int, Any]:
        """DELETE /nodes/{id}."""
        async with session.delete(f"{self.api}/nodes/{uuid}", headers=self.headers("nodes")) as answer:
            return answer.status, await answer.json()

    async def inventory(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """GET /nodes/?detailed=true."""
        async with session.get(f"{self.api}/nodes/", params={"detailed": "true"}) as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
            return found
