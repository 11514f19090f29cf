"""Reading the inventory in parts, for those who follow it: rows and tasks, claim by claim in order of arrival here.

No part costs more than the claims that it looks at, so that a reader of everything takes its turn with all others.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from p2pnodes.model.inventory import Chute, Weights
from p2pnodes.store.facts import FROM_NODE, Facts, Task, chute_from, row_keys, unpack_uuids
from p2pnodes.store.parts import batched
from p2pnodes.store.upkeep import GPUS_PER_READ

CLAIMS_PER_PART: Final = 64
"""Claims that one part looks at, at most 640 GPUs: some 10 ms."""


class NodeRow(NamedTuple):
    """A row of the inventory as the database holds it.

    Attributes:
        uuid: GPU uuid.
        claim: Row key of the claim that owns it.
        claim_id: 32 bytes.
        miner: Public key.
        status: ``pending``, ``verified`` or ``failed``.
        gpu_identifier: As the miner says.
        verified_since: HLC, or None.
        detail: Why the vote failed, else empty.
        chute: What runs on it, or None when idle.
    """

    uuid: str
    claim: int
    claim_id: bytes
    miner: bytes
    status: str
    gpu_identifier: str
    verified_since: int | None
    detail: str
    chute: Chute | None


class Part(NamedTuple):
    """A part of the inventory.

    Attributes:
        rows: Rows that the claims of this part own.
        tasks: Those of its claims that own a row, or are young.
        after: Where the next part begins, None when there is none.
    """

    rows: list[NodeRow]
    tasks: list[Task]
    after: int | None


def rows(facts: Facts, uuids: Collection[str]) -> dict[str, NodeRow]:
    """The rows of some GPUs, of those that have one."""
    query = (
        "SELECT n.uuid, n.claim, c.claim_id, n.miner, n.status, n.gpu_identifier, n.verified_since, n.detail, n.chute"
        f" {FROM_NODE} CROSS JOIN claim c ON c.claim = n.claim"
    )
    found = (NodeRow(*columns) for columns in facts.connection.execute(query, (row_keys(uuids),)))
    return {row.uuid: row._replace(chute=chute_from(row.chute)) for row in found}  # type: ignore[arg-type]


def part(
    facts: Facts,
    after: int,
    miner: bytes | None,
    since_s: int,
    weights: Weights,
    *,
    limit: int = CLAIMS_PER_PART,
) -> Part:
    """The next claims with the rows that they own.

    Args:
        facts: To read from.
        after: Row key of the last claim of the part before; 0 begins.
        miner: Only this miner's.
        since_s: Unix seconds; claims with a nonce from then on are young. Older ones without a row are history.
        weights: Who counts.
        limit: Claims that are looked at.
    """
    claims = facts.connection.execute(
        f"SELECT claim, nonce, uuids FROM claim WHERE claim > ? AND {'miner NOTNULL' if miner is None else 'miner = ?'}"  # noqa: S608 - constant texts
        " ORDER BY claim LIMIT ?",
        (after, *([] if miner is None else [miner]), limit),
    ).fetchall()
    named = {key: _uuids(uuids) for key, _, uuids in claims}
    found = rows(facts, {uuid for uuids in named.values() for uuid in uuids})
    owned = [row for key, uuids in named.items() for uuid in uuids if (row := found.get(uuid)) and row.claim == key]
    told = {row.claim for row in owned} | {key for key, nonce, _ in claims if nonce >= since_s}
    tasks = facts.tasks(told, weights)
    return Part(owned, [tasks[key] for key in sorted(tasks)], claims[-1][0] if len(claims) == limit else None)


def owned(facts: Facts, miner: bytes) -> list[tuple[int, list[str]]]:
    """The GPUs of a miner at one moment: row key of each claim that owns some, and these in request order."""
    claims = facts.connection.execute("SELECT claim, uuids FROM claim WHERE miner = ? ORDER BY claim", (miner,))
    found: list[tuple[int, list[str]]] = []
    for some in batched(claims, GPUS_PER_READ // 8):
        named = {key: _uuids(uuids) for key, uuids in some}
        all_named = {uuid for uuids in named.values() for uuid in uuids}
        owner = dict(facts.connection.execute(f"SELECT n.uuid, n.claim {FROM_NODE}", (row_keys(all_named),)))
        for key, uuids in named.items():
            if own := [uuid for uuid in uuids if owner.get(uuid) == key]:
                found.append((key, own))
    return found


def _uuids(packed: bytes) -> list[str]:
    return list(dict.fromkeys(unpack_uuids(packed)))
