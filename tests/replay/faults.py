"""What goes wrong between a reader and its node, on demand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

CONNECT: Final = "connect"
"""In place of a method: the fault meets a connection that is being opened."""

ANY: Final = "*"

Kind = Literal[
    "reset",  # half of the answer, then a TCP reset; when connecting: a reset instead of an answer
    "timeout",  # no answer to this call, ever; when connecting: none to the upgrade
    "half_open",  # from this call on, the connection stays open and neither reads nor answers
    "slow",  # the answer comes after `seconds`
    "wrong_id",  # the right answer, under another id
    "garbage",  # a text that is no JSON
    "huge",  # a result of `size_bytes`
    "error",  # an RPC error with `message`; when connecting: HTTP 503
    "pruned",  # the RPC error of a node that has dropped the block's state
    "result",  # a result of the test's own: `value`
    "run",  # the right answer, after `action` was called
]


@dataclass
class Fault:
    """One fault that waits for its calls.

    Attributes:
        kind: What happens.
        method: JSON-RPC method that it meets, ``connect``, or ``*`` for every method.
        times: Calls that it meets; None meets all.
        after: Calls of the method that pass before.
    """

    kind: Kind
    method: str = ANY
    times: int | None = None
    after: int = 0
    seconds: float = 1.0
    size_bytes: int = 64 * 1024 * 1024
    message: str = "Internal error"
    value: Any = None
    action: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no fault {self.kind!r}: there are {', '.join(get_args(Kind))}")

    def meets(self, method: str) -> bool:
        """Whether this call is one of its; counts it."""
        if self.times == 0 or (self.method != method and (self.method != ANY or method == CONNECT)):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Faults:
    """Those of one server, in the order in which they were added: the first that meets a call has it."""

    waiting: list[Fault] = field(default_factory=list)

    def add(self, kind: Kind, method: str = ANY, **options: Any) -> Fault:
        """Let something go wrong; raises TypeError or ValueError for what is no fault."""
        fault = Fault(kind, method, **options)
        self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Let everything go right again, except what has gone wrong already."""
        self.waiting.clear()

    def meet(self, method: str) -> Fault | None:
        """The fault that this call meets."""
        return next((fault for fault in self.waiting if fault.meets(method)), None)
