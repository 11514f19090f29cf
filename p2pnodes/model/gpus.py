"""The GPU table: which models the subnet supports, and whether a miner's description fits one of them.

The data is upstream's, key by key and in its order (``data/supported_gpus.json``); the rules are those of compat.md,
section 3, "Spec rules". The table is looked at by the API and the verifiers only: it never decides validity.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

from p2pnodes.model.claims import Node

PORT_MIN: Final = 80
PORT_MAX: Final = 65535
BOOST_TOLERANCE: Final = 1.1
"""How far above the table's boost clock a card's maximum may lie."""


NAMES_KEPT: Final = 1_024
"""Names whose model is remembered: a miner's GPUs have few, and each costs all patterns of the table."""

_TABLES_WORD: Final = ("major", "minor", "sxm", "concurrent_kernels", "ecc")
_MINERS_WORD: Final = ("processors", "max_threads_per_processor")


class GpuSpecError(ValueError):
    """A node does not fit the GPU table; the message is the central API's."""


class GpuTable:
    """The supported GPU models."""

    def __init__(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the table as upstream publishes it: short reference -> model."""
        self.data: Final = data
        self._patterns: Final = [(key, re.compile(model["model_name_check"])) for key, model in data.items()]
        self._from_table: Final = {key: _present(model, _TABLES_WORD) for key, model in data.items()}
        self._where_absent: Final = {key: _present(model, _MINERS_WORD) for key, model in data.items()}
        self._identified = lru_cache(NAMES_KEPT)(self._identify)

    def identify(self, name: str) -> str | None:
        """Short reference of the first model, in table order, whose pattern occurs in ``name``."""
        return self._identified(name)

    def _identify(self, name: str) -> str | None:
        return next((key for key, pattern in self._patterns if pattern.search(name)), None)

    def fill(self, node: Node) -> dict[str, Any]:
        """The fields of a node, completed with what the table knows of its model.

        ``processors`` and ``max_threads_per_processor`` are filled where the miner left them out; ``major``, ``minor``,
        ``sxm``, ``concurrent_kernels`` and ``ecc`` come from the table where it has them.
        """
        fields = node._asdict()
        fields.update(self._from_table.get(node.gpu_identifier, {}))
        for key, value in self._where_absent.get(node.gpu_identifier, {}).items():
            if fields[key] is None:
                fields[key] = value
        return fields

    def check(self, nodes: Iterable[Node]) -> None:
        """Check a server's GPUs against the table.

        Raises:
            GpuSpecError: With the central API's text for the first thing that does not fit.
        """
        for node in nodes:
            self._check(node)

    def _check(self, node: Node) -> None:
        key = self.identify(node.name)
        if key is None:
            raise GpuSpecError(f"GPU model in name '{node.name}' not found in supported GPUs")
        model = self.data[key]
        memory_gb, expected_gb = int(node.memory / 1e9), model["memory"]
        if not expected_gb - 1 <= memory_gb <= expected_gb * 1.024**3 + 1:
            raise GpuSpecError(f"Memory {memory_gb}GB does not match expected {expected_gb}GB for {key}")
        if node.processors is not None and node.processors != model["processors"]:
            raise GpuSpecError(
                f"Processor count {node.processors} does not match expected {model['processors']} for {key}"
            )
        clock_mhz, base, boost = node.clock_rate / 1000, model["clock_rate"]["base"], model["clock_rate"]["boost"]
        if not base <= clock_mhz <= boost * BOOST_TOLERANCE:
            raise GpuSpecError(f"Clock rate {clock_mhz:.0f}MHz not within expected range {base}-{boost}MHz for {key}")
        if not PORT_MIN <= node.verification_port <= PORT_MAX:
            raise GpuSpecError(f"Invalid verification_port: {node.verification_port}")
        if node.gpu_identifier != key:
            raise GpuSpecError(f"GPU identifier {node.gpu_identifier} does not match model name identifier: {key}")


def _present(model: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: model[key] for key in keys if key in model}


@cache
def supported_gpus() -> GpuTable:
    """The packaged table."""
    data = resources.files("p2pnodes.model").joinpath("data/supported_gpus.json").read_bytes()
    return GpuTable(json.loads(data))
