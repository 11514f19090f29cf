"""What is in memory stays there: no core dumps, nothing in /proc for other processes of the user."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.hardening import no_core_dumps
from p2pnodes.model.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rest of the world has no /proc and no prctl")

BEGIN = """
import ctypes, json, os, resource, sys
from p2pnodes.hardening import PR_SET_DUMPABLE, no_core_dumps
PR_GET_DUMPABLE = 3
libc = ctypes.CDLL(None)
if os.geteuid() == 0:  # root's files in /proc look the same either way
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    assert libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0  # what a program is that was started as this user
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
def state():
    return {
        "dumpable": libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        "limits": resource.getrlimit(resource.RLIMIT_CORE),
        "owners": sorted({os.stat(f"/proc/{os.getpid()}/{name}").st_uid for name in ("environ", "mem", "fd", "maps")}),
        "user": os.geteuid(),
    }
"""


def run(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, check=False)


def states() -> tuple[dict[str, Any], dict[str, Any]]:
    """A process as the system sees it, before and after."""
    ended = run("before = state(); no_core_dumps(); print(json.dumps([before, state()]))")
    assert ended.returncode == 0, ended.stderr
    before, after = json.loads(ended.stdout)
    return before, after


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where every user may write; pytest's own directories are the user's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


class TestNoCoreDumps:
    """After the call neither the kernel nor another process of the user gets at this one's memory."""

    def test_the_process_is_not_dumpable_and_its_files_in_proc_are_roots(self) -> None:
        before, after = states()
        assert (before["dumpable"], before["owners"]) == (1, [before["user"]])
        assert (after["dumpable"], after["owners"]) == (0, [0])

    def test_the_limit_is_0_and_cannot_be_raised(self) -> None:
        assert states()[1]["limits"] == [0, 0]
        ended = run("no_core_dumps(); resource.setrlimit(resource.RLIMIT_CORE, (1, 1))")
        assert b"not allowed to raise maximum limit" in ended.stderr

    def test_a_second_call_changes_nothing(self) -> None:
        ended = run("no_core_dumps(); before = state(); no_core_dumps(); assert state() == before")
        assert ended.returncode == 0, ended.stderr

    def test_the_process_can_still_look_at_itself(self) -> None:
        """As metrics do."""
        ended = run("no_core_dumps(); os.listdir('/proc/self/fd'); open('/proc/self/stat'); open('/proc/self/limits')")
        assert ended.returncode == 0, ended.stderr

    def test_a_crash_leaves_no_core(self, open_directory: Path) -> None:
        def crash(script: str) -> bool:
            """Whether the kernel says that it dumped core; a small one."""
            script = f"{BEGIN}open('/proc/self/coredump_filter', 'w').write('0'); {script}; os.abort()"
            command = [sys.executable, "-c", f"import os; os.chdir({str(open_directory)!r})\n{script}"]
            child = os.posix_spawn(sys.executable, command, os.environ)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGABRT
            return os.WCOREDUMP(status)

        if not crash("pass"):
            pytest.skip("this system dumps no cores at all")
        assert not crash("no_core_dumps()")

    def test_a_system_that_refuses_is_an_error_that_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(resource, "setrlimit", refuse)
        with pytest.raises(ConfigError, match=r"^core dumps, which would hold keys, cannot be turned off \(.*: allow "):
            no_core_dumps()
