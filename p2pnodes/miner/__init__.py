"""The miner's side: a client that signs requests and takes them to any of several daemons."""

from p2pnodes.miner.client import (
    ApiUnreachableError,
    AuthRefusedError,
    ConflictError,
    InvalidRequestError,
    MalformedAnswerError,
    MinerClient,
    MinerError,
    NotFoundError,
    RefusedError,
    RegisteredNode,
    Registration,
    TaskFailedError,
    TaskStatus,
    TaskTimeoutError,
    TooOftenError,
)

__all__ = [
    "ApiUnreachableError",
    "AuthRefusedError",
    "ConflictError",
    "InvalidRequestError",
    "MalformedAnswerError",
    "MinerClient",
    "MinerError",
    "NotFoundError",
    "RefusedError",
    "RegisteredNode",
    "Registration",
    "TaskFailedError",
    "TaskStatus",
    "TaskTimeoutError",
    "TooOftenError",
]
