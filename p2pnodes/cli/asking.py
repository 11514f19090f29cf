"""How a command asks a running daemon: over the operator's interface (``api/admin.py``) on its Unix socket."""

import errno
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from p2pnodes.cli.output import UnreachableError
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.service import CONFIG

ANSWER_S_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bound of an answer; 10,000 rows take about a tenth of it."""

SYSTEM_DEFAULT: Final = f"{CONFIG} where there is one"
"""The configuration that commands take when they are told none, in the words of their help."""

SocketOption = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The daemon's admin socket; goes before --config."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="P2PNODES_CONFIG",
        metavar="FILE",
        show_default=SYSTEM_DEFAULT,
        help="The daemon's configuration: names its admin socket.",
    ),
]


class RefusedError(P2PNodesError):
    """The daemon answered, and did not do it; the code is the daemon's, which may be newer than this build.

    Attributes:
        status: HTTP status.
    """

    code = Code.ADMIN_REFUSED

    def __init__(self, status: int, detail: Any, code: str | None = None) -> None:
        super().__init__(f"the daemon answered {status}: {_said(detail)}", code=code)
        self.status = status


def ask(path: Path, route: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = ANSWER_S_MAX) -> Any:
    """Answer of a running daemon's operator's interface.

    Args:
        path: Its admin socket.
        route: Path and query.
        body: Sent as JSON with a POST; None for a GET.
        timeout_s: Seconds to wait for the answer.

    Raises:
        UnreachableError: Nobody answers there, or not in time.
        RefusedError: See its own text.
        P2PNodesError: No answer of this interface.
    """
    status, content = _exchange(path, route, body, timeout_s)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise P2PNodesError(
            f"{path} answered {status} without JSON; is a p2pnodes daemon there?", code=Code.ADMIN_ANSWER
        ) from error
    if status != 200:
        detail, code = (found.get("detail"), found.get("code")) if isinstance(found, dict) else (found, None)
        raise RefusedError(status, detail, code if isinstance(code, str) else None)
    return found


def ask_text(path: Path, route: str) -> str:
    """A running daemon's answer that is text, such as its metrics; see ``ask``."""
    status, content = _exchange(path, route, None, ANSWER_S_MAX)
    if status != 200:
        raise RefusedError(status, content[:1000].decode(errors="replace"))
    return content.decode(errors="replace")


def _exchange(path: Path, route: str, body: Mapping[str, Any] | None, timeout_s: float) -> tuple[int, bytes]:
    """Status and content of an answer; see ``ask``."""
    connection = _UnixConnection(path, timeout_s)
    try:
        if body is None:
            connection.request("GET", route)
        else:
            connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read(ANSWER_BYTES_MAX + 1)
    except TimeoutError as error:
        raise UnreachableError(f"the daemon at {path} did not answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise unanswered(path, error) from error
    finally:
        connection.close()
    if len(content) > ANSWER_BYTES_MAX:
        raise P2PNodesError(
            f"{path} answered more than {ANSWER_BYTES_MAX} bytes; ask for less with --limit", code=Code.ADMIN_ANSWER
        )
    return answer.status, content


def unanswered(path: Path, error: Exception) -> UnreachableError:
    """Why a daemon's admin socket cannot be asked, and what to do; aiohttp's errors have the system's number, too."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if getattr(error, "errno", None) == errno.EACCES:
        return UnreachableError(
            f"{path} cannot be asked ({reason}); run this as the daemon's user, or as a member of its group"
        )
    return UnreachableError(
        f"no daemon answers at {path} ({reason}); expected a running one: is it started (its log tells what a start "
        "waits for), and does --config name its file?"
    )


def _said(detail: Any) -> str:
    """A refusal on one line; a list names what is wrong in a body, place by place."""
    try:
        return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}".lstrip(": ") for each in detail)
    except (TypeError, KeyError):
        return str(detail)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; the standard library's, because importing an HTTP client costs more than the answer."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def admin_socket(config: Path | None, socket_path: Path | None) -> Path:
    """The admin socket that the options name.

    Raises:
        typer.BadParameter: They name none.
        ConfigError: The configuration cannot be used.
    """
    if socket_path is not None:
        return socket_path
    if config is None:
        raise typer.BadParameter(
            f"give the daemon's configuration with --config (or P2PNODES_CONFIG; there is no {CONFIG} either), or its "
            "socket with --socket"
        )
    from p2pnodes.config import load_settings

    return load_settings(config).admin_socket_path
