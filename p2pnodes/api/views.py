"""Answers, rendered: what the inventory holds, as upstream writes it. Equal content is equal bytes on every peer."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.model.gpus import GpuTable
from p2pnodes.model.inventory import Chute, TaskStatus
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.requests import seed_of, task_id_of
from p2pnodes.store.changes import Gone
from p2pnodes.store.database import Detail
from p2pnodes.store.facts import StoredClaim, Task, unpack_chute
from p2pnodes.store.snapshots import NodeRow

PRIVATE_CHUTE: Final = "[private chute]"
UNKNOWN_FAILURE: Final = "verification failed"

GPUS_PER_PIECE: Final = 256
"""GPUs that a piece of the detailed view lists at most, some 50 KB."""


def registration(claim: StoredClaim, table: GpuTable) -> bytes:
    """Body of a 202 (``schemas.Registration``)."""
    address = ss58_encode(claim.miner)
    return orjson.dumps({"nodes": _columns(claim, table), "task_id": task_id_of(address, claim.claim_id)})


def own_nodes(claim: StoredClaim, uuids: Collection[str], table: GpuTable) -> bytes:
    """Events of ``GET /miner/nodes/`` for those of a claim's GPUs that it owns (``schemas.Node``)."""
    nodes = _columns(claim, table)
    return b"".join(b"data: %b\n\n" % orjson.dumps(node) for node in nodes if node["uuid"] in uuids)


def _columns(claim: StoredClaim, table: GpuTable) -> list[dict[str, Any]]:
    """All columns of a claim's GPUs, in request order."""
    vote = claim.tally
    shared: dict[str, Any] = {
        "miner_hotkey": ss58_encode(claim.miner),
        "server_id": claim.body.server_id,
        "seed": seed_of(claim.claim_id),
        "created_at": _instant(claim.created_hlc),
        "verified_at": _verified_at(vote.status, vote.since),
        "verification_error": _failure(vote.status, vote.detail),
        "instance": None,
    }
    return [{**table.fill(node), **shared} for node in claim.body.nodes]


def compact(totals: Iterable[tuple[str, int, int]]) -> bytes:
    """Body of ``GET /nodes/`` (``schemas.Inventory``), by GPU identifier."""
    return orjson.dumps({gpu: {"provisioned": busy, "idle": idle} for gpu, busy, idle in sorted(totals)})


def detailed(details: Iterable[Detail]) -> Iterator[bytes]:
    """Body of ``GET /nodes/?detailed=true`` (``schemas.DetailedInventory``), miners with the most GPUs first.

    It comes in pieces, each of GPUS_PER_PIECE at most.
    """
    ranked = sorted((-detail.gpus, ss58_encode(detail.miner), detail) for detail in details)
    begin = b"{"
    for _, address, detail in ranked:
        yield b'%b%b:{"provisioned":[' % (begin, orjson.dumps(address))
        yield from _provisioned(detail)
        yield b'],"idle":%b}' % orjson.dumps(dict(sorted(detail.idle.items())))
        begin = b","
    yield b"}" if ranked else b"{}"


def _provisioned(detail: Detail) -> Iterator[bytes]:
    """Items of a miner's list, a piece for some GPUs of one model and chute: what these say is rendered once."""
    begin = b""
    for gpu, chute, count in sorted(
        ((gpu, unpack_chute(chute), count) for gpu, chute, count in detail.provisioned), key=_detail_order
    ):
        item = orjson.dumps({"gpu": gpu, "chute": _chute(chute)})
        for done in range(0, count, GPUS_PER_PIECE):
            yield begin + b",".join([item] * min(count - done, GPUS_PER_PIECE))
            begin = b","


def node_event(row: NodeRow) -> bytes:
    """Data of a ``node`` event (``schemas.NodeEvent``): a row without its verification host and port."""
    address = ss58_encode(row.miner)
    return orjson.dumps(
        {
            "uuid": row.uuid,
            "hotkey": address,
            "status": row.status,
            "gpu_identifier": row.gpu_identifier,
            "claim_id": row.claim_id.hex(),
            "task_id": task_id_of(address, row.claim_id),
            "verified_at": _verified_at(row.status, row.verified_since),
            "detail": _failure(row.status, row.detail),
            "chute": None if row.chute is None else _chute(row.chute),
        }
    )


def node_deleted_event(gone: Gone) -> bytes:
    """Data of a ``node_deleted`` event (``schemas.NodeDeletedEvent``)."""
    return orjson.dumps({"uuid": gone.uuid, "hotkey": ss58_encode(gone.miner)})


def claim_event(task: Task) -> bytes:
    """Data of a ``claim`` event (``schemas.ClaimEvent``): what ``task_state`` answers to its miner."""
    claim, (status, detail) = task
    address = ss58_encode(claim.miner)
    return orjson.dumps(
        {
            "task_id": task_id_of(address, claim.id),
            "claim_id": claim.id.hex(),
            "hotkey": address,
            "status": status,
            "detail": _failure(status, detail),
        }
    )


def task_state(status: TaskStatus | None) -> bytes:
    """Body of ``GET /nodes/verification_status`` (``schemas.TaskState``); an unknown task may still arrive."""
    if status is None:
        return b'{"status":"pending"}'
    if status.status == FAILED:
        return orjson.dumps({"status": status.status, "detail": _failure(*status)})
    return orjson.dumps({"status": status.status})


def _detail_order(detail: tuple[str, Chute, int]) -> tuple[str, str, str, bool]:
    gpu, chute, _ = detail
    return gpu, chute.chute_id, chute.instance_id, chute.verified


def _chute(chute: Chute) -> dict[str, Any]:
    return {
        "username": chute.username if chute.public else None,
        "name": chute.name if chute.public else PRIVATE_CHUTE,
        "chute_id": chute.chute_id,
        "verified": chute.verified,
        "instance_id": chute.instance_id,
    }


def _verified_at(status: str, since: int | None) -> str | None:
    return _instant(since) if status == VERIFIED and since is not None else None


def _failure(status: str, detail: str) -> str | None:
    """Why something failed, in some words at least; None when it did not fail."""
    return (detail or UNKNOWN_FAILURE) if status == FAILED else None


def _instant(hlc: int) -> str:
    """ISO 8601 in UTC with microseconds, as upstream's database writes it."""
    return datetime.fromtimestamp(hlc_ms(hlc) / 1000, UTC).isoformat(timespec="microseconds")
