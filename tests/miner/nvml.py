"""NVML without a GPU: the calls of pynvml and CUDA that we use, answered from a recording."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pynvml
import pytest

from p2pnodes.miner import hardware
from p2pnodes.miner.cuda import CudaError
from p2pnodes.miner.hardware import GpuAnswers, HostAnswers

RECORDINGS: Final = Path(__file__).parent / "recordings"
NAMES: Final = sorted(path.stem for path in RECORDINGS.glob("*.json"))
CODES: Final = {text: code for code, text in pynvml.NVMLError._errcode_to_string.items()}
"""NVML's words -> its error codes."""


def recording(name: str) -> HostAnswers:
    """A host as recorded; see the origin in the file."""
    return HostAnswers.load(RECORDINGS / f"{name}.json")


def changed(host: HostAnswers, index: int, **fields: Any) -> HostAnswers:
    """A recording in which one GPU answers something else; None takes an answer away."""
    gpus = list(host.gpus)
    gpus[index] = gpus[index].model_copy(update=fields)
    return host.model_copy(update={"gpus": tuple(gpus)})


class FakeNvml:
    """Answers as recorded.

    Attributes:
        host: What it answers from; a test may change it between calls.
        failures: Errors of the next calls of ``nvmlInit``, in order; None: it works.
        opened: How often NVML was opened.
        asked_cuda: Bus ids for which CUDA was asked.
    """

    def __init__(self, host: HostAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.failures: list[str | None] = []
        self.opened = 0
        self.is_open = False
        self.asked_cuda: list[str] = []
        calls = {
            "nvmlInit": self._init,
            "nvmlShutdown": self._shutdown,
            "nvmlDeviceGetCount": lambda: len(self._gpus()),
            "nvmlSystemGetDriverVersion": lambda: self.host.driver,
            "nvmlDeviceGetHandleByIndex": lambda index: self._answer(index, "handle", index),
            "nvmlDeviceGetUUID": lambda index: self._recorded(index, "uuid"),
            "nvmlDeviceGetName": lambda index: self._recorded(index, "name"),
            "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(total=self._recorded(index, "memory_total")),
            "nvmlDeviceGetNumGpuCores": lambda index: self._recorded(index, "cuda_cores"),
            "nvmlDeviceGetCudaComputeCapability": lambda index: self._recorded(index, "compute_capability"),
            "nvmlDeviceGetMaxClockInfo": self._clock,
            "nvmlDeviceGetEccMode": lambda index: [int(self._recorded(index, "ecc_mode")), 1],
            "nvmlDeviceGetMigMode": lambda index: [int(self._recorded(index, "mig_mode")), 0],
            "nvmlDeviceGetPciInfo": lambda index: SimpleNamespace(busIdLegacy=self._recorded(index, "pci_bus_id")),
        }
        for name, call in calls.items():
            monkeypatch.setattr(pynvml, name, call)
        monkeypatch.setattr(hardware, "clock_rate_khz", self._cuda_clock_khz)

    def _cuda_clock_khz(self, bus_id: str) -> int:
        self.asked_cuda.append(bus_id)
        (gpu,) = (gpu for gpu in self.host.gpus if gpu.pci_bus_id == bus_id)
        if gpu.cuda_clock_rate_khz is None:
            raise CudaError("libcuda.so.1 cannot be loaded")
        return gpu.cuda_clock_rate_khz

    def _init(self) -> None:
        if failure := self.failures.pop(0) if self.failures else None:
            raise pynvml.NVMLError(CODES[failure])
        self.opened += 1
        self.is_open = True

    def _shutdown(self) -> None:
        self.is_open = False

    def _gpus(self) -> Sequence[GpuAnswers]:
        if not self.is_open:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        return self.host.gpus

    def _clock(self, index: int, kind: int) -> Any:
        assert kind == pynvml.NVML_CLOCK_GRAPHICS
        return self._recorded(index, "max_graphics_clock_mhz")

    def _recorded(self, index: int, field: str) -> Any:
        return self._answer(index, field, getattr(self.host.gpus[index], field))

    def _answer(self, index: int, field: str, value: Any) -> Any:
        if error := self._gpus()[index].errors.get(field):
            raise pynvml.NVMLError(CODES[error])
        return value
