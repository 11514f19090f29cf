"""What a daemon tells the supervisor that started it: systemd's notification protocol, one datagram for each message.

A daemon that nobody supervises tells nobody, and needs no other code for that. The libraries for this protocol either
build against libsystemd or are not kept any more; it is a few lines.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import select
import socket
import time
from array import array
from collections.abc import MutableMapping, Sequence
from typing import Final, Self

import structlog

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

log = structlog.get_logger("p2pnodes.notify")

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"

MESSAGE_BYTES_MAX: Final = 2_048
"""Bound of a message; what the status says beyond it is cut. systemd reads 4 KiB."""


class Supervisor:
    """The end of the socket where messages go."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """Take what the environment says; without arguments there is no supervisor.

        Args:
            address: Path of the socket, or ``@`` and the name of an abstract one.
            watchdog_s: Within how many seconds a sign of life is wanted, again and again; None for never.
        """
        self.address = address
        self.watchdog_s = watchdog_s
        self._unheard = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> Self:
        """Read what systemd sets, and remove it: programs that this one starts are not to speak in its name.

        Args:
            environ: The process's environment; changed.
            pid: The process's id. A watchdog for another process is none for this one.

        Raises:
            ConfigError: A variable has a value that it cannot have.
        """
        address = environ.pop(SOCKET_VARIABLE, None)
        watchdog = environ.pop(WATCHDOG_VARIABLE, None)
        watched = environ.pop(WATCHDOG_PID_VARIABLE, None)
        if address is None:
            return cls()
        if address[:1] not in {"/", "@"} or len(address) < 2:
            raise ConfigError(
                f"{SOCKET_VARIABLE} is {address!r}; expected a path, or @ and a name: unset it",
                code=Code.CONFIG_ENVIRONMENT,
            )
        if watchdog is None or (watched is not None and watched != str(pid)):
            return cls(address)
        if not (watchdog.isascii() and watchdog.isdigit() and int(watchdog)):
            raise ConfigError(
                f"{WATCHDOG_VARIABLE} is {watchdog!r}; expected microseconds, 1 or more: unset it",
                code=Code.CONFIG_ENVIRONMENT,
            )
        return cls(address, int(watchdog) / 1e6)

    def ready(self, status: str) -> None:
        """The daemon does its work; said again after a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for people."""
        self._tell(f"STATUS={status}")

    def alive(self, status: str) -> None:
        """A sign of life for the watchdog."""
        self._tell("WATCHDOG=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` says when that is over."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Let the supervisor hold open files, and hand them to the process that it starts after this one.

        Args:
            name: What they are, the same for all.
            fds: File descriptors; the supervisor gets copies.
        """
        self._tell("FDSTORE=1", f"FDNAME={name}", fds=fds)

    def release(self, name: str, *, within_s: float) -> None:
        """Let the supervisor close the files that it holds under a name, and wait until it did or the time is over."""
        if self.address is None:
            return
        self._tell("FDSTOREREMOVE=1", f"FDNAME={name}")
        ours, theirs = os.pipe()
        try:
            self._tell("BARRIER=1", fds=[theirs])
        finally:
            os.close(theirs)
        try:
            # It closes its end once it has done all that it was told before.
            done, _, _ = select.select([ours], [], [], within_s)
        finally:
            os.close(ours)
        if not done:
            log.warning("supervisor_not_told", socket=self.address, error="no answer", code=Code.SYSTEM_SUPERVISOR)

    def _tell(self, *fields: str, fds: Sequence[int] = ()) -> None:
        """Send a message; one that cannot be sent is told in the log, once for each time that this begins."""
        if self.address is None:
            return
        message = "\n".join(field.replace("\n", " ") for field in fields).encode()[:MESSAGE_BYTES_MAX]
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a supervisor that does not read must not hold up the event loop
                # socket.send_fds does not pass the address on before Python 3.12.
                files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                sender.sendmsg([message], files, 0, address)
        except OSError as error:
            if not self._unheard:
                log.warning("supervisor_not_told", socket=self.address, error=str(error), code=Code.SYSTEM_SUPERVISOR)
            self._unheard = True
        else:
            self._unheard = False
