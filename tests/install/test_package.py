"""What the Debian package is made of, looked at without installing it: packed around a stand-in environment."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from p2pnodes import __version__, service
from tests.install.conftest import CHECKOUT
from tests.support import program

DEBIAN = CHECKOUT / "configs/debian"
SCRIPTS = ("postinst", "prerm", "postrm")
NOW_S = 1_764_000_000
PACK_S_MAX = 100.0

pytestmark = [
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed here"),
    pytest.mark.skipif("VERSION_ID" not in Path("/etc/os-release").read_text(), reason="no release of Debian"),
]


def dpkg(*arguments: object) -> str:
    ended = subprocess.run(["dpkg-deb", *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has this interpreter's packages by reference, and one module of its own."""
    environment = tmp_path_factory.mktemp("environment") / "p2pnodes"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60)
    (site,) = environment.glob("lib/python3.*/site-packages")
    references = [path for path in sys.path if path and path.endswith("site-packages")]
    (site / "stand-in.pth").write_text("\n".join([*references, str(CHECKOUT)]))
    (site / "module.py").write_text("")
    (site / "module.py").chmod(0o755)
    (site / "__pycache__").mkdir()
    (site / "__pycache__" / "module.pyc").write_text("")
    script = environment / "bin/p2pnodes"
    script.write_text(f"#!{environment}/bin/python3\nfrom p2pnodes.cli import main\nmain()\n")
    script.chmod(0o755)
    return environment


def pack(environment: Path, directory: Path) -> Path:
    shutil.copytree(CHECKOUT / "configs", directory / "source/configs")
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(CHECKOUT / name, directory / "source")
    command = [DEBIAN / "package", directory / "source", directory / "out", environment]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")}
    subprocess.run(command, check=True, timeout=PACK_S_MAX, env={**inherited, "SOURCE_DATE_EPOCH": str(NOW_S)})
    (made,) = (directory / "out").glob("*.deb")
    return made


@pytest.fixture(scope="module")
def package(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(environment, tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def members(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tarfile.TarInfo]:
    """Path -> what the archive says of it."""
    archive = tmp_path_factory.mktemp("archive") / "data.tar"
    with archive.open("wb") as file:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=file, check=True, timeout=60)
    with tarfile.open(archive) as opened:
        assert not opened.getnames()[0].strip("./")
        return {member.name.removeprefix("."): member for member in opened}


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked") / "root"
    dpkg("--raw-extract", package, directory)
    return directory


class TestControl:
    """What dpkg is told."""

    def test_no_field_is_left_open(self, package: Path) -> None:
        assert "@" not in dpkg("--field", package).replace("p2pnodes@localhost", "")

    def test_the_version_is_that_of_the_program(self, package: Path) -> None:
        assert dpkg("--field", package, "Version").startswith(f"{__version__}-1~deb")

    def test_it_goes_with_one_minor_version_of_python(self, package: Path) -> None:
        minor = sys.version_info.minor
        depends = dpkg("--field", package, "Depends")
        assert f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})" in depends

    @pytest.mark.parametrize(
        ("version", "sorted_before"),
        [("1.0.0.dev2", "1.0.0"), ("1.0.0rc1", "1.0.0"), ("1.0.0", "1.0.1"), ("1.0.0a1", "1.0.0b1")],
    )
    def test_versions_sort_as_they_were_released(self, version: str, sorted_before: str) -> None:
        command = next(
            line for line in (DEBIAN / "package").read_text().splitlines() if line.startswith("deb_version=")
        )
        lesser, greater = (
            subprocess.run(
                ["bash", "-euc", f"version={each} debian=12; {command}; echo $deb_version"],
                capture_output=True, text=True, check=True, timeout=10,
            ).stdout.strip()
            for each in (version, sorted_before)
        )  # fmt: skip
        subprocess.run(["dpkg", "--compare-versions", lesser, "lt", greater], check=True, timeout=10)

    def test_the_next_debian_s_package_is_the_newer_one(self) -> None:
        subprocess.run(["dpkg", "--compare-versions", "1-1~deb12", "lt", "1-1~deb13"], check=True, timeout=10)

    def test_checksums_are_those_of_the_files(self, unpacked: Path) -> None:
        checked = subprocess.run(
            ["md5sum", "--check", "--quiet", "--strict", "DEBIAN/md5sums"], cwd=unpacked, check=False, timeout=60
        )
        assert checked.returncode == 0
        listed = len((unpacked / "DEBIAN/md5sums").read_text().splitlines())
        everything = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
        assert listed == sum(not path.is_relative_to(unpacked / "DEBIAN") for path in everything)


class TestFiles:
    """What is put where."""

    def test_everything_has_its_place(self, members: dict[str, tarfile.TarInfo]) -> None:
        expected = {
            "/usr/bin/p2pnodes",
            "/usr/lib/p2pnodes/bin/p2pnodes",
            "/usr/lib/p2pnodes/bin/python3",
            "/usr/lib/p2pnodes/pyvenv.cfg",
            "/usr/lib/systemd/system/p2pnodes.service",
            "/usr/lib/sysusers.d/p2pnodes.conf",
            "/usr/share/bash-completion/completions/p2pnodes",
            "/usr/share/fish/vendor_completions.d/p2pnodes.fish",
            "/usr/share/zsh/vendor-completions/_p2pnodes",
            "/usr/share/lintian/overrides/p2pnodes",
            "/usr/share/man/man1/p2pnodes.1.gz",
            *(f"/usr/share/doc/p2pnodes/{name}" for name in ("README.md", "copyright")),
            *(f"/usr/share/doc/p2pnodes/{name}.gz" for name in ("changelog", "changelog.Debian")),
        }
        files = {name for name, member in members.items() if not member.isdir()}
        assert expected <= files
        others = {name for name in files - expected if "/site-packages/" not in name}
        assert {str(Path(name).parent) for name in others} == {"/usr/share/doc/p2pnodes/examples"}
        assert "/usr/share/doc/p2pnodes/examples/nginx.conf" in others

    def test_nothing_is_below_etc_or_var(self, members: dict[str, tarfile.TarInfo]) -> None:
        assert {name.split("/")[1] for name in members if name.strip("/")} == {"usr"}

    def test_all_of_it_is_root_s_and_nobody_else_writes_to_it(self, members: dict[str, tarfile.TarInfo]) -> None:
        for name, member in members.items():
            assert (member.uid, member.gid) == (0, 0), name
            assert member.issym() or member.mode & 0o7022 == 0, name

    def test_links_are_relative_and_lead_to_the_environment_and_the_system_s_python(
        self, members: dict[str, tarfile.TarInfo]
    ) -> None:
        links = {name: member.linkname for name, member in members.items() if member.issym()}
        assert links == {
            "/usr/bin/p2pnodes": "../lib/p2pnodes/bin/p2pnodes",
            "/usr/lib/p2pnodes/bin/python3": "../../../bin/python3",
        }

    def test_no_module_is_compiled_or_a_program(self, members: dict[str, tarfile.TarInfo]) -> None:
        assert not [name for name in members if "__pycache__" in name]
        (module,) = (member for name, member in members.items() if name.endswith("/module.py"))
        assert module.mode & 0o111 == 0

    def test_the_unit_runs_the_program_that_comes_with_it(self, unpacked: Path) -> None:
        unit = unpacked / str(service.PACKAGED_UNIT).lstrip("/")
        assert unit.read_text() == service.unit()
        assert (unpacked / service.PROGRAM.lstrip("/")).is_symlink()

    def test_zsh_finds_its_mark_in_the_first_line(self, unpacked: Path) -> None:
        lines = (unpacked / "usr/share/zsh/vendor-completions/_p2pnodes").read_text().splitlines()
        assert lines[0] == "#compdef p2pnodes"
        assert lines[-1] == '_p2pnodes_completion "$@"'

    def test_the_copyright_names_each_package_that_is_in_it(self, unpacked: Path) -> None:
        text = (unpacked / "usr/share/doc/p2pnodes/copyright").read_text()
        assert re.search(r"^Files: .*site-packages/aiohttp .*\nCopyright: .+\nLicense: Apache-2.0", text, re.MULTILINE)
        assert "\n\n\n" not in text


class TestScripts:
    """What dpkg runs."""

    @pytest.mark.parametrize("name", SCRIPTS)
    def test_a_shell_can_read_it(self, name: str) -> None:
        subprocess.run(["sh", "-n", DEBIAN / name], check=True, timeout=10)

    def test_shellcheck_finds_nothing(self) -> None:
        scripts = [*(DEBIAN / name for name in (*SCRIPTS, "build", "package")), CHECKOUT / "configs/release"]
        scripts += [Path(__file__).with_name("newcomer.sh"), *CHECKOUT.glob(".ci/run")]  # the sdist has no .ci
        ended = subprocess.run(
            [program("shellcheck"), *scripts], capture_output=True, text=True, check=False, timeout=100
        )
        assert ended.stdout == ""

    @pytest.mark.parametrize("name", SCRIPTS)
    def test_a_call_that_dpkg_never_makes_is_an_error(self, name: str) -> None:
        ended = subprocess.run(
            ["sh", DEBIAN / name, "upside-down"], capture_output=True, text=True, check=False, timeout=10
        )
        assert (ended.returncode, ended.stderr) == (1, f"{name}: called with unknown argument upside-down\n")


def test_the_same_sources_give_the_same_package(package: Path, environment: Path, tmp_path: Path) -> None:
    assert pack(environment, tmp_path).read_bytes() == package.read_bytes()


def test_its_size_is_that_of_its_files_whatever_directories_take(
    package: Path, members: dict[str, tarfile.TarInfo]
) -> None:
    size_bytes = sum(member.size for member in members.values() if member.isfile())
    assert int(dpkg("--field", package, "Installed-Size")) == -(-size_bytes // 1024)
