"""Settings of verification."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from p2pnodes.model.addresses import BaseUrl


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GravalSettings(_Table):
    """``[verify.graval]``: for the verifier graval."""

    url: BaseUrl | None = Field(
        None,
        description="Base URL of this validator's own GraVal service, which encrypts and checks proofs on a GPU; "
        "required for the verifier graval.",
    )


class VerifySettings(_Table):
    """``[verify]``: how this validator checks the GPUs that miners claim."""

    verifier: str = Field(
        "none",
        pattern=r"^[a-z][a-z0-9_-]{0,31}$",
        description="Verifier: none votes verified at once, without a check; nvml asks miners' agents; graval makes "
        "GPUs prove themselves; others come from installed packages.",
    )
    checks_at_once: int = Field(16, ge=1, le=1_024, description="Claims that are checked at the same time, at most.")
    graval: GravalSettings = Field(default_factory=GravalSettings, description="For the verifier graval.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of a verifier from another package; it says which."
    )
