"""A daemon as its operator sees it: the snapshot of ``Daemon.status`` and rows, without anything that runs."""

import copy
from collections.abc import Mapping
from typing import Any, Final

STATUS: Final[dict[str, Any]] = {
    "version": "0.1.0",
    "network_id": "ab" * 16,
    "netuid": 64,
    "url": "http://127.0.0.1:8000",
    "hotkey": "5Validator",
    "node_key": "cd" * 32,
    "log": {"number": 7, "seq": 41, "id": "ef" * 32},
    "state_root": "01" * 32,
    "vector_digest": "02" * 32,
    "electorate": {
        "block": 100,
        "time": 1_764_000_000,
        "age_s": 12,
        "digest": "03" * 32,
        "validators": 3,
        "registered": 7,
        "enrolled": 2,
        "error": None,
    },
    "writes": {"allowed": True, "reason": None},
    "ready": [],
    "events": 42,
    "nodes": 8,
    "outcomes": {"stored": 40, "known": 3, "gap": 0},
    "forks": [],
    "queues": {"writer": 1, "verifier": 0},
    "gossip": {
        "sessions": 1,
        "handshakes": 0,
        "bans": [],
        "peers": [
            {"hotkey": "5Peer", "url": "http://peer", "connected": True, "direction": "dialled", "we_lack": 0},
            {"hotkey": "5Gone", "url": "http://gone", "connected": False, "last_error": "Connection refused"},
        ],
    },
    "clock_offset_ms": -1500,
    "uptime_s": 3600,
}


class FakeDaemon:
    """Answers with its status and rows, and remembers what it was asked."""

    def __init__(self) -> None:
        self.snapshot = copy.deepcopy(STATUS)
        self.rows: list[dict[str, Any]] = []
        self.queries: list[tuple[str, dict[str, str], int, int | None, bool]] = []

    def status(self) -> dict[str, Any]:
        return self.snapshot

    def peers(self) -> list[dict[str, Any]]:
        peers: list[dict[str, Any]] = self.snapshot["gossip"]["peers"]
        return peers

    async def query(
        self, view: str, where: Mapping[str, str], limit: int, *, after: int | None = None, newest_first: bool = False
    ) -> list[dict[str, Any]]:
        self.queries.append((view, dict(where), limit, after, newest_first))
        return self.rows[:limit]
