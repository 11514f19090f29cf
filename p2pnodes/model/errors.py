"""One family of errors: we erred, they erred, the disk erred, the operator erred.

Messages say what was found, what was expected, and what to do. HTTP statuses are chosen in ``api/`` alone.
"""

from typing import Final

REASON_CHARS_MAX: Final = 300
"""Longest text of a stranger's that is shown."""


class P2PNodesError(Exception):
    """Root of every error that p2pnodes raises on purpose."""


class LocalProtocolError(P2PNodesError):
    """This daemon broke the protocol or one of its own rules; a bug or a misuse of the API."""


class RemoteProtocolError(P2PNodesError):
    """A peer or a client sent bytes that the format does not allow; nothing has changed."""


class StoreError(P2PNodesError):
    """The database cannot be opened, read or written as it must be."""


class ConfigError(P2PNodesError):
    """A setting, a key file or the environment is wrong; the message says which and what to do."""


class ChainError(P2PNodesError):
    """The chain, or an endpoint of it, does not give what it must; the electorate that is held stays."""


class InvalidBodyError(P2PNodesError):
    """A request body is not a claim.

    Attributes:
        loc: Path to the offending value, as pydantic writes it, without the leading ``"body"``.
    """

    def __init__(self, loc: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.loc = loc


class WritesRefusedError(P2PNodesError):
    """The daemon may not write at the moment; the request was not recorded and can be repeated elsewhere.

    Attributes:
        retry_after_s: Seconds after which asking again makes sense.
    """

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def printable(text: str) -> str:
    """A text that a stranger wrote, or is quoted in, made fit for a log: one bounded line of printable characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:REASON_CHARS_MAX])
