"""The GPU table is upstream's, in its order, and refuses with the central API's texts (compat.md, section 3)."""

import json
from importlib import resources
from typing import Any

import pytest

from p2pnodes.model.claims import Node, parse_body
from p2pnodes.model.gpus import GpuSpecError, GpuTable, supported_gpus
from tests.support import body

GB = 10**9


def node(**changes: Any) -> Node:
    """An H100 SXM that fits, but for some changes."""
    return parse_body(body(["gpu-1"])).nodes[0]._replace(**changes)


def refusal(*nodes: Node) -> str:
    with pytest.raises(GpuSpecError) as refused:
        supported_gpus().check(nodes)
    return str(refused.value)


class TestTable:
    """``GET /nodes/supported`` serves it as it is."""

    def test_it_is_the_packaged_file_key_by_key_in_order(self) -> None:
        data = json.loads(resources.files("p2pnodes.model").joinpath("data/supported_gpus.json").read_text())
        assert json.dumps(supported_gpus().data) == json.dumps(data)
        assert next(iter(supported_gpus().data)) == "3090"

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("NVIDIA H100 80GB HBM3", "h100_sxm"),
            ("NVIDIA H100 PCIe", "h100"),
            ("NVIDIA H100 NVL", "h100_nvl"),
            ("NVIDIA H200", "h200"),
            ("NVIDIA GeForce RTX 4090", "4090"),
            ("NVIDIA RTX A6000", "a6000"),
            ("NVIDIA RTX 6000 Ada Generation", "a6000_ada"),
            ("NVIDIA L4", "l4"),
            ("NVIDIA L40", "l40"),
            ("NVIDIA L40S", "l40s"),
            ("NVIDIA A10", "a10"),
            ("NVIDIA A10G", None),
            ("NVIDIA A100-SXM4-80GB", "a100_sxm"),
            ("NVIDIA A100 80GB PCIe", "a100"),
            ("Tesla T4", None),
            ("", None),
        ],
    )
    def test_a_name_means_a_model(self, name: str, key: str | None) -> None:
        assert supported_gpus().identify(name) == key

    def test_of_several_patterns_that_match_the_first_in_the_table_wins(self) -> None:
        model = supported_gpus().data["h200"]
        entries = {"wide": {**model, "model_name_check": "H"}, "narrow": {**model, "model_name_check": "H200"}}
        assert GpuTable(entries).identify("NVIDIA H200") == "wide"
        assert GpuTable(dict(reversed(list(entries.items())))).identify("NVIDIA H200") == "narrow"


class TestChecks:
    """Each text, and the order in which they come."""

    def test_a_gpu_that_fits_is_let_pass(self) -> None:
        supported_gpus().check([node(), node(device_index=1)])

    def test_an_unknown_model(self) -> None:
        assert refusal(node(name="Tesla T4")) == "GPU model in name 'Tesla T4' not found in supported GPUs"

    def test_too_little_or_too_much_memory(self) -> None:
        assert refusal(node(memory=70 * GB)) == "Memory 70GB does not match expected 80GB for h100_sxm"
        for fits in (79 * GB, 80 * GB, 80 * 1024**3, 86 * GB):  # up to 80 * 1.024**3 + 1 = 86.9
            supported_gpus().check([node(memory=fits)])
        for wrong in (79 * GB - 1, 87 * GB):
            assert refusal(node(memory=wrong)).startswith("Memory ")

    def test_another_number_of_processors(self) -> None:
        assert refusal(node(processors=114)) == "Processor count 114 does not match expected 132 for h100_sxm"

    def test_processors_may_be_left_out(self) -> None:
        supported_gpus().check([node(processors=None)])

    def test_a_clock_rate_out_of_range(self) -> None:
        expected = "Clock rate 1000MHz not within expected range 1590-1980MHz for h100_sxm"
        assert refusal(node(clock_rate=1_000_000.0)) == expected
        for fits in (1_590_000.0, 2_178_000.0):
            supported_gpus().check([node(clock_rate=fits)])
        for wrong in (1_589_999.0, 2_178_001.0, -1.0):
            assert refusal(node(clock_rate=wrong)).startswith("Clock rate ")

    @pytest.mark.parametrize(("port", "fits"), [(79, False), (80, True), (65535, True), (65536, False), (0, False)])
    def test_a_port_out_of_range(self, port: int, fits: bool) -> None:
        if fits:
            supported_gpus().check([node(verification_port=port)])
        else:
            assert refusal(node(verification_port=port)) == f"Invalid verification_port: {port}"

    def test_another_identifier_than_the_models(self) -> None:
        expected = "GPU identifier h100 does not match model name identifier: h100_sxm"
        assert refusal(node(gpu_identifier="h100")) == expected

    def test_of_several_faults_the_first_in_upstreams_order_is_told(self) -> None:
        faults: dict[str, Any] = {
            "name": "Tesla T4", "memory": GB, "processors": 1, "clock_rate": 1.0, "verification_port": 1,
            "gpu_identifier": "x",
        }  # fmt: skip
        order = ["GPU model", "Memory", "Processor", "Clock", "Invalid verification_port", "GPU identifier"]
        for start, text in enumerate(order):
            assert refusal(node(**dict(list(faults.items())[start:]))).startswith(text)

    def test_of_several_gpus_the_first_that_does_not_fit_is_told(self) -> None:
        assert refusal(node(), node(verification_port=1), node(name="Tesla T4")) == "Invalid verification_port: 1"


class TestFill:
    """What the table knows beside what the miner says."""

    def test_what_newer_clients_leave_out_is_filled(self) -> None:
        filled = supported_gpus().fill(node(processors=None, max_threads_per_processor=None))
        assert (filled["processors"], filled["max_threads_per_processor"]) == (132, 2048)

    def test_what_a_miner_says_of_them_is_kept(self) -> None:
        said = node(processors=7, max_threads_per_processor=8)
        filled = supported_gpus().fill(said)
        assert (filled["processors"], filled["max_threads_per_processor"]) == (7, 8)

    def test_the_other_columns_come_from_the_table_where_it_has_them(self) -> None:
        model = supported_gpus().data["h100_sxm"]
        columns = [key for key in ("major", "minor", "sxm", "concurrent_kernels", "ecc") if key in model]
        filled = supported_gpus().fill(node(major=1, minor=2, sxm=False, concurrent_kernels=False, ecc=False))
        assert {key: filled[key] for key in columns} == {key: model[key] for key in columns}
        assert columns

    def test_an_unknown_model_is_left_as_it_is(self) -> None:
        unheard = node(gpu_identifier="unheard", processors=None)
        assert supported_gpus().fill(unheard) == unheard._asdict()
