"""Agents on real loopback sockets, and validators that ask them."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Final, NamedTuple

import aiohttp

from p2pnodes.miner.agent import Agent
from p2pnodes.miner.hardware import describe
from tests.miner.nvml import recording
from tests.support import hotkey

MINER: Final = hotkey("//Alice")
VALIDATOR: Final = hotkey("//validator0")
OTHER: Final = hotkey("//validator1")
NETWORK_ID: Final = "ab" * 16
CLAIM_ID: Final = "cd" * 32
UUIDS: Final = [describe(gpu).gpu.uuid for gpu in recording("h200").gpus]


class Answered(NamedTuple):
    """What an agent answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        """The reason of a refusal."""
        detail: str = json.loads(self.body)["detail"]
        return detail

    @property
    def report(self) -> dict[str, Any]:
        """The report, unchecked."""
        report: dict[str, Any] = json.loads(json.loads(self.body)["report"])
        return report


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[str]:
    """Start an agent on a free port; its base URL."""
    await agent.start()
    try:
        yield f"http://127.0.0.1:{agent.port}"
    finally:
        await agent.stop()


def challenge(nonce: str = "01" * 32, **changes: Any) -> dict[str, Any]:
    """A challenge's body, for the GPUs of recording h200 unless told otherwise."""
    return {"network": NETWORK_ID, "claim": CLAIM_ID, "nonce": nonce, "uuids": UUIDS} | changes


def signed(body: bytes, now_s: float, *, validator: Any = VALIDATOR, miner: str = MINER.address) -> dict[str, str]:
    """The headers of a challenge, made from the protocol's text and not by its code."""
    nonce = str(int(now_s))
    message = f"{miner}:{validator.address}:{nonce}:{sha256(body).hexdigest()}"
    return {
        "X-Chutes-Miner": miner,
        "X-Chutes-Validator": validator.address,
        "X-Chutes-Nonce": nonce,
        "X-Chutes-Signature": validator.sign(message.encode()).hex(),
    }


async def post(url: str, body: bytes, headers: Mapping[str, str], path: str = "/challenge") -> Answered:
    """Send what a test made."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + path, data=body, headers=headers, timeout=aiohttp.ClientTimeout(20)) as answer,
    ):
        return Answered(answer.status, dict(answer.headers), await answer.read())


async def ask(url: str, now_s: float, *, validator: Any = VALIDATOR, **changes: Any) -> Answered:
    """Ask as a validator does."""
    body = json.dumps(challenge(**changes)).encode()
    return await post(url, body, signed(body, now_s, validator=validator))
