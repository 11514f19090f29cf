"""Requests and answers as pydantic models: what parses queries and bodies is also what /openapi.json is made of.

Bodies pass these models first, for error lists in FastAPI's shape, and then the pinned parser of ``model.claims``,
whose word is final: what pydantic reads may change with its version, what a body means to peers may not. Bounds are the
pinned parser's own constants.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from p2pnodes.model.claims import (
    DEVICE_INDEX_MAX,
    HOST_CHARS_MAX,
    IDENTIFIER_CHARS_MAX,
    INT32_MAX,
    NAME_CHARS_MAX,
)
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.requests import UUID_CHARS_MAX

NODES_READ_MAX: Final = 512
"""Nodes of a body that are looked at. The limit per server is 10, answered with 400 as upstream does; this one keeps a
body of 20,000 empty objects from becoming 160,000 errors. 64 KiB hold no more well-formed nodes than this."""

Int32 = Annotated[int, Field(ge=0, le=INT32_MAX)]

# Patterns are told to those who read the document; here they are not checked, as the pinned parser refuses in words.
_Text = Annotated[str, Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]
_Uuid = Annotated[str, Field(json_schema_extra={"pattern": "^[!-~]+$"})]


class NodeArgs(BaseModel):
    """One GPU as its miner describes it."""

    uuid: Annotated[
        _Uuid, Field(min_length=1, max_length=UUID_CHARS_MAX, description="GPU uuid: printable, without spaces.")
    ]
    name: Annotated[_Text, Field(max_length=NAME_CHARS_MAX, description="Name as the driver gives it.")]
    memory: Annotated[int, Field(ge=0, le=INT_MAX, description="Bytes.")]
    major: Annotated[Int32 | None, Field(description="CUDA compute capability, major.")] = None
    minor: Annotated[Int32 | None, Field(description="CUDA compute capability, minor.")] = None
    processors: Annotated[
        Int32 | None, Field(description="Streaming multiprocessors; taken from the GPU table when absent.")
    ] = None
    sxm: Annotated[bool | None, Field(description="Whether the GPU sits on an SXM board.")] = None
    clock_rate: Annotated[float, Field(allow_inf_nan=False, description="Maximum clock in kHz.")]
    max_threads_per_processor: Annotated[Int32 | None, Field(description="Taken from the GPU table when absent.")] = (
        None
    )
    concurrent_kernels: bool | None = None
    ecc: bool | None = None
    device_index: Annotated[int, Field(ge=0, le=DEVICE_INDEX_MAX, description="Index of the GPU in its server.")]
    gpu_identifier: Annotated[
        _Text, Field(max_length=IDENTIFIER_CHARS_MAX, description="Short reference: a key of GET /nodes/supported.")
    ]
    verification_host: Annotated[
        _Text,
        Field(max_length=HOST_CHARS_MAX, description="Public address or name of the GPU's server, without port."),
    ]
    verification_port: Annotated[Int32, Field(description="80 to 65535.")]


class MultiNodeArgs(BaseModel):
    """The GPUs of one server, at most 10."""

    server_id: Annotated[_Text | None, Field(max_length=NAME_CHARS_MAX)] = None
    # Upstream's client may leave the name out, but not send null.
    server_name: Annotated[_Text, Field(max_length=NAME_CHARS_MAX)] = ""
    nodes: Annotated[list[NodeArgs], Field(min_length=1, max_length=NODES_READ_MAX)]


class Node(BaseModel):
    """One registered GPU; fields that the GPU table knows are the table's."""

    uuid: str
    name: str
    memory: Annotated[int, Field(description="Bytes.")]
    major: int | None
    minor: int | None
    processors: int | None
    sxm: bool | None
    clock_rate: Annotated[float, Field(description="kHz.")]
    max_threads_per_processor: int | None
    concurrent_kernels: bool | None
    ecc: bool | None
    device_index: int
    gpu_identifier: str
    verification_host: str
    verification_port: int
    miner_hotkey: Annotated[str, Field(description="SS58 address.")]
    server_id: str | None
    seed: Annotated[int, Field(ge=1, le=INT_MAX, description="The same for all GPUs of one request.")]
    created_at: Annotated[str, Field(description="ISO 8601, UTC.")]
    verified_at: Annotated[str | None, Field(description="ISO 8601, UTC; null until verified.")]
    verification_error: str | None
    instance: None = None


class Registration(BaseModel):
    """Answer to an accepted ``POST /nodes/``."""

    nodes: Annotated[list[Node], Field(description="In request order.")]
    task_id: Annotated[str, Field(description="<hotkey>::<32 hex>, for GET /nodes/verification_status.")]


class Count(BaseModel):
    """How many GPUs of a model are in use and free."""

    provisioned: int
    idle: int


class Inventory(RootModel[dict[str, Count]]):
    """GPU identifier -> count."""


class ChuteInfo(BaseModel):
    """What runs on a GPU; of private chutes neither the user nor the name is told."""

    username: str | None
    name: str
    chute_id: str
    verified: bool
    instance_id: str


class ProvisionedGpu(BaseModel):
    """A GPU in use."""

    gpu: Annotated[str, Field(description="GPU identifier.")]
    chute: ChuteInfo


class MinerInventory(BaseModel):
    """The GPUs of one miner."""

    provisioned: list[ProvisionedGpu]
    idle: Annotated[dict[str, int], Field(description="GPU identifier -> count.")]


class DetailedInventory(RootModel[dict[str, MinerInventory]]):
    """Hotkey -> its GPUs, those with the most GPUs first."""


class InventoryView(RootModel[Inventory | DetailedInventory]):
    """The compact view or, with `detailed`, the one per miner."""


class Clock(BaseModel):
    """Clock range of a GPU model, MHz."""

    base: float
    boost: float


class GpuModel(BaseModel):
    """What the subnet expects of a GPU model (excerpt: upstream publishes more per model)."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model_name_check: Annotated[str, Field(description="Regular expression over the driver's name of the GPU.")]
    memory: Annotated[int, Field(description="GB.")]
    processors: int
    clock_rate: Clock


class SupportedGpus(RootModel[dict[str, GpuModel]]):
    """Short reference -> model, in the order in which names are matched."""


class TaskState(BaseModel):
    """Where a registration stands."""

    status: Literal["pending", "verified", "failed", "error"]
    detail: Annotated[str | None, Field(description="Why it failed; only with `failed`.")] = None
    error: Annotated[str | None, Field(description="Only with `error`.")] = None


class NodeEvent(BaseModel):
    """A GPU as it is now: data of the event `node`."""

    uuid: str
    hotkey: Annotated[str, Field(description="SS58 address of its miner.")]
    status: Literal["pending", "verified", "failed"]
    gpu_identifier: str
    claim_id: Annotated[str, Field(description="The registration that owns the GPU, 64 hex digits.")]
    task_id: Annotated[str, Field(description="Its task, as POST /nodes/ returned it.")]
    verified_at: Annotated[str | None, Field(description="ISO 8601, UTC; null while not verified.")]
    detail: Annotated[str | None, Field(description="Why it failed; only with `failed`.")]
    chute: Annotated[ChuteInfo | None, Field(description="What runs on it; null when idle.")]


class NodeDeletedEvent(BaseModel):
    """A GPU that a miner has no more: data of the event `node_deleted`. It may be another miner's now."""

    uuid: str
    hotkey: Annotated[str, Field(description="SS58 address of the miner that lost it.")]


class ClaimEvent(BaseModel):
    """Where a registration stands, as GET /nodes/verification_status answers: data of the event `claim`."""

    task_id: Annotated[str, Field(description="As POST /nodes/ returned it.")]
    claim_id: Annotated[str, Field(description="64 hex digits.")]
    hotkey: Annotated[str, Field(description="SS58 address of its miner.")]
    status: Literal["pending", "verified", "failed"]
    detail: Annotated[str | None, Field(description="Why it failed; only with `failed`.")]


class SnapshotEvent(BaseModel):
    """Data of the events `reset` and `snapshot_end`: nothing."""


class StreamEvent(RootModel[NodeEvent | NodeDeletedEvent | ClaimEvent | SnapshotEvent]):
    """Data of one server-sent event."""


class Deleted(BaseModel):
    """Answer to an accepted ``DELETE /nodes/{node_id}``."""

    node_id: str
    deleted: Literal[True]


class Problem(BaseModel):
    """Answer to a request that was refused."""

    detail: str


class NoWrites(BaseModel):
    """Answer to a request that cannot be recorded here now; nothing has changed."""

    detail: str
    validators: Annotated[
        list[str], Field(description="Base URLs of other validators that may take it: the same signed request.")
    ]


class FieldProblem(BaseModel):
    """One value that is not as it must be."""

    type: Annotated[str, Field(description="Machine-readable kind.")]
    loc: Annotated[list[str | int], Field(description='Path to the value, from "body" or "query".')]
    msg: str
    input: Annotated[object, Field(description="What was found.")]
    ctx: Annotated[dict[str, object] | None, Field(description="Bounds and the like.")] = None


class ValidationProblem(BaseModel):
    """Answer to a request whose values are not as they must be."""

    detail: list[FieldProblem]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether the daemon does its work."""

    ready: bool
    reasons: Annotated[list[str], Field(description="Why not; empty when ready.")]
    codes: Annotated[list[str], Field(description="Codes of the reasons, each once: `p2pnodes logs explain CODE`.")]
    behind: Annotated[int, Field(ge=0, description="Events that a peer is known to hold, and this daemon not yet.")]
