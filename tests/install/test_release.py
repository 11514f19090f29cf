"""What a release consists of: the wheel has what the repository has, and the lock what the wheel needs.

``.ci/run`` makes a release and names its directory in ``TESTS_DIST``.
"""

import json
import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from p2pnodes import __version__
from p2pnodes.config import SHIPPED_NETWORKS
from p2pnodes.documentation import examples
from tests.install.conftest import CHECKOUT, only

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
LOCK = (CHECKOUT / "configs/requirements.lock").read_text()

WHEEL_BYTES_MAX = 4 << 20
"""A wheel that is larger has something in it that nobody meant to ship."""


def dist() -> Path:
    if "TESTS_DIST" not in os.environ:
        pytest.skip("no release was made; .ci/run does, and names its directory in TESTS_DIST")
    return Path(os.environ["TESTS_DIST"])


def tracked(*directories: str) -> set[str]:
    """Files of the repository, with those that are about to be added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *directories]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60)
    return {name for name in listed.stdout.split("\0") if name and (CHECKOUT / name).exists()}


def named(requirement: str) -> str:
    """A requirement as all tools write it."""
    found = Requirement(requirement)
    return f"{canonicalize_name(found.name)}{found.specifier}"


def pins(text: str) -> dict[str, str]:
    """Name -> version of what a lock holds."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def wheel() -> dict[str, bytes]:
    """Path in the wheel -> content."""
    with zipfile.ZipFile(only(dist(), "*.whl")) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return Parser().parsestr(wheel[f"p2pnodes-{__version__}.dist-info/METADATA"].decode())


class TestWheel:
    """What pip installs."""

    def test_it_has_every_file_of_the_package_and_no_other(self, wheel: dict[str, bytes]) -> None:
        copies = {f"p2pnodes/networks/{name}.toml" for name in SHIPPED_NETWORKS}
        copies |= {f"p2pnodes/examples/{found.name}" for found in examples()} - {
            f"p2pnodes/examples/{name}.toml" for name in SHIPPED_NETWORKS
        }
        copies.discard("p2pnodes/examples/views.sql")  # it is of the package itself, beside what reads it
        assert {name for name in wheel if ".dist-info/" not in name} == tracked("p2pnodes") | copies

    def test_its_copies_are_those_of_configs(self, wheel: dict[str, bytes]) -> None:
        copied = {name: content for name, content in wheel.items() if re.match(r"p2pnodes/(networks|examples)/", name)}
        assert copied
        for name, content in copied.items():
            assert content == (CHECKOUT / "configs" / Path(name).name).read_bytes(), name

    def test_it_is_of_a_size_that_somebody_meant(self) -> None:
        assert only(dist(), "*.whl").stat().st_size < WHEEL_BYTES_MAX

    def test_it_installs_one_program(self, wheel: dict[str, bytes]) -> None:
        text = wheel[f"p2pnodes-{__version__}.dist-info/entry_points.txt"].decode()
        assert "[console_scripts]\np2pnodes = p2pnodes.cli:main\n" in text
        assert text.count("p2pnodes.verify.") == 3, "the verifiers are found by entry points"

    def test_no_file_names_the_place_where_it_was_made(self, wheel: dict[str, bytes]) -> None:
        place = str(CHECKOUT).encode()
        assert [name for name, content in wheel.items() if place in content] == []


class TestMetadata:
    """What a package index shows, and refuses when it is wrong."""

    def test_name_version_licence_and_python_are_told(self, metadata: Message) -> None:
        assert (metadata["Name"], metadata["Version"]) == ("p2pnodes", __version__)
        assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
        assert metadata["Requires-Python"] == PROJECT["requires-python"]
        assert metadata["Summary"] == PROJECT["description"]

    def test_the_description_is_the_readme(self, metadata: Message) -> None:
        assert metadata["Description-Content-Type"] == "text/markdown"
        assert metadata.get_payload() == (CHECKOUT / "README.md").read_text()

    def test_it_needs_what_pyproject_says(self, metadata: Message) -> None:
        needed = {named(text) for text in metadata.get_all("Requires-Dist", []) if ";" not in text}
        assert needed == set(map(named, PROJECT["dependencies"]))


class TestSdist:
    """What others build from, and test."""

    def test_it_has_package_tests_and_configuration(self) -> None:
        with tarfile.open(only(dist(), "*.tar.gz")) as opened:
            names = {name.split("/", 1)[1] for name in opened.getnames()}
        wanted = tracked("p2pnodes", "tests", "configs") | {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"}
        assert wanted - names == set()
        assert names - wanted <= {"PKG-INFO", ".gitignore"}


class TestLock:
    """The versions that an installation gets."""

    def test_it_holds_what_the_wheel_needs_and_no_tool(self) -> None:
        locked = pins((dist() / "requirements.txt").read_text())
        assert {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]} <= locked.keys()
        assert locked.keys().isdisjoint({"pytest", "mypy", "ruff", "uv", "hypothesis", "playwright"})

    def test_it_is_part_of_the_whole_lock(self) -> None:
        text = (dist() / "requirements.txt").read_text()
        assert set(text.splitlines()) <= set(LOCK.splitlines())
        assert text.count("--hash=") > len(pins(text))


class TestBillOfMaterials:
    """What an installation consists of, for those who look for a vulnerable version."""

    @pytest.fixture
    def bill(self) -> Any:
        return json.loads(only(dist(), "*.cdx.json").read_text())

    def test_it_is_of_this_version_and_licence(self, bill: Any) -> None:
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
        told = bill["metadata"]["component"]
        assert (told["name"], told["version"]) == ("p2pnodes", __version__)
        assert [each["license"]["id"] for each in told["licenses"]] == ["Apache-2.0"]

    def test_it_names_every_locked_package_with_version_and_hashes(self, bill: Any) -> None:
        text = (dist() / "requirements.txt").read_text()
        named = {canonicalize_name(each["name"]): each["version"] for each in bill["components"]}
        assert named == pins(text)
        assert len(bill["components"]) == len(named)
        for each in bill["components"]:
            assert each["purl"] == f"pkg:pypi/{canonicalize_name(each['name'])}@{each['version']}"
        hashes = {
            found["content"]
            for each in bill["components"]
            for reference in each["externalReferences"]
            for found in reference["hashes"]
        }
        assert hashes == set(re.findall(r"--hash=sha256:(\w+)", text))

    def test_the_same_commit_gives_the_same(self, bill: Any) -> None:
        assert "serialNumber" not in bill
        assert str(CHECKOUT) not in json.dumps(bill)


class TestLockOfTheAudit:
    """``configs/audit.lock``: what looks at the project from outside runs with the versions that users get."""

    def test_it_has_the_tools_and_every_locked_version(self) -> None:
        locked, tools = pins(LOCK), pins((CHECKOUT / "configs/audit.lock").read_text())
        for requirement in map(Requirement, PROJECT["optional-dependencies"]["audit"]):
            assert requirement.specifier.contains(tools[canonicalize_name(requirement.name)])
        needed = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
        assert needed <= tools.keys()
        assert {name: version for name, version in tools.items() if name in locked and locked[name] != version} == {}


def test_what_makes_the_release_is_locked_too() -> None:
    locked = pins((CHECKOUT / "configs/build.lock").read_text())
    backend = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in map(Requirement, [*backend, "cyclonedx-bom"]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])
