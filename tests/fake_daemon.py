"""A daemon as its operator sees it: the snapshot of ``Daemon.status`` and rows, without anything that runs."""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from p2pnodes.api import explanations, overview, voters
from p2pnodes.api.browser import Browser, Look, Totals, pending_json
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.model.events import Close, LogId
from p2pnodes.model.inventory import Chute, Mandate, Weights
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.proof import ProofError
from p2pnodes.store.browse import ModelTotal
from p2pnodes.store.database import Database
from p2pnodes.store.placing import Placed, Written
from tests.support import NETWORK, NOW_MS, NOW_S, electorate, hotkey

STATUS: Final[dict[str, Any]] = {
    "version": "0.1.0",
    "network_id": "ab" * 16,
    "netuid": 64,
    "url": "http://127.0.0.1:8000",
    "console": "http://127.0.0.1:9464/console/",
    "hotkey": "5Validator",
    "node_key": "cd" * 32,
    "role": "validator",
    "log": {"number": 7, "seq": 41, "id": "ef" * 32},
    "delegation": {
        "hotkey": "5Validator",
        "url": "http://127.0.0.1:8000",
        "not_before": 1_764_000_000,
        "not_after": 1_766_592_000,
        "signed": "here",
        "error": None,
    },
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
        "recounting": None,
        "source": {
            "endpoints": [
                {
                    "url": "wss://chain.example:443",
                    "error": None,
                    "block": 100,
                    "latency_ms": 40,
                    "last_ok": 1_764_000_000,
                }
            ]
        },
    },
    "writes": {"allowed": True, "reason": None},
    "ready": [],
    "events": 42,
    "nodes": 8,
    "outcomes": {"stored": 40, "known": 3, "gap": 0},
    "forks": [],
    "closed_logs": 0,
    "other_logs": [],
    "queues": {"writer": 1, "verifier": 0},
    "verification": {
        "method": "graval",
        "problem": None,
        "running": 2,
        "queued": 0,
        "later": 5,
        "passed_over": 1,
    },
    "carrying": {"waiting": 0, "requests": 3, "events": 1, "walks": 2, "problem": None},
    "checkpoint": {
        "number": 20_000,
        "due_at": 1_728_000_000,
        "age_s": 7_200,
        "final": 20_000,
        "problem": None,
        "differs": False,
        "leaves_own_log_out": False,
        "id": "c1" * 32,
        "lacks": None,
        "loading": None,
    },
    "gossip": {
        "sessions": 1,
        "observers": 0,
        "handshakes": 0,
        "view": {"size": 8, "members": 2, "links": 1, "visits": 0, "down": 1},
        "loop": {"lag_ms": 0, "slowness": 1},
        "traffic": {"sent": {"frames": 10, "bytes": 4000}, "received": {"frames": 12, "bytes": 5000}},
        "counts": {"grafts": 1, "prunes": 2, "gains": 3, "dropped": 4},
        "ban_counts": {"protocol": 0, "flood": 1, "forgery": 0, "openings": 0, "operator": 0},
        "bans": [],
        "peers": [
            {
                "hotkey": "5Peer",
                "url": "http://peer",
                "connected": True,
                "direction": "dialled",
                "observer": False,
                "link": "eager",
                "peer_lacks": 6,
                "we_lack": 0,
                "queue_bytes": 100,
                "behind": False,
                "storing_bytes": 50,
                "wants": 1,
                "searches": 0,
                "rtt_ms": 20,
                "same_vector": True,
                "same_electorate": True,
                "same_checkpoint": True,
                "same_state_root": True,
            },
            {"hotkey": "5Gone", "url": "http://gone", "connected": False, "last_error": "Connection refused"},
        ],
    },
    "database": {
        "bytes": 1_000_000,
        "wal_bytes": 4_096,
        "free_bytes": 50_000_000,
        "disk_bytes": 100_000_000,
        "refused_jobs": 0,
        "damaged_events": 0,
        "damaged_left": 0,
        "failure": None,
    },
    "clock_offset_ms": -1500,
    "started_at": 1_763_996_400,
    "uptime_s": 3600,
}

OBSERVERS: Final[list[dict[str, Any]]] = [
    {**STATUS["gossip"]["peers"][0], "hotkey": name, "node_key": key * 32, "url": "", "direction": "accepted",
     "observer": True, "link": "visit", "same_state_root": False}
    for name, key in (("5Watcher", "a1"), ("5Looker", "a2"))
]  # fmt: skip
"""Peers behind NAT, which have no URL, and which claim to see another inventory."""

BANS: Final[list[dict[str, Any]]] = [
    {"hotkey": "5Flood", "node_key": None, "observer": True, "operator": False, "banned_s": 40.0,
     "ban_reason": "flood: pings", "code": "session-flood"},
    {"hotkey": None, "node_key": "f0" * 32, "observer": False, "operator": True, "banned_s": 90.0,
     "ban_reason": "a clone", "code": "session-banned"},
]  # fmt: skip
"""A ban of the daemon's own, and one of the operator's by a node key."""


class FakeDaemon:
    """Answers with its status and rows, and remembers what it was asked."""

    def __init__(self) -> None:
        self.snapshot = copy.deepcopy(STATUS)
        self.rows: list[dict[str, Any]] = []
        self.queries: list[tuple[str, dict[str, str], int, int | None, bool]] = []
        self.proofs: dict[str, dict[str, Any] | ProofError] = {}
        self.claims: dict[bytes, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.totals: Totals | None = Totals([ModelTotal("h100_sxm", 4, 2, 1, 1)], 1, "01" * 32)
        self.voters: dict[str, Any] = voters.electorate(
            Weights(
                NETWORK, electorate(), {hotkey("//validator0").public_key: Mandate(((0, 2 * NOW_S),), NOW_MS << 16)}
            ),
            {hotkey("//validator0").public_key: Mandate(((0, 2 * NOW_S),), NOW_MS << 16)},
            {hotkey("//validator0").public_key: "http://127.0.0.1:8000"},
            hotkey("//validator0").public_key,
        )
        self.looks: list[Look] = []
        self.open_claims: list[dict[str, Any]] = []
        self.looked_for: list[tuple[bytes, bytes | None]] = []
        self.placed: list[tuple[list[str], Chute | None]] = []
        self.enrolled = True
        self.checked: list[bytes] = []
        self.finding: dict[str, Any] = {
            "finding": "verified", "method": "none", "detail": "", "seconds": 0.25, "published": True,
        }  # fmt: skip
        self.refusal: P2PNodesError | None = None
        self.levels: dict[str, Any] = {"configured": "info", "changed": []}
        self.banned: list[dict[str, Any]] = []
        self.ban_warning: str | None = None
        self.ended: list[dict[str, Any]] = []
        self.request: dict[str, Any] = {}
        self.days = 0
        self.rotated = 0
        self.revoked: list[tuple[LogId | None, int | None]] = []
        self.closings: list[Close] = []

    def status(self) -> dict[str, Any]:
        return self.snapshot

    def log_level(self) -> dict[str, Any]:
        return self.levels

    def set_log_level(self, level: str | None, logger: str | None, for_s: int | None) -> None:
        if self.refusal is not None:
            raise self.refusal
        change = [{"logger": logger, "level": level, "left_s": for_s}] if level else []
        self.levels = {"configured": "info", "changed": change}

    def bans(self) -> list[dict[str, Any]]:
        return self.banned

    def ban(self, key: bytes, reason: str, ban_s: int, *, is_node_key: bool) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        row = {
            "hotkey": None if is_node_key else ss58_encode(key),
            "node_key": key.hex() if is_node_key else None,
            "observer": False, "operator": True,
            "banned_s": float(ban_s), "ban_reason": reason, "code": "session-banned",
        }  # fmt: skip
        self.banned.append(row)
        return {"ban": row, "ended": 1, "warning": self.ban_warning}

    def lift_ban(self, key: bytes) -> bool:
        names = {ss58_encode(key), key.hex()}
        held = [row for row in self.banned if names.isdisjoint({row["hotkey"], row["node_key"]})]
        lifted, self.banned = len(held) < len(self.banned), held
        return lifted

    def peers(self) -> list[dict[str, Any]]:
        peers: list[dict[str, Any]] = self.snapshot["gossip"]["peers"]
        return peers

    async def query(
        self,
        view: str,
        where: Mapping[str, str],
        limit: int,
        *,
        after: int | None = None,
        until: int | None = None,
        newest_first: bool = False,
    ) -> list[dict[str, Any]]:
        self.queries.append((view, dict(where), limit, after, newest_first))
        rows = [row for row in self.rows if after is None or row.get("position", after + 1) > after]
        return (rows[::-1] if newest_first and "position" in next(iter(rows), {}) else rows)[:limit]

    async def find_claim(self, prefix: bytes, miner: bytes | None) -> bytes | None:
        self.looked_for.append((prefix, miner))
        return next((claim_id for claim_id in self.claims if claim_id.startswith(prefix)), None)

    async def claim(self, claim_id: bytes) -> dict[str, Any] | None:
        return self.claims.get(claim_id)

    async def node(self, uuid: str) -> dict[str, Any] | None:
        return self.nodes.get(uuid)

    async def overview(self) -> dict[str, Any]:
        return overview.overview(self.snapshot, self.totals)

    async def models(self) -> list[str]:
        return ["h100_sxm"]

    async def electorate(self) -> dict[str, Any]:
        return self.voters

    async def inventory(self, look: Look) -> dict[str, Any]:
        self.looks.append(look)
        return {"rows": self.rows[: look.limit], "place": 0, "total": len(self.rows), "before": None, "after": None}

    async def pending(self, limit: int, after: tuple[int, bytes] | None) -> dict[str, Any]:
        return {"claims": self.open_claims[:limit], "total": len(self.open_claims), "after": None}

    async def place(self, uuids: Sequence[str], chute: Chute) -> Placed:
        return self._say(uuids, chute)

    async def release(self, uuids: Sequence[str]) -> Placed:
        return self._say(uuids, None)

    def _say(self, uuids: Sequence[str], chute: Chute | None) -> Placed:
        """Write what is new of it; a GPU that has been named before is unchanged."""
        if self.refusal is not None:
            raise self.refusal
        known = {uuid for said, _ in self.placed for uuid in said}
        new = tuple(uuid for uuid in uuids if uuid not in known)
        self.placed.append((list(uuids), chute))
        written = (Written(b"\1" * 32, new, b"\2" * 32),) if new else ()
        return Placed(written, tuple(known & set(uuids)), hotkey("//validator0").public_key, self.enrolled)

    async def verify(self, claim_id: bytes) -> dict[str, Any]:
        self.checked.append(claim_id)
        if self.refusal is not None:
            raise self.refusal
        return self.finding

    async def forks(self) -> list[dict[str, Any]]:
        return self.ended

    def key_request(self, days: int) -> dict[str, Any]:
        self.days = days
        if self.refusal is not None:
            raise self.refusal
        return self.request

    async def rotate_key(self) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        self.rotated += 1
        return {"node_key": "01" * 32, "log": f"{'01' * 32}/9", "closed": f"{'cd' * 32}/7"}

    async def revoke(self, log_id: LogId | None, last: int | None) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        self.revoked.append((log_id, last))
        return {"log": f"{'cd' * 32}/7", "good_events": 3, "closed_by": f"{'01' * 32}/9"}

    async def publish_closing(self, close: Close) -> dict[str, Any]:
        self.closings.append(close)
        return {"log": f"{'cd' * 32}/7", "good_events": 3}

    async def proof(self, uuid: str) -> dict[str, Any] | None:
        found = self.proofs.get(uuid)
        if isinstance(found, ProofError):
            raise found
        return found


class DatabaseDaemon(FakeDaemon):
    """A daemon of which nothing runs but its database."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.browser = Browser(database, time.monotonic)

    async def inventory(self, look: Look) -> dict[str, Any]:
        self.looks.append(look)
        return await self.browser.page(look)

    async def pending(self, limit: int, after: tuple[int, bytes] | None) -> dict[str, Any]:
        return pending_json(await self.browser.pending(limit, after), {})

    async def overview(self) -> dict[str, Any]:
        return overview.overview(self.snapshot, await self.browser.totals())

    async def query(
        self,
        view: str,
        where: Mapping[str, str],
        limit: int,
        *,
        after: int | None = None,
        until: int | None = None,
        newest_first: bool = False,
    ) -> list[dict[str, Any]]:
        return await self.database.query(view, where, limit, after=after, until=until, newest_first=newest_first)

    async def find_claim(self, prefix: bytes, miner: bytes | None) -> bytes | None:
        return await self.database.find_claim(prefix, miner)

    async def claim(self, claim_id: bytes) -> dict[str, Any] | None:
        case = await self.database.explain_claim(claim_id)
        return None if case is None else {**explanations.claim(case), "turns": [], "own_check": None}

    async def node(self, uuid: str) -> dict[str, Any] | None:
        case = await self.database.explain_node(uuid)
        return None if case is None else explanations.node(case)

    async def place(self, uuids: Sequence[str], chute: Chute) -> Placed:
        return await self.database.place(uuids, chute)

    async def release(self, uuids: Sequence[str]) -> Placed:
        return await self.database.release(uuids)
