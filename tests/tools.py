"""The tools that look at this project from outside, in an environment of their own: ``configs/audit.lock``."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

LOCK: Final = Path(__file__).parents[1] / "configs/audit.lock"

INSTALL_S_MAX: Final = 600.0


@contextmanager
def tools(given: Path | None = None) -> Iterator[Path]:
    """An environment that has them, for as long as the block lasts; it needs uv and a package index.

    Args:
        given: One that was made from the lock before.
    """
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="p2pnodes-tools-") as temporary:
        environment = Path(temporary)
        uv = [sys.executable, "-m", "uv", "--quiet"]
        for command in (
            [*uv, "venv", "--clear", "--python", sys.executable, str(environment)],
            [*uv, "pip", "install", "--python", str(environment), "--require-hashes", "-r", str(LOCK)],
        ):
            subprocess.run(command, check=True, timeout=INSTALL_S_MAX)
        yield environment


def made_tools() -> Path:
    """The environment that was made for the tests; without it the test is skipped."""
    if "TESTS_AUDIT" not in os.environ:
        pytest.skip("needs an environment of configs/audit.lock; .ci/run makes one, and names it in TESTS_AUDIT")
    return Path(os.environ["TESTS_AUDIT"])
