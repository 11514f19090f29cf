"""The parameters that make one network, and the id that peers compare before anything else."""

from functools import cached_property
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from p2pnodes.model.codec import Value, digest, pack

PROTOCOL_VERSION: Final = 1
"""Highest protocol version that this build speaks."""

NETWORK_ID_BYTES: Final = 16
PPM: Final = 1_000_000


class Network(BaseModel):
    """Parameters of the inventory function; all of them are hashed into the network id.

    Attributes:
        genesis_hash: 32 bytes, hex, the chain's block 0.
        netuid: Subnet on that chain.
        quorum: Share of the weighed stake above which a claim is verified, 0.000001 to 0.999999, to the millionth.
        min_share: Share of all enrolled stake that a verified claim needs at least, in [0, 1], to the millionth.
        verdict_ttl_s: Seconds of electorate time after which a verdict lapses.
        epoch_blocks: The electorate is pinned to multiples of this many blocks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    genesis_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    netuid: Annotated[int, Field(ge=0, le=65535)]
    quorum: Annotated[float, Field(ge=0.000001, le=0.999999)] = 0.5
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    verdict_ttl_s: Annotated[int, Field(ge=60, le=31_536_000)] = 86_400
    epoch_blocks: Annotated[int, Field(ge=1, le=1_000_000)] = 100

    @cached_property
    def quorum_ppm(self) -> int:
        """Quorum in millionths: stakes are compared as integers, so every build rounds alike."""
        return round(self.quorum * PPM)

    @cached_property
    def min_share_ppm(self) -> int:
        """Minimum share in millionths."""
        return round(self.min_share * PPM)

    @cached_property
    def id(self) -> bytes:
        """Network id (16 bytes): BLAKE2b over the canonical encoding of every parameter."""
        parameters: list[Value] = [
            "p2pnodes network",
            bytes.fromhex(self.genesis_hash),
            self.netuid,
            self.quorum_ppm,
            self.min_share_ppm,
            self.verdict_ttl_s,
            self.epoch_blocks,
        ]
        return digest(pack(parameters), NETWORK_ID_BYTES)
