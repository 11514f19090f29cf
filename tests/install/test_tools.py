"""The wheel by the tools that install programs, each in a clean root, for all users."""

import sysconfig
from pathlib import Path

import pytest

from p2pnodes import __version__
from tests.install.conftest import only
from tests.install.roots import Root

pytestmark = pytest.mark.timeout(900)

OUR_UV = Path(sysconfig.get_path("scripts")) / "uv"
"""That of the environment that runs the tests."""


def check(root: Root, program: str) -> None:
    """What is installed works, and a service can be made of it."""
    assert root.run(program, "--version") == f"p2pnodes {__version__}\n"
    said = root.run(program, "service", "install", "--network", "finney", "--observer", "--root", "/image", "--yes")
    assert f"{program} run --config" in root.path("/image/etc/systemd/system/p2pnodes.service").read_text()
    assert "systemctl enable --now p2pnodes" in said


def test_pipx_installs_the_wheel(root: Root, built: Path) -> None:
    wheel = only(built, "*.whl")
    root.run("apt-get", "install", "-qq", "--no-install-recommends", "pipx", "python3-venv")
    # For all users, as `pipx install --global` does it since pipx 1.5; Debian 12 has 1.1.
    where = {"PIPX_HOME": "/opt/pipx", "PIPX_BIN_DIR": "/usr/local/bin"}
    root.run("pipx", "install", root.put(wheel, f"/root/{wheel.name}"), environment=where)
    check(root, "/usr/local/bin/p2pnodes")


def test_uv_installs_the_wheel_with_the_locked_versions(root: Root, built: Path) -> None:
    wheel = only(built, "*.whl")
    root.run("apt-get", "install", "-qq", "--no-install-recommends", "python3")
    root.put(OUR_UV, "/usr/local/bin/uv")
    lock = root.put(built / "requirements.txt", "/root/requirements.txt")
    where = {"UV_TOOL_DIR": "/opt/uv", "UV_TOOL_BIN_DIR": "/usr/local/bin"}
    command = ("uv", "tool", "install", "--constraints", lock, root.put(wheel, f"/root/{wheel.name}"))
    root.run(*command, environment=where)
    check(root, "/usr/local/bin/p2pnodes")
    installed = root.run("uv", "pip", "freeze", "--python", "/opt/uv/p2pnodes/bin/python", environment=where)
    pinned = (built / "requirements.txt").read_text()
    versions = [line for line in installed.splitlines() if "==" in line]
    assert len(versions) > 30
    assert [line for line in versions if f"{line} " not in pinned] == []
