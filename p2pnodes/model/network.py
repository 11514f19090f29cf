"""The parameters that make one network, and the id that peers compare before anything else."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from p2pnodes.model import codec
from p2pnodes.model.protocol import NETWORK_ID_BYTES

GENESIS_BYTES: Final = 32
PPM: Final = 1_000_000


def _behind_verdicts(horizon_s: int, info: ValidationInfo) -> int:
    """Refuse a horizon that lies before the end of verdicts; ``verdict_ttl_s`` is absent where it is itself refused."""
    ttl_s = info.data.get("verdict_ttl_s", horizon_s)
    if horizon_s < ttl_s:
        raise ValueError(f"expected at least verdict_ttl_s, {ttl_s:,}: else checkpoints take verdicts away that live")
    return horizon_s


HorizonS = Annotated[int, Field(ge=60, le=31_536_000), AfterValidator(_behind_verdicts)]
"""Seconds of a horizon, in a model that has ``verdict_ttl_s`` before it."""


class Network(BaseModel):
    """Parameters of the inventory function; all of them are hashed into the network id.

    Attributes:
        genesis_hash: 32 bytes, hex, the chain's block 0.
        netuid: Subnet on that chain.
        quorum: Share of the weighed stake above which a claim is verified, 0.000001 to 0.999999, to the millionth.
        min_share: Share of all enrolled stake that a verified claim needs at least, in [0, 1], to the millionth.
        verdict_ttl_s: Seconds of electorate time after which a verdict lapses.
        epoch_blocks: The electorate is pinned to multiples of this many blocks.
        horizon_s: Seconds of electorate time behind which checkpoints replace the log; no less than ``verdict_ttl_s``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    genesis_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    netuid: Annotated[int, Field(ge=0, le=65535)]
    quorum: Annotated[float, Field(ge=0.000001, le=0.999999)] = 0.5
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    verdict_ttl_s: Annotated[int, Field(ge=60, le=31_536_000)] = 86_400
    epoch_blocks: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    horizon_s: HorizonS = Field(604_800, validate_default=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy, with other parameters if any are given.

        pydantic's own copies are not checked, and have the id and whatever else was computed of the original before.

        Raises:
            ValidationError: A parameter is out of range.
        """
        return self.model_validate({**self.model_dump(), **(update or {})})

    @cached_property
    def quorum_ppm(self) -> int:
        """Quorum in millionths: stakes are compared as integers, so every build rounds alike."""
        return round(self.quorum * PPM)

    @cached_property
    def min_share_ppm(self) -> int:
        """Minimum share in millionths."""
        return round(self.min_share * PPM)

    @cached_property
    def parameters(self) -> Sequence[codec.Value]:
        """All parameters in the one order and form in which they are hashed, and shown to peers: see PARAMETERS."""
        return (
            bytes.fromhex(self.genesis_hash),
            self.netuid,
            self.quorum_ppm,
            self.min_share_ppm,
            self.verdict_ttl_s,
            self.epoch_blocks,
            self.horizon_s,
        )

    @cached_property
    def id(self) -> bytes:
        """Network id (16 bytes): BLAKE2b over the canonical encoding of every parameter."""
        return codec.digest(codec.pack(["p2pnodes network", *self.parameters]), NETWORK_ID_BYTES)

    def differences(self, theirs: codec.Value) -> "list[Difference]":
        """Name the parameters in which another network differs; empty when it is the same one.

        Args:
            theirs: The other side's ``parameters``, as they came.

        Raises:
            MalformedError: They are no list of parameters.
        """
        values = codec.fields(theirs, len(PARAMETERS), "network parameters")
        found = [parameter.check(value) for parameter, value in zip(PARAMETERS, values, strict=True)]
        return [
            Difference(parameter.name, parameter.show(there), parameter.show(here))
            for parameter, there, here in zip(PARAMETERS, found, self.parameters, strict=True)
            if there != here
        ]


class Difference(NamedTuple):
    """A parameter that two networks don't share; as text ``quorum is 0.6 there, 0.5 here``.

    Attributes:
        name: As in settings.
        there: The other side's value, as people write it.
        here: Our own.
    """

    name: str
    there: str
    here: str

    def __str__(self) -> str:
        return f"{self.name} is {self.there} there, {self.here} here"

    def seen_from_there(self) -> "Difference":
        """The same difference in the other side's words."""
        return Difference(self.name, self.here, self.there)


class _Parameter(NamedTuple):
    """One place in the list of parameters.

    Attributes:
        name: As in settings.
        check: Gives back a value of its form; raises MalformedError for any other.
        show: Writes one for people.
    """

    name: str
    check: Callable[[codec.Value], codec.Value]
    show: Callable[[Any], str] = str


def _integer(name: str, low: int, high: int, show: Callable[[Any], str] = str) -> _Parameter:
    return _Parameter(name, lambda value: codec.integer(value, name, low, high), show)


def _share(ppm: int) -> str:
    return f"{ppm / PPM:g}"


PARAMETERS: Final = (
    _Parameter(
        "genesis_hash",
        lambda value: codec.binary(value, "genesis_hash", GENESIS_BYTES),
        lambda value: f"0x{value[:8].hex()}...",  # a refusal has little room, and no two chains begin alike
    ),
    _integer("netuid", 0, 65_535),
    _integer("quorum", 1, PPM - 1, _share),
    _integer("min_share", 0, PPM, _share),
    _integer("verdict_ttl_s", 60, 31_536_000),
    _integer("epoch_blocks", 1, 1_000_000),
    _integer("horizon_s", 60, 31_536_000),
)
"""The parameters in canonical order, with the bounds of ``Network``; shares are in millionths."""
