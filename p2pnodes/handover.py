"""The sockets on which a daemon listens, from one of its processes to the next.

systemd keeps them while the daemon is restarted, by an operator, an upgrade or a crash, and hands them to the next
process. Meanwhile connections wait in the kernel, up to ``inbound.BACKLOG``, instead of being refused. Once the service
is stopped they are closed.

A socket unit (``Accept=no``) would do the same, but name the address a second time, and start a daemon that was stopped
on purpose with the next miner's request. Its sockets are taken all the same where their name is ``http``.

Source: sd_notify(3), "FDSTORE=1"; sd_listen_fds(3); systemd.service(5), "FileDescriptorStoreMax=".
"""

import os
import socket
from collections.abc import Collection, MutableMapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Self

import structlog

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from p2pnodes.notify import Supervisor

log = structlog.get_logger("p2pnodes.handover")

COUNT_VARIABLE: Final = "LISTEN_FDS"
PID_VARIABLE: Final = "LISTEN_PID"
NAMES_VARIABLE: Final = "LISTEN_FDNAMES"
_ABOUT_PROCESS: Final = (PID_VARIABLE, NAMES_VARIABLE, "LISTEN_PIDFDID")

FIRST_FD: Final = 3
"""Where files that are handed over begin: behind standard input, output and error."""

NAME: Final = "http"
"""What the supervisor knows the sockets by."""

SOCKETS_MAX: Final = 8
"""Sockets that are handed over, at most: as many as the unit's FileDescriptorStoreMax=. A host has one or two."""

DIGITS_MAX: Final = 9
"""Digits of ``LISTEN_FDS`` that are read: more than the files of any process."""

FREED_S_MAX: Final = 5.0
"""How long the supervisor may take to close sockets that are not wanted any more, before their place is tried."""


class Place(NamedTuple):
    """Where a socket listens: ``AF_INET`` or ``AF_INET6``, a numeric address, and a port, 0 for any."""

    family: int
    host: str
    port: int

    @classmethod
    def of(cls, listening: socket.socket) -> Self:
        """That of a socket."""
        host, port = listening.getsockname()[:2]
        return cls(listening.family, host, port)


class Handover:
    """What the supervisor holds for this daemon."""

    def __init__(self, supervisor: Supervisor, held: Sequence[socket.socket] = ()) -> None:
        """Take over the sockets that the process before left."""
        self._supervisor = supervisor
        self._held = list(held)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int, supervisor: Supervisor) -> Self:
        """Take the sockets that systemd hands over, and the word of them out of the environment.

        What is no TCP socket that listens, has another name, or is one too many, is passed over with a warning.

        Args:
            environ: The process's environment; changed.
            pid: The process's id. What is for another process stays untouched.
            supervisor: Who hands over, and will hold what this process listens on.

        Raises:
            ConfigError: ``LISTEN_FDS`` is no number.
        """
        count = environ.pop(COUNT_VARIABLE, None)
        about = {name: environ.pop(name, "") for name in _ABOUT_PROCESS}
        if count is None or about[PID_VARIABLE] != str(pid):
            return cls(supervisor)
        if not (count.isascii() and count.isdigit()):
            raise ConfigError(
                f"{COUNT_VARIABLE} is {count!r:.40}; expected a number: unset it", code=Code.CONFIG_ENVIRONMENT
            )
        handed = int(count[:DIGITS_MAX])
        if handed > SOCKETS_MAX:
            log.warning("sockets_not_taken", handed=handed, at_most=SOCKETS_MAX, code=Code.CONFIG_ENVIRONMENT)
        names = about[NAMES_VARIABLE].split(":")
        held = []
        for number in range(min(handed, SOCKETS_MAX)):
            name = names[number] if number < len(names) else ""
            found = _taken(FIRST_FD + number, name)
            if found is not None:
                held.append(found)
        return cls(supervisor, held)

    @classmethod
    def refuse(cls, environ: MutableMapping[str, str], pid: int) -> None:
        """Let go of what systemd handed over to a process that ends before there is a daemon; see ``give_up``."""
        with suppress(ConfigError):  # what ends the process is told already
            cls.from_environment(environ, pid, Supervisor.from_environment(environ, pid)).give_up()

    def give_up(self) -> None:
        """Close all sockets, here and at the supervisor's, because this daemon cannot start.

        It may be long until one can: clients had better be refused than wait for that.
        """
        held, self._held = self._held, []
        for each in held:
            each.close()
        self._supervisor.release(NAME, within_s=FREED_S_MAX)

    def take(self, wanted: Collection[Place], *, dual: bool = False) -> list[socket.socket]:
        """The sockets held, if they listen where they are to; otherwise they are closed here and at the supervisor's.

        Args:
            wanted: All addresses of the host. There may be no socket yet for some of them.
            dual: Whether a socket of IPv6 must take IPv4 as well.

        Returns:
            At least one, for the caller to close; or none.
        """
        held, self._held = self._held, []
        if not held:
            return []
        for each in held:
            where = Place.of(each)
            fits = where in wanted or where._replace(port=0) in wanted
            if not fits or (dual and each.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)):
                self._held = held
                self.give_up()
                return []
        return held

    def keep(self, listening: Sequence[socket.socket]) -> None:
        """Give new sockets to the supervisor, for the process after this one."""
        self._supervisor.keep(NAME, [each.fileno() for each in listening[:SOCKETS_MAX]])


def _taken(fd: int, name: str) -> socket.socket | None:
    """A file that was handed over, as a socket that this process alone has; None, and closed, if it is none of ours."""
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        with suppress(OSError):  # it may not even be open
            os.close(fd)
        log.warning(
            "socket_not_taken", fd=fd, name=name, reason=os.strerror(error.errno or 0), code=Code.CONFIG_ENVIRONMENT
        )
        return None
    listens = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
    listens = listens and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if name == NAME and listens:
        found.set_inheritable(False)
        return found
    reason = f"its name is not {NAME}" if name != NAME else "it is no TCP socket that listens"
    log.warning("socket_not_taken", fd=fd, name=name, reason=reason, code=Code.CONFIG_ENVIRONMENT)
    found.close()
    return None
