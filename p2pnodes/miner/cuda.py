"""CUDA's clock rate of a GPU, for cards whose maximum clock by NVML lies far above it.

The driver's own library is asked through ctypes: no CUDA toolkit is needed, no context is made and no memory of the
GPU is used. Source: CUDA driver API, "Initialization" and "Device Management".
"""

import ctypes
from typing import Final

LIBRARY: Final = "libcuda.so.1"
CLOCK_RATE: Final = 13
"""``CU_DEVICE_ATTRIBUTE_CLOCK_RATE``: the typical clock frequency in kHz."""


class CudaError(Exception):
    """CUDA does not tell; the text says what it answered."""


def clock_rate_khz(pci_bus_id: str) -> int:
    """CUDA's clock rate of one GPU, kHz.

    Args:
        pci_bus_id: Such as ``0000:1B:00.0``, as NVML writes it in ``busIdLegacy``.

    Raises:
        CudaError: The driver has no CUDA, hides the GPU (``CUDA_VISIBLE_DEVICES``), or has no such number.
    """
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise CudaError(f"{LIBRARY} cannot be loaded") from error
    device, clock_khz = ctypes.c_int(), ctypes.c_int()
    _check(cuda.cuInit(0), "cuInit")
    _check(cuda.cuDeviceGetByPCIBusId(ctypes.byref(device), pci_bus_id.encode()), "cuDeviceGetByPCIBusId")
    _check(cuda.cuDeviceGetAttribute(ctypes.byref(clock_khz), CLOCK_RATE, device), "cuDeviceGetAttribute")
    if clock_khz.value <= 0:
        raise CudaError("it has no clock rate of this GPU")
    return clock_khz.value


def _check(result: int, call: str) -> None:
    if result:
        raise CudaError(f"{call} answered error {result}")
