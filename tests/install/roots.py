"""Clean roots of Debian, in which programs are installed for good and thrown away.

A command in one runs in a chroot with process and mount namespaces of its own: whatever it starts ends with it. The
network is the machine's. systemd is never started there.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
COMMAND_S_MAX: Final = 300.0
"""Bound of a command: the slowest ones fetch packages."""

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")

ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
"""All that commands get of this machine's."""

_ENTER: Final = 'mount -t proc proc "$0/proc" && mount -t devpts devpts "$0/dev/pts" && exec chroot "$0" "$@"'


def make_base(archive: Path, suite: str = SUITE) -> None:
    """Make what every root begins with: Debian's smallest one that has apt, and its lists of packages."""
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--skip=cleanup/apt/lists", suite, str(archive)]
    subprocess.run(command, check=True, timeout=COMMAND_S_MAX, env=ENVIRONMENT)


class Root:
    """One root.

    Args:
        directory: Where it is; made from ``base``.
        base: The archive of ``make_base``.
    """

    def __init__(self, directory: Path, base: Path) -> None:
        self.directory = directory
        directory.mkdir()
        subprocess.run(["tar", "-xf", base, "-C", directory], check=True, timeout=COMMAND_S_MAX)
        shutil.copy("/etc/resolv.conf", directory / "etc/resolv.conf")
        # Where a proxy signs for the package index, what this machine trusts must be trusted here, too.
        shutil.copy(CERTIFICATES, directory / "root/ca.pem")

    def path(self, inside: str) -> Path:
        """Where a path of the root is, seen from outside."""
        return self.directory / inside.lstrip("/")

    def put(self, file: Path, inside: str) -> str:
        """Copy a file to a path in the root; returns the path."""
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, self.path(inside))
        return inside

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command, both its outputs in one."""
        trusted = {"PIP_CERT": "/root/ca.pem", "SSL_CERT_FILE": "/root/ca.pem"}
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, self.directory, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**ENVIRONMENT, **trusted, **(environment or {})},
        )

    def ended(self, *command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command: its exit code, and all that it said."""
        with self.start(*command, environment=environment) as process:
            try:
                said, _ = process.communicate(timeout=COMMAND_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return process.returncode, said

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command that must succeed; what it said."""
        code, said = self.ended(*command, environment=environment)
        assert code == 0, f"{' '.join(command)} ended with {code}: {said}"
        return said


def can_make_roots() -> bool:
    """Whether this process can make roots and enter them."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in ("mmdebstrap", "unshare", "dpkg-deb"))
