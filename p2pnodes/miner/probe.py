"""The body of a registration from the GPUs of this host, each number with the place that it comes from."""

from typing import Any, Final, NamedTuple

from p2pnodes.miner.hardware import Described, GpuProblemError, HardwareError, HostAnswers, describe
from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX, Node
from p2pnodes.model.gpus import GpuSpecError, supported_gpus

NO_HOST: Final = "<the public address of this host>"
"""Stands for a verification host that was not given. It is no host name, so every daemon refuses it."""

_FROM_TABLE: Final = ("sxm", "max_threads_per_processor", "concurrent_kernels")
"""What NVML does not tell and the GPU table knows for a model."""


class Source(NamedTuple):
    """Where one field of some GPUs comes from.

    Attributes:
        field: Of the body's nodes.
        value: As the body has it; None where it is left out, or not the same for all of them.
        source: One line for a person.
        gpus: Their indices.
    """

    field: str
    value: Any
    source: str
    gpus: list[int]


class Probe(NamedTuple):
    """A registration from hardware.

    Attributes:
        body: Of ``POST /nodes/``.
        sources: In the order of a node's fields; GPUs with the same words share one.
        warnings: What will keep the network from accepting it.
    """

    body: dict[str, Any]
    sources: list[Source]
    warnings: list[str]


def probe(answers: HostAnswers, *, host: str | None, port: int, server_id: str | None = None) -> Probe:
    """The registration of a host's GPUs.

    Args:
        answers: What NVML says.
        host: Where validators reach the agent; None writes NO_HOST.
        port: The agent's; one agent answers for all GPUs.
        server_id: The server's id and name; None leaves both out.

    Raises:
        HardwareError: More GPUs than one registration takes.
        GpuProblemError: A GPU cannot be registered, or the network has no such model.
    """
    if len(answers.gpus) > GPUS_PER_CLAIM_MAX:
        raise HardwareError(
            f"found {len(answers.gpus)} GPUs, expected at most {GPUS_PER_CLAIM_MAX}: that is the limit of one server; "
            "register the host in parts, as virtual machines or containers that see some of the GPUs each"
        )
    nodes: list[dict[str, Any]] = []
    sources: dict[tuple[str, str], Source] = {}
    warnings: list[str] = []
    for gpu in answers.gpus:
        described = describe(gpu)
        node, origins = _node(described, host, port)
        nodes.append({field: value for field, value in node.items() if value is not None})
        for field, value in node.items():
            found = sources.setdefault((field, origins[field]), Source(field, value, origins[field], []))
            found.gpus.append(gpu.index)
            if found.value != value:
                sources[field, origins[field]] = found._replace(value=None)
        try:
            supported_gpus().check([Node(**node)])
        except GpuSpecError as error:
            why = f" ({described.sources['clock_rate']})" if "cuda_clock_rate_khz" in gpu.errors else ""
            warnings.append(f"GPU {gpu.index} ({described.gpu.name}): the network will refuse it: {error}{why}")
    if host is None:
        warnings.append("verification_host is still to be filled in: give --host, where validators reach this host")
    server = {} if server_id is None else {"server_id": server_id, "server_name": server_id}
    by_field = sorted(sources.values(), key=lambda source: Node._fields.index(source.field))
    return Probe({**server, "nodes": nodes}, by_field, warnings)


def _node(described: Described, host: str | None, port: int) -> tuple[dict[str, Any], dict[str, str]]:
    """One GPU as the body has it, and field -> where it comes from."""
    gpu, key = described.gpu, described.model
    if key is None:
        raise GpuProblemError(
            f"GPU {gpu.device_index}: found {gpu.name!r}, expected a model of the network's GPU table; supported are "
            f"{', '.join(supported_gpus().data)}"
        )
    model = supported_gpus().data[key]
    table = f"GPU table, {key}"
    origins = described.sources | dict.fromkeys(_FROM_TABLE, table)
    ecc = gpu.ecc
    if ecc is None:
        ecc = model.get("ecc")
        origins["ecc"] = f"{table} ({described.sources['ecc']})"
    origins["gpu_identifier"] = "the first model of the GPU table that fits the name"
    origins["verification_host"] = "--host" if host is not None else "not given"
    origins["verification_port"] = "--port, the agent's"
    node = {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory": gpu.memory,
        "major": gpu.major,
        "minor": gpu.minor,
        "processors": gpu.processors,
        "sxm": model.get("sxm"),
        "clock_rate": gpu.clock_rate,
        "max_threads_per_processor": model.get("max_threads_per_processor"),
        "concurrent_kernels": model.get("concurrent_kernels"),
        "ecc": ecc,
        "device_index": gpu.device_index,
        "gpu_identifier": key,
        "verification_host": NO_HOST if host is None else host,
        "verification_port": port,
    }
    return node, origins
