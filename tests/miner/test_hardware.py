"""The facts of GPUs follow from NVML's answers, and what cannot be known is said, never guessed.

The recordings are composed from data sheets and the GPU table, in the format of ``p2pnodes miner probe --record``; each
says so in its origin. Only calls of pynvml and of the CUDA library are replaced.
"""

import ctypes
import json
from pathlib import Path
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.miner.cuda import CudaError, clock_rate_khz
from p2pnodes.miner.hardware import (
    GPUS_MAX,
    RECORDING_BYTES_MAX,
    Gpu,
    GpuProblemError,
    HardwareError,
    HostAnswers,
    NvmlGpus,
    describe,
)
from p2pnodes.model.errors import ConfigError
from tests.miner.nvml import NAMES, FakeNvml, changed, recording

NO_DRIVER = "no NVIDIA driver answers on this host (NVML: {}); run it on the GPU host"


def reading(host: HostAnswers, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeNvml, NvmlGpus]:
    nvml = FakeNvml(host, monkeypatch)
    return nvml, NvmlGpus()


class TestReading:
    """What NVML answers is kept as it is, and what is lost is opened once more."""

    @pytest.mark.parametrize("name", NAMES)
    def test_a_reading_is_what_was_recorded(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        _, read = reading(recording(name), monkeypatch)
        found = read()
        assert (found.driver, found.gpus) == (recording(name).driver, recording(name).gpus)

    @pytest.mark.parametrize(("name", "asked"), [("h100_sxm", 0), ("l40s", 0), ("rtx4090", 2), ("rtx5090", 1)])
    def test_cuda_is_asked_only_where_nvmls_clock_is_over_the_tables(
        self, name: str, asked: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvml, read = reading(recording(name), monkeypatch)
        read()
        assert nvml.asked_cuda == [gpu.pci_bus_id for gpu in recording(name).gpus][:asked]

    def test_nvml_stays_open_and_answers_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml, read = reading(recording("h200"), monkeypatch)
        read()
        nvml.host = changed(nvml.host, 0, ecc_mode=False)
        assert read().gpus[0].ecc_mode is False
        assert nvml.opened == 1

    @pytest.mark.parametrize("words", ["NVML Shared Library Not Found", "Driver Not Loaded"])
    def test_a_host_without_a_driver_is_one_line(self, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml, read = reading(recording("h200"), monkeypatch)
        nvml.failures = [words, words]
        with pytest.raises(HardwareError) as raised:
            read()
        assert str(raised.value) == NO_DRIVER.format(words)

    def test_a_driver_that_was_replaced_asks_for_a_restart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml, read = reading(recording("h200"), monkeypatch)
        nvml.failures = ["RM has detected an NVML/RM version mismatch."] * 2
        with pytest.raises(HardwareError, match=r"was replaced .* restart this program"):
            read()

    def test_a_driver_that_was_loaded_anew_is_opened_once_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml, read = reading(recording("h200"), monkeypatch)
        read()
        nvml.is_open = False
        assert len(read().gpus) == 2
        assert nvml.opened == 2

    def test_a_driver_that_is_gone_is_an_error_and_may_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml, read = reading(recording("h200"), monkeypatch)
        read()
        nvml.is_open, nvml.failures = False, ["Driver Not Loaded"]
        with pytest.raises(HardwareError, match="Driver Not Loaded"):
            read()
        assert len(read().gpus) == 2

    def test_a_gpu_that_is_lost_in_the_middle_is_read_again_and_then_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvml, read = reading(recording("h200"), monkeypatch)
        nvml.host = changed(nvml.host, 1, cuda_cores=None, errors={"cuda_cores": "GPU is lost"})
        found = read()
        assert nvml.opened == 2
        assert found.gpus[0] == recording("h200").gpus[0]
        with pytest.raises(GpuProblemError, match=r"GPU 1: NVML does not tell its cuda_cores: GPU is lost; see nvidia"):
            describe(found.gpus[1])

    def test_a_gpu_that_is_back_after_opening_again_is_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml, read = reading(recording("lost"), monkeypatch)
        close = pynvml.nvmlShutdown

        def mends() -> None:
            close()
            nvml.host = recording("h200")

        monkeypatch.setattr(pynvml, "nvmlShutdown", mends)
        assert read().gpus == recording("h200").gpus

    @pytest.mark.parametrize("count", [0, GPUS_MAX + 1])
    def test_no_gpu_and_too_many_are_one_line(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        _, read = reading(recording("h200"), monkeypatch)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: count)
        with pytest.raises(HardwareError, match=f"sees {count} GPUs on this host, expected 1 to {GPUS_MAX}"):
            read()

    @pytest.mark.parametrize(
        "answers", [{"memory_total": 2**64 - 1}, {"name": "x" * 300}, {"compute_capability": (7, -1)}]
    )
    def test_an_answer_out_of_range_is_that_gpus_problem(
        self, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, read = reading(changed(recording("h200"), 0, **answers), monkeypatch)
        found = read()
        with pytest.raises(GpuProblemError, match=f"{next(iter(answers))} is out of range"):
            describe(found.gpus[0])
        assert describe(found.gpus[1]).gpu.processors == 132


class TestFacts:
    """SM counts and clocks are derived as compat.md, section 5, says, and each fact names its source."""

    @pytest.mark.parametrize(
        ("name", "model", "numbers", "source"),
        [
            ("h100_sxm", "h100_sxm", (132, 1_980_000, 9, 0), "nvml"),
            ("h200", "h200", (132, 1_980_000, 9, 0), "nvml"),
            ("a100_sxm", "a100_sxm", (108, 1_410_000, 8, 0), "nvml"),
            ("l40s", "l40s", (142, 2_520_000, 8, 9), "nvml"),
            ("rtx4090", "4090", (128, 2_520_000, 8, 9), "cuda"),
            ("rtx5090", "5090", (170, 2_407_000, 12, 0), "cuda"),
        ],
    )
    def test_models_have_their_numbers(
        self, name: str, model: str, numbers: tuple[int, int, int, int], source: str
    ) -> None:
        for answers in recording(name).gpus:
            found = describe(answers)
            gpu = found.gpu
            assert (found.model, gpu.clock_source) == (model, source)
            assert (gpu.processors, gpu.clock_rate, gpu.major, gpu.minor) == numbers
            assert gpu.uuid == str(answers.uuid).removeprefix("GPU-").replace("-", "")
            assert (gpu.memory, gpu.device_index) == (answers.memory_total, answers.index)

    def test_the_sm_count_says_how_it_came_about(self) -> None:
        found = describe(recording("h100_sxm").gpus[0])
        assert found.sources["processors"] == (
            "SM count 132 = 16896 CUDA cores (NVML) / 128 per SM (compute capability 9.0)"
        )

    def test_the_clock_of_a_geforce_says_why_it_is_cudas(self) -> None:
        found = describe(recording("rtx4090").gpus[0])
        assert found.sources["clock_rate"] == (
            "CUDA's clock rate: 2520 MHz "
            "(NVML's maximum, 3120 MHz, is over the GPU table's boost clock x 1.1, 2772 MHz)"
        )

    def test_without_cuda_nvmls_clock_stays_and_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, read = reading(changed(recording("rtx4090"), 0, cuda_clock_rate_khz=None), monkeypatch)
        found = describe(read().gpus[0])
        assert (found.gpu.clock_rate, found.gpu.clock_source) == (3_120_000, "nvml")
        assert found.sources["clock_rate"].endswith("CUDA's clock rate cannot be had: libcuda.so.1 cannot be loaded")

    def test_a_card_without_ecc_has_none(self) -> None:
        found = describe(recording("rtx5090").gpus[0])
        assert found.gpu.ecc is None
        assert found.sources["ecc"] == "NVML: Not Supported"

    @pytest.mark.parametrize(("major", "minor"), [(7, 0), (7, 5), (8, 0)])
    def test_older_capabilities_have_64_cores_per_sm(self, major: int, minor: int) -> None:
        answers = recording("a100_sxm").gpus[0].model_copy(update={"compute_capability": (major, minor)})
        assert describe(answers).gpu.processors == 108

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            ({"mig_mode": True}, r"GPU 0 \(NVIDIA H200\): MIG is on, .* switch it off: nvidia-smi -i 0 -mig 0"),
            ({"compute_capability": (10, 3)}, r"found compute capability 10\.3, expected 7\.x or one of 8\.0, 8\.6"),
            ({"cuda_cores": 16_897}, "found 16897 CUDA cores, expected a multiple of 128"),
            ({"cuda_cores": 0}, "found 0 CUDA cores"),
            ({"uuid": "MIG-1"}, "found uuid 'MIG-1', expected GPU- and 32 hex digits"),
            (
                {"name": None, "errors": {"name": "Unknown Error"}},
                "its name: Unknown Error; see nvidia-smi",
            ),
            ({"name": None, "errors": {"handle": "GPU is lost"}}, "GPU is lost"),
            (
                {"cuda_cores": None, "errors": {"cuda_cores": "Function Not Found"}},
                "its cuda_cores: Function Not Found; install a newer NVIDIA driver",
            ),
            (
                {"mig_mode": None, "errors": {"mig_mode": "Insufficient Permissions"}},
                "does not tell whether MIG is on: Insufficient Permissions",
            ),
        ],
    )
    def test_what_cannot_be_known_is_named(self, fields: dict[str, Any], line: str) -> None:
        answers = recording("h200").gpus[0].model_copy(update=fields)
        with pytest.raises(GpuProblemError, match=line):
            describe(answers)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "uuid": st.none() | st.text(max_size=40),
                "name": st.none() | st.text(max_size=40) | st.sampled_from(["NVIDIA H200", "RTX 4090"]),
                "memory_total": st.none() | st.integers(0, 2**53),
                "cuda_cores": st.none() | st.integers(0, 2**32 - 1) | st.integers(0, 400).map(lambda n: n * 128),
                "compute_capability": st.none() | st.tuples(st.integers(0, 13), st.integers(0, 9)),
                "max_graphics_clock_mhz": st.none() | st.integers(0, 2**32 - 1),
                "mig_mode": st.none() | st.booleans(),
                "cuda_clock_rate_khz": st.none() | st.integers(1, 2**31 - 1),
            },
        )
    )
    def test_whatever_is_answered_a_gpu_is_whole_or_refused(self, fields: dict[str, Any]) -> None:
        answers = recording("h200").gpus[0].model_copy(update=fields)
        try:
            gpu = describe(answers).gpu
        except GpuProblemError:
            return
        assert Gpu.model_validate_json(gpu.model_dump_json()) == gpu
        assert answers.cuda_cores in {gpu.processors * 64, gpu.processors * 128}
        assert not answers.mig_mode


class TestRecordings:
    """A recording is kept and read without loss; what is none is one line."""

    @pytest.mark.parametrize("name", NAMES)
    def test_it_comes_back_as_it_was_written(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text(recording(name).dump())
        assert HostAnswers.load(tmp_path / "r.json") == recording(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_ours_say_that_no_hardware_was_recorded(self, name: str) -> None:
        assert "not recorded from hardware" in recording(name).origin

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"{", "Invalid JSON"),
            (b"[" * 5_000, "Invalid JSON"),
            (b"{}", "gpus: "),
            (b'{"gpus": []}', "gpus: found []"),
            (b'{"gpus": [{"index": 64}]}', "gpus.0.index: found 64, expected less than 64"),
            (b'{"gpus": [{"index": 0, "memory_total": "1"}]}', "gpus.0.memory_total"),
            (b'{"format": "2", "gpus": [{"index": 0}]}', "format"),
            (b'{"gpus": [{"index": 0}], "shell": "rm"}', "shell"),
            (b" " * (RECORDING_BYTES_MAX + 1), f"over {RECORDING_BYTES_MAX} bytes"),
            (b"\xff", "Invalid JSON"),
        ],
    )
    def test_what_is_none_is_one_line(self, content: bytes, reason: str, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(ConfigError) as raised:
            HostAnswers.load(tmp_path / "r.json")
        line = str(raised.value)
        assert reason in line
        assert "\n" not in line

    def test_an_absent_file_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
            HostAnswers.load(tmp_path / "absent")

    def test_it_is_json_that_people_can_read(self) -> None:
        found = json.loads(recording("h200").dump())
        assert found["format"] == "p2pnodes-nvml-1"
        assert found["gpus"][0]["cuda_cores"] == 16_896


class FakeCuda:
    """The calls of libcuda that we use; each answers an error code, 0 is none."""

    def __init__(self, *, init: int = 0, find: int = 0, ask: int = 0, khz: int = 2_520_000) -> None:
        self.codes = (init, find, ask)
        self.khz = khz
        self.bus_id = b""

    def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's own name
        return self.codes[0]

    def cuDeviceGetByPCIBusId(self, device: Any, bus_id: bytes) -> int:  # noqa: N802 - CUDA's own name
        self.bus_id = bus_id
        device._obj.value = 3
        return self.codes[1]

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802 - CUDA's own name
        assert (attribute, device.value) == (13, 3)
        value._obj.value = self.khz
        return self.codes[2]


class TestCuda:
    """CUDA's clock rate, or why there is none."""

    def test_it_is_asked_of_the_gpu_at_the_bus_id(self, monkeypatch: pytest.MonkeyPatch) -> None:
        library = FakeCuda()
        monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
        assert clock_rate_khz("0000:1B:00.0") == 2_520_000
        assert library.bus_id == b"0000:1B:00.0"

    @pytest.mark.parametrize(
        ("library", "reason"),
        [
            (FakeCuda(init=100), "cuInit answered error 100"),
            (FakeCuda(find=101), "cuDeviceGetByPCIBusId answered error 101"),
            (FakeCuda(ask=1), "cuDeviceGetAttribute answered error 1"),
            (FakeCuda(khz=0), "no clock rate"),
        ],
    )
    def test_each_failure_is_named(self, library: FakeCuda, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
        with pytest.raises(CudaError, match=reason):
            clock_rate_khz("0000:1B:00.0")

    def test_a_host_without_cuda_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(name: str) -> None:
            raise OSError(name)

        monkeypatch.setattr(ctypes, "CDLL", absent)
        with pytest.raises(CudaError, match=r"libcuda\.so\.1 cannot be loaded"):
            clock_rate_khz("0000:1B:00.0")
