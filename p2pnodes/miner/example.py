"""A server with H100 GPUs as an example: what its miner sends, and what NVML would answer on it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from p2pnodes.miner.hardware import HostAnswers

VERIFICATION_PORT: Final = 30_000
CORES_PER_SM: Final = 128
"""CUDA cores of one streaming multiprocessor, compute capability 9.0."""


def example_gpu(uuid: str, index: int, *, host: str = "127.0.0.1", port: int = VERIFICATION_PORT) -> dict[str, Any]:
    """One GPU that fits the GPU table.

    Args:
        uuid: The GPU.
        index: Its index in its server, 0 to 9.
        host: Where validators reach the miner's bootstrap service or agent; loopback is accepted by devnets only.
        port: And at which port.
    """
    return {
        "uuid": uuid,
        "name": "NVIDIA H100 80GB HBM3",
        "memory": 85_899_345_920,
        "major": 9,
        "minor": 0,
        "processors": 132,
        "sxm": True,
        "clock_rate": 1_980_000.0,
        "max_threads_per_processor": 2048,
        "concurrent_kernels": True,
        "ecc": True,
        "device_index": index,
        "gpu_identifier": "h100_sxm",
        "verification_host": host,
        "verification_port": port,
    }


def example_server(
    uuids: Sequence[str], *, server_id: str = "server-1", host: str = "127.0.0.1", port: int = VERIFICATION_PORT
) -> dict[str, Any]:
    """Body of ``POST /nodes/`` for one server of 1 to 10 GPUs; see ``example_gpu``."""
    nodes = [example_gpu(uuid, index, host=host, port=port) for index, uuid in enumerate(uuids)]
    return {"server_id": server_id, "server_name": server_id, "nodes": nodes}


def example_answers(uuids: Sequence[str]) -> "HostAnswers":
    """A recording of that server, for an agent without GPUs: composed, not recorded from hardware.

    Args:
        uuids: Its GPUs, 32 hex digits each.
    """
    from p2pnodes.miner.hardware import GpuAnswers, HostAnswers

    gpus = [
        GpuAnswers(
            index=index,
            uuid=f"GPU-{UUID(uuid)}",
            name=gpu["name"],
            memory_total=gpu["memory"],
            cuda_cores=gpu["processors"] * CORES_PER_SM,
            compute_capability=(gpu["major"], gpu["minor"]),
            max_graphics_clock_mhz=int(gpu["clock_rate"] / 1000),
            ecc_mode=gpu["ecc"],
            mig_mode=False,
            pci_bus_id=f"0000:{index + 16:02X}:00.0",
        )
        for index, (uuid, gpu) in enumerate((uuid, example_gpu(uuid, 0)) for uuid in uuids)
    ]
    return HostAnswers(origin="Composed from the GPU table; not recorded from hardware.", gpus=tuple(gpus))
