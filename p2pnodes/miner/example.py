"""A registration as an example: what a miner of one server with H100 GPUs sends."""

from collections.abc import Sequence
from typing import Any, Final

VERIFICATION_PORT: Final = 30_000


def example_gpu(uuid: str, index: int, *, host: str = "127.0.0.1") -> dict[str, Any]:
    """One GPU that fits the GPU table.

    Args:
        uuid: The GPU.
        index: Its index in its server, 0 to 9.
        host: Where validators reach the miner's bootstrap service; loopback is accepted by devnets only.
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
        "verification_port": VERIFICATION_PORT + index,
    }


def example_server(uuids: Sequence[str], *, server_id: str = "server-1", host: str = "127.0.0.1") -> dict[str, Any]:
    """Body of ``POST /nodes/`` for one server of 1 to 10 GPUs; see ``example_gpu``."""
    nodes = [example_gpu(uuid, index, host=host) for index, uuid in enumerate(uuids)]
    return {"server_id": server_id, "server_name": server_id, "nodes": nodes}
