"""Bodies of the operator's interface as pydantic models. Strict: an unknown key is an operator's typing error."""

import re
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StringConstraints, model_validator

from p2pnodes.chain.delegation import parse_log
from p2pnodes.gossip.bans import OPERATOR_BAN_S_MAX, REASON_CHARS_MAX
from p2pnodes.loglevel import FOR_S_MAX
from p2pnodes.model.events import LABEL_CHARS_MAX, LogId
from p2pnodes.model.inventory import Chute
from p2pnodes.model.keys import ss58_decode
from p2pnodes.model.requests import UUID_CHARS_MAX
from p2pnodes.store.placing import GPUS_PER_REQUEST_MAX

Uuid = Annotated[str, StringConstraints(min_length=1, max_length=UUID_CHARS_MAX, pattern=r"^[!-~]+$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=LABEL_CHARS_MAX, pattern=r"^[^\x00]+$")]

LOGGER_CHARS_MAX: Final = 100
"""Longest name of a logger."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ReleaseBody(_Body):
    """``POST /release``: GPUs on which nothing runs any more."""

    uuids: Annotated[list[Uuid], Field(min_length=1, max_length=GPUS_PER_REQUEST_MAX)]


class PlaceBody(ReleaseBody):
    """``POST /place``: GPUs and what runs on them.

    Attributes:
        uuids: GPU uuids.
        chute_id: The chute.
        instance_id: Its instance on these GPUs.
        verified: Whether that instance has been verified.
        private: Whether only its user may know what it is: name and username are then dropped here.
        name: The chute's name; needed unless private.
        username: Its user; needed unless private.
    """

    chute_id: Label
    instance_id: Label
    verified: bool = False
    private: bool = False
    name: Label | None = None
    username: Label | None = None

    @model_validator(mode="after")
    def _require_names(self) -> Self:
        if not self.private and (self.name is None or self.username is None):
            raise ValueError("expected name and username, or private: true")
        return self

    def chute(self) -> Chute:
        """The chute as events carry it."""
        return Chute(
            self.chute_id,
            self.instance_id,
            self.verified,
            not self.private,
            None if self.private else self.name,
            None if self.private else self.username,
        )


class VerifyBody(_Body):
    """``POST /verify``: the claim to check now, by any name that ``naming.claim_id`` knows."""

    claim_id: Annotated[str, Field(min_length=1, max_length=128)]


def _log(value: object) -> LogId:
    return parse_log(value if isinstance(value, str) else "")


class LogBody(_Body):
    """``POST /log``: from which level on the daemon logs.

    Attributes:
        level: The level; None takes changes back.
        for_s: How long it holds, seconds; None until the daemon restarts or reads its settings again.
        logger: Only that of this part, such as ``p2pnodes.gossip``; all unless given.
    """

    level: Literal["debug", "info", "warning", "error"] | None
    for_s: Annotated[int, Field(ge=1, le=FOR_S_MAX)] | None = None
    logger: Annotated[str, StringConstraints(min_length=1, max_length=LOGGER_CHARS_MAX)] | None = None


class PeerKey(NamedTuple):
    """A key of a peer: 32 bytes, and whether it is a node key (64 hex digits, lower case) or a hotkey (SS58)."""

    value: bytes
    is_node_key: bool


def _peer_key(value: object) -> PeerKey:
    text = value if isinstance(value, str) else ""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return PeerKey(bytes.fromhex(text), is_node_key=True)
    return PeerKey(ss58_decode(text), is_node_key=False)


class LiftBody(_Body):
    """``POST /bans/lift``: whose ban is to end."""

    key: Annotated[PeerKey, PlainValidator(_peer_key)]


class BanBody(LiftBody):
    """``POST /bans``: a peer that is to be refused.

    Attributes:
        key: Its hotkey or node key.
        for_s: How long, seconds.
        reason: Why, for operators; the peer does not hear it.
    """

    for_s: Annotated[int, Field(ge=1, le=OPERATOR_BAN_S_MAX)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=REASON_CHARS_MAX, pattern=r"^[^\x00-\x1f\x7f]+$")]


class RevokeBody(_Body):
    """``POST /keys/revoke``: a log that is to end.

    Attributes:
        log: Node key (64 hex digits), a slash, number; the own log unless given.
        last: Seq of its last good event, -1 for none; the last that counts unless given.
    """

    log: Annotated[LogId, BeforeValidator(_log)] | None = None
    last: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
