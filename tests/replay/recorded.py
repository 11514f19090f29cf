"""What lies in ``data/``, read once each."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset

DATA: Final = Path(__file__).parent / "data"
FINNEY: Final = "finney_netuid1_block6852690_"


class Runtime(NamedTuple):
    """One runtime of the chain.

    Attributes:
        spec: Its version.
        metadata: Name of the file with its V14 metadata.
        layout: Version whose structs its calls answer with; None for structs that nobody knows.
    """

    spec: int
    metadata: str
    layout: int | None


RUNTIMES: Final = {
    runtime.spec: runtime
    for runtime in (
        Runtime(343, "finney_metadata_v14_spec343", 343),
        Runtime(461, "localnet_metadata_v14_spec461", 461),
        Runtime(462, "localnet_metadata_v14_spec461", 461),  # unknown to readers, yet with structs that they know
        Runtime(999, "localnet_metadata_v14_spec461", None),  # only its storage can be read
    )
}
"""The two recorded ones, and two that are made up from the newer."""


@cache
def load(name: str) -> Any:
    """One file of ``data/``, by its name without ``.json`` or ``.json.gz``."""
    packed = DATA / f"{name}.json.gz"
    if packed.exists():
        return json.loads(gzip.decompress(packed.read_bytes()))
    return json.loads((DATA / f"{name}.json").read_bytes())


def recorded_result(method: str) -> Any:
    """The result of a small call that was recorded on finney."""
    return next(call["result"] for call in load(f"{FINNEY}small")["calls"] if call["method"] == method)


@cache
def types(runtime: Runtime) -> RuntimeConfigurationObject:
    """A codec for what the runtime's calls answer with."""
    structs: dict[str, list[list[str]]] = dict(load("runtime_api_types_343_461")[str(runtime.layout or 461)])
    if runtime.layout is None:  # one field more in each place where an older reader goes astray
        metagraph = structs["SelectiveMetagraph"]
        structs["SelectiveMetagraph"] = [*metagraph[:52], ["novelty", "Option<Vec<Compact<u64>>>"], *metagraph[52:]]
        structs["AxonInfo"] = [["novelty", "u64"], *structs["AxonInfo"]]
    registry = RuntimeConfigurationObject()
    registry.update_type_registry(load_type_registry_preset("core"))
    registry.update_type_registry(
        {
            "types": {name: {"type": "struct", "type_mapping": fields} for name, fields in structs.items()}
            | {"AccountId32": "H256"}  # in hex, not SS58
        }
    )
    return registry


def encode(runtime: Runtime, kind: str, value: Any) -> bytes:
    """SCALE bytes of a value."""
    return bytes(types(runtime).create_scale_object(kind).encode(value).data)


def decode(runtime: Runtime, kind: str, data: str) -> Any:
    """The value that SCALE bytes (hex) hold, all of them consumed."""
    return types(runtime).create_scale_object(kind, ScaleBytes(data)).decode(check_remaining=True)
