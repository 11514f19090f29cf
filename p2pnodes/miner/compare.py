"""How two inventories differ: by counts, which anybody may read, or GPU by GPU, which only their miner may.

*Here* is the daemon that one asks, *there* the API that it is compared with. Nothing here does I/O.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from p2pnodes.model.claims import Node

COMPARED: Final = (*(name for name in Node._fields if name != "uuid"), "server_id")
"""Columns of a node that are the miner's word, and so the same wherever it registered the GPU. Seeds and times are not
among them: each API gives its own. Whether a GPU is verified is compared, too, as ``verified``."""

MISSING_HERE: Final = "missing here"
MISSING_THERE: Final = "missing there"
DIFFERS: Final = "differs"


class Counts(NamedTuple):
    """GPUs of one model that one miner has: free ones, and those in use."""

    idle: int
    provisioned: int

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.idle + self.provisioned


NO_GPUS: Final = Counts(0, 0)
ByModel = Mapping[tuple[str, str], Counts]
"""(miner, GPU identifier) -> counts."""


class CountDifference(NamedTuple):
    """A miner's GPUs of one model that two inventories count differently."""

    miner: str
    gpu: str
    here: Counts
    there: Counts


class NodeDifference(NamedTuple):
    """A GPU that two lists do not show alike.

    Attributes:
        uuid: The GPU.
        kind: MISSING_HERE, MISSING_THERE or DIFFERS.
        fields: Column -> its values here and there, for DIFFERS.
    """

    uuid: str
    kind: str
    fields: Mapping[str, tuple[Any, Any]]


def count_by_model(detailed: Mapping[str, Any]) -> dict[tuple[str, str], Counts]:
    """Counts of a detailed inventory (``GET /nodes/?detailed=true``).

    Raises:
        ValueError: It is of another shape.
    """
    counts: dict[tuple[str, str], Counts] = {}
    try:
        for miner, held in detailed.items():
            busy: dict[str, int] = {}
            for node in held["provisioned"]:
                busy[node["gpu"]] = busy.get(node["gpu"], 0) + 1
            for gpu in sorted(held["idle"].keys() | busy.keys()):
                counts[miner, gpu] = Counts(int(held["idle"].get(gpu, 0)), busy.get(gpu, 0))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("no detailed inventory") from error
    return counts


def compare_counts(here: ByModel, there: ByModel, *, chutes: bool = True) -> list[CountDifference]:
    """Where counts differ, by miner and model.

    Args:
        here: Counts here.
        there: Counts there.
        chutes: Whether it matters how many of the GPUs are in use; otherwise only how many there are.
    """
    found: list[CountDifference] = []
    for miner, gpu in sorted(here.keys() | there.keys()):
        ours, theirs = here.get((miner, gpu), NO_GPUS), there.get((miner, gpu), NO_GPUS)
        if ours.gpus != theirs.gpus or (chutes and ours != theirs):
            found.append(CountDifference(miner, gpu, ours, theirs))
    return found


def compare_nodes(here: Iterable[Mapping[str, Any]], there: Iterable[Mapping[str, Any]]) -> list[NodeDifference]:
    """Where two lists of one miner's nodes differ, by uuid; columns that are absent are null.

    Args:
        here: Rows of ``GET /miner/nodes/`` here, each with a text as ``uuid``.
        there: Those there.
    """
    ours, theirs = {row["uuid"]: row for row in here}, {row["uuid"]: row for row in there}
    found: list[NodeDifference] = []
    for uuid in sorted(ours.keys() | theirs.keys()):
        if uuid not in ours:
            found.append(NodeDifference(uuid, MISSING_HERE, {}))
        elif uuid not in theirs:
            found.append(NodeDifference(uuid, MISSING_THERE, {}))
        else:
            one, other = _compared(ours[uuid]), _compared(theirs[uuid])
            if fields := {name: (one[name], other[name]) for name in one if one[name] != other[name]}:
                found.append(NodeDifference(uuid, DIFFERS, fields))
    return found


def _compared(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: row.get(name) for name in COMPARED}, "verified": row.get("verified_at") is not None}
