"""The GPUs of this host: what NVML answers about them, and the facts of a registration that follow from it.

Reading and judging are apart. ``NvmlGpus`` asks the driver and keeps its answers as they are (``HostAnswers``, also
the format of recordings); ``describe`` derives the facts of one GPU from them, and is pure.

NVML has no SM count. It is the number of CUDA cores over the cores per SM, which the compute capability tells
(compat.md, section 5). Where NVML's maximum clock lies above what the GPU table allows, CUDA's clock rate is taken: on
GeForce and workstation cards the former is a limit that no card reaches.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pnodes.miner.cuda import CudaError, clock_rate_khz
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, P2PNodesError
from p2pnodes.model.gpus import BOOST_TOLERANCE, supported_gpus
from p2pnodes.model.problems import found_and_expected

GPUS_MAX: Final = 64
"""GPUs of one host that are read; the largest servers have 16."""

RECORDING_BYTES_MAX: Final = 256 * 1024
TEXT_CHARS_MAX: Final = 256
NUMBER_MAX: Final = 2**53
"""Largest number of a GPU: every JSON reader keeps it exact."""

FORMAT: Final = "p2pnodes-nvml-1"
MAJOR_64: Final = 7
"""Compute capabilities 7.x have 64 CUDA cores per SM."""

CORES_PER_SM: Final = {(8, 0): 64, (8, 6): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128}
"""CUDA cores per SM by compute capability, besides 7.x.

Source: CUDA C++ Programming Guide, "Compute Capabilities"; compat.md, section 5.
"""

NOT_SUPPORTED: Final = "Not Supported"
FUNCTION_NOT_FOUND: Final = "Function Not Found"
"""NVML's words for what a card, and for what a driver does not have."""

_UUID = re.compile(r"[0-9a-f]{32}")

Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]
Number = Annotated[int, Field(ge=0, le=NUMBER_MAX)]
Count = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What NVML answers as an unsigned int."""

Capability = Annotated[int, Field(ge=0, le=1_000)]
"""Half of a compute capability."""


class HardwareError(P2PNodesError):
    """The GPUs of this host cannot be read at all; the text says why, and what to do."""

    code = Code.GPU_DRIVER


class GpuProblemError(P2PNodesError):
    """One GPU cannot be registered as it is; the text names it and says what to do."""

    code = Code.GPU_UNFIT


class _Answers(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class GpuAnswers(_Answers):
    """What NVML, and CUDA where it was asked, answered about one GPU; None where they had no answer.

    Attributes:
        index: NVML's index, 0 to 63; follows the PCI bus.
        uuid: As NVML writes it, ``GPU-`` and 32 hex digits with dashes.
        name: Product name.
        memory_total: Bytes.
        cuda_cores: All of the GPU's.
        compute_capability: Major and minor.
        max_graphics_clock_mhz: NVML's maximum of the graphics clock.
        ecc_mode: Whether ECC is on.
        mig_mode: Whether MIG is on.
        pci_bus_id: In the form that CUDA takes.
        cuda_clock_rate_khz: Asked only where the maximum clock is over the GPU table's limit.
        errors: Field -> what was answered instead of a value.
    """

    index: Annotated[int, Field(ge=0, lt=GPUS_MAX)]
    uuid: Text | None = None
    name: Text | None = None
    memory_total: Number | None = None
    cuda_cores: Count | None = None
    compute_capability: tuple[Capability, Capability] | None = None
    max_graphics_clock_mhz: Count | None = None
    ecc_mode: bool | None = None
    mig_mode: bool | None = None
    pci_bus_id: Text | None = None
    cuda_clock_rate_khz: Count | None = None
    errors: dict[Text, Text] = Field(default_factory=dict, max_length=16)


class HostAnswers(_Answers):
    """What NVML answered about a host: the content of a recording.

    Attributes:
        format: Of this file.
        origin: Where the answers come from, for people.
        driver: Version of the NVIDIA driver.
        gpus: By index.
    """

    format: Literal["p2pnodes-nvml-1"] = FORMAT
    origin: Text = ""
    driver: Text | None = None
    gpus: Annotated[tuple[GpuAnswers, ...], Field(min_length=1, max_length=GPUS_MAX)]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recording.

        Raises:
            ConfigError: It cannot be read, or is none.
        """
        try:
            with path.open("rb") as opened:
                content = opened.read(RECORDING_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); expected a recording", code=Code.AGENT_SETTINGS
            ) from error
        if len(content) > RECORDING_BYTES_MAX:
            raise ConfigError(
                f"{path}: over {RECORDING_BYTES_MAX} bytes; expected a recording of one host", code=Code.AGENT_SETTINGS
            )
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            reason = f"{key}: {found_and_expected(first, key)}" if key else first["msg"]
            raise ConfigError(
                f"{path}: no recording of NVML's answers: {reason}; make one with p2pnodes miner probe --record FILE",
                code=Code.AGENT_SETTINGS,
            ) from error

    def dump(self) -> str:
        """The recording as JSON text, without what has no value."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


class Gpu(BaseModel):
    """The facts of one GPU that a claim is compared with.

    Attributes:
        uuid: 32 hex digits, without ``GPU-`` and dashes.
        name: NVML's product name.
        memory: Bytes.
        processors: SM count.
        clock_rate: kHz.
        clock_source: ``nvml``: the maximum graphics clock; ``cuda``: CUDA's clock rate, where the former is too high.
        major: Compute capability.
        minor: Its second half.
        ecc: Whether it is on; None where the card has none.
        device_index: NVML's index.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    uuid: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Text
    memory: Number
    processors: Number
    clock_rate: Annotated[float, Field(ge=0, le=NUMBER_MAX, allow_inf_nan=False)]
    clock_source: Literal["nvml", "cuda"]
    major: Capability
    minor: Capability
    ecc: bool | None
    device_index: Annotated[int, Field(ge=0, lt=GPUS_MAX)]


class Described(NamedTuple):
    """A GPU's facts, and where each one comes from.

    Attributes:
        gpu: The facts.
        model: Its short reference in the GPU table; None where the network does not know it.
        sources: Field -> one line for a person.
    """

    gpu: Gpu
    model: str | None
    sources: dict[str, str]


def describe(answers: GpuAnswers) -> Described:
    """The facts of one GPU.

    Raises:
        GpuProblemError: NVML does not tell what is needed, MIG is on, or the compute capability is unknown.
    """
    index = answers.index
    name, memory = _required(answers, "name"), _required(answers, "memory_total")
    uuid = canonical_uuid(_required(answers, "uuid"))
    if not _UUID.fullmatch(uuid):
        raise GpuProblemError(f"GPU {index}: found uuid {answers.uuid!r:.80}, expected GPU- and 32 hex digits")
    if answers.mig_mode:
        raise GpuProblemError(
            f"GPU {index} ({name}): MIG is on, and the counts of a GPU that is cut into slices are not those of its "
            f"model; switch it off: nvidia-smi -i {index} -mig 0"
        )
    if answers.errors.get("mig_mode", NOT_SUPPORTED) not in {NOT_SUPPORTED, FUNCTION_NOT_FOUND}:
        raise GpuProblemError(
            f"GPU {index} ({name}): NVML does not tell whether MIG is on: {_error(answers, 'mig_mode')}"
        )
    major, minor = _required(answers, "compute_capability")
    cores = _required(answers, "cuda_cores")
    per_sm = 64 if major == MAJOR_64 else CORES_PER_SM.get((major, minor))
    if per_sm is None:
        raise GpuProblemError(
            f"GPU {index} ({name}): found compute capability {major}.{minor}, expected 7.x or one of "
            f"{', '.join(f'{a}.{b}' for a, b in CORES_PER_SM)}: how many CUDA cores its SMs have is not known here; "
            "install a newer p2pnodes"
        )
    if not cores or cores % per_sm:
        raise GpuProblemError(
            f"GPU {index} ({name}): found {cores} CUDA cores, expected a multiple of {per_sm}, the number per SM of "
            f"compute capability {major}.{minor}"
        )
    clock_khz, clock_source, clock_line = _clock(answers, name)
    gpu = Gpu(
        uuid=uuid,
        name=name,
        memory=memory,
        processors=cores // per_sm,
        clock_rate=clock_khz,
        clock_source=clock_source,
        major=major,
        minor=minor,
        ecc=answers.ecc_mode,
        device_index=index,
    )
    sources = {
        "uuid": "NVML, without GPU- and dashes",
        "name": "NVML",
        "memory": f"NVML, total memory: {memory >> 20} MiB",
        "major": "NVML, CUDA compute capability",
        "minor": "NVML, CUDA compute capability",
        "processors": f"SM count {gpu.processors} = {cores} CUDA cores (NVML) / {per_sm} per SM (compute capability "
        f"{major}.{minor})",
        "clock_rate": clock_line,
        "ecc": "NVML, current mode" if answers.ecc_mode is not None else f"NVML: {_error(answers, 'ecc_mode')}",
        "device_index": "NVML, in the order of the PCI bus",
    }
    return Described(gpu, supported_gpus().identify(name), sources)


def canonical_uuid(uuid: str) -> str:
    """A GPU's uuid as claims have it: without ``GPU-`` and dashes, in lower case."""
    return uuid.removeprefix("GPU-").replace("-", "").lower()


def clock_limit_mhz(name: str) -> float | None:
    """Highest clock that the GPU table allows a GPU of this name; None where it does not know it."""
    table = supported_gpus()
    model = table.identify(name)
    return None if model is None else float(table.data[model]["clock_rate"]["boost"] * BOOST_TOLERANCE)


def _clock(answers: GpuAnswers, name: str) -> tuple[float, Literal["nvml", "cuda"], str]:
    """Clock rate in kHz, whose word it is, and that in one line."""
    mhz = _required(answers, "max_graphics_clock_mhz")
    limit_mhz = clock_limit_mhz(name)
    if limit_mhz is None or mhz <= limit_mhz:
        return mhz * 1000.0, "nvml", f"NVML, maximum graphics clock: {mhz} MHz"
    cuda_khz = answers.cuda_clock_rate_khz
    if cuda_khz is None:
        reason = _error(answers, "cuda_clock_rate_khz")
        return (
            mhz * 1000.0,
            "nvml",
            f"NVML, maximum graphics clock: {mhz} MHz; CUDA's clock rate cannot be had: {reason}",
        )
    over = f"NVML's maximum, {mhz} MHz, is over the GPU table's boost clock x {BOOST_TOLERANCE}, {limit_mhz:g} MHz"
    return float(cuda_khz), "cuda", f"CUDA's clock rate: {cuda_khz / 1000:g} MHz ({over})"


def _required(answers: GpuAnswers, field: str) -> Any:
    value = getattr(answers, field)
    if value is None:
        raise GpuProblemError(
            f"GPU {answers.index}: NVML does not tell its {field}: {_error(answers, field)}{_advice(answers)}"
        )
    return value


def _error(answers: GpuAnswers, field: str) -> str:
    return answers.errors.get(field) or answers.errors.get("handle") or "not asked"


def _advice(answers: GpuAnswers) -> str:
    if FUNCTION_NOT_FOUND in answers.errors.values():
        return "; install a newer NVIDIA driver"
    return "; see nvidia-smi and the kernel's log: it may need a reset"


class NvmlGpus:
    """Reads the GPUs of this host through NVML, anew with every call; no two calls at the same time.

    NVML stays open between calls, which keeps the GPUs initialised and calls quick. What was lost meanwhile (the driver
    was loaded anew, a GPU fell off the bus) is opened once more; a GPU that is still lost is told with the others.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._opened = False

    def __call__(self) -> HostAnswers:
        """Read all GPUs.

        Raises:
            HardwareError: No driver answers, or it sees no GPU or too many.
        """
        import pynvml

        try:
            answers = self._read()
            if not any(_lost(gpu) for gpu in answers.gpus):
                return answers
        except pynvml.NVMLError:
            pass
        self._close()
        try:
            return self._read()
        except pynvml.NVMLError as error:
            self._close()
            raise HardwareError(_no_driver(error)) from error

    def _read(self) -> HostAnswers:
        import pynvml

        if not self._opened:
            pynvml.nvmlInit()
            self._opened = True
        count = pynvml.nvmlDeviceGetCount()
        if not 1 <= count <= GPUS_MAX:
            raise HardwareError(
                f"the NVIDIA driver sees {count} GPUs on this host, expected 1 to {GPUS_MAX}; see nvidia-smi"
            )
        return HostAnswers(
            origin="NVML of this host",
            driver=pynvml.nvmlSystemGetDriverVersion(),
            gpus=tuple(self._read_gpu(index) for index in range(count)),
        )

    def _read_gpu(self, index: int) -> GpuAnswers:
        import pynvml

        values: dict[str, Any] = {}
        errors: dict[str, str] = {}

        def ask(field: str, question: Callable[[], Any]) -> Any:
            try:
                values[field] = question()
            except (pynvml.NVMLError, CudaError, UnicodeDecodeError) as error:
                errors[field] = str(error)
            return values.get(field)

        handle = ask("handle", lambda: pynvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return GpuAnswers(index=index, errors=errors)
        del values["handle"]
        ask("uuid", lambda: pynvml.nvmlDeviceGetUUID(handle))
        name = ask("name", lambda: pynvml.nvmlDeviceGetName(handle))
        ask("memory_total", lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
        ask("cuda_cores", lambda: pynvml.nvmlDeviceGetNumGpuCores(handle))
        ask("compute_capability", lambda: tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)))
        mhz = ask(
            "max_graphics_clock_mhz", lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS)
        )
        ask("ecc_mode", lambda: bool(pynvml.nvmlDeviceGetEccMode(handle)[0]))
        ask("mig_mode", lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0]))
        bus_id = ask("pci_bus_id", lambda: pynvml.nvmlDeviceGetPciInfo(handle).busIdLegacy)
        limit_mhz = None if name is None else clock_limit_mhz(name)
        if bus_id is not None and mhz is not None and limit_mhz is not None and mhz > limit_mhz:
            ask("cuda_clock_rate_khz", lambda: clock_rate_khz(bus_id))
        try:
            return GpuAnswers(index=index, **values, errors=errors)
        except ValidationError as error:
            first = error.errors()[0]
            return GpuAnswers(index=index, errors={"handle": f"{first['loc'][0]} is out of range: {first['msg']}"})

    def _close(self) -> None:
        import pynvml

        if self._opened:
            self._opened = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError:
                return  # what is lost cannot be closed; the next nvmlInit tells whether it is back


def _lost(gpu: GpuAnswers) -> bool:
    """Whether NVML had an error that opening it anew may mend: a GPU was lost, or the driver went away in between."""
    return any(
        error not in {NOT_SUPPORTED, FUNCTION_NOT_FOUND}
        for field, error in gpu.errors.items()
        if field != "cuda_clock_rate_khz"
    )


def _no_driver(error: Exception) -> str:
    import pynvml

    if isinstance(error, pynvml.NVMLError) and error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return f"the NVIDIA driver was replaced while its library was loaded (NVML: {error}); restart this program"
    return f"no NVIDIA driver answers on this host (NVML: {error}); run it on the GPU host"
