"""A probe's body is what daemons take, or says why not; each field of it has a source."""

import json
from typing import Any, Final

import pytest

from p2pnodes.api.hosts import HostCheck, system_resolver
from p2pnodes.miner.hardware import GpuProblemError, HardwareError
from p2pnodes.miner.probe import NO_HOST, probe
from p2pnodes.model.claims import Node, check_claim, parse_body
from p2pnodes.model.gpus import supported_gpus
from tests.miner.nvml import changed, recording

MODELS = ["a100_sxm", "h100_sxm", "h200", "l40s", "rtx4090", "rtx5090"]
HOST: Final[dict[str, Any]] = {"host": "203.0.113.7", "port": 30_000}


class TestBody:
    """It goes to miner add as it is."""

    @pytest.mark.parametrize("name", MODELS)
    def test_daemons_take_it(self, name: str) -> None:
        found = probe(recording(name), **HOST, server_id="rack-1")
        body = parse_body(json.dumps(found.body).encode())
        check_claim(body)
        supported_gpus().check(body.nodes)
        assert found.warnings == []
        assert (body.server_id, body.server_name) == ("rack-1", "rack-1")
        assert {(node.verification_host, node.verification_port) for node in body.nodes} == {("203.0.113.7", 30_000)}
        assert [node.device_index for node in body.nodes] == list(range(len(recording(name).gpus)))

    def test_without_a_server_id_it_has_none(self) -> None:
        assert probe(recording("h200"), **HOST).body.keys() == {"nodes"}

    async def test_without_a_host_every_daemon_refuses_it(self) -> None:
        found = probe(recording("h200"), host=None, port=30_000)
        assert {node["verification_host"] for node in found.body["nodes"]} == {NO_HOST}
        assert any("--host" in warning for warning in found.warnings)
        assert not await HostCheck(system_resolver, timeout_s=1, allow_private=True).acceptable([NO_HOST], b"m")

    def test_what_neither_nvml_nor_the_table_knows_is_left_out(self) -> None:
        pro = changed(
            recording("rtx5090"), 0, name="NVIDIA RTX PRO 6000", memory_total=102_000_000_000, cuda_cores=188 * 128
        )
        (node,) = probe(pro, **HOST).body["nodes"]
        assert node["gpu_identifier"] == "pro_6000"
        assert not {"sxm", "ecc", "concurrent_kernels"} & node.keys()

    def test_a_card_without_ecc_takes_the_tables_word(self) -> None:
        found = probe(recording("rtx5090"), **HOST)
        assert found.body["nodes"][0]["ecc"] is False
        (source,) = (source for source in found.sources if source.field == "ecc")
        assert source.source == "GPU table, 5090 (NVML: Not Supported)"


class TestRefusals:
    """What cannot be registered is said with what to do."""

    def test_more_gpus_than_a_server_may_have_are_refused(self) -> None:
        host = recording("h100_sxm")
        gpus = tuple(host.gpus[0].model_copy(update={"index": index}) for index in range(11))
        with pytest.raises(HardwareError, match="found 11 GPUs, expected at most 10: that is the limit of one server"):
            probe(host.model_copy(update={"gpus": gpus}), **HOST)

    def test_a_model_that_the_network_does_not_know_is_named(self) -> None:
        with pytest.raises(GpuProblemError, match="GPU 0: found 'NVIDIA T4', expected a model of the network"):
            probe(changed(recording("h200"), 0, name="NVIDIA T4"), **HOST)

    @pytest.mark.parametrize(
        ("name", "fields", "line"),
        [
            (
                "rtx4090",
                {"cuda_clock_rate_khz": None, "errors": {"cuda_clock_rate_khz": "libcuda.so.1 cannot be loaded"}},
                (
                    "GPU 0 (NVIDIA GeForce RTX 4090): the network will refuse it: Clock rate 3120MHz not within "
                    "expected range 2235-2520MHz for 4090 (NVML, maximum graphics clock: 3120 MHz; CUDA's clock rate "
                    "cannot be had: libcuda.so.1 cannot be loaded)"
                ),
            ),
            (
                "h200",
                {"memory_total": 80_000_000_000},
                "GPU 0 (NVIDIA H200): the network will refuse it: Memory 80GB does not match expected 140GB for h200",
            ),
        ],
    )
    def test_what_the_network_will_refuse_is_a_warning(self, name: str, fields: dict[str, Any], line: str) -> None:
        assert probe(changed(recording(name), 0, **fields), **HOST).warnings == [line]


class TestSources:
    """Each number says where it comes from."""

    @pytest.mark.parametrize("name", MODELS)
    def test_every_field_has_a_source_for_every_gpu(self, name: str) -> None:
        found = probe(recording(name), **HOST)
        everyone = list(range(len(recording(name).gpus)))
        assert [source.field for source in found.sources] == list(Node._fields)
        assert all(source.gpus == everyone for source in found.sources)

    def test_gpus_that_differ_have_lines_of_their_own(self) -> None:
        found = probe(changed(recording("h200"), 1, cuda_cores=128 * 100), **HOST)
        assert [(source.value, source.gpus) for source in found.sources if source.field == "processors"] == [
            (132, [0]),
            (100, [1]),
        ]

    def test_a_value_that_is_not_shared_is_left_out(self) -> None:
        found = probe(recording("h200"), **HOST)
        assert next(source for source in found.sources if source.field == "uuid").value is None
