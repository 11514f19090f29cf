"""One family of errors: we erred, they erred, the disk erred, the operator erred.

Messages say what was found, what was expected, and what to do; codes (``codes``) say which kind of error it is. HTTP
statuses are chosen in ``api/`` alone.
"""

from typing import Final

from p2pnodes.model.codes import Code, Reason

REASON_CHARS_MAX: Final = 400
"""Longest text of a stranger's that is shown."""


class P2PNodesError(Exception):
    """Root of every error that p2pnodes raises on purpose.

    Attributes:
        code: Which kind of error it is: a ``Code``, or the text of one that a newer daemon answered with. A class has
            one for all its errors; those that stand for many kinds (``WIDE``) are given one where they are raised.
    """

    code: str = Code.SYSTEM_FAILED

    def __init__(self, *args: object, code: str | None = None) -> None:
        """Take what any exception takes, and the code of this one if neither its class nor a ``Reason`` says it."""
        super().__init__(*args)
        if code is not None:
            self.code = code
        elif args and isinstance(args[0], Reason):
            self.code = args[0].code

    def reason(self) -> Reason:
        """Its message, as a reason that knows the code."""
        return Reason(str(self), self.code)


class LocalProtocolError(P2PNodesError):
    """This daemon broke the protocol or one of its own rules; a bug or a misuse of the API."""

    code = Code.SYSTEM_MISUSE


class RemoteProtocolError(P2PNodesError):
    """A peer or a client sent bytes that the format does not allow; nothing has changed."""

    code = Code.SESSION_PROTOCOL


class StoreError(P2PNodesError):
    """The database cannot be opened, read or written as it must be."""

    code = Code.DATA_UNREADABLE


class ConfigError(P2PNodesError):
    """A setting, a key file or the environment is wrong; the message says which and what to do."""

    code = Code.CONFIG_VALUE


class ChainError(P2PNodesError):
    """The chain, or an endpoint of it, does not give what it must; the electorate that is held stays."""

    code = Code.CHAIN_UNREAD


class InvalidBodyError(P2PNodesError):
    """A request body is not a claim.

    Attributes:
        loc: Path to the offending value, as pydantic writes it, without the leading ``"body"``.
    """

    code = Code.API_FORM

    def __init__(self, loc: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.loc = loc


class WritesRefusedError(P2PNodesError):
    """The daemon may not write at the moment; the request was not recorded and can be repeated elsewhere.

    Attributes:
        retry_after_s: Seconds after which asking again makes sense.
    """

    code = Code.WRITES_REFUSED

    def __init__(self, message: str, *, retry_after_s: int = 5, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


WIDE: Final = (P2PNodesError, ConfigError, StoreError, ChainError, WritesRefusedError)
"""Classes that stand for errors of many kinds, so that each place that raises one gives it its code."""


def printable(text: str) -> str:
    """A text that a stranger wrote, or is quoted in, made fit for a log: one bounded line of printable characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:REASON_CHARS_MAX])
