"""What is installed: a release and the Debian package made from this checkout, and a clean Debian root.

``TESTS_INSTALL=1 python -m pytest tests/install`` does it all in some minutes; it needs root, mmdebstrap and the
network. ``TESTS_INSTALL=DIR`` takes what ``configs/debian/build --out DIR`` made before. With neither, only what needs
no root is tested.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.install.roots import Root, can_make_roots, make_base

CHECKOUT = Path(__file__).parents[2]
BUILD_S_MAX = 600.0


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with wheel, sdist, requirements.txt and the Debian package."""
    if "TESTS_INSTALL" not in os.environ:
        pytest.skip("takes minutes and installs in clean roots; set TESTS_INSTALL=1")
    if not can_make_roots():
        pytest.fail("TESTS_INSTALL is set; expected root, mmdebstrap, unshare and dpkg-deb")
    if os.environ["TESTS_INSTALL"] != "1":
        return Path(os.environ["TESTS_INSTALL"])
    out = tmp_path_factory.mktemp("built")
    subprocess.run([CHECKOUT / "configs/debian/build", "--out", out], check=True, timeout=BUILD_S_MAX)
    return out


@pytest.fixture(scope="session")
def base(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("base") / "base.tar"
    make_base(archive)
    return archive


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Root:
    return Root(tmp_path / "root", base)


def only(found: Path, pattern: str) -> Path:
    """The one file of a directory that has such a name."""
    (file,) = found.glob(pattern)
    return file
