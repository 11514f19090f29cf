"""The Debian package in a clean root: the newcomer's five commands, and then its life until it is purged.

No chain is to be had here: ``tests.replay`` stands in for finney on this machine's loopback, and holds a permit for the
newcomer's hotkey. The newcomer's ports are free ones, by the documented variables; else all is as documented.
"""

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import tomli_w

from p2pnodes import __version__
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.devnet import GENESIS_HASH, NETUID, REPLAY_EPOCH_BLOCKS, ReplayedChain, replayed_validator
from tests.install.conftest import only
from tests.install.roots import Root

pytestmark = pytest.mark.timeout(900)

COMMANDS_MAX = 5
MADE_WITH_USERS = {"etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "run/adduser"}
STATE = "/var/lib/p2pnodes"
CONFIG = "/etc/p2pnodes/p2pnodes.toml"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


@asynccontextmanager
async def chain(directory: Path) -> AsyncIterator[str]:
    """The replayed chain: its URL."""
    directory.mkdir()
    replayed = ReplayedChain(directory, [], port=0, epoch_s=60.0, report=print)
    await replayed.start()
    try:
        yield replayed.url
    finally:
        await replayed.stop()


def network_file(path: Path, url: str) -> Path:
    """What a network on that chain hands out."""
    parameters = {"genesis_hash": GENESIS_HASH, "netuid": NETUID, "epoch_blocks": REPLAY_EPOCH_BLOCKS}
    path.write_text(tomli_w.dumps({**parameters, "electorate": {"urls": [url]}}))
    return path


def with_version(package: Path, version: str, directory: Path) -> Path:
    """The same package as another version."""
    unpacked = directory / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True, timeout=120)
    control = unpacked / "DEBIAN/control"
    control.write_text(re.sub("^Version: .*$", f"Version: {version}", control.read_text(), flags=re.MULTILINE))
    made = directory / f"p2pnodes_{version}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", unpacked, made], check=True, timeout=120)
    return made


@pytest.fixture(scope="module")
def newcomer(built: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, str]:
    """A root in which the newcomer was, and the record of it."""
    directory = tmp_path_factory.mktemp("newcomer")
    root = Root(directory / "root", base)
    package = root.put(only(built, "*.deb"), f"/root/{only(built, '*.deb').name}")
    validator = replayed_validator(0)
    write_hotkey_file(directory / "hotkey", validator.hotkey)
    script = root.put(Path(__file__).with_name("newcomer.sh"), "/tmp/newcomer.sh")
    hotkey = root.put(directory / "hotkey", "/media/usb/hotkey")

    async def record() -> tuple[int, str]:
        async with chain(directory / "chain") as url:
            network = root.put(network_file(directory / "network.toml", url), "/root/network.toml")
            http, admin = free_ports(2)
            ports = {"P2PNODES_HTTP__PORT": str(http), "P2PNODES_ADMIN__PORT": str(admin)}
            return await asyncio.to_thread(root.ended, script, package, hotkey, network, environment=ports)

    code, said = asyncio.run(record())
    (directory / "record.txt").write_text(said)
    print(f"{said}\nrecorded in {directory / 'record.txt'}")  # noqa: T201 - what this is for; shown with -s
    assert code == 0, said
    return root, said


def test_a_newcomer_has_a_console_within_five_commands(newcomer: tuple[Root, str]) -> None:
    root, said = newcomer
    assert f"p2pnodes ({__version__}" in said
    typed = re.findall(r"^\[\d\] # (.*)$", said, re.MULTILINE)
    assert len(typed) <= COMMANDS_MAX
    assert f"{len(typed)} commands\n" in said
    assert replayed_validator(0).hotkey.address in said, "status says for whom the daemon speaks"
    assert not root.path("/etc/systemd/system/p2pnodes.service").exists(), "the package's unit is the one"
    assert root.path("/etc/systemd/system/p2pnodes.service.d/hotkey.conf").exists()


def test_an_upgrade_keeps_the_state_removal_too_and_purge_takes_it(
    newcomer: tuple[Root, str], built: Path, tmp_path: Path
) -> None:
    root, _ = newcomer
    kept = {path: root.path(path).read_bytes() for path in (CONFIG, f"{STATE}/node.key")}
    assert "no problems" in root.run("p2pnodes", "db", "verify")
    root.path("/etc/p2pnodes/hotkey.json").write_text("{}")

    later = with_version(only(built, "*.deb"), "99.0-1", tmp_path)
    said = root.run("apt-get", "install", "-qq", root.put(later, f"/root/{later.name}"))
    assert "next: p2pnodes service install" not in said, "it is configured"
    assert root.run("dpkg-query", "-W", "-f", "${Version} ${Status}", "p2pnodes") == "99.0-1 install ok installed"
    assert {path: root.path(path).read_bytes() for path in kept} == kept
    assert "no problems" in root.run("p2pnodes", "db", "verify")

    root.run("apt-get", "remove", "-qq", "p2pnodes")
    assert not root.path("/usr/lib/p2pnodes").exists(), "no compiled file is left"
    assert not root.path("/usr/bin/p2pnodes").is_symlink()
    assert {path: root.path(path).read_bytes() for path in kept} == kept

    said = root.run("apt-get", "purge", "-qq", "p2pnodes")
    assert not root.path(STATE).exists()
    assert [path.name for path in root.path("/etc/p2pnodes").iterdir()] == ["hotkey.json"], (
        "a key is not ours to delete"
    )
    assert "/etc/p2pnodes stays, for what is left in it: hotkey.json" in said
    assert not list(root.path("/etc/systemd").rglob("*p2pnodes*"))
    assert "p2pnodes" in root.path("/etc/passwd").read_text(), "backups may belong to the user"


def test_after_a_purge_nothing_of_it_is_left(root: Root, built: Path) -> None:
    package = root.put(only(built, "*.deb"), "/root/p2pnodes.deb")
    root.run("apt-get", "install", "-qq", "--no-install-recommends", "python3", "adduser", "ca-certificates")
    before = files(root)
    said = root.run("apt-get", "install", "-qq", "--no-install-recommends", package)
    assert "next: p2pnodes service install" in said
    user = next(line for line in root.path("/etc/passwd").read_text().splitlines() if line.startswith("p2pnodes:"))
    assert user.split(":")[5:] == ["/var/lib/p2pnodes", "/usr/sbin/nologin"]
    assert list(root.path("/usr/lib/p2pnodes").rglob("*.pyc")), "the daemon cannot write there"
    root.run("apt-get", "purge", "-qq", "p2pnodes")
    assert files(root) ^ before <= MADE_WITH_USERS


def files(root: Root) -> set[str]:
    """All files below, but those that each installation writes."""
    aside = ("proc/", "var/log/", "var/cache/", "var/lib/dpkg/", "var/lib/apt/", "root/")
    paths = (str(path.relative_to(root.directory)) for path in root.directory.rglob("*"))
    return {path for path in paths if not path.startswith(aside)}


def test_every_compiled_module_finds_its_libraries(newcomer_package: Root) -> None:
    said = newcomer_package.run("bash", "-c", "find /usr/lib/p2pnodes -name '*.so*' -exec ldd {} + 2>&1")
    assert said.count("libc.so.6 =>") > 50
    assert [line for line in said.splitlines() if "not found" in line] == []


def test_the_completions_of_bash_and_fish_complete(newcomer_package: Root) -> None:
    words = "source /usr/share/bash-completion/completions/p2pnodes; COMP_WORDS=(p2pnodes serv); COMP_CWORD=1; "
    said = newcomer_package.run("bash", "-c", words + '_p2pnodes_completion p2pnodes; printf "%s\n" "${COMPREPLY[@]}"')
    assert said.split() == ["service"]
    newcomer_package.run("apt-get", "install", "-qq", "--no-install-recommends", "fish")
    assert newcomer_package.run("fish", "-c", "complete -C 'p2pnodes serv'").startswith("service\t")


@pytest.fixture
def newcomer_package(root: Root, built: Path) -> Root:
    """A root with the package and without a configuration."""
    package = root.put(only(built, "*.deb"), "/root/p2pnodes.deb")
    root.run("apt-get", "install", "-qq", "--no-install-recommends", package)
    return root
